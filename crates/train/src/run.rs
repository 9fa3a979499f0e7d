use std::fmt::Display;
use std::fs::File;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use candle_core::{DType, Tensor};
use steer3d_dataset::{Batch, Dataset, Loader, LoaderOptions, RandomRotation, Split};
use steer3d_ops::permit_tf32;
use steer3d_so3::Stream;

use crate::average::Average;
use crate::objective::Objective;
use crate::replicas::{Outcome, Replicas, Task, volumes};
use crate::state::{self, StateHeader, TrainingState, fault};
use crate::{
    EpochMetrics, Gradients, Monitor, Precision, Progress, Save, TrainConfig, TrainEvent, Trained,
    When, global_norm,
};
use crate::{Optimiser, TrainError};
use steer3d_nn::{Mode, Network, checkpoint};

/// Batches from which the running statistics are taken after each epoch.
const CALIBRATION_BATCHES: usize = 16;

type Watch<'a> = dyn FnMut(TrainEvent) -> ControlFlow<()> + 'a;

/// A training that has not begun: all that can be checked before is checked, and the folder of the
/// states is locked. [`train`](super::train) and [`resume`](super::resume) are its two ways in one call.
pub struct Training<'a> {
    network: &'a Network,
    dataset: &'a Dataset,
    config: &'a TrainConfig,
    save: Option<Save<'a>>,
    items: Vec<usize>,
    validation: Vec<usize>,
    /// Batches of an epoch.
    batches: usize,
    /// Optimiser steps in all.
    steps: usize,
    objective: Arc<Objective>,
    /// The network on other devices, and their threads while the training runs.
    replicas: &'a [Network],
    threads: Option<Replicas>,
    /// Of the state that the training goes on from: the file and the number of devices.
    before: Option<(PathBuf, usize)>,
    optimiser: Optimiser,
    average: Option<Average>,
    /// Tensors of the best epoch.
    best: Option<Vec<Tensor>>,
    pending: Option<Pending>,
    progress: Progress,
    /// When the part of the training began that `progress` does not know of.
    since: Instant,
    saved: Instant,
    /// Keeps other trainings out of the folder of the states.
    _lock: Option<File>,
}

/// The batches since the last optimiser step.
struct Pending {
    gradients: Gradients,
    weight: f64,
    loss: f64,
}

impl std::fmt::Debug for Training<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Training").field("progress", &self.progress).finish_non_exhaustive()
    }
}

impl<'a> Training<'a> {
    /// A training from the start.
    ///
    /// # Errors
    /// As [`train`](super::train).
    pub fn new(
        network: &'a Network,
        dataset: &'a Dataset,
        config: &'a TrainConfig,
        save: Option<Save<'a>>,
    ) -> Result<Self, TrainError> {
        config.check()?;
        config.precision.check(network.params().device())?;
        let items = training_items(dataset, config);
        if items.is_empty() {
            let problem = format!("dataset {} has no training items", dataset.meta().name);
            return Err(TrainError::Settings { field: "dataset", problem });
        }
        let objective = Arc::new(Objective::new(network, dataset, config, &items)?);
        let params = network.params();
        let batches = items.len().div_ceil(config.batch_size);
        let mut run = Self {
            network,
            dataset,
            config,
            save,
            items,
            validation: dataset.indices(Split::Validation),
            batches,
            steps: config.epochs * batches.div_ceil(config.accumulate),
            objective,
            replicas: &[],
            threads: None,
            before: None,
            optimiser: Optimiser::new(&config.optimiser, params, config.weight_decay)?,
            average: config.average.map(|decay| Average::new(params, decay)).transpose()?,
            best: None,
            pending: None,
            progress: Progress::start(),
            since: Instant::now(),
            saved: Instant::now(),
            _lock: None,
        };
        if let Some(states) = save.and_then(|s| s.states) {
            let one: usize = run.tensors()?.iter().map(|(_, t)| size(t)).sum();
            let model: usize = params.all().map(|(_, v)| size(v)).sum();
            // While a file is written its predecessor is still there.
            let room = (states.keep + 1) * (one + model) + 2 * model;
            run._lock = Some(state::prepare(&states.folder, room as u64)?);
            state::clean(&states.folder)?;
            let beside = save.and_then(|s| s.model.parent()).filter(|f| !f.as_os_str().is_empty());
            state::clean(beside.unwrap_or(Path::new(".")))?;
        }
        Ok(run)
    }

