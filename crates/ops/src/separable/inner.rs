//! The inner loops: 1-D filters, the sparse map, and products with the weights. Buffers are rows of
//! voxels of a tile; the end of the last vector of a row may reach past its voxels into what
//! is written later or never read.

use pulp::{Simd, WithSimd};

use super::simd::Lanes;

/// Largest k/2 of the filters.
pub(super) const MAX_HALF: usize = 4;

/// Filters 0..orders of 2 half + 1 taps, applied to runs of voxels.
pub(super) struct Filter<'a, T> {
    pub(super) half: usize,
    /// For each order the centre and the taps after it.
    pub(super) taps: &'a [T],
    pub(super) orders: usize,
    /// Starts with the first tap's voxel.
    pub(super) input: &'a [T],
    /// Distance of neighbouring taps.
    pub(super) step: usize,
    pub(super) runs: usize,
    /// Voxels of a run.
    pub(super) len: usize,
    /// Distances of the starts of runs.
    pub(super) in_pitch: usize,
    pub(super) out: &'a mut [T],
    pub(super) out_pitch: usize,
    /// Distance of the results of neighbouring orders.
    pub(super) order_pitch: usize,
}

impl<T: Lanes> WithSimd for Filter<'_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        match self.half {
            0 => self.run::<S, 0>(simd),
            1 => self.run::<S, 1>(simd),
            2 => self.run::<S, 2>(simd),
            3 => self.run::<S, 3>(simd),
            4 => self.run::<S, 4>(simd),
            half => unreachable!("k/2 = {half} was refused when the operation was made"),
        }
    }
}

impl<T: Lanes> Filter<'_, T> {
    #[inline(always)]
    fn run<S: Simd, const HALF: usize>(self, simd: S) {
        let lanes = T::lanes::<S>();
        let vectors = self.len.div_ceil(lanes);
        for run in 0..self.runs {
            let input = &self.input[run * self.in_pitch..];
            let centre = line::<T, S>(input, HALF * self.step, vectors);
            let (mut before, mut after) = ([centre; HALF], [centre; HALF]);
            for j in 0..HALF {
                before[j] = line::<T, S>(input, (HALF - 1 - j) * self.step, vectors);
                after[j] = line::<T, S>(input, (HALF + 1 + j) * self.step, vectors);
            }
            for i in 0..vectors {
                let centre = centre[i];
                let (mut sums, mut differences) = ([centre; HALF], [centre; HALF]);
                for j in 0..HALF {
                    sums[j] = T::plus(simd, after[j][i], before[j][i]);
                    differences[j] = T::minus(simd, after[j][i], before[j][i]);
                }
                for order in 0..self.orders {
                    let taps = &self.taps[order * (HALF + 1)..][..HALF + 1];
                    // The middle of an odd filter is zero.
                    let mut value = T::times(simd, T::splat(simd, taps[0]), centre);
                    let halves = if order % 2 == 0 { &sums } else { &differences };
                    for j in 0..HALF {
                        value = T::mul_add(simd, T::splat(simd, taps[j + 1]), halves[j], value);
                    }
                    let start = order * self.order_pitch + run * self.out_pitch + i * lanes;
                    T::vectors_mut::<S>(&mut self.out[start..][..lanes])[0] = value;
                }
            }
        }
    }
}

#[inline(always)]
fn line<T: Lanes, S: Simd>(input: &[T], start: usize, vectors: usize) -> &[T::Vector<S>] {
    &T::vectors::<S>(&input[start..])[..vectors]
}

/// A sparse matrix in rows: row r sums `terms[starts[r]..starts[r + 1]]`.
#[derive(Debug)]
pub(super) struct Sparse<T> {
    pub(super) starts: Vec<usize>,
    pub(super) terms: Vec<(usize, T)>,
}

/// A sparse matrix times rows of voxels.
pub(super) struct Couple<'a, T> {
    pub(super) matrix: &'a Sparse<T>,
    pub(super) input: &'a [T],
    pub(super) out: &'a mut [T],
    /// Voxels of a row.
    pub(super) len: usize,
    /// Distance of rows in `input` and `out`.
    pub(super) pitch: usize,
}

impl<T: Lanes> WithSimd for Couple<'_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        let vectors = self.len.div_ceil(T::lanes::<S>());
        let mut done = 0;
        while vectors - done >= 4 {
            self.block::<S, 4>(simd, done);
            done += 4;
        }
        while done < vectors {
            self.block::<S, 1>(simd, done);
            done += 1;
        }
    }
}

impl<T: Lanes> Couple<'_, T> {
    #[inline(always)]
    fn block<S: Simd, const N: usize>(&mut self, simd: S, first: usize) {
        let lanes = T::lanes::<S>();
        let offset = first * lanes;
        for (row, range) in self.matrix.starts.windows(2).enumerate() {
            let mut sums = [T::splat(simd, T::zero()); N];
            for &(input, value) in &self.matrix.terms[range[0]..range[1]] {
                let value = T::splat(simd, value);
                let input =
                    T::vectors::<S>(&self.input[input * self.pitch + offset..][..N * lanes]);
                for n in 0..N {
                    sums[n] = T::mul_add(simd, value, input[n], sums[n]);
                }
            }
            T::vectors_mut::<S>(&mut self.out[row * self.pitch + offset..][..N * lanes])
                .copy_from_slice(&sums);
        }
    }
}

