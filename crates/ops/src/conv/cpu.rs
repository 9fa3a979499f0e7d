//! Convolution on the CPU. The output is computed tile by tile, for one or two vectors of output
//! channels at a time: the input that a tile needs is copied with its border, a few channels at a
//! time, and met by the weights in registers, without being unfolded. What a task computes depends
//! on the shapes and the instruction set alone, so results do not depend on the number of threads.

use std::marker::PhantomData;
use std::ops::Range;

use pulp::Arch;
use rayon::prelude::*;

use super::geometry::{Geometry, Tile};
use super::microkernel::{MOST_VECTORS, Product, VectorLen};
use crate::float::{Float, sum};
use crate::matmul::{Matrix, matmul};
use crate::simd::Lanes;

/// Output voxels of a tile, where lines are not longer.
const TILE_VOXELS: usize = 400;

/// Taps of the input channels that are copied at a time.
const GROUP_TAPS: usize = 512;

/// Voxels that are moved between tiles and channels at a time; they stay in the level-1 cache.
const BLOCK_VOXELS: usize = 64;

/// Fewest input channels for which the input gradient is itself a convolution: with fewer, the
/// vectors would be mostly empty.
const MIN_CHANNELS: usize = 8;

/// Bytes of a panel of the input gradient of a strided convolution.
const PANEL_BYTES: usize = 256 << 10;

/// Tasks that the weight gradient is split into, where sizes allow.
const MIN_TASKS: usize = 16;

/// Rows of the weight gradient for which a task gathers the output gradient.
const TASK_ROWS: usize = 2048;

/// Splits `0..n` into ranges of at most `length`.
fn blocks(n: usize, length: usize) -> impl Iterator<Item = Range<usize>> + Clone {
    (0..n).step_by(length).map(move |start| start..(start + length).min(n))
}

/// Some output channels, in whole vectors.
struct Block {
    channels: Range<usize>,
    /// Elements of the vectors.
    width: usize,
}

/// All output channels in blocks of about equally many vectors.
fn channel_blocks<T: Lanes>(arch: Arch, channels: usize) -> Vec<Block> {
    let lanes = arch.dispatch(VectorLen::<T>(PhantomData));
    let vectors = channels.div_ceil(lanes);
    let count = vectors.div_ceil(MOST_VECTORS);
    let block = |i: usize| {
        let (start, end) = (i * vectors / count * lanes, (i + 1) * vectors / count * lanes);
        Block { channels: start..end.min(channels), width: end - start }
    };
    (0..count).map(block).collect()
}

/// Matrices of `rows` rows, one for each block, of the columns of its channels and zeros.
fn packed<T: Float>(
    blocks: &[Block],
    rows: usize,
    at: impl Fn(usize, usize) -> T + Sync,
) -> Vec<Vec<T>> {
    let pack = |block: &Block| {
        let mut out = vec![T::zero(); rows * block.width];
        for (row, out) in out.chunks_exact_mut(block.width).enumerate() {
            for (value, c) in out.iter_mut().zip(block.channels.clone()) {
                *value = at(row, c);
            }
        }
        out
    };
    blocks.par_iter().map(pack).collect()
}

/// The output N,C_out,D,H,W of input N,C_in,D,H,W and weights C_out,C_in,kd,kh,kw.
pub(super) fn forward<T: Lanes>(
    arch: Arch,
    g: &Geometry,
    x: &[T],
    w: &[T],
    bias: Option<&[T]>,
) -> Vec<T> {
    let rows = g.rows();
    convolve(arch, g, x, bias, |row, c| w[c * rows + row])
}

/// The gradient of the input from the gradient of the output.
pub(super) fn input_gradient<T: Lanes>(arch: Arch, g: &Geometry, w: &[T], grad: &[T]) -> Vec<T> {
    if g.stride != [1; 3] || g.c_in < MIN_CHANNELS {
        return folded_input_gradient(g, w, grad);
    }
    let (rows, taps) = (g.rows(), g.taps());
    convolve(arch, &g.transposed(), grad, None, |row, c| {
        w[row / taps * rows + c * taps + taps - 1 - row % taps]
    })
}

/// The output N,C_out,D,H,W of input N,C_in,D,H,W and the weight of each row (C_in, kd, kh, kw) and
/// output channel.
fn convolve<T: Lanes>(
    arch: Arch,
    g: &Geometry,
    x: &[T],
    bias: Option<&[T]>,
    weight: impl Fn(usize, usize) -> T + Sync,
) -> Vec<T> {
    let blocks = channel_blocks::<T>(arch, g.c_out);
    let weights = packed(&blocks, g.rows(), weight);
    let tiles = g.tiles(TILE_VOXELS);
    let sample_len = g.c_in * g.in_voxels();
    let mut out = vec![T::zero(); g.batch * g.c_out * g.out_voxels()];
    let mut tasks: Vec<_> = tasks(g, &blocks, &tiles, &mut out);
    tasks.par_iter_mut().for_each_init(Buffers::default, |buffers, task| {
        let x = &x[task.sample * sample_len..][..sample_len];
        let Block { channels, width } = &blocks[task.block];
        convolve_tile(arch, g, x, &weights[task.block], *width, task.tile, buffers);
        let bias = bias.map(|bias| &bias[channels.clone()]);
        scatter(&buffers.values, *width, &mut task.channels, bias);
    });
    out
}

