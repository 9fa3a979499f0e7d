//! Convolution on the CPU: panels of the unfolded input that stay in the level-2 cache, each met
//! by a matrix product on one thread. The results of the products are contiguous along channels,
//! whose number is more often a multiple of the vector length than of anything else. What a task
//! computes depends on the shapes alone, so results do not depend on the number of threads.

use std::ops::Range;

use rayon::prelude::*;

use super::geometry::Geometry;
use crate::float::{Float, sum};
use crate::matmul::{Matrix, matmul};

/// Output voxels of one tile: a multiple of the 6 columns that the kernels of `gemm` take at once,
/// and an odd number of cache lines, so that the rows of a panel fall into different cache sets.
const TILE_VOXELS: usize = 240;

/// Bytes of a panel of the unfolded input.
const PANEL_BYTES: usize = 256 << 10;

/// Fewest input channels for which the input gradient is itself a convolution: with fewer, the
/// vectors of the matrix product would be mostly empty.
const MIN_CHANNELS: usize = 8;

/// Tasks that the weight gradient is split into, where sizes allow.
const MIN_TASKS: usize = 16;

/// Splits `0..n` into ranges of at most `length`.
fn blocks(n: usize, length: usize) -> impl Iterator<Item = Range<usize>> + Clone {
    (0..n).step_by(length).map(move |start| start..(start + length).min(n))
}

/// Rows of a panel of `TILE_VOXELS` columns.
fn panel_rows<T>() -> usize {
    PANEL_BYTES / size_of::<T>() / TILE_VOXELS
}

/// Output voxels of one sample, with their values in every output channel.
struct Tile<'a, T> {
    sample: usize,
    voxels: Range<usize>,
    channels: Vec<&'a mut [T]>,
}

fn tiles<'a, T>(g: &Geometry, out: &'a mut [T]) -> Vec<Tile<'a, T>> {
    let voxels = g.out_voxels();
    let samples = out.chunks_mut(g.c_out * voxels).enumerate();
    samples
        .flat_map(|(sample, out)| {
            let mut tiles: Vec<_> = blocks(voxels, TILE_VOXELS)
                .map(|voxels| Tile { sample, voxels, channels: Vec::with_capacity(g.c_out) })
                .collect();
            for channel in out.chunks_mut(voxels) {
                for (tile, values) in tiles.iter_mut().zip(channel.chunks_mut(TILE_VOXELS)) {
                    tile.channels.push(values);
                }
            }
            tiles
        })
        .collect()
}

/// The output N,C_out,D,H,W of input N,C_in,D,H,W and weights C_out,C_in,kd,kh,kw.
pub(super) fn forward<T: Float>(g: &Geometry, x: &[T], w: &[T], bias: Option<&[T]>) -> Vec<T> {
    convolve(g, x, &transposed(w, g.c_out), bias)
}

/// Rows and columns exchanged, for `rows` rows.
fn transposed<T: Float>(matrix: &[T], rows: usize) -> Vec<T> {
    let cols = matrix.len() / rows;
    (0..cols).flat_map(|col| (0..rows).map(move |row| matrix[row * cols + col])).collect()
}

/// The output N,C_out,D,H,W of input N,C_in,D,H,W and weights C_in,kd,kh,kw,C_out.
fn convolve<T: Float>(g: &Geometry, x: &[T], w: &[T], bias: Option<&[T]>) -> Vec<T> {
    let mut out = vec![T::zero(); g.batch * g.c_out * g.out_voxels()];
    let sample_len = g.c_in * g.in_voxels();
    tiles(g, &mut out).par_iter_mut().for_each_init(
        || (vec![], vec![]),
        |(panel, values), tile| {
            let x = &x[tile.sample * sample_len..][..sample_len];
            values.resize(g.c_out * tile.voxels.len(), T::zero());
            convolve_tile(g, x, w, &tile.voxels, panel, values);
            for (c, channel) in tile.channels.iter_mut().enumerate() {
                let bias = bias.map_or(T::zero(), |bias| bias[c]);
                let values = values[c..].iter().step_by(g.c_out);
                channel.iter_mut().zip(values).for_each(|(out, &v)| *out = v + bias);
            }
        },
    );
    out
}

/// The output of one sample at `voxels`, a row of C_out values for each.
fn convolve_tile<T: Float>(
    g: &Geometry,
    x: &[T],
    w: &[T],
    voxels: &Range<usize>,
    panel: &mut Vec<T>,
    values: &mut [T],
) {
    let n = voxels.len();
    if g.is_pointwise() {
        let x = Matrix::new(&x[voxels.start..], g.c_in, n, g.in_voxels());
        matmul(values, x.transposed(), Matrix::new(w, g.c_in, g.c_out, g.c_out), false);
        return;
    }
    let columns = g.columns(voxels);
    for rows in blocks(g.rows(), panel_rows::<T>()) {
        panel.resize(rows.len() * n, T::zero());
        g.unfold(x, rows.clone(), &columns, panel);
        let weights = Matrix::new(&w[rows.start * g.c_out..], rows.len(), g.c_out, g.c_out);
        let panel = Matrix::new(panel, rows.len(), n, n);
        matmul(values, panel.transposed(), weights, rows.start > 0);
    }
}

/// The gradient of the input from the gradient of the output.
pub(super) fn input_gradient<T: Float>(g: &Geometry, w: &[T], grad: &[T]) -> Vec<T> {
    if g.stride == [1; 3] && g.c_in >= MIN_CHANNELS {
        convolve(&g.transposed(), grad, &flipped(g, w), None)
    } else {
        folded_input_gradient(g, w, grad)
    }
}

