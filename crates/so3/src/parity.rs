/// Behaviour under the inversion x -> -x.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Parity {
    /// The inversion acts as +1; written `e`.
    Even,
    /// The inversion acts as -1; written `o`.
    Odd,
}

impl Parity {
    /// +1 for even, -1 for odd.
    pub fn sign(self) -> f64 {
        match self {
            Self::Even => 1.0,
            Self::Odd => -1.0,
        }
    }

    /// Parity of a product of two irreps.
    pub fn product(self, other: Self) -> Self {
        if self == other { Self::Even } else { Self::Odd }
    }

    /// Parity of the spherical harmonics of degree `l`, (-1)^l.
    pub fn of_harmonics(l: usize) -> Self {
        if l.is_multiple_of(2) { Self::Even } else { Self::Odd }
    }
}
