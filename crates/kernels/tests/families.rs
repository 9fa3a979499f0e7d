//! The kernel families beyond the paper's, jet plans, masks and conditioning.

use steer3d_kernels::{
    AngularCutoff, BallMask, BumpShape, Family, HarmonicFamily, JetPlan, KernelBasis, KernelError,
    TapGrid, conditioning,
};
use steer3d_so3::{Irreps, cube_group, wigner_d};

fn cubic(size: usize) -> TapGrid {
    TapGrid::new(size, [1.0; 3]).unwrap()
}

fn all_families() -> Vec<Family> {
    let mut families = vec![
        Family::shells(),
        Family::jets(3),
        Family::Bessel { functions: 3, max_degree: Some(3) },
        Family::Radii { cutoff: AngularCutoff::TwiceRadius },
    ];
    for shape in [BumpShape::Cosine, BumpShape::Gaussian, BumpShape::SmoothFinite] {
        families.push(Family::SoftOneHot { functions: 3, shape, cutoff: AngularCutoff::None });
    }
    families
}

#[test]
fn every_family_turns_with_the_cube_and_has_unit_white_noise_response() {
    let grid = cubic(5);
    let positions = grid.positions();
    for family in all_families() {
        let functions = family.sample(&grid, 3).unwrap();
        assert!(functions.is_sorted_by_key(|f| (f.j, f.radial)));
        for f in &functions {
            let power: f64 = f.samples.iter().map(|v| v * v).sum();
            assert!((power - (2 * f.j + 1) as f64).abs() < 1e-12);
            for rotation in cube_group() {
                let d = wigner_d(f.j, &rotation);
                for (t, p) in positions.iter().enumerate() {
                    let q = rotation * nalgebra::Vector3::from(*p);
                    let index = |a: f64| (a + 2.0).round() as usize;
                    let turned = (index(q.z) * 5 + index(q.y)) * 5 + index(q.x);
                    for m in 0..=2 * f.j {
                        let expected: f64 =
                            (0..=2 * f.j).map(|n| d[(m, n)] * f.samples[n * 125 + t]).sum();
                        assert!((f.samples[m * 125 + turned] - expected).abs() < 1e-12);
                    }
                }
            }
        }
    }
}

#[test]
fn bessel_functions_match_their_formula() {
    // Scalars on 5 taps, r_c = 2.5: values at r = 0, 1, 2 along x, up to the normalisation.
    let family = Family::Bessel { functions: 2, max_degree: None };
    let functions = family.sample(&cubic(5), 0).unwrap();
    for (f, n) in functions.iter().zip([1.0, 2.0]) {
        let envelope = |x: f64| 1.0 - 28.0 * x.powi(6) + 48.0 * x.powi(7) - 21.0 * x.powi(8);
        let value = |r: f64| (n * std::f64::consts::PI * r / 2.5).sin() / r * envelope(r / 2.5);
        let found = f.samples[62 + 2] / f.samples[62 + 1];
        assert!((found - value(2.0) / value(1.0)).abs() < 1e-12);
        assert_eq!(f.samples[0], 0.0);
    }
}

#[test]
fn radii_express_every_radial_function() {
    // The shells cut to the ball lie in the span of the functions of the single radii.
    let grid = cubic(5);
    let radii = grid.radii();
    assert_eq!(radii.len(), 7);
    let every = Family::Radii { cutoff: AngularCutoff::None }.sample(&grid, 2).unwrap();
    let shells = BallMask { family: Family::shells(), radius: 2.5 }.sample(&grid, 2).unwrap();
    for shell in &shells {
        let mut rest = shell.samples.clone();
        for f in every.iter().filter(|f| f.j == shell.j) {
            let overlap = f.samples.iter().zip(&shell.samples).map(|(a, b)| a * b).sum::<f64>();
            let overlap = overlap / (2 * f.j + 1) as f64;
            rest.iter_mut().zip(&f.samples).for_each(|(r, v)| *r -= overlap * v);
        }
        assert!(rest.iter().all(|r| r.abs() < 1e-12));
    }
}

