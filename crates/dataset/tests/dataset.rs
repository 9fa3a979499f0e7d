//! Writing and reading datasets, and files that break the schema.

mod common;

use std::fs;
use std::path::Path;
use std::str::FromStr;

use common::{ITEMS, cloud, meta, split, volume, write_small};
use hdf5::file::LibraryVersion;
use hdf5::types::{FixedAscii, FixedUnicode};
use hdf5::{Extent, SimpleExtents};
use steer3d_dataset::{
    Batch, Dataset, DatasetError, DatasetMeta, DatasetWriter, Item, RandomRotation, Split, Storage,
    Tasks, Turns, import_hdf5,
};
use steer3d_so3::Stream;
use steer3d_volume::{Grid, PointCloud, PointValue, Volume, VolumeError};

const STORAGES: [Storage; 2] = [Storage::F32, Storage::U8 { scale: 1.0 }];

#[cfg(all(unix, feature = "static-hdf5"))]
#[test]
fn a_lock_on_a_finished_file_does_not_keep_others_from_reading() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("set.h5");
    write_small(&path, Storage::F32, false).unwrap();
    let file = fs::File::options().read(true).write(true).open(&path).unwrap();
    file.lock().unwrap();
    assert_eq!(Dataset::open(&path).unwrap().len(), ITEMS);
}

#[test]
fn what_is_written_is_read() {
    let folder = tempfile::tempdir().unwrap();
    for storage in STORAGES {
        for points in [false, true] {
            let path = folder.path().join("set.h5");
            write_small(&path, storage, points).unwrap();
            let dataset = Dataset::open(&path).unwrap();
            assert_eq!(dataset.len(), ITEMS);
            assert_eq!(*dataset.meta(), meta(storage));
            assert_eq!(dataset.labels(), [0, 1, 0, 1, 0, 1]);
            assert_eq!(dataset.ids()[5], "item-5");
            assert_eq!(dataset.indices(Split::Validation), [1, 4]);
            assert_eq!(dataset.class_counts(Split::Validation), [1, 1]);
            assert_eq!(dataset.has_points(), points);
            for item in 0..ITEMS {
                assert_eq!(dataset.read(item).unwrap(), volume(item));
                assert_eq!(dataset.splits()[item], split(item));
                let expected = points.then(|| cloud(item));
                assert_eq!(dataset.points(item).unwrap(), expected);
            }
            let mut batch = vec![0.0; 240];
            dataset.read_many(&[4, 1], &mut batch).unwrap();
            assert_eq!(batch, [volume(4).data(), volume(1).data()].concat());
        }
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "no temporary file is left");
}

#[test]
fn values_of_points_are_written_and_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("set.h5");
    let description =
        DatasetMeta { channels: 4, irreps: "1x0+1x1".parse().unwrap(), ..meta(Storage::F32) };
    let [d, h, w] = description.dims;
    let grid = Grid::new(description.dims, description.voxel_size).unwrap();
    let volume = Volume::new(vec![0.0; 4 * d * h * w], 4, grid, [0.0; 3]).unwrap();
    let positions = vec![[0.0, 0.5, 1.0], [2.0, 0.0, 0.0]];
    let plain = PointCloud::new(positions, vec![0, 1]).unwrap();
    let values = vec![PointValue::Scalar(-0.5), PointValue::Vector([1.0, 2.0, 3.0])];
    let clouds = [plain.clone().with_values(values.clone()).unwrap(), plain.clone()];
    let push = |writer: &mut DatasetWriter, cloud: &PointCloud| {
        let (volume, points) = (Some(&volume), Some(cloud));
        let id = "item";
        writer.push(&Item { volume, split: Split::Train, id, points, ..Item::default() })
    };
    let mut writer = DatasetWriter::create(&path, description).unwrap();
    clouds.iter().for_each(|cloud| push(&mut writer, cloud).unwrap());
    let beyond = PointCloud::new(vec![[0.0; 3]; 2], vec![0, 2]).unwrap().with_values(values);
    assert!(push(&mut writer, &beyond.unwrap()).is_err());
    writer.finish().unwrap();
    let dataset = Dataset::open(&path).unwrap();
    for (item, cloud) in clouds.iter().enumerate() {
        assert_eq!(dataset.points(item).unwrap().as_ref(), Some(cloud));
    }
    drop(dataset);
    let file = hdf5::File::open_rw(&path).unwrap();
    file.dataset("points/degrees").unwrap().write_raw(&[2_u8; 4]).unwrap();
    drop(file);
    let error = Dataset::open(&path).unwrap().points(0).unwrap_err().to_string();
    assert!(error.contains("points/degrees") && error.contains("0 or 1"), "{error}");
}

