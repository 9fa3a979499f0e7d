//! Reproducible random numbers: one independent ChaCha8 stream per key.
//!
//! A key is (seed, purpose, indices), for example `(seed, "init", &[layer])` or
//! `(seed, "shuffle", &[epoch])`. Because every use has its own stream, results depend neither on
//! the number of threads nor on the order of calls.
//!
//! Key derivation: the words seed, byte length of `purpose`, its bytes in little-endian groups of
//! eight (zero padded), number of indices and the indices are absorbed by four 64-bit lanes. Lane
//! j starts at `mix(j + 1)`; each word w turns its state s into `mix(s ^ w)`, where `mix` is the
//! step of SplitMix64 (Steele, Lea and Flood 2014, <https://doi.org/10.1145/2714064.2660195>). The
//! four states, little-endian, are the 256-bit key of ChaCha8. This derivation is fixed: the same
//! key gives the same stream in every version.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// A keyed stream of random numbers.
///
/// ```
/// use steer3d_so3::Stream;
/// let mut a = Stream::new(7, "init", &[0, 3]);
/// let mut b = Stream::new(7, "init", &[0, 3]);
/// assert_eq!(a.uniform(), b.uniform());
/// ```
#[derive(Clone, Debug)]
pub struct Stream {
    rng: ChaCha8Rng,
    spare_normal: Option<f64>,
}

impl Stream {
    /// Makes the stream of the key (seed, purpose, indices): equal keys give equal numbers, others independent ones.
    pub fn new(seed: u64, purpose: &str, indices: &[u64]) -> Self {
        let mut lanes = [1, 2, 3, 4].map(mix);
        let mut absorb = |word: u64| {
            for lane in &mut lanes {
                *lane = mix(*lane ^ word);
            }
        };
        absorb(seed);
        absorb(purpose.len() as u64);
        for chunk in purpose.as_bytes().chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            absorb(u64::from_le_bytes(word));
        }
        absorb(indices.len() as u64);
        for &index in indices {
            absorb(index);
        }
        let mut key = [0; 32];
        for (bytes, lane) in key.chunks_exact_mut(8).zip(lanes) {
            bytes.copy_from_slice(&lane.to_le_bytes());
        }
        Self { rng: ChaCha8Rng::from_seed(key), spare_normal: None }
    }

    /// Draws a number uniform in [0, 1), the upper 53 bits of one 64-bit word.
    pub fn uniform(&mut self) -> f64 {
        (self.rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Draws a standard normal number by the Box-Muller transform of two uniform ones (the sine is kept for the
    /// next call).
    pub fn normal(&mut self) -> f64 {
        if let Some(value) = self.spare_normal.take() {
            return value;
        }
        let radius = (-2.0 * (1.0 - self.uniform()).ln()).sqrt();
        let (sin, cos) = (std::f64::consts::TAU * self.uniform()).sin_cos();
        self.spare_normal = Some(radius * sin);
        radius * cos
    }

    /// Draws a number uniform in 0..n without bias (Lemire 2019, <https://doi.org/10.1145/3230636>).
    ///
    /// # Panics
    /// If `n` is 0.
    pub fn below(&mut self, n: usize) -> usize {
        assert!(n > 0, "below(0): there is no number below 0");
        let n = n as u64;
        let rejected = n.wrapping_neg() % n;
        loop {
            let product = u128::from(self.rng.next_u64()) * u128::from(n);
            if product as u64 >= rejected {
                return (product >> 64) as usize;
            }
        }
    }

    /// Permutes `items` uniformly in place (Fisher-Yates).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i + 1));
        }
    }

    /// Draws a uniform permutation of 0..n.
    pub fn permutation(&mut self, n: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..n).collect();
        self.shuffle(&mut order);
        order
    }
}

fn mix(state: u64) -> u64 {
    let mut z = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
