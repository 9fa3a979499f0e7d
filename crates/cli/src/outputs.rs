//! `steer3d eval` of networks that give numbers, vectors or tensors for each volume.

use std::path::Path;

use anyhow::{Context, Result, bail};
use steer3d::dataset::{Dataset, Split};
use steer3d::eval::report::{OutputsModel, OutputsReport};
use steer3d::eval::{Predictor, Protocol, Targets, evaluate_outputs};

use crate::eval::{command_line, progress};
use crate::output::Output;

/// Measures networks against the targets of a dataset and writes the report to `out`.
pub(crate) fn report(
    models: &[Box<dyn Predictor>],
    dataset: &Dataset,
    split: Split,
    protocol: Protocol,
    out: Option<&Path>,
    output: &Output,
) -> Result<OutputsReport> {
    let name = &dataset.meta().name;
    let Some(irreps) = dataset.tasks().and_then(|tasks| tasks.targets.clone()) else {
        bail!(
            "dataset {name} has no targets to compare with; import some with `steer3d dataset import arrays`"
        );
    };
    let items = dataset.indices(split);
    let values: Vec<Vec<f64>> = items.iter().map(|&item| dataset.targets(item).to_vec()).collect();
    let targets = Targets { irreps: &irreps, values: &values };
    let measured = models.iter().map(|model| {
        let progress = progress(model.as_ref(), dataset, output);
        let scores =
            evaluate_outputs(model.as_ref(), dataset, split, &protocol, &targets, &progress);
        let scores = scores.with_context(|| model.name().to_owned())?;
        Ok(OutputsModel { name: model.name().into(), parameters: model.parameters(), scores })
    });
    let models = measured.collect::<Result<Vec<_>>>()?;
    let report = OutputsReport::new(dataset, split, irreps, protocol, models);
    let report = OutputsReport { command: command_line(), ..report };
    if let Some(folder) = out {
        report.write(folder)?;
    }
    Ok(report)
}
