//! The curves of trainings.

use steer3d_train::EpochMetrics;

use crate::plot::{LEFT, LegendEntry, Mark, PLOT_WIDTH, RIGHT, legend, legend_rows};
use crate::svg::{Anchor, Svg, colour, page_style};

/// Pixels above the plot and its height.
const HEIGHT: f64 = 250.0;

/// A page with loss, accuracy, Dice and learning rate of named trainings over their epochs, one file without
/// scripts or references to anything outside it.
pub fn learning_curves(title: &str, runs: &[(String, Vec<EpochMetrics>)]) -> String {
    let title = title.replace('&', "&amp;").replace('<', "&lt;");
    let style = format!("{}{}", include_str!("page.css"), page_style());
    let plots = [
        Plot::new("loss", runs, |e| Some(e.train_loss), |e| e.validation_loss),
        Plot::new("accuracy", runs, |e| e.train_accuracy, |e| e.validation_accuracy),
        Plot::new("Dice", runs, |_| None, |e| e.validation_dice),
        Plot::new("learning rate", runs, |e| Some(e.learning_rate), |_| None),
    ];
    let figures: Vec<String> = plots
        .iter()
        .filter(|plot| !plot.curves.is_empty())
        .map(|plot| format!("<h2>{}</h2>\n<figure>{}</figure>\n", plot.label, plot.draw().inline()))
        .collect();
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title}</title>\
         <style>{style}</style></head>\n<body><h1>{title}</h1>\n\
         <p>Solid: validation set; dashed: training set, with dropout and augmentation, as the weights \
         moved (learning rate: solid).</p>\n{}</body></html>\n",
        figures.concat()
    )
}

struct Curve {
    name: String,
    run: usize,
    dashed: bool,
    points: Vec<[f64; 2]>,
}

/// Values over epochs.
struct Plot {
    label: &'static str,
    curves: Vec<Curve>,
}

impl Plot {
    fn new(
        label: &'static str,
        runs: &[(String, Vec<EpochMetrics>)],
        training: impl Fn(&EpochMetrics) -> Option<f64>,
        validation: impl Fn(&EpochMetrics) -> Option<f64>,
    ) -> Self {
        let points = |epochs: &[EpochMetrics], value: &dyn Fn(&EpochMetrics) -> Option<f64>| {
            let known = epochs.iter().filter_map(|e| Some([e.epoch as f64, value(e)?]));
            known.filter(|p| p[1].is_finite() && p[1] < 1e30).collect::<Vec<_>>()
        };
        let mut curves = vec![];
        for (run, (name, epochs)) in runs.iter().enumerate() {
            let name = || name.clone();
            let held_out = points(epochs, &validation);
            let dashed = !held_out.is_empty();
            curves.push(Curve { name: name(), run, dashed, points: points(epochs, &training) });
            curves.push(Curve { name: name(), run, dashed: false, points: held_out });
        }
        curves.retain(|curve| !curve.points.is_empty());
        Self { label, curves }
    }

    fn draw(&self) -> Svg {
        let entries: Vec<LegendEntry<'_>> = self
            .curves
            .iter()
            .filter(|c| !c.dashed)
            .map(|c| LegendEntry { text: &c.name, model: c.run, mark: Mark::Solid })
            .collect();
        let top = 16.0 + 20.0 * legend_rows(&entries) as f64;
        let bottom = top + HEIGHT;
        let mut svg =
            Svg::new(PLOT_WIDTH, bottom + 46.0, &format!("{} over the epochs", self.label));
        legend(&mut svg, &entries);
        let all = || self.curves.iter().flat_map(|c| &c.points);
        let last = all().map(|p| p[0]).fold(2.0, f64::max);
        let high = all().map(|p| p[1]).fold(f64::MIN_POSITIVE, f64::max);
        let (steps, size) = ticks(high);
        let x = |v: f64| LEFT + 8.0 + (v - 1.0) / (last - 1.0) * (PLOT_WIDTH - LEFT - RIGHT - 16.0);
        let y = |v: f64| bottom - v / (steps as f64 * size) * HEIGHT;
        for step in 0..=steps {
            let value = step as f64 * size;
            let class = if step == 0 { "axis" } else { "grid" };
            svg.line(class, [LEFT, y(value)], [PLOT_WIDTH - RIGHT, y(value)]);
            svg.text("small", [LEFT - 8.0, y(value) + 4.0], Anchor::End, &number(value));
        }
        let (steps, size) = ticks(last);
        let mut epochs: Vec<f64> = (0..=steps)
            .map(|i| (i as f64 * size.max(1.0)).max(1.0))
            .filter(|e| *e <= last)
            .collect();
        epochs.dedup();
        for epoch in epochs {
            svg.line("axis", [x(epoch), bottom], [x(epoch), bottom + 4.0]);
            svg.text("small", [x(epoch), bottom + 18.0], Anchor::Middle, &number(epoch));
        }
        svg.text("", [(LEFT + PLOT_WIDTH) / 2.0, bottom + 38.0], Anchor::Middle, "epoch");
        for curve in &self.curves {
            let points: Vec<_> = curve.points.iter().map(|p| [x(p[0]), y(p[1])]).collect();
            let (c, dash) = (colour(curve.run), if curve.dashed { " dash" } else { "" });
            svg.polyline(&format!("line l{c}{dash}"), &points);
            if let [point] = points[..] {
                svg.circle(&format!("f{c}"), point, 3.2);
            }
        }
        svg
    }
}

/// Four to ten round steps that reach `high`: their number and size, 1, 2 or 5 times a power of ten.
fn ticks(high: f64) -> (usize, f64) {
    let decade = 10f64.powf((high / 4.0).log10().floor());
    let size = [5.0, 2.0, 1.0].map(|m| m * decade).into_iter().find(|size| high / size >= 4.0);
    let size = size.unwrap_or(decade);
    (((high / size) - 1e-9).ceil().max(1.0) as usize, size)
}

/// A number without the noise of its last digits.
fn number(value: f64) -> String {
    let text = format!("{value:.3e}");
    text.parse::<f64>().map_or(text, |value| value.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_reach_the_highest_value() {
        for high in [0.02, 0.7, 1.0, 2.3, 9.9, 30.0, 1234.0] {
            let (steps, size) = ticks(high);
            assert!((4..=11).contains(&steps), "{high}: {steps} of {size}");
            assert!(steps as f64 * size >= high * (1.0 - 1e-9));
        }
        assert_eq!(number(3.0 * 0.1), "0.3");
    }

    #[test]
    fn a_page_shows_every_run_and_escapes_its_title() {
        let epoch = |epoch| EpochMetrics {
            epoch,
            train_loss: 1.0 / epoch as f64,
            train_accuracy: Some(0.5),
            validation_loss: (epoch > 1).then_some(2.0),
            validation_accuracy: None,
            validation_dice: (epoch > 1).then_some(0.5),
            best: true,
            learning_rate: 0.01,
            seconds: 1.0,
        };
        let runs = vec![
            ("one".to_owned(), (1..4).map(epoch).collect()),
            ("two".to_owned(), vec![epoch(1)]),
        ];
        let page = learning_curves("a < b", &runs);
        assert!(page.contains("<title>a &lt; b</title>") && !page.contains("NaN"));
        assert!(page.contains(">one<") && page.contains(">two<") && page.contains(" dash\""));
        assert!(page.contains("<h2>Dice</h2>"));
    }
}
