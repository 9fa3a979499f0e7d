//! Readers and writers of volumes against nibabel, mrcfile, gemmi, trimesh, h5py and NumPy
//! (`reference/make_volumes.py`), and against damaged files.

mod common;

use std::path::{Path, PathBuf};

use common::assert_matches;
use nalgebra::{Matrix3, Rotation3, Vector3};
use steer3d_formats::npz::Npz;
use steer3d_formats::{
    Fault, FileContents, Format, FormatError, Frame, MapWriter, Nan, Place, Voxels, companion,
    direction, length_unit, read, read_as, read_npz_array, read_with, write_volume,
    write_volume_along, write_volume_like,
};
use steer3d_so3::Stream;
use steer3d_volume::{Grid, MAX_VALUES, Volume, VolumeError};

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/volumes").join(name)
}

fn volume(name: &str) -> Result<Volume, FormatError> {
    match read(&file(name))? {
        FileContents::Volume(volume) => Ok(volume),
        other => panic!("{name}: {other:?}"),
    }
}

#[test]
fn volumes_match_what_other_programs_read() {
    let mut reference =
        Npz::open(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference/volumes.npz"))
            .unwrap();
    let keys: Vec<String> = reference.keys().into_iter().filter(|key| key != "versions").collect();
    assert!(keys.len() > 30, "{keys:?}");
    // Those of HDF5 files, `file:array`, are tested where these are read.
    let keys = keys.into_iter().filter(|key| !key.contains(':'));
    for key in keys {
        let found = volume(&key).unwrap_or_else(|error| panic!("{error}"));
        let tolerance =
            if matches!(key.as_str(), "5i55_tiny.ccp4" | "1pfe_asu.msk.gz") { 5e-6 } else { 1e-7 };
        assert_matches(&key, &found, &reference.read(&key).unwrap(), tolerance);
    }
}

/// A map of a cell with the given angles, of f32 values at the voxels' positions.
fn skewed(
    angles: [f32; 3],
    edges: [f32; 3],
    lens: [usize; 3],
    value: impl Fn([f64; 3]) -> f32,
) -> Vec<u8> {
    let mut bytes = vec![0; 1024];
    for i in 0..3 {
        bytes[4 * i..4 * i + 4].copy_from_slice(&(lens[i] as i32).to_le_bytes());
        bytes[28 + 4 * i..32 + 4 * i].copy_from_slice(&(lens[i] as i32).to_le_bytes());
        bytes[40 + 4 * i..44 + 4 * i].copy_from_slice(&edges[i].to_le_bytes());
        bytes[52 + 4 * i..56 + 4 * i].copy_from_slice(&angles[i].to_le_bytes());
        bytes[64 + 4 * i] = i as u8 + 1;
    }
    bytes[12] = 2;
    bytes[208..216].copy_from_slice(b"MAP \x44\x44\0\0");
    for z in 0..lens[2] {
        for y in 0..lens[1] {
            for x in 0..lens[0] {
                bytes.extend(value([x, y, z].map(|i| i as f64)).to_le_bytes());
            }
        }
    }
    bytes
}

#[test]
fn skewed_maps_are_resampled_where_their_density_is() {
    // Cell edges with a along x, b in the plane of x and y, and the angles that they make.
    let steps: Matrix3<f64> = Matrix3::new(0.8, -0.3, 0.2, 0.0, 0.7, -0.25, 0.0, 0.0, 0.9);
    let lens = [40, 36, 34];
    let edges = [0, 1, 2].map(|i| (steps.column(i).norm() * lens[i] as f64) as f32);
    let angle = |i: usize, j: usize| steps.column(i).angle(&steps.column(j)).to_degrees() as f32;
    let middle = steps * Vector3::new(20.0, 18.0, 17.0);
    let density = |p: Vector3<f64>| (-(p - middle).norm_squared() / (2.0 * 1.8 * 1.8)).exp();
    let bytes = skewed([angle(1, 2), angle(0, 2), angle(0, 1)], edges, lens, |index| {
        density(steps * Vector3::from(index)) as f32
    });
    let FileContents::Volume(map) = read_as(&bytes, Format::Mrc).unwrap() else {
        panic!("no volume")
    };
    let [d, h, w] = map.dims();
    assert_eq!(d, 34);
    let mut largest = 0.0f64;
    for (i, &found) in map.data().iter().enumerate() {
        let index = [i % w, i / w % h, i / (w * h)];
        let p = Vector3::from_fn(|k, _| map.origin()[k] + index[k] as f64 * map.voxel_size()[k]);
        // Inside the lattice, two voxels from its faces.
        let inside = steps.try_inverse().unwrap() * p;
        if (0..3).all(|k| (2.0..lens[k] as f64 - 3.0).contains(&inside[k])) {
            largest = largest.max((f64::from(found) - density(p)).abs());
        }
    }
    // Cubic splines of a Gaussian of σ ≥ 2 voxels, see `bound` in `resample.rs`.
    assert!(largest < 3e-3, "{largest}");
    assert!(map.data().iter().any(|&x| x > 0.95), "the peak is there");
}

fn fault(error: FormatError) -> Fault {
    match error {
        FormatError::Malformed { fault, .. } => *fault,
        other => panic!("{other}"),
    }
}

#[test]
fn broken_files_are_refused_with_place_and_reason() {
    for (name, place, expected, found) in [
        ("bad_mode_tiny.ccp4", Place::Byte(12), "mode 0, 1, 2, 6 or 12", "mode 77"),
        ("trunc_data_tiny.ccp4", Place::Byte(1552), "1920 bytes of values", "after 368"),
        ("fuzz_flat_cell.mrc", Place::Whole, "a volume", "numbers from 1e-30 to 1e30"),
        ("crash-1.nii", Place::Byte(0), "348 (NIfTI-1) or 540 bytes", "0"),
        ("made.dscalar.nii", Place::Byte(504), "axes are places", "3000, a CIFTI matrix"),
        ("huge_shape.npy", Place::Byte(128), "at most 4294967296 bytes", "4611686018427387904"),
        ("object_descr.npy", Place::Byte(0), "plain values", "never read"),
        ("py3-objarr.npy", Place::Byte(0), "plain values", "never read"),
        ("python3.npy", Place::Byte(0), "3 axes", "shape [2]"),
        ("trunc_data.npy.gz", Place::Byte(128), "131712 bytes", "65792 bytes"),
        ("non_cubic.npz", Place::Whole, "one array", "2 (train_images, train_labels)"),
    ] {
        let fault = fault(volume(&format!("broken/{name}")).unwrap_err());
        assert_eq!(fault.place, place, "{name}: {fault}");
        assert!(fault.expected.contains(expected), "{name}: {fault}");
        assert!(fault.found.contains(found), "{name}: {fault}");
    }
    let named = |name: &str, key| read_npz_array(&file(name), key);
    let whole = named("broken/non_cubic.npz", "train_images").unwrap();
    assert_eq!(whole.channels(), 6, "items of a MedMNIST file as channels");
    let fault = |result: Result<Volume, _>| fault(result.unwrap_err()).to_string();
    let damaged = fault(named("broken/crc_flip.npz", "train_images"));
    assert!(damaged.contains("readable bytes"), "{damaged}");
    let missing = fault(named("broken/crc_flip.npz", "images"));
    assert!(missing.contains("train_images, train_labels"), "{missing}");
}

/// The unpacked bytes of small files of every format.
fn samples() -> Vec<(Format, Vec<u8>)> {
    let unpacked = |name: &str| {
        let bytes = std::fs::read(file(name)).unwrap();
        if !name.ends_with(".gz") {
            return bytes;
        }
        let mut unpacked = Vec::new();
        let mut decoder = flate2::read::GzDecoder::new(bytes.as_slice());
        std::io::copy(&mut decoder, &mut unpacked).unwrap();
        unpacked
    };
    [
        (Format::Mrc, "5i55_tiny.ccp4"),
        (Format::Mrc, "made_mode1.mrc"),
        (Format::Mrc, "made_stack.mrc"),
        (Format::Nifti, "standard.nii.gz"),
        (Format::Nifti, "made_qform.nii"),
        (Format::Nifti, "made_complex.nii"),
        (Format::Nifti, "made_5d_u4.nii"),
        (Format::Nifti, "rgb.nii"),
        (Format::Npy, "valid_fortran.npy.gz"),
        (Format::Binvox, "chair_model.binvox"),
    ]
    .map(|(format, name)| (format, unpacked(name)))
    .into_iter()
    .chain([
        (Format::Npz, npz(zip::CompressionMethod::Deflated)),
        (Format::Npz, npz(zip::CompressionMethod::Bzip2)),
    ])
    .collect()
}

#[test]
fn arrays_packed_by_bzip2_are_read() {
    let read = |method| match read_as(&npz(method), Format::Npz).unwrap() {
        FileContents::Volume(volume) => volume,
        other => panic!("{other:?}"),
    };
    assert_eq!(read(zip::CompressionMethod::Bzip2), read(zip::CompressionMethod::Stored));
}

/// An archive of one array.
fn npz(method: zip::CompressionMethod) -> Vec<u8> {
    let header = "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3, 4)}";
    let mut npy = b"\x93NUMPY\x01\x00".to_vec();
    npy.extend((header.len() as u16).to_le_bytes());
    npy.extend(header.bytes());
    npy.extend((0..24).flat_map(|i| (i as f32).to_le_bytes()));
    let mut zip = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let options = zip::write::SimpleFileOptions::default().compression_method(method);
    zip.start_file("volume.npy", options).unwrap();
    std::io::Write::write_all(&mut zip, &npy).unwrap();
    zip.finish().unwrap().into_inner()
}

#[test]
fn formats_are_known_by_content_in_both_byte_orders() {
    for (format, bytes) in samples() {
        assert_eq!(Format::detect(&bytes, Path::new("nameless")), Some(format));
        assert!(matches!(read_as(&bytes, format), Ok(FileContents::Volume(_))), "{format}");
    }
    let pair = std::fs::read(file("minimal.hdr")).unwrap();
    assert_eq!(Format::detect(&pair, Path::new("nameless")), Some(Format::Nifti));
    assert!(read_as(&pair, Format::Nifti).unwrap_err().found.contains("the header of a pair"));
}

#[test]
fn files_cut_short_anywhere_are_refused() {
    for (format, bytes) in samples() {
        let step = (bytes.len() / 700).max(1);
        for len in (0..bytes.len()).step_by(step) {
            let fault = read_as(&bytes[..len], format).unwrap_err();
            if let Place::Byte(at) = fault.place {
                assert!(at <= len as u64, "{format} cut at {len}: {fault}");
            }
        }
    }
    // Programs pad maps.
    let map = &samples()[1].1;
    let [exact, longer] = [map.clone(), [map.as_slice(), &[0; 512]].concat()].map(|bytes| {
        let Ok(FileContents::Volume(volume)) = read_as(&bytes, Format::Mrc) else {
            panic!("not read")
        };
        volume
    });
    assert_eq!(exact, longer);
}

#[test]
fn pairs_of_header_and_image_are_read_by_either_name() {
    let whole = volume("minimal.nii.gz").unwrap();
    assert_eq!(volume("minimal.hdr").unwrap(), whole);
    assert_eq!(volume("minimal.img.gz").unwrap(), whole);
    // nibabel: np.asarray(dataobj).transpose(2, 1, 0).ravel()[:5].
    let made = volume("made_pair.img").unwrap();
    assert_eq!(made.data()[..5], [73.0, 73.0, 15.0, 2.0, -46.0]);
    assert_eq!((made.dims(), made.voxel_size()), ([5, 4, 3], [2.0, 2.5, 3.0]));
    assert_eq!(made.origin(), [-3.0, 4.0, 5.0]);
    assert_eq!(companion(&file("minimal.hdr")), Some(file("minimal.img.gz")));
    assert_eq!(companion(&file("minimal.nii.gz")), None);

    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    std::fs::copy(file("made_pair.hdr"), at("alone.hdr")).unwrap();
    let error = read(&at("alone.hdr")).unwrap_err().to_string();
    assert!(error.contains("alone.img"), "{error}");
    std::fs::write(at("alone.img"), [0; 119]).unwrap();
    let error = read(&at("alone.hdr")).unwrap_err().to_string();
    assert!(error.contains("alone.img") && error.contains("120 bytes of values"), "{error}");
}

#[test]
fn complex_images_give_magnitudes() {
    let found = volume("made_complex.nii").unwrap();
    // nibabel: np.abs(np.asarray(dataobj)).transpose(2, 1, 0).ravel()[:5].
    let expected = [0.20314233, 1.890_818_2, 0.323_895_8, 1.010_868_9, 1.129_641];
    for (found, expected) in found.data().iter().zip(expected) {
        assert!((found - expected).abs() < 1e-6, "{found} {expected}");
    }
    let sum: f32 = found.data().iter().sum();
    assert!((sum - 66.131_71).abs() < 1e-4 && found.channels() == 1, "{sum}");
    // The parts are scaled, not the magnitude: |2 z + 1 + i|.
    let mut bytes = std::fs::read(file("made_complex.nii")).unwrap();
    bytes[112..116].copy_from_slice(&2f32.to_le_bytes());
    bytes[116..120].copy_from_slice(&1f32.to_le_bytes());
    let Ok(FileContents::Volume(scaled)) = read_as(&bytes, Format::Nifti) else {
        panic!("not read")
    };
    let part = |i: usize| f32::from_le_bytes(bytes[352 + 4 * i..356 + 4 * i].try_into().unwrap());
    let expected = (2.0 * part(0) + 1.0).hypot(2.0 * part(1) + 1.0);
    assert!((scaled.data()[0] - expected).abs() < 1e-5);
}

#[test]
fn voxels_that_are_not_numbers_are_zero_on_request() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.mrc");
    let mut mrc = skewed([90.0; 3], [2.0; 3], [2; 3], |[x, ..]| x as f32);
    mrc[1024 + 12..1024 + 16].copy_from_slice(&f32::NAN.to_le_bytes());
    std::fs::write(&path, &mrc).unwrap();
    assert_eq!(fault(read(&path).unwrap_err()).place, Place::Byte(1036));
    let FileContents::Volume(volume) = read_with(&path, Nan::Zero).unwrap() else {
        panic!("no volume")
    };
    assert_eq!(volume.data(), [0.0, 1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 1.0]);
}

