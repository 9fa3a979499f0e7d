//! Optimisers, whose state can be read and put back, so that a training goes on bit for bit.

use std::collections::HashMap;

use candle_core::Tensor;
use serde::{Deserialize, Serialize};
use steer3d_nn::Params;

use crate::error::TrainError;
use crate::gradients::Gradients;
use crate::tensors::{Named, named, take, trainable};

/// How gradients become steps. Weight decay applies to the parameters marked for it only.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum OptimiserConfig {
    /// Adam with decoupled weight decay (Loshchilov and Hutter 2019, algorithm 2).
    Adamw {
        /// Decay of the mean of the gradients.
        #[serde(default = "beta1")]
        beta1: f64,
        /// Decay of the mean of their squares.
        #[serde(default = "beta2")]
        beta2: f64,
        /// Added to the root of that mean.
        #[serde(default = "epsilon")]
        epsilon: f64,
    },
    /// Stochastic gradient descent with momentum and coupled weight decay, as PyTorch's SGD without
    /// dampening: g' = g + decay x, v = momentum v + g', x -= rate v, or with Nesterov's momentum
    /// x -= rate (g' + momentum v).
    Sgd {
        /// Share of the last step that goes on.
        #[serde(default = "momentum")]
        momentum: f64,
        /// Whether the momentum is Nesterov's.
        #[serde(default)]
        nesterov: bool,
    },
}

fn beta1() -> f64 {
    0.9
}

fn beta2() -> f64 {
    0.999
}

fn epsilon() -> f64 {
    1e-8
}

fn momentum() -> f64 {
    0.9
}

impl Default for OptimiserConfig {
    /// AdamW with 0.9, 0.999 and 1e-8.
    fn default() -> Self {
        Self::Adamw { beta1: beta1(), beta2: beta2(), epsilon: epsilon() }
    }
}

impl OptimiserConfig {
    pub(crate) fn check(&self) -> Result<(), TrainError> {
        let share = |field: &'static str, value: f64| {
            if (0.0..1.0).contains(&value) {
                return Ok(());
            }
            let problem = format!("expected a number in 0..1, found {value}");
            Err(TrainError::settings(field, problem))
        };
        match *self {
            Self::Adamw { beta1, beta2, epsilon } => {
                share("beta1", beta1)?;
                share("beta2", beta2)?;
                if epsilon > 0.0 && epsilon.is_finite() {
                    return Ok(());
                }
                let problem = format!("expected a positive number, found {epsilon}");
                Err(TrainError::settings("epsilon", problem))
            }
            Self::Sgd { momentum, .. } => share("momentum", momentum),
        }
    }

    /// The kinds of tensors that it keeps of earlier gradients.
    fn kinds(&self) -> &'static [&'static str] {
        match self {
            Self::Adamw { .. } => &["first", "second"],
            Self::Sgd { .. } => &["velocity"],
        }
    }
}

/// The optimiser that an [`OptimiserConfig`] describes.
#[derive(Debug)]
pub struct Optimiser {
    config: OptimiserConfig,
    weight_decay: f64,
    /// Steps of AdamW done.
    step: i32,
    /// For each kind a tensor of each parameter: means of the gradients and of their squares, or velocities.
    kept: Vec<Vec<Tensor>>,
}

