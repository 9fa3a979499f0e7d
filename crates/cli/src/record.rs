//! A run folder: what a training writes beside its network.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use steer3d::dataset::Dataset;
use steer3d::eval::{ConditionReport, ModelReport, SourceReport};
use steer3d::nn::{Network, checkpoint};
use steer3d::report::learning_curves;
use steer3d::train::{EpochMetrics, TrainConfig, TrainEvent};

use crate::eval::command_line;
use crate::tensorboard::EventFile;

pub(crate) const RECORD: &str = "run.json";
pub(crate) const EXPERIMENT: &str = "experiment.toml";
const METRICS: &str = "metrics.jsonl";

/// What a run is, in `run.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct RunRecord {
    pub(crate) schema_version: u32,
    /// Version of steer3d.
    pub(crate) version: String,
    pub(crate) command: String,
    pub(crate) seed: u64,
    /// Kind of network.
    pub(crate) model: String,
    pub(crate) parameters: usize,
    pub(crate) dataset: String,
    /// SHA-256 over ids, labels, splits and checksums of all items.
    pub(crate) data_sha256: String,
    /// Epochs that are planned.
    pub(crate) epochs: usize,
    pub(crate) finished: bool,
    /// Time of the training so far.
    #[serde(default)]
    pub(crate) seconds: f64,
    /// Part of it in which the training waited for data.
    #[serde(default)]
    pub(crate) waited_seconds: f64,
    /// What the evaluation after the training came to.
    #[serde(default)]
    pub(crate) test: Vec<TestScore>,
}

/// Accuracy of a network, of classes or of labels of voxels, under one condition of an evaluation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct TestScore {
    /// What was rotated.
    pub(crate) source: String,
    pub(crate) condition: String,
    pub(crate) accuracy: f64,
    pub(crate) auc: Option<f64>,
}

impl TestScore {
    /// Those of a report, first source first.
    pub(crate) fn of(report: &ModelReport) -> Vec<Self> {
        let of = |source: &SourceReport, c: &ConditionReport| {
            Some(Self {
                source: source.source.to_string(),
                condition: c.condition.to_string(),
                accuracy: c.get("accuracy")?.value,
                auc: c.get("auc").map(|auc| auc.value),
            })
        };
        let sources = report.sources.iter();
        sources.flat_map(|s| s.conditions.iter().filter_map(move |c| of(s, c))).collect()
    }
}

impl RunRecord {
    pub(crate) fn new(network: &Network, dataset: &Dataset, config: &TrainConfig) -> Self {
        Self {
            schema_version: 1,
            version: env!("CARGO_PKG_VERSION").into(),
            command: command_line(),
            seed: config.seed,
            model: network.config().name().into(),
            parameters: network.params().count(),
            dataset: dataset.meta().name.clone(),
            data_sha256: dataset.digest(),
            epochs: config.epochs,
            finished: false,
            seconds: 0.0,
            waited_seconds: 0.0,
            test: vec![],
        }
    }

    /// The record of a run folder, if it has one.
    pub(crate) fn read(folder: &Path) -> Option<Self> {
        serde_json::from_str(&fs::read_to_string(folder.join(RECORD)).ok()?).ok()
    }

    pub(crate) fn write(&self, folder: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self)?;
        Ok(checkpoint::write_atomically(&folder.join(RECORD), text.as_bytes())?)
    }
}

/// The epochs that a run folder tells of; a line that a killed run has left half written is no epoch.
pub(crate) fn epochs(folder: &Path) -> Vec<EpochMetrics> {
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
    pub(crate) fn new(folder: &Path, step: usize, epochs: &[EpochMetrics]) -> Result<Self> {
        let path = folder.join(METRICS);
        let mut text = String::new();
        for epoch in epochs {
            text += &serde_json::to_string(epoch)?;
            text.push('\n');
        }
        checkpoint::write_atomically(&path, text.as_bytes())?;
        let log = fs::OpenOptions::new().append(true).open(&path);
        let log = log.with_context(|| format!("{}", path.display()))?;
        let board = folder.join("tensorboard");
        let board = EventFile::create(&board, step, step > 0)
            .with_context(|| format!("{}", board.display()))?;
        Ok(Self { folder: folder.into(), log, board, epochs: epochs.to_vec() })
    }

    pub(crate) fn hear(&mut self, event: &TrainEvent, steps_done: usize) -> Result<()> {
        match *event {
            TrainEvent::Step { step, loss, learning_rate, gradient_norm, .. } => {
                let scalars = [
                    ("loss/step", f64::from(loss)),
                    ("learning rate", learning_rate),
                    ("gradient norm", gradient_norm),
                ];
                self.board.scalars(step, &scalars).context("TensorBoard events")
            }
            TrainEvent::Epoch(m) => {
                writeln!(self.log, "{}", serde_json::to_string(&m)?).context(METRICS)?;
                let known = [
                    ("loss/training", Some(m.train_loss)),
                    ("accuracy/training", m.train_accuracy),
                    ("loss/validation", m.validation_loss),
                    ("accuracy/validation", m.validation_accuracy),
                ];
                let scalars: Vec<_> =
                    known.into_iter().filter_map(|(tag, value)| Some((tag, value?))).collect();
                self.epochs.push(m);
                self.board.scalars(steps_done, &scalars).context("TensorBoard events")
            }
            _ => Ok(()),
        }
    }

    /// Writes `curves.html`.
    pub(crate) fn curves(&self, title: &str) -> Result<()> {
        let page = learning_curves(title, &[(title.into(), self.epochs.clone())]);
        Ok(checkpoint::write_atomically(&self.folder.join("curves.html"), page.as_bytes())?)
    }
}
