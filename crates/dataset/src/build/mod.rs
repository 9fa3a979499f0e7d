//! Building datasets from files, in parallel and in bounded memory; a build that was stopped goes
//! on where it was.
//!
//! While a build runs, the folder `OUT.partial` holds a description of it (`build.json`) and one
//! small dataset (`000000.h5`, ...) with a report (`000000.json`) for each finished batch. A later
//! build with the same options takes the finished batches of the same files from there. When all
//! are done they are joined into the dataset, which takes its place at once; then the folder goes.

mod layout;
mod recipe;

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

pub use layout::{Entry, Listing};
pub use recipe::{Atoms, Fit, Made, Maker, Recipe, Store};

use crate::dataset::{Dataset, DatasetError, DatasetMeta, DatasetWriter, Item, Skipped};
use steer3d_files::hex;
use steer3d_files::{self, TEMPORARY, sync_folder_of};
use steer3d_formats::FormatError;
use steer3d_volume::volume::VolumeError;

/// Values of the volumes of a batch, about.
const BATCH_VALUES: usize = 1 << 24;

/// Largest number of items in a batch.
const BATCH_ITEMS: usize = 256;

/// A file that does not become an item.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ItemError {
    /// It cannot be read.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// What it holds cannot be used.
    #[error("{path}: {source}", path = path.display())]
    Volume {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: VolumeError,
    },
    /// It holds something else than is wanted.
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

/// A dataset that cannot be built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// A file or folder cannot be read or written.
    #[error("{path}: {source}; check the path and its permissions", path = path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
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
    /// A file does not become an item.
    #[error("{0}; repair or remove the file, or leave out such files with --skip-broken")]
    Item(ItemError),
    /// The dataset cannot be written.
    #[error(transparent)]
    Dataset(#[from] DatasetError),
    /// No file became an item.
    #[error("{path}: none of {count} files could be read; the first: {first}", path = path.display())]
    Nothing {
        /// The dataset.
        path: PathBuf,
        /// Number of files.
        count: usize,
        /// What is wrong with the first one.
        first: String,
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

/// What a finished build came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Built {
    /// Items of the dataset.
    pub items: usize,
    /// Items taken from an unfinished build.
    pub resumed: usize,
    /// Files that were left out, in order.
    pub skipped: Vec<Skipped>,
}

/// Builds the dataset `out` of the items that `make` makes of the entries.
///
/// Batches are made in parallel while the one before is written; at most two are in memory. The
/// same entries give the same bytes, on any number of threads and however often the build was
/// stopped. `options` is the text of everything else that decides what `make` makes: an unfinished
/// build goes on only if it is the same, and the description too (its command apart); of its
/// batches those are taken whose entries and lengths of files are the same. `progress` hears how
/// many entries are done.
///
/// # Errors
/// If a file does not become an item (unless `skip_broken`), nothing does, there is an unfinished
/// build with other options, or the folder of `out` cannot be written. All leave an old file `out`
/// as it was, and the finished batches to go on with.
pub fn build(
    out: &Path,
    meta: &DatasetMeta,
    entries: &[Entry],
    options: &str,
    skip_broken: bool,
    make: &(dyn Fn(&Entry) -> Result<Made, ItemError> + Sync),
    progress: &(dyn Fn(usize) + Sync),
) -> Result<Built, BuildError> {
    let batch = (BATCH_VALUES / meta.item_len()).clamp(1, BATCH_ITEMS);
    let partial = Partial::open(out, fingerprint_of_options(meta, options))?;
    let grouped = entries.iter().any(|entry| !entry.group.is_empty());
    let batches: Vec<&[Entry]> = entries.chunks(batch).collect();
    let mut resumed = 0;
    let mut done = vec![false; batches.len()];
    for (index, batch) in batches.iter().enumerate() {
        if let Some(report) = partial.finished(index, batch, skip_broken) {
            done[index] = true;
            resumed += report.items;
        }
    }
    let made_of = |index: usize| -> Vec<_> { batches[index].par_iter().map(make).collect() };
    let mut missing = (0..batches.len()).filter(|&index| !done[index]);
    let mut current = missing.next().map(|index| (index, made_of(index)));
    while let Some((index, made)) = current {
        let next = missing.next();
        let write = || partial.write(index, meta, batches[index], made, grouped, skip_broken);
        let (written, made) = rayon::join(write, || next.map(|next| (next, made_of(next))));
        written?;
        progress((index * batch + batches[index].len()).min(entries.len()));
        current = made;
    }
    let built = partial.join(out, meta, batches.len(), entries, grouped)?;
    Ok(Built { resumed, ..built })
}

/// SHA-256 of what decides how entries become items.
fn fingerprint_of_options(meta: &DatasetMeta, options: &str) -> String {
    let mut meta = meta.clone();
    meta.provenance.command.clear();
    hex(&Sha256::digest(json(&(meta, options))))
}

/// SHA-256 of the entries of a batch and the lengths of their files.
fn fingerprint_of_batch(entries: &[Entry]) -> String {
    let len = |entry: &Entry| fs::metadata(&entry.path).map(|data| data.len()).ok();
    let parts: Vec<_> = entries.iter().map(|entry| (entry, len(entry))).collect();
    hex(&Sha256::digest(json(&parts)))
}

fn json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("plain data have a JSON form")
}

