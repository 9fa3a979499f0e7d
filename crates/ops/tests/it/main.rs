//! Tests of the operations against direct sums in f64, central differences and rotations.

mod affine;
mod common;
mod conv;
mod field_ops;
mod grids;
mod pool;
mod separable;
