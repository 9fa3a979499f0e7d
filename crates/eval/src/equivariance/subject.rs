use std::str::FromStr;

use candle_core::{DType, Device, Tensor};
use serde::{Deserialize, Serialize};
use steer3d_kernels::Family;
use steer3d_nn::layers::{
    ConvConfig, FieldLayer, Gate, GaussianPool, NormNonlinearity, SphereNonlinearity,
    SteerableConv3d, TensorProductNonlinearity,
};
use steer3d_nn::{Field, NnError, Params};
use steer3d_so3::{Irrep, Irreps, Parity};

use super::FieldMap;
use crate::EvalError;

/// The convolutions of a [`Subject`].
#[derive(Clone, Debug, PartialEq)]
pub struct LayerSpec {
    /// The type of the fields between layers.
    pub irreps: Irreps,
    /// Taps along each axis, k.
    pub size: usize,
    /// The kernels.
    pub family: Family,
}

/// What [`survey`](super::survey) measures, with random weights.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Subject {
    /// One convolution of stride 1 from the fields to themselves.
    Convolution,
    /// One convolution of stride 2.
    Strided,
    /// One convolution of stride 1, then a Gaussian blur of this width in voxels and every second
    /// voxel ([`GaussianPool`]).
    Antialiased(f64),
    /// The gated nonlinearity alone.
    Gate,
    /// The norm nonlinearity alone, with a bias of minus half the standard deviation of its input.
    Norm,
    /// The tensor-product nonlinearity alone.
    TensorProduct,
    /// The spherical-grid nonlinearity alone, on its input divided by the standard deviation.
    Sphere,
    /// A network of this many convolutions from one scalar to eight, gates between them. Each
    /// convolution's output is divided by its standard deviation on the unrotated field.
    Network(usize),
}

impl Subject {
    /// Everything that a survey measures, networks of depth 1 to 6 among it.
    pub fn all() -> Vec<Self> {
        let layers = [
            Self::Convolution,
            Self::Strided,
            Self::Antialiased(GaussianPool::new(2).sigma[0]),
            Self::Antialiased(1.6),
            Self::Gate,
            Self::Norm,
            Self::TensorProduct,
            Self::Sphere,
        ];
        layers.into_iter().chain((1..=6).map(Self::Network)).collect()
    }

    /// Its name in a table.
    pub fn name(self) -> String {
        match self {
            Self::Convolution => "convolution".into(),
            Self::Strided => "convolution, stride 2".into(),
            Self::Antialiased(sigma) => format!("convolution, blur of {sigma}, stride 2"),
            Self::Gate => "gate".into(),
            Self::Norm => "norm nonlinearity".into(),
            Self::TensorProduct => "tensor-product nonlinearity".into(),
            Self::Sphere => "spherical-grid nonlinearity".into(),
            Self::Network(depth) => format!("network of depth {depth}"),
        }
    }

    /// Whether the family and size of the kernels matter to it.
    pub fn has_kernels(self) -> bool {
        !matches!(self, Self::Gate | Self::Norm | Self::TensorProduct | Self::Sphere)
    }

    /// Voxels along each axis on which the central voxel of the output depends, with room for the
    /// antialiasing filter, rounded up to 4n + 1 so that a stride of 2 keeps the centre.
    pub(super) fn centre_size(self, layer: &LayerSpec) -> usize {
        let depth = if let Self::Network(depth) = self { depth } else { 1 };
        let reach = (depth * (layer.size - 1) + 1).max(17);
        reach + (5 - reach % 4) % 4
    }

    /// The type of field that it takes.
    ///
    /// # Errors
    /// If the irreps are too many for a gate.
    pub fn irreps_in(self, layer: &LayerSpec) -> Result<Irreps, EvalError> {
        Ok(match self {
            Self::Gate => Gate::new(&layer.irreps)?.irreps_in().clone(),
            Self::Network(_) => scalars(1, &layer.irreps)?,
            _ => layer.irreps.clone(),
        })
    }

