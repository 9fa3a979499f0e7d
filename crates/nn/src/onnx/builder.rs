use std::collections::{BTreeMap, BTreeSet};

use candle_core::{DType, Device, Tensor};
use prost::Message;
use steer3d_files::memory::{self, Room};

use super::proto::{
    AttributeProto, Dimension, Entry, FLOAT, GraphProto, INT64, ModelProto, NodeProto, OperatorSet,
    TensorProto, TensorShape, TensorType, TypeProto, ValueInfo,
};
use crate::error::onnx_fault;
use crate::{FieldType, NnError};

/// The set of operators unless one needs a newer, and the version of the format that came with each.
const OPSET: i64 = 17;
const FORMATS: [(i64, i64); 2] = [(17, 8), (20, 9)];

/// Largest file, that of protobuf.
const MAX_BYTES: usize = (1 << 31) - 1;

/// Bytes taken for each byte of a constant: its message, the file, and both again when this is checked.
const COPIES: u64 = 4;

/// The name of the input.
pub(super) const INPUT: &str = "volume";

/// The name of a tensor in a graph.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Value(String);

/// A field in a graph: a tensor N,C,D,H,W and how its channels transform.
#[derive(Debug, Clone)]
pub struct OnnxField {
    /// The tensor.
    pub value: Value,
    /// The type of the channels.
    pub kind: FieldType,
}

/// A setting of an operator.
#[derive(Debug, Clone)]
pub enum Attribute<'a> {
    /// One number.
    Int(i64),
    /// Several.
    Ints(Vec<i64>),
    /// A word.
    Text(&'a str),
}

/// A graph of standard operators of ONNX (<https://onnx.ai/onnx/operators>) to which layers add themselves
/// ([`FieldLayer::export`](crate::layers::FieldLayer::export)).
#[derive(Debug)]
pub struct OnnxGraph {
    nodes: Vec<NodeProto>,
    constants: Vec<TensorProto>,
    names: BTreeSet<String>,
    /// Constants of few integers or of one number, which nodes share.
    shared: BTreeMap<(i32, Vec<usize>, Vec<u8>), Value>,
    place: String,
    opset: i64,
    room: Room,
}

impl OnnxGraph {
    pub(super) fn new() -> Result<Self, NnError> {
        let room = memory::take(0).map_err(|source| no_room("the ONNX file", source))?;
        Ok(Self {
            nodes: vec![],
            constants: vec![],
            names: BTreeSet::new(),
            shared: BTreeMap::new(),
            place: String::new(),
            opset: OPSET,
            room,
        })
    }

    /// The input N,C,D,H,W.
    pub(super) fn input(kind: FieldType) -> OnnxField {
        OnnxField { value: Value(INPUT.into()), kind }
    }

    /// Sets how the names of all that is added from now on begin.
    pub fn enter(&mut self, place: impl Into<String>) {
        self.place = place.into();
    }

    /// Says that an operator is of this set, 17 or 20, or means something else before it.
    pub(crate) fn need_opset(&mut self, opset: i64) {
        self.opset = self.opset.max(opset);
    }

    /// Takes room of the memory for input until the file is made.
    fn reserve(&mut self, bytes: u64) -> Result<(), NnError> {
        self.room.grow(bytes).map_err(|source| no_room(&self.place, source))
    }

