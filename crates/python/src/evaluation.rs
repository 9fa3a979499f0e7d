use std::path::PathBuf;

use candle_core::{Device, Tensor};
use numpy::{PyReadonlyArrayDyn, PyUntypedArrayMethods};
use pyo3::prelude::*;
use steer3d::dataset::{self, Split};
use steer3d::eval::{
    self, AnswerKind, AnswerSpec, ModelError, Models, NetworkPredictor, Predictor, Protocol, Source,
};
use steer3d::nn::checkpoint;
use steer3d::predict::BUILTIN;
use steer3d::report::{self, Evaluation};
use steer3d::volume::Interpolation;

use crate::arrays::{array, slice};
use crate::dataset::Dataset;
use crate::errors::Result;
use crate::watch::Watch;

/// A callable from arrays N,C,D,H,W of float32 to arrays of float32.
struct Callable {
    call: Py<PyAny>,
    name: String,
    spec: AnswerSpec,
}

impl Callable {
    fn answer(&self, py: Python<'_>, batch: &Tensor) -> Result<Tensor> {
        let x = array(py, batch.flatten_all()?.to_vec1::<f32>()?, batch.dims())?;
        let answer = self.call.call1(py, (x,))?;
        let answer: PyReadonlyArrayDyn<'_, f32> = answer.extract(py)?;
        let values = slice("answer", &answer)?;
        Ok(Tensor::from_slice(values, answer.shape(), &Device::Cpu)?)
    }
}

impl Predictor for Callable {
    fn name(&self) -> &str {
        &self.name
    }

    fn answers(&self) -> AnswerKind {
        self.spec.kind
    }

    fn classes(&self) -> usize {
        self.spec.names.len()
    }

    fn class_names(&self) -> Vec<String> {
        self.spec.names.clone()
    }

    fn channels(&self) -> usize {
        self.spec.channels
    }

    fn logits(&self, batch: &Tensor) -> std::result::Result<Tensor, ModelError> {
        Python::attach(|py| self.answer(py, batch)).map_err(|failure| PyErr::from(failure).into())
    }
}

/// A model as Python names it: a file, a model that comes with the package, or a callable with a name.
#[derive(FromPyObject)]
pub(crate) enum Named {
    File(String),
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

fn opened(
    named: Named,
    data: &dataset::Dataset,
    answers: AnswerKind,
    class_names: &[String],
) -> Result<Vec<Box<dyn Predictor>>> {
    let file = match named {
        Named::Callable(name, call) => {
            let spec = match data.meta().class_names.is_empty() && answers == AnswerKind::Classes {
                true => {
                    AnswerSpec { names: class_names.to_vec(), ..AnswerSpec::classes(data.meta()) }
                }
                false => AnswerSpec::new(data, answers)?,
            };
            return Ok(vec![Box::new(Callable { call, name, spec })]);
        }
        Named::File(file) => PathBuf::from(file),
    };
    let builtin = BUILTIN.iter().find(|model| file.to_str() == Some(model.name));
    if let Some(model) = builtin.filter(|_| !file.is_file()) {
        let (network, card) = checkpoint::read(&file, model.bytes, &Device::Cpu)?;
        let network = NetworkPredictor::new(model.name.to_owned(), network)?;
        return Ok(vec![Box::new(network.with_class_names(card.class_names))]);
    }
    let models = Models { files: vec![file], ..Models::default() };
    Ok(models.open(data, &Device::Cpu, &|_| ())?)
}

/// Evaluates models on a split of a dataset.
#[pyfunction]
#[pyo3(signature = (models, data, split, table, answers, class_names, folder, hears))]
#[allow(clippy::too_many_arguments)]
pub(crate) fn evaluate(
    py: Python<'_>,
    models: Vec<Named>,
    data: &Dataset,
    split: &str,
    table: &str,
    answers: &str,
    class_names: Vec<String>,
    folder: Option<PathBuf>,
    hears: Option<Py<PyAny>>,
) -> Result<Report> {
    let split: Split = split.parse()?;
    let answers: AnswerKind = serde_json::from_value(answers.into())?;
    let (dataset, watch) = (&data.0, Watch::new(hears));
    let protocol = protocol_of(table, dataset)?;
    let report = py.detach(|| -> Result<_> {
        let mut all = vec![];
        for named in models {
            all.extend(opened(named, dataset, answers, &class_names)?);
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
        Ok(py.detach(|| report::write_report(&folder, &self.0))?)
    }
}
