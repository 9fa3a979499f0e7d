//! Turning fields, and how far a network is from commuting with that.

use candle_core::{Device, Tensor};
use steer3d_nn::{LayerField, Network};
use steer3d_so3::{Irreps, Rotation, Stream, cube_group};
use steer3d_volume::{Grid, Interpolation, Volume, rotate};

pub(crate) fn random_volume(channels: usize, n: usize) -> Tensor {
    let mut stream = Stream::new(5, "volume", &[n as u64]);
    let values: Vec<f32> = (0..channels * n * n * n).map(|_| stream.normal() as f32).collect();
    Tensor::from_vec(values, (1, channels, n, n, n), &Device::Cpu).unwrap()
}

/// A field, N,C,D,H,W or without space N,C, turned about the centre.
pub(crate) fn turn(x: &Tensor, irreps: &Irreps, rotation: &Rotation) -> Tensor {
    if x.dims().len() == 2 {
        let d = irreps.wigner_d(rotation);
        let d: Vec<f32> = d.iter().map(|&x| x as f32).collect();
        let d = Tensor::from_vec(d, (irreps.dim(), irreps.dim()), &Device::Cpu).unwrap();
        return x.matmul(&d).unwrap();
    }
    let (_, c, d, h, w) = x.dims5().unwrap();
    let values = x.flatten_all().unwrap().to_vec1().unwrap();
    let grid = Grid::new([d, h, w], [1.0; 3]).unwrap();
    let volume = Volume::centred(values, c, grid).unwrap();
    let turned = rotate(&volume, irreps, rotation, Interpolation::Cubic).unwrap();
    Tensor::from_vec(turned.data().to_vec(), (1, c, d, h, w), &Device::Cpu).unwrap()
}

pub(crate) fn relative_gap(a: &Tensor, b: &Tensor) -> f32 {
    let norm = |t: &Tensor| t.sqr().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap().sqrt();
    norm(&(a - b).unwrap()) / norm(b)
}

/// Largest relative gap between layer(Rx) and R layer(x), over layers and cube rotations.
pub(crate) fn worst_gap(network: &Network, irreps: &Irreps, n: usize) -> f32 {
    worst_gap_of(&cube_group(), network, irreps, n)
}

/// The same over some rotations of the cube.
pub(crate) fn worst_gap_of(
    group: &[Rotation],
    network: &Network,
    irreps: &Irreps,
    n: usize,
) -> f32 {
    let x = random_volume(irreps.dim(), n);
    let straight = network.layers(&x).unwrap();
    let mut worst = 0f32;
    for rotation in group {
        let turned = network.layers(&turn(&x, irreps, rotation)).unwrap();
        for (LayerField { values, .. }, s) in turned.iter().zip(&straight) {
            worst = worst.max(relative_gap(values, &turn(&s.values, &s.irreps, rotation)));
        }
    }
    worst
}
