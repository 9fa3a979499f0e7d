//! The training loop: going on after a stop, and what each setting does.

use std::fs;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use candle_core::{DType, Device, Tensor};
use steer3d_dataset::{
    Chance, Dataset, Distortion, Distortions, ImportOptions, Turns, import_tetris,
};
use steer3d_nn::checkpoint::{FORMAT, Meaning, ModelCard, Origin};
use steer3d_nn::{ModelConfig, Network};
use steer3d_ops::tf32_is_permitted;
use steer3d_ranks::{AllReduce, Collectives, Failure, Number, Numbers, Rank, RankError};
use steer3d_train::{
    Balance, Checkpoints, ClassWeights, EpochMetrics, GradientSums, LossConfig, OptimiserConfig,
    PatchConfig, Precision, Schedule, StateFolder, TrainConfig, TrainError, TrainEvent, Trained,
    Training, resume, state, step_traffic, train,
};
use steer3d_volume::Voxeliser;

fn tetris(folder: &Path, rotations: usize) -> Dataset {
    let path = folder.join(format!("tetris-{rotations}.h5"));
    let voxeliser = Voxeliser { sigma: 0.5, ..Voxeliser::paper(9, 0.8) };
    import_tetris(&path, &voxeliser, rotations, &ImportOptions::default()).unwrap();
    Dataset::open(&path).unwrap()
}

fn steerable() -> ModelConfig {
    let text = "kind = 'steerable'\ninput = '1x0'\nclasses = 8\ndropout = 0.3\n\
                kernel = { family = 'gaussian_shells', sigma = 0.6 }\n\
                blocks = [{ fields = '2x0+1x1', size = 3, stride = 2 }, { fields = '4x0', size = 3 }]\n";
    ModelConfig::from_toml(text).unwrap()
}

fn plain() -> ModelConfig {
    let text = "kind = 'plain'\nchannels = 1\nclasses = 8\n\
                blocks = [{ channels = 4, size = 3, pool = 2 }]\n";
    ModelConfig::from_toml(text).unwrap()
}

/// With more weights than are exchanged in one row.
fn wide() -> ModelConfig {
    let text = "kind = 'plain'\nchannels = 1\nclasses = 8\n\
                blocks = [{ channels = 48, size = 3, pool = 2 }, { channels = 64, size = 3 }]\n";
    ModelConfig::from_toml(text).unwrap()
}

fn network(model: &ModelConfig) -> Network {
    Network::new(model, 1, DType::F32, &Device::Cpu).unwrap()
}

fn card(model: &ModelConfig, dataset: &Dataset) -> ModelCard {
    let meta = dataset.meta();
    ModelCard {
        format: FORMAT,
        version: "0.0.0".into(),
        dataset: meta.name.clone(),
        seed: 1,
        class_names: meta.class_names.clone(),
        dims: meta.dims,
        voxel_size: meta.voxel_size,
        unit: meta.unit.clone(),
        meaning: Meaning::default(),
        origin: Origin::default(),
        model: model.clone(),
    }
}

fn small() -> TrainConfig {
    TrainConfig { epochs: 3, batch_size: 3, seed: 5, ..TrainConfig::default() }
}

/// Everything but the time.
fn timeless(epochs: &[EpochMetrics]) -> Vec<EpochMetrics> {
    epochs.iter().map(|e| EpochMetrics { seconds: 0.0, ..*e }).collect()
}

fn bits(network: &Network) -> Vec<Vec<u32>> {
    let of = |tensor: &Tensor| tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let all = network.params().all();
    all.map(|(_, var)| of(var.as_tensor()).into_iter().map(f32::to_bits).collect()).collect()
}

/// Stops after `steps` optimiser steps in all.
fn stop_at(steps: usize) -> impl FnMut(TrainEvent) -> ControlFlow<()> {
    move |event| match event {
        TrainEvent::Step { step, .. } if step == steps => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    }
}

/// A training in `folder`, from its latest state if it has one, stopped after `steps` steps.
fn go_on(
    folder: &Path,
    model: &ModelConfig,
    dataset: &Dataset,
    config: &TrainConfig,
    steps: usize,
) -> Result<(Network, Trained), TrainError> {
    let network = network(model);
    let (path, card) = (folder.join("model.safetensors"), card(model, dataset));
    let folder = folder.join("states");
    let latest = state::latest(&folder)?;
    let states = StateFolder { folder, every_steps: None, every: None, keep: 2 };
    let keep = Some(Checkpoints { model: &path, card: &card, states: Some(&states) });
    let watch = &mut stop_at(steps);
    let trained = match latest {
        None => train(&network, dataset, config, keep, watch)?,
        Some(path) => {
            let state = state::read(&path, &Device::Cpu)?;
            resume(&network, dataset, config, keep, state, watch)?
        }
    };
    Ok((network, trained))
}

