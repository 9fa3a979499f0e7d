//! Running a model over the transformed items of a dataset.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use rayon::prelude::*;
use serde_json::json;
use steer3d_dataset::{Dataset, Split};
use steer3d_so3::Rotation;

use crate::EvalError;
use crate::journal::Journal;
use crate::layers::{layer_errors, layer_volumes};
use crate::material::Material;
use crate::metrics::Bootstrap;
use crate::predictor::Predictor;
use crate::protocol::{Condition, Protocol, Search, Source, Transform};
use crate::report::{
    ConditionReport, DatasetSummary, ModelReport, Prediction, SourceReport, failures_by_axis,
};
use crate::scores::{Logits, Scores, Stability};
use crate::search::Searched;

/// How far an evaluation has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Volumes given to the model so far.
    pub done: usize,
    /// Volumes in all.
    pub total: usize,
}

/// Measures `model` on one split of `dataset` under `protocol`.
///
/// The volumes of a batch are resampled in parallel; the transformations and the report depend
/// neither on the batch size nor on the number of threads, as far as the model's logits do not.
/// `progress` is called after every batch.
///
/// With a `journal`, a file, the logits are kept there as they come, and the same evaluation goes
/// on with what the file holds: it is made if need be, started anew if it belongs to another
/// evaluation or if the first batch of the model no longer gives the same logits, and left for the
/// caller to remove.
///
/// # Errors
/// When the protocol is out of range, the model does not fit the dataset (classes, channels), the
/// split is empty, points are asked for but not stored, the model fails or returns logits of a
/// wrong shape or not finite, an item cannot be read, or the journal cannot be written.
pub fn evaluate(
    model: &dyn Predictor,
    dataset: &Dataset,
    split: Split,
    protocol: &Protocol,
    journal: Option<&Path>,
    progress: &dyn Fn(Progress),
) -> Result<ModelReport, EvalError> {
    let run = Run { model, dataset, protocol, items: dataset.indices(split) };
    run.check(split)?;
    let mut journal = match journal {
        Some(path) => Journal::open(path, &run.identity(split), model.classes())?,
        None => Journal::none(),
    };
    let jobs = run.jobs();
    let layer_volumes = layer_volumes(protocol, run.items.len());
    let search_volumes = protocol.search.map_or(0, |s| run.items.len() * (s.grid + 6 * s.rounds));
    let total = protocol.sources.len() * (jobs.len() + search_volumes + layer_volumes);
    let mut done = 0;
    let mut advance = |volumes| {
        done += volumes;
        progress(Progress { done, total });
    };
    let labels: Vec<usize> = run.items.iter().map(|&item| run.label(item)).collect();
    let bootstrap = Bootstrap::new(protocol.seed, labels.len(), protocol.resamples);
    let (mut sources, mut predictions) = (Vec::new(), Vec::new());
    for &source in &protocol.sources {
        let (mut jobs, mut logits) =
            (jobs.clone(), run.predict(source, &jobs, &mut journal, &mut advance)?);
        if let Some(search) = protocol.search {
            let unrotated = jobs.iter().zip(&logits);
            let unrotated = unrotated.filter(|(job, _)| job.condition == Condition::Unrotated);
            let started = unrotated.map(|(job, l)| Searched::new(search, run.label(job.item), l));
            let started: Vec<Searched> = started.collect();
            for found in run.search(source, search, started, &mut journal, &mut advance)? {
                jobs.push(found.0);
                logits.push(found.1);
            }
        }
        sources.push(SourceReport {
            source,
            conditions: run.conditions(&labels, &jobs, &logits, &bootstrap),
            failures_by_axis: failures_by_axis(
                jobs.iter()
                    .zip(&logits)
                    .map(|(job, logits)| (&job.transform, run.label(job.item), &logits[..])),
            ),
            layers: layer_errors(model, dataset, &run.items, source, protocol)?,
        });
        advance(layer_volumes);
        predictions.extend(jobs.iter().zip(logits).map(|(job, logits)| Prediction {
            source,
            condition: job.condition,
            item: job.item,
            id: dataset.ids()[job.item].clone(),
            label: run.label(job.item),
            transform: job.transform,
            logits,
        }));
    }
    Ok(ModelReport {
        name: model.name().into(),
        parameters: model.parameters(),
        sources,
        predictions,
    })
}

