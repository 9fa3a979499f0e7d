//! Replicas of a network that compute parts of one batch at the same time, each on a thread and a device of its own.

use std::cell::RefCell;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use candle_core::Result;

use crate::check::invalid;

const OP: &str = "batch on several devices";

/// In the message of an error that follows from that of another rank.
pub const ANOTHER_FAILED: &str = "another device failed";

/// One of the replicas that compute a batch together, in a fixed order.
#[derive(Clone, Debug)]
pub struct Rank {
    group: Arc<Group>,
    index: usize,
}

#[derive(Debug)]
struct Group {
    meeting: Mutex<Meeting>,
    changed: Condvar,
}

/// Numbers that all ranks give and then all take.
#[derive(Debug)]
struct Meeting {
    given: Vec<Option<Vec<f64>>>,
    all: Option<Arc<[Vec<f64>]>>,
    taken: usize,
    /// Whether a rank is through, and whether one failed.
    gone: bool,
    broken: bool,
}

thread_local! {
    static CURRENT: RefCell<Option<Rank>> = const { RefCell::new(None) };
}

/// Ends the part of a rank on this thread, and the group if the part was not finished.
struct Part<'a> {
    rank: &'a Rank,
    before: Option<Rank>,
    finished: bool,
}

impl Drop for Part<'_> {
    fn drop(&mut self) {
        CURRENT.set(self.before.take());
        let mut meeting = self.rank.meeting();
        meeting.gone = true;
        meeting.broken |= !self.finished;
        self.rank.group.changed.notify_all();
    }
}

impl Rank {
    /// The ranks of a group of `size`.
    pub fn group(size: usize) -> Vec<Self> {
        let given = vec![None; size];
        let meeting = Meeting { given, all: None, taken: 0, gone: false, broken: false };
        let group = Arc::new(Group { meeting: Mutex::new(meeting), changed: Condvar::new() });
        (0..size).map(|index| Self { group: Arc::clone(&group), index }).collect()
    }

    /// Runs `part` as this rank, on this thread: batch norms (forward and backward) take their statistics over the
    /// batches of all ranks. So these must run at the same time, and the same operations in the same order; if one
    /// fails or panics, those that wait for it fail.
    ///
    /// # Errors
    /// Those of `part`.
    pub fn run<T, E>(
        &self,
        part: impl FnOnce() -> std::result::Result<T, E>,
    ) -> std::result::Result<T, E> {
        let before = CURRENT.replace(Some(self.clone()));
        let mut running = Part { rank: self, before, finished: false };
        let result = part();
        running.finished = result.is_ok();
        result
    }

    /// As which rank this thread runs, if it does.
    pub(crate) fn current() -> Option<Self> {
        CURRENT.with_borrow(Clone::clone)
    }

    fn meeting(&self) -> MutexGuard<'_, Meeting> {
        self.group.meeting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(
        &'a self,
        meeting: MutexGuard<'a, Meeting>,
        go_on: impl Fn(&Meeting) -> bool,
    ) -> Result<MutexGuard<'a, Meeting>> {
        let waiting = |meeting: &mut Meeting| !meeting.broken && !go_on(meeting);
        let meeting = self.group.changed.wait_while(meeting, waiting);
        let meeting = meeting.unwrap_or_else(PoisonError::into_inner);
        if meeting.broken { Err(invalid(OP, ANOTHER_FAILED)) } else { Ok(meeting) }
    }

    /// What all ranks give, in their order.
    ///
    /// # Errors
    /// If another rank failed or gives other than as many numbers.
    pub(crate) fn gather(&self, values: Vec<f64>) -> Result<Arc<[Vec<f64>]>> {
        let len = values.len();
        // What was given last time may not have been taken by all.
        let mut meeting = self.wait(self.meeting(), |meeting| meeting.all.is_none())?;
        meeting.given[self.index] = Some(values);
        if meeting.given.iter().all(Option::is_some) {
            meeting.all = Some(meeting.given.iter_mut().filter_map(Option::take).collect());
            self.group.changed.notify_all();
        }
        let mut meeting = self.wait(meeting, |meeting| meeting.all.is_some() || meeting.gone)?;
        let different = || invalid(OP, "the devices run different layers");
        let all = meeting.all.clone().ok_or_else(different)?;
        meeting.taken += 1;
        if meeting.taken == all.len() {
            (meeting.all, meeting.taken) = (None, 0);
            self.group.changed.notify_all();
        }
        drop(meeting);
        if all.iter().any(|values| values.len() != len) {
            return Err(different());
        }
        Ok(all)
    }

    /// The sums over all ranks.
    ///
    /// # Errors
    /// As [`gather`](Self::gather).
    pub(crate) fn sum(&self, values: Vec<f64>) -> Result<Vec<f64>> {
        let len = values.len();
        let all = self.gather(values)?;
        Ok((0..len).map(|i| all.iter().map(|values| values[i]).sum()).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What each of three ranks gets.
    fn three(part: impl Fn(usize) -> Result<Vec<f64>> + Sync) -> Vec<Result<Vec<f64>>> {
        let part = &part;
        std::thread::scope(|scope| {
            let ranks = Rank::group(3).into_iter().enumerate();
            let threads: Vec<_> =
                ranks.map(|(i, rank)| scope.spawn(move || rank.run(|| part(i)))).collect();
            let panicked = |_| Err(invalid(OP, "panicked"));
            threads.into_iter().map(|thread| thread.join().unwrap_or_else(panicked)).collect()
        })
    }

    #[test]
    fn all_get_what_all_give_again_and_again() {
        let found = three(|i| {
            let rank = Rank::current().unwrap();
            let mut sums = vec![];
            for round in 0..200 {
                sums.extend(rank.sum(vec![(round + i) as f64; 1 + round % 3])?);
            }
            Ok(sums)
        });
        let expected: Vec<f64> =
            (0..200).flat_map(|round| vec![(3 * round + 3) as f64; 1 + round % 3]).collect();
        for found in found {
            assert_eq!(found.unwrap(), expected);
        }
        assert!(Rank::current().is_none());
    }

    #[test]
    fn nobody_waits_for_one_that_fails() {
        for panics in [false, true] {
            let found = three(|i| {
                let rank = Rank::current().unwrap();
                rank.sum(vec![1.0])?;
                if i == 1 {
                    assert!(!panics, "as wanted");
                    return Err(invalid(OP, "as wanted"));
                }
                rank.sum(vec![2.0])
            });
            let messages = found.iter().map(|result| result.as_ref().unwrap_err().to_string());
            let messages: Vec<String> = messages.collect();
            let own = if panics { "panicked" } else { "as wanted" };
            assert!(messages[1].contains(own), "{messages:?}");
            assert!(messages[0].contains("another device failed"), "{messages:?}");
            assert!(messages[2].contains("another device failed"), "{messages:?}");
        }
    }

    #[test]
    fn other_layers_are_noticed() {
        // One that fails breaks the group, which the others may see before they look at what was given.
        let noticed = |result: &Result<Vec<f64>>| {
            let message = result.as_ref().unwrap_err().to_string();
            assert!(message.contains("different layers") || message.contains(ANOTHER_FAILED));
            message.contains("different layers")
        };
        let found = three(|i| Rank::current().unwrap().sum(vec![0.0; 1 + i / 2]));
        assert!(found.iter().filter(|result| noticed(result)).count() > 0);
        let found = three(|i| {
            let rank = Rank::current().unwrap();
            (i..3).try_fold(vec![], |_, _| rank.sum(vec![]))
        });
        assert!(found[2].is_ok());
        assert!(found[..2].iter().filter(|result| noticed(result)).count() > 0);
    }
}
