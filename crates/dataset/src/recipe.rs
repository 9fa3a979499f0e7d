//! All that turns a file into a volume.

use std::path::Path;

use nalgebra::{Affine3, Vector3};
use serde::{Deserialize, Serialize};
use steer3d_formats::{FileContents, Nan, length_unit};
use steer3d_so3::{Irrep, Irreps, Rotation};
use steer3d_volume::density::{ChannelScheme, Weight};
use steer3d_volume::mesh::Mesh;
use steer3d_volume::mesh::voxeliser::{MeshField, MeshVoxeliser};
use steer3d_volume::molecule::Molecule;
use steer3d_volume::points::{PointCloud, PointValue, Voxeliser};
use steer3d_volume::resample::{self, Interpolation};
use steer3d_volume::volume::{Grid, Volume, VolumeError, checked_len, parameter};

/// Which atoms of a molecule become points. Water is left out, and so are all alternate locations
/// but the first, unless [`Weight::Occupancy`] shares one atom out among them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
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
    /// Keep it: each item has its own grid and voxel size.
    Keep,
    /// Interpolate to the dataset's voxel size (trilinear): each item has its own grid, as large as its file.
    Spacing,
}

/// How the values of a map, an image or an array are scaled, each by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "clap", derive(clap::ValueEnum))]
pub enum Intensity {
    /// Not at all.
    #[default]
    AsStored,
    /// To mean 0 and standard deviation 1.
    ZScore,
    /// Divided by Σv³ / Σv² of the values above 0.
    ///
    /// That is about the value of the dense parts of a map, however much empty space is around them.
    Density,
}

impl Intensity {
    /// What is subtracted from values, and what they are multiplied by then; none where nothing changes, as where all are
    /// equal.
    fn of(self, values: &[f32]) -> Option<(f64, f64)> {
        let all = || values.iter().map(|&value| f64::from(value));
        let (shift, size) = match self {
            Self::AsStored => return None,
            Self::ZScore => {
                let mean = all().sum::<f64>() / values.len() as f64;
                let variance = all().map(|v| (v - mean).powi(2)).sum::<f64>() / values.len() as f64;
                (mean, variance.sqrt())
            }
            Self::Density => {
                let power = |n: i32| all().filter(|&v| v > 0.0).map(|v| v.powi(n)).sum::<f64>();
                (0.0, power(3) / power(2))
            }
        };
        (size > 0.0 && size.is_finite()).then_some((shift, size.recip()))
    }
}

/// All that turns a file into a volume: what a dataset was made by, and what a model that was trained on it asks of a new
/// file. As TOML it begins with `kind = "molecules"`, `"meshes"` or `"volumes"`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Recipe {
    /// A Gaussian for each atom, about the mean position of the atoms.
    Molecules {
        /// The atoms that become points.
        atoms: Atoms,
        /// The channel of each of them.
        channels: ChannelScheme,
        /// What its Gaussian is multiplied by.
        weight: Weight,
        /// The grid and the Gaussians, in ångström.
        voxeliser: Voxeliser,
    },
    /// A mesh, about the middle of its bounding box.
    Meshes {
        /// The grid, and what the mesh becomes on it.
        voxeliser: MeshVoxeliser,
        /// Whether each mesh is scaled to fill the grid in every orientation.
        fill: bool,
    },
    /// A map, an image or an array.
    Volumes {
        /// How the channels of a volume turn, such as 1x0 for a density.
        irreps: Irreps,
        /// D, H, W of the grid; of one of them, where each volume keeps its own.
        dims: [usize; 3],
        /// Edges of a voxel along x, y, z.
        voxel_size: [f64; 3],
        /// Their unit. Where it is `voxel`, that of a file is not compared with them.
        unit: String,
        /// What the values of a file are multiplied by.
        factor: f64,
        /// How they are scaled then, before the volume is brought to the grid.
        #[serde(default)]
        intensity: Intensity,
        /// What becomes of a volume with another grid.
        fit: Fit,
        /// What becomes of voxels that are not numbers.
        nan: Nan,
    },
}

/// What a recipe made of a file, before it is turned and voxelised.
#[derive(Clone, Debug)]
pub enum Prepared {
    /// Points about their mean.
    Points(PointCloud),
    /// A mesh about its middle.
    Mesh(Mesh),
    /// A volume on the grid of the recipe, or on its own.
    Volume(Volume),
}

