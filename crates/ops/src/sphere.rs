//! A nonlinearity applied to functions on a grid, of which fields hold the coefficients.

use candle_core::{Result, Tensor};
use rayon::prelude::*;

use crate::check::{Volume, invalid};
use crate::float::Float;
#[cfg(any(test, feature = "cuda"))]
use crate::gpu::{Routine, Slot, args, fields};
use crate::op::{Op, apply, apply_constant};
use crate::simd::Lanes;

const OP: &str = "grid_nonlinearity";

/// Voxels that are transformed together.
const CHUNK: usize = 64;

/// How the channels of a field become values on a grid, and values coefficients again.
///
/// A *signal* is a function on the grid; channel c of signal s with row k adds `x[c] · to_grid[p][k]` to
/// its value at point p, and gets back the sum over p of `from_grid[p][k]` times what the nonlinearity
/// makes of the value.
#[derive(Clone, Debug)]
pub struct GridTransform {
    /// For each signal, the channels and rows that it is made of; every channel belongs to one.
    pub signals: Vec<Vec<(usize, usize)>>,
    /// One row for each point.
    pub to_grid: Vec<Vec<f64>>,
    /// One row for each point.
    pub from_grid: Vec<Vec<f64>>,
}

/// Transforms to the grid, applies φ(v) = (v + √(v² + 1) - 1) / 2 (Barron 2021, *Squareplus*,
/// <https://arxiv.org/abs/2112.11687>, less its value at 0) at every point, and transforms back. N,C,D,H,W
/// to the same shape. f32 or f64; differentiable.
///
/// # Errors
/// If `x` is no volume tensor, its channels are not, each once, those of the signals, or the matrices
/// differ in size.
pub fn grid_nonlinearity(x: &Tensor, transform: &GridTransform) -> Result<Tensor> {
    let volume = Volume::of(OP, x)?;
    let channels = volume.channels;
    let mut seen = vec![0; channels];
    let rows = transform.to_grid.first().map_or(0, Vec::len);
    for &(channel, row) in transform.signals.iter().flatten() {
        if channel >= channels || row >= rows {
            let problem = format!("channel {channel}, row {row} outside {channels}, {rows}");
            return Err(invalid(OP, problem));
        }
        seen[channel] += 1;
    }
    if seen.iter().any(|&count| count != 1) {
        return Err(invalid(OP, "expected every channel in one signal"));
    }
    let points = transform.to_grid.len();
    let [to, from] = [&transform.to_grid, &transform.from_grid];
    if from.len() != points || to.iter().chain(from).any(|r| r.len() != rows) {
        return Err(invalid(OP, "expected two matrices of the same size"));
    }
    apply(GridNonlinearity { volume, transform: transform.clone() }, [x])
}

#[derive(Clone)]
struct GridNonlinearity {
    volume: Volume,
    transform: GridTransform,
}

/// Input and output gradient to input gradient.
struct GridGradient(GridNonlinearity);

/// φ(v) and φ'(v).
fn squareplus<T: Float>(v: T) -> (T, T) {
    let root = (v * v + T::one()).sqrt();
    let half = T::from_f64(0.5);
    ((v + root - T::one()) * half, (T::one() + v / root) * half)
}

type Chunk<T> = [T; CHUNK];

/// `sum_k row[k] inputs[k]`, for some voxels.
fn combine<T: Float>(row: &[T], inputs: &[Chunk<T>]) -> Chunk<T> {
    let mut sum = [T::zero(); CHUNK];
    for (&factor, input) in row.iter().zip(inputs) {
        for (sum, &x) in sum.iter_mut().zip(input) {
            *sum += factor * x;
        }
    }
    sum
}

/// Adds `row[k] value` to every output k.
fn spread<T: Float>(row: &[T], value: &Chunk<T>, outputs: &mut [Chunk<T>]) {
    for (&factor, output) in row.iter().zip(outputs) {
        for (y, &v) in output.iter_mut().zip(value) {
            *y += factor * v;
        }
    }
}

impl GridNonlinearity {
    /// For every sample and signal, from chunks of the signal's channels of each of `inputs` to those of
    /// the output; `point(rows of the two matrices, inputs, outputs)` does one point of the grid.
    fn run<T: Float, const INPUTS: usize>(
        &self,
        inputs: [&[T]; INPUTS],
        point: impl Fn([&[T]; 2], [&[Chunk<T>]; INPUTS], &mut [Chunk<T>]) + Sync,
    ) -> Vec<T> {
        let (Volume { batch, channels, .. }, voxels) = (self.volume, self.volume.voxels());
        let GridTransform { signals, to_grid, from_grid } = &self.transform;
        let of_signal = |(sample, signal): (usize, &Vec<(usize, usize)>)| {
            let rows = |matrix: &[Vec<f64>]| -> Vec<Vec<T>> {
                let row = |r: &Vec<f64>| signal.iter().map(|&(_, k)| T::from_f64(r[k])).collect();
                matrix.iter().map(row).collect()
            };
            let (to, from) = (rows(to_grid), rows(from_grid));
            let mut out = vec![T::zero(); signal.len() * voxels];
            for start in (0..voxels).step_by(CHUNK) {
                let length = CHUNK.min(voxels - start);
                let inputs = inputs.map(|x| -> Vec<Chunk<T>> {
                    let lanes = |&(channel, _): &(usize, usize)| {
                        let mut lanes = [T::zero(); CHUNK];
                        let first = (sample * channels + channel) * voxels + start;
                        lanes[..length].copy_from_slice(&x[first..][..length]);
                        lanes
                    };
                    signal.iter().map(lanes).collect()
                });
                let mut outputs = vec![[T::zero(); CHUNK]; signal.len()];
                let slices = std::array::from_fn(|i| &inputs[i][..]);
                for (to, from) in to.iter().zip(&from) {
                    point([to, from], slices, &mut outputs);
                }
                for (i, lanes) in outputs.iter().enumerate() {
                    out[i * voxels + start..][..length].copy_from_slice(&lanes[..length]);
                }
            }
            out
        };
        let tasks: Vec<_> =
            (0..batch).flat_map(|sample| signals.iter().map(move |s| (sample, s))).collect();
        let parts: Vec<Vec<T>> = tasks.par_iter().map(|&task| of_signal(task)).collect();
        let mut out = vec![T::zero(); batch * channels * voxels];
        for ((sample, signal), part) in tasks.into_iter().zip(parts) {
            for (&(channel, _), values) in signal.iter().zip(part.chunks_exact(voxels)) {
                out[(sample * channels + channel) * voxels..][..voxels].copy_from_slice(values);
            }
        }
        out
    }
}

