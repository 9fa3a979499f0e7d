//! Steerable layers beside layers of `candle_nn`, in one `VarMap` and under an optimiser of candle: rods and discs
//! that lie in any direction are told apart, and the trained weights are loaded from a safetensors file.
//!
//! Run with `cargo run --release -p steer3d-nn --example candle_layers`.
#![allow(clippy::print_stdout)]

use std::error::Error;

use candle_core::{DType, Device, Tensor};
use candle_nn::{AdamW, Linear, Module, Optimizer, VarBuilder, VarMap, linear, loss};
use steer3d_nn::layers::{ConvConfig, FieldBatchNorm, FieldLayer, Gate, SteerableConv3d};
use steer3d_nn::{Field, Mode, NnError};
use steer3d_so3::{Irreps, Stream, random_rotations};

/// Voxels along each axis.
const N: usize = 11;

/// Two steerable convolutions, the mean over space, and a linear layer of candle.
struct Model {
    input: Irreps,
    first: SteerableConv3d,
    norm: FieldBatchNorm,
    gate: Gate,
    second: SteerableConv3d,
    head: Linear,
}

impl Model {
    fn new(params: &VarBuilder<'static>) -> Result<Self, NnError> {
        let (input, features): (Irreps, Irreps) = ("1x0".parse()?, "16x0".parse()?);
        let gate = Gate::new(&"6x0+4x1+2x2".parse()?)?;
        let config = ConvConfig::new(&input, gate.irreps_in());
        let last = ConvConfig { bias: true, ..ConvConfig::new(gate.irreps_out(), &features) };
        Ok(Self {
            first: SteerableConv3d::new(params.pp("first"), config)?,
            norm: FieldBatchNorm::new(params.pp("norm"), gate.irreps_in())?,
            second: SteerableConv3d::new(params.pp("second"), last)?,
            head: linear(features.dim(), 2, params.pp("head"))?,
            input,
            gate,
        })
    }

    /// Logits of volumes N,1,D,H,W.
    fn forward(&self, x: &Tensor, mode: Mode) -> Result<Tensor, NnError> {
        let field = self.first.forward(&Field::new(self.input.clone(), x.clone())?)?;
        let field = self.norm.forward_then(&self.gate, &field, mode.into())?;
        let features = self.second.forward(&field)?.values().relu()?.flatten_from(2)?.mean(2)?;
        Ok(self.head.forward(&features)?)
    }
}

/// Rods (0) and discs (1) in random directions, and which of them each is.
fn batch(seed: u64, count: usize) -> Result<(Tensor, Tensor), candle_core::Error> {
    let mut stream = Stream::new(seed, "noise", &[]);
    let mut values = vec![];
    for (i, rotation) in random_rotations(seed, count).iter().enumerate() {
        let widths = if i % 2 == 0 { [1.0, 1.0, 3.0] } else { [1.0, 2.2, 2.2] };
        values.extend((0..N.pow(3)).map(|voxel| {
            let at = |i: usize| i as f64 - (N - 1) as f64 / 2.0;
            let p = [at(voxel % N), at(voxel / N % N), at(voxel / N / N)];
            let along = |axis: usize| (0..3).map(|j| rotation[(j, axis)] * p[j]).sum::<f64>();
            let exponent: f64 = (0..3).map(|axis| (along(axis) / widths[axis]).powi(2)).sum();
            ((-exponent / 2.0).exp() + 0.1 * stream.normal()) as f32
        }));
    }
    let labels: Vec<u32> = (0..count as u32).map(|i| i % 2).collect();
    let volumes = Tensor::from_vec(values, (count, 1, N, N, N), &Device::Cpu)?;
    Ok((volumes, Tensor::new(labels, &Device::Cpu)?))
}

fn main() -> Result<(), Box<dyn Error>> {
    let variables = VarMap::new();
    let model = Model::new(&VarBuilder::from_varmap(&variables, DType::F32, &Device::Cpu))?;
    let mut optimiser = AdamW::new_lr(variables.all_vars(), 1e-2)?;
    let mut losses = vec![];
    for step in 0..40 {
        let (volumes, labels) = batch(step, 8)?;
        let logits = model.forward(&volumes, Mode::Train { seed: 0, step })?;
        let loss = loss::cross_entropy(&logits, &labels)?;
        optimiser.backward_step(&loss)?;
        losses.push(loss.to_scalar::<f32>()?);
    }
    let (first, last) = (losses[0], losses[losses.len() - 1]);
    println!("loss of the first step {first:.3}, of the last {last:.3}");
    assert!(last < 0.5 * first);

    let file =
        std::env::temp_dir().join(format!("candle_layers-{}.safetensors", std::process::id()));
    variables.save(&file)?;
    let bytes = std::fs::read(&file)?;
    std::fs::remove_file(&file)?;
    let loaded = VarBuilder::from_buffered_safetensors(bytes, DType::F32, &Device::Cpu)?;
    let loaded = Model::new(&loaded)?;
    let (volumes, labels) = batch(1000, 32)?;
    let answers = |model: &Model| {
        let logits = model.forward(&volumes, Mode::Evaluate)?;
        Ok::<_, Box<dyn Error>>(logits.argmax(1)?.to_vec1::<u32>()?)
    };
    let (found, again) = (answers(&model)?, answers(&loaded)?);
    assert_eq!(found, again);
    let right = found.iter().zip(labels.to_vec1::<u32>()?).filter(|(a, b)| **a == *b).count();
    println!("{right} of {} new volumes told rightly, from the file as well", found.len());
    Ok(())
}
