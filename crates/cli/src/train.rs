use std::fmt;
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use candle_core::{DType, Device};
use clap::{Args, ValueEnum};
use serde::Serialize;
use steer3d::dataset::{Dataset, Split, Turns};
use steer3d::eval::{AnswerKind, NetworkPredictor};
use steer3d::kernels::Family;
use steer3d::nn::checkpoint::{self, FORMAT, ModelCard};
use steer3d::nn::{
    ModelConfig, Network, PlainConfig, Pooling, SteerableConfig, Symmetry, TransformerConfig,
};
use steer3d::report::{self, terminal};
use steer3d::train::state::{self, TrainingState};
use steer3d::train::{EpochMetrics, Precision, Save, States, TrainConfig, TrainEvent, Training};
use toml::Table;

use crate::experiment::{Data, Evaluation, Experiment, Saving, Settings, network, read};
use crate::output::Output;
use crate::record::{EXPERIMENT, Recorder, RunRecord, TestScore};
use crate::{INTERRUPTED, eval, runs};

pub(crate) const EXAMPLES: &str = "Examples:
  steer3d init > cath.toml && steer3d train cath.toml
  steer3d train cath.toml --set training.epochs=50 --set model.blocks.0.fields=8x0+4x1 --out runs/wide
  steer3d train cath.toml --resume
  steer3d train cath.toml --seeds 5 --resume
  steer3d train cath.h5 --model steerable --out runs/steerable
  steer3d train cath.h5 --model plain --epochs 50 --learning-rate 2e-3 --out runs/plain
  steer3d train cath.h5 --config model.toml --out runs/mine
  steer3d train cath.toml --device cuda:0,cuda:1

The run folder gets model.safetensors (weights of the best epoch and what the model is),
experiment.toml (all settings), run.json (version, seed, checksum of the data), metrics.jsonl (one
line for each epoch), curves.html, tensorboard/ and states/, from which --resume goes on to the same
bits. Ctrl-C and SIGTERM save the state and end with exit code 130; a second Ctrl-C ends at once.";

/// The orientations of the group network multiply the inputs of its filters by 24, and so the effect of a step
/// by 5; from one of three seeds it does not learn at the rate of the others.
pub(crate) const GROUP_LEARNING_RATE: f64 = 5e-3;

#[derive(Args)]
pub(crate) struct TrainArgs {
    /// Experiment file (.toml, see `steer3d init`), folder of a run, or dataset (HDF5) as made by
    /// `steer3d dataset build` or `import`
    #[arg(value_name = "EXPERIMENT|DATASET")]
    source: PathBuf,
    /// Change of a setting of the experiment file, such as training.epochs=50 or model.blocks.0.size=5;
    /// KEY= removes it; may be given several times
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Go on with the training of the run folder where it was saved last; start it if there is none
    #[arg(long)]
    resume: bool,
    /// Start anew, though the run folder has a training that is not finished
    #[arg(long, conflicts_with = "resume")]
    overwrite: bool,
    /// Trainings from so many seeds, counted from the seed of the experiment, in the folders seed-0, seed-1,
    /// ... of the run folder; --resume leaves finished ones as they are
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    seeds: Option<u64>,
    /// Network to train, sized for the dataset [default: steerable]
    #[arg(long, value_enum, conflicts_with = "config")]
    model: Option<Architecture>,
    /// TOML file that describes the network, instead of --model
    #[arg(long)]
    config: Option<PathBuf>,
    #[command(flatten)]
    training: TrainingArgs,
    /// Run folder [default for an experiment NAME.toml: runs/NAME]
    #[arg(long, short)]
    out: Option<PathBuf>,
}

