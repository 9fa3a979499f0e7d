//! Conversions to and from the conventions of e3nn, se3cnn, escnn, scipy and physics texts; one
//! page about them is `docs/src/concepts/conventions.md`.
//!
//! Our convention is e3nn's: coefficients, irreps, harmonics and 3j tensors pass unchanged.

use nalgebra::{Complex, DMatrix};

use crate::rotations::{self, RotationError, cyclic};
use crate::wigner::real_from_complex;
use crate::{Rotation, wigner_d};

/// Orthogonal matrix B (2l+1, 2l+1) to the real basis with polar axis z, that of se3cnn, escnn and
/// most textbooks (without Condon-Shortley sign): Y_other = B Y_ours and D_other = B D_ours Bᵀ; Bᵀ
/// leads back. For l = 1 it reorders (x, y, z) to (y, z, x).
///
/// # Panics
/// If `l` is above [`crate::L_MAX`].
pub fn to_polar_z(l: usize) -> DMatrix<f64> {
    wigner_d(l, &cyclic())
}

/// Wigner-D matrix in the basis of se3cnn and escnn, for the same rotation of space.
///
/// # Panics
/// If `l` is above [`crate::L_MAX`].
pub fn polar_z_wigner_d(l: usize, rotation: &Rotation) -> DMatrix<f64> {
    wigner_d(l, &(cyclic() * rotation * cyclic().inverse()))
}

/// Unitary matrix B (2l+1, 2l+1) to the complex harmonics of physics and of
/// `scipy.special.sph_harm_y`, with polar axis z and the Condon-Shortley sign:
/// Y_complex = B Y_ours, both in the integral normalisation and with m = -l..=l. Its adjoint leads
/// back.
///
/// # Panics
/// If `l` is above [`crate::L_MAX`].
pub fn to_condon_shortley(l: usize) -> DMatrix<Complex<f64>> {
    real_from_complex(l).adjoint() * to_polar_z(l).map(|value| Complex::new(value, 0.0))
}

/// The Wigner-D matrix of physics, D_{m',m} = exp(-i m' α) d_{m',m}(β) exp(-i m γ) for the angles
/// of [`rotations::to_zyz`]: it acts on kets, Y_{l,m}(R⁻¹ v) = Σ D_{m',m}(R) Y_{l,m'}(v)
/// (Varshalovich et al. 1988, §4.3).
///
/// # Panics
/// If `l` is above [`crate::L_MAX`].
pub fn condon_shortley_wigner_d(l: usize, rotation: &Rotation) -> DMatrix<Complex<f64>> {
    let basis = to_condon_shortley(l);
    let real = wigner_d(l, rotation).map(|value| Complex::new(value, 0.0));
    (&basis * real * basis.adjoint()).map(|value| value.conj())
}

/// The rotation of a quaternion (x, y, z, w), scalar last, as scipy's `Rotation.as_quat` gives it.
///
/// # Errors
/// If its length differs from 1 by more than [`rotations::TOLERANCE`].
pub fn from_scipy_quaternion([x, y, z, w]: [f64; 4]) -> Result<Rotation, RotationError> {
    rotations::from_quaternion([w, x, y, z])
}

/// The quaternion (x, y, z, w), scalar last and w >= 0, for scipy's `Rotation.from_quat`.
pub fn to_scipy_quaternion(rotation: &Rotation) -> [f64; 4] {
    let [w, x, y, z] = rotations::to_quaternion(rotation);
    [x, y, z, w]
}
