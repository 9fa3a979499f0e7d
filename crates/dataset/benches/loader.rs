//! Reading batches of eight CATH domains: one after the other and ahead on threads, voxels and points.

use std::hint::black_box;
use std::path::Path;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use steer3d_dataset::{
    Batch, Dataset, ImportOptions, Loader, LoaderOptions, RandomRotation, Turns, import_cath,
};
use steer3d_volume::Voxeliser;

fn loader(c: &mut Criterion) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("cath.h5");
    let source = Path::new(env!("CARGO_MANIFEST_DIR"));
    let source = source.join("../../data/cath/cath_3class_ca_small.npz");
    import_cath(&source, &path, &Voxeliser::paper(50, 2.0), &ImportOptions::default())
        .expect("the bundled data");
    let dataset = Dataset::open(&path).expect("the dataset just made");
    let batches: Vec<Vec<usize>> = (0..16).map(|i| (8 * i..8 * i + 8).collect()).collect();
    let mut group = c.benchmark_group("loader");
    group.sample_size(10).throughput(Throughput::Elements(128));
    let rotation = RandomRotation { seed: 0, epoch: 0, turns: Turns::So3 { fraction: 1.0 } };
    for (name, rotation) in [("voxels", None), ("rotated points", Some(rotation))] {
        group.bench_function(format!("{name}, one by one"), |b| {
            b.iter(|| {
                for items in &batches {
                    black_box(Batch::read(&dataset, items, rotation.as_ref()).expect("whole"));
                }
            });
        });
        for threads in [1, 2, 4] {
            let options = LoaderOptions { threads, rotation, ..LoaderOptions::default() };
            group.bench_function(format!("{name}, {threads} threads"), |b| {
                b.iter(|| {
                    std::thread::scope(|scope| {
                        let loader = Loader::new(scope, &dataset, batches.clone(), options);
                        loader.for_each(|batch| drop(black_box(batch.expect("whole"))));
                    });
                });
            });
        }
    }
    group.finish();
}

criterion_group!(benches, loader);
criterion_main!(benches);
