//! What Ctrl-C and SIGTERM do.
//!
//! The first asks the command to stop. A training saves its state and an evaluation ends after its batch; whatever
//! does not stop by itself within the grace, a long batch say, is ended, since it loses nothing by that: journals and
//! finished parts are on disk. Only a training is waited for. The second signal ends the program at once. Either way
//! the programs that predict end too, and the exit code is 130.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use steer3d::eval::end_programs;
use steer3d::experiments::Stop;

/// Exit code of a run that the user interrupted.
pub(crate) const INTERRUPTED: u8 = 130;

/// Time to stop by itself.
const GRACE: Duration = Duration::from_millis(1500);

static STOP: Stop = Stop::new();

/// Whether the command looks at [`STOP`].
static WATCHED: AtomicBool = AtomicBool::new(false);

/// For a command that stops by itself when it is asked to.
pub(crate) fn stop() -> &'static Stop {
    WATCHED.store(true, Ordering::SeqCst);
    &STOP
}

/// Takes the signals, for the whole program.
#[cfg(unix)]
pub(crate) fn install() -> Result<()> {
    use signal_hook::consts::{SIGINT, SIGTERM};
    let mut signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM])?;
    thread::spawn(move || signals.forever().for_each(|_| interrupted()));
    Ok(())
}

#[cfg(not(unix))]
pub(crate) fn install() -> Result<()> {
    Ok(ctrlc::set_handler(interrupted)?)
}

fn interrupted() {
    if STOP.ask() || !WATCHED.load(Ordering::SeqCst) {
        end();
    }
    let asked = Instant::now();
    thread::spawn(move || {
        while asked.elapsed() < GRACE || STOP.has_to_save() {
            thread::sleep(Duration::from_millis(20));
        }
        end();
    });
}

/// Ends the program without the clean-up of libraries whose threads still compute.
fn end() {
    end_programs();
    #[cfg(unix)]
    signal_hook::low_level::exit(INTERRUPTED.into());
    #[cfg(not(unix))]
    std::process::exit(INTERRUPTED.into());
}
