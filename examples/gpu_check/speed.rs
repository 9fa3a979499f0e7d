//! Tables of speeds.

use std::time::Instant;

use anyhow::{Context, Result};
use candle_core::{DType, Device, Tensor, Var};
use candle_nn::loss::cross_entropy;
use steer3d::kernels::{Family, KernelBasis, SeparablePlan};
use steer3d::nn::Mode;
use steer3d::ops::{
    Boundary, Conv3dConfig, Separable, conv3d, field_batch_norm_gate, permit_tf32, separable_conv3d,
};
#[cfg(feature = "cudnn")]
use steer3d::ops::{cudnn_version, set_cudnn};
use steer3d::so3::Irreps;
use steer3d::train::{Gradients, Optimiser, OptimiserConfig};

use crate::networks::network;
use crate::{Operation, say};

#[cfg(not(feature = "cudnn"))]
fn dense_speeds(_gpu: &Device) -> Result<()> {
    Ok(())
}

/// Dense convolutions with and without cuDNN.
#[cfg(feature = "cudnn")]
fn dense_speeds(gpu: &Device) -> Result<()> {
    const ALL: [(&str, bool, bool); 3] =
        [("never", false, false), ("exact", true, false), ("tf32", true, true)];
    if cudnn_version().is_none() {
        return Ok(());
    }
    say("conv3d                        dtype  use     forward ms   with backward ms");
    for (channels, k, stride, batch) in
        [(32, 3, 1, 2), (144, 5, 1, 2), (64, 3, 2, 4), (128, 1, 1, 4)]
    {
        for dtype in [DType::F32, DType::BF16] {
            let arguments = [
                on_gpu(gpu, &[batch, channels, 64, 64, 64], dtype)?,
                on_gpu(gpu, &[channels, channels, k, k, k], dtype)?,
            ];
            let config = Conv3dConfig::new(stride, k / 2);
            let run: Operation = Box::new(move |a| conv3d(&a[0], &a[1], None, &config));
            for (use_of, wanted, permitted) in ALL {
                set_cudnn(wanted);
                let _permit = permitted.then(permit_tf32);
                let [forward, all] = both(gpu, &run, &arguments)?;
                say(&format!(
                    "{channels:>3} to {channels:>3} 64^3 x{batch} k={k} stride {stride}  {dtype:?}  {use_of:<6}  {forward:>8.2}  {all:>8.2}"
                ));
            }
        }
    }
    set_cudnn(true);
    Ok(())
}

/// Median milliseconds of a call, after warming up.
fn milliseconds<T>(gpu: &Device, mut call: impl FnMut() -> Result<T>) -> Result<f64> {
    call()?;
    call()?;
    gpu.synchronize()?;
    let mut times = vec![];
    for _ in 0..7 {
        let start = Instant::now();
        call()?;
        gpu.synchronize()?;
        times.push(start.elapsed().as_secs_f64() * 1e3);
    }
    times.sort_by(f64::total_cmp);
    Ok(times[3])
}

pub(crate) fn on_gpu(gpu: &Device, shape: &[usize], dtype: DType) -> Result<Var> {
    Ok(Var::from_tensor(&Tensor::randn(0f32, 1f32, shape, gpu)?.to_dtype(dtype)?)?)
}

/// Milliseconds forward, and forward and backward.
fn both(gpu: &Device, run: &Operation, arguments: &[Var]) -> Result<[f64; 2]> {
    let detached: Vec<Tensor> = arguments.iter().map(Var::as_detached_tensor).collect();
    let forward = milliseconds(gpu, || Ok(run(&detached)?))?;
    let tensors: Vec<Tensor> = arguments.iter().map(|v| v.as_tensor().clone()).collect();
    let all = milliseconds(gpu, || Ok(run(&tensors)?.backward()?))?;
    Ok([forward, all])
}

/// Milliseconds forward, and of a whole step with weights in f32.
fn training_step(gpu: &Device, stored: DType) -> Result<[f64; 2]> {
    let network = network(gpu, DType::F32)?;
    let mut adam = Optimiser::new(&OptimiserConfig::default(), network.params(), 1e-3)?;
    let x = Tensor::randn(0f32, 1f32, (8, 1, 64, 64, 64), gpu)?.to_dtype(stored)?;
    let labels = Tensor::new(&[0u32, 1, 2, 3, 0, 1, 2, 3], gpu)?;
    let forward = || network.forward(&x, Mode::Train { seed: 3, step: 0 });
    let of_forward = milliseconds(gpu, || Ok(forward()?))?;
    let of_step = milliseconds(gpu, || {
        let loss = cross_entropy(&forward()?, &labels)?;
        Ok(adam.step(
            network.params(),
            &Gradients::of(network.params(), &loss.backward()?),
            1e-2,
        )?)
    })?;
    Ok([of_forward, of_step])
}

