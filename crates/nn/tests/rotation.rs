//! Networks under the 24 rotations of the cube, which permute voxels exactly.

mod common;

use candle_core::{DType, Device, Tensor};
use common::{random_volume, relative_gap, turn, worst_gap};
use steer3d_kernels::Family;
use steer3d_nn::layers::{FieldLayer, GroupConv, GroupConvConfig};
use steer3d_nn::{
    Field, FieldType, Mode, ModelConfig, Network, Params, PlainConfig, Pooling, SteerableConfig,
    Symmetry,
};
use steer3d_so3::{Irreps, Rotation, cube_group};

fn config(input: &str, family: Family) -> SteerableConfig {
    let mut config = SteerableConfig::small(1, 3).unwrap();
    config.input = input.parse().unwrap();
    config.kernel = family;
    config.blocks[0].fields = "3x0+2x1+1x2".parse().unwrap();
    config.blocks[1].fields = "3x0+1x1+2x2+1x3".parse().unwrap();
    config.blocks[2].fields = "2x0+1x1+1x3".parse().unwrap();
    config.blocks[3].fields = "5x0".parse().unwrap();
    config
}

#[test]
fn every_layer_of_a_steerable_network_commutes_with_the_cube_group() {
    for (input, family) in
        [("1x0", Family::shells()), ("1x0", Family::jets(2)), ("1x0+1x1", Family::jets(2))]
    {
        let config = config(input, family);
        let irreps = config.input.clone();
        let model = ModelConfig::Steerable(config);
        let network = Network::new(&model, 1, DType::F32, &Device::Cpu).unwrap();
        for n in [11, 12] {
            // f32 rounding over a few thousand terms in three convolutions.
            let gap = worst_gap(&network, &irreps, n);
            assert!(gap < 1e-5, "{input} at {n}: {gap}");
        }
    }
}

/// The group-convolutional counterpart of the networks above.
fn octahedral() -> PlainConfig {
    let plain = PlainConfig::like(&config("1x0", Family::shells()));
    let octahedral = PlainConfig { symmetry: Symmetry::Octahedral, ..plain };
    PlainConfig { pooling: Pooling::Antialiased, ..octahedral }.with_parameters(4000)
}

#[test]
fn every_layer_of_a_group_network_commutes_with_the_cube_group_and_not_with_other_rotations() {
    let model = ModelConfig::Plain(octahedral());
    let network = Network::new(&model, 1, DType::F32, &Device::Cpu).unwrap();
    let scalar = "1x0".parse().unwrap();
    for n in [11, 12] {
        let gap = worst_gap(&network, &scalar, n);
        assert!(gap < 1e-5, "at {n}: {gap}");
    }
    // A smooth object, which turns without much resampling error.
    let blob = |x: f64, y: f64, z: f64| (-(x * x + 2.0 * y * y + 4.0 * z * z) / 12.0).exp() as f32;
    let at = |i: usize| i as f64 - 7.5;
    let values = (0..16usize.pow(3)).map(|i| blob(at(i % 16) - 2.0, at(i / 16 % 16), at(i / 256)));
    let x = Tensor::from_iter(values, &Device::Cpu).unwrap().reshape((1, 1, 16, 16, 16)).unwrap();
    let axis = nalgebra::Unit::new_normalize(nalgebra::Vector3::new(1.0, 2.0, -1.0));
    let other = turn(&x, &scalar, &Rotation::from_axis_angle(&axis, 0.7));
    let logits = |x: &Tensor| network.forward(x, Mode::Evaluate).unwrap();
    assert!(relative_gap(&logits(&other), &logits(&x)) > 1e-3);
}

#[test]
fn orientations_turn_with_the_input() {
    let mut params = Params::new(3, DType::F32, &Device::Cpu);
    let symmetry = Symmetry::Octahedral;
    let config = GroupConvConfig { orientations: 24, symmetry, ..GroupConvConfig::new(3, 2) };
    let conv = GroupConv::new(params.pp("conv"), config).unwrap();
    let scalars = |channels: usize| format!("{channels}x0").parse::<Irreps>().unwrap();
    let x = random_volume(3 * 24, 5);
    let kind = FieldType { irreps: scalars(3), orientations: 24 };
    let apply = |x: Tensor| conv.forward(&Field::of(kind.clone(), x).unwrap()).unwrap();
    let group = cube_group();
    for rotation in group.iter().step_by(5) {
        // (R f)[c, h](x) = f[c, R^-1 h](R^-1 x).
        let back = rotation.inverse();
        let place = |h: &Rotation| group.iter().position(|r| *r == back * h).unwrap() as u32;
        let turned = |x: &Tensor, channels: usize| {
            let order: Vec<u32> = (0..channels as u32)
                .flat_map(|c| group.iter().map(move |h| 24 * c + place(h)))
                .collect();
            let order = Tensor::new(order, &Device::Cpu).unwrap();
            turn(&x.index_select(&order, 1).unwrap(), &scalars(24 * channels), rotation)
        };
        let expected = turned(apply(x.clone()).values(), 2);
        let gap = relative_gap(apply(turned(&x, 3)).values(), &expected);
        assert!(gap < 1e-5, "{gap}");
    }
}