/// What the report says of a split of a dataset.
pub fn summarise(dataset: &Dataset, split: Split) -> DatasetSummary {
    let meta = dataset.meta();
    let origin = &meta.provenance;
    let none = String::new();
    let provenance = [
        ("data", &origin.source),
        ("licence", &origin.licence),
        ("SHA-256", origin.sha256.as_ref().unwrap_or(&none)),
        ("importer", &origin.importer),
        ("import command", &origin.command),
        ("import version", &origin.version),
        ("notes", &origin.notes),
    ];
    DatasetSummary {
        name: meta.name.clone(),
        class_names: meta.class_names.clone(),
        split: split.to_string(),
        class_counts: dataset.class_counts(split),
        channels: meta.channels,
        dims: meta.dims,
        voxel_size: meta.voxel_size,
        unit: meta.unit.clone(),
        irreps: meta.irreps.to_string(),
        provenance: provenance
            .into_iter()
            .filter(|(_, text)| !text.is_empty())
            .map(|(name, text)| (name.to_owned(), text.clone()))
            .collect(),
    }
}

/// One volume to classify.
#[derive(Clone)]
pub(crate) struct Job {
    /// Index of the item in the dataset.
    pub(crate) item: usize,
    /// Its place in the split.
    pub(crate) place: usize,
    pub(crate) condition: Condition,
    pub(crate) transform: Transform,
}

pub(crate) struct Run<'a> {
    pub(crate) model: &'a dyn Predictor,
    pub(crate) dataset: &'a Dataset,
    pub(crate) protocol: &'a Protocol,
    pub(crate) items: Vec<usize>,
}

