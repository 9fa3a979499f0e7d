//! Predictions made elsewhere, for volumes that were written out before.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use candle_core::{DType, Device, Tensor};
use sha2::{Digest, Sha256};
use steer3d_dataset::{DatasetMeta, Grids};
use steer3d_files as atomic;
use steer3d_files::digest::PartHasher;
use steer3d_formats::npz::npy_header;
use tempfile::NamedTempFile;

use crate::error::EvalError;
use crate::predictor::AnswerSpec;
use crate::predictor::{AnswerKind, ModelError, Predictor};

const VOLUMES: &str = "volumes.npy";
const KEYS: &str = "volumes.sha256";
const PREDICTIONS: &str = "predictions.csv";
const ARRAY: &str = "predictions.npy";

/// The digest of a volume in hexadecimal digits.
fn key(volume: &[f32]) -> String {
    let bytes: Vec<u8> = volume.iter().flat_map(|v| v.to_le_bytes()).collect();
    atomic::hex(&Sha256::digest(bytes))
}

/// The volumes of a batch.
fn volumes(batch: &Tensor) -> Result<Vec<Vec<f32>>, ModelError> {
    Ok(batch.to_dtype(DType::F32)?.flatten_from(1)?.to_vec2()?)
}

/// Instead of a model: writes down every volume that it is asked about, for [`Precomputed`]. Its own
/// answers are zeros.
///
/// [`finish`](Self::finish) writes `volumes.npy`, float32 of shape N,C,D,H,W, and `volumes.sha256`, the
/// digest of each.
#[derive(Debug)]
pub struct Exporter {
    classes: usize,
    shape: [usize; 4],
    written: Mutex<Written>,
}

#[derive(Debug)]
struct Written {
    file: BufWriter<NamedTempFile>,
    keys: Vec<String>,
}

impl Exporter {
    /// Begins to write to `folder`, which is made if it is missing.
    ///
    /// # Errors
    /// [`EvalError::Write`].
    pub fn new(folder: &Path, meta: &DatasetMeta) -> Result<Self, EvalError> {
        if meta.grids == Grids::Each {
            let advice = "build it with one (--size, --fit)";
            return Err(EvalError::missing(meta, "one grid for all volumes", advice));
        }
        let [d, h, w] = meta.dims;
        let shape = [meta.channels, d, h, w];
        let start = || {
            fs::create_dir_all(folder)?;
            let mut file = BufWriter::new(atomic::temporary_beside(&folder.join(VOLUMES))?);
            file.write_all(&header(0, shape))?;
            Ok(file)
        };
        let file = start().map_err(|source| EvalError::Write { path: folder.into(), source })?;
        let written = Mutex::new(Written { file, keys: vec![] });
        // Answers have one number where there are no classes.
        Ok(Self { classes: meta.class_names.len().max(1), shape, written })
    }

    /// Completes the files in `folder`; gives the number of volumes.
    ///
    /// # Errors
    /// [`EvalError::Write`].
    pub fn finish(self, folder: &Path) -> Result<usize, EvalError> {
        let Written { mut file, keys } =
            self.written.into_inner().unwrap_or_else(PoisonError::into_inner);
        let path = folder.join(VOLUMES);
        let volumes = || {
            file.rewind()?;
            file.write_all(&header(keys.len(), self.shape))?;
            let file = file.into_inner().map_err(std::io::IntoInnerError::into_error)?;
            atomic::persist(file, &path)
        };
        volumes().map_err(|source| EvalError::Write { path: path.clone(), source })?;
        let text: String = keys.iter().map(|key| format!("{key}\n")).collect();
        let path = folder.join(KEYS);
        atomic::write(&path, text.as_bytes())
            .map_err(|source| EvalError::Write { path, source })?;
        Ok(keys.len())
    }
}

/// The header of an NPY file of `n` volumes of float32: 128 bytes, whatever their number.
fn header(n: usize, [c, d, h, w]: [usize; 4]) -> Vec<u8> {
    npy_header("<f4", &[n, c, d, h, w])
}

impl Predictor for Exporter {
    fn name(&self) -> &'static str {
        "export"
    }

    fn classes(&self) -> usize {
        self.classes
    }

    fn channels(&self) -> usize {
        self.shape[0]
    }

    fn logits(&self, batch: &Tensor) -> Result<Tensor, ModelError> {
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        for volume in volumes(batch)? {
            written.keys.push(key(&volume));
            for value in volume {
                written.file.write_all(&value.to_le_bytes())?;
            }
        }
        Ok(Tensor::zeros((batch.dim(0)?, self.classes), DType::F32, &Device::Cpu)?)
    }
}

/// The answers in a folder that an [`Exporter`] has written: `predictions.npy`, little-endian float32 in C order of
/// shape N,K, or N,K,D,H,W for labels of voxels, a row for each volume of `volumes.npy`; or
/// `predictions.csv`, a line of names (the classes of the dataset, or the numbers of the values from 0, in any
/// order), then a line of K numbers for each volume.
#[derive(Debug)]
pub struct Precomputed {
    name: String,
    spec: AnswerSpec,
    /// The file of the answers.
    path: PathBuf,
    /// The place of the answer to a volume.
    places: HashMap<String, usize>,
    answers: Mutex<Answers>,
}

#[derive(Debug)]
enum Answers {
    Rows(Vec<Vec<f32>>),
    /// A file, and the byte at which the rows begin.
    Array(File, u64),
}

