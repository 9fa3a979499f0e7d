use candle_core::{DType, Device, Result, Tensor, Var};
use steer3d_so3::Stream;

/// A tensor of standard normal numbers in f64.
pub(crate) fn normal(seed: u64, shape: &[usize]) -> Tensor {
    let mut stream = Stream::new(seed, "test", &[]);
    let values: Vec<f64> = (0..shape.iter().product()).map(|_| stream.normal()).collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

/// A tensor whose elements are distinct and at least `2 / count` apart, in random order, so that no
/// small step changes which one is the largest.
pub(crate) fn distinct(seed: u64, shape: &[usize]) -> Tensor {
    let count: usize = shape.iter().product();
    let order = Stream::new(seed, "test", &[]).permutation(count);
    let values: Vec<f64> =
        order.into_iter().map(|i| (2.0 * i as f64 + 1.0) / count as f64 - 1.0).collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

pub(crate) fn values(x: &Tensor) -> Vec<f64> {
    x.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

/// Largest difference of two tensors of the same shape.
pub(crate) fn difference(a: &Tensor, b: &Tensor) -> f64 {
    assert_eq!(a.dims(), b.dims());
    values(a).iter().zip(values(b)).fold(0.0, |m: f64, (a, b)| m.max((a - b).abs()))
}

/// Largest difference of two tensors of the same shape over the largest element of the second.
pub(crate) fn relative_difference(a: &Tensor, b: &Tensor) -> f64 {
    difference(a, b) / values(b).iter().fold(f64::MIN_POSITIVE, |m, v| m.max(v.abs()))
}

/// The error message of a call that must fail.
pub(crate) fn message<T>(result: Result<T>) -> String {
    match result {
        Ok(_) => panic!("the call succeeded"),
        Err(error) => error.to_string(),
    }
}

/// Compares the gradients of `f` with central differences, for a random weighting of the output,
/// at up to 40 elements of each argument.
///
/// The step is 1e-5: the truncation error is of order 1e-10 and the rounding error of order 1e-11
/// for arguments and outputs of order 1, so 1e-7 of the largest gradient is a safe bound, and far
/// below any wrong term.
pub(crate) fn check_gradients(arguments: &[Tensor], f: impl Fn(&[Tensor]) -> Result<Tensor>) {
    let step = 1e-5;
    let vars: Vec<Var> = arguments.iter().map(|a| Var::from_tensor(a).unwrap()).collect();
    let tensors: Vec<Tensor> = vars.iter().map(|v| v.as_tensor().clone()).collect();
    let out = f(&tensors).unwrap();
    let weighting = normal(99, out.dims());
    let weigh = |out: &Tensor| (out * &weighting).unwrap().sum_all().unwrap();
    let gradients = weigh(&out).backward().unwrap();
    for (a, argument) in arguments.iter().enumerate() {
        if argument.elem_count() == 0 {
            continue;
        }
        let gradient = values(gradients.get(&vars[a]).expect("a gradient for every argument"));
        let scale = gradient.iter().fold(1.0, |m: f64, g| m.max(g.abs()));
        let at = |index: usize, delta: f64| {
            let mut shifted = values(argument);
            shifted[index] += delta;
            let mut arguments = arguments.to_vec();
            arguments[a] = Tensor::from_vec(shifted, argument.shape(), &Device::Cpu).unwrap();
            weigh(&f(&arguments).unwrap()).to_scalar::<f64>().unwrap()
        };
        for index in (0..argument.elem_count()).step_by(argument.elem_count().div_ceil(40)) {
            let difference = (at(index, step) - at(index, -step)) / (2.0 * step);
            assert!(
                (difference - gradient[index]).abs() <= 1e-7 * scale,
                "argument {a}, element {index}: gradient {}, difference {difference}",
                gradient[index]
            );
        }
    }
}

/// Runs `f` on rayon pools of one and of three threads and checks that all results are equal bit by
/// bit.
pub(crate) fn check_thread_independence(f: impl Fn() -> Vec<Tensor> + Sync) {
    let run = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| f().iter().map(values).collect::<Vec<_>>())
    };
    assert_eq!(run(1), run(3));
}

/// Output and gradients of all arguments, for a random weighting of the output, differ between f32
/// and f64 by at most `tolerance` of the largest element, and between bf16 and f64 by 3 %.
pub(crate) fn check_precision(
    arguments: &[Tensor],
    tolerance: f64,
    f: impl Fn(&[Tensor]) -> Result<Tensor>,
) {
    // `held` is the type whose numbers the arguments are.
    let run = |held, dtype| {
        let argument = |a: &Tensor| a.to_dtype(held).unwrap().to_dtype(dtype).unwrap();
        let vars: Vec<Var> =
            arguments.iter().map(|a| Var::from_tensor(&argument(a)).unwrap()).collect();
        let tensors: Vec<Tensor> = vars.iter().map(|v| v.as_tensor().clone()).collect();
        let out = f(&tensors).unwrap();
        assert_eq!(out.dtype(), dtype);
        let weighting = normal(99, out.dims()).to_dtype(dtype).unwrap();
        let gradients = (&out * weighting).unwrap().sum_all().unwrap().backward().unwrap();
        let mut results = vec![out];
        results.extend(vars.iter().map(|v| gradients.get(v).unwrap().clone()));
        results
    };
    let compare = |dtype, held, tolerance| {
        for (found, double) in run(held, dtype).iter().zip(run(held, DType::F64)) {
            let difference = relative_difference(found, &double);
            assert!(difference <= tolerance, "{dtype:?} and f64 differ by {difference}");
        }
    };
    compare(DType::F32, DType::F64, tolerance);
    compare(DType::BF16, DType::BF16, 3e-2);
}

#[test]
#[should_panic(expected = "argument 0, element 0: gradient")]
fn a_gradient_with_a_missing_term_is_found() {
    check_gradients(&[normal(1, &[1, 1, 2, 2, 2])], |a| &a[0] * a[0].detach());
}
