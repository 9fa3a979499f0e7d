//! Gradients that are told while the backward pass goes on.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;

#[cfg(feature = "cuda")]
use candle_core::CudaStorage;
use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, TensorId};

/// Is given a weight and its gradient.
type Told = dyn Fn(&Tensor, &Tensor) -> Result<()> + Send + Sync;

/// Who is told on a thread.
struct Watch {
    told: Arc<Told>,
    /// What stands for each weight in the graph.
    used: HashMap<TensorId, Tensor>,
}

thread_local! {
    static WATCH: RefCell<Option<Watch>> = const { RefCell::new(None) };
}

/// What was watched before, and is again when this is dropped.
struct Before(Option<Watch>);

impl Drop for Before {
    fn drop(&mut self) {
        drop(WATCH.replace(self.0.take()));
    }
}

/// Runs `compute`, which runs networks forward and then one backward pass on this thread, and gives `told` each trainable
/// tensor that a layer computed with, and its gradient, as soon as the backward pass has all of that: each once, those of
/// the last layers first. The gradients of the backward pass are the same with and without it, to the bit.
///
/// The backward pass fails with what `told` fails with.
pub fn watch_gradients<T>(
    told: impl Fn(&Tensor, &Tensor) -> Result<()> + Send + Sync + 'static,
    compute: impl FnOnce() -> T,
) -> T {
    let watch = Watch { told: Arc::new(told), used: HashMap::new() };
    let _before = Before(WATCH.replace(Some(watch)));
    compute()
}

/// Runs `compute`, whose weights are watched elsewhere.
pub(crate) fn unwatched<T>(compute: impl FnOnce() -> T) -> T {
    let _before = Before(WATCH.replace(None));
    compute()
}

/// A weight as a layer computes with it: itself or, where gradients are watched, what all layers use in its place, so that
/// its gradient passes one operation.
pub(crate) fn used(weight: &Tensor) -> Result<Tensor> {
    WATCH.with_borrow_mut(|watch| {
        let Some(Watch { told, used }) = watch.as_mut().filter(|_| weight.is_variable()) else {
            return Ok(weight.clone());
        };
        if let Some(known) = used.get(&weight.id()) {
            return Ok(known.clone());
        }
        let tells = weight.apply_op1(Tell(Arc::clone(told)))?;
        used.insert(weight.id(), tells.clone());
        Ok(tells)
    })
}

/// The identity, which tells the gradient that passes it.
struct Tell(Arc<Told>);

impl CustomOp1 for Tell {
    fn name(&self) -> &'static str {
        "tell"
    }

    fn cpu_fwd(&self, weight: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        copied(weight, layout)
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(&self, weight: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        copied(weight, layout)
    }

    fn bwd(&self, weight: &Tensor, _used: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        (self.0)(weight, grad)?;
        Ok(Some(grad.clone()))
    }
}

fn copied<S: BackendStorage>(storage: &S, layout: &Layout) -> Result<(S, Shape)> {
    Ok((storage.to_dtype(layout, storage.dtype())?, layout.shape().clone()))
}
