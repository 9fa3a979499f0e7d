//! Reading ahead, checksums, export: what goes out is what was stored.

mod common;

use std::fs;
use std::path::Path;

use common::{ITEMS, meta, volume, write_small};
use steer3d_dataset::{
    Batch, Chance, Dataset, DatasetError, DatasetMeta, DatasetWriter, Distortion, Distortions,
    Item, Loader, LoaderOptions, RandomDistortion, RandomRotation, Storage, Tasks, Turns,
};
use steer3d_formats::npz::Npz;
use steer3d_so3::Rotation;
use steer3d_volume::{Grid, Interpolation, PointCloud, Volume, Voxeliser, rotate};

fn small(folder: &Path, points: bool) -> Dataset {
    let path = folder.join("set.h5");
    write_small(&path, Storage::F32, points).unwrap();
    Dataset::open(path).unwrap()
}

fn load(dataset: &Dataset, batches: &[Vec<usize>], options: &LoaderOptions) -> Vec<Batch> {
    std::thread::scope(|scope| {
        Loader::new(scope, dataset, batches.to_vec(), *options).collect::<Result<_, _>>().unwrap()
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
                    &LoaderOptions { threads, ahead, rotation, ..LoaderOptions::default() },
                );
                assert_eq!(found, expected, "{threads} {ahead}");
            }
        }
    }
    assert!(load(&dataset, &[], &LoaderOptions::default()).is_empty());
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

const DIMS: [usize; 3] = [14, 16, 18];

/// Six items whose labels say where their first channel is above 0.5, of channels and targets of these types.
fn blobs(folder: &Path, channels: &str, targets: &str) -> Dataset {
    let path = folder.join("blobs.h5");
    let grid = Grid::new(DIMS, [1.0; 3]).unwrap();
    let irreps: steer3d_so3::Irreps = channels.parse().unwrap();
    let meta = DatasetMeta {
        irreps: irreps.clone(),
        ..DatasetMeta::scalars(irreps.dim(), &grid).unwrap()
    };
    let voxel_classes = vec!["empty".into(), "blob".into()];
    let tasks = Tasks {
        targets: (!targets.is_empty()).then(|| targets.parse().unwrap()),
        voxel_classes,
        ..Tasks::default()
    };
    let mut writer = DatasetWriter::create(&path, meta).unwrap().with_tasks(tasks).unwrap();
    for item in 0..6 {
        let value = |i: usize| {
            let i = i % (14 * 16 * 18);
            let p = [i % 18, i / 18 % 16, i / 288].map(|k| k as f64 - 7.0 - 0.4 * f64::from(item));
            let squares = p[0].powi(2) / 16.0 + p[1].powi(2) / 9.0 + p[2].powi(2) / 6.0;
            (1.5 * (-squares).exp()) as f32
        };
        let values: Vec<f32> = (0..irreps.dim() * grid.voxels()).map(value).collect();
        let labels: Vec<u8> = values[..grid.voxels()].iter().map(|v| u8::from(*v > 0.5)).collect();
        let volume = Volume::centred(values, irreps.dim(), grid).unwrap();
        let count = if targets.is_empty() { 0 } else { 6 };
        let targets: Vec<f64> = (1..=count).map(f64::from).collect();
        let id = item.to_string();
        writer
            .push(&Item {
                volume: Some(&volume),
                voxel_labels: &labels,
                targets: &targets,
                id: &id,
                ..Item::default()
            })
            .unwrap();
    }
    writer.finish().unwrap();
    Dataset::open(&path).unwrap()
}

/// These with certainty, and standard ranges.
fn always(kinds: &[Distortion]) -> RandomDistortion {
    let certain = |all: Distortions, kind: &Distortion| {
        all.with(*kind, Chance { probability: 1.0, ..kind.standard() })
    };
    let distortions = kinds.iter().fold(Distortions::default(), certain);
    RandomDistortion { seed: 3, epoch: 2, distortions, targets: true }
}