/// The folder of an unfinished build.
struct Partial {
    folder: PathBuf,
}

/// What a batch came to.
#[derive(Serialize, Deserialize)]
struct Report {
    fingerprint: String,
    items: usize,
    skipped: Vec<Skipped>,
}

/// Contents of `build.json`.
#[derive(Serialize, Deserialize)]
struct Description {
    format: String,
    fingerprint: String,
}

const FORMAT: &str = "steer3d-build 1";

impl Partial {
    /// Makes the folder, or takes up the one of the same build.
    fn open(out: &Path, fingerprint: String) -> Result<Self, BuildError> {
        let mut name = out.as_os_str().to_owned();
        name.push(".partial");
        let partial = Self { folder: PathBuf::from(name) };
        let description = Description { format: FORMAT.to_owned(), fingerprint };
        let path = partial.folder.join("build.json");
        let io = |source| BuildError::Io { path: partial.folder.clone(), source };
        if partial.folder.is_dir() {
            partial.remove_temporary_files()?;
        } else {
            fs::create_dir(&partial.folder).map_err(io)?;
        }
        if let Some(found) = read_json::<Description>(&path) {
            if found.fingerprint != description.fingerprint || found.format != FORMAT {
                return Err(BuildError::OtherBuild { path: partial.folder });
            }
            return Ok(partial);
        }
        let empty = fs::read_dir(&partial.folder).map_err(io)?.next().is_none();
        if !empty {
            return Err(BuildError::OtherBuild { path: partial.folder });
        }
        write_json(&path, &description)?;
        Ok(partial)
    }

    /// Removes what a killed build had not finished.
    fn remove_temporary_files(&self) -> Result<(), BuildError> {
        let remove = || {
            for entry in fs::read_dir(&self.folder)? {
                let entry = entry?;
                if entry.file_name().as_encoded_bytes().starts_with(TEMPORARY.as_bytes()) {
                    fs::remove_file(entry.path())?;
                }
            }
            Ok(())
        };
        remove().map_err(|source| BuildError::Io { path: self.folder.clone(), source })
    }

    fn data(&self, index: usize) -> PathBuf {
        self.folder.join(format!("{index:06}.h5"))
    }

    fn report_path(&self, index: usize) -> PathBuf {
        self.folder.join(format!("{index:06}.json"))
    }

    /// The report of a batch that was made of the same entries and whose data are whole.
    fn finished(&self, index: usize, entries: &[Entry], skip_broken: bool) -> Option<Report> {
        let report: Report = read_json(&self.report_path(index))?;
        let same = report.fingerprint == fingerprint_of_batch(entries)
            && (skip_broken || report.skipped.is_empty());
        let whole = || {
            report.items == 0
                || Dataset::open(self.data(index)).is_ok_and(|data| data.len() == report.items)
        };
        (same && whole()).then_some(report)
    }