    /// A training that goes on from a state.
    ///
    /// # Errors
    /// As [`resume`](super::resume).
    pub fn resumed(
        network: &'a Network,
        dataset: &'a Dataset,
        config: &'a TrainConfig,
        save: Option<Save<'a>>,
        state: TrainingState,
    ) -> Result<Self, TrainError> {
        let mut training = Self::new(network, dataset, config, save)?;
        training.restore(state)?;
        Ok(training)
    }

    /// Computes each batch in equal parts on the devices of the network and of `replicas`, which are the same network;
    /// their weights are overwritten. Batch norms take their statistics over all parts, so a step is that of one
    /// device to rounding, but that each device draws dropout masks of its own and has its own share of the Dice
    /// loss. All else happens on the device of the network.
    ///
    /// # Errors
    /// [`TrainError::Train`] for a replica that is another network or whose device lacks the precision,
    /// [`TrainError::State`] if the training goes on from a state of another number of devices.
    pub fn on_devices(mut self, replicas: &'a [Network]) -> Result<Self, TrainError> {
        for replica in replicas {
            let params = replica.params();
            if replica.config() != self.network.config()
                || params.dtype() != self.network.params().dtype()
            {
                let problem = "the replicas are other networks than the one that is trained".into();
                return Err(TrainError::Settings { field: "devices", problem });
            }
            self.config.precision.check(params.device())?;
        }
        self.replicas = replicas;
        self.check_devices()?;
        Ok(self)
    }

    /// A state is of as many devices: other parts round in other places.
    fn check_devices(&self) -> Result<(), TrainError> {
        let now = 1 + self.replicas.len();
        match &self.before {
            Some((path, before)) if *before != now => {
                let problem = format!(
                    "it was trained on {before} devices and now on {now}; go on with as many, or train anew in another folder"
                );
                Err(fault(path, &problem))
            }
            _ => Ok(()),
        }
    }

    /// Trains to the end, or until `watch` breaks. A training from the start removes older states from
    /// its folder first.
    ///
    /// # Errors
    /// As [`train`](super::train).
    pub fn run(
        mut self,
        watch: &mut dyn FnMut(TrainEvent) -> ControlFlow<()>,
    ) -> Result<Trained, TrainError> {
        self.check_devices()?;
        let _permit = (self.config.precision == Precision::Tf32).then(permit_tf32);
        if self.replicas.is_empty() {
            return self.all_epochs(watch);
        }
        let objective = Arc::clone(&self.objective);
        std::thread::scope(|scope| {
            let (dataset, precision) = (self.dataset, self.config.precision);
            let task = Task { dataset, objective: &objective, precision };
            self.threads = Some(Replicas::start(scope, self.network, self.replicas, task));
            self.all_epochs(watch)
        })
    }

    fn all_epochs(
        mut self,
        watch: &mut dyn FnMut(TrainEvent) -> ControlFlow<()>,
    ) -> Result<Trained, TrainError> {
        if self.progress == Progress::start()
            && let Some(states) = self.save.and_then(|s| s.states)
        {
            state::prune(&states.folder, 0)?;
        }
        self.since = Instant::now();
        while !self.progress.finished {
            if self.rest_of_epoch(watch)?.is_break() {
                self.save_state()?;
                return self.end(true);
            }
            let metrics = self.end_epoch()?;
            self.save_state()?;
            if watch(TrainEvent::Epoch(metrics)).is_break() {
                return self.end(true);
            }
        }
        self.end(false)
    }

    fn end(mut self, stopped: bool) -> Result<Trained, TrainError> {
        self.clock();
        if let Some(best) = &self.best {
            for ((_, var), tensor) in self.network.params().all().zip(best) {
                var.set(&tensor.detach())?;
            }
        }
        let Progress { epochs, seconds, waited, .. } = self.progress;
        let (elapsed, waited) = (Duration::from_secs_f64(seconds), Duration::from_secs_f64(waited));
        Ok(Trained { epochs, stopped, elapsed, waited })
    }

