//! Equivariance measured four ways, on maps whose error is known.

use candle_core::{DType, Device, Tensor};
use steer3d_eval::EvalError;
use steer3d_eval::equivariance::{
    BumpField, FieldMap, LayerSpec, Subject, Survey, SurveyConfig, assert_equivariant,
    centre_error, cube_error, map_errors, resampled_errors, survey,
};
use steer3d_kernels::Family;
use steer3d_kernels::equivariance::layer_error;
use steer3d_nn::layers::{ConvConfig, FieldLayer, RadialConv3d, RadialConvConfig, SteerableConv3d};
use steer3d_nn::{Field, Params};
use steer3d_so3::{Irreps, Stream, random_rotations};

fn irreps(text: &str) -> Irreps {
    text.parse().unwrap()
}

fn layer(fields: &str, size: usize, family: Family) -> LayerSpec {
    LayerSpec { irreps: irreps(fields), size, family }
}

fn convolution(layer: &LayerSpec, seed: u64) -> FieldMap<'static> {
    let nothing = Tensor::zeros(1, DType::F32, &Device::Cpu).unwrap();
    Subject::Convolution.build(layer, seed, &nothing).unwrap()
}

/// The mean over all channels in place of each of them: scalars to be sure, but not vectors.
fn average<'a>(fields: &Irreps) -> FieldMap<'a> {
    FieldMap::new("average", fields, fields, |x| Ok(x.mean_keepdim(1)?.broadcast_as(x.shape())?))
}

#[test]
fn steerable_convolutions_pass() {
    for (fields, family) in [
        ("3x0+2x1+1x2", Family::jets(3)),
        ("2x0e+1x0o+2x1o+1x1e+1x2e", Family::jets(3)),
        ("2x0+1x3", Family::jets(4)),
    ] {
        assert_equivariant(&convolution(&layer(fields, 5, family), 1), 17, 2e-6, 0.006);
    }
}

#[test]
fn convolutions_with_learned_radial_functions_pass() {
    for fields in ["3x0+2x1+1x2", "2x0e+1x0o+2x1o+1x1e"] {
        let fields = irreps(fields);
        let mut params = Params::new(1, DType::F32, &Device::Cpu);
        let config = RadialConvConfig::new(&fields, &fields);
        let conv = RadialConv3d::new(params.pp("c"), config).unwrap();
        let map = FieldMap::new("radial", &fields, &fields, |x| {
            Ok(conv.forward(&Field::new(fields.clone(), x.clone())?)?.values().clone())
        });
        // The random functions jump between neighbouring radii, as shells do.
        assert_equivariant(&map, 17, 2e-6, 0.05);
    }
}

#[test]
#[should_panic(expected = "rotations of the cube")]
fn channels_mixed_against_their_type_do_not_pass() {
    assert_equivariant(&average(&irreps("1x0+1x1")), 17, 1e-5, 0.1);
}

#[test]
#[should_panic(expected = "random rotations")]
fn kernels_that_know_only_the_cube_do_not_pass() {
    // x⁴ + y⁴ + z⁴ in the 3³ neighbourhood is invariant under the cube, not under rotation.
    let fields = irreps("1x0");
    let corners: Vec<f32> = (0..27)
        .map(|t| if [t % 3, t / 3 % 3, t / 9].iter().all(|i| i % 2 == 0) { 1.0 } else { 0.0 })
        .map(|corner| corner - 8.0 / 27.0)
        .collect();
    let kernel = Tensor::from_vec(corners, (1, 1, 3, 3, 3), &Device::Cpu).unwrap();
    let map = FieldMap::new("corners", &fields, &fields, move |x| {
        let config = steer3d_ops::Conv3dConfig::same(3);
        Ok(steer3d_ops::conv3d(x, &kernel, None, &config)?)
    });
    assert_equivariant(&map, 17, 1e-5, 0.005);
}

#[test]
fn parity_is_tested_by_reflections() {
    let noise = |input: &str, output: &str| {
        let map = FieldMap::new("relabel", &irreps(input), &irreps(output), |x| Ok(x.clone()));
        cube_error(&map, 7, 0).unwrap()
    };
    assert!(noise("1x1o", "1x1o") < 1e-7);
    assert!((noise("1x1o", "1x1e") - 2.0).abs() < 1e-6, "of the opposite sign when reflected");
    assert!(noise("1x1", "1x1") < 1e-7, "no reflections without parity");
}

