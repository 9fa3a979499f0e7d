use candle_core::{Device, Tensor};
use proptest::prelude::*;
use steer3d_ops::{avg_pool3d, gaussian_pool3d, global_avg_pool, max_pool3d};

use crate::common::{
    check_gradients, check_precision, check_thread_independence, difference, distinct, message,
    normal, relative_difference, values,
};

/// `combine` applied to the values inside each window, in z,y,x order.
fn direct(x: &Tensor, pool: [usize; 3], combine: impl Fn(&[f64]) -> f64) -> Tensor {
    let [kernel, stride, padding] = pool;
    let (n, c, d, h, w) = x.dims5().unwrap();
    let data = values(x);
    let out = [d, h, w].map(|n| (n + 2 * padding - kernel) / stride + 1);
    let inside = |o: usize, n: usize| {
        let range = o * stride..o * stride + kernel;
        range.filter_map(move |p| p.checked_sub(padding)).filter(move |&p| p < n)
    };
    let mut result = vec![];
    for channel in data.chunks(d * h * w).take(n * c) {
        for voxel in 0..out.iter().product() {
            let at = [voxel / out[2] / out[1], voxel / out[2] % out[1], voxel % out[2]];
            let mut window = vec![];
            for z in inside(at[0], d) {
                for y in inside(at[1], h) {
                    window.extend(inside(at[2], w).map(|x| channel[(z * h + y) * w + x]));
                }
            }
            result.push(combine(&window));
        }
    }
    Tensor::from_vec(result, (n, c, out[0], out[1], out[2]), &Device::Cpu).unwrap()
}

