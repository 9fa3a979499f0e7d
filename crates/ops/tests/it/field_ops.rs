use candle_core::{DType, Device, Result, Tensor, Var};
use proptest::prelude::*;
use steer3d_ops::{
    field_affine, field_batch_norm, field_batch_norm_gate, field_dropout, field_instance_norm,
    gate, norm_relu,
};
use steer3d_ranks::Rank;
use steer3d_so3::{Irrep, Irreps, Parity, random_rotations};

use crate::common::{
    check_gradients, check_precision, check_thread_independence, difference, message, normal,
    values,
};

type Op<'a> = Box<dyn Fn(&Tensor) -> Tensor + 'a>;

fn irreps() -> impl Strategy<Value = Irreps> {
    let blocks = || prop::collection::vec((1usize..4, 0usize..4, any::<bool>()), 1..4);
    (blocks(), any::<bool>()).prop_map(|(blocks, with_parity)| {
        let parity = |odd| if odd { Parity::Odd } else { Parity::Even };
        let irrep = |l, odd| {
            if with_parity { Irrep::o3(l, parity(odd)) } else { Irrep::so3(l) }
        };
        Irreps::new(blocks.into_iter().map(|(mul, l, odd)| (mul, irrep(l, odd)))).unwrap()
    })
}

fn sizes() -> impl Strategy<Value = [usize; 4]> {
    [1usize..3, 1..5, 1..5, 1..5]
}

fn shape(irreps: &Irreps, [n, d, h, w]: [usize; 4]) -> [usize; 5] {
    [n, irreps.dim(), d, h, w]
}

/// For each field: first channel, dimension, whether it is invariant.
fn fields(irreps: &Irreps) -> Vec<(usize, usize, bool)> {
    let mut fields = vec![];
    for block in irreps.blocks() {
        let dim = block.irrep.dim();
        let invariant = block.irrep.l == 0 && block.irrep.parity != Some(Parity::Odd);
        fields.extend((0..block.mul).map(|u| (block.offset + u * dim, dim, invariant)));
    }
    fields
}

fn num_scalars(irreps: &Irreps) -> usize {
    fields(irreps).iter().filter(|f| f.2).count()
}

/// Each field by itself: `map(index of field, values[sample][component][voxel])`, joined again.
fn by_field(x: &Tensor, irreps: &Irreps, map: impl Fn(usize, &Tensor) -> Result<Tensor>) -> Tensor {
    let parts: Vec<_> = fields(irreps)
        .iter()
        .enumerate()
        .map(|(i, &(offset, dim, _))| map(i, &x.narrow(1, offset, dim).unwrap()).unwrap())
        .collect();
    Tensor::cat(&parts, 1).unwrap()
}

fn entry(x: &Tensor, i: usize) -> f64 {
    values(x)[i]
}

