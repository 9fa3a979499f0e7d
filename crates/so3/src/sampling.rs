//! Deterministic samples of SO(3), shells of equal angle, and covering radii.

use std::f64::consts::{FRAC_PI_2, PI, TAU};

use nalgebra::{Quaternion, UnitQuaternion, Vector3};

use crate::{Rotation, Stream, rotations};

/// `n` evenly spread rotations along a super-Fibonacci spiral (Alexa 2022, "Super-Fibonacci
/// Spirals", CVPR, algorithm 1).
pub fn super_fibonacci(n: usize) -> Vec<Rotation> {
    // The real root > 1 of ψ⁴ = ψ + 4.
    const PSI: f64 = 1.533_751_168_755_204_3;
    (0..n)
        .map(|i| {
            let s = i as f64 + 0.5;
            let (sin_a, cos_a) = (TAU * s / 2f64.sqrt()).sin_cos();
            let (sin_b, cos_b) = (TAU * s / PSI).sin_cos();
            let (r, big_r) = ((s / n as f64).sqrt(), (1.0 - s / n as f64).sqrt());
            rotation_of([big_r * cos_b, r * sin_a, r * cos_a, big_r * sin_b])
        })
        .collect()
}

/// The 72 `nside`³ rotations of the Hopf grid of Yershova, Jain, LaValle and Mitchell 2010
/// (<https://doi.org/10.1177/0278364909352700>): the 12 `nside`² HEALPix directions, each with
/// 6 `nside` turns. Their resolution level L is `nside` = 2^L; every `nside` is allowed here.
pub fn hopf_grid(nside: usize) -> Vec<Rotation> {
    let turns = 6 * nside;
    let mut grid = Vec::with_capacity(12 * nside * nside * turns);
    for (z, phi) in healpix_ring(nside) {
        let (sin_half, cos_half) = (((1.0 - z) / 2.0).sqrt(), ((1.0 + z) / 2.0).sqrt());
        for turn in 0..turns {
            let half_psi = PI * (turn as f64 + 0.5) / turns as f64;
            let (sin_psi, cos_psi) = half_psi.sin_cos();
            let (sin_sum, cos_sum) = (phi + half_psi).sin_cos();
            grid.push(rotation_of([
                cos_half * cos_psi,
                sin_half * cos_sum,
                sin_half * sin_sum,
                cos_half * sin_psi,
            ]));
        }
    }
    grid
}

/// (z, azimuth) of the 12 `nside`² pixel centres in ring order (Górski et al. 2005, §4,
/// <https://doi.org/10.1086/427976>).
fn healpix_ring(nside: usize) -> Vec<(f64, f64)> {
    let n = nside as f64;
    let mut pixels = Vec::with_capacity(12 * nside * nside);
    for ring in 1..4 * nside {
        let cap = ring.min(4 * nside - ring);
        let (z, count, shift) = if cap < nside {
            let z = 1.0 - (cap * cap) as f64 / (3.0 * n * n);
            (if ring == cap { z } else { -z }, 4 * cap, 0.5)
        } else {
            let odd = (ring - nside) % 2 == 1;
            (4.0 / 3.0 - 2.0 * ring as f64 / (3.0 * n), 4 * nside, if odd { 0.0 } else { 0.5 })
        };
        for j in 0..count {
            pixels.push((z, TAU * (j as f64 + shift) / count as f64));
        }
    }
    pixels
}

/// `n` rotations by exactly `theta` radians about axes drawn uniformly from the sphere: the shell
/// of SO(3) at distance `theta` from the identity. Rotation i depends on `seed` and i only.
pub fn angle_shell(theta: f64, n: usize, seed: u64) -> Vec<Rotation> {
    (0..n as u64)
        .map(|i| {
            let mut stream = Stream::new(seed, "angle shell", &[i]);
            let y = 2.0 * stream.uniform() - 1.0;
            let (sin, cos) = (TAU * stream.uniform()).sin_cos();
            let radius = (1.0 - y * y).sqrt();
            let axis = Vector3::new(radius * sin, y, radius * cos);
            Rotation::from_axis_angle(&nalgebra::Unit::new_normalize(axis), theta)
        })
        .collect()
}

/// Bounds of a covering radius, in radians.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CoveringRadius {
    /// Some rotation is at least this far from all samples.
    pub lower: f64,
    /// No rotation is farther than this from the nearest sample.
    pub upper: f64,
}

