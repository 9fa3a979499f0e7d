//! Agreement with values made by e3nn, escnn and se3cnn (`tests/reference/README.md`).

use std::fs::File;
use std::io::BufReader;

use nalgebra::{DMatrix, Matrix3};
use npyz::npz::NpzArchive;
use steer3d_so3::{
    Normalization, Rotation, clebsch_gordan, rotations, spherical_harmonics, wigner_d,
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
