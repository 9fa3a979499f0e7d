//! The plots of a section.

use super::svg::{Anchor, Svg, colour, shorten, text_width};
use super::{ConditionReport, ModelReport, Section, SourceReport, axes};
use crate::metrics::Estimate;
use crate::protocol::{Condition, Protocol, Source, axis_name};
use crate::scores::{Scores, Stability};

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
    let drawn = [
        accuracy_by_angle(section),
        consistency_by_angle(section),
        calibration_by_angle(section),
        accuracy_about_axes(section),
        accuracy_by_translation(section),
        failures(section),
        per_class(section),
        confusion(section),
        layer_errors(section),
    ];
    named(name, drawn)
}

/// The end of the file's name, the heading, the caption and the plot.
pub(super) type Drawn = Option<(&'static str, &'static str, String, Svg)>;

/// The plots that there are; `name` begins the file names.
pub(super) fn named(name: &str, drawn: impl IntoIterator<Item = Drawn>) -> Vec<Figure> {
    let figure = |(stem, title, caption, svg): (&str, &str, String, Svg)| Figure {
        name: format!("{name}-{stem}"),
        title: title.into(),
        caption,
        inline: svg.inline(),
        file: svg.file(),
    };
    drawn.into_iter().flatten().map(figure).collect()
}

/// Chance level of a balanced guess.
fn chance(section: &Section) -> f64 {
    1.0 / section.dataset.class_names.len() as f64
}

/// Ticks of an axis of angles in degrees.
pub(super) const ANGLES: [f64; 7] = [0.0, 30.0, 60.0, 90.0, 120.0, 150.0, 180.0];

fn accuracy_by_angle(section: &Section) -> Drawn {
    let value = |scores: &Scores, _: Option<&Stability>| Some(scores.accuracy);
    let plot = LinePlot {
        x_label: "rotation angle (degrees)",
        y_label: "accuracy (%)",
        ticks: ANGLES.to_vec(),
        reference: Some(chance(section)),
        curves: curves(section, "angle", value),
    };
    let caption = format!(
        "Accuracy when every volume is turned by exactly this angle about random axes \
         ({} for each item and angle). {BANDS} Dotted: chance.{}",
        section.protocol.per_angle,
        dashes(&section.protocol)
    );
    Some(("accuracy-angle", "Accuracy against rotation angle", caption, plot.draw()?))
}

fn consistency_by_angle(section: &Section) -> Drawn {
    let certain = Estimate { value: 1.0, low: 1.0, high: 1.0 };
    let value = |_: &Scores, stability: Option<&Stability>| {
        Some(stability.map_or(certain, |s| s.agreement))
    };
    let plot = LinePlot {
        x_label: "rotation angle (degrees)",
        y_label: "same prediction (%)",
        ticks: ANGLES.to_vec(),
        reference: None,
        curves: curves(section, "angle", value),
    };
    let caption = format!(
        "Share of predictions that equal the one for the unrotated volume, right or wrong. \
         {BANDS}{}",
        dashes(&section.protocol)
    );
    Some(("agreement-angle", "Unchanged predictions against rotation angle", caption, plot.draw()?))
}

fn calibration_by_angle(section: &Section) -> Drawn {
    let plot = LinePlot {
        x_label: "rotation angle (degrees)",
        y_label: "calibration error (%)",
        ticks: ANGLES.to_vec(),
        reference: None,
        curves: curves(section, "angle", |scores, _| Some(scores.calibration_error)),
    };
    let caption = format!(
        "Expected calibration error: how far the probabilities that a model gives to its answers are \
         from the share that is right, mean over 15 bins. {BANDS}{}",
        dashes(&section.protocol)
    );
    Some(("calibration-angle", "Calibration against rotation angle", caption, plot.draw()?))
}

