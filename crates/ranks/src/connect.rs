use std::time::Duration;

use crate::launch::Launcher;

/// Why processes cannot be connected.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// MPI is needed and not compiled in.
    #[error(
        "--launcher {launcher}: {size} processes were started, which this build cannot connect, since it is without MPI; build \
         it with --features mpi, set MASTER_ADDR and MASTER_PORT, or let each work for itself with --launcher none"
    )]
    NoMpi {
        /// The launcher.
        launcher: Launcher,
        /// How many processes it says it started.
        size: usize,
    },
    /// MPI has another number of processes than the launcher.
    #[error(
        "--launcher {launcher}: {expected} processes were started, but MPI connects {found}; start them with the mpirun of the \
         MPI that this build is linked with, or with `srun --mpi=pmix`"
    )]
    Size {
        /// The launcher.
        launcher: Launcher,
        /// How many processes the launcher says it started.
        expected: usize,
        /// How many MPI knows.
        found: usize,
    },
    /// MPI has been started in this process before.
    #[error("MPI is in use in this process")]
    InUse,
    /// The address of the first process cannot be used.
    #[error(
        "MASTER_ADDR {address}, MASTER_PORT {port}: {source}; expected an address of the machine of rank 0 and a free port of it"
    )]
    Address {
        /// The address.
        address: String,
        /// The port.
        port: u16,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The first process does not answer.
    #[error(
        "MASTER_ADDR {address}, MASTER_PORT {port}: expected an answer of rank 0 there within {} s, found: {source}; see whether \
         rank 0 was started and still waits, and whether its machine is reached from this one", limit.as_secs()
    )]
    NoFirst {
        /// The address.
        address: String,
        /// The port.
        port: u16,
        /// How long this process has tried.
        limit: Duration,
        /// Why the last attempt failed.
        source: std::io::Error,
    },
    /// A process does not come to the first one.
    #[error(
        "WORLD_SIZE {size}: expected rank {rank} of {size} at rank 0 within {} s, found none; see whether it was started and has \
         the same MASTER_ADDR and MASTER_PORT", limit.as_secs()
    )]
    Missing {
        /// The first rank that is missing.
        rank: usize,
        /// How many there are.
        size: usize,
        /// How long rank 0 has waited.
        limit: Duration,
    },
    /// Two processes have the same rank.
    #[error(
        "RANK: expected one process of rank {rank}, found two; give each of the {size} processes a number of its own"
    )]
    SameRank {
        /// The rank.
        rank: usize,
        /// How many processes there are.
        size: usize,
    },
    /// Processes expect another number of them.
    #[error(
        "WORLD_SIZE: expected {expected} in the process of rank {rank}, found {found}; give all processes that of rank 0"
    )]
    Disagree {
        /// The rank.
        rank: usize,
        /// How many processes it expects.
        found: usize,
        /// How many rank 0 expects.
        expected: usize,
    },
    /// The first process does not take this one.
    #[error(
        "MASTER_ADDR {address}, MASTER_PORT {port}: expected to be one of the processes of rank 0 there, found that it sends \
         this one away; see its message"
    )]
    Refused {
        /// The address.
        address: String,
        /// The port.
        port: u16,
    },
}

impl ConnectError {
    /// Whether the first process tells this error, or the one that it follows from, so that no other need do so.
    pub fn is_told_by_first(&self) -> bool {
        matches!(self, Self::NoMpi { .. } | Self::Size { .. } | Self::InUse | Self::Refused { .. })
    }
}
