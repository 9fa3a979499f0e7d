//! Trainings on disk: everything that going on bit for bit needs.
//!
//! A state is one file: the line `steer3d training state 1`, the SHA-256 of what follows in
//! hexadecimal on a line of its own, and a safetensors file whose metadata holds a [`StateHeader`] as
//! JSON. Files are written under a temporary name, synced and renamed; `step-00000120.state` is the
//! state after optimiser step 120.

use std::collections::HashMap;
use std::fmt::Display;
use std::fs;
use std::path::{Path, PathBuf};

use candle_core::safetensors::Load;
use candle_core::{Device, Tensor};
use safetensors::SafeTensors;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use steer3d_files::lock::{Lock, lock};
use steer3d_files::{hex, temporary_beside};
use steer3d_nn::ModelConfig;

use crate::config::TrainConfig;
use crate::error::TrainError;
use crate::progress::Progress;

/// Version of the layout that is written, and the only one that is read.
pub const FORMAT: u32 = 1;

const MAGIC: &str = "steer3d training state ";
/// Hexadecimal digits of a SHA-256.
const DIGITS: usize = 64;
const ENDING: &str = "state";
/// Key of the header in the metadata of the tensors.
const HEADER: &str = "header";

/// What a training is, and how far it has come.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StateHeader {
    /// Version of steer3d that wrote it.
    pub version: String,
    /// The network.
    pub model: ModelConfig,
    /// The settings.
    pub config: TrainConfig,
    /// Name of the dataset.
    pub dataset: String,
    /// [`Dataset::digest`](steer3d_dataset::Dataset::digest) of it, in hexadecimal.
    pub digest: String,
    /// On how many devices it is trained.
    #[serde(default = "one")]
    pub devices: usize,
    /// How far it has come.
    pub progress: Progress,
}

fn one() -> usize {
    1
}

/// A training that can go on.
#[derive(Debug)]
pub struct TrainingState {
    /// The file it was read from.
    pub path: PathBuf,
    /// What the training is.
    pub header: StateHeader,
    /// By kind and name of the parameter: `weights/head.weight`.
    pub(crate) tensors: HashMap<String, Tensor>,
}

/// The newest state of a folder, by its step; `None` if there is none, or no folder.
///
/// # Errors
/// [`TrainError::State`] if the folder cannot be read.
pub fn latest(folder: &Path) -> Result<Option<PathBuf>, TrainError> {
    Ok(states(folder)?.pop())
}

