//! Times one layer, for `benches/peers/compare.py`: prints the median seconds of a call and the peak
//! memory of the process in MiB.
//!
//! `peers separable IRREPS_IN IRREPS_OUT K ORDER EDGE forward|both REPEATS`
//! `peers dense CHANNELS K EDGE forward|both REPEATS`

use std::time::Instant;

use anyhow::{Context, Result, bail};
use candle_core::{Device, Tensor, Var};
use steer3d::kernels::{Family, KernelBasis, SeparablePlan};
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
            (Box::new(layer), volume(i.dim(), edge)?, w, mode, repeats)
        }
        ["dense", channels, k, edge, mode, repeats] => {
            let (c, k): (usize, usize) = (channels.parse()?, k.parse()?);
            let w = Tensor::randn(0f32, 1f32, (c, c, k, k, k), &Device::Cpu)?;
            let layer = move |x: &Tensor, w: &Tensor| conv3d(x, w, None, &Conv3dConfig::same(k));
            (Box::new(layer), volume(c, edge)?, w, mode, repeats)
        }
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
    call()?;
    let mut seconds = vec![];
    for _ in 0..repeats.parse::<usize>()?.max(1) {
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

fn volume(channels: usize, edge: &str) -> Result<Tensor> {
    let n = edge.parse::<usize>()?;
    Ok(Tensor::randn(0f32, 1f32, (1, channels, n, n, n), &Device::Cpu)?)
}

/// MiB; Linux only.
fn peak_memory() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|l| l.starts_with("VmHWM:"))?;
    Some(line.split_whitespace().nth(1)?.parse::<f64>().ok()? / 1024.0)
}
