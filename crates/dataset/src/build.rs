//! Building datasets of the items of any source, in parallel and in bounded memory; a build that
//! was stopped goes on where it was.
//!
//! While a build runs, the folder `OUT.partial` holds a description of it (`build.json`) and one
//! small dataset (`000000.h5`, ...) with a report (`000000.json`) for each finished batch. A later
//! build with the same options takes the finished batches of the same files from there; of an
//! archive, only if it is the same one. When all are done they are joined into the dataset, which
//! takes its place at once; then the folder goes.

use std::fs;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use steer3d_files::{AtPath, FileError, TEMPORARY, hex, sync_folder_of};

use crate::item::Item;
use crate::meta::{DatasetMeta, Skipped};
use crate::reader::Dataset;
use crate::source::{BuildError, Entry, ItemData, ItemError, ItemSource};
use crate::writer::DatasetWriter;

/// Values of the volumes of a batch, about.
const BATCH_VALUES: usize = 1 << 24;

/// Largest number of items in a batch.
const BATCH_ITEMS: usize = 256;

/// What a finished build came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
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
/// description too (the command apart); of its batches those are taken whose entries and lengths
/// of files are the same. `progress` hears how many entries are done.
///
/// # Errors
/// If an item cannot be made (unless `skip_broken`), none can, there is an unfinished build with
/// other options, or the folder of `out` cannot be written. All leave an old file `out` as it was,
/// and the finished batches to go on with.
pub fn build(
    source: &ItemSource,
    out: &Path,
    skip_broken: bool,
    progress: &(dyn Fn(usize) + Sync),
) -> Result<BuildReport, BuildError> {
    let ItemSource { meta, entries, .. } = source;
    meta.check().map_err(BuildError::meta(out))?;
    let batch = (BATCH_VALUES / meta.item_len()).clamp(1, BATCH_ITEMS);
    let batches: Vec<&[Entry]> = entries.chunks(batch).collect();
    let build = Build {
        partial: Partial::open(out, meta, &source.options)?,
        source,
        grouped: entries.iter().any(|entry| !entry.group.is_empty()),
        skip_broken,
    };
    let reports = batches.iter().enumerate();
    let reports: Vec<_> = reports.map(|(index, batch)| build.finished(index, batch)).collect();
    let resumed = reports.iter().flatten().map(|report| report.items).sum();
    let made_of = |index: usize| -> Vec<_> {
        let items = index * batch..index * batch + batches[index].len();
        items.into_par_iter().map(|item| source.item(item)).collect()
    };
    let mut missing = (0..batches.len()).filter(|&index| reports[index].is_none());
    let mut current = missing.next().map(|index| (index, made_of(index)));
    while let Some((index, made)) = current {
        let next = missing.next();
        let write = || build.write(index, batches[index], made);
        let (written, made) = rayon::join(write, || next.map(|next| (next, made_of(next))));
        written?;
        progress((index * batch + batches[index].len()).min(entries.len()));
        current = made;
    }
    Ok(BuildReport { resumed, ..build.join(out, batches.len())? })
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
    /// SHA-256 of what decides how entries become items.
    fingerprint: String,
    /// SHA-256 of the archive of all items, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    archive: Option<String>,
}

const FORMAT: &str = "steer3d-build 1";

