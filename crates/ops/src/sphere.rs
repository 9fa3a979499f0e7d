//! A nonlinearity applied to functions on a grid, of which fields hold the coefficients.

use candle_core::{CpuStorage, CustomOp1, CustomOp2, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use crate::check::{invalid, volume_dims};
use crate::float::cuda_fwd;
use crate::float::{Float, dispatch, elements, storage};
#[cfg(any(test, feature = "cuda"))]
use crate::gpu::{Call, Element, Limits, OnGpu, Routine, Slot, args, fields as source};

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
    let [_, channels, ..] = volume_dims(OP, x)?;
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
    x.contiguous()?.apply_op1(GridNonlinearity(transform.clone()))
}

struct GridNonlinearity(GridTransform);

struct GridGradient(GridTransform);

/// φ(v) and φ'(v).
fn squareplus<T: Float>(v: T) -> (T, T) {
    let root = (v * v + T::one()).sqrt();
    let half = T::from_f64(0.5);
    ((v + root - T::one()) * half, (T::one() + v / root) * half)
}

type Lanes<T> = [T; CHUNK];

/// `sum_k row[k] inputs[k]`, for some voxels.
fn combine<T: Float>(row: &[T], inputs: &[Lanes<T>]) -> Lanes<T> {
    let mut sum = [T::zero(); CHUNK];
    for (&factor, input) in row.iter().zip(inputs) {
        for (sum, &x) in sum.iter_mut().zip(input) {
            *sum += factor * x;
        }
    }
    sum
}

/// Adds `row[k] value` to every output k.
fn spread<T: Float>(row: &[T], value: &Lanes<T>, outputs: &mut [Lanes<T>]) {
    for (&factor, output) in row.iter().zip(outputs) {
        for (y, &v) in output.iter_mut().zip(value) {
            *y += factor * v;
        }
    }
}

