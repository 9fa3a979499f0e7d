//! Kernel bases: the kernel constraint, the reference basis of se3cnn, expansion, initialisation.

use nalgebra::{DMatrix, DVector, Vector3};
use npyz::npz::NpzArchive;
use proptest::prelude::*;
use steer3d_kernels::{
    AngularCutoff, Family, KernelBasis, KernelError, KernelGroup, SeparablePlan, TapGrid,
};
use steer3d_so3::{Irreps, Rotation, Stream, cube_group};

const CUBIC: [f64; 3] = [1.0; 3];

fn irreps(text: &str) -> Irreps {
    text.parse().unwrap()
}

fn families(size: usize) -> Vec<Family> {
    let mut families = vec![
        Family::shells(),
        Family::GaussianShells { sigma: 0.8, cutoff: AngularCutoff::None },
        Family::GaussianJets { order: size - 1, sigma: Some(0.75) },
    ];
    families.extend((0..size).map(Family::jets));
    families
}

/// Largest violation of κ(R x) = D_out κ(x) D_inᵀ over the taps, for an R that permutes them.
fn constraint_violation(basis: &KernelBasis, filter: &[f64], rotation: &Rotation) -> f64 {
    let taps = basis.grid().num_taps();
    let (c_out, c_in) = (basis.irreps_out().dim(), basis.irreps_in().dim());
    let positions = basis.grid().positions();
    let index_of = |p: Vector3<f64>| {
        positions.iter().position(|q| (Vector3::from(*q) - p).norm() < 1e-9).unwrap()
    };
    let at = |t: usize| DMatrix::from_fn(c_out, c_in, |o, i| filter[(o * c_in + i) * taps + t]);
    let d_out = basis.irreps_out().wigner_d(rotation);
    let d_in = basis.irreps_in().wigner_d(rotation);
    (0..taps)
        .map(|t| {
            let rotated = at(index_of(rotation * Vector3::from(positions[t])));
            (rotated - &d_out * at(t) * d_in.transpose()).amax()
        })
        .fold(0.0, f64::max)
}

fn random_weights(basis: &KernelBasis, seed: u64) -> Vec<f64> {
    basis.initial_weights(&mut Stream::new(seed, "weights", &[]))
}

#[test]
fn kernels_obey_the_constraint_for_the_cube_group() {
    let (input, output) = (irreps("2x0+1x1+1x2"), irreps("1x0+2x1+1x2+1x3"));
    for size in [1, 3, 5] {
        for family in families(size) {
            let basis = KernelBasis::new(&input, &output, size, &family, CUBIC).unwrap();
            let filter = basis.expand(&random_weights(&basis, 1)).unwrap();
            for rotation in cube_group() {
                let violation = constraint_violation(&basis, &filter, &rotation);
                assert!(violation < 1e-12, "{family:?}, k = {size}: {violation}");
            }
        }
    }
}

#[test]
fn a_broken_kernel_violates_the_constraint() {
    let basis =
        KernelBasis::new(&irreps("1x0+1x1"), &irreps("1x1"), 5, &Family::jets(3), CUBIC).unwrap();
    let mut filter = basis.expand(&random_weights(&basis, 2)).unwrap();
    filter[7] += 1e-3;
    let worst =
        cube_group().iter().map(|r| constraint_violation(&basis, &filter, r)).fold(0.0, f64::max);
    assert!(worst > 1e-4);
}

#[test]
fn anisotropic_voxels_keep_the_rotations_that_map_the_grid_to_itself() {
    let basis = KernelBasis::new(
        &irreps("1x0+1x1"),
        &irreps("1x1+1x2"),
        5,
        &Family::shells(),
        [1.0, 1.0, 2.5],
    )
    .unwrap();
    let filter = basis.expand(&random_weights(&basis, 3)).unwrap();
    let kept: Vec<_> = cube_group().into_iter().filter(|r| r[(2, 2)].abs() == 1.0).collect();
    assert_eq!(kept.len(), 8);
    for rotation in kept {
        assert!(constraint_violation(&basis, &filter, &rotation) < 1e-12);
    }
}

