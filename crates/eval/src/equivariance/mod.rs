//! How far is a layer, or a network, from commuting with rotations?
//!
//! With (R f)(p) = ρ(R) f(R⁻¹p) a map L of fields is equivariant when L(R f) = R L(f). On voxels it
//! never is quite, and the figure depends on how it is taken. There are four ways here, from the
//! most exact to the most like use:
//!
//! * Closed form ([`steer3d_kernels::equivariance`]): the error of a kernel, or of a convolution
//!   with random weights, as an integral over frequencies. Nothing is drawn. Linear maps only.
//! * [`centre_error`]: random fields given by a formula and rotated by it; outputs compared at the
//!   central voxel, which no rotation moves, so that nothing is interpolated. For any map.
//! * [`resampled_errors`]: the same fields; outputs compared in a ball, L(f) rotated by cubic
//!   B-splines. It sees more of the output, but its own interpolation leaves 0.0007 on fields with
//!   bumps two voxels wide, and more once a stride has coarsened the grid.
//! * [`cube_error`]: white noise under the 24 rotations of the cube, which permute voxels. The
//!   answer is rounding or a mistake.
//!
//! How far outputs move with the spacing of the voxels is measured beside it ([`SpacingRow`]).
//!
//! [`assert_equivariant`] is the test to put beside a layer of one's own; [`survey`] measures
//! steerable layers and networks and fills the tables of `docs/src/exactness.md`.

mod errors;
mod field;
mod spacing;
mod subject;
mod survey;

pub use errors::{FieldMap, assert_equivariant, centre_error, cube_error, resampled_errors};
pub use field::BumpField;
pub use spacing::{SpacingRow, unet_difference};
pub use subject::{LayerSpec, Subject};
pub use survey::{KernelRow, MapErrors, MeasuredRow, Survey, SurveyConfig, map_errors, survey};
