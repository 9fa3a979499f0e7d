//! Ranks that are the processes of an MPI library.

use std::collections::HashMap;
use std::mem::{ManuallyDrop, forget};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::{sleep, yield_now};
use std::time::{Duration, Instant};

use mpi::Count;
use mpi::collective::SystemOperation;
use mpi::datatype::{Partition, PartitionMut};
use mpi::request::{Request, Scope, scope};
use mpi::topology::{Color, SimpleCommunicator};
use mpi::traits::*;

use crate::bytes::Numbers;
use crate::collectives::{AllReduce, Collectives, Failure, RankError};
use crate::rank::{Rank, part};

/// Ends MPI when it is dropped, and all processes if a call has not ended.
pub(crate) struct Universe {
    _universe: mpi::environment::Universe,
    world: Arc<Process>,
}

impl Drop for Universe {
    fn drop(&mut self) {
        let wire = self.world.wire();
        let hangs = |process: &Arc<Process>| process.wire().hangs;
        if wire.hangs || wire.smaller.values().any(hangs) {
            wire.communicator.abort(1);
        }
    }
}

impl std::fmt::Debug for Universe {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Universe").field("world", &self.world).finish_non_exhaustive()
    }
}

/// Starts MPI; none if it is started.
pub(crate) fn connect(limit: Duration) -> Option<(Universe, Rank)> {
    let (universe, threading) = mpi::initialize_with_threading(mpi::Threading::Serialized)?;
    let any_thread = threading >= mpi::Threading::Serialized;
    let world = Arc::new(Process::of(universe.world(), limit, any_thread, Arc::default()));
    let rank = Rank::of(Arc::clone(&world) as Arc<dyn Collectives>);
    Some((Universe { _universe: universe, world }, rank))
}

/// One process of a communicator.
#[derive(Debug)]
struct Process {
    index: usize,
    size: usize,
    limit: Duration,
    /// Whether calls may come from several threads, one at a time.
    any_thread: bool,
    patient: AtomicBool,
    wire: Mutex<Wire>,
    broken: AtomicBool,
    /// The first failure that this process heard of, in any group.
    heard: Arc<OnceLock<Failure>>,
}

/// A communicator, the smaller ones made of it, and whether a call has not ended.
struct Wire {
    // Those that are not freed before the end are freed by MPI.
    communicator: ManuallyDrop<SimpleCommunicator>,
    smaller: HashMap<usize, Arc<Process>>,
    hangs: bool,
}

// SAFETY: MPI was started for threads that call it one at a time (`Threading::Serialized`), or gets all calls from one
// thread (`any_thread`); the mutex around the only handle of a communicator sees to that for one communicator, and a process
// uses one communicator at a time, since its ranks make the same calls in the same order, and a rank waits for what another
// thread does for it (`Pending`) before it makes a call.
#[allow(unsafe_code)]
unsafe impl Send for Wire {}

impl std::fmt::Debug for Wire {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Wire").field("hangs", &self.hangs).finish_non_exhaustive()
    }
}

/// Bytes that a call begins with: whether the rank fails, the length of what follows, and the start of it.
const FIRST: usize = 1024;
const HEAD: usize = 16;

/// Most bytes that a call of MPI gives to a process: their number is an `int`.
const MOST: usize = 1 << 30;

impl Process {
    fn of(
        communicator: SimpleCommunicator,
        limit: Duration,
        any_thread: bool,
        heard: Arc<OnceLock<Failure>>,
    ) -> Self {
        let (index, size) = (communicator.rank() as usize, communicator.size() as usize);
        let communicator = ManuallyDrop::new(communicator);
        let wire = Mutex::new(Wire { communicator, smaller: HashMap::new(), hangs: false });
        Self {
            index,
            size,
            limit,
            any_thread,
            wire,
            patient: AtomicBool::new(false),
            broken: AtomicBool::new(false),
            heard,
        }
    }

    fn wire(&self) -> MutexGuard<'_, Wire> {
        self.wire.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the end of a call. One that does not end in time stays with MPI.
    fn ends<'a, D: ?Sized, S: Scope<'a>>(&self, mut request: Request<'a, D, S>) -> bool {
        // The first rank tells before the others do.
        let limit = self.limit + Duration::from_millis(100 * self.index as u64);
        let begin = Instant::now();
        loop {
            match request.test() {
                Ok(_) => return true,
                Err(going_on) => request = going_on,
            }
            match begin.elapsed() {
                waited if waited > limit && !self.patient.load(Ordering::SeqCst) => break,
                waited if waited > Duration::from_millis(20) => sleep(Duration::from_micros(200)),
                _ => yield_now(),
            }
        }
        // SAFETY: the request is given up, and the caller never frees the buffers of a call that has not ended.
        #[allow(unsafe_code)]
        unsafe {
            request.into_raw();
        }
        false
    }

    fn timed_out(&self, wire: &mut Wire) -> RankError {
        wire.hangs = true;
        RankError::TimedOut { rank: self.index, size: self.size, limit: self.limit }
    }

