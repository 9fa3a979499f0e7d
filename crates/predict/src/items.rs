//! From an input to what is turned and voxelised.

use std::path::{Path, PathBuf};

use nalgebra::Matrix3;
use steer3d_dataset::{Atoms, FileReader, ItemData, Prepared, Recipe, check_unit};
use steer3d_eval::AnswerKind;
use steer3d_formats::FileContents;
use steer3d_kernels::ACCURATE_COARSENING;
use steer3d_so3::Rotation;
use steer3d_volume::molecule::Molecule;
use steer3d_volume::{ChannelScheme, Grid, Volume, VolumeError};

use crate::inputs::{Input, Origin, digest_of};
use crate::model::Model;

/// An input that is read.
pub(crate) struct Item {
    pub(crate) prepared: Prepared,
    /// The grid of a volume as it was in its file, and its origin, where voxels are labelled.
    pub(crate) original: Option<(Grid, [f64; 3])>,
    /// The directions of the axes of its volume in the coordinates of its file.
    pub(crate) direction: Matrix3<f64>,
    /// SHA-256 of its file.
    pub(crate) sha256: Option<String>,
    pub(crate) warnings: Vec<String>,
}

/// Why an input cannot be read, and whether it can once others give back memory.
pub(crate) struct Unread {
    pub(crate) problem: String,
    pub(crate) temporary: bool,
}

impl<E: std::fmt::Display> From<E> for Unread {
    fn from(error: E) -> Self {
        Self { problem: error.to_string(), temporary: false }
    }
}

/// Reads an input.
pub(crate) fn read(input: &Input, model: &Model, reader: &FileReader) -> Result<Item, Unread> {
    match &input.origin {
        Origin::File(entry) => {
            let recipe = model.recipe()?;
            let sha256 = digest_of(&entry.path)?;
            let contents = reader.read(entry).map_err(|error| Unread {
                temporary: error.is_temporary(),
                problem: error.to_string(),
            })?;
            let keep = model.answers() == AnswerKind::Voxels;
            let named =
                |problem: &dyn std::fmt::Display| format!("{}: {problem}", entry.path.display());
            if let FileContents::Volume(_) = contents {
                // With native voxels the unit is that of the network.
                let checked = match model.native {
                    true => check_unit(&model.card.unit, &entry.path),
                    false => recipe.check_unit(&entry.path),
                };
                checked.map_err(|e| named(&e))?;
            }
            let left_out = match &contents {
                FileContents::Molecules(molecules) => left_out(molecules, recipe),
                _ => None,
            };
            let item = match contents {
                FileContents::Volume(volume) if keep => {
                    let original = Some((volume.grid(), volume.origin()));
                    let direction = steer3d_formats::direction(&entry.path)?;
                    let whole = recipe.prepare_whole(volume).map_err(|e| named(&e))?;
                    Item { original, direction, ..Item::of(Prepared::Volume(whole), model) }
                }
                contents => Item::of(recipe.prepare(contents).map_err(|e| named(&e))?, model),
            };
            let warnings = left_out.into_iter().chain(item.warnings).collect();
            Ok(Item { sha256: Some(sha256), warnings, ..item })
        }
        Origin::Dataset(dataset, item) => {
            let prepared = match &model.recipe {
                Some(Recipe::Molecules { .. }) => dataset.points(*item)?.map(Prepared::Points),
                Some(Recipe::Meshes { .. }) => dataset.mesh(*item)?.map(Prepared::Mesh),
                _ => None,
            };
            let prepared = match prepared {
                Some(source) => source,
                None => Prepared::Volume(dataset.read(*item)?),
            };
            Ok(Item { direction: dataset.direction(*item), ..Item::of(prepared, model) })
        }
        Origin::Archive(source, item) => {
            let prepared = match (source.item(*item)?, &model.recipe) {
                (ItemData { points: Some(points), .. }, Some(Recipe::Molecules { .. })) => {
                    Prepared::Points(points)
                }
                (ItemData { mesh: Some(mesh), .. }, Some(Recipe::Meshes { .. })) => {
                    Prepared::Mesh(mesh)
                }
                (ItemData { volume: Some(volume), .. }, _) => Prepared::Volume(volume),
                _ => return Err("has no volume".to_owned().into()),
            };
            Ok(Item::of(prepared, model))
        }
    }
}

impl Item {
    fn of(prepared: Prepared, model: &Model) -> Self {
        let warnings =
            model.recipe.as_ref().map_or(vec![], |recipe| warnings(model, recipe, &prepared));
        let direction = Matrix3::identity();
        Self { prepared, original: None, direction, sha256: None, warnings }
    }

