//! Conversions, groups, samples of SO(3) and quadrature.

use std::f64::consts::{FRAC_PI_2, PI};

use nalgebra::{Matrix3, Vector3};
use steer3d_so3::groups::{icosahedral_group, tetrahedral_group};
use steer3d_so3::quadrature::gauss_legendre;
use steer3d_so3::rotations::{
    from_axis_angle, from_matrix, from_quaternion, from_yxy, split_improper, to_axis_angle,
    to_quaternion,
};
use steer3d_so3::sampling::{angle_shell, covering_radius, hopf_grid, super_fibonacci};
use steer3d_so3::wigner::wigner_d_batch;
use steer3d_so3::{
    Normalization, Parity, Rotation, RotationError, SphereGrid, SphericalHarmonics, Stream,
    cube_group, geodesic_distance, random_rotations, wigner_d,
};

#[test]
fn wrong_input_is_refused() {
    let shear = Matrix3::new(1.0, 0.1, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0);
    assert!(matches!(from_matrix(&shear), Err(RotationError::NotOrthogonal { .. })));
    assert!(matches!(from_matrix(&Matrix3::zeros()), Err(RotationError::NotOrthogonal { .. })));
    let mut nan = Matrix3::identity();
    nan[(1, 2)] = f64::NAN;
    assert!(matches!(from_matrix(&nan), Err(RotationError::NotOrthogonal { .. })));
    let infinite = Matrix3::from_element(f64::INFINITY);
    assert!(matches!(from_matrix(&infinite), Err(RotationError::NotOrthogonal { .. })));
    assert_eq!(from_matrix(&-Matrix3::identity()), Err(RotationError::Improper));
    for quaternion in [[0.0; 4], [1.0, 1.0, 0.0, 0.0], [f64::NAN, 0.0, 0.0, 1.0]] {
        assert!(matches!(from_quaternion(quaternion), Err(RotationError::NotUnit { .. })));
    }
    let axis = from_axis_angle([0.0; 3], 1.0).unwrap_err();
    assert_eq!(axis.to_string(), "axis has length 0, expected 1 within 1e-5; normalise it first");
    assert!(SphericalHarmonics::<f64>::new(21, Normalization::Norm).is_err());
    assert!(wigner_d_batch(usize::MAX, &[]).is_err());
    assert!(SphereGrid::new(1000).is_err());
}

#[test]
#[should_panic(expected = "l = 21 is above the supported maximum 20")]
fn degrees_above_the_limit_panic_where_documented() {
    wigner_d(21, &Rotation::identity());
}

#[test]
fn small_deviations_are_projected() {
    for r in random_rotations(1, 10) {
        let single = r.matrix().map(|value| f64::from(value as f32));
        for sign in [1.0, -1.0] {
            let (projected, parity) = split_improper(&(single * sign)).unwrap();
            let gram = projected.matrix().transpose() * projected.matrix();
            assert!((gram - Matrix3::identity()).amax() < 1e-14);
            assert!(geodesic_distance(&projected, &r) < 2e-7);
            assert_eq!(parity == Parity::Even, sign > 0.0);
        }
        let quaternion = to_quaternion(&r).map(|value| f64::from(value as f32));
        assert!(geodesic_distance(&from_quaternion(quaternion).unwrap(), &r) < 2e-7);
    }
}

#[test]
fn distances_and_angles_are_exact_at_the_ends() {
    let axis = [2.0 / 7.0, 3.0 / 7.0, 6.0 / 7.0];
    for angle in [0.0, 1e-12, 1e-8, 1.0, FRAC_PI_2, PI - 1e-8, PI] {
        let r = from_axis_angle(axis, angle).unwrap();
        assert!((geodesic_distance(&Rotation::identity(), &r) - angle).abs() < 1e-15);
        let (found, found_angle) = to_axis_angle(&r);
        assert!((found_angle - angle).abs() < 2e-15);
        if angle > 0.0 {
            let error = (Vector3::from(found) - Vector3::from(axis)).amax();
            assert!(error < 1e-15 / angle.min(1.0) + 1e-15 || angle == PI, "{angle}: {error:e}");
        }
    }
}

