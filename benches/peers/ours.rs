//! Times one layer, for `benches/peers/compare.py`: prints the median seconds of a call and the peak
//! memory of the process in MiB.
//!
//! `peers separable IRREPS_IN IRREPS_OUT K ORDER EDGE forward|both REPEATS`
//! `peers dense CHANNELS K EDGE forward|both REPEATS`
//! `peers step EDGE REPEATS`: a training step of a network of five layers of 144 channels

use std::time::Instant;

use anyhow::{Context, Result, bail};
use candle_core::{DType, Device, Tensor, Var};
use steer3d::kernels::{Family, KernelBasis, SeparablePlan};
use steer3d::nn::{AdamW, Mode, SteerableBlock, SteerableCnn, SteerableConfig};
use steer3d::ops::{Boundary, Conv3dConfig, Separable, conv3d, reuse_memory, separable_conv3d};
use steer3d::so3::Irreps;

type Layer = Box<dyn Fn(&Tensor, &Tensor) -> candle_core::Result<Tensor>>;

fn main() -> Result<()> {
    reuse_memory();
    let args: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let (layer, x, w, mode, repeats): (Layer, Tensor, Tensor, &str, &str) = match args[..] {
        ["separable", input, output, k, order, edge, mode, repeats] => {
            let (i, o): (Irreps, Irreps) = (input.parse()?, output.parse()?);
            let family = Family::jets(order.parse()?);
            let basis = KernelBasis::new(&i, &o, k.parse()?, &family, [1.0; 3])?;
            let plan = SeparablePlan::new(&basis, &family)?.context("jets are separable")?;
            let kernel = Separable::new(plan)?;
            let w = Tensor::randn(0f32, 1f32, basis.num_weights(), &Device::Cpu)?;
            let layer = move |x: &Tensor, w: &Tensor| {
                separable_conv3d(x, w, None, &kernel, 1, Boundary::Zero)
            };
            (Box::new(layer), volume(i.dim(), edge.parse()?)?, w, mode, repeats)
        }
        ["dense", channels, k, edge, mode, repeats] => {
            let (c, k): (usize, usize) = (channels.parse()?, k.parse()?);
            let w = Tensor::randn(0f32, 1f32, (c, c, k, k, k), &Device::Cpu)?;
            let layer = move |x: &Tensor, w: &Tensor| conv3d(x, w, None, &Conv3dConfig::same(k));
            (Box::new(layer), volume(c, edge.parse()?)?, w, mode, repeats)
        }
        ["step", edge, repeats] => return step(edge.parse()?, repeats.parse()?),
        // What `cargo bench` does without arguments.
        [] => return Ok(()),
        _ => bail!("expected the arguments in the comment at the head of benches/peers/ours.rs"),
    };
    let (x, w) = (Var::from_tensor(&x)?, Var::from_tensor(&w)?);
    let call = || -> Result<()> {
        if mode == "forward" {
            layer(&x.as_detached_tensor(), &w.as_detached_tensor())?;
        } else {
            layer(&x, &w)?.backward()?;
        }
        Ok(())
    };
    report(call, repeats.parse()?)
}

/// Prints the median seconds of some calls after a first one, and the peak memory.
fn report(mut call: impl FnMut() -> Result<()>, repeats: usize) -> Result<()> {
    call()?;
    let mut seconds = vec![];
    for _ in 0..repeats.max(1) {
        let start = Instant::now();
        call()?;
        seconds.push(start.elapsed().as_secs_f64());
    }
    seconds.sort_by(f64::total_cmp);
    let median = seconds[seconds.len() / 2];
    #[allow(clippy::print_stdout)]
    {
        println!("{median} {}", peak_memory().unwrap_or(f64::NAN));
    }
    Ok(())
}

fn step(edge: usize, repeats: usize) -> Result<()> {
    let block = |fields: &str| {
        Ok::<_, anyhow::Error>(SteerableBlock { fields: fields.parse()?, size: 5, stride: 1 })
    };
    let hidden = "16x0+16x1+16x2";
    let config = SteerableConfig {
        blocks: [hidden, hidden, hidden, hidden, "64x0"]
            .into_iter()
            .map(block)
            .collect::<Result<_>>()?,
        kernel: Family::jets(3),
        ..SteerableConfig::small(1, 3)?
    };
    let network = SteerableCnn::new(config, 0, DType::F32, &Device::Cpu)?;
    let mut adam = AdamW::new(network.params(), 1e-3)?;
    let (x, labels) = (volume(1, edge)?, Tensor::new(&[1u32], &Device::Cpu)?);
    let call = || {
        let logits = network.forward(&x, Mode::Train { seed: 0, step: 0 })?;
        let loss = candle_nn::loss::cross_entropy(&logits, &labels)?;
        Ok(adam.step(network.params(), &loss.backward()?, 1e-3)?)
    };
    report(call, repeats)
}

fn volume(channels: usize, n: usize) -> Result<Tensor> {
    Ok(Tensor::randn(0f32, 1f32, (1, channels, n, n, n), &Device::Cpu)?)
}

/// MiB; Linux only.
fn peak_memory() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|l| l.starts_with("VmHWM:"))?;
    Some(line.split_whitespace().nth(1)?.parse::<f64>().ok()? / 1024.0)
}
