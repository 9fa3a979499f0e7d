use std::fmt::Display;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use candle_core::{DType, Tensor};
use serde::Serialize;
use steer3d_dataset::{
    Batch, Dataset, Grids, Loader, LoaderOptions, RandomDistortion, RandomRotation, Sample, Split,
};
use steer3d_files::lock::Lock;
use steer3d_nn::{FoldedNetworks, Head, Mode, Network, checkpoint};
use steer3d_ops::permit_tf32;
use steer3d_ranks::{Number, Rank, RankError};
use steer3d_so3::Stream;

use crate::average::Average;
use crate::checkpoints::{Checkpoints, StateFolder};
use crate::config::{Precision, TrainConfig};
use crate::difference::difference;
use crate::error::TrainError;
use crate::event::{TrainEvent, Trained};
use crate::gradients::{Gradients, global_norm};
use crate::metrics::{EpochMetrics, Sums};
use crate::objective::{Objective, Score};
use crate::optimiser::Optimiser;
use crate::progress::Progress;
use crate::ranks::{self, Exchange};
use crate::replicas::{Outcome, Replicas, Task, volumes};
use crate::samples;
use crate::schedule::SchedulePoint;
use crate::spacings;
use crate::state::{self, StateHeader, TrainingState, fault};
use crate::tensors::{Named, copies, named, set, take, trainable};

/// Batches from which the running statistics are taken after each epoch.
const CALIBRATION_BATCHES: usize = 16;

/// What hears of every step and may stop the training.
type Watch<'a> = dyn FnMut(TrainEvent) -> ControlFlow<()> + 'a;

/// Trains `network` on the training split of `dataset`, on the classes, labels of voxels or target values that
/// its head gives, and leaves it with the weights of its best
/// epoch, as [`Monitor`](crate::Monitor) says; the last epoch where the
/// dataset has no validation items.
///
/// With `keep`, the network is written there after every epoch that is the best so far, so a run
/// that is killed leaves its best network, and with states a training that [`resume`] goes on with;
/// older states in that folder are removed. `watch` hears of every step; `ControlFlow::Break` stops
/// the run.
///
/// The same seed gives the same weights on any number of threads.
///
/// # Errors
/// [`TrainError::Mismatch`] when the dataset does not fit the network, [`TrainError::NotFinite`] when
/// the loss or a gradient diverges, [`NnError::Checkpoint`](steer3d_nn::NnError::Checkpoint) or [`TrainError::State`] when `keep` cannot be
/// written, before the first step where that can be known.
pub fn train(
    network: &Network,
    dataset: &Dataset,
    config: &TrainConfig,
    keep: Option<Checkpoints<'_>>,
    watch: &mut Watch<'_>,
) -> Result<Trained, TrainError> {
    Training::new(network, dataset, config, keep, None)?.run(watch)
}

/// Goes on with a training from a state, to the same bits as a training that was never interrupted; on another number of
/// devices or ranks to rounding.
///
/// # Errors
/// As [`train`]; [`TrainError::State`] naming the setting, if network, dataset or settings are not those
/// of the state.
pub fn resume(
    network: &Network,
    dataset: &Dataset,
    config: &TrainConfig,
    keep: Option<Checkpoints<'_>>,
    state: TrainingState,
    watch: &mut Watch<'_>,
) -> Result<Trained, TrainError> {
    Training::new(network, dataset, config, keep, Some(state))?.run(watch)
}

