//! Models of the ONNX format, run by tract.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use rayon::prelude::*;
use serde::Deserialize;
use steer3d_files::digest::PartHasher;
use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::tensor_shape_proto::dimension::Value as Size;
use tract_onnx::pb::type_proto::Value;
use tract_onnx::pb::{GraphProto, ModelProto, TensorProto, ValueInfoProto};
use tract_onnx::prelude::{
    DatumExt, Framework, InferenceModelExt, IntoRunnable, TypedRunnableModel, tvec,
};

use crate::error::EvalError;
use crate::predictor::AnswerSpec;
use crate::predictor::{AnswerKind, ModelError, Predictor};

/// How the input and the output of an ONNX model are to be read: `model.toml` beside `model.onnx`.
/// Every key may be left out.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OnnxOptions {
    /// Where the channels are.
    pub layout: Layout,
    /// Order of the three axes of space, such as `"xyz"` for arrays as medical images have them.
    pub axes: AxisOrder,
    /// Whether each volume is first brought to mean 0 and standard deviation 1.
    pub standardise: bool,
    /// Subtracted from each channel (one number for all, or one for each); none is 0.
    pub mean: Vec<f32>,
    /// By which each channel is then divided (one number for all, or one for each); none is 1.
    pub std: Vec<f32>,
    /// Name of the output with the answers; none is the first.
    pub output: Option<String>,
    /// What the output holds.
    pub values: Values,
    /// Class names in the order of the output; none is the order of the dataset.
    pub classes: Option<Vec<String>>,
}

/// Where an ONNX model has its channels.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Layout {
    /// N,C and the axes of space, as PyTorch has them.
    #[default]
    Ncdhw,
    /// N, the axes of space and C, as TensorFlow has them.
    Ndhwc,
}

/// What an ONNX model gives.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Values {
    /// Logits; a single one is that of the second of two classes.
    #[default]
    Logits,
    /// Probabilities; a single one is that of the second of two classes.
    Probabilities,
}

/// A permutation of the letters `xyz`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct AxisOrder([char; 3]);

impl Default for AxisOrder {
    fn default() -> Self {
        Self(['z', 'y', 'x'])
    }
}

impl TryFrom<String> for AxisOrder {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let letters: Vec<char> = text.chars().collect();
        match <[char; 3]>::try_from(letters) {
            Ok(order) if ['x', 'y', 'z'].iter().all(|axis| order.contains(axis)) => Ok(Self(order)),
            _ => Err(format!("expected the letters x, y and z in some order, found '{text}'")),
        }
    }
}

impl OnnxOptions {
    /// Reads the TOML file beside the model; what it leaves out, and all where there is none, is as in
    /// [`OnnxOptions::default`].
    ///
    /// # Errors
    /// [`EvalError::ModelFile`] naming the key that is wrong.
    pub fn beside(model: &Path) -> Result<Self, EvalError> {
        let path = model.with_extension("toml");
        match fs::read_to_string(&path) {
            Ok(text) => toml::from_str(&text).map_err(|e| fault(&path, &e)),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(e) => Err(fault(&path, &e)),
        }
    }

    /// The axes of a volume C,D,H,W in the order of the model's.
    fn order(&self) -> [usize; 4] {
        let [a, b, c] = self.axes.0.map(|axis| match axis {
            'z' => 1,
            'y' => 2,
            _ => 3,
        });
        match self.layout {
            Layout::Ncdhw => [0, a, b, c],
            Layout::Ndhwc => [a, b, c, 0],
        }
    }
}

/// An ONNX model with one input of five dimensions. Volumes are given to it one by one, on all threads.
#[derive(Debug)]
pub struct OnnxPredictor {
    name: String,
    plan: Arc<TypedRunnableModel>,
    order: [usize; 4],
    standardise: bool,
    /// What is subtracted from each channel and what it is divided by.
    scale: Vec<(f32, f32)>,
    spec: AnswerSpec,
    values: Values,
    /// The place in the output of each class of the dataset.
    places: Vec<usize>,
    parameters: usize,
    fingerprint: String,
}