    /// Adds an operator and returns its output.
    pub fn node(
        &mut self,
        operator: &str,
        inputs: &[&Value],
        attributes: &[(&str, Attribute<'_>)],
    ) -> Value {
        let name = self.unused(&operator.to_lowercase());
        self.nodes.push(NodeProto {
            input: inputs.iter().map(|input| input.0.clone()).collect(),
            output: vec![name.clone()],
            name: name.clone(),
            op_type: operator.into(),
            attribute: attributes.iter().map(|(name, value)| attribute(name, value)).collect(),
        });
        Value(name)
    }

    /// Adds a constant of 32-bit floats under a name of this place.
    ///
    /// # Errors
    /// [`NnError::Memory`] if the file would be larger than the memory for input.
    pub fn tensor(&mut self, name: &str, tensor: &Tensor) -> Result<Value, NnError> {
        self.reserve(COPIES * 4 * tensor.elem_count() as u64)?;
        let values = tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
        let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        let name = self.unused(name);
        Ok(self.constant(name, FLOAT, tensor.dims(), bytes))
    }

    /// Adds a constant that is one 32-bit float, without axes.
    pub fn number(&mut self, value: f64) -> Value {
        self.shared(FLOAT, &[], (value as f32).to_le_bytes().to_vec())
    }

    /// Adds a constant that is one integer, without axes.
    pub fn integer(&mut self, value: i64) -> Value {
        self.shared(INT64, &[], value.to_le_bytes().to_vec())
    }

    /// Adds a constant of integers along one axis.
    pub fn integers(&mut self, values: &[i64]) -> Value {
        let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.shared(INT64, &[values.len()], bytes)
    }

    /// Adds what gives the size of `x` along an axis, one integer.
    pub fn size(&mut self, x: &Value, axis: usize) -> Value {
        let (shape, axis) = (self.node("Shape", &[x], &[]), self.integer(axis as i64));
        self.node("Gather", &[&shape, &axis], &[("axis", Attribute::Int(0))])
    }

    /// Adds what gives `x` with other sizes, of which -1 is what remains.
    pub fn reshape(&mut self, x: &Value, sizes: &[i64]) -> Value {
        let sizes = self.integers(sizes);
        self.node("Reshape", &[x, &sizes], &[])
    }

    /// Adds what gives some channels of N,C,..., in this order.
    pub fn channels(&mut self, x: &Value, channels: impl IntoIterator<Item = usize>) -> Value {
        let channels: Vec<i64> = channels.into_iter().map(|c| c as i64).collect();
        let channels = self.integers(&channels);
        self.node("Gather", &[x, &channels], &[("axis", Attribute::Int(1))])
    }

    /// Adds what gives all channels of the first value, then those of the next.
    pub fn beside(&mut self, all: &[&Value]) -> Value {
        self.node("Concat", all, &[("axis", Attribute::Int(1))])
    }

    /// Adds a constant matrix, shape outputs, inputs, and what applies it to the channels of every voxel.
    ///
    /// # Errors
    /// As [`tensor`](Self::tensor).
    pub fn mixed(&mut self, x: &Value, name: &str, matrix: &Tensor) -> Result<Value, NnError> {
        let (outputs, inputs) = matrix.dims2()?;
        let weight = self.tensor(name, &matrix.reshape((outputs, inputs, 1, 1, 1))?)?;
        Ok(self.node("Conv", &[x, &weight], &[("kernel_shape", Attribute::Ints(vec![1; 3]))]))
    }

    /// A matrix of f32 for [`mixed`](Self::mixed) that is `entries` and else 0.
    pub(crate) fn matrix(
        &mut self,
        [rows, columns]: [usize; 2],
        entries: impl IntoIterator<Item = (usize, usize, f64)>,
    ) -> Result<Tensor, NnError> {
        self.reserve((12.0 * rows as f64 * columns as f64) as u64)?;
        let mut values = vec![0.0; rows * columns];
        entries.into_iter().for_each(|(row, column, v)| values[row * columns + column] += v);
        let values: Vec<f32> = values.into_iter().map(|v| v as f32).collect();
        Ok(Tensor::from_vec(values, (rows, columns), &Device::Cpu)?)
    }

    /// The mean over orientations of each channel of N,C,....
    pub(crate) fn mean_over_orientations(
        &mut self,
        field: &OnnxField,
    ) -> Result<OnnxField, NnError> {
        let FieldType { irreps, orientations } = &field.kind;
        if *orientations == 1 {
            return Ok(field.clone());
        }
        let share = Tensor::full(
            1.0 / *orientations as f32,
            (irreps.dim(), *orientations, 1, 1, 1),
            &Device::Cpu,
        )?;
        let share = self.tensor("share", &share)?;
        let attributes = [
            ("kernel_shape", Attribute::Ints(vec![1; 3])),
            ("group", Attribute::Int(irreps.dim() as i64)),
        ];
        let value = self.node("Conv", &[&field.value, &share], &attributes);
        Ok(OnnxField { value, kind: irreps.into() })
    }

    /// The file of the graph, whose output has `classes` channels and, if `space`, the axes of space.
    pub(super) fn finish(
        mut self,
        channels: usize,
        (output, name): (&Value, &str),
        (classes, space): (usize, bool),
        metadata: &[(&str, String)],
    ) -> Result<Vec<u8>, NnError> {
        let outputs = self.nodes.iter_mut().flat_map(|node| &mut node.output);
        outputs.filter(|given| **given == output.0).for_each(|given| *given = name.into());
        let named = |name: &str| Dimension { dim_param: Some(name.into()), dim_value: None };
        let fixed = |n: usize| Dimension { dim_value: Some(n as i64), dim_param: None };
        let free = || Dimension { dim_value: None, dim_param: None };
        let volume = vec![named("N"), fixed(channels), named("D"), named("H"), named("W")];
        let mut answer = vec![named("N"), fixed(classes)];
        if space {
            answer.extend([free(), free(), free()]);
        }
        let graph = GraphProto {
            node: self.nodes,
            name: "steer3d".into(),
            initializer: self.constants,
            input: vec![described(INPUT, volume)],
            output: vec![described(name, answer)],
        };
        let format = FORMATS.iter().find(|(opset, _)| *opset == self.opset);
        let entry =
            |(key, value): &(&str, String)| Entry { key: (*key).into(), value: value.clone() };
        let model = ModelProto {
            ir_version: format.map_or(FORMATS[0].1, |f| f.1),
            producer_name: "steer3d".into(),
            producer_version: env!("CARGO_PKG_VERSION").into(),
            graph: Some(graph),
            opset_import: vec![OperatorSet { domain: String::new(), version: self.opset }],
            metadata_props: metadata.iter().map(entry).collect(),
        };
        if model.encoded_len() > MAX_BYTES {
            let problem = format!(
                "takes {} bytes with dense filters, and the format at most {MAX_BYTES}; export fewer channels or smaller kernels",
                model.encoded_len()
            );
            return onnx_fault("the network", problem);
        }
        Ok(model.encode_to_vec())
    }

    fn shared(&mut self, element: i32, dims: &[usize], bytes: Vec<u8>) -> Value {
        let key = (element, dims.to_vec(), bytes);
        if let Some(value) = self.shared.get(&key) {
            return value.clone();
        }
        let name = format!("constant.{}", self.shared.len());
        let value = self.constant(name, element, dims, key.2.clone());
        self.shared.insert(key, value.clone());
        value
    }

    fn constant(
        &mut self,
        name: String,
        data_type: i32,
        dims: &[usize],
        raw_data: Vec<u8>,
    ) -> Value {
        let dims = dims.iter().map(|&n| n as i64).collect();
        self.constants.push(TensorProto { dims, data_type, name: name.clone(), raw_data });
        Value(name)
    }

    /// `name` at this place, with a number behind it where it is taken.
    fn unused(&mut self, name: &str) -> String {
        let name =
            if self.place.is_empty() { name.into() } else { format!("{}.{name}", self.place) };
        let numbered = (2..).map(|i| format!("{name}.{i}"));
        let free = std::iter::once(name.clone()).chain(numbered).find(|n| !self.names.contains(n));
        let free = free.unwrap_or(name);
        self.names.insert(free.clone());
        free
    }
}

fn no_room(layer: &str, source: memory::NoRoom) -> NnError {
    NnError::Memory { layer: layer.into(), source }
}

fn attribute(name: &str, value: &Attribute<'_>) -> AttributeProto {
    let name = name.into();
    match value {
        Attribute::Int(i) => {
            AttributeProto { name, i: Some(*i), r#type: 2, ..AttributeProto::default() }
        }
        Attribute::Text(s) => AttributeProto {
            name,
            s: Some(s.as_bytes().to_vec()),
            r#type: 3,
            ..AttributeProto::default()
        },
        Attribute::Ints(ints) => {
            AttributeProto { name, ints: ints.clone(), r#type: 7, ..AttributeProto::default() }
        }
    }
}

fn described(name: &str, dim: Vec<Dimension>) -> ValueInfo {
    let tensor_type = TensorType { elem_type: FLOAT, shape: Some(TensorShape { dim }) };
    ValueInfo { name: name.into(), r#type: Some(TypeProto { tensor_type: Some(tensor_type) }) }
}
