//! What a program answers to a batch of volumes: bytes that begin with a zero come after the line that is expected.

#![no_main]

use libfuzzer_sys::fuzz_target;
use steer3d_eval::streams::Reply;

fuzz_target!(|bytes: &[u8]| {
    let whole = match bytes.strip_prefix(b"\0") {
        Some(rest) => [b"{\"shape\":[2,3]}\n", rest].concat(),
        None => bytes.to_vec(),
    };
    if let Reply::Whole(numbers, length) = Reply::of(&whole, &[2, 3]) {
        assert!(numbers.len() == 6 && length <= whole.len());
    }
});
