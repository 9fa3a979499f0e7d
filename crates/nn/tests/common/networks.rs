//! Networks of all kinds with weights away from where they start.

use candle_core::{DType, Device, Tensor};
use steer3d_kernels::Family;
use steer3d_nn::{
    Head, Mode, ModelConfig, Network, Nonlinearity, Normalisation, PlainBlock, PlainConfig,
    Pooling, SteerableBlock, SteerableConfig, Symmetry, TransformerConfig,
};
use steer3d_so3::{Irreps, Stream};

pub(crate) const ALL: [Nonlinearity; 4] =
    [Nonlinearity::Gate, Nonlinearity::Norm, Nonlinearity::TensorProduct, Nonlinearity::Sphere];

pub(crate) fn irreps(text: &str) -> Irreps {
    text.parse().unwrap()
}

pub(crate) fn of(blocks: Vec<SteerableBlock>) -> SteerableConfig {
    SteerableConfig::new(irreps("1x0"), 3, Family::jets(2), blocks)
}

pub(crate) fn block(fields: &str, stride: usize) -> SteerableBlock {
    SteerableBlock::new(irreps(fields), 3, stride)
}

/// Residual blocks that keep type and grid, change either, and have another type inside.
pub(crate) fn residual() -> SteerableConfig {
    let residual =
        |fields: &str, stride, repeat| SteerableBlock::residual(irreps(fields), 3, stride, repeat);
    let last = SteerableBlock { hidden: Some(irreps("3x0+1x1")), ..residual("5x0", 1, 1) };
    of(vec![
        block("3x0+1x1+1x2", 1),
        residual("3x0+1x1+1x2", 1, 2),
        residual("2x0+2x1+1x2", 2, 2),
        last,
    ])
}

pub(crate) fn unet() -> SteerableConfig {
    let mut config = of(vec![
        block("3x0+2x1+1x2", 1),
        block("3x0+2x1+1x2", 2),
        SteerableBlock::residual(irreps("2x0+1x1+1x2"), 3, 3, 1),
    ]);
    config.decoder =
        vec![SteerableBlock { repeat: 2, ..block("2x0+1x1+1x2", 1) }, block("3x0+2x1+1x2", 1)];
    SteerableConfig { head: Head::Voxels, ..config }
}

pub(crate) fn field_head(pooled: bool) -> SteerableConfig {
    let head = Head::Field { irreps: irreps("2x1+1x0+1x2"), pooled };
    SteerableConfig {
        head,
        classes: 0,
        ..of(vec![block("3x0+2x1+1x2", 1), block("3x0+2x1+1x2", 1)])
    }
}

/// Two volumes of noise.
pub(crate) fn pair(channels: usize, n: usize) -> Tensor {
    let mut stream = Stream::new(5, "volume", &[n as u64]);
    let values = (0..2 * channels * n.pow(3)).map(|_| stream.normal() as f32);
    Tensor::from_iter(values, &Device::Cpu).unwrap().reshape((2, channels, n, n, n)).unwrap()
}

/// A network with every weight moved away from where it starts and its statistics taken from noise.
pub(crate) fn prepared(model: &ModelConfig) -> Network {
    let network = Network::new(model, 1, DType::F32, &Device::Cpu).unwrap();
    for parameter in network.params().trainable() {
        let var = &parameter.var;
        let mut stream = Stream::new(2, &parameter.name, &[]);
        let noise: Vec<f32> = (0..var.elem_count()).map(|_| 0.1 * stream.normal() as f32).collect();
        let noise = Tensor::from_vec(noise, var.shape(), &Device::Cpu).unwrap();
        var.set(&(var.as_tensor().detach() + noise).unwrap()).unwrap();
    }
    network.forward(&pair(model.channels(), 11), Mode::Calibrate { batch: 0 }).unwrap();
    network
}

/// Steerable networks.
pub(crate) fn configs() -> Vec<SteerableConfig> {
    let with = |config: SteerableConfig| {
        ALL.map(|nonlinearity| SteerableConfig { nonlinearity, ..config.clone() })
    };
    let mut all: Vec<_> = [residual(), unet()].map(with).concat();
    let scalars = SteerableConfig { head: Head::Scalars, classes: 1, ..residual() };
    all.extend([field_head(false), field_head(true), scalars]);
    all.push(SteerableConfig { keep_zero: true, head_norm: true, ..residual() });
    all.push(SteerableConfig { nonlinearity: Nonlinearity::TensorProduct, ..instance_unet() });
    all.extend([false, true].map(|keep_zero| SteerableConfig { keep_zero, ..instance_unet() }));
    all
}

/// A U-Net with instance norms.
pub(crate) fn instance_unet() -> SteerableConfig {
    SteerableConfig { norm: Normalisation::Instance, ..unet() }
}

/// Ordinary and group U-Nets with instance norms.
fn plain_instance() -> Vec<PlainConfig> {
    let norm = Normalisation::Instance;
    let unets = plain_unets().into_iter().filter(|config| !config.decoder.is_empty());
    unets.map(|config| PlainConfig { norm, ..config }).collect()
}

/// Ordinary and group U-Nets, and one that gives five numbers.
pub(crate) fn plain_unets() -> Vec<PlainConfig> {
    let plain = PlainConfig::like(&unet());
    let antialiased = PlainConfig { pooling: Pooling::Antialiased, ..plain.clone() };
    let group = PlainConfig { symmetry: Symmetry::Octahedral, ..antialiased.clone() };
    let field = |pooled| PlainConfig { classes: 0, ..PlainConfig::like(&field_head(pooled)) };
    vec![plain, antialiased, field(true), field(false), group]
}

pub(crate) fn plain_residual() -> Vec<PlainConfig> {
    let blocks = vec![
        PlainBlock::new(3, 3, 1),
        PlainBlock::residual(3, 3, 1, 2),
        PlainBlock::residual(4, 3, 2, 2),
    ];
    let plain = PlainConfig { blocks, ..PlainConfig::resnet34(1, 3) };
    let antialiased = PlainConfig { pooling: Pooling::Antialiased, ..plain.clone() };
    let group = PlainConfig { symmetry: Symmetry::Octahedral, ..antialiased.clone() };
    vec![plain, antialiased, group]
}

fn transformer() -> PlainConfig {
    let plain = PlainConfig::like(&SteerableConfig::small(1, 3).unwrap());
    PlainConfig { transformer: Some(TransformerConfig::small()), ..plain }
}

pub(crate) fn all_models() -> Vec<ModelConfig> {
    let steerable = configs().into_iter().map(ModelConfig::Steerable);
    let plain = plain_residual().into_iter().chain(plain_unets()).chain([transformer()]);
    let plain = plain.chain(plain_instance());
    steerable.chain(plain.map(ModelConfig::Plain)).collect()
}