/// Vectors and labels of voxels of the small items.
fn tasks() -> Tasks {
    let voxel_classes = ["nothing", "low", "high"].map(str::to_owned).to_vec();
    Tasks { targets: Some("1x1+1x0".parse().unwrap()), voxel_classes, ..Tasks::default() }
}

fn targets(item: usize) -> [f64; 4] {
    [1.0, 2.0, -0.5, 3.0].map(|x| x * (item + 1) as f64)
}

fn voxel_labels(item: usize) -> Vec<u8> {
    volume(item).data().iter().map(|v| (v.abs() * 7.0) as u8 % 3).collect::<Vec<_>>()
}

#[test]
fn targets_and_labels_of_voxels_are_written_read_and_turned() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("set.h5");
    let description = meta(Storage::F32);
    let voxels: usize = description.dims.iter().product();
    let mut writer =
        DatasetWriter::create(&path, description).unwrap().with_tasks(tasks()).unwrap();
    let mut push = |item: usize, targets: &[f64], labels: &[u8]| {
        let (volume, id) = (volume(item), format!("item-{item}"));
        writer.push(&Item {
            volume: Some(&volume),
            id: &id,
            targets,
            voxel_labels: labels,
            ..Item::default()
        })
    };
    for item in 0..3 {
        push(item, &targets(item), &voxel_labels(item)[..voxels]).unwrap();
    }
    let labels = &voxel_labels(3)[..voxels];
    for (targets, labels, expected) in [
        (&targets(3)[..3], labels, "expected 4 values, found 3"),
        (&[f64::NAN; 4][..], labels, "expected finite numbers"),
        (&targets(3)[..], &labels[1..], "labels, found"),
        (&targets(3)[..], &vec![3; voxels][..], "expected labels below 3, found 3"),
    ] {
        let error = push(3, targets, labels).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
    writer.finish().unwrap();
    let dataset = Dataset::open(&path).unwrap();
    assert_eq!(dataset.tasks(), Some(&tasks()));
    assert!(dataset.verify(&|_| ()).is_empty());
    for item in 0..3 {
        assert_eq!(dataset.targets(item), targets(item));
        assert_eq!(dataset.voxel_labels(item).unwrap(), voxel_labels(item)[..voxels]);
    }
    let batch = Batch::read(&dataset, &[2, 0], None).unwrap();
    assert_eq!(batch.targets[..3], [3.0, 6.0, -1.5]);
    let labels: Vec<_> = voxel_labels(0)[..voxels].iter().copied().map(Some).collect();
    assert_eq!(batch.voxel_labels[voxels..], labels);
    let turns = RandomRotation { seed: 1, epoch: 0, turns: Turns::So3 { fraction: 1.0 } };
    let turned = Batch::read(&dataset, &[2], Some(&turns)).unwrap();
    let norm = |v: &[f32]| v.iter().map(|x| x * x).sum::<f32>().sqrt();
    assert!((norm(&turned.targets[..3]) - norm(&batch.targets[..3])).abs() < 1e-5);
    assert!((turned.targets[0] - batch.targets[0]).abs() > 1e-3);
    assert_eq!(turned.targets[3], batch.targets[3]);
    assert_eq!(turned.voxel_labels.len(), voxels);
    drop(dataset);
    let file = hdf5::File::open_rw(&path).unwrap();
    file.dataset("targets").unwrap().write_raw(&[0.0; 12]).unwrap();
    drop(file);
    assert_eq!(Dataset::open(&path).unwrap().verify(&|_| ()).len(), 3);
}

