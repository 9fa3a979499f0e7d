//! The description of a dataset, which the file holds as JSON (see `docs/src/guide/dataset-file.md`).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use steer3d_so3::Irreps;

use steer3d_volume::mesh::voxeliser::MeshVoxeliser;
use steer3d_volume::points::Voxeliser;
use steer3d_volume::volume::{Grid, VolumeError, checked_len, parameter};

use crate::recipe::{Recipe, scalars};

/// Value of the root attribute `format`.
pub(crate) const FORMAT_NAME: &str = "steer3d-dataset";

/// Newest version of the schema: that of datasets with a grid for each item. Others are written as version 1, and both
/// are read.
pub const SCHEMA_VERSION: u32 = 2;

/// Largest number of target values of an item.
pub const MAX_TARGETS: usize = 1 << 16;

/// The part of a dataset that an item belongs to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
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
        let found = Self::ALL.into_iter().find(|split| split.to_string() == text);
        let wrong = || parameter("split", "train, validation or test", format!("`{text}`"));
        found.map_or_else(wrong, Ok)
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

/// Whether the items of a dataset have one grid.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Grids {
    /// All have that of the description.
    #[default]
    One,
    /// Each has its own, and its own voxel size.
    Each,
}

impl Grids {
    /// Version of the schema of such datasets.
    pub(crate) fn version(self) -> u32 {
        match self {
            Self::One => 1,
            Self::Each => SCHEMA_VERSION,
        }
    }

    #[allow(clippy::trivially_copy_pass_by_ref, reason = "serde asks by reference")]
    fn is_one(&self) -> bool {
        *self == Self::One
    }
}

/// What all items of a dataset have in common.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DatasetMeta {
    /// Name of the dataset.
    pub name: String,
    /// Names of the classes; a label is an index into them. Empty where items have no labels, which are then 0.
    pub class_names: Vec<String>,
    /// Channels of each volume.
    pub channels: usize,
    /// Whether the items have one grid.
    #[serde(default, skip_serializing_if = "Grids::is_one")]
    pub grids: Grids,
    /// D, H, W of each volume; of the first with most voxels, where each has its own grid.
    pub dims: [usize; 3],
    /// Edges of a voxel along x, y, z; likewise.
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
    /// All that turns a file into such a volume, if that is known; the file holds it apart.
    #[serde(skip)]
    pub recipe: Option<Recipe>,
}

impl DatasetMeta {
    /// A description of volumes of scalars, stored as 32-bit floats, with all else empty.
    ///
    /// # Errors
    /// If there are more channels than irreps can have.
    pub fn scalars(channels: usize, grid: &Grid) -> Result<Self, VolumeError> {
        Ok(Self {
            name: String::new(),
            class_names: Vec::new(),
            channels,
            grids: Grids::One,
            dims: grid.dims(),
            voxel_size: grid.voxel_size(),
            unit: String::new(),
            irreps: scalars(channels)?,
            storage: Storage::F32,
            provenance: Provenance::default(),
            voxeliser: None,
            mesh_voxeliser: None,
            recipe: None,
        })
    }

    /// The description of the items that a recipe makes, with the channels and weights of atoms in the notes of the
    /// provenance.
    ///
    /// # Errors
    /// If a number of the recipe is outside its range.
    pub fn of_recipe(
        recipe: Recipe,
        name: &str,
        class_names: Vec<String>,
        mut provenance: Provenance,
    ) -> Result<Self, VolumeError> {
        let mut meta = Self::scalars(recipe.channels(), &recipe.grid()?)?;
        if recipe.keeps_grids() {
            meta.grids = Grids::Each;
        }
        match &recipe {
            Recipe::Molecules { voxeliser, channels, weight, .. } => {
                meta.voxeliser = Some(*voxeliser);
                let (names, weight) = (channels.names().join(", "), weight.name());
                let note = format!("channels: {names}; weight of an atom: {weight}");
                let notes = [provenance.notes, note];
                provenance.notes =
                    notes.into_iter().filter(|n| !n.is_empty()).collect::<Vec<_>>().join("; ");
            }
            Recipe::Meshes { voxeliser, .. } => meta.mesh_voxeliser = Some(*voxeliser),
            Recipe::Volumes { .. } => {}
        }
        let (name, unit, irreps) = (name.to_owned(), recipe.unit().to_owned(), recipe.irreps()?);
        Ok(Self { name, class_names, unit, provenance, irreps, recipe: Some(recipe), ..meta })
    }

    /// The grid of each volume; of the first with most voxels, where each has its own.
    ///
    /// # Errors
    /// If the dimensions or voxel sizes are outside their range.
    pub fn grid(&self) -> Result<Grid, VolumeError> {
        Grid::new(self.dims, self.voxel_size)
    }

    /// What the channels are, as far as the description says: kinds and weights of atoms from the notes of the build
    /// (`channels: C, N; weight of an atom: 1`), or the field of meshes (`normals`).
    pub fn channel_meaning(&self) -> Option<String> {
        let known = |part: &&str| {
            ["channels: ", "weight of an atom: "].iter().any(|start| part.starts_with(start))
        };
        let noted: Vec<&str> = self.provenance.notes.split("; ").filter(known).collect();
        match self.mesh_voxeliser {
            _ if !noted.is_empty() => Some(noted.join("; ")),
            Some(voxeliser) => Some(format!("{:?}", voxeliser.field).to_lowercase()),
            None => None,
        }
    }

