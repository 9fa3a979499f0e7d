//! Experiment files: everything that a training depends on, as TOML.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use candle_core::Device;
use serde::{Deserialize, Serialize};
use steer3d_dataset::{Dataset, Split};
use steer3d_eval::{AnswerKind, AnswerSpec, Protocol};
use steer3d_nn::ModelConfig;
use steer3d_train::{StateFolder, TrainConfig};
use toml::{Table, Value};

use crate::error::{At, ExperimentError};
use crate::rivals::{Architecture, Budget, Prototypes, input_scale};
use crate::tables::{nearest, read_table, set, strict};

/// The name of the experiment file of a run folder.
pub const EXPERIMENT: &str = "experiment.toml";

/// The setting of a training that is not one of [`TrainConfig`].
const RECOMPUTE: &str = "recompute";

/// A training, as in the file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Experiment {
    /// What it is trained on.
    pub data: Data,
    /// A `preset`, or a network, maybe that of a `file` with changes; what the dataset tells may be left out.
    #[cfg_attr(feature = "schema", schemars(with = "ModelConfig"))]
    pub model: Table,
    /// How it is trained ([`TrainConfig`], maybe in part), and `recompute` as in
    /// [`with_recomputation`](steer3d_nn::Network::with_recomputation).
    #[serde(default)]
    #[cfg_attr(feature = "schema", schemars(with = "TrainConfig"))]
    pub training: Table,
    /// When the state of the training is saved.
    #[serde(default)]
    pub states: StateSettings,
    /// The evaluation that follows the training, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evaluation: Option<EvaluationSettings>,
}

/// The dataset of an experiment.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Data {
    /// Dataset (HDF5), from the current folder.
    pub dataset: PathBuf,
    /// The words after `steer3d` of the command that makes the dataset where it is missing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub make: Vec<String>,
}

/// When the state of a training is saved.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct StateSettings {
    /// Minutes from one save to the next.
    pub every_minutes: f64,
    /// Optimiser steps from one save to the next.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub every_steps: Option<usize>,
    /// How many of the last states are kept.
    pub keep: usize,
}

impl Default for StateSettings {
    fn default() -> Self {
        Self { every_minutes: 10.0, every_steps: None, keep: 2 }
    }
}

impl StateSettings {
    /// The states in a run folder, as the training loop takes them.
    ///
    /// # Errors
    /// [`ExperimentError::Invalid`] for a setting out of its range.
    pub fn in_run(&self, run: &Path) -> Result<StateFolder, ExperimentError> {
        if !(self.every_minutes > 0.0 && self.every_minutes < 1e9) {
            let problem = format!("expected a positive number, found {}", self.every_minutes);
            return Err(ExperimentError::invalid("states.every_minutes", problem));
        }
        if self.keep == 0 || self.every_steps == Some(0) {
            let problem = "keep and every_steps: expected at least 1, found 0";
            return Err(ExperimentError::invalid("states", problem));
        }
        Ok(StateFolder {
            folder: run.join("states"),
            every_steps: self.every_steps,
            every: Some(Duration::from_secs_f64(60.0 * self.every_minutes)),
            keep: self.keep,
        })
    }
}

/// The evaluation that follows a training.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct EvaluationSettings {
    /// Items to evaluate.
    pub split: Split,
    /// What is done to them.
    #[serde(default)]
    pub protocol: Protocol,
}

impl Experiment {
    /// The experiment of a table, after the changes KEY=VALUE of `changes`.
    ///
    /// # Errors
    /// [`ExperimentError::Invalid`] with the path of the first mistake and the nearest known key.
    pub fn parse(mut table: Table, changes: &[String]) -> Result<Self, ExperimentError> {
        for change in changes {
            set(&mut table, change)?;
        }
        strict(table, "")
    }

