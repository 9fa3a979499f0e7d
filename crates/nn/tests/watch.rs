//! Gradients that are told while the backward pass goes on: those that it ends with, each once.

#[path = "common/networks.rs"]
mod networks;

use std::sync::{Arc, Mutex};

use candle_core::backprop::GradStore;
use candle_core::{Tensor, TensorId};
use networks::{all_models, pair, prepared};
use steer3d_nn::{Mode, ModelConfig, Network, watch_gradients};

fn values(t: &Tensor) -> Vec<f32> {
    t.flatten_all().unwrap().to_vec1().unwrap()
}

/// A network of a configuration, and a backward pass through two forward passes of it.
fn network(model: &ModelConfig, recompute: bool) -> (Network, impl Fn(&Network) -> GradStore) {
    let volumes = pair(model.channels(), 11);
    let mode = Mode::Train { seed: 5, step: 0 };
    let backward = move |network: &Network| {
        let loss = |item| {
            let x = volumes.narrow(0, item, 1).unwrap();
            let outs = network.forward_supervised(&x, mode).unwrap();
            let losses = outs.iter().map(|out| out.sqr().unwrap().sum_all().unwrap());
            losses.reduce(|a, b| (a + b).unwrap()).unwrap()
        };
        (loss(0) + loss(1)).unwrap().backward().unwrap()
    };
    (prepared(model).with_recomputation(recompute), backward)
}

/// The gradients that a backward pass ends with, in the order of the parameters.
fn all(network: &Network, gradients: &GradStore) -> Vec<Option<Vec<f32>>> {
    let all = network.params().trainable().iter();
    all.map(|parameter| gradients.get(parameter.var.as_tensor()).map(values)).collect()
}

#[test]
fn every_gradient_is_told_once_and_whole() {
    for model in all_models() {
        for recompute in [false, true] {
            let (one, backward) = network(&model, recompute);
            let expected = all(&one, &backward(&one));
            let (other, backward) = network(&model, recompute);
            let told = Arc::new(Mutex::new(Vec::<(TensorId, Vec<f32>)>::new()));
            let tell = Arc::clone(&told);
            let tell = move |weight: &Tensor, gradient: &Tensor| {
                tell.lock().unwrap().push((weight.id(), values(gradient)));
                Ok(())
            };
            let found = watch_gradients(tell, || all(&other, &backward(&other)));
            assert_eq!(found, expected, "{model:?}");
            let told = told.lock().unwrap();
            assert_eq!(told.len(), expected.iter().flatten().count(), "{model:?}");
            for (parameter, expected) in other.params().trainable().iter().zip(expected) {
                let id = parameter.var.as_tensor().id();
                let found = told.iter().find(|(told, _)| *told == id).map(|(_, values)| values);
                assert_eq!(found, expected.as_ref(), "{} of {model:?}", parameter.name);
            }
        }
    }
}

#[test]
fn the_backward_pass_fails_with_who_is_told_and_nobody_is_told_later() {
    let model = &all_models()[0];
    let network = prepared(model);
    let x = pair(model.channels(), 11);
    let loss = || network.forward(&x, Mode::Evaluate).unwrap().sum_all().unwrap();
    let fail = |_: &Tensor, _: &Tensor| Err(candle_core::Error::msg("as wanted"));
    let error = watch_gradients(fail, || loss().backward()).unwrap_err();
    assert!(error.to_string().contains("as wanted"), "{error}");
    loss().backward().unwrap();
}
