//! Several networks, trained from several seeds and measured on the same volumes.

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use candle_core::DType;
use serde::{Deserialize, Serialize};
use steer3d_dataset::{Dataset, Split};
use steer3d_eval::{
    AnswerKind, Comparison, EvalError, NetworkPredictor, Predictor, Protocol, Report, Trial,
    evaluate,
};
use steer3d_files::lock::lock;
use steer3d_files::temporary_beside;
use steer3d_nn::{ModelConfig, Network, checkpoint};
use steer3d_ranks::{Rank, RankError};
use steer3d_report::{Evaluation, write_comparison, write_report};
use steer3d_train::{TrainConfig, TrainingState, state};

use crate::error::{At, ExperimentError};
use crate::evaluation::progress;
use crate::experiment::{EvaluationSettings, StateSettings};
use crate::folder::write_text;
use crate::rivals::{Architecture, Budget, Prototypes};
use crate::session::Session;
use crate::training::{RunOptions, train_into};

/// What to compare, and how.
#[derive(Debug, Clone)]
pub struct CompareConfig {
    /// The networks, sized for the dataset, and their trainings, whose seed is replaced.
    pub rivals: Vec<(Architecture, TrainConfig)>,
    /// What they answer.
    pub answers: AnswerKind,
    /// What all of them have about as much of as the steerable network.
    pub budget: Budget,
    /// Seeds from which each of them is trained.
    pub seeds: Range<u64>,
    /// Whether blocks are computed again in the backward pass.
    pub recompute: bool,
    /// How all of them are measured.
    pub evaluation: EvaluationSettings,
    /// Folder for the tables, the report and the trainings.
    pub folder: PathBuf,
}

impl CompareConfig {
    /// The steerable network and its rivals, of as many parameters, trained from the seeds 0 to 2 on classes and
    /// measured on the test volumes under `protocol`.
    pub fn new(folder: PathBuf, protocol: Protocol) -> Self {
        Self {
            rivals: Architecture::RIVALS.map(|a| (a, a.training())).to_vec(),
            answers: AnswerKind::Classes,
            budget: Budget::Parameters,
            seeds: 0..3,
            recompute: false,
            evaluation: EvaluationSettings { split: Split::Test, protocol },
            folder,
        }
    }

    /// The same trainings of so many epochs.
    #[must_use]
    pub fn with_epochs(mut self, epochs: usize) -> Self {
        self.rivals.iter_mut().for_each(|(_, training)| training.epochs = epochs);
        self
    }
}

/// Trains every network from every seed and measures it; trainings and evaluations that the folder has are not
/// repeated. The folder gets `comparison.md`, `.csv` and `.json` (mean and standard deviation over seeds), the report
/// of the models of the first seed, and a folder for each training. `None` if the session stops it: the same call
/// then goes on. Of several [ranks](Rank::run), which share the folder, each trains some of the networks; then they
/// evaluate all of them together.
///
/// # Errors
/// If a network does not fit the dataset, a training diverges, a file cannot be read or written, or ranks do not share the
/// folder.
pub fn compare(
    dataset: &Dataset,
    config: &CompareConfig,
    session: &Session<'_>,
) -> Result<Option<Comparison>, ExperimentError> {
    let prototypes = Prototypes::new(dataset, config.answers)?;
    let EvaluationSettings { split, protocol } = &config.evaluation;
    protocol.check(dataset, *split)?;
    if config.seeds.is_empty() {
        return Err(ExperimentError::invalid("seeds", "expected at least one, found none"));
    }
    let rank = Rank::current();
    fs::create_dir_all(&config.folder).at(config.folder.display())?;
    let _lock = rank.is_first().then(|| lock(&config.folder)).transpose()?;
    check_shared(&rank, &config.folder)?;
    let rivals = config.rivals.iter().map(|(architecture, training)| {
        Ok((*architecture, rival(&prototypes, *architecture, config.budget, session)?, training))
    });
    let rivals = rivals.collect::<Result<Vec<_>, ExperimentError>>()?;
    if !trained_by_ranks(&rank, dataset, config, &rivals, session)? {
        return Ok(None);
    }
    let (mut models, mut firsts, mut journals) = (vec![], vec![], vec![]);
    for (architecture, model, training) in &rivals {
        let mut trials = vec![];
        for seed in config.seeds.clone() {
            let job = Job::new(dataset, config, *architecture, model, training, seed);
            let trained = Rank::ALONE.run(|| job.trained(config.recompute, session))?;
            let Some((predictor, seconds)) = trained else { return Ok(None) };
            let folder = &job.folder;
            let journal = folder.join("unfinished.logits");
            let progress = progress(dataset, session);
            let progress = |p| progress(architecture.name(), p);
            let report =
                match evaluate(&predictor, dataset, *split, protocol, Some(&journal), &progress) {
                    Err(EvalError::Stopped) => return Ok(None),
                    report => report?,
                };
            journals.push(journal);
            let mut trial = Trial::new(seed, seconds, report, protocol);
            if trials.is_empty() {
                firsts.push(predictor);
            } else {
                trial.report.predictions.clear();
            }
            trials.push(trial);
        }
        models.push((architecture.to_string(), trials));
    }
    let name = &dataset.meta().name;
    let comparison = Comparison::new(name, protocol, &models);
    if !rank.is_first() {
        return Ok(Some(comparison));
    }
    let first: Vec<_> = models.into_iter().map(|(_, mut t)| t.swap_remove(0).report).collect();
    let firsts: Vec<&dyn Predictor> = firsts.iter().map(|model| model as _).collect();
    let section = Evaluation { dataset, split: *split, protocol }.illustrated(first, &firsts)?;
    let title = format!("Networks on {name}, trained from seed {}", config.seeds.start);
    write_report(&config.folder, &Report::new(&title, session.command, vec![section]))?;
    write_comparison(&config.folder, &comparison)?;
    for journal in journals {
        fs::remove_file(&journal).at(journal.display())?;
    }
    Ok(Some(comparison))
}

