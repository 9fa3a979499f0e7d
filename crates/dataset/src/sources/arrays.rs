//! Arrays of volumes, labels and targets.

use std::path::Path;

use steer3d_formats::npz::{Npz, NpzError};
use steer3d_volume::volume::{Grid, Volume};

use crate::build::build;
use crate::meta::{DatasetMeta, Split, Storage, Tasks};
use crate::recipe::{Recipe, scalars};
use crate::source::{
    Archive, BuildError, Entry, ImportOptions, Importer, ItemData, ItemSource, Open, wrong_option,
};
use crate::sources::archive::{integers, labels, wrong};
use crate::split::tenths;

pub(crate) const IMPORTER: Importer = Importer { name: "arrays", open: Open::Archive(arrays) };

/// Reads an archive of `volumes` (N, D, H, W) or (N, C, D, H, W) of any number type and, if present, `labels` (N) of
/// integers from 0, `split` (N) of 0, 1, 2 (train, validation, test), `targets` (N) or (N, T) of numbers and
/// `voxel_labels` (N, D, H, W) of integers from 0 to 255. Without `labels` there is one class if there is one of the
/// last two, else the items have no classes.
///
/// Bytes and booleans are stored as bytes, other numbers as 32-bit floats. Without `split`, a
/// tenth of each class, drawn with the seed, is for validation and another for testing; items without classes are all for
/// testing.
///
/// # Errors
/// If the archive is damaged or of another layout, or an option does not suit it.
pub fn arrays(npz: &Path, options: &ImportOptions) -> Result<ItemSource, BuildError> {
    let mut archive = Npz::open(npz)?;
    let volumes = archive.read_shaped(
        "volumes",
        "shape (N, D, H, W) or (N, C, D, H, W) without zeros",
        |s| matches!(s.len(), 4 | 5) && !s.contains(&0),
    )?;
    let (items, channels, dims) = match *volumes.shape() {
        [n, c, d, h, w] => (n, c, [d, h, w]),
        [n, d, h, w] => (n, 1, [d, h, w]),
        _ => return Err(wrong(&archive, "volumes", "four or five axes", "others").into()),
    };
    if volumes.elements(0..0).to_f64().is_none() {
        return Err(wrong(&archive, "volumes", "numbers", "another dtype").into());
    }
    let mut tasks = Tasks::default();
    let targets = targets(&mut archive, items, options, &mut tasks)?;
    let voxel_labels = voxel_labels(&mut archive, items, dims, &mut tasks)?;
    let tasks = Some(tasks).filter(|tasks| *tasks != Tasks::default());
    let (labels, classes) = match &tasks {
        Some(_) if !archive.has("labels") => (vec![0; items], 1),
        None if !archive.has("labels") => (vec![0; items], 0),
        _ => {
            let labels = labels(&mut archive, "labels", items)?;
            let classes = 1 + labels.iter().max().copied().unwrap_or(0);
            (labels, classes)
        }
    };
    let (splits, notes) = match classes {
        0 if !archive.has("split") => {
            (vec![Split::Test; items], "all items in the test split".to_owned())
        }
        _ => splits(&mut archive, &labels, options.seed)?,
    };
    let grid = Grid::new(dims, options.voxel_size.unwrap_or([1.0; 3]));
    let grid = grid.map_err(BuildError::meta(npz))?;
    let mut meta = DatasetMeta::scalars(channels, &grid).map_err(BuildError::meta(npz))?;
    meta.irreps = options.irreps.clone().unwrap_or(meta.irreps);
    meta.recipe = Some(Recipe::of_arrays(meta.irreps.clone(), &grid, 1.0));
    if volumes.is_bytes() {
        meta.storage = Storage::U8 { scale: 1.0 };
    }
    let entry = |(i, (label, split))| Entry {
        id: format!("item_{i:06}"),
        label,
        split,
        ..Entry::default()
    };
    let len = meta.item_len();
    let each_targets = tasks.as_ref().map_or(0, Tasks::target_len);
    let labelled = tasks.as_ref().is_some_and(|tasks| !tasks.voxel_classes.is_empty());
    let each_voxels = if labelled { grid.voxels() } else { 0 };
    let archive = Archive {
        importer: "arrays",
        path: npz,
        is_file: true,
        class_names: (0..classes).map(|class| class.to_string()).collect(),
        unit: "voxel",
        notes,
        volumes: meta,
        tasks,
        entries: labels.into_iter().zip(splits).enumerate().map(entry).collect(),
    };
    options.source_of(archive, move |item| {
        let row = |len: usize| item * len..(item + 1) * len;
        let values = volumes.elements(row(len)).to_f64().unwrap_or_default();
        let values = values.into_iter().map(|value| value as f32).collect();
        Ok(ItemData {
            volume: Some(Volume::centred(values, channels, grid)?),
            targets: targets[row(each_targets)].to_vec(),
            voxel_labels: voxel_labels[row(each_voxels)].to_vec(),
            ..ItemData::default()
        })
    })
}

