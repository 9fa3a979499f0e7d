//! Items whose voxels have several sizes: a steerable network sees lengths, since its kernels are sampled for each.

use candle_core::Tensor;
use steer3d_dataset::Dataset;
use steer3d_nn::{Mode, Network, NnError};

use crate::error::TrainError;

/// How many times as long as those that the network was made for the voxels of an item are.
pub(crate) fn ratios(network: &Network, dataset: &Dataset, item: usize) -> [f64; 3] {
    network.coarsening(dataset.meta().voxel_size, dataset.own_voxel_size(item))
}

/// What `run` finds for the items of a batch that have voxels of one size, from the network for these voxels and their
/// volumes, and the places of the items in the batch.
pub(crate) fn by_size<T>(
    network: &Network,
    dataset: &Dataset,
    items: &[usize],
    x: &Tensor,
    mut run: impl FnMut(&Network, &Tensor) -> Result<T, NnError>,
) -> Result<Vec<(T, Vec<u32>)>, TrainError> {
    let mut groups: Vec<([f64; 3], Vec<u32>)> = vec![];
    for (place, &item) in items.iter().enumerate() {
        let (of, place) = (ratios(network, dataset, item), place as u32);
        match groups.iter_mut().find(|(known, _)| *known == of) {
            Some((_, places)) => places.push(place),
            None => groups.push((of, vec![place])),
        }
    }
    let whole = groups.len() == 1;
    let part = |(ratios, places): ([f64; 3], Vec<u32>)| {
        let x = match whole {
            true => x.clone(),
            false => x.index_select(&Tensor::new(&places[..], x.device())?, 0)?,
        };
        Ok((network.at_ratios(ratios, |network| run(network, &x))?, places))
    };
    groups.into_iter().map(part).collect()
}

/// [`Network::forward_supervised`] of the volumes of a batch, each with kernels for its voxels.
pub(crate) fn supervised(
    network: &Network,
    dataset: &Dataset,
    items: &[usize],
    x: &Tensor,
    mode: Mode,
) -> Result<Vec<Tensor>, TrainError> {
    let run = |network: &Network, x: &Tensor| network.forward_supervised(x, mode);
    let mut groups = by_size(network, dataset, items, x, run)?;
    if groups.len() == 1 {
        return Ok(groups.remove(0).0);
    }
    let mut outs: Vec<Vec<Tensor>> = vec![];
    let mut order = vec![];
    for (found, places) in groups {
        outs.resize(found.len(), vec![]);
        outs.iter_mut().zip(found).for_each(|(all, part)| all.push(part));
        order.extend(places);
    }
    // Where each item of the batch is among the groups.
    let mut back = vec![0u32; order.len()];
    order.iter().enumerate().for_each(|(at, &place)| back[place as usize] = at as u32);
    let back = Tensor::new(back, x.device())?;
    let joined = outs.iter().map(|parts| Tensor::cat(parts, 0)?.index_select(&back, 0));
    Ok(joined.collect::<candle_core::Result<_>>()?)
}
