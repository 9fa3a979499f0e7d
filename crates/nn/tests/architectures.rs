//! Residual networks, U-Nets, heads and nonlinearities: equivariance, gradients and agreement of the ways
//! to run them.

mod common;
#[path = "common/networks.rs"]
mod networks;

use candle_core::{DType, Device, Tensor};
use common::{random_volume, relative_gap, turn, worst_gap};
use nalgebra::Matrix3;
use networks::{
    ALL, all_models, block, configs, field_head, instance_unet, irreps, of, pair, plain_residual,
    plain_unets, prepared, residual, unet,
};
use proptest::prelude::*;
use steer3d_kernels::Family;
use steer3d_nn::layers::{
    ConvConfig, FieldLayer, Gate, GaussianPool, NormNonlinearity, SphereNonlinearity,
    SteerableConv3d, TensorProductNonlinearity,
};
use steer3d_nn::{
    Field, Head, Mode, ModelConfig, Network, NnError, Nonlinearity, Normalisation, Params,
    PlainConfig, Pooling, SteerableConfig, Symmetry,
};
use steer3d_so3::{Irreps, Rotation, Stream, cube_group, random_rotations};

fn network(config: &SteerableConfig) -> Network {
    prepared(&ModelConfig::Steerable(config.clone()))
}

#[test]
fn every_layer_commutes_with_the_cube_group() {
    for config in configs() {
        let network = network(&config);
        for n in [11, 12] {
            let gap = worst_gap(&network, &config.input, n);
            // Rounding; the mean over space of a normalised field cancels most of it.
            assert!(gap < 5e-5, "{gap} at {n}: {config:?}");
        }
    }
}

/// What the head gives for a smooth volume turned by `rotation`, and the same turned afterwards.
fn both_ways(config: &SteerableConfig, rotation: &Rotation) -> [Tensor; 2] {
    const N: usize = 24;
    let centres = [([-3.0, 1.0, 0.5], 1.0), ([2.5, -2.0, 1.5], -0.7), ([0.0, 2.0, -3.0], 0.8)];
    let volume = |turned: bool| {
        let at = |i: usize| i as f64 - (N - 1) as f64 / 2.0;
        let value = |i: usize| {
            let p = nalgebra::Vector3::new(at(i % N), at(i / N % N), at(i / N / N));
            let bump = |(centre, height): &([f64; 3], f64)| {
                let centre = nalgebra::Vector3::from(*centre);
                let centre = if turned { rotation * centre } else { centre };
                height * (-(p - centre).norm_squared() / 18.0).exp()
            };
            centres.iter().map(bump).sum::<f64>() as f32
        };
        let values = (0..N.pow(3)).map(value);
        Tensor::from_iter(values, &Device::Cpu).unwrap().reshape((1, 1, N, N, N)).unwrap()
    };
    let mut config = config.clone();
    for block in config.blocks.iter_mut().chain(&mut config.decoder) {
        (block.size, block.stride) = (5, block.stride.min(2));
    }
    config.keep_zero = true;
    let network = network(&config);
    network.forward(&volume(false), Mode::Calibrate { batch: 0 }).unwrap();
    let output = |x: &Tensor| network.layers(x).unwrap().pop().unwrap();
    let (straight, turned) = (output(&volume(false)), output(&volume(true)));
    let expected = turn(&straight.values, &straight.irreps, rotation);
    [turned.values, expected].map(|values| in_ball(&values))
}

/// Zero outside the ball that a rotation keeps inside the grid, a few voxels from its border.
fn in_ball(x: &Tensor) -> Tensor {
    let Ok((_, _, d, h, w)) = x.dims5() else { return x.clone() };
    let at = |i: usize, n: usize| i as f32 - (n - 1) as f32 / 2.0;
    let inside = |i: usize| {
        let radius =
            (at(i % w, w).powi(2) + at(i / w % h, h).powi(2) + at(i / w / h, d).powi(2)).sqrt();
        if radius < 0.4 * w as f32 { 1.0f32 } else { 0.0 }
    };
    let mask = Tensor::from_iter((0..d * h * w).map(inside), &Device::Cpu).unwrap();
    x.broadcast_mul(&mask.reshape((1, 1, d, h, w)).unwrap()).unwrap()
}

