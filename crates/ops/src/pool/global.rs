use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use crate::check::volume_dims;
use crate::float::cuda_fwd;
use crate::float::{Float, dispatch, elements, storage, sum};
#[cfg(any(test, feature = "cuda"))]
use crate::gpu::{Call, Element, Limits, OnGpu, Routine, args, space as source};

const OP: &str = "global_avg_pool";

/// The mean of every channel over space: N,C,D,H,W to N,C. f32 or f64; differentiable.
///
/// # Errors
/// If `x` is no volume tensor.
pub fn global_avg_pool(x: &Tensor) -> Result<Tensor> {
    let dims = volume_dims(OP, x)?;
    x.contiguous()?.apply_op1(GlobalAverage { dims })
}

struct GlobalAverage {
    dims: [usize; 5],
}

impl GlobalAverage {
    fn voxels(&self) -> usize {
        self.dims[2..].iter().product()
    }
}

impl CustomOp1 for GlobalAverage {
    fn name(&self) -> &'static str {
        OP
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        dispatch!((x), OP, T => {
            let rows = elements::<T>(x, layout, OP)?.par_chunks(self.voxels());
            Ok((storage(rows.map(mean).collect()), (self.dims[0], self.dims[1]).into()))
        })
    }

    cuda_fwd!(1);

    fn bwd(&self, _x: &Tensor, _out: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let share = (grad / self.voxels() as f64)?;
        let [n, c, ..] = self.dims;
        Ok(Some(share.reshape((n, c, 1, 1, 1))?.broadcast_as(&self.dims)?))
    }
}

fn mean<T: Float>(row: &[T]) -> T {
    T::from_f64(sum(row, row, |x, _| x) / row.len() as f64)
}

#[cfg(any(test, feature = "cuda"))]
impl OnGpu for GlobalAverage {
    const OP: &'static str = OP;

    fn routine(
        &self,
        _shapes: &[&Shape],
        element: Element,
        _limits: Limits,
    ) -> Result<(Routine, Shape)> {
        let (mut routine, inputs) = Routine::new(element, 1);
        let [batch, channels, ..] = self.dims;
        let out = routine.output(batch * channels);
        let call = Call::new(source(element), "row_means", args![inputs[0], out, self.voxels()]);
        routine.call(call.grid(batch * channels, 1).summing());
        Ok((routine, (batch, channels).into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::host::{check1, normal};

    #[test]
    fn kernels_agree_with_the_cpu() {
        check1(&GlobalAverage { dims: [2, 3, 4, 7, 13] }, &normal(1, (2, 3, 4, 7, 13)));
    }
}
