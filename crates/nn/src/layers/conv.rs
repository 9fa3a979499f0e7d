use candle_core::Tensor;
use steer3d_kernels::{BlockPair, Family, KernelBasis, SeparablePlan};
use steer3d_ops::{Boundary, Conv3dConfig, Separable, conv3d, separable_conv3d};
use steer3d_so3::Irreps;

use super::{FieldBatchNorm, FusedConv3d, is_invariant, spread};
use crate::{Field, NnError, Params};

/// Convolution with a kernel that satisfies `κ(Rx) = ρ_out(R) κ(x) ρ_in(R)⁻¹`
/// (Weiler et al. 2018, eq. 7), so that it maps fields of type `irreps_in` to `irreps_out` and
/// commutes with rotations.
///
/// The kernel is a learned linear combination of the functions of a [`KernelBasis`]. Which
/// [`ConvolutionPath`] computes it does not change the result beyond rounding.
#[derive(Debug)]
pub struct SteerableConv3d {
    name: String,
    irreps_in: Irreps,
    irreps_out: Irreps,
    size: usize,
    config: Conv3dConfig,
    weight: Tensor,
    bias: Option<Tensor>,
    blocks: Vec<Vec<FilterBlock>>,
    separable: Option<Separable>,
    path: ConvolutionPath,
}

/// How a [`SteerableConv3d`] is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConvolutionPath {
    /// The kernel is expanded to a filter of shape C_out,C_in,k,k,k for each call.
    Dense,
    /// By 1-D filters, without the filter ([`separable_conv3d`]): Gaussian jets only.
    Separable,
}

/// Time of a multiply-add of the separable path over one of the dense path: `benches/README.md` has
/// about a third of the peak for the one and most of it for the other.
const SEPARABLE_COST: usize = 3;

/// The part of the filter that leads from one block of the input to one block of the output.
#[derive(Debug)]
enum FilterBlock {
    /// No path leads there: a constant zero of shape C_out,C_in,k³.
    Zero(Tensor),
    Paths {
        pair: BlockPair,
        /// Samples of the basis, shape paths, dim_out·dim_in·k³.
        samples: Tensor,
    },
}

impl SteerableConv3d {
    /// An intertwiner: a linear map of every voxel from `irreps_in` to `irreps_out` that commutes with
    /// rotations, a 1x1x1 convolution. It mixes copies of the same irrep; an output irrep that the input lacks
    /// is zero. `bias` as in [`new`](Self::new).
    ///
    /// # Errors
    /// [`NnError::Kernel`] when only one of the two types has parities.
    pub fn pointwise(
        params: &mut Params,
        name: &str,
        irreps_in: &Irreps,
        irreps_out: &Irreps,
        bias: bool,
    ) -> Result<Self, NnError> {
        Self::new(params, name, irreps_in, irreps_out, 1, &Family::shells(), [1.0; 3], bias)
    }

    /// A convolution of odd kernel size `size` voxels, stride 1 and padding `size / 2`.
    ///
    /// `voxel_size` (x, y, z, in any unit) is the shape of the voxels; cubes are `[1.0; 3]`. With
    /// `bias`, a learned number is added to every invariant output channel.
    ///
    /// # Errors
    /// [`NnError::Kernel`] for an even size or when no kernel leads to some output block.
    pub fn new(
        params: &mut Params,
        name: &str,
        irreps_in: &Irreps,
        irreps_out: &Irreps,
        size: usize,
        family: &Family,
        voxel_size: [f64; 3],
        bias: bool,
    ) -> Result<Self, NnError> {
        let basis = KernelBasis::new(irreps_in, irreps_out, size, family, voxel_size)?;
        let plan = SeparablePlan::new(&basis, family)?.filter(|_| size <= Separable::MAX_SIZE);
        let initial = basis.initial_weights(&mut params.stream(name));
        let count = initial.len();
        let weight = params.weight(&format!("{name}.weight"), initial, &[count], true)?;
        let scalars: usize =
            irreps_out.blocks().filter(|b| is_invariant(b.irrep)).map(|b| b.mul).sum();
        let name_of_bias = format!("{name}.bias");
        let bias = (bias && scalars > 0)
            .then(|| params.weight(&name_of_bias, vec![0.0; scalars], &[scalars], false))
            .transpose()?;
        Ok(Self {
            name: name.into(),
            irreps_in: irreps_in.clone(),
            irreps_out: irreps_out.clone(),
            size,
            config: Conv3dConfig::same(size),
            weight,
            bias,
            blocks: filter_blocks(params, &basis, irreps_in, irreps_out, size)?,
            path: fastest(&basis, plan.as_ref()),
            separable: plan.map(Separable::new).transpose()?,
        })
    }

