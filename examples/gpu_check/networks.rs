//! Networks and trainings.

use std::ops::ControlFlow;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use candle_core::{DType, Device, Tensor};
use candle_nn::loss::cross_entropy;
use steer3d::dataset::{Dataset, ImportOptions, import_tetris};
use steer3d::kernels::Family;
use steer3d::nn::checkpoint::{FORMAT, Meaning, ModelCard, Origin, load, save};
use steer3d::nn::layers::{FieldLayer, RadialConv3d, RadialConvConfig};
use steer3d::nn::{
    Field, Head, Mode, ModelConfig, Network, Nonlinearity, Params, PlainConfig, Pooling,
    SteerableBlock, SteerableConfig, Symmetry, TransformerConfig,
};
#[cfg(feature = "nccl")]
use steer3d::ops::{DeviceLink, RankLink};
#[cfg(feature = "nccl")]
use steer3d::ranks::Rank;
use steer3d::so3::{Irreps, Stream};
use steer3d::train::{
    GradientSums, Gradients, Optimiser, OptimiserConfig, TrainConfig, TrainEvent, Training,
};
use steer3d::volume::Voxeliser;

use crate::{difference, largest, normal, on_cpu, say};

/// Networks of every kind of layer, norm and head, with their names.
fn configurations() -> Result<Vec<(&'static str, ModelConfig)>> {
    let small = SteerableConfig::small(1, 4)?;
    let with = |change: &dyn Fn(&mut SteerableConfig)| {
        let mut config = small.clone();
        change(&mut config);
        ModelConfig::Steerable(config)
    };
    let of = |nonlinearity| with(&|c| c.nonlinearity = nonlinearity);
    let field = |irreps: &str, pooled| -> Result<ModelConfig> {
        let head = Head::Field { irreps: irreps.parse()?, pooled };
        Ok(with(&|c| {
            c.blocks.truncate(2);
            (c.classes, c.head) = (0, head.clone());
        }))
    };
    let residual = SteerableBlock::residual("4x0+2x1".parse()?, 3, 2, 2);
    let vectors = SteerableBlock::new("3x1+1x2".parse()?, 3, 1);
    let plain = PlainConfig::small(1, 4);
    let unet = SteerableConfig::unet(1, 3)?;
    let plain_with = |change: &dyn Fn(&mut PlainConfig)| {
        let mut config = plain.clone();
        change(&mut config);
        ModelConfig::Plain(config)
    };
    Ok(vec![
        ("jets", with(&|_| ())),
        ("shells", with(&|c| c.kernel = Family::shells())),
        ("norm nonlinearity", of(Nonlinearity::Norm)),
        ("tensor product", of(Nonlinearity::TensorProduct)),
        ("nonlinearity on spheres", of(Nonlinearity::Sphere)),
        ("zero kept", with(&|c| (c.keep_zero, c.head_norm, c.dropout) = (true, true, 0.2))),
        (
            "vectors only",
            with(&|c| {
                c.nonlinearity = Nonlinearity::Norm;
                c.blocks.insert(1, vectors.clone());
            }),
        ),
        ("residual", with(&|c| c.blocks.insert(1, residual.clone()))),
        ("mirror symmetry", ModelConfig::Steerable(small.with_mirror_symmetry()?)),
        ("numbers", with(&|c| c.head = Head::Scalars)),
        ("a field of vectors", field("2x1", false)?),
        ("a pooled field", field("1x0+1x2", true)?),
        ("labels of voxels", ModelConfig::Steerable(unet.clone())),
        ("plain", ModelConfig::Plain(PlainConfig { dropout: 0.2, ..plain.clone() })),
        ("plain, antialiased", plain_with(&|c| c.pooling = Pooling::Antialiased)),
        ("plain, labels of voxels", ModelConfig::Plain(PlainConfig::like(&unet))),
        ("octahedral", plain_with(&|c| c.symmetry = Symmetry::Octahedral)),
        ("transformer", plain_with(&|c| c.transformer = Some(TransformerConfig::small()))),
    ])
}

/// Two volumes.
fn volumes(dtype: DType, device: &Device) -> Result<Tensor> {
    let x = normal(&mut Stream::new(5, "volumes", &[]), &[2, 1, 11, 11, 11])?;
    Ok(x.to_dtype(dtype)?.to_device(device)?)
}

