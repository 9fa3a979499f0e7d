//! Gradient checkpointing: the same numbers as without.

use candle_core::{DType, Device, Tensor};
use steer3d_kernels::Family;
use steer3d_nn::{Mode, ModelConfig, Network, PlainConfig, SteerableConfig, TransformerConfig};
use steer3d_so3::Stream;

fn steerable(family: Family) -> SteerableConfig {
    let mut config = SteerableConfig::small(1, 3).unwrap();
    let blocks = ["3x0+2x1+1x2", "3x0+1x1+1x2", "2x0+1x1", "5x0"];
    for (block, fields) in config.blocks.iter_mut().zip(blocks) {
        block.fields = fields.parse().unwrap();
    }
    config.keep_zero = family == Family::shells();
    (config.kernel, config.dropout, config.head_norm) = (family, 0.3, true);
    config
}

fn values(t: &Tensor) -> Vec<f32> {
    t.flatten_all().unwrap().to_vec1().unwrap()
}

/// Logits, then gradients, then running statistics and weights, after some steps.
fn outcome(model: &ModelConfig, recompute: bool) -> Vec<Vec<f32>> {
    let network = Network::new(model, 1, DType::F32, &Device::Cpu).unwrap();
    let network = network.with_recomputation(recompute);
    let mut stream = Stream::new(4, "test", &[]);
    let mut outcome = vec![];
    let modes = [
        Mode::Train { seed: 5, step: 0 },
        Mode::Train { seed: 5, step: 1 },
        Mode::Calibrate { batch: 1 },
        Mode::Evaluate,
    ];
    for mode in modes {
        let x: Vec<f32> = (0..2 * 1331).map(|_| stream.normal() as f32).collect();
        let x = Tensor::from_vec(x, (2, 1, 11, 11, 11), &Device::Cpu).unwrap();
        let logits = network.forward(&x, mode).unwrap();
        let grads = logits.sqr().unwrap().sum_all().unwrap().backward().unwrap();
        outcome.push(values(&logits));
        for parameter in network.params().trainable() {
            outcome.push(values(grads.get(&parameter.var).unwrap()));
        }
        outcome.extend(network.params().all().map(|(_, var)| values(var)));
    }
    outcome
}

#[test]
fn recomputed_blocks_give_the_same_gradients_and_statistics_bit_by_bit() {
    let plain = PlainConfig { dropout: 0.3, ..PlainConfig::like(&steerable(Family::jets(2))) };
    let models = [
        ModelConfig::Steerable(steerable(Family::jets(2))),
        ModelConfig::Steerable(steerable(Family::shells())),
        ModelConfig::Plain(plain.clone()),
        ModelConfig::Plain(PlainConfig { transformer: Some(TransformerConfig::small()), ..plain }),
    ];
    for model in models {
        assert_eq!(outcome(&model, true), outcome(&model, false), "{model:?}");
    }
}

#[test]
fn the_backward_pass_can_be_run_twice() {
    let model = ModelConfig::Steerable(steerable(Family::jets(2)));
    let network = Network::new(&model, 1, DType::F32, &Device::Cpu).unwrap();
    let x = Tensor::ones((1, 1, 9, 9, 9), DType::F32, &Device::Cpu).unwrap();
    let network = network.with_recomputation(true);
    let loss = network.forward(&x, Mode::Train { seed: 0, step: 0 }).unwrap().sum_all().unwrap();
    let gradients = || {
        let grads = loss.backward().unwrap();
        let parameters = network.params().trainable().iter();
        parameters.map(|p| values(grads.get(&p.var).unwrap())).collect::<Vec<_>>()
    };
    assert_eq!(gradients(), gradients());
}
