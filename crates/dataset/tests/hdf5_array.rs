//! Arrays of HDF5 files against h5py (`crates/formats/tests/reference/make_volumes.py`), and damaged files.

#[path = "../../formats/tests/common/mod.rs"]
mod reference;

use std::path::{Path, PathBuf};

use reference::assert_matches;
use steer3d_dataset::{DatasetError, import_hdf5};
use steer3d_formats::npz::Npz;
use steer3d_volume::Volume;

fn tests_of_formats() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../formats/tests")
}

/// The volume of `file:array`.
fn volume(name: &str) -> Result<Volume, DatasetError> {
    let (name, object) = name.split_once(':').unwrap();
    import_hdf5(&tests_of_formats().join("data/volumes").join(name), object)
}

#[test]
fn arrays_match_what_h5py_reads() {
    let mut reference = Npz::open(tests_of_formats().join("reference/volumes.npz")).unwrap();
    let keys: Vec<String> = reference.keys().into_iter().filter(|key| key.contains(':')).collect();
    assert!(!keys.is_empty());
    for key in keys {
        let found = volume(&key).unwrap_or_else(|error| panic!("{error}"));
        assert_matches(&key, &found, &reference.read(&key).unwrap(), 1e-7);
    }
}

#[test]
fn broken_arrays_of_hdf5_files_are_refused() {
    let mut wrong = Vec::new();
    for (name, text) in [
        ("broken/bad_offset.h5:a", "offset 0x3e7 is out of bounds"),
        ("broken/corrupt_stab_msg.h5:a", "invalid local heap signature"),
        ("broken/bool_bytes.h5:b", "booleans, 0 or 1, found the byte 2"),
        (
            "broken/deflate.h5:Dataset1",
            "3 axes (D, H, W) or 4 (C, D, H, W), found shape [100, 200]",
        ),
        ("broken/tarrold.h5:Dataset1", "booleans, integers or floats, found compound"),
        ("broken/h5repack_szip.h5:dset_szip", "found shape [40, 20]"),
        ("broken/test_filters_le.h5:dset", "found shape [2]"),
        ("made_arrays.h5:entry", "dataset not found: entry"),
        ("made_arrays.h5:entry/none", "dataset not found: none"),
        ("made_arrays.h5:bad/nan", "value 0 is NaN"),
        ("made_arrays.h5:bad/huge", "found shape [1048576, 1048576, 1048576]"),
        ("made_arrays.h5:bad/chunk", "found shape [1024, 1024, 1024]"),
        ("made_arrays.h5:bad/complex", "booleans, integers or floats"),
        ("made_arrays.h5:bad/text", "booleans, integers or floats"),
        ("made_arrays.h5:bad/flat", "found shape [4, 5]"),
        ("made_arrays.h5:bad/empty", "found shape [0, 2, 2]"),
        ("made_arrays.h5:bad/lzf", "no filters but"),
        ("made_arrays.h5:bad/external", "values in this file"),
        ("made_arrays.h5:bad/virtual", "unsupported layout class 3"),
        ("made_arrays.h5:bad/link", "dataset not found: link"),
        ("standard.nii.gz:a", "invalid HDF5 magic bytes"),
        ("absent.h5:a", "check the path and its permissions"),
    ] {
        let error = volume(name).unwrap_err().to_string();
        if !error.contains(text) {
            wrong.push(format!("{name}: {error}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
