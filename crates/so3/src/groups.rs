//! The finite rotation groups of the regular polyhedra.

use nalgebra::{Matrix3, Quaternion, UnitQuaternion};

use crate::Rotation;

/// The 24 rotations of the cube: the signed permutation matrices of determinant 1, with entries
/// exactly -1, 0 or 1. The first is the identity.
pub fn cube_group() -> Vec<Rotation> {
    const PERMUTATIONS: [[usize; 3]; 6] =
        [[0, 1, 2], [1, 2, 0], [2, 0, 1], [0, 2, 1], [1, 0, 2], [2, 1, 0]];
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

/// The 12 rotations of the tetrahedron with vertices (1, 1, 1), (1, -1, -1), (-1, 1, -1) and
/// (-1, -1, 1): the first half of [`cube_group`], which permutes the axes cyclically.
pub fn tetrahedral_group() -> Vec<Rotation> {
    let mut group = cube_group();
    group.truncate(12);
    group
}

/// The 60 rotations of the icosahedron with vertices (0, ±1, ±g), (±1, ±g, 0) and (±g, 0, ±1), g the
/// golden ratio. [`tetrahedral_group`] is its subgroup.
///
/// They are the 120 icosians (Conway and Smith 2003, "On Quaternions and Octonions"), of
/// which q and -q are the same rotation.
pub fn icosahedral_group() -> Vec<Rotation> {
    let golden = (1.0 + 5f64.sqrt()) / 2.0;
    let mut group = tetrahedral_group();
    for order in EVEN_PERMUTATIONS {
        // One icosian of each pair ±q: the sign of 1 is fixed.
        for signs in 0..4 {
            let signed =
                |bit: usize, value: f64| if signs >> bit & 1 == 0 { value } else { -value };
            let values = [0.0, 0.5, signed(0, 0.5 / golden), signed(1, golden / 2.0)];
            let [w, x, y, z] = order.map(|i| values[i]);
            let quaternion = UnitQuaternion::from_quaternion(Quaternion::new(w, x, y, z));
            group.push(quaternion.to_rotation_matrix());
        }
    }
    group
}

const EVEN_PERMUTATIONS: [[usize; 4]; 12] = [
    [0, 1, 2, 3],
    [0, 2, 3, 1],
    [0, 3, 1, 2],
    [1, 0, 3, 2],
    [1, 2, 0, 3],
    [1, 3, 2, 0],
    [2, 0, 1, 3],
    [2, 1, 3, 0],
    [2, 3, 0, 1],
    [3, 0, 2, 1],
    [3, 1, 0, 2],
    [3, 2, 1, 0],
];
