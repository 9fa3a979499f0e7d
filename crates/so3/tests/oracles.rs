//! Agreement with the crates `e3nn` and `wigners`.

use steer3d_so3::cg::wigner_3j;
use steer3d_so3::{Irreps, Normalization, TensorProduct, clebsch_gordan, spherical_harmonics};

/// e3nn's tensors have squared norm 2 l3 + 1.
#[test]
fn clebsch_gordan_matches_the_e3nn_crate() {
    for l1 in 0..=6u32 {
        for l2 in 0..=6 {
            for l3 in 0..=6 {
                let theirs = e3nn::cg::so3(l1, l2, l3);
                let ours = clebsch_gordan(l1 as usize, l2 as usize, l3 as usize);
                let scale = f64::from(2 * l3 + 1).sqrt();
                let [n1, n2, n3] = ours.shape();
                for i in 0..n1 {
                    for j in 0..n2 {
                        for k in 0..n3 {
                            let difference = theirs.get(i, j, k) - scale * ours.get(i, j, k);
                            assert!(difference.abs() < 1e-12, "{l1} {l2} {l3}: {difference:e}");
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn harmonics_match_the_e3nn_crate() {
    let point = [0.48, -0.6, 0.64];
    let ours = spherical_harmonics(6, point, Normalization::Component);
    for l in 0..=6 {
        for (m, polynomial) in e3nn::sh::spherical_harmonics(l).iter().enumerate() {
            let l = l as usize;
            assert!((polynomial.eval(point) - ours[l * l + m]).abs() < 1e-11, "l = {l}");
        }
    }
}

#[test]
fn products_match_the_e3nn_crate() {
    for (a, b) in [("1o", "2e"), ("3e", "3o"), ("0o", "4e")] {
        let (left, right): (Irreps, Irreps) = (a.parse().unwrap(), b.parse().unwrap());
        let ours = TensorProduct::new(&left, &right).unwrap();
        let parse = |text: &str| text.parse::<e3nn::Irrep>().unwrap();
        let theirs = parse(a).product(parse(b));
        let theirs: Vec<String> = theirs.iter().map(|irrep| format!("1x{irrep}")).collect();
        assert_eq!(ours.output().to_string(), theirs.join("+"));
    }
}

#[test]
fn three_j_symbols_match_the_wigners_crate() {
    for (l1, l2, l3) in [(1, 1, 2), (4, 3, 2), (12, 12, 12), (12, 7, 9), (20, 20, 20), (20, 1, 19)]
    {
        for m1 in -(l1 as i64)..=l1 as i64 {
            for m2 in -(l2 as i64)..=l2 as i64 {
                let m3 = -m1 - m2;
                if m3.unsigned_abs() > l3 as u64 {
                    continue;
                }
                let ours = wigner_3j(l1, l2, l3, m1, m2, m3);
                let [j1, j2, j3] = [l1, l2, l3].map(|l| l as u32);
                let theirs = wigners::wigner_3j(j1, j2, j3, m1 as i32, m2 as i32, m3 as i32);
                assert!((ours - theirs).abs() < 1e-14, "{l1} {l2} {l3} {m1} {m2} {m3}");
            }
        }
    }
}
