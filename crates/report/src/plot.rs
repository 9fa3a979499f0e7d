//! Kinds of plots.

use steer3d_eval::metrics::Estimate;
use steer3d_eval::{Condition, Protocol};

use crate::svg::{Anchor, Svg, colour, shorten, text_width};

/// One curve of a [`LinePlot`].
pub(crate) struct Curve {
    name: String,
    model: usize,
    dashed: bool,
    points: Vec<(f64, Estimate)>,
}

impl Curve {
    /// A model's values with one source, the `rank`-th of the protocol, over the conditions of a kind,
    /// starting from unrotated.
    pub(crate) fn new(
        model: (usize, &str),
        source: (usize, &Protocol),
        kind: &str,
        values: impl Iterator<Item = (Condition, Option<Estimate>)>,
    ) -> Self {
        let (rank, protocol) = source;
        let values = values.filter(|(c, _)| *c == Condition::Unrotated || c.kind() == kind);
        let name = match protocol.sources[..] {
            [_] => model.1.to_owned(),
            _ => format!("{} ({})", model.1, protocol.sources[rank]),
        };
        Self::of((model.0, name), rank > 0, values)
    }

    /// The values under some conditions, by their parameter.
    pub(crate) fn of(
        (model, name): (usize, String),
        dashed: bool,
        values: impl Iterator<Item = (Condition, Option<Estimate>)>,
    ) -> Self {
        let mut points: Vec<(f64, Estimate)> =
            values.filter_map(|(c, value)| Some((c.parameter().unwrap_or(0.0), value?))).collect();
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        Self { name, model, dashed, points }
    }
}

/// Shares in per cent over an axis that starts at 0.
pub(crate) struct LinePlot {
    pub(crate) x_label: &'static str,
    pub(crate) y_label: &'static str,
    pub(crate) ticks: Vec<f64>,
    pub(crate) reference: Option<f64>,
    pub(crate) curves: Vec<Curve>,
}

pub(crate) const PLOT_WIDTH: f64 = 560.0;
pub(crate) const LEFT: f64 = 54.0;
pub(crate) const RIGHT: f64 = 16.0;

impl LinePlot {
    /// The drawing, or `None` when no curve has more than the unrotated point.
    pub(crate) fn draw(&self) -> Option<Svg> {
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
pub(crate) enum Mark {
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

pub(crate) struct LegendEntry<'a> {
    pub(crate) text: &'a str,
    pub(crate) model: usize,
    pub(crate) mark: Mark,
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

pub(crate) fn legend_rows(entries: &[LegendEntry<'_>]) -> usize {
    legend_places(entries).last().map_or(0, |(row, _)| row + 1)
}

pub(crate) fn legend(svg: &mut Svg, entries: &[LegendEntry<'_>]) {
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

/// A value of each model for each class, unrotated and rotated.
pub(crate) struct ClassBars<'a> {
    pub(crate) label: &'a str,
    /// What is written below the bars of each class.
    pub(crate) classes: Vec<(String, String)>,
    pub(crate) models: Vec<&'a str>,
    /// The value of a model, unrotated (0) or rotated (1), for a class.
    pub(crate) value: &'a dyn Fn(usize, usize, usize) -> Option<Estimate>,
}

impl ClassBars<'_> {
    /// The drawing, or `None` without models.
    pub(crate) fn draw(&self) -> Option<Svg> {
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

/// Confusion matrices \[true class\]\[predicted class\] of every model, unrotated and rotated; `None`
/// without models.
pub(crate) fn matrices(classes: &[String], models: &[(&str, [Vec<Vec<u64>>; 2])]) -> Option<Svg> {
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

#[cfg(test)]
mod tests {
    use super::*;

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
