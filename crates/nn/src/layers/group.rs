#[cfg(feature = "cuda")]
use candle_core::CudaStorage;
use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp1, Error, Layout, Shape, Storage, Tensor};
use serde::{Deserialize, Serialize};
use steer3d_so3::{Rotation, cube_group};

use super::{ConvSite, Convolution};
use crate::field::scalars;
use crate::{FieldType, NnError, Scope};

/// The group with whose rotations the layers of a plain network commute.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Symmetry {
    /// None.
    #[default]
    None,
    /// The 24 rotations of the cube: convolutions over the group and space (Cohen and Welling 2016,
    /// <https://arxiv.org/abs/1602.07576>; in 3-D Worrall and Brostow 2018,
    /// <https://arxiv.org/abs/1804.04458>). Each channel of a block has 24 orientations.
    Octahedral,
}

impl Symmetry {
    /// Orientations of a channel.
    pub fn order(self) -> usize {
        match self {
            Self::None => 1,
            Self::Octahedral => 24,
        }
    }
}

/// What a [`GroupConv`] is made of.
#[derive(Debug, Clone, Copy)]
pub struct GroupConvConfig {
    /// Channels of the input.
    pub inputs: usize,
    /// Orientations of each of them: 1 or the order of the group.
    pub orientations: usize,
    /// Channels of the output, each of which has all orientations of the group.
    pub outputs: usize,
    /// Edge of the kernel, odd; the volume is padded by `size / 2` zeros.
    pub size: usize,
    /// The group.
    pub symmetry: Symmetry,
}

impl GroupConvConfig {
    /// An ordinary convolution with kernels of 3³ voxels.
    pub fn new(inputs: usize, outputs: usize) -> Self {
        Self { inputs, orientations: 1, outputs, size: 3, symmetry: Symmetry::None }
    }
}

/// A convolution over space and, with [`Symmetry::Octahedral`], over the rotations of the cube
/// (Cohen and Welling 2016, eqs. 10 and 11). Output channel (o, g) has the filter of o turned by g:
///
/// ```text
/// out[o, g](x) = sum_{c, h, y} w[o, c, g^-1 h](g^-1 y) in[c, h](x + y)
/// ```
///
/// so that turning the input by R turns the output: `(R f)[c, h](x) = f[c, R^-1 h](R^-1 x)`. The input
/// of the first layer has no orientations h. Orientations are in the order of [`cube_group`].
#[derive(Debug)]
pub struct GroupConv {
    /// Outputs, (inputs, orientations), kd, kh, kw.
    weight: Tensor,
    turned: Option<Turned>,
    site: ConvSite,
}

impl GroupConv {
    /// A convolution whose initial weights are as He et al. 2015 say.
    ///
    /// # Errors
    /// Only if the device runs out of memory.
    pub fn new<'a>(params: impl Into<Scope<'a>>, config: GroupConvConfig) -> Result<Self, NnError> {
        let mut params = params.into();
        let GroupConvConfig { inputs, orientations, outputs, size, symmetry } = config;
        let fan_in = inputs * orientations * size.pow(3);
        let std = (2.0 / fan_in as f64).sqrt();
        let mut stream = params.stream();
        let values = (0..outputs * fan_in).map(|_| std * stream.normal());
        let shape = [outputs, inputs * orientations, size, size, size];
        let weight = params.weight("weight", values, &shape, true)?;
        let order = symmetry.order() as f64;
        // The places of weights in filters and back, and the filters of all orientations.
        params.reserve(8.0 * (order - 1.0) * fan_in as f64 * (outputs + 4) as f64)?;
        let turned = match symmetry {
            Symmetry::None => None,
            Symmetry::Octahedral => Some(Turned::new(&params, inputs, orientations, size)?),
        };
        Ok(Self {
            weight,
            turned,
            site: ConvSite {
                name: params.path().into(),
                kind_in: FieldType { irreps: scalars(inputs)?, orientations },
                kind_out: FieldType { irreps: scalars(outputs)?, orientations: symmetry.order() },
                size,
                stride: 1,
            },
        })
    }
}

impl Convolution for GroupConv {
    fn site(&self) -> &ConvSite {
        &self.site
    }

    /// The filters of all orientations.
    fn weights(&self) -> Result<Tensor, NnError> {
        let Some(turned) = &self.turned else { return Ok(self.weight.clone()) };
        let ConvSite { kind_in, kind_out, size: k, .. } = &self.site;
        let filter = self.weight.flatten_from(1)?.apply_op1(turned.clone())?;
        Ok(filter.reshape((kind_out.dim(), kind_in.dim(), *k, *k, *k))?)
    }
}

/// From the weights of each output the filters of all its orientations, shapes outputs, n and outputs, 24 n. The
/// gradient of candle's `index_select` would be summed by one thread of a GPU for each output.
#[derive(Debug, Clone)]
struct Turned {
    /// Where each element of the filters stands in the weights.
    index: Tensor,
    /// Where each weight stands in the filter of each orientation, orientations first.
    back: Tensor,
}

impl Turned {
    fn new(
        params: &Scope<'_>,
        inputs: usize,
        orientations: usize,
        size: usize,
    ) -> Result<Self, NnError> {
        let index = turned(inputs, orientations, size);
        let count = inputs * orientations * size.pow(3);
        let mut back = vec![0; index.len()];
        for (place, &weight) in index.iter().enumerate() {
            back[place / count * count + weight as usize] = place as u32;
        }
        Ok(Self { index: params.indices(index)?, back: params.indices(back)? })
    }

