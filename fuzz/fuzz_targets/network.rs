//! The text of a network: it is built with weights of its own.

#![no_main]

use candle_core::{DType, Device};
use libfuzzer_sys::fuzz_target;
use steer3d_files::memory;
use steer3d_nn::{ModelConfig, Network};

/// Bytes that a network and its fields may take: larger ones are slow and come from the same code.
const ROOM: u64 = 1 << 22;

fuzz_target!(|text: &str| {
    memory::set_limit(ROOM);
    let Ok(model) = ModelConfig::from_toml(text) else { return };
    if let Ok(network) = Network::new(&model, 0, DType::F32, &Device::Cpu) {
        let _ = network.layers_on_grid([5, 6, 7]);
    }
});
