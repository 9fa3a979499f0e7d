//! How an operation is written: once, as an [`Op`], from which candle's forms and the GPU's follow.

#[cfg(feature = "cuda")]
use candle_core::CudaStorage;
use candle_core::backend::BackendStorage;
use candle_core::{
    CpuStorage, CustomOp1, CustomOp2, CustomOp3, DType, Error, Layout, Result, Shape, Tensor,
};
use half::bf16;

#[cfg(feature = "cuda")]
use crate::gpu::{Argument, launch, limits};
#[cfg(any(test, feature = "cuda"))]
use crate::gpu::{Element, Limits, Routine, Slot};
use crate::simd::Lanes;

/// A differentiable operation of `N` tensors of one element type, which it gets contiguous.
pub(crate) trait Op<const N: usize> {
    /// Name in messages.
    const NAME: &'static str;

    /// Whether the result for bf16 is in f32, which sums need.
    const WIDE: bool = false;

    /// The shape of the result for arguments of these shapes: that of the first, unless an operation says otherwise.
    fn shape(&self, inputs: [&Shape; N]) -> Shape {
        inputs[0].clone()
    }

    /// The elements of the result, on the CPU.
    fn cpu<T: Lanes>(&self, inputs: [&[T]; N]) -> Vec<T>;

    /// Adds the launches that write the result to `out` to a routine.
    #[cfg(any(test, feature = "cuda"))]
    fn gpu(&self, routine: &mut Routine, inputs: [Slot; N], out: Slot) -> Result<()>;

    /// The result on a GPU by a library instead of [`gpu`](Self::gpu); `None` where none computes it.
    #[cfg(feature = "cudnn")]
    fn by_library(&self, _inputs: [Argument<'_>; N]) -> Result<Option<CudaStorage>> {
        Ok(None)
    }

    /// The gradients of the arguments from that of the result, which is contiguous. `None` is for an argument whose
    /// gradient is zero or not wanted; candle fails where it wanted one.
    fn backward(&self, _inputs: [&Tensor; N], _grad: &Tensor) -> Result<[Option<Tensor>; N]> {
        Err(Error::BackwardNotSupported { op: Self::NAME }.bt())
    }
}

/// The result of `op`, which gradients flow through.
pub(crate) fn apply<O, A: Arguments<O>>(op: O, inputs: A) -> Result<Tensor> {
    inputs.apply(op, true)
}

/// The result of `op` as a constant.
pub(crate) fn apply_constant<O, A: Arguments<O>>(op: O, inputs: A) -> Result<Tensor> {
    inputs.apply(op, false)
}

/// What `gradient` gives if the gradient of `x` is wanted.
pub(crate) fn if_tracked(
    x: &Tensor,
    gradient: impl FnOnce() -> Result<Tensor>,
) -> Result<Option<Tensor>> {
    x.track_op().then(gradient).transpose()
}

/// As many tensors as an operation takes.
pub(crate) trait Arguments<O> {
    fn apply(self, op: O, tracked: bool) -> Result<Tensor>;
}

/// An operation in candle's form.
struct Candle<O>(O);

/// One of candle's traits, by an [`Op`] of so many arguments. Names are those of arguments and their layouts.
macro_rules! candle_form {
    (
        $trait:ident, $count:literal, $apply:ident, $apply_constant:ident, $gradients:ty = $given:expr;
        $a:ident $a_layout:ident $(, $x:ident $layout:ident)*
    ) => {
        impl<O: Op<$count> + Send + Sync + 'static> Arguments<O> for [&Tensor; $count] {
            fn apply(self, op: O, tracked: bool) -> Result<Tensor> {
                let [$a $(, $x)*] = self;
                let ($a, $($x,)*) = ($a.contiguous()?, $($x.contiguous()?,)*);
                if tracked {
                    $a.$apply($(&$x,)* Candle(op))
                } else {
                    $a.$apply_constant($(&$x,)* &Candle(op))
                }
            }
        }

        impl<O: Op<$count>> $trait for Candle<O> {
            fn name(&self) -> &'static str {
                O::NAME
            }

            fn cpu_fwd(
                &self,
                $a: &CpuStorage,
                $a_layout: &Layout
                $(, $x: &CpuStorage, $layout: &Layout)*
            ) -> Result<(CpuStorage, Shape)> {
                on_cpu(&self.0, [($a, $a_layout) $(, ($x, $layout))*])
            }

            #[cfg(feature = "cuda")]
            fn cuda_fwd(
                &self,
                $a: &CudaStorage,
                $a_layout: &Layout
                $(, $x: &CudaStorage, $layout: &Layout)*
            ) -> Result<(CudaStorage, Shape)> {
                on_gpu(&self.0, [($a, $a_layout) $(, ($x, $layout))*])
            }

            fn bwd(
                &self,
                $a: &Tensor
                $(, $x: &Tensor)*,
                _out: &Tensor,
                grad: &Tensor,
            ) -> Result<$gradients> {
                let [$a $(, $x)*] = self.0.backward([$a $(, $x)*], &grad.contiguous()?)?;
                Ok($given)
            }
        }
    };
}

