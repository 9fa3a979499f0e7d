use std::path::{Path, PathBuf};
use std::time::Duration;

use steer3d_nn::checkpoint::ModelCard;

/// Where a training is kept.
///
/// ```no_run
/// use std::ops::ControlFlow;
/// use std::path::Path;
/// use std::time::Duration;
///
/// use steer3d_dataset::Dataset;
/// use steer3d_nn::Network;
/// use steer3d_nn::checkpoint::ModelCard;
/// use steer3d_train::{
///     Checkpoints, StateFolder, TrainConfig, TrainError, resume, state, train,
/// };
///
/// /// Trains, or goes on where the last call was interrupted.
/// fn go_on(network: &Network, dataset: &Dataset, card: &ModelCard) -> Result<(), TrainError> {
///     let states = StateFolder {
///         folder: "run/states".into(),
///         every_steps: Some(1000),
///         every: Some(Duration::from_secs(600)),
///         keep: 2,
///     };
///     let model = Path::new("run/model.safetensors");
///     let keep = Some(Checkpoints { model, card, states: Some(&states) });
///     let (config, watch) = (TrainConfig::default(), &mut |_| ControlFlow::Continue(()));
///     match state::latest(&states.folder)? {
///         None => train(network, dataset, &config, keep, watch)?,
///         Some(path) => {
///             let state = state::read(&path, network.params().device())?;
///             resume(network, dataset, &config, keep, state, watch)?
///         }
///     };
///     Ok(())
/// }
/// ```
#[derive(Debug, Clone, Copy)]
pub struct Checkpoints<'a> {
    /// The best network so far, written after every epoch that is better than all before.
    pub model: &'a Path,
    /// What its file says of it.
    pub card: &'a ModelCard,
    /// The states to go on from, if any.
    pub states: Option<&'a StateFolder>,
}

/// Where and how often the state of a training is saved; at the end of each epoch and on a stop it always is.
#[derive(Debug, Clone, PartialEq)]
pub struct StateFolder {
    /// Folder, made if it is missing.
    pub folder: PathBuf,
    /// Also after every so many optimiser steps.
    pub every_steps: Option<usize>,
    /// Also after the first step that ends so long after the last save.
    pub every: Option<Duration>,
    /// How many of the last states are kept, at least one.
    pub keep: usize,
}
