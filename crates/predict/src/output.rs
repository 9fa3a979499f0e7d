//! Records in a file: a table, lines of JSON, or arrays.

use std::collections::BTreeSet;
use std::fs::{Metadata, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::Serialize;
use sha2::{Digest, Sha256};
use steer3d_eval::AnswerKind;
use steer3d_files::lock::{Lock, lock};
use steer3d_files::{AtPath, hex, write_with};
use steer3d_formats::companion;
use steer3d_formats::npz::{npy, npz};
use steer3d_ranks::{Rank, RankError};

use crate::error::PredictError;
use crate::inputs::{Inputs, digest_of, file_of};
use crate::journal::{Journal, Kept};
use crate::model::Model;
use crate::options::Options;
use crate::record::{Answer, Named, Record, values};

/// How records are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A table, a row for each item (`.csv`).
    Csv,
    /// An object of JSON in each line, for each item (`.jsonl`).
    JsonLines,
    /// Arrays of NumPy (`.npz`).
    Npz,
}

impl Kind {
    /// The kind that the extension of a file names.
    ///
    /// # Errors
    /// If it names none.
    pub fn of(path: &Path) -> Result<Self, PredictError> {
        let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default();
        match extension.to_ascii_lowercase().as_str() {
            "csv" => Ok(Self::Csv),
            "jsonl" | "json" | "ndjson" => Ok(Self::JsonLines),
            "npz" => Ok(Self::Npz),
            _ => Err(PredictError::output(
                path,
                &"expected a name that ends in .csv, .jsonl or .npz",
            )),
        }
    }
}

/// All that the records of a run depend on, but the contents of single files.
#[derive(Serialize)]
pub struct Identity<'a> {
    version: &'static str,
    model: String,
    options: &'a Options,
    digests: &'a [String],
    items: String,
}

impl<'a> Identity<'a> {
    /// That of a run.
    ///
    /// # Errors
    /// If the weights cannot be read from their device.
    pub fn new(
        model: &Model,
        inputs: &'a Inputs,
        options: &'a Options,
    ) -> Result<Self, PredictError> {
        let mut names = Sha256::new();
        for input in &inputs.items {
            for text in [input.name.as_str(), input.map.0.as_str(), input.map.1.extension()] {
                names.update((text.len() as u64).to_le_bytes());
                names.update(text);
            }
        }
        Ok(Self {
            version: env!("CARGO_PKG_VERSION"),
            model: model.fingerprint()?,
            options,
            digests: &inputs.digests,
            items: hex(&names.finalize()),
        })
    }

    /// Checks that all ranks have the same, and files of the same sizes as `inputs`. The sizes are no part of what records
    /// depend on, since a file that changes leaves those of the others as they are.
    ///
    /// # Errors
    /// As [`Rank::agree`].
    pub fn agree(&self, rank: &Rank, inputs: &Inputs) -> Result<(), RankError> {
        if rank.is_alone() {
            return Ok(());
        }
        rank.agree("model, options or inputs", &json(self))?;
        let files = inputs.items.iter().filter_map(file_of);
        let files = files.flat_map(|path| [Some(path.to_owned()), companion(path)]).flatten();
        let files: BTreeSet<PathBuf> = files.collect();
        let size = |path: &PathBuf| {
            let found = std::fs::metadata(path).ok().filter(Metadata::is_file);
            found.map(|found| found.len())
        };
        let sizes: Vec<_> = files.iter().map(size).collect();
        rank.agree("sizes of the inputs", &Sha256::digest(json(&sizes)))
    }
}

fn json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("plain data have a JSON form")
}

/// A file of records. While a run goes on they are kept in `FILE.partial`; the file itself appears when all are there.
#[derive(Debug)]
pub struct Output {
    path: PathBuf,
    kind: Kind,
    partial: PathBuf,
    journal: Journal,
    records: Vec<Record>,
    _lock: Lock,
}

