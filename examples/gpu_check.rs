//! Checks and measures the operations on an NVIDIA GPU; `scripts/gpu-check` runs it.
//!
//! `gpu_check` runs all of: `operations` (against the CPU in f64, forward and gradients, with random
//! irreps and sizes, in memory full of NaN; two runs must give the same bits), `tf32` (convolutions on
//! tensor cores), `cudnn` (dense convolutions with and without it),
//! `memory` (nothing stays allocated), `training` (some steps as on the CPU, and twice the same losses),
//! `devices` (each batch in two parts, on two GPUs where there are two), `speed` (a table). Arguments name the parts to run.
//! It ends with a summary, and with exit code 1 if a part failed.

use std::ops::ControlFlow;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use candle_core::{DType, Device, Tensor, Var};
use candle_nn::loss::cross_entropy;
use steer3d::kernels::{Family, KernelBasis, SeparablePlan};
use steer3d::nn::{
    AdamW, Mode, ModelConfig, Network, SteerableBlock, SteerableCnn, SteerableConfig, TrainConfig,
    TrainEvent, Training,
};
#[cfg(feature = "nccl")]
use steer3d::ops::DeviceLink;
use steer3d::ops::{
    Boundary, Conv3dConfig, GridTransform, ProductTerm, Separable, affine_resample3d, avg_pool3d,
    channel_product, conv3d, field_affine, field_batch_norm, field_batch_norm_gate, field_dropout,
    gate, gaussian_pool3d, gaussian_upsample3d, global_avg_pool, grid_nonlinearity, max_pool3d,
    norm_relu, permit_tf32, separable_conv3d, tf32_is_permitted,
};
#[cfg(feature = "cudnn")]
use steer3d::ops::{cudnn_version, set_cudnn};
use steer3d::so3::{Irreps, Stream};
use steer3d::volume::{Dataset, ImportOptions, Voxeliser, import_tetris};

type Part = fn(&Device) -> Result<String>;
type Operation = Box<dyn Fn(&[Tensor]) -> candle_core::Result<Tensor>>;

fn main() -> Result<()> {
    let gpu = Device::new_cuda(0).context("no NVIDIA GPU can be used")?;
    ensure!(!tf32_is_permitted(), "STEER3D_TF32 rounds what is compared: unset it");
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    let parts: [(&str, Part); 7] = [
        ("operations", operations),
        ("tf32", rounded),
        ("cudnn", cudnn),
        ("memory", memory),
        ("training", training),
        ("devices", devices),
        ("speed", speed),
    ];
    let (mut summary, mut failed) = (vec![], false);
    for (name, part) in parts {
        if !wanted.is_empty() && !wanted.iter().any(|w| w == name) {
            continue;
        }
        let start = Instant::now();
        let found = part(&gpu);
        failed |= found.is_err();
        let line = found.map_or_else(|e| format!("FAILED: {e:#}"), |line| format!("ok: {line}"));
        summary.push(format!("{name:<10} {line} ({:.0} s)", start.elapsed().as_secs_f64()));
    }
    say(&format!("\n{}", summary.join("\n")));
    ensure!(!failed, "a part failed");
    Ok(())
}

#[allow(clippy::print_stdout)]
fn say(text: &str) {
    println!("{text}");
}

fn normal(stream: &mut Stream, shape: &[usize]) -> Result<Tensor> {
    let values: Vec<f64> = (0..shape.iter().product()).map(|_| stream.normal()).collect();
    Ok(Tensor::from_vec(values, shape, &Device::Cpu)?)
}

/// Irreps of one to three blocks.
fn irreps(stream: &mut Stream) -> Result<Irreps> {
    let blocks = 1 + stream.below(3);
    let block = |_| format!("{}x{}", 1 + stream.below(20), stream.below(4));
    let text = (0..blocks).map(block).collect::<Vec<_>>().join("+");
    Ok(text.parse()?)
}

