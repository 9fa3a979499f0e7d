//! Decomposition of a representation into irreps.

use std::f64::consts::TAU;

use nalgebra::{DMatrix, Matrix3};

use crate::rotations::from_yxy;
use crate::{
    DegreeError, Irrep, Irreps, IrrepsError, Normalization, Parity, Rotation, SphereGrid,
    SphericalHarmonics, random_rotations,
};

/// Largest deviation of a multiplicity from an integer, and of D(R) Q from Q times its irreps.
const ACCURACY: f64 = 1e-6;

/// Why a representation was not decomposed.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum DecomposeError {
    /// The degree limit is above the supported one.
    #[error(transparent)]
    Degree(#[from] DegreeError),
    /// The representation holds no irreps, or more than [`Irreps`] can hold.
    #[error(transparent)]
    Irreps(#[from] IrrepsError),
    /// A multiplicity is not a non-negative integer: not a character, or one of higher degree.
    #[error(
        "l = {l} has multiplicity {value}, expected a non-negative integer; check the character, \
         or raise lmax if it holds higher degrees"
    )]
    Multiplicity {
        /// The degree.
        l: usize,
        /// The multiplicity found.
        value: f64,
    },
    /// The irreps found do not fill the representation.
    #[error(
        "irreps up to l = {lmax} fill {found} of {dim} dimensions; raise lmax, or check that the \
         matrices are orthogonal and multiply as the rotations do"
    )]
    Incomplete {
        /// The degree limit.
        lmax: usize,
        /// Sum of the dimensions found.
        found: usize,
        /// Dimension of the representation.
        dim: usize,
    },
    /// Not an orthogonal representation, or one of higher degree.
    #[error(
        "the irreps found reproduce the representation only to {deviation:e}; its matrices must be \
         orthogonal and multiply as the rotations do, with degrees up to lmax"
    )]
    NotRepresentation {
        /// Largest deviation of a matrix element or of the character.
        deviation: f64,
    },
}

/// Irreps of SO(3) with the given character χ(θ), the trace of the matrix of a rotation by θ
/// radians, when all degrees are at most `lmax`.
///
/// The multiplicity of l is ∫ χ(θ) χ_l(θ) (1 - cos θ) dθ / 2π over a full turn; the integral is a
/// finite sum for these trigonometric polynomials.
///
/// # Errors
/// If χ is not the character of a representation of degree <= `lmax`.
///
/// ```
/// use steer3d_so3::decompose::decompose_character;
/// // Symmetric 3x3 matrices: a scalar and a traceless part.
/// let irreps = decompose_character(4, |angle| {
///     let chi = 1.0 + 2.0 * angle.cos();
///     (chi * chi + 1.0 + 2.0 * (2.0 * angle).cos()) / 2.0
/// })?;
/// assert_eq!(irreps.to_string(), "1x0+1x2");
/// # Ok::<(), steer3d_so3::decompose::DecomposeError>(())
/// ```
pub fn decompose_character(
    lmax: usize,
    character: impl Fn(f64) -> f64,
) -> Result<Irreps, DecomposeError> {
    crate::check_degree(lmax)?;
    let count = 2 * lmax + 2;
    let samples: Vec<(f64, f64)> = (0..count)
        .map(|k| TAU * k as f64 / count as f64)
        .map(|angle| (angle, character(angle) * (1.0 - angle.cos()) / count as f64))
        .collect();
    let mut blocks = Vec::new();
    for l in 0..=lmax {
        let value: f64 =
            samples.iter().map(|(angle, weight)| weight * irrep_character(l, *angle)).sum();
        let mul = value.round();
        let integer = (value - mul).abs() < ACCURACY && mul >= 0.0;
        if !integer {
            return Err(DecomposeError::Multiplicity { l, value });
        }
        if mul > 0.0 {
            blocks.push((mul as usize, Irrep::so3(l)));
        }
    }
    let irreps = Irreps::new(blocks)?;
    let dim = character(0.0).round() as usize;
    if irreps.dim() != dim {
        return Err(DecomposeError::Incomplete { lmax, found: irreps.dim(), dim });
    }
    // Degrees beyond the limit can alias to integers; at other angles they show.
    for angle in [0.5, 1.7, 2.9] {
        let sum: f64 =
            irreps.blocks().map(|b| b.mul as f64 * irrep_character(b.irrep.l, angle)).sum();
        let deviation = (character(angle) - sum).abs();
        if deviation.is_nan() || deviation > ACCURACY * dim as f64 {
            return Err(DecomposeError::NotRepresentation { deviation });
        }
    }
    Ok(irreps)
}

