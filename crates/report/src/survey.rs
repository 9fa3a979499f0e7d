//! The tables and plots of a survey of equivariance errors.

use std::fmt::Write;
use std::path::Path;

use comfy_table::presets::ASCII_MARKDOWN;

use steer3d_eval::equivariance::{KernelRow, MeasuredRow, SpacingRow, Survey};

use crate::error::ReportError;
use crate::log_plot::LogPlot;
use crate::tables::csv_text;
use crate::text::text_table;
use crate::write::{make_folder, write_file};

/// The tables of a survey as Markdown.
pub fn survey_markdown(survey: &Survey) -> String {
    let config = &survey.config;
    let mut text = format!(
        "Closed forms: relative error for fields of Gaussian bumps of each width (voxels). \
         kernel: mean over the functions up to J = {}; layer: {} to itself at initialisation.\n\n{}\n\n\
         Conditioning of these functions on the taps: rank and condition number (largest eigenvalue \
         over the smallest) of their Gram matrix; overlap: largest |cosine| between two of them.\n\n{}\n",
        2 * config.irreps.lmax(),
        config.irreps,
        kernel_table(survey),
        conditioning_table(survey)
    );
    if !survey.spacings.is_empty() {
        let _ = write!(
            text,
            "\nOther voxels: what a convolution (closed form) and a U-Net on three grids (measured, {} seeds) give \
             on voxels of these edges (x, y, z) for fields of Gaussian bumps of each width, against the voxels of \
             edge 1 that their kernels are made for, or finer ones, at the same places; relative root mean \
             square.\n\n{}\n",
            config.seeds,
            spacing_table(survey)
        );
    }
    if !survey.measured.is_empty() {
        let _ = write!(
            text,
            "\nMeasured: bumps of width {}, {} seeds. centre: {} fields and rotations a seed, \
             compared at the central voxel, nothing interpolated; resampled: {} rotations a seed \
             on {}³ voxels, L(f) rotated by cubic B-splines; cube: worst of the rotations of the \
             cube on white noise.\n\n{}\n",
            config.width,
            config.seeds,
            config.centre_fields,
            config.rotations,
            config.size,
            measured_table(survey)
        );
    }
    text
}

/// A table in Markdown, aligned to the left.
fn table(columns: &[impl ToString], rows: Vec<Vec<String>>) -> String {
    text_table(ASCII_MARKDOWN, columns, rows, columns.len())
}

fn kernel_table(survey: &Survey) -> String {
    let of = |what: &'static str| survey.config.widths.iter().map(move |w| format!("{what} {w}"));
    let mut columns = vec!["k".to_owned(), "family".to_owned()];
    columns.extend(of("kernel").chain(of("layer")));
    let row = |row: &KernelRow| {
        let errors = row.kernel.iter().chain(&row.layer).map(|e| format!("{e:.5}"));
        [row.size.to_string(), row.family.clone()].into_iter().chain(errors).collect()
    };
    table(&columns, survey.kernels.iter().map(row).collect())
}

/// Edges of voxels as `1x1x2.5`.
fn edges(spacing: [f64; 3]) -> String {
    spacing.map(|edge| edge.to_string()).join("x")
}

fn spacing_table(survey: &Survey) -> String {
    let of = |what: &'static str| survey.config.widths.iter().map(move |w| format!("{what} {w}"));
    let mut columns = ["k", "family", "voxels"].map(String::from).to_vec();
    columns.extend(of("convolution").chain(of("U-Net")));
    let row = |row: &SpacingRow| {
        let errors = row.layer.iter().chain(&row.unet).map(|e| format!("{e:.4}"));
        let first = [row.size.to_string(), row.family.clone(), edges(row.spacing)];
        first.into_iter().chain(errors).collect()
    };
    table(&columns, survey.spacings.iter().map(row).collect())
}

fn conditioning_table(survey: &Survey) -> String {
    let row = |row: &KernelRow| {
        vec![
            row.size.to_string(),
            row.family.clone(),
            row.functions.to_string(),
            row.rank.to_string(),
            row.condition_number.map_or_else(|| "infinite".into(), |c| format!("{c:.3}")),
            format!("{:.4}", row.largest_overlap),
        ]
    };
    let columns = ["k", "family", "functions", "rank", "condition number", "overlap"];
    table(&columns, survey.kernels.iter().map(row).collect())
}

