//! A training into a run folder.

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Instant;

use candle_core::Tensor;
use steer3d_dataset::{Batch, Dataset, Grids, Split};
use steer3d_nn::checkpoint::{FORMAT, Meaning, ModelCard, Origin, save};
use steer3d_nn::{FoldedNetworks, Head, Network, NnError, Typical};
use steer3d_ranks::{Number, Rank, Traffic};
use steer3d_train::{
    Checkpoints, EpochMetrics, StateFolder, TrainConfig, TrainEvent, Training, TrainingState,
};

use crate::error::{At, ExperimentError};
use crate::experiment::EXPERIMENT;
use crate::folder::{Recorder, RunRecord, write_text};
use crate::session::Session;

/// Most training volumes whose features say what is typical.
const MAX_TYPICAL: usize = 2048;

/// What a training into a run folder began with, beside its settings.
#[derive(Debug, Default)]
pub struct RunOptions<'a> {
    /// Where states are saved, if they are.
    pub states: Option<&'a StateFolder>,
    /// The state from which the training goes on.
    pub state: Option<TrainingState>,
    /// The resolved experiment file.
    pub experiment: Option<&'a str>,
    /// The network on the other devices of the session.
    pub replicas: &'a [Network],
}

/// A training in a run folder, over or stopped.
#[derive(Debug)]
pub struct Run {
    /// The network with the weights of its best epoch.
    pub network: Network,
    /// Its file.
    pub path: PathBuf,
    /// One entry for each finished epoch.
    pub epochs: Vec<EpochMetrics>,
    /// Whether the session stopped it.
    pub stopped: bool,
}

