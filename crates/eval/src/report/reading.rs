//! The numbers in plain words, computed from them.

use super::{ConditionReport, ModelReport, Section, SourceReport, percent, percent_interval};
use crate::metrics::Estimate;
use crate::protocol::{Condition, PointGroup, Source};
use crate::scores::Stability;

/// Sentences that say what the numbers of a section mean.
pub fn reading(section: &Section) -> Vec<String> {
    let mut sentences: Vec<String> =
        section.models.iter().filter_map(|model| of_model(section, model)).collect();
    sentences.extend(comparison(section));
    sentences.extend(section.models.iter().filter_map(resampling));
    sentences.extend(section.models.iter().filter_map(cube));
    sentences
}

fn random(source: &SourceReport) -> Option<(&ConditionReport, &Stability)> {
    let report = source.condition(Condition::Random)?;
    Some((report, report.stability.as_ref()?))
}

fn of_model(section: &Section, model: &ModelReport) -> Option<String> {
    let source = model.sources.first()?;
    let unrotated = source.condition(Condition::Unrotated)?.scores.accuracy;
    let (report, stability) = random(source)?;
    let rotations = section.protocol.rotations;
    Some(format!(
        "{}: accuracy is {} % unrotated and {} % at random rotations, {}. Under all {rotations} \
         rotations the prediction stays the same for {} % of the items, and stays right for {} %.",
        model.name,
        percent(unrotated.value),
        percent(report.scores.accuracy.value),
        change(stability.accuracy_change),
        percent(stability.consistency.value),
        percent(stability.worst_case_accuracy.value),
    ))
}

/// `a fall of 3.1 points (95 % interval 0.4 to 5.9)`.
pub(super) fn change(e: Estimate) -> String {
    let interval = |low, high| format!("95 % interval {} to {}", percent(low), percent(high));
    let size = percent(e.value.abs());
    if e.low == 0.0 && e.high == 0.0 {
        "no change".into()
    } else if e.low <= 0.0 && e.high >= 0.0 {
        let sign = if e.value > 0.0 { "+" } else { "" };
        format!(
            "a difference of {sign}{} points that these items cannot tell from none ({})",
            percent(e.value),
            interval(e.low, e.high)
        )
    } else if e.value < 0.0 {
        format!("a fall of {size} points ({})", interval(-e.high, -e.low))
    } else {
        format!("a rise of {size} points ({})", interval(e.low, e.high))
    }
}

fn comparison(section: &Section) -> Option<String> {
    let accuracy = |model: &ModelReport| Some(random(model.sources.first()?)?.0.scores.accuracy);
    let mut ranked: Vec<(&str, Estimate)> =
        section.models.iter().filter_map(|m| Some((m.name.as_str(), accuracy(m)?))).collect();
    ranked.sort_by(|a, b| b.1.value.total_cmp(&a.1.value));
    let [(best, first), .., (worst, last)] = ranked[..] else { return None };
    let classes = section.dataset.class_names.len() as f64;
    Some(format!(
        "At random rotations {best} is right for {} % of the predictions and {worst} for {} %, \
         {} points apart; a balanced guess would be right for {} %.",
        percent_interval(first),
        percent_interval(last),
        percent(first.value - last.value),
        percent(1.0 / classes),
    ))
}

/// Voxels against points, where both were measured.
fn resampling(model: &ModelReport) -> Option<String> {
    let points = model.sources.iter().find(|s| s.source == Source::Points)?;
    let voxels = model.sources.iter().find(|s| s.source != Source::Points)?;
    let (exact, exact_stability) = random(points)?;
    let (resampled, resampled_stability) = random(voxels)?;
    let gap = resampled.scores.accuracy.value - exact.scores.accuracy.value;
    Some(format!(
        "{}: rotating the stored voxels ({}) instead of the points shifts accuracy at random \
         rotations by {}{} points and the relative logit deviation from {:.3} to {:.3}; this \
         difference comes from resampling, not from the rotation.",
        model.name,
        voxels.source,
        if gap > 0.0 { "+" } else { "" },
        percent(gap),
        exact_stability.relative_deviation.value,
        resampled_stability.relative_deviation.value,
    ))
}

fn cube(model: &ModelReport) -> Option<String> {
    let source = model.sources.first()?;
    let stability =
        source.condition(Condition::Group { group: PointGroup::Cube })?.stability.as_ref()?;
    Some(format!(
        "{}: under the 24 rotations of the cube, which need no interpolation of a cubic grid, \
         predictions stay the same for {} % of the items; the logits move by at most {} of their \
         norm.",
        model.name,
        percent(stability.consistency.value),
        share(stability.max_relative_deviation),
    ))
}

/// `87.2 %`, or `7.4e-7` where per cent would show nothing.
fn share(value: f64) -> String {
    if value < 0.001 { format!("{value:.1e}") } else { format!("{} %", percent(value)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_named_by_their_interval() {
        let estimate = |value, low, high| Estimate { value, low, high };
        let fall = change(estimate(-0.2, -0.25, -0.1));
        assert_eq!(fall, "a fall of 20.0 points (95 % interval 10.0 to 25.0)");
        assert!(change(estimate(0.1, 0.05, 0.2)).starts_with("a rise of 10.0 points"));
        let unclear = change(estimate(-0.01, -0.03, 0.02));
        assert!(unclear.starts_with("a difference of −1.0 points that these items cannot"));
        assert_eq!(change(estimate(0.0, 0.0, 0.0)), "no change");
    }
}