#[test]
fn lengths_beyond_all_arithmetic_are_refused() {
    for (at, value) in [(40, 1e-37f32), (40, 3e38), (196, 2e30)] {
        let mut mrc = skewed([90.0; 3], [2.0; 3], [2; 3], |_| 0.0);
        mrc[at..at + 4].copy_from_slice(&value.to_le_bytes());
        assert!(read_as(&mrc, Format::Mrc).is_err(), "{value:e} at {at}");
    }
    let mut nifti = std::fs::read(file("made_complex.nii")).unwrap();
    nifti[292..296].copy_from_slice(&3e38f32.to_le_bytes());
    assert!(read_as(&nifti, Format::Nifti).is_err());
    let binvox = b"#binvox 1\ndim 1 1 1\nscale 1e300\ndata\n\x01\x01";
    assert!(read_as(binvox, Format::Binvox).is_err());
}

#[test]
fn damaged_bytes_never_panic() {
    let mut stream = Stream::new(4, "mutations", &[]);
    for (format, bytes) in samples() {
        let (mut read, mut refused) = (0, 0);
        for _ in 0..1000 {
            let mut bytes = bytes.clone();
            // Mostly in the header.
            let reach = if stream.below(4) == 0 { bytes.len() } else { bytes.len().min(560) };
            for _ in 0..=stream.below(3) {
                let at = stream.below(reach);
                bytes[at] = match stream.below(4) {
                    0 => 0xff,
                    1 => 0x7f,
                    2 => 0,
                    _ => stream.below(256) as u8,
                };
            }
            match read_as(&bytes, format) {
                Ok(FileContents::Volume(volume)) => {
                    assert!(volume.data().len() <= MAX_VALUES);
                    read += 1;
                }
                Ok(other) => panic!("{other:?}"),
                Err(_) => refused += 1,
            }
        }
        assert!(read > 0 && refused > 0, "{format}: {read} read, {refused} refused");
    }
}

