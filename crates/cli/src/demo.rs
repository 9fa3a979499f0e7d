use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::AtomicBool;

use anyhow::{Context, Result};
use candle_core::{DType, Device};
use clap::{Args, ValueEnum};
use steer3d::dataset::{Dataset, ImportOptions, Split, import_cath, import_medmnist};
use steer3d::eval::{NetworkPredictor, Predictor, Protocol, Report, Section, Source};
use steer3d::nn::Network;
use steer3d::report::{Evaluation, terminal, write_report};
use steer3d::train::TrainConfig;
use steer3d::volume::{Interpolation, Voxeliser};

use crate::output::Output;
use crate::train::{Architecture, Budget, Keep, Pair, default_networks, rival, train_into};
use crate::{eval, tetris};

pub(crate) const EXAMPLES: &str = "Examples:
  steer3d demo                         # CATH domains and adrenal glands, 3 to 6 minutes on 2 cores
  steer3d demo cath --out cath-demo
  steer3d demo tetris                  # the Tetris experiment of the paper, about 10 minutes

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
            Experiment::Tetris => {
                tetris::run(args.seeds, args.epochs, &args.out, seed, device, output)?;
            }
        }
    }
    if !sections.is_empty() {
        let title = "Does the network survive rotation?";
        let report = Report::new(title, &eval::command_line(), sections);
        write_report(&args.out, &report)?;
        output.result(&terminal(&report), &report)?;
        output.say(&format!("report: {}", args.out.join("report.html").display()));
    }
    Ok(ExitCode::SUCCESS)
}

/// A bundled dataset, networks for it, and how to train.
struct Bundle {
    dataset: Dataset,
    networks: Pair,
    config: TrainConfig,
}

fn real(
    args: &DemoArgs,
    seed: u64,
    device: &Device,
    output: &Output,
    bundle: &dyn Fn(&Path, u64) -> Result<Bundle>,
) -> Result<Section> {
    let Bundle { dataset, networks, mut config } = bundle(&args.out, seed)?;
    config.epochs = args.epochs.unwrap_or(config.epochs);
    let meta = dataset.meta();
    let mut predictors: Vec<Box<dyn Predictor>> = vec![];
    for architecture in [Architecture::Steerable, Architecture::Plain] {
        let name = architecture.to_string();
        let model = rival(architecture, networks.clone(), Budget::Parameters, device)?;
        let network = Network::new(&model, config.seed, DType::F32, device)?;
        let folder = args.out.join(&meta.name).join(&name);
        let never = AtomicBool::new(false);
        let run = train_into(&folder, network, &dataset, &config, Keep::default(), output, &never)?;
        predictors.push(Box::new(NetworkPredictor::new(name, run.network)?));
    }
    let voxels = Source::Voxels(Interpolation::Cubic);
    let sources = if dataset.can_voxelise() { vec![Source::Points, voxels] } else { vec![voxels] };
    let protocol = Protocol {
        seed,
        rotations: args.rotations,
        angles: vec![15.0, 30.0, 45.0, 60.0, 90.0, 135.0, 180.0],
        per_angle: 1,
        translations: vec![1.0, 2.0, 4.0],
        per_distance: 1,
        groups: vec![],
        sources,
        batch: 32,
        ..Protocol::default()
    };
    let models: Vec<&dyn Predictor> = predictors.iter().map(AsRef::as_ref).collect();
    let evaluation = Evaluation { dataset: &dataset, split: Split::Test, protocol: &protocol };
    Ok(evaluation.section(&models, None, &eval::progress(output))?)
}

fn cath(out: &Path, seed: u64) -> Result<Bundle> {
    let (source, target) = (unpacked(CATH)?, out.join("cath.h5"));
    let options = ImportOptions {
        name: Some("cath".into()),
        source: Some("CATH v4.2 (Orengo group, UCL), C-alpha positions of PDB entries".into()),
        licence: Some("CC BY 4.0 (labels), CC0 (coordinates)".into()),
        command: Some(eval::command_line()),
        ..ImportOptions::default()
    };
    import_cath(source.path(), &target, &Voxeliser::paper(24, 2.0), &options)?;
    let dataset = Dataset::open(&target)?;
    let networks = default_networks(&dataset)?;
    Ok(Bundle {
        dataset,
        networks,
        config: TrainConfig { epochs: 12, seed, ..TrainConfig::default() },
    })
}

fn adrenal(out: &Path, seed: u64) -> Result<Bundle> {
    let (source, target) = (unpacked(ADRENAL)?, out.join("adrenal.h5"));
    let options = ImportOptions {
        name: Some("adrenal".into()),
        source: Some("AdrenalMNIST3D of MedMNIST v2 (Yang et al. 2023)".into()),
        licence: Some("CC BY 4.0".into()),
        class_names: Some(vec!["normal".into(), "mass".into()]),
        command: Some(eval::command_line()),
        ..ImportOptions::default()
    };
    import_medmnist(source.path(), &target, &options)?;
    let dataset = Dataset::open(&target)?;
    let mut networks = default_networks(&dataset)?;
    let fields = ["2x0+2x1", "4x0+2x1+1x2", "8x0+4x1+2x2", "32x0"];
    for (block, fields) in networks.steerable.blocks.iter_mut().zip(fields) {
        block.fields = fields.parse()?;
    }
    Ok(Bundle {
        dataset,
        networks,
        config: TrainConfig { epochs: 5, seed, ..TrainConfig::default() },
    })
}

fn unpacked(bytes: &[u8]) -> Result<tempfile::NamedTempFile> {
    let mut file = tempfile::Builder::new().suffix(".npz").tempfile()?;
    file.write_all(bytes)?;
    file.flush()?;
    Ok(file)
}
