//! Building datasets: trees, tables, stopped builds, broken files, splits.

mod common;

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use steer3d_dataset::{
    BuildError, BuildReport, Dataset, DatasetMeta, DatasetWriter, Entry, FileRecipe, Fit,
    Fractions, Item, ItemData, ItemError, ItemSource, Listing, Provenance, Recipe, RecipeOptions,
    Split, Storage, Store, build, group_splits, random_splits,
};
use steer3d_volume::{ChannelScheme, Grid, PointCloud, PointValue, Volume, VolumeError, Weight};

/// An XYZ file of a few atoms.
fn xyz(seed: usize) -> String {
    let atoms: Vec<_> = (0..4 + seed % 3)
        .map(|k| format!("{} {} {} {}", ["C", "N", "O"][k % 3], k, (k * seed) % 5, seed % 4))
        .collect();
    format!("{}\nmade for a test\n{}\n", atoms.len(), atoms.join("\n"))
}

fn write(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

/// A tree of `count` files in each of two classes.
fn tree(root: &Path, count: usize) {
    for (c, class) in ["ring", "Kette ü"].iter().enumerate() {
        for i in 0..count {
            write(&root.join(class).join(format!("{i:03}.xyz")), &xyz(7 * i + c));
        }
    }
}

fn small() -> RecipeOptions {
    RecipeOptions {
        size: Some([8; 3]),
        voxel_size: Some([1.0; 3]),
        channels: ChannelScheme::Elements { listed: vec![6, 7, 8], other: false },
        ..RecipeOptions::default()
    }
}

fn listing(root: &Path) -> Listing {
    let mut listing = Listing::of_tree(root).unwrap();
    listing.settle_splits(&Fractions::default(), 0);
    listing
}

/// The items that a closure makes of entries.
fn source(
    meta: &DatasetMeta,
    entries: &[Entry],
    options: String,
    make: impl Fn(&Entry) -> Result<ItemData, ItemError> + Send + Sync + 'static,
) -> ItemSource {
    let make = Box::new(move |_, entry: &_| make(entry));
    ItemSource { meta: meta.clone(), tasks: None, entries: entries.to_vec(), options, make }
}

/// The description of what a recipe makes.
fn meta(recipe: &Recipe, class_names: &[String]) -> DatasetMeta {
    let recipe = recipe.clone();
    DatasetMeta::of_recipe(recipe, "set", class_names.to_vec(), Provenance::default()).unwrap()
}

/// Makes items as options say for files of the kind of `first`.
fn maker(options: &RecipeOptions, first: &Path) -> FileRecipe {
    FileRecipe::new(options.settled_by(first).unwrap(), options.store)
}

/// Builds with a recipe; `fail_at` makes the item of that source fail.
fn run(
    out: &Path,
    listing: &Listing,
    recipe: &RecipeOptions,
    skip_broken: bool,
    fail_at: &str,
) -> Result<(BuildReport, usize), BuildError> {
    let settled = recipe.settled_by(&listing.entries[0].path).unwrap();
    let meta = meta(&settled, &listing.class_names);
    let maker = FileRecipe::new(settled, recipe.store);
    let options = serde_json::to_string(recipe).unwrap();
    let made = Arc::new(AtomicUsize::new(0));
    let (count, fail_at) = (Arc::clone(&made), fail_at.to_owned());
    let make = move |entry: &Entry| {
        count.fetch_add(1, Ordering::Relaxed);
        if entry.source == fail_at {
            let (expected, found) = ("nothing".to_owned(), "a planted error".to_owned());
            return Err(ItemError::Kind { path: entry.path.clone(), expected, found });
        }
        maker.make(entry)
    };
    let source = source(&meta, &listing.entries, options, make);
    let built = build(&source, out, skip_broken, &|_| {})?;
    Ok((built, made.load(Ordering::Relaxed)))
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn a_tree_becomes_a_dataset() {
    let folder = tempfile::tempdir().unwrap();
    let (root, out) = (folder.path().join("tree"), folder.path().join("set.h5"));
    tree(&root, 10);
    write(&root.join("ring/README"), "not an item");
    write(&root.join("ring/.hidden.xyz"), "not an item");
    let listing = listing(&root);
    assert_eq!(listing.class_names, ["Kette ü", "ring"]);
    assert_eq!(listing.ignored, [root.join("ring/README")]);
    let (built, made) = run(&out, &listing, &small(), false, "").unwrap();
    assert_eq!((built.items, built.resumed, built.skipped.len(), made), (20, 0, 0, 20));
    let dataset = Dataset::open(&out).unwrap();
    assert_eq!(dataset.len(), 20);
    assert_eq!(dataset.sources().unwrap()[10], "ring/000.xyz");
    assert_eq!(dataset.ids()[0], "Kette ü/000.xyz");
    assert_eq!(dataset.class_counts(Split::Test), [1, 1]);
    let points = dataset.points(0).unwrap().unwrap();
    assert_eq!(points.channels(), [0, 1, 2, 0, 1]);
    let sums: Vec<f32> =
        dataset.read(0).unwrap().data().chunks(512).map(|c| c.iter().sum()).collect();
    for (sum, expected) in sums.iter().zip([2.0, 2.0, 1.0]) {
        assert!((sum - expected).abs() < 1e-5, "{sums:?}");
    }
    assert!(dataset.verify(&|_| {}).is_empty());
    assert_eq!(names(folder.path()), ["set.h5", "tree"]);
}

#[test]
fn a_stopped_build_goes_on_and_gives_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    tree(&at("tree"), 300);
    let listing = listing(&at("tree"));
    run(&at("whole.h5"), &listing, &small(), false, "").unwrap();
    let whole = fs::read(at("whole.h5")).unwrap();
    fs::write(at("set.h5"), "the old file").unwrap();
    let error = run(&at("set.h5"), &listing, &small(), false, "ring/290.xyz").unwrap_err();
    assert!(error.to_string().contains("290.xyz"), "{error}");
    assert_eq!(fs::read(at("set.h5")).unwrap(), b"the old file");

    // Other options are refused, and change nothing.
    let sources = RecipeOptions { store: Store::Sources, ..small() };
    let error = run(&at("set.h5"), &listing, &sources, false, "").unwrap_err();
    assert!(matches!(error, BuildError::OtherBuild { .. }), "{error}");
    // What a killed process leaves behind is no hindrance.
    fs::write(at("set.h5.partial/.steer3d-dataset-abc.tmp"), "half a batch").unwrap();
    fs::write(at("set.h5.partial/000000.h5"), "a damaged batch").unwrap();
    let (built, made) = run(&at("set.h5"), &listing, &small(), false, "").unwrap();
    assert_eq!((built.items, built.resumed, made), (600, 256, 344));
    assert!(fs::read(at("set.h5")).unwrap() == whole, "the same bytes");
    assert_eq!(names(folder.path()), ["set.h5", "tree", "whole.h5"]);

    // A file that was repaired is read again, and its batch with it.
    run(&at("set.h5"), &listing, &small(), false, "ring/290.xyz").unwrap_err();
    let text = fs::read_to_string(at("tree/Kette ü/000.xyz")).unwrap();
    fs::write(at("tree/Kette ü/000.xyz"), text.replace("C 0 0 1", "C 0.0 0 1.5")).unwrap();
    let (built, made) = run(&at("set.h5"), &listing, &small(), false, "").unwrap();
    assert_eq!((built.items, built.resumed, made), (600, 256, 344));
    assert!(fs::read(at("set.h5")).unwrap() != whole);
}

#[test]
fn one_build_at_a_time_writes_a_dataset() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    tree(&at("tree"), 2);
    let listing = listing(&at("tree"));
    fs::create_dir(at("set.h5.partial")).unwrap();
    let other = steer3d_files::lock::lock(&at("set.h5.partial")).unwrap();
    let error = run(&at("set.h5"), &listing, &small(), false, "").unwrap_err();
    assert!(matches!(error, BuildError::Busy(_)), "{error}");
    drop(other);
    run(&at("set.h5"), &listing, &small(), false, "").unwrap();
    assert_eq!(names(folder.path()), ["set.h5", "tree"]);
}

