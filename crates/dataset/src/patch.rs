//! Boxes cut from volumes, for batches of one shape.

use std::array::from_fn;

use nalgebra::{Affine3, Vector3};
use steer3d_so3::{Irreps, Rotation, Stream};
use steer3d_volume::resample::{Interpolation, resample_to};
use steer3d_volume::volume::{Grid, Volume, VolumeError};

use crate::error::DatasetError;
use crate::reader::Dataset;
use crate::recipe::scalars;

/// A box of every volume, drawn by seed, epoch and item.
///
/// With the chance `foreground` its middle is a voxel that is not of the first class: a class of those that the item has
/// is drawn, then one of its voxels (as nnU-Net does, Isensee et al. 2021). Else every place is as likely. A box lies
/// within the volume where that is as long, and has the volume in its middle, with zeros without labels around it, where it
/// is shorter.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RandomPatch {
    /// Seed of the places.
    pub seed: u64,
    /// Epoch: another one gives other places.
    pub epoch: u64,
    /// D, H, W of the box.
    pub dims: [usize; 3],
    /// Chance, from 0 to 1, that its middle is foreground.
    pub foreground: f64,
}

/// A box of an item.
#[derive(Clone, Debug, PartialEq)]
pub struct Patch {
    /// C × D × H × W values.
    pub values: Vec<f32>,
    /// D × H × W labels of voxels, `None` outside of the volume; empty where the dataset has none.
    pub labels: Vec<Option<u8>>,
}

/// An entry of a batch: an item, or one of several boxes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// Index of the item.
    pub item: usize,
    /// Tells the samples of an item in an epoch apart, each of which has rotations and distortions of its own; 0 has those
    /// of the item.
    pub number: u32,
    /// The first voxel z, y, x of its box, where boxes are read and this one is not drawn.
    pub first: Option<[isize; 3]>,
}

impl From<usize> for Sample {
    fn from(item: usize) -> Self {
        Self { item, number: 0, first: None }
    }
}

impl Sample {
    /// What stands for an epoch (below 2³²) in the keys of its draws.
    pub(crate) fn epoch(&self, epoch: u64) -> u64 {
        epoch | (u64::from(self.number) << 32)
    }
}

impl RandomPatch {
    /// The first voxel z, y, x of the box of an item with these labels of voxels, which may be none.
    pub fn first(&self, item: usize, grid: &Grid, labels: &[u8]) -> [isize; 3] {
        let mut stream = Stream::new(self.seed, "patch", &[self.epoch, item as u64]);
        let dims = grid.dims();
        let foreground = stream.uniform() < self.foreground;
        let middle = foreground.then(|| foreground_voxel(labels, &mut stream)).flatten();
        from_fn(|axis| {
            let room = dims[axis] as isize - self.dims[axis] as isize;
            if room <= 0 {
                return room.div_euclid(2);
            }
            let first = match middle {
                Some(voxel) => place(voxel, dims)[axis] as isize - self.dims[axis] as isize / 2,
                None => (stream.uniform() * (room + 1) as f64) as isize,
            };
            first.clamp(0, room)
        })
    }
}

/// A voxel of a class but the first: a class of those that there are, then one of its voxels.
fn foreground_voxel(labels: &[u8], stream: &mut Stream) -> Option<usize> {
    let mut counts = [0usize; 256];
    labels.iter().for_each(|&label| counts[usize::from(label)] += 1);
    let present: Vec<usize> = (1..256).filter(|&class| counts[class] > 0).collect();
    let draw = |n: usize, stream: &mut Stream| ((stream.uniform() * n as f64) as usize).min(n - 1);
    let class = *present.get(draw(present.len().max(1), stream))?;
    let nth = draw(counts[class], stream);
    labels.iter().enumerate().filter(|(_, l)| usize::from(**l) == class).nth(nth).map(|(i, _)| i)
}

/// z, y, x of a voxel.
fn place(voxel: usize, [_, h, w]: [usize; 3]) -> [usize; 3] {
    [voxel / (h * w), voxel / w % h, voxel % w]
}