fn measured_table(survey: &Survey) -> String {
    let row = |row: &MeasuredRow| {
        let none = || ["-", "-"].map(String::from);
        let [k, family] =
            row.kernel.clone().map_or_else(none, |(family, k)| [k.to_string(), family]);
        let [centre, resampled] = [row.centre, row.resampled].map(|error| format!("{error:.5}"));
        vec![row.subject.clone(), k, family, centre, resampled, format!("{:.0e}", row.cube)]
    };
    let columns = ["subject", "k", "family", "centre", "resampled", "cube"];
    table(&columns, survey.measured.iter().map(row).collect())
}

/// Every error of a survey on a line of its own, with the columns subject, family, k, width,
/// measure, error.
///
/// # Errors
/// Only if memory runs out.
pub fn survey_csv(survey: &Survey) -> Result<String, ReportError> {
    let mut records = vec![];
    for row in &survey.kernels {
        for (subject, errors) in [("kernel", &row.kernel), ("convolution", &row.layer)] {
            records.extend(survey.config.widths.iter().zip(errors).map(|(width, error)| {
                let (k, width, error) =
                    (row.size.to_string(), width.to_string(), error.to_string());
                vec![subject.into(), row.family.clone(), k, width, "closed form".into(), error]
            }));
        }
    }
    for row in &survey.spacings {
        for (subject, errors) in [("convolution", &row.layer), ("U-Net", &row.unet)] {
            records.extend(survey.config.widths.iter().zip(errors).map(|(width, error)| {
                let measure = format!("voxels {}", edges(row.spacing));
                let (k, width) = (row.size.to_string(), width.to_string());
                vec![subject.into(), row.family.clone(), k, width, measure, error.to_string()]
            }));
        }
    }
    for row in &survey.measured {
        let (family, k) =
            row.kernel.as_ref().map_or_else(Default::default, |(f, k)| (f.clone(), k.to_string()));
        let width = survey.config.width.to_string();
        let errors = [("centre", &width, row.centre), ("resampled", &width, row.resampled)];
        for (measure, width, error) in
            errors.into_iter().chain([("cube", &String::new(), row.cube)])
        {
            let (subject, measure) = (row.subject.clone(), measure.to_owned());
            let (width, error) = (width.clone(), error.to_string());
            records.push(vec![subject, family.clone(), k.clone(), width, measure, error]);
        }
    }
    csv_text(["subject", "family", "k", "width", "measure", "error"], records)
}

/// Writes `equivariance.md`, `equivariance.json`, `equivariance.csv`, `error-width.svg` and, where
/// networks were measured, `error-depth.svg` into the folder `dir`, which is made if need be. Each
/// file is written under another name, flushed to disk and renamed.
///
/// # Errors
/// [`ReportError::Write`] naming the file that could not be written.
pub fn write_survey(dir: &Path, survey: &Survey) -> Result<(), ReportError> {
    make_folder(dir)?;
    write_file(dir, "equivariance.md", &survey_markdown(survey))?;
    write_file(dir, "equivariance.json", &serde_json::to_string_pretty(survey)?)?;
    write_file(dir, "equivariance.csv", &survey_csv(survey)?)?;
    write_file(dir, "error-width.svg", &width_plot(survey).draw().file())?;
    let depth = depth_plot(survey);
    if !depth.curves.is_empty() {
        write_file(dir, "error-depth.svg", &depth.draw().file())?;
    }
    Ok(())
}

fn width_plot(survey: &Survey) -> LogPlot {
    let curve = |row: &KernelRow| {
        let points = survey.config.widths.iter().copied().zip(row.layer.iter().copied());
        (format!("k = {}, {}", row.size, row.family), points.collect())
    };
    LogPlot {
        x_label: "width of the field (voxels)",
        y_label: "equivariance error of a layer",
        curves: survey.kernels.iter().map(curve).collect(),
    }
}

fn depth_plot(survey: &Survey) -> LogPlot {
    let mut curves: Vec<(String, Vec<(f64, f64)>)> = vec![];
    for row in &survey.measured {
        let (Some(depth), Some((family, size))) = (row.depth, &row.kernel) else { continue };
        let name = format!("k = {size}, {family}");
        if curves.last().is_none_or(|(last, _)| *last != name) {
            curves.push((name, vec![]));
        }
        if let Some((_, points)) = curves.last_mut() {
            points.push((depth as f64, row.centre));
        }
    }
    LogPlot { x_label: "depth (convolutions)", y_label: "equivariance error", curves }
}
