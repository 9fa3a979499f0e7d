//! One item of a dataset and its transformed volumes.

use rayon::prelude::*;
use steer3d_dataset::Dataset;
use steer3d_so3::Irreps;
use steer3d_volume::{Mesh, MeshVoxeliser, PointCloud, Rotator, Voxeliser, translate_into};

use crate::error::EvalError;
use crate::fields::ball;
use crate::protocol::{Mask, Protocol, Source, Transform};

/// An item, and what is done at the border of its transformed volumes.
pub(crate) struct Material {
    form: Form,
    irreps: Irreps,
    /// The value that comes in from outside the grid in scalar channels.
    outside: f32,
    /// The voxels that are kept, if not all.
    kept: Option<Vec<bool>>,
}

/// What a source transforms. Scalar channels of voxels are stored less the value outside.
enum Form {
    Voxels(Rotator),
    Points { cloud: PointCloud, voxeliser: Voxeliser },
    Mesh { mesh: Mesh, voxeliser: MeshVoxeliser },
}

impl Material {
    /// Reads an item of a dataset.
    pub(crate) fn read(
        dataset: &Dataset,
        item: usize,
        source: Source,
        protocol: &Protocol,
    ) -> Result<Self, EvalError> {
        let meta = dataset.meta();
        let dims = dataset.grid_of(&[item])?.dims();
        let radius = dims.into_iter().min().unwrap_or(0) as f64 / 2.0;
        let kept = (protocol.mask == Mask::Ball).then(|| ball(dims, radius));
        let outside = match source {
            Source::Voxels(_) => protocol.outside,
            Source::Points => 0.0,
        };
        let form = match source {
            Source::Voxels(interpolation) => {
                let volume = dataset.read(item)?;
                let (grid, mut data) = (volume.grid(), volume.into_data());
                shift_scalars(&meta.irreps, &mut data, -outside);
                Form::Voxels(Rotator::new(data, grid, meta.irreps.clone(), interpolation)?)
            }
            Source::Points => Form::of_source(dataset, item)?,
        };
        Ok(Self { form, irreps: meta.irreps.clone(), outside, kept })
    }

    /// Writes the transformed volume, C,D,H,W, into `target`.
    pub(crate) fn write(&self, transform: &Transform, target: &mut [f32]) -> Result<(), EvalError> {
        let Transform { rotation, shift } = transform;
        match &self.form {
            Form::Voxels(field) if *shift == [0.0; 3] => field.rotate_into(rotation, target)?,
            Form::Voxels(field) => {
                let mut turned = vec![0.0; target.len()];
                field.rotate_into(rotation, &mut turned)?;
                translate_into(&turned, &field.grid(), *shift, field.interpolation(), target)?;
            }
            Form::Points { cloud, voxeliser } => {
                let moved = cloud.clone().translated(shift_before(transform, voxeliser.voxel_size));
                voxeliser.voxelise_into(&moved, rotation, target)?;
            }
            Form::Mesh { mesh, voxeliser } => {
                let moved = mesh.translated(shift_before(transform, voxeliser.voxel_size));
                let volume = voxeliser.voxelise(&moved, rotation)?;
                target.copy_from_slice(volume.data());
            }
        }
        if let Some(kept) = &self.kept {
            for channel in target.chunks_exact_mut(kept.len()) {
                channel
                    .iter_mut()
                    .zip(kept)
                    .for_each(|(v, kept)| *v = if *kept { *v } else { 0.0 });
            }
        }
        shift_scalars(&self.irreps, target, self.outside);
        Ok(())
    }
}

impl Form {
    /// The stored points or mesh of an item.
    fn of_source(dataset: &Dataset, item: usize) -> Result<Self, EvalError> {
        let meta = dataset.meta();
        if let (Some(voxeliser), Some(cloud)) = (meta.voxeliser, dataset.points(item)?) {
            return Ok(Self::Points { cloud, voxeliser });
        }
        match (meta.mesh_voxeliser, dataset.mesh(item)?) {
            (Some(voxeliser), Some(mesh)) => Ok(Self::Mesh { mesh, voxeliser }),
            _ => Err(EvalError::no_points(meta)),
        }
    }
}

/// Adds a value to the channels of l = 0 of a volume C,D,H,W.
fn shift_scalars(irreps: &Irreps, values: &mut [f32], by: f32) {
    if by == 0.0 {
        return;
    }
    let voxels = values.len() / irreps.dim();
    for block in irreps.blocks().filter(|block| block.irrep.l == 0) {
        let scalars = &mut values[block.offset * voxels..][..block.dim() * voxels];
        scalars.iter_mut().for_each(|value| *value += by);
    }
}

/// The shift before the rotation that takes a source to its place, R⁻¹ shift, in its own unit.
fn shift_before(transform: &Transform, voxel_size: f64) -> [f64; 3] {
    let shift = transform.shift.map(|voxels| voxels * voxel_size);
    (transform.rotation.inverse() * nalgebra::Vector3::from(shift)).into()
}

/// An item of a dataset transformed in each of some ways, N,C,D,H,W.
///
/// # Errors
/// If it cannot be read or voxelised.
pub fn transformed(
    dataset: &Dataset,
    item: usize,
    source: Source,
    protocol: &Protocol,
    transforms: &[Transform],
) -> Result<Vec<f32>, EvalError> {
    let material = Material::read(dataset, item, source, protocol)?;
    let length = dataset.item_len(item);
    let mut values = vec![0.0; transforms.len() * length];
    let each = values.par_chunks_mut(length).zip(transforms);
    each.try_for_each(|(target, transform)| material.write(transform, target))?;
    Ok(values)
}
