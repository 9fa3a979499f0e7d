use std::cell::RefCell;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::bytes::{Number, pack, unpack};
use crate::collectives::{Collectives, Failure, RankError};
use crate::pending::Pending;
use crate::threads::Thread;

/// One of the ranks that compute something together, in a fixed order: threads of this process, or processes.
///
/// What takes part of a rank calls the same methods on all ranks, in the same order. A rank that is alone is its whole
/// group, so nothing else is needed for one process.
#[derive(Clone, Debug)]
pub struct Rank {
    group: Option<Group>,
    items_before: usize,
    /// Whether it takes no more part in the group when what it runs has ended.
    leaves: bool,
}

/// The others, and what was exchanged with them.
#[derive(Clone, Debug)]
struct Group {
    collectives: Arc<dyn Collectives>,
    traffic: Arc<Mutex<Traffic>>,
    /// What another thread does for this rank.
    pending: Arc<Pending>,
}

/// What a rank has exchanged with the others.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Traffic {
    /// How often all ranks, or some first of them, have exchanged something.
    pub messages: u64,
    /// Bytes that this rank gave.
    pub bytes: u64,
    /// How long that took, the waiting for other ranks included.
    pub time: Duration,
}

impl Group {
    /// What calls are made of, when the other thread is done.
    fn settled(&self) -> &dyn Collectives {
        self.pending.wait();
        &*self.collectives
    }

    /// A call that gives `bytes` to the others.
    fn call<T>(&self, bytes: usize, call: impl FnOnce(&dyn Collectives) -> T) -> T {
        let collectives = self.settled();
        let begin = Instant::now();
        let result = call(collectives);
        let mut traffic = self.traffic.lock().unwrap_or_else(PoisonError::into_inner);
        traffic.messages += 1;
        traffic.bytes += bytes as u64;
        traffic.time += begin.elapsed();
        result
    }
}

/// Which part of every batch is a rank's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    rank: usize,
    size: usize,
}

impl Share {
    /// All of it.
    pub const WHOLE: Self = Self { rank: 0, size: 1 };

    /// The part of rank `rank` of `size`.
    pub fn new(rank: usize, size: usize) -> Self {
        Self { rank, size }
    }

    /// The places of the rank's items in a batch of `items`. All parts are of about the same size; where there are fewer
    /// items than ranks, the first ranks have one each.
    pub fn of(self, items: usize) -> Range<usize> {
        let parts = self.size.min(items).max(1);
        if self.rank < parts { part(items, self.rank, parts) } else { items..items }
    }
}

thread_local! {
    static CURRENT: RefCell<Rank> = const { RefCell::new(Rank::ALONE) };
}

/// Ends the part of a rank on this thread.
struct Part<'a> {
    rank: &'a Rank,
    before: Rank,
    finished: bool,
}

impl Drop for Part<'_> {
    fn drop(&mut self) {
        CURRENT.set(self.before.clone());
        if let Some(group) = self.rank.group.as_ref().filter(|_| self.rank.leaves) {
            group.settled().leave(self.finished);
        }
    }
}

impl Rank {
    /// The only rank.
    pub const ALONE: Self = Self { group: None, items_before: 0, leaves: false };

    /// The ranks of a group of `size` threads.
    pub fn threads(size: usize) -> Vec<Self> {
        let rank = |thread| Self { leaves: true, ..Self::of(Arc::new(thread)) };
        Thread::group(size).into_iter().map(rank).collect()
    }

    /// A rank that is connected with the others by `group`, in which it stays when what it [runs](Self::run) ends: it has
    /// to [`fail`](Self::fail) if it does not go on.
    pub fn of(collectives: Arc<dyn Collectives>) -> Self {
        let group = Group { collectives, traffic: Arc::default(), pending: Arc::default() };
        Self { group: Some(group), items_before: 0, leaves: false }
    }

    /// What it has exchanged so far.
    pub fn traffic(&self) -> Traffic {
        let of = |group: &Group| *group.traffic.lock().unwrap_or_else(PoisonError::into_inner);
        self.group.as_ref().map(of).unwrap_or_default()
    }

    /// As which rank this thread runs: alone, if nothing else was said.
    pub fn current() -> Self {
        CURRENT.with_borrow(Clone::clone)
    }