#[test]
fn distortions_depend_on_seed_epoch_and_item_alone() {
    let folder = tempfile::tempdir().unwrap();
    let dataset = blobs(folder.path(), "2x0", "");
    for kind in Distortion::ALL {
        let distortion = always(&[kind]);
        let of = |items: &[usize], distortion: RandomDistortion| {
            let options =
                LoaderOptions { distortion: Some(distortion), ..LoaderOptions::default() };
            load(&dataset, &[items.to_vec()], &options).remove(0)
        };
        let (all, one) = (of(&[0, 4, 2], distortion), of(&[4], distortion));
        let item = one.values.len();
        assert_eq!(all.values[item..2 * item], one.values);
        assert_eq!(
            all.voxel_labels[one.voxel_labels.len()..][..one.voxel_labels.len()],
            one.voxel_labels
        );
        // Mirroring all three axes may be drawn twice.
        if kind != Distortion::Mirror {
            let stored = dataset.read(4).unwrap();
            assert_ne!(one.values, stored.data(), "{kind}");
            assert_ne!(one, of(&[4], RandomDistortion { epoch: 3, ..distortion }), "{kind}");
            assert_ne!(one, of(&[4], RandomDistortion { seed: 4, ..distortion }), "{kind}");
        }
        let never = Chance { probability: 0.0, ..kind.standard() };
        let distortions = Distortions::default().with(kind, never);
        let none = of(&[4], RandomDistortion { distortions, ..distortion });
        assert_eq!(none, Batch::read(&dataset, &[4], None).unwrap());
    }
}

#[test]
fn labels_move_with_the_values() {
    let folder = tempfile::tempdir().unwrap();
    let dataset = blobs(folder.path(), "1x0", "");
    let (mut moved, mut wrong, mut differ, mut inside) = (0, 0, 0, 0);
    for (kinds, exact) in [
        (&[Distortion::Mirror][..], true),
        (&[Distortion::Scale], false),
        (&[Distortion::Elastic], false),
        (&[Distortion::Mirror, Distortion::Scale, Distortion::Elastic], false),
    ] {
        for epoch in 0..8 {
            let distortion = RandomDistortion { epoch, ..always(kinds) };
            let mut batch = Batch::read(&dataset, &[0, 3], None).unwrap();
            let before = batch.voxel_labels.clone();
            batch.distort(&dataset, &distortion).unwrap();
            moved += usize::from(before != batch.voxel_labels);
            for (value, label) in batch.values.iter().zip(batch.voxel_labels.iter().flatten()) {
                // The nearest voxel is half a diagonal away at most, over which a value changes by less than this.
                let unsure = !exact && (value - 0.5).abs() < 0.45;
                inside += usize::from(*label);
                let differs = (*value > 0.5) != (*label == 1);
                differ += usize::from(differs);
                wrong += usize::from(!unsure && differs);
            }
        }
    }
    assert_eq!(wrong, 0);
    assert!(moved > 24 && inside > 10_000, "{moved} {inside}");
    // The blobs are some seven voxels wide: most of their voxels are beside their surface.
    assert!(differ < inside / 4, "{differ} of {inside}");
}

