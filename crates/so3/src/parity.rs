/// How an irrep of O(3) behaves under the inversion x -> -x.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Parity {
    /// The inversion acts as +1; written `e`.
    Even,
    /// The inversion acts as -1; written `o`.
    Odd,
}

impl Parity {
    /// Returns the factor of the inversion: +1 for even, -1 for odd.
    pub fn sign(self) -> f64 {
        match self {
            Self::Even => 1.0,
            Self::Odd => -1.0,
        }
    }

    /// Returns the parity of the product of two irreps: even where both are alike.
    pub fn product(self, other: Self) -> Self {
        if self == other { Self::Even } else { Self::Odd }
    }

    /// Returns the parity (-1)^l of the spherical harmonics of degree `l`.
    pub fn of_harmonics(l: usize) -> Self {
        if l.is_multiple_of(2) { Self::Even } else { Self::Odd }
    }
}
