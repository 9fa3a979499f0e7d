//! Networks on disk: one safetensors file holds the tensors and, as TOML text in its metadata under the key
//! `steer3d`, the [`ModelCard`], so that it needs nothing else to be used.
//!
//! The file is written under a temporary name in the same folder, synced and renamed: a reader finds the old model or
//! the new one. Equal models are equal bytes. Models of two files, whose card lies beside the weights as `NAME.toml`,
//! are read too.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Display;
use std::fs;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use candle_core::safetensors::Load;
use candle_core::{DType, Device, Tensor};
use safetensors::SafeTensors;
use serde::{Deserialize, Serialize};
use steer3d_files::memory;
use steer3d_so3::Irreps;

use crate::{ModelConfig, Network, NnError, Params, Typical};

/// Version of the card.
pub const FORMAT: u32 = 1;

/// The key of the card in the metadata.
pub(crate) const CARD: &str = "steer3d";

/// The card in a model file: what the network is, and what it was trained for.
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
    /// What volumes and answers mean beyond that.
    #[serde(default)]
    pub meaning: Meaning,
    /// What it was trained on, and how well it answers.
    #[serde(default)]
    pub origin: Origin,
    /// The network.
    pub model: ModelConfig,
}

/// What the numbers of volumes and answers mean; empty in cards of older versions.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Meaning {
    /// How the channels of the volumes turn.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub irreps: Option<Irreps>,
    /// What the channels are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub channels: Option<String>,
    /// Name of every class of voxels, in the order of the logits.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub voxel_classes: Vec<String>,
    /// How the target values turn.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub targets: Option<Irreps>,
    /// Names of the target values, one for each field.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub target_names: Vec<String>,
    /// Their units.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub target_units: Vec<String>,
    /// All that turns a file into a volume; `steer3d_dataset::Recipe` says what it holds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recipe: Option<toml::Table>,
}

/// What is known of a model beyond what it needs to answer; empty in cards of older versions.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Origin {
    /// Where the training data come from, and whom to credit.
    pub source: String,
    /// Their licence.
    pub licence: String,
    /// Digest of the dataset, SHA-256 in hexadecimal.
    pub data_sha256: String,
    /// How right it is on the test items, under each condition of the evaluation after the training.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub scores: Vec<Score>,
    /// What its features of typical volumes are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub typical: Option<Typical>,
}

/// How right a model is under one condition.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Score {
    /// What was rotated or moved.
    pub source: String,
    /// What was done to the items.
    pub condition: String,
    /// What is given, such as `accuracy`.
    pub measure: String,
    /// Its value.
    pub value: f64,
}

/// Writes the network's tensors and `card` to `path`.
///
/// # Errors
/// [`NnError::Checkpoint`] when the file cannot be written.
pub fn save(path: &Path, network: &Network, card: &ModelCard) -> Result<(), NnError> {
    let text = toml::to_string_pretty(card).map_err(|e| fault(path, &e))?;
    let tensors = network
        .params()
        .all()
        .map(|(name, var)| Ok((name, var.detach().to_dtype(DType::F32)?.to_device(&Device::Cpu)?)));
    let tensors = tensors.collect::<Result<Vec<_>, NnError>>()?;
    let metadata = Some(HashMap::from([(CARD.into(), text)]));
    let bytes = safetensors::serialize(tensors, metadata).map_err(|e| fault(path, &e))?;
    steer3d_files::write(path, &bytes).map_err(|e| fault(path, &format!("cannot be written: {e}")))
}

/// Reads a network and its card; `path` names the safetensors file.
///
/// # Errors
/// [`NnError::Checkpoint`] naming the file and what is missing, of another version, or of another
/// model; [`NnError::Memory`] for a file larger than the memory for input.
pub fn load(path: &Path, device: &Device) -> Result<(Network, ModelCard), NnError> {
    let mut file = steer3d_files::open(path).map_err(|e| fault(path, &e))?;
    let length = file.metadata().map_err(|e| fault(path, &e))?.len();
    // The file and the tensors made of it.
    let _room = memory::take(length.saturating_mul(2)).map_err(|e| fault(path, &e))?;
    let mut bytes = vec![];
    file.read_to_end(&mut bytes).map_err(|e| fault(path, &e))?;
    read(path, &bytes, device)
}

