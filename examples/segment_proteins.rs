//! U-Nets that find helices and strands: every voxel near a C-alpha atom of a protein domain is labelled
//! coil, helix or strand, and the density of the atoms, 24³ voxels of 2 Å, is all that the networks see. A
//! steerable U-Net and an ordinary one of about as many parameters are trained on the bundled CATH domains
//! and tested on domains whose atoms were turned before they were voxelised.
//!
//! Run with `cargo run --release --example segment_proteins [EPOCHS]`.
#![allow(clippy::print_stdout)]

mod secondary_structure;

use std::path::Path;

use secondary_structure::{WINDOW, begins_helix, begins_strand, distance};
use steer3d::nn::{AdamW, loss};
use steer3d::prelude::*;
use steer3d::volume::{ImportOptions, PointCloud, Voxeliser, import_cath};

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

/// Atoms in the order of the chain, and the class of each.
struct Domain {
    cloud: PointCloud,
    classes: Vec<u32>,
}

/// Coil, helix or strand.
fn classes(positions: &[[f64; 3]]) -> Vec<u32> {
    let mut classes = vec![1; positions.len()];
    for (start, window) in positions.windows(WINDOW).enumerate() {
        let class = if begins_helix(window) { 2 } else { 3 };
        if class == 2 || begins_strand(window) {
            classes[start..start + WINDOW].fill(class);
        }
    }
    classes
}

/// Density 1,1,D,H,W and labels 1,D,H,W of a domain turned by `rotation`.
fn sample(domain: &Domain, rotation: &Rotation) -> Result<(Tensor, Tensor)> {
    let voxeliser = Voxeliser { sigma: 1.5, ..Voxeliser::paper(SIZE, VOXEL) };
    let density = voxeliser.voxelise(&domain.cloud, rotation)?;
    let turned = domain.cloud.rotated(rotation);
    let centre = (SIZE - 1) as f64 / 2.0;
    let (mut labels, mut nearest) = (vec![0u32; SIZE.pow(3)], vec![REACH; SIZE.pow(3)]);
    for (atom, class) in turned.positions().iter().zip(&domain.classes) {
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
                        (nearest[index], labels[index]) = (distance, *class);
                    }
                }
            }
        }
    }
    let density =
        Tensor::from_vec(density.data().to_vec(), (1, 1, SIZE, SIZE, SIZE), &Device::Cpu)?;
    // About a root mean square of 1.
    Ok(((density * 100.0)?, Tensor::from_vec(labels, (1, SIZE, SIZE, SIZE), &Device::Cpu)?))
}

fn batch(domains: &[&Domain], rotation: &Rotation) -> Result<(Tensor, Tensor)> {
    let samples: Vec<_> = domains.iter().map(|d| sample(d, rotation)).collect::<Result<_>>()?;
    let (x, labels): (Vec<_>, Vec<_>) = samples.into_iter().unzip();
    Ok((Tensor::cat(&x, 0)?, Tensor::cat(&labels, 0)?))
}

fn train(model: &Network, domains: &[Domain], epochs: usize) -> Result<()> {
    let mut adam = AdamW::new(model.params(), 1e-3)?;
    let steps = epochs * domains.len().div_ceil(BATCH);
    let mut step = 0;
    for epoch in 0..epochs {
        let mut order: Vec<&Domain> = domains.iter().collect();
        Stream::new(0, "order", &[epoch as u64]).shuffle(&mut order);
        let mut total = 0.0;
        for domains in order.chunks(BATCH) {
            let (x, labels) = batch(domains, &Rotation::identity())?;
            let logits = model.forward(&x, Mode::Train { seed: 0, step: step as u64 })?;
            let entropy = loss::voxel_cross_entropy(&logits, &labels, Some(&WEIGHTS))?;
            let loss = (entropy + loss::dice(&logits, &labels)?)?;
            let phase = std::f64::consts::PI * step as f64 / steps as f64;
            let rate = PEAK_RATE * 0.5 * (1.0 + phase.cos());
            adam.step(model.params(), &loss.backward()?, rate)?;
            total += f64::from(loss.to_scalar::<f32>()?) * domains.len() as f64;
            step += 1;
        }
        println!("  epoch {}: loss {:.3}", epoch + 1, total / order.len() as f64);
    }
    for (i, domains) in domains.chunks(BATCH).take(8).enumerate() {
        let (x, _) = batch(&domains.iter().collect::<Vec<_>>(), &Rotation::identity())?;
        model.forward(&x, Mode::Calibrate { batch: i as u64 })?;
    }
    Ok(())
}

/// How well voxels are labelled.
#[derive(Default)]
struct Scores {
    /// For each class: voxels found and true, found, true.
    counts: [[f64; 3]; CLASSES.len()],
}

