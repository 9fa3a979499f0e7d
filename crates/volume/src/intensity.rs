//! Changes of the values of a volume, of one or more channels of D, H, W values.

use nalgebra::Matrix3;
use steer3d_so3::Stream;

use crate::filter::{Axis, filter_lines};
use crate::resample::{Interpolation, rescaled};

/// Coefficients of [`multiply_by_bias`]: the monomials of degree 1 to 3 in x, y, z.
pub const BIAS_TERMS: usize = 19;

/// Adds independent normal numbers of a standard deviation.
pub fn add_noise(values: &mut [f32], deviation: f64, stream: &mut Stream) {
    values.iter_mut().for_each(|value| *value += (deviation * stream.normal()) as f32);
}

/// Convolves with a Gaussian of `sigma` voxels along each axis, cut off at four of them; at the border the weights of the
/// taps inside the grid are scaled to the sum 1, so that a constant stays what it is.
pub fn blur(values: &mut [f32], dims: [usize; 3], sigma: f64) {
    if sigma <= 0.0 {
        return;
    }
    let reach = (4.0 * sigma).ceil() as usize;
    let half: Vec<f64> = (0..=reach).map(|k| (-0.5 * (k as f64 / sigma).powi(2)).exp()).collect();
    for axis in Axis::ALL {
        filter_lines(values, dims, axis, |line| {
            let source = line.to_vec();
            for (i, value) in line.iter_mut().enumerate() {
                let first = i.saturating_sub(reach);
                let taps = source.iter().enumerate().skip(first).take(i + reach + 1 - first);
                let sums = taps.fold([0.0; 2], |[sum, all], (k, x)| {
                    let weight = half[i.abs_diff(k)];
                    [sum + weight * x, all + weight]
                });
                *value = sums[0] / sums[1];
            }
        });
    }
}

/// Multiplies with the smooth field exp(P), P a polynomial in x, y, z from -1 to 1 across the grid: `coefficients` of x,
/// y, z, then of the products of two of them and of three, in the order of the indices (xx, xy, xz, yy, ...). As the
/// field of magnetic coils in `TorchIO` (`RandomBiasField`, after Sudre et al. 2017,
/// <https://doi.org/10.1007/978-3-319-67558-9_20>).
pub fn multiply_by_bias(values: &mut [f32], dims: [usize; 3], coefficients: &[f64; BIAS_TERMS]) {
    let [depth, height, width] = dims;
    let across =
        |i: usize, n: usize| if n > 1 { 2.0 * i as f64 / (n - 1) as f64 - 1.0 } else { 0.0 };
    for channel in values.chunks_mut(depth * height * width) {
        for (row, row_values) in channel.chunks_mut(width).enumerate() {
            let (y, z) = (across(row % height, height), across(row / height, depth));
            for (x, value) in row_values.iter_mut().enumerate() {
                let exponent = polynomial([across(x, width), y, z], coefficients);
                *value = (f64::from(*value) * exponent.exp()) as f32;
            }
        }
    }
}

fn polynomial(p: [f64; 3], coefficients: &[f64; BIAS_TERMS]) -> f64 {
    let mut rest = coefficients.iter();
    let mut sum = 0.0;
    let mut add = |monomial: f64| sum += rest.next().map_or(0.0, |c| c * monomial);
    p.into_iter().for_each(&mut add);
    for i in 0..3 {
        (i..3).for_each(|j| add(p[i] * p[j]));
    }
    for i in 0..3 {
        for j in i..3 {
            (j..3).for_each(|k| add(p[i] * p[j] * p[k]));
        }
    }
    sum
}

/// Multiplies the distance of every value from the mean of a channel, and cuts off what leaves the range of its values.
pub fn change_contrast(channel: &mut [f32], factor: f64) {
    let mean = channel.iter().map(|v| f64::from(*v)).sum::<f64>() / channel.len().max(1) as f64;
    let [low, high] = range(channel);
    for value in channel {
        let changed = (mean + factor * (f64::from(*value) - mean)) as f32;
        *value = changed.clamp(low, high);
    }
}

/// Takes the values of a channel, as shares from 0 to 1 of their range, to a power; with `inverted` what is missing to 1.
pub fn gamma(channel: &mut [f32], exponent: f64, inverted: bool) {
    let [low, high] = range(channel).map(f64::from);
    let width = high - low;
    if width <= 0.0 {
        return;
    }
    for value in channel {
        let share = ((f64::from(*value) - low) / width).clamp(0.0, 1.0);
        let share =
            if inverted { 1.0 - (1.0 - share).powf(exponent) } else { share.powf(exponent) };
        *value = (low + share * width) as f32;
    }
}

/// The least and the largest value.
fn range(values: &[f32]) -> [f32; 2] {
    values
        .iter()
        .fold([f32::INFINITY, f32::NEG_INFINITY], |[low, high], v| [low.min(*v), high.max(*v)])
}

