//! How far sampled kernels are from exact rotation equivariance.
//!
//! # Definition
//! Take a stationary random field of Gaussian bumps exp(−|p−q|²/2s²) at uniform positions with
//! independent normal amplitudes, and a uniform random rotation R. For harmonic functions b on the taps
//! the response to the field, given analytically, should turn into D_J(R) times itself. The error is
//!
//! e² = E |b∗(R f)(0) − D_J(R) (b∗f)(0)|² / E |(b∗f)(0)|².
//!
//! # Closed form
//! With b̂(w) = Σ_x b(x) e^{iw·x} and the power spectrum S(w) ∝ exp(−s²|w|²) of the field the mean over
//! fields is an integral over w, and the mean over rotations splits b̂ into the part h(|w|) Y_J(w/|w|)
//! that turns correctly and a residual that averages to nothing: e² = 2 ∫S|residual|² / ∫S|b̂|².
//! Both integrals are evaluated by Gauss-Legendre quadrature, so that no field is ever drawn, no
//! rotation sampled and nothing interpolated. `tests/equivariance.rs` compares with drawn fields.

use nalgebra::{DMatrix, SymmetricEigen};
use rayon::prelude::*;
use steer3d_so3::{Irreps, Normalization, spherical_harmonics};

use crate::family::require_positive;
use crate::{Family, HarmonicFamily, HarmonicFunction, KernelBasis, KernelError, TapGrid};

/// Power of the responses to a random field, up to a common factor.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ResponsePower {
    /// Of the whole response.
    pub total: f64,
    /// Of the part that does not turn as Y_J.
    pub residual: f64,
}

impl ResponsePower {
    /// The relative equivariance error e of the module docs.
    pub fn error(&self) -> f64 {
        (2.0 * self.residual / self.total).sqrt()
    }
}

/// Quadrature over the frequencies of random fields of one width.
#[derive(Debug, Clone)]
pub struct FieldSpectrum {
    /// Radius and weight, with S(w) and w² in the weight.
    radii: Vec<(f64, f64)>,
    /// Direction in the first octant and weight; the weights sum to 1.
    directions: Vec<([f64; 3], f64)>,
}

impl FieldSpectrum {
    /// Fields of Gaussian bumps of standard deviation `width`, in the unit of the voxel size.
    ///
    /// # Errors
    /// If `width` is not positive and finite.
    pub fn new(width: f64) -> Result<Self, KernelError> {
        Self::with_nodes(width, 20, 12)
    }

    /// As [`Self::new`] with `radial` radii and `angular`² directions. The directions cover one octant:
    /// every sampled harmonic function is even or odd under the reflection of each axis.
    pub fn with_nodes(width: f64, radial: usize, angular: usize) -> Result<Self, KernelError> {
        require_positive("field width", width)?;
        // exp(-s²w²) w² is below 1e-9 of its maximum beyond w = 5/s.
        let radii = gauss_legendre(radial)
            .into_iter()
            .map(|(x, weight)| {
                let r = 5.0 / width * x;
                (r, weight * r * r * (-(width * r).powi(2)).exp())
            })
            .collect();
        let nodes = gauss_legendre(angular);
        let directions = nodes
            .iter()
            .flat_map(|&(cos, w_cos)| {
                nodes.iter().map(move |&(turn, w_turn)| {
                    let (sin, angle) =
                        ((1.0 - cos * cos).sqrt(), turn * std::f64::consts::FRAC_PI_2);
                    ([sin * angle.cos(), sin * angle.sin(), cos], w_cos * w_turn)
                })
            })
            .collect();
        Ok(Self { radii, directions })
    }

    /// Response powers of functions of the given `degrees`. `transform(w)` returns their Fourier
    /// transforms at w, concatenated; the factor i of odd functions is left out.
    pub fn response_powers(
        &self,
        degrees: &[usize],
        transform: impl Fn([f64; 3]) -> Vec<f64> + Sync,
    ) -> Vec<ResponsePower> {
        let jmax = degrees.iter().copied().max().unwrap_or(0);
        let harmonics: Vec<Vec<f64>> = self
            .directions
            .iter()
            .map(|&(u, _)| spherical_harmonics(jmax, u, Normalization::Component))
            .collect();
        let shells: Vec<Vec<ResponsePower>> = self
            .radii
            .par_iter()
            .map(|&(r, weight)| {
                let values: Vec<Vec<f64>> =
                    self.directions.iter().map(|&(u, _)| transform(u.map(|c| c * r))).collect();
                self.shell_powers(degrees, &values, &harmonics, weight)
            })
            .collect();
        let sum = |f: usize, part: fn(&ResponsePower) -> f64| {
            shells.iter().map(|shell| part(&shell[f])).sum()
        };
        (0..degrees.len())
            .map(|f| ResponsePower { total: sum(f, |p| p.total), residual: sum(f, |p| p.residual) })
            .collect()
    }