#[test]
fn anisotropic_shells_are_the_cubic_ones_at_shared_positions() {
    // With voxels half as long in z, taps 1, 3, 5, ... of 9 lie where taps 0..5 of cubic voxels do.
    let (input, output) = (irreps("1x1"), irreps("1x1"));
    let cubic = KernelBasis::new(&input, &output, 5, &Family::shells(), CUBIC).unwrap();
    let fine = KernelBasis::new(&input, &output, 9, &Family::shells(), [1.0, 1.0, 0.5]).unwrap();
    let fine_positions = fine.grid().positions();
    for path in &cubic.pairs()[0].paths {
        let samples = |basis: &KernelBasis| {
            let pair = &basis.pairs()[0];
            let p = pair.paths.iter().position(|q| q == path).unwrap();
            let taps = basis.grid().num_taps();
            DMatrix::from_row_slice(9, taps, &pair.samples[p * 9 * taps..][..9 * taps])
        };
        let coarse = samples(&cubic);
        let shared: Vec<usize> = cubic
            .grid()
            .positions()
            .iter()
            .map(|p| fine_positions.iter().position(|q| q == p).unwrap())
            .collect();
        let picked = samples(&fine).select_columns(&shared);
        // The two differ by their normalisation alone.
        let scale = picked.norm() / coarse.norm();
        assert!((picked - coarse * scale).amax() < 1e-12);
    }
}

#[test]
fn span_agrees_with_se3cnn() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/se3cnn_kernel_basis_size5.npz");
    let mut archive = NpzArchive::open(path).unwrap();
    let family = Family::GaussianShells { sigma: 0.6, cutoff: AngularCutoff::TwiceRadiusPlusOne };
    for l_in in 0..3 {
        for l_out in 0..3 {
            let array = archive.by_name(&format!("in{l_in}_out{l_out}")).unwrap().unwrap();
            let rows = array.shape()[0] as usize;
            let theirs: Vec<f64> = array.into_vec().unwrap();
            let theirs = DMatrix::from_row_slice(rows, theirs.len() / rows, &theirs);

            let (input, output) = (irreps(&format!("1x{l_in}")), irreps(&format!("1x{l_out}")));
            let basis = KernelBasis::new(&input, &output, 5, &family, CUBIC).unwrap();
            let pair = &basis.pairs()[0];
            assert_eq!(pair.paths.len(), rows);
            let components = (2 * l_in + 1) * (2 * l_out + 1);
            // Their tap (x, y, z) is ours at A (x, y, z) = (y, z, x), stored in z, y, x order.
            let ours = DMatrix::from_fn(rows, components * 125, |row, column| {
                let (component, tap) = (column / 125, column % 125);
                let (x, y, z) = (tap / 25, tap / 5 % 5, tap % 5);
                pair.samples[(row * components + component) * 125 + (x * 5 + z) * 5 + y]
            });
            let solution =
                (&ours * ours.transpose()).lu().solve(&(&ours * theirs.transpose())).unwrap();
            let residual = (theirs - solution.transpose() * ours).amax();
            // Their radial functions are rounded to float32 in places: 6e-8 relative.
            assert!(residual < 1e-7, "in {l_in} out {l_out}: {residual}");
        }
    }
}

#[test]
fn paper_shells_have_the_expected_dimensions() {
    // k = 5, J <= 2m: radii 0, 1, 2 admit J <= 0, 2, 4.
    let count = |l_in: usize, l_out: usize| {
        let (input, output) = (irreps(&format!("1x{l_in}")), irreps(&format!("1x{l_out}")));
        KernelBasis::new(&input, &output, 5, &Family::shells(), CUBIC).unwrap().num_weights()
    };
    assert_eq!(count(0, 0), 3);
    assert_eq!(count(0, 1), 2);
    assert_eq!(count(1, 1), 3 + 2 + 2);
    assert_eq!(count(2, 2), 3 + 2 + 2 + 1 + 1);
}

