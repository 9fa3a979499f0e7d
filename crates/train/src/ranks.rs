//! Data parallelism over ranks: each computes its part of a batch, and all get the outcome of the whole.

use std::ops::Range;

use candle_core::{DType, Device, Tensor, Var, WithDType};
use steer3d_dataset::Batch;
use steer3d_nn::{Mode, Network, Params};
use steer3d_ranks::{AddUp, Adder, Number, Rank, RankError, Traffic};

use crate::config::GradientSums;
use crate::error::TrainError;
use crate::gradients::Gradients;
use crate::replicas::{Outcome, Task};
use crate::summed::{BUCKET, buckets, while_computed};

/// By which gradients get from GPU to GPU; else they go through the memory of the host.
#[cfg(feature = "nccl")]
use steer3d_ops::RankLink;

/// Without NCCL no devices are linked.
#[cfg(not(feature = "nccl"))]
enum RankLink {}

#[cfg(not(feature = "nccl"))]
impl RankLink {
    fn between(_device: &Device, _rank: &Rank) -> candle_core::Result<Option<Self>> {
        Ok(None)
    }

    fn sum(&self, _row: &Tensor) -> candle_core::Result<Tensor> {
        match *self {}
    }
}

/// How ranks add up their gradients.
pub(crate) struct Exchange {
    sums: GradientSums,
    /// Bytes that are added up together, at least.
    pub(crate) bucket: usize,
    link: Option<RankLink>,
}

impl Exchange {
    pub(crate) fn new(sums: GradientSums) -> Self {
        Self { sums, bucket: BUCKET, link: None }
    }

    /// Checks that all ranks add up alike, and links their devices where NCCL shall.
    pub(crate) fn connect(&mut self, device: &Device, rank: &Rank) -> Result<(), TrainError> {
        rank.agree("bytes that are added up together", &self.bucket.to_le_bytes())?;
        if self.sums == GradientSums::Ordered {
            return Ok(());
        }
        self.link = RankLink::between(device, rank)?;
        if self.link.is_none() && !rank.has_fast_sums() {
            let problem = "expected MPI between the processes or NCCL between their GPUs for \"fast\", found neither; use \
                           \"ordered\": over TCP all bytes go through rank 0, where no other order saves any";
            return Err(TrainError::settings("sums", problem));
        }
        Ok(())
    }

    /// The mean of what all ranks compute, whose gradients are those of sums of losses; `link` links them.
    fn mean(
        &self,
        rank: &Rank,
        link: Option<&RankLink>,
        params: &Params,
        compute: impl FnOnce() -> Result<Outcome, TrainError>,
    ) -> Result<Outcome, TrainError> {
        let (own, row) = match (link, params.dtype()) {
            (Some(link), _) => {
                let own = compute()?;
                // Whoever is slow or gone is waited for here, as long as ranks wait: NCCL waits for a shorter time.
                rank.meet()?;
                let row = link.sum(&own.gradients.row()?)?;
                (own, row)
            }
            (None, DType::F64) => self.added_up::<f64>(rank, params, compute)?,
            (None, _) => self.added_up::<f32>(rank, params, compute)?,
        };
        let Outcome { gradients, loss, weight, right, answers, x } = own;
        let sums = rank.sum(&[loss * weight, weight, right, answers])?;
        let [loss, weight, right, answers] = [sums[0] / sums[1], sums[1], sums[2], sums[3]];
        let gradients = gradients.of_row(&row.affine(1.0 / weight, 0.0)?)?;
        Ok(Outcome { gradients, loss, weight, right, answers, x })
    }

    fn added_up<T: Number + WithDType>(
        &self,
        rank: &Rank,
        params: &Params,
        compute: impl FnOnce() -> Result<Outcome, TrainError>,
    ) -> Result<(Outcome, Tensor), TrainError> {
        let add_up: AddUp<T> = match self.sums {
            GradientSums::Ordered => Rank::add_up,
            GradientSums::Fast => Rank::add_up_fast,
        };
        let (own, row) = while_computed(Adder::new(rank, add_up), params, self.bucket, compute)?;
        let count = row.len();
        Ok((own, Tensor::from_vec(row, count, params.device())?))
    }
}

