//! Networks on disk: `NAME.safetensors` holds the tensors, `NAME.toml` beside it the
//! [`ModelCard`], so that the pair needs nothing else to be used.
//!
//! Both files are written under a temporary name in the same folder, synced and renamed: a reader
//! finds the old pair or the new one, never half a file.

use std::collections::HashMap;
use std::fmt::Display;
use std::fs;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use safetensors::SafeTensors;
use safetensors::tensor::TensorView;
use serde::{Deserialize, Serialize};

use crate::{ModelConfig, Network, NnError};

/// Version of the layout of the two files.
pub const FORMAT: u32 = 1;

/// What a network is, and what it was trained for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelCard {
    /// [`FORMAT`] of the writer.
    pub format: u32,
    /// Version of steer3d that trained it.
    pub version: String,
    /// Dataset it was trained on.
    pub dataset: String,
    /// Seed of the training run.
    pub seed: u64,
    /// Name of every class, in the order of the logits.
    pub class_names: Vec<String>,
    /// Grid of the training volumes: D, H, W.
    pub dims: [usize; 3],
    /// Edges of a voxel (x, y, z).
    pub voxel_size: [f64; 3],
    /// Unit of the voxel size.
    pub unit: String,
    /// The network.
    pub model: ModelConfig,
}

/// The name under which a model's card lies beside its weights.
pub fn card_path(weights: &Path) -> PathBuf {
    weights.with_extension("toml")
}

/// Writes the network's tensors to `path` and `card` beside it.
///
/// # Errors
/// [`NnError::Checkpoint`] when a file cannot be written.
pub fn save(path: &Path, network: &Network, card: &ModelCard) -> Result<(), NnError> {
    let text = toml::to_string_pretty(card).map_err(|e| fault(path, &e))?;
    let mut arrays = vec![];
    for (name, var) in network.params().all() {
        let values: Vec<f32> = var.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?;
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        arrays.push((name, var.dims().to_vec(), bytes));
    }
    let views = arrays
        .iter()
        .map(|(name, shape, bytes)| {
            let view = TensorView::new(safetensors::Dtype::F32, shape.clone(), bytes);
            Ok((*name, view.map_err(|e| fault(path, &e))?))
        })
        .collect::<Result<Vec<_>, NnError>>()?;
    let bytes = safetensors::serialize(views, None).map_err(|e| fault(path, &e))?;
    write_atomically(&card_path(path), text.as_bytes())?;
    write_atomically(path, &bytes)
}

/// Reads a network and its card; `path` names the safetensors file.
///
/// # Errors
/// [`NnError::Checkpoint`] naming the file and what is missing, of another version, or of another
/// model.
pub fn load(path: &Path, device: &Device) -> Result<(Network, ModelCard), NnError> {
    let bytes = fs::read(path).map_err(|e| fault(path, &e))?;
    let tensors = SafeTensors::deserialize(&bytes)
        .map_err(|e| fault(path, &format!("not a safetensors file, or a damaged one: {e}")))?;
    let card = load_card(path)?;
    let network = Network::new(&card.model, card.seed, DType::F32, device)?;
    let mut unused: HashMap<String, TensorView<'_>> = tensors.tensors().into_iter().collect();
    for (name, var) in network.params().all() {
        let view = unused.remove(name).ok_or_else(|| {
            let problem = format!(
                "has no tensor '{name}', which the model in {} needs; the two files are of different models",
                card_path(path).display()
            );
            fault(path, &problem)
        })?;
        var.set(&tensor(path, name, &view, var.dims(), var.device())?)?;
    }
    if let Some(name) = unused.keys().min() {
        let problem = format!(
            "has a tensor '{name}' that the model in {} lacks; the two files are of different models",
            card_path(path).display()
        );
        return Err(fault(path, &problem));
    }
    Ok((network, card))
}

fn load_card(weights: &Path) -> Result<ModelCard, NnError> {
    let path = card_path(weights);
    let text = fs::read_to_string(&path).map_err(|e| {
        fault(&path, &format!("{e}; the model's description must lie beside its weights"))
    })?;
    let format = text.parse::<toml::Table>().map_err(|e| fault(&path, &e))?.get("format").cloned();
    if format != Some(toml::Value::Integer(FORMAT.into())) {
        let found = format.map_or_else(|| "none".into(), |v| v.to_string());
        return Err(fault(&path, &format!("expected format = {FORMAT}, found {found}")));
    }
    toml::from_str(&text).map_err(|e| fault(&path, &e))
}

fn tensor(
    path: &Path,
    name: &str,
    view: &TensorView<'_>,
    shape: &[usize],
    device: &Device,
) -> Result<Tensor, NnError> {
    if view.dtype() != safetensors::Dtype::F32 || view.shape() != shape {
        let problem = format!(
            "tensor '{name}': expected F32 of shape {shape:?}, found {:?} of shape {:?}; the weights are of another model",
            view.dtype(),
            view.shape()
        );
        return Err(fault(path, &problem));
    }
    let value = |b: &[u8]| f32::from_le_bytes([b[0], b[1], b[2], b[3]]);
    let values: Vec<f32> = view.data().chunks_exact(4).map(value).collect();
    if let Some(bad) = values.iter().find(|v| !v.is_finite()) {
        return Err(fault(path, &format!("tensor '{name}' holds {bad}")));
    }
    Ok(Tensor::from_vec(values, shape, device)?)
}

/// [`steer3d_files::write`] with an error of this crate.
///
/// # Errors
/// [`NnError::Checkpoint`] when the folder is missing or not writable, or the disk is full.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<(), NnError> {
    steer3d_files::write(path, bytes).map_err(|e| fault(path, &format!("cannot be written: {e}")))
}

fn fault(path: &Path, problem: &dyn Display) -> NnError {
    NnError::Checkpoint { path: path.into(), problem: problem.to_string() }
}
