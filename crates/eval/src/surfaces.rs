//! How far the surfaces of two maps of labels are from each other.

use steer3d_volume::{Grid, VolumeError, squared_distances};

use crate::metrics::quantile;

/// The distances between the surfaces of a class in two maps of labels of a volume, in the unit of the voxel size.
///
/// The surface of a class are the centres of its voxels of which one of the six neighbours is of another class or
/// outside the grid: the edge of MONAI's `get_mask_edges`, a mask less its erosion. DeepMind's `surface-distance`
/// weighs elements of a triangulated surface by their area instead, which gives other values, closer to each other
/// than a voxel.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct SurfaceScores {
    /// Normalised surface Dice (Nikolov et al. 2018, <https://arxiv.org/abs/1809.04430>; 2021,
    /// <https://doi.org/10.2196/26151>, equation 5, of voxels in place of areas): the share of the voxels of both
    /// surfaces that lie within the tolerance of the other one.
    pub(crate) dice: f64,
    /// The larger of the 95 % quantiles of the distances from each surface to the other, with linear interpolation
    /// between them (NumPy's default, as MONAI's `compute_hausdorff_distance` with `percentile=95`).
    pub(crate) hd95: f64,
}

/// How surfaces are compared.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Surfaces {
    grid: Grid,
    tolerance: f64,
}

impl Surfaces {
    /// By a tolerance in the unit of the voxel size; the longest edge of a voxel if none is given.
    pub(crate) fn new(grid: Grid, tolerance: Option<f64>) -> Self {
        let longest = grid.voxel_size().into_iter().fold(0.0, f64::max);
        Self { grid, tolerance: tolerance.unwrap_or(longest) }
    }

    /// For each class but the background, 0, the scores of `found` against `labels`, both D, H, W, in the voxels that are
    /// `compared`; None for a class that has a surface in neither. With a surface in one of them the surface Dice is 0
    /// and HD95 the diagonal of the grid, which no distance exceeds.
    ///
    /// Voxels that are not compared have unknown classes in `found`: they are no part of its surface and no reason
    /// for one. The surface of `labels` is known everywhere, so what is compared is measured against all of it.
    pub(crate) fn scores(
        &self,
        labels: &[u8],
        found: &[u8],
        compared: &[bool],
        classes: usize,
    ) -> Result<Vec<Option<SurfaceScores>>, VolumeError> {
        let right = self.surfaces(labels, None, classes);
        let found = self.surfaces(found, Some(compared), classes);
        let class = |class: usize| self.of_class(&right[class], &found[class], compared);
        (1..classes).map(class).collect()
    }

    fn of_class(
        &self,
        right: &[usize],
        found: &[usize],
        compared: &[bool],
    ) -> Result<Option<SurfaceScores>, VolumeError> {
        let asked: Vec<usize> = right.iter().copied().filter(|&i| compared[i]).collect();
        if found.is_empty() || asked.is_empty() {
            let missing = SurfaceScores { dice: 0.0, hd95: self.diagonal() };
            return Ok((!found.is_empty() || !asked.is_empty()).then_some(missing));
        }
        let bounds = Bounds::of(self.grid, right.iter().chain(found));
        let ways = [bounds.distances(right, found)?, bounds.distances(found, &asked)?];
        // A distance of a whole number of voxels may round to just above it.
        let near = |d: &&f64| **d <= self.tolerance * (1.0 + 1e-9);
        let within: usize = ways.iter().map(|way| way.iter().filter(near).count()).sum();
        let all: usize = ways.iter().map(Vec::len).sum();
        let far = ways.map(|mut way| {
            way.sort_by(f64::total_cmp);
            quantile(&way, 0.95)
        });
        Ok(Some(SurfaceScores { dice: within as f64 / all as f64, hd95: far[0].max(far[1]) }))
    }

    /// The distance between the centres of the voxels that lie farthest apart.
    fn diagonal(&self) -> f64 {
        let (centre, size) = (self.grid.centre(), self.grid.voxel_size());
        (0..3).map(|axis| (2.0 * centre[axis] * size[axis]).powi(2)).sum::<f64>().sqrt()
    }

