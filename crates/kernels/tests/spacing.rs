//! One set of weights on voxels of other edges: derivatives in closed form, limits, and how far the output moves.

use proptest::prelude::*;
use steer3d_kernels::equivariance::spacing_error;
use steer3d_kernels::{BallMask, BumpShape, Family, HarmonicFamily};
use steer3d_kernels::{JetPlan, KernelBasis, KernelError, MAX_SIZE, SeparablePlan, TapGrid};
use steer3d_so3::{Irreps, Stream};

fn cubic(size: usize) -> TapGrid {
    TapGrid::new(size, [1.0; 3]).unwrap()
}

fn irreps(text: &str) -> Irreps {
    text.parse().unwrap()
}

fn families() -> [Family; 6] {
    [
        Family::shells(),
        Family::jets(2),
        Family::GaussianJets { order: 4, sigma: Some(0.8) },
        Family::Bessel { functions: 2, max_degree: Some(2) },
        Family::SoftOneHot {
            functions: 3,
            shape: BumpShape::Cosine,
            cutoff: steer3d_kernels::AngularCutoff::default(),
        },
        Family::Radii { cutoff: steer3d_kernels::AngularCutoff::default() },
    ]
}

#[test]
fn the_voxels_that_a_kernel_was_made_for_change_nothing() {
    for edges in [[1.0; 3], [1.0, 1.0, 2.0], [1.25, 1.0, 1.5]] {
        let grid = TapGrid::new(5, edges).unwrap();
        let same = grid.at_spacing([0.7, 2.0, 1.1]).unwrap().at_spacing(edges).unwrap();
        assert_eq!(same, grid);
        for family in families() {
            assert_eq!(family.sample(&same, 3).unwrap(), family.sample(&grid, 3).unwrap());
        }
    }
}

#[test]
fn taps_reach_as_far_as_those_that_the_kernel_was_made_for() {
    let size = |edges: [f64; 3]| cubic(5).at_spacing(edges).unwrap().size();
    assert_eq!(size([1.0, 1.0, 2.5]), 5);
    assert_eq!(size([0.9, 1.0, 2.5]), 7);
    assert_eq!(size([0.5, 1.0, 2.5]), 9);
    // 0.999999999 is 1 and rounding.
    assert_eq!(size([0.999_999_999, 1.0, 1.0]), 5);
    let fine = cubic(7).at_spacing([0.2; 3]).unwrap();
    assert_eq!((fine.size(), fine.made_for(), fine.radius()), (31, cubic(7), 3.5));
    assert!((fine.volume_ratio() - 0.008).abs() < 1e-15);
    let [single, narrow] = [TapGrid::new(1, [1.0; 3]).unwrap(), cubic(1)];
    assert_eq!(single.at_spacing([0.1, 3.0, 1.0]).unwrap(), narrow);
}

#[test]
fn spacings_out_of_range_give_typed_errors() {
    for bad in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        let found = cubic(5).at_spacing([1.0, bad, 1.0]);
        assert!(matches!(found, Err(KernelError::VoxelSize { axis: 'y', .. })), "{found:?}");
    }
    for bad in [4.01, 0.13] {
        let found = cubic(5).at_spacing([1.0, 1.0, bad]);
        assert!(matches!(found, Err(KernelError::Spacing { axis: 'z', .. })), "{found:?}");
    }
    let least = 2.0 / (MAX_SIZE / 2) as f64;
    assert_eq!(cubic(5).at_spacing([least, 1.0, 1.0]).unwrap().size(), MAX_SIZE);
    let text = cubic(5).at_spacing([1.0, 1.0, 5.0]).unwrap_err().to_string();
    assert!(text.contains("along z is 5") && text.contains("0.133 to 4;"), "{text}");
}

/// Σ_j filter\[j\] f(x + j v).
fn response(filter: &[f64], edge: f64, f: impl Fn(f64) -> f64) -> f64 {
    let half = (filter.len() / 2) as f64;
    filter.iter().enumerate().map(|(j, tap)| tap * f((j as f64 - half) * edge)).sum()
}

