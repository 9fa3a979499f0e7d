//! Sizes of a convolution, and the unfolding of an input into the columns of a matrix.

use std::ops::Range;

use crate::float::Float;

/// All sizes of one convolution; spatial triples are D,H,W.
#[derive(Clone, Copy, Debug)]
pub(super) struct Geometry {
    pub(super) batch: usize,
    pub(super) c_in: usize,
    pub(super) c_out: usize,
    pub(super) size: [usize; 3],
    pub(super) kernel: [usize; 3],
    pub(super) stride: [usize; 3],
    /// Negative where the kernel does not reach the border of the input.
    pub(super) padding: [isize; 3],
    pub(super) out: [usize; 3],
}

/// Consecutive output voxels of one line along x.
#[derive(Clone, Copy)]
struct Run {
    z: usize,
    y: usize,
    x: usize,
    len: usize,
}

/// What one tap of the kernel meets along a [`Run`].
struct Reach {
    /// The columns of the run.
    run: Range<usize>,
    /// Those of them, counted from the start of the run, that meet the input.
    inside: Range<usize>,
    /// Input element that the first of these meets; the next are a stride apart.
    input: usize,
}

impl Geometry {
    pub(super) fn taps(&self) -> usize {
        self.kernel.iter().product()
    }

    /// Rows of the unfolded input: C_in times the taps.
    pub(super) fn rows(&self) -> usize {
        self.c_in * self.taps()
    }

    pub(super) fn in_voxels(&self) -> usize {
        self.size.iter().product()
    }

    pub(super) fn out_voxels(&self) -> usize {
        self.out.iter().product()
    }

    /// Whether the unfolded input is the input itself.
    pub(super) fn is_pointwise(&self) -> bool {
        self.kernel == [1; 3] && self.stride == [1; 3] && self.padding == [0; 3]
    }

    /// The convolution of the output gradient that gives the input gradient, for stride 1.
    pub(super) fn transposed(&self) -> Self {
        let full = |axis: usize| self.kernel[axis] as isize - 1 - self.padding[axis];
        Self {
            c_in: self.c_out,
            c_out: self.c_in,
            size: self.out,
            out: self.size,
            padding: [full(0), full(1), full(2)],
            ..*self
        }
    }

    /// Writes the panel of the unfolded input of one sample: row `(c, kz, ky, kx)` of `rows` and
    /// column `v` of `voxels` hold the input that tap (kz, ky, kx) of channel c meets at output
    /// voxel v.
    pub(super) fn unfold<T: Float>(
        &self,
        input: &[T],
        rows: Range<usize>,
        voxels: &Range<usize>,
        panel: &mut [T],
    ) {
        let runs = self.runs(voxels);
        for (row, out) in rows.zip(panel.chunks_exact_mut(voxels.len())) {
            self.for_reach(row, &runs, |reach| {
                let out = &mut out[reach.run];
                out[..reach.inside.start].fill(T::zero());
                out[reach.inside.end..].fill(T::zero());
                let out = &mut out[reach.inside];
                if self.stride[2] == 1 {
                    out.copy_from_slice(&input[reach.input..][..out.len()]);
                } else {
                    let input = input[reach.input..].iter().step_by(self.stride[2]);
                    out.iter_mut().zip(input).for_each(|(out, &x)| *out = x);
                }
            });
        }
    }

    /// The transpose of [`unfold`](Self::unfold): adds a panel to the input.
    pub(super) fn fold<T: Float>(
        &self,
        panel: &[T],
        rows: Range<usize>,
        voxels: &Range<usize>,
        input: &mut [T],
    ) {
        let runs = self.runs(voxels);
        for (row, panel) in rows.zip(panel.chunks_exact(voxels.len())) {
            self.for_reach(row, &runs, |reach| {
                let panel = &panel[reach.run][reach.inside];
                let input = input[reach.input..].iter_mut().step_by(self.stride[2]);
                panel.iter().zip(input).for_each(|(&p, x)| *x += p);
            });
        }
    }

    fn runs(&self, voxels: &Range<usize>) -> Vec<Run> {
        let [_, height, width] = self.out;
        let mut runs = vec![];
        let mut v = voxels.start;
        while v < voxels.end {
            let x = v % width;
            let len = (width - x).min(voxels.end - v);
            runs.push(Run { z: v / width / height, y: v / width % height, x, len });
            v += len;
        }
        runs
    }

    fn for_reach(&self, row: usize, runs: &[Run], mut each: impl FnMut(Reach)) {
        let [kd, kh, kw] = self.kernel;
        let channel = row / self.taps();
        let tap = [row / (kh * kw) % kd, row / kw % kh, row % kw];
        let position = |axis: usize, o: usize| {
            (o * self.stride[axis] + tap[axis]) as isize - self.padding[axis]
        };
        let [depth, height, width] = self.size.map(|n| n as isize);
        let stride = self.stride[2];
        let mut at = 0;
        for run in runs {
            let (z, y, x) = (position(0, run.z), position(1, run.y), position(2, run.x));
            let start = ((-x).max(0) as usize).div_ceil(stride).min(run.len);
            let end = ((width - x).max(0) as usize).div_ceil(stride).clamp(start, run.len);
            let in_plane = (0..depth).contains(&z) && (0..height).contains(&y);
            let (inside, input) = if in_plane && end > start {
                let line = (channel as isize * depth + z) * height + y;
                (start..end, (line * width + x + (start * stride) as isize) as usize)
            } else {
                (0..0, 0)
            };
            each(Reach { run: at..at + run.len, inside, input });
            at += run.len;
        }
    }
}
