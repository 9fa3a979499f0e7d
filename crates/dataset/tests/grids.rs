//! Items with grids of their own: schema 2, patches, padding.

use std::path::Path;

use nalgebra::{Matrix3, Rotation3, Vector3};
use proptest::prelude::*;
use steer3d_dataset::{
    Batch, Chance, Dataset, DatasetMeta, DatasetWriter, Distortion, Distortions, Fractions, Grids,
    ImportOptions, Item, Listing, Loader, LoaderOptions, RandomDistortion, RandomPatch,
    RandomRotation, RecipeOptions, Sample, Split, Storage, Tasks, Turns, build, files,
};
use steer3d_formats::{Voxels, write_volume};
use steer3d_so3::Stream;
use steer3d_volume::{Grid, Volume};

const GRIDS: [([usize; 3], [f64; 3]); 3] =
    [([5, 7, 9], [1.0, 1.0, 2.5]), ([12, 6, 4], [0.7, 0.7, 3.0]), ([3, 3, 3], [2.0, 1.0, 1.0])];

fn meta(channels: usize, storage: Storage) -> DatasetMeta {
    let grid = Grid::new([2, 2, 2], [1.0; 3]).unwrap();
    let meta = DatasetMeta::scalars(channels, &grid).unwrap();
    let class_names = ["a", "b"].map(String::from).to_vec();
    DatasetMeta { name: "own".into(), class_names, grids: Grids::Each, storage, ..meta }
}

fn volume(channels: usize, i: usize) -> Volume {
    let (dims, size) = GRIDS[i % GRIDS.len()];
    let grid = Grid::new(dims, size).unwrap();
    let mut stream = Stream::new(7, "values", &[i as u64]);
    let values = (0..channels * grid.voxels()).map(|_| (stream.uniform() * 200.0).floor() as f32);
    Volume::new(values.collect(), channels, grid, [i as f64, -1.0, 0.25]).unwrap()
}

fn labels(volume: &Volume) -> Vec<u8> {
    let plane = volume.data()[..volume.grid().voxels()].iter();
    plane.map(|&value| u8::from(value > 100.0) + u8::from(value > 150.0)).collect()
}

fn direction(i: usize) -> Matrix3<f64> {
    *Rotation3::from_axis_angle(&Vector3::z_axis(), i as f64).matrix()
}

/// A dataset of `count` volumes of three shapes.
fn written(path: &Path, channels: usize, storage: Storage, count: usize) -> Dataset {
    let classes = ["none", "low", "high"].map(String::from).to_vec();
    let tasks = Tasks { voxel_classes: classes, ..Tasks::default() };
    let writer = DatasetWriter::create(path, meta(channels, storage)).unwrap();
    let mut writer = writer.with_tasks(tasks).unwrap();
    for i in 0..count {
        let volume = volume(channels, i);
        writer
            .push(&Item {
                volume: Some(&volume),
                direction: Some(&direction(i)),
                label: (i % 2) as u32,
                id: &format!("item {i}"),
                voxel_labels: &labels(&volume),
                ..Item::default()
            })
            .unwrap();
    }
    writer.finish().unwrap();
    Dataset::open(path).unwrap()
}

#[test]
fn what_is_written_is_read() {
    let folder = tempfile::tempdir().unwrap();
    for (channels, storage) in [(1, Storage::F32), (3, Storage::U8 { scale: 1.0 })] {
        let data = written(&folder.path().join("own.h5"), channels, storage, 7);
        assert_eq!(data.meta().dims, GRIDS[0].0);
        assert_eq!(data.summary().unwrap().schema_version, 2);
        for i in 0..data.len() {
            let expected = volume(channels, i);
            assert_eq!(data.read(i).unwrap(), expected);
            assert_eq!(data.voxel_labels(i).unwrap(), labels(&expected));
            assert!((data.direction(i) - direction(i)).amax() < 1e-15);
        }
        assert_eq!(data.verify(&|_| ()), []);
        let error = data.read_many(&[0, 1], &mut [0.0; 10]).unwrap_err().to_string();
        assert!(error.contains("[5, 7, 9] and [12, 6, 4]"), "{error}");
    }
}

