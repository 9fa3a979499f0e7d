//! Running a model over the transformed items of a dataset.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ops::ControlFlow;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use rayon::prelude::*;
use serde_json::json;
use steer3d_dataset::{Dataset, Grids, Split};
use steer3d_ranks::{Number, Rank};
use steer3d_so3::Rotation;

use crate::answer::{Answer, Given, Reference};
use crate::axes::failures_by_axis;
use crate::error::EvalError;
use crate::journal::Journal;
use crate::labels::{Back, PlaneLabels};
use crate::layers::layer_errors;
use crate::material::Material;
use crate::metrics::Bootstrap;
use crate::predictor::AnswerSpec;
use crate::predictor::{AnswerKind, ModelError, Predictor};
use crate::protocol::{Condition, MAX_BATCH_VALUES, Protocol, Search, Source, Transform};
use crate::results::{ConditionReport, ModelReport, Prediction, SourceReport};
use crate::search::Searched;
use crate::spec::is_labelled;

/// How far an evaluation has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Volumes given to the model so far.
    pub done: usize,
    /// Volumes in all.
    pub total: usize,
}

/// Measures `model` on one split of `dataset` under `protocol`: classes of volumes, labels of voxels, which are
/// compared with those of the dataset, or values, which are compared with its targets, whichever the model
/// [answers](Predictor::answers). Where the dataset has no classes, labels or targets, answers are compared with the
/// unrotated ones alone: of the measures those of stability are defined, and the score of a prediction is whether, or how
/// far, it is the unrotated one.
///
/// The volumes of a batch are resampled in parallel; the transformations and the report depend
/// neither on the batch size nor on the number of threads, as far as the model's answers do not.
/// `progress` is called after every batch, and may stop the evaluation.
///
/// With a `journal`, a file, what the measures need of every answer is kept there as it comes (logits of classes,
/// values turned back, counts of voxels; 8 bytes a number), and the same evaluation, of the same
/// [model](Predictor::fingerprint), [data](Dataset::digest), protocol and version, goes
/// on with what the file holds, to the same bits: it is made if need be, started anew if it belongs to another
/// evaluation or if the first batch of the model no longer gives the same, cut off where it is damaged, and left for
/// the caller to remove. Nothing but the batch that is computed is lost when the process ends in between.
///
/// Of several [ranks](Rank::run) each asks its model about some of the batches, and all get the same report; the first
/// keeps the journal.
///
/// # Errors
/// [`EvalError::Stopped`] if `progress` breaks. When the protocol is out of range or asks for too many volumes, the
/// model does not fit the dataset (answers, classes, channels), the split is empty, points are asked for but not stored,
/// the model fails or returns answers of a wrong shape or not finite, an item cannot be read, or the journal cannot be
/// written.
pub fn evaluate(
    model: &dyn Predictor,
    dataset: &Dataset,
    split: Split,
    protocol: &Protocol,
    journal: Option<&Path>,
    progress: &dyn Fn(Progress) -> ControlFlow<()>,
) -> Result<ModelReport, EvalError> {
    let items = dataset.indices(split);
    let spec = AnswerSpec::or_named(dataset, model.answers(), &model.class_names())?;
    spec.check(model)?;
    let answer = AnswerKind::of(dataset, &items, protocol, model, &spec)?;
    protocol.check(dataset, split)?;
    let class_names = match model.answers() {
        AnswerKind::Values => vec![],
        kind if is_labelled(dataset, kind) => vec![],
        _ => spec.names.clone(),
    };
    let rank = Rank::current();
    let run = Run { model, dataset, protocol, items: &items, answer: answer.as_ref(), spec, rank };
    run.agree(split)?;
    let journal = journal.filter(|_| run.rank.is_first());
    let kept = journal.and_then(|path| Some((path, model.fingerprint()?)));
    let mut journal = match kept {
        Some((path, model)) => {
            Journal::open(path, &run.identity(split, &model)?, answer.row_len())?
        }
        None => Journal::none(),
    };
    journal.share(&run.rank, answer.row_len())?;
    let planned = run.jobs();
    let total = protocol.volumes(items.len()) as usize;
    let mut done = 0;
    let mut advance = |volumes| {
        done += volumes;
        match progress(Progress { done, total }) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(EvalError::Stopped),
        }
    };
    let bootstrap = Bootstrap::new(protocol.seed, items.len(), protocol.resamples);
    let (mut sources, mut predictions) = (Vec::new(), Vec::new());
    for &source in &protocol.sources {
        let mut jobs = planned.clone();
        let mut rows = run.predict(source, &jobs, &mut journal, &mut advance)?;
        let unrotated = jobs.iter().zip(&rows);
        let unrotated = unrotated.filter(|(job, _)| job.condition == Condition::Unrotated);
        let unrotated: Vec<Vec<f64>> = unrotated.map(|(_, row)| row.clone()).collect();
        let score = |job: &Job, row: &[f64]| answer.score(job.place, row, &unrotated[job.place]);
        if let Some(search) = protocol.search {
            for found in run.search(source, search, &unrotated, &mut journal, &mut advance)? {
                jobs.push(found.0);
                rows.push(found.1);
            }
        }
        let classified =
            jobs.iter().zip(&rows).filter(|(job, _)| answer.class(job.place).is_some());
        let wrong = classified.map(|(job, row)| (&job.transform, score(job, row) < 1.0));
        sources.push(SourceReport {
            source,
            conditions: run.conditions(&jobs, &rows, &bootstrap),
            failures_by_axis: failures_by_axis(wrong),
            layers: layer_errors(model, dataset, &items, source, protocol)?,
        });
        advance(protocol.layer_volumes(items.len()) as usize)?;
        predictions.extend(jobs.into_iter().zip(rows).map(|(job, row)| Prediction {
            source,
            condition: job.condition,
            item: job.item,
            id: dataset.ids()[job.item].clone(),
            label: answer.class(job.place),
            transform: job.transform,
            score: score(&job, &row),
            answer: row,
        }));
    }
    Ok(ModelReport {
        name: model.name().into(),
        answers: model.answers(),
        class_names,
        parameters: model.parameters(),
        sources,
        predictions,
    })
}

