use std::ops::ControlFlow;
use std::path::PathBuf;

use nalgebra::{Affine3, DVector};
use rayon::prelude::*;
use steer3d_dataset::{FileReader, Prepared, Recipe};
use steer3d_eval::AnswerKind;
use steer3d_eval::metrics::softmax;
use steer3d_formats::{Voxels, write_volume, write_volume_like};
use steer3d_so3::sampling::super_fibonacci;
use steer3d_so3::{Irreps, Rotation};
use steer3d_volume::{Interpolation, Volume, resample_to, rotate};

use crate::error::PredictError;
use crate::inputs::{Input, Inputs};
use crate::items::{Item, Unread, file_of, map_path, read};
use crate::model::{Model, Output};
use crate::record::{Answer, Record, Stability, classes, deviation, largest, values};

/// How to predict.
#[derive(Clone, Debug)]
pub struct Options {
    /// Rotations of each item, at least 1: the first leaves it as it is, and the others are spread evenly.
    pub rotations: usize,
    /// Whether the features before the head are given.
    pub features: bool,
    /// Folder for the labels of voxels.
    pub maps: Option<PathBuf>,
    /// Whether the probability of every class of voxels is written there, too.
    pub probabilities: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { rotations: 1, features: false, maps: None, probabilities: false }
    }
}

/// Values of the volumes of a batch, about.
const BATCH_VALUES: usize = 4 << 20;

/// Largest number of volumes in a batch.
const BATCH_VOLUMES: usize = 32;

/// Answers for all inputs from number `first` on, in their order. While the network computes, the next items are read;
/// two batches are in memory. `sink` gets the record of each item, and the SHA-256 of its file if it is one, and may
/// stop. The records depend neither on the number of threads nor on where the run begins.
///
/// # Errors
/// If the network fails, or what `sink` says. What is wrong with an item is in its record.
pub fn predict(
    model: &Model,
    inputs: &Inputs,
    options: &Options,
    first: usize,
    sink: &mut dyn FnMut(Record, Option<String>) -> Result<ControlFlow<()>, PredictError>,
) -> Result<(), PredictError> {
    let rotations = rotations(options.rotations);
    let values = model.card.model.channels() * model.card.dims.iter().product::<usize>();
    let volumes = (BATCH_VALUES / values.max(1)).clamp(1, BATCH_VOLUMES);
    let each = (volumes / rotations.len()).max(1);
    let reader = FileReader::new(model.recipe.as_ref().map_or_else(Default::default, Recipe::nan));
    let read_all = |group: &[Input]| -> Vec<Result<Item, Unread>> {
        let mut items: Vec<_> = group.par_iter().map(|input| read(input, model, &reader)).collect();
        for (input, item) in group.iter().zip(&mut items) {
            if item.as_ref().is_err_and(|unread| unread.temporary) {
                *item = read(input, model, &reader);
            }
        }
        items
    };
    let rest = inputs.items.get(first..).unwrap_or_default();
    let mut groups = rest.chunks(each);
    let mut current = groups.next().map(|group| (group, read_all(group)));
    while let Some((group, items)) = current {
        let next = groups.next();
        let answer = || answers(model, group, &items, &rotations, volumes, options);
        let (records, read) = rayon::join(answer, || next.map(|group| (group, read_all(group))));
        for (record, item) in records?.into_iter().zip(items) {
            let sha256 = item.ok().and_then(|item| item.sha256);
            if sink(record, sha256)?.is_break() {
                return Ok(());
            }
        }
        current = read;
    }
    Ok(())
}

/// The identity, and rotations that are spread evenly with it.
fn rotations(count: usize) -> Vec<Rotation> {
    let spread = super_fibonacci(count.max(1));
    let back = spread[0].inverse();
    let others = spread.iter().skip(1).map(|rotation| rotation * back);
    std::iter::once(Rotation::identity()).chain(others).collect()
}

