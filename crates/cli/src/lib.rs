//! The `steer3d` program as a call: parses arguments, calls the library, prints what it gives.

mod allocator;
mod compare;
mod dataset;
mod demo;
mod docs;
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
use clap::builder::StyledStr;
use clap::builder::styling::{AnsiColor, Style, Styles};
use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};
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
#[command(name = "steer3d", version, propagate_version = true, max_term_width = 100, styles = STYLES)]
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
    #[arg(long, global = true, env = "STEER3D_SEED", hide_short_help = true)]
    seed: Option<u64>,
    /// Threads to use [default: all]
    #[arg(long, global = true, env = "STEER3D_THREADS", hide_short_help = true)]
    threads: Option<usize>,
    /// Where to compute: auto, cpu or cuda:N; several for `train`, such as cuda:0,cuda:1, compute each batch in
    /// parts
    #[arg(
        long,
        global = true,
        default_value = "auto",
        env = "STEER3D_DEVICE",
        hide_short_help = true
    )]
    device: String,
    /// Most memory to take for what files and datasets hold, such as 500MB or 8GiB [default: half of what the
    /// machine has, or of what limits allow this process]
    #[arg(long, global = true, env = "STEER3D_MEMORY", value_name = "SIZE", value_parser = memory, hide_short_help = true)]
    memory: Option<ByteSize>,
    /// What started one process for each device, which share the work of train, compare, eval, predict, dataset build and
    /// dataset import
    #[arg(
        long,
        global = true,
        value_enum,
        default_value_t,
        env = "STEER3D_LAUNCHER",
        hide_short_help = true
    )]
    launcher: Launcher,
    /// Seconds that such processes wait for each other
    #[arg(long, global = true, default_value_t = 1800, env = "STEER3D_RANK_TIMEOUT", value_name = "SECONDS",
          value_parser = clap::value_parser!(u64).range(1..=MAX_WAIT), hide_short_help = true)]
    rank_timeout: u64,
    /// Print the result as JSON on standard output: one object, or of `predict` without --out one for each input, a line
    /// each
    #[arg(long, global = true)]
    json: bool,
    /// Print tables with all columns and paths in full, though the terminal is narrower
    #[arg(long, global = true, hide_short_help = true)]
    wide: bool,
    /// Show no progress
    #[arg(long, short, global = true)]
    quiet: bool,
}

/// A year.
const MAX_WAIT: u64 = 365 * 24 * 3600;

/// The commands, each of which belongs to one of the [`GROUPS`].
#[derive(Subcommand)]
enum Command {
    /// Answer for files with a trained network
    ///
    /// The answers are classes, values or labels of voxels, for any file that a dataset can be made of.
    #[command(after_long_help = predict::EXAMPLES)]
    Predict(predict::PredictArgs),
    /// Make, describe and check HDF5 datasets
    #[command(subcommand)]
    Dataset(dataset::DatasetCommand),
    /// Train a network, as a file or options describe it
    #[command(after_long_help = train::EXAMPLES)]
    Train(train::TrainArgs),
    /// Measure how networks survive rotation, and report it
    ///
    /// Test volumes are turned and moved, and the answers to them are compared with those to the volumes as they are.
    #[command(after_long_help = eval::EXAMPLES, override_usage = eval::USAGE)]
    Eval(eval::EvalArgs),
    /// Train several networks and measure each of them
    ///
    /// Networks of about as many parameters are trained from several seeds and measured on the same turned and moved
    /// volumes.
    #[command(after_long_help = compare::EXAMPLES)]
    Compare(compare::CompareArgs),
    /// Describe a model, a dataset or an irreps string
    #[command(after_long_help = info::EXAMPLES)]
    Info(info::InfoArgs),
    /// Write a commented experiment file
    #[command(after_long_help = init::EXAMPLES)]
    Init(init::InitArgs),
    /// List and compare trainings
    #[command(after_long_help = runs::EXAMPLES)]
    Runs(runs::RunsArgs),
    /// Compare reports, and show a volume that turns
    #[command(subcommand)]
    Report(report::ReportCommand),
    /// Write a network as ONNX or as NumPy arrays
    #[command(after_long_help = export::EXAMPLES)]
    Export(export::ExportArgs),
    /// Train two networks on bundled data and turn the test data
    ///
    /// A steerable and a plain network are trained, and the report says how they survive rotation.
    #[command(after_long_help = demo::EXAMPLES)]
    Demo(demo::DemoArgs),
    /// Measure equivariance of kernels, layers and networks
    #[command(after_long_help = equivariance::EXAMPLES)]
    Equivariance(equivariance::EquivarianceArgs),
    /// Print the reference of all settings, write manual pages
    #[command(subcommand)]
    Docs(docs::DocsCommand),
    /// Print a completion script for a shell
    #[command(
        after_long_help = "Example:\n  steer3d completions bash > ~/.local/share/bash-completion/completions/steer3d"
    )]
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

