//! Rotation and translation of volumes against exact permutations and closed forms.

use nalgebra::{Affine3, Rotation3, Scale3, Translation3, Vector3};
use proptest::prelude::*;
use steer3d_formats::{FileContents, read};
use steer3d_so3::spherical_harmonics;
use steer3d_so3::{Irreps, Normalization, Rotation, Stream, cube_group, random_rotations};
use steer3d_volume::{
    Grid, Interpolation, PointCloud, Rotator, Volume, VolumeError, Voxeliser, change_voxel_size,
    crop, resample_to, rotate, rotate_into, translate, translate_into,
};

const ALL: [Interpolation; 4] =
    [Interpolation::Nearest, Interpolation::Trilinear, Interpolation::Cubic, Interpolation::Sinc];

fn irreps(text: &str) -> Irreps {
    text.parse().unwrap()
}

fn noise(dims: [usize; 3], channels: usize, seed: u64) -> Volume {
    let mut stream = Stream::new(seed, "noise", &[]);
    let len = channels * dims.iter().product::<usize>();
    let data = (0..len).map(|_| stream.normal() as f32).collect();
    Volume::centred(data, channels, Grid::new(dims, [1.0; 3]).unwrap()).unwrap()
}

/// A volume sampled from `field`, which maps a position in physical units to all channels.
fn sampled(grid: Grid, channels: usize, field: impl Fn(Vector3<f64>) -> Vec<f64>) -> Volume {
    let [d, h, w] = grid.dims();
    let (centre, size) = (grid.centre(), grid.voxel_size());
    let mut data = vec![0.0; channels * d * h * w];
    for (voxel, [z, y, x]) in voxels(grid.dims()).enumerate() {
        let index = [x, y, z];
        let p = Vector3::from_fn(|axis, _| (index[axis] as f64 - centre[axis]) * size[axis]);
        for (channel, value) in field(p).into_iter().enumerate() {
            data[channel * d * h * w + voxel] = value as f32;
        }
    }
    Volume::centred(data, channels, grid).unwrap()
}

fn voxels([d, h, w]: [usize; 3]) -> impl Iterator<Item = [usize; 3]> {
    (0..d).flat_map(move |z| (0..h).flat_map(move |y| (0..w).map(move |x| [z, y, x])))
}

fn max_difference(a: &Volume, b: &Volume) -> f64 {
    let pairs = a.data().iter().zip(b.data());
    pairs.map(|(a, b)| f64::from((a - b).abs())).fold(0.0, f64::max)
}

/// The scalar volume turned by whole-number arithmetic, or `None` if voxels do not map to voxels.
fn permuted(volume: &Volume, rotation: &Rotation) -> Option<Vec<f32>> {
    let [d, h, w] = volume.dims();
    let (n, doubled_centre) = ([w, h, d], [w, h, d].map(|n| n as i64 - 1));
    voxels(volume.dims())
        .map(|[z, y, x]| {
            let p: [i64; 3] = std::array::from_fn(|i| 2 * [x, y, z][i] as i64 - doubled_centre[i]);
            let mut q = [0; 3];
            for (i, q) in q.iter_mut().enumerate() {
                let turned: i64 = (0..3).map(|j| rotation[(j, i)] as i64 * p[j]).sum();
                let doubled = turned + doubled_centre[i];
                if doubled % 2 != 0 {
                    return None;
                }
                *q = doubled / 2;
            }
            let inside = (0..3).all(|i| (0..n[i] as i64).contains(&q[i]));
            let at = (q[2] * h as i64 + q[1]) * w as i64 + q[0];
            Some(if inside { volume.data()[at as usize] } else { 0.0 })
        })
        .collect()
}

#[test]
fn the_cube_group_permutes_voxels_exactly() {
    for dims in [[5, 5, 5], [6, 6, 6], [3, 7, 7], [4, 6, 4], [3, 5, 7], [1, 1, 1]] {
        let volume = noise(dims, 1, 1);
        for rotation in cube_group() {
            let expected = permuted(&volume, &rotation).expect("equal parity in every case above");
            for interpolation in ALL {
                let found = rotate(&volume, &irreps("1x0"), &rotation, interpolation).unwrap();
                assert_eq!(found.data(), expected, "{dims:?} {interpolation}");
            }
        }
    }
}

