//! Data parallelism: replicas of a network on other devices compute parts of each batch.

use std::sync::mpsc::{Receiver, SendError, Sender, channel};
use std::thread::Scope;

use candle_core::{DType, Device, Tensor};
use steer3d_dataset::{Batch, Dataset};
#[cfg(feature = "nccl")]
use steer3d_ops::DeviceLink;
use steer3d_ranks::{ANOTHER_FAILED, Rank, Share};

use crate::config::{GradientSums, Precision};
use crate::error::TrainError;
use crate::gradients::Gradients;
use crate::objective::{Objective, Score};
use crate::spacings;
use steer3d_nn::{Mode, Network, Params};

/// What a network is trained with, on any device.
#[derive(Clone, Copy)]
pub(crate) struct Task<'a> {
    pub(crate) dataset: &'a Dataset,
    pub(crate) objective: &'a Objective,
    pub(crate) precision: Precision,
}

/// What a batch, or a part of one, comes to.
pub(crate) struct Outcome {
    /// Of the mean loss.
    pub(crate) gradients: Gradients,
    pub(crate) loss: f64,
    /// What the loss counts for in a mean over batches.
    pub(crate) weight: f64,
    pub(crate) right: f64,
    pub(crate) answers: f64,
    /// The volumes, or those of the first part; none where another rank has them.
    pub(crate) x: Option<Tensor>,
}

impl Task<'_> {
    /// Forward and backward pass; with `of_sum` the gradients are those of the sum of the losses.
    pub(crate) fn compute(
        self,
        network: &Network,
        batch: &mut Batch,
        mode: Mode,
        of_sum: bool,
    ) -> Result<Outcome, TrainError> {
        let x = self.volumes(network, batch)?;
        let outs = spacings::supervised(network, self.dataset, &batch.items, &x, mode)?;
        let Score { loss, weight, right, answers } = self.objective.training(&outs, batch)?;
        let value: f64 = loss.to_dtype(DType::F64)?.to_scalar()?;
        let loss = if of_sum { loss.affine(weight, 0.0)? } else { loss };
        let gradients = Gradients::of(network.params(), &loss.backward()?);
        Ok(Outcome { gradients, loss: value, weight, right, answers, x: Some(x) })
    }

    /// A part of a batch, with the gradients of the sum of its losses.
    fn part(self, network: &Network, part: Part) -> Result<Outcome, TrainError> {
        let Part { rank, mut batch, mode, weights } = part;
        rank.run(|| {
            if let Some(weights) = weights {
                take_weights(network.params(), &weights)?;
            }
            self.compute(network, &mut batch, mode, true)
        })
    }

    /// The volumes of a batch, N,C,D,H,W, as the network takes them in training; taken out of the batch.
    pub(crate) fn volumes(
        self,
        network: &Network,
        batch: &mut Batch,
    ) -> Result<Tensor, TrainError> {
        Ok(self.precision.of(volumes(network, self.dataset, batch)?)?)
    }
}

/// The volumes of a batch, N,C,D,H,W, in the type of the weights; taken out of the batch.
pub(crate) fn volumes(
    network: &Network,
    dataset: &Dataset,
    batch: &mut Batch,
) -> Result<Tensor, TrainError> {
    let [d, h, w] = batch.dims;
    let params = network.params();
    let shape = (batch.items.len(), dataset.meta().channels, d, h, w);
    let values = std::mem::take(&mut batch.values);
    Ok(Tensor::from_vec(values, shape, params.device())?.to_dtype(params.dtype())?)
}

/// What a replica has to do.
struct Part {
    rank: Rank,
    batch: Batch,
    mode: Mode,
    /// All weights in a row, where they are other than before.
    weights: Option<Tensor>,
}

/// A part that is computed, its gradients in a row: on its device if that is linked with the others, else on the CPU.
type Answer = Result<(Tensor, Outcome), TrainError>;

/// The thread of a replica.
struct Replica {
    parts: Sender<Part>,
    answers: Receiver<Answer>,
    /// Whether its weights are those of before the last step.
    stale: bool,
}

/// The threads of all replicas beside the network itself.
pub(crate) struct Replicas {
    threads: Vec<Replica>,
    /// By which rows get from device to device; else they go through the memory of the host.
    link: Option<DeviceLink>,
    sums: GradientSums,
}

/// Without NCCL no devices are linked.
#[cfg(not(feature = "nccl"))]
enum DeviceLink {}