/// The records of a group of items.
fn answers(
    model: &Model,
    group: &[Input],
    items: &[Result<Item, Unread>],
    rotations: &[Rotation],
    most: usize,
    options: &Options,
) -> Result<Vec<Record>, PredictError> {
    let mut outputs: Vec<Vec<Output>> = items.iter().map(|_| vec![]).collect();
    let mut failed: Vec<Option<String>> =
        items.iter().map(|item| item.as_ref().err().map(|unread| unread.problem.clone())).collect();
    let jobs = items.iter().enumerate().filter_map(|(at, item)| Some((at, item.as_ref().ok()?)));
    let jobs: Vec<(usize, &Item, &Rotation)> =
        jobs.flat_map(|(at, item)| rotations.iter().map(move |r| (at, item, r))).collect();
    let same = |a: &(usize, &Item, &Rotation), b: &(usize, &Item, &Rotation)| {
        a.1.dims(model) == b.1.dims(model)
    };
    for jobs in jobs.chunk_by(same).flat_map(|alike| alike.chunks(most)) {
        let made: Vec<_> =
            jobs.par_iter().map(|(_, item, rotation)| item.volume(model, rotation)).collect();
        let (mut volumes, mut made_of) = (vec![], vec![]);
        for (job, volume) in jobs.iter().zip(made) {
            match volume {
                Ok(volume) => {
                    volumes.extend(volume.into_data());
                    made_of.push(job.0);
                }
                Err(error) => failed[job.0] = Some(error.to_string()),
            }
        }
        let Some((_, item, _)) = jobs.first().filter(|_| !made_of.is_empty()) else { continue };
        let rows = model.answer(volumes, made_of.len(), item.dims(model))?;
        made_of.into_iter().zip(rows).for_each(|(at, output)| outputs[at].push(output));
    }
    let all = group.iter().zip(items).zip(outputs.into_iter().zip(failed));
    all.map(|((input, item), (outputs, failed))| match (item, failed) {
        (Ok(item), None) => record(model, input, item, &outputs, rotations, options),
        (_, failed) => Ok(Record::failed(&input.name, failed.unwrap_or_default())),
    })
    .collect()
}

fn record(
    model: &Model,
    input: &Input,
    item: &Item,
    outputs: &[Output],
    rotations: &[Rotation],
    options: &Options,
) -> Result<Record, PredictError> {
    if outputs.iter().flat_map(|o| o.output.iter()).any(|value| !value.is_finite()) {
        let problem = "the network gives a number that is not finite".to_owned();
        return Ok(Record::failed(&input.name, problem));
    }
    let mut warnings = item.warnings.clone();
    let typical = model.card.origin.typical.as_ref();
    let typical = typical.filter(|typical| typical.mean.len() == outputs[0].features.len());
    let unlike =
        typical.map(|t| t.distance(&outputs[0].features) / t.threshold.max(f64::MIN_POSITIVE));
    if let Some(distance) = unlike.filter(|distance| *distance > 1.0) {
        warnings.push(format!(
            "unlike the training data: {distance:.1} times as far from them as 99 % of the known volumes"
        ));
    }
    let names = model.classes();
    let (answer, stability) = match model.answers {
        AnswerKind::Classes => {
            let rows: Vec<Vec<f32>> = outputs.iter().map(|o| o.output.clone()).collect();
            classes(&names, &rows)
        }
        AnswerKind::Values => {
            let irreps = model.targets();
            let back = |(output, rotation): (&Output, &Rotation)| {
                turned_back(&irreps, &output.output, rotation)
            };
            let rows: Vec<Vec<f64>> = outputs.iter().zip(rotations).map(back).collect();
            let meaning = &model.card.meaning;
            values(&irreps, &meaning.target_names, &meaning.target_units, &rows)
        }
        AnswerKind::Voxels => voxels(model, input, item, outputs, rotations, options)?,
    };
    Ok(Record {
        item: input.name.clone(),
        answer: Some(answer),
        stability,
        unlike,
        warnings,
        features: options.features.then(|| outputs[0].features.clone()),
        error: None,
    })
}

