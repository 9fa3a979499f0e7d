//! Listing and comparing run folders.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::Args;
use serde::Serialize;
use steer3d::eval::report::learning_curves;
use steer3d::nn::checkpoint;
use toml::Value;

use crate::output::Output;
use crate::record::{EXPERIMENT, RECORD, RunRecord, epochs};

pub(crate) const EXAMPLES: &str = "Examples:
  steer3d runs runs
  steer3d runs runs --curves curves.html

A run is a folder with run.json, as `steer3d train`, `compare` and `demo` write it. Best first: by
validation accuracy, then by validation loss. Settings in which the runs differ are listed.";

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
    /// Settings in which the runs differ.
    differing: BTreeMap<String, String>,
}

pub(crate) fn run(args: &RunsArgs, output: &Output) -> Result<ExitCode> {
    let mut folders = vec![];
    find(&args.folder, DEPTH, &mut folders)
        .with_context(|| format!("{}", args.folder.display()))?;
    if folders.is_empty() {
        bail!("{}: no run found: no {RECORD} in it or below", args.folder.display());
    }
    folders.sort();
    let mut rows: Vec<Row> = folders.iter().filter_map(|f| row(&args.folder, f)).collect();
    let settings: Vec<_> = folders.iter().map(|folder| settings(folder)).collect();
    for (row, differing) in rows.iter_mut().zip(differences(&settings)) {
        row.differing = differing;
    }
    if let Some(path) = &args.curves {
        let named = rows.iter().zip(&folders).map(|(row, f)| (row.name.clone(), epochs(f)));
        let page = learning_curves("Trainings", &named.collect::<Vec<_>>());
        checkpoint::write_atomically(path, page.as_bytes())?;
    }
    rows.sort_by(|a, b| {
        let accuracy = |row: &Row| row.best_validation_accuracy.unwrap_or(-1.0);
        let loss = |row: &Row| row.best_validation_loss.unwrap_or(f64::INFINITY);
        accuracy(b).total_cmp(&accuracy(a)).then(loss(a).total_cmp(&loss(b)))
    });
    output.result(&table(&rows), &serde_json::json!({ "schema_version": 1, "runs": rows }))?;
    Ok(ExitCode::SUCCESS)
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
        differing: BTreeMap::new(),
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

/// For each run the settings that not all runs have alike.
fn differences(settings: &[BTreeMap<String, String>]) -> Vec<BTreeMap<String, String>> {
    let alike = |key: &String| settings.iter().all(|s| s.get(key) == settings[0].get(key));
    let of = |one: &BTreeMap<String, String>| {
        one.iter().filter(|(k, _)| !alike(k)).map(|(k, v)| (k.clone(), v.clone())).collect()
    };
    settings.iter().map(of).collect()
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
        "epochs",
        "time",
        "state",
        "differs in",
    ]);
    for row in rows {
        let percent =
            row.best_validation_accuracy.map_or("–".into(), |a| format!("{:.1} %", 100.0 * a));
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
            format!("{percent}{epoch}"),
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

    #[test]
    fn only_what_differs_is_listed() {
        let flat = |text: &str| {
            let mut flat = BTreeMap::new();
            flatten("", &Value::Table(toml::from_str(text).unwrap()), &mut flat);
            flat
        };
        let runs = [
            flat("seed = 1\n[model]\nblocks = [{size = 3}, {size = 5}]\nother = [1, 2]"),
            flat(
                "seed = 1\n[model]\nblocks = [{size = 3}, {size = 7}]\nother = [1, 2]\nnew = true",
            ),
        ];
        let found = differences(&runs);
        assert_eq!(found[0], BTreeMap::from([("model.blocks.1.size".into(), "5".into())]));
        assert_eq!(found[1].len(), 2);
        assert_eq!(found[1]["model.new"], "true");
    }

    #[test]
    fn times_are_readable() {
        assert_eq!((time(3.26), time(125.0)), ("3.3 s".into(), "2 min 05 s".into()));
        assert_eq!(time(7384.0), "2 h 03 min");
    }
}
