//! From a file to a report through all crates. The prelude suffices to build, train and rotate.

use std::ops::ControlFlow;
use std::path::Path;

use steer3d::dataset::{ImportOptions, import_tetris};
use steer3d::eval::{NetworkPredictor, Report, Section};
use steer3d::nn::checkpoint::{self, FORMAT, Meaning, ModelCard, Origin};
use steer3d::prelude::*;
use steer3d::report::write_report;
use steer3d::volume::Voxeliser;

/// The eight Tetris shapes on 9³ voxels, two test rotations of each.
fn tetris(folder: &Path) -> Dataset {
    let path = folder.join("tetris.h5");
    let voxeliser = Voxeliser { sigma: 0.5, ..Voxeliser::paper(9, 0.8) };
    import_tetris(&path, &voxeliser, 2, &ImportOptions::default()).unwrap();
    Dataset::open(&path).unwrap()
}

fn small_network() -> Network {
    let mut config = SteerableConfig::small(1, 8).unwrap();
    config.kernel = Family::jets(2);
    let block = |fields: &str, stride| SteerableBlock::new(fields.parse().unwrap(), 3, stride);
    config.blocks = vec![block("3x0+2x1+1x2", 2), block("2x0+1x1", 1), block("6x0", 1)];
    Network::new(&ModelConfig::Steerable(config), 0, DType::F32, &Device::Cpu).unwrap()
}

fn logits(network: &Network, volume: &Volume) -> Vec<f32> {
    let [d, h, w] = volume.dims();
    let x = Tensor::from_vec(volume.data().to_vec(), (1, 1, d, h, w), &Device::Cpu).unwrap();
    network.forward(&x, Mode::Evaluate).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

fn largest_gap(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).fold(0.0, |m, (a, b)| m.max((a - b).abs()))
}

#[test]
fn two_training_steps_change_the_answers_and_rotations_of_the_cube_do_not() {
    let folder = tempfile::tempdir().unwrap();
    let dataset = tetris(folder.path());
    let network = small_network();
    let volume = dataset.read(0).unwrap();
    let untrained = logits(&network, &volume);

    let mut steps = 0;
    let settings = TrainConfig { epochs: 1, batch_size: 4, ..TrainConfig::default() };
    train(&network, &dataset, &settings, None, &mut |event| {
        steps += usize::from(matches!(event, TrainEvent::Step { .. }));
        ControlFlow::Continue(())
    })
    .unwrap();
    assert_eq!(steps, 2);
    let trained = logits(&network, &volume);
    let size = trained.iter().fold(0f32, |m, v| m.max(v.abs()));
    assert!(largest_gap(&trained, &untrained) > 0.01 * size);

    let irreps: Irreps = "1x0".parse().unwrap();
    for rotation in cube_group() {
        let turned = rotate(&volume, &irreps, &rotation, Interpolation::Nearest).unwrap();
        let gap = largest_gap(&logits(&network, &turned), &trained);
        assert!(gap < 1e-4 * size, "{gap} of {size}");
    }
}

#[test]
fn a_file_becomes_a_report() {
    let folder = tempfile::tempdir().unwrap();
    let dataset = tetris(folder.path());
    let network = small_network();
    let path = folder.path().join("small.safetensors");
    let meta = dataset.meta();
    let card = ModelCard {
        format: FORMAT,
        version: "0.0.0".into(),
        dataset: meta.name.clone(),
        seed: 0,
        class_names: meta.class_names.clone(),
        dims: meta.dims,
        voxel_size: meta.voxel_size,
        unit: meta.unit.clone(),
        meaning: Meaning::default(),
        origin: Origin::default(),
        model: network.config().clone(),
    };
    checkpoint::save(&path, &network, &card).unwrap();
    let (loaded, _) = checkpoint::load(&path, &Device::Cpu).unwrap();
    let volume = dataset.read(3).unwrap();
    assert_eq!(logits(&loaded, &volume), logits(&network, &volume));

    let protocol = Protocol {
        rotations: 1,
        angles: vec![],
        translations: vec![],
        resamples: 10,
        layer_items: 1,
        layer_rotations: 1,
        ..Protocol::default()
    };
    let predictor = NetworkPredictor::new("small".into(), loaded).unwrap();
    let model =
        evaluate(
            &predictor,
            &dataset,
            Split::Test,
            &protocol,
            None,
            &|_| ControlFlow::Continue(()),
        )
        .unwrap();
    let section = Section::new(&dataset, Split::Test, protocol, vec![model]).unwrap();
    write_report(folder.path(), &Report::new("Tetris", "", vec![section])).unwrap();
    let json = std::fs::read_to_string(folder.path().join("report.json")).unwrap();
    let report = Report::from_json(&json).unwrap();
    assert_eq!(report.sections[0].models[0].name, "small");
    assert!(folder.path().join("report.html").exists());
}
