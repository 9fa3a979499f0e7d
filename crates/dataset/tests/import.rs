//! Importers on the bundled data, on made-up archives and on broken ones.

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::{f32s, f64s, i64s, npy, repository, voxeliser, write_npz};
use steer3d_dataset::{
    BuildError, Dataset, ImportOptions, Recipe, Split, Storage, arrays as arrays_source, backbone,
    build, import_arrays, import_cath, import_medmnist, import_tetris, tetris_voxeliser,
};
use steer3d_formats::npz::{Npz, NpzError};
use steer3d_so3::{Rotation, Stream};
use steer3d_volume::Voxeliser;

fn options() -> ImportOptions {
    ImportOptions::default()
}

#[test]
fn the_bundled_cath_set_imports_as_the_paper_voxelises() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("cath.h5");
    let source = repository("data/cath/cath_3class_ca_small.npz");
    import_cath(&source, &out, &voxeliser(), &options()).unwrap();
    let dataset = Dataset::open(&out).unwrap();
    let meta = dataset.meta();
    assert_eq!(meta.class_names, ["1 mainly alpha", "2 mainly beta", "3 alpha beta"]);
    assert_eq!((meta.dims, meta.voxel_size), ([24; 3], [2.0; 3]));
    assert!(meta.provenance.notes.contains("; 0 of "), "{}", meta.provenance.notes);
    let readme = fs::read_to_string(repository("data/README.md")).unwrap();
    assert!(readme.contains(meta.provenance.sha256.as_ref().unwrap()));
    assert_eq!(dataset.len(), 480);
    let counts = Split::ALL.map(|split| dataset.indices(split).len());
    assert_eq!(counts, [336, 48, 96]);
    let total: usize = Split::ALL.map(|split| dataset.class_counts(split)[0]).iter().sum();
    assert_eq!(total, 160);
    for item in [0, 250, 479] {
        let (volume, points) = (dataset.read(item).unwrap(), dataset.points(item).unwrap());
        let points = points.unwrap();
        let mass: f64 = volume.data().iter().map(|&v| f64::from(v)).sum();
        assert!((mass - points.len() as f64).abs() < 1e-3 * mass, "every atom counts once");
        let again = meta.voxeliser.unwrap().voxelise(&points, &Rotation::identity()).unwrap();
        assert_eq!(again, volume, "the stored points make the stored volume");
    }
}

#[test]
fn the_bundled_adrenal_set_imports_with_its_splits_stated() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("adrenal.h5");
    let source = repository("data/adrenal/adrenalmnist3d_trainval.npz");
    let names = Some(vec!["normal".to_owned(), "mass".to_owned()]);
    import_medmnist(&source, &out, &ImportOptions { class_names: names, seed: 5, ..options() })
        .unwrap();
    let dataset = Dataset::open(&out).unwrap();
    assert_eq!(dataset.class_counts(Split::Test), [76, 22]);
    assert_eq!(dataset.class_counts(Split::Validation), [93, 26]);
    assert_eq!(dataset.class_counts(Split::Train), [836, 233]);
    assert!(dataset.meta().provenance.notes.contains("seed 5"));
    assert!(matches!(dataset.meta().storage, Storage::U8 { .. }));
    let summary = dataset.summary().unwrap();
    assert_eq!((summary.min, summary.max), (0.0, 1.0));
    assert!(summary.file_bytes * 50 < summary.value_bytes, "masks stay small");
}