    /// Adds the time since the last call to the progress.
    fn clock(&mut self) {
        self.progress.seconds += self.since.elapsed().as_secs_f64();
        self.since = Instant::now();
    }

    /// The batches of the epoch that are not done.
    fn rest_of_epoch(&mut self, watch: &mut Watch<'_>) -> Result<ControlFlow<()>, TrainError> {
        let order = self.order();
        let done = (self.progress.batch * self.config.batch_size).min(order.len());
        let mut flow = ControlFlow::Continue(());
        let (dataset, batch_size, rotation) =
            (self.dataset, self.config.batch_size, self.rotation());
        let waited = read_ahead(dataset, &order[done..], batch_size, rotation, |batch| {
            self.batch(batch)?;
            let done = self.progress.batch;
            if !done.is_multiple_of(self.config.accumulate) && done < self.batches {
                return Ok(ControlFlow::Continue(()));
            }
            flow = watch(self.step()?);
            if flow.is_continue() && self.is_time_to_save() {
                self.save_state()?;
            }
            Ok(flow)
        })?;
        self.progress.waited += waited.as_secs_f64();
        Ok(flow)
    }

    fn task<'b>(&self, objective: &'b Objective) -> Task<'b>
    where
        'a: 'b,
    {
        Task { dataset: self.dataset, objective, precision: self.config.precision }
    }

    fn batch(&mut self, batch: Batch) -> Result<(), TrainError> {
        let mode = Mode::Train { seed: self.config.seed, step: self.progress.batches };
        let objective = Arc::clone(&self.objective);
        let task = self.task(&objective);
        let outcome = match &mut self.threads {
            None => task.whole(self.network, batch, mode)?,
            Some(replicas) => replicas.compute(task, self.network, &batch, mode)?,
        };
        let Outcome { gradients, loss: value, weight, right, answers, x } = outcome;
        if !value.is_finite() {
            let place = self.first_not_finite(&x)?;
            return Err(self.not_finite(&format!("the loss became {value}{place}")));
        }
        let terms = [value * weight, weight, right, answers];
        for (sum, term) in self.progress.sums.iter_mut().zip(terms) {
            *sum += term;
        }
        self.progress.batch += 1;
        self.progress.batches += 1;
        let gradients =
            if self.config.accumulate == 1 { gradients } else { gradients.scaled(weight)? };
        self.pending = Some(match self.pending.take() {
            None => Pending { gradients, weight, loss: value * weight },
            Some(before) => Pending {
                gradients: before.gradients.plus(&gradients)?,
                weight: before.weight + weight,
                loss: before.loss + value * weight,
            },
        });
        Ok(())
    }

    /// The optimiser step of the pending batches.
    fn step(&mut self) -> Result<TrainEvent, TrainError> {
        let Some(Pending { mut gradients, weight, loss }) = self.pending.take() else {
            let problem = "an optimiser step without a batch".into();
            return Err(TrainError::Settings { field: "accumulate", problem });
        };
        if self.config.accumulate > 1 {
            gradients = gradients.scaled(1.0 / weight)?;
        }
        let params = self.network.params();
        let norms = gradients.norms()?;
        if let Some(bad) = norms.iter().position(|norm| !norm.is_finite()) {
            let name = &params.trainable()[bad].name;
            let what = format!("the gradient of '{name}' became {}", norms[bad]);
            return Err(self.not_finite(&what));
        }
        let gradient_norm = global_norm(&norms);
        if let Some(limit) = self.config.clip_norm.filter(|limit| gradient_norm > *limit) {
            gradients = gradients.scaled(limit / gradient_norm)?;
        }
        let learning_rate = self.learning_rate();
        self.optimiser.step(params, &gradients, learning_rate)?;
        if let Some(replicas) = &mut self.threads {
            replicas.moved();
        }
        let progress = &mut self.progress;
        progress.step += 1;
        progress.learning_rate = learning_rate;
        if let Some(average) = &mut self.average {
            average.hear(params, progress.step)?;
        }
        let [_, _, right, answers] = progress.sums;
        Ok(TrainEvent::Step {
            epoch: progress.epoch,
            step: progress.step,
            steps: self.steps,
            loss: (loss / weight) as f32,
            accuracy: share(right, answers),
            learning_rate,
            gradient_norm,
        })
    }

    /// The learning rate of the next step.
    fn learning_rate(&self) -> f64 {
        let Progress { step, epoch, .. } = self.progress;
        let reductions = self.progress.plateau.reductions;
        let when = When { step, steps: self.steps, epoch, reductions };
        self.config.schedule.rate(self.config.learning_rate, when)
    }

    /// Validates, and keeps the network if it is the best so far.
    fn end_epoch(&mut self) -> Result<EpochMetrics, TrainError> {
        self.exchange_average()?;
        self.calibrate()?;
        let batch_size = self.config.batch_size;
        let scores = self.validate(batch_size)?;
        self.clock();
        let [loss, weight, right, answers] = self.progress.sums;
        let mut metrics = EpochMetrics {
            epoch: self.progress.epoch,
            train_loss: loss / weight,
            train_accuracy: share(right, answers),
            validation_loss: scores.map(|s| if s.0.is_finite() { s.0 } else { f64::MAX }),
            validation_accuracy: scores.and_then(|s| s.1),
            best: false,
            learning_rate: self.progress.learning_rate,
            seconds: self.progress.seconds,
        };
        let best = self.progress.epochs.iter().rfind(|e| e.best);
        metrics.best = best.is_none_or(|best| better(self.config.monitor, &metrics, best));
        if metrics.best {
            self.best = Some(snapshot(self.network)?);
            if let Some(save) = self.save {
                checkpoint::save(save.model, self.network, save.card)?;
            }
        }
        self.exchange_average()?;
        let progress = &mut self.progress;
        progress
            .plateau
            .hear(&self.config.schedule, metrics.validation_loss.unwrap_or(metrics.train_loss));
        progress.epochs.push(metrics);
        let best = progress.epochs.iter().rfind(|e| e.best).map_or(0, |e| e.epoch);
        let tired = self.config.patience.is_some_and(|patience| metrics.epoch - best >= patience);
        progress.finished = tired || metrics.epoch == self.config.epochs;
        progress.epoch += 1;
        progress.batch = 0;
        progress.sums = [0.0; 4];
        Ok(metrics)
    }

    /// Mean loss and accuracy over the validation items; `None` when there are none.
    fn validate(&self, batch_size: usize) -> Result<Option<(f64, Option<f64>)>, TrainError> {
        if self.validation.is_empty() {
            return Ok(None);
        }
        let fused = self.network.folded()?;
        let mut sums = [0.0; 4];
        read_ahead(self.dataset, &self.validation, batch_size, None, |mut batch| {
            let x = volumes(self.network, self.dataset, &mut batch)?;
            let score = self.objective.validation(&fused.forward(&x)?, &batch)?;
            let loss: f32 = score.loss.to_dtype(DType::F32)?.to_scalar()?;
            let terms = [f64::from(loss) * score.weight, score.weight, score.right, score.answers];
            for (sum, term) in sums.iter_mut().zip(terms) {
                *sum += term;
            }
            Ok(ControlFlow::Continue(()))
        })?;
        let [loss, weight, right, answers] = sums;
        Ok(Some((loss / weight, share(right, answers))))
    }

    fn exchange_average(&mut self) -> Result<(), TrainError> {
        match &mut self.average {
            Some(average) => average.exchange(self.network.params()),
            None => Ok(()),
        }
    }

    fn rotation(&self) -> Option<RandomRotation> {
        let (seed, epoch) = (self.config.seed, self.progress.epoch as u64);
        self.config.augment.map(|turns| RandomRotation { seed, epoch, turns })
    }

    fn order(&self) -> Vec<usize> {
        let mut order = self.items.clone();
        let epoch = self.progress.epoch as u64;
        Stream::new(self.config.seed, "order", &[epoch]).shuffle(&mut order);
        order
    }

    /// Takes the running statistics afresh from some batches: those gathered while training lag
    /// behind the weights.
    fn calibrate(&mut self) -> Result<(), TrainError> {
        let mut order = self.order();
        order.truncate(CALIBRATION_BATCHES * self.config.batch_size);
        let mut count = 0;
        let (batch_size, rotation) = (self.config.batch_size, self.rotation());
        let waited = read_ahead(self.dataset, &order, batch_size, rotation, |mut batch| {
            let x = self.task(&self.objective).volumes(self.network, &mut batch)?;
            self.network.forward(&x, Mode::Calibrate { batch: count })?;
            count += 1;
            Ok(ControlFlow::Continue(()))
        })?;
        self.progress.waited += waited.as_secs_f64();
        Ok(())
    }

    /// Where a loss that is not finite comes from: ", first in …".
    fn first_not_finite(&self, x: &Tensor) -> Result<String, TrainError> {
        for parameter in self.network.params().trainable() {
            if !is_finite(parameter.var.as_tensor())? {
                return Ok(format!(", first in the parameter '{}'", parameter.name));
            }
        }
        for layer in self.network.layers(x)? {
            if !is_finite(&layer.values)? {
                return Ok(format!(", first in the output of {}", layer.name));
            }
        }
        Ok(String::new())
    }

    fn not_finite(&mut self, what: &dyn Display) -> TrainError {
        let states = self.save.and_then(|s| s.states);
        let path = states.map(|s| s.folder.join("not-finite.state"));
        let state = path.filter(|path| self.write_state(path).is_ok());
        TrainError::NotFinite {
            what: what.to_string(),
            epoch: self.progress.epoch,
            step: self.progress.step + 1,
            learning_rate: self.learning_rate(),
            state,
        }
    }

    fn is_time_to_save(&self) -> bool {
        let Some(states) = self.save.and_then(|s| s.states) else { return false };
        let by_steps =
            states.every_steps.is_some_and(|n| self.progress.step.is_multiple_of(n.max(1)));
        by_steps || states.every.is_some_and(|every| self.saved.elapsed() >= every)
    }

    fn save_state(&mut self) -> Result<(), TrainError> {
        let Some(states) = self.save.and_then(|s| s.states) else { return Ok(()) };
        self.write_state(&state::path_of(&states.folder, self.progress.step))?;
        state::prune(&states.folder, states.keep.max(1))?;
        self.saved = Instant::now();
        Ok(())
    }

    fn write_state(&mut self, path: &Path) -> Result<(), TrainError> {
        self.clock();
        let (_, optimiser_step) = self.optimiser.state(self.network.params());
        let header = StateHeader {
            version: env!("CARGO_PKG_VERSION").into(),
            model: self.network.config().clone(),
            config: self.config.clone(),
            dataset: self.dataset.meta().name.clone(),
            digest: self.dataset.digest(),
            devices: 1 + self.replicas.len(),
            progress: Progress { optimiser_step, ..self.progress.clone() },
        };
        state::write(path, &header, &self.tensors()?)
    }

    /// Every tensor of the training, by kind and name.
    fn tensors(&self) -> Result<Vec<(String, Tensor)>, TrainError> {
        let params = self.network.params();
        let weights = params.all().map(|(n, v)| (format!("weights/{n}"), v.as_tensor().clone()));
        let mut tensors: Vec<_> = weights.collect();
        tensors.extend(self.optimiser.state(params).0);
        tensors.extend(self.average.iter().flat_map(|average| average.state(params)));
        let names = params.all().map(|(name, _)| format!("best/{name}"));
        tensors.extend(names.zip(self.best.iter().flatten().cloned()));
        Ok(tensors)
    }

    /// Goes back to where a state is.
    fn restore(&mut self, state: TrainingState) -> Result<(), TrainError> {
        let TrainingState { path, header, mut tensors } = state;
        let change = |problem: String| {
            fault(
                &path,
                &format!("{problem}; go on with what it was, or train anew in another folder"),
            )
        };
        if let Some(d) = difference(&header.config, self.config)? {
            return Err(change(format!("the setting {d}")));
        }
        if let Some(d) = difference(&header.model, self.network.config())? {
            return Err(change(format!("of the model, {d}")));
        }
        let (name, digest) = (&self.dataset.meta().name, self.dataset.digest());
        if header.digest != digest {
            let was = &header.dataset;
            return Err(change(format!(
                "the dataset was {was} with other items than {name} has now"
            )));
        }
        let params = self.network.params();
        let missing =
            |name: String| fault(&path, &format!("has no tensor '{name}' that fits the model"));
        for (name, var) in params.all() {
            let name = format!("weights/{name}");
            let found = tensors.remove(&name).filter(|t| fits(t, var));
            var.set(&found.ok_or_else(|| missing(name))?)?;
        }
        let step = header.progress.optimiser_step;
        self.optimiser.restore(params, &mut tensors, step).map_err(missing)?;
        if let Some(average) = &mut self.average {
            average.restore(params, &mut tensors).map_err(missing)?;
        }
        if header.progress.epochs.iter().any(|e| e.best) {
            let best = params.all().map(|(name, var)| {
                let name = format!("best/{name}");
                let found = tensors.remove(&name).filter(|t| fits(t, var));
                found.ok_or_else(|| missing(name))
            });
            self.best = Some(best.collect::<Result<_, _>>()?);
        }
        self.progress = header.progress;
        self.before = Some((path, header.devices));
        Ok(())
    }
}

