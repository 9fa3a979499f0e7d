//! The report: its data, and the files written from it.

mod axes;
mod comparison;
mod diff;
mod figures;
mod html;
mod learning;
mod log_plot;
mod outputs;
mod page;
mod picture;
mod raster;
mod reading;
mod svg;
mod tables;
mod voxels;
mod write;

use serde::{Deserialize, Serialize};
use steer3d_dataset::{Dataset, Split};

pub use axes::{AxisCell, failures_by_axis};
pub use comparison::{Accuracy, Comparison, ComparisonRow, Spread, Trial};
pub use diff::{Change, diff, diff_table};
pub use figures::{Figure, figures};
pub use html::html;
pub use learning::learning_curves;
pub use outputs::{OUTPUTS_SCHEMA_VERSION, OutputsModel, OutputsReport};
pub use picture::{GalleryItem, Verdict, View, gallery};
pub use reading::reading;
pub use tables::{predictions_csv, results_csv, terminal};
pub use voxels::{VOXEL_SCHEMA_VERSION, VoxelAnswer, VoxelItem, VoxelReport, VoxelView};
pub use write::{write_comparison, write_report};

pub(crate) use log_plot::LogPlot;
pub(crate) use write::write_file;

use crate::EvalError;
use crate::evaluate::summarise;
use crate::metrics::Estimate;
use crate::paired::{PairedTest, paired_tests};
use crate::protocol::{Condition, Protocol, Source, Transform};
use crate::scores::{Scores, Stability};

/// Version of the JSON form of [`Report`]. It grows when a field is removed, renamed or changes
/// its meaning; new fields alone do not change it.
pub const SCHEMA_VERSION: u32 = 2;

/// Everything that was measured, ready to be written.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// [`SCHEMA_VERSION`] of the writer.
    pub schema_version: u32,
    /// Title of the page.
    pub title: String,
    /// Version of steer3d that made the report.
    pub steer3d_version: String,
    /// The command line that made the report; empty for a library user's own program.
    pub command: String,
    /// One section for each dataset.
    pub sections: Vec<Section>,
}

impl Report {
    /// A report of this version.
    pub fn new(title: &str, command: &str, sections: Vec<Section>) -> Self {
        Self {
            schema_version: SCHEMA_VERSION,
            title: title.into(),
            steer3d_version: env!("CARGO_PKG_VERSION").into(),
            command: command.into(),
            sections,
        }
    }

    /// The JSON form. Single predictions are left out: they are in `predictions.csv`.
    ///
    /// # Errors
    /// [`EvalError::Json`] if a number is not finite.
    pub fn to_json(&self) -> Result<String, EvalError> {
        Ok(serde_json::to_string_pretty(self)?)
    }

    /// Reads the JSON form.
    ///
    /// # Errors
    /// [`EvalError::Json`] when it is no report, [`EvalError::SchemaVersion`] when it is one of
    /// another version.
    pub fn from_json(json: &str) -> Result<Self, EvalError> {
        let value: serde_json::Value = serde_json::from_str(json)?;
        match value["schema_version"].as_u64() {
            Some(found) if found != u64::from(SCHEMA_VERSION) => {
                Err(EvalError::SchemaVersion { expected: SCHEMA_VERSION, found })
            }
            _ => Ok(serde_json::from_value(value)?),
        }
    }
}

/// The models evaluated on one dataset under one protocol.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Section {
    /// The data.
    pub dataset: DatasetSummary,
    /// What was done to every volume.
    pub protocol: Protocol,
    /// The models, in the order of the tables.
    pub models: Vec<ModelReport>,
    /// Pictures of a few volumes.
    pub gallery: Vec<GalleryItem>,
    /// Differences between the models.
    #[serde(default)]
    pub paired: Vec<PairedTest>,
}

impl Section {
    /// What `models` answered on one split of a dataset, with pictures of some items.
    ///
    /// # Errors
    /// If an item cannot be read or drawn.
    pub fn new(
        dataset: &Dataset,
        split: Split,
        protocol: Protocol,
        models: Vec<ModelReport>,
    ) -> Result<Self, EvalError> {
        const PICTURES: usize = 4;
        Ok(Self {
            dataset: summarise(dataset, split),
            gallery: gallery(dataset, &models, &protocol, PICTURES)?,
            paired: paired_tests(&models, &protocol),
            protocol,
            models,
        })
    }
}