/// A tile of some channels of the output.
struct Task<'a, T> {
    sample: usize,
    block: usize,
    tile: &'a Tile,
    channels: Vec<&'a mut [T]>,
}

fn tasks<'a, T>(
    g: &Geometry,
    blocks: &[Block],
    tiles: &'a [Tile],
    out: &'a mut [T],
) -> Vec<Task<'a, T>> {
    let mut tasks = vec![];
    let mut channels = out.chunks_exact_mut(g.out_voxels());
    for sample in 0..g.batch {
        for (block, Block { channels: range, .. }) in blocks.iter().enumerate() {
            let first = tasks.len();
            tasks.extend(tiles.iter().map(|tile| Task { sample, block, tile, channels: vec![] }));
            for mut channel in channels.by_ref().take(range.len()) {
                for task in &mut tasks[first..] {
                    let (values, rest) = channel.split_at_mut(task.tile.len(g));
                    task.channels.push(values);
                    channel = rest;
                }
            }
        }
    }
    tasks
}

/// The input channels of a pointwise convolution at the voxels of a tile.
fn pointwise<'a, T>(g: &Geometry, x: &'a [T], channels: usize, tile: &Tile) -> Matrix<'a, T> {
    let voxels = tile.voxels(g);
    Matrix::new(&x[voxels.start..], channels, voxels.len(), g.in_voxels())
}

/// Memory that a thread uses again.
struct Buffers<T> {
    /// Input of a tile with its border, for some channels.
    patch: Vec<T>,
    /// A row of some channels for each voxel of a tile.
    values: Vec<T>,
    voxels: Vec<usize>,
    taps: Vec<usize>,
}

impl<T> Default for Buffers<T> {
    fn default() -> Self {
        Self { patch: vec![], values: vec![], voxels: vec![], taps: vec![] }
    }
}

/// Input channels that are copied at a time.
fn group_channels(g: &Geometry) -> usize {
    (GROUP_TAPS / g.taps()).max(1)
}

/// The output of one sample in `tile`, a row of `width` channels for each voxel.
fn convolve_tile<T: Lanes>(
    arch: Arch,
    g: &Geometry,
    x: &[T],
    weights: &[T],
    width: usize,
    tile: &Tile,
    buffers: &mut Buffers<T>,
) {
    let Buffers { patch, values, voxels, taps } = buffers;
    values.resize(tile.len(g) * width, T::zero());
    if g.is_pointwise() {
        let x = pointwise(g, x, g.c_in, tile).transposed();
        matmul(values, x, Matrix::new(weights, g.c_in, width, width), false);
        return;
    }
    g.offsets(tile, group_channels(g), voxels, taps);
    for channels in blocks(g.c_in, group_channels(g)) {
        g.load(x, &channels, tile, patch);
        let rows = channels.start * g.taps()..channels.end * g.taps();
        arch.dispatch(Product {
            input: patch,
            rows: voxels,
            steps: &taps[..rows.len()],
            vectors: &weights[rows.start * width..rows.end * width],
            width,
            out: values,
            accumulate: channels.start > 0,
        });
    }
}

/// Moves rows of `width` values to the channels, and adds the bias.
fn scatter<T: Float>(values: &[T], width: usize, channels: &mut [&mut [T]], bias: Option<&[T]>) {
    for (i, values) in values.chunks(BLOCK_VOXELS * width).enumerate() {
        for (c, channel) in channels.iter_mut().enumerate() {
            let bias = bias.map_or(T::zero(), |bias| bias[c]);
            let values = values[c..].iter().step_by(width);
            let channel = channel[i * BLOCK_VOXELS..].iter_mut();
            channel.zip(values).for_each(|(out, &v)| *out = v + bias);
        }
    }
}

/// The values of some channels at the voxels of a tile, a row of `width` for each voxel.
fn gather<T: Float>(
    channels: &[T],
    voxels: usize,
    tile: &Range<usize>,
    width: usize,
    values: &mut Vec<T>,
) {
    values.clear();
    values.resize(tile.len() * width, T::zero());
    for (i, values) in values.chunks_mut(BLOCK_VOXELS * width).enumerate() {
        for (c, channel) in channels.chunks_exact(voxels).enumerate() {
            let channel = &channel[tile.clone()][i * BLOCK_VOXELS..];
            values[c..].iter_mut().step_by(width).zip(channel).for_each(|(v, &x)| *v = x);
        }
    }
}

/// The gradient of the input for any stride: the transposed product, folded tile by tile.
fn folded_input_gradient<T: Float>(g: &Geometry, w: &[T], grad: &[T]) -> Vec<T> {
    let taps = g.taps();
    let channels = (PANEL_BYTES / size_of::<T>() / TILE_VOXELS / taps).max(1);
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

/// A share of the gradient of the weights: rows of some input channels, for some output channels, summed over some
/// tiles of samples.
struct Share<'a> {
    block: &'a Block,
    input: &'a Range<usize>,
    tiles: &'a [(usize, &'a Tile)],
}