impl Op<1> for GridNonlinearity {
    const NAME: &'static str = OP;

    fn cpu<T: Lanes>(&self, inputs: [&[T]; 1]) -> Vec<T> {
        self.run(inputs, |[to, from], [x], out| {
            spread(from, &combine(to, x).map(|v| squareplus(v).0), out);
        })
    }

    #[cfg(any(test, feature = "cuda"))]
    fn gpu(&self, routine: &mut Routine, [x]: [Slot; 1], out: Slot) -> Result<()> {
        self.add(routine, x, None, out)
    }

    fn backward(&self, [x]: [&Tensor; 1], grad: &Tensor) -> Result<[Option<Tensor>; 1]> {
        Ok([Some(apply_constant(GridGradient(self.clone()), [x, grad])?)])
    }
}

impl Op<2> for GridGradient {
    const NAME: &'static str = "grid_nonlinearity gradient";

    fn cpu<T: Lanes>(&self, inputs: [&[T]; 2]) -> Vec<T> {
        self.0.run(inputs, |[to, from], [x, grad], out| {
            let mut slope = combine(to, x).map(|v| squareplus(v).1);
            let grad = combine(from, grad);
            slope.iter_mut().zip(grad).for_each(|(s, g)| *s *= g);
            spread(to, &slope, out);
        })
    }

    #[cfg(any(test, feature = "cuda"))]
    fn gpu(&self, routine: &mut Routine, [x, grad]: [Slot; 2], out: Slot) -> Result<()> {
        self.0.add(routine, x, Some(grad), out)
    }
}

/// Most channels of a signal on a GPU, as `SIGNAL` in `fields.cu`.
#[cfg(any(test, feature = "cuda"))]
const SIGNAL: usize = 64;

#[cfg(any(test, feature = "cuda"))]
impl GridNonlinearity {
    /// Adds the nonlinearity of `x` or, with the gradient of its result, the gradient of `x` to a routine.
    fn add(&self, routine: &mut Routine, x: Slot, grad: Option<Slot>, out: Slot) -> Result<()> {
        let GridTransform { signals, to_grid, from_grid } = &self.transform;
        if signals.iter().any(|signal| signal.len() > SIGNAL) {
            let problem = format!("on a GPU a signal has at most {SIGNAL} channels");
            return Err(invalid(OP, problem));
        }
        let (Volume { batch, channels, .. }, voxels) = (self.volume, self.volume.voxels());
        let ends = signals.iter().scan(0, |end, signal| {
            *end += signal.len();
            Some(*end)
        });
        let starts = routine.ints([0].into_iter().chain(ends));
        let members = signals.iter().flatten();
        let members = routine.ints(members.flat_map(|&(channel, row)| [channel, row]));
        let [to, from] = [to_grid, from_grid].map(|m| routine.reals(m.concat()));
        let rows = to_grid.first().map_or(0, Vec::len);
        let mut args = args![x, grad, starts, members, to, from, out];
        args.extend(args![rows, to_grid.len(), channels, voxels, batch]);
        let call = routine.call(fields, "grid_nonlinearity", args);
        call.over_rows(batch * voxels, signals.len());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check, normal};
    use steer3d_so3::Stream;

    #[test]
    fn kernels_agree_with_the_cpu() {
        let mut stream = Stream::new(1, "test", &[]);
        let mut matrix = || (0..5).map(|_| (0..4).map(|_| stream.normal()).collect()).collect();
        let (to_grid, from_grid) = (matrix(), matrix());
        let signals = vec![vec![(0, 0), (3, 2), (1, 3)], vec![(2, 1)]];
        let transform = GridTransform { signals, to_grid, from_grid };
        let (x, grad) = (normal(1, (2, 4, 3, 4, 5)), normal(2, (2, 4, 3, 4, 5)));
        let volume = Volume { batch: 2, channels: 4, size: [3, 4, 5] };
        let op = GridNonlinearity { volume, transform };
        check(&op, [&x]);
        check(&GridGradient(op), [&x, &grad]);
    }
}
