use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::AtomicBool;

use anyhow::{Context, Result};
use candle_core::{DType, Device};
use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};
use steer3d::dataset::Dataset;
use steer3d::eval::{Comparison, NetworkPredictor, Report, Trial, evaluate};
use steer3d::nn::{ModelConfig, Network, checkpoint};
use steer3d::report::{Evaluation, comparison_terminal, write_comparison, write_report};
use steer3d::train::TrainConfig;
use steer3d::train::state::{self, TrainingState};

use crate::INTERRUPTED;
use crate::eval::{ProtocolArgs, command_line, progress};
use crate::experiment::Saving;
use crate::output::Output;
use crate::train::{
    Architecture, Budget, Keep, TrainingArgs, default_networks, rival, stop_on_interrupt,
    train_into,
};

pub(crate) const EXAMPLES: &str = "Examples:
  steer3d compare cath.h5 --out comparison
  steer3d compare cath.h5 --models steerable,plain,group --seeds 5 --epochs 12 --out comparison
  steer3d compare cath.h5 --match flops --augment so3 --augment-fraction 0.5 --out comparison

Every model is trained from every seed, counted from --seed, and measured on the same rotated and
moved volumes. The folder gets comparison.md, .csv and .json (mean and standard deviation over
seeds), the report of the models of the first seed, and a folder for each training. A run that was
interrupted goes on with the trainings and evaluations that are not finished.";

#[derive(Args)]
pub(crate) struct CompareArgs {
    /// Dataset (HDF5)
    dataset: PathBuf,
    /// Networks, sized for the dataset
    #[arg(long, value_enum, value_delimiter = ',', default_values = ["steerable", "plain", "antialiased", "augmented", "group", "transformer"])]
    models: Vec<Architecture>,
    /// What all networks have about as much of: trained parameters, or multiply-adds of the convolutions
    /// for one volume
    #[arg(long = "match", value_enum, default_value = "parameters")]
    matched: Matched,
    /// Let --augment count for every network, not for the augmented one only
    #[arg(long, requires = "augment")]
    augment_all: bool,
    /// Trainings of each network
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..))]
    seeds: u64,
    #[command(flatten)]
    training: TrainingArgs,
    #[command(flatten)]
    protocol: ProtocolArgs,
    /// Folder for the tables, the report and the trained models
    #[arg(long, short)]
    out: PathBuf,
}

#[derive(Clone, Copy, ValueEnum)]
enum Matched {
    Parameters,
    Flops,
}

/// What a finished training was, beside its weights.
#[derive(PartialEq, Serialize, Deserialize)]
struct Finished {
    model: ModelConfig,
    training: TrainConfig,
    dataset: String,
    seconds: f64,
}

