//! Rotations, real spherical harmonics, Wigner-D matrices, Clebsch-Gordan tensors, irreps and SO(3) grids.