#[test]
fn the_centre_agrees_with_the_closed_form() {
    for (family, width) in [(Family::shells(), 2.0), (Family::jets(3), 1.0)] {
        let spec = layer("4x0+3x1+2x2", 5, family.clone());
        let expected = layer_error(&spec.irreps, &spec.irreps, 5, &family, width).unwrap();
        let measured: f64 = (0..3)
            .map(|seed| centre_error(&convolution(&spec, seed), 17, width, 25, seed).unwrap())
            .sum();
        let ratio = measured / 3.0 / expected;
        // 75 fields of a few independent channels: a standard error of about 7 %.
        assert!((0.75..1.33).contains(&ratio), "{family:?}: {measured} / 3 against {expected}");
    }
}

#[test]
fn pointwise_nonlinearities_commute_at_every_voxel() {
    let spec = layer("3x0+2x1+1x2", 5, Family::jets(3));
    for subject in [Subject::Gate, Subject::Norm, Subject::TensorProduct] {
        let fields = subject.irreps_in(&spec).unwrap();
        let mut stream = Stream::new(3, "field", &[]);
        let sample = BumpField::random(&fields, 24, 4.0, 2.0, &mut stream).sample(17).unwrap();
        let map = subject.build(&spec, 0, &sample).unwrap();
        assert!(centre_error(&map, 9, 2.0, 5, 0).unwrap() < 1e-6);
        assert_ne!(map.irreps_in().dim(), 0);
    }
}

#[test]
fn the_floor_of_resampling_is_what_the_docs_say() {
    let fields = irreps("2x0+1x1");
    let identity = FieldMap::new("identity", &fields, &fields, |x| Ok(x.clone()));
    let field = BumpField::random(&fields, 24, 8.25, 2.0, &mut Stream::new(0, "field", &[]));
    let errors = resampled_errors(&identity, &field, 33, &random_rotations(0, 6)).unwrap();
    let mean = errors.iter().sum::<f64>() / 6.0;
    assert!((0.0003..0.0012).contains(&mean), "{mean}");
}

#[test]
fn invariant_vectors_are_compared_as_they_are() {
    let fields = irreps("1x0+1x1");
    let mean = FieldMap::new("mean", &fields, &irreps("1x0"), |x| {
        Ok(x.narrow(1, 0, 1)?.mean((2, 3, 4))?)
    });
    assert!(cube_error(&mean, 9, 0).unwrap() < 1e-5);
    assert!(centre_error(&mean, 9, 2.0, 3, 0).unwrap() < 0.2);
}

#[test]
fn what_cannot_be_measured_is_said() {
    let fields = irreps("1x0");
    let zero = FieldMap::new("zero", &fields, &fields, |x| Ok(x.zeros_like()?));
    let error = cube_error(&zero, 5, 0).unwrap_err();
    assert!(matches!(error, EvalError::Layer { .. }), "{error}");
    assert!(error.to_string().contains("gives zeros for a random field"), "{error}");
    let identity = FieldMap::new("identity", &fields, &fields, |x| Ok(x.clone()));
    let error = centre_error(&identity, 8, 2.0, 1, 0).unwrap_err().to_string();
    assert!(error.contains("identity") && error.contains("[8, 8, 8]"), "{error}");
    let lying = FieldMap::new("lying", &fields, &irreps("1x1"), |x| Ok(x.clone()));
    let error = cube_error(&lying, 5, 0).unwrap_err().to_string();
    assert!(error.contains("lying") && error.contains("1x1"), "{error}");
    let failing = FieldMap::new("failing", &fields, &fields, |_| Err("out of order".into()));
    assert!(matches!(cube_error(&failing, 5, 0), Err(EvalError::Forward { .. })));
}

fn small() -> SurveyConfig {
    SurveyConfig {
        irreps: irreps("2x0+1x1"),
        sizes: vec![3],
        families: vec![Family::jets(2)],
        widths: vec![1.0, 2.0],
        size: 9,
        rotations: 1,
        seeds: 1,
        centre_fields: 1,
        ..SurveyConfig::default()
    }
}

#[test]
fn subjects_are_chosen_by_short_names() {
    let subjects: Vec<Subject> =
        ["gate", "network:2", "antialiased:1.6"].map(|name| name.parse().unwrap()).to_vec();
    assert_eq!(subjects, [Subject::Gate, Subject::Network(2), Subject::Antialiased(1.6)]);
    let found = survey(&SurveyConfig { subjects, ..small() }, &|_, _, _| ()).unwrap();
    let names: Vec<&str> = found.measured.iter().map(|row| row.subject.as_str()).collect();
    assert_eq!(names, ["gate", "network of depth 2", "convolution, blur of 1.6, stride 2"]);
    for text in ["", "network", "network:0", "network:17", "antialiased:-1", "gate:1"] {
        let error = text.parse::<Subject>().unwrap_err().to_string();
        assert!(error.contains("network:DEPTH") && error.contains(text), "{error}");
    }
}

