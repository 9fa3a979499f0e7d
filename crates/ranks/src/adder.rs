//! Sums over ranks that are taken beside other work.

use std::panic::resume_unwind;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::thread::{JoinHandle, spawn};

use crate::collectives::RankError;
use crate::pending::{Job, Pending};
use crate::rank::Rank;

/// [`Rank::add_up`] or [`Rank::add_up_fast`].
pub type AddUp<T> = fn(&Rank, &mut [T]) -> Result<(), RankError>;

/// Adds up rows of numbers of all ranks while the rank goes on with something else.
///
/// A thread of its own takes the sums, one after the other. The next call of the rank, whatever it is, waits for them: so
/// ranks that [add](Self::add) rows between the same calls make all calls in the same order. Where only one thread may
/// make calls ([`Collectives::takes_any_thread`](crate::Collectives::takes_any_thread)), each row is added up at once.
#[derive(Debug)]
pub struct Adder<T> {
    way: Way<T>,
}

#[derive(Debug)]
enum Way<T> {
    AtOnce(Sums<T>),
    Beside {
        rows: Sender<(Vec<T>, Job)>,
        pending: Arc<Pending>,
        thread: JoinHandle<Result<Vec<Vec<T>>, RankError>>,
    },
}

/// The sums so far.
#[derive(Debug)]
struct Sums<T> {
    rank: Rank,
    add_up: AddUp<T>,
    done: Vec<Vec<T>>,
}

impl<T> Sums<T> {
    fn add(&mut self, mut row: Vec<T>) -> Result<(), RankError> {
        (self.add_up)(&self.rank, &mut row)?;
        self.done.push(row);
        Ok(())
    }
}

impl<T: Send + 'static> Adder<T> {
    /// An adder of the rows of `rank`.
    pub fn new(rank: &Rank, add_up: AddUp<T>) -> Self {
        let Some((beside, pending)) = rank.beside() else {
            return Self { way: Way::AtOnce(Sums { rank: rank.clone(), add_up, done: vec![] }) };
        };
        let mut sums = Sums { rank: beside, add_up, done: vec![] };
        let (rows, to_add) = channel::<(Vec<T>, Job)>();
        let thread = spawn(move || {
            for (row, _job) in to_add {
                sums.add(row)?;
            }
            Ok(sums.done)
        });
        Self { way: Way::Beside { rows, pending, thread } }
    }

    /// Has a row added up.
    ///
    /// # Errors
    /// As [`Rank::add_up`] where that is done at once; else [`sums`](Self::sums) tells them.
    pub fn add(&mut self, row: Vec<T>) -> Result<(), RankError> {
        match &mut self.way {
            Way::AtOnce(sums) => sums.add(row),
            Way::Beside { rows, pending, .. } => {
                // A thread that has ended keeps its error.
                let _ = rows.send((row, pending.begin()));
                Ok(())
            }
        }
    }

    /// The sums of all rows, in their order.
    ///
    /// # Errors
    /// As [`Rank::add_up`].
    pub fn sums(self) -> Result<Vec<Vec<T>>, RankError> {
        match self.way {
            Way::AtOnce(sums) => Ok(sums.done),
            Way::Beside { rows, thread, .. } => {
                drop(rows);
                thread.join().unwrap_or_else(|panic| resume_unwind(panic))
            }
        }
    }
}