#[test]
fn a_plain_network_does_not() {
    let plain = PlainConfig::like(&config("1x0", Family::shells())).with_parameters(4000);
    let network = Network::new(&ModelConfig::Plain(plain), 1, DType::F32, &Device::Cpu).unwrap();
    assert!(worst_gap(&network, &"1x0".parse().unwrap(), 12) > 0.1);
}

#[test]
fn networks_with_parity_commute_with_the_cube_group() {
    let mut config = config("1x0e", Family::jets(2));
    config.blocks[0].fields = "3x0e+1x0o+2x1o+1x1e+1x2e".parse().unwrap();
    config.blocks[1].fields = "3x0e+1x0o+1x1o+1x2e".parse().unwrap();
    config.blocks[2].fields = "2x0e+1x0o+1x1e".parse().unwrap();
    config.blocks[3].fields = "5x0e".parse().unwrap();
    let irreps = config.input.clone();
    let network =
        Network::new(&ModelConfig::Steerable(config), 1, DType::F32, &Device::Cpu).unwrap();
    assert!(worst_gap(&network, &irreps, 9) < 1e-5);
}

#[test]
fn a_field_of_another_type_is_refused() {
    let values = random_volume(4, 5);
    assert!(Field::new("1x1".parse().unwrap(), values).unwrap_err().to_string().contains("1x1"));
}

#[test]
fn dropout_drops_the_same_fields_for_the_same_step() {
    let mut config = config("1x0", Family::shells());
    config.dropout = 0.5;
    let model = ModelConfig::Steerable(config);
    let network = Network::new(&model, 1, DType::F32, &Device::Cpu).unwrap();
    let x = random_volume(1, 9);
    let at = |step| {
        let y = network.forward(&x, Mode::Train { seed: 7, step }).unwrap();
        y.flatten_all().unwrap().to_vec1::<f32>().unwrap()
    };
    assert_eq!(at(1), at(1));
    assert_ne!(at(1), at(2));
}

fn chiral() -> SteerableConfig {
    let mut config = config("1x0e", Family::jets(2));
    config.blocks[0].fields = "3x0e+2x1o+1x1e+1x2e".parse().unwrap();
    config.blocks[1].fields = "3x0e+1x0o+1x1o+1x1e+1x2o".parse().unwrap();
    config.blocks[2].fields = "3x0e+2x0o+1x1o".parse().unwrap();
    config.blocks[3].fields = "3x0e+2x0o".parse().unwrap();
    (config.keep_zero, config.head_norm) = (true, true);
    config
}

#[test]
fn pseudoscalars_tell_mirror_images_apart_and_not_rotations() {
    let config = chiral();
    let network =
        Network::new(&ModelConfig::Steerable(config), 1, DType::F32, &Device::Cpu).unwrap();
    let x = random_volume(1, 9);
    // Untrained gates pass hardly any chirality; the statistics of its channels bring it to scale.
    let other = random_volume(1, 11).narrow(2, 1, 9).unwrap();
    let other = other.narrow(3, 1, 9).unwrap().narrow(4, 1, 9).unwrap();
    let batch = Tensor::cat(&[&x, &other], 0).unwrap();
    network.forward(&batch, Mode::Calibrate { batch: 0 }).unwrap();
    assert!(worst_gap(&network, &"1x0e".parse().unwrap(), 9) < 1e-4);
    let mirrored: Vec<f32> = {
        let mut values: Vec<f32> = x.flatten_all().unwrap().to_vec1().unwrap();
        values.reverse();
        values
    };
    let mirrored = Tensor::from_vec(mirrored, x.shape(), &Device::Cpu).unwrap();
    let logits = |x: &Tensor| network.forward(x, Mode::Evaluate).unwrap();
    assert!(relative_gap(&logits(&mirrored), &logits(&x)) > 1e-3);
}

#[test]
fn a_network_that_keeps_zero_has_no_edges_in_empty_space() {
    let empty = Tensor::zeros((2, 1, 9, 9, 9), DType::F32, &Device::Cpu).unwrap();
    let of = |keep_zero| {
        let mut config = chiral();
        config.keep_zero = keep_zero;
        let network =
            Network::new(&ModelConfig::Steerable(config), 1, DType::F32, &Device::Cpu).unwrap();
        let noise = Tensor::cat(&[random_volume(1, 9), random_volume(1, 9)], 0).unwrap();
        for step in 0..3 {
            network.forward(&noise, Mode::Train { seed: 0, step }).unwrap();
        }
        let layers = network.layers(&empty).unwrap();
        layers
            .iter()
            .filter(|l| l.values.dims().len() == 5)
            .all(|l| l.values.sqr().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap() == 0.0)
    };
    assert!(of(true));
    assert!(!of(false));
}
