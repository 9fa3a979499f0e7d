//! Quadrature on [-1, 1] and on the sphere, and the spherical harmonic transform.

use std::f64::consts::{PI, TAU};

use crate::{DegreeError, Normalization, SphericalHarmonics};

/// Nodes and weights of the `n`-point Gauss-Legendre rule on [-1, 1], ascending; exact for
/// polynomials of degree 2n - 1. Newton's method on the Legendre polynomial.
pub fn gauss_legendre(n: usize) -> (Vec<f64>, Vec<f64>) {
    let (mut nodes, mut weights) = (vec![0.0; n], vec![0.0; n]);
    for i in 0..n.div_ceil(2) {
        // Tricomi's estimate; three to five steps reach rounding.
        let mut x = -((i as f64 + 0.75) / (n as f64 + 0.5) * PI).cos();
        let mut slope = 1.0;
        for _ in 0..8 {
            let (value, derivative) = legendre(n, x);
            slope = derivative;
            x -= value / slope;
        }
        if 2 * i + 1 == n {
            x = 0.0;
            slope = legendre(n, x).1;
        }
        let weight = 2.0 / ((1.0 - x * x) * slope * slope);
        (nodes[i], weights[i]) = (x, weight);
        (nodes[n - 1 - i], weights[n - 1 - i]) = (-x, weight);
    }
    (nodes, weights)
}

/// P_n(x) and P_n'(x) for |x| < 1, n >= 1.
fn legendre(n: usize, x: f64) -> (f64, f64) {
    let (mut before, mut p) = (1.0, x);
    for k in 2..=n {
        let k = k as f64;
        (before, p) = (p, ((2.0 * k - 1.0) * x * p - (k - 1.0) * before) / k);
    }
    (p, n as f64 * (before - x * p) / (1.0 - x * x))
}

/// A product grid on the sphere, Gauss-Legendre in y and uniform in azimuth, on which functions of
/// degree <= lmax have an exact spherical harmonic transform.
///
/// The grid has (lmax+1)(2 lmax+1) points, y slowest; its weights sum to 4π and integrate
/// polynomials of degree 2 lmax exactly.
#[derive(Clone, Debug)]
pub struct SphereGrid {
    lmax: usize,
    points: Vec<[f64; 3]>,
    weights: Vec<f64>,
    /// Integral-normalised harmonics, row-major (points, (lmax+1)²).
    harmonics: Vec<f64>,
}

impl SphereGrid {
    /// Makes the grid of (lmax+1)(2 lmax+1) points for degrees up to `lmax`.
    ///
    /// # Errors
    /// If `lmax` is above [`crate::L_MAX`].
    pub fn new(lmax: usize) -> Result<Self, DegreeError> {
        let table = SphericalHarmonics::<f64>::new(lmax, Normalization::Integral)?;
        let azimuths = 2 * lmax + 1;
        let (nodes, node_weights) = gauss_legendre(lmax + 1);
        let (mut points, mut weights) = (Vec::new(), Vec::new());
        for (y, weight) in nodes.into_iter().zip(node_weights) {
            let radius = (1.0 - y * y).sqrt();
            for k in 0..azimuths {
                let (sin, cos) = (TAU * k as f64 / azimuths as f64).sin_cos();
                points.push([radius * sin, y, radius * cos]);
                weights.push(weight * TAU / azimuths as f64);
            }
        }
        let harmonics = table.eval_batch(&points);
        Ok(Self { lmax, points, weights, harmonics })
    }

    /// Returns the largest degree that the grid transforms exactly.
    pub fn lmax(&self) -> usize {
        self.lmax
    }

    /// Returns the unit vectors (x, y, z) of the grid, y slowest.
    pub fn points(&self) -> &[[f64; 3]] {
        &self.points
    }

    /// Returns the quadrature weight of each point. Their sum is 4π.
    pub fn weights(&self) -> &[f64] {
        &self.weights
    }

    /// Coefficients c_{l,m} = ∫ f Y_{l,m} at index l² + l + m, in the integral normalisation, of
    /// the function with `values` at the grid's points.
    ///
    /// # Panics
    /// If there is not one value per point.
    pub fn analyse(&self, values: &[f64]) -> Vec<f64> {
        assert_eq!(values.len(), self.points.len(), "one value per grid point");
        let dim = (self.lmax + 1).pow(2);
        let mut coefficients = vec![0.0; dim];
        for ((value, weight), row) in
            values.iter().zip(&self.weights).zip(self.harmonics.chunks_exact(dim))
        {
            for (c, y) in coefficients.iter_mut().zip(row) {
                *c += value * weight * y;
            }
        }
        coefficients
    }

    /// Values at the grid's points of the function with these coefficients; the inverse of
    /// [`analyse`](Self::analyse) on functions of degree <= lmax.
    ///
    /// # Panics
    /// If there are not (lmax+1)² coefficients.
    pub fn synthesise(&self, coefficients: &[f64]) -> Vec<f64> {
        let dim = (self.lmax + 1).pow(2);
        assert_eq!(coefficients.len(), dim, "one coefficient per (l, m)");
        self.harmonics
            .chunks_exact(dim)
            .map(|row| row.iter().zip(coefficients).map(|(y, c)| y * c).sum())
            .collect()
    }
}

/// The 50 points and weights of Lebedev's rule of degree 11 (Lebedev 1976, "Quadratures on a sphere",
/// <https://doi.org/10.1016/0041-5553(76)90100-2>), weights of sum 4π. The symmetries of the cube permute
/// its points.
pub fn lebedev_50() -> (Vec<[f64; 3]>, Vec<f64>) {
    // Points (x, y, z) whose squares are thirds, halves or elevenths, with the weight of one of them.
    let orbits = [
        ([0.0, 0.0, 1.0], 4.0 / 315.0),
        ([0.0, 1.0, 1.0], 64.0 / 2835.0),
        ([1.0, 1.0, 1.0], 27.0 / 1280.0),
        ([1.0, 1.0, 3.0], 14641.0 / 725_760.0),
    ];
    let (mut points, mut weights) = (Vec::new(), Vec::new());
    for ([a, b, c], weight) in orbits {
        let norm = f64::sqrt(a * a + b * b + c * c);
        let mut orbit: Vec<[f64; 3]> = Vec::new();
        for place in [[a, b, c], [b, c, a], [c, a, b]] {
            for signs in 0..8 {
                let sign = |axis: usize| if signs >> axis & 1 == 0 { 1.0 } else { -1.0 };
                let point = [0, 1, 2].map(|axis| place[axis] * sign(axis) / norm + 0.0);
                if !orbit.contains(&point) {
                    orbit.push(point);
                }
            }
        }
        weights.extend(vec![4.0 * PI * weight; orbit.len()]);
        points.extend(orbit);
    }
    (points, weights)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lebedev_integrates_all_harmonics_to_degree_11_and_not_12() {
        let (points, weights) = lebedev_50();
        assert_eq!(points.len(), 50);
        let table = SphericalHarmonics::<f64>::new(12, Normalization::Integral).unwrap();
        let values = table.eval_batch(&points);
        let integral =
            |k: usize| -> f64 { values.chunks(169).zip(&weights).map(|(row, w)| row[k] * w).sum() };
        assert!((integral(0) - (4.0 * PI).sqrt()).abs() < 1e-13);
        assert!((1..144).all(|k| integral(k).abs() < 1e-13));
        assert!((144..169).any(|k| integral(k).abs() > 1e-2));
    }
}
