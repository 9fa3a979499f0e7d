//! An experiment file, after a line for each change KEY=VALUE and an empty one.

#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use steer3d_experiments::{Experiment, model_config};

fuzz_target!(|text: &str| {
    let (changes, table) = text.split_once("\n\n").unwrap_or(("", text));
    let changes: Vec<String> = changes.lines().map(str::to_owned).collect();
    let Ok(table) = table.parse() else { return };
    let Ok(experiment) = Experiment::parse(table, &changes) else { return };
    if let Ok(training) = experiment.training(None) {
        let _ = training.check();
    }
    let _ = (experiment.recompute(), experiment.states.in_run(Path::new("run")));
    let _ = model_config(experiment.model, "model");
});