/// An operation, its name, and its arguments in f64.
fn random_operation(index: usize, stream: &mut Stream) -> Result<(String, Operation, Vec<Tensor>)> {
    let mut any = |low: usize, high: usize| low + stream.below(high - low);
    let (n, dims) = (any(1, 4), [any(3, 16), any(3, 16), any(3, 16)]);
    let (stride, k, order) = (any(1, 4), [3, 5, 7][any(0, 3)], any(1, 5));
    let circular = any(0, 2) == 1;
    let field = irreps(stream)?;
    let volume = |channels: usize| [n, channels, dims[0], dims[1], dims[2]];
    let c = field.dim();
    Ok(match index {
        0 => {
            let out = irreps(stream)?;
            let order = order.min(k - 1);
            let family = Family::jets(order);
            let basis = KernelBasis::new(&field, &out, k, &family, [1.0; 3])?;
            let plan = SeparablePlan::new(&basis, &family)?.context("jets are separable")?;
            let kernel = Separable::new(plan)?;
            let arguments = vec![
                normal(stream, &volume(c))?,
                normal(stream, &[basis.num_weights()])?,
                normal(stream, &[out.dim()])?,
            ];
            let boundary = if circular { Boundary::Circular } else { Boundary::Zero };
            let name =
                format!("separable {field} to {out}, k={k} N={order} stride {stride} {boundary:?}");
            let run = move |a: &[Tensor]| {
                separable_conv3d(&a[0], &a[1], Some(&a[2]), &kernel, stride, boundary)
            };
            (name, Box::new(run), arguments)
        }
        1 => {
            let out = 1 + stream.below(80);
            let config = Conv3dConfig::new(stride, stream.below(3));
            let k = if dims.iter().any(|&n| n < 5) { 3 } else { k.min(5) };
            let arguments = vec![
                normal(stream, &volume(c))?,
                normal(stream, &[out, c, k, k, k])?,
                normal(stream, &[out])?,
            ];
            let run = move |a: &[Tensor]| conv3d(&a[0], &a[1], Some(&a[2]), &config);
            (format!("conv3d {c} to {out}, k={k} {config:?}"), Box::new(run), arguments)
        }
        2 | 3 => {
            let scalars = stream.below(9) + 1;
            let fields = field.num_fields();
            let all: Irreps = format!("{}x0+{field}", scalars + fields).parse()?;
            let mut arguments = vec![normal(stream, &volume(all.dim()))?];
            if index == 2 {
                let run = move |a: &[Tensor]| gate(&a[0], scalars, &field);
                return Ok(("gate".into(), Box::new(run), arguments));
            }
            let invariant = all.blocks().filter(|b| b.irrep.l == 0).map(|b| b.mul).sum();
            arguments.push(normal(stream, &[all.num_fields()])?);
            arguments.push(normal(stream, &[invariant])?);
            let run = move |a: &[Tensor]| {
                let gated = Some(&field);
                Ok(field_batch_norm_gate(&a[0], &all, &a[1], &a[2], 1e-5, scalars, gated)?.0)
            };
            ("batch norm and gate".into(), Box::new(run), arguments)
        }
        4 | 5 => {
            let invariant = field.blocks().filter(|b| b.irrep.l == 0).map(|b| b.mul).sum();
            let arguments = vec![
                normal(stream, &volume(c))?,
                normal(stream, &[field.num_fields()])?,
                normal(stream, &[invariant])?,
            ];
            let run: Operation = if index == 4 {
                Box::new(move |a| Ok(field_batch_norm(&a[0], &field, &a[1], &a[2], 1e-5)?.0))
            } else {
                Box::new(move |a| field_affine(&a[0], &field, &a[1], &a[2]))
            };
            ((if index == 4 { "batch norm" } else { "affine" }).into(), run, arguments)
        }
        6 => {
            let arguments =
                vec![normal(stream, &volume(c))?, normal(stream, &[field.num_fields()])?];
            ("norm_relu".into(), Box::new(move |a| norm_relu(&a[0], &field, &a[1])), arguments)
        }
        7 => {
            let mask = normal(stream, &[n, field.num_fields()])?;
            let run = move |a: &[Tensor]| {
                let mask = mask.to_device(a[0].device())?.to_dtype(a[0].dtype())?;
                field_dropout(&a[0], &field, &mask)
            };
            ("dropout".into(), Box::new(run), vec![normal(stream, &volume(c))?])
        }
        8 => {
            let arguments = vec![normal(stream, &volume(c))?];
            ("global average".into(), Box::new(|a| global_avg_pool(&a[0])), arguments)
        }
        9 => {
            let run = move |a: &[Tensor]| max_pool3d(&a[0], 3, stride, 1);
            ("max pool".into(), Box::new(run), vec![normal(stream, &volume(c))?])
        }
        10 => {
            let run = move |a: &[Tensor]| avg_pool3d(&a[0], 3, stride, 1);
            ("average pool".into(), Box::new(run), vec![normal(stream, &volume(c))?])
        }
        11 => {
            let sigma = 0.4 + stream.uniform();
            let run = move |a: &[Tensor]| gaussian_pool3d(&a[0], stride, sigma);
            ("Gaussian pool".into(), Box::new(run), vec![normal(stream, &volume(c))?])
        }
        12 => {
            let arguments = vec![normal(stream, &volume(c))?, (normal(stream, &[n, 3, 4])? * 0.7)?];
            ("resampling".into(), Box::new(|a| affine_resample3d(&a[0], &a[1])), arguments)
        }
        13 => {
            let size = [any_size(stream), any_size(stream), any_size(stream)];
            let pooled = size.map(|n: usize| n.div_ceil(stride));
            let shape = [n, c, pooled[0], pooled[1], pooled[2]];
            let run = move |a: &[Tensor]| gaussian_upsample3d(&a[0], size, stride, 1.1);
            ("up-sampling".into(), Box::new(run), vec![normal(stream, &shape)?])
        }
        14 => {
            let (c2, channels) = (1 + stream.below(9), 1 + stream.below(9));
            let term = |_| ProductTerm {
                output: stream.below(channels),
                left: stream.below(c),
                right: stream.below(c2),
                factor: stream.normal(),
            };
            let terms: Vec<ProductTerm> = (0..40).map(term).collect();
            let arguments = vec![normal(stream, &volume(c))?, normal(stream, &volume(c2))?];
            let run = move |a: &[Tensor]| channel_product(&a[0], &a[1], channels, &terms);
            ("channel product".into(), Box::new(run), arguments)
        }
        15 => {
            let mut matrix =
                || (0..20).map(|_| (0..c).map(|_| stream.normal()).collect()).collect();
            let (to_grid, from_grid) = (matrix(), matrix());
            let members: Vec<(usize, usize)> = (0..c).map(|i| (i, i)).collect();
            let signals = members.chunks(9).map(<[_]>::to_vec).collect();
            let transform = GridTransform { signals, to_grid, from_grid };
            let run = move |a: &[Tensor]| grid_nonlinearity(&a[0], &transform);
            ("grid nonlinearity".into(), Box::new(run), vec![normal(stream, &volume(c))?])
        }
        _ => bail!("no operation {index}"),
    })
}

