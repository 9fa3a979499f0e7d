use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use candle_core::Device;
use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use steer3d::dataset::{Chance, Distortion, Turns};
use steer3d::experiments::{
    Architecture, Data, EXPERIMENT, Existing, Experiment, MakeDataset, RunSummary, Session,
    StateSettings, Sweep, list_runs, model_config, read_table, training_table,
};
use steer3d::ranks::Rank;
use steer3d::train::{PatchConfig, Precision, TrainConfig};
use steer3d::volume::VolumeError;
use toml::Table;

use crate::dataset::make;
use crate::eval::command_line;
use crate::interrupt::{INTERRUPTED, stop};
use crate::output::{Output, SUCCESS};
use crate::values::{MAX_SEEDS, edges, named, seeds};

pub(crate) const EXAMPLES: &str = "Examples:
  steer3d init > cath.toml && steer3d train cath.toml
  steer3d train cath.toml --set training.epochs=50 --set model.blocks.0.fields=8x0+4x1 --out runs/wide
  steer3d train cath.toml --resume
  steer3d train cath.toml --seeds 5 --resume
  steer3d train cath.toml --sweep rates.toml --out runs/rates --resume
  steer3d train cath.h5 --model steerable --out runs/steerable
  steer3d train cath.h5 --model plain --epochs 50 --learning-rate 2e-3 --out runs/plain
  steer3d train cath.h5 --config model.toml --out runs/mine
  steer3d train cath.toml --device cuda:0,cuda:1

The run folder gets model.safetensors (weights of the best epoch and what the model is), experiment.toml (all settings), \
run.json (version, seed, checksum of the data), metrics.jsonl (one line for each epoch), curves.html, tensorboard/ and \
states/, from which --resume goes on to the same bits. Ctrl-C and SIGTERM save the state and end with exit code 130; a \
second Ctrl-C ends at once.";

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
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=MAX_SEEDS))]
    seeds: Option<u64>,
    /// Trainings with the settings that a TOML file lists or ranges over, in the folders trial-0, trial-1, ... of the
    /// run folder, then a table, best on the validation items first; --resume leaves finished ones as they are. No
    /// evaluation follows: choose, then train what was chosen
    #[arg(long, value_name = "FILE")]
    sweep: Option<PathBuf>,
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
    #[arg(long, value_parser = named::<Precision>(["float32", "bfloat16", "tf32"]))]
    precision: Option<Precision>,
    /// Turn every training volume at random, anew in each epoch, by rotations about z or by any: its
    /// points where the dataset has them, else its voxels [default: so3 for the augmented network, none
    /// for others]
    #[arg(long, value_parser = Augment::parser())]
    augment: Option<Augment>,
    /// Share of these rotations that is used, those by the smallest angles, in volume of the group: with
    /// so3, 0.5 takes angles up to 132 degrees, with z up to 90
    #[arg(long, default_value_t = 1.0)]
    augment_fraction: f64,
    /// Train on a box of every volume, another one in each epoch: D,H,W in voxels, or one number for a cube; a third of
    /// them have a voxel that is not background in their middle
    #[arg(long, value_parser = edges, value_name = "D,H,W")]
    patch: Option<[usize; 3]>,
    /// Distort training volumes at random, anew in each epoch: mirror, scale, elastic, bias_field, noise, blur,
    /// brightness, contrast, low_resolution, inverted_gamma, gamma, separated by commas; each may have its probability
    /// (noise=0.3). Strengths are settings of an experiment file
    #[arg(long, value_name = "KIND[=PROBABILITY]", value_delimiter = ',', value_parser = distortion)]
    distort: Vec<(Distortion, Chance)>,
}

/// A distortion with its usual range.
fn distortion(text: &str) -> Result<(Distortion, Chance), String> {
    let (name, probability) = text.split_once('=').map_or((text, None), |(n, p)| (n, Some(p)));
    let kind: Distortion = name.parse().map_err(|error: VolumeError| error.to_string())?;
    let mut chance = kind.standard();
    if let Some(text) = probability {
        let in_range = |p: &f64| (0.0..=1.0).contains(p);
        let given = text.parse().ok().filter(in_range);
        chance.probability =
            given.ok_or_else(|| format!("expected a probability from 0 to 1, found `{text}`"))?;
    }
    Ok((kind, chance))
}

/// The rotations of `--augment`.
#[derive(Clone, Copy)]
struct Augment(Option<Turns>);

impl Augment {
    fn parser() -> impl TypedValueParser<Value = Self> {
        PossibleValuesParser::new(["none", "z", "so3"]).map(|name| {
            Self(match name.as_str() {
                "z" => Some(Turns::Z { fraction: 1.0 }),
                "so3" => Some(Turns::So3 { fraction: 1.0 }),
                _ => None,
            })
        })
    }
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
            || self.patch.is_some()
            || !self.distort.is_empty()
    }

    /// The settings of a training; `--augment` counts if `augment`.
    pub(crate) fn config(
        &self,
        architecture: Architecture,
        augment: bool,
        seed: u64,
    ) -> TrainConfig {
        let standard = architecture.training();
        let turns = match self.augment.filter(|_| augment) {
            Some(Augment(turns)) => turns,
            None => standard.augment,
        };
        let fraction = self.augment_fraction;
        let distort = self.distort.iter();
        TrainConfig {
            distort: distort.fold(standard.distort, |all, (kind, chance)| all.with(*kind, *chance)),
            epochs: self.epochs.unwrap_or(standard.epochs),
            batch_size: self.batch_size.unwrap_or(standard.batch_size),
            learning_rate: self.learning_rate.unwrap_or(standard.learning_rate),
            weight_decay: self.weight_decay.unwrap_or(standard.weight_decay),
            seed,
            precision: self.precision.unwrap_or_default(),
            augment: turns.map(|turns| match turns {
                Turns::Z { .. } => Turns::Z { fraction },
                Turns::So3 { .. } => Turns::So3 { fraction },
            }),
            patch: self.patch.map(PatchConfig::new),
            ..standard
        }
    }
}

