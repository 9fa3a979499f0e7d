//! The checksum of an item.

use sha2::{Digest, Sha256};

use super::writer::row_of;
use steer3d_files::hex;

use super::Dataset;
use steer3d_volume::mesh::Mesh;
use steer3d_volume::points::PointCloud;

/// What the checksum of an item covers.
pub(super) struct Content<'a> {
    pub(super) id: &'a str,
    pub(super) label: u32,
    pub(super) origin: [f64; 3],
    /// Values as stored, little-endian; empty if no volumes are stored.
    pub(super) stored: &'a [u8],
    pub(super) points: Option<&'a PointCloud>,
    pub(super) mesh: Option<&'a Mesh>,
    /// Targets and labels of voxels, in datasets that have tasks.
    pub(super) tasks: Option<(&'a [f64], &'a [u8])>,
}

/// SHA-256 of the parts of an item, each after its length in bytes as u64, all little-endian: id,
/// label, origin, values, positions, channels, degrees and values of the points, vertices, triangles; then
/// targets and labels of voxels where the dataset has tasks.
pub(super) fn checksum(content: &Content<'_>) -> [u8; 32] {
    let (positions, channels) = content.points.map_or((&[][..], &[][..]), |points| {
        (points.positions().as_flattened(), points.channels())
    });
    let (vertices, triangles) = content.mesh.map_or((&[][..], &[][..]), |mesh| {
        (mesh.vertices().as_flattened(), mesh.triangles().as_flattened())
    });
    let mut hasher = Sha256::new();
    let mut add = |bytes: &[u8]| {
        hasher.update((bytes.len() as u64).to_le_bytes());
        hasher.update(bytes);
    };
    add(content.id.as_bytes());
    add(&content.label.to_le_bytes());
    add(&floats(&content.origin));
    add(content.stored);
    add(&floats(positions));
    let carried = content.points.map_or(0..0, |points| 0..points.len());
    let carried = carried.filter_map(|i| content.points.map(|points| row_of(points.value(i))));
    let (degrees, carried): (Vec<u8>, Vec<[f64; 3]>) = carried.unzip();
    add(&channels.iter().flat_map(|channel| channel.to_le_bytes()).collect::<Vec<_>>());
    add(&degrees);
    add(&floats(carried.as_flattened()));
    add(&floats(vertices));
    add(&triangles.iter().flat_map(|index| index.to_le_bytes()).collect::<Vec<_>>());
    if let Some((targets, labels)) = content.tasks {
        add(&floats(targets));
        add(labels);
    }
    hasher.finalize().into()
}

impl Dataset {
    /// SHA-256, in hexadecimal, of what a training depends on: channels and grid, class names, and id,
    /// label, split and checksum of every item. It does not tell changed values where a dataset has no
    /// checksums.
    pub fn digest(&self) -> String {
        let mut hasher = Sha256::new();
        let mut add = |bytes: &[u8]| {
            hasher.update((bytes.len() as u64).to_le_bytes());
            hasher.update(bytes);
        };
        let meta = self.meta();
        for size in [meta.channels].iter().chain(&meta.dims) {
            add(&(*size as u64).to_le_bytes());
        }
        meta.class_names.iter().chain(self.ids()).for_each(|name| add(name.as_bytes()));
        for (label, split) in self.labels().iter().zip(self.splits()) {
            add(&label.to_le_bytes());
            add(split.to_string().as_bytes());
        }
        self.checksums().unwrap_or_default().iter().for_each(|sum| add(sum));
        hex(&hasher.finalize())
    }
}

fn floats(values: &[f64]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}
