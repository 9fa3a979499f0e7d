//! What another thread still has to do for a rank.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// How many jobs are not done.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    count: Mutex<usize>,
    changed: Condvar,
}

/// A job, which is done when this is dropped.
#[derive(Debug)]
pub(crate) struct Job(Arc<Pending>);

impl Pending {
    fn count(&self) -> MutexGuard<'_, usize> {
        self.count.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn begin(self: &Arc<Self>) -> Job {
        *self.count() += 1;
        Job(Arc::clone(self))
    }

    /// Waits until all are done.
    pub(crate) fn wait(&self) {
        let done = self.changed.wait_while(self.count(), |count| *count > 0);
        drop(done.unwrap_or_else(PoisonError::into_inner));
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        *self.0.count() -= 1;
        self.0.changed.notify_all();
    }
}