/// Trains a network and keeps its best weights and its metrics in `folder`. Nothing in the folder
/// is changed before all is checked. Of several [ranks](Rank::run) the first writes.
///
/// # Errors
/// As [`train`](steer3d_train::train) and [`resume`](steer3d_train::resume); if a file cannot be written; if the
/// training is stopped before there is anything to keep.
pub fn train_into(
    folder: &Path,
    network: Network,
    dataset: &Dataset,
    config: &TrainConfig,
    options: RunOptions<'_>,
    session: &Session<'_>,
) -> Result<Run, ExperimentError> {
    let rank = Rank::current();
    if rank.is_first() {
        fs::create_dir_all(folder).at(folder.display())?;
    }
    let RunOptions { states, state, experiment, replicas } = options;
    let path = folder.join("model.safetensors");
    let mut card = card(&network, dataset, config.seed)?;
    let label = format!("train {} on {}", network.config().name(), dataset.meta().name);
    let mut record = RunRecord::new(&network, dataset, config, session.command)?;
    session.observer.say(&format!("{label}: {} parameters", record.parameters));
    let (mut first, mut epochs) = (0, vec![]);
    if let Some(TrainingState { path, header, .. }) = &state {
        let (from, progress) = (path.display(), &header.progress);
        let (was, now) = (header.devices, (1 + replicas.len()) * rank.size());
        let rounding = if was == now {
            String::new()
        } else {
            format!(", trained on {was} devices and now on {now}: the same to rounding")
        };
        session
            .observer
            .say(&format!("  goes on from {from} (epoch {}{rounding})", progress.epoch));
        (first, epochs) = (progress.step, progress.epochs.clone());
    }
    let keep = Some(Checkpoints { model: &path, card: &card, states });
    let training = Training::new(&network, dataset, config, keep, state)?.on_devices(replicas)?;
    let mut recorder = None;
    if rank.is_first() {
        if let Some(text) = experiment {
            write_text(&folder.join(EXPERIMENT), text)?;
        }
        record.write(folder)?;
        recorder = Some(Recorder::new(folder, first, &epochs)?);
    }
    let mut part = session.observer.begin(&label);
    let (start, mut done, mut failed) = (Instant::now(), first, None);
    let volumes = config.batch_size * config.accumulate;
    let watch = &mut |event| {
        match event {
            TrainEvent::Step { epoch, step, steps, loss, accuracy, .. } => {
                if done == first {
                    part.start(first, steps);
                }
                done = step;
                let rate = (volumes * (step - first)) as f64 / start.elapsed().as_secs_f64();
                let (epochs, accuracy) = (config.epochs, percent(accuracy));
                let message =
                    format!("epoch {epoch}/{epochs} loss {loss:.3}{accuracy} {rate:.1} volumes/s");
                part.at(step, steps, &message);
            }
            TrainEvent::Epoch(metrics) => part.say(&describe(&metrics, config.epochs)),
            _ => {}
        }
        let recorded = recorder.as_mut().map(|recorder| recorder.record(&event, done));
        failed = failed.take().or(recorded.and_then(Result::err));
        if failed.is_some() || session.is_stopped() {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    };
    let wait = session.stop.wait();
    let trained = training.run(watch)?;
    let wait = trained.stopped.then_some(wait);
    if let Some(error) = failed {
        return Err(error).at(folder.display());
    }
    let share = trained.waited.as_secs_f64() / trained.elapsed.as_secs_f64().max(1e-9);
    part.say(&format!("  waited for data: {:.1} % of the time", 100.0 * share));
    if !rank.is_alone() {
        let Traffic { messages, bytes, time } = rank.traffic();
        let (kb, steps) = (bytes as f64 / 1e3, (done - first).max(1) as u64);
        let share = 100.0 * time.as_secs_f64() / trained.elapsed.as_secs_f64().max(1e-9);
        part.say(&format!(
            "  exchanged with other ranks: {:.1} kB in {} messages a step; {share:.1} % of the time",
            kb / steps as f64,
            messages / steps
        ));
    }
    if trained.epochs.is_empty() && states.is_none() {
        let problem = "interrupted before the first epoch ended; nothing was saved";
        return Err(ExperimentError::invalid("", problem));
    }
    if !trained.stopped {
        card.origin.typical = typical(&rank, &network, dataset, config.batch_size)?;
    }
    if let Some(recorder) = recorder {
        recorder.curves(&label)?;
        if !trained.stopped {
            save(&path, &network, &card)?;
        }
        record.finished = !trained.stopped;
        record.seconds = trained.elapsed.as_secs_f64();
        record.waited_seconds = trained.waited.as_secs_f64();
        record.write(folder)?;
    }
    if trained.stopped {
        // A process that ends sooner may take the first one with it.
        rank.meet()?;
    }
    drop(wait);
    Ok(Run { network, path, epochs: trained.epochs, stopped: trained.stopped })
}

fn card(network: &Network, dataset: &Dataset, seed: u64) -> Result<ModelCard, ExperimentError> {
    let (meta, tasks) = (dataset.meta(), dataset.tasks().cloned().unwrap_or_default());
    Ok(ModelCard {
        format: FORMAT,
        version: env!("CARGO_PKG_VERSION").into(),
        dataset: meta.name.clone(),
        seed,
        class_names: meta.class_names.clone(),
        dims: meta.dims,
        voxel_size: meta.voxel_size,
        unit: meta.unit.clone(),
        meaning: Meaning {
            irreps: Some(meta.irreps.clone()),
            channels: meta.channel_meaning(),
            voxel_classes: tasks.voxel_classes,
            targets: tasks.targets,
            target_names: tasks.target_names,
            target_units: tasks.target_units,
            recipe: meta.recipe.as_ref().map(toml::Table::try_from).transpose()?,
        },
        origin: Origin {
            source: meta.provenance.source.clone(),
            licence: meta.provenance.licence.clone(),
            data_sha256: dataset.digest()?,
            scores: vec![],
            typical: None,
        },
        model: network.config().clone(),
    })
}

/// What the features of the training volumes are, as far as the network has features of whole volumes.
fn typical(
    rank: &Rank,
    network: &Network,
    dataset: &Dataset,
    batch: usize,
) -> Result<Option<Typical>, ExperimentError> {
    let pooled =
        !matches!(network.config().head(), Head::Voxels | Head::Field { pooled: false, .. });
    let [train, mut known] =
        [Split::Train, Split::Validation].map(|split| evenly(dataset.indices(split), MAX_TYPICAL));
    if !pooled || train.len() < 2 {
        return Ok(None);
    }
    if known.is_empty() {
        known.clone_from(&train);
    }
    let folded = FoldedNetworks::new(network)?;
    let features = |items: &[usize]| -> Result<Vec<Vec<f32>>, ExperimentError> {
        // Of items with grids of their own each by itself.
        let batch = if dataset.meta().grids == Grids::Each { 1 } else { batch };
        let batches: Vec<&[usize]> = items.chunks(batch).collect();
        let all = rank.deal(batches.len(), |i| -> Result<_, ExperimentError> {
            let items = batches[i];
            let Batch { values, dims: [d, h, w], .. } = Batch::read(dataset, items, None)?;
            let shape = (items.len(), dataset.meta().channels, d, h, w);
            let volumes = Tensor::from_vec(values, shape, network.params().device());
            let edges = dataset.own_voxel_size(items[0]);
            let ratios = network.coarsening(dataset.meta().voxel_size, edges);
            let folded = folded.coarsened(network, ratios)?;
            let [features, _] = folded.forward_with_features(&volumes.map_err(NnError::from)?)?;
            let rows = features.values.to_vec2::<f32>().map_err(NnError::from)?;
            Ok(f32::to_bytes(&rows.concat()))
        })?;
        let rows = batches.iter().zip(all).flat_map(|(items, bytes)| {
            let values = f32::of_bytes(&bytes);
            values.chunks_exact(values.len() / items.len()).map(<[f32]>::to_vec).collect::<Vec<_>>()
        });
        Ok(rows.collect())
    };
    Ok(Some(Typical::of(&features(&train)?, &features(&known)?)?))
}

/// At most `most` of these, at equal distances.
fn evenly(items: Vec<usize>, most: usize) -> Vec<usize> {
    let step = items.len().div_ceil(most).max(1);
    items.into_iter().step_by(step).collect()
}

fn describe(m: &EpochMetrics, epochs: usize) -> String {
    let dice = m.validation_dice.map_or_else(String::new, |dice| format!(" Dice {dice:.3}"));
    let validation = m.validation_loss.map_or_else(String::new, |loss| {
        format!(", validation loss {loss:.3}{}{dice}", percent(m.validation_accuracy))
    });
    format!(
        "  epoch {:>3}/{epochs}: train loss {:.3}{}{validation}{}",
        m.epoch,
        m.train_loss,
        percent(m.train_accuracy),
        if m.best { " *" } else { "" }
    )
}

fn percent(accuracy: Option<f64>) -> String {
    accuracy.map_or_else(String::new, |a| format!(" accuracy {:.1} %", 100.0 * a))
}