#[test]
fn rotations_within_rounding_of_the_cube_group_are_exact_too() {
    let volume = noise([6; 3], 1, 2);
    let quarter = Rotation::from_axis_angle(&Vector3::y_axis(), std::f64::consts::FRAC_PI_2);
    assert!(quarter[(0, 0)] != 0.0, "the matrix has rounding errors");
    let found = rotate(&volume, &irreps("1x0"), &quarter, Interpolation::Trilinear).unwrap();
    let exact = Rotation::from_matrix_unchecked(quarter.matrix().map(f64::round));
    assert_eq!(found.data(), permuted(&volume, &exact).unwrap());
}

#[test]
fn half_voxel_offsets_and_unequal_voxels_are_interpolated_not_permuted() {
    let quarter = cube_group().into_iter().find(|r| r[(0, 1)] != 0.0 && r[(2, 2)] == 1.0).unwrap();
    let even_odd = noise([3, 4, 5], 1, 3);
    assert_eq!(permuted(&even_odd, &quarter), None);
    let turned = rotate(&even_odd, &irreps("1x0"), &quarter, Interpolation::Trilinear).unwrap();
    assert!(!even_odd.data().contains(&turned.data()[30]), "a mean of neighbours");

    let grid = Grid::new([5; 3], [1.0, 1.5, 1.0]).unwrap();
    let stretched = Volume::centred(noise([5; 3], 1, 4).into_data(), 1, grid).unwrap();
    let turned = rotate(&stretched, &irreps("1x0"), &quarter, Interpolation::Trilinear).unwrap();
    assert!(!stretched.data().contains(&turned.data()[63]));
}

/// Two Gaussians of width `sigma` off the centre.
fn blobs(sigma: f64) -> impl Fn(Vector3<f64>) -> f64 {
    let centres = [Vector3::new(3.0, -2.0, 1.0), Vector3::new(-2.5, 1.5, 3.5)];
    move |p| centres.iter().map(|c| (-(p - c).norm_squared() / (2.0 * sigma * sigma)).exp()).sum()
}

/// Bound of the error of an interpolation at `sigma` voxels: for trilinear the sum over axes of
/// max|f''| / 8 = 1 / 8σ² for each blob, and the overlap of the two blobs is below 1.2; the cubic
/// bound has the constant 5 / 384 of complete cubic splines, for max|f''''| = 3 / σ⁴, and 1e-6 for
/// `f32`.
fn bound(interpolation: Interpolation, sigma: f64) -> f64 {
    match interpolation {
        Interpolation::Cubic => 1.2 * 3.0 * 3.0 * 5.0 / 384.0 / sigma.powi(4) + 1e-6,
        _ => 1.2 * 3.0 / 8.0 / (sigma * sigma),
    }
}

#[test]
fn rotated_blobs_match_the_rotated_function() {
    let sigma = 2.0;
    let field = blobs(sigma);
    // The smallest face-to-blob distance is 6 σ, so nothing is cut off.
    for (dims, size) in [([36, 36, 36], [1.0; 3]), ([36, 40, 30], [1.0, 0.9, 1.0])] {
        let grid = Grid::new(dims, size).unwrap();
        let volume = sampled(grid, 1, |p| vec![field(p)]);
        for rotation in random_rotations(5, 4) {
            let expected = sampled(grid, 1, |p| vec![field(rotation.inverse() * p)]);
            for interpolation in [Interpolation::Trilinear, Interpolation::Cubic] {
                let found = rotate(&volume, &irreps("1x0"), &rotation, interpolation).unwrap();
                let error = max_difference(&found, &expected);
                assert!(error < bound(interpolation, sigma), "{interpolation} {error}");
            }
            let wrong_way =
                rotate(&volume, &irreps("1x0"), &rotation.inverse(), Interpolation::Trilinear);
            assert!(max_difference(&wrong_way.unwrap(), &expected) > 0.3, "direction matters");
        }
    }
}

