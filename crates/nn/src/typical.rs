//! How far what a network sees of a volume is from what it saw of its training data.

use nalgebra::DMatrix;
use serde::{Deserialize, Serialize};

use crate::NnError;
use crate::error::fault;

/// Most directions of which the spread is kept.
const MAX_AXES: usize = 32;

/// Share of the known volumes whose distance is at most the threshold.
const TYPICAL: f64 = 0.99;

/// The features of training volumes as a Gaussian: the directions of most spread, and one spread for all others
/// (probabilistic principal components, Tipping and Bishop 1999, <https://doi.org/10.1111/1467-9868.00196>, with the
/// variances as they are). A volume far from it is unlike the training data, and its answer a guess.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Typical {
    /// Mean of every feature.
    pub mean: Vec<f32>,
    /// Orthogonal directions, each divided by the standard deviation along it.
    pub axes: Vec<Vec<f32>>,
    /// Standard deviations along these directions.
    pub deviations: Vec<f32>,
    /// Standard deviation along every other direction.
    pub rest: f32,
    /// 99 % of the volumes that were not trained on, but are of the same kind, are at most so far.
    pub threshold: f64,
}

impl Typical {
    /// Fits the Gaussian to the `features` of training volumes, a row for each. The threshold is that of `known`, rows
    /// of volumes that were not trained on.
    ///
    /// # Errors
    /// [`NnError::Config`] for fewer than two rows of training or none of the others, for rows of other lengths, and
    /// for features that are not finite.
    pub fn of(features: &[Vec<f32>], known: &[Vec<f32>]) -> Result<Self, NnError> {
        let (rows, length) = (features.len(), features.first().map_or(0, Vec::len));
        let all = || features.iter().chain(known);
        if rows < 2 || known.is_empty() || length == 0 || all().any(|row| row.len() != length) {
            return fault("typical", "expected features of at least two volumes, all as many");
        }
        if all().flatten().any(|value| !value.is_finite()) {
            return fault("typical", "expected finite features");
        }
        let data = DMatrix::from_fn(rows, length, |i, j| f64::from(features[i][j]));
        let mean = data.row_mean();
        let centred = DMatrix::from_fn(rows, length, |i, j| data[(i, j)] - mean[j]);
        let spread = (centred.transpose() * &centred / (rows - 1) as f64).symmetric_eigen();
        let mut order: Vec<usize> = (0..length).collect();
        order.sort_by(|&a, &b| spread.eigenvalues[b].total_cmp(&spread.eigenvalues[a]));
        // What does not vary would make every other volume infinitely far.
        let least = 1e-6 * spread.eigenvalues[order[0]].max(f64::from(f32::MIN_POSITIVE));
        let variance = |&axis: &usize| spread.eigenvalues[axis].max(least);
        let (kept, others) = order.split_at(length.min(MAX_AXES));
        let rest: f64 = others.iter().map(variance).sum::<f64>() / others.len().max(1) as f64;
        let axis = |axis: &usize| {
            let scale = variance(axis).sqrt();
            spread.eigenvectors.column(*axis).iter().map(|x| (x / scale) as f32).collect()
        };
        let mut typical = Self {
            mean: mean.iter().map(|&x| x as f32).collect(),
            axes: kept.iter().map(axis).collect(),
            deviations: kept.iter().map(|axis| variance(axis).sqrt() as f32).collect(),
            rest: rest.sqrt() as f32,
            threshold: 0.0,
        };
        let mut distances: Vec<f64> = known.iter().map(|row| typical.distance(row)).collect();
        distances.sort_by(f64::total_cmp);
        let last = (TYPICAL * distances.len() as f64).ceil() as usize;
        typical.threshold = distances[last.clamp(1, distances.len()) - 1];
        Ok(typical)
    }

