//! Time to build kernel bases and to expand them.

use criterion::{Criterion, criterion_group, criterion_main};
use steer3d_kernels::{Family, KernelBasis};
use steer3d_so3::{Irreps, Stream};

fn network(family: &Family, size: usize) -> usize {
    let hidden: Irreps = "16x0+16x1+16x2".parse().unwrap();
    let input: Irreps = "1x0".parse().unwrap();
    let mut weights = 0;
    for layer in 0..5 {
        let irreps_in = if layer == 0 { &input } else { &hidden };
        let basis = KernelBasis::new(irreps_in, &hidden, size, family, [1.0; 3]).unwrap();
        weights += basis.initial_weights(&mut Stream::new(0, "init", &[layer])).len();
    }
    weights
}

fn construction(c: &mut Criterion) {
    let mut group = c.benchmark_group("construction");
    group.sample_size(10);
    let cases = [
        ("shells", Family::shells(), 5),
        ("jets-3", Family::jets(3), 5),
        ("jets-4", Family::jets(4), 7),
    ];
    for (name, family, size) in &cases {
        group.bench_function(format!("5-layers-144-channels/{name}/k{size}"), |b| {
            b.iter(|| network(family, *size));
        });
        let hidden: Irreps = "16x0+16x1+16x2".parse().unwrap();
        let basis = KernelBasis::new(&hidden, &hidden, *size, family, [1.0; 3]).unwrap();
        let weights = basis.initial_weights(&mut Stream::new(0, "init", &[]));
        group.bench_function(format!("expand-144-channels/{name}/k{size}"), |b| {
            b.iter(|| basis.expand(&weights).unwrap());
        });
    }
    group.finish();
}

criterion_group!(benches, construction);
criterion_main!(benches);