    /// Computes the convolution by `path` instead of the one that takes fewer operations.
    ///
    /// # Errors
    /// [`NnError::Config`] for the separable path where the kernels are not separable.
    pub fn with_path(mut self, path: ConvolutionPath) -> Result<Self, NnError> {
        if path == ConvolutionPath::Separable && self.separable.is_none() {
            return Err(NnError::Config {
                field: "kernel".into(),
                problem: format!(
                    "the separable path needs Gaussian jets of a size of at most {}",
                    Separable::MAX_SIZE
                ),
            });
        }
        self.path = path;
        Ok(self)
    }

    /// How the convolution is computed.
    pub fn path(&self) -> ConvolutionPath {
        self.path
    }

    /// Multiply-adds for each output voxel on the path that is taken.
    pub fn cost(&self) -> usize {
        match (&self.separable, self.path) {
            (Some(separable), ConvolutionPath::Separable) => separable.plan().cost().total(),
            _ => self.irreps_in.dim() * self.irreps_out.dim() * self.size.pow(3),
        }
    }

    /// Changes the stride from 1.
    ///
    /// A strided convolution commutes with the rotations of the cube only if the voxels it keeps
    /// lie symmetrically about the centre, which needs an odd grid size; follow a convolution of
    /// stride 1 by [`GaussianPool`](super::GaussianPool) where accuracy under rotation counts.
    #[must_use]
    pub fn with_stride(mut self, stride: usize) -> Self {
        self.config.stride = [stride; 3];
        self
    }

    /// The type of field that this layer takes.
    pub fn irreps_in(&self) -> &Irreps {
        &self.irreps_in
    }

    /// The type of field that this layer gives.
    pub fn irreps_out(&self) -> &Irreps {
        &self.irreps_out
    }

    /// The dense filter, shape C_out,C_in,k,k,k, differentiable in the weights.
    ///
    /// # Errors
    /// Only if the device runs out of memory.
    pub fn filter(&self) -> Result<Tensor, NnError> {
        let rows = self.blocks.iter().map(|row| {
            let row = row.iter().map(|b| self.expand(b)).collect::<Result<Vec<_>, NnError>>()?;
            Ok(Tensor::cat(&row, 1)?)
        });
        let rows = rows.collect::<Result<Vec<_>, NnError>>()?;
        let k = self.size;
        Ok(Tensor::cat(&rows, 0)?.reshape((
            self.irreps_out.dim(),
            self.irreps_in.dim(),
            k,
            k,
            k,
        ))?)
    }

    fn expand(&self, block: &FilterBlock) -> Result<Tensor, NnError> {
        let (pair, samples) = match block {
            FilterBlock::Zero(zero) => return Ok(zero.clone()),
            FilterBlock::Paths { pair, samples } => (pair, samples),
        };
        let (rows, paths) = (pair.mul_out * pair.mul_in, pair.paths.len());
        let weight = self.weight.narrow(0, pair.weight_offset, rows * paths)?;
        let volume = self.size.pow(3);
        Ok(weight
            .reshape((rows, paths))?
            .matmul(samples)?
            .reshape((pair.mul_out, pair.mul_in, pair.dim_out, pair.dim_in, volume))?
            .permute((0, 2, 1, 3, 4))?
            .reshape((pair.mul_out * pair.dim_out, pair.mul_in * pair.dim_in, volume))?)
    }

    /// Convolves a field of type [`irreps_in`](Self::irreps_in), zero outside the volume.
    ///
    /// # Errors
    /// [`NnError::FieldType`] for a field of another type.
    pub fn forward(&self, field: &Field) -> Result<Field, NnError> {
        field.expect(&self.name, &self.irreps_in)?;
        let x = field.values();
        let bias = self.channel_bias()?.map(|bias| bias.to_dtype(x.dtype())).transpose()?;
        let bias = bias.as_ref();
        let values = match (&self.separable, self.path) {
            (Some(kernel), ConvolutionPath::Separable) => {
                let stride = self.config.stride[0];
                let weight = self.weight.to_dtype(x.dtype())?;
                separable_conv3d(x, &weight, bias, kernel, stride, Boundary::Zero)?
            }
            _ => conv3d(x, &self.filter()?.to_dtype(x.dtype())?, bias, &self.config)?,
        };
        Field::new(self.irreps_out.clone(), values)
    }

