//! Whether products on a GPU may round their factors to TF32.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Permits that are held; one for ever where `STEER3D_TF32` is 1.
static PERMITS: LazyLock<AtomicUsize> = LazyLock::new(|| {
    AtomicUsize::new(usize::from(std::env::var("STEER3D_TF32").as_deref() == Ok("1")))
});

/// While one is held, convolutions on GPUs, on all threads, may round the factors of f32 products to the 10 bits of
/// TF32 (a relative 5e-4), with sums in f32: tensor cores multiply these. The separable convolution mixes features
/// with weights so, in bf16 too, and cuDNN computes dense convolutions so. GPUs before compute capability 8.0,
/// other operations, f64 and CPUs compute as ever. Where the variable `STEER3D_TF32` is 1, it is always permitted.
#[derive(Debug)]
pub struct Tf32Permit(());

/// A permit until it is dropped.
#[must_use = "what is not held permits nothing"]
pub fn permit_tf32() -> Tf32Permit {
    PERMITS.fetch_add(1, Ordering::Relaxed);
    Tf32Permit(())
}

impl Drop for Tf32Permit {
    fn drop(&mut self) {
        PERMITS.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Whether it is permitted now.
pub fn tf32_is_permitted() -> bool {
    PERMITS.load(Ordering::Relaxed) > 0
}