const OPERATIONS: usize = 16;
fn any_size(stream: &mut Stream) -> usize {
    3 + stream.below(13)
}

const ROUNDS: usize = 12;

/// Index of the dense convolution among the operations.
const CONV3D: usize = 1;

/// Leaves NaN of every type in the memory that the next operations on a GPU are given: frees of a stream are what its
/// next allocations take.
fn poison(device: &Device) -> Result<()> {
    if device.is_cuda() {
        Tensor::full(u32::MAX, 4 << 20, device)?;
    }
    Ok(())
}

/// Output and gradients of all arguments, for a fixed weighting of the output, in f64 on the CPU.
fn results(
    run: &Operation,
    arguments: &[Tensor],
    dtype: DType,
    device: &Device,
) -> Result<Vec<Tensor>> {
    let vars = arguments
        .iter()
        .map(|a| Ok(Var::from_tensor(&a.to_dtype(dtype)?.to_device(device)?)?))
        .collect::<Result<Vec<_>>>()?;
    let tensors: Vec<Tensor> = vars.iter().map(|v| v.as_tensor().clone()).collect();
    poison(device)?;
    let out = run(&tensors)?;
    let weighting = normal(&mut Stream::new(99, "weighting", &[]), out.dims())?;
    let weighting = weighting.to_dtype(dtype)?.to_device(device)?;
    let loss = (&out * weighting)?.sum_all()?;
    poison(device)?;
    let gradients = loss.backward()?;
    let mut all = vec![out];
    for var in &vars {
        if var.elem_count() > 0 {
            all.push(gradients.get(var).context("an argument without gradient")?.clone());
        }
    }
    let cpu = |t: &Tensor| Ok(t.to_device(&Device::Cpu)?.to_dtype(DType::F64)?);
    all.iter().map(cpu).collect()
}

