use std::collections::HashMap;

use candle_core::{D, DType, Device, Tensor};
use prost::Message;
use steer3d_files::memory;
use steer3d_ops::{Conv3dConfig, conv3d, global_avg_pool, max_pool3d};

use super::builder::INPUT;
use super::proto::{FLOAT, GraphProto, INT64, ModelProto, NodeProto, TensorProto};
use crate::NnError;
use crate::error::onnx_fault;

/// An ONNX model that [`export`](super::export) wrote, read from its file. It computes the operators of such models, on
/// the CPU, to check them; it is no runtime for other models, whose sizes it would believe.
#[derive(Debug)]
pub struct OnnxModel {
    graph: GraphProto,
    constants: HashMap<String, Tensor>,
}

impl OnnxModel {
    /// Reads a model.
    ///
    /// # Errors
    /// [`NnError::Onnx`] if the bytes are no ONNX model or a damaged one.
    pub fn read(bytes: &[u8]) -> Result<Self, NnError> {
        let model = ModelProto::decode(bytes)
            .or_else(|e| onnx_fault("the file", format!("no ONNX model, or a damaged one: {e}")))?;
        let Some(mut graph) = model.graph else { return onnx_fault("the file", "has no graph") };
        let constants = std::mem::take(&mut graph.initializer).into_iter();
        let constants = constants.map(|tensor| Ok((tensor.name.clone(), constant(&tensor)?)));
        let constants = constants.collect::<Result<_, NnError>>()?;
        Ok(Self { graph, constants })
    }

    /// The filters and other arrays of floats, by name.
    pub fn arrays(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        let arrays = self.constants.iter().filter(|(_, t)| t.dtype() == DType::F32 && t.rank() > 0);
        let mut arrays: Vec<_> = arrays.map(|(name, tensor)| (name.as_str(), tensor)).collect();
        arrays.sort_by_key(|(name, _)| *name);
        arrays.into_iter()
    }

    /// What the model gives for volumes N,C,D,H,W.
    ///
    /// # Errors
    /// [`NnError::Onnx`] naming an operator that our networks do not use, or whose inputs are not there or not such as
    /// it takes; [`NnError::Memory`] if its tensors are larger than the memory for input.
    pub fn run(&self, volumes: &Tensor) -> Result<Tensor, NnError> {
        let mut last_use = HashMap::new();
        for (i, node) in self.graph.node.iter().enumerate() {
            last_use.extend(node.input.iter().map(|name| (name.as_str(), i)));
        }
        let room = |part: &str, tensor: &Tensor| {
            memory::take(4 * tensor.elem_count() as u64)
                .map_err(|source| NnError::Memory { layer: part.into(), source })
        };
        let mut values = HashMap::from([(INPUT, (volumes.clone(), room(INPUT, volumes)?))]);
        for (i, node) in self.graph.node.iter().enumerate() {
            let find = |name: &String| {
                let value = values.get(name.as_str()).map(|(value, _)| value);
                let found = value.or_else(|| self.constants.get(name)).cloned();
                found.map_or_else(|| onnx_fault(&node.name, format!("nothing gives `{name}`")), Ok)
            };
            let inputs = node.input.iter().map(find).collect::<Result<Vec<_>, _>>()?;
            let output = Operator { node, inputs: &inputs }.run();
            let output = output.or_else(|error| match error {
                NnError::Tensor(error) => onnx_fault(&node.name, error.to_string()),
                error => Err(error),
            })?;
            values.retain(|name, _| last_use.get(name).is_some_and(|&last| last > i));
            let room = room(&node.name, &output)?;
            values.extend(node.output.first().map(|name| (name.as_str(), (output, room))));
        }
        let output = self.graph.output.first().and_then(|out| values.remove(out.name.as_str()));
        match output {
            Some((output, _)) => Ok(output),
            None => onnx_fault("the graph", "nothing gives its output"),
        }
    }
}