#[test]
fn every_head_turns_with_the_volume() {
    let classes = SteerableConfig { classes: 3, ..residual() };
    let scalars = SteerableConfig { head: Head::Scalars, classes: 2, ..residual() };
    let instance = instance_unet();
    for config in [classes, scalars, unet(), instance, field_head(false), field_head(true)] {
        for rotation in cube_group().iter().step_by(5) {
            let [found, expected] = both_ways(&config, rotation);
            let gap = relative_gap(&found, &expected);
            assert!(gap < 1e-5, "{:?}: {gap}", config.head);
        }
        for rotation in random_rotations(2, 2) {
            let [found, expected] = both_ways(&config, &rotation);
            let gap = relative_gap(&found, &expected);
            assert!(gap < 0.05, "{:?}: {gap}", config.head);
        }
    }
}

#[test]
fn residual_and_up_sampling_group_networks_commute_with_the_cube_group() {
    for group in [plain_residual(), plain_unets()] {
        let group = ModelConfig::Plain(group.last().unwrap().clone());
        let network = Network::new(&group, 1, DType::F32, &Device::Cpu).unwrap();
        assert!(worst_gap(&network, &irreps("1x0"), 9) < 1e-5);
    }
}

#[test]
fn heads_of_the_decoder_take_part_in_training_only() {
    let plain = PlainConfig { symmetry: Symmetry::Octahedral, ..PlainConfig::like(&unet()) };
    let plain = PlainConfig { pooling: Pooling::Antialiased, ..plain };
    let pairs: [[ModelConfig; 2]; 2] = [
        [false, true].map(|on| SteerableConfig { deep_supervision: on, ..unet() }.into()),
        [false, true].map(|on| PlainConfig { deep_supervision: on, ..plain.clone() }.into()),
    ];
    for [without, model] in pairs {
        let of = |model: &ModelConfig| Network::new(model, 1, DType::F32, &Device::Cpu).unwrap();
        let (network, alone) = (of(&model), of(&without));
        let heads = network.params().count() - alone.params().count();
        if let (ModelConfig::Plain(model), ModelConfig::Plain(without)) = (&model, &without) {
            assert_eq!(model.parameter_count() - without.parameter_count(), heads);
        }
        let x = random_volume(1, 12);
        let bits = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let whole = network.forward_supervised(&x, Mode::Evaluate).unwrap();
        assert_eq!(whole.len(), 2);
        assert_eq!(whole[1].dims(), whole[0].dims());
        assert_eq!(bits(&whole[0]), bits(&alone.forward(&x, Mode::Evaluate).unwrap()));
        assert_eq!(alone.forward_supervised(&x, Mode::Evaluate).unwrap().len(), 1);
        let folded = network.folded().unwrap().forward(&x).unwrap();
        assert!(relative_gap(&folded, &whole[0]) < 1e-5);
        for rotation in cube_group().iter().step_by(5) {
            let turned = turn(&x, &irreps("1x0"), rotation);
            let turned = network.forward_supervised(&turned, Mode::Evaluate).unwrap();
            for (found, level) in turned.iter().zip(&whole) {
                let expected = turn(level, &irreps("3x0"), rotation);
                assert!(relative_gap(found, &expected) < 1e-5);
            }
        }
        // A head's answer is up-sampled as the fields are.
        let heads = network.params().trainable().iter();
        for parameter in heads.filter(|parameter| parameter.name.starts_with("supervision.")) {
            let value = if parameter.name.ends_with("bias") { 0.5 } else { 0.0 };
            let value = parameter.var.affine(0.0, value).unwrap();
            parameter.var.set(&value.detach()).unwrap();
        }
        let level = network.forward_supervised(&x, Mode::Evaluate).unwrap().pop().unwrap();
        let half = Tensor::full(0.5f32, (1, 3, 6, 6, 6), &Device::Cpu).unwrap();
        let half = Field::new(irreps("3x0"), half).unwrap();
        let expected = GaussianPool::new(2).upsample(&half, [12; 3]).unwrap();
        assert!(relative_gap(&level, expected.values()) < 1e-6);
    }
}