#[cfg(not(feature = "nccl"))]
impl DeviceLink {
    fn between(_devices: &[&Device]) -> Option<Self> {
        None
    }

    fn sum(&self, _rows: &[Tensor]) -> candle_core::Result<Tensor> {
        match *self {}
    }

    fn copies(&self, _row: &Tensor) -> candle_core::Result<Vec<Tensor>> {
        match *self {}
    }
}

impl Replicas {
    /// Starts a thread for each of `networks`, replicas of `first`, which ends when this is dropped.
    pub(crate) fn start<'scope, 'env>(
        scope: &'scope Scope<'scope, 'env>,
        first: &Network,
        networks: &'env [Network],
        task: Task<'env>,
        sums: GradientSums,
    ) -> Self {
        let all = std::iter::once(first).chain(networks);
        let devices: Vec<&Device> = all.map(|network| network.params().device()).collect();
        let link = DeviceLink::between(&devices);
        let linked = link.is_some() && sums == GradientSums::Fast;
        let start = |network: &'env Network| {
            let (parts, to_do) = channel::<Part>();
            let (done, answers) = channel();
            scope.spawn(move || {
                for part in to_do {
                    let answer = task.part(network, part).and_then(|outcome| {
                        let row = outcome.gradients.row()?;
                        let row = if linked { row } else { row.to_device(&Device::Cpu)? };
                        Ok((row, outcome))
                    });
                    if done.send(answer).is_err() {
                        break;
                    }
                }
            });
            Replica { parts, answers, stale: true }
        };
        Self { threads: networks.iter().map(start).collect(), link, sums }
    }

    /// Has the weights of the network copied again, which have moved.
    pub(crate) fn invalidate(&mut self) {
        self.threads.iter_mut().for_each(|replica| replica.stale = true);
    }

    /// The batch in parts, the first on the device of `network`: the same as [`Task::compute`] to rounding. Sums
    /// are taken in a fixed order: that of the devices, or NCCL's.
    pub(crate) fn compute(
        &mut self,
        task: Task<'_>,
        network: &Network,
        batch: &Batch,
        mode: Mode,
    ) -> Result<Outcome, TrainError> {
        let params = network.params();
        let (items, count) = (batch.items.len(), batch.items.len().min(1 + self.threads.len()));
        let share = |(number, rank): (usize, Rank)| {
            let share = Share::new(number, count).of(items);
            (items_of(batch, share.clone()), rank.after_items(share.start))
        };
        let mut parts = Rank::threads(count).into_iter().enumerate().map(share);
        let first = parts.next();
        let rest = parts;
        let stale = self.threads.iter().take(count - 1).any(|replica| replica.stale);
        let mut weights = if stale { self.copies(&weights_row(params)?)? } else { vec![] };
        weights.reverse();
        let mut busy = vec![];
        for (replica, (batch, rank)) in self.threads.iter_mut().zip(rest) {
            let weights = weights.pop().filter(|_| replica.stale);
            replica.stale = false;
            let part = Part { rank, batch, mode, weights };
            if let Err(SendError(part)) = replica.parts.send(part) {
                // The thread has ended: nobody must wait for this part.
                drop(part.rank.run(|| Err::<(), _>(ended())));
            }
            busy.push(&replica.answers);
        }
        let Some((batch, rank)) = first else { return Err(ended()) };
        let own = task.part(network, Part { rank, batch, mode, weights: None });
        let others: Vec<Answer> = busy
            .into_iter()
            .map(|answers| answers.recv().unwrap_or_else(|_| Err(ended())))
            .collect();
        self.mean(own, others)
    }

    /// A row for each replica, where it can take it from.
    fn copies(&self, row: &Tensor) -> Result<Vec<Tensor>, TrainError> {
        Ok(match &self.link {
            Some(link) => link.copies(row)?,
            None => vec![row.to_device(&Device::Cpu)?; self.threads.len()],
        })
    }

    /// The sum of rows, of which the first one is on the first device, there.
    fn sum(&self, rows: &[Tensor]) -> Result<Tensor, TrainError> {
        match self.link.as_ref().filter(|_| self.sums == GradientSums::Fast) {
            // A short batch has fewer parts than there are devices.
            Some(link) if rows.len() == 1 + self.threads.len() => Ok(link.sum(rows)?),
            _ => {
                let mut sum = rows[0].clone();
                for row in &rows[1..] {
                    let row = row.to_device(&Device::Cpu)?.to_device(sum.device())?;
                    sum = (&sum + row)?;
                }
                Ok(sum)
            }
        }
    }

    /// The mean over all parts; of several errors the one that the others follow from.
    fn mean(
        &self,
        own: Result<Outcome, TrainError>,
        others: Vec<Answer>,
    ) -> Result<Outcome, TrainError> {
        let (mut total, others) = all_well(own, others)?;
        total.loss *= total.weight;
        let mut rows = vec![total.gradients.row()?];
        for (row, outcome) in others {
            rows.push(row);
            total.loss += outcome.loss * outcome.weight;
            total.weight += outcome.weight;
            total.right += outcome.right;
            total.answers += outcome.answers;
        }
        total.loss /= total.weight;
        let row = self.sum(&rows)?.affine(1.0 / total.weight, 0.0)?;
        total.gradients = total.gradients.of_row(&row)?;
        Ok(total)
    }
}

