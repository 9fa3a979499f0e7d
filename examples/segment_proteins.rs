//! U-Nets that find helices and strands: every voxel near a C-alpha atom of a protein domain is labelled
//! coil, helix or strand, and the density of the atoms, 24³ voxels of 2 Å, is all that the networks see. A
//! steerable U-Net and an ordinary one of about as many parameters are trained on the bundled CATH domains, whose
//! labels stand in a dataset, and tested on domains whose atoms were turned before they were voxelised.
//!
//! Run with `cargo run --release --example segment_proteins [EPOCHS [FOLDER]]`; the report is written to the
//! folder.
#![allow(clippy::print_stdout)]

mod secondary_structure;

use std::ops::ControlFlow;
use std::path::Path;

use secondary_structure::{WINDOW, begins_helix, begins_strand, distance};
use steer3d::dataset::{
    Batch, DatasetMeta, DatasetWriter, ImportOptions, Item, Tasks, import_cath,
};
use steer3d::eval::{NetworkPredictor, PointGroup, Source};
use steer3d::prelude::*;
use steer3d::report::{Evaluation, terminal};
use steer3d::train::loss::SoftDice;
use steer3d::train::{Gradients, Optimiser, OptimiserConfig, loss};
use steer3d::volume::Voxeliser;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

const SIZE: usize = 24;
const VOXEL: f64 = 2.0;
const CLASSES: [&str; 4] = ["background", "coil", "helix", "strand"];
/// Farther from every atom a voxel is background, in Å.
const REACH: f64 = 3.0;
/// Background is most of the volume.
const WEIGHTS: [f64; 4] = [0.2, 1.0, 1.0, 1.0];
const BATCH: usize = 8;
const PEAK_RATE: f64 = 1e-2;

/// Coil, helix or strand.
fn classes(positions: &[[f64; 3]]) -> Vec<u8> {
    let mut classes = vec![1; positions.len()];
    for (start, window) in positions.windows(WINDOW).enumerate() {
        let class = if begins_helix(window) { 2 } else { 3 };
        if class == 2 || begins_strand(window) {
            classes[start..start + WINDOW].fill(class);
        }
    }
    classes
}

/// Labels of the voxels, D,H,W, about atoms in the order of the chain.
fn labels(positions: &[[f64; 3]]) -> Vec<u8> {
    let centre = (SIZE - 1) as f64 / 2.0;
    let (mut labels, mut nearest) = (vec![0; SIZE.pow(3)], vec![REACH; SIZE.pow(3)]);
    for (atom, class) in positions.iter().zip(classes(positions)) {
        let around = |axis: usize| {
            let middle = (atom[axis] / VOXEL + centre).round() as i64;
            (middle - 2).max(0)..(middle + 3).min(SIZE as i64)
        };
        for z in around(2) {
            for y in around(1) {
                for x in around(0) {
                    let voxel = [x, y, z].map(|i| (i as f64 - centre) * VOXEL);
                    let distance = distance(voxel, *atom);
                    let index = (z as usize * SIZE + y as usize) * SIZE + x as usize;
                    if distance < nearest[index] {
                        (nearest[index], labels[index]) = (distance, class);
                    }
                }
            }
        }
    }
    labels
}

/// The bundled domains with the labels of their voxels.
fn dataset(folder: &Path) -> Result<Dataset> {
    let (plain, path) = (folder.join("steer3d-cath.h5"), folder.join("steer3d-segment.h5"));
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/cath/cath_3class_ca_small.npz");
    let voxeliser = Voxeliser { sigma: 1.5, ..Voxeliser::paper(SIZE, VOXEL) };
    import_cath(&source, &plain, &voxeliser, &ImportOptions::default())?;
    let plain = Dataset::open(&plain)?;
    let meta = DatasetMeta { name: "secondary structure".into(), ..plain.meta().clone() };
    let tasks = Tasks {
        targets: None,
        voxel_classes: CLASSES.map(String::from).to_vec(),
        ..Tasks::default()
    };
    let mut writer = DatasetWriter::create(&path, meta)?.with_tasks(tasks)?;
    for i in 0..plain.len() {
        let cloud = plain.points(i)?.ok_or("no points")?;
        writer.push(&Item {
            volume: Some(&plain.read(i)?),
            label: plain.labels()[i],
            split: plain.splits()[i],
            id: &plain.ids()[i],
            points: Some(&cloud),
            voxel_labels: &labels(cloud.positions()),
            ..Item::default()
        })?;
    }
    writer.finish()?;
    Ok(Dataset::open(&path)?)
}