#[test]
fn folded_networks_give_the_same_and_configurations_survive_toml() {
    for model in all_models() {
        assert_eq!(ModelConfig::from_toml(&model.to_toml().unwrap()).unwrap(), model);
        let network = prepared(&model);
        let x = random_volume(1, 11);
        let expected = network.forward(&x, Mode::Evaluate).unwrap();
        let found = network.folded().unwrap().forward(&x).unwrap();
        assert!(!found.track_op());
        assert_eq!(found.dims(), expected.dims());
        let gap = relative_gap(&found, &expected);
        assert!(gap < 1e-5, "{gap}: {model:?}");
        let last = network.layers(&x).unwrap().pop().unwrap();
        assert_eq!(last.irreps.dim(), model.classes());
        assert!(network.multiply_adds([11; 3]) > 0);
    }
}

#[test]
fn recomputed_blocks_give_the_same_gradients() {
    for model in all_models() {
        let run = |recompute| {
            let network = Network::new(&model, 1, DType::F32, &Device::Cpu).unwrap();
            let network = network.with_recomputation(recompute);
            let x = pair(1, 9);
            let y = network.forward(&x, Mode::Train { seed: 5, step: 0 }).unwrap();
            let grads = y.sqr().unwrap().sum_all().unwrap().backward().unwrap();
            let trainable = network.params().trainable().iter();
            let grads: Vec<_> = trainable.map(|p| grads.get(&p.var).unwrap().clone()).collect();
            let all: Vec<_> = network.params().all().map(|(_, v)| v.as_tensor().clone()).collect();
            ([vec![y], all].concat(), grads)
        };
        let ((values, grads), (expected_values, expected_grads)) = (run(true), run(false));
        let bits = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert!(values.iter().zip(&expected_values).all(|(a, b)| bits(a) == bits(b)));
        // What is used twice gets two gradients, which are added in another order.
        let largest =
            |grads: &[Tensor]| grads.iter().flat_map(bits).fold(0.0, |m: f32, g| m.max(g.abs()));
        let gap = largest(
            &grads.iter().zip(&expected_grads).map(|(a, b)| (a - b).unwrap()).collect::<Vec<_>>(),
        );
        assert!(gap < 1e-5 * largest(&expected_grads), "{gap}: {model:?}");
    }
}

#[test]
fn fields_in_bf16_give_nearly_the_same_and_everything_else_in_f32() {
    let plain = PlainConfig::like(&SteerableConfig::small(1, 3).unwrap());
    let more = [ModelConfig::Plain(plain)];
    for model in all_models().into_iter().chain(more) {
        let run = |dtype, recompute| {
            let network = prepared(&model).with_recomputation(recompute);
            let x = pair(1, 9).to_dtype(dtype).unwrap();
            let y = network.forward(&x, Mode::Train { seed: 5, step: 0 }).unwrap();
            let grads = (y.sqr().unwrap() + &y).unwrap().mean_all().unwrap().backward().unwrap();
            let trainable = network.params().trainable().iter();
            let grads: Vec<_> = trainable.map(|p| grads.get(&p.var).unwrap().clone()).collect();
            let statistics = network.params().all().skip(grads.len());
            let statistics = statistics.map(|(_, v)| v.as_tensor().clone()).collect();
            let evaluated = network.forward(&x, Mode::Evaluate).unwrap();
            // There are no statistics without batch norms.
            let all = [vec![y], statistics, vec![evaluated], grads];
            all.into_iter().filter(|tensors| !tensors.is_empty()).collect::<Vec<_>>()
        };
        let row = |all: &Vec<Tensor>| {
            let flat: Vec<_> = all.iter().map(|t| t.flatten_all().unwrap()).collect();
            Tensor::cat(&flat, 0).unwrap()
        };
        for recompute in [false, true] {
            let pairs = run(DType::BF16, recompute).into_iter().zip(run(DType::F32, false));
            for (found, expected) in pairs {
                assert!(found.iter().all(|t| t.dtype() == DType::F32));
                let gap = relative_gap(&row(&found), &row(&expected));
                // Means over noise are small differences of large numbers.
                assert!(gap > 0.0 && gap < 0.35, "{gap}: {model:?}");
            }
        }
    }
}

