//! What was measured of a model.

use serde::{Deserialize, Serialize};

use crate::measure::Measure;
use crate::metrics::Estimate;
use crate::predictor::AnswerKind;
use crate::protocol::{Condition, Source, Transform};

/// What was measured of one model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelReport {
    /// Name of the model.
    pub name: String,
    /// What it answers.
    pub answers: AnswerKind,
    /// Names of the classes that it answers with, where the dataset has none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub class_names: Vec<String>,
    /// Number of trained parameters.
    pub parameters: usize,
    /// The results for each source of the protocol, in its order.
    pub sources: Vec<SourceReport>,
    /// Every single prediction, in the order of the items; not part of the JSON form.
    #[serde(skip)]
    pub predictions: Vec<Prediction>,
}

impl ModelReport {
    /// What was measured with a source under a condition.
    pub fn condition(&self, source: Source, condition: Condition) -> Option<&ConditionReport> {
        self.sources.iter().find(|s| s.source == source)?.condition(condition)
    }
}

/// What was measured with one source.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SourceReport {
    /// What was rotated.
    pub source: Source,
    /// The results in the order of [`Protocol::conditions`](crate::Protocol::conditions).
    pub conditions: Vec<ConditionReport>,
    /// How often predicted classes are wrong by the axis of rotation: the cells of
    /// [`failures_by_axis`](crate::failures_by_axis).
    #[serde(default)]
    pub failures_by_axis: Vec<AxisCell>,
    /// Equivariance errors of the layers, the input first; empty if the model shows none.
    #[serde(default)]
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
    /// The measures that are defined.
    pub measures: Vec<Measure>,
    /// Number of predictions, of volumes or voxels, \[true class\]\[predicted class\].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confusion: Option<Vec<Vec<u64>>>,
}

impl ConditionReport {
    /// A measure of no class.
    pub fn get(&self, name: &str) -> Option<Estimate> {
        let of = |m: &&Measure| m.name == name && m.class.is_none();
        self.measures.iter().find(of).map(|m| m.estimate)
    }

    /// A measure of one class.
    pub fn of_class(&self, name: &str, class: &str) -> Option<Estimate> {
        let of = |m: &&Measure| m.name == name && m.class.as_deref() == Some(class);
        self.measures.iter().find(of).map(|m| m.estimate)
    }
}

/// Predictions of rotated volumes whose rotation axis lies in one cell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AxisCell {
    /// All of them.
    pub predictions: u64,
    /// Those that are wrong.
    pub wrong: u64,
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
    /// Its class, where classes of volumes are predicted and the dataset has some.
    pub label: Option<usize>,
    /// What was done to it.
    pub transform: Transform,
    /// What is kept of the answer: the logits of the classes; the values, turned back; of labels of voxels the
    /// counts of voxels \[true class · predicted class\], and then of those whose label is the unrotated one, of
    /// those of them that are not background, of those that are not background both times, of those that are
    /// labelled right unrotated, and of those of them that are not background; then, for each class but the background,
    /// whether there is a surface of it (1 or 0), its normalised surface Dice and its HD95.
    pub answer: Vec<f64>,
    /// [`AnswerKind::score`] of this volume alone.
    pub score: f64,
}
