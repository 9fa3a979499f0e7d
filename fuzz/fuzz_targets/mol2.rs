#![no_main]

use libfuzzer_sys::fuzz_target;
use steer3d_formats::{Format, read_as};

fuzz_target!(|bytes: &[u8]| {
    let _ = read_as(bytes, Format::Mol2);
});
