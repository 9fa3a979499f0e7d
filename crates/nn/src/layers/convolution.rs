use candle_core::Tensor;
use steer3d_files::memory;
use steer3d_ops::{
    Boundary, Conv3dConfig, Separable, conv3d, separable_conv3d, separable_conv3d_planes,
};
use steer3d_so3::Irreps;

use super::{FieldBatchNorm, FieldLayer};
use crate::error::fault;
use crate::onnx::{Attribute, OnnxField, OnnxGraph};
use crate::{Field, FieldType, NnError, Pass};

/// A convolution, into which a batch norm after it can be folded. What it says of itself makes it a [`FieldLayer`].
pub trait Convolution: FieldLayer {
    /// The name, the types of field, the kernel size and the stride of the convolution.
    fn site(&self) -> &ConvSite;

    /// The filter, shape C_out,C_in,k,k,k, or the weights of the [`plan`](Self::plan); differentiable.
    ///
    /// # Errors
    /// Only if the device runs out of memory.
    fn weights(&self) -> Result<Tensor, NnError>;

    /// How the convolution is computed without a filter; `None` if it is computed with one.
    fn plan(&self) -> Option<&ConvPlan> {
        None
    }

    /// What is added to each channel of the output, shape C_out; `None` if nothing is.
    ///
    /// # Errors
    /// Only if the device runs out of memory.
    fn bias(&self) -> Result<Option<Tensor>, NnError> {
        Ok(None)
    }

    /// Whether the convolution is computed with the dense filter or by separable ones.
    fn path(&self) -> ConvolutionPath {
        self.plan().map_or(ConvolutionPath::Dense, |_| ConvolutionPath::Separable)
    }

    /// The filter, shape C_out,C_in,k,k,k, whichever way it is computed: of a separable convolution, what it makes of
    /// a single voxel in each channel.
    ///
    /// # Errors
    /// [`NnError::Memory`] if the filter is larger than the memory for input.
    fn dense_filter(&self) -> Result<Tensor, NnError> {
        let Some(plan) = self.plan() else { return self.weights() };
        let ConvSite { name, kind_in, kind_out, size: k, .. } = self.site();
        let (inputs, taps) = (kind_in.dim(), k.pow(3));
        let bytes = 8.0 * inputs as f64 * taps as f64 * (inputs + 2 * kind_out.dim()) as f64;
        let _room = memory::take(bytes as u64)
            .map_err(|source| NnError::Memory { layer: name.clone(), source })?;
        let weights = self.weights()?;
        let voxel = Tensor::eye(inputs, weights.dtype(), weights.device())?.unsqueeze(2)?;
        let voxels = voxel.pad_with_zeros(2, taps / 2, taps / 2)?;
        let voxels = voxels.reshape((inputs, inputs, *k, *k, *k))?;
        let plan = &plan.separable;
        let answer = separable_conv3d(&voxels, &weights, None, plan, 1, Boundary::Zero)?;
        let last = taps as u32 - 1;
        let mirrored = Tensor::from_iter((0..=last).rev(), weights.device())?;
        let filter = answer.flatten_from(2)?.index_select(&mirrored, 2)?.transpose(0, 1)?;
        Ok(filter.contiguous()?.reshape((kind_out.dim(), inputs, *k, *k, *k))?)
    }

    /// The planes of constant z of the output of which all that they depend on is in `field`: D − 2 ⌊k/2⌋ of its D
    /// planes.
    ///
    /// # Errors
    /// [`NnError::FieldType`] for a field of another type, [`NnError::Config`] for a stride, and if there is no such
    /// plane.
    fn forward_planes(&self, field: &Field) -> Result<Field, NnError> {
        let site = self.site();
        field.expect_type(&site.name, &site.kind_in)?;
        if site.stride != 1 {
            return fault("stride", "planes have a convolution with a stride of 1 alone");
        }
        let x = field.values();
        let bias = self.bias()?.map(|bias| bias.to_dtype(x.dtype())).transpose()?;
        let (weights, bias) = (self.weights()?.to_dtype(x.dtype())?, bias.as_ref());
        let values = if let Some(plan) = self.plan() {
            separable_conv3d_planes(x, &weights, bias, &plan.separable)?
        } else {
            let half = site.size / 2;
            let config = Conv3dConfig { padding: [0, half, half], ..Conv3dConfig::default() };
            conv3d(x, &weights, bias, &config)?
        };
        Field::of(site.kind_out.clone(), values)
    }

    /// A copy of this convolution as it is now, which training this one further does not change.
    ///
    /// # Errors
    /// Only if the device runs out of memory.
    fn frozen(&self) -> Result<FoldedConv3d, NnError> {
        let frozen = |t: Tensor| Ok::<_, NnError>(t.copy()?.detach());
        Ok(FoldedConv3d {
            site: self.site().clone(),
            weights: frozen(self.weights()?)?,
            plan: self.plan().cloned(),
            bias: self.bias()?.map(frozen).transpose()?,
        })
    }

    /// This convolution and `norm` after it at evaluation in one, as they are now.
    ///
    /// # Errors
    /// [`NnError::FieldType`] when `norm` is for fields of another type.
    fn folded_with(&self, norm: &FieldBatchNorm) -> Result<FoldedConv3d, NnError> {
        self.frozen()?.normalised(norm)
    }
}