    /// How a call begins: the lengths of the bytes of all ranks and the first of them, or the first rank that fails.
    fn begin(
        &self,
        wire: &mut Wire,
        own: Result<&[u8], Failure>,
    ) -> Result<(Vec<usize>, Vec<Vec<u8>>), RankError> {
        if let Some(failure) = self.heard.get().filter(|_| self.broken.load(Ordering::SeqCst)) {
            return Err(RankError::Failed(*failure));
        }
        if wire.hangs {
            return Err(self.timed_out(wire));
        }
        let mut first = vec![0; FIRST];
        match own {
            Ok(bytes) => {
                let start = bytes.len().min(FIRST - HEAD);
                first[8..HEAD].copy_from_slice(&(bytes.len() as u64).to_le_bytes());
                first[HEAD..HEAD + start].copy_from_slice(&bytes[..start]);
            }
            Err(Failure { rank, code }) => {
                first[..8].copy_from_slice(&(1 + u64::from(code)).to_le_bytes());
                first[8..HEAD].copy_from_slice(&(rank as u64).to_le_bytes());
            }
        }
        let mut all = vec![0; FIRST * self.size];
        let communicator = &*wire.communicator;
        let ended = scope(|scope| {
            self.ends(communicator.immediate_all_gather_into(scope, &first[..], &mut all[..]))
        });
        if !ended {
            forget((first, all));
            return Err(self.timed_out(wire));
        }
        let number = |head: &[u8]| u64::from_le_bytes(std::array::from_fn(|i| head[i]));
        let heads = || all.chunks_exact(FIRST);
        if let Some(head) = heads().find(|head| number(head) > 0) {
            let (rank, code) = (number(&head[8..]) as usize, (number(head) - 1) as u8);
            self.broken.store(true, Ordering::SeqCst);
            return Err(RankError::Failed(*self.heard.get_or_init(|| Failure { rank, code })));
        }
        let lengths: Vec<usize> = heads().map(|head| number(&head[8..]) as usize).collect();
        let start =
            |(head, &length): (&[u8], &usize)| head[HEAD..FIRST.min(HEAD + length)].to_vec();
        let starts = heads().zip(&lengths).map(start).collect();
        Ok((lengths, starts))
    }

    /// The bytes of all ranks, of these lengths, one after the other.
    fn gather_all(
        &self,
        wire: &mut Wire,
        own: &[u8],
        lengths: &[usize],
    ) -> Result<Vec<u8>, RankError> {
        let (counts, places) = layout(lengths);
        let (count, own, mut all) =
            (own.len(), padded(own.to_vec()), padded(vec![0; lengths.iter().sum()]));
        let mut parts = PartitionMut::new(&mut all[..], &counts[..], &places[..]);
        let communicator = &*wire.communicator;
        let ended = scope(|scope| {
            let call =
                communicator.immediate_all_gather_varcount_into(scope, &own[..count], &mut parts);
            self.ends(call)
        });
        if !ended {
            forget((own, all, counts, places));
            return Err(self.timed_out(wire));
        }
        Ok(all)
    }

    /// The bytes that all ranks have for this one, one after the other.
    fn exchange_all(
        &self,
        wire: &mut Wire,
        own: Vec<u8>,
        [given, taken]: [&[usize]; 2],
    ) -> Result<Vec<u8>, RankError> {
        let (counts, places) = layout(taken);
        let (own_counts, own_places) = layout(given);
        let (own, mut all) = (padded(own), padded(vec![0; taken.iter().sum()]));
        let to_send = Partition::new(&own[..], &own_counts[..], &own_places[..]);
        let mut parts = PartitionMut::new(&mut all[..], &counts[..], &places[..]);
        let communicator = &*wire.communicator;
        let ended = scope(|scope| {
            let call = communicator.immediate_all_to_all_varcount_into(scope, &to_send, &mut parts);
            self.ends(call)
        });
        if !ended {
            forget((own, all, counts, places, own_counts, own_places));
            return Err(self.timed_out(wire));
        }
        Ok(all)
    }

    /// Puts the sums that MPI takes into the place of values.
    fn reduce<T: Copy + Equivalence>(&self, values: &mut [T]) -> Result<(), RankError> {
        let wire = &mut *self.wire();
        let count = (values.len() as u64).to_le_bytes();
        let (_, counts) = self.begin(wire, Ok(&count))?;
        if counts.iter().any(|other| *other != count) {
            return Err(RankError::Different);
        }
        for values in values.chunks_mut(MOST / size_of::<f64>()) {
            let (own, mut sums) = (values.to_vec(), values.to_vec());
            let communicator = &*wire.communicator;
            let ended = scope(|scope| {
                let (own, sums, add) = (&own[..], &mut sums[..], SystemOperation::sum());
                self.ends(communicator.immediate_all_reduce_into(scope, own, sums, add))
            });
            if !ended {
                forget((own, sums));
                return Err(self.timed_out(wire));
            }
            values.copy_from_slice(&sums);
        }
        Ok(())
    }
}