/// The batch of `items` items of which `part` is this rank's: the same as [`Task::compute`] to rounding, on all ranks to
/// the same bits.
pub(crate) fn compute(
    rank: &Rank,
    exchange: &Exchange,
    task: Task<'_>,
    network: &Network,
    part: &mut Batch,
    items: usize,
    mode: Mode,
) -> Result<Outcome, TrainError> {
    let count = items.min(rank.size());
    let own = match rank.among_first(count)? {
        Some(few) => {
            let start = few.share().of(items).start;
            let few = few.after_items(start);
            let link = exchange.link.as_ref().filter(|_| count == rank.size());
            let compute = || task.compute(network, part, mode, true);
            Some(few.run(|| exchange.mean(&few, link, network.params(), compute))?)
        }
        None => None,
    };
    if count == rank.size()
        && let Some(total) = own
    {
        return Ok(total);
    }
    // The ranks that had no item get what the others have.
    let bytes = rank.from_first(|| own.as_ref().map_or(Ok(vec![]), to_bytes))?;
    own.map_or_else(|| of_bytes(network.params(), &bytes), Ok)
}

/// The numbers of an outcome, and its gradients in f64, which holds them exactly.
fn to_bytes(outcome: &Outcome) -> Result<Vec<u8>, TrainError> {
    let Outcome { gradients, loss, weight, right, answers, .. } = outcome;
    let mut numbers = vec![*loss, *weight, *right, *answers];
    numbers.extend(gradients.iter().map(|gradient| f64::from(u8::from(gradient.is_some()))));
    numbers.extend(gradients.row()?.to_dtype(DType::F64)?.to_vec1::<f64>()?);
    Ok(f64::to_bytes(&numbers))
}

fn of_bytes(params: &Params, bytes: &[u8]) -> Result<Outcome, TrainError> {
    let numbers = f64::of_bytes(bytes);
    let parts = numbers
        .split_first_chunk()
        .and_then(|(sums, rest)| Some((sums, rest.split_at_checked(params.trainable().len())?)));
    let (&[loss, weight, right, answers], (known, row)) = parts.ok_or(RankError::Different)?;
    let row = Tensor::new(row, &Device::Cpu)?.to_dtype(params.dtype())?;
    let gradients = Gradients::of_known(params, known, &row.to_device(params.device())?)?;
    Ok(Outcome { gradients, loss, weight, right, answers, x: None })
}

/// What each of several ranks gives to the others in a step of one batch: the statistics of batch norms, forward and
/// backward, gradients, losses, and whether to stop. Without recomputation, and with gradients that are added up in the
/// order of the ranks.
pub fn step_traffic(network: &Network, ranks: usize) -> Traffic {
    let params = network.params();
    let of_norm = |(name, var): (&str, &Var)| {
        // Means and variances of all fields and the number of items; then a sum for each weight and bias.
        let variances = name.ends_with("running_var");
        let numbers = if variances { 3 * var.elem_count() + 1 } else { var.elem_count() };
        let running = variances || name.ends_with("running_mean");
        if running { (2 * u64::from(variances), 8 * numbers) } else { (0, 0) }
    };
    let (of_norms, bytes) = params.all().map(of_norm).fold((0, 0), |a, b| (a.0 + b.0, a.1 + b.1));
    // A bucket is exchanged, and then its sums, of which each rank has a share.
    let numbers = |bucket: &Range<usize>| -> usize {
        params.trainable()[bucket.clone()].iter().map(|p| p.var.elem_count()).sum()
    };
    let buckets = buckets(params, BUCKET);
    let gradients: usize = buckets.iter().map(numbers).map(|count| count + count / ranks).sum();
    let losses = 4 * size_of::<f64>();
    let bytes = bytes + gradients * params.dtype().size_in_bytes() + losses + 1;
    let messages = of_norms + 2 * buckets.len() as u64 + 2;
    Traffic { messages, bytes: bytes as u64, ..Traffic::default() }
}

/// Gives all ranks the parameters and running statistics of the first.
pub(crate) fn take_first(rank: &Rank, params: &Params) -> Result<(), TrainError> {
    if rank.is_alone() {
        return Ok(());
    }
    let bytes = rank.from_first(|| parameters(params))?;
    let mut numbers = &f64::of_bytes(&bytes)[..];
    for (_, var) in params.all() {
        let parts = numbers.split_at_checked(var.elem_count());
        let (values, rest) = parts.ok_or(RankError::Different)?;
        let values = Tensor::from_slice(values, var.shape(), &Device::Cpu)?;
        var.set(&values.to_dtype(var.dtype())?.to_device(var.device())?)?;
        numbers = rest;
    }
    Ok(())
}

/// All parameters and running statistics as bytes, exactly.
pub(crate) fn parameters(params: &Params) -> Result<Vec<u8>, TrainError> {
    let mut numbers = vec![];
    for (_, var) in params.all() {
        numbers.extend(var.flatten_all()?.to_dtype(DType::F64)?.to_vec1::<f64>()?);
    }
    Ok(f64::to_bytes(&numbers))
}
