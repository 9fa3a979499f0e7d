use std::ops::ControlFlow;
use std::path::Path;
use std::time::{Duration, Instant};

use candle_core::{DType, Tensor};
use candle_nn::loss::cross_entropy;
use serde::{Deserialize, Deserializer, Serialize};
use steer3d_so3::Stream;
use steer3d_volume::{Batch, Dataset, Loader, LoaderOptions, RandomRotation, Split, Turns};

use crate::checkpoint::{self, ModelCard};
use crate::{AdamW, Mode, Network, NnError};

/// Batches from which the running statistics are taken after each epoch.
const CALIBRATION_BATCHES: usize = 16;

/// Settings of the training loop.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainConfig {
    /// Passes over the training set.
    pub epochs: usize,
    /// Volumes in a batch.
    pub batch_size: usize,
    /// Peak learning rate: reached after a tenth of the steps, then a cosine down to zero.
    pub learning_rate: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// Seed of the order of the data, of the dropout masks and of the rotations.
    pub seed: u64,
    /// Turn every training volume by a random rotation of this set, another one in each epoch: its
    /// points where the dataset has them, else its voxels by trilinear interpolation.
    #[serde(default, alias = "rotate", deserialize_with = "turns")]
    pub augment: Option<Turns>,
}

/// A set, or whether to take all rotations, as older versions wrote it.
fn turns<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Turns>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Form {
        All(bool),
        Set(Option<Turns>),
    }
    Ok(match Form::deserialize(deserializer)? {
        Form::All(all) => all.then_some(Turns::So3 { fraction: 1.0 }),
        Form::Set(turns) => turns,
    })
}

impl Default for TrainConfig {
    fn default() -> Self {
        Self {
            epochs: 30,
            batch_size: 8,
            learning_rate: 2e-2,
            weight_decay: 1e-3,
            seed: 0,
            augment: None,
        }
    }
}

impl TrainConfig {
    fn check(&self) -> Result<(), NnError> {
        let fault = |field, problem| Err(NnError::Train { field, problem });
        if self.epochs == 0 {
            return fault("epochs", "expected at least 1, found 0".into());
        }
        if self.batch_size == 0 {
            return fault("batch size", "expected at least 1, found 0".into());
        }
        if !(self.learning_rate > 0.0 && self.learning_rate.is_finite()) {
            return fault("learning rate", format!("must be positive: {}", self.learning_rate));
        }
        if !(self.weight_decay >= 0.0 && self.weight_decay.is_finite()) {
            return fault("weight decay", format!("must not be negative: {}", self.weight_decay));
        }
        let fraction = self.augment.map_or(1.0, Turns::fraction);
        if !(fraction > 0.0 && fraction <= 1.0) {
            return fault("augment", format!("fraction must be above 0, at most 1: {fraction}"));
        }
        Ok(())
    }

    fn learning_rate_at(&self, step: usize, steps: usize) -> f64 {
        let warm_up = (steps / 10).max(1);
        if step < warm_up {
            return self.learning_rate * (step + 1) as f64 / warm_up as f64;
        }
        let progress = (step - warm_up) as f64 / (steps - warm_up).max(1) as f64;
        self.learning_rate * 0.5 * (1.0 + (std::f64::consts::PI * progress).cos())
    }
}

/// What one epoch came to.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct EpochMetrics {
    /// Epoch, counted from 1.
    pub epoch: usize,
    /// Mean cross-entropy over the training set, with dropout, as the weights moved.
    pub train_loss: f64,
    /// Accuracy over the training set, likewise.
    pub train_accuracy: f64,
    /// Mean cross-entropy over the validation set, if there is one.
    pub validation_loss: Option<f64>,
    /// Accuracy over the validation set, if there is one.
    pub validation_accuracy: Option<f64>,
    /// Whether this epoch's weights are the best so far.
    pub best: bool,
}

/// What the training loop reports while it runs.
#[derive(Debug, Clone, Copy)]
pub enum TrainEvent {
    /// A batch is done.
    Step {
        /// Epoch, counted from 1.
        epoch: usize,
        /// Optimiser steps done.
        step: usize,
        /// Optimiser steps in all.
        steps: usize,
        /// Cross-entropy of the batch.
        loss: f32,
    },
    /// An epoch is done.
    Epoch(EpochMetrics),
}

/// How a training run ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Trained {
    /// One entry for each finished epoch.
    pub epochs: Vec<EpochMetrics>,
    /// Whether the caller stopped it early.
    pub stopped: bool,
    /// Time spent, validation included.
    pub elapsed: Duration,
    /// Part of it in which the training waited for data.
    pub waited: Duration,
}

