//! Values of options.

use std::ops::Range;

use anyhow::{Context, Result};
use clap::builder::{PossibleValuesParser, TypedValueParser};
use serde::de::DeserializeOwned;
use serde::de::value::{Error, StrDeserializer};

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

/// Edges of a box: three numbers, or one for a cube.
pub(crate) fn edges(text: &str) -> Result<[usize; 3], String> {
    let numbers: Option<Vec<usize>> = text.split(',').map(|n| n.trim().parse().ok()).collect();
    match numbers.as_deref() {
        Some(&[n]) => Ok([n; 3]),
        Some(&[d, h, w]) => Ok([d, h, w]),
        _ => Err("expected one number or three, as 64 or 64,64,48".to_owned()),
    }
}
