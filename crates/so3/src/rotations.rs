//! Rotations of space: conversions, checks, distances and uniform random samples.
//!
//! Angles are in radians. A [`Rotation`] acts on columns (x, y, z). Functions that take a matrix, a
//! quaternion or an axis refuse what deviates from orthogonality or unit length by more than
//! [`TOLERANCE`] and remove smaller deviations by projection. Angles that are NaN or infinite give
//! matrices of NaN.

use nalgebra::{Matrix3, Quaternion, Unit, UnitQuaternion, Vector3};

use crate::{Parity, Stream};

/// A proper rotation, as a 3x3 matrix acting on columns (x, y, z).
pub type Rotation = nalgebra::Rotation3<f64>;

/// Largest accepted deviation from orthogonality (largest element of |MᵀM - 1|) or unit length.
/// Matrices and quaternions that were stored in single precision pass.
pub const TOLERANCE: f64 = 1e-5;

/// Why something is not a rotation, or does not act on a field.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum RotationError {
    /// MᵀM differs from the identity, or M holds NaN.
    #[error(
        "matrix is not orthogonal: the largest element of |MᵀM - 1| is {deviation:e}, at most \
         {TOLERANCE:e} is accepted; remove scale and shear first"
    )]
    NotOrthogonal {
        /// Largest element of |MᵀM - 1|.
        deviation: f64,
    },
    /// The determinant is -1.
    #[error(
        "matrix is a reflection (determinant -1), expected a rotation; negate it, or use irreps \
         with parity"
    )]
    Improper,
    /// A quaternion or axis is not of length 1, or holds NaN.
    #[error("{what} has length {norm}, expected 1 within {TOLERANCE:e}; normalise it first")]
    NotUnit {
        /// "quaternion" or "axis".
        what: &'static str,
        /// Its length.
        norm: f64,
    },
    /// A reflection was applied to an irrep of SO(3).
    #[error("irrep {l} has no parity, so a reflection does not act on it; write {l}e or {l}o")]
    NoParity {
        /// Degree of the irrep.
        l: usize,
    },
}

/// The rotation nearest to an orthogonal matrix of determinant +1.
///
/// # Errors
/// If the matrix is not orthogonal within [`TOLERANCE`] or is a reflection.
pub fn from_matrix(matrix: &Matrix3<f64>) -> Result<Rotation, RotationError> {
    match split_improper(matrix)? {
        (rotation, Parity::Even) => Ok(rotation),
        (_, Parity::Odd) => Err(RotationError::Improper),
    }
}

/// Writes an orthogonal matrix as a rotation, times the inversion if the parity is odd:
/// M = parity.sign() R.
///
/// # Errors
/// If the matrix is not orthogonal within [`TOLERANCE`].
pub fn split_improper(matrix: &Matrix3<f64>) -> Result<(Rotation, Parity), RotationError> {
    let excess = matrix.transpose() * matrix - Matrix3::identity();
    let deviation = excess.iter().map(|e| e.abs()).max_by(f64::total_cmp).unwrap_or(0.0);
    if deviation.is_nan() || deviation > TOLERANCE {
        return Err(RotationError::NotOrthogonal { deviation });
    }
    // Newton-Schulz steps to the polar factor (Higham 2008, "Functions of Matrices", chapter 8)
    // converge quadratically: two of them leave an error of the order of TOLERANCE⁴.
    let orthogonal = (0..2).fold(*matrix, |m, _| (m * 3.0 - m * m.transpose() * m) * 0.5);
    let parity = if matrix.determinant() > 0.0 { Parity::Even } else { Parity::Odd };
    Ok((Rotation::from_matrix_unchecked(orthogonal * parity.sign()), parity))
}