/// What the GPU does at best: a copy, and a matrix product.
fn ceilings(gpu: &Device) -> Result<()> {
    let (count, edge) = (1 << 28, 4096);
    let x = Tensor::zeros(count, DType::F32, gpu)?;
    let copy = milliseconds(gpu, || Ok(x.affine(1.0, 1.0)?))?;
    say(&format!("a copy: {:.0} GB/s", 8.0 * count as f64 / copy / 1e6));
    for dtype in [DType::F32, DType::BF16] {
        let [a, b] = [on_gpu(gpu, &[edge, edge], dtype)?, on_gpu(gpu, &[edge, edge], dtype)?];
        let [a, b] = [a.as_detached_tensor(), b.as_detached_tensor()];
        let product = milliseconds(gpu, || Ok(a.matmul(&b)?))?;
        let rate = 2.0 * (edge as f64).powi(3) / product / 1e9;
        say(&format!("a matrix product in {dtype:?}: {rate:.1} TFLOP/s"));
    }
    Ok(())
}

pub(crate) fn speed(gpu: &Device) -> Result<String> {
    const FIELDS: &str = "16x0+16x1+16x2";
    let mut first = String::new();
    ceilings(gpu)?;
    say("operation                                        dtype   forward ms   with backward ms");
    let mut line = |name: &str, dtype: DType, [forward, all]: [f64; 2]| {
        say(&format!("{name:<47}  {dtype:?}   {forward:>10.2}   {all:>10.2}"));
        if first.is_empty() {
            first = format!("{name}: {all:.1} ms with backward");
        }
    };
    let fields: Irreps = FIELDS.parse()?;
    let (batch, edge) = (8, 64);
    let shape = [batch, fields.dim(), edge, edge, edge];
    for (k, order) in [(5, 3), (5, 4), (7, 4)] {
        for (dtype, permitted) in
            [(DType::F32, false), (DType::F32, true), (DType::BF16, false), (DType::BF16, true)]
        {
            let family = Family::jets(order);
            let basis = KernelBasis::new(&fields, &fields, k, &family, [1.0; 3])?;
            let plan = SeparablePlan::new(&basis, &family)?.context("jets are separable")?;
            let multiply_adds = plan.cost().total() as f64;
            let kernel = Separable::new(plan)?;
            let run: Operation =
                Box::new(move |a| separable_conv3d(&a[0], &a[1], None, &kernel, 1, Boundary::Zero));
            let arguments =
                [on_gpu(gpu, &shape, dtype)?, on_gpu(gpu, &[basis.num_weights()], dtype)?];
            let cores = if permitted { " tf32" } else { "" };
            let name = format!("separable {FIELDS} {edge}^3 x{batch} k={k} N={order}{cores}");
            let _permit = permitted.then(permit_tf32);
            let times = both(gpu, &run, &arguments)?;
            line(&name, dtype, times);
            let (values, bytes) = ((batch * edge.pow(3)) as f64, dtype.size_in_bytes() as f64);
            let rate = 2.0 * multiply_adds * values / times[0] / 1e9;
            let traffic = 2.0 * fields.dim() as f64 * values * bytes / times[0] / 1e6;
            say(&format!("    forward {rate:.1} TFLOP/s, {traffic:.0} GB/s of input and output"));
        }
    }
    let arguments = [
        on_gpu(gpu, &[2, 32, edge, edge, edge], DType::F32)?,
        on_gpu(gpu, &[32, 32, 3, 3, 3], DType::F32)?,
    ];
    let run: Operation = Box::new(|a| conv3d(&a[0], &a[1], None, &Conv3dConfig::same(3)));
    line("conv3d 32 to 32 64^3 x2 k=3", DType::F32, both(gpu, &run, &arguments)?);
    let all: Irreps = "48x0+16x1+16x2".parse()?;
    let gated: Irreps = "16x1+16x2".parse()?;
    let arguments = [
        on_gpu(gpu, &[batch, all.dim(), edge, edge, edge], DType::F32)?,
        on_gpu(gpu, &[all.num_fields()], DType::F32)?,
        on_gpu(gpu, &[48], DType::F32)?,
    ];
    let run: Operation = Box::new(move |a| {
        Ok(field_batch_norm_gate(&a[0], &all, &a[1], &a[2], 1e-5, 16, Some(&gated))?.0)
    });
    line("batch norm and gate 176 channels 64^3 x8", DType::F32, both(gpu, &run, &arguments)?);
    for stored in [DType::F32, DType::BF16] {
        line("training step, 3 layers 64^3 x8", stored, training_step(gpu, stored)?);
    }
    dense_speeds(gpu)?;
    Ok(first)
}
