//! Trainings on labels of voxels and on target values.

use std::ops::ControlFlow;
use std::path::Path;

use candle_core::{DType, Device};
use steer3d_dataset::{
    Dataset, DatasetMeta, DatasetWriter, Grids, Item, Provenance, Split, Storage, Tasks, Turns,
};
use steer3d_nn::{ModelConfig, Network};
use steer3d_so3::Stream;
use steer3d_train::{
    Balance, ClassWeights, EpochMetrics, LossConfig, PatchConfig, TrainConfig, TrainError, Trained,
    train,
};
use steer3d_volume::{Grid, Volume};

const N: usize = 9;

/// A blob of no class, its position from the centre as a target, and its voxels as labels.
fn blobs(folder: &Path) -> Dataset {
    let path = folder.join("blobs.h5");
    let meta = DatasetMeta {
        name: "blobs".into(),
        class_names: vec![],
        channels: 1,
        grids: Grids::One,
        dims: [N; 3],
        voxel_size: [1.0; 3],
        unit: "voxel".into(),
        irreps: "1x0".parse().unwrap(),
        storage: Storage::F32,
        provenance: Provenance::default(),
        voxeliser: None,
        mesh_voxeliser: None,
        recipe: None,
    };
    let tasks = Tasks {
        targets: Some("1x1".parse().unwrap()),
        voxel_classes: vec!["empty".into(), "blob".into()],
        ..Tasks::default()
    };
    let mut writer = DatasetWriter::create(&path, meta).unwrap().with_tasks(tasks).unwrap();
    let mut stream = Stream::new(0, "blobs", &[]);
    for item in 0..24 {
        let at = [0; 3].map(|_| 3.0 * (stream.uniform() - 0.5));
        let value = |i: usize| {
            let p = [i % N, i / N % N, i / N / N].map(|k| k as f64 - (N - 1) as f64 / 2.0);
            let squares: f64 = p.iter().zip(at).map(|(a, b)| (a - b).powi(2)).sum();
            (-squares / 4.0).exp() as f32
        };
        let values: Vec<f32> = (0..N.pow(3)).map(value).collect();
        let labels: Vec<u8> = values.iter().map(|v| u8::from(*v > 0.4)).collect();
        let grid = Grid::new([N; 3], [1.0; 3]).unwrap();
        let volume = Volume::centred(values, 1, grid).unwrap();
        writer
            .push(&Item {
                volume: Some(&volume),
                split: if item < 16 { Split::Train } else { Split::Validation },
                id: &format!("blob-{item}"),
                targets: &at,
                voxel_labels: &labels,
                ..Item::default()
            })
            .unwrap();
    }
    writer.finish().unwrap();
    Dataset::open(&path).unwrap()
}

fn model(head: &str) -> ModelConfig {
    let text = format!(
        "kind = 'steerable'\ninput = '1x0'\ninput_scale = 5.0\n{head}\n\
         kernel = {{ family = 'gaussian_jets', order = 2 }}\n\
         blocks = [{{ fields = '4x0+3x1', size = 5 }}, {{ fields = '4x0+3x1', size = 5 }}]\n"
    );
    ModelConfig::from_toml(&text).unwrap()
}

fn trained(
    dataset: &Dataset,
    model: &ModelConfig,
    loss: LossConfig,
) -> Result<Trained, TrainError> {
    let network = Network::new(model, 0, DType::F32, &Device::Cpu)?;
    let augment = Some(Turns::So3 { fraction: 1.0 });
    let config = TrainConfig { epochs: 25, batch_size: 4, loss, augment, ..TrainConfig::default() };
    train(&network, dataset, &config, None, &mut |_| ControlFlow::Continue(()))
}

const VECTOR: &str = "head = { field = { irreps = '1x1', pooled = true } }";

#[test]
fn a_vector_is_learned_from_turned_items() {
    let folder = tempfile::tempdir().unwrap();
    let dataset = blobs(folder.path());
    for huber in [None, Some(0.5)] {
        let loss = LossConfig { huber, ..LossConfig::default() };
        let trained = trained(&dataset, &model(VECTOR), loss).unwrap();
        let best = trained.epochs.iter().rfind(|e| e.best).unwrap();
        // The mean square of a component of the positions is 0.75.
        assert!(best.validation_loss.unwrap() < 0.15, "{:?}", trained.epochs);
        assert_eq!((best.train_accuracy, best.validation_accuracy), (None, None));
        let lowest = trained.epochs.iter().filter_map(|e| e.validation_loss).fold(9.0, f64::min);
        assert_eq!(best.validation_loss, Some(lowest));
    }
}

#[test]
fn labels_of_voxels_are_learned_from_turned_items() {
    let folder = tempfile::tempdir().unwrap();
    let dataset = blobs(folder.path());
    let voxels = model("classes = 2\nhead = 'voxels'");
    let balanced = Some(ClassWeights::Of(Balance::Balanced));
    let weighted = LossConfig { class_weights: balanced, dice: 1.0, ..LossConfig::default() };
    // With balanced classes a voxel at the edge of a blob is rather taken for blob.
    for (loss, least) in [(LossConfig::default(), 0.985), (weighted, 0.95)] {
        let trained = trained(&dataset, &voxels, loss).unwrap();
        let best = trained.epochs.iter().rfind(|e| e.best).unwrap();
        // One voxel of 25 is in a blob.
        assert!(best.validation_accuracy.unwrap() > least, "{:?}", trained.epochs);
    }
}