/// Largest difference over the largest element of the second.
fn difference(a: &Tensor, b: &Tensor) -> Result<f64> {
    let (a, b): (Vec<f64>, Vec<f64>) = (a.flatten_all()?.to_vec1()?, b.flatten_all()?.to_vec1()?);
    let scale = b.iter().fold(f64::MIN_POSITIVE, |m, v| m.max(v.abs()));
    let worst = a.iter().zip(&b).fold(0.0, |m: f64, (a, b)| {
        let d = (a - b).abs();
        if d.is_nan() { f64::INFINITY } else { m.max(d) }
    });
    Ok(worst / scale)
}

/// Element types with the largest difference that an operation may have, over the largest element.
const TYPES: [(DType, f64); 3] = [(DType::F32, 1e-5), (DType::F64, 1e-11), (DType::BF16, 3e-2)];

/// Checks random cases of an operation: its name and the largest difference in f32, f64 and bf16.
fn check(
    index: usize,
    gpu: &Device,
    types: [(DType, f64); 3],
    problems: &mut Vec<String>,
) -> Result<(String, [f64; 3])> {
    let mut worst = [0f64; 3];
    let mut name = String::new();
    for round in 0..ROUNDS {
        let mut stream = Stream::new(round as u64, "gpu-check", &[index as u64]);
        let (title, run, arguments) = random_operation(index, &mut stream)?;
        // Each kernel of a separable convolution is compiled for itself: f64 and bf16 for some.
        for (t, (dtype, tolerance)) in types.into_iter().enumerate() {
            if t > 0 && index == 0 && round > 1 {
                continue;
            }
            // What the element type holds.
            let held = |a: &Tensor| Ok(a.to_dtype(dtype)?.to_dtype(DType::F64)?);
            let arguments = arguments.iter().map(held).collect::<Result<Vec<_>>>()?;
            let expected = results(&run, &arguments, DType::F64, &Device::Cpu)?;
            let found = results(&run, &arguments, dtype, gpu).with_context(|| title.clone())?;
            let again = results(&run, &arguments, dtype, gpu)?;
            for (i, (a, b)) in found.iter().zip(&expected).enumerate() {
                let d = difference(a, b)?;
                worst[t] = worst[t].max(d);
                // In bf16 the largest element of a window or the sign of a scalar can be another one.
                if d > tolerance && (dtype != DType::BF16 || i == 0) {
                    problems.push(format!("{title}, {dtype:?}, result {i}: {d:.1e}"));
                }
                let same = difference(a, &again[i])?;
                if same > 0.0 {
                    problems.push(format!("{title}, {dtype:?}, result {i}: two runs differ"));
                }
            }
        }
        name = title;
    }
    let [single, double, half] = worst;
    let short: String = name.chars().take(60).collect();
    say(&format!("{short:<60} f32 {single:.1e}  f64 {double:.1e}  bf16 {half:.1e}"));
    Ok((name, worst))
}

fn no_problem(problems: &[String]) -> Result<()> {
    ensure!(problems.is_empty(), "{} differences:\n  {}", problems.len(), problems.join("\n  "));
    Ok(())
}

fn operations(gpu: &Device) -> Result<String> {
    let (mut worst, mut problems) = ([0f64; 3], vec![]);
    for index in 0..OPERATIONS {
        let (_, of_operation) = check(index, gpu, TYPES, &mut problems)?;
        (0..3).for_each(|t| worst[t] = worst[t].max(of_operation[t]));
    }
    no_problem(&problems)?;
    let [single, double, half] = worst;
    let of = OPERATIONS * ROUNDS;
    Ok(format!(
        "{of} cases, largest difference f32 {single:.1e}, f64 {double:.1e}, bf16 {half:.1e}"
    ))
}