fn constant(tensor: &TensorProto) -> Result<Tensor, NnError> {
    let dims: Option<Vec<usize>> = tensor.dims.iter().map(|&n| usize::try_from(n).ok()).collect();
    let (dims, bytes) = (dims.unwrap_or_default(), &tensor.raw_data);
    let count = dims.iter().try_fold(1usize, |count, &n| count.checked_mul(n));
    let size = if tensor.data_type == INT64 { 8 } else { 4 };
    if dims.len() != tensor.dims.len()
        || count.and_then(|n| n.checked_mul(size)) != Some(bytes.len())
    {
        let problem = format!("{} bytes for the shape {:?}", bytes.len(), tensor.dims);
        return onnx_fault(&tensor.name, problem);
    }
    match tensor.data_type {
        FLOAT => {
            let values: Vec<f32> =
                bytes.as_chunks().0.iter().map(|b: &[u8; 4]| f32::from_le_bytes(*b)).collect();
            Ok(Tensor::from_vec(values, dims, &Device::Cpu)?)
        }
        INT64 => {
            let values: Vec<i64> =
                bytes.as_chunks().0.iter().map(|b: &[u8; 8]| i64::from_le_bytes(*b)).collect();
            Ok(Tensor::from_vec(values, dims, &Device::Cpu)?)
        }
        other => onnx_fault(&tensor.name, format!("elements of type {other}")),
    }
}

/// A node and what it is given.
struct Operator<'a> {
    node: &'a NodeProto,
    inputs: &'a [Tensor],
}

