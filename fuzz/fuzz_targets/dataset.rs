#![no_main]

use libfuzzer_sys::fuzz_target;
use steer3d_volume::Dataset;
use steer3d_volume::formats::import_hdf5;

/// Items whose volumes are read: larger ones are slow and come from the same code.
const MAX_ITEM_LEN: usize = 1 << 14;

fuzz_target!(|bytes: &[u8]| {
    if !bytes.starts_with(b"\x89HDF\r\n\x1a\n") {
        return;
    }
    let path = std::env::temp_dir().join(format!("steer3d-fuzz-{}.h5", std::process::id()));
    std::fs::write(&path, bytes).expect("a writable folder for temporary files");
    match Dataset::open(&path) {
        Ok(dataset) if dataset.meta().item_len() <= MAX_ITEM_LEN && dataset.len() <= 64 => {
            for item in 0..dataset.len() {
                let _ = dataset.read(item);
                let _ = (dataset.points(item), dataset.mesh(item));
            }
            let _ = dataset.verify(&|_| {});
        }
        Ok(_) => {}
        Err(_) => {
            let _ = import_hdf5(&path, "volumes");
        }
    }
});
