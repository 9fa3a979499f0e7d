//! Where the items of a dataset come from, what is wrong with those that cannot be used, and what
//! a source does not say of itself.

use std::ffi::OsStr;
use std::ops::Range;
use std::path::{Path, PathBuf};

use nalgebra::Matrix3;
use rayon::prelude::*;
use serde::Serialize;
use steer3d_files::digest::sha256_of;
use steer3d_files::lock::Busy;
use steer3d_files::memory::NoRoom;
use steer3d_files::{AtPath, FileError};
use steer3d_formats::npz::NpzError;
use steer3d_formats::{self as formats, FileContents, FormatError, Nan};
use steer3d_ranks::RankError;
use steer3d_so3::Irreps;
use steer3d_volume::mesh::Mesh;
use steer3d_volume::points::{PointCloud, Voxeliser};
use steer3d_volume::volume::{Volume, VolumeError};

use crate::error::DatasetError;
use crate::meta::{DatasetMeta, Provenance, Split, Tasks};
use crate::recipe::{Recipe, Unsuited};

/// Makes the data of an item by its index and entry.
pub type MakeItem = dyn Fn(usize, &Entry) -> Result<ItemData, ItemError> + Send + Sync;

/// A source of items, which [`build`](crate::build()) makes a dataset of.
pub struct ItemSource {
    /// What all items have in common, and where they come from.
    pub meta: DatasetMeta,
    /// What there is to predict beside the classes of items.
    pub tasks: Option<Tasks>,
    /// The items in order.
    pub entries: Vec<Entry>,
    /// The text of everything else that decides what `make` makes.
    pub options: String,
    /// Makes the data of an item; called on all cores at once, in any order. The error names file
    /// and item.
    pub make: Box<MakeItem>,
}

impl ItemSource {
    /// Makes the data of an item.
    ///
    /// # Errors
    /// If the item cannot be read or does not suit the dataset.
    pub fn item(&self, index: usize) -> Result<ItemData, ItemError> {
        (self.make)(index, &self.entries[index])
    }
}

/// What a source says of an item before it makes it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Entry {
    /// The file, or the archive of all items; empty if there is none.
    #[serde(skip)]
    pub path: PathBuf,
    /// The file with the labels of its voxels, if there is one.
    #[serde(skip)]
    pub mask: Option<PathBuf>,
    /// Which molecule of the file it is, from 1, where the file holds several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub record: Option<usize>,
    /// Its path below the folder of the tree or table, with `/` between the parts, and `#` and the
    /// record if there is one; empty for items of an archive.
    pub source: String,
    /// Identifier of the item.
    pub id: String,
    /// Index of its class.
    pub label: u32,
    /// Its split; train where the source gives none.
    pub split: Split,
    /// Its group, empty for none.
    pub group: String,
}

/// What is stored of an item.
#[derive(Clone, Debug, Default)]
pub struct ItemData {
    /// Its volume.
    pub volume: Option<Volume>,
    /// The directions of the axes of its volume, where each item has its own grid.
    pub direction: Option<Matrix3<f64>>,
    /// The points of the volume.
    pub points: Option<PointCloud>,
    /// The mesh of the volume.
    pub mesh: Option<Mesh>,
    /// Its target values, if the tasks of the [`ItemSource`] ask for them.
    pub targets: Vec<f64>,
    /// The labels of its voxels, D × H × W, if the tasks of the [`ItemSource`] ask for them.
    pub voxel_labels: Vec<u8>,
}

/// An item that cannot be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ItemError {
    /// Its file cannot be read.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// What its file holds cannot be used.
    #[error("{path}: {source}", path = path.display())]
    Volume {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: VolumeError,
    },
    /// What an archive holds of it cannot be used.
    #[error("{path}: item {item}: {source}", path = path.display())]
    Member {
        /// The archive, or the name of generated items.
        path: PathBuf,
        /// Index of the item.
        item: usize,
        /// What is wrong.
        source: VolumeError,
    },
    /// Its file holds something else than is wanted.
    #[error("{path}: expected {expected}, found {found}", path = path.display())]
    Kind {
        /// The file.
        path: PathBuf,
        /// What is wanted.
        expected: String,
        /// What it holds.
        found: String,
    },
}

impl ItemError {
    /// Why what a file holds does not suit a recipe.
    pub(crate) fn of(path: PathBuf, unsuited: Unsuited) -> Self {
        match unsuited {
            Unsuited::Kind { expected, found } => {
                Self::Kind { path, expected, found: found.to_owned() }
            }
            Unsuited::Volume(source) => Self::Volume { path, source },
        }
    }

