//! What `reference/make_volumes.py` says of a volume.

use steer3d_formats::npz::NpyArray;
use steer3d_volume::Volume;

fn assert_near(what: &str, found: &[f64], expected: &[f64], tolerance: f64) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (f, e) in found.iter().zip(expected) {
        assert!(
            (f - e).abs() <= tolerance * e.abs().max(1.0),
            "{what}: {found:?}, not {expected:?}"
        );
    }
}

/// Compares shape, geometry, sum and the values at 40 places, these to `tolerance`.
pub(crate) fn assert_matches(key: &str, found: &Volume, expected: &NpyArray, tolerance: f64) {
    let expected = expected.to_f64().unwrap();
    let (shape, expected) = expected.split_at(4);
    let (geometry, expected) = expected.split_at(6);
    let (sum, expected) = expected.split_at(1);
    let (places, values) = expected.split_at(40);

    let [d, h, w] = found.dims();
    assert_eq!([found.channels(), d, h, w].map(|n| n as f64), shape, "{key}");
    let found_geometry = [found.voxel_size(), found.origin()].concat();
    assert_near(&format!("{key} geometry"), &found_geometry, geometry, 1e-6);
    // Values in f32; the splines of skewed maps through two filters and 64 products.
    let total: f64 = found.data().iter().map(|&x| f64::from(x)).sum();
    let size: f64 = found.data().iter().map(|&x| f64::from(x.abs())).sum();
    assert!((total - sum[0]).abs() <= 1e-6 * size, "{key}: sum {total}, not {sum:?}");
    let at = |place: &f64| f64::from(found.data()[*place as usize]);
    let found: Vec<f64> = places.iter().map(at).collect();
    assert_near(&format!("{key} values"), &found, values, tolerance);
}