    /// `on_device`: a storage, if it is on the device of the weights.
    fn select<S: BackendStorage>(
        &self,
        weights: &S,
        layout: &Layout,
        on_device: impl Fn(&Storage) -> Option<&S>,
    ) -> candle_core::Result<(S, Shape)> {
        let (outputs, _) = layout.shape().dims2()?;
        let (index, places) = self.index.storage_and_layout();
        let index = on_device(&index)
            .ok_or_else(|| Error::msg("turned: the weights are not on the device of the layer"))?;
        let filters = weights.index_select(index, layout, places, 1)?;
        Ok((filters, (outputs, self.index.elem_count()).into()))
    }

    /// The gradient of the weights, of that of the filters: for each of them a sum over orientations.
    fn gathered(&self, weights: &Tensor, grad: &Tensor) -> candle_core::Result<Tensor> {
        let (outputs, count) = weights.dims2()?;
        let orientations = self.back.elem_count() / count;
        grad.index_select(&self.back, 1)?.reshape((outputs, orientations, count))?.sum(1)
    }
}

impl CustomOp1 for Turned {
    fn name(&self) -> &'static str {
        "turned"
    }

    fn cpu_fwd(
        &self,
        weights: &CpuStorage,
        layout: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        self.select(weights, layout, |s| if let Storage::Cpu(s) = s { Some(s) } else { None })
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        weights: &CudaStorage,
        layout: &Layout,
    ) -> candle_core::Result<(CudaStorage, Shape)> {
        self.select(weights, layout, |s| if let Storage::Cuda(s) = s { Some(s) } else { None })
    }

    fn bwd(
        &self,
        weights: &Tensor,
        _filters: &Tensor,
        grad: &Tensor,
    ) -> candle_core::Result<Option<Tensor>> {
        if weights.device().is_cuda() {
            return Ok(Some(self.gathered(weights, grad)?));
        }
        Ok(Some(weights.zeros_like()?.index_add(&self.index, &grad.contiguous()?, 1)?))
    }
}

/// For every (g, c, h, y) the place of (c, g^-1 h, g^-1 y).
fn turned(inputs: usize, orientations: usize, size: usize) -> Vec<u32> {
    let group = cube_group();
    let taps = size.pow(3);
    let mut index = Vec::with_capacity(group.len() * inputs * orientations * taps);
    for g in &group {
        let back = g.inverse();
        let places: Vec<usize> = (0..taps).map(|tap| turned_tap(&back, tap, size)).collect();
        for c in 0..inputs {
            for h in group.iter().take(orientations) {
                let product = back * h;
                let place = group.iter().position(|r| *r == product);
                let h = place.expect("a product of two rotations of the cube is a third");
                let start = (c * orientations + h % orientations) * taps;
                index.extend(places.iter().map(|place| (start + place) as u32));
            }
        }
    }
    index
}

/// The tap (z, y, x) to which a rotation of the cube takes a tap.
fn turned_tap(rotation: &Rotation, tap: usize, size: usize) -> usize {
    // Twice the position about the centre is a whole number.
    let centred = |i: usize| (2 * i) as f64 - (size - 1) as f64;
    let position = [tap % size, tap / size % size, tap / size / size].map(centred);
    let at = |axis: usize| (0..3).map(|j| rotation[(axis, j)] * position[j]).sum::<f64>();
    let place = |axis: usize| ((at(axis) + (size - 1) as f64) / 2.0) as usize;
    (place(2) * size + place(1)) * size + place(0)
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device, Var};
    use steer3d_so3::Stream;

    use super::*;
    use crate::Params;

    /// The sum that a GPU takes is the gradient.
    #[test]
    fn the_gradient_of_turned_filters_is_a_sum_over_orientations() {
        let mut params = Params::new(0, DType::F64, &Device::Cpu);
        for (inputs, orientations, size) in [(2, 1, 3), (2, 24, 3), (1, 24, 4)] {
            let turned = Turned::new(&params.pp("turned"), inputs, orientations, size).unwrap();
            let count = inputs * orientations * size.pow(3);
            let mut stream = Stream::new(1, "turned", &[]);
            let mut normal = |columns: usize| {
                let values: Vec<f64> = (0..3 * columns).map(|_| stream.normal()).collect();
                Tensor::from_vec(values, (3, columns), &Device::Cpu).unwrap()
            };
            let (weights, grad) = (Var::from_tensor(&normal(count)).unwrap(), normal(24 * count));
            let filters = weights.apply_op1(turned.clone()).unwrap();
            let expected = weights.index_select(&turned.index, 1).unwrap();
            let values = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f64>().unwrap();
            assert_eq!(values(&filters), values(&expected));
            let of = |out: &Tensor| {
                let gradients = (out * &grad).unwrap().sum_all().unwrap().backward().unwrap();
                values(gradients.get(&weights).unwrap())
            };
            assert_eq!(of(&filters), of(&expected));
            let gathered = values(&turned.gathered(&weights, &grad).unwrap());
            let off = gathered.iter().zip(of(&expected)).map(|(a, b)| (a - b).abs());
            assert!(off.fold(0.0, f64::max) < 1e-12);
        }
    }
}
