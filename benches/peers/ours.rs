//! Times one layer or one step, for `benches/peers/compare.py`: prints the median seconds of a call and
//! the peak memory of the process in MiB.
//!
//! `peers separable IRREPS_IN IRREPS_OUT K ORDER EDGE forward|both REPEATS`
//! `peers dense CHANNELS K EDGE forward|both REPEATS`
//! `peers step LAYERS EDGE REPEATS [recompute]`: a training step of a network of layers of 144 channels
//! `peers evaluate LAYERS EDGE REPEATS [fused]`: its forward pass at evaluation
//!
//! These print tables, of the least seconds of all repeats:
//!
//! `peers shares EDGE REPEATS`: what takes how much of the step
//! `peers scaling REPEATS EDGE...`: one layer of 144 channels on volumes of several sizes

use std::time::Instant;

use anyhow::{Context, Result, bail};
use candle_core::{DType, Device, Tensor, Var};
use candle_nn::loss::cross_entropy;
use steer3d::kernels::{Family, KernelBasis, SeparablePlan};
use steer3d::nn::{Mode, Network, SteerableBlock, SteerableConfig};
use steer3d::ops::{Boundary, Conv3dConfig, Separable, conv3d, reuse_memory, separable_conv3d};
use steer3d::so3::Irreps;
use steer3d::train::{Gradients, Optimiser, OptimiserConfig};

mod shares;

type Layer = Box<dyn Fn(&Tensor, &Tensor) -> candle_core::Result<Tensor>>;

fn main() -> Result<()> {
    reuse_memory();
    let args: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let (layer, x, w, mode, repeats): (Layer, Var, Var, &str, &str) = match args[..] {
        ["separable", input, output, k, order, edge, mode, repeats] => {
            let (i, o): (Irreps, Irreps) = (input.parse()?, output.parse()?);
            let (layer, w) = separable(&i, &o, k.parse()?, order.parse()?)?;
            (layer, volume(i.dim(), edge.parse()?)?, w, mode, repeats)
        }
        ["dense", channels, k, edge, mode, repeats] => {
            let (c, k): (usize, usize) = (channels.parse()?, k.parse()?);
            let w = Var::randn(0f32, 1f32, (c, c, k, k, k), &Device::Cpu)?;
            let layer = move |x: &Tensor, w: &Tensor| conv3d(x, w, None, &Conv3dConfig::same(k));
            (Box::new(layer), volume(c, edge.parse()?)?, w, mode, repeats)
        }
        ["step", layers, edge, repeats, ref rest @ ..] => {
            let recompute = rest == ["recompute"];
            return report(
                training_step(layers.parse()?, edge.parse()?, recompute)?,
                repeats.parse()?,
            );
        }
        ["evaluate", layers, edge, repeats, ref rest @ ..] => {
            let fused = rest == ["fused"];
            return evaluate(layers.parse()?, edge.parse()?, repeats.parse()?, fused);
        }
        ["shares", edge, repeats] => return shares::print(edge.parse()?, repeats.parse()?),
        ["scaling", repeats, ref edges @ ..] => return scaling(repeats.parse()?, edges),
        // What `cargo bench` does without arguments.
        [] => return Ok(()),
        _ => bail!("expected the arguments in the comment at the head of benches/peers/ours.rs"),
    };
    report(|| pass(&layer, &x, &w, mode == "both"), repeats.parse()?)
}

fn separable(i: &Irreps, o: &Irreps, k: usize, order: usize) -> Result<(Layer, Var)> {
    let family = Family::jets(order);
    let basis = KernelBasis::new(i, o, k, &family, [1.0; 3])?;
    let plan = SeparablePlan::new(&basis, &family)?.context("jets are separable")?;
    let kernel = Separable::new(plan)?;
    let w = Var::randn(0f32, 1f32, basis.num_weights(), &Device::Cpu)?;
    let layer =
        move |x: &Tensor, w: &Tensor| separable_conv3d(x, w, None, &kernel, 1, Boundary::Zero);
    Ok((Box::new(layer), w))
}

fn pass(layer: &Layer, x: &Var, w: &Var, both: bool) -> Result<()> {
    if both {
        layer(x, w)?.backward()?;
    } else {
        layer(&x.as_detached_tensor(), &w.as_detached_tensor())?;
    }
    Ok(())
}

/// The seconds of some calls after a first one, least first.
fn seconds<T>(mut call: impl FnMut() -> Result<T>, repeats: usize) -> Result<Vec<f64>> {
    call()?;
    let mut seconds = vec![];
    for _ in 0..repeats.max(1) {
        let start = Instant::now();
        call()?;
        seconds.push(start.elapsed().as_secs_f64());
    }
    seconds.sort_by(f64::total_cmp);
    Ok(seconds)
}

