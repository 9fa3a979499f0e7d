//! Building datasets of the items of any source, in parallel and in bounded memory; a build that
//! was stopped goes on where it was.
//!
//! While a build runs, the folder `OUT.partial` holds a description of it (`build.json`) and one
//! small dataset (`000000.h5`, ...) with a report (`000000.json`) for each finished batch. A later
//! build with the same options takes the finished batches from there whose files have the same SHA-256; of an
//! archive, only if it is the same one. When all are done they are joined into the dataset, which
//! takes its place at once; then the folder goes. It is locked, so that other builds keep out.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use nalgebra::Matrix3;
use rayon::prelude::*;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use steer3d_files::digest::sha256_of;
use steer3d_files::lock::{Lock, lock};
use steer3d_files::{AtPath, FileError, hex, is_temporary, sync_folder_of};
use steer3d_formats::companion;
use steer3d_ranks::{Rank, RankError};

use crate::error::DatasetError;
use crate::item::Item;
use crate::meta::{DatasetMeta, Grids, Skipped};
use crate::reader::Dataset;
use crate::source::{BuildError, Entry, ItemData, ItemError, ItemSource, made_with_room};
use crate::writer::DatasetWriter;

/// Values of the volumes of a batch, about.
const BATCH_VALUES: usize = 1 << 24;

/// Largest number of items in a batch.
const BATCH_ITEMS: usize = 256;

/// The same where each item has its own grid, which may be of any size.
const BATCH_GRIDS: usize = 4;

/// What a finished build came to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuildReport {
    /// Items of the dataset.
    pub items: usize,
    /// Items taken from an unfinished build.
    pub resumed: usize,
    /// Items that were left out, in order.
    pub skipped: Vec<Skipped>,
}

/// Builds the dataset `out` of the items of a source.
///
/// Batches are made in parallel while the one before is written; at most two are in memory. The
/// same source gives the same bytes, on any number of threads and however often the build was
/// stopped. An unfinished build goes on only if the source's options are the same, and its
/// description too (the command apart); of its batches those are taken whose entries and contents
/// of files (by SHA-256) are the same. `progress` hears how many entries are done.
///
/// Of several [ranks](Rank::run), which share the folder, each makes some of the batches, and the first joins them.
///
/// # Errors
/// If an item cannot be made (unless `skip_broken`), none can, there is an unfinished build with
/// other options, another process is building `out`, or the folder of `out` cannot be written. All leave an old file `out` as it was,
/// and the finished batches to go on with.
pub fn build(
    source: &ItemSource,
    out: &Path,
    skip_broken: bool,
    progress: &(dyn Fn(usize) + Sync),
) -> Result<BuildReport, BuildError> {
    let ItemSource { meta, entries, .. } = source;
    meta.check().map_err(BuildError::meta(out))?;
    let batch = match meta.grids {
        Grids::One => (BATCH_VALUES / meta.item_len()).clamp(1, BATCH_ITEMS),
        Grids::Each => BATCH_GRIDS,
    };
    let batches: Vec<&[Entry]> = entries.chunks(batch).collect();
    let rank = Rank::current();
    let mut build = Build {
        partial: Partial::of_all(&rank, out, source)?,
        source,
        grouped: entries.iter().any(|entry| !entry.group.is_empty()),
        skip_broken,
        sums: HashMap::new(),
    };
    let (mut resumed, mut missing) = (0, vec![]);
    for index in rank.own(batches.len()) {
        match build.finished(index, batches[index]) {
            Some(report) => resumed += report.items,
            None => missing.push(index),
        }
    }
    let made_of = |index: usize| {
        let items = index * batch..index * batch + batches[index].len();
        made_with_room(items, |item| source.item(item), ItemError::is_temporary)
    };
    let mut missing = missing.into_iter();
    let mut start = |build: &mut Build<'_>| {
        let index = missing.next()?;
        // Before the files are read: a change meanwhile makes a later build read them again.
        Some((index, build.fingerprint(batches[index])))
    };
    let mut current = start(&mut build).map(|(index, print)| (index, print, made_of(index)));
    while let Some((index, print, made)) = current {
        let next = start(&mut build);
        let write = || build.write(index, batches[index], print, made);
        let make = || next.map(|(next, print)| (next, print, made_of(next)));
        let (written, made) = rayon::join(write, make);
        written?;
        progress((index * batch + batches[index].len()).min(entries.len()));
        current = made;
    }
    // Batches take as long as they take, and so does joining them.
    rank.meet_patiently()?;
    let joined = rank.is_first().then(|| build.join(out, batches.len())).transpose()?;
    rank.meet_patiently()?;
    let resumed = rank.sum(&[resumed as f64])?[0] as usize;
    let joined = rank.from_first(|| Ok::<_, RankError>(json(&joined)))?;
    let joined = serde_json::from_slice(&joined).map_err(|_| RankError::Different)?;
    Ok(BuildReport { resumed, ..joined })
}