#[test]
fn gradients_of_whole_networks_agree_with_central_differences() {
    for config in [residual(), unet(), instance_unet(), field_head(true)] {
        for nonlinearity in ALL {
            let config = SteerableConfig { nonlinearity, ..config.clone() };
            let model = ModelConfig::Steerable(config);
            let network = Network::new(&model, 1, DType::F64, &Device::Cpu).unwrap();
            let x = random_volume(1, 7).to_dtype(DType::F64).unwrap();
            let loss = || {
                let y = network.forward(&x, Mode::Train { seed: 0, step: 0 }).unwrap();
                (&y.sqr().unwrap() + &y).unwrap().mean_all().unwrap()
            };
            let grads = loss().backward().unwrap();
            for parameter in network.params().trainable().iter().step_by(3) {
                let var = &parameter.var;
                let start: Vec<f64> = var.flatten_all().unwrap().to_vec1().unwrap();
                let gradient = grads.get(var).unwrap().flatten_all().unwrap();
                let gradient: Vec<f64> = gradient.to_vec1().unwrap();
                let index = start.len() / 2;
                let at = |delta: f64| {
                    let mut moved = start.clone();
                    moved[index] += delta;
                    var.set(&Tensor::from_vec(moved, var.shape(), &Device::Cpu).unwrap()).unwrap();
                    loss().to_scalar::<f64>().unwrap()
                };
                let step = 1e-5;
                let difference = (at(step) - at(-step)) / (2.0 * step);
                at(0.0);
                let gap = (difference - gradient[index]).abs();
                // ReLU has kinks, which a step seldom crosses.
                assert!(
                    gap < 1e-6 * gradient[index].abs().max(1.0),
                    "{nonlinearity:?} {}: {} {difference}",
                    parameter.name,
                    gradient[index]
                );
            }
        }
    }
}

#[test]
fn instance_norm_answers_for_each_item_alone_and_as_in_training() {
    let network = network(&instance_unet());
    let x = pair(1, 11);
    let at = |x: &Tensor, mode| network.forward(x, mode).unwrap();
    let bits = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let whole = at(&x, Mode::Evaluate);
    assert_eq!(bits(&at(&x, Mode::Train { seed: 0, step: 0 })), bits(&whole));
    for item in 0..2 {
        let alone = at(&x.narrow(0, item, 1).unwrap(), Mode::Evaluate);
        assert_eq!(bits(&alone), bits(&whole.narrow(0, item, 1).unwrap()));
    }
    assert!(!network.folded().unwrap().is_local());
    let params = network.params();
    assert_eq!(params.all().count(), params.trainable().len(), "no running statistics");
}

#[test]
fn the_norm_of_a_head_is_a_batch_norm() {
    let config = SteerableConfig { head_norm: true, norm: Normalisation::Instance, ..residual() };
    let error = Network::new(&config.into(), 1, DType::F32, &Device::Cpu).unwrap_err().to_string();
    assert!(error.contains("head_norm") && error.contains("batch norm"), "{error}");
}

fn mirrored(x: &Tensor) -> Tensor {
    x.flip(&[4]).unwrap()
}

#[test]
fn a_network_with_mirror_symmetry_cannot_tell_mirror_images_apart() {
    let mut config = residual();
    // Chirality needs three directions: an SO(3) network sees it where an O(3) one has no kernel.
    config.head_norm = true;
    let x = Tensor::cat(&[random_volume(1, 11), random_volume(2, 11).narrow(1, 1, 1).unwrap()], 0);
    let x = x.unwrap();
    for nonlinearity in ALL {
        config.nonlinearity = nonlinearity;
        let gap = |config: &SteerableConfig| {
            let network = network(config);
            network.forward(&x, Mode::Calibrate { batch: 0 }).unwrap();
            let logits = |x: &Tensor| network.forward(x, Mode::Evaluate).unwrap();
            relative_gap(&logits(&mirrored(&x)), &logits(&x))
        };
        let with = config.with_mirror_symmetry().unwrap();
        assert!(with.blocks.iter().all(|b| b.fields.has_parity()));
        assert!(gap(&with) < 1e-5, "{nonlinearity:?}: {}", gap(&with));
        assert!(gap(&config) > 1e-3, "{nonlinearity:?}: {}", gap(&config));
    }
}