/// The gradient of the weights: its shares are added in order.
pub(super) fn weight_gradient<T: Lanes>(arch: Arch, g: &Geometry, x: &[T], grad: &[T]) -> Vec<T> {
    let columns = channel_blocks::<T>(arch, g.c_out);
    let inputs: Vec<_> = blocks(g.c_in, (TASK_ROWS / g.taps()).max(1)).collect();
    let tiles = g.tiles(TILE_VOXELS);
    let tiles: Vec<_> = (0..g.batch).flat_map(|n| tiles.iter().map(move |t| (n, t))).collect();
    let shares = MIN_TASKS.div_ceil(columns.len() * inputs.len()).min(tiles.len());
    let shares: Vec<_> = tiles.chunks(tiles.len().div_ceil(shares)).collect();
    let shares: Vec<_> = columns
        .iter()
        .flat_map(|block| inputs.iter().map(move |input| (block, input)))
        .flat_map(|(block, input)| shares.iter().map(move |tiles| Share { block, input, tiles }))
        .collect();
    let sums: Vec<_> = shares
        .par_iter()
        .map_init(Buffers::default, |buffers, share| {
            weight_gradient_share(arch, g, x, grad, share, buffers)
        })
        .collect();
    let mut out = vec![T::zero(); g.c_out * g.rows()];
    out.par_chunks_exact_mut(g.rows()).enumerate().for_each(|(c, out)| {
        for (Share { block, input, .. }, sums) in shares.iter().zip(&sums) {
            if block.channels.contains(&c) {
                let rows = &mut out[input.start * g.taps()..input.end * g.taps()];
                let sums = sums[c - block.channels.start..].iter().step_by(block.width);
                rows.iter_mut().zip(sums).for_each(|(out, &s)| *out += s);
            }
        }
    });
    out
}

/// One share: a row of output channels for each tap.
fn weight_gradient_share<T: Lanes>(
    arch: Arch,
    g: &Geometry,
    x: &[T],
    grad: &[T],
    &Share { block, input, tiles }: &Share<'_>,
    buffers: &mut Buffers<T>,
) -> Vec<T> {
    let Buffers { patch, values, voxels, taps } = buffers;
    let (x_len, grad_len) = (g.c_in * g.in_voxels(), g.c_out * g.out_voxels());
    let width = block.width;
    let mut sums = vec![T::zero(); input.len() * g.taps() * width];
    for &(sample, tile) in tiles {
        let x = &x[sample * x_len..][..x_len];
        let grad = &grad[sample * grad_len + block.channels.start * g.out_voxels()..]
            [..block.channels.len() * g.out_voxels()];
        gather(grad, g.out_voxels(), &tile.voxels(g), width, values);
        if g.is_pointwise() {
            let x = pointwise(g, &x[input.start * g.in_voxels()..], input.len(), tile);
            matmul(&mut sums, x, Matrix::new(values, tile.len(g), width, width), true);
            continue;
        }
        g.offsets(tile, group_channels(g), voxels, taps);
        for (i, group) in blocks(input.len(), group_channels(g)).enumerate() {
            let channels = input.start + group.start..input.start + group.end;
            g.load(x, &channels, tile, patch);
            let first = i * group_channels(g) * g.taps() * width;
            let rows = group.len() * g.taps();
            arch.dispatch(Product {
                input: patch,
                rows: &taps[..rows],
                steps: voxels,
                vectors: values,
                width,
                out: &mut sums[first..first + rows * width],
                accumulate: true,
            });
        }
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

#[cfg(test)]
mod tests {
    use steer3d_so3::Stream;

    use super::*;
    use crate::simd::arches;

    #[test]
    fn all_instruction_sets_agree() {
        // Two blocks of output channels for AVX-512, more than one tile, group and line ending.
        let g = Geometry {
            batch: 2,
            c_in: 21,
            c_out: 69,
            size: [5, 9, 50],
            kernel: [3; 3],
            stride: [1; 3],
            padding: [1; 3],
            out: [5, 9, 50],
        };
        let mut stream = Stream::new(0, "test", &[]);
        let mut normal = |n: usize| (0..n).map(|_| stream.normal() as f32).collect::<Vec<_>>();
        let (x, w) = (normal(g.batch * g.c_in * g.in_voxels()), normal(g.c_out * g.rows()));
        let grad = normal(g.batch * g.c_out * g.out_voxels());
        let results = arches().into_iter().map(|arch| {
            let of_x = input_gradient(arch, &g, &w, &grad);
            [forward(arch, &g, &x, &w, None), of_x, weight_gradient(arch, &g, &x, &grad)]
        });
        let results: Vec<[Vec<f32>; 3]> = results.collect();
        for result in &results[1..] {
            for (a, b) in result.iter().zip(&results[0]) {
                let largest = b.iter().fold(0f32, |m, v| m.max(v.abs()));
                let gap = a.iter().zip(b).fold(0f32, |m, (a, b)| m.max((a - b).abs()));
                assert!(gap < 1e-5 * largest, "{gap} of {largest}");
            }
        }
    }
}
