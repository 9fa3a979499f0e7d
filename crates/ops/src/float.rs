//! The element types of the operations.

use std::ops::Neg;

use candle_core::WithDType;

/// f32 or f64.
pub(crate) trait Float: WithDType + Neg<Output = Self> {
    fn exp(self) -> Self;
    fn sqrt(self) -> Self;
    fn is_nan(self) -> bool;
}

macro_rules! impl_float {
    ($type:ty) => {
        impl Float for $type {
            fn exp(self) -> Self {
                <$type>::exp(self)
            }
            fn sqrt(self) -> Self {
                <$type>::sqrt(self)
            }
            fn is_nan(self) -> bool {
                <$type>::is_nan(self)
            }
        }
    };
}

impl_float!(f32);
impl_float!(f64);

const LANES: usize = 16;
const BLOCK: usize = 1024;

/// Sum over i of `term(a[i], b[i])`, in a fixed order: blocks of 1024 in 16 lanes of `T`, the
/// blocks in f64.
pub(crate) fn sum<T: Float>(a: &[T], b: &[T], term: impl Fn(T, T) -> T) -> f64 {
    let block_sum = |(a, b): (&[T], &[T])| {
        let mut lanes = [T::zero(); LANES];
        let (a, b) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
        let tail = a.remainder().iter().zip(b.remainder()).map(|(&a, &b)| term(a, b).to_f64());
        let tail: f64 = tail.sum();
        for (a, b) in a.zip(b) {
            for i in 0..LANES {
                lanes[i] += term(a[i], b[i]);
            }
        }
        lanes.iter().map(|lane| lane.to_f64()).sum::<f64>() + tail
    };
    a.chunks(BLOCK).zip(b.chunks(BLOCK)).map(block_sum).sum()
}
