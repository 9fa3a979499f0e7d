//! An exponential moving average of the weights.

use candle_core::Tensor;
use steer3d_nn::Params;

use crate::error::TrainError;
use crate::tensors::{copies, set, trainable};

/// After step t the average moves to decay · average + (1 - decay) · weights, with the decay
/// min(`decay`, (1 + t) / (10 + t)), so that the initial weights are soon forgotten.
#[derive(Debug)]
pub(crate) struct Average {
    decay: f64,
    pub(crate) tensors: Vec<Tensor>,
}

impl Average {
    pub(crate) fn new(params: &Params, decay: f64) -> Result<Self, TrainError> {
        Ok(Self { decay, tensors: copies(trainable(params))? })
    }

    /// Moves towards the weights after step `step`, counted from 1.
    pub(crate) fn update(&mut self, params: &Params, step: usize) -> Result<(), TrainError> {
        let decay = self.decay.min((1 + step) as f64 / (10 + step) as f64);
        for (tensor, parameter) in self.tensors.iter_mut().zip(params.trainable()) {
            let share = parameter.var.as_tensor().detach().affine(1.0 - decay, 0.0)?;
            *tensor = (tensor.affine(decay, 0.0)? + share)?;
        }
        Ok(())
    }

    /// Exchanges the weights of the network and the average.
    pub(crate) fn exchange(&mut self, params: &Params) -> Result<(), TrainError> {
        let now = copies(trainable(params))?;
        set(trainable(params), &self.tensors)?;
        self.tensors = now;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};

    use super::*;

    #[test]
    fn it_follows_the_formula_and_exchanges() {
        let mut params = Params::new(0, DType::F64, &Device::Cpu);
        let x = params.weight("x", vec![0.0, 4.0], &[2], true).unwrap();
        let mut average = Average::new(&params, 0.5).unwrap();
        let var = params.trainable()[0].var.clone();
        let mut expected = [0.0, 4.0];
        for step in 1..=12 {
            let now = [step as f64, -(step as f64)];
            var.set(&Tensor::new(&now, &Device::Cpu).unwrap()).unwrap();
            average.update(&params, step).unwrap();
            // 2/11, 3/12, ... and 1/2 from step 8 on.
            let decay = if step < 8 { (1 + step) as f64 / (10 + step) as f64 } else { 0.5 };
            for (e, n) in expected.iter_mut().zip(now) {
                *e = decay * *e + (1.0 - decay) * n;
            }
        }
        average.exchange(&params).unwrap();
        for (found, expected) in x.to_vec1::<f64>().unwrap().iter().zip(expected) {
            assert!((found - expected).abs() < 1e-12, "{found} {expected}");
        }
        average.exchange(&params).unwrap();
        assert_eq!(x.to_vec1::<f64>().unwrap(), [12.0, -12.0]);
    }
}