fn norm(field: &Tensor) -> Result<Tensor> {
    field.sqr()?.sum_keepdim(1)?.sqrt()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn gate_agrees_with_its_definition(
        irreps in irreps(), sizes in sizes(), scalars in 0usize..4, seed in any::<u32>(),
    ) {
        let [n, d, h, w] = sizes;
        let channels = scalars + irreps.num_fields() + irreps.dim();
        let x = normal(seed.into(), &[n, channels, d, h, w]);
        let found = gate(&x, scalars, &irreps).unwrap();
        let gated = x.narrow(1, scalars + irreps.num_fields(), irreps.dim()).unwrap();
        let gated = by_field(&gated, &irreps, |i, field| {
            let open = (x.narrow(1, scalars + i, 1)?.neg()?.exp()? + 1.0)?.recip()?;
            field.broadcast_mul(&open)
        });
        let relu = x.narrow(1, 0, scalars).unwrap().relu().unwrap();
        let expected = Tensor::cat(&[relu, gated], 1).unwrap();
        prop_assert!(difference(&found, &expected) < 1e-14);
        check_gradients(&[x], |a| gate(&a[0], scalars, &irreps));
    }

    #[test]
    fn norm_relu_agrees_with_its_definition(
        irreps in irreps(), sizes in sizes(), seed in any::<u32>(),
    ) {
        let x = normal(seed.into(), &shape(&irreps, sizes));
        let bias = normal(u64::from(seed) + 1, &[irreps.num_fields()]);
        let found = norm_relu(&x, &irreps, &bias).unwrap();
        let expected = by_field(&x, &irreps, |i, field| {
            let norm = norm(field)?;
            let factor = ((&norm + entry(&bias, i))?.relu()? / (&norm + 1e-6)?)?;
            field.broadcast_mul(&factor)
        });
        prop_assert!(difference(&found, &expected) < 1e-14);
    }

    #[test]
    fn instance_norm_is_the_batch_norm_of_each_item_alone(
        irreps in irreps(), sizes in sizes(), seed in any::<u32>(),
    ) {
        let mut shape = shape(&irreps, sizes);
        (shape[0], shape[2]) = (3, shape[2] + 1);
        let x = (normal(seed.into(), &shape) + 2.0).unwrap();
        let weight = normal(u64::from(seed) + 1, &[irreps.num_fields()]);
        let bias = normal(u64::from(seed) + 2, &[num_scalars(&irreps)]);
        let found = field_instance_norm(&x, &irreps, &weight, &bias, 1e-3).unwrap();
        let alone = |n| {
            let item = x.narrow(0, n, 1).unwrap().contiguous().unwrap();
            field_batch_norm(&item, &irreps, &weight, &bias, 1e-3).unwrap().0
        };
        let expected = Tensor::cat(&[alone(0), alone(1), alone(2)], 0).unwrap();
        prop_assert!(difference(&found, &expected) == 0.0);
        check_gradients(&[x, weight, bias], |a| {
            field_instance_norm(&a[0], &irreps, &a[1], &a[2], 1e-3)
        });
    }

    #[test]
    fn batch_norm_gives_fields_of_unit_variance(
        irreps in irreps(), sizes in sizes(), seed in any::<u32>(),
    ) {
        let mut shape = shape(&irreps, sizes);
        shape[2] += 1;
        let x = (normal(seed.into(), &shape) * 3.0).unwrap();
        let x = (x + 5.0).unwrap();
        let weight = Tensor::ones(irreps.num_fields(), DType::F64, &Device::Cpu).unwrap();
        let bias = Tensor::zeros(num_scalars(&irreps), DType::F64, &Device::Cpu).unwrap();
        let (out, mean, var) = field_batch_norm(&x, &irreps, &weight, &bias, 0.0).unwrap();
        let (mut means, vars) = (values(&mean).into_iter(), values(&var));
        for (i, (offset, dim, invariant)) in fields(&irreps).into_iter().enumerate() {
            let before = values(&x.narrow(1, offset, dim).unwrap());
            let after = values(&out.narrow(1, offset, dim).unwrap());
            let average = |v: &[f64]| v.iter().sum::<f64>() / v.len() as f64;
            let square = |v: &[f64]| v.iter().map(|v| v * v).sum::<f64>() / v.len() as f64;
            prop_assert!((square(&after) - 1.0).abs() < 1e-12);
            if invariant {
                let mean = means.next().unwrap();
                prop_assert!((average(&before) - mean).abs() < 1e-12);
                prop_assert!(average(&after).abs() < 1e-12);
                prop_assert!((square(&before) - mean * mean - vars[i]).abs() < 1e-10);
            } else {
                prop_assert!((square(&before) - vars[i]).abs() < 1e-11);
            }
        }
    }

    #[test]
    fn batch_norm_gradients_agree_with_central_differences(
        irreps in irreps(), sizes in sizes(), seed in any::<u32>(),
    ) {
        let x = (normal(seed.into(), &shape(&irreps, sizes)) + 0.5).unwrap();
        let weight = normal(u64::from(seed) + 1, &[irreps.num_fields()]);
        let bias = normal(u64::from(seed) + 2, &[num_scalars(&irreps)]);
        check_gradients(&[x, weight, bias], |a| {
            Ok(field_batch_norm(&a[0], &irreps, &a[1], &a[2], 0.1)?.0)
        });
    }

    #[test]
    fn batch_norm_and_gate_in_one_are_the_two(
        gated in irreps(), with_gates in any::<bool>(), sizes in sizes(), scalars in 1usize..4,
        seed in any::<u32>(),
    ) {
        let parity = if gated.has_parity() { Irrep::o3(0, Parity::Even) } else { Irrep::so3(0) };
        let gated = with_gates.then_some(gated);
        let gates = gated.as_ref().map_or(0, Irreps::num_fields);
        let blocks = gated.iter().flat_map(|g| g.blocks().map(|b| (b.mul, b.irrep)));
        let all = Irreps::new([(scalars + gates, parity)].into_iter().chain(blocks)).unwrap();
        let x = normal(seed.into(), &shape(&all, sizes));
        let weight = normal(u64::from(seed) + 1, &[all.num_fields()]);
        let bias = normal(u64::from(seed) + 2, &[num_scalars(&all)]);
        let arguments = [x, weight, bias].map(|t| Var::from_tensor(&t).unwrap());
        let [x, weight, bias] = &arguments;
        let one =
            field_batch_norm_gate(x, &all, weight, bias, 0.1, scalars, gated.as_ref()).unwrap();
        let (normalised, mean, var) = field_batch_norm(x, &all, weight, bias, 0.1).unwrap();
        let two = match &gated {
            Some(gated) => gate(&normalised, scalars, gated).unwrap(),
            None => normalised.relu().unwrap(),
        };
        prop_assert_eq!(values(&one.0), values(&two));
        prop_assert_eq!((values(&one.1), values(&one.2)), (values(&mean), values(&var)));
        let weighting = normal(u64::from(seed) + 3, two.dims());
        let gradients = |out: &Tensor| {
            let grads = (out * &weighting).unwrap().sum_all().unwrap().backward().unwrap();
            arguments.each_ref().map(|a| values(grads.get(a).unwrap()))
        };
        prop_assert_eq!(gradients(&one.0), gradients(&two));
    }

    #[test]
    fn affine_agrees_with_its_definition(
        irreps in irreps(), sizes in sizes(), seed in any::<u32>(),
    ) {
        let x = normal(seed.into(), &shape(&irreps, sizes));
        let scale = normal(u64::from(seed) + 1, &[irreps.num_fields()]);
        let shift = normal(u64::from(seed) + 2, &[num_scalars(&irreps)]);
        let found = field_affine(&x, &irreps, &scale, &shift).unwrap();
        let expected = by_field(&x, &irreps, |i, field| {
            let fields = fields(&irreps);
            let scalar = fields[..i].iter().filter(|f| f.2).count();
            let shift = if fields[i].2 { entry(&shift, scalar) } else { 0.0 };
            field.affine(entry(&scale, i), shift)
        });
        prop_assert!(difference(&found, &expected) < 1e-14);
        check_gradients(&[x, scale, shift], |a| field_affine(&a[0], &irreps, &a[1], &a[2]));
    }

    #[test]
    fn dropout_multiplies_whole_fields(
        irreps in irreps(), sizes in sizes(), seed in any::<u32>(),
    ) {
        let x = normal(seed.into(), &shape(&irreps, sizes));
        let mask = normal(u64::from(seed) + 1, &[sizes[0], irreps.num_fields()]);
        let found = field_dropout(&x, &irreps, &mask).unwrap();
        let expected = by_field(&x, &irreps, |i, field| {
            field.broadcast_mul(&mask.narrow(1, i, 1)?.reshape((sizes[0], 1, 1, 1, 1))?)
        });
        prop_assert_eq!(values(&found), values(&expected));
        check_gradients(&[x], |a| field_dropout(&a[0], &irreps, &mask));
    }

    #[test]
    fn every_operation_commutes_with_rotation(
        irreps in irreps(), sizes in sizes(), seed in any::<u32>(),
    ) {
        let rotation = &random_rotations(seed.into(), 1)[0];
        let rotate = |x: &Tensor, irreps: &Irreps| {
            let d = irreps.wigner_d(rotation);
            let d = Tensor::from_vec(d.transpose().as_slice().to_vec(), d.shape(), &Device::Cpu);
            let (n, c, ..) = x.dims5().unwrap();
            let flat = x.reshape((n, c, ())).unwrap();
            d.unwrap().broadcast_matmul(&flat).unwrap().reshape(x.shape()).unwrap()
        };
        let x = (normal(seed.into(), &shape(&irreps, sizes)) + 0.5).unwrap();
        let weight = normal(u64::from(seed) + 1, &[irreps.num_fields()]);
        let bias = normal(u64::from(seed) + 2, &[num_scalars(&irreps)]);
        let operations: [Op<'_>; 4] = [
            Box::new(|x| {
                let gates = weight.reshape((1, (), 1, 1, 1)).unwrap();
                let size = [sizes[0], irreps.num_fields(), sizes[1], sizes[2], sizes[3]];
                let gates = gates.broadcast_as(&size).unwrap();
                gate(&Tensor::cat(&[&gates, x], 1).unwrap(), 0, &irreps).unwrap()
            }),
            Box::new(|x| norm_relu(x, &irreps, &weight).unwrap()),
            Box::new(|x| field_batch_norm(x, &irreps, &weight, &bias, 0.1).unwrap().0),
            Box::new(|x| field_affine(x, &irreps, &weight, &bias).unwrap()),
        ];
        for operation in operations {
            let after = rotate(&operation(&x), &irreps);
            let before = operation(&rotate(&x, &irreps));
            // Wigner matrices are orthogonal to 1e-14; variances add up at most 512 terms.
            prop_assert!(difference(&before, &after) < 1e-11);
        }
    }
}

