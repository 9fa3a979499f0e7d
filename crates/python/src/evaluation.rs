use std::path::PathBuf;

use candle_core::{Device, Tensor};
use numpy::{PyReadonlyArrayDyn, PyUntypedArrayMethods};
use pyo3::prelude::*;
use steer3d::dataset::{self, Split};
use steer3d::eval::{
    self, AnswerKind, AnswerSpec, ModelError, Models, Predictor, Protocol, Source,
};
use steer3d::experiments::Observer;
use steer3d::nn::checkpoint;
use steer3d::predict::BUILTIN;
use steer3d::report::{self, Evaluation};
use steer3d::volume::Interpolation;

use crate::arrays::{array, slice};
use crate::dataset::Dataset;
use crate::errors::Result;
use crate::threads::compute;
use crate::watch::Watch;

/// A callable from arrays N,C,D,H,W of float32 to arrays of float32.
struct Callable {
    call: Py<PyAny>,
    name: String,
    spec: AnswerSpec,
}

/// What a callable answers to a batch N,C,D,H,W.
pub(crate) fn answer(call: &Py<PyAny>, batch: &Tensor) -> std::result::Result<Tensor, ModelError> {
    let answered = |py: Python<'_>| -> Result<Tensor> {
        let x = array(py, batch.flatten_all()?.to_vec1::<f32>()?, batch.dims())?;
        let answer = call.call1(py, (x,))?;
        let answer: PyReadonlyArrayDyn<'_, f32> = answer.extract(py)?;
        let values = slice("answer", &answer)?;
        Ok(Tensor::from_slice(values, answer.shape(), &Device::Cpu)?)
    };
    Python::attach(answered).map_err(|failure| PyErr::from(failure).into())
}

impl Predictor for Callable {
    fn name(&self) -> &str {
        &self.name
    }

    fn spec(&self) -> Option<&AnswerSpec> {
        Some(&self.spec)
    }

    fn logits(&self, batch: &Tensor) -> std::result::Result<Tensor, ModelError> {
        answer(&self.call, batch)
    }
}

/// A model as Python names it: a file or a model that comes with the package, which may have another name than its own, or
/// a callable.
#[derive(FromPyObject)]
pub(crate) enum Named {
    File(Option<String>, String),
    Callable(String, Py<PyAny>),
}

/// The protocol of a table as JSON, with what a dataset can be asked where the table does not say it.
fn protocol_of(table: &str, dataset: &dataset::Dataset) -> Result<Protocol> {
    let given: serde_json::Value = serde_json::from_str(table)?;
    let protocol: Protocol = serde_json::from_value(given.clone())?;
    if given.get("sources").is_some() {
        return Ok(protocol);
    }
    let voxels = Source::Voxels(Interpolation::Cubic);
    let sources = if dataset.can_voxelise() { vec![voxels, Source::Points] } else { vec![voxels] };
    Ok(Protocol { sources, ..protocol })
}

/// The whole protocol of a table as JSON, as JSON.
#[pyfunction]
pub(crate) fn protocol(table: &str, data: &Dataset) -> Result<String> {
    Ok(serde_json::to_string(&protocol_of(table, &data.0)?)?)
}

/// A model for a dataset; `options` are those of all, without files. `note` hears of what cannot be compared.
fn opened(
    named: Named,
    data: &dataset::Dataset,
    answers: AnswerKind,
    options: &Models,
    note: &dyn Fn(&str),
) -> Result<Vec<Box<dyn Predictor>>> {
    let (name, file) = match named {
        Named::Callable(name, call) => {
            let spec = AnswerSpec::or_named(data, answers, &options.class_names)?;
            return Ok(vec![Box::new(Callable { call, name, spec })]);
        }
        Named::File(name, file) => (name, PathBuf::from(file)),
    };
    let builtin = BUILTIN.iter().find(|model| file.to_str() == Some(model.name));
    let builtin = builtin.filter(|_| !file.is_file());
    let onnx = file.extension().is_some_and(|extension| extension == "onnx");
    let (name, read) = match (builtin, name) {
        (Some(model), name) => {
            let name = name.unwrap_or_else(|| model.name.to_owned());
            (name, checkpoint::read(&file, model.bytes, &Device::Cpu)?)
        }
        (None, Some(name)) if !onnx => (name, checkpoint::load(&file, &Device::Cpu)?),
        _ => {
            let models = Models { files: vec![file], ..options.clone() };
            return Ok(models.open(data, &Device::Cpu, note)?);
        }
    };
    Ok(vec![Box::new(options.network(name, &file, read, data, note)?)])
}

/// Evaluates models on a split of a dataset.
#[pyfunction]
#[pyo3(signature = (models, data, split, table, answers, class_names, map_classes, folder, hears))]
#[allow(clippy::too_many_arguments)]
pub(crate) fn evaluate(
    py: Python<'_>,
    models: Vec<Named>,
    data: &Dataset,
    split: &str,
    table: &str,
    answers: &str,
    class_names: Vec<String>,
    map_classes: bool,
    folder: Option<PathBuf>,
    hears: Option<Py<PyAny>>,
) -> Result<Report> {
    let split: Split = split.parse()?;
    let answers: AnswerKind = serde_json::from_value(answers.into())?;
    let (dataset, watch) = (&data.0, Watch::new(hears));
    let protocol = protocol_of(table, dataset)?;
    let options = Models { class_names, map_classes, ..Models::default() };
    let report = compute(py, || -> Result<_> {
        let mut all = vec![];
        for named in models {
            all.extend(opened(named, dataset, answers, &options, &|note| watch.say(note))?);
        }
        let all: Vec<&dyn Predictor> = all.iter().map(AsRef::as_ref).collect();
        let evaluation = Evaluation { dataset, split, protocol: &protocol };
        let title = format!("Rotated-volume evaluation on {}", dataset.meta().name);
        let progress =
            |model: &str, at: eval::Progress| watch.at(model, at.done, at.total, "volumes");
        Ok(evaluation.report(&all, &title, "", folder.as_deref(), &progress)?)
    });
    Ok(Report(watch.finish(report)?))
}

/// What was measured.
#[pyclass(frozen, module = "steer3d._native")]
pub(crate) struct Report(eval::Report);

#[pymethods]
impl Report {
    #[staticmethod]
    fn from_json(text: &str) -> Result<Self> {
        Ok(Self(eval::Report::from_json(text)?))
    }

    fn to_json(&self) -> Result<String> {
        Ok(self.0.to_json()?)
    }

    fn results_csv(&self) -> Result<String> {
        Ok(report::results_csv(&self.0)?)
    }

    fn predictions_csv(&self) -> Result<String> {
        Ok(report::predictions_csv(&self.0)?)
    }

    fn text(&self) -> String {
        report::terminal(&self.0).to_string()
    }

    fn html(&self) -> Result<String> {
        Ok(report::html(&self.0)?)
    }

    fn save(&self, py: Python<'_>, folder: PathBuf) -> Result<()> {
        Ok(compute(py, || report::write_report(&folder, &self.0))?)
    }
}
