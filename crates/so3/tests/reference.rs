//! Agreement with values made by other software and in high precision
//! (`tests/reference/README.md`).

use std::fs::File;
use std::io::BufReader;

use nalgebra::{Complex, DMatrix, Matrix3, RealField};
use npyz::npz::NpzArchive;
use steer3d_so3::cg::wigner_3j;
use steer3d_so3::{
    Normalization, Rotation, SphericalHarmonics, clebsch_gordan, conventions, rotations,
    spherical_harmonics, wigner_d,
};

/// The references are f64 results of matrix exponentials (Wigner-D) and polynomials; they are good
/// to a few 1e-13.
const TOLERANCE: f64 = 1e-10;

fn open(name: &str) -> NpzArchive<BufReader<File>> {
    let path = format!("{}/tests/reference/{name}.npz", env!("CARGO_MANIFEST_DIR"));
    NpzArchive::open(&path).unwrap()
}

fn array(archive: &mut NpzArchive<BufReader<File>>, key: &str) -> (Vec<usize>, Vec<f64>) {
    let npy = archive.by_name(key).unwrap().unwrap();
    let shape = npy.shape().iter().map(|&n| n as usize).collect();
    assert_eq!(npy.order(), npyz::Order::C);
    (shape, npy.into_vec().unwrap())
}

fn rotations_of(archive: &mut NpzArchive<BufReader<File>>) -> Vec<Rotation> {
    let (_, values) = array(archive, "matrices");
    values
        .chunks_exact(9)
        .map(|m| Rotation::from_matrix_unchecked(Matrix3::from_row_slice(m)))
        .collect()
}

fn matrices(archive: &mut NpzArchive<BufReader<File>>, key: &str) -> Vec<DMatrix<f64>> {
    let (shape, values) = array(archive, key);
    values
        .chunks_exact(shape[1] * shape[2])
        .map(|m| DMatrix::from_row_slice(shape[1], shape[2], m))
        .collect()
}

#[test]
fn harmonics_match_e3nn() {
    let mut file = open("spherical_harmonics_e3nn_component");
    let (_, points) = array(&mut file, "points");
    for l in 0..=10 {
        let (_, expected) = array(&mut file, &format!("l{l}"));
        for (p, expected) in points.chunks_exact(3).zip(expected.chunks_exact(2 * l + 1)) {
            let y = spherical_harmonics(10, [p[0], p[1], p[2]], Normalization::Component);
            for (a, b) in y[l * l..].iter().zip(expected) {
                assert!((a - b).abs() < TOLERANCE, "l = {l} at {p:?}: {a} != {b}");
            }
        }
    }
}

#[test]
fn wigner_d_matches_e3nn() {
    let mut file = open("wigner_d_e3nn");
    let rotations = rotations_of(&mut file);
    for l in 0..=8 {
        for (r, expected) in rotations.iter().zip(matrices(&mut file, &format!("l{l}"))) {
            let error = (wigner_d(l, r) - expected).amax();
            assert!(error < TOLERANCE, "l = {l}: {error:e}");
        }
    }
}

#[test]
fn euler_angles_match_e3nn() {
    let mut file = open("wigner_d_e3nn");
    let rotations = rotations_of(&mut file);
    let (_, angles) = array(&mut file, "euler_yxy");
    for (r, expected) in rotations.iter().zip(angles.chunks_exact(3)) {
        let angles = [expected[0], expected[1], expected[2]];
        assert!((rotations::from_yxy(angles).matrix() - r.matrix()).amax() < TOLERANCE);
        for (a, b) in rotations::to_yxy(r).into_iter().zip(angles) {
            let turn = (a - b).rem_euclid(std::f64::consts::TAU);
            assert!(turn.min(std::f64::consts::TAU - turn) < TOLERANCE, "{a} != {b}");
        }
    }
}