/// Builds the dataset `out` of the archive that [`arrays`] reads.
///
/// # Errors
/// As [`arrays`] and [`build`].
pub fn import_arrays(npz: &Path, out: &Path, options: &ImportOptions) -> Result<(), BuildError> {
    build(&arrays(npz, options)?, out, false, &|_| {}).map(|_| ())
}

/// The target values of all items, if the archive has some, and their irreps in `tasks`.
fn targets(
    npz: &mut Npz,
    items: usize,
    options: &ImportOptions,
    tasks: &mut Tasks,
) -> Result<Vec<f64>, BuildError> {
    if !npz.has("targets") {
        return Ok(vec![]);
    }
    let expected = format!("shape ({items}) or ({items}, T)");
    let fits = |s: &[usize]| s.len() <= 2 && s.first() == Some(&items) && !s.contains(&0);
    let array = npz.read_shaped("targets", &expected, fits)?;
    let width = array.shape().get(1).copied().unwrap_or(1);
    let irreps = options.target_irreps.clone().map_or_else(|| scalars(width), Ok);
    let irreps = irreps.map_err(BuildError::meta(npz.path()))?;
    if irreps.dim() != width {
        return wrong_option(
            "irreps of the targets",
            format!("{width} channels"),
            format!("{irreps}, which has {}", irreps.dim()),
        );
    }
    tasks.targets = Some(irreps);
    tasks.target_names = options.target_names.clone().unwrap_or_default();
    tasks.target_units = options.target_units.clone().unwrap_or_default();
    if let Some((option, expected, found)) = tasks.fault() {
        return wrong_option(option, expected, found);
    }
    Ok(array.to_f64().ok_or_else(|| wrong(npz, "targets", "numbers", "others"))?)
}

/// The labels of the voxels of all items, if the archive has some, and their classes in `tasks`.
fn voxel_labels(
    npz: &mut Npz,
    items: usize,
    [d, h, w]: [usize; 3],
    tasks: &mut Tasks,
) -> Result<Vec<u8>, NpzError> {
    if !npz.has("voxel_labels") {
        return Ok(vec![]);
    }
    let expected = format!("shape ({items}, {d}, {h}, {w})");
    let array = npz.read_shaped("voxel_labels", &expected, |s| s == [items, d, h, w])?;
    let bytes = array.to_i64().map(|v| v.into_iter().map(u8::try_from).collect());
    let Some(Ok(labels)) = bytes else {
        return Err(wrong(npz, "voxel_labels", "integers from 0 to 255", "others"));
    };
    let labels: Vec<u8> = labels;
    let classes = 1 + usize::from(labels.iter().max().copied().unwrap_or(0));
    tasks.voxel_classes = (0..classes).map(|i| i.to_string()).collect();
    Ok(labels)
}

/// The split of every item, and how it came about.
fn splits(npz: &mut Npz, labels: &[u32], seed: u64) -> Result<(Vec<Split>, String), NpzError> {
    if !npz.has("split") {
        let notes = format!(
            "the file has no splits: a tenth of each class (seed {seed}) is for validation and \
             another for testing"
        );
        return Ok((tenths(labels, seed), notes));
    }
    let values = integers(npz, "split", labels.len(), |split| (0..3).contains(&split))?;
    let splits = values.into_iter().map(|split| Split::ALL[split as usize]).collect();
    Ok((splits, "splits as in the file".to_owned()))
}
