use candle_core::Tensor;
use steer3d_ops::{Conv3dConfig, conv3d};
use steer3d_so3::{Rotation, cube_group};

use crate::{NnError, Params, Symmetry};

/// A convolution over space and, with [`Symmetry::Octahedral`], over the rotations of the cube
/// (Cohen and Welling 2016, eqs. 10 and 11). Output channel (o, g) has the filter of o turned by g:
///
/// ```text
/// out[o, g](x) = sum_{c, h, y} w[o, c, g^-1 h](g^-1 y) in[c, h](x + y)
/// ```
///
/// so that turning the input by R turns the output: (R f)[c, h](x) = f[c, R^-1 h](R^-1 x). The input
/// of the first layer has no orientations h. Orientations are in the order of [`cube_group`].
#[derive(Debug)]
pub struct GroupConv {
    /// Outputs, (inputs, orientations), kd, kh, kw.
    weight: Tensor,
    /// Where each element of the filters of all orientations of an output stands in its weights.
    index: Option<Tensor>,
    /// Outputs and inputs with their orientations.
    channels: [usize; 2],
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
        let name = format!("{name}.weight");
        Ok(Self {
            weight: params.weight(
                &name,
                values,
                &[outputs, inputs * orientations, size, size, size],
                true,
            )?,
            index,
            channels: [outputs * symmetry.order(), inputs * orientations],
            size,
        })
    }

    /// N,(inputs, orientations),D,H,W to N,(outputs, orientations),D,H,W.
    ///
    /// # Errors
    /// For another number of channels.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor, NnError> {
        let ([outputs, inputs], k) = (self.channels, self.size);
        let filter = match &self.index {
            None => self.weight.clone(),
            Some(index) => {
                let filter = self.weight.flatten_from(1)?.index_select(index, 1)?;
                filter.reshape((outputs, inputs, k, k, k))?
            }
        };
        Ok(conv3d(x, &filter, None, &Conv3dConfig::same(k))?)
    }

    /// Multiply-adds for each voxel.
    pub fn cost(&self) -> usize {
        self.channels[0] * self.channels[1] * self.size.pow(3)
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
