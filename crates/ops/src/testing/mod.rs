//! Operations of the GPU against those of the CPU, on the host.

mod nvrtc;

use candle_core::{CpuStorage, Device, Layout, Shape, Tensor};
use steer3d_so3::Stream;

use crate::gpu::host::{ALL, LIMITS, available, held, run};
use crate::gpu::{Element, Limits};
use crate::op::{Op, on_cpu, routine};

pub(crate) use crate::gpu::host::values;

/// Compares the routine of `op` on the host with its CPU form in f64.
pub(crate) fn check<O: Op<N>, const N: usize>(op: &O, inputs: [&Tensor; N]) {
    check_within(LIMITS, op, &ALL, inputs);
}

/// As [`check`], on a device of these limits and for these element types.
pub(crate) fn check_within<O: Op<N>, const N: usize>(
    limits: Limits,
    op: &O,
    elements: &[(Element, f64)],
    inputs: [&Tensor; N],
) {
    if !available() {
        return;
    }
    for &(element, tolerance) in elements {
        let held = inputs.map(|x| held(x, element));
        let expected = values(&computed(op, held.each_ref()));
        let routine = routine(op, held.each_ref().map(Tensor::shape), element, limits).unwrap();
        let inputs = held.each_ref().map(values);
        let found = run(&routine, &inputs);
        assert_eq!(found.len(), expected.len());
        let scale = expected.iter().fold(f64::MIN_POSITIVE, |m, v| m.max(v.abs()));
        for (i, (a, b)) in found.iter().zip(&expected).enumerate() {
            let (difference, name) = ((a - b).abs() / scale, O::NAME);
            assert!(difference <= tolerance, "{name} {element:?}, element {i}: {a}, expected {b}");
        }
        assert_eq!(found, run(&routine, &inputs), "a second run gives other bits");
    }
}

/// The result on the CPU, in f64.
pub(crate) fn computed<O: Op<N>, const N: usize>(op: &O, inputs: [&Tensor; N]) -> Tensor {
    let values = inputs.map(|x| CpuStorage::F64(values(x)));
    let layouts = inputs.map(|x| Layout::contiguous(x.shape()));
    let (out, shape) = on_cpu(op, std::array::from_fn(|i| (&values[i], &layouts[i]))).unwrap();
    Tensor::from_vec(out.as_slice::<f64>().unwrap().to_vec(), shape, &Device::Cpu).unwrap()
}

/// Standard normal numbers in f64.
pub(crate) fn normal(seed: u64, shape: impl Into<Shape>) -> Tensor {
    let shape = shape.into();
    let mut stream = Stream::new(seed, "test", &[]);
    let values: Vec<f64> = (0..shape.elem_count()).map(|_| stream.normal()).collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}
