//! Answers of a trained network for any file: molecules, meshes, maps, images, archives and datasets.
//!
//! * [`Model`]: a network, and the [recipe](steer3d_dataset::Recipe) that turns files into its input.
//! * [`Inputs`]: the items of files, folders, lists, tables, archives and datasets.
//! * [`predict`]: the [`Record`] of each item, in order, in bounded memory.
//! * [`Output`]: records as a table (CSV), JSON lines or arrays (NPZ), in a file that a later run goes on with.

mod builtin;
mod error;
mod inputs;
mod items;
mod journal;
mod maps;
mod model;
mod options;
mod output;
mod record;
mod run;
mod voxels;

pub use builtin::{BUILTIN, Builtin};
pub use error::PredictError;
pub use inputs::{Input, Inputs};
pub use maps::MapFormat;
pub use model::Model;
pub use options::{Options, Watch};
pub use output::{Identity, Kind, Output};
pub use record::{Answer, Named, Record, Stability};
pub use run::predict;
pub use steer3d_eval::Windows;
