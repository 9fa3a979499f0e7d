//! Polygon file format, ascii and binary: <https://paulbourke.net/dataformats/ply/>.

use crate::fault::{Fault, Place};
use crate::polygons::{Polygons, quoted};
use crate::samples::Element as Scalar;
use crate::spec::{FormatSpec, Read};
use steer3d_volume::mesh::Mesh;

pub(crate) const FORMAT: FormatSpec = FormatSpec {
    magics: &[(0, b"ply\n"), (0, b"ply\r")],
    ..FormatSpec::new("PLY", &["ply"], Read::Mesh(read))
};

/// Most kinds of elements that a header may declare.
const MAX_ELEMENTS: usize = 64;

/// Reads a PLY file: x, y and z of the element `vertex` and the list `vertex_indices` (or
/// `vertex_index`) of the element `face`, of any number type and in any order. Everything else is
/// skipped.
fn read(bytes: &[u8]) -> Result<Mesh, Fault> {
    let header = Header::read(bytes)?;
    let count = header.element("vertex")?.count;
    header.element("face")?;
    let mut values = Values { bytes, ..header.values };
    let mut mesh = Polygons::new()?;
    for element in &header.elements {
        values.check_room(element)?;
        match element.name.as_str() {
            "vertex" => read_vertices(element, &mut values, &mut mesh)?,
            "face" => read_faces(element, &mut values, count, &mut mesh)?,
            _ => values.skip(element)?,
        }
    }
    values.check_end()?;
    mesh.finish()
}

fn read_vertices(
    element: &Element,
    values: &mut Values<'_>,
    mesh: &mut Polygons,
) -> Result<(), Fault> {
    let axis = |name| element.property(&[name], false);
    let axes = [axis("x")?, axis("y")?, axis("z")?];
    let mut row = Vec::new();
    for _ in 0..element.count {
        let place = values.start();
        let mut position = [0.0; 3];
        for (i, property) in element.properties.iter().enumerate() {
            values.property(property, &mut row)?;
            if let Some(axis) = axes.iter().position(|&axis| axis == i) {
                position[axis] = row[0];
            }
        }
        mesh.add_vertex(place, position)?;
    }
    Ok(())
}

fn read_faces(
    element: &Element,
    values: &mut Values<'_>,
    vertices: usize,
    mesh: &mut Polygons,
) -> Result<(), Fault> {
    let corners = element.property(&["vertex_indices", "vertex_index"], true)?;
    let mut row = Vec::new();
    for _ in 0..element.count {
        let place = values.start();
        for (i, property) in element.properties.iter().enumerate() {
            values.property(property, &mut row)?;
            if i == corners {
                let indices: Vec<usize> = row
                    .iter()
                    .map(|&value| whole(value, place, "the index of a vertex"))
                    .collect::<Result<_, _>>()?;
                mesh.add_polygon(place, &indices, vertices)?;
            }
        }
    }
    Ok(())
}

fn whole(value: f64, place: Place, expected: &str) -> Result<usize, Fault> {
    match value >= 0.0 && value.fract() == 0.0 && value <= f64::from(u32::MAX) {
        true => Ok(value as usize),
        false => Err(Fault::new(place, expected, value.to_string())),
    }
}

/// A number type by its name in PLY.
fn scalar(name: &str) -> Option<Scalar> {
    Some(match name {
        "char" | "int8" => Scalar::I8,
        "uchar" | "uint8" => Scalar::U8,
        "short" | "int16" => Scalar::I16,
        "ushort" | "uint16" => Scalar::U16,
        "int" | "int32" => Scalar::I32,
        "uint" | "uint32" => Scalar::U32,
        "float" | "float32" => Scalar::F32,
        "double" | "float64" => Scalar::F64,
        _ => return None,
    })
}

#[derive(Debug)]
struct Property {
    name: String,
    /// The type of the length, if it is a list.
    length: Option<Scalar>,
    item: Scalar,
}

