//! Files that declare more than there is memory for input; a program of its own, since there is one budget in a process.

mod common;

use steer3d_dataset::{Dataset, DatasetError, DatasetMeta, DatasetWriter, Item, import_hdf5};
use steer3d_files::memory;
use steer3d_volume::{Grid, Volume};

#[test]
fn a_small_file_takes_no_more_than_the_budget() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("set.h5");
    let grid = Grid::new([128; 3], [1.0; 3]).unwrap();
    let class_names = vec!["a".to_owned()];
    let meta = DatasetMeta { class_names, ..DatasetMeta::scalars(1, &grid).unwrap() };
    let mut writer = DatasetWriter::create(&path, meta).unwrap();
    let volume = Volume::centred(vec![0.0; 1 << 21], 1, grid).unwrap();
    writer.push(&Item { volume: Some(&volume), id: "a", ..Item::default() }).unwrap();
    writer.finish().unwrap();
    assert!(std::fs::metadata(&path).unwrap().len() < 1 << 16);
    let array = common::repository("crates/formats/tests/data/volumes/h5repack_int32le_3d.h5");
    let dataset = Dataset::open(&path).unwrap();
    memory::set_limit(1 << 14);
    import_hdf5(&array, "dset").unwrap();
    memory::set_limit(1 << 10);
    for error in [Dataset::open(&path).unwrap_err(), import_hdf5(&array, "dset").unwrap_err()] {
        assert!(matches!(error, DatasetError::NoRoom { .. }), "{error}");
        assert!(error.to_string().contains("--memory"), "{error}");
    }
    memory::set_limit(1 << 24);
    assert!(dataset.verify(&|_| {}).is_empty());
    assert_eq!(dataset.read(0).unwrap(), volume);
}
