//! What rotating a volume forth and back costs, for each interpolation, as a Markdown table.
//!
//! ```sh
//! cargo run --release --example psnr -p steer3d-volume                 # the bundled volumes
//! cargo run --release --example psnr -p steer3d-volume -- map.mrc ...  # other ones
//! ```
//!
//! The peak signal-to-noise ratio is 10 log₁₀(range² / mean square error) over the channels and the
//! voxels of the largest ball about the centre that stays in the grid, which no rotation pushes out.

#![allow(clippy::print_stdout, reason = "the table is the output")]

use std::path::{Path, PathBuf};

use nalgebra::Vector3;
use steer3d_formats::npz::Npz;
use steer3d_formats::{FileContents, read};
use steer3d_so3::{Irreps, random_rotations};
use steer3d_volume::{Grid, Interpolation, Volume, crop, rotate};

const ROTATIONS: usize = 16;

const INTERPOLATIONS: [Interpolation; 4] =
    [Interpolation::Nearest, Interpolation::Trilinear, Interpolation::Cubic, Interpolation::Sinc];

type Error = Box<dyn std::error::Error>;

fn main() -> Result<(), Error> {
    let paths: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let volumes = if paths.is_empty() { bundled()? } else { files(&paths)? };
    let names = INTERPOLATIONS.map(|interpolation| interpolation.to_string()).join(" | ");
    println!("| volume | voxels (D, H, W) | {names} |\n|---|---|---|---|---|---|");
    for (name, volume) in volumes {
        let [d, h, w] = volume.dims();
        let figures = INTERPOLATIONS
            .map(|interpolation| psnr(&volume, interpolation))
            .into_iter()
            .map(|psnr| Ok(format!("{:.1}", psnr?)))
            .collect::<Result<Vec<_>, Error>>()?;
        println!("| {name} | {d} × {h} × {w} | {} |", figures.join(" | "));
    }
    Ok(())
}

/// PSNR in dB of the volume turned forth and back, over all rotations.
fn psnr(volume: &Volume, interpolation: Interpolation) -> Result<f64, Error> {
    let irreps: Irreps = format!("{}x0", volume.channels()).parse()?;
    let inside = ball(&volume.grid());
    let (mut squares, mut count) = (0.0, 0);
    for rotation in random_rotations(1, ROTATIONS) {
        let turned = rotate(volume, &irreps, &rotation, interpolation)?;
        let back = rotate(&turned, &irreps, &rotation.inverse(), interpolation)?;
        let pairs = volume.data().iter().zip(back.data()).zip(inside.iter().cycle());
        for ((a, b), _) in pairs.filter(|(_, inside)| **inside) {
            squares += f64::from(a - b).powi(2);
            count += 1;
        }
    }
    let least = volume.data().iter().copied().fold(f32::INFINITY, f32::min);
    let most = volume.data().iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let range = f64::from(most - least);
    Ok(10.0 * (range * range * count as f64 / squares).log10())
}

/// Is each voxel's centre within the largest ball about the centre of the grid?
fn ball(grid: &Grid) -> Vec<bool> {
    let ([_, h, w], size) = (grid.dims(), grid.voxel_size());
    let reach = Vector3::from_fn(|i, _| grid.centre()[i] * size[i]);
    let inside = |i: usize| {
        let index = Vector3::new(i % w, i / w % h, i / (w * h));
        let p = index.map(|n| n as f64).component_mul(&Vector3::from(size)) - reach;
        p.norm() <= reach.min() + 1e-9
    };
    (0..grid.voxels()).map(inside).collect()
}

fn bundled() -> Result<Vec<(String, Volume)>, Error> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut masks = Npz::open(here.join("../../data/adrenal/adrenalmnist3d_trainval.npz"))?;
    let masks = masks.read("train_images")?;
    let grid = Grid::new([28; 3], [1.0; 3])?;
    let values = masks.elements(0..grid.voxels()).to_f64().unwrap_or_default();
    let values = values.into_iter().map(|value| (value / 255.0) as f32).collect();
    let mask = Volume::centred(values, 1, grid)?;
    // A margin of zeros, so that the rotated map keeps its edges.
    let map = volume(&here.join("../formats/tests/data/volumes/emd_3197.map.gz"))?;
    let map = crop(&map, [-9; 3], [38; 3])?;
    let image = volume(&here.join("../formats/tests/data/volumes/reoriented_anat_moved.nii.gz"))?;
    Ok(vec![
        ("adrenal gland, mask (AdrenalMNIST3D, first item)".to_owned(), mask),
        ("EMD-3197, density map with a margin of 9".to_owned(), map),
        ("`reoriented_anat_moved.nii.gz`, MR image".to_owned(), image),
    ])
}

fn files(paths: &[PathBuf]) -> Result<Vec<(String, Volume)>, Error> {
    paths.iter().map(|path| Ok((path.display().to_string(), volume(path)?))).collect()
}

fn volume(path: &Path) -> Result<Volume, Error> {
    match read(path)? {
        FileContents::Volume(volume) => Ok(volume),
        _ => Err(format!("{}: not a volume", path.display()).into()),
    }
}
