//! How the files of a dataset become volumes.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use nalgebra::{Affine3, Vector3};
use serde::Serialize;
use steer3d_so3::{Irrep, Irreps, Rotation};

use steer3d_formats::{FileContents, Format, Nan, Several};
use steer3d_volume::density::{ChannelScheme, Weight};
use steer3d_volume::mesh::Mesh;
use steer3d_volume::mesh::voxeliser::{MeshField, MeshVoxeliser};
use steer3d_volume::molecule::Molecule;
use steer3d_volume::points::{PointCloud, PointValue, Voxeliser};
use steer3d_volume::resample::{self, Interpolation};
use steer3d_volume::volume::{Grid, Volume, VolumeError, parameter};

use crate::meta::{DatasetMeta, Provenance, scalars};
use crate::source::{Entry, ItemData, ItemError, read};

/// Which atoms of a molecule become points. Water is left out, and so are all alternate locations
/// but the first, unless [`Weight::Occupancy`] shares one atom out among them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "clap", derive(clap::ValueEnum))]
pub enum Atoms {
    /// All atoms.
    #[default]
    All,
    /// All but hydrogen.
    Heavy,
    /// N, CA, C and O of amino acids.
    Backbone,
    /// Alpha carbons of amino acids.
    AlphaCarbons,
}

/// What becomes of a volume whose grid is not that of the dataset.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "clap", derive(clap::ValueEnum))]
pub enum Fit {
    /// Stop with the file named.
    #[default]
    Refuse,
    /// Keep the middle, with zeros around it; voxels must be of the dataset's size.
    Crop,
    /// Put zeros around it, and stop where a volume is larger.
    Pad,
    /// Interpolate to the dataset's voxels (trilinear), then crop.
    ///
    /// The grids have the same centre; sizes stay those of the file: nothing is stretched.
    Resample,
}

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
pub struct Recipe {
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
    /// What becomes of volumes of another grid than the dataset's.
    #[cfg_attr(feature = "clap", arg(long, value_enum, default_value_t))]
    pub fit: Fit,
    /// What becomes of voxels of maps, images and arrays that are not numbers (NaN).
    #[cfg_attr(feature = "clap", arg(long, value_enum, default_value_t))]
    pub nan: Nan,
    /// What is stored of molecules and meshes; from sources alone, volumes are made when read.
    #[cfg_attr(feature = "clap", arg(long, value_enum, default_value_t))]
    pub store: Store,
}

/// A recipe made definite by the first file.
#[derive(Clone, Debug)]
pub struct SettledRecipe {
    kind: Kind,
    store: Store,
    nan: Nan,
    grid: Grid,
    channels: usize,
    /// The last file of several molecules: its records follow each other.
    last: Arc<Mutex<Option<RecordFile>>>,
}

/// All molecules of a file.
#[derive(Debug)]
struct RecordFile {
    path: PathBuf,
    molecules: Arc<Vec<Molecule>>,
}

#[derive(Clone, Debug)]
enum Kind {
    Molecules { voxeliser: Voxeliser, channels: ChannelScheme, weight: Weight, atoms: Atoms },
    Meshes { voxeliser: MeshVoxeliser, normalise: bool },
    Volumes { fit: Fit },
}

impl Kind {
    fn name(&self) -> &'static str {
        match self {
            Self::Molecules { .. } => "a molecule",
            Self::Meshes { .. } => "a mesh",
            Self::Volumes { .. } => "a volume",
        }
    }
}

impl Recipe {
    /// Settles the recipe by the kind of the first file.
    ///
    /// # Errors
    /// If the file cannot be read or the recipe does not suit it.
    pub fn settled_by(&self, first: &Path) -> Result<SettledRecipe, ItemError> {
        let source = read(first, self.nan)?;
        self.settle(&source).map_err(|source| ItemError::Volume { path: first.to_owned(), source })
    }

