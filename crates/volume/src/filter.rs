//! Filters along the axes of a volume.

use std::f64::consts::PI;

use rayon::prelude::*;

/// An axis of a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Axis {
    X,
    Y,
    Z,
}

impl Axis {
    pub(crate) const ALL: [Self; 3] = [Self::X, Self::Y, Self::Z];
}

/// Sends every line along `axis` of channels of D, H, W values through `filter`.
pub(crate) fn filter_lines(
    values: &mut [f32],
    [d, h, w]: [usize; 3],
    axis: Axis,
    filter: impl Fn(&mut [f64]) + Sync,
) {
    match axis {
        Axis::X => values.par_chunks_mut(w).for_each(|row| filter_line(row.iter_mut(), &filter)),
        Axis::Y => values
            .par_chunks_mut(h * w)
            .for_each(|plane| filter_columns(plane.chunks_mut(w).collect(), &filter)),
        Axis::Z => {
            let mut columns: Vec<Vec<&mut [f32]>> = Vec::new();
            columns.resize_with(values.len() / (d * w), Vec::new);
            for (i, row) in values.chunks_mut(w).enumerate() {
                columns[i / (d * h) * h + i % h].push(row);
            }
            columns.into_par_iter().for_each(|rows| filter_columns(rows, &filter));
        }
    }
}

fn filter_columns(mut rows: Vec<&mut [f32]>, filter: &impl Fn(&mut [f64])) {
    for x in 0..rows[0].len() {
        filter_line(rows.iter_mut().map(|row| &mut row[x]), filter);
    }
}

fn filter_line<'a>(values: impl Iterator<Item = &'a mut f32>, filter: &impl Fn(&mut [f64])) {
    let values: Vec<&mut f32> = values.collect();
    let mut line: Vec<f64> = values.iter().map(|value| f64::from(**value)).collect();
    filter(&mut line);
    for (value, filtered) in values.into_iter().zip(line) {
        *value = filtered as f32;
    }
}

/// Lobes of the windowed sinc on either side.
pub(crate) const LOBES: usize = 3;

/// The sinc function in the window that is its middle lobe stretched to [`LOBES`] (Lanczos).
pub(crate) fn lanczos(x: f64) -> f64 {
    let lobes = LOBES as f64;
    if x.abs() < 1e-9 {
        return 1.0;
    }
    if x.abs() >= lobes {
        return 0.0;
    }
    let angle = PI * x;
    lobes * angle.sin() * (angle / lobes).sin() / (angle * angle)
}

/// Removes, from channels of `dims` = D, H, W values, what voxels `step` = x, y, z times as large
/// cannot hold: a Lanczos kernel stretched by each step above 1. The volume is zero outside.
pub(crate) fn low_pass(values: &mut [f32], dims: [usize; 3], step: [f64; 3]) {
    for (axis, step) in Axis::ALL.into_iter().zip(step).filter(|(_, step)| *step > 1.0) {
        let reach = (LOBES as f64 * step).ceil();
        // No line is longer than the volume.
        let reach = reach.min(values.len() as f64) as usize;
        let half: Vec<f64> = (0..reach).map(|k| lanczos(k as f64 / step)).collect();
        let sum = 2.0 * half.iter().sum::<f64>() - half[0];
        filter_lines(values, dims, axis, |line| {
            let source = line.to_vec();
            for (i, value) in line.iter_mut().enumerate() {
                let first = (i + 1).saturating_sub(reach);
                let taps = source.iter().enumerate().skip(first).take(i + reach - first);
                *value = taps.map(|(k, x)| half[i.abs_diff(k)] * x).sum::<f64>() / sum;
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_run_along_their_axis() {
        // Two channels of 2 × 3 × 4; running sums.
        let sums = |axis| {
            let mut values = vec![1.0; 48];
            filter_lines(&mut values, [2, 3, 4], axis, |line| {
                let mut sum = 0.0;
                for value in line {
                    sum += *value;
                    *value = sum;
                }
            });
            values
        };
        let expected = |count: usize, stride: usize| -> Vec<f32> {
            (0..48).map(|i| (i / stride % count + 1) as f32).collect()
        };
        assert_eq!(sums(Axis::X), expected(4, 1));
        assert_eq!(sums(Axis::Y), expected(3, 4));
        assert_eq!(sums(Axis::Z), expected(2, 12));
    }

    #[test]
    fn the_low_pass_keeps_slow_waves_and_removes_those_that_would_alias() {
        let amplitude = |wavelength: f64, step: f64| {
            let wave = |x: usize| (2.0 * PI * x as f64 / wavelength).cos() as f32;
            let mut values: Vec<f32> = (0..241).map(wave).collect();
            low_pass(&mut values, [1, 1, 241], [step, 1.0, 1.0]);
            values[120] / wave(120)
        };
        for step in [1.5, 2.0, 3.0, 4.7] {
            // 2 step is the shortest wavelength of the result.
            assert!((amplitude(40.0, step) - 1.0).abs() < 0.02, "{step}");
            assert!((amplitude(4.0 * step, step) - 1.0).abs() < 0.05, "{step}");
            assert!(amplitude(1.4 * step, step).abs() < 0.05, "{step}");
        }
        assert_eq!(amplitude(2.5, 1.0), 1.0);
    }
}
