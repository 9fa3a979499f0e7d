use candle_core::Tensor;
use steer3d_ops::{Boundary, Conv3dConfig, Separable, conv3d, separable_conv3d};
use steer3d_so3::Irreps;

use super::FieldBatchNorm;
use crate::{Field, NnError};

/// A convolution and the batch norm after it at evaluation, in one: the scale of the norm is in the
/// filter (in the weights where the convolution is separable), its shift in the bias, and nothing is
/// left to prepare for a call.
///
/// It holds the weights and running statistics of the moment when it was made
/// ([`SteerableConv3d::fused`](super::SteerableConv3d::fused),
/// [`RadialConv3d::fused`](super::RadialConv3d::fused)): what happens to the layers afterwards does not
/// reach it. Gradients flow to the input only.
#[derive(Debug)]
pub struct FusedConv3d {
    name: String,
    irreps_in: Irreps,
    irreps_out: Irreps,
    kernel: Kernel,
    bias: Tensor,
}

#[derive(Debug)]
enum Kernel {
    Dense { filter: Tensor, config: Conv3dConfig },
    Separable { plan: Separable, weight: Tensor, stride: usize },
}

impl FusedConv3d {
    /// From a filter C_out,C_in,k,k,k and a bias of each output channel, `orientations`
    /// neighbouring ones of which share a channel of the norm.
    pub(crate) fn dense(
        name: &str,
        irreps: [&Irreps; 2],
        filter: &Tensor,
        bias: Option<&Tensor>,
        config: Conv3dConfig,
        norm: &FieldBatchNorm,
        orientations: usize,
    ) -> Result<Self, NnError> {
        Self::new(name, irreps, bias, norm, orientations, |scale| {
            let scale = scale.reshape((scale.elem_count(), 1, 1, 1, 1))?;
            Ok(Kernel::Dense { filter: filter.broadcast_mul(&scale)?.detach(), config })
        })
    }

    /// From a plan, its weights, an output channel that each of them leads to, and a bias of each output
    /// channel.
    pub(crate) fn separable(
        name: &str,
        irreps: [&Irreps; 2],
        plan: &Separable,
        weight: &Tensor,
        channel_of_weight: &Tensor,
        bias: Option<&Tensor>,
        stride: usize,
        norm: &FieldBatchNorm,
    ) -> Result<Self, NnError> {
        Self::new(name, irreps, bias, norm, 1, |scale| {
            let weight = (weight * scale.index_select(channel_of_weight, 0)?)?.detach();
            Ok(Kernel::Separable { plan: plan.clone(), weight, stride })
        })
    }

    /// From a filter C_out,C_in,k,k,k and a bias of each output channel, without a norm.
    pub(crate) fn frozen(
        name: &str,
        [irreps_in, irreps_out]: [&Irreps; 2],
        filter: &Tensor,
        bias: Option<&Tensor>,
        config: Conv3dConfig,
    ) -> Result<Self, NnError> {
        let bias = match bias {
            Some(bias) => bias.copy()?,
            None => Tensor::zeros(irreps_out.dim(), filter.dtype(), filter.device())?,
        };
        Ok(Self {
            name: name.into(),
            irreps_in: irreps_in.clone(),
            irreps_out: irreps_out.clone(),
            kernel: Kernel::Dense { filter: filter.copy()?.detach(), config },
            bias: bias.detach(),
        })
    }

    fn new(
        name: &str,
        [irreps_in, irreps_out]: [&Irreps; 2],
        bias: Option<&Tensor>,
        norm: &FieldBatchNorm,
        orientations: usize,
        kernel: impl FnOnce(&Tensor) -> Result<Kernel, NnError>,
    ) -> Result<Self, NnError> {
        if orientations == 1 {
            norm.expect(irreps_out)?;
        }
        let (scale, shift) = norm.channel_affine()?;
        let repeated = |t: &Tensor| t.unsqueeze(1)?.repeat((1, orientations))?.flatten_all();
        let (scale, shift) = (repeated(&scale)?, repeated(&shift)?);
        let bias = match bias {
            Some(bias) => (bias * &scale)?.add(&shift)?.detach(),
            None => shift,
        };
        Ok(Self {
            name: name.into(),
            irreps_in: irreps_in.clone(),
            irreps_out: irreps_out.clone(),
            kernel: kernel(&scale)?,
            bias,
        })
    }

    /// The type of field that this layer takes.
    pub fn irreps_in(&self) -> &Irreps {
        &self.irreps_in
    }

    /// The type of field that this layer gives.
    pub fn irreps_out(&self) -> &Irreps {
        &self.irreps_out
    }

    /// Convolves and normalises a field of type [`irreps_in`](Self::irreps_in), zero outside the volume.
    ///
    /// # Errors
    /// [`NnError::FieldType`] for a field of another type.
    pub fn forward(&self, field: &Field) -> Result<Field, NnError> {
        field.expect(&self.name, &self.irreps_in)?;
        let (x, bias) = (field.values(), Some(&self.bias));
        let values = match &self.kernel {
            Kernel::Dense { filter, config } => conv3d(x, filter, bias, config)?,
            Kernel::Separable { plan, weight, stride } => {
                separable_conv3d(x, weight, bias, plan, *stride, Boundary::Zero)?
            }
        };
        Field::new(self.irreps_out.clone(), values)
    }
}