#[test]
fn headers_that_declare_huge_arrays_are_refused_at_once() {
    let mut nifti = vec![0; 352];
    nifti[..2].copy_from_slice(&348u16.to_le_bytes());
    for (i, len) in [3i16, 32767, 32767, 32767].into_iter().enumerate() {
        nifti[40 + 2 * i..42 + 2 * i].copy_from_slice(&len.to_le_bytes());
    }
    (nifti[70], nifti[72]) = (2, 8);
    for axis in 0..3 {
        nifti[80 + 4 * axis..84 + 4 * axis].copy_from_slice(&1f32.to_le_bytes());
    }
    nifti[108..112].copy_from_slice(&352f32.to_le_bytes());
    nifti[344..348].copy_from_slice(b"n+1\0");
    let fault = read_as(&nifti, Format::Nifti).unwrap_err();
    assert_eq!(fault.place, Place::Byte(40), "{fault}");
    assert!(fault.found.contains("32767, 32767, 32767"), "{fault}");

    let mut mrc = skewed([90.0; 3], [1.0; 3], [1; 3], |_| 0.0);
    for at in [0, 4, 8] {
        mrc[at..at + 4].copy_from_slice(&i32::MAX.to_le_bytes());
    }
    assert_eq!(read_as(&mrc, Format::Mrc).unwrap_err().place, Place::Byte(0));
    // A cell that is so flat, or voxels so unequal, that the upright grid would be huge.
    for (angles, edges) in [
        ([1.0, 1.0, 1.0], [1.0; 3]),
        ([90.0, 60.0, 90.0], [1e-9, 1.0, 1e9]),
        ([60.0, 60.0, 60.0], [1e-38, 1e38, 1e38]),
    ] {
        let mrc = skewed(angles, edges, [2; 3], |_| 0.0);
        assert!(read_as(&mrc, Format::Mrc).is_err());
    }

    let binvox = b"#binvox 1\ndim 1000000 1000000 1000000\ndata\n\x01\xff";
    assert_eq!(read_as(binvox, Format::Binvox).unwrap_err().place, Place::Line(2));
    let binvox = b"#binvox 1\ndim 512 512 512\ndata\n\x01\xff";
    let fault = read_as(binvox, Format::Binvox).unwrap_err();
    assert!(fault.found.contains("255 in 2 bytes"), "{fault}");
}

