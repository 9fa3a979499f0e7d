//! Real Clebsch-Gordan tensors and Wigner 3j symbols.
//!
//! C[i, j, k] of (l1, l2, l3) is invariant: C = D_{l1} C D_{l2} D_{l3} applied to its three axes.
//! It is unique up to a factor, which is fixed by Frobenius norm 1 and e3nn's sign. It vanishes
//! unless |l1 - l2| <= l3 <= l1 + l2. In terms of the 3j symbols and of Y_real = U Y_complex it is
//! C = (-i)^(l1+l2+l3) (U ⊗ U ⊗ U) (l1 l2 l3; m1 m2 m3).
//!
//! The complex symbols come from Racah's sum (Varshalovich et al. 1988, §8.2.1) written with
//! binomial coefficients, which is a sum of integers below 2^61 for l <= 20 and hence exact; only
//! one square root rounds.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use crate::combinatorics::{binomial, factorial, sign};
use crate::wigner::{i_power, real_from_complex};
use crate::{DegreeError, L_MAX};

/// One nonzero element of a [`CgTensor`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CgEntry {
    /// Index l1 + m1 in 0..=2 l1.
    pub i: usize,
    /// Index l2 + m2 in 0..=2 l2.
    pub j: usize,
    /// Index l3 + m3 in 0..=2 l3.
    pub k: usize,
    /// The element.
    pub value: f64,
}

/// Real Clebsch-Gordan tensor of shape (2 l1 + 1, 2 l2 + 1, 2 l3 + 1), Frobenius norm 1.
#[derive(Clone, Debug, PartialEq)]
pub struct CgTensor {
    degrees: [usize; 3],
    dense: Vec<f64>,
    nonzeros: Vec<CgEntry>,
}

impl CgTensor {
    /// Returns the degrees (l1, l2, l3) of the three axes.
    pub fn degrees(&self) -> [usize; 3] {
        self.degrees
    }

    /// Returns the number of elements along each axis, (2 l1 + 1, 2 l2 + 1, 2 l3 + 1).
    pub fn shape(&self) -> [usize; 3] {
        self.degrees.map(|l| 2 * l + 1)
    }

    /// Returns element (i, j, k). Each index counts from m = -l and is below that of [`shape`](Self::shape).
    pub fn get(&self, i: usize, j: usize, k: usize) -> f64 {
        let [_, n2, n3] = self.shape();
        self.dense[(i * n2 + j) * n3 + k]
    }

    /// Returns all elements, row-major (k fastest).
    pub fn dense(&self) -> &[f64] {
        &self.dense
    }

    /// Returns the nonzero elements in row-major order. There are none when the degrees do not couple.
    pub fn nonzeros(&self) -> &[CgEntry] {
        &self.nonzeros
    }
}

/// Whether (l1, l2, l3) can couple: |l1 - l2| <= l3 <= l1 + l2.
pub fn couples(l1: usize, l2: usize, l3: usize) -> bool {
    l1.abs_diff(l2) <= l3 && l3 <= l1 + l2
}

/// The real Clebsch-Gordan tensor of (l1, l2, l3), computed on first use and shared afterwards.
/// All its elements are 0 when the degrees do not couple.
///
/// # Panics
/// If a degree is above [`L_MAX`].
///
/// ```
/// use steer3d_so3::clebsch_gordan;
/// // Three vectors couple to their determinant, the Levi-Civita tensor over √6.
/// let c = clebsch_gordan(1, 1, 1);
/// assert_eq!(c.nonzeros().len(), 6);
/// assert!((c.get(0, 1, 2) - 6f64.sqrt().recip()).abs() < 1e-15);
/// ```
pub fn clebsch_gordan(l1: usize, l2: usize, l3: usize) -> Arc<CgTensor> {
    type Cache = RwLock<HashMap<[usize; 3], Arc<CgTensor>>>;
    static CACHE: OnceLock<Cache> = OnceLock::new();
    for l in [l1, l2, l3] {
        assert!(l <= L_MAX, "{}", DegreeError { l });
    }
    let cache = CACHE.get_or_init(Cache::default);
    // A panic cannot leave the map half-written, so a poisoned lock is as good as any.
    let found = cache.read().unwrap_or_else(PoisonError::into_inner).get(&[l1, l2, l3]).cloned();
    found.unwrap_or_else(|| {
        let tensor = Arc::new(compute_clebsch_gordan(l1, l2, l3));
        let mut map = cache.write().unwrap_or_else(PoisonError::into_inner);
        map.entry([l1, l2, l3]).or_insert(tensor).clone()
    })
}

