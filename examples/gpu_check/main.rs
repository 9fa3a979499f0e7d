//! Checks and measures the operations on an NVIDIA GPU; `scripts/gpu-check` runs it.
//!
//! `gpu_check` runs all of: `operations` (against the CPU in f64, forward and gradients, with random
//! irreps and sizes, in memory full of NaN; two runs must give the same bits), `tf32` (convolutions on
//! tensor cores), `cudnn` (dense convolutions with and without it),
//! `memory` (nothing stays allocated), `networks` (of all kinds, as on the CPU), `training` (some steps as on the
//! CPU, and twice the same losses), `devices` (each batch in two parts, on two GPUs where there are two), `ranks` (two
//! processes of one GPU each, of which one is killed at last), `speed` (a table). Arguments name the parts to run. It ends
//! with a summary, and with exit code 1 if a part failed.

mod networks;
mod ranks;
mod speed;

use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use candle_core::{DType, Device, Tensor, Var};
use steer3d::kernels::{Family, KernelBasis, SeparablePlan};
use steer3d::ops::{
    Boundary, Conv3dConfig, GridTransform, ProductTerm, Separable, affine_resample3d, avg_pool3d,
    channel_product, conv3d, field_affine, field_batch_norm, field_batch_norm_gate, field_dropout,
    gate, gaussian_pool3d, gaussian_upsample3d, global_avg_pool, gpu_device, grid_nonlinearity,
    max_pool3d, norm_relu, permit_tf32, separable_conv3d, tf32_is_permitted,
};
#[cfg(feature = "cudnn")]
use steer3d::ops::{cudnn_version, set_cudnn};
use steer3d::so3::{Irreps, Stream};

use crate::networks::{devices, networks, training};
use crate::ranks::ranks;
#[cfg(feature = "cudnn")]
use crate::speed::on_gpu;
use crate::speed::speed;

type Part = fn(&Device) -> Result<String>;
type Operation = Box<dyn Fn(&[Tensor]) -> candle_core::Result<Tensor>>;

fn gpu(number: usize) -> candle_core::Result<Device> {
    // SAFETY: nothing here makes a stream.
    #[allow(unsafe_code)]
    unsafe {
        gpu_device(number)
    }
}

fn main() -> Result<()> {
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = wanted.iter().map(String::as_str).collect();
    if let [ranks::ONE, folder, epochs] = words[..] {
        ranks::one(Path::new(folder), epochs.parse()?);
    }
    let gpu = gpu(0).context("no NVIDIA GPU can be used")?;
    ensure!(!tf32_is_permitted(), "STEER3D_TF32 rounds what is compared: unset it");
    let parts: [(&str, Part); 9] = [
        ("operations", operations),
        ("tf32", rounded),
        ("cudnn", cudnn),
        ("memory", memory),
        ("networks", networks),
        ("training", training),
        ("devices", devices),
        ("ranks", ranks),
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
    all.iter().map(on_cpu).collect()
}

/// In f64.
fn on_cpu(x: &Tensor) -> Result<Tensor> {
    Ok(x.to_device(&Device::Cpu)?.to_dtype(DType::F64)?)
}

/// The largest of some sizes; infinite where one is not a number.
fn largest(sizes: impl Iterator<Item = f64>) -> f64 {
    sizes.fold(0.0, |most: f64, d| if d.is_nan() { f64::INFINITY } else { most.max(d) })
}

/// Largest difference over the largest element of the second.
fn difference(a: &Tensor, b: &Tensor) -> Result<f64> {
    ensure!(a.dims() == b.dims(), "expected shape {:?}, found {:?}", b.dims(), a.dims());
    let (a, b): (Vec<f64>, Vec<f64>) = (a.flatten_all()?.to_vec1()?, b.flatten_all()?.to_vec1()?);
    let scale = b.iter().fold(f64::MIN_POSITIVE, |m, v| m.max(v.abs()));
    Ok(largest(a.iter().zip(&b).map(|(a, b)| (a - b).abs())) / scale)
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

fn has_tf32(gpu: &Device) -> Result<bool> {
    use candle_core::cuda_backend::cudarc::driver::sys::CUdevice_attribute as Attribute;
    let major = Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR;
    Ok(gpu.as_cuda_device()?.cuda_stream().context().attribute(major)? >= 8)
}

/// The convolutions on tensor cores.
fn rounded(gpu: &Device) -> Result<String> {
    let types = TYPES.map(|(dtype, exact)| (dtype, if dtype == DType::F32 { 3e-3 } else { exact }));
    let mut problems = vec![];
    let _permit = permit_tf32();
    let (_, [separable, ..]) = check(0, gpu, types, &mut problems)?;
    let (_, [dense, ..]) = check(CONV3D, gpu, types, &mut problems)?;
    no_problem(&problems)?;
    if !has_tf32(gpu)? {
        return Ok(format!(
            "this GPU has no TF32, largest difference f32 {:.1e}",
            separable.max(dense)
        ));
    }
    ensure!(separable > 1e-5, "this GPU has TF32 and the separable convolution does not use it");
    Ok(format!("largest difference f32 {separable:.1e} separable, {dense:.1e} dense"))
}

#[cfg(not(feature = "cudnn"))]
fn cudnn(_gpu: &Device) -> Result<String> {
    Ok("not in this build".into())
}

/// Dense convolutions with and without cuDNN.
#[cfg(feature = "cudnn")]
fn cudnn(gpu: &Device) -> Result<String> {
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
    for (dtype, _) in TYPES {
        let arguments =
            [on_gpu(gpu, &[1, 4, 8, 8, 8], dtype)?, on_gpu(gpu, &[4, 4, 3, 3, 3], dtype)?];
        let before = cudnn_version().map_or(0, |(_, now)| now);
        conv3d(&arguments[0], &arguments[1], None, &Conv3dConfig::same(3))?.backward()?;
        let done = cudnn_version().map_or(0, |(_, now)| now - before);
        say(&format!("{dtype:?}: cuDNN computes {done} of the 3 parts of a step"));
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
