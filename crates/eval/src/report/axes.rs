//! Where on the sphere of rotation axes a model fails.

use std::f64::consts::TAU;

use serde::{Deserialize, Serialize};

use super::svg::{Anchor, Svg, colour, shorten};
use crate::metrics::argmax;
use crate::protocol::Transform;

/// Cells in the rings of the map, from the centre: all have the same area on the sphere.
const RINGS: [usize; 4] = [1, 6, 12, 18];

/// Rotations by less than this angle in radians have no axis to speak of.
const LEAST_ANGLE: f64 = 0.1;

/// Predictions of rotated volumes whose rotation axis lies in one cell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AxisCell {
    /// All of them.
    pub predictions: u64,
    /// Those that are wrong.
    pub wrong: u64,
}

/// Counts predictions, each a transformation, the true class and the logits, in the cells of the
/// half sphere of axes: n and -n are one axis. The cells of a ring go round it from +x over +y; the first
/// ring is the axis z. Translated and hardly rotated volumes are left out.
pub fn failures_by_axis<'a>(
    predictions: impl Iterator<Item = (&'a Transform, usize, &'a [f32])>,
) -> Vec<AxisCell> {
    let mut cells = vec![AxisCell::default(); RINGS.iter().sum()];
    for (transform, label, logits) in predictions {
        let Some((axis, angle)) = transform.rotation.axis_angle() else { continue };
        if transform.shift == [0.0; 3] && angle >= LEAST_ANGLE {
            let cell = &mut cells[cell_of([axis.x, axis.y, axis.z])];
            cell.predictions += 1;
            cell.wrong += u64::from(argmax(logits) != label);
        }
    }
    cells
}

/// The first cell of each ring, and the share of the half sphere inside and up to the end of it.
fn rings() -> impl Iterator<Item = (usize, usize, [f64; 2])> {
    let total: usize = RINGS.iter().sum();
    let share = move |cells: usize| cells as f64 / total as f64;
    RINGS.iter().scan(0, move |first, &count| {
        let before = *first;
        *first += count;
        Some((before, count, [share(before), share(before + count)]))
    })
}

fn cell_of([x, y, z]: [f64; 3]) -> usize {
    let [x, y] = if z < 0.0 { [-x, -y] } else { [x, y] };
    // Area of the cap from z = 1 down to |z|.
    let share = 1.0 - z.abs();
    let turn = y.atan2(x).rem_euclid(TAU) / TAU;
    let ring = rings().find(|(_, _, [_, end])| share < *end);
    let (first, count, _) = ring.or_else(|| rings().last()).expect("there are rings");
    first + ((turn * count as f64) as usize).min(count - 1)
}

/// Radius of a disc in the drawing.
const RADIUS: f64 = 88.0;
const PANEL: [f64; 2] = [236.0, 246.0];

/// A disc for each model, named: the half sphere z >= 0 from above in Lambert's equal-area
/// projection.
pub(super) fn draw(models: &[(String, &[AxisCell])], columns: usize) -> Svg {
    let rows = models.len().div_ceil(columns);
    let size = [PANEL[0] * columns.min(models.len()) as f64, PANEL[1] * rows as f64];
    let mut svg = Svg::new(size[0], size[1], "wrong predictions by rotation axis");
    for (i, (name, cells)) in models.iter().enumerate() {
        let left = PANEL[0] * (i % columns) as f64;
        let top = PANEL[1] * (i / columns) as f64;
        let centre = [left + PANEL[0] / 2.0, top + 30.0 + RADIUS + 16.0];
        svg.text("title", [centre[0], top + 16.0], Anchor::Middle, &shorten(name, 30));
        for (first, count, [inner, outer]) in rings() {
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

#[cfg(test)]
mod tests {
    use steer3d_so3::{Rotation, Stream};

    use super::*;

    #[test]
    fn cells_have_the_same_area() {
        let mut stream = Stream::new(0, "axes", &[]);
        let mut counts = vec![0; RINGS.iter().sum()];
        for _ in 0..37_000 {
            let v = nalgebra::Vector3::new(stream.normal(), stream.normal(), stream.normal());
            counts[cell_of(v.normalize().into())] += 1;
        }
        // 1000 each, with a standard deviation of 32.
        assert!(counts.iter().all(|&n| (840..1160).contains(&n)), "{counts:?}");
    }

    #[test]
    fn an_axis_and_its_opposite_share_a_cell() {
        for axis in [[0.0, 0.0, 1.0], [0.6, 0.0, 0.8], [0.48, -0.6, 0.64]] {
            assert_eq!(cell_of(axis), cell_of(axis.map(|c: f64| -c)));
        }
        assert_eq!(cell_of([0.0, 0.0, 1.0]), 0);
        let last = RINGS.iter().sum::<usize>() - 1;
        assert_eq!(cell_of([1.0, -0.01, 0.001]), last);
    }

    #[test]
    fn wrong_predictions_are_counted_where_they_belong() {
        let about = |v: [f64; 3]| Transform::from(Rotation::new(v.into()));
        let moved = Transform { shift: [1.0, 0.0, 0.0], ..about([0.0, 0.0, 2.0]) };
        let all = [
            (about([0.0, 0.0, 2.0]), 0, [1.0, 0.0]),
            (about([0.0, 0.0, -2.0]), 0, [0.0, 1.0]),
            (about([2.0, 0.1, 0.0]), 1, [0.0, 1.0]),
            (moved, 0, [0.0, 1.0]),
            (Transform::IDENTITY, 0, [0.0, 1.0]),
        ];
        let cells = failures_by_axis(all.iter().map(|(t, label, l)| (t, *label, &l[..])));
        assert_eq!(cells[0], AxisCell { predictions: 2, wrong: 1 });
        assert_eq!(cells.iter().map(|c| c.predictions).sum::<u64>(), 3);
        assert_eq!(cells.iter().map(|c| c.wrong).sum::<u64>(), 1);
    }
}
