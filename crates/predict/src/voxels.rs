//! Labels of voxels: of a whole map some planes at a time, in memory that does not grow with its depth or with its
//! number of classes, or, of the mean over several rotations, of all of it.

use std::ops::ControlFlow;

use candle_core::{DType, Device, Tensor};
use nalgebra::Affine3;
use rayon::prelude::*;
use steer3d_dataset::Prepared;
use steer3d_eval::Windows;
use steer3d_eval::metrics::{self, softmax};
use steer3d_files::memory;
use steer3d_formats::{Frame, Voxels};
use steer3d_nn::planes_at_once;
use steer3d_so3::{Irreps, Rotation};
use steer3d_volume::{Grid, Interpolation, Volume, resample_to, rotate};

use crate::error::PredictError;
use crate::inputs::{Input, file_of, unit_of};
use crate::items::{Item, map_path};
use crate::maps::Map;
use crate::model::{Model, Output};
use crate::options::{Options, Watch};
use crate::record::{Answer, Stability, deviation};

/// The labels of the voxels of an item, on its own grid, some planes at a time.
pub(crate) fn labelled(
    model: &Model,
    input: &Input,
    item: &Item,
    options: &Options,
    watch: Watch<'_>,
) -> Result<Answer, PredictError> {
    let made;
    let volume = if let Prepared::Volume(volume) = &item.prepared {
        volume
    } else {
        made = item.volume(model, &Rotation::identity())?;
        &made
    };
    let suited = model.folded_for(volume.voxel_size()).and_then(|folded| {
        let dims = volume.dims();
        let window = options.windows.map_or(dims, |w| [0, 1, 2].map(|i| w.size[i].min(dims[i])));
        folded.check_grid(window)?;
        Ok(folded)
    });
    let folded = suited.map_err(|error| {
        let (input, problem) = (input.name.clone(), error.to_string());
        PredictError::Input { input, problem }
    })?;
    let mut target = Target::new(model, input, item, options, volume)?;
    let params = model.network.params();
    let mut source = |first: usize, count: usize| {
        let x = planes_of(volume, first, count)?;
        Ok::<_, PredictError>(x.to_device(params.device())?.to_dtype(params.dtype())?)
    };
    let mut sink = |first: usize, logits: &Tensor| {
        let count = logits.dim(2)?;
        let logits = logits.to_device(&Device::Cpu)?.to_dtype(DType::F32)?;
        let logits = logits.flatten_all()?.to_vec1::<f32>()?;
        if logits.iter().any(|logit| !logit.is_finite()) {
            return Err(PredictError::Input {
                input: input.name.clone(),
                problem: "the network gives a number that is not finite".to_owned(),
            });
        }
        target.take(first, count, logits)?;
        match watch((first + count) as f64 / volume.dims()[0] as f64) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(PredictError::Stopped),
        }
    };
    let dims = volume.dims();
    match options.windows {
        Some(Windows { size, overlap }) => {
            folded.forward_windows(dims, size, overlap, &mut source, &mut sink)?;
        }
        None => {
            folded.forward_planes(dims, planes_at_once(dims), &mut source, &mut sink)?;
        }
    }
    target.finish()
}

/// Planes of a volume, 1,C,planes,H,W.
fn planes_of(volume: &Volume, first: usize, count: usize) -> Result<Tensor, PredictError> {
    let [_, h, w] = volume.dims();
    let channels = volume.data().chunks_exact(volume.grid().voxels());
    let data: Vec<f32> =
        channels.flat_map(|c| &c[first * h * w..(first + count) * h * w]).copied().collect();
    Ok(Tensor::from_vec(data, (1, volume.channels(), count, h, w), &Device::Cpu)?)
}

/// Where the labels of an item go.
struct Target {
    classes: usize,
    scalars: Irreps,
    /// The grid of the network's answers and its origin.
    grid: Grid,
    origin: [f64; 3],
    /// That of the item, where it is another one.
    other: Option<Resampled>,
    counts: Vec<u64>,
    labels: Option<Map>,
    probabilities: Option<Map>,
}

/// A grid to which probabilities are interpolated.
struct Resampled {
    grid: Grid,
    origin: [f64; 3],
    /// The next of its planes.
    next: usize,
    /// The first of the planes that are kept, their number, and their probabilities, class by class.
    first: usize,
    kept: Vec<Vec<f32>>,
}