#[test]
fn tetris_test_items_are_rotated_points() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("tetris.h5");
    import_tetris(&out, &tetris_voxeliser(), 3, &ImportOptions { seed: 2, ..options() }).unwrap();
    let dataset = Dataset::open(&out).unwrap();
    assert_eq!(Split::ALL.map(|split| dataset.indices(split).len()), [8, 8, 24]);
    for split in Split::ALL {
        let each = dataset.class_counts(split)[0];
        assert!(dataset.class_counts(split).iter().all(|&count| count == each));
    }
    for item in dataset.indices(Split::Test) {
        let label = dataset.labels()[item];
        let stored = dataset.labels().iter().position(|&l| l == label).unwrap();
        let distances = |i: usize| {
            let points = dataset.points(i).unwrap().unwrap();
            let [a, b] = [points.positions()[0], points.positions()[3]];
            a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum::<f64>()
        };
        assert!((distances(item) - distances(stored)).abs() < 1e-12);
        let volume = dataset.read(item).unwrap();
        let mass: f64 = volume.data().iter().map(|&v| f64::from(v)).sum();
        assert!((mass - 4.0).abs() < 1e-5);
        let face = volume.data()[..225].iter().copied().fold(0.0, f32::max);
        assert!(face < 1e-4, "nothing is cut off");
    }
    let again = folder.path().join("again.h5");
    import_tetris(&again, &tetris_voxeliser(), 3, &ImportOptions { seed: 2, ..options() }).unwrap();
    let again = Dataset::open(&again).unwrap();
    assert_eq!(again.read(39).unwrap(), dataset.read(39).unwrap());
    let two = Voxeliser { channels: 2, ..tetris_voxeliser() };
    assert!(import_tetris(&out, &two, 1, &options()).is_err());
}

type Array = (&'static str, &'static str, &'static str, Vec<u8>);

/// Two domains of up to two atoms for each of the ten splits.
fn cath() -> Vec<Array> {
    vec![
        ("positions", "<f8", "(20, 2, 3)", f64s((0..120).map(|k| f64::from(k % 7) - 3.0))),
        ("n_atoms", "<i8", "(20,)", i64s((0..20).map(|k| 1 + k % 2))),
        ("atom_types", "|S2", "(20, 2)", b"CAN\0".repeat(20)),
        ("labels", "<i8", "(20, 2)", i64s((0..20).flat_map(|k| [3, [10, 40][k % 2]]))),
        ("split_start_indices", "<i8", "(10,)", i64s((0..10).map(|k| 2 * k))),
    ]
}

fn medmnist() -> Vec<Array> {
    let masks = |n: usize| (0..n * 8).map(|k| (k % 2 * 255) as u8).collect::<Vec<_>>();
    vec![
        ("train_images", "|u1", "(20, 2, 2, 2)", masks(20)),
        ("train_labels", "|u1", "(20, 1)", (0..20).map(|k| k % 2).collect()),
        ("val_images", "|u1", "(3, 2, 2, 2)", masks(3)),
        ("val_labels", "|u1", "(3, 1)", vec![0, 1, 1]),
        ("test_images", "|u1", "(2, 2, 2, 2)", masks(2)),
        ("test_labels", "|u1", "(2, 1)", vec![0, 1]),
    ]
}

fn arrays() -> Vec<Array> {
    vec![
        ("volumes", "<f4", "(3, 2, 1, 2, 2)", f32s((0..24).map(|k| k as f32))),
        ("labels", "<i8", "(3,)", i64s([1, 0, 2])),
        ("split", "|u1", "(3,)", vec![0, 1, 2]),
    ]
}

/// Four domains of two or three residues in three superfamilies.
fn backbones() -> Vec<Array> {
    let place = |k: i16| 200 * (k % 7) - 300 * (k % 5) + 7 * k;
    vec![
        (
            "xyz_centi_angstrom",
            "<i2",
            "(10, 5, 3)",
            (0..150).flat_map(|k| place(k).to_le_bytes()).collect(),
        ),
        ("residues", "|u1", "(10,)", b"GAWCKLMNXY".to_vec()),
        ("dssp", "|u1", "(10,)", b"HGIEBTSCHE".to_vec()),
        ("offsets", "<i8", "(5,)", i64s([0, 2, 5, 7, 10])),
        ("domain_ids", "|S7", "(4,)", b"1abcA001abcA011abcB001abcB01".to_vec()),
        ("cath", "<i8", "(4, 4)", i64s([1, 10, 8, 10, 2, 40, 50, 1, 1, 10, 8, 10, 3, 30, 70, 20])),
    ]
}

fn changed(mut arrays: Vec<Array>, name: &str, with: Option<Array>) -> Vec<Array> {
    let at = arrays.iter().position(|array| array.0 == name).unwrap();
    match with {
        Some(array) => arrays[at] = array,
        None => {
            arrays.remove(at);
        }
    }
    arrays
}

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn import(
        &self,
        arrays: &[Array],
        import: impl Fn(&Path, &Path) -> Result<(), BuildError>,
    ) -> Result<Dataset, BuildError> {
        let (source, out) = (self.path("source.npz"), self.path("out.h5"));
        write_npz(&source, arrays);
        import(&source, &out)?;
        Ok(Dataset::open(&out)?)
    }

    fn cath(&self, arrays: &[Array]) -> Result<Dataset, BuildError> {
        let voxeliser = Voxeliser { channels: 2, ..Voxeliser::paper(8, 2.0) };
        self.import(arrays, |source, out| import_cath(source, out, &voxeliser, &options()))
    }

    fn medmnist(&self, arrays: &[Array]) -> Result<Dataset, BuildError> {
        self.import(arrays, |source, out| import_medmnist(source, out, &options()))
    }

    fn backbones(&self, arrays: &[Array]) -> Result<Dataset, BuildError> {
        self.import(arrays, |source, out| import_backbones(source, out, &options()))
    }

    fn arrays(&self, arrays: &[Array]) -> Result<Dataset, BuildError> {
        self.import(arrays, |source, out| import_arrays(source, out, &options()))
    }
}