    /// Runs `part` as this rank, on this thread. What it calls there takes part with the other ranks: batch norms take
    /// their statistics over the batches of all (forward and backward), trainings, evaluations, predictions and builds
    /// of datasets do their share. So the others must run the same at the same time; if one fails or panics, those that
    /// wait for it fail.
    ///
    /// # Errors
    /// Those of `part`.
    pub fn run<T, E>(&self, part: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
        let before = CURRENT.replace(self.clone());
        let mut running = Part { rank: self, before, finished: false };
        let result = part();
        running.finished = result.is_ok();
        result
    }

    /// The same rank, whose part of a batch comes after so many items of other ranks.
    #[must_use]
    pub fn after_items(self, items_before: usize) -> Self {
        Self { items_before, ..self }
    }

    /// How many items of the batch come before those of this rank.
    pub fn items_before(&self) -> usize {
        self.items_before
    }

    /// The place among all ranks, from 0.
    pub fn index(&self) -> usize {
        self.group.as_ref().map_or(0, |group| group.collectives.index())
    }

    /// How many ranks there are.
    pub fn size(&self) -> usize {
        self.group.as_ref().map_or(1, |group| group.collectives.size())
    }

    /// Its part of every batch.
    pub fn share(&self) -> Share {
        Share::new(self.index(), self.size())
    }

    /// Whether it is the first rank, which writes what all have in common.
    pub fn is_first(&self) -> bool {
        self.index() == 0
    }

    /// Whether there is no other rank.
    pub fn is_alone(&self) -> bool {
        self.size() == 1
    }

    /// What all ranks give, in their order.
    ///
    /// # Errors
    /// As [`Collectives::gather`].
    pub fn gather(&self, bytes: Vec<u8>) -> Result<Arc<[Vec<u8>]>, RankError> {
        match &self.group {
            None => Ok(Arc::new([bytes])),
            Some(group) => group.call(bytes.len(), |all| all.gather(bytes)),
        }
    }

    /// As many numbers of each rank, in their order.
    ///
    /// # Errors
    /// As [`gather`](Self::gather), and if a rank gives another number of them.
    pub fn gather_numbers(&self, values: &[f64]) -> Result<Vec<Vec<f64>>, RankError> {
        let all = self.gather(f64::to_bytes(values))?;
        let all: Vec<Vec<f64>> = all.iter().map(|bytes| f64::of_bytes(bytes)).collect();
        let same = all.iter().all(|given| given.len() == values.len());
        same.then_some(all).ok_or(RankError::Different)
    }

    /// The sums over all ranks, added in their order.
    ///
    /// # Errors
    /// As [`gather_numbers`](Self::gather_numbers).
    pub fn sum(&self, values: &[f64]) -> Result<Vec<f64>, RankError> {
        let all = self.gather_numbers(values)?;
        Ok((0..values.len()).map(|i| all.iter().map(|values| values[i]).sum()).collect())
    }

    /// Puts the sums over all ranks in the place of many numbers, added in the order of the ranks. Each rank adds up a
    /// share of them, so that it sends and receives about twice as many bytes as there are, on any number of ranks.
    ///
    /// # Errors
    /// As [`gather_numbers`](Self::gather_numbers).
    pub fn add_up<T: Number>(&self, values: &mut [T]) -> Result<(), RankError> {
        let (Some(group), count, size) = (&self.group, values.len(), self.size()) else {
            return Ok(());
        };
        let parts: Vec<_> = (0..size).map(|i| T::to_bytes(&values[part(count, i, size)])).collect();
        let given = group.call(size_of_val(values), |all| all.exchange(&parts))?;
        let mut given = given.into_iter().map(|bytes| T::of_bytes(&bytes));
        let mut sums = given.next().unwrap_or_default();
        for given in given {
            if given.len() != sums.len() {
                return Err(RankError::Different);
            }
            sums.iter_mut().zip(given).for_each(|(sum, value)| *sum += value);
        }
        let all: Vec<T> =
            self.gather(T::to_bytes(&sums))?.iter().flat_map(|bytes| T::of_bytes(bytes)).collect();
        if all.len() != count {
            return Err(RankError::Different);
        }
        values.copy_from_slice(&all);
        Ok(())
    }

    /// As [`add_up`](Self::add_up), in the order of what connects the ranks where that adds up by itself: the same on all
    /// ranks, and to rounding what `add_up` gives.
    ///
    /// # Errors
    /// As [`add_up`](Self::add_up).
    pub fn add_up_fast<T: Number>(&self, values: &mut [T]) -> Result<(), RankError> {
        let group = self.group.as_ref();
        match group.and_then(|group| Some((group, group.collectives.all_reduce()?))) {
            Some((group, all)) => {
                group.call(size_of_val(values), |_| all.add_up(T::numbers(values)))
            }
            None => self.add_up(values),
        }
    }