#[test]
fn faults_of_binvox_files_name_the_line_or_the_byte() {
    let good =
        b"#binvox 1\ndim 1 2 3\n# y fastest\nscale 3\ntranslate 1 2 3\ndata\n\x00\x05\x01\x01";
    let Ok(FileContents::Volume(volume)) = read_as(good, Format::Binvox) else {
        panic!("not read")
    };
    // Dimensions of the file are x, z, y; the last voxel is the last in each.
    assert_eq!(volume.dims(), [2, 3, 1]);
    assert_eq!(volume.data(), [0.0, 0.0, 0.0, 0.0, 0.0, 1.0]);
    assert_eq!(volume.voxel_size(), [1.0; 3]);
    assert_eq!(volume.origin(), [1.5, 2.5, 3.5]);
    for (bytes, place) in [
        (b"#binvox 3\n".as_slice(), Place::Line(1)),
        (b"#binvox 1\ndim 2 2\n", Place::Line(2)),
        (b"#binvox 1\ndim 2 2 -2\n", Place::Line(2)),
        (b"#binvox 1\ndata\n", Place::Line(2)),
        (b"#binvox 1\nscale 0\n", Place::Line(2)),
        (b"#binvox 1\ntranslate 0 nan 0\n", Place::Line(2)),
        (b"#binvox 1\nsize 3\n", Place::Line(2)),
        (b"#binvox 1\ndim 1 1 1\n", Place::Byte(20)),
        (b"#binvox 1\ndim 1 1 1\ndata\n\x01\x02", Place::Byte(27)),
        (b"#binvox 1\ndim 1 1 1\ndata\n\x01\x01\x00", Place::Byte(28)),
        (b"#binvox 1\ndim 1 1 1\ndata\n\x02\x01", Place::Byte(25)),
    ] {
        let fault = read_as(bytes, Format::Binvox).unwrap_err();
        assert_eq!(fault.place, place, "{}: {fault}", bytes.escape_ascii());
    }
    let second = b"#binvox 2\ndim 1 1 1\ndata\n\x07\x01";
    let Ok(FileContents::Volume(volume)) = read_as(second, Format::Binvox) else {
        panic!("not read")
    };
    assert_eq!(volume.data(), [7.0]);
}

