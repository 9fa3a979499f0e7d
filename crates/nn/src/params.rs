use candle_core::{DType, Device, Tensor, Var};
use steer3d_so3::Stream;

use crate::NnError;

/// How a network is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Running statistics, no dropout.
    Evaluate,
    /// Batch statistics (which update the running ones) and dropout masks drawn from
    /// `(seed, layer, step)`.
    Train {
        /// Seed of the run.
        seed: u64,
        /// Optimiser step.
        step: u64,
    },
    /// Batch statistics, which replace the running ones by their mean over the batches so far; no
    /// dropout.
    Calibrate {
        /// Number of the batch, from 0.
        batch: u64,
    },
}

/// A trainable tensor of a network.
#[derive(Debug, Clone)]
pub struct Parameter {
    /// Unique name, for example `blocks.0.conv.weight`.
    pub name: String,
    /// The values.
    pub var: Var,
    /// Whether weight decay applies (weights yes, biases and norm scales no).
    pub decay: bool,
}

/// The trainable tensors and the running statistics of a network, in a fixed order.
///
/// Initial values come from streams keyed by the seed and the tensor's name, so adding a layer
/// does not change the others.
#[derive(Debug)]
pub struct Params {
    seed: u64,
    dtype: DType,
    device: Device,
    trainable: Vec<Parameter>,
    buffers: Vec<(String, Var)>,
}

impl Params {
    /// An empty set for tensors of `dtype` on `device`.
    pub fn new(seed: u64, dtype: DType, device: &Device) -> Self {
        Self { seed, dtype, device: device.clone(), trainable: vec![], buffers: vec![] }
    }

    /// The stream from which the initial values of tensor `name` are drawn.
    pub fn stream(&self, name: &str) -> Stream {
        Stream::new(self.seed, &format!("init/{name}"), &[])
    }

    /// Adds a trainable tensor.
    ///
    /// # Errors
    /// When `values` does not fill `shape`, or the device has no room.
    pub fn weight(
        &mut self,
        name: &str,
        values: Vec<f64>,
        shape: &[usize],
        decay: bool,
    ) -> Result<Tensor, NnError> {
        let var = self.var(values, shape)?;
        let tensor = var.as_tensor().clone();
        self.trainable.push(Parameter { name: name.into(), var, decay });
        Ok(tensor)
    }

    /// Adds a tensor that is saved but not trained.
    ///
    /// # Errors
    /// As [`Params::weight`].
    pub fn buffer(
        &mut self,
        name: &str,
        values: Vec<f64>,
        shape: &[usize],
    ) -> Result<Var, NnError> {
        let var = self.var(values, shape)?;
        self.buffers.push((name.into(), var.clone()));
        Ok(var)
    }

    /// A constant tensor of the network's type and device.
    ///
    /// # Errors
    /// As [`Params::weight`].
    pub fn constant(&self, values: Vec<f64>, shape: &[usize]) -> Result<Tensor, NnError> {
        let device = self.device_of(values.len());
        Ok(Tensor::from_vec(values, shape, &Device::Cpu)?
            .to_dtype(self.dtype)?
            .to_device(device)?)
    }

    /// Places in other tensors, of rank 1.
    pub(crate) fn indices(&self, values: Vec<u32>) -> Result<Tensor, NnError> {
        let count = values.len();
        Ok(Tensor::from_vec(values, count, self.device_of(count))?)
    }

    /// CUDA has no empty tensors.
    fn device_of(&self, count: usize) -> &Device {
        if count == 0 { &Device::Cpu } else { &self.device }
    }

    fn var(&self, values: Vec<f64>, shape: &[usize]) -> Result<Var, NnError> {
        Ok(Var::from_tensor(&self.constant(values, shape)?)?)
    }

    /// The trainable tensors, in the order in which they were added.
    pub fn trainable(&self) -> &[Parameter] {
        &self.trainable
    }

    /// The trainable tensors but for the first `count`.
    pub(crate) fn trainable_after(&self, count: usize) -> Vec<Tensor> {
        self.trainable[count..].iter().map(|p| p.var.as_tensor().clone()).collect()
    }

    /// Every tensor that a checkpoint holds, trainable or not, with its name.
    pub fn all(&self) -> impl Iterator<Item = (&str, &Var)> {
        let trainable = self.trainable.iter().map(|p| (p.name.as_str(), &p.var));
        trainable.chain(self.buffers.iter().map(|(name, var)| (name.as_str(), var)))
    }

    /// Number of trainable values.
    pub fn count(&self) -> usize {
        self.trainable.iter().map(|p| p.var.elem_count()).sum()
    }

    /// The element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Where the tensors live.
    pub fn device(&self) -> &Device {
        &self.device
    }
}
