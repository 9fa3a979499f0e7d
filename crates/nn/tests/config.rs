//! Model configurations: round trip and mistakes.

use candle_core::{DType, Device};
use steer3d_nn::{ModelConfig, Network, PlainConfig, SteerableConfig, Symmetry};

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
    for model in [ModelConfig::Steerable(steerable), ModelConfig::Plain(plain)] {
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

#[test]
fn the_rivals_have_nearly_as_many_parameters() {
    let steerable = SteerableConfig::small(1, 3).unwrap();
    let count =
        |m: &ModelConfig| Network::new(m, 0, DType::F32, &Device::Cpu).unwrap().params().count();
    let wanted = count(&ModelConfig::Steerable(steerable.clone()));
    for (symmetry, nearly) in [(Symmetry::None, 0.9..1.1), (Symmetry::Octahedral, 0.7..1.3)] {
        let rival = PlainConfig { symmetry, ..PlainConfig::like(&steerable) };
        let rival = rival.with_parameters(wanted);
        assert_eq!(count(&ModelConfig::Plain(rival.clone())), rival.parameter_count());
        let ratio = rival.parameter_count() as f64 / wanted as f64;
        assert!(nearly.contains(&ratio), "{} against {wanted}", rival.parameter_count());
    }
}