    /// Builds it with weights drawn from `seed`. `sample` is an unrotated field of its input, for
    /// the subjects that need a scale.
    ///
    /// # Errors
    /// If the kernels cannot be made.
    pub fn build(
        self,
        layer: &LayerSpec,
        seed: u64,
        sample: &Tensor,
    ) -> Result<FieldMap<'static>, EvalError> {
        let mut params = Params::new(seed, DType::F32, &Device::Cpu);
        let irreps = self.irreps_in(layer)?;
        let (input, mut out) = (irreps.clone(), irreps.clone());
        let mut conv = |stride| {
            let config = ConvConfig { stride, ..convolution(&irreps, &irreps, layer) };
            let conv = SteerableConv3d::new(params.pp("conv"), config)?;
            Ok::<Step, NnError>(Box::new(move |f| conv.forward(f)))
        };
        let steps: Vec<Step> = match self {
            Self::Convolution => vec![conv(1)?],
            Self::Strided => vec![conv(2)?],
            Self::Antialiased(sigma) => {
                vec![
                    conv(1)?,
                    Box::new(move |f| {
                        GaussianPool { stride: [2; 3], sigma: [sigma; 3] }.forward(f)
                    }),
                ]
            }
            Self::Gate => {
                let gate = Gate::new(&layer.irreps)?;
                out = gate.irreps_out().clone();
                vec![Box::new(move |f| gate.forward(f))]
            }
            Self::Norm => {
                let norm = NormNonlinearity::new(params.pp("norm"), &irreps)?;
                let bias = &params.trainable()[0].var;
                bias.set(&bias.as_tensor().affine(0.0, -0.5 * standard_deviation(sample)?)?)?;
                vec![Box::new(move |f| norm.forward(f))]
            }
            Self::TensorProduct => {
                let product = TensorProductNonlinearity::new(params.pp("product"), &irreps)?;
                vec![Box::new(move |f| product.forward(f))]
            }
            Self::Sphere => {
                let sphere = SphereNonlinearity::new(&irreps)?;
                vec![normalised(sample)?, Box::new(move |f| sphere.forward(f))]
            }
            Self::Network(depth) => {
                out = scalars(8, &layer.irreps)?;
                network(
                    &mut params,
                    layer,
                    depth,
                    Field::new(irreps.clone(), sample.clone())?,
                    &out,
                )?
            }
        };
        Ok(FieldMap::new(self.name(), &irreps, &out, move |x| {
            let first = Field::new(input.clone(), x.clone())?;
            let last = steps.iter().try_fold(first, |field, step| step(&field))?;
            Ok(last.values().clone())
        }))
    }
}

/// The short forms `convolution`, `strided`, `antialiased:SIGMA`, `gate`, `norm`, `tensor_product`, `sphere`
/// and `network:DEPTH`.
impl FromStr for Subject {
    type Err = EvalError;

    fn from_str(text: &str) -> Result<Self, EvalError> {
        let unknown = || EvalError::Protocol {
            field: "subjects",
            expected: "convolution, strided, antialiased:SIGMA, gate, norm, tensor_product, sphere \
                       or network:DEPTH with SIGMA above 0 and DEPTH 1 to 16",
            found: text.into(),
        };
        match text.split_once(':') {
            None => match text {
                "convolution" => Some(Self::Convolution),
                "strided" => Some(Self::Strided),
                "gate" => Some(Self::Gate),
                "norm" => Some(Self::Norm),
                "tensor_product" => Some(Self::TensorProduct),
                "sphere" => Some(Self::Sphere),
                _ => None,
            },
            Some(("antialiased", sigma)) => {
                let sigma = sigma.parse().ok().filter(|s: &f64| s.is_finite() && *s > 0.0);
                sigma.map(Self::Antialiased)
            }
            Some(("network", depth)) => {
                let depth = depth.parse().ok().filter(|d| (1..=16).contains(d));
                depth.map(Self::Network)
            }
            Some(_) => None,
        }
        .ok_or_else(unknown)
    }
}

type Step = Box<dyn Fn(&Field) -> Result<Field, NnError>>;

/// Division by the standard deviation that a sample has.
fn normalised(sample: &Tensor) -> Result<Step, EvalError> {
    let scale = 1.0 / standard_deviation(sample)?;
    Ok(Box::new(move |f| Field::new(f.irreps().clone(), f.values().affine(scale, 0.0)?)))
}

/// `count` scalars, with parity where `like` has it.
fn scalars(count: usize, like: &Irreps) -> Result<Irreps, EvalError> {
    let scalar = if like.has_parity() { Irrep::o3(0, Parity::Even) } else { Irrep::so3(0) };
    Ok(Irreps::new([(count, scalar)]).map_err(NnError::from)?)
}

fn convolution(irreps_in: &Irreps, irreps_out: &Irreps, layer: &LayerSpec) -> ConvConfig {
    let (size, kernel) = (layer.size, layer.family.clone());
    ConvConfig { size, kernel, ..ConvConfig::new(irreps_in, irreps_out) }
}

/// Convolutions, each followed by a division by the standard deviation of what it makes of `field`, and, but for
/// the last, which gives `last`, by a gate.
fn network(
    params: &mut Params,
    layer: &LayerSpec,
    depth: usize,
    mut field: Field,
    last: &Irreps,
) -> Result<Vec<Step>, EvalError> {
    let mut steps: Vec<Step> = vec![];
    for i in 1..=depth {
        let gate = (i < depth).then(|| Gate::new(&layer.irreps)).transpose()?;
        let out = gate.as_ref().map_or(last, |gate| gate.irreps_in());
        let conv = convolution(field.irreps(), out, layer);
        let conv = SteerableConv3d::new(params.pp(format!("conv{i}")), conv)?;
        field = conv.forward(&field)?;
        let scale = normalised(field.values())?;
        field = scale(&field)?;
        steps.extend([Box::new(move |f: &Field| conv.forward(f)) as Step, scale]);
        if let Some(gate) = gate {
            field = gate.forward(&field)?;
            steps.push(Box::new(move |f| gate.forward(f)));
        }
    }
    Ok(steps)
}

fn standard_deviation(values: &Tensor) -> Result<f64, candle_core::Error> {
    let mean = |t: &Tensor| t.to_dtype(DType::F64)?.mean_all()?.to_scalar::<f64>();
    Ok((mean(&values.sqr()?)? - mean(values)?.powi(2)).sqrt())
}