fn import_backbones(source: &Path, out: &Path, options: &ImportOptions) -> Result<(), BuildError> {
    build(&backbone(source, options)?, out, false, &|_| {}).map(|_| ())
}

/// The message, which is one line and names the file and the array.
fn refused(result: Result<Dataset, BuildError>, array: &str) {
    let message = result.expect_err(array).to_string();
    assert!(message.contains("source.npz") && message.contains(array), "{message}");
    assert!(!message.contains('\n'), "{message}");
}

#[test]
fn architectures_and_atom_types_become_classes_and_channels() {
    let folder = Folder::new();
    let dataset = folder.cath(&cath()).unwrap();
    assert_eq!(dataset.meta().class_names, ["3.10 roll", "3.40 3-layer (aba) sandwich"]);
    assert_eq!(dataset.meta().channels, 2);
    assert_eq!(dataset.points(1).unwrap().unwrap().channels(), [0, 1]);
    assert_eq!(dataset.indices(Split::Validation), [14, 15]);
    assert_eq!(dataset.ids()[3], "domain_3");
}

#[test]
fn cath_archives_may_have_any_number_of_splits() {
    let folder = Folder::new();
    for (starts, counts, notes) in [
        (vec![0], [20, 0, 0], "splits 0 train, none validation, none test"),
        (vec![0, 15], [15, 0, 5], "splits 0 train, none validation, 1 test"),
        (vec![0, 12, 15], [12, 3, 5], "splits 0 train, 1 validation, 2 test"),
        ((0..9).collect(), [6, 1, 13], "splits 0-5 train, 6 validation, 7-8 test"),
        ((0..10).map(|k| 2 * k).collect(), [14, 2, 4], "splits 0-6 train, 7 validation, 8-9 test"),
        ((0..20).collect(), [14, 2, 4], "splits 0-13 train, 14-15 validation, 16-19 test"),
    ] {
        let shape: &'static str = format!("({},)", starts.len()).leak();
        let array = ("split_start_indices", "<i8", shape, i64s(starts));
        let dataset = folder.cath(&changed(cath(), "split_start_indices", Some(array))).unwrap();
        let found = Split::ALL.map(|split| dataset.indices(split).len());
        assert_eq!(found, counts, "{shape}");
        let provenance = &dataset.meta().provenance.notes;
        assert!(provenance.contains(notes), "{provenance}");
    }
}