/// Digest and checksums hold the spacing and the direction: a result that depends on them is never reused for others.
#[test]
fn another_spacing_is_another_dataset() {
    let folder = tempfile::tempdir().unwrap();
    let digest = |size: f64, turned: bool| {
        let path = folder.path().join("one.h5");
        let mut writer = DatasetWriter::create(&path, meta(1, Storage::F32)).unwrap();
        for size in [size, 1.0] {
            let grid = Grid::new([2, 2, 2], [1.0, 1.0, size]).unwrap();
            let volume = Volume::new(vec![1.0; 8], 1, grid, [0.0; 3]).unwrap();
            let direction = direction(usize::from(turned));
            let id = if size == 1.0 { "last" } else { "first" };
            let item =
                Item { volume: Some(&volume), direction: Some(&direction), id, ..Item::default() };
            writer.push(&item).unwrap();
        }
        writer.finish().unwrap();
        Dataset::open(path).unwrap().digest().unwrap()
    };
    assert_eq!(digest(2.0, false), digest(2.0, false));
    assert_ne!(digest(2.0, false), digest(2.5, false));
    assert_ne!(digest(2.0, false), digest(2.0, true));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn a_block_is_a_part_of_the_volume(
        item in 0usize..7,
        first in prop::array::uniform3(-15isize..15),
        dims in prop::array::uniform3(1usize..16),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let data = written(&folder.path().join("own.h5"), 2, Storage::F32, 7);
        let whole = volume(2, item);
        let block = data.read_block(item, first, dims).unwrap();
        let expected = steer3d_volume::crop(&whole, [2, 1, 0].map(|i| first[i] as i32), dims);
        prop_assert_eq!(block, expected.unwrap());
    }
}

#[test]
fn patches_lie_within_and_about_foreground() {
    let folder = tempfile::tempdir().unwrap();
    let data = written(&folder.path().join("own.h5"), 1, Storage::F32, 7);
    let mut high = 0;
    for epoch in 0..60 {
        let patch = RandomPatch { seed: 1, epoch, dims: [3, 3, 3], foreground: 1.0 };
        for item in 0..data.len() {
            let whole = labels(&volume(1, item));
            let grid = data.grid(item);
            let first = patch.first(item, &grid, &whole);
            let inside = (0..3)
                .all(|axis| first[axis] >= 0 && first[axis] as usize + 3 <= grid.dims()[axis]);
            assert!(inside, "{first:?} in {:?}", grid.dims());
            let read = data.read_patch(item, &patch, None).unwrap();
            assert_eq!(read, data.read_patch(item, &patch, None).unwrap());
            assert_eq!(read.values, data.read_block(item, first, [3, 3, 3]).unwrap().data());
            high += usize::from(read.labels[13] == Some(2));
            assert!(read.labels.iter().any(|&label| label > Some(0)));
        }
    }
    // Both classes are drawn as often, though the second has half the voxels; near a border the box is moved.
    assert!(high > 420 / 4, "{high}");
    let batch = |seed| {
        let patch = RandomPatch { seed, epoch: 0, dims: [4, 3, 2], foreground: 0.3 };
        Batch::read_patches(&data, &[0, 1, 2], None, &patch).unwrap()
    };
    assert_eq!((batch(1).dims, batch(1).values.len()), ([4, 3, 2], 72));
    assert_ne!(batch(1).values, batch(2).values);
}