    fn settle(&self, source: &FileContents) -> Result<SettledRecipe, VolumeError> {
        let (kind, grid, channels) = match source {
            FileContents::Molecules(_) => {
                let voxeliser = self.voxeliser()?;
                let (grid, channels) = (voxeliser.grid()?, voxeliser.channels);
                let (scheme, weight, atoms) = (self.channels.clone(), self.weight, self.atoms);
                (Kind::Molecules { voxeliser, channels: scheme, weight, atoms }, grid, channels)
            }
            FileContents::Mesh(_) => {
                let voxeliser = self.mesh_voxeliser()?;
                let (grid, channels) = (voxeliser.grid()?, voxeliser.channels());
                let normalise = self.voxel_size.is_none();
                (Kind::Meshes { voxeliser, normalise }, grid, channels)
            }
            FileContents::Volume(volume) => {
                if self.store == Store::Sources {
                    return parameter("store", "voxels, for files of volumes", "sources");
                }
                let voxel_size = self.voxel_size.unwrap_or(volume.voxel_size());
                let grid = Grid::new(self.size.unwrap_or(volume.dims()), voxel_size)?;
                (Kind::Volumes { fit: self.fit }, grid, volume.channels())
            }
        };
        let (store, nan) = (self.store, self.nan);
        Ok(SettledRecipe { kind, store, nan, grid, channels, last: Arc::default() })
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

impl SettledRecipe {
    /// The description of the dataset of the items that this makes, with the channels and weights
    /// of atoms in the notes of the provenance.
    ///
    /// # Errors
    /// If there are more channels than irreps can have.
    pub fn meta(
        &self,
        name: &str,
        class_names: Vec<String>,
        mut provenance: Provenance,
    ) -> Result<DatasetMeta, VolumeError> {
        let channels = self.channels;
        if let Kind::Molecules { channels, weight, .. } = &self.kind {
            let (names, weight) = (channels.names().join(", "), weight.name());
            let note = format!("channels: {names}; weight of an atom: {weight}");
            let notes = [provenance.notes, note];
            provenance.notes =
                notes.into_iter().filter(|n| !n.is_empty()).collect::<Vec<_>>().join("; ");
        }
        let mut meta = DatasetMeta::scalars(channels, &self.grid)?;
        let unit = match &self.kind {
            Kind::Molecules { voxeliser, .. } => {
                meta.voxeliser = Some(*voxeliser);
                "angstrom"
            }
            Kind::Meshes { voxeliser, normalise } => {
                meta.mesh_voxeliser = Some(*voxeliser);
                if voxeliser.field == MeshField::Normals {
                    meta.irreps = Irreps::new([(1, Irrep::so3(1))]).expect("one vector");
                }
                if *normalise { "voxel" } else { "unstated" }
            }
            Kind::Volumes { .. } => "unstated",
        };
        let (name, unit) = (name.to_owned(), unit.to_owned());
        Ok(DatasetMeta { name, class_names, unit, provenance, ..meta })
    }

    /// Reads a file, or a record of it, and makes its item. A file of several records stays in
    /// memory until one of another such file is asked for.
    ///
    /// # Errors
    /// If the file cannot be read, is of another kind than the first, holds several molecules and
    /// the entry does not say which (the models of a PDB or mmCIF file apart, of which the first is
    /// taken), does not tell the elements that the recipe asks for, or does not suit it otherwise.
    pub fn make(&self, entry: &Entry) -> Result<ItemData, ItemError> {
        let wrong = |source| ItemError::Volume { path: entry.path.clone(), source };
        let made = match (&self.kind, self.source(entry)?) {
            (
                Kind::Molecules { voxeliser, channels, weight, atoms },
                FileContents::Molecules(molecules),
            ) => {
                let molecule = only(&entry.path, molecules)?;
                if channels.needs_elements() || *atoms != Atoms::All {
                    molecule.check_elements().map_err(wrong)?;
                }
                let molecule = chosen(molecule, *atoms, *weight);
                let points = cloud(&molecule, channels, *weight).map_err(wrong)?;
                if points.is_empty() {
                    return wrong_kind(&entry.path, "at least one atom of the chosen ones", "none");
                }
                let volume = || voxeliser.voxelise(&points, &Rotation::identity());
                let volume = self.wanted(volume).map_err(wrong)?;
                ItemData { volume, points: Some(points), ..ItemData::default() }
            }
            (Kind::Meshes { voxeliser, normalise }, FileContents::Mesh(mesh)) => {
                let mesh = centred(&mesh, normalise.then_some(&self.grid)).map_err(wrong)?;
                let volume = self.wanted(|| voxeliser.voxelise(&mesh, &Rotation::identity()));
                let volume = volume.map_err(wrong)?;
                ItemData { volume, mesh: Some(mesh), ..ItemData::default() }
            }
            (Kind::Volumes { fit }, FileContents::Volume(volume)) => {
                let volume = self.fitted(volume, *fit).map_err(wrong)?;
                ItemData { volume: Some(volume), ..ItemData::default() }
            }
            (kind, other) => {
                let expected = format!("{}, as the first file", kind.name());
                return wrong_kind(&entry.path, expected, name_of(&other));
            }
        };
        Ok(match self.store {
            Store::Voxels => ItemData { volume: made.volume, ..ItemData::default() },
            Store::Both | Store::Sources => made,
        })
    }

    fn source(&self, entry: &Entry) -> Result<FileContents, ItemError> {
        let Some(record) = entry.record else {
            return read(&entry.path, self.nan);
        };
        let molecules = self.records(&entry.path)?;
        let Some(molecule) = molecules.get(record - 1) else {
            let found = format!("{} records", molecules.len());
            return wrong_kind(&entry.path, format!("a record {record}"), found);
        };
        Ok(FileContents::Molecules(vec![molecule.clone()]))
    }

    /// All molecules of a file. Others wait for the thread that reads it.
    fn records(&self, path: &Path) -> Result<Arc<Vec<Molecule>>, ItemError> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = last.as_ref().filter(|file| file.path == path) {
            return Ok(Arc::clone(&file.molecules));
        }
        let molecules = match read(path, self.nan)? {
            FileContents::Molecules(molecules) => Arc::new(molecules),
            other => return wrong_kind(path, "molecules", name_of(&other)),
        };
        *last = Some(RecordFile { path: path.to_owned(), molecules: Arc::clone(&molecules) });
        Ok(molecules)
    }

    /// The volume, unless only sources are stored.
    fn wanted(
        &self,
        volume: impl FnOnce() -> Result<Volume, VolumeError>,
    ) -> Result<Option<Volume>, VolumeError> {
        (self.store != Store::Sources).then(volume).transpose()
    }

    fn fitted(&self, volume: Volume, fit: Fit) -> Result<Volume, VolumeError> {
        if volume.channels() != self.channels {
            let found = format!("{} instead of {}", volume.channels(), self.channels);
            return parameter("channels", "as many as in the first file", found);
        }
        let (ours, theirs) = (self.grid.voxel_size(), volume.voxel_size());
        let same_size = ours.iter().zip(theirs).all(|(a, b)| (a - b).abs() <= 1e-4 * a);
        let (dims, found) = (self.grid.dims(), volume.dims());
        let inside = found.iter().zip(dims).all(|(&found, most)| found <= most);
        match fit {
            _ if same_size && found == dims => {
                let origin = volume.origin();
                Volume::new(volume.into_data(), self.channels, self.grid, origin)
            }
            Fit::Crop if same_size => crop(&volume, self.grid),
            Fit::Pad if same_size && inside => crop(&volume, self.grid),
            Fit::Resample => resampled(&volume, self.grid),
            _ if !same_size => {
                let found = format!("{theirs:?} instead of {ours:?}");
                let expected = "that of the dataset, or --fit resample";
                parameter("voxel size", expected, found)
            }
            _ => {
                let found = format!("{found:?} instead of {dims:?}");
                let expected = match fit {
                    Fit::Pad => "at most those of the dataset, or --fit crop",
                    _ => "those of the dataset, or --fit crop, pad or resample",
                };
                parameter("dims (D, H, W)", expected, found)
            }
        }
    }
}

fn wrong_kind<T>(
    path: &Path,
    expected: impl Into<String>,
    found: impl Into<String>,
) -> Result<T, ItemError> {
    let (expected, found) = (expected.into(), found.into());
    Err(ItemError::Kind { path: path.to_owned(), expected, found })
}

fn name_of(source: &FileContents) -> &'static str {
    match source {
        FileContents::Molecules(_) => "molecules",
        FileContents::Mesh(_) => "a mesh",
        FileContents::Volume(_) => "a volume",
    }
}

