//! Optimisers, whose state can be read and put back, so that a training goes on bit for bit.

mod adamw;
mod sgd;

use std::collections::HashMap;

use candle_core::Tensor;
use serde::{Deserialize, Serialize};

use steer3d_nn::Params;

pub use adamw::AdamW;
pub use sgd::Sgd;

use crate::error::TrainError;
use crate::gradients::Gradients;
use crate::tensors::{Named, named, take, trainable};
use adamw::{BETA1, BETA2, EPSILON};

/// How gradients become steps.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum OptimiserConfig {
    /// [`AdamW`].
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
    /// [`Sgd`].
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
    BETA1
}

fn beta2() -> f64 {
    BETA2
}

fn epsilon() -> f64 {
    EPSILON
}

fn momentum() -> f64 {
    0.9
}

impl Default for OptimiserConfig {
    /// AdamW with 0.9, 0.999 and 1e-8.
    fn default() -> Self {
        Self::Adamw { beta1: BETA1, beta2: BETA2, epsilon: EPSILON }
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
}

/// Any optimiser that an [`OptimiserConfig`] describes.
#[derive(Debug)]
pub enum Optimiser {
    /// Adam with decoupled weight decay.
    Adamw(AdamW),
    /// Gradient descent with momentum.
    Sgd(Sgd),
}

impl Optimiser {
    /// An optimiser for the trainable tensors of `params`.
    ///
    /// # Errors
    /// [`TrainError::Settings`] for a setting out of its range.
    pub fn new(
        config: &OptimiserConfig,
        params: &Params,
        weight_decay: f64,
    ) -> Result<Self, TrainError> {
        config.check()?;
        Ok(match *config {
            OptimiserConfig::Adamw { beta1, beta2, epsilon } => {
                Self::Adamw(AdamW::new(params, weight_decay)?.with(beta1, beta2, epsilon))
            }
            OptimiserConfig::Sgd { momentum, nesterov } => {
                Self::Sgd(Sgd::new(params, weight_decay, momentum, nesterov)?)
            }
        })
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
        match self {
            Self::Adamw(adam) => adam.step_by(params, gradients, learning_rate),
            Self::Sgd(sgd) => sgd.step(params, gradients, learning_rate),
        }
    }

    /// Its tensors, and the number of steps done.
    pub(crate) fn state(&self, params: &Params) -> (Named, i32) {
        let of = |kind: &str, tensors: &[Tensor]| {
            named(kind, trainable(params), tensors.iter().cloned())
        };
        match self {
            Self::Adamw(adam) => {
                ([of("first", &adam.first), of("second", &adam.second)].concat(), adam.step)
            }
            Self::Sgd(sgd) => (of("velocity", &sgd.velocities), 0),
        }
    }

    /// Puts back what [`state`](Self::state) gave; takes the tensors out of `all`. The name of the
    /// first that is missing or does not fit is the error.
    pub(crate) fn restore(
        &mut self,
        params: &Params,
        all: &mut HashMap<String, Tensor>,
        step: i32,
    ) -> Result<(), String> {
        let mut of = |kind: &str| take(kind, trainable(params), all);
        match self {
            Self::Adamw(adam) => {
                (adam.first, adam.second, adam.step) = (of("first")?, of("second")?, step);
            }
            Self::Sgd(sgd) => sgd.velocities = of("velocity")?,
        }
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
}
