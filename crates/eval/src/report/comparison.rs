//! Several models, each trained from several seeds, side by side.

use comfy_table::{CellAlignment, Table, TableStyle, presets};
use serde::{Deserialize, Serialize};

use super::tables::text;
use super::{ModelReport, SCHEMA_VERSION, SourceReport, percent};
use crate::EvalError;
use crate::protocol::{Condition, Protocol, Source};

/// Mean and standard deviation over seeds (of a sample; 0 for one seed).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// Mean.
    pub mean: f64,
    /// Standard deviation.
    pub deviation: f64,
}

impl Spread {
    /// Of at least one value.
    pub fn of(values: &[f64]) -> Self {
        let n = values.len() as f64;
        let mean = values.iter().sum::<f64>() / n;
        let squares: f64 = values.iter().map(|v| (v - mean).powi(2)).sum();
        Self { mean, deviation: (squares / (n - 1.0).max(1.0)).sqrt() }
    }

    fn percent(&self) -> String {
        format!("{} ± {}", percent(self.mean), percent(self.deviation))
    }
}

/// One model trained from one seed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Trial {
    /// Seed of its training.
    pub seed: u64,
    /// Seconds that its training took.
    pub training_seconds: f64,
    /// What was measured of it.
    pub report: ModelReport,
}

/// A table of models over seeds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// [`SCHEMA_VERSION`] of the writer.
    pub schema_version: u32,
    /// Name of the dataset.
    pub dataset: String,
    /// What was done to every volume.
    pub protocol: Protocol,
    /// Names of the columns of accuracies.
    pub columns: Vec<String>,
    /// A row for each model and source.
    pub rows: Vec<ComparisonRow>,
}

/// One model with one source, over its seeds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ComparisonRow {
    /// Name of the model.
    pub model: String,
    /// What was rotated.
    pub source: Source,
    /// Number of seeds.
    pub seeds: usize,
    /// Accuracies from 0 to 1 in the order of the columns.
    pub accuracies: Vec<Spread>,
    /// Number of trained parameters.
    pub parameters: usize,
    /// Seconds that a training took.
    pub training_seconds: Spread,
}

/// A column of the table: its name, and its value in the results of one model.
type Column = (String, Box<dyn Fn(&SourceReport) -> f64>);

fn columns(protocol: &Protocol) -> Vec<Column> {
    let accuracy = |name: String, condition: Condition| -> Column {
        let value = move |s: &SourceReport| {
            s.condition(condition).map_or(f64::NAN, |c| c.scores.accuracy.value)
        };
        (name, Box::new(value))
    };
    let mut columns = vec![];
    for condition in protocol.conditions() {
        columns.push(match condition {
            Condition::Unrotated => accuracy("unrotated".into(), condition),
            Condition::Random => accuracy("random".into(), condition),
            Condition::Angle { degrees } => accuracy(format!("{degrees}°"), condition),
            Condition::Translation { voxels } => accuracy(format!("moved {voxels}"), condition),
            Condition::Cube => accuracy("cube".into(), condition),
        });
        if condition == Condition::Random {
            let worst = |s: &SourceReport| {
                let random = s.condition(Condition::Random).and_then(|c| c.stability.as_ref());
                random.map_or(f64::NAN, |stability| stability.worst_case_accuracy.value)
            };
            columns.push(("worst case".into(), Box::new(worst)));
        }
    }
    columns
}

impl Comparison {
    /// Sums up `models`, each a name and at least one trial, all evaluated under `protocol`.
    pub fn new(dataset: &str, protocol: &Protocol, models: &[(String, Vec<Trial>)]) -> Self {
        let columns = columns(protocol);
        let row = |name: &String, trials: &[Trial], place: usize| {
            let over = |value: &dyn Fn(&Trial) -> f64| {
                Spread::of(&trials.iter().map(value).collect::<Vec<_>>())
            };
            let accuracy = |(_, value): &Column| over(&|t| value(&t.report.sources[place]));
            ComparisonRow {
                model: name.clone(),
                source: protocol.sources[place],
                seeds: trials.len(),
                accuracies: columns.iter().map(accuracy).collect(),
                parameters: trials[0].report.parameters,
                training_seconds: over(&|t| t.training_seconds),
            }
        };
        let rows = (0..protocol.sources.len())
            .flat_map(|place| models.iter().map(move |(name, trials)| row(name, trials, place)))
            .collect();
        Self {
            schema_version: SCHEMA_VERSION,
            dataset: dataset.into(),
            protocol: protocol.clone(),
            columns: columns.iter().map(|(name, _)| name.clone()).collect(),
            rows,
        }
    }

    /// The table: accuracies in per cent, mean ± standard deviation over seeds.
    fn table(&self, style: TableStyle) -> String {
        let mut table = Table::new();
        table.load_style(style);
        let header = ["model", "source"].into_iter().chain(self.columns.iter().map(String::as_str));
        table.set_header(header.chain(["seeds", "parameters", "training, s"]));
        for row in &self.rows {
            let mut cells = vec![row.model.clone(), row.source.to_string()];
            cells.extend(row.accuracies.iter().map(Spread::percent));
            cells.push(row.seeds.to_string());
            cells.push(row.parameters.to_string());
            cells.push(format!("{:.0}", row.training_seconds.mean));
            table.add_row(cells);
        }
        for column in table.column_iter_mut().skip(2) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        table.to_string()
    }

    /// The table for a terminal.
    pub fn terminal(&self) -> String {
        self.table(presets::UTF8_HORIZONTAL_ONLY)
    }

    /// The table in Markdown.
    pub fn markdown(&self) -> String {
        self.table(presets::ASCII_MARKDOWN)
    }

    /// The table as CSV: for every column its mean, from 0 to 1, and its standard deviation.
    ///
    /// # Errors
    /// [`EvalError::Csv`] if a record cannot be formatted.
    pub fn csv(&self) -> Result<String, EvalError> {
        let mut writer = csv::Writer::from_writer(Vec::new());
        let columns = self.columns.iter().flat_map(|c| [c.clone(), format!("{c} deviation")]);
        let last = ["seeds", "parameters", "training seconds"].map(String::from);
        let first = ["model", "source"].map(String::from);
        writer.write_record(first.into_iter().chain(columns).chain(last))?;
        for row in &self.rows {
            let accuracies =
                row.accuracies.iter().flat_map(|s| [s.mean.to_string(), s.deviation.to_string()]);
            let first = [row.model.clone(), row.source.to_string()];
            let last = [
                row.seeds.to_string(),
                row.parameters.to_string(),
                row.training_seconds.mean.to_string(),
            ];
            writer.write_record(first.into_iter().chain(accuracies).chain(last))?;
        }
        text(writer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_spread_is_that_of_a_sample() {
        assert_eq!(Spread::of(&[2.0]), Spread { mean: 2.0, deviation: 0.0 });
        let spread = Spread::of(&[1.0, 2.0, 4.0, 5.0]);
        assert!((spread.mean - 3.0).abs() < 1e-15);
        assert!((spread.deviation - (10.0f64 / 3.0).sqrt()).abs() < 1e-15);
    }
}
