//! A run folder: what a training writes beside its network.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use steer3d_dataset::Dataset;
use steer3d_eval::{ConditionReport, ModelReport, SourceReport};
use steer3d_files::write;
use steer3d_nn::Network;
use steer3d_nn::checkpoint::Score;
use steer3d_report::learning_curves;
use steer3d_train::{EpochMetrics, TrainConfig, TrainEvent};

use crate::error::{At, ExperimentError};
use crate::tensorboard::EventFile;

/// The name of the record of a run folder.
pub const RECORD: &str = "run.json";
const METRICS: &str = "metrics.jsonl";

/// What a run is, in `run.json`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct RunRecord {
    /// Version of the layout.
    pub schema_version: u32,
    /// Version of steer3d.
    pub version: String,
    /// The command line.
    pub command: String,
    /// Seed of the training.
    pub seed: u64,
    /// Kind of network.
    pub model: String,
    /// Number of trained parameters.
    pub parameters: usize,
    /// Name of the dataset.
    pub dataset: String,
    /// [`Dataset::digest`] of it.
    pub data_sha256: String,
    /// Epochs that are planned.
    pub epochs: usize,
    /// Whether the training is over.
    pub finished: bool,
    /// Time of the training so far.
    #[serde(default)]
    pub seconds: f64,
    /// Part of it in which the training waited for data.
    #[serde(default)]
    pub waited_seconds: f64,
    /// What the evaluation after the training came to.
    #[serde(default)]
    pub test: Vec<TestScore>,
}

/// How right a network is under one condition of an evaluation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TestScore {
    /// What was rotated.
    pub source: String,
    /// What was done.
    pub condition: String,
    /// Share of the classes or the labels of voxels that are right.
    pub accuracy: Option<f64>,
    /// Area under the curve, for classes.
    pub auc: Option<f64>,
    /// Mean Dice coefficient, for labels of voxels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dice: Option<f64>,
    /// Mean absolute error, for values.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<f64>,
}

impl TestScore {
    /// Its numbers, each for the card of the model.
    pub(crate) fn entries(&self) -> impl Iterator<Item = Score> {
        let values = [
            ("accuracy", self.accuracy),
            ("auc", self.auc),
            ("dice", self.dice),
            ("mean_absolute_error", self.error),
        ];
        values.into_iter().filter_map(|(measure, value)| {
            Some(Score {
                source: self.source.clone(),
                condition: self.condition.clone(),
                measure: measure.to_owned(),
                value: value?,
            })
        })
    }

    /// Those of a report, first source first.
    pub(crate) fn of(report: &ModelReport) -> Vec<Self> {
        let of = |source: &SourceReport, c: &ConditionReport| {
            let value = |name| c.get(name).map(|measure| measure.value);
            Self {
                source: source.source.to_string(),
                condition: c.condition.to_string(),
                accuracy: value("accuracy"),
                auc: value("auc"),
                dice: value("dice"),
                error: value("mean_absolute_error"),
            }
        };
        let sources = report.sources.iter();
        sources.flat_map(|s| s.conditions.iter().map(move |c| of(s, c))).collect()
    }
}

impl RunRecord {
    /// The record of a training that begins.
    ///
    /// # Errors
    /// As [`Dataset::digest`].
    pub fn new(
        network: &Network,
        dataset: &Dataset,
        config: &TrainConfig,
        command: &str,
    ) -> Result<Self, ExperimentError> {
        Ok(Self {
            schema_version: 1,
            version: env!("CARGO_PKG_VERSION").into(),
            command: command.into(),
            seed: config.seed,
            model: network.config().name().into(),
            parameters: network.params().count(),
            dataset: dataset.meta().name.clone(),
            data_sha256: dataset.digest()?,
            epochs: config.epochs,
            ..Self::default()
        })
    }

    /// The record of a run folder, if it has one.
    pub fn read(folder: &Path) -> Option<Self> {
        serde_json::from_str(&fs::read_to_string(folder.join(RECORD)).ok()?).ok()
    }

    /// Writes the record into a run folder.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn write(&self, folder: &Path) -> Result<(), ExperimentError> {
        write_text(&folder.join(RECORD), &serde_json::to_string_pretty(self)?)
    }
}

/// Writes a file of a run folder at once.
pub(crate) fn write_text(path: &Path, text: &str) -> Result<(), ExperimentError> {
    write(path, text.as_bytes()).at(path.display())
}

/// The epochs that a run folder tells of; a line that a killed run has left half written is no epoch.
pub fn read_epochs(folder: &Path) -> Vec<EpochMetrics> {
    let text = fs::read_to_string(folder.join(METRICS)).unwrap_or_default();
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

/// Metrics as JSON lines, and for TensorBoard.
pub(crate) struct Recorder {
    folder: PathBuf,
    log: fs::File,
    board: EventFile,
    epochs: Vec<EpochMetrics>,
}

impl Recorder {
    /// Of a training that has done `step` steps and `epochs` epochs; later ones that the folder tells of
    /// are forgotten, since they are done again.
    pub(crate) fn new(
        folder: &Path,
        step: usize,
        epochs: &[EpochMetrics],
    ) -> Result<Self, ExperimentError> {
        let path = folder.join(METRICS);
        let mut text = String::new();
        for epoch in epochs {
            text += &serde_json::to_string(epoch)?;
            text.push('\n');
        }
        write_text(&path, &text)?;
        let log = fs::OpenOptions::new().append(true).open(&path).at(path.display())?;
        let board = folder.join("tensorboard");
        let board = EventFile::create(&board, step, step > 0).at(board.display())?;
        Ok(Self { folder: folder.into(), log, board, epochs: epochs.to_vec() })
    }

    /// Records what happened after `step` optimiser steps.
    pub(crate) fn record(
        &mut self,
        event: &TrainEvent,
        step: usize,
    ) -> Result<(), ExperimentError> {
        let known = match *event {
            TrainEvent::Step { loss, learning_rate, gradient_norm, .. } => vec![
                ("loss/step", Some(f64::from(loss))),
                ("learning rate", Some(learning_rate)),
                ("gradient norm", Some(gradient_norm)),
            ],
            TrainEvent::Epoch(m) => {
                writeln!(self.log, "{}", serde_json::to_string(&m)?).at(METRICS)?;
                self.epochs.push(m);
                vec![
                    ("loss/training", Some(m.train_loss)),
                    ("accuracy/training", m.train_accuracy),
                    ("loss/validation", m.validation_loss),
                    ("accuracy/validation", m.validation_accuracy),
                    ("Dice/validation", m.validation_dice),
                ]
            }
            _ => return Ok(()),
        };
        let known = known.into_iter().filter_map(|(tag, value)| Some((tag, value?)));
        self.board.scalars(step, &known.collect::<Vec<_>>()).at("TensorBoard events")
    }

    /// Writes `curves.html`.
    pub(crate) fn curves(&self, title: &str) -> Result<(), ExperimentError> {
        let page = learning_curves(title, &[(title.into(), self.epochs.clone())]);
        write_text(&self.folder.join("curves.html"), &page)
    }
}