#[test]
fn broken_cath_archives_are_refused() {
    let folder = Folder::new();
    for name in ["positions", "n_atoms", "atom_types", "labels", "split_start_indices"] {
        refused(folder.cath(&changed(cath(), name, None)), name);
    }
    let nan = f64s((0..120).map(|k| if k == 7 { f64::NAN } else { 0.0 }));
    for (array, named) in [
        (("positions", "<f8", "(20, 2, 3)", nan), "item 1"),
        (("positions", "<f8", "(20, 3, 2)", f64s([0.0; 120])), "positions"),
        (("positions", "|S8", "(20, 2, 3)", vec![b'1'; 960]), "positions"),
        (("positions", "<f8", "(0, 2, 3)", Vec::new()), "positions"),
        (("positions", "<f8", "(20, 2, 3)", f64s([0.0; 119])), "positions"),
        (("n_atoms", "<i8", "(20,)", i64s([3; 20])), "n_atoms"),
        (("n_atoms", "<i8", "(20,)", i64s([0; 20])), "n_atoms"),
        (("n_atoms", "<f8", "(20,)", f64s([1.0; 20])), "n_atoms"),
        (("n_atoms", "<i8", "(19,)", i64s([1; 19])), "n_atoms"),
        (("atom_types", "|u1", "(20, 2)", vec![0; 40]), "atom_types"),
        (("labels", "<i8", "(20, 3)", i64s([1; 60])), "labels"),
        (("labels", "|O", "(20, 1)", vec![0; 160]), "pickled"),
        (("split_start_indices", "<i8", "(10,)", i64s([0; 10])), "split_start_indices"),
        (("split_start_indices", "<i8", "(10,)", i64s(1..11)), "split_start_indices"),
        (("split_start_indices", "<i8", "(10,)", i64s((0..10).map(|k| 3 * k))), "split_start"),
        (("split_start_indices", "<i8", "(0,)", i64s([])), "split_start_indices"),
        (("split_start_indices", "<i8", "(21,)", i64s(0..21)), "split_start_indices"),
    ] {
        let name = array.0;
        refused(folder.cath(&changed(cath(), name, Some(array))), named);
    }
    let one_channel =
        |source: &Path, out: &Path| import_cath(source, out, &Voxeliser::paper(8, 2.0), &options());
    let message = folder.import(&cath(), one_channel).unwrap_err().to_string();
    assert!(message.contains("CA, N"), "{message}");
    assert!(!folder.path("out.h5").exists());
}

#[test]
fn medmnist_keeps_a_test_part_that_is_there() {
    let folder = Folder::new();
    let dataset = folder.medmnist(&medmnist()).unwrap();
    assert_eq!(Split::ALL.map(|split| dataset.indices(split).len()), [20, 3, 2]);
    assert_eq!(dataset.ids()[24], "test_00001");
    assert_eq!(dataset.read(0).unwrap().data(), [0.0, 1.0, 0.0, 1.0, 0.0, 1.0, 0.0, 1.0]);
}

#[test]
fn broken_medmnist_archives_are_refused() {
    let folder = Folder::new();
    for name in ["train_images", "val_images", "train_labels", "test_labels"] {
        refused(folder.medmnist(&changed(medmnist(), name, None)), name);
    }
    for array in [
        ("train_images", "<f4", "(20, 2, 2, 2)", f32s([0.0; 160])),
        ("train_images", "|u1", "(20, 8)", vec![0; 160]),
        ("train_images", "|u1", "(20, 2, 2, 0)", Vec::new()),
        ("val_images", "|u1", "(3, 1, 2, 4)", vec![0; 24]),
        ("val_labels", "|u1", "(2, 1)", vec![0; 2]),
        ("val_labels", "|i1", "(3, 1)", vec![0, 255, 0]),
    ] {
        let name = array.0;
        refused(folder.medmnist(&changed(medmnist(), name, Some(array))), name);
    }
    let names = ImportOptions { class_names: Some(vec!["only".to_owned()]), ..options() };
    let result = folder.import(&medmnist(), |source, out| import_medmnist(source, out, &names));
    assert!(matches!(result, Err(BuildError::Option { option: "class names", .. })));
}

