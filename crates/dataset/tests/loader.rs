//! Reading ahead, checksums, export: what goes out is what was stored.

mod common;

use std::fs;
use std::path::Path;

use common::{ITEMS, meta, volume, write_small};
use steer3d_dataset::{
    Batch, Dataset, DatasetError, DatasetMeta, DatasetWriter, Item, Loader, LoaderOptions,
    RandomRotation, Storage, Turns,
};
use steer3d_formats::npz::Npz;
use steer3d_so3::Rotation;
use steer3d_volume::{Interpolation, PointCloud, Voxeliser, rotate};

fn small(folder: &Path, points: bool) -> Dataset {
    let path = folder.join("set.h5");
    write_small(&path, Storage::F32, points).unwrap();
    Dataset::open(path).unwrap()
}

fn load(dataset: &Dataset, batches: &[Vec<usize>], options: LoaderOptions) -> Vec<Batch> {
    std::thread::scope(|scope| {
        Loader::new(scope, dataset, batches.to_vec(), options).collect::<Result<_, _>>().unwrap()
    })
}

/// Batches of 0 to 3 items in no order.
fn batches() -> Vec<Vec<usize>> {
    (0..40).map(|i| (0..i % 4).map(|k| (5 * i + 7 * k) % ITEMS).collect()).collect()
}

#[test]
fn the_loader_gives_what_reading_one_by_one_gives() {
    let folder = tempfile::tempdir().unwrap();
    let dataset = small(folder.path(), false);
    let turns = Turns::So3 { fraction: 1.0 };
    for rotation in [None, Some(RandomRotation { seed: 3, epoch: 2, turns })] {
        let read = |items: &Vec<usize>| Batch::read(&dataset, items, rotation.as_ref()).unwrap();
        let expected: Vec<_> = batches().iter().map(read).collect();
        for threads in [0, 1, 2, 7] {
            for ahead in [0, 1, 5, 100] {
                let found = load(
                    &dataset,
                    &batches(),
                    LoaderOptions { threads, ahead, rotation, patch: None },
                );
                assert_eq!(found, expected, "{threads} {ahead}");
            }
        }
    }
    assert!(load(&dataset, &[], LoaderOptions::default()).is_empty());
}

#[test]
fn a_rotation_turns_the_points_where_there_are_any_and_else_the_voxels() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("points.h5");
    let voxeliser = Voxeliser::paper(8, 1.0);
    let meta = DatasetMeta {
        channels: 1,
        dims: [8; 3],
        voxel_size: [1.0; 3],
        irreps: "1x0".parse().unwrap(),
        voxeliser: Some(voxeliser),
        mesh_voxeliser: None,
        ..meta(Storage::F32)
    };
    let cloud = PointCloud::new(vec![[1.5, 0.25, -1.0], [0.0, 2.0, 0.5]], vec![0, 0]).unwrap();
    let mut writer = DatasetWriter::create(&path, meta).unwrap();
    writer.push(&Item { points: Some(&cloud), id: "a", ..Item::default() }).unwrap();
    writer.finish().unwrap();
    let dataset = Dataset::open(&path).unwrap();
    let augment = RandomRotation { seed: 1, epoch: 4, turns: Turns::So3 { fraction: 1.0 } };
    let batch = Batch::read(&dataset, &[0], Some(&augment)).unwrap();
    let exact = voxeliser.voxelise(&cloud, &augment.of(0)).unwrap();
    assert_eq!(batch.values, exact.data());
    assert_eq!(
        dataset.read(0).unwrap(),
        voxeliser.voxelise(&cloud, &Rotation::identity()).unwrap()
    );

    let voxels = small(folder.path(), true);
    let batch = Batch::read(&voxels, &[2], Some(&augment)).unwrap();
    let (irreps, how) = (&voxels.meta().irreps, Interpolation::Trilinear);
    let turned = rotate(&volume(2), irreps, &augment.of(2), how).unwrap();
    assert_eq!(batch.values, turned.data());
    assert_ne!(augment.of(2), augment.of(3));
    assert_ne!(augment.of(2), RandomRotation { epoch: 5, ..augment }.of(2));
}

