//! Fills `fuzz/corpus/TARGET` with seeds: the small files of the tests, unpacked and cut, tiny
//! datasets, and edits of one (see `fuzz/fuzz_targets/dataset.rs`).
//!
//! ```sh
//! cargo run -p steer3d-dataset --example fuzz_seeds                  # the files of the tests
//! cargo run -p steer3d-dataset --example fuzz_seeds -- FOLDER ...    # those of other folders too
//! ```

#![allow(clippy::print_stdout, reason = "the counts are the output")]

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use flate2::read::MultiGzDecoder;
use steer3d_dataset::{DatasetMeta, DatasetWriter, Item, Storage};
use steer3d_formats::Format;
use steer3d_volume::mesh::Mesh;
use steer3d_volume::mesh::voxeliser::{MeshField, MeshVoxeliser};
use steer3d_volume::{PointCloud, Volume, Voxeliser};

/// Bytes of a seed; the rest of a longer file is cut off.
const SEED_BYTES: usize = 8192;

type Error = Box<dyn std::error::Error>;

fn main() -> Result<(), Error> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let corpus = here.join("../../fuzz/corpus");
    let mut folders =
        vec![here.join("../formats/tests/data"), here.join("../formats/tests/meshes")];
    folders.extend(std::env::args_os().skip(1).map(PathBuf::from));
    let mut seeds = 0;
    while let Some(folder) = folders.pop() {
        for child in fs::read_dir(folder)? {
            let path = child?.path();
            if path.is_dir() {
                folders.push(path);
            } else if seed(&path, &corpus)? {
                seeds += 1;
            }
        }
    }
    datasets(&corpus.join("dataset"))?;
    println!("{seeds} files, 3 datasets and 3 edits");
    Ok(())
}

/// Copies a file to the seeds of its format; `false` if it has none.
fn seed(path: &Path, corpus: &Path) -> Result<bool, Error> {
    let mut bytes = fs::read(path)?;
    if bytes.starts_with(&[0x1f, 0x8b]) {
        let packed = std::mem::take(&mut bytes);
        MultiGzDecoder::new(packed.as_slice()).read_to_end(&mut bytes)?;
    }
    let target = match Format::detect(&bytes, path) {
        _ if bytes.starts_with(b"\x89HDF") => "dataset".to_owned(),
        Some(format) => format!("{format:?}").to_lowercase(),
        None => return Ok(false),
    };
    // HDF5 files that are cut do not open.
    if target != "dataset" {
        bytes.truncate(SEED_BYTES);
    }
    let folder = corpus.join(target);
    fs::create_dir_all(&folder)?;
    fs::write(folder.join(path.file_name().ok_or("a path of a file")?), bytes)?;
    Ok(true)
}

/// Datasets of voxels with their points, of bytes, and of meshes alone.
fn datasets(folder: &Path) -> Result<(), Error> {
    fs::create_dir_all(folder)?;
    let voxeliser = Voxeliser::paper(4, 2.0);
    let cloud = PointCloud::new(vec![[0.0; 3], [1.0, -1.0, 0.5]], vec![0, 0])?;
    let mesh = Mesh::new(
        vec![[-1.0, -1.0, -1.0], [1.0, -1.0, -1.0], [0.0, 1.0, -1.0], [0.0, 0.0, 1.0]],
        vec![[0, 2, 1], [0, 1, 3], [1, 2, 3], [2, 0, 3]],
    )?;
    let volume = Volume::centred(vec![1.0; 64], 1, voxeliser.grid()?)?;
    let with_points = DatasetMeta {
        name: "seed".to_owned(),
        class_names: vec!["a".to_owned()],
        unit: "angstrom".to_owned(),
        voxeliser: Some(voxeliser),
        ..DatasetMeta::scalars(1, &voxeliser.grid()?)?
    };
    edits(folder, &with_points)?;
    let of_bytes =
        DatasetMeta { storage: Storage::U8 { scale: 1.0 }, voxeliser: None, ..with_points.clone() };
    let of_meshes = DatasetMeta {
        voxeliser: None,
        mesh_voxeliser: Some(MeshVoxeliser::new(4, 2.0, MeshField::Solid)),
        ..with_points.clone()
    };
    let item = Item { id: "0", group: Some("g"), source: Some("a/0.pdb"), ..Item::default() };
    let voxels = Item { volume: Some(&volume), ..item };
    for (name, meta, item) in [
        ("points.h5", with_points, Item { points: Some(&cloud), ..voxels }),
        ("bytes.h5", of_bytes, voxels),
        ("meshes.h5", of_meshes, Item { mesh: Some(&mesh), ..item }),
    ] {
        let mut writer = DatasetWriter::create(folder.join(name), meta)?;
        writer.push(&item)?;
        writer.push(&Item { id: "1", ..item })?;
        writer.finish()?;
    }
    Ok(())
}

/// Edits that leave the dataset valid: of the description and of rows, and without volumes.
fn edits(folder: &Path, meta: &DatasetMeta) -> Result<(), Error> {
    let edit = |object: u8, contents: &[u8]| {
        let length = u16::try_from(contents.len()).map(u16::to_le_bytes);
        length.map(|length| [&[object], &length[..], contents].concat())
    };
    let u64s = |values: [u64; 3]| values.map(u64::to_le_bytes).concat();
    let description = edit(0, &serde_json::to_vec(meta)?)?;
    let rows = [
        edit(1, &[0; 8])?,
        edit(2, &[0, 1])?,
        edit(5, &u64s([0, 2, 4]))?,
        edit(7, &[0; 8])?,
        edit(9, &[0, 1, 0, 1])?,
        edit(10, &u64s([0, 3, 6]))?,
        edit(13, &[0u32, 1, 2, 0, 1, 2].map(u32::to_le_bytes).concat())?,
    ];
    fs::write(folder.join("made.edit"), [edit(15, &[])?, description.clone()].concat())?;
    fs::write(folder.join("description.edit"), description)?;
    fs::write(folder.join("rows.edit"), rows.concat())?;
    Ok(())
}
