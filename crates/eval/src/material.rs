//! One item of a dataset and its transformed volumes.

use steer3d_so3::Irreps;
use steer3d_volume::{
    Dataset, Interpolation, PointCloud, Volume, Voxeliser, rotate_into, translate_into,
};

use crate::EvalError;
use crate::protocol::{Source, Transform};

/// An item in the form that a source transforms.
pub(crate) enum Material {
    Voxels { volume: Volume, interpolation: Interpolation },
    Points { cloud: PointCloud, voxeliser: Voxeliser },
}

impl Material {
    /// Reads an item of a dataset.
    pub(crate) fn read(dataset: &Dataset, item: usize, source: Source) -> Result<Self, EvalError> {
        match source {
            Source::Voxels(interpolation) => {
                Ok(Self::Voxels { volume: dataset.read(item)?, interpolation })
            }
            Source::Points => {
                let cloud = dataset.points(item)?;
                let voxeliser = dataset.meta().voxeliser;
                let (Some(cloud), Some(voxeliser)) = (cloud, voxeliser) else {
                    return Err(EvalError::NoPoints { dataset: dataset.meta().name.clone() });
                };
                Ok(Self::Points { cloud, voxeliser })
            }
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
                let moved = moved(cloud, transform, voxeliser.voxel_size);
                voxeliser.voxelise_into(&moved, &transform.rotation, target)?;
            }
        }
        Ok(())
    }
}

/// The points before the rotation that takes them to their place: p + R⁻¹ shift.
fn moved(cloud: &PointCloud, transform: &Transform, voxel_size: f64) -> PointCloud {
    let shift: [f64; 3] = transform.shift.map(|voxels| voxels * voxel_size);
    let shift: [f64; 3] = (transform.rotation.inverse() * nalgebra::Vector3::from(shift)).into();
    cloud.clone().translated(shift)
}