/// How a convolution is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConvolutionPath {
    /// The kernel is expanded to a filter of shape C_out,C_in,k,k,k for each call.
    Dense,
    /// By 1-D filters, without the filter ([`separable_conv3d`]): Gaussian jets only.
    Separable,
}

/// Where a [`Convolution`] stands and what it leads from and to.
#[derive(Clone, Debug)]
pub struct ConvSite {
    /// Its place in the parameters, which errors name.
    pub name: String,
    /// Type of the input.
    pub kind_in: FieldType,
    /// Type of the output.
    pub kind_out: FieldType,
    /// Kernel size in voxels, odd.
    pub size: usize,
    /// Every how many voxels there is an output.
    pub stride: usize,
}

/// How a convolution with a separable kernel is computed from its weights.
#[derive(Clone, Debug)]
pub struct ConvPlan {
    /// The 1-D filters.
    pub separable: Separable,
    /// An output channel that each weight leads to.
    pub channels: Tensor,
}

impl<C: Convolution> FieldLayer for C {
    fn irreps(&self) -> [&Irreps; 2] {
        let ConvSite { kind_in, kind_out, .. } = self.site();
        [&kind_in.irreps, &kind_out.irreps]
    }

    /// Convolves a field, zero outside the volume.
    fn forward_t(&self, field: &Field, _pass: Pass) -> Result<Field, NnError> {
        let site = self.site();
        field.expect_type(&site.name, &site.kind_in)?;
        let x = field.values();
        let bias = self.bias()?.map(|bias| bias.to_dtype(x.dtype())).transpose()?;
        let (weights, bias) = (self.weights()?.to_dtype(x.dtype())?, bias.as_ref());
        let values = if let Some(plan) = self.plan() {
            let (plan, stride) = (&plan.separable, site.stride);
            separable_conv3d(x, &weights, bias, plan, stride, Boundary::Zero)?
        } else {
            let config = Conv3dConfig::same(site.size);
            conv3d(x, &weights, bias, &Conv3dConfig { stride: [site.stride; 3], ..config })?
        };
        Field::of(site.kind_out.clone(), values)
    }

    fn folded(&self) -> Result<Box<dyn FieldLayer>, NnError> {
        Ok(Box::new(self.frozen()?))
    }

    fn export(&self, field: &OnnxField, graph: &mut OnnxGraph) -> Result<OnnxField, NnError> {
        let ConvSite { name, kind_out, size, stride, .. } = self.site();
        graph.enter(name);
        let weight = graph.tensor("weight", &self.dense_filter()?)?;
        let bias = self.bias()?.map(|bias| graph.tensor("bias", &bias)).transpose()?;
        let attributes = [
            ("kernel_shape", Attribute::Ints(vec![*size as i64; 3])),
            ("pads", Attribute::Ints(vec![(*size / 2) as i64; 6])),
            ("strides", Attribute::Ints(vec![*stride as i64; 3])),
        ];
        let inputs: Vec<_> = [&field.value, &weight].into_iter().chain(&bias).collect();
        let value = graph.node("Conv", &inputs, &attributes);
        Ok(OnnxField { value, kind: kind_out.clone() })
    }

    fn cost(&self) -> usize {
        let site = self.site();
        let dense = site.kind_in.dim() * site.kind_out.dim() * site.size.pow(3);
        self.plan().map_or(dense, |plan| plan.separable.plan().cost().total())
    }
}

/// A convolution and the batch norm after it at evaluation, in one ([`Convolution::folded_with`]): the scale of the
/// norm is in the filter (in the weights where the convolution is separable), its shift in the bias, and nothing is
/// left to prepare for a call.
///
/// It holds the weights and running statistics of the moment when it was made: what happens to the layers
/// afterwards does not reach it. Gradients flow to the input only.
#[derive(Debug, Clone)]
pub struct FoldedConv3d {
    site: ConvSite,
    weights: Tensor,
    plan: Option<ConvPlan>,
    bias: Option<Tensor>,
}

impl FoldedConv3d {
    fn normalised(self, norm: &FieldBatchNorm) -> Result<Self, NnError> {
        let FieldType { irreps, orientations } = &self.site.kind_out;
        norm.expect(irreps)?;
        let (scale, shift) = norm.orientations_affine(*orientations)?;
        let bias = match &self.bias {
            Some(bias) => (bias * &scale)?.add(&shift)?,
            None => shift,
        };
        let scale = match &self.plan {
            Some(plan) => scale.index_select(&plan.channels, 0)?,
            None => scale.reshape((scale.elem_count(), 1, 1, 1, 1))?,
        };
        let weights = self.weights.broadcast_mul(&scale)?.detach();
        Ok(Self { weights, bias: Some(bias.detach()), ..self })
    }
}

impl Convolution for FoldedConv3d {
    fn site(&self) -> &ConvSite {
        &self.site
    }

    fn weights(&self) -> Result<Tensor, NnError> {
        Ok(self.weights.clone())
    }

    fn plan(&self) -> Option<&ConvPlan> {
        self.plan.as_ref()
    }

    fn bias(&self) -> Result<Option<Tensor>, NnError> {
        Ok(self.bias.clone())
    }
}
