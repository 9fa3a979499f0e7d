//! A tree of boxes over the triangles, for the nearest triangle and the winding number.

use std::f64::consts::PI;

use nalgebra::Vector3;

use super::{Triangle, area_vector};

const LEAF: usize = 4;

/// A node this many times its radius away is taken as one dipole.
const FAR: f64 = 2.5;

struct Node {
    low: Vector3<f64>,
    high: Vector3<f64>,
    /// Range of the triangles below.
    start: usize,
    end: usize,
    /// The second child; the first is the next node. 0 for a leaf.
    second: usize,
    /// Sum of the area vectors.
    area: Vector3<f64>,
    /// Centroid by area, and the distance of the farthest corner from it.
    centroid: Vector3<f64>,
    radius: f64,
}

pub(super) struct Tree {
    triangles: Vec<Triangle>,
    nodes: Vec<Node>,
}

impl Tree {
    pub(super) fn new(triangles: Vec<Triangle>) -> Self {
        let mut tree = Self { nodes: Vec::with_capacity(triangles.len() / 2 + 1), triangles };
        if !tree.triangles.is_empty() {
            tree.grow(0, tree.triangles.len());
        }
        tree
    }

    /// Adds the node of a range of triangles and those below it, halving along the longest edge.
    fn grow(&mut self, start: usize, end: usize) {
        let index = self.nodes.len();
        self.nodes.push(node(&self.triangles[start..end], start));
        if end - start <= LEAF {
            return;
        }
        let axis = (self.nodes[index].high - self.nodes[index].low).imax();
        let key = |t: &Triangle| t[0][axis] + t[1][axis] + t[2][axis];
        let half = (end - start) / 2;
        self.triangles[start..end].select_nth_unstable_by(half, |a, b| key(a).total_cmp(&key(b)));
        self.grow(start, start + half);
        self.nodes[index].second = self.nodes.len();
        self.grow(start + half, end);
    }

    /// The triangle nearest to `point` and its distance, if that is below `bound`. A `guess` that
    /// is near makes the search short.
    pub(super) fn nearest(
        &self,
        point: &Vector3<f64>,
        bound: f64,
        guess: Option<usize>,
    ) -> Option<(usize, f64)> {
        let squared = |i: usize| (closest(point, &self.triangles[i]) - point).norm_squared();
        let mut best = (None, bound * bound);
        let mut look = |i: usize| {
            let distance = squared(i);
            if distance < best.1 {
                best = (Some(i), distance);
            }
            best.1
        };
        let mut limit = guess.map_or(bound * bound, &mut look);
        let mut stack = vec![0];
        while let Some(index) = stack.pop() {
            let Some(node) = self.nodes.get(index).filter(|node| node.box_distance(point) < limit)
            else {
                continue;
            };
            if node.second == 0 {
                limit = (node.start..node.end).fold(limit, |_, i| look(i));
                continue;
            }
            let children = [index + 1, node.second];
            let [first, second] = children.map(|child| self.nodes[child].box_distance(point));
            // The nearer child is looked at first.
            stack.extend(if first < second { [children[1], children[0]] } else { children });
        }
        best.0.map(|triangle| (triangle, best.1.sqrt()))
    }

    /// The generalised winding number (Jacobson, Kavan and Sorkine-Hornung 2013,
    /// <https://doi.org/10.1145/2461912.2461916>, equation 5): the solid angle of the mesh over 4π,
    /// with far nodes as dipoles (Barill et al. 2018, <https://doi.org/10.1145/3197517.3201337>).
    pub(super) fn winding(&self, point: &Vector3<f64>) -> f64 {
        if self.nodes.is_empty() {
            return 0.0;
        }
        let mut sum = 0.0;
        let mut stack = vec![0];
        while let Some(index) = stack.pop() {
            let node = &self.nodes[index];
            let away = node.centroid - point;
            let distance = away.norm();
            if distance > FAR * node.radius {
                sum += node.area.dot(&away) / (distance * distance * distance);
            } else if node.second == 0 {
                let triangles = &self.triangles[node.start..node.end];
                sum += triangles.iter().map(|t| solid_angle(point, t)).sum::<f64>();
            } else {
                stack.extend([index + 1, node.second]);
            }
        }
        sum / (4.0 * PI)
    }
}

impl Node {
    /// Squared distance from the box.
    fn box_distance(&self, point: &Vector3<f64>) -> f64 {
        let outside = (self.low - point).sup(&(point - self.high)).sup(&Vector3::zeros());
        outside.norm_squared()
    }
}

fn node(triangles: &[Triangle], start: usize) -> Node {
    let corners = || triangles.iter().flatten();
    let low = corners().fold(Vector3::repeat(f64::INFINITY), |low, corner| low.inf(corner));
    let high = corners().fold(Vector3::repeat(f64::NEG_INFINITY), |high, corner| high.sup(corner));
    let (mut area, mut moment, mut total) = (Vector3::zeros(), Vector3::zeros(), 0.0);
    for triangle in triangles {
        let vector = area_vector(triangle);
        area += vector;
        moment += (triangle[0] + triangle[1] + triangle[2]) * (vector.norm() / 3.0);
        total += vector.norm();
    }
    let centroid = if total > 0.0 { moment / total } else { (low + high) / 2.0 };
    let radius = corners().map(|corner| (corner - centroid).norm()).fold(0.0, f64::max);
    Node { low, high, start, end: start + triangles.len(), second: 0, area, centroid, radius }
}

/// Solid angle of a triangle, positive seen from behind (van Oosterom and Strackee 1983,
/// <https://doi.org/10.1109/TBME.1983.325207>, equation 8).
fn solid_angle(point: &Vector3<f64>, triangle: &Triangle) -> f64 {
    let [a, b, c] = triangle.map(|corner| corner - point);
    let (la, lb, lc) = (a.norm(), b.norm(), c.norm());
    let denominator = la * lb * lc + a.dot(&b) * lc + b.dot(&c) * la + c.dot(&a) * lb;
    2.0 * a.dot(&b.cross(&c)).atan2(denominator)
}

/// The point of a triangle nearest to `point`: on the face if its projection is inside all edges,
/// else on the nearest edge.
pub(super) fn closest(point: &Vector3<f64>, triangle: &Triangle) -> Vector3<f64> {
    let normal = area_vector(triangle);
    let edges = [[0, 1], [1, 2], [2, 0]].map(|[i, j]| [triangle[i], triangle[j]]);
    let inside = |[a, b]: &[Vector3<f64>; 2]| normal.cross(&(b - a)).dot(&(point - a)) >= 0.0;
    let length = normal.norm_squared();
    if length > 0.0 && edges.iter().all(inside) {
        return point - normal * ((point - triangle[0]).dot(&normal) / length);
    }
    let candidates = edges.map(|[a, b]| {
        let along = b - a;
        let t = (point - a).dot(&along) / along.norm_squared();
        // An edge without length gives NaN.
        if t.is_nan() { a } else { a + along * t.clamp(0.0, 1.0) }
    });
    let [first, rest @ ..] = candidates;
    rest.into_iter().fold(first, |best, candidate| {
        let nearer = (candidate - point).norm_squared() < (best - point).norm_squared();
        if nearer { candidate } else { best }
    })
}
