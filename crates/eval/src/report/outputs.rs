//! The report of models of numbers, vectors or tensors.

use std::path::Path;

use serde::{Deserialize, Serialize};
use steer3d_dataset::{Dataset, Split};
use steer3d_so3::Irreps;

use super::figures::{ANGLES, BANDS, Curve, Drawn, Figure, LinePlot, dashes, distances, named};
use super::html::columns;
use super::page::{Cells, Method, Page, PageSection, about, intervals, page_figures};
use super::tables::{text, text_table, thousands};
use super::write::{write_figures, write_file};
use super::{DatasetSummary, summarise};
use crate::EvalError;
use crate::metrics::Estimate;
use crate::outputs::OutputScores;
use crate::protocol::{Condition, Protocol};

/// Version of the JSON form of [`OutputsReport`].
pub const OUTPUTS_SCHEMA_VERSION: u32 = 1;

/// Everything that was measured of models of numbers, vectors or tensors, ready to be written.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OutputsReport {
    /// [`OUTPUTS_SCHEMA_VERSION`] of the writer.
    pub schema_version: u32,
    /// Version of steer3d that made the report.
    pub steer3d_version: String,
    /// The command line that made the report; empty for a library user's own program.
    pub command: String,
    /// Name of the dataset.
    pub dataset: String,
    /// The split that was evaluated.
    pub split: Split,
    /// What else there is to know of the data.
    pub data: DatasetSummary,
    /// How the outputs turn with the volume.
    pub irreps: Irreps,
    /// What was done to every volume.
    pub protocol: Protocol,
    /// The models, in the order of the tables.
    pub models: Vec<OutputsModel>,
}

/// What was measured of one model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OutputsModel {
    /// Name of the model.
    pub name: String,
    /// Number of trained parameters.
    pub parameters: usize,
    /// What [`evaluate_outputs`](crate::evaluate_outputs) found.
    pub scores: Vec<OutputScores>,
}

impl OutputsReport {
    /// What was found of `models` on one split of a dataset.
    pub fn new(
        dataset: &Dataset,
        split: Split,
        irreps: Irreps,
        protocol: Protocol,
        models: Vec<OutputsModel>,
    ) -> Self {
        Self {
            schema_version: OUTPUTS_SCHEMA_VERSION,
            steer3d_version: env!("CARGO_PKG_VERSION").into(),
            command: String::new(),
            dataset: dataset.meta().name.clone(),
            split,
            data: summarise(dataset, split),
            irreps,
            protocol: Protocol { search: None, ..protocol },
            models,
        }
    }

    /// Writes `report.html`, `outputs.json`, `outputs.csv` and every plot as `figures/NAME.svg` and
    /// `figures/NAME.png` into the folder `dir`, which is made if need be.
    ///
    /// # Errors
    /// [`EvalError::Write`] naming the file that could not be written, or an error of formatting.
    pub fn write(&self, dir: &Path) -> Result<(), EvalError> {
        write_figures(dir, &self.figures())?;
        write_file(dir, "outputs.csv", &self.csv()?)?;
        write_file(dir, "outputs.json", &serde_json::to_string_pretty(self)?)?;
        write_file(dir, "report.html", &self.html()?)
    }

    /// A line for each model, source and condition, with the intervals of the errors.
    ///
    /// # Errors
    /// [`EvalError::Csv`] if a record cannot be formatted.
    pub fn csv(&self) -> Result<String, EvalError> {
        let mut writer = csv::Writer::from_writer(Vec::new());
        let header = "model source condition mae mae_low mae_high rmse rmse_low rmse_high deviation \
                      deviation_low deviation_high relative_deviation";
        writer.write_record(header.split(' '))?;
        for (model, s) in self.rows() {
            let mut record =
                vec![model.name.clone(), s.source.to_string(), s.condition.to_string()];
            for e in [s.mean_absolute_error, s.root_mean_square_error, s.deviation] {
                record.extend([e.value, e.low, e.high].map(|v| v.to_string()));
            }
            record.push(s.relative_deviation.to_string());
            writer.write_record(&record)?;
        }
        text(writer)
    }

    fn rows(&self) -> impl Iterator<Item = (&OutputsModel, &OutputScores)> {
        self.models.iter().flat_map(|model| model.scores.iter().map(move |s| (model, s)))
    }

    /// The numbers under every condition, for a terminal.
    pub fn terminal(&self) -> String {
        let table = text_table(&COLUMNS, self.cells(|_| true));
        format!(
            "{}, {} split, targets {}; outputs turned back, 95 % intervals over items\n{table}",
            self.dataset, self.split, self.irreps
        )
    }