#[test]
fn arrays_of_any_number_type_import() {
    let folder = Folder::new();
    let dataset = folder.arrays(&arrays()).unwrap();
    assert_eq!((dataset.meta().channels, dataset.meta().dims), (2, [1, 2, 2]));
    assert_eq!(dataset.read(1).unwrap().data(), [8.0, 9.0, 10.0, 11.0, 12.0, 13.0, 14.0, 15.0]);
    assert_eq!(dataset.splits(), Split::ALL);
    assert_eq!(dataset.meta().class_names, ["0", "1", "2"]);
    for (dtype, bytes, storage) in [
        (">f8", (0..3).flat_map(|k| f64::from(k).to_be_bytes()).collect(), Storage::F32),
        ("<i2", (0..3).flat_map(i16::to_le_bytes).collect(), Storage::F32),
        ("|u1", vec![0, 1, 2], Storage::U8 { scale: 1.0 }),
    ] {
        let volumes = ("volumes", dtype, "(3, 1, 1, 1)", bytes);
        let dataset = folder.arrays(&changed(arrays(), "volumes", Some(volumes))).unwrap();
        assert_eq!(dataset.read(2).unwrap().data(), [2.0], "{dtype}");
        assert_eq!(dataset.meta().storage, storage);
    }
    let labels = ("labels", "|b1", "(3,)", vec![0, 1, 0]);
    let without = changed(changed(arrays(), "labels", Some(labels)), "split", None);
    assert!(folder.arrays(&without).unwrap().meta().provenance.notes.contains("no splits"));
    let vectors = ImportOptions { irreps: Some("1x1".parse().unwrap()), ..options() };
    let result = folder.import(&arrays(), |source, out| import_arrays(source, out, &vectors));
    assert!(result.is_err(), "two channels are no vector");
}

#[test]
fn arrays_may_have_targets_and_labels_of_voxels_instead_of_labels() {
    let folder = Folder::new();
    let targets = ("targets", "<f8", "(3, 3)", f64s((0..9).map(f64::from)));
    let voxels = ("voxel_labels", "|u1", "(3, 1, 2, 2)", (0..12).map(|k| k % 5).collect());
    let with = |extra: &[Array]| [changed(arrays(), "labels", None), extra.to_vec()].concat();
    let vectors = ImportOptions { target_irreps: Some("1x1".parse().unwrap()), ..options() };
    let both = with(&[targets.clone(), voxels.clone()]);
    let dataset = folder.import(&both, |source, out| import_arrays(source, out, &vectors)).unwrap();
    assert_eq!(dataset.labels(), [0; 3]);
    let tasks = dataset.tasks().unwrap();
    assert_eq!(tasks.targets, Some("1x1".parse().unwrap()));
    assert_eq!(tasks.voxel_classes, ["0", "1", "2", "3", "4"]);
    assert_eq!(dataset.targets(1), [3.0, 4.0, 5.0]);
    assert_eq!(dataset.voxel_labels(2).unwrap(), [3, 4, 0, 1]);
    let dataset = folder.arrays(&with(std::slice::from_ref(&targets))).unwrap();
    assert_eq!(dataset.tasks().unwrap().targets, Some("3x0".parse().unwrap()));
    let wrong = ImportOptions { target_irreps: Some("1x2".parse().unwrap()), ..options() };
    let error = folder.import(&with(&[targets]), |source, out| import_arrays(source, out, &wrong));
    assert!(error.unwrap_err().to_string().contains("irreps of the targets"));
    for bad in [
        ("targets", "<f8", "(2, 3)", f64s((0..6).map(f64::from))),
        ("voxel_labels", "<i8", "(3, 1, 2, 2)", i64s((0..12).map(|k| k * 100))),
        ("voxel_labels", "|u1", "(3, 1, 4)", vec![0; 12]),
    ] {
        let name = bad.0;
        refused(folder.arrays(&with(&[bad])), name);
    }
}

