//! The `steer3d` program as a call: parses arguments, calls the library, prints what it gives.

mod allocator;
mod compare;
mod dataset;
mod demo;
mod equivariance;
mod eval;
mod export;
mod info;
mod init;
mod interrupt;
mod output;
mod predict;
mod processes;
mod report;
mod runs;
mod train;
mod values;

use std::convert::Infallible;
use std::ffi::OsString;
use std::io::Write;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bytesize::ByteSize;
use candle_core::Device;
use clap::{Args, CommandFactory, Parser, Subcommand};
use steer3d::eval::EvalError;
use steer3d::experiments::Data;
use steer3d::nn::NnError;
use steer3d::ops::gpu_device;
use steer3d::ranks::Launcher;
use steer3d::report::ReportError;
use steer3d::train::TrainError;

use crate::output::{Output, SUCCESS};
use crate::processes::Processes;

pub use crate::allocator::OrExit;

/// Rotation-equivariant networks for voxel volumes, and a measure of how far a model survives
/// rotation.
#[derive(Parser)]
#[command(name = "steer3d", version, propagate_version = true, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    global: Global,
}

/// Options of every command.
#[derive(Args)]
#[command(next_help_heading = "Options of every command")]
pub(crate) struct Global {
    /// Seed of everything random: the same seed gives the same result on any number of threads
    /// [default: that of an experiment file, else 0]
    #[arg(long, global = true, env = "STEER3D_SEED")]
    seed: Option<u64>,
    /// Threads to use [default: all]
    #[arg(long, global = true, env = "STEER3D_THREADS")]
    threads: Option<usize>,
    /// Where to compute: auto, cpu or cuda:N; several for `train`, such as cuda:0,cuda:1, compute each batch in
    /// parts
    #[arg(long, global = true, default_value = "auto", env = "STEER3D_DEVICE")]
    device: String,
    /// Most memory to take for what files and datasets hold, such as 500MB or 8GiB [default: half of what the
    /// machine has, or of what limits allow this process]
    #[arg(long, global = true, env = "STEER3D_MEMORY", value_name = "SIZE", value_parser = memory)]
    memory: Option<ByteSize>,
    /// What started one process for each device, which share the work of train, compare, eval, predict, dataset build and
    /// dataset import
    #[arg(long, global = true, value_enum, default_value_t, env = "STEER3D_LAUNCHER")]
    launcher: Launcher,
    /// Seconds that such processes wait for each other
    #[arg(long, global = true, default_value_t = 1800, env = "STEER3D_RANK_TIMEOUT", value_name = "SECONDS",
          value_parser = clap::value_parser!(u64).range(1..=MAX_WAIT))]
    rank_timeout: u64,
    /// Print the result as one JSON object on standard output
    #[arg(long, global = true)]
    json: bool,
    /// Print tables with all columns, though the terminal is narrower
    #[arg(long, global = true)]
    wide: bool,
    /// Show no progress
    #[arg(long, short, global = true)]
    quiet: bool,
}

/// A year.
const MAX_WAIT: u64 = 365 * 24 * 3600;

/// The commands, the most used first.
#[derive(Subcommand)]
enum Command {
    /// Answer for any file with a trained network: classes, values or labels of voxels
    #[command(after_help = predict::EXAMPLES)]
    Predict(predict::PredictArgs),
    /// Make, describe and check HDF5 datasets
    #[command(subcommand)]
    Dataset(dataset::DatasetCommand),
    /// Train a network, as an experiment file or options describe it
    #[command(after_help = train::EXAMPLES)]
    Train(train::TrainArgs),
    /// Evaluate a network on rotated and moved test volumes and write a report
    #[command(after_help = eval::EXAMPLES)]
    Eval(eval::EvalArgs),
    /// Train several networks on a dataset and measure how each survives rotation and translation
    #[command(after_help = compare::EXAMPLES)]
    Compare(compare::CompareArgs),
    /// Describe a model, a dataset or an irreps string
    #[command(after_help = info::EXAMPLES)]
    Info(info::InfoArgs),
    /// Write a commented experiment file
    #[command(after_help = init::EXAMPLES)]
    Init(init::InitArgs),
    /// List and compare trainings
    #[command(after_help = runs::EXAMPLES)]
    Runs(runs::RunsArgs),
    /// Compare reports
    #[command(subcommand)]
    Report(report::ReportCommand),
    /// Write a network for other programs: as ONNX, or as NumPy arrays
    #[command(after_help = export::EXAMPLES)]
    Export(export::ExportArgs),
    /// Train a steerable and a plain network on the bundled data and report how they survive
    /// rotation
    #[command(after_help = demo::EXAMPLES)]
    Demo(demo::DemoArgs),
    /// Measure how far steerable kernels, layers and networks are from exact equivariance
    #[command(after_help = equivariance::EXAMPLES)]
    Equivariance(equivariance::EquivarianceArgs),
    /// Print a completion script for a shell
    #[command(
        after_help = "Example:\n  steer3d completions bash > ~/.local/share/bash-completion/completions/steer3d"
    )]
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