/// A quarter turn about z moves voxels and labels of a box to whole voxels.
#[test]
fn a_turned_patch_is_the_patch_of_the_turned_volume() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cube.h5");
    let mut writer = DatasetWriter::create(&path, meta(1, Storage::F32)).unwrap();
    let classes = ["none", "some"].map(String::from).to_vec();
    writer = writer.with_tasks(Tasks { voxel_classes: classes, ..Tasks::default() }).unwrap();
    let dims = [[11, 11, 11], [9, 9, 9]];
    let volumes: Vec<Volume> = dims
        .iter()
        .map(|&dims| {
            let grid = Grid::new(dims, [1.5; 3]).unwrap();
            let mut stream = Stream::new(1, "turned", &[dims[0] as u64]);
            let values = (0..grid.voxels()).map(|_| stream.uniform() as f32).collect();
            Volume::centred(values, 1, grid).unwrap()
        })
        .collect();
    for (i, volume) in volumes.iter().enumerate() {
        let labels: Vec<u8> = volume.data().iter().map(|&v| u8::from(v > 0.5)).collect();
        let id = i.to_string();
        let item = Item { volume: Some(volume), id: &id, voxel_labels: &labels, ..Item::default() };
        writer.push(&item).unwrap();
    }
    writer.finish().unwrap();
    let data = Dataset::open(&path).unwrap();
    let turn =
        steer3d_so3::Rotation::from_axis_angle(&Vector3::z_axis(), std::f64::consts::FRAC_PI_2);
    for epoch in 0..8 {
        let patch = RandomPatch { seed: 3, epoch, dims: [3, 5, 5], foreground: 0.5 };
        for item in 0..2 {
            let plain = data.read_patch(item, &patch, None).unwrap();
            let turned = data.read_patch(item, &patch, Some(&turn)).unwrap();
            let box_of = |values: Vec<f32>| {
                Volume::centred(values, 1, Grid::new([3, 5, 5], [1.5; 3]).unwrap()).unwrap()
            };
            let how = steer3d_volume::Interpolation::Trilinear;
            let expected =
                steer3d_volume::rotate(&box_of(plain.values), &"1x0".parse().unwrap(), &turn, how)
                    .unwrap();
            let pairs = turned.values.iter().zip(expected.data());
            assert!(pairs.clone().all(|(a, b)| (a - b).abs() < 1e-5));
            let labels = turned.values.iter().map(|&v| u8::from(v > 0.5));
            let near = |v: f32| (v - 0.5).abs() < 1e-5;
            let wrong = labels.zip(&turned.labels).zip(&turned.values);
            assert!(wrong.into_iter().all(|((a, b), &v)| Some(a) == *b || near(v)));
        }
    }
}

/// How many voxels are of each class.
fn counts(labels: impl IntoIterator<Item = u8>) -> [usize; 3] {
    let mut counts = [0; 3];
    labels.into_iter().for_each(|label| counts[usize::from(label)] += 1);
    counts
}

#[test]
fn a_batch_is_padded_to_its_largest_volume() {
    let folder = tempfile::tempdir().unwrap();
    let data = written(&folder.path().join("own.h5"), 2, Storage::F32, 3);
    let batch = Batch::read(&data, &[0, 1, 2], None).unwrap();
    assert_eq!(batch.dims, [12, 7, 9]);
    let always = Chance { probability: 1.0, ..Distortion::Mirror.standard() };
    let distortions = Distortions::default().with(Distortion::Mirror, always);
    let mut mirrored = batch.clone();
    let distortion = RandomDistortion { seed: 1, epoch: 0, distortions, targets: false };
    mirrored.distort(&data, &distortion).unwrap();
    assert_ne!(mirrored, batch);
    let len = 12 * 7 * 9;
    for i in 0..3 {
        let whole = volume(2, i);
        let sum = |values: &[f32]| values.iter().map(|&v| f64::from(v)).sum::<f64>();
        let part = &batch.values[i * 2 * len..][..2 * len];
        assert_eq!(sum(part), sum(whole.data()));
        // What is put around a volume has no labels, and none after a mirror.
        for batch in [&batch, &mirrored] {
            let found = batch.voxel_labels[i * len..][..len].iter().copied().flatten();
            assert_eq!(counts(found), counts(labels(&whole)));
        }
    }
    // The smallest lies in the middle: (12 - 3) / 2, (7 - 3) / 2, (9 - 3) / 2.
    let at = |z: usize, y: usize, x: usize| batch.values[4 * len + (z * 7 + y) * 9 + x];
    assert_eq!(at(4, 2, 3), volume(2, 2).data()[0]);
    let turns = Turns::So3 { fraction: 1.0 };
    let rotation = RandomRotation { seed: 1, epoch: 0, turns };
    let turned = Batch::read(&data, &[0, 1, 2], Some(&rotation)).unwrap();
    assert_eq!((turned.dims, turned.voxel_labels.len()), (batch.dims, 3 * len));
}