/// The convolutions on tensor cores.
fn rounded(gpu: &Device) -> Result<String> {
    let types = TYPES.map(|(dtype, exact)| (dtype, if dtype == DType::F32 { 3e-3 } else { exact }));
    let mut problems = vec![];
    let _permit = permit_tf32();
    let (_, [separable, ..]) = check(0, gpu, types, &mut problems)?;
    let (_, [dense, ..]) = check(CONV3D, gpu, types, &mut problems)?;
    no_problem(&problems)?;
    if separable < 1e-5 {
        return Ok("this GPU has no TF32, f32 is exact".into());
    }
    Ok(format!("largest difference f32 {separable:.1e} separable, {dense:.1e} dense"))
}

#[cfg(not(feature = "cudnn"))]
fn cudnn(_gpu: &Device) -> Result<String> {
    Ok("not in this build".into())
}

/// Dense convolutions with and without cuDNN: values, and a table of speeds.
#[cfg(feature = "cudnn")]
fn cudnn(gpu: &Device) -> Result<String> {
    const ALL: [(&str, bool, bool); 3] =
        [("never", false, false), ("exact", true, false), ("tf32", true, true)];
    let Some((version, before)) = cudnn_version() else {
        return Ok("libcudnn is not found: scripts/cuda-toolchain --cudnn installs it".into());
    };
    let mut problems = vec![];
    for wanted in [false, true] {
        set_cudnn(wanted);
        check(CONV3D, gpu, TYPES, &mut problems)?;
    }
    no_problem(&problems)?;
    let launches = cudnn_version().map_or(0, |(_, now)| now - before);
    ensure!(launches > 0, "cuDNN {version} is there and computed none of the convolutions");
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
    Ok(format!("version {version}, computed {launches} of the checked convolutions"))
}

fn free_bytes() -> Result<usize> {
    Ok(candle_core::cuda_backend::cudarc::driver::result::mem_get_info()?.0)
}

fn memory(gpu: &Device) -> Result<String> {
    let step = |round: u64| -> Result<()> {
        let mut stream = Stream::new(round, "memory", &[]);
        let (_, run, arguments) = random_operation(0, &mut stream)?;
        results(&run, &arguments, DType::F32, gpu)?;
        Ok(())
    };
    let settle = || -> Result<usize> {
        gpu.synchronize()?;
        free_bytes()
    };
    (0..4).try_for_each(|_| step(1))?;
    let before = settle()?;
    (0..40).try_for_each(|_| step(1))?;
    let after = settle()?;
    let lost = before.saturating_sub(after);
    ensure!(lost <= 4 << 20, "{lost} bytes stayed allocated after 40 passes");
    Ok(format!("{lost} bytes stay allocated after 40 passes"))
}

fn network(device: &Device, dtype: DType) -> Result<SteerableCnn> {
    let block = |fields: &str, stride| Ok(SteerableBlock::new(fields.parse()?, 5, stride));
    let blocks = [block("8x0+4x1+2x2", 2), block("8x0+4x1+2x2", 1), block("16x0", 1)];
    let config = SteerableConfig {
        blocks: blocks.into_iter().collect::<Result<Vec<_>>>()?,
        ..SteerableConfig::small(1, 4)?
    };
    Ok(SteerableCnn::new(config, 1, dtype, device)?)
}

/// Of weights of type `dtype` and fields of type `stored`.
fn losses(device: &Device, dtype: DType, stored: DType, steps: u64) -> Result<Vec<f64>> {
    let network = network(device, dtype)?;
    let mut adam = AdamW::new(network.params(), 1e-3)?;
    let mut losses = vec![];
    for step in 0..steps {
        let mut stream = Stream::new(step, "training", &[]);
        let x = normal(&mut stream, &[4, 1, 16, 16, 16])?.to_dtype(stored)?.to_device(device)?;
        let labels = Tensor::new(&[0u32, 1, 2, 3], device)?;
        let loss = cross_entropy(&network.forward(&x, Mode::Train { seed: 3, step })?, &labels)?;
        adam.step(network.params(), &loss.backward()?, 1e-2)?;
        losses.push(loss.to_dtype(DType::F64)?.to_device(&Device::Cpu)?.to_scalar()?);
    }
    Ok(losses)
}