impl OnnxPredictor {
    /// Reads the model at `path` for what a dataset asks.
    ///
    /// # Errors
    /// [`EvalError::ModelFile`]: the file is no ONNX model or uses an operator that cannot be run; its
    /// input has another rank, element type, number of channels or grid; its output another number
    /// of classes. Says what to change.
    pub fn load(
        name: String,
        path: &Path,
        options: &OnnxOptions,
        spec: AnswerSpec,
    ) -> Result<Self, EvalError> {
        let fault = |problem: String| EvalError::ModelFile { path: path.into(), problem };
        let bytes = fs::read(path).map_err(|e| fault(e.to_string()))?;
        let damaged = |e: &dyn Display| fault(format!("not an ONNX model, or a damaged one: {e}"));
        let proto = tract_onnx::onnx()
            .proto_model_for_read(&mut bytes.as_slice())
            .map_err(|e| damaged(&format!("{e:#}")))?;
        let graph = proto.graph.as_ref().ok_or_else(|| damaged(&"it has no graph"))?;
        check_outputs(graph).map_err(|e| damaged(&e))?;
        let order = options.order();
        let shape = check_input(graph, options, &order, &spec).map_err(fault)?;
        let scale = scale(options, spec.channels)
            .map_err(|problem| self::fault(&path.with_extension("toml"), &problem))?;
        let output = output_index(graph, options).map_err(fault)?;
        let plan = plan(&proto, path, &shape, output)
            .map_err(|e| fault(format!("cannot be run on a volume of shape {shape:?}: {e}")))?;
        let places = places(&plan, options, &order, &spec).map_err(fault)?;
        Ok(Self {
            name,
            plan,
            order,
            standardise: options.standardise,
            scale,
            spec,
            values: options.values,
            places,
            parameters: graph.initializer.iter().map(parameters).sum(),
            fingerprint: fingerprint(path, &bytes, options, graph)
                .map_err(|e| fault(e.to_string()))?,
        })
    }

    /// As a network of this project that was exported: with its number of parameters, and class i of the answers in the
    /// place `places[i]` of the output unless the options beside the model say where.
    pub(crate) fn of_network(self, parameters: Option<usize>, places: Option<Vec<u32>>) -> Self {
        let parameters = parameters.unwrap_or(self.parameters);
        let places = match places {
            Some(places) if self.in_order() => places.into_iter().map(|p| p as usize).collect(),
            _ => self.places.clone(),
        };
        let mut print = PartHasher::default();
        print.add(self.fingerprint.as_bytes());
        print.add(format!("{places:?}").as_bytes());
        Self { parameters, places, fingerprint: print.text(), ..self }
    }

    fn in_order(&self) -> bool {
        self.places.iter().enumerate().all(|(i, &place)| i == place)
    }

    /// Logits of one volume C,D,H,W.
    fn row(&self, volume: &Tensor) -> Result<Vec<f32>, ModelError> {
        let mut volume = volume.clone();
        if self.standardise {
            let mean = volume.mean_all()?;
            let centred = volume.broadcast_sub(&mean)?;
            let std = (centred.sqr()?.mean_all()? + 1e-12)?.sqrt()?;
            volume = centred.broadcast_div(&std)?;
        }
        let channels = self.spec.channels;
        let constant = |of: fn(&(f32, f32)) -> f32| {
            let values: Vec<f32> = self.scale.iter().map(of).collect();
            Tensor::from_vec(values, (channels, 1, 1, 1), &Device::Cpu)
        };
        let volume =
            volume.broadcast_sub(&constant(|s| s.0)?)?.broadcast_div(&constant(|s| s.1)?)?;
        let volume = volume.permute(self.order)?.contiguous()?;
        let shape = [&[1], volume.dims()].concat();
        let values: Vec<f32> = volume.flatten_all()?.to_vec1()?;
        let input = tract_onnx::prelude::Tensor::from_shape(&shape, &values)?;
        let found = self.plan.run(tvec!(input.into()))?;
        let found = found[0].cast_to::<f32>()?;
        let found = found.try_as_plain_ram()?.as_slice::<f32>()?;
        match self.spec.kind {
            AnswerKind::Voxels => {
                let [d, h, w] = self.spec.dims;
                let channels = found.len() / (d * h * w);
                let volume = [channels, d, h, w];
                let given: Vec<usize> = self.order.iter().map(|&axis| volume[axis]).collect();
                let found = Tensor::from_slice(found, given, &Device::Cpu)?;
                // Where each axis of C,D,H,W is in the model's order.
                let mut back = [0; 4];
                self.order.iter().enumerate().for_each(|(place, &axis)| back[axis] = place);
                self.logits_of(&found.permute(back)?.flatten_all()?.to_vec1::<f32>()?, d * h * w)
            }
            AnswerKind::Classes => self.logits_of(found, 1),
            AnswerKind::Values => Ok(found.to_vec()),
        }
    }

