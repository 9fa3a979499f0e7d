use candle_core::Tensor;

use crate::error::TrainError;
use crate::gradients::Gradients;
use steer3d_nn::Params;

/// Stochastic gradient descent with momentum and coupled weight decay, as PyTorch's SGD without
/// dampening: g' = g + decay x, v = momentum v + g', x -= rate v, or with Nesterov's momentum
/// x -= rate (g' + momentum v). The decay applies to the parameters marked for it only.
#[derive(Debug)]
pub struct Sgd {
    weight_decay: f64,
    momentum: f64,
    nesterov: bool,
    pub(crate) velocities: Vec<Tensor>,
}

impl Sgd {
    /// An optimiser for the trainable tensors of `params`, velocities at zero.
    ///
    /// # Errors
    /// Only if the device runs out of memory.
    pub fn new(
        params: &Params,
        weight_decay: f64,
        momentum: f64,
        nesterov: bool,
    ) -> Result<Self, TrainError> {
        let zeros = params.trainable().iter().map(|p| Ok(p.var.zeros_like()?.detach()));
        let velocities = zeros.collect::<Result<_, TrainError>>()?;
        Ok(Self { weight_decay, momentum, nesterov, velocities })
    }

    /// Moves every parameter that has a gradient one step.
    ///
    /// # Errors
    /// Only if the device runs out of memory.
    pub fn step(
        &mut self,
        params: &Params,
        gradients: &Gradients,
        learning_rate: f64,
    ) -> Result<(), TrainError> {
        let moved = params.trainable().iter().zip(gradients.iter()).zip(&mut self.velocities);
        for ((parameter, gradient), velocity) in moved {
            let Some(gradient) = gradient else { continue };
            let x = parameter.var.as_tensor().detach();
            let decay = if parameter.decay { self.weight_decay } else { 0.0 };
            let gradient = (gradient + x.affine(decay, 0.0)?)?;
            *velocity = (velocity.affine(self.momentum, 0.0)? + &gradient)?;
            let direction = if self.nesterov {
                (gradient + velocity.affine(self.momentum, 0.0)?)?
            } else {
                velocity.clone()
            };
            parameter.var.set(&(x - direction.affine(learning_rate, 0.0)?)?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};

    use super::*;

    /// The minimum of (x - t)² from x, one number at a time.
    fn reference(mut x: f64, t: f64, decay: f64, nesterov: bool) -> f64 {
        let mut v = 0.0;
        for _ in 0..20 {
            let g = 2.0 * (x - t) + decay * x;
            v = 0.9 * v + g;
            x -= 0.02 * if nesterov { g + 0.9 * v } else { v };
        }
        x
    }

    #[test]
    fn steps_follow_the_formula() {
        for (decayed, nesterov) in [(true, false), (false, false), (true, true)] {
            let mut params = Params::new(0, DType::F64, &Device::Cpu);
            let x = params.weight("x", vec![1.0, -2.0], &[2], decayed).unwrap();
            let mut sgd = Sgd::new(&params, 0.1, 0.9, nesterov).unwrap();
            for _ in 0..20 {
                let loss = (&x - 0.5).unwrap().sqr().unwrap().sum_all().unwrap();
                let gradients = Gradients::of(&params, &loss.backward().unwrap());
                sgd.step(&params, &gradients, 0.02).unwrap();
            }
            let decay = if decayed { 0.1 } else { 0.0 };
            for (found, start) in x.to_vec1::<f64>().unwrap().iter().zip([1.0, -2.0]) {
                let expected = reference(start, 0.5, decay, nesterov);
                assert!((found - expected).abs() < 1e-12, "{found} {expected}");
            }
        }
    }

    /// With a constant gradient g the velocity is g (1 - mⁿ) / (1 - m).
    #[test]
    fn momentum_sums_a_constant_gradient_geometrically() {
        let mut params = Params::new(0, DType::F64, &Device::Cpu);
        let x = params.weight("x", vec![0.0], &[1], false).unwrap();
        let mut sgd = Sgd::new(&params, 0.0, 0.8, false).unwrap();
        let mut expected = 0.0;
        for n in 1..=15 {
            let gradients = Gradients::of(&params, &x.sum_all().unwrap().backward().unwrap());
            sgd.step(&params, &gradients, 0.1).unwrap();
            expected -= 0.1 * (1.0 - 0.8f64.powi(n)) / 0.2;
        }
        assert!((x.to_vec1::<f64>().unwrap()[0] - expected).abs() < 1e-12);
    }
}