/// Why a recipe cannot be followed for a file.
#[derive(Debug, thiserror::Error)]
pub enum Unsuited {
    /// The file holds something else.
    #[error("expected {expected}, found {found}")]
    Kind {
        /// What the recipe is for.
        expected: String,
        /// What the file holds.
        found: &'static str,
    },
    /// What it holds cannot be used.
    #[error(transparent)]
    Volume(#[from] VolumeError),
}

/// What a file holds, for a person.
pub fn name_of(contents: &FileContents) -> &'static str {
    match contents {
        FileContents::Molecules(molecules) if molecules.len() == 1 => "a molecule",
        FileContents::Molecules(_) => "molecules",
        FileContents::Mesh(_) => "a mesh",
        FileContents::Volume(_) => "a volume",
    }
}

impl Recipe {
    /// The recipe of arrays of values times `factor` on one grid.
    pub(crate) fn of_arrays(irreps: Irreps, grid: &Grid, factor: f64) -> Self {
        let (dims, voxel_size, unit) = (grid.dims(), grid.voxel_size(), "voxel".to_owned());
        let (intensity, fit, nan) = (Intensity::AsStored, Fit::Refuse, Nan::Refuse);
        Self::Volumes { irreps, dims, voxel_size, unit, factor, intensity, fit, nan }
    }