/// The box of `to` voxels D, H, W from the voxel `first` = z, y, x on, with zeros (no labels) where it reaches beyond the
/// `from` voxels of each channel.
pub(crate) fn cut<S: Copy, T: Copy + Default + From<S>>(
    values: &[S],
    from: [usize; 3],
    first: [isize; 3],
    to: [usize; 3],
) -> Vec<T> {
    let (voxels, part) = (from.iter().product::<usize>(), to.iter().product::<usize>());
    let mut target = vec![T::default(); values.len() / voxels * part];
    // Of the box, what lies in the volume.
    let inside: [_; 3] = from_fn(|axis| {
        let start = (-first[axis]).clamp(0, to[axis] as isize);
        start..(from[axis] as isize - first[axis]).clamp(start, to[axis] as isize)
    });
    let len = inside[2].len();
    for (source, target) in values.chunks_exact(voxels).zip(target.chunks_exact_mut(part)) {
        for z in inside[0].clone() {
            for y in inside[1].clone() {
                let row = (z + first[0]) as usize * from[1] + (y + first[1]) as usize;
                let source_at = row * from[2] + (inside[2].start + first[2]).max(0) as usize;
                let target_at =
                    (z as usize * to[1] + y as usize) * to[2] + inside[2].start as usize;
                if len > 0 {
                    let (source, target) = (&source[source_at..], &mut target[target_at..][..len]);
                    target.iter_mut().zip(source).for_each(|(to, from)| *to = (*from).into());
                }
            }
        }
    }
    target
}

impl Dataset {
    /// Reads a box of `dims` = D, H, W voxels of an item, from the voxel `first` = z, y, x on, with zeros where it reaches
    /// beyond the volume. Where each item has its own grid only its planes are read.
    ///
    /// # Errors
    /// As [`Dataset::read`], and if the box is empty or larger than a volume may be.
    pub fn read_block(
        &self,
        item: usize,
        first: [isize; 3],
        dims: [usize; 3],
    ) -> Result<Volume, DatasetError> {
        self.check_item(item)?;
        let (grid, origin) = (self.grid(item), self.origin(item));
        let at_item = |source| self.at_item(item, source);
        let block = Grid::new(dims, grid.voxel_size()).map_err(at_item)?;
        let [d, h, w] = grid.dims();
        let end = |at: isize| at.clamp(0, d as isize) as usize;
        let planes = end(first[0])..end(first[0] + dims[0] as isize);
        let start = planes.start as isize;
        let from = [planes.len(), h, w];
        let values = if planes.is_empty() {
            vec![0.0; self.meta().channels * block.voxels()]
        } else {
            let values = self.planes(item, planes)?;
            cut::<_, f32>(&values, from, [first[0] - start, first[1], first[2]], dims)
        };
        let size = grid.voxel_size();
        let origin = from_fn(|i| origin[i] + first[2 - i] as f64 * size[i]);
        Volume::new(values, self.meta().channels, block, origin).map_err(at_item)
    }

    /// Reads the box that `patch` draws of an item, turned by `rotation` about the middle of the box: the points or mesh of
    /// the item where they and a voxeliser are stored, else values by trilinear interpolation and labels from the nearest
    /// voxels.
    ///
    /// # Errors
    /// As [`Dataset::read`], and if the box is empty or larger than a volume may be.
    pub fn read_patch(
        &self,
        item: usize,
        patch: &RandomPatch,
        rotation: Option<&Rotation>,
    ) -> Result<Patch, DatasetError> {
        self.read_sample(&item.into(), patch, rotation)
    }

