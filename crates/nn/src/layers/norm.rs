use candle_core::{Tensor, Var};
use steer3d_ops::{field_affine, field_batch_norm, field_batch_norm_gate};
use steer3d_so3::{Irrep, Irreps, Parity};

use super::{Gate, is_invariant, per_channel, spread};
use crate::field::expect;
use crate::recompute::Pass;
use crate::{Field, Mode, NnError, Params};

/// Weight of a batch in the running statistics, once ten batches have been seen.
const MOMENTUM: f64 = 0.1;
const EPSILON: f64 = 1e-5;

/// Equivariant batch normalisation (Weiler et al. 2018, section 4.4): invariant channels are
/// standardised as usual, every other field is divided by the root mean square of its norm, one
/// number for each field, and scaled by a learned factor.
#[derive(Debug)]
pub struct FieldBatchNorm {
    name: String,
    irreps: Irreps,
    /// The type by which fields are normalised: `irreps`, or with pseudoscalars in place of scalars,
    /// which are scaled and never shifted.
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
    /// A normalisation of fields of type `irreps`.
    ///
    /// # Errors
    /// Only if the device runs out of memory.
    pub fn new(params: &mut Params, name: &str, irreps: &Irreps) -> Result<Self, NnError> {
        Self::normalising_as(params, name, irreps, irreps.clone())
    }

    /// A normalisation that only scales: invariant channels too are divided by their root mean
    /// square, without a mean taken off or a bias put on, so that a field that is zero in empty space
    /// stays zero there, and has no edge where the volume ends.
    ///
    /// # Errors
    /// Only if the device runs out of memory.
    pub fn scaling_only(params: &mut Params, name: &str, irreps: &Irreps) -> Result<Self, NnError> {
        let scaled = irreps.blocks().map(|b| {
            let parity = if b.irrep.l == 0 { Parity::Odd } else { Parity::Even };
            (b.mul, Irrep::o3(b.irrep.l, parity))
        });
        Self::normalising_as(params, name, irreps, Irreps::new(scaled)?)
    }

    /// Adds `epsilon` to the variances instead of 1e-5.
    #[must_use]
    pub fn with_epsilon(mut self, epsilon: f64) -> Self {
        self.epsilon = epsilon;
        self
    }

    fn normalising_as(
        params: &mut Params,
        name: &str,
        irreps: &Irreps,
        normalised_as: Irreps,
    ) -> Result<Self, NnError> {
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
                params.weight(&format!("{name}.bias"), zeros.clone(), &[scalars], false)?,
                Some(params.buffer(&format!("{name}.running_mean"), zeros, &[scalars])?),
            )
        };
        Ok(Self {
            name: name.into(),
            irreps: irreps.clone(),
            normalised_as,
            epsilon: EPSILON,
            weight: params.weight(
                &format!("{name}.weight"),
                vec![1.0; fields],
                &[fields],
                false,
            )?,
            bias,
            running_mean,
            running_var: params.buffer(
                &format!("{name}.running_var"),
                vec![1.0; fields],
                &[fields],
            )?,
            invariant_fields: params.indices(invariant)?,
        })
    }

    /// Normalises with the statistics of the batch when training, with the running ones otherwise.
    ///
    /// The running statistics are the mean over the batches of the first ten steps, and then move
    /// towards each batch by a tenth.
    ///
    /// # Errors
    /// [`NnError::FieldType`] for a field of another type.
    pub fn forward(&self, field: &Field, mode: Mode) -> Result<Field, NnError> {
        self.normalised(field, mode, Pass::First)
    }

    /// [`forward`](Self::forward), which moves the running statistics in the first pass only.
    pub(crate) fn normalised(
        &self,
        field: &Field,
        mode: Mode,
        pass: Pass,
    ) -> Result<Field, NnError> {
        self.expect(field.irreps())?;
        let (x, irreps) = (field.values(), &self.normalised_as);
        let values = if mode == Mode::Evaluate {
            let (scale, shift) = self.affine()?;
            let (scale, shift) = (scale.to_dtype(x.dtype())?, shift.to_dtype(x.dtype())?);
            field_affine(x, irreps, &scale, &shift)?
        } else {
            let (weight, bias) = self.stored_as(x)?;
            let (values, mean, var) = field_batch_norm(x, irreps, &weight, &bias, self.epsilon)?;
            if pass == Pass::First {
                self.track(mode, &mean, &var)?;
            }
            values
        };
        Field::new(self.irreps.clone(), values)
    }

    /// [`forward`](Self::forward) and then `gate`; when training, the field between them is not kept in
    /// memory.
    ///
    /// # Errors
    /// [`NnError::FieldType`] for a field of another type, or a gate of one.
    pub fn forward_gated(&self, gate: &Gate, field: &Field, mode: Mode) -> Result<Field, NnError> {
        self.gated(gate, field, mode, Pass::First)
    }

    /// [`forward_gated`](Self::forward_gated), which moves the running statistics in the first pass only.
    pub(crate) fn gated(
        &self,
        gate: &Gate,
        field: &Field,
        mode: Mode,
        pass: Pass,
    ) -> Result<Field, NnError> {
        if mode == Mode::Evaluate {
            return gate.forward(&self.forward(field, mode)?);
        }
        self.expect(field.irreps())?;
        field.expect("gate", gate.irreps_in())?;
        let (weight, bias) = self.stored_as(field.values())?;
        let (values, mean, var) = field_batch_norm_gate(
            field.values(),
            &self.normalised_as,
            &weight,
            &bias,
            self.epsilon,
            gate.scalars(),
            gate.gated(),
        )?;
        if pass == Pass::First {
            self.track(mode, &mean, &var)?;
        }
        Field::new(gate.irreps_out().clone(), values)
    }

    /// Weight and bias in the element type of `x`.
    fn stored_as(&self, x: &Tensor) -> Result<(Tensor, Tensor), NnError> {
        Ok((self.weight.to_dtype(x.dtype())?, self.bias.to_dtype(x.dtype())?))
    }

    /// Moves the running statistics towards those of a batch.
    fn track(&self, mode: Mode, mean: &Tensor, var: &Tensor) -> Result<(), NnError> {
        let momentum = match mode {
            Mode::Evaluate => return Ok(()),
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
        expect(&self.name, &self.irreps, irreps)
    }

    /// The factor and the summand of each channel at evaluation, both detached.
    pub(crate) fn channel_affine(&self) -> Result<(Tensor, Tensor), NnError> {
        let (scale, shift) = self.affine()?;
        let scale = per_channel(&self.irreps, &scale)?;
        // No shift at all is on the CPU.
        let shift = spread(&self.normalised_as, &shift, scale.device())?;
        Ok((scale.detach(), shift.detach()))
    }

    /// The scale of every field and the shift of every invariant channel at evaluation.
    fn affine(&self) -> Result<(Tensor, Tensor), NnError> {
        let std = (self.running_var.as_tensor() + self.epsilon)?.sqrt()?;
        let scale = (&self.weight / std)?;
        let Some(mean) = &self.running_mean else { return Ok((scale, self.bias.clone())) };
        let of_invariant = scale.index_select(&self.invariant_fields, 0)?;
        let shift = (&self.bias - (of_invariant * mean.as_tensor())?)?;
        Ok((scale, shift))
    }
}

fn track(running: &Var, batch: &Tensor, momentum: f64) -> Result<(), NnError> {
    let kept = running.as_tensor().affine(1.0 - momentum, 0.0)?;
    Ok(running.set(&(kept + batch.affine(momentum, 0.0)?)?)?)
}