/// Checks that all ranks see the folder of the first, which makes a file there whose name no other folder has.
fn check_shared(rank: &Rank, folder: &Path) -> Result<(), ExperimentError> {
    if rank.is_alone() {
        return Ok(());
    }
    let token = rank.is_first().then(|| temporary_beside(&folder.join("token"))).transpose();
    let token = token.at(folder.display())?;
    let name = token.as_ref().and_then(|token| token.path().file_name());
    let name = name.map_or_else(Vec::new, |name| name.as_encoded_bytes().to_vec());
    let name = rank.from_first(|| Ok::<_, ExperimentError>(name))?;
    let name = String::from_utf8(name).map_err(|_| RankError::Different)?;
    if !folder.join(name).exists() {
        let problem = format!(
            "rank {} does not find what rank 0 has written there; give a folder that all ranks share",
            rank.index()
        );
        return Err(ExperimentError::invalid(folder.display(), problem));
    }
    // The file goes when all have looked for it.
    Ok(rank.meet()?)
}

/// Has each of several ranks train some of the networks, which are read from the folder afterwards. Whether all are
/// trained.
fn trained_by_ranks(
    rank: &Rank,
    dataset: &Dataset,
    config: &CompareConfig,
    models: &[(Architecture, ModelConfig, &TrainConfig)],
    session: &Session<'_>,
) -> Result<bool, ExperimentError> {
    if rank.is_alone() {
        return Ok(true);
    }
    let rivals: Vec<_> = config.rivals.iter().map(|(rival, of)| (rival.name(), of)).collect();
    let settings = serde_json::to_string(&(rivals, config.seeds.start, config.seeds.end))?;
    rank.agree("version of steer3d", env!("CARGO_PKG_VERSION").as_bytes())?;
    rank.agree("settings of the trainings", settings.as_bytes())?;
    rank.agree("dataset", dataset.digest()?.as_bytes())?;
    let jobs = models.iter().flat_map(|(architecture, model, training)| {
        let job = |seed| Job::new(dataset, config, *architecture, model, training, seed);
        config.seeds.clone().map(job)
    });
    let jobs: Vec<Job<'_>> = jobs.collect();
    let mut stopped = false;
    for i in rank.own(jobs.len()) {
        let trained = Rank::ALONE.run(|| jobs[i].trained(config.recompute, session))?;
        stopped = trained.is_none();
        if stopped {
            break;
        }
    }
    // Trainings take as long as they take.
    rank.meet_patiently()?;
    Ok(!rank.any(stopped)?)
}