    /// This convolution and `norm` after it at evaluation in one, as they are now.
    ///
    /// # Errors
    /// [`NnError::FieldType`] when `norm` is for fields of another type.
    pub fn fused(&self, norm: &FieldBatchNorm) -> Result<FusedConv3d, NnError> {
        let bias = self.channel_bias()?;
        let (name, bias, irreps) = (&self.name, bias.as_ref(), [&self.irreps_in, &self.irreps_out]);
        match (&self.separable, self.path) {
            (Some(plan), ConvolutionPath::Separable) => {
                let (weight, channels) = (&self.weight, self.channel_of_weight()?);
                let stride = self.config.stride[0];
                FusedConv3d::separable(name, irreps, plan, weight, &channels, bias, stride, norm)
            }
            _ => FusedConv3d::dense(name, irreps, &self.filter()?, bias, self.config, norm, 1),
        }
    }

    /// This convolution as it is now, without gradients for its weights.
    ///
    /// # Errors
    /// Only if the device runs out of memory.
    pub(crate) fn frozen(&self) -> Result<FusedConv3d, NnError> {
        let (bias, irreps) = (self.channel_bias()?, [&self.irreps_in, &self.irreps_out]);
        FusedConv3d::frozen(&self.name, irreps, &self.filter()?, bias.as_ref(), self.config)
    }

    /// The first channel of the output field that each weight leads to.
    fn channel_of_weight(&self) -> Result<Tensor, NnError> {
        let mut channels = vec![0u32; self.weight.elem_count()];
        for block in self.blocks.iter().flatten() {
            let FilterBlock::Paths { pair, .. } = block else { continue };
            let of_field = pair.mul_in * pair.paths.len();
            let weights = &mut channels[pair.weight_offset..][..pair.mul_out * of_field];
            for (field, weights) in weights.chunks_exact_mut(of_field).enumerate() {
                weights.fill((pair.offset_out + field * pair.dim_out) as u32);
            }
        }
        Ok(Tensor::from_vec(channels, self.weight.shape(), self.weight.device())?)
    }

    /// The bias of each output channel: zero where rotation would change it.
    fn channel_bias(&self) -> Result<Option<Tensor>, NnError> {
        let spread = |bias: &Tensor| spread(&self.irreps_out, bias, bias.device());
        Ok(self.bias.as_ref().map(spread).transpose()?)
    }
}

fn fastest(basis: &KernelBasis, plan: Option<&SeparablePlan>) -> ConvolutionPath {
    let dense = basis.irreps_in().dim() * basis.irreps_out().dim() * basis.grid().num_taps();
    match plan {
        Some(plan) if SEPARABLE_COST * plan.cost().total() < dense => ConvolutionPath::Separable,
        _ => ConvolutionPath::Dense,
    }
}

fn filter_blocks(
    params: &Params,
    basis: &KernelBasis,
    irreps_in: &Irreps,
    irreps_out: &Irreps,
    size: usize,
) -> Result<Vec<Vec<FilterBlock>>, NnError> {
    let volume = size.pow(3);
    let row = |o: usize, out: steer3d_so3::Block| {
        let cell = |i: usize, input: steer3d_so3::Block| {
            let found = basis.pairs().iter().find(|p| p.out_block == o && p.in_block == i);
            let Some(pair) = found else {
                let shape = [out.mul * out.irrep.dim(), input.mul * input.irrep.dim(), volume];
                let zero = params.constant(vec![0.0; shape.iter().product()], &shape)?;
                return Ok(FilterBlock::Zero(zero));
            };
            let columns = pair.dim_out * pair.dim_in * volume;
            let samples = params.constant(pair.samples.clone(), &[pair.paths.len(), columns])?;
            Ok(FilterBlock::Paths { pair: pair.clone(), samples })
        };
        irreps_in.blocks().enumerate().map(|(i, input)| cell(i, input)).collect()
    };
    irreps_out.blocks().enumerate().map(|(o, out)| row(o, out)).collect()
}
