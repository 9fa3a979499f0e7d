//! Networks of all kinds with random weights as ONNX models, each with volumes and the network's answers to them: what
//! `tests/reference/onnx_models.py` compares with onnxruntime.
//!
//! Run with `cargo run --release -p steer3d-nn --example export_onnx -- FOLDER`.
#![allow(clippy::print_stdout)]

#[path = "../tests/common/card.rs"]
mod card;
#[path = "../tests/common/networks.rs"]
mod networks;

use std::collections::HashMap;
use std::error::Error;
use std::path::PathBuf;
use std::{env, fs};

use candle_core::{DType, Device, Tensor, safetensors};
use steer3d_nn::onnx;
use steer3d_so3::Stream;

/// Batch and grid.
const BATCHES: [[usize; 4]; 4] = [[1, 11, 9, 13], [3, 11, 9, 13], [1, 12, 10, 14], [3, 12, 10, 14]];

fn main() -> Result<(), Box<dyn Error>> {
    let folder = PathBuf::from(env::args().nth(1).ok_or("expected a folder")?);
    fs::create_dir_all(&folder)?;
    for (i, model) in networks::all_models().iter().enumerate() {
        let network = networks::prepared(model);
        let name = format!("{i:02}-{}", model.name());
        fs::write(
            folder.join(format!("{name}.onnx")),
            onnx::export(&network, &card::card(model))?,
        )?;
        let folded = network.folded()?;
        let mut tensors = HashMap::new();
        for (j, [n, d, h, w]) in BATCHES.into_iter().enumerate() {
            let shape = (n, model.channels(), d, h, w);
            let mut stream = Stream::new(j as u64, "volumes", &[]);
            // Stronger than the noise of which the norms were taken, so that logits hardly cancel: what they round to
            // would be a larger part of them.
            let values =
                (0..n * model.channels() * d * h * w).map(|_| 2.0 * stream.normal() as f32);
            let volumes = Tensor::from_iter(values, &Device::Cpu)?.reshape(shape)?;
            tensors.insert(format!("answers{j}"), folded.forward(&volumes)?.to_dtype(DType::F32)?);
            tensors.insert(format!("volumes{j}"), volumes);
        }
        safetensors::save(&tensors, folder.join(format!("{name}.safetensors")))?;
        println!("{name}");
    }
    Ok(())
}