/// The files that entries are made of, but the archive of all.
fn files_of(entries: &[Entry]) -> BTreeSet<PathBuf> {
    let own = entries.iter().filter(|entry| !entry.source.is_empty());
    let own = own.flat_map(|entry| std::iter::once(&entry.path).chain(&entry.mask));
    own.flat_map(|path| [Some(path.clone()), companion(path)]).flatten().collect()
}

/// The size of a file; none of what is no file.
fn file_size(path: &Path) -> Option<u64> {
    fs::metadata(path).ok().filter(fs::Metadata::is_file).map(|found| found.len())
}

fn json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("plain data have a JSON form")
}

/// The folder of an unfinished build.
struct Partial {
    folder: PathBuf,
    /// Keeps other builds out; held by the first rank.
    _lock: Option<Lock>,
}

/// What a batch came to.
#[derive(Serialize, Deserialize)]
struct Report {
    fingerprint: String,
    items: usize,
    skipped: Vec<Skipped>,
}

/// Contents of `build.json`.
#[derive(PartialEq, Serialize, Deserialize)]
struct Description {
    format: String,
    /// SHA-256 of what decides how entries become items.
    fingerprint: String,
    /// SHA-256 of the archive of all items, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    archive: Option<String>,
}

const FORMAT: &str = "steer3d-build 2";

/// The name of the [`Description`] in the folder.
const DESCRIPTION: &str = "build.json";

impl Partial {
    /// The folder, opened by the first rank.
    fn of_all(rank: &Rank, out: &Path, source: &ItemSource) -> Result<Self, BuildError> {
        let mut meta = source.meta.clone();
        meta.provenance.command.clear();
        let description = Description {
            format: FORMAT.to_owned(),
            fingerprint: hex(&Sha256::digest(json(&(&meta, &source.options)))),
            archive: meta.provenance.sha256,
        };
        let mut name = out.as_os_str().to_owned();
        name.push(".partial");
        let folder = PathBuf::from(name);
        if rank.is_alone() {
            return Self::open(folder, &description);
        }
        rank.agree("options", description.fingerprint.as_bytes())?;
        rank.agree("source", &Sha256::digest(json(&(&description.archive, &source.entries))))?;
        let sizes: Vec<_> = files_of(&source.entries).iter().map(|path| file_size(path)).collect();
        rank.agree("sizes of the files", &Sha256::digest(json(&sizes)))?;
        let first =
            if rank.is_first() { Some(Self::open(folder.clone(), &description)?) } else { None };
        rank.meet()?;
        match first {
            Some(first) => Ok(first),
            None if read_json(&folder.join(DESCRIPTION)).as_ref() == Some(&description) => {
                Ok(Self { folder, _lock: None })
            }
            None => Err(BuildError::NotShared { path: folder, rank: rank.index() }),
        }
    }

    /// Makes the folder, or takes up the one of the same build. That of another archive is of no
    /// use and begins anew.
    fn open(folder: PathBuf, description: &Description) -> Result<Self, BuildError> {
        let path = folder.join(DESCRIPTION);
        match fs::create_dir(&folder) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => {
                return Err(BuildError::Io(FileError { path: folder, source: error }));
            }
            _ => {}
        }
        if !path.exists() && !children(&folder)?.is_empty() {
            return Err(BuildError::OtherBuild { path: folder });
        }
        let lock = lock(&folder)?;
        match read_json::<Description>(&path) {
            Some(found) if found == *description => {}
            Some(found) if found.format == FORMAT && found.archive != description.archive => {
                children(&folder)?
                    .iter()
                    .try_for_each(|path| fs::remove_file(path).at_path(path))?;
                write_json(&path, description)?;
            }
            None if !path.exists() => write_json(&path, description)?,
            _ => return Err(BuildError::OtherBuild { path: folder }),
        }
        Ok(Self { folder, _lock: Some(lock) })
    }

    fn data(&self, index: usize) -> PathBuf {
        self.folder.join(format!("{index:06}.h5"))
    }

    fn report(&self, index: usize) -> PathBuf {
        self.folder.join(format!("{index:06}.json"))
    }
}

/// The files of the folder but temporary ones.
fn children(folder: &Path) -> Result<Vec<PathBuf>, FileError> {
    let list = || fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect();
    let listed: std::io::Result<Vec<PathBuf>> = list();
    let mut paths = listed.at_path(folder)?;
    paths.retain(|path| !is_temporary(path));
    Ok(paths)
}

/// A build that is going on.
struct Build<'a> {
    partial: Partial,
    source: &'a ItemSource,
    /// Has any entry a group?
    grouped: bool,
    skip_broken: bool,
    /// SHA-256 of the files that were looked at; none where they cannot be read.
    sums: HashMap<PathBuf, Option<String>>,
}

