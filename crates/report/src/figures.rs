//! The plots of a section, chosen by its measures.

use steer3d_eval::metrics::Estimate;
use steer3d_eval::{
    AnswerKind, Condition, ConditionReport, ModelReport, Protocol, Section, SourceReport, axis_name,
};

use crate::axes;
use crate::numbers::percent;
use crate::plot::{ClassBars, Curve, LinePlot, PLOT_WIDTH, RIGHT, matrices};
use crate::reading;
use crate::svg::{Anchor, Svg, colour, shorten};

/// A plot with its words.
#[derive(Clone, Debug)]
pub struct Figure {
    /// Name of its file without the ending.
    pub name: String,
    /// Heading.
    pub title: String,
    /// What is shown.
    pub caption: String,
    /// The element to put into a page.
    pub inline: String,
    /// The text of a file of its own.
    pub file: String,
}

/// The plots of a section, those without data left out. `name` begins the file names.
pub fn figures(section: &Section, name: &str) -> Vec<Figure> {
    let of_kind = |over: Over| {
        let labelled = section.is_labelled();
        let shown = move |l: &&Lines| l.moved || over == Over::Angle || !labelled;
        let lines = LINES.iter().filter(|l| l.answers == section.answers()).filter(shown);
        lines.map(|l| l.draw(section, over)).collect::<Vec<_>>()
    };
    let mut drawn = of_kind(Over::Angle);
    drawn.push(about_axes(section));
    drawn.extend(of_kind(Over::Distance));
    drawn.extend([
        failures(section),
        per_class(section),
        confusion(section),
        layer_errors(section),
    ]);
    let figure = |(stem, title, caption, svg): (&str, String, String, Svg)| Figure {
        name: format!("{name}-{stem}"),
        title,
        caption,
        inline: svg.inline(),
        file: svg.file(),
    };
    drawn.into_iter().flatten().map(figure).collect()
}