#[test]
fn a_file_of_the_same_length_is_read_again() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    tree(&at("tree"), 300);
    let listing = listing(&at("tree"));
    run(&at("set.h5"), &listing, &small(), false, "ring/290.xyz").unwrap_err();
    let text = fs::read_to_string(at("tree/Kette ü/000.xyz")).unwrap();
    fs::write(at("tree/Kette ü/000.xyz"), text.replace("C 0 0 1", "C 0 0 2")).unwrap();
    let (built, made) = run(&at("set.h5"), &listing, &small(), false, "").unwrap();
    assert_eq!((built.items, built.resumed, made), (600, 256, 344));
    run(&at("fresh.h5"), &listing, &small(), false, "").unwrap();
    assert!(fs::read(at("set.h5")).unwrap() == fs::read(at("fresh.h5")).unwrap());
}

#[cfg(unix)]
#[test]
fn pipes_and_sockets_are_no_items() {
    use std::os::unix::net::UnixListener;
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("tree");
    tree(&root, 2);
    let socket = root.join("ring/socket.xyz");
    let _listener = UnixListener::bind(&socket).unwrap();
    let mut listing = listing(&root);
    listing.expand_records().unwrap();
    let error = run(&folder.path().join("set.h5"), &listing, &small(), false, "").unwrap_err();
    assert!(error.to_string().contains("found a pipe, socket or device"), "{error}");
    let (built, _) = run(&folder.path().join("set.h5"), &listing, &small(), true, "").unwrap();
    assert_eq!((built.items, built.skipped.len()), (4, 1));
}