impl Partial {
    /// Makes the folder, or takes up the one of the same build. That of another archive is of no
    /// use and begins anew.
    fn open(out: &Path, meta: &DatasetMeta, options: &str) -> Result<Self, BuildError> {
        let mut meta = meta.clone();
        meta.provenance.command.clear();
        let description = Description {
            format: FORMAT.to_owned(),
            fingerprint: hex(&Sha256::digest(json(&(&meta, options)))),
            archive: meta.provenance.sha256,
        };
        let mut name = out.as_os_str().to_owned();
        name.push(".partial");
        let partial = Self { folder: PathBuf::from(name) };
        let (folder, path) = (&partial.folder, partial.folder.join("build.json"));
        let found: Option<Description> = read_json(&path);
        let of_other_archive = |found: &Description| found.archive != description.archive;
        if found.as_ref().is_some_and(of_other_archive) {
            fs::remove_dir_all(folder).at_path(folder)?;
        } else if let Some(found) = found {
            if found.fingerprint != description.fingerprint || found.format != FORMAT {
                return Err(BuildError::OtherBuild { path: partial.folder });
            }
            partial.remove_temporary_files().at_path(folder)?;
            return Ok(partial);
        }
        if folder.is_dir() {
            partial.remove_temporary_files().at_path(folder)?;
            if fs::read_dir(folder).at_path(folder)?.next().is_some() {
                return Err(BuildError::OtherBuild { path: partial.folder });
            }
        } else {
            fs::create_dir(folder).at_path(folder)?;
        }
        write_json(&path, &description)?;
        Ok(partial)
    }

    /// Removes what a killed build had not finished.
    fn remove_temporary_files(&self) -> std::io::Result<()> {
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            if entry.file_name().as_encoded_bytes().starts_with(TEMPORARY.as_bytes()) {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }

    fn data(&self, index: usize) -> PathBuf {
        self.folder.join(format!("{index:06}.h5"))
    }

    fn report(&self, index: usize) -> PathBuf {
        self.folder.join(format!("{index:06}.json"))
    }
}

/// A build that is going on.
struct Build<'a> {
    partial: Partial,
    source: &'a ItemSource,
    /// Has any entry a group?
    grouped: bool,
    skip_broken: bool,
}

impl Build<'_> {
    /// The report of a batch that was made of the same entries and whose data are whole.
    fn finished(&self, index: usize, entries: &[Entry]) -> Option<Report> {
        let report: Report = read_json(&self.partial.report(index))?;
        let same = report.fingerprint == fingerprint_of_batch(entries)
            && (self.skip_broken || report.skipped.is_empty());
        let data = || Dataset::open(self.partial.data(index));
        let whole = || report.items == 0 || data().is_ok_and(|data| data.len() == report.items);
        (same && whole()).then_some(report)
    }

    fn writer(&self, path: PathBuf) -> Result<DatasetWriter, BuildError> {
        let writer = DatasetWriter::create(path, self.source.meta.clone())?;
        Ok(match &self.source.tasks {
            Some(tasks) => writer.with_tasks(tasks.clone())?,
            None => writer,
        })
    }

    /// Writes a batch: first its data, then its report.
    fn write(
        &self,
        index: usize,
        entries: &[Entry],
        made: Vec<Result<ItemData, ItemError>>,
    ) -> Result<(), BuildError> {
        let mut writer = self.writer(self.partial.data(index))?;
        let fingerprint = fingerprint_of_batch(entries);
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
                        ..item(&made)
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
        let mut writer = self.writer(joined.clone())?;
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
                let made = ItemData {
                    volume: data.has_volumes().then(|| data.read(i)).transpose()?,
                    points: data.points(i)?,
                    mesh: data.mesh(i)?,
                    targets: data.targets(i).to_vec(),
                    voxel_labels: data.voxel_labels(i)?,
                };
                let group = data.groups().map_or("", |groups| &groups[i]);
                writer.push(&Item {
                    label: data.labels()[i],
                    split: data.splits()[i],
                    id: &data.ids()[i],
                    group: self.grouped.then_some(group),
                    source: data.sources().map(|sources| sources[i].as_str()),
                    ..item(&made)
                })?;
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

/// The data of an item to be written, without what the list of items says of it.
fn item(made: &ItemData) -> Item<'_> {
    Item {
        volume: made.volume.as_ref(),
        points: made.points.as_ref(),
        mesh: made.mesh.as_ref(),
        targets: &made.targets,
        voxel_labels: &made.voxel_labels,
        ..Item::default()
    }
}

fn read_json<T: DeserializeOwned>(path: &Path) -> Option<T> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

/// Writes JSON to a file that takes its place when it is on disk.
fn write_json(path: &Path, value: &impl Serialize) -> Result<(), FileError> {
    steer3d_files::write(path, &json(value)).at_path(path)
}
