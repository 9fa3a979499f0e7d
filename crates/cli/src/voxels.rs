//! `steer3d eval` of networks that label voxels.

use std::path::Path;

use anyhow::Result;
use steer3d::dataset::{Dataset, Split};
use steer3d::eval::report::VoxelReport;
use steer3d::eval::{Predictor, Protocol, evaluate_voxels};

use crate::eval::{command_line, progress};
use crate::output::Output;

/// Measures networks against the labels of the voxels of a dataset and writes the report to `out`.
pub(crate) fn report(
    models: &[Box<dyn Predictor>],
    dataset: &Dataset,
    split: Split,
    protocol: Protocol,
    out: Option<&Path>,
    output: &Output,
) -> Result<VoxelReport> {
    let measured = models.iter().map(|model| {
        let progress = progress(model.as_ref(), dataset, output);
        Ok(evaluate_voxels(model.as_ref(), dataset, split, &protocol, &progress)?)
    });
    let measured = measured.collect::<Result<Vec<_>>>()?;
    let predictors: Vec<&dyn Predictor> = models.iter().map(AsRef::as_ref).collect();
    let report = VoxelReport::new(dataset, split, protocol, measured, &predictors)?;
    let report = VoxelReport { command: command_line(), ..report };
    if let Some(folder) = out {
        report.write(folder)?;
    }
    Ok(report)
}
