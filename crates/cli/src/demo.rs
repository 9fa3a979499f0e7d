use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::AtomicBool;

use anyhow::{Context, Result};
use candle_core::Device;
use clap::{Args, ValueEnum};
use steer3d::eval::report::Section;
use steer3d::eval::{NetworkPredictor, Protocol, Source};
use steer3d::nn::TrainConfig;
use steer3d::volume::{
    Dataset, ImportOptions, Interpolation, Split, Voxeliser, import_cath, import_medmnist,
};

use crate::output::Output;
use crate::train::{Architecture, default_model, train_into};
use crate::{eval, tetris};

pub(crate) const EXAMPLES: &str = "Examples:
  steer3d demo                         # CATH domains and adrenal glands, about 8 minutes on 2 cores
  steer3d demo cath --out /tmp/cath
  steer3d demo tetris --seeds 10       # the paper's Tetris experiment

The folder gets report.html, report.json, results.csv, predictions.csv, the figures as SVG, the
datasets (.h5) and the trained models.";

const CATH: &[u8] = include_bytes!("../../../data/cath/cath_3class_ca_small.npz");
const ADRENAL: &[u8] = include_bytes!("../../../data/adrenal/adrenalmnist3d_trainval.npz");

#[derive(Args)]
pub(crate) struct DemoArgs {
    /// What to run
    #[arg(value_enum, default_values = ["cath", "adrenal"])]
    experiments: Vec<Experiment>,
    /// Folder for reports, datasets and models
    #[arg(long, short, default_value = "steer3d-demo")]
    out: PathBuf,
    /// Random rotations of each test volume
    #[arg(long, default_value_t = 8)]
    rotations: usize,
    /// Seeds of the Tetris experiment, counted from --seed
    #[arg(long, default_value_t = 10)]
    seeds: u64,
    /// Passes over the training set, instead of each experiment's own number
    #[arg(long)]
    epochs: Option<usize>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Experiment {
    /// 480 protein domains in 3 classes, 24³ voxels of 2 Å
    Cath,
    /// 1,286 adrenal glands in 2 classes, 28³ voxels
    Adrenal,
    /// The 8 Tetris shapes, trained in one orientation
    Tetris,
}

pub(crate) fn run(
    args: &DemoArgs,
    seed: u64,
    device: &Device,
    output: &Output,
) -> Result<ExitCode> {
    fs::create_dir_all(&args.out).with_context(|| format!("{}", args.out.display()))?;
    let mut sections = vec![];
    for experiment in &args.experiments {
        match experiment {
            Experiment::Cath => sections.push(real(args, seed, device, output, &cath)?),
            Experiment::Adrenal => sections.push(real(args, seed, device, output, &adrenal)?),
            Experiment::Tetris => tetris::run(args.seeds, args.epochs, &args.out, seed, device, output)?,
        }
    }
    if !sections.is_empty() {
        let title = "Does the network survive rotation?";
        eval::publish(title, sections, Some(&args.out), output)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// A bundled dataset and how to train on it.
struct Bundle {
    dataset: Dataset,
    config: TrainConfig,
}

fn real(
    args: &DemoArgs,
    seed: u64,
    device: &Device,
    output: &Output,
    bundle: &dyn Fn(&Path, u64) -> Result<Bundle>,
) -> Result<Section> {
    let Bundle { dataset, mut config } = bundle(&args.out, seed)?;
    config.epochs = args.epochs.unwrap_or(config.epochs);
    let meta = dataset.meta();
    let mut predictors = vec![];
    for (name, architecture) in
        [("steerable", Architecture::Steerable), ("plain", Architecture::Plain)]
    {
        let model = default_model(architecture, meta, device)?;
        let folder = args.out.join(&meta.name).join(name);
        let never = AtomicBool::new(false);
        let run = train_into(&folder, &model, &dataset, &config, device, output, &never)?;
        predictors.push(NetworkPredictor::new(name.into(), run.network));
    }
    let voxels = Source::Voxels(Interpolation::Trilinear);
    let sources =
        if meta.voxeliser.is_some() { vec![Source::Points, voxels] } else { vec![voxels] };
    let protocol = Protocol {
        seed,
        rotations: args.rotations,
        angles: vec![15.0, 30.0, 45.0, 60.0, 90.0, 135.0, 180.0],
        per_angle: 1,
        translations: vec![1.0, 2.0, 4.0],
        per_distance: 1,
        cube: false,
        sources,
        batch: 32,
        ..Protocol::default()
    };
    eval::section(&predictors, &dataset, Split::Test, protocol, output)
}

fn cath(out: &Path, seed: u64) -> Result<Bundle> {
    let (source, target) = (unpacked(CATH)?, out.join("cath.h5"));
    import_cath(source.path(), &target, &Voxeliser::paper(24, 2.0), &ImportOptions::default())?;
    let config = TrainConfig { epochs: 25, seed, ..TrainConfig::default() };
    Ok(Bundle { dataset: Dataset::open(&target)?, config })
}

fn adrenal(out: &Path, seed: u64) -> Result<Bundle> {
    let (source, target) = (unpacked(ADRENAL)?, out.join("adrenal.h5"));
    import_medmnist(source.path(), &target, &ImportOptions::default())?;
    let config = TrainConfig { epochs: 6, seed, ..TrainConfig::default() };
    Ok(Bundle { dataset: Dataset::open(&target)?, config })
}

fn unpacked(bytes: &[u8]) -> Result<tempfile::NamedTempFile> {
    let mut file = tempfile::Builder::new().suffix(".npz").tempfile()?;
    file.write_all(bytes)?;
    file.flush()?;
    Ok(file)
}
