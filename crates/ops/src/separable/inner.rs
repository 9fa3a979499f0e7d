//! The inner loops: 1-D filters, the sparse map, and products with the weights. Buffers are rows of
//! voxels of a tile; the end of the last vector of a row may reach past its voxels into what
//! is written later or never read.

use pulp::{Simd, WithSimd};

use super::geometry::Run;
use crate::simd::Lanes;

/// Largest k/2 of the filters.
pub(super) const MAX_HALF: usize = 6;

/// Copies the lines of one channel that a tile depends on.
pub(super) struct Load<'a, T> {
    pub(super) channel: &'a [T],
    /// Where each line starts in the channel; `None` for zeros.
    pub(super) lines: &'a [Option<usize>],
    /// What a line has in memory.
    pub(super) runs: &'a [Run],
    pub(super) width: usize,
    pub(super) out: &'a mut [T],
}

impl<T: Lanes> WithSimd for Load<'_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let lanes = T::lanes::<S>();
        let zero = T::splat(simd, T::zero());
        // Whole vectors are written: what is too much lies in the rest of the line and in later
        // lines, which are written after it.
        for (i, line) in self.lines.iter().enumerate() {
            let out = &mut self.out[i * self.width..];
            let (Some(start), [run, more @ ..]) = (line, self.runs) else {
                vectors_to::<T, S>(out, self.width).fill(zero);
                continue;
            };
            vectors_to::<T, S>(out, run.at).fill(zero);
            let source = &self.channel[start + run.source..];
            if source.len() >= run.len.next_multiple_of(lanes) {
                let out = vectors_to::<T, S>(&mut out[run.at..], run.len);
                for (out, &source) in out.iter_mut().zip(T::vectors::<S>(source)) {
                    *out = source;
                }
            } else {
                out[run.at..][..run.len].copy_from_slice(&source[..run.len]);
            }
            let end = run.at + run.len;
            vectors_to::<T, S>(&mut out[end..], self.width - end).fill(zero);
            for run in more {
                let source = &self.channel[start + run.source..][..run.len];
                out[run.at..][..run.len].copy_from_slice(source);
            }
        }
    }
}

/// The vectors that the first `len` elements lie in.
#[inline(always)]
fn vectors_to<T: Lanes, S: Simd>(out: &mut [T], len: usize) -> &mut [T::Vector<S>] {
    &mut T::vectors_mut::<S>(out)[..len.div_ceil(T::lanes::<S>())]
}

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
    /// How often the runs repeat, and the distances of the repetitions.
    pub(super) planes: usize,
    pub(super) in_plane: usize,
    pub(super) out_plane: usize,
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
            5 => self.run::<S, 5>(simd),
            6 => self.run::<S, 6>(simd),
            half => unreachable!("k/2 = {half} was refused when the operation was made"),
        }
    }
}

impl<T: Lanes> Filter<'_, T> {
    #[inline(always)]
    fn run<S: Simd, const HALF: usize>(self, simd: S) {
        let vectors = self.len.div_ceil(T::lanes::<S>());
        if self.planes == 0 || self.runs == 0 || vectors == 0 || self.orders == 0 {
            return;
        }
        let run_len = vectors * T::lanes::<S>();
        let last_in = (self.planes - 1) * self.in_plane + (self.runs - 1) * self.in_pitch;
        let last_out = (self.planes - 1) * self.out_plane + (self.runs - 1) * self.out_pitch;
        let in_end = last_in + 2 * HALF * self.step + run_len;
        let out_end = last_out + (self.orders - 1) * self.order_pitch + run_len;
        assert!(in_end <= self.input.len(), "a filter reads past its input");
        assert!(out_end <= self.out.len(), "a filter writes past its output");
        assert!(self.taps.len() >= self.orders * (HALF + 1), "taps of every order");
        let (input, out) = (self.input.as_ptr(), self.out.as_mut_ptr());
        for first in (0..self.orders).step_by(2) {
            let both = first + 1 < self.orders;
            let taps = &self.taps[first * (HALF + 1)..];
            let (mut even, mut odd) =
                ([T::splat(simd, taps[0]); HALF], [T::splat(simd, taps[0]); HALF]);
            let middle = T::splat(simd, taps[0]);
            for j in 0..HALF {
                even[j] = T::splat(simd, taps[1 + j]);
                if both {
                    odd[j] = T::splat(simd, taps[HALF + 2 + j]);
                }
            }
            for line in 0..self.planes * self.runs {
                let (plane, run) = (line / self.runs, line % self.runs);
                let in_line = plane * self.in_plane + run * self.in_pitch;
                let out_line = plane * self.out_plane + run * self.out_pitch;
                for i in 0..vectors {
                    let at = i * T::lanes::<S>();
                    // SAFETY: the furthest element read is that of the last line, tap and vector,
                    // before `in_end`; the furthest written that of the last order, line and vector,
                    // before `out_end`; both were compared with the slices above.
                    #[allow(unsafe_code)]
                    unsafe {
                        let input = input.add(in_line + at);
                        let out = out.add(first * self.order_pitch + out_line + at);
                        let load = |tap: usize| input.add(tap * self.step).cast::<T::Vector<S>>();
                        let mut sum = T::times(simd, middle, load(HALF).read_unaligned());
                        if both {
                            let mut difference = T::splat(simd, T::zero());
                            for j in 0..HALF {
                                let before = load(HALF - 1 - j).read_unaligned();
                                let after = load(HALF + 1 + j).read_unaligned();
                                sum = T::mul_add(simd, even[j], T::plus(simd, after, before), sum);
                                let minus = T::minus(simd, after, before);
                                difference = T::mul_add(simd, odd[j], minus, difference);
                            }
                            let out = out.add(self.order_pitch).cast::<T::Vector<S>>();
                            out.write_unaligned(difference);
                        } else {
                            for j in 0..HALF {
                                let before = load(HALF - 1 - j).read_unaligned();
                                let after = load(HALF + 1 + j).read_unaligned();
                                sum = T::mul_add(simd, even[j], T::plus(simd, after, before), sum);
                            }
                        }
                        out.cast::<T::Vector<S>>().write_unaligned(sum);
                    }
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

#[cfg(test)]
mod tests {
    use pulp::Arch;

    use super::*;

    fn filter(input: &[f64], out: &mut [f64]) {
        Arch::new().dispatch(Filter {
            half: 1,
            taps: &[2.0, 3.0, 0.0, 1.0],
            orders: 2,
            input,
            step: 1,
            runs: 1,
            len: 16,
            in_pitch: 0,
            out,
            out_pitch: 0,
            planes: 1,
            in_plane: 0,
            out_plane: 0,
            order_pitch: 16,
        });
    }

    #[test]
    fn filters_are_even_and_odd() {
        let input: Vec<f64> = (0..18).map(|i| f64::from(i * i)).collect();
        let mut out = vec![0.0; 32];
        filter(&input, &mut out);
        for (i, v) in input.windows(3).enumerate() {
            assert_eq!(out[i], 3.0 * v[0] + 2.0 * v[1] + 3.0 * v[2]);
            assert_eq!(out[16 + i], v[2] - v[0]);
        }
    }

    #[test]
    #[should_panic(expected = "a filter reads past its input")]
    fn a_filter_past_its_input_is_refused() {
        filter(&[0.0; 17], &mut [0.0; 32]);
    }

    #[test]
    #[should_panic(expected = "a filter writes past its output")]
    fn a_filter_past_its_output_is_refused() {
        filter(&[0.0; 18], &mut [0.0; 31]);
    }
}