/// One voxel of random values of type `irreps`, and the same times an orthogonal matrix.
fn voxel(irreps: &Irreps, seed: u64, matrix: &Matrix3<f64>) -> [Field; 2] {
    let mut stream = Stream::new(seed, "voxel", &[]);
    let x = nalgebra::DVector::from_fn(irreps.dim(), |_, _| stream.normal());
    [x.clone(), irreps.matrix(matrix).unwrap() * x].map(|x| field(irreps, x.as_slice()))
}

fn field(irreps: &Irreps, x: &[f64]) -> Field {
    let x = Tensor::from_vec(x.to_vec(), (1, irreps.dim(), 1, 1, 1), &Device::Cpu).unwrap();
    Field::new(irreps.clone(), x).unwrap()
}

fn values(field: &Field) -> Vec<f64> {
    field.values().flatten_all().unwrap().to_vec1().unwrap()
}

/// Norm of the gap between layer(D x) and D layer(x) over that of the latter.
fn pointwise_gap(
    irreps: &Irreps,
    seed: u64,
    matrix: &Matrix3<f64>,
    layer: impl Fn(&Field) -> Result<Field, NnError>,
) -> f64 {
    let [x, turned] = voxel(irreps, seed, matrix);
    let (straight, found) = (layer(&x).unwrap(), layer(&turned).unwrap());
    let d = straight.irreps().matrix(matrix).unwrap();
    let expected = d * nalgebra::DVector::from_vec(values(&straight));
    // A ReLU may leave nothing.
    (&expected - nalgebra::DVector::from_vec(values(&found))).norm() / expected.norm().max(1e-3)
}

fn random_irreps() -> impl Strategy<Value = Irreps> {
    prop::collection::vec((1usize..4, 0usize..4), 1..5).prop_map(|blocks| {
        let text: Vec<String> = blocks.iter().map(|(mul, l)| format!("{mul}x{l}")).collect();
        irreps(&format!("1x0+{}", text.join("+")))
    })
}

/// Natural parities, and with `any` others too.
fn with_parity(irreps: &Irreps, any: bool) -> Irreps {
    let blocks: Vec<String> = irreps
        .blocks()
        .enumerate()
        .map(|(i, b)| {
            let odd = (b.irrep.l % 2 == 1) != (any && i % 2 == 1);
            format!("{}x{}{}", b.mul, b.irrep.l, if odd { "o" } else { "e" })
        })
        .collect();
    blocks.join("+").parse().unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn pointwise_layers_commute_with_any_rotation(so3 in random_irreps(), seed in 0u64..1000) {
        let rotation = random_rotations(seed, 1)[0];
        let o3 = with_parity(&so3, true);
        for (types, matrix) in [(&so3, *rotation.matrix()), (&o3, -rotation.matrix())] {
            let mut params = Params::new(seed, DType::F64, &Device::Cpu);
            let product = TensorProductNonlinearity::new(params.pp("product"), types).unwrap();
            let gap = pointwise_gap(types, seed, &matrix, |x| product.forward(x));
            prop_assert!(gap < 1e-12, "product, {}: {}", types, gap);
            let map = ConvConfig { bias: true, ..ConvConfig::pointwise(types, types) };
            let map = SteerableConv3d::new(params.pp("map"), map).unwrap();
            let gap = pointwise_gap(types, seed, &matrix, |x| map.forward(x));
            prop_assert!(gap < 1e-12, "map, {}: {}", types, gap);
            let norm = NormNonlinearity::new(params.pp("norm"), types).unwrap();
            let gap = pointwise_gap(types, seed, &matrix, |x| norm.forward(x));
            prop_assert!(gap < 1e-12, "norm, {}: {}", types, gap);
            let gate = Gate::new(types).unwrap();
            let gap = pointwise_gap(gate.irreps_in(), seed, &matrix, |x| gate.forward(x));
            prop_assert!(gap < 1e-12, "gate, {}: {}", types, gap);
        }
        let o3 = with_parity(&so3, false);
        for (types, sign) in [(&so3, 1.0), (&o3, -1.0)] {
            let sphere = SphereNonlinearity::new(types).unwrap();
            for cube in cube_group() {
                let matrix = sign * cube.matrix();
                let gap = pointwise_gap(types, seed, &matrix, |x| sphere.forward(x));
                prop_assert!(gap < 1e-12, "sphere, {}: {}", types, gap);
            }
            let matrix = sign * rotation.matrix();
            let gap = pointwise_gap(types, seed, &matrix, |x| sphere.forward(x));
            prop_assert!(gap < 0.06, "sphere, {}: {}", types, gap);
        }
    }
}