#[test]
fn the_summary_counts_and_measures() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("set.h5");
    write_small(&path, Storage::F32, true).unwrap();
    let summary = Dataset::open(&path).unwrap().summary().unwrap();
    let values: Vec<f32> = (0..ITEMS).flat_map(|item| volume(item).into_data()).collect();
    let sum: f64 = values.iter().map(|&v| f64::from(v)).sum();
    assert_eq!(summary.splits.iter().map(|s| s.items).collect::<Vec<_>>(), [2, 2, 2]);
    assert_eq!(summary.max, values.iter().copied().fold(0.0, f32::max));
    assert!((summary.mean - sum / 720.0).abs() < 1e-9);
    assert_eq!(summary.value_bytes, 2880);
    let json = serde_json::to_value(&summary).unwrap();
    assert_eq!(json["splits"][2]["split"], "test");
    assert_eq!(json["meta"]["irreps"], "2x0");
}

#[cfg(unix)]
#[test]
fn a_dataset_has_the_permissions_of_a_new_file() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let (path, plain) = (folder.path().join("set.h5"), folder.path().join("plain"));
    write_small(&path, Storage::F32, false).unwrap();
    fs::write(&plain, "").unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode();
    assert_eq!(mode(&path), mode(&plain));
}

#[test]
fn an_interrupted_write_leaves_the_old_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("set.h5");
    write_small(&path, Storage::F32, false).unwrap();
    let before = fs::read(&path).unwrap();
    let mut writer = DatasetWriter::create(&path, meta(Storage::F32)).unwrap();
    let volume = volume(0);
    let item = Item { volume: Some(&volume), id: "a", ..Item::default() };
    writer.push(&item).unwrap();
    assert_eq!(fs::read(&path).unwrap(), before, "while writing");
    drop(writer);
    assert_eq!(fs::read(&path).unwrap(), before, "after giving up");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    let empty = DatasetWriter::create(&path, meta(Storage::F32)).unwrap().finish();
    assert!(matches!(empty, Err(DatasetError::Item { field: "items", .. })));
    assert_eq!(fs::read(&path).unwrap(), before, "after a failure");
}

#[test]
fn items_that_do_not_fit_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("set.h5");
    let (good, points) = (volume(0), cloud(2));
    let item = Item { volume: Some(&good), id: "a", ..Item::default() };
    let small = Grid::new([3, 4, 4], [1.0, 1.5, 0.1]).unwrap();
    let other_dims = Volume::centred(vec![0.0; 96], 2, small).unwrap();
    let cube = Grid::new([3, 4, 5], [1.0; 3]).unwrap();
    let other_size = Volume::centred(vec![0.0; 120], 2, cube).unwrap();
    let long = "x".repeat(65);
    let mut writer = DatasetWriter::create(&path, meta(Storage::F32)).unwrap();
    writer.push(&item).unwrap();
    for bad in [
        Item { volume: Some(&other_dims), ..item },
        Item { volume: Some(&other_size), ..item },
        Item { label: 2, ..item },
        Item { id: "", ..item },
        Item { id: "two\nlines", ..item },
        Item { id: &long, ..item },
        Item { points: Some(&points), ..item },
    ] {
        assert!(matches!(writer.push(&bad), Err(DatasetError::Item { item: 1, .. })), "{bad:?}");
    }
    writer.push(&item).unwrap();
    writer.finish().unwrap();
    assert_eq!(Dataset::open(&path).unwrap().len(), 2);

    let mut bytes = DatasetWriter::create(&path, meta(Storage::U8 { scale: 1.0 })).unwrap();
    for value in [0.5, 256.0, -1.0] {
        let volume = Volume::new(vec![value; 120], 2, good.grid(), [0.0; 3]).unwrap();
        assert!(bytes.push(&Item { volume: Some(&volume), ..item }).is_err(), "{value}");
    }
}

