use candle_core::Tensor;
use steer3d_ops::field_instance_norm;
use steer3d_so3::Irreps;

use super::channels::{fields_of_channels, is_invariant, per_channel, spread};
use super::{FieldLayer, NormConfig};
use crate::onnx::{OnnxField, OnnxGraph, Value};
use crate::watch::used;
use crate::{Field, NnError, Pass, Scope};

/// Equivariant instance normalisation: [`FieldBatchNorm`](super::FieldBatchNorm) with the statistics of each item of a
/// batch alone ([`field_instance_norm`]), in training and at evaluation.
///
/// It keeps no running statistics and computes the same for an item whatever else is in its batch. Its answer for a voxel
/// depends on the whole volume, so it cannot be folded into a convolution.
#[derive(Debug, Clone)]
pub struct FieldInstanceNorm {
    name: String,
    irreps: Irreps,
    /// As [`NormConfig::normalised_as`] says.
    normalised_as: Irreps,
    epsilon: f64,
    weight: Tensor,
    /// Of the invariant channels; no elements where there are none.
    bias: Tensor,
}

impl FieldInstanceNorm {
    /// Makes the norm of the fields that `config` names, with its tensors at the place of `params`.
    ///
    /// # Errors
    /// Only if the device runs out of memory.
    pub fn new<'a>(
        params: impl Into<Scope<'a>>,
        config: impl Into<NormConfig>,
    ) -> Result<Self, NnError> {
        let (mut params, config) = (params.into(), config.into());
        let normalised_as = config.normalised_as()?;
        let NormConfig { irreps, epsilon, .. } = config;
        let shifted = normalised_as.blocks().filter(|b| is_invariant(b.irrep));
        let (fields, scalars) = (irreps.num_fields(), shifted.map(|b| b.mul).sum());
        Ok(Self {
            name: params.path().into(),
            normalised_as,
            epsilon,
            weight: params.weight("weight", vec![1.0; fields], &[fields], false)?,
            // candle can neither set nor optimise a tensor without elements.
            bias: match scalars {
                0 => params.constant(vec![], &[0])?,
                n => params.weight("bias", vec![0.0; n], &[n], false)?,
            },
            irreps,
        })
    }

    /// The layer as it is now.
    pub(crate) fn frozen(&self) -> Result<Self, NnError> {
        let copy = |t: &Tensor| Ok::<_, NnError>(t.copy()?.detach());
        Ok(Self { weight: copy(&self.weight)?, bias: copy(&self.bias)?, ..self.clone() })
    }

    /// The mean over all voxels, and over the channels that `together` says, of each channel.
    fn mean(
        x: &Value,
        name: &str,
        channels: usize,
        together: impl Fn(usize, usize) -> bool,
        graph: &mut OnnxGraph,
    ) -> Result<Value, NnError> {
        let pooled = graph.node("GlobalAveragePool", &[x], &[]);
        let mut entries = vec![];
        for row in 0..channels {
            let with: Vec<usize> = (0..channels).filter(|&c| together(row, c)).collect();
            let share = 1.0 / with.len() as f64;
            entries.extend(with.into_iter().map(|column| (row, column, share)));
        }
        let matrix = graph.matrix([channels; 2], entries)?;
        graph.mixed(&pooled, name, &matrix)
    }
}

impl FieldLayer for FieldInstanceNorm {
    fn irreps(&self) -> [&Irreps; 2] {
        [&self.irreps; 2]
    }

    /// Normalises each item by its own statistics, in every pass. All orientations of a channel share them.
    fn forward_t(&self, field: &Field, _pass: Pass) -> Result<Field, NnError> {
        let joined = field.joined()?;
        joined.expect(&self.name, &self.irreps)?;
        let x = joined.values();
        let stored_as = |t: &Tensor| used(t)?.to_dtype(x.dtype());
        let (weight, bias) = (stored_as(&self.weight)?, stored_as(&self.bias)?);
        let values = field_instance_norm(x, &self.normalised_as, &weight, &bias, self.epsilon)?;
        joined.with(values)?.apart(field.kind().orientations)
    }

    fn folded(&self) -> Result<Box<dyn FieldLayer>, NnError> {
        Ok(Box::new(self.frozen()?))
    }

    fn export(&self, field: &OnnxField, graph: &mut OnnxGraph) -> Result<OnnxField, NnError> {
        graph.enter(&self.name);
        let orientations = field.kind.orientations;
        let channels = field.kind.dim();
        let fields = fields_of_channels(&self.normalised_as);
        let invariant: Vec<bool> = self
            .normalised_as
            .blocks()
            .flat_map(|b| vec![is_invariant(b.irrep); b.mul * b.irrep.dim()])
            .collect();
        let same_field = |a: usize, b: usize| fields[a / orientations] == fields[b / orientations];
        let column = |t: Tensor| {
            let t = t.unsqueeze(1)?.repeat((1, orientations))?;
            t.reshape((channels, 1, 1, 1))
        };
        let mut centred = field.value.clone();
        if invariant.contains(&true) {
            let shifted = |row, c| invariant[row / orientations] && same_field(row, c);
            let mean = Self::mean(&centred, "means", channels, shifted, graph)?;
            centred = graph.node("Sub", &[&centred, &mean], &[]);
        }
        let squares = graph.node("Mul", &[&centred, &centred], &[]);
        let var = Self::mean(&squares, "squares", channels, same_field, graph)?;
        let epsilon = graph.number(self.epsilon);
        let var = graph.node("Add", &[&var, &epsilon], &[]);
        let std = graph.node("Sqrt", &[&var], &[]);
        let unit = graph.node("Div", &[&centred, &std], &[]);
        let scale = graph.tensor("scale", &column(per_channel(&self.irreps, &self.weight)?)?)?;
        let mut value = graph.node("Mul", &[&unit, &scale], &[]);
        if invariant.contains(&true) {
            let shift = spread(&self.normalised_as, &self.bias, self.weight.device())?;
            let shift = graph.tensor("shift", &column(shift)?)?;
            value = graph.node("Add", &[&value, &shift], &[]);
        }
        Ok(OnnxField { value, kind: field.kind.clone() })
    }
}
