//! Speed of `conv3d` in operations per second (a multiplication and an addition count as two), next
//! to a matrix product of candle's on the same threads.
//!
//! `cargo bench -p steer3d-ops`; RAYON_NUM_THREADS sets the threads.

use std::hint::black_box;

use candle_core::{Device, Result, Tensor, Var};
use criterion::{Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use steer3d_ops::{Conv3dConfig, conv3d};

fn random(shape: &[usize]) -> Result<Tensor> {
    Tensor::rand(-1f32, 1f32, shape, &Device::Cpu)
}

fn matrix_product(criterion: &mut Criterion) {
    let (m, k, n) = (2048, 1024, 2048);
    let (a, b) = (random(&[m, k]).unwrap(), random(&[k, n]).unwrap());
    let mut group = criterion.benchmark_group("matmul");
    group.sample_size(10).throughput(Throughput::Elements(2 * (m * k * n) as u64));
    group.bench_function(format!("{m}x{k}x{n}"), |bench| {
        bench.iter(|| black_box(a.matmul(&b).unwrap()));
    });
    group.finish();
}

/// Batch, channels in and out, edge of the volume, kernel size.
const LAYERS: [[usize; 5]; 8] = [
    [1, 32, 32, 32, 3],
    [1, 32, 32, 32, 5],
    [1, 64, 64, 24, 3],
    [1, 64, 64, 24, 5],
    [1, 144, 144, 16, 3],
    [1, 144, 144, 16, 5],
    [8, 1, 32, 12, 5],
    [8, 16, 32, 12, 3],
];

fn layers(criterion: &mut Criterion) {
    for [batch, c_in, c_out, edge, k] in LAYERS {
        let name = format!("{c_in}to{c_out}_k{k}_{edge}^3_batch{batch}");
        let x = random(&[batch, c_in, edge, edge, edge]).unwrap();
        let w = random(&[c_out, c_in, k, k, k]).unwrap();
        let config = Conv3dConfig::same(k);
        let operations = 2 * batch * c_in * c_out * edge.pow(3) * k.pow(3);
        let mut group = criterion.benchmark_group(name);
        group
            .sample_size(10)
            .sampling_mode(SamplingMode::Flat)
            .throughput(Throughput::Elements(operations as u64));
        group.bench_function("forward", |bench| {
            bench.iter(|| black_box(conv3d(&x, &w, None, &config).unwrap()));
        });
        for (name, of_x) in [("input_gradient", true), ("weight_gradient", false)] {
            let var = Var::from_tensor(if of_x { &x } else { &w }).unwrap();
            let (x, w) = if of_x { (var.as_tensor(), &w) } else { (&x, var.as_tensor()) };
            let out = conv3d(x, w, None, &config).unwrap();
            group.bench_function(name, |bench| {
                bench.iter(|| black_box(out.backward().unwrap()));
            });
        }
        group.finish();
    }
}

criterion_group!(benches, matrix_product, layers);
criterion_main!(benches);