/// Accuracy over the angle about each given axis, first source.
fn accuracy_about_axes(section: &Section) -> Drawn {
    let axes = &section.protocol.axes;
    let curve = |(i, model): (usize, &ModelReport), (rank, axis): (usize, &[f64; 3])| {
        let conditions = &model.sources.first()?.conditions;
        let points = conditions.iter().filter(|c| {
            let about = matches!(c.condition, Condition::About { .. });
            c.condition == Condition::Unrotated || about && c.condition.axis() == Some(*axis)
        });
        let at = |c: &ConditionReport| (c.condition.parameter().unwrap_or(0.0), c.scores.accuracy);
        let mut points: Vec<_> = points.map(at).collect();
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        let name = format!("{}, {}", model.name, axis_name(*axis));
        Some(Curve { name, model: i, dashed: rank % 2 == 1, points })
    };
    let models = section.models.iter().enumerate();
    let curves = models.flat_map(|m| axes.iter().enumerate().filter_map(move |a| curve(m, a)));
    let plot = LinePlot {
        x_label: "angle about the axis (degrees)",
        y_label: "accuracy (%)",
        ticks: ANGLES.to_vec(),
        reference: Some(chance(section)),
        curves: curves.collect(),
    };
    let caption = format!(
        "Accuracy when every volume is turned about the same axis ({}). {BANDS} Dotted: chance.",
        section.protocol.sources[0]
    );
    Some(("accuracy-axes", "Accuracy against the angle about an axis", caption, plot.draw()?))
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
    Some(("axes", "Failures by rotation axis", caption, axes::draw(&maps, 2)))
}

/// Ticks of an axis of translations in voxels.
pub(super) fn distances(protocol: &Protocol) -> Vec<f64> {
    let largest = protocol.translations.iter().copied().fold(0.0, f64::max).ceil();
    let step = (largest / 8.0).ceil().max(1.0);
    (0..).map(|i| f64::from(i) * step).take_while(|&tick| tick <= largest).collect()
}

fn accuracy_by_translation(section: &Section) -> Drawn {
    let plot = LinePlot {
        x_label: "translation (voxels)",
        y_label: "accuracy (%)",
        ticks: distances(&section.protocol),
        reference: Some(chance(section)),
        curves: curves(section, "translation", |scores, _| Some(scores.accuracy)),
    };
    let caption = format!(
        "Accuracy when every volume is moved by this distance: whole distances along the grid, \
         others in random directions. What leaves the grid is lost. {BANDS} Dotted: chance.{}",
        dashes(&section.protocol)
    );
    Some(("accuracy-translation", "Accuracy against translation", caption, plot.draw()?))
}

pub(super) const BANDS: &str = "Bands: 95 % bootstrap intervals over items.";

pub(super) fn dashes(protocol: &Protocol) -> String {
    let Some(second) = protocol.sources.get(1) else { return String::new() };
    format!(" Solid: {}; dashed: {second}.", protocol.sources[0])
}

/// One curve of a [`LinePlot`].
pub(super) struct Curve {
    name: String,
    model: usize,
    dashed: bool,
    points: Vec<(f64, Estimate)>,
}

impl Curve {
    /// A model's values with one source, the `rank`-th of the protocol, over the conditions of a kind,
    /// starting from unrotated.
    pub(super) fn new(
        model: (usize, &str),
        source: (usize, &Protocol),
        kind: &str,
        values: impl Iterator<Item = (Condition, Option<Estimate>)>,
    ) -> Self {
        let (rank, protocol) = source;
        let values = values.filter(|(c, _)| *c == Condition::Unrotated || c.kind() == kind);
        let mut points: Vec<(f64, Estimate)> =
            values.filter_map(|(c, value)| Some((c.parameter().unwrap_or(0.0), value?))).collect();
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        let name = match protocol.sources[..] {
            [_] => model.1.to_owned(),
            _ => format!("{} ({})", model.1, protocol.sources[rank]),
        };
        Self { name, model: model.0, dashed: rank > 0, points }
    }

