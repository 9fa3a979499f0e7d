#[cfg(feature = "cuda")]
use candle_core::CudaStorage;
use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp1, Error, Layout, Shape, Storage, Tensor};
use nalgebra::DMatrix;
use serde::{Deserialize, Serialize};
use steer3d_kernels::{Family, HarmonicFamily, TapGrid};
use steer3d_so3::groups::icosahedral_group;
use steer3d_so3::{Rotation, cube_group, wigner_d};

use super::{ConvSite, Convolution};
use crate::field::scalars;
use crate::watch::used;
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
    /// The 60 rotations of the icosahedron, which do not take voxels to voxels: filters are sums of steerable functions
    /// ([`Family::jets`] of order 3, 2 where kernels have 3³ voxels), which any rotation takes to one another (Weiler et
    /// al. 2018, eq. 8; escnn has such networks). Layers commute with the group as nearly as those of a steerable network
    /// do. Each channel of a block has 60 orientations.
    Icosahedral,
}

impl Symmetry {
    /// Returns the number of orientations of a channel: 1, 24 or 60.
    pub fn order(self) -> usize {
        match self {
            Self::None => 1,
            Self::Octahedral => 24,
            Self::Icosahedral => 60,
        }
    }

    /// Its rotations, in the order of the orientations.
    fn group(self) -> Vec<Rotation> {
        match self {
            Self::None => vec![Rotation::identity()],
            Self::Octahedral => cube_group(),
            Self::Icosahedral => icosahedral_group(),
        }
    }
}

/// The highest derivative order of the functions that the filters of [`Symmetry::Icosahedral`] are made of.
const ORDER: usize = 3;

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
    /// Makes the settings of an ordinary convolution with kernels of 3³ voxels.
    pub fn new(inputs: usize, outputs: usize) -> Self {
        Self { inputs, orientations: 1, outputs, size: 3, symmetry: Symmetry::None }
    }
}

/// A convolution over space and, with a [`Symmetry`], over the rotations of its group
/// (Cohen and Welling 2016, eqs. 10 and 11). Output channel (o, g) has the filter of o turned by g:
///
/// ```text
/// out[o, g](x) = sum_{c, h, y} w[o, c, g^-1 h](g^-1 y) in[c, h](x + y)
/// ```
///
/// so that turning the input by R turns the output: `(R f)[c, h](x) = f[c, R^-1 h](R^-1 x)`. The input
/// of the first layer has no orientations h. Orientations are in the order of [`cube_group`] or [`icosahedral_group`].
#[derive(Debug)]
pub struct GroupConv {
    /// Outputs, (inputs, orientations), kd, kh, kw; of the icosahedron outputs, (inputs, orientations), functions.
    weight: Tensor,
    turned: Option<Turned>,
    /// The functions of the filters of the icosahedron, turned by each rotation: orientations, functions, taps.
    functions: Option<Tensor>,
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
        let pairs = inputs * orientations;
        let order = symmetry.order() as f64;
        // The places of weights in filters and back, and the filters of all orientations.
        let filter = (pairs * size.pow(3)) as f64;
        params.reserve(8.0 * (order - 1.0) * filter * (outputs + 4) as f64)?;
        let functions = match symmetry {
            Symmetry::Icosahedral => Some(Functions::new(size)?),
            _ => None,
        };
        let free = functions.as_ref().map_or(size.pow(3), |functions| functions.count);
        let fan_in = pairs * free;
        let std = (2.0 / fan_in as f64).sqrt();
        let mut stream = params.stream();
        let values = (0..outputs * fan_in).map(|_| std * stream.normal());
        let shape = match functions {
            Some(_) => vec![outputs, pairs, free],
            None => vec![outputs, pairs, size, size, size],
        };
        let weight = params.weight("weight", values, &shape, true)?;
        let group = symmetry.group();
        let places = |back: &Rotation| match symmetry {
            Symmetry::Octahedral => turned_taps(back, size),
            _ => (0..free).collect(),
        };
        let turned = (symmetry != Symmetry::None)
            .then(|| Turned::new(&params, &group, inputs, orientations, &places))
            .transpose()?;
        let samples = |functions: Functions| {
            let shape = [group.len(), functions.count, size.pow(3)];
            params.constant(functions.turned(&group), &shape)
        };
        let functions = functions.map(samples).transpose()?;
        Ok(Self {
            weight,
            turned,
            functions,
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
        let weight = used(&self.weight)?;
        let Some(turned) = &self.turned else { return Ok(weight) };
        let ConvSite { kind_in, kind_out, size: k, .. } = &self.site;
        let mut filter = weight.flatten_from(1)?.apply_op1(turned.clone())?;
        if let Some(functions) = &self.functions {
            let (outputs, pairs, free) = weight.dims3()?;
            let (order, _, taps) = functions.dims3()?;
            let weights = filter.reshape((outputs, order, pairs * free))?.transpose(0, 1)?;
            let weights = weights.contiguous()?.reshape((order, outputs * pairs, free))?;
            let filters = weights.matmul(functions)?.reshape((order, outputs, pairs * taps))?;
            filter = filters.transpose(0, 1)?.contiguous()?;
        }
        Ok(filter.reshape((kind_out.dim(), kind_in.dim(), *k, *k, *k))?)
    }
}

/// Steerable functions on the taps of a kernel.
struct Functions {
    /// The degree of each, and the samples of its components.
    all: Vec<(usize, Vec<f64>)>,
    /// Their components.
    count: usize,
}

impl Functions {
    fn new(size: usize) -> Result<Self, NnError> {
        let order = ORDER.min(size.saturating_sub(1));
        let all = Family::jets(order).sample(&TapGrid::new(size, [1.0; 3])?, order)?;
        let all: Vec<_> = all.into_iter().map(|f| (f.j, f.samples)).collect();
        let count = all.iter().map(|(j, _)| 2 * j + 1).sum();
        Ok(Self { all, count })
    }

