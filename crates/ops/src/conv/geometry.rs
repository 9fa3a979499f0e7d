//! Sizes of a convolution, and the unfolding of an input into the columns of a matrix.

use std::ops::Range;

use crate::check::Volume;
use crate::float::Float;
#[cfg(any(test, feature = "cudnn"))]
use crate::gpu::cudnn::{Convolution, Pass};
#[cfg(any(test, feature = "cuda"))]
use crate::gpu::int;

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

/// Some output voxels, cut into runs along x, with what each tap of the kernel meets there.
pub(super) struct Columns {
    /// Column of the first voxel of each run, and the number of columns.
    starts: Vec<usize>,
    /// For each (kz, ky) and run, the line D H of the input, `None` outside.
    lines: Vec<Option<usize>>,
    /// For each kx and run, what lies inside the line.
    reaches: Vec<Reach>,
}

/// Output voxels along x, from the first one.
struct Run {
    z: usize,
    y: usize,
    x: usize,
    len: usize,
}

/// What one tap meets along a run.
#[derive(Clone, Copy)]
struct Reach {
    /// First voxel of the run that meets the input.
    start: usize,
    /// Last + 1 voxel of the run that meets the input.
    end: usize,
    /// Position in the line that the first of them meets; the next are a stride apart.
    input: usize,
}

impl Geometry {
    pub(super) fn input(&self) -> Volume {
        Volume { batch: self.batch, channels: self.c_in, size: self.size }
    }

    pub(super) fn output(&self) -> Volume {
        Volume { batch: self.batch, channels: self.c_out, size: self.out }
    }

    /// C_out,C_in,kd,kh,kw.
    pub(super) fn filter(&self) -> Volume {
        Volume { batch: self.c_out, channels: self.c_in, size: self.kernel }
    }

    /// The struct `Dense` of the kernels.
    #[cfg(any(test, feature = "cuda"))]
    pub(super) fn ints(&self) -> Vec<i32> {
        let Self { batch, c_in, c_out, size, kernel, stride, padding, out } = *self;
        let counts = [batch, c_in, c_out].into_iter().chain(size).chain(kernel).chain(stride);
        let padding = padding.map(int);
        let before = counts.map(int).chain(padding);
        before.chain(out.map(int)).collect()
    }

    #[cfg(any(test, feature = "cudnn"))]
    pub(super) fn convolution(&self, pass: Pass) -> Option<Convolution> {
        let padding = self.padding.map(usize::try_from);
        Some(Convolution {
            pass,
            input: self.input().dims(),
            filter: self.filter().dims(),
            output: self.output().dims(),
            padding: [padding[0].ok()?, padding[1].ok()?, padding[2].ok()?],
            stride: self.stride,
        })
    }

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

    /// Is every output voxel a product with the input of that voxel alone?
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

    /// The columns of the unfolded input for consecutive output voxels.
    pub(super) fn columns(&self, voxels: &Range<usize>) -> Columns {
        let [_, height, width] = self.out;
        let (mut starts, mut runs) = (vec![], vec![]);
        let mut v = voxels.start;
        while v < voxels.end {
            let x = v % width;
            let len = (width - x).min(voxels.end - v);
            starts.push(v - voxels.start);
            runs.push(Run { z: v / width / height, y: v / width % height, x, len });
            v += len;
        }
        starts.push(voxels.len());
        let [kd, kh, kw] = self.kernel;
        let plane_taps = (0..kd * kh).flat_map(|tap| runs.iter().map(move |run| (tap, run)));
        let line_taps = (0..kw).flat_map(|tap| runs.iter().map(move |run| (tap, run)));
        Columns {
            starts,
            lines: plane_taps.map(|(tap, run)| self.line([tap / kh, tap % kh], run)).collect(),
            reaches: line_taps.map(|(tap, run)| self.reach(tap, run)).collect(),
        }
    }

    /// Input position along an axis that a tap meets from an output position.
    fn position(&self, axis: usize, out: usize, tap: usize) -> isize {
        (out * self.stride[axis] + tap) as isize - self.padding[axis]
    }

    fn line(&self, tap: [usize; 2], run: &Run) -> Option<usize> {
        let z = usize::try_from(self.position(0, run.z, tap[0])).ok()?;
        let y = usize::try_from(self.position(1, run.y, tap[1])).ok()?;
        (z < self.size[0] && y < self.size[1]).then_some(z * self.size[1] + y)
    }

    fn reach(&self, tap: usize, &Run { x, len, .. }: &Run) -> Reach {
        let (first, stride) = (self.position(2, x, tap), self.stride[2]);
        let start = ((-first).max(0) as usize).div_ceil(stride).min(len);
        let inside = (self.size[2] as isize - first).max(0) as usize;
        let end = inside.div_ceil(stride).clamp(start, len);
        let input = (first + (start * stride) as isize).max(0) as usize;
        Reach { start, end, input }
    }