#[allow(clippy::print_stdout)]
fn line(text: &str) {
    println!("{text}");
}

fn report<T>(call: impl FnMut() -> Result<T>, repeats: usize) -> Result<()> {
    let seconds = seconds(call, repeats)?;
    let median = seconds[seconds.len() / 2];
    line(&format!("{median} {}", peak_memory().unwrap_or(f64::NAN)));
    Ok(())
}

/// Fields of the blocks of the step's network, and its kernels.
fn blocks(layers: usize) -> impl Iterator<Item = &'static str> {
    std::iter::repeat_n(HIDDEN, layers - 1).chain(["64x0"])
}
const HIDDEN: &str = "16x0+16x1+16x2";
const SIZE: usize = 5;
const ORDER: usize = 3;

fn network(layers: usize) -> Result<Network> {
    let block = |fields: &str| Ok(SteerableBlock::new(fields.parse()?, SIZE, 1));
    let config = SteerableConfig {
        blocks: blocks(layers).map(block).collect::<Result<_>>()?,
        kernel: Family::jets(ORDER),
        ..SteerableConfig::small(1, 3)?
    };
    Ok(Network::new(&config.into(), 0, DType::F32, &Device::Cpu)?)
}

fn training_step(
    layers: usize,
    edge: usize,
    recompute: bool,
) -> Result<impl FnMut() -> Result<()>> {
    let network = network(layers)?.with_recomputation(recompute);
    let mut adam = Optimiser::new(&OptimiserConfig::default(), network.params(), 1e-3)?;
    let (x, labels) = (volume(1, edge)?, Tensor::new(&[1u32], &Device::Cpu)?);
    Ok(move || {
        let logits = network.forward(&x.as_detached_tensor(), Mode::Train { seed: 0, step: 0 })?;
        let loss = cross_entropy(&logits, &labels)?;
        Ok(adam.step(
            network.params(),
            &Gradients::of(network.params(), &loss.backward()?),
            1e-3,
        )?)
    })
}

fn evaluate(layers: usize, edge: usize, repeats: usize, fused: bool) -> Result<()> {
    let (network, x) = (network(layers)?, volume(1, edge)?.as_detached_tensor());
    if fused {
        let folded = network.folded()?;
        return report(|| Ok(folded.forward(&x)?), repeats);
    }
    report(|| Ok(network.forward(&x, Mode::Evaluate)?), repeats)
}

fn scaling(repeats: usize, edges: &[&str]) -> Result<()> {
    let fields: Irreps = HIDDEN.parse()?;
    let (layer, w) = separable(&fields, &fields, SIZE, ORDER)?;
    line(
        "| voxels | forward, ms | both, ms | forward, ns/voxel | both | forward, CPU ns/voxel | both |",
    );
    line("|---|---|---|---|---|---|---|");
    for edge in edges {
        let edge: usize = edge.parse()?;
        let x = volume(fields.dim(), edge)?;
        let voxels = edge.pow(3) as f64;
        // As many repeats as take the same time as those of 48³.
        let repeats = ((repeats * 48usize.pow(3)) as f64 / voxels).ceil().max(2.0) as usize;
        let times = |both| {
            pass(&layer, &x, &w, both)?;
            let start = cpu_seconds().unwrap_or(f64::NAN);
            let least = seconds(|| pass(&layer, &x, &w, both), repeats)?[0];
            let cpu = cpu_seconds().unwrap_or(f64::NAN) - start;
            Ok::<_, anyhow::Error>((least, cpu / (repeats + 1) as f64))
        };
        let ((forward, cpu_forward), (both, cpu_both)) = (times(false)?, times(true)?);
        let per_voxel = |seconds: f64| format!("{:.0}", 1e9 * seconds / voxels);
        line(&format!(
            "| {edge}³ | {:.2} | {:.2} | {} | {} | {} | {} |",
            1e3 * forward,
            1e3 * both,
            per_voxel(forward),
            per_voxel(both),
            per_voxel(cpu_forward),
            per_voxel(cpu_both)
        ));
    }
    Ok(())
}

fn volume(channels: usize, n: usize) -> Result<Var> {
    Ok(Var::randn(0f32, 1f32, (1, channels, n, n, n), &Device::Cpu)?)
}

/// Of all threads of the process, in steps of 10 ms; Linux only.
fn cpu_seconds() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    let (_, after_name) = stat.rsplit_once(')')?;
    let ticks = after_name.split_whitespace().skip(11).take(2).map(str::parse::<f64>);
    Some(ticks.sum::<Result<f64, _>>().ok()? / 100.0)
}

/// MiB; Linux only.
fn peak_memory() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|l| l.starts_with("VmHWM:"))?;
    Some(line.split_whitespace().nth(1)?.parse::<f64>().ok()? / 1024.0)
}
