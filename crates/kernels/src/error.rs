//! The error type of this crate.

/// Why a kernel basis could not be built.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum KernelError {
    /// A text names no family.
    #[error(
        "expected shells, jets:ORDER, bessel:FUNCTIONS, cosine:FUNCTIONS or radii, found `{found}`"
    )]
    FamilyName {
        /// The text.
        found: String,
    },
    /// The kernel size is even, zero or too large.
    #[error("kernel size {found} is not supported: it must be odd and at most {max}")]
    Size {
        /// The size asked for.
        found: usize,
        /// The largest size accepted.
        max: usize,
    },
    /// A voxel edge is not a positive finite number.
    #[error("voxel size along {axis} is {found}: it must be a positive finite number")]
    VoxelSize {
        /// `x`, `y` or `z`.
        axis: char,
        /// The value found.
        found: f64,
    },
    /// A voxel edge that is too far from those that a kernel was made for.
    #[error(
        "voxel size along {axis} is {found}, in units of the shortest edge that the kernel was made for: it must be \
         {least:.3} to {largest:.0}; resample the volume"
    )]
    Spacing {
        /// `x`, `y` or `z`.
        axis: char,
        /// The edge found.
        found: f64,
        /// The shortest edge for which there are taps.
        least: f64,
        /// The longest edge.
        largest: f64,
    },
    /// A parameter of a kernel family is out of range.
    #[error("parameter `{name}` of the kernel family is {found}: it must be {expected}")]
    Parameter {
        /// Name of the field of [`crate::Family`].
        name: &'static str,
        /// The value found.
        found: f64,
        /// What is accepted.
        expected: String,
    },
    /// Only one of the two fields carries parities.
    #[error(
        "of the irreps `{irreps_in}` -> `{irreps_out}` only one side has parities: \
         give parities to both (as in 8x0e+4x1o) or to neither"
    )]
    MixedParity {
        /// Input irreps.
        irreps_in: String,
        /// Output irreps.
        irreps_out: String,
    },
    /// The kernels would need harmonics of a degree that `steer3d_so3` does not have.
    #[error("irreps up to l = {l_in} -> l = {l_out} need harmonics of degree {}, supported up to {max}", l_in + l_out)]
    Degree {
        /// Largest l of the input.
        l_in: usize,
        /// Largest l of the output.
        l_out: usize,
        /// Largest degree supported.
        max: usize,
    },
    /// A slice does not have the length that the basis needs.
    #[error("{what} has {found} values, expected {expected}")]
    Length {
        /// What the slice holds.
        what: &'static str,
        /// Its length.
        found: usize,
        /// The length needed.
        expected: usize,
    },
}
