//! Laws of the representations, over random degrees, rotations, points and irreps.

use nalgebra::{DMatrix, DVector, Matrix3, Vector3};
use proptest::prelude::*;
use steer3d_so3::cg::{couples, wigner_3j};
use steer3d_so3::decompose::{DecomposeError, decompose, decompose_character, decompose_o3};
use steer3d_so3::rotations::{from_axis_angle, from_quaternion, from_yxy, from_zyz};
use steer3d_so3::sh::solid_harmonics;
use steer3d_so3::wigner::{wigner_d_all, wigner_d_batch, wigner_d_len};
use steer3d_so3::{
    Irrep, Irreps, Normalization, Parity, Rotation, SphericalHarmonics, Stream, TensorProduct,
    clebsch_gordan, conventions, cube_group, geodesic_distance, random_rotations, rotations,
    spherical_harmonics, wigner_d,
};

/// Rounding of sums of up to 41 products of numbers below 1, with the error of 20-fold angles.
const EXACT: f64 = 1e-12;

fn rotation() -> impl Strategy<Value = Rotation> {
    any::<u64>().prop_map(|seed| random_rotations(seed, 1)[0])
}

fn point() -> impl Strategy<Value = [f64; 3]> {
    any::<u64>().prop_map(|seed| {
        let mut stream = Stream::new(seed, "point", &[]);
        [0; 3].map(|_| stream.normal())
    })
}

fn irreps(lmax: usize) -> impl Strategy<Value = Irreps> {
    let parity = prop_oneof![Just(Parity::Even), Just(Parity::Odd)];
    let blocks = prop::collection::vec((1..3usize, 0..=lmax, parity), 1..4);
    (any::<bool>(), blocks).prop_map(|(o3, blocks)| {
        let irrep = |l, parity| if o3 { Irrep::o3(l, parity) } else { Irrep::so3(l) };
        Irreps::new(blocks.into_iter().map(|(mul, l, parity)| (mul, irrep(l, parity)))).unwrap()
    })
}

fn identity_error(matrix: &DMatrix<f64>) -> f64 {
    (matrix - DMatrix::identity(matrix.nrows(), matrix.ncols())).amax()
}

fn moved(rotation: &Rotation, point: [f64; 3]) -> [f64; 3] {
    (rotation * Vector3::from(point)).into()
}

