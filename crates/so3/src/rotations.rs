//! Rotations of space: construction, uniform samples and finite groups.

use nalgebra::{Matrix3, Quaternion, UnitQuaternion};

use crate::Stream;

/// A proper rotation, as a 3x3 matrix acting on columns (x, y, z).
pub type Rotation = nalgebra::Rotation3<f64>;

/// A rotation drawn uniformly (Haar measure) from `stream` (Shoemake 1992, "Uniform random
/// rotations", Graphics Gems III).
pub fn random_rotation(stream: &mut Stream) -> Rotation {
    let u = stream.uniform();
    let (sin_a, cos_a) = (std::f64::consts::TAU * stream.uniform()).sin_cos();
    let (sin_b, cos_b) = (std::f64::consts::TAU * stream.uniform()).sin_cos();
    let (r, s) = ((1.0 - u).sqrt(), u.sqrt());
    let quaternion = Quaternion::new(s * cos_b, r * sin_a, r * cos_a, s * sin_b);
    UnitQuaternion::from_quaternion(quaternion).to_rotation_matrix()
}

/// `n` uniform random rotations. Rotation i depends on `seed` and i only, so a longer list starts
/// with the shorter one.
pub fn random_rotations(seed: u64, n: usize) -> Vec<Rotation> {
    (0..n as u64)
        .map(|i| random_rotation(&mut Stream::new(seed, "random rotations", &[i])))
        .collect()
}

/// The 24 rotations of the cube: the signed permutation matrices of determinant 1, with entries
/// exactly -1, 0 or 1. The first is the identity.
pub fn cube_group() -> Vec<Rotation> {
    const PERMUTATIONS: [[usize; 3]; 6] =
        [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];
    let mut group = Vec::with_capacity(24);
    for permutation in PERMUTATIONS {
        for signs in 0..8 {
            let mut matrix = Matrix3::zeros();
            for (row, column) in permutation.into_iter().enumerate() {
                matrix[(row, column)] = if signs >> row & 1 == 0 { 1.0 } else { -1.0 };
            }
            if matrix.determinant() > 0.0 {
                group.push(Rotation::from_matrix_unchecked(matrix));
            }
        }
    }
    group
}

/// e3nn's Euler angles (alpha, beta, gamma) of R = R_y(alpha) R_x(beta) R_y(gamma), in radians,
/// with beta in [0, π]. Near beta = 0 or π only alpha + gamma or alpha - gamma is
/// determined; gamma is taken such that the product is R to rounding there too.
pub fn to_yxy(rotation: &Rotation) -> [f64; 3] {
    let r = rotation.matrix();
    let alpha = r[(0, 1)].atan2(r[(2, 1)]);
    let beta = r[(0, 1)].hypot(r[(2, 1)]).atan2(r[(1, 1)]);
    // The first row of R_y(-alpha) R = R_x(beta) R_y(gamma) is (cos gamma, 0, sin gamma).
    let (sin, cos) = alpha.sin_cos();
    let gamma = (cos * r[(0, 2)] - sin * r[(2, 2)]).atan2(cos * r[(0, 0)] - sin * r[(2, 0)]);
    [alpha, beta, gamma]
}

/// The rotation R_y(alpha) R_x(beta) R_y(gamma) of e3nn's Euler angles in radians.
pub fn from_yxy([alpha, beta, gamma]: [f64; 3]) -> Rotation {
    let y = nalgebra::Vector3::y_axis();
    let x = nalgebra::Vector3::x_axis();
    Rotation::from_axis_angle(&y, alpha)
        * Rotation::from_axis_angle(&x, beta)
        * Rotation::from_axis_angle(&y, gamma)
}