#[test]
fn faults_of_values_name_their_byte() {
    let mut mrc = skewed([90.0; 3], [1.0; 3], [2; 3], |_| 0.0);
    mrc[1024 + 12..1024 + 16].copy_from_slice(&f32::NAN.to_le_bytes());
    let fault = read_as(&mrc, Format::Mrc).unwrap_err();
    assert_eq!(fault.to_string(), "byte 1036: expected a finite number within f32, found NaN");
    for (at, value, text) in [
        (12, 4, "complex"),
        (64, 2, "MAPC"),
        (92, -1, "extended header"),
        (40, -1, "cell edge"),
        (208, 0, "MAP"),
    ] {
        let mut mrc = skewed([90.0; 3], [1.0; 3], [2; 3], |_| 0.0);
        mrc[at..at + 4].copy_from_slice(&i32::to_le_bytes(value));
        let fault = read_as(&mrc, Format::Mrc).unwrap_err();
        assert_eq!(fault.place, Place::Byte(at as u64), "{fault}");
        assert!(fault.expected.contains(text) || fault.found.contains(text), "{fault}");
    }
    // (offset, i16) of float64.nii, a NIfTI-1 image.
    let good = std::fs::read(file("float64.nii")).unwrap();
    for (at, value, text) in [
        (40, 8i16, "1 to 7 dimensions"),
        (44, -1, "at least 1"),
        (70, 2048, "complex"),
        (68, 3001, "CIFTI"),
        (72, 32, "64 bits"),
        (344, 0, "ni1"),
    ] {
        let mut bytes = good.clone();
        bytes[at..at + 2].copy_from_slice(&value.to_le_bytes());
        let fault = read_as(&bytes, Format::Nifti).unwrap_err();
        assert_eq!(fault.place, Place::Byte(at as u64), "{fault}");
        assert!(fault.expected.contains(text) || fault.found.contains(text), "{fault}");
    }
    let mut flat = good.clone();
    flat[280..284].copy_from_slice(&0f32.to_le_bytes());
    assert!(read_as(&flat, Format::Nifti).unwrap_err().expected.contains("inverse"));
    for offset in [0.0, 352.5, f32::NAN] {
        let mut bytes = good.clone();
        bytes[108..112].copy_from_slice(&offset.to_le_bytes());
        assert_eq!(read_as(&bytes, Format::Nifti).unwrap_err().place, Place::Byte(108));
    }
}