/// Losses of two steps in f64, and then the answers of the network for evaluation.
fn steps_and_answers(config: &ModelConfig, device: &Device) -> Result<(Vec<f64>, Tensor)> {
    let network = Network::new(config, 1, DType::F64, device)?;
    let mut adam = Optimiser::new(&OptimiserConfig::default(), network.params(), 1e-3)?;
    let x = volumes(DType::F64, device)?;
    let mut losses = vec![];
    for step in 0..2 {
        let out = network.forward(&x, Mode::Train { seed: 3, step })?;
        let loss = out.affine(1.0, -0.3)?.sqr()?.mean_all()?;
        adam.step(network.params(), &Gradients::of(network.params(), &loss.backward()?), 1e-2)?;
        losses.push(on_cpu(&loss)?.to_scalar()?);
    }
    let answers = on_cpu(&network.folded()?.forward(&x)?)?;
    let unfused = on_cpu(&network.forward(&x, Mode::Evaluate)?)?;
    let off = difference(&answers, &unfused)?;
    ensure!(off < 1e-9, "the network for evaluation gives other answers: {off:.1e}");
    Ok((losses, answers))
}

/// A step with fields in bf16 and blocks computed again, and a file of the network.
fn in_bf16_and_from_a_file(config: &ModelConfig, gpu: &Device) -> Result<()> {
    let network = Network::new(config, 1, DType::F32, gpu)?.with_recomputation(true);
    let x = volumes(DType::F32, gpu)?;
    let out = network.forward(&x.to_dtype(DType::BF16)?, Mode::Train { seed: 3, step: 0 })?;
    let loss = out.to_dtype(DType::F32)?.sqr()?.mean_all()?;
    let mut adam = Optimiser::new(&OptimiserConfig::default(), network.params(), 1e-3)?;
    adam.step(network.params(), &Gradients::of(network.params(), &loss.backward()?), 1e-2)?;
    let card = ModelCard {
        format: FORMAT,
        version: String::new(),
        dataset: String::new(),
        seed: 1,
        class_names: vec![],
        dims: [11; 3],
        voxel_size: [1.0; 3],
        unit: "voxel".into(),
        meaning: Meaning::default(),
        origin: Origin::default(),
        model: network.config().clone(),
    };
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("model.safetensors");
    save(&path, &network, &card)?;
    let answers = |network: &Network| on_cpu(&network.folded()?.forward(&x)?);
    // Not a number is infinitely far from itself.
    let off = difference(&answers(&load(&path, gpu)?.0)?, &answers(&network)?)?;
    ensure!(off == 0.0, "after a step in bf16, answers from a file differ by {off:.1e}");
    Ok(())
}

/// Output and gradient of the first weights of a convolution of learned radial functions.
fn radial(device: &Device) -> Result<[Tensor; 2]> {
    let (input, output): (Irreps, Irreps) = ("2x0+1x1".parse()?, "1x0+2x1+1x2".parse()?);
    let mut params = Params::new(1, DType::F64, device);
    let config = RadialConvConfig::new(&input, &output);
    let layer = RadialConv3d::new(params.pp("radial"), config)?;
    let x = normal(&mut Stream::new(5, "volumes", &[]), &[2, input.dim(), 9, 9, 9])?;
    let out = layer.forward(&Field::new(input, x.to_device(device)?)?)?;
    let gradients = out.values().sqr()?.mean_all()?.backward()?;
    let first = params.trainable().first().context("a layer without weights")?;
    let gradient = gradients.get(first.var.as_tensor()).context("weights without gradient")?;
    Ok([on_cpu(out.values())?, on_cpu(gradient)?])
}