/// Fields whose norms stay away from 0 and from -b, where the nonlinearity has kinks.
fn smooth_field(seed: u64, shape: &[usize]) -> Tensor {
    let x = normal(seed, shape);
    let sign = x.sign().unwrap();
    (x + (sign * 0.5).unwrap()).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn norm_relu_gradients_agree_with_central_differences(
        irreps in irreps(), sizes in sizes(), seed in any::<u32>(),
    ) {
        let x = smooth_field(seed.into(), &shape(&irreps, sizes));
        // Norms are at least 0.5: biases above -0.4 keep all fields on; one far below shuts off.
        let bias = normal(u64::from(seed) + 1, &[irreps.num_fields()]);
        let mut bias: Vec<f64> = values(&bias).iter().map(|b| b.abs() - 0.4).collect();
        bias[0] = -100.0;
        let bias = Tensor::new(bias, &Device::Cpu).unwrap();
        check_gradients(&[x, bias], |a| norm_relu(&a[0], &irreps, &a[1]));
    }
}

#[test]
fn norm_relu_is_finite_at_zero() {
    let irreps: Irreps = "1x0+2x1".parse().unwrap();
    let x = candle_core::Var::zeros((1, 7, 2, 2, 2), DType::F32, &Device::Cpu).unwrap();
    let bias = Tensor::new(&[1.0f32, -1.0, 0.0], &Device::Cpu).unwrap();
    let out = norm_relu(&x, &irreps, &bias).unwrap();
    let gradients = out.sum_all().unwrap().backward().unwrap();
    assert!(values(&out).iter().all(|v| *v == 0.0));
    assert!(values(gradients.get(&x).unwrap()).iter().all(|v| v.is_finite()));
}

