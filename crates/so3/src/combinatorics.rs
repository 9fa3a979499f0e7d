//! Factorials and binomial coefficients for sums of three degrees l <= 20.

const SIZE: usize = 3 * crate::L_MAX + 2;

static FACTORIALS: [f64; SIZE] = {
    let mut table = [1.0; SIZE];
    let mut n = 1;
    while n < SIZE {
        table[n] = table[n - 1] * n as f64;
        n += 1;
    }
    table
};

/// Pascal's triangle; C(61, 30) fits into 58 bits.
static BINOMIALS: [[i64; SIZE]; SIZE] = {
    let mut table = [[0; SIZE]; SIZE];
    let mut n = 0;
    while n < SIZE {
        table[n][0] = 1;
        let mut k = 1;
        while k <= n {
            table[n][k] = table[n - 1][k - 1] + table[n - 1][k];
            k += 1;
        }
        n += 1;
    }
    table
};

/// n! for 0 <= n <= 61, relative error below 1e-14.
pub(crate) fn factorial(n: i64) -> f64 {
    FACTORIALS[n as usize]
}

/// Binomial coefficient for 0 <= n <= 61; 0 when `k` is outside 0..=n. Exact.
pub(crate) fn binomial(n: i64, k: i64) -> i64 {
    if k < 0 || k > n { 0 } else { BINOMIALS[n as usize][k as usize] }
}

/// (-1)^exponent.
pub(crate) fn sign(exponent: i64) -> i64 {
    if exponent % 2 == 0 { 1 } else { -1 }
}
