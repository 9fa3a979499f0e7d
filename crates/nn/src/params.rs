use std::fmt::{self, Debug, Display, Formatter};

use candle_core::{DType, Device, Tensor, Var};
use candle_nn::VarBuilder;
use steer3d_files::digest::PartHasher;
use steer3d_files::memory::{self, Room};
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

/// One run of a network or a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pass {
    /// How it is run.
    pub mode: Mode,
    /// Whether the backward pass runs it again: the running statistics have had their share of this batch.
    pub again: bool,
}

impl From<Mode> for Pass {
    fn from(mode: Mode) -> Self {
        Self { mode, again: false }
    }
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
/// Initial values come from streams keyed by the seed and the layer's name, so adding a layer
/// does not change the others. A layer is given its place by [`pp`](Self::pp).
#[derive(Debug)]
pub struct Params {
    seed: u64,
    dtype: DType,
    device: Device,
    prefix: String,
    source: Option<Source>,
    room: Option<Room>,
    trainable: Vec<Parameter>,
    buffers: Vec<(String, Var)>,
}

/// The tensor of a name and shape, and whether it has its values already.
type Find = dyn Fn(&str, &[usize]) -> Result<(Tensor, bool), NnError> + Send + Sync;

/// Where tensors come from that are not new.
struct Source(Box<Find>);

impl Debug for Source {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str("Source")
    }
}

/// Bytes for each number of a tensor: it is made in f64, and stays in f32 beside its gradient.
const BYTES: u64 = 8;

/// A place in a set of parameters, where a layer finds or puts its tensors, as candle's [`VarBuilder`] is. It is
/// made by [`Params::pp`] or, for a layer that needs no set of its own, from a [`VarBuilder`].
#[derive(Debug)]
pub struct Scope<'a> {
    set: Set<'a>,
    path: String,
}

#[derive(Debug)]
enum Set<'a> {
    Shared(&'a mut Params),
    Own(Box<Params>),
}

impl Params {
    /// An empty set for tensors of `dtype` on `device`.
    pub fn new(seed: u64, dtype: DType, device: &Device) -> Self {
        Self {
            seed,
            dtype,
            device: device.clone(),
            prefix: String::new(),
            source: None,
            room: None,
            trainable: vec![],
            buffers: vec![],
        }
    }

    /// An empty set whose tensors are those of `source`, under its prefix: a `VarMap` holds every tensor that a
    /// layer adds, with the initial value that `seed` gives unless the map has that tensor already; a safetensors
    /// file must have every tensor of the right shape.
    pub fn from_var_builder(source: &VarBuilder<'static>, seed: u64) -> Self {
        let root = source.root();
        let find = move |name: &str, shape: &[usize]| {
            let known = root.contains_tensor(name);
            Ok((root.get(shape, name)?, known))
        };
        let params = Self::new(seed, source.dtype(), source.device()).found_by(find);
        Self { prefix: source.prefix(), ..params }
    }

    /// The same set, whose tensors are those that `find` gives for a name and shape.
    pub(crate) fn found_by(
        self,
        find: impl Fn(&str, &[usize]) -> Result<(Tensor, bool), NnError> + Send + Sync + 'static,
    ) -> Self {
        Self { source: Some(Source(Box::new(find))), ..self }
    }