pub(crate) fn run(
    args: &CompareArgs,
    seed: u64,
    device: &Device,
    output: &Output,
) -> Result<ExitCode> {
    let dataset = Dataset::open(&args.dataset)?;
    let protocol = args.protocol.protocol(&dataset, seed)?;
    let networks = default_networks(&dataset)?;
    let stop = stop_on_interrupt()?;
    let (mut models, mut journals) = (vec![], vec![]);
    for &architecture in &args.models {
        let budget = match args.matched {
            Matched::Parameters => Budget::Parameters,
            Matched::Flops => Budget::MultiplyAdds(dataset.meta().dims),
        };
        let model = rival(architecture, networks.clone(), budget, device)?;
        let share = budget.of(&model, device)? as f64
            / budget.of(&ModelConfig::Steerable(networks.steerable.clone()), device)? as f64;
        if (share - 1.0).abs() > 0.2 {
            output.say(&format!(
                "{architecture}: no width comes nearer to the steerable network than {share:.2} times its {}",
                match args.matched {
                    Matched::Parameters => "parameters",
                    Matched::Flops => "multiply-adds",
                }
            ));
        }
        let augment = args.augment_all || architecture == Architecture::Augmented;
        let mut trials = vec![];
        for seed in seed..seed + args.seeds {
            let folder = args.out.join(format!("{architecture}-{seed}"));
            let training = args.training.config(architecture, augment, seed);
            let recompute = args.training.recompute;
            let trained =
                trained(&folder, &model, &dataset, &training, recompute, device, output, &stop)?;
            let Some((network, training_seconds)) = trained else {
                output.say("interrupted: the same command goes on with what is not finished");
                return Ok(ExitCode::from(INTERRUPTED));
            };
            let predictor = NetworkPredictor::new(architecture.to_string(), network)?;
            let journal = folder.join("unfinished.logits");
            let split = args.protocol.split();
            let progress = progress(output);
            let progress = |p| progress(&architecture.to_string(), p);
            let report =
                evaluate(&predictor, &dataset, split, &protocol, Some(&journal), &progress)?;
            journals.push(journal);
            let mut trial = Trial::new(seed, training_seconds, report, &protocol);
            if !trials.is_empty() {
                trial.report.predictions.clear();
            }
            trials.push(trial);
        }
        models.push((architecture.to_string(), trials));
    }
    let comparison = Comparison::new(&dataset.meta().name, &protocol, &models);
    let first: Vec<_> = models.into_iter().map(|(_, mut t)| t.swap_remove(0).report).collect();
    let split = args.protocol.split();
    let evaluation = Evaluation { dataset: &dataset, split, protocol: &protocol };
    let section = evaluation.illustrated(first, &[])?;
    let title = format!("Networks on {}, trained from seed {seed}", dataset.meta().name);
    write_report(&args.out, &Report::new(&title, &command_line(), vec![section]))?;
    write_comparison(&args.out, &comparison)?;
    for journal in journals {
        fs::remove_file(&journal).with_context(|| format!("{}", journal.display()))?;
    }
    output.result(&comparison_terminal(&comparison), &comparison)?;
    output.say(&format!("report: {}", args.out.join("report.html").display()));
    Ok(ExitCode::SUCCESS)
}

/// The network of a training and the seconds that it took, from its folder if it was finished
/// before; `None` if it was interrupted.
fn trained(
    folder: &Path,
    model: &ModelConfig,
    dataset: &Dataset,
    training: &TrainConfig,
    recompute: bool,
    device: &Device,
    output: &Output,
    stop: &AtomicBool,
) -> Result<Option<(Network, f64)>> {
    let record = folder.join("finished.json");
    let mut finished = Finished {
        model: model.clone(),
        training: training.clone(),
        dataset: dataset.meta().name.clone(),
        seconds: 0.0,
    };
    if let Ok(text) = fs::read_to_string(&record)
        && let Ok(found) = serde_json::from_str::<Finished>(&text)
    {
        finished.seconds = found.seconds;
        if found == finished {
            let (network, _) = checkpoint::load(&folder.join("model.safetensors"), device)?;
            return Ok(Some((network, found.seconds)));
        }
    }
    let network = Network::new(model, training.seed, DType::F32, device)?;
    let network = network.with_recomputation(recompute);
    let states = Saving::default().states(folder)?;
    let state = unfinished(&states.folder, model, dataset, training, device)?;
    let keep = Keep { states: Some(&states), state, ..Keep::default() };
    let run = train_into(folder, network, dataset, training, keep, output, stop)?;
    if run.stopped {
        return Ok(None);
    }
    finished.seconds = run.epochs.last().map_or(0.0, |epoch| epoch.seconds);
    let text = serde_json::to_string_pretty(&finished)?;
    checkpoint::write_atomically(&record, text.as_bytes())?;
    Ok(Some((run.network, finished.seconds)))
}

/// The state of this very training, if it was interrupted.
fn unfinished(
    folder: &Path,
    model: &ModelConfig,
    dataset: &Dataset,
    training: &TrainConfig,
    device: &Device,
) -> Result<Option<TrainingState>> {
    let latest = state::latest(folder)?;
    let state = latest.and_then(|path| state::read(&path, device).ok());
    Ok(state.filter(|state| {
        let header = &state.header;
        let same = (&header.model, &header.config) == (model, training);
        same && header.digest == dataset.digest()
    }))
}