/// out\[m\] += Σ_k weights\[m, k\] features\[k\], for rows of `components` rows of voxels.
pub(super) struct Mix<'a, T> {
    /// Element (m, k) is at m · weight_pitch + k.
    pub(super) weights: &'a [T],
    pub(super) weight_pitch: usize,
    pub(super) rows: usize,
    pub(super) inner: usize,
    pub(super) features: &'a [T],
    pub(super) out: &'a mut [T],
    pub(super) components: usize,
    pub(super) len: usize,
    pub(super) pitch: usize,
}

impl<T: Lanes> WithSimd for Mix<'_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        let lanes = T::lanes::<S>();
        let vectors = self.len.div_ceil(lanes);
        for component in 0..self.components {
            let mut done = 0;
            while vectors - done >= 2 {
                self.column::<S, 2>(simd, component * self.pitch + done * lanes);
                done += 2;
            }
            if done < vectors {
                self.column::<S, 1>(simd, component * self.pitch + done * lanes);
            }
        }
    }
}

impl<T: Lanes> Mix<'_, T> {
    #[inline(always)]
    fn column<S: Simd, const N: usize>(&mut self, simd: S, start: usize) {
        let mut row = 0;
        while S::REGISTER_COUNT >= 32 && self.rows - row >= 8 {
            self.block::<S, 8, N>(simd, row, start);
            row += 8;
        }
        while self.rows - row >= 4 {
            self.block::<S, 4, N>(simd, row, start);
            row += 4;
        }
        while row < self.rows {
            self.block::<S, 1, N>(simd, row, start);
            row += 1;
        }
    }

    #[inline(always)]
    fn block<S: Simd, const M: usize, const N: usize>(
        &mut self,
        simd: S,
        row: usize,
        start: usize,
    ) {
        let lanes = T::lanes::<S>();
        let row_pitch = self.components * self.pitch;
        let mut sums = [[T::splat(simd, T::zero()); N]; M];
        let mut weights = [self.weights; M];
        for m in 0..M {
            weights[m] = &self.weights[(row + m) * self.weight_pitch..][..self.inner];
        }
        for k in 0..self.inner {
            let features = T::vectors::<S>(&self.features[k * row_pitch + start..][..N * lanes]);
            for m in 0..M {
                let weight = T::splat(simd, weights[m][k]);
                for n in 0..N {
                    sums[m][n] = T::mul_add(simd, weight, features[n], sums[m][n]);
                }
            }
        }
        for (m, sums) in sums.iter().enumerate() {
            let start = (row + m) * row_pitch + start;
            let out = T::vectors_mut::<S>(&mut self.out[start..][..N * lanes]);
            for n in 0..N {
                out[n] = T::plus(simd, out[n], sums[n]);
            }
        }
    }
}

/// sums\[m, k\] += ⟨others\[m\], features\[k\]⟩ over rows of `len` elements.
pub(super) struct Contract<'a, T> {
    pub(super) others: &'a [T],
    pub(super) rows: usize,
    pub(super) features: &'a [T],
    pub(super) inner: usize,
    pub(super) len: usize,
    pub(super) sums: &'a mut [T],
    /// Element (m, k) is at m · sum_pitch + k.
    pub(super) sum_pitch: usize,
}

impl<T: Lanes> WithSimd for Contract<'_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        let mut row = 0;
        while self.rows - row >= 4 {
            self.row::<S, 4>(simd, row);
            row += 4;
        }
        while row < self.rows {
            self.row::<S, 1>(simd, row);
            row += 1;
        }
    }
}

impl<T: Lanes> Contract<'_, T> {
    #[inline(always)]
    fn row<S: Simd, const M: usize>(&mut self, simd: S, row: usize) {
        let mut k = 0;
        while self.inner - k >= 4 {
            self.block::<S, M, 4>(simd, row, k);
            k += 4;
        }
        while k < self.inner {
            self.block::<S, M, 1>(simd, row, k);
            k += 1;
        }
    }

    #[inline(always)]
    fn block<S: Simd, const M: usize, const K: usize>(&mut self, simd: S, row: usize, k: usize) {
        let vectors = self.len / T::lanes::<S>();
        let mut others = [line::<T, S>(self.others, row * self.len, vectors); M];
        for m in 0..M {
            others[m] = line::<T, S>(self.others, (row + m) * self.len, vectors);
        }
        let mut features = [line::<T, S>(self.features, k * self.len, vectors); K];
        for j in 0..K {
            features[j] = line::<T, S>(self.features, (k + j) * self.len, vectors);
        }
        let mut sums = [[T::splat(simd, T::zero()); K]; M];
        for i in 0..vectors {
            for m in 0..M {
                for j in 0..K {
                    sums[m][j] = T::mul_add(simd, others[m][i], features[j][i], sums[m][j]);
                }
            }
        }
        for (m, sums) in sums.iter().enumerate() {
            for (j, &sum) in sums.iter().enumerate() {
                self.sums[(row + m) * self.sum_pitch + k + j] += T::reduce(simd, sum);
            }
        }
    }
}