#[test]
fn harmonic_fields_are_their_own_rotations() {
    // f(p) = Y_l(p) g(|p|) satisfies D(R) f(R⁻¹ p) = f(p) for every R.
    let grid = Grid::new([21; 3], [1.0; 3]).unwrap();
    let types = irreps("1x0+2x1+1x2+1x3");
    let field = |p: Vector3<f64>| {
        let y = spherical_harmonics(3, [p.x, p.y, p.z], Normalization::Component);
        let radius = p.norm();
        let shell = radius.powi(3) * (-radius * radius / 12.0).exp() / 20.0;
        let all = [&y[0..1], &y[1..4], &y[1..4], &y[4..9], &y[9..16]].concat();
        all.into_iter().map(|value| value * shell).collect()
    };
    let volume = sampled(grid, 19, field);
    for rotation in random_rotations(6, 3) {
        let turned = rotate(&volume, &types, &rotation, Interpolation::Cubic).unwrap();
        let error = max_difference(&turned, &volume);
        assert!(error < 0.02, "{error}, of values up to 3");
        let scalars = rotate(&volume, &irreps("19x0"), &rotation, Interpolation::Cubic).unwrap();
        assert!(max_difference(&scalars, &volume) > 0.5, "components must turn");
    }
    for rotation in cube_group() {
        let turned = rotate(&volume, &types, &rotation, Interpolation::Nearest).unwrap();
        assert!(max_difference(&turned, &volume) < 2e-6, "exact up to f32");
    }
}

#[test]
fn vectors_turn_with_the_matrix_itself() {
    let grid = Grid::new([3; 3], [1.0; 3]).unwrap();
    let vector = Vector3::new(0.3, -1.2, 0.5);
    let volume = sampled(grid, 3, |_| vector.as_slice().to_vec());
    for rotation in cube_group().into_iter().chain(random_rotations(7, 3)) {
        let turned = rotate(&volume, &irreps("1x1"), &rotation, Interpolation::Nearest).unwrap();
        let centre = [0, 1, 2].map(|channel| turned.data()[channel * 27 + 13]);
        let expected = rotation * vector;
        for axis in 0..3 {
            assert!((f64::from(centre[axis]) - expected[axis]).abs() < 1e-6);
        }
    }
}

#[test]
fn there_and_back_again_cubic_beats_trilinear() {
    let grid = Grid::new([32; 3], [1.0; 3]).unwrap();
    // PSNR in dB for a peak of 1: nearest, trilinear, cubic, sinc.
    for (sigma, table) in [
        (1.0, [43.7, 46.6, 65.4, 65.2]),
        (1.5, [42.0, 47.1, 76.8, 67.4]),
        (2.5, [40.2, 49.1, 90.2, 68.1]),
    ] {
        let field = blobs(sigma);
        let volume = sampled(grid, 1, |p| vec![field(p)]);
        let psnr = |interpolation| {
            let errors = random_rotations(8, 4).into_iter().map(|rotation| {
                let turned = rotate(&volume, &irreps("1x0"), &rotation, interpolation).unwrap();
                let back = rotate(&turned, &irreps("1x0"), &rotation.inverse(), interpolation);
                let back = back.unwrap();
                let pairs = back.data().iter().zip(volume.data());
                pairs.map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>()
            });
            let mean = errors.sum::<f64>() / (4 * grid.voxels()) as f64;
            -10.0 * mean.log10()
        };
        for (found, expected) in ALL.map(psnr).into_iter().zip(table) {
            assert!((found - expected).abs() < 0.1, "sigma {sigma}: {found}, not {expected}");
        }
        assert!(table[0] < table[1] && table[1] + 10.0 < table[2]);
    }
}

