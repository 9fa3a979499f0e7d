//! One network for volumes of several voxel sizes.

use std::array::from_fn;
use std::sync::{Arc, Mutex, PoisonError};

use crate::{FoldedNetwork, ModelConfig, Network, NnError};

/// Most networks for other voxels that a network keeps.
const KEPT: usize = 16;

impl Network {
    /// How many times as long as `made_for` voxels of these edges (x, y, z) are, as far as the network can heed that: 1
    /// for voxels that are not said, where the digits of a header alone make a difference, and for a network that is not
    /// steerable.
    pub fn coarsening(&self, made_for: [f64; 3], edges: Option<[f64; 3]>) -> [f64; 3] {
        let fixed = matches!(self.config(), ModelConfig::Plain(_));
        from_fn(|axis| {
            let ratio = edges.map_or(1.0, |edges| edges[axis] / made_for[axis]);
            if fixed || (ratio - 1.0).abs() <= 1e-3 { 1.0 } else { ratio }
        })
    }

    /// The network [for voxels](Self::at_spacing) `ratios` times as long as its own.
    ///
    /// # Errors
    /// As [`at_spacing`](Self::at_spacing).
    pub fn at_coarsening(&self, ratios: [f64; 3]) -> Result<Self, NnError> {
        let own = self.spacing();
        self.at_spacing(from_fn(|axis| own[axis] * ratios[axis]))
    }

    /// [`at_coarsening`](Self::at_coarsening), of which the last few are kept.
    ///
    /// # Errors
    /// As [`at_spacing`](Self::at_spacing).
    pub fn coarsened(&self, ratios: [f64; 3]) -> Result<Arc<Self>, NnError> {
        let mut known = self.coarsened.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(place) = known.iter().position(|(of, _)| *of == ratios) {
            let found = known.remove(place);
            known.push(found);
        } else {
            let made = self.at_coarsening(ratios)?;
            if known.len() == KEPT {
                known.remove(0);
            }
            known.push((ratios, Arc::new(made)));
        }
        Ok(known[known.len() - 1].1.clone())
    }

    /// What the network does for voxels `ratios` times as long as its own: itself where they are, else
    /// [`coarsened`](Self::coarsened).
    ///
    /// # Errors
    /// As [`at_spacing`](Self::at_spacing), and those of `run`.
    pub fn at_ratios<T, E: From<NnError>>(
        &self,
        ratios: [f64; 3],
        run: impl FnOnce(&Self) -> Result<T, E>,
    ) -> Result<T, E> {
        if ratios == [1.0; 3] { run(self) } else { run(&*self.coarsened(ratios)?) }
    }
}

/// A network at evaluation for volumes of several voxel sizes: as it is now, and for the last voxels that were not its own.
#[derive(Debug)]
pub struct FoldedNetworks {
    own: Arc<FoldedNetwork>,
    other: Mutex<Option<([f64; 3], Arc<FoldedNetwork>)>>,
}

impl FoldedNetworks {
    /// Folds a network.
    ///
    /// # Errors
    /// As [`Network::folded`].
    pub fn new(network: &Network) -> Result<Self, NnError> {
        Ok(Self { own: Arc::new(network.folded()?), other: Mutex::default() })
    }

    /// The network for its own voxels.
    pub fn own(&self) -> &FoldedNetwork {
        &self.own
    }

    /// The network for voxels `ratios` times as long as its own; `network` is the one that was folded.
    ///
    /// # Errors
    /// As [`Network::at_spacing`].
    pub fn coarsened(
        &self,
        network: &Network,
        ratios: [f64; 3],
    ) -> Result<Arc<FoldedNetwork>, NnError> {
        if ratios == [1.0; 3] {
            return Ok(self.own.clone());
        }
        let mut other = self.other.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, folded)) = other.as_ref().filter(|(of, _)| *of == ratios) {
            return Ok(folded.clone());
        }
        let folded = Arc::new(network.coarsened(ratios)?.folded()?);
        *other = Some((ratios, folded.clone()));
        Ok(folded)
    }
}