/// The one molecule of a file, or its first model.
fn only(path: &Path, molecules: Vec<Molecule>) -> Result<Molecule, ItemError> {
    let count = molecules.len();
    let several = Format::detect(&[], path).and_then(Format::several);
    let models = several == Some(Several::Models);
    let mut molecules = molecules.into_iter();
    match molecules.next() {
        Some(molecule) if count == 1 || models => Ok(molecule),
        _ => wrong_kind(path, "one molecule; split the file", count.to_string()),
    }
}

fn chosen(molecule: Molecule, atoms: Atoms, weight: Weight) -> Molecule {
    let molecule = match weight {
        Weight::Occupancy => molecule,
        _ => molecule.first_alternates(),
    };
    let molecule = molecule.without_waters();
    match atoms {
        Atoms::All => molecule,
        Atoms::Heavy => molecule.without_hydrogens(),
        Atoms::Backbone => molecule.backbone(),
        Atoms::AlphaCarbons => molecule.alpha_carbons(),
    }
}

/// The atoms that have a channel as points about their mean, with their weights unless these are 1.
fn cloud(
    molecule: &Molecule,
    scheme: &ChannelScheme,
    weight: Weight,
) -> Result<PointCloud, VolumeError> {
    let atoms = || molecule.atoms.iter().filter_map(|atom| Some((atom, scheme.channel(atom)?)));
    let (positions, channels) = atoms().map(|(atom, channel)| (atom.position, channel)).unzip();
    let points = PointCloud::new(positions, channels)?.centred();
    if weight == Weight::One || points.is_empty() {
        return Ok(points);
    }
    if atoms().all(|(atom, _)| weight.of(atom) == 0.0) {
        return parameter("weight", "a file that tells it", format!("no {}", weight.name()));
    }
    points.with_values(atoms().map(|(atom, _)| PointValue::Scalar(weight.of(atom))).collect())
}

