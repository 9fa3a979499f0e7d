//! Sparse products of the channels of two tensors, of which tensor products of fields are made.

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use crate::check::{expect_argument, invalid, volume_dims};
use crate::float::cuda_fwd;
use crate::float::{Float, dispatch, elements, storage};
#[cfg(any(test, feature = "cuda"))]
use crate::gpu::{Call, Element, Limits, OnGpu, Routine, args, fields as source};

const OP: &str = "channel_product";

/// Voxels of a result that are finished before the next ones.
const CHUNK: usize = 1024;

/// `out[output] += factor · left[left] · right[right]`, all channels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ProductTerm {
    /// Channel of the result.
    pub output: usize,
    /// Channel of the left factor.
    pub left: usize,
    /// Channel of the right factor.
    pub right: usize,
    /// Constant factor.
    pub factor: f64,
}

/// The sum of `terms` at every voxel: N,C1,D,H,W and N,C2,D,H,W to N,`channels`,D,H,W. f32 or f64;
/// differentiable in both factors.
///
/// # Errors
/// If a factor is no volume tensor, the two differ in batch, grid or element type, or a term names a
/// channel that does not exist.
pub fn channel_product(
    left: &Tensor,
    right: &Tensor,
    channels: usize,
    terms: &[ProductTerm],
) -> Result<Tensor> {
    let [n, c1, d, h, w] = volume_dims(OP, left)?;
    let [_, c2, ..] = volume_dims(OP, right)?;
    expect_argument(OP, "the right factor", right, &[n, c2, d, h, w], left)?;
    let outside = |t: &&ProductTerm| t.output >= channels || t.left >= c1 || t.right >= c2;
    if let Some(term) = terms.iter().find(outside) {
        let problem = format!("{term:?} is outside {channels} channels of {c1} and {c2}");
        return Err(invalid(OP, problem));
    }
    let op = ChannelProduct::new([channels, c1, c2], terms.to_vec());
    left.contiguous()?.apply_op2(&right.contiguous()?, op)
}

struct ChannelProduct {
    /// Channels of the result, of the left and of the right factor.
    channels: [usize; 3],
    /// Sorted by output.
    terms: Arc<[ProductTerm]>,
    /// Where the terms of each output start, and where the last ones end.
    starts: Vec<usize>,
}

impl ChannelProduct {
    fn new(channels: [usize; 3], mut terms: Vec<ProductTerm>) -> Self {
        terms.sort_by_key(|t| t.output);
        let start = |output| terms.partition_point(|t| t.output < output);
        let starts = (0..=channels[0]).map(start).collect();
        Self { channels, terms: terms.into(), starts }
    }

    fn compute<T: Float>(&self, left: &[T], right: &[T], voxels: usize) -> Vec<T> {
        let [channels, c1, c2] = self.channels;
        let n = left.len() / (c1 * voxels);
        let mut out = vec![T::zero(); n * channels * voxels];
        out.par_chunks_mut(voxels).enumerate().for_each(|(row, out)| {
            let (sample, channel) = (row / channels, row % channels);
            let terms = &self.terms[self.starts[channel]..self.starts[channel + 1]];
            for (i, out) in out.chunks_mut(CHUNK).enumerate() {
                for term in terms {
                    let a = &left[(sample * c1 + term.left) * voxels + i * CHUNK..];
                    let b = &right[(sample * c2 + term.right) * voxels + i * CHUNK..];
                    let factor = T::from_f64(term.factor);
                    for ((out, &a), &b) in out.iter_mut().zip(a).zip(b) {
                        *out += factor * a * b;
                    }
                }
            }
        });
        out
    }

    /// The gradient of the left factor (given the right one) or, with `right`, of the right one.
    fn gradient(&self, grad: &Tensor, other: &Tensor, right: bool) -> Result<Tensor> {
        let [channels, c1, c2] = self.channels;
        let turned = |t: &ProductTerm| {
            let (output, other) = if right { (t.right, t.left) } else { (t.left, t.right) };
            ProductTerm { output, left: t.output, right: other, factor: t.factor }
        };
        let sizes = if right { [c2, channels, c1] } else { [c1, channels, c2] };
        let op = Self::new(sizes, self.terms.iter().map(turned).collect());
        grad.contiguous()?.apply_op2_no_bwd(other, &op)
    }
}

impl CustomOp2 for ChannelProduct {
    fn name(&self) -> &'static str {
        OP
    }

    fn cpu_fwd(
        &self,
        left: &CpuStorage,
        left_layout: &Layout,
        right: &CpuStorage,
        right_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let dims = left_layout.dims();
        let voxels: usize = dims[2..].iter().product();
        dispatch!((left, right), OP, T => {
            let left = elements::<T>(left, left_layout, OP)?;
            let right = elements::<T>(right, right_layout, OP)?;
            let out = self.compute(left, right, voxels);
            Ok((storage(out), (dims[0], self.channels[0], dims[2], dims[3], dims[4]).into()))
        })
    }

    cuda_fwd!(2);

    fn bwd(
        &self,
        left: &Tensor,
        right: &Tensor,
        _out: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        Ok((Some(self.gradient(grad, right, false)?), Some(self.gradient(grad, left, true)?)))
    }
}

#[cfg(any(test, feature = "cuda"))]
impl OnGpu for ChannelProduct {
    const OP: &'static str = OP;

    fn routine(
        &self,
        shapes: &[&Shape],
        element: Element,
        _limits: Limits,
    ) -> Result<(Routine, Shape)> {
        let (mut routine, inputs) = Routine::new(element, 2);
        let (batch, _, d, h, w) = shapes[0].dims5()?;
        let ([channels, c1, c2], voxels) = (self.channels, d * h * w);
        let out = routine.output(batch * channels * voxels);
        let starts = routine.ints(self.starts.iter().copied());
        let pairs = routine.ints(self.terms.iter().flat_map(|t| [t.left, t.right]).chain([0]));
        let factors = routine.reals(self.terms.iter().map(|t| t.factor).chain([0.0]).collect());
        let mut args = args![inputs[0], inputs[1], starts, pairs, factors, out];
        args.extend(args![channels, c1, c2, voxels, batch]);
        let call = Call::new(source(element), "channel_product", args);
        routine.call(call.over_rows(batch * voxels, channels));
        Ok((routine, (batch, channels, d, h, w).into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::host::{check2, normal};

    #[test]
    fn kernels_agree_with_the_cpu() {
        let term = |(output, left, right, factor)| ProductTerm { output, left, right, factor };
        let terms = [(0, 1, 2, 0.5), (2, 0, 0, -1.5), (0, 0, 1, 2.0), (2, 1, 1, 0.25)];
        let op = ChannelProduct::new([4, 2, 3], terms.map(term).to_vec());
        check2(&op, &normal(1, (2, 2, 3, 4, 5)), &normal(2, (2, 3, 3, 4, 5)));
    }
}
