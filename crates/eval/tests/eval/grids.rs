//! Evaluations of items with grids of their own.

use std::path::Path;

use candle_core::{DType, Device, Tensor};
use steer3d_dataset::{Dataset, DatasetMeta, DatasetWriter, Grids, Item, Split, Tasks};
use steer3d_eval::{Models, NetworkPredictor, Prediction, Predictor, Protocol, Windows};
use steer3d_nn::checkpoint::{FORMAT, Meaning, ModelCard, Origin, save};
use steer3d_nn::{ModelConfig, Network, Normalisation, SteerableConfig};
use steer3d_so3::Stream;
use steer3d_volume::{Grid, Volume};

use crate::common::{quick, run};

const SHAPES: [([usize; 3], [f64; 3]); 3] =
    [([7, 9, 8], [1.0; 3]), ([7, 9, 8], [1.0, 1.0, 2.0]), ([10, 6, 11], [1.5, 1.0, 1.0])];

/// Items of these shapes, with classes and labels of voxels; with one grid for all if there is one item.
fn dataset(path: &Path, shapes: &[usize]) -> Dataset {
    let grid = |shape: usize| Grid::new(SHAPES[shape].0, SHAPES[shape].1).unwrap();
    let grids = if shapes.len() == 1 { Grids::One } else { Grids::Each };
    let meta = DatasetMeta::scalars(1, &grid(shapes[0])).unwrap();
    let class_names = ["a", "b"].map(String::from).to_vec();
    let meta = DatasetMeta { name: "shapes".into(), class_names, grids, ..meta };
    let voxel_classes = ["empty", "low", "high"].map(String::from).to_vec();
    let tasks = Tasks { voxel_classes, ..Tasks::default() };
    let mut writer = DatasetWriter::create(path, meta).unwrap().with_tasks(tasks).unwrap();
    for &shape in shapes {
        let mut stream = Stream::new(3, "values", &[shape as u64]);
        let grid = grid(shape);
        let values: Vec<f32> = (0..grid.voxels()).map(|_| stream.normal() as f32).collect();
        let labels: Vec<u8> =
            values.iter().map(|&v| u8::from(v > 0.3) + u8::from(v > 1.0)).collect();
        let volume = Volume::centred(values, 1, grid).unwrap();
        let item = Item {
            volume: Some(&volume),
            label: shape as u32 % 2,
            split: Split::Test,
            id: &format!("shape {shape}"),
            voxel_labels: &labels,
            ..Item::default()
        };
        writer.push(&item).unwrap();
    }
    writer.finish().unwrap();
    Dataset::open(path).unwrap()
}

fn network(head: &str, classes: usize) -> Network {
    let text = format!(
        "kind = 'steerable'\ninput = '1x0'\nclasses = {classes}\nhead = '{head}'\n\
         kernel = {{ family = 'gaussian_jets', order = 2 }}\n\
         blocks = [{{ fields = '4x0+2x1', size = 3 }}, {{ fields = '4x0', size = 3 }}]\n"
    );
    let config = ModelConfig::from_toml(&text).unwrap();
    Network::new(&config, 1, DType::F32, &Device::Cpu).unwrap()
}

fn named(network: Network) -> NetworkPredictor {
    NetworkPredictor::new("n".into(), network).unwrap()
}

/// The first item of a dataset is turned by the same rotations whatever the others are: its answers are those of a
/// dataset of it alone, by the network for its voxels.
#[test]
fn every_item_is_answered_on_its_own_grid() {
    let folder = tempfile::tempdir().unwrap();
    for (head, classes) in [("voxels", 3), ("classes", 2)] {
        let model = named(network(head, classes));
        for batch in [1, 5] {
            let protocol = Protocol { batch, translations: vec![1.5], ..quick() };
            for (i, rest) in [[1, 2], [2, 0], [0, 1]].into_iter().enumerate() {
                let alone = dataset(&folder.path().join("alone.h5"), &[i]);
                let all = dataset(&folder.path().join("all.h5"), &[i, rest[0], rest[1]]);
                assert_eq!(all.meta().grids, Grids::Each);
                let of_first = |model: &NetworkPredictor, data: &Dataset| -> Vec<Prediction> {
                    let report = run(model, data, &protocol);
                    let first = report.predictions.into_iter().filter(|p| p.item == 0);
                    first.collect()
                };
                let its_own = named(network(head, classes).at_spacing(SHAPES[i].1).unwrap());
                let (alone, first) = (of_first(&its_own, &alone), of_first(&model, &all));
                assert!(alone.len() > 10 && alone.len() == first.len());
                for (a, b) in alone.iter().zip(&first) {
                    let gap = a.answer.iter().zip(&b.answer).map(|(a, b)| (a - b).abs());
                    assert!(gap.fold(0.0, f64::max) < 1e-4, "{head} {batch} {a:?} {b:?}");
                }
            }
        }
    }
}

