//! Curves over a linear axis with logarithmic values.

use crate::plot::{LEFT, LegendEntry, Mark, PLOT_WIDTH, RIGHT, legend, legend_rows};
use crate::svg::{Anchor, Svg, colour};

/// Named curves of positive values.
pub(crate) struct LogPlot {
    pub(crate) x_label: &'static str,
    pub(crate) y_label: &'static str,
    pub(crate) curves: Vec<(String, Vec<(f64, f64)>)>,
}

impl LogPlot {
    /// The drawing, with a tick at every x that occurs and grid lines at powers of ten.
    pub(crate) fn draw(&self) -> Svg {
        let entries: Vec<LegendEntry<'_>> = self
            .curves
            .iter()
            .enumerate()
            .map(|(model, (text, _))| LegendEntry { text, model, mark: Mark::Solid })
            .collect();
        let top = 22.0 + 20.0 * legend_rows(&entries) as f64;
        let bottom = top + 250.0;
        let label = format!("{} over {}", self.y_label, self.x_label);
        let mut svg = Svg::new(PLOT_WIDTH, bottom + 46.0, &label);
        legend(&mut svg, &entries);

        let (mut ticks, mut logs): (Vec<f64>, Vec<f64>) =
            self.curves.iter().flat_map(|(_, p)| p).map(|&(x, y)| (x, y.log10())).unzip();
        logs.retain(|log| log.is_finite());
        ticks.sort_by(f64::total_cmp);
        ticks.dedup();
        let low = logs.iter().copied().fold(0.0, f64::min).floor();
        let high = logs.iter().copied().fold(low + 1.0, f64::max).ceil();
        let (first, last) = (ticks.first().unwrap_or(&0.0), ticks.last().unwrap_or(&1.0));
        let span = (last - first).max(f64::MIN_POSITIVE);
        let x = |v: f64| LEFT + 8.0 + (v - first) / span * (PLOT_WIDTH - LEFT - RIGHT - 16.0);
        let y = |log: f64| bottom - (log - low) / (high - low) * (bottom - top);

        for decade in low as i32..=high as i32 {
            let at = y(f64::from(decade));
            let class = if f64::from(decade) == low { "axis" } else { "grid" };
            svg.line(class, [LEFT, at], [PLOT_WIDTH - RIGHT, at]);
            let text = format!("{}", 10f64.powi(decade));
            svg.text("small", [LEFT - 6.0, at + 4.0], Anchor::End, &text);
        }
        svg.vertical_text("", [10.0, (top + bottom) / 2.0], self.y_label);
        for &tick in &ticks {
            svg.line("axis", [x(tick), bottom], [x(tick), bottom + 4.0]);
            svg.text("small", [x(tick), bottom + 18.0], Anchor::Middle, &tick.to_string());
        }
        svg.text("", [(LEFT + PLOT_WIDTH) / 2.0, bottom + 38.0], Anchor::Middle, self.x_label);
        for (i, (_, points)) in self.curves.iter().enumerate() {
            let shown = points.iter().filter(|p| p.1 > 0.0);
            let points: Vec<_> = shown.map(|p| [x(p.0), y(p.1.log10())]).collect();
            svg.polyline(&format!("line l{}", colour(i)), &points);
            for point in points {
                svg.circle(&format!("f{}", colour(i)), point, 3.2);
            }
        }
        svg
    }
}