    /// The powers on one sphere of frequencies.
    fn shell_powers(
        &self,
        degrees: &[usize],
        values: &[Vec<f64>],
        harmonics: &[Vec<f64>],
        weight: f64,
    ) -> Vec<ResponsePower> {
        let mut start = 0;
        let mut powers = Vec::with_capacity(degrees.len());
        for &j in degrees {
            let dim = 2 * j + 1;
            let nodes = || {
                (self.directions.iter().zip(values).zip(harmonics)).map(|((&(_, w), v), y)| {
                    (w, &v[start..start + dim], &y[j * j..(j + 1) * (j + 1)])
                })
            };
            let radial: f64 = nodes().map(|(w, v, y)| w * dot(v, y)).sum::<f64>() / dim as f64;
            let mut power = ResponsePower { total: 0.0, residual: 0.0 };
            for (w, v, y) in nodes() {
                power.total += weight * w * dot(v, v);
                let residual = v.iter().zip(y).map(|(v, y)| (v - radial * y).powi(2));
                power.residual += weight * w * residual.sum::<f64>();
            }
            powers.push(power);
            start += dim;
        }
        powers
    }

    /// Response powers of sampled functions on the taps of `grid`.
    pub fn sampled_powers(
        &self,
        functions: &[HarmonicFunction],
        grid: &TapGrid,
    ) -> Vec<ResponsePower> {
        self.response_powers(&degrees(functions), transform_of(functions, grid))
    }
}

fn degrees(functions: &[HarmonicFunction]) -> Vec<usize> {
    functions.iter().map(|f| f.j).collect()
}

/// The Fourier transforms of sampled functions, without the factor i of odd ones.
fn transform_of(
    functions: &[HarmonicFunction],
    grid: &TapGrid,
) -> impl Fn([f64; 3]) -> Vec<f64> + Sync {
    let positions = grid.positions();
    move |w| {
        let phases: Vec<(f64, f64)> = positions.iter().map(|p| dot(p, &w).sin_cos()).collect();
        let mut transform = Vec::new();
        for f in functions {
            for samples in f.samples.chunks_exact(phases.len()) {
                let terms = samples.iter().zip(&phases);
                transform.push(if f.j.is_multiple_of(2) {
                    terms.map(|(b, (_, cos))| b * cos).sum()
                } else {
                    terms.map(|(b, (sin, _))| b * sin).sum()
                });
            }
        }
        transform
    }
}

/// Kernel-level error of each function of `family` on `size`³ cubic voxels for fields of width
/// `field_width` voxels, as (J, radial index, error).
///
/// # Errors
/// If the size, the width or a parameter of the family is out of range.
pub fn kernel_errors(
    family: &dyn HarmonicFamily,
    size: usize,
    jmax: usize,
    field_width: f64,
) -> Result<Vec<(usize, usize, f64)>, KernelError> {
    let grid = TapGrid::new(size, [1.0; 3])?;
    let functions = family.sample(&grid, jmax)?;
    let powers = FieldSpectrum::new(field_width)?.sampled_powers(&functions, &grid);
    Ok(functions.iter().zip(powers).map(|(f, p)| (f.j, f.radial, p.error())).collect())
}

/// Mean of [`kernel_errors`] over all functions up to degree `jmax`.
///
/// # Errors
/// As [`kernel_errors`].
pub fn mean_kernel_error(
    family: &dyn HarmonicFamily,
    size: usize,
    jmax: usize,
    field_width: f64,
) -> Result<f64, KernelError> {
    let errors = kernel_errors(family, size, jmax, field_width)?;
    Ok(errors.iter().map(|(_, _, e)| e).sum::<f64>() / errors.len() as f64)
}

/// Error of a whole layer at initialisation: independent random fields of width `field_width` in every
/// input component, the mean over the weights of [`KernelBasis::initial_weights`], over fields and over
/// rotations taken in closed form; relative to the norm of all output components together.
///
/// # Errors
/// As [`KernelBasis::new`], or if the width is out of range.
pub fn layer_error(
    irreps_in: &Irreps,
    irreps_out: &Irreps,
    size: usize,
    family: &Family,
    field_width: f64,
) -> Result<f64, KernelError> {
    let basis = KernelBasis::new(irreps_in, irreps_out, size, family, [1.0; 3])?;
    let functions = family.sample(basis.grid(), irreps_in.lmax() + irreps_out.lmax())?;
    let powers = FieldSpectrum::new(field_width)?.sampled_powers(&functions, basis.grid());
    Ok(layer_power(&basis, &functions, &powers).error())
}