/// Wigner 3j symbol (l1 l2 l3; m1 m2 m3) in the standard (Condon-Shortley) convention; 0 when a
/// selection rule is violated.
///
/// # Panics
/// If a degree is above [`L_MAX`].
pub fn wigner_3j(l1: usize, l2: usize, l3: usize, m1: i64, m2: i64, m3: i64) -> f64 {
    for l in [l1, l2, l3] {
        assert!(l <= L_MAX, "{}", DegreeError { l });
    }
    let outside = |l: usize, m: i64| m.unsigned_abs() as usize > l;
    if !couples(l1, l2, l3)
        || m1 + m2 + m3 != 0
        || outside(l1, m1)
        || outside(l2, m2)
        || outside(l3, m3)
    {
        return 0.0;
    }
    let [l1, l2, l3] = [l1, l2, l3].map(|l| l as i64);
    let (a, b, c) = (l1 + l2 - l3, l1 - l2 + l3, l2 + l3 - l1);
    let sum: i64 = (0..=a)
        .map(|k| sign(k) * binomial(a, k) * binomial(b, l1 - m1 - k) * binomial(c, l2 + m2 - k))
        .sum();
    let numerator = factorial(l1 + m1) * factorial(l1 - m1) / factorial(a)
        * (factorial(l2 + m2) * factorial(l2 - m2) / factorial(b))
        * (factorial(l3 + m3) * factorial(l3 - m3) / factorial(c));
    let root = (numerator / factorial(l1 + l2 + l3 + 1)).sqrt();
    sign(l1 - l2 - m3) as f64 * root * sum as f64
}

/// The tensor of [`clebsch_gordan`], computed anew.
///
/// # Panics
/// If a degree is above [`L_MAX`].
pub fn compute_clebsch_gordan(l1: usize, l2: usize, l3: usize) -> CgTensor {
    let degrees = [l1, l2, l3];
    let [n1, n2, n3] = degrees.map(|l| 2 * l + 1);
    let mut tensor = CgTensor { degrees, dense: vec![0.0; n1 * n2 * n3], nonzeros: Vec::new() };
    if !couples(l1, l2, l3) {
        return tensor;
    }
    let bases = degrees.map(real_from_complex);
    let phase = i_power(-((l1 + l2 + l3) as i64));
    for m1 in -(l1 as i64)..=l1 as i64 {
        for m2 in -(l2 as i64)..=l2 as i64 {
            let m = [m1, m2, -m1 - m2];
            let value = wigner_3j(l1, l2, l3, m[0], m[1], m[2]);
            if value == 0.0 {
                continue;
            }
            let [rows1, rows2, rows3] = [0, 1, 2].map(|axis| mixed(degrees[axis], m[axis]));
            let columns = [0, 1, 2].map(|axis| (degrees[axis] as i64 + m[axis]) as usize);
            for i in rows1 {
                for j in rows2.clone() {
                    for k in rows3.clone() {
                        let change = bases[0][(i, columns[0])]
                            * bases[1][(j, columns[1])]
                            * bases[2][(k, columns[2])];
                        tensor.dense[(i * n2 + j) * n3 + k] += (phase * change).re * value;
                    }
                }
            }
        }
    }
    for (index, &value) in tensor.dense.iter().enumerate() {
        if value != 0.0 {
            let (i, j, k) = (index / (n2 * n3), index / n3 % n2, index % n3);
            tensor.nonzeros.push(CgEntry { i, j, k, value });
        }
    }
    tensor
}

/// Indices of the real components ±m of degree `l`, which the complex component m mixes.
fn mixed(l: usize, m: i64) -> std::iter::StepBy<std::ops::RangeInclusive<usize>> {
    let m = m.unsigned_abs() as usize;
    (l - m..=l + m).step_by((2 * m).max(1))
}