impl Optimiser {
    /// An optimiser for the trainable tensors of `params`, moments at zero.
    ///
    /// # Errors
    /// [`TrainError::Settings`] for a setting out of its range.
    pub fn new(
        config: &OptimiserConfig,
        params: &Params,
        weight_decay: f64,
    ) -> Result<Self, TrainError> {
        config.check()?;
        let zeros = params.trainable().iter().map(|p| Ok(p.var.zeros_like()?.detach()));
        let zeros = zeros.collect::<Result<Vec<_>, TrainError>>()?;
        let kept = vec![zeros; config.kinds().len()];
        Ok(Self { config: *config, weight_decay, step: 0, kept })
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
        if let OptimiserConfig::Adamw { .. } = self.config {
            self.step += 1;
        }
        for (i, (parameter, gradient)) in
            params.trainable().iter().zip(gradients.iter()).enumerate()
        {
            let Some(gradient) = gradient else { continue };
            let x = parameter.var.as_tensor().detach();
            let decay = if parameter.decay { self.weight_decay } else { 0.0 };
            let moved = match self.config {
                OptimiserConfig::Adamw { beta1, beta2, epsilon } => {
                    let (first, second) = self.kept.split_at_mut(1);
                    let (first, second) = (&mut first[0][i], &mut second[0][i]);
                    let unbias1 = 1.0 / (1.0 - beta1.powi(self.step));
                    let unbias2 = 1.0 / (1.0 - beta2.powi(self.step));
                    *first = ((&*first * beta1)? + (gradient * (1.0 - beta1))?)?;
                    *second = ((&*second * beta2)? + (gradient.sqr()? * (1.0 - beta2))?)?;
                    let scale = ((&*second * unbias2)?.sqrt()? + epsilon)?;
                    let update = ((&*first * (learning_rate * unbias1))? / scale)?;
                    ((x * (1.0 - learning_rate * decay))? - update)?
                }
                OptimiserConfig::Sgd { momentum, nesterov } => {
                    let velocity = &mut self.kept[0][i];
                    let gradient = (gradient + x.affine(decay, 0.0)?)?;
                    *velocity = (velocity.affine(momentum, 0.0)? + &gradient)?;
                    let direction = if nesterov {
                        (gradient + velocity.affine(momentum, 0.0)?)?
                    } else {
                        velocity.clone()
                    };
                    (x - direction.affine(learning_rate, 0.0)?)?
                }
            };
            parameter.var.set(&moved)?;
        }
        Ok(())
    }

    /// Its tensors, and the number of steps done.
    pub(crate) fn state(&self, params: &Params) -> (Named, i32) {
        let of = |(kind, kept): (&&str, &Vec<Tensor>)| {
            named(kind, trainable(params), kept.iter().cloned())
        };
        (self.config.kinds().iter().zip(&self.kept).flat_map(of).collect(), self.step)
    }

    /// Puts back what [`state`](Self::state) gave; takes the tensors out of `all`. The name of the
    /// first that is missing or does not fit is the error.
    pub(crate) fn restore(
        &mut self,
        params: &Params,
        all: &mut HashMap<String, Tensor>,
        step: i32,
    ) -> Result<(), String> {
        let of = |kind: &&str| take(kind, trainable(params), all);
        self.kept = self.config.kinds().iter().map(of).collect::<Result<_, _>>()?;
        self.step = step;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};

    use super::*;

    /// Ten steps on (x - t)² c from the same start as in PyTorch 2.15, whose values these are.
    #[test]
    fn steps_are_those_of_pytorch() {
        let adamw = OptimiserConfig::Adamw { beta1: 0.8, beta2: 0.95, epsilon: 1e-6 };
        let sgd = |nesterov| OptimiserConfig::Sgd { momentum: 0.9, nesterov };
        let cases = [
            (adamw, [0.4818857670410564, -1.4189023568900017, 0.49729457697309376]),
            (sgd(false), [-0.5823566644412738, -0.6958748862257136, 0.41723438689878584]),
            (sgd(true), [-0.3298716237426647, 0.6578877411705891, 0.4134902753373009]),
        ];
        for (config, expected) in cases {
            let mut params = Params::new(0, DType::F64, &Device::Cpu);
            let x = params.weight("x", vec![1.0, -2.0, 0.5], &[3], true).unwrap();
            let target = params.constant(vec![0.0, 1.0, 0.5], &[3]).unwrap();
            let factor = params.constant(vec![1.0, 3.0, 0.2], &[3]).unwrap();
            let mut optimiser = Optimiser::new(&config, &params, 0.1).unwrap();
            for _ in 0..10 {
                let terms = ((&x - &target).unwrap().sqr().unwrap() * &factor).unwrap();
                let gradients = terms.sum_all().unwrap().backward().unwrap();
                optimiser.step(&params, &Gradients::of(&params, &gradients), 0.05).unwrap();
            }
            for (found, expected) in x.to_vec1::<f64>().unwrap().iter().zip(expected) {
                assert!((found - expected).abs() < 1e-12, "{config:?}: {found} {expected}");
            }
        }
    }

