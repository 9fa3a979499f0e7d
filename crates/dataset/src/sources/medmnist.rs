//! The three-dimensional sets of MedMNIST.

use std::path::Path;

use steer3d_formats::npz::{Npz, NpzError};
use steer3d_volume::volume::{Grid, Volume};

use crate::build::build;
use crate::meta::{DatasetMeta, Split, Storage};
use crate::recipe::Recipe;
use crate::source::{
    Archive, BuildError, Entry, ImportOptions, Importer, ItemData, ItemSource, Open,
};
use crate::sources::archive::{labels, wrong};
use crate::split::tenth_for_validation;

pub(crate) const IMPORTER: Importer = Importer { name: "medmnist", open: Open::Archive(medmnist) };

/// Value of byte 1.
const SCALE: f64 = 1.0 / 255.0;

/// Reads a 3D archive of MedMNIST: `train_images` (N, D, H, W) of bytes and `train_labels` (N, 1), the
/// same for `val_` and, if present, `test_`. Values are divided by 255.
///
/// Without a test part, the validation part becomes the test split, and a tenth of each class of
/// the training part, drawn with the seed, becomes the validation split; the provenance says so.
///
/// # Errors
/// If the archive is damaged or of another layout, or an option does not suit it.
pub fn medmnist(npz: &Path, options: &ImportOptions) -> Result<ItemSource, BuildError> {
    let mut archive = Npz::open(npz)?;
    let mut parts = vec![Part::read(&mut archive, "train")?, Part::read(&mut archive, "val")?];
    if archive.has("test_images") {
        parts.push(Part::read(&mut archive, "test")?);
    }
    let dims = parts[0].dims;
    if let Some(part) = parts.iter().find(|part| part.dims != dims) {
        let (key, found) = (format!("{}_images", part.name), format!("{:?}", part.dims));
        return Err(wrong(&archive, &key, &format!("volumes of {dims:?}"), &found).into());
    }
    let classes = 1 + parts.iter().flat_map(|part| &part.labels).max().copied().unwrap_or(0);
    let (splits, notes) = splits(&parts, options.seed);
    let grid = Grid::new(dims, options.voxel_size.unwrap_or([1.0; 3]));
    let grid = grid.map_err(BuildError::meta(npz))?;
    let entries = parts.iter().zip(splits).flat_map(|(part, splits)| {
        splits.into_iter().enumerate().map(|(i, split)| Entry {
            id: format!("{}_{i:05}", part.name),
            label: part.labels[i],
            split,
            ..Entry::default()
        })
    });
    let meta = DatasetMeta::scalars(1, &grid).map_err(BuildError::meta(npz))?;
    let archive = Archive {
        importer: "medmnist",
        path: npz,
        is_file: true,
        class_names: (0..classes).map(|class| class.to_string()).collect(),
        unit: "voxel",
        notes,
        volumes: DatasetMeta {
            storage: Storage::U8 { scale: SCALE },
            recipe: Some(Recipe::of_arrays(meta.irreps.clone(), &grid, SCALE)),
            ..meta
        },
        tasks: None,
        entries: entries.collect(),
    };
    let bytes: Vec<u8> = parts.iter().flat_map(|part| &part.bytes).copied().collect();
    options.source_of(archive, move |item| {
        let values = bytes[item * grid.voxels()..][..grid.voxels()].iter();
        let values = values.map(|&byte| (f64::from(byte) * SCALE) as f32).collect();
        Ok(ItemData { volume: Some(Volume::centred(values, 1, grid)?), ..ItemData::default() })
    })
}

/// Builds the dataset `out` of the archive that [`medmnist`] reads.
///
/// # Errors
/// As [`medmnist`] and [`build`].
pub fn import_medmnist(npz: &Path, out: &Path, options: &ImportOptions) -> Result<(), BuildError> {
    build(&medmnist(npz, options)?, out, false, &|_| {}).map(|_| ())
}

/// One part of an archive.
struct Part {
    name: &'static str,
    dims: [usize; 3],
    bytes: Vec<u8>,
    labels: Vec<u32>,
}

impl Part {
    fn read(npz: &mut Npz, name: &'static str) -> Result<Self, NpzError> {
        let key = format!("{name}_images");
        let images = npz.read_shaped(&key, "shape (N, D, H, W) without zeros", |s| {
            s.len() == 4 && !s.contains(&0)
        })?;
        let Some(bytes) = images.bytes() else {
            return Err(wrong(npz, &key, "bytes", "another dtype"));
        };
        let shape = images.shape();
        let labels = labels(npz, &format!("{name}_labels"), shape[0])?;
        let dims = [shape[1], shape[2], shape[3]];
        Ok(Self { name, dims, bytes: bytes.to_vec(), labels })
    }
}

/// The split of every item of every part, and how it came about.
fn splits(parts: &[Part], seed: u64) -> (Vec<Vec<Split>>, String) {
    let constant = |part: &Part, split| vec![split; part.labels.len()];
    if parts.len() == Split::ALL.len() {
        let splits = parts.iter().zip(Split::ALL).map(|(part, split)| constant(part, split));
        return (splits.collect(), "splits as in the file".to_owned());
    }
    let train = tenth_for_validation(&parts[0].labels, seed);
    let notes = format!(
        "the file has no test part: its validation part is the test split here, and a tenth of \
         each class of its training part (seed {seed}) is the validation split"
    );
    (vec![train, constant(&parts[1], Split::Test)], notes)
}
