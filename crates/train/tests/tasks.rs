//! Trainings on labels of voxels and on target values.

use std::ops::ControlFlow;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use steer3d_dataset::{
    Batch, Dataset, DatasetMeta, DatasetWriter, Grids, Item, Provenance, RandomPatch, Split,
    Storage, Tasks, Turns,
};
use steer3d_nn::{Mode, ModelConfig, Network};
use steer3d_ranks::Rank;
use steer3d_so3::Stream;
use steer3d_train::loss::SoftDice;
use steer3d_train::{
    Balance, ClassWeights, EpochMetrics, LossConfig, Monitor, PatchConfig, TrainConfig, TrainError,
    TrainEvent, Trained, train,
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

const VOXELS: &str = "classes = 2\nhead = 'voxels'";
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

/// Blobs in volumes of several shapes, each somewhere else, with labels of voxels, whose edges are these in turn.
fn blobs_of_several_shapes(folder: &Path, edges: &[[f64; 3]]) -> Dataset {
    let path = folder.join("shapes.h5");
    let grid = Grid::new([N; 3], edges[0]).unwrap();
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
        let edges = edges[item % edges.len()];
        let value = |i: usize| {
            let p = [i / (h * w), i / w % h, i % w];
            let along = |axis: usize| (p[axis] as f64 - at[axis]) * edges[2 - axis];
            let squares: f64 = (0..3).map(|axis| along(axis).powi(2)).sum();
            (-squares / 4.0).exp() as f32
        };
        let values: Vec<f32> = (0..d * h * w).map(value).collect();
        let labels: Vec<u8> = values.iter().map(|v| u8::from(*v > 0.4)).collect();
        let volume = Volume::centred(values, 1, Grid::new(dims, edges).unwrap()).unwrap();
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
    let dataset = blobs_of_several_shapes(folder.path(), &[[1.0; 3]]);
    let model = model(VOXELS);
    let balanced = Some(ClassWeights::Of(Balance::Balanced));
    let loss = LossConfig { class_weights: balanced, dice: 1.0, ..LossConfig::default() };
    let augment = Some(Turns::So3 { fraction: 1.0 });
    let patch = PatchConfig { foreground: 0.7, ..PatchConfig::new([8, 7, 9]) };
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
        let patch = Some(PatchConfig { foreground, ..PatchConfig::new(size) });
        let config = TrainConfig { patch, ..TrainConfig::default() };
        assert!(config.check().unwrap_err().to_string().contains(field));
    }
}

fn shapes(dataset: &Dataset, split: Split) -> Vec<[usize; 3]> {
    dataset.indices(split).into_iter().map(|item| dataset.grid(item).dims()).collect()
}

/// An epoch of boxes that overlap has all boxes of all volumes.
#[test]
fn boxes_that_overlap_are_learned_in_an_order_of_the_seed() {
    let folder = tempfile::tempdir().unwrap();
    let dataset = blobs_of_several_shapes(folder.path(), &[[1.0; 3]]);
    let patch = PatchConfig { overlap: Some(0.25), ..PatchConfig::new([8, 8, 9]) };
    let losses = |seed: u64, patch: PatchConfig| {
        let patch = Some(patch);
        let config =
            TrainConfig { epochs: 2, batch_size: 5, seed, patch, ..TrainConfig::default() };
        let network = Network::new(&model(VOXELS), 0, DType::F32, &Device::Cpu).unwrap();
        let mut losses = vec![];
        let trained = train(&network, &dataset, &config, None, &mut |event| {
            if let TrainEvent::Step { loss, .. } = event {
                losses.push(loss);
            }
            ControlFlow::Continue(())
        });
        trained.map(|_| losses).map_err(|error| error.to_string())
    };
    let found = losses(0, patch).unwrap();
    // Six voxels from one box to the next.
    let boxes = |dims: [usize; 3]| {
        let along = |axis: usize| 1 + (dims[axis] - patch.size[axis]).div_ceil(6);
        (0..3).map(along).product::<usize>()
    };
    let boxes: usize = shapes(&dataset, Split::Train).into_iter().map(boxes).sum();
    assert!(boxes > 14);
    assert_eq!(found.len(), 2 * boxes.div_ceil(5));
    assert_eq!(losses(0, patch).unwrap(), found);
    assert_ne!(losses(1, patch).unwrap(), found);
    let large = losses(0, PatchConfig { size: [8, 8, 40], ..patch }).unwrap_err();
    assert!(large.contains("patch.size") && large.contains("[8, 8, 40]"), "{large}");
    for overlap in [-0.1, 1.0, f64::NAN] {
        let message = losses(0, PatchConfig { overlap: Some(overlap), ..patch }).unwrap_err();
        assert!(message.contains("patch.overlap: expected a share"), "{message}");
    }
    let both = losses(0, PatchConfig { foreground: 0.5, ..patch }).unwrap_err();
    assert!(both.contains("patch.foreground") && both.contains("at random"), "{both}");
}

