//! The gradients of one optimiser step.

use candle_core::backprop::GradStore;
use candle_core::{DType, Tensor};

use crate::error::TrainError;
use steer3d_nn::Params;

/// A gradient for each trainable tensor of a network, in the order of [`Params::trainable`]; none for
/// a tensor that the loss does not depend on.
#[derive(Debug, Clone)]
pub struct Gradients(Vec<Option<Tensor>>);

impl Gradients {
    /// Those of the trainable tensors of `params`.
    pub fn of(params: &Params, store: &GradStore) -> Self {
        let gradient = |p: &steer3d_nn::Parameter| store.get(p.var.as_tensor());
        Self(params.trainable().iter().map(|p| gradient(p).map(Tensor::detach)).collect())
    }

    /// In the order of the parameters.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Option<&Tensor>> {
        self.0.iter().map(Option::as_ref)
    }

    /// All of them in a row.
    ///
    /// # Errors
    /// Only if the device runs out of memory.
    pub(crate) fn row(&self) -> Result<Tensor, TrainError> {
        let known = self.0.iter().flatten().map(Tensor::flatten_all);
        Ok(Tensor::cat(&known.collect::<Result<Vec<_>, _>>()?, 0)?)
    }

    /// Gradients for the same tensors from a row of their numbers.
    ///
    /// # Errors
    /// If the row is too short.
    pub(crate) fn of_row(&self, row: &Tensor) -> Result<Self, TrainError> {
        let mut used = 0;
        let mut next = |like: &Tensor| {
            used += like.elem_count();
            row.narrow(0, used - like.elem_count(), like.elem_count())?.reshape(like.shape())
        };
        let found = self.0.iter().map(|g| g.as_ref().map(&mut next).transpose());
        Ok(Self(found.collect::<Result<_, _>>()?))
    }

    /// Gradients from a row of their numbers, of those parameters for which `known` is not 0.
    ///
    /// # Errors
    /// If the row is too short.
    pub(crate) fn of_known(
        params: &Params,
        known: &[f64],
        row: &Tensor,
    ) -> Result<Self, TrainError> {
        let like = params.trainable().iter().zip(known);
        let like = like.map(|(p, known)| (*known != 0.0).then(|| p.var.as_detached_tensor()));
        Self(like.collect()).of_row(row)
    }

    /// All of them times `factor`.
    ///
    /// # Errors
    /// Only if the device runs out of memory.
    pub fn scaled(&self, factor: f64) -> Result<Self, TrainError> {
        let scaled = |g: &Option<Tensor>| g.as_ref().map(|g| g.affine(factor, 0.0)).transpose();
        Ok(Self(self.0.iter().map(scaled).collect::<Result<_, _>>()?))
    }

    /// The sum with the gradients of another batch.
    ///
    /// # Errors
    /// Only if the device runs out of memory.
    pub fn plus(&self, other: &Self) -> Result<Self, TrainError> {
        let sum = |(a, b): (&Option<Tensor>, &Option<Tensor>)| match (a, b) {
            (Some(a), Some(b)) => a.add(b).map(Some),
            (a, b) => Ok(a.clone().or_else(|| b.clone())),
        };
        Ok(Self(self.0.iter().zip(&other.0).map(sum).collect::<Result<_, _>>()?))
    }

    /// The Euclidean norm of each gradient, 0 where there is none.
    ///
    /// # Errors
    /// Only if the device runs out of memory.
    pub fn norms(&self) -> Result<Vec<f64>, TrainError> {
        let squares = |g: &Tensor| g.to_dtype(DType::F64)?.sqr()?.sum_all();
        // One transfer from the device for all.
        let known = self.0.iter().flatten().map(squares).collect::<Result<Vec<_>, _>>()?;
        let known: Vec<f64> =
            if known.is_empty() { vec![] } else { Tensor::stack(&known, 0)?.to_vec1()? };
        let mut known = known.into_iter();
        let norm =
            |g: &Option<Tensor>| g.as_ref().and_then(|_| known.next()).map_or(0.0, f64::sqrt);
        Ok(self.0.iter().map(norm).collect())
    }
}

/// The norm of all gradients as one vector, of the norms of each.
pub fn global_norm(norms: &[f64]) -> f64 {
    norms.iter().map(|n| n * n).sum::<f64>().sqrt()
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    fn three() -> (Params, Gradients) {
        let mut params = Params::new(0, DType::F32, &Device::Cpu);
        let a = params.weight("a", vec![1.0, 2.0], &[2], true).unwrap();
        params.weight("unused", vec![1.0], &[1], true).unwrap();
        let b = params.weight("b", vec![3.0], &[1], true).unwrap();
        let loss = (a.sqr().unwrap().sum_all().unwrap() + b.sum_all().unwrap()).unwrap();
        let gradients = Gradients::of(&params, &loss.backward().unwrap());
        (params, gradients)
    }

    #[test]
    fn norms_and_sums_follow_their_definitions() {
        let (_, gradients) = three();
        // Gradients (2, 4), none, (1).
        let norms = gradients.norms().unwrap();
        assert!((norms[0] - 20f64.sqrt()).abs() < 1e-12 && norms[1..] == [0.0, 1.0], "{norms:?}");
        assert!((global_norm(&norms) - 21f64.sqrt()).abs() < 1e-12);
        let again = gradients.of_row(&gradients.row().unwrap()).unwrap();
        assert_eq!(again.norms().unwrap(), norms);
        assert!(again.iter().nth(1).unwrap().is_none());
        let twice = gradients.plus(&gradients).unwrap().scaled(0.25).unwrap();
        let halves = twice.norms().unwrap();
        assert!((global_norm(&halves) - 0.5 * 21f64.sqrt()).abs() < 1e-12);
        assert!(twice.iter().nth(1).unwrap().is_none());
    }

    /// The gradient of a mean over five items is that of three and of two, weighted.
    #[test]
    fn gradients_of_parts_add_up_to_that_of_the_whole() {
        let mut params = Params::new(0, DType::F64, &Device::Cpu);
        let values = (0..12).map(|i| (f64::from(i) * 0.7).sin());
        let weight = params.weight("weight", values, &[4, 3], true).unwrap();
        let x: Vec<f64> = (0..20).map(|i| (f64::from(i) * 1.3).cos()).collect();
        let x = Tensor::from_vec(x, (5, 4), &Device::Cpu).unwrap();
        let labels = [0u32, 2, 1, 1, 2];
        let given = Some(crate::ClassWeights::Given(vec![1.0, 0.5, 3.0]));
        let config = crate::LossConfig { class_weights: given, ..Default::default() };
        let loss = crate::Loss::new(&config, &[1; 3]).unwrap();
        let of = |from: usize, to: usize| {
            let logits = x.narrow(0, from, to - from).unwrap().matmul(&weight).unwrap();
            let mean = loss.mean(&logits, &labels[from..to]).unwrap();
            Gradients::of(&params, &mean.backward().unwrap())
        };
        let part = |from, to| of(from, to).scaled(loss.weight(&labels[from..to])).unwrap();
        let sum = part(0, 3).plus(&part(3, 5)).unwrap().scaled(1.0 / loss.weight(&labels)).unwrap();
        let minus = of(0, 5).scaled(-1.0).unwrap();
        assert!(global_norm(&sum.plus(&minus).unwrap().norms().unwrap()) < 1e-12);
        assert!(global_norm(&sum.norms().unwrap()) > 0.1);
    }
}
