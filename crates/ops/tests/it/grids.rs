//! Up-sampling, channel products and grid nonlinearities against their definitions.

use candle_core::{DType, Device, Result, Tensor};
use steer3d_ops::{
    GridTransform, ProductTerm, channel_product, gaussian_pool3d, gaussian_upsample3d,
    grid_nonlinearity,
};

use crate::common::{
    check_gradients, check_precision, check_thread_independence, difference, message, normal,
    relative_difference, values,
};

fn inner(a: &Tensor, b: &Tensor) -> f64 {
    values(a).iter().zip(values(b)).map(|(a, b)| a * b).sum()
}

#[test]
fn upsampling_is_the_adjoint_of_pooling() {
    for (size, stride) in [([8, 9, 7], 2), ([10, 11, 12], 3), ([5, 4, 1], 1)] {
        let sigma = 0.6 * stride as f64;
        let x = normal(1, &[2, 3, size[0], size[1], size[2]]);
        let pooled = gaussian_pool3d(&x, stride, sigma).unwrap();
        let y = normal(2, pooled.dims());
        let up = gaussian_upsample3d(&y, size, stride, sigma).unwrap();
        let (found, expected) = (inner(&x, &up), inner(&pooled, &y) * stride.pow(3) as f64);
        assert!((found - expected).abs() < 1e-11 * expected.abs().max(1.0), "{found} {expected}");
    }
}

#[test]
fn upsampling_keeps_constants_away_from_the_border() {
    for stride in [2, 3] {
        let x = Tensor::ones((1, 1, 16, 16, 16), DType::F64, &Device::Cpu).unwrap();
        let size = [16 * stride; 3];
        let mut up = gaussian_upsample3d(&x, size, stride, 0.6 * stride as f64).unwrap();
        for axis in 2..5 {
            up = up.narrow(axis, 18, 4).unwrap();
        }
        // 2 exp(-2 pi^2 0.6^2) along each of three axes.
        assert!(values(&up).iter().all(|v| (v - 1.0).abs() < 5e-3));
    }
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
fn upsampling_commutes_with_quarter_turns() {
    for (size, stride) in [(8usize, 2), (9, 2), (10, 3), (11, 3), (7, 4)] {
        let small = size.div_ceil(stride);
        let x = normal(5, &[1, 2, small, small, small]);
        let up = |x: &Tensor| gaussian_upsample3d(x, [size; 3], stride, 0.6 * stride as f64);
        for (x, expected) in symmetries(&x).iter().zip(symmetries(&up(&x).unwrap())) {
            assert!(relative_difference(&up(x).unwrap(), &expected) < 1e-14);
        }
    }
}

fn terms() -> Vec<ProductTerm> {
    let term = |(output, left, right, factor)| ProductTerm { output, left, right, factor };
    [(0, 0, 1, 0.5), (2, 1, 1, -2.0), (0, 1, 0, 1.5), (2, 2, 0, 0.25), (3, 0, 0, 1.0)]
        .map(term)
        .to_vec()
}

#[test]
fn a_channel_product_is_the_sum_of_its_terms() {
    let (x, y) = (normal(1, &[2, 3, 5, 13, 17]), normal(2, &[2, 2, 5, 13, 17]));
    let found = channel_product(&x, &y, 4, &terms()).unwrap();
    for output in 0..4 {
        let mut expected = x.narrow(1, 0, 1).unwrap().zeros_like().unwrap();
        for t in terms().iter().filter(|t| t.output == output) {
            let product =
                (x.narrow(1, t.left, 1).unwrap() * y.narrow(1, t.right, 1).unwrap()).unwrap();
            expected = (expected + (product * t.factor).unwrap()).unwrap();
        }
        assert!(difference(&found.narrow(1, output, 1).unwrap(), &expected) < 1e-13);
    }
}

/// Two signals of three and one coefficients on four points.
fn transform() -> GridTransform {
    let matrix = |seed| {
        let flat = values(&normal(seed, &[12]));
        flat.chunks(3).map(<[f64]>::to_vec).collect::<Vec<_>>()
    };
    GridTransform {
        signals: vec![vec![(2, 0), (0, 1), (3, 2)], vec![(1, 0)]],
        to_grid: matrix(7),
        from_grid: matrix(8),
    }
}

#[test]
fn a_grid_nonlinearity_acts_at_the_points() {
    let x = normal(3, &[1, 4, 1, 1, 1]);
    let (t, c) = (transform(), values(&x));
    let found = values(&grid_nonlinearity(&x, &t).unwrap());
    for signal in &t.signals {
        for &(channel, k) in signal {
            let point = |p: usize| {
                let v: f64 = signal.iter().map(|&(c2, k2)| t.to_grid[p][k2] * c[c2]).sum();
                t.from_grid[p][k] * (v + (v * v + 1.0).sqrt() - 1.0) / 2.0
            };
            let expected: f64 = (0..4).map(point).sum();
            assert!((found[channel] - expected).abs() < 1e-13);
        }
    }
}

fn product(a: &[Tensor]) -> Result<Tensor> {
    channel_product(&a[0], &a[1], 4, &terms())
}

#[test]
fn gradients_agree_with_central_differences() {
    let small = [2, 3, 3, 2, 4];
    check_gradients(&[normal(1, &small), normal(2, &[2, 2, 3, 2, 4])], product);
    check_gradients(&[normal(1, &small)], |a| channel_product(&a[0], &a[0], 4, &terms()));
    check_gradients(&[normal(3, &[2, 4, 3, 2, 4])], |a| grid_nonlinearity(&a[0], &transform()));
    check_gradients(&[normal(4, &[1, 2, 3, 2, 4])], |a| {
        gaussian_upsample3d(&a[0], [6, 4, 7], 2, 1.1)
    });
}

#[test]
fn single_precision_follows_double_and_threads_do_not_matter() {
    let (x, y) = (normal(1, &[2, 3, 5, 13, 17]), normal(2, &[2, 2, 5, 13, 17]));
    let four = [normal(3, &[2, 4, 3, 7, 5])];
    check_precision(&[x.clone(), y.clone()], 2e-6, product);
    check_precision(&four, 2e-6, |a| grid_nonlinearity(&a[0], &transform()));
    check_precision(&four, 2e-6, |a| gaussian_upsample3d(&a[0], [6, 13, 9], 2, 1.2));
    check_thread_independence(|| {
        vec![
            channel_product(&x, &y, 4, &terms()).unwrap(),
            grid_nonlinearity(&four[0], &transform()).unwrap(),
        ]
    });
}

#[test]
fn wrong_arguments_are_named() {
    let x = normal(1, &[1, 4, 4, 4, 4]);
    let text = message(gaussian_upsample3d(&x, [9, 8, 8], 2, 1.0));
    assert!(text.contains("expected a grid of [5, 4, 4]"), "{text}");
    assert!(message(gaussian_upsample3d(&x, [8; 3], 0, 1.0)).contains("stride of at least 1"));
    assert!(message(channel_product(&x, &x, 2, &terms())).contains("outside 2 channels of 4"));
    let mut repeated = transform();
    repeated.signals[1] = vec![(0, 0)];
    assert!(message(grid_nonlinearity(&x, &repeated)).contains("every channel in one signal"));
}