#[test]
fn inconsistent_descriptions_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("set.h5");
    let good = meta(Storage::F32);
    let voxeliser = Some(common::voxeliser());
    for bad in [
        steer3d_dataset::DatasetMeta { irreps: "1x1".parse().unwrap(), ..good.clone() },
        steer3d_dataset::DatasetMeta { dims: [3, 0, 5], ..good.clone() },
        steer3d_dataset::DatasetMeta { dims: [1 << 20; 3], ..good.clone() },
        steer3d_dataset::DatasetMeta { storage: Storage::U8 { scale: 0.0 }, ..good.clone() },
        steer3d_dataset::DatasetMeta { voxeliser, ..good.clone() },
    ] {
        assert!(DatasetWriter::create(&path, bad.clone()).is_err(), "{bad:?}");
    }
    assert!(!path.exists());
    let nowhere = folder.path().join("missing").join("set.h5");
    assert!(matches!(DatasetWriter::create(nowhere, good), Err(DatasetError::Io { .. })));
}

#[test]
fn wrong_indices_and_buffers_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("set.h5");
    write_small(&path, Storage::F32, true).unwrap();
    let dataset = Dataset::open(&path).unwrap();
    assert!(matches!(dataset.read(ITEMS), Err(DatasetError::Argument { .. })));
    assert!(matches!(dataset.points(ITEMS), Err(DatasetError::Argument { .. })));
    assert!(dataset.read_many(&[0], &mut [0.0; 119]).is_err());
    assert!(dataset.read_many(&[ITEMS], &mut [0.0; 120]).is_err());
}

#[test]
fn files_that_are_not_datasets_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("set.h5");
    assert!(matches!(Dataset::open(&path), Err(DatasetError::Io { .. })), "missing");
    assert!(Dataset::open(folder.path()).is_err(), "a folder");
    for (contents, found) in [
        (b"".as_slice(), "an empty file"),
        (b"PK\x03\x04 rest", "a zip or npz archive"),
        (b"text", "another format"),
    ] {
        fs::write(&path, contents).unwrap();
        match Dataset::open(&path) {
            Err(DatasetError::NotHdf5 { found: reported, .. }) => assert_eq!(reported, found),
            other => panic!("{other:?}"),
        }
    }
    hdf5::File::create(&path).unwrap().create_group("volumes").unwrap();
    let message = Dataset::open(&path).unwrap_err().to_string();
    assert!(message.contains("attribute format"), "{message}");
}

/// Opens a copy of the small dataset after `change`, reads everything, and returns the message.
fn message_after(change: impl FnOnce(&hdf5::File) -> hdf5::Result<()>) -> String {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("set.h5");
    write_small(&path, Storage::F32, true).unwrap();
    {
        let file = editable(&path);
        change(&file).unwrap();
        file.close().unwrap();
    }
    let message = read_all(&path).expect_err("the file is wrong").to_string();
    assert!(message.contains("set.h5"), "{message}");
    message
}

/// The file, with the headers and indices of HDF5 1.10 for what is new.
fn editable(path: &Path) -> hdf5::File {
    let mut builder = hdf5::FileBuilder::new();
    builder.with_fapl(|plist| plist.libver_bounds(LibraryVersion::V110, LibraryVersion::V110));
    builder.open_rw(path).unwrap()
}

fn read_all(path: &Path) -> Result<(), DatasetError> {
    let dataset = Dataset::open(path)?;
    for item in 0..dataset.len() {
        dataset.read(item)?;
        dataset.points(item)?;
    }
    Ok(())
}

/// Replaces a dataset by one of other values.
fn replace<T: hdf5::H5Type>(file: &hdf5::File, name: &str, values: &[T]) -> hdf5::Result<()> {
    file.unlink(name)?;
    let chunk = values.len().max(1);
    let dataset = file.new_dataset::<T>().chunk([chunk]).shape(0..).create(name)?;
    dataset.resize(values.len())?;
    dataset.write_raw(values)
}