#[test]
fn a_training_stopped_anywhere_goes_on_to_the_same_bits() {
    let everything = TrainConfig {
        batch_size: 2,
        learning_rate: 0.05,
        optimiser: OptimiserConfig::Sgd { momentum: 0.9, nesterov: true },
        schedule: Schedule::Plateau { warm_up: 0.2, factor: 0.5, patience: 0 },
        loss: LossConfig {
            class_weights: Some(ClassWeights::Of(Balance::Balanced)),
            label_smoothing: 0.1,
            focal: 2.0,
            ..LossConfig::default()
        },
        clip_norm: Some(0.5),
        average: Some(0.9),
        accumulate: 3,
        ..small()
    };
    let likely = |all: Distortions, kind: Distortion| {
        all.with(kind, Chance { probability: 0.7, ..kind.standard() })
    };
    let augmented = TrainConfig {
        augment: Some(Turns::So3 { fraction: 1.0 }),
        distort: Distortion::ALL.into_iter().fold(Distortions::default(), likely),
        ..small()
    };
    // Eight boxes of each of eight volumes.
    let overlap = Some(0.3);
    let boxes = TrainConfig {
        patch: Some(PatchConfig { overlap, ..PatchConfig::new([7; 3]) }),
        batch_size: 20,
        ..augmented.clone()
    };
    let home = tempfile::tempdir().unwrap();
    let dataset = tetris(home.path(), 1);
    for (model, config, steps) in [
        (steerable(), augmented, 9),
        (plain(), boxes, 12),
        (steerable(), everything.clone(), 6),
        (steerable(), TrainConfig { precision: Precision::Bfloat16, ..everything.clone() }, 6),
        (plain(), everything, 6),
    ] {
        let whole = tempfile::tempdir().unwrap();
        let (network, trained) =
            go_on(whole.path(), &model, &dataset, &config, usize::MAX).unwrap();
        assert_eq!(trained.epochs.len(), 3);
        let file = fs::read(whole.path().join("model.safetensors")).unwrap();
        for stops in [vec![1], vec![2, 3], vec![steps - 1], vec![1, 2, 3, 4, 5]] {
            let folder = tempfile::tempdir().unwrap();
            for &stop in &stops {
                let (_, trained) = go_on(folder.path(), &model, &dataset, &config, stop).unwrap();
                assert!(trained.stopped);
            }
            let (resumed, again) =
                go_on(folder.path(), &model, &dataset, &config, usize::MAX).unwrap();
            assert_eq!(bits(&resumed), bits(&network), "stopped at {stops:?}");
            assert_eq!(timeless(&again.epochs), timeless(&trained.epochs));
            assert_eq!(fs::read(folder.path().join("model.safetensors")).unwrap(), file);
            // A finished training has nothing left to do.
            let (finished, _) = go_on(folder.path(), &model, &dataset, &config, 1).unwrap();
            assert_eq!(bits(&finished), bits(&network));
        }
    }
}

#[test]
fn states_are_saved_every_so_many_steps_and_only_the_last_are_kept() {
    let home = tempfile::tempdir().unwrap();
    let (dataset, model) = (tetris(home.path(), 1), plain());
    let (path, card) = (home.path().join("model.safetensors"), card(&model, &dataset));
    let folder = home.path().join("runs/states");
    let states = StateFolder { folder: folder.clone(), every_steps: Some(2), every: None, keep: 3 };
    let keep = Some(Checkpoints { model: &path, card: &card, states: Some(&states) });
    let names = || {
        let list = fs::read_dir(&folder).unwrap();
        let mut names: Vec<_> =
            list.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.retain(|name| name != "lock");
        names.sort();
        names
    };
    let config = small();
    // Three steps an epoch: saved after 2, 3, 4, 6, 6, 8, 9.
    train(&network(&model), &dataset, &config, keep, &mut stop_at(7)).unwrap();
    assert_eq!(names(), ["step-00000004.state", "step-00000006.state", "step-00000007.state"]);
    for half in [folder.join(".steer3d-a.tmp"), home.path().join(".steer3d-b.tmp")] {
        fs::write(half, "half").unwrap();
    }
    train(&network(&model), &dataset, &config, keep, &mut stop_at(1)).unwrap();
    assert_eq!(names(), ["step-00000001.state"]);
    // A time that has always passed: after each step.
    let states =
        StateFolder { every_steps: None, every: Some(Duration::ZERO), keep: 99, ..states.clone() };
    let keep = Some(Checkpoints { model: &path, card: &card, states: Some(&states) });
    train(&network(&model), &dataset, &config, keep, &mut stop_at(7)).unwrap();
    assert_eq!(names().len(), 7);
    assert!(!home.path().join(".steer3d-b.tmp").exists());
}

