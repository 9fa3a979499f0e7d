//! Maps of labels and probabilities in HDF5 files, read by our own reader.

use std::fs;
use std::path::Path;

use hdf5_reader::{Datatype, Hdf5File};
use nalgebra::Matrix3;
use steer3d_dataset::{Hdf5Map, import_hdf5};
use steer3d_formats::{Frame, Voxels};
use steer3d_so3::Stream;
use steer3d_volume::Grid;

const DIMS: [usize; 3] = [5, 4, 6];
const PLANE: usize = DIMS[1] * DIMS[2];

fn names(count: usize) -> Vec<String> {
    (0..count).map(|class| format!("α {class}")).collect()
}

fn frame(channels: usize, voxels: Voxels) -> Frame {
    let grid = Grid::new(DIMS, [0.5, 1.5, 2.0]).unwrap();
    // x to y, y to z, z to x.
    let direction = Matrix3::new(0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0, 1.0, 0.0);
    Frame { channels, grid, origin: [1.0, -2.0, 30.0], direction, voxels }
}

/// Writes a map, each channel in parts that begin with these planes, the last part first.
fn written(path: &Path, frame: &Frame, classes: usize, values: &[f32], starts: &[usize]) {
    let mut map = Hdf5Map::create(path, frame, &names(classes), "angstrom").unwrap();
    for (channel, values) in values.chunks_exact(DIMS[0] * PLANE).enumerate() {
        for (i, &first) in starts.iter().enumerate().rev() {
            let end = starts.get(i + 1).copied().unwrap_or(DIMS[0]);
            map.write(channel, first, &values[first * PLANE..end * PLANE]).unwrap();
        }
    }
    map.finish().unwrap();
}

#[test]
fn planes_are_read_back_with_all_that_is_known_of_the_map() {
    let folder = tempfile::tempdir().unwrap();
    let mut stream = Stream::new(0, "maps", &[]);
    for (classes, channels, bytes) in [(3, 1, 1), (300, 1, 2), (3, 3, 4)] {
        let path = folder.path().join(format!("{classes}_{channels}.h5"));
        let count = channels * DIMS[0] * PLANE;
        let (name, voxels) = match channels {
            1 => ("labels", Voxels::Labels(classes)),
            _ => ("probabilities", Voxels::Values),
        };
        let values: Vec<f32> = match channels {
            1 => (0..count).map(|_| stream.below(classes) as f32).collect(),
            _ => (0..count).map(|_| stream.uniform() as f32).collect(),
        };
        let frame = frame(channels, voxels);
        for starts in [&[0][..], &[0, 2], &[0, 1, 2, 3, 4]] {
            written(&path, &frame, classes, &values, starts);
            let found = import_hdf5(&path, name).unwrap();
            assert_eq!((found.channels(), found.dims()), (channels, DIMS));
            assert!(found.data() == values, "{name} {classes} {starts:?}");
        }
        let file = Hdf5File::open(&path).unwrap();
        let array = file.dataset(name).unwrap();
        let size = match array.dtype() {
            Datatype::FixedPoint { size, signed: false, .. }
            | Datatype::FloatingPoint { size, .. } => *size,
            other => panic!("{other:?}"),
        };
        assert_eq!(size, bytes);
        let chunk = array.chunks().unwrap();
        assert_eq!(chunk[chunk.len() - 3..], [1, DIMS[1] as u32, DIMS[2] as u32]);
        let numbers = |name: &str| array.attribute(name).unwrap().read_1d::<f64>().unwrap();
        assert_eq!(numbers("voxel_size"), frame.grid.voxel_size());
        assert_eq!(numbers("origin"), frame.origin);
        assert_eq!(numbers("direction"), [0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0, 1.0, 0.0]);
        assert_eq!(array.attribute("direction").unwrap().shape, [3, 3]);
        assert_eq!(array.attribute("unit").unwrap().read_string().unwrap(), "angstrom");
        assert_eq!(array.attribute("classes").unwrap().read_strings().unwrap(), names(classes));
    }
}

#[test]
fn a_map_that_is_not_finished_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("map.h5");
    fs::write(&path, "as it was").unwrap();
    let frame = frame(1, Voxels::Labels(3));
    let mut map = Hdf5Map::create(&path, &frame, &names(3), "mm").unwrap();
    map.write(0, 1, &[2.0; 2 * PLANE]).unwrap();
    drop(map);
    assert_eq!(fs::read_to_string(&path).unwrap(), "as it was");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    assert!(Hdf5Map::create(&folder.path().join("no/map.h5"), &frame, &names(3), "mm").is_err());
}

#[test]
fn labels_of_more_classes_than_16_bits_hold_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("map.h5");
    let create =
        |classes| Hdf5Map::create(&path, &frame(1, Voxels::Labels(classes)), &names(1), "mm");
    let error = create(65_537).unwrap_err().to_string();
    assert!(error.contains("classes: expected at most 65536, whose labels"), "{error}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    let mut largest = create(65_536).unwrap();
    largest.write(0, 0, &[65_535.0; DIMS[0] * PLANE]).unwrap();
    largest.finish().unwrap();
    let found = import_hdf5(&path, "labels").unwrap();
    assert!(found.data().iter().all(|&label| label == 65_535.0));
}
