use std::sync::Arc;
use std::time::Duration;

use crate::connect::ConnectError;
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
                let mut world = Self::alone();
                world.rank = Rank::of(Arc::new(Process::connect(launch, master, limit)?));
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