#[test]
fn arrays_without_labels_have_no_classes_and_are_for_testing() {
    let folder = Folder::new();
    let without = changed(changed(arrays(), "labels", None), "split", None);
    let dataset = folder.arrays(&without).unwrap();
    assert!(dataset.meta().class_names.is_empty() && dataset.class(0).is_none());
    assert_eq!(dataset.splits(), [Split::Test; 3]);
    let names = ImportOptions {
        target_irreps: Some("1x0+1x1".parse().unwrap()),
        target_names: Some(vec!["energy".into(), "dipole".into()]),
        target_units: Some(vec!["eV".into(), "D".into()]),
        ..options()
    };
    let targets = ("targets", "<f8", "(3, 4)", f64s((0..12).map(f64::from)));
    let with = [without, vec![targets]].concat();
    let import = |options: &ImportOptions| {
        folder.import(&with, |source, out| import_arrays(source, out, options))
    };
    let dataset = import(&names).unwrap();
    assert_eq!(dataset.tasks().unwrap().target_names, ["energy", "dipole"]);
    assert_eq!(dataset.tasks().unwrap().target_units, ["eV", "D"]);
    assert!(matches!(dataset.meta().recipe, Some(Recipe::Volumes { factor: 1.0, .. })));
    let wrong = ImportOptions { target_units: Some(vec!["eV".into()]), ..names };
    assert!(import(&wrong).unwrap_err().to_string().contains("target units"));
}

#[test]
fn broken_arrays_are_refused() {
    let folder = Folder::new();
    refused(folder.arrays(&changed(arrays(), "volumes", None)), "volumes");
    let mut nan = [0.0; 24];
    nan[9] = f32::NAN;
    for (array, named) in [
        (("volumes", "<f4", "(3, 2, 1, 2, 2)", f32s(nan)), "item 1"),
        (("volumes", "<f8", "(3, 1, 1, 1)", f64s([0.0, 1.0, 1e300])), "item 2"),
        (("volumes", "|S8", "(3, 1, 1, 1)", vec![b'a'; 24]), "volumes"),
        (("volumes", "<f4", "(3, 0, 1, 1)", Vec::new()), "volumes"),
        (("volumes", "<f4", "(24,)", f32s([0.0; 24])), "volumes"),
        (("volumes", "|u1", "(3, 16777216, 16777216, 16777216)", vec![0; 24]), "volumes"),
        (("labels", "<i8", "(2,)", i64s([0, 1])), "labels"),
        (("labels", "<i8", "(3,)", i64s([0, -1, 2])), "labels"),
        (("labels", "<i8", "(3,)", i64s([0, 1 << 40, 2])), "labels"),
        (("split", "|u1", "(3,)", vec![0, 1, 3]), "split"),
    ] {
        let name = array.0;
        refused(folder.arrays(&changed(arrays(), name, Some(array))), named);
    }
}

#[test]
fn an_import_that_was_stopped_goes_on_and_may_leave_items_out() {
    let folder = Folder::new();
    let (npz, out, whole) = (folder.path("source.npz"), folder.path("out.h5"), folder.path("w.h5"));
    let store = |broken: usize, value: f32| {
        let volumes = (0..600).map(|i| if i == broken { value } else { i as f32 });
        let targets = f64s((0..600).map(f64::from));
        let arrays = [
            ("volumes", "<f4", "(600, 1, 1, 1)", f32s(volumes)),
            ("targets", "<f8", "(600,)", targets),
        ];
        write_npz(&npz, &arrays);
        arrays_source(&npz, &options()).unwrap()
    };
    let source = store(300, f32::NAN);
    let error = build(&source, &out, false, &|_| {}).unwrap_err().to_string();
    assert!(error.contains("source.npz: item 300") && error.contains("--skip-broken"), "{error}");
    let built = build(&source, &out, true, &|_| {}).unwrap();
    assert_eq!((built.items, built.resumed), (599, 256));
    assert_eq!(built.skipped[0].source, "item_000300");
    build(&source, &whole, true, &|_| {}).unwrap();
    assert!(fs::read(&out).unwrap() == fs::read(&whole).unwrap(), "the same bytes");
    let dataset = Dataset::open(&out).unwrap();
    assert_eq!(dataset.targets(300), [301.0]);
    assert!(dataset.verify(&|_| {}).is_empty());

    // What is left of another archive does not hinder, and is not taken.
    build(&source, &out, false, &|_| {}).unwrap_err();
    let built = build(&store(300, -1.0), &out, false, &|_| {}).unwrap();
    assert_eq!((built.items, built.resumed), (600, 0));
    assert_eq!(Dataset::open(&out).unwrap().read(300).unwrap().data(), [-1.0]);
}

