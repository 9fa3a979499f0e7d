//! Training of networks on datasets.
//!
//! * [`train`] and [`resume`]: the training loop; [`state`]: a training on disk.
//! * [`loss`]: losses for every head; [`Optimiser`]: AdamW and SGD, whose state can be saved.

mod average;
mod config;
mod error;
mod gradients;
pub mod loss;
mod loss_config;
mod objective;
mod optimiser;
mod replicas;
mod run;
mod schedule;
pub mod state;

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use steer3d_dataset::Dataset;

use crate::state::TrainingState;
use steer3d_nn::Network;
use steer3d_nn::checkpoint::ModelCard;

pub use config::{Monitor, Precision, TrainConfig};
pub use error::TrainError;
pub use gradients::{Gradients, global_norm};
pub use loss_config::{Balance, ClassWeights, Loss, LossConfig};
pub use optimiser::{AdamW, Optimiser, OptimiserConfig, Sgd};
pub use run::Training;
pub use schedule::{Schedule, When};

use schedule::Plateau;

/// What one epoch came to.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct EpochMetrics {
    /// Epoch, counted from 1.
    pub epoch: usize,
    /// Mean loss over the training set, with dropout, as the weights moved.
    pub train_loss: f64,
    /// Accuracy over the training set, likewise, where answers are right or wrong.
    pub train_accuracy: Option<f64>,
    /// Mean cross-entropy over the validation set, squared error of target values; the largest number if it
    /// is none; `None` without a validation set.
    pub validation_loss: Option<f64>,
    /// Accuracy over the validation set, if there is one and answers are right or wrong.
    pub validation_accuracy: Option<f64>,
    /// Whether this epoch's weights are the best so far.
    pub best: bool,
    /// Learning rate of its last step.
    #[serde(default)]
    pub learning_rate: f64,
    /// Seconds of training up to its end, validation included.
    #[serde(default)]
    pub seconds: f64,
}

/// What the training loop reports while it runs.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub enum TrainEvent {
    /// An optimiser step is done.
    Step {
        /// Epoch, counted from 1.
        epoch: usize,
        /// Optimiser steps done.
        step: usize,
        /// Optimiser steps in all.
        steps: usize,
        /// Loss of its batches.
        loss: f32,
        /// Accuracy in the epoch so far, where answers are right or wrong.
        accuracy: Option<f64>,
        /// Its learning rate.
        learning_rate: f64,
        /// Norm of the gradient of all weights, before clipping.
        gradient_norm: f64,
    },
    /// An epoch is done.
    Epoch(EpochMetrics),
}

/// How a training run ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Trained {
    /// One entry for each finished epoch.
    pub epochs: Vec<EpochMetrics>,
    /// Whether the caller stopped it early.
    pub stopped: bool,
    /// Time spent, validation and what was before a resumption included.
    pub elapsed: Duration,
    /// Part of it in which the training waited for data.
    pub waited: Duration,
}

/// Where a training is kept.
///
/// ```no_run
/// use std::ops::ControlFlow;
/// use std::path::Path;
/// use std::time::Duration;
///
/// use steer3d_nn::checkpoint::ModelCard;
/// use steer3d_nn::{Network, TrainError, Save, States, TrainConfig, resume, state, train};
/// use steer3d_dataset::Dataset;
///
/// /// Trains, or goes on where the last call was interrupted.
/// fn go_on(network: &Network, dataset: &Dataset, card: &ModelCard) -> Result<(), TrainError> {
///     let states = States {
///         folder: "run/states".into(),
///         every_steps: Some(1000),
///         every: Some(Duration::from_secs(600)),
///         keep: 2,
///     };
///     let model = Path::new("run/model.safetensors");
///     let save = Some(Save { model, card, states: Some(&states) });
///     let (config, watch) = (TrainConfig::default(), &mut |_| ControlFlow::Continue(()));
///     match state::latest(&states.folder)? {
///         None => train(network, dataset, &config, save, watch)?,
///         Some(path) => {
///             let state = state::read(&path, network.params().device())?;
///             resume(network, dataset, &config, save, state, watch)?
///         }
///     };
///     Ok(())
/// }
/// ```
#[derive(Debug, Clone, Copy)]
pub struct Save<'a> {
    /// The best network so far, written after every epoch that is better than all before.
    pub model: &'a Path,
    /// What lies beside it.
    pub card: &'a ModelCard,
    /// The states to go on from, if any.
    pub states: Option<&'a States>,
}

