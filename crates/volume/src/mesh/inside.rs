//! Which points of a lattice lie inside a mesh. Voxel i has its centre at i + 1/2.

use std::collections::HashMap;

use nalgebra::{Vector2, Vector3};
use robust::{Coord, orient2d};
use serde::{Deserialize, Serialize};

use super::tree::Tree;
use super::{Mesh, Triangle};

/// How [`MeshField::Solid`](crate::MeshField::Solid) and the sign of
/// [`MeshField::Distance`](crate::MeshField::Distance) tell inside from outside. A centre on the
/// surface itself may fall on either side.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Inside {
    /// Where the generalised winding number (Jacobson, Kavan and Sorkine-Hornung 2013,
    /// <https://doi.org/10.1145/2461912.2461916>) is above 1/2 in magnitude. It is a whole number
    /// for a closed mesh and falls off smoothly through holes. Parts that overlap join; a part that
    /// faces inwards within another is a cavity; a surface given twice, once facing each way, has
    /// no inside.
    #[default]
    Winding,
    /// Where a ray along x has crossed the surface an odd number of times: triangles may face
    /// anywhere, and parts that overlap cancel. A hole leaves streaks along x.
    Parity,
}

/// A mesh that answers which voxel centres it has inside.
///
/// Cones over the rims of its holes close a mesh. The crossings of a ray count the winding number
/// of a closed mesh exactly, and that of the mesh itself is less by the solid angle of the cones
/// over 4π. Where most edges are open, the mesh has its own solid angle taken instead.
pub(super) struct Interior {
    closed: Vec<Triangle>,
    open: Tree,
    inside: Inside,
}

impl Interior {
    /// `mesh` is in units of voxels.
    pub(super) fn new(mesh: &Mesh, inside: Inside) -> Self {
        let mesh = mesh.merged();
        let mut closed: Vec<Triangle> = mesh.corners().collect();
        let mut open = match inside {
            Inside::Winding => cones(&mesh.vertices, &mesh.open_edges()),
            Inside::Parity => Vec::new(),
        };
        if open.len() > closed.len() {
            (open, closed) = (closed, Vec::new());
        } else {
            closed.extend(open.iter().map(|&[from, to, apex]| [to, from, apex]));
        }
        Self { closed, open: Tree::new(open), inside }
    }

    /// The centres of slice `z` of a lattice of `size`³ voxels, in y, x order.
    pub(super) fn slice(&self, z: usize, size: usize) -> Vec<bool> {
        let windings = windings(&self.closed, z, size).into_iter().enumerate();
        let inside = |(i, winding): (usize, i32)| match self.inside {
            Inside::Parity => winding % 2 != 0,
            Inside::Winding => {
                let centre = Vector3::new(i % size, i / size, z).map(|i| i as f64 + 0.5);
                (f64::from(winding) + self.open.winding(&centre)).abs() > 0.5
            }
        };
        windings.map(inside).collect()
    }
}

/// A triangle from each edge of each rim to its apex.
fn cones(vertices: &[[f64; 3]], edges: &[[u32; 2]]) -> Vec<Triangle> {
    let mut cones = Vec::with_capacity(edges.len());
    for rim in rims(edges) {
        let corners: Vec<_> = rim.iter().map(|&i| Vector3::from(vertices[i as usize])).collect();
        let apex = apex(&corners);
        let next = corners.iter().cycle().skip(1);
        cones.extend(corners.iter().zip(next).map(|(from, to)| [*from, *to, apex]));
    }
    cones
}

/// The edges as closed walks that meet no vertex twice. As many end at each vertex as begin there.
fn rims(edges: &[[u32; 2]]) -> Vec<Vec<u32>> {
    let mut leaving: HashMap<u32, Vec<u32>> = HashMap::new();
    for &[from, to] in edges {
        leaving.entry(from).or_default().push(to);
    }
    let mut rims = Vec::new();
    let (mut walk, mut steps) = (Vec::new(), HashMap::new());
    for &[start, _] in edges {
        let mut vertex = start;
        loop {
            // Back at a vertex of the walk: a rim is closed, and the walk goes on from there.
            if let Some(&step) = steps.get(&vertex) {
                let rim: Vec<u32> = walk.split_off(step);
                rim.iter().for_each(|vertex| {
                    steps.remove(vertex);
                });
                rims.push(rim);
            }
            let Some(next) = leaving.get_mut(&vertex).and_then(Vec::pop) else {
                break;
            };
            steps.insert(vertex, walk.len());
            walk.push(vertex);
            vertex = next;
        }
    }
    rims
}