fn training(gpu: &Device) -> Result<String> {
    let [bf16, f32, f64] = [DType::BF16, DType::F32, DType::F64];
    let cpu = losses(&Device::Cpu, f64, f64, 8)?;
    let double = losses(gpu, f64, f64, 8)?;
    let single = losses(gpu, f32, f32, 8)?;
    let mixed = losses(gpu, f32, bf16, 8)?;
    ensure!(single == losses(gpu, f32, f32, 8)?, "two runs of the same seed give other losses");
    ensure!(mixed == losses(gpu, f32, bf16, 8)?, "two runs in bf16 give other losses");
    let worst =
        |a: &[f64]| a.iter().zip(&cpu).fold(0.0, |m: f64, (a, b)| m.max((a - b).abs() / b.abs()));
    let (double, single, mixed) = (worst(&double), worst(&single), worst(&mixed));
    ensure!(double < 1e-8, "losses in f64 differ from the CPU's by {double:.1e}");
    ensure!(single < 1e-2, "losses in f32 differ from the CPU's by {single:.1e}");
    ensure!(mixed < 5e-2, "losses with fields in bf16 differ from the CPU's by {mixed:.1e}");
    Ok(format!(
        "8 steps, losses differ from the CPU's by f64 {double:.1e}, f32 {single:.1e}, bf16 {mixed:.1e}; two runs equal"
    ))
}

/// Losses of a training in parts on `devices`.
fn losses_in_parts(devices: &[&Device], dataset: &Dataset) -> Result<Vec<f64>> {
    let model = SteerableConfig::small(1, 8)?;
    let model = ModelConfig::Steerable(SteerableConfig { dropout: 0.0, ..model });
    let networks: Vec<Network> = devices
        .iter()
        .map(|device| Network::new(&model, 1, DType::F32, device))
        .collect::<Result<_, _>>()?;
    let config = TrainConfig { epochs: 6, batch_size: 4, ..TrainConfig::default() };
    let training = Training::new(&networks[0], dataset, &config, None)?;
    let mut losses = vec![];
    training.on_devices(&networks[1..])?.run(&mut |event| {
        if let TrainEvent::Step { loss, .. } = event {
            losses.push(f64::from(loss));
        }
        ControlFlow::Continue(())
    })?;
    Ok(losses)
}

fn devices(gpu: &Device) -> Result<String> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("tetris.h5");
    import_tetris(&path, &Voxeliser::paper(24, 1.5), 1, &ImportOptions::default())?;
    let dataset = Dataset::open(&path)?;
    let (second, name) = match Device::new_cuda(1) {
        Ok(second) => (second, "a second GPU"),
        Err(_) => (Device::new_cuda(0)?, "the same GPU twice"),
    };
    let exchange = exchange(gpu, &second)?;
    let alone = losses_in_parts(&[gpu], &dataset)?;
    let both = losses_in_parts(&[gpu, &second], &dataset)?;
    let again = losses_in_parts(&[gpu, &second], &dataset)?;
    ensure!(both == again, "two runs of the same seed give other losses");
    let pairs = both.iter().zip(&alone);
    let worst = pairs.fold(0.0, |m: f64, (a, b)| m.max((a - b).abs() / b.abs()));
    ensure!(worst < 1e-2, "losses in parts differ from those of one device by {worst:.1e}");
    Ok(format!(
        "{} steps on {name}, losses differ from those of one by {worst:.1e}; {exchange}",
        both.len()
    ))
}

#[cfg(not(feature = "nccl"))]
fn exchange(_gpu: &Device, _second: &Device) -> Result<String> {
    Ok("NCCL is not in this build".into())
}