/// The mesh with the middle of its bounding box at 0; scaled, if there is a grid to fill, so that
/// its farthest vertex keeps a voxel from the nearest face of the grid in every orientation.
fn centred(mesh: &Mesh, fill: Option<&Grid>) -> Result<Mesh, VolumeError> {
    if mesh.triangles().is_empty() {
        return parameter("mesh", "at least one triangle", "none");
    }
    let moved = mesh.translated(mesh.middle().map(|x| -x));
    let norms = moved.vertices().iter().map(|&vertex| Vector3::from(vertex).norm());
    let radius = norms.fold(0.0, f64::max);
    let scale = match fill {
        Some(grid) if radius > 0.0 => {
            let [d, h, w] = grid.dims();
            let [x, y, z] = grid.voxel_size();
            let half = [(w, x), (h, y), (d, z)].map(|(n, size)| (n as f64 / 2.0 - 1.0) * size);
            half.into_iter().fold(f64::INFINITY, f64::min).max(0.5) / radius
        }
        _ => 1.0,
    };
    Mesh::new(moved.scaled(scale).vertices().to_vec(), mesh.triangles().to_vec())
}

/// The middle of a volume on another grid of the same voxels, with zeros around it. Where the
/// difference is odd, one voxel more is cut or added at the end of the axis.
fn crop(volume: &Volume, grid: Grid) -> Result<Volume, VolumeError> {
    let (from, to) = (volume.dims(), grid.dims());
    // Voxel x, y, z of the old volume that becomes the first of the new one.
    let first = [2, 1, 0].map(|axis| (from[axis] as i32 - to[axis] as i32) / 2);
    let part = resample::crop(volume, first, to)?;
    let origin = part.origin();
    Volume::new(part.into_data(), volume.channels(), grid, origin)
}

/// A volume on another grid about the same centre.
fn resampled(volume: &Volume, grid: Grid) -> Result<Volume, VolumeError> {
    let (old, new) = (volume.grid().centre(), grid.centre());
    let origin = [0, 1, 2].map(|i| {
        volume.origin()[i] + old[i] * volume.voxel_size()[i] - new[i] * grid.voxel_size()[i]
    });
    let (still, how) = (Affine3::identity(), Interpolation::Trilinear);
    resample::resample_to(volume, &scalars(volume.channels())?, grid, origin, &still, how)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cropping_and_padding_keep_every_voxel_at_its_place() {
        let value = |z: usize, y: usize, x: usize| (100 * z + 10 * y + x + 1) as f32;
        let grid = Grid::new([3, 4, 5], [1.0, 2.0, 3.0]).unwrap();
        let data = (0..60).map(|i| value(i / 20, i / 5 % 4, i % 5)).collect();
        let volume = Volume::new(data, 1, grid, [0.5, 0.0, -1.0]).unwrap();
        let other = Grid::new([5, 2, 4], [1.0, 2.0, 3.0]).unwrap();
        let cropped = crop(&volume, other).unwrap();
        for (i, &found) in cropped.data().iter().enumerate() {
            let (z, y, x) = (i / 8, i / 4 % 2, i % 4);
            let expected = if (1..4).contains(&z) { value(z - 1, y + 1, x) } else { 0.0 };
            assert_eq!(found, expected, "{z} {y} {x}");
        }
        assert_eq!(cropped.origin(), [0.5, 2.0, -4.0]);
        let back = crop(&cropped, grid).unwrap();
        assert_eq!(back.data()[25..30], [111.0, 112.0, 113.0, 114.0, 0.0]);
        assert_eq!(back.origin(), volume.origin());
    }

    #[test]
    fn a_mesh_fills_the_grid_in_every_orientation() {
        let vertices = vec![[10.0, 0.0, 0.0], [14.0, 0.0, 0.0], [10.0, 2.0, 4.0]];
        let mesh = Mesh::new(vertices, vec![[0, 1, 2]]).unwrap();
        let grid = Grid::new([16, 16, 20], [1.0; 3]).unwrap();
        let filled = centred(&mesh, Some(&grid)).unwrap();
        let norm = |v: &[f64; 3]| v.iter().map(|x| x * x).sum::<f64>().sqrt();
        let radius = filled.vertices().iter().map(norm).fold(0.0, f64::max);
        assert!((radius - 7.0).abs() < 1e-12, "{radius}");
        let kept = centred(&mesh, None).unwrap();
        assert_eq!(kept.vertices()[1], [2.0, -1.0, -2.0]);
        assert!(centred(&Mesh::default(), None).is_err());
    }
}