/// Loss and accuracy of a training on whole volumes are those of the voxels of the volumes, not of what is put around them.
#[test]
fn padded_voxels_count_in_no_loss_of_a_training() {
    let folder = tempfile::tempdir().unwrap();
    let dataset = blobs_of_several_shapes(folder.path(), &[[1.0; 3]]);
    let model = model(&format!("{VOXELS}\nnorm = 'instance'"));
    let network = Network::new(&model, 3, DType::F64, &Device::Cpu).unwrap();
    let config =
        TrainConfig { epochs: 1, batch_size: 14, learning_rate: 1e-30, ..TrainConfig::default() };
    let watch = &mut |_| ControlFlow::Continue(());
    let trained = train(&network, &dataset, &config, None, watch).unwrap();
    let batch = Batch::read(&dataset, &dataset.indices(Split::Train), None).unwrap();
    let Batch { values, voxel_labels, dims: [d, h, w], .. } = batch;
    let x = Tensor::from_vec(values, (14, 1, d, h, w), &Device::Cpu).unwrap();
    let logits = network.forward(&x.to_dtype(DType::F64).unwrap(), Mode::Evaluate).unwrap();
    let logits: Vec<f64> = logits.flatten_all().unwrap().to_vec1().unwrap();
    let voxels = d * h * w;
    let (mut loss, mut right, mut count) = (0.0, 0.0, 0);
    for (i, label) in voxel_labels.into_iter().enumerate() {
        let Some(label) = label else { continue };
        let at = |class: usize| logits[(i / voxels * 2 + class) * voxels + i % voxels];
        let other = at(usize::from(1 - label)) - at(usize::from(label));
        loss += other.exp().ln_1p();
        right += f64::from(u8::from(other < 0.0));
        count += 1;
    }
    let all: usize =
        shapes(&dataset, Split::Train).iter().map(|e| e.iter().product::<usize>()).sum();
    assert!(count == all && all < 14 * voxels, "{count} {all}");
    let found = trained.epochs[0];
    assert!((found.train_loss - loss / count as f64).abs() < 1e-9, "{found:?}");
    assert!((found.train_accuracy.unwrap() - right / count as f64).abs() < 1e-9, "{found:?}");
}

#[test]
fn the_best_epoch_may_be_that_of_the_highest_dice() {
    let folder = tempfile::tempdir().unwrap();
    let dataset = blobs(folder.path());
    let network = Network::new(&model(VOXELS), 0, DType::F32, &Device::Cpu).unwrap();
    let config = TrainConfig {
        epochs: 40,
        batch_size: 4,
        loss: LossConfig { dice: 1.0, ..LossConfig::default() },
        monitor: Monitor::Dice,
        patience: Some(4),
        ..TrainConfig::default()
    };
    let watch = &mut |_| ControlFlow::Continue(());
    let epochs = train(&network, &dataset, &config, None, watch).unwrap().epochs;
    let best = epochs.iter().rfind(|e| e.best).unwrap();
    let highest = epochs.iter().filter_map(|e| e.validation_dice).fold(0.0, f64::max);
    assert!(best.validation_dice == Some(highest) && highest > 0.3, "{epochs:?}");
    assert_eq!(epochs.len(), 40.min(best.epoch + 4));
    // That of the network that is kept, of all voxels together.
    let batch = Batch::read(&dataset, &dataset.indices(Split::Validation), None).unwrap();
    let x = Tensor::from_vec(batch.values, (8, 1, N, N, N), &Device::Cpu).unwrap();
    let answers = network.folded().unwrap().forward(&x).unwrap().argmax(1).unwrap();
    let answers: Vec<u32> = answers.flatten_all().unwrap().to_vec1().unwrap();
    let (mut both, mut either) = (0.0, 0.0);
    for (answer, label) in answers.into_iter().zip(batch.voxel_labels) {
        let is_blob = [answer == 1, label == Some(1)];
        both += f64::from(u8::from(is_blob == [true; 2]));
        either += is_blob.map(|is| f64::from(u8::from(is))).iter().sum::<f64>();
    }
    assert!((highest - 2.0 * both / either).abs() < 5e-3, "{highest} {both} {either}");
}

#[test]
fn dice_tells_no_best_epoch_where_no_voxels_have_classes() {
    let folder = tempfile::tempdir().unwrap();
    let dataset = blobs(folder.path());
    let message = |head: &str, loss: LossConfig| {
        let network = Network::new(&model(head), 0, DType::F32, &Device::Cpu).unwrap();
        let config = TrainConfig { monitor: Monitor::Dice, loss, ..TrainConfig::default() };
        let watch = &mut |_| ControlFlow::Continue(());
        train(&network, &dataset, &config, None, watch).unwrap_err().to_string()
    };
    let found = message(VECTOR, LossConfig::default());
    assert!(found.contains("monitor: \"dice\" is for networks that label voxels"), "{found}");
    let found = message(VOXELS, LossConfig { ignore: Some(1), ..LossConfig::default() });
    assert!(found.contains("monitor: \"dice\" needs a class beside"), "{found}");
}

