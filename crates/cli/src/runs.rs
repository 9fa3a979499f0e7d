//! Listing and comparing run folders.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::Args;
use serde::Serialize;
use steer3d::eval::Spread;
use steer3d::nn::checkpoint;
use steer3d::report::learning_curves;
use toml::Value;

use crate::output::Output;
use crate::record::{EXPERIMENT, RECORD, RunRecord, TestScore, epochs};

pub(crate) const EXAMPLES: &str = "Examples:
  steer3d runs runs
  steer3d runs runs --curves curves.html

A run is a folder with run.json, as `steer3d train`, `compare` and `demo` write it. Best first: by
validation accuracy, then by validation loss. Settings in which the runs differ are listed; runs that
differ in their seed only are one line of a second table.";

/// How deep below the given folder runs are looked for.
const DEPTH: usize = 4;

#[derive(Args)]
pub(crate) struct RunsArgs {
    /// Folder with run folders
    #[arg(default_value = "runs")]
    folder: PathBuf,
    /// Write the curves of all runs as one page
    #[arg(long)]
    curves: Option<PathBuf>,
}

#[derive(Serialize)]
struct Row {
    name: String,
    model: String,
    dataset: String,
    seed: u64,
    parameters: usize,
    best_validation_accuracy: Option<f64>,
    best_validation_loss: Option<f64>,
    best_epoch: Option<usize>,
    epochs: usize,
    planned_epochs: usize,
    seconds: f64,
    finished: bool,
    /// Scores of the evaluation.
    test: Vec<TestScore>,
    /// Settings in which the runs differ.
    differing: BTreeMap<String, String>,
    #[serde(skip)]
    settings: BTreeMap<String, String>,
}

/// Finished runs that differ in their seed only.
#[derive(Serialize)]
struct Group {
    name: String,
    model: String,
    parameters: usize,
    runs: usize,
    validation: Option<Spread>,
    unrotated: Option<Spread>,
    random: Option<Spread>,
}

pub(crate) fn run(args: &RunsArgs, output: &Output) -> Result<ExitCode> {
    list(&args.folder, args.curves.as_deref(), output)?;
    Ok(ExitCode::SUCCESS)
}

