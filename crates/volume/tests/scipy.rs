//! Trilinear and cubic interpolation against scipy.ndimage (`reference/make_scipy.py`).

use std::path::Path;

use nalgebra::{Affine3, Matrix4};
use steer3d_formats::npz::Npz;
use steer3d_so3::Rotation;
use steer3d_volume::{Grid, Interpolation, Volume, resample_to, rotate, translate};

struct Reference(Npz);

impl Reference {
    fn open() -> Self {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference");
        Self(Npz::open(folder.join("scipy.npz")).unwrap())
    }

    fn get(&mut self, key: &str) -> Vec<f64> {
        self.0.read(key).unwrap().to_f64().unwrap()
    }

    fn rotation(&mut self) -> Rotation {
        let rows = self.get("rotation");
        Rotation::from_matrix_unchecked(nalgebra::Matrix3::from_row_slice(&rows))
    }

    fn shift(&mut self) -> [f64; 3] {
        self.get("shift").try_into().unwrap()
    }
}

fn volume(data: Vec<f32>, dims: [usize; 3]) -> Volume {
    Volume::centred(data, 1, Grid::new(dims, [1.0; 3]).unwrap()).unwrap()
}

/// Index in a cube of edge `outer` of each voxel of the cube of edge `inner` in its middle.
fn middle(outer: usize, inner: usize) -> Vec<usize> {
    let range = (outer - inner) / 2..(outer + inner) / 2;
    let (z, y, x) = (range.clone(), range.clone(), range);
    let at = move |z, y, x| (z * outer + y) * outer + x;
    z.flat_map(|z| {
        let x = x.clone();
        y.clone().flat_map(move |y| x.clone().map(move |x| at(z, y, x)))
    })
    .collect()
}

/// Largest difference of the values at `indices` from `expected`.
fn difference(found: &Volume, indices: &[usize], expected: &[f64]) -> f64 {
    assert_eq!(indices.len(), expected.len());
    let pairs = indices.iter().zip(expected);
    pairs.map(|(&i, e)| (f64::from(found.data()[i]) - e).abs()).fold(0.0, f64::max)
}

const ORDERS: [(Interpolation, &str); 2] =
    [(Interpolation::Trilinear, "1"), (Interpolation::Cubic, "3")];

/// Values up to 4 in f32, through six filter passes and 64 products.
const TOLERANCE: f64 = 1e-5;

#[test]
fn volumes_with_a_margin_match_mode_constant() {
    let mut reference = Reference::open();
    let mut data = vec![0.0; 26 * 26 * 26];
    for (i, value) in middle(26, 10).into_iter().zip(reference.get("block")) {
        data[i] = value as f32;
    }
    let source = volume(data, [26; 3]);
    let (rotation, shift) = (reference.rotation(), reference.shift());
    for (how, order) in ORDERS {
        let turned = rotate(&source, &"1x0".parse().unwrap(), &rotation, how).unwrap();
        let expected = reference.get(&format!("margin_turned_{order}"));
        let error = difference(&turned, &middle(26, 14), &expected);
        assert!(error < TOLERANCE, "{how} {error}");
        let moved = translate(&source, shift, how).unwrap();
        let expected = reference.get(&format!("margin_moved_{order}"));
        let error = difference(&moved, &middle(26, 14), &expected);
        assert!(error < TOLERANCE, "{how} {error}");
    }
}

#[test]
fn whole_volumes_match_mode_grid_constant() {
    let mut reference = Reference::open();
    let data = reference.get("full").into_iter().map(|value| value as f32).collect();
    let source = volume(data, [9, 10, 11]);
    let (rotation, shift) = (reference.rotation(), reference.shift());
    let all: Vec<usize> = (0..990).collect();
    for (how, order) in ORDERS {
        let turned = rotate(&source, &"1x0".parse().unwrap(), &rotation, how).unwrap();
        let expected = reference.get(&format!("full_turned_{order}"));
        let error = difference(&turned, &all, &expected);
        assert!(error < TOLERANCE, "{how} {error}");
        let moved = translate(&source, shift, how).unwrap();
        let expected = reference.get(&format!("full_moved_{order}"));
        let error = difference(&moved, &all, &expected);
        assert!(error < TOLERANCE, "{how} {error}");
    }
    let wrong = rotate(&source, &"1x0".parse().unwrap(), &rotation, Interpolation::Nearest);
    let expected = reference.get("full_turned_1");
    assert!(difference(&wrong.unwrap(), &all, &expected) > 0.1, "the check can fail");
}

#[test]
fn affine_maps_match_affine_transform() {
    let mut reference = Reference::open();
    let data = reference.get("full").into_iter().map(|value| value as f32).collect();
    // Voxels of another size than 1, so that the map is in their unit, and another origin.
    let (size, source_origin, origin) = ([0.5, 2.0, 1.25], [3.0, -1.0, 0.5], [-2.0, 4.0, 1.5]);
    let grid = Grid::new([9, 10, 11], size).unwrap();
    let source = Volume::new(data, 1, grid, source_origin).unwrap();
    let rows = reference.get("affine");
    let mut indices = Matrix4::identity();
    indices.fixed_view_mut::<3, 4>(0, 0).copy_from(&nalgebra::Matrix3x4::from_row_slice(&rows));
    let position = |origin: [f64; 3]| {
        Matrix4::new_translation(&origin.into()) * Matrix4::new_nonuniform_scaling(&size.into())
    };
    let back = position(source_origin).try_inverse().unwrap();
    let map = Affine3::from_matrix_unchecked(position(origin) * indices * back);
    let target = Grid::new([11, 12, 13], size).unwrap();
    let all: Vec<usize> = (0..11 * 12 * 13).collect();
    for (how, order) in ORDERS {
        let irreps = "1x0".parse().unwrap();
        let found = resample_to(&source, &irreps, target, origin, &map, how).unwrap();
        assert_eq!((found.grid(), found.origin()), (target, origin));
        let expected = reference.get(&format!("affine_{order}"));
        assert!(expected.iter().filter(|x| x.abs() > 0.1).count() > 1000);
        let error = difference(&found, &all, &expected);
        assert!(error < TOLERANCE, "{how} {error}");
    }
}
