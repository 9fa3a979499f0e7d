use std::sync::atomic::{AtomicBool, Ordering};

use candle_core::Device;
use steer3d_report::Text;

/// How a call that takes long computes, reports and stops.
#[derive(Clone, Copy)]
pub struct Session<'a> {
    /// The device of the networks, and others that compute parts of each batch of a training; at least one.
    pub devices: &'a [Device],
    /// What hears of the progress.
    pub observer: &'a dyn Observer,
    /// Whether to stop: trainings look at it after every step, evaluations after every batch.
    pub stop: &'a Stop,
    /// The command line, for records and reports; empty for a program of your own.
    pub command: &'a str,
}

static CPU: [Device; 1] = [Device::Cpu];
static NEVER: Stop = Stop::new();

impl Default for Session<'_> {
    /// Computes on the CPU, reports to nobody, and goes on to the end.
    fn default() -> Self {
        Self { devices: &CPU, observer: &(), stop: &NEVER, command: "" }
    }
}

impl<'a> Session<'a> {
    /// The first device.
    pub(crate) fn device(&self) -> &'a Device {
        &self.devices[0]
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.stop.is_asked()
    }
}

/// Whether to stop, which another thread may ask for.
#[derive(Debug, Default)]
pub struct Stop {
    asked: AtomicBool,
    training: AtomicBool,
}

impl Stop {
    /// Not asked for.
    pub const fn new() -> Self {
        Self { asked: AtomicBool::new(false), training: AtomicBool::new(false) }
    }

    /// Asks to stop; gives whether that was asked for before.
    pub fn ask(&self) -> bool {
        self.asked.swap(true, Ordering::SeqCst)
    }

    /// Whether to stop.
    pub fn is_asked(&self) -> bool {
        self.asked.load(Ordering::SeqCst)
    }

    /// Whether a training runs, which loses what it has not saved if the process ends before it stops. Nothing else
    /// loses more than its last batch.
    pub fn has_to_save(&self) -> bool {
        self.training.load(Ordering::SeqCst)
    }

    /// [`has_to_save`](Self::has_to_save) until what is returned is dropped.
    pub(crate) fn wait(&self) -> Wait<'_> {
        self.training.store(true, Ordering::SeqCst);
        Wait(self)
    }
}

/// See [`Stop::wait`].
pub(crate) struct Wait<'a>(&'a Stop);

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        self.0.training.store(false, Ordering::SeqCst);
    }
}

/// Hears of the progress of experiments.
pub trait Observer {
    /// Takes a line of text.
    fn say(&self, line: &str);

    /// Tables, which an observer may fit to its terminal.
    fn show(&self, text: &Text) {
        self.say(&text.to_string());
    }

    /// Begins a part that takes long.
    fn begin(&self, label: &str) -> Box<dyn PartObserver + '_>;
}

/// Hears of the progress of one part, which ends when this is dropped.
pub trait PartObserver {
    /// The first `done` of `total` steps were done before now.
    fn start(&mut self, done: usize, total: usize);

    /// `done` of `total` steps are done.
    fn at(&mut self, done: usize, total: usize, message: &str);

    /// Takes a line of text.
    fn say(&self, line: &str);
}

/// Hears nothing.
impl Observer for () {
    fn say(&self, _line: &str) {}

    fn begin(&self, _label: &str) -> Box<dyn PartObserver + '_> {
        Box::new(())
    }
}

impl PartObserver for () {
    fn start(&mut self, _done: usize, _total: usize) {}

    fn at(&mut self, _done: usize, _total: usize, _message: &str) {}

    fn say(&self, _line: &str) {}
}