#[test]
fn a_mirror_reflects_targets_and_channels_as_their_parity_says() {
    let folder = tempfile::tempdir().unwrap();
    let dataset = blobs(folder.path(), "1x0e+1x1o", "1x1o+3x0o");
    let mut seen = 0u32;
    for epoch in 0..12 {
        let distortions =
            Distortions::default().with(Distortion::Mirror, Distortion::Mirror.standard());
        let halves = RandomDistortion { seed: 3, epoch, distortions, targets: true };
        let mut batch = Batch::read(&dataset, &[1], None).unwrap();
        let stored = batch.clone();
        batch.distort(&dataset, &halves).unwrap();
        let signs: Vec<f32> =
            batch.targets.iter().zip(&stored.targets).map(|(a, b)| (a / b).round()).collect();
        let parity = signs[0] * signs[1] * signs[2];
        assert_eq!(signs[3..], [parity; 3]);
        // Each component of the vector channels changes its sign with its axis, at the mirrored voxel.
        let voxels = DIMS.iter().product::<usize>();
        for channel in 0..4 {
            let sign = if channel == 0 { 1.0 } else { signs[channel - 1] };
            for i in 0..voxels {
                let place = [i % 18, i / 18 % 16, i / 288];
                let from = [0, 1, 2].map(|a| match signs[a] {
                    -1.0 => [17, 15, 13][a] - place[a],
                    _ => place[a],
                });
                let from = (from[2] * 16 + from[1]) * 18 + from[0];
                let (found, expected) =
                    (batch.values[channel * voxels + i], stored.values[channel * voxels + from]);
                assert_eq!(found, sign * expected);
            }
        }
        seen |= 1 << signs[..3].iter().fold(0, |bits, sign| 2 * bits + u8::from(*sign < 0.0));
    }
    assert!(u32::count_ones(seen) >= 4, "several reflections are drawn: {seen:b}");
}

#[test]
fn distortions_that_are_not_defined_are_refused() {
    let message = |channels: &str, targets: &str, kind: Distortion| {
        let folder = tempfile::tempdir().unwrap();
        let dataset = blobs(folder.path(), channels, targets);
        let check = |targets| always(&[kind]).distortions.check_for(&dataset, targets);
        assert!(channels != "1x0" || check(false).is_ok(), "targets are of no use");
        check(true).unwrap_err().to_string()
    };
    for kind in [Distortion::Scale, Distortion::Elastic] {
        let found = message("1x0", "6x0", kind);
        assert!(found.starts_with(kind.name()) && found.contains("without targets"), "{found}");
    }
    assert!(message("1x0", "2x1", Distortion::Mirror).contains("parities"));
    assert!(message("1x1", "", Distortion::Mirror).contains("parities"));
    for kind in [Distortion::Elastic, Distortion::Contrast, Distortion::Gamma] {
        assert!(message("1x1", "", kind).contains("channels of scalars"));
    }
    let check = |kind: Distortion, probability, range| {
        let all = Distortions::default().with(kind, Chance { probability, range });
        all.check().map_err(|error| error.to_string())
    };
    for kind in Distortion::ALL {
        let Chance { probability, range } = kind.standard();
        assert_eq!(check(kind, probability, range), Ok(()));
        assert!(check(kind, 1.5, range).unwrap_err().contains("from 0 to 1"));
        assert!(check(kind, f64::NAN, range).is_err());
        for wrong in [[2.0, 1.0], [f64::NAN, 1.0], [-1.0, 1.0], [1.0, 1e9]] {
            let error = check(kind, 0.5, Some(wrong)).unwrap_err();
            assert!(error.starts_with(kind.name()), "{error}");
        }
    }
    assert!(check(Distortion::Blur, 0.5, None).is_err());
    assert!("blurr".parse::<Distortion>().unwrap_err().to_string().contains("low_resolution"));
}

#[test]
fn settings_of_distortions_are_filled_in_and_come_back() {
    let read = |text: &str| serde_json::from_str::<Distortions>(text);
    let all =
        read(r#"{"noise": {}, "gamma": {"probability": 0.5}, "scale": {"range": [0.9, 1.1]}}"#);
    let all = all.unwrap();
    assert_eq!(all.get(Distortion::Noise), Some(Distortion::Noise.standard()));
    assert_eq!(all.get(Distortion::Gamma).unwrap().range, Some([0.7, 1.5]));
    assert_eq!(all.get(Distortion::Scale).unwrap().probability, 0.2);
    assert_eq!(all.get(Distortion::Blur), None);
    assert_eq!(read(&serde_json::to_string(&all).unwrap()).unwrap(), all);
    assert!(read("{}").unwrap().is_empty());
    assert!(read(r#"{"nois": {}}"#).unwrap_err().to_string().contains("`noise`"));
    for kind in Distortion::ALL {
        assert_eq!(serde_json::to_string(&kind).unwrap(), format!("\"{kind}\""));
    }
}
