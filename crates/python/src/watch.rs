use std::ops::ControlFlow;
use std::sync::Mutex;

use pyo3::prelude::*;
use steer3d::experiments::{Observer, PartObserver, Stop};

use crate::errors::Result;

/// Tells a callable (label, done, total, message) how far a call has come, and stops the call when that raises or Ctrl-C
/// was pressed.
pub(crate) struct Watch {
    hears: Option<Py<PyAny>>,
    raised: Mutex<Option<PyErr>>,
    pub(crate) stop: Stop,
}

impl Watch {
    pub(crate) fn new(hears: Option<Py<PyAny>>) -> Self {
        Self { hears, raised: Mutex::new(None), stop: Stop::new() }
    }

    pub(crate) fn at(
        &self,
        label: &str,
        done: usize,
        total: usize,
        message: &str,
    ) -> ControlFlow<()> {
        let told = Python::attach(|py| -> PyResult<()> {
            py.check_signals()?;
            if let Some(hears) = &self.hears {
                hears.call1(py, (label, done, total, message))?;
            }
            Ok(())
        });
        if let Err(error) = told {
            self.stop.ask();
            if let Ok(mut raised) = self.raised.lock() {
                raised.get_or_insert(error);
            }
        }
        if self.stop.is_asked() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    /// What a call gave, or what stopped it.
    pub(crate) fn finish<T>(self, result: Result<T>) -> Result<T> {
        match self.raised.into_inner() {
            Ok(Some(raised)) => Err(raised.into()),
            _ => result,
        }
    }
}

impl Observer for Watch {
    fn say(&self, line: &str) {
        let _ = self.at("", 0, 0, line);
    }

    fn begin(&self, label: &str) -> Box<dyn PartObserver + '_> {
        Box::new(Part { watch: self, label: label.to_owned() })
    }
}

struct Part<'a> {
    watch: &'a Watch,
    label: String,
}

impl PartObserver for Part<'_> {
    fn start(&mut self, done: usize, total: usize) {
        let _ = self.watch.at(&self.label, done, total, "");
    }

    fn at(&mut self, done: usize, total: usize, message: &str) {
        let _ = self.watch.at(&self.label, done, total, message);
    }

    fn say(&self, line: &str) {
        self.watch.say(line);
    }
}