#[test]
fn a_survey_says_how_far_other_voxels_move_outputs() {
    let spacings = vec![[1.0; 3], [1.0, 1.0, 1.5], [1.0, 1.0, 2.5]];
    let config = SurveyConfig { subjects: vec![], spacings, size: 17, sizes: vec![5], ..small() };
    let found = survey(&config, &|_, _, _| ()).unwrap();
    let [same, near, far] = &found.spacings[..] else { panic!("three rows") };
    // Rounding, and more with every step away; fields of width 1 are lost on voxels of 2.5.
    assert!(same.layer.iter().all(|e| *e < 1e-12) && same.unet.iter().all(|e| *e < 1e-5));
    for i in 0..2 {
        assert!(near.layer[i] < far.layer[i] && near.unet[i] < far.unet[i], "{near:?} {far:?}");
    }
    assert!(near.layer[1] < 0.01 && far.layer[0] > 0.2, "{near:?} {far:?}");
    let bad = SurveyConfig { spacings: vec![[1.0, 0.0, 1.0]], ..config };
    let error = survey(&bad, &|_, _, _| ()).unwrap_err().to_string();
    assert!(error.contains("voxel size along y"), "{error}");
}

#[test]
fn a_survey_says_how_well_conditioned_a_family_is() {
    let families = vec![Family::jets(2), "bessel:4".parse().unwrap()];
    let config = SurveyConfig { families, subjects: vec![], ..small() };
    let found = survey(&config, &|_, _, _| ()).unwrap();
    // Degrees 0 (twice), 1 and 2, orthogonal on 27 taps; there, four Bessel functions of the radius
    // differ at three radii at most.
    let [jets, bessel] = &found.kernels[..] else { panic!("two families") };
    assert_eq!((jets.functions, jets.rank), (10, 10));
    assert!(jets.condition_number.unwrap() < 5.0 && jets.largest_overlap < 1e-12);
    assert!(bessel.rank < bessel.functions && bessel.condition_number.is_none());
    let json = serde_json::to_string(&found).unwrap();
    assert_eq!(serde_json::from_str::<Survey>(&json).unwrap(), found);
}

#[test]
fn settings_out_of_range_are_named() {
    for (config, field) in [
        (SurveyConfig { size: 16, ..small() }, "size"),
        (SurveyConfig { rotations: 0, ..small() }, "rotations"),
        (SurveyConfig { seeds: 0, ..small() }, "seeds"),
        (SurveyConfig { width: f64::NAN, ..small() }, "width"),
        (SurveyConfig { sizes: vec![], ..small() }, "sizes"),
        (SurveyConfig { families: vec![], ..small() }, "families"),
    ] {
        let error = survey(&config, &|_, _, _| ()).unwrap_err().to_string();
        assert!(error.contains(&format!("`{field}`")), "{error}");
    }
    for (sizes, families) in [(vec![4], vec![Family::jets(3)]), (vec![3], vec![Family::jets(5)])] {
        let config = SurveyConfig { sizes, families, ..small() };
        assert!(matches!(survey(&config, &|_, _, _| ()), Err(EvalError::Kernel(_))));
    }
    for family in [Family::shells(), Family::jets(2)] {
        let config = SurveyConfig { irreps: irreps("1x11"), families: vec![family], ..small() };
        let error = survey(&config, &|_, _, _| ()).unwrap_err().to_string();
        assert!(error.contains("l = 11"), "{error}");
    }
}

#[test]
fn a_map_is_measured_as_a_subject_is() {
    let config =
        SurveyConfig { subjects: vec![Subject::Convolution], seeds: 1, seed: 3, ..small() };
    let layer = layer("2x0+1x1", 3, Family::jets(2));
    let expected = survey(&config, &|_, _, _| ()).unwrap().measured.remove(0);
    let found = map_errors(&convolution(&layer, 3), &config, 17, 3).unwrap();
    assert_eq!(
        [found.centre, found.resampled, found.cube],
        [expected.centre, expected.resampled, expected.cube]
    );
    let error = map_errors(&convolution(&layer, 3), &config, 0, 3).unwrap_err().to_string();
    assert!(error.contains("centre_size"), "{error}");
}

#[test]
fn a_layer_of_ones_own_is_a_closure() {
    let fields = irreps("2x0+1x1");
    let mut params = Params::new(0, DType::F32, &Device::Cpu);
    let config = ConvConfig::new(&fields, &fields);
    let config = ConvConfig { kernel: Family::jets(3), bias: true, ..config };
    let conv = SteerableConv3d::new(params.pp("c"), config).unwrap();
    let map = FieldMap::new("conv", &fields, &fields, |x| {
        Ok(conv.forward(&Field::new(fields.clone(), x.clone())?)?.values().clone())
    });
    assert_equivariant(&map, 17, 2e-6, 0.005);
}