/// What the program says when it is called with no words.
const FIRST_STEPS: &str = "\
Networks that do not care how a volume is turned, and a measure of how far any network survives rotation.

Begin with one of these:
  steer3d predict cath-class protein.pdb     ask a model that is part of the program
  steer3d demo                               train two networks on bundled data, in 3 to 6 minutes
  steer3d dataset build FOLDER --out my.h5   make a dataset of your files, a folder for each class
  steer3d train my.h5 --out runs/mine        train a network on it
  steer3d eval MODEL my.h5 --out report      turn its test items, and see what the model answers

`steer3d --help` lists all commands, `steer3d COMMAND --help` explains one.";

/// Runs the program with these arguments, the first of which is its own name, and gives its exit code.
///
/// It takes SIGINT and SIGTERM for the rest of the process, which the second of them ends; so it may be called once.
pub fn run(args: impl IntoIterator<Item = OsString>) -> u8 {
    let args: Vec<OsString> = args.into_iter().collect();
    if args.len() < 2 {
        return match writeln!(std::io::stdout(), "{FIRST_STEPS}") {
            Ok(()) => SUCCESS,
            Err(_) => 2,
        };
    }
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => {
            return processes::end_unparsed(error.exit_code() as u8, || {
                let _ = error.print();
            });
        }
    };
    let limit = Duration::from_secs(cli.global.rank_timeout);
    let processes = match Processes::of(&cli.command, cli.global.launcher, limit) {
        Ok(processes) => processes,
        Err(error) => {
            if processes::tells(&error) {
                tell(&error);
            }
            return 2;
        }
    };
    let rank = &processes.world.rank;
    let done = rank.run(|| Ok::<_, Infallible>(command(&cli, &processes)));
    match done.unwrap_or_else(|never| match never {}) {
        Ok(code) => processes::end(rank, code, || {}),
        Err(error) => processes::end(rank, exit_code(&error), || tell(&error)),
    }
}

fn tell(error: &anyhow::Error) {
    eprintln!("steer3d: error: {}", one_line(error));
}

/// An error and its causes in one line, each said once.
pub fn one_line(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if text.contains(&cause) {
            continue;
        }
        if !text.is_empty() {
            text.push_str(": ");
        }
        text.push_str(&cause);
    }
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// 2 when the input or the settings are at fault, 1 when the program is.
fn exit_code(error: &anyhow::Error) -> u8 {
    let of_program = |e: &(dyn std::error::Error + 'static)| {
        matches!(e.downcast_ref(), Some(NnError::Tensor(_) | NnError::Differs { .. }))
            || matches!(e.downcast_ref(), Some(TrainError::Network(NnError::Tensor(_))))
            || matches!(e.downcast_ref(), Some(EvalError::Tensor(_)))
            || matches!(e.downcast_ref(), Some(ReportError::Eval(EvalError::Tensor(_))))
    };
    if error.chain().any(of_program) { 1 } else { 2 }
}

/// Most threads on a machine of fewer cores: thousands wait for each other for minutes.
const MAX_THREADS: usize = 512;

