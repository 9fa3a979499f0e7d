//! The routines of the separable convolution.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use candle_core::{Error, Result, Shape};

use super::geometry::Geometry;
use super::{Boundary, Convolution, Gradients, OP, Plans, WeightGradient};
use crate::check::invalid;
use crate::gpu::separable::{Kernel, Use, kernels};
use crate::gpu::{Call, Element, Limits, OnGpu, Routine, Slot, args, shares};

/// What distinguishes the kernels of one plan: whether they are of its adjoint, their use, stride and
/// element type.
type Key = (bool, Use, usize, Element);

type Kernels = Arc<Vec<Kernel>>;

/// The kernels that have been written for a plan.
#[derive(Debug, Default)]
pub(super) struct Written(Mutex<HashMap<(Key, Limits), Kernels>>);

impl Plans {
    fn kernels(&self, key: Key, limits: Limits) -> Result<Kernels> {
        let poisoned = |_| Error::msg("a thread failed while it wrote a kernel");
        let mut written = self.kernels.0.lock().map_err(poisoned)?;
        if let Some(kernels) = written.get(&(key, limits)) {
            return Ok(kernels.clone());
        }
        let (adjoint, using, stride, element) = key;
        let plan = if adjoint { &self.adjoint } else { &self.forward };
        let fresh = kernels(plan, adjoint, using, stride, element, limits).ok_or_else(|| {
            let problem = "the jets of one field do not fit the shared memory of this GPU; use a lower \
                           order or l";
            invalid(OP, problem)
        })?;
        Ok(written.entry((key, limits)).or_insert(Arc::new(fresh)).clone())
    }

    /// Weights mixed with the features of `x`, into the start of `out`.
    fn mix(
        &self,
        routine: &mut Routine,
        adjoint: bool,
        g: &Geometry,
        [x, w, out]: [Slot; 3],
        bias: Option<Slot>,
        limits: Limits,
    ) -> Result<()> {
        let tf32 = limits.tf32 && routine.element != Element::F64;
        let using = if tf32 { Use::MixTf32 } else { Use::Mix };
        let key = (adjoint, using, g.stride, routine.element);
        for kernel in self.kernels(key, limits)?.iter() {
            let (sizes, tiles) = self.sizes(adjoint, g, kernel.tile);
            let unused = 0usize;
            let none: Option<Slot> = None;
            let args = args![x, w, bias, none, out, none, sizes, tiles as i64, unused, unused];
            let call = Call::new(kernel.source.clone(), "separable", args).grid(tiles, 1);
            routine.call(call.block(kernel.threads, kernel.shared_bytes));
        }
        Ok(())
    }

    /// The features of `x` contracted with `other`: the gradient of the weights, into `out` from `first` on.
    fn contract(
        &self,
        routine: &mut Routine,
        adjoint: bool,
        g: &Geometry,
        [x, other, out]: [Slot; 3],
        first: usize,
        limits: Limits,
    ) -> Result<()> {
        let key = (adjoint, Use::Contract, g.stride, routine.element);
        let kernels = self.kernels(key, limits)?;
        let weights = self.forward.num_weights;
        let slots = |kernel: &Kernel| {
            let (_, tiles) = self.sizes(adjoint, g, kernel.tile);
            tiles.min(2 * limits.multiprocessors)
        };
        let all: usize = kernels.iter().map(slots).sum();
        let parts = routine.scratch(all * weights);
        let none: Option<Slot> = None;
        let mut share = 0;
        for kernel in kernels.iter() {
            let (sizes, tiles) = self.sizes(adjoint, g, kernel.tile);
            let args =
                args![x, none, none, other, none, parts, sizes, tiles as i64, weights, share];
            let call = Call::new(kernel.source.clone(), "separable", args).grid(slots(kernel), 1);
            routine.call(call.block(kernel.threads, kernel.shared_bytes));
            share += slots(kernel);
        }
        let args = args![parts, out, all, weights, first as i64];
        routine.call(Call::new(shares(routine.element), "sum_shares", args).over(weights));
        Ok(())
    }

    /// The struct `Sizes` of the kernel, and the number of tiles.
    fn sizes(&self, adjoint: bool, g: &Geometry, tile: [usize; 3]) -> (Vec<i32>, usize) {
        let plan = if adjoint { &self.adjoint } else { &self.forward };
        let tiles = [0, 1, 2].map(|axis| g.out[axis].div_ceil(tile[axis]));
        let counts = [g.batch, plan.channels_in(), plan.channels_out()];
        let spatial = counts.into_iter().chain(g.size).chain(g.dilated).chain(g.out);
        let circular = usize::from(g.boundary == Boundary::Circular);
        let all = spatial.chain([g.dilation, circular]).chain(tiles);
        (all.map(|n| n as i32).collect(), g.batch * tiles.iter().product::<usize>())
    }
}

impl OnGpu for Convolution {
    const OP: &'static str = OP;

    fn routine(
        &self,
        shapes: &[&Shape],
        element: Element,
        limits: Limits,
    ) -> Result<(Routine, Shape)> {
        let g = &self.geometry;
        let (mut routine, inputs) = Routine::new(element, shapes.len());
        let out = routine.output(g.batch * self.c_out * g.out_voxels());
        let slots = [inputs[0], inputs[1], out];
        self.kernel.0.mix(&mut routine, false, g, slots, inputs.get(2).copied(), limits)?;
        Ok((routine, (g.batch, self.c_out, g.out[0], g.out[1], g.out[2]).into()))
    }
}