#[test]
fn broken_files_stop_the_build_or_are_recorded() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    tree(&at("tree"), 3);
    write(&at("tree/ring/001.xyz"), "3\nonly two\nC 0 0 0\nC 1 0 0\n");
    write(&at("tree/ring/002.xyz"), "1\nnot finite\nC nan 0 0\n");
    let listing = listing(&at("tree"));
    let error = run(&at("set.h5"), &listing, &small(), false, "").unwrap_err().to_string();
    assert!(error.contains("001.xyz") && error.contains("--skip-broken"), "{error}");
    let (built, _) = run(&at("set.h5"), &listing, &small(), true, "").unwrap();
    let skipped: Vec<_> = built.skipped.iter().map(|s| s.source.as_str()).collect();
    assert_eq!(skipped, ["ring/001.xyz", "ring/002.xyz"]);
    let dataset = Dataset::open(at("set.h5")).unwrap();
    assert_eq!((dataset.len(), dataset.skipped()), (4, built.skipped.as_slice()));

    for class in ["ring", "Kette ü"] {
        for i in 0..3 {
            write(&at("tree").join(class).join(format!("{i:03}.xyz")), "");
        }
    }
    let make = |entry: &Entry| small().settled_by(&entry.path).map(|_| ItemData::default());
    let source = source(dataset.meta(), &listing.entries, String::new(), make);
    let error = build(&source, &at("none.h5"), true, &|_| {}).unwrap_err();
    assert!(matches!(error, BuildError::Nothing { count: 6, .. }), "{error}");
}

#[test]
fn sources_alone_give_the_same_volumes() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    tree(&at("tree"), 3);
    let listing = listing(&at("tree"));
    let read = |store: Store| {
        let recipe = RecipeOptions { store, ..small() };
        run(&at("set.h5"), &listing, &recipe, false, "").unwrap();
        let dataset = Dataset::open(at("set.h5")).unwrap();
        assert_eq!(dataset.has_volumes(), store != Store::Sources);
        assert_eq!(dataset.has_points(), store != Store::Voxels);
        assert!(dataset.verify(&|_| {}).is_empty());
        (0..6).map(|i| dataset.read(i).unwrap()).collect::<Vec<_>>()
    };
    let both = read(Store::Both);
    assert_eq!(both, read(Store::Voxels));
    assert_eq!(both, read(Store::Sources));
}

#[test]
fn trees_of_other_projects_are_understood() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    let split = |listing: &Listing, end: &str| {
        listing.entries.iter().find(|e| e.source.ends_with(end)).unwrap().split
    };
    // As ModelNet.
    for (class, part, count) in
        [("chair", "train", 20), ("chair", "test", 5), ("desk", "train", 10), ("desk", "test", 5)]
    {
        for i in 0..count {
            write(&root.join(format!("modelnet/{class}/{part}/{class}_{part}{i:04}.off")), "OFF");
        }
    }
    let mut listing = Listing::of_tree(&root.join("modelnet")).unwrap();
    assert!(listing.has_splits);
    assert_eq!(split(&listing, "desk_test0003.off"), Split::Test);
    let notes = listing.settle_splits(&Fractions::default(), 1);
    assert!(notes.contains("0.1 of the training items"), "{notes}");
    let count = |s| listing.entries.iter().filter(|e| e.split == s).count();
    assert_eq!(Split::ALL.map(count), [27, 3, 10]);

    for path in ["train/a/1.pdb", "val/a/2.pdb", "val/b/3.pdb", "test/b/deep/er/4.cif.gz"] {
        write(&root.join("splits").join(path), "");
    }
    let mut listing = Listing::of_tree(&root.join("splits")).unwrap();
    assert_eq!(listing.class_names, ["a", "b"]);
    assert_eq!(split(&listing, "er/4.cif.gz"), Split::Test);
    assert_eq!(listing.settle_splits(&Fractions::default(), 1), "splits as given");

    for class in ["10", "9", "-1"] {
        write(&root.join("numbers").join(class).join("x.mrc"), "");
    }
    let listing = Listing::of_tree(&root.join("numbers")).unwrap();
    assert_eq!(listing.class_names, ["-1", "9", "10"]);
    assert_eq!(listing.entries.iter().map(|e| e.label).collect::<Vec<_>>(), [0, 2, 1]);
}

#[test]
fn unusable_trees_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("tree");
    let message = |expected: &str| {
        let error = Listing::of_tree(&root).unwrap_err().to_string();
        assert!(error.contains(expected) && error.contains("tree"), "{expected}: {error}");
    };
    message("check the path");
    fs::create_dir(&root).unwrap();
    message("a folder for each class");
    write(&root.join("ring/a.xyz"), &xyz(1));
    fs::create_dir(root.join("empty")).unwrap();
    message("empty: expected files of a known format");
    write(&root.join("empty/test/b.xyz"), &xyz(1));
    message("a split for every item or for none");
    let deep = (0..20).map(|i| i.to_string()).collect::<Vec<_>>().join("/");
    write(&root.join("ring").join(deep).join("c.xyz"), "");
    message("folders deep");
}