/// The commands by what they are for, the most used first.
const GROUPS: [(&str, &[&str]); 3] = [
    ("Use", &["predict", "dataset", "train", "eval"]),
    ("Compare and look closer", &["compare", "report", "runs", "info", "equivariance"]),
    ("Begin, and other programs", &["demo", "init", "export", "docs", "completions"]),
];

/// The colours of help and errors on a terminal, without `NO_COLOR`.
const STYLES: Styles = Styles::styled()
    .header(AnsiColor::Green.on_default().bold())
    .usage(AnsiColor::Green.on_default().bold())
    .literal(AnsiColor::Cyan.on_default().bold())
    .placeholder(AnsiColor::Cyan.on_default())
    .error(AnsiColor::Red.on_default().bold());

/// The arguments of the program, whose help shows the commands in groups.
fn program() -> clap::Command {
    let program = Cli::command();
    let styled = |style: &Style, text: &str| format!("{style}{text}{style:#}");
    let line = |name: &&str| {
        let about = program.find_subcommand(name).and_then(clap::Command::get_about);
        let about = about.map(ToString::to_string).unwrap_or_default();
        format!("  {} {about}\n", styled(STYLES.get_literal(), &format!("{name:13}")))
    };
    let group = |(title, names): &(&str, &[&str])| {
        let lines: String = names.iter().map(line).collect();
        format!("{}\n{lines}\n", styled(STYLES.get_header(), &format!("{title}:")))
    };
    let groups: String = GROUPS.iter().map(group).collect();
    let template = format!(
        "{{about-with-newline}}\n{{usage-heading}} {{usage}}\n\n{groups}\
         `steer3d COMMAND --help` explains a command, with examples.\n\n{}\n{{options}}",
        styled(STYLES.get_header(), "Options of every command:")
    );
    program.help_template(StyledStr::from(template))
}

/// What the program says when it is called with no words, in 80 columns.
const FIRST_STEPS: &str = "\
Networks that do not care how a volume is turned, and a measure of how far any
network survives rotation.

Begin with one of these:
  steer3d predict cath-class protein.pdb     ask a model of the program
  steer3d demo                               train on bundled data, 3-6 minutes
  steer3d dataset build FOLDER --out my.h5   your files, a folder for each class
  steer3d train my.h5 --out runs/mine        train a network on them
  steer3d eval MODEL my.h5 --out report      turn the test items, and report

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
    let parsed = program().try_get_matches_from(&args);
    let cli = match parsed.and_then(|found| Cli::from_arg_matches(&found)) {
        Ok(cli) => cli,
        Err(error) => {
            return processes::end_unparsed(&args, error.exit_code() as u8, || {
                let _ = error.print();
            });
        }
    };
    let limit = Duration::from_secs(cli.global.rank_timeout);
    let launcher = cli.global.launcher;
    let processes = match Processes::of(&cli.command, launcher, limit) {
        Ok(processes) => processes,
        Err(error) => {
            if processes::tells(&error, launcher) {
                tell(&error, launcher);
            }
            return 2;
        }
    };
    let rank = &processes.world.rank;
    let done = rank.run(|| Ok::<_, Infallible>(command(&cli, &processes)));
    let done = done.unwrap_or_else(|never| match never {});
    processes::end(rank, done, |error| tell(error, launcher))
}

fn tell(error: &anyhow::Error, launcher: Launcher) {
    let style = STYLES.get_error();
    let text = processes::named(one_line(error), launcher);
    anstream::eprintln!("{style}steer3d: error:{style:#} {text}");
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
    processes.compare_devices(&device, &output)?;
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
        Command::Docs(command) => docs::run(command, program(), &output)?,
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
        Err(_) if name == "auto" && own > 0 => {
            let found = device(name, 0)?;
            // Where a launcher gives each process a GPU, it sees no other.
            let is_given =
                std::env::var("CUDA_VISIBLE_DEVICES").is_ok_and(|all| !all.contains(','));
            if !found.is_cpu() && !is_given {
                eprintln!(
                    "warning: --device auto: expected GPU {own} for the process of local rank {own}, found none; it shares GPU 0 \
                     with others: start as many processes on a machine as it has GPUs"
                );
            }
            Ok(found)
        }
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
    clap_complete::generate(shell, &mut program(), "steer3d", &mut script);
    std::io::stdout().write_all(&script).context("standard output")
}