/// T'[a,b,c] = A[a,i] B[b,j] C[c,k] T[i,j,k].
fn transformed(tensor: &steer3d_so3::CgTensor, d: &[DMatrix<f64>; 3]) -> Vec<f64> {
    let [n1, n2, n3] = tensor.shape();
    let mut out = vec![0.0; n1 * n2 * n3];
    for e in tensor.nonzeros() {
        for a in 0..n1 {
            for b in 0..n2 {
                let factor = e.value * d[0][(a, e.i)] * d[1][(b, e.j)];
                for c in 0..n3 {
                    out[(a * n2 + b) * n3 + c] += factor * d[2][(c, e.k)];
                }
            }
        }
    }
    out
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..Default::default() })]

    #[test]
    fn wigner_d_is_an_orthogonal_homomorphism(l in 0..=20usize, a in rotation(), b in rotation()) {
        let (da, db) = (wigner_d(l, &a), wigner_d(l, &b));
        prop_assert!(identity_error(&(&da * da.transpose())) < EXACT);
        prop_assert!((&da * &db - wigner_d(l, &(a * b))).amax() < EXACT);
        prop_assert!((da.transpose() - wigner_d(l, &a.inverse())).amax() < EXACT);
    }

    #[test]
    fn character_is_that_of_the_angle(l in 0..=20usize, r in rotation()) {
        let angle = geodesic_distance(&Rotation::identity(), &r);
        let expected = steer3d_so3::decompose::irrep_character(l, angle);
        prop_assert!((wigner_d(l, &r).trace() - expected).abs() < 1e-11);
    }

    #[test]
    fn harmonics_rotate_with_wigner_d(r in rotation(), p in point()) {
        let y = spherical_harmonics(20, p, Normalization::Component);
        let rotated = spherical_harmonics(20, moved(&r, p), Normalization::Component);
        for (l, d) in wigner_d_all(20, &r).iter().enumerate() {
            let range = l * l..(l + 1) * (l + 1);
            let expected = d * DVector::from_column_slice(&y[range.clone()]);
            let error = (expected - DVector::from_column_slice(&rotated[range])).amax();
            prop_assert!(error < 10.0 * EXACT, "l = {}: {:e}", l, error);
        }
    }

    #[test]
    fn addition_theorem(p in point(), q in point()) {
        let cosine = Vector3::from(p).normalize().dot(&Vector3::from(q).normalize());
        let [yp, yq] = [p, q].map(|v| spherical_harmonics(20, v, Normalization::Norm));
        let (mut before, mut legendre) = (0.0, 1.0);
        for l in 0..=20 {
            let sum: f64 = (l * l..(l + 1) * (l + 1)).map(|i| yp[i] * yq[i]).sum();
            prop_assert!((sum - legendre).abs() < EXACT, "l = {}", l);
            let k = l as f64;
            (before, legendre) =
                (legendre, ((2.0 * k + 1.0) * cosine * legendre - k * before) / (k + 1.0));
        }
    }

    #[test]
    fn harmonic_parity_scale_and_solid_harmonics(p in point(), scale in 0.1..10.0f64) {
        let y = spherical_harmonics(20, p, Normalization::Component);
        let minus = spherical_harmonics(20, p.map(|c| -scale * c), Normalization::Component);
        let solid = solid_harmonics(20, p, Normalization::Component);
        let radius = Vector3::from(p).norm();
        for l in 0..=20 {
            let sign = Parity::of_harmonics(l).sign();
            let power = radius.powi(l as i32);
            for i in l * l..(l + 1) * (l + 1) {
                prop_assert!((minus[i] - sign * y[i]).abs() < 10.0 * EXACT);
                prop_assert!((solid[i] - power * y[i]).abs() < 10.0 * EXACT * power.max(1.0));
            }
        }
    }

    /// Central differences of step h are off by h²/6 times third derivatives, which grow as l³.
    #[test]
    fn gradients_match_central_differences(p in point()) {
        let table = SphericalHarmonics::<f64>::new(10, Normalization::Integral).unwrap();
        let (mut y, mut gradient) = (vec![0.0; table.dim()], vec![[0.0; 3]; table.dim()]);
        table.eval_gradient_into(p, &mut y, &mut gradient);
        prop_assert_eq!(&y, &table.eval_batch(&[p]));
        let radius = Vector3::from(p).norm();
        let h = 1e-5 * radius;
        for axis in 0..3 {
            let at = |step: f64| {
                let mut q = p;
                q[axis] += step;
                spherical_harmonics(10, q, Normalization::Integral)
            };
            let (plus, minus) = (at(h), at(-h));
            for i in 0..y.len() {
                let difference = (plus[i] - minus[i]) / (2.0 * h);
                prop_assert!((difference - gradient[i][axis]).abs() * radius < 1e-7);
            }
        }
    }

    #[test]
    fn clebsch_gordan_is_invariant(l1 in 0..=12usize, l2 in 0..=12usize, step in 0..=12usize, r in rotation()) {
        let l3 = (l1.abs_diff(l2) + step).min(l1 + l2).min(12);
        let tensor = clebsch_gordan(l1, l2, l3);
        let turned = transformed(&tensor, &[l1, l2, l3].map(|l| wigner_d(l, &r)));
        let error = turned.iter().zip(tensor.dense()).fold(0.0, |m: f64, (a, b)| m.max((a - b).abs()));
        prop_assert!(error < EXACT, "{:e}", error);
        let norm: f64 = tensor.dense().iter().map(|v| v * v).sum();
        prop_assert!((norm - 1.0).abs() < 1e-13);
    }

    #[test]
    fn irreps_round_trip_and_act(irreps in irreps(4), a in rotation(), b in rotation()) {
        let text = irreps.to_string();
        prop_assert_eq!(&text.parse::<Irreps>().unwrap(), &irreps);
        let json = serde_json::to_string(&irreps).unwrap();
        prop_assert_eq!(&json, &format!("\"{text}\""));
        prop_assert_eq!(&serde_json::from_str::<Irreps>(&json).unwrap(), &irreps);
        let end = irreps.blocks().last().unwrap();
        prop_assert_eq!(end.offset + end.dim(), irreps.dim());
        let product = irreps.wigner_d(&a) * irreps.wigner_d(&b);
        prop_assert!((product - irreps.wigner_d(&(a * b))).amax() < EXACT);
        prop_assert!((irreps.matrix(a.matrix()).unwrap() - irreps.wigner_d(&a)).amax() < EXACT);
    }

    #[test]
    fn reflections_multiply_as_matrices(irreps in irreps(3), a in rotation(), b in rotation()) {
        let minus = irreps.matrix(&-a.matrix());
        prop_assert_eq!(minus.is_ok(), irreps.has_parity());
        if let Ok(minus) = minus {
            let plus = irreps.matrix(b.matrix()).unwrap();
            let both = irreps.matrix(&-(a * b).matrix()).unwrap();
            prop_assert!((&minus * plus - both).amax() < EXACT);
            let squared = irreps.matrix(&(a * a).into_inner()).unwrap();
            prop_assert!((&minus * &minus - squared).amax() < EXACT);
        }
    }

    /// The product map is orthogonal and intertwines D ⊗ D with the output's representation.
    #[test]
    fn tensor_products_are_orthogonal_and_equivariant(
        left in irreps(2), right in irreps(2), r in rotation(), mirror in any::<bool>(),
    ) {
        let Ok(product) = TensorProduct::new(&left, &right) else {
            prop_assert_ne!(left.has_parity(), right.has_parity());
            return Ok(());
        };
        prop_assert_eq!(product.output().dim(), left.dim() * right.dim());
        let unit = |n: usize, i: usize| DVector::from_fn(n, |row, _| f64::from(row == i));
        let columns: Vec<_> = (0..left.dim() * right.dim())
            .map(|i| {
                let x = unit(left.dim(), i / right.dim());
                let y = unit(right.dim(), i % right.dim());
                DVector::from_vec(product.apply(x.as_slice(), y.as_slice()))
            })
            .collect();
        let map = DMatrix::from_columns(&columns);
        prop_assert!(identity_error(&(map.transpose() * &map)) < EXACT);
        let matrix: Matrix3<f64> = if mirror && left.has_parity() { -r.matrix() } else { *r.matrix() };
        let [dl, dr, dout] = [&left, &right, product.output()].map(|i| i.matrix(&matrix).unwrap());
        prop_assert!((&map * dl.kronecker(&dr) - dout * &map).amax() < EXACT);
    }

    #[test]
    fn decomposition_finds_hidden_irreps(irreps in irreps(3), seed in any::<u64>()) {
        let n = irreps.dim();
        let mut stream = Stream::new(seed, "basis", &[]);
        let basis = DMatrix::from_fn(n, n, |_, _| stream.normal()).qr().q();
        let expected = irreps.sorted().unwrap();
        let found = if irreps.has_parity() {
            decompose_o3(3, |m| &basis * irreps.matrix(m).unwrap() * basis.transpose())
        } else {
            decompose(3, |r| &basis * irreps.wigner_d(r) * basis.transpose())
        }.unwrap();
        prop_assert_eq!(&found.irreps, &expected);
        prop_assert!(identity_error(&(found.basis.transpose() * &found.basis)) < 1e-10);
        let by_character = decompose_character(5, |angle| {
            irreps.wigner_d(&from_yxy([angle, 0.0, 0.0])).trace()
        }).unwrap();
        let so3 = expected.blocks().map(|b| (b.mul, Irrep::so3(b.irrep.l)));
        prop_assert_eq!(by_character, Irreps::new(so3).unwrap().sorted().unwrap());
    }

    #[test]
    fn condon_shortley_matrices_have_the_textbook_form(l in 0..=6usize, a in -3.0..3.0f64, b in 0.0..3.0f64, c in -3.0..3.0f64) {
        let i = nalgebra::Complex::<f64>::i();
        let matrix = conventions::condon_shortley_wigner_d(l, &from_zyz([a, b, c]));
        let middle = conventions::condon_shortley_wigner_d(l, &from_zyz([0.0, b, 0.0]));
        for row in 0..=2 * l {
            for column in 0..=2 * l {
                let (m, k) = (row as f64 - l as f64, column as f64 - l as f64);
                let d = middle[(row, column)];
                prop_assert!(d.im.abs() < EXACT);
                let expected = (-i * m * a).exp() * d * (-i * k * c).exp();
                prop_assert!((matrix[(row, column)] - expected).norm() < EXACT);
            }
        }
        // Sakurai, "Modern Quantum Mechanics", §3.5: d¹_{1,0} = -sin β / √2 and
        // d¹_{1,1} = (1 + cos β) / 2.
        if l == 1 {
            prop_assert!((middle[(2, 1)].re + b.sin() / 2f64.sqrt()).abs() < EXACT);
            prop_assert!((middle[(2, 2)].re - (1.0 + b.cos()) / 2.0).abs() < EXACT);
        }
    }

    #[test]
    fn angle_conversions_round_trip(r in rotation()) {
        let (axis, angle) = rotations::to_axis_angle(&r);
        for back in [
            from_yxy(rotations::to_yxy(&r)),
            from_zyz(rotations::to_zyz(&r)),
            from_quaternion(rotations::to_quaternion(&r)).unwrap(),
            from_axis_angle(axis, angle).unwrap(),
            rotations::from_matrix(r.matrix()).unwrap(),
        ] {
            prop_assert!((back.matrix() - r.matrix()).amax() < 1e-14);
        }
    }
}

