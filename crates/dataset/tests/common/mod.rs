//! Small files for the tests.
#![allow(dead_code, reason = "each test program uses its own part")]

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use steer3d_dataset::{
    DatasetError, DatasetMeta, DatasetWriter, Grids, Item, Provenance, Split, Storage,
};
use steer3d_so3::Stream;
use steer3d_volume::{Grid, PointCloud, Volume, Voxeliser};
use zip::write::SimpleFileOptions;

/// A path of a file of this repository.
pub(crate) fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)
}

/// Writes an npz archive of (name, dtype, shape, values as bytes).
pub(crate) fn write_npz(path: &Path, arrays: &[(&str, &str, &str, Vec<u8>)]) {
    let mut zip = zip::ZipWriter::new(File::create(path).unwrap());
    for (name, dtype, shape, bytes) in arrays {
        let options = SimpleFileOptions::default();
        zip.start_file(format!("{name}.npy"), options).unwrap();
        zip.write_all(&npy(dtype, shape, bytes)).unwrap();
    }
    zip.finish().unwrap();
}

/// An npy stream.
pub(crate) fn npy(dtype: &str, shape: &str, bytes: &[u8]) -> Vec<u8> {
    let header = format!("{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}\n");
    let length = (header.len() as u16).to_le_bytes();
    [b"\x93NUMPY\x01\x00", length.as_slice(), header.as_bytes(), bytes].concat()
}

pub(crate) fn f64s(values: impl IntoIterator<Item = f64>) -> Vec<u8> {
    values.into_iter().flat_map(f64::to_le_bytes).collect()
}

pub(crate) fn f32s(values: impl IntoIterator<Item = f32>) -> Vec<u8> {
    values.into_iter().flat_map(f32::to_le_bytes).collect()
}

pub(crate) fn i64s(values: impl IntoIterator<Item = i64>) -> Vec<u8> {
    values.into_iter().flat_map(i64::to_le_bytes).collect()
}

/// Six items of two classes and two channels of 3 × 4 × 5 voxels.
pub(crate) fn meta(storage: Storage) -> DatasetMeta {
    DatasetMeta {
        name: "small".to_owned(),
        class_names: vec!["round".to_owned(), "länglich".to_owned()],
        channels: 2,
        grids: Grids::One,
        dims: [3, 4, 5],
        voxel_size: [1.0, 1.5, 0.1],
        unit: "mm".to_owned(),
        irreps: "2x0".parse().unwrap(),
        storage,
        provenance: Provenance { source: "tests".to_owned(), ..Provenance::default() },
        voxeliser: None,
        mesh_voxeliser: None,
        recipe: None,
    }
}

pub(crate) const ITEMS: usize = 6;

pub(crate) fn volume(item: usize) -> Volume {
    let mut stream = Stream::new(1, "item", &[item as u64]);
    let data = (0..120).map(|_| stream.below(256) as f32).collect();
    let grid = Grid::new([3, 4, 5], [1.0, 1.5, 0.1]).unwrap();
    Volume::new(data, 2, grid, [item as f64, 0.5, -0.25]).unwrap()
}

pub(crate) fn cloud(item: usize) -> PointCloud {
    let positions = (0..item).map(|k| [k as f64, 0.1, -2.0 / 3.0]).collect();
    PointCloud::new(positions, (0..item).map(|k| (k % 2) as u16).collect()).unwrap()
}

pub(crate) fn split(item: usize) -> Split {
    Split::ALL[item % 3]
}

/// Writes the small dataset, with points if asked for.
pub(crate) fn write_small(path: &Path, storage: Storage, points: bool) -> Result<(), DatasetError> {
    let mut writer = DatasetWriter::create(path, meta(storage))?;
    for item in 0..ITEMS {
        let (volume, cloud, id) = (volume(item), cloud(item), format!("item-{item}"));
        writer.push(&Item {
            volume: Some(&volume),
            label: (item % 2) as u32,
            split: split(item),
            id: &id,
            points: points.then_some(&cloud),
            ..Item::default()
        })?;
    }
    writer.finish()
}

pub(crate) fn voxeliser() -> Voxeliser {
    Voxeliser::paper(24, 2.0)
}
