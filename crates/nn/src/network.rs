use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use candle_core::{DType, Device, Module, ModuleT, Tensor};
use steer3d_files::memory;

use crate::architectures::{plain, steerable};
use crate::block::ConvolutionInfo;
use crate::error::fault;
use crate::graph::Graph;
use crate::planes;
use crate::{LayerField, Mode, ModelConfig, NnError, Params, Pass};

/// The network that a [`ModelConfig`] describes.
///
/// It is a [`ModuleT`] whose training steps count from 0 and draw dropout masks from the seed of its weights;
/// [`forward`](Self::forward) takes seed and step as they come.
#[derive(Debug)]
pub struct Network {
    config: ModelConfig,
    params: Params,
    graph: Graph,
    /// Edges of the voxels (x, y, z) of the volumes that it is given.
    spacing: [f64; 3],
    /// The same network for the voxels that it was lately given, whose edges are so many times as long as its own.
    pub(crate) coarsened: Mutex<Vec<([f64; 3], Arc<Network>)>>,
    recompute: bool,
    /// Training passes as a [`ModuleT`].
    steps: AtomicU64,
}

/// A network ready for evaluation: every batch norm is folded into the convolution before it
/// ([`Convolution::folded_with`](crate::layers::Convolution::folded_with)), the one of the head into the linear
/// layer, and dense filters are expanded. Instance norms, which depend on the volume, stay.
///
/// It gives what the network that it was made of ([`Network::folded`]) gave at
/// that moment in [`Mode::Evaluate`], up to rounding, and keeps no field longer
/// than the next layer needs it. Training that network further does not change it.
#[derive(Debug)]
pub struct FoldedNetwork {
    pub(crate) graph: Graph,
}

impl Network {
    /// Builds the network with initial weights drawn from `seed`.
    ///
    /// # Errors
    /// [`NnError::Config`] naming the key that is wrong, [`NnError::Kernel`] when the fields of two
    /// neighbouring blocks have no kernel between them.
    pub fn new(
        config: &ModelConfig,
        seed: u64,
        dtype: DType,
        device: &Device,
    ) -> Result<Self, NnError> {
        Self::with_params(config, Params::new(seed, dtype, device))
    }

    /// Builds the network with the weights that `params` gives it, which may be those of a candle `VarBuilder`
    /// ([`Params::from_var_builder`]).
    ///
    /// # Errors
    /// As [`new`](Self::new), and [`NnError::Tensor`] for a tensor that is missing or of another shape.
    pub fn with_params(config: &ModelConfig, params: Params) -> Result<Self, NnError> {
        Self::built(config, config.voxel_size(), params)
    }

    fn built(config: &ModelConfig, spacing: [f64; 3], mut params: Params) -> Result<Self, NnError> {
        let graph = match config {
            ModelConfig::Steerable(config) => steerable(config, spacing, &mut params)?,
            ModelConfig::Plain(config) => plain(config, &mut params)?,
        };
        Ok(Self {
            config: config.clone(),
            params: params.sealed(),
            graph,
            spacing,
            coarsened: Mutex::default(),
            recompute: false,
            steps: AtomicU64::new(0),
        })
    }