/// The rotation of a unit quaternion (w, x, y, z), scalar first.
///
/// # Errors
/// If its length differs from 1 by more than [`TOLERANCE`].
pub fn from_quaternion([w, x, y, z]: [f64; 4]) -> Result<Rotation, RotationError> {
    let quaternion = Quaternion::new(w, x, y, z);
    check_unit("quaternion", quaternion.norm())?;
    Ok(UnitQuaternion::from_quaternion(quaternion).to_rotation_matrix())
}

/// The unit quaternion (w, x, y, z) with w >= 0 of a rotation.
pub fn to_quaternion(rotation: &Rotation) -> [f64; 4] {
    // Shepperd 1978: start from the largest component, so that no cancellation occurs.
    let r = rotation.matrix();
    let trace = r.trace();
    let squares = [
        1.0 + trace,
        1.0 + 2.0 * r[(0, 0)] - trace,
        1.0 + 2.0 * r[(1, 1)] - trace,
        1.0 + 2.0 * r[(2, 2)] - trace,
    ];
    let largest = (1..4).fold(0, |best, i| if squares[i] > squares[best] { i } else { best });
    let (wx, wy, wz) = (r[(2, 1)] - r[(1, 2)], r[(0, 2)] - r[(2, 0)], r[(1, 0)] - r[(0, 1)]);
    let (xy, yz, zx) = (r[(1, 0)] + r[(0, 1)], r[(2, 1)] + r[(1, 2)], r[(0, 2)] + r[(2, 0)]);
    let row = match largest {
        0 => [squares[0], wx, wy, wz],
        1 => [wx, squares[1], xy, zx],
        2 => [wy, xy, squares[2], yz],
        _ => [wz, zx, yz, squares[3]],
    };
    let norm = row.iter().map(|c| c * c).sum::<f64>().sqrt();
    row.map(|c| if row[0] < 0.0 { -c / norm } else { c / norm })
}

/// The rotation by `angle` about the unit vector `axis` (right-hand rule).
///
/// # Errors
/// If the length of `axis` differs from 1 by more than [`TOLERANCE`].
pub fn from_axis_angle(axis: [f64; 3], angle: f64) -> Result<Rotation, RotationError> {
    let axis = Vector3::from(axis);
    check_unit("axis", axis.norm())?;
    Ok(Rotation::from_axis_angle(&Unit::new_normalize(axis), angle))
}

/// Unit axis and angle in [0, π] of a rotation. The identity gets the axis y.
pub fn to_axis_angle(rotation: &Rotation) -> ([f64; 3], f64) {
    let [w, x, y, z] = to_quaternion(rotation);
    let sine = Vector3::new(x, y, z);
    let norm = sine.norm();
    if norm == 0.0 {
        return ([0.0, 1.0, 0.0], 0.0);
    }
    ((sine / norm).into(), 2.0 * norm.atan2(w))
}

/// e3nn's Euler angles (alpha, beta, gamma) of R = R_y(alpha) R_x(beta) R_y(gamma), with beta in
/// [0, π]. Near beta = 0 or π only alpha + gamma or alpha - gamma is determined; gamma is taken
/// such that the product is R to rounding there too.
pub fn to_yxy(rotation: &Rotation) -> [f64; 3] {
    let r = rotation.matrix();
    let alpha = r[(0, 1)].atan2(r[(2, 1)]);
    let beta = r[(0, 1)].hypot(r[(2, 1)]).atan2(r[(1, 1)]);
    // The first row of R_y(-alpha) R = R_x(beta) R_y(gamma) is (cos gamma, 0, sin gamma).
    let (sin, cos) = alpha.sin_cos();
    let gamma = (cos * r[(0, 2)] - sin * r[(2, 2)]).atan2(cos * r[(0, 0)] - sin * r[(2, 0)]);
    [alpha, beta, gamma]
}

/// The rotation R_y(alpha) R_x(beta) R_y(gamma) of e3nn's Euler angles.
pub fn from_yxy([alpha, beta, gamma]: [f64; 3]) -> Rotation {
    let [y, x] = [Vector3::y_axis(), Vector3::x_axis()];
    Rotation::from_axis_angle(&y, alpha)
        * Rotation::from_axis_angle(&x, beta)
        * Rotation::from_axis_angle(&y, gamma)
}

