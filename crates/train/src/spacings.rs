//! Items whose voxels have several sizes: a steerable network sees lengths, since its kernels are sampled for each.

use candle_core::Tensor;
use steer3d_dataset::Dataset;
use steer3d_nn::{Mode, Network, NnError};

use crate::error::TrainError;

/// How many times as long as those that the network was made for the voxels of an item are.
pub(crate) fn ratios(network: &Network, dataset: &Dataset, item: usize) -> [f64; 3] {
    network.coarsening(dataset.meta().voxel_size, dataset.own_voxel_size(item))
}

/// The places of the items of a batch, those with voxels of one size together.
pub(crate) fn alike(
    network: &Network,
    dataset: &Dataset,
    items: &[usize],
) -> Vec<([f64; 3], Vec<u32>)> {
    let mut groups: Vec<([f64; 3], Vec<u32>)> = vec![];
    for (place, &item) in items.iter().enumerate() {
        let (of, place) = (ratios(network, dataset, item), place as u32);
        match groups.iter_mut().find(|(known, _)| *known == of) {
            Some((_, places)) => places.push(place),
            None => groups.push((of, vec![place])),
        }
    }
    groups
}

/// [`Network::forward_supervised`] of the volumes of a batch, each with kernels for its voxels.
pub(crate) fn supervised(
    network: &Network,
    dataset: &Dataset,
    items: &[usize],
    x: &Tensor,
    mode: Mode,
) -> Result<Vec<Tensor>, TrainError> {
    let groups = alike(network, dataset, items);
    if let [(ratios, _)] = &groups[..] {
        return run(network, *ratios, |network| network.forward_supervised(x, mode));
    }
    let mut outs: Vec<Vec<Tensor>> = vec![];
    let mut order = vec![];
    for (ratios, places) in groups {
        let x = x.index_select(&Tensor::new(&places[..], x.device())?, 0)?;
        let found = run(network, ratios, |network| network.forward_supervised(&x, mode))?;
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

/// What the network for such voxels does.
pub(crate) fn run<T>(
    network: &Network,
    ratios: [f64; 3],
    run: impl FnOnce(&Network) -> Result<T, NnError>,
) -> Result<T, TrainError> {
    Ok(match ratios {
        [1.0, 1.0, 1.0] => run(network)?,
        ratios => run(&*network.coarsened(ratios)?)?,
    })
}
