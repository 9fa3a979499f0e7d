//! Values of options that are enums of the libraries.

use clap::builder::{PossibleValuesParser, TypedValueParser};
use serde::de::DeserializeOwned;
use serde::de::value::{Error, StrDeserializer};

/// Parses one of `names`, which are those of `T` in files.
pub(crate) fn named<T: DeserializeOwned + Clone + Send + Sync + 'static>(
    names: impl Into<PossibleValuesParser>,
) -> impl TypedValueParser<Value = T> {
    let value = |name: String| T::deserialize(StrDeserializer::<Error>::new(&name));
    names.into().try_map(value)
}