impl OnGpu for Gradients {
    const OP: &'static str = "separable_conv3d gradients";

    fn routine(
        &self,
        shapes: &[&Shape],
        element: Element,
        limits: Limits,
    ) -> Result<(Routine, Shape)> {
        let Convolution { kernel, geometry, .. } = &self.0;
        let (mut routine, inputs) = Routine::new(element, 3);
        let [w, grad, x] = [inputs[0], inputs[1], inputs[2]];
        let (of_x, of_w) = (shapes[2].elem_count(), shapes[0].elem_count());
        let out = routine.output(of_x + of_w);
        let adjoint = geometry.adjoint();
        kernel.0.mix(&mut routine, true, &adjoint, [grad, w, out], None, limits)?;
        kernel.0.contract(&mut routine, true, &adjoint, [grad, x, out], of_x, limits)?;
        Ok((routine, (of_x + of_w).into()))
    }
}

impl OnGpu for WeightGradient {
    const OP: &'static str = "separable_conv3d weight gradient";

    fn routine(
        &self,
        _shapes: &[&Shape],
        element: Element,
        limits: Limits,
    ) -> Result<(Routine, Shape)> {
        let Convolution { kernel, geometry, .. } = &self.0;
        let (mut routine, inputs) = Routine::new(element, 2);
        let weights = kernel.plan().num_weights;
        let out = routine.output(weights);
        kernel.0.contract(&mut routine, false, geometry, [inputs[0], inputs[1], out], 0, limits)?;
        Ok((routine, weights.into()))
    }
}

#[cfg(test)]
mod tests {
    use steer3d_kernels::{Family, KernelBasis, SeparablePlan};
    use steer3d_so3::Irreps;

    use super::super::Separable;
    use super::*;
    use crate::gpu::host::{ALL, LIMITS, check_within, normal};
    use candle_core::{CustomOp2, CustomOp3};

    fn compare(
        limits: Limits,
        elements: &[(Element, f64)],
        irreps: [&str; 2],
        (size, order): (usize, usize),
        dims: [usize; 3],
        stride: usize,
        boundary: Boundary,
    ) {
        let [i, o] = irreps.map(|text| text.parse::<Irreps>().unwrap());
        let family = Family::jets(order);
        let basis = KernelBasis::new(&i, &o, size, &family, [1.0; 3]).unwrap();
        let plan = SeparablePlan::new(&basis, &family).unwrap().unwrap();
        let kernel = Separable::new(plan).unwrap();
        let geometry = Geometry::forward(2, dims, size / 2, stride, boundary);
        let [d, h, w] = dims;
        let x = normal(1, (2, i.dim(), d, h, w));
        let weights = normal(2, basis.num_weights());
        let [d, h, w] = geometry.out;
        let grad = normal(3, (2, o.dim(), d, h, w));
        let op = Convolution { kernel, geometry, c_out: o.dim() };
        let bias = normal(4, o.dim());
        check_within(limits, &op, elements, &[&x, &weights, &bias], |a| {
            let [x, w, b] = [0, 1, 2].map(|i| (&a[i].0, &a[i].1));
            op.forward(x, w, Some(b))
        });
        check_within(limits, &Gradients(op.clone()), elements, &[&weights, &grad, &x], |a| {
            Gradients(op.clone()).cpu_fwd(&a[0].0, &a[0].1, &a[1].0, &a[1].1, &a[2].0, &a[2].1)
        });
        check_within(limits, &WeightGradient(op.clone()), elements, &[&x, &grad], |a| {
            WeightGradient(op.clone()).cpu_fwd(&a[0].0, &a[0].1, &a[1].0, &a[1].1)
        });
    }

    #[test]
    fn kernels_agree_with_the_cpu() {
        let (zero, circular, single) = (Boundary::Zero, Boundary::Circular, &ALL[1..2]);
        compare(LIMITS, &ALL, ["2x0+1x1", "3x0+2x1+1x2"], (5, 3), [6, 5, 9], 1, zero);
        compare(LIMITS, single, ["1x1+1x0", "1x3+5x0"], (7, 4), [5, 9, 7], 2, zero);
        compare(LIMITS, single, ["1x0+1x2", "1x1"], (3, 2), [5, 6, 7], 3, circular);
    }

    #[test]
    fn tensor_cores_agree_to_the_rounding_of_tf32() {
        let limits = Limits { tf32: true, ..LIMITS };
        let rounded = [(Element::F32, 2e-3), (Element::Bf16, 2e-2)];
        let zero = Boundary::Zero;
        compare(limits, &rounded, ["2x0+1x1", "3x0+9x1+1x2"], (5, 3), [6, 5, 9], 1, zero);
        compare(limits, &rounded[..1], ["1x1+1x0", "1x3+17x0"], (7, 4), [5, 9, 7], 2, zero);
        compare(limits, &ALL[..1], ["1x0", "1x1"], (3, 1), [3, 3, 4], 1, zero);
    }

    #[test]
    fn channels_beyond_those_of_one_block_have_kernels_of_their_own() {
        let (wide, dims) = (["1x0+1x1", "90x0+40x1+43x2"], [3, 3, 4]);
        compare(LIMITS, &ALL[1..2], wide, (3, 2), dims, 1, Boundary::Zero);
        let limits = Limits { tf32: true, ..LIMITS };
        compare(limits, &[(Element::F32, 2e-3)], wide, (3, 2), dims, 1, Boundary::Zero);
    }
}
