//! Time of the operations on fields beside convolution, forward and backward.
//!
//! `cargo bench --workspace --bench fields`; RAYON_NUM_THREADS sets the threads.
#![allow(missing_docs)] // `criterion_group!` makes an undocumented function.

use std::hint::black_box;

use candle_core::{DType, Device, Result, Tensor, Var};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use steer3d_ops::{
    avg_pool3d, field_batch_norm, field_dropout, gate, gaussian_pool3d, global_avg_pool,
    max_pool3d, norm_relu, reuse_memory,
};
use steer3d_so3::Irreps;

const EDGE: usize = 32;

type Operation<'a> = Box<dyn Fn(&Tensor) -> Result<Tensor> + 'a>;

fn operations(criterion: &mut Criterion) {
    reuse_memory();
    let fields: Irreps = "16x0+16x1+16x2".parse().unwrap();
    let gated: Irreps = "16x1+16x2".parse().unwrap();
    let ones = |n: usize| Tensor::ones(n, DType::F32, &Device::Cpu).unwrap();
    let (weight, bias, norms) = (ones(48), ones(16), ones(48));
    let mask = Tensor::ones((1, 48), DType::F32, &Device::Cpu).unwrap();
    let operations: [(&str, usize, Operation<'_>); 8] = [
        ("gate", 176, Box::new(|x| gate(x, 16, &gated))),
        ("norm nonlinearity", 144, Box::new(|x| norm_relu(x, &fields, &norms))),
        (
            "batch norm",
            144,
            Box::new(|x| Ok(field_batch_norm(x, &fields, &weight, &bias, 1e-5)?.0)),
        ),
        ("field dropout", 144, Box::new(|x| field_dropout(x, &fields, &mask))),
        ("max pool", 144, Box::new(|x| max_pool3d(x, 2, 2, 0))),
        ("average pool", 144, Box::new(|x| avg_pool3d(x, 2, 2, 0))),
        ("Gaussian pool", 144, Box::new(|x| gaussian_pool3d(x, 2, 1.2))),
        ("global average", 144, Box::new(global_avg_pool)),
    ];
    for (name, channels, operation) in operations {
        let shape = (1, channels, EDGE, EDGE, EDGE);
        let x = Var::from_tensor(&Tensor::randn(0f32, 1f32, shape, &Device::Cpu).unwrap()).unwrap();
        let mut group = criterion.benchmark_group(name);
        group.sample_size(10).throughput(Throughput::Elements(x.elem_count() as u64));
        let detached = x.as_detached_tensor();
        group.bench_function("forward", |bench| {
            bench.iter(|| black_box(operation(&detached).unwrap()));
        });
        group.bench_function("forward and backward", |bench| {
            bench.iter(|| black_box(operation(&x).unwrap().backward().unwrap()));
        });
        group.finish();
    }
}

criterion_group!(benches, operations);
criterion_main!(benches);
