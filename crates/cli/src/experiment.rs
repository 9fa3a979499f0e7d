//! Experiment files: everything that a training depends on, as TOML.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use candle_core::Device;
use clap::ValueEnum;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use steer3d::dataset::{Dataset, Split};
use steer3d::eval::Protocol;
use steer3d::nn::ModelConfig;
use steer3d::train::{States, TrainConfig};
use toml::{Table, Value};

use crate::output::Output;
use crate::train::{
    Architecture, Budget, GROUP_LEARNING_RATE, default_networks, input_scale, rival,
};

/// A training, as in the file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Experiment {
    pub(crate) data: Data,
    /// A `preset`, or a network, maybe that of a `file` with changes; what the dataset tells may be left out.
    pub(crate) model: Table,
    #[serde(default)]
    pub(crate) training: Settings,
    #[serde(default)]
    pub(crate) states: Saving,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) evaluation: Option<Evaluation>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Data {
    /// Dataset (HDF5), from the current folder.
    pub(crate) dataset: PathBuf,
    /// The words after `steer3d` of the command that makes the dataset where it is missing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) make: Vec<String>,
}

/// [`TrainConfig`] and how the steps are computed.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(from = "Table", into = "Table")]
pub(crate) struct Settings {
    pub(crate) table: Table,
    pub(crate) recompute: Option<Value>,
}

impl From<Table> for Settings {
    fn from(mut table: Table) -> Self {
        let recompute = table.remove("recompute");
        Self { table, recompute }
    }
}

impl From<Settings> for Table {
    fn from(training: Settings) -> Self {
        let mut table = training.table;
        table.extend(training.recompute.map(|value| ("recompute".into(), value)));
        table
    }
}

/// When the state of the training is saved.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Saving {
    pub(crate) every_minutes: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) every_steps: Option<usize>,
    pub(crate) keep: usize,
}

impl Default for Saving {
    fn default() -> Self {
        Self { every_minutes: 10.0, every_steps: None, keep: 2 }
    }
}

impl Saving {
    /// As the training loop takes it.
    pub(crate) fn states(&self, out: &Path) -> Result<States> {
        if !(self.every_minutes > 0.0 && self.every_minutes < 1e9) {
            bail!("states.every_minutes: expected a positive number, found {}", self.every_minutes);
        }
        if self.keep == 0 || self.every_steps == Some(0) {
            bail!("states: keep and every_steps: expected at least 1, found 0");
        }
        Ok(States {
            folder: states_folder(out),
            every_steps: self.every_steps,
            every: Some(Duration::from_secs_f64(60.0 * self.every_minutes)),
            keep: self.keep,
        })
    }
}

/// Where a run folder has the states of its training.
pub(crate) fn states_folder(out: &Path) -> PathBuf {
    out.join("states")
}

/// The evaluation that follows the training.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Evaluation {
    pub(crate) split: Split,
    #[serde(default)]
    pub(crate) protocol: Protocol,
}

/// Reads an experiment file.
pub(crate) fn read(path: &Path) -> Result<Table> {
    let text = fs::read_to_string(path).with_context(|| format!("{}", path.display()))?;
    toml::from_str(&text).with_context(|| format!("{}", path.display()))
}

impl Experiment {
    /// The experiment of a table, after the changes KEY=VALUE of `sets`.
    pub(crate) fn parse(mut table: Table, sets: &[String]) -> Result<Self> {
        for set in sets {
            apply(&mut table, set).with_context(|| format!("--set {set}"))?;
        }
        strict(table, "")
    }

    /// The dataset, made where it is missing and the experiment says how.
    pub(crate) fn dataset(&self, output: &Output) -> Result<Dataset> {
        let Data { dataset, make } = &self.data;
        if !dataset.exists() && !make.is_empty() {
            output.say(&format!("steer3d {}", make.join(" ")));
            if let Some(folder) = dataset.parent().filter(|f| !f.as_os_str().is_empty()) {
                fs::create_dir_all(folder).with_context(|| format!("{}", folder.display()))?;
            }
            let program = std::env::current_exe()?;
            let status = Command::new(program).args(make).stdout(Stdio::null()).status()?;
            if !status.success() {
                bail!("data.make: the command that makes {} failed", dataset.display());
            }
        }
        Ok(Dataset::open(dataset)?)
    }