#[test]
fn filters_give_the_derivatives_of_a_wave_on_any_voxels() {
    // D^a of a Gaussian takes cos(w x + c) to w^a exp(−σ²w²/2) cos(w x + c + a π/2).
    let (sigma, w, c) = (1.0f64, 0.7f64, 0.4f64);
    let made_for = cubic(9);
    for (edge, allowed) in [(0.5, 2e-3), (0.75, 2e-3), (1.0, 2e-3), (1.4, 2e-3), (1.8, 1e-2)] {
        let grid = made_for.at_spacing([edge; 3]).unwrap();
        let plan = JetPlan::new(&grid, 3, Some(sigma), 3).unwrap();
        for a in 0..=3 {
            let filter = &plan.taps[0][a * plan.size..][..plan.size];
            let found = response(filter, edge, |x| (w * x + c).cos());
            let gain = w.powi(a as i32) * (-(sigma * w).powi(2) / 2.0).exp();
            let expected = gain * (c + a as f64 * std::f64::consts::FRAC_PI_2).cos();
            assert!((found - expected).abs() < allowed * gain, "{edge} {a}: {found} {expected}");
        }
    }
}

#[test]
fn a_dense_kernel_is_the_same_integral_on_any_voxels() {
    // A kernel of a Gaussian, summed over the field exp(−|x − q|²/2s²): bounded by what the coarsest grid aliases.
    let family = Family::SoftOneHot {
        functions: 1,
        shape: BumpShape::SmoothFinite,
        cutoff: steer3d_kernels::AngularCutoff::None,
    };
    let q = [0.4, -0.3, 0.2];
    let field = |p: [f64; 3]| {
        (-(0..3).map(|i| (p[i] - q[i]).powi(2)).sum::<f64>() / (2.0 * 1.5 * 1.5)).exp()
    };
    let respond = |grid: &TapGrid| -> Vec<f64> {
        let functions = family.sample(grid, 1).unwrap();
        let values: Vec<f64> = grid.positions().into_iter().map(field).collect();
        let components = functions.iter().flat_map(|f| f.samples.chunks_exact(values.len()));
        components.map(|b| b.iter().zip(&values).map(|(b, f)| b * f).sum()).collect()
    };
    let fine = respond(&cubic(9).at_spacing([0.5; 3]).unwrap());
    for edges in [[1.0; 3], [1.0, 1.0, 1.25], [0.75, 0.8, 1.0], [0.6, 1.0, 1.25]] {
        for (found, expected) in respond(&cubic(9).at_spacing(edges).unwrap()).iter().zip(&fine) {
            assert!((found / expected - 1.0).abs() < 0.02, "{edges:?}: {found} {expected}");
        }
    }
}

/// With weights √n f(r_i) the kernel is f at every radius of the taps, and the interpolated f on other voxels.
#[test]
fn learned_radial_functions_are_interpolated() {
    let family = Family::Radii { cutoff: steer3d_kernels::AngularCutoff::None };
    let made_for = cubic(5);
    let radii = made_for.radii();
    let f = |r: f64| 1.0 - 0.3 * r;
    for edges in [[1.0; 3], [0.5, 0.8, 1.0], [1.0, 1.0, 1.7]] {
        let grid = made_for.at_spacing(edges).unwrap();
        let functions = family.sample(&grid, 0).unwrap();
        assert_eq!(functions.len(), radii.len());
        let taps = |i: usize| {
            let at = |p: &&[f64; 3]| (p.iter().map(|c| c * c).sum::<f64>().sqrt() - radii[i]).abs();
            made_for.positions().iter().filter(|p| at(p) < 1e-9).count() as f64
        };
        for (tap, p) in grid.positions().iter().enumerate() {
            let r = p.iter().map(|c| c * c).sum::<f64>().sqrt();
            let at = |i: usize| taps(i).sqrt() * f(radii[i]) * functions[i].samples[tap];
            let found = (0..radii.len()).map(at).sum::<f64>() / grid.volume_ratio();
            let expected = if r > 2.5 { 0.0 } else { f(r.min(radii[radii.len() - 1])) };
            assert!((found - expected).abs() < 1e-12, "{edges:?}, r = {r}: {found} {expected}");
        }
    }
}

