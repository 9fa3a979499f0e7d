//! `steer3d eval` of networks that give numbers, vectors or tensors for each volume.

use std::fs;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use serde::Serialize;
use steer3d::eval::metrics::Estimate;
use steer3d::eval::{OutputScores, Predictor, Protocol, Targets, evaluate_outputs};
use steer3d::nn::checkpoint;
use steer3d::so3::Irreps;
use steer3d::volume::{Dataset, Split};

use crate::eval::progress;
use crate::output::Output;

/// `outputs.json`.
#[derive(Serialize)]
struct OutputsReport {
    schema_version: u32,
    dataset: String,
    split: Split,
    /// How the outputs turn with the volume.
    irreps: Irreps,
    protocol: Protocol,
    models: Vec<ModelOutputs>,
}

#[derive(Serialize)]
struct ModelOutputs {
    name: String,
    parameters: usize,
    scores: Vec<OutputScores>,
}

/// Measures networks against the targets of a dataset; prints a table and writes `outputs.json` and
/// `outputs.csv` to `out`.
pub(crate) fn run(
    models: &[Box<dyn Predictor>],
    dataset: &Dataset,
    split: Split,
    protocol: Protocol,
    out: Option<&Path>,
    output: &Output,
) -> Result<ExitCode> {
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
        Ok(ModelOutputs { name: model.name().into(), parameters: model.parameters(), scores })
    });
    let models = measured.collect::<Result<Vec<_>>>()?;
    let dataset = name.clone();
    let report = OutputsReport { schema_version: 1, dataset, split, irreps, protocol, models };
    if let Some(folder) = out {
        fs::create_dir_all(folder).with_context(|| format!("{}", folder.display()))?;
        let json = serde_json::to_string_pretty(&report)?;
        checkpoint::write_atomically(&folder.join("outputs.json"), json.as_bytes())?;
        checkpoint::write_atomically(&folder.join("outputs.csv"), &table_csv(&report)?)?;
    }
    output.result(&describe(&report), &report)?;
    Ok(ExitCode::SUCCESS)
}

fn table_csv(report: &OutputsReport) -> Result<Vec<u8>> {
    let mut table = csv::Writer::from_writer(vec![]);
    let estimate = |e: &Estimate| [e.value, e.low, e.high].map(|v| v.to_string());
    let measures = ["mae", "rmse", "deviation"];
    let header =
        measures.iter().flat_map(|m| [m.to_string(), format!("{m}_low"), format!("{m}_high")]);
    let first = ["model", "source", "condition"].map(String::from).into_iter();
    table.write_record(first.chain(header).chain(["relative_deviation".into()]))?;
    for model in &report.models {
        for s in &model.scores {
            let names = [model.name.clone(), s.source.to_string(), s.condition.to_string()];
            let of = [&s.mean_absolute_error, &s.root_mean_square_error, &s.deviation];
            let numbers = of.into_iter().flat_map(estimate);
            let last = [s.relative_deviation.to_string()];
            table.write_record(names.into_iter().chain(numbers).chain(last))?;
        }
    }
    Ok(table.into_inner().map_err(csv::IntoInnerError::into_error)?)
}

fn describe(report: &OutputsReport) -> String {
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::UTF8_HORIZONTAL_ONLY);
    table.set_header([
        "model",
        "source",
        "condition",
        "mean absolute error",
        "root mean square error",
        "deviation",
        "relative",
    ]);
    let estimate = |e: &Estimate| format!("{:.4} ({:.4}-{:.4})", e.value, e.low, e.high);
    for model in &report.models {
        for s in &model.scores {
            table.add_row([
                model.name.clone(),
                s.source.to_string(),
                s.condition.to_string(),
                estimate(&s.mean_absolute_error),
                estimate(&s.root_mean_square_error),
                estimate(&s.deviation),
                format!("{:.2} %", 100.0 * s.relative_deviation),
            ]);
        }
    }
    format!(
        "{}, {} split, targets {}; outputs turned back, 95 % intervals over items\n{table}",
        report.dataset, report.split, report.irreps
    )
}