    /// The settings of the training; `seed`, if given, goes before the one of the file.
    pub(crate) fn training(&self, seed: Option<u64>) -> Result<TrainConfig> {
        let mut config: TrainConfig = strict(self.training.table.clone(), "training")?;
        config.seed = seed.unwrap_or(config.seed);
        let group = self.model.get("preset").and_then(Value::as_str) == Some("group");
        if group && !self.training.table.contains_key("learning_rate") {
            config.learning_rate = GROUP_LEARNING_RATE;
        }
        Ok(config)
    }

    pub(crate) fn recompute(&self) -> Result<bool> {
        match &self.training.recompute {
            None => Ok(false),
            Some(Value::Boolean(recompute)) => Ok(*recompute),
            Some(other) => bail!("training.recompute: expected true or false, found {other}"),
        }
    }

    /// The network: a preset, sized for the dataset, or one that is described, with what the dataset
    /// tells filled in.
    pub(crate) fn model(&self, dataset: &Dataset, device: &Device) -> Result<ModelConfig> {
        let mut table = self.model.clone();
        if let Some(preset) = table.remove("preset") {
            if let Some(key) = table.keys().next() {
                bail!("model.{key}: a preset has no other keys; leave one of the two out");
            }
            let networks = default_networks(dataset)?;
            return rival(architecture(&preset)?, networks, Budget::Parameters, device);
        }
        if let Some(file) = table.remove("file") {
            let Value::String(file) = file else {
                bail!("model.file: expected the path of a network's TOML file, found {file}");
            };
            let mut whole = read(Path::new(&file)).context("model.file")?;
            whole.extend(table);
            table = whole;
        }
        complete(&mut table, dataset)?;
        network(table, "model")
    }

    /// The experiment with nothing left out.
    pub(crate) fn resolved(&self, model: &ModelConfig, config: &TrainConfig) -> Result<Self> {
        let mut training = Settings::from(Table::try_from(config)?);
        training.recompute = Some(self.recompute()?.into());
        let dataset = fs::canonicalize(&self.data.dataset)
            .with_context(|| format!("{}", self.data.dataset.display()))?;
        Ok(Self {
            data: Data { dataset, make: self.data.make.clone() },
            model: Table::try_from(model)?,
            training,
            ..self.clone()
        })
    }
}

fn architecture(preset: &Value) -> Result<Architecture> {
    let all = || Architecture::value_variants().iter().filter_map(ValueEnum::to_possible_value);
    let names: Vec<String> = all().map(|v| v.get_name().to_owned()).collect();
    let name = preset.as_str().unwrap_or_default();
    Architecture::from_str(name, false).map_err(|_| {
        let hint = nearest(name, names.iter().map(String::as_str));
        anyhow::anyhow!("model.preset: expected one of {}, found {preset}{hint}", names.join(", "))
    })
}