#[test]
fn statistics_are_exact_for_a_large_offset() {
    // Mean 1e4, standard deviation 1: squaring before subtracting would lose all digits in f32.
    let irreps: Irreps = "1x0".parse().unwrap();
    let x = normal(1, &[1, 1, 16, 16, 16]);
    let one = Tensor::ones(1, DType::F32, &Device::Cpu).unwrap();
    let shifted = (&x + 1e4).unwrap().to_dtype(DType::F32).unwrap();
    let (out, _, var) =
        field_batch_norm(&shifted, &irreps, &one, &one.zeros_like().unwrap(), 0.0).unwrap();
    let numbers = values(&shifted);
    let mean = numbers.iter().sum::<f64>() / 4096.0;
    let expected = numbers.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / 4096.0;
    assert!((values(&var)[0] / expected - 1.0).abs() < 1e-5);
    // The mean itself is rounded to f32: 1e4 * 6e-8 is 6e-4 of a standard deviation.
    let out = values(&out);
    assert!((out.iter().sum::<f64>() / 4096.0).abs() < 1e-3);
}

fn example() -> (Irreps, Tensor, Tensor, Tensor, Tensor) {
    let irreps: Irreps = "3x0+2x1+1x2".parse().unwrap();
    let x = smooth_field(1, &[2, 14, 9, 10, 11]);
    (irreps, x, normal(2, &[6]), normal(3, &[3]), normal(4, &[2, 6]))
}