#[test]
fn a_table_names_paths_labels_splits_and_groups() {
    let folder = tempfile::tempdir().unwrap();
    let table = folder.path().join("table.csv");
    let long = format!("{}/ü.xyz", "folder".repeat(20));
    write(
        &table,
        &format!(
            "label, path ,split,group\nx,\"a, b.xyz\",train,g1\ny,c.xyz,val,\nx,{long},test,g1\n"
        ),
    );
    let listing = Listing::of_table(&table).unwrap();
    assert_eq!(listing.class_names, ["x", "y"]);
    assert_eq!(listing.entries[0].path, folder.path().join("a, b.xyz"));
    assert_eq!(listing.entries[2].group, "g1");
    assert!(listing.has_groups() && listing.has_splits);
    let id = &listing.entries[2].id;
    assert!(id.len() <= 64 && id.ends_with("folder/ü.xyz") && id.contains('~'), "{id}");

    for (text, expected) in [
        ("path,class\na,b\n", "the column `class`"),
        ("label\na\n", "path and label"),
        ("path\na\n\"\"\n", "a path in every row"),
        ("path\na\na\n", "`a` of line 2 again in line 3"),
        ("path,label,spilt\na,b,train\n", "the column `spilt`"),
        ("path,label\n", "at least one item"),
        ("", "path and label"),
        ("path,label\na,b\na,c\n", "`a` of line 2 again in line 3"),
        ("path,label\na,\n", "an empty one in line 2"),
        ("path,label,split\na,b,dev\n", "the split `dev` in line 2"),
        ("path,label,split\na,b,\nc,d,test\n", "one for 1 of 2"),
        ("path,label,id\na,b,i\nc,d,i\n", "`i` of a and c"),
        ("path,label\na,b,c\n", "line: 2"),
    ] {
        write(&table, text);
        let error = Listing::of_table(&table).unwrap_err().to_string();
        assert!(error.contains(expected) && error.contains("table.csv"), "{text}: {error}");
    }
    let error = Listing::of_table(&folder.path().join("none.csv")).unwrap_err().to_string();
    assert!(error.contains("none.csv"), "{error}");
}

fn sources(listing: &Listing) -> Vec<&str> {
    listing.entries.iter().map(|entry| entry.source.as_str()).collect()
}

#[test]
fn items_without_labels_come_from_folders_files_and_lists() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    for name in ["flat/b.xyz", "flat/a.xyz", "flat/.hidden.xyz", "flat/notes", "more/c/d.mrc"] {
        write(&at(name), "");
    }
    let mut flat = Listing::of_folder(&at("flat")).unwrap();
    assert_eq!(sources(&flat), ["a.xyz", "b.xyz"]);
    assert_eq!(flat.entries[0].path, at("flat/a.xyz"));
    assert_eq!(flat.ignored, [at("flat/notes")]);
    assert!(flat.class_names.is_empty() && flat.entries.iter().all(|e| e.label == 0));
    // For evaluation, unless shares are asked for.
    assert!(flat.settle_splits(&flat.default_fractions(), 0).contains("test split"));
    assert!(flat.entries.iter().all(|e| e.split == Split::Test));
    let half = Fractions::new([0.5, 0.0, 0.5]).unwrap();
    assert!(flat.settle_splits(&half, 0).contains("item by item"));
    assert_eq!(flat.entries.iter().filter(|e| e.split == Split::Train).count(), 1);

    // In the order given, whatever the names of files and whether they are there.
    let inputs = ["more", "nowhere.mrc", "flat/notes"].map(at);
    let several = Listing::of_files(folder.path(), &inputs).unwrap();
    let paths: Vec<_> = several.entries.iter().map(|entry| entry.path.clone()).collect();
    assert_eq!(paths, [at("more/c/d.mrc"), at("nowhere.mrc"), at("flat/notes")]);
    assert_eq!(several.entries[0].source, at("more/c/d.mrc").to_str().unwrap());
    assert_eq!(sources(&Listing::of_files(folder.path(), &[at("more")]).unwrap()), ["c/d.mrc"]);

    write(&at("list.txt"), "flat/b.xyz\r\n\n more \nflat/a.xyz");
    let list = Listing::of_list(&at("list.txt")).unwrap();
    assert_eq!(sources(&list), ["flat/b.xyz", "more/c/d.mrc", "flat/a.xyz"]);
    assert_eq!(list.entries[2].path, at("flat/a.xyz"));
    let lines = Listing::of_lines(Path::new("-"), &b"x.mrc\ny.mrc\n"[..]).unwrap();
    assert_eq!(lines.entries[1].path, Path::new("y.mrc"));

    write(&at("table.csv"), "path,split,id\nflat/a.xyz,train,one\nflat/b.xyz,test,two\n");
    let table = Listing::of_table(&at("table.csv")).unwrap();
    assert!(table.class_names.is_empty() && table.has_splits);
    assert_eq!((&table.entries[0].id[..], table.entries[0].split), ("one", Split::Train));
}

#[test]
fn a_folder_is_flat_or_a_tree() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("mixed");
    write(&root.join("class/a.xyz"), "");
    write(&root.join("README"), "");
    assert_eq!(Listing::of_folder(&root).unwrap().class_names, ["class"]);
    write(&root.join("b.xyz"), "");
    let error = Listing::of_folder(&root).unwrap_err().to_string();
    let expected = ["mixed", "b.xyz and class", "--layout flat", "--layout tree"];
    assert!(expected.iter().all(|text| error.contains(text)), "{error}");
    // Folders named as splits are no splits of files without labels.
    write(&root.join("train/c.xyz"), "");
    let flat = Listing::of_files(&root, std::slice::from_ref(&root)).unwrap();
    assert_eq!(sources(&flat), ["b.xyz", "class/a.xyz", "train/c.xyz"]);
    assert!(!flat.has_splits);
}

