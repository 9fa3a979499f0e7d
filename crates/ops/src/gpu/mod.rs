//! The operations as CUDA kernels: what is launched, on which buffers, with which sizes, independent of any
//! device. `cuda` runs it on a GPU; in tests `host` runs the same text as C++.

pub(crate) mod cache;
#[cfg(feature = "cuda")]
mod cuda;
#[cfg(any(test, feature = "cudnn"))]
pub(crate) mod cudnn;
#[cfg(any(test, feature = "cudnn", feature = "nccl"))]
pub(crate) mod dynamic;
#[cfg(test)]
pub(crate) mod host;
#[cfg(any(test, feature = "nccl"))]
pub(crate) mod nccl;
pub(crate) mod routine;

#[cfg(feature = "cuda")]
pub(crate) use cuda::{Argument, launch, limits};
pub(crate) use routine::{
    Arg, Element, KernelText, Limits, Routine, Slot, args, dense, fields, int, shares, space,
};
