//! Searches for settings: a training for each of several choices.

use std::path::Path;

use serde::Deserialize;
use steer3d_so3::Stream;
use toml::{Table, Value};

use crate::error::ExperimentError;
use crate::tables::{read_table, strict};

/// Most choices of one search.
const MAX_TRIALS: usize = 10_000;

/// Which settings of an experiment are tried, as in the file.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sweep {
    /// How many choices are drawn at random, each setting by itself; if left out every combination of the listed values is
    /// tried.
    #[serde(default)]
    pub trials: Option<usize>,
    /// Seed of what is drawn.
    #[serde(default)]
    pub seed: u64,
    /// For settings of an experiment file a list of values or, of numbers that are drawn, `{ from, to, log }`: whole numbers
    /// where both bounds are, evenly in the logarithm with `log = true`.
    pub settings: Table,
}

/// The values of one setting.
enum Choices {
    Among(Vec<Value>),
    Between(Range),
}

/// Numbers of a range.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Range {
    from: Value,
    to: Value,
    #[serde(default)]
    log: bool,
}

impl Sweep {
    /// Reads a file of TOML.
    ///
    /// # Errors
    /// [`ExperimentError`] if it cannot be read or has another key.
    pub fn open(path: &Path) -> Result<Self, ExperimentError> {
        strict(read_table(path)?, "")
    }

    /// The changes KEY=VALUE of every choice, in an order that depends on this file alone.
    ///
    /// # Errors
    /// [`ExperimentError::Invalid`] for settings without values, ranges that are no ranges or are given without `trials`, and
    /// too many choices.
    pub fn trials(&self) -> Result<Vec<Vec<String>>, ExperimentError> {
        let mut settings = vec![];
        collect("", &self.settings, &mut settings)?;
        if settings.is_empty() {
            return Err(ExperimentError::invalid("settings", "expected some, found none"));
        }
        let combinations = |(_, choices): &(String, Choices)| match choices {
            Choices::Among(values) => Some(values.len()),
            Choices::Between(_) => None,
        };
        let sizes: Option<Vec<usize>> = settings.iter().map(combinations).collect();
        let count = match (self.trials, &sizes) {
            (Some(trials), _) => trials,
            (None, Some(sizes)) => sizes.iter().fold(1usize, |all, &size| all.saturating_mul(size)),
            (None, None) => {
                let problem =
                    "expected how many choices are drawn from the ranges, such as trials = 20";
                return Err(ExperimentError::invalid("trials", problem));
            }
        };
        if !(1..=MAX_TRIALS).contains(&count) {
            let problem = format!("expected from 1 to {MAX_TRIALS} choices, found {count}");
            return Err(ExperimentError::invalid("trials", problem));
        }
        (0..count).map(|trial| self.trial(trial, &settings)).collect()
    }

    fn trial(
        &self,
        trial: usize,
        settings: &[(String, Choices)],
    ) -> Result<Vec<String>, ExperimentError> {
        let (mut rest, random) = (trial, self.trials.is_some());
        let mut stream = Stream::new(self.seed, "sweep", &[trial as u64]);
        // The last setting changes first.
        let mut changes = vec![];
        for (key, choices) in settings.iter().rev() {
            let value = match choices {
                Choices::Among(values) if random => values[stream.below(values.len())].clone(),
                Choices::Among(values) => {
                    let value = values[rest % values.len()].clone();
                    rest /= values.len();
                    value
                }
                Choices::Between(range) => range.at(key, stream.uniform())?,
            };
            changes.push(format!("{key}={value}"));
        }
        changes.reverse();
        Ok(changes)
    }
}

/// The settings of a table by their paths.
fn collect(
    path: &str,
    table: &Table,
    found: &mut Vec<(String, Choices)>,
) -> Result<(), ExperimentError> {
    for (key, value) in table {
        let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        match value {
            Value::Array(values) if !values.is_empty() => {
                found.push((path, Choices::Among(values.clone())));
            }
            Value::Table(range) if range.contains_key("from") => {
                let range: Range = strict(range.clone(), &path)?;
                // What is wrong with it is known before anything is trained.
                range.at(&path, 0.0)?;
                found.push((path, Choices::Between(range)));
            }
            Value::Table(inner) => collect(&path, inner, found)?,
            other => {
                let problem = format!("expected a list of values or {{ from, to }}, found {other}");
                return Err(ExperimentError::invalid(path, problem));
            }
        }
    }
    Ok(())
}

