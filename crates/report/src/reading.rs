//! The numbers in plain words, computed from them.

use steer3d_eval::metrics::Estimate;
use steer3d_eval::{
    AnswerKind, Condition, ConditionReport, ModelReport, PointGroup, Section, Source, SourceReport,
    Unit,
};
use steer3d_volume::Interpolation;

use crate::numbers::{cell, percent, percent_interval};

const CUBE: Condition = Condition::Group { group: PointGroup::Cube };

/// Sentences that say what the numbers of a section mean.
pub fn reading(section: &Section) -> Vec<String> {
    let each = |sentence: fn(&Section, &ModelReport) -> Option<String>| {
        section.models.iter().filter_map(move |model| sentence(section, model))
    };
    match section.answers() {
        AnswerKind::Classes if !section.is_labelled() => each(stability)
            .chain(each(|_, model| cube(model)))
            .chain(section.models.iter().find_map(both).map(|_| UNLABELLED.to_owned()))
            .chain(smoothing(section))
            .collect(),
        AnswerKind::Classes => each(classes)
            .chain(comparison(section))
            .chain(each(|_, model| resampling(model)))
            .chain(each(|_, model| cube(model)))
            .chain(smoothing(section))
            .collect(),
        AnswerKind::Voxels if !section.is_labelled() => each(kept_labels)
            .chain(section.models.iter().find_map(both).map(|_| UNLABELLED.to_owned()))
            .chain(smoothing(section))
            .collect(),
        AnswerKind::Values if !section.is_labelled() => each(kept_values)
            .chain(section.models.iter().find_map(both).map(|_| UNLABELLED.to_owned()))
            .chain(smoothing(section))
            .collect(),
        AnswerKind::Voxels => {
            each(voxels).chain(each(kept_labels)).chain(smoothing(section)).collect()
        }
        AnswerKind::Values => each(values).chain(smoothing(section)).collect(),
    }
}

/// Most of the accuracy, and of the size of outputs, that a model may lose at random rotations where it is said to survive
/// them, and the least share of answers that stay.
const MOST_LOST: f64 = 0.05;
const LEAST_KEPT: f64 = 0.9;

/// A paragraph that says which models survive random rotations, and what that takes.
pub fn verdict(section: &Section) -> Option<String> {
    let said = section.models.iter().filter_map(|model| survival(section, model));
    let said = said.collect::<Vec<_>>().join(" ");
    let [lost, kept] = [MOST_LOST, LEAST_KEPT].map(|share| 100.0 * share);
    let kept = format!("at least {kept} % of the answers stay those to the unrotated volumes");
    let takes = match (section.answers(), section.is_labelled()) {
        (AnswerKind::Values, _) => format!("outputs move by at most {lost} % of their size"),
        (_, true) => format!("at most {lost} points of accuracy are lost, and {kept}"),
        (_, false) => kept,
    };
    (!said.is_empty()).then(|| format!("{said} A yes means that at random rotations {takes}."))
}

/// Whether a model survives, with what it loses and what stays.
fn survival(section: &Section, model: &ModelReport) -> Option<String> {
    let [_, random] = both(model)?;
    let value = |name| Some(random.get(name)?.value);
    let (change, kept) = match section.answers() {
        AnswerKind::Classes => ("accuracy_change", "agreement"),
        AnswerKind::Voxels => ("foreground_accuracy_change", "foreground_consistency"),
        AnswerKind::Values => {
            let moved = value("relative_deviation")?;
            let word = if moved <= MOST_LOST { "yes" } else { "no" };
            let share = share(moved);
            return Some(format!(
                "{} survives rotation: {word}, its outputs move by {share}.",
                model.name
            ));
        }
    };
    let lost = match section.is_labelled() {
        true => Some((-value(change)?).max(0.0)),
        false => None,
    };
    let kept = value(kept)?;
    let survives = lost.is_none_or(|lost| lost <= MOST_LOST) && kept >= LEAST_KEPT;
    let word = if survives { "yes, " } else { "no, " };
    let lost = lost.map_or_else(String::new, |lost| match survives {
        true => format!("within {} points, and ", percent(lost)),
        false => format!("{} points are lost, and ", percent(lost)),
    });
    let kept = percent(kept);
    Some(format!("{} survives rotation: {word}{lost}{kept} % of its answers stay.", model.name))
}

