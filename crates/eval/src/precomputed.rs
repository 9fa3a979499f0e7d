//! Predictions made elsewhere, for volumes that were written out before.

use std::collections::HashMap;
use std::fs;
use std::io::{BufWriter, Seek, Write};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use candle_core::{DType, Device, Tensor};
use sha2::{Digest, Sha256};
use steer3d_dataset::DatasetMeta;
use steer3d_files as atomic;
use tempfile::NamedTempFile;

use crate::{EvalError, ModelError, Predictor};

const VOLUMES: &str = "volumes.npy";
const KEYS: &str = "volumes.sha256";
const PREDICTIONS: &str = "predictions.csv";

/// Bytes of the header of an NPY file, whatever the number of volumes.
const HEADER: usize = 128;

type Key = [u8; 32];

fn key(volume: &[f32]) -> Key {
    let bytes: Vec<u8> = volume.iter().flat_map(|v| v.to_le_bytes()).collect();
    Sha256::digest(bytes).into()
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
    keys: Vec<Key>,
}

impl Exporter {
    /// Begins to write to `folder`, which is made if it is missing.
    ///
    /// # Errors
    /// [`EvalError::Write`].
    pub fn new(folder: &Path, meta: &DatasetMeta) -> Result<Self, EvalError> {
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
        Ok(Self { classes: meta.class_names.len(), shape, written })
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
        let hex =
            |key: &Key| key.iter().map(|byte| format!("{byte:02x}")).collect::<String>() + "\n";
        let text: String = keys.iter().map(hex).collect();
        steer3d_nn::checkpoint::write_atomically(&folder.join(KEYS), text.as_bytes())?;
        Ok(keys.len())
    }
}

/// The header of an NPY file (format 1.0) of `n` volumes of float32.
fn header(n: usize, [c, d, h, w]: [usize; 4]) -> Vec<u8> {
    let text =
        format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({n}, {c}, {d}, {h}, {w}), }}");
    let mut header = b"\x93NUMPY\x01\x00".to_vec();
    header.extend(((HEADER - 10) as u16).to_le_bytes());
    header.extend(text.bytes());
    header.resize(HEADER - 1, b' ');
    header.push(b'\n');
    header
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

/// The logits in `predictions.csv` of a folder that an [`Exporter`] has written: a line of class names
/// (those of the dataset in any order), then a line of logits for each volume of `volumes.npy`.
#[derive(Debug)]
pub struct Precomputed {
    name: String,
    channels: usize,
    classes: usize,
    logits: HashMap<Key, Vec<f32>>,
}

impl Precomputed {
    /// Reads the predictions in `folder` for the classes of a dataset.
    ///
    /// # Errors
    /// [`EvalError::ModelFile`] naming the file and the line that is wrong.
    pub fn load(name: String, folder: &Path, meta: &DatasetMeta) -> Result<Self, EvalError> {
        let path = folder.join(PREDICTIONS);
        let keys = keys(&folder.join(KEYS))?;
        let fault = |problem: String| EvalError::ModelFile { path: path.clone(), problem };
        let mut reader = csv::Reader::from_path(&path).map_err(|e| fault(e.to_string()))?;
        let names = reader.headers().map_err(|e| fault(e.to_string()))?.clone();
        let places: Option<Vec<usize>> = meta
            .class_names
            .iter()
            .map(|class| names.iter().position(|name| name.trim() == class))
            .collect();
        let places = places.filter(|p| p.len() == names.len()).ok_or_else(|| {
            fault(format!(
                "line 1 must name the classes of dataset `{}`, {}, found {}",
                meta.name,
                meta.class_names.join(","),
                names.iter().collect::<Vec<_>>().join(",")
            ))
        })?;
        let mut rows = vec![];
        for (i, record) in reader.records().enumerate() {
            let record = record.map_err(|e| fault(e.to_string()))?;
            let number = |place: &usize| record[*place].trim().parse::<f32>().ok();
            let row: Option<Vec<f32>> = places.iter().map(number).collect();
            let row = row.filter(|row| row.iter().all(|v| v.is_finite()));
            rows.push(row.ok_or_else(|| {
                fault(format!("line {}: expected {} numbers", i + 2, places.len()))
            })?);
        }
        if rows.len() != keys.len() {
            return Err(fault(format!(
                "has {} lines of logits, but {VOLUMES} has {} volumes; write one for each",
                rows.len(),
                keys.len()
            )));
        }
        let (channels, classes) = (meta.channels, meta.class_names.len());
        Ok(Self { name, channels, classes, logits: keys.into_iter().zip(rows).collect() })
    }
}

fn keys(path: &Path) -> Result<Vec<Key>, EvalError> {
    let fault = |problem: String| EvalError::ModelFile { path: path.into(), problem };
    let text = fs::read_to_string(path)
        .map_err(|e| fault(format!("{e}; write the volumes out first (steer3d eval --export)")))?;
    let byte = |line: &str, i: usize| u8::from_str_radix(line.get(2 * i..2 * i + 2)?, 16).ok();
    let key = |line: &str| {
        let bytes: Option<Vec<u8>> = (0..32).map(|i| byte(line, i)).collect();
        bytes?.try_into().ok()
    };
    let keys = text.lines().enumerate().map(|(i, line)| {
        key(line).ok_or_else(|| fault(format!("line {}: expected 64 hexadecimal digits", i + 1)))
    });
    keys.collect()
}

impl Predictor for Precomputed {
    fn name(&self) -> &str {
        &self.name
    }

    fn classes(&self) -> usize {
        self.classes
    }

    fn channels(&self) -> usize {
        self.channels
    }

    fn logits(&self, batch: &Tensor) -> Result<Tensor, ModelError> {
        let row = |volume: &Vec<f32>| {
            self.logits.get(&key(volume)).cloned().ok_or(
                "a volume was not written out before: use the settings, the dataset and the version of steer3d of --export",
            )
        };
        let rows = volumes(batch)?.iter().map(row).collect::<Result<Vec<_>, _>>()?;
        Ok(Tensor::from_vec(rows.concat(), (rows.len(), self.classes), &Device::Cpu)?)
    }
}