impl Run<'_> {
    fn check(&self, split: Split) -> Result<(), EvalError> {
        let (meta, model) = (self.dataset.meta(), self.model.name().to_owned());
        let (expected, found) = (meta.class_names.len(), self.model.classes());
        if expected != found {
            let dataset = meta.name.clone();
            return Err(EvalError::Classes { model, dataset, expected, found });
        }
        self.check_data(split)
    }

    /// Checks everything but the number of classes.
    pub(crate) fn check_data(&self, split: Split) -> Result<(), EvalError> {
        self.protocol.check(self.dataset, split)?;
        let (model, meta) = (self.model, self.dataset.meta());
        let (name, dataset) = (model.name().to_owned(), meta.name.clone());
        let (expected, found) = (meta.channels, model.channels());
        if expected != found {
            return Err(EvalError::Channels { model: name, dataset, expected, found });
        }
        Ok(())
    }

    /// What is evaluated, in one line.
    fn identity(&self, split: Split) -> String {
        let protocol = self.protocol.without_batch();
        let [name, version] = [self.model.name(), env!("CARGO_PKG_VERSION")];
        let data = summarise(self.dataset, split);
        let model = json!({ "name": name, "parameters": self.model.parameters() });
        json!({ "steer3d": version, "model": model, "data": data, "protocol": protocol })
            .to_string()
    }

    fn label(&self, item: usize) -> usize {
        self.dataset.labels()[item] as usize
    }

    /// Every condition and transformation of the first item, then of the second, and so on.
    pub(crate) fn jobs(&self) -> Vec<Job> {
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

    /// The logits of every job.
    pub(crate) fn predict(
        &self,
        source: Source,
        jobs: &[Job],
        journal: &mut Journal,
        advance: &mut dyn FnMut(usize),
    ) -> Result<Vec<Vec<f32>>, EvalError> {
        let mut logits = Vec::with_capacity(jobs.len());
        let mut materials: HashMap<usize, Material> = HashMap::new();
        for batch in jobs.chunks(self.protocol.batch) {
            let mut compute =
                |jobs: &[Job]| self.logits(jobs, &self.volumes(source, jobs, &mut materials)?, &[]);
            if journal.is_unchecked() {
                journal.check(&compute(batch)?)?;
            }
            let known = journal.next(batch.len());
            let rest = &batch[known.len()..];
            logits.extend(known);
            if !rest.is_empty() {
                let new = compute(rest)?;
                journal.add(&new)?;
                logits.extend(new);
            }
            advance(batch.len());
        }
        Ok(logits)
    }

    /// The worst rotation found for each item, and its logits.
    fn search(
        &self,
        source: Source,
        search: Search,
        mut items: Vec<Searched>,
        journal: &mut Journal,
        advance: &mut dyn FnMut(usize),
    ) -> Result<Vec<(Job, Vec<f32>)>, EvalError> {
        let job = |place: usize, rotation: Rotation| Job {
            item: self.items[place],
            place,
            condition: Condition::Worst,
            transform: rotation.into(),
        };
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
            let mut logits = self.predict(source, &jobs, journal, advance)?.into_iter();
            for (item, rotations) in items.iter_mut().zip(tried) {
                let answers: Vec<_> = rotations.into_iter().zip(logits.by_ref()).collect();
                item.take(&answers);
            }
            let most = items.len() * if round == 0 { search.grid } else { 6 };
            advance(most - jobs.len());
        }
        let found = items.into_iter().enumerate();
        Ok(found.map(|(place, item)| (job(place, item.rotation), item.logits)).collect())
    }

    /// The transformed volumes of a batch, N,C,D,H,W. `materials` keeps the items of the last batch.
    pub(crate) fn volumes(
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
        let meta = self.dataset.meta();
        let length = meta.item_len();
        let mut values = vec![0.0f32; jobs.len() * length];
        values
            .par_chunks_mut(length)
            .zip(jobs)
            .try_for_each(|(target, job)| materials[&job.item].write(&job.transform, target))?;
        let [d, h, w] = meta.dims;
        Ok(Tensor::from_vec(values, (jobs.len(), meta.channels, d, h, w), &Device::Cpu)?)
    }

    /// The logits of a batch, which have the shape N,classes and then `dims`: a row for each volume.
    pub(crate) fn logits(
        &self,
        jobs: &[Job],
        batch: &Tensor,
        dims: &[usize],
    ) -> Result<Vec<Vec<f32>>, EvalError> {
        let name = || self.model.name().to_owned();
        let logits = self
            .model
            .logits(batch)
            .map_err(|source| EvalError::model(self.model, batch, source))?;
        let expected = [&[jobs.len(), self.model.classes()], dims].concat();
        if logits.dims() != expected {
            let found = logits.dims().to_vec();
            return Err(EvalError::LogitsShape { model: name(), expected, found });
        }
        let logits = logits.flatten_from(1)?.to_dtype(DType::F32)?.to_vec2::<f32>()?;
        match logits.iter().position(|row| row.iter().any(|value| !value.is_finite())) {
            Some(row) => {
                let item = self.dataset.ids()[jobs[row].item].clone();
                Err(EvalError::NonFinite { model: name(), item })
            }
            None => Ok(logits),
        }
    }

    /// The report of every condition.
    fn conditions(
        &self,
        labels: &[usize],
        jobs: &[Job],
        logits: &[Vec<f32>],
        bootstrap: &Bootstrap,
    ) -> Vec<ConditionReport> {
        let gather = |condition: Condition| -> Logits {
            let mut gathered = vec![Vec::new(); labels.len()];
            for (job, logits) in jobs.iter().zip(logits) {
                if job.condition == condition {
                    gathered[job.place].push(logits.clone());
                }
            }
            gathered
        };
        let classes = self.model.classes();
        let unrotated = gather(Condition::Unrotated);
        let report = |condition: Condition| {
            let logits = gather(condition);
            let stability = (condition != Condition::Unrotated)
                .then(|| Stability::new(labels, &unrotated, &logits, bootstrap));
            let scores = Scores::new(labels, &logits, classes, bootstrap);
            ConditionReport { condition, scores, stability }
        };
        self.protocol.conditions().into_iter().map(report).collect()
    }
}
