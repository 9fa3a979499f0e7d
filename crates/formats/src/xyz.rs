//! XYZ files, plain and extended (<https://github.com/libAtoms/extxyz>).
//!
//! Every frame gives a molecule. The first column holds the element's symbol, in any case, or its
//! number; a number may follow the symbol (`C12`). Other names, such as `CB`, are element 0. A frame whose comment has `Properties=` or `Lattice=` is an
//! extended one: its key=value pairs become properties (a key alone has the value `T`), the columns
//! are those of `Properties`, of which the species or atomic number (`Z`), the position and the
//! charge (`charge`, `charges`, `initial_charges`) are taken, and `Lattice` is the cell. In a plain
//! frame the comment is the name, and columns after the position are passed over.

use crate::fault::{Fault, Place};
use crate::records::{Line, Lines, Tally, element, element_of_label, parsed, records, text};
use crate::spec::{FormatSpec, Read, Several};
use steer3d_volume::elements;
use steer3d_volume::molecule::{Atom, Cell, Molecule};

pub(crate) const FORMAT: FormatSpec = FormatSpec {
    recognises,
    several: Some(Several::Records),
    ..FormatSpec::new("XYZ", &["xyz", "extxyz"], Read::Molecules(read))
};

/// Is the first line of a file a count and the third one an atom?
fn recognises(bytes: &[u8]) -> bool {
    let mut lines = Lines::new(bytes);
    let (count, atom) = (lines.next(), lines.nth(1));
    count.zip(atom).is_some_and(|(count, atom)| {
        let is_count = count.integer::<u64>(count.bytes.trim_ascii(), "").is_ok();
        let numbers = atom.words().iter().filter(|word| atom.number(word, "").is_ok()).count();
        is_count && numbers >= 3 && atom.words().len() >= 4
    })
}

/// The molecules of a file, one for each frame.
fn read(bytes: &[u8]) -> Result<Vec<Molecule>, Fault> {
    records(bytes, frame)
}

fn frame(lines: &mut Lines<'_>, tally: &mut Tally) -> Result<Molecule, Fault> {
    let head = lines.expect("a number of atoms")?;
    let count: u64 = head.integer(head.bytes.trim_ascii(), "number of atoms")?;
    if count == 0 {
        return Err(head.fault("at least one atom", head.bytes));
    }
    let comment = lines.expect("a comment line")?;
    let (mut molecule, layout) = comment_line(comment)?;
    for index in 1..=count {
        let line = lines.expect(&format!("atom {index} of {count}"))?;
        tally.push(&mut molecule.atoms, layout.atom(line)?, line.number)?;
    }
    molecule.atoms.shrink_to_fit();
    Ok(molecule)
}

/// The molecule, without atoms, and the layout of its columns that a comment describes.
fn comment_line(line: Line<'_>) -> Result<(Molecule, Layout), Fault> {
    let comment = text(line.bytes.trim_ascii());
    if !(comment.contains("Properties=") || comment.contains("Lattice=")) {
        return Ok((Molecule { name: comment, ..Molecule::default() }, Layout::PLAIN));
    }
    let properties = pairs(line, &comment)?;
    let get = |key: &str| properties.iter().find(|(k, _)| k.eq_ignore_ascii_case(key));
    let layout = get("Properties").map_or(Ok(Layout::PLAIN), |(_, v)| Layout::new(line, v))?;
    let cell = get("Lattice").map_or(Ok(None), |(_, value)| lattice(line, value))?;
    let name = get("name").map(|(_, value)| value.clone()).unwrap_or_default();
    Ok((Molecule { name, atoms: Vec::new(), cell, properties }, layout))
}

/// The key=value pairs of a comment; values may be quoted or in brackets.
fn pairs(line: Line<'_>, comment: &str) -> Result<Vec<(String, String)>, Fault> {
    let mut pairs = Vec::new();
    let mut rest = comment.trim_start();
    while !rest.is_empty() {
        let end = rest.find(|c: char| c == '=' || c.is_whitespace()).unwrap_or(rest.len());
        let key = rest[..end].to_owned();
        rest = &rest[end..];
        let Some(value) = rest.strip_prefix('=') else {
            pairs.push((key, "T".to_owned()));
            rest = rest.trim_start();
            continue;
        };
        let close = match value.chars().next() {
            Some(quote @ ('"' | '\'')) => Some(quote),
            Some('{') => Some('}'),
            Some('[') => Some(']'),
            _ => None,
        };
        let (value, after) = match close {
            None => value.split_at(value.find(char::is_whitespace).unwrap_or(value.len())),
            Some(close) => value[1..].split_once(close).ok_or_else(|| {
                line.fault(format!("a closing {close} of the value of {key}"), value.as_bytes())
            })?,
        };
        pairs.push((key, value.to_owned()));
        rest = after.trim_start();
    }
    Ok(pairs)
}

