//! The report of models that label voxels.

mod figures;
mod page;
mod pictures;
mod tables;

use std::path::Path;

use serde::{Deserialize, Serialize};
use steer3d_dataset::{Dataset, Split};

pub use pictures::{VoxelAnswer, VoxelItem, VoxelView};

use super::write::{write_figures, write_file};
use super::{DatasetSummary, summarise};
use crate::EvalError;
use crate::predictor::Predictor;
use crate::protocol::{Condition, Protocol, Source};
use crate::voxels::{VoxelModel, VoxelScores, voxel_classes};

/// Version of the JSON form of [`VoxelReport`].
pub const VOXEL_SCHEMA_VERSION: u32 = 1;

/// How many volumes are shown.
const PICTURES: usize = 4;

/// Everything that was measured of models that label voxels, ready to be written.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VoxelReport {
    /// [`VOXEL_SCHEMA_VERSION`] of the writer.
    pub schema_version: u32,
    /// Title of the page.
    pub title: String,
    /// Version of steer3d that made the report.
    pub steer3d_version: String,
    /// The command line that made the report; empty for a library user's own program.
    pub command: String,
    /// The data; the classes are those of the voxels, and are counted in voxels.
    pub dataset: DatasetSummary,
    /// Number of volumes.
    pub items: usize,
    /// What was done to every volume.
    pub protocol: Protocol,
    /// The models, in the order of the tables.
    pub models: Vec<VoxelModel>,
    /// Pictures of a few volumes.
    pub gallery: Vec<VoxelItem>,
}

impl VoxelReport {
    /// What [`evaluate_voxels`](crate::evaluate_voxels) found of `predictors` on one split of a dataset, with
    /// pictures of a few items, for which the models are asked again.
    ///
    /// # Errors
    /// If the dataset has no labels of voxels, an item cannot be read or drawn, or a model fails.
    pub fn new(
        dataset: &Dataset,
        split: Split,
        protocol: Protocol,
        models: Vec<VoxelModel>,
        predictors: &[&dyn Predictor],
    ) -> Result<Self, EvalError> {
        Ok(Self {
            schema_version: VOXEL_SCHEMA_VERSION,
            title: format!("Rotated-volume evaluation on {}", dataset.meta().name),
            steer3d_version: env!("CARGO_PKG_VERSION").into(),
            command: String::new(),
            dataset: voxel_summary(dataset, split)?,
            items: dataset.indices(split).len(),
            gallery: pictures::gallery(dataset, &protocol, &models, predictors, PICTURES)?,
            protocol: Protocol { search: None, ..protocol },
            models,
        })
    }

    /// The JSON form. Single volumes are left out: they are in `volumes.csv`.
    ///
    /// # Errors
    /// [`EvalError::Json`] if a number is not finite.
    pub fn to_json(&self) -> Result<String, EvalError> {
        Ok(serde_json::to_string_pretty(self)?)
    }

    /// Writes `report.html`, `voxels.json`, `voxels.csv` (every number), `volumes.csv` (every single volume) and
    /// every plot as `figures/NAME.svg` and `figures/NAME.png` into the folder `dir`, which is made if need be.
    ///
    /// # Errors
    /// [`EvalError::Write`] naming the file that could not be written, or an error of formatting.
    pub fn write(&self, dir: &Path) -> Result<(), EvalError> {
        write_figures(dir, &self.figures())?;
        write_file(dir, "volumes.csv", &self.volumes_csv()?)?;
        write_file(dir, "voxels.csv", &self.results_csv()?)?;
        write_file(dir, "voxels.json", &self.to_json()?)?;
        write_file(dir, "report.html", &self.html()?)
    }
}

/// What the report says of a dataset, with the classes of its voxels.
fn voxel_summary(dataset: &Dataset, split: Split) -> Result<DatasetSummary, EvalError> {
    let class_names = voxel_classes(dataset)?.to_vec();
    let mut class_counts = vec![0; class_names.len()];
    for item in dataset.indices(split) {
        for label in dataset.voxel_labels(item)? {
            class_counts[usize::from(label)] += 1;
        }
    }
    Ok(DatasetSummary { class_names, class_counts, ..summarise(dataset, split) })
}

impl VoxelModel {
    /// The scores of a source under a condition.
    pub fn scores(&self, source: Source, condition: Condition) -> Option<&VoxelScores> {
        self.scores.iter().find(|s| s.source == source && s.condition == condition)
    }
}