/// The loss of a first step is the mean over the volumes, each by the network for its voxels; so is that of the validation.
#[test]
fn a_steerable_network_sees_lengths_and_a_plain_one_voxels() {
    let folder = tempfile::tempdir().unwrap();
    let sizes = [[1.0; 3], [1.0, 1.0, 1.6], [0.7, 1.0, 1.0]];
    let dataset = blobs_of_several_shapes(folder.path(), &sizes);
    let plain = "kind = 'plain'\nchannels = 1\nclasses = 2\nhead = 'voxels'\n\
                 blocks = [{ channels = 3, size = 3 }, { channels = 3, size = 3 }]";
    for (model, ratios) in [
        (model(&format!("{VOXELS}\nnorm = 'instance'")), sizes),
        (ModelConfig::from_toml(plain).unwrap(), [[1.0; 3]; 3]),
    ] {
        let network = Network::new(&model, 3, DType::F32, &Device::Cpu).unwrap();
        let config = TrainConfig {
            epochs: 1,
            batch_size: 14,
            learning_rate: 1e-30,
            patch: Some(PatchConfig { foreground: 0.0, ..PatchConfig::new([9; 3]) }),
            ..TrainConfig::default()
        };
        let epochs = {
            let watch = &mut |_| ControlFlow::Continue(());
            train(&network, &dataset, &config, None, watch).unwrap().epochs
        };
        let patch = RandomPatch { seed: config.seed, epoch: 1, dims: [9; 3], foreground: 0.0 };
        let (mut of_boxes, mut of_volumes) = (0.0, vec![]);
        for split in [Split::Train, Split::Validation] {
            for item in dataset.indices(split) {
                let batch = match split {
                    Split::Train => Batch::read_patches(&dataset, &[item], None, &patch),
                    _ => Batch::read(&dataset, &[item], None),
                };
                let Batch { values, voxel_labels, dims: [d, h, w], .. } = batch.unwrap();
                let x = Tensor::from_vec(values, (1, 1, d, h, w), &Device::Cpu).unwrap();
                let ratios = ratios[item % 3];
                let logits = match ratios {
                    [1.0, 1.0, 1.0] => network.forward(&x, Mode::Evaluate).unwrap(),
                    _ => network.at_spacing(ratios).unwrap().forward(&x, Mode::Evaluate).unwrap(),
                };
                let rows = logits.reshape((2, d * h * w)).unwrap().t().unwrap();
                let labels = voxel_labels.into_iter().flatten().map(u32::from);
                let labels = Tensor::from_iter(labels, x.device());
                let loss =
                    candle_nn::loss::cross_entropy(&rows.contiguous().unwrap(), &labels.unwrap());
                let loss = f64::from(loss.unwrap().to_scalar::<f32>().unwrap());
                match split {
                    Split::Train => of_boxes += loss / 14.0,
                    _ => of_volumes.push((loss, (d * h * w) as f64)),
                }
            }
        }
        let voxels: f64 = of_volumes.iter().map(|(_, voxels)| voxels).sum();
        let validation = of_volumes.iter().map(|(loss, of)| loss * of / voxels).sum::<f64>();
        let EpochMetrics { train_loss, validation_loss, .. } = epochs[0];
        assert!((train_loss - of_boxes).abs() < 1e-5, "{train_loss} {of_boxes}");
        let found = validation_loss.unwrap();
        assert!((found - validation).abs() < 1e-5, "{found} {validation}");
    }
}

/// Dice over a batch and of each item, of which some parts have no voxel that counts: these count for next to nothing.
#[test]
fn dice_is_that_of_all_ranks() {
    let folder = tempfile::tempdir().unwrap();
    blobs(folder.path());
    let path = &folder.path().join("blobs.h5");
    let losses = |ranks: usize, per_item: bool| -> Vec<[f64; 3]> {
        let train = |rank: Rank| {
            rank.run(|| {
                let soft_dice = SoftDice { background: false, squares: false, per_item };
                let loss =
                    LossConfig { dice: 1.0, soft_dice, ignore: Some(0), ..LossConfig::default() };
                let config = TrainConfig {
                    epochs: 4,
                    batch_size: 4,
                    loss,
                    patch: Some(PatchConfig { foreground: 0.2, ..PatchConfig::new([3; 3]) }),
                    ..TrainConfig::default()
                };
                let network = Network::new(&model(VOXELS), 0, DType::F64, &Device::Cpu)?;
                let dataset = Dataset::open(path)?;
                train(&network, &dataset, &config, None, &mut |_| ControlFlow::Continue(()))
            })
        };
        std::thread::scope(|scope| {
            let start = |rank: Rank| scope.spawn(move || train(rank).unwrap().epochs);
            let threads: Vec<_> = Rank::threads(ranks).into_iter().map(start).collect();
            let all: Vec<_> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
            let of_epoch = |e: &EpochMetrics| {
                [e.train_loss, e.validation_loss.unwrap(), e.validation_dice.unwrap()]
            };
            all[0].iter().map(of_epoch).collect()
        })
    };
    for per_item in [false, true] {
        let expected = losses(1, per_item);
        for ranks in [2, 4] {
            let found = losses(ranks, per_item);
            for (found, expected) in found.iter().flatten().zip(expected.iter().flatten()) {
                assert!((found - expected).abs() <= 1e-6 * expected, "{ranks}: {found} {expected}");
            }
        }
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
