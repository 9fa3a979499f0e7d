use std::ops::ControlFlow;

use nalgebra::DVector;
use rayon::prelude::*;
use steer3d_dataset::{FileReader, Recipe};
use steer3d_eval::AnswerKind;
use steer3d_ranks::{Rank, RankError};
use steer3d_so3::sampling::super_fibonacci;
use steer3d_so3::{Irreps, Rotation};

use crate::error::PredictError;
use crate::inputs::{Input, Inputs};
use crate::items::{Item, Unread, read};
use crate::model::{Model, Output};
use crate::options::{Options, Watch};
use crate::record::{Record, classes, values};
use crate::voxels;

/// Values of the volumes of a batch, about.
const BATCH_VALUES: usize = 4 << 20;

/// Largest number of volumes in a batch.
const BATCH_VOLUMES: usize = 32;

/// Answers for all inputs from number `first` on, in their order. While the network computes, the next items are read;
/// two batches are in memory. `sink` gets the record of each item, and the SHA-256 of its file if it is one, and may
/// stop. The records depend neither on the number of threads nor on where the run begins. `watch` is told which share of
/// a map is labelled, and may stop as well: then there is no record of it. Of several [ranks](Rank::run) each answers for
/// some of the inputs, and the sinks of all get all records.
///
/// # Errors
/// If the network fails, or what `sink` says. What is wrong with an item is in its record.
pub fn predict(
    model: &Model,
    inputs: &Inputs,
    options: &Options,
    first: usize,
    sink: &mut dyn FnMut(Record, Option<String>) -> Result<ControlFlow<()>, PredictError>,
    watch: Watch<'_>,
) -> Result<(), PredictError> {
    options.check(model)?;
    let rotations = rotations(options.rotations);
    let values = model.card.model.channels() * model.card.dims.iter().product::<usize>();
    let volumes = (BATCH_VALUES / values.max(1)).clamp(1, BATCH_VOLUMES);
    // A map may be far larger than what the network was trained on.
    let each = match model.answers {
        AnswerKind::Voxels => 1,
        _ => (volumes / rotations.len()).max(1),
    };
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
    let groups: Vec<&[Input]> = rest.chunks(each).collect();
    let rank = Rank::current();
    let mut own = rank.own(groups.len()).map(|i| groups[i]);
    let mut current = own.next().map(|group| (group, read_all(group)));
    // A round has a group for each rank.
    for round in groups.chunks(rank.size()) {
        let mut answered = vec![];
        if let Some((group, items)) = current {
            let next = own.next();
            let answer = || answers(model, group, &items, &rotations, volumes, options, watch);
            let (records, read) =
                rayon::join(answer, || next.map(|group| (group, read_all(group))));
            let records = match records {
                Err(PredictError::Stopped) => return Ok(()),
                records => records?,
            };
            let sha256 = items.into_iter().map(|item| item.ok().and_then(|item| item.sha256));
            answered = records.into_iter().zip(sha256).collect();
            current = read;
        }
        for (record, sha256) in of_all(&rank, round.len(), answered)? {
            if sink(record, sha256)?.is_break() {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// A record, and the SHA-256 of the file that it is of.
type Answered = (Record, Option<String>);

/// What the first `count` ranks have, in their order.
fn of_all(rank: &Rank, count: usize, own: Vec<Answered>) -> Result<Vec<Answered>, RankError> {
    if rank.is_alone() {
        return Ok(own);
    }
    let bytes =
        |_| Ok::<_, RankError>(serde_json::to_vec(&own).expect("plain data have a JSON form"));
    let all = rank.deal(count, bytes)?;
    let all = all.iter().map(|bytes| serde_json::from_slice::<Vec<Answered>>(bytes));
    let all: Vec<_> = all.collect::<Result<_, _>>().map_err(|_| RankError::Different)?;
    Ok(all.concat())
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
    watch: Watch<'_>,
) -> Result<Vec<Record>, PredictError> {
    let in_parts = model.folded().is_local() || options.windows.is_some();
    if model.answers == AnswerKind::Voxels && rotations.len() == 1 && in_parts {
        return group
            .iter()
            .zip(items)
            .map(|(input, item)| by_planes(model, input, item, options, watch))
            .collect();
    }
    let mut outputs: Vec<Vec<Output>> = items.iter().map(|_| vec![]).collect();
    let mut failed: Vec<Option<String>> =
        items.iter().map(|item| item.as_ref().err().map(|unread| unread.problem.clone())).collect();
    let jobs = items.iter().enumerate().filter_map(|(at, item)| Some((at, item.as_ref().ok()?)));
    let jobs: Vec<(usize, &Item, &Rotation)> =
        jobs.flat_map(|(at, item)| rotations.iter().map(move |r| (at, item, r))).collect();
    let same = |a: &(usize, &Item, &Rotation), b: &(usize, &Item, &Rotation)| {
        (a.1.dims(model), a.1.voxel_size(model)) == (b.1.dims(model), b.1.voxel_size(model))
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
        let folded = model.folded_for(item.voxel_size(model));
        let suited = folded.and_then(|folded| {
            folded.check_grid(item.dims(model))?;
            Ok(folded)
        });
        let folded = match suited {
            Ok(folded) => folded,
            Err(error) => {
                made_of.iter().for_each(|&at| failed[at] = Some(error.to_string()));
                continue;
            }
        };
        let rows = model.answer(&folded, volumes, made_of.len(), item.dims(model))?;
        made_of.into_iter().zip(rows).for_each(|(at, output)| outputs[at].push(output));
    }
    let all = group.iter().zip(items).zip(outputs.into_iter().zip(failed));
    all.map(|((input, item), (outputs, failed))| match (item, failed) {
        (Ok(item), None) => record(model, input, item, outputs, rotations, options),
        (_, failed) => Ok(Record::failed(&input.name, failed.unwrap_or_default())),
    })
    .collect()
}

/// The record of an item whose voxels are labelled some planes at a time.
fn by_planes(
    model: &Model,
    input: &Input,
    item: &Result<Item, Unread>,
    options: &Options,
    watch: Watch<'_>,
) -> Result<Record, PredictError> {
    let item = match item {
        Ok(item) => item,
        Err(unread) => return Ok(Record::failed(&input.name, unread.problem.clone())),
    };
    match voxels::labelled(model, input, item, options, watch) {
        Ok(answer) => Ok(Record {
            item: input.name.clone(),
            answer: Some(answer),
            warnings: item.warnings.clone(),
            ..Record::default()
        }),
        // What the network cannot do with this item; others may be otherwise.
        Err(PredictError::Input { problem, .. }) => Ok(Record::failed(&input.name, problem)),
        Err(error) => Err(error),
    }
}

fn record(
    model: &Model,
    input: &Input,
    item: &Item,
    outputs: Vec<Output>,
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
            "unlike the training data: {distance:.2} times as far from them as 99 % of the known volumes"
        ));
    }
    let features = options.features.then(|| outputs[0].features.clone());
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
        AnswerKind::Voxels => voxels::averaged(model, input, item, outputs, rotations, options)?,
    };
    Ok(Record {
        item: input.name.clone(),
        answer: Some(answer),
        stability,
        unlike,
        warnings,
        features,
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