    /// Whether the item can be made once others give back the memory that they take.
    pub fn is_temporary(&self) -> bool {
        let no_room = match self {
            Self::Format(error) => error.no_room(),
            Self::Volume { source: VolumeError::NoRoom(no_room), .. }
            | Self::Member { source: VolumeError::NoRoom(no_room), .. } => Some(no_room),
            _ => None,
        };
        no_room.is_some_and(NoRoom::is_temporary)
    }
}

/// Makes all of `range` on all cores. What cannot be made while others take memory is made again, one after the other.
pub(crate) fn made_with_room<T: Send, E: Send>(
    range: Range<usize>,
    make: impl Fn(usize) -> Result<T, E> + Sync,
    is_temporary: impl Fn(&E) -> bool,
) -> Vec<Result<T, E>> {
    let mut all: Vec<_> = range.clone().into_par_iter().map(&make).collect();
    for (index, made) in range.zip(&mut all) {
        if made.as_ref().is_err_and(&is_temporary) {
            *made = make(index);
        }
    }
    all
}

/// Reads the file of an item, with `nan` for the voxels of volumes that are not numbers.
pub(crate) fn read(path: &Path, nan: Nan) -> Result<FileContents, ItemError> {
    // A pipe, socket or device might not end.
    steer3d_files::open(path).at_path(path).map_err(FormatError::Io)?;
    Ok(formats::read_with(path, nan)?)
}

/// A source that cannot be used, or a dataset that cannot be built of it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// A file or folder cannot be read or written.
    #[error(transparent)]
    Io(#[from] FileError),
    /// An archive cannot be read.
    #[error(transparent)]
    Npz(#[from] NpzError),
    /// A tree or table is not as it should be.
    #[error("{path}: expected {expected}, found {found}", path = path.display())]
    Source {
        /// The folder, table or file.
        path: PathBuf,
        /// What a tree or table has there.
        expected: String,
        /// What it has.
        found: String,
    },
    /// A table is not valid CSV.
    #[error("{path}: {source}", path = path.display())]
    Csv {
        /// The table.
        path: PathBuf,
        /// What is wrong, and where.
        source: csv::Error,
    },
    /// What a source and its options say of all items cannot be used.
    #[error("{path}: {source}", path = path.display())]
    Meta {
        /// The archive.
        path: PathBuf,
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
    /// The first file does not suit the recipe.
    #[error("the first file decides the kind of the dataset: {0}")]
    First(ItemError),
    /// An item cannot be made.
    #[error("{0}; repair or remove the file, or leave out what is broken with --skip-broken")]
    Item(ItemError),
    /// The dataset cannot be written.
    #[error(transparent)]
    Dataset(#[from] DatasetError),
    /// No item could be made.
    #[error("{path}: none of {count} files could be read; the first: {first}", path = path.display())]
    Nothing {
        /// The dataset.
        path: PathBuf,
        /// Number of items.
        count: usize,
        /// What is wrong with the first one.
        first: String,
    },
    /// Another process is building the same dataset.
    #[error(transparent)]
    Busy(#[from] Busy),
    /// The ranks cannot go on together.
    #[error(transparent)]
    Ranks(#[from] RankError),
    /// A rank does not see the folder that the first one has made.
    #[error(
        "{path}: rank {rank} does not find what rank 0 has written there; give a folder that all ranks share",
        path = path.display()
    )]
    NotShared {
        /// The folder.
        path: PathBuf,
        /// The rank.
        rank: usize,
    },
    /// The folder of an unfinished build is of another build.
    #[error(
        "{path}: an unfinished build with other options; give the same ones to go on with it, or \
         remove the folder to begin anew",
        path = path.display()
    )]
    OtherBuild {
        /// The folder.
        path: PathBuf,
    },
}

impl BuildError {
    /// The error that what an archive and its options say of all items cannot be used.
    pub(crate) fn meta(path: &Path) -> impl Fn(VolumeError) -> Self + '_ {
        |source| Self::Meta { path: path.to_owned(), source }
    }
}

/// The error that an option does not suit the source.
pub(crate) fn wrong_option<T>(
    option: &'static str,
    expected: impl Into<String>,
    found: impl Into<String>,
) -> Result<T, BuildError> {
    Err(BuildError::Option { option, expected: expected.into(), found: found.into() })
}

