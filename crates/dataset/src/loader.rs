//! Reading batches ahead, on several threads.

use std::array::from_fn;
use std::ops::Range;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::Scope;
use std::time::{Duration, Instant};

use nalgebra::Vector3;
use serde::{Deserialize, Serialize};
use steer3d_ranks::Share;
use steer3d_so3::rotations::random_rotation_within;
use steer3d_so3::{Rotation, Stream};

use crate::distort::RandomDistortion;
use crate::error::DatasetError;
use crate::patch::{RandomPatch, Sample, cut, moved_labels};
use crate::reader::Dataset;
use steer3d_volume::resample::{Interpolation, rotate_into};
use steer3d_volume::volume::{Grid, check_finite, checked_len};

/// A set of rotations, from which one is drawn uniformly.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(tag = "about", rename_all = "snake_case", deny_unknown_fields)]
pub enum Turns {
    /// Rotations about the z axis by at most `fraction` (above 0, at most 1) of half a turn either way.
    Z {
        /// Share of the circle.
        #[serde(default = "whole")]
        fraction: f64,
    },
    /// The rotations of SO(3) by the smallest angles that make up `fraction` (above 0, at most 1) of
    /// the group: 1 is all, 0.5 those by less than 132 degrees.
    So3 {
        /// Share of the group's volume.
        #[serde(default = "whole")]
        fraction: f64,
    },
}

fn whole() -> f64 {
    1.0
}

impl Turns {
    /// Share of the whole group.
    pub fn fraction(self) -> f64 {
        match self {
            Self::Z { fraction } | Self::So3 { fraction } => fraction,
        }
    }
}

/// Turns every volume by a random rotation, keyed by seed, epoch and item.
///
/// Where points and a voxeliser are stored, the points are turned and voxelised, without
/// interpolation; else the volume is turned by trilinear interpolation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RandomRotation {
    /// Seed of the rotations.
    pub seed: u64,
    /// Epoch: another one gives other rotations.
    pub epoch: u64,
    /// The rotations from which it is drawn.
    pub turns: Turns,
}

impl RandomRotation {
    /// The rotation of an item.
    pub fn of(&self, item: usize) -> Rotation {
        let mut stream = Stream::new(self.seed, "augment", &[self.epoch, item as u64]);
        match self.turns {
            Turns::So3 { fraction } => random_rotation_within(&mut stream, fraction),
            Turns::Z { fraction } => {
                let angle = std::f64::consts::PI * fraction * (2.0 * stream.uniform() - 1.0);
                Rotation::from_axis_angle(&Vector3::z_axis(), angle)
            }
        }
    }

    fn of_sample(&self, sample: &Sample) -> Rotation {
        Self { epoch: sample.epoch(self.epoch), ..*self }.of(sample.item)
    }
}

/// How a [`Loader`] reads.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LoaderOptions {
    /// Threads that read; at least one is used.
    pub threads: usize,
    /// Batches that are read or ready before they are asked for, as many by each thread; at least
    /// one is, and there are no more threads than these.
    pub ahead: usize,
    /// Random rotation of every volume.
    pub rotation: Option<RandomRotation>,
    /// Random box of every volume, instead of the whole; samples that have a box are read there.
    pub patch: Option<RandomPatch>,
    /// Random distortion of every volume, after its rotation.
    pub distortion: Option<RandomDistortion>,
    /// Which part of every batch is read.
    pub share: Share,
}

impl Default for LoaderOptions {
    /// As many threads as rayon uses, at most four; four batches ahead; whole batches, no rotation and no distortion.
    fn default() -> Self {
        let threads = rayon::current_num_threads().min(4);
        let share = Share::WHOLE;
        Self { threads, ahead: 4, rotation: None, patch: None, distortion: None, share }
    }
}

impl LoaderOptions {
    /// Reads the share of a batch.
    fn read(&self, dataset: &Dataset, samples: &[Sample]) -> Result<Batch, DatasetError> {
        let (rotation, part) = (self.rotation.as_ref(), self.share.of(samples.len()));
        let own = &samples[part.clone()];
        let mut batch = match &self.patch {
            None => Batch::read_part(dataset, samples, part, rotation)?,
            Some(patch) => Batch::read_boxes(dataset, own, rotation, patch)?,
        };
        if let Some(distortion) = &self.distortion {
            batch.distort_samples(dataset, own, distortion)?;
        }
        Ok(batch)
    }
}