/// Trains `network` on the training split of `dataset` and leaves it with the weights of its best
/// epoch: highest validation accuracy, then lowest validation loss; the last epoch where the
/// dataset has no validation items.
///
/// With `save`, the network is written there after every epoch that is the best so far, so a run
/// that is killed leaves its best network. `watch` hears of every step; `ControlFlow::Break`
/// stops the run.
///
/// The same seed gives the same weights on any number of threads.
///
/// # Errors
/// [`NnError::Mismatch`] when the dataset does not fit the network, [`NnError::NotFinite`] when
/// the loss diverges, [`NnError::Checkpoint`] when `save` cannot be written.
pub fn train(
    network: &Network,
    dataset: &Dataset,
    config: &TrainConfig,
    save: Option<(&Path, &ModelCard)>,
    watch: &mut dyn FnMut(TrainEvent) -> ControlFlow<()>,
) -> Result<Trained, NnError> {
    config.check()?;
    check_fit(network, dataset)?;
    let items = dataset.indices(Split::Train);
    if items.is_empty() {
        let problem = format!("dataset {} has no training items", dataset.meta().name);
        return Err(NnError::Train { field: "dataset", problem });
    }
    let validation = dataset.indices(Split::Validation);
    let steps = config.epochs * items.len().div_ceil(config.batch_size);
    let (adam, waited) = (adam(network, config)?, Duration::ZERO);
    let mut run = Run { network, dataset, config, steps, step: 0, adam, waited };
    let start = Instant::now();
    let trained = |run: &Run<'_>, epochs, stopped| {
        let (elapsed, waited) = (start.elapsed(), run.waited);
        Trained { epochs, stopped, elapsed, waited }
    };
    let mut best: Option<(EpochMetrics, Vec<Tensor>)> = None;
    let mut epochs = vec![];
    for epoch in 1..=config.epochs {
        let Some((train_loss, train_accuracy)) = run.epoch(epoch, &items, watch)? else {
            restore(network, best.as_ref())?;
            return Ok(trained(&run, epochs, true));
        };
        run.calibrate(epoch, &items)?;
        let scores = evaluate(network, dataset, &validation, config.batch_size)?;
        let mut metrics = EpochMetrics {
            epoch,
            train_loss,
            train_accuracy,
            validation_loss: scores.map(|s| s.0),
            validation_accuracy: scores.map(|s| s.1),
            best: false,
        };
        metrics.best = best.as_ref().is_none_or(|(b, _)| better(&metrics, b));
        if metrics.best {
            best = Some((metrics, snapshot(network)?));
            if let Some((path, card)) = save {
                checkpoint::save(path, network, card)?;
            }
        }
        epochs.push(metrics);
        if watch(TrainEvent::Epoch(metrics)).is_break() {
            restore(network, best.as_ref())?;
            return Ok(trained(&run, epochs, true));
        }
    }
    restore(network, best.as_ref())?;
    Ok(trained(&run, epochs, false))
}

fn adam(network: &Network, config: &TrainConfig) -> Result<AdamW, NnError> {
    AdamW::new(network.params(), config.weight_decay)
}

/// Checks that a network can read the volumes of a dataset and knows its classes.
///
/// # Errors
/// [`NnError::Mismatch`] naming what differs.
pub(crate) fn check_fit(network: &Network, dataset: &Dataset) -> Result<(), NnError> {
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

struct Run<'a> {
    network: &'a Network,
    dataset: &'a Dataset,
    config: &'a TrainConfig,
    steps: usize,
    step: usize,
    adam: AdamW,
    waited: Duration,
}

