//! Networks and layers among those of candle.

use candle_core::{DType, Device, Module, ModuleT, Tensor};
use candle_nn::{VarBuilder, VarMap};
use steer3d_nn::layers::{ConvConfig, FieldLayer, SteerableConv3d};
use steer3d_nn::{Field, Mode, ModelConfig, Network, Params, PlainConfig, SteerableConfig};

fn models() -> [ModelConfig; 2] {
    let steerable = SteerableConfig { dropout: 0.2, ..SteerableConfig::small(1, 3).unwrap() };
    let plain = PlainConfig::like(&steerable).with_parameters(3000);
    [steerable.into(), plain.into()]
}

fn values(x: &Tensor) -> Vec<f32> {
    x.flatten_all().unwrap().to_vec1().unwrap()
}

fn volumes() -> Tensor {
    let values: Vec<f32> = (0..2 * 729).map(|i| (i as f32 * 0.7).sin()).collect();
    Tensor::from_vec(values, (2, 1, 9, 9, 9), &Device::Cpu).unwrap()
}

#[test]
fn a_var_map_holds_the_weights_of_a_seed() {
    for model in models() {
        let map = VarMap::new();
        let builder = VarBuilder::from_varmap(&map, DType::F32, &Device::Cpu).pp("trunk");
        let build = || Network::with_params(&model, Params::from_var_builder(&builder, 7)).unwrap();
        let (expected, found) =
            (Network::new(&model, 7, DType::F32, &Device::Cpu).unwrap(), build());
        let held = map.data().lock().unwrap().clone();
        assert_eq!(held.len(), expected.params().all().count());
        for ((name, var), (full, of_map)) in expected.params().all().zip(found.params().all()) {
            assert_eq!(format!("trunk.{name}"), full);
            assert_eq!(values(var).len(), values(of_map).len());
            assert_eq!(held[full].id(), of_map.id(), "{name}");
        }
        // What the map has already stays as it is.
        let weight = &found.params().trainable()[0].var;
        weight.set(&weight.affine(0.0, 0.5).unwrap()).unwrap();
        let again = build();
        assert!(values(&again.params().trainable()[0].var).iter().all(|w| *w == 0.5));
    }
}

#[test]
fn a_network_is_read_from_a_file_of_candle() {
    for model in models() {
        let map = VarMap::new();
        let builder = VarBuilder::from_varmap(&map, DType::F32, &Device::Cpu);
        let network = Network::with_params(&model, Params::from_var_builder(&builder, 7)).unwrap();
        let fresh = Network::new(&model, 7, DType::F32, &Device::Cpu).unwrap();
        for ((name, a), (_, b)) in network.params().all().zip(fresh.params().all()) {
            assert_eq!(values(a), values(b), "{name}");
        }
        network.forward(&volumes(), Mode::Train { seed: 0, step: 0 }).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("weights.safetensors");
        map.save(&path).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        let file = VarBuilder::from_buffered_safetensors(bytes, DType::F32, &Device::Cpu).unwrap();
        let loaded = Network::with_params(&model, Params::from_var_builder(&file, 0)).unwrap();
        let logits = |network: &Network| values(&network.forward_t(&volumes(), false).unwrap());
        assert_eq!(logits(&network), logits(&loaded));
        let missing = Params::from_var_builder(&file.pp("nowhere"), 0);
        let error = Network::with_params(&model, missing).unwrap_err().to_string();
        assert!(error.contains("nowhere.blocks.0"), "{error}");
    }
}

#[test]
fn networks_are_modules() {
    for model in models() {
        let network = Network::new(&model, 1, DType::F32, &Device::Cpu).unwrap();
        let x = volumes();
        let expected = Network::new(&model, 1, DType::F32, &Device::Cpu).unwrap();
        for step in 0..3 {
            let found = network.forward_t(&x, true).unwrap();
            let expected = expected.forward(&x, Mode::Train { seed: 1, step }).unwrap();
            assert_eq!(values(&found), values(&expected), "step {step}");
        }
        let folded = network.folded().unwrap();
        let found = Module::forward(&folded, &x).unwrap();
        assert_eq!(values(&found), values(&folded.forward(&x).unwrap()));
    }
}

#[test]
fn a_layer_takes_a_var_builder() {
    let map = VarMap::new();
    let builder = VarBuilder::from_varmap(&map, DType::F32, &Device::Cpu);
    let config = || ConvConfig::new(&"1x0".parse().unwrap(), &"2x0+1x1".parse().unwrap());
    let conv = SteerableConv3d::new(builder.pp("a").pp("conv"), config()).unwrap();
    let other = SteerableConv3d::new(builder.pp("b").pp("conv"), config()).unwrap();
    let mut params = Params::new(0, DType::F32, &Device::Cpu);
    let same = SteerableConv3d::new(params.pp("a").pp("conv"), config()).unwrap();
    let mut names: Vec<String> = map.data().lock().unwrap().keys().cloned().collect();
    names.sort();
    assert_eq!(names, ["a.conv.weight", "b.conv.weight"]);
    let field = Field::new("1x0".parse().unwrap(), volumes()).unwrap();
    let of = |layer: &SteerableConv3d| values(layer.forward(&field).unwrap().values());
    assert_eq!(of(&conv), of(&same));
    assert_ne!(of(&conv), of(&other));
}
