//! Listing and comparing run folders.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;
use steer3d_eval::Spread;
use steer3d_files::AtPath;
use steer3d_report::{Text, learning_curves};
use toml::{Table, Value};

use crate::error::ExperimentError;
use crate::experiment::EXPERIMENT;
use crate::folder::{RECORD, RunRecord, TestScore, read_epochs, write_text};
use crate::tables::flatten;

/// How deep below the given folder runs are looked for.
const DEPTH: usize = 4;

/// The setting in which runs of a group differ.
const SEED: &str = "training.seed";

/// The conditions whose scores are listed.
const UNROTATED: &str = "unrotated";
const RANDOM: &str = "random rotations";

/// The runs of a folder.
#[derive(Debug, Serialize)]
pub struct RunList {
    schema_version: u32,
    /// The runs, best first: by validation accuracy, then by validation loss.
    pub runs: Vec<RunRow>,
    /// Finished runs that differ in their seed only.
    #[serde(rename = "over_seeds")]
    pub groups: Vec<RunGroup>,
}

/// A run.
#[derive(Debug, Default, Serialize)]
pub struct RunRow {
    /// Its folder below the listed one.
    pub name: String,
    /// Kind of network.
    pub model: String,
    /// Name of the dataset.
    pub dataset: String,
    /// Seed of the training.
    pub seed: u64,
    /// Number of trained parameters.
    pub parameters: usize,
    /// Validation accuracy of the best epoch.
    pub best_validation_accuracy: Option<f64>,
    /// Its validation loss.
    pub best_validation_loss: Option<f64>,
    /// Its number, counted from 1.
    pub best_epoch: Option<usize>,
    /// Epochs that are done.
    pub epochs: usize,
    /// Epochs that are planned.
    pub planned_epochs: usize,
    /// Seconds that these epochs took.
    pub seconds: f64,
    /// Whether the training is over.
    pub finished: bool,
    /// Scores of the evaluation.
    pub test: Vec<TestScore>,
    /// Settings in which the runs differ.
    pub differing: BTreeMap<String, String>,
    #[serde(skip)]
    settings: BTreeMap<String, String>,
}

/// Finished runs that differ in their seed only.
#[derive(Debug, Serialize)]
pub struct RunGroup {
    /// The folder that has their folders.
    pub name: String,
    /// Kind of network.
    pub model: String,
    /// Number of trained parameters.
    pub parameters: usize,
    /// Number of runs.
    pub runs: usize,
    /// Validation accuracy.
    pub validation: Option<Spread>,
    /// Accuracy on unrotated items, or the error of values.
    pub unrotated: Option<Spread>,
    /// The same under random rotations.
    pub random: Option<Spread>,
    #[serde(skip)]
    has_errors: bool,
}

/// Lists the runs of a folder, and writes their learning curves as one page where asked for.
///
/// # Errors
/// If the folder cannot be read or has no run, or the page cannot be written.
pub fn list_runs(folder: &Path, curves: Option<&Path>) -> Result<RunList, ExperimentError> {
    let mut folders = vec![];
    find(folder, DEPTH, &mut folders).at_path(folder)?;
    folders.sort();
    let mut runs: Vec<RunRow> = folders.iter().filter_map(|f| row(folder, f)).collect();
    if runs.is_empty() {
        let problem = format!(
            "no run found: no {RECORD} in it or below; name a folder that `steer3d train` has written to"
        );
        return Err(ExperimentError::invalid(folder.display(), problem));
    }
    mark_differences(&mut runs);
    if let Some(path) = curves {
        let named = runs.iter().zip(&folders).map(|(row, f)| (row.name.clone(), read_epochs(f)));
        write_text(path, &learning_curves("Trainings", &named.collect::<Vec<_>>()))?;
    }
    let groups = groups(folder, &runs);
    runs.sort_by(|a, b| {
        let accuracy = |row: &RunRow| row.best_validation_accuracy.unwrap_or(-1.0);
        let loss = |row: &RunRow| row.best_validation_loss.unwrap_or(f64::INFINITY);
        accuracy(b).total_cmp(&accuracy(a)).then(loss(a).total_cmp(&loss(b)))
    });
    Ok(RunList { schema_version: 1, runs, groups })
}

