//! An experiment in its run folder: training and evaluation.

use std::fs;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device};
use serde::Serialize;
use steer3d_dataset::Dataset;
use steer3d_eval::NetworkPredictor;
use steer3d_files::lock::{Lock, lock};
use steer3d_nn::{Network, checkpoint};
use steer3d_ranks::Rank;
use steer3d_train::{EpochMetrics, StateFolder, TrainConfig, TrainingState, state};

use crate::error::{At, ExperimentError};
use crate::evaluation::{check, evaluate_run};
use crate::experiment::{Data, EXPERIMENT, Experiment};
use crate::folder::{RunRecord, TestScore};
use crate::session::Session;
use crate::training::{Run, RunOptions, train_into};

/// What to do with a training that the run folder already has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Existing {
    /// Refuse if it is not finished, else start anew.
    #[default]
    Keep,
    /// Go on with it.
    Resume,
    /// Start anew.
    Overwrite,
}

/// Makes the dataset of an experiment, as the words of `make` say. These may come from a file of a stranger: only what
/// makes that dataset may be done.
pub type MakeDataset<'a> = &'a dyn Fn(&Data) -> std::io::Result<()>;

/// An experiment that is trained and not yet evaluated.
#[derive(Debug)]
pub struct TrainedExperiment<'a> {
    experiment: &'a Experiment,
    folder: PathBuf,
    dataset: Dataset,
    run: Run,
    /// The scores of an evaluation of this very network.
    evaluated: Option<Vec<TestScore>>,
    /// Held by the first rank.
    _lock: Option<Lock>,
}

/// What a run came to.
#[derive(Debug, Clone, Serialize)]
pub struct RunSummary {
    /// Version of the layout.
    pub schema_version: u32,
    /// File of the network.
    pub model: PathBuf,
    /// Number of trained parameters.
    pub parameters: usize,
    /// The best epoch.
    pub best: Option<EpochMetrics>,
    /// One entry for each finished epoch.
    pub epochs: Vec<EpochMetrics>,
    /// Whether the session stopped it.
    pub stopped: bool,
}

impl RunSummary {
    /// The summary in a line.
    pub fn text(&self) -> String {
        let accuracy = self.best.and_then(|best| best.validation_accuracy);
        let accuracy = accuracy
            .map_or_else(String::new, |a| format!(", validation accuracy {:.1} %", 100.0 * a));
        format!("{}: {} parameters{accuracy}", self.model.display(), self.parameters)
    }
}

impl Experiment {
    /// The dataset, made by `make` where it is missing and the experiment says how.
    ///
    /// # Errors
    /// If it cannot be made or opened.
    pub fn dataset(
        &self,
        make: MakeDataset<'_>,
        session: &Session<'_>,
    ) -> Result<Dataset, ExperimentError> {
        let Data { dataset, make: words } = &self.data;
        let is_missing = || vec![(!dataset.exists() && !words.is_empty()).into()];
        if Rank::current().from_first(|| Ok::<_, ExperimentError>(is_missing()))? == [1] {
            let shown = words.join(" ").replace(char::is_control, "?");
            session.observer.say(&format!("steer3d {shown}"));
            if let Some(folder) = dataset.parent().filter(|f| !f.as_os_str().is_empty()) {
                fs::create_dir_all(folder).at(folder.display())?;
            }
            let place = format!("data.make: the command that makes {} failed", dataset.display());
            make(&self.data).at(place)?;
        }
        Ok(Dataset::open(dataset)?)
    }

    /// Trains into a run folder with the settings `config`, which are [those](Self::training) of the experiment or
    /// others. Nothing in the folder is changed before all is checked; it is locked against others until the
    /// experiment is dropped. Of several [ranks](Rank::run) only the first reads and writes the folder.
    ///
    /// # Errors
    /// [`ExperimentError::Invalid`] for a setting or a folder that cannot be used, and as
    /// [`train_into`](crate::train_into).
    pub fn train(
        &self,
        folder: &Path,
        config: &TrainConfig,
        existing: Existing,
        make: MakeDataset<'_>,
        session: &Session<'_>,
    ) -> Result<TrainedExperiment<'_>, ExperimentError> {
        let is_new = Rank::current().is_first() && !folder.exists();
        let trained = self.train_in(folder, config, existing, make, session);
        if is_new && trained.is_err() {
            // A folder that has something in it stays.
            let _ = fs::remove_dir(folder);
        }
        trained
    }

    fn train_in(
        &self,
        folder: &Path,
        config: &TrainConfig,
        existing: Existing,
        make: MakeDataset<'_>,
        session: &Session<'_>,
    ) -> Result<TrainedExperiment<'_>, ExperimentError> {
        let states = self.states.in_run(folder)?;
        let rank = Rank::current();
        let is_first = rank.is_first();
        let (lock, before, latest) = match is_first {
            true => found(folder, &states, existing)?,
            false => (None, None, None),
        };
        let device = session.device();
        let state = shared_state(&rank, &states, latest.as_deref(), device)?;
        let was_finished = state.as_ref().is_some_and(|state| state.header.progress.finished);
        let dataset = self.dataset(make, session)?;
        let model = self.model(&dataset, device)?;
        if let Some(evaluation) = &self.evaluation {
            check(model.head(), &dataset, evaluation)?;
        }
        let recompute = self.recompute()?;
        let network_on = |device: &Device| -> Result<Network, ExperimentError> {
            let network = Network::new(&model, config.seed, DType::F32, device)?;
            Ok(network.with_recomputation(recompute))
        };
        let network = network_on(device)?;
        let replicas =
            session.devices[1..].iter().map(network_on).collect::<Result<Vec<_>, _>>()?;
        let resolved = toml::to_string_pretty(&self.resolved(&model, config)?)?;
        let known = is_first
            && fs::read_to_string(folder.join(EXPERIMENT)).is_ok_and(|text| text == resolved);
        let options = RunOptions {
            states: Some(&states),
            state,
            experiment: Some(&resolved),
            replicas: &replicas,
        };
        let run = train_into(folder, network, &dataset, config, options, session)?;
        let digest = dataset.digest()?;
        let same =
            |run: &RunRecord| run.version == env!("CARGO_PKG_VERSION") && run.data_sha256 == digest;
        let before = before.filter(|run| known && was_finished && same(run));
        let evaluated = before.map(|run| run.test).filter(|test| !test.is_empty());
        let evaluated =
            rank.from_first(|| Ok::<_, ExperimentError>(serde_json::to_vec(&evaluated)?))?;
        let evaluated = serde_json::from_slice(&evaluated)?;
        let folder = folder.into();
        Ok(TrainedExperiment { experiment: self, folder, dataset, run, evaluated, _lock: lock })
    }
}