/// Returns the character of the irrep of degree `l`, sin((l+1/2) θ) / sin(θ/2), at θ = `angle` radians.
pub fn irrep_character(l: usize, angle: f64) -> f64 {
    1.0 + (1..=l).map(|m| 2.0 * (m as f64 * angle).cos()).sum::<f64>()
}

/// A representation D as irreps in another basis: D(R) = basis · irreps(R) · basisᵀ.
#[derive(Clone, Debug, PartialEq)]
pub struct Decomposition {
    /// The irreps, sorted.
    pub irreps: Irreps,
    /// Orthogonal matrix (dim, dim); its columns follow the channel layout of `irreps`. Copies of
    /// the same irrep may be mixed by any orthogonal matrix.
    pub basis: DMatrix<f64>,
}

/// Decomposes an orthogonal representation of SO(3) with degrees up to `lmax`, given as a function
/// from rotations to matrices.
///
/// The projections (2l+1) ∫ D_l(R)_{m,0} D(R) dR pick out the components m of all copies of l
/// (Serre 1977, "Linear Representations of Finite Groups", §2.7); the integral is an exact
/// quadrature with (lmax+1)(2 lmax+1) matrices.
///
/// # Errors
/// If the matrices are not an orthogonal representation with degrees <= `lmax`.
///
/// # Panics
/// If the matrices are not square and of one size.
pub fn decompose(
    lmax: usize,
    representation: impl Fn(&Rotation) -> DMatrix<f64>,
) -> Result<Decomposition, DecomposeError> {
    let of_matrix =
        |matrix: &Matrix3<f64>| representation(&Rotation::from_matrix_unchecked(*matrix));
    split(lmax, &of_matrix, &[None])
}

/// Decomposes an orthogonal representation of O(3), as [`decompose`]; the function is called with
/// rotations and with minus rotations.
///
/// # Errors
/// If the matrices are not an orthogonal representation with degrees <= `lmax`.
///
/// # Panics
/// If the matrices are not square and of one size.
pub fn decompose_o3(
    lmax: usize,
    representation: impl Fn(&Matrix3<f64>) -> DMatrix<f64>,
) -> Result<Decomposition, DecomposeError> {
    split(lmax, &representation, &[Some(Parity::Even), Some(Parity::Odd)])
}

fn split(
    lmax: usize,
    representation: &dyn Fn(&Matrix3<f64>) -> DMatrix<f64>,
    parities: &[Option<Parity>],
) -> Result<Decomposition, DecomposeError> {
    let dim = representation(&Matrix3::identity()).nrows();
    let projections = Projections::new(lmax, representation)?;
    let (mut blocks, mut columns) = (Vec::new(), Vec::new());
    for l in 0..=lmax {
        for &parity in parities {
            let mut onto_zero = projections.component(l, l).clone();
            if let Some(parity) = parity {
                let inversion = representation(&-Matrix3::identity());
                let mirrored = inversion * &onto_zero * parity.sign();
                onto_zero = (onto_zero + mirrored) * 0.5;
            }
            let copies = range(&(projections.axial.transpose() * onto_zero))?;
            if copies.ncols() > 0 {
                blocks.push((copies.ncols(), Irrep { l, parity }));
            }
            for copy in copies.column_iter() {
                for m in 0..=2 * l {
                    columns.push(projections.component(l, m) * copy);
                }
            }
        }
    }
    let irreps = Irreps::new(blocks)?;
    if irreps.dim() != dim {
        return Err(DecomposeError::Incomplete { lmax, found: irreps.dim(), dim });
    }
    let decomposition = Decomposition { irreps, basis: DMatrix::from_columns(&columns) };
    verify(&decomposition, representation)?;
    Ok(decomposition)
}

