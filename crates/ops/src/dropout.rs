//! Dropout of whole fields.

use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor};
use rayon::prelude::*;
use steer3d_so3::Irreps;

use crate::check::expect_argument;
use crate::fields::{field_dims, spans};
use crate::float::cuda_fwd;
use crate::float::{Float, dispatch, elements, storage};
#[cfg(any(test, feature = "cuda"))]
use crate::gpu::{Call, Element, Limits, OnGpu, Routine, args, fields as source};

const OP: &str = "field_dropout";

/// Multiplies all components of every field, everywhere in space, by one number of `mask`.
///
/// `x` is N,C,D,H,W of type `irreps`, `mask` is N,num_fields. Differentiable in `x`; the mask is
/// taken as a constant.
///
/// # Errors
/// If shapes or element types do not agree.
pub fn field_dropout(x: &Tensor, irreps: &Irreps, mask: &Tensor) -> Result<Tensor> {
    let [batch, _, d, h, w] = field_dims(OP, x, irreps)?;
    let fields = spans(irreps);
    expect_argument(OP, "mask", mask, &[batch, fields.len()], x)?;
    let spans = fields.iter().enumerate();
    let field_of_channel = spans.flat_map(|(i, field)| std::iter::repeat_n(i, field.dim)).collect();
    let op = Dropout { voxels: d * h * w, fields: fields.len(), field_of_channel };
    x.contiguous()?.apply_op2(&mask.detach().contiguous()?, op)
}

#[derive(Clone)]
struct Dropout {
    voxels: usize,
    fields: usize,
    field_of_channel: Vec<usize>,
}

impl Dropout {
    fn compute<T: Float>(&self, x: &[T], mask: &[T]) -> Vec<T> {
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
}

impl CustomOp2 for Dropout {
    fn name(&self) -> &'static str {
        OP
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        mask: &CpuStorage,
        mask_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let shape = x_layout.shape().clone();
        dispatch!((x, mask), OP, T => {
            let (x, mask) = (elements::<T>(x, x_layout, OP)?, elements(mask, mask_layout, OP)?);
            Ok((storage(self.compute(x, mask)), shape))
        })
    }

    cuda_fwd!(2);

    fn bwd(
        &self,
        _x: &Tensor,
        mask: &Tensor,
        _out: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        Ok((Some(grad.contiguous()?.apply_op2_no_bwd(mask, self)?), None))
    }
}

#[cfg(any(test, feature = "cuda"))]
impl OnGpu for Dropout {
    const OP: &'static str = OP;

    fn routine(
        &self,
        shapes: &[&Shape],
        element: Element,
        _limits: Limits,
    ) -> Result<(Routine, Shape)> {
        let (mut routine, inputs) = Routine::new(element, 2);
        let (channels, count) = (self.field_of_channel.len(), shapes[0].elem_count());
        let rows = count / self.voxels;
        let (fields, out) =
            (routine.ints(self.field_of_channel.iter().copied()), routine.output(count));
        let args = args![
            inputs[0],
            inputs[1],
            fields,
            out,
            channels,
            self.fields,
            self.voxels,
            rows as i64
        ];
        let call = Call::new(source(element), "scale_fields", args);
        routine.call(call.over_rows(self.voxels, rows));
        Ok((routine, shapes[0].clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::host::{check2, normal};

    #[test]
    fn kernels_agree_with_the_cpu() {
        let op = Dropout { voxels: 60, fields: 3, field_of_channel: vec![0, 0, 0, 1, 2, 2, 2] };
        check2(&op, &normal(1, (2, 7, 3, 4, 5)), &normal(2, (2, 3)));
    }
}