impl TrainedExperiment<'_> {
    /// Whether the session stopped the training.
    pub fn is_stopped(&self) -> bool {
        self.run.stopped
    }

    /// Evaluates the network as the experiment says, unless it was stopped or is evaluated, and writes the report
    /// into the run folder. The session may stop it: the same call goes on then.
    ///
    /// # Errors
    /// If the evaluation fails or a file cannot be written.
    pub fn evaluate(self, session: &Session<'_>) -> Result<RunSummary, ExperimentError> {
        let Self { experiment, folder, dataset, run, evaluated, _lock } = self;
        let mut summary = RunSummary {
            schema_version: 1,
            model: run.path,
            parameters: run.network.params().count(),
            best: run.epochs.iter().rfind(|e| e.best).copied(),
            epochs: run.epochs,
            stopped: run.stopped,
        };
        let (Some(evaluation), false) = (&experiment.evaluation, run.stopped) else {
            return Ok(summary);
        };
        let test = if let Some(test) = evaluated {
            test
        } else {
            let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let network = NetworkPredictor::new(name, run.network)?;
            let network = network.with_voxel_size(dataset.meta().voxel_size);
            match evaluate_run(&folder, &network, &dataset, evaluation, session) {
                Err(error) if error.is_stop() => {
                    summary.stopped = true;
                    return Ok(summary);
                }
                evaluated => evaluated?,
            }
        };
        if Rank::current().is_first()
            && let Some(mut record) = RunRecord::read(&folder)
        {
            record.test = test;
            record.write(&folder)?;
            add_scores(&summary.model, &record.test)?;
        }
        Ok(summary)
    }
}

/// What the first rank finds in a run folder, which it makes: its lock, the record, and the state to go on from.
type Found = (Option<Lock>, Option<RunRecord>, Option<PathBuf>);

fn found(
    folder: &Path,
    states: &StateFolder,
    existing: Existing,
) -> Result<Found, ExperimentError> {
    fs::create_dir_all(folder).at(folder.display())?;
    let lock = lock(folder)?;
    let before = RunRecord::read(folder);
    let latest = state::latest(&states.folder)?;
    let unfinished = before.as_ref().is_some_and(|run| !run.finished);
    if unfinished && latest.is_some() && existing == Existing::Keep {
        let problem = "holds a training that is not finished; go on with it with --resume, or start anew with --overwrite";
        return Err(ExperimentError::invalid(folder.display(), problem));
    }
    Ok((Some(lock), before, latest.filter(|_| existing == Existing::Resume)))
}

/// The state that the first rank has found, on all ranks.
fn shared_state(
    rank: &Rank,
    states: &StateFolder,
    latest: Option<&Path>,
    device: &Device,
) -> Result<Option<TrainingState>, ExperimentError> {
    let path = latest.unwrap_or(&states.folder);
    let read = || match latest {
        Some(path) => fs::read(path).at(path.display()),
        None => Ok(vec![]),
    };
    let bytes = rank.from_first(read)?;
    Ok((!bytes.is_empty()).then(|| state::of_bytes(path, &bytes, device)).transpose()?)
}

/// Puts the scores of an evaluation into the card of a model file.
fn add_scores(path: &Path, scores: &[TestScore]) -> Result<(), ExperimentError> {
    let (network, mut card) = checkpoint::load(path, &Device::Cpu)?;
    card.origin.scores = scores.iter().flat_map(TestScore::entries).collect();
    Ok(checkpoint::save(path, &network, &card)?)
}