    /// Adds a panel to the input of one sample: row `(c, kz, ky, kx)` of `rows` and each of `columns`
    /// to what tap (kz, ky, kx) of channel c meets there.
    pub(super) fn fold<T: Float>(
        &self,
        panel: &[T],
        rows: Range<usize>,
        columns: &Columns,
        input: &mut [T],
    ) {
        let [kd, kh, kw] = self.kernel;
        let [depth, height, width] = self.size;
        let count = columns.starts.len() - 1;
        for (row, panel) in rows.zip(panel.chunks_exact(columns.len())) {
            let channel_lines = row / self.taps() * depth * height;
            let lines = &columns.lines[row / kw % (kd * kh) * count..][..count];
            let reaches = &columns.reaches[row % kw * count..][..count];
            for ((start, line), reach) in columns.starts.iter().zip(lines).zip(reaches) {
                let Some(line) = line else { continue };
                let panel = &panel[start + reach.start..start + reach.end];
                let line = &mut input[(channel_lines + line) * width..][..width];
                let Some(input) = line.get_mut(reach.input..) else { continue };
                let input = input.iter_mut().step_by(self.stride[2]);
                panel.iter().zip(input).for_each(|(&p, x)| *x += p);
            }
        }
    }
}

/// Output voxels that are neighbours in memory: lines `y` of the planes `z`, all of them if there is
/// more than one plane.
pub(super) struct Tile {
    z: Range<usize>,
    y: Range<usize>,
}

impl Tile {
    /// Number of voxels.
    pub(super) fn len(&self, g: &Geometry) -> usize {
        self.z.len() * self.y.len() * g.out[2]
    }

    /// Places in an output channel.
    pub(super) fn voxels(&self, g: &Geometry) -> Range<usize> {
        let start = (self.z.start * g.out[1] + self.y.start) * g.out[2];
        start..start + self.len(g)
    }
}

impl Geometry {
    /// The output of a sample in tiles of about `voxels` voxels, in the order of memory.
    pub(super) fn tiles(&self, voxels: usize) -> Vec<Tile> {
        let [depth, height, width] = self.out;
        let planes = (voxels / (height * width)).max(1);
        let lines = if planes > 1 { height } else { (voxels / width).clamp(1, height) };
        let parts = |n: usize, length: usize| {
            let parts = n.div_ceil(length);
            (0..parts).map(move |i| i * n / parts..(i + 1) * n / parts)
        };
        parts(depth, planes)
            .flat_map(|z| parts(height, lines).map(move |y| Tile { z: z.clone(), y }))
            .collect()
    }

    /// D,H,W of the input that a tile needs.
    fn patch(&self, tile: &Tile) -> [usize; 3] {
        let lengths = [tile.z.len(), tile.y.len(), self.out[2]];
        [0, 1, 2].map(|axis| (lengths[axis] - 1) * self.stride[axis] + self.kernel[axis])
    }

    /// The offsets in a patch of the voxels of a tile, and of the taps of `channels` channels.
    pub(super) fn offsets(
        &self,
        tile: &Tile,
        channels: usize,
        voxels: &mut Vec<usize>,
        taps: &mut Vec<usize>,
    ) {
        let [depth, height, width] = self.patch(tile);
        let at = |z: usize, y: usize, x: usize| (z * height + y) * width + x;
        voxels.clear();
        for z in 0..tile.z.len() {
            for y in 0..tile.y.len() {
                let start = at(z * self.stride[0], y * self.stride[1], 0);
                voxels.extend((0..self.out[2]).map(|x| start + x * self.stride[2]));
            }
        }
        let [kd, kh, kw] = self.kernel;
        taps.clear();
        for c in 0..channels {
            for tap in 0..kd * kh {
                let start = at(c * depth + tap / kh, tap % kh, 0);
                taps.extend(start..start + kw);
            }
        }
    }

    /// Copies what a tile needs of some channels of a sample, with zeros outside the input.
    pub(super) fn load<T: Float>(
        &self,
        input: &[T],
        channels: &Range<usize>,
        tile: &Tile,
        patch: &mut Vec<T>,
    ) {
        let [depth, height, width] = self.patch(tile);
        let [d, h, w] = self.size;
        let origin = |axis: usize, out: usize| self.position(axis, out, 0);
        let (z0, y0, x0) = (origin(0, tile.z.start), origin(1, tile.y.start), origin(2, 0));
        let inside = |start: isize, i: usize, size: usize| {
            usize::try_from(start + i as isize).ok().filter(|&at| at < size)
        };
        let left = ((-x0).max(0) as usize).min(width);
        let right = ((w as isize - x0).max(0) as usize).clamp(left, width);
        let first = (x0 + left as isize) as usize;
        patch.resize(channels.len() * depth * height * width, T::zero());
        for (line, out) in patch.chunks_exact_mut(width).enumerate() {
            let (c, z, y) = (line / height / depth, line / height % depth, line % height);
            match (inside(z0, z, d), inside(y0, y, h)) {
                (Some(z), Some(y)) if left < right => {
                    let start = (((channels.start + c) * d + z) * h + y) * w + first;
                    out[..left].fill(T::zero());
                    out[left..right].copy_from_slice(&input[start..start + right - left]);
                    out[right..].fill(T::zero());
                }
                _ => out.fill(T::zero()),
            }
        }
    }
}

impl Columns {
    /// Number of columns.
    pub(super) fn len(&self) -> usize {
        self.starts.last().copied().unwrap_or(0)
    }
}