/// Closed, of the given size, without repetition, starting with the identity, and fixing the set of
/// `vertices`.
fn check_group(group: &[Rotation], size: usize, vertices: &[Vector3<f64>]) {
    let close = |a: &Rotation, b: &Rotation| (a.matrix() - b.matrix()).amax() < 1e-14;
    assert_eq!(group.len(), size);
    assert!(close(&group[0], &Rotation::identity()));
    for (i, a) in group.iter().enumerate() {
        assert!(group[..i].iter().all(|b| !close(a, b)));
        assert!(group.iter().all(|b| group.iter().any(|c| close(&(a * b), c))));
        for v in vertices {
            assert!(vertices.iter().any(|w| (a * v - w).amax() < 1e-14));
        }
    }
}

#[test]
fn groups_are_groups_of_their_polyhedra() {
    let corner = |x: f64, y: f64, z: f64| Vector3::new(x, y, z);
    let tetrahedron = [
        corner(1.0, 1.0, 1.0),
        corner(1.0, -1.0, -1.0),
        corner(-1.0, 1.0, -1.0),
        corner(-1.0, -1.0, 1.0),
    ];
    check_group(&tetrahedral_group(), 12, &tetrahedron);
    let mut cube: Vec<_> = tetrahedron.to_vec();
    cube.extend(tetrahedron.map(|v| -v));
    check_group(&cube_group(), 24, &cube);
    for r in cube_group() {
        assert!(r.matrix().iter().all(|&v| v == 0.0 || v == 1.0 || v == -1.0));
    }
    let golden = (1.0 + 5f64.sqrt()) / 2.0;
    let mut icosahedron = Vec::new();
    for (a, b) in [(1.0, golden), (1.0, -golden), (-1.0, golden), (-1.0, -golden)] {
        icosahedron.extend([corner(0.0, a, b), corner(a, b, 0.0), corner(b, 0.0, a)]);
    }
    check_group(&icosahedral_group(), 60, &icosahedron);
}

/// As quaternions the tetrahedral, cube and icosahedral groups are the vertices of a 24-cell, of two
/// dual 24-cells and of a 600-cell.
#[test]
fn covering_radii_of_polytopes() {
    let close = |group: &[Rotation], expected: f64, accuracy: f64| {
        let bounds = covering_radius(group, accuracy);
        assert!(bounds.lower <= expected * (1.0 + 1e-12), "{bounds:?}, exact {expected}");
        assert!(bounds.upper >= expected * (1.0 - 1e-12), "{bounds:?}, exact {expected}");
        assert!(bounds.upper <= bounds.lower * (1.0 + accuracy) * (1.0 + 1e-12));
    };
    close(&[Rotation::identity()], PI, 0.03);
    // The centres of the octahedra of a 24-cell are 45° from its vertices.
    close(&tetrahedral_group(), FRAC_PI_2, 1e-3);
    // 62.80° and 44.48°.
    close(&cube_group(), 2.0 * ((2.0 + 2f64.sqrt()) / 4.0).acos(), 1e-3);
    let golden = (1.0 + 5f64.sqrt()) / 2.0;
    close(&icosahedral_group(), 2.0 * (golden * golden / 8f64.sqrt()).acos(), 1e-3);
    close(&[Rotation::identity(), from_yxy([f64::NAN; 3])], PI, 0.03);
    let none = covering_radius(&[], 0.1);
    assert!(none.lower.is_infinite() && none.upper.is_infinite());
}

#[test]
fn grids_cover_better_than_chance() {
    let n = 72 * 8;
    let random = covering_radius(&random_rotations(0, n), 0.02).lower;
    let spiral = covering_radius(&super_fibonacci(n), 0.02).upper;
    let hopf = covering_radius(&hopf_grid(2), 0.02).upper;
    assert_eq!(hopf_grid(2).len(), n);
    assert!(spiral < 0.8 * random, "{spiral} {random}");
    assert!(hopf < 0.8 * random, "{hopf} {random}");
    // Doubling the resolution halves the radius, roughly.
    let coarse = covering_radius(&hopf_grid(1), 0.02);
    assert!((coarse.lower / hopf - 2.0).abs() < 0.4, "{coarse:?} {hopf}");
    assert!(super_fibonacci(0).is_empty() && hopf_grid(0).is_empty());
}

