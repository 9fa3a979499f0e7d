//! What a user says of how files become volumes.

use std::path::Path;

use serde::Serialize;
use steer3d_formats::{FileContents, Nan, length_unit};
use steer3d_volume::density::{ChannelScheme, Weight};
use steer3d_volume::mesh::voxeliser::{MeshField, MeshVoxeliser};
use steer3d_volume::points::Voxeliser;
use steer3d_volume::volume::{VolumeError, parameter};

use crate::recipe::{Atoms, Fit, Intensity, Recipe, scalars};
use crate::source::{ItemError, read};

/// What is stored of each item.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "clap", derive(clap::ValueEnum))]
pub enum Store {
    /// Voxels and their sources.
    #[default]
    Both,
    /// Voxels.
    Voxels,
    /// Atoms or meshes.
    ///
    /// The volume is made whenever the item is read.
    Sources,
}

/// How files become volumes; `None` means the default for their kind.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[cfg_attr(feature = "clap", derive(clap::Args))]
pub struct RecipeOptions {
    /// Voxels along D, H, W; default: 50 for molecules, 32 for meshes, as in
    /// the first file for volumes.
    #[cfg_attr(feature = "clap", arg(skip))]
    pub size: Option<[usize; 3]>,
    /// Edges of a voxel along x, y, z; default: 2 Å for molecules, for meshes such
    /// that each fills the grid, as in the first file for volumes.
    #[cfg_attr(feature = "clap", arg(skip))]
    pub voxel_size: Option<[f64; 3]>,
    /// Width of an atom's Gaussian in ångström; default: half a voxel.
    #[cfg_attr(feature = "clap", arg(long))]
    pub sigma: Option<f64>,
    /// Channels of atoms.
    #[cfg_attr(feature = "clap", arg(long, value_enum, default_value_t))]
    pub channels: ChannelScheme,
    /// What each atom's Gaussian is multiplied by.
    #[cfg_attr(feature = "clap", arg(long, value_enum, default_value_t))]
    pub weight: Weight,
    /// Which atoms become points: water is left out, and alternate locations but the first.
    #[cfg_attr(feature = "clap", arg(long, value_enum, default_value_t))]
    pub atoms: Atoms,
    /// What a mesh becomes.
    #[cfg_attr(feature = "clap", arg(long, value_enum, default_value_t))]
    pub mesh_field: MeshField,
    /// Sub-voxels along each edge of a voxel, whose mean it is, for surfaces and solids; default: 2.
    #[cfg_attr(feature = "clap", arg(long))]
    pub supersampling: Option<usize>,
    /// How the values of maps, images and arrays are scaled, each by itself.
    #[cfg_attr(feature = "clap", arg(long, value_enum, default_value_t))]
    pub intensity: Intensity,
    /// What becomes of volumes of another grid than the dataset's.
    #[cfg_attr(feature = "clap", arg(long, value_enum, default_value_t))]
    pub fit: Fit,
    /// Keep the grid and the voxel size of each file: short for --fit keep.
    #[cfg_attr(feature = "clap", arg(long, conflicts_with = "fit"))]
    pub keep_grid: bool,
    /// What becomes of voxels of maps, images and arrays that are not numbers (NaN).
    #[cfg_attr(feature = "clap", arg(long, value_enum, default_value_t))]
    pub nan: Nan,
    /// Names of the labels 0, 1, ... of the voxels in the masks of a table, the background first; in an option separated by
    /// commas.
    #[cfg_attr(feature = "clap", arg(long, value_delimiter = ','))]
    pub voxel_classes: Vec<String>,
    /// What is stored of molecules and meshes; from sources alone, volumes are made when read.
    #[cfg_attr(feature = "clap", arg(long, value_enum, default_value_t))]
    pub store: Store,
}

impl RecipeOptions {
    /// The recipe for files of the kind of the first one.
    ///
    /// # Errors
    /// If the file cannot be read or the options do not suit it.
    pub fn settled_by(&self, first: &Path) -> Result<Recipe, ItemError> {
        let contents = read(first, self.nan)?;
        let mut recipe = self
            .settle(&contents)
            .map_err(|source| ItemError::Volume { path: first.to_owned(), source })?;
        if let (Recipe::Volumes { unit, .. }, Ok(Some(found))) = (&mut recipe, length_unit(first)) {
            found.clone_into(unit);
        }
        Ok(recipe)
    }

    fn settle(&self, contents: &FileContents) -> Result<Recipe, VolumeError> {
        if self.keep_grid && !matches!(contents, FileContents::Volume(_)) {
            let expected =
                "files of volumes: molecules and meshes have the grid of size and voxel size";
            return parameter("keep grid", expected, "another kind of file");
        }
        let recipe = match contents {
            FileContents::Molecules(_) => Recipe::Molecules {
                atoms: self.atoms,
                channels: self.channels.clone(),
                weight: self.weight,
                voxeliser: self.voxeliser()?,
            },
            FileContents::Mesh(_) => Recipe::Meshes {
                voxeliser: self.mesh_voxeliser()?,
                fill: self.voxel_size.is_none(),
            },
            FileContents::Volume(volume) => {
                if self.store == Store::Sources {
                    return parameter("store", "voxels, for files of volumes", "sources");
                }
                Recipe::Volumes {
                    irreps: scalars(volume.channels())?,
                    dims: self.size.unwrap_or(volume.dims()),
                    voxel_size: self.voxel_size.unwrap_or(volume.voxel_size()),
                    unit: "unstated".to_owned(),
                    factor: 1.0,
                    intensity: self.intensity,
                    fit: if self.keep_grid { Fit::Keep } else { self.fit },
                    nan: self.nan,
                }
            }
        };
        recipe.check()?;
        Ok(recipe)
    }

    /// Voxels along an edge of a cube and their size.
    fn cube(&self, size: usize, edge: f64) -> Result<(usize, f64), VolumeError> {
        let size = self.size.unwrap_or([size; 3]);
        let edges = self.voxel_size.unwrap_or([edge; 3]);
        if size != [size[0]; 3] || edges != [edges[0]; 3] {
            let found = format!("{size:?}, {edges:?}");
            return parameter("size", "a cube, for molecules and meshes", found);
        }
        Ok((size[0], edges[0]))
    }

    fn mesh_voxeliser(&self) -> Result<MeshVoxeliser, VolumeError> {
        let (size, edge) = self.cube(32, 1.0)?;
        let field = self.mesh_field;
        let sampled = matches!(field, MeshField::Surface | MeshField::Solid);
        let supersampling = self.supersampling.unwrap_or(if sampled { 2 } else { 1 });
        Ok(MeshVoxeliser { supersampling, ..MeshVoxeliser::new(size, edge, field) })
    }

    fn voxeliser(&self) -> Result<Voxeliser, VolumeError> {
        let (size, edge) = self.cube(50, 2.0)?;
        let paper = Voxeliser::paper(size, edge);
        Ok(Voxeliser {
            sigma: self.sigma.unwrap_or(paper.sigma),
            channels: self.channels.names().len(),
            ..paper
        })
    }
}
