use std::fs;
use std::io::Write;
use std::path::PathBuf;

use anyhow::Result;
use candle_core::Device;
use clap::{Args, ValueEnum};
use steer3d::eval::Report;
use steer3d::experiments::{Bundled, DemoConfig, Session, TetrisConfig, demo, tetris};
use steer3d::files::AtPath;
use steer3d::report::{terminal, write_report};

use crate::eval::command_line;
use crate::output::Output;
use crate::values::{MAX_SEEDS, seeds};

pub(crate) const EXAMPLES: &str = "Examples:
  steer3d demo                         # CATH domains and adrenal glands, 3 to 6 minutes on 2 cores
  steer3d demo cath --out cath-demo
  steer3d demo tetris                  # the Tetris experiment of the paper, about 10 minutes

The folder gets report.html, report.json, results.csv, predictions.csv, the figures as SVG, the datasets (.h5) and the \
trained models.";

const CATH: &[u8] = include_bytes!("../data/cath/cath_3class_ca_small.npz");
const ADRENAL: &[u8] = include_bytes!("../data/adrenal/adrenalmnist3d_trainval.npz");

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
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=MAX_SEEDS))]
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

pub(crate) fn run(args: &DemoArgs, seed: u64, device: &Device, output: &Output) -> Result<()> {
    fs::create_dir_all(&args.out).at_path(&args.out)?;
    let (command, devices) = (command_line(), std::slice::from_ref(device));
    let session = Session { devices, observer: output, command: &command, ..Session::default() };
    let (epochs, folder) = (args.epochs, args.out.clone());
    let config = DemoConfig { seed, rotations: args.rotations, epochs, folder: folder.clone() };
    let mut sections = vec![];
    for experiment in &args.experiments {
        let bundled = match experiment {
            Experiment::Cath => Bundled::Cath,
            Experiment::Adrenal => Bundled::Adrenal,
            Experiment::Tetris => {
                let seeds = seeds(seed, args.seeds)?;
                let config = TetrisConfig { seeds, epochs, folder: folder.clone() };
                let table = tetris(&config, &session)?;
                output.tables(&table.table(), &table)?;
                continue;
            }
        };
        let archive = unpacked(bundled)?;
        sections.push(demo(bundled, archive.path(), &config, &session)?);
    }
    if !sections.is_empty() {
        let report = Report::new("Does the network survive rotation?", &command, sections);
        write_report(&args.out, &report)?;
        output.tables(&terminal(&report), &report)?;
        output.say(&format!("report: {}", args.out.join("report.html").display()));
    }
    Ok(())
}

/// The archive as a temporary file.
pub(crate) fn unpacked(bundled: Bundled) -> Result<tempfile::NamedTempFile> {
    let mut file = tempfile::Builder::new().suffix(".npz").tempfile()?;
    file.write_all(match bundled {
        Bundled::Cath => CATH,
        Bundled::Adrenal => ADRENAL,
    })?;
    file.flush()?;
    Ok(file)
}