/// The end of the file's name, the heading, the caption and the plot.
type Drawn = Option<(&'static str, String, String, Svg)>;

/// The conditions of a curve.
#[derive(Clone, Copy, PartialEq)]
enum Over {
    Angle,
    Distance,
}

/// Curves of one measure of all models and sources, starting from unrotated.
struct Lines {
    answers: AnswerKind,
    measure: &'static str,
    /// Whether they are drawn over the distance of translations, too.
    moved: bool,
    /// Its value unrotated, where that is not measured.
    unrotated: Option<f64>,
    /// Whether chance is shown.
    chance: bool,
    /// Ends of the names of the files over angles and over distances.
    names: [&'static str; 2],
    title: &'static str,
    label: &'static str,
    /// `{how}` stands for what is done to the volumes, `{background}` for the first class.
    caption: &'static str,
}

impl Lines {
    fn draw(&self, section: &Section, over: Over) -> Drawn {
        let protocol = &section.protocol;
        let (kind, x_label, ticks) = match over {
            Over::Angle => ("angle", "rotation angle (degrees)", ANGLES.to_vec()),
            Over::Distance => ("translation", "translation (voxels)", distances(protocol)),
        };
        let mut curves = vec![];
        for (i, model) in section.models.iter().enumerate() {
            for (rank, source) in model.sources.iter().enumerate() {
                let value = |c: &ConditionReport| {
                    let base = self.unrotated.filter(|_| c.condition == Condition::Unrotated);
                    (c.condition, c.get(self.measure).or(base.map(Estimate::exact)))
                };
                let values = source.conditions.iter().map(value);
                curves.push(Curve::new((i, &model.name), (rank, protocol), kind, values));
            }
        }
        let chances = self.chance && section.is_labelled();
        let reference = chances.then(|| chance(section));
        let svg = LinePlot { x_label, y_label: self.label, ticks, reference, curves }.draw()?;
        let how = match over {
            Over::Angle => format!(
                "when every volume is turned by exactly this angle about random axes ({} for each item and angle)",
                protocol.per_angle
            ),
            Over::Distance => {
                "when every volume is moved by this distance: whole distances along the grid, \
                               others in random directions; what leaves the grid is lost"
                    .into()
            }
        };
        let background = section.class_names().first().map_or("", String::as_str);
        let caption = self.caption.replace("{how}", &how).replace("{background}", background);
        let chance = if chances { " Dotted: chance." } else { "" };
        let caption = format!("{caption} {BANDS}{chance}{}", dashes(protocol));
        let against = ["rotation angle", "translation"][over as usize];
        let title = format!("{} against {against}", self.title);
        Some((self.names[over as usize], title, caption, svg))
    }
}

const BANDS: &str = "Bands: 95 % bootstrap intervals over items.";

const LINES: &[Lines] = &[
    Lines {
        answers: AnswerKind::Classes,
        measure: "accuracy",
        moved: true,
        unrotated: None,
        chance: true,
        names: ["accuracy-angle", "accuracy-translation"],
        title: "Accuracy",
        label: "accuracy (%)",
        caption: "Accuracy {how}.",
    },
    Lines {
        answers: AnswerKind::Classes,
        measure: "agreement",
        moved: false,
        unrotated: Some(1.0),
        chance: false,
        names: ["agreement-angle", "agreement-translation"],
        title: "Unchanged predictions",
        label: "same prediction (%)",
        caption: "Share of predictions that equal the one for the unrotated volume, right or wrong.",
    },
    Lines {
        answers: AnswerKind::Classes,
        measure: "calibration_error",
        moved: false,
        unrotated: None,
        chance: false,
        names: ["calibration-angle", ""],
        title: "Calibration",
        label: "calibration error (%)",
        caption: "Expected calibration error: how far the probabilities that a model gives to its answers are \
                  from the share that is right, mean over 15 bins.",
    },
    Lines {
        answers: AnswerKind::Voxels,
        measure: "foreground_accuracy",
        moved: true,
        unrotated: None,
        chance: false,
        names: ["accuracy-angle", "accuracy-translation"],
        title: "Accuracy",
        label: "accuracy (%)",
        caption: "Share of the voxels of other classes than {background} that are labelled right {how}.",
    },
    Lines {
        answers: AnswerKind::Voxels,
        measure: "dice",
        moved: false,
        unrotated: None,
        chance: false,
        names: ["dice-angle", ""],
        title: "Dice",
        label: "mean Dice (%)",
        caption: "Mean of the Dice coefficients of all classes {how}.",
    },
    Lines {
        answers: AnswerKind::Voxels,
        measure: "foreground_consistency",
        moved: false,
        unrotated: None,
        chance: false,
        names: ["consistency-angle", ""],
        title: "Unchanged labels",
        label: "same label (%)",
        caption: "Share of the voxels that have the label that the model gives them unrotated, right or \
                  wrong; those that are {background} both times are left out.",
    },
    Lines {
        answers: AnswerKind::Values,
        measure: "relative_deviation",
        moved: true,
        unrotated: None,
        chance: false,
        names: ["deviation-angle", "deviation-translation"],
        title: "Deviation",
        label: "deviation (%)",
        caption: "How far the outputs, turned back, are from those unrotated, over the root mean square of \
                  the latter.",
    },
];

/// The share that is plotted of each kind of answers over turns about an axis.
fn main_share(section: &Section) -> (&'static str, &'static str) {
    match section.answers() {
        AnswerKind::Classes if !section.is_labelled() => ("agreement", "same prediction (%)"),
        AnswerKind::Classes => ("accuracy", "accuracy (%)"),
        AnswerKind::Voxels if !section.is_labelled() => {
            ("foreground_consistency", "same label (%)")
        }
        AnswerKind::Voxels => ("foreground_accuracy", "accuracy (%)"),
        AnswerKind::Values => ("relative_deviation", "deviation (%)"),
    }
}

/// Chance level of a balanced guess.
fn chance(section: &Section) -> f64 {
    1.0 / section.dataset.class_names.len() as f64
}

/// Ticks of an axis of angles in degrees.
const ANGLES: [f64; 7] = [0.0, 30.0, 60.0, 90.0, 120.0, 150.0, 180.0];

/// The main share over the angle about each given axis, first source.
fn about_axes(section: &Section) -> Drawn {
    let axes = &section.protocol.axes;
    let (measure, y_label) = main_share(section);
    let curve = |(i, model): (usize, &ModelReport), (rank, axis): (usize, &[f64; 3])| {
        let conditions = &model.sources.first()?.conditions;
        let points = conditions.iter().filter(|c| {
            let about = matches!(c.condition, Condition::About { .. });
            c.condition == Condition::Unrotated || about && c.condition.axis() == Some(*axis)
        });
        let base = |c: &ConditionReport| {
            (measure == "agreement" && c.condition == Condition::Unrotated)
                .then(|| Estimate::exact(1.0))
        };
        let points = points.map(|c| (c.condition, c.get(measure).or(base(c))));
        let name = format!("{}, {}", model.name, axis_name(*axis));
        Some(Curve::of((i, name), rank % 2 == 1, points))
    };
    let models = section.models.iter().enumerate();
    let curves = models.flat_map(|m| axes.iter().enumerate().filter_map(move |a| curve(m, a)));
    let chances = section.answers() == AnswerKind::Classes && section.is_labelled();
    let plot = LinePlot {
        x_label: "angle about the axis (degrees)",
        y_label,
        ticks: ANGLES.to_vec(),
        reference: chances.then(|| chance(section)),
        curves: curves.collect(),
    };
    let what = match measure {
        "agreement" => "share of unchanged predictions",
        _ => y_label.trim_end_matches(" (%)"),
    };
    let caption = format!(
        "The {what} when every volume is turned about the same axis ({}). {BANDS}{}",
        section.protocol.sources[0],
        if chances { " Dotted: chance." } else { "" }
    );
    let (name, title) = match section.answers() {
        AnswerKind::Values => ("deviation-axes", "Deviation against the angle about an axis"),
        AnswerKind::Classes if !section.is_labelled() => {
            ("agreement-axes", "Unchanged predictions against the angle about an axis")
        }
        AnswerKind::Voxels if !section.is_labelled() => {
            ("consistency-axes", "Unchanged labels against the angle about an axis")
        }
        _ => ("accuracy-axes", "Accuracy against the angle about an axis"),
    };
    Some((name, title.into(), caption, plot.draw()?))
}

fn failures(section: &Section) -> Drawn {
    let maps = section.models.iter().filter_map(|model| {
        let cells = &model.sources.first()?.failures_by_axis;
        let any = cells.iter().any(|cell| cell.predictions > 0);
        any.then_some((model.name.clone(), &cells[..]))
    });
    let maps: Vec<_> = maps.collect();
    if maps.is_empty() {
        return None;
    }
    let caption = format!(
        "Share of wrong predictions by the axis of the rotation ({}): the half sphere of axes from \
         above, z in the centre, in an equal-area projection; pale: none wrong, full colour: all. All \
         rotated volumes that are not also moved.",
        section.protocol.sources[0]
    );
    Some(("axes", "Failures by rotation axis".into(), caption, axes::draw(&maps, 2)))
}

/// Ticks of an axis of translations in voxels.
fn distances(protocol: &Protocol) -> Vec<f64> {
    let largest = protocol.translations.iter().copied().fold(0.0, f64::max).ceil();
    let step = (largest / 8.0).ceil().max(1.0);
    (0..).map(|i| f64::from(i) * step).take_while(|&tick| tick <= largest).collect()
}

fn dashes(protocol: &Protocol) -> String {
    let Some(second) = protocol.sources.get(1) else { return String::new() };
    format!(" Solid: {}; dashed: {second}.", protocol.sources[0])
}

/// The reports of the first source, unrotated and at random rotations, of all models that have both.
fn both(section: &Section) -> Vec<(&str, [&ConditionReport; 2])> {
    section.models.iter().filter_map(|m| Some((&m.name[..], reading::both(m)?))).collect()
}

fn per_class(section: &Section) -> Drawn {
    let (measure, label, title) = match section.answers() {
        AnswerKind::Classes if !section.is_labelled() => {
            ("predicted_share", "predictions (%)", "Predictions of each class")
        }
        AnswerKind::Classes => ("recall", "accuracy (%)", "Accuracy of each class"),
        AnswerKind::Voxels => ("dice", "Dice (%)", "Dice of each class"),
        AnswerKind::Values => return None,
    };
    if section.answers() == AnswerKind::Voxels && !section.is_labelled() {
        return None;
    }
    let (models, data) = (both(section), &section.dataset);
    let total: usize = data.class_counts.iter().sum();
    let below = |n: usize| match section.answers() {
        AnswerKind::Voxels => format!("{} %", percent(n as f64 / total.max(1) as f64)),
        _ => format!("n = {n}"),
    };
    let names = section.class_names();
    let count = |class: usize| data.class_counts.get(class).map_or_else(String::new, |n| below(*n));
    let classes = names.iter().enumerate();
    let bars = ClassBars {
        label,
        classes: classes.map(|(class, name)| (name.clone(), count(class))).collect(),
        models: models.iter().map(|(name, _)| *name).collect(),
        value: &|model, rotated, class| models[model].1[rotated].of_class(measure, &names[class]),
    };
    let what = match section.answers() {
        AnswerKind::Voxels => "Dice coefficient of each class; below: its share of the voxels",
        _ if !section.is_labelled() => "Share of the predictions that are of each class",
        _ => "Share of the items of each class that are classified right",
    };
    let caption = format!(
        "{what} ({}), unrotated and at random rotations. Whiskers: 95 % bootstrap intervals over items.",
        section.protocol.sources[0]
    );
    Some(("per-class", title.into(), caption, bars.draw()?))
}

fn confusion(section: &Section) -> Drawn {
    let counts = |(name, [a, b]): (_, [&ConditionReport; 2])| {
        Some((name, [a.confusion.clone()?, b.confusion.clone()?]))
    };
    let models: Vec<_> = both(section).into_iter().filter_map(counts).collect();
    let svg = matrices(&section.dataset.class_names, &models)?;
    let caption = format!(
        "Rows: true class; columns: predicted class; per cent of the row ({}). Left unrotated, \
         right at random rotations.",
        section.protocol.sources[0]
    );
    Some(("confusion", "Confusion matrices".into(), caption, svg))
}

/// Width of the column of layer names.
const NAMES: f64 = 150.0;

/// Smallest equivariance error that the plot tells apart from 0.
const ERROR_FLOOR: f64 = 1e-8;

fn layer_errors(section: &Section) -> Drawn {
    let models: Vec<(usize, &ModelReport, &SourceReport)> = section
        .models
        .iter()
        .enumerate()
        .filter_map(|(i, model)| {
            let source = model.sources.first()?;
            (!source.layers.is_empty()).then_some((i, model, source))
        })
        .collect();
    if models.is_empty() {
        return None;
    }
    let all = || {
        let layers = models.iter().flat_map(|(_, _, source)| &source.layers);
        layers.flat_map(|layer| [layer.random, layer.cube]).flatten()
    };
    let largest = all().fold(0.1, f64::max).log10().ceil();
    let smallest = all().fold(0.01, f64::min).max(ERROR_FLOOR).log10().floor();
    let x = |error: f64| {
        let place = (error.max(ERROR_FLOOR).log10() - smallest) / (largest - smallest);
        NAMES + 14.0 + place * (PLOT_WIDTH - NAMES - RIGHT - 26.0)
    };
    let rows: usize = models.iter().map(|(_, _, source)| source.layers.len() + 2).sum();
    let height = 18.0 * rows as f64 + 68.0;
    let mut svg = Svg::new(PLOT_WIDTH, height, "equivariance error of every layer");
    let bottom = height - 46.0;
    for power in smallest as i32..=largest as i32 {
        let at = x(10f64.powi(power));
        svg.line("grid", [at, 24.0], [at, bottom]);
        svg.text("small", [at, bottom + 16.0], Anchor::Middle, &power_of_ten(power));
    }
    let label = "relative equivariance error (log scale)";
    svg.text("", [(NAMES + PLOT_WIDTH) / 2.0, bottom + 38.0], Anchor::Middle, label);
    svg.circle("f5", [NAMES + 14.0, 11.0], 4.0);
    svg.text("small", [NAMES + 24.0, 15.0], Anchor::Start, "random rotations");
    svg.circle("open l5", [NAMES + 144.0, 11.0], 4.0);
    svg.text("small", [NAMES + 154.0, 15.0], Anchor::Start, "cube rotations");
    let mut y = 40.0;
    for (i, model, source) in models {
        svg.text("title", [4.0, y], Anchor::Start, &shorten(&model.name, 22));
        for layer in &source.layers {
            y += 18.0;
            svg.text("small", [NAMES - 6.0, y + 4.0], Anchor::End, &shorten(&layer.name, 22));
            svg.line("grid", [NAMES + 8.0, y], [PLOT_WIDTH - RIGHT, y]);
            if let Some(error) = layer.cube {
                svg.circle(&format!("open l{}", colour(i)), [x(error), y], 4.0);
            }
            if let Some(error) = layer.random {
                svg.circle(&format!("f{}", colour(i)), [x(error), y], 4.0);
            }
        }
        y += 36.0;
    }
    let caption = format!(
        "‖L(Rx) − R L(x)‖ / ‖R L(x)‖ inside the ball |p| ≤ 0.35 N of each layer's grid, mean over \
         {} items and {} rotations ({}). Filled: uniform random rotations, which include the error \
         of resampling; open: cube rotations, which do not. Errors below 1e-8 are drawn at 1e-8.",
        section.protocol.layer_items, section.protocol.layer_rotations, section.protocol.sources[0]
    );
    Some(("layers", "Equivariance error of every layer".into(), caption, svg))
}

/// `10⁻³`.
fn power_of_ten(power: i32) -> String {
    const DIGITS: [char; 10] = ['⁰', '¹', '²', '³', '⁴', '⁵', '⁶', '⁷', '⁸', '⁹'];
    let digits = power.unsigned_abs().to_string();
    let digits: String = digits.bytes().map(|digit| DIGITS[usize::from(digit - b'0')]).collect();
    format!("10{}{digits}", if power < 0 { "⁻" } else { "" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn powers_of_ten() {
        assert_eq!(power_of_ten(-12), "10⁻¹²");
        assert_eq!(power_of_ten(0), "10⁰");
    }
}