    /// The experiment of a file, or of a run folder, after changes as in [`parse`](Self::parse), and the folder
    /// where it usually runs: `runs/NAME` for a file NAME.toml.
    ///
    /// # Errors
    /// If the file cannot be read, and as [`parse`](Self::parse).
    pub fn open(source: &Path, changes: &[String]) -> Result<(Self, PathBuf), ExperimentError> {
        let (file, folder) = if source.join(EXPERIMENT).is_file() {
            (source.join(EXPERIMENT), source.to_owned())
        } else {
            (source.to_owned(), Path::new("runs").join(source.file_stem().unwrap_or_default()))
        };
        let experiment = Self::parse(read_table(&file)?, changes).at(file.display())?;
        Ok((experiment, folder))
    }

    /// The settings of the training; `seed`, if given, goes before the one of the file.
    ///
    /// # Errors
    /// [`ExperimentError::Invalid`] with the path of the first mistake.
    pub fn training(&self, seed: Option<u64>) -> Result<TrainConfig, ExperimentError> {
        let mut table = self.training.clone();
        table.remove(RECOMPUTE);
        let mut config: TrainConfig = strict(table, "training")?;
        config.seed = seed.unwrap_or(config.seed);
        let preset = self.model.get("preset").and_then(|preset| architecture(preset).ok());
        if let Some(preset) = preset.filter(|_| !self.training.contains_key("learning_rate")) {
            config.learning_rate = preset.training().learning_rate;
        }
        Ok(config)
    }

    /// Whether blocks are computed again in the backward pass.
    ///
    /// # Errors
    /// [`ExperimentError::Invalid`] if the setting is neither true nor false.
    pub fn recompute(&self) -> Result<bool, ExperimentError> {
        match self.training.get(RECOMPUTE) {
            None => Ok(false),
            Some(Value::Boolean(recompute)) => Ok(*recompute),
            Some(other) => {
                let problem = format!("expected true or false, found {other}");
                Err(ExperimentError::invalid("training.recompute", problem))
            }
        }
    }

    /// The network: a preset, sized for the dataset, or one that is described, with what the dataset
    /// tells filled in.
    ///
    /// # Errors
    /// [`ExperimentError::Invalid`] with the path of the first mistake; an error of a file or of the dataset.
    pub fn model(
        &self,
        dataset: &Dataset,
        device: &Device,
    ) -> Result<ModelConfig, ExperimentError> {
        let mut table = self.model.clone();
        if let Some(preset) = table.remove("preset") {
            if let Some(key) = table.keys().next() {
                let problem = "a preset has no other keys; leave one of the two out";
                return Err(ExperimentError::invalid(format!("model.{key}"), problem));
            }
            let prototypes = Prototypes::new(dataset, AnswerKind::Classes)?;
            return prototypes.rival(architecture(&preset)?, Budget::Parameters, device);
        }
        if let Some(file) = table.remove("file") {
            let Value::String(file) = file else {
                let problem = format!("expected the path of a network's TOML file, found {file}");
                return Err(ExperimentError::invalid("model.file", problem));
            };
            let mut whole = read_table(Path::new(&file)).at("model.file")?;
            whole.extend(table);
            table = whole;
        }
        complete(&mut table, dataset)?;
        model_config(table, "model")
    }

    /// The experiment with nothing left out.
    ///
    /// # Errors
    /// If the dataset has no path or a setting is out of its range.
    pub fn resolved(
        &self,
        model: &ModelConfig,
        config: &TrainConfig,
    ) -> Result<Self, ExperimentError> {
        let dataset = fs::canonicalize(&self.data.dataset).at(self.data.dataset.display())?;
        Ok(Self {
            data: Data { dataset, make: self.data.make.clone() },
            model: Table::try_from(model)?,
            training: training_table(config, self.recompute()?)?,
            ..self.clone()
        })
    }
}

/// All settings of a training, as an experiment file has them.
///
/// # Errors
/// Only if a setting is no TOML: an integer beyond 64 bits with sign.
pub fn training_table(config: &TrainConfig, recompute: bool) -> Result<Table, ExperimentError> {
    let mut table = Table::try_from(config)?;
    table.insert(RECOMPUTE.into(), recompute.into());
    Ok(table)
}