#[test]
fn jet_samples_are_the_product_of_the_plan() {
    let grid = TapGrid::new(5, [1.0, 1.0, 1.4]).unwrap();
    let plan = JetPlan::new(&grid, 4, None, 4).unwrap();
    for (harmonic, function) in plan.harmonics.iter().zip(plan.sample()) {
        assert_eq!((harmonic.j, harmonic.radial), (function.j, function.radial));
        for (t, _) in grid.positions().iter().enumerate() {
            let (z, y, x) = (t / 25, t / 5 % 5, t % 5);
            for component in 0..=2 * harmonic.j {
                let entries = harmonic.entries.iter().filter(|e| e.component == component);
                let expected: f64 = entries
                    .map(|e| {
                        let [a, b, c] = plan.jets[e.jet];
                        let [tx, ty, tz] = &plan.taps;
                        e.value * tx[a * 5 + x] * ty[b * 5 + y] * tz[c * 5 + z]
                    })
                    .sum();
                assert!((function.samples[component * 125 + t] - expected).abs() < 1e-12);
            }
        }
    }
}

#[test]
fn jet_filters_differentiate_polynomials() {
    // With many taps D^a is the a-th derivative of a Gaussian: on x^a it gives a! times its mass.
    let plan = JetPlan::new(&cubic(15), 3, Some(1.2), 0).unwrap();
    for a in 0..=3 {
        let filter = &plan.taps[0][a * 15..][..15];
        let moment: f64 =
            filter.iter().zip(-7..).map(|(h, x)| h * f64::from(x).powi(a as i32)).sum();
        let factorial: usize = (1..=a).product();
        assert!((moment / factorial as f64 - 1.0).abs() < 1e-3, "order {a}: {moment}");
    }
}

#[test]
fn jets_of_one_degree_are_orthonormal() {
    let functions = Family::jets(4).sample(&cubic(7), 4).unwrap();
    for (i, f) in functions.iter().enumerate() {
        for g in functions[..i].iter().filter(|g| g.j == f.j) {
            let overlap: f64 = f.samples.iter().zip(&g.samples).map(|(a, b)| a * b).sum();
            assert!(overlap.abs() < 1e-12);
        }
    }
    let report = conditioning(&functions);
    assert_eq!((report.dim, report.rank), (35, 35));
    assert!(report.condition_number < 10.0, "{report:?}");
}

#[test]
fn conditioning_finds_dependent_functions() {
    let mut functions = Family::shells().sample(&cubic(5), 2).unwrap();
    assert!(conditioning(&functions).condition_number.is_finite());
    functions.push(functions[0].clone());
    let report = conditioning(&functions);
    assert_eq!(report.rank + 1, report.dim);
    assert!(report.condition_number.is_infinite());
    assert!((report.largest_overlap - 1.0).abs() < 1e-12);
}

#[test]
fn families_round_trip_through_text() {
    for family in all_families() {
        let text = serde_json::to_string(&family).unwrap();
        assert_eq!(serde_json::from_str::<Family>(&text).unwrap(), family);
    }
    let shells: Family =
        serde_json::from_str(r#"{"family": "gaussian_shells", "sigma": 0.6}"#).unwrap();
    assert_eq!(shells, Family::shells());
    for bad in [
        r#"{"family": "gaussian_shells", "sigma": 0.6, "sgima": 1}"#,
        r#"{"family": "gaussian_shells"}"#,
        r#"{"family": "gaussian_jets", "order": -1}"#,
        r#"{"family": "splines"}"#,
        r#"{"sigma": 0.6}"#,
    ] {
        assert!(serde_json::from_str::<Family>(bad).is_err(), "{bad}");
    }
}

#[test]
fn parameters_out_of_range_give_typed_errors() {
    let scalar: Irreps = "1x0".parse().unwrap();
    for functions in [0, 65, usize::MAX] {
        for family in [
            Family::Bessel { functions, max_degree: None },
            Family::SoftOneHot { functions, shape: BumpShape::Cosine, cutoff: AngularCutoff::None },
        ] {
            let found = KernelBasis::new(&scalar, &scalar, 5, &family, [1.0; 3]);
            assert!(matches!(found, Err(KernelError::Parameter { name: "functions", .. })));
        }
    }
    for family in all_families() {
        match family.sample(&cubic(5), 21) {
            Err(error) => {
                assert!(matches!(error, KernelError::Parameter { name: "jmax", .. }), "{error}");
            }
            Ok(functions) => assert!(functions.iter().all(|f| f.j <= 4), "{family:?}"),
        }
    }
    let mask = BallMask { family: Family::shells(), radius: f64::NAN };
    assert!(matches!(
        mask.sample(&cubic(3), 1),
        Err(KernelError::Parameter { name: "radius", .. })
    ));
}
