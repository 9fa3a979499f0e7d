//! Differentiable candle operations on N,C,D,H,W tensors: convolution, pooling, gates and norms.
//!
//! All operations run on the CPU in f32 or f64, parallel over rayon's current thread pool; results
//! do not depend on the number of threads. [`gpu_device`] is a GPU for the feature `cuda`. bf16 is for
//! GPUs: there fields take half the memory, and sums are taken in f32. A CPU does the same, more slowly
//! than in f32, so that it can check a GPU. D,H,W are z,y,x. Fields follow the channel layout of
//! [`Irreps`](steer3d_so3::Irreps): component m of copy u of a block is channel
//! `offset + u (2l+1) + l + m`. Tensors need not be contiguous. Wrong shapes and element types give
//! a [`candle_core::Error`] that names the operation, what was expected and what was found.

mod affine;
mod batch_norm;
mod check;
mod conv;
#[cfg(feature = "cudnn")]
mod cudnn;
mod device;
mod dropout;
mod fields;
mod float;
mod gate;
#[cfg(any(test, feature = "cuda"))]
mod gpu;
mod matmul;
mod memory;
mod norm_gate;
mod norm_relu;
mod op;
mod pool;
mod product;
mod separable;
mod simd;
pub mod slices;
mod sphere;
#[cfg(test)]
mod testing;
mod tf32;

pub use affine::affine_resample3d;
pub use batch_norm::{field_affine, field_batch_norm, field_instance_norm};
pub use conv::{Conv3dConfig, conv3d};
#[cfg(feature = "cudnn")]
pub use cudnn::{cudnn_version, set_cudnn, uses_cudnn};
pub use device::gpu_device;
pub use dropout::field_dropout;
pub use gate::gate;
#[cfg(feature = "nccl")]
pub use gpu::nccl::{DeviceLink, RankLink};
pub use memory::reuse_memory;
pub use norm_gate::field_batch_norm_gate;
pub use norm_relu::{NORM_EPSILON, norm_relu};
pub use pool::{
    avg_pool3d, gaussian_filter, gaussian_pool3d, gaussian_pool3d_along, gaussian_upsample3d,
    gaussian_upsample3d_along, global_avg_pool, max_pool3d,
};
pub use product::{ProductTerm, channel_product};
pub use separable::{Boundary, Separable, separable_conv3d, separable_conv3d_planes};
pub use sphere::{GridTransform, grid_nonlinearity};
pub use tf32::{Tf32Permit, permit_tf32, tf32_is_permitted};