/// Replaces a dataset by one that declares a shape and holds nothing.
fn declare<T: hdf5::H5Type>(
    file: &hdf5::File,
    name: &str,
    shape: &[usize],
    chunk: &[usize],
) -> hdf5::Result<()> {
    file.unlink(name)?;
    let rest = shape[1..].iter().map(|&n| Extent::fixed(n));
    let shape: Vec<_> = std::iter::once(Extent::resizable(shape[0])).chain(rest).collect();
    let shape = SimpleExtents::from_vec(shape);
    file.new_dataset::<T>().chunk(chunk).shape(shape).create(name).map(|_| ())
}

fn edit_meta(file: &hdf5::File, from: &str, to: &str) -> hdf5::Result<()> {
    let json = String::from_utf8(file.dataset("meta")?.read_raw()?).unwrap();
    assert!(json.contains(from), "{json}");
    replace(file, "meta", json.replace(from, to).as_bytes())
}

#[test]
fn the_digest_tells_everything_that_a_result_depends_on() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("set.h5");
    let digest_after = |change: &dyn Fn(&hdf5::File) -> hdf5::Result<()>| {
        write_small(&path, Storage::F32, true).unwrap();
        let file = editable(&path);
        change(&file).unwrap();
        file.close().unwrap();
        Dataset::open(&path).unwrap().digest().unwrap()
    };
    let one_value = |file: &hdf5::File| {
        let volumes = file.dataset("volumes")?;
        let mut item = volumes.read_slice::<f32, _, ndarray::Ix4>((4, .., .., .., ..))?;
        item[[1, 2, 3, 4]] += 1.0;
        volumes.write_slice(&item, (4, .., .., .., ..))
    };
    let before = digest_after(&|_| Ok(()));
    // Without checksums they are computed, and find a changed value.
    assert_eq!(digest_after(&|file| file.unlink("checksums")), before);
    let changed = digest_after(&|file| file.unlink("checksums").and_then(|()| one_value(file)));
    assert_ne!(changed, before);
    assert_eq!(digest_after(&|file| edit_meta(file, "\"tests\"", "\"elsewhere\"")), before);
    let edits = [
        ("\"round\"", "\"long\""),
        ("\"mm\"", "\"nm\""),
        ("1.5", "1.6"),
        ("\"2x0\"", "\"1x0+1x0\""),
        ("\"small\"", "\"other\""),
    ];
    for (from, to) in edits {
        assert_ne!(digest_after(&|file| edit_meta(file, from, to)), before, "{to}");
    }
    let labels: Vec<u32> = (0..6).map(|i| 1 - i % 2).collect();
    assert_ne!(digest_after(&|file| replace(file, "labels", &labels)), before);
}

#[test]
fn other_versions_and_formats_are_refused() {
    let message = message_after(|file| file.attr("schema_version")?.write_scalar(&3u32));
    assert!(message.contains("version 1 to 2") && message.contains("version 3"), "{message}");
    let message = message_after(|file| file.attr("schema_version")?.write_scalar(&2u32));
    assert!(message.contains("version 1 for its grids"), "{message}");
    message_after(|file| file.delete_attr("schema_version"));
    message_after(|file| {
        file.delete_attr("schema_version")?;
        file.new_attr::<f32>().create("schema_version")?.write_scalar(&1.0)
    });
    message_after(|file| {
        file.delete_attr("schema_version")?;
        file.new_attr::<u32>().shape(1 << 12).create("schema_version").map(|_| ())
    });
    message_after(|file| {
        file.delete_attr("format")?;
        let other = FixedAscii::<5>::from_ascii("other").unwrap();
        file.new_attr::<FixedAscii<5>>().create("format")?.write_scalar(&other)
    });
}

#[test]
fn missing_and_mistyped_datasets_are_refused() {
    for name in ["meta", "volumes", "labels", "splits", "ids", "origins", "points/offsets"] {
        let message = message_after(|file| file.unlink(name));
        assert!(message.contains(name), "{name}: {message}");
        let message = message_after(|file| replace(file, name, &[0i16; ITEMS]));
        assert!(message.contains(name), "{name}: {message}");
        let message = message_after(|file| {
            file.unlink(name)?;
            file.create_group(name).map(|_| ())
        });
        assert!(message.contains(name), "{name}: {message}");
    }
}

