//! What the mesh readers share: lines of text, numbers, and polygons cut into triangles.

use std::borrow::Cow;
use std::mem::take;

use crate::fault::{Fault, Place};
use crate::held::Held;
use steer3d_volume::mesh::Mesh;
use steer3d_volume::volume::is_length;

/// What a vertex and a triangle take: twice their size, as vectors grow.
const VERTEX_BYTES: u64 = 2 * size_of::<[f64; 3]>() as u64;
const TRIANGLE_BYTES: u64 = 2 * size_of::<[u32; 3]>() as u64;

/// The lines of `bytes` with their places. Bytes that are not UTF-8 become U+FFFD: they may stand
/// in names and comments, and are no number.
pub(crate) fn lines(bytes: &[u8]) -> impl Iterator<Item = (Place, Cow<'_, str>)> {
    let lines = bytes.split(|&byte| byte == b'\n').enumerate();
    lines.map(|(i, line)| (Place::Line(i + 1), String::from_utf8_lossy(line)))
}

/// The next of `tokens` as a number called `what`.
pub(crate) fn number<'a, T: std::str::FromStr>(
    tokens: &mut impl Iterator<Item = &'a str>,
    place: Place,
    what: &str,
) -> Result<T, Fault> {
    let token = tokens.next().ok_or_else(|| Fault::new(place, what, "the end of the line"))?;
    token.parse().map_err(|_| Fault::new(place, what, quoted(token)))
}

/// The next three of `tokens` as x, y, z.
pub(crate) fn position<'a>(
    tokens: &mut impl Iterator<Item = &'a str>,
    place: Place,
) -> Result<[f64; 3], Fault> {
    let mut coordinate = || number(tokens, place, "three coordinates");
    Ok([coordinate()?, coordinate()?, coordinate()?])
}

/// A piece of the file in quotation marks, cut short if it is long.
pub(crate) fn quoted(text: &str) -> String {
    let mut short: String = text.chars().take(40).collect();
    if short.len() < text.len() {
        short.push_str("...");
    }
    format!("{short:?}")
}

/// The vertices and triangles that a reader has met.
pub(crate) struct Polygons {
    vertices: Vec<[f64; 3]>,
    triangles: Vec<[u32; 3]>,
    room: Held,
}

impl Polygons {
    pub(crate) fn new() -> Result<Self, Fault> {
        Ok(Self { vertices: Vec::new(), triangles: Vec::new(), room: Held::new()? })
    }

    pub(crate) fn vertices(&self) -> usize {
        self.vertices.len()
    }

    pub(crate) fn add_vertex(&mut self, place: Place, position: [f64; 3]) -> Result<(), Fault> {
        if let Some(x) = position.iter().find(|x| !is_length(**x)) {
            return Err(Fault::new(
                place,
                "finite coordinates from -1e30 to 1e30",
                format!("{x:e}"),
            ));
        }
        if self.vertices.len() >= u32::MAX as usize {
            return Err(Fault::new(place, format!("at most {} vertices", u32::MAX), "more"));
        }
        self.room.add(VERTEX_BYTES)?;
        self.vertices.push(position);
        Ok(())
    }

    /// Cuts a polygon into the fan about its first corner. `count` vertices exist.
    pub(crate) fn add_polygon(
        &mut self,
        place: Place,
        corners: &[usize],
        count: usize,
    ) -> Result<(), Fault> {
        if corners.len() < 3 {
            let found = format!("{} corners", corners.len());
            return Err(Fault::new(place, "a face of at least 3 corners", found));
        }
        if let Some(corner) = corners.iter().find(|&&corner| corner >= count) {
            let expected = format!("corners among {count} vertices, counted from 0");
            return Err(Fault::new(place, expected, format!("vertex {corner}")));
        }
        self.room.add(TRIANGLE_BYTES * (corners.len() as u64 - 2))?;
        let fan = corners[1..].windows(2).map(|pair| [corners[0], pair[0], pair[1]]);
        self.triangles.extend(fan.map(|triangle| triangle.map(|corner| corner as u32)));
        Ok(())
    }

    /// The mesh with equal vertices made one.
    pub(crate) fn merged(mut self) -> Result<Mesh, Fault> {
        // The table of known vertices, its copy of them, and the numbers of those kept.
        self.room.add(120 * self.vertices.len() as u64)?;
        Ok(self.mesh()?.merged())
    }

    /// The mesh. All polygons were checked against no more vertices than there are.
    pub(crate) fn finish(mut self) -> Result<Mesh, Fault> {
        self.mesh()
    }

    fn mesh(&mut self) -> Result<Mesh, Fault> {
        let (vertices, triangles) = (take(&mut self.vertices), take(&mut self.triangles));
        Mesh::new(vertices, triangles)
            .map_err(|error| Fault::new(Place::Whole, "a mesh", error.to_string()))
    }
}
