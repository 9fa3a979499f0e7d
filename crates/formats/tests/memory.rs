//! How much memory readers take of the budget. A program of its own, since the budget is that of a process.

use std::io::Write;
use std::path::PathBuf;

use flate2::Compression;
use flate2::write::GzEncoder;
use steer3d_files::memory;
use steer3d_formats::npz::{Npz, NpzError};
use steer3d_formats::{FileContents, Format, FormatError, Place, read, read_as};

/// A file of a scratch folder, packed.
struct Scratch(tempfile::TempDir);

impl Scratch {
    fn gzip(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let mut packed = GzEncoder::new(Vec::new(), Compression::new(6));
        packed.write_all(bytes).unwrap();
        self.file(name, &packed.finish().unwrap())
    }

    fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }
}

/// An array of `count` zero bytes.
fn npy(count: usize) -> Vec<u8> {
    let header = steer3d_formats::npz::npy_header("|u1", &[1, 1, count]);
    [header, vec![0; count]].concat()
}

fn npz(count: usize) -> Vec<u8> {
    let mut zip = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let options = zip::write::SimpleFileOptions::default();
    let options = options.compression_method(zip::CompressionMethod::Deflated);
    zip.start_file("a.npy", options).unwrap();
    zip.write_all(&npy(count)).unwrap();
    zip.finish().unwrap().into_inner()
}

#[test]
fn readers_keep_to_the_budget() {
    const MIB: usize = 1 << 20;
    let scratch = Scratch(tempfile::tempdir().unwrap());
    memory::set_limit(64 << 20);
    let atoms = "ATOM      1  CA  GLY A  12      11.104  -6.134   2.500\n";
    let files = [
        scratch.gzip("zeros.npy.gz", &npy(70 * MIB)),
        // Unpacked there is room for the bytes, but not for 4 bytes for each of them.
        scratch.gzip("voxels.npy.gz", &npy(20 * MIB)),
        scratch.gzip("atoms.pdb.gz", atoms.repeat(250_000).as_bytes()),
        scratch.file("atoms.xyz", format!("300000\n\n{}", "C 1 2 3\n".repeat(300_000)).as_bytes()),
        scratch.file("mesh.obj", "v 1 2 3\n".repeat(2_000_000).as_bytes()),
        scratch.file("voxels.npz", &npz(20 * MIB)),
        scratch.file("runs.binvox", &{
            let runs = [0, 255].repeat(300 * 300 * 255 / 255);
            [b"#binvox 1\ndim 300 300 255\ndata\n".as_slice(), &runs].concat()
        }),
    ];
    for path in &files {
        let error = read(path).unwrap_err();
        let name = path.file_name().unwrap().to_str().unwrap();
        assert!(error.no_room().is_some() && error.to_string().contains(name), "{error}");
        if !name.ends_with("npz") {
            // It never fits, so there is no sense in trying again.
            assert!(!error.no_room().unwrap().is_temporary(), "{error}");
        }
        let all = memory::take(64 << 20).expect("given back");
        // What others hold is given back later.
        assert!(read(path).unwrap_err().no_room().is_some());
        drop(all);
    }
    let huge = Npz::open(scratch.file("huge.npz", &npz(80 * MIB))).unwrap().read("a").unwrap_err();
    assert!(matches!(huge, NpzError::NoRoom { .. }), "{huge}");

    // A volume of bytes: those, and 4 for each of them.
    memory::set_limit((5 * 8 + 3) << 20);
    let good = scratch.gzip("good.npy.gz", &npy(8 * MIB));
    let Ok(FileContents::Volume(volume)) = read(&good) else { panic!("not read") };
    assert_eq!(volume.data().len(), 8 * MIB);

    // What unpacks to far more than a file can hold.
    let mut packed = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::best());
    packed.write_all(&npy(4 * MIB)).unwrap();
    let path = scratch.file("ratio.npy.bz2", &packed.finish().unwrap());
    let error = read(&path).unwrap_err();
    assert!(matches!(error, FormatError::TooLarge { .. }), "{error}");
    assert!(error.to_string().contains("1100 times the packed size"), "{error}");

    memory::set_limit(1000);
    let fault = read_as(&npy(500), Format::Npy).unwrap_err();
    assert!(fault.no_room().is_some() && fault.place == Place::Whole, "{fault}");
}