/// Values of the item as it was, of those of the turned one.
fn turned_back(irreps: &Irreps, values: &[f32], rotation: &Rotation) -> Vec<f64> {
    let values = DVector::from_iterator(values.len(), values.iter().map(|&x| f64::from(x)));
    if rotation.angle() == 0.0 {
        return values.as_slice().to_vec();
    }
    irreps.wigner_d(rotation).tr_mul(&values).as_slice().to_vec()
}

/// The labels of the voxels of an item, on its own grid: probabilities are turned back and averaged.
fn voxels(
    model: &Model,
    input: &Input,
    item: &Item,
    outputs: &[Output],
    rotations: &[Rotation],
    options: &Options,
) -> Result<(Answer, Option<Stability>), PredictError> {
    let names = model.classes();
    let count = names.len();
    let seen = match &item.prepared {
        Prepared::Volume(volume) => volume.clone(),
        _ => item.volume(model, &Rotation::identity())?,
    };
    let (grid, origin, voxels) = (seen.grid(), seen.origin(), seen.grid().voxels());
    let scalars: Irreps = format!("{count}x0").parse().map_err(|_| PredictError::Model {
        model: model.name.clone(),
        problem: format!("{count} classes of voxels are more than can be turned"),
    })?;
    let maps = outputs.par_iter().zip(rotations).map(|(output, rotation)| {
        let mut data = vec![0.0f32; count * voxels];
        for voxel in 0..voxels {
            let logits: Vec<f32> = (0..count).map(|c| output.output[c * voxels + voxel]).collect();
            for (class, probability) in softmax(&logits).into_iter().enumerate() {
                data[class * voxels + voxel] = probability as f32;
            }
        }
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
    let mut mean = Volume::new(mean, count, grid, origin)?;
    if let Some(original) = &item.original
        && (original.dims() != mean.dims() || original.voxel_size() != mean.voxel_size())
    {
        let (still, how) = (Affine3::identity(), Interpolation::Trilinear);
        mean = resample_to(&mean, &scalars, original.grid(), original.origin(), &still, how)?;
    }
    let labels = labels(mean.data(), count);
    let mut shares = vec![0.0; count];
    labels.iter().for_each(|&label| shares[label as usize] += 1.0 / labels.len() as f64);
    let map = match &options.maps {
        None => None,
        Some(folder) => {
            let write = |what: &str, volume: &Volume, voxels: Voxels| {
                let path = map_path(folder, input, what);
                let written = match file_of(input) {
                    Some(like) => write_volume_like(&path, volume, voxels, like),
                    None => write_volume(&path, volume, voxels),
                };
                written.map_err(|e| PredictError::output(&path, &e))?;
                Ok::<_, PredictError>(path.display().to_string())
            };
            let labels = Volume::new(labels, 1, mean.grid(), mean.origin())?;
            let path = write("labels", &labels, Voxels::Labels)?;
            if options.probabilities {
                write("probabilities", &mean, Voxels::Values)?;
            }
            Some(path)
        }
    };
    Ok((Answer::Voxels { shares, map }, stability))
}

/// The most probable class of each voxel.
fn labels(probabilities: &[f32], count: usize) -> Vec<f32> {
    let voxels = probabilities.len() / count;
    let class = |voxel: usize| {
        let of: Vec<f64> = (0..count).map(|c| probabilities[c * voxels + voxel].into()).collect();
        largest(&of) as f32
    };
    (0..voxels).map(class).collect()
}

/// Share of the voxels of each rotation with the label that the mean gives, and the mean deviation of its probability.
fn stability(maps: &[Volume], mean: &[f32], count: usize, voxels: usize) -> Stability {
    let best = labels(mean, count);
    let same: usize = maps
        .iter()
        .map(|map| labels(map.data(), count).iter().zip(&best).filter(|(a, b)| a == b).count())
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
