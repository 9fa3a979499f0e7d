//! Bytes that begin with a zero are those of a model file after it. All others are the card of one without tensors,
//! since chance does not find the lengths in a header.

#![no_main]

use std::collections::HashMap;

use candle_core::Device;
use libfuzzer_sys::fuzz_target;
use safetensors::tensor::TensorView;
use steer3d_files::memory;
use steer3d_nn::checkpoint;

/// Bytes that a network may take: larger ones are slow and come from the same code.
const ROOM: u64 = 1 << 22;

fuzz_target!(|bytes: &[u8]| {
    memory::set_limit(ROOM);
    let path =
        std::env::temp_dir().join(format!("steer3d-fuzz-{}.safetensors", std::process::id()));
    let file = if let Some(file) = bytes.strip_prefix(b"\0") {
        file.to_vec()
    } else {
        let card = HashMap::from([("steer3d".into(), String::from_utf8_lossy(bytes).into_owned())]);
        let tensors: [(&str, TensorView<'_>); 0] = [];
        safetensors::serialize(tensors, Some(card)).expect("a file without tensors")
    };
    std::fs::write(&path, file).expect("a writable folder for temporary files");
    if let Ok((network, card)) = checkpoint::load(&path, &Device::Cpu) {
        let _ = network.layers_on_grid(card.dims);
    }
});
