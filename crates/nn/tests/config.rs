//! Model configurations: round trip and mistakes.

use candle_core::{DType, Device, Tensor};
use steer3d_kernels::Family;
use steer3d_nn::{
    ModelConfig, Network, PlainConfig, Pooling, SteerableConfig, Symmetry, TransformerConfig,
};

fn build_error(change: impl FnOnce(&mut SteerableConfig)) -> String {
    let mut config = SteerableConfig::small(1, 3).unwrap();
    change(&mut config);
    let model = ModelConfig::Steerable(config);
    Network::new(&model, 0, DType::F32, &Device::Cpu).unwrap_err().to_string()
}

#[test]
fn configurations_survive_toml() {
    let steerable = SteerableConfig::small(2, 5).unwrap();
    let plain = PlainConfig::like(&steerable).with_parameters(30_000);
    let transformer = Some(TransformerConfig::small());
    let transformer = ModelConfig::Plain(PlainConfig { transformer, ..plain.clone() });
    assert_eq!(transformer.name(), "transformer");
    for model in [ModelConfig::Steerable(steerable), ModelConfig::Plain(plain), transformer] {
        assert_eq!(ModelConfig::from_toml(&model.to_toml().unwrap()).unwrap(), model);
    }
}

#[test]
fn an_unknown_key_is_refused() {
    let text = ModelConfig::Steerable(SteerableConfig::small(1, 2).unwrap()).to_toml().unwrap();
    let error = ModelConfig::from_toml(&text.replace("dropout", "droput")).unwrap_err();
    assert!(error.to_string().contains("droput"), "{error}");
}

#[test]
fn mistakes_name_their_key() {
    assert!(build_error(|c| c.classes = 1).contains("classes"));
    assert!(build_error(|c| c.dropout = 1.5).contains("dropout"));
    assert!(build_error(|c| c.blocks[1].stride = 0).contains("blocks[1].stride"));
    assert!(build_error(|c| c.blocks.clear()).contains("no block"));
    assert!(build_error(|c| c.voxel_size = [1.0, 0.0, 1.0]).contains("voxel_size"));
    let rotating = build_error(|c| c.blocks[3].fields = "4x0+1x1".parse().unwrap());
    assert!(rotating.contains("4x0+1x1"), "{rotating}");
}

/// The rivals and how near to a budget their widths bring them.
fn rivals() -> Vec<(PlainConfig, std::ops::Range<f64>)> {
    let plain = PlainConfig::small(1, 3);
    let antialiased = PlainConfig { pooling: Pooling::Antialiased, ..plain.clone() };
    let group = PlainConfig { symmetry: Symmetry::Octahedral, ..antialiased.clone() };
    let transformer = Some(TransformerConfig::small());
    let transformer = PlainConfig { transformer, ..plain.clone() };
    vec![(plain, 0.9..1.1), (antialiased, 0.9..1.1), (group, 0.7..1.3), (transformer, 0.9..1.1)]
}

fn network(config: &PlainConfig) -> Network {
    Network::new(&ModelConfig::Plain(config.clone()), 0, DType::F32, &Device::Cpu).unwrap()
}

#[test]
fn the_rivals_have_nearly_as_many_parameters() {
    let model = ModelConfig::Steerable(SteerableConfig::small(1, 3).unwrap());
    let wanted = Network::new(&model, 0, DType::F32, &Device::Cpu).unwrap().params().count();
    for (rival, nearly) in rivals() {
        let rival = rival.with_parameters(wanted);
        assert_eq!(network(&rival).params().count(), rival.parameter_count());
        let ratio = rival.parameter_count() as f64 / wanted as f64;
        assert!(nearly.contains(&ratio), "{} against {wanted}", rival.parameter_count());
    }
}

#[test]
fn or_nearly_as_many_multiply_adds_as_their_layers_say() {
    let dims = [15, 14, 13];
    let x = Tensor::zeros((1, 1, 15, 14, 13), DType::F32, &Device::Cpu).unwrap();
    let counted = |network: &Network| {
        let layers = network.layers(&x).unwrap();
        let cost = |c: steer3d_nn::ConvolutionInfo| {
            let layer = layers.iter().find(|l| l.name == c.layer).unwrap();
            c.cost * layer.values.dims()[2..].iter().product::<usize>()
        };
        network.convolutions().into_iter().map(cost).sum::<usize>()
    };
    for kernel in [Family::shells(), Family::jets(2)] {
        let steerable = SteerableConfig { kernel, ..SteerableConfig::small(1, 3).unwrap() };
        let model = ModelConfig::Steerable(steerable);
        let reference = Network::new(&model, 0, DType::F32, &Device::Cpu).unwrap();
        let wanted = reference.multiply_adds(dims);
        assert_eq!(counted(&reference), wanted);
        for (rival, _) in rivals() {
            let rival = network(&rival.with_multiply_adds(wanted, dims));
            let found = rival.multiply_adds(dims);
            assert_eq!(counted(&rival), found);
            let ratio = found as f64 / wanted as f64;
            // 24 orientations cost more than that even with one channel a block.
            let ModelConfig::Plain(config) = rival.config() else { unreachable!() };
            let narrowest = config.blocks.iter().all(|b| b.channels == 1);
            let group = config.symmetry == Symmetry::Octahedral && narrowest;
            assert!(group || (0.8..1.2).contains(&ratio), "{}: {ratio}", rival.config().name());
        }
    }
}

#[test]
fn a_wider_steerable_network_has_more_of_every_field() {
    let config = SteerableConfig::small(1, 3).unwrap();
    let fields = |width: f64| config.with_width(width).unwrap().blocks[0].fields.to_string();
    assert_eq!([1.0, 2.0, 0.1].map(fields), ["4x0+3x1+1x2", "8x0+6x1+2x2", "1x0+1x1+1x2"]);
}
