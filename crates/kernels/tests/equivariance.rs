//! The closed-form equivariance errors against drawn fields, and the figures that are promised.

use nalgebra::{DVector, Vector3};
use steer3d_kernels::equivariance::{kernel_errors, layer_error, mean_kernel_error};
use steer3d_kernels::{Family, HarmonicFamily, HarmonicFunction, KernelError, TapGrid};
use steer3d_so3::{Irreps, Stream, random_rotations, wigner_d};

/// Response of `function` at the origin to bumps of width `width`, one value per component.
fn response(
    function: &HarmonicFunction,
    grid: &TapGrid,
    bumps: &[(Vector3<f64>, f64)],
    width: f64,
) -> DVector<f64> {
    let field: Vec<f64> = grid
        .positions()
        .iter()
        .map(|&p| {
            let value = |(q, a): &(Vector3<f64>, f64)| {
                a * (-(Vector3::from(p) - q).norm_squared() / (2.0 * width * width)).exp()
            };
            bumps.iter().map(value).sum()
        })
        .collect();
    let components = function.samples.chunks_exact(field.len());
    let values: Vec<f64> =
        components.map(|b| b.iter().zip(&field).map(|(x, y)| x * y).sum()).collect();
    DVector::from_vec(values)
}

#[test]
fn closed_form_agrees_with_drawn_fields() {
    let (size, width) = (5, 1.0);
    let grid = TapGrid::new(size, [1.0; 3]).unwrap();
    for family in [Family::shells(), Family::jets(3)] {
        let functions = family.sample(&grid, 3).unwrap();
        let errors = kernel_errors(&family, size, 3, width).unwrap();
        for (function, &(_, _, expected)) in functions.iter().zip(&errors) {
            let (mut deviation, mut total) = (0.0, 0.0);
            for draw in 0..150 {
                let mut stream = Stream::new(draw, "bumps", &[]);
                // A cube that covers the taps and the reach of the bumps.
                let bumps: Vec<_> = (0..60)
                    .map(|_| {
                        let q = Vector3::from_fn(|_, _| 14.0 * stream.uniform() - 7.0);
                        (q, stream.normal())
                    })
                    .collect();
                let plain = response(function, &grid, &bumps, width);
                for rotation in random_rotations(draw, 6) {
                    let turned: Vec<_> = bumps.iter().map(|&(q, a)| (rotation * q, a)).collect();
                    let d = wigner_d(function.j, &rotation);
                    let rotated = response(function, &grid, &turned, width);
                    deviation += (rotated - d * &plain).norm_squared();
                    total += plain.norm_squared();
                }
            }
            let measured = (deviation / total).sqrt();
            // 150 independent fields: the ratio of the two powers scatters by about 5 %.
            assert!(
                (measured / expected - 1.0).abs() < 0.2,
                "{family:?} J = {}: drawn {measured}, closed form {expected}",
                function.j
            );
        }
    }
}

/// Functions that are not harmonic: a lone x², claimed to be a scalar.
struct Broken;

impl HarmonicFamily for Broken {
    fn sample(&self, grid: &TapGrid, _: usize) -> Result<Vec<HarmonicFunction>, KernelError> {
        let samples = grid.positions().iter().map(|p| p[0] * p[0]).collect();
        Ok(vec![HarmonicFunction { j: 0, radial: 0, samples }])
    }
}

#[test]
fn a_function_of_another_symmetry_has_a_large_error() {
    let error = mean_kernel_error(&Broken, 5, 0, 1.5).unwrap();
    assert!(error > 0.2, "{error}");
}

#[test]
fn jets_are_three_times_closer_to_equivariance_than_shells() {
    for (size, order) in [(5, 3), (5, 4), (7, 4)] {
        for width in [1.0, 1.5] {
            let shells = mean_kernel_error(&Family::shells(), size, 20, width).unwrap();
            let jets = mean_kernel_error(&Family::jets(order), size, 20, width).unwrap();
            assert!(
                3.0 * jets <= shells,
                "k = {size}, N = {order}, width {width}: {jets} {shells}"
            );
        }
    }
}

#[test]
fn layers_of_jets_keep_their_error() {
    let irreps: Irreps = "8x0+4x1+2x2".parse().unwrap();
    for (size, order, bound) in [(5, 3, 0.0022), (7, 4, 0.0012)] {
        let error = layer_error(&irreps, &irreps, size, &Family::jets(order), 2.0).unwrap();
        assert!(error <= bound, "k = {size}, N = {order}: {error}");
    }
}

#[test]
fn widths_out_of_range_give_typed_errors() {
    for width in [0.0, -1.0, f64::NAN] {
        let found = mean_kernel_error(&Family::shells(), 3, 1, width);
        assert!(matches!(found, Err(KernelError::Parameter { name: "field width", .. })));
    }
}
