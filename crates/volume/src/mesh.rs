//! Triangle meshes.

use crate::volume::{Grid, Volume, VolumeError};

/// A triangle mesh. Polygons of a file are cut into triangles.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Mesh {
    vertices: Vec<[f64; 3]>,
    triangles: Vec<[u32; 3]>,
}

impl Mesh {
    /// A mesh of `vertices` = x, y, z and `triangles` of indices into them, counter-clockwise seen
    /// from outside.
    ///
    /// # Errors
    /// If a coordinate is not finite or an index is beyond the vertices.
    pub fn new(vertices: Vec<[f64; 3]>, triangles: Vec<[u32; 3]>) -> Result<Self, VolumeError> {
        if let Some(index) = vertices.iter().flatten().position(|x| !x.is_finite()) {
            let value = vertices[index / 3][index % 3];
            return Err(VolumeError::NotFinite { what: "vertices", index, value });
        }
        let count = vertices.len();
        if let Some(&index) = triangles.iter().flatten().find(|&&index| index as usize >= count) {
            return Err(VolumeError::Parameter {
                field: "triangles",
                expected: "indices below the number of vertices",
                found: format!("{index}, with {count} vertices"),
            });
        }
        Ok(Self { vertices, triangles })
    }

    /// Vertices x, y, z.
    pub fn vertices(&self) -> &[[f64; 3]] {
        &self.vertices
    }

    /// Triangles, as indices of vertices.
    pub fn triangles(&self) -> &[[u32; 3]] {
        &self.triangles
    }
}

/// The share of each voxel of `grid`, centred on the origin, that lies inside the mesh.
///
/// # Errors
/// If the mesh cannot be voxelised.
pub fn voxelise_mesh(mesh: &Mesh, grid: Grid) -> Result<Volume, VolumeError> {
    let _ = (mesh, grid);
    Err(VolumeError::Parameter {
        field: "mesh",
        expected: "a source that can be voxelised",
        found: "a mesh; the voxeliser of meshes is not built yet".to_owned(),
    })
}
