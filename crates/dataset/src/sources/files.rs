//! Files of a tree or a table, each an item, or a file of several molecules.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use nalgebra::Affine3;
use steer3d_formats::{FileContents, Format, Nan, Several, direction};
use steer3d_so3::Rotation;
use steer3d_volume::molecule::Molecule;
use steer3d_volume::resample::{Interpolation, resample_to};
use steer3d_volume::volume::{Grid, Volume};

use crate::meta::{DatasetMeta, Tasks};
use crate::recipe::{Prepared, Recipe, Unsuited, name_of, scalars};
use crate::source::{
    BuildError, Entry, ImportOptions, ItemData, ItemError, ItemSource, read, wrong_option,
};
use crate::sources::listing::Listing;
use crate::sources::recipe::{RecipeOptions, Store};
use crate::split::Fractions;

/// Reads the files of entries. A file of several molecules stays in memory until one of another such file is asked for.
#[derive(Clone, Debug, Default)]
pub struct FileReader {
    nan: Nan,
    /// The last file of several molecules: its records follow each other.
    last: Arc<Mutex<Option<RecordFile>>>,
}

/// All molecules of a file.
#[derive(Debug)]
struct RecordFile {
    path: PathBuf,
    molecules: Arc<Vec<Molecule>>,
}

impl FileReader {
    /// A reader with `nan` for the voxels of volumes that are not numbers.
    pub fn new(nan: Nan) -> Self {
        Self { nan, last: Arc::default() }
    }

