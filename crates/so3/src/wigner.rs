//! Wigner-D matrices of the real spherical harmonics: Y_l(R v) = D_l(R) Y_l(v).
//!
//! With e3nn's Euler angles, D(R) = Z(alpha) J Z(beta) J Z(gamma), where Z(t) = D(R_y(t)) mixes
//! only m and -m, and J = D(half turn about (1, 1, 0)) exchanges the axes x and y (Pinchon and
//! Hoggan 2007, <https://doi.org/10.1088/1751-8113/40/7/011>). J is computed once for each l from
//! d^l(π/2), whose Wigner sum is a sum of integers and exact for l <= 20. J is symmetric and about
//! half of its elements vanish.

use std::sync::OnceLock;

use nalgebra::{Complex, DMatrix};
use rayon::prelude::*;

use crate::combinatorics::{binomial, factorial, sign};
use crate::{DegreeError, L_MAX, Rotation, check_degree, rotations};

/// Computes the Wigner-D matrix (2l+1, 2l+1) of a rotation, which acts on columns: Y_l(R v) = D_l(R) Y_l(v).
///
/// # Panics
/// If `l` is above [`L_MAX`]; [`wigner_d_batch`] returns an error instead.
///
/// ```
/// use steer3d_so3::{Rotation, wigner_d};
/// let r = Rotation::from_euler_angles(0.1, 0.2, 0.3);
/// assert_eq!(wigner_d(1, &r), *r.matrix());
/// ```
pub fn wigner_d(l: usize, rotation: &Rotation) -> DMatrix<f64> {
    assert!(l <= L_MAX, "{}", DegreeError { l });
    let mut workspace = Workspace::new(l);
    workspace.set(rotation);
    let mut out = vec![0.0; (2 * l + 1).pow(2)];
    workspace.fill(l, &mut out);
    DMatrix::from_row_slice(2 * l + 1, 2 * l + 1, &out)
}

/// The Wigner-D matrices of l = 0..=lmax of a rotation.
///
/// # Panics
/// If `lmax` is above [`L_MAX`].
pub fn wigner_d_all(lmax: usize, rotation: &Rotation) -> Vec<DMatrix<f64>> {
    assert!(lmax <= L_MAX, "{}", DegreeError { l: lmax });
    let mut out = vec![0.0; wigner_d_len(lmax)];
    Workspace::new(lmax).fill_all(rotation, &mut out);
    let mut rest = out.as_slice();
    (0..=lmax)
        .map(|l| {
            let n = 2 * l + 1;
            let (head, tail) = rest.split_at(n * n);
            rest = tail;
            DMatrix::from_row_slice(n, n, head)
        })
        .collect()
}

/// Returns the number of elements of the matrices l = 0..=lmax together, the sum of (2l+1)².
pub fn wigner_d_len(lmax: usize) -> usize {
    (lmax + 1) * (2 * lmax + 1) * (2 * lmax + 3) / 3
}

/// The Wigner-D matrices of many rotations, in parallel: for each rotation, the matrices of
/// l = 0..=lmax one after the other, each row-major; shape
/// (rotations.len(), [`wigner_d_len`]`(lmax)`).
///
/// # Errors
/// If `lmax` is above [`L_MAX`].
pub fn wigner_d_batch(lmax: usize, rotations: &[Rotation]) -> Result<Vec<f64>, DegreeError> {
    check_degree(lmax)?;
    let len = wigner_d_len(lmax);
    let mut out = vec![0.0; rotations.len() * len];
    out.par_chunks_mut(len).zip(rotations).for_each_init(
        || Workspace::new(lmax),
        |workspace, (row, rotation)| workspace.fill_all(rotation, row),
    );
    Ok(out)
}

/// Buffers for the matrices of one rotation after the other.
struct Workspace {
    rotation: Rotation,
    /// (cos, sin) of m alpha, m beta, m gamma for m = 0..=lmax.
    turns: [Vec<(f64, f64)>; 3],
    buffer: Vec<f64>,
}

impl Workspace {
    fn new(lmax: usize) -> Self {
        Self {
            rotation: Rotation::identity(),
            turns: std::array::from_fn(|_| vec![(1.0, 0.0); lmax + 1]),
            buffer: vec![0.0; (2 * lmax + 1).pow(2)],
        }
    }

    fn set(&mut self, rotation: &Rotation) {
        self.rotation = *rotation;
        for (turn, angle) in self.turns.iter_mut().zip(rotations::to_yxy(rotation)) {
            let (sin, cos) = angle.sin_cos();
            for m in 1..turn.len() {
                let (c, s) = turn[m - 1];
                turn[m] = (c * cos - s * sin, s * cos + c * sin);
            }
        }
    }

    fn fill_all(&mut self, rotation: &Rotation, out: &mut [f64]) {
        self.set(rotation);
        let mut rest = out;
        for l in 0..self.turns[0].len() {
            let (head, tail) = rest.split_at_mut((2 * l + 1).pow(2));
            self.fill(l, head);
            rest = tail;
        }
    }