impl Run<'_> {
    /// Mean loss and accuracy, or `None` when `watch` stopped the run.
    fn epoch(
        &mut self,
        epoch: usize,
        items: &[usize],
        watch: &mut dyn FnMut(TrainEvent) -> ControlFlow<()>,
    ) -> Result<Option<(f64, f64)>, NnError> {
        let order = self.order(epoch, items);
        let (mut loss_sum, mut correct) = (0.0, 0.0);
        let mut stopped = false;
        let (dataset, batch_size, rotation) =
            (self.dataset, self.config.batch_size, self.rotation(epoch));
        let waited = read_ahead(dataset, &order, batch_size, rotation, |batch| {
            let count = batch.items.len();
            let (loss, hits) = self.batch(epoch, batch)?;
            loss_sum += f64::from(loss) * count as f64;
            correct += hits;
            let (step, steps) = (self.step, self.steps);
            let flow = watch(TrainEvent::Step { epoch, step, steps, loss });
            stopped = flow.is_break();
            Ok(flow)
        })?;
        self.waited += waited;
        if stopped {
            return Ok(None);
        }
        let count = items.len() as f64;
        Ok(Some((loss_sum / count, correct / count)))
    }

    fn rotation(&self, epoch: usize) -> Option<RandomRotation> {
        let (seed, epoch) = (self.config.seed, epoch as u64);
        self.config.augment.map(|turns| RandomRotation { seed, epoch, turns })
    }

    fn order(&self, epoch: usize, items: &[usize]) -> Vec<usize> {
        let mut order = items.to_vec();
        Stream::new(self.config.seed, "order", &[epoch as u64]).shuffle(&mut order);
        order
    }

    /// Takes the running statistics afresh from some batches: those gathered while training lag
    /// behind the weights.
    fn calibrate(&mut self, epoch: usize, items: &[usize]) -> Result<(), NnError> {
        let mut order = self.order(epoch, items);
        order.truncate(CALIBRATION_BATCHES * self.config.batch_size);
        let mut count = 0;
        let (batch_size, rotation) = (self.config.batch_size, self.rotation(epoch));
        self.waited += read_ahead(self.dataset, &order, batch_size, rotation, |batch| {
            let (x, _) = tensors(self.network, self.dataset, batch)?;
            self.network.forward(&x, Mode::Calibrate { batch: count })?;
            count += 1;
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(())
    }

    fn batch(&mut self, epoch: usize, batch: Batch) -> Result<(f32, f64), NnError> {
        let (x, labels) = tensors(self.network, self.dataset, batch)?;
        let mode = Mode::Train { seed: self.config.seed, step: self.step as u64 };
        let logits = self.network.forward(&x, mode)?;
        let loss = cross_entropy(&logits, &labels)?;
        let value: f32 = loss.to_dtype(DType::F32)?.to_scalar()?;
        let learning_rate = self.config.learning_rate_at(self.step, self.steps);
        self.step += 1;
        if !value.is_finite() {
            return Err(NnError::NotFinite { epoch, step: self.step, loss: value, learning_rate });
        }
        self.adam.step(self.network.params(), &loss.backward()?, learning_rate)?;
        Ok((value, hits(&logits, &labels)?))
    }
}

fn better(a: &EpochMetrics, b: &EpochMetrics) -> bool {
    match (a.validation_accuracy, b.validation_accuracy) {
        (Some(x), Some(y)) if x == y => a.validation_loss < b.validation_loss,
        (Some(x), Some(y)) => x > y,
        _ => true,
    }
}

fn snapshot(network: &Network) -> Result<Vec<Tensor>, NnError> {
    Ok(network.params().all().map(|(_, v)| v.as_tensor().copy()).collect::<Result<_, _>>()?)
}

fn restore(network: &Network, best: Option<&(EpochMetrics, Vec<Tensor>)>) -> Result<(), NnError> {
    let Some((_, tensors)) = best else { return Ok(()) };
    for ((_, var), tensor) in network.params().all().zip(tensors) {
        var.set(&tensor.detach())?;
    }
    Ok(())
}

/// Hands the batches of `items` in order, turned and read ahead on other threads, to `take`, until it breaks;
/// gives the time spent waiting for them.
fn read_ahead(
    dataset: &Dataset,
    items: &[usize],
    batch_size: usize,
    rotation: Option<RandomRotation>,
    mut take: impl FnMut(Batch) -> Result<ControlFlow<()>, NnError>,
) -> Result<Duration, NnError> {
    let batches = items.chunks(batch_size).map(<[_]>::to_vec).collect();
    std::thread::scope(|scope| {
        let options = LoaderOptions { rotation, ..LoaderOptions::default() };
        let mut loader = Loader::new(scope, dataset, batches, options);
        for batch in loader.by_ref() {
            if take(batch?)?.is_break() {
                break;
            }
        }
        Ok(loader.waited())
    })
}

/// Volumes (N,C,D,H,W) and labels (N) of a batch, as the network takes them.
fn tensors(
    network: &Network,
    dataset: &Dataset,
    batch: Batch,
) -> Result<(Tensor, Tensor), NnError> {
    let meta = dataset.meta();
    let [d, h, w] = meta.dims;
    let params = network.params();
    let shape = (batch.items.len(), meta.channels, d, h, w);
    let x = Tensor::from_vec(batch.values, shape, params.device())?.to_dtype(params.dtype())?;
    Ok((x, Tensor::new(batch.labels, params.device())?))
}

/// Mean cross-entropy and accuracy over some items; `None` when there are none.
fn evaluate(
    network: &Network,
    dataset: &Dataset,
    items: &[usize],
    batch_size: usize,
) -> Result<Option<(f64, f64)>, NnError> {
    if items.is_empty() {
        return Ok(None);
    }
    let fused = network.fused()?;
    let (mut loss_sum, mut correct) = (0.0, 0.0);
    read_ahead(dataset, items, batch_size, None, |batch| {
        let count = batch.items.len();
        let (x, labels) = tensors(network, dataset, batch)?;
        let logits = fused.forward(&x)?;
        let loss: f32 = cross_entropy(&logits, &labels)?.to_dtype(DType::F32)?.to_scalar()?;
        loss_sum += f64::from(loss) * count as f64;
        correct += hits(&logits, &labels)?;
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(Some((loss_sum / items.len() as f64, correct / items.len() as f64)))
}

fn hits(logits: &Tensor, labels: &Tensor) -> Result<f64, NnError> {
    let right = logits.argmax(1)?.eq(labels)?.to_dtype(DType::F32)?.sum_all()?;
    Ok(f64::from(right.to_scalar::<f32>()?))
}