/// How to train.
#[derive(Args)]
pub(crate) struct TrainingArgs {
    /// Passes over the training set
    #[arg(long)]
    epochs: Option<usize>,
    /// Volumes in a batch
    #[arg(long)]
    batch_size: Option<usize>,
    /// Peak learning rate [default: 0.01, for the group network 0.005]
    #[arg(long)]
    learning_rate: Option<f64>,
    /// Decoupled weight decay
    #[arg(long)]
    weight_decay: Option<f64>,
    /// Keep only the input of each block for the backward pass and compute the block again (gradient
    /// checkpointing): the same weights, less memory from about eight blocks on, steps half as long again
    #[arg(long)]
    pub(crate) recompute: bool,
    /// How a training computes: bfloat16 halves the memory that fields take, weights and the optimiser stay in
    /// float32; tf32 has GPUs round the factors of float32 products to 10 bits [default: float32]
    #[arg(long, value_enum)]
    precision: Option<Computing>,
    /// Turn every training volume at random, anew in each epoch, by rotations about z or by any: its
    /// points where the dataset has them, else its voxels [default: so3 for the augmented network, none
    /// for others]
    #[arg(long, value_enum)]
    augment: Option<Augment>,
    /// Share of these rotations that is used, those by the smallest angles, in volume of the group: with
    /// so3, 0.5 takes angles up to 132 degrees, with z up to 90
    #[arg(long, default_value_t = 1.0)]
    augment_fraction: f64,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Augment {
    None,
    Z,
    So3,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Computing {
    Float32,
    Bfloat16,
    Tf32,
}

impl TrainingArgs {
    /// Whether any of them is given.
    fn any(&self) -> bool {
        self.epochs.is_some()
            || self.batch_size.is_some()
            || self.learning_rate.is_some()
            || self.weight_decay.is_some()
            || self.recompute
            || self.precision.is_some()
            || self.augment.is_some()
            || self.augment_fraction < 1.0
    }

    /// The settings of a training; `--augment` counts if `augment`.
    pub(crate) fn config(
        &self,
        architecture: Architecture,
        augment: bool,
        seed: u64,
    ) -> TrainConfig {
        let standard = TrainConfig::default();
        TrainConfig {
            epochs: self.epochs.unwrap_or(standard.epochs),
            batch_size: self.batch_size.unwrap_or(standard.batch_size),
            learning_rate: self.learning_rate.unwrap_or(match architecture {
                Architecture::Group => GROUP_LEARNING_RATE,
                _ => standard.learning_rate,
            }),
            weight_decay: self.weight_decay.unwrap_or(standard.weight_decay),
            seed,
            precision: match self.precision {
                Some(Computing::Bfloat16) => Precision::Bfloat16,
                Some(Computing::Tf32) => Precision::Tf32,
                Some(Computing::Float32) | None => Precision::Float32,
            },
            augment: match self.augment.filter(|_| augment) {
                Some(Augment::None) => None,
                Some(Augment::Z) => Some(Turns::Z { fraction: self.augment_fraction }),
                None if architecture != Architecture::Augmented => None,
                Some(Augment::So3) | None => Some(Turns::So3 { fraction: self.augment_fraction }),
            },
            ..standard
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Architecture {
    /// Steerable under rotation
    Steerable,
    /// The same with kernels of Gaussian shells
    SteerableShells,
    /// The same with kernels of Gaussian jets
    SteerableJets,
    /// Convolution and max pooling, as many parameters as the steerable one
    Plain,
    /// The same with antialiased pooling
    Antialiased,
    /// The plain network, its training volumes turned at random
    Augmented,
    /// Group convolution over the 24 rotations of the cube, about as many parameters
    Group,
    /// The plain network behind a spatial transformer, as many parameters in all
    Transformer,
}

/// What a rival has as much of as the steerable network.
#[derive(Clone, Copy)]
pub(crate) enum Budget {
    Parameters,
    /// Multiply-adds of the convolutions for a volume of D, H, W voxels.
    MultiplyAdds([usize; 3]),
}

impl Budget {
    /// How much of it a network has.
    pub(crate) fn of(self, model: &ModelConfig, device: &Device) -> Result<usize> {
        let network = Network::new(model, 0, DType::F32, device)?;
        Ok(match self {
            Self::Parameters => network.params().count(),
            Self::MultiplyAdds(dims) => network.multiply_adds(dims),
        })
    }
}

impl fmt::Display for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = self.to_possible_value().expect("no architecture is hidden");
        f.write_str(value.get_name())
    }
}

#[derive(Serialize)]
struct Summary {
    schema_version: u32,
    model: PathBuf,
    parameters: usize,
    best: Option<EpochMetrics>,
    epochs: Vec<EpochMetrics>,
    stopped: bool,
}

impl Summary {
    fn text(&self) -> String {
        let accuracy = self.best.and_then(|best| best.validation_accuracy);
        let accuracy = accuracy
            .map_or_else(String::new, |a| format!(", validation accuracy {:.1} %", 100.0 * a));
        format!("{}: {} parameters{accuracy}", self.model.display(), self.parameters)
    }
}

pub(crate) fn run(
    args: &TrainArgs,
    seed: Option<u64>,
    devices: &[Device],
    output: &Output,
) -> Result<ExitCode> {
    let (experiment, out) = plan(args, seed)?;
    let config = experiment.training(seed)?;
    let stop = stop_on_interrupt()?;
    let Some(seeds) = args.seeds else {
        let summary = one(args, &experiment, &out, &config, devices, output, &stop)?;
        output.result(&summary.text(), &summary)?;
        return Ok(code(summary.stopped));
    };
    for seed in config.seed..config.seed + seeds {
        let config = TrainConfig { seed, ..config.clone() };
        let folder = out.join(format!("seed-{seed}"));
        let summary = one(args, &experiment, &folder, &config, devices, output, &stop)?;
        output.say(&summary.text());
        if summary.stopped {
            return Ok(code(true));
        }
    }
    runs::list(&out, None, output)?;
    Ok(code(false))
}

fn code(stopped: bool) -> ExitCode {
    if stopped { ExitCode::from(INTERRUPTED) } else { ExitCode::SUCCESS }
}

/// A training and its evaluation in one run folder.
fn one(
    args: &TrainArgs,
    experiment: &Experiment,
    out: &Path,
    config: &TrainConfig,
    devices: &[Device],
    output: &Output,
    stop: &AtomicBool,
) -> Result<Summary> {
    let device = &devices[0];
    let states = experiment.states.states(out)?;
    let before = RunRecord::read(out);
    let latest = state::latest(&states.folder)?;
    let unfinished = before.as_ref().is_some_and(|run| !run.finished);
    if unfinished && latest.is_some() && !args.resume && !args.overwrite {
        bail!(
            "{}: holds a training that is not finished; go on with it with --resume, or start anew with --overwrite",
            out.display()
        );
    }
    let state = match latest.filter(|_| args.resume) {
        Some(path) => Some(state::read(&path, device)?),
        None => None,
    };
    let was_finished = state.as_ref().is_some_and(|state| state.header.progress.finished);
    let dataset = experiment.dataset(output)?;
    let model = experiment.model(&dataset, device)?;
    if let Some(evaluation) = &experiment.evaluation {
        AnswerKind::of_head(model.head()).context("evaluation: a field is not evaluated")?;
        evaluation.protocol.check(&dataset, evaluation.split).context("evaluation")?;
    }
    let recompute = experiment.recompute()?;
    let network_on = |device: &Device| -> Result<Network> {
        let network = Network::new(&model, config.seed, DType::F32, device)?;
        Ok(network.with_recomputation(recompute))
    };
    let network = network_on(device)?;
    let replicas = devices[1..].iter().map(network_on).collect::<Result<Vec<_>>>()?;
    let resolved = toml::to_string_pretty(&experiment.resolved(&model, config)?)?;
    let known = fs::read_to_string(out.join(EXPERIMENT)).is_ok_and(|text| text == resolved);
    let keep =
        Keep { states: Some(&states), state, experiment: Some(&resolved), replicas: &replicas };
    let run = train_into(out, network, &dataset, config, keep, output, stop)?;
    let summary = Summary {
        schema_version: 1,
        model: run.path,
        parameters: run.network.params().count(),
        best: run.epochs.iter().rfind(|e| e.best).copied(),
        epochs: run.epochs,
        stopped: run.stopped,
    };
    if summary.stopped {
        output.say("interrupted: the same command with --resume goes on where it was");
        return Ok(summary);
    }
    let Some(evaluation) = experiment.evaluation.clone() else { return Ok(summary) };
    let Some(mut record) = RunRecord::read(out) else { return Ok(summary) };
    let before = before.filter(|run| known && was_finished && !run.test.is_empty());
    if let Some(before) = before {
        record.test = before.test;
    } else {
        // From here on nothing is lost by ending at once.
        stop.store(true, Ordering::Relaxed);
        record.test = report(out, run.network, &dataset, evaluation, output)?;
        stop.store(false, Ordering::Relaxed);
    }
    record.write(out)?;
    Ok(summary)
}

/// The experiment and its run folder.
fn plan(args: &TrainArgs, seed: Option<u64>) -> Result<(Experiment, PathBuf)> {
    let source = &args.source;
    let is_run = source.join(EXPERIMENT).is_file();
    if !is_run && source.extension().is_none_or(|e| e != "toml") {
        let Some(out) = args.out.clone() else { bail!("--out: expected the run folder") };
        let table = Table::try_from(of_options(args, seed.unwrap_or(0))?)?;
        return Ok((Experiment::parse(table, &args.set)?, out));
    }
    if args.model.is_some() || args.config.is_some() || args.training.any() {
        bail!(
            "{}: an experiment file has these settings; change them with --set, such as --set training.epochs=5",
            source.display()
        );
    }
    let (file, beside) = if is_run {
        (source.join(EXPERIMENT), source.clone())
    } else {
        (source.clone(), Path::new("runs").join(source.file_stem().unwrap_or_default()))
    };
    let experiment = Experiment::parse(read(&file)?, &args.set);
    let experiment = experiment.with_context(|| format!("{}", file.display()))?;
    Ok((experiment, args.out.clone().unwrap_or(beside)))
}

/// The experiment that the options describe.
fn of_options(args: &TrainArgs, seed: u64) -> Result<Experiment> {
    let architecture = args.model.unwrap_or(Architecture::Steerable);
    let model = match &args.config {
        // With the defaults of a network, not with what the dataset tells.
        Some(path) => {
            let model = network(read(path)?, "").with_context(|| format!("{}", path.display()))?;
            Table::try_from(model)?
        }
        None => Table::from_iter([("preset".to_owned(), architecture.to_string().into())]),
    };
    let mut training =
        Settings::from(Table::try_from(args.training.config(architecture, true, seed))?);
    training.recompute = Some(args.training.recompute.into());
    Ok(Experiment {
        data: Data { dataset: args.source.clone(), make: vec![] },
        model,
        training,
        states: Saving::default(),
        evaluation: None,
    })
}

/// Evaluates a trained network and writes the report into its run folder; goes on with an evaluation
/// that was interrupted.
fn report(
    out: &Path,
    network: Network,
    dataset: &Dataset,
    evaluation: Evaluation,
    output: &Output,
) -> Result<Vec<TestScore>> {
    let name = out.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let model = NetworkPredictor::new(name, network)?;
    let Evaluation { split, protocol } = evaluation;
    let folder = out.join("report");
    let title = format!("{} on {}", out.display(), dataset.meta().name);
    let evaluation = report::Evaluation { dataset, split, protocol: &protocol };
    let (command, progress) = (eval::command_line(), eval::progress(output));
    let report = evaluation.report(&[&model], &title, &command, Some(&folder), &progress)?;
    output.say(&terminal(&report));
    output.say(&format!("report: {}", folder.join("report.html").display()));
    Ok(report.sections[0].models.first().map(TestScore::of).unwrap_or_default())
}

/// Set by SIGTERM and the first Ctrl-C; the second one ends the program at once.
pub(crate) fn stop_on_interrupt() -> Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&stop);
    ctrlc::set_handler(move || {
        if flag.swap(true, Ordering::Relaxed) {
            std::process::exit(INTERRUPTED.into());
        }
    })?;
    #[cfg(unix)]
    signal_hook::flag::register(signal_hook::consts::SIGTERM, Arc::clone(&stop))?;
    Ok(stop)
}

/// A steerable network, and the plain one whose width is changed to make its rivals.
#[derive(Clone)]
pub(crate) struct Pair {
    pub(crate) steerable: SteerableConfig,
    pub(crate) plain: PlainConfig,
}

/// The networks for volumes like those of a dataset.
pub(crate) fn default_networks(dataset: &Dataset) -> Result<Pair> {
    let meta = dataset.meta();
    let (classes, input_scale) = (meta.class_names.len(), input_scale(dataset)?);
    Ok(Pair {
        steerable: SteerableConfig {
            input: meta.irreps.clone(),
            voxel_size: meta.voxel_size,
            input_scale,
            ..SteerableConfig::small(meta.channels, classes)?
        },
        plain: PlainConfig { input_scale, ..PlainConfig::small(meta.channels, classes) },
    })
}

/// One over the root mean square of some training volumes.
pub(crate) fn input_scale(dataset: &Dataset) -> Result<f64> {
    const ENOUGH: usize = 64;
    let (mut squares, mut count) = (0.0, 0);
    for &item in dataset.indices(Split::Train).iter().take(ENOUGH) {
        let volume = dataset.read(item)?;
        squares += volume.data().iter().map(|&v| f64::from(v).powi(2)).sum::<f64>();
        count += volume.data().len();
    }
    Ok(if squares > 0.0 { (count as f64 / squares).sqrt() } else { 1.0 })
}

/// The steerable network of a pair, or a rival of the same budget.
pub(crate) fn rival(
    architecture: Architecture,
    Pair { steerable, plain }: Pair,
    budget: Budget,
    device: &Device,
) -> Result<ModelConfig> {
    let antialiased = PlainConfig { pooling: Pooling::Antialiased, ..plain.clone() };
    let wanted = budget.of(&ModelConfig::Steerable(steerable.clone()), device)?;
    let rival = match architecture {
        Architecture::Steerable => return Ok(ModelConfig::Steerable(steerable)),
        Architecture::SteerableShells => {
            return of_family(Family::shells(), steerable, budget, wanted, device);
        }
        Architecture::SteerableJets => {
            return of_family(Family::jets(2), steerable, budget, wanted, device);
        }
        Architecture::Plain | Architecture::Augmented => plain,
        Architecture::Antialiased => antialiased,
        Architecture::Group => PlainConfig { symmetry: Symmetry::Octahedral, ..antialiased },
        Architecture::Transformer => {
            PlainConfig { transformer: Some(TransformerConfig::small()), ..plain }
        }
    };
    Ok(ModelConfig::Plain(match budget {
        Budget::Parameters => rival.with_parameters(wanted),
        Budget::MultiplyAdds(dims) => rival.with_multiply_adds(wanted, dims),
    }))
}

/// `steerable` with kernels of another family, as wide as the budget allows.
fn of_family(
    family: Family,
    steerable: SteerableConfig,
    budget: Budget,
    wanted: usize,
    device: &Device,
) -> Result<ModelConfig> {
    if steerable.kernel == family {
        return Ok(ModelConfig::Steerable(steerable));
    }
    let steerable = SteerableConfig { kernel: family, ..steerable };
    let with_width =
        |width| Ok::<_, anyhow::Error>(ModelConfig::Steerable(steerable.with_width(width)?));
    let (mut low, mut high) = (0.0, 8.0);
    for _ in 0..10 {
        let width = 0.5 * (low + high);
        if budget.of(&with_width(width)?, device)? <= wanted {
            low = width;
        } else {
            high = width;
        }
    }
    let (low, high) = (with_width(low)?, with_width(high)?);
    let gap = |model| Ok::<_, anyhow::Error>(budget.of(model, device)?.abs_diff(wanted));
    Ok(if gap(&low)? <= gap(&high)? { low } else { high })
}

/// A finished training run.
pub(crate) struct Run {
    pub(crate) network: Network,
    pub(crate) path: PathBuf,
    pub(crate) epochs: Vec<EpochMetrics>,
    pub(crate) stopped: bool,
}

/// What a run folder gets beside network and metrics.
#[derive(Default)]
pub(crate) struct Keep<'a> {
    pub(crate) states: Option<&'a States>,
    /// Where the training goes on.
    pub(crate) state: Option<TrainingState>,
    /// The resolved experiment file.
    pub(crate) experiment: Option<&'a str>,
    /// The network on other devices.
    pub(crate) replicas: &'a [Network],
}

