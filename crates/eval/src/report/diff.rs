//! What changed from one report to another.

use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;

use super::{ModelReport, Report, Section, SourceReport, percent, percent_interval};
use crate::metrics::Estimate;
use crate::protocol::{Condition, Source};

/// The accuracy of one model under one condition in two reports.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Change {
    /// Name of the dataset.
    pub dataset: String,
    /// Name of the model.
    pub model: String,
    /// What was transformed.
    pub source: Source,
    /// The condition.
    pub condition: Condition,
    /// In the first report, if it was measured there.
    pub before: Option<Estimate>,
    /// In the second report, if it was measured there.
    pub after: Option<Estimate>,
}

impl Change {
    /// The difference of the accuracies, where both are known.
    pub fn difference(&self) -> Option<f64> {
        Some(self.after?.value - self.before?.value)
    }

    /// Whether the 95 % intervals have no value in common.
    pub fn is_clear(&self) -> bool {
        let (Some(a), Some(b)) = (self.before, self.after) else { return false };
        a.high < b.low || b.high < a.low
    }
}

/// Compares the accuracies of two reports: those of the first in its order, then what only the second
/// has. Datasets and models are matched by name.
pub fn diff(before: &Report, after: &Report) -> Vec<Change> {
    let (old, new) = (accuracies(before), accuracies(after));
    let find =
        |list: &[Change], like: &Change| list.iter().find(|c| same(c, like)).and_then(|c| c.before);
    let kept = old.iter().map(|c| Change { after: find(&new, c), ..c.clone() });
    let added = new.iter().filter(|c| find(&old, c).is_none());
    kept.chain(added.map(|c| Change { before: None, after: c.before, ..c.clone() })).collect()
}

fn same(a: &Change, b: &Change) -> bool {
    (&a.dataset, &a.model, a.source, a.condition) == (&b.dataset, &b.model, b.source, b.condition)
}

/// Every accuracy of a report, as the one before a change.
fn accuracies(report: &Report) -> Vec<Change> {
    let of_source = |section: &Section, model: &ModelReport, source: &SourceReport| {
        let change = |c: &super::ConditionReport| Change {
            dataset: section.dataset.name.clone(),
            model: model.name.clone(),
            source: source.source,
            condition: c.condition,
            before: Some(c.scores.accuracy),
            after: None,
        };
        source.conditions.iter().map(change).collect::<Vec<_>>()
    };
    let mut all = vec![];
    for section in &report.sections {
        for model in &section.models {
            for source in &model.sources {
                all.extend(of_source(section, model, source));
            }
        }
    }
    all
}

/// The changes as a table for a terminal; a star marks intervals that do not meet.
pub fn diff_table(changes: &[Change]) -> String {
    let mut table = Table::new();
    table.load_style(presets::UTF8_HORIZONTAL_ONLY);
    let header =
        ["dataset", "model", "source", "condition", "before %", "after %", "change, points"];
    table.set_header(header);
    let accuracy = |e: Option<Estimate>| e.map_or_else(|| "–".to_owned(), percent_interval);
    for change in changes {
        let star = if change.is_clear() { " *" } else { "" };
        let difference = change.difference().map_or_else(|| "–".to_owned(), percent);
        table.add_row([
            change.dataset.clone(),
            change.model.clone(),
            change.source.to_string(),
            change.condition.to_string(),
            accuracy(change.before),
            accuracy(change.after),
            format!("{difference}{star}"),
        ]);
    }
    for column in table.column_iter_mut().skip(4) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(before: Option<[f64; 3]>, after: Option<[f64; 3]>) -> Change {
        let estimate = |[low, value, high]: [f64; 3]| Estimate { value, low, high };
        Change {
            dataset: "d".into(),
            model: "m".into(),
            source: Source::Points,
            condition: Condition::Random,
            before: before.map(estimate),
            after: after.map(estimate),
        }
    }

    #[test]
    fn changes_are_clear_when_intervals_do_not_meet() {
        let rise = change(Some([0.1, 0.2, 0.3]), Some([0.4, 0.5, 0.6]));
        assert!(rise.is_clear() && (rise.difference().unwrap() - 0.3).abs() < 1e-15);
        assert!(!change(Some([0.1, 0.2, 0.3]), Some([0.3, 0.5, 0.6])).is_clear());
        let new = change(None, Some([0.3, 0.5, 0.6]));
        assert!(!new.is_clear() && new.difference().is_none());
        let text = diff_table(&[rise, new]);
        assert!(text.contains("30.0 *") && text.contains('–'), "{text}");
    }
}
