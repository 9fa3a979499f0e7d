//! What changed from one report to another.

use serde::Serialize;
use steer3d_eval::metrics::Estimate;
use steer3d_eval::{Condition, Report, Source, Unit};

use crate::numbers::cell;
use crate::text::Text;

/// The score ([`AnswerKind::score`](steer3d_eval::AnswerKind::score)) of one model under one condition in two reports.
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
    /// Name of the score.
    pub measure: String,
    /// What it counts.
    pub unit: Unit,
    /// In the first report, if it was measured there.
    pub before: Option<Estimate>,
    /// In the second report, if it was measured there.
    pub after: Option<Estimate>,
}

impl Change {
    /// The difference of the scores, where both are known.
    pub fn difference(&self) -> Option<f64> {
        Some(self.after?.value - self.before?.value)
    }

    /// Whether the 95 % intervals have no value in common.
    pub fn is_clear(&self) -> bool {
        let (Some(a), Some(b)) = (self.before, self.after) else { return false };
        a.high < b.low || b.high < a.low
    }
}

/// Compares the scores of two reports: those of the first in its order, then what only the second
/// has. Datasets and models are matched by name.
pub fn diff(before: &Report, after: &Report) -> Vec<Change> {
    let (old, new) = (scores(before), scores(after));
    let find =
        |list: &[Change], like: &Change| list.iter().find(|c| same(c, like)).and_then(|c| c.before);
    let kept = old.iter().map(|c| Change { after: find(&new, c), ..c.clone() });
    let added = new.iter().filter(|c| find(&old, c).is_none());
    kept.chain(added.map(|c| Change { before: None, after: c.before, ..c.clone() })).collect()
}

fn same(a: &Change, b: &Change) -> bool {
    let key = |c: &Change| (c.source, c.condition);
    (&a.dataset, &a.model, &a.measure, key(a)) == (&b.dataset, &b.model, &b.measure, key(b))
}

/// Every score of a report, as the one before a change.
fn scores(report: &Report) -> Vec<Change> {
    let mut all = vec![];
    for section in &report.sections {
        let score = section.score();
        for (model, source) in section.sources() {
            all.extend(source.conditions.iter().map(|c| Change {
                dataset: section.dataset.name.clone(),
                model: model.name.clone(),
                source: source.source,
                condition: c.condition,
                measure: score.name.into(),
                unit: score.unit,
                before: c.get(score.name),
                after: None,
            }));
        }
    }
    all
}

/// The changes as a table for a terminal, shares in per cent; a star marks intervals that do not meet.
pub fn diff_table(changes: &[Change]) -> Text {
    let row = |change: &Change| {
        let star = if change.is_clear() { " *" } else { "" };
        let difference = cell(change.difference().map(Estimate::exact), change.unit, false);
        vec![
            change.dataset.clone(),
            change.model.clone(),
            change.source.to_string(),
            change.condition.to_string(),
            change.measure.replace('_', " "),
            cell(change.before, change.unit, true),
            cell(change.after, change.unit, true),
            format!("{difference}{star}"),
        ]
    };
    let headings =
        ["dataset", "model", "source", "condition", "measure", "before", "after", "change"];
    Text::default().table(&headings, changes.iter().map(row).collect(), 5)
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
            measure: "accuracy".into(),
            unit: Unit::Share,
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
        let text = diff_table(&[rise, new]).to_string();
        assert!(text.contains("30.0 *") && text.contains('–'), "{text}");
    }
}