/// What a source does not say. `None` means the default of the source.
#[derive(Clone, Debug, Default)]
#[cfg_attr(feature = "clap", derive(clap::Args))]
pub struct ImportOptions {
    /// Name of the dataset; default: stem of the source.
    #[cfg_attr(feature = "clap", arg(long))]
    pub name: Option<String>,
    /// Where the data come from, and whom to credit; default: the file name.
    #[cfg_attr(feature = "clap", arg(long = "credit", id = "credit", value_name = "CREDIT"))]
    pub source: Option<String>,
    /// Licence of the data; default: `unstated`.
    #[cfg_attr(feature = "clap", arg(long))]
    pub licence: Option<String>,
    /// Names of the classes, one for each label; in an option separated by commas.
    #[cfg_attr(feature = "clap", arg(long, value_delimiter = ','))]
    pub class_names: Option<Vec<String>>,
    /// Edges of a voxel along x, y, z; default: 1, 1, 1 for arrays, that of the
    /// experiment of the paper for points, which have cubes.
    #[cfg_attr(feature = "clap", arg(skip))]
    pub voxel_size: Option<[f64; 3]>,
    /// Voxels along an edge of the grid; default: that of the experiment of the paper (points only).
    #[cfg_attr(feature = "clap", arg(long))]
    pub size: Option<usize>,
    /// Width of a point's Gaussian, in the unit of the points; default: as many voxels as in the paper
    /// (points only).
    #[cfg_attr(feature = "clap", arg(long))]
    pub sigma: Option<f64>,
    /// Atom types of the source, each a channel; default: 1 (CATH only).
    #[cfg_attr(feature = "clap", arg(long))]
    pub channels: Option<usize>,
    /// Resolution of simulated maps in ångström, or the lowest and the highest, between which one is drawn for each item;
    /// default: 4 to 8 (backbone only).
    #[cfg_attr(feature = "clap", arg(long, value_delimiter = ','))]
    pub resolution: Option<Vec<f64>>,
    /// A grid for each item, as large as it needs, instead of one of `size` voxels (backbone only).
    #[cfg_attr(feature = "clap", arg(long))]
    pub own_grids: bool,
    /// Only domains that are the whole chain of a protein, whose IDs CATH ends with 00 (backbone only).
    #[cfg_attr(feature = "clap", arg(long))]
    pub whole_chains: bool,
    /// Rotated test items of each shape; default: 32 (Tetris only).
    #[cfg_attr(feature = "clap", arg(long))]
    pub test_rotations: Option<usize>,
    /// Unit of the voxel size; default: `voxel` for arrays, `angstrom` for CATH.
    #[cfg_attr(feature = "clap", arg(long))]
    pub unit: Option<String>,
    /// Irreps of the channels, such as 1x0+1x1; default: scalars (arrays only).
    #[cfg_attr(feature = "clap", arg(long))]
    pub irreps: Option<Irreps>,
    /// Irreps of the target values of items, such as 1x1 for a vector x, y, z; default: scalars (arrays
    /// only).
    #[cfg_attr(feature = "clap", arg(long))]
    pub target_irreps: Option<Irreps>,
    /// Names of the target values, one for each field of their irreps; in an option separated by commas (arrays only).
    #[cfg_attr(feature = "clap", arg(long, value_delimiter = ','))]
    pub target_names: Option<Vec<String>>,
    /// Units of the target values, one for each field of their irreps; in an option separated by commas (arrays only).
    #[cfg_attr(feature = "clap", arg(long, value_delimiter = ','))]
    pub target_units: Option<Vec<String>>,
    /// The command line, for the record.
    #[cfg_attr(feature = "clap", arg(skip))]
    pub command: Option<String>,
    /// Seed of everything drawn at random.
    #[cfg_attr(feature = "clap", arg(skip))]
    pub seed: u64,
}

/// A source that `steer3d dataset import` knows by name.
#[derive(Clone, Copy)]
pub struct Importer {
    /// Its name.
    pub name: &'static str,
    /// How it begins.
    pub(crate) open: Open,
}

/// How a source begins.
#[derive(Clone, Copy)]
pub(crate) enum Open {
    /// With an archive.
    Archive(fn(&Path, &ImportOptions) -> Result<ItemSource, BuildError>),
    /// From nothing.
    Generated(fn(&ImportOptions) -> Result<ItemSource, BuildError>),
}

impl Importer {
    /// Reads the archive, or generates the items.
    ///
    /// # Errors
    /// If there is no archive where one is needed, or one where none is, it is damaged or of another
    /// layout, or an option does not suit.
    pub fn open(
        &self,
        path: Option<&Path>,
        options: &ImportOptions,
    ) -> Result<ItemSource, BuildError> {
        match (self.open, path) {
            (Open::Archive(open), Some(path)) => {
                // A pipe, socket or device might not end.
                steer3d_files::open(path).at_path(path)?;
                open(path, options)
            }
            (Open::Generated(open), None) => open(options),
            (Open::Archive(_), None) => {
                wrong_option("source", "the source file (.npz) after the layout", "none")
            }
            (Open::Generated(_), Some(path)) => {
                wrong_option("source", "no file, since it is generated", path.display().to_string())
            }
        }
    }
}

