use std::fmt;
use std::fs;
use std::io::Write;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, bail};
use candle_core::{DType, Device};
use clap::{Args, ValueEnum};
use serde::Serialize;
use steer3d::kernels::Family;
use steer3d::nn::checkpoint::{FORMAT, ModelCard};
use steer3d::nn::{
    EpochMetrics, ModelConfig, Network, PlainConfig, Pooling, SteerableConfig, Symmetry,
    TrainConfig, TrainEvent, TransformerConfig, train,
};
use steer3d::volume::{Dataset, Split, Turns};

use crate::INTERRUPTED;
use crate::output::Output;

pub(crate) const EXAMPLES: &str = "Examples:
  steer3d train cath.h5 --model steerable --out runs/steerable
  steer3d train cath.h5 --model plain --epochs 50 --learning-rate 2e-3 --out runs/plain
  steer3d train cath.h5 --config model.toml --out runs/mine

The run folder gets model.safetensors (weights of the best epoch), model.toml (what the model is)
and metrics.jsonl (one line for each epoch).";

/// The orientations of the group network multiply the inputs of its filters by 24, and so the effect of a step
/// by 5; from one of three seeds it does not learn at the rate of the others.
const GROUP_LEARNING_RATE: f64 = 5e-3;

#[derive(Args)]
pub(crate) struct TrainArgs {
    /// Dataset (HDF5), as made by `steer3d dataset build` or `import`
    dataset: PathBuf,
    /// Network to train, sized for the dataset
    #[arg(long, value_enum, default_value = "steerable", conflicts_with = "config")]
    model: Architecture,
    /// TOML file that describes the network, instead of --model
    #[arg(long)]
    config: Option<PathBuf>,
    #[command(flatten)]
    training: TrainingArgs,
    /// Run folder
    #[arg(long, short)]
    out: PathBuf,
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
    /// Peak learning rate [default: 0.02, for the group network 0.005]
    #[arg(long)]
    learning_rate: Option<f64>,
    /// Decoupled weight decay
    #[arg(long)]
    weight_decay: Option<f64>,
    /// Keep only the input of each block for the backward pass and compute the block again (gradient
    /// checkpointing): the same weights, less memory from about eight blocks on, steps half as long again
    #[arg(long)]
    pub(crate) recompute: bool,
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

impl TrainingArgs {
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
            augment: match self.augment.filter(|_| augment) {
                Some(Augment::None) => None,
                Some(Augment::Z) => Some(Turns::Z { fraction: self.augment_fraction }),
                None if architecture != Architecture::Augmented => None,
                Some(Augment::So3) | None => Some(Turns::So3 { fraction: self.augment_fraction }),
            },
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

pub(crate) fn run(
    args: &TrainArgs,
    seed: u64,
    device: &Device,
    output: &Output,
) -> Result<ExitCode> {
    let dataset = Dataset::open(&args.dataset)?;
    let model = match &args.config {
        Some(path) => {
            let text = fs::read_to_string(path).with_context(|| format!("{}", path.display()))?;
            ModelConfig::from_toml(&text).with_context(|| format!("{}", path.display()))?
        }
        None => rival(args.model, default_network(&dataset)?, Budget::Parameters, device)?,
    };
    let config = args.training.config(args.model, true, seed);
    let stop = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&stop);
    ctrlc::set_handler(move || flag.store(true, Ordering::Relaxed))?;
    let network =
        Network::new(&model, seed, DType::F32, device)?.with_recomputation(args.training.recompute);
    let run = train_into(&args.out, network, &dataset, &config, output, &stop)?;
    let best = run.epochs.iter().rfind(|e| e.best).copied();
    let summary = Summary {
        schema_version: 1,
        model: run.path,
        parameters: run.network.params().count(),
        best,
        epochs: run.epochs,
        stopped: run.stopped,
    };
    let scores = best
        .and_then(|b| b.validation_accuracy)
        .map_or_else(String::new, |a| format!(", validation accuracy {:.1} %", 100.0 * a));
    let text = format!("{}: {} parameters{scores}", summary.model.display(), summary.parameters);
    output.result(&text, &summary)?;
    Ok(if summary.stopped { ExitCode::from(INTERRUPTED) } else { ExitCode::SUCCESS })
}

/// The steerable network for volumes like those of a dataset.
pub(crate) fn default_network(dataset: &Dataset) -> Result<SteerableConfig> {
    let meta = dataset.meta();
    let mut steerable = SteerableConfig::small(meta.channels, meta.class_names.len())?;
    steerable.input = meta.irreps.clone();
    steerable.voxel_size = meta.voxel_size;
    steerable.input_scale = input_scale(dataset)?;
    Ok(steerable)
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

/// `steerable` itself, or a rival of the same budget.
pub(crate) fn rival(
    architecture: Architecture,
    steerable: SteerableConfig,
    budget: Budget,
    device: &Device,
) -> Result<ModelConfig> {
    let plain = PlainConfig::like(&steerable);
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

/// Trains a network and keeps its best weights and its metrics in folder `out`.
pub(crate) fn train_into(
    out: &Path,
    network: Network,
    dataset: &Dataset,
    config: &TrainConfig,
    output: &Output,
    stop: &AtomicBool,
) -> Result<Run> {
    fs::create_dir_all(out).with_context(|| format!("{}", out.display()))?;
    let path = out.join("model.safetensors");
    let log_path = out.join("metrics.jsonl");
    let mut log = fs::File::create(&log_path).with_context(|| format!("{}", log_path.display()))?;
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
        model: network.config(),
    };
    let label = format!("train {} on {}", network.config().name(), meta.name);
    output.say(&format!("{label}: {} parameters", network.params().count()));
    let mut progress = output.progress(&label, 0);
    let mut failed = None;
    let trained = train(&network, dataset, config, Some((&path, &card)), &mut |event| {
        match event {
            TrainEvent::Step { epoch, step, steps, loss } => {
                progress.length(steps);
                progress.at(step, &format!("epoch {epoch}/{} loss {loss:.3}", config.epochs));
            }
            TrainEvent::Epoch(metrics) => {
                progress.say(&describe(&metrics, config.epochs));
                if let Err(e) = log_line(&mut log, &metrics) {
                    failed = Some(e);
                    return ControlFlow::Break(());
                }
            }
        }
        if stop.load(Ordering::Relaxed) {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    })?;
    if let Some(error) = failed {
        return Err(error).with_context(|| format!("{}", log_path.display()));
    }
    let share = trained.waited.as_secs_f64() / trained.elapsed.as_secs_f64().max(1e-9);
    progress.say(&format!("  waited for data: {:.1} % of the time", 100.0 * share));
    if trained.epochs.is_empty() {
        bail!("interrupted before the first epoch ended; nothing was saved");
    }
    Ok(Run { network, path, epochs: trained.epochs, stopped: trained.stopped })
}

fn log_line(log: &mut fs::File, metrics: &EpochMetrics) -> Result<()> {
    writeln!(log, "{}", serde_json::to_string(metrics)?)?;
    Ok(())
}

fn describe(m: &EpochMetrics, epochs: usize) -> String {
    let validation = match (m.validation_loss, m.validation_accuracy) {
        (Some(loss), Some(accuracy)) => {
            format!(", validation loss {loss:.3} accuracy {:.1} %", 100.0 * accuracy)
        }
        _ => String::new(),
    };
    format!(
        "  epoch {:>3}/{epochs}: train loss {:.3} accuracy {:.1} %{validation}{}",
        m.epoch,
        m.train_loss,
        100.0 * m.train_accuracy,
        if m.best { " *" } else { "" }
    )
}