    /// Those of all models, of which there are name and scores, and sources; `value` tells of each score where it
    /// belongs.
    pub(super) fn all<'a, S: 'a>(
        models: impl Iterator<Item = (&'a str, &'a [S])>,
        protocol: &Protocol,
        kind: &str,
        value: impl Fn(&S) -> (Source, Condition, Option<Estimate>),
    ) -> Vec<Self> {
        let mut curves = vec![];
        for (i, (name, scores)) in models.enumerate() {
            for (rank, source) in protocol.sources.iter().enumerate() {
                let values = scores.iter().map(&value).filter(|v| v.0 == *source);
                let values = values.map(|(_, condition, value)| (condition, value));
                curves.push(Self::new((i, name), (rank, protocol), kind, values));
            }
        }
        curves
    }
}

/// The curves of all models and sources over the conditions of a kind, starting from unrotated.
fn curves(
    section: &Section,
    kind: &str,
    value: impl Fn(&Scores, Option<&Stability>) -> Option<Estimate>,
) -> Vec<Curve> {
    let mut curves = vec![];
    for (i, model) in section.models.iter().enumerate() {
        for (rank, source) in model.sources.iter().enumerate() {
            let values = source.conditions.iter();
            let values = values.map(|c| (c.condition, value(&c.scores, c.stability.as_ref())));
            curves.push(Curve::new((i, &model.name), (rank, &section.protocol), kind, values));
        }
    }
    curves
}

/// Shares in per cent over an axis that starts at 0.
pub(super) struct LinePlot {
    pub(super) x_label: &'static str,
    pub(super) y_label: &'static str,
    pub(super) ticks: Vec<f64>,
    pub(super) reference: Option<f64>,
    pub(super) curves: Vec<Curve>,
}

pub(super) const PLOT_WIDTH: f64 = 560.0;
pub(super) const LEFT: f64 = 54.0;
pub(super) const RIGHT: f64 = 16.0;

impl LinePlot {
    /// The drawing, or `None` when no curve has more than the unrotated point.
    pub(super) fn draw(&self) -> Option<Svg> {
        if self.curves.iter().all(|curve| curve.points.len() < 2) {
            return None;
        }
        let entries: Vec<LegendEntry<'_>> = self
            .curves
            .iter()
            .map(|c| LegendEntry { text: &c.name, model: c.model, mark: Mark::line(c.dashed) })
            .collect();
        let rows = legend_rows(&entries);
        let top = 12.0 + 20.0 * rows as f64;
        let bottom = top + 250.0;
        let label = format!("{} over {}", self.y_label, self.x_label);
        let mut svg = Svg::new(PLOT_WIDTH, bottom + 46.0, &label);
        legend(&mut svg, &entries);
        let largest = self.ticks.last().copied().unwrap_or(1.0);
        let x = |value: f64| LEFT + 8.0 + value / largest * (PLOT_WIDTH - LEFT - RIGHT - 16.0);
        let highest = self.curves.iter().flat_map(|c| &c.points).map(|(_, e)| e.high);
        let most = axis_end(highest.fold(0.0, f64::max));
        let y = |share: f64| bottom - share / most * (bottom - top);
        share_axis(&mut svg, &y, most, self.y_label);
        for &tick in &self.ticks {
            svg.line("axis", [x(tick), bottom], [x(tick), bottom + 4.0]);
            svg.text("small", [x(tick), bottom + 18.0], Anchor::Middle, &tick.to_string());
        }
        svg.text("", [(LEFT + PLOT_WIDTH) / 2.0, bottom + 38.0], Anchor::Middle, self.x_label);
        if let Some(level) = self.reference {
            svg.line("reference", [LEFT, y(level)], [PLOT_WIDTH - RIGHT, y(level)]);
        }
        for curve in &self.curves {
            let upper = curve.points.iter().map(|(at, e)| [x(*at), y(e.high)]);
            let lower = curve.points.iter().rev().map(|(at, e)| [x(*at), y(e.low)]);
            let band: Vec<_> = upper.chain(lower).collect();
            svg.polygon(&format!("band f{}", colour(curve.model)), &band);
        }
        for curve in &self.curves {
            let points: Vec<_> = curve.points.iter().map(|(at, e)| [x(*at), y(e.value)]).collect();
            let (c, dash) = (colour(curve.model), if curve.dashed { " dash" } else { "" });
            svg.polyline(&format!("line l{c}{dash}"), &points);
            for point in points {
                svg.circle(&format!("f{c}"), point, 3.2);
            }
        }
        Some(svg)
    }
}