    /// Labels are below this.
    pub(crate) fn label_end(&self) -> usize {
        self.class_names.len().max(1)
    }

    /// Values in each volume, or in the largest.
    pub fn item_len(&self) -> usize {
        self.channels * self.dims.iter().product::<usize>()
    }

    /// Bytes of memory that reading an item takes: its values, and as many while they are decoded.
    pub(crate) fn bytes_to_read(&self) -> u64 {
        2 * size_of::<f32>() as u64 * self.item_len() as u64
    }

    /// The position of voxel (0, 0, 0) that puts the centre of the grid at 0.
    pub(crate) fn centred_origin(&self) -> [f64; 3] {
        let [d, h, w] = self.dims;
        let [x, y, z] = self.voxel_size;
        [(w, x), (h, y), (d, z)].map(|(n, size)| (n - 1) as f64 / -2.0 * size)
    }

    pub(crate) fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec_pretty(self).expect("the description has a JSON form")
    }

    /// Checks the fields against each other; the error names the field.
    pub(crate) fn check(&self) -> Result<(), VolumeError> {
        let grid = self.grid()?;
        checked_len(self.channels, self.dims)?;
        if self.irreps.dim() != self.channels {
            return Err(VolumeError::Irreps {
                irreps: self.irreps.to_string(),
                dim: self.irreps.dim(),
                channels: self.channels,
            });
        }
        let texts = self.class_names.iter().chain([&self.name, &self.unit]);
        if let Some(text) = with_control_characters(texts) {
            return parameter("names and unit", "no control characters", text);
        }
        if let Storage::U8 { scale } = self.storage
            && !(scale.is_finite() && scale > 0.0)
        {
            return parameter("storage.scale", "a positive finite number", scale.to_string());
        }
        let made = [
            ("voxeliser", self.voxeliser.map(|v| (v.grid(), v.channels))),
            ("mesh_voxeliser", self.mesh_voxeliser.map(|v| (v.grid(), v.channels()))),
        ];
        for (field, made) in made {
            if let Some((made_grid, channels)) = made
                && (made_grid? != grid || channels != self.channels || !self.grids.is_one())
            {
                let found = format!("{:?}, {:?}", self.voxeliser, self.mesh_voxeliser);
                return parameter(field, "the grid and channels of the volumes", found);
            }
        }
        self.check_recipe()
    }

    /// Checks the recipe against the volumes.
    pub(crate) fn check_recipe(&self) -> Result<(), VolumeError> {
        if let Some(recipe) = &self.recipe {
            recipe.check()?;
            let fits =
                recipe.keeps_grids() || (self.grids.is_one() && recipe.grid()? == self.grid()?);
            if !fits || recipe.channels() != self.channels {
                let found = format!("{recipe:?}");
                return parameter("recipe", "the grid and channels of the volumes", found);
            }
        }
        Ok(())
    }
}

/// The first text with control characters, escaped.
fn with_control_characters<'a>(mut texts: impl Iterator<Item = &'a String>) -> Option<String> {
    texts.find(|text| text.chars().any(char::is_control)).map(|text| format!("{text:?}"))
}

/// What there is to predict beside the classes of items: numbers, vectors or tensors for every item, labels
/// for every voxel.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tasks {
    /// How the target values of an item turn with it, `2x0` for two numbers, `1x1` for a vector x, y, z;
    /// `None` without targets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub targets: Option<Irreps>,
    /// Names of the targets, one for each field (a copy of an irrep) in order, such as `dipole` for 1x1; empty without
    /// names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub target_names: Vec<String>,
    /// Their units; empty without units.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub target_units: Vec<String>,
    /// Names of the labels of voxels, at most 256; empty without such labels.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub voxel_classes: Vec<String>,
}

impl Tasks {
    /// Target values of an item.
    pub fn target_len(&self) -> usize {
        self.targets.as_ref().map_or(0, Irreps::dim)
    }

    /// What is wrong: the field, what it should be, what it is.
    pub(crate) fn fault(&self) -> Option<(&'static str, String, String)> {
        if self.target_len() > MAX_TARGETS {
            let expected = format!("at most {MAX_TARGETS} values");
            return Some(("targets", expected, self.target_len().to_string()));
        }
        if self.voxel_classes.len() > 256 {
            let found = self.voxel_classes.len().to_string();
            return Some(("voxel classes", "at most 256".to_owned(), found));
        }
        let fields = self.targets.as_ref().map_or(0, Irreps::num_fields);
        for (what, texts) in [
            ("target names", &self.target_names),
            ("target units", &self.target_units),
            ("voxel classes", &self.voxel_classes),
        ] {
            if let Some(found) = with_control_characters(texts.iter()) {
                return Some((what, "no control characters".to_owned(), found));
            }
            if what != "voxel classes" && !texts.is_empty() && texts.len() != fields {
                let expected = format!("one for each of the {fields} fields, or none");
                return Some((what, expected, texts.len().to_string()));
            }
        }
        let none = self.targets.is_none() && self.voxel_classes.is_empty();
        let expected = "targets, voxel classes or both".to_owned();
        none.then(|| ("tasks", expected, "neither".to_owned()))
    }
}