/// Networks of all kinds train and answer as on the CPU.
pub(crate) fn networks(gpu: &Device) -> Result<String> {
    let (mut worst, mut problems) = (0f64, vec![]);
    let all = configurations()?;
    for (name, config) in &all {
        let found = steps_and_answers(config, gpu).and_then(|(losses, answers)| {
            let (expected, right) = steps_and_answers(config, &Device::Cpu)?;
            let off = apart(&losses, &expected).max(difference(&answers, &right)?);
            ensure!(off < 1e-8, "differs from the CPU by {off:.1e}");
            in_bf16_and_from_a_file(config, gpu)?;
            Ok(off)
        });
        match found {
            Ok(off) => worst = worst.max(off),
            Err(error) => problems.push(format!("{name}: {error:#}")),
        }
        say(name);
    }
    let [found, expected] = [radial(gpu)?, radial(&Device::Cpu)?];
    for (a, b) in found.iter().zip(&expected) {
        let off = difference(a, b)?;
        worst = worst.max(off);
        if off > 1e-9 {
            problems.push(format!("learned radial functions: differs from the CPU by {off:.1e}"));
        }
    }
    ensure!(problems.is_empty(), "{}", problems.join("\n  "));
    Ok(format!(
        "{} networks, two steps and answers differ from the CPU's by {worst:.1e}",
        all.len()
    ))
}

/// Largest difference of numbers, relative to the second ones; infinite where one is not a number or missing.
pub(crate) fn apart(a: &[f64], b: &[f64]) -> f64 {
    if a.len() != b.len() {
        return f64::INFINITY;
    }
    largest(a.iter().zip(b).map(|(a, b)| (a - b).abs() / b.abs()))
}

pub(crate) fn network(device: &Device, dtype: DType) -> Result<Network> {
    let block = |fields: &str, stride| Ok(SteerableBlock::new(fields.parse()?, 5, stride));
    let blocks = [block("8x0+4x1+2x2", 2), block("8x0+4x1+2x2", 1), block("16x0", 1)];
    let config = SteerableConfig {
        blocks: blocks.into_iter().collect::<Result<Vec<_>>>()?,
        ..SteerableConfig::small(1, 4)?
    };
    Ok(Network::new(&config.into(), 1, dtype, device)?)
}

/// Of weights of type `dtype` and fields of type `stored`.
fn losses(device: &Device, dtype: DType, stored: DType, steps: u64) -> Result<Vec<f64>> {
    let network = network(device, dtype)?;
    let mut adam = Optimiser::new(&OptimiserConfig::default(), network.params(), 1e-3)?;
    let mut losses = vec![];
    for step in 0..steps {
        let mut stream = Stream::new(step, "training", &[]);
        let x = normal(&mut stream, &[4, 1, 16, 16, 16])?.to_dtype(stored)?.to_device(device)?;
        let labels = Tensor::new(&[0u32, 1, 2, 3], device)?;
        let loss = cross_entropy(&network.forward(&x, Mode::Train { seed: 3, step })?, &labels)?;
        adam.step(network.params(), &Gradients::of(network.params(), &loss.backward()?), 1e-2)?;
        losses.push(on_cpu(&loss)?.to_scalar()?);
    }
    Ok(losses)
}

pub(crate) fn training(gpu: &Device) -> Result<String> {
    let [bf16, f32, f64] = [DType::BF16, DType::F32, DType::F64];
    let cpu = losses(&Device::Cpu, f64, f64, 8)?;
    let double = losses(gpu, f64, f64, 8)?;
    let single = losses(gpu, f32, f32, 8)?;
    let mixed = losses(gpu, f32, bf16, 8)?;
    ensure!(single == losses(gpu, f32, f32, 8)?, "two runs of the same seed give other losses");
    ensure!(mixed == losses(gpu, f32, bf16, 8)?, "two runs in bf16 give other losses");
    let worst = |a: &[f64]| apart(a, &cpu);
    let (double, single, mixed) = (worst(&double), worst(&single), worst(&mixed));
    ensure!(double < 1e-8, "losses in f64 differ from the CPU's by {double:.1e}");
    ensure!(single < 1e-2, "losses in f32 differ from the CPU's by {single:.1e}");
    ensure!(mixed < 5e-2, "losses with fields in bf16 differ from the CPU's by {mixed:.1e}");
    Ok(format!(
        "8 steps, losses differ from the CPU's by f64 {double:.1e}, f32 {single:.1e}, bf16 {mixed:.1e}; two runs equal"
    ))
}