#[test]
fn there_and_back_again_cubic_beats_trilinear_on_a_density_map() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let path = path.join("../formats/tests/data/volumes/emd_3197.map.gz");
    let Ok(FileContents::Volume(map)) = read(&path) else { panic!("no map") };
    let map = crop(&map, [-9; 3], [38; 3]).unwrap();
    let error = |interpolation| -> f64 {
        let errors = random_rotations(18, 2).into_iter().map(|rotation| {
            let turned = rotate(&map, &irreps("1x0"), &rotation, interpolation).unwrap();
            let back = rotate(&turned, &irreps("1x0"), &rotation.inverse(), interpolation).unwrap();
            let pairs = back.data().iter().zip(map.data());
            pairs.map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>()
        });
        errors.sum()
    };
    let [nearest, trilinear, cubic, sinc] = ALL.map(error);
    assert!(nearest > trilinear);
    // 10 dB.
    assert!(trilinear > 10.0 * cubic && trilinear > 10.0 * sinc, "{trilinear} {cubic} {sinc}");
}

#[test]
fn turned_points_and_turned_densities_agree() {
    let mut stream = Stream::new(9, "points", &[]);
    let positions: Vec<[f64; 3]> =
        (0..30).map(|_| [0; 3].map(|_| 5.0 * (stream.uniform() - 0.5))).collect();
    let cloud = PointCloud::new(positions, vec![0; 30]).unwrap();
    let voxeliser = Voxeliser { sigma: 1.5, ..Voxeliser::paper(28, 1.0) };
    let straight = voxeliser.voxelise(&cloud, &Rotation::identity()).unwrap();
    let peak = straight.data().iter().copied().fold(0.0, f32::max);
    for rotation in random_rotations(10, 4) {
        let exact = voxeliser.voxelise(&cloud, &rotation).unwrap();
        assert_eq!(
            exact,
            voxeliser.voxelise(&cloud.rotated(&rotation), &Rotation::identity()).unwrap()
        );
        let turned = rotate(&straight, &irreps("1x0"), &rotation, Interpolation::Cubic).unwrap();
        // σ = 1.5 voxels: the spline's error is below 1 % of the peak (see `bound`), the
        // normalisation to the lattice far below.
        let error = max_difference(&exact, &turned) / f64::from(peak);
        assert!(error < 0.01, "{error}");
    }
}

#[test]
fn whole_shifts_are_exact_and_fractional_ones_match_the_function() {
    let volume = noise([4, 5, 6], 2, 11);
    for interpolation in ALL {
        let moved = translate(&volume, [2.0, -1.0, 1.0], interpolation).unwrap();
        for (voxel, [z, y, x]) in voxels([4, 5, 6]).enumerate() {
            let from = [z as i64 - 1, y as i64 + 1, x as i64 - 2];
            let inside = (0..3).all(|i| (0..[4, 5, 6][i]).contains(&from[i]));
            let expected = |channel: i64| {
                let at = ((channel * 4 + from[0]) * 5 + from[1]) * 6 + from[2];
                if inside { volume.data()[at as usize] } else { 0.0 }
            };
            assert_eq!(moved.data()[voxel], expected(0));
            assert_eq!(moved.data()[120 + voxel], expected(1));
        }
    }
    let grid = Grid::new([36; 3], [1.0; 3]).unwrap();
    let (field, shift) = (blobs(2.0), Vector3::new(0.3, -1.6, 0.5));
    let volume = sampled(grid, 1, |p| vec![field(p)]);
    let expected = sampled(grid, 1, |p| vec![field(p - shift)]);
    for interpolation in [Interpolation::Trilinear, Interpolation::Cubic] {
        let moved = translate(&volume, shift.into(), interpolation).unwrap();
        let error = max_difference(&moved, &expected);
        assert!(error < bound(interpolation, 2.0), "{interpolation} {error}");
    }
    for far in [1e9, -1e300] {
        let moved = translate(&volume, [far, 0.5, 0.0], Interpolation::Cubic).unwrap();
        assert!(moved.data().iter().all(|&v| v == 0.0));
    }
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    let volume = noise([9, 10, 11], 4, 12);
    let rotation = random_rotations(13, 1)[0];
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| ALL.map(|how| rotate(&volume, &irreps("1x0+1x1"), &rotation, how).unwrap()))
    };
    assert_eq!(run(1), run(3));
}

