use candle_core::{Result, Shape, Tensor};
use rayon::prelude::*;

use crate::check::Volume;
use crate::float::sum;
#[cfg(any(test, feature = "cuda"))]
use crate::gpu::{Routine, Slot, args, space};
use crate::op::{Op, apply};
use crate::simd::Lanes;

const OP: &str = "global_avg_pool";

/// The mean of every channel over space: N,C,D,H,W to N,C. f32 or f64; differentiable.
///
/// # Errors
/// If `x` is no volume tensor.
pub fn global_avg_pool(x: &Tensor) -> Result<Tensor> {
    apply(GlobalAverage(Volume::of(OP, x)?), [x])
}

struct GlobalAverage(Volume);

impl Op<1> for GlobalAverage {
    const NAME: &'static str = OP;

    fn shape(&self, _: [&Shape; 1]) -> Shape {
        (self.0.batch, self.0.channels).into()
    }

    fn cpu<T: Lanes>(&self, [x]: [&[T]; 1]) -> Vec<T> {
        let mean = |row: &[T]| T::from_f64(sum(row, row, |x, _| x) / row.len() as f64);
        x.par_chunks(self.0.voxels()).map(mean).collect()
    }

    #[cfg(any(test, feature = "cuda"))]
    fn gpu(&self, routine: &mut Routine, [x]: [Slot; 1], out: Slot) -> Result<()> {
        let call = routine.call(space, "row_means", args![x, out, self.0.voxels()]);
        call.grid(self.0.rows(), 1).summing();
        Ok(())
    }

    fn backward(&self, _: [&Tensor; 1], grad: &Tensor) -> Result<[Option<Tensor>; 1]> {
        let share = (grad / self.0.voxels() as f64)?;
        let share = share.reshape((self.0.batch, self.0.channels, 1, 1, 1))?;
        Ok([Some(share.broadcast_as(self.0.shape())?)])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check, normal};

    #[test]
    fn kernels_agree_with_the_cpu() {
        let volume = Volume { batch: 2, channels: 3, size: [4, 7, 13] };
        check(&GlobalAverage(volume), [&normal(1, volume.shape())]);
    }
}