/// Σ_{ij} C[i,j,k] C'[i,j,k'] = δ(l3, l3') δ(k, k') / (2 l3 + 1), and completeness.
#[test]
fn clebsch_gordan_is_orthogonal() {
    for (l1, l2) in [(1usize, 1), (2, 3), (6, 6), (12, 5)] {
        let n = (2 * l1 + 1) * (2 * l2 + 1);
        let mut columns = Vec::new();
        for l3 in l1.abs_diff(l2)..=l1 + l2 {
            let tensor = clebsch_gordan(l1, l2, l3);
            for k in 0..=2 * l3 {
                columns.push(DVector::from_fn(n, |ij, _| {
                    ((2 * l3 + 1) as f64).sqrt() * tensor.dense()[ij * (2 * l3 + 1) + k]
                }));
            }
        }
        let matrix = DMatrix::from_columns(&columns);
        assert_eq!(matrix.ncols(), n);
        assert!(identity_error(&(matrix.transpose() * matrix)) < 1e-13, "{l1} {l2}");
    }
}

#[test]
fn selection_rules() {
    for l1 in 0..=5 {
        for l2 in 0..=5 {
            for l3 in 0..=12 {
                let tensor = clebsch_gordan(l1, l2, l3);
                assert_eq!(tensor.nonzeros().is_empty(), !couples(l1, l2, l3));
                let m = |index: usize, l: usize| (index as i64 - l as i64).abs();
                for e in tensor.nonzeros() {
                    let (m1, m2, m3) = (m(e.i, l1), m(e.j, l2), m(e.k, l3));
                    assert!(m3 == m1 + m2 || m3 == (m1 - m2).abs());
                    assert_eq!(tensor.get(e.i, e.j, e.k), e.value);
                    // Rounding dust would be far below the smallest true element.
                    assert!(e.value.abs() > 1e-6);
                }
            }
        }
    }
    assert_eq!(wigner_3j(1, 1, 1, 1, 1, 1), 0.0);
    assert_eq!(wigner_3j(1, 1, 2, 2, 0, -2), 0.0);
    assert_eq!(wigner_3j(1, 1, 3, 0, 0, 0), 0.0);
}

