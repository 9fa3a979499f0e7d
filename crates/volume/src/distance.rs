//! Exact Euclidean distances on a grid whose voxels need not be cubes.

use crate::volume::{Grid, VolumeError};

/// For every voxel the square of the distance from its centre to that of the nearest source, in the unit of the voxel
/// size; infinite everywhere if there is no source. `sources` and the result are D, H, W.
///
/// One pass along each axis takes the lower envelope of the parabolas that the pass before left on a line, so that
/// the time is linear in the number of voxels and the result exact to rounding (Felzenszwalb and Huttenlocher 2012,
/// *Distance Transforms of Sampled Functions*, <https://doi.org/10.4086/toc.2012.v008a019>, section 2).
///
/// # Errors
/// [`VolumeError::Length`] if there are not as many sources as voxels.
///
/// ```
/// use steer3d_volume::{Grid, squared_distances};
/// let grid = Grid::new([1, 2, 3], [1.0, 3.0, 1.0])?;
/// let found = squared_distances(&[true, false, false, false, false, false], &grid)?;
/// assert_eq!(found, [0.0, 1.0, 4.0, 9.0, 10.0, 13.0]);
/// # Ok::<(), steer3d_volume::VolumeError>(())
/// ```
pub fn squared_distances(sources: &[bool], grid: &Grid) -> Result<Vec<f64>, VolumeError> {
    let (expected, found) = (grid.voxels(), sources.len());
    if found != expected {
        return Err(VolumeError::Length { what: "sources", expected, found });
    }
    let start = |&source: &bool| if source { 0.0 } else { f64::INFINITY };
    let mut squares: Vec<f64> = sources.iter().map(start).collect();
    let ([depth, height, width], size) = (grid.dims(), grid.voxel_size());
    let plane = height * width;
    // Where the lines along an axis begin.
    let along_x = (0..depth * height).map(|row| row * width);
    let along_y = (0..depth).flat_map(|z| (0..width).map(move |x| z * plane + x));
    let mut envelope = Envelope::default();
    along_x.for_each(|first| envelope.pass(&mut squares, first, 1, width, size[0]));
    along_y.for_each(|first| envelope.pass(&mut squares, first, width, height, size[1]));
    (0..plane).for_each(|first| envelope.pass(&mut squares, first, plane, depth, size[2]));
    Ok(squares)
}

/// The lower envelope of parabolas h² (p - q)² + f(q) over the places p of a line; of each the place q, f(q), and the
/// place from which on it is the lowest.
#[derive(Default)]
struct Envelope {
    lowest: Vec<(usize, f64, f64)>,
}

impl Envelope {
    /// Replaces the values of a line of `n` voxels of edge `h` by those of the envelope of their parabolas.
    fn pass(&mut self, values: &mut [f64], first: usize, stride: usize, n: usize, h: f64) {
        let square = h * h;
        self.lowest.clear();
        for q in 0..n {
            let value = values[first + q * stride];
            if value < f64::INFINITY {
                self.add(q, value, square);
            }
        }
        let mut part = 0;
        for p in 0..n {
            while self.lowest.get(part + 1).is_some_and(|next| next.2 < p as f64) {
                part += 1;
            }
            if let Some(&(q, value, _)) = self.lowest.get(part) {
                let steps = p.abs_diff(q) as f64;
                values[first + p * stride] = square * steps * steps + value;
            }
        }
    }

    /// Adds a parabola further along the line.
    fn add(&mut self, q: usize, value: f64, square: f64) {
        while let Some(&(last, lower, from)) = self.lowest.last() {
            let (middle, apart) = ((q + last) as f64 / 2.0, (q - last) as f64);
            let crossing = middle + (value - lower) / (2.0 * square * apart);
            if crossing > from {
                self.lowest.push((q, value, crossing));
                return;
            }
            self.lowest.pop();
        }
        self.lowest.push((q, value, f64::NEG_INFINITY));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Every voxel against every source.
    fn by_definition(sources: &[bool], grid: &Grid) -> Vec<f64> {
        let ([_, h, w], size) = (grid.dims(), grid.voxel_size());
        let place = |i: usize| [i % w, i / w % h, i / w / h];
        let square = |i: usize, j: usize| {
            let (p, q) = (place(i), place(j));
            (0..3).map(|a| (size[a] * p[a].abs_diff(q[a]) as f64).powi(2)).sum::<f64>()
        };
        let all = || (0..sources.len()).filter(|&j| sources[j]);
        let nearest = |i: usize| all().map(|j| square(i, j)).fold(f64::INFINITY, f64::min);
        (0..sources.len()).map(nearest).collect()
    }

    proptest! {
        #[test]
        fn distances_are_those_of_the_definition(
            dims in [1usize..7, 1usize..7, 1usize..7],
            size in [0.2f64..5.0, 0.2f64..5.0, 0.2f64..5.0],
            draws in prop::collection::vec(0u8..12, 216),
        ) {
            let grid = Grid::new(dims, size).unwrap();
            let sources: Vec<bool> = draws[..grid.voxels()].iter().map(|d| *d == 0).collect();
            let found = squared_distances(&sources, &grid).unwrap();
            for (found, expected) in found.into_iter().zip(by_definition(&sources, &grid)) {
                let close = (found - expected).abs() <= 1e-13 * expected;
                prop_assert!(found == expected || close, "{} {}", found, expected);
            }
        }
    }

    #[test]
    fn one_source_gives_the_distance_from_it() {
        let grid = Grid::new([9, 11, 20], [0.5, 1.0, 2.5]).unwrap();
        let mut sources = vec![false; grid.voxels()];
        sources[(4 * 11 + 3) * 20 + 7] = true;
        let found = squared_distances(&sources, &grid).unwrap();
        for (i, found) in found.into_iter().enumerate() {
            let (x, y, z) = (i % 20, i / 20 % 11, i / 220);
            let steps =
                [x.abs_diff(7) as f64 * 0.5, y.abs_diff(3) as f64, z.abs_diff(4) as f64 * 2.5];
            assert!((found - steps.iter().map(|s| s * s).sum::<f64>()).abs() < 1e-12);
        }
    }

    #[test]
    fn no_source_is_infinitely_far_and_lengths_are_checked() {
        let grid = Grid::new([2, 1, 3], [1e30, 1e-30, 1.0]).unwrap();
        assert!(squared_distances(&[false; 6], &grid).unwrap().iter().all(|d| d.is_infinite()));
        let mut sources = [false; 6];
        sources[0] = true;
        assert_eq!(squared_distances(&sources, &grid).unwrap()[3], 1.0);
        assert!(matches!(
            squared_distances(&[true; 5], &grid),
            Err(VolumeError::Length { what: "sources", expected: 6, found: 5 })
        ));
    }
}