/// The states of a folder, oldest first.
fn states(folder: &Path) -> Result<Vec<PathBuf>, TrainError> {
    let step = |path: &Path| -> Option<u64> {
        let ours = path.extension().is_some_and(|e| e == ENDING);
        path.file_stem()?.to_str()?.strip_prefix("step-")?.parse().ok().filter(|_| ours)
    };
    let mut found: Vec<(u64, PathBuf)> =
        entries(folder)?.into_iter().filter_map(|path| Some((step(&path)?, path))).collect();
    found.sort();
    Ok(found.into_iter().map(|(_, path)| path).collect())
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>, TrainError> {
    if !folder.exists() {
        return Ok(vec![]);
    }
    let list = || fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect();
    let listed: std::io::Result<Vec<PathBuf>> = list();
    listed.map_err(|e| fault(folder, &e))
}

/// Removes all states but the last `keep`.
pub(crate) fn prune(folder: &Path, keep: usize) -> Result<(), TrainError> {
    let mut states = states(folder)?;
    states.truncate(states.len().saturating_sub(keep));
    states.iter().try_for_each(|path| fs::remove_file(path).map_err(|e| fault(path, &e)))
}

/// The name of the state after a step.
pub(crate) fn path_of(folder: &Path, step: usize) -> PathBuf {
    folder.join(format!("step-{step:08}.{ENDING}"))
}

/// Makes the folder where it is missing, locks it against other trainings, and checks that a file can be written and
/// that there is room for `bytes`.
pub(crate) fn prepare(folder: &Path, bytes: u64) -> Result<Lock, TrainError> {
    let problem = |e: std::io::Error| fault(folder, &format!("cannot be written: {e}"));
    fs::create_dir_all(folder).map_err(problem)?;
    let lock = lock(folder).map_err(|_| {
        let busy = "another training is writing here; wait for its end, or take another folder";
        fault(folder, &busy)
    })?;
    temporary_beside(&path_of(folder, 0)).map_err(problem)?;
    let free = fs4::available_space(folder).map_err(problem)?;
    if free < bytes {
        let mb = |bytes: u64| bytes as f64 / 1e6;
        return Err(fault(
            folder,
            &format!(
                "{:.2} MB are free, but the states and the model of this training need {:.2} MB; free some space or keep fewer states",
                mb(free),
                mb(bytes)
            ),
        ));
    }
    Ok(lock)
}

/// Writes a state.
pub(crate) fn write(
    path: &Path,
    header: &StateHeader,
    tensors: &[(String, Tensor)],
) -> Result<(), TrainError> {
    let json = serde_json::to_string(header).map_err(|e| fault(path, &e))?;
    let metadata = HashMap::from([(HEADER.to_owned(), json)]);
    let views = tensors.iter().map(|(name, tensor)| (name, tensor));
    let content = safetensors::serialize(views, Some(metadata)).map_err(|e| fault(path, &e))?;
    let sum = hex(&Sha256::digest(&content));
    let mut bytes = format!("{MAGIC}{FORMAT}\n{sum}\n").into_bytes();
    bytes.extend(content);
    steer3d_files::write(path, &bytes)
        .map_err(|error| fault(path, &format!("cannot be written: {error}")))
}

/// Reads a state, its tensors onto `device`.
///
/// # Errors
/// [`TrainError::State`] for a file that is missing, no state, of another version, or damaged.
pub fn read(path: &Path, device: &Device) -> Result<TrainingState, TrainError> {
    of_bytes(path, &fs::read(path).map_err(|e| fault(path, &e))?, device)
}

/// The state that the bytes of the file `path` are.
///
/// # Errors
/// As [`read`].
pub fn of_bytes(path: &Path, bytes: &[u8], device: &Device) -> Result<TrainingState, TrainError> {
    let rest = bytes.strip_prefix(MAGIC.as_bytes());
    let Some((format, rest)) = rest.and_then(|rest| line(rest, 10)) else {
        return Err(fault(path, &format!("expected a file that begins `{MAGIC}{FORMAT}`")));
    };
    if format != FORMAT.to_string() {
        let problem = format!(
            "expected format {FORMAT}, found {format}; go on with the version of steer3d that wrote it, or train anew"
        );
        return Err(fault(path, &problem));
    }
    let damaged = |what: &dyn Display| {
        fault(
            path,
            &format!("damaged or cut short ({what}); delete it to go on from an older state"),
        )
    };
    let Some((sum, content)) = line(rest, DIGITS) else {
        return Err(damaged(&"no checksum"));
    };
    let found = hex(&Sha256::digest(content));
    if sum != found {
        return Err(damaged(&format!("expected the SHA-256 {sum}, found {found}")));
    }
    let (_, metadata) = SafeTensors::read_metadata(content).map_err(|e| damaged(&e))?;
    let json = metadata.metadata().as_ref().and_then(|m| m.get(HEADER));
    let json = json.ok_or_else(|| damaged(&"no header"))?;
    let header = serde_json::from_str(json).map_err(|e| {
        fault(path, &format!("written by another version of steer3d, whose settings are unknown here ({e}); go on with that version, or train anew"))
    })?;
    let tensors = SafeTensors::deserialize(content).map_err(|e| damaged(&e))?;
    let loaded = |(name, view): (String, safetensors::tensor::TensorView<'_>)| {
        // CUDA has no empty tensors.
        let device = if view.data().is_empty() { &Device::Cpu } else { device };
        Ok((name, view.load(device)?))
    };
    let tensors = tensors.tensors().into_iter().map(loaded).collect::<Result<_, TrainError>>()?;
    Ok(TrainingState { path: path.into(), header, tensors })
}

/// The text before the first line break, if it comes after at most `limit` bytes, and what follows.
fn line(bytes: &[u8], limit: usize) -> Option<(&str, &[u8])> {
    let end = bytes.iter().take(limit + 1).position(|byte| *byte == b'\n')?;
    Some((std::str::from_utf8(&bytes[..end]).ok()?, &bytes[end + 1..]))
}

pub(crate) fn fault(path: &Path, problem: &dyn Display) -> TrainError {
    TrainError::State { path: path.into(), problem: problem.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_for_one_training_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let first = prepare(folder.path(), 1).unwrap();
        let message = prepare(folder.path(), 1).unwrap_err().to_string();
        assert!(message.contains("another training is writing here"), "{message}");
        drop(first);
        assert!(prepare(folder.path(), 1).is_ok());
    }

    #[test]
    fn too_little_room_is_reported_with_both_sizes() {
        let folder = tempfile::tempdir().unwrap();
        let message = prepare(folder.path(), u64::MAX).unwrap_err().to_string();
        assert!(
            message.contains("MB are free") && message.contains("18446744073709.55"),
            "{message}"
        );
        assert!(prepare(folder.path(), 1).is_ok());
    }
}