#[test]
fn single_precision_follows_double() {
    let (irreps, x, weight, bias, mask) = example();
    let positive = weight.abs().unwrap();
    // Sums of 10 000 terms in blocks of f32 lanes: a few hundred roundings of 6e-8 at most.
    let tolerance = 2e-5;
    let gated: Irreps = "2x1+1x2".parse().unwrap();
    check_precision(std::slice::from_ref(&x), tolerance, |a| gate(&a[0], 0, &gated));
    check_precision(&[x.clone(), positive], tolerance, |a| norm_relu(&a[0], &irreps, &a[1]));
    check_precision(&[x.clone(), weight.clone(), bias.clone()], tolerance, |a| {
        Ok(field_batch_norm(&a[0], &irreps, &a[1], &a[2], 1e-5)?.0)
    });
    check_precision(&[x.clone(), weight, bias], tolerance, |a| {
        field_affine(&a[0], &irreps, &a[1], &a[2])
    });
    check_precision(&[x], tolerance, |a| {
        field_dropout(&a[0], &irreps, &mask.to_dtype(a[0].dtype())?)
    });
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    let (irreps, x, weight, bias, mask) = example();
    check_thread_independence(|| {
        let arguments = [&x, &weight, &bias].map(|a| candle_core::Var::from_tensor(a).unwrap());
        let [x, weight, bias] = arguments.each_ref().map(candle_core::Var::as_tensor);
        let (out, mean, var) = field_batch_norm(x, &irreps, weight, bias, 1e-5).unwrap();
        let out = norm_relu(&out, &irreps, weight).unwrap();
        let out = field_dropout(&out, &irreps, &mask).unwrap();
        let out = field_affine(&out, &irreps, weight, bias).unwrap();
        let gradients = out.sqr().unwrap().sum_all().unwrap().backward().unwrap();
        let mut results = vec![out, mean, var];
        results.extend(arguments.iter().map(|a| gradients.get(a).unwrap().clone()));
        results
    });
}

#[test]
fn strided_views_give_the_same_as_copies() {
    let (irreps, x, weight, bias, mask) = example();
    let view = x.permute((0, 1, 4, 3, 2)).unwrap();
    let copy = view.contiguous().unwrap();
    let gated: Irreps = "2x1+1x2".parse().unwrap();
    let run = |x: &Tensor| {
        let (normed, ..) = field_batch_norm(x, &irreps, &weight, &bias, 1e-5).unwrap();
        let results = [
            gate(x, 0, &gated).unwrap(),
            norm_relu(x, &irreps, &weight).unwrap(),
            normed,
            field_affine(x, &irreps, &weight, &bias).unwrap(),
            field_dropout(x, &irreps, &mask).unwrap(),
        ];
        results.iter().map(values).collect::<Vec<_>>()
    };
    assert!(!view.is_contiguous());
    assert_eq!(run(&view), run(&copy));
}

