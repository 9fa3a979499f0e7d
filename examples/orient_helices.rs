//! Regression of a tensor: how the helices of a protein domain are oriented, the sum over helical residues of
//! the harmonics of degree 2 of the helix axis, from the density of C-alpha atoms. A steerable network with a
//! head of type 1x2 and an ordinary one with five numbers are trained on the bundled CATH domains, whose targets
//! stand in a dataset, and tested on turned domains; outputs are turned back with Wigner-D.
//!
//! Run with `cargo run --release --example orient_helices [EPOCHS]`.
#![allow(clippy::print_stdout)]

mod secondary_structure;

use std::ops::ControlFlow;
use std::path::Path;

use secondary_structure::{WINDOW, begins_helix};
use steer3d::dataset::{
    DatasetMeta, DatasetWriter, ImportOptions, Item, Loader, LoaderOptions, Tasks, import_cath,
};
use steer3d::eval::{NetworkPredictor, Source};
use steer3d::nn::Head;
use steer3d::prelude::*;
use steer3d::so3::{Normalization, spherical_harmonics};
use steer3d::train::{Gradients, Optimiser, OptimiserConfig, loss};
use steer3d::volume::Voxeliser;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

const SIZE: usize = 24;
const BATCH: usize = 8;
const PEAK_RATE: f64 = 1e-2;

/// The sum over windows in helices of Y_2 of their direction, over 100.
fn helix_tensor(positions: &[[f64; 3]]) -> Vec<f64> {
    let mut sum = vec![0.0; 5];
    for window in positions.windows(WINDOW).filter(|window| begins_helix(window)) {
        let along = [0, 1, 2].map(|axis| window[WINDOW - 1][axis] - window[0][axis]);
        let length = along.iter().map(|x| x * x).sum::<f64>().sqrt();
        let harmonics = spherical_harmonics(2, along.map(|x| x / length), Normalization::Component);
        sum.iter_mut().zip(&harmonics[4..]).for_each(|(sum, y)| *sum += y / 100.0);
    }
    sum
}

/// The bundled domains with the tensor of each.
fn dataset(folder: &Path) -> Result<Dataset> {
    let (plain, path) = (folder.join("steer3d-cath.h5"), folder.join("steer3d-helices.h5"));
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/cath/cath_3class_ca_small.npz");
    let voxeliser = Voxeliser { sigma: 1.5, ..Voxeliser::paper(SIZE, 2.0) };
    import_cath(&source, &plain, &voxeliser, &ImportOptions::default())?;
    let plain = Dataset::open(&plain)?;
    let meta = DatasetMeta { name: "helices".into(), ..plain.meta().clone() };
    let tasks = Tasks { targets: Some("1x2".parse()?), voxel_classes: vec![], ..Tasks::default() };
    let mut writer = DatasetWriter::create(&path, meta)?.with_tasks(tasks)?;
    for i in 0..plain.len() {
        let cloud = plain.points(i)?.ok_or("no points")?;
        writer.push(&Item {
            volume: Some(&plain.read(i)?),
            label: plain.labels()[i],
            split: plain.splits()[i],
            id: &plain.ids()[i],
            points: Some(&cloud),
            targets: &helix_tensor(cloud.positions()),
            ..Item::default()
        })?;
    }
    writer.finish()?;
    Ok(Dataset::open(&path)?)
}