#[test]
fn a_mask_cuts_in_units_of_length() {
    let masked = BallMask { family: Family::shells(), radius: 1.6 };
    let grid = cubic(5).at_spacing([0.8, 0.8, 2.0]).unwrap();
    let functions = masked.sample(&grid, 2).unwrap();
    assert_eq!(functions.len(), masked.sample(&cubic(5), 2).unwrap().len());
    for f in &functions {
        for (value, p) in f.samples.iter().zip(grid.positions().iter().cycle()) {
            let outside = p.iter().map(|c| c * c).sum::<f64>().sqrt() > 1.6;
            assert!(!outside || *value == 0.0);
        }
    }
}

#[test]
fn outputs_stay_as_near_as_the_table_says() {
    let fields = irreps("8x0+4x1+2x2");
    let error = |size, order, z, width| {
        let family = Family::jets(order);
        spacing_error(&fields, &fields, size, &family, [1.0, 1.0, z], width).unwrap()
    };
    // Fields of width 2, on slices of 1.5, 2 and 2.5 times the edge.
    for (size, order, bounds) in
        [(5, 2, [0.005, 0.02, 0.055]), (7, 2, [0.002, 0.012, 0.045]), (7, 4, [0.003, 0.016, 0.05])]
    {
        for (z, bound) in [1.5, 2.0, 2.5].into_iter().zip(bounds) {
            let found = error(size, order, z, 2.0);
            assert!(found < bound, "k = {size}, N = {order}, z = {z}: {found}");
        }
        assert!(error(size, order, 1.0, 2.0) < 1e-12);
        assert!(error(size, order, 2.5, 1.0) > 0.2, "a field that the voxels cannot hold");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn separable_kernels_are_the_dense_ones(
        (i, o) in prop::sample::select(vec![
            ("1x0+2x1", "2x0+1x2"), ("2x0", "1x1+1x3"), ("1x0e+1x1o", "1x0e+2x1o+1x2e"),
        ]),
        (size, order) in prop::sample::select(vec![(3, 2), (5, 2), (5, 4), (7, 3)]),
        edges in prop::array::uniform3(0.6f64..3.0),
        seed in 0u64..1000,
    ) {
        let (i, o, family) = (irreps(i), irreps(o), Family::jets(order));
        let made_for = KernelBasis::new(&i, &o, size, &family, [1.0; 3]).unwrap();
        let basis = made_for.at_spacing(&family, edges).unwrap();
        prop_assert_eq!(basis.num_weights(), made_for.num_weights());
        let weights = basis.initial_weights(&mut Stream::new(seed, "weights", &[]));
        prop_assert_eq!(&weights, &made_for.initial_weights(&mut Stream::new(seed, "weights", &[])));
        let filter = basis.expand(&weights).unwrap();
        let plan = SeparablePlan::new(&basis, &family).unwrap().unwrap();
        // The couplings are those that it was made with.
        let original = SeparablePlan::new(&made_for, &family).unwrap().unwrap();
        prop_assert_eq!(&plan.couplings, &original.couplings);
        let found = expanded(&plan, &weights);
        let scale = filter.iter().map(|v| v.abs()).fold(0.0, f64::max);
        for (a, b) in filter.iter().zip(&found) {
            prop_assert!((a - b).abs() < 1e-12 * scale, "{} {}", a, b);
        }
    }
}

/// The dense filter of a separable plan, from its formulas.
fn expanded(plan: &SeparablePlan, weights: &[f64]) -> Vec<f64> {
    let k = plan.size;
    let [x, y, z] = &plan.taps;
    let mut filter = vec![0.0; plan.channels_out() * plan.channels_in() * k.pow(3)];
    for c in &plan.couplings {
        let (input, output) = (plan.inputs[c.input], plan.outputs[c.output]);
        for (row, terms) in c.rows.iter().enumerate() {
            let (path, component) = (row / output.dim, row % output.dim);
            for (v, u) in (0..output.mul).flat_map(|v| (0..input.mul).map(move |u| (v, u))) {
                let weight = weights[c.weight_offset + (v * input.mul + u) * c.paths + path];
                for term in terms {
                    let out = output.offset + v * output.dim + component;
                    let from = input.offset + u * input.dim + term.component;
                    let [a, b, c] = plan.jets[term.jet];
                    for t in 0..k.pow(3) {
                        let value =
                            x[a * k + t % k] * y[b * k + t / k % k] * z[c * k + t / (k * k)];
                        filter[(out * plan.channels_in() + from) * k.pow(3) + t] +=
                            weight * term.value * value;
                    }
                }
            }
        }
    }
    filter
}