#[test]
fn known_clebsch_gordan_tensors() {
    let third = 3f64.sqrt().recip();
    for i in 0..3 {
        for j in 0..3 {
            assert!(
                (clebsch_gordan(1, 1, 0).get(i, j, 0) - third * f64::from(i == j)).abs() < 1e-15
            );
        }
    }
    // (2 2 2; 0 0 0) = -√(2/35).
    assert!((wigner_3j(2, 2, 2, 0, 0, 0) + (2f64 / 35.0).sqrt()).abs() < 1e-15);
}

#[test]
fn known_harmonics() {
    let [x, y, z] = [0.36, 0.48, 0.8];
    let values = spherical_harmonics(2, [2.0 * x, 2.0 * y, 2.0 * z], Normalization::Component);
    let (s3, s15) = (3f64.sqrt(), 15f64.sqrt());
    let expected = [
        1.0,
        s3 * x,
        s3 * y,
        s3 * z,
        s15 * x * z,
        s15 * x * y,
        5f64.sqrt() * (3.0 * y * y - 1.0) / 2.0,
        s15 * y * z,
        s15 * (z * z - x * x) / 2.0,
    ];
    for (a, b) in values.iter().zip(expected) {
        assert!((a - b).abs() < 1e-15, "{values:?}");
    }
    let zero = spherical_harmonics(3, [0.0; 3], Normalization::Component);
    assert!(zero[0] == 1.0 && zero[1..].iter().all(|&v| v == 0.0));
    assert!(spherical_harmonics(1, [f64::NAN, 0.0, 0.0], Normalization::Norm)[1].is_nan());
}

