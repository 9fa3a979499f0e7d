use candle_core::{Tensor, Var};
use steer3d_ops::{field_affine, field_batch_norm, field_batch_norm_gate};
use steer3d_so3::{Block, Irrep, Irreps, Parity};

use super::FieldLayer;
use super::channels::{is_invariant, per_channel, spread};
use crate::field::expect;
use crate::onnx::{OnnxField, OnnxGraph};
use crate::watch::used;
use crate::{Field, FieldType, Mode, NnError, Pass, Scope};

/// Weight of a batch in the running statistics, once ten batches have been seen.
const MOMENTUM: f64 = 0.1;
const EPSILON: f64 = 1e-5;

/// What a [`FieldBatchNorm`] or a [`FieldInstanceNorm`](super::FieldInstanceNorm) is made of.
#[derive(Debug, Clone)]
pub struct NormConfig {
    /// Type of the fields.
    pub irreps: Irreps,
    /// Whether invariant channels too are only divided by their root mean square, without a mean taken off or a
    /// bias put on, so that a field that is zero in empty space stays zero there, and has no edge where the volume
    /// ends.
    pub scaling_only: bool,
    /// What is added to the variances.
    pub epsilon: f64,
}

/// Standardises invariant channels, with 1e-5 added to the variances.
impl From<&Irreps> for NormConfig {
    fn from(irreps: &Irreps) -> Self {
        Self { irreps: irreps.clone(), scaling_only: false, epsilon: EPSILON }
    }
}

impl NormConfig {
    /// The type by which fields are normalised: `irreps`, or with pseudoscalars in place of scalars, which are scaled and
    /// never shifted.
    pub(crate) fn normalised_as(&self) -> Result<Irreps, NnError> {
        let scaled = |b: Block| {
            let parity = if b.irrep.l == 0 { Parity::Odd } else { Parity::Even };
            (b.mul, Irrep::o3(b.irrep.l, parity))
        };
        match self.scaling_only {
            true => Ok(Irreps::new(self.irreps.blocks().map(scaled))?),
            false => Ok(self.irreps.clone()),
        }
    }
}

/// Equivariant batch normalisation (Weiler et al. 2018, section 4.4): invariant channels are
/// standardised as usual, every other field is divided by the root mean square of its norm, one
/// number for each field, and scaled by a learned factor.
#[derive(Debug, Clone)]
pub struct FieldBatchNorm {
    name: String,
    irreps: Irreps,
    /// As [`NormConfig::normalised_as`] says.
    normalised_as: Irreps,
    epsilon: f64,
    weight: Tensor,
    /// Of the invariant channels; no elements where there are none.
    bias: Tensor,
    running_mean: Option<Var>,
    running_var: Var,
    /// For each invariant channel, the index of its field.
    invariant_fields: Tensor,
}