    /// The same network for volumes of voxels with edges `spacing` (x, y, z), in the unit of
    /// [`SteerableConfig::voxel_size`](crate::SteerableConfig::voxel_size), for which this one was made. Weights and
    /// running statistics are shared: what one learns the other knows. It is made in the time of a new network, so keep
    /// it where many volumes have the same voxels.
    ///
    /// Kernels keep their size in units of length: their functions are sampled at the spacing
    /// ([`KernelBasis::at_spacing`](steer3d_kernels::KernelBasis::at_spacing)), separable ones along each axis by filters
    /// fitted to the same derivatives. Pooling blurs by the same length and takes the grid next to the one that the
    /// network was made for: an axis that is as coarse as that already keeps its voxels, on the way up again as well. For
    /// the voxel size of the network it is the same network, bit for bit.
    ///
    /// How far answers move depends on what the voxels can hold: a convolution of jets (k = 5, order 2) on fields of bumps
    /// of width 2, in units of the voxels that it was made for, moves by 0.2 % on slices 1.5 times as thick, 1 % on 2 and
    /// 3 % on 2.5, a U-Net several times as much;
    /// beyond [`ACCURATE_COARSENING`](steer3d_kernels::ACCURATE_COARSENING) expect to lose accuracy, and resample where it
    /// counts. The table is in `docs/src/exactness.md`.
    ///
    /// # Errors
    /// [`NnError::Config`] for a network that is not steerable, [`NnError::Kernel`] for edges that are not positive or
    /// too far from those that the network was made for.
    pub fn at_spacing(&self, spacing: [f64; 3]) -> Result<Self, NnError> {
        if let ModelConfig::Plain(_) = self.config {
            let problem = "the filters of a plain network belong to the voxels that it was made for; resample the \
                           volume, or use a steerable network";
            return fault("kind", problem);
        }
        let known = self.params.all().map(|(name, var)| (name.to_owned(), var.as_tensor().clone()));
        let known: HashMap<String, Tensor> = known.collect();
        let find = move |name: &str, _: &[usize]| match known.get(name) {
            Some(tensor) => Ok((tensor.clone(), true)),
            None => fault("spacing", format!("the network has no tensor {name}")),
        };
        let (seed, dtype, device) = (self.params.seed(), self.params.dtype(), self.params.device());
        let params = Params::new(seed, dtype, device).found_by(find);
        Ok(Self::built(&self.config, spacing, params)?.with_recomputation(self.recompute))
    }

    /// Returns the edges (x, y, z) of the voxels of the volumes that the network is for, in the unit of its configuration.
    pub fn spacing(&self) -> [f64; 3] {
        self.spacing
    }

    /// Returns the configuration that the network was built from.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Returns the trainable tensors and the running statistics of the network.
    pub fn params(&self) -> &Params {
        &self.params
    }

    /// Logits, shape N,classes, of volumes of shape N,C,D,H,W; with another [`Head`](crate::Head) what that
    /// says.
    ///
    /// Volumes are of the type of the weights or bf16. Then fields are bf16 as well, sums are taken in f32, and
    /// running statistics, answers and the gradients of the weights are of the type of the weights.
    ///
    /// # Errors
    /// [`NnError::Channels`] for another number of channels.
    pub fn forward(&self, x: &Tensor, mode: Mode) -> Result<Tensor, NnError> {
        let [_, output] = self.graph.forward(x, mode.into(), self.recompute, &mut |_, _| ())?;
        Ok(output.values)
    }

    /// What [`forward`](Self::forward) gives and, with deep supervision
    /// ([`SteerableConfig::deep_supervision`](crate::SteerableConfig::deep_supervision)), what the heads of the decoder's
    /// blocks give, finest first, all N,classes,D,H,W on the grid of the volumes.
    ///
    /// # Errors
    /// As [`forward`](Self::forward).
    pub fn forward_supervised(&self, x: &Tensor, mode: Mode) -> Result<Vec<Tensor>, NnError> {
        self.graph.supervised(x, mode.into(), self.recompute)
    }

    /// The output of every layer at evaluation, first to last, ending with what the head is given (`features`) and
    /// what it gives (`logits`, or `output` for a [`Head::Field`](crate::Head::Field)).
    ///
    /// # Errors
    /// As [`forward`](Self::forward).
    pub fn layers(&self, x: &Tensor) -> Result<Vec<LayerField>, NnError> {
        self.graph.layers(x)
    }

    /// Keeps only the inputs of the blocks for the backward pass, which runs each block again: the same
    /// gradients, and with many blocks less memory. A step takes half as long again.
    #[must_use]
    pub fn with_recomputation(mut self, recompute: bool) -> Self {
        self.recompute = recompute;
        self.coarsened = Mutex::default();
        self
    }

