//! Sizes of a separable convolution, and the tiles into which it is cut.

use std::ops::Range;

/// What lies beyond the border of a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Boundary {
    /// Zeros.
    #[default]
    Zero,
    /// The volume again, as in a crystal.
    Circular,
}

/// All sizes of one convolution; spatial triples are D,H,W.
#[derive(Clone, Copy, Debug)]
pub(super) struct Geometry {
    pub(super) batch: usize,
    /// Size of the input in memory.
    pub(super) size: [usize; 3],
    /// The input has a voxel in memory at every `dilation`-th position, and zeros between them.
    pub(super) dilation: usize,
    /// Size of the input with these zeros.
    pub(super) dilated: [usize; 3],
    pub(super) out: [usize; 3],
    /// Distance of neighbouring output voxels in the input.
    pub(super) stride: usize,
    /// k/2: taps on both sides of the centre.
    pub(super) half: usize,
    /// Voxels added on both sides of each axis.
    pub(super) margin: [usize; 3],
    pub(super) boundary: Boundary,
}

/// Consecutive voxels of a line of a tile that lie side by side in memory.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Run {
    pub(super) at: usize,
    pub(super) source: usize,
    pub(super) len: usize,
}

impl Geometry {
    pub(super) fn forward(
        batch: usize,
        size: [usize; 3],
        half: usize,
        stride: usize,
        boundary: Boundary,
    ) -> Self {
        let out = size.map(|n| (n - 1) / stride + 1);
        let margin = [half; 3];
        Self { batch, size, dilation: 1, dilated: size, out, stride, half, margin, boundary }
    }

    /// The output planes whose neighbourhood along D lies in the input.
    pub(super) fn planes(batch: usize, size: [usize; 3], half: usize) -> Self {
        let [depth, height, width] = size;
        Self {
            out: [depth - 2 * half, height, width],
            margin: [0, half, half],
            ..Self::forward(batch, size, half, 1, Boundary::Zero)
        }
    }

    /// The convolution of the output gradient that gives the input gradient.
    pub(super) fn adjoint(&self) -> Self {
        Self {
            size: self.out,
            dilation: self.stride,
            dilated: self.size,
            out: self.size,
            stride: 1,
            ..*self
        }
    }

    pub(super) fn in_voxels(&self) -> usize {
        self.size.iter().product()
    }

    pub(super) fn out_voxels(&self) -> usize {
        self.out.iter().product()
    }

    /// Input voxels along an axis that `n` output voxels depend on.
    pub(super) fn reach(&self, n: usize) -> usize {
        (n - 1) * self.stride + 1 + 2 * self.half
    }

    /// Where the input voxel that lies `at` after the first one of an output voxel is in memory;
    /// `None` where it is zero.
    pub(super) fn source(&self, axis: usize, first_out: usize, at: usize) -> Option<usize> {
        let n = self.dilated[axis];
        let position = (first_out * self.stride + at) as isize - self.margin[axis] as isize;
        let position = match self.boundary {
            Boundary::Zero => usize::try_from(position).ok().filter(|p| *p < n)?,
            Boundary::Circular => position.rem_euclid(n as isize) as usize,
        };
        position.is_multiple_of(self.dilation).then_some(position / self.dilation)
    }

    /// What the line of input voxels that some output voxels along x depend on has in memory.
    pub(super) fn runs(&self, out: &Range<usize>) -> Vec<Run> {
        let mut runs: Vec<Run> = vec![];
        for at in 0..self.reach(out.len()) {
            let Some(source) = self.source(2, out.start, at) else { continue };
            match runs.last_mut() {
                Some(run) if run.at + run.len == at && run.source + run.len == source => {
                    run.len += 1;
                }
                _ => runs.push(Run { at, source, len: 1 }),
            }
        }
        runs
    }

    /// The output voxels along D,H,W of the tile of at most `voxels` with the least work for filters
    /// of `orders` orders.
    pub(super) fn tile(&self, voxels: usize, orders: usize) -> [usize; 3] {
        let [depth, height, width] = self.out;
        // Sizes that cut an axis into nearly equal parts.
        let parts = |n: usize, sizes: Range<usize>| {
            let mut parts: Vec<usize> = sizes.map(|size| n.div_ceil(n.div_ceil(size))).collect();
            parts.dedup();
            parts
        };
        let mut best = [1, 1, width.min(voxels)];
        for x in parts(width, 8..129) {
            for y in parts(height, 1..17) {
                for z in parts(depth, 1..17) {
                    let tile = [z, y, x];
                    let fits = z * y * x <= voxels;
                    if fits && self.work(tile, orders) < self.work(best, orders) {
                        best = tile;
                    }
                }
            }
        }
        best
    }

    /// Vector operations for each voxel of a tile: copying what it depends on, and the passes along z,
    /// y and x, of which the last works on whole vectors of 16.
    fn work(&self, tile: [usize; 3], orders: usize) -> f64 {
        let ratio = |axis: usize| self.reach(tile[axis]) as f64 / tile[axis] as f64;
        let vectors = tile[2].next_multiple_of(16) as f64 / tile[2] as f64;
        let n = orders as f64;
        let [z, y, x] = [n, n * (n + 1.0) / 2.0, n * (n + 1.0) * (n + 2.0) / 6.0];
        let copy = 2.0 * ratio(0) * ratio(1) * ratio(2);
        let pass = self.half as f64 + 1.5;
        copy + pass * (z * ratio(1) * ratio(2) + y * ratio(2) + x * vectors)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_copied_in_runs() {
        let zero = Geometry::forward(1, [1, 1, 6], 2, 1, Boundary::Zero);
        assert_eq!(zero.runs(&(0..3)), [Run { at: 2, source: 0, len: 5 }]);
        assert_eq!(zero.runs(&(3..6)), [Run { at: 0, source: 1, len: 5 }]);
        let circular = Geometry { boundary: Boundary::Circular, ..zero };
        let wrapped = [Run { at: 0, source: 4, len: 2 }, Run { at: 2, source: 0, len: 5 }];
        assert_eq!(circular.runs(&(0..3)), wrapped);
        let dilated = Geometry::forward(1, [1, 1, 6], 1, 2, Boundary::Zero).adjoint();
        assert_eq!((dilated.size, dilated.out), ([1, 1, 3], [1, 1, 6]));
        let apart = [Run { at: 1, source: 0, len: 1 }, Run { at: 3, source: 1, len: 1 }];
        assert_eq!(dilated.runs(&(0..3)), apart);
    }
}