/// The mean of D_l over SO(3) vanishes for l > 0. Equidistributed grids come close.
#[test]
fn grids_average_harmonics_away() {
    for (samples, limit) in [(super_fibonacci(2000), 2e-3), (hopf_grid(3), 1e-2)] {
        for l in 1..=3 {
            let sum = samples.iter().map(|r| wigner_d(l, r)).reduce(|a, b| a + b).unwrap();
            let mean = (sum / samples.len() as f64).amax();
            assert!(mean < limit, "l = {l}: {mean:e}");
        }
    }
}

/// Each element of the mean of n matrices D_l has standard error 1/√((2l+1) n).
#[test]
fn random_rotations_are_uniform() {
    let n = 20_000;
    let rotations = random_rotations(11, n);
    assert_eq!(rotations[..5], random_rotations(11, 5));
    assert_ne!(rotations[0], random_rotations(12, 1)[0]);
    for l in 1..=4 {
        let sum = rotations.iter().map(|r| wigner_d(l, r)).reduce(|a, b| a + b).unwrap();
        let error = 5.0 / ((2 * l + 1) as f64 * n as f64).sqrt();
        assert!((sum / n as f64).amax() < error, "l = {l}");
    }
}

#[test]
fn shells_have_one_angle_and_uniform_axes() {
    let n = 10_000;
    let shell = angle_shell(2.0, n, 4);
    let mut mean = Vector3::zeros();
    let mut second = Matrix3::zeros();
    for r in &shell {
        assert!((geodesic_distance(&Rotation::identity(), r) - 2.0).abs() < 1e-14);
        let axis = Vector3::from(to_axis_angle(r).0);
        mean += axis / n as f64;
        second += axis * axis.transpose() / n as f64;
    }
    // Standard errors are 1/√(3n) = 0.006 and √(4/45n) = 0.003.
    assert!(mean.amax() < 0.03);
    assert!((second - Matrix3::identity() / 3.0).amax() < 0.015);
}

#[test]
fn gauss_legendre_integrates_monomials() {
    for n in [1, 2, 3, 8, 21, 64] {
        let (nodes, weights) = gauss_legendre(n);
        assert!(nodes.windows(2).all(|w| w[0] < w[1]));
        for degree in 0..2 * n as i32 {
            let sum: f64 = nodes.iter().zip(&weights).map(|(x, w)| w * x.powi(degree)).sum();
            let exact = if degree % 2 == 0 { 2.0 / f64::from(degree + 1) } else { 0.0 };
            assert!((sum - exact).abs() < 1e-14, "n = {n}, degree {degree}: {:e}", sum - exact);
        }
        // One degree more is no longer exact.
        let sum: f64 = nodes.iter().zip(&weights).map(|(x, w)| w * x.powi(2 * n as i32)).sum();
        assert!(n > 8 || (sum - 2.0 / (2 * n + 1) as f64).abs() > 1e-6);
    }
    assert!(gauss_legendre(0).0.is_empty());
}

#[test]
fn harmonic_transform_round_trips() {
    for lmax in [0, 1, 5, 20] {
        let grid = SphereGrid::new(lmax).unwrap();
        assert_eq!(grid.points().len(), (lmax + 1) * (2 * lmax + 1));
        assert!((grid.weights().iter().sum::<f64>() - 4.0 * PI).abs() < 1e-12);
        let mut stream = Stream::new(lmax as u64, "coefficients", &[]);
        let coefficients: Vec<f64> = (0..(lmax + 1).pow(2)).map(|_| stream.normal()).collect();
        let back = grid.analyse(&grid.synthesise(&coefficients));
        for (a, b) in coefficients.iter().zip(back) {
            assert!((a - b).abs() < 1e-12, "lmax = {lmax}");
        }
    }
}
