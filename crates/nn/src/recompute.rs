//! Gradient checkpointing.

use std::sync::Mutex;

#[cfg(feature = "cuda")]
use candle_core::CudaStorage;
use candle_core::backend::{BackendDevice, BackendStorage};
use candle_core::{
    CpuStorage, CustomOp1, CustomOp2, Error, Layout, Result, Shape, Storage, Tensor, Var,
};

use crate::watch::{unwatched, used};
use crate::{Field, NnError};

/// Gradient checkpointing (Chen et al. 2016, *Training deep nets with sublinear memory cost*): runs
/// `forward` on `field` and keeps nothing of it but the result; the backward pass runs it again, and
/// gives the same gradients.
///
/// `weights` are all variables that `forward` depends on, which is told whether it runs again.
pub(crate) fn recomputed(
    field: &Field,
    weights: &[Tensor],
    forward: impl Fn(&Field, bool) -> std::result::Result<Field, NnError> + Send + Sync + 'static,
) -> std::result::Result<Field, NnError> {
    let kind = field.kind().clone();
    let run =
        move |x: &Tensor, again| unwatched(|| forward(&Field::of(kind.clone(), x.clone())?, again));
    let out = run(&field.values().detach(), false)?;
    let (out_kind, out) = (out.kind().clone(), out.values().detach());
    let again = move |x: &Tensor| Ok(run(x, true).map_err(Error::wrap)?.values().clone());
    let op = Recompute {
        weights: weights.to_vec(),
        out: Mutex::new(Some(out)),
        forward: Box::new(again),
    };
    let weights = weights.iter().map(used).collect::<Result<Vec<_>>>()?;
    Field::of(out_kind, field.values().apply_op2(&flat(&weights)?, op)?)
}

/// All elements in one row.
fn flat(tensors: &[Tensor]) -> Result<Tensor> {
    let some = tensors.iter().filter(|t| t.elem_count() > 0);
    Tensor::cat(&some.map(Tensor::flatten_all).collect::<Result<Vec<_>>>()?, 0)
}

type Forward = dyn Fn(&Tensor) -> Result<Tensor> + Send + Sync;

/// Input and all weights in one row to the output, which has been computed.
struct Recompute {
    weights: Vec<Tensor>,
    out: Mutex<Option<Tensor>>,
    forward: Box<Forward>,
}

impl CustomOp2 for Recompute {
    fn name(&self) -> &'static str {
        "recompute"
    }

    fn cpu_fwd(
        &self,
        _x: &CpuStorage,
        _x_layout: &Layout,
        _weights: &CpuStorage,
        _weights_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let out = taken(&self.out)?;
        let (storage, layout) = out.storage_and_layout();
        let Storage::Cpu(storage) = &*storage else {
            return Err(Error::msg("recompute: expected a tensor on the CPU"));
        };
        Ok((storage.to_dtype(layout, out.dtype())?, out.shape().clone()))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        _x: &CudaStorage,
        _x_layout: &Layout,
        _weights: &CudaStorage,
        _weights_layout: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        let out = taken(&self.out)?;
        let (storage, layout) = out.storage_and_layout();
        let Storage::Cuda(storage) = &*storage else {
            return Err(Error::msg("recompute: expected a tensor on the GPU"));
        };
        Ok((storage.to_dtype(layout, out.dtype())?, out.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        _weights: &Tensor,
        _out: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let tracked = x.track_op();
        let x = x.detach();
        let x = if tracked { Var::from_tensor(&x)?.into_inner() } else { x };
        let out = (self.forward)(&x)?;
        let mut grads = out.apply_op1(Seed(Mutex::new(Some(grad.clone()))))?.backward()?;
        drop(out);
        let of_weight = |w: &Tensor| grads.remove(w).map_or_else(|| w.zeros_like(), Ok);
        let of_weights = self.weights.iter().map(of_weight).collect::<Result<Vec<_>>>()?;
        Ok((grads.remove(&x), Some(flat(&of_weights)?)))
    }
}

/// A number whose gradient gives the input the gradient that it holds.
struct Seed(Mutex<Option<Tensor>>);

impl CustomOp1 for Seed {
    fn name(&self) -> &'static str {
        "seed"
    }

    fn cpu_fwd(&self, x: &CpuStorage, _layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let shape = Shape::from(());
        Ok((x.device().zeros_impl(&shape, x.dtype())?, shape))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(&self, x: &CudaStorage, _layout: &Layout) -> Result<(CudaStorage, Shape)> {
        let shape = Shape::from(());
        Ok((x.device().zeros_impl(&shape, x.dtype())?, shape))
    }

    fn bwd(&self, _x: &Tensor, _out: &Tensor, _grad: &Tensor) -> Result<Option<Tensor>> {
        taken(&self.0).map(Some)
    }
}

fn taken(slot: &Mutex<Option<Tensor>>) -> Result<Tensor> {
    let taken = slot.lock().ok().and_then(|mut slot| slot.take());
    taken.ok_or_else(|| Error::msg("recompute: a result was asked for twice"))
}