/// Some items of a dataset.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    /// Indices of the items.
    pub items: Vec<usize>,
    /// D, H, W of every volume.
    pub dims: [usize; 3],
    /// N × C × D × H × W values.
    pub values: Vec<f32>,
    /// Label of each item.
    pub labels: Vec<u32>,
    /// N × T target values, turned with the items; none where the dataset has no targets.
    pub targets: Vec<f32>,
    /// N × D × H × W labels of voxels, turned with the items (nearest voxel, 0 from outside); `None` for the voxels that a
    /// batch or a box has around a volume; empty where the dataset has none.
    pub voxel_labels: Vec<Option<u8>>,
}

fn samples(items: &[usize]) -> Vec<Sample> {
    items.iter().map(|&item| item.into()).collect()
}

impl Batch {
    /// Reads the batch of some items, turned if asked for. Where they have several shapes, all get the largest D, H and W,
    /// with zeros (and voxels without a label) around smaller ones.
    ///
    /// # Errors
    /// As [`Dataset::read`], and if the largest D, H and W make too large a volume.
    pub fn read(
        dataset: &Dataset,
        items: &[usize],
        rotation: Option<&RandomRotation>,
    ) -> Result<Self, DatasetError> {
        Self::read_part(dataset, &samples(items), 0..items.len(), rotation)
    }

    /// Reads a part of such a batch: these of its samples, of the shape that they have in the whole batch.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    fn read_part(
        dataset: &Dataset,
        samples: &[Sample],
        part: Range<usize>,
        rotation: Option<&RandomRotation>,
    ) -> Result<Self, DatasetError> {
        samples.iter().try_for_each(|sample| dataset.check_item(sample.item))?;
        let shapes = || samples.iter().map(|sample| dataset.grid(sample.item).dims());
        let dims = shapes().reduce(|a, b| from_fn(|axis| a[axis].max(b[axis])));
        let dims = dims.unwrap_or(dataset.meta().dims);
        let channels = dataset.meta().channels;
        let first = samples.first().map_or(0, |sample| sample.item);
        let len = checked_len(channels, dims).map_err(|e| dataset.at_item(first, e))?;
        let samples = &samples[part];
        let mut values = vec![0.0; samples.len() * len];
        let mut voxel_labels = vec![];
        for (sample, target) in samples.iter().zip(values.chunks_exact_mut(len)) {
            let item = sample.item;
            let turn = rotation.map(|rotation| rotation.of_sample(sample));
            let own = dataset.grid(item).dims();
            let before = from_fn(|axis| -((dims[axis] - own[axis]) as isize / 2));
            let labels = match &turn {
                None => dataset.voxel_labels(item)?,
                Some(turn) => dataset.rotated_voxel_labels(item, turn)?,
            };
            if own == dims {
                dataset.read_turned(item, turn.as_ref(), target)?;
                voxel_labels.extend(labels.into_iter().map(Some));
            } else {
                let mut smaller = vec![0.0; dataset.item_len(item)];
                dataset.read_turned(item, turn.as_ref(), &mut smaller)?;
                target.copy_from_slice(&cut::<_, f32>(&smaller, own, before, dims));
                voxel_labels.extend(cut::<_, Option<u8>>(&labels, own, before, dims));
            }
        }
        Ok(Self::of(dataset, samples, rotation, dims, values, voxel_labels))
    }

    /// Reads a box of each of some items, turned if asked for.
    ///
    /// # Errors
    /// As [`Dataset::read_patch`].
    pub fn read_patches(
        dataset: &Dataset,
        items: &[usize],
        rotation: Option<&RandomRotation>,
        patch: &RandomPatch,
    ) -> Result<Self, DatasetError> {
        Self::read_boxes(dataset, &samples(items), rotation, patch)
    }

    fn read_boxes(
        dataset: &Dataset,
        samples: &[Sample],
        rotation: Option<&RandomRotation>,
        patch: &RandomPatch,
    ) -> Result<Self, DatasetError> {
        let (mut values, mut voxel_labels) = (vec![], vec![]);
        for sample in samples {
            let turn = rotation.map(|rotation| rotation.of_sample(sample));
            let read = dataset.read_sample(sample, patch, turn.as_ref())?;
            values.extend(read.values);
            voxel_labels.extend(read.labels);
        }
        Ok(Self::of(dataset, samples, rotation, patch.dims, values, voxel_labels))
    }

    fn of(
        dataset: &Dataset,
        samples: &[Sample],
        rotation: Option<&RandomRotation>,
        dims: [usize; 3],
        values: Vec<f32>,
        voxel_labels: Vec<Option<u8>>,
    ) -> Self {
        let items: Vec<usize> = samples.iter().map(|sample| sample.item).collect();
        let labels = items.iter().map(|&item| dataset.labels()[item]).collect();
        let targets = samples.iter().flat_map(|sample| match rotation {
            None => dataset.targets(sample.item).to_vec(),
            Some(rotation) => dataset.rotated_targets(sample.item, &rotation.of_sample(sample)),
        });
        let targets = targets.map(|x| x as f32).collect();
        Self { items, dims, values, labels, targets, voxel_labels }
    }
}

