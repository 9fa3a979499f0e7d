//! Stereolithography files, ascii and binary:
//! <https://www.loc.gov/preservation/digital/formats/fdd/fdd000504.shtml> and 000505.

use std::borrow::Cow;

use crate::fault::{Fault, Place};
use crate::polygons::{Polygons, lines, position, quoted};
use crate::spec::{FormatSpec, Read};
use steer3d_volume::mesh::Mesh;

pub(crate) const FORMAT: FormatSpec =
    FormatSpec { recognises, ..FormatSpec::new("STL", &["stl"], Read::Mesh(read)) };

const HEADER: usize = 84;
const FACET: usize = 50;

/// Reads an STL file. Equal vertices (-0 equals 0) become one; all solids become one mesh; normals,
/// names and attributes are skipped.
fn read(bytes: &[u8]) -> Result<Mesh, Fault> {
    let mut mesh = Polygons::new()?;
    match is_text(bytes) {
        true => read_text(bytes, &mut mesh)?,
        false => read_binary(bytes, &mut mesh)?,
    }
    mesh.merged()
}

/// Is the size that of a binary file, or is it text whose second statement is one of STL?
fn recognises(bytes: &[u8]) -> bool {
    let second = || {
        let mut lines = lines(bytes).filter(|(_, line)| !line.trim().is_empty());
        lines.nth(1).map(|(_, line)| keyword(&line))
    };
    has_binary_size(bytes)
        || is_text(bytes) && second().is_some_and(|word| word == "facet" || word == "endsolid")
}

/// A text begins with `solid`, as do some binary files: those have the exact size of their facets,
/// or are damaged and have zeros in or behind their header.
fn is_text(bytes: &[u8]) -> bool {
    let head = bytes[..bytes.len().min(512)].trim_ascii_start();
    let solid = head.get(..5).is_some_and(|word| word.eq_ignore_ascii_case(b"solid"));
    solid && !has_binary_size(bytes) && !head.contains(&0)
}

fn has_binary_size(bytes: &[u8]) -> bool {
    facets(bytes).is_some_and(|count| bytes.len() as u64 == binary_size(count))
}

fn facets(bytes: &[u8]) -> Option<u32> {
    bytes.get(80..HEADER)?.try_into().ok().map(u32::from_le_bytes)
}

fn binary_size(facets: u32) -> u64 {
    HEADER as u64 + FACET as u64 * u64::from(facets)
}

fn read_binary(bytes: &[u8], mesh: &mut Polygons) -> Result<(), Fault> {
    let found = format!("{} bytes", bytes.len());
    let Some(count) = facets(bytes) else {
        return Err(Fault::new(Place::Whole, "\"solid\" or a header of 84 bytes", found));
    };
    if bytes.len() as u64 != binary_size(count) {
        let expected = format!("{} bytes for {count} facets", binary_size(count));
        return Err(Fault::new(Place::Byte(80), expected, found));
    }
    for (i, facet) in bytes[HEADER..].as_chunks::<FACET>().0.iter().enumerate() {
        let place = Place::Byte((HEADER + i * FACET) as u64);
        let (values, _) = facet[12..48].as_chunks::<4>();
        let values: Vec<f64> = values.iter().map(|v| f64::from(f32::from_le_bytes(*v))).collect();
        add_facet(mesh, place, values.as_chunks().0)?;
    }
    Ok(())
}

/// The first word in lower case.
fn keyword(line: &str) -> String {
    line.split_whitespace().next().unwrap_or_default().to_ascii_lowercase()
}

fn read_text(bytes: &[u8], mesh: &mut Polygons) -> Result<(), Fault> {
    let mut lines = lines(bytes).filter(|(_, line)| !line.trim().is_empty()).peekable();
    while lines.peek().is_some() {
        statement(&mut lines, &["solid"])?;
        loop {
            let (place, line) = statement(&mut lines, &["facet", "endsolid"])?;
            if keyword(&line) == "endsolid" {
                break;
            }
            statement(&mut lines, &["outer"])?;
            let mut corners = [[0.0; 3]; 3];
            for corner in &mut corners {
                let (place, line) = statement(&mut lines, &["vertex"])?;
                *corner = position(&mut line.split_whitespace().skip(1), place)?;
            }
            statement(&mut lines, &["endloop"])?;
            statement(&mut lines, &["endfacet"])?;
            add_facet(mesh, place, &corners)?;
        }
    }
    Ok(())
}

/// The next line, if it begins with one of `keywords`.
fn statement<'a>(
    lines: &mut impl Iterator<Item = (Place, Cow<'a, str>)>,
    keywords: &[&str],
) -> Result<(Place, Cow<'a, str>), Fault> {
    let expected = || keywords.join(" or ");
    let (place, line) =
        lines.next().ok_or_else(|| Fault::new(Place::Whole, expected(), "the end of the file"))?;
    match keywords.contains(&keyword(&line).as_str()) {
        true => Ok((place, line)),
        false => Err(Fault::new(place, expected(), quoted(line.trim()))),
    }
}

fn add_facet(mesh: &mut Polygons, place: Place, corners: &[[f64; 3]]) -> Result<(), Fault> {
    let first = mesh.vertices();
    for position in corners {
        mesh.add_vertex(place, *position)?;
    }
    mesh.add_polygon(place, &[first, first + 1, first + 2], first + 3)
}
