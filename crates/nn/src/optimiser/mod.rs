//! Optimisers, whose state can be read and put back, so that a training goes on bit for bit.

mod adamw;
mod sgd;

use std::collections::HashMap;

use candle_core::Tensor;
use serde::{Deserialize, Serialize};

pub use adamw::AdamW;
pub use sgd::Sgd;

use crate::train::Gradients;
use crate::{NnError, Params};

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
    pub(crate) fn check(&self) -> Result<(), NnError> {
        let share = |field: &'static str, value: f64| {
            if (0.0..1.0).contains(&value) {
                return Ok(());
            }
            let problem = format!("expected a number in 0..1, found {value}");
            Err(NnError::Train { field, problem })
        };
        match *self {
            Self::Adamw { beta1, beta2, epsilon } => {
                share("beta1", beta1)?;
                share("beta2", beta2)?;
                if epsilon > 0.0 && epsilon.is_finite() {
                    return Ok(());
                }
                let problem = format!("expected a positive number, found {epsilon}");
                Err(NnError::Train { field: "epsilon", problem })
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
    /// [`NnError::Train`] for a setting out of its range.
    pub fn new(
        config: &OptimiserConfig,
        params: &Params,
        weight_decay: f64,
    ) -> Result<Self, NnError> {
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
    ) -> Result<(), NnError> {
        match self {
            Self::Adamw(adam) => adam.step_by(params, gradients, learning_rate),
            Self::Sgd(sgd) => sgd.step(params, gradients, learning_rate),
        }
    }

    /// Its tensors, each with the name of its parameter after its own, and the number of steps done.
    pub fn state(&self, params: &Params) -> (Vec<(String, Tensor)>, i32) {
        let named = |kind: &str, tensors: Vec<&Tensor>| -> Vec<(String, Tensor)> {
            let names = params.trainable().iter().map(|p| format!("{kind}/{}", p.name));
            names.zip(tensors.into_iter().cloned()).collect()
        };
        match self {
            Self::Adamw(adam) => {
                let (first, second, step) = adam.state();
                ([named("first", first), named("second", second)].concat(), step)
            }
            Self::Sgd(sgd) => (named("velocity", sgd.velocities.iter().collect()), 0),
        }
    }

    /// Puts back what [`state`](Self::state) gave; takes the tensors out of `state`. The name of the
    /// first that is missing or has another shape is the error.
    pub(crate) fn restore(
        &mut self,
        params: &Params,
        state: &mut HashMap<String, Tensor>,
        step: i32,
    ) -> Result<(), String> {
        let mut take = |kind: &str| -> Result<Vec<Tensor>, String> {
            let one = |p: &crate::params::Parameter| {
                let name = format!("{kind}/{}", p.name);
                let tensor = state.remove(&name).filter(|t| t.dims() == p.var.dims());
                tensor.ok_or(name)
            };
            params.trainable().iter().map(one).collect()
        };
        match self {
            Self::Adamw(adam) => adam.restore(take("first")?, take("second")?, step),
            Self::Sgd(sgd) => sgd.velocities = take("velocity")?,
        }
        Ok(())
    }
}
