//! Steerable and plain 3D convolutional networks on candle.
//!
//! A *feature field* is a tensor of shape N,C,D,H,W whose channels transform under rotation as
//! stated by its [`Irreps`](steer3d_so3::Irreps): `(R f)(p) = ρ(R) f(R⁻¹ p)`. Layers map fields
//! to fields and commute with rotations (Weiler, Geiger, Welling, Boomsma, Cohen 2018,
//! *3D Steerable CNNs*, eq. 3), up to the discretisation of the voxel grid.
//!
//! * [`Field`]: a tensor together with its irreps.
//! * [`layers`]: steerable convolution, also with learned radial functions, intertwiners; gate, norm,
//!   tensor-product and spherical-grid nonlinearities, batch and instance norm, field dropout, antialiased pooling and
//!   up-sampling, linear head. Each is a [`FieldLayer`](layers::FieldLayer), made at a place in [`Params`] or in a
//!   candle `VarBuilder`.
//! * [`Network`]: what a [`ModelConfig`] describes, steerable and plain, also residual and U-Nets, with a [`Head`]
//!   for classes, numbers, labels of voxels or fields; a candle `ModuleT`, and [`FoldedNetwork`] a `Module`.
//! * [`checkpoint`]: networks on disk; [`onnx`]: networks for other programs.
//!
//! # Five layers beside e3nn and escnn
//!
//! Convolution of 5³ voxels, batch norm and gate, five times, from a density to 4 scalars, 3 vectors and 2
//! tensors:
//!
//! ```
//! use candle_core::{DType, Device, Tensor};
//! use steer3d_kernels::Family;
//! use steer3d_nn::layers::{ConvConfig, FieldBatchNorm, FieldLayer, Gate, SteerableConv3d};
//! use steer3d_nn::{Field, Params};
//!
//! let mut params = Params::new(0, DType::F32, &Device::Cpu);
//! let volume = Tensor::ones((1, 1, 13, 13, 13), DType::F32, &Device::Cpu)?;
//! let mut x = Field::new("1x0".parse()?, volume)?;
//! for i in 0..5 {
//!     let gate = Gate::new(&"4x0+3x1+2x2".parse()?)?;
//!     let config = ConvConfig { kernel: Family::jets(3), ..ConvConfig::new(x.irreps(), gate.irreps_in()) };
//!     let conv = SteerableConv3d::new(params.pp(format!("conv{i}")), config)?;
//!     let norm = FieldBatchNorm::new(params.pp(format!("norm{i}")), gate.irreps_in())?;
//!     x = gate.forward(&norm.forward(&conv.forward(&x)?)?)?;
//! }
//! assert_eq!(x.values().dims(), [1, 23, 13, 13, 13]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! e3nn 0.6:
//!
//! ```python
//! import torch
//! from e3nn.nn import BatchNorm, Gate
//! from e3nn.nn.models.v2104.voxel_convolution import Convolution
//! from e3nn.o3 import Irreps
//!
//! x, irreps, sh = torch.randn(1, 1, 13, 13, 13), "1x0e", Irreps.spherical_harmonics(4)
//! for i in range(5):
//!     gate = Gate("4x0e", [torch.relu], "5x0e", [torch.sigmoid], "3x1o+2x2e")
//!     conv = Convolution(irreps, gate.irreps_in, sh, diameter=5, num_radial_basis=3)
//!     norm = BatchNorm(gate.irreps_in)
//!     x = gate(norm(conv(x).movedim(1, -1))).movedim(-1, 1)
//!     irreps = gate.irreps_out
//! ```
//!
//! escnn 1.0:
//!
//! ```python
//! import torch
//! from escnn import gspaces, nn
//!
//! space = gspaces.rot3dOnR3()
//! of = lambda *muls: nn.FieldType(space, [space.irrep(l) for l, mul in muls for _ in range(mul)])
//! scalars, gates, fields = of((0, 4)), of((0, 5)), of((1, 3), (2, 2))
//! x = nn.GeometricTensor(torch.randn(1, 1, 13, 13, 13), of((0, 1)))
//! for i in range(5):
//!     conv = nn.R3Conv(x.type, scalars + gates + fields, kernel_size=5, padding=2, bias=False)
//!     norm = nn.IIDBatchNorm3d(conv.out_type)
//!     gate = nn.MultipleModule(conv.out_type, 4 * ["scalar"] + 10 * ["gated"], [
//!         (nn.PointwiseNonLinearity(scalars, "p_relu"), "scalar"),
//!         (nn.GatedNonLinearity1(gates + fields), "gated"),
//!     ])
//!     x = gate(norm(conv(x)))
//! ```

mod architectures;
mod block;
pub mod checkpoint;
mod config;
mod error;
mod field;
mod field_type;
mod graph;
pub mod layers;
mod network;
pub mod onnx;
mod params;
mod plan;
mod planes;
mod recompute;
mod spacings;
mod transformer;
mod typical;
mod watch;
mod windows;

pub use block::ConvolutionInfo;
pub use config::{
    Head, ModelConfig, Normalisation, PlainBlock, PlainConfig, Pooling, SteerableBlock,
    SteerableConfig, TransformerConfig,
};
pub use error::NnError;
pub use field::{Field, LayerField};
pub use field_type::FieldType;
pub use layers::{Nonlinearity, Symmetry};
pub use network::{FoldedNetwork, Network, planes_at_once};
pub use params::{Mode, Parameter, Params, Pass, Scope};
pub use spacings::FoldedNetworks;
pub use typical::Typical;
pub use watch::watch_gradients;
pub use windows::window_starts;