fn train(network: &Network, dataset: &Dataset, epochs: usize) -> Result<()> {
    let items = dataset.indices(Split::Train);
    let steps = epochs * items.len().div_ceil(BATCH);
    let mut adam = Optimiser::new(&OptimiserConfig::default(), network.params(), 1e-3)?;
    let mut step = 0;
    let read = |items: Vec<usize>, each: &mut dyn FnMut(Tensor, Tensor) -> Result<()>| {
        let batches = items.chunks(BATCH).map(<[_]>::to_vec).collect();
        std::thread::scope(|scope| {
            for batch in Loader::new(scope, dataset, batches, LoaderOptions::default()) {
                let batch = batch?;
                let n = batch.items.len();
                let shape = (n, 1, SIZE, SIZE, SIZE);
                let volumes = Tensor::from_vec(batch.values, shape, &Device::Cpu)?;
                each(volumes, Tensor::from_vec(batch.targets, (n, 5), &Device::Cpu)?)?;
            }
            Ok::<_, Box<dyn std::error::Error>>(())
        })
    };
    for epoch in 0..epochs {
        let mut order = items.clone();
        Stream::new(0, "order", &[epoch as u64]).shuffle(&mut order);
        let mut total = 0.0;
        read(order, &mut |volumes, targets| {
            let found = network.forward(&volumes, Mode::Train { seed: 0, step: step as u64 })?;
            let loss = loss::mean_squared_error(&found, &targets)?;
            let phase = std::f64::consts::PI * step as f64 / steps as f64;
            let rate = PEAK_RATE * 0.5 * (1.0 + phase.cos());
            adam.step(network.params(), &Gradients::of(network.params(), &loss.backward()?), rate)?;
            total += f64::from(loss.to_scalar::<f32>()?) * volumes.dim(0)? as f64;
            step += 1;
            Ok(())
        })?;
        println!(
            "  epoch {}: root of the loss {:.3}",
            epoch + 1,
            (total / items.len() as f64).sqrt()
        );
    }
    let mut batch = 0;
    read(items, &mut |volumes, _| {
        network.forward(&volumes, Mode::Calibrate { batch })?;
        batch += 1;
        Ok(())
    })
}

fn main() -> Result<()> {
    let epochs = std::env::args().nth(1).map_or(Ok(8), |text| text.parse())?;
    steer3d::ops::reuse_memory();
    let dataset = dataset(&std::env::temp_dir())?;
    let block = |fields: &str, stride| {
        Ok::<_, Box<dyn std::error::Error>>(SteerableBlock::new(fields.parse()?, 5, stride))
    };
    let blocks = vec![block("8x0+4x1+4x2", 1)?, block("8x0+4x1+4x2", 2)?, block("8x0+4x1+8x2", 1)?];
    let target: Irreps = "1x2".parse()?;
    let steerable = SteerableConfig {
        input_scale: 100.0,
        head: Head::Field { irreps: target.clone(), pooled: true },
        ..SteerableConfig::new("1x0".parse()?, 0, Family::jets(2), blocks)
    };
    let device = Device::Cpu;
    let count = Network::new(&steerable.clone().into(), 0, DType::F32, &device)?.params().count();
    let plain = PlainConfig { classes: 5, ..PlainConfig::like(&steerable) }.with_parameters(count);
    let test = dataset.indices(Split::Test);
    let values: Vec<Vec<f64>> = test.iter().map(|&item| dataset.targets(item).to_vec()).collect();
    let squares: f64 = values.iter().flatten().map(|x| x * x).sum();
    println!("root mean square of the targets: {:.3}", (squares / (5 * test.len()) as f64).sqrt());
    for (name, model) in
        [("steerable", ModelConfig::Steerable(steerable)), ("plain", ModelConfig::Plain(plain))]
    {
        let network = Network::new(&model, 0, DType::F32, &device)?;
        println!("{name}: {} parameters", network.params().count());
        train(&network, &dataset, epochs)?;
        let protocol = Protocol {
            rotations: 4,
            angles: vec![],
            translations: vec![],
            sources: vec![Source::Points],
            batch: 32,
            ..Protocol::default()
        };
        let predictor = NetworkPredictor::new(name.into(), network)?;
        let report = evaluate(&predictor, &dataset, Split::Test, &protocol, None, &|_| {
            ControlFlow::Continue(())
        })?;
        for found in &report.sources[0].conditions {
            let value = |name| found.get(name).map_or(f64::NAN, |estimate| estimate.value);
            println!(
                "  {:?}: root mean square error {:.3}, deviation from the unrotated output {:.1} %",
                found.condition,
                value("root_mean_square_error"),
                100.0 * value("relative_deviation")
            );
        }
    }
    Ok(())
}