#[test]
fn clebsch_gordan_matches_e3nn() {
    let mut file = open("wigner_3j_e3nn");
    let mut count = 0;
    for l1 in 0..=4usize {
        for l2 in 0..=4usize {
            for l3 in l1.abs_diff(l2)..=(l1 + l2).min(4) {
                let (shape, expected) = array(&mut file, &format!("{l1}_{l2}_{l3}"));
                let tensor = clebsch_gordan(l1, l2, l3);
                assert_eq!(tensor.shape().as_slice(), shape);
                for (a, b) in tensor.dense().iter().zip(expected) {
                    assert!((a - b).abs() < TOLERANCE, "{l1} {l2} {l3}: {a} != {b}");
                }
                count += 1;
            }
        }
    }
    assert_eq!(count, 65);
}

#[test]
fn se3cnn_and_escnn_bases_match() {
    for name in ["wigner_d_se3cnn", "wigner_d_escnn"] {
        let mut file = open(name);
        let rotations = rotations_of(&mut file);
        for l in 0..=8 {
            let basis = conventions::to_polar_z(l);
            for (r, expected) in rotations.iter().zip(matrices(&mut file, &format!("l{l}"))) {
                let direct = conventions::polar_z_wigner_d(l, r);
                assert!((&direct - &expected).amax() < TOLERANCE, "{name}, l = {l}");
                let changed = &basis * wigner_d(l, r) * basis.transpose();
                assert!((changed - expected).amax() < TOLERANCE, "{name}, l = {l}");
            }
        }
    }
}

/// The stored change of basis was found numerically and is unique up to sign.
#[test]
fn escnn_change_of_basis_matches() {
    let mut file = open("wigner_d_escnn");
    for l in 0..=8 {
        let (shape, values) = array(&mut file, &format!("from_e3nn{l}"));
        let stored = DMatrix::from_row_slice(shape[0], shape[1], &values);
        let ours = conventions::to_polar_z(l);
        let sign = ours.dot(&stored).signum();
        assert!((ours - stored * sign).amax() < TOLERANCE, "l = {l}");
    }
}

#[test]
fn harmonics_match_scipy() {
    let mut file = open("scipy");
    let (_, points) = array(&mut file, "points");
    for l in 0..=8 {
        let basis = conventions::to_condon_shortley(l);
        let (_, expected) = array(&mut file, &format!("harmonics{l}"));
        for (p, expected) in points.chunks_exact(3).zip(expected.chunks_exact(2 * (2 * l + 1))) {
            let ours = spherical_harmonics(l, [p[0], p[1], p[2]], Normalization::Integral);
            let ours = nalgebra::DVector::from_column_slice(&ours[l * l..]);
            let complex = &basis * ours.map(|value| Complex::new(value, 0.0));
            for (a, b) in complex.iter().zip(expected.chunks_exact(2)) {
                assert!((a - Complex::new(b[0], b[1])).norm() < TOLERANCE, "l = {l} at {p:?}");
            }
            let back = basis.adjoint() * complex;
            assert!((back.map(|value| value.re) - ours).amax() < 1e-13);
        }
    }
}

#[test]
fn rotations_match_scipy() {
    let mut file = open("scipy");
    let matrices = rotations_of(&mut file);
    let mut columns = |key: &str| array(&mut file, key).1;
    let (quaternions, yxy, zyz, rotvec) =
        (columns("quaternions"), columns("yxy"), columns("zyz"), columns("rotvec"));
    let close = |a: &Rotation, b: &Rotation| assert!((a.matrix() - b.matrix()).amax() < 1e-13);
    for (i, r) in matrices.iter().enumerate() {
        let triple = |values: &[f64]| [values[3 * i], values[3 * i + 1], values[3 * i + 2]];
        let quaternion: [f64; 4] = quaternions[4 * i..4 * i + 4].try_into().unwrap();
        close(r, &conventions::from_scipy_quaternion(quaternion).unwrap());
        for (a, b) in conventions::to_scipy_quaternion(r).iter().zip(quaternion) {
            assert!((a - b).abs() < 1e-13);
        }
        close(r, &rotations::from_yxy(triple(&yxy)));
        close(r, &rotations::from_zyz(triple(&zyz)));
        let (axis, angle) = rotations::to_axis_angle(r);
        for (a, b) in axis.iter().zip(triple(&rotvec)) {
            assert!((a * angle - b).abs() < 1e-13);
        }
        for (angles, expected) in
            [(rotations::to_yxy(r), triple(&yxy)), (rotations::to_zyz(r), triple(&zyz))]
        {
            for (a, b) in angles.iter().zip(expected) {
                assert!((a - b).sin().abs() < 1e-12 && (a - b).cos() > 0.0);
            }
        }
    }
}