/// How much the output of a layer depends on the voxels of its volume: on voxels of edges `voxel_size` (x, y, z) its
/// difference from that on cubic voxels of edge 1, for which the kernels were made, at the same places, over the latter
/// (root mean squares). Fields and weights as in [`layer_error`], in closed form: with the transforms b̂' and b̂ of
/// the sampled functions √(∫S|b̂' − b̂|² / ∫S|b̂|²). What the voxels cannot hold of a field is an error, too.
///
/// # Errors
/// As [`layer_error`], and if the kernels cannot have such voxels ([`TapGrid::at_spacing`]).
pub fn spacing_error(
    irreps_in: &Irreps,
    irreps_out: &Irreps,
    size: usize,
    family: &Family,
    voxel_size: [f64; 3],
    field_width: f64,
) -> Result<f64, KernelError> {
    let basis = KernelBasis::new(irreps_in, irreps_out, size, family, [1.0; 3])?;
    let grid = basis.grid().at_spacing(voxel_size)?;
    let jmax = irreps_in.lmax() + irreps_out.lmax();
    let (functions, others) = (family.sample(basis.grid(), jmax)?, family.sample(&grid, jmax)?);
    let (transform, other) = (transform_of(&functions, basis.grid()), transform_of(&others, &grid));
    let spectrum = FieldSpectrum::new(field_width)?;
    let total = |transform: &(dyn Fn([f64; 3]) -> Vec<f64> + Sync)| {
        let powers = spectrum.response_powers(&degrees(&functions), transform);
        layer_power(&basis, &functions, &powers).total
    };
    let gap = |w| other(w).iter().zip(transform(w)).map(|(a, b)| a - b).collect();
    Ok((total(&gap) / total(&transform)).sqrt())
}

/// The power of the output of a layer, of those of the functions of its kernels.
fn layer_power(
    basis: &KernelBasis,
    functions: &[HarmonicFunction],
    powers: &[ResponsePower],
) -> ResponsePower {
    let of_path = |j, radial| {
        functions.iter().zip(powers).find(|(f, _)| (f.j, f.radial) == (j, radial)).map(|(_, p)| *p)
    };
    mixed_power(basis.path_powers().filter_map(|(path, share)| {
        of_path(path.j, path.radial).map(|p| (share / (2 * path.j + 1) as f64, p))
    }))
}

/// Σ weight · power.
pub fn mixed_power(terms: impl IntoIterator<Item = (f64, ResponsePower)>) -> ResponsePower {
    let zero = ResponsePower { total: 0.0, residual: 0.0 };
    terms.into_iter().fold(zero, |sum, (weight, p)| ResponsePower {
        total: sum.total + weight * p.total,
        residual: sum.residual + weight * p.residual,
    })
}

/// Nodes and weights of Gauss-Legendre quadrature on \[0, 1\] (Golub and Welsch 1969).
fn gauss_legendre(n: usize) -> Vec<(f64, f64)> {
    let off_diagonal = |i: usize| i as f64 / ((4 * i * i - 1) as f64).sqrt();
    let jacobi = DMatrix::from_fn(n, n, |r, c| match r.abs_diff(c) {
        1 => off_diagonal(r.max(c)),
        _ => 0.0,
    });
    let eigen = SymmetricEigen::new(jacobi);
    let nodes = eigen.eigenvalues.iter().map(|x| (1.0 + x) / 2.0);
    nodes.zip(eigen.eigenvectors.row(0).iter().map(|v| v * v)).collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(x, y)| x * y).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gauss_legendre_integrates_polynomials() {
        let rule = gauss_legendre(6);
        for power in 0..12 {
            let sum: f64 = rule.iter().map(|(x, w)| w * x.powi(power)).sum();
            assert!((sum - 1.0 / f64::from(power + 1)).abs() < 1e-14);
        }
    }

    #[test]
    fn quadrature_has_converged() {
        let grid = TapGrid::new(7, [1.0; 3]).unwrap();
        for family in [Family::shells(), Family::jets(4)] {
            let functions = family.sample(&grid, 4).unwrap();
            let errors = |spectrum: FieldSpectrum| -> Vec<f64> {
                spectrum
                    .sampled_powers(&functions, &grid)
                    .iter()
                    .map(ResponsePower::error)
                    .collect()
            };
            let coarse = errors(FieldSpectrum::new(1.0).unwrap());
            let fine = errors(FieldSpectrum::with_nodes(1.0, 40, 24).unwrap());
            for (c, f) in coarse.iter().zip(fine) {
                assert!((c - f).abs() < 1e-4 * f, "{c} {f}");
            }
        }
    }
}
