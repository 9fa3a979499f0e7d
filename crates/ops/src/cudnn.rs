//! Whether dense convolutions on a GPU are computed by cuDNN.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicU8, Ordering};

/// When [`conv3d`](crate::conv3d) is computed by cuDNN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CudnnUse {
    /// Not at all.
    Never,
    /// Wherever its library is found and computes the convolution, f32 in f32.
    Exact,
    /// So, with the factors of f32 rounded to the 10 bits of TF32.
    Tf32,
}

/// `STEER3D_CUDNN` may be `off` or `tf32`.
static USE: LazyLock<AtomicU8> = LazyLock::new(|| {
    let wanted = std::env::var("STEER3D_CUDNN").unwrap_or_default();
    AtomicU8::new(match wanted.as_str() {
        "off" => CudnnUse::Never,
        "tf32" => CudnnUse::Tf32,
        _ => CudnnUse::Exact,
    } as u8)
});

/// Decides it for all convolutions that follow, on all threads. At the start the variable `STEER3D_CUDNN` decides:
/// `off` is [`CudnnUse::Never`], `tf32` [`CudnnUse::Tf32`], all else [`CudnnUse::Exact`].
pub fn set_cudnn_use(wanted: CudnnUse) {
    USE.store(wanted as u8, Ordering::Relaxed);
}

/// What is decided now.
pub fn cudnn_use() -> CudnnUse {
    match USE.load(Ordering::Relaxed) {
        0 => CudnnUse::Never,
        1 => CudnnUse::Exact,
        _ => CudnnUse::Tf32,
    }
}

/// The version of cuDNN that is used (10000 times the major and 100 times the minor version and the patch level) and
/// how many convolutions it has computed; `None` where its library is not found.
pub fn cudnn_version() -> Option<(usize, u64)> {
    crate::gpu::cudnn::version()
}