fn largest_relative_error<T: RealField + Copy>(
    table: &SphericalHarmonics<T>,
    points: &[f64],
    expected: &[f64],
) -> f64 {
    let mut worst: f64 = 0.0;
    let mut out = vec![T::zero(); table.dim()];
    let n = 2 * table.lmax() + 1;
    for (p, expected) in points.chunks_exact(3).zip(expected.chunks_exact(n)) {
        table.eval_into([p[0], p[1], p[2]].map(nalgebra::convert), &mut out);
        let largest = expected.iter().fold(0.0, |m: f64, v| m.max(v.abs()));
        for (a, b) in out[table.dim() - n..].iter().zip(expected) {
            let a: f64 = nalgebra::try_convert(*a).unwrap();
            worst = worst.max((a - b).abs() / largest);
        }
    }
    worst
}

#[test]
fn harmonics_of_degree_20_match_high_precision() {
    let mut file = open("high_precision");
    let (_, points) = array(&mut file, "points");
    let (_, expected) = array(&mut file, "harmonics");
    let double = SphericalHarmonics::<f64>::new(20, Normalization::Component).unwrap();
    let error = largest_relative_error(&double, &points, &expected);
    assert!(error < 1e-13, "f64: {error:e}");
    // The first 22 points are inside the range of f32. Rounding a coordinate of the direction by
    // 6e-8 alone moves harmonics of degree 20 by up to 20 times as much.
    let single = SphericalHarmonics::<f32>::new(20, Normalization::Component).unwrap();
    let error = largest_relative_error(&single, &points[..66], &expected[..22 * 41]);
    assert!(error < 2e-5, "f32: {error:e}");
}

#[test]
fn wigner_d_of_degree_20_matches_high_precision() {
    let mut file = open("high_precision");
    let rotations = rotations_of(&mut file);
    for (r, expected) in rotations.iter().zip(matrices(&mut file, "wigner_d")) {
        let error = (wigner_d(20, r) - expected).amax();
        assert!(error < 1e-13, "{error:e}");
    }
}

#[test]
fn three_j_symbols_match_high_precision() {
    let mut file = open("high_precision");
    let (_, arguments) = array(&mut file, "threej_arguments");
    let (_, expected) = array(&mut file, "threej");
    for (row, b) in arguments.chunks_exact(6).zip(expected) {
        let l = [0, 1, 2].map(|i| row[i] as usize);
        let m = [3, 4, 5].map(|i| row[i] as i64);
        let a = wigner_3j(l[0], l[1], l[2], m[0], m[1], m[2]);
        assert!((a - b).abs() <= 1e-13 * b.abs(), "{row:?}: {a} != {b}");
    }
}

/// A wrong convention must not pass: the transposed matrix, and a turned axis.
#[test]
fn wrong_conventions_are_noticed() {
    let mut file = open("wigner_d_e3nn");
    let rotations = rotations_of(&mut file);
    let expected = matrices(&mut file, "l3");
    assert!((wigner_d(3, &rotations[0].inverse()) - &expected[0]).amax() > 1e-3);
    assert!((conventions::polar_z_wigner_d(3, &rotations[0]) - &expected[0]).amax() > 1e-3);
}