#[test]
fn unusable_inputs_without_labels_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let message = |listing: Result<Listing, BuildError>| listing.unwrap_err().to_string();
    fs::create_dir(at("empty")).unwrap();
    for listing in
        [Listing::of_folder(&at("empty")), Listing::of_files(&at("empty"), &[at("empty")])]
    {
        let error = message(listing);
        assert!(error.contains("empty: expected files of a known format"), "{error}");
    }
    assert!(message(Listing::of_folder(&at("none"))).contains("none"));
    assert!(message(Listing::of_files(Path::new("-"), &[])).contains("at least one file"));
    write(&at("a.xyz"), "");
    let error = message(Listing::of_files(folder.path(), &[at("a.xyz"), at("a.xyz")]));
    assert!(
        error.contains("identifiers that differ") && error.matches("a.xyz").count() == 3,
        "{error}"
    );
    write(&at("list.txt"), "\n\n");
    let error = message(Listing::of_list(&at("list.txt")));
    assert!(error.contains("list.txt: expected at least one file"), "{error}");
    fs::write(at("list.txt"), b"a.xyz\n\xff.xyz\n").unwrap();
    let error = message(Listing::of_list(&at("list.txt")));
    assert!(error.contains("list.txt") && error.contains("UTF-8 in line 2"), "{error}");
    assert!(message(Listing::of_list(&at("empty"))).contains("empty"));
}

#[test]
fn a_dataset_without_labels_has_no_classes() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    for i in 0..4 {
        write(&at(&format!("flat/{i}.xyz")), &xyz(i));
    }
    let mut listing = Listing::of_folder(&at("flat")).unwrap();
    listing.settle_splits(&listing.default_fractions(), 0);
    run(&at("set.h5"), &listing, &small(), false, "").unwrap();
    let dataset = Dataset::open(at("set.h5")).unwrap();
    assert!(dataset.meta().class_names.is_empty() && dataset.class(3).is_none());
    assert_eq!((dataset.labels(), dataset.indices(Split::Test).len()), (&[0; 4][..], 4));
    assert!(dataset.class_counts(Split::Test).is_empty());
    let summary = dataset.summary().unwrap();
    assert_eq!(summary.splits.iter().map(|split| split.items).collect::<Vec<_>>(), [0, 0, 4]);
    assert!(dataset.verify(&|_| {}).is_empty());
    dataset.export_list(&at("list.csv")).unwrap();
    let list = fs::read_to_string(at("list.csv")).unwrap();
    assert!(list.contains("\n0.xyz,,test,,0.xyz,"), "{list}");
    dataset.export(1, &at("item.npz")).unwrap();
    let splits = random_splits(dataset.labels(), &Fractions::default(), 1);
    dataset.with_splits(&at("other.h5"), &splits, None, "").unwrap();
    assert!(Dataset::open(at("other.h5")).unwrap().meta().class_names.is_empty());
    // The only label is 0.
    let grid = Grid::new([2; 3], [1.0; 3]).unwrap();
    let meta = DatasetMeta::scalars(1, &grid).unwrap();
    let volume = Volume::centred(vec![0.0; 8], 1, grid).unwrap();
    let mut writer = DatasetWriter::create(at("one.h5"), meta).unwrap();
    let item = Item { volume: Some(&volume), label: 1, id: "a", ..Item::default() };
    let error = writer.push(&item).unwrap_err().to_string();
    assert!(error.contains("a label below 1"), "{error}");
}

#[cfg(unix)]
#[test]
fn odd_names_and_folders_are_refused_or_kept() {
    use std::os::unix::ffi::OsStrExt;
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("tree");
    write(&root.join("a b/it's \"odd\" #1.xyz"), &xyz(1));
    assert_eq!(listing(&root).entries[0].id, "a b/it's \"odd\" #1.xyz");
    write(&root.join("a b").join(std::ffi::OsStr::from_bytes(b"\xff.xyz")), "");
    let error = Listing::of_tree(&root).unwrap_err().to_string();
    assert!(error.contains("UTF-8"), "{error}");
    let error = Listing::of_folder(&root.join("a b")).unwrap_err().to_string();
    assert!(error.contains("UTF-8"), "{error}");

    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    fs::remove_file(root.join("a b").join(std::ffi::OsStr::from_bytes(b"\xff.xyz"))).unwrap();
    let error = run(&file.join("set.h5"), &listing(&root), &small(), false, "").unwrap_err();
    assert!(matches!(error, BuildError::Io { .. }), "{error}");
    let stranger = folder.path().join("set.h5.partial");
    write(&stranger.join("precious.txt"), "");
    let error =
        run(&folder.path().join("set.h5"), &listing(&root), &small(), false, "").unwrap_err();
    assert!(matches!(error, BuildError::OtherBuild { .. }), "{error}");
    assert!(stranger.join("precious.txt").exists());
}