/// Trains a network and keeps its best weights and its metrics in folder `out`. Nothing in the folder
/// is changed before all is checked.
pub(crate) fn train_into(
    out: &Path,
    network: Network,
    dataset: &Dataset,
    config: &TrainConfig,
    keep: Keep<'_>,
    output: &Output,
    stop: &AtomicBool,
) -> Result<Run> {
    fs::create_dir_all(out).with_context(|| format!("{}", out.display()))?;
    let path = out.join("model.safetensors");
    let meta = dataset.meta();
    let card = ModelCard {
        format: FORMAT,
        version: env!("CARGO_PKG_VERSION").into(),
        dataset: meta.name.clone(),
        seed: config.seed,
        class_names: meta.class_names.clone(),
        dims: meta.dims,
        voxel_size: meta.voxel_size,
        unit: meta.unit.clone(),
        model: network.config().clone(),
    };
    let label = format!("train {} on {}", network.config().name(), meta.name);
    let mut record = RunRecord::new(&network, dataset, config);
    output.say(&format!("{label}: {} parameters", record.parameters));
    let (mut first, mut epochs) = (0, vec![]);
    if let Some(TrainingState { path, header, .. }) = &keep.state {
        let done = &header.progress;
        output.say(&format!("  goes on from {} (epoch {})", path.display(), done.epoch));
        (first, epochs) = (done.step, done.epochs.clone());
    }
    let save = Some(Save { model: &path, card: &card, states: keep.states });
    let training = match keep.state {
        None => Training::new(&network, dataset, config, save)?,
        Some(state) => Training::resumed(&network, dataset, config, save, state)?,
    };
    let training = training.on_devices(keep.replicas)?;
    if let Some(text) = keep.experiment {
        checkpoint::write_atomically(&out.join(EXPERIMENT), text.as_bytes())?;
    }
    record.write(out)?;
    let mut recorder = Recorder::new(out, first, &epochs)?;
    let mut progress = output.progress(&label, 0);
    let (start, mut done, mut failed) = (Instant::now(), first, None);
    let volumes = config.batch_size * config.accumulate;
    let watch = &mut |event| {
        match event {
            TrainEvent::Step { epoch, step, steps, loss, accuracy, .. } => {
                if done == first {
                    progress.start(first, steps);
                }
                done = step;
                let rate = (volumes * (step - first)) as f64 / start.elapsed().as_secs_f64();
                let epochs = config.epochs;
                let accuracy = percent(accuracy);
                let message =
                    format!("epoch {epoch}/{epochs} loss {loss:.3}{accuracy} {rate:.1} volumes/s");
                progress.at(step, &message);
            }
            TrainEvent::Epoch(metrics) => progress.say(&describe(&metrics, config.epochs)),
            _ => {}
        }
        if let Err(error) = recorder.hear(&event, done) {
            failed = Some(error);
        }
        if failed.is_some() || stop.load(Ordering::Relaxed) {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    };
    let trained = training.run(watch)?;
    if let Some(error) = failed {
        return Err(error).with_context(|| format!("{}", out.display()));
    }
    let share = trained.waited.as_secs_f64() / trained.elapsed.as_secs_f64().max(1e-9);
    progress.say(&format!("  waited for data: {:.1} % of the time", 100.0 * share));
    if trained.epochs.is_empty() && keep.states.is_none() {
        bail!("interrupted before the first epoch ended; nothing was saved");
    }
    recorder.curves(&label)?;
    record.finished = !trained.stopped;
    record.seconds = trained.elapsed.as_secs_f64();
    record.waited_seconds = trained.waited.as_secs_f64();
    record.write(out)?;
    Ok(Run { network, path, epochs: trained.epochs, stopped: trained.stopped })
}

fn describe(m: &EpochMetrics, epochs: usize) -> String {
    let validation = m.validation_loss.map_or_else(String::new, |loss| {
        format!(", validation loss {loss:.3}{}", percent(m.validation_accuracy))
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
