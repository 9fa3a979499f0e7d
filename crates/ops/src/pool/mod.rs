//! Pooling over windows and over the whole volume.

mod global;
mod max;
mod separable;
mod upsample;

pub use global::global_avg_pool;
pub use max::max_pool3d;
pub use separable::{avg_pool3d, gaussian_pool3d};
pub use upsample::gaussian_upsample3d;

use candle_core::{Result, Tensor};

use crate::check::{invalid, volume_dims};

/// The sizes of `x` and of the windows' grid, (n + 2 padding - kernel) / stride + 1 along each
/// axis, rounded down.
fn window_grid(
    op: &'static str,
    x: &Tensor,
    kernel: usize,
    stride: usize,
    padding: usize,
) -> Result<([usize; 5], [usize; 3])> {
    let dims = volume_dims(op, x)?;
    if kernel == 0 || stride == 0 {
        let problem = format!("expected kernel and stride of at least 1, got {kernel}, {stride}");
        return Err(invalid(op, problem));
    }
    if padding > kernel / 2 {
        let problem = format!("expected a padding of at most half the kernel, got {padding}");
        return Err(invalid(op, problem));
    }
    let size = [dims[2], dims[3], dims[4]];
    if size.iter().any(|n| n + 2 * padding < kernel) {
        let problem = format!("kernel {kernel} is larger than {size:?} with padding {padding}");
        return Err(invalid(op, problem));
    }
    Ok((dims, size.map(|n| (n + 2 * padding - kernel) / stride + 1)))
}