/// Prints the runs of a folder, and writes their curves where asked for.
pub(crate) fn list(folder: &Path, curves: Option<&Path>, output: &Output) -> Result<()> {
    let mut folders = vec![];
    find(folder, DEPTH, &mut folders).with_context(|| format!("{}", folder.display()))?;
    folders.sort();
    let mut rows: Vec<Row> = folders.iter().filter_map(|f| row(folder, f)).collect();
    if rows.is_empty() {
        bail!("{}: no run found: no {RECORD} in it or below", folder.display());
    }
    mark_differences(&mut rows);
    if let Some(path) = curves {
        let named = rows.iter().zip(&folders).map(|(row, f)| (row.name.clone(), epochs(f)));
        let page = learning_curves("Trainings", &named.collect::<Vec<_>>());
        checkpoint::write_atomically(path, page.as_bytes())?;
    }
    let groups = groups(folder, &rows);
    rows.sort_by(|a, b| {
        let accuracy = |row: &Row| row.best_validation_accuracy.unwrap_or(-1.0);
        let loss = |row: &Row| row.best_validation_loss.unwrap_or(f64::INFINITY);
        accuracy(b).total_cmp(&accuracy(a)).then(loss(a).total_cmp(&loss(b)))
    });
    let mut text = table(&rows);
    if !groups.is_empty() {
        text = format!("{text}\n{}", groups_table(&groups));
    }
    let json = serde_json::json!({ "schema_version": 1, "runs": rows, "over_seeds": groups });
    output.result(&text, &json)
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

fn row(root: &Path, folder: &Path) -> Option<Row> {
    let record = RunRecord::read(folder)?;
    let epochs = epochs(folder);
    let best = epochs.iter().rfind(|e| e.best);
    let name = folder.strip_prefix(root).unwrap_or(folder).display().to_string();
    Some(Row {
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
        settings: settings(folder),
    })
}

/// All settings of a run by their path.
fn settings(folder: &Path) -> BTreeMap<String, String> {
    let mut flat = BTreeMap::new();
    let text = fs::read_to_string(folder.join(EXPERIMENT)).unwrap_or_default();
    if let Ok(table) = toml::from_str(&text) {
        flatten("", &Value::Table(table), &mut flat);
    }
    flat
}

fn flatten(path: &str, value: &Value, flat: &mut BTreeMap<String, String>) {
    let below = |key: &str| if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
    match value {
        Value::Table(table) => table.iter().for_each(|(k, v)| flatten(&below(k), v, flat)),
        Value::Array(array) if array.iter().any(Value::is_table) => {
            array.iter().enumerate().for_each(|(i, v)| flatten(&below(&i.to_string()), v, flat));
        }
        Value::String(text) => {
            flat.insert(path.into(), text.clone());
        }
        other => {
            flat.insert(path.into(), other.to_string());
        }
    }
}

/// Tells each run the settings that not all runs have alike.
fn mark_differences(rows: &mut [Row]) {
    let all: Vec<_> = rows.iter().map(|row| row.settings.clone()).collect();
    for row in rows {
        let differs =
            |key: &String| all.iter().any(|other| other.get(key) != row.settings.get(key));
        let differing = row.settings.iter().filter(|(key, _)| differs(key));
        row.differing = differing.map(|(k, v)| (k.clone(), v.clone())).collect();
    }
}

const SEED: &str = "training.seed";

/// Accuracy under a condition, of the first source.
fn score(row: &Row, condition: &str) -> Option<f64> {
    row.test.iter().find(|score| score.condition == condition).map(|score| score.accuracy)
}

fn groups(root: &Path, rows: &[Row]) -> Vec<Group> {
    let mut by_settings: BTreeMap<Vec<(&String, &String)>, Vec<&Row>> = BTreeMap::new();
    for row in rows.iter().filter(|row| row.finished && !row.settings.is_empty()) {
        let key = row.settings.iter().filter(|(key, _)| *key != SEED).collect();
        by_settings.entry(key).or_default().push(row);
    }
    let group = |rows: Vec<&Row>| {
        let spread = |value: &dyn Fn(&Row) -> Option<f64>| {
            let values: Option<Vec<f64>> = rows.iter().map(|row| value(row)).collect();
            values.map(|values| Spread::of(&values))
        };
        let first = rows[0];
        let parent = Path::new(&first.name).parent().unwrap_or(Path::new(""));
        Group {
            name: root.join(parent).components().collect::<PathBuf>().display().to_string(),
            model: first.model.clone(),
            parameters: first.parameters,
            runs: rows.len(),
            validation: spread(&|row| row.best_validation_accuracy),
            unrotated: spread(&|row| score(row, "unrotated")),
            random: spread(&|row| score(row, "random rotations")),
        }
    };
    by_settings.into_values().filter(|rows| rows.len() > 1).map(group).collect()
}

fn groups_table(groups: &[Group]) -> String {
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::UTF8_HORIZONTAL_ONLY);
    table.set_header([
        "over seeds",
        "model",
        "parameters",
        "seeds",
        "validation %",
        "test, unrotated %",
        "random rotations %",
    ]);
    let spread = |s: &Option<Spread>| {
        s.map_or("–".into(), |s| format!("{:.1} ± {:.1}", 100.0 * s.mean, 100.0 * s.deviation))
    };
    for group in groups {
        table.add_row([
            group.name.clone(),
            group.model.clone(),
            group.parameters.to_string(),
            group.runs.to_string(),
            spread(&group.validation),
            spread(&group.unrotated),
            spread(&group.random),
        ]);
    }
    table.to_string()
}

/// Settings that fit into a cell.
const SHOWN: usize = 6;

fn table(rows: &[Row]) -> String {
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::UTF8_HORIZONTAL_ONLY);
    table.set_header([
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
    ]);
    let percent = |a: Option<f64>| a.map_or("–".into(), |a| format!("{:.1} %", 100.0 * a));
    for row in rows {
        let epoch = row.best_epoch.map_or_else(String::new, |e| format!(" (epoch {e})"));
        let mut differing: Vec<String> =
            row.differing.iter().map(|(k, v)| format!("{k} = {v}")).collect();
        if differing.len() > SHOWN {
            differing.truncate(SHOWN);
            differing.push("…".into());
        }
        table.add_row([
            row.name.clone(),
            row.model.clone(),
            row.parameters.to_string(),
            format!("{}{epoch}", percent(row.best_validation_accuracy)),
            percent(score(row, "unrotated")),
            percent(score(row, "random rotations")),
            format!("{}/{}", row.epochs, row.planned_epochs),
            time(row.seconds),
            if row.finished { "finished" } else { "unfinished" }.into(),
            differing.join("\n"),
        ]);
    }
    table.to_string()
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

    fn row(name: &str, settings: &str, accuracy: f64) -> Row {
        let mut flat = BTreeMap::new();
        flatten("", &Value::Table(toml::from_str(settings).unwrap()), &mut flat);
        Row {
            name: name.into(),
            model: "plain".into(),
            dataset: "d".into(),
            seed: 0,
            parameters: 1,
            best_validation_accuracy: Some(accuracy),
            best_validation_loss: None,
            best_epoch: None,
            epochs: 1,
            planned_epochs: 1,
            seconds: 0.0,
            finished: true,
            test: vec![],
            differing: BTreeMap::new(),
            settings: flat,
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