impl Output {
    /// Begins a file, whose folder is made if it is missing, or with `resume` takes up the records of an unfinished run of
    /// the same model, options and inputs, as far as the files that they are of have not changed.
    ///
    /// # Errors
    /// If the extension names no [`Kind`], the folder cannot be written, or another process writes there.
    pub fn open(
        path: &Path,
        identity: &Identity<'_>,
        inputs: &Inputs,
        resume: bool,
    ) -> Result<Self, PredictError> {
        let kind = Kind::of(path)?;
        if path.is_dir() {
            return Err(PredictError::output(path, &"expected a file, found a folder"));
        }
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            std::fs::create_dir_all(folder).at_path(folder)?;
        }
        let mut partial = path.as_os_str().to_owned();
        partial.push(".partial");
        let partial = PathBuf::from(partial);
        let identity = serde_json::to_string(identity).expect("plain data have a JSON form");
        let mut options = OpenOptions::new();
        options.create(true).append(true).open(&partial).at_path(path)?;
        let lock = lock(&partial).map_err(|busy| PredictError::output(path, &busy))?;
        let (mut journal, kept) = Journal::open(&partial, &identity, resume)?;
        let unchanged = |(kept, input): (&Kept, &crate::Input)| {
            kept.record.item == input.name
                && kept.sha256 == file_of(input).and_then(|path| digest_of(path).ok())
        };
        let good = kept.iter().zip(&inputs.items).take_while(|pair| unchanged(*pair)).count();
        if good < kept.len() {
            journal.cut(&identity, &kept[..good])?;
        }
        let records = kept.into_iter().take(good).map(|kept| kept.record).collect();
        Ok(Self { path: path.to_owned(), kind, partial, journal, records, _lock: lock })
    }

    /// Records that are there.
    pub fn records(&self) -> &[Record] {
        &self.records
    }

    /// Adds the record of the next item, of a file of this SHA-256.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn add(&mut self, record: Record, sha256: Option<String>) -> Result<(), PredictError> {
        let kept = Kept { sha256, record };
        self.journal.add(&kept)?;
        self.records.push(kept.record);
        Ok(())
    }

    /// Writes the file.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn finish(self, model: &Model) -> Result<(), PredictError> {
        let classes = model.classes();
        let records = &self.records;
        write_with(&self.path, |file| match self.kind {
            Kind::Csv => {
                let columns = Columns::of(model, records);
                let mut table = csv::Writer::from_writer(file);
                table.write_record(columns.header())?;
                records.iter().try_for_each(|record| table.write_record(columns.row(record)))?;
                table.flush()
            }
            Kind::JsonLines => records.iter().try_for_each(|record| {
                serde_json::to_writer(&mut *file, record)?;
                file.write_all(b"\n")
            }),
            Kind::Npz => file.write_all(&arrays(&classes, records)?),
        })
        .map_err(|e| PredictError::output(&self.path, &e))?;
        std::fs::remove_file(&self.partial).map_err(|e| PredictError::output(&self.partial, &e))
    }
}

/// Whether any record has several rotations, and the number of features.
fn extent(records: &[Record]) -> (bool, usize) {
    let several = records.iter().any(|record| record.stability.is_some());
    let features = records.iter().filter_map(|record| Some(record.features.as_ref()?.len()));
    (several, features.max().unwrap_or(0))
}

/// The columns of a table of records.
struct Columns {
    classes: Vec<String>,
    /// Those of the answer.
    answer: Vec<String>,
    several: bool,
    features: usize,
}

impl Columns {
    fn of(model: &Model, records: &[Record]) -> Self {
        let classes = model.classes();
        let each = |what: &str| -> Vec<String> {
            classes.iter().map(|name| format!("{what} {name}")).collect()
        };
        let answer = match model.answers() {
            AnswerKind::Classes => ["class", "probability", "next", "next_probability"]
                .map(String::from)
                .into_iter()
                .chain(each("probability"))
                .collect(),
            AnswerKind::Voxels => ["map".to_owned()].into_iter().chain(each("share")).collect(),
            AnswerKind::Values => value_columns(model),
        };
        let (several, features) = extent(records);
        Self { classes, answer, several, features }
    }

    fn header(&self) -> Vec<String> {
        let stability = ["rotations", "agreement", "deviation"].map(String::from);
        let stability = stability.into_iter().filter(|_| self.several);
        let features = (0..self.features).map(|i| format!("feature {i}"));
        let last = ["unlike", "warnings", "error"].map(String::from);
        let all = ["item".to_owned()].into_iter().chain(self.answer.iter().cloned());
        all.chain(stability).chain(last).chain(features).collect()
    }

