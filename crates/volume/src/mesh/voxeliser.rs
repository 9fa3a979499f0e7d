//! Turns meshes into volumes.

use nalgebra::Vector3;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use steer3d_so3::Rotation;

use super::inside::{Inside, Interior};
use super::tree::Tree;
use super::{Mesh, Triangle, clip};
use crate::volume::{Grid, Volume, VolumeError, checked_len, is_length, parameter};

/// What a [`MeshVoxeliser`] computes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "clap", derive(clap::ValueEnum))]
pub enum MeshField {
    /// 1 inside, 0 outside.
    ///
    /// A voxel is inside if its centre is.
    #[default]
    Solid,
    /// 1 where the surface passes, also of meshes without an inside.
    ///
    /// These are the voxels that a triangle touches; touching includes the voxel's faces, to 1e-9
    /// of its edge.
    Surface,
    /// Distance to the surface, negative inside.
    ///
    /// It is that of the voxel's centre, in the mesh's unit.
    Distance,
    /// Normals of the surface, a field of type 1x1.
    ///
    /// Three channels x, y, z: the sum of the outward area vectors of the surface in the voxel,
    /// over the squared voxel size. A plane parallel to a face of the grid gives its unit normal; a
    /// piece in the face between two voxels counts half in each.
    Normals,
}

/// Turns a mesh into a field on a cubic grid centred on the origin.
///
/// ```
/// use steer3d_so3::Rotation;
/// use steer3d_volume::{Mesh, MeshField, MeshVoxeliser};
/// let corners = vec![[0.0, 0.0, 0.0], [6.0, 0.0, 0.0], [0.0, 6.0, 0.0], [0.0, 0.0, 6.0]];
/// let faces = vec![[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]];
/// let tetrahedron = Mesh::new(corners, faces)?.translated([-1.5; 3]);
/// let solid = MeshVoxeliser { supersampling: 4, ..MeshVoxeliser::new(10, 1.0, MeshField::Solid) };
/// let volume = solid.voxelise(&tetrahedron, &Rotation::identity())?;
/// assert!((volume.data().iter().sum::<f32>() - 36.0).abs() < 1.0);
/// # Ok::<(), steer3d_volume::VolumeError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MeshVoxeliser {
    /// Voxels along each edge of the grid.
    pub size: usize,
    /// Edge of a voxel, in the unit of the mesh.
    pub voxel_size: f64,
    /// What to compute.
    pub field: MeshField,
    /// Each voxel of a surface or solid is the mean of this many sub-voxels along each edge; 1 for
    /// other fields.
    #[serde(default = "one")]
    pub supersampling: usize,
    /// How to tell inside from outside.
    #[serde(default)]
    pub inside: Inside,
    /// Largest magnitude of a distance, in the unit of the mesh; farther voxels have it.
    #[serde(default)]
    pub truncation: Option<f64>,
}

fn one() -> usize {
    1
}

impl MeshVoxeliser {
    /// `size`³ voxels without supersampling or truncation.
    pub fn new(size: usize, voxel_size: f64, field: MeshField) -> Self {
        let (supersampling, inside, truncation) = (1, Inside::Winding, None);
        Self { size, voxel_size, field, supersampling, inside, truncation }
    }

    /// Number of channels: 3 for normals, else 1.
    pub fn channels(&self) -> usize {
        if self.field == MeshField::Normals { 3 } else { 1 }
    }

    /// The grid of the volumes.
    ///
    /// # Errors
    /// If the size, supersampling, voxel size or truncation is outside its range. The supersampled
    /// grid counts against [`MAX_VALUES`](crate::MAX_VALUES) as well.
    pub fn grid(&self) -> Result<Grid, VolumeError> {
        let grid = Grid::new([self.size; 3], [self.voxel_size; 3])?;
        checked_len(self.channels(), grid.dims())?;
        checked_len(1, [self.size.saturating_mul(self.supersampling); 3])?;
        let samples = matches!(self.field, MeshField::Surface | MeshField::Solid);
        if self.supersampling != 1 && !samples {
            let found = self.supersampling.to_string();
            return parameter("supersampling", "1 for a distance or normals", found);
        }
        match self.truncation {
            Some(t) if !(t > 0.0 && is_length(t)) => {
                parameter("truncation", "a positive number of at most 1e30", t.to_string())
            }
            _ => Ok(grid),
        }
    }

    /// The field of `mesh` after `rotation` about the origin, as channels × size³ values. Parts
    /// outside the grid are cut off.
    ///
    /// # Errors
    /// As [`MeshVoxeliser::grid`], if a coordinate is too large for the voxel size, and if a
    /// distance is asked for from a mesh without triangles.
    pub fn voxelise(&self, mesh: &Mesh, rotation: &Rotation) -> Result<Volume, VolumeError> {
        let grid = self.grid()?;
        let mesh = self.in_voxels(mesh, rotation)?;
        let data = match self.field {
            MeshField::Surface => {
                let triangles: Vec<Triangle> = mesh.corners().collect();
                self.sampled(|z, size| surface(&triangles, z, size))
            }
            MeshField::Solid => {
                let interior = Interior::new(&mesh, self.inside);
                self.sampled(|z, size| interior.slice(z, size))
            }
            MeshField::Distance => self.distances(&mesh)?,
            MeshField::Normals => self.normals(&mesh),
        };
        Volume::centred(data, self.channels(), grid)
    }