#[test]
fn a_rotator_gives_the_same_bits() {
    let volume = noise([5, 6, 5], 4, 15);
    let types = irreps("1x0+1x1");
    let quarter = Rotation::from_axis_angle(&Vector3::z_axis(), std::f64::consts::FRAC_PI_2);
    for how in ALL {
        let grid = volume.grid();
        let rotator = Rotator::new(volume.data().to_vec(), grid, types.clone(), how).unwrap();
        for rotation in random_rotations(3, 3).into_iter().chain([quarter]) {
            let mut target = vec![f32::NAN; volume.data().len()];
            rotator.rotate_into(&rotation, &mut target).unwrap();
            assert_eq!(target, rotate(&volume, &types, &rotation, how).unwrap().data());
        }
        assert!(rotator.rotate_into(&quarter, &mut [0.0; 3]).is_err());
        assert!(Rotator::new(vec![0.0; 3], grid, types.clone(), how).is_err());
        assert!(Rotator::new(vec![f32::NAN; 600], grid, types.clone(), how).is_err());
    }
}

#[test]
fn wrong_arguments_are_refused() {
    let volume = noise([3; 3], 2, 14);
    let (identity, how) = (Rotation::identity(), Interpolation::Trilinear);
    assert!(matches!(
        rotate(&volume, &irreps("1x1"), &identity, how),
        Err(VolumeError::Irreps { dim: 3, channels: 2, .. })
    ));
    let nan = Rotation::from_matrix_unchecked(nalgebra::Matrix3::repeat(f64::NAN));
    let mirror = Rotation::from_matrix_unchecked(-nalgebra::Matrix3::identity());
    let twice = Rotation::from_matrix_unchecked(2.0 * nalgebra::Matrix3::identity());
    for bad in [nan, mirror, twice] {
        assert_eq!(
            rotate(&volume, &irreps("2x0"), &bad, how).unwrap_err(),
            VolumeError::NotARotation
        );
    }
    assert!(translate(&volume, [f64::NAN, 0.0, 0.0], how).is_err());
    let grid = volume.grid();
    let mut short = vec![0.0; 53];
    assert!(rotate_into(volume.data(), &grid, &irreps("2x0"), &identity, how, &mut short).is_err());
    assert!(translate_into(&volume.data()[1..], &grid, [0.0; 3], how, &mut short).is_err());
    assert!(translate_into(&[], &grid, [0.0; 3], how, &mut []).is_err());
    let (infinite, mut target) = (vec![f32::INFINITY; 27], vec![0.0; 27]);
    assert!(translate_into(&infinite, &grid, [0.0; 3], how, &mut target).is_err());
    assert_eq!("cubic".parse(), Ok(Interpolation::Cubic));
    assert!("bicubic".parse::<Interpolation>().is_err());
}

/// Two blobs and their Gaussian of σ = 2 sampled on a finer or coarser grid.
#[test]
fn voxels_of_another_size_sample_the_same_function() {
    let field = blobs(2.0);
    let volume = sampled(Grid::new([36; 3], [1.0; 3]).unwrap(), 1, |p| vec![field(p)]);
    for (size, dims) in [([0.8, 1.0, 0.5], [72, 36, 45]), ([1.5, 2.0, 1.2], [30, 18, 24])] {
        let grid = Grid::new(dims, size).unwrap();
        let expected = sampled(grid, 1, |p| vec![field(p)]);
        for interpolation in [Interpolation::Trilinear, Interpolation::Cubic, Interpolation::Sinc] {
            let found = change_voxel_size(&volume, size, interpolation).unwrap();
            assert_eq!(found.grid(), grid);
            for axis in 0..3 {
                assert!((found.origin()[axis] - expected.origin()[axis]).abs() < 1e-12);
            }
            // Lanczos kernels change a Gaussian of σ = 2 by 0.4 % along an axis, and by 1 % where
            // they are stretched twofold.
            let error = max_difference(&found, &expected);
            let filter = if size[0] > 1.0 { 0.02 } else { 0.001 };
            let bound = filter
                + match interpolation {
                    Interpolation::Trilinear => bound(interpolation, 2.0),
                    Interpolation::Sinc => 0.012,
                    _ => 0.0,
                };
            assert!(error < bound, "{size:?} {interpolation} {error}");
        }
    }
}

