use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use crate::bytes::{Numbers, pack, unpack};

/// In the message of an error that follows from that of another rank.
pub const ANOTHER_FAILED: &str = "another rank failed";

/// What all ranks of a group can do together. Every rank makes the same calls in the same order; when one fails, or
/// does not answer within the limit of time, the calls of all others fail.
pub trait Collectives: Debug + Send + Sync {
    /// The place of this rank among all, from 0.
    fn index(&self) -> usize;

    /// How many ranks there are.
    fn size(&self) -> usize;

    /// What all ranks give, in their order.
    ///
    /// # Errors
    /// If another rank failed, does something else, or does not answer in time.
    fn gather(&self, bytes: Vec<u8>) -> Result<Arc<[Vec<u8>]>, RankError>;

    /// What all ranks have for this one, in their order; `parts` has a part for each of them.
    ///
    /// # Errors
    /// As [`gather`](Self::gather).
    fn exchange(&self, parts: &[Vec<u8>]) -> Result<Vec<Vec<u8>>, RankError> {
        let all = self.gather(pack(parts))?;
        let own = |packed: &Vec<u8>| {
            let parts = unpack(packed).filter(|parts| parts.len() == self.size());
            parts.map(|mut parts| parts.swap_remove(self.index())).ok_or(RankError::Different)
        };
        all.iter().map(own).collect()
    }

    /// What adds up numbers of all ranks by itself, if anything does.
    fn all_reduce(&self) -> Option<&dyn AllReduce> {
        None
    }

    /// Whether several threads may make calls, one at a time.
    fn takes_any_thread(&self) -> bool {
        true
    }

    /// The group of the first `count` ranks, which only these may use; all ranks ask for it.
    ///
    /// # Errors
    /// As [`gather`](Self::gather).
    fn first(&self, count: usize) -> Result<Arc<dyn Collectives>, RankError>;

    /// Whether the following calls wait for other ranks however long these take.
    fn be_patient(&self, _patient: bool) {}

    /// Tells the others that this rank fails, with the exit code of the process, unless it fails since another does.
    /// Gives the first failure of all.
    fn fail(&self, code: u8) -> Failure;

    /// Ends the part of this rank in the group, which it finished or not.
    fn leave(&self, finished: bool) {
        if !finished {
            self.fail(1);
        }
    }
}

/// Sums over all ranks in an order of its own.
pub trait AllReduce {
    /// Puts the sums over all ranks in the place of as many numbers of each, the same on all.
    ///
    /// # Errors
    /// As [`Collectives::gather`], and if a rank gives another number of them.
    fn add_up(&self, numbers: Numbers<'_>) -> Result<(), RankError>;
}

/// Which rank failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The rank, the first one of several.
    pub rank: usize,
    /// The exit code that its process asks for.
    pub code: u8,
}

/// Why ranks cannot go on together.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RankError {
    /// Another rank failed, which says why.
    #[error("{ANOTHER_FAILED} (rank {})", .0.rank)]
    Failed(Failure),
    /// A rank is gone or computes for too long.
    #[error(
        "rank {rank} of {size}: no answer from the other ranks within {} s; see whether one of them has ended, or give them \
         more time with --rank-timeout", limit.as_secs()
    )]
    TimedOut {
        /// The rank that waited.
        rank: usize,
        /// How many there are.
        size: usize,
        /// How long it waited.
        limit: Duration,
    },
    /// Ranks call different things.
    #[error(
        "the ranks do different things at the same time: start all of them with the same version and command"
    )]
    Different,
    /// Ranks have different settings, programs or data.
    #[error(
        "rank {rank} differs from rank 0 in the {what}: give all ranks the same version, command and files"
    )]
    Disagree {
        /// What differs.
        what: String,
        /// The first rank that differs from rank 0.
        rank: usize,
    },
    /// The connection to another rank broke.
    #[error("rank {rank} of {size}: the connection to {to} broke: {problem}")]
    Broken {
        /// The rank that noticed.
        rank: usize,
        /// How many there are.
        size: usize,
        /// The other rank.
        to: String,
        /// The system's reason.
        problem: String,
    },
}

impl RankError {
    /// The failure of another rank that this error follows from.
    pub fn failure(&self) -> Option<Failure> {
        match self {
            Self::Failed(failure) => Some(*failure),
            _ => None,
        }
    }
}