    /// The logits of the dataset's classes from what the model gives for each class and voxel.
    fn logits_of(&self, found: &[f32], voxels: usize) -> Result<Vec<f32>, ModelError> {
        let probabilities = self.values == Values::Probabilities;
        let outside = |p: &&f32| !(-1e-3..=1.001).contains(*p);
        if let Some(value) = found.iter().find(outside).filter(|_| probabilities) {
            let problem = "no probability; write values = \"logits\" beside the model";
            return Err(format!("its output holds {value}, which is {problem}").into());
        }
        // Clipped, since a model rounds small probabilities to 0.
        let logit = |p: f32| if probabilities { p.max(1e-30).ln() } else { p };
        let each = |values: &[f32]| values.iter().map(|&p| logit(p)).collect::<Vec<f32>>();
        let mut logits: Vec<Vec<f32>> = found.chunks(voxels).map(each).collect();
        if logits.len() == 1 {
            // It is for the second of two classes.
            let first = |&p: &f32| if probabilities { logit(1.0 - p) } else { 0.0 };
            logits.insert(0, found.iter().map(first).collect());
        }
        Ok(self.places.iter().flat_map(|&place| logits[place].iter().copied()).collect())
    }
}

impl Predictor for OnnxPredictor {
    fn name(&self) -> &str {
        &self.name
    }

    fn spec(&self) -> Option<&AnswerSpec> {
        Some(&self.spec)
    }

    fn parameters(&self) -> usize {
        self.parameters
    }

    fn fingerprint(&self) -> Option<String> {
        Some(self.fingerprint.clone())
    }

    fn logits(&self, batch: &Tensor) -> Result<Tensor, ModelError> {
        let batch = batch.to_dtype(DType::F32)?.to_device(&Device::Cpu)?;
        let n = batch.dim(0)?;
        let row = |i| self.row(&batch.get(i)?);
        let rows = (0..n).into_par_iter().map(row).collect::<Result<Vec<_>, ModelError>>()?;
        Ok(Tensor::from_vec(rows.concat(), self.spec.shape(n), &Device::Cpu)?)
    }
}

/// Of the file, the options and the files that weights lie in beside it.
fn fingerprint(
    path: &Path,
    bytes: &[u8],
    options: &OnnxOptions,
    graph: &GraphProto,
) -> std::io::Result<String> {
    let mut print = PartHasher::default();
    print.add(bytes);
    print.add(format!("{options:?}").as_bytes());
    let entries = graph.initializer.iter().flat_map(|tensor| &tensor.external_data);
    let files: BTreeSet<&str> =
        entries.filter(|entry| entry.key == "location").map(|entry| entry.value.as_str()).collect();
    for file in files {
        print.add_file(&path.with_file_name(file))?;
    }
    Ok(print.text())
}

fn fault(path: &Path, problem: &dyn Display) -> EvalError {
    EvalError::ModelFile { path: path.into(), problem: problem.to_string() }
}

/// Inputs that are not stored in the model.
fn inputs(graph: &GraphProto) -> Vec<&ValueInfoProto> {
    let stored = |name: &str| graph.initializer.iter().any(|t| t.name == name);
    graph.input.iter().filter(|input| !stored(&input.name)).collect()
}