#[test]
fn larger_voxels_do_not_alias() {
    // A wave of 2.5 voxels, which voxels of 2 would show as one of 10.
    let grid = Grid::new([1, 1, 100], [1.0; 3]).unwrap();
    let wave = sampled(grid, 1, |p| vec![(2.0 * std::f64::consts::PI * p.x / 2.5).cos()]);
    let largest = |interpolation| {
        let coarse = change_voxel_size(&wave, [2.0, 1.0, 1.0], interpolation).unwrap();
        assert_eq!(coarse.dims(), [1, 1, 50]);
        let inner = &coarse.data()[10..40];
        inner.iter().fold(0.0f32, |largest, x| largest.max(x.abs()))
    };
    assert!(largest(Interpolation::Nearest) > 0.9, "labels are not filtered");
    for interpolation in [Interpolation::Trilinear, Interpolation::Cubic, Interpolation::Sinc] {
        assert!(largest(interpolation) < 0.05, "{interpolation}");
    }
}

#[test]
fn crops_and_margins_keep_values_and_positions() {
    let volume = noise([4, 5, 6], 2, 21);
    let padded = crop(&volume, [-2, -1, -3], [9, 8, 10]).unwrap();
    let position = |volume: &Volume, index: [usize; 3]| {
        [0, 1, 2].map(|i| volume.origin()[i] + index[i] as f64 * volume.voxel_size()[i])
    };
    for (i, [z, y, x]) in voxels([9, 8, 10]).enumerate() {
        let inside = (3..7).contains(&z) && (1..6).contains(&y) && (2..8).contains(&x);
        let at = || ((z - 3) * 5 + y - 1) * 6 + x - 2;
        for channel in 0..2 {
            let expected = if inside { volume.data()[channel * 120 + at()] } else { 0.0 };
            assert_eq!(padded.data()[channel * 720 + i], expected);
        }
        if inside {
            assert_eq!(position(&padded, [x, y, z]), position(&volume, [x - 2, y - 1, z - 3]));
        }
    }
    assert_eq!(crop(&padded, [2, 1, 3], [4, 5, 6]).unwrap(), volume);
    assert!(crop(&volume, [0; 3], [0, 1, 1]).is_err());
    let nothing = crop(&volume, [i32::MIN; 3], [2; 3]).unwrap();
    assert!(nothing.data().iter().all(|&x| x == 0.0));
}

#[test]
fn resampling_on_the_same_grid_is_rotation_or_translation() {
    let volume = sampled(Grid::new([9, 10, 11], [1.5; 3]).unwrap(), 4, |p| {
        vec![(-p.norm_squared() / 9.0).exp(), p.x.sin(), p.y.cos(), p.z.sin() * p.x.cos()]
    });
    let types = irreps("1x0+1x1");
    let rotation = random_rotations(15, 1)[0];
    let matrix = Rotation3::from_matrix_unchecked(*rotation.matrix());
    let turn: Affine3<f64> = nalgebra::convert(matrix);
    let shift: Affine3<f64> = nalgebra::convert(Translation3::new(0.5, -3.0, 1.5));
    for interpolation in ALL {
        let resample = |map: &Affine3<f64>| {
            let grid = volume.grid();
            resample_to(&volume, &types, grid, volume.origin(), map, interpolation).unwrap()
        };
        let expected = rotate(&volume, &types, &rotation, interpolation).unwrap();
        // The same indices up to 1e-15, except where two voxels are equally near.
        let error = max_difference(&resample(&turn), &expected);
        assert!(error < 1e-5, "{interpolation} {error}");
        let moved = translate(&volume, [0.5 / 1.5, -2.0, 1.0], interpolation).unwrap();
        assert!(max_difference(&resample(&shift), &moved) < 1e-6, "{interpolation}");
        assert_eq!(resample(&Affine3::identity()), volume);
    }
}