/// Blobs in volumes of several shapes, each somewhere else, with labels of voxels.
fn blobs_of_several_shapes(folder: &Path) -> Dataset {
    let path = folder.join("shapes.h5");
    let grid = Grid::new([N; 3], [1.0; 3]).unwrap();
    let meta = DatasetMeta::scalars(1, &grid).unwrap();
    let meta = DatasetMeta { name: "shapes".into(), grids: Grids::Each, ..meta };
    let voxel_classes = vec!["empty".into(), "blob".into()];
    let tasks = Tasks { voxel_classes, ..Tasks::default() };
    let mut writer = DatasetWriter::create(&path, meta).unwrap().with_tasks(tasks).unwrap();
    let mut stream = Stream::new(5, "shapes", &[]);
    for item in 0..20 {
        let dims = [0; 3].map(|_| 9 + stream.below(12));
        let at = dims.map(|n| 2.0 + stream.uniform() * (n - 5) as f64);
        let [d, h, w] = dims;
        let value = |i: usize| {
            let p = [i / (h * w), i / w % h, i % w];
            let squares: f64 = (0..3).map(|axis| (p[axis] as f64 - at[axis]).powi(2)).sum();
            (-squares / 4.0).exp() as f32
        };
        let values: Vec<f32> = (0..d * h * w).map(value).collect();
        let labels: Vec<u8> = values.iter().map(|v| u8::from(*v > 0.4)).collect();
        let volume = Volume::centred(values, 1, Grid::new(dims, [1.0; 3]).unwrap()).unwrap();
        let item = Item {
            volume: Some(&volume),
            split: if item < 14 { Split::Train } else { Split::Validation },
            id: &format!("blob-{item}"),
            voxel_labels: &labels,
            ..Item::default()
        };
        writer.push(&item).unwrap();
    }
    writer.finish().unwrap();
    Dataset::open(&path).unwrap()
}

/// In boxes, and whole in batches that are padded; validated on whole volumes. Twice the same.
#[test]
fn volumes_of_several_shapes_are_learned() {
    let folder = tempfile::tempdir().unwrap();
    let dataset = blobs_of_several_shapes(folder.path());
    let model = model("classes = 2\nhead = 'voxels'");
    let balanced = Some(ClassWeights::Of(Balance::Balanced));
    let loss = LossConfig { class_weights: balanced, dice: 1.0, ..LossConfig::default() };
    let augment = Some(Turns::So3 { fraction: 1.0 });
    let patch = PatchConfig { size: [8, 7, 9], foreground: 0.7 };
    for (patch, augment) in [(Some(patch), augment), (Some(patch), None), (None, augment)] {
        let config = TrainConfig {
            epochs: 12,
            batch_size: 4,
            loss: loss.clone(),
            patch,
            augment,
            ..TrainConfig::default()
        };
        let train = || {
            let network = Network::new(&model, 0, DType::F32, &Device::Cpu).unwrap();
            let watch = &mut |_| ControlFlow::Continue(());
            train(&network, &dataset, &config, None, watch).unwrap().epochs
        };
        let (epochs, again) = (train(), train());
        let losses = |epochs: &[EpochMetrics]| -> Vec<_> {
            epochs.iter().map(|e| (e.train_loss, e.validation_loss)).collect()
        };
        assert_eq!(losses(&epochs), losses(&again));
        let best = epochs.iter().rfind(|e| e.best).unwrap();
        assert!(best.validation_accuracy.unwrap() > 0.95, "{patch:?} {epochs:?}");
    }
    let bad = [([0, 8, 8], 0.5, "patch.size"), ([8; 3], 1.5, "patch.foreground")];
    for (size, foreground, field) in bad {
        let patch = Some(PatchConfig { size, foreground });
        let config = TrainConfig { patch, ..TrainConfig::default() };
        assert!(config.check().unwrap_err().to_string().contains(field));
    }
}

#[test]
fn a_head_that_does_not_fit_the_data_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let dataset = blobs(folder.path());
    let message = |head: &str| {
        trained(&dataset, &model(head), LossConfig::default()).unwrap_err().to_string()
    };
    let classes =
        "kind = 'plain'\nchannels = 1\nclasses = 3\nblocks = [{ channels = 3, size = 3 }]";
    let classes = ModelConfig::from_toml(classes).unwrap();
    let found = trained(&dataset, &classes, LossConfig::default()).unwrap_err().to_string();
    assert!(found.contains("takes 3 classes but dataset blobs has no classes"), "{found}");
    let found = message("classes = 3\nhead = 'voxels'");
    assert!(found.contains("takes 3 labels of voxels but dataset blobs has 2"), "{found}");
    let found = message("head = { field = { irreps = '2x1', pooled = true } }");
    assert!(found.contains("targets 2x1") && found.contains("targets 1x1"), "{found}");
    let found = message(&VECTOR.replace("true", "false"));
    assert!(found.contains("no fields as targets"), "{found}");
}