#[test]
fn what_a_box_has_around_a_volume_has_no_labels() {
    let folder = tempfile::tempdir().unwrap();
    let data = written(&folder.path().join("own.h5"), 1, Storage::F32, 3);
    let patch = RandomPatch { seed: 1, epoch: 0, dims: [17, 16, 15], foreground: 0.5 };
    let turn = steer3d_so3::Rotation::from_axis_angle(&Vector3::y_axis(), 0.2);
    for item in 0..3 {
        let whole = labels(&volume(1, item));
        let plain = data.read_patch(item, &patch, None).unwrap().labels;
        assert_eq!(plain.len(), 17 * 16 * 15);
        assert_eq!(counts(plain.iter().copied().flatten()), counts(whole.iter().copied()));
        // As many voxels as before, but for those at the surface.
        let turned = data.read_patch(item, &patch, Some(&turn)).unwrap().labels;
        let (found, before) = (turned.iter().flatten().count(), whole.len());
        assert!(found > before / 2 && found < 2 * before, "{found} {before}");
    }
}

/// Samples with boxes are read there, each with draws of its own.
#[test]
fn boxes_are_read_where_samples_have_them() {
    let folder = tempfile::tempdir().unwrap();
    let data = written(&folder.path().join("own.h5"), 1, Storage::F32, 3);
    let sample = |item, number, first| Sample { item, number, first: Some(first) };
    let samples = [sample(1, 0, [3, 2, 1]), sample(1, 1, [3, 2, 1]), sample(0, 0, [2, 4, 6])];
    let patch = Some(RandomPatch { seed: 1, epoch: 1, dims: [3, 3, 3], foreground: 1.0 });
    let read = |rotation| {
        let options = LoaderOptions { patch, rotation, ..LoaderOptions::default() };
        let batches = vec![samples.to_vec(), samples[2..].to_vec()];
        std::thread::scope(|scope| {
            let loader = Loader::of_samples(scope, &data, batches, options);
            loader.collect::<Result<Vec<_>, _>>().unwrap()
        })
    };
    let plain = read(None);
    assert_eq!((&plain[0].items[..], &plain[1].items[..]), (&[1, 1, 0][..], &[0][..]));
    for (i, Sample { item, first, .. }) in samples.into_iter().enumerate() {
        let expected = data.read_block(item, first.unwrap(), [3; 3]).unwrap();
        assert_eq!(plain[0].values[27 * i..][..27], *expected.data());
        let labels: Vec<_> = labels(&expected).into_iter().map(Some).collect();
        assert_eq!(plain[0].voxel_labels[27 * i..][..27], labels);
    }
    let turns = Turns::So3 { fraction: 1.0 };
    let turned = read(Some(RandomRotation { seed: 1, epoch: 1, turns }));
    assert_ne!(turned[0].values[..27], turned[0].values[27..54]);
    assert_eq!(turned[0].values[54..], turned[1].values);
}

