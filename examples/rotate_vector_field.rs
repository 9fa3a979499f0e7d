//! Rotates a vector field (l = 1) and compares the result with the formula of the rotated field: both
//! the positions and the components have to turn. Draws the field before, after, and after turning the
//! positions alone.
//!
//! Run with `cargo run --release --example rotate_vector_field [FILE]`.
#![allow(clippy::print_stdout)]

mod canvas;

use std::path::Path;

use canvas::Canvas;
use steer3d::prelude::*;
use steer3d::so3::rotations::from_axis_angle;

const SIZE: usize = 33;
/// Pixels along the edge of a voxel.
const SCALE: usize = 12;

fn main() -> anyhow::Result<()> {
    let grid = Grid::new([SIZE; 3], [1.0; 3])?;
    let field = sample(grid, flow)?;
    let rotation = from_axis_angle([0.0, 0.0, 1.0], 50f64.to_radians())?;
    let turned = |irreps: &str| -> anyhow::Result<Volume> {
        Ok(rotate(&field, &irreps.parse()?, &rotation, Interpolation::Cubic)?)
    };
    // As one vector, whose components turn too, and as three scalars, which only move.
    let (vector, scalars) = (turned("1x1")?, turned("3x0")?);
    // (R f)(p) = R f(R⁻¹ p)
    let expected = sample(grid, |p| apply(&rotation, flow(apply(&rotation.inverse(), p))))?;
    let (right, wrong) = (gap(&vector, &expected), gap(&scalars, &expected));
    println!("turned as 1x1: off by {right:.4} of the rotated field (interpolation)");
    println!("turned as 3x0: off by {wrong:.4}");
    anyhow::ensure!(right < 0.01 && wrong > 0.3, "components must turn with the positions");

    let panel = SIZE * SCALE;
    let mut canvas = Canvas::new(3 * panel, panel);
    for (i, volume) in [&field, &vector, &scalars].into_iter().enumerate() {
        draw(&mut canvas, i * panel, volume);
    }
    let file = std::env::args().nth(1).unwrap_or_else(|| "vector-field.png".into());
    canvas.save(Path::new(&file))?;
    println!(
        "{file}: the field, turned by 50° as a vector field, and with its components left as they were"
    );
    Ok(())
}

/// A stream along x with an eddy below it, in the plane z = 0 and above.
fn flow([x, y, z]: [f64; 3]) -> [f64; 3] {
    let bump = |cx: f64, cy: f64, width: f64| {
        (-((x - cx).powi(2) + (y - cy).powi(2) + z * z) / (2.0 * width * width)).exp()
    };
    let (stream, eddy) = (bump(0.0, 4.0, 3.5), bump(-2.0, -5.0, 2.5));
    [stream - eddy * (y + 5.0) / 2.5, eddy * (x + 2.0) / 2.5, 0.5 * stream]
}

/// The values of a vector field on a grid.
fn sample(grid: Grid, f: impl Fn([f64; 3]) -> [f64; 3]) -> anyhow::Result<Volume> {
    let centre = (SIZE / 2) as f64;
    let voxels = SIZE.pow(3);
    let mut values = vec![0.0; 3 * voxels];
    for voxel in 0..voxels {
        let index = [voxel % SIZE, voxel / SIZE % SIZE, voxel / (SIZE * SIZE)];
        for (axis, v) in f(index.map(|i| i as f64 - centre)).into_iter().enumerate() {
            values[axis * voxels + voxel] = v as f32;
        }
    }
    Ok(Volume::centred(values, 3, grid)?)
}

fn apply(rotation: &Rotation, p: [f64; 3]) -> [f64; 3] {
    let m = rotation.matrix();
    [0, 1, 2].map(|row| (0..3).map(|column| m[(row, column)] * p[column]).sum())
}

/// ‖a − b‖ / ‖b‖
fn gap(a: &Volume, b: &Volume) -> f32 {
    let norm = |values: &mut dyn Iterator<Item = f32>| values.map(|v| v * v).sum::<f32>().sqrt();
    norm(&mut a.data().iter().zip(b.data()).map(|(a, b)| a - b))
        / norm(&mut b.data().iter().copied())
}

/// The x and y components in the plane z = 0 at every second voxel, as lines that start at a dot; x to
/// the right and y up.
fn draw(canvas: &mut Canvas, left: usize, volume: &Volume) {
    let voxels = SIZE.pow(3);
    for (row, column) in
        (0..SIZE).step_by(2).flat_map(|y| (0..SIZE).step_by(2).map(move |x| (y, x)))
    {
        let voxel = (SIZE / 2 * SIZE + row) * SIZE + column;
        let [x, y] = [0, 1].map(|axis| 2.0 * SCALE as f32 * volume.data()[axis * voxels + voxel]);
        let start = [column, SIZE - 1 - row].map(|i| (i * SCALE + SCALE / 2) as f32);
        let mut dot = |x: f32, y: f32, colour| {
            if x >= 0.0 && x < (SIZE * SCALE) as f32 && y >= 0.0 {
                canvas.set(left + x as usize, y as usize, colour);
            }
        };
        if x.hypot(y) < 3.0 {
            continue;
        }
        for step in 0..=60 {
            let t = step as f32 / 60.0;
            for i in 0..4 {
                let (right, down) = ((i % 2) as f32, (i / 2) as f32);
                dot(start[0] + t * x + right, start[1] - t * y + down, [33, 102, 172]);
            }
        }
        for i in 0..16 {
            dot(start[0] + (i % 4) as f32 - 1.0, start[1] + (i / 4) as f32 - 1.0, [178, 24, 43]);
        }
    }
}
