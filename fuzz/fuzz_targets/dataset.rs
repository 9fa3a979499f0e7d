//! Bytes that begin as an HDF5 file are one. All others are edits of a small dataset, since chance
//! does not find the checksums of HDF5. The highest bit of the first byte chooses a dataset whose items have
//! grids of their own. With the next bit, each seven bytes change the file, whose checksums are put right: where (four bytes,
//! little-endian), how (one byte), a value (two bytes). Without it libhdf5 makes the edits: which object (one byte), the
//! length of its new contents (two bytes, little-endian), the contents, and so on.

#![no_main]

#[path = "../../crates/dataset/examples/mutate/repair.rs"]
mod repair;

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use hdf5::H5Type;
use libfuzzer_sys::fuzz_target;
use steer3d_dataset::import_hdf5;
use steer3d_dataset::{
    Dataset, DatasetMeta, DatasetWriter, Grids, Item, Provenance, Storage, Tasks,
};
use steer3d_volume::mesh::voxeliser::{MeshField, MeshVoxeliser};
use steer3d_volume::{Mesh, PointCloud, PointValue, Volume, Voxeliser};

/// Items whose volumes are read: larger ones are slow and come from the same code.
const MAX_ITEM_LEN: usize = 1 << 14;

fuzz_target!(|bytes: &[u8]| {
    let path = std::env::temp_dir().join(format!("steer3d-fuzz-{}.h5", std::process::id()));
    if bytes.starts_with(b"\x89HDF\r\n\x1a\n") {
        std::fs::write(&path, bytes).expect("a writable folder for temporary files");
    } else {
        static SMALL: [OnceLock<Vec<u8>>; 2] = [OnceLock::new(), OnceLock::new()];
        let own_grids = bytes.first().is_some_and(|byte| byte & 0x80 > 0);
        let small = SMALL[usize::from(own_grids)].get_or_init(|| small(&path, own_grids));
        let write = |bytes: &[u8]| {
            std::fs::write(&path, bytes).expect("a writable folder for temporary files");
        };
        match bytes.split_first() {
            Some((first, edits)) if first & 0x40 > 0 => write(&edited(small, edits)),
            _ => {
                write(small);
                if edit(&path, bytes, own_grids).is_err() {
                    return;
                }
            }
        }
    }
    match Dataset::open(&path) {
        Ok(dataset) if dataset.meta().item_len() <= MAX_ITEM_LEN && dataset.len() <= 64 => {
            for item in 0..dataset.len() {
                let _ = (dataset.points(item), dataset.mesh(item));
                let _ = (dataset.voxel_labels(item), dataset.read_block(item, [-1, 1, 0], [3; 3]));
            }
            let _ = dataset.verify(&|_| {});
        }
        Ok(_) => {}
        Err(_) => {
            let _ = import_hdf5(&path, "volumes");
        }
    }
});

/// The file with other bytes at some places.
fn edited(small: &[u8], edits: &[u8]) -> Vec<u8> {
    let mut file = small.to_vec();
    for [a, b, c, d, how, low, high] in edits.as_chunks().0 {
        let at = u32::from_le_bytes([*a, *b, *c, *d]) as usize % file.len();
        let value = u16::from_le_bytes([*low, *high]);
        match how % 16 {
            0..7 => file[at] = *low,
            7..11 => file[at] ^= low,
            // An address or a size of another place.
            11..15 if at + 8 <= file.len() => {
                let from = usize::from(value) % (file.len() - 7);
                file.copy_within(from..from + 8, at);
            }
            15 => file.truncate(at.max(1)),
            _ => {}
        }
    }
    repair::checksums(&mut file);
    file
}

