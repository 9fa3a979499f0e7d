//! Cubic B-spline coefficients by recursive filtering (Unser, Aldroubi and Eden 1993, "B-spline
//! signal processing", part II, <https://doi.org/10.1109/78.193221>).
//!
//! The signal is zero outside the grid. Its spline has coefficients beyond the grid, which fall off
//! by a factor of 0.27 for each voxel; [`PAD`] of them are kept on each side.

use rayon::prelude::*;

/// Coefficients kept beyond each face of the grid.
pub(crate) const PAD: usize = 4;

/// Coefficients of one or more channels of `dims` = D, H, W values: as many channels of
/// D + 2 PAD, H + 2 PAD, W + 2 PAD values.
pub(crate) fn coefficients(source: &[f32], dims: [usize; 3]) -> Vec<f32> {
    let voxels: usize = dims.iter().product();
    let padded = dims.map(|n| n + 2 * PAD);
    let padded_voxels: usize = padded.iter().product();
    let mut target = vec![0.0; source.len() / voxels * padded_voxels];
    target.par_chunks_mut(padded_voxels).zip(source.par_chunks(voxels)).for_each(
        |(target, source)| {
            copy_inside(source, dims, target, padded);
            let [d, h, w] = padded;
            for (count, stride) in [(d, h * w), (h, w), (w, 1)] {
                filter_axis(target, count, stride);
            }
        },
    );
    target
}

fn copy_inside(source: &[f32], [d, h, w]: [usize; 3], target: &mut [f32], padded: [usize; 3]) {
    for z in 0..d {
        for y in 0..h {
            let from = (z * h + y) * w;
            let to = ((z + PAD) * padded[1] + y + PAD) * padded[2] + PAD;
            target[to..to + w].copy_from_slice(&source[from..from + w]);
        }
    }
}

/// Filters every line of `count` values that lie `stride` apart.
fn filter_axis(values: &mut [f32], count: usize, stride: usize) {
    let mut line = vec![0.0; count];
    for start in (0..values.len()).filter(|i| i / stride % count == 0) {
        for (k, value) in line.iter_mut().enumerate() {
            *value = f64::from(values[start + k * stride]);
        }
        filter_line(&mut line);
        for (k, value) in line.iter().enumerate() {
            values[start + k * stride] = *value as f32;
        }
    }
}

/// Coefficients of a signal that is zero outside the line, in place.
fn filter_line(line: &mut [f64]) {
    let pole = 3f64.sqrt() - 2.0;
    for k in 1..line.len() {
        line[k] += pole * line[k - 1];
    }
    let mut next = -pole / (1.0 - pole * pole) * line[line.len() - 1];
    let last = line.len() - 1;
    line[last] = 6.0 * next;
    for value in line[..last].iter_mut().rev() {
        next = pole * (next - *value);
        *value = 6.0 * next;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_spline_of_the_coefficients_passes_through_the_values() {
        let values = [0.3, -1.0, 2.0, 0.7, 0.0, 5.0];
        let mut line = vec![0.0; PAD];
        line.extend(values);
        line.extend([0.0; PAD]);
        filter_line(&mut line);
        for (k, expected) in values.iter().enumerate() {
            let k = k + PAD;
            let found = (line[k - 1] + 4.0 * line[k] + line[k + 1]) / 6.0;
            assert!((found - expected).abs() < 1e-14, "{found} {expected}");
        }
    }
}