impl GridTransform {
    /// For every sample and signal, from chunks of the signal's channels of each of `inputs` to those of
    /// the output; `point(rows of the two matrices, inputs, outputs)` does one point of the grid.
    fn run<T: Float, const INPUTS: usize>(
        &self,
        inputs: [&[T]; INPUTS],
        [n, channels, voxels]: [usize; 3],
        point: impl Fn([&[T]; 2], [&[Lanes<T>]; INPUTS], &mut [Lanes<T>]) + Sync,
    ) -> Vec<T> {
        let of_signal = |(sample, signal): (usize, &Vec<(usize, usize)>)| {
            let rows = |matrix: &[Vec<f64>]| -> Vec<Vec<T>> {
                let row = |r: &Vec<f64>| signal.iter().map(|&(_, k)| T::from_f64(r[k])).collect();
                matrix.iter().map(row).collect()
            };
            let (to, from) = (rows(&self.to_grid), rows(&self.from_grid));
            let mut out = vec![T::zero(); signal.len() * voxels];
            for start in (0..voxels).step_by(CHUNK) {
                let length = CHUNK.min(voxels - start);
                let inputs = inputs.map(|x| -> Vec<Lanes<T>> {
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
            (0..n).flat_map(|sample| self.signals.iter().map(move |s| (sample, s))).collect();
        let parts: Vec<Vec<T>> = tasks.par_iter().map(|&task| of_signal(task)).collect();
        let mut out = vec![T::zero(); n * channels * voxels];
        for ((sample, signal), part) in tasks.into_iter().zip(parts) {
            for (&(channel, _), values) in signal.iter().zip(part.chunks_exact(voxels)) {
                out[(sample * channels + channel) * voxels..][..voxels].copy_from_slice(values);
            }
        }
        out
    }
}

fn sizes(layout: &Layout) -> [usize; 3] {
    let dims = layout.dims();
    [dims[0], dims[1], dims[2..].iter().product()]
}

impl CustomOp1 for GridNonlinearity {
    fn name(&self) -> &'static str {
        OP
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        dispatch!((x), OP, T => {
            let x = elements::<T>(x, layout, OP)?;
            let out = self.0.run([x], sizes(layout), |[to, from], [x], out| {
                spread(from, &combine(to, x).map(|v| squareplus(v).0), out);
            });
            Ok((storage(out), layout.shape().clone()))
        })
    }

    cuda_fwd!(1);

    fn bwd(&self, x: &Tensor, _out: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let op = GridGradient(self.0.clone());
        Ok(Some(x.contiguous()?.apply_op2_no_bwd(&grad.contiguous()?, &op)?))
    }
}

impl CustomOp2 for GridGradient {
    fn name(&self) -> &'static str {
        "grid_nonlinearity gradient"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        grad: &CpuStorage,
        grad_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        dispatch!((x, grad), OP, T => {
            let (x, grad) = (elements::<T>(x, x_layout, OP)?, elements(grad, grad_layout, OP)?);
            let out = self.0.run([x, grad], sizes(x_layout), |[to, from], [x, grad], out| {
                let mut slope = combine(to, x).map(|v| squareplus(v).1);
                let grad = combine(from, grad);
                slope.iter_mut().zip(grad).for_each(|(s, g)| *s *= g);
                spread(to, &slope, out);
            });
            Ok((storage(out), x_layout.shape().clone()))
        })
    }

    cuda_fwd!(2);
}

/// Most channels of a signal on a GPU, as `SIGNAL` in `fields.cu`.
#[cfg(any(test, feature = "cuda"))]
const SIGNAL: usize = 64;

#[cfg(any(test, feature = "cuda"))]
impl GridTransform {
    /// The nonlinearity of `x` or, with the gradient of its result, the gradient of `x`.
    fn routine_of(
        &self,
        shape: &Shape,
        element: Element,
        with_gradient: bool,
    ) -> Result<(Routine, Shape)> {
        if self.signals.iter().any(|signal| signal.len() > SIGNAL) {
            let problem = format!("on a GPU a signal has at most {SIGNAL} channels");
            return Err(invalid(OP, problem));
        }
        let (mut routine, inputs) = Routine::new(element, 1 + usize::from(with_gradient));
        let (batch, channels, d, h, w) = shape.dims5()?;
        let voxels = d * h * w;
        let grad: Option<Slot> = inputs.get(1).copied();
        let ends = self.signals.iter().scan(0, |end, signal| {
            *end += signal.len();
            Some(*end)
        });
        let starts = routine.ints([0].into_iter().chain(ends));
        let members = self.signals.iter().flatten();
        let members = routine.ints(members.flat_map(|&(channel, row)| [channel, row]));
        let [to, from] = [&self.to_grid, &self.from_grid].map(|m| routine.reals(m.concat()));
        let out = routine.output(shape.elem_count());
        let rows = self.to_grid.first().map_or(0, Vec::len);
        let mut args = args![inputs[0], grad, starts, members, to, from, out];
        args.extend(args![rows, self.to_grid.len(), channels, voxels, batch]);
        let call = Call::new(source(element), "grid_nonlinearity", args);
        routine.call(call.over_rows(batch * voxels, self.signals.len()));
        Ok((routine, shape.clone()))
    }
}

#[cfg(any(test, feature = "cuda"))]
impl OnGpu for GridNonlinearity {
    const OP: &'static str = OP;

    fn routine(
        &self,
        shapes: &[&Shape],
        element: Element,
        _limits: Limits,
    ) -> Result<(Routine, Shape)> {
        self.0.routine_of(shapes[0], element, false)
    }
}

#[cfg(any(test, feature = "cuda"))]
impl OnGpu for GridGradient {
    const OP: &'static str = "grid_nonlinearity gradient";

    fn routine(
        &self,
        shapes: &[&Shape],
        element: Element,
        _limits: Limits,
    ) -> Result<(Routine, Shape)> {
        self.0.routine_of(shapes[0], element, true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::host::{check1, check2, normal};
    use steer3d_so3::Stream;

    #[test]
    fn kernels_agree_with_the_cpu() {
        let mut stream = Stream::new(1, "test", &[]);
        let mut matrix = || (0..5).map(|_| (0..4).map(|_| stream.normal()).collect()).collect();
        let (to_grid, from_grid) = (matrix(), matrix());
        let signals = vec![vec![(0, 0), (3, 2), (1, 3)], vec![(2, 1)]];
        let transform = GridTransform { signals, to_grid, from_grid };
        let (x, grad) = (normal(1, (2, 4, 3, 4, 5)), normal(2, (2, 4, 3, 4, 5)));
        check1(&GridNonlinearity(transform.clone()), &x);
        check2(&GridGradient(transform), &x, &grad);
    }
}