#[test]
fn volumes_that_are_not_finite_do_not_get_in() {
    let folder = tempfile::tempdir().unwrap();
    let grid = Grid::new([2; 3], [1.0; 3]).unwrap();
    let meta = DatasetMeta {
        channels: 1,
        dims: [2; 3],
        voxel_size: [1.0; 3],
        irreps: "1x0".parse().unwrap(),
        ..common::meta(Storage::F32)
    };
    let entry = |name: &str| Entry {
        mask: None,
        record: None,
        path: name.into(),
        source: name.into(),
        id: name.into(),
        label: 0,
        split: Split::Train,
        group: String::new(),
    };
    let make = move |entry: &Entry| {
        let value = if entry.id == "bad" { f32::NAN } else { 1.0 };
        let volume = Volume::centred(vec![value; 8], 1, grid)
            .map_err(|source| ItemError::Volume { path: entry.path.clone(), source })?;
        Ok(ItemData { volume: Some(volume), ..ItemData::default() })
    };
    let entries = [entry("good"), entry("bad")];
    let out = folder.path().join("set.h5");
    let source = source(&meta, &entries, String::new(), make);
    let error = build(&source, &out, false, &|_| {}).unwrap_err();
    assert!(
        matches!(
            &error,
            BuildError::Item(ItemError::Volume { source: VolumeError::NotFinite { .. }, .. })
        ),
        "{error}"
    );
}

/// Labels of three classes and groups of 1 to 12 items, not all of one class.
fn grouped() -> (Vec<u32>, Vec<String>) {
    let (mut labels, mut groups) = (Vec::new(), Vec::new());
    for group in 0..120usize {
        for member in 0..=(group * 7 % 12) {
            labels.push(((group + usize::from(member == 3)) % 3) as u32);
            groups.push(format!("g{group}"));
        }
    }
    (labels, groups)
}

#[test]
fn random_splits_share_out_every_class() {
    let labels: Vec<u32> = (0..230u32).map(|i| u32::from(i % 23 == 0) + i % 2).collect();
    let fractions = Fractions::new([0.7, 0.1, 0.2]).unwrap();
    let splits = random_splits(&labels, &fractions, 5);
    for class in 0..3 {
        let of = |split| (0..230).filter(|&i| labels[i] == class && splits[i] == split).count();
        let all = labels.iter().filter(|&&l| l == class).count() as f64;
        for (split, fraction) in Split::ALL.into_iter().zip(fractions.values()) {
            assert!((of(split) as f64 - fraction * all).abs() <= 1.0, "{class} {split}");
        }
    }
    assert_eq!(splits, random_splits(&labels, &fractions, 5));
    assert_ne!(splits, random_splits(&labels, &fractions, 6));
    for bad in [[0.5, 0.5, 0.5], [1.5, -0.5, 0.0], [f64::NAN, 0.5, 0.5]] {
        assert!(Fractions::new(bad).is_err(), "{bad:?}");
    }
}

#[test]
fn groups_stay_together_and_classes_balanced() {
    let (labels, groups) = grouped();
    let fractions = Fractions::new([0.7, 0.1, 0.2]).unwrap();
    for seed in 0..5 {
        let splits = group_splits(&labels, &groups, &fractions, seed);
        let mut split_of = std::collections::HashMap::new();
        for (group, split) in groups.iter().zip(&splits) {
            assert_eq!(split_of.entry(group).or_insert(split), &split, "{group} is torn");
        }
        for class in 0..3 {
            let all = labels.iter().filter(|&&l| l == class).count() as f64;
            for (split, fraction) in Split::ALL.into_iter().zip(fractions.values()) {
                let of = (0..labels.len()).filter(|&i| labels[i] == class && splits[i] == split);
                let share = of.count() as f64 / all;
                assert!((share - fraction).abs() < 0.02, "seed {seed}, {class} {split}: {share}");
            }
        }
        assert_eq!(splits, group_splits(&labels, &groups, &fractions, seed));
    }
    let seed = |seed| group_splits(&labels, &groups, &fractions, seed);
    assert_ne!(seed(0), seed(1));
    let none = Fractions::new([0.8, 0.0, 0.2]).unwrap();
    assert!(!group_splits(&labels, &groups, &none, 0).contains(&Split::Validation));
}