/// How often the state of a training is saved; at the end of each epoch and on a stop it always is.
#[derive(Debug, Clone, PartialEq)]
pub struct States {
    /// Folder, made if it is missing.
    pub folder: PathBuf,
    /// Also after every so many optimiser steps.
    pub every_steps: Option<usize>,
    /// Also after the first step that ends so long after the last save.
    pub every: Option<Duration>,
    /// How many of the last states are kept, at least one.
    pub keep: usize,
}

/// How far a training has come.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// The epoch it is in, counted from 1.
    pub epoch: usize,
    /// Batches of this epoch that are done.
    pub batch: usize,
    /// Optimiser steps done in all.
    pub step: usize,
    /// One entry for each finished epoch.
    pub epochs: Vec<EpochMetrics>,
    /// Whether it is over.
    pub finished: bool,
    /// Batches done in all: the key of dropout masks.
    batches: u64,
    optimiser_step: i32,
    plateau: Plateau,
    /// Of the batches of this epoch: losses times weights, weights, right answers, answers.
    sums: [f64; 4],
    learning_rate: f64,
    seconds: f64,
    waited: f64,
}

impl Progress {
    fn start() -> Self {
        Self {
            epoch: 1,
            batch: 0,
            step: 0,
            epochs: vec![],
            finished: false,
            batches: 0,
            optimiser_step: 0,
            plateau: Plateau::default(),
            sums: [0.0; 4],
            learning_rate: 0.0,
            seconds: 0.0,
            waited: 0.0,
        }
    }
}

/// Trains `network` on the training split of `dataset`, on the classes, labels of voxels or target values that
/// its head gives, and leaves it with the weights of its best
/// epoch: highest validation accuracy, then lowest validation loss; the last epoch where the
/// dataset has no validation items.
///
/// With `save`, the network is written there after every epoch that is the best so far, so a run
/// that is killed leaves its best network, and with states a training that [`resume`] goes on with;
/// older states in that folder are removed. `watch` hears of every step; `ControlFlow::Break` stops
/// the run.
///
/// The same seed gives the same weights on any number of threads.
///
/// # Errors
/// [`TrainError::Mismatch`] when the dataset does not fit the network, [`TrainError::NotFinite`] when
/// the loss or a gradient diverges, [`TrainError::Checkpoint`] or [`TrainError::State`] when `save` cannot be
/// written, before the first step where that can be known.
pub fn train(
    network: &Network,
    dataset: &Dataset,
    config: &TrainConfig,
    save: Option<Save<'_>>,
    watch: &mut dyn FnMut(TrainEvent) -> ControlFlow<()>,
) -> Result<Trained, TrainError> {
    Training::new(network, dataset, config, save)?.run(watch)
}

/// Goes on with a training from a state, to the same bits as a training that was never interrupted.
///
/// # Errors
/// As [`train`]; [`TrainError::State`] naming the setting, if network, dataset or settings are not those
/// of the state.
pub fn resume(
    network: &Network,
    dataset: &Dataset,
    config: &TrainConfig,
    save: Option<Save<'_>>,
    state: TrainingState,
    watch: &mut dyn FnMut(TrainEvent) -> ControlFlow<()>,
) -> Result<Trained, TrainError> {
    Training::resumed(network, dataset, config, save, state)?.run(watch)
}