/// What all devices give; of several errors the one that the others follow from.
fn all_well(
    own: Result<Outcome, TrainError>,
    others: Vec<Answer>,
) -> Result<(Outcome, Vec<(Tensor, Outcome)>), TrainError> {
    let follows = |error: &TrainError| error.to_string().contains(ANOTHER_FAILED);
    let mut failed = None;
    let mut keep = |error: TrainError| {
        if failed.as_ref().is_none_or(follows) {
            failed = Some(error);
        }
    };
    let own = own.map_err(&mut keep).ok();
    let others: Vec<_> = others.into_iter().filter_map(|o| o.map_err(&mut keep).ok()).collect();
    if let Some(error) = failed {
        return Err(error);
    }
    Ok((own.ok_or_else(ended)?, others))
}

fn ended() -> TrainError {
    TrainError::settings("devices", "the thread of a device ended")
}

fn items_of(batch: &Batch, range: std::ops::Range<usize>) -> Batch {
    fn part<T: Clone>(all: &[T], items: usize, range: &std::ops::Range<usize>) -> Vec<T> {
        let each = all.len() / items.max(1);
        all[range.start * each..range.end * each].to_vec()
    }
    let items = batch.items.len();
    Batch {
        items: part(&batch.items, items, &range),
        dims: batch.dims,
        values: part(&batch.values, items, &range),
        labels: part(&batch.labels, items, &range),
        targets: part(&batch.targets, items, &range),
        voxel_labels: part(&batch.voxel_labels, items, &range),
    }
}

fn weights_row(params: &Params) -> Result<Tensor, TrainError> {
    let flat = |p: &steer3d_nn::Parameter| p.var.as_detached_tensor().flatten_all();
    let all = params.trainable().iter().map(flat).collect::<Result<Vec<_>, _>>()?;
    Ok(Tensor::cat(&all, 0)?)
}

fn take_weights(params: &Params, row: &Tensor) -> Result<(), TrainError> {
    let row = row.to_device(params.device())?;
    let mut used = 0;
    for parameter in params.trainable() {
        let count = parameter.var.elem_count();
        parameter.var.set(&row.narrow(0, used, count)?.reshape(parameter.var.shape())?)?;
        used += count;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_the_batch_in_order() {
        let batch = Batch {
            dims: [1; 3],
            items: vec![7, 8, 9, 10, 11],
            values: (0..10).map(|i| i as f32).collect(),
            labels: vec![0, 1, 2, 3, 4],
            targets: vec![],
            voxel_labels: (0..15).map(Some).collect(),
        };
        for count in [1, 2, 3, 5, 9] {
            let part = |i: usize| items_of(&batch, Share::new(i, count).of(5));
            let parts: Vec<Batch> = (0..count).map(part).collect();
            let joined = |of: &dyn Fn(&Batch) -> Vec<u32>| -> Vec<u32> {
                parts.iter().flat_map(of).collect()
            };
            assert_eq!(joined(&|p| p.labels.clone()), batch.labels);
            assert_eq!(joined(&|p| p.items.iter().map(|&i| i as u32).collect()), [7, 8, 9, 10, 11]);
            assert_eq!(joined(&|p| p.values.iter().map(|&v| v as u32).collect()).len(), 10);
            let labels = joined(&|p| p.voxel_labels.iter().flatten().map(|&v| v.into()).collect());
            assert_eq!(labels[14], 14);
            assert!(parts.iter().all(|p| p.values.len() == 2 * p.items.len()));
        }
    }
}
