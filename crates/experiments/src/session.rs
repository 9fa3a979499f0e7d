use std::sync::atomic::{AtomicBool, Ordering};

use candle_core::Device;

/// How a call that takes long computes, reports and stops.
#[derive(Clone, Copy)]
pub struct Session<'a> {
    /// The device of the networks, and others that compute parts of each batch of a training; at least one.
    pub devices: &'a [Device],
    /// What hears of the progress.
    pub observer: &'a dyn Observer,
    /// Whether to stop: trainings look at it after every step.
    pub stop: &'a AtomicBool,
    /// The command line, for records and reports; empty for a program of your own.
    pub command: &'a str,
}

static CPU: [Device; 1] = [Device::Cpu];
static NEVER: AtomicBool = AtomicBool::new(false);

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
        self.stop.load(Ordering::Relaxed)
    }
}

/// Hears of the progress of experiments.
pub trait Observer {
    /// Takes a line of text.
    fn say(&self, line: &str);

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
