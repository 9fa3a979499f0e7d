use std::collections::{HashMap, HashSet};
use std::io::BufRead;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use steer3d_dataset::{
    BuildError, Dataset, Entry, IMPORTERS, ImportOptions, ItemSource, Listing, Recipe, is_hdf5,
};
use steer3d_files::FileError;
use steer3d_files::digest::sha256_of;
use steer3d_formats::npz::Npz;
use steer3d_formats::{Format, companion, length_unit};

use crate::error::PredictError;
use crate::maps::MapFormat;
use crate::model::Model;

/// Something to answer for.
#[derive(Clone)]
pub struct Input {
    /// Its path, or its name in a dataset or an archive.
    pub name: String,
    pub(crate) origin: Origin,
    /// Stem and format of the map of its voxels.
    pub(crate) map: (String, MapFormat),
}

impl Input {
    pub(crate) fn new(name: String, origin: Origin) -> Self {
        Self { name, origin, map: (String::new(), MapFormat::Mrc) }
    }
}

/// Where it is.
#[derive(Clone)]
pub(crate) enum Origin {
    /// A file, or a record of it.
    File(Entry),
    /// An item of a dataset.
    Dataset(Arc<Dataset>, usize),
    /// An item of an archive.
    Archive(Arc<ItemSource>, usize),
}

/// The items of all that a user names.
#[derive(Clone, Default)]
pub struct Inputs {
    /// The items in order.
    pub items: Vec<Input>,
    /// Files of folders that are of no known format.
    pub ignored: Vec<PathBuf>,
    /// What tells datasets and archives from others, for the identity of a run.
    pub(crate) digests: Vec<String>,
}

impl Inputs {
    /// The items of files, folders (with all their folders), lists (`@LIST`, or `-` for standard input, a path a line),
    /// tables (`.csv`, with a column `path`), datasets (HDF5), and archives of NumPy in a layout of
    /// `steer3d dataset import`, in the order of the names. No file that is not a dataset or an archive is read but
    /// those of several records.
    ///
    /// # Errors
    /// If a folder, list, table, dataset or archive cannot be read, an item comes twice, or `model` is not for a dataset
    /// or an archive. A file that cannot be read is an item all the same.
    pub fn of(
        names: &[String],
        standard_input: impl FnOnce() -> Box<dyn BufRead>,
        model: &Model,
    ) -> Result<Self, PredictError> {
        let mut inputs = Self::default();
        let mut standard_input = Some(standard_input);
        // Files that follow one another are one listing, so that one that comes twice is found.
        let mut files: Vec<PathBuf> = vec![];
        for name in names {
            let path = Path::new(name);
            let special = name == "-" || name.starts_with('@') || has_extension(path, "csv");
            let kept = if special || path.is_dir() { None } else { inputs.whole(path, model)? };
            match kept {
                Some(items) => {
                    inputs.add_files(&std::mem::take(&mut files))?;
                    inputs.items.extend(items);
                }
                None if special => {
                    inputs.add_files(&std::mem::take(&mut files))?;
                    let listing = match name.strip_prefix('@') {
                        Some(list) => Listing::of_list(Path::new(list))?,
                        None if name == "-" => {
                            let Some(lines) = standard_input.take() else { continue };
                            Listing::of_lines(path, lines())?
                        }
                        None => Listing::of_table(path)?,
                    };
                    inputs.add(listing)?;
                }
                None => files.push(path.to_owned()),
            }
        }
        inputs.add_files(&files)?;
        name_maps(&mut inputs.items, None);
        Ok(inputs)
    }

    /// The same, whose maps of voxels are all of one format. Else each is of the format of its file, or of that which the
    /// name of an item ends in; where that is none for maps, MRC, or HDF5 for the items of a dataset.
    #[must_use]
    pub fn with_map_format(mut self, format: MapFormat) -> Self {
        name_maps(&mut self.items, Some(format));
        self
    }

    fn add_files(&mut self, files: &[PathBuf]) -> Result<(), PredictError> {
        if files.is_empty() {
            return Ok(());
        }
        let mut listing = listed(files)?;
        // A folder alone gives paths below it; here they are as the user can open them.
        for entry in &mut listing.entries {
            if let Some(path) = entry.path.to_str() {
                entry.source = path.to_owned();
            }
        }
        self.add(listing)
    }

    fn add(&mut self, mut listing: Listing) -> Result<(), PredictError> {
        listing.expand_records()?;
        self.ignored.append(&mut listing.ignored);
        let input = |entry: Entry| Input::new(entry.source.clone(), Origin::File(entry));
        self.items.extend(listing.entries.into_iter().map(input));
        Ok(())
    }