impl Target {
    fn new(
        model: &Model,
        input: &Input,
        item: &Item,
        options: &Options,
        volume: &Volume,
    ) -> Result<Self, PredictError> {
        let names = model.classes();
        let classes = names.len();
        let (grid, origin) = (volume.grid(), volume.origin());
        let other = item.original.filter(|(original, _)| {
            original.dims() != grid.dims() || original.voxel_size() != grid.voxel_size()
        });
        let (written, place) = other.unwrap_or((grid, origin));
        let map = |channels: usize, voxels: Voxels, what: &str| {
            let Some(folder) = &options.maps else { return Ok(None) };
            let direction = item.direction;
            let frame = Frame { channels, grid: written, origin: place, direction, voxels };
            let path = map_path(folder, input, what);
            let unit = unit_of(input).unwrap_or(&model.card.unit);
            Map::create(path, &frame, &names, unit, file_of(input)).map(Some)
        };
        let labels = map(1, Voxels::Labels(classes), "labels")?;
        let probabilities = if options.probabilities {
            map(classes, Voxels::Values, "probabilities")?
        } else {
            None
        };
        Ok(Self {
            classes,
            scalars: scalars(model, classes)?,
            grid,
            origin,
            other: other.map(|(grid, origin)| Resampled {
                grid,
                origin,
                next: 0,
                first: 0,
                kept: vec![],
            }),
            counts: vec![0; classes],
            labels,
            probabilities,
        })
    }

    /// Takes the logits of planes, class by class.
    fn take(
        &mut self,
        first: usize,
        count: usize,
        mut values: Vec<f32>,
    ) -> Result<(), PredictError> {
        if self.other.is_some() || self.probabilities.is_some() {
            to_probabilities(&mut values, self.classes);
        }
        let Some(mut other) = self.other.take() else { return self.write(first, count, &values) };
        let plane = values.len() / self.classes / count;
        let of_plane = |i: usize| {
            let of_class = |class: usize| &values[(class * count + i) * plane..][..plane];
            (0..self.classes).flat_map(of_class).copied().collect()
        };
        other.kept.extend((0..count).map(of_plane));
        let ready = other.ready(self.grid, self.origin);
        if ready > other.next {
            let planes = ready - other.next;
            let values =
                other.planes(planes, self.classes, &self.scalars, self.grid, self.origin)?;
            self.write(other.next, planes, &values)?;
            other.next = ready;
            other.forget(self.grid, self.origin);
        }
        self.other = Some(other);
        Ok(())
    }

    /// Writes planes of the answers, and counts their labels. `values` are logits or probabilities, class by class.
    fn write(&mut self, first: usize, count: usize, values: &[f32]) -> Result<(), PredictError> {
        let labels = largest(values, self.classes);
        labels.iter().for_each(|&label| self.counts[label as usize] += 1);
        if let Some(map) = &mut self.labels {
            map.write(0, first, &labels)?;
        }
        if let Some(map) = &mut self.probabilities {
            let plane = values.len() / self.classes / count;
            for (class, values) in values.chunks_exact(count * plane).enumerate() {
                map.write(class, first, values)?;
            }
        }
        Ok(())
    }

    fn finish(self) -> Result<Answer, PredictError> {
        let total: u64 = self.counts.iter().sum();
        let shares = self.counts.iter().map(|&n| n as f64 / total.max(1) as f64).collect();
        self.probabilities.map(Map::finish).transpose()?;
        let map = self.labels.map(Map::finish).transpose()?;
        Ok(Answer::Voxels { shares, map: map.map(|path| path.display().to_string()) })
    }
}

impl Resampled {
    /// Where a plane lies among those of the answers.
    fn place(&self, plane: usize, grid: Grid, origin: [f64; 3]) -> f64 {
        (self.origin[2] + plane as f64 * self.grid.voxel_size()[2] - origin[2])
            / grid.voxel_size()[2]
    }

    /// The end of the planes for which all is there.
    fn ready(&self, grid: Grid, origin: [f64; 3]) -> usize {
        let [depth, ..] = grid.dims();
        let end = self.first + self.kept.len();
        let there = |plane: &usize| {
            end == depth || self.place(*plane, grid, origin).floor() + 2.0 <= end as f64
        };
        (self.next..self.grid.dims()[0]).find(|plane| !there(plane)).unwrap_or(self.grid.dims()[0])
    }

    /// So many planes from the next on.
    fn planes(
        &self,
        count: usize,
        classes: usize,
        scalars: &Irreps,
        grid: Grid,
        origin: [f64; 3],
    ) -> Result<Vec<f32>, PredictError> {
        let part = |grid: Grid, origin: [f64; 3], first: usize, planes: usize| {
            let [_, h, w] = grid.dims();
            let size = grid.voxel_size();
            let [x, y, z] = origin;
            Ok::<_, PredictError>((
                Grid::new([planes, h, w], size)?,
                [x, y, z + first as f64 * size[2]],
            ))
        };
        let (from, at) = part(grid, origin, self.first, self.kept.len())?;
        let plane = from.voxels() / self.kept.len();
        let by_class = (0..classes).flat_map(|class| {
            self.kept.iter().flat_map(move |kept| &kept[class * plane..][..plane])
        });
        let volume = Volume::new(by_class.copied().collect(), classes, from, at)?;
        let (to, at) = part(self.grid, self.origin, self.next, count)?;
        let still = Affine3::identity();
        let made = resample_to(&volume, scalars, to, at, &still, Interpolation::Trilinear)?;
        Ok(made.into_data())
    }