#[test]
fn a_small_archive_cannot_claim_much_memory() {
    let folder = Folder::new();
    let path = folder.path("bomb.npz");
    // 64 MiB of zeros deflate to 64 kB, and the header declares 8 GiB.
    write_npz(&path, &[("volumes", "|u1", "(8589934592,)", vec![0; 1 << 26])]);
    let error = Npz::open(&path).unwrap().read("volumes").unwrap_err();
    assert!(matches!(error, NpzError::Array { .. }), "{error}");
    // Under the cap, but more than the member has.
    write_npz(&path, &[("volumes", "|u1", "(2147483648,)", vec![0; 1 << 10])]);
    assert!(Npz::open(&path).unwrap().read("volumes").is_err());
}

#[test]
fn backbones_become_maps_with_labels_of_voxels() {
    let folder = Folder::new();
    let dataset = folder.backbones(&backbones()).unwrap();
    let meta = dataset.meta();
    assert_eq!((meta.dims, meta.voxel_size, &*meta.unit), ([24; 3], [2.0; 3], "angstrom"));
    assert_eq!(dataset.tasks().unwrap().voxel_classes, ["background", "coil", "helix", "strand"]);
    assert_eq!(dataset.ids(), ["1abcA00", "1abcA01", "1abcB00", "1abcB01"]);
    assert_eq!(dataset.splits()[0], dataset.splits()[2], "a superfamily stays together");
    let labels = |item| {
        let mut labels = dataset.voxel_labels(item).unwrap();
        labels.sort_unstable();
        labels.dedup();
        labels
    };
    assert_eq!([labels(0), labels(1), labels(2)], [vec![0, 2], vec![0, 2, 3], vec![0, 1]]);
    for item in 0..4 {
        let volume = dataset.read(item).unwrap();
        let power = |n| volume.data().iter().map(|&v| f64::from(v).powi(n)).sum::<f64>();
        assert!((power(3) / power(2) - 1.0).abs() < 1e-5, "the dense parts are about 1");
    }
    // Peaks are lower where the resolution is, and what is drawn depends on the seed alone.
    let source = folder.path("source.npz");
    let at = |resolution: &[f64], seed| {
        let options = ImportOptions { resolution: Some(resolution.to_vec()), seed, ..options() };
        let out = folder.path("other.h5");
        import_backbones(&source, &out, &options).unwrap();
        Dataset::open(&out).unwrap().read(3).unwrap()
    };
    let [sharp, blurred] =
        [4.0, 9.0].map(|r| at(&[r], 0).data().iter().filter(|&&v| v > 0.0).count());
    assert!(blurred > sharp, "{blurred} {sharp}");
    assert_eq!(at(&[4.0, 9.0], 1), at(&[4.0, 9.0], 1));
    assert_ne!(at(&[4.0, 9.0], 1), at(&[4.0, 9.0], 2));
}

#[test]
fn domains_that_are_whole_chains_can_be_taken_alone() {
    let folder = Folder::new();
    let sharp = ImportOptions { resolution: Some(vec![4.0]), ..options() };
    let import = |arrays: &[Array], options: &ImportOptions| {
        folder.import(arrays, |source, out| import_backbones(source, out, options))
    };
    let all = import(&backbones(), &sharp).unwrap();
    let expected = [0, 2].map(|item| (all.ids()[item].clone(), all.read(item).unwrap()));
    let whole_chains = ImportOptions { whole_chains: true, ..sharp };
    let chains = import(&backbones(), &whole_chains).unwrap();
    let found = [0, 1].map(|item| (chains.ids()[item].clone(), chains.read(item).unwrap()));
    assert_eq!((found, chains.len()), (expected, 2));
    let parts = ("domain_ids", "|S7", "(4,)", b"1abcA011abcA021abcB011abcB02".to_vec());
    let parts = changed(backbones(), "domain_ids", Some(parts));
    let message = import(&parts, &whole_chains).unwrap_err().to_string();
    assert_eq!(message, "whole-chains: expected domains whose ID ends with 00, found none");
}