fn edit(path: &Path, mut bytes: &[u8], own_grids: bool) -> hdf5::Result<()> {
    let file = hdf5::File::open_rw(path)?;
    while let Some(([object, low, high], rest)) = bytes.split_first_chunk::<3>() {
        let (new, after) = rest.split_at(rest.len().min(u16::from_le_bytes([*low, *high]).into()));
        match object % 16 {
            5 if own_grids => put(&file, "grids/dims", new, u32::from_le_bytes)?,
            6 if own_grids => put(&file, "grids/voxel_sizes", new, f64::from_le_bytes)?,
            7 if own_grids => put(&file, "grids/directions", new, f64::from_le_bytes)?,
            8 if own_grids => put(&file, "grids/offsets", new, u64::from_le_bytes)?,
            9 if own_grids => put(&file, "grids/values", new, f32::from_le_bytes)?,
            10 if own_grids => put(&file, "grids/labels", new, |[byte]: [u8; 1]| byte)?,
            0 => put(&file, "meta", new, |[byte]: [u8; 1]| byte)?,
            1 => put(&file, "labels", new, u32::from_le_bytes)?,
            2 => put(&file, "splits", new, |[byte]: [u8; 1]| byte)?,
            3 => put(&file, "origins", new, f64::from_le_bytes)?,
            4 => put(&file, "checksums", new, |[byte]: [u8; 1]| byte)?,
            5 => put(&file, "points/offsets", new, u64::from_le_bytes)?,
            6 => put(&file, "points/positions", new, f64::from_le_bytes)?,
            7 => put(&file, "points/channels", new, u16::from_le_bytes)?,
            8 => put(&file, "points/values", new, f64::from_le_bytes)?,
            9 => put(&file, "points/degrees", new, |[byte]: [u8; 1]| byte)?,
            10 => put(&file, "meshes/vertex_offsets", new, u64::from_le_bytes)?,
            11 => put(&file, "meshes/triangle_offsets", new, u64::from_le_bytes)?,
            12 => put(&file, "meshes/vertices", new, f64::from_le_bytes)?,
            13 => put(&file, "meshes/triangles", new, u32::from_le_bytes)?,
            14 => put(&file, "skipped", new, |[byte]: [u8; 1]| byte)?,
            _ => file.unlink("volumes")?,
        }
        bytes = after;
    }
    file.close()
}

/// Gives a dataset of the file as many rows as the bytes fill.
fn put<T: H5Type, const N: usize>(
    file: &hdf5::File,
    name: &str,
    bytes: &[u8],
    value: impl Fn([u8; N]) -> T,
) -> hdf5::Result<()> {
    let dataset = file.dataset(name)?;
    let mut shape = dataset.shape();
    let row: usize = shape[1..].iter().product();
    shape[0] = bytes.len() / N / row;
    dataset.resize(shape.clone())?;
    let values: Vec<T> =
        bytes.as_chunks().0[..shape[0] * row].iter().map(|&bytes| value(bytes)).collect();
    dataset.write_raw(&values)
}

/// A dataset of two items with everything that an item can have.
fn small(path: &PathBuf, own_grids: bool) -> Vec<u8> {
    let voxeliser = Voxeliser::paper(4, 2.0);
    let meta = DatasetMeta {
        name: "small".to_owned(),
        class_names: vec!["a".to_owned()],
        channels: 1,
        grids: if own_grids { Grids::Each } else { Grids::One },
        dims: [4; 3],
        voxel_size: [2.0; 3],
        unit: "angstrom".to_owned(),
        irreps: "1x0".parse().expect("irreps"),
        storage: Storage::F32,
        provenance: Provenance::default(),
        voxeliser: Some(voxeliser).filter(|_| !own_grids),
        mesh_voxeliser: Some(MeshVoxeliser::new(4, 2.0, MeshField::Solid)).filter(|_| !own_grids),
        recipe: None,
    };
    let cloud = PointCloud::new(vec![[0.0; 3], [1.0, -1.0, 0.5]], vec![0, 0])
        .and_then(|cloud| cloud.with_values(vec![PointValue::Scalar(2.0); 2]))
        .expect("a valid cloud");
    let mesh = Mesh::new(vec![[0.0; 3], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]], vec![[0, 1, 2]])
        .expect("a valid mesh");
    let grid = voxeliser.grid().expect("a valid grid");
    let volume = Volume::centred(vec![1.0; 64], 1, grid).expect("a valid volume");
    let tasks = Tasks { voxel_classes: vec!["b".to_owned()], ..Tasks::default() };
    let mut writer = DatasetWriter::create(path, meta).expect("a writable folder");
    if own_grids {
        writer = writer.with_tasks(tasks).expect("valid tasks");
    }
    for id in ["0", "1"] {
        let item = Item {
            volume: Some(&volume),
            id,
            points: Some(&cloud),
            mesh: Some(&mesh),
            voxel_labels: if own_grids { &[0; 64] } else { &[] },
            ..Item::default()
        };
        writer.push(&item).expect("a valid item");
    }
    let skipped = steer3d_dataset::Skipped { source: "b".to_owned(), problem: "broken".to_owned() };
    writer.finish_with(&[skipped]).expect("a writable folder");
    std::fs::read(path).expect("the file just written")
}