#[test]
fn jets_of_order_n_number_as_the_derivatives() {
    // Σ (2J+1) over J + 2n <= N is the number of partial derivatives of order <= N.
    for (order, expected) in [(1, 4), (2, 10), (3, 20), (4, 35), (6, 84)] {
        let input = irreps("1x0");
        let output = irreps("1x0+1x1+1x2+1x3+1x4+1x5+1x6");
        let basis = KernelBasis::new(&input, &output, 7, &Family::jets(order), CUBIC).unwrap();
        let functions: usize = basis.pairs().iter().map(|p| p.paths.len() * p.dim_out).sum();
        assert_eq!(functions, expected);
    }
}

#[test]
fn parity_keeps_the_paths_that_o3_allows() {
    let family = Family::shells();
    let count = |input: &str, output: &str| {
        KernelBasis::new(&irreps(input), &irreps(output), 5, &family, CUBIC).unwrap().num_weights()
    };
    // Vector to vector: even J (0 and 2); vector to pseudovector: odd J (the cross product).
    assert_eq!(count("1x1o", "1x1o"), 3 + 2);
    assert_eq!(count("1x1o", "1x1e"), 2);
    assert_eq!(count("1x1", "1x1"), 3 + 2 + 2);
    assert_eq!(count("1x0e", "1x0o"), 0);
}

#[test]
fn unreached_outputs_are_named() {
    let basis =
        KernelBasis::new(&irreps("1x0e"), &irreps("2x0o+1x1o+1x1e"), 5, &Family::shells(), CUBIC)
            .unwrap();
    assert_eq!(basis.unreached_outputs(), [0, 2]);
}

#[test]
fn parity_kernels_obey_the_constraint_for_reflections() {
    let (input, output) = (irreps("1x0e+1x1o+1x1e+1x2e"), irreps("1x0o+1x1o+1x2o"));
    for family in [Family::shells(), Family::jets(4)] {
        let basis = KernelBasis::new(&input, &output, 5, &family, CUBIC).unwrap();
        let filter = basis.expand(&random_weights(&basis, 4)).unwrap();
        let signs = |irreps: &Irreps| -> Vec<f64> {
            let parity = |b: &steer3d_so3::Block| b.irrep.parity.unwrap().sign();
            irreps.blocks().flat_map(|b| vec![parity(&b); b.dim()]).collect()
        };
        let (s_out, s_in) = (signs(&output), signs(&input));
        for (row, taps) in filter.chunks_exact(125).enumerate() {
            let sign = s_out[row / s_in.len()] * s_in[row % s_in.len()];
            for t in 0..125 {
                assert!((taps[124 - t] - sign * taps[t]).abs() < 1e-12);
            }
        }
    }
}

