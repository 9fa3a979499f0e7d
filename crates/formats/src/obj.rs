//! Wavefront OBJ, polygons alone: <https://www.loc.gov/preservation/digital/formats/fdd/fdd000507.shtml>.

use crate::fault::{Fault, Place};
use crate::polygons::{Polygons, lines, position, quoted};
use crate::spec::{FormatSpec, Read};
use steer3d_volume::mesh::Mesh;

pub(crate) const FORMAT: FormatSpec =
    FormatSpec { recognises, ..FormatSpec::new("OBJ", &["obj"], Read::Mesh(read)) };

/// Statements that say nothing of the positions of triangles.
const SKIPPED: &str = "vt vn vp l p g o s mg usemtl mtllib usemap maplib bevel c_interp d_interp lod \
                       shadow_obj trace_obj";

fn is_skipped(keyword: &str) -> bool {
    SKIPPED.split(' ').any(|skipped| skipped == keyword)
}

/// Reads an OBJ file. All groups and objects become one mesh; materials, normals, texture
/// coordinates, colours, points and lines are skipped; free-form surfaces are refused.
fn read(bytes: &[u8]) -> Result<Mesh, Fault> {
    let mut mesh = Polygons::new()?;
    for (place, line) in statements(bytes) {
        let mut tokens = line.split_whitespace();
        match tokens.next() {
            Some("v") => mesh.add_vertex(place, position(&mut tokens, place)?)?,
            Some("f") => {
                let count = mesh.vertices();
                let corners: Vec<usize> =
                    tokens.map(|token| corner(token, count, place)).collect::<Result<_, _>>()?;
                mesh.add_polygon(place, &corners, count)?;
            }
            Some(other) if !is_skipped(other) => {
                return Err(Fault::new(place, "a statement of a polygonal OBJ", quoted(other)));
            }
            _ => (),
        }
    }
    mesh.finish()
}

/// Is there a vertex, with nothing but OBJ statements before it?
fn recognises(bytes: &[u8]) -> bool {
    let head = &bytes[..bytes.len().min(1 << 16)];
    for (place, line) in statements(head) {
        let mut tokens = line.split_whitespace();
        match tokens.next() {
            Some("v") => return position(&mut tokens, place).is_ok(),
            Some(other) if !is_skipped(other) => return false,
            _ => (),
        }
    }
    false
}

/// Lines without comments, each with those that it continues on by a backslash.
fn statements(bytes: &[u8]) -> impl Iterator<Item = (Place, String)> {
    let mut lines = lines(bytes)
        .map(|(place, line)| (place, line.split('#').next().unwrap_or_default().to_owned()));
    std::iter::from_fn(move || {
        let (place, mut line) = lines.next()?;
        while let Some(end) = line.trim_end().strip_suffix('\\').map(str::len) {
            line.truncate(end);
            line.push(' ');
            line.push_str(&lines.next().map(|(_, next)| next).unwrap_or_default());
        }
        Some((place, line))
    })
}

/// The vertex, counted from 0, of a corner `v`, `v/vt`, `v//vn` or `v/vt/vn`, where negative
/// numbers count back from the last vertex so far.
fn corner(token: &str, count: usize, place: Place) -> Result<usize, Fault> {
    let wrong = || {
        let expected = format!("a corner v/vt/vn with v from 1 to {count} or from -{count} to -1");
        Fault::new(place, expected, quoted(token))
    };
    let mut parts = token.split('/');
    let vertex: i64 = parts.next().and_then(|v| v.parse().ok()).ok_or_else(wrong)?;
    let others: Vec<&str> = parts.collect();
    if others.len() > 2 || others.iter().any(|v| !v.is_empty() && v.parse::<i64>().is_err()) {
        return Err(wrong());
    }
    let from_zero = if vertex < 0 { count as i64 + vertex } else { vertex - 1 };
    usize::try_from(from_zero).ok().filter(|&v| v < count).ok_or_else(wrong)
}