#[test]
fn tf32_is_permitted_while_a_training_runs_and_changes_nothing_on_a_cpu() {
    if tf32_is_permitted() {
        eprintln!("skipped: STEER3D_TF32 permits it always");
        return;
    }
    let home = tempfile::tempdir().unwrap();
    let dataset = tetris(home.path(), 1);
    let weights = |precision| {
        let (network, config) = (network(&steerable()), TrainConfig { precision, ..small() });
        let mut permitted = false;
        let mut watch = |_| {
            permitted |= tf32_is_permitted();
            ControlFlow::Continue(())
        };
        train(&network, &dataset, &config, None, &mut watch).unwrap();
        assert_eq!(permitted, precision == Precision::Tf32);
        bits(&network)
    };
    assert_eq!(weights(Precision::Float32), weights(Precision::Tf32));
}

/// The message with which going on from the only state of `folder` is refused.
fn refused(folder: &Path, model: &ModelConfig, dataset: &Dataset, config: &TrainConfig) -> String {
    go_on(folder, model, dataset, config, usize::MAX).unwrap_err().to_string()
}

#[test]
fn what_is_not_the_same_training_is_refused_by_name() {
    let home = tempfile::tempdir().unwrap();
    let (dataset, model, config) = (tetris(home.path(), 1), steerable(), small());
    go_on(home.path(), &model, &dataset, &config, 2).unwrap();
    let faster = TrainConfig { learning_rate: 0.5, ..config.clone() };
    let message = refused(home.path(), &model, &dataset, &faster);
    assert!(message.contains("learning_rate was 0.01 and is now 0.5"), "{message}");
    let cosine =
        TrainConfig { schedule: Schedule::Cosine { warm_up: 0.2, floor: 0.0 }, ..config.clone() };
    let message = refused(home.path(), &model, &dataset, &cosine);
    assert!(message.contains("schedule.warm_up was 0.1 and is now 0.2"), "{message}");
    let half = TrainConfig { precision: Precision::Bfloat16, ..config.clone() };
    let message = refused(home.path(), &model, &dataset, &half);
    assert!(message.contains("precision was \"float32\" and is now \"bfloat16\""), "{message}");
    let ModelConfig::Steerable(mut other) = model.clone() else { unreachable!() };
    other.blocks[1].fields = "5x0".parse().unwrap();
    let message = refused(home.path(), &ModelConfig::Steerable(other), &dataset, &config);
    assert!(message.contains("blocks.1.fields was \"4x0\" and is now \"5x0\""), "{message}");
    let message = refused(home.path(), &model, &tetris(home.path(), 2), &config);
    assert!(message.contains("tetris with other items"), "{message}");
}

#[test]
fn a_damaged_or_foreign_state_is_refused_in_one_line() {
    let home = tempfile::tempdir().unwrap();
    let (dataset, model, config) = (tetris(home.path(), 1), plain(), small());
    go_on(home.path(), &model, &dataset, &config, 2).unwrap();
    let path = state::latest(&home.path().join("states")).unwrap().unwrap();
    let bytes = fs::read(&path).unwrap();
    let message = || refused(home.path(), &model, &dataset, &config);
    for length in [0, 10, 25, 60, 89, 90, 200, bytes.len() - 1] {
        fs::write(&path, &bytes[..length]).unwrap();
        let message = message();
        let expected = if length < 25 { "expected a file that begins" } else { "damaged" };
        assert!(message.contains(expected) && message.contains("step-00000002"), "{message}");
    }
    for at in (26..bytes.len()).step_by(bytes.len() / 50) {
        let mut wrong = bytes.clone();
        wrong[at] ^= 1;
        fs::write(&path, &wrong).unwrap();
        assert!(message().contains("damaged"), "byte {at}: {}", message());
    }
    let text = [b"steer3d training state 7\n", &bytes[25..]].concat();
    fs::write(&path, text).unwrap();
    assert!(message().contains("expected format 1, found 7"), "{}", message());
    fs::write(&path, "something else\n").unwrap();
    assert!(message().contains("expected a file that begins"), "{}", message());
}

#[test]
fn a_folder_that_cannot_be_written_is_reported_before_the_first_step() {
    let home = tempfile::tempdir().unwrap();
    let (dataset, model) = (tetris(home.path(), 1), plain());
    fs::write(home.path().join("states"), "a file").unwrap();
    let (path, card) = (home.path().join("model.safetensors"), card(&model, &dataset));
    let folder = home.path().join("states/below");
    let states = StateFolder { folder, every_steps: None, every: None, keep: 1 };
    let keep = Some(Checkpoints { model: &path, card: &card, states: Some(&states) });
    let mut never = |_| panic!("a step was done");
    let error = train(&network(&model), &dataset, &small(), keep, &mut never).unwrap_err();
    assert!(error.to_string().contains("cannot be written"), "{error}");
}

