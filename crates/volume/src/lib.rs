//! Volumes, voxelisers, rotation of volumes, and HDF5 datasets.
