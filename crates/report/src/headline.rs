//! The few numbers of a section that come first.

use steer3d_eval::{AnswerKind, Condition, PointGroup, Section};

use crate::numbers::{cell, thousands};

const UNROTATED: Condition = Condition::Unrotated;
const RANDOM: Condition = Condition::Random;
const CUBE: Condition = Condition::Group { group: PointGroup::Cube };

/// A column: its heading, the condition and the measure, and whether the interval is shown.
type Column = (&'static str, Condition, &'static str, bool);

/// In the order in which a terminal of 120 columns keeps those that say most.
const CLASSES: [Column; 8] = [
    ("unrotated %", UNROTATED, "accuracy", true),
    ("random rotations %", RANDOM, "accuracy", true),
    ("consistent %", RANDOM, "consistency", false),
    ("worst case %", RANDOM, "worst_case_accuracy", false),
    ("AUC", UNROTATED, "auc", false),
    ("AUC rotated", RANDOM, "auc", false),
    ("change, points", RANDOM, "accuracy_change", true),
    ("deviation", RANDOM, "relative_deviation", false),
];

/// Of classes without labels.
const STABILITY: [Column; 6] = [
    ("consistent %", RANDOM, "consistency", true),
    ("same prediction %", RANDOM, "agreement", true),
    ("consistent, cube %", CUBE, "consistency", false),
    ("deviation", RANDOM, "relative_deviation", false),
    ("of probabilities", RANDOM, "probability_deviation", false),
    ("spread", RANDOM, "relative_spread", false),
];

const VOXELS: [Column; 12] = [
    ("unrotated %", UNROTATED, "foreground_accuracy", true),
    ("random rotations %", RANDOM, "foreground_accuracy", true),
    ("change, points", RANDOM, "foreground_accuracy_change", true),
    ("all voxels, unrotated %", UNROTATED, "accuracy", false),
    ("Dice", UNROTATED, "dice", false),
    ("Dice rotated", RANDOM, "dice", false),
    ("NSD", UNROTATED, "nsd", false),
    ("NSD rotated", RANDOM, "nsd", false),
    ("HD95", UNROTATED, "hd95", false),
    ("HD95 rotated", RANDOM, "hd95", false),
    ("same label %", RANDOM, "foreground_consistency", true),
    ("same label, cube %", CUBE, "foreground_consistency", false),
];

/// Of labels of voxels where none are known.
const KEPT_LABELS: [Column; 4] = [
    ("same label %", RANDOM, "foreground_consistency", true),
    ("all voxels, same label %", RANDOM, "consistency", true),
    ("same label, cube %", CUBE, "foreground_consistency", false),
    ("compared %", RANDOM, "compared", false),
];

/// Of values without targets.
const KEPT_VALUES: [Column; 3] = [
    ("deviation", RANDOM, "deviation", true),
    ("relative", RANDOM, "relative_deviation", true),
    ("relative, cube", CUBE, "relative_deviation", false),
];

const VALUES: [Column; 6] = [
    ("mean absolute error", UNROTATED, "mean_absolute_error", true),
    ("rotated", RANDOM, "mean_absolute_error", true),
    ("root mean square error", UNROTATED, "root_mean_square_error", true),
    ("rotated", RANDOM, "root_mean_square_error", true),
    ("deviation", RANDOM, "deviation", true),
    ("relative", RANDOM, "relative_deviation", false),
];

fn columns(section: &Section) -> &'static [Column] {
    match (section.answers(), section.is_labelled()) {
        (AnswerKind::Classes, true) => &CLASSES,
        (AnswerKind::Classes, false) => &STABILITY,
        (AnswerKind::Voxels, true) => &VOXELS,
        (AnswerKind::Voxels, false) => &KEPT_LABELS,
        (AnswerKind::Values, true) => &VALUES,
        (AnswerKind::Values, false) => &KEPT_VALUES,
    }
}

/// The headings of the headline table and its rows, a row for each model and source.
pub(crate) fn headline(section: &Section) -> (Vec<&'static str>, Vec<Vec<String>>) {
    let columns = columns(section);
    let definitions = section.answers().definitions();
    let unit = |name| definitions.iter().find(|d| d.name == name).map(|d| d.unit);
    let rows = section.sources().map(|(model, source)| {
        let mut row = vec![model.name.clone(), source.source.to_string()];
        row.extend(columns.iter().filter_map(|&(_, condition, name, interval)| {
            let found = source.condition(condition).and_then(|c| c.get(name));
            Some(cell(found, unit(name)?, interval))
        }));
        row.push(thousands(model.parameters));
        row
    });
    let headings = columns.iter().map(|column| column.0);
    let headings = ["model", "source"].into_iter().chain(headings).chain(["parameters"]);
    (headings.collect(), rows.collect())
}