/// Run folders in `folder` and below.
fn find(folder: &Path, depth: usize, found: &mut Vec<PathBuf>) -> std::io::Result<()> {
    if RunRecord::read(folder).is_some() {
        found.push(folder.into());
    }
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if depth > 0 && entry.file_type()?.is_dir() {
            find(&entry.path(), depth - 1, found)?;
        }
    }
    Ok(())
}

fn row(root: &Path, folder: &Path) -> Option<RunRow> {
    let record = RunRecord::read(folder)?;
    let epochs = read_epochs(folder);
    let best = epochs.iter().rfind(|e| e.best);
    let name = folder.strip_prefix(root).unwrap_or(folder).display().to_string();
    Some(RunRow {
        name: if name.is_empty() { root.display().to_string() } else { name },
        model: record.model,
        dataset: record.dataset,
        seed: record.seed,
        parameters: record.parameters,
        best_validation_accuracy: best.and_then(|e| e.validation_accuracy),
        best_validation_loss: best.and_then(|e| e.validation_loss),
        best_epoch: best.map(|e| e.epoch),
        epochs: epochs.len(),
        planned_epochs: record.epochs,
        seconds: epochs.last().map_or(0.0, |e| e.seconds),
        finished: record.finished,
        test: record.test,
        differing: BTreeMap::new(),
        settings: settings(&fs::read_to_string(folder.join(EXPERIMENT)).unwrap_or_default()),
    })
}

/// All settings of an experiment file by their path.
fn settings(text: &str) -> BTreeMap<String, String> {
    let mut flat = BTreeMap::new();
    if let Ok(table) = toml::from_str::<Table>(text) {
        flatten("", &Value::Table(table), &mut flat);
    }
    flat
}

/// Tells each run the settings that not all runs have alike.
fn mark_differences(runs: &mut [RunRow]) {
    let all: Vec<_> = runs.iter().map(|row| row.settings.clone()).collect();
    for row in runs {
        let differs =
            |key: &String| all.iter().any(|other| other.get(key) != row.settings.get(key));
        let differing = row.settings.iter().filter(|(key, _)| differs(key));
        row.differing = differing.map(|(k, v)| (k.clone(), v.clone())).collect();
    }
}

impl RunRow {
    /// Accuracy under a condition, or the error of values, of the first source.
    fn score(&self, condition: &str) -> Option<f64> {
        let score = self.test.iter().find(|score| score.condition == condition)?;
        score.accuracy.or(score.error)
    }

    /// Whether the scores are errors.
    fn has_errors(&self) -> bool {
        self.test.iter().any(|score| score.error.is_some())
    }

    fn cells(&self) -> Vec<String> {
        /// Settings that fit into a cell.
        const SHOWN: usize = 6;
        let epoch = self.best_epoch.map_or_else(String::new, |e| format!(" (epoch {e})"));
        let percent = |a: Option<f64>| a.map_or("–".into(), |a| format!("{:.1} %", 100.0 * a));
        let score = |value: Option<f64>| match value {
            Some(error) if self.has_errors() => format!("{error:.3}"),
            accuracy => percent(accuracy),
        };
        let mut differing: Vec<String> =
            self.differing.iter().map(|(k, v)| format!("{k} = {v}")).collect();
        if differing.len() > SHOWN {
            differing.truncate(SHOWN);
            differing.push("…".into());
        }
        vec![
            self.name.clone(),
            self.model.clone(),
            self.parameters.to_string(),
            format!("{}{epoch}", percent(self.best_validation_accuracy)),
            score(self.score(UNROTATED)),
            score(self.score(RANDOM)),
            format!("{}/{}", self.epochs, self.planned_epochs),
            time(self.seconds),
            if self.finished { "finished" } else { "unfinished" }.into(),
            differing.join("\n"),
        ]
    }
}

