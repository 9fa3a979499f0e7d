//! Convolutions whose radial functions come from a perceptron.

use candle_core::{DType, Device, Tensor};
use candle_nn::{AdamW, Optimizer, ParamsAdamW};
use steer3d_nn::layers::{FieldLayer, RadialConv3d, RadialConvConfig, RadialPerceptron};
use steer3d_nn::{Field, NnError, Params};
use steer3d_so3::{Irreps, Normalization, Stream, spherical_harmonics};

const PERCEPTRON: RadialPerceptron = RadialPerceptron { functions: 3, hidden: 5 };

fn layer(params: &mut Params, input: &str, output: &str, size: usize) -> RadialConv3d {
    let (input, output): (Irreps, Irreps) = (input.parse().unwrap(), output.parse().unwrap());
    let config =
        RadialConvConfig { size, perceptron: PERCEPTRON, ..RadialConvConfig::new(&input, &output) };
    RadialConv3d::new(params.pp("radial"), config).unwrap()
}

fn values(x: &Tensor) -> Vec<f64> {
    x.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

fn noise(irreps: &Irreps, size: usize) -> Field {
    let mut stream = Stream::new(3, "noise", &[]);
    let shape = (1, irreps.dim(), size, size, size);
    let count = irreps.dim() * size.pow(3);
    let values: Vec<f64> = (0..count).map(|_| stream.normal()).collect();
    Field::new(irreps.clone(), Tensor::from_vec(values, shape, &Device::Cpu).unwrap()).unwrap()
}

/// From scalars to a vector the kernel is f(|x|) Y_1(x/|x|), with f as the layer reports it.
#[test]
fn the_kernel_is_a_radial_function_times_a_harmonic() {
    let mut params = Params::new(1, DType::F64, &Device::Cpu);
    let layer = layer(&mut params, "1x0", "1x1", 5);
    let filter = values(&layer.filter().unwrap());
    let functions = layer.radial_functions().unwrap().to_vec2::<f64>().unwrap();
    for tap in 0..125 {
        let p = [tap % 5, tap / 5 % 5, tap / 25].map(|i| i as f64 - 2.0);
        let r = p.iter().map(|c| c * c).sum::<f64>().sqrt();
        let at = layer.radii().iter().position(|radius| (radius - r).abs() < 1e-9);
        let y = &spherical_harmonics(1, p, Normalization::Component)[1..];
        for m in 0..3 {
            // √(2l_o+1) C[o, 0, M] is 1 where o = M.
            let expected = at.map_or(0.0, |i| functions[i][0]) * y[m];
            assert!((filter[m * 125 + tap] - expected).abs() < 1e-12, "tap {tap}, component {m}");
        }
    }
}

#[test]
fn gradients_are_those_of_finite_differences() {
    let mut params = Params::new(2, DType::F64, &Device::Cpu);
    let layer = layer(&mut params, "2x0+1x1", "1x0+2x1+1x2", 5);
    let field = noise(layer.irreps_in(), 5);
    let weighting = noise(layer.irreps_out(), 5);
    let loss = || {
        let out = layer.forward(&field).unwrap();
        (out.values() * weighting.values()).unwrap().sum_all().unwrap()
    };
    let gradients = loss().backward().unwrap();
    assert_eq!(params.trainable().len(), 2);
    for parameter in params.trainable() {
        let found = values(gradients.get(&parameter.var).unwrap());
        let scale = found.iter().fold(1.0, |m: f64, g| m.max(g.abs()));
        let original = parameter.var.as_tensor().copy().unwrap();
        let at = |index: usize, delta: f64| {
            let mut shifted = values(&original);
            shifted[index] += delta;
            let shifted = Tensor::from_vec(shifted, original.shape(), &Device::Cpu).unwrap();
            parameter.var.set(&shifted).unwrap();
            let loss = loss().to_scalar::<f64>().unwrap();
            parameter.var.set(&original).unwrap();
            loss
        };
        for index in (0..found.len()).step_by(found.len().div_ceil(20)) {
            let difference = (at(index, 1e-5) - at(index, -1e-5)) / 2e-5;
            let name = &parameter.name;
            assert!(
                (difference - found[index]).abs() < 1e-6 * scale,
                "{name}[{index}]: gradient {}, difference {difference}",
                found[index]
            );
        }
    }
}

#[test]
fn white_noise_comes_out_with_unit_variance() {
    let mut mean = 0.0;
    for seed in 0..20 {
        let mut params = Params::new(seed, DType::F64, &Device::Cpu);
        let layer = layer(&mut params, "4x0+2x1", "4x0+2x1+1x2", 5);
        // In white noise the variance of an output is the squared norm of its row of the filter.
        let filter = layer.filter().unwrap().sqr().unwrap();
        mean += filter.sum_all().unwrap().to_scalar::<f64>().unwrap() / (15.0 * 20.0);
    }
    assert!((0.85..1.15).contains(&mean), "{mean}");
}

#[test]
fn a_training_step_changes_the_radial_functions_and_lowers_the_loss() {
    let mut params = Params::new(4, DType::F32, &Device::Cpu);
    let layer = layer(&mut params, "1x0+1x1", "1x0+1x1", 5);
    let field = noise(layer.irreps_in(), 5);
    let values_f32 = field.values().to_dtype(DType::F32).unwrap();
    let field = Field::new(field.irreps().clone(), values_f32).unwrap();
    let loss = || {
        let error = (layer.forward(&field).unwrap().values() - field.values()).unwrap();
        error.sqr().unwrap().mean_all().unwrap()
    };
    let before = values(&layer.radial_functions().unwrap());
    let first = loss().to_scalar::<f32>().unwrap();
    let vars = params.trainable().iter().map(|p| p.var.clone()).collect();
    let settings = ParamsAdamW { lr: 2e-2, weight_decay: 0.0, ..Default::default() };
    let mut optimiser = AdamW::new(vars, settings).unwrap();
    for _ in 0..20 {
        optimiser.backward_step(&loss()).unwrap();
    }
    let after = values(&layer.radial_functions().unwrap());
    assert!(before.iter().zip(&after).all(|(a, b)| a != b));
    let last = loss().to_scalar::<f32>().unwrap();
    assert!(last < 0.5 * first, "{first} to {last}");
}

#[test]
fn where_no_path_leads_the_output_is_zero() {
    for (input, output) in [("1x0e", "1x0o"), ("1x0e", "1x0e+1x1e")] {
        let mut params = Params::new(0, DType::F64, &Device::Cpu);
        let layer = layer(&mut params, input, output, 3);
        let out = layer.forward(&noise(layer.irreps_in(), 5)).unwrap();
        let last = out.values().narrow(1, layer.irreps_out().dim() - 1, 1).unwrap();
        assert!(values(&last).iter().all(|v| *v == 0.0), "{input} to {output}");
    }
}

#[test]
fn voxels_that_are_not_cubes_have_more_radii() {
    let mut params = Params::new(0, DType::F64, &Device::Cpu);
    let irreps: Irreps = "1x0+1x1".parse().unwrap();
    let voxel_size = [1.0, 1.0, 2.0];
    let config = RadialConvConfig { voxel_size, ..RadialConvConfig::new(&irreps, &irreps) };
    let config = RadialConvConfig { perceptron: PERCEPTRON, ..config };
    let layer = RadialConv3d::new(params.pp("r"), config).unwrap();
    // Squared: 0, 1, 2, 4 (twice), 5 (twice), 6.
    let squares: Vec<f64> = layer.radii().iter().map(|r| (r * r).round()).collect();
    assert_eq!(squares, [0.0, 1.0, 2.0, 4.0, 5.0, 6.0]);
    let filter = values(&layer.filter().unwrap().narrow(0, 0, 1).unwrap().narrow(1, 0, 1).unwrap());
    // One voxel along z is as far as two along x or y.
    let at = |x: usize, y: usize, z: usize| filter[(z * 5 + y) * 5 + x];
    assert!((at(2, 2, 3) - at(4, 2, 2)).abs() < 1e-12 && at(2, 2, 3) != 0.0);
    assert_eq!(at(2, 2, 4), 0.0);
}

/// On other voxels the kernel is the same function of position, times the volume of a voxel; weights are shared.
#[test]
fn the_kernel_is_a_function_of_lengths() {
    let irreps: Irreps = "1x0+1x1".parse().unwrap();
    let filter = |spacing| {
        let config = RadialConvConfig { spacing, ..RadialConvConfig::new(&irreps, &irreps) };
        let mut params = Params::new(5, DType::F64, &Device::Cpu);
        let filter = RadialConv3d::new(params.pp("r"), config).unwrap().filter().unwrap();
        let weights = params.trainable().iter().map(|p| values(p.var.as_tensor())).collect();
        (filter.dim(2).unwrap(), values(&filter), weights)
    };
    let (_, own, weights): (_, _, Vec<Vec<f64>>) = filter(None);
    for [x, y, z] in [[2, 1, 1], [2, 2, 2], [1, 1, 3]] {
        let parts = [x, y, z].map(|parts| parts as f64);
        let (size, found, shared) = filter(Some(parts.map(f64::recip)));
        assert_eq!(shared, weights);
        let volume = parts.iter().product::<f64>();
        for pair in 0..16 {
            for tap in 0..125 {
                let place = [tap % 5, tap / 5 % 5, tap / 25];
                let at = |axis: usize| size / 2 + [x, y, z][axis] * place[axis];
                let back = |axis: usize| at(axis) - 2 * [x, y, z][axis];
                let tap_there = (back(2) * size + back(1)) * size + back(0);
                let (a, b) =
                    (found[pair * size.pow(3) + tap_there] * volume, own[pair * 125 + tap]);
                assert!((a - b).abs() < 1e-12, "{x} {y} {z}, tap {place:?}: {a} {b}");
            }
        }
    }
    let config = RadialConvConfig {
        spacing: Some([1.0, 9.0, 1.0]),
        ..RadialConvConfig::new(&irreps, &irreps)
    };
    let mut params = Params::new(5, DType::F64, &Device::Cpu);
    let error = RadialConv3d::new(params.pp("r"), config).unwrap_err();
    assert!(matches!(error, NnError::Kernel(_)), "{error}");
}

#[test]
fn settings_out_of_range_are_named() {
    let irreps: Irreps = "1x0".parse().unwrap();
    let mut params = Params::new(0, DType::F32, &Device::Cpu);
    let mut new = |size, functions, hidden| {
        let perceptron = RadialPerceptron { functions, hidden };
        let config =
            RadialConvConfig { size, perceptron, ..RadialConvConfig::new(&irreps, &irreps) };
        RadialConv3d::new(params.pp("radial"), config)
    };
    for (functions, hidden, field) in [(0, 4, "functions"), (4, 0, "hidden"), (1 << 20, 4, "4096")]
    {
        let error = new(5, functions, hidden).unwrap_err().to_string();
        assert!(error.contains(field), "{error}");
    }
    assert!(matches!(new(4, 4, 4), Err(NnError::Kernel(_))));
    let layer = new(3, 4, 4).unwrap();
    let error = layer.forward(&noise(&"1x1".parse().unwrap(), 3)).unwrap_err();
    assert!(matches!(error, NnError::FieldType { .. }), "{error}");
}