/// A rival; says so if its size is far from the budget.
fn rival(
    prototypes: &Prototypes,
    architecture: Architecture,
    budget: Budget,
    session: &Session<'_>,
) -> Result<ModelConfig, ExperimentError> {
    let model = prototypes.rival(architecture, budget, session.device())?;
    let share = prototypes.share(&model, budget, session.device())?;
    if (share - 1.0).abs() > 0.2 {
        let what = match budget {
            Budget::Parameters => "parameters",
            Budget::MultiplyAdds => "multiply-adds",
        };
        session.observer.say(&format!(
            "{architecture}: no width comes nearer to the steerable network than {share:.2} times its {what}"
        ));
    }
    Ok(model)
}

/// One training of a comparison.
struct Job<'a> {
    folder: PathBuf,
    dataset: &'a Dataset,
    name: String,
    model: &'a ModelConfig,
    training: TrainConfig,
}

/// What a finished training was.
#[derive(PartialEq, Serialize, Deserialize)]
struct Finished {
    /// Version of steer3d.
    version: String,
    model: ModelConfig,
    training: TrainConfig,
    /// [`Dataset::digest`].
    data_sha256: String,
    /// [`Predictor::fingerprint`] of the network.
    network_sha256: Option<String>,
    seconds: f64,
}

impl<'a> Job<'a> {
    fn new(
        dataset: &'a Dataset,
        config: &CompareConfig,
        architecture: Architecture,
        model: &'a ModelConfig,
        training: &TrainConfig,
        seed: u64,
    ) -> Self {
        let name = architecture.to_string();
        let folder = config.folder.join(format!("{name}-{seed}"));
        Self { folder, dataset, name, model, training: TrainConfig { seed, ..training.clone() } }
    }

    /// The network and the seconds that its training took, from the folder if it was finished
    /// before; `None` if it is stopped.
    fn trained(
        &self,
        recompute: bool,
        session: &Session<'_>,
    ) -> Result<Option<(NetworkPredictor, f64)>, ExperimentError> {
        let record = self.folder.join("finished.json");
        let mut finished = Finished {
            version: env!("CARGO_PKG_VERSION").into(),
            model: self.model.clone(),
            training: self.training.clone(),
            data_sha256: self.dataset.digest()?,
            network_sha256: None,
            seconds: 0.0,
        };
        let edges = self.dataset.meta().voxel_size;
        let named = |network| {
            NetworkPredictor::new(self.name.clone(), network).map(|n| n.with_voxel_size(edges))
        };
        if let Ok(text) = fs::read_to_string(&record)
            && let Ok(found) = serde_json::from_str::<Finished>(&text)
            && let file = self.folder.join("model.safetensors")
            && let Ok((network, _)) = checkpoint::load(&file, session.device())
        {
            let network = named(network)?;
            finished.network_sha256 = network.fingerprint();
            finished.seconds = found.seconds;
            if found == finished {
                return Ok(Some((network, found.seconds)));
            }
        }
        let network = Network::new(self.model, self.training.seed, DType::F32, session.device())?;
        let network = network.with_recomputation(recompute);
        let states = StateSettings::default().in_run(&self.folder)?;
        let state = self.unfinished(&states.folder, session)?;
        let options = RunOptions { states: Some(&states), state, ..RunOptions::default() };
        let run =
            train_into(&self.folder, network, self.dataset, &self.training, options, session)?;
        if run.stopped {
            return Ok(None);
        }
        let network = named(run.network)?;
        finished.network_sha256 = network.fingerprint();
        finished.seconds = run.epochs.last().map_or(0.0, |epoch| epoch.seconds);
        write_text(&record, &serde_json::to_string_pretty(&finished)?)?;
        Ok(Some((network, finished.seconds)))
    }

    /// The state of this very training, if it was interrupted.
    fn unfinished(
        &self,
        states: &Path,
        session: &Session<'_>,
    ) -> Result<Option<TrainingState>, ExperimentError> {
        let (latest, digest) = (state::latest(states)?, self.dataset.digest()?);
        let state = latest.and_then(|path| state::read(&path, session.device()).ok());
        Ok(state.filter(|state| {
            let header = &state.header;
            let same = (&header.model, &header.config) == (self.model, &self.training);
            same && header.digest == digest && header.version == env!("CARGO_PKG_VERSION")
        }))
    }
}
