//! Keyed random streams.

use steer3d_so3::Stream;

/// The values of the independent implementation `tests/reference/stream.py`.
#[test]
fn values_are_pinned() {
    let mut stream = Stream::new(1, "init", &[2, 3]);
    let words: Vec<u64> = (0..20).map(|_| (stream.uniform() * 2f64.powi(53)) as u64).collect();
    assert_eq!(words[..3], [8_708_876_594_478_028, 1_664_324_880_571_235, 8_988_635_329_068_747]);
    assert_eq!(words[19], 8_226_247_440_298_327);
    assert_eq!(Stream::new(0, "", &[]).below(1_000_000), 504_308);
    assert_eq!(Stream::new(5, "shuffle", &[0]).permutation(6), [2, 1, 0, 5, 4, 3]);
    // The normals pass through the platform's ln and cos, hence the tolerance.
    let normal = Stream::new(1, "a longer purpose", &[]).normal();
    assert!((normal - 0.500_105_607_309_693).abs() < 1e-14);
}

#[test]
fn every_part_of_the_key_matters() {
    let mut firsts = [
        Stream::new(1, "a", &[0]).uniform(),
        Stream::new(2, "a", &[0]).uniform(),
        Stream::new(1, "b", &[0]).uniform(),
        Stream::new(1, "a\0", &[0]).uniform(),
        Stream::new(1, "a", &[1]).uniform(),
        Stream::new(1, "a", &[]).uniform(),
        Stream::new(1, "a", &[0, 0]).uniform(),
    ];
    firsts.sort_by(f64::total_cmp);
    assert!(firsts.windows(2).all(|w| w[0] < w[1]));
}

/// Sample moments of 1e5 draws lie within 5 standard errors of the exact ones.
#[test]
fn moments_are_right() {
    let n = 100_000;
    let mut stream = Stream::new(3, "moments", &[]);
    let uniform: Vec<f64> = (0..n).map(|_| stream.uniform()).collect();
    let normal: Vec<f64> = (0..n).map(|_| stream.normal()).collect();
    let mean =
        |values: &[f64], power: i32| values.iter().map(|v| v.powi(power)).sum::<f64>() / n as f64;
    let error = 5.0 / (n as f64).sqrt();
    assert!(uniform.iter().all(|u| (0.0..1.0).contains(u)));
    assert!((mean(&uniform, 1) - 0.5).abs() < error * (1.0f64 / 12.0).sqrt());
    assert!((mean(&uniform, 2) - 1.0 / 3.0).abs() < error * (4.0f64 / 45.0).sqrt());
    assert!(mean(&normal, 1).abs() < error);
    assert!((mean(&normal, 2) - 1.0).abs() < error * 2f64.sqrt());
    assert!(mean(&normal, 3).abs() < error * 15f64.sqrt());
    assert!((mean(&normal, 4) - 3.0).abs() < error * 96f64.sqrt());
}

#[test]
fn below_is_uniform_and_permutations_are_complete() {
    let mut stream = Stream::new(4, "below", &[]);
    let mut counts = [0usize; 7];
    for _ in 0..70_000 {
        counts[stream.below(7)] += 1;
    }
    // 5 standard deviations of a binomial(70000, 1/7) are 463.
    assert!(counts.iter().all(|&c| c.abs_diff(10_000) < 463), "{counts:?}");
    let mut order = stream.permutation(50);
    assert_ne!(order, (0..50).collect::<Vec<_>>());
    order.sort_unstable();
    assert_eq!(order, (0..50).collect::<Vec<_>>());
}