    /// What it is for.
    pub fn subject(&self) -> &'static str {
        match self {
            Self::Molecules { .. } => "a molecule",
            Self::Meshes { .. } => "a mesh",
            Self::Volumes { .. } => "a volume",
        }
    }

    /// The grid of the volumes.
    ///
    /// # Errors
    /// If a number of the recipe is outside its range.
    pub fn grid(&self) -> Result<Grid, VolumeError> {
        match self {
            Self::Molecules { voxeliser, .. } => voxeliser.grid(),
            Self::Meshes { voxeliser, .. } => voxeliser.grid(),
            Self::Volumes { irreps, dims, voxel_size, .. } => {
                checked_len(irreps.dim(), *dims)?;
                Grid::new(*dims, *voxel_size)
            }
        }
    }

    /// Channels of the volumes.
    pub fn channels(&self) -> usize {
        match self {
            Self::Molecules { voxeliser, .. } => voxeliser.channels,
            Self::Meshes { voxeliser, .. } => voxeliser.channels(),
            Self::Volumes { irreps, .. } => irreps.dim(),
        }
    }

    /// Irreps of the channels.
    ///
    /// # Errors
    /// If there are more channels than irreps can have.
    pub fn irreps(&self) -> Result<Irreps, VolumeError> {
        match self {
            Self::Meshes { voxeliser, .. } if voxeliser.field == MeshField::Normals => {
                Ok(Irreps::new([(1, Irrep::so3(1))]).expect("one vector"))
            }
            Self::Volumes { irreps, .. } => Ok(irreps.clone()),
            _ => scalars(self.channels()),
        }
    }

    /// Unit of the voxels.
    pub fn unit(&self) -> &str {
        match self {
            Self::Molecules { .. } => "angstrom",
            Self::Meshes { fill: true, .. } => "voxel",
            Self::Meshes { fill: false, .. } => "unstated",
            Self::Volumes { unit, .. } => unit,
        }
    }

    /// Checks the fields against each other and against their ranges.
    ///
    /// # Errors
    /// The field that is wrong.
    pub fn check(&self) -> Result<(), VolumeError> {
        self.grid()?;
        self.irreps()?;
        match self {
            Self::Molecules { channels, voxeliser, .. } => {
                let names = channels.names().len();
                if names != voxeliser.channels {
                    let found = voxeliser.channels.to_string();
                    return parameter("channels", "as many as kinds of atoms are named", found);
                }
            }
            Self::Volumes { factor, .. } if !(factor.is_finite() && *factor != 0.0) => {
                return parameter("factor", "a finite number but 0", factor.to_string());
            }
            _ => {}
        }
        Ok(())
    }

    /// Whether each volume has its own grid.
    pub fn keeps_grids(&self) -> bool {
        matches!(self, Self::Volumes { fit: Fit::Keep | Fit::Spacing, .. })
    }

    /// Whether each volume has voxels of its own size, too.
    pub fn keeps_voxels(&self) -> bool {
        matches!(self, Self::Volumes { fit: Fit::Keep, .. })
    }

    /// What becomes of voxels of files that are not numbers.
    pub fn nan(&self) -> Nan {
        match self {
            Self::Volumes { nan, .. } => *nan,
            _ => Nan::Refuse,
        }
    }

    /// Takes from a file with one molecule, mesh or volume what is turned and voxelised.
    ///
    /// # Errors
    /// If it holds something else than the recipe is for, lacks what the recipe asks of it (such as elements, or any of
    /// the chosen atoms), or has another grid than the recipe can fit.
    pub fn prepare(&self, contents: FileContents) -> Result<Prepared, Unsuited> {
        match (self, contents) {
            (
                Self::Molecules { atoms, channels, weight, .. },
                FileContents::Molecules(molecules),
            ) if molecules.len() == 1 => {
                let molecule = molecules.into_iter().next().expect("one molecule");
                if channels.needs_elements() || *atoms != Atoms::All {
                    molecule.check_elements()?;
                }
                let points = cloud(&chosen(molecule, *atoms, *weight), channels, *weight)?;
                if points.is_empty() {
                    let names = channels.names().join(", ");
                    let expected = format!("at least one atom of the chosen ones ({names})");
                    let found = "none; give a file that has some, or choose other atoms";
                    return Err(Unsuited::Kind { expected, found });
                }
                Ok(Prepared::Points(points))
            }
            (Self::Meshes { voxeliser, fill }, FileContents::Mesh(mesh)) => {
                let grid = fill.then(|| voxeliser.grid()).transpose()?;
                Ok(Prepared::Mesh(centred(&mesh, grid.as_ref())?))
            }
            (Self::Volumes { .. }, FileContents::Volume(volume)) => {
                Ok(Prepared::Volume(self.fitted(volume)?))
            }
            (_, other) => {
                Err(Unsuited::Kind { expected: self.subject().to_owned(), found: name_of(&other) })
            }
        }
    }

    /// The volume, turned by `rotation` about the centre of the grid: a source exactly, a volume by cubic splines.
    ///
    /// # Errors
    /// If it was not made by this recipe.
    pub fn volume(&self, made: &Prepared, rotation: &Rotation) -> Result<Volume, VolumeError> {
        match (self, made) {
            (Self::Molecules { voxeliser, .. }, Prepared::Points(points)) => {
                voxeliser.voxelise(points, rotation)
            }
            (Self::Meshes { voxeliser, .. }, Prepared::Mesh(mesh)) => {
                voxeliser.voxelise(mesh, rotation)
            }
            (_, Prepared::Volume(volume)) if rotation.angle() == 0.0 => Ok(volume.clone()),
            (_, Prepared::Volume(volume)) => {
                let how = Interpolation::Cubic;
                resample::rotate(volume, &self.irreps()?, rotation, how)
            }
            (_, Prepared::Points(_)) => parameter("kind", "molecules", self.subject()),
            (_, Prepared::Mesh(_)) => parameter("kind", "meshes", self.subject()),
        }
    }

    /// A volume of a file times the factor with voxels of the recipe's size, as large as it is: for networks that answer
    /// for every voxel.
    ///
    /// # Errors
    /// If the recipe is for something else, or the volume has other channels or, unless it is to be resampled, other
    /// voxels.
    pub fn prepare_whole(&self, volume: Volume) -> Result<Volume, VolumeError> {
        let Self::Volumes { voxel_size, unit, factor, intensity, fit, .. } = self else {
            return parameter("kind", "volumes", self.subject());
        };
        let volume = scaled(volume, *factor, *intensity)?;
        self.check_channels(&volume)?;
        let theirs = volume.voxel_size();
        if *fit == Fit::Keep || unit == "voxel" || same_size(*voxel_size, theirs) {
            return Ok(volume);
        }
        if !matches!(fit, Fit::Resample | Fit::Spacing) {
            let found = format!("{theirs:?} instead of {voxel_size:?}");
            return parameter("voxel size", "that of the recipe, or --fit resample", found);
        }
        let [d, h, w] = volume.dims();
        let along =
            |n: usize, axis: usize| (n as f64 * theirs[axis] / voxel_size[axis]).ceil() as usize;
        resampled(&volume, Grid::new([along(d, 2), along(h, 1), along(w, 0)], *voxel_size)?)
    }

    /// [`check_unit`] for the unit of the recipe.
    ///
    /// # Errors
    /// If the units differ.
    pub fn check_unit(&self, path: &Path) -> Result<(), VolumeError> {
        let Self::Volumes { unit, .. } = self else { return Ok(()) };
        check_unit(unit, path)
    }

    fn check_channels(&self, volume: &Volume) -> Result<(), VolumeError> {
        if volume.channels() != self.channels() {
            let found = format!("{} instead of {}", volume.channels(), self.channels());
            return parameter("channels", "as many as the recipe has", found);
        }
        Ok(())
    }

    /// A volume of a file on the grid of the recipe, or on its own if these are kept, times the factor.
    fn fitted(&self, volume: Volume) -> Result<Volume, VolumeError> {
        if self.keeps_grids() {
            return self.prepare_whole(volume);
        }
        let Self::Volumes { unit, factor, intensity, fit, .. } = self else {
            return parameter("kind", "volumes", self.subject());
        };
        let (grid, channels) = (self.grid()?, self.channels());
        let volume = scaled(volume, *factor, *intensity)?;
        self.check_channels(&volume)?;
        let (ours, theirs) = (grid.voxel_size(), volume.voxel_size());
        let same_size = unit == "voxel" || same_size(ours, theirs);
        let (dims, found) = (grid.dims(), volume.dims());
        let inside = found.iter().zip(dims).all(|(&found, most)| found <= most);
        match fit {
            _ if same_size && found == dims => {
                let origin = volume.origin();
                Volume::new(volume.into_data(), channels, grid, origin)
            }
            Fit::Crop if same_size => crop(&volume, grid),
            Fit::Pad if same_size && inside => crop(&volume, grid),
            Fit::Resample => resampled(&volume, grid),
            _ if !same_size => {
                let found = format!("{theirs:?} instead of {ours:?}");
                let expected = "that of the recipe, or --fit resample";
                parameter("voxel size", expected, found)
            }
            _ => {
                let found = format!("{found:?} instead of {dims:?}");
                let expected = match fit {
                    Fit::Pad => "at most those of the recipe, or --fit crop",
                    _ => "those of the recipe, or --fit crop, pad or resample",
                };
                parameter("dims (D, H, W)", expected, found)
            }
        }
    }
}