/// A point near the middle of a rim whose cones are unlikely to contain a voxel centre: there the
/// two parts of the winding number jump, and rounding could keep the jumps from cancelling.
fn apex(rim: &[Vector3<f64>]) -> Vector3<f64> {
    let low = rim.iter().fold(rim[0], |low, corner| low.inf(corner));
    let high = rim.iter().fold(rim[0], |high, corner| high.sup(corner));
    let aside = Vector3::new(0.013_717, 0.007_933, 0.019_391);
    (low + high) / 2.0 + aside * (high - low).norm()
}

/// Winding numbers of the centres of slice `z`: crossings of a ray from -∞ along x, each counted 1
/// inwards and -1 outwards.
fn windings(triangles: &[Triangle], z: usize, size: usize) -> Vec<i32> {
    let mut windings = vec![0; size * size];
    for triangle in triangles {
        let flat = triangle.map(|corner| corner.yz());
        for y in rows(&flat, z, size) {
            let ray = Vector2::new(y as f64 + 0.5, z as f64 + 0.5);
            let Some((x, direction)) = crossing(triangle, &flat, ray) else {
                continue;
            };
            // The first centre beyond the crossing.
            let first = (x + 0.5).floor().max(0.0) as usize;
            if first < size {
                windings[y * size + first] += direction;
            }
        }
    }
    for row in windings.chunks_mut(size) {
        let mut sum = 0;
        for value in row {
            sum += *value;
            *value = sum;
        }
    }
    windings
}

/// The rows of slice `z` whose centres are within the bounds of a triangle.
fn rows(flat: &[Vector2<f64>; 3], z: usize, size: usize) -> std::ops::Range<usize> {
    let [a, b, c] = flat;
    let (low, high) = (a.inf(b).inf(c), a.sup(b).sup(c));
    let level = z as f64 + 0.5;
    if level < low.y || level > high.y {
        return 0..0;
    }
    let clamp = |y: f64| y.clamp(0.0, size as f64) as usize;
    clamp((low.x - 0.5).ceil())..clamp((high.x - 0.5).floor() + 1.0)
}

/// Where a ray along x at y, z = `ray` crosses a triangle, and 1 if it enters, -1 if it leaves.
fn crossing(
    triangle: &Triangle,
    flat: &[Vector2<f64>; 3],
    ray: Vector2<f64>,
) -> Option<(f64, i32)> {
    let sides = [[1, 2], [2, 0], [0, 1]].map(|[i, j]| side(flat[i], flat[j], ray));
    let sign = sides[0].1;
    if sign == 0 || sides.iter().any(|side| side.1 != sign) {
        return None;
    }
    let weights = sides.map(|side| side.0.abs());
    let total: f64 = weights.iter().sum();
    let x: f64 = (0..3).map(|i| weights[i] * triangle[i].x).sum::<f64>() / total;
    // A triangle whose area underflows has all its corners at one place.
    Some((if x.is_nan() { triangle[0].x } else { x }, -sign))
}

/// Twice the area of a, b, `point` and the side of the line on which the point lies. A point on
/// the line is taken as moved by (δ, δ²) for a vanishing δ > 0: so a ray through an edge or a
/// vertex crosses a closed mesh as if it passed just beside.
fn side(a: Vector2<f64>, b: Vector2<f64>, point: Vector2<f64>) -> (f64, i32) {
    let [p, q, r] = [a, b, point].map(|v| Coord { x: v.x, y: v.y });
    let area = orient2d(p, q, r);
    let deciding = [area, a.y - b.y, b.x - a.x].into_iter().find(|&value| value != 0.0);
    (area, deciding.map_or(0, |value| if value > 0.0 { 1 } else { -1 }))
}
