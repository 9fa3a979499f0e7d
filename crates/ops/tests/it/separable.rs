use candle_core::{DType, Device, Result, Tensor, Var};
use proptest::prelude::*;
use steer3d_kernels::{Family, KernelBasis, SeparablePlan};
use steer3d_ops::{Boundary, Conv3dConfig, Separable, conv3d, separable_conv3d};
use steer3d_so3::Irreps;

use crate::common::{
    check_gradients, check_thread_independence, difference, message, normal, relative_difference,
    values,
};

#[derive(Debug, Clone)]
struct Case {
    irreps_in: String,
    irreps_out: String,
    size: usize,
    order: usize,
    voxel: [f64; 3],
    batch: usize,
    dims: [usize; 3],
    stride: usize,
    boundary: Boundary,
    seed: u64,
}

impl Case {
    fn basis(&self) -> KernelBasis {
        let irreps = |text: &str| text.parse::<Irreps>().unwrap();
        let (i, o) = (irreps(&self.irreps_in), irreps(&self.irreps_out));
        KernelBasis::new(&i, &o, self.size, &Family::jets(self.order), self.voxel).unwrap()
    }

    fn separable(&self) -> Separable {
        let plan = SeparablePlan::new(&self.basis(), &Family::jets(self.order)).unwrap();
        Separable::new(plan.unwrap()).unwrap()
    }

    /// Input, weights and bias.
    fn arguments(&self) -> Vec<Tensor> {
        let basis = self.basis();
        let [d, h, w] = self.dims;
        vec![
            normal(self.seed, &[self.batch, basis.irreps_in().dim(), d, h, w]),
            normal(self.seed + 1, &[basis.num_weights()]),
            normal(self.seed + 2, &[basis.irreps_out().dim()]),
        ]
    }

    fn run(&self, a: &[Tensor]) -> Result<Tensor> {
        separable_conv3d(&a[0], &a[1], Some(&a[2]), &self.separable(), self.stride, self.boundary)
    }

    /// The same by a dense filter, differentiable in the filter.
    fn dense(&self, x: &Tensor, filter: &Tensor, bias: &Tensor) -> Result<Tensor> {
        match self.boundary {
            Boundary::Zero => {
                let config = Conv3dConfig::new(self.stride, self.size / 2);
                conv3d(x, filter, Some(bias), &config)
            }
            Boundary::Circular => {
                let mut x = x.clone();
                for axis in 2..5 {
                    let (n, half) = (x.dim(axis)?, (self.size / 2) as i64);
                    let index: Vec<u32> =
                        (-half..n as i64 + half).map(|i| i.rem_euclid(n as i64) as u32).collect();
                    x = x.index_select(&Tensor::new(index, x.device())?, axis)?;
                }
                conv3d(&x, filter, Some(bias), &Conv3dConfig::new(self.stride, 0))
            }
        }
    }

    fn filter(&self, w: &Tensor) -> Tensor {
        let basis = self.basis();
        let (i, o, k) = (basis.irreps_in().dim(), basis.irreps_out().dim(), self.size);
        let filter = basis.expand(&values(w)).unwrap();
        Tensor::from_vec(filter, (o, i, k, k, k), &Device::Cpu).unwrap()
    }

