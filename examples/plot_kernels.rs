//! Draws the steerable kernels between two irreps as slices in a PNG, and says how well conditioned
//! they are.
//!
//! Run with `cargo run --release --example plot_kernels [FAMILY IRREP_IN IRREP_OUT SIZE FILE]`, for
//! example `plot_kernels jets:3 1x0 1x2 7 kernels.png`.
//!
//! Each row is one kernel (J, n), each column one element (row, column) of its matrix, row by row: the
//! slice z = 0 with x to the right and y up. Red is positive, blue negative, white zero, relative to the
//! largest value of the kernel.
#![allow(clippy::print_stdout)]

mod canvas;

use std::path::PathBuf;

use canvas::Canvas;
use steer3d::kernels::{HarmonicFamily, KernelBasis, TapGrid, conditioning};
use steer3d::prelude::{Family, Irreps};

/// Pixels along the edge of a voxel, and between slices.
const SCALE: usize = 10;

fn main() -> anyhow::Result<()> {
    let given: Vec<String> = std::env::args().skip(1).collect();
    let argument = |i: usize, default| given.get(i).map_or(default, String::as_str);
    let family: Family = argument(0, "jets:3").parse()?;
    let input: Irreps = argument(1, "1x1").parse()?;
    let output: Irreps = argument(2, "1x1").parse()?;
    let size: usize = argument(3, "7").parse()?;
    let file = PathBuf::from(argument(4, "kernels.png"));

    let basis = KernelBasis::new(&input, &output, size, &family, [1.0; 3])?;
    let Some(pair) = basis.pairs().first() else {
        anyhow::bail!("the family has no kernel from {input} to {output}");
    };
    let elements = pair.dim_out * pair.dim_in;
    let cell = (size + 1) * SCALE;
    let mut canvas = Canvas::new(elements * cell, pair.paths.len() * cell);
    for (row, kernel) in pair.samples.chunks_exact(elements * size.pow(3)).enumerate() {
        let path = pair.paths[row];
        println!("row {}: J = {}, radial function {}", row + 1, path.j, path.radial);
        let largest = kernel.iter().fold(0f64, |m, v| m.max(v.abs()));
        for (column, values) in kernel.chunks_exact(size.pow(3)).enumerate() {
            let slice = &values[size / 2 * size * size..][..size * size];
            for (voxel, value) in slice.iter().enumerate() {
                let (x, y) = (voxel % size, size - 1 - voxel / size);
                let corner = [column * cell + x * SCALE, row * cell + y * SCALE];
                fill(&mut canvas, corner, colour(value / largest));
            }
        }
    }
    canvas.save(&file)?;
    println!("{} has the slices z = 0 of {input} -> {output}", file.display());

    let functions = family.sample(&TapGrid::new(size, [1.0; 3])?, input.lmax() + output.lmax())?;
    let report = conditioning(&functions);
    println!(
        "{} functions of rank {} on the taps, condition number {:.3}, largest overlap {:.4}",
        report.dim, report.rank, report.condition_number, report.largest_overlap
    );
    Ok(())
}

fn fill(canvas: &mut Canvas, [left, top]: [usize; 2], colour: [u8; 3]) {
    for i in 0..SCALE * SCALE {
        canvas.set(left + SCALE / 2 + i % SCALE, top + SCALE / 2 + i / SCALE, colour);
    }
}

/// Red for 1, white for 0, blue for -1; a square root lifts small values.
fn colour(value: f64) -> [u8; 3] {
    let strength = value.abs().sqrt();
    let full = if value > 0.0 { [178.0, 24.0, 43.0] } else { [33.0, 102.0, 172.0] };
    full.map(|f| (245.0 + (f - 245.0) * strength).round() as u8)
}