#[derive(Debug)]
struct Element {
    name: String,
    place: Place,
    count: usize,
    properties: Vec<Property>,
}

impl Element {
    /// The index of the property with one of `names`.
    fn property(&self, names: &[&str], list: bool) -> Result<usize, Fault> {
        let matches = |property: &Property| {
            names.contains(&property.name.as_str()) && property.length.is_some() == list
        };
        self.properties.iter().position(matches).ok_or_else(|| {
            let kind = if list { "a list" } else { "a number" };
            let expected = format!("{kind} {} in the element {}", names.join(" or "), self.name);
            let found: Vec<&str> = self.properties.iter().map(|p| p.name.as_str()).collect();
            Fault::new(self.place, expected, quoted(&found.join(" ")))
        })
    }

    /// The bytes of an item whose lists are empty; in a text, of its shortest numbers.
    fn smallest(&self, encoding: Encoding) -> usize {
        let first = |property: &Property| property.length.unwrap_or(property.item);
        let size = |property| match encoding {
            Encoding::Text => 1,
            Encoding::Little | Encoding::Big => first(property).size(),
        };
        self.properties.iter().map(size).sum()
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Encoding {
    Text,
    Little,
    Big,
}

struct Header {
    elements: Vec<Element>,
    values: Values<'static>,
}

impl Header {
    fn read(bytes: &[u8]) -> Result<Self, Fault> {
        let mut elements: Vec<Element> = Vec::new();
        let mut encoding = None;
        let mut offset = 0;
        for (i, line) in bytes.split_inclusive(|&byte| byte == b'\n').enumerate() {
            offset += line.len();
            let place = Place::Line(i + 1);
            let line = String::from_utf8_lossy(line);
            let line = line.trim();
            let words: Vec<&str> = line.split_whitespace().collect();
            let wrong = |expected: &str| Fault::new(place, expected, quoted(line));
            match words.as_slice() {
                ["ply"] if i == 0 => (),
                _ if i == 0 => return Err(wrong("the line \"ply\"")),
                ["format", name, "1.0"] => encoding = Some(parse_encoding(name, place)?),
                ["comment" | "obj_info", ..] | [] => (),
                ["element", name, count] => {
                    if elements.iter().any(|element| element.name == *name) {
                        return Err(wrong("elements of different names"));
                    }
                    if elements.len() == MAX_ELEMENTS {
                        return Err(wrong(&format!("at most {MAX_ELEMENTS} elements")));
                    }
                    let count = count.parse().map_err(|_| wrong("the number of items"))?;
                    let name = (*name).to_owned();
                    elements.push(Element { name, place, count, properties: Vec::new() });
                }
                ["property", words @ ..] => {
                    let property = parse_property(words)
                        .ok_or_else(|| wrong("a property with its type and name"))?;
                    let element = elements.last_mut().ok_or_else(|| wrong("an element"))?;
                    element.properties.push(property);
                }
                ["end_header"] => {
                    let encoding = encoding.ok_or_else(|| wrong("a format before the end"))?;
                    let values = Values { bytes: &[], offset, line: i + 2, encoding };
                    return Ok(Self { elements, values });
                }
                _ => return Err(wrong("a line of a PLY 1.0 header")),
            }
        }
        Err(Fault::new(Place::Whole, "the line end_header", "the end of the file"))
    }

    fn element(&self, name: &str) -> Result<&Element, Fault> {
        self.elements.iter().find(|element| element.name == name).ok_or_else(|| {
            let names: Vec<&str> = self.elements.iter().map(|e| e.name.as_str()).collect();
            let found = format!("the elements {}", quoted(&names.join(" ")));
            Fault::new(Place::Whole, format!("an element {name}"), found)
        })
    }
}

fn parse_encoding(name: &str, place: Place) -> Result<Encoding, Fault> {
    match name {
        "ascii" => Ok(Encoding::Text),
        "binary_little_endian" => Ok(Encoding::Little),
        "binary_big_endian" => Ok(Encoding::Big),
        _ => {
            Err(Fault::new(place, "ascii, binary_little_endian or binary_big_endian", quoted(name)))
        }
    }
}

fn parse_property(words: &[&str]) -> Option<Property> {
    let (length, item, name) = match words {
        ["list", length, item, name] => (Some(scalar(length)?), item, name),
        [item, name] => (None, item, name),
        _ => return None,
    };
    Some(Property { name: (*name).to_owned(), length, item: scalar(item)? })
}

/// The values behind the header, one after another.
struct Values<'a> {
    bytes: &'a [u8],
    offset: usize,
    line: usize,
    encoding: Encoding,
}

impl Values<'_> {
    fn place(&self) -> Place {
        match self.encoding {
            Encoding::Text => Place::Line(self.line),
            Encoding::Little | Encoding::Big => Place::Byte(self.offset as u64),
        }
    }

