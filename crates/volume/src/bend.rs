//! Smooth random displacements.

use steer3d_so3::Stream;

/// Voxels from one control point to the next.
const SPACING: f64 = 8.0;

/// Mean over the positions between control points of the sum of the squares of the four weights of a cubic
/// B-spline along an axis: the value at 0 of the spline of degree 7.
const MEAN_SQUARE: f64 = 151.0 / 315.0;

/// A smooth displacement x, y, z in voxels for every voxel of a grid: a cubic B-spline with a control point every 8
/// voxels (free-form deformation, Rueckert et al. 1999, <https://doi.org/10.1109/42.796284>).
#[derive(Clone, Debug, PartialEq)]
pub struct Bend {
    /// Control points along x, y, z.
    counts: [usize; 3],
    /// Their displacements, z slowest.
    points: Vec<[f64; 3]>,
}

impl Bend {
    /// For a grid of D, H, W voxels. The displacement along each axis with more than one voxel is normal with a standard
    /// deviation of `amplitude` voxels, over positions and draws. Up to 1 neighbours hardly ever change places; with more
    /// space may fold.
    pub fn random(dims: [usize; 3], amplitude: f64, stream: &mut Stream) -> Self {
        let [depth, height, width] = dims;
        let sizes = [width, height, depth];
        let counts = sizes.map(|n| ((n - 1) as f64 / SPACING) as usize + 4);
        let factor = amplitude / MEAN_SQUARE.powi(3).sqrt();
        let point = |_| sizes.map(|n| if n > 1 { factor * stream.normal() } else { 0.0 });
        Self { counts, points: (0..counts.iter().product()).map(point).collect() }
    }

    /// The displacement at a voxel x, y, z.
    pub(crate) fn at(&self, index: [usize; 3]) -> [f64; 3] {
        let parts = index.map(|i| {
            let place = i as f64 / SPACING;
            (place as usize, weights(place.fract()))
        });
        let ([x, y, z], [width, height, _]) = (parts, self.counts);
        let mut sum = [0.0; 3];
        for (k, of_z) in z.1.into_iter().enumerate() {
            for (j, of_y) in y.1.into_iter().enumerate() {
                let row = ((z.0 + k) * height + y.0 + j) * width + x.0;
                for (point, of_x) in self.points[row..row + 4].iter().zip(x.1) {
                    let weight = of_x * of_y * of_z;
                    sum = [0, 1, 2].map(|axis| sum[axis] + weight * point[axis]);
                }
            }
        }
        sum
    }
}

/// The weights of the four control points around a place between the second and the third.
fn weights(t: f64) -> [f64; 4] {
    let u = 1.0 - t;
    let inner = |s: f64| (4.0 - 6.0 * s * s + 3.0 * s * s * s) / 6.0;
    [u * u * u / 6.0, inner(t), inner(u), t * t * t / 6.0]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn displacements_are_as_large_as_was_asked_for_and_smooth() {
        let (mut squares, mut count, mut steepest) = (0.0, 0.0, 0f64);
        for seed in 0..40 {
            let bend = Bend::random([20, 17, 25], 1.0, &mut Stream::new(seed, "bend", &[]));
            for z in 0..20 {
                for y in 0..17 {
                    for x in 0..25 {
                        let here = bend.at([x, y, z]);
                        squares += here.iter().map(|d| d * d).sum::<f64>();
                        count += 3.0;
                        if x > 0 {
                            steepest = steepest.max((here[0] - bend.at([x - 1, y, z])[0]).abs());
                        }
                    }
                }
            }
        }
        let deviation = (squares / count).sqrt();
        assert!((deviation - 1.0).abs() < 0.03, "{deviation}");
        assert!(steepest < 1.0, "nothing is folded: {steepest}");
    }

    #[test]
    fn a_plane_is_not_left_and_equal_displacements_are_a_shift() {
        let mut bend = Bend::random([1, 9, 9], 1.0, &mut Stream::new(0, "bend", &[]));
        let somewhere = bend.at([4, 5, 0]);
        assert!(somewhere[2] == 0.0 && somewhere[0] != 0.0);
        bend.points.fill([0.5, -1.0, 0.25]);
        for (found, expected) in bend.at([7, 3, 0]).into_iter().zip([0.5, -1.0, 0.25]) {
            assert!((found - expected).abs() < 1e-14);
        }
    }
}