/// Shape N,C,D,H,W and kernel, stride, padding with at least one window.
fn case() -> impl Strategy<Value = (Vec<usize>, [usize; 3], u64)> {
    (1usize..5, 1usize..4, 0usize..3, [1usize..3, 1..4, 1..8, 1..8, 1..8], any::<u32>()).prop_map(
        |(kernel, stride, padding, shape, seed)| {
            let padding = padding.min(kernel / 2);
            let mut shape = shape.to_vec();
            shape[2..].iter_mut().for_each(|n| *n = (*n).max(kernel - 2 * padding));
            (shape, [kernel, stride, padding], u64::from(seed))
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn windows_agree_with_their_definition((shape, pool, seed) in case()) {
        let [kernel, stride, padding] = pool;
        let x = normal(seed, &shape);
        let largest = direct(&x, pool, |w| w.iter().copied().fold(f64::NEG_INFINITY, f64::max));
        prop_assert_eq!(values(&max_pool3d(&x, kernel, stride, padding).unwrap()), values(&largest));
        let mean = direct(&x, pool, |w| w.iter().sum::<f64>() / kernel.pow(3) as f64);
        let found = avg_pool3d(&x, kernel, stride, padding).unwrap();
        // At most 64 summands below 5: a few roundings of 5e-16.
        prop_assert!(difference(&found, &mean) < 1e-14);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(30))]

    #[test]
    fn gradients_agree_with_central_differences((shape, pool, seed) in case()) {
        let [kernel, stride, padding] = pool;
        check_gradients(&[distinct(seed, &shape)], |a| max_pool3d(&a[0], kernel, stride, padding));
        check_gradients(&[normal(seed, &shape)], |a| avg_pool3d(&a[0], kernel, stride, padding));
        check_gradients(&[normal(seed, &shape)], |a| gaussian_pool3d(&a[0], stride, 0.7));
        check_gradients(&[normal(seed, &shape)], |a| global_avg_pool(&a[0]));
    }
}

#[test]
fn max_pool_passes_nan_on() {
    let mut data = vec![0.0; 64];
    data[21] = f64::NAN;
    let x = Tensor::from_vec(data, (1, 1, 4, 4, 4), &Device::Cpu).unwrap();
    let nans = values(&max_pool3d(&x, 2, 2, 0).unwrap()).iter().filter(|v| v.is_nan()).count();
    assert_eq!(nans, 1);
}

/// The blur of one axis of a 1 at voxel `p`, at sample `j`.
fn gaussian_response(n: usize, stride: usize, sigma: f64, p: usize, j: usize) -> f64 {
    let m = n.div_ceil(stride);
    let position = (n as f64 - 1.0) / 2.0 + (j as f64 - (m as f64 - 1.0) / 2.0) * stride as f64;
    let reach = (4.0 * sigma).ceil();
    let weight = |distance: f64| (-0.5 * (distance / sigma).powi(2)).exp();
    let offset = if position.fract() == 0.0 { 0.0 } else { 0.5 };
    let distances = (-50..50).map(|t| f64::from(t) + offset).filter(|d| d.abs() <= reach);
    let distance = p as f64 - position;
    if distance.abs() > reach {
        return 0.0;
    }
    weight(distance) / distances.map(weight).sum::<f64>()
}

#[test]
fn gaussian_pool_of_one_voxel_is_a_product_of_gaussians() {
    for (stride, sigma) in [(1, 0.8), (2, 1.1), (3, 0.6)] {
        let size = [7, 6, 9];
        let at = [2, 3, 5];
        let mut data = vec![0.0; 7 * 6 * 9];
        data[(at[0] * 6 + at[1]) * 9 + at[2]] = 1.0;
        let x = Tensor::from_vec(data, (1, 1, 7, 6, 9), &Device::Cpu).unwrap();
        let found = gaussian_pool3d(&x, stride, sigma).unwrap();
        let out = size.map(|n: usize| n.div_ceil(stride));
        assert_eq!(found.dims()[2..], out);
        for (voxel, found) in values(&found).into_iter().enumerate() {
            let j = [voxel / out[2] / out[1], voxel / out[2] % out[1], voxel % out[2]];
            let expected: f64 =
                (0..3).map(|a| gaussian_response(size[a], stride, sigma, at[a], j[a])).product();
            assert!((found - expected).abs() < 1e-15, "{found} and {expected} at {j:?}");
        }
    }
}

#[test]
fn gaussian_pool_keeps_constants_away_from_the_boundary() {
    let x = Tensor::ones((1, 1, 17, 16, 17), candle_core::DType::F64, &Device::Cpu).unwrap();
    let out = gaussian_pool3d(&x, 2, 0.9).unwrap();
    let centre = values(&out.narrow(2, 4, 1).unwrap().narrow(3, 4, 1).unwrap());
    assert!((centre[4] - 1.0).abs() < 1e-15);
}

/// The volume turned by 90 and by 180 degrees about each axis.
fn symmetries(x: &Tensor) -> Vec<Tensor> {
    let mut turned = vec![];
    for (a, b) in [(2, 3), (3, 4), (2, 4)] {
        turned.push(x.transpose(a, b).unwrap().contiguous().unwrap().flip(&[a]).unwrap());
        turned.push(x.flip(&[a, b]).unwrap());
    }
    turned
}

#[test]
fn gaussian_pool_commutes_with_quarter_turns() {
    for (size, stride) in [(8, 2), (9, 2), (10, 3), (11, 3), (12, 3), (7, 4)] {
        let x = normal(5, &[1, 2, size, size, size]);
        let pooled = gaussian_pool3d(&x, stride, 0.6 * stride as f64).unwrap();
        for (x, pooled) in symmetries(&x).iter().zip(symmetries(&pooled)) {
            let found = gaussian_pool3d(x, stride, 0.6 * stride as f64).unwrap();
            // The order of the three passes changes: roundings only.
            assert!(relative_difference(&found, &pooled) < 1e-14);
        }
    }
}

/// Why the samples are placed symmetrically: plain strided windows of odd size are not.
#[test]
fn uncentred_windows_do_not_commute_with_quarter_turns() {
    let x = normal(5, &[1, 1, 8, 8, 8]);
    let pooled = avg_pool3d(&x, 3, 2, 1).unwrap();
    let found = avg_pool3d(&symmetries(&x)[0], 3, 2, 1).unwrap();
    assert!(relative_difference(&found, &symmetries(&pooled)[0]) > 0.1);
}

#[test]
fn single_precision_follows_double() {
    // At most 1331 summands per pass, roundings of 6e-8.
    let x = [distinct(4, &[2, 3, 9, 8, 7])];
    check_precision(&x, 2e-6, |a| max_pool3d(&a[0], 3, 2, 1));
    check_precision(&x, 2e-6, |a| avg_pool3d(&a[0], 3, 2, 1));
    check_precision(&x, 2e-6, |a| gaussian_pool3d(&a[0], 2, 1.1));
    check_precision(&x, 2e-5, |a| global_avg_pool(&a[0]));
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    let x = normal(4, &[2, 3, 9, 8, 7]);
    check_thread_independence(|| {
        vec![
            max_pool3d(&x, 3, 2, 1).unwrap(),
            avg_pool3d(&x, 3, 2, 1).unwrap(),
            gaussian_pool3d(&x, 2, 1.1).unwrap(),
            global_avg_pool(&x).unwrap(),
        ]
    });
}

#[test]
fn strided_views_give_the_same_as_copies() {
    let x = normal(4, &[3, 2, 5, 6, 7]).permute((1, 0, 4, 3, 2)).unwrap();
    let copy = x.contiguous().unwrap();
    for f in [
        |x: &Tensor| max_pool3d(x, 2, 2, 0),
        |x: &Tensor| avg_pool3d(x, 2, 2, 0),
        |x: &Tensor| gaussian_pool3d(x, 2, 1.0),
        global_avg_pool,
    ] {
        assert_eq!(values(&f(&x).unwrap()), values(&f(&copy).unwrap()));
    }
}

#[test]
fn wrong_arguments_are_named() {
    let x = normal(1, &[1, 2, 4, 4, 4]);
    let flat = x.flatten_from(3).unwrap();
    for f in [max_pool3d, avg_pool3d] {
        assert!(message(f(&flat, 2, 2, 0)).contains("expected a tensor N,C,D,H,W of rank 5"));
        assert!(message(f(&x, 0, 2, 0)).contains("expected kernel and stride of at least 1"));
        assert!(message(f(&x, 2, 0, 0)).contains("expected kernel and stride of at least 1"));
        assert!(message(f(&x, 2, 2, 2)).contains("expected a padding of at most half the kernel"));
        assert!(message(f(&x, 5, 2, 0)).contains("kernel 5 is larger than [4, 4, 4]"));
    }
    assert!(message(gaussian_pool3d(&x, 0, 1.0)).contains("expected a stride of at least 1"));
    for sigma in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        assert!(message(gaussian_pool3d(&x, 2, sigma)).contains("expected a sigma above 0"));
    }
    assert!(message(global_avg_pool(&flat)).contains("global_avg_pool: expected a tensor"));
    let whole = x.to_dtype(candle_core::DType::U8).unwrap();
    assert!(message(global_avg_pool(&whole)).contains("unsupported dtype U8"));
}
