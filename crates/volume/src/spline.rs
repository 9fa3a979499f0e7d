//! Cubic B-spline coefficients by recursive filtering (Unser, Aldroubi and Eden 1993, "B-spline
//! signal processing", part II, <https://doi.org/10.1109/78.193221>).
//!
//! The signal is zero outside the grid. Its spline has coefficients beyond the grid: the k-th beyond
//! a face is the one at the face times [`POLE`]ᵏ, separately along each axis.

use crate::filter::{Axis, filter_lines};

/// Pole of the filter, √3 - 2.
pub(crate) const POLE: f64 = -0.267_949_192_431_122_7;

/// Coefficients of one or more channels of `dims` = D, H, W values.
pub(crate) fn coefficients(source: &[f32], dims: [usize; 3]) -> Vec<f32> {
    let mut target = source.to_vec();
    for axis in Axis::ALL {
        filter_lines(&mut target, dims, axis, filter_line);
    }
    target
}

/// Coefficients of a signal that is zero outside the line, in place.
fn filter_line(line: &mut [f64]) {
    for k in 1..line.len() {
        line[k] += POLE * line[k - 1];
    }
    let last = line.len() - 1;
    let mut next = -POLE / (1.0 - POLE * POLE) * line[last];
    line[last] = 6.0 * next;
    for value in line[..last].iter_mut().rev() {
        next = POLE * (next - *value);
        *value = 6.0 * next;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_spline_passes_through_the_values_and_the_zeros_beyond_them() {
        let values = [0.3, -1.0, 2.0, 0.7, 0.0, 5.0];
        let mut line = values.to_vec();
        filter_line(&mut line);
        let coefficient = |k: i32| match k {
            ..0 => line[0] * POLE.powi(-k),
            6.. => line[5] * POLE.powi(k - 5),
            _ => line[k as usize],
        };
        for k in -4..10 {
            let found = (coefficient(k - 1) + 4.0 * coefficient(k) + coefficient(k + 1)) / 6.0;
            let expected = values.get(k as usize).copied().unwrap_or(0.0);
            assert!((found - expected).abs() < 1e-14, "{k}: {found} {expected}");
        }
        assert!((POLE - (3f64.sqrt() - 2.0)).abs() < 1e-15);
    }
}
