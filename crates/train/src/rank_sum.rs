//! Sums over ranks within a loss.

use candle_core::{CpuStorage, CustomOp1, Device, Layout, Shape, Tensor};
use steer3d_ranks::Rank;

/// The sum over all ranks of what each has of `x`, a few numbers; the ranks' losses are added up then, so the gradient is
/// the sum of theirs.
pub(crate) fn sum_over_ranks(x: &Tensor) -> candle_core::Result<Tensor> {
    let rank = Rank::current();
    if rank.is_alone() {
        return Ok(x.clone());
    }
    let sum = x.to_device(&Device::Cpu)?.contiguous()?.apply_op1(SumOverRanks(rank))?;
    sum.to_device(x.device())
}

#[derive(Debug)]
struct SumOverRanks(Rank);

impl CustomOp1 for SumOverRanks {
    fn name(&self) -> &'static str {
        "sum over ranks"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let range = layout.start_offset()..layout.start_offset() + layout.shape().elem_count();
        let sum = |values: &mut dyn Iterator<Item = f64>| {
            self.0.sum(&values.collect::<Vec<_>>()).map_err(candle_core::Error::wrap)
        };
        let sum = match x {
            CpuStorage::F32(x) => {
                let sum = sum(&mut x[range].iter().map(|&x| x.into()))?;
                CpuStorage::F32(sum.into_iter().map(|x| x as f32).collect())
            }
            CpuStorage::F64(x) => CpuStorage::F64(sum(&mut x[range].iter().copied())?),
            _ => candle_core::bail!("expected f32 or f64, found another type"),
        };
        Ok((sum, layout.shape().clone()))
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, grad: &Tensor) -> candle_core::Result<Option<Tensor>> {
        Ok(Some(self.0.run(|| sum_over_ranks(&grad.detach()))?))
    }
}