    /// Largest relative differences of the output and the gradients of x, w and bias from those of
    /// the dense filter in f64.
    fn differences(&self, dtype: DType) -> Vec<f64> {
        let a = self.arguments();
        let filter = self.filter(&a[1]);
        let vars = |tensors: &[&Tensor], dtype| -> Vec<Var> {
            tensors.iter().map(|t| Var::from_tensor(&t.to_dtype(dtype).unwrap()).unwrap()).collect()
        };
        let dense = vars(&[&a[0], &filter, &a[2]], DType::F64);
        let expected = self.dense(&dense[0], &dense[1], &dense[2]).unwrap();
        let ours = vars(&[&a[0], &a[1], &a[2]], dtype);
        let tensors: Vec<Tensor> = ours.iter().map(|v| v.as_tensor().clone()).collect();
        let found = self.run(&tensors).unwrap();
        let weighting = normal(99, expected.dims());
        let gradients = |out: &Tensor| {
            let weighting = weighting.to_dtype(out.dtype()).unwrap();
            (out * weighting).unwrap().sum_all().unwrap().backward().unwrap()
        };
        let (of_dense, of_ours) = (gradients(&expected), gradients(&found));
        let of_filter = values(of_dense.get(&dense[1]).unwrap());
        let of_weights = self.basis().expand_adjoint(&of_filter).unwrap();
        let count = of_weights.len();
        let of_weights = Tensor::from_vec(of_weights, count, &Device::Cpu).unwrap();
        let of = |i: usize| of_ours.get(&ours[i]).unwrap();
        // What is 0 but for rounding, such as an odd kernel on a circle of one voxel, has no scale of its own.
        let relative = |a: &Tensor, b: &Tensor| {
            difference(a, b) / values(b).iter().fold(1e-3, |most: f64, v| most.max(v.abs()))
        };
        vec![
            relative(&found, &expected),
            relative(of(0), of_dense.get(&dense[0]).unwrap()),
            relative(of(1), &of_weights),
            relative(of(2), of_dense.get(&dense[2]).unwrap()),
        ]
    }
}

fn irreps() -> impl Strategy<Value = String> {
    prop::collection::vec((1usize..4, 0usize..5), 1..4).prop_map(|blocks| {
        blocks.iter().map(|(mul, l)| format!("{mul}x{l}")).collect::<Vec<_>>().join("+")
    })
}

fn case() -> impl Strategy<Value = Case> {
    let kernel = prop_oneof![Just(3usize), Just(5), Just(7), Just(9), Just(11), Just(13)]
        .prop_flat_map(|k| (Just(k), 1..k.min(7)));
    let dims = [1usize..12, 1usize..12, 1usize..20];
    let voxel = prop_oneof![Just([1.0; 3]), Just([1.0, 1.3, 2.0])];
    let boundary = prop_oneof![Just(Boundary::Zero), Just(Boundary::Circular)];
    (irreps(), irreps(), kernel, voxel, (1usize..3, dims), 1usize..4, boundary, 0u64..1000)
        .prop_map(
            |(
                irreps_in,
                irreps_out,
                (size, order),
                voxel,
                (batch, dims),
                stride,
                boundary,
                seed,
            )| {
                Case {
                    irreps_in,
                    irreps_out,
                    size,
                    order,
                    voxel,
                    batch,
                    dims,
                    stride,
                    boundary,
                    seed,
                }
            },
        )
        // Some pairs of irreps have no path of such a low order.
        .prop_filter("no kernel", |case| case.basis().num_weights() > 0)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn agrees_with_the_dense_filter(case in case()) {
        for difference in case.differences(DType::F64) {
            prop_assert!(difference < 1e-12, "{difference}");
        }
        for difference in case.differences(DType::F32) {
            prop_assert!(difference < 1e-5, "{difference}");
        }
    }
}

fn typical() -> Case {
    Case {
        irreps_in: "3x0+2x1+1x2".into(),
        irreps_out: "2x0+2x1+2x2".into(),
        size: 5,
        order: 3,
        voxel: [1.0; 3],
        batch: 2,
        dims: [7, 6, 9],
        stride: 1,
        boundary: Boundary::Zero,
        seed: 3,
    }
}

/// More copies than are kept at once, and several tiles along each axis.
fn large() -> Case {
    Case {
        irreps_in: "11x0+9x1+7x2".into(),
        irreps_out: "10x0+6x1+5x2".into(),
        dims: [13, 17, 70],
        batch: 1,
        ..typical()
    }
}

#[test]
fn many_tiles_and_copies_agree_with_the_dense_filter() {
    for (dtype, tolerance) in [(DType::F64, 1e-12), (DType::F32, 1e-5)] {
        for difference in large().differences(dtype) {
            assert!(difference < tolerance, "{dtype:?}: {difference}");
        }
    }
}