    /// The place `name` in this set.
    pub fn pp(&mut self, name: impl Display) -> Scope<'_> {
        Scope { path: joined(&self.prefix, name), set: Set::Shared(self) }
    }

    /// Adds a trainable tensor, whose initial `values` are asked for only if it is new.
    ///
    /// # Errors
    /// When `values` does not fill `shape`, the budget of memory ([`memory`]) or the device has no room, or a
    /// [`VarBuilder`] lacks the tensor.
    pub fn weight(
        &mut self,
        name: &str,
        values: impl IntoIterator<Item = f64>,
        shape: &[usize],
        decay: bool,
    ) -> Result<Tensor, NnError> {
        let var = self.var(name, values, shape)?;
        let tensor = var.as_tensor().clone();
        self.trainable.push(Parameter { name: name.into(), var, decay });
        Ok(tensor)
    }

    /// Makes a constant tensor of the set's element type on its device; it is neither trained nor saved.
    ///
    /// # Errors
    /// When `values` does not fill `shape`, or the device has no room.
    pub fn constant(&self, values: Vec<f64>, shape: &[usize]) -> Result<Tensor, NnError> {
        let device = self.device_of(values.len());
        Ok(Tensor::from_vec(values, shape, &Device::Cpu)?
            .to_dtype(self.dtype)?
            .to_device(device)?)
    }

    /// CUDA has no empty tensors.
    fn device_of(&self, count: usize) -> &Device {
        if count == 0 { &Device::Cpu } else { &self.device }
    }

    fn var(
        &mut self,
        name: &str,
        values: impl IntoIterator<Item = f64>,
        shape: &[usize],
    ) -> Result<Var, NnError> {
        let count = shape.iter().fold(1, |count: u64, &n| count.saturating_mul(n as u64));
        self.reserve(name, count.saturating_mul(BYTES))?;
        let initial = || self.constant(values.into_iter().collect(), shape);
        let Some(Source(find)) = &self.source else { return Ok(Var::from_tensor(&initial()?)?) };
        let (tensor, known) = find(name, shape)?;
        let var = Var::from_tensor(&tensor)?;
        if !known {
            var.set(&initial()?)?;
        }
        Ok(var)
    }

    /// Takes `bytes` of the budget of memory for what `layer` is about to make; they are given back when the network
    /// is complete.
    fn reserve(&mut self, layer: &str, bytes: u64) -> Result<(), NnError> {
        let taken = match &mut self.room {
            Some(room) => room.grow(bytes),
            None => memory::take(bytes).map(|room| self.room = Some(room)),
        };
        taken.map_err(|source| NnError::Memory { layer: layer.into(), source })
    }

    /// Forgets where tensors came from, and gives back the room for making them.
    pub(crate) fn sealed(self) -> Self {
        Self { source: None, room: None, ..self }
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

    /// Adds the name and the values of every tensor to a hash.
    ///
    /// # Errors
    /// If they cannot be read from their device.
    pub fn hash_into(&self, hash: &mut PartHasher) -> Result<(), NnError> {
        for (name, var) in self.all() {
            let values = var.flatten_all()?.to_dtype(DType::F32)?.to_vec1::<f32>()?;
            let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
            hash.add(name.as_bytes());
            hash.add(&bytes);
        }
        Ok(())
    }

    /// Returns the number of trainable values, those of all tensors together.
    pub fn count(&self) -> usize {
        self.trainable.iter().map(|p| p.var.elem_count()).sum()
    }

    /// The seed of the initial values.
    pub(crate) fn seed(&self) -> u64 {
        self.seed
    }

    /// The element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Returns the device on which the tensors are.
    pub fn device(&self) -> &Device {
        &self.device
    }
}

impl From<VarBuilder<'static>> for Scope<'static> {
    fn from(source: VarBuilder<'static>) -> Self {
        let set = Set::Own(Box::new(Params::from_var_builder(&source, 0)));
        Self { path: source.prefix(), set }
    }
}

impl Scope<'_> {
    /// The place `name` in this one.
    pub fn pp(&mut self, name: impl Display) -> Scope<'_> {
        let path = joined(&self.path, name);
        Scope { set: Set::Shared(self.set_mut()), path }
    }

    /// The names from the root to here, with points between them.
    pub fn path(&self) -> &str {
        &self.path
    }

    fn set(&self) -> &Params {
        match &self.set {
            Set::Shared(params) => params,
            Set::Own(params) => params,
        }
    }

    fn set_mut(&mut self) -> &mut Params {
        match &mut self.set {
            Set::Shared(params) => params,
            Set::Own(params) => params,
        }
    }

    /// The stream from which the initial values of a layer here are drawn.
    pub fn stream(&self) -> Stream {
        Stream::new(self.set().seed, &format!("init/{}", self.path), &[])
    }

    /// Adds the trainable tensor `name`.
    ///
    /// # Errors
    /// As [`Params::weight`].
    pub fn weight(
        &mut self,
        name: &str,
        values: impl IntoIterator<Item = f64>,
        shape: &[usize],
        decay: bool,
    ) -> Result<Tensor, NnError> {
        let name = joined(&self.path, name);
        self.set_mut().weight(&name, values, shape, decay)
    }

    /// Adds the tensor `name`, which is saved but not trained.
    ///
    /// # Errors
    /// As [`Params::weight`].
    pub fn buffer(
        &mut self,
        name: &str,
        values: impl IntoIterator<Item = f64>,
        shape: &[usize],
    ) -> Result<Var, NnError> {
        let name = joined(&self.path, name);
        let set = self.set_mut();
        let var = set.var(&name, values, shape)?;
        set.buffers.push((name, var.clone()));
        Ok(var)
    }

    /// Takes `bytes` of the budget of memory for what a layer here is about to make.
    ///
    /// # Errors
    /// [`NnError::Memory`] if it has less.
    pub(crate) fn reserve(&mut self, bytes: f64) -> Result<(), NnError> {
        let path = self.path.clone();
        self.set_mut().reserve(&path, bytes as u64)
    }

    /// Makes a constant tensor, as [`Params::constant`] does.
    ///
    /// # Errors
    /// As [`Params::constant`].
    pub fn constant(&self, values: Vec<f64>, shape: &[usize]) -> Result<Tensor, NnError> {
        self.set().constant(values, shape)
    }

    /// Places in other tensors, of rank 1.
    pub(crate) fn indices(&self, values: Vec<u32>) -> Result<Tensor, NnError> {
        let count = values.len();
        Ok(Tensor::from_vec(values, count, self.set().device_of(count))?)
    }

    /// The element type.
    pub fn dtype(&self) -> DType {
        self.set().dtype
    }
}

fn joined(path: &str, name: impl Display) -> String {
    if path.is_empty() { name.to_string() } else { format!("{path}.{name}") }
}
