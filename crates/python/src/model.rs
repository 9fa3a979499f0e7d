use std::io::Cursor;
use std::path::PathBuf;

use candle_core::{DType, Device, Tensor};
use numpy::{PyArrayDyn, PyReadonlyArrayDyn};
use pyo3::prelude::*;
use steer3d::nn::checkpoint::{self, ModelCard};
use steer3d::nn::{self, FoldedNetwork};
use steer3d::predict::{
    self, BUILTIN, Inputs, MapFormat, Options, PredictError, Record, Windows, predict,
};

use crate::arrays::{array, sizes, slice};
use crate::errors::{Failure, Result};
use crate::threads::compute;
use crate::watch::Watch;

/// The names of the models that come with the package, and what they answer.
#[pyfunction]
pub(crate) fn builtin_models() -> Vec<(&'static str, &'static str)> {
    BUILTIN.iter().map(|model| (model.name, model.about)).collect()
}

/// Writes a model file: a card as JSON, and all tensors of its network by name.
#[pyfunction]
pub(crate) fn save_model(
    py: Python<'_>,
    path: PathBuf,
    card: &str,
    tensors: Vec<(String, PyReadonlyArrayDyn<'_, f32>)>,
) -> Result<()> {
    let card: ModelCard = serde_json::from_str(card)?;
    let network = compute(py, || nn::Network::new(&card.model, 0, DType::F32, &Device::Cpu))?;
    for (name, var) in network.params().all() {
        let Some((_, values)) = tensors.iter().find(|(other, _)| other == name) else {
            return Err(Failure::argument(format!("{name}: expected a tensor of this name")));
        };
        let values = slice(name, values)?;
        if values.len() != var.elem_count() {
            let (expected, found) = (var.elem_count(), values.len());
            let problem = format!("{name}: expected {expected} values, found {found}");
            return Err(Failure::argument(problem));
        }
        var.set(&Tensor::from_slice(values, var.dims(), &Device::Cpu)?)?;
    }
    Ok(compute(py, || checkpoint::save(&path, &network, &card))?)
}

type Values<'py> = Bound<'py, PyArrayDyn<f32>>;

/// Names and values of all weights and buffers.
fn tensors<'py>(py: Python<'py>, network: &nn::Network) -> Result<Vec<(String, Values<'py>)>> {
    let of = |(name, var): (&str, &candle_core::Var)| {
        let values = var.flatten_all()?.to_dtype(DType::F32)?.to_vec1::<f32>()?;
        Ok((name.to_owned(), array(py, values, var.dims())?))
    };
    network.params().all().map(of).collect()
}

fn map_format_of(name: &str) -> Result<MapFormat> {
    MapFormat::of_extension(name).ok_or_else(|| {
        let all = MapFormat::ALL.map(MapFormat::extension).join(", ");
        Failure::argument(format!("map_format: expected one of {all}, found `{name}`"))
    })
}

/// Features and output of a network that takes so many channels for volumes N,C,D,H,W.
fn forward<'py>(
    py: Python<'py>,
    network: &FoldedNetwork,
    channels: usize,
    x: &PyReadonlyArrayDyn<'_, f32>,
) -> Result<(Values<'py>, Values<'py>)> {
    let dims: [usize; 5] = sizes("x", "N,C,D,H,W", x)?;
    if channels != dims[1] {
        let problem = format!("x: expected {channels} channels, found {}", dims[1]);
        return Err(Failure::argument(problem));
    }
    if dims.contains(&0) {
        let problem = format!("x: expected sizes of at least 1, found {dims:?}");
        return Err(Failure::argument(problem));
    }
    let x = Tensor::from_slice(slice("x", x)?, &dims, &Device::Cpu)?;
    let [features, output] = compute(py, || network.forward_with_features(&x))?;
    let values = |tensor: Tensor| -> Result<_> {
        let dims = tensor.dims().to_vec();
        array(py, tensor.flatten_all()?.to_vec1::<f32>()?, &dims)
    };
    Ok((values(features.values)?, values(output.values)?))
}

/// The network of a model file, whatever its head gives.
#[pyclass(frozen, module = "steer3d._native")]
pub(crate) struct Network {
    network: nn::Network,
    card: ModelCard,
}

#[pymethods]
impl Network {
    #[new]
    fn new(py: Python<'_>, path: PathBuf) -> Result<Self> {
        let (network, card) = compute(py, || checkpoint::load(&path, &Device::Cpu))?;
        Ok(Self { network, card })
    }

    /// Its card, as JSON.
    fn card(&self) -> Result<String> {
        Ok(serde_json::to_string(&self.card)?)
    }