fn groups(root: &Path, rows: &[RunRow]) -> Vec<RunGroup> {
    let mut by_settings: BTreeMap<Vec<(&String, &String)>, Vec<&RunRow>> = BTreeMap::new();
    for row in rows.iter().filter(|row| row.finished && !row.settings.is_empty()) {
        let key = row.settings.iter().filter(|(key, _)| *key != SEED).collect();
        by_settings.entry(key).or_default().push(row);
    }
    let group = |rows: Vec<&RunRow>| {
        let spread = |value: &dyn Fn(&RunRow) -> Option<f64>| {
            let values: Option<Vec<f64>> = rows.iter().map(|row| value(row)).collect();
            values.map(|values| Spread::of(&values))
        };
        let first = rows[0];
        let parent = Path::new(&first.name).parent().unwrap_or(Path::new(""));
        RunGroup {
            name: root.join(parent).components().collect::<PathBuf>().display().to_string(),
            model: first.model.clone(),
            parameters: first.parameters,
            runs: rows.len(),
            validation: spread(&|row| row.best_validation_accuracy),
            unrotated: spread(&|row| row.score(UNROTATED)),
            random: spread(&|row| row.score(RANDOM)),
            has_errors: first.has_errors(),
        }
    };
    by_settings.into_values().filter(|rows| rows.len() > 1).map(group).collect()
}

impl RunList {
    /// The tables for a terminal: the runs, and those that differ in their seed only.
    pub fn table(&self) -> Text {
        let header = [
            "run",
            "model",
            "parameters",
            "best validation",
            "test, unrotated",
            "random",
            "epochs",
            "time",
            "state",
            "differs in",
        ];
        let rows = self.runs.iter().map(RunRow::cells);
        let runs = Text::default().table(&header, rows.collect(), header.len());
        if self.groups.is_empty() {
            return runs;
        }
        let header = [
            "over seeds",
            "model",
            "parameters",
            "seeds",
            "validation %",
            "test, unrotated %",
            "random rotations %",
        ];
        runs.table(&header, self.groups.iter().map(RunGroup::cells).collect(), header.len())
    }
}

impl RunGroup {
    fn cells(&self) -> Vec<String> {
        let percent = |s: Option<Spread>| {
            s.map_or("–".into(), |s| {
                format!("{:.1} ± {:.1}", 100.0 * s.mean, 100.0 * s.deviation)
            })
        };
        let score = |s: Option<Spread>| match s {
            Some(s) if self.has_errors => format!("{:.3} ± {:.3}", s.mean, s.deviation),
            s => percent(s),
        };
        vec![
            self.name.clone(),
            self.model.clone(),
            self.parameters.to_string(),
            self.runs.to_string(),
            percent(self.validation),
            score(self.unrotated),
            score(self.random),
        ]
    }
}

fn time(seconds: f64) -> String {
    let whole = seconds.round() as u64;
    match whole {
        0..60 => format!("{seconds:.1} s"),
        60..3600 => format!("{} min {:02} s", whole / 60, whole % 60),
        _ => format!("{} h {:02} min", whole / 3600, whole / 60 % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(name: &str, text: &str, accuracy: f64) -> RunRow {
        RunRow {
            name: name.into(),
            best_validation_accuracy: Some(accuracy),
            finished: true,
            settings: settings(text),
            ..RunRow::default()
        }
    }

    #[test]
    fn only_what_differs_is_listed() {
        let mut runs = [
            row("a", "[model]\nblocks = [{size = 3}, {size = 5}]\nother = [1, 2]", 0.5),
            row("b", "[model]\nblocks = [{size = 3}, {size = 7}]\nother = [1, 2]\nnew = true", 0.5),
        ];
        mark_differences(&mut runs);
        assert_eq!(runs[0].differing, BTreeMap::from([("model.blocks.1.size".into(), "5".into())]));
        assert_eq!(runs[1].differing.len(), 2);
        assert_eq!(runs[1].differing["model.new"], "true");
    }

    #[test]
    fn runs_of_several_seeds_are_one_line() {
        let settings = |seed, size| format!("[training]\nseed = {seed}\n[model]\nsize = {size}");
        let runs = [
            row("x/seed-0", &settings(0, 3), 0.5),
            row("x/seed-1", &settings(1, 3), 0.7),
            row("y", &settings(0, 5), 0.9),
        ];
        let found = groups(Path::new("runs"), &runs);
        assert_eq!((found.len(), found[0].runs, found[0].name.as_str()), (1, 2, "runs/x"));
        let validation = found[0].validation.unwrap();
        assert!((validation.mean - 0.6).abs() < 1e-12);
        assert!((validation.deviation - 0.02f64.sqrt()).abs() < 1e-12);
    }

    #[test]
    fn times_are_readable() {
        assert_eq!((time(3.26), time(125.0)), ("3.3 s".into(), "2 min 05 s".into()));
        assert_eq!(time(7384.0), "2 h 03 min");
    }
}