    /// Distance of features from the mean in standard deviations: the root of the mean over all directions of the
    /// squared deviation in units of the variance, so that it is about 1 for training volumes.
    pub fn distance(&self, features: &[f32]) -> f64 {
        let offset: Vec<f64> = features
            .iter()
            .zip(&self.mean)
            .map(|(x, mean)| f64::from(*x) - f64::from(*mean))
            .collect();
        let mut along = 0.0;
        let mut left: f64 = offset.iter().map(|x| x * x).sum();
        for (axis, deviation) in self.axes.iter().zip(&self.deviations) {
            let score: f64 = axis.iter().zip(&offset).map(|(a, x)| f64::from(*a) * x).sum();
            along += score * score;
            left -= (score * f64::from(*deviation)).powi(2);
        }
        if self.axes.len() < self.mean.len() {
            along += left.max(0.0) / f64::from(self.rest).powi(2);
        }
        (along / self.mean.len().max(1) as f64).sqrt()
    }

    /// Whether these features are farther than those of 99 % of known volumes.
    pub fn is_unlike(&self, features: &[f32]) -> bool {
        self.distance(features) > self.threshold
    }

    /// Checks what a file holds for `features` features.
    ///
    /// # Errors
    /// A text that says what is expected, if numbers are missing or not finite.
    pub fn check(&self, features: usize) -> Result<(), String> {
        let rows = std::iter::once(&self.mean).chain(&self.axes);
        let fits = rows.clone().all(|row| row.len() == features)
            && self.axes.len() == features.min(MAX_AXES)
            && self.axes.len() == self.deviations.len();
        let finite =
            rows.flatten().chain(&self.deviations).chain([&self.rest]).all(|x| x.is_finite());
        match fits && finite && self.threshold >= 0.0 {
            true => Ok(()),
            false => Err(format!("typical: expected finite numbers for {features} features")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Points of a Gaussian with these standard deviations, by a sum of uniform numbers.
    fn rows(count: usize, deviations: &[f64], seed: u64) -> Vec<Vec<f32>> {
        let mut state = seed;
        let mut uniform = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 11) as f64 / (1u64 << 53) as f64
        };
        let mut normal = || (0..12).map(|_| uniform()).sum::<f64>() - 6.0;
        let row = |_| deviations.iter().map(|d| (3.0 + d * normal()) as f32).collect();
        (0..count).map(row).collect()
    }

    #[test]
    fn distances_of_the_same_kind_are_about_one_and_of_others_large() {
        for length in [3, 40] {
            let deviations: Vec<f64> = (0..length).map(|i| 10.0 / f64::from(1 + i)).collect();
            let typical = Typical::of(&rows(4000, &deviations, 1), &rows(1000, &deviations, 2));
            let typical = typical.unwrap();
            let known = rows(1000, &deviations, 3);
            let mean = known.iter().map(|row| typical.distance(row).powi(2)).sum::<f64>() / 1e3;
            assert!((mean - 1.0).abs() < 0.1, "{length}: {mean}");
            let unlike = known.iter().filter(|row| typical.is_unlike(row)).count();
            assert!((1..30).contains(&unlike), "{length}: {unlike}");
            let mut far = typical.mean.clone();
            far[length as usize - 1] += 10.0 * deviations[length as usize - 1] as f32;
            far[0] += 10.0 * deviations[0] as f32;
            assert!(typical.is_unlike(&far), "{length}");
            assert!(typical.distance(&typical.mean) < 1e-6);
            typical.check(length as usize).unwrap();
            assert!(typical.check(length as usize + 1).is_err());
        }
    }

    #[test]
    fn features_that_do_not_vary_leave_finite_distances() {
        let rows = vec![vec![1.0, 2.0, 0.0], vec![2.0, 2.0, 0.0], vec![4.0, 2.0, 0.0]];
        let typical = Typical::of(&rows, &rows).unwrap();
        assert!(typical.distance(&[2.0, 2.0, 0.0]).is_finite());
        assert!(typical.is_unlike(&[2.0, 2.0, 1.0]));
        assert!(Typical::of(&rows[..1], &rows).is_err());
        assert!(Typical::of(&rows, &[]).is_err());
        assert!(Typical::of(&rows, &[vec![f32::NAN; 3]]).is_err());
        assert!(Typical::of(&rows, &[vec![0.0; 2]]).is_err());
    }
}