    /// Row-major D_l of the rotation last set.
    fn fill(&mut self, l: usize, out: &mut [f64]) {
        let n = 2 * l + 1;
        if l == 0 {
            out[0] = 1.0;
            return;
        }
        if l == 1 {
            out.copy_from_slice(self.rotation.matrix().transpose().as_slice());
            return;
        }
        let j = exchange(l);
        let [alpha, beta, gamma] = &self.turns;
        // buffer = Z(beta) J Z(gamma), out = J buffer.
        let buffer = &mut self.buffer[..n * n];
        buffer.fill(0.0);
        for &(row, column, value) in j {
            buffer[row * n + column] = value;
        }
        turn_columns(gamma, l, buffer);
        turn_rows(beta, l, buffer);
        out.fill(0.0);
        for &(row, column, value) in j {
            let target = &mut out[row * n..(row + 1) * n];
            let source = &buffer[column * n..(column + 1) * n];
            for (t, s) in target.iter_mut().zip(source) {
                *t += value * s;
            }
        }
        turn_rows(alpha, l, out);
    }
}

/// Multiplies the row-major (2l+1, 2l+1) `matrix` by Z from the left.
fn turn_rows(turn: &[(f64, f64)], l: usize, matrix: &mut [f64]) {
    let n = 2 * l + 1;
    for m in 1..=l {
        let (cos, sin) = turn[m];
        let (upper, lower) = matrix.split_at_mut((l + m) * n);
        let negative = &mut upper[(l - m) * n..(l - m + 1) * n];
        for (a, b) in negative.iter_mut().zip(&mut lower[..n]) {
            (*a, *b) = (cos * *a + sin * *b, cos * *b - sin * *a);
        }
    }
}

/// Multiplies the row-major (2l+1, 2l+1) `matrix` by Z from the right.
fn turn_columns(turn: &[(f64, f64)], l: usize, matrix: &mut [f64]) {
    for row in matrix.chunks_exact_mut(2 * l + 1) {
        for m in 1..=l {
            let (cos, sin) = turn[m];
            let (a, b) = (row[l - m], row[l + m]);
            row[l - m] = cos * a - sin * b;
            row[l + m] = cos * b + sin * a;
        }
    }
}

type Sparse = Vec<(usize, usize, f64)>;

/// Nonzero elements (row, column, value) of J_l, sorted by row.
fn exchange(l: usize) -> &'static Sparse {
    static TABLES: [OnceLock<Sparse>; L_MAX + 1] = [const { OnceLock::new() }; L_MAX + 1];
    TABLES[l].get_or_init(|| {
        let n = 2 * l + 1;
        // In textbook axes (X, Y, Z) = (z, x, y) the half turn is R_Z(π/2) R_Y(π/2) R_Z(π/2).
        let quarter = DMatrix::from_fn(n, n, |row, column| {
            let (m, k) = (row as i64 - l as i64, column as i64 - l as i64);
            i_power(-(m + k)) * half_pi_d(l as i64, m, k)
        });
        let u = real_from_complex(l);
        let j = u.map(|c| c.conj()) * quarter * u.transpose();
        let mut nonzeros = Vec::new();
        for row in 0..n {
            for column in 0..n {
                let value = j[(row, column)].re;
                if value.abs() > 1e-15 {
                    nonzeros.push((row, column, value));
                }
            }
        }
        nonzeros
    })
}

/// d^l_{m k}(π/2) in the usual phase convention (Wigner's sum; Varshalovich et al. 1988,
/// §4.3.1).
fn half_pi_d(l: i64, m: i64, k: i64) -> f64 {
    let sum: i64 =
        (0..=l + k).map(|s| sign(s) * binomial(l + k, s) * binomial(l - k, l - m - s)).sum();
    let ratio = factorial(l + m) * factorial(l - m) / (factorial(l + k) * factorial(l - k));
    sign(m - k) as f64 * sum as f64 * ratio.sqrt() / (l as f64).exp2()
}

/// The matrix U with Y_real = U Y_complex in textbook axes; Y_complex has the Condon-Shortley
/// sign, Y_real has not.
pub(crate) fn real_from_complex(l: usize) -> DMatrix<Complex<f64>> {
    let h = std::f64::consts::FRAC_1_SQRT_2;
    let mut u = DMatrix::zeros(2 * l + 1, 2 * l + 1);
    u[(l, l)] = Complex::new(1.0, 0.0);
    for m in 1..=l {
        let signed = h * sign(m as i64) as f64;
        u[(l + m, l + m)] = Complex::new(signed, 0.0);
        u[(l + m, l - m)] = Complex::new(h, 0.0);
        u[(l - m, l + m)] = Complex::new(0.0, -signed);
        u[(l - m, l - m)] = Complex::new(0.0, h);
    }
    u
}

/// i^exponent.
pub(crate) fn i_power(exponent: i64) -> Complex<f64> {
    let [re, im] =
        [[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]][exponent.rem_euclid(4) as usize];
    Complex::new(re, im)
}
