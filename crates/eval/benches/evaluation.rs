//! What an evaluation spends on a batch of 32 volumes of 32³ voxels: turning them, each from an item of its
//! own or all from one, and the forward pass of the small steerable network.

use std::hint::black_box;

use candle_core::{DType, Device, Tensor};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use rayon::prelude::*;
use steer3d_eval::{NetworkPredictor, Predictor};
use steer3d_nn::{ModelConfig, Network, SteerableConfig};
use steer3d_so3::{Stream, random_rotations};
use steer3d_volume::{Grid, Interpolation, Rotator, rotate_into};

const BATCH: usize = 32;
const SIZE: usize = 32;

fn evaluation(c: &mut Criterion) {
    let voxels = SIZE * SIZE * SIZE;
    let mut stream = Stream::new(0, "volumes", &[]);
    let data: Vec<f32> = (0..BATCH * voxels).map(|_| stream.normal() as f32).collect();
    let grid = Grid::new([SIZE; 3], [1.0; 3]).expect("a grid");
    let scalar = "1x0".parse().expect("irreps");
    let rotations = random_rotations(0, BATCH);
    let mut group = c.benchmark_group("evaluation");
    group.sample_size(10).throughput(Throughput::Elements(BATCH as u64));
    for interpolation in [Interpolation::Trilinear, Interpolation::Cubic] {
        group.bench_function(format!("turn, {interpolation}"), |b| {
            let mut turned = vec![0.0; data.len()];
            b.iter(|| {
                let items = turned.par_chunks_mut(voxels).zip(data.par_chunks(voxels));
                items.zip(&rotations).for_each(|((target, source), rotation)| {
                    rotate_into(source, &grid, &scalar, rotation, interpolation, target)
                        .expect("a rotation");
                });
                black_box(&turned);
            });
        });
    }
    group.bench_function("turn one item, cubic", |b| {
        let mut turned = vec![0.0; data.len()];
        b.iter(|| {
            let item = data[..voxels].to_vec();
            let item = Rotator::new(item, grid, scalar.clone(), Interpolation::Cubic);
            let item = item.expect("an item");
            let targets = turned.par_chunks_mut(voxels).zip(&rotations);
            targets.for_each(|(target, rotation)| {
                item.rotate_into(rotation, target).expect("a rotation");
            });
            black_box(&turned);
        });
    });
    let config = ModelConfig::Steerable(SteerableConfig::small(1, 10).expect("a network"));
    let network = Network::new(&config, 0, DType::F32, &Device::Cpu).expect("a network");
    let predictor = NetworkPredictor::new("small".into(), network).expect("a network");
    let batch = Tensor::from_vec(data.clone(), (BATCH, 1, SIZE, SIZE, SIZE), &Device::Cpu)
        .expect("a batch");
    group.bench_function("forward", |b| {
        b.iter(|| black_box(predictor.logits(&batch).expect("logits")));
    });
    group.finish();
}

criterion_group!(benches, evaluation);
criterion_main!(benches);