fn architecture(preset: &Value) -> Result<Architecture, ExperimentError> {
    let name = preset.as_str().unwrap_or_default();
    let names = Architecture::ALL.map(Architecture::name);
    Architecture::ALL.into_iter().find(|known| known.name() == name).ok_or_else(|| {
        let (known, hint) = (names.join(", "), nearest(name, names.into_iter()));
        let problem = format!("expected one of {known}, found {preset}{hint}");
        ExperimentError::invalid("model.preset", problem)
    })
}

/// Fills in what the dataset tells about the networks that it is known of.
fn complete(table: &mut Table, dataset: &Dataset) -> Result<(), ExperimentError> {
    let meta = dataset.meta();
    let kind = table.get("kind").and_then(Value::as_str).unwrap_or_default().to_owned();
    if !["steerable", "plain"].contains(&kind.as_str()) {
        return Ok(());
    }
    let head = table.get("head");
    let gives_field = head.is_some_and(Value::is_table);
    let head = head.and_then(Value::as_str).unwrap_or_default();
    let classes = match (head, dataset.tasks()) {
        ("voxels", Some(tasks)) => tasks.voxel_classes.len(),
        ("scalars", Some(tasks)) => tasks.target_len(),
        ("voxels" | "scalars", None) => 1,
        _ if gives_field || table.contains_key("classes") => 1,
        _ => AnswerSpec::new(dataset, AnswerKind::Classes)?.names.len(),
    };
    let mut default = |key: &str, value: Value| {
        table.entry(key).or_insert(value);
    };
    if !gives_field {
        default("classes", Value::try_from(classes)?);
    }
    default("input_scale", Value::try_from(input_scale(dataset)?)?);
    if kind == "steerable" {
        default("input", Value::try_from(&meta.irreps)?);
        default("voxel_size", Value::try_from(meta.voxel_size)?);
    } else {
        default("channels", Value::try_from(meta.channels)?);
    }
    Ok(())
}

/// The network that a table describes; a mistake names its path below `path`.
///
/// # Errors
/// [`ExperimentError::Invalid`] with that path and the nearest known key.
pub fn model_config(mut table: Table, path: &str) -> Result<ModelConfig, ExperimentError> {
    // Serde gives no path below the choice by `kind`.
    match table.get("kind").and_then(Value::as_str) {
        Some("steerable") => {
            table.remove("kind");
            strict(table, path).map(ModelConfig::Steerable)
        }
        Some("plain") => {
            table.remove("kind");
            strict(table, path).map(ModelConfig::Plain)
        }
        _ => strict(table, path),
    }
}

#[cfg(test)]
mod tests {
    use steer3d_dataset::{Distortion, ImportOptions, import_tetris};
    use steer3d_nn::Network;
    use steer3d_volume::Voxeliser;

    use super::*;

    fn table() -> Table {
        toml::from_str(
            "[data]\ndataset = 'a.h5'\n[model]\nkind = 'steerable'\n[[model.blocks]]\nfields = '2x0'\nsize = 3\n\
             [training]\nepochs = 3\n",
        )
        .unwrap()
    }

    fn set(sets: &[&str]) -> Result<Experiment, ExperimentError> {
        Experiment::parse(table(), &sets.iter().map(ToString::to_string).collect::<Vec<_>>())
    }

    #[test]
    fn changes_reach_tables_lists_and_new_keys() {
        let experiment = set(&[
            "model.blocks.0.fields=4x0+1x1",
            "model.blocks.0.size=5",
            "training.schedule.kind=constant",
            "training.augment={ about = \"z\", fraction = 0.5 }",
            "training.epochs=",
        ])
        .unwrap();
        let block = &experiment.model["blocks"][0];
        assert_eq!(block["fields"].as_str(), Some("4x0+1x1"));
        assert_eq!(block["size"].as_integer(), Some(5));
        let config = experiment.training(Some(7)).unwrap();
        assert_eq!((config.epochs, config.seed), (30, 7));
        assert!(config.augment.is_some());
    }