    /// Rows of the tables: model, source and [`COLUMNS`].
    fn cells(&self, shown: impl Fn(Condition) -> bool) -> Vec<Vec<String>> {
        let estimate = |e: Estimate| format!("{:.4} ({:.4}-{:.4})", e.value, e.low, e.high);
        let cells = |(model, s): (&OutputsModel, &OutputScores)| {
            vec![
                model.name.clone(),
                s.source.to_string(),
                s.condition.to_string(),
                estimate(s.mean_absolute_error),
                estimate(s.root_mean_square_error),
                estimate(s.deviation),
                format!("{:.2} %", 100.0 * s.relative_deviation),
                thousands(model.parameters),
            ]
        };
        self.rows().filter(|(_, s)| shown(s.condition)).map(cells).collect()
    }

    /// The plots, those without data left out.
    pub fn figures(&self) -> Vec<Figure> {
        let distances = distances(&self.protocol);
        let drawn = [
            self.deviation("deviation-angle", "angle", "rotation angle (degrees)", ANGLES.to_vec()),
            self.deviation(
                "deviation-translation",
                "translation",
                "translation (voxels)",
                distances,
            ),
        ];
        named("outputs", drawn)
    }

    fn deviation(
        &self,
        name: &'static str,
        kind: &str,
        x_label: &'static str,
        ticks: Vec<f64>,
    ) -> Drawn {
        let models = self.models.iter().map(|m| (&m.name[..], &m.scores[..]));
        let value = |s: &OutputScores| (s.source, s.condition, Some(relative(s)));
        let curves = Curve::all(models, &self.protocol, kind, value);
        let plot = LinePlot { x_label, y_label: "deviation (%)", ticks, reference: None, curves };
        let caption = format!(
            "How far the outputs, turned back, are from those unrotated, over the root mean square of the \
             latter. {BANDS}{}",
            dashes(&self.protocol)
        );
        let title = match kind {
            "angle" => "Deviation against rotation angle",
            _ => "Deviation against translation",
        };
        Some((name, title, caption, plot.draw()?))
    }

    /// The report as one HTML page.
    ///
    /// # Errors
    /// [`EvalError::Page`] if the template cannot be filled in.
    pub fn html(&self) -> Result<String, EvalError> {
        let items: usize = self.data.class_counts.iter().sum();
        let table = |title, rows| Cells {
            title,
            columns: columns(&["model", "source"], &COLUMNS),
            left: 3,
            rows,
            note: "",
        };
        let headline = self.cells(|c| matches!(c, Condition::Unrotated | Condition::Random));
        let section = PageSection {
            name: self.dataset.clone(),
            about: about(&self.data, items, &format!("targets {}", self.irreps)),
            reading: vec![],
            headline: Cells {
                note: "In brackets: 95 % bootstrap intervals, in the unit of the targets. Deviation: distance \
                       of the outputs, turned back, from those unrotated; relative: over the root mean square \
                       of the latter.",
                ..table("", headline)
            },
            figures: page_figures(self.figures()),
            gallery_note: "",
            swatches: vec![],
            gallery: vec![],
            tables: vec![table("Errors under every condition", self.cells(|_| true))],
            files: "the figures: figures/, beside this page",
            method: Method::new(&self.protocol),
            measures: vec![
                ("outputs", "are turned back first: y = D(R)⁻¹ f(R x), D the Wigner-D matrix of the irreps".into()),
                ("mean absolute error", "mean of |y − target| over components, volumes and rotations".into()),
                (
                    "root mean square error",
                    "root of the mean of (y − target)² over components, volumes and rotations".into(),
                ),
                (
                    "deviation",
                    "mean of ‖y − f(x)‖ over volumes and rotations; relative: over the root mean square of \
                     ‖f(x)‖"
                        .into(),
                ),
                ("intervals", intervals(&self.protocol)),
            ],
            provenance: self.data.provenance.clone(),
        };
        let page = Page {
            title: &format!("Rotated-volume evaluation on {}", self.dataset),
            version: &self.steer3d_version,
            command: &self.command,
            downloads: vec![
                ("outputs.csv", "text/csv", self.csv()?),
                ("outputs.json", "application/json", serde_json::to_string_pretty(self)?),
            ],
            sections: vec![section],
        };
        page.html()
    }
}

const COLUMNS: [&str; 6] = [
    "condition",
    "mean absolute error",
    "root mean square error",
    "deviation",
    "relative",
    "parameters",
];

/// The relative deviation with the interval of the deviation.
fn relative(s: &OutputScores) -> Estimate {
    let scale = s.relative_deviation / s.deviation.value.max(f64::MIN_POSITIVE);
    Estimate {
        value: s.relative_deviation,
        low: s.deviation.low * scale,
        high: s.deviation.high * scale,
    }
}
