use candle_core::Tensor;
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
    /// Where each element of the filters of all orientations of an output stands in its weights.
    index: Option<Tensor>,
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
        let index = match symmetry {
            Symmetry::None => None,
            Symmetry::Octahedral => {
                let index = turned(inputs, orientations, size);
                Some(Tensor::from_vec(index.clone(), index.len(), params.device())?)
            }
        };
        Ok(Self {
            weight: params.weight(
                &format!("{name}.weight"),
                values,
                &[outputs, inputs * orientations, size, size, size],
                true,
            )?,
            index,
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
        let Some(index) = &self.index else { return Ok(self.weight.clone()) };
        let (outputs, inputs, k) = (self.irreps_out.dim(), self.irreps_in.dim(), self.size);
        let filter = self.weight.flatten_from(1)?.index_select(index, 1)?;
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
        let orientations = if self.index.is_some() { Symmetry::Octahedral.order() } else { 1 };
        FusedConv3d::dense(&self.name, irreps, &self.filter()?, None, config, norm, orientations)
    }

    /// Multiply-adds for each voxel.
    pub fn cost(&self) -> usize {
        self.irreps_in.dim() * self.irreps_out.dim() * self.size.pow(3)
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
