//! The tensors of a training, each under its kind and the name of its parameter: `weights/head.weight`.

use std::collections::HashMap;

use candle_core::{Tensor, Var};
use steer3d_nn::Params;

use crate::error::TrainError;

/// Tensors by their names.
pub(crate) type Named = Vec<(String, Tensor)>;

/// Tensors of a kind, of which each belongs to a parameter.
pub(crate) fn named<'a>(
    kind: &str,
    params: impl Iterator<Item = (&'a str, &'a Var)>,
    tensors: impl IntoIterator<Item = Tensor>,
) -> Named {
    params.map(|(name, _)| format!("{kind}/{name}")).zip(tensors).collect()
}

/// Takes the tensors of a kind out of `all`; the name of the first that is missing or does not fit its parameter is
/// the error.
pub(crate) fn take<'a>(
    kind: &str,
    params: impl Iterator<Item = (&'a str, &'a Var)>,
    all: &mut HashMap<String, Tensor>,
) -> Result<Vec<Tensor>, String> {
    let fits = |t: &Tensor, var: &Var| t.dims() == var.dims() && t.dtype() == var.dtype();
    let one = |(name, var): (&str, &Var)| {
        let name = format!("{kind}/{name}");
        all.remove(&name).filter(|tensor| fits(tensor, var)).ok_or(name)
    };
    params.map(one).collect()
}

/// The trainable parameters.
pub(crate) fn trainable(params: &Params) -> impl Iterator<Item = (&str, &Var)> {
    params.trainable().iter().map(|p| (p.name.as_str(), &p.var))
}

/// Copies of the values of parameters.
pub(crate) fn copies<'a>(
    params: impl Iterator<Item = (&'a str, &'a Var)>,
) -> Result<Vec<Tensor>, TrainError> {
    params.map(|(_, var)| Ok(var.copy()?.detach())).collect()
}

/// Gives parameters the values of tensors.
pub(crate) fn set<'a>(
    params: impl Iterator<Item = (&'a str, &'a Var)>,
    tensors: &[Tensor],
) -> Result<(), TrainError> {
    for ((_, var), tensor) in params.zip(tensors) {
        var.set(&tensor.detach())?;
    }
    Ok(())
}