/// The share at the upper end of an axis: 1, or 2, 5, 10, 20 and so on where values are larger.
fn axis_end(largest: f64) -> f64 {
    let power = 10f64.powf(largest.clamp(1.0, 1e9).log10().floor());
    let ends = [1.0, 2.0, 5.0, 10.0].map(|factor| factor * power);
    // Shares of 1 may be rounded up.
    ends.into_iter().find(|end| largest <= end + 1e-9).unwrap_or(10.0 * power)
}

/// Horizontal grid lines at every fifth of the axis from 0 to `most`, labelled in per cent.
fn share_axis(svg: &mut Svg, y: &dyn Fn(f64) -> f64, most: f64, label: &str) {
    for step in 0..=5 {
        let share = f64::from(step) / 5.0 * most;
        let class = if step == 0 { "axis" } else { "grid" };
        svg.line(class, [LEFT, y(share)], [PLOT_WIDTH - RIGHT, y(share)]);
        let text = format!("{:.0}", 100.0 * share);
        svg.text("small", [LEFT - 8.0, y(share) + 4.0], Anchor::End, &text);
    }
    svg.vertical_text("", [14.0, (y(0.0) + y(most)) / 2.0], label);
}

/// How an entry of a legend is drawn.
#[derive(Clone, Copy)]
pub(super) enum Mark {
    Solid,
    Dashed,
    PaleBox,
    Box,
}

impl Mark {
    fn line(dashed: bool) -> Self {
        if dashed { Self::Dashed } else { Self::Solid }
    }
}

pub(super) struct LegendEntry<'a> {
    pub(super) text: &'a str,
    pub(super) model: usize,
    pub(super) mark: Mark,
}