    /// The items of a dataset or an archive; none if the file is neither.
    fn whole(&mut self, path: &Path, model: &Model) -> Result<Option<Vec<Input>>, PredictError> {
        let fits = |problem: Result<(), String>| {
            problem.map_err(|problem| PredictError::Input {
                input: path.display().to_string(),
                problem,
            })
        };
        if is_hdf5(path) {
            let dataset = Arc::new(Dataset::open(path)?);
            fits(model.check_volumes(dataset.meta()))?;
            self.digests.push(dataset.digest()?);
            let input = |(item, id): (usize, &String)| {
                Input::new(id.clone(), Origin::Dataset(dataset.clone(), item))
            };
            return Ok(Some(dataset.ids().iter().enumerate().map(input).collect()));
        }
        let Some(layout) = layout(path) else { return Ok(None) };
        let source = Arc::new(archive(path, layout, model)?);
        fits(model.check_volumes(&source.meta))?;
        self.digests.push(source.meta.provenance.sha256.clone().unwrap_or_default());
        let input = |(item, entry): (usize, &Entry)| {
            Input::new(entry.id.clone(), Origin::Archive(source.clone(), item))
        };
        Ok(Some(source.entries.iter().enumerate().map(input).collect()))
    }
}

/// The files of files and folders, no file of which may be named twice.
fn listed(files: &[PathBuf]) -> Result<Listing, PredictError> {
    let fault = |path: &Path, problem: String| {
        Err(PredictError::Input { input: path.display().to_string(), problem })
    };
    let mut seen = HashSet::new();
    if let Some(file) = files.iter().find(|file| !seen.insert(*file)) {
        return fault(file, "is named twice; name it once".to_owned());
    }
    match Listing::of_files(&files[0], files) {
        Err(BuildError::Source { path, expected, found }) if found == "none" => {
            let formats = Format::ALL.map(|format| format.to_string()).join(", ");
            let problem = format!(
                "expected {expected}, found none; known are {formats}, plain or as .gz or .bz2"
            );
            fault(&path, problem)
        }
        listing => Ok(listing?),
    }
}

fn has_extension(path: &Path, extension: &str) -> bool {
    path.extension().is_some_and(|e| e.eq_ignore_ascii_case(extension))
}

/// The layout of `steer3d dataset import` of an archive of NumPy; none if it is another file.
fn layout(path: &Path) -> Option<&'static str> {
    if !has_extension(path, "npz") {
        return None;
    }
    let archive = Npz::open(path).ok()?;
    let layouts = [
        ("positions", "cath"),
        ("train_images", "medmnist"),
        ("volumes", "arrays"),
        ("xyz_centi_angstrom", "backbone"),
    ];
    layouts.into_iter().find(|(key, _)| archive.has(key)).map(|(_, layout)| layout)
}

/// The items of an archive, on the grid of the model.
fn archive(path: &Path, layout: &str, model: &Model) -> Result<ItemSource, BuildError> {
    let card = model.card();
    let mut options = ImportOptions {
        voxel_size: Some(card.voxel_size),
        unit: Some(card.unit.clone()),
        irreps: card.meaning.irreps.clone(),
        ..ImportOptions::default()
    };
    if let Some(Recipe::Molecules { voxeliser, .. }) = &model.recipe {
        options.size = Some(voxeliser.size);
        options.sigma = Some(voxeliser.sigma);
        options.channels = Some(voxeliser.channels);
    }
    let importer = IMPORTERS.into_iter().find(|importer| importer.name == layout);
    importer.expect("a layout of the table above").open(Some(path), &options)
}

/// The file of an input that is one, or a record of one.
pub(crate) fn file_of(input: &Input) -> Option<&Path> {
    match &input.origin {
        Origin::File(entry) => Some(&entry.path),
        Origin::Dataset(..) | Origin::Archive(..) => None,
    }
}

/// The SHA-256 of a file, and of the other one of its pair.
pub(crate) fn digest_of(path: &Path) -> Result<String, FileError> {
    let digest = sha256_of(path)?;
    Ok(match companion(path) {
        Some(other) => digest + &sha256_of(&other)?,
        None => digest,
    })
}

/// The unit of the edges of the voxels of an input, if it says it.
pub(crate) fn unit_of(input: &Input) -> Option<&str> {
    match &input.origin {
        Origin::File(entry) => length_unit(&entry.path).ok().flatten(),
        Origin::Dataset(dataset, _) => Some(&dataset.meta().unit),
        Origin::Archive(source, _) => Some(&source.meta.unit),
    }
}

