//! Where the irreducible fields of an [`Irreps`] lie among the channels of a tensor.

use candle_core::{Result, Tensor};
use steer3d_so3::{Irreps, Parity};

use crate::check::{Volume, invalid};

/// The channels of one irreducible field.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Span {
    /// First channel.
    pub(crate) offset: usize,
    /// Number of channels, 2l+1.
    pub(crate) dim: usize,
    /// Whether no rotation or reflection changes the field (l = 0, not odd).
    pub(crate) invariant: bool,
}

/// The fields of `irreps` in order.
pub(crate) fn spans(irreps: &Irreps) -> Vec<Span> {
    irreps
        .blocks()
        .flat_map(|block| {
            let dim = block.irrep.dim();
            let invariant = block.irrep.l == 0 && block.irrep.parity != Some(Parity::Odd);
            (0..block.mul).map(move |u| Span { offset: block.offset + u * dim, dim, invariant })
        })
        .collect()
}

/// The sizes of a field tensor N,C,D,H,W of type `irreps`.
///
/// # Errors
/// If `x` is no volume tensor or the number of channels is not the dimension of `irreps`.
pub(crate) fn field_volume(op: &'static str, x: &Tensor, irreps: &Irreps) -> Result<Volume> {
    let volume = Volume::of(op, x)?;
    expect_type(op, &volume, irreps)?;
    Ok(volume)
}

/// Checks that the number of channels is the dimension of `irreps`.
pub(crate) fn expect_type(op: &'static str, volume: &Volume, irreps: &Irreps) -> Result<()> {
    let (expected, found) = (irreps.dim(), volume.channels);
    if found == expected {
        return Ok(());
    }
    let sizes = volume.dims();
    let problem =
        format!("expected {expected} channels for irreps {irreps}, got {found} in {sizes:?}");
    Err(invalid(op, problem))
}

/// Cuts `data` into consecutive slices of the given lengths.
pub(crate) fn split<T>(mut data: &mut [T], lengths: impl Iterator<Item = usize>) -> Vec<&mut [T]> {
    let mut parts = vec![];
    for length in lengths {
        let (part, rest) = data.split_at_mut(length);
        parts.push(part);
        data = rest;
    }
    parts
}
