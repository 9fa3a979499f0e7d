//! Training of networks on datasets.
//!
//! * [`train`] and [`resume`]: the training loop; [`Training`]: its parts, and several devices. Run as one of several
//!   [ranks](steer3d_ranks::Rank::run), it trains together with the others.
//! * [`Checkpoints`]: where a training is kept; [`state`]: a training on disk.
//! * [`loss`]: losses for every head; [`Optimiser`]: AdamW and SGD, whose state can be saved.

mod average;
mod checkpoints;
mod config;
mod difference;
mod error;
mod event;
mod gradients;
pub mod loss;
mod loss_config;
mod metrics;
mod objective;
mod optimiser;
mod progress;
mod rank_sum;
mod ranks;
mod replicas;
mod samples;
mod schedule;
mod spacings;
pub mod state;
mod summed;
mod tensors;
mod training;

pub use checkpoints::{Checkpoints, StateFolder};
pub use config::{GradientSums, Monitor, PatchConfig, Precision, TrainConfig};
pub use error::TrainError;
pub use event::{TrainEvent, Trained};
pub use gradients::{Gradients, global_norm};
pub use loss_config::{Balance, ClassWeights, Loss, LossConfig};
pub use metrics::EpochMetrics;
pub use optimiser::{Optimiser, OptimiserConfig};
pub use progress::Progress;
pub use ranks::step_traffic;
pub use schedule::{Schedule, SchedulePoint};
pub use state::TrainingState;
pub use training::{Training, resume, train};