#[test]
fn gradients_agree_with_central_differences() {
    for stride in [1, 2] {
        for boundary in [Boundary::Zero, Boundary::Circular] {
            let case = Case { stride, boundary, ..typical() };
            check_gradients(&case.arguments(), |a| case.run(a));
        }
    }
}

#[test]
fn parities_are_kept() {
    let case = Case {
        irreps_in: "2x0e+1x1o+1x1e".into(),
        irreps_out: "1x0o+2x1o+1x2e".into(),
        ..typical()
    };
    for difference in case.differences(DType::F64) {
        assert!(difference < 1e-12, "{difference}");
    }
}

#[test]
fn the_weight_gradient_alone_is_the_same() {
    let case = Case { stride: 2, ..typical() };
    let a = case.arguments();
    let of_weights = |x: &Tensor| {
        let w = Var::from_tensor(&a[1]).unwrap();
        let out = case.run(&[x.clone(), w.as_tensor().clone(), a[2].clone()]).unwrap();
        out.sqr().unwrap().backward().unwrap().get(&w).unwrap().clone()
    };
    let tracked = Var::from_tensor(&a[0]).unwrap();
    assert!(relative_difference(&of_weights(&a[0]), &of_weights(&tracked)) < 1e-13);
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    let case = large();
    let a: Vec<Tensor> = case.arguments().iter().map(|t| t.to_dtype(DType::F32).unwrap()).collect();
    check_thread_independence(|| {
        let vars: Vec<Var> = a.iter().map(|t| Var::from_tensor(t).unwrap()).collect();
        let tensors: Vec<Tensor> = vars.iter().map(|v| v.as_tensor().clone()).collect();
        let out = case.run(&tensors).unwrap();
        let gradients = out.sqr().unwrap().backward().unwrap();
        let mut all = vec![out];
        all.extend(vars.iter().map(|v| gradients.get(v).unwrap().clone()));
        all
    });
}

#[test]
fn a_view_is_read_as_it_is() {
    let case = typical();
    let a = case.arguments();
    let turned = a[0].transpose(2, 4).unwrap();
    let copied = turned.contiguous().unwrap();
    let run = |x: &Tensor| case.run(&[x.clone(), a[1].clone(), a[2].clone()]).unwrap();
    assert_eq!(values(&run(&turned)), values(&run(&copied)));
}

#[test]
fn wrong_arguments_are_named() {
    let case = typical();
    let a = case.arguments();
    let kernel = case.separable();
    let call = |x: &Tensor, w: &Tensor, bias: Option<&Tensor>, stride| {
        message(separable_conv3d(x, w, bias, &kernel, stride, Boundary::Zero))
    };
    assert!(
        call(&normal(0, &[1, 3, 4, 4, 4]), &a[1], None, 1).contains("expected 14 channels, got 3")
    );
    assert!(call(&a[0], &normal(0, &[5]), None, 1).contains("wrong shape of w"));
    assert!(call(&a[0], &a[1], Some(&normal(0, &[5])), 1).contains("wrong shape of bias"));
    assert!(call(&a[0], &a[1], None, 0).contains("stride"));
    let single = a[1].to_dtype(DType::F32).unwrap();
    assert!(call(&a[0], &single, None, 1).contains("dtype mismatch"));
    let big = Case { size: 15, ..case };
    let plan = SeparablePlan::new(&big.basis(), &Family::jets(3)).unwrap().unwrap();
    assert!(message(Separable::new(plan)).contains("at most 13, got 15"));
    let shells = KernelBasis::new(
        &"1x0".parse().unwrap(),
        &"1x0".parse().unwrap(),
        5,
        &Family::shells(),
        [1.0; 3],
    );
    assert_eq!(SeparablePlan::new(&shells.unwrap(), &Family::shells()).unwrap(), None);
}