    /// The voxels of the surface of each class, among those that are known.
    fn surfaces(&self, labels: &[u8], known: Option<&[bool]>, classes: usize) -> Vec<Vec<usize>> {
        let [depth, height, width] = self.grid.dims();
        let mut surfaces = vec![vec![]; classes];
        let mut voxel = 0;
        for z in 0..depth {
            for y in 0..height {
                for x in 0..width {
                    let differs =
                        |i: usize| labels[i] != labels[voxel] && known.is_none_or(|k| k[i]);
                    let axes = [(x, width, 1), (y, height, width), (z, depth, width * height)];
                    let ends = |(place, n, step): (usize, usize, usize)| {
                        place == 0
                            || place + 1 == n
                            || differs(voxel - step)
                            || differs(voxel + step)
                    };
                    let class = usize::from(labels[voxel]);
                    if class > 0 && known.is_none_or(|k| k[voxel]) && axes.into_iter().any(ends) {
                        surfaces[class].push(voxel);
                    }
                    voxel += 1;
                }
            }
        }
        surfaces
    }
}

/// The smallest part of a grid that holds some voxels: nothing outside it can be nearest to one in it.
struct Bounds {
    grid: Grid,
    /// First voxel and number of voxels along x, y, z.
    first: [usize; 3],
    size: [usize; 3],
}

impl Bounds {
    /// Of at least one voxel.
    fn of<'a>(grid: Grid, voxels: impl Iterator<Item = &'a usize>) -> Self {
        let (mut first, mut last) = ([usize::MAX; 3], [0; 3]);
        for &voxel in voxels {
            let place = place(grid, voxel);
            first = [0, 1, 2].map(|axis| first[axis].min(place[axis]));
            last = [0, 1, 2].map(|axis| last[axis].max(place[axis]));
        }
        Self { grid, first, size: [0, 1, 2].map(|axis| last[axis] + 1 - first[axis]) }
    }

    /// The index of a voxel of the grid in this part.
    fn index(&self, voxel: usize) -> usize {
        let place = place(self.grid, voxel);
        let [x, y, z] = [0, 1, 2].map(|axis| place[axis] - self.first[axis]);
        (z * self.size[1] + y) * self.size[0] + x
    }

    /// The distance from each of some voxels to the nearest of others.
    fn distances(&self, to: &[usize], from: &[usize]) -> Result<Vec<f64>, VolumeError> {
        let [width, height, depth] = self.size;
        let part = Grid::new([depth, height, width], self.grid.voxel_size())?;
        let mut sources = vec![false; part.voxels()];
        to.iter().for_each(|&voxel| sources[self.index(voxel)] = true);
        let squares = squared_distances(&sources, &part)?;
        Ok(from.iter().map(|&voxel| squares[self.index(voxel)].sqrt()).collect())
    }
}

