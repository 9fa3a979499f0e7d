//! Object File Format (Geomview's OFF), ascii: <http://www.geomview.org/docs/html/OFF.html>.

use std::borrow::Cow;

use crate::fault::{Fault, Place};
use crate::polygons::{Polygons, lines, number, position, quoted};
use crate::spec::{FormatSpec, Read};
use steer3d_volume::mesh::Mesh;

pub(crate) const FORMAT: FormatSpec =
    FormatSpec { recognises, ..FormatSpec::new("OFF", &["off"], Read::Mesh(read)) };

const KEYWORD: &str = "the keyword OFF, COFF, NOFF or STOFF (three coordinates)";
const COUNTS: &str = "the numbers of vertices, faces and edges";

/// Reads an OFF file. Normals, colours and texture coordinates are skipped; so is the number of
/// edges. The counts may follow the keyword on its line, with or without a space.
fn read(bytes: &[u8]) -> Result<Mesh, Fault> {
    let mut lines = statements(bytes);
    let (place, line) = next(&mut lines, KEYWORD)?;
    let rest =
        after_keyword(&line).ok_or_else(|| Fault::new(place, KEYWORD, quoted(line.trim())))?;
    if rest.starts_with("BINARY") {
        return Err(Fault::new(place, "an ascii OFF file; convert it", "a binary one"));
    }
    let (place, counts) = match rest.is_empty() {
        true => next(&mut lines, COUNTS)?,
        false => (place, Cow::Borrowed(rest)),
    };
    let mut tokens = counts.split_whitespace();
    let mut count = || number(&mut tokens, place, COUNTS);
    let [vertices, faces, _] = [count()?, count()?, count()?];

    let mut mesh = Polygons::new()?;
    for i in 0..vertices {
        let (place, line) = next(&mut lines, &format!("vertex {} of {vertices}", i + 1))?;
        mesh.add_vertex(place, position(&mut line.split_whitespace(), place)?)?;
    }
    for i in 0..faces {
        let (place, line) = next(&mut lines, &format!("face {} of {faces}", i + 1))?;
        mesh.add_polygon(place, &corners(&line, place)?, vertices)?;
    }
    match lines.next() {
        Some((place, line)) => {
            Err(Fault::new(place, "the end of the file after the last face", quoted(line.trim())))
        }
        None => mesh.finish(),
    }
}

/// Does the first statement hold the keyword of OFF?
fn recognises(bytes: &[u8]) -> bool {
    let head = &bytes[..bytes.len().min(1 << 16)];
    statements(head).next().is_some_and(|(_, line)| after_keyword(&line).is_some())
}

/// The lines without comments that are not blank.
fn statements(bytes: &[u8]) -> impl Iterator<Item = (Place, Cow<'_, str>)> {
    let uncommented = lines(bytes).map(|(place, line)| match line.find('#') {
        Some(end) => (place, Cow::Owned(line[..end].to_owned())),
        None => (place, line),
    });
    uncommented.filter(|(_, line)| !line.trim().is_empty())
}

fn next<'a>(
    lines: &mut impl Iterator<Item = (Place, Cow<'a, str>)>,
    expected: &str,
) -> Result<(Place, Cow<'a, str>), Fault> {
    lines.next().ok_or_else(|| Fault::new(Place::Whole, expected, "the end of the file"))
}

/// What follows the keyword `[ST][C][N]OFF` on its line.
fn after_keyword(line: &str) -> Option<&str> {
    let mut rest = line.trim();
    for prefix in ["ST", "C", "N"] {
        rest = rest.strip_prefix(prefix).unwrap_or(rest);
    }
    let rest = rest.strip_prefix("OFF")?;
    let ends = rest.chars().next().is_none_or(|c| c.is_whitespace() || c.is_ascii_digit());
    ends.then_some(rest.trim_start())
}

fn corners(line: &str, place: Place) -> Result<Vec<usize>, Fault> {
    let mut tokens = line.split_whitespace();
    let count = number(&mut tokens, place, "the number of corners")?;
    let corners: Vec<usize> = tokens
        .by_ref()
        .take(count)
        .map(|token| number(&mut [token].into_iter(), place, "the index of a vertex"))
        .collect::<Result<_, _>>()?;
    match corners.len() == count {
        true => Ok(corners),
        false => Err(Fault::new(
            place,
            format!("{count} corners"),
            format!("{} before the end of the line", corners.len()),
        )),
    }
}