/// A training that has not begun: all that can be checked before is checked, and the folder of the
/// states is locked. [`train`] and [`resume`] are its two ways in one call.
pub struct Training<'a> {
    network: &'a Network,
    dataset: &'a Dataset,
    config: &'a TrainConfig,
    keep: Option<Checkpoints<'a>>,
    items: Vec<usize>,
    /// What an epoch goes over.
    samples: Vec<Sample>,
    validation: Vec<Sample>,
    /// Batches of an epoch.
    batches: usize,
    /// Optimiser steps in all.
    steps: usize,
    objective: Arc<Objective>,
    /// The network on other devices, and their threads while the training runs.
    replicas: &'a [Network],
    threads: Option<Replicas>,
    /// As which rank of several it trains, and how these add up their gradients.
    rank: Rank,
    exchange: Exchange,
    resumed: bool,
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
    _lock: Option<Lock>,
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
    /// A training from the start, or one that goes on from `state`. Of several [ranks](Rank::run) all call it, and only
    /// the first one keeps anything.
    ///
    /// # Errors
    /// As [`train`] and [`resume`].
    pub fn new(
        network: &'a Network,
        dataset: &'a Dataset,
        config: &'a TrainConfig,
        keep: Option<Checkpoints<'a>>,
        state: Option<TrainingState>,
    ) -> Result<Self, TrainError> {
        config.check()?;
        config.precision.check(network.params().device())?;
        config
            .distort
            .check_for(dataset, predicts_targets(network))
            .map_err(|error| TrainError::settings("distort", error))?;
        let items = training_items(dataset, config);
        if items.is_empty() {
            let problem = format!("dataset {} has no training items", dataset.meta().name);
            return Err(TrainError::settings("dataset", problem));
        }
        let objective = Arc::new(Objective::new(network, dataset, config, &items)?);
        let params = network.params();
        let samples = samples::of_epoch(dataset, &items, config.patch)?;
        let batches = samples.len().div_ceil(config.batch_size);
        let mut run = Self {
            network,
            dataset,
            config,
            keep: keep.filter(|_| Rank::current().is_first()),
            items,
            samples,
            validation: dataset.indices(Split::Validation).into_iter().map(Sample::from).collect(),
            batches,
            steps: config.epochs * batches.div_ceil(config.accumulate),
            objective,
            replicas: &[],
            threads: None,
            rank: Rank::current(),
            exchange: Exchange::new(config.sums),
            resumed: false,
            optimiser: Optimiser::new(&config.optimiser, params, config.weight_decay)?,
            average: config.average.map(|decay| Average::new(params, decay)).transpose()?,
            best: None,
            pending: None,
            progress: Progress::start(),
            since: Instant::now(),
            saved: Instant::now(),
            _lock: None,
        };
        run.check_ranks()?;
        if let Some(states) = run.states() {
            let one: usize = run.tensors().iter().map(|(_, t)| size(t)).sum();
            let model: usize = params.all().map(|(_, v)| size(v)).sum();
            // While a file is written its predecessor is still there.
            let (one, model) = (one as u64, model as u64);
            let kept = (states.keep as u64).saturating_add(1).saturating_mul(one + model);
            run._lock = Some(state::prepare(&states.folder, kept.saturating_add(2 * model))?);
        }
        if let Some(state) = state {
            run.restore(state)?;
        }
        let progress = Progress { seconds: 0.0, waited: 0.0, ..run.progress.clone() };
        run.rank.agree("state to go on from", json(&progress).as_bytes())?;
        Ok(run)
    }

    /// Computes each batch in equal parts on the devices of the network and of `replicas`, which are the same network;
    /// their weights are overwritten. Batch norms take their statistics over all parts and Dice losses their sums, so a
    /// step is that of one device to rounding. All else happens on the device of the network.
    ///
    /// # Errors
    /// [`TrainError::Settings`] for a replica that is another network or whose device lacks the precision.
    pub fn on_devices(mut self, replicas: &'a [Network]) -> Result<Self, TrainError> {
        for replica in replicas {
            let params = replica.params();
            if replica.config() != self.network.config()
                || params.dtype() != self.network.params().dtype()
            {
                let problem = "the replicas are other networks than the one that is trained";
                return Err(TrainError::settings("devices", problem));
            }
            self.config.precision.check(params.device())?;
        }
        if !replicas.is_empty() && !self.rank.is_alone() {
            let problem = "expected one device for each of several processes";
            return Err(TrainError::settings("devices", problem));
        }
        self.replicas = replicas;
        self.check_spacings()?;
        Ok(self)
    }

    /// Has several [ranks](Rank::run) add up their gradients in rows of at least so many bytes, each as soon as the backward
    /// pass has it; 2¹⁸ if nothing is said. With [`GradientSums::Ordered`](crate::GradientSums::Ordered) it does not change
    /// a bit of the weights.
    #[must_use]
    pub fn in_rows_of(mut self, bytes: usize) -> Self {
        self.exchange.bucket = bytes;
        self
    }

    /// Statistics over all devices need the same passes on each.
    fn check_spacings(&self) -> Result<(), TrainError> {
        let ratios = |&item: &usize| spacings::ratios(self.network, self.dataset, item);
        let mut all = self.items.iter().map(ratios);
        let first = all.next();
        let params = self.network.params();
        let has_statistics = params.all().count() > params.trainable().len();
        if self.devices() == 1 || !has_statistics || all.all(|other| Some(other) == first) {
            return Ok(());
        }
        let problem = "expected voxels of one size for batch norms over several devices, found items with several; use \
                       norm = \"instance\", one device, or a dataset built with --fit spacing";
        Err(TrainError::settings("devices", problem))
    }

    fn states(&self) -> Option<&'a StateFolder> {
        self.keep.and_then(|keep| keep.states)
    }

    /// On how many devices it trains: its own, or one of each rank.
    fn devices(&self) -> usize {
        (1 + self.replicas.len()) * self.rank.size()
    }

    /// Trains to the end, or until `watch` breaks. A training from the start removes older states from
    /// its folder first.
    ///
    /// # Errors
    /// As [`train`].
    pub fn run(mut self, watch: &mut Watch<'_>) -> Result<Trained, TrainError> {
        if !self.rank.is_alone() {
            self.exchange.connect(self.network.params().device(), &self.rank)?;
        }
        let _permit = (self.config.precision == Precision::Tf32).then(permit_tf32);
        if self.replicas.is_empty() {
            return self.all_epochs(watch);
        }
        let objective = Arc::clone(&self.objective);
        std::thread::scope(|scope| {
            let (dataset, precision) = (self.dataset, self.config.precision);
            let task = Task { dataset, objective: &objective, precision };
            let sums = self.config.sums;
            self.threads = Some(Replicas::start(scope, self.network, self.replicas, task, sums));
            self.all_epochs(watch)
        })
    }

    /// Each rank has something to do, and the same training.
    fn check_ranks(&self) -> Result<(), TrainError> {
        let (rank, samples, size) = (&self.rank, self.samples.len(), self.rank.size());
        if rank.is_alone() {
            return Ok(());
        }
        self.check_spacings()?;
        let batch = samples.min(self.config.batch_size);
        if batch < size {
            let problem = format!(
                "expected a volume for each of the {size} ranks, found {batch} ({samples} in an epoch); take fewer ranks"
            );
            return Err(TrainError::settings("batch_size", problem));
        }
        rank.agree("version of steer3d", env!("CARGO_PKG_VERSION").as_bytes())?;
        rank.agree("settings of the training", json(self.config).as_bytes())?;
        rank.agree("network", json(self.network.config()).as_bytes())?;
        rank.agree("dataset", self.dataset.digest()?.as_bytes())?;
        Ok(rank.agree("weights to begin with", &ranks::parameters(self.network.params())?)?)
    }

    fn all_epochs(mut self, watch: &mut Watch<'_>) -> Result<Trained, TrainError> {
        if self.progress == Progress::start()
            && let Some(states) = self.states()
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
            if self.together(watch(TrainEvent::Epoch(metrics)))?.is_break() {
                return self.end(true);
            }
        }
        self.end(false)
    }

    /// Stops all ranks if one stops.
    fn together(&self, flow: ControlFlow<()>) -> Result<ControlFlow<()>, RankError> {
        let stops = self.rank.any(flow.is_break())?;
        Ok(if stops { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    }

    fn end(mut self, stopped: bool) -> Result<Trained, TrainError> {
        self.clock();
        if let Some(best) = &self.best {
            set(self.network.params().all(), best)?;
            // A file that was lost or exchanged since then must not outlive the state that it belongs to.
            if let (true, Some(keep)) = (self.resumed, self.keep) {
                checkpoint::save(keep.model, self.network, keep.card)?;
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
        let (dataset, batch_size, reading) = (self.dataset, self.config.batch_size, self.reading());
        let waited = read_ahead(dataset, &order[done..], batch_size, &reading, |batch, items| {
            self.batch(batch, items)?;
            let done = self.progress.batch;
            if !done.is_multiple_of(self.config.accumulate) && done < self.batches {
                return Ok(ControlFlow::Continue(()));
            }
            let event = self.step()?;
            flow = self.together(watch(event))?;
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

    /// A batch of `items` items, or this rank's part of it.
    fn batch(&mut self, mut batch: Batch, items: usize) -> Result<(), TrainError> {
        let mode = Mode::Train { seed: self.config.seed, step: self.progress.batches };
        let objective = Arc::clone(&self.objective);
        let task = self.task(&objective);
        let outcome = match &mut self.threads {
            None if self.rank.is_alone() => task.compute(self.network, &mut batch, mode, false)?,
            None => {
                let (rank, exchange) = (&self.rank, &self.exchange);
                ranks::compute(rank, exchange, task, self.network, &mut batch, items, mode)?
            }
            Some(replicas) => replicas.compute(task, self.network, &batch, mode)?,
        };
        let Outcome { gradients, loss: value, weight, right, answers, x } = outcome;
        if !value.is_finite() {
            let find = || x.map_or(Ok(String::new()), |x| self.first_not_finite(&x));
            let place = Rank::ALONE.run(find)?;
            return Err(self.not_finite(&format!("the loss became {value}{place}")));
        }
        self.progress.sums.add(value, weight, right, answers);
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
            let problem = "an optimiser step without a batch";
            return Err(TrainError::settings("accumulate", problem));
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
            replicas.invalidate();
        }
        let progress = &mut self.progress;
        progress.step += 1;
        progress.learning_rate = learning_rate;
        if let Some(average) = &mut self.average {
            average.update(params, progress.step)?;
        }
        Ok(TrainEvent::Step {
            epoch: progress.epoch,
            step: progress.step,
            steps: self.steps,
            loss: (loss / weight) as f32,
            accuracy: progress.sums.accuracy(),
            learning_rate,
            gradient_norm,
        })
    }

    /// The learning rate of the next step.
    fn learning_rate(&self) -> f64 {
        let Progress { step, epoch, .. } = self.progress;
        let reductions = self.progress.plateau.reductions;
        let point = SchedulePoint { step, steps: self.steps, epoch, reductions };
        self.config.schedule.rate(self.config.learning_rate, point)
    }

    /// Validates, and keeps the network if it is the best so far.
    fn end_epoch(&mut self) -> Result<EpochMetrics, TrainError> {
        self.exchange_average()?;
        self.calibrate()?;
        let batch_size = self.config.batch_size;
        let (validation, validation_dice) = self.validate(batch_size)?.unzip();
        self.clock();
        let mut metrics = EpochMetrics {
            epoch: self.progress.epoch,
            train_loss: self.progress.sums.mean_loss(),
            train_accuracy: self.progress.sums.accuracy(),
            validation_loss: validation
                .map(|sums| Some(sums.mean_loss()).filter(|l| l.is_finite()).unwrap_or(f64::MAX)),
            validation_accuracy: validation.and_then(|sums| sums.accuracy()),
            validation_dice: validation_dice.flatten(),
            best: false,
            learning_rate: self.progress.learning_rate,
            seconds: self.progress.seconds,
        };
        let best = self.progress.epochs.iter().rfind(|e| e.best);
        metrics.best = best.is_none_or(|best| metrics.is_better_than(best, self.config.monitor));
        if metrics.best {
            self.best = Some(copies(self.network.params().all())?);
            if let Some(keep) = self.keep {
                checkpoint::save(keep.model, self.network, keep.card)?;
            }
        }
        self.exchange_average()?;
        let progress = &mut self.progress;
        let loss = metrics.validation_loss.unwrap_or(metrics.train_loss);
        progress.plateau.observe(&self.config.schedule, loss);
        progress.epochs.push(metrics);
        let best = progress.epochs.iter().rfind(|e| e.best).map_or(0, |e| e.epoch);
        let tired = self.config.patience.is_some_and(|patience| metrics.epoch - best >= patience);
        progress.finished = tired || metrics.epoch == self.config.epochs;
        progress.epoch += 1;
        progress.batch = 0;
        progress.sums = Sums::default();
        Ok(metrics)
    }

    /// The sums over the validation items and the [Dice coefficient](Objective::dice); `None` when there are none.
    fn validate(&self, batch_size: usize) -> Result<Option<(Sums, Option<f64>)>, TrainError> {
        if self.validation.is_empty() {
            return Ok(None);
        }
        let folded = FoldedNetworks::new(self.network)?;
        let (mut sums, mut counts) = (Sums::default(), Vec::<f64>::new());
        // Nothing is put around smaller volumes.
        let batch_size = if self.has_own_grids() { 1 } else { batch_size };
        let batches: Vec<&[Sample]> = self.validation.chunks(batch_size).collect();
        let own: Vec<&[Sample]> = self.rank.own(batches.len()).map(|i| batches[i]).collect();
        let mut scores = vec![];
        let reading = LoaderOptions::default();
        read_batches(self.dataset, &own, &reading, |mut batch, _| {
            let x = volumes(self.network, self.dataset, &mut batch)?;
            // All of one size.
            let ratios = spacings::ratios(self.network, self.dataset, batch.items[0]);
            let out = folded.coarsened(self.network, ratios)?.forward_large(&x)?;
            let (Score { loss, weight, right, answers }, counts) =
                self.objective.validation(&out, &batch)?;
            let loss: f64 = loss.to_dtype(DType::F64)?.to_scalar()?;
            let mut numbers = vec![loss, weight, right, answers];
            numbers.extend(counts);
            scores.push(f64::to_bytes(&numbers));
            Ok(ControlFlow::Continue(()))
        })?;
        let mut own = scores.into_iter();
        let all = self
            .rank
            .deal(batches.len(), |_| Ok::<_, RankError>(own.next().unwrap_or_default()))?;
        for score in all {
            let score = f64::of_bytes(&score);
            if let Some((&[loss, weight, right, answers], more)) = score.split_first_chunk() {
                sums.add(loss, weight, right, answers);
                counts.resize(counts.len().max(more.len()), 0.0);
                counts.iter_mut().zip(more).for_each(|(sum, more)| *sum += more);
            }
        }
        Ok(Some((sums, self.objective.dice(&counts))))
    }

    fn exchange_average(&mut self) -> Result<(), TrainError> {
        match &mut self.average {
            Some(average) => average.exchange(self.network.params()),
            None => Ok(()),
        }
    }

    fn has_own_grids(&self) -> bool {
        self.dataset.meta().grids == Grids::Each
    }

    /// How training volumes are read in this epoch.
    fn reading(&self) -> LoaderOptions {
        let (seed, epoch) = (self.config.seed, self.progress.epoch as u64);
        let (distortions, targets) = (self.config.distort, predicts_targets(self.network));
        LoaderOptions {
            rotation: self.config.augment.map(|turns| RandomRotation { seed, epoch, turns }),
            patch: self.config.patch.map(|patch| patch.of_epoch(seed, epoch)),
            distortion: (!distortions.is_empty()).then_some(RandomDistortion {
                seed,
                epoch,
                distortions,
                targets,
            }),
            share: self.rank.share(),
            ..LoaderOptions::default()
        }
    }

    /// The samples of the epoch in a random order. Of whole volumes with grids of their own those of about the same size
    /// come in one batch, so that little has to be put around them.
    fn order(&self) -> Vec<Sample> {
        let mut order = self.samples.clone();
        let epoch = self.progress.epoch as u64;
        let mut stream = Stream::new(self.config.seed, "order", &[epoch]);
        stream.shuffle(&mut order);
        if self.has_own_grids() && self.config.patch.is_none() {
            order.sort_by_key(|sample| self.dataset.grid(sample.item).voxels());
            let mut batches: Vec<Vec<Sample>> =
                order.chunks(self.config.batch_size).map(<[_]>::to_vec).collect();
            // The last one may be shorter: resuming counts whole batches.
            let last = batches.pop();
            stream.shuffle(&mut batches);
            order = batches.into_iter().chain(last).flatten().collect();
        }
        order
    }

    /// Takes the running statistics afresh from some batches: those gathered while training lag
    /// behind the weights.
    fn calibrate(&mut self) -> Result<(), TrainError> {
        let params = self.network.params();
        if params.all().count() == params.trainable().len() {
            return Ok(());
        }
        let mut order = self.order();
        order.truncate(CALIBRATION_BATCHES * self.config.batch_size);
        let mut count = 0;
        let (batch_size, reading) = (self.config.batch_size, self.reading());
        let waited = read_ahead(self.dataset, &order, batch_size, &reading, |mut batch, items| {
            if let Some(few) = self.rank.among_first(items.min(self.rank.size()))? {
                let x = self.task(&self.objective).volumes(self.network, &mut batch)?;
                spacings::by_size(self.network, self.dataset, &batch.items, &x, |network, x| {
                    let mode = Mode::Calibrate { batch: count };
                    count += 1;
                    few.run(|| network.forward(x, mode))
                })?;
            }
            Ok(ControlFlow::Continue(()))
        })?;
        self.progress.waited += waited.as_secs_f64();
        // Ranks without a part of the last batch have other statistics.
        ranks::take_first(&self.rank, self.network.params())
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
        let states = self.states();
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
        let Some(states) = self.states() else { return false };
        let by_steps =
            states.every_steps.is_some_and(|n| self.progress.step.is_multiple_of(n.max(1)));
        by_steps || states.every.is_some_and(|every| self.saved.elapsed() >= every)
    }

    fn save_state(&mut self) -> Result<(), TrainError> {
        let Some(states) = self.states() else { return Ok(()) };
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
            digest: self.dataset.digest()?,
            devices: self.devices(),
            progress: Progress { optimiser_step, ..self.progress.clone() },
        };
        state::write(path, &header, &self.tensors())
    }

    /// Every tensor of the training, by kind and name.
    fn tensors(&self) -> Named {
        let params = self.network.params();
        let weights = params.all().map(|(_, var)| var.as_tensor().clone());
        let mut tensors = named("weights", params.all(), weights);
        tensors.extend(self.optimiser.state(params).0);
        let average = self.average.iter().flat_map(|average| average.tensors.iter().cloned());
        tensors.extend(named("average", trainable(params), average));
        tensors.extend(named("best", params.all(), self.best.iter().flatten().cloned()));
        tensors
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
        let now = env!("CARGO_PKG_VERSION");
        if header.version != now {
            let was = &header.version;
            return Err(change(format!("the version of steer3d was {was} and is now {now}")));
        }
        if let Some(d) = difference(&header.config, self.config)? {
            return Err(change(format!("the setting {d}")));
        }
        if let Some(d) = difference(&header.model, self.network.config())? {
            return Err(change(format!("of the model, {d}")));
        }
        let (name, digest) = (&self.dataset.meta().name, self.dataset.digest()?);
        if header.digest != digest {
            let was = &header.dataset;
            return Err(change(format!(
                "the dataset was {was} with other items, names or units than {name} has now"
            )));
        }
        let params = self.network.params();
        let missing =
            |name: String| fault(&path, &format!("has no tensor '{name}' that fits the model"));
        let weights = take("weights", params.all(), &mut tensors).map_err(missing)?;
        set(params.all(), &weights)?;
        let step = header.progress.optimiser_step;
        self.optimiser.restore(params, &mut tensors, step).map_err(missing)?;
        if let Some(average) = &mut self.average {
            average.tensors = take("average", trainable(params), &mut tensors).map_err(missing)?;
        }
        if header.progress.epochs.iter().any(|e| e.best) {
            self.best = Some(take("best", params.all(), &mut tensors).map_err(missing)?);
        }
        self.progress = header.progress;
        self.resumed = true;
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

fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("plain data have a JSON form")
}

fn predicts_targets(network: &Network) -> bool {
    matches!(network.config().head(), Head::Scalars | Head::Field { .. })
}

fn size(tensor: &Tensor) -> usize {
    tensor.elem_count() * tensor.dtype().size_in_bytes()
}

fn is_finite(tensor: &Tensor) -> Result<bool, TrainError> {
    let sum: f64 = tensor.to_dtype(DType::F64)?.abs()?.sum_all()?.to_scalar()?;
    Ok(sum.is_finite())
}

/// [`read_batches`] of `samples` in their order.
fn read_ahead(
    dataset: &Dataset,
    samples: &[Sample],
    batch_size: usize,
    options: &LoaderOptions,
    take: impl FnMut(Batch, usize) -> Result<ControlFlow<()>, TrainError>,
) -> Result<Duration, TrainError> {
    let batches: Vec<&[Sample]> = samples.chunks(batch_size).collect();
    read_batches(dataset, &batches, options, take)
}

/// Hands batches in order, or a share of each, read ahead on other threads, to `take` with the number of items of the
/// whole batch, until it breaks; gives the time spent waiting for them.
fn read_batches(
    dataset: &Dataset,
    batches: &[&[Sample]],
    options: &LoaderOptions,
    mut take: impl FnMut(Batch, usize) -> Result<ControlFlow<()>, TrainError>,
) -> Result<Duration, TrainError> {
    let all = batches.iter().map(|batch| batch.to_vec()).collect();
    std::thread::scope(|scope| {
        let mut loader = Loader::of_samples(scope, dataset, all, *options);
        for (batch, samples) in loader.by_ref().zip(batches) {
            if take(batch?, samples.len())?.is_break() {
                break;
            }
        }
        Ok(loader.waited())
    })
}
