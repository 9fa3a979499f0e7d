//! Several models, each trained from several seeds, side by side.

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use steer3d_so3::Stream;

use crate::metrics::Estimate;
use crate::paired::item_scores;
use crate::predictor::AnswerKind;
use crate::protocol::{Condition, Protocol, Source};
use crate::report::SCHEMA_VERSION;
use crate::results::ModelReport;

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

/// A score over seeds and items.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct SeedScore {
    /// Mean and standard deviation over seeds.
    #[serde(flatten)]
    pub seeds: Spread,
    /// Lower end of the 95 % percentile bootstrap interval of the mean over seeds and items.
    pub low: f64,
    /// Its upper end.
    pub high: f64,
}

impl SeedScore {
    /// From the scores of each item, \[seed\]\[item\]. Resample b draws seeds and
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
        let values = (0..resamples).into_par_iter().map(resample).collect();
        let means: Vec<f64> = shares.iter().map(|s| s.iter().sum::<f64>() / items as f64).collect();
        let seeds = Spread::of(&means);
        let Estimate { low, high, .. } = Estimate::of(seeds.mean, values);
        Self { seeds, low, high }
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
    /// Mean score of the predictions of each item, \[source\]\[column\]\[item\].
    scores: Vec<Vec<Vec<f64>>>,
}

impl Trial {
    /// From a report that keeps its predictions.
    pub fn new(seed: u64, training_seconds: f64, report: ModelReport, protocol: &Protocol) -> Self {
        let columns = columns(protocol, report.answers);
        let of_source =
            |&source: &Source| columns.iter().map(|(_, scores)| scores(&report, source)).collect();
        let scores = protocol.sources.iter().map(of_source).collect();
        Self { seed, training_seconds, report, scores }
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
    /// What the models answer, which says what the scores are ([`AnswerKind::score`]).
    #[serde(default)]
    pub answers: AnswerKind,
    /// Names of the columns of scores.
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
    #[serde(alias = "accuracies")]
    pub scores: Vec<SeedScore>,
    /// Number of trained parameters.
    pub parameters: usize,
    /// Seconds that a training took.
    pub training_seconds: Spread,
}

/// A column of the table: its name, and the score of each item.
type Column = (String, Box<dyn Fn(&ModelReport, Source) -> Vec<f64>>);

fn columns(protocol: &Protocol, answers: AnswerKind) -> Vec<Column> {
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
        columns.push((name, Box::new(move |m, source| item_scores(m, source, condition))));
        if condition == Condition::Random && answers == AnswerKind::Classes {
            columns.push(("all random".into(), Box::new(right_under_all)));
        }
    }
    columns
}

/// For each item 1 if it is right unrotated and under every random rotation, else 0.
fn right_under_all(model: &ModelReport, source: Source) -> Vec<f64> {
    let unrotated = item_scores(model, source, Condition::Unrotated);
    let random = item_scores(model, source, Condition::Random);
    unrotated.iter().zip(random).map(|(a, b)| a.min(b).floor()).collect()
}

impl Comparison {
    /// Sums up `models`, each a name and at least one trial, all evaluated under `protocol`.
    pub fn new(dataset: &str, protocol: &Protocol, models: &[(String, Vec<Trial>)]) -> Self {
        let answers = models.first().map_or_else(AnswerKind::default, |m| m.1[0].report.answers);
        let columns = columns(protocol, answers);
        let row = |name: &String, trials: &[Trial], place: usize| {
            let seconds: Vec<f64> = trials.iter().map(|trial| trial.training_seconds).collect();
            let score = |column: usize| {
                let scores: Vec<_> = trials.iter().map(|t| &t.scores[place][column]).collect();
                SeedScore::new(&scores, protocol.seed, protocol.resamples)
            };
            ComparisonRow {
                model: name.clone(),
                source: protocol.sources[place],
                seeds: trials.len(),
                scores: (0..columns.len()).map(score).collect(),
                parameters: trials[0].report.parameters,
                training_seconds: Spread::of(&seconds),
            }
        };
        let rows = (0..protocol.sources.len())
            .flat_map(|place| models.iter().map(move |(name, trials)| row(name, trials, place)))
            .collect();
        Self {
            schema_version: SCHEMA_VERSION,
            dataset: dataset.into(),
            answers,
            protocol: protocol.clone(),
            columns: columns.iter().map(|(name, _)| name.clone()).collect(),
            rows,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_cover_seeds_and_items() {
        // Seeds that agree: the interval is that of the items, 0.5 -+ 0.098 for 100 items.
        let items: Vec<f64> = (0..100).map(|i| f64::from(i % 2)).collect();
        let same = SeedScore::new(&[&items, &items], 1, 2000);
        assert_eq!(same.seeds, Spread { mean: 0.5, deviation: 0.0 });
        assert!((same.low - 0.402).abs() < 0.015 && (same.high - 0.598).abs() < 0.015, "{same:?}");
        // Items that agree: the interval is that of two seeds, drawn twice.
        let apart = SeedScore::new(&[&vec![0.0; 50], &vec![1.0; 50]], 1, 500);
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
