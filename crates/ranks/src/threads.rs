//! Ranks that are threads of this process.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crate::collectives::{Collectives, Failure, RankError};

/// One of the threads of a group.
#[derive(Debug)]
pub(crate) struct Thread {
    group: Arc<Group>,
    index: usize,
    /// How many smaller groups it asked for.
    asked: AtomicUsize,
}

#[derive(Debug)]
struct Group {
    size: usize,
    meeting: Mutex<Meeting>,
    changed: Condvar,
    /// The smaller groups, each by how many were asked for before.
    smaller: Mutex<HashMap<usize, Arc<Group>>>,
}

/// Bytes that all ranks give and then all take.
#[derive(Debug)]
struct Meeting {
    given: Vec<Option<Vec<u8>>>,
    all: Option<Arc<[Vec<u8>]>>,
    taken: usize,
    /// Whether a rank is through, and whether one failed.
    gone: bool,
    broken: Option<Failure>,
}

impl Group {
    fn new(size: usize) -> Arc<Self> {
        let given = vec![None; size];
        let meeting = Meeting { given, all: None, taken: 0, gone: false, broken: None };
        let (meeting, smaller) = (Mutex::new(meeting), Mutex::default());
        Arc::new(Self { size, meeting, changed: Condvar::new(), smaller })
    }
}

impl Thread {
    /// The threads of a group of `size`.
    pub(crate) fn group(size: usize) -> Vec<Self> {
        let group = Group::new(size);
        (0..size).map(|index| Self::of(&group, index)).collect()
    }

    fn of(group: &Arc<Group>, index: usize) -> Self {
        Self { group: Arc::clone(group), index, asked: AtomicUsize::new(0) }
    }

    fn meeting(&self) -> MutexGuard<'_, Meeting> {
        self.group.meeting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(
        &'a self,
        meeting: MutexGuard<'a, Meeting>,
        go_on: impl Fn(&Meeting) -> bool,
    ) -> Result<MutexGuard<'a, Meeting>, RankError> {
        let waiting = |meeting: &mut Meeting| meeting.broken.is_none() && !go_on(meeting);
        let meeting = self.group.changed.wait_while(meeting, waiting);
        let meeting = meeting.unwrap_or_else(PoisonError::into_inner);
        match meeting.broken {
            // What all have given they may still take.
            Some(failure) if !go_on(&meeting) => Err(RankError::Failed(failure)),
            _ => Ok(meeting),
        }
    }
}

impl Collectives for Thread {
    fn index(&self) -> usize {
        self.index
    }

    fn size(&self) -> usize {
        self.group.size
    }

    fn gather(&self, bytes: Vec<u8>) -> Result<Arc<[Vec<u8>]>, RankError> {
        // What was given last time may not have been taken by all.
        let mut meeting = self.wait(self.meeting(), |meeting| meeting.all.is_none())?;
        meeting.given[self.index] = Some(bytes);
        if meeting.given.iter().all(Option::is_some) {
            meeting.all = Some(meeting.given.iter_mut().filter_map(Option::take).collect());
            self.group.changed.notify_all();
        }
        let mut meeting = self.wait(meeting, |meeting| {
            meeting.all.is_some() || meeting.gone && meeting.broken.is_none()
        })?;
        let all = meeting.all.clone().ok_or(RankError::Different)?;
        meeting.taken += 1;
        if meeting.taken == all.len() {
            (meeting.all, meeting.taken) = (None, 0);
            self.group.changed.notify_all();
        }
        Ok(all)
    }

    fn first(&self, count: usize) -> Result<Arc<dyn Collectives>, RankError> {
        let number = self.asked.fetch_add(1, Ordering::SeqCst);
        let mut smaller = self.group.smaller.lock().unwrap_or_else(PoisonError::into_inner);
        let group = smaller.entry(number).or_insert_with(|| Group::new(count));
        Ok(Arc::new(Self::of(group, self.index)))
    }

    fn fail(&self, code: u8) -> Failure {
        let mut meeting = self.meeting();
        let failure = *meeting.broken.get_or_insert(Failure { rank: self.index, code });
        self.group.changed.notify_all();
        failure
    }

    fn leave(&self, finished: bool) {
        if !finished {
            self.fail(1);
        }
        self.meeting().gone = true;
        self.group.changed.notify_all();
    }
}
