//! Time of separable steerable convolution, forward and with its gradients, next to the dense
//! filter and to a matrix product. Throughput counts a multiplication and an addition as two, those of
//! the method itself.
//!
//! `cargo bench -p steer3d-ops --bench separable`; RAYON_NUM_THREADS sets the threads.
#![allow(missing_docs)] // `criterion_group!` makes an undocumented function.

use std::hint::black_box;

use candle_core::{Device, Tensor, Var};
use criterion::{Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use steer3d_kernels::{Family, KernelBasis, SeparablePlan};
use steer3d_ops::{Boundary, Separable, reuse_memory, separable_conv3d};
use steer3d_so3::Irreps;

/// Input, output, k, order, edge.
const LAYERS: [(&str, &str, usize, usize, usize); 6] = [
    ("16x0+16x1+16x2", "16x0+16x1+16x2", 5, 3, 48),
    ("16x0+16x1+16x2", "16x0+16x1+16x2", 5, 4, 48),
    ("16x0+16x1+16x2", "16x0+16x1+16x2", 7, 4, 48),
    ("8x0+4x1+2x2", "8x0+4x1+2x2", 5, 3, 32),
    ("1x0", "16x0+16x1+16x2", 5, 3, 48),
    ("16x0+16x1+16x2", "64x0", 5, 3, 48),
];

fn layers(criterion: &mut Criterion) {
    reuse_memory();
    for (input, output, size, order, edge) in LAYERS {
        let (i, o): (Irreps, Irreps) = (input.parse().unwrap(), output.parse().unwrap());
        let family = Family::jets(order);
        let basis = KernelBasis::new(&i, &o, size, &family, [1.0; 3]).unwrap();
        let plan = SeparablePlan::new(&basis, &family).unwrap().unwrap();
        let cost = plan.cost().total() * edge * edge * edge;
        let kernel = Separable::new(plan).unwrap();
        let shape = (1, i.dim(), edge, edge, edge);
        let x = Var::from_tensor(&Tensor::randn(0f32, 1f32, shape, &Device::Cpu).unwrap()).unwrap();
        let w = Tensor::randn(0f32, 1f32, basis.num_weights(), &Device::Cpu).unwrap();
        let w = Var::from_tensor(&w).unwrap();
        let forward = || separable_conv3d(&x, &w, None, &kernel, 1, Boundary::Zero).unwrap();
        let mut group =
            criterion.benchmark_group(format!("{input} to {output}, k{size} N{order} {edge}^3"));
        group
            .sample_size(10)
            .sampling_mode(SamplingMode::Flat)
            .throughput(Throughput::Elements(2 * cost as u64));
        group.bench_function("forward", |bench| bench.iter(|| black_box(forward())));
        group.bench_function("forward and backward", |bench| {
            bench.iter(|| black_box(forward().backward().unwrap()));
        });
        group.finish();
    }
}

criterion_group!(benches, layers);
criterion_main!(benches);
