//! Importers: files of other projects, and generated shapes, to HDF5 datasets.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use sha2::{Digest, Sha256};
use steer3d_so3::{Irreps, Rotation, Stream, random_rotations};

use crate::dataset::{
    DatasetError, DatasetMeta, DatasetWriter, Item, Provenance, Split, Storage, Tasks,
};
use steer3d_files::hex;
use steer3d_formats::npz::{NpyArray, Npz, NpzError};
use steer3d_volume::points::{PointCloud, Voxeliser};
use steer3d_volume::volume::{Grid, Volume, VolumeError, checked_len};

/// Items voxelised at a time.
const BATCH: usize = 64;

/// Largest number of classes that an importer makes.
const MAX_CLASSES: usize = 1 << 16;

/// A source that cannot be imported.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImportError {
    /// The source archive cannot be read.
    #[error(transparent)]
    Npz(#[from] NpzError),
    /// The dataset cannot be written.
    #[error(transparent)]
    Dataset(#[from] DatasetError),
    /// The source file cannot be read.
    #[error("{path}: {source}; check the path and its permissions", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// An item of the source is not valid.
    #[error("{source_name}: item {item}: {source}")]
    Item {
        /// The file, or the name of the generated shapes.
        source_name: String,
        /// Index of the item.
        item: usize,
        /// What is wrong.
        source: VolumeError,
    },
    /// An option does not suit the source.
    #[error("{option}: expected {expected}, found {found}")]
    Option {
        /// The option.
        option: &'static str,
        /// What suits.
        expected: String,
        /// What was given.
        found: String,
    },
}

/// What the source file does not say. `None` means the default of the importer.
#[derive(Clone, Debug, Default)]
pub struct ImportOptions {
    /// Name of the dataset; default: the stem of the file name.
    pub name: Option<String>,
    /// Source and credit; default: the file name.
    pub source: Option<String>,
    /// Licence of the data; default: `unstated`.
    pub licence: Option<String>,
    /// Names of the classes, one for each label.
    pub class_names: Option<Vec<String>>,
    /// Edges of a voxel along x, y, z; default: 1, 1, 1 (arrays only).
    pub voxel_size: Option<[f64; 3]>,
    /// Unit of the voxel size; default: `voxel` for arrays, `angstrom` for CATH.
    pub unit: Option<String>,
    /// Irreps of the channels; default: scalars (arrays only).
    pub irreps: Option<Irreps>,
    /// Irreps of the target values of items; default: scalars (arrays only).
    pub target_irreps: Option<Irreps>,
    /// The command line, for the record.
    pub command: Option<String>,
    /// Seed of everything drawn at random.
    pub seed: u64,
}

impl ImportOptions {
    fn provenance(
        &self,
        importer: &str,
        source: Option<&Path>,
        notes: String,
    ) -> Result<Provenance, ImportError> {
        Ok(Provenance {
            source: self.source.clone().unwrap_or_else(|| source_name(source)),
            licence: self.licence.clone().unwrap_or_else(|| "unstated".to_owned()),
            sha256: source.map(sha256_of).transpose()?,
            importer: importer.to_owned(),
            command: self.command.clone().unwrap_or_default(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            notes,
        })
    }

    fn name(&self, source: &Path) -> String {
        let stem = || source.file_stem().map_or_else(String::new, |s| s.to_string_lossy().into());
        self.name.clone().unwrap_or_else(stem)
    }

    /// The given class names, which must be `count`, or the default ones.
    fn class_names(
        &self,
        count: usize,
        default: impl Fn(usize) -> String,
    ) -> Result<Vec<String>, ImportError> {
        match &self.class_names {
            None => Ok((0..count).map(default).collect()),
            Some(names) if names.len() == count => Ok(names.clone()),
            Some(names) => Err(ImportError::Option {
                option: "class names",
                expected: format!("{count} names, one for each label"),
                found: names.len().to_string(),
            }),
        }
    }
}

fn source_name(source: Option<&Path>) -> String {
    let name = source.and_then(Path::file_name);
    name.map_or_else(|| "generated".to_owned(), |name| name.to_string_lossy().into_owned())
}

fn sha256_of(path: &Path) -> Result<String, ImportError> {
    let io = |source| ImportError::Io { path: path.to_owned(), source };
    let mut file = File::open(path).map_err(io)?;
    let (mut hasher, mut buffer) = (Sha256::new(), vec![0; 1 << 16]);
    loop {
        match file.read(&mut buffer).map_err(io)? {
            0 => break,
            len => hasher.update(&buffer[..len]),
        }
    }
    Ok(hex(&hasher.finalize()))
}

/// Imports protein domains in the layout of the cath_datasets repository: `positions` (N, max, 3),
/// `n_atoms` (N), `atom_types` (N, max), `labels` (N, 1) or (N, 2), `split_start_indices` (10) and,
/// if present, `domain_ids` (N).
///
/// Each atom type is a channel, in the order of their names. Splits 0 to 6 are for training, 7 for
/// validation, 8 and 9 for testing (Weiler et al. 2018). Classes are CATH classes such as
/// `1 mainly alpha`, or architectures such as `2.40 beta barrel`. The points are stored beside the
/// volumes.
///
/// # Errors
/// If the archive is damaged or of another layout, the voxeliser has not one channel for each atom
/// type, or the dataset cannot be written.
pub fn import_cath(
    npz: &Path,
    out: &Path,
    voxeliser: &Voxeliser,
    options: &ImportOptions,
) -> Result<(), ImportError> {
    let source = Cath::read(npz)?;
    if source.atom_names.len() != voxeliser.channels {
        return Err(ImportError::Option {
            option: "channels of the voxeliser",
            expected: format!("one for each atom type ({})", source.atom_names.join(", ")),
            found: voxeliser.channels.to_string(),
        });
    }
    let class_names =
        options.class_names(source.classes.len(), |i| cath_class_name(&source.classes[i]))?;
    let half = voxeliser.size as f64 * voxeliser.voxel_size / 2.0;
    let outside = |cloud: &PointCloud| {
        cloud.positions().iter().filter(|p| p.iter().any(|x| x.abs() > half)).count()
    };
    let notes = format!(
        "channels are the atom types {}; splits 0-6 train, 7 validation, 8-9 test; \
         {} of {} points lie outside the grid",
        source.atom_names.join(", "),
        source.clouds.iter().map(outside).sum::<usize>(),
        source.clouds.iter().map(PointCloud::len).sum::<usize>(),
    );
    let meta = DatasetMeta {
        name: options.name(npz),
        class_names,
        channels: voxeliser.channels,
        dims: [voxeliser.size; 3],
        voxel_size: [voxeliser.voxel_size; 3],
        unit: options.unit.clone().unwrap_or_else(|| "angstrom".to_owned()),
        irreps: scalars(voxeliser.channels)?,
        storage: Storage::F32,
        provenance: options.provenance("cath", Some(npz), notes)?,
        voxeliser: Some(*voxeliser),
        mesh_voxeliser: None,
    };
    let mut writer = DatasetWriter::create(out, meta)?;
    let items: Vec<_> = (0..source.clouds.len())
        .map(|i| PointItem {
            cloud: &source.clouds[i],
            rotation: Rotation::identity(),
            label: source.labels[i],
            split: source.splits[i],
            id: source.ids[i].clone(),
        })
        .collect();
    push_points(&mut writer, voxeliser, &items, &npz.display().to_string())?;
    Ok(writer.finish()?)
}

/// A point cloud to be rotated, voxelised and written; the stored points are the rotated ones.
struct PointItem<'a> {
    cloud: &'a PointCloud,
    rotation: Rotation,
    label: u32,
    split: Split,
    id: String,
}

fn push_points(
    writer: &mut DatasetWriter,
    voxeliser: &Voxeliser,
    items: &[PointItem<'_>],
    source_name: &str,
) -> Result<(), ImportError> {
    for (batch, items) in items.chunks(BATCH).enumerate() {
        let made: Vec<_> = items
            .par_iter()
            .map(|item| {
                let cloud = item.cloud.rotated(&item.rotation);
                voxeliser.voxelise(&cloud, &Rotation::identity()).map(|volume| (cloud, volume))
            })
            .collect();
        for (i, (item, made)) in items.iter().zip(made).enumerate() {
            let (cloud, volume) = made.map_err(|source| ImportError::Item {
                source_name: source_name.to_owned(),
                item: batch * BATCH + i,
                source,
            })?;
            writer.push(&Item {
                volume: Some(&volume),
                label: item.label,
                split: item.split,
                id: &item.id,
                points: Some(&cloud),
                ..Item::default()
            })?;
        }
    }
    Ok(())
}

fn scalars(channels: usize) -> Result<Irreps, ImportError> {
    format!("{channels}x0").parse().map_err(|_| ImportError::Option {
        option: "channels",
        expected: "a number of channels that irreps can have".to_owned(),
        found: channels.to_string(),
    })
}

/// Name of a CATH class or of one of the ten architectures of Weiler et al. 2018; else the number.
fn cath_class_name(levels: &[i64]) -> String {
    let name = match levels {
        [1] => "mainly alpha",
        [2] => "mainly beta",
        [3] => "alpha beta",
        [4] => "few secondary structures",
        [1, 10] => "orthogonal bundle",
        [1, 20] => "up-down bundle",
        [2, 30] | [3, 10] => "roll",
        [2, 40] => "beta barrel",
        [2, 60] => "sandwich",
        [3, 20] => "alpha-beta barrel",
        [3, 30] => "2-layer sandwich",
        [3, 40] => "3-layer (aba) sandwich",
        [3, 90] => "alpha-beta complex",
        _ => "",
    };
    let number = levels.iter().map(i64::to_string).collect::<Vec<_>>().join(".");
    format!("{number} {name}").trim_end().to_owned()
}

/// The contents of a CATH archive.
struct Cath {
    clouds: Vec<PointCloud>,
    atom_names: Vec<String>,
    labels: Vec<u32>,
    classes: Vec<Vec<i64>>,
    splits: Vec<Split>,
    ids: Vec<String>,
}

impl Cath {
    fn read(path: &Path) -> Result<Self, ImportError> {
        let mut npz = Npz::open(path)?;
        let positions = npz.read_shaped("positions", "shape (N, max, 3)", |s| {
            matches!(s, [_, _, 3]) && !s.contains(&0)
        })?;
        let (items, max) = (positions.shape()[0], positions.shape()[1]);
        let n_atoms = integers(&mut npz, "n_atoms", items, |n| (1..=max as i64).contains(&n))?;
        let types = npz.read_shaped("atom_types", "shape (N, max)", |s| s == [items, max])?;
        let Some(types) = types.to_strings() else {
            return Err(wrong(&npz, "atom_types", "byte strings", "another dtype"));
        };
        let labels = npz.read_shaped(
            "labels",
            "shape (N, 1) or (N, 2)",
            |s| matches!(s, [n, 1 | 2] if *n == items),
        )?;
        let levels = labels.shape()[1];
        let Some(labels) = labels.to_i64() else {
            return Err(wrong(&npz, "labels", "integers", "another dtype"));
        };
        let splits = cath_splits(&mut npz, items)?;
        let ids = cath_ids(&mut npz, items)?;

        let atoms = |i: usize| i * max..i * max + n_atoms[i] as usize;
        let used = (0..items).flat_map(|i| &types[atoms(i)]);
        let atom_names: Vec<String> = used.collect::<BTreeSet<_>>().into_iter().cloned().collect();
        if atom_names.len() > usize::from(u16::MAX) {
            let found = format!("{} types", atom_names.len());
            return Err(wrong(&npz, "atom_types", "at most 65535 types", &found));
        }
        let clouds = (0..items)
            .map(|i| {
                let rows = atoms(i);
                let values = positions.elements(rows.start * 3..rows.end * 3).to_f64();
                let Some(coordinates) = values else {
                    return Err(wrong(&npz, "positions", "numbers", "another dtype"));
                };
                let channel =
                    |name: &String| atom_names.binary_search(name).unwrap_or_default() as u16;
                let channels = types[rows].iter().map(channel).collect();
                PointCloud::new(coordinates.as_chunks().0.to_vec(), channels).map_err(|source| {
                    let source_name = path.display().to_string();
                    ImportError::Item { source_name, item: i, source }
                })
            })
            .collect::<Result<_, _>>()?;
        let rows: Vec<&[i64]> = labels.chunks(levels).collect();
        let classes: Vec<&[i64]> =
            rows.iter().copied().collect::<BTreeSet<_>>().into_iter().collect();
        let label = |row: &&[i64]| classes.binary_search(row).unwrap_or_default() as u32;
        Ok(Self {
            clouds,
            atom_names,
            labels: rows.iter().map(label).collect(),
            classes: classes.iter().map(|class| class.to_vec()).collect(),
            splits,
            ids,
        })
    }
}

fn cath_splits(npz: &mut Npz, items: usize) -> Result<Vec<Split>, ImportError> {
    let key = "split_start_indices";
    let starts = integers(npz, key, 10, |start| (0..items as i64).contains(&start))?;
    if starts[0] != 0 || starts.windows(2).any(|pair| pair[0] >= pair[1]) {
        return Err(wrong(npz, key, "numbers that rise from 0", &format!("{starts:?}")));
    }
    Ok((0..items as i64)
        .map(|i| match starts.partition_point(|&start| start <= i) - 1 {
            0..=6 => Split::Train,
            7 => Split::Validation,
            _ => Split::Test,
        })
        .collect())
}

fn cath_ids(npz: &mut Npz, items: usize) -> Result<Vec<String>, ImportError> {
    if !npz.has("domain_ids") {
        return Ok((0..items).map(|i| format!("domain_{i}")).collect());
    }
    let ids = npz.read_shaped("domain_ids", "shape (N)", |s| s == [items])?;
    ids.to_strings().ok_or_else(|| wrong(npz, "domain_ids", "byte strings", "another dtype"))
}

fn wrong(npz: &Npz, key: &str, expected: &str, found: &str) -> ImportError {
    npz.error(key, (expected.to_owned(), found.to_owned())).into()
}

/// `count` integers, stored with shape (N) or (N, 1), that all satisfy `accepts`.
fn integers(
    npz: &mut Npz,
    key: &str,
    count: usize,
    accepts: impl Fn(i64) -> bool,
) -> Result<Vec<i64>, ImportError> {
    let expected = format!("shape ({count}) or ({count}, 1)");
    let array = npz.read_shaped(key, &expected, |s| s == [count] || s == [count, 1])?;
    let Some(values) = array.to_i64() else {
        return Err(wrong(npz, key, "integers", "another dtype"));
    };
    match values.iter().position(|&value| !accepts(value)) {
        None => Ok(values),
        Some(i) => {
            let found = format!("value {i} is {}", values[i]);
            Err(wrong(npz, key, "values within their range", &found))
        }
    }
}

/// Imports a 3D file of MedMNIST: `train_images` (N, D, H, W) of bytes and `train_labels` (N, 1),
/// the same for `val_` and, if present, `test_`. Values are divided by 255.
///
/// Without a test part, the validation part becomes the test split, and a tenth of each class of
/// the training part, drawn with the seed, becomes the validation split; the provenance says so.
///
/// # Errors
/// If the archive is damaged or of another layout, or the dataset cannot be written.
pub fn import_medmnist(npz: &Path, out: &Path, options: &ImportOptions) -> Result<(), ImportError> {
    let mut archive = Npz::open(npz)?;
    let mut parts =
        vec![MedPart::read(&mut archive, "train")?, MedPart::read(&mut archive, "val")?];
    if archive.has("test_images") {
        parts.push(MedPart::read(&mut archive, "test")?);
    }
    let dims = parts[0].dims();
    for part in &parts {
        if part.dims() != dims {
            let found = format!("{:?}", part.dims());
            let key = format!("{}_images", part.name);
            return Err(wrong(&archive, &key, &format!("volumes of {dims:?}"), &found));
        }
    }
    let classes = 1 + parts.iter().flat_map(|part| &part.labels).max().copied().unwrap_or(0);
    let (splits, notes) = med_splits(&parts, options.seed);
    let scale = 1.0 / 255.0;
    let grid = Grid::new(dims, options.voxel_size.unwrap_or([1.0; 3]))
        .map_err(|source| item_error(npz, 0, source))?;
    let meta = DatasetMeta {
        name: options.name(npz),
        class_names: options.class_names(classes as usize, |i| i.to_string())?,
        channels: 1,
        dims,
        voxel_size: grid.voxel_size(),
        unit: options.unit.clone().unwrap_or_else(|| "voxel".to_owned()),
        irreps: scalars(1)?,
        storage: Storage::U8 { scale },
        provenance: options.provenance("medmnist", Some(npz), notes)?,
        voxeliser: None,
        mesh_voxeliser: None,
    };
    let mut writer = DatasetWriter::create(out, meta)?;
    for (part, splits) in parts.iter().zip(splits) {
        for (i, split) in splits.into_iter().enumerate() {
            let bytes = &part.bytes[i * grid.voxels()..(i + 1) * grid.voxels()];
            let values = bytes.iter().map(|&byte| (f64::from(byte) * scale) as f32).collect();
            let volume =
                Volume::centred(values, 1, grid).map_err(|source| item_error(npz, i, source))?;
            let (id, label) = (format!("{}_{i:05}", part.name), part.labels[i]);
            writer.push(&Item {
                volume: Some(&volume),
                label,
                split,
                id: &id,
                ..Item::default()
            })?;
        }
    }
    Ok(writer.finish()?)
}

fn item_error(path: &Path, item: usize, source: VolumeError) -> ImportError {
    ImportError::Item { source_name: path.display().to_string(), item, source }
}

/// One part of a MedMNIST file.
struct MedPart {
    name: &'static str,
    shape: Vec<usize>,
    bytes: Vec<u8>,
    labels: Vec<u32>,
}

impl MedPart {
    fn read(npz: &mut Npz, name: &'static str) -> Result<Self, ImportError> {
        let key = format!("{name}_images");
        let images = npz.read_shaped(&key, "shape (N, D, H, W) without zeros", |s| {
            s.len() == 4 && !s.contains(&0)
        })?;
        let Some(bytes) = images.bytes() else {
            return Err(wrong(npz, &key, "bytes", "another dtype"));
        };
        let shape = images.shape().to_vec();
        let labels = labels(npz, &format!("{name}_labels"), shape[0])?;
        Ok(Self { name, bytes: bytes.to_vec(), shape, labels })
    }

    fn dims(&self) -> [usize; 3] {
        [self.shape[1], self.shape[2], self.shape[3]]
    }
}

/// Labels below [`MAX_CLASSES`].
fn labels(npz: &mut Npz, key: &str, count: usize) -> Result<Vec<u32>, ImportError> {
    let values = integers(npz, key, count, |label| (0..MAX_CLASSES as i64).contains(&label))?;
    Ok(values.into_iter().map(|label| label as u32).collect())
}

/// The split of every item of every part, and how it came about.
fn med_splits(parts: &[MedPart], seed: u64) -> (Vec<Vec<Split>>, String) {
    let constant = |part: &MedPart, split| vec![split; part.labels.len()];
    if let [train, val, test] = parts {
        let splits = vec![
            constant(train, Split::Train),
            constant(val, Split::Validation),
            constant(test, Split::Test),
        ];
        return (splits, "splits as in the file".to_owned());
    }
    let train = stratified(&parts[0].labels, &[Split::Validation], seed);
    let notes = format!(
        "the file has no test part: its validation part is the test split here, and a tenth of \
         each class of its training part (seed {seed}) is the validation split"
    );
    (vec![train, constant(&parts[1], Split::Test)], notes)
}

/// Draws a tenth of each class (rounded) for each of `tenths`; the rest is for training.
fn stratified(labels: &[u32], tenths: &[Split], seed: u64) -> Vec<Split> {
    let mut splits = vec![Split::Train; labels.len()];
    for class in labels.iter().copied().collect::<BTreeSet<_>>() {
        let mut members: Vec<usize> = (0..labels.len()).filter(|&i| labels[i] == class).collect();
        Stream::new(seed, "stratified split", &[u64::from(class)]).shuffle(&mut members);
        let tenth = (members.len() + 5) / 10;
        for (&split, chosen) in tenths.iter().zip(members.chunks(tenth.max(1))) {
            for &i in &chosen[..tenth] {
                splits[i] = split;
            }
        }
    }
    splits
}

/// Imports arrays: `volumes` (N, D, H, W) or (N, C, D, H, W) of any number type, `labels` (N) of
/// integers from 0 and, if present, `split` (N) of 0, 1, 2 (train, validation, test), `targets` (N) or
/// (N, T) of numbers and `voxel_labels` (N, D, H, W) of integers from 0 to 255. With one of the last two,
/// `labels` may be missing; there is one class then.
///
/// Bytes and booleans are stored as bytes, other numbers as 32-bit floats. Without `split`, a
/// tenth of each class, drawn with the seed, is for validation and another for testing.
///
/// # Errors
/// If the archive is damaged or of another layout, an option does not suit it, or the dataset
/// cannot be written.
pub fn import_arrays(npz: &Path, out: &Path, options: &ImportOptions) -> Result<(), ImportError> {
    let mut archive = Npz::open(npz)?;
    let volumes = archive.read_shaped(
        "volumes",
        "shape (N, D, H, W) or (N, C, D, H, W) without zeros",
        |s| matches!(s.len(), 4 | 5) && !s.contains(&0),
    )?;
    let (items, channels, dims) = match *volumes.shape() {
        [n, c, d, h, w] => (n, c, [d, h, w]),
        [n, d, h, w] => (n, 1, [d, h, w]),
        _ => return Err(wrong(&archive, "volumes", "four or five axes", "others")),
    };
    let tasks = ArrayTasks::read(&mut archive, items, dims, options)?;
    let labels = match &tasks {
        Some(_) if !archive.has("labels") => vec![0; items],
        _ => labels(&mut archive, "labels", items)?,
    };
    let classes = 1 + labels.iter().max().copied().unwrap_or(0) as usize;
    let (splits, notes) = array_splits(&mut archive, &labels, options.seed)?;
    let at_item = |item, source| item_error(npz, item, source);
    let grid = Grid::new(dims, options.voxel_size.unwrap_or([1.0; 3]))
        .map_err(|source| at_item(0, source))?;
    let len = checked_len(channels, dims).map_err(|source| at_item(0, source))?;
    let storage = if volumes.is_bytes() { Storage::U8 { scale: 1.0 } } else { Storage::F32 };
    let meta = DatasetMeta {
        name: options.name(npz),
        class_names: options.class_names(classes, |i| i.to_string())?,
        channels,
        dims,
        voxel_size: grid.voxel_size(),
        unit: options.unit.clone().unwrap_or_else(|| "voxel".to_owned()),
        irreps: options.irreps.clone().map_or_else(|| scalars(channels), Ok)?,
        storage,
        provenance: options.provenance("arrays", Some(npz), notes)?,
        voxeliser: None,
        mesh_voxeliser: None,
    };
    let mut writer = DatasetWriter::create(out, meta)?;
    if let Some(found) = &tasks {
        writer = writer.with_tasks(found.tasks.clone())?;
    }
    for i in 0..items {
        let Some(values) = floats(&volumes, i * len, len) else {
            return Err(wrong(&archive, "volumes", "numbers", "another dtype"));
        };
        let volume =
            Volume::centred(values, channels, grid).map_err(|source| at_item(i, source))?;
        let (id, label) = (format!("item_{i:06}"), labels[i]);
        let (volume, split) = (Some(&volume), splits[i]);
        let (targets, voxel_labels) =
            tasks.as_ref().map_or((&[][..], &[][..]), |tasks| tasks.of(i, dims));
        let id = &id;
        let item = Item { volume, label, split, id, targets, voxel_labels, ..Item::default() };
        writer.push(&item)?;
    }
    Ok(writer.finish()?)
}

/// Targets and labels of voxels of an archive.
struct ArrayTasks {
    tasks: Tasks,
    targets: Vec<f64>,
    voxel_labels: Vec<u8>,
}

impl ArrayTasks {
    /// `None` if the archive has neither.
    fn read(
        npz: &mut Npz,
        items: usize,
        [d, h, w]: [usize; 3],
        options: &ImportOptions,
    ) -> Result<Option<Self>, ImportError> {
        let mut found = Self { tasks: Tasks::default(), targets: vec![], voxel_labels: vec![] };
        if npz.has("targets") {
            let expected = format!("shape ({items}) or ({items}, T)");
            let fits = |s: &[usize]| s.len() <= 2 && s.first() == Some(&items) && !s.contains(&0);
            let array = npz.read_shaped("targets", &expected, fits)?;
            let width = array.shape().get(1).copied().unwrap_or(1);
            let irreps = options.target_irreps.clone().map_or_else(|| scalars(width), Ok)?;
            if irreps.dim() != width {
                return Err(ImportError::Option {
                    option: "irreps of the targets",
                    expected: format!("{width} channels"),
                    found: format!("{irreps}, which has {}", irreps.dim()),
                });
            }
            let values = array.to_f64();
            found.targets = values.ok_or_else(|| wrong(npz, "targets", "numbers", "others"))?;
            found.tasks.targets = Some(irreps);
        }
        if npz.has("voxel_labels") {
            let expected = format!("shape ({items}, {d}, {h}, {w})");
            let array = npz.read_shaped("voxel_labels", &expected, |s| s == [items, d, h, w])?;
            let bytes = array.to_i64().map(|v| v.into_iter().map(u8::try_from).collect());
            let Some(Ok(labels)) = bytes else {
                return Err(wrong(npz, "voxel_labels", "integers from 0 to 255", "others"));
            };
            found.voxel_labels = labels;
            let classes = 1 + found.voxel_labels.iter().max().copied().unwrap_or(0) as usize;
            found.tasks.voxel_classes = (0..classes).map(|i| i.to_string()).collect();
        }
        Ok((found.tasks != Tasks::default()).then_some(found))
    }

    /// Targets and labels of voxels of an item.
    fn of(&self, item: usize, dims: [usize; 3]) -> (&[f64], &[u8]) {
        let row = |len: usize| item * len..(item + 1) * len;
        let voxels = if self.voxel_labels.is_empty() { 0 } else { dims.iter().product::<usize>() };
        (&self.targets[row(self.tasks.target_len())], &self.voxel_labels[row(voxels)])
    }
}

fn floats(array: &NpyArray, start: usize, len: usize) -> Option<Vec<f32>> {
    let values = array.elements(start..start + len).to_f64()?;
    Some(values.into_iter().map(|value| value as f32).collect())
}

fn array_splits(
    npz: &mut Npz,
    labels: &[u32],
    seed: u64,
) -> Result<(Vec<Split>, String), ImportError> {
    if !npz.has("split") {
        let splits = stratified(labels, &[Split::Validation, Split::Test], seed);
        let notes = format!(
            "the file has no splits: a tenth of each class (seed {seed}) is for validation and \
             another for testing"
        );
        return Ok((splits, notes));
    }
    let values = integers(npz, "split", labels.len(), |split| (0..3).contains(&split))?;
    let splits = values.into_iter().map(|split| Split::ALL[split as usize]).collect();
    Ok((splits, "splits as in the file".to_owned()))
}

/// Name and cubes of the eight Tetris shapes of Thomas et al. 2018
/// (<https://arxiv.org/abs/1802.08219>, section 5.1) and Weiler et al. 2018 (section 5.1).
const TETRIS: [(&str, [[i8; 3]; 4]); 8] = [
    ("chiral_shape_1", [[0, 0, 0], [0, 0, 1], [1, 0, 0], [1, 1, 0]]),
    ("chiral_shape_2", [[0, 0, 0], [0, 0, 1], [1, 0, 0], [1, -1, 0]]),
    ("square", [[0, 0, 0], [1, 0, 0], [0, 1, 0], [1, 1, 0]]),
    ("line", [[0, 0, 0], [0, 0, 1], [0, 0, 2], [0, 0, 3]]),
    ("corner", [[0, 0, 0], [0, 0, 1], [0, 1, 0], [1, 0, 0]]),
    ("L", [[0, 0, 0], [0, 0, 1], [0, 0, 2], [0, 1, 0]]),
    ("T", [[0, 0, 0], [0, 0, 1], [0, 0, 2], [0, 1, 1]]),
    ("zigzag", [[0, 0, 0], [1, 0, 0], [1, 1, 0], [2, 1, 0]]),
];

/// 15³ voxels of half a cube's edge with σ = 0.4 edges: every orientation of every shape keeps
/// 5 σ from the faces.
pub fn tetris_voxeliser() -> Voxeliser {
    Voxeliser { sigma: 0.4, ..Voxeliser::paper(15, 0.5) }
}

/// Generates the eight Tetris shapes, each four unit cubes centred on their mean, as one Gaussian
/// for each cube.
///
/// The training split is one orientation of each shape, the validation split the same volumes
/// again, and the test split `test_rotations` uniformly random rotations of each shape, drawn with
/// the seed and applied to the points before voxelising. The rotated points are stored.
///
/// # Errors
/// If the voxeliser is not valid or has not one channel, or the dataset cannot be written.
pub fn import_tetris(
    out: &Path,
    voxeliser: &Voxeliser,
    test_rotations: usize,
    options: &ImportOptions,
) -> Result<(), ImportError> {
    if voxeliser.channels != 1 {
        return Err(ImportError::Option {
            option: "channels of the voxeliser",
            expected: "1".to_owned(),
            found: voxeliser.channels.to_string(),
        });
    }
    let notes = format!(
        "train: one orientation of each shape; validation: the same; test: {test_rotations} \
         uniformly random rotations of each shape (seed {})",
        options.seed
    );
    let generated = ImportOptions {
        source: Some("generated: Tetris shapes of Thomas et al. 2018".to_owned()),
        licence: Some("none needed".to_owned()),
        ..options.clone()
    };
    let meta = DatasetMeta {
        name: options.name(Path::new("tetris")),
        class_names: options.class_names(TETRIS.len(), |i| TETRIS[i].0.to_owned())?,
        channels: 1,
        dims: [voxeliser.size; 3],
        voxel_size: [voxeliser.voxel_size; 3],
        unit: options.unit.clone().unwrap_or_else(|| "cube edge".to_owned()),
        irreps: scalars(1)?,
        storage: Storage::F32,
        provenance: generated.provenance("tetris", None, notes)?,
        voxeliser: Some(*voxeliser),
        mesh_voxeliser: None,
    };
    let shapes = TETRIS
        .iter()
        .map(|(_, cubes)| {
            let positions = cubes.iter().map(|cube| cube.map(f64::from)).collect();
            PointCloud::new(positions, vec![0; 4]).map(PointCloud::centred)
        })
        .collect::<Result<Vec<_>, _>>()
        .map_err(|source| item_error(Path::new("tetris"), 0, source))?;
    let mut items = Vec::new();
    let mut add = |shape: usize, rotation, split, suffix: &str| {
        let (cloud, id) = (&shapes[shape], format!("{}_{suffix}", TETRIS[shape].0));
        items.push(PointItem { cloud, rotation, label: shape as u32, split, id });
    };
    for (split, suffix) in [(Split::Train, "train"), (Split::Validation, "validation")] {
        for shape in 0..TETRIS.len() {
            add(shape, Rotation::identity(), split, suffix);
        }
    }
    let rotations = random_rotations(options.seed, TETRIS.len() * test_rotations);
    for (k, rotation) in rotations.into_iter().enumerate() {
        let (shape, turn) = (k / test_rotations, k % test_rotations);
        add(shape, rotation, Split::Test, &format!("test_{turn:04}"));
    }
    let mut writer = DatasetWriter::create(out, meta)?;
    push_points(&mut writer, voxeliser, &items, "tetris")?;
    Ok(writer.finish()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stratified_splits_take_a_tenth_of_each_class_and_depend_on_the_seed_alone() {
        let labels: Vec<u32> = (0..130).map(|i| u32::from(i >= 100)).collect();
        let splits = stratified(&labels, &[Split::Validation, Split::Test], 3);
        let count = |class: u32, split| {
            (0..130).filter(|&i| labels[i] == class && splits[i] == split).count()
        };
        for split in [Split::Validation, Split::Test] {
            assert_eq!((count(0, split), count(1, split)), (10, 3), "{split}");
        }
        assert_eq!(splits, stratified(&labels, &[Split::Validation, Split::Test], 3));
        assert_ne!(splits, stratified(&labels, &[Split::Validation, Split::Test], 4));
    }

    #[test]
    fn tetris_shapes_are_four_distinct_cubes_and_the_chiral_ones_mirror_images() {
        for (name, cubes) in TETRIS {
            assert_eq!(cubes.iter().collect::<BTreeSet<_>>().len(), 4, "{name}");
        }
        let mirrored = TETRIS[0].1.map(|[x, y, z]| [x, -y, z]);
        assert_eq!(mirrored, TETRIS[1].1);
    }
}
