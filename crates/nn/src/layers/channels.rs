//! Numbers of fields and of channels.

use std::iter::repeat_n;

use candle_core::{Device, Tensor};
use steer3d_so3::{Irrep, Irreps, Parity};

/// Whether an irrep is left unchanged by every rotation and reflection, so that a bias, a mean or
/// a pointwise nonlinearity is allowed on it.
pub(crate) fn is_invariant(irrep: Irrep) -> bool {
    irrep.l == 0 && irrep.parity != Some(Parity::Odd)
}

/// Numbers of the invariant fields of `irreps` as numbers of its channels on a device, with zeros where rotation
/// would change a number.
pub(crate) fn spread(
    irreps: &Irreps,
    of_invariant: &Tensor,
    device: &Device,
) -> candle_core::Result<Tensor> {
    let mut used = 0;
    let mut parts = vec![];
    for block in irreps.blocks() {
        if is_invariant(block.irrep) {
            parts.push(of_invariant.narrow(0, used, block.mul)?);
            used += block.mul;
        } else {
            let channels = block.mul * block.irrep.dim();
            parts.push(Tensor::zeros(channels, of_invariant.dtype(), device)?);
        }
    }
    Tensor::cat(&parts, 0)
}

/// Numbers of the fields of `irreps` as numbers of its channels.
pub(crate) fn per_channel(irreps: &Irreps, of_field: &Tensor) -> candle_core::Result<Tensor> {
    let fields: Vec<u32> = fields_of_channels(irreps).into_iter().map(|f| f as u32).collect();
    of_field.index_select(&Tensor::from_vec(fields, irreps.dim(), of_field.device())?, 0)
}

/// The field of `irreps` that each channel belongs to.
pub(crate) fn fields_of_channels(irreps: &Irreps) -> Vec<usize> {
    let dims = irreps.blocks().flat_map(|b| repeat_n(b.irrep.dim(), b.mul));
    dims.enumerate().flat_map(|(field, dim)| repeat_n(field, dim)).collect()
}