type Gradient = Option<Tensor>;

candle_form! {
    CustomOp1, 1, apply_op1, apply_op1_no_bwd, Gradient = a;
    a a_layout
}
candle_form! {
    CustomOp2, 2, apply_op2, apply_op2_no_bwd, (Gradient, Gradient) = (a, b);
    a a_layout, b b_layout
}
candle_form! {
    CustomOp3, 3, apply_op3, apply_op3_no_bwd, (Gradient, Gradient, Gradient) = (a, b, c);
    a a_layout, b b_layout, c c_layout
}

/// The result on the CPU. bf16 is computed with in f32, as on a GPU.
pub(crate) fn on_cpu<O: Op<N>, const N: usize>(
    op: &O,
    inputs: [(&CpuStorage, &Layout); N],
) -> Result<(CpuStorage, Shape)> {
    let shape = op.shape(inputs.map(|(_, layout)| layout.shape()));
    let out = match inputs[0].0.dtype() {
        DType::F32 => CpuStorage::F32(computed(op, inputs)?),
        DType::F64 => CpuStorage::F64(computed(op, inputs)?),
        DType::BF16 => {
            let mut held = Vec::with_capacity(N);
            for (storage, layout) in inputs {
                let values: &[bf16] = elements(storage, layout, O::NAME)?;
                held.push(values.iter().map(|v| v.to_f32()).collect::<Vec<f32>>());
            }
            let out: Vec<f32> = op.cpu(std::array::from_fn(|i| &held[i][..]));
            if O::WIDE {
                CpuStorage::F32(out)
            } else {
                CpuStorage::BF16(out.into_iter().map(bf16::from_f32).collect())
            }
        }
        other => return Err(Error::UnsupportedDTypeForOp(other, O::NAME).bt()),
    };
    Ok((out, shape))
}

fn computed<O: Op<N>, T: Lanes, const N: usize>(
    op: &O,
    inputs: [(&CpuStorage, &Layout); N],
) -> Result<Vec<T>> {
    let mut values = [&[][..]; N];
    for (values, (storage, layout)) in values.iter_mut().zip(inputs) {
        *values = elements::<T>(storage, layout, O::NAME)?;
    }
    Ok(op.cpu(values))
}

/// The elements of a contiguous tensor.
fn elements<'a, T: candle_core::WithDType>(
    storage: &'a CpuStorage,
    layout: &Layout,
    op: &'static str,
) -> Result<&'a [T]> {
    let (start, end) =
        layout.contiguous_offsets().ok_or_else(|| Error::RequiresContiguous { op }.bt())?;
    Ok(&storage.as_slice::<T>()?[start..end])
}

/// The routine for arguments of these shapes.
#[cfg(any(test, feature = "cuda"))]
pub(crate) fn routine<O: Op<N>, const N: usize>(
    op: &O,
    shapes: [&Shape; N],
    element: Element,
    limits: Limits,
) -> Result<Routine> {
    let mut routine = Routine::new(element, limits);
    let inputs = shapes.map(|shape| routine.input(shape.elem_count()));
    let out = routine.output(op.shape(shapes).elem_count(), O::WIDE);
    op.gpu(&mut routine, inputs, out)?;
    routine.checked(O::NAME)
}

/// The result on the GPU of the arguments.
#[cfg(feature = "cuda")]
pub(crate) fn on_gpu<O: Op<N>, const N: usize>(
    op: &O,
    inputs: [Argument<'_>; N],
) -> Result<(CudaStorage, Shape)> {
    let (storage, shapes) = (inputs[0].0, inputs.map(|(_, layout)| layout.shape()));
    let (element, shape) = (Element::of(storage.dtype(), O::NAME)?, op.shape(shapes));
    #[cfg(feature = "cudnn")]
    if let Some(out) = op.by_library(inputs)? {
        return Ok((out, shape));
    }
    let routine = routine(op, shapes, element, limits(storage.device())?)?;
    Ok((launch(&routine, &inputs, O::NAME)?, shape))
}