#[test]
fn a_loss_or_gradient_that_is_no_number_is_named_and_the_state_saved() {
    let home = tempfile::tempdir().unwrap();
    let (dataset, model) = (tetris(home.path(), 1), steerable());
    let (path, card) = (home.path().join("model.safetensors"), card(&model, &dataset));
    let folder = home.path().join("states");
    let states = StateFolder { folder: folder.clone(), every_steps: None, every: None, keep: 1 };
    let keep = Some(Checkpoints { model: &path, card: &card, states: Some(&states) });
    let broken = network(&model);
    let weight = &broken.params().trainable()[4];
    weight.var.set(&weight.var.affine(0.0, f64::NAN).unwrap()).unwrap();
    let message =
        train(&broken, &dataset, &small(), keep, &mut stop_at(9)).unwrap_err().to_string();
    let expected =
        format!("the loss became NaN, first in the parameter '{}' in epoch 1, step 1", weight.name);
    assert!(message.contains(&expected) && message.contains("not-finite.state"), "{message}");
    let saved = state::read(&folder.join("not-finite.state"), &Device::Cpu).unwrap();
    assert_eq!(saved.header.progress.step, 0);
    // Weights that are numbers, whose output is none in f32.
    let broken = network(&model);
    let weight = &broken.params().trainable()[0];
    weight.var.set(&weight.var.affine(0.0, 3e38).unwrap()).unwrap();
    let message =
        train(&broken, &dataset, &small(), keep, &mut stop_at(9)).unwrap_err().to_string();
    assert!(message.contains("first in the output of block 1"), "{message}");
}

#[test]
fn a_clipped_step_is_as_long_as_the_limit() {
    let home = tempfile::tempdir().unwrap();
    let (dataset, model) = (tetris(home.path(), 1), plain());
    let network = network(&model);
    let values = |network: &Network| -> Vec<f64> {
        let of =
            |t: &Tensor| t.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap();
        network
            .params()
            .trainable()
            .iter()
            .flat_map(|p| of(p.var.as_tensor()))
            .collect::<Vec<f64>>()
    };
    let before = values(&network);
    let config = TrainConfig {
        learning_rate: 1.0,
        weight_decay: 0.0,
        optimiser: OptimiserConfig::Sgd { momentum: 0.0, nesterov: false },
        schedule: Schedule::Constant { warm_up: 0.0 },
        clip_norm: Some(0.01),
        ..small()
    };
    let mut norm = 0.0;
    train(&network, &dataset, &config, None, &mut |event| {
        if let TrainEvent::Step { gradient_norm, .. } = event {
            norm = gradient_norm;
        }
        ControlFlow::Break(())
    })
    .unwrap();
    assert!(norm > 0.02, "{norm}");
    let moved =
        before.iter().zip(values(&network)).map(|(a, b)| (a - b).powi(2)).sum::<f64>().sqrt();
    assert!((moved - 0.01).abs() < 1e-5, "{moved}");
}

/// A training on the Tetris shapes: losses of its steps, weights before it, the network after it.
fn course(model: &ModelConfig, config: &TrainConfig) -> (Vec<f32>, Vec<f32>, Network) {
    let home = tempfile::tempdir().unwrap();
    let (dataset, network) = (tetris(home.path(), 1), network(model));
    let before = weights(&network);
    let mut losses = vec![];
    train(&network, &dataset, config, None, &mut |event| {
        if let TrainEvent::Step { loss, .. } = event {
            losses.push(loss);
        }
        ControlFlow::Continue(())
    })
    .unwrap();
    (losses, before, network)
}

fn weights(network: &Network) -> Vec<f32> {
    let of = |t: &Tensor| t.flatten_all().unwrap().to_vec1().unwrap();
    network.params().trainable().iter().flat_map(|p| of(p.var.as_tensor())).collect()
}

#[test]
fn a_training_in_bf16_has_nearly_the_losses_of_one_in_f32() {
    let single = TrainConfig { epochs: 30, batch_size: 8, learning_rate: 2e-2, ..small() };
    let half = TrainConfig { precision: Precision::Bfloat16, ..single.clone() };
    let steerable = "kind = 'steerable'\ninput = '1x0'\nclasses = 8\n\
         kernel = { family = 'gaussian_jets', order = 3 }\n\
         blocks = [{ fields = '8x0+4x1+2x2', size = 5, stride = 2 }, { fields = '32x0', size = 5 }]\n";
    let plain = "kind = 'plain'\nchannels = 1\nclasses = 8\n\
         blocks = [{ channels = 16, size = 5, pool = 2 }, { channels = 32, size = 3 }]\n";
    for text in [steerable, plain] {
        let model = ModelConfig::from_toml(text).unwrap();
        let (expected, ..) = course(&model, &single);
        let (found, _, trained) = course(&model, &half);
        // Later the two are other trainings, as two seeds are.
        for (found, expected) in found.iter().zip(&expected).take(12) {
            assert!((found - expected).abs() < 0.03, "{found} {expected}");
        }
        assert_ne!(found, expected);
        for losses in [&found, &expected] {
            assert!(losses[29] < 0.8 * losses[0], "{losses:?}");
        }
        let x = Tensor::ones((1, 1, 9, 9, 9), DType::F32, &Device::Cpu).unwrap();
        assert_eq!(trained.folded().unwrap().forward(&x).unwrap().dtype(), DType::F32);
    }
}

