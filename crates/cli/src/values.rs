//! Values of options.

use std::ops::Range;

use anyhow::{Context, Result};
use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use serde::de::DeserializeOwned;
use serde::de::value::{Error, StrDeserializer};
use steer3d::eval::Windows;

/// Most trainings from different seeds in one call.
pub(crate) const MAX_SEEDS: u64 = 10_000;

/// So many seeds from the first on.
pub(crate) fn seeds(first: u64, count: u64) -> Result<Range<u64>> {
    let end = first.checked_add(count);
    let end = end.with_context(|| format!("--seeds: {count} seeds from {first} on pass 2^64"))?;
    Ok(first..end)
}

/// Parses one of `names`, which are those of `T` in files.
pub(crate) fn named<T: DeserializeOwned + Clone + Send + Sync + 'static>(
    names: impl Into<PossibleValuesParser>,
) -> impl TypedValueParser<Value = T> {
    let value = |name: String| T::deserialize(StrDeserializer::<Error>::new(&name));
    names.into().try_map(value)
}

/// Windows of volumes whose voxels are labelled.
#[derive(Args)]
pub(crate) struct WindowArgs {
    /// For labels of voxels: take volumes in windows of D,H,W voxels, or one number for a cube, weighed by Gaussians, as a
    /// network with norms of whole volumes needs where memory is short; others give the same by planes, without windows
    #[arg(hide_short_help = true, long, value_parser = edges, value_name = "D,H,W")]
    window: Option<[usize; 3]>,
    /// Share of a window that it has in common with the next
    #[arg(hide_short_help = true, long, requires = "window", default_value_t = 0.5)]
    overlap: f64,
}

impl WindowArgs {
    pub(crate) fn given(&self) -> Option<Windows> {
        self.window.map(|size| Windows { size, overlap: self.overlap })
    }
}

/// Edges of a box: three numbers, or one for a cube.
pub(crate) fn edges(text: &str) -> Result<[usize; 3], String> {
    let numbers: Option<Vec<usize>> = text.split(',').map(|n| n.trim().parse().ok()).collect();
    match numbers.as_deref() {
        Some(&[n]) => Ok([n; 3]),
        Some(&[d, h, w]) => Ok([d, h, w]),
        _ => Err("expected one number or three, as 64 or 64,64,48".to_owned()),
    }
}