/// Writes maps of three shapes with masks and a table of them.
fn scans(folder: &Path) -> std::path::PathBuf {
    let mut table = vec!["path,mask,split".to_owned()];
    for (i, split) in ["train", "train", "test"].into_iter().enumerate() {
        let volume = volume(1, i);
        let mask = labels(&volume).into_iter().map(f32::from).collect();
        let mask = Volume::new(mask, 1, volume.grid(), volume.origin()).unwrap();
        write_volume(&folder.join(format!("{i}.nii")), &volume, Voxels::Values).unwrap();
        write_volume(&folder.join(format!("{i}-mask.nii")), &mask, Voxels::Labels(3)).unwrap();
        table.push(format!("{i}.nii,{i}-mask.nii,{split}"));
    }
    let path = folder.join("scans.csv");
    std::fs::write(&path, table.join("\n") + "\n").unwrap();
    path
}

fn built(table: &Path, recipe: &RecipeOptions) -> Result<Dataset, String> {
    let listing = Listing::of_table(table).map_err(|e| e.to_string())?;
    let options = ImportOptions::default();
    let source = files(listing, recipe, &Fractions::default(), false, &options);
    let out = table.with_extension("h5");
    // What a build that failed has left.
    if let Err(error) = std::fs::remove_dir_all(table.with_extension("h5.partial")) {
        assert_eq!(error.kind(), std::io::ErrorKind::NotFound);
    }
    build(&source.map_err(|e| e.to_string())?, &out, false, &|_| ()).map_err(|e| e.to_string())?;
    Dataset::open(out).map_err(|e| e.to_string())
}

fn with_classes(recipe: RecipeOptions) -> RecipeOptions {
    let voxel_classes = ["none", "low", "high"].map(String::from).to_vec();
    RecipeOptions { voxel_classes, ..recipe }
}

#[test]
fn a_table_of_scans_and_masks_keeps_their_grids() {
    let folder = tempfile::tempdir().unwrap();
    let table = scans(folder.path());
    let keep = with_classes(RecipeOptions { keep_grid: true, ..RecipeOptions::default() });
    let data = built(&table, &keep).unwrap();
    assert_eq!((data.meta().grids, data.len()), (Grids::Each, 3));
    for i in 0..3 {
        let expected = volume(1, i);
        let found = data.read(i).unwrap();
        assert_eq!((found.dims(), found.data()), (expected.dims(), expected.data()));
        let sizes = found.voxel_size().into_iter().zip(expected.voxel_size());
        assert!(sizes.clone().all(|(a, b)| (a - b).abs() < 1e-6));
        assert_eq!(data.voxel_labels(i).unwrap(), labels(&expected));
    }
    assert_eq!(data.splits()[2], Split::Test);
    let fit = steer3d_dataset::Fit::Spacing;
    let even = RecipeOptions { fit, voxel_size: Some([1.0; 3]), ..RecipeOptions::default() };
    std::fs::remove_file(table.with_extension("h5")).unwrap();
    let data = built(&table, &with_classes(even)).unwrap();
    // ceil(12 · 3.0), ceil(6 · 0.7), ceil(4 · 0.7)
    assert_eq!(data.grid(1).dims(), [36, 5, 3]);
    assert_eq!(data.grid(1).voxel_size(), [1.0; 3]);
    assert_eq!(data.voxel_labels(1).unwrap().len(), 36 * 5 * 3);
}

#[test]
fn equal_grids_are_written_as_schema_1() {
    let folder = tempfile::tempdir().unwrap();
    let volume = volume(1, 0);
    for name in ["a", "b"] {
        write_volume(&folder.path().join(format!("{name}.nii")), &volume, Voxels::Values).unwrap();
    }
    let table = folder.path().join("same.csv");
    std::fs::write(&table, "path\na.nii\nb.nii\n").unwrap();
    let keep = RecipeOptions { keep_grid: true, ..RecipeOptions::default() };
    let data = built(&table, &keep).unwrap();
    assert_eq!(data.meta().grids, Grids::One);
    assert_eq!(data.summary().unwrap().schema_version, 1);
}

