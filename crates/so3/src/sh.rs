//! Real spherical harmonics by a stable recurrence.
//!
//! With the textbook coordinates (X, Y, Z) = (z, x, y) of a unit vector and
//! c_m + i s_m = (X + i Y)^m,
//!
//! ```text
//! Y_{l,m} = q_{l,m}(Z) c_m  (m >= 0),      Y_{l,-m} = q_{l,m}(Z) s_m  (m > 0)
//! q_{0,0} = 1,  q_{1,1} = √3,  q_{m,m} = √((2m+1)/2m) q_{m-1,m-1}
//! q_{l,m} = a Z q_{l-1,m} - b |v|² q_{l-2,m}
//! a = √((4l²-1)/(l²-m²)),      b = √((2l+1)(l+m-1)(l-m-1) / ((2l-3)(l²-m²)))
//! ```
//!
//! is the component normalisation (sum over m of Y² is 2l+1). It is the fully normalised forward
//! column recurrence of Holmes and Featherstone 2002 (eq. 11,
//! <https://doi.org/10.1007/s00190-002-0216-2>) with the powers of the sine moved into c_m and s_m,
//! which makes it a polynomial in x, y, z without a singularity at the poles.

use std::sync::OnceLock;

use nalgebra::RealField;
use rayon::prelude::*;

use crate::{DegreeError, L_MAX, check_degree};

/// Scale of the spherical harmonics on unit vectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Normalization {
    /// Sum over m of Y² is 2l+1.
    Component,
    /// Orthonormal on the sphere: sum over m of Y² is (2l+1)/4π.
    Integral,
    /// Sum over m of Y² is 1.
    Norm,
}

impl Normalization {
    /// Returns the factor from the component normalisation to this one at degree `l`.
    pub fn scale(self, l: usize) -> f64 {
        match self {
            Self::Component => 1.0,
            Self::Integral => (4.0 * std::f64::consts::PI).sqrt().recip(),
            Self::Norm => ((2 * l + 1) as f64).sqrt().recip(),
        }
    }
}

/// Evaluator of Y_0..Y_lmax for `f64` or `f32`, with its recurrence coefficients.
///
/// Outputs are concatenated: Y_{l,m} is at index l² + l + m of (lmax+1)² values.
#[derive(Clone, Debug)]
pub struct SphericalHarmonics<T> {
    lmax: usize,
    /// q_{m,m}.
    diagonal: Vec<T>,
    /// (a, b) of q_{l,m}, for m = 0..=lmax and, inside, l = m+1..=lmax.
    steps: Vec<(T, T)>,
}

impl<T: RealField + Copy> SphericalHarmonics<T> {
    /// Makes the evaluator of all degrees up to `lmax`.
    ///
    /// # Errors
    /// If `lmax` is above [`L_MAX`].
    pub fn new(lmax: usize, normalization: Normalization) -> Result<Self, DegreeError> {
        check_degree(lmax)?;
        let scale = |l| normalization.scale(l);
        let mut diagonal = vec![nalgebra::convert(scale(0))];
        let mut q = 1.0;
        for m in 1..=lmax {
            let ratio = if m == 1 { 3.0 } else { (2 * m + 1) as f64 / (2 * m) as f64 };
            q *= f64::sqrt(ratio);
            diagonal.push(nalgebra::convert(q * scale(m)));
        }
        let mut steps = Vec::with_capacity(lmax * (lmax + 1) / 2);
        for m in 0..=lmax {
            for l in m + 1..=lmax {
                let (a, b) = recurrence(l, m);
                let a = a * scale(l) / scale(l - 1);
                let b = if b == 0.0 { 0.0 } else { b * scale(l) / scale(l - 2) };
                steps.push((nalgebra::convert(a), nalgebra::convert(b)));
            }
        }
        Ok(Self { lmax, diagonal, steps })
    }

    /// Returns the largest degree that is evaluated.
    pub fn lmax(&self) -> usize {
        self.lmax
    }

    /// Returns the number of values for each point, (lmax+1)².
    pub fn dim(&self) -> usize {
        (self.lmax + 1).pow(2)
    }

    /// Writes Y_0..Y_lmax of the direction of `point` (x, y, z; any length) to `out`.
    ///
    /// The zero vector has no direction: there, Y_0 has its constant value and all others are 0.
    ///
    /// # Panics
    /// If `out` has not [`dim`](Self::dim) elements.
    pub fn eval_into(&self, point: [T; 3], out: &mut [T]) {
        assert_eq!(out.len(), self.dim(), "one value per (l, m)");
        match unit(point) {
            Some(u) => self.recur(self.lmax, u, T::one(), out),
            None => self.at_zero(out),
        }
    }

