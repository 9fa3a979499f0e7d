//! The description of a dataset.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use steer3d_so3::Irreps;

use steer3d_volume::mesh::voxeliser::MeshVoxeliser;
use steer3d_volume::points::Voxeliser;
use steer3d_volume::volume::{Grid, VolumeError, checked_len};

/// The part of a dataset that an item belongs to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Split {
    /// For fitting weights; stored as 0.
    #[default]
    Train,
    /// For choosing a checkpoint; stored as 1.
    Validation,
    /// For reported figures; stored as 2.
    Test,
}

impl Split {
    /// All splits in stored order.
    pub const ALL: [Self; 3] = [Self::Train, Self::Validation, Self::Test];
}

impl fmt::Display for Split {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Train => "train",
            Self::Validation => "validation",
            Self::Test => "test",
        })
    }
}

impl FromStr for Split {
    type Err = VolumeError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|split| split.to_string() == text).ok_or_else(|| {
            VolumeError::Parameter {
                field: "split",
                expected: "train, validation or test",
                found: format!("`{text}`"),
            }
        })
    }
}

/// How the values of the volumes are stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(tag = "dtype", rename_all = "lowercase", deny_unknown_fields)]
pub enum Storage {
    /// 32-bit floats.
    #[default]
    F32,
    /// Bytes: value = byte × scale.
    U8 {
        /// The value of byte 1.
        scale: f64,
    },
}

/// Where a dataset comes from.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Provenance {
    /// Source of the data, with the credit that its licence asks for.
    pub source: String,
    /// Licence of the data.
    pub licence: String,
    /// SHA-256 of the source file in hexadecimal, if there is a file.
    pub sha256: Option<String>,
    /// The importer that made the dataset.
    pub importer: String,
    /// The command line that made the dataset, or empty.
    pub command: String,
    /// Version of steer3d that made the dataset.
    pub version: String,
    /// Choices made on the way, such as how splits were drawn.
    pub notes: String,
}

/// A file that a build left out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Skipped {
    /// Its path as that of an item.
    pub source: String,
    /// What is wrong with it.
    pub problem: String,
}

/// What all items of a dataset have in common.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DatasetMeta {
    /// Name of the dataset.
    pub name: String,
    /// Names of the classes; a label is an index into them.
    pub class_names: Vec<String>,
    /// Channels of each volume.
    pub channels: usize,
    /// D, H, W of each volume.
    pub dims: [usize; 3],
    /// Edges of a voxel along x, y, z.
    pub voxel_size: [f64; 3],
    /// Unit of voxel sizes, origins and points, such as `angstrom` or `mm`.
    pub unit: String,
    /// Irreps of the channels.
    pub irreps: Irreps,
    /// How values are stored.
    pub storage: Storage,
    /// Where the data come from.
    pub provenance: Provenance,
    /// The voxeliser that made the volumes from the stored points, if one did.
    pub voxeliser: Option<Voxeliser>,
    /// The voxeliser that makes the volumes from the stored meshes, if one does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mesh_voxeliser: Option<MeshVoxeliser>,
}

impl DatasetMeta {
    /// The grid of each volume.
    ///
    /// # Errors
    /// If the dimensions or voxel sizes are outside their range.
    pub fn grid(&self) -> Result<Grid, VolumeError> {
        Grid::new(self.dims, self.voxel_size)
    }

    /// Values in each volume.
    pub fn item_len(&self) -> usize {
        self.channels * self.dims.iter().product::<usize>()
    }

    /// The position of voxel (0, 0, 0) that puts the centre of the grid at 0.
    pub(super) fn centred_origin(&self) -> [f64; 3] {
        let [d, h, w] = self.dims;
        let [x, y, z] = self.voxel_size;
        [(w, x), (h, y), (d, z)].map(|(n, size)| (n - 1) as f64 / -2.0 * size)
    }

    pub(super) fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec_pretty(self).expect("the description has a JSON form")
    }

    /// Checks the fields against each other; the error names the field.
    pub(super) fn check(&self) -> Result<(), VolumeError> {
        let grid = self.grid()?;
        checked_len(self.channels, self.dims)?;
        if self.irreps.dim() != self.channels {
            return Err(VolumeError::Irreps {
                irreps: self.irreps.to_string(),
                dim: self.irreps.dim(),
                channels: self.channels,
            });
        }
        let parameter =
            |field, expected, found| Err(VolumeError::Parameter { field, expected, found });
        if self.class_names.is_empty() {
            return parameter("class_names", "at least one name", "none".to_owned());
        }
        if let Storage::U8 { scale } = self.storage
            && !(scale.is_finite() && scale > 0.0)
        {
            return parameter("storage.scale", "a positive finite number", scale.to_string());
        }
        if let Some(voxeliser) = &self.voxeliser
            && (voxeliser.grid()? != grid || voxeliser.channels != self.channels)
        {
            return parameter(
                "voxeliser",
                "the grid and channels of the volumes",
                format!("{voxeliser:?}"),
            );
        }
        if let Some(voxeliser) = &self.mesh_voxeliser
            && (voxeliser.grid()? != grid || voxeliser.channels() != self.channels)
        {
            return parameter(
                "mesh_voxeliser",
                "the grid and channels of the volumes",
                format!("{voxeliser:?}"),
            );
        }
        Ok(())
    }
}