pub(crate) fn run(
    args: &TrainArgs,
    seed: Option<u64>,
    devices: &[Device],
    output: &Output,
) -> Result<u8> {
    let command = command_line();
    let session = Session { devices, observer: output, stop: stop(), command: &command };
    let make = |data: &Data| make(data, output).map_err(|e| io::Error::other(format!("{e:#}")));
    let (experiment, out) = plan(args, &[], seed)?;
    let trials = match &args.sweep {
        None => vec![Trial { config: experiment.training(seed)?, experiment, out: out.clone() }],
        Some(path) => trials(args, path, &out, seed)?,
    };
    if let ([trial], None, None) = (&trials[..], &args.sweep, args.seeds) {
        let summary = one(args, trial, &trial.out, &trial.config, &make, &session)?;
        output.result(&summary.text(), &summary)?;
        return Ok(code(summary.stopped));
    }
    for trial in &trials {
        for seed in seeds(trial.config.seed, args.seeds.unwrap_or(1))? {
            let config = TrainConfig { seed, ..trial.config.clone() };
            let folder = match args.seeds {
                Some(_) => trial.out.join(format!("seed-{seed}")),
                None => trial.out.clone(),
            };
            let summary = one(args, trial, &folder, &config, &make, &session)?;
            output.say(&summary.text());
            if summary.stopped {
                return Ok(code(true));
            }
        }
    }
    if Rank::current().is_first() {
        let runs = list_runs(&out, None)?;
        output.tables(&runs.table(), &runs)?;
    }
    Ok(code(false))
}

/// An experiment, how it trains and its run folder.
struct Trial {
    experiment: Experiment,
    config: TrainConfig,
    out: PathBuf,
}

/// The experiment with each choice of a sweep, all found valid before anything is trained.
fn trials(args: &TrainArgs, path: &Path, out: &Path, seed: Option<u64>) -> Result<Vec<Trial>> {
    let place = || format!("--sweep {}", path.display());
    let choices = Sweep::open(path).with_context(place)?.trials().with_context(place)?;
    let trial = |(number, changes): (usize, &Vec<String>)| {
        let (experiment, _) = plan(args, changes, seed)?;
        let config = experiment.training(seed)?;
        let experiment = Experiment { evaluation: None, ..experiment };
        Ok(Trial { experiment, config, out: out.join(format!("trial-{number}")) })
    };
    choices.iter().enumerate().map(trial).collect()
}

fn code(stopped: bool) -> u8 {
    if stopped { INTERRUPTED } else { SUCCESS }
}

/// A training and its evaluation in one run folder.
fn one(
    args: &TrainArgs,
    trial: &Trial,
    out: &Path,
    config: &TrainConfig,
    make: MakeDataset<'_>,
    session: &Session<'_>,
) -> Result<RunSummary> {
    let existing = match (args.resume, args.overwrite) {
        (true, _) => Existing::Resume,
        (_, true) => Existing::Overwrite,
        _ => Existing::Keep,
    };
    let trained = trial.experiment.train(out, config, existing, make, session)?;
    let summary = trained.evaluate(session)?;
    if summary.stopped {
        let hint = "interrupted: the same command with --resume goes on where it was";
        session.observer.say(hint);
    }
    Ok(summary)
}

/// The experiment with its changes and some more, and its run folder.
fn plan(args: &TrainArgs, more: &[String], seed: Option<u64>) -> Result<(Experiment, PathBuf)> {
    let (source, changes) = (&args.source, [&args.set[..], more].concat());
    let is_run = source.join(EXPERIMENT).is_file();
    if !is_run && source.extension().is_none_or(|e| e != "toml") {
        let table = Table::try_from(of_options(args, seed.unwrap_or(0))?)?;
        let experiment = Experiment::parse(table, &changes)?;
        let Some(out) = args.out.clone() else {
            bail!("--out: expected the run folder, such as --out runs/a")
        };
        return Ok((experiment, out));
    }
    if args.model.is_some() || args.config.is_some() || args.training.any() {
        bail!(
            "{}: an experiment file has these settings; change them with --set, such as --set training.epochs=5",
            source.display()
        );
    }
    let (experiment, beside) = Experiment::open(source, &changes)?;
    Ok((experiment, args.out.clone().unwrap_or(beside)))
}

/// The experiment that the options describe.
fn of_options(args: &TrainArgs, seed: u64) -> Result<Experiment> {
    let architecture = args.model.unwrap_or(Architecture::Steerable);
    let model = match &args.config {
        // With the defaults of a network, not with what the dataset tells.
        Some(path) => {
            let model = model_config(read_table(path)?, "");
            Table::try_from(model.with_context(|| format!("{}", path.display()))?)?
        }
        None => Table::from_iter([("preset".to_owned(), architecture.name().into())]),
    };
    let training = args.training.config(architecture, true, seed);
    Ok(Experiment {
        data: Data { dataset: args.source.clone(), make: vec![] },
        model,
        training: training_table(&training, args.training.recompute)?,
        states: StateSettings::default(),
        evaluation: None,
    })
}
