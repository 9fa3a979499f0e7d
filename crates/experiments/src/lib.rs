//! Experiments: what the program `steer3d` trains, compares and demonstrates, as library calls.
//!
//! * [`Experiment`]: a training as a TOML file, with an evaluation; [`train_into`]: a training into a run folder.
//! * [`Prototypes`] and [`Architecture`]: networks of about equal size for the volumes of a dataset.
//! * [`compare`]: several networks, trained from several seeds and measured on the same volumes.
//! * [`Sweep`]: which settings of an experiment are tried.
//! * [`list_runs`]: what the run folders below a folder came to.
//! * [`ready`]: experiment files to begin with; `settings`, with feature `schema`, the reference of their keys.
//! * [`demo`] and [`tetris`]: the demonstrations.
//!
//! Calls that take long get a [`Session`]: devices, what hears of the progress, and a flag that stops them.

mod compare;
mod demo;
mod error;
mod evaluation;
mod experiment;
mod folder;
pub mod ready;
mod rivals;
mod run;
mod runs;
mod session;
#[cfg(feature = "schema")]
mod settings;
mod sweep;
mod tables;
mod tensorboard;
mod tetris;
mod training;

pub use compare::{CompareConfig, compare};
pub use demo::{Bundled, DemoConfig, demo};
pub use error::ExperimentError;
pub use evaluation::evaluation_progress;
pub use experiment::{
    Data, EXPERIMENT, EvaluationSettings, Experiment, StateSettings, model_config, training_table,
};
pub use folder::{RECORD, RunRecord, TestScore, read_epochs};
pub use rivals::{Architecture, Budget, Prototypes, input_scale};
pub use run::{Existing, MakeDataset, RunSummary, TrainedExperiment};
pub use runs::{RunGroup, RunList, RunRow, list_runs};
pub use session::{Observer, PartObserver, Session, Stop};
#[cfg(feature = "schema")]
pub use settings::settings;
pub use sweep::Sweep;
pub use tables::read_table;
pub use tetris::{TetrisConfig, TetrisRow, TetrisTable, tetris};
pub use training::{Run, RunOptions, train_into};