/// The training items that are used, in the order of the dataset.
fn training_items(dataset: &Dataset, config: &TrainConfig) -> Vec<usize> {
    let mut items = dataset.indices(Split::Train);
    if config.share < 1.0 {
        let used = (items.len() as f64 * config.share).ceil() as usize;
        Stream::new(config.seed, "share", &[]).shuffle(&mut items);
        items.truncate(used.max(1));
        items.sort_unstable();
    }
    items
}

fn fits(tensor: &Tensor, var: &Tensor) -> bool {
    tensor.dims() == var.dims() && tensor.dtype() == var.dtype()
}

fn size(tensor: &Tensor) -> usize {
    tensor.elem_count() * tensor.dtype().size_in_bytes()
}

fn is_finite(tensor: &Tensor) -> Result<bool, TrainError> {
    let sum: f64 = tensor.to_dtype(DType::F64)?.abs()?.sum_all()?.to_scalar()?;
    Ok(sum.is_finite())
}

/// "NAME was A and is now B" for the first part in which two values differ.
fn difference(
    old: &impl serde::Serialize,
    new: &impl serde::Serialize,
) -> Result<Option<String>, TrainError> {
    let value = |problem: serde_json::Error| TrainError::Settings {
        field: "settings",
        problem: problem.to_string(),
    };
    let old = serde_json::to_value(old).map_err(value)?;
    let new = serde_json::to_value(new).map_err(value)?;
    Ok(first_difference("", &old, &new))
}

