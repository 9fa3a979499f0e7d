//! Ranks: threads or processes that compute one thing together.
//!
//! * [`Rank`]: one of them, and what it can ask of all: bytes and numbers of every rank, sums in their order, shares of
//!   the work. [`Rank::current`] is the one as which a thread runs; outside of [`Rank::run`] it is [`Rank::ALONE`].
//! * [`Adder`]: sums that are taken while a rank goes on with something else.
//! * [`Collectives`]: how bytes get from rank to rank: within a process, by MPI (feature `mpi`), or over TCP.
//! * [`Launch`]: what a launcher (Slurm, torchrun, mpirun) says of this process, and [`World`], which connects it.

mod adder;
mod bytes;
mod collectives;
mod connect;
mod launch;
#[cfg(feature = "mpi")]
mod mpi;
mod pending;
mod rank;
mod tcp;
mod threads;
mod world;

pub use adder::{AddUp, Adder};
pub use bytes::{Number, Numbers};
pub use collectives::{ANOTHER_FAILED, AllReduce, Collectives, Failure, RankError};
pub use connect::ConnectError;
pub use launch::{Launch, LaunchError, Launcher, Master};
pub use rank::{Rank, Share, Traffic};
pub use world::World;