/// Makes the dataset of an experiment file where it is missing: a [`MakeDataset`](steer3d::experiments::MakeDataset) that
/// shows no progress.
///
/// # Errors
/// If the words are not those of `dataset build` or `dataset import` for that file, or as these commands.
pub fn make_dataset(data: &Data) -> std::io::Result<()> {
    let made = dataset::make(data, &Output::new(false, true, false));
    made.map_err(|error| std::io::Error::other(format!("{error:#}")))
}

/// The exit code of a command that was carried out.
fn command(cli: &Cli, processes: &Processes) -> Result<u8> {
    steer3d::ops::reuse_memory();
    interrupt::install()?;
    let global = &cli.global;
    if let Some(threads) = global.threads {
        let most = std::thread::available_parallelism().map_or(1, usize::from).max(MAX_THREADS);
        if !(1..=most).contains(&threads) {
            bail!("--threads: expected 1 to {most}, found {threads}");
        }
        rayon::ThreadPoolBuilder::new().num_threads(threads).build_global()?;
    }
    if let Some(memory) = global.memory {
        steer3d::files::memory::set_limit(memory.as_u64());
    }
    let gpu = processes.launch.local_rank;
    let devices = global.device.split(',').map(|name| device(name, gpu));
    let devices = devices.collect::<Result<Vec<_>>>()?;
    if devices.len() > 1 && !matches!(cli.command, Command::Train(_)) {
        bail!("--device: only `steer3d train` computes on several devices");
    }
    let device = devices[0].clone();
    let output = match processes.world.rank.is_first() {
        true => Output::new(global.json, global.quiet, global.wide),
        false => Output::silent(),
    };
    let seed = global.seed.unwrap_or(0);
    match &cli.command {
        Command::Dataset(command) => return dataset::run(command, seed, &output),
        Command::Train(args) => return train::run(args, global.seed, &devices, &output),
        Command::Predict(args) => return predict::run(args, &device, &output),
        Command::Eval(args) => return eval::run(args, seed, &device, &output),
        Command::Compare(args) => return compare::run(args, seed, &device, &output),
        Command::Export(args) => export::run(args, &output)?,
        Command::Demo(args) => demo::run(args, seed, &device, &output)?,
        Command::Init(args) => init::run(args)?,
        Command::Runs(args) => runs::run(args, &output)?,
        Command::Report(command) => report::run(command, &output)?,
        Command::Equivariance(args) => equivariance::run(args, seed, &output)?,
        Command::Info(args) => info::run(args, &output)?,
        Command::Completions { shell } => completions(*shell)?,
    }
    Ok(SUCCESS)
}

/// A budget of at least 16 MiB.
fn memory(text: &str) -> Result<ByteSize, String> {
    let wanted = text.parse().ok().filter(|size| *size >= ByteSize::mib(16));
    wanted.ok_or_else(|| format!("expected at least 16MiB, such as 8GiB, found `{text}`"))
}

/// `auto` takes GPU `own` where this build and this machine have it, or the only one that this process sees.
fn device(name: &str, own: usize) -> Result<Device> {
    let gpu = match name {
        "cpu" => return Ok(Device::Cpu),
        "auto" | "cuda" => own,
        _ => match name.strip_prefix("cuda:").and_then(|number| number.parse().ok()) {
            Some(number) => number,
            None => bail!("--device: expected auto, cpu or cuda:N, found '{name}'"),
        },
    };
    // SAFETY: the program makes no stream; it reaches GPUs through candle and steer3d alone.
    #[allow(unsafe_code)]
    let found = unsafe { gpu_device(gpu) };
    match found {
        Ok(device) => Ok(device),
        Err(_) if name == "auto" && own > 0 => device(name, 0),
        Err(_) if name == "auto" => Ok(Device::Cpu),
        Err(_) if !cfg!(feature = "cuda") => {
            bail!("--device {name}: this build has no GPU support; build it with --features cuda")
        }
        Err(error) => {
            // What follows the first line is a trace of calls.
            let text = error.to_string();
            bail!("--device {name}: no such GPU is usable: {}", text.lines().next().unwrap_or(""))
        }
    }
}

fn completions(shell: clap_complete::Shell) -> Result<()> {
    let mut script = vec![];
    clap_complete::generate(shell, &mut Cli::command(), "steer3d", &mut script);
    std::io::stdout().write_all(&script).context("standard output")
}