impl Batch {
    /// Distorts every volume with its targets and labels of voxels.
    ///
    /// # Errors
    /// [`DatasetError::Volume`] as [`RandomDistortion::distort`] says.
    pub fn distort(
        &mut self,
        dataset: &Dataset,
        distortion: &RandomDistortion,
    ) -> Result<(), DatasetError> {
        let samples = samples(&self.items);
        self.distort_samples(dataset, &samples, distortion)
    }

    /// [`distort`](Self::distort) where these samples were read.
    fn distort_samples(
        &mut self,
        dataset: &Dataset,
        samples: &[Sample],
        distortion: &RandomDistortion,
    ) -> Result<(), DatasetError> {
        fn part<T>(all: &mut [T], items: usize, i: usize) -> &mut [T] {
            let each = all.len() / items;
            &mut all[i * each..(i + 1) * each]
        }
        let count = samples.len();
        for (i, sample) in samples.iter().enumerate() {
            let item = sample.item;
            let own = RandomDistortion { epoch: sample.epoch(distortion.epoch), ..*distortion };
            let values = part(&mut self.values, count, i);
            let labels = part(&mut self.voxel_labels, count, i);
            let targets = part(&mut self.targets, count, i);
            let grid = Grid::new(self.dims, dataset.grid(item).voxel_size());
            let done =
                grid.and_then(|grid| own.distort(dataset, item, &grid, values, labels, targets));
            done.map_err(|source| dataset.at_item(item, source))?;
        }
        Ok(())
    }
}

impl Dataset {
    fn read_turned(
        &self,
        item: usize,
        turn: Option<&Rotation>,
        target: &mut [f32],
    ) -> Result<(), DatasetError> {
        match turn {
            None => self.read_many(&[item], target),
            Some(turn) => self.read_rotated(item, turn, target),
        }
    }

    /// Reads a volume turned by `rotation` into C × D × H × W values: its points or mesh are turned
    /// and voxelised where they and a voxeliser are stored, else it is turned by trilinear
    /// interpolation.
    ///
    /// # Errors
    /// As [`Dataset::read`], and if `target` has another length or `rotation` is not a rotation.
    pub fn read_rotated(
        &self,
        item: usize,
        rotation: &Rotation,
        target: &mut [f32],
    ) -> Result<(), DatasetError> {
        let meta = self.meta();
        let made = self.made_from_source(item, rotation)?;
        let made = made.filter(|made| made.data().len() == target.len());
        let turned = if let Some(made) = made {
            target.copy_from_slice(made.data());
            Ok(())
        } else {
            let volume = self.read(item)?;
            let (irreps, how) = (&meta.irreps, Interpolation::Trilinear);
            rotate_into(volume.data(), &volume.grid(), irreps, rotation, how, target)
        };
        turned
            .and_then(|()| check_finite("volume", target))
            .map_err(|source| DatasetError::Volume { path: self.path().to_owned(), item, source })
    }

    /// Target values of an item after `rotation`.
    fn rotated_targets(&self, item: usize, rotation: &Rotation) -> Vec<f64> {
        let Some(irreps) = self.tasks().and_then(|tasks| tasks.targets.as_ref()) else {
            return vec![];
        };
        let values = nalgebra::DVector::from_column_slice(self.targets(item));
        (irreps.wigner_d(rotation) * values).as_slice().to_vec()
    }

