//! The processes that a launcher started: how they are connected, and how they end together.

use std::io::ErrorKind;
use std::time::Duration;

use anyhow::{Result, bail};
use steer3d::ranks::{ConnectError, Launch, LaunchError, Launcher, Rank, World};

use crate::Command;
use crate::dataset::DatasetCommand;
use crate::output::SUCCESS;
use crate::predict::SOME_FAILED;

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
}

/// Whether this process tells an error of [`Processes::of`], which several have alike.
pub(crate) fn tells(error: &anyhow::Error) -> bool {
    if let Some(error) = error.downcast_ref::<LaunchError>() {
        return Launch::tells(error);
    }
    let rank = Launch::of_environment(Launcher::Auto).map_or(0, |launch| launch.rank);
    let first_is_missing = matches!(
        error.downcast_ref(),
        Some(ConnectError::Address { source, .. }) if source.kind() == ErrorKind::TimedOut
    );
    rank == usize::from(first_is_missing && rank > 0)
}

/// Ends the part of this process with an exit code: tells the others if it fails, and gives the exit code of all. `tell`
/// is called if this is the process to tell the error.
pub(crate) fn end(rank: &Rank, code: u8, tell: impl FnOnce()) -> u8 {
    if matches!(code, SUCCESS | SOME_FAILED) {
        return rank.meet().map_or_else(|e| e.failure().map_or(1, |f| f.code), |()| code);
    }
    let failure = rank.fail(code);
    if failure.rank == rank.index() {
        tell();
    }
    failure.code
}

/// The same for a command line that cannot be parsed.
pub(crate) fn end_unparsed(code: u8, tell: impl FnOnce()) -> u8 {
    let launch = Launch::of_environment(Launcher::Auto).unwrap_or(Launch::NONE);
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

/// How long a process that cannot do anything waits for the others.
const TO_END: Duration = Duration::from_secs(20);
