//! Functions on the taps that rotate like one spherical harmonic degree.

use nalgebra::{DMatrix, DVector};
use steer3d_so3::{L_MAX, Normalization, spherical_harmonics};

use crate::{KernelError, TapGrid};

/// 2J+1 functions b_M on the taps of a [`TapGrid`] with b(R x) = D_J(R) b(x).
#[derive(Debug, Clone, PartialEq)]
pub struct HarmonicFunction {
    /// Angular degree J.
    pub j: usize,
    /// Index of the radial part among the functions of this degree's family.
    pub radial: usize,
    /// Values, \[2J+1, k, k, k\] with taps in z, y, x order.
    pub samples: Vec<f64>,
}

impl HarmonicFunction {
    /// The factor that makes Σ_M Σ_x b_M(x)² = 2J+1, i.e. a response of unit variance in each component
    /// to white noise of unit variance; `None` if the function vanishes on the taps.
    pub fn white_noise_scale(&self) -> Option<f64> {
        let norm_sq: f64 = self.samples.iter().map(|v| v * v).sum();
        (norm_sq > 1e-20).then(|| ((2 * self.j + 1) as f64 / norm_sq).sqrt())
    }

    /// The function times `scale`.
    #[must_use]
    pub fn scaled(mut self, scale: f64) -> Self {
        self.samples.iter_mut().for_each(|v| *v *= scale);
        self
    }
}

/// A family of harmonic functions: the one thing that distinguishes kernel families.
pub trait HarmonicFamily {
    /// All functions of degree at most `jmax` on the taps of `grid`, ordered by degree and then by
    /// radial index, each with unit-variance response to white noise on the taps that `grid` is
    /// [made for](TapGrid::made_for). On other taps these are the same functions, times the
    /// [volume ratio](TapGrid::volume_ratio), so that sums over the taps stand for the same integral.
    ///
    /// # Errors
    /// If a parameter of the family is out of range for this grid, or `jmax` is above
    /// [`steer3d_so3::L_MAX`] and the family has functions of such a degree.
    fn sample(&self, grid: &TapGrid, jmax: usize) -> Result<Vec<HarmonicFunction>, KernelError>;
}

/// Samples radial(n, |x|) Y_J(x/|x|) for every degree J ≤ `jmax` and n < `count` with
/// `admits(J, n)`; functions that vanish on the taps that the grid is made for are left out. Y_J(0) = 0 for J > 0.
pub(crate) fn sample_radial_family(
    grid: &TapGrid,
    jmax: usize,
    count: usize,
    admits: impl Fn(usize, usize) -> bool + Copy,
    radial: impl Fn(usize, f64) -> f64,
) -> Result<Vec<HarmonicFunction>, KernelError> {
    if jmax > L_MAX {
        return Err(KernelError::Parameter {
            name: "jmax",
            found: jmax as f64,
            expected: format!("at most {L_MAX}"),
        });
    }
    let sample = |grid: &TapGrid| -> Vec<HarmonicFunction> {
        let positions = grid.positions();
        let radii: Vec<f64> = positions.iter().map(norm).collect();
        let harmonics = |&p: &[f64; 3]| spherical_harmonics(jmax, p, Normalization::Component);
        let angular: Vec<Vec<f64>> = positions.iter().map(harmonics).collect();
        let function = |j: usize, n: usize| {
            let values: Vec<f64> = radii.iter().map(|&r| radial(n, r)).collect();
            let component = |c: usize| values.iter().zip(&angular).map(move |(v, y)| v * y[c]);
            let samples = (j * j..(j + 1) * (j + 1)).flat_map(component).collect();
            HarmonicFunction { j, radial: n, samples }
        };
        let indices = |j: usize| (0..count).filter(move |&n| admits(j, n)).map(move |n| (j, n));
        (0..=jmax).flat_map(indices).map(|(j, n)| function(j, n)).collect()
    };
    Ok(unit_functions(&sample(&grid.made_for()), sample(grid), grid.volume_ratio()))
}

/// Functions sampled on a grid, times `factor` and what makes them, sampled on the taps that the grid is made for,
/// unit functions; without those that vanish there.
pub(crate) fn unit_functions(
    made_for: &[HarmonicFunction],
    sampled: Vec<HarmonicFunction>,
    factor: f64,
) -> Vec<HarmonicFunction> {
    let scales = made_for.iter().map(HarmonicFunction::white_noise_scale);
    let functions = scales.zip(sampled).filter_map(|(scale, f)| Some(f.scaled(factor * scale?)));
    functions.collect()
}

fn norm(p: &[f64; 3]) -> f64 {
    p.iter().map(|v| v * v).sum::<f64>().sqrt()
}

/// How far the functions of a family are from orthonormal on the taps.
#[derive(Debug, Clone, PartialEq)]
pub struct Conditioning {
    /// Number of functions, components counted.
    pub dim: usize,
    /// Numerical rank of the Gram matrix (eigenvalues above 1e-10 of the largest); less than `dim` when
    /// some functions depend on others.
    pub rank: usize,
    /// Largest eigenvalue of the Gram matrix over the smallest; infinite if the rank is deficient.
    pub condition_number: f64,
    /// Largest |cosine| between two different functions.
    pub largest_overlap: f64,
}

/// Conditioning of all components of `functions` together, from the Gram matrix of their samples. With
/// independent normal weights its condition number is the ratio of the variances with which the best and
/// the worst kernel of the span are drawn.
pub fn conditioning(functions: &[HarmonicFunction]) -> Conditioning {
    let rows: Vec<DVector<f64>> = functions
        .iter()
        .flat_map(|f| f.samples.chunks_exact(f.samples.len() / (2 * f.j + 1)))
        .map(DVector::from_column_slice)
        .collect();
    let dim = rows.len();
    let gram = DMatrix::from_fn(dim, dim, |a, b| rows[a].dot(&rows[b]));
    let cosine = |a: usize, b: usize| gram[(a, b)].abs() / (gram[(a, a)] * gram[(b, b)]).sqrt();
    let pairs = (0..dim).flat_map(|a| (0..a).map(move |b| (a, b)));
    let largest_overlap = pairs.map(|(a, b)| cosine(a, b)).fold(0.0, f64::max);
    let eigenvalues = gram.symmetric_eigenvalues();
    let largest = eigenvalues.iter().copied().fold(0.0, f64::max);
    let smallest = eigenvalues.iter().copied().fold(f64::INFINITY, f64::min);
    let rank = eigenvalues.iter().filter(|e| **e > 1e-10 * largest).count();
    let condition_number = if rank == dim { largest / smallest } else { f64::INFINITY };
    Conditioning { dim, rank, condition_number, largest_overlap }
}