#[test]
fn normalizations_differ_by_their_scale() {
    let point = [0.2, -0.7, 0.4];
    let component = spherical_harmonics(20, point, Normalization::Component);
    for normalization in [Normalization::Integral, Normalization::Norm] {
        let table = SphericalHarmonics::<f64>::new(20, normalization).unwrap();
        let direct = table.eval_batch(&[point, [0.0; 3]]);
        let free = spherical_harmonics(20, point, normalization);
        for l in 0..=20 {
            for i in l * l..(l + 1) * (l + 1) {
                let expected = component[i] * normalization.scale(l);
                assert!((direct[i] - expected).abs() < 1e-13 && (free[i] - expected).abs() < 1e-13);
            }
        }
        assert!((direct[table.dim()] - normalization.scale(0)).abs() < 1e-15);
    }
}

/// Wigner-D of the cube's rotations permute coordinates for l = 1 exactly and, near the gimbal
/// lock of the Euler angles, lose nothing.
#[test]
fn cube_and_gimbal_lock() {
    for r in cube_group() {
        assert_eq!(wigner_d(1, &r), *r.matrix());
        for l in [2, 20] {
            let d = wigner_d(l, &r);
            assert!(identity_error(&(&d * d.transpose())) < 1e-13);
            assert!((&d * &d - wigner_d(l, &(r * r))).amax() < 1e-13);
        }
    }
    for tilt in [0.0, 1e-300, 1e-16, 1e-12, 1e-8, 1e-4] {
        for flip in [0.0, std::f64::consts::PI] {
            let r = from_yxy([0.3, flip + tilt, 1.9]);
            let p = [0.4, -0.3, 0.8];
            let y = spherical_harmonics(20, p, Normalization::Norm);
            let turned = spherical_harmonics(20, moved(&r, p), Normalization::Norm);
            let expected = wigner_d(20, &r) * DVector::from_column_slice(&y[400..]);
            assert!((expected - DVector::from_column_slice(&turned[400..])).amax() < 1e-12);
        }
    }
}

#[test]
fn batches_equal_single_evaluations() {
    let rotations = random_rotations(5, 7);
    let batch = wigner_d_batch(6, &rotations).unwrap();
    assert_eq!(batch.len(), 7 * wigner_d_len(6));
    for (r, row) in rotations.iter().zip(batch.chunks_exact(wigner_d_len(6))) {
        let mut start = 0;
        for (l, d) in wigner_d_all(6, r).iter().enumerate() {
            let n = 2 * l + 1;
            assert_eq!(*d, DMatrix::from_row_slice(n, n, &row[start..start + n * n]));
            assert_eq!(*d, wigner_d(l, r));
            start += n * n;
        }
    }
}

#[test]
fn what_is_no_representation_is_refused() {
    let vector = |r: &Rotation| DMatrix::from_row_slice(3, 3, r.matrix().transpose().as_slice());
    assert_eq!(decompose(2, vector).unwrap().irreps.to_string(), "1x1");
    // Too low a limit, a skewed basis, a constant that is not the identity, NaN.
    let low = decompose(1, |r| wigner_d(2, r));
    assert!(low.is_err(), "{low:?}");
    let skew = DMatrix::from_row_slice(3, 3, &[1.0, 0.4, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]);
    let skewed = decompose(1, |r| &skew * vector(r) * skew.clone().try_inverse().unwrap());
    assert!(skewed.is_err(), "{skewed:?}");
    let constant = decompose(1, |_| DMatrix::from_element(2, 2, 0.5));
    assert!(constant.is_err(), "{constant:?}");
    let nan = decompose(1, |_| DMatrix::from_element(2, 2, f64::NAN));
    assert!(matches!(nan, Err(DecomposeError::NotRepresentation { .. })), "{nan:?}");
    assert!(matches!(decompose(21, vector), Err(DecomposeError::Degree(_))));
    let half = decompose_character(3, |angle| 0.5 + angle.cos());
    assert!(matches!(half, Err(DecomposeError::Multiplicity { l: 1, .. })), "{half:?}");
    let high = decompose_character(1, |angle| 2.0 + 2.0 * (3.0 * angle).cos());
    assert!(high.is_err(), "{high:?}");
    assert!(decompose_character(1, |_| f64::NAN).is_err());
}

#[test]
fn tensor_products_beyond_the_limits_are_refused() {
    let high: Irreps = "1x20".parse().unwrap();
    assert!(TensorProduct::new(&high, &high).unwrap_err().to_string().contains("l = 21"));
    let parity: Irreps = "1x1o".parse().unwrap();
    assert!(TensorProduct::new(&high, &parity).is_err());
    assert!(Irrep::so3(1).product(Irrep::o3(1, Parity::Odd)).is_none());
}
