//! A run folder: its record, metrics and experiment file, with zeros between them.

#![no_main]

use std::fs;

use libfuzzer_sys::fuzz_target;
use steer3d_experiments::{EXPERIMENT, Experiment, RECORD, RunRecord, list_runs, read_epochs};

fuzz_target!(|bytes: &[u8]| {
    let folder = std::env::temp_dir().join(format!("steer3d-fuzz-{}-runs", std::process::id()));
    let run = folder.join("run");
    fs::create_dir_all(&run).expect("a writable folder for temporary files");
    let mut parts = bytes.splitn(3, |&byte| byte == 0);
    for name in [RECORD, "metrics.jsonl", EXPERIMENT] {
        let part = parts.next().unwrap_or_default();
        fs::write(run.join(name), part).expect("a writable folder for temporary files");
    }
    let _ = (RunRecord::read(&run), read_epochs(&run), Experiment::open(&run, &[]));
    if let Ok(list) = list_runs(&folder, Some(&folder.join("curves.html"))) {
        let _ = list.table();
    }
});