/// What unrotated and turned voxels differ in beside the rotation, and how much that alone does where the protocol
/// has a translation between voxels.
fn smoothing(section: &Section) -> Option<String> {
    let Source::Voxels(how) = section
        .models
        .iter()
        .find_map(|model| both(model).and(model.sources.first()).map(|source| source.source))?
    else {
        return None;
    };
    if how == Interpolation::Nearest {
        return None;
    }
    let between = |model: &ModelReport| {
        let moved = model.sources.first()?.conditions.iter().find(|moved| {
            matches!(moved.condition, Condition::Translation { voxels } if voxels.fract() != 0.0)
        })?;
        let accuracy = percent(moved.get("accuracy")?.value);
        Some(format!(
            "; {}: {accuracy} % {}, which smooths without turning",
            model.name, moved.condition
        ))
    };
    let alone: String = section.models.iter().filter_map(between).collect();
    Some(format!(
        "Turned and moved voxels are interpolated ({how}), which smooths them, and unrotated ones are as stored: \
         between the two lies more than a rotation, above all for a network trained on turned voxels{alone}."
    ))
}

/// The first source, unrotated and at random rotations.
pub(crate) fn both(model: &ModelReport) -> Option<[&ConditionReport; 2]> {
    let source = model.sources.first()?;
    Some([source.condition(Condition::Unrotated)?, source.condition(Condition::Random)?])
}

fn random(source: &SourceReport) -> Option<&ConditionReport> {
    source.condition(Condition::Random)
}

fn classes(section: &Section, model: &ModelReport) -> Option<String> {
    let [unrotated, random] = both(model)?;
    let rotations = section.protocol.rotations;
    Some(format!(
        "{}: accuracy is {} % unrotated and {} % at random rotations, {}. Under all {rotations} \
         rotations the prediction stays the same for {} % of the items, and stays right for {} %.",
        model.name,
        percent(unrotated.get("accuracy")?.value),
        percent(random.get("accuracy")?.value),
        change(random.get("accuracy_change")?),
        percent(random.get("consistency")?.value),
        percent(random.get("worst_case_accuracy")?.value),
    ))
}

const UNLABELLED: &str =
    "What is right for the items is not known, so none of this says whether an answer is.";

fn stability(section: &Section, model: &ModelReport) -> Option<String> {
    let [_, random] = both(model)?;
    let rotations = section.protocol.rotations;
    Some(format!(
        "{}: under all {rotations} random rotations the prediction stays the same for {} % of the items; {} % of the \
         single predictions are the unrotated one. The logits move by {} of their norm, the probabilities by {} \
         (half the sum of their differences).",
        model.name,
        percent_interval(random.get("consistency")?),
        percent_interval(random.get("agreement")?),
        share(random.get("relative_deviation")?.value),
        share(random.get("probability_deviation")?.value),
    ))
}

/// `a fall of 3.1 points (95 % interval 0.4 to 5.9)`.
fn change(e: Estimate) -> String {
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
    let accuracy = |model: &ModelReport| random(model.sources.first()?)?.get("accuracy");
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
    let (exact, resampled) = (random(points)?, random(voxels)?);
    let gap = resampled.get("accuracy")?.value - exact.get("accuracy")?.value;
    Some(format!(
        "{}: rotating the stored voxels ({}) instead of the points shifts accuracy at random \
         rotations by {}{} points and the relative logit deviation from {:.3} to {:.3}; this \
         difference comes from resampling, not from the rotation.",
        model.name,
        voxels.source,
        if gap > 0.0 { "+" } else { "" },
        percent(gap),
        exact.get("relative_deviation")?.value,
        resampled.get("relative_deviation")?.value,
    ))
}