    /// Reads a file, or a record of it: one molecule, mesh or volume.
    ///
    /// # Errors
    /// If the file cannot be read, or holds several molecules and the entry does not say which (the models of a PDB or
    /// mmCIF file apart, of which the first is taken).
    pub fn read(&self, entry: &Entry) -> Result<FileContents, ItemError> {
        let path = &entry.path;
        let Some(record) = entry.record else {
            return match read(path, self.nan)? {
                FileContents::Molecules(molecules) => {
                    Ok(FileContents::Molecules(vec![only(path, molecules)?]))
                }
                contents => Ok(contents),
            };
        };
        let molecules = self.records(path)?;
        let Some(molecule) = molecules.get(record - 1) else {
            let found = format!("{} records", molecules.len());
            return wrong_kind(path, format!("a record {record}"), found);
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

fn wrong_kind<T>(
    path: &Path,
    expected: impl Into<String>,
    found: impl Into<String>,
) -> Result<T, ItemError> {
    let (expected, found) = (expected.into(), found.into());
    Err(ItemError::Kind { path: path.to_owned(), expected, found })
}

/// Makes items of files by a recipe.
#[derive(Clone, Debug)]
pub struct FileRecipe {
    recipe: Recipe,
    store: Store,
    reader: FileReader,
    /// Labels in masks are below this.
    voxel_classes: usize,
}

impl FileRecipe {
    /// Items by `recipe`, of which `store` is stored.
    pub fn new(recipe: Recipe, store: Store) -> Self {
        let reader = FileReader::new(recipe.nan());
        Self { recipe, store, reader, voxel_classes: 0 }
    }

    /// Reads a file, or a record of it, and makes its item.
    ///
    /// # Errors
    /// As [`FileReader::read`] and [`Recipe::prepare`].
    pub fn make(&self, entry: &Entry) -> Result<ItemData, ItemError> {
        let path = || entry.path.clone();
        let contents = self.reader.read(entry)?;
        let frame = match &contents {
            FileContents::Volume(volume) => Some((volume.grid(), volume.origin())),
            _ => None,
        };
        if frame.is_some() {
            self.recipe.check_unit(&entry.path).map_err(|e| ItemError::of(path(), e.into()))?;
        }
        let made = self.recipe.prepare(contents).map_err(|unsuited| match unsuited {
            Unsuited::Kind { expected, found } if expected == self.recipe.subject() => {
                let expected = format!("{expected}, as the first file");
                ItemError::Kind { path: path(), expected, found: found.to_owned() }
            }
            unsuited => ItemError::of(path(), unsuited),
        })?;
        let voxels = self.store != Store::Sources || matches!(made, Prepared::Volume(_));
        let volume = voxels.then(|| self.recipe.volume(&made, &Rotation::identity()));
        let volume = volume.transpose().map_err(|e| ItemError::of(path(), e.into()))?;
        let voxel_labels = match (&entry.mask, frame, &volume) {
            (Some(mask), Some(frame), Some(volume)) => self.labels(mask, frame, volume)?,
            _ => vec![],
        };
        let direction = self.recipe.keeps_grids().then(|| direction(&entry.path)).transpose()?;
        let item = ItemData { volume, direction, voxel_labels, ..ItemData::default() };
        Ok(match made {
            _ if self.store == Store::Voxels => item,
            Prepared::Points(points) => ItemData { points: Some(points), ..item },
            Prepared::Mesh(mesh) => ItemData { mesh: Some(mesh), ..item },
            Prepared::Volume(_) => item,
        })
    }
}

impl FileRecipe {
    /// The labels of the voxels of a volume, D × H × W, from a mask: a map of whole numbers on the grid of the volume's file,
    /// from the same first voxel on. Where the volume was cropped, padded or interpolated its voxels get the labels of the nearest,
    /// and the first class where there are none.
    fn labels(
        &self,
        path: &Path,
        (grid, first): (Grid, [f64; 3]),
        volume: &Volume,
    ) -> Result<Vec<u8>, ItemError> {
        let at_path = |source| ItemError::Volume { path: path.to_owned(), source };
        let mask = match read(path, Nan::Refuse)? {
            FileContents::Volume(mask) if mask.channels() == 1 => mask,
            FileContents::Volume(mask) => {
                let found = format!("{} channels", mask.channels());
                return wrong_kind(path, "a mask of one channel", found);
            }
            other => return wrong_kind(path, "a mask, a map of whole numbers", name_of(&other)),
        };
        let is_label =
            |value: &f32| value.fract() == 0.0 && (0.0..self.voxel_classes as f32).contains(value);
        if let Some(wrong) = mask.data().iter().find(|value| !is_label(value)) {
            let expected = format!(
                "whole numbers from 0 to {}; name more classes with --voxel-classes",
                self.voxel_classes - 1
            );
            return wrong_kind(path, expected, wrong.to_string());
        }
        let (ours, size, origin) = (mask.grid(), grid.voxel_size(), mask.origin());
        let near = |axis: usize| {
            (ours.voxel_size()[axis] - size[axis]).abs() <= 1e-3 * size[axis]
                && (origin[axis] - first[axis]).abs() <= 0.5 * size[axis]
        };
        if ours.dims() != grid.dims() || !(0..3).all(near) {
            let of = |dims: [usize; 3], size: [f64; 3], first: [f64; 3]| {
                format!("{dims:?} (D, H, W) voxels of {size:?} from {first:?} on")
            };
            let expected = format!("the voxels of its volume, {}", of(grid.dims(), size, first));
            return wrong_kind(path, expected, of(ours.dims(), ours.voxel_size(), origin));
        }
        let (scalar, still) = (scalars(1).map_err(at_path)?, Affine3::identity());
        let (grid, origin, how) = (volume.grid(), volume.origin(), Interpolation::Nearest);
        let labels = resample_to(&mask, &scalar, grid, origin, &still, how).map_err(at_path)?;
        Ok(labels.data().iter().map(|&label| label as u8).collect())
    }
}

/// The items of a listing by a recipe, which the first file settles, or with `skip_broken` the
/// first that can be read. Splits that the listing lacks are drawn by `fractions` and the seed.
///
/// # Errors
/// If two records get the same identifier, no file can be read, or the recipe does not suit.
pub fn files(
    mut listing: Listing,
    recipe: &RecipeOptions,
    fractions: &Fractions,
    skip_broken: bool,
    options: &ImportOptions,
) -> Result<ItemSource, BuildError> {
    listing.expand_records()?;
    let notes = listing.settle_splits(fractions, options.seed);
    let Listing { place, class_names, entries, .. } = listing;
    let mut first = entries.iter().filter(|entry| entry.record.unwrap_or(1) == 1);
    let settled = first.find_map(|entry| match recipe.settled_by(&entry.path) {
        Err(_) if skip_broken => None,
        other => Some(other.map_err(BuildError::First)),
    });
    let settled = settled.transpose()?.ok_or_else(|| BuildError::Source {
        path: place.clone(),
        expected: "a file that can be read".to_owned(),
        found: format!("none of {}", entries.len()),
    })?;
    let absolute = place.canonicalize().ok();
    let stem = absolute.as_ref().and_then(|path| path.file_stem());
    let stem = stem.map(|stem| stem.to_string_lossy().into_owned());
    let name = options.name.clone().or(stem).unwrap_or_default();
    let provenance = options.provenance("build", name.clone(), None, notes);
    let meta = DatasetMeta::of_recipe(settled.clone(), &name, class_names, provenance);
    let meta = meta.map_err(BuildError::meta(&place))?;
    let tasks = masks(&entries, &settled, recipe)?;
    let options = serde_json::to_string(recipe).expect("plain data have a JSON form");
    let voxel_classes = recipe.voxel_classes.len();
    let maker = FileRecipe { voxel_classes, ..FileRecipe::new(settled, recipe.store) };
    let make = Box::new(move |_, entry: &_| maker.make(entry));
    Ok(ItemSource { meta, tasks, entries, options, make })
}

/// The task of labelling voxels, where the items have masks.
fn masks(
    entries: &[Entry],
    settled: &Recipe,
    recipe: &RecipeOptions,
) -> Result<Option<Tasks>, BuildError> {
    let classes = &recipe.voxel_classes;
    let has_masks = entries.iter().any(|entry| entry.mask.is_some());
    match (has_masks, classes.is_empty()) {
        (false, true) => Ok(None),
        (false, false) => wrong_option("voxel-classes", "a table with the column mask", "no masks"),
        (true, true) => {
            let expected = "names of the labels 0, 1, ... of the masks, the background first";
            wrong_option("voxel-classes", expected, "none")
        }
        _ if !matches!(settled, Recipe::Volumes { .. }) => {
            let found = format!("masks for {}", settled.subject());
            wrong_option("mask", "masks for maps, images or arrays", found)
        }
        _ => Ok(Some(Tasks { voxel_classes: classes.clone(), ..Tasks::default() })),
    }
}