    #[test]
    fn mistakes_name_their_place_and_the_nearest_key() {
        let message = |sets: &[&str]| set(sets).unwrap_err().to_string();
        let found = format!("{:#}", set(&["model.blocks.3.size=5"]).unwrap_err());
        assert!(found.contains("from 0 to below 1, found `3`"), "{found}");
        let found = message(&["trainign.epochs=5"]);
        assert!(
            found.contains("unknown field `trainign`") && found.contains("`training`?"),
            "{found}"
        );
        let found = message(&["evaluation.split=tests"]);
        assert!(
            found.starts_with("evaluation.split: ") && found.contains("mean `test`?"),
            "{found}"
        );
        let training = |s: &str| set(&[s]).unwrap().training(None).unwrap_err().to_string();
        let found = training("training.clip_nrom=1");
        assert!(
            found.starts_with("training.clip_nrom: ") && found.contains("mean `clip_norm`?"),
            "{found}"
        );
        let found = training("training.augment.fractoin=1");
        assert!(found.starts_with("training.augment: "), "{found}");
        let found = training("training.distort.nois={}");
        assert!(
            found.starts_with("training.distort") && found.contains("mean `noise`?"),
            "{found}"
        );
        let found = training("training.distort.noise={ probabilty = 1 }");
        assert!(found.contains("mean `probability`?"), "{found}");
        let found = training("training.loss.class_weights=balansed");
        assert!(found.contains("expected \"balanced\" or a list"), "{found}");
        let found = training("training.optimiser={kind = \"adamw\", beta3 = 1}");
        assert!(
            found.starts_with("training.optimiser") && found.contains("mean `beta1`?"),
            "{found}"
        );
    }

    #[test]
    fn every_ready_experiment_describes_a_network_and_a_training() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("tetris.h5");
        import_tetris(&path, &Voxeliser::paper(9, 0.8), 1, &ImportOptions::default()).unwrap();
        let dataset = Dataset::open(path).unwrap();
        let root = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."));
        let mut found = 0;
        for entry in fs::read_dir(root.join("crates/experiments/experiments")).unwrap() {
            let file = entry.unwrap().path();
            let mut experiment = Experiment::parse(read_table(&file).unwrap(), &[]).unwrap();
            if let Some(Value::String(file)) = experiment.model.get_mut("file") {
                *file = root.join(&file).display().to_string();
            }
            experiment.training(None).unwrap().check().unwrap();
            experiment.states.in_run(Path::new("run")).unwrap();
            let model = experiment.model(&dataset, &Device::Cpu).unwrap();
            Network::new(&model, 0, candle_core::DType::F32, &Device::Cpu).unwrap();
            found += 1;
        }
        assert!(found >= 5);
    }

    /// The lines of the template that begin with #: are settings, too.
    #[test]
    fn the_alternatives_of_the_template_are_settings() {
        let text = crate::ready::TEMPLATE;
        let (mut section, mut all, mut choices) = (String::new(), String::new(), vec![]);
        for line in text.lines() {
            let offered = line.strip_prefix("#: ");
            let line = offered.unwrap_or(line);
            if let Some(name) = line.strip_prefix('[') {
                section = name.trim_matches(['[', ']']).into();
            }
            let alternatives = ["model", "model.kernel", "training.optimiser", "training.schedule"];
            match offered {
                Some(line) if !alternatives.contains(&section.as_str()) => all += line,
                Some(line) if line.starts_with("kind") => {
                    choices.push((section.clone(), line.to_owned()));
                }
                Some(line) if section.starts_with("training") => {
                    let (_, choice) = choices.last_mut().unwrap();
                    *choice = [choice, line].join(", ");
                }
                Some(_) => {}
                None => all += line,
            }
            all.push('\n');
        }
        let table: Table = toml::from_str(&all).unwrap();
        let config = Experiment::parse(table.clone(), &[]).unwrap().training(None).unwrap();
        assert!(
            config.clip_norm.is_some() && config.augment.is_some() && config.patience.is_some()
        );
        // What the template offers is what is used where it is left out.
        let all = Distortion::ALL.map(|kind| config.distort.get(kind) == Some(kind.standard()));
        assert_eq!(all, [true; 11]);
        assert_eq!(choices.len(), 4);
        for (section, choice) in choices {
            let set = format!("{section}={{{choice}}}");
            let experiment = Experiment::parse(table.clone(), &[set]).unwrap();
            experiment.training(None).unwrap().check().unwrap();
        }
    }
}
