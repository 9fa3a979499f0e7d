//! Networks as lists of layers, built from their configurations.

mod plain;
mod shared;
mod steerable;

pub(crate) use plain::plain;
pub(crate) use steerable::steerable;