#[test]
fn broken_backbones_are_refused() {
    let folder = Folder::new();
    let bad: [(&str, Option<Array>); 8] = [
        ("xyz_centi_angstrom", None),
        ("xyz_centi_angstrom", Some(("xyz_centi_angstrom", "<i2", "(25, 2, 3)", vec![0; 300]))),
        ("dssp", Some(("dssp", "|u1", "(9,)", b"HGIEBTSCH".to_vec()))),
        ("residues", Some(("residues", "<i2", "(10,)", vec![65; 20]))),
        ("offsets", Some(("offsets", "<i8", "(5,)", i64s([0, 2, 2, 7, 10])))),
        ("offsets", Some(("offsets", "<i8", "(5,)", i64s([0, 2, 5, 7, 11])))),
        ("cath", Some(("cath", "<f8", "(4, 4)", f64s((0..16).map(f64::from))))),
        ("domain_ids", Some(("domain_ids", "<i8", "(4,)", i64s([1, 2, 3, 4])))),
    ];
    for (name, with) in bad {
        refused(folder.backbones(&changed(backbones(), name, with)), name);
    }
    for resolution in [vec![], vec![0.0], vec![8.0, 4.0], vec![f64::NAN], vec![4.0, 5.0, 6.0]] {
        let options = ImportOptions { resolution: Some(resolution), ..options() };
        let error = import_backbones(&folder.path("source.npz"), &folder.path("o.h5"), &options);
        assert!(error.unwrap_err().to_string().starts_with("resolution: expected"));
    }
}

#[test]
fn files_that_are_not_archives_are_refused() {
    let folder = Folder::new();
    let (source, out) = (folder.path("source.npz"), folder.path("out.h5"));
    let message = import_arrays(&source, &out, &options()).unwrap_err().to_string();
    assert!(message.contains("source.npz"), "{message}");
    for contents in [Vec::new(), b"text".to_vec(), npy("<f4", "(1,)", &[0; 4])] {
        fs::write(&source, contents).unwrap();
        assert!(matches!(
            import_arrays(&source, &out, &options()),
            Err(BuildError::Npz(NpzError::Archive { .. }))
        ));
    }
}

type Import<'a> = &'a dyn Fn() -> Result<(), BuildError>;

#[test]
fn truncated_and_mutated_archives_end_well_or_in_an_error() {
    let folder = Folder::new();
    let (source, out) = (folder.path("source.npz"), folder.path("out.h5"));
    let voxeliser = Voxeliser { channels: 2, ..Voxeliser::paper(8, 2.0) };
    let cases: [(Vec<Array>, Import<'_>); 4] = [
        (cath(), &|| import_cath(&source, &out, &voxeliser, &options())),
        (medmnist(), &|| import_medmnist(&source, &out, &options())),
        (arrays(), &|| import_arrays(&source, &out, &options())),
        (backbones(), &|| import_backbones(&source, &out, &options())),
    ];
    for (case, (arrays, import)) in cases.iter().enumerate() {
        write_npz(&source, arrays);
        let bytes = fs::read(&source).unwrap();
        for k in 0..24 {
            fs::write(&source, &bytes[..bytes.len() * k / 24]).unwrap();
            assert!(import().is_err(), "cut short");
        }
        for k in 0..150 {
            let mut stream = Stream::new(3, "mutants", &[case as u64, k]);
            let mut mutant = bytes.clone();
            for _ in 0..=stream.below(4) {
                let at = stream.below(mutant.len());
                mutant[at] = stream.below(256) as u8;
            }
            fs::write(&source, &mutant).unwrap();
            if import().is_ok() {
                Dataset::open(&out).unwrap().summary().unwrap();
            }
        }
    }
}
