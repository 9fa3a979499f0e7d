//! The element types of the operations and access to their CPU storage.

use std::ops::Neg;

use candle_core::{CpuStorage, Error, Layout, Result, Shape, WithDType};
use half::bf16;

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

/// Evaluates `$body` with the type `$float` set to the element type of CPU storages. bf16 is computed with in
/// f32, as on a GPU: storages are widened and the result is rounded, or left in f32 after `sums of`.
macro_rules! dispatch {
    (sums of $storages:tt, $op:expr, $float:ident => $body:expr) => {
        $crate::float::dispatch!(Ok, $storages, $op, $float => $body)
    };
    (($($storage:ident),+), $op:expr, $float:ident => $body:expr) => {
        $crate::float::dispatch!($crate::float::rounded, ($($storage),+), $op, $float => $body)
    };
    ($finish:expr, ($first:ident $(, $other:ident)*), $op:expr, $float:ident => $body:expr) => {
        match candle_core::backend::BackendStorage::dtype($first) {
            candle_core::DType::F32 => {
                type $float = f32;
                $body
            }
            candle_core::DType::F64 => {
                type $float = f64;
                $body
            }
            candle_core::DType::BF16 => {
                type $float = f32;
                let $first = &$crate::float::widened($first);
                $(let $other = &$crate::float::widened($other);)*
                $body.and_then($finish)
            }
            other => Err(candle_core::Error::UnsupportedDTypeForOp(other, $op).bt()),
        }
    };
}
pub(crate) use dispatch;

/// bf16 as f32.
pub(crate) fn widened(storage: &CpuStorage) -> CpuStorage {
    match storage {
        CpuStorage::BF16(values) => CpuStorage::F32(values.iter().map(|v| v.to_f32()).collect()),
        other => other.clone(),
    }
}

/// A result in f32 as bf16.
pub(crate) fn rounded((storage, shape): (CpuStorage, Shape)) -> Result<(CpuStorage, Shape)> {
    let storage = match storage {
        CpuStorage::F32(values) => {
            CpuStorage::BF16(values.into_iter().map(bf16::from_f32).collect())
        }
        other => other,
    };
    Ok((storage, shape))
}

/// Gives a custom operation its CUDA form; `$n` is its number of arguments.
macro_rules! cuda_fwd {
    (1) => {
        #[cfg(feature = "cuda")]
        fn cuda_fwd(
            &self,
            a: &candle_core::CudaStorage,
            a_layout: &candle_core::Layout,
        ) -> candle_core::Result<(candle_core::CudaStorage, candle_core::Shape)> {
            $crate::gpu::run(self, &[(a, a_layout)])
        }
    };
    (2) => {
        #[cfg(feature = "cuda")]
        fn cuda_fwd(
            &self,
            a: &candle_core::CudaStorage,
            a_layout: &candle_core::Layout,
            b: &candle_core::CudaStorage,
            b_layout: &candle_core::Layout,
        ) -> candle_core::Result<(candle_core::CudaStorage, candle_core::Shape)> {
            $crate::gpu::run(self, &[(a, a_layout), (b, b_layout)])
        }
    };
    (3) => {
        #[cfg(feature = "cuda")]
        fn cuda_fwd(
            &self,
            a: &candle_core::CudaStorage,
            a_layout: &candle_core::Layout,
            b: &candle_core::CudaStorage,
            b_layout: &candle_core::Layout,
            c: &candle_core::CudaStorage,
            c_layout: &candle_core::Layout,
        ) -> candle_core::Result<(candle_core::CudaStorage, candle_core::Shape)> {
            $crate::gpu::run(self, &[(a, a_layout), (b, b_layout), (c, c_layout)])
        }
    };
}
pub(crate) use cuda_fwd;

/// The elements of a contiguous tensor.
///
/// # Errors
/// If the layout is not contiguous or the storage has another element type.
pub(crate) fn elements<'a, T: Float>(
    storage: &'a CpuStorage,
    layout: &Layout,
    op: &'static str,
) -> Result<&'a [T]> {
    let (start, end) =
        layout.contiguous_offsets().ok_or_else(|| Error::RequiresContiguous { op }.bt())?;
    Ok(&storage.as_slice::<T>()?[start..end])
}

/// The storage of a new tensor.
pub(crate) fn storage<T: Float>(values: Vec<T>) -> CpuStorage {
    T::to_cpu_storage_owned(values)
}

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
