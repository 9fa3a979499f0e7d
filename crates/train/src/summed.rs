//! Gradients that are added up over ranks while the backward pass goes on.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use candle_core::{Tensor, TensorId, WithDType};
use steer3d_nn::{Params, watch_gradients};
use steer3d_ranks::Adder;

use crate::error::TrainError;
use crate::gradients::Gradients;
use crate::replicas::Outcome;

/// Bytes of gradients that are added up together, at least: fewer would hardly take less time than the messages for them.
pub(crate) const BUCKET: usize = 1 << 18;

/// The places of the trainable tensors whose gradients are added up together, in their order. They are filled from the last
/// tensor on, whose gradient comes first.
pub(crate) fn buckets(params: &Params, bytes: usize) -> Vec<Range<usize>> {
    let (mut all, mut filled, mut end) = (vec![], 0, params.trainable().len());
    for (place, parameter) in params.trainable().iter().enumerate().rev() {
        filled += parameter.var.elem_count() * parameter.var.dtype().size_in_bytes();
        if filled >= bytes || place == 0 {
            all.push(place..end);
            (filled, end) = (0, place);
        }
    }
    all.reverse();
    all
}

/// What `compute` gives, which runs a network of `params` forward and backward, and the sums over all ranks of its
/// gradients, in a row. Each bucket of at least so many bytes is added up as soon as the backward pass has its gradients and
/// those of the buckets after it, so in the same order on all ranks.
pub(crate) fn while_computed<T: WithDType>(
    adder: Adder<T>,
    params: &Params,
    bytes: usize,
    compute: impl FnOnce() -> Result<Outcome, TrainError>,
) -> Result<(Outcome, Vec<T>), TrainError> {
    let sums = Arc::new(Mutex::new(Some(Sums::new(adder, params, bytes))));
    let told = Arc::clone(&sums);
    let tell = move |weight: &Tensor, gradient: &Tensor| {
        locked(&told).as_mut().map_or(Ok(()), |sums| sums.take(weight, gradient))
    };
    let computed = watch_gradients(tell, compute);
    let sums = locked(&sums).take().expect("nobody else takes them");
    match computed {
        Ok(outcome) => {
            let row = sums.end(&outcome.gradients)?;
            Ok((outcome, row))
        }
        Err(error) => Err(sums.cause().unwrap_or(error)),
    }
}

fn locked<T>(slot: &Mutex<T>) -> MutexGuard<'_, T> {
    slot.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The gradients of a backward pass.
struct Sums<T> {
    adder: Adder<T>,
    places: HashMap<TensorId, usize>,
    known: Vec<Option<Tensor>>,
    /// What is not added up yet.
    buckets: Vec<Range<usize>>,
}

impl<T: WithDType> Sums<T> {
    fn new(adder: Adder<T>, params: &Params, bytes: usize) -> Self {
        let ids = params.trainable().iter().map(|parameter| parameter.var.as_tensor().id());
        let places: HashMap<_, _> = ids.zip(0..).collect();
        Self { adder, known: vec![None; places.len()], places, buckets: buckets(params, bytes) }
    }

    /// Takes a gradient, and has the last buckets added up that are full.
    fn take(&mut self, weight: &Tensor, gradient: &Tensor) -> candle_core::Result<()> {
        if let Some(&place) = self.places.get(&weight.id()) {
            self.known[place] = Some(gradient.detach());
        }
        while let Some(bucket) = self.full() {
            self.add(bucket)?;
        }
        Ok(())
    }

    /// Takes the last bucket if all of its gradients are known.
    fn full(&mut self) -> Option<Range<usize>> {
        let known = &self.known;
        self.buckets.pop_if(|bucket| known[bucket.clone()].iter().all(Option::is_some))
    }

    fn add(&mut self, bucket: Range<usize>) -> candle_core::Result<()> {
        let known = self.known[bucket].iter().flatten().map(Tensor::flatten_all);
        let known = known.collect::<candle_core::Result<Vec<_>>>()?;
        let row = if known.is_empty() { vec![] } else { Tensor::cat(&known, 0)?.to_vec1()? };
        self.adder.add(row).map_err(candle_core::Error::wrap)
    }

    /// The sums of `all` gradients, not all of which were told, in the order of the parameters.
    fn end(mut self, all: &Gradients) -> Result<Vec<T>, TrainError> {
        for (known, gradient) in self.known.iter_mut().zip(all.iter()) {
            *known = known.take().or_else(|| gradient.cloned());
        }
        while let Some(bucket) = self.buckets.pop() {
            self.add(bucket)?;
        }
        Ok(self.adder.sums()?.into_iter().rev().flatten().collect())
    }

    /// What made a computation fail, if that was a sum for which another rank did not answer.
    fn cause(self) -> Option<TrainError> {
        let error = self.adder.sums().err()?;
        error.failure().is_none().then(|| error.into())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::Duration;

    use candle_core::{CpuStorage, CustomOp1, DType, Device, Layout, Shape};
    use steer3d_nn::layers::{Linear, LinearConfig};
    use steer3d_ranks::{Collectives, Failure, Rank, RankError};

    use super::*;

    /// The identity, in whose backward pass something happens.
    struct Middle<F>(F);

    impl<F: Fn() -> candle_core::Result<()>> CustomOp1 for Middle<F> {
        fn name(&self) -> &'static str {
            "middle"
        }

        fn cpu_fwd(
            &self,
            x: &CpuStorage,
            layout: &Layout,
        ) -> candle_core::Result<(CpuStorage, Shape)> {
            Ok((x.clone(), layout.shape().clone()))
        }

        fn bwd(
            &self,
            _: &Tensor,
            _: &Tensor,
            grad: &Tensor,
        ) -> candle_core::Result<Option<Tensor>> {
            (self.0)()?;
            Ok(Some(grad.clone()))
        }
    }