#[test]
fn vectors_turn_with_the_rotation_of_a_map_and_are_not_stretched() {
    let grid = Grid::new([5; 3], [1.0; 3]).unwrap();
    let vector = Vector3::new(0.3, -1.2, 0.5);
    let volume = sampled(grid, 3, |_| vector.as_slice().to_vec());
    let rotation = random_rotations(16, 1)[0];
    let turn = Rotation3::from_matrix_unchecked(*rotation.matrix());
    let stretch: Affine3<f64> = nalgebra::convert(Scale3::new(2.0, 3.0, 1.5));
    let resample = |map: &Affine3<f64>| {
        let how = Interpolation::Trilinear;
        resample_to(&volume, &irreps("1x1"), grid, volume.origin(), map, how)
    };
    let turned = resample(&(turn * stretch)).unwrap();
    let expected = rotation * vector;
    for axis in 0..3 {
        assert!((f64::from(turned.data()[axis * 125 + 62]) - expected[axis]).abs() < 1e-6);
    }
    for bad in
        [Scale3::new(-1.0, 1.0, 1.0), Scale3::new(0.0, 1.0, 1.0), Scale3::new(f64::NAN, 1.0, 1.0)]
    {
        let error = resample(&nalgebra::convert(bad)).unwrap_err();
        assert!(matches!(error, VolumeError::Parameter { field: "map", .. }), "{error}");
    }
    let map = Affine3::identity();
    let wrong = resample_to(&volume, &irreps("1x0"), grid, [0.0; 3], &map, Interpolation::Cubic);
    assert!(matches!(wrong, Err(VolumeError::Irreps { dim: 1, channels: 3, .. })));
    let nowhere = [f64::NAN, 0.0, 0.0];
    let far = nalgebra::convert(Translation3::new(0.0, f64::INFINITY, 0.0));
    for (origin, map) in [(nowhere, map), ([0.0; 3], far)] {
        for how in ALL {
            let wrong = resample_to(&volume, &irreps("1x1"), grid, origin, &map, how);
            assert!(matches!(wrong, Err(VolumeError::Parameter { field: "map", .. })));
        }
    }
    for size in [0.0, -1.0, f64::NAN, 1e-9] {
        assert!(change_voxel_size(&volume, [1.0, size, 1.0], Interpolation::Cubic).is_err());
    }
}

#[test]
fn sinc_weights_keep_constants_and_values_at_voxels() {
    let grid = Grid::new([13; 3], [1.0; 3]).unwrap();
    let ones = sampled(grid, 1, |_| vec![1.0]);
    let rotation = random_rotations(17, 1)[0];
    let turned = rotate(&ones, &irreps("1x0"), &rotation, Interpolation::Sinc).unwrap();
    assert!((turned.data()[(6 * 13 + 6) * 13 + 7] - 1.0).abs() < 1e-6);
    assert_eq!("sinc".parse(), Ok(Interpolation::Sinc));
    assert_eq!(Interpolation::Sinc.to_string(), "sinc");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn cube_rotations_compose(
        n in 1usize..6,
        first in 0usize..24,
        second in 0usize..24,
        text in prop::sample::select(vec!["2x0", "1x1", "1x0+1x2", "1x0e+1x1o", "1x3"]),
        seed in 0u64..100,
    ) {
        let types = irreps(text);
        let volume = noise([n; 3], types.dim(), seed);
        let (a, b) = (cube_group()[first], cube_group()[second]);
        let step = rotate(&volume, &types, &a, Interpolation::Trilinear).unwrap();
        let steps = rotate(&step, &types, &b, Interpolation::Trilinear).unwrap();
        let at_once = rotate(&volume, &types, &(b * a), Interpolation::Trilinear).unwrap();
        // Two products with matrices of entries below 1 in f32.
        prop_assert!(max_difference(&steps, &at_once) < 1e-5);
    }

    #[test]
    fn linear_interpolation_stays_within_the_range_of_values(
        dims in [1usize..6, 1usize..6, 1usize..6],
        seed in 0u64..1000,
    ) {
        let volume = noise(dims, 1, seed);
        let rotation = random_rotations(seed, 1)[0];
        let turned = rotate(&volume, &irreps("1x0"), &rotation, Interpolation::Trilinear).unwrap();
        let largest = volume.data().iter().map(|v| v.abs()).fold(0.0, f32::max);
        prop_assert!(turned.data().iter().all(|v| v.abs() <= largest * (1.0 + 1e-6)));
    }
}