#[test]
fn written_maps_and_images_are_read_back() {
    let folder = tempfile::tempdir().unwrap();
    let mut stream = Stream::new(6, "export", &[]);
    for channels in [1, 3] {
        let data = (0..channels * 60).map(|_| stream.normal() as f32).collect();
        let grid = Grid::new([3, 4, 5], [0.5, 1.25, 3.0]).unwrap();
        let volume = Volume::new(data, channels, grid, [1.5, -2.0, 0.25]).unwrap();
        for name in ["a.mrc", "a.nii", "a.nii.gz"] {
            let path = folder.path().join(name);
            write_volume(&path, &volume, Voxels::Values).unwrap();
            let FileContents::Volume(found) = read(&path).unwrap() else { panic!("no volume") };
            assert_eq!(found, volume, "{name}");
        }
    }
    let names = std::fs::read_dir(folder.path()).unwrap();
    assert_eq!(names.count(), 3, "no temporary file is left");
    let long = Volume::centred(vec![0.0; 40_000], 1, Grid::new([1, 1, 40_000], [1.0; 3]).unwrap());
    let path = folder.path().join("b.nii");
    let error = write_volume(&path, &long.unwrap(), Voxels::Values).unwrap_err();
    assert!(matches!(error, FormatError::Export { source: VolumeError::Parameter { .. }, .. }));
    assert!(!path.exists());
}