    /// Writes the values as [`eval_into`](Self::eval_into) and their gradients with respect to
    /// x, y, z (the harmonics are constant along the radius) to `gradient`, one triple per value.
    /// At the zero vector all gradients are set to 0.
    ///
    /// # Panics
    /// If `out` or `gradient` has not [`dim`](Self::dim) elements.
    pub fn eval_gradient_into(&self, point: [T; 3], out: &mut [T], gradient: &mut [[T; 3]]) {
        assert_eq!(out.len(), self.dim(), "one value per (l, m)");
        assert_eq!(gradient.len(), self.dim(), "one gradient per (l, m)");
        let Some(u) = unit(point) else {
            self.at_zero(out);
            gradient.fill([T::zero(); 3]);
            return;
        };
        self.recur_gradient(u, out, gradient);
        let radius = norm(point);
        for g in gradient {
            let radial = g[0] * u[0] + g[1] * u[1] + g[2] * u[2];
            for axis in 0..3 {
                g[axis] = (g[axis] - radial * u[axis]) / radius;
            }
        }
    }

    /// Evaluates Y_0..Y_lmax at many points (x, y, z; any length), in parallel. The values are row-major,
    /// (points.len(), dim).
    pub fn eval_batch(&self, points: &[[T; 3]]) -> Vec<T>
    where
        T: Send + Sync,
    {
        let mut out = vec![T::zero(); points.len() * self.dim()];
        self.eval_batch_into(points, &mut out);
        out
    }

    /// Evaluates as [`eval_batch`](Self::eval_batch) into a buffer, which saves its allocation.
    ///
    /// # Panics
    /// If `out` has not `points.len()` times [`dim`](Self::dim) elements.
    pub fn eval_batch_into(&self, points: &[[T; 3]], out: &mut [T])
    where
        T: Send + Sync,
    {
        assert_eq!(out.len(), points.len() * self.dim(), "one row per point");
        out.par_chunks_mut(self.dim() * POINTS_PER_TASK)
            .zip(points.par_chunks(POINTS_PER_TASK))
            .for_each(|(rows, points)| {
                for (row, &point) in rows.chunks_exact_mut(self.dim()).zip(points) {
                    self.eval_into(point, row);
                }
            });
    }

    /// Evaluates values and their gradients with respect to x, y, z at many points, in parallel. Both are
    /// row-major, (points.len(), dim).
    pub fn eval_gradient_batch(&self, points: &[[T; 3]]) -> (Vec<T>, Vec<[T; 3]>)
    where
        T: Send + Sync,
    {
        let mut out = vec![T::zero(); points.len() * self.dim()];
        let mut gradient = vec![[T::zero(); 3]; points.len() * self.dim()];
        out.par_chunks_mut(self.dim())
            .zip(gradient.par_chunks_mut(self.dim()))
            .zip(points)
            .for_each(|((row, gradient), &point)| self.eval_gradient_into(point, row, gradient));
        (out, gradient)
    }

    fn at_zero(&self, out: &mut [T]) {
        out.fill(T::zero());
        out[0] = self.diagonal[0];
    }

    /// The recurrence of the module's documentation for l = 0..=lmax, with |v|² = `r2`.
    fn recur(&self, lmax: usize, [x, y, z]: [T; 3], r2: T, out: &mut [T]) {
        let (mut c, mut s) = (T::one(), T::zero());
        let mut first = 0;
        for m in 0..=lmax {
            let mut write = |l: usize, q: T| {
                out[l * l + l - m] = q * s;
                out[l * l + l + m] = q * c;
            };
            let (mut before, mut q) = (T::zero(), self.diagonal[m]);
            write(m, q);
            for (l, &(a, b)) in (m + 1..=lmax).zip(&self.steps[first..]) {
                (before, q) = (q, a * y * q - b * r2 * before);
                write(l, q);
            }
            first += self.lmax - m;
            (c, s) = (c * z - s * x, s * z + c * x);
        }
    }

