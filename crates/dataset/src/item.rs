//! One item of a dataset, and its checksum.

use nalgebra::Matrix3;
use steer3d_files::digest::PartHasher;
use steer3d_volume::mesh::Mesh;
use steer3d_volume::points::{PointCloud, PointValue};
use steer3d_volume::volume::{Grid, Volume};

use crate::meta::Split;

/// One item to be written. Volume, group, source, points and mesh are for all items or for none.
#[derive(Clone, Copy, Debug, Default)]
pub struct Item<'a> {
    /// The volume, of the channels of the dataset, and of its dims and voxel size unless each item has its own; without it,
    /// points and a voxeliser or a mesh must be there to make it from.
    pub volume: Option<&'a Volume>,
    /// The directions of its axes x, y, z in the coordinates of its file, as columns of a rotation or reflection, where
    /// each item has its own grid; `None` for those of the coordinates.
    pub direction: Option<&'a Matrix3<f64>>,
    /// Index of its class.
    pub label: u32,
    /// The split it belongs to.
    pub split: Split,
    /// Its identifier, of 1 to 64 bytes.
    pub id: &'a str,
    /// Items of one group belong in one split; at most 64 bytes, empty for none.
    pub group: Option<&'a str>,
    /// The file that it was made from, at most 512 bytes.
    pub source: Option<&'a str>,
    /// The points that the volume was made from.
    pub points: Option<&'a PointCloud>,
    /// The mesh that the volume was made from.
    pub mesh: Option<&'a Mesh>,
    /// The target values that the [`Tasks`](crate::Tasks) of the dataset ask for, else none.
    pub targets: &'a [f64],
    /// The labels of its voxels, D × H × W, if the [`Tasks`](crate::Tasks) of the dataset ask for them, else none.
    pub voxel_labels: &'a [u8],
}

/// Which of the parts that all items have, or none, an item has.
pub(crate) type Parts = [(&'static str, bool); 5];

impl Item<'_> {
    /// Which of the parts for all items or for none it has.
    pub(crate) fn parts(&self) -> Parts {
        [
            ("volume", self.volume.is_some()),
            ("group", self.group.is_some()),
            ("source", self.source.is_some()),
            ("points", self.points.is_some()),
            ("mesh", self.mesh.is_some()),
        ]
    }

    /// Its direction, row by row.
    pub(crate) fn direction_rows(&self) -> [f64; 9] {
        let direction = self.direction.copied().unwrap_or_else(Matrix3::identity);
        std::array::from_fn(|i| direction[(i / 3, i % 3)])
    }

    /// SHA-256 of the parts of an item, each after its length in bytes as u64, all little-endian:
    /// id, label, `origin`, values as `stored`, positions, channels, degrees and values of the
    /// points, vertices, triangles; then targets and labels of voxels where the dataset has tasks; then dims, voxel size
    /// and direction of `grid` where each item has its own.
    pub(crate) fn checksum(
        &self,
        origin: &[f64; 3],
        stored: &[u8],
        has_tasks: bool,
        grid: Option<&Grid>,
    ) -> [u8; 32] {
        let none = (PointCloud::default(), Mesh::default());
        let (points, mesh) = (self.points.unwrap_or(&none.0), self.mesh.unwrap_or(&none.1));
        let (degrees, carried): (Vec<u8>, Vec<[f64; 3]>) =
            (0..points.len()).map(|i| row_of(points.value(i))).unzip();
        let channels = points.channels().iter().flat_map(|channel| channel.to_le_bytes());
        let triangles = mesh.triangles().as_flattened().iter();
        let mut hash = PartHasher::default();
        hash.add(self.id.as_bytes());
        hash.add(&self.label.to_le_bytes());
        hash.add(&floats(origin));
        hash.add(stored);
        hash.add(&floats(points.positions().as_flattened()));
        hash.add(&channels.collect::<Vec<_>>());
        hash.add(&degrees);
        hash.add(&floats(carried.as_flattened()));
        hash.add(&floats(mesh.vertices().as_flattened()));
        hash.add(&triangles.flat_map(|index| index.to_le_bytes()).collect::<Vec<_>>());
        if has_tasks {
            hash.add(&floats(self.targets));
            hash.add(self.voxel_labels);
        }
        if let Some(grid) = grid {
            hash.add(&dims_of(grid).iter().flat_map(|n| n.to_le_bytes()).collect::<Vec<_>>());
            hash.add(&floats(&grid.voxel_size()));
            hash.add(&floats(&self.direction_rows()));
        }
        hash.finish()
    }
}

/// D, H, W as stored.
pub(crate) fn dims_of(grid: &Grid) -> [u32; 3] {
    // A grid has at most 2²⁸ voxels.
    grid.dims().map(|n| n as u32)
}

/// What a point carries, as its degree l and a row of numbers.
pub(crate) fn row_of(value: PointValue) -> (u8, [f64; 3]) {
    match value {
        PointValue::Scalar(weight) => (0, [weight, 0.0, 0.0]),
        PointValue::Vector(vector) => (1, vector),
    }
}

fn floats(values: &[f64]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}