#[test]
fn a_dataset_gets_other_splits_and_keeps_all_else() {
    let folder = tempfile::tempdir().unwrap();
    let (path, copy) = (folder.path().join("set.h5"), folder.path().join("copy.h5"));
    common::write_small(&path, Storage::F32, true).unwrap();
    let before = Dataset::open(&path).unwrap();
    let splits = [Split::Test; common::ITEMS];
    let groups: Vec<String> = (0..common::ITEMS).map(|i| format!("g{}", i / 2)).collect();
    before.with_splits(&copy, &splits, Some(&groups), "by hand").unwrap();
    before.with_splits(&path, &splits, None, "once").unwrap();
    Dataset::open(&path).unwrap().with_splits(&path, &splits, None, "twice").unwrap();
    for path in [&copy, &path] {
        let after = Dataset::open(path).unwrap();
        assert_eq!(after.splits(), splits);
        assert!(after.verify(&|_| {}).is_empty());
        for item in 0..common::ITEMS {
            assert_eq!(after.read(item).unwrap(), common::volume(item));
            assert_eq!(after.points(item).unwrap(), Some(common::cloud(item)));
        }
    }
    let copy = Dataset::open(&copy).unwrap();
    assert_eq!(copy.groups().unwrap(), groups);
    assert!(copy.meta().provenance.notes.ends_with("by hand"));
    let notes = Dataset::open(&path).unwrap().meta().provenance.notes.clone();
    assert!(notes.ends_with("twice") && !notes.contains("once"), "{notes}");
    assert!(before.with_splits(&path, &splits[1..], None, "").is_err());
    assert!(before.with_splits(&path, &splits, Some(&groups[1..]), "").is_err());
    assert!(before.with_splits(&path, &splits, Some(&vec!["x".repeat(65); 6]), "").is_err());
    assert_eq!(names(folder.path()), ["copy.h5", "set.h5"]);
}

#[test]
fn a_cloud_of_another_channel_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    tree(&folder.path().join("tree"), 1);
    let listing = listing(&folder.path().join("tree"));
    let recipe = small().settled_by(&listing.entries[0].path).unwrap();
    let meta = meta(&recipe, &listing.class_names);
    let make = |_: &Entry| {
        let points = PointCloud::new(vec![[0.0; 3]], vec![3]).unwrap();
        Ok(ItemData { points: Some(points), ..ItemData::default() })
    };
    let out = folder.path().join("set.h5");
    let source = source(&meta, &listing.entries, String::new(), make);
    let error = build(&source, &out, true, &|_| {}).unwrap_err();
    assert!(error.to_string().contains("a channel below 3"), "{error}");
}

#[test]
fn recipes_that_do_not_suit_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.xyz");
    write(&path, &xyz(2));
    for (bad, expected) in [
        (RecipeOptions { size: Some([8, 8, 9]), ..small() }, "a cube"),
        (RecipeOptions { sigma: Some(-1.0), ..small() }, "sigma"),
    ] {
        let error = bad.settled_by(&path).unwrap_err().to_string();
        assert!(error.contains(expected) && error.contains("a.xyz"), "{error}");
    }
    let several = format!("{}{}", xyz(1), xyz(2));
    write(&path, &several);
    let entry = Listing::of_table(&{
        let table = folder.path().join("t.csv");
        write(&table, "path,label\na.xyz,b\n");
        table
    });
    let maker = maker(&small(), &path);
    let error = maker.make(&entry.unwrap().entries[0]).unwrap_err().to_string();
    assert!(error.contains("one molecule") && error.contains("found 2"), "{error}");
}

/// The entry of a file.
fn entry(path: &Path) -> Entry {
    Entry {
        mask: None,
        path: path.to_owned(),
        record: None,
        source: "a".to_owned(),
        id: "a".to_owned(),
        label: 0,
        split: Split::Train,
        group: String::new(),
    }
}

const RESIDUE: &str = "\
ATOM      1  N   ALA A   1       0.000   0.000   0.000  1.00 10.00           N  \n\
ATOM      2  CA AALA A   1       1.500   0.000   0.000  0.60 20.00           C  \n\
ATOM      3  CA BALA A   1       1.500   0.300   0.000  0.40 30.00           C  \n\
ATOM      4  O   ALA A   1       2.000   1.000   1.000  1.00 40.00           O  \n\
HETATM    5 CA    CA A   2       4.000   1.000   1.000  1.00 50.00          CA  \n\
END\n";

#[test]
fn channels_and_weights_of_atoms_are_chosen_and_noted() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.pdb");
    write(&path, RESIDUE);
    let made = |channels: ChannelScheme, weight| {
        let recipe = RecipeOptions { channels, weight, ..small() };
        let maker = maker(&recipe, &path);
        let meta = meta(&recipe.settled_by(&path).unwrap(), &["a".into()]);
        let points = maker.make(&entry(&path)).map(|made| made.points.unwrap());
        (points, meta.provenance.notes)
    };
    let scalars = |points: &PointCloud| -> Vec<f64> {
        let value = |value: &PointValue| value.components()[0];
        points.values().unwrap().iter().map(value).collect()
    };
    let (points, notes) = made(ChannelScheme::Backbone, Weight::One);
    let points = points.unwrap();
    assert_eq!((points.channels(), points.values()), ([0, 1, 3].as_slice(), None));
    assert_eq!(notes, "channels: N, CA, C, O, CB; weight of an atom: 1");
    let (points, notes) = made(ChannelScheme::Single, Weight::BFactor);
    assert_eq!(scalars(&points.unwrap()), [10.0, 20.0, 40.0, 50.0]);
    assert_eq!(notes, "channels: atoms; weight of an atom: B factor");
    let (points, _) = made(ChannelScheme::Backbone, Weight::Occupancy);
    assert_eq!(scalars(&points.unwrap()), [1.0, 0.6, 0.4, 1.0]);
    let error = made(ChannelScheme::Single, Weight::Charge).0.unwrap_err().to_string();
    assert!(error.contains("a.pdb") && error.contains("no charge"), "{error}");
}

