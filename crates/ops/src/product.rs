//! Sparse products of the channels of two tensors, of which tensor products of fields are made.

use candle_core::{Result, Shape, Tensor};
use rayon::prelude::*;

use crate::check::{Volume, expect_argument, invalid};
#[cfg(any(test, feature = "cuda"))]
use crate::gpu::{Routine, Slot, args, fields};
use crate::op::{Op, apply, apply_constant};
use crate::simd::Lanes;

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
    let volume = Volume::of(OP, left)?;
    let (c1, c2) = (volume.channels, Volume::of(OP, right)?.channels);
    expect_argument(OP, "the right factor", right, &volume.with_channels(c2).dims(), left)?;
    let outside = |t: &&ProductTerm| t.output >= channels || t.left >= c1 || t.right >= c2;
    if let Some(term) = terms.iter().find(outside) {
        let problem = format!("{term:?} is outside {channels} channels of {c1} and {c2}");
        return Err(invalid(OP, problem));
    }
    let channels = Channels { out: channels, left: c1, right: c2 };
    apply(ChannelProduct::new(volume, channels, terms.to_vec()), [left, right])
}

/// Channels of the result and of both factors.
#[derive(Clone, Copy)]
struct Channels {
    out: usize,
    left: usize,
    right: usize,
}

struct ChannelProduct {
    /// Sizes of the result.
    volume: Volume,
    channels: Channels,
    /// Sorted by output.
    terms: Vec<ProductTerm>,
    /// Where the terms of each output start, and where the last ones end.
    starts: Vec<usize>,
}

impl ChannelProduct {
    fn new(volume: Volume, channels: Channels, mut terms: Vec<ProductTerm>) -> Self {
        terms.sort_by_key(|t| t.output);
        let start = |output| terms.partition_point(|t| t.output < output);
        let starts = (0..=channels.out).map(start).collect();
        Self { volume: volume.with_channels(channels.out), channels, terms, starts }
    }

    /// The same product with its factors exchanged.
    fn exchanged(&self) -> Self {
        let Channels { out, left, right } = self.channels;
        let turned = |t: &ProductTerm| ProductTerm { left: t.right, right: t.left, ..*t };
        let channels = Channels { out, left: right, right: left };
        Self::new(self.volume, channels, self.terms.iter().map(turned).collect())
    }

    /// The product that gives the gradient of the left factor, from that of the result and the right factor.
    fn of_left(&self) -> Self {
        let Channels { out, left, right } = self.channels;
        let turned = |t: &ProductTerm| ProductTerm { output: t.left, left: t.output, ..*t };
        let channels = Channels { out: left, left: out, right };
        Self::new(self.volume, channels, self.terms.iter().map(turned).collect())
    }
}

impl Op<2> for ChannelProduct {
    const NAME: &'static str = OP;

    fn shape(&self, _: [&Shape; 2]) -> Shape {
        self.volume.shape()
    }

    fn cpu<T: Lanes>(&self, [left, right]: [&[T]; 2]) -> Vec<T> {
        let (channels, voxels) = (self.channels, self.volume.voxels());
        let mut out = vec![T::zero(); self.volume.rows() * voxels];
        out.par_chunks_mut(voxels).enumerate().for_each(|(row, out)| {
            let (sample, channel) = (row / channels.out, row % channels.out);
            let terms = &self.terms[self.starts[channel]..self.starts[channel + 1]];
            for (i, out) in out.chunks_mut(CHUNK).enumerate() {
                for term in terms {
                    let a = &left[(sample * channels.left + term.left) * voxels + i * CHUNK..];
                    let b = &right[(sample * channels.right + term.right) * voxels + i * CHUNK..];
                    let factor = T::from_f64(term.factor);
                    for ((out, &a), &b) in out.iter_mut().zip(a).zip(b) {
                        *out += factor * a * b;
                    }
                }
            }
        });
        out
    }

    #[cfg(any(test, feature = "cuda"))]
    fn gpu(&self, routine: &mut Routine, [left, right]: [Slot; 2], out: Slot) -> Result<()> {
        let (channels, Volume { batch, .. }) = (self.channels, self.volume);
        let voxels = self.volume.voxels();
        let starts = routine.ints(self.starts.iter().copied());
        let pairs = routine.ints(self.terms.iter().flat_map(|t| [t.left, t.right]).chain([0]));
        let factors = routine.reals(self.terms.iter().map(|t| t.factor).chain([0.0]).collect());
        let mut args = args![left, right, starts, pairs, factors, out];
        args.extend(args![channels.out, channels.left, channels.right, voxels, batch]);
        routine.call(fields, "channel_product", args).over_rows(batch * voxels, channels.out);
        Ok(())
    }

    fn backward(&self, [left, right]: [&Tensor; 2], grad: &Tensor) -> Result<[Option<Tensor>; 2]> {
        let of_left = apply_constant(self.of_left(), [grad, right])?;
        let of_right = apply_constant(self.exchanged().of_left(), [grad, left])?;
        Ok([Some(of_left), Some(of_right)])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check, normal};

    #[test]
    fn kernels_agree_with_the_cpu() {
        let term = |(output, left, right, factor)| ProductTerm { output, left, right, factor };
        let terms = [(0, 1, 2, 0.5), (2, 0, 0, -1.5), (0, 0, 1, 2.0), (2, 1, 1, 0.25)];
        let volume = Volume { batch: 2, channels: 2, size: [3, 4, 5] };
        let channels = Channels { out: 4, left: 2, right: 3 };
        let op = ChannelProduct::new(volume, channels, terms.map(term).to_vec());
        check(&op, [&normal(1, (2, 2, 3, 4, 5)), &normal(2, (2, 3, 3, 4, 5))]);
    }
}