impl Operator<'_> {
    fn run(&self) -> Result<Tensor, NnError> {
        let x = self.input(0)?;
        let output = match self.node.op_type.as_str() {
            "Add" => x.broadcast_add(self.input(1)?)?,
            "Sub" => x.broadcast_sub(self.input(1)?)?,
            "Mul" => x.broadcast_mul(self.input(1)?)?,
            "Div" => self.quotient(x, self.input(1)?)?,
            "Min" => x.broadcast_minimum(self.input(1)?)?,
            "Relu" => x.relu()?,
            "Sigmoid" => ((x.neg()?.exp()? + 1.0)?.recip())?,
            "Sqrt" => x.sqrt()?,
            "Tanh" => x.tanh()?,
            "Cast" => x.to_dtype(DType::F32)?,
            "Concat" => Tensor::cat(self.inputs, self.axis()?)?,
            "Flatten" => x.flatten_from(1)?,
            "Gather" => self.gathered(x, self.input(1)?)?,
            "Shape" => {
                let dims: Vec<i64> = x.dims().iter().map(|&n| n as i64).collect();
                Tensor::new(dims, &Device::Cpu)?
            }
            "Range" => {
                let end = self.integers(1)?;
                Tensor::arange(0, end.first().copied().unwrap_or(0), &Device::Cpu)?
            }
            "Reshape" => self.reshaped(x, &self.integers(1)?)?,
            "Expand" => x.broadcast_as(sizes(&self.integers(1)?))?.contiguous()?,
            "Slice" => {
                let one = |i: usize| Ok::<_, NnError>(sizes(&self.integers(i)?).first().copied());
                let (Some(start), Some(end), Some(axis)) = (one(1)?, one(2)?, one(3)?) else {
                    return self.fault("expected a start, an end and an axis");
                };
                x.narrow(axis, start, end.min(x.dim(axis)?).saturating_sub(start))?.contiguous()?
            }
            "ReduceSum" => x.sum_keepdim(sizes(&self.integers(1)?))?,
            "ReduceMean" => x.mean_keepdim(sizes(&self.integers(1)?))?,
            "GlobalAveragePool" => {
                let (n, c, ..) = x.dims5()?;
                global_avg_pool(x)?.reshape((n, c, 1, 1, 1))?
            }
            "Gemm" => x.matmul(self.input(1)?)?.broadcast_add(self.input(2)?)?,
            "MaxPool" => match (
                &self.ints("kernel_shape")[..],
                &self.ints("strides")[..],
                &self.ints("pads")[..],
            ) {
                (&[size, ..], &[stride, ..], &[pad, ..]) => max_pool3d(x, size, stride, pad)?,
                _ => return self.fault("lacks its kernel, strides or pads"),
            },
            "Conv" => self.convolved(x, self.input(1)?)?,
            "ConvTranspose" => self.spread(x, self.input(1)?)?,
            "GridSample" => sampled(x, self.input(1)?)?,
            other => return self.fault(format!("{other} is no operator of our networks")),
        };
        Ok(output)
    }

    fn fault<T>(&self, problem: impl Into<String>) -> Result<T, NnError> {
        onnx_fault(&self.node.name, problem)
    }

    fn input(&self, i: usize) -> Result<&Tensor, NnError> {
        self.inputs.get(i).map_or_else(|| self.fault(format!("has no input {i}")), Ok)
    }

    fn integers(&self, i: usize) -> Result<Vec<i64>, NnError> {
        Ok(self.input(i)?.flatten_all()?.to_vec1()?)
    }

    /// Sizes of an attribute.
    fn ints(&self, name: &str) -> Vec<usize> {
        let found = self.node.attribute.iter().find(|attribute| attribute.name == name);
        found.map_or_else(Vec::new, |attribute| sizes(&attribute.ints))
    }

    fn int(&self, name: &str) -> Option<usize> {
        let found = self.node.attribute.iter().find(|attribute| attribute.name == name)?;
        usize::try_from(found.i?).ok()
    }

    fn axis(&self) -> Result<usize, NnError> {
        self.int("axis").map_or_else(|| self.fault("lacks its axis"), Ok)
    }

    fn quotient(&self, x: &Tensor, by: &Tensor) -> Result<Tensor, NnError> {
        if by.dtype() == DType::I64 && by.flatten_all()?.to_vec1::<i64>()?.contains(&0) {
            return self.fault("divides integers by 0");
        }
        Ok(x.broadcast_div(by)?)
    }

    fn gathered(&self, x: &Tensor, places: &Tensor) -> Result<Tensor, NnError> {
        let axis = self.axis()?;
        let found = x.contiguous()?.index_select(&places.flatten_all()?, axis)?;
        Ok(if places.rank() == 0 { found.squeeze(axis)? } else { found })
    }

    fn reshaped(&self, x: &Tensor, wanted: &[i64]) -> Result<Tensor, NnError> {
        let known: usize =
            sizes(wanted).iter().zip(wanted).filter(|(_, n)| **n >= 0).map(|(n, _)| n).product();
        if known == 0 {
            return self.fault("has no elements");
        }
        let rest = x.elem_count() / known;
        let dims: Vec<usize> = wanted.iter().map(|&n| usize::try_from(n).unwrap_or(rest)).collect();
        Ok(x.reshape(dims)?)
    }

    /// A convolution of groups of channels, zero outside.
    fn convolved(&self, x: &Tensor, filter: &Tensor) -> Result<Tensor, NnError> {
        let (pads, strides) = (self.ints("pads"), self.ints("strides"));
        let pads: [usize; 6] = pads.try_into().unwrap_or_default();
        let strides: [usize; 3] = strides.try_into().unwrap_or([1; 3]);
        let padded = padded(x, pads)?;
        let out = grouped(&padded, filter, strides, self.int("group").unwrap_or(1))?;
        match self.inputs.get(2) {
            Some(bias) => Ok(out.broadcast_add(&bias.reshape((bias.elem_count(), 1, 1, 1))?)?),
            None => Ok(out),
        }
    }

    /// The transpose of a convolution of single channels: zeros between the voxels, and the mirrored filter.
    fn spread(&self, x: &Tensor, filter: &Tensor) -> Result<Tensor, NnError> {
        let (channels, one, taps) = (filter.dim(0)?, filter.dim(1)?, &filter.dims()[2..]);
        let (pads, strides) = (self.ints("pads"), self.ints("strides"));
        if one != 1 || self.int("group") != Some(channels) || pads.len() != 6 || strides.len() != 3
        {
            return self.fault("expected a filter for each channel, pads and strides");
        }
        let mut x = x.clone();
        for (axis, stride) in (2..).zip(strides) {
            let n = x.dim(axis)?;
            let apart =
                x.unsqueeze(axis + 1)?.pad_with_zeros(axis + 1, 0, stride.saturating_sub(1))?;
            x = apart.flatten(axis, axis + 1)?.narrow(
                axis,
                0,
                (n * stride + 1).saturating_sub(stride),
            )?;
        }
        let rest: Option<Vec<usize>> =
            pads.iter().zip(taps.iter().cycle()).map(|(pad, k)| k.checked_sub(pad + 1)).collect();
        let Some(Ok(rest)) = rest.map(<[usize; 6]>::try_from) else {
            return self.fault("has pads larger than its filter");
        };
        let last = filter.elem_count() as u32 / channels.max(1) as u32;
        let mirrored = Tensor::from_iter((0..last).rev(), &Device::Cpu)?;
        let mirrored = filter.flatten_from(2)?.index_select(&mirrored, D::Minus1)?;
        grouped(&padded(&x, rest)?, &mirrored.reshape(filter.shape())?, [1; 3], channels)
    }
}