    /// Names and values of all weights and buffers.
    fn tensors<'py>(&self, py: Python<'py>) -> Result<Vec<(String, Values<'py>)>> {
        tensors(py, &self.network)
    }

    /// Features and output for volumes N,C,D,H,W.
    fn forward<'py>(
        &self,
        py: Python<'py>,
        x: PyReadonlyArrayDyn<'_, f32>,
    ) -> Result<(Values<'py>, Values<'py>)> {
        let folded = compute(py, || self.network.folded())?;
        forward(py, &folded, self.card.model.channels(), &x)
    }
}

/// A trained network on the CPU.
#[pyclass(frozen, module = "steer3d._native")]
pub(crate) struct Model(pub(crate) predict::Model);

impl Model {
    /// The same model, whose kernels are sampled for the voxels of each volume.
    fn with_native_voxels(&self) -> Result<predict::Model> {
        let own = self.0.network();
        let same = || -> std::result::Result<_, PredictError> {
            let network = own.at_spacing(own.spacing())?;
            predict::Model::new(self.0.name(), network, self.0.card().clone(), None)?
                .with_native_voxels()
        };
        same().map_err(|error| Failure::argument(format!("native_voxels: {error}")))
    }
}

#[pymethods]
impl Model {
    #[new]
    fn new(py: Python<'_>, name: &str) -> Result<Self> {
        Ok(Self(compute(py, || predict::Model::open(name, None, &Device::Cpu))?))
    }

    #[getter]
    fn name(&self) -> &str {
        self.0.name()
    }

    /// Its card, as JSON.
    fn card(&self) -> Result<String> {
        Ok(serde_json::to_string(self.0.card())?)
    }

    /// What it answers, as JSON.
    fn answers(&self) -> Result<String> {
        Ok(serde_json::to_string(&self.0.answers())?)
    }

    /// How files become volumes, as JSON.
    fn recipe(&self) -> Result<String> {
        Ok(serde_json::to_string(self.0.recipe()?)?)
    }

    /// Number of trained parameters.
    #[getter]
    fn parameters(&self) -> usize {
        self.0.network().params().count()
    }

    /// Names and values of all weights and buffers.
    fn tensors<'py>(&self, py: Python<'py>) -> Result<Vec<(String, Values<'py>)>> {
        tensors(py, self.0.network())
    }

    /// Features and output for volumes N,C,D,H,W.
    fn forward<'py>(
        &self,
        py: Python<'py>,
        x: PyReadonlyArrayDyn<'_, f32>,
    ) -> Result<(Values<'py>, Values<'py>)> {
        forward(py, self.0.folded(), self.0.card().model.channels(), &x)
    }

    /// The records of files, as JSON lines.
    #[pyo3(signature = (inputs, hears, rotations=1, features=false, maps=None, probabilities=false, window=None,
                        overlap=0.5, native_voxels=false, map_format=None))]
    #[allow(clippy::too_many_arguments)]
    fn predict(
        &self,
        py: Python<'_>,
        inputs: Vec<String>,
        hears: Option<Py<PyAny>>,
        rotations: usize,
        features: bool,
        maps: Option<PathBuf>,
        probabilities: bool,
        window: Option<[usize; 3]>,
        overlap: f64,
        native_voxels: bool,
        map_format: Option<&str>,
    ) -> Result<Vec<String>> {
        if !(1..=4096).contains(&rotations) {
            let problem = format!("rotations: expected 1 to 4096, found {rotations}");
            return Err(Failure::argument(problem));
        }
        let map_format = map_format.map(map_format_of).transpose()?;
        let watch = Watch::new(hears);
        let windows = window.map(|size| Windows { size, overlap });
        let options = Options { rotations, features, maps, probabilities, windows };
        let records = compute(py, || -> Result<_> {
            let native = native_voxels.then(|| self.with_native_voxels()).transpose()?;
            let model = native.as_ref().unwrap_or(&self.0);
            let none = || Box::new(Cursor::new(vec![])) as Box<dyn std::io::BufRead>;
            let inputs = Inputs::of(&inputs, none, model)?;
            let inputs = match map_format {
                Some(format) => inputs.with_map_format(format),
                None => inputs,
            };
            let total = inputs.items.len();
            let mut lines = Vec::with_capacity(total);
            let mut sink = |record: Record, _| {
                let line = serde_json::to_string(&record).map_err(std::io::Error::other);
                lines.push(line);
                Ok::<_, PredictError>(watch.at("predict", lines.len(), total, ""))
            };
            let parts =
                |share: f64| watch.at("predict", (share * 100.0) as usize, 100, "% of a map");
            predict(model, &inputs, &options, 0, &mut sink, &parts)?;
            Ok(lines.into_iter().collect::<std::io::Result<Vec<_>>>()?)
        });
        watch.finish(records)
    }
}
