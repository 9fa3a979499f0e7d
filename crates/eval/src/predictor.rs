use candle_core::Tensor;
use serde::{Deserialize, Serialize};
use steer3d_dataset::DatasetMeta;
use steer3d_nn::{Head, LayerField};
use steer3d_so3::Irreps;

/// What a [`Predictor`] may fail with.
pub type ModelError = Box<dyn std::error::Error + Send + Sync>;

/// Takes the number of the first of some planes of constant z, and their logits, 1,classes,planes,H,W.
pub type PlaneSink<'a> = &'a mut dyn FnMut(usize, &Tensor) -> Result<(), ModelError>;

/// What a model answers for a volume, which decides how it is measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "clap", derive(clap::ValueEnum))]
#[serde(rename_all = "snake_case")]
pub enum AnswerKind {
    /// Logits of the classes of whole volumes.
    #[default]
    Classes,
    /// Logits of the classes of every voxel.
    Voxels,
    /// Numbers, vectors or tensors of whole volumes.
    Values,
}

impl AnswerKind {
    /// What a network with this head answers; nothing that is evaluated where it gives a field.
    pub fn of_head(head: &Head) -> Option<Self> {
        match head {
            Head::Classes => Some(Self::Classes),
            Head::Voxels => Some(Self::Voxels),
            Head::Scalars | Head::Field { pooled: true, .. } => Some(Self::Values),
            Head::Field { pooled: false, .. } => None,
        }
    }
}

/// What a dataset asks of a model of another maker.
#[derive(Clone, Debug, PartialEq)]
pub struct AnswerSpec {
    /// Name of the dataset.
    pub dataset: String,
    /// What is asked for.
    pub kind: AnswerKind,
    /// Names of the classes; of values their numbers, from 0.
    pub names: Vec<String>,
    /// Channels of a volume.
    pub channels: usize,
    /// Grid D,H,W of a volume.
    pub dims: [usize; 3],
}

impl AnswerSpec {
    /// The classes of the volumes of a dataset.
    pub fn classes(meta: &DatasetMeta) -> Self {
        Self {
            dataset: meta.name.clone(),
            kind: AnswerKind::Classes,
            names: meta.class_names.clone(),
            channels: meta.channels,
            dims: meta.dims,
        }
    }

    /// Shape of the answers to `n` volumes: N,K, or N,K,D,H,W for labels of voxels.
    pub fn shape(&self, n: usize) -> Vec<usize> {
        let [d, h, w] = self.dims;
        self.shape_of(&[n, self.channels, d, h, w])
    }

    /// The same of a batch of this shape N,C,D,H,W, since volumes may have grids of their own.
    pub(crate) fn shape_of(&self, batch: &[usize]) -> Vec<usize> {
        let dims = if self.kind == AnswerKind::Voxels { &batch[2..] } else { &[] };
        [&[batch[0], self.names.len()], dims].concat()
    }
}

/// A model of volumes: all that the evaluation asks of it.
///
/// Batches are f32 tensors on the CPU of shape N,C,D,H,W; a model on another device moves them.
pub trait Predictor {
    /// Name of the model in reports.
    fn name(&self) -> &str;

    /// What a model of another maker was asked for. Answers, classes, their names and channels are those of it; a model
    /// without one gives its own.
    fn spec(&self) -> Option<&AnswerSpec> {
        None
    }

    /// What it answers.
    fn answers(&self) -> AnswerKind {
        self.spec().map(|spec| spec.kind).unwrap_or_default()
    }

    /// Number of classes, or of values.
    fn classes(&self) -> usize {
        self.spec().map_or(0, |spec| spec.names.len())
    }

    /// Names of the classes, in the order of the logits: numbers from 0 where it does not know them.
    fn class_names(&self) -> Vec<String> {
        let numbers = || (0..self.classes()).map(|class| class.to_string()).collect();
        self.spec().map_or_else(numbers, |spec| spec.names.clone())
    }

    /// How its values turn, for datasets that do not say it: as numbers that do not, where it does not know.
    fn targets(&self) -> Option<Irreps> {
        None
    }

    /// Number of channels of the volumes that it takes.
    fn channels(&self) -> usize {
        self.spec().map_or(0, |spec| spec.channels)
    }

    /// Number of trained parameters, 0 where it is unknown.
    fn parameters(&self) -> usize {
        0
    }

    /// What tells the model from every other, whatever its name: a SHA-256 of its weights and settings, in hexadecimal.
    /// An evaluation of a model without one does not go on after an interruption, but starts anew.
    fn fingerprint(&self) -> Option<String> {
        None
    }

    /// Whether it answers for every volume, and not for those alone that an evaluation asks about.
    fn answers_all(&self) -> bool {
        true
    }

    /// Answers to a batch: logits or values N,classes; logits N,classes,D,H,W of a model that labels voxels.
    /// Each row depends on its own volume only.
    ///
    /// # Errors
    /// Whatever the model fails with.
    fn logits(&self, batch: &Tensor) -> Result<Tensor, ModelError>;

    /// The same for volumes of a dataset whose voxels have several sizes: these edges (x, y, z), in its unit. A model that
    /// heeds lengths gives another answer than for its own voxels.
    ///
    /// # Errors
    /// Whatever the model fails with.
    fn logits_of(&self, batch: &Tensor, _edges: Option<[f64; 3]>) -> Result<Tensor, ModelError> {
        self.logits(batch)
    }

    /// Whether a model that labels voxels is asked for the logits of volumes of D, H, W voxels
    /// [by planes](Self::logits_by_planes), in less memory than all at once.
    fn gives_planes(&self, _dims: [usize; 3]) -> bool {
        false
    }

    /// The same as [`logits_of`](Self::logits_of) of one volume, 1,C,D,H,W, to rounding, some planes of constant z after
    /// the other: `sink` gets all of them in order. A model that has them all at once gives them so.
    ///
    /// # Errors
    /// Whatever the model fails with, and what `sink` says.
    fn logits_by_planes(
        &self,
        volume: &Tensor,
        edges: Option<[f64; 3]>,
        sink: PlaneSink<'_>,
    ) -> Result<(), ModelError> {
        sink(0, &self.logits_of(volume, edges)?)
    }

    /// The outputs of the layers for a batch, in order, with the way they transform, for the equivariance errors; `edges` are
    /// those of [`logits_of`](Self::logits_of). A model that cannot show its layers returns none.
    ///
    /// # Errors
    /// Whatever the model fails with.
    fn layers(
        &self,
        _batch: &Tensor,
        _edges: Option<[f64; 3]>,
    ) -> Result<Vec<LayerField>, ModelError> {
        Ok(Vec::new())
    }
}