/// Shapes to train on, whose file lies in `folder`.
pub(crate) fn shapes(folder: &Path) -> Result<Dataset> {
    let path = folder.join("tetris.h5");
    import_tetris(&path, &Voxeliser::paper(12, 0.8), 1, &ImportOptions::default())?;
    Ok(Dataset::open(&path)?)
}

/// Weights after a training in parts on `devices`, which tells the loss of each step.
pub(crate) fn train_in_parts(
    devices: &[&Device],
    dataset: &Dataset,
    epochs: usize,
    sums: GradientSums,
    tell: &mut dyn FnMut(f64),
) -> Result<Vec<f64>> {
    let model = SteerableConfig::small(1, 8)?;
    let model = ModelConfig::Steerable(SteerableConfig { dropout: 0.0, ..model });
    let networks: Vec<Network> = devices
        .iter()
        .map(|device| Network::new(&model, 1, DType::F32, device))
        .collect::<Result<_, _>>()?;
    let config = TrainConfig { epochs, batch_size: 4, sums, ..TrainConfig::default() };
    let training = Training::new(&networks[0], dataset, &config, None, None)?;
    training.on_devices(&networks[1..])?.run(&mut |event| {
        if let TrainEvent::Step { loss, .. } = event {
            tell(f64::from(loss));
        }
        ControlFlow::Continue(())
    })?;
    let mut weights = vec![];
    for parameter in networks[0].params().trainable() {
        weights.extend(on_cpu(parameter.var.as_tensor())?.flatten_all()?.to_vec1::<f64>()?);
    }
    Ok(weights)
}

/// Losses of three epochs in parts on `devices`.
fn losses_in_parts(devices: &[&Device], dataset: &Dataset) -> Result<Vec<f64>> {
    let mut losses = vec![];
    train_in_parts(devices, dataset, 3, GradientSums::Fast, &mut |loss| losses.push(loss))?;
    Ok(losses)
}

pub(crate) fn devices(gpu: &Device) -> Result<String> {
    let folder = tempfile::tempdir()?;
    let dataset = shapes(folder.path())?;
    let (second, name) = match crate::gpu(1) {
        Ok(second) => (second, "a second GPU"),
        Err(_) => (crate::gpu(0)?, "the same GPU twice"),
    };
    let exchange = exchange(gpu, &second)?;
    let alone = losses_in_parts(&[gpu], &dataset)?;
    let both = losses_in_parts(&[gpu, &second], &dataset)?;
    let again = losses_in_parts(&[gpu, &second], &dataset)?;
    ensure!(both == again, "two runs of the same seed give other losses");
    let worst = apart(&both, &alone);
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
        let mut expected = rows[0].clone();
        for row in &rows[1..] {
            expected = (expected + row)?;
        }
        let off = difference(&on_cpu(&link.sum(&on_devices)?)?, &expected)?;
        ensure!(off < 1e-6, "a sum by NCCL is off by {off:.1e}");
        for copy in link.copies(&on_devices[0])? {
            ensure!(
                difference(&on_cpu(&copy)?, &on_cpu(&on_devices[0])?)? == 0.0,
                "a copy by NCCL differs"
            );
        }
    }
    Ok(format!("NCCL sums and copies rows of {} devices", used.len()))
}

#[cfg(not(feature = "nccl"))]
pub(crate) fn sums_by_nccl(_gpu: &Device) -> Result<bool> {
    Ok(false)
}

/// Whether NCCL links two processes, of which this is one with its GPU; its sums are checked.
#[cfg(feature = "nccl")]
pub(crate) fn sums_by_nccl(gpu: &Device) -> Result<bool> {
    let rank = Rank::current();
    let Some(link) = RankLink::between(gpu, &rank)? else { return Ok(false) };
    let row = |i: usize| normal(&mut Stream::new(i as u64, "row", &[]), &[100_003]);
    let expected = (row(0)? + row(1)?)?;
    for dtype in [DType::F32, DType::F64] {
        let own = row(rank.index())?.to_dtype(dtype)?.to_device(gpu)?;
        let off = difference(&on_cpu(&link.sum(&own)?)?, &expected)?;
        ensure!(off < 1e-6, "a sum over processes by NCCL is off by {off:.1e}");
    }
    Ok(true)
}
