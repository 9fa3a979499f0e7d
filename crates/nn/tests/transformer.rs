//! The spatial transformer in front of the plain network.

use candle_core::{DType, Device, Tensor};
use steer3d_nn::{Mode, ModelConfig, Network, PlainConfig, SteerableConfig, TransformerConfig};
use steer3d_so3::Stream;

fn networks(dtype: DType) -> [Network; 2] {
    let plain = PlainConfig::like(&SteerableConfig::small(2, 3).unwrap()).with_parameters(3000);
    let transformer = Some(TransformerConfig::small());
    let transformer = PlainConfig { transformer, ..plain.clone() };
    [transformer, plain]
        .map(|c| Network::new(&ModelConfig::Plain(c), 1, dtype, &Device::Cpu).unwrap())
}

fn normal(seed: u64, shape: &[usize], dtype: DType) -> Tensor {
    let mut stream = Stream::new(seed, "test", &[]);
    let values: Vec<f64> = (0..shape.iter().product()).map(|_| stream.normal()).collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap().to_dtype(dtype).unwrap()
}

/// Gives the last layer of the localisation network some weight, so that volumes turn.
fn turn(network: &Network) {
    let head = network.params().trainable().iter().find(|p| p.name == "transformer.head.weight");
    let var = &head.unwrap().var;
    var.set(&(normal(3, var.dims(), var.dtype()) * 0.3).unwrap()).unwrap();
}

fn largest_gap(a: &Tensor, b: &Tensor) -> f64 {
    let gap = (a - b).unwrap().abs().unwrap().flatten_all().unwrap().max(0).unwrap();
    gap.to_dtype(DType::F64).unwrap().to_scalar().unwrap()
}

#[test]
fn untrained_it_leaves_volumes_as_they_are() {
    let [transformer, plain] = networks(DType::F32);
    let x = normal(2, &[2, 2, 13, 12, 11], DType::F32);
    let logits = |network: &Network, mode| network.forward(&x, mode).unwrap();
    for mode in [Mode::Evaluate, Mode::Train { seed: 1, step: 0 }] {
        assert!(largest_gap(&logits(&transformer, mode), &logits(&plain, mode)) < 1e-4);
    }
    turn(&transformer);
    let evaluate = Mode::Evaluate;
    assert!(largest_gap(&logits(&transformer, evaluate), &logits(&plain, evaluate)) > 1e-2);
    let layers = transformer.layers(&x).unwrap();
    let layer = layers.iter().find(|l| l.name == "transformer").unwrap();
    assert_eq!((layer.values.dims(), layer.irreps.to_string()), (x.dims(), "2x0".into()));
}

#[test]
fn gradients_reach_the_localisation_network() {
    let [network, _] = networks(DType::F64);
    turn(&network);
    let x = normal(2, &[2, 2, 13, 12, 11], DType::F64);
    let target = normal(4, &[2, 3], DType::F64);
    let loss = || {
        let logits = network.forward(&x, Mode::Train { seed: 1, step: 0 }).unwrap();
        (logits * &target).unwrap().sum_all().unwrap()
    };
    let grads = loss().backward().unwrap();
    let localisation =
        network.params().trainable().iter().filter(|p| p.name.starts_with("transformer"));
    let mut checked = 0;
    for parameter in localisation {
        let var = &parameter.var;
        let grad = grads.get(var).unwrap();
        let start = var.as_tensor().copy().unwrap();
        let direction = normal(5, var.dims(), DType::F64);
        let slope: f64 = (grad * &direction).unwrap().sum_all().unwrap().to_scalar().unwrap();
        let at = |step: f64| {
            var.set(&(&start + (&direction * step).unwrap()).unwrap()).unwrap();
            loss().to_scalar::<f64>().unwrap()
        };
        let step = 1e-7;
        let expected = (at(step) - at(-step)) / (2.0 * step);
        at(0.0);
        let name = &parameter.name;
        assert!(
            (slope - expected).abs() < 1e-4 * expected.abs().max(0.1),
            "{name}: {slope} {expected}"
        );
        checked += 1;
    }
    assert_eq!(checked, 8);
}

#[test]
fn a_wrong_table_is_refused() {
    let plain = PlainConfig::like(&SteerableConfig::small(1, 2).unwrap());
    let message = |change: fn(&mut TransformerConfig)| {
        let mut transformer = TransformerConfig::small();
        change(&mut transformer);
        let config = PlainConfig { transformer: Some(transformer), ..plain.clone() };
        let model = ModelConfig::Plain(config);
        Network::new(&model, 0, DType::F32, &Device::Cpu).unwrap_err().to_string()
    };
    assert!(message(|t| t.cells = 0).contains("transformer.cells"));
    assert!(message(|t| t.blocks[1].pool = 9).contains("transformer.blocks[1].pool"));
    assert!(message(|t| t.blocks[0].size = 4).contains("transformer.blocks[0]"));
}
