//! Where on the sphere of rotation axes a model fails.

use std::f64::consts::TAU;

use steer3d_eval::{AxisCell, axis_rings};

use crate::svg::{Anchor, Svg, colour, shorten};

/// Radius of a disc in the drawing.
const RADIUS: f64 = 88.0;
const PANEL: [f64; 2] = [236.0, 246.0];

/// A disc for each model, named: the half sphere z >= 0 from above in Lambert's equal-area
/// projection.
pub(crate) fn draw(models: &[(String, &[AxisCell])], columns: usize) -> Svg {
    let rows = models.len().div_ceil(columns);
    let size = [PANEL[0] * columns.min(models.len()) as f64, PANEL[1] * rows as f64];
    let mut svg = Svg::new(size[0], size[1], "wrong predictions by rotation axis");
    for (i, (name, cells)) in models.iter().enumerate() {
        let left = PANEL[0] * (i % columns) as f64;
        let top = PANEL[1] * (i / columns) as f64;
        let centre = [left + PANEL[0] / 2.0, top + 30.0 + RADIUS + 16.0];
        svg.text("title", [centre[0], top + 16.0], Anchor::Middle, &shorten(name, 30));
        for (first, count, [inner, outer]) in axis_rings() {
            for (k, cell) in cells.iter().skip(first).take(count).enumerate() {
                let turns = [k, k + 1].map(|k| k as f64 / count as f64);
                let outline = sector(centre, [inner.sqrt(), outer.sqrt()], turns);
                let share = match cell.predictions {
                    0 => 0.0,
                    n => cell.wrong as f64 / n as f64,
                };
                svg.shade(&format!("cell f{}", colour(i)), &outline, 0.03 + 0.97 * share);
            }
        }
        svg.text("small", [centre[0] + RADIUS + 6.0, centre[1] + 4.0], Anchor::Start, "x");
        svg.text("small", [centre[0], centre[1] - RADIUS - 6.0], Anchor::Middle, "y");
        let (wrong, all) = cells.iter().fold((0, 0), |(w, n), c| (w + c.wrong, n + c.predictions));
        let share = 100.0 * wrong as f64 / (all.max(1)) as f64;
        let worst = cells.iter().filter(|c| c.predictions > 0);
        let worst =
            worst.map(|c| 100.0 * c.wrong as f64 / c.predictions as f64).fold(0.0, f64::max);
        let text = format!("wrong: {share:.1} %, at most {worst:.1} %");
        svg.text("small muted", [centre[0], centre[1] + RADIUS + 18.0], Anchor::Middle, &text);
    }
    svg
}

/// Outline of the part of a disc between two radii (of 1) and two turns (of 1, from +x to +y, which is
/// up).
fn sector([x, y]: [f64; 2], [inner, outer]: [f64; 2], [from, to]: [f64; 2]) -> Vec<[f64; 2]> {
    let steps = ((to - from) * 60.0).ceil().max(1.0) as usize;
    let point = |radius: f64, i: usize| {
        let turn = from + (to - from) * i as f64 / steps as f64;
        let (sin, cos) = (TAU * turn).sin_cos();
        [x + RADIUS * radius * cos, y - RADIUS * radius * sin]
    };
    let out = (0..=steps).map(|i| point(outer, i));
    let back = (0..=steps).rev().map(|i| point(inner, i)).filter(|_| inner > 0.0);
    out.chain(back).collect()
}