    /// What they are after each rotation, f(g^-1 y): rotations, components, taps.
    fn turned(&self, group: &[Rotation]) -> Vec<f64> {
        let turned = |(g, (j, samples)): (&Rotation, &(usize, Vec<f64>))| {
            let components = 2 * j + 1;
            let samples = DMatrix::from_row_slice(components, samples.len() / components, samples);
            // Rows of a matrix that is stored by columns.
            (wigner_d(*j, &g.inverse()) * samples).transpose().as_slice().to_vec()
        };
        let pairs = group.iter().flat_map(|g| self.all.iter().map(move |f| (g, f)));
        pairs.flat_map(turned).collect()
    }
}

/// From the weights of each output the filters of all its orientations, shapes outputs, n and outputs, order n. The
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
        group: &[Rotation],
        inputs: usize,
        orientations: usize,
        places: &dyn Fn(&Rotation) -> Vec<usize>,
    ) -> Result<Self, NnError> {
        let index = turned(group, inputs, orientations, places);
        let count = index.len() / group.len();
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

/// For every (g, c, h, y) the place of (c, g^-1 h, `places`(g^-1)\[y\]).
fn turned(
    group: &[Rotation],
    inputs: usize,
    orientations: usize,
    places: &dyn Fn(&Rotation) -> Vec<usize>,
) -> Vec<u32> {
    let mut index = vec![];
    for g in group {
        let back = g.inverse();
        let places = places(&back);
        for c in 0..inputs {
            for h in group.iter().take(orientations) {
                let product = back * h;
                let place =
                    group.iter().position(|r| (r.matrix() - product.matrix()).amax() < 1e-9);
                let h = place.expect("a product of two rotations of the group is a third");
                let start = (c * orientations + h % orientations) * places.len();
                index.extend(places.iter().map(|place| (start + place) as u32));
            }
        }
    }
    index
}

/// The taps to which a rotation of the cube takes the taps.
fn turned_taps(rotation: &Rotation, size: usize) -> Vec<usize> {
    (0..size.pow(3)).map(|tap| turned_tap(rotation, tap, size)).collect()
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
            let (scope, places) = (params.pp("turned"), |g: &Rotation| turned_taps(g, size));
            let turned = Turned::new(&scope, &cube_group(), inputs, orientations, &places).unwrap();
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
