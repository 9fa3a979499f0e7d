//! Chirality: protein domains against their mirror images, from the density of C-alpha atoms. An SO(3) network tells
//! them apart; the same network with a mirror symmetry, an O(3) network, gives a volume and its mirror image the same
//! answer and cannot.
//!
//! Run with `cargo run --release --example mirror_images [EPOCHS]`.
#![allow(clippy::print_stdout)]

use std::path::Path;

use steer3d::dataset::{ImportOptions, import_cath};
use steer3d::nn::Nonlinearity;
use steer3d::prelude::*;
use steer3d::train::{Gradients, Optimiser, OptimiserConfig, loss};
use steer3d::volume::{PointCloud, Voxeliser};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

const SIZE: usize = 24;
const BATCH: usize = 8;
const PEAK_RATE: f64 = 1e-2;

/// A domain, or with `mirrored` its image in the plane z = 0.
fn domain(cloud: &PointCloud, mirrored: bool) -> Result<PointCloud> {
    let sign = if mirrored { -1.0 } else { 1.0 };
    let positions = cloud.positions().iter().map(|&[x, y, z]| [x, y, sign * z]).collect();
    Ok(PointCloud::new(positions, cloud.channels().to_vec())?)
}

/// Densities N,1,D,H,W after a rotation, and whether each is a mirror image, N,1,1,1.
fn batch(domains: &[(PointCloud, u32)], rotation: &Rotation) -> Result<(Tensor, Tensor)> {
    let voxeliser = Voxeliser { sigma: 1.5, ..Voxeliser::paper(SIZE, 2.0) };
    let mut values = vec![];
    for (cloud, _) in domains {
        values.extend_from_slice(voxeliser.voxelise(cloud, rotation)?.data());
    }
    let labels: Vec<u32> = domains.iter().map(|(_, label)| *label).collect();
    let n = domains.len();
    let volumes = Tensor::from_vec(values, (n, 1, SIZE, SIZE, SIZE), &Device::Cpu)?;
    Ok((volumes, Tensor::from_vec(labels, (n, 1, 1, 1), &Device::Cpu)?))
}

fn train(network: &Network, domains: &[(PointCloud, u32)], epochs: usize) -> Result<()> {
    let mut adam = Optimiser::new(&OptimiserConfig::default(), network.params(), 1e-3)?;
    let steps = epochs * domains.len().div_ceil(BATCH);
    let mut step = 0;
    for epoch in 0..epochs {
        let mut order = domains.to_vec();
        Stream::new(0, "order", &[epoch as u64]).shuffle(&mut order);
        let mut total = 0.0;
        for domains in order.chunks(BATCH) {
            let (volumes, labels) = batch(domains, &Rotation::identity())?;
            let logits = network.forward(&volumes, Mode::Train { seed: 0, step: step as u64 })?;
            // Each volume is one voxel with one label.
            let logits = logits.reshape((domains.len(), 2, 1, 1, 1))?;
            let loss = loss::voxel_cross_entropy(&logits, &labels, None)?;
            let phase = std::f64::consts::PI * step as f64 / steps as f64;
            let rate = PEAK_RATE * 0.5 * (1.0 + phase.cos());
            adam.step(network.params(), &Gradients::of(network.params(), &loss.backward()?), rate)?;
            total += f64::from(loss.to_scalar::<f32>()?) * domains.len() as f64;
            step += 1;
        }
        println!("  epoch {}: loss {:.3}", epoch + 1, total / order.len() as f64);
    }
    for (i, domains) in domains.chunks(BATCH).take(16).enumerate() {
        let (volumes, _) = batch(domains, &Rotation::identity())?;
        network.forward(&volumes, Mode::Calibrate { batch: i as u64 })?;
    }
    Ok(())
}

/// Share of right answers at some rotations.
fn accuracy(
    network: &Network,
    domains: &[(PointCloud, u32)],
    rotations: &[Rotation],
) -> Result<f64> {
    let (mut right, mut all) = (0.0, 0.0);
    for rotation in rotations {
        for domains in domains.chunks(BATCH) {
            let (volumes, _) = batch(domains, rotation)?;
            let answers = network.forward(&volumes, Mode::Evaluate)?.argmax(1)?;
            for (answer, (_, label)) in answers.to_vec1::<u32>()?.iter().zip(domains) {
                right += f64::from(u8::from(answer == label));
                all += 1.0;
            }
        }
    }
    Ok(right / all)
}

fn main() -> Result<()> {
    let epochs = std::env::args().nth(1).map_or(Ok(5), |text| text.parse())?;
    steer3d::ops::reuse_memory();
    let path = std::env::temp_dir().join("steer3d-example-mirror.h5");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/cath/cath_3class_ca_small.npz");
    import_cath(&source, &path, &Voxeliser::paper(SIZE, 2.0), &ImportOptions::default())?;
    let dataset = Dataset::open(&path)?;
    // Every domain occurs once as it is and once mirrored, both in the same split.
    let of = |split: Split| -> Result<Vec<(PointCloud, u32)>> {
        let mut domains = vec![];
        for item in dataset.indices(split) {
            let cloud = dataset.points(item)?.ok_or("no points")?;
            domains.extend([(domain(&cloud, false)?, 0), (domain(&cloud, true)?, 1)]);
        }
        Ok(domains)
    };
    let (training, test) = (of(Split::Train)?, of(Split::Test)?);
    let block = |fields: &str, stride| {
        Ok::<_, Box<dyn std::error::Error>>(SteerableBlock::new(fields.parse()?, 5, stride))
    };
    let blocks = vec![block("8x0+4x1+4x2", 2)?, block("12x0+6x1+6x2", 1)?, block("32x0", 1)?];
    let so3 = SteerableConfig {
        input_scale: 100.0,
        nonlinearity: Nonlinearity::TensorProduct,
        ..SteerableConfig::new("1x0".parse()?, 2, Family::jets(3), blocks)
    };
    for (name, config) in [("SO(3)", so3.clone()), ("O(3)", so3.with_mirror_symmetry()?)] {
        let model = ModelConfig::Steerable(config);
        let network = Network::new(&model, 0, DType::F32, &Device::Cpu)?;
        println!("{name}: {} parameters", network.params().count());
        train(&network, &training, epochs)?;
        let unrotated = accuracy(&network, &test, &[Rotation::identity()])?;
        let turned = accuracy(&network, &test, &random_rotations(1, 4))?;
        println!("  accuracy {:.1} %, turned {:.1} %", 100.0 * unrotated, 100.0 * turned);
    }
    Ok(())
}