/// Fills in what the dataset tells about the networks that it is known of.
fn complete(table: &mut Table, dataset: &Dataset) -> Result<()> {
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
        _ => meta.class_names.len(),
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

/// Sets the value at a path such as `model.blocks.0.size=5`, or removes it where nothing follows the
/// equals sign. A value that is no TOML is a text.
fn apply(table: &mut Table, set: &str) -> Result<()> {
    let Some((path, text)) = set.split_once('=') else {
        bail!("expected KEY=VALUE, such as training.epochs=5");
    };
    let value = match toml::from_str::<Table>(&format!("value = {text}")) {
        Ok(mut one) if one.len() == 1 => one.remove("value"),
        _ if text.is_empty() => None,
        _ => Some(Value::String(text.into())),
    };
    let keys: Vec<&str> = path.trim().split('.').collect();
    let mut at = Value::Table(std::mem::take(table));
    let done = put(&mut at, &keys, value);
    if let Value::Table(whole) = at {
        *table = whole;
    }
    done
}

fn put(at: &mut Value, keys: &[&str], value: Option<Value>) -> Result<()> {
    let [key, rest @ ..] = keys else { bail!("expected a key before the equals sign") };
    match at {
        Value::Table(table) => match (rest, value) {
            ([], Some(value)) => {
                table.insert((*key).into(), value);
            }
            ([], None) => {
                table.remove(*key);
            }
            (_, value) => {
                let inner = table.entry(*key).or_insert_with(|| Value::Table(Table::new()));
                put(inner, rest, value)?;
            }
        },
        Value::Array(array) => {
            let length = array.len();
            let item = key.parse().ok().and_then(|i: usize| array.get_mut(i));
            let Some(item) = item else {
                bail!("expected a number from 0 to below {length}, found `{key}`");
            };
            match (rest, value) {
                ([], Some(value)) => *item = value,
                ([], None) => bail!("an item of a list cannot be removed"),
                (_, value) => put(item, rest, value)?,
            }
        }
        other => bail!("`{key}`: {other} has no parts"),
    }
    Ok(())
}

/// What a table describes; a mistake names its path below `path` and the nearest known key.
pub(crate) fn strict<T: DeserializeOwned>(table: Table, path: &str) -> Result<T> {
    serde_path_to_error::deserialize(Value::Table(table)).map_err(|error| {
        let below = error.path().to_string();
        let place = match (path, below.as_str()) {
            ("", ".") => String::new(),
            (path, "." | "") => format!("{path}: "),
            ("", below) => format!("{below}: "),
            (path, below) => format!("{path}.{below}: "),
        };
        let message = error.inner().message().to_owned();
        let hint = suggestion(&message);
        anyhow::anyhow!("{place}{message}{hint}")
    })
}

/// The network that a table describes; a mistake names its path below `path`.
pub(crate) fn network(mut table: Table, path: &str) -> Result<ModelConfig> {
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

/// The nearest of the known names in serde's "unknown field `a`, expected one of `b`, `c`".
fn suggestion(message: &str) -> String {
    if !message.starts_with("unknown ") {
        return String::new();
    }
    let mut quoted = message.split('`').skip(1).step_by(2);
    quoted.next().map_or_else(String::new, |found| nearest(found, quoted))
}

/// "; did you mean `NAME`?" for a name that is nearly `found`.
fn nearest<'a>(found: &str, names: impl Iterator<Item = &'a str>) -> String {
    let distance = |name: &&str| strsim::damerau_levenshtein(found, name);
    match names.min_by_key(distance) {
        Some(name) if distance(&name) <= 2.max(found.chars().count() / 3) => {
            format!("; did you mean `{name}`?")
        }
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        toml::from_str(
            "[data]\ndataset = 'a.h5'\n[model]\nkind = 'steerable'\n[[model.blocks]]\nfields = '2x0'\nsize = 3\n\
             [training]\nepochs = 3\n",
        )
        .unwrap()
    }

    fn set(sets: &[&str]) -> Result<Experiment> {
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
        let found = training("training.loss.class_weights=balansed");
        assert!(found.contains("expected \"balanced\" or a list"), "{found}");
        let found = training("training.optimiser={kind = \"adamw\", beta3 = 1}");
        assert!(
            found.starts_with("training.optimiser") && found.contains("mean `beta1`?"),
            "{found}"
        );
    }

    #[test]
    fn a_far_name_gets_no_suggestion() {
        assert_eq!(suggestion("unknown field `colour`, expected `size` or `stride`"), "");
        assert_eq!(
            suggestion("unknown field `strid`, expected `size` or `stride`"),
            "; did you mean `stride`?"
        );
    }

    #[test]
    fn every_ready_experiment_describes_a_network_and_a_training() {
        use steer3d::dataset::{ImportOptions, import_tetris};
        use steer3d::nn::Network;
        use steer3d::prelude::DType;
        use steer3d::volume::Voxeliser;
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("tetris.h5");
        import_tetris(&path, &Voxeliser::paper(9, 0.8), 1, &ImportOptions::default()).unwrap();
        let dataset = Dataset::open(path).unwrap();
        let root = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."));
        let mut found = 0;
        for entry in fs::read_dir(root.join("examples/experiments")).unwrap() {
            let file = entry.unwrap().path();
            let mut experiment = Experiment::parse(read(&file).unwrap(), &[]).unwrap();
            if let Some(Value::String(file)) = experiment.model.get_mut("file") {
                *file = root.join(&file).display().to_string();
            }
            experiment.training(None).unwrap().check().unwrap();
            experiment.states.states(Path::new("run")).unwrap();
            let model = experiment.model(&dataset, &Device::Cpu).unwrap();
            Network::new(&model, 0, DType::F32, &Device::Cpu).unwrap();
            found += 1;
        }
        assert!(found >= 5);
    }

    /// The lines of the template that begin with #: are settings, too.
    #[test]
    fn the_alternatives_of_the_template_are_settings() {
        let text = include_str!("../../../examples/experiments/template.toml");
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
        assert_eq!(choices.len(), 4);
        for (section, choice) in choices {
            let set = format!("{section}={{{choice}}}");
            let experiment = Experiment::parse(table.clone(), &[set]).unwrap();
            experiment.training(None).unwrap().check().unwrap();
        }
    }
}
