//! The rotation of every item at which a model is worst.

use nalgebra::Vector3;
use steer3d_so3::rotations::random_rotation;
use steer3d_so3::sampling::super_fibonacci;
use steer3d_so3::{Rotation, Stream};

use crate::protocol::Search;

/// How far the search for one item has come: what the best rotation so far leaves of the margin, and what is kept
/// of the answer to it.
pub(crate) struct Searched {
    pub(crate) rotation: Rotation,
    pub(crate) row: Vec<f64>,
    margin: f64,
    /// The search ends below this margin.
    end: f64,
    step: f64,
}

impl Searched {
    /// Starts from the unrotated volume.
    pub(crate) fn new(search: Search, unrotated: &[f64], margin: f64, end: f64) -> Self {
        Self {
            rotation: Rotation::identity(),
            row: unrotated.to_vec(),
            margin,
            end,
            step: search.first_step(),
        }
    }

    /// The rotations of the grid, turned as a whole at random for each item: stream
    /// (seed, "search", \[item\]).
    pub(crate) fn grid(&self, search: Search, seed: u64, item: usize) -> Vec<Rotation> {
        if self.is_wrong() {
            return vec![];
        }
        let whole = random_rotation(&mut Stream::new(seed, "search", &[item as u64]));
        super_fibonacci(search.grid).into_iter().map(|rotation| rotation * whole).collect()
    }

    /// The rotations of the next round: a step either way about x, y and z; none when the model is
    /// wrong already.
    pub(crate) fn round(&self) -> Vec<Rotation> {
        if self.is_wrong() {
            return vec![];
        }
        let turn = |i: usize| {
            let angle = if i.is_multiple_of(2) { self.step } else { -self.step };
            Rotation::new(Vector3::ith(i / 2, angle)) * self.rotation
        };
        (0..6).map(turn).collect()
    }

    /// Takes the rotation of the least margin, if that is less than the one so far; else the next
    /// round has half the step. Each is tried with what is kept of the answer and its margin.
    pub(crate) fn take(&mut self, tried: Vec<(Rotation, Vec<f64>, f64)>) {
        let mut better = false;
        for (rotation, row, margin) in tried {
            if margin < self.margin {
                (self.rotation, self.row, self.margin) = (rotation, row, margin);
                better = true;
            }
        }
        if !better {
            self.step /= 2.0;
        }
    }

    fn is_wrong(&self) -> bool {
        self.margin < self.end
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a search on a margin given as a function of the rotation.
    fn found(search: Search, margin: impl Fn(&Rotation) -> f64) -> Searched {
        let mut searched = Searched::new(search, &[], margin(&Rotation::identity()), 0.0);
        let tried = |rotations: Vec<Rotation>| -> Vec<_> {
            rotations.into_iter().map(|r| (r, vec![], margin(&r))).collect()
        };
        let grid = tried(searched.grid(search, 5, 7));
        searched.take(grid);
        for _ in 0..search.rounds {
            let round = tried(searched.round());
            searched.take(round);
        }
        searched
    }

    #[test]
    fn the_least_margin_is_found() {
        let target = Rotation::new(Vector3::new(1.0, -2.0, 0.3));
        let distance = |r: &Rotation| steer3d_so3::geodesic_distance(r, &target);
        let search = Search { grid: 24, rounds: 20 };
        // Positive everywhere: the search goes on to the end.
        let searched = found(search, |r| 1.0 + distance(r));
        assert!(distance(&searched.rotation) < 0.02, "{}", distance(&searched.rotation));
        // A cap of wrong answers of 20 degrees, 1/600 of all rotations.
        let searched = found(search, |r| distance(r) - 20f64.to_radians());
        assert!(searched.is_wrong() && searched.round().is_empty());
    }

    #[test]
    fn an_item_that_is_wrong_unrotated_is_left_alone() {
        let searched = Searched::new(Search { grid: 9, rounds: 1 }, &[2.0, 1.0, 0.0], -1.0, 0.0);
        assert!(searched.grid(Search { grid: 9, rounds: 1 }, 0, 0).is_empty());
        assert_eq!(searched.rotation, Rotation::identity());
    }
}