#[test]
fn masks_that_do_not_fit_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let table = scans(folder.path());
    let keep = || RecipeOptions { keep_grid: true, ..RecipeOptions::default() };
    let fault = |recipe: RecipeOptions| built(&table, &recipe).unwrap_err();
    let found = fault(keep());
    assert!(found.contains("voxel-classes") && found.contains("background first"), "{found}");
    let two = ["none", "low"].map(String::from).to_vec();
    let found = fault(RecipeOptions { voxel_classes: two, ..keep() });
    assert!(found.contains("whole numbers from 0 to 1") && found.contains("found 2"), "{found}");
    let text = std::fs::read_to_string(&table).unwrap();
    std::fs::write(&table, text.replace("1-mask", "0-mask")).unwrap();
    let found = fault(with_classes(keep()));
    assert!(found.contains("the voxels of its volume") && found.contains("[5, 7, 9]"), "{found}");
    std::fs::write(&table, text.replace(",1-mask.nii", ",")).unwrap();
    let found = fault(with_classes(keep()));
    assert!(found.contains("a mask in every row") && found.contains("line 3"), "{found}");
    let resized = RecipeOptions { size: Some([4; 3]), ..RecipeOptions::default() };
    std::fs::write(&table, "path\n0.nii\n").unwrap();
    let found = fault(with_classes(resized));
    assert!(found.contains("no masks"), "{found}");
}

/// What is wrong with a dataset after a change to one of its columns.
fn message_after<T: hdf5::H5Type + Clone>(name: &str, change: impl Fn(&mut Vec<T>)) -> String {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("own.h5");
    drop(written(&path, 1, Storage::F32, 3));
    let file = hdf5::File::open_rw(&path).unwrap();
    let column = file.dataset(name).unwrap();
    let mut values = column.read_raw::<T>().unwrap();
    let (mut shape, each) = (column.shape(), values.len() / column.shape()[0]);
    change(&mut values);
    shape[0] = values.len() / each;
    column.resize(shape).unwrap();
    column.write_raw(&values).unwrap();
    drop(column);
    file.close().unwrap();
    let read =
        |data: Dataset| (0..3).try_for_each(|i| data.read(i).and(data.voxel_labels(i)).map(|_| ()));
    let message = Dataset::open(&path).and_then(read).unwrap_err().to_string();
    assert!(message.contains("own.h5") && !message.contains('\n'), "{message}");
    message
}

#[test]
fn grids_that_cannot_be_are_named() {
    let expect = |message: String, what: &str| assert!(message.contains(what), "{message}");
    expect(message_after("grids/dims", |dims: &mut Vec<u32>| dims[3] = 0), "for item 1");
    expect(message_after("grids/dims", |dims: &mut Vec<u32>| dims[3] = u32::MAX), "for item 1");
    expect(message_after("grids/dims", |dims: &mut Vec<u32>| dims[3] = 11), "grids/offsets");
    expect(message_after("grids/dims", |dims: &mut Vec<u32>| dims.truncate(6)), "3 rows");
    for wrong in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        let set = |sizes: &mut Vec<f64>| sizes[4] = wrong;
        assert!(message_after("grids/voxel_sizes", set).contains("grids"));
        let set = |matrices: &mut Vec<f64>| matrices[10] = wrong;
        assert!(message_after("grids/directions", set).contains("grids/directions"));
    }
    for (place, value) in [(0, 1), (1, 0), (2, u64::MAX), (3, 1 << 40)] {
        let set = |offsets: &mut Vec<u64>| offsets[place] = value;
        expect(message_after("grids/offsets", set), "grids/offsets");
    }
    expect(message_after("grids/values", |v: &mut Vec<f32>| v.truncate(600)), "grids/values");
    expect(message_after("grids/values", |v: &mut Vec<f32>| v[400] = f32::NAN), "finite");
    expect(message_after("grids/labels", |l: &mut Vec<u8>| l[400] = 3), "labels below 3");
    expect(message_after("grids/labels", |l: &mut Vec<u8>| l.truncate(9)), "grids/labels");
}