#[test]
fn wrong_arguments_are_named() {
    let (irreps, x, weight, bias, mask) = example();
    let fewer = x.narrow(1, 0, 13).unwrap();
    let found = message(norm_relu(&fewer, &irreps, &weight));
    assert!(found.contains("norm_relu: expected 14 channels for irreps 3x0+2x1+1x2, got 13"));
    let found = message(norm_relu(&x, &irreps, &bias));
    assert!(found.contains("norm_relu: wrong shape of bias, expected: [6], got: [3]"));
    let found = message(field_batch_norm(&x, &irreps, &weight, &weight, 1e-5));
    assert!(found.contains("field_batch_norm: wrong shape of bias, expected: [3], got: [6]"));
    let found = message(field_batch_norm(&x, &irreps, &weight, &bias, f64::NAN));
    assert!(found.contains("expected a finite eps of at least 0, got NaN"));
    let found = message(field_affine(&x, &irreps, &bias, &bias));
    assert!(found.contains("field_affine: wrong shape of scale, expected: [6], got: [3]"));
    let found = message(field_dropout(&x, &irreps, &mask.t().unwrap()));
    assert!(found.contains("field_dropout: wrong shape of mask, expected: [2, 6], got: [6, 2]"));
    let found = message(gate(&x, 1, &irreps));
    assert!(found.contains("gate: expected 21 channels (1 scalars, 6 gates, 14 of 3x0+2x1+1x2)"));
    let single = weight.to_dtype(DType::F32).unwrap();
    assert!(message(norm_relu(&x, &irreps, &single)).contains("dtype mismatch in norm_relu"));
}

/// Parts of a batch on threads of their own, of one, two and one item.
#[test]
fn batch_norm_of_several_ranks_is_that_of_the_whole_batch() {
    let irreps: Irreps = "3x0+2x1+1x2".parse().unwrap();
    let x = smooth_field(1, &[4, 14, 5, 6, 7]);
    let (weight, bias) = (normal(2, &[6]), normal(3, &[3]));
    let gated: Irreps = "1x1".parse().unwrap();
    let run = |x: &Tensor, weighting: &Tensor, with_gate: bool| -> Vec<Tensor> {
        let vars = [x, &weight, &bias].map(|a| Var::from_tensor(a).unwrap());
        let [x, weight, bias] = vars.each_ref().map(Var::as_tensor);
        let (out, mean, var) = if with_gate {
            let irreps: Irreps = "3x0+1x1".parse().unwrap();
            let weight = weight.narrow(0, 0, 4).unwrap();
            let x = x.narrow(1, 0, 6).unwrap();
            field_batch_norm_gate(&x, &irreps, &weight, bias, 1e-5, 2, Some(&gated)).unwrap()
        } else {
            field_batch_norm(x, &irreps, weight, bias, 1e-5).unwrap()
        };
        let weighting = weighting.narrow(1, 0, out.dim(1).unwrap()).unwrap();
        let grads = (&out * weighting).unwrap().sum_all().unwrap().backward().unwrap();
        let grads = vars.iter().map(|v| grads.get(v).unwrap().clone());
        [out, mean, var].into_iter().chain(grads).collect()
    };
    let weighting = normal(4, x.dims());
    for with_gate in [false, true] {
        let whole = run(&x, &weighting, with_gate);
        let ranks = Rank::threads(3).into_iter().zip([(0, 1), (1, 2), (3, 1)]);
        let parts: Vec<Vec<Tensor>> = std::thread::scope(|scope| {
            let part = |(rank, (start, len)): (Rank, (usize, usize))| {
                let [x, weighting] = [&x, &weighting].map(|t| t.narrow(0, start, len).unwrap());
                let run = &run;
                scope.spawn(move || rank.run(|| Ok::<_, ()>(run(&x, &weighting, with_gate))))
            };
            let threads: Vec<_> = ranks.map(part).collect();
            threads.into_iter().map(|t| t.join().unwrap().unwrap()).collect()
        });
        for (i, whole) in whole.iter().enumerate() {
            let of_parts: Vec<&Tensor> = parts.iter().map(|part| &part[i]).collect();
            let found = match i {
                // Outputs and input gradients are beside one another, weight gradients add up.
                0 | 3 => Tensor::cat(&of_parts, 0).unwrap(),
                1 | 2 => of_parts[1].clone(),
                _ => (of_parts[0] + of_parts[1] + of_parts[2]).unwrap(),
            };
            assert!(difference(&found, whole) < 1e-11, "result {i}");
        }
    }
}