/// Weights are f32: steps shorter than the distance of two numbers of bf16 add up.
#[test]
fn steps_smaller_than_bf16_resolves_add_up() {
    let single = TrainConfig {
        epochs: 20,
        batch_size: 8,
        learning_rate: 1e-5,
        weight_decay: 0.0,
        optimiser: OptimiserConfig::Sgd { momentum: 0.0, nesterov: false },
        schedule: Schedule::Constant { warm_up: 0.0 },
        ..small()
    };
    let half = TrainConfig { precision: Precision::Bfloat16, ..single.clone() };
    let moved = |config| {
        let (_, before, network) = course(&plain(), config);
        let pairs = weights(&network).into_iter().zip(before);
        pairs.map(|(now, then)| [now - then, then]).collect::<Vec<_>>()
    };
    let (found, expected) = (moved(&half), moved(&single));
    let dot =
        |a: &[[f32; 2]], b: &[[f32; 2]]| -> f32 { a.iter().zip(b).map(|(a, b)| a[0] * b[0]).sum() };
    assert!(dot(&expected, &expected) > 0.0);
    let cosine = dot(&found, &expected) / (dot(&found, &found) * dot(&expected, &expected)).sqrt();
    let length = (dot(&found, &found) / dot(&expected, &expected)).sqrt();
    assert!(cosine > 0.98 && (length - 1.0).abs() < 0.05, "{cosine} {length}");
    // The distance of numbers of bf16 is at least 2^-8 of their size.
    let below = found.iter().filter(|[moved, then]| moved.abs() < then.abs() / 256.0).count();
    assert!(below > found.len() * 9 / 10, "{below} of {}", found.len());
}

/// The losses of the steps, and what they led to.
type Outcome = Result<(Vec<f32>, Network, Trained), TrainError>;

/// As [`go_on`] on `devices` devices, all of which are this processor; the losses of the steps first.
fn on_devices(
    folder: &Path,
    model: &ModelConfig,
    config: &TrainConfig,
    devices: usize,
    steps: usize,
) -> Outcome {
    let home = tempfile::tempdir().unwrap();
    let dataset = Rank::ALONE.run(|| Ok::<_, TrainError>(tetris(home.path(), 1)))?;
    let replica = |i: usize| {
        let network = Network::new(model, i as u64, DType::F32, &Device::Cpu).unwrap();
        network.with_recomputation(devices == 3)
    };
    let (network, replicas) = (replica(1), (1..devices).map(|i| replica(100 + i)));
    let (replicas, card) = (replicas.collect::<Vec<_>>(), card(model, &dataset));
    let (path, folder) = (folder.join("model.safetensors"), folder.join("states"));
    let latest = state::latest(&folder)?;
    let states = StateFolder { folder, every_steps: None, every: None, keep: 2 };
    let keep = Some(Checkpoints { model: &path, card: &card, states: Some(&states) });
    let state = latest.map(|path| state::read(&path, &Device::Cpu)).transpose()?;
    let training = Training::new(&network, &dataset, config, keep, state)?;
    let (mut losses, mut stop) = (vec![], stop_at(steps));
    let trained = training.on_devices(&replicas)?.run(&mut |event| {
        if let TrainEvent::Step { loss, .. } = event {
            losses.push(loss);
        }
        stop(event)
    })?;
    Ok((losses, network, trained))
}

