//! Rotation-equivariant networks for voxel volumes.