    /// Drops planes that no later one needs.
    fn forget(&mut self, grid: Grid, origin: [f64; 3]) {
        let needed = self.place(self.next, grid, origin).floor().max(0.0) as usize;
        let gone = needed.saturating_sub(self.first).min(self.kept.len().saturating_sub(1));
        self.kept.drain(..gone);
        self.first += gone;
    }
}

fn scalars(model: &Model, count: usize) -> Result<Irreps, PredictError> {
    format!("{count}x0").parse().map_err(|_| PredictError::Model {
        model: model.name.clone(),
        problem: format!("{count} classes of voxels are more than can be turned"),
    })
}

/// Voxels whose probabilities are made by one task.
const TOGETHER: usize = 4096;

/// Makes probabilities of logits, class by class.
fn to_probabilities(values: &mut [f32], classes: usize) {
    let voxels = values.len() / classes;
    let rows: Vec<Vec<f32>> = (0..voxels.div_ceil(TOGETHER))
        .into_par_iter()
        .map(|part| {
            let part = part * TOGETHER..((part + 1) * TOGETHER).min(voxels);
            let mut all = vec![0.0; classes * part.len()];
            for (i, voxel) in part.clone().enumerate() {
                let logits: Vec<f32> = (0..classes).map(|c| values[c * voxels + voxel]).collect();
                for (class, probability) in softmax(&logits).into_iter().enumerate() {
                    all[class * part.len() + i] = probability as f32;
                }
            }
            all
        })
        .collect();
    for (part, all) in rows.into_iter().enumerate() {
        let start = part * TOGETHER;
        let length = all.len() / classes;
        for (class, row) in all.chunks_exact(length).enumerate() {
            values[class * voxels + start..][..length].copy_from_slice(row);
        }
    }
}

/// The class with the largest value for each voxel, the first of equal ones.
fn largest(values: &[f32], classes: usize) -> Vec<f32> {
    metrics::largest(values, classes, |class| class as f32)
}

/// The labels of the voxels of an item, on its own grid: probabilities are turned back and averaged.
pub(crate) fn averaged(
    model: &Model,
    input: &Input,
    item: &Item,
    outputs: Vec<Output>,
    rotations: &[Rotation],
    options: &Options,
) -> Result<(Answer, Option<Stability>), PredictError> {
    let count = model.classes().len();
    let seen = match &item.prepared {
        Prepared::Volume(volume) => volume.clone(),
        _ => item.volume(model, &Rotation::identity())?,
    };
    let (grid, origin, voxels) = (seen.grid(), seen.origin(), seen.grid().voxels());
    let _room = memory::take((outputs.len() * count * voxels * size_of::<f32>()) as u64).map_err(
        |full| PredictError::Input { input: input.name.clone(), problem: full.to_string() },
    )?;
    let scalars = scalars(model, count)?;
    let maps = outputs.into_par_iter().zip(rotations).map(|(output, rotation)| {
        let mut data = output.output;
        to_probabilities(&mut data, count);
        let map = Volume::new(data, count, grid, origin)?;
        if rotation.angle() == 0.0 {
            return Ok(map);
        }
        Ok(rotate(&map, &scalars, &rotation.inverse(), Interpolation::Trilinear)?)
    });
    let maps = maps.collect::<Result<Vec<Volume>, PredictError>>()?;
    let share = 1.0 / maps.len() as f32;
    let mut mean = vec![0.0f32; count * voxels];
    for map in &maps {
        mean.iter_mut().zip(map.data()).for_each(|(mean, value)| *mean += share * value);
    }
    let stability = (maps.len() > 1).then(|| stability(&maps, &mean, count, voxels));
    let mut target = Target::new(model, input, item, options, &seen)?;
    let depth = grid.dims()[0];
    match target.other.take() {
        None => target.write(0, depth, &mean)?,
        Some(mut other) => {
            let plane = voxels / depth;
            let kept = |z: usize| {
                (0..count).flat_map(|c| &mean[c * voxels + z * plane..][..plane]).copied().collect()
            };
            other.kept = (0..depth).map(kept).collect();
            let planes = other.grid.dims()[0];
            let values = other.planes(planes, count, &scalars, grid, origin)?;
            target.write(0, planes, &values)?;
        }
    }
    Ok((target.finish()?, stability))
}

/// Share of the voxels of each rotation with the label that the mean gives, and the mean deviation of its probability.
fn stability(maps: &[Volume], mean: &[f32], count: usize, voxels: usize) -> Stability {
    let best = largest(mean, count);
    let same: usize = maps
        .iter()
        .map(|map| largest(map.data(), count).iter().zip(&best).filter(|(a, b)| a == b).count())
        .sum();
    let spread = |voxel: usize| {
        let at = best[voxel] as usize * voxels + voxel;
        deviation(maps.iter().map(|map| f64::from(map.data()[at])))
    };
    Stability {
        rotations: maps.len(),
        agreement: Some(same as f64 / (maps.len() * voxels) as f64),
        deviation: (0..voxels).map(spread).sum::<f64>() / voxels as f64,
    }
}
