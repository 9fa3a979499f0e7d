//! The `steer3d` program.
fn main() {}
