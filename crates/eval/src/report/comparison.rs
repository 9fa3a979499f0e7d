//! Several models, each trained from several seeds, side by side.

use comfy_table::{CellAlignment, Table, TableStyle, presets};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use steer3d_so3::Stream;

use super::tables::text;
use super::{ModelReport, SCHEMA_VERSION, percent};
use crate::EvalError;
use crate::metrics::quantile;
use crate::paired::item_accuracies;
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
}

/// An accuracy from 0 to 1 over seeds and items.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Accuracy {
    /// Mean and standard deviation over seeds.
    #[serde(flatten)]
    pub seeds: Spread,
    /// Lower end of the 95 % percentile bootstrap interval of the mean over seeds and items.
    pub low: f64,
    /// Its upper end.
    pub high: f64,
}

impl Accuracy {
    /// From the shares that are right of each item, \[seed\]\[item\]. Resample b draws seeds and
    /// items, with replacement, from the stream (seed, "seeds and items", \[b\]), the same for
    /// every model.
    fn new(shares: &[&Vec<f64>], seed: u64, resamples: usize) -> Self {
        let items = shares[0].len();
        let resample = |b: usize| {
            let mut stream = Stream::new(seed, "seeds and items", &[b as u64]);
            let drawn: Vec<usize> = (0..items).map(|_| stream.below(items)).collect();
            let mean = |s: &Vec<f64>| drawn.iter().map(|&i| s[i]).sum::<f64>() / items as f64;
            let means: f64 =
                (0..shares.len()).map(|_| mean(shares[stream.below(shares.len())])).sum();
            means / shares.len() as f64
        };
        let mut values: Vec<f64> = (0..resamples).into_par_iter().map(resample).collect();
        values.sort_by(f64::total_cmp);
        let means: Vec<f64> = shares.iter().map(|s| s.iter().sum::<f64>() / items as f64).collect();
        let seeds = Spread::of(&means);
        if values.is_empty() {
            values.push(seeds.mean);
        }
        Self { seeds, low: quantile(&values, 0.025), high: quantile(&values, 0.975) }
    }

    fn percent(&self) -> String {
        format!("{} ± {}", percent(self.seeds.mean), percent(self.seeds.deviation))
    }
}

/// One model trained from one seed.
#[derive(Clone, Debug, PartialEq)]
pub struct Trial {
    /// Seed of its training.
    pub seed: u64,
    /// Seconds that its training took.
    pub training_seconds: f64,
    /// What was measured of it.
    pub report: ModelReport,
    /// Share of the predictions of each item that are right, \[source\]\[column\]\[item\].
    shares: Vec<Vec<Vec<f64>>>,
}

impl Trial {
    /// From a report that keeps its predictions.
    pub fn new(seed: u64, training_seconds: f64, report: ModelReport, protocol: &Protocol) -> Self {
        let columns = columns(protocol);
        let of_source =
            |&source: &Source| columns.iter().map(|(_, shares)| shares(&report, source)).collect();
        let shares = protocol.sources.iter().map(of_source).collect();
        Self { seed, training_seconds, report, shares }
    }
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
    /// In the order of the columns.
    pub accuracies: Vec<Accuracy>,
    /// Number of trained parameters.
    pub parameters: usize,
    /// Seconds that a training took.
    pub training_seconds: Spread,
}

/// A column of the table: its name, and the share that is right of each item.
type Column = (String, Box<dyn Fn(&ModelReport, Source) -> Vec<f64>>);

fn columns(protocol: &Protocol) -> Vec<Column> {
    let mut columns: Vec<Column> = vec![];
    for condition in protocol.conditions() {
        let name = match condition {
            Condition::Angle { degrees } => format!("{degrees}°"),
            Condition::Translation { voxels } => format!("moved {voxels}"),
            Condition::Random => "random".into(),
            Condition::Worst => "worst found".into(),
            Condition::Group { group } => group.to_string(),
            other => other.to_string(),
        };
        columns.push((name, Box::new(move |m, source| item_accuracies(m, source, condition))));
        if condition == Condition::Random {
            columns.push(("all random".into(), Box::new(right_under_all)));
        }
    }
    columns
}

/// For each item 1 if it is right unrotated and under every random rotation, else 0.
fn right_under_all(model: &ModelReport, source: Source) -> Vec<f64> {
    let unrotated = item_accuracies(model, source, Condition::Unrotated);
    let random = item_accuracies(model, source, Condition::Random);
    unrotated.iter().zip(random).map(|(a, b)| a.min(b).floor()).collect()
}

impl Comparison {
    /// Sums up `models`, each a name and at least one trial, all evaluated under `protocol`.
    pub fn new(dataset: &str, protocol: &Protocol, models: &[(String, Vec<Trial>)]) -> Self {
        let columns = columns(protocol);
        let row = |name: &String, trials: &[Trial], place: usize| {
            let over = |value: &dyn Fn(&Trial) -> f64| {
                Spread::of(&trials.iter().map(value).collect::<Vec<_>>())
            };
            let accuracy = |column: usize| {
                let shares: Vec<_> = trials.iter().map(|t| &t.shares[place][column]).collect();
                Accuracy::new(&shares, protocol.seed, protocol.resamples)
            };
            ComparisonRow {
                model: name.clone(),
                source: protocol.sources[place],
                seeds: trials.len(),
                accuracies: (0..columns.len()).map(accuracy).collect(),
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
            cells.extend(row.accuracies.iter().map(Accuracy::percent));
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

    /// The table as CSV: for every column its mean, from 0 to 1, its standard deviation and the ends
    /// of its interval.
    ///
    /// # Errors
    /// [`EvalError::Csv`] if a record cannot be formatted.
    pub fn csv(&self) -> Result<String, EvalError> {
        let mut writer = csv::Writer::from_writer(Vec::new());
        let columns = self
            .columns
            .iter()
            .flat_map(|c| ["", " deviation", " low", " high"].map(|what| format!("{c}{what}")));
        let last = ["seeds", "parameters", "training seconds"].map(String::from);
        let first = ["model", "source"].map(String::from);
        writer.write_record(first.into_iter().chain(columns).chain(last))?;
        for row in &self.rows {
            let accuracies = row.accuracies.iter().flat_map(|a| {
                [a.seeds.mean, a.seeds.deviation, a.low, a.high].map(|value| value.to_string())
            });
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
    fn intervals_cover_seeds_and_items() {
        // Seeds that agree: the interval is that of the items, 0.5 -+ 0.098 for 100 items.
        let items: Vec<f64> = (0..100).map(|i| f64::from(i % 2)).collect();
        let same = Accuracy::new(&[&items, &items], 1, 2000);
        assert_eq!(same.seeds, Spread { mean: 0.5, deviation: 0.0 });
        assert!((same.low - 0.402).abs() < 0.015 && (same.high - 0.598).abs() < 0.015, "{same:?}");
        // Items that agree: the interval is that of two seeds, drawn twice.
        let apart = Accuracy::new(&[&vec![0.0; 50], &vec![1.0; 50]], 1, 500);
        assert_eq!((apart.low, apart.seeds.mean, apart.high), (0.0, 0.5, 1.0));
    }

    #[test]
    fn the_spread_is_that_of_a_sample() {
        assert_eq!(Spread::of(&[2.0]), Spread { mean: 2.0, deviation: 0.0 });
        let spread = Spread::of(&[1.0, 2.0, 4.0, 5.0]);
        assert!((spread.mean - 3.0).abs() < 1e-15);
        assert!((spread.deviation - (10.0f64 / 3.0).sqrt()).abs() < 1e-15);
    }
}