/// `make_volumes.py` turned the axes by this rotation.
#[test]
fn the_directions_of_oblique_images_are_read() {
    let turn = Rotation3::new(Vector3::new(0.2, -0.3, 0.1));
    for name in ["made_oblique.nii", "made_qform.nii"] {
        let found = direction(&file(name)).unwrap();
        assert!((found - turn.matrix()).amax() < 1e-6, "{name}: {found}");
    }
    for name in ["minimal.img.gz", "made_mode1.mrc"] {
        assert_eq!(direction(&file(name)).unwrap(), Matrix3::identity(), "{name}");
    }
    assert!(direction(Path::new("nowhere.nii")).is_err());
}

/// What a volume is changed to: labels that tell every voxel from its neighbours, or values with a sign.
fn marked(volume: &Volume, voxels: Voxels, channels: usize) -> Volume {
    let len = channels * volume.grid().voxels();
    let value = |i: usize| match voxels {
        Voxels::Labels(_) => (i * 7 % 101) as f32,
        Voxels::Values => (i * 7 % 101) as f32 - 50.25,
    };
    Volume::new((0..len).map(value).collect(), channels, volume.grid(), volume.origin()).unwrap()
}

/// Both the matrix and the quaternion of the header hold the directions, of rotated and of left-handed axes.
#[test]
fn nifti_holds_the_directions_of_the_axes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("oblique.nii");
    let grid = Grid::new([4, 3, 5], [0.7, 1.1, 2.5]).unwrap();
    let values = (0..60).map(|i| i as f32).collect();
    let volume = Volume::new(values, 1, grid, [10.0, -20.0, 30.0]).unwrap();
    let mut stream = Stream::new(5, "directions", &[]);
    for hand in [1.0, -1.0, 1.0, -1.0] {
        // Small enough that the axes keep their order.
        let axis = Vector3::from_fn(|_, _| 0.3 * stream.normal().clamp(-1.0, 1.0));
        let turn =
            Rotation3::new(axis).matrix() * Matrix3::from_diagonal(&Vector3::new(1.0, 1.0, hand));
        write_volume_along(&path, &volume, Voxels::Values, &turn).unwrap();
        for form in ["sform", "qform"] {
            let mut bytes = std::fs::read(&path).unwrap();
            if form == "qform" {
                bytes[254..256].copy_from_slice(&[0, 0]);
                std::fs::write(&path, &bytes).unwrap();
            }
            let found = direction(&path).unwrap();
            // The reader turns left-handed axes about, so that all are nearest to right, anterior, superior.
            let flip = Matrix3::from_diagonal(&Vector3::new(1.0, 1.0, hand));
            assert!((found - turn * flip).amax() < 1e-6, "{form}: {found} {turn}");
            let FileContents::Volume(read) = read(&path).unwrap() else { panic!("no volume") };
            let first = if hand > 0.0 { 0.0 } else { 3.0 * 2.5 };
            let origin = Vector3::from(volume.origin()) + first * turn.column(2);
            assert!((Vector3::from(read.origin()) - origin).amax() < 1e-5, "{form}");
            assert_eq!(read.dims(), [4, 3, 5]);
        }
    }
}

#[test]
fn voxels_of_no_size_and_too_many_labels_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("zero.nii");
    let volume =
        Volume::centred(vec![0.0; 60], 1, Grid::new([4, 3, 5], [1.0; 3]).unwrap()).unwrap();
    write_volume(&path, &volume, Voxels::Values).unwrap();
    assert_eq!(length_unit(&path).unwrap(), Some("mm"));
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[252..256].copy_from_slice(&[0; 4]);
    bytes[84..88].copy_from_slice(&[0; 4]);
    std::fs::write(&path, &bytes).unwrap();
    let error = read(&path).unwrap_err().to_string();
    assert!(error.contains("voxel size above 0"), "{error}");
    let frame = Frame::of(&volume, Voxels::Labels(40_000));
    for name in ["labels.nii", "labels.mrc", "labels.npy"] {
        let path = folder.path().join(name);
        let error = MapWriter::create(&path, &frame, None).unwrap_err().to_string();
        assert!(error.contains("at most 32768") && error.contains("40000"), "{error}");
        assert!(!path.exists());
    }
    assert_eq!(length_unit(&file("made_mode1.mrc")).unwrap(), Some("angstrom"));
}