#[test]
fn counts_that_differ_are_refused() {
    message_after(|file| replace(file, "labels", &[0u32; ITEMS - 1]));
    message_after(|file| replace(file, "splits", &[0u8; ITEMS + 1]));
    message_after(|file| replace(file, "ids", &[FixedUnicode::<64>::new(); ITEMS + 1]));
    message_after(|file| declare::<f64>(file, "origins", &[ITEMS - 1, 3], &[2, 3]));
    message_after(|file| replace(file, "points/channels", &[0u16; 3]));
    message_after(|file| replace(file, "points/offsets", &[0u64; ITEMS]));
    message_after(|file| replace(file, "points/offsets", &[0u64, 9, 3, 3, 3, 3, 15]));
    message_after(|file| replace(file, "points/offsets", &[0u64, 1, 1, 1, 1, 1, u64::MAX]));
    message_after(|file| file.dataset("volumes")?.resize([0, 2, 3, 4, 5]));
    message_after(|file| file.dataset("volumes")?.resize([ITEMS + 1, 2, 3, 4, 5]));
    let message = message_after(|file| {
        declare::<f32>(file, "volumes", &[ITEMS, 2, 3, 4, 5], &[1, 2, 3, 4, 5])
    });
    assert!(message.contains("found 0 bytes"), "{message}");
}

#[test]
fn shapes_that_the_file_is_too_small_for_are_refused() {
    let items = 1 << 22;
    let message = message_after(|file| {
        declare::<u32>(file, "labels", &[items], &[1024])?;
        file.dataset("labels")?.write_slice(&[0u32; 1024], 0..1024)
    });
    assert!(message.contains("16777216 bytes") && message.contains("4096 bytes"), "{message}");
    let message =
        message_after(|file| declare::<FixedUnicode<64>>(file, "ids", &[ITEMS], &[ITEMS]));
    assert!(message.contains("ids") && message.contains("found 0 bytes"), "{message}");
}

#[test]
fn values_out_of_range_are_refused() {
    let message = message_after(|file| replace(file, "labels", &[0u32, 1, 2, 0, 0, 0]));
    assert!(message.contains("label 2 of item 2"), "{message}");
    message_after(|file| replace(file, "splits", &[0u8, 1, 2, 3, 0, 0]));
    message_after(|file| file.dataset("origins")?.write_raw(&[f64::NAN; 3 * ITEMS]));
    message_after(|file| file.dataset("points/positions")?.write_raw(&[f64::INFINITY; 45]));
    message_after(|file| file.dataset("points/channels")?.write_raw(&[2u16; 15]));
    let message = message_after(|file| {
        let nan = ndarray::Array4::from_elem((2, 3, 4, 5), f32::NAN);
        file.dataset("volumes")?.write_slice(&nan, (4, .., .., .., ..))
    });
    assert!(message.contains("item 4") && message.contains("NaN"), "{message}");
}

#[test]
fn wrong_descriptions_in_a_file_are_refused() {
    message_after(|file| replace(file, "meta", b"{"));
    message_after(|file| replace(file, "meta", b"[1, 2]"));
    message_after(|file| replace(file, "meta", b"\xff\xfe"));
    message_after(|file| replace::<u8>(file, "meta", &[]));
    message_after(|file| replace(file, "meta", &vec![b' '; (1 << 20) + 1]));
    for (from, to) in [
        ("\"2x0\"", "\"1x1\""),
        ("\"2x0\"", "\"many\""),
        ("\"channels\": 2", "\"channels\": 3"),
        ("\"channels\": 2", "\"channels\": -2"),
        ("\"dtype\": \"f32\"", "\"dtype\": \"u8\", \"scale\": 1"),
        ("\"dtype\": \"f32\"", "\"dtype\": \"f16\""),
        ("\"unit\": \"mm\"", "\"unit\": \"mm\", \"colour\": 1"),
        ("\"round\"", "1"),
        ("1.5", "-1.5"),
        ("1.5", "1e999"),
    ] {
        let message = message_after(|file| edit_meta(file, from, to));
        assert!(!message.contains('\n'), "one line: {message}");
    }
    let dims = "    3,\n    4,\n    5\n";
    message_after(|file| edit_meta(file, dims, "3, 4, 6"));
    message_after(|file| edit_meta(file, dims, "0, 4, 5"));
    message_after(|file| edit_meta(file, dims, "4000000000, 4000000000, 4000000000"));
}

