//! Triangle meshes and their volumes.

mod clip;
pub(crate) mod inside;
mod tree;
pub mod voxeliser;

use std::collections::HashMap;

use nalgebra::Vector3;
use steer3d_so3::Rotation;

use crate::volume::{VolumeError, check_coordinates};

/// The corners of a triangle.
type Triangle = [Vector3<f64>; 3];

/// A triangle mesh. Polygons of a file are cut into triangles.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Mesh {
    vertices: Vec<[f64; 3]>,
    triangles: Vec<[u32; 3]>,
}

impl Mesh {
    /// A mesh of `vertices` = x, y, z and `triangles` of indices into them, counter-clockwise seen
    /// from outside.
    ///
    /// # Errors
    /// If a coordinate is not a number or larger than [`MAX_LENGTH`](crate::volume::MAX_LENGTH) in
    /// magnitude, or an index is beyond the vertices.
    pub fn new(vertices: Vec<[f64; 3]>, triangles: Vec<[u32; 3]>) -> Result<Self, VolumeError> {
        check_coordinates("vertices", &vertices)?;
        let count = vertices.len();
        if let Some(&index) = triangles.iter().flatten().find(|&&index| index as usize >= count) {
            return Err(VolumeError::Parameter {
                field: "triangles",
                expected: "indices below the number of vertices",
                found: format!("{index}, with {count} vertices"),
            });
        }
        Ok(Self { vertices, triangles })
    }

    /// Vertices x, y, z.
    pub fn vertices(&self) -> &[[f64; 3]] {
        &self.vertices
    }

    /// Triangles, as indices of vertices.
    pub fn triangles(&self) -> &[[u32; 3]] {
        &self.triangles
    }

