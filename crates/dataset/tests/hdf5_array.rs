//! Arrays of HDF5 files against h5py (`crates/formats/tests/reference/make_volumes.py`), and damaged files.

use std::path::{Path, PathBuf};

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

fn assert_near(what: &str, found: &[f64], expected: &[f64], tolerance: f64) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (f, e) in found.iter().zip(expected) {
        assert!(
            (f - e).abs() <= tolerance * e.abs().max(1.0),
            "{what}: {found:?}, not {expected:?}"
        );
    }
}

#[test]
fn arrays_match_what_h5py_reads() {
    let mut reference = Npz::open(tests_of_formats().join("reference/volumes.npz")).unwrap();
    let keys: Vec<String> = reference.keys().into_iter().filter(|key| key.contains(':')).collect();
    assert!(!keys.is_empty());
    for key in keys {
        let expected = reference.read(&key).unwrap().to_f64().unwrap();
        let (shape, expected) = expected.split_at(4);
        let (geometry, expected) = expected.split_at(6);
        let (sum, expected) = expected.split_at(1);
        let (places, values) = expected.split_at(40);

        let found = volume(&key).unwrap_or_else(|error| panic!("{error}"));
        let [d, h, w] = found.dims();
        assert_eq!([found.channels(), d, h, w].map(|n| n as f64), shape, "{key}");
        let found_geometry = [found.voxel_size(), found.origin()].concat();
        assert_near(&format!("{key} geometry"), &found_geometry, geometry, 1e-6);
        // Values in f32; the splines of skewed maps through two filters and 64 products.
        let total: f64 = found.data().iter().map(|&x| f64::from(x)).sum();
        let size: f64 = found.data().iter().map(|&x| f64::from(x.abs())).sum();
        assert!((total - sum[0]).abs() <= 1e-6 * size, "{key}: sum {total}, not {sum:?}");
        let at = |place: &f64| f64::from(found.data()[*place as usize]);
        let found: Vec<f64> = places.iter().map(at).collect();
        assert_near(&format!("{key} values"), &found, values, 1e-7);
    }
}

#[test]
fn broken_arrays_of_hdf5_files_are_refused() {
    for (name, text) in [
        ("broken/bad_offset.h5:a", "the HDF5 library reports"),
        ("broken/corrupt_stab_msg.h5:a", "the HDF5 library reports"),
        (
            "broken/deflate.h5:Dataset1",
            "3 axes (D, H, W) or 4 (C, D, H, W), found shape [100, 200]",
        ),
        ("broken/tarrold.h5:Dataset1", "booleans, integers or floats, found compound"),
        ("broken/h5repack_szip.h5:dset_szip", "found shape [40, 20]"),
        ("broken/test_filters_le.h5:dset", "found shape [2]"),
        ("made_arrays.h5:entry", "the HDF5 library reports"),
        ("made_arrays.h5:entry/none", "the HDF5 library reports"),
        ("made_arrays.h5:bad/nan", "value 0 is NaN"),
        ("made_arrays.h5:bad/huge", "found shape [1048576, 1048576, 1048576]"),
        ("made_arrays.h5:bad/chunk", "found shape [1024, 1024, 1024]"),
        ("made_arrays.h5:bad/complex", "booleans, integers or floats"),
        ("made_arrays.h5:bad/text", "booleans, integers or floats"),
        ("made_arrays.h5:bad/flat", "found shape [4, 5]"),
        ("made_arrays.h5:bad/empty", "found shape [0, 2, 2]"),
        ("made_arrays.h5:bad/lzf", "no filters but"),
        ("made_arrays.h5:bad/external", "values in this file"),
        ("made_arrays.h5:bad/virtual", "values in this file"),
        ("made_arrays.h5:bad/link", "values in this file"),
        ("standard.nii.gz:a", "the HDF5 library reports"),
        ("absent.h5:a", "check the path and its permissions"),
    ] {
        let error = volume(name).unwrap_err().to_string();
        assert!(error.contains(text), "{name}: {error}");
    }
}
