use candle_core::{DType, Device, Tensor};
use serde::Serialize;
use steer3d_files::digest::PartHasher;
use steer3d_nn::{FoldedNetworks, Head, LayerField, Network, planes_at_once};
use steer3d_so3::Irreps;

use crate::error::EvalError;
use crate::predictor::{AnswerKind, ModelError, PlaneSink, Predictor};

/// Why a network is not evaluated.
pub(crate) const GIVES_A_FIELD: &str =
    "gives a field; classes, labels of voxels and values of whole volumes are evaluated";

/// Windows that overlap, weighed by Gaussians.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Windows {
    /// D, H, W in voxels.
    pub size: [usize; 3],
    /// The share of a window that it has in common with the next, from 0 to below 1.
    pub overlap: f64,
}

impl Windows {
    /// Whether volumes can be taken in such windows.
    ///
    /// # Errors
    /// What was expected, and what was found.
    pub fn check(&self) -> Result<(), String> {
        if self.size.contains(&0) {
            return Err("a window needs at least one voxel along each axis".to_owned());
        }
        if !(0.0..1.0).contains(&self.overlap) {
            let found = self.overlap;
            return Err(format!("expected an overlap of windows from 0 to below 1, found {found}"));
        }
        Ok(())
    }
}

/// A network of this project under a name.
#[derive(Debug)]
pub struct NetworkPredictor {
    name: String,
    answers: AnswerKind,
    network: Network,
    folded: FoldedNetworks,
    /// Edges (x, y, z) of the voxels that it was made for, in the unit of the dataset.
    voxel_size: [f64; 3],
    /// Names of its classes, if they are known.
    class_names: Option<Vec<String>>,
    /// The place in its output of each class of the dataset, where they are in another order.
    places: Option<Vec<u32>>,
    windows: Option<Windows>,
}

impl NetworkPredictor {
    /// Names a network. The logits are those of its present weights.
    ///
    /// # Errors
    /// [`EvalError::Answer`] when it gives a field; else only if the device runs out of memory.
    pub fn new(name: String, network: Network) -> Result<Self, EvalError> {
        let Some(answers) = AnswerKind::of_head(network.config().head()) else {
            return Err(EvalError::answer(&name, GIVES_A_FIELD.into()));
        };
        let (folded, voxel_size) = (FoldedNetworks::new(&network)?, network.config().voxel_size());
        Ok(Self {
            name,
            answers,
            folded,
            voxel_size,
            network,
            class_names: None,
            places: None,
            windows: None,
        })
    }

    /// Says how long the edges (x, y, z) of the voxels are that it was made for, in the unit of the dataset; else they are
    /// those of its configuration. Where volumes have voxels of several sizes its kernels are sampled for each
    /// ([`Network::at_spacing`]) if it is steerable.
    #[must_use]
    pub fn with_voxel_size(self, voxel_size: [f64; 3]) -> Self {
        Self { voxel_size, ..self }
    }

    /// Names its classes, for datasets that have none; names of another number are left out.
    #[must_use]
    pub fn with_class_names(self, names: Vec<String>) -> Self {
        let class_names = Some(names).filter(|names| names.len() == self.classes());
        Self { class_names, ..self }
    }

    /// For volumes whose voxels are all `ratios` times as long as those that it was made for.
    pub(crate) fn for_ratios(self, ratios: [f64; 3]) -> Result<Self, EvalError> {
        if ratios == [1.0; 3] {
            return Ok(self);
        }
        let network = self.network.at_coarsening(ratios)?;
        Ok(Self { folded: FoldedNetworks::new(&network)?, network, ..self })
    }

    /// Gives the logits in another order: class i of the answers is class `places[i]` of the network.
    pub(crate) fn with_places(self, places: Option<Vec<u32>>) -> Self {
        Self { places, ..self }
    }

    /// Labels the voxels of volumes that are larger than a window in windows, as a network whose norms depend on the whole
    /// volume needs where memory is short.
    ///
    /// # Errors
    /// [`EvalError::Answer`] when it does not label voxels, or there are no such windows.
    pub fn with_windows(self, windows: Windows) -> Result<Self, EvalError> {
        if self.answers != AnswerKind::Voxels {
            let problem = "answers for whole volumes; windows are for models that label voxels";
            return Err(EvalError::answer(&self.name, problem.into()));
        }
        windows.check().map_err(|problem| EvalError::answer(&self.name, problem))?;
        Ok(Self { windows: Some(windows), ..self })
    }

