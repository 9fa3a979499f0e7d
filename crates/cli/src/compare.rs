use std::path::PathBuf;

use anyhow::Result;
use candle_core::Device;
use clap::Args;
use steer3d::dataset::Dataset;
use steer3d::eval::AnswerKind;
use steer3d::experiments::{
    Architecture, Budget, CompareConfig, EvaluationSettings, Session, compare,
};
use steer3d::report::comparison_terminal;

use crate::eval::{ProtocolArgs, command_line};
use crate::interrupt::{INTERRUPTED, stop};
use crate::output::{Output, SUCCESS};
use crate::train::TrainingArgs;
use crate::values::{MAX_SEEDS, named, seeds};

pub(crate) const EXAMPLES: &str = "Examples:
  steer3d compare cath.h5 --out comparison
  steer3d compare cath.h5 --models steerable,plain,group --seeds 5 --epochs 12 --out comparison
  steer3d compare cath.h5 --match flops --augment so3 --augment-fraction 0.5 --out comparison

Every model is trained from every seed, counted from --seed, and measured on the same rotated and moved volumes. The \
folder gets comparison.md, .csv and .json (mean and standard deviation over seeds), the report of the models of the first \
seed, and a folder for each training. A run that was interrupted goes on with the trainings and evaluations that are not \
finished.";

#[derive(Args)]
pub(crate) struct CompareArgs {
    /// Dataset (HDF5)
    dataset: PathBuf,
    /// Folder for the tables, the report and the trained models
    #[arg(long, short)]
    out: PathBuf,
    /// Networks, sized for the dataset
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = Architecture::RIVALS)]
    models: Vec<Architecture>,
    /// What the networks answer with, and are compared by
    #[arg(long, value_enum, default_value_t)]
    answers: AnswerKind,
    /// What all networks have about as much of: trained parameters, or multiply-adds of the convolutions
    /// for one volume
    #[arg(long = "match", value_parser = named::<Budget>(["parameters", "flops"]), default_value = "parameters")]
    matched: Budget,
    /// Let --augment count for every network, not for the augmented one only
    #[arg(long, requires = "augment")]
    augment_all: bool,
    /// Trainings of each network
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=MAX_SEEDS))]
    seeds: u64,
    #[command(flatten)]
    training: TrainingArgs,
    #[command(flatten)]
    protocol: ProtocolArgs,
}

pub(crate) fn run(args: &CompareArgs, seed: u64, device: &Device, output: &Output) -> Result<u8> {
    let dataset = Dataset::open(&args.dataset)?;
    let (split, protocol) = (args.protocol.split(), args.protocol.protocol(&dataset, seed)?);
    let training = |&architecture: &Architecture| {
        let augment = args.augment_all || architecture == Architecture::Augmented;
        (architecture, args.training.config(architecture, augment, seed))
    };
    let config = CompareConfig {
        rivals: args.models.iter().map(training).collect(),
        answers: args.answers,
        budget: args.matched,
        seeds: seeds(seed, args.seeds)?,
        recompute: args.training.recompute,
        evaluation: EvaluationSettings { split, protocol },
        folder: args.out.clone(),
    };
    let (command, devices) = (command_line(), std::slice::from_ref(device));
    let session = Session { devices, observer: output, stop: stop(), command: &command };
    let Some(comparison) = compare(&dataset, &config, &session)? else {
        output.say("interrupted: the same command goes on with what is not finished");
        return Ok(INTERRUPTED);
    };
    output.tables(&comparison_terminal(&comparison), &comparison)?;
    output.say(&format!("report: {}", args.out.join("report.html").display()));
    Ok(SUCCESS)
}
