//! Dropout of whole fields.

use candle_core::{Result, Tensor};
use rayon::prelude::*;
use steer3d_so3::Irreps;

use crate::check::expect_argument;
use crate::fields::{field_volume, spans};
#[cfg(any(test, feature = "cuda"))]
use crate::gpu::{Routine, Slot, args, fields};
use crate::op::{Op, apply, apply_constant};
use crate::simd::Lanes;

const OP: &str = "field_dropout";

/// Multiplies all components of every field, everywhere in space, by one number of `mask`.
///
/// `x` is N,C,D,H,W of type `irreps`, `mask` is N,num_fields. Differentiable in `x`; the mask is
/// taken as a constant.
///
/// # Errors
/// If shapes or element types do not agree.
pub fn field_dropout(x: &Tensor, irreps: &Irreps, mask: &Tensor) -> Result<Tensor> {
    let volume = field_volume(OP, x, irreps)?;
    let fields = spans(irreps);
    expect_argument(OP, "mask", mask, &[volume.batch, fields.len()], x)?;
    let spans = fields.iter().enumerate();
    let field_of_channel = spans.flat_map(|(i, field)| std::iter::repeat_n(i, field.dim)).collect();
    let op = Dropout { voxels: volume.voxels(), fields: fields.len(), field_of_channel };
    apply(op, [x, &mask.detach()])
}

#[derive(Clone)]
struct Dropout {
    voxels: usize,
    fields: usize,
    field_of_channel: Vec<usize>,
}

impl Op<2> for Dropout {
    const NAME: &'static str = OP;

    fn cpu<T: Lanes>(&self, [x, mask]: [&[T]; 2]) -> Vec<T> {
        let channels = self.field_of_channel.len();
        let mut out = vec![T::zero(); x.len()];
        let rows = out.par_chunks_mut(self.voxels).zip(x.par_chunks(self.voxels));
        rows.enumerate().for_each(|(row, (out, x))| {
            let field = self.field_of_channel[row % channels];
            let factor = mask[row / channels * self.fields + field];
            out.iter_mut().zip(x).for_each(|(out, &x)| *out = factor * x);
        });
        out
    }

    #[cfg(any(test, feature = "cuda"))]
    fn gpu(&self, routine: &mut Routine, [x, mask]: [Slot; 2], out: Slot) -> Result<()> {
        let (channels, rows) = (self.field_of_channel.len(), routine.len(out) / self.voxels);
        let field_of = routine.ints(self.field_of_channel.iter().copied());
        let mut args = args![x, mask, field_of, out, channels, self.fields];
        args.extend(args![self.voxels, rows as i64]);
        routine.call(fields, "scale_fields", args).over_rows(self.voxels, rows);
        Ok(())
    }

    fn backward(&self, [_, mask]: [&Tensor; 2], grad: &Tensor) -> Result<[Option<Tensor>; 2]> {
        Ok([Some(apply_constant(self.clone(), [grad, mask])?), None])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check, normal};

    #[test]
    fn kernels_agree_with_the_cpu() {
        let op = Dropout { voxels: 60, fields: 3, field_of_channel: vec![0, 0, 0, 1, 2, 2, 2] };
        check(&op, [&normal(1, (2, 7, 3, 4, 5)), &normal(2, (2, 3))]);
    }
}