impl Precomputed {
    /// Reads the predictions in `folder` for what a dataset asks; those of an array when they are needed.
    ///
    /// # Errors
    /// [`EvalError::ModelFile`] naming the file and the line that is wrong.
    pub fn load(name: String, folder: &Path, spec: AnswerSpec) -> Result<Self, EvalError> {
        let keys = keys(&folder.join(KEYS))?;
        let is_array = folder.join(ARRAY).is_file();
        let path = folder.join(if is_array { ARRAY } else { PREDICTIONS });
        let answers = match is_array {
            true => array(&path, &spec.shape(keys.len()))
                .map_err(|problem| EvalError::ModelFile { path: path.clone(), problem })?,
            false => table(&path, &spec, keys.len())?,
        };
        let places = keys.into_iter().enumerate().map(|(i, key)| (key, i)).collect();
        Ok(Self { name, spec, path, places, answers: Mutex::new(answers) })
    }
}

/// The array of a file, whose shape is checked.
fn array(path: &Path, shape: &[usize]) -> Result<Answers, String> {
    let (mut start, mut text) = ([0; 10], vec![]);
    let mut open = || {
        let mut file = File::open(path)?;
        file.read_exact(&mut start)?;
        text.resize(u16::from_le_bytes([start[8], start[9]]).into(), 0);
        file.read_exact(&mut text)?;
        Ok(file)
    };
    let file = open().map_err(|e: std::io::Error| e.to_string())?;
    let begin = (start.len() + text.len()) as u64;
    let text: String = String::from_utf8_lossy(&text).split_whitespace().collect();
    let sizes = shape.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    let shape = format!("'shape':({sizes})");
    let parts = ["'descr':'<f4'", "'fortran_order':False", &shape];
    if start.starts_with(b"\x93NUMPY\x01") && parts.iter().all(|part| text.contains(part)) {
        return Ok(Answers::Array(file, begin));
    }
    Err(format!("expected an array of '<f4' in C order of shape ({sizes}), found {text}"))
}

/// The rows of a table.
fn table(path: &Path, spec: &AnswerSpec, volumes: usize) -> Result<Answers, EvalError> {
    let fault = |problem: String| EvalError::ModelFile { path: path.into(), problem };
    if spec.kind == AnswerKind::Voxels {
        return Err(fault(format!("labels of voxels are read from {ARRAY}")));
    }
    let mut reader = csv::Reader::from_path(path).map_err(|e| fault(e.to_string()))?;
    let names = reader.headers().map_err(|e| fault(e.to_string()))?.clone();
    let places: Option<Vec<usize>> =
        spec.names.iter().map(|class| names.iter().position(|name| name.trim() == class)).collect();
    let places = places.filter(|p| p.len() == names.len()).ok_or_else(|| {
        fault(format!(
            "line 1 must name the classes of dataset `{}`, {}, found {}",
            spec.dataset,
            spec.names.join(","),
            names.iter().collect::<Vec<_>>().join(",")
        ))
    })?;
    let mut rows = vec![];
    for (i, record) in reader.records().enumerate() {
        let record = record.map_err(|e| fault(e.to_string()))?;
        let number = |place: &usize| record[*place].trim().parse::<f32>().ok();
        let row: Option<Vec<f32>> = places.iter().map(number).collect();
        let row = row.filter(|row| row.iter().all(|v| v.is_finite()));
        rows.push(
            row.ok_or_else(|| fault(format!("line {}: expected {} numbers", i + 2, places.len())))?,
        );
    }
    if rows.len() != volumes {
        return Err(fault(format!(
            "has {} lines of logits, but {VOLUMES} has {} volumes; write one for each",
            rows.len(),
            volumes
        )));
    }
    Ok(Answers::Rows(rows))
}

fn keys(path: &Path) -> Result<Vec<String>, EvalError> {
    let fault = |problem: String| EvalError::ModelFile { path: path.into(), problem };
    let text = fs::read_to_string(path)
        .map_err(|e| fault(format!("{e}; write the volumes out first (steer3d eval --export)")))?;
    let digits = |line: &str| line.len() == 64 && line.bytes().all(|b| b.is_ascii_hexdigit());
    match text.lines().position(|line| !digits(line)) {
        Some(i) => Err(fault(format!("line {}: expected 64 hexadecimal digits", i + 1))),
        None => Ok(text.lines().map(str::to_ascii_lowercase).collect()),
    }
}

impl Predictor for Precomputed {
    fn name(&self) -> &str {
        &self.name
    }

    fn spec(&self) -> Option<&AnswerSpec> {
        Some(&self.spec)
    }

    fn answers_all(&self) -> bool {
        false
    }

    fn fingerprint(&self) -> Option<String> {
        let mut print = PartHasher::default();
        print.add_file(&self.path.with_file_name(KEYS)).ok()?;
        print.add_file(&self.path).ok()?;
        Some(print.text())
    }

    fn logits(&self, batch: &Tensor) -> Result<Tensor, ModelError> {
        let volumes = volumes(batch)?;
        let shape = self.spec.shape(volumes.len());
        let length: usize = shape[1..].iter().product();
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        let mut rows = Vec::with_capacity(volumes.len() * length);
        for volume in volumes {
            let place = *self.places.get(&key(&volume)).ok_or(
                "a volume was not written out before: use the settings, the dataset and the version of steer3d of --export",
            )?;
            match &mut *answers {
                Answers::Rows(all) => rows.extend_from_slice(&all[place]),
                Answers::Array(file, start) => {
                    let mut bytes = vec![0; 4 * length];
                    file.seek(SeekFrom::Start(*start + (place * bytes.len()) as u64))?;
                    file.read_exact(&mut bytes)?;
                    let value = |b: &[u8]| f32::from_le_bytes([b[0], b[1], b[2], b[3]]);
                    rows.extend(bytes.chunks_exact(4).map(value));
                }
            }
        }
        Ok(Tensor::from_vec(rows, shape, &Device::Cpu)?)
    }
}