/// About z kernels obey the constraint for the rotations about z and no others, with more kernels than under all
/// rotations, and the separable form has the same weights and filter.
#[test]
fn kernels_about_an_axis_obey_the_constraint_for_it_alone() {
    let (input, output) = (irreps("2x0+1x1"), irreps("1x0+1x1+1x2"));
    for (size, family) in [(5, Family::shells()), (5, Family::jets(2)), (3, Family::jets(1))] {
        let grid = TapGrid::new(size, CUBIC).unwrap();
        let of = |group| KernelBasis::of_group(group, &input, &output, grid.clone(), &family);
        let [basis, all] = [KernelGroup::So2, KernelGroup::So3].map(|group| of(group).unwrap());
        assert!(basis.num_weights() > 2 * all.num_weights());
        let filter = basis.expand(&random_weights(&basis, 4)).unwrap();
        for rotation in cube_group() {
            let violation = constraint_violation(&basis, &filter, &rotation);
            let about_z = rotation.matrix()[(2, 2)] > 0.5;
            assert_eq!(violation < 1e-12, about_z, "{family:?}: {violation}");
        }
        if let Some(plan) = SeparablePlan::new(&basis, &family).unwrap() {
            let volume = size.pow(3);
            let (rows, columns) = (output.dim(), input.dim());
            let weights = random_weights(&basis, 4);
            let mut separable = vec![0.0; filter.len()];
            for coupling in &plan.couplings {
                let (i, o) = (plan.inputs[coupling.input], plan.outputs[coupling.output]);
                for w in 0..i.mul * o.mul * coupling.paths {
                    let (path, copies) = (w % coupling.paths, w / coupling.paths);
                    let (u, v) = (copies / i.mul, copies % i.mul);
                    for component in 0..o.dim {
                        let row = o.offset + u * o.dim + component;
                        for term in &coupling.rows[path * o.dim + component] {
                            let column = i.offset + v * i.dim + term.component;
                            let [a, b, c] = plan.jets[term.jet];
                            for tap in 0..volume {
                                let at = |axis: usize, order: usize, place: usize| {
                                    plan.taps[axis][order * size + place]
                                };
                                let jet = at(0, a, tap % size)
                                    * at(1, b, tap / size % size)
                                    * at(2, c, tap / size / size);
                                separable[(row * columns + column) * volume + tap] +=
                                    weights[coupling.weight_offset + w] * term.value * jet;
                            }
                        }
                    }
                }
            }
            assert_eq!(separable.len(), rows * columns * volume);
            let gap = separable.iter().zip(&filter).map(|(a, b)| (a - b).abs());
            assert!(gap.fold(0.0, f64::max) < 1e-12, "{family:?}");
        }
    }
}

#[test]
fn initial_responses_have_unit_variance() {
    let input = irreps("5x0+3x1+2x2");
    let output = irreps("4x0+6x1+3x2+2x3");
    for (group, family) in [
        (KernelGroup::So3, Family::shells()),
        (KernelGroup::So3, Family::jets(4)),
        (KernelGroup::So2, Family::jets(3)),
    ] {
        let grid = TapGrid::new(5, CUBIC).unwrap();
        let basis = KernelBasis::of_group(group, &input, &output, grid, &family).unwrap();
        let row = input.dim() * basis.grid().num_taps();
        let draws = 40;
        let mut variance = vec![0.0; output.dim()];
        for draw in 0..draws {
            let filter = basis.expand(&random_weights(&basis, draw)).unwrap();
            // In white noise the variance of an output component is the squared norm of its filter.
            for (v, f) in variance.iter_mut().zip(filter.chunks_exact(row)) {
                *v += f.iter().map(|x| x * x).sum::<f64>() / draws as f64;
            }
        }
        for block in output.blocks() {
            let mean =
                variance[block.offset..][..block.dim()].iter().sum::<f64>() / block.dim() as f64;
            // A block averages at least 40 draws of a sum of about 50 squared normals: 3 % deviation.
            assert!((mean - 1.0).abs() < 0.1, "{family:?} {block:?}: {mean}");
        }
    }
}

#[test]
fn initial_weights_depend_on_the_stream_alone() {
    let basis =
        KernelBasis::new(&irreps("4x0"), &irreps("4x1"), 3, &Family::jets(2), CUBIC).unwrap();
    assert_eq!(random_weights(&basis, 5), random_weights(&basis, 5));
    assert_ne!(random_weights(&basis, 5), random_weights(&basis, 6));
}

