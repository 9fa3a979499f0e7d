use candle_core::{DType, Device, Tensor};
use steer3d_ops::affine_resample3d;
use steer3d_so3::random_rotations;

use crate::common::{
    check_gradients, check_precision, check_thread_independence, difference, message, normal,
    values,
};

/// Maps N,3,4 that turn, stretch and shift.
fn maps(seed: u64, count: usize) -> Tensor {
    let mut rows = vec![];
    for (rotation, shift) in
        random_rotations(seed, count).iter().zip(values(&normal(seed, &[count, 3])).chunks(3))
    {
        for i in 0..3 {
            rows.extend((0..3).map(|j| rotation[(i, j)] * (0.8 + 0.2 * j as f64)));
            rows.push(shift[i]);
        }
    }
    Tensor::from_vec(rows, (count, 3, 4), &Device::Cpu).unwrap()
}

/// The definition: every voxel weighed by the product of tents about it.
fn direct(x: &Tensor, theta: &Tensor) -> Tensor {
    let (n, c, d, h, w) = x.dims5().unwrap();
    let (data, theta, len) = (values(x), values(theta), [w, h, d]);
    let places: Vec<[f64; 3]> = (0..d * h * w)
        .map(|v| {
            let index = [v % w, v / w % h, v / (w * h)];
            [0, 1, 2].map(|i| index[i] as f64 - (len[i] as f64 - 1.0) / 2.0)
        })
        .collect();
    let mut out = vec![];
    for channel in 0..n * c {
        let (data, theta) = (&data[channel * d * h * w..], &theta[channel / c * 12..]);
        for [x, y, z] in &places {
            let at = [0, 4, 8]
                .map(|i| theta[i] * x + theta[i + 1] * y + theta[i + 2] * z + theta[i + 3]);
            let tent = |p: &[f64; 3]| -> f64 {
                (0..3).map(|i| (1.0 - (at[i] - p[i]).abs()).max(0.0)).product()
            };
            out.push(places.iter().zip(data).map(|(p, x)| tent(p) * x).sum::<f64>());
        }
    }
    Tensor::from_vec(out, x.shape(), &Device::Cpu).unwrap()
}

#[test]
fn samples_agree_with_their_definition() {
    for (seed, shape) in [[2, 3, 4, 5, 6], [1, 1, 7, 3, 1], [3, 2, 1, 4, 4]].iter().enumerate() {
        let (x, theta) = (normal(seed as u64, shape), maps(seed as u64, shape[0]));
        let found = affine_resample3d(&x, &theta).unwrap();
        // Eight products of numbers below 5.
        assert!(difference(&found, &direct(&x, &theta)) < 1e-13);
    }
}

#[test]
fn whole_steps_permute_voxels() {
    let x = normal(1, &[1, 2, 3, 4, 5]);
    let map = |rows: [f64; 12]| Tensor::from_vec(rows.to_vec(), (1, 3, 4), &Device::Cpu).unwrap();
    let identity = map([1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0]);
    assert_eq!(values(&affine_resample3d(&x, &identity).unwrap()), values(&x));
    // The value at x is that at x + 2: two columns to the left, zeros behind.
    let step = map([1.0, 0.0, 0.0, 2.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0]);
    let kept = x.narrow(4, 2, 3).unwrap();
    let expected = kept.pad_with_zeros(4, 0, 2).unwrap();
    assert_eq!(values(&affine_resample3d(&x, &step).unwrap()), values(&expected));
    for far in [1e9, -1e300, f64::INFINITY] {
        let away = map([1.0, 0.0, 0.0, far, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0]);
        assert!(values(&affine_resample3d(&x, &away).unwrap()).iter().all(|&x| x == 0.0));
    }
}

#[test]
fn gradients_agree_with_central_differences() {
    for (seed, shape) in [[2, 2, 3, 4, 5], [1, 3, 4, 1, 3]].iter().enumerate() {
        let seed = 10 + seed as u64;
        check_gradients(&[normal(seed, shape), maps(seed, shape[0])], |a| {
            affine_resample3d(&a[0], &a[1])
        });
        // Not contiguous.
        check_gradients(&[normal(seed, shape), maps(seed, shape[0])], |a| {
            affine_resample3d(&a[0].transpose(2, 4)?, &a[1])
        });
    }
}

#[test]
fn results_are_precise_and_do_not_depend_on_threads() {
    let arguments = [normal(20, &[2, 3, 5, 6, 7]), maps(20, 2)];
    check_precision(&arguments, 1e-5, |a| affine_resample3d(&a[0], &a[1]));
    check_thread_independence(|| {
        let vars = arguments.clone().map(|a| candle_core::Var::from_tensor(&a).unwrap());
        let out = affine_resample3d(&vars[0], &vars[1]).unwrap();
        let gradients = out.sqr().unwrap().sum_all().unwrap().backward().unwrap();
        let of = |i: usize| gradients.get(&vars[i]).unwrap().clone();
        vec![of(0), of(1), out]
    });
}

#[test]
fn wrong_arguments_are_named() {
    let (x, theta) = (normal(1, &[2, 1, 2, 2, 2]), maps(1, 2));
    let flat = x.flatten(2, 4).unwrap();
    assert!(message(affine_resample3d(&flat, &theta)).contains("rank 5"));
    let one = theta.narrow(0, 0, 1).unwrap();
    let text = message(affine_resample3d(&x, &one));
    assert!(text.contains("theta") && text.contains("[2, 3, 4]"), "{text}");
    let single = theta.to_dtype(DType::F32).unwrap();
    assert!(message(affine_resample3d(&x, &single)).contains("affine_resample3d"));
    let whole = x.to_dtype(DType::U32).unwrap();
    assert!(message(affine_resample3d(&whole, &theta)).contains("affine_resample3d"));
}