    /// The mesh in units of sub-voxels, the first voxel's corner at the origin.
    fn in_voxels(&self, mesh: &Mesh, rotation: &Rotation) -> Result<Mesh, VolumeError> {
        let samples = self.supersampling as f64;
        let middle = Vector3::repeat(self.size as f64 / 2.0);
        let place = |v: Vector3<f64>| ((rotation * v) / self.voxel_size + middle) * samples;
        let placed = mesh.mapped(place);
        Mesh::new(placed.vertices, placed.triangles)
    }

    /// Means over sub-voxels of slices of the supersampled grid.
    fn sampled(&self, slice: impl Fn(usize, usize) -> Vec<bool> + Sync) -> Vec<f32> {
        let (size, samples) = (self.size, self.supersampling);
        let fine = size * samples;
        let mut data = vec![0.0; size * size * size];
        data.par_chunks_mut(size * size).enumerate().for_each(|(z, target)| {
            for z in z * samples..(z + 1) * samples {
                for (i, _) in slice(z, fine).into_iter().enumerate().filter(|(_, set)| *set) {
                    target[i / fine / samples * size + i % fine / samples] += 1.0;
                }
            }
            target.iter_mut().for_each(|value| *value /= (samples * samples * samples) as f32);
        });
        data
    }

    fn distances(&self, mesh: &Mesh) -> Result<Vec<f32>, VolumeError> {
        if mesh.triangles.is_empty() {
            return parameter("mesh", "at least one triangle to measure a distance from", "none");
        }
        let size = self.size;
        let tree = Tree::new(mesh.corners().collect());
        let interior = Interior::new(mesh, self.inside);
        let limit = self.truncation.map_or(f64::INFINITY, |t| t / self.voxel_size);
        let mut data = vec![0.0; size * size * size];
        data.par_chunks_mut(size * size).enumerate().for_each(|(z, target)| {
            let inside = interior.slice(z, size);
            let mut guess = None;
            for (i, value) in target.iter_mut().enumerate() {
                let centre = Vector3::new(i % size, i / size, z).map(|i| i as f64 + 0.5);
                let nearest = tree.nearest(&centre, limit, guess);
                // The next voxel's nearest triangle is likely the same.
                guess = nearest.map(|(triangle, _)| triangle).or(guess);
                let distance = nearest.map_or(limit, |(_, distance)| distance);
                *value = (distance * self.voxel_size) as f32 * if inside[i] { -1.0 } else { 1.0 };
            }
        });
        Ok(data)
    }

    fn normals(&self, mesh: &Mesh) -> Vec<f32> {
        let size = self.size;
        let triangles: Vec<Triangle> = mesh.corners().collect();
        let slices: Vec<Vec<Vector3<f64>>> =
            (0..size).into_par_iter().map(|z| normals(&triangles, z, size)).collect();
        let voxels = || slices.iter().flatten();
        (0..3).flat_map(|axis| voxels().map(move |normal| normal[axis] as f32)).collect()
    }
}

/// The voxels of slice `z` that a triangle touches.
fn surface(triangles: &[Triangle], z: usize, size: usize) -> Vec<bool> {
    let mut touched = vec![false; size * size];
    let widened = |i: usize| (i as f64 - clip::EPSILON, i as f64 + 1.0 + clip::EPSILON);
    for triangle in triangles {
        if !clip::voxels(clip::range(triangle, 2), size).contains(&z) {
            continue;
        }
        let (low, high) = widened(z);
        let slab = clip::between(triangle, 2, low, high);
        for y in clip::voxels(clip::range(&slab, 1), size) {
            let (low, high) = widened(y);
            let row = clip::between(&slab, 1, low, high);
            // The part of a triangle in a row of voxels is convex: it touches all that it spans.
            let span = clip::voxels(clip::range(&row, 0), size);
            touched[y * size..(y + 1) * size][span].fill(true);
        }
    }
    touched
}

/// Sums of area vectors in the voxels of slice `z`.
fn normals(triangles: &[Triangle], z: usize, size: usize) -> Vec<Vector3<f64>> {
    let mut sums = vec![Vector3::zeros(); size * size];
    for triangle in triangles {
        if !clip::voxels(clip::range(triangle, 2), size).contains(&z) {
            continue;
        }
        let (slab, slab_weight) = clip::share(triangle, 2, z);
        for y in clip::voxels(clip::range(&slab, 1), size) {
            let (row, row_weight) = clip::share(&slab, 1, y);
            for x in clip::voxels(clip::range(&row, 0), size) {
                let (piece, weight) = clip::share(&row, 0, x);
                sums[y * size + x] +=
                    clip::area_vector(&piece) * (weight * row_weight * slab_weight);
            }
        }
    }
    sums
}