#[test]
fn bad_arguments_give_typed_errors() {
    let scalar = irreps("1x0");
    let new =
        |size, family: &Family, voxel| KernelBasis::new(&scalar, &scalar, size, family, voxel);
    for size in [0, 2, 33, usize::MAX] {
        assert!(matches!(new(size, &Family::shells(), CUBIC), Err(KernelError::Size { .. })));
    }
    for edge in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        let found = new(3, &Family::shells(), [1.0, edge, 1.0]);
        assert!(matches!(found, Err(KernelError::VoxelSize { axis: 'y', .. })));
    }
    for sigma in [0.0, -0.5, f64::NAN, f64::INFINITY] {
        for family in [
            Family::GaussianShells { sigma, cutoff: AngularCutoff::None },
            Family::GaussianJets { order: 1, sigma: Some(sigma) },
        ] {
            assert!(matches!(new(3, &family, CUBIC), Err(KernelError::Parameter { .. })));
        }
    }
    for (size, order) in [(1, 1), (3, 3), (5, 5), (31, 9), (5, usize::MAX)] {
        assert!(matches!(
            new(size, &Family::jets(order), CUBIC),
            Err(KernelError::Parameter { name: "order", .. })
        ));
    }
    assert!(matches!(
        KernelBasis::new(&irreps("1x0e"), &scalar, 3, &Family::shells(), CUBIC),
        Err(KernelError::MixedParity { .. })
    ));
    assert!(matches!(
        KernelBasis::new(&irreps("1x11"), &irreps("1x10"), 3, &Family::shells(), CUBIC),
        Err(KernelError::Degree { .. })
    ));
    let basis = new(3, &Family::shells(), CUBIC).unwrap();
    assert!(matches!(basis.expand(&[0.0; 3]), Err(KernelError::Length { .. })));
    assert!(matches!(basis.expand_adjoint(&[0.0; 3]), Err(KernelError::Length { .. })));
}

fn any_irreps() -> impl Strategy<Value = Irreps> {
    proptest::collection::vec((1usize..4, 0usize..4), 1..4).prop_map(|blocks| {
        let terms: Vec<String> = blocks.iter().map(|(mul, l)| format!("{mul}x{l}")).collect();
        terms.join("+").parse().unwrap()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn expansion_is_the_formula_and_the_adjoint_its_transpose(
        input in any_irreps(),
        output in any_irreps(),
        jets in any::<bool>(),
        seed in any::<u64>(),
    ) {
        let family = if jets { Family::jets(2) } else { Family::shells() };
        let basis = KernelBasis::new(&input, &output, 3, &family, [1.0, 1.5, 1.0]).unwrap();
        let mut stream = Stream::new(seed, "test", &[]);
        let weights: Vec<f64> = (0..basis.num_weights()).map(|_| stream.normal()).collect();
        let filter = basis.expand(&weights).unwrap();

        let mut direct = vec![0.0; filter.len()];
        for p in basis.pairs() {
            for u in 0..p.mul_out {
                for v in 0..p.mul_in {
                    for path in 0..p.paths.len() {
                        let w = weights[p.weight_offset + (u * p.mul_in + v) * p.paths.len() + path];
                        for o in 0..p.dim_out {
                            for i in 0..p.dim_in {
                                let row = p.offset_out + u * p.dim_out + o;
                                let column = p.offset_in + v * p.dim_in + i;
                                let sample = ((path * p.dim_out + o) * p.dim_in + i) * 27;
                                for t in 0..27 {
                                    direct[(row * input.dim() + column) * 27 + t] +=
                                        w * p.samples[sample + t];
                                }
                            }
                        }
                    }
                }
            }
        }
        let difference = (DVector::from_column_slice(&filter) - DVector::from_vec(direct)).amax();
        prop_assert!(difference < 1e-13);

        let gradient: Vec<f64> = (0..filter.len()).map(|_| stream.normal()).collect();
        let pulled = basis.expand_adjoint(&gradient).unwrap();
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f64>();
        let (left, right) = (dot(&filter, &gradient), dot(&weights, &pulled));
        prop_assert!((left - right).abs() <= 1e-11 * (1.0 + left.abs()));
    }
}