impl Build<'_> {
    /// SHA-256 of the entries of a batch and of the contents of all files that they are made of. That of an archive is
    /// in the description.
    fn fingerprint(&mut self, entries: &[Entry]) -> String {
        let files = files_of(entries);
        let new: Vec<&PathBuf> =
            files.iter().filter(|path| !self.sums.contains_key(*path)).collect();
        let sums = new.into_par_iter().map(|path| (path.clone(), sha256_of(path).ok()));
        let sums: Vec<_> = sums.collect();
        self.sums.extend(sums);
        let sums: Vec<_> = files.iter().map(|path| &self.sums[path]).collect();
        hex(&Sha256::digest(json(&(entries, sums))))
    }

    /// The report of a batch that was made of the same entries and whose data are whole.
    fn finished(&mut self, index: usize, entries: &[Entry]) -> Option<Report> {
        let report: Report = read_json(&self.partial.report(index))?;
        let same = report.fingerprint == self.fingerprint(entries)
            && (self.skip_broken || report.skipped.is_empty());
        let data = || Dataset::open(self.partial.data(index));
        let whole = || report.items == 0 || data().is_ok_and(|data| data.len() == report.items);
        (same && whole()).then_some(report)
    }

    fn writer(&self, path: &Path, grids: Grids) -> Result<DatasetWriter, DatasetError> {
        let meta = DatasetMeta { grids, ..self.source.meta.clone() };
        DatasetWriter::of(path, meta, self.source.tasks.as_ref())
    }

    /// Whether the items of all batches need grids of their own.
    fn grids(&self, batches: usize) -> Result<Grids, DatasetError> {
        let meta = &self.source.meta;
        let common = meta.grid().ok();
        for index in (0..batches).filter(|_| meta.grids == Grids::Each) {
            let path = self.partial.data(index);
            if !path.exists() {
                continue;
            }
            let data = Dataset::open(path)?;
            let same =
                |i: usize| Some(data.grid(i)) == common && data.direction(i) == Matrix3::identity();
            if !(0..data.len()).all(same) {
                return Ok(Grids::Each);
            }
        }
        Ok(Grids::One)
    }

    /// Writes a batch: first its data, then its report.
    fn write(
        &self,
        index: usize,
        entries: &[Entry],
        fingerprint: String,
        made: Vec<Result<ItemData, ItemError>>,
    ) -> Result<(), BuildError> {
        let mut writer = self.writer(&self.partial.data(index), self.source.meta.grids)?;
        let mut report = Report { fingerprint, items: 0, skipped: Vec::new() };
        for (entry, made) in entries.iter().zip(made) {
            match made {
                Ok(made) => {
                    let (group, source) = (self.grouped.then_some(&*entry.group), &*entry.source);
                    writer.push(&Item {
                        label: entry.label,
                        split: entry.split,
                        id: &entry.id,
                        group,
                        source: (!source.is_empty()).then_some(source),
                        volume: made.volume.as_ref(),
                        direction: made.direction.as_ref(),
                        points: made.points.as_ref(),
                        mesh: made.mesh.as_ref(),
                        targets: &made.targets,
                        voxel_labels: &made.voxel_labels,
                    })?;
                    report.items += 1;
                }
                Err(error) if self.skip_broken => {
                    let named = if entry.source.is_empty() { &entry.id } else { &entry.source };
                    let (source, problem) = (named.clone(), error.to_string());
                    report.skipped.push(Skipped { source, problem });
                }
                Err(error) => return Err(BuildError::Item(error)),
            }
        }
        if report.items > 0 {
            writer.finish()?;
        }
        Ok(write_json(&self.partial.report(index), &report)?)
    }

    /// Writes the dataset from all batches and removes the folder.
    fn join(self, out: &Path, batches: usize) -> Result<BuildReport, BuildError> {
        let mut built = BuildReport::default();
        let joined = self.partial.folder.join("dataset.h5");
        let mut writer = self.writer(&joined, self.grids(batches)?)?;
        for index in 0..batches {
            let path = self.partial.report(index);
            let lost = || std::io::Error::other("the report of a finished batch is gone");
            let report: Report = read_json(&path).ok_or_else(lost).at_path(&path)?;
            built.items += report.items;
            built.skipped.extend(report.skipped);
            if report.items == 0 {
                continue;
            }
            let data = Dataset::open(self.partial.data(index))?;
            for i in 0..data.len() {
                let group = data.groups().map_or("", |groups| &groups[i]);
                writer.copy(&data, i, data.splits()[i], self.grouped.then_some(group))?;
            }
        }
        if let (0, Some(first)) = (built.items, built.skipped.first()) {
            let (count, first) = (built.skipped.len(), first.problem.clone());
            return Err(BuildError::Nothing { path: out.to_owned(), count, first });
        }
        writer.finish_with(&built.skipped)?;
        fs::rename(&joined, out).and_then(|()| sync_folder_of(out)).at_path(out)?;
        fs::remove_dir_all(&self.partial.folder).at_path(&self.partial.folder)?;
        Ok(built)
    }
}

fn read_json<T: DeserializeOwned>(path: &Path) -> Option<T> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

/// Writes JSON to a file that takes its place when it is on disk.
fn write_json(path: &Path, value: &impl Serialize) -> Result<(), FileError> {
    steer3d_files::write(path, &json(value)).at_path(path)
}