impl Scores {
    fn add(&mut self, found: &[u32], labels: &[u32]) {
        for (&found, &label) in found.iter().zip(labels) {
            let (found, label) = (found as usize, label as usize);
            self.counts[found][1] += 1.0;
            self.counts[label][2] += 1.0;
            if found == label {
                self.counts[found][0] += 1.0;
            }
        }
    }

    fn dice(&self) -> [f64; CLASSES.len()] {
        self.counts.map(|[both, found, label]| 2.0 * both / (found + label))
    }

    /// Share of the voxels near an atom whose class is right.
    fn accuracy(&self) -> f64 {
        let near = &self.counts[1..];
        near.iter().map(|c| c[0]).sum::<f64>() / near.iter().map(|c| c[2]).sum::<f64>()
    }
}

/// The class of every voxel.
fn answers(model: &Network, x: &Tensor) -> Result<Vec<u32>> {
    let logits = model.forward(x, Mode::Evaluate)?;
    Ok(logits.argmax(1)?.flatten_all()?.to_vec1()?)
}

/// Scores at some rotations of all domains.
fn scores(model: &Network, domains: &[Domain], rotations: &[Rotation]) -> Result<Scores> {
    let mut scores = Scores::default();
    for rotation in rotations {
        for domains in domains.chunks(BATCH) {
            let (x, labels) = batch(&domains.iter().collect::<Vec<_>>(), rotation)?;
            scores.add(&answers(model, &x)?, &labels.flatten_all()?.to_vec1()?);
        }
    }
    Ok(scores)
}

/// Share of voxels, among those that are background neither time, whose answer is the same when the domain
/// is turned, answered and the answer turned back: over the rotations of the cube, which permute voxels.
fn agreement(model: &Network, domains: &[Domain]) -> Result<f64> {
    let scalar: Irreps = "1x0".parse()?;
    let grid = Grid::new([SIZE; 3], [1.0; 3])?;
    let (mut same, mut all) = (0.0, 0.0);
    for domain in domains.iter().take(BATCH) {
        let straight = answers(model, &sample(domain, &Rotation::identity())?.0)?;
        for rotation in cube_group().iter().skip(1).step_by(4) {
            let turned = answers(model, &sample(domain, rotation)?.0)?;
            let turned = turned.into_iter().map(|class| class as f32).collect();
            let turned = Volume::centred(turned, 1, grid)?;
            let back = rotate(&turned, &scalar, &rotation.inverse(), Interpolation::Nearest)?;
            for (a, b) in straight.iter().zip(back.data()) {
                if *a > 0 || *b > 0.0 {
                    all += 1.0;
                    same += if *a as f32 == *b { 1.0 } else { 0.0 };
                }
            }
        }
    }
    Ok(same / all)
}

fn main() -> Result<()> {
    let epochs = std::env::args().nth(1).map_or(Ok(6), |text| text.parse())?;
    steer3d::ops::reuse_memory();
    let path = std::env::temp_dir().join("steer3d-example-segment.h5");
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/cath/cath_3class_ca_small.npz");
    import_cath(&data, &path, &Voxeliser::paper(SIZE, VOXEL), &ImportOptions::default())?;
    let dataset = Dataset::open(&path)?;
    let of = |split: Split| -> Result<Vec<Domain>> {
        let domain = |i: usize| {
            let cloud = dataset.points(i)?.ok_or("no points")?;
            Ok(Domain { classes: classes(cloud.positions()), cloud })
        };
        dataset.indices(split).into_iter().map(domain).collect()
    };
    let (training, test) = (of(Split::Train)?, of(Split::Test)?);
    let device = Device::Cpu;
    let steerable = SteerableConfig::unet(1, CLASSES.len())?;
    let count = SteerableCnn::new(steerable.clone(), 0, DType::F32, &device)?.params().count();
    let plain = PlainConfig::like(&steerable).with_parameters(count);
    for (name, model) in
        [("steerable", ModelConfig::Steerable(steerable)), ("plain", ModelConfig::Plain(plain))]
    {
        let model = &Network::new(&model, 0, DType::F32, &device)?;
        println!("{name}: {} parameters", model.params().count());
        train(model, &training, epochs)?;
        let identity = [Rotation::identity()];
        for (rotated, rotations) in
            [("unrotated", &identity[..]), ("turned", &random_rotations(1, 4))]
        {
            let scores = scores(model, &test, rotations)?;
            let dice = scores.dice();
            println!(
                "  {rotated}: accuracy {:.1} % of voxels near atoms; Dice coil {:.3}, helix {:.3}, strand {:.3}",
                100.0 * scores.accuracy(),
                dice[1],
                dice[2],
                dice[3]
            );
        }
        let agreement = agreement(model, &test)?;
        println!(
            "  same answer under the rotations of the cube: {:.2} % of voxels",
            100.0 * agreement
        );
    }
    Ok(())
}