fn sdf(charge: i32) -> String {
    format!(
        "one atom\n\n\n  1  0  0  0  0  0  0  0  0  0999 V2000\n    \
         0.0000    0.0000    0.0000 N   0  0\nM  CHG  1   1 {charge:3}\nM  END\n$$$$\n"
    )
}

#[test]
fn every_record_of_a_file_becomes_an_item() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    write(&at("tree/ions/many.sdf"), &[1, 2, -1].map(sdf).concat());
    write(&at("tree/ions/one.sdf"), &sdf(4));
    write(&at("tree/others/many.sdf"), &[2, 3].map(sdf).concat());
    write(&at("tree/others/broken.sdf"), "nothing");
    let mut listing = Listing::of_tree(&at("tree")).unwrap();
    listing.expand_records().unwrap();
    listing.settle_splits(&Fractions::default(), 0);
    let recipe = RecipeOptions { weight: Weight::Charge, ..small() };
    let (built, _) = run(&at("set.h5"), &listing, &recipe, true, "").unwrap();
    assert_eq!(built.skipped.len(), 1);
    let dataset = Dataset::open(at("set.h5")).unwrap();
    let ids = ["ions/many.sdf#1", "ions/many.sdf#2", "ions/many.sdf#3", "ions/one.sdf"];
    assert_eq!(dataset.ids()[..4], ids);
    assert_eq!(dataset.sources().unwrap()[1], "ions/many.sdf#2");
    assert_eq!(dataset.labels(), [0, 0, 0, 0, 1, 1]);
    for (item, charge) in [1.0, 2.0, -1.0, 4.0, 2.0, 3.0].into_iter().enumerate() {
        let sum: f32 = dataset.read(item).unwrap().data().iter().sum();
        assert!((sum - charge).abs() < 1e-5, "{item}: {sum}");
        let points = dataset.points(item).unwrap().unwrap();
        assert_eq!(points.value(0), PointValue::Scalar(charge.into()));
    }
    assert!(dataset.verify(&|_| {}).is_empty());

    write(&at("t.csv"), "path,label,id\ntree/ions/many.sdf,a,x\ntree/ions/one.sdf,a,x#2\n");
    let error = Listing::of_table(&at("t.csv")).unwrap().expand_records().unwrap_err().to_string();
    assert!(error.contains("`x#2`"), "{error}");
}

#[test]
fn volumes_of_another_grid_are_refused_cut_padded_or_resampled() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let store = |name: &str, dims: [usize; 3], edge: f64| {
        let len = dims.iter().product();
        let data = (0..len).map(|i| (i % dims[2]) as f32).collect();
        let volume = Volume::centred(data, 1, Grid::new(dims, [edge; 3]).unwrap()).unwrap();
        steer3d_formats::write_volume(&at(name), &volume, steer3d_formats::Voxels::Values).unwrap();
    };
    store("first.nii", [8, 8, 8], 1.0);
    store("small.nii", [4, 4, 4], 1.0);
    store("large.nii", [8, 8, 10], 1.0);
    store("fine.nii", [15, 15, 15], 0.5);
    let maker = |fit| maker(&RecipeOptions { fit, ..RecipeOptions::default() }, &at("first.nii"));
    let read = |maker: &FileRecipe, name: &str| {
        maker.make(&entry(&at(name))).map(|made| made.volume.unwrap()).map_err(|e| e.to_string())
    };
    let row = |volume: Volume| volume.data()[(4 * 8 + 4) * 8..][..8].to_vec();
    let padded = [0.0, 0.0, 0.0, 1.0, 2.0, 3.0, 0.0, 0.0];
    for fit in [Fit::Crop, Fit::Pad, Fit::Resample] {
        assert_eq!(row(read(&maker(fit), "small.nii").unwrap()), padded);
    }
    let cut = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0];
    assert_eq!(row(read(&maker(Fit::Crop), "large.nii").unwrap()), cut);
    assert_eq!(row(read(&maker(Fit::Resample), "large.nii").unwrap()), cut);
    let fine = row(read(&maker(Fit::Resample), "fine.nii").unwrap());
    // Value 7 + 2 x at x = -3.5, -2.5, ...; the filter for larger voxels blurs the borders.
    for (x, value) in fine.iter().enumerate().take(5).skip(2) {
        assert!((value - 2.0 * x as f32).abs() < 0.05, "{fine:?}");
    }
    for (fit, name, expected) in [
        (Fit::Refuse, "small.nii", "--fit crop, pad or resample"),
        (Fit::Refuse, "fine.nii", "--fit resample"),
        (Fit::Crop, "fine.nii", "--fit resample"),
        (Fit::Pad, "fine.nii", "--fit resample"),
        (Fit::Pad, "large.nii", "--fit crop"),
    ] {
        let error = read(&maker(fit), name).unwrap_err();
        assert!(error.contains(expected) && error.contains(name), "{error}");
    }
}