impl FieldBatchNorm {
    /// Makes the norm of the fields that `config` names, with its tensors at the place of `params`.
    ///
    /// # Errors
    /// Only if the device runs out of memory.
    pub fn new<'a>(
        params: impl Into<Scope<'a>>,
        config: impl Into<NormConfig>,
    ) -> Result<Self, NnError> {
        let mut params = params.into();
        let config = config.into();
        let normalised_as = config.normalised_as()?;
        let NormConfig { irreps, epsilon, .. } = config;
        let fields = irreps.num_fields();
        let mut invariant = vec![];
        let mut index = 0u32;
        for block in normalised_as.blocks() {
            for _ in 0..block.mul {
                if is_invariant(block.irrep) {
                    invariant.push(index);
                }
                index += 1;
            }
        }
        let scalars = invariant.len();
        // candle can neither set nor optimise a tensor without elements.
        let (bias, running_mean) = if scalars == 0 {
            (params.constant(vec![], &[0])?, None)
        } else {
            let zeros = vec![0.0; scalars];
            (
                params.weight("bias", zeros.clone(), &[scalars], false)?,
                Some(params.buffer("running_mean", zeros, &[scalars])?),
            )
        };
        let ones = vec![1.0; fields];
        Ok(Self {
            name: params.path().into(),
            irreps,
            normalised_as,
            epsilon,
            weight: params.weight("weight", ones.clone(), &[fields], false)?,
            bias,
            running_mean,
            running_var: params.buffer("running_var", ones, &[fields])?,
            invariant_fields: params.indices(invariant)?,
        })
    }

    /// This norm and then `next`; when training, the field between it and a [`Gate`](super::Gate) is not kept in
    /// memory.
    ///
    /// # Errors
    /// [`NnError::FieldType`] for a field of another type, or a `next` for one.
    pub fn forward_then(
        &self,
        next: &dyn FieldLayer,
        field: &Field,
        pass: Pass,
    ) -> Result<Field, NnError> {
        let gating = next.gating().filter(|_| pass.mode != Mode::Evaluate);
        let Some(gating) = gating else {
            return next.forward_t(&self.forward_t(field, pass)?, pass);
        };
        let joined = field.joined()?;
        joined.expect(&self.name, &self.irreps)?;
        joined.expect("gate", next.irreps_in())?;
        let (weight, bias) = self.stored_as(joined.values())?;
        let (values, mean, var) = field_batch_norm_gate(
            joined.values(),
            &self.normalised_as,
            &weight,
            &bias,
            self.epsilon,
            gating.scalars,
            gating.gated,
        )?;
        self.track(pass, &mean, &var)?;
        Field::new(next.irreps_out().clone(), values)?.apart(field.kind().orientations)
    }

    /// Weight and bias in the element type of `x`.
    fn stored_as(&self, x: &Tensor) -> Result<(Tensor, Tensor), NnError> {
        Ok((used(&self.weight)?.to_dtype(x.dtype())?, used(&self.bias)?.to_dtype(x.dtype())?))
    }

    /// Moves the running statistics towards those of a batch, the first time that it is run.
    fn track(&self, pass: Pass, mean: &Tensor, var: &Tensor) -> Result<(), NnError> {
        let momentum = match pass.mode {
            Mode::Evaluate => return Ok(()),
            _ if pass.again => return Ok(()),
            Mode::Train { step, .. } => MOMENTUM.max(1.0 / (step + 1) as f64),
            Mode::Calibrate { batch } => 1.0 / (batch + 1) as f64,
        };
        if let Some(running_mean) = &self.running_mean {
            track(running_mean, mean, momentum)?;
        }
        track(&self.running_var, var, momentum)
    }

    /// Checks that fields of type `irreps` are those of this norm.
    pub(crate) fn expect(&self, irreps: &Irreps) -> Result<(), NnError> {
        expect(&self.name, &FieldType::from(&self.irreps), &irreps.into())
    }

    /// The factor and the summand of each channel at evaluation, both detached.
    pub(crate) fn channel_affine(&self) -> Result<(Tensor, Tensor), NnError> {
        let (scale, shift) = self.affine()?;
        let scale = per_channel(&self.irreps, &scale)?;
        // No shift at all is on the CPU.
        let shift = spread(&self.normalised_as, &shift, scale.device())?;
        Ok((scale.detach(), shift.detach()))
    }

    /// The same for channels that have each of so many orientations.
    pub(crate) fn orientations_affine(
        &self,
        orientations: usize,
    ) -> Result<(Tensor, Tensor), NnError> {
        let (scale, shift) = self.channel_affine()?;
        let repeated = |t: &Tensor| t.unsqueeze(1)?.repeat((1, orientations))?.flatten_all();
        Ok((repeated(&scale)?, repeated(&shift)?))
    }

    /// The scale of every field and the shift of every invariant channel at evaluation.
    fn affine(&self) -> Result<(Tensor, Tensor), NnError> {
        let std = (self.running_var.as_tensor() + self.epsilon)?.sqrt()?;
        let scale = (used(&self.weight)? / std)?;
        let bias = used(&self.bias)?;
        let Some(mean) = &self.running_mean else { return Ok((scale, bias)) };
        let of_invariant = scale.index_select(&self.invariant_fields, 0)?;
        let shift = (bias - (of_invariant * mean.as_tensor())?)?;
        Ok((scale, shift))
    }
}

impl FieldLayer for FieldBatchNorm {
    fn irreps(&self) -> [&Irreps; 2] {
        [&self.irreps; 2]
    }

    /// Normalises with the statistics of the batch when training, with the running ones otherwise. All orientations
    /// of a channel share them.
    ///
    /// The running statistics are the mean over the batches of the first ten steps, and then move
    /// towards each batch by a tenth.
    fn forward_t(&self, field: &Field, pass: Pass) -> Result<Field, NnError> {
        let joined = field.joined()?;
        joined.expect(&self.name, &self.irreps)?;
        let (x, irreps) = (joined.values(), &self.normalised_as);
        let values = if pass.mode == Mode::Evaluate {
            let (scale, shift) = self.affine()?;
            let (scale, shift) = (scale.to_dtype(x.dtype())?, shift.to_dtype(x.dtype())?);
            field_affine(x, irreps, &scale, &shift)?
        } else {
            let (weight, bias) = self.stored_as(x)?;
            let (values, mean, var) = field_batch_norm(x, irreps, &weight, &bias, self.epsilon)?;
            self.track(pass, &mean, &var)?;
            values
        };
        joined.with(values)?.apart(field.kind().orientations)
    }

    fn folded(&self) -> Result<Box<dyn FieldLayer>, NnError> {
        let copy = |t: &Tensor| Ok::<_, NnError>(t.copy()?.detach());
        let copy_of = |var: &Var| Ok::<_, NnError>(Var::from_tensor(&copy(var)?)?);
        Ok(Box::new(Self {
            weight: copy(&self.weight)?,
            bias: copy(&self.bias)?,
            running_mean: self.running_mean.as_ref().map(copy_of).transpose()?,
            running_var: copy_of(&self.running_var)?,
            ..self.clone()
        }))
    }

    fn export(&self, field: &OnnxField, graph: &mut OnnxGraph) -> Result<OnnxField, NnError> {
        let (scale, shift) = self.orientations_affine(field.kind.orientations)?;
        graph.enter(&self.name);
        let column = |t: Tensor| t.reshape((t.elem_count(), 1, 1, 1));
        let scale = graph.tensor("scale", &column(scale)?)?;
        let shift = graph.tensor("shift", &column(shift)?)?;
        let scaled = graph.node("Mul", &[&field.value, &scale], &[]);
        let value = graph.node("Add", &[&scaled, &shift], &[]);
        Ok(OnnxField { value, kind: field.kind.clone() })
    }
}

fn track(running: &Var, batch: &Tensor, momentum: f64) -> Result<(), NnError> {
    let kept = running.as_tensor().affine(1.0 - momentum, 0.0)?;
    Ok(running.set(&(kept + batch.affine(momentum, 0.0)?)?)?)
}
