use std::sync::Arc;
use std::time::Duration;

use crate::launch::{Launch, Launcher};
use crate::rank::Rank;
use crate::tcp::Process;

/// The processes that a launcher started, connected.
#[derive(Debug)]
pub struct World {
    /// This process among them.
    pub rank: Rank,
    #[cfg(feature = "mpi")]
    _universe: Option<crate::mpi::Universe>,
}

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
    /// A process cannot be reached.
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
}

impl World {
    /// A process without others.
    pub const fn alone() -> Self {
        Self {
            rank: Rank::ALONE,
            #[cfg(feature = "mpi")]
            _universe: None,
        }
    }

    /// Connects the processes of a launch: those of torchrun over TCP, others by MPI; without MPI over TCP, too, where
    /// an address is given. No process waits longer than `limit` for another one, now and later.
    ///
    /// # Errors
    /// [`ConnectError`].
    pub fn connect(launch: &Launch, limit: Duration) -> Result<Self, ConnectError> {
        if launch.size == 1 {
            return Ok(Self::alone());
        }
        match &launch.master {
            Some(master) if launch.launcher == Launcher::Torchrun || !cfg!(feature = "mpi") => {
                let process = Process::connect(launch, master, limit).map_err(|source| {
                    let (address, port) = (master.address.clone(), master.port);
                    ConnectError::Address { address, port, source }
                })?;
                let mut world = Self::alone();
                world.rank = Rank::of(Arc::new(process));
                Ok(world)
            }
            _ => Self::connect_by_mpi(launch, limit),
        }
    }

    #[cfg(not(feature = "mpi"))]
    fn connect_by_mpi(launch: &Launch, _limit: Duration) -> Result<Self, ConnectError> {
        Err(ConnectError::NoMpi { launcher: launch.launcher, size: launch.size })
    }

    #[cfg(feature = "mpi")]
    fn connect_by_mpi(launch: &Launch, limit: Duration) -> Result<Self, ConnectError> {
        let (universe, rank) = crate::mpi::connect(limit).ok_or(ConnectError::InUse)?;
        let (launcher, expected, found) = (launch.launcher, launch.size, rank.size());
        if found != expected {
            return Err(ConnectError::Size { launcher, expected, found });
        }
        Ok(Self { rank, _universe: Some(universe) })
    }
}