/// With a byte more: a vector without bytes lies at address 1, which to MPI is `MPI_IN_PLACE`.
fn padded(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.push(0);
    bytes
}

/// Numbers of bytes and where each part begins, as MPI takes them.
fn layout(lengths: &[usize]) -> (Vec<Count>, Vec<Count>) {
    let places = lengths.iter().scan(0, |place, &length| {
        *place += length;
        Some((*place - length) as Count)
    });
    (lengths.iter().map(|&length| length as Count).collect(), places.collect())
}

impl Collectives for Process {
    fn index(&self) -> usize {
        self.index
    }

    fn size(&self) -> usize {
        self.size
    }

    fn gather(&self, bytes: Vec<u8>) -> Result<Arc<[Vec<u8>]>, RankError> {
        let wire = &mut *self.wire();
        let (lengths, mut all) = self.begin(wire, Ok(&bytes))?;
        let longest = lengths.iter().copied().max().unwrap_or(0);
        let step = MOST / self.size;
        let mut done = FIRST - HEAD;
        while done < longest {
            let end = |length: usize| length.clamp(done, done + step);
            let rest: Vec<usize> = lengths.iter().map(|&length| end(length) - done).collect();
            let own = bytes.get(done..end(bytes.len())).unwrap_or_default();
            let mut more = &self.gather_all(wire, own, &rest)?[..];
            for (all, length) in all.iter_mut().zip(rest) {
                let (part, others) = more.split_at(length);
                all.extend(part);
                more = others;
            }
            done += step;
        }
        Ok(all.into())
    }

    fn exchange(&self, parts: &[Vec<u8>]) -> Result<Vec<Vec<u8>>, RankError> {
        let lengths: Vec<u8> =
            parts.iter().flat_map(|part| (part.len() as u64).to_le_bytes()).collect();
        let all = self.gather(lengths)?;
        let number = |bytes: &Vec<u8>, at: usize| {
            bytes.as_chunks::<8>().0.get(at).map(|number| u64::from_le_bytes(*number) as usize)
        };
        let taken: Option<Vec<usize>> = all.iter().map(|bytes| number(bytes, self.index)).collect();
        let taken = taken.ok_or(RankError::Different)?;
        let total =
            |bytes: &Vec<u8>| (0..self.size).filter_map(|i| number(bytes, i)).sum::<usize>();
        // All ranks take as many steps.
        let steps =
            all.iter().map(|bytes| total(bytes).div_ceil(MOST / self.size)).max().unwrap_or(0);
        let wire = &mut *self.wire();
        let mut given = vec![vec![]; self.size];
        for step in 0..steps {
            let piece = |length: usize| part(length, step, steps);
            let own: Vec<u8> = parts.iter().flat_map(|p| &p[piece(p.len())]).copied().collect();
            let own_lengths: Vec<usize> = parts.iter().map(|p| piece(p.len()).len()).collect();
            let lengths: Vec<usize> = taken.iter().map(|&length| piece(length).len()).collect();
            let mut all = &self.exchange_all(wire, own, [&own_lengths, &lengths])?[..];
            for (given, length) in given.iter_mut().zip(lengths) {
                let (part, others) = all.split_at(length);
                given.extend(part);
                all = others;
            }
        }
        Ok(given)
    }

    fn all_reduce(&self) -> Option<&dyn AllReduce> {
        Some(self)
    }

    fn takes_any_thread(&self) -> bool {
        self.any_thread
    }

    fn first(&self, count: usize) -> Result<Arc<dyn Collectives>, RankError> {
        if let Some(known) = self.wire().smaller.get(&count) {
            return Ok(Arc::clone(known) as Arc<dyn Collectives>);
        }
        // No rank is late for what has no limit of time.
        self.gather(vec![])?;
        let mut wire = self.wire();
        let color = Color::with_value((self.index >= count).into());
        let made = wire.communicator.split_by_color(color).ok_or(RankError::Different)?;
        let made = Self::of(made, self.limit, self.any_thread, Arc::clone(&self.heard));
        let made = Arc::new(made);
        wire.smaller.insert(count, Arc::clone(&made));
        Ok(made)
    }

    fn be_patient(&self, patient: bool) {
        self.patient.store(patient, Ordering::SeqCst);
    }

    fn fail(&self, code: u8) -> Failure {
        let own = Failure { rank: self.index, code };
        let first = self.heard.get().copied().unwrap_or(own);
        match self.begin(&mut self.wire(), Err(first)) {
            Err(RankError::Failed(failure)) => failure,
            _ => own,
        }
    }
}

impl AllReduce for Process {
    fn add_up(&self, numbers: Numbers<'_>) -> Result<(), RankError> {
        match numbers {
            Numbers::F32(values) => self.reduce(values),
            Numbers::F64(values) => self.reduce(values),
        }
    }
}