    fn row(&self, record: &Record) -> Vec<String> {
        let texts = |numbers: &[f64]| numbers.iter().map(ToString::to_string).collect::<Vec<_>>();
        let mut row = match &record.answer {
            Some(Answer::Classes { class, probabilities, best, next }) => {
                let name = |class: usize| self.classes[class].clone();
                let of = |class: usize| probabilities[class].to_string();
                let next = next.map_or_else(Default::default, |next| [name(next), of(next)]);
                [vec![class.clone(), of(*best)], next.to_vec(), texts(probabilities)].concat()
            }
            Some(Answer::Voxels { shares, map }) => {
                [vec![map.clone().unwrap_or_default()], texts(shares)].concat()
            }
            Some(Answer::Values(named)) => {
                named.iter().flat_map(|n| texts(&n.components)).collect()
            }
            None => vec![],
        };
        row.resize(self.answer.len(), String::new());
        row.insert(0, record.item.clone());
        let number = |value: Option<f64>| value.map_or_else(String::new, |value| value.to_string());
        if self.several {
            row.push(record.stability.map_or_else(String::new, |s| s.rotations.to_string()));
            row.push(number(record.stability.and_then(|s| s.agreement)));
            row.push(number(record.stability.map(|s| s.deviation)));
        }
        row.push(number(record.unlike));
        row.push(record.warnings.join("; "));
        row.push(record.error.clone().unwrap_or_default());
        let mut features: Vec<String> =
            record.features.iter().flatten().map(ToString::to_string).collect();
        features.resize(self.features, String::new());
        row.extend(features);
        row
    }
}

/// Names, units and components of values.
fn value_columns(model: &Model) -> Vec<String> {
    let meaning = &model.card().meaning;
    let zeros = vec![0.0; model.targets().dim()];
    let (names, units) = (&meaning.target_names, &meaning.target_units);
    let (answer, _) = values(&model.targets(), names, units, &[zeros]);
    let Answer::Values(named) = answer else { return vec![] };
    let of = |named: &Named| {
        let unit = if named.unit.is_empty() { String::new() } else { format!(" ({})", named.unit) };
        let count = named.components.len();
        let part = |i: usize| match count {
            1 => String::new(),
            3 => format!(" {}", ["x", "y", "z"][i]),
            _ => format!(" {i}"),
        };
        (0..count).map(|i| format!("{}{}{unit}", named.name, part(i))).collect::<Vec<_>>()
    };
    named.iter().flat_map(of).collect()
}

/// `items` and `classes` (texts), `answers` (probabilities, values or shares, a row for each item; NaN where there is
/// none), `unlike`, and if there are some `features`, `agreement` and `deviation`.
fn arrays(classes: &[String], records: &[Record]) -> std::io::Result<Vec<u8>> {
    let numbers = |record: &Record| -> Vec<f64> {
        match &record.answer {
            Some(Answer::Classes { probabilities, .. }) => probabilities.clone(),
            Some(Answer::Voxels { shares, .. }) => shares.clone(),
            Some(Answer::Values(named)) => {
                named.iter().flat_map(|n| n.components.clone()).collect()
            }
            None => vec![],
        }
    };
    let rows: Vec<Vec<f64>> = records.iter().map(numbers).collect();
    let (several, features) = extent(records);
    let each = |of: &dyn Fn(&Record) -> Option<f64>| {
        reals(1, &records.iter().map(|r| vec![of(r).unwrap_or(f64::NAN)]).collect::<Vec<_>>())
    };
    let items: Vec<&str> = records.iter().map(|record| record.item.as_str()).collect();
    let names: Vec<&str> = classes.iter().map(String::as_str).collect();
    let mut all = vec![
        ("items", texts(&items)),
        ("classes", texts(&names)),
        ("answers", reals(0, &rows)),
        ("unlike", each(&|record| record.unlike)),
    ];
    if several {
        all.push(("agreement", each(&|record| record.stability?.agreement)));
        all.push(("deviation", each(&|record| Some(record.stability?.deviation))));
    }
    if features > 0 {
        let of = |record: &Record| record.features.iter().flatten().map(|&x| x.into()).collect();
        all.push(("features", reals(0, &records.iter().map(of).collect::<Vec<_>>())));
    }
    npz(&all)
}

/// Rows of f64, filled up with NaN; of one axis if `axes` is 1.
fn reals(axes: usize, rows: &[Vec<f64>]) -> Vec<u8> {
    let width = rows.iter().map(Vec::len).max().unwrap_or(0);
    let padded = rows
        .iter()
        .flat_map(|row| row.iter().copied().chain(std::iter::repeat(f64::NAN)).take(width));
    let bytes: Vec<u8> = padded.flat_map(f64::to_le_bytes).collect();
    let shape = if axes == 1 { vec![rows.len()] } else { vec![rows.len(), width] };
    npy("<f8", &shape, &bytes)
}

/// Texts as UTF-32 of one length.
fn texts(texts: &[&str]) -> Vec<u8> {
    let width = texts.iter().map(|text| text.chars().count()).max().unwrap_or(0).max(1);
    let padded = texts
        .iter()
        .flat_map(|text| text.chars().map(u32::from).chain(std::iter::repeat(0)).take(width));
    let bytes: Vec<u8> = padded.flat_map(u32::to_le_bytes).collect();
    npy(&format!("<U{width}"), &[texts.len()], &bytes)
}