/// Numbers that are no size are 0.
fn sizes(integers: &[i64]) -> Vec<usize> {
    integers.iter().map(|&n| usize::try_from(n).unwrap_or(0)).collect()
}

/// With so many zeros before D, H and W and after them.
fn padded(x: &Tensor, pads: [usize; 6]) -> Result<Tensor, NnError> {
    let mut x = x.clone();
    for axis in 0..3 {
        x = x.pad_with_zeros(axis + 2, pads[axis], pads[axis + 3])?;
    }
    Ok(x)
}

fn grouped(
    x: &Tensor,
    filter: &Tensor,
    stride: [usize; 3],
    groups: usize,
) -> Result<Tensor, NnError> {
    let config = Conv3dConfig { stride, padding: [0; 3] };
    if groups <= 1 {
        return Ok(conv3d(&x.contiguous()?, &filter.contiguous()?, None, &config)?);
    }
    let parts = x.chunk(groups, 1)?.into_iter().zip(filter.chunk(groups, 0)?);
    let parts = parts.map(|(x, filter)| grouped(&x, &filter, stride, 1));
    Ok(Tensor::cat(&parts.collect::<Result<Vec<_>, _>>()?, 1)?)
}

/// GridSample: `x`, N,C,D,H,W, at the positions of `grid`, N,D',H',W',3 (x, y, z in halves of the grid about its centre),
/// interpolated linearly, with zeros outside.
fn sampled(x: &Tensor, grid: &Tensor) -> Result<Tensor, NnError> {
    let (n, c, d, h, w) = x.dims5()?;
    let (_, out_d, out_h, out_w, _) = grid.dims5()?;
    let count = out_d * out_h * out_w;
    let values = x.flatten_all()?.to_vec1::<f32>()?;
    let places = grid.reshape((n, count, 3))?.to_vec3::<f32>()?;
    let mut out = Vec::with_capacity(n * c * count);
    for (i, places) in places.iter().enumerate() {
        for channel in 0..c {
            let volume = &values[(i * c + channel) * d * h * w..][..d * h * w];
            out.extend(places.iter().map(|place| at(volume, [d, h, w], place)));
        }
    }
    Ok(Tensor::from_vec(out, (n, c, out_d, out_h, out_w), &Device::Cpu)?)
}

/// A volume D,H,W between its voxels.
fn at(volume: &[f32], [d, h, w]: [usize; 3], place: &[f32]) -> f32 {
    let index = |i: usize, n: usize| ((f64::from(place[i]) + 1.0) * n as f64 - 1.0) / 2.0;
    let (x, y, z) = (index(0, w), index(1, h), index(2, d));
    let sides = |v: f64| [(v.floor(), 1.0 - (v - v.floor())), (v.floor() + 1.0, v - v.floor())];
    let mut sum = 0.0;
    for (z, of_z) in sides(z) {
        for (y, of_y) in sides(y) {
            for (x, of_x) in sides(x) {
                let inside = |v: f64, n: usize| v >= 0.0 && v < n as f64;
                if inside(x, w) && inside(y, h) && inside(z, d) {
                    let voxel = (z as usize * h + y as usize) * w + x as usize;
                    sum += of_z * of_y * of_x * f64::from(volume[voxel]);
                }
            }
        }
    }
    sum as f32
}
