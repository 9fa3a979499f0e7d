//! Speed of the mathematics; the limits in brackets are for one core (`RAYON_NUM_THREADS=1`).
#![allow(missing_docs)] // `criterion_group!` makes an undocumented function.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use steer3d_so3::cg::compute_clebsch_gordan;
use steer3d_so3::wigner::wigner_d_batch;
use steer3d_so3::{Normalization, SphericalHarmonics, Stream, random_rotations};

fn points(n: usize) -> Vec<[f64; 3]> {
    let mut stream = Stream::new(0, "bench", &[]);
    (0..n).map(|_| [0; 3].map(|_| stream.normal())).collect()
}

/// SH l <= 8 at 1e5 points (40 ms).
fn harmonics(c: &mut Criterion) {
    let double = SphericalHarmonics::<f64>::new(8, Normalization::Component).unwrap();
    let single = SphericalHarmonics::<f32>::new(8, Normalization::Component).unwrap();
    let points = points(100_000);
    let points32: Vec<[f32; 3]> = points.iter().map(|p| p.map(|c| c as f32)).collect();
    let mut group = c.benchmark_group("harmonics l<=8, 1e5 points");
    let mut out = vec![0.0; points.len() * double.dim()];
    let mut out32 = vec![0.0; points.len() * single.dim()];
    group.bench_function("f64", |b| {
        b.iter(|| double.eval_batch_into(black_box(&points), black_box(&mut out)));
    });
    group.bench_function("f32", |b| {
        b.iter(|| single.eval_batch_into(black_box(&points32), black_box(&mut out32)));
    });
    group.bench_function("f64 with gradients", |b| {
        b.iter(|| double.eval_gradient_batch(black_box(&points)));
    });
    group.finish();
}

/// All CG tensors l <= 6, not from the cache (50 ms).
fn clebsch_gordan(c: &mut Criterion) {
    c.bench_function("clebsch-gordan l<=6", |b| {
        b.iter(|| {
            for l1 in 0..=6 {
                for l2 in 0..=6 {
                    for l3 in 0..=6 {
                        black_box(compute_clebsch_gordan(l1, l2, l3));
                    }
                }
            }
        });
    });
}

/// Wigner-D l <= 8 of 1e4 rotations (100 ms).
fn wigner_d(c: &mut Criterion) {
    let rotations = random_rotations(0, 10_000);
    c.bench_function("wigner-d l<=8, 1e4 rotations", |b| {
        b.iter(|| wigner_d_batch(8, black_box(&rotations)).unwrap());
    });
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20);
    targets = harmonics, clebsch_gordan, wigner_d
}
criterion_main!(benches);