#[test]
fn rotations_are_drawn_from_the_set_that_was_asked_for() {
    let angles = |turns| {
        let random = RandomRotation { seed: 2, epoch: 1, turns };
        (0..400).map(move |item| random.of(item)).collect::<Vec<_>>()
    };
    let above = |rotations: &[Rotation], angle: f64| {
        rotations.iter().filter(|r| r.angle() > angle).count() as f64 / 400.0
    };
    let half = std::f64::consts::FRAC_PI_2;
    let about_z = angles(Turns::Z { fraction: 0.5 });
    assert!(about_z.iter().all(|r| (r[(2, 2)] - 1.0).abs() < 1e-12 && r.angle() < half));
    assert!((above(&about_z, half / 2.0) - 0.5).abs() < 0.1);
    assert!((above(&angles(Turns::Z { fraction: 1.0 }), half) - 0.5).abs() < 0.1);
    // (a - sin a) / pi is the share of the rotations by less than a.
    let share = |a: f64| (a - a.sin()) / std::f64::consts::PI;
    let near = angles(Turns::So3 { fraction: share(half) });
    assert!(near.iter().all(|r| r.angle() < half));
    assert!((above(&near, 1.0) - (1.0 - share(1.0) / share(half))).abs() < 0.1);
    assert!((above(&angles(Turns::So3 { fraction: 1.0 }), half) - (1.0 - share(half))).abs() < 0.1);
}

/// Makes a value of item 3 a NaN.
fn spoil(path: &Path) {
    let file = hdf5::File::append(path).unwrap();
    let nan = ndarray::Array4::from_elem((2, 3, 4, 5), f32::NAN);
    file.dataset("volumes").unwrap().write_slice(&nan, (3, .., .., .., ..)).unwrap();
    file.close().unwrap();
}

#[test]
fn an_error_comes_in_the_place_of_its_batch() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("set.h5");
    write_small(&path, Storage::F32, false).unwrap();
    spoil(&path);
    let dataset = Dataset::open(path).unwrap();
    let batches: Vec<_> = (0..ITEMS).map(|item| vec![item]).chain([vec![ITEMS]]).collect();
    std::thread::scope(|scope| {
        let loader = Loader::new(scope, &dataset, batches, LoaderOptions::default());
        let results: Vec<_> = loader.collect();
        let failed: Vec<_> = (0..=ITEMS).filter(|&i| results[i].is_err()).collect();
        assert_eq!(failed, [3, ITEMS]);
        assert!(matches!(results[3], Err(DatasetError::Volume { item: 3, .. })));
    });
}

#[test]
fn a_dropped_loader_ends_its_threads() {
    let folder = tempfile::tempdir().unwrap();
    let dataset = small(folder.path(), false);
    // The scope would wait for ever for threads that do not end.
    for taken in [0, 1, 3] {
        std::thread::scope(|scope| {
            let options = LoaderOptions { threads: 3, ahead: 2, ..LoaderOptions::default() };
            let endless = vec![vec![0]; 1_000_000];
            let mut loader = Loader::new(scope, &dataset, endless, options);
            for _ in 0..taken {
                loader.next().unwrap().unwrap();
            }
        });
    }
}