/// Hears of volumes that are done.
type Advance<'a> = &'a mut dyn FnMut(usize) -> Result<(), EvalError>;

/// One volume to ask about.
#[derive(Clone)]
struct Job {
    /// Index of the item in the dataset.
    item: usize,
    /// Its place in the split.
    place: usize,
    condition: Condition,
    transform: Transform,
}

impl Job {
    /// The way from answers to the transformed item back to the item.
    fn back(&self, dataset: &Dataset) -> Back {
        Back::new(dataset.grid(self.item), &self.transform)
    }
}

struct Run<'a> {
    model: &'a dyn Predictor,
    dataset: &'a Dataset,
    protocol: &'a Protocol,
    items: &'a [usize],
    answer: &'a dyn Answer,
    spec: AnswerSpec,
    rank: Rank,
}

impl Run<'_> {
    /// What is evaluated, in one line.
    fn identity(&self, split: Split, model: &str) -> Result<String, EvalError> {
        let all = json!({
            "steer3d": env!("CARGO_PKG_VERSION"),
            "model": model,
            "answers": self.model.answers(),
            "data": self.dataset.digest()?,
            "split": split,
            "protocol": self.protocol.measured(),
        });
        Ok(all.to_string())
    }

    /// Checks that all ranks evaluate the same.
    fn agree(&self, split: Split) -> Result<(), EvalError> {
        if self.rank.is_alone() {
            return Ok(());
        }
        let model = self.model.fingerprint().unwrap_or_default();
        Ok(self.rank.agree("evaluation", self.identity(split, &model)?.as_bytes())?)
    }

    /// Every condition and transformation of the first item, then of the second, and so on.
    fn jobs(&self) -> Vec<Job> {
        let conditions = self.protocol.conditions();
        let mut jobs = Vec::new();
        for (place, &item) in self.items.iter().enumerate() {
            for &condition in &conditions {
                for transform in self.protocol.transforms(condition, item) {
                    jobs.push(Job { item, place, condition, transform });
                }
            }
        }
        jobs
    }

    /// The jobs in batches of volumes of one grid. Where each item has its own grid a batch has at most as many values as
    /// one may have.
    fn batches<'j>(&self, jobs: &'j [Job]) -> Vec<&'j [Job]> {
        let most = self.protocol.batch;
        if self.dataset.meta().grids == Grids::One {
            return jobs.chunks(most).collect();
        }
        let grid = |job: &Job| self.dataset.grid(job.item);
        let alike = jobs.chunk_by(|a, b| grid(a) == grid(b));
        let batches = alike.flat_map(|jobs| {
            let room = MAX_BATCH_VALUES / self.dataset.item_len(jobs[0].item);
            jobs.chunks(most.min(room).max(1))
        });
        batches.collect()
    }

    /// What is kept of the answer to every job.
    fn predict(
        &self,
        source: Source,
        jobs: &[Job],
        journal: &mut Journal,
        advance: Advance<'_>,
    ) -> Result<Vec<Vec<f64>>, EvalError> {
        let mut rows = Vec::with_capacity(jobs.len());
        let mut known = Known::default();
        let batches = self.batches(jobs);
        // A round has a batch for each rank.
        for round in batches.chunks(self.rank.size()) {
            if journal.is_unchecked() {
                let first = self.rank.from_first(|| self.bytes(source, round[0], &mut known))?;
                journal.check(&self.of_bytes(&first))?;
            }
            let kept: Vec<_> = round.iter().map(|batch| journal.next(batch.len())).collect();
            let rest = |i: usize| &round[i][kept[i].len()..];
            let make = |i: usize| self.bytes(source, rest(i), &mut known);
            let new = self.rank.deal(round.len(), make)?;
            for ((batch, kept), new) in round.iter().zip(kept.clone()).zip(new) {
                rows.extend(kept);
                let new = self.of_bytes(&new);
                if !new.is_empty() {
                    journal.add(&new)?;
                }
                rows.extend(new);
                advance(batch.len())?;
            }
        }
        Ok(rows)
    }

    /// The [rows](Self::rows) of a batch one after the other.
    fn bytes(&self, source: Source, jobs: &[Job], known: &mut Known) -> Result<Vec<u8>, EvalError> {
        let rows = if jobs.is_empty() { vec![] } else { self.rows(source, jobs, known)? };
        Ok(f64::to_bytes(&rows.concat()))
    }

    fn of_bytes(&self, bytes: &[u8]) -> Vec<Vec<f64>> {
        f64::of_bytes(bytes).chunks_exact(self.answer.row_len()).map(<[f64]>::to_vec).collect()
    }

    /// What is kept of the answers to a batch.
    fn rows(
        &self,
        source: Source,
        jobs: &[Job],
        known: &mut Known,
    ) -> Result<Vec<Vec<f64>>, EvalError> {
        let answers = self.answers(jobs, &self.volumes(source, jobs, &mut known.materials)?)?;
        if self.answer.has_reference() {
            self.find_references(source, jobs, &answers, known)?;
        }
        let row = |(job, answer): (&Job, &Given)| {
            self.answer.row(job.place, &job.transform, answer, known.references.get(&job.place))
        };
        jobs.par_iter().zip(&answers).map(row).collect()
    }

    /// The references of the items of a batch. Items whose unrotated volume is not in it, and was not in the one
    /// before, are asked about again.
    fn find_references(
        &self,
        source: Source,
        jobs: &[Job],
        answers: &[Given],
        Known { materials, references }: &mut Known,
    ) -> Result<(), EvalError> {
        references.retain(|place, _| jobs.iter().any(|job| job.place == *place));
        for (job, answer) in jobs.iter().zip(answers) {
            if job.condition == Condition::Unrotated {
                references.insert(job.place, self.answer.reference(job.place, answer.labels())?);
            }
        }
        let mut missing: Vec<Job> = vec![];
        for job in jobs.iter().filter(|job| !references.contains_key(&job.place)) {
            if missing.last().is_none_or(|last| last.place != job.place) {
                let (condition, transform) = (Condition::Unrotated, Transform::IDENTITY);
                missing.push(Job { condition, transform, ..job.clone() });
            }
        }
        if missing.is_empty() {
            return Ok(());
        }
        let answers = self.answers(&missing, &self.volumes(source, &missing, materials)?)?;
        for (job, answer) in missing.iter().zip(answers) {
            references.insert(job.place, self.answer.reference(job.place, answer.labels())?);
        }
        Ok(())
    }

    /// The worst rotation found for each item, and what is kept of the answer to it; `unrotated` is what is kept of
    /// the answers to the unrotated items.
    fn search(
        &self,
        source: Source,
        search: Search,
        unrotated: &[Vec<f64>],
        journal: &mut Journal,
        advance: Advance<'_>,
    ) -> Result<Vec<(Job, Vec<f64>)>, EvalError> {
        let job = |place: usize, rotation: Rotation| Job {
            item: self.items[place],
            place,
            condition: Condition::Worst,
            transform: rotation.into(),
        };
        let margin = |place: usize, row: &[f64]| self.answer.margin(place, row, &unrotated[place]);
        let start = |(place, row): (usize, &Vec<f64>)| {
            Searched::new(search, row, margin(place, row), self.answer.least_margin())
        };
        let mut items: Vec<Searched> = unrotated.iter().enumerate().map(start).collect();
        for round in 0..=search.rounds {
            let tried = |(place, item): (usize, &Searched)| match round {
                0 => item.grid(search, self.protocol.seed, self.items[place]),
                _ => item.round(),
            };
            let tried: Vec<Vec<Rotation>> = items.iter().enumerate().map(tried).collect();
            let jobs = tried.iter().enumerate().flat_map(|(place, rotations)| {
                rotations.iter().map(move |&rotation| job(place, rotation))
            });
            let jobs: Vec<Job> = jobs.collect();
            let mut rows = self.predict(source, &jobs, journal, advance)?.into_iter();
            for (place, (item, rotations)) in items.iter_mut().zip(tried).enumerate() {
                let tried = rotations.into_iter().zip(rows.by_ref());
                let tried = tried.map(|(rotation, row)| {
                    let margin = margin(place, &row);
                    (rotation, row, margin)
                });
                item.take(tried.collect());
            }
            let most = items.len() * if round == 0 { search.grid } else { 6 };
            advance(most - jobs.len())?;
        }
        let found = items.into_iter().enumerate();
        Ok(found.map(|(place, item)| (job(place, item.rotation), item.row)).collect())
    }

    /// The transformed volumes of a batch, N,C,D,H,W. `materials` keeps the items of the last batch.
    fn volumes(
        &self,
        source: Source,
        jobs: &[Job],
        materials: &mut HashMap<usize, Material>,
    ) -> Result<Tensor, EvalError> {
        materials.retain(|&item, _| jobs.iter().any(|job| job.item == item));
        for job in jobs {
            if let Entry::Vacant(slot) = materials.entry(job.item) {
                slot.insert(Material::read(self.dataset, job.item, source, self.protocol)?);
            }
        }
        let items: Vec<usize> = jobs.iter().map(|job| job.item).collect();
        let (grid, channels) = (self.dataset.grid_of(&items)?, self.dataset.meta().channels);
        let length = channels * grid.voxels();
        let mut values = vec![0.0f32; jobs.len() * length];
        values
            .par_chunks_mut(length)
            .zip(jobs)
            .try_for_each(|(target, job)| materials[&job.item].write(&job.transform, target))?;
        let [d, h, w] = grid.dims();
        Ok(Tensor::from_vec(values, (jobs.len(), channels, d, h, w), &Device::Cpu)?)
    }

    /// The answers to a batch. Labels of voxels are made at once, so that logits of all voxels need not be there.
    fn answers(&self, jobs: &[Job], batch: &Tensor) -> Result<Vec<Given>, EvalError> {
        let (_, _, d, h, w) = batch.dims5()?;
        let voxels = self.spec.kind == AnswerKind::Voxels;
        if voxels && self.model.gives_planes([d, h, w]) {
            let one = |(i, job): (usize, &Job)| -> Result<Given, EvalError> {
                self.labels_by_planes(job, &batch.narrow(0, i, 1)?)
            };
            return jobs.iter().enumerate().map(one).collect();
        }
        let logits = self
            .model
            .logits_of(batch, self.dataset.own_voxel_size(jobs[0].item))
            .map_err(|source| EvalError::model(self.model, batch, source))?;
        let rows = self.rows_of(jobs, &logits, &self.spec.shape_of(batch.dims()))?;
        drop(logits);
        if !voxels {
            return Ok(rows.into_iter().map(Given::Numbers).collect());
        }
        let (dataset, classes) = (self.dataset, self.spec.names.len());
        let labels = |(job, row): (&Job, Vec<f32>)| {
            job.back(dataset).labels(&row, classes).map(Given::Labels)
        };
        jobs.par_iter().zip(rows).map(labels).collect()
    }

    /// The labels of a volume, 1,C,D,H,W, whose logits come some planes at a time.
    fn labels_by_planes(&self, job: &Job, volume: &Tensor) -> Result<Given, EvalError> {
        let (_, channels, depth, h, w) = volume.dims5()?;
        let mut labels = PlaneLabels::new(job.back(self.dataset), self.spec.names.len())?;
        let mut done = 0;
        let mut sink = |first: usize, logits: &Tensor| -> Result<(), ModelError> {
            let planes = logits.dims().get(2).copied().unwrap_or(0);
            if first != done || planes == 0 || planes > depth - done {
                let problem =
                    format!("gave {planes} planes from {first} on after {done} of {depth}");
                return Err(EvalError::answer(self.model.name(), problem).into());
            }
            let expected = self.spec.shape_of(&[1, channels, planes, h, w]);
            labels.take(&self.rows_of(std::slice::from_ref(job), logits, &expected)?[0])?;
            done += planes;
            Ok(())
        };
        let edges = self.dataset.own_voxel_size(job.item);
        let all = self.model.logits_by_planes(volume, edges, &mut sink);
        all.map_err(|error| match error.downcast::<EvalError>() {
            Ok(own) => *own,
            Err(source) => EvalError::model(self.model, volume, source),
        })?;
        if done < depth {
            let problem = format!("gave {done} of {depth} planes");
            return Err(EvalError::answer(self.model.name(), problem));
        }
        Ok(Given::Labels(labels.finish()?))
    }

    /// The numbers of answers to some jobs, a row for each, whose shape is to be `expected`.
    fn rows_of(
        &self,
        jobs: &[Job],
        logits: &Tensor,
        expected: &[usize],
    ) -> Result<Vec<Vec<f32>>, EvalError> {
        if logits.dims() != expected {
            let problem = format!(
                "returned logits of shape {:?}, expected {expected:?} (N, classes, and D, H, W for labels of voxels)",
                logits.dims()
            );
            return Err(EvalError::answer(self.model.name(), problem));
        }
        let rows = logits.flatten_from(1)?.to_dtype(DType::F32)?.to_vec2::<f32>()?;
        match rows.iter().position(|row| row.iter().any(|value| !value.is_finite())) {
            Some(row) => {
                let item = &self.dataset.ids()[jobs[row].item];
                let problem = format!(
                    "returned a logit that is not finite for item `{item}`; check its weights"
                );
                Err(EvalError::answer(self.model.name(), problem))
            }
            None => Ok(rows),
        }
    }

    /// The report of every condition.
    fn conditions(
        &self,
        jobs: &[Job],
        rows: &[Vec<f64>],
        bootstrap: &Bootstrap,
    ) -> Vec<ConditionReport> {
        let gather = |condition: Condition| {
            let mut gathered: Vec<Vec<&[f64]>> = vec![Vec::new(); self.items.len()];
            for (job, row) in jobs.iter().zip(rows) {
                if job.condition == condition {
                    gathered[job.place].push(row);
                }
            }
            gathered
        };
        let unrotated = gather(Condition::Unrotated);
        let report = |condition: Condition| {
            let base = (condition != Condition::Unrotated).then_some(&unrotated[..]);
            let (measures, confusion) = self.answer.found(&gather(condition), base, bootstrap);
            ConditionReport { condition, measures, confusion }
        };
        self.protocol.conditions().into_iter().map(report).collect()
    }
}

/// What is known of the items of the last batch.
#[derive(Default)]
struct Known {
    /// By index in the dataset.
    materials: HashMap<usize, Material>,
    /// By place in the split.
    references: HashMap<usize, Reference>,
}
