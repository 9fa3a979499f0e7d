//! The data of a report.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use steer3d_dataset::{Dataset, Grids, Split};

use crate::earlier::of_earlier_schema;
use crate::error::EvalError;
use crate::measure::{Definition, Measure};
use crate::paired::{PairedTest, paired_tests};
use crate::predictor::AnswerKind;
use crate::protocol::{Condition, Protocol};
use crate::results::{ModelReport, SourceReport};
use crate::spec::{is_labelled, targets, voxel_classes};

/// Version of the JSON form of [`Report`]. It grows when a field is removed, renamed or changes
/// its meaning; new fields alone do not change it.
pub const SCHEMA_VERSION: u32 = 3;

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

    /// Reads the JSON form, also the earlier ones: `report.json` of schema 2, `voxels.json` and `outputs.json` of
    /// schema 1, without their pictures.
    ///
    /// # Errors
    /// [`EvalError::Json`] when it is no report, [`EvalError::SchemaVersion`] when it is one of
    /// another version.
    pub fn from_json(json: &str) -> Result<Self, EvalError> {
        let value: Value = serde_json::from_str(json)?;
        let value = match value["schema_version"].as_u64() {
            Some(1 | 2) => of_earlier_schema(value, SCHEMA_VERSION),
            Some(found) if found != u64::from(SCHEMA_VERSION) => {
                return Err(EvalError::SchemaVersion { expected: SCHEMA_VERSION, found });
            }
            _ => value,
        };
        Ok(serde_json::from_value(value)?)
    }
}

/// The models evaluated on one dataset under one protocol.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Section {
    /// The data.
    pub dataset: DatasetSummary,
    /// What was done to every volume.
    pub protocol: Protocol,
    /// The models, in the order of the tables. All answer the same.
    pub models: Vec<ModelReport>,
    /// Pictures of a few volumes.
    #[serde(default)]
    pub gallery: Vec<GalleryItem>,
    /// A few volumes in every step of a turn.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub turning: Vec<Turning>,
    /// Differences between the models.
    #[serde(default)]
    pub paired: Vec<PairedTest>,
}

impl Section {
    /// What `models` answered on one split of a dataset, without pictures.
    ///
    /// # Errors
    /// If the dataset does not have what the models answer.
    pub fn new(
        dataset: &Dataset,
        split: Split,
        protocol: Protocol,
        models: Vec<ModelReport>,
    ) -> Result<Self, EvalError> {
        let answers = models.first().map_or_else(AnswerKind::default, |model| model.answers);
        same_classes(models.iter().map(|model| (&model.name[..], &model.class_names[..])))?;
        let mut section = Self {
            dataset: summarise(dataset, split, answers)?,
            gallery: vec![],
            turning: vec![],
            paired: paired_tests(&models, &protocol),
            protocol,
            models,
        };
        if !section.is_labelled() {
            // All unrotated answers are as themselves.
            section.paired.retain(|test| test.condition != Condition::Unrotated);
        }
        Ok(section)
    }

    /// Every model with each of its sources, in the order of the tables.
    pub fn sources(&self) -> impl Iterator<Item = (&ModelReport, &SourceReport)> {
        let models = self.models.iter();
        models.flat_map(|model| model.sources.iter().map(move |source| (model, source)))
    }

    /// What the models answer.
    pub fn answers(&self) -> AnswerKind {
        self.models.first().map_or_else(AnswerKind::default, |model| model.answers)
    }

    /// Whether answers are compared with what is right, and not with those unrotated alone.
    pub fn is_labelled(&self) -> bool {
        match self.answers() {
            AnswerKind::Classes | AnswerKind::Voxels => !self.dataset.class_names.is_empty(),
            AnswerKind::Values => {
                let mut conditions = self.sources().flat_map(|(_, source)| &source.conditions);
                conditions.any(|c| c.get("mean_absolute_error").is_some())
            }
        }
    }

    /// Names of the classes that the models answer with, those of the dataset where it has some.
    pub fn class_names(&self) -> &[String] {
        match self.models.first() {
            Some(model) if !self.is_labelled() => &model.class_names,
            _ => &self.dataset.class_names,
        }
    }

    /// The measures of the tables: without labels those of stability.
    pub fn definitions(&self) -> Vec<Definition> {
        let mut definitions = self.answers().definitions();
        if !self.is_labelled() {
            let conditions = || self.sources().flat_map(|(_, source)| &source.conditions);
            let is_of =
                |m: &Measure, d: &Definition| m.name == d.name && m.class.is_some() == d.of_class;
            definitions.retain(|d| conditions().any(|c| c.measures.iter().any(|m| is_of(m, d))));
        }
        definitions
    }

    /// The measure that models are compared by.
    pub fn score(&self) -> Definition {
        self.answers().score(self.is_labelled())
    }
}

/// Checks that models, each with the names of its classes, have the same.
///
/// # Errors
/// [`EvalError::OtherClasses`].
pub fn same_classes<'a>(
    models: impl IntoIterator<Item = (&'a str, &'a [String])>,
) -> Result<(), EvalError> {
    let mut models = models.into_iter();
    let Some((first, names)) = models.next() else { return Ok(()) };
    match models.find(|(_, others)| *others != names) {
        None => Ok(()),
        Some((other, _)) => {
            Err(EvalError::OtherClasses { first: first.into(), other: other.into() })
        }
    }
}