    /// [`recur`](Self::recur) on the unit sphere with the gradient of q_{l,m}(Z) c_m as a function
    /// on space; its part along the radius has no meaning.
    fn recur_gradient(&self, [x, y, z]: [T; 3], out: &mut [T], gradient: &mut [[T; 3]]) {
        let (mut c, mut s) = (T::one(), T::zero());
        // m c_{m-1} and m s_{m-1}.
        let (mut dc, mut ds) = (T::zero(), T::zero());
        let mut first = 0;
        for m in 0..=self.lmax {
            let mut write = |l: usize, q: T, dq: T| {
                let (sine, cosine) = (l * l + l - m, l * l + l + m);
                out[sine] = q * s;
                gradient[sine] = [q * dc, dq * s, q * ds];
                out[cosine] = q * c;
                gradient[cosine] = [-q * ds, dq * c, q * dc];
            };
            let (mut before, mut q) = (T::zero(), self.diagonal[m]);
            let (mut dbefore, mut dq) = (T::zero(), T::zero());
            write(m, q, dq);
            for (l, &(a, b)) in (m + 1..=self.lmax).zip(&self.steps[first..]) {
                (dbefore, dq) = (dq, a * (q + y * dq) - b * dbefore);
                (before, q) = (q, a * y * q - b * before);
                write(l, q, dq);
            }
            first += self.lmax - m;
            let order: T = nalgebra::convert((m + 1) as f64);
            (dc, ds) = (order * c, order * s);
            (c, s) = (c * z - s * x, s * z + c * x);
        }
    }
}

/// Enough work per task that its overhead does not show.
const POINTS_PER_TASK: usize = 256;

/// Spherical harmonics of the direction of `point` (x, y, z; any length), concatenated for
/// l = 0..=lmax: Y_{l,m} is at index l² + l + m. At the zero vector all but Y_0 are 0.
///
/// # Panics
/// If `lmax` is above [`L_MAX`]; [`SphericalHarmonics::new`] returns an error instead.
///
/// ```
/// use steer3d_so3::{Normalization, spherical_harmonics};
/// let y = spherical_harmonics(1, [0.0, 0.6, 0.8], Normalization::Norm);
/// assert!((y[2] - 0.6).abs() < 1e-15 && (y[3] - 0.8).abs() < 1e-15);
/// ```
pub fn spherical_harmonics(lmax: usize, point: [f64; 3], normalization: Normalization) -> Vec<f64> {
    match unit(point) {
        Some(u) => truncated(lmax, u, 1.0, normalization),
        None => truncated(lmax, [0.0; 3], 0.0, normalization),
    }
}

/// Solid harmonics |v|^l Y_l(v/|v|) of `point` = v, concatenated as [`spherical_harmonics`]:
/// homogeneous harmonic polynomials of degree l in x, y, z.
///
/// # Panics
/// If `lmax` is above [`L_MAX`].
pub fn solid_harmonics(lmax: usize, point: [f64; 3], normalization: Normalization) -> Vec<f64> {
    let r2 = point.iter().map(|c| c * c).sum();
    truncated(lmax, point, r2, normalization)
}

fn truncated(lmax: usize, point: [f64; 3], r2: f64, normalization: Normalization) -> Vec<f64> {
    static COMPONENT: OnceLock<SphericalHarmonics<f64>> = OnceLock::new();
    assert!(lmax <= L_MAX, "{}", DegreeError { l: lmax });
    let table = COMPONENT.get_or_init(|| {
        SphericalHarmonics::new(L_MAX, Normalization::Component).expect("L_MAX is supported")
    });
    let mut out = vec![0.0; (lmax + 1).pow(2)];
    table.recur(lmax, point, r2, &mut out);
    for l in 0..=lmax {
        let scale = normalization.scale(l);
        for value in &mut out[l * l..(l + 1) * (l + 1)] {
            *value *= scale;
        }
    }
    out
}

fn recurrence(l: usize, m: usize) -> (f64, f64) {
    let (l, m) = (l as f64, m as f64);
    let d = l * l - m * m;
    let a = (4.0 * l * l - 1.0) / d;
    let b = (2.0 * l + 1.0) * (l + m - 1.0) * (l - m - 1.0) / ((2.0 * l - 3.0) * d);
    (a.sqrt(), b.sqrt())
}

/// Largest magnitude of a coordinate, scaled out so that squares neither overflow nor underflow.
fn largest<T: RealField + Copy>(p: [T; 3]) -> T {
    p[0].abs().max(p[1].abs()).max(p[2].abs())
}

fn norm<T: RealField + Copy>(p: [T; 3]) -> T {
    let scale = largest(p);
    let [x, y, z] = p.map(|c| c / scale);
    scale * (x * x + y * y + z * z).sqrt()
}

fn unit<T: RealField + Copy>(p: [T; 3]) -> Option<[T; 3]> {
    if p == [T::zero(); 3] {
        return None;
    }
    let scale = largest(p);
    let [x, y, z] = p.map(|c| c / scale);
    let inverse = T::one() / (x * x + y * y + z * z).sqrt();
    Some([x * inverse, y * inverse, z * inverse])
}