/// Volumes N,1,D,H,W and labels N,D,H,W of some items.
fn batch(dataset: &Dataset, items: &[usize]) -> Result<(Tensor, Tensor)> {
    let batch = Batch::read(dataset, items, None)?;
    let n = items.len();
    let labels: Vec<u32> = batch.voxel_labels.into_iter().flatten().map(u32::from).collect();
    Ok((
        Tensor::from_vec(batch.values, (n, 1, SIZE, SIZE, SIZE), &Device::Cpu)?,
        Tensor::from_vec(labels, (n, SIZE, SIZE, SIZE), &Device::Cpu)?,
    ))
}

fn train(model: &Network, dataset: &Dataset, epochs: usize) -> Result<()> {
    let items = dataset.indices(Split::Train);
    let mut adam = Optimiser::new(&OptimiserConfig::default(), model.params(), 1e-3)?;
    let steps = epochs * items.len().div_ceil(BATCH);
    let mut step = 0;
    for epoch in 0..epochs {
        let mut order = items.clone();
        Stream::new(0, "order", &[epoch as u64]).shuffle(&mut order);
        let mut total = 0.0;
        for items in order.chunks(BATCH) {
            let (x, labels) = batch(dataset, items)?;
            let logits = model.forward(&x, Mode::Train { seed: 0, step: step as u64 })?;
            let entropy = loss::voxel_cross_entropy(&logits, &labels, Some(&WEIGHTS))?;
            let loss = (entropy + loss::dice(&logits, &labels, SoftDice::default(), None)?)?;
            let phase = std::f64::consts::PI * step as f64 / steps as f64;
            let rate = PEAK_RATE * 0.5 * (1.0 + phase.cos());
            adam.step(model.params(), &Gradients::of(model.params(), &loss.backward()?), rate)?;
            total += f64::from(loss.to_scalar::<f32>()?) * items.len() as f64;
            step += 1;
        }
        println!("  epoch {}: loss {:.3}", epoch + 1, total / order.len() as f64);
    }
    for (i, items) in items.chunks(BATCH).take(8).enumerate() {
        let (x, _) = batch(dataset, items)?;
        model.forward(&x, Mode::Calibrate { batch: i as u64 })?;
    }
    Ok(())
}

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let epochs = arguments.next().map_or(Ok(6), |text| text.parse())?;
    let temporary = std::env::temp_dir();
    let folder = arguments.next().map_or_else(|| temporary.join("steer3d-segment"), Into::into);
    steer3d::ops::reuse_memory();
    let dataset = dataset(&temporary)?;
    let device = Device::Cpu;
    // Brings the density to a root mean square of about 1.
    let steerable =
        SteerableConfig { input_scale: 100.0, ..SteerableConfig::unet(1, CLASSES.len())? };
    let count = Network::new(&steerable.clone().into(), 0, DType::F32, &device)?.params().count();
    let plain = PlainConfig { input_scale: 100.0, ..PlainConfig::unet(1, CLASSES.len()) };
    let plain = plain.with_parameters(count);
    let protocol = Protocol {
        seed: 1,
        rotations: 4,
        angles: vec![15.0, 30.0, 45.0, 90.0, 135.0, 180.0],
        per_angle: 1,
        translations: vec![1.0, 2.0, 4.0],
        per_distance: 1,
        groups: vec![PointGroup::Cube],
        sources: vec![Source::Points],
        ..Protocol::default()
    };
    let mut predictors = vec![];
    for (name, model) in
        [("steerable", ModelConfig::Steerable(steerable)), ("plain", ModelConfig::Plain(plain))]
    {
        let model = Network::new(&model, 0, DType::F32, &device)?;
        println!("{name}: {} parameters", model.params().count());
        train(&model, &dataset, epochs)?;
        predictors.push(NetworkPredictor::new(name.into(), model)?);
    }
    let predictors: Vec<&dyn Predictor> = predictors.iter().map(|p| p as _).collect();
    let evaluation = Evaluation { dataset: &dataset, split: Split::Test, protocol: &protocol };
    let title = "Secondary structure";
    let report = evaluation
        .report(&predictors, title, "", Some(&folder), &|_, _| ControlFlow::Continue(()))?;
    println!("{}\nreport: {}", terminal(&report), folder.join("report.html").display());
    Ok(())
}
