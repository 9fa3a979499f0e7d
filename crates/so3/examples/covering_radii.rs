//! Prints the covering radius of the grids on SO(3): how far a rotation can be from the nearest sample.
//!
//! ```sh
//! cargo run --release -p steer3d-so3 --example covering_radii
//! ```
#![allow(clippy::print_stdout, reason = "the table is the output")]

use steer3d_so3::groups::{cube_group, icosahedral_group, tetrahedral_group};
use steer3d_so3::sampling::{covering_radius, hopf_grid, super_fibonacci};
use steer3d_so3::{Rotation, random_rotations};

fn main() {
    println!("| samples | number | covering radius (degrees) |");
    println!("|---|---|---|");
    row("tetrahedral group", &tetrahedral_group());
    row("cube group", &cube_group());
    row("icosahedral group", &icosahedral_group());
    for nside in [1, 2, 4] {
        let grid = hopf_grid(nside);
        row(&format!("Hopf grid, nside = {nside}"), &grid);
        row("super-Fibonacci", &super_fibonacci(grid.len()));
        row("random, seed 0", &random_rotations(0, grid.len()));
    }
}

fn row(name: &str, samples: &[Rotation]) {
    let radius = covering_radius(samples, 0.01);
    let [lower, upper] = [radius.lower, radius.upper].map(f64::to_degrees);
    println!("| {name} | {} | {lower:.2} to {upper:.2} |", samples.len());
}