    /// Writes a batch: first its data, then its report.
    fn write(
        &self,
        index: usize,
        meta: &DatasetMeta,
        entries: &[Entry],
        made: Vec<Result<Made, ItemError>>,
        grouped: bool,
        skip_broken: bool,
    ) -> Result<(), BuildError> {
        let mut writer = DatasetWriter::create(self.data(index), meta.clone())?;
        let fingerprint = fingerprint_of_batch(entries);
        let mut report = Report { fingerprint, items: 0, skipped: Vec::new() };
        for (entry, made) in entries.iter().zip(made) {
            match made {
                Ok(made) => {
                    writer.push(&item(entry, &made, grouped))?;
                    report.items += 1;
                }
                Err(error) if skip_broken => {
                    let (source, problem) = (entry.source.clone(), error.to_string());
                    report.skipped.push(Skipped { source, problem });
                }
                Err(error) => return Err(BuildError::Item(error)),
            }
        }
        if report.items > 0 {
            writer.finish()?;
        }
        write_json(&self.report_path(index), &report)
    }

    /// Writes the dataset from all batches and removes the folder.
    fn join(
        self,
        out: &Path,
        meta: &DatasetMeta,
        batches: usize,
        entries: &[Entry],
        grouped: bool,
    ) -> Result<Built, BuildError> {
        let mut built = Built::default();
        let joined = self.folder.join("dataset.h5");
        let mut writer = DatasetWriter::create(&joined, meta.clone())?;
        let by_id: HashMap<_, _> = entries.iter().map(|entry| (entry.id.as_str(), entry)).collect();
        for index in 0..batches {
            let path = self.report_path(index);
            let lost = || std::io::Error::other("the report of a finished batch is gone");
            let report: Report = read_json(&path)
                .ok_or_else(|| BuildError::Io { path: path.clone(), source: lost() })?;
            built.items += report.items;
            built.skipped.extend(report.skipped);
            if report.items == 0 {
                continue;
            }
            let data = Dataset::open(self.data(index))?;
            for i in 0..data.len() {
                let volume = data.has_volumes().then(|| data.read(i)).transpose()?;
                let made = Made { volume, points: data.points(i)?, mesh: data.mesh(i)? };
                let entry = by_id[data.ids()[i].as_str()];
                writer.push(&item(entry, &made, grouped))?;
            }
        }
        if let (0, Some(first)) = (built.items, built.skipped.first()) {
            let (count, first) = (built.skipped.len(), first.problem.clone());
            return Err(BuildError::Nothing { path: out.to_owned(), count, first });
        }
        writer.finish_with(&built.skipped)?;
        let io = |path: &Path| {
            let path = path.to_owned();
            move |source| BuildError::Io { path, source }
        };
        fs::rename(&joined, out).and_then(|()| sync_folder_of(out)).map_err(io(out))?;
        fs::remove_dir_all(&self.folder).map_err(io(&self.folder))?;
        Ok(built)
    }
}

fn item<'a>(entry: &'a Entry, made: &'a Made, grouped: bool) -> Item<'a> {
    Item {
        volume: made.volume.as_ref(),
        label: entry.label,
        split: entry.split,
        id: &entry.id,
        group: grouped.then_some(&entry.group),
        source: Some(&entry.source),
        points: made.points.as_ref(),
        mesh: made.mesh.as_ref(),
        ..Item::default()
    }
}

fn read_json<T: DeserializeOwned>(path: &Path) -> Option<T> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

/// Writes JSON to a file that takes its place when it is on disk.
fn write_json(path: &Path, value: &impl Serialize) -> Result<(), BuildError> {
    let written = steer3d_files::write(path, &json(value));
    written.map_err(|source| BuildError::Io { path: path.to_owned(), source })
}