/// Reads the network and the card from the bytes of a model file, which errors call `path`.
///
/// # Errors
/// As [`load`].
pub fn read(path: &Path, bytes: &[u8], device: &Device) -> Result<(Network, ModelCard), NnError> {
    let tensors = SafeTensors::deserialize(bytes)
        .map_err(|e| fault(path, &format!("not a safetensors file, or a damaged one: {e}")))?;
    let (_, header) = SafeTensors::read_metadata(bytes).map_err(|e| fault(path, &e))?;
    let (card, home) = match header.metadata().as_ref().and_then(|metadata| metadata.get(CARD)) {
        Some(text) => (card(path, text)?, "its metadata".into()),
        None => card_beside(path)?,
    };
    let another = "the weights and the card are of different models";
    let tensors = tensors.tensors().into_iter().map(|(name, view)| {
        let tensor = view.load(&Device::Cpu).map_err(|e| fault(path, &e))?;
        Ok((name, tensor))
    });
    let tensors = Arc::new(tensors.collect::<Result<BTreeMap<String, Tensor>, NnError>>()?);
    let (file, held, to) = (path.to_owned(), tensors.clone(), device.clone());
    let find = move |name: &str, shape: &[usize]| {
        let found = held.get(name).ok_or_else(|| {
            let problem =
                format!("has no tensor '{name}', which the model in {home} needs; {another}");
            fault(&file, &problem)
        })?;
        Ok((checked(&file, name, found, shape)?.to_device(&to)?, true))
    };
    let params = Params::new(card.seed, DType::F32, device).found_by(find);
    let network = Network::with_params(&card.model, params)?;
    let used: BTreeSet<&str> = network.params().all().map(|(name, _)| name).collect();
    if let Some(name) = tensors.keys().find(|name| !used.contains(name.as_str())) {
        let problem = format!("has a tensor '{name}' that its model lacks; {another}");
        return Err(fault(path, &problem));
    }
    Ok((network, card))
}

/// The card of a model of two files, and the name of its file.
fn card_beside(weights: &Path) -> Result<(ModelCard, String), NnError> {
    let path = weights.with_extension("toml");
    let text = fs::read_to_string(&path).map_err(|e| {
        let problem = format!(
            "{e}; the weights have no model's description in their metadata, so it must lie beside them"
        );
        fault(&path, &problem)
    })?;
    Ok((card(&path, &text)?, path.display().to_string()))
}

pub(crate) fn card(path: &Path, text: &str) -> Result<ModelCard, NnError> {
    let table = text.parse::<toml::Table>();
    let format = table.map_err(|e| fault(path, &format!("card: {e}")))?.remove("format");
    if format != Some(toml::Value::Integer(FORMAT.into())) {
        let found = format.map_or_else(|| "none".into(), |v| v.to_string());
        return Err(fault(path, &format!("card: expected format = {FORMAT}, found {found}")));
    }
    toml::from_str(text).map_err(|e| fault(path, &format!("card: {e}")))
}

/// The tensor, if it is of finite f32 in this shape.
fn checked<'a>(
    path: &Path,
    name: &str,
    tensor: &'a Tensor,
    shape: &[usize],
) -> Result<&'a Tensor, NnError> {
    if tensor.dtype() != DType::F32 || tensor.dims() != shape {
        let problem = format!(
            "tensor '{name}': expected F32 of shape {shape:?}, found {:?} of shape {:?}; the weights are of another model",
            tensor.dtype(),
            tensor.dims()
        );
        return Err(fault(path, &problem));
    }
    if let Some(bad) = tensor.flatten_all()?.to_vec1::<f32>()?.iter().find(|v| !v.is_finite()) {
        return Err(fault(path, &format!("tensor '{name}' holds {bad}")));
    }
    Ok(tensor)
}

fn fault(path: &Path, problem: &dyn Display) -> NnError {
    NnError::Checkpoint { path: path.into(), problem: problem.to_string() }
}