/// Takes the nearest voxels of a grid `factor` times as coarse with the same outermost voxels, and interpolates linearly
/// between them.
pub fn lower_resolution(values: &mut [f32], dims: [usize; 3], factor: f64) {
    let coarse =
        dims.map(|n| if n == 1 { 1 } else { ((n as f64 / factor).round() as usize).max(2) });
    // How many voxels of the one grid there are to one of the other along x, y, z.
    let steps = |from: [usize; 3], to: [usize; 3]| {
        let step = |i: usize| (from[i] - 1) as f64 / (to[i] - 1).max(1) as f64;
        Matrix3::from_diagonal(&[step(2), step(1), step(0)].into())
    };
    let few = rescaled(values, dims, &steps(dims, coarse), coarse, Interpolation::Nearest);
    let fine = rescaled(&few, coarse, &steps(coarse, dims), dims, Interpolation::Trilinear);
    values.copy_from_slice(&fine);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ramp(n: usize) -> Vec<f32> {
        (0..n).map(|i| (i as f32 * 1.7).sin() + 0.01 * i as f32).collect()
    }

    #[test]
    fn noise_has_the_deviation_that_was_asked_for() {
        let mut values = vec![2.0; 40_000];
        add_noise(&mut values, 0.3, &mut Stream::new(1, "noise", &[]));
        let mean = values.iter().map(|v| f64::from(*v)).sum::<f64>() / 40_000.0;
        let variance =
            values.iter().map(|v| (f64::from(*v) - mean).powi(2)).sum::<f64>() / 40_000.0;
        // Four standard errors: 0.3 / 200 and 0.09 sqrt(2) / 200.
        assert!(
            (mean - 2.0).abs() < 0.006 && (variance - 0.09).abs() < 0.0026,
            "{mean} {variance}"
        );
    }

    #[test]
    fn a_blurred_delta_is_the_gaussian_and_a_constant_stays() {
        let (dims, sigma) = ([21, 19, 23], 1.3);
        let mut values = vec![0.0; 21 * 19 * 23];
        values[(10 * 19 + 9) * 23 + 11] = 1.0;
        blur(&mut values, dims, sigma);
        let line: f64 = (-6i32..=6).map(|k| (-0.5 * (f64::from(k) / sigma).powi(2)).exp()).sum();
        for (i, value) in values.iter().enumerate() {
            let p = [i % 23, i / 23 % 19, i / 437].map(|c| c as f64);
            let square: f64 = [11.0, 9.0, 10.0].iter().zip(p).map(|(a, b)| (a - b).powi(2)).sum();
            let expected = (-0.5 * square / sigma.powi(2)).exp() / line.powi(3);
            // Cut off at six voxels along each axis.
            assert!((f64::from(*value) - expected).abs() < 2e-6, "{i}: {value} {expected}");
        }
        let mut same = vec![3.5; 5 * 4 * 6];
        blur(&mut same, [5, 4, 6], 2.0);
        assert!(same.iter().all(|v| (v - 3.5).abs() < 1e-6));
        let before = values.clone();
        blur(&mut values, dims, 0.0);
        assert_eq!(values, before);
    }

    #[test]
    fn the_bias_is_the_exponential_of_the_polynomial() {
        let mut values = vec![2.0; 2 * 3 * 4 * 5];
        let mut coefficients = [0.0; BIAS_TERMS];
        // x, yz and z³: the last of each degree but the first.
        (coefficients[0], coefficients[7], coefficients[18]) = (0.5, -0.3, 0.2);
        multiply_by_bias(&mut values, [3, 4, 5], &coefficients);
        for (i, value) in values.iter().enumerate() {
            let (x, y, z) = (i % 5, i / 5 % 4, i / 20 % 3);
            let (x, y, z) = (x as f64 / 2.0 - 1.0, y as f64 / 1.5 - 1.0, z as f64 - 1.0);
            let expected = 2.0 * (0.5 * x - 0.3 * y * z + 0.2 * z.powi(3)).exp();
            assert!((f64::from(*value) - expected).abs() < 1e-6, "{i}: {value} {expected}");
        }
    }

    #[test]
    fn gamma_and_contrast_keep_constants_and_ranges() {
        type Change = fn(&mut [f32]);
        let changes: [Change; 3] = [
            |values| gamma(values, 0.7, false),
            |values| gamma(values, 1.5, true),
            |values| change_contrast(values, 1.5),
        ];
        for change in changes {
            let mut constant = vec![-2.5; 9];
            change(&mut constant);
            assert_eq!(constant, [-2.5; 9]);
            let mut values = ramp(50);
            let before = range(&values);
            change(&mut values);
            let after = range(&values);
            assert!((0..2).all(|i| (before[i] - after[i]).abs() < 1e-6), "{before:?} {after:?}");
        }
        let mut values = vec![1.0, 2.0, 5.0];
        gamma(&mut values, 2.0, false);
        assert_eq!(values, [1.0, 1.25, 5.0]);
        let mut values = vec![1.0, 2.0, 5.0];
        gamma(&mut values, 2.0, true);
        assert_eq!(values, [1.0, 1.0 + 4.0 * (1.0 - 0.5625), 5.0]);
        let mut values = vec![0.0, 2.0, 4.0];
        change_contrast(&mut values, 0.5);
        assert_eq!(values, [1.0, 2.0, 3.0]);
    }

    #[test]
    fn a_lower_resolution_keeps_what_a_coarse_grid_holds() {
        let dims = [1, 9, 17];
        let linear = |i: usize| (i % 17) as f32 - 2.0 * (i / 17) as f32;
        let mut values: Vec<f32> = (0..153).map(linear).collect();
        let before = values.clone();
        lower_resolution(&mut values, dims, 1.0);
        assert!(values.iter().zip(&before).all(|(a, b)| (a - b).abs() < 1e-4));
        // Every second voxel: what alternates is lost.
        let mut stripes: Vec<f32> = (0..153).map(|i| (i % 17 % 2) as f32).collect();
        lower_resolution(&mut stripes, dims, 17.0 / 9.0);
        assert!(stripes.iter().all(|v| v.abs() < 1e-6), "{stripes:?}");
    }
}