/// The covering radius of `samples`, the largest geodesic distance of any rotation to the nearest
/// of them, between bounds of which `upper` <= (1 + `accuracy`) `lower`.
///
/// Branch and bound on the unit quaternions: the four cubes of the gnomonic projection are halved
/// until the distance at a cell's centre plus the cell's radius no longer exceeds the bound. A
/// cell hands to its halves only the samples that can be nearest somewhere in it. `accuracy` is
/// raised to 0.001 if it is smaller. Samples that hold NaN cover nothing. Without samples both
/// bounds are infinite. The time grows as 1/`accuracy`² where the farthest rotations form a surface,
/// as they do for a single sample.
pub fn covering_radius(samples: &[Rotation], accuracy: f64) -> CoveringRadius {
    if samples.is_empty() {
        return CoveringRadius { lower: f64::INFINITY, upper: f64::INFINITY };
    }
    let accuracy = accuracy.max(1e-3);
    let points: Vec<[f64; 4]> = samples.iter().map(rotations::to_quaternion).collect();
    let all: Vec<usize> = (0..points.len()).collect();
    // Distances between quaternions are half those between rotations.
    let mut lower: f64 = 0.0;
    let mut stack: Vec<(Cell, Vec<usize>)> =
        (0..4).map(|face| (Cell { face, centre: [0.0; 3], half: [1.0; 3] }, all.clone())).collect();
    while let Some((cell, candidates)) = stack.pop() {
        let centre = cell.quaternion([0.0; 3]);
        let distances: Vec<f64> =
            candidates.iter().map(|&i| quaternion_distance(centre, points[i])).collect();
        let nearest = distances.iter().copied().fold(FRAC_PI_2, f64::min);
        lower = lower.max(nearest);
        let radius = cell.radius();
        if nearest + radius <= lower * (1.0 + accuracy) {
            continue;
        }
        let kept: Vec<usize> = candidates
            .iter()
            .zip(&distances)
            .filter(|&(_, &d)| d <= nearest + 2.0 * radius)
            .map(|(&i, _)| i)
            .collect();
        let [first, second] = cell.halves();
        stack.push((first, kept.clone()));
        stack.push((second, kept));
    }
    CoveringRadius { lower: 2.0 * lower, upper: 2.0 * lower * (1.0 + accuracy) }
}

/// A box of the gnomonic projection: quaternions along (1, a, b, c), component `face` first.
#[derive(Clone, Copy)]
struct Cell {
    face: usize,
    centre: [f64; 3],
    half: [f64; 3],
}

impl Cell {
    /// Unit quaternion at the centre plus `offset` times the half sides.
    fn quaternion(&self, offset: [f64; 3]) -> [f64; 4] {
        let mut q = [1.0; 4];
        for axis in 0..3 {
            q[(self.face + 1 + axis) % 4] = self.centre[axis] + offset[axis] * self.half[axis];
        }
        let norm = q.iter().map(|c| c * c).sum::<f64>().sqrt();
        q.map(|c| c / norm)
    }

    /// Largest distance from the centre; a convex cell has it at a corner.
    fn radius(&self) -> f64 {
        let centre = self.quaternion([0.0; 3]);
        (0..8)
            .map(|corner| [0, 1, 2].map(|axis| if corner >> axis & 1 == 0 { 1.0 } else { -1.0 }))
            .map(|offset| quaternion_distance(centre, self.quaternion(offset)))
            .fold(0.0, f64::max)
    }

    fn halves(&self) -> [Self; 2] {
        let longest =
            (1..3).fold(0, |best, i| if self.half[i] > self.half[best] { i } else { best });
        let (mut first, mut second) = (*self, *self);
        let half = self.half[longest] / 2.0;
        first.half[longest] = half;
        second.half[longest] = half;
        first.centre[longest] -= half;
        second.centre[longest] += half;
        [first, second]
    }
}

/// Angle in [0, π/2] between unit quaternions up to sign; NaN if one of them holds NaN.
fn quaternion_distance(a: [f64; 4], b: [f64; 4]) -> f64 {
    let dot: f64 = a.iter().zip(b).map(|(a, b)| a * b).sum();
    if dot.abs() > 1.0 { 0.0 } else { dot.abs().acos() }
}

fn rotation_of([w, x, y, z]: [f64; 4]) -> Rotation {
    UnitQuaternion::from_quaternion(Quaternion::new(w, x, y, z)).to_rotation_matrix()
}
