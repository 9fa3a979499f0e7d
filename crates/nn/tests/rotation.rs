//! Networks under the 24 rotations of the cube, which permute voxels exactly.

mod common;

use candle_core::{DType, Device, Tensor};
use common::{random_volume, relative_gap, turn, worst_gap, worst_gap_of};
use steer3d_kernels::{Family, KernelGroup};
use steer3d_nn::layers::{FieldLayer, GroupConv, GroupConvConfig};
use steer3d_nn::{
    Field, FieldType, Mode, ModelConfig, Network, Params, PlainConfig, Pooling, SteerableConfig,
    Symmetry,
};
use steer3d_so3::groups::{icosahedral_group, tetrahedral_group};
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
    let axis = nalgebra::Unit::new_normalize(nalgebra::Vector3::new(1.0, 2.0, -1.0));
    assert!(change_of_logits(&network, &Rotation::from_axis_angle(&axis, 0.7)) > 1e-3);
}

/// How far the logits of a smooth object move when it turns.
fn change_of_logits(network: &Network, rotation: &Rotation) -> f32 {
    let logits = |rotation: &Rotation| {
        let back = rotation.inverse();
        let values = (0..20usize.pow(3)).map(|i| {
            let at = |i: usize| i as f64 - 9.5;
            let p = back * nalgebra::Vector3::new(at(i % 20), at(i / 20 % 20), at(i / 400));
            (-((p.x - 2.0).powi(2) + 2.0 * p.y * p.y + 4.0 * p.z * p.z) / 12.0).exp() as f32
        });
        let x = Tensor::from_iter(values, &Device::Cpu).unwrap().reshape((1, 1, 20, 20, 20));
        network.forward(&x.unwrap(), Mode::Evaluate).unwrap()
    };
    relative_gap(&logits(rotation), &logits(&Rotation::identity()))
}

/// The icosahedron has the twelve rotations of the tetrahedron, which permute voxels; its others turn filters that are
/// steerable.
#[test]
fn every_layer_of_an_icosahedral_network_commutes_with_its_group() {
    let of = |symmetry| {
        let config = PlainConfig { symmetry, ..octahedral() };
        let network = Network::new(&config.into(), 1, DType::F32, &Device::Cpu).unwrap();
        let x = random_volume(1, 16);
        network.forward(&x, Mode::Calibrate { batch: 0 }).unwrap();
        network
    };
    let network = of(Symmetry::Icosahedral);
    let gap = worst_gap_of(&tetrahedral_group(), &network, &"1x0".parse().unwrap(), 11);
    assert!(gap < 1e-5, "{gap}");
    let cube = of(Symmetry::Octahedral);
    for rotation in icosahedral_group().iter().skip(12).step_by(7) {
        let [own, other] = [&network, &cube].map(|n| change_of_logits(n, rotation));
        assert!(own < 0.01 && 4.0 * own < other, "{own}, octahedral {other}");
    }
}

#[test]
fn orientations_turn_with_the_input() {
    // The rotations that permute voxels.
    let cube: Vec<_> = cube_group().into_iter().step_by(5).collect();
    orientations_turn(Symmetry::Octahedral, &cube_group(), &cube);
    orientations_turn(Symmetry::Icosahedral, &icosahedral_group(), &tetrahedral_group());
}

fn orientations_turn(symmetry: Symmetry, group: &[Rotation], rotations: &[Rotation]) {
    let mut params = Params::new(3, DType::F32, &Device::Cpu);
    let order = group.len();
    let config = GroupConvConfig { orientations: order, symmetry, ..GroupConvConfig::new(3, 2) };
    let conv = GroupConv::new(params.pp("conv"), config).unwrap();
    let scalars = |channels: usize| format!("{channels}x0").parse::<Irreps>().unwrap();
    let x = random_volume(3 * order, 5);
    let kind = FieldType { irreps: scalars(3), orientations: order };
    let apply = |x: Tensor| conv.forward(&Field::of(kind.clone(), x).unwrap()).unwrap();
    for rotation in rotations {
        // (R f)[c, h](x) = f[c, R^-1 h](R^-1 x).
        let back = rotation.inverse();
        let place = |h: &Rotation| {
            let same = |r: &Rotation| (r.matrix() - (back * h).matrix()).amax() < 1e-9;
            group.iter().position(same).unwrap()
        };
        let turned = |x: &Tensor, channels: usize| {
            let places: Vec<u32> = (0..channels)
                .flat_map(|c| group.iter().map(move |h| (order * c + place(h)) as u32))
                .collect();
            let places = Tensor::new(places, &Device::Cpu).unwrap();
            turn(&x.index_select(&places, 1).unwrap(), &scalars(order * channels), rotation)
        };
        let expected = turned(apply(x.clone()).values(), 2);
        let gap = relative_gap(apply(turned(&x, 3)).values(), &expected);
        assert!(gap < 1e-5, "{gap}");
    }
}

#[test]
fn a_network_about_an_axis_commutes_with_rotations_about_it_alone() {
    for input in ["1x0", "1x0+1x1"] {
        for family in [Family::shells(), Family::jets(2)] {
            let config = SteerableConfig { group: KernelGroup::So2, ..config(input, family) };
            let irreps = config.input.clone();
            let network = Network::new(&config.into(), 1, DType::F32, &Device::Cpu).unwrap();
            let (about_z, others): (Vec<_>, Vec<_>) =
                cube_group().into_iter().partition(|r| r.matrix()[(2, 2)] > 0.5);
            assert_eq!(about_z.len(), 4);
            let gap = worst_gap_of(&about_z, &network, &irreps, 11);
            assert!(gap < 1e-5, "{input}: {gap}");
            assert!(worst_gap_of(&others[..1], &network, &irreps, 11) > 0.05);
        }
    }
    // With parities mirrors in planes through the axis do not change answers, and others do.
    let mut config = config("1x0e", Family::jets(2));
    config.group = KernelGroup::So2;
    for (block, fields) in
        ["3x0e+1x0o+2x1o+1x1e", "3x0e+1x0o+1x1o+1x1e+1x2e", "2x0e+1x1e+1x1o", "5x0e"]
            .into_iter()
            .enumerate()
    {
        config.blocks[block].fields = fields.parse().unwrap();
    }
    let network = Network::new(&config.into(), 1, DType::F32, &Device::Cpu).unwrap();
    let x = random_volume(1, 11);
    let logits = |x: &Tensor| network.forward(x, Mode::Evaluate).unwrap();
    let [up, across] =
        [2, 4].map(|axis| relative_gap(&logits(&x.flip(&[axis]).unwrap()), &logits(&x)));
    assert!(across < 1e-5 && up > 0.01, "{across} {up}");
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
