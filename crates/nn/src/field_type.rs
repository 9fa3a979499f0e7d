use std::fmt::{self, Display, Formatter};

use steer3d_so3::Irreps;

/// How the channels of a [`Field`](crate::Field) transform.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldType {
    /// The representation of the channels, of which there is one set for each orientation.
    pub irreps: Irreps,
    /// Orientations that every channel has, next to one another: 24 in a network over the rotations of the cube,
    /// which permute them, and otherwise 1.
    pub orientations: usize,
}

impl From<Irreps> for FieldType {
    fn from(irreps: Irreps) -> Self {
        Self { irreps, orientations: 1 }
    }
}

impl From<&Irreps> for FieldType {
    fn from(irreps: &Irreps) -> Self {
        irreps.clone().into()
    }
}

impl Display for FieldType {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.orientations {
            1 => write!(f, "{}", self.irreps),
            n => write!(f, "{} in {n} orientations", self.irreps),
        }
    }
}

impl FieldType {
    /// Returns the number of channels, all orientations counted.
    pub fn dim(&self) -> usize {
        self.irreps.dim() * self.orientations
    }
}