#[test]
fn huge_declared_shapes_are_refused_before_anything_is_read() {
    let huge = 1 << 40;
    message_after(|file| declare::<u8>(file, "meta", &[huge], &[64]));
    message_after(|file| declare::<u32>(file, "labels", &[huge], &[64]));
    message_after(|file| declare::<f32>(file, "volumes", &[huge, 2, 3, 4, 5], &[1, 2, 3, 4, 5]));
    message_after(|file| declare::<f32>(file, "volumes", &[6, 2, huge, 4, 5], &[1, 2, 3, 4, 5]));
    message_after(|file| declare::<f64>(file, "points/positions", &[huge, 3], &[64, 3]));
    message_after(|file| declare::<u32>(file, "labels", &[ITEMS + (1 << 29)], &[(1 << 29) + 1]));
    message_after(|file| declare::<u32>(file, "labels", &[1 << 23], &[64]));
}

#[test]
fn contiguous_and_strangely_filtered_datasets_are_refused() {
    message_after(|file| {
        file.unlink("labels")?;
        file.new_dataset_builder().with_data(&[0u32; ITEMS]).create("labels").map(|_| ())
    });
    let message = message_after(|file| {
        file.unlink("splits")?;
        let dataset = file.new_dataset::<u8>().chunk([ITEMS]).nbit().shape([ITEMS]);
        dataset.create("splits").map(|_| ())
    });
    assert!(message.contains("nbit"), "{message}");
}

#[test]
fn truncated_files_end_in_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("set.h5");
    write_small(&path, Storage::F32, true).unwrap();
    let bytes = fs::read(&path).unwrap();
    for k in 0..48 {
        fs::write(&path, &bytes[..bytes.len() * k / 48]).unwrap();
        let error = read_all(&path).expect_err("cut short");
        assert!(!error.to_string().contains('\n'), "one line: {error}");
    }
}

#[test]
fn mutated_files_end_well_or_in_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("set.h5");
    let mut silent = 0;
    for storage in STORAGES {
        write_small(&path, storage, true).unwrap();
        let bytes = fs::read(&path).unwrap();
        for k in 0..200 {
            let mut stream = Stream::new(2, "mutants", &[k]);
            let mut mutant = bytes.clone();
            for _ in 0..=stream.below(4) {
                let at = stream.below(mutant.len());
                mutant[at] = stream.below(256) as u8;
            }
            fs::write(&path, &mutant).unwrap();
            let Ok(dataset) = Dataset::open(&path) else { continue };
            for item in 0..dataset.len() {
                if let Ok(read) = dataset.read(item) {
                    silent += usize::from(read.data() != volume(item).data());
                }
                let _ = dataset.points(item);
            }
        }
    }
    assert_eq!(silent, 0, "checksums find every changed volume");
}

#[test]
fn errors_name_the_item() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("set.h5");
    write_small(&path, Storage::F32, false).unwrap();
    let file = hdf5::File::append(&path).unwrap();
    let nan = ndarray::Array4::from_elem((2, 3, 4, 5), f32::NAN);
    file.dataset("volumes").unwrap().write_slice(&nan, (3, .., .., .., ..)).unwrap();
    file.close().unwrap();
    let error = Dataset::open(&path).unwrap().read_many(&[3], &mut [0.0; 120]).unwrap_err();
    assert!(matches!(
        error,
        DatasetError::Volume { item: 3, source: VolumeError::NotFinite { index: 0, .. }, .. }
    ));
}