/// Checks that every output is made somewhere, which tract takes for granted.
fn check_outputs(graph: &GraphProto) -> Result<(), String> {
    let made = |name: &String| {
        graph.node.iter().any(|node| node.output.contains(name))
            || graph.input.iter().any(|input| input.name == *name)
            || graph.initializer.iter().any(|tensor| tensor.name == *name)
    };
    match graph.output.iter().find(|output| !made(&output.name)) {
        Some(output) => Err(format!("nothing gives its output `{}`", output.name)),
        None if graph.output.is_empty() => Err("it has no output".into()),
        None => Ok(()),
    }
}

/// Checks that the one input takes one volume of a dataset at a time, and gives its shape.
fn check_input(
    graph: &GraphProto,
    options: &OnnxOptions,
    order: &[usize; 4],
    spec: &AnswerSpec,
) -> Result<Vec<usize>, String> {
    let all = inputs(graph);
    let [input] = all.as_slice() else {
        let names: Vec<&str> = all.iter().map(|input| input.name.as_str()).collect();
        return Err(format!(
            "expected one input, found {} ({}); export the model with the volume as its only input",
            names.len(),
            names.join(", ")
        ));
    };
    let name = &input.name;
    let Some(Value::TensorType(tensor)) = input.r#type.as_ref().and_then(|t| t.value.as_ref())
    else {
        return Err(format!("its input `{name}` is no tensor; export it with a tensor of floats"));
    };
    if tensor.elem_type != DataType::Float as i32 {
        let found = DataType::try_from(tensor.elem_type).map_or("?", |t| t.as_str_name());
        return Err(format!(
            "its input `{name}` takes elements of type {found}, expected FLOAT (32 bits); export it for float32 volumes"
        ));
    }
    let sizes: Vec<Option<i64>> = match &tensor.shape {
        Some(shape) => shape.dim.iter().map(|dim| size(dim.value.as_ref())).collect(),
        None => vec![None; 5],
    };
    let axes = match options.layout {
        Layout::Ncdhw => "N,C,D,H,W",
        Layout::Ndhwc => "N,D,H,W,C",
    };
    if sizes.len() != 5 {
        return Err(format!(
            "its input `{name}` has {} dimensions, expected 5 ({axes}); export a model of volumes",
            sizes.len()
        ));
    }
    let volume = [spec.channels, spec.dims[0], spec.dims[1], spec.dims[2]];
    let shape: Vec<usize> = std::iter::once(1).chain(order.map(|axis| volume[axis])).collect();
    // The batch is free where the model lets it be.
    for (axis, (&found, &expected)) in sizes.iter().zip(&shape).enumerate() {
        let Some(found) = found.filter(|&n| axis > 0 && n != expected as i64) else { continue };
        return Err(if order[axis - 1] == 0 {
            format!(
                "its input `{name}` ({axes}) takes {found} channels but dataset `{}` has {expected}; evaluate it on such volumes, or set layout beside it",
                spec.dataset
            )
        } else {
            format!(
                "its input `{name}` ({axes}) takes {sizes} but a volume of dataset `{}` has the shape {shape:?}; make the dataset with that grid, export the model with free sizes, or set layout or axes beside it",
                spec.dataset,
                sizes = described(&sizes),
            )
        });
    }
    Ok(shape)
}

/// A size that the model fixes.
fn size(dim: Option<&Size>) -> Option<i64> {
    match dim {
        Some(Size::DimValue(n)) if *n > 0 => Some(*n),
        _ => None,
    }
}

fn described(sizes: &[Option<i64>]) -> String {
    let size = |n: &Option<i64>| n.map_or_else(|| "any".into(), |n| n.to_string());
    format!("[{}]", sizes.iter().map(size).collect::<Vec<_>>().join(", "))
}