#[test]
fn volumes_are_written_where_the_voxels_of_another_file_are() {
    let folder = tempfile::tempdir().unwrap();
    let files = [
        ("emd_3197.map.gz", "mrc"),
        ("iota_yzx.ccp4.gz", "mrc"),
        ("made_mode1.mrc", "mrc"),
        ("functional.nii.gz", "nii"),
        ("made_oblique.nii", "nii"),
        ("made_qform.nii", "nii"),
        ("int64.nii", "nii"),
        ("rgb.nii", "nii"),
        ("made_pair.hdr", "nii"),
        ("minimal.img.gz", "nii"),
        ("reoriented_anat_moved.nii.gz", "nii.gz"),
        ("standard.nii.gz", "nii.gz"),
        ("example_nifti2.nii.gz", "nii"),
    ];
    for (name, extension) in files {
        let source = file(name);
        let FileContents::Volume(volume) = read(&source).unwrap() else { panic!("no volume") };
        for (voxels, channels) in
            [(Voxels::Labels(101), 1), (Voxels::Values, 1), (Voxels::Values, 2)]
        {
            let path = folder.path().join(format!("out.{extension}"));
            let marked = marked(&volume, voxels, channels);
            write_volume_like(&path, &marked, voxels, &source).unwrap();
            // Some planes at a time, from the last on, make the same file.
            let parts = folder.path().join(format!("parts.{extension}"));
            let frame = Frame::of(&marked, voxels);
            let mut writer = MapWriter::create(&parts, &frame, Some(&source)).unwrap();
            let [depth, height, width] = marked.dims();
            let plane = height * width;
            for channel in 0..channels {
                let values = &marked.data()[channel * depth * plane..][..depth * plane];
                let starts: Vec<usize> = (0..depth).step_by(3).collect();
                for first in starts.into_iter().rev() {
                    let end = (first + 3).min(depth);
                    writer.write(channel, first, &values[first * plane..end * plane]).unwrap();
                }
            }
            assert!(!parts.exists());
            writer.finish().unwrap();
            assert_eq!(std::fs::read(&parts).unwrap(), std::fs::read(&path).unwrap(), "{name}");
            std::fs::remove_file(&parts).unwrap();
            let FileContents::Volume(found) = read(&path).unwrap() else { panic!("no volume") };
            assert_eq!(found, marked, "{name}");
            if extension != "mrc" && !name.contains(".img") {
                assert_eq!(affine(&path), affine(&source), "{name}");
            }
        }
    }
    // A map in another order of axes keeps it, with the labels in 8 bits.
    let source = file("iota_yzx.ccp4.gz");
    let FileContents::Volume(volume) = read(&source).unwrap() else { panic!("no volume") };
    let path = folder.path().join("yzx.ccp4");
    write_volume_like(
        &path,
        &marked(&volume, Voxels::Labels(101), 1),
        Voxels::Labels(101),
        &source,
    )
    .unwrap();
    let (old, new) = (unpacked(&source), std::fs::read(&path).unwrap());
    assert_eq!((new[12], new.len()), (0, 1024 + volume.grid().voxels()));
    for same in [0..12, 16..76, 196..208] {
        assert_eq!(old[same.clone()], new[same]);
    }
}

/// The rows of sform and the code of qform, with the quaternion, of NIfTI-1 or NIfTI-2.
fn affine(path: &Path) -> Vec<u8> {
    let bytes = unpacked(path);
    let second = bytes[..4].contains(&0x1c);
    if second { bytes[344..504].to_vec() } else { bytes[252..328].to_vec() }
}

fn unpacked(path: &Path) -> Vec<u8> {
    let bytes = std::fs::read(path).unwrap();
    if bytes[..2] != [0x1f, 0x8b] {
        return bytes;
    }
    let mut all = vec![];
    std::io::Read::read_to_end(&mut flate2::read::MultiGzDecoder::new(&*bytes), &mut all).unwrap();
    all
}
