//! Trains a small steerable network on the Tetris shapes and measures it on rotated ones.
//!
//! Run with `cargo run --release --example train_and_evaluate`.
#![allow(clippy::print_stdout)]

use std::ops::ControlFlow;

use steer3d::dataset::{ImportOptions, import_tetris, tetris_voxeliser};
use steer3d::eval::{NetworkPredictor, Report, Section};
use steer3d::prelude::*;
use steer3d::report::terminal;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = std::env::temp_dir().join("steer3d-example-tetris.h5");
    import_tetris(&path, &tetris_voxeliser(), 2, &ImportOptions::default())?;
    let dataset = Dataset::open(&path)?;

    let mut config = SteerableConfig::small(1, dataset.meta().class_names.len())?;
    config.dropout = 0.0;
    let model = ModelConfig::Steerable(config);
    let network = Network::new(&model, 0, DType::F32, &Device::Cpu)?;
    let settings = TrainConfig { epochs: 30, batch_size: 8, ..TrainConfig::default() };
    train(&network, &dataset, &settings, None, &mut |event| {
        if let TrainEvent::Epoch(e) = event {
            println!("epoch {}: loss {:.3}", e.epoch, e.train_loss);
        }
        ControlFlow::Continue(())
    })?;

    let predictor = NetworkPredictor::new("steerable".into(), network)?;
    let protocol = Protocol { rotations: 4, ..Protocol::default() };
    let model = evaluate(&predictor, &dataset, Split::Test, &protocol, None, &|_| {
        ControlFlow::Continue(())
    })?;
    let section = Section::new(&dataset, Split::Test, protocol, vec![model])?;
    println!("{}", terminal(&Report::new("Tetris", "", vec![section])));
    Ok(())
}