    /// The sums of the gradients of two layers, between whose backward passes `middle` happens, while these go on and
    /// afterwards.
    fn sums(
        rank: &Rank,
        bytes: usize,
        middle: impl Fn() -> candle_core::Result<()> + Send + Sync + 'static,
    ) -> Result<[Vec<f32>; 2], TrainError> {
        let mut params = Params::new(1, DType::F32, &Device::Cpu);
        params.weight("unused", vec![1.0], &[1], true)?;
        let first = Linear::new(params.pp("first"), LinearConfig::new(3, 4))?;
        let second = Linear::new(params.pp("second"), LinearConfig::new(4, 2))?;
        let x = (0..6).map(|i| ((rank.index() * 31 + i) as f32 * 0.7).sin());
        let x = Tensor::from_iter(x, &Device::Cpu)?.reshape((2, 3))?;
        let compute = || {
            let hidden = first.forward(&x)?.apply_op1(Middle(middle))?;
            let loss = second.forward(&hidden)?.sqr()?.sum_all()?;
            let gradients = Gradients::of(&params, &loss.backward()?);
            Ok(Outcome { gradients, loss: 0.0, weight: 1.0, right: 0.0, answers: 0.0, x: None })
        };
        let adder = Adder::<f32>::new(rank, Rank::add_up);
        let (outcome, meanwhile) = while_computed(adder, &params, bytes, compute)?;
        let mut afterwards = outcome.gradients.row()?.to_vec1::<f32>()?;
        rank.add_up(&mut afterwards)?;
        Ok([meanwhile, afterwards])
    }

    /// What each of three ranks gets.
    fn each<T: Send>(
        part: impl Fn(&Rank) -> Result<T, TrainError> + Sync,
    ) -> Vec<Result<T, TrainError>> {
        let part = &part;
        std::thread::scope(|scope| {
            let start = |rank: Rank| scope.spawn(move || rank.run(|| part(&rank)));
            let threads: Vec<_> = Rank::threads(3).into_iter().map(start).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        })
    }

    #[test]
    fn the_last_tensors_fill_the_first_bucket() {
        let mut params = Params::new(1, DType::F32, &Device::Cpu);
        assert!(buckets(&params, 1).is_empty());
        for (name, count) in [("a", 10), ("b", 1), ("c", 100), ("d", 3)] {
            params.weight(name, vec![0.0; count], &[count], true).unwrap();
        }
        assert_eq!(buckets(&params, 1), [0..1, 1..2, 2..3, 3..4]);
        assert_eq!(buckets(&params, 50), [0..2, 2..4]);
        let one = buckets(&params, usize::MAX);
        assert_eq!((one.len(), one[0].clone()), (1, 0..4));
    }

    #[test]
    fn sums_have_the_bits_of_those_after_the_backward_pass() {
        for bytes in [1, 20, usize::MAX] {
            for found in each(|rank| sums(rank, bytes, || Ok(()))) {
                let [meanwhile, afterwards] = found.unwrap();
                assert_eq!(meanwhile, afterwards, "{bytes}");
                assert_eq!(meanwhile.len(), 3 * 4 + 4 + 4 * 2 + 2);
            }
        }
    }

    #[test]
    fn sums_begin_before_the_backward_pass_ends() {
        let found = each(|rank| {
            let (own, seen) = (rank.clone(), Arc::new(AtomicU64::new(0)));
            let noted = Arc::clone(&seen);
            sums(rank, 1, move || {
                // Waits for the sums that have begun.
                own.meet().map_err(candle_core::Error::wrap)?;
                noted.store(own.traffic().messages, Ordering::SeqCst);
                Ok(())
            })?;
            Ok(seen.load(Ordering::SeqCst))
        });
        // Two for the weight and two for the bias of the second layer, and the meeting.
        assert!(found.into_iter().all(|messages| messages.unwrap() == 5));
    }

    #[test]
    fn an_error_in_the_middle_of_a_backward_pass_ends_all_ranks() {
        let found = each(|rank| {
            let fails = rank.index() == 1;
            sums(rank, 1, move || match fails {
                true => Err(candle_core::Error::msg("as wanted")),
                false => Ok(()),
            })
        });
        let found: Vec<_> = found.into_iter().map(|f| f.unwrap_err().to_string()).collect();
        assert!(found[1].contains("as wanted"), "{found:?}");
        for other in [&found[0], &found[2]] {
            assert_eq!(other, "another rank failed (rank 1)");
        }
    }

    /// A rank whose sums nobody answers.
    #[derive(Debug)]
    struct Lonely;

    impl Collectives for Lonely {
        fn index(&self) -> usize {
            0
        }

        fn size(&self) -> usize {
            2
        }

        fn gather(&self, bytes: Vec<u8>) -> Result<Arc<[Vec<u8>]>, RankError> {
            let limit = Duration::from_secs(9);
            match bytes.is_empty() {
                true => Err(RankError::Failed(self.fail(1))),
                false => Err(RankError::TimedOut { rank: 0, size: 2, limit }),
            }
        }

        fn first(&self, _count: usize) -> Result<Arc<dyn Collectives>, RankError> {
            Ok(Arc::new(Self))
        }

        fn fail(&self, code: u8) -> Failure {
            Failure { rank: 0, code }
        }
    }

    #[test]
    fn the_error_that_others_follow_from_is_told() {
        let rank = Rank::of(Arc::new(Lonely));
        let own = rank.clone();
        let error = sums(&rank, 1, move || own.meet().map_err(candle_core::Error::wrap));
        let message = error.unwrap_err().to_string();
        assert!(message.contains("no answer from the other ranks within 9 s"), "{message}");
    }
}