#[test]
fn checksums_find_what_changed_behind_their_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("set.h5");
    let broken_after = |change: fn(&hdf5::File) -> hdf5::Result<()>| {
        write_small(&path, Storage::F32, true).unwrap();
        let file = hdf5::File::append(&path).unwrap();
        change(&file).unwrap();
        file.close().unwrap();
        let broken = Dataset::open(&path).unwrap().verify(&|_| {});
        broken.into_iter().map(|b| (b.item, b.problem)).collect::<Vec<_>>()
    };
    assert!(broken_after(|_| Ok(())).is_empty());
    // One bit of one value, written through the library, so that the chunk is valid.
    let broken = broken_after(|file| {
        let volumes = file.dataset("volumes")?;
        let mut item = volumes.read_slice::<f32, _, ndarray::Ix4>((4, .., .., .., ..))?;
        item[[1, 2, 3, 4]] = f32::from_bits(item[[1, 2, 3, 4]].to_bits() ^ 1);
        volumes.write_slice(&item, (4, .., .., .., ..))
    });
    assert_eq!(broken.len(), 1);
    assert!(broken[0].0 == 4 && broken[0].1.contains("SHA-256"), "{broken:?}");
    let broken = broken_after(|file| {
        let mut labels = file.dataset("labels")?.read_raw::<u32>()?;
        labels[1] = 0;
        file.dataset("labels")?.write_raw(&labels)
    });
    assert_eq!(broken.iter().map(|b| b.0).collect::<Vec<_>>(), [1]);
    let broken = broken_after(|file| {
        let positions = file.dataset("points/positions")?;
        positions.write_slice(&ndarray::arr2(&[[9.0, 9.0, 9.0]]), (0..1, ..))
    });
    assert_eq!(broken.iter().map(|b| b.0).collect::<Vec<_>>(), [1], "item 0 has no points");
    // Splits are not part of an item.
    assert!(broken_after(|file| file.dataset("splits")?.write_raw(&[2u8; ITEMS])).is_empty());

    write_small(&path, Storage::F32, false).unwrap();
    spoil(&path);
    let broken = Dataset::open(&path).unwrap().verify(&|_| {});
    assert!(broken.len() == 1 && broken[0].problem.contains("NaN"), "{broken:?}");
}

#[test]
fn a_flipped_byte_of_the_file_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("set.h5");
    write_small(&path, Storage::F32, false).unwrap();
    let place = {
        let file = hdf5::File::open(&path).unwrap();
        let chunk = file.dataset("volumes").unwrap().chunk_info(2).unwrap();
        (chunk.addr + chunk.size / 2) as usize
    };
    let mut bytes = fs::read(&path).unwrap();
    bytes[place] ^= 0x10;
    fs::write(&path, bytes).unwrap();
    let broken = Dataset::open(&path).unwrap().verify(&|_| {});
    assert_eq!(broken.iter().map(|b| b.item).collect::<Vec<_>>(), [2], "{broken:?}");
}

#[test]
fn repeated_identifiers_are_broken() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("set.h5");
    let mut writer = DatasetWriter::create(&path, meta(Storage::F32)).unwrap();
    for item in 0..3 {
        let id = ["a", "b", "a"][item];
        writer.push(&Item { volume: Some(&volume(item)), id, ..Item::default() }).unwrap();
    }
    writer.finish().unwrap();
    let broken = Dataset::open(&path).unwrap().verify(&|_| {});
    assert!(broken.len() == 1 && broken[0].item == 2, "{broken:?}");
}

#[test]
fn an_item_is_exported() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let dataset = small(folder.path(), false);
    dataset.export(3, &at("item.npz")).unwrap();
    let mut npz = Npz::open(at("item.npz")).unwrap();
    let values = npz.read("volume").unwrap();
    assert_eq!(values.shape(), [2, 3, 4, 5]);
    let floats = |values: &[f32]| values.iter().map(|&v| f64::from(v)).collect::<Vec<_>>();
    assert_eq!(values.to_f64().unwrap(), floats(volume(3).data()));
    assert_eq!(npz.read("origin").unwrap().to_f64().unwrap(), [3.0, 0.5, -0.25]);
    assert_eq!(npz.read("voxel_size").unwrap().to_f64().unwrap(), [1.0, 1.5, 0.1]);
    assert_eq!(npz.read("label").unwrap().to_i64().unwrap(), [1]);
    dataset.export(3, &at("item.npy")).unwrap();
    let bytes = fs::read(at("item.npy")).unwrap();
    let start = bytes.len() - 480;
    assert_eq!(start % 64, 0, "the values are aligned");
    let values: Vec<f32> =
        bytes[start..].as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).collect();
    assert_eq!(values, volume(3).data());
    let error = dataset.export(3, &at("item.xyz")).unwrap_err();
    assert!(error.to_string().contains("npy, npz, mrc or nii"), "{error}");
    assert!(dataset.export(ITEMS, &at("item.npy")).is_err());
    dataset.export_list(&at("list.csv")).unwrap();
    let list = fs::read_to_string(at("list.csv")).unwrap();
    assert!(list.lines().nth(4).unwrap().starts_with("item-3,länglich,train,,,"), "{list}");
    assert_eq!(list.lines().count(), ITEMS + 1);
}