/// What an archive, or a generator, says of the dataset that it becomes.
pub(crate) struct Archive<'a> {
    pub(crate) importer: &'static str,
    /// The archive, or the name of what is generated.
    pub(crate) path: &'a Path,
    pub(crate) is_file: bool,
    pub(crate) class_names: Vec<String>,
    pub(crate) unit: &'static str,
    pub(crate) notes: String,
    /// The description of the volumes, without what is above.
    pub(crate) volumes: DatasetMeta,
    pub(crate) tasks: Option<Tasks>,
    /// The items, without their path.
    pub(crate) entries: Vec<Entry>,
}

impl ImportOptions {
    /// The voxeliser of points, `standard` where the options say nothing.
    ///
    /// # Errors
    /// If voxels are no cubes.
    pub(crate) fn voxeliser(&self, standard: Voxeliser) -> Result<Voxeliser, BuildError> {
        let [x, y, z] = self.voxel_size.unwrap_or([standard.voxel_size; 3]);
        if x != y || x != z {
            return wrong_option(
                "voxel size",
                "one number, since points are voxelised in cubes",
                format!("{x}, {y}, {z}"),
            );
        }
        let per_voxel = standard.sigma / standard.voxel_size;
        Ok(Voxeliser {
            size: self.size.unwrap_or(standard.size),
            voxel_size: x,
            sigma: self.sigma.unwrap_or(per_voxel * x),
            channels: self.channels.unwrap_or(standard.channels),
            ..standard
        })
    }

    /// Where a dataset comes from; `source` is the default of the credit.
    pub(crate) fn provenance(
        &self,
        importer: &str,
        source: String,
        sha256: Option<String>,
        notes: String,
    ) -> Provenance {
        Provenance {
            source: self.source.clone().unwrap_or(source),
            licence: self.licence.clone().unwrap_or_else(|| "unstated".to_owned()),
            sha256,
            importer: importer.to_owned(),
            command: self.command.clone().unwrap_or_default(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            notes,
        }
    }

    /// The items of an archive that `make` makes by their index. These options go before what the
    /// archive says of itself.
    ///
    /// # Errors
    /// If there is not one class name for each of the archive's, or the archive cannot be read.
    pub(crate) fn source_of(
        &self,
        archive: Archive<'_>,
        make: impl Fn(usize) -> Result<ItemData, VolumeError> + Send + Sync + 'static,
    ) -> Result<ItemSource, BuildError> {
        let Archive { importer, path, is_file, tasks, mut entries, .. } = archive;
        let text = |part: Option<&OsStr>| {
            part.map_or_else(String::new, |part| part.to_string_lossy().into_owned())
        };
        let classes = archive.class_names.len();
        let class_names = self.class_names.clone().unwrap_or(archive.class_names);
        if class_names.len() != classes {
            return wrong_option(
                "class names",
                format!("{classes} names, one for each label"),
                class_names.len().to_string(),
            );
        }
        let sha256 = is_file.then(|| sha256_of(path)).transpose()?;
        let stated = self.unit.clone().unwrap_or_else(|| archive.unit.to_owned());
        let mut volumes = archive.volumes;
        if let Some(Recipe::Volumes { unit, .. }) = &mut volumes.recipe {
            unit.clone_from(&stated);
        }
        let meta = DatasetMeta {
            name: self.name.clone().unwrap_or_else(|| text(path.file_stem())),
            class_names,
            unit: stated,
            provenance: self.provenance(importer, text(path.file_name()), sha256, archive.notes),
            ..volumes
        };
        entries.iter_mut().for_each(|entry| entry.path = path.to_owned());
        let options = tasks.as_ref().map_or_else(String::new, |tasks| format!("{tasks:?}"));
        let make = Box::new(move |item: usize, entry: &Entry| {
            let path = || entry.path.clone();
            make(item).map_err(|source| ItemError::Member { path: path(), item, source })
        });
        Ok(ItemSource { meta, tasks, entries, options, make })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn what_lacks_memory_is_made_again_when_the_others_are_done() {
        let attempts = [(); 9].map(|()| AtomicUsize::new(0));
        let make = |item: usize| match (item, attempts[item].fetch_add(1, Ordering::SeqCst)) {
            (3 | 5, 0) => Err("busy"),
            (7, _) => Err("broken"),
            (3 | 5, _) => {
                let others = attempts.iter().map(|count| count.load(Ordering::SeqCst));
                Ok(others.filter(|count| *count > 0).count())
            }
            _ => Ok(item),
        };
        let all = made_with_room(0..9, make, |error| *error == "busy");
        let nine = Ok(9);
        let broken = Err("broken");
        assert_eq!(all, [Ok(0), Ok(1), Ok(2), nine, Ok(4), nine, Ok(6), broken, Ok(8)]);
        assert_eq!(attempts[7].load(Ordering::SeqCst), 1);
    }
}