    /// D, H, W of its volumes.
    pub(crate) fn dims(&self, model: &Model) -> [usize; 3] {
        match (&self.prepared, &model.recipe) {
            (Prepared::Volume(volume), _) => volume.dims(),
            (_, Some(recipe)) => recipe.grid().map_or(model.card.dims, |grid| grid.dims()),
            (_, None) => model.card.dims,
        }
    }

    /// Edges (x, y, z) of the voxels of its volumes.
    pub(crate) fn voxel_size(&self, model: &Model) -> [f64; 3] {
        match &self.prepared {
            Prepared::Volume(volume) => volume.voxel_size(),
            Prepared::Points(_) | Prepared::Mesh(_) => model.card.voxel_size,
        }
    }

    /// Its volume, turned.
    pub(crate) fn volume(&self, model: &Model, rotation: &Rotation) -> Result<Volume, VolumeError> {
        match (&self.prepared, &model.recipe) {
            (Prepared::Volume(volume), _) if rotation.angle() == 0.0 => Ok(volume.clone()),
            (prepared, Some(recipe)) => recipe.volume(prepared, rotation),
            (Prepared::Volume(volume), None) => {
                let irreps = model.card.meaning.irreps.clone();
                let irreps = irreps.unwrap_or_else(|| {
                    format!("{}x0", volume.channels()).parse().expect("scalars are irreps")
                });
                let how = steer3d_volume::Interpolation::Cubic;
                steer3d_volume::rotate(volume, &irreps, rotation, how)
            }
            (_, None) => unreachable!("points and meshes are made by a recipe"),
        }
    }
}

/// Residues of nucleic acids.
const NUCLEOTIDES: [&str; 11] = ["A", "C", "G", "U", "I", "DA", "DC", "DG", "DT", "DU", "DI"];

/// That a molecule has nucleic acids, of which a model of proteins sees nothing.
fn left_out(molecules: &[Molecule], recipe: &Recipe) -> Option<String> {
    let atoms = molecules.first()?.atoms.iter().filter(|_| sees_proteins(recipe));
    let count = atoms.filter(|atom| NUCLEOTIDES.contains(&atom.residue.as_str())).count();
    (count > 0)
        .then(|| format!("{count} atoms of nucleic acids are left out: the model sees proteins"))
}

fn sees_proteins(recipe: &Recipe) -> bool {
    let Recipe::Molecules { atoms, channels, .. } = recipe else { return false };
    matches!(atoms, Atoms::Backbone | Atoms::AlphaCarbons)
        || matches!(channels, ChannelScheme::Backbone | ChannelScheme::Names(_))
}

/// Fewer points than this are hardly a protein.
const FEW_POINTS: usize = 20;

/// Share of the atoms above which an answer is doubted.
const FEW_OUTSIDE: f64 = 0.01;

/// What is unusual about a source.
fn warnings(model: &Model, recipe: &Recipe, prepared: &Prepared) -> Vec<String> {
    let mut warnings = vec![];
    match prepared {
        Prepared::Points(points) => {
            if sees_proteins(recipe) && points.len() < FEW_POINTS {
                warnings.push(format!("few atoms: {} of those that the model sees", points.len()));
            }
            let Ok(grid) = recipe.grid() else { return warnings };
            let [d, h, w] = grid.dims();
            let size = grid.voxel_size();
            let half = [w, h, d].map(|n| n as f64 / 2.0);
            let outside = |p: &&[f64; 3]| (0..3).any(|i| (p[i] / size[i]).abs() > half[i]);
            let share =
                points.positions().iter().filter(outside).count() as f64 / points.len() as f64;
            if share > FEW_OUTSIDE {
                warnings.push(format!(
                    "{:.0} % of the atoms lie outside of the grid of {} x {} x {} {}",
                    100.0 * share,
                    w as f64 * size[0],
                    h as f64 * size[1],
                    d as f64 * size[2],
                    recipe.unit()
                ));
            }
        }
        Prepared::Volume(volume) if volume.data().windows(2).all(|pair| pair[0] == pair[1]) => {
            let value = volume.data().first().copied().unwrap_or_default();
            warnings.push(format!("all voxels are {value}"));
        }
        Prepared::Volume(_) | Prepared::Mesh(_) => {}
    }
    if let Prepared::Volume(volume) = prepared
        && let Some(ratios) = model.coarsening(volume.voxel_size())
    {
        let most = ratios.into_iter().fold(0.0, f64::max);
        if most > ACCURATE_COARSENING {
            warnings.push(format!(
                "voxels {most:.1} times as coarse as the model's: its answers lose accuracy beyond \
                 {ACCURATE_COARSENING}"
            ));
        }
    }
    warnings
}

/// The file of the labels or probabilities of an input, in `folder`.
pub(crate) fn map_path(folder: &Path, input: &Input, more: &str) -> PathBuf {
    let (stem, format) = &input.map;
    folder.join(format!("{stem}.{more}.{}", format.extension()))
}