    /// The corners of each triangle.
    fn corners(&self) -> impl Iterator<Item = Triangle> + '_ {
        self.triangles.iter().map(|t| t.map(|i| self.vertices[i as usize].into()))
    }

    /// Smallest and largest x, y, z of the vertices; `None` without vertices.
    pub fn bounds(&self) -> Option<[[f64; 3]; 2]> {
        let [first, rest @ ..] = self.vertices.as_slice() else {
            return None;
        };
        Some(rest.iter().fold([*first; 2], |[low, high], vertex| {
            [0, 1].map(|side| {
                [0, 1, 2].map(|axis| match side {
                    0 => vertex[axis].min(low[axis]),
                    _ => vertex[axis].max(high[axis]),
                })
            })
        }))
    }

    /// Area of the surface.
    pub fn area(&self) -> f64 {
        self.corners().map(|t| area_vector(&t).norm()).sum()
    }

    /// Enclosed volume, negative if the triangles face inwards. It means something for closed
    /// meshes alone: the integral of x · n / 3 over the surface, about the middle of the bounds.
    pub fn volume(&self) -> f64 {
        let middle = Vector3::from(self.middle());
        let cone = |t: Triangle| {
            let [a, b, c] = t.map(|corner| corner - middle);
            a.dot(&b.cross(&c)) / 6.0
        };
        self.corners().map(cone).sum()
    }

    /// Centroid x, y, z of the surface, which turns with the mesh and does not depend on how it is
    /// cut into triangles; the middle of the bounds if there is no area.
    pub fn centroid(&self) -> [f64; 3] {
        let middle = Vector3::from(self.middle());
        let (mut moment, mut total) = (Vector3::zeros(), 0.0);
        for triangle in self.corners() {
            let area = area_vector(&triangle).norm();
            let [a, b, c] = triangle.map(|corner| corner - middle);
            moment += (a + b + c) * (area / 3.0);
            total += area;
        }
        if total > 0.0 { (middle + moment / total).into() } else { middle.into() }
    }

    /// Middle x, y, z of the bounds; the origin without vertices.
    pub fn middle(&self) -> [f64; 3] {
        let [low, high] = self.bounds().unwrap_or_default();
        [0, 1, 2].map(|axis| low[axis] * 0.5 + high[axis] * 0.5)
    }

    /// Is every edge shared by exactly two triangles that run along it in opposite directions?
    /// Triangles with a repeated vertex are passed over; a mesh without others is not watertight.
    pub fn is_watertight(&self) -> bool {
        let mut uses: HashMap<[u32; 2], u32> = HashMap::new();
        for &[a, b, c] in self.triangles.iter().filter(|[a, b, c]| a != b && b != c && c != a) {
            for edge in [[a, b], [b, c], [c, a]] {
                *uses.entry(edge).or_default() += 1;
            }
        }
        let matched = |a, b| uses.get(&[b, a]) == Some(&1);
        !uses.is_empty() && uses.iter().all(|(&[a, b], &count)| count == 1 && matched(a, b))
    }

    /// The edges from, to that the triangles run along more often than back, once for each surplus.
    fn open_edges(&self) -> Vec<[u32; 2]> {
        let mut surplus: HashMap<[u32; 2], i32> = HashMap::new();
        for &[a, b, c] in &self.triangles {
            for [from, to] in [[a, b], [b, c], [c, a]] {
                let back = from > to;
                let edge = if back { [to, from] } else { [from, to] };
                *surplus.entry(edge).or_default() += i32::from(from < to) - i32::from(back);
            }
        }
        let mut edges: Vec<_> = surplus.into_iter().filter(|(_, count)| *count != 0).collect();
        edges.sort_unstable();
        let directed = |(edge @ [a, b], count): ([u32; 2], i32)| {
            let edge = if count > 0 { edge } else { [b, a] };
            std::iter::repeat_n(edge, count.unsigned_abs() as usize)
        };
        edges.into_iter().flat_map(directed).collect()
    }

    /// The mesh with equal vertices (0 equals -0) made one, at the place of the first.
    pub fn merged(&self) -> Self {
        let mut known = HashMap::new();
        let mut vertices: Vec<[f64; 3]> = Vec::new();
        let mut kept = Vec::with_capacity(self.vertices.len());
        for vertex in &self.vertices {
            // Adding 0 turns -0 into 0.
            let index = *known.entry(vertex.map(|x| (x + 0.0).to_bits())).or_insert(vertices.len());
            if index == vertices.len() {
                vertices.push(*vertex);
            }
            kept.push(index as u32);
        }
        let triangles = self.triangles.iter().map(|t| t.map(|i| kept[i as usize])).collect();
        Self { vertices, triangles }
    }

    /// Unit normal of each triangle; zero for one without area.
    pub fn triangle_normals(&self) -> Vec<[f64; 3]> {
        self.corners().map(|t| unit(area_vector(&t))).collect()
    }

    /// Unit normal of each vertex: the mean of its triangles' by area; zero where there is none.
    pub fn vertex_normals(&self) -> Vec<[f64; 3]> {
        let mut sums = vec![Vector3::zeros(); self.vertices.len()];
        for (triangle, corners) in self.triangles.iter().zip(self.corners()) {
            for &vertex in triangle {
                sums[vertex as usize] += area_vector(&corners);
            }
        }
        sums.into_iter().map(unit).collect()
    }

    /// The same mesh with each vertex moved.
    fn mapped(&self, map: impl Fn(Vector3<f64>) -> Vector3<f64>) -> Self {
        let vertices = self.vertices.iter().map(|&vertex| map(vertex.into()).into()).collect();
        Self { vertices, triangles: self.triangles.clone() }
    }

    /// The mesh moved by `shift` = x, y, z.
    pub fn translated(&self, shift: [f64; 3]) -> Self {
        self.mapped(|vertex| vertex + Vector3::from(shift))
    }

    /// The mesh after `rotation` about the origin.
    pub fn rotated(&self, rotation: &Rotation) -> Self {
        self.mapped(|vertex| rotation * vertex)
    }

    /// The mesh scaled about the origin.
    pub fn scaled(&self, factor: f64) -> Self {
        self.mapped(|vertex| vertex * factor)
    }

    /// The mesh with its [centroid](Self::centroid) at the origin. Centring and turning commute.
    pub fn centred(&self) -> Self {
        self.translated(self.centroid().map(|x| -x))
    }

    /// The mesh scaled about the origin so that its farthest vertex lies at `radius`: it then fits
    /// a cube of edge 2 `radius` after every rotation. A mesh without extent stays as it is.
    pub fn scaled_to(&self, radius: f64) -> Self {
        let norms = self.vertices.iter().map(|&vertex| Vector3::from(vertex).norm());
        let farthest = norms.fold(0.0, f64::max);
        if farthest > 0.0 { self.scaled(radius / farthest) } else { self.clone() }
    }

    /// The mesh with the middle of its bounds at the origin, scaled so that their longest edge is
    /// `edge`. A mesh without extent is moved alone.
    pub fn fitted(&self, edge: f64) -> Self {
        let moved = self.translated(self.middle().map(|x| -x));
        let [low, high] = moved.bounds().unwrap_or_default();
        let longest = (Vector3::from(high) - Vector3::from(low)).max();
        if longest > 0.0 { moved.scaled(edge / longest) } else { moved }
    }
}

/// Normal of a triangle, as long as its area.
fn area_vector([a, b, c]: &Triangle) -> Vector3<f64> {
    (b - a).cross(&(c - a)) / 2.0
}

fn unit(vector: Vector3<f64>) -> [f64; 3] {
    vector.try_normalize(0.0).unwrap_or_default().into()
}