/// The physicist's Euler angles (alpha, beta, gamma) of R = R_z(alpha) R_y(beta) R_z(gamma), with
/// beta in [0, π]; near its ends as [`to_yxy`].
pub fn to_zyz(rotation: &Rotation) -> [f64; 3] {
    to_yxy(&(cyclic() * rotation * cyclic().inverse()))
}

/// The rotation R_z(alpha) R_y(beta) R_z(gamma).
pub fn from_zyz(angles: [f64; 3]) -> Rotation {
    cyclic().inverse() * from_yxy(angles) * cyclic()
}

/// The rotation (x, y, z) -> (y, z, x), which takes the textbook's polar axis z to ours, y.
pub(crate) fn cyclic() -> Rotation {
    Rotation::from_matrix_unchecked(Matrix3::new(0.0, 1.0, 0.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0))
}

/// Angle in [0, π] of the rotation that takes `a` to `b`: the geodesic distance on SO(3). Accurate
/// to rounding near 0 and near π.
pub fn geodesic_distance(a: &Rotation, b: &Rotation) -> f64 {
    let r = a.matrix().transpose() * b.matrix();
    let twice_sine =
        Vector3::new(r[(2, 1)] - r[(1, 2)], r[(0, 2)] - r[(2, 0)], r[(1, 0)] - r[(0, 1)]);
    twice_sine.norm().atan2(r.trace() - 1.0)
}

/// A rotation drawn uniformly (Haar measure) from `stream` (Shoemake 1992, "Uniform random
/// rotations", Graphics Gems III).
pub fn random_rotation(stream: &mut Stream) -> Rotation {
    let u = stream.uniform();
    let (sin_a, cos_a) = (std::f64::consts::TAU * stream.uniform()).sin_cos();
    let (sin_b, cos_b) = (std::f64::consts::TAU * stream.uniform()).sin_cos();
    let (r, s) = ((1.0 - u).sqrt(), u.sqrt());
    let quaternion = Quaternion::new(s * cos_b, r * sin_a, r * cos_a, s * sin_b);
    UnitQuaternion::from_quaternion(quaternion).to_rotation_matrix()
}

/// A rotation drawn uniformly (Haar measure) from `stream` among those by the smallest angles, which
/// make up `fraction` (above 0, at most 1) of the group: angles up to the a with
/// (a - sin a) / π = `fraction`.
pub fn random_rotation_within(stream: &mut Stream, fraction: f64) -> Rotation {
    if fraction >= 1.0 {
        return random_rotation(stream);
    }
    let wanted = std::f64::consts::PI * fraction * stream.uniform();
    let (mut low, mut high) = (0.0, std::f64::consts::PI);
    while high - low > 1e-12 {
        let angle: f64 = 0.5 * (low + high);
        if angle - angle.sin() < wanted {
            low = angle;
        } else {
            high = angle;
        }
    }
    let z = 2.0 * stream.uniform() - 1.0;
    let (sin, cos) = (std::f64::consts::TAU * stream.uniform()).sin_cos();
    let r = (1.0 - z * z).sqrt();
    let axis = Unit::new_normalize(Vector3::new(r * cos, r * sin, z));
    Rotation::from_axis_angle(&axis, low)
}

/// `n` uniform random rotations. Rotation i depends on `seed` and i only, so a longer list starts
/// with the shorter one.
pub fn random_rotations(seed: u64, n: usize) -> Vec<Rotation> {
    (0..n as u64)
        .map(|i| random_rotation(&mut Stream::new(seed, "random rotations", &[i])))
        .collect()
}

fn check_unit(what: &'static str, norm: f64) -> Result<(), RotationError> {
    if (norm - 1.0).abs() <= TOLERANCE {
        Ok(())
    } else {
        Err(RotationError::NotUnit { what, norm })
    }
}