/// Sums and copies by NCCL: between two GPUs, or of one with itself.
#[cfg(feature = "nccl")]
fn exchange(gpu: &Device, second: &Device) -> Result<String> {
    let (two, one) = ([gpu, second], [gpu]);
    let (link, used) = match DeviceLink::between(&two) {
        Some(link) => (link, &two[..]),
        None => match DeviceLink::between(&one) {
            Some(link) => (link, &one[..]),
            None => {
                return Ok("NCCL is not found: scripts/cuda-toolchain --nccl installs it".into());
            }
        },
    };
    for dtype in [DType::F32, DType::F64] {
        let row = |i: usize| normal(&mut Stream::new(i as u64, "row", &[]), &[100_003]);
        let rows = (0..used.len()).map(row).collect::<Result<Vec<_>>>()?;
        let on_devices = rows
            .iter()
            .zip(used)
            .map(|(row, device)| Ok(row.to_dtype(dtype)?.to_device(device)?));
        let on_devices = on_devices.collect::<Result<Vec<_>>>()?;
        let cpu =
            |t: &Tensor| Ok::<_, anyhow::Error>(t.to_device(&Device::Cpu)?.to_dtype(DType::F64)?);
        let mut expected = rows[0].clone();
        for row in &rows[1..] {
            expected = (expected + row)?;
        }
        let off = difference(&cpu(&link.sum(&on_devices)?)?, &expected)?;
        ensure!(off < 1e-6, "a sum by NCCL is off by {off:.1e}");
        for copy in link.copies(&on_devices[0])? {
            ensure!(
                difference(&cpu(&copy)?, &cpu(&on_devices[0])?)? == 0.0,
                "a copy by NCCL differs"
            );
        }
    }
    Ok(format!("NCCL sums and copies rows of {} devices", used.len()))
}

/// Median milliseconds of a call, after warming up.
fn milliseconds(gpu: &Device, mut call: impl FnMut() -> Result<()>) -> Result<f64> {
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

fn on_gpu(gpu: &Device, shape: &[usize], dtype: DType) -> Result<Var> {
    Ok(Var::from_tensor(&Tensor::randn(0f32, 1f32, shape, gpu)?.to_dtype(dtype)?)?)
}

/// Milliseconds forward, and forward and backward.
fn both(gpu: &Device, run: &Operation, arguments: &[Var]) -> Result<[f64; 2]> {
    let detached: Vec<Tensor> = arguments.iter().map(Var::as_detached_tensor).collect();
    let forward = milliseconds(gpu, || {
        run(&detached)?;
        Ok(())
    })?;
    let tensors: Vec<Tensor> = arguments.iter().map(|v| v.as_tensor().clone()).collect();
    let all = milliseconds(gpu, || {
        run(&tensors)?.backward()?;
        Ok(())
    })?;
    Ok([forward, all])
}

/// Milliseconds forward, and of a whole step with weights in f32.
fn training_step(gpu: &Device, stored: DType) -> Result<[f64; 2]> {
    let network = network(gpu, DType::F32)?;
    let mut adam = AdamW::new(network.params(), 1e-3)?;
    let x = Tensor::randn(0f32, 1f32, (8, 1, 64, 64, 64), gpu)?.to_dtype(stored)?;
    let labels = Tensor::new(&[0u32, 1, 2, 3, 0, 1, 2, 3], gpu)?;
    let forward = || network.forward(&x, Mode::Train { seed: 3, step: 0 });
    let of_forward = milliseconds(gpu, || {
        forward()?;
        Ok(())
    })?;
    let of_step = milliseconds(gpu, || {
        let loss = cross_entropy(&forward()?, &labels)?;
        Ok(adam.step(network.params(), &loss.backward()?, 1e-2)?)
    })?;
    Ok([of_forward, of_step])
}

fn speed(gpu: &Device) -> Result<String> {
    const FIELDS: &str = "16x0+16x1+16x2";
    let mut first = String::new();
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
            let kernel = Separable::new(plan)?;
            let run: Operation =
                Box::new(move |a| separable_conv3d(&a[0], &a[1], None, &kernel, 1, Boundary::Zero));
            let arguments =
                [on_gpu(gpu, &shape, dtype)?, on_gpu(gpu, &[basis.num_weights()], dtype)?];
            let cores = if permitted { " tf32" } else { "" };
            let name = format!("separable {FIELDS} {edge}^3 x{batch} k={k} N={order}{cores}");
            let _permit = permitted.then(permit_tf32);
            line(&name, dtype, both(gpu, &run, &arguments)?);
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
    Ok(first)
}