/// The place x, y, z of a voxel.
fn place(grid: Grid, voxel: usize) -> [usize; 3] {
    let [_, height, width] = grid.dims();
    [voxel % width, voxel / width % height, voxel / width / height]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The scores of class `class` by their definition, every voxel of a surface against every one of the other.
    fn by_definition(
        grid: Grid,
        maps: [&[u8]; 2],
        compared: &[bool],
        class: u8,
        tolerance: f64,
    ) -> Option<SurfaceScores> {
        let [depth, height, width] = grid.dims().map(|n| n as isize);
        let at = |p: [isize; 3]| ((p[2] * height + p[1]) * width + p[0]) as usize;
        let inside = |p: [isize; 3]| (0..3).all(|a| (0..[width, height, depth][a]).contains(&p[a]));
        let mut places = vec![];
        for z in 0..depth {
            for y in 0..height {
                places.extend((0..width).map(|x| [x, y, z]));
            }
        }
        let surface = |map: &[u8], known: &dyn Fn(usize) -> bool| -> Vec<[isize; 3]> {
            let is = |p: &[isize; 3]| {
                let beside = |i: usize| {
                    let mut q = *p;
                    q[i / 2] += if i.is_multiple_of(2) { 1 } else { -1 };
                    !inside(q) || (known(at(q)) && map[at(q)] != class)
                };
                map[at(*p)] == class && known(at(*p)) && (0..6).any(beside)
            };
            places.iter().copied().filter(is).collect()
        };
        let right = surface(maps[0], &|_| true);
        let found = surface(maps[1], &|i| compared[i]);
        let asked: Vec<_> = right.iter().copied().filter(|p| compared[at(*p)]).collect();
        let size = grid.voxel_size();
        let distance = |p: &[isize; 3], q: &[isize; 3]| {
            (0..3).map(|a| ((p[a] - q[a]) as f64 * size[a]).powi(2)).sum::<f64>().sqrt()
        };
        if asked.is_empty() && found.is_empty() {
            return None;
        }
        if asked.is_empty() || found.is_empty() {
            let far = distance(&[0; 3], &[width - 1, height - 1, depth - 1]);
            return Some(SurfaceScores { dice: 0.0, hd95: far });
        }
        let way = |from: &[[isize; 3]], to: &[[isize; 3]]| -> Vec<f64> {
            let nearest = |p| to.iter().map(|q| distance(p, q)).fold(f64::INFINITY, f64::min);
            from.iter().map(nearest).collect()
        };
        let ways = [way(&found, &right), way(&asked, &found)];
        let within = ways.iter().flatten().filter(|d| **d <= tolerance + 1e-9).count();
        let dice = within as f64 / (found.len() + asked.len()) as f64;
        let hd95 = ways.map(|mut way| {
            way.sort_by(f64::total_cmp);
            let position = 0.95 * (way.len() - 1) as f64;
            let (below, above) = (position.floor() as usize, position.ceil() as usize);
            way[below] * (1.0 - position.fract()) + way[above] * position.fract()
        });
        Some(SurfaceScores { dice, hd95: hd95[0].max(hd95[1]) })
    }

    proptest! {
        #[test]
        fn scores_are_those_of_the_definition(
            dims in [1usize..7, 1usize..7, 1usize..7],
            size in [0.4f64..3.0, 0.4f64..3.0, 0.4f64..3.0],
            tolerance in 0.0f64..4.0,
            draws in prop::collection::vec((0u8..3, 0u8..3, 0u8..5), 216),
            all in any::<bool>(),
        ) {
            let grid = Grid::new(dims, size).unwrap();
            let draws = &draws[..grid.voxels()];
            let maps = [draws.iter().map(|d| d.0).collect::<Vec<_>>(), draws.iter().map(|d| d.1).collect()];
            let compared: Vec<bool> = draws.iter().map(|d| all || d.2 > 0).collect();
            let surfaces = Surfaces::new(grid, Some(tolerance));
            let found = surfaces.scores(&maps[0], &maps[1], &compared, 3).unwrap();
            for (class, found) in (1..3).zip(found) {
                let expected = by_definition(grid, [&maps[0], &maps[1]], &compared, class, tolerance);
                prop_assert_eq!(found.is_some(), expected.is_some());
                if let (Some(found), Some(expected)) = (found, expected) {
                    prop_assert!((found.dice - expected.dice).abs() < 1e-12);
                    prop_assert!((found.hd95 - expected.hd95).abs() < 1e-12);
                }
            }
        }
    }

    fn labelled(grid: Grid, inside: impl Fn([f64; 3]) -> bool) -> Vec<u8> {
        let ([_, h, w], size, centre) = (grid.dims(), grid.voxel_size(), grid.centre());
        let at = |i: usize| {
            let place = [i % w, i / w % h, i / w / h];
            [0, 1, 2].map(|a| (place[a] as f64 - centre[a]) * size[a])
        };
        (0..grid.voxels()).map(|i| u8::from(inside(at(i)))).collect()
    }

    fn scores(grid: Grid, maps: [&[u8]; 2], tolerance: Option<f64>) -> Option<SurfaceScores> {
        let compared = vec![true; grid.voxels()];
        let surfaces = Surfaces::new(grid, tolerance);
        surfaces.scores(maps[0], maps[1], &compared, 2).unwrap()[0]
    }

    #[test]
    fn a_box_moved_along_an_axis_is_that_far_away() {
        // 12 × 10 × 8 voxels of 0.7 × 1 × 3, moved by two of them along each axis in turn.
        let grid = Grid::new([14, 16, 18], [0.7, 1.0, 3.0]).unwrap();
        let [_, h, w] = grid.dims();
        let at = |moved: [usize; 3]| -> Vec<u8> {
            let is = |i: usize| {
                let p = [i % w, i / w % h, i / w / h];
                (0..3).all(|a| (3 + moved[a]..3 + moved[a] + [12, 10, 8][a]).contains(&p[a]))
            };
            (0..grid.voxels()).map(|i| u8::from(is(i))).collect()
        };
        let still = at([0; 3]);
        assert_eq!(
            scores(grid, [&still, &still], Some(0.0)),
            Some(SurfaceScores { dice: 1.0, hd95: 0.0 })
        );
        // The face in front, 17 to 25 % of the surface, is as far from the other box as it was moved, and nothing is farther.
        for (axis, size) in [0.7, 1.0, 3.0].into_iter().enumerate() {
            let mut moved = [0; 3];
            moved[axis] = 2;
            let found = scores(grid, [&still, &at(moved)], Some(2.0 * size)).unwrap();
            assert!((found.dice - 1.0).abs() < 1e-12, "{found:?}");
            assert!((found.hd95 - 2.0 * size).abs() < 1e-12, "{found:?}");
            let strict = scores(grid, [&still, &at(moved)], Some(1.9 * size)).unwrap();
            assert!(strict.dice < 0.84, "{strict:?}");
        }
        // A plate of one voxel is moved as a whole.
        let plate = |z: f64| labelled(grid, |p| (p[2] - z).abs() < 0.1);
        let found = scores(grid, [&plate(-1.5), &plate(7.5)], Some(8.9)).unwrap();
        assert_eq!((found.dice, found.hd95), (0.0, 9.0));
        assert_eq!(scores(grid, [&plate(-1.5), &plate(7.5)], Some(9.0)).unwrap().dice, 1.0);
    }

    #[test]
    fn two_spheres_are_apart_by_the_difference_of_their_radii() {
        for size in [[1.0, 1.0, 1.0], [0.5, 1.0, 1.6]] {
            let dims = [size[2], size[1], size[0]].map(|s| (44.0f64 / s) as usize);
            let grid = Grid::new(dims, size).unwrap();
            let ball = |radius: f64| {
                labelled(grid, move |p| p.iter().map(|c| c * c).sum::<f64>() <= radius * radius)
            };
            let found = scores(grid, [&ball(12.0), &ball(18.0)], Some(6.0 + 1.6)).unwrap();
            // A surface lies within a diagonal of a voxel of the sphere.
            let voxel = size.iter().map(|s| s * s).sum::<f64>().sqrt();
            assert!((found.hd95 - 6.0).abs() < voxel, "{found:?}");
            assert!(found.dice > 0.99, "{found:?}");
            assert_eq!(scores(grid, [&ball(12.0), &ball(18.0)], Some(3.0)).unwrap().dice, 0.0);
        }
    }

    #[test]
    fn empty_classes_are_left_out_or_as_far_as_can_be() {
        let grid = Grid::new([4, 5, 7], [1.0, 2.0, 0.5]).unwrap();
        let (nothing, all) = (vec![0; grid.voxels()], vec![1; grid.voxels()]);
        assert_eq!(scores(grid, [&nothing, &nothing], None), None);
        let missed = SurfaceScores { dice: 0.0, hd95: (36.0f64 + 64.0 + 2.25).sqrt() };
        assert_eq!(scores(grid, [&all, &nothing], None), Some(missed));
        assert_eq!(scores(grid, [&nothing, &all], None), Some(missed));
    }

    #[test]
    fn the_tolerance_is_the_longest_edge_where_none_is_given() {
        let grid = Grid::new([9, 4, 4], [1.0, 1.0, 2.5]).unwrap();
        let plate = |z: usize| -> Vec<u8> { (0..144).map(|i| u8::from(i / 16 == z)).collect() };
        assert_eq!(scores(grid, [&plate(3), &plate(4)], None).unwrap().dice, 1.0);
        assert_eq!(scores(grid, [&plate(3), &plate(5)], None).unwrap().dice, 0.0);
    }
}
