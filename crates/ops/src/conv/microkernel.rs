//! The inner loop of the convolution and of its weight gradient.

use pulp::{Simd, WithSimd};

use crate::simd::Lanes;

/// Most rows of the result that are computed at a time.
const MOST_ROWS: usize = 14;

/// Most vectors in a row of the result.
pub(super) const MOST_VECTORS: usize = 4;

/// `out[r, c] = sum_s input[rows[r] + steps[s]] vectors[s, c]`, for `width` columns c: one
/// to four vectors. Nothing is unfolded: rows and steps are both offsets in the input, of voxels and of
/// taps, or of taps and of voxels.
pub(super) struct Product<'a, T> {
    pub(super) input: &'a [T],
    pub(super) rows: &'a [usize],
    pub(super) steps: &'a [usize],
    pub(super) vectors: &'a [T],
    pub(super) width: usize,
    pub(super) out: &'a mut [T],
    /// Add to `out` rather than write it.
    pub(super) accumulate: bool,
}

impl<T: Lanes> WithSimd for Product<'_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let count = self.rows.len();
        let vectors = self.width / T::lanes::<S>();
        let furthest = |offsets: &[usize]| offsets.iter().copied().max();
        let (Some(row), Some(step)) = (furthest(self.rows), furthest(self.steps)) else {
            return;
        };
        assert!(row + step < self.input.len(), "a row reaches past the input");
        // The vectors of a step, and for each row its sums and the value of the input.
        let most = ((S::REGISTER_COUNT - 1 - vectors) / (vectors + 1)).min(MOST_ROWS);
        let pieces = count.div_ceil(most);
        for i in 0..pieces {
            let (start, end) = (i * count / pieces, (i + 1) * count / pieces);
            let piece = Product {
                rows: &self.rows[start..end],
                out: &mut self.out[start * self.width..end * self.width],
                ..self
            };
            macro_rules! cases {
                ($($v:literal: $($p:literal)*;)*) => {
                    match (vectors, piece.rows.len()) {
                        $($(($v, $p) => piece.run::<S, $v, $p>(simd),)*)*
                        (vectors, rows) => unreachable!("{rows} rows of {vectors} vectors"),
                    }
                };
            }
            cases! {
                1: 1 2 3 4 5 6 7 8 9 10 11 12 13 14;
                2: 1 2 3 4 5 6 7 8 9;
                3: 1 2 3 4 5 6 7;
                4: 1 2 3 4 5;
            }
        }
    }
}

impl<T: Lanes> Product<'_, T> {
    /// Computes `P` rows of `V` vectors in registers.
    #[inline(always)]
    fn run<S: Simd, const V: usize, const P: usize>(self, simd: S) {
        let rows: &[usize; P] = self.rows.try_into().expect("as many rows as were asked for");
        let out = T::vectors_mut::<S>(self.out);
        let mut sums = [[T::splat(simd, T::zero()); V]; P];
        if self.accumulate {
            for p in 0..P {
                for v in 0..V {
                    sums[p][v] = out[p * V + v];
                }
            }
        }
        let vectors = T::vectors::<S>(self.vectors).chunks_exact(V);
        for (&step, vectors) in self.steps.iter().zip(vectors) {
            for p in 0..P {
                // SAFETY: the sum of the largest row and the largest step was compared with the
                // length of the input.
                #[allow(unsafe_code)]
                let value = T::splat(simd, unsafe { *self.input.get_unchecked(rows[p] + step) });
                for v in 0..V {
                    sums[p][v] = T::mul_add(simd, value, vectors[v], sums[p][v]);
                }
            }
        }
        for p in 0..P {
            for v in 0..V {
                out[p * V + v] = sums[p][v];
            }
        }
    }
}

/// Elements in a vector of type `T`.
pub(super) struct VectorLen<T>(pub(super) std::marker::PhantomData<T>);

impl<T: Lanes> WithSimd for VectorLen<T> {
    type Output = usize;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> usize {
        T::lanes::<S>()
    }
}