    /// The place of the next value.
    fn start(&mut self) -> Place {
        if self.encoding == Encoding::Text {
            self.skip_space();
        }
        self.place()
    }

    fn left(&self) -> usize {
        self.bytes.len() - self.offset
    }

    /// Refuses an element of which fewer bytes are left than its smallest items would take.
    fn check_room(&self, element: &Element) -> Result<(), Fault> {
        let size = element.smallest(self.encoding);
        if element.count.checked_mul(size).is_some_and(|needed| needed <= self.left()) {
            return Ok(());
        }
        let expected =
            format!("{} items of {size} bytes or more for {}", element.count, element.name);
        Err(Fault::new(self.place(), expected, format!("{} bytes", self.left())))
    }

    fn check_end(mut self) -> Result<(), Fault> {
        self.skip_space();
        match self.left() {
            0 => Ok(()),
            left => {
                let found = format!("{left} more bytes");
                Err(Fault::new(self.place(), "the end of the file after the last item", found))
            }
        }
    }

    fn skip(&mut self, element: &Element) -> Result<(), Fault> {
        if element.properties.is_empty() {
            return Ok(());
        }
        let mut row = Vec::new();
        for _ in 0..element.count {
            for property in &element.properties {
                self.property(property, &mut row)?;
            }
        }
        Ok(())
    }

    /// The number or the items of a list.
    fn property(&mut self, property: &Property, row: &mut Vec<f64>) -> Result<(), Fault> {
        row.clear();
        let mut count = 1;
        if let Some(length) = property.length {
            let place = self.start();
            count = whole(self.next(length)?, place, "the length of a list")?;
        }
        for _ in 0..count {
            row.push(self.next(property.item)?);
        }
        Ok(())
    }

    fn next(&mut self, scalar: Scalar) -> Result<f64, Fault> {
        if self.encoding == Encoding::Text {
            return self.next_in_text();
        }
        let place = self.place();
        let end = self.offset + scalar.size();
        let bytes = self.bytes.get(self.offset..end).ok_or_else(|| {
            Fault::new(place, format!("{} bytes", scalar.size()), format!("{}", self.left()))
        })?;
        self.offset = end;
        let mut value = [0; 8];
        value[..bytes.len()].copy_from_slice(bytes);
        if self.encoding == Encoding::Big {
            value[..bytes.len()].reverse();
        }
        Ok(scalar.value(value))
    }

    fn next_in_text(&mut self) -> Result<f64, Fault> {
        self.skip_space();
        let rest = &self.bytes[self.offset..];
        let end = rest.iter().position(u8::is_ascii_whitespace).unwrap_or(rest.len());
        let token = String::from_utf8_lossy(&rest[..end]);
        self.offset += end;
        token.parse().map_err(|_| {
            let found =
                if token.is_empty() { "the end of the file".into() } else { quoted(&token) };
            Fault::new(self.place(), "a number", found)
        })
    }

    fn skip_space(&mut self) {
        while let Some(byte) = self.bytes.get(self.offset).filter(|b| b.is_ascii_whitespace()) {
            self.line += usize::from(*byte == b'\n');
            self.offset += 1;
        }
    }
}
