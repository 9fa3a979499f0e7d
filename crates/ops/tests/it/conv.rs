use candle_core::{Device, Result, Tensor, Var};
use proptest::prelude::*;
use steer3d_ops::{Conv3dConfig, conv3d};

use crate::common::{
    check_gradients, check_precision, check_thread_independence, difference, message, normal,
    relative_difference, values,
};

/// The defining sum, element by element.
fn direct(x: &Tensor, w: &Tensor, bias: Option<&Tensor>, config: &Conv3dConfig) -> Tensor {
    let (n, ci, d, h, wd) = x.dims5().unwrap();
    let (co, _, kd, kh, kw) = w.dims5().unwrap();
    let (x, w, bias) = (values(x), values(w), bias.map(values));
    let size = [d, h, wd];
    let kernel = [kd, kh, kw];
    let out: Vec<usize> = (0..3)
        .map(|a| (size[a] + 2 * config.padding[a] - kernel[a]) / config.stride[a] + 1)
        .collect();
    let input = |n: usize, c: usize, p: [isize; 3]| {
        let inside = (0..3).all(|a| (0..size[a] as isize).contains(&p[a]));
        let [z, y, xx] = p.map(|p| p as usize);
        if inside { x[(((n * ci + c) * d + z) * h + y) * wd + xx] } else { 0.0 }
    };
    let mut result = vec![];
    for n in 0..n {
        for o in 0..co {
            for voxel in 0..out.iter().product() {
                let at = [voxel / out[2] / out[1], voxel / out[2] % out[1], voxel % out[2]];
                let mut total = bias.as_ref().map_or(0.0, |b| b[o]);
                for c in 0..ci {
                    for tap in 0..kd * kh * kw {
                        let t = [tap / kw / kh, tap / kw % kh, tap % kw];
                        let p = [0, 1, 2].map(|a| {
                            (at[a] * config.stride[a] + t[a]) as isize - config.padding[a] as isize
                        });
                        total += w[(o * ci + c) * kd * kh * kw + tap] * input(n, c, p);
                    }
                }
                result.push(total);
            }
        }
    }
    Tensor::from_vec(result, (n, co, out[0], out[1], out[2]), &Device::Cpu).unwrap()
}

#[derive(Debug, Clone)]
struct Case {
    batch: usize,
    c_in: usize,
    c_out: usize,
    size: [usize; 3],
    kernel: [usize; 3],
    config: Conv3dConfig,
    seed: u64,
}

impl Case {
    fn arguments(&self) -> Vec<Tensor> {
        let ([d, h, w], [kd, kh, kw]) = (self.size, self.kernel);
        vec![
            normal(self.seed, &[self.batch, self.c_in, d, h, w]),
            normal(self.seed + 1, &[self.c_out, self.c_in, kd, kh, kw]),
            normal(self.seed + 2, &[self.c_out]),
        ]
    }

    fn run(&self, arguments: &[Tensor]) -> Result<Tensor> {
        conv3d(&arguments[0], &arguments[1], Some(&arguments[2]), &self.config)
    }
}