/// What a reader must know of a dataset.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DatasetSummary {
    /// Name of the dataset.
    pub name: String,
    /// Names of the classes, of volumes or of voxels; empty where volumes have no labels.
    pub class_names: Vec<String>,
    /// The split that was evaluated.
    pub split: String,
    /// Number of volumes in that split.
    pub items: usize,
    /// Volumes, or voxels, of each class in that split.
    pub class_counts: Vec<usize>,
    /// How the targets turn, where values are evaluated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub targets: Option<String>,
    /// Channels of a volume.
    pub channels: usize,
    /// Grid D,H,W of a volume.
    pub dims: [usize; 3],
    /// Size x,y,z of a voxel.
    pub voxel_size: [f64; 3],
    /// Whether volumes have grids and voxel sizes of their own.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub own_grids: bool,
    /// Unit of the voxel size.
    pub unit: String,
    /// Irreps of the channels.
    pub irreps: String,
    /// Name and text of each entry of the provenance: source, licence and so on.
    pub provenance: Vec<(String, String)>,
}

/// What the report says of a split of a dataset whose `answers` are evaluated.
///
/// # Errors
/// If the dataset has no such answers, or its labels of voxels cannot be read.
pub fn summarise(
    dataset: &Dataset,
    split: Split,
    answers: AnswerKind,
) -> Result<DatasetSummary, EvalError> {
    let meta = dataset.meta();
    let origin = &meta.provenance;
    let none = String::new();
    let provenance = [
        ("data", &origin.source),
        ("licence", &origin.licence),
        ("SHA-256", origin.sha256.as_ref().unwrap_or(&none)),
        ("importer", &origin.importer),
        ("import command", &origin.command),
        ("import version", &origin.version),
        ("notes", &origin.notes),
    ];
    let items = dataset.indices(split);
    let (mut class_names, mut class_counts) =
        (meta.class_names.clone(), dataset.class_counts(split));
    if answers != AnswerKind::Classes && !is_labelled(dataset, answers) {
        (class_names, class_counts) = (vec![], vec![]);
    } else if answers == AnswerKind::Voxels {
        class_names = voxel_classes(dataset)?.to_vec();
        class_counts = vec![0; class_names.len()];
        for &item in &items {
            for label in dataset.voxel_labels(item)? {
                class_counts[usize::from(label)] += 1;
            }
        }
    }
    Ok(DatasetSummary {
        name: meta.name.clone(),
        class_names,
        split: split.to_string(),
        items: items.len(),
        class_counts,
        targets: match answers {
            AnswerKind::Values if is_labelled(dataset, answers) => {
                Some(targets(dataset)?.to_string())
            }
            _ => None,
        },
        channels: meta.channels,
        dims: meta.dims,
        voxel_size: meta.voxel_size,
        own_grids: meta.grids == Grids::Each,
        unit: meta.unit.clone(),
        irreps: meta.irreps.to_string(),
        provenance: provenance
            .into_iter()
            .filter(|(_, text)| !text.is_empty())
            .map(|(name, text)| (name.to_owned(), text.clone()))
            .collect(),
    })
}

/// An item in some orientations.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GalleryItem {
    /// Identifier of the item.
    pub id: String,
    /// Its class, where classes of volumes are predicted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class: Option<String>,
    /// Unrotated, then transformed, if anything was.
    pub views: Vec<View>,
}

/// An item in one orientation and what the models say of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct View {
    /// Which orientation.
    pub caption: String,
    /// Pictures of the volume, of its labels, and of the labels of each model.
    pub pictures: Vec<Picture>,
    /// The predicted class of each model that was asked.
    #[serde(default)]
    pub verdicts: Vec<Verdict>,
}

/// A picture of a volume, x to the right and y down.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Picture {
    /// What it shows, or the name of the model whose labels it shows.
    pub name: String,
    /// A PNG as data URI.
    pub uri: String,
    /// The score of the model for this volume.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub score: Option<f64>,
}

/// What one model predicts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// Name of the model.
    pub model: String,
    /// The predicted class.
    pub class: String,
    /// Whether it is right; without labels whether it is the unrotated one.
    pub right: bool,
    /// Its softmax probability.
    pub probability: f64,
}

/// An item in the steps of a whole turn, evenly spaced from 0, and what the models answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Turning {
    /// Identifier of the item.
    pub id: String,
    /// Its class, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class: Option<String>,
    /// The axis x,y,z of the turn.
    pub axis: [f64; 3],
    /// A PNG as data URI with a picture of each step below that of the one before, x to the right and y down.
    pub uri: String,
    /// Width and height of one picture in pixels.
    pub size: [usize; 2],
    /// The classes whose probabilities are shown.
    pub classes: Vec<String>,
    /// What each model answers.
    pub answers: Vec<TurningAnswer>,
}

/// The answers of a model to an item that turns.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TurningAnswer {
    /// Name of the model.
    pub model: String,
    /// Softmax probabilities \[step\]\[class\] of the classes that are shown, to four decimals.
    pub probabilities: Vec<Vec<f64>>,
}