    /// The network at evaluation, as it is now; it takes less memory than [`forward`](Self::forward) in
    /// [`Mode::Evaluate`], which keeps every field for a backward pass.
    ///
    /// # Errors
    /// Only if the device runs out of memory.
    pub fn folded(&self) -> Result<FoldedNetwork, NnError> {
        Ok(FoldedNetwork { graph: self.graph.folded()? })
    }

    /// Returns how each convolution is computed and what it costs, first to last.
    pub fn convolutions(&self) -> Vec<ConvolutionInfo> {
        self.graph.convolutions()
    }

    /// Multiply-adds of the convolutions for one volume of D, H, W voxels, each on the path that is taken.
    pub fn multiply_adds(&self, dims: [usize; 3]) -> usize {
        self.graph.total(dims, |conv| conv.cost())
    }

    /// As [`layers`](Self::layers), of a volume of zeros of D, H, W voxels.
    ///
    /// # Errors
    /// [`NnError::Config`] for a grid that its layers cannot shrink, [`NnError::Memory`] if the fields of all layers
    /// are larger than the memory for input.
    pub fn layers_on_grid(&self, dims: [usize; 3]) -> Result<Vec<LayerField>, NnError> {
        self.on_grid(1, dims, || {
            let [d, h, w] = dims;
            let (dtype, device) = (self.params.dtype(), self.params.device());
            self.layers(&Tensor::zeros((1, self.config.channels(), d, h, w), dtype, device)?)
        })
    }

    /// What `run` does with `n` volumes of D, H, W voxels, in room of the memory for input.
    ///
    /// # Errors
    /// As [`layers_on_grid`](Self::layers_on_grid).
    pub(crate) fn on_grid<T>(
        &self,
        n: usize,
        dims: [usize; 3],
        run: impl FnOnce() -> Result<T, NnError>,
    ) -> Result<T, NnError> {
        let (channels, one) = (self.config.channels(), self.params.dtype().size_in_bytes());
        let voxels = dims.iter().fold(1.0, |voxels, &n| voxels * n as f64);
        // A convolution, its norm and nonlinearity, and what they are made from.
        let values = 4.0 * self.graph.total(dims, |conv| conv.site().kind_out.dim()) as f64;
        let bytes = n as f64 * one as f64 * (voxels * channels as f64 + values);
        let layer = format!("a volume of {dims:?} voxels");
        let _room =
            memory::take(bytes as u64).map_err(|source| NnError::Memory { layer, source })?;
        run().or_else(|error| match error {
            NnError::Tensor(error) => {
                let text = error.to_string();
                let problem = text.lines().next().unwrap_or_default();
                fault("dims", format!("{dims:?} do not suit the network: {problem}"))
            }
            error => Err(error),
        })
    }
}

impl ModuleT for Network {
    fn forward_t(&self, x: &Tensor, train: bool) -> candle_core::Result<Tensor> {
        let mode = if train {
            let step = self.steps.fetch_add(1, Ordering::Relaxed);
            Mode::Train { seed: self.params.seed(), step }
        } else {
            Mode::Evaluate
        };
        self.forward(x, mode).map_err(candle_core::Error::wrap)
    }
}

/// Voxels above which a volume is large.
const LARGE: usize = 1 << 21;

/// Values above which what a network gives for a volume is large.
const LARGE_ANSWER: usize = 1 << 24;

/// How many planes D,H,W of a volume are computed at once, so that a field of 32 channels has about 2²³ values.
pub fn planes_at_once([_, h, w]: [usize; 3]) -> usize {
    const VALUES: usize = 1 << 23;
    const CHANNELS: usize = 32;
    (VALUES / (CHANNELS * h * w)).max(2)
}