#[test]
fn a_sphere_nonlinearity_leaves_little_and_a_product_adds_something() {
    // φ is nearly linear for small values: v/2.
    let types = irreps("2x0+1x1+2x2+1x3");
    let small: Vec<f64> = (0..types.dim()).map(|i| 1e-6 * (i as f64 - 7.0)).collect();
    let out =
        values(&SphereNonlinearity::new(&types).unwrap().forward(&field(&types, &small)).unwrap());
    for (y, x) in out.iter().zip(&small) {
        assert!((y - x / 2.0).abs() < 1e-10);
    }
    let mut params = Params::new(0, DType::F64, &Device::Cpu);
    let product = TensorProductNonlinearity::new(params.pp("p"), &irreps("2x1")).unwrap();
    // v x w is the only product.
    let parallel = [1.0, 2.0, -1.0, 2.0, 4.0, -2.0];
    let out = values(&product.forward(&field(&irreps("2x1"), &parallel)).unwrap());
    assert!(out.iter().zip(parallel).all(|(y, x)| (y - x).abs() < 1e-12));
    let crossed = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0];
    let out = values(&product.forward(&field(&irreps("2x1"), &crossed)).unwrap());
    assert!(out[2].abs() > 1e-3 && out[0] == 1.0);
}

#[test]
fn the_residual_networks_of_the_paper() {
    // The paper has 143,560 and 15,878,764 for ten classes.
    let steerable = ModelConfig::Steerable(SteerableConfig::resnet34_small(1, 10).unwrap());
    let plain = PlainConfig::resnet34(1, 10);
    let count = |model: &ModelConfig| {
        Network::new(model, 0, DType::F32, &Device::Cpu).unwrap().params().count()
    };
    assert_eq!([count(&steerable), plain.parameter_count()], [139_170, 15_879_722]);
    for plain in plain_residual().into_iter().chain(plain_unets()) {
        let model = ModelConfig::Plain(plain.clone());
        assert_eq!(count(&model), plain.parameter_count());
        let network = Network::new(&model, 0, DType::F32, &Device::Cpu).unwrap();
        let x = random_volume(1, 12);
        let dims = |layer: &str| {
            let layers = network.layers(&x).unwrap();
            let found = layers.into_iter().find(|l| l.name == layer);
            found.unwrap().values.dims()[2..].iter().product::<usize>()
        };
        let costs = network.convolutions().into_iter().map(|c| c.cost * dims(&c.layer));
        if plain.symmetry == Symmetry::None {
            assert_eq!(costs.sum::<usize>(), network.multiply_adds([12; 3]));
        }
    }
}

#[test]
fn the_model_files_of_the_examples_are_those_of_the_constructors() {
    let steerable =
        |config: Result<SteerableConfig, NnError>| ModelConfig::Steerable(config.unwrap());
    for (text, expected) in [
        (
            include_str!("../../../examples/models/se3resnet34small.toml"),
            steerable(SteerableConfig::resnet34_small(1, 10)),
        ),
        (
            include_str!("../../../examples/models/unet.toml"),
            steerable(SteerableConfig::unet(1, 4)),
        ),
        (
            include_str!("../../../examples/models/resnet34.toml"),
            ModelConfig::Plain(PlainConfig::resnet34(1, 10)),
        ),
    ] {
        assert_eq!(ModelConfig::from_toml(text).unwrap(), expected);
    }
}

