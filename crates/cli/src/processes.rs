//! The processes that a launcher started: how they are connected, and how they end together.

use std::ffi::OsString;
use std::time::Duration;

use anyhow::{Result, bail};
use candle_core::Device;
use clap::ValueEnum;
use steer3d::ranks::{ConnectError, Launch, LaunchError, Launcher, Rank, World};

use crate::dataset::DatasetCommand;
use crate::output::{Output, SUCCESS};
use crate::predict::SOME_FAILED;
use crate::{Command, exit_code};

/// What the launcher says, and the connection with the other processes.
pub(crate) struct Processes {
    pub(crate) launch: Launch,
    pub(crate) world: World,
}

/// Whether processes can share the work of a command.
fn is_shared(command: &Command) -> bool {
    match command {
        Command::Train(_) | Command::Compare(_) | Command::Eval(_) | Command::Predict(_) => true,
        Command::Dataset(command) => {
            matches!(command, DatasetCommand::Build(_) | DatasetCommand::Import(_))
        }
        _ => false,
    }
}

impl Processes {
    /// Those of a command, which is done by each process for itself if it cannot be shared.
    pub(crate) fn of(command: &Command, launcher: Launcher, limit: Duration) -> Result<Self> {
        if !is_shared(command) {
            if !matches!(launcher, Launcher::Auto | Launcher::None) {
                bail!(
                    "--launcher: expected train, compare, eval, predict, dataset build or dataset import, found another command"
                );
            }
            return Ok(Self { launch: Launch::NONE, world: World::alone() });
        }
        let launch = Launch::of_environment(launcher)?;
        let world = World::connect(&launch, limit)?;
        Ok(Self { launch, world })
    }

    /// Says so where some processes compute on the CPU and others, which wait for them, on a GPU.
    pub(crate) fn compare_devices(&self, device: &Device, output: &Output) -> Result<()> {
        let on_cpu = self.world.rank.gather(vec![u8::from(device.is_cpu())])?;
        let place = |cpu: u8| on_cpu.iter().position(|given| given == &[cpu]);
        if let (Some(cpu), Some(gpu)) = (place(1), place(0)) {
            output.warn(&format!(
                "--device: rank {cpu} computes on the CPU, rank {gpu} on a GPU; start as many processes on a machine \
                 as it has GPUs"
            ));
        }
        Ok(())
    }
}

/// Whether this process tells an error of [`Processes::of`], which the first one tells if all have it.
pub(crate) fn tells(error: &anyhow::Error, launcher: Launcher) -> bool {
    if let Some(error) = error.downcast_ref::<LaunchError>() {
        return Launch::tells(error);
    }
    let is_first = Launch::of_environment(launcher).map_or(true, |launch| launch.rank == 0);
    let is_own = |error: &ConnectError| !error.is_told_by_first();
    is_first || error.downcast_ref().is_some_and(is_own)
}

/// What is wrong, after the process that says so if there are several.
pub(crate) fn named(text: String, launcher: Launcher) -> String {
    match Launch::of_environment(launcher) {
        Ok(Launch { rank, size, .. }) if size > 1 => {
            let name = format!("rank {rank} of {size}: ");
            if text.contains(&name) { text } else { name + &text }
        }
        _ => text,
    }
}

/// Ends the part of this process with what it did: tells the others if it fails, and gives the exit code of all. `tell` is
/// called if this is the process to tell the error.
pub(crate) fn end(rank: &Rank, done: Result<u8>, tell: impl FnOnce(&anyhow::Error)) -> u8 {
    let is_well = |code: u8| matches!(code, SUCCESS | SOME_FAILED);
    let met = done.and_then(|code| {
        if is_well(code) {
            rank.meet()?;
        }
        Ok(code)
    });
    let code = match &met {
        Ok(code) if is_well(*code) => return *code,
        Ok(code) => *code,
        Err(error) => exit_code(error),
    };
    let failure = rank.fail(code);
    if let Err(error) = &met
        && failure.rank == rank.index()
    {
        tell(error);
    }
    failure.code
}

/// The same for a command line that cannot be parsed, or that asks for help or the version.
pub(crate) fn end_unparsed(args: &[OsString], code: u8, tell: impl FnOnce()) -> u8 {
    let launch = match code {
        SUCCESS => Launch::NONE,
        _ => Launch::of_environment(launcher_in(args)).unwrap_or(Launch::NONE),
    };
    match World::connect(&launch, TO_END) {
        Ok(World { ref rank, .. }) => {
            if rank.fail(code).rank == rank.index() {
                tell();
            }
        }
        Err(_) => tell(),
    }
    code
}

/// The launcher that arguments which cannot be parsed name, else the one of the environment.
fn launcher_in(args: &[OsString]) -> Launcher {
    let words: Vec<&str> = args.iter().filter_map(|word| word.to_str()).collect();
    let after = words.iter().position(|word| *word == "--launcher").map(|at| words.get(at + 1));
    let joined = words.iter().find_map(|word| word.strip_prefix("--launcher="));
    let given = after.flatten().copied().or(joined).map(str::to_owned);
    let name = given.or_else(|| std::env::var("STEER3D_LAUNCHER").ok());
    name.and_then(|name| Launcher::from_str(&name, false).ok()).unwrap_or_default()
}

/// How long a process that cannot do anything waits for the others.
const TO_END: Duration = Duration::from_secs(20);