fn first_difference(
    path: &str,
    old: &serde_json::Value,
    new: &serde_json::Value,
) -> Option<String> {
    use serde_json::Value;
    if old == new {
        return None;
    }
    let below = |key: &str| if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
    match (old, new) {
        (Value::Object(a), Value::Object(b)) => {
            let keys = a.keys().chain(b.keys().filter(|k| !a.contains_key(*k)));
            let of =
                |map: &serde_json::Map<_, _>, key| map.get(key).cloned().unwrap_or(Value::Null);
            keys.into_iter().find_map(|key| first_difference(&below(key), &of(a, key), &of(b, key)))
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            (0..a.len()).find_map(|i| first_difference(&below(&i.to_string()), &a[i], &b[i]))
        }
        _ => Some(format!("{path} was {old} and is now {new}")),
    }
}

fn better(monitor: Monitor, a: &EpochMetrics, b: &EpochMetrics) -> bool {
    let less_loss = || match (a.validation_loss, b.validation_loss) {
        (Some(x), Some(y)) => x < y,
        _ => true,
    };
    match (monitor, a.validation_accuracy, b.validation_accuracy) {
        (Monitor::Accuracy, Some(x), Some(y)) if x != y => x > y,
        _ => less_loss(),
    }
}

/// `part` of `whole`, if there is something.
fn share(part: f64, whole: f64) -> Option<f64> {
    (whole > 0.0).then_some(part / whole)
}

fn snapshot(network: &Network) -> Result<Vec<Tensor>, TrainError> {
    Ok(network.params().all().map(|(_, v)| v.as_tensor().copy()).collect::<Result<_, _>>()?)
}

/// Hands the batches of `items` in order, turned and read ahead on other threads, to `take`, until it breaks;
/// gives the time spent waiting for them.
fn read_ahead(
    dataset: &Dataset,
    items: &[usize],
    batch_size: usize,
    rotation: Option<RandomRotation>,
    mut take: impl FnMut(Batch) -> Result<ControlFlow<()>, TrainError>,
) -> Result<Duration, TrainError> {
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
