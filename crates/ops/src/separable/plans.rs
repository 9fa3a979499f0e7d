//! A plan with its adjoint and the kernels that have been written for them.

#[cfg(any(test, feature = "cuda"))]
use std::collections::HashMap;
use std::sync::Arc;
#[cfg(any(test, feature = "cuda"))]
use std::sync::Mutex;

#[cfg(any(test, feature = "cuda"))]
use candle_core::Error;
use candle_core::Result;
use steer3d_kernels::SeparablePlan;

#[cfg(any(test, feature = "cuda"))]
use super::codegen::{Kernel, Use, Variant, kernels};
#[cfg(any(test, feature = "cuda"))]
use super::geometry::{Boundary, Geometry};
use super::inner::MAX_HALF;
use crate::check::invalid;
#[cfg(any(test, feature = "cuda"))]
use crate::gpu::{Arg, Element, Routine, Slot, args, int, shares};

pub(super) const OP: &str = "separable_conv3d";

/// A [`SeparablePlan`] and its adjoint, ready for [`separable_conv3d`](crate::separable_conv3d).
#[derive(Clone, Debug)]
pub struct Separable(pub(super) Arc<Plans>);

#[derive(Debug)]
pub(super) struct Plans {
    pub(super) forward: SeparablePlan,
    pub(super) adjoint: SeparablePlan,
    /// Kernels that have been written.
    #[cfg(any(test, feature = "cuda"))]
    written: Mutex<HashMap<Variant, Arc<[Kernel]>>>,
}

impl Separable {
    /// Largest kernel size k.
    pub const MAX_SIZE: usize = 2 * MAX_HALF + 1;

    /// Prepares a plan.
    ///
    /// # Errors
    /// If its kernels are larger than [`MAX_SIZE`](Self::MAX_SIZE).
    pub fn new(plan: SeparablePlan) -> Result<Self> {
        if plan.size > Self::MAX_SIZE {
            let max = Self::MAX_SIZE;
            let problem = format!("expected a kernel size of at most {max}, got {}", plan.size);
            return Err(invalid(OP, problem));
        }
        let adjoint = plan.adjoint();
        Ok(Self(Arc::new(Plans {
            forward: plan,
            adjoint,
            #[cfg(any(test, feature = "cuda"))]
            written: Mutex::default(),
        })))
    }

    /// The plan.
    pub fn plan(&self) -> &SeparablePlan {
        &self.0.forward
    }
}

#[cfg(any(test, feature = "cuda"))]
impl Plans {
    /// The kernels of the plan, or of its adjoint, for a routine.
    fn kernels(
        &self,
        adjoint: bool,
        using: Use,
        stride: usize,
        routine: &Routine,
    ) -> Result<Arc<[Kernel]>> {
        let Routine { element, limits, .. } = *routine;
        let variant = Variant { using, exchanged: adjoint, stride, element, limits };
        let poisoned = |_| Error::msg("a thread failed while it wrote a kernel");
        let mut written = self.written.lock().map_err(poisoned)?;
        if let Some(kernels) = written.get(&variant) {
            return Ok(kernels.clone());
        }
        let fresh = kernels(self.plan(adjoint), variant).ok_or_else(|| {
            let problem = "the jets of one field do not fit the shared memory of this GPU; use a lower \
                           order or l";
            invalid(OP, problem)
        })?;
        Ok(written.entry(variant).or_insert(fresh.into()).clone())
    }

    fn plan(&self, adjoint: bool) -> &SeparablePlan {
        if adjoint { &self.adjoint } else { &self.forward }
    }

    /// Adds the weights mixed with the features of `x`, into the start of `out`, to a routine.
    pub(super) fn mix(
        &self,
        routine: &mut Routine,
        adjoint: bool,
        g: &Geometry,
        [x, w, out]: [Slot; 3],
        bias: Option<Slot>,
    ) -> Result<()> {
        let tf32 = routine.limits.tf32 && routine.element != Element::F64;
        let using = if tf32 { Use::MixTf32 } else { Use::Mix };
        for kernel in self.kernels(adjoint, using, g.stride, routine)?.iter() {
            let (sizes, tiles) = self.sizes(adjoint, g, kernel.tile);
            // The other field, the shares and their places are for the gradient of the weights.
            let mut args = args![x, w, bias, Arg::Null, out, Arg::Null, sizes];
            args.extend(args![tiles as i64, 0usize, 0usize]);
            add(routine, kernel, tiles, args);
        }
        Ok(())
    }

    /// Adds the features of `x` contracted with `other`: the gradient of the weights, into `out` from `first` on.
    pub(super) fn contract(
        &self,
        routine: &mut Routine,
        adjoint: bool,
        g: &Geometry,
        [x, other, out]: [Slot; 3],
        first: usize,
    ) -> Result<()> {
        let kernels = self.kernels(adjoint, Use::Contract, g.stride, routine)?;
        let (weights, most) = (self.forward.num_weights, 2 * routine.limits.multiprocessors);
        let slots = |kernel: &Kernel| self.sizes(adjoint, g, kernel.tile).1.min(most);
        let all: usize = kernels.iter().map(slots).sum();
        let parts = routine.scratch(all * weights);
        let mut share = 0;
        for kernel in kernels.iter() {
            let (sizes, tiles) = self.sizes(adjoint, g, kernel.tile);
            let mut args = args![x, Arg::Null, Arg::Null, other, Arg::Null, parts, sizes];
            args.extend(args![tiles as i64, weights, share]);
            add(routine, kernel, slots(kernel), args);
            share += slots(kernel);
        }
        let args = args![parts, out, all, weights, first as i64];
        routine.call(shares, "sum_shares", args).over(weights);
        Ok(())
    }

    /// The struct `Sizes` of the kernel, and the number of tiles.
    fn sizes(&self, adjoint: bool, g: &Geometry, tile: [usize; 3]) -> (Vec<i32>, usize) {
        let plan = self.plan(adjoint);
        let tiles = [0, 1, 2].map(|axis| g.out[axis].div_ceil(tile[axis]));
        let counts = [g.batch, plan.channels_in(), plan.channels_out()];
        let spatial = counts.into_iter().chain(g.size).chain(g.dilated).chain(g.out);
        let circular = usize::from(g.boundary == Boundary::Circular);
        let all = spatial.chain([g.dilation, circular]).chain(tiles);
        (all.map(int).collect(), g.batch * tiles.iter().product::<usize>())
    }
}

/// Adds a launch of so many blocks.
#[cfg(any(test, feature = "cuda"))]
fn add(routine: &mut Routine, kernel: &Kernel, blocks: usize, args: Vec<Arg>) {
    let call = routine.call(|_| kernel.source.clone(), "separable", args).grid(blocks, 1);
    call.block(kernel.threads, kernel.shared_bytes);
}
