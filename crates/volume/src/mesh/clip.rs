//! Convex polygons cut by planes across an axis. Voxel i spans i to i + 1.

use nalgebra::Vector3;

/// How far, in voxels, a point may be off a plane that it is taken to lie on.
pub(super) const EPSILON: f64 = 1e-9;

type Polygon = Vec<Vector3<f64>>;

/// Smallest and largest coordinate along `axis`.
pub(super) fn range(polygon: &[Vector3<f64>], axis: usize) -> (f64, f64) {
    polygon.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), point| {
        (low.min(point[axis]), high.max(point[axis]))
    })
}

/// The voxels below `size` that a range touches, both ends widened by [`EPSILON`]; none for that of
/// a polygon without points.
pub(super) fn voxels((low, high): (f64, f64), size: usize) -> std::ops::Range<usize> {
    let clamp = |x: f64| x.clamp(0.0, size as f64) as usize;
    let end = clamp((high + EPSILON).floor() + 1.0);
    clamp((low - EPSILON).floor()).min(end)..end
}

/// The part of a polygon between two planes.
pub(super) fn between(polygon: &[Vector3<f64>], axis: usize, low: f64, high: f64) -> Polygon {
    let above = half(polygon, |point| point[axis] - low, axis, low);
    half(&above, |point| high - point[axis], axis, high)
}

/// The part where `height` is not negative; it vanishes at `plane`.
fn half(
    polygon: &[Vector3<f64>],
    height: impl Fn(&Vector3<f64>) -> f64,
    axis: usize,
    plane: f64,
) -> Polygon {
    let mut kept = Vec::with_capacity(polygon.len() + 1);
    for (i, point) in polygon.iter().enumerate() {
        let next = &polygon[(i + 1) % polygon.len()];
        let (here, there) = (height(point), height(next));
        if here >= 0.0 {
            kept.push(*point);
        }
        if (here > 0.0 && there < 0.0) || (here < 0.0 && there > 0.0) {
            let mut crossing = point + (next - point) * (here / (here - there));
            crossing[axis] = plane;
            kept.push(crossing);
        }
    }
    kept
}

/// The part of a polygon in the slab of voxel `index`, and its weight: a polygon on the plane
/// between two voxels counts half in each.
pub(super) fn share(polygon: &[Vector3<f64>], axis: usize, index: usize) -> (Polygon, f64) {
    let (low, high) = range(polygon, axis);
    let (first, last) = (index as f64, index as f64 + 1.0);
    let plane = low.round();
    if high - low > EPSILON || (low - plane).abs() > EPSILON {
        return (between(polygon, axis, first, last), 1.0);
    }
    match plane == first || plane == last {
        true => (polygon.to_vec(), 0.5),
        false => (Vec::new(), 0.0),
    }
}

/// Normal of a planar polygon, as long as its area.
pub(super) fn area_vector(polygon: &[Vector3<f64>]) -> Vector3<f64> {
    let Some((first, rest)) = polygon.split_first() else {
        return Vector3::zeros();
    };
    rest.windows(2).map(|pair| (pair[0] - first).cross(&(pair[1] - first)) / 2.0).sum()
}