    /// How many times as long as those that it was made for such voxels are.
    fn ratios(&self, edges: Option<[f64; 3]>) -> [f64; 3] {
        self.network.coarsening(self.voxel_size, edges)
    }

    fn moved(&self, batch: &Tensor) -> candle_core::Result<Tensor> {
        let params = self.network.params();
        batch.to_device(params.device())?.to_dtype(params.dtype())
    }

    /// Logits N,classes,… of the network on the CPU, in the order of the answers.
    fn ordered(&self, logits: &Tensor) -> candle_core::Result<Tensor> {
        let logits = logits.to_dtype(DType::F32)?.to_device(&Device::Cpu)?;
        match &self.places {
            Some(places) => logits.index_select(&Tensor::new(&places[..], &Device::Cpu)?, 1),
            None => Ok(logits),
        }
    }
}

impl Predictor for NetworkPredictor {
    fn name(&self) -> &str {
        &self.name
    }

    fn answers(&self) -> AnswerKind {
        self.answers
    }

    fn classes(&self) -> usize {
        self.network.config().classes()
    }

    fn class_names(&self) -> Vec<String> {
        let numbers = || (0..self.classes()).map(|class| class.to_string()).collect();
        self.class_names.clone().unwrap_or_else(numbers)
    }

    fn targets(&self) -> Option<Irreps> {
        match self.network.config().head() {
            Head::Field { irreps, .. } => Some(irreps.clone()),
            _ => None,
        }
    }

    fn channels(&self) -> usize {
        self.network.config().channels()
    }

    fn parameters(&self) -> usize {
        self.network.params().count()
    }

    fn fingerprint(&self) -> Option<String> {
        let mut print = PartHasher::default();
        let given = (self.network.config(), &self.places, self.voxel_size);
        print.add(&serde_json::to_vec(&given).ok()?);
        self.network.params().hash_into(&mut print).ok()?;
        if let Some(windows) = &self.windows {
            print.add(&serde_json::to_vec(windows).ok()?);
        }
        Some(print.text())
    }

    fn logits(&self, batch: &Tensor) -> Result<Tensor, ModelError> {
        self.logits_of(batch, None)
    }

    fn logits_of(&self, batch: &Tensor, edges: Option<[f64; 3]>) -> Result<Tensor, ModelError> {
        let folded = self.folded.coarsened(&self.network, self.ratios(edges))?;
        Ok(self.ordered(&folded.forward_large(&self.moved(batch)?)?)?)
    }

    fn gives_planes(&self, dims: [usize; 3]) -> bool {
        match self.windows {
            Some(Windows { size, .. }) => (0..3).any(|axis| dims[axis] > size[axis]),
            None => self.answers == AnswerKind::Voxels && self.folded.own().prefers_planes(dims),
        }
    }

    fn logits_by_planes(
        &self,
        volume: &Tensor,
        edges: Option<[f64; 3]>,
        sink: PlaneSink<'_>,
    ) -> Result<(), ModelError> {
        if self.windows.is_none() && !self.folded.own().is_local() {
            return sink(0, &self.logits_of(volume, edges)?);
        }
        let folded = self.folded.coarsened(&self.network, self.ratios(edges))?;
        let (_, _, d, h, w) = volume.dims5()?;
        let dims = [d, h, w];
        let mut source = |first: usize, count: usize| {
            let planes = volume.narrow(2, first, count)?.contiguous()?;
            Ok::<_, ModelError>(self.moved(&planes)?)
        };
        let mut sink = |first: usize, logits: &Tensor| sink(first, &self.ordered(logits)?);
        match self.windows {
            Some(Windows { size, overlap }) => {
                folded.forward_windows(dims, size, overlap, &mut source, &mut sink)
            }
            None => folded.forward_planes(dims, planes_at_once(dims), &mut source, &mut sink),
        }
    }

    fn layers(
        &self,
        batch: &Tensor,
        edges: Option<[f64; 3]>,
    ) -> Result<Vec<LayerField>, ModelError> {
        let batch = self.moved(batch)?;
        let mut layers =
            self.network.at_ratios(self.ratios(edges), |network| network.layers(&batch))?;
        for layer in &mut layers {
            layer.values = layer.values.to_dtype(DType::F32)?.to_device(&Device::Cpu)?;
        }
        Ok(layers)
    }
}