/// Sizes, anisotropic kernels (also larger than the volume), strides and paddings for which at
/// least one output voxel exists.
fn case() -> impl Strategy<Value = Case> {
    let axis = || {
        (1usize..8, 1usize..6, 1usize..4, 0usize..4).prop_map(|(size, kernel, stride, padding)| {
            (size, kernel, stride, padding.max(kernel.saturating_sub(size).div_ceil(2)))
        })
    };
    (1usize..3, 1usize..12, 1usize..5, [axis(), axis(), axis()], any::<u32>()).prop_map(
        |(batch, c_in, c_out, axes, seed)| Case {
            batch,
            c_in,
            c_out,
            size: axes.map(|a| a.0),
            kernel: axes.map(|a| a.1),
            config: Conv3dConfig { stride: axes.map(|a| a.2), padding: axes.map(|a| a.3) },
            seed: seed.into(),
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn agrees_with_the_defining_sum(case in case()) {
        let a = case.arguments();
        for bias in [None, Some(&a[2])] {
            let expected = direct(&a[0], &a[1], bias, &case.config);
            let found = conv3d(&a[0], &a[1], bias, &case.config).unwrap();
            // At most 11 * 125 products of order 1, added up to 1e2 in sums rounded to 1e-14.
            prop_assert!(difference(&found, &expected) < 1e-12);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn gradients_agree_with_central_differences(case in case()) {
        check_gradients(&case.arguments(), |a| case.run(a));
    }
}

/// Large enough for several tiles, panels and tasks: more than 240 voxels and 273 rows.
fn large(stride: usize) -> Case {
    Case {
        batch: 2,
        c_in: 9,
        c_out: 5,
        size: [9, 10, 11],
        kernel: [3, 5, 3],
        config: Conv3dConfig { stride: [stride; 3], padding: [1, 2, 1] },
        seed: 3,
    }
}

#[test]
fn several_tiles_agree_with_the_defining_sum() {
    for case in [large(1), Case { size: [20, 19, 18], ..large(2) }] {
        let a = case.arguments();
        let expected = direct(&a[0], &a[1], Some(&a[2]), &case.config);
        assert!(relative_difference(&case.run(&a).unwrap(), &expected) < 1e-13);
        check_gradients(&a, |a| case.run(a));
    }
}

#[test]
fn one_by_one_by_one_agrees_with_the_defining_sum() {
    let case = Case { kernel: [1; 3], config: Conv3dConfig::default(), ..large(1) };
    let a = case.arguments();
    let expected = direct(&a[0], &a[1], Some(&a[2]), &case.config);
    assert!(relative_difference(&case.run(&a).unwrap(), &expected) < 1e-13);
    check_gradients(&a, |a| case.run(a));
}

#[test]
fn single_precision_follows_double() {
    // Sums of 405 (output), 2000 (weight gradient) products of order 1: rounding errors of order
    // sqrt(2000) 6e-8 relative to the largest.
    for stride in [1, 2] {
        check_precision(&large(stride).arguments(), 5e-6, |a| large(stride).run(a));
    }
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    for stride in [1, 2] {
        let case = large(stride);
        check_thread_independence(|| {
            let vars: Vec<_> =
                case.arguments().iter().map(|a| Var::from_tensor(a).unwrap()).collect();
            let tensors: Vec<_> = vars.iter().map(|v| v.as_tensor().clone()).collect();
            let out = case.run(&tensors).unwrap();
            let gradients = out.sqr().unwrap().sum_all().unwrap().backward().unwrap();
            let mut results = vec![out];
            results.extend(vars.iter().map(|v| gradients.get(v).unwrap().clone()));
            results
        });
    }
}

#[test]
fn strided_views_give_the_same_as_copies() {
    let (x, w) = (normal(1, &[5, 2, 4, 3, 6]), normal(2, &[2, 3, 3, 4, 3]));
    let (x, w) = (x.permute((1, 2, 4, 0, 3)).unwrap(), w.transpose(0, 3).unwrap());
    let config = Conv3dConfig::same(3);
    let w = w.narrow(1, 0, 3).unwrap().permute((0, 1, 2, 4, 3)).unwrap();
    let w = Tensor::cat(&[&w, &w], 1).unwrap().narrow(1, 1, 4).unwrap();
    assert!(!x.is_contiguous() && !w.is_contiguous());
    let out = conv3d(&x, &w, None, &config).unwrap();
    let copied = conv3d(&x.contiguous().unwrap(), &w.contiguous().unwrap(), None, &config).unwrap();
    assert_eq!(values(&out), values(&copied));
    check_gradients(&[normal(1, &[5, 2, 4, 3, 6])], |a| {
        let out = conv3d(&a[0].permute((1, 2, 4, 0, 3))?, &w, None, &config)?;
        out.transpose(0, 1)
    });
}

#[test]
fn gradients_that_nobody_needs_are_left_out() {
    let (x, w) =
        (normal(1, &[1, 2, 4, 4, 4]), Var::from_tensor(&normal(2, &[3, 2, 3, 3, 3])).unwrap());
    let out = conv3d(&x, &w, None, &Conv3dConfig::same(3)).unwrap();
    let gradients = out.sum_all().unwrap().backward().unwrap();
    assert!(gradients.get(&x).is_none());
    assert!(gradients.get(&w).is_some());
}

#[test]
fn wrong_arguments_are_named() {
    let config = Conv3dConfig::default();
    let (x, w) = (normal(1, &[1, 2, 4, 4, 4]), normal(2, &[3, 2, 3, 3, 3]));
    let run = |x: &Tensor, w: &Tensor, config: &Conv3dConfig| message(conv3d(x, w, None, config));
    let flat = x.flatten_to(1).unwrap();
    assert!(run(&flat, &w, &config).contains("conv3d: expected a tensor N,C,D,H,W of rank 5"));
    let found = run(&x, &normal(2, &[3, 1, 3, 3, 3]), &config);
    assert!(
        found.contains("conv3d: wrong shape of w, expected: [3, 2, 3, 3, 3], got: [3, 1, 3, 3, 3]")
    );
    let large = normal(2, &[3, 2, 3, 5, 3]);
    assert!(
        run(&x, &large, &config).contains("kernel [3, 5, 3] is larger than the input [4, 4, 4]")
    );
    assert!(run(&x, &w, &Conv3dConfig::new(0, 0)).contains("expected a stride of at least 1"));
    assert!(
        run(&x, &w, &Conv3dConfig::new(1, usize::MAX)).contains("expected a padding of at most")
    );
    let empty = x.narrow(2, 0, 0).unwrap();
    assert!(run(&empty, &w, &config).contains("expected sizes of at least 1, got [1, 2, 0, 4, 4]"));
    let single = w.to_dtype(candle_core::DType::F32).unwrap();
    assert!(run(&x, &single, &config).contains("dtype mismatch in conv3d"));
    let half = |x: &Tensor| x.to_dtype(candle_core::DType::F16).unwrap();
    assert!(run(&half(&x), &half(&w), &config).contains("unsupported dtype F16 for op conv3d"));
    let bias = normal(1, &[4]);
    let found = message(conv3d(&x, &w, Some(&bias), &config));
    assert!(found.contains("wrong shape of bias, expected: [3], got: [4]"));
}
