//! Representation theory of SO(3) and O(3) in real bases: irreps, spherical harmonics, Wigner-D
//! matrices, Clebsch-Gordan tensors, rotations and keyed random streams.
//!
//! # Conventions
//!
//! steer3d follows the conventions of e3nn everywhere:
//!
//! - Positions are (x, y, z). The polar axis of the real harmonics is y, the azimuth is
//!   atan2(x, z), and there is no Condon-Shortley sign, so that Y_1(x, y, z) ~ (x, y, z).
//! - Components of degree l are ordered m = -l..=l; m < 0 are the sines, m > 0 the cosines.
//! - D_l acts on columns: Y_l(R v) = D_l(R) Y_l(v), D(A B) = D(A) D(B) and D_1(R) = R.
//! - A rotation acts on a field as (R f)(p) = D(R) f(R⁻¹ p).
//! - Euler angles are (alpha, beta, gamma) with R = R_y(alpha) R_x(beta) R_y(gamma), in radians.
//! - Clebsch-Gordan tensors are real, have Frobenius norm 1 and e3nn's sign.

pub mod cg;
mod combinatorics;
pub mod conventions;
pub mod decompose;
pub mod groups;
pub mod irreps;
mod parity;
pub mod products;
pub mod quadrature;
pub mod rotations;
pub mod sampling;
pub mod sh;
pub mod stream;
pub mod wigner;

pub use cg::{CgEntry, CgTensor, clebsch_gordan};
pub use groups::cube_group;
pub use irreps::{Block, Irrep, Irreps, IrrepsError};
pub use parity::Parity;
pub use products::TensorProduct;
pub use quadrature::SphereGrid;
pub use rotations::{Rotation, RotationError, geodesic_distance, random_rotations};
pub use sh::{Normalization, SphericalHarmonics, spherical_harmonics};
pub use stream::Stream;
pub use wigner::wigner_d;

/// Largest degree l that this crate supports.
pub const L_MAX: usize = 20;

/// A degree above [`L_MAX`] was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("l = {l} is above the supported maximum {L_MAX}; use a smaller degree")]
pub struct DegreeError {
    /// The degree that was asked for.
    pub l: usize,
}

/// `l` itself, or an error when it is above [`L_MAX`].
pub(crate) fn check_degree(l: usize) -> Result<usize, DegreeError> {
    if l > L_MAX { Err(DegreeError { l }) } else { Ok(l) }
}