impl Range {
    /// The number at a share of the way, below 1; those that are not whole have five digits.
    fn at(&self, path: &str, share: f64) -> Result<Value, ExperimentError> {
        let number = |value: &Value| value.as_float().or(value.as_integer().map(|i| i as f64));
        let (from, to) = (number(&self.from), number(&self.to));
        let (Some(from), Some(to)) = (from, to) else {
            let problem = format!("expected two numbers, found {} and {}", self.from, self.to);
            return Err(ExperimentError::invalid(path, problem));
        };
        let least = if self.log { f64::MIN_POSITIVE } else { f64::MIN };
        if !(from >= least && from < to && (to - from).is_finite()) {
            let of = if self.log { "two positive numbers" } else { "two numbers" };
            let problem = format!("expected {of}, the first one smaller, found {from} and {to}");
            return Err(ExperimentError::invalid(path, problem));
        }
        let whole = self.from.is_integer() && self.to.is_integer();
        let end = if whole { to + 1.0 } else { to };
        let value = match self.log {
            true => from * (end / from).powf(share),
            false => from + share * (end - from),
        };
        if whole {
            return Ok(Value::Integer(value.floor().min(to) as i64));
        }
        Ok(Value::Float(format!("{value:.4e}").parse().unwrap_or(value)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trials(text: &str) -> Result<Vec<Vec<String>>, ExperimentError> {
        strict::<Sweep>(toml::from_str(text).unwrap(), "")?.trials()
    }

    #[test]
    fn every_combination_is_tried_once() {
        let text = "[settings]\n'model.blocks.0.fields' = ['4x0', '8x0+1x1']\n\
                    training = { epochs = [1, 2, 3], schedule.kind = ['constant'] }";
        let found = trials(text).unwrap();
        assert_eq!(found.len(), 6);
        let expected = [
            "model.blocks.0.fields=\"4x0\"",
            "training.epochs=2",
            "training.schedule.kind=\"constant\"",
        ];
        assert_eq!(found[1], expected);
        let mut sorted = found.clone();
        sorted.sort();
        sorted.dedup();
        assert_eq!(sorted.len(), 6);
    }

    #[test]
    fn random_choices_lie_in_their_ranges_and_depend_on_the_seed() {
        let text = |seed: u64| {
            format!(
                "trials = 300\nseed = {seed}\n[settings]\n\
                 'training.learning_rate' = {{ from = 1e-4, to = 1e-2, log = true }}\n\
                 'training.batch_size' = {{ from = 2, to = 4 }}\n'training.weight_decay' = [0.0, 0.1]"
            )
        };
        let found = trials(&text(1)).unwrap();
        assert_eq!(found, trials(&text(1)).unwrap());
        assert_ne!(found, trials(&text(2)).unwrap());
        let values = |key: &str| -> Vec<f64> {
            let of = |changes: &Vec<String>| {
                changes.iter().find_map(|c| c.strip_prefix(key)?.strip_prefix('=')?.parse().ok())
            };
            found.iter().map(|changes| of(changes).unwrap()).collect()
        };
        let rates = values("training.learning_rate");
        assert!(rates.iter().all(|r| (1e-4..1e-2).contains(r)));
        let low = rates.iter().filter(|r| **r < 1e-3).count();
        assert!((110..190).contains(&low), "{low}");
        for (key, known) in [
            ("training.batch_size", vec![2.0, 3.0, 4.0]),
            ("training.weight_decay", vec![0.0, 0.1]),
        ] {
            let found = values(key);
            assert!(found.iter().all(|v| known.contains(v)));
            assert!(known.iter().all(|k| found.iter().filter(|v| *v == k).count() > 60), "{key}");
        }
    }

    #[test]
    fn mistakes_are_named() {
        let message = |text: &str| trials(text).unwrap_err().to_string();
        let cases = [
            ("[settings]", "expected some, found none"),
            ("[settings]\na = 3", "a: expected a list of values"),
            ("[settings]\na = []", "a: expected a list of values"),
            ("[settings]\na = { from = 1, to = 2 }", "trials = 20"),
            ("trials = 3\n[settings]\na = { from = 2, to = 1 }", "the first one smaller"),
            (
                "trials = 3\n[settings]\na = { from = -1, to = 1, log = true }",
                "two positive numbers",
            ),
            ("trials = 3\n[settings]\na = { from = 'x', to = 1 }", "expected two numbers"),
            ("trials = 3\n[settings]\na = { from = nan, to = 1.0 }", "two numbers"),
            ("trials = 3\n[settings]\na = { from = 1, too = 1 }", "too"),
            ("trials = 0\n[settings]\na = [1]", "from 1 to 10000 choices, found 0"),
            ("trails = 3\n[settings]\na = [1]", "did you mean `trials`?"),
        ];
        for (text, part) in cases {
            let found = message(text);
            assert!(found.contains(part), "{text}: {found}");
        }
    }
}
