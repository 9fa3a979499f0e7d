//! One item of a dataset and its transformed volumes.

use steer3d_so3::Irreps;
use steer3d_volume::{
    Dataset, Interpolation, Mesh, MeshVoxeliser, PointCloud, Volume, Voxeliser, rotate_into,
    translate_into,
};

use crate::EvalError;
use crate::protocol::{Source, Transform};

/// An item in the form that a source transforms.
pub(crate) enum Material {
    Voxels { volume: Volume, interpolation: Interpolation },
    Points { cloud: PointCloud, voxeliser: Voxeliser },
    Mesh { mesh: Mesh, voxeliser: MeshVoxeliser },
}

impl Material {
    /// Reads an item of a dataset.
    pub(crate) fn read(dataset: &Dataset, item: usize, source: Source) -> Result<Self, EvalError> {
        match source {
            Source::Voxels(interpolation) => {
                Ok(Self::Voxels { volume: dataset.read(item)?, interpolation })
            }
            Source::Points => Self::read_source(dataset, item),
        }
    }

    fn read_source(dataset: &Dataset, item: usize) -> Result<Self, EvalError> {
        let meta = dataset.meta();
        if let (Some(voxeliser), Some(cloud)) = (meta.voxeliser, dataset.points(item)?) {
            return Ok(Self::Points { cloud, voxeliser });
        }
        match (meta.mesh_voxeliser, dataset.mesh(item)?) {
            (Some(voxeliser), Some(mesh)) => Ok(Self::Mesh { mesh, voxeliser }),
            _ => Err(EvalError::NoPoints { dataset: meta.name.clone() }),
        }
    }

    /// Writes the transformed volume, C,D,H,W, into `target`.
    pub(crate) fn write(
        &self,
        irreps: &Irreps,
        transform: &Transform,
        target: &mut [f32],
    ) -> Result<(), EvalError> {
        match self {
            Self::Voxels { volume, interpolation } => {
                let (source, grid) = (volume.data(), volume.grid());
                let Transform { rotation, shift } = transform;
                if *shift == [0.0; 3] {
                    rotate_into(source, &grid, irreps, rotation, *interpolation, target)?;
                } else {
                    let mut turned = vec![0.0; source.len()];
                    rotate_into(source, &grid, irreps, rotation, *interpolation, &mut turned)?;
                    translate_into(&turned, &grid, *shift, *interpolation, target)?;
                }
            }
            Self::Points { cloud, voxeliser } => {
                let moved = cloud.clone().translated(shift(transform, voxeliser.voxel_size));
                voxeliser.voxelise_into(&moved, &transform.rotation, target)?;
            }
            Self::Mesh { mesh, voxeliser } => {
                let moved = mesh.translated(shift(transform, voxeliser.voxel_size));
                let volume = voxeliser.voxelise(&moved, &transform.rotation)?;
                target.copy_from_slice(volume.data());
            }
        }
        Ok(())
    }
}

/// The shift before the rotation that takes a source to its place, R⁻¹ shift, in its own unit.
fn shift(transform: &Transform, voxel_size: f64) -> [f64; 3] {
    let shift = transform.shift.map(|voxels| voxels * voxel_size);
    (transform.rotation.inverse() * nalgebra::Vector3::from(shift)).into()
}