    #[test]
    fn settings_out_of_range_are_named() {
        let params = Params::new(0, DType::F32, &Device::Cpu);
        let message = |config| Optimiser::new(&config, &params, 0.0).unwrap_err().to_string();
        let adamw = |beta1, epsilon| OptimiserConfig::Adamw { beta1, beta2: 0.9, epsilon };
        assert!(message(adamw(1.0, 1e-8)).contains("beta1"));
        assert!(message(adamw(0.9, 0.0)).contains("epsilon"));
        let sgd = OptimiserConfig::Sgd { momentum: -0.1, nesterov: false };
        assert!(message(sgd).contains("momentum"));
    }

    /// Algorithm 2 of the paper, one number at a time.
    fn adamw_reference(
        start: &[f64],
        target: &[f64],
        decay: f64,
        rate: f64,
        steps: i32,
    ) -> Vec<f64> {
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
        let mut adam = Optimiser::new(&OptimiserConfig::default(), &params, 0.1).unwrap();
        for _ in 0..steps {
            let loss = (&x - &target).unwrap().sqr().unwrap().sum_all().unwrap();
            let gradients = Gradients::of(&params, &loss.backward().unwrap());
            adam.step(&params, &gradients, 0.05).unwrap();
        }
        x.to_vec1().unwrap()
    }

    #[test]
    fn steps_of_adamw_follow_the_paper() {
        for (decayed, decay) in [(true, 0.1), (false, 0.0)] {
            let expected = adamw_reference(&[1.0, -2.0, 0.5], &[0.0, 1.0, 0.5], decay, 0.05, 25);
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
        let mut adam = Optimiser::new(&OptimiserConfig::default(), &params, 0.1).unwrap();
        let gradients = used.sqr().unwrap().backward().unwrap();
        adam.step(&params, &Gradients::of(&params, &gradients), 0.1).unwrap();
        assert_eq!(unused.to_vec1::<f64>().unwrap(), [1.0]);
        assert_ne!(used.to_vec1::<f64>().unwrap(), [1.0]);
    }

    fn sgd(
        params: &Params,
        decay: f64,
        momentum: f64,
        nesterov: bool,
    ) -> Result<Optimiser, TrainError> {
        Optimiser::new(&OptimiserConfig::Sgd { momentum, nesterov }, params, decay)
    }

    /// The minimum of (x - t)² from x, one number at a time.
    fn sgd_reference(mut x: f64, t: f64, decay: f64, nesterov: bool) -> f64 {
        let mut v = 0.0;
        for _ in 0..20 {
            let g = 2.0 * (x - t) + decay * x;
            v = 0.9 * v + g;
            x -= 0.02 * if nesterov { g + 0.9 * v } else { v };
        }
        x
    }

    #[test]
    fn steps_of_sgd_follow_the_formula() {
        for (decayed, nesterov) in [(true, false), (false, false), (true, true)] {
            let mut params = Params::new(0, DType::F64, &Device::Cpu);
            let x = params.weight("x", vec![1.0, -2.0], &[2], decayed).unwrap();
            let mut sgd = sgd(&params, 0.1, 0.9, nesterov).unwrap();
            for _ in 0..20 {
                let loss = (&x - 0.5).unwrap().sqr().unwrap().sum_all().unwrap();
                let gradients = Gradients::of(&params, &loss.backward().unwrap());
                sgd.step(&params, &gradients, 0.02).unwrap();
            }
            let decay = if decayed { 0.1 } else { 0.0 };
            for (found, start) in x.to_vec1::<f64>().unwrap().iter().zip([1.0, -2.0]) {
                let expected = sgd_reference(start, 0.5, decay, nesterov);
                assert!((found - expected).abs() < 1e-12, "{found} {expected}");
            }
        }
    }

    /// With a constant gradient g the velocity is g (1 - mⁿ) / (1 - m).
    #[test]
    fn momentum_sums_a_constant_gradient_geometrically() {
        let mut params = Params::new(0, DType::F64, &Device::Cpu);
        let x = params.weight("x", vec![0.0], &[1], false).unwrap();
        let mut sgd = sgd(&params, 0.0, 0.8, false).unwrap();
        let mut expected = 0.0;
        for n in 1..=15 {
            let gradients = Gradients::of(&params, &x.sum_all().unwrap().backward().unwrap());
            sgd.step(&params, &gradients, 0.1).unwrap();
            expected -= 0.1 * (1.0 - 0.8f64.powi(n)) / 0.2;
        }
        assert!((x.to_vec1::<f64>().unwrap()[0] - expected).abs() < 1e-12);
    }
}
