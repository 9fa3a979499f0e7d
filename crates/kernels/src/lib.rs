//! Steerable kernel bases: radial and angular functions, sampling, expansion to dense filters,
//! initialisation.
//!
//! # The kernel space
//!
//! A kernel κ(x): V_in → V_out is *steerable* if κ(R x) = D_out(R) κ(x) D_in(R)ᵀ for every rotation
//! R (Weiler et al. 2018, "3D Steerable CNNs", eq. 4). Between irreps l_i and l_o every such kernel is
//!
//! κ(x)\[o,i\] = Σ_J Σ_n w\[J,n\] Σ_M √(2l_o+1) C^{l_o l_i J}\[o,i,M\] b_{J,n,M}(x),   |l_i − l_o| ≤ J ≤ l_i + l_o
//!
//! (eq. 8 there), with C the real Clebsch-Gordan tensor of Frobenius norm 1 and b_{J,n} a
//! [`HarmonicFunction`]: 2J+1 functions with b_{J,n}(R x) = D_J(R) b_{J,n}(x). A [`Family`] chooses
//! the b; a pair (J, n) that a block pair admits is one *path*, and has one weight for each pair of
//! multiplicities.
//!
//! # Conventions
//!
//! * The layer is a cross-correlation: f_out(p) = Σ_x κ(x) f_in(p + x), as `conv3d` computes it.
//! * Filters have shape \[C_out, C_in, k, k, k\] with taps in z, y, x order, so that they act on
//!   tensors N, C, D, H, W. Tap (a, b, c) sits at the position
//!   x = ((c − h) v_x, (b − h) v_y, (a − h) v_z), h = (k − 1)/2, v the voxel size ([`TapGrid`]).
//! * Channels are laid out as `steer3d_so3::Irreps` has them: block, multiplicity, component.
//! * Lengths of a kernel are physical: on voxels of other edges ([`TapGrid::at_spacing`],
//!   [`KernelBasis::at_spacing`]) the same functions are sampled there, and the weights keep their meaning.
//! * Every b is scaled so that, in white noise of unit variance, each of its components responds with
//!   unit variance; a path then does so too ([`KernelBasis::initial_weights`] has the argument).
//!   The functions of a family are not orthogonal on the taps in general: [`conditioning`] says how far
//!   from it they are.

mod basis;
pub mod equivariance;
mod error;
mod family;
mod grid;
mod group;
mod harmonic;
pub mod jets;
mod separable;

pub use basis::{BasisExtent, BlockPair, KernelBasis, Path};
pub use error::KernelError;
pub use family::{AngularCutoff, BallMask, BumpShape, Family, MAX_FUNCTIONS};
pub use grid::{ACCURATE_COARSENING, MAX_COARSENING, MAX_SIZE, TapGrid};
pub use group::KernelGroup;
pub use harmonic::{Conditioning, HarmonicFamily, HarmonicFunction, conditioning};
pub use jets::{JetCoefficient, JetHarmonic, JetPlan, MAX_ORDER};
pub use separable::{Coupling, FieldBlock, JetTerm, SeparableCost, SeparablePlan};