/// What is subtracted from each channel and what it is divided by.
fn scale(options: &OnnxOptions, channels: usize) -> Result<Vec<(f32, f32)>, String> {
    let spread = |key: &str, values: &[f32], standard: f32| match values {
        [] => Ok(vec![standard; channels]),
        [value] => Ok(vec![*value; channels]),
        values if values.len() == channels => Ok(values.to_vec()),
        values => Err(format!(
            "{key}: expected one number, or one for each of {channels} channels, found {}",
            values.len()
        )),
    };
    let (mean, std) = (spread("mean", &options.mean, 0.0)?, spread("std", &options.std, 1.0)?);
    if let Some(bad) = std.iter().find(|s| s.is_nan() || **s <= 0.0) {
        return Err(format!("std: expected positive numbers, found {bad}"));
    }
    Ok(mean.into_iter().zip(std).collect())
}

fn output_index(graph: &GraphProto, options: &OnnxOptions) -> Result<usize, String> {
    let Some(name) = &options.output else { return Ok(0) };
    graph.output.iter().position(|output| output.name == *name).ok_or_else(|| {
        let names: Vec<&str> = graph.output.iter().map(|o| o.name.as_str()).collect();
        format!("has no output `{name}`; its outputs are {}", names.join(", "))
    })
}

/// The model for one volume of `shape` and one of its outputs.
fn plan(
    proto: &ModelProto,
    path: &Path,
    shape: &[usize],
    output: usize,
) -> Result<Arc<TypedRunnableModel>, String> {
    let folder = path.parent().and_then(Path::to_str).filter(|p| !p.is_empty()).unwrap_or(".");
    let make = || {
        // The shapes noted in the model have its own name for the batch size, which is 1 here.
        let onnx = tract_onnx::onnx().with_ignore_value_info(true);
        let mut model = onnx.parse(proto, Some(folder))?.model;
        let output = model.output_outlets()?[output];
        model.select_output_outlets(&[output])?;
        model.with_input_fact(0, f32::fact(shape).into())?.into_optimized()?.into_runnable()
    };
    // A model that breaks its own rules must not end the program.
    match catch_unwind(AssertUnwindSafe(make)) {
        Ok(made) => made.map_err(|e| format!("{e:#}")),
        Err(_) => Err("the model contradicts itself".into()),
    }
}

/// The place in the output of each class of the dataset.
fn places(
    plan: &TypedRunnableModel,
    options: &OnnxOptions,
    order: &[usize; 4],
    spec: &AnswerSpec,
) -> Result<Vec<usize>, String> {
    let fact = plan.model().output_fact(0).map_err(|e| e.to_string())?;
    let shape = fact.shape.as_concrete().unwrap_or_default();
    let names = &spec.names;
    // A single number is for the second of two classes.
    let single = spec.kind != AnswerKind::Values && names.len() == 2;
    let fits = |outputs: usize| {
        let [d, h, w] = spec.dims;
        match spec.kind {
            AnswerKind::Voxels => {
                let sizes = order.map(|axis| [outputs, d, h, w][axis]);
                shape == [&[1], &sizes[..]].concat()
            }
            AnswerKind::Classes | AnswerKind::Values => {
                shape.first() == Some(&1) && shape.iter().product::<usize>() == outputs
            }
        }
    };
    if !(fits(names.len()) || single && fits(1)) {
        return Err(format!(
            "its output has the shape {shape:?} for one volume, expected {:?}, a number for each class of dataset `{}`; name another output (output = \"...\" beside the model), or evaluate it on the classes that it was trained for",
            spec.shape(1),
            spec.dataset
        ));
    }
    let Some(given) = &options.classes else { return Ok((0..names.len()).collect()) };
    let place = |class: &String| given.iter().position(|name| name == class);
    let places: Option<Vec<usize>> = names.iter().map(place).collect();
    places.filter(|_| given.len() == names.len()).ok_or_else(|| {
        format!(
            "classes beside the model are {given:?}, but those of dataset `{}` are {names:?}; write the same names in the order of the output",
            spec.dataset
        )
    })
}

/// Number of values of a stored tensor of floats.
fn parameters(tensor: &TensorProto) -> usize {
    let float = [DataType::Float, DataType::Float16, DataType::Double, DataType::Bfloat16];
    let float = float.iter().any(|t| *t as i32 == tensor.data_type);
    let count = tensor.dims.iter().map(|&n| usize::try_from(n).unwrap_or(0));
    if float { count.fold(1, usize::saturating_mul) } else { 0 }
}
