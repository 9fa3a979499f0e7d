use std::path::PathBuf;

use pyo3::prelude::*;
use steer3d::experiments::{Existing, Experiment, Session};
use steer3d_cli::make_dataset;

use crate::errors::{Failure, Result};
use crate::threads::compute;
use crate::watch::Watch;

/// Trains as an experiment file says; gives the run folder and a summary as JSON.
#[pyfunction]
#[pyo3(signature = (source, changes, folder, existing, seed, hears))]
pub(crate) fn train(
    py: Python<'_>,
    source: PathBuf,
    changes: Vec<String>,
    folder: Option<PathBuf>,
    existing: &str,
    seed: Option<u64>,
    hears: Option<Py<PyAny>>,
) -> Result<(PathBuf, String)> {
    let existing = match existing {
        "keep" => Existing::Keep,
        "resume" => Existing::Resume,
        "overwrite" => Existing::Overwrite,
        found => {
            return Err(Failure::argument(format!(
                "existing: expected keep, resume or overwrite, found {found}"
            )));
        }
    };
    let watch = Watch::new(hears);
    let summary = compute(py, || -> Result<_> {
        let (experiment, beside) = Experiment::open(&source, &changes)?;
        let (config, folder) = (experiment.training(seed)?, folder.unwrap_or(beside));
        let session = Session { observer: &watch, stop: &watch.stop, ..Session::default() };
        let trained = experiment.train(&folder, &config, existing, &make_dataset, &session)?;
        let summary = trained.evaluate(&session)?;
        Ok((folder, serde_json::to_string(&summary)?))
    });
    watch.finish(summary)
}
