//! Where on the sphere of rotation axes a model fails.

use std::f64::consts::TAU;

use crate::protocol::Transform;
use crate::results::AxisCell;

/// Cells in the rings of the map, from the centre: all have the same area on the sphere.
const RINGS: [usize; 4] = [1, 6, 12, 18];

/// Rotations by less than this angle in radians have no axis to speak of.
const LEAST_ANGLE: f64 = 0.1;

/// Counts predictions, each a transformation and whether it is wrong, in the cells of the
/// half sphere of axes: n and -n are one axis. The cells of a ring go round it from +x over +y; the first
/// ring is the axis z. Translated and hardly rotated volumes are left out.
pub fn failures_by_axis<'a>(
    predictions: impl Iterator<Item = (&'a Transform, bool)>,
) -> Vec<AxisCell> {
    let mut cells = vec![AxisCell::default(); RINGS.iter().sum()];
    for (transform, wrong) in predictions {
        let Some((axis, angle)) = transform.rotation.axis_angle() else { continue };
        if transform.shift == [0.0; 3] && angle >= LEAST_ANGLE {
            let cell = &mut cells[cell_of([axis.x, axis.y, axis.z])];
            cell.predictions += 1;
            cell.wrong += u64::from(wrong);
        }
    }
    cells
}

/// The first cell of each ring of [`failures_by_axis`], their number, and the share of the half sphere inside and
/// up to the end of it.
pub fn axis_rings() -> impl Iterator<Item = (usize, usize, [f64; 2])> {
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
    let ring = axis_rings().find(|(_, _, [_, end])| share < *end);
    let (first, count, _) = ring.or_else(|| axis_rings().last()).expect("there are rings");
    first + ((turn * count as f64) as usize).min(count - 1)
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
            (about([0.0, 0.0, 2.0]), false),
            (about([0.0, 0.0, -2.0]), true),
            (about([2.0, 0.1, 0.0]), false),
            (moved, true),
            (Transform::IDENTITY, true),
        ];
        let cells = failures_by_axis(all.iter().map(|(t, wrong)| (t, *wrong)));
        assert_eq!(cells[0], AxisCell { predictions: 2, wrong: 1 });
        assert_eq!(cells.iter().map(|c| c.predictions).sum::<u64>(), 3);
        assert_eq!(cells.iter().map(|c| c.wrong).sum::<u64>(), 1);
    }
}