    /// Labels of the voxels of an item after `rotation`: those of the nearest stored voxels, 0 outside.
    pub(crate) fn rotated_voxel_labels(
        &self,
        item: usize,
        rotation: &Rotation,
    ) -> Result<Vec<u8>, DatasetError> {
        let labels = self.voxel_labels(item)?;
        if labels.is_empty() {
            return Ok(labels);
        }
        let grid = self.grid(item);
        let labels: Vec<Option<u8>> = labels.into_iter().map(Some).collect();
        let turned = moved_labels(&labels, |labels, scalar, how| {
            let mut turned = vec![0.0; labels.len()];
            rotate_into(&labels, &grid, scalar, rotation, how, &mut turned)?;
            Ok(turned)
        });
        let turned = turned.map_err(|source| self.at_item(item, source))?;
        Ok(turned.into_iter().flatten().collect())
    }
}

/// Reads batches ahead of their use on threads of their own.
///
/// The batches come in the order and with the values of reading one after the other, whatever the
/// number of threads. An error comes in the place of its batch. Dropped, it ends its threads once
/// each has read its current batch.
///
/// ```no_run
/// # use steer3d_dataset::{Dataset, Loader, LoaderOptions, Split};
/// let dataset = Dataset::open("cath.h5")?;
/// let batches = dataset.indices(Split::Train).chunks(8).map(<[_]>::to_vec).collect();
/// std::thread::scope(|scope| {
///     for batch in Loader::new(scope, &dataset, batches, LoaderOptions::default()) {
///         println!("{:?}", batch?.labels);
///     }
///     Ok::<(), steer3d_dataset::DatasetError>(())
/// })?;
/// # Ok::<(), steer3d_dataset::DatasetError>(())
/// ```
#[derive(Debug)]
pub struct Loader {
    /// One for each thread: of n threads, each reads every n-th batch.
    threads: Vec<Receiver<Result<Batch, DatasetError>>>,
    batches: usize,
    taken: usize,
    waited: Duration,
}

impl Loader {
    /// Begins to read `batches`, each the indices of some items.
    pub fn new<'scope, 'env>(
        scope: &'scope Scope<'scope, 'env>,
        dataset: &'env Dataset,
        batches: Vec<Vec<usize>>,
        options: LoaderOptions,
    ) -> Self {
        let samples = |items: Vec<usize>| items.into_iter().map(Sample::from).collect::<Vec<_>>();
        Self::of_samples(scope, dataset, batches.into_iter().map(samples).collect(), options)
    }

    /// Begins to read `batches` of samples.
    pub fn of_samples<'scope, 'env>(
        scope: &'scope Scope<'scope, 'env>,
        dataset: &'env Dataset,
        batches: Vec<Vec<Sample>>,
        options: LoaderOptions,
    ) -> Self {
        let count = batches.len();
        let ahead = options.ahead.max(1);
        let threads = options.threads.clamp(1, ahead.min(count.max(1)));
        let batches = Arc::new(batches);
        let read = |first: usize| {
            // The batch that a thread has in its hands is one ahead too.
            let (sender, receiver) = sync_channel(ahead / threads - 1);
            let batches = Arc::clone(&batches);
            scope.spawn(move || {
                for samples in batches.iter().skip(first).step_by(threads) {
                    // Once the loader is dropped, nobody receives.
                    if sender.send(options.read(dataset, samples)).is_err() {
                        break;
                    }
                }
            });
            receiver
        };
        let threads = (0..threads).map(read).collect();
        Self { threads, batches: count, taken: 0, waited: Duration::ZERO }
    }

    /// How long [`Loader::next`] has waited for batches that were not ready.
    pub fn waited(&self) -> Duration {
        self.waited
    }
}

impl Iterator for Loader {
    type Item = Result<Batch, DatasetError>;

    /// The next batch.
    ///
    /// # Panics
    /// If a reading thread has panicked.
    fn next(&mut self) -> Option<Self::Item> {
        if self.taken == self.batches {
            return None;
        }
        let start = Instant::now();
        let thread = &self.threads[self.taken % self.threads.len()];
        let batch = thread.recv().expect("a loader thread has panicked");
        self.taken += 1;
        self.waited += start.elapsed();
        Some(batch)
    }
}
