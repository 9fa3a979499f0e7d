#[cfg(feature = "cuda")]
use candle_core::CudaStorage;
use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp1, Error, Layout, Shape, Storage, Tensor};
use steer3d_ops::{Conv3dConfig, conv3d};
use steer3d_so3::{Irreps, Rotation, cube_group};

use super::{FieldBatchNorm, FusedConv3d};
use crate::field::scalars;
use crate::{Field, NnError, Params, Symmetry};

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
    name: String,
    irreps_in: Irreps,
    irreps_out: Irreps,
    size: usize,
}

impl GroupConv {
    /// A convolution of `[outputs, inputs, orientations]` with cubes of `size` voxels, zero padded;
    /// `orientations` are those of the input, 1 or the order of the group. Initial weights as He et
    /// al. 2015.
    ///
    /// # Errors
    /// Only if the device runs out of memory.
    pub fn new(
        params: &mut Params,
        name: &str,
        symmetry: Symmetry,
        [outputs, inputs, orientations]: [usize; 3],
        size: usize,
    ) -> Result<Self, NnError> {
        let fan_in = inputs * orientations * size.pow(3);
        let std = (2.0 / fan_in as f64).sqrt();
        let mut stream = params.stream(name);
        let values = (0..outputs * fan_in).map(|_| std * stream.normal()).collect();
        let turned = match symmetry {
            Symmetry::None => None,
            Symmetry::Octahedral => Some(Turned::new(params, inputs, orientations, size)?),
        };
        Ok(Self {
            weight: params.weight(
                &format!("{name}.weight"),
                values,
                &[outputs, inputs * orientations, size, size, size],
                true,
            )?,
            turned,
            name: name.into(),
            irreps_in: scalars(inputs * orientations)?,
            irreps_out: scalars(outputs * symmetry.order())?,
            size,
        })
    }

    /// The channels of the output, (outputs, orientations).
    pub fn irreps_out(&self) -> &Irreps {
        &self.irreps_out
    }

    /// Field of (inputs, orientations) to field of (outputs, orientations).
    ///
    /// # Errors
    /// [`NnError::FieldType`] for another number of channels.
    pub fn forward(&self, field: &Field) -> Result<Field, NnError> {
        field.expect(&self.name, &self.irreps_in)?;
        let config = Conv3dConfig::same(self.size);
        let x = field.values();
        let values = conv3d(x, &self.filter()?.to_dtype(x.dtype())?, None, &config)?;
        Field::new(self.irreps_out.clone(), values)
    }

    /// The filters of all orientations.
    fn filter(&self) -> Result<Tensor, NnError> {
        let Some(turned) = &self.turned else { return Ok(self.weight.clone()) };
        let (outputs, inputs, k) = (self.irreps_out.dim(), self.irreps_in.dim(), self.size);
        let filter = self.weight.flatten_from(1)?.apply_op1(turned.clone())?;
        Ok(filter.reshape((outputs, inputs, k, k, k))?)
    }

    /// This layer and the norm after it at evaluation in one, as they are now. The norm has a channel
    /// for each output, which all its orientations share.
    ///
    /// # Errors
    /// Only if the device runs out of memory.
    pub(crate) fn fused(&self, norm: &FieldBatchNorm) -> Result<FusedConv3d, NnError> {
        let irreps = [&self.irreps_in, &self.irreps_out];
        let config = Conv3dConfig::same(self.size);
        let orientations = if self.turned.is_some() { Symmetry::Octahedral.order() } else { 1 };
        FusedConv3d::dense(&self.name, irreps, &self.filter()?, None, config, norm, orientations)
    }

    /// Multiply-adds for each voxel.
    pub fn cost(&self) -> usize {
        self.irreps_in.dim() * self.irreps_out.dim() * self.size.pow(3)
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
        params: &Params,
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

    /// The sum that a GPU takes is the gradient.
    #[test]
    fn the_gradient_of_turned_filters_is_a_sum_over_orientations() {
        let params = Params::new(0, DType::F64, &Device::Cpu);
        for (inputs, orientations, size) in [(2, 1, 3), (2, 24, 3), (1, 24, 4)] {
            let turned = Turned::new(&params, inputs, orientations, size).unwrap();
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