    /// Whether what connects the ranks adds up by itself: MPI does.
    pub fn has_fast_sums(&self) -> bool {
        self.group.as_ref().is_some_and(|group| group.collectives.all_reduce().is_some())
    }

    /// This rank for another thread, and what calls of this one wait for; none where one thread has to make all calls.
    pub(crate) fn beside(&self) -> Option<(Self, Arc<Pending>)> {
        let group = self.group.as_ref().filter(|group| group.collectives.takes_any_thread())?;
        let other = Group { pending: Arc::default(), ..group.clone() };
        let rank = Self { group: Some(other), items_before: 0, leaves: false };
        Some((rank, Arc::clone(&group.pending)))
    }

    /// What the first rank makes, on all ranks.
    ///
    /// # Errors
    /// As [`gather`](Self::gather), and those of `make`.
    pub fn from_first<E: From<RankError>>(
        &self,
        make: impl FnOnce() -> Result<Vec<u8>, E>,
    ) -> Result<Vec<u8>, E> {
        let own = if self.is_first() { make()? } else { vec![] };
        if self.is_alone() {
            return Ok(own);
        }
        Ok(self.gather(own)?[0].clone())
    }

    /// What `make` makes of each of `count` jobs, in their order, on all ranks; job i is done by rank i modulo
    /// [`size`](Self::size).
    ///
    /// # Errors
    /// As [`gather`](Self::gather), and those of `make`.
    pub fn deal<E: From<RankError>>(
        &self,
        count: usize,
        make: impl FnMut(usize) -> Result<Vec<u8>, E>,
    ) -> Result<Vec<Vec<u8>>, E> {
        let own = self.own(count).map(make).collect::<Result<Vec<_>, E>>()?;
        if self.is_alone() {
            return Ok(own);
        }
        let all = self.gather(pack(&own))?;
        let all = all.iter().map(|packed| Some(unpack(packed)?.into_iter()));
        let mut all: Vec<_> = all.collect::<Option<_>>().ok_or(RankError::Different)?;
        let size = self.size();
        let made = (0..count).map(|i| all[i % size].next());
        Ok(made.collect::<Option<_>>().ok_or(RankError::Different)?)
    }

    /// The jobs of `count` that are this rank's: every [`size`](Self::size)-th.
    pub fn own(&self, count: usize) -> impl Iterator<Item = usize> + use<> {
        (self.index()..count).step_by(self.size())
    }

    /// Waits for all ranks.
    ///
    /// # Errors
    /// As [`gather`](Self::gather).
    pub fn meet(&self) -> Result<(), RankError> {
        self.gather(vec![]).map(|_| ())
    }

    /// Waits for all ranks, however long they take. One that ends meanwhile is noticed where its launcher or the
    /// connection tells.
    ///
    /// # Errors
    /// As [`gather`](Self::gather).
    pub fn meet_patiently(&self) -> Result<(), RankError> {
        let patient = |patient| {
            self.group.iter().for_each(|group| group.collectives.be_patient(patient));
        };
        patient(true);
        let met = self.meet();
        patient(false);
        met
    }

    /// Whether any rank says yes.
    ///
    /// # Errors
    /// As [`gather`](Self::gather).
    pub fn any(&self, yes: bool) -> Result<bool, RankError> {
        if self.is_alone() {
            return Ok(yes);
        }
        Ok(self.gather(vec![yes.into()])?.iter().any(|said| said == &[1]))
    }

    /// Checks that all ranks have the same `bytes`, which are named `what`.
    ///
    /// # Errors
    /// As [`gather`](Self::gather), and [`RankError::Disagree`] on all ranks.
    pub fn agree(&self, what: &str, bytes: &[u8]) -> Result<(), RankError> {
        if self.is_alone() {
            return Ok(());
        }
        let all = self.gather(bytes.to_vec())?;
        match all.iter().position(|bytes| *bytes != all[0]) {
            Some(rank) => Err(RankError::Disagree { what: what.to_owned(), rank }),
            None => Ok(()),
        }
    }