/// What each of several ranks gets.
fn each<T: Send>(
    ranks: Vec<Rank>,
    part: impl Fn() -> Result<T, TrainError> + Sync,
) -> Vec<Result<T, TrainError>> {
    let part = &part;
    std::thread::scope(|scope| {
        let run = move |rank: Rank| {
            let found = rank.run(part);
            if found.is_err() {
                // One that stays in its group has to say so.
                rank.fail(1);
            }
            found
        };
        let start = |rank: Rank| scope.spawn(move || run(rank));
        let threads: Vec<_> = ranks.into_iter().map(start).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

/// [`on_devices`] of threads that are ranks with one device each.
fn on_ranks(
    folder: &Path,
    model: &ModelConfig,
    config: &TrainConfig,
    ranks: usize,
    steps: usize,
) -> Vec<Outcome> {
    each(Rank::threads(ranks), || on_devices(folder, model, config, 1, steps))
}

#[test]
fn several_devices_and_several_ranks_train_as_one() {
    let everything = TrainConfig {
        loss: LossConfig {
            class_weights: Some(ClassWeights::Given((0..8).map(|i| 1.0 + f64::from(i)).collect())),
            label_smoothing: 0.1,
            ..LossConfig::default()
        },
        clip_norm: Some(0.5),
        average: Some(0.9),
        accumulate: 2,
        augment: Some(Turns::So3 { fraction: 1.0 }),
        optimiser: OptimiserConfig::Sgd { momentum: 0.9, nesterov: true },
        batch_size: 5,
        ..small()
    };
    let all = [(steerable(), everything.clone()), (plain(), small()), (plain(), everything)];
    for (model, config) in all {
        let run = |devices, ranks| {
            let folder = tempfile::tempdir().unwrap();
            if ranks == 1 {
                return on_devices(folder.path(), &model, &config, devices, usize::MAX).unwrap();
            }
            let all = on_ranks(folder.path(), &model, &config, ranks, usize::MAX);
            let mut all: Vec<_> = all.into_iter().map(Result::unwrap).collect();
            let first = all.swap_remove(0);
            for (losses, network, _) in all {
                assert_eq!((losses, bits(&network)), (first.0.clone(), bits(&first.1)));
            }
            first
        };
        let (expected, one, trained_by_one) = run(1, 1);
        // Of the small training the last batch of an epoch has two items, fewer than three devices.
        for (devices, ranks) in [(2, 1), (3, 1), (1, 2), (1, 3)] {
            let (losses, network, trained) = run(devices, ranks);
            assert_eq!(losses.len(), expected.len());
            for (step, (found, expected)) in losses.iter().zip(&expected).enumerate() {
                let tolerance = if step < 4 { 1e-6 } else { 1e-5 };
                assert!((found - expected).abs() < tolerance * expected, "{found} {expected}");
            }
            let gaps = weights(&network).into_iter().zip(weights(&one)).map(|(a, b)| (a - b).abs());
            assert!(gaps.fold(0.0, f32::max) < 1e-3);
            let accuracies = |t: &Trained| t.epochs.last().unwrap().train_accuracy;
            assert_eq!(accuracies(&trained), accuracies(&trained_by_one));
            let (again, other, _) = run(devices, ranks);
            assert_eq!(again, losses);
            assert_eq!(bits(&other), bits(&network));
        }
    }
}

/// On as many devices or ranks to the same bits, on others to rounding.
#[test]
fn a_training_goes_on_on_any_number_of_devices() {
    let config = TrainConfig { average: Some(0.9), batch_size: 4, ..small() };
    let run = |folder: &tempfile::TempDir, (devices, ranks), steps| {
        if ranks == 1 {
            return on_devices(folder.path(), &steerable(), &config, devices, steps).unwrap();
        }
        on_ranks(folder.path(), &steerable(), &config, ranks, steps).swap_remove(0).unwrap()
    };
    let folder = || tempfile::tempdir().unwrap();
    for begun in [(2, 1), (1, 2)] {
        let (losses, network, _) = run(&folder(), begun, usize::MAX);
        for other in [(1, 1), (2, 1), (3, 1), (1, 2), (1, 3)] {
            let parts = folder();
            let (mut found, ..) = run(&parts, begun, 3);
            let (rest, resumed, _) = run(&parts, other, usize::MAX);
            found.extend(rest);
            if other == begun {
                assert_eq!((found, bits(&resumed)), (losses.clone(), bits(&network)));
                continue;
            }
            assert_eq!(found.len(), losses.len());
            for (found, expected) in found.iter().zip(&losses) {
                assert!((found - expected).abs() < 1e-5 * expected, "{found} {expected}");
            }
        }
    }
}

/// What ranks are apart from one process is rounding: in f64 next to nothing.
#[test]
fn ranks_of_f64_train_as_one_to_the_rounding_of_f64() {
    let losses = |ranks: usize| -> Vec<f64> {
        let all = std::thread::scope(|scope| {
            let start = |rank: Rank| {
                scope.spawn(move || {
                    rank.run(|| {
                        let home = tempfile::tempdir().unwrap();
                        let dataset =
                            Rank::ALONE.run(|| Ok::<_, TrainError>(tetris(home.path(), 1)))?;
                        let network = Network::new(&steerable(), 1, DType::F64, &Device::Cpu)?;
                        let config = TrainConfig { batch_size: 5, epochs: 3, ..small() };
                        train(&network, &dataset, &config, None, &mut |_| ControlFlow::Continue(()))
                    })
                })
            };
            let threads: Vec<_> = Rank::threads(ranks).into_iter().map(start).collect();
            threads.into_iter().map(|thread| thread.join().unwrap().unwrap()).collect::<Vec<_>>()
        });
        all[0].epochs.iter().map(|epoch| epoch.train_loss).collect()
    };
    let expected = losses(1);
    for ranks in [2, 4] {
        for (found, expected) in losses(ranks).into_iter().zip(&expected) {
            assert!((found - expected).abs() < 1e-12 * expected, "{found} {expected}");
        }
    }
}

#[test]
fn what_a_step_exchanges_is_known() {
    let traffic = |model: &ModelConfig, steps| {
        let folder = tempfile::tempdir().unwrap();
        std::thread::scope(|scope| {
            let start = |rank: Rank| {
                let folder = folder.path();
                scope.spawn(move || {
                    let train = || on_devices(folder, model, &small(), 1, steps);
                    rank.run(train).unwrap();
                    rank.traffic()
                })
            };
            let threads: Vec<_> = Rank::threads(2).into_iter().map(start).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).next().unwrap()
        })
    };
    for model in [plain(), steerable(), wide()] {
        let [one, two] = [1, 2].map(|steps| traffic(&model, steps));
        let found = (two.messages - one.messages, two.bytes - one.bytes);
        let expected = step_traffic(&network(&model), 2);
        assert_eq!(found, (expected.messages, expected.bytes));
    }
}

/// The weights after a training by each of several ranks, which add up gradients in rows of so many bytes, and how often
/// they exchanged something.
fn trained(
    ranks: Vec<Rank>,
    model: &ModelConfig,
    config: &TrainConfig,
    (bytes, recompute): (usize, bool),
) -> (Network, u64) {
    let mut found = each(ranks, || {
        let home = tempfile::tempdir().unwrap();
        let dataset = Rank::ALONE.run(|| Ok::<_, TrainError>(tetris(home.path(), 1)))?;
        let network = network(model).with_recomputation(recompute);
        let training = Training::new(&network, &dataset, config, None, None)?.in_rows_of(bytes);
        training.run(&mut |_| ControlFlow::Continue(()))?;
        Ok((network, Rank::current().traffic().messages))
    });
    let (first, messages) = found.remove(0).unwrap();
    for other in found {
        assert_eq!(bits(&other.unwrap().0), bits(&first));
    }
    (first, messages)
}

#[test]
fn gradients_added_up_during_the_backward_pass_give_the_same_bits() {
    let half = TrainConfig { precision: Precision::Bfloat16, ..small() };
    for model in [plain(), steerable()] {
        for config in [small(), TrainConfig { accumulate: 2, ..small() }, half.clone()] {
            for recompute in [false, true] {
                let weights =
                    |bytes| trained(Rank::threads(3), &model, &config, (bytes, recompute));
                // All in one row, when the last gradient is known.
                let (after, messages) = weights(usize::MAX);
                for bytes in [1, 100] {
                    let (during, more) = weights(bytes);
                    assert_eq!(bits(&during), bits(&after));
                    assert!(more > messages);
                }
            }
        }
    }
}

/// A rank that is connected by what adds up by itself, from the last rank to the first.
#[derive(Debug)]
struct Library(Rank);

impl Collectives for Library {
    fn index(&self) -> usize {
        self.0.index()
    }

    fn size(&self) -> usize {
        self.0.size()
    }

    fn gather(&self, bytes: Vec<u8>) -> Result<Arc<[Vec<u8>]>, RankError> {
        self.0.gather(bytes)
    }

    fn all_reduce(&self) -> Option<&dyn AllReduce> {
        Some(self)
    }

    fn first(&self, count: usize) -> Result<Arc<dyn Collectives>, RankError> {
        Ok(Arc::new(Self(self.0.among_first(count)?.unwrap_or(Rank::ALONE))))
    }

    fn fail(&self, code: u8) -> Failure {
        self.0.fail(code)
    }
}

impl AllReduce for Library {
    fn add_up(&self, numbers: Numbers<'_>) -> Result<(), RankError> {
        let Numbers::F32(values) = numbers else { return Err(RankError::Different) };
        let all = self.0.gather(f32::to_bytes(values))?;
        values.fill(0.0);
        for given in all.iter().rev() {
            values.iter_mut().zip(f32::of_bytes(given)).for_each(|(sum, value)| *sum += value);
        }
        Ok(())
    }
}

#[test]
fn fast_sums_are_those_in_order_to_rounding() {
    let fast = TrainConfig { sums: GradientSums::Fast, ..small() };
    let library = |rank| Rank::of(Arc::new(Library(rank)));
    let ranks = || Rank::threads(3).into_iter().map(library).collect::<Vec<_>>();
    for model in [plain(), steerable()] {
        let (ordered, two_each) = trained(ranks(), &model, &small(), (1, false));
        let (found, one_each) = trained(ranks(), &model, &fast, (1, false));
        assert!(one_each < two_each);
        let gaps = weights(&found).into_iter().zip(weights(&ordered)).map(|(a, b)| (a - b).abs());
        assert!(gaps.fold(0.0, f32::max) < 1e-3);
    }
}

#[test]
fn ranks_with_nothing_to_do_or_other_settings_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let config = TrainConfig { batch_size: 2, ..small() };
    for found in on_ranks(folder.path(), &plain(), &config, 3, usize::MAX) {
        let message = found.unwrap_err().to_string();
        assert!(message.contains("a volume for each of the 3 ranks, found 2"), "{message}");
    }
    let fast = TrainConfig { sums: GradientSums::Fast, ..small() };
    for found in on_ranks(folder.path(), &plain(), &fast, 2, usize::MAX) {
        let message = found.unwrap_err().to_string();
        assert!(message.contains("sums: expected MPI") && message.contains("neither"), "{message}");
    }
    let found = std::thread::scope(|scope| {
        let start = |rank: Rank| {
            let config = TrainConfig { epochs: 1 + rank.index(), ..small() };
            let folder = folder.path();
            scope.spawn(move || rank.run(|| on_devices(folder, &plain(), &config, 1, usize::MAX)))
        };
        let threads: Vec<_> = Rank::threads(2).into_iter().map(start).collect();
        threads.into_iter().map(|t| t.join().unwrap().unwrap_err().to_string()).collect::<Vec<_>>()
    });
    let named = |message: &String| {
        message.contains("rank 1 differs from rank 0 in the settings of the training")
    };
    assert!(found.iter().any(named), "{found:?}");
}

#[test]
fn replicas_of_another_network_are_refused() {
    let home = tempfile::tempdir().unwrap();
    let (dataset, config) = (tetris(home.path(), 1), small());
    let (one, other) = (network(&plain()), [network(&steerable())]);
    let training = Training::new(&one, &dataset, &config, None, None).unwrap();
    let message = training.on_devices(&other).unwrap_err().to_string();
    assert!(message.contains("devices") && message.contains("other networks"), "{message}");
    // A mistake on one device ends the training on all.
    let weight = &one.params().trainable()[0];
    weight.var.set(&weight.var.affine(0.0, f64::NAN).unwrap()).unwrap();
    let other = [network(&plain())];
    let training = Training::new(&one, &dataset, &config, None, None).unwrap();
    let training = training.on_devices(&other).unwrap();
    let message = training.run(&mut stop_at(9)).unwrap_err().to_string();
    assert!(message.contains(&format!("in the parameter '{}'", weight.name)), "{message}");
}

#[test]
fn patience_ends_a_training_so_long_after_its_best_epoch() {
    let home = tempfile::tempdir().unwrap();
    let dataset = tetris(home.path(), 1);
    let config = TrainConfig { epochs: 200, patience: Some(3), learning_rate: 0.3, ..small() };
    let network = network(&plain());
    let mut watch = |_| ControlFlow::Continue(());
    let trained = train(&network, &dataset, &config, None, &mut watch).unwrap();
    let best = trained.epochs.iter().rfind(|e| e.best).unwrap().epoch;
    assert!(!trained.stopped);
    assert_eq!(trained.epochs.len(), best + 3);
}

#[test]
fn accumulation_and_shares_change_the_number_of_steps() {
    let home = tempfile::tempdir().unwrap();
    let dataset = tetris(home.path(), 1);
    let steps = |config: &TrainConfig| {
        let mut last = (0, 0);
        train(&network(&plain()), &dataset, config, None, &mut |event| {
            if let TrainEvent::Step { step, steps, .. } = event {
                last = (step, steps);
            }
            ControlFlow::Continue(())
        })
        .unwrap();
        last
    };
    // Eight items in batches of three: three batches.
    assert_eq!(steps(&small()), (9, 9));
    assert_eq!(steps(&TrainConfig { accumulate: 2, ..small() }), (6, 6));
    assert_eq!(steps(&TrainConfig { share: 0.5, ..small() }), (6, 6));
    assert_eq!(steps(&TrainConfig { share: 0.01, ..small() }), (3, 3));
}

#[test]
fn settings_that_older_versions_wrote_are_read() {
    let before = r#"{"epochs":30,"batch_size":8,"learning_rate":0.01,"weight_decay":0.001,"seed":0,"rotate":true}"#;
    let config: TrainConfig = serde_json::from_str(before).unwrap();
    let augment = Some(Turns::So3 { fraction: 1.0 });
    assert_eq!(config, TrainConfig { augment, ..TrainConfig::default() });
    let none: TrainConfig = serde_json::from_str(&before.replace("true", "false")).unwrap();
    assert_eq!(none, TrainConfig::default());
}