/// What a reader must know of a dataset.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DatasetSummary {
    /// Name of the dataset.
    pub name: String,
    /// Names of the classes.
    pub class_names: Vec<String>,
    /// The split that was evaluated.
    pub split: String,
    /// Items of each class in that split.
    pub class_counts: Vec<usize>,
    /// Channels of a volume.
    pub channels: usize,
    /// Grid D,H,W of a volume.
    pub dims: [usize; 3],
    /// Size x,y,z of a voxel.
    pub voxel_size: [f64; 3],
    /// Unit of the voxel size.
    pub unit: String,
    /// Irreps of the channels.
    pub irreps: String,
    /// Name and text of each entry of the provenance: source, licence and so on.
    pub provenance: Vec<(String, String)>,
}

/// What was measured of one model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelReport {
    /// Name of the model.
    pub name: String,
    /// Number of trained parameters.
    pub parameters: usize,
    /// The results for each source of the protocol, in its order.
    pub sources: Vec<SourceReport>,
    /// Every single prediction, in the order of the items; not part of the JSON form.
    #[serde(skip)]
    pub predictions: Vec<Prediction>,
}

/// What was measured with one source.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SourceReport {
    /// What was rotated.
    pub source: Source,
    /// The results in the order of [`Protocol::conditions`].
    pub conditions: Vec<ConditionReport>,
    /// How often the predictions are wrong by the axis of rotation: the cells of
    /// [`failures_by_axis`].
    #[serde(default)]
    pub failures_by_axis: Vec<AxisCell>,
    /// Equivariance errors of the layers, the input first; empty if the model shows none.
    pub layers: Vec<LayerError>,
}

impl SourceReport {
    /// The result of a condition.
    pub fn condition(&self, condition: Condition) -> Option<&ConditionReport> {
        self.conditions.iter().find(|report| report.condition == condition)
    }
}

/// What was measured under one condition.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ConditionReport {
    /// The condition.
    pub condition: Condition,
    /// How often the model is right.
    pub scores: Scores,
    /// How much its predictions change; `None` for [`Condition::Unrotated`].
    pub stability: Option<Stability>,
}

/// The equivariance error of one layer,
/// ‖M (L(R x) - ρ(R) L(x))‖ / ‖M ρ(R) L(x)‖, where M keeps the ball |p| <= 0.35 N of the layer's
/// grid (N its smallest side). Values without a grid are compared whole.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LayerError {
    /// Name of the layer; `input` for the volume itself, whose error is that of resampling alone.
    pub name: String,
    /// How its channels transform.
    pub irreps: String,
    /// C,D,H,W, or C when space has been pooled away.
    pub shape: Vec<usize>,
    /// Mean over items and uniform random rotations; contains the error of resampling L(x).
    /// `None` without rotations, or when the layer is zero in the ball.
    pub random: Option<f64>,
    /// Mean over items and rotations of the cube, which need no resampling of a cubic grid.
    pub cube: Option<f64>,
}

/// The prediction for one transformed item.
#[derive(Clone, Debug, PartialEq)]
pub struct Prediction {
    /// What was rotated.
    pub source: Source,
    /// The condition.
    pub condition: Condition,
    /// Index of the item in the dataset.
    pub item: usize,
    /// Identifier of the item.
    pub id: String,
    /// Its class.
    pub label: usize,
    /// What was done to it.
    pub transform: Transform,
    /// The logits of the model, one for each class.
    pub logits: Vec<f32>,
}

/// `0.8123` as `81.2`, with a minus sign rather than a hyphen.
pub(crate) fn percent(share: f64) -> String {
    // Adding 0.0 turns -0.0 into 0.0.
    format!("{:.1}", (share * 1000.0).round() / 10.0 + 0.0).replace('-', "−")
}

/// An estimate in per cent, `81.2 (75.0 to 86.5)`.
pub(crate) fn percent_interval(e: Estimate) -> String {
    format!("{} ({} to {})", percent(e.value), percent(e.low), percent(e.high))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_rounded_to_a_tenth_of_a_per_cent() {
        assert_eq!(percent(0.81249), "81.2");
        assert_eq!(percent(-0.0001), "0.0");
        assert_eq!(percent(-0.25), "−25.0");
    }
}