#[test]
fn a_model_card_of_before_is_read() {
    let text = r#"
kind = "steerable"
input = "1x0"
classes = 3
[kernel]
family = "gaussian_jets"
order = 2
[[blocks]]
fields = "4x0+2x1"
size = 3
stride = 2
[[blocks]]
fields = "8x0"
size = 3
"#;
    let ModelConfig::Steerable(config) = ModelConfig::from_toml(text).unwrap() else {
        panic!("a steerable network")
    };
    assert_eq!(config, of(vec![block("4x0+2x1", 2), block("8x0", 1)]));
}

#[test]
fn unknown_keys_and_kinds_are_refused() {
    let config = SteerableConfig { head: field_head(true).head, ..unet() };
    let text = ModelConfig::Steerable(config).to_toml().unwrap();
    for (old, new, named) in [
        ("[head.field]", "[head.fields]", "fields"),
        ("pooled", "poled", "poled"),
        ("nonlinearity = \"gate\"", "nonlinearity = \"gates\"", "gates"),
        ("residual = true", "residul = true", "residul"),
    ] {
        assert!(text.contains(old), "{text}");
        let error = ModelConfig::from_toml(&text.replace(old, new)).unwrap_err().to_string();
        assert!(error.contains(named), "{error}");
    }
}

#[test]
fn mistakes_name_their_key() {
    let plain_error = |change: fn(&mut PlainConfig)| {
        let mut config = plain_unets().pop().unwrap();
        change(&mut config);
        let model = ModelConfig::Plain(config);
        Network::new(&model, 0, DType::F32, &Device::Cpu).unwrap_err().to_string()
    };
    for (text, change) in [
        ("decoder[1].pool: expected 1", (|c| c.decoder[1].pool = 2) as fn(&mut PlainConfig)),
        ("decoder: expected at most one block", |c| c.decoder.push(c.decoder[0].clone())),
        ("blocks[0].pool: the first block", |c| c.blocks[0].pool = 2),
        ("classes: expected at least 2", |c| c.classes = 1),
    ] {
        let found = plain_error(change);
        assert!(found.contains(text), "{found}");
    }
    let error = |change: fn(&mut SteerableConfig)| {
        let mut config = unet();
        change(&mut config);
        let model = ModelConfig::Steerable(config);
        Network::new(&model, 0, DType::F32, &Device::Cpu).unwrap_err().to_string()
    };
    for (text, change) in [
        (
            "decoder[0].stride: expected 1, found 2",
            (|c| c.decoder[0].stride = 2) as fn(&mut SteerableConfig),
        ),
        ("decoder: expected at most one block", |c| c.decoder.push(c.decoder[0].clone())),
        ("decoder: expected at most one block", |c| c.decoder = vec![c.decoder[0].clone(); 3]),
        ("blocks[1].repeat: expected 1 to 1000", |c| c.blocks[1].repeat = 0),
        ("blocks[0].hidden: only a residual block", |c| c.blocks[0].hidden = "1x0".parse().ok()),
        ("head_norm: is for heads of scalars", |c| c.head_norm = true),
        ("deep_supervision: needs head = \"voxels\"", |c| {
            (c.deep_supervision, c.head) = (true, Head::Classes);
            c.blocks.push(block("4x0", 1));
            c.decoder.clear();
        }),
        ("deep_supervision: needs head = \"voxels\"", |c| {
            c.deep_supervision = true;
            c.decoder.truncate(1);
        }),
        ("classes: expected at least 2", |c| c.classes = 1),
        ("classes: a field head", |c| {
            c.head = Head::Field { irreps: "1x1".parse().unwrap(), pooled: false };
        }),
        ("head: gives fields of type 3", |c| {
            c.classes = 0;
            c.head = Head::Field { irreps: "1x3".parse().unwrap(), pooled: false };
        }),
        ("blocks: the last block must give scalars", |c| c.head = Head::Scalars),
        ("nonlinearity: fields of type 6", |c| {
            c.nonlinearity = Nonlinearity::Sphere;
            c.blocks[0].fields = "1x0+1x6".parse().unwrap();
            c.kernel = Family::shells();
        }),
    ] {
        let found = error(change);
        assert!(found.contains(text), "{found}");
    }
}
