//! A protocol of an evaluation, as TOML; of one that is valid the rotations and translations of an item.

#![no_main]

use libfuzzer_sys::fuzz_target;
use steer3d_eval::Protocol;

/// Transformations that are made: more come from the same code.
const MOST: usize = 1 << 12;

fuzz_target!(|text: &str| {
    let Ok(protocol) = toml::from_str::<Protocol>(text) else { return };
    if protocol.validate().is_err() {
        return;
    }
    let counts = [protocol.rotations, protocol.even, protocol.per_angle, protocol.per_distance];
    let conditions = protocol.conditions();
    if counts.iter().all(|&count| count <= MOST) && conditions.len() <= 64 {
        for condition in conditions {
            let _ = protocol.transforms(condition, 1);
        }
    }
});