/// Weights C_out,kd,kh,kw,C_in with the taps in reverse order.
fn flipped<T: Float>(g: &Geometry, w: &[T]) -> Vec<T> {
    let taps = g.taps();
    let mut out = Vec::with_capacity(w.len());
    for w in w.chunks_exact(g.rows()) {
        for tap in (0..taps).rev() {
            out.extend(w.iter().skip(tap).step_by(taps));
        }
    }
    out
}

/// The gradient of the input for any stride: the transposed product, folded tile by tile.
fn folded_input_gradient<T: Float>(g: &Geometry, w: &[T], grad: &[T]) -> Vec<T> {
    let taps = g.taps();
    let channels = (panel_rows::<T>() / taps).max(1);
    let one_channel = Geometry { c_in: 1, ..*g };
    let tile_voxels = (PANEL_BYTES / size_of::<T>() / (channels * taps)).max(1);
    let grad_len = g.c_out * g.out_voxels();
    let mut out = vec![T::zero(); g.batch * g.c_in * g.in_voxels()];
    let tasks: Vec<_> = out
        .chunks_mut(g.c_in * g.in_voxels())
        .enumerate()
        .flat_map(|(sample, out)| {
            let parts = out.chunks_mut(channels * g.in_voxels()).enumerate();
            parts.map(move |(part, out)| (sample, part * channels, out))
        })
        .collect();
    tasks.into_par_iter().for_each_init(Vec::new, |panel, (sample, first, out)| {
        let grad = &grad[sample * grad_len..][..grad_len];
        let rows = out.len() / g.in_voxels() * taps;
        let weights = Matrix::new(&w[first * taps..], g.c_out, rows, g.rows()).transposed();
        for voxels in blocks(g.out_voxels(), tile_voxels) {
            let n = voxels.len();
            panel.resize(rows * n, T::zero());
            let grad = Matrix::new(&grad[voxels.start..], g.c_out, n, g.out_voxels());
            matmul(panel, weights, grad, false);
            let columns = one_channel.columns(&voxels);
            for (out, panel) in out.chunks_mut(g.in_voxels()).zip(panel.chunks_exact(taps * n)) {
                one_channel.fold(panel, 0..taps, &columns, out);
            }
        }
    });
    out
}

/// The gradient of the weights: each task sums some rows of the unfolded input over a share of all
/// tiles; the shares are added in order.
pub(super) fn weight_gradient<T: Float>(g: &Geometry, x: &[T], grad: &[T]) -> Vec<T> {
    let row_blocks: Vec<_> = blocks(g.rows(), panel_rows::<T>()).collect();
    let tiles: Vec<_> = (0..g.batch)
        .flat_map(|sample| blocks(g.out_voxels(), TILE_VOXELS).map(move |v| (sample, v)))
        .collect();
    let shares = MIN_TASKS.div_ceil(row_blocks.len()).min(tiles.len());
    let share_len = tiles.len().div_ceil(shares);
    let tasks: Vec<_> = row_blocks
        .iter()
        .flat_map(|rows| tiles.chunks(share_len).map(move |tiles| (rows.clone(), tiles)))
        .collect();
    let partial: Vec<_> = tasks
        .into_par_iter()
        .map_init(Vec::new, |panel, (rows, tiles)| {
            let sums = weight_gradient_rows(g, x, grad, &rows, tiles, panel);
            (rows, sums)
        })
        .collect();
    let mut out = vec![T::zero(); g.c_out * g.rows()];
    for (rows, sums) in partial {
        for (c, out) in out.chunks_exact_mut(g.rows()).enumerate() {
            let sums = sums[c..].iter().step_by(g.c_out);
            out[rows.clone()].iter_mut().zip(sums).for_each(|(out, &s)| *out += s);
        }
    }
    out
}

/// The gradient of the weights that meet `rows`, C_out values for each row, from some tiles.
fn weight_gradient_rows<T: Float>(
    g: &Geometry,
    x: &[T],
    grad: &[T],
    rows: &Range<usize>,
    tiles: &[(usize, Range<usize>)],
    panel: &mut Vec<T>,
) -> Vec<T> {
    let (x_len, grad_len) = (g.c_in * g.in_voxels(), g.c_out * g.out_voxels());
    let mut sums = vec![T::zero(); g.c_out * rows.len()];
    for (sample, voxels) in tiles {
        let x = &x[sample * x_len..][..x_len];
        let grad = &grad[sample * grad_len..][..grad_len];
        let n = voxels.len();
        let grad = Matrix::new(&grad[voxels.start..], g.c_out, n, g.out_voxels());
        panel.resize(rows.len() * n, T::zero());
        g.unfold(x, rows.clone(), &g.columns(voxels), panel);
        matmul(&mut sums, Matrix::new(panel, rows.len(), n, n), grad.transposed(), true);
    }
    sums
}

/// The gradient of the bias: the sum of each channel over batch and space.
pub(super) fn bias_gradient<T: Float>(batch: usize, channels: usize, grad: &[T]) -> Vec<T> {
    let voxels = grad.len() / (batch * channels);
    (0..channels)
        .into_par_iter()
        .map(|c| {
            let samples = (0..batch).map(|n| &grad[(n * channels + c) * voxels..][..voxels]);
            T::from_f64(samples.map(|values| sum(values, values, |v, _| v)).sum())
        })
        .collect()
}