struct Projections {
    /// Orthonormal basis (dim, fields) of the vectors invariant under rotations about y.
    axial: DMatrix<f64>,
    /// At l² + l + m, the projection onto component m of degree l, applied to `axial`.
    applied: Vec<DMatrix<f64>>,
}

impl Projections {
    fn new(
        lmax: usize,
        representation: &dyn Fn(&Matrix3<f64>) -> DMatrix<f64>,
    ) -> Result<Self, DecomposeError> {
        let grid = SphereGrid::new(lmax)?;
        let harmonics = SphericalHarmonics::new(lmax, Normalization::Norm)?;
        let turns = 2 * lmax + 1;
        let average = (0..turns)
            .map(|k| from_yxy([TAU * k as f64 / turns as f64, 0.0, 0.0]))
            .map(|turn| representation(turn.matrix()) / turns as f64)
            .reduce(|sum, term| sum + term)
            .expect("turns >= 1");
        let axial = range(&average)?;
        let mut applied = vec![DMatrix::zeros(axial.nrows(), axial.ncols()); harmonics.dim()];
        let mut y = vec![0.0; harmonics.dim()];
        for (point, weight) in grid.points().iter().zip(grid.weights()) {
            let [px, py, pz] = *point;
            let to_point = from_yxy([px.atan2(pz), py.clamp(-1.0, 1.0).acos(), 0.0]);
            let moved = representation(to_point.matrix()) * &axial * (weight / (2.0 * TAU));
            // D_l(R)_{m,0} is the norm-normalised Y_{l,m} at R e_y.
            harmonics.eval_into(*point, &mut y);
            for l in 0..=lmax {
                for index in l * l..(l + 1) * (l + 1) {
                    let factor = (2 * l + 1) as f64 * y[index];
                    applied[index].zip_apply(&moved, |sum, value| *sum += factor * value);
                }
            }
        }
        Ok(Self { axial, applied })
    }

    /// `index` is l + m.
    fn component(&self, l: usize, index: usize) -> &DMatrix<f64> {
        &self.applied[l * l + index]
    }
}

/// Orthonormal basis of the range of a projection matrix that is symmetric up to rounding.
fn range(projection: &DMatrix<f64>) -> Result<DMatrix<f64>, DecomposeError> {
    if projection.iter().any(|value| !value.is_finite()) {
        return Err(DecomposeError::NotRepresentation { deviation: f64::NAN });
    }
    let symmetric = (projection + projection.transpose()) * 0.5;
    let eigen = symmetric.symmetric_eigen();
    let chosen: Vec<usize> =
        (0..eigen.eigenvalues.len()).filter(|&i| eigen.eigenvalues[i] > 0.5).collect();
    Ok(eigen.eigenvectors.select_columns(&chosen))
}

/// Compares D(R) Q with Q irreps(R) for random R, and for -R when there are parities.
fn verify(
    decomposition: &Decomposition,
    representation: &dyn Fn(&Matrix3<f64>) -> DMatrix<f64>,
) -> Result<(), DecomposeError> {
    let Decomposition { irreps, basis } = decomposition;
    for rotation in random_rotations(0, 3) {
        let mut matrices = vec![*rotation.matrix()];
        if irreps.has_parity() {
            matrices.push(-rotation.matrix());
        }
        for matrix in matrices {
            let expected = irreps.matrix(&matrix).expect("a rotation or minus one, with parities");
            let difference = representation(&matrix) * basis - basis * expected;
            let deviation = difference.amax();
            if deviation.is_nan() || deviation > ACCURACY {
                return Err(DecomposeError::NotRepresentation { deviation });
            }
        }
    }
    Ok(())
}