impl FoldedNetwork {
    /// What the network gives for volumes of shape N,C,D,H,W; logits of shape N,classes of a classifier.
    ///
    /// # Errors
    /// [`NnError::Channels`] for another number of channels.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor, NnError> {
        Ok(self.forward_with_features(x)?[1].values.clone())
    }

    /// Gives what the network gives for every voxel of one volume of D, H, W voxels, some planes of constant z after the
    /// other, in memory for some planes of every layer: `source` gives planes of the volume (the first, and how many), of
    /// shape 1,C,planes,H,W and in order, and `sink` gets the first of the planes of an output and these. `planes` is how
    /// many are computed at once, about. The same as [`forward`](Self::forward) to rounding.
    ///
    /// # Errors
    /// [`NnError::Config`] for a network whose answers are not local (with a spatial transformer, instance norm, or an answer
    /// for the whole volume) or convolutions of another stride than 1, and what `source` and `sink` say.
    pub fn forward_planes<E: From<NnError>>(
        &self,
        dims: [usize; 3],
        planes: usize,
        source: &mut dyn FnMut(usize, usize) -> Result<Tensor, E>,
        sink: &mut dyn FnMut(usize, &Tensor) -> Result<(), E>,
    ) -> Result<(), E> {
        planes::forward(&self.graph, dims, planes, source, sink)
    }

    /// As [`forward`](Self::forward), with [large volumes](Self::prefers_planes) one by one and by
    /// [planes](Self::forward_planes): in less memory, the same to rounding.
    ///
    /// # Errors
    /// As [`forward`](Self::forward).
    pub fn forward_large(&self, x: &Tensor) -> Result<Tensor, NnError> {
        let (n, _, d, h, w) = x.dims5()?;
        if !self.prefers_planes([d, h, w]) {
            return self.forward(x);
        }
        let one = |item: usize| {
            let x = x.narrow(0, item, 1)?;
            let mut parts = vec![];
            let mut source = |first, count| Ok::<_, NnError>(x.narrow(2, first, count)?);
            let mut sink = |_, planes: &Tensor| {
                parts.push(planes.clone());
                Ok(())
            };
            self.forward_planes([d, h, w], planes_at_once([d, h, w]), &mut source, &mut sink)?;
            Ok::<_, NnError>(Tensor::cat(&parts, 2)?)
        };
        let all = (0..n).map(one).collect::<Result<Vec<_>, _>>()?;
        Ok(Tensor::cat(&all, 0)?)
    }

    /// Whether volumes of D, H, W voxels are large enough: a network with max pooling can shrink small ones to nothing.
    ///
    /// # Errors
    /// [`NnError::Grid`] if they are not.
    pub fn check_grid(&self, dims: [usize; 3]) -> Result<(), NnError> {
        self.graph.check_grid(dims)
    }

    /// Whether volumes of D, H, W voxels are large, over 2²¹ voxels or with more than 2²⁴ values in the answer, and
    /// [`forward_planes`](Self::forward_planes) is possible.
    pub fn prefers_planes(&self, dims: [usize; 3]) -> bool {
        let voxels: usize = dims.iter().product();
        let answer = voxels.saturating_mul(self.graph.head.irreps.dim());
        (voxels > LARGE || answer > LARGE_ANSWER) && self.is_local()
    }

    /// Whether [`forward_planes`](Self::forward_planes) is possible.
    pub fn is_local(&self) -> bool {
        planes::is_local(&self.graph)
    }

    /// What the head is given, the invariant features N,C of a network with a pooled head, and what it gives.
    ///
    /// # Errors
    /// As [`forward`](Self::forward).
    pub fn forward_with_features(&self, x: &Tensor) -> Result<[LayerField; 2], NnError> {
        self.graph.forward(x, Pass::from(Mode::Evaluate), false, &mut |_, _| ())
    }
}

impl Module for FoldedNetwork {
    fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        self.forward(x).map_err(candle_core::Error::wrap)
    }
}
