//! The blocks of the journal of an evaluation. Each begins with what is done to it, since chance does not find checksums:
//! a byte whose lowest bit leaves its checksum wrong, and the length of its rows in bytes.

#![no_main]

use libfuzzer_sys::fuzz_target;
use sha2::{Digest, Sha256};
use steer3d_eval::streams::Blocks;

const FIRST: [u8; 32] = [7; 32];

fuzz_target!(|bytes: &[u8]| {
    let (mut file, mut last, mut rest) = (vec![], FIRST, bytes);
    let (mut good, mut right) = (vec![], true);
    while let Some((&[how, length, ref count @ ..], after)) = rest.split_first_chunk::<10>() {
        let (rows, after) = after.split_at(after.len().min(length.into()));
        let block = [count.as_slice(), rows].concat();
        last = Sha256::new().chain_update(last).chain_update(&block).finalize().into();
        let mut sum = last;
        sum[3] ^= how & 1;
        file.extend(block);
        file.extend(sum);
        right &=
            how & 1 == 0 && u64::from_le_bytes(*count).checked_mul(16) == Some(rows.len() as u64);
        if right {
            good.extend(
                rows.chunks_exact(8).map(|b| u64::from_le_bytes(std::array::from_fn(|i| b[i]))),
            );
        }
        rest = after;
    }
    file.extend(rest);
    let blocks = Blocks::read(&*file, file.len() as u64, FIRST, 2).expect("bytes can be read");
    assert!(blocks.length <= file.len() as u64);
    let found: Vec<u64> = blocks.known.iter().map(|value| value.to_bits()).collect();
    assert!(found.starts_with(&good));
});