#[test]
fn networks_of_local_answers_give_planes_of_what_is_large() {
    let model = named(network("voxels", 3));
    assert!(model.gives_planes([130; 3]) && !model.gives_planes([80; 3]));
    // Of many classes the logits are large, though the volume is not.
    assert!(named(network("voxels", 40)).gives_planes([80; 3]));
    assert!(!named(network("classes", 2)).gives_planes([130; 3]));
    // Planes so large that two are computed at once.
    let dims = [3, 300, 450];
    let mut stream = Stream::new(4, "planes", &[]);
    let values: Vec<f32> = (0..dims.iter().product()).map(|_| stream.normal() as f32).collect();
    let x = Tensor::from_vec(values, (1, 1, dims[0], dims[1], dims[2]), &Device::Cpu).unwrap();
    let mut parts = vec![];
    let mut sink = |first: usize, part: &Tensor| {
        assert_eq!(first, 2 * parts.len());
        parts.push(part.clone());
        Ok(())
    };
    model.logits_by_planes(&x, None, &mut sink).unwrap();
    assert_eq!(parts.iter().map(|part| part.dims()[2]).collect::<Vec<_>>(), [2, 1]);
    let values = |x: &Tensor| x.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let found = values(&Tensor::cat(&parts, 2).unwrap());
    let whole = values(&model.logits(&x).unwrap());
    let gap = found.iter().zip(&whole).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(gap < 1e-4, "{gap}");
}

/// A network whose norms depend on the whole volume gives all at once, or takes windows.
#[test]
fn networks_of_answers_that_are_not_local_are_evaluated_as_a_whole_or_in_windows() {
    let instance = || {
        let ModelConfig::Steerable(config) = network("voxels", 3).config().clone() else {
            panic!()
        };
        let config = SteerableConfig { norm: Normalisation::Instance, ..config };
        named(Network::new(&config.into(), 1, DType::F32, &Device::Cpu).unwrap())
    };
    let mut stream = Stream::new(4, "instance", &[]);
    let dims = [7, 6, 5];
    let values: Vec<f32> = (0..dims.iter().product()).map(|_| stream.normal() as f32).collect();
    let x = Tensor::from_vec(values, (1, 1, dims[0], dims[1], dims[2]), &Device::Cpu).unwrap();
    let whole = instance().logits(&x).unwrap();
    let gap = |model: &NetworkPredictor| {
        let mut parts = vec![];
        let mut sink = |_: usize, part: &Tensor| {
            parts.push(part.clone());
            Ok(())
        };
        model.logits_by_planes(&x, None, &mut sink).unwrap();
        let found = Tensor::cat(&parts, 2).unwrap();
        let gap = (found - &whole).unwrap().abs().unwrap().max_all().unwrap();
        gap.to_scalar::<f32>().unwrap()
    };
    assert!(!instance().gives_planes([130; 3]) && gap(&instance()) == 0.0);
    let windows = |size| Windows { size, overlap: 0.5 };
    let in_windows = |size| instance().with_windows(windows(size)).unwrap();
    assert!(!in_windows([7; 3]).gives_planes(dims) && gap(&in_windows([7; 3])) < 1e-5);
    assert!(in_windows([4; 3]).gives_planes(dims) && gap(&in_windows([4; 3])) > 1e-3);
    assert_ne!(in_windows([4; 3]).fingerprint(), instance().fingerprint());
    let folder = tempfile::tempdir().unwrap();
    let data = dataset(&folder.path().join("all.h5"), &[0, 1, 2]);
    for model in [instance(), in_windows([4; 3])] {
        assert!(!run(&model, &data, &quick()).predictions.is_empty());
    }
    for (head, size, problem) in
        [("classes", [4; 3], "whole volumes"), ("voxels", [4, 0, 4], "at least one voxel")]
    {
        let error = named(network(head, 2)).with_windows(windows(size)).unwrap_err();
        assert!(error.to_string().contains(problem), "{error}");
    }
}

#[test]
fn models_of_one_shape_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let data = dataset(&folder.path().join("all.h5"), &[0, 1]);
    let predictions = vec![folder.path().to_owned()];
    let models = Models { predictions, ..Models::default() };
    let found = models.open(&data, &Device::Cpu, &|_| ()).map(|_| ()).unwrap_err().to_string();
    assert!(found.contains("grids of their own") && found.contains("--size"), "{found}");
    assert_eq!(named(network("voxels", 3)).classes(), 3);
}

/// Of one grid for all, but of other voxels than the network was trained on.
#[test]
fn a_dataset_of_other_voxels_is_answered_by_kernels_for_them() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("m.safetensors");
    let network = network("voxels", 3);
    let data = dataset(&folder.path().join("one.h5"), &[1]);
    let card = ModelCard {
        format: FORMAT,
        version: "0.0.0".into(),
        dataset: "shapes".into(),
        seed: 1,
        class_names: vec![],
        dims: [7, 9, 8],
        voxel_size: [1.0; 3],
        unit: data.meta().unit.clone(),
        meaning: Meaning::default(),
        origin: Origin::default(),
        model: network.config().clone(),
    };
    save(&file, &network, &card).unwrap();
    let models = Models { files: vec![file], ..Models::default() };
    let models = models.open(&data, &Device::Cpu, &|_| ()).unwrap();
    let expected = named(network.at_spacing(SHAPES[1].1).unwrap());
    let x = Tensor::new(data.read(0).unwrap().data(), &Device::Cpu).unwrap();
    let x = x.reshape((1, 1, 7, 9, 8)).unwrap();
    let values = |found: Tensor| found.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let found = values(models[0].logits(&x).unwrap());
    assert_eq!(found, values(expected.logits(&x).unwrap()));
    assert_ne!(found, values(named(network).logits(&x).unwrap()));
}
