use candle_core::Tensor;
use candle_core::backprop::GradStore;

use crate::params::Parameter;
use crate::{NnError, Params};

const BETA1: f64 = 0.9;
const BETA2: f64 = 0.999;
const EPSILON: f64 = 1e-8;

/// Adam with decoupled weight decay (Loshchilov and Hutter 2019, algorithm 2), which applies to
/// the parameters marked for it only.
#[derive(Debug)]
pub struct AdamW {
    weight_decay: f64,
    step: i32,
    moments: Vec<Moments>,
}

#[derive(Debug)]
struct Moments {
    first: Tensor,
    second: Tensor,
}

impl AdamW {
    /// An optimiser for the trainable tensors of `params`, moments at zero.
    ///
    /// # Errors
    /// Only if the device runs out of memory.
    pub fn new(params: &Params, weight_decay: f64) -> Result<Self, NnError> {
        let zeros = |p: &Parameter| {
            let zero = p.var.zeros_like()?.detach();
            Ok::<_, NnError>(Moments { first: zero.clone(), second: zero })
        };
        let moments = params.trainable().iter().map(zeros).collect::<Result<_, _>>()?;
        Ok(Self { weight_decay, step: 0, moments })
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
    ) -> Result<(), NnError> {
        self.step += 1;
        let unbias1 = 1.0 / (1.0 - BETA1.powi(self.step));
        let unbias2 = 1.0 / (1.0 - BETA2.powi(self.step));
        for (parameter, moments) in params.trainable().iter().zip(&mut self.moments) {
            let Some(gradient) = gradients.get(parameter.var.as_tensor()) else { continue };
            let gradient = gradient.detach();
            moments.first = ((&moments.first * BETA1)? + (&gradient * (1.0 - BETA1))?)?;
            moments.second = ((&moments.second * BETA2)? + (gradient.sqr()? * (1.0 - BETA2))?)?;
            let scale = ((&moments.second * unbias2)?.sqrt()? + EPSILON)?;
            let update = ((&moments.first * (learning_rate * unbias1))? / scale)?;
            let decay = if parameter.decay { learning_rate * self.weight_decay } else { 0.0 };
            let kept = (parameter.var.as_tensor().detach() * (1.0 - decay))?;
            parameter.var.set(&(kept - update)?)?;
        }
        Ok(())
    }
}