    /// This rank in the group of the first `count`, or none if it is not one of them. All ranks ask for it.
    ///
    /// # Errors
    /// As [`gather`](Self::gather).
    pub fn among_first(&self, count: usize) -> Result<Option<Self>, RankError> {
        match &self.group {
            Some(group) if count < self.size() => {
                let collectives = group.settled().first(count)?;
                let group = Some(Group { collectives, ..group.clone() });
                let rank = Self { group, items_before: 0, leaves: true };
                Ok((self.index() < count).then_some(rank))
            }
            _ => Ok(Some(Self { leaves: false, ..self.clone() })),
        }
    }

    /// Tells the other ranks that this one fails, with its exit code. Gives the first failure of all, which may be that
    /// of another rank.
    pub fn fail(&self, code: u8) -> Failure {
        let own = Failure { rank: self.index(), code };
        self.group.as_ref().map_or(own, |group| group.settled().fail(code))
    }
}

/// Part `i` of `count` things in `parts` parts of about the same size.
pub(crate) fn part(count: usize, i: usize, parts: usize) -> Range<usize> {
    i * count / parts..(i + 1) * count / parts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adder::Adder;
    use crate::bytes::Numbers;
    use crate::collectives::AllReduce;
    use crate::launch::{Launch, Launcher, Master};
    use crate::tcp::Process;

    /// What each rank gets; none for one that panics.
    fn each<T: Send>(
        ranks: Vec<Rank>,
        part: &(impl Fn(Rank) -> Result<T, RankError> + Sync),
    ) -> Vec<Option<Result<T, RankError>>> {
        std::thread::scope(|scope| {
            let start = |rank: Rank| scope.spawn(move || rank.run(|| part(Rank::current())));
            let threads: Vec<_> = ranks.into_iter().map(start).collect();
            threads.into_iter().map(|thread| thread.join().ok()).collect()
        })
    }

    const MINUTE: Duration = Duration::from_secs(60);

    /// Ranks that are connected over TCP.
    fn connected(size: usize, limit: Duration) -> Vec<Rank> {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let master = &Master { address: "127.0.0.1".into(), port };
        let connect = |rank: usize| {
            let launch = Launch { rank, size, launcher: Launcher::Torchrun, ..Launch::NONE };
            let process = Process::connect(&launch, master, limit).unwrap();
            Rank { leaves: true, ..Rank::of(Arc::new(process)) }
        };
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..size).map(|i| scope.spawn(move || connect(i))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        })
    }

    /// The same of threads and of processes.
    fn all<T: Send + PartialEq + std::fmt::Debug>(
        size: usize,
        part: impl Fn(Rank) -> Result<T, RankError> + Sync,
    ) -> Vec<Option<Result<T, RankError>>> {
        let found = each(Rank::threads(size), &part);
        assert_eq!(each(connected(size, MINUTE), &part), found, "over TCP");
        found
    }

    fn well<T: Send + PartialEq + std::fmt::Debug>(
        size: usize,
        part: impl Fn(Rank) -> Result<T, RankError> + Sync,
    ) -> Vec<T> {
        all(size, part).into_iter().map(|found| found.unwrap().unwrap()).collect()
    }

    #[test]
    fn all_get_what_all_give_again_and_again() {
        let found = well(3, |rank| {
            let mut sums = vec![];
            for round in 0..200 {
                sums.extend(rank.sum(&vec![(round + rank.index()) as f64; 1 + round % 3])?);
            }
            Ok(sums)
        });
        let expected: Vec<f64> =
            (0..200).flat_map(|round| vec![(3 * round + 3) as f64; 1 + round % 3]).collect();
        assert_eq!(found, vec![expected; 3]);
        assert!(Rank::current().is_alone());
    }

    #[test]
    fn shares_are_the_batch_in_order() {
        for (items, size) in [(5, 1), (5, 2), (5, 3), (5, 5), (5, 9), (0, 2)] {
            let shares = (0..size).map(|rank| Share::new(rank, size).of(items));
            let shares: Vec<Range<usize>> = shares.collect();
            assert!(shares.iter().cloned().flatten().eq(0..items));
            let few = |share: &&Range<usize>| share.len() < items / size.max(1).min(items.max(1));
            assert_eq!(shares[..size.min(items)].iter().filter(few).count(), 0);
        }
    }

    #[test]
    fn sums_are_those_in_the_order_of_the_ranks() {
        let given = |rank: usize, i: usize| ((rank * 31 + i) as f32 * 0.7).sin();
        for (size, count) in [(1, 5), (2, 7), (3, 2), (4, 1001), (4, 0)] {
            let expected: Vec<f32> = (0..count)
                .map(|i| (1..size).fold(given(0, i), |sum, rank| sum + given(rank, i)))
                .collect();
            let found = well(size, |rank| {
                let mut values: Vec<f32> = (0..count).map(|i| given(rank.index(), i)).collect();
                rank.add_up(&mut values)?;
                let share = part(count, rank.index(), size).len();
                let Traffic { messages, bytes, .. } = rank.traffic();
                assert_eq!((messages, bytes), (2, 4 * (count + share) as u64));
                Ok(values)
            });
            assert_eq!(found, vec![expected; size], "{size} ranks");
        }
    }

    #[test]
    fn sums_beside_other_work_are_those_in_the_order_of_the_ranks() {
        const ROUNDS: usize = 20;
        let given = |rank: usize, round: usize| ((rank * 31 + round) as f32 * 0.7).sin();
        for size in [1, 2, 3] {
            let found = well(size, |rank| {
                let mut adder = Adder::new(&rank, Rank::add_up);
                for round in 0..ROUNDS {
                    adder.add(vec![given(rank.index(), round); 10 * round])?;
                    rank.meet()?;
                    // It has waited for both messages of the sum.
                    assert_eq!(rank.traffic().messages, 3 * (round as u64 + 1));
                }
                adder.sums()
            });
            let sum = |round| (1..size).fold(given(0, round), |sum, rank| sum + given(rank, round));
            let expected: Vec<_> = (0..ROUNDS).map(|round| vec![sum(round); 10 * round]).collect();
            assert_eq!(found, vec![expected; size], "{size} ranks");
        }
    }

    /// Threads that are connected by what one thread alone may call, and adds up by itself: from the last to the first.
    #[derive(Debug)]
    struct Library(Thread);

    impl Collectives for Library {
        fn index(&self) -> usize {
            self.0.index()
        }

        fn size(&self) -> usize {
            self.0.size()
        }

        fn gather(&self, bytes: Vec<u8>) -> Result<Arc<[Vec<u8>]>, RankError> {
            self.0.gather(bytes)
        }

        fn first(&self, count: usize) -> Result<Arc<dyn Collectives>, RankError> {
            self.0.first(count)
        }

        fn all_reduce(&self) -> Option<&dyn AllReduce> {
            Some(self)
        }

        fn takes_any_thread(&self) -> bool {
            false
        }

        fn fail(&self, code: u8) -> Failure {
            self.0.fail(code)
        }

        fn leave(&self, finished: bool) {
            self.0.leave(finished);
        }
    }

    impl AllReduce for Library {
        fn add_up(&self, numbers: Numbers<'_>) -> Result<(), RankError> {
            let Numbers::F32(values) = numbers else { return Err(RankError::Different) };
            let all = self.0.gather(f32::to_bytes(values))?;
            values.fill(0.0);
            for given in all.iter().rev() {
                values.iter_mut().zip(f32::of_bytes(given)).for_each(|(sum, value)| *sum += value);
            }
            Ok(())
        }
    }

    fn by_library(size: usize) -> Vec<Rank> {
        let rank = |thread| Rank { leaves: true, ..Rank::of(Arc::new(Library(thread))) };
        Thread::group(size).into_iter().map(rank).collect()
    }

    #[test]
    fn fast_sums_are_those_of_what_connects_the_ranks() {
        // In f32 (1 + 1e8) - 1e8 is 0, and 1 + (1e8 - 1e8) is 1.
        let part = |rank: Rank| {
            let mut values = [[1.0_f32, 1e8, -1e8][rank.index()]];
            rank.add_up_fast(&mut values)?;
            Ok((rank.has_fast_sums(), values[0], rank.traffic().messages))
        };
        assert_eq!(each(by_library(3), &part), vec![Some(Ok((true, 1.0, 1))); 3]);
        assert_eq!(all(3, part), vec![Some(Ok((false, 0.0, 2))); 3]);
    }

    #[test]
    fn rows_are_added_up_at_once_where_one_thread_makes_all_calls() {
        let found = each(by_library(2), &|rank: Rank| {
            let mut adder = Adder::new(&rank, Rank::add_up_fast);
            adder.add(vec![1.0_f32 + rank.index() as f32])?;
            assert_eq!(rank.traffic().messages, 1);
            adder.sums()
        });
        assert_eq!(found, vec![Some(Ok(vec![vec![3.0]])); 2]);
    }

    #[test]
    fn nobody_waits_for_one_that_fails_between_two_sums() {
        let found = all(3, |rank| {
            let mut adder = Adder::new(&rank, Rank::add_up);
            adder.add(vec![1.0_f32; 10])?;
            if rank.index() == 1 {
                return Err(RankError::Different);
            }
            adder.add(vec![1.0; 10])?;
            adder.sums()
        });
        let failed = Some(Err(RankError::Failed(Failure { rank: 1, code: 1 })));
        assert_eq!(found, [failed.clone(), Some(Err(RankError::Different)), failed]);
    }

    #[test]
    fn jobs_are_dealt_and_come_in_order() {
        for (size, count) in [(1, 3), (2, 5), (3, 0), (4, 2)] {
            let found = well(size, |rank| {
                let mut done = 0;
                let made = rank.deal(count, |i| {
                    done += 1;
                    Ok::<_, RankError>(vec![i as u8; i])
                })?;
                assert_eq!(done, (count + size - 1 - rank.index()) / size);
                assert_eq!(rank.from_first(|| Ok::<_, RankError>(vec![7]))?, [7]);
                assert!(rank.any(rank.index() == size - 1)? && !rank.any(false)?);
                Ok(made)
            });
            let expected: Vec<Vec<u8>> = (0..count).map(|i| vec![i as u8; i]).collect();
            assert_eq!(found, vec![expected; size]);
        }
    }

    #[test]
    fn the_first_ranks_meet_without_the_others() {
        let found = well(3, |rank| {
            let mut sums = vec![];
            for round in 0..3 {
                if let Some(rank) = rank.among_first(2)? {
                    let part = || Rank::current().sum(&[f64::from(round) + rank.index() as f64]);
                    sums.extend(rank.run(part)?);
                }
            }
            rank.meet()?;
            Ok(sums)
        });
        assert_eq!(found, [vec![1.0, 3.0, 5.0], vec![1.0, 3.0, 5.0], vec![]]);
    }

    #[test]
    fn ranks_that_differ_are_named() {
        let found = all(3, |rank| rank.agree("seed", &[u8::from(rank.index() == 2)]));
        let differs = RankError::Disagree { what: "seed".into(), rank: 2 };
        assert_eq!(found, vec![Some(Err(differs)); 3]);
        let found = all(2, |rank| rank.sum(&vec![1.0; 1 + rank.index()]));
        assert_eq!(found, vec![Some(Err(RankError::Different)); 2]);
    }

    #[test]
    fn nobody_waits_for_one_that_fails() {
        for panics in [false, true] {
            let found = all(3, |rank| {
                rank.meet()?;
                if rank.index() == 1 {
                    assert!(!panics, "as wanted");
                    return Err(RankError::Different);
                }
                rank.meet()
            });
            let failed = Some(Err(RankError::Failed(Failure { rank: 1, code: 1 })));
            assert_eq!([&found[0], &found[2]], [&failed; 2]);
            assert_eq!(found[1], (!panics).then_some(Err(RankError::Different)));
        }
    }

    #[test]
    fn patience_outlasts_the_limit_and_ends() {
        let limit = Duration::from_millis(500);
        let late = |meet: &(dyn Fn(&Rank) -> Result<(), RankError> + Sync)| {
            let part = |rank: Rank| {
                if rank.index() == 1 {
                    std::thread::sleep(2 * limit);
                }
                meet(&rank)
            };
            each(connected(2, limit), &part).remove(0).unwrap()
        };
        let timed_out: Result<(), RankError> = Err(RankError::TimedOut { rank: 0, size: 2, limit });
        assert_eq!(late(&Rank::meet_patiently), Ok(()));
        assert_eq!(late(&Rank::meet), timed_out);
        let again = |rank: &Rank| {
            rank.meet_patiently()?;
            std::thread::sleep(2 * limit * u32::from(rank.index() == 1));
            rank.meet()
        };
        assert_eq!(late(&again), timed_out);
    }

    #[test]
    fn nobody_waits_for_one_that_is_through() {
        let part = |rank: Rank| (rank.index()..3).try_for_each(|_| rank.meet());
        let found = each(Rank::threads(3), &part);
        assert!(found[2].as_ref().unwrap().is_ok());
        let noticed = |found: &&Option<Result<(), RankError>>| matches!(found, Some(Err(_)));
        assert!(found[..2].iter().filter(noticed).count() > 0);
    }
}