/// The cell of nine numbers: the vectors a, b, c. Nine zeros are no cell.
fn lattice(line: Line<'_>, value: &str) -> Result<Option<Cell>, Fault> {
    let numbers = value
        .split(|c: char| c.is_whitespace() || c == ',')
        .filter(|word| !word.is_empty())
        .map(|word| line.number(word.as_bytes(), "a component of Lattice"))
        .collect::<Result<Vec<_>, _>>()?;
    let ([a, b, c], []) = numbers.as_chunks::<3>() else {
        return Err(line.fault("nine numbers in Lattice", value.as_bytes()));
    };
    if numbers.iter().all(|&number| number == 0.0) {
        return Ok(None);
    }
    let cell = Cell::from_vectors([*a, *b, *c]);
    cell.map(Some)
        .map_err(|error| Fault::new(Place::Line(line.number), "a lattice", error.to_string()))
}

/// Where the items of an atom stand among the words of its line.
struct Layout {
    species: Option<usize>,
    number: Option<usize>,
    position: usize,
    charge: Option<usize>,
    words: usize,
}

impl Layout {
    const PLAIN: Self =
        Self { species: Some(0), number: None, position: 1, charge: None, words: 4 };

    /// The layout of a value of `Properties`: name:type:columns, again and again.
    fn new(line: Line<'_>, value: &str) -> Result<Self, Fault> {
        let mut layout = Self { species: None, number: None, position: 0, charge: None, words: 0 };
        let mut has_position = false;
        let fields: Vec<&str> = value.split(':').collect();
        for field in fields.chunks(3) {
            let (name, columns) = property(line, field)?;
            match (name, columns) {
                ("species", 1) => layout.species = Some(layout.words),
                ("Z", 1) => layout.number = Some(layout.words),
                ("charge" | "charges" | "initial_charges", 1) => layout.charge = Some(layout.words),
                ("pos" | "positions", 3) => {
                    layout.position = layout.words;
                    has_position = true;
                }
                _ => (),
            }
            layout.words += columns;
        }
        if has_position && (layout.species.is_some() || layout.number.is_some()) {
            return Ok(layout);
        }
        Err(line.fault("species:S:1 (or Z:I:1) and pos:R:3 in Properties", value.as_bytes()))
    }

    fn atom(&self, line: Line<'_>) -> Result<Atom, Fault> {
        let words = line.words();
        if words.len() < self.words {
            return Err(line.fault(format!("an atom of {} columns", self.words), line.bytes));
        }
        let [x, y, z] = [0, 1, 2].map(|axis| words[self.position + axis]);
        let species = self.species.map_or(&[][..], |at| words[at]);
        let number = match self.number {
            Some(at) => Some(line.integer::<u8>(words[at], "atomic number")?),
            None => parsed(species),
        };
        let (element, name) = match number {
            Some(number) => {
                let symbol = elements::symbol(number);
                (symbol.map_or(0, |_| number), symbol.map(str::to_owned))
            }
            None => (element(species).unwrap_or_else(|| element_of_label(species)), None),
        };
        Ok(Atom {
            position: [
                line.coordinate(x, "x")?,
                line.coordinate(y, "y")?,
                line.coordinate(z, "z")?,
            ],
            element,
            name: name.unwrap_or_else(|| text(species)),
            charge: self.charge.map_or(Ok(0.0), |at| line.number(words[at], "charge"))?,
            ..Atom::default()
        })
    }
}

/// Name and number of columns of one property.
fn property<'a>(line: Line<'_>, field: &[&'a str]) -> Result<(&'a str, usize), Fault> {
    const MAX_COLUMNS: usize = 1000;
    let wrong = || {
        let expected = "name:type:columns, type S, I, R or L, 1 to 1000 columns, in Properties";
        line.fault(expected, field.join(":").as_bytes())
    };
    let &[name, "S" | "I" | "R" | "L", columns] = field else { return Err(wrong()) };
    let columns = columns.parse().ok().filter(|columns| (1..=MAX_COLUMNS).contains(columns));
    columns.map(|columns| (name, columns)).ok_or_else(wrong)
}