/// Row and left end of every entry.
fn legend_places(entries: &[LegendEntry<'_>]) -> Vec<(usize, f64)> {
    let (mut row, mut left) = (0, LEFT);
    entries
        .iter()
        .map(|entry| {
            let width = 44.0 + text_width(entry.text);
            if left > LEFT && left + width > PLOT_WIDTH {
                (row, left) = (row + 1, LEFT);
            }
            let place = (row, left);
            left += width;
            place
        })
        .collect()
}

pub(super) fn legend_rows(entries: &[LegendEntry<'_>]) -> usize {
    legend_places(entries).last().map_or(0, |(row, _)| row + 1)
}

pub(super) fn legend(svg: &mut Svg, entries: &[LegendEntry<'_>]) {
    for (entry, (row, left)) in entries.iter().zip(legend_places(entries)) {
        let (c, y) = (colour(entry.model), 12.0 + 20.0 * row as f64);
        let mut line = |dash: &str| {
            svg.line(&format!("line l{c}{dash}"), [left, y], [left + 24.0, y]);
        };
        match entry.mark {
            Mark::Solid => line(""),
            Mark::Dashed => line(" dash"),
            Mark::PaleBox => {
                svg.rect(&format!("pale f{c}"), [left + 6.0, y - 6.0], [14.0, 12.0], 1.0);
            }
            Mark::Box => svg.rect(&format!("f{c}"), [left + 6.0, y - 6.0], [14.0, 12.0], 1.0),
        }
        svg.text("", [left + 30.0, y + 4.0], Anchor::Start, entry.text);
    }
}

/// The first source's scores unrotated and at random rotations.
fn both_scores(model: &ModelReport) -> Option<[&Scores; 2]> {
    let source = model.sources.first()?;
    let scores = |condition| source.condition(condition).map(|c| &c.scores);
    Some([scores(Condition::Unrotated)?, scores(Condition::Random)?])
}

fn per_class(section: &Section) -> Drawn {
    let models: Vec<(&str, [&Scores; 2])> =
        section.models.iter().filter_map(|m| Some((&m.name[..], both_scores(m)?))).collect();
    let data = &section.dataset;
    let count = |(name, n): (&String, &usize)| (name.clone(), format!("n = {n}"));
    let bars = ClassBars {
        label: "accuracy (%)",
        classes: data.class_names.iter().zip(&data.class_counts).map(count).collect(),
        models: models.iter().map(|(name, _)| *name).collect(),
        value: &|model, rotated, class| models[model].1[rotated].per_class[class].recall,
    };
    let caption = format!(
        "Share of the items of each class that are classified right ({}), unrotated and at \
         random rotations. Whiskers: 95 % bootstrap intervals over items.",
        section.protocol.sources[0]
    );
    Some(("per-class", "Accuracy of each class", caption, bars.draw()?))
}

/// A value of each model for each class, unrotated and rotated.
pub(super) struct ClassBars<'a> {
    pub(super) label: &'a str,
    /// What is written below the bars of each class.
    pub(super) classes: Vec<(String, String)>,
    pub(super) models: Vec<&'a str>,
    /// The value of a model, unrotated (0) or rotated (1), for a class.
    pub(super) value: &'a dyn Fn(usize, usize, usize) -> Option<Estimate>,
}

impl ClassBars<'_> {
    /// The drawing, or `None` without models.
    pub(super) fn draw(&self) -> Option<Svg> {
        if self.models.is_empty() {
            return None;
        }
        let names: Vec<String> = self
            .models
            .iter()
            .flat_map(|name| [format!("{name}, unrotated"), format!("{name}, rotated")])
            .collect();
        let mark = |i: usize| if i.is_multiple_of(2) { Mark::PaleBox } else { Mark::Box };
        let entries: Vec<LegendEntry<'_>> = names
            .iter()
            .enumerate()
            .map(|(i, text)| LegendEntry { text, model: i / 2, mark: mark(i) })
            .collect();
        let top = 12.0 + 20.0 * legend_rows(&entries) as f64;
        let bottom = top + 220.0;
        let mut svg = Svg::new(PLOT_WIDTH, bottom + 44.0, &format!("{} of each class", self.label));
        legend(&mut svg, &entries);
        let y = |share: f64| bottom - share * (bottom - top);
        share_axis(&mut svg, &y, 1.0, self.label);
        let group = (PLOT_WIDTH - LEFT - RIGHT) / self.classes.len() as f64;
        let bars = 2 * self.models.len();
        let bar = (0.8 * group / bars as f64).min(34.0);
        for (class, (name, below)) in self.classes.iter().enumerate() {
            let centre = LEFT + (class as f64 + 0.5) * group;
            let first = centre - bar * self.models.len() as f64;
            for i in 0..bars {
                let Some(value) = (self.value)(i / 2, i % 2, class) else { continue };
                let (left, c) = (first + i as f64 * bar, colour(i / 2));
                let class = if i % 2 == 0 { format!("pale f{c}") } else { format!("f{c}") };
                let size = [bar - 2.0, bottom - y(value.value)];
                svg.rect(&class, [left + 1.0, y(value.value)], size, 1.0);
                let middle = left + bar / 2.0;
                svg.line("whisker", [middle, y(value.low)], [middle, y(value.high)]);
            }
            let limit = (group / 6.2).max(3.0) as usize;
            svg.text("small", [centre, bottom + 17.0], Anchor::Middle, &shorten(name, limit));
            svg.text("small muted", [centre, bottom + 33.0], Anchor::Middle, below);
        }
        Some(svg)
    }
}

fn confusion(section: &Section) -> Drawn {
    let counts = |model: &ModelReport| both_scores(model).map(|s| s.map(|s| s.confusion.clone()));
    let models = section.models.iter().filter_map(|m| Some((&m.name[..], counts(m)?)));
    let svg = matrices(&section.dataset.class_names, &models.collect::<Vec<_>>())?;
    let caption = format!(
        "Rows: true class; columns: predicted class; per cent of the row ({}). Left unrotated, \
         right at random rotations.",
        section.protocol.sources[0]
    );
    Some(("confusion", "Confusion matrices", caption, svg))
}

/// Confusion matrices \[true class\]\[predicted class\] of every model, unrotated and rotated; `None`
/// without models.
pub(super) fn matrices(classes: &[String], models: &[(&str, [Vec<Vec<u64>>; 2])]) -> Option<Svg> {
    if models.is_empty() {
        return None;
    }
    let cell = (200.0 / classes.len() as f64).clamp(22.0, 56.0);
    let side = cell * classes.len() as f64;
    let (panel, row) = ((side + 130.0).max(270.0), side + 74.0);
    let height = row * models.len() as f64;
    let mut svg = Svg::new(2.0 * panel, height, "confusion matrices");
    for (i, (model, counts)) in models.iter().enumerate() {
        for (j, (counts, what)) in counts.iter().zip(["unrotated", "rotated"]).enumerate() {
            let corner = [j as f64 * panel + 118.0, i as f64 * row + 28.0];
            let title = format!("{}, {what}", shorten(model, 24));
            svg.text("title", [corner[0], corner[1] - 10.0], Anchor::Start, &title);
            matrix(&mut svg, classes, counts, corner, cell, i);
        }
    }
    Some(svg)
}

fn matrix(
    svg: &mut Svg,
    names: &[String],
    counts: &[Vec<u64>],
    [left, top]: [f64; 2],
    cell: f64,
    model: usize,
) {
    let c = colour(model);
    let limit = (cell / 6.0).max(4.0) as usize;
    let text_class = if cell < 30.0 { "tiny" } else { "small" };
    for (row, line) in counts.iter().enumerate() {
        let total = line.iter().sum::<u64>().max(1) as f64;
        let y = top + row as f64 * cell;
        svg.text(
            text_class,
            [left - 6.0, y + cell / 2.0 + 4.0],
            Anchor::End,
            &shorten(&names[row], 18),
        );
        for (column, &count) in line.iter().enumerate() {
            let x = left + column as f64 * cell;
            let share = count as f64 / total;
            svg.rect(&format!("cell f{c}"), [x, y], [cell - 1.0, cell - 1.0], 0.06 + 0.94 * share);
            let class = if share > 0.55 { format!("{text_class} on") } else { text_class.into() };
            let text = format!("{:.0}", 100.0 * share);
            svg.text(&class, [x + cell / 2.0, y + cell / 2.0 + 4.0], Anchor::Middle, &text);
        }
    }
    for (column, name) in names.iter().enumerate() {
        let at = [left + (column as f64 + 0.5) * cell, top + names.len() as f64 * cell + 14.0];
        svg.text(text_class, at, Anchor::Middle, &shorten(name, limit));
    }
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
        section.protocol.layer_items,
        section.protocol.layer_rotations,
        source_name(section)
    );
    Some(("layers", "Equivariance error of every layer", caption, svg))
}

fn source_name(section: &Section) -> String {
    section.protocol.sources[0].to_string()
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

    #[test]
    fn an_axis_ends_at_a_round_number() {
        let ends = [
            (0.0, 1.0),
            (1.0, 1.0),
            (1.14, 2.0),
            (2.5, 5.0),
            (7.0, 10.0),
            (10.0, 10.0),
            (30.0, 50.0),
        ];
        for (largest, end) in ends {
            assert_eq!(axis_end(largest), end, "{largest}");
        }
    }

    #[test]
    fn a_long_legend_breaks_into_rows() {
        let text = "x".repeat(40);
        let entry = || LegendEntry { text: &text, model: 0, mark: Mark::Solid };
        assert_eq!(legend_rows(&[entry(), entry(), entry()]), 3);
    }
}