/// Gives each input a name for its map that no other has: that of its file or item, or where others have the same, its
/// path with `_` between the parts.
fn name_maps(items: &mut [Input], format: Option<MapFormat>) {
    let named = |input: &Input, name: &str| {
        let (stem, known) = parts(name);
        let otherwise = match input.origin {
            Origin::Dataset(..) => MapFormat::Hdf5,
            Origin::File(_) | Origin::Archive(..) => MapFormat::Mrc,
        };
        (stem, format.or(known).unwrap_or(otherwise))
    };
    let short = |input: &Input| {
        let file = file_of(input);
        let name = file.and_then(Path::file_name).map(|name| name.to_string_lossy().into_owned());
        named(input, name.as_deref().unwrap_or(&input.name))
    };
    let mut counts = HashMap::<_, usize>::new();
    items.iter().for_each(|input| *counts.entry(short(input)).or_default() += 1);
    let mut taken = HashSet::new();
    for input in items {
        let name = short(input);
        let (stem, format) = if counts[&name] == 1 {
            name
        } else {
            named(input, input.name.trim_start_matches(['.', '/']))
        };
        let mut map = (stem.clone(), format);
        for number in 2.. {
            if taken.insert(map.clone()) {
                break;
            }
            map.0 = format!("{stem}_{number}");
        }
        input.map = map;
    }
}

/// The stem of the map of an input of this name, and its format if the name tells it.
fn parts(name: &str) -> (String, Option<MapFormat>) {
    const KNOWN: [(&str, MapFormat); 10] = [
        (".nii.gz", MapFormat::PackedNifti),
        (".nii", MapFormat::Nifti),
        (".hdr", MapFormat::Nifti),
        (".img", MapFormat::Nifti),
        (".npy", MapFormat::Npy),
        (".mrc", MapFormat::Mrc),
        (".map", MapFormat::Mrc),
        (".ccp4", MapFormat::Mrc),
        (".h5", MapFormat::Hdf5),
        (".hdf5", MapFormat::Hdf5),
    ];
    let lower = name.to_ascii_lowercase();
    let bare = lower.len()
        - [".gz", ".bz2"].iter().find_map(|p| lower.ends_with(p).then_some(p.len())).unwrap_or(0);
    let ends = |(ending, _): &(&str, MapFormat)| {
        lower.ends_with(ending) || lower[..bare].ends_with(ending)
    };
    let found = KNOWN.into_iter().find(ends);
    let ending = found.map_or("", |(ending, _)| ending);
    let end = if lower.ends_with(ending) { lower.len() } else { bare } - ending.len();
    let plain = |c: char| if c.is_alphanumeric() || "-_.".contains(c) { c } else { '_' };
    (name[..end].chars().map(plain).collect(), found.map(|(_, format)| format))
}

#[cfg(test)]
mod tests {
    use steer3d_dataset::Entry;

    use super::*;

    #[test]
    fn no_two_inputs_have_the_same_map() {
        let input = |name: &str| {
            let entry = Entry { path: name.into(), source: name.into(), ..Entry::default() };
            Input::new(name.to_owned(), Origin::File(entry))
        };
        let names =
            ["a/ct.nii.gz", "b/ct.nii.gz", "b_ct.nii.gz", "c/map.MRC.gz", "x.hdr", "y z.npy"];
        let mut items = names.map(input);
        let paths = |items: &[Input]| -> Vec<String> {
            let path = |input: &Input| format!("{}.{}", input.map.0, input.map.1.extension());
            items.iter().map(path).collect()
        };
        name_maps(&mut items, None);
        let expected =
            ["a_ct.nii.gz", "b_ct.nii.gz", "b_ct_2.nii.gz", "map.mrc", "x.nii", "y_z.npy"];
        assert_eq!(paths(&items), expected);
        // What differs by its format alone, too.
        let mut items = ["a/x.nii", "a/x.mrc", "ligand.sdf", "y.hdf5"].map(input);
        name_maps(&mut items, None);
        assert_eq!(paths(&items), ["x.nii", "x.mrc", "ligand.sdf.mrc", "y.h5"]);
        name_maps(&mut items, Some(MapFormat::Hdf5));
        assert_eq!(paths(&items), ["a_x.h5", "a_x_2.h5", "ligand.sdf.h5", "y.h5"]);
    }
}
