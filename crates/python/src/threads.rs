//! Threads for what is computed.

use std::process;
use std::sync::{Mutex, OnceLock, PoisonError};

use pyo3::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuilder};

/// The process that imported the module.
static FIRST: OnceLock<u32> = OnceLock::new();

/// The threads of a forked process, and that process.
static FORKED: Mutex<Option<(u32, &'static ThreadPool)>> = Mutex::new(None);

/// To be called when the module is imported.
pub(crate) fn remember_process() {
    FIRST.get_or_init(process::id);
}

/// Computes without the lock of the interpreter. The threads of a process are not there in one that is forked from it,
/// such as a worker of PyTorch's `DataLoader`, which would wait for them for ever: that one gets some of its own.
pub(crate) fn compute<T: Send>(py: Python<'_>, work: impl FnOnce() -> T + Send) -> T {
    py.detach(|| match forked() {
        Some(threads) => threads.install(work),
        None => work(),
    })
}

fn forked() -> Option<&'static ThreadPool> {
    let here = process::id();
    if FIRST.get().is_none_or(|first| *first == here) {
        return None;
    }
    let mut forked = FORKED.lock().unwrap_or_else(PoisonError::into_inner);
    if forked.is_none_or(|(process, _)| process != here) {
        let threads = ThreadPoolBuilder::new().build().ok()?;
        *forked = Some((here, Box::leak(Box::new(threads))));
    }
    forked.map(|(_, threads)| threads)
}