/// The irreps of numbers that do not turn.
///
/// # Errors
/// If there are more than irreps can have.
pub(crate) fn scalars(count: usize) -> Result<Irreps, VolumeError> {
    let expected = "a number of channels that irreps can have";
    format!("{count}x0").parse().or_else(|_| parameter("channels", expected, count.to_string()))
}

/// Whether the voxels of a file are in this unit of length, where both are known.
///
/// # Errors
/// If the units differ. A file that cannot be read is not compared.
pub fn check_unit(unit: &str, path: &Path) -> Result<(), VolumeError> {
    const KNOWN: [&str; 2] = ["mm", "angstrom"];
    match length_unit(path) {
        Ok(Some(found)) if KNOWN.contains(&unit) && found != unit => {
            let found = format!("{found} instead of {unit}; convert the file");
            parameter("unit of the voxels", "that of the recipe", found)
        }
        _ => Ok(()),
    }
}

fn same_size(ours: [f64; 3], theirs: [f64; 3]) -> bool {
    ours.iter().zip(theirs).all(|(a, b)| (a - b).abs() <= 1e-4 * a)
}

fn scaled(volume: Volume, factor: f64, intensity: Intensity) -> Result<Volume, VolumeError> {
    if factor == 1.0 && intensity == Intensity::AsStored {
        return Ok(volume);
    }
    let (channels, grid, origin) = (volume.channels(), volume.grid(), volume.origin());
    let mut values = volume.into_data();
    values.iter_mut().for_each(|value| *value = (f64::from(*value) * factor) as f32);
    if let Some((shift, scale)) = intensity.of(&values) {
        values.iter_mut().for_each(|v| *v = ((f64::from(*v) - shift) * scale) as f32);
    }
    Volume::new(values, channels, grid, origin)
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
    fn intensities_do_not_depend_on_how_a_program_scales_its_maps() {
        let grid = |n| Grid::new([1, 1, n], [1.0; 3]).unwrap();
        let of = |values: &[f32], factor, intensity| {
            let volume = Volume::centred(values.to_vec(), 1, grid(values.len())).unwrap();
            scaled(volume, factor, intensity).unwrap().into_data()
        };
        let values = [-1.0, 2.0, 4.0, 3.0];
        let z = of(&values, 1.0, Intensity::ZScore);
        assert!((z.iter().sum::<f32>()).abs() < 1e-6);
        assert!((z.iter().map(|v| v * v).sum::<f32>() - 4.0).abs() < 1e-5);
        let density = of(&values, 1.0, Intensity::Density);
        // (8 + 64 + 27) / (4 + 16 + 9)
        assert!((density[2] - 4.0 * 29.0 / 99.0).abs() < 1e-6, "{density:?}");
        let wide = of(&[0.0, -1.0, 2.0, 0.0, 4.0, 3.0, 0.0], 1.0, Intensity::Density);
        assert_eq!([wide[1], wide[2], wide[4], wide[5]], *density);
        for intensity in [Intensity::ZScore, Intensity::Density] {
            let times = of(&values, 64.0, intensity);
            assert!(
                times.iter().zip(of(&values, 1.0, intensity)).all(|(a, b)| (a - b).abs() < 1e-6)
            );
            assert_eq!(of(&[0.0; 3], 1.0, intensity), [0.0; 3]);
        }
        assert_eq!(of(&values, 2.0, Intensity::AsStored), [-2.0, 4.0, 8.0, 6.0]);
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
