use candle_core::Tensor;
use candle_core::backprop::GradStore;

use crate::error::TrainError;
use crate::gradients::Gradients;
use steer3d_nn::Params;

/// Decay of the mean of the gradients, unless it is set.
pub(crate) const BETA1: f64 = 0.9;
/// Decay of the mean of their squares, unless it is set.
pub(crate) const BETA2: f64 = 0.999;
/// What is added to the root of that mean, unless it is set.
pub(crate) const EPSILON: f64 = 1e-8;

/// Adam with decoupled weight decay (Loshchilov and Hutter 2019, algorithm 2), which applies to
/// the parameters marked for it only.
#[derive(Debug)]
pub struct AdamW {
    weight_decay: f64,
    beta1: f64,
    beta2: f64,
    epsilon: f64,
    pub(crate) step: i32,
    /// Means of the gradients and of their squares, one for each parameter.
    pub(crate) first: Vec<Tensor>,
    pub(crate) second: Vec<Tensor>,
}

impl AdamW {
    /// An optimiser for the trainable tensors of `params`, moments at zero.
    ///
    /// # Errors
    /// Only if the device runs out of memory.
    pub fn new(params: &Params, weight_decay: f64) -> Result<Self, TrainError> {
        let zeros = params.trainable().iter().map(|p| Ok(p.var.zeros_like()?.detach()));
        let first = zeros.collect::<Result<Vec<_>, TrainError>>()?;
        Ok(Self {
            weight_decay,
            beta1: BETA1,
            beta2: BETA2,
            epsilon: EPSILON,
            step: 0,
            second: first.clone(),
            first,
        })
    }

    /// Other decays of the two moments than 0.9 and 0.999, and another summand of the root than 1e-8.
    #[must_use]
    pub fn with(self, beta1: f64, beta2: f64, epsilon: f64) -> Self {
        Self { beta1, beta2, epsilon, ..self }
    }

    /// Moves every parameter that has a gradient in `gradients` one step.
    ///
    /// # Errors
    /// Only if the device runs out of memory.
    pub fn step(
        &mut self,
        params: &Params,
        gradients: &GradStore,
        learning_rate: f64,
    ) -> Result<(), TrainError> {
        self.step_by(params, &Gradients::of(params, gradients), learning_rate)
    }

    pub(crate) fn step_by(
        &mut self,
        params: &Params,
        gradients: &Gradients,
        learning_rate: f64,
    ) -> Result<(), TrainError> {
        self.step += 1;
        let (beta1, beta2) = (self.beta1, self.beta2);
        let unbias1 = 1.0 / (1.0 - beta1.powi(self.step));
        let unbias2 = 1.0 / (1.0 - beta2.powi(self.step));
        let moments = self.first.iter_mut().zip(&mut self.second);
        for ((parameter, gradient), (first, second)) in
            params.trainable().iter().zip(gradients.iter()).zip(moments)
        {
            let Some(gradient) = gradient else { continue };
            *first = ((&*first * beta1)? + (gradient * (1.0 - beta1))?)?;
            *second = ((&*second * beta2)? + (gradient.sqr()? * (1.0 - beta2))?)?;
            let scale = ((&*second * unbias2)?.sqrt()? + self.epsilon)?;
            let update = ((&*first * (learning_rate * unbias1))? / scale)?;
            let decay = if parameter.decay { learning_rate * self.weight_decay } else { 0.0 };
            let kept = (parameter.var.as_tensor().detach() * (1.0 - decay))?;
            parameter.var.set(&(kept - update)?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};

    use super::*;

    /// Algorithm 2 of the paper, one number at a time.
    fn reference(start: &[f64], target: &[f64], decay: f64, rate: f64, steps: i32) -> Vec<f64> {
        let one = |x: &f64, t: &f64| {
            let (mut x, mut m, mut v) = (*x, 0.0, 0.0);
            for step in 1..=steps {
                let g = 2.0 * (x - t);
                m = 0.9 * m + 0.1 * g;
                v = 0.999 * v + 0.001 * g * g;
                let m_hat = m / (1.0 - 0.9f64.powi(step));
                let v_hat = v / (1.0 - 0.999f64.powi(step));
                x -= rate * (m_hat / (v_hat.sqrt() + 1e-8) + decay * x);
            }
            x
        };
        start.iter().zip(target).map(|(x, t)| one(x, t)).collect()
    }

    fn minimise(decayed: bool, steps: usize) -> Vec<f64> {
        let mut params = Params::new(0, DType::F64, &Device::Cpu);
        let x = params.weight("x", vec![1.0, -2.0, 0.5], &[3], decayed).unwrap();
        let target = params.constant(vec![0.0, 1.0, 0.5], &[3]).unwrap();
        let mut adam = AdamW::new(&params, 0.1).unwrap();
        for _ in 0..steps {
            let loss = (&x - &target).unwrap().sqr().unwrap().sum_all().unwrap();
            adam.step(&params, &loss.backward().unwrap(), 0.05).unwrap();
        }
        x.to_vec1().unwrap()
    }

    #[test]
    fn steps_follow_the_paper() {
        for (decayed, decay) in [(true, 0.1), (false, 0.0)] {
            let expected = reference(&[1.0, -2.0, 0.5], &[0.0, 1.0, 0.5], decay, 0.05, 25);
            for (a, b) in minimise(decayed, 25).iter().zip(expected) {
                assert!((a - b).abs() < 1e-12, "{a} {b}");
            }
        }
    }

    #[test]
    fn a_parameter_without_gradient_stays() {
        let mut params = Params::new(0, DType::F64, &Device::Cpu);
        let used = params.weight("used", vec![1.0], &[1], true).unwrap();
        let unused = params.weight("unused", vec![1.0], &[1], true).unwrap();
        let mut adam = AdamW::new(&params, 0.1).unwrap();
        adam.step(&params, &used.sqr().unwrap().backward().unwrap(), 0.1).unwrap();
        assert_eq!(unused.to_vec1::<f64>().unwrap(), [1.0]);
        assert_ne!(used.to_vec1::<f64>().unwrap(), [1.0]);
    }
}