    /// [`read_patch`](Self::read_patch) of the box of a sample, where it has one.
    pub(crate) fn read_sample(
        &self,
        sample: &Sample,
        patch: &RandomPatch,
        rotation: Option<&Rotation>,
    ) -> Result<Patch, DatasetError> {
        let item = sample.item;
        self.check_item(item)?;
        let grid = self.grid(item);
        let first =
            |labels: &[u8]| sample.first.unwrap_or_else(|| patch.first(item, &grid, labels));
        if let Some(rotation) = rotation.filter(|_| self.can_voxelise()) {
            let mut values = vec![0.0; self.item_len(item)];
            self.read_rotated(item, rotation, &mut values)?;
            let labels = self.rotated_voxel_labels(item, rotation)?;
            let first = first(&labels);
            let values = cut(&values, grid.dims(), first, patch.dims);
            let labels = cut(&labels, grid.dims(), first, patch.dims);
            return Ok(Patch { values, labels });
        }
        let labels = self.voxel_labels(item)?;
        let first = first(&labels);
        let Some(rotation) = rotation else {
            let values = self.read_block(item, first, patch.dims)?.into_data();
            let labels = cut(&labels, grid.dims(), first, patch.dims);
            return Ok(Patch { values, labels });
        };
        let margin = margins(patch.dims, grid.voxel_size(), rotation);
        let first = from_fn(|axis| first[axis] - margin[axis] as isize);
        let dims = from_fn(|axis| patch.dims[axis] + 2 * margin[axis]);
        let at_item = |source| self.at_item(item, source);
        let block = self.read_block(item, first, dims)?.into_data();
        let irreps = &self.meta().irreps;
        let turn = |values, irreps: &Irreps, how| {
            turned_box(values, (grid.voxel_size(), dims), patch.dims, irreps, rotation, how)
        };
        let values = turn(block, irreps, Interpolation::Trilinear).map_err(at_item)?;
        let labels: Vec<Option<u8>> = cut(&labels, grid.dims(), first, dims);
        if labels.is_empty() {
            return Ok(Patch { values, labels });
        }
        let labels = moved_labels(&labels, turn).map_err(at_item)?;
        Ok(Patch { values, labels })
    }
}

/// What stands for a voxel without a label among those of others.
const NO_LABEL: f32 = -1.0;

/// Labels after what `how` does to a channel of scalars by the nearest voxel, which is 0 outside.
pub(crate) fn moved_labels(
    labels: &[Option<u8>],
    how: impl FnOnce(Vec<f32>, &Irreps, Interpolation) -> Result<Vec<f32>, VolumeError>,
) -> Result<Vec<Option<u8>>, VolumeError> {
    let values = labels.iter().map(|label| label.map_or(NO_LABEL, f32::from)).collect();
    let moved = how(values, &scalars(1)?, Interpolation::Nearest)?;
    Ok(moved.into_iter().map(|label| (label >= 0.0).then_some(label as u8)).collect())
}

/// How many voxels more to each side, D, H, W, a box of `dims` needs to be turned by `rotation`.
fn margins(dims: [usize; 3], size: [f64; 3], rotation: &Rotation) -> [usize; 3] {
    let half: [f64; 3] = from_fn(|i| dims[2 - i] as f64 * size[i] / 2.0);
    let reach = |i: usize| -> f64 {
        (0..3).map(|j| rotation.inverse().matrix()[(i, j)].abs() * half[j]).sum()
    };
    let more = |i: usize| ((reach(i) - half[i]) / size[i]).ceil().max(0.0) as usize + 1;
    [more(2), more(1), more(0)]
}

/// The box of `dims` voxels in the middle of a field with voxels of this size and shape after a rotation about its middle.
fn turned_box(
    values: Vec<f32>,
    (size, from): ([f64; 3], [usize; 3]),
    dims: [usize; 3],
    irreps: &Irreps,
    rotation: &Rotation,
    how: Interpolation,
) -> Result<Vec<f32>, VolumeError> {
    let channels = values.len() / from.iter().product::<usize>();
    let (volume, grid) =
        (Volume::centred(values, channels, Grid::new(from, size)?)?, Grid::new(dims, size)?);
    let corner = Vector3::from(grid.centre()).component_mul(&Vector3::from(size));
    let map: Affine3<f64> = nalgebra::convert(*rotation);
    let turned = resample_to(&volume, irreps, grid, (-corner).into(), &map, how)?;
    Ok(turned.into_data())
}
