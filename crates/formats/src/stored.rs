//! What the writers of maps share: what a map is of, and how its file begins.

use nalgebra::Matrix3;
use steer3d_volume::volume::{Grid, Volume};

use crate::samples::{Axis, Element};

/// What the voxels of a volume are, which decides how they are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Voxels {
    /// Real numbers, in 32 bits.
    Values,
    /// Labels of so many classes, from 0 on: in 8 bits where they fit, else in 16.
    Labels(usize),
}

impl Voxels {
    /// The narrowest of two types, of which the first holds labels of so many classes. The second holds 2¹⁵ at least: a
    /// [`Frame`] with labels of more is refused.
    pub(crate) fn element(self, (narrow, most): (Element, usize), wide: Element) -> Element {
        match self {
            Self::Values => Element::F32,
            Self::Labels(classes) if classes <= most => narrow,
            Self::Labels(_) => wide,
        }
    }
}

/// What a map is a map of.
#[derive(Clone, Copy, Debug)]
pub struct Frame {
    /// Number of channels.
    pub channels: usize,
    /// The voxels.
    pub grid: Grid,
    /// Where the centre of the first one is, along x, y, z.
    pub origin: [f64; 3],
    /// The directions of its axes x, y, z as columns of a rotation or reflection, which NIfTI holds; the identity is
    /// upright.
    pub direction: Matrix3<f64>,
    /// What is stored.
    pub voxels: Voxels,
}

impl Frame {
    /// That of an upright volume.
    pub fn of(volume: &Volume, voxels: Voxels) -> Self {
        let (grid, origin) = (volume.grid(), volume.origin());
        let (channels, direction) = (volume.channels(), Matrix3::identity());
        Self { channels, grid, origin, direction, voxels }
    }
}

/// The beginning of a file, and how the values after it lie.
#[derive(Debug)]
pub(crate) struct Stored {
    pub(crate) header: Vec<u8>,
    /// Axes of x, y, z, in values, of one channel.
    pub(crate) axes: [Axis; 3],
    pub(crate) element: Element,
    pub(crate) big_endian: bool,
    /// Whether the header has statistics of the values, as MRC does.
    pub(crate) statistics: bool,
}
