//! One network on a scan and on the same scan with slices three times as thick.
//!
//! Run with `cargo run --release --example thick_slices -- SCAN...`, for example a T1 template of 1 mm.
//!
//! A steerable U-Net of random weights, made for the voxels of the scan, answers for a part of at most 96 voxels along an axis.
//! Then it answers for the part with voxels three times as long along z, which are filtered as a resampled scan is: with
//! kernels for these voxels, with its own kernels as if they were cubes, and for the slices interpolated back to the voxels of
//! the scan. The table has how far each answer is from the first one where both have a voxel.
#![allow(clippy::print_stdout)]

use std::path::Path;

use anyhow::{Context, bail};
use steer3d::formats::{FileContents, Nan, read_with};
use steer3d::prelude::*;
use steer3d::volume::{change_voxel_size, crop};

/// Most voxels along an axis.
const EDGE: usize = 96;
/// How many times as thick the slices become; odd, so that each has its centre at a voxel.
const FACTOR: usize = 3;
/// Most voxels at a border, where answers are not compared since what is outside counts as zero; of small scans a quarter.
const BORDER: usize = 12;

fn main() -> anyhow::Result<()> {
    if std::env::args().len() < 2 {
        bail!("expected scans, such as template.nii.gz");
    }
    for file in std::env::args().skip(1) {
        compare(&file).context(file)?;
    }
    Ok(())
}

fn compare(file: &str) -> anyhow::Result<()> {
    let FileContents::Volume(scan) = read_with(Path::new(file), Nan::Zero)? else {
        bail!("expected a volume");
    };
    let part = middle(&scan)?;
    let fine = part.voxel_size();
    let thick = [fine[0], fine[1], FACTOR as f64 * fine[2]];
    let slices = change_voxel_size(&part, thick, Interpolation::Cubic)?;
    let back = change_voxel_size(&slices, fine, Interpolation::Cubic)?;

    let unet = SteerableConfig::unet(part.channels(), 4)?;
    let config = SteerableConfig { voxel_size: fine, ..unet };
    let network = Network::new(&config.into(), 1, DType::F32, &Device::Cpu)?;
    network.forward(&tensor(&part)?, Mode::Calibrate { batch: 0 })?;
    let answer = |network: &Network, volume: &Volume| -> anyhow::Result<Tensor> {
        Ok(network.forward(&tensor(volume)?, Mode::Evaluate)?)
    };
    let planes = slices.dims()[0];
    let at_slices = |fine: Tensor| -> anyhow::Result<Tensor> {
        let places: Vec<u32> = (0..planes).map(|i| (FACTOR * i + FACTOR / 2) as u32).collect();
        Ok(fine.index_select(&Tensor::new(places, &Device::Cpu)?, 2)?)
    };
    let expected = at_slices(answer(&network, &part)?)?;
    println!("{file}: {:?} voxels of {fine:?}, {:?} of {thick:?}", part.dims(), slices.dims());
    println!("{:<40} {:>10} {:>12}", "", "difference", "same label");
    for (name, found) in [
        ("kernels for the slices", answer(&network.at_spacing(thick)?, &slices)?),
        ("slices interpolated back", at_slices(answer(&network, &back)?)?),
        ("slices taken for cubes", answer(&network, &slices)?),
    ] {
        let [difference, same] = compared(&found, &expected)?;
        println!("{name:<40} {difference:>10.3} {:>10.1} %", 100.0 * same);
    }
    Ok(())
}

/// The part about the centre, its values of mean 0 and deviation 1, with a multiple of `FACTOR` planes.
fn middle(scan: &Volume) -> anyhow::Result<Volume> {
    let [d, h, w] = scan.dims().map(|n| n.min(EDGE));
    let dims = [d / FACTOR * FACTOR, h, w];
    if dims.iter().any(|&n| n < 4 * FACTOR) {
        bail!("expected {} voxels or more along each axis, found {dims:?}", 4 * FACTOR);
    }
    // x, y, z of D, H, W.
    let first = [2, 1, 0].map(|axis| ((scan.dims()[axis] - dims[axis]) / 2) as i32);
    let part = crop(scan, first, dims)?;
    let count = part.data().len() as f64;
    let mean = part.data().iter().map(|v| f64::from(*v)).sum::<f64>() / count;
    let square = part.data().iter().map(|v| (f64::from(*v) - mean).powi(2)).sum::<f64>();
    let deviation = (square / count).sqrt();
    let values = part.data().iter().map(|v| ((f64::from(*v) - mean) / deviation) as f32).collect();
    Ok(Volume::new(values, part.channels(), part.grid(), part.origin())?)
}

fn tensor(volume: &Volume) -> anyhow::Result<Tensor> {
    let [d, h, w] = volume.dims();
    Ok(Tensor::from_slice(volume.data(), (1, volume.channels(), d, h, w), &Device::Cpu)?)
}

/// The distance between logits 1,K,D,H,W over the size of the second, and the share of voxels with the same largest one.
fn compared(found: &Tensor, expected: &Tensor) -> anyhow::Result<[f64; 2]> {
    let inner = |t: &Tensor| -> candle_core::Result<Tensor> {
        (2..5).try_fold(t.clone(), |t, axis| {
            let length = t.dim(axis)?;
            let most = if axis == 2 { BORDER / FACTOR } else { BORDER };
            let border = most.min(length / 4);
            t.narrow(axis, border, length - 2 * border)
        })
    };
    let (found, expected) = (inner(found)?, inner(expected)?);
    let norm = |t: &Tensor| t.sqr()?.sum_all()?.to_dtype(DType::F64)?.to_scalar::<f64>();
    let same = found.argmax(1)?.eq(&expected.argmax(1)?)?.to_dtype(DType::F32)?.mean_all()?;
    let difference = (norm(&(&found - &expected)?)? / norm(&expected)?).sqrt();
    Ok([difference, f64::from(same.to_scalar::<f32>()?)])
}
