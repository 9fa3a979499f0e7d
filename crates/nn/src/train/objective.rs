//! What the answers of a network are compared with.

use candle_core::{DType, Tensor};
use candle_nn::loss::cross_entropy;
use steer3d_volume::{Batch, Dataset};

use super::{Loss, TrainConfig};
use crate::{Network, NnError};

/// The classes of whole volumes.
pub(super) struct Objective {
    loss: Loss,
}

/// How well a batch was answered.
pub(super) struct Score {
    /// Mean over the batch, without dimensions.
    pub(super) loss: Tensor,
    /// What it counts for in a mean over batches.
    pub(super) weight: f64,
    pub(super) right: f64,
    /// How many answers can be right or wrong.
    pub(super) answers: f64,
}

impl Objective {
    /// For a training on `items`.
    pub(super) fn new(
        network: &Network,
        dataset: &Dataset,
        config: &TrainConfig,
        items: &[usize],
    ) -> Result<Self, NnError> {
        check_fit(network, dataset)?;
        let mut counts = vec![0; dataset.meta().class_names.len()];
        for &item in items {
            counts[dataset.labels()[item] as usize] += 1;
        }
        Ok(Self { loss: Loss::new(&config.loss, &counts)? })
    }

    /// With the loss that is minimised.
    pub(super) fn training(&self, out: &Tensor, batch: &Batch) -> Result<Score, NnError> {
        Ok(Score {
            loss: self.loss.mean(out, &batch.labels)?,
            weight: self.loss.weight(&batch.labels),
            right: hits(out, batch)?,
            answers: batch.items.len() as f64,
        })
    }

    /// With the plain cross-entropy.
    pub(super) fn validation(out: &Tensor, batch: &Batch) -> Result<Score, NnError> {
        let count = batch.items.len() as f64;
        let labels = Tensor::new(&batch.labels[..], out.device())?;
        let loss = cross_entropy(out, &labels)?;
        Ok(Score { loss, weight: count, right: hits(out, batch)?, answers: count })
    }
}

fn hits(logits: &Tensor, batch: &Batch) -> Result<f64, NnError> {
    let labels = Tensor::new(&batch.labels[..], logits.device())?;
    let right = logits.argmax(1)?.eq(&labels)?.to_dtype(DType::F32)?.sum_all()?;
    Ok(f64::from(right.to_scalar::<f32>()?))
}

/// Checks that a network can read the volumes of a dataset and knows its classes.
fn check_fit(network: &Network, dataset: &Dataset) -> Result<(), NnError> {
    let (config, meta) = (network.config(), dataset.meta());
    let mismatch = |model: String, found: String| {
        Err(NnError::Mismatch { dataset: meta.name.clone(), model, found })
    };
    if !config.is_classifier() {
        return mismatch("other labels than classes".into(), "a class for each volume".into());
    }
    if config.channels() != meta.channels {
        return mismatch(
            format!("{} channels", config.channels()),
            format!("{} channels", meta.channels),
        );
    }
    if config.classes() != meta.class_names.len() {
        return mismatch(
            format!("{} classes", config.classes()),
            format!("{} classes", meta.class_names.len()),
        );
    }
    Ok(())
}