fn cube(model: &ModelReport) -> Option<String> {
    let cube = model.sources.first()?.condition(CUBE)?;
    Some(format!(
        "{}: under the 24 rotations of the cube, which need no interpolation of a cubic grid, \
         predictions stay the same for {} % of the items; the logits move by at most {} of their \
         norm.",
        model.name,
        percent(cube.get("consistency")?.value),
        share(cube.get("max_relative_deviation")?.value),
    ))
}

/// `87.2 %`, or `7.4e-7` where per cent would show nothing.
fn share(value: f64) -> String {
    if value < 0.001 { format!("{value:.1e}") } else { format!("{} %", percent(value)) }
}

fn voxels(section: &Section, model: &ModelReport) -> Option<String> {
    let [unrotated, random] = both(model)?;
    let interval = |e| cell(e, Unit::Share, true);
    let dice = |report: &ConditionReport| cell(report.get("dice"), Unit::Coefficient, false);
    Some(format!(
        "{}: of the voxels that are not {}, {} % are labelled right unrotated and {} % \
         at random rotations ({}), {} on the same voxels; the mean Dice coefficient is {} and {}.",
        model.name,
        section.dataset.class_names[0],
        interval(unrotated.get("foreground_accuracy")),
        interval(random.get("foreground_accuracy")),
        section.protocol.sources[0],
        random.get("foreground_accuracy_change").map_or_else(|| "–".into(), change),
        dice(unrotated),
        dice(random),
    ))
}

fn kept_labels(section: &Section, model: &ModelReport) -> Option<String> {
    let source = model.sources.first()?;
    let kept = |condition| source.condition(condition)?.get("foreground_consistency");
    let random = kept(Condition::Random)?;
    let cube = kept(CUBE).map_or_else(String::new, |e| {
        let share = percent_interval(e);
        format!(", and {share} % after the 24 rotations of the cube, which need no interpolation")
    });
    Some(format!(
        "{}: {} % of the voxels have the label that the model gives them unrotated, right or wrong, \
         after random rotations{cube}. Voxels that are {} both times are left out.",
        model.name,
        percent_interval(random),
        section.class_names()[0],
    ))
}

fn kept_values(section: &Section, model: &ModelReport) -> Option<String> {
    let source = model.sources.first()?;
    let deviations = section.protocol.conditions().into_iter().filter_map(|condition| {
        let shown = matches!(condition, Condition::Random | Condition::Worst) || condition == CUBE;
        let report = source.condition(condition).filter(|_| shown)?;
        Some(format!("{} ({condition})", share(report.get("relative_deviation")?.value)))
    });
    let deviations = deviations.collect::<Vec<_>>().join(", ");
    (!deviations.is_empty()).then(|| {
        format!(
            "{}: the outputs, turned back, move from those unrotated by {deviations} of their size.",
            model.name
        )
    })
}

fn values(section: &Section, model: &ModelReport) -> Option<String> {
    let source = model.sources.first()?;
    let errors = section.protocol.conditions().into_iter().filter_map(|condition| {
        let shown =
            matches!(condition, Condition::Unrotated | Condition::Random | Condition::Worst);
        let report = source.condition(condition).filter(|_| shown || condition == CUBE)?;
        let error = cell(report.get("mean_absolute_error"), Unit::Output, false);
        let deviation = share(report.get("relative_deviation")?.value);
        Some(format!("{error} ({condition}, deviation {deviation})"))
    });
    let errors = errors.collect::<Vec<_>>().join(", ");
    (!errors.is_empty()).then(|| {
        format!("{}: the mean absolute error of the outputs, turned back, is {errors}.", model.name)
    })
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
