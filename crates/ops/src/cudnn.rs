//! Whether dense convolutions on a GPU are computed by cuDNN.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, Ordering};

static USE: LazyLock<AtomicBool> =
    LazyLock::new(|| AtomicBool::new(std::env::var("STEER3D_CUDNN").as_deref() != Ok("off")));

/// Whether [`conv3d`](crate::conv3d) is computed by cuDNN from now on, on all threads, where its library is found and
/// computes the convolution. At the start it is unless the variable `STEER3D_CUDNN` is `off`.
/// Where its workspace does not fit into memory our kernels compute the convolution, whose last bits are others.
/// f32 is computed in f32 unless TF32 is permitted ([`Tf32Permit`](crate::Tf32Permit)).
pub fn set_cudnn(wanted: bool) {
    USE.store(wanted, Ordering::Relaxed);
}

/// What is decided now.
pub fn uses_cudnn() -> bool {
    USE.load(Ordering::Relaxed)
}

/// The version of cuDNN that is used (10000 times the major and 100 times the minor version and the patch level) and
/// how many convolutions it has computed; `None` where its library is not found.
pub fn cudnn_version() -> Option<(usize, u64)> {
    crate::gpu::cudnn::version()
}