#[test]
fn more_targets_than_a_chunk_has_room_for_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("set.h5");
    let many = 40_000;
    let tasks = Tasks { targets: Some(format!("{many}x0").parse().unwrap()), ..Tasks::default() };
    let mut writer =
        DatasetWriter::create(&path, meta(Storage::F32)).unwrap().with_tasks(tasks).unwrap();
    let values: Vec<f64> = (0..many).map(f64::from).collect();
    for id in ["a", "b"] {
        let item = Item { volume: Some(&volume(0)), id, targets: &values, ..Item::default() };
        writer.push(&item).unwrap();
    }
    writer.finish().unwrap();
    assert_eq!(Dataset::open(&path).unwrap().targets(1), values);
    let more = Tasks { targets: Some("40000x0+25537x0".parse().unwrap()), ..Tasks::default() };
    let writer = DatasetWriter::create(&path, meta(Storage::F32)).unwrap();
    let error = writer.with_tasks(more).unwrap_err().to_string();
    assert!(error.contains("at most 65536 values, found 65537"), "{error}");
}

#[test]
fn names_with_control_characters_are_refused_in_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("set.h5");
    let with = |class: &str, name: &str| {
        let class_names = vec![class.to_owned(), "b".to_owned()];
        let meta = DatasetMeta { class_names, name: name.to_owned(), ..meta(Storage::F32) };
        DatasetWriter::create(&path, meta).map(|_| ())
    };
    with("a", "b").unwrap();
    for (class, name) in [("a\nb", "c"), ("a", "\u{1b}[31m"), ("\0", "c")] {
        let error = with(class, name).unwrap_err().to_string();
        assert!(error.contains("no control characters"), "{error}");
        assert!(!error.contains(char::is_control), "{error:?}");
    }
    let message = message_after(|file| edit_meta(file, "\"round\"", "\"ro\\nund\""));
    assert!(message.contains("no control characters"), "{message}");
    let id = FixedUnicode::<64>::from_str("it\u{1b}em").unwrap();
    let message = message_after(|file| replace(file, "ids", &[id; ITEMS]));
    assert!(message.contains("ids: expected UTF-8 text without control"), "{message}");
}

#[test]
fn chunks_that_miss_or_are_of_another_filter_mask_are_refused() {
    let message = message_after(|file| {
        declare::<u8>(file, "splits", &[ITEMS], &[2])?;
        file.dataset("splits")?.write_slice(&[0u8; 4], 0..4)
    });
    assert!(message.contains("splits: expected 3 chunks, one after the other"), "{message}");
}

#[test]
fn a_heap_of_an_old_group_that_points_at_another_is_an_error() {
    let packed = fs::File::open(common::repository("attacks/files/local_heap.h5.gz")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("set.h5");
    let mut file = fs::File::create(&path).unwrap();
    std::io::copy(&mut flate2::read::GzDecoder::new(packed), &mut file).unwrap();
    let message = Dataset::open(&path).unwrap_err().to_string();
    assert!(message.contains("set.h5") && !message.contains('\n'), "{message}");
    assert!(import_hdf5(&path, "volumes").is_err());
}

#[test]
fn volumes_are_decoded_as_the_hdf5_library_decodes_them() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("set.h5");
    for storage in STORAGES {
        let grid = Grid::new([7, 9, 13], [1.0; 3]).unwrap();
        let class_names = vec!["a".to_owned()];
        let meta = DatasetMeta::scalars(1, &grid).unwrap();
        let meta = DatasetMeta { class_names, storage, ..meta };
        let mut writer = DatasetWriter::create(&path, meta).unwrap();
        for item in 0..32u64 {
            let mut stream = Stream::new(0, "chunk", &[item]);
            let levels = 1 + stream.below(256);
            let data = (0..819).map(|_| stream.below(levels) as f32).collect();
            let volume = Volume::centred(data, 1, grid).unwrap();
            let id = item.to_string();
            writer.push(&Item { volume: Some(&volume), id: &id, ..Item::default() }).unwrap();
        }
        writer.finish().unwrap();
        let dataset = Dataset::open(&path).unwrap();
        let file = hdf5::File::open(&path).unwrap();
        let theirs: Vec<f32> = file.dataset("volumes").unwrap().read_raw().unwrap();
        for (item, theirs) in theirs.chunks(819).enumerate() {
            assert_eq!(dataset.read(item).unwrap().data(), theirs, "{item}");
        }
    }
}
