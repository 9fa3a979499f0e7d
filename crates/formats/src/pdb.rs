//! Protein Data Bank files, version 3.3
//! (<https://www.wwpdb.org/documentation/file-format-content/format33/v3.3.html>).
//!
//! - Columns count, not words. An atom's line may end after its position (column 54); occupancy,
//!   B factor, element and charge then have their defaults.
//! - Serial numbers are not read, so that those above 99,999 do no harm. Residue numbers may be
//!   hybrid-36 (`A000` is 10,000).
//! - Column 21 belongs to the residue name, as programs with names of four letters use it.
//! - The element is that of columns 77-78 if they hold a symbol. Else the atom name in columns 13-16
//!   tells it: in a standard residue by its first letter; for an ion, which has the name of its
//!   residue, by that; then by the rule of the format, that a symbol of two letters begins in column
//!   13 and one of one letter stands in column 14, but for hydrogens of four characters (`HG11`); then
//!   as a symbol and a number (`C1`). An atom of another name is element 0.
//! - `MODEL` and `ENDMDL` begin another molecule. `END` is the end of the file, as the format has it,
//!   and what follows is passed over, as are records that are not of atoms, models, cell or title.
//! - A cell of edges of at most 1 Å, which the PDB writes where there is no crystal, is none.

use crate::fault::{Fault, Place};
use crate::records::{
    Line, Lines, Tally, cut, element, element_in_residue, element_of_label, text,
};
use crate::spec::{FormatSpec, Read, Several};
use steer3d_volume::molecule::{Atom, Cell, Molecule};

pub(crate) const FORMAT: FormatSpec = FormatSpec {
    recognises,
    several: Some(Several::Models),
    ..FormatSpec::new("PDB", &["pdb", "ent"], Read::Molecules(read))
};

/// Does a file begin with a record of the PDB?
fn recognises(bytes: &[u8]) -> bool {
    const FIRST: [&[u8]; 15] = [
        b"HEADER", b"OBSLTE", b"TITLE ", b"SPLIT ", b"CAVEAT", b"COMPND", b"SOURCE", b"KEYWDS",
        b"EXPDTA", b"NUMMDL", b"AUTHOR", b"REVDAT", b"REMARK", b"CRYST1", b"MODEL ",
    ];
    let first = Lines::new(bytes).find(|line| !line.is_blank());
    first.map(|line| line.bytes).is_some_and(|line| {
        let blank = line.get(6).is_none_or(|byte| matches!(byte, b' ' | b'0'..=b'9'));
        let header = blank && FIRST.iter().any(|name| line.starts_with(name));
        header || line.starts_with(b"ATOM  ") || line.starts_with(b"HETATM")
    })
}

/// The molecules of a file: one, or one for each model.
fn read(bytes: &[u8]) -> Result<Vec<Molecule>, Fault> {
    let mut reader = Reader::new()?;
    for line in Lines::new(bytes).take_while(|line| line.columns(1, 6) != b"END") {
        reader.line(line)?;
    }
    reader.end_model();
    if reader.models.is_empty() {
        return Err(Fault::new(Place::Whole, "an ATOM or HETATM record", "none"));
    }
    let name = cut(if reader.title.is_empty() { &reader.id } else { &reader.title });
    for model in &mut reader.models {
        model.name.clone_from(&name);
    }
    Ok(reader.models)
}

struct Reader {
    id: String,
    title: String,
    cell: Option<Cell>,
    atoms: Vec<Atom>,
    models: Vec<Molecule>,
    tally: Tally,
}

impl Reader {
    fn new() -> Result<Self, Fault> {
        let (id, title) = (String::new(), String::new());
        Ok(Self { id, title, cell: None, atoms: vec![], models: vec![], tally: Tally::new()? })
    }

    fn line(&mut self, line: Line<'_>) -> Result<(), Fault> {
        let record = line.bytes;
        if record.starts_with(b"ATOM ") || record.starts_with(b"HETATM") {
            let atom = atom(line)?;
            return self.tally.push(&mut self.atoms, atom, line.number);
        }
        match line.columns(1, 6) {
            b"MODEL" | b"ENDMDL" => self.end_model(),
            b"CRYST1" => self.cell = cell(line)?,
            b"HEADER" => self.id = text(line.columns(63, 66)),
            b"TITLE" => {
                if !self.title.is_empty() {
                    self.title.push(' ');
                }
                self.title.push_str(&text(line.columns(11, 80)));
            }
            _ => (),
        }
        Ok(())
    }

    fn end_model(&mut self) {
        if self.atoms.is_empty() {
            return;
        }
        let mut atoms = std::mem::take(&mut self.atoms);
        atoms.shrink_to_fit();
        self.models.push(Molecule { atoms, cell: self.cell, ..Molecule::default() });
    }
}

fn atom(line: Line<'_>) -> Result<Atom, Fault> {
    if line.bytes.len() < 54 {
        let found = format!("{} columns", line.bytes.len());
        let expected = "x, y, z in columns 31 to 54 of an atom's record";
        return Err(Fault::new(Place::Line(line.number), expected, found));
    }
    let single = |column: usize| Some(char::from(line.bytes[column - 1])).filter(|&c| c != ' ');
    let (residue, hetero) = (line.columns(18, 21), line.bytes.starts_with(b"HETATM"));
    Ok(Atom {
        position: [
            line.coordinate(line.columns(31, 38), "x in columns 31 to 38")?,
            line.coordinate(line.columns(39, 46), "y in columns 39 to 46")?,
            line.coordinate(line.columns(47, 54), "z in columns 47 to 54")?,
        ],
        element: element(line.columns(77, 78))
            .unwrap_or_else(|| element_of_name(&line.bytes[12..16], residue)),
        name: text(line.columns(13, 16)),
        residue: text(residue),
        residue_number: residue_number(line)?,
        insertion: single(27),
        chain: text(line.columns(22, 22)),
        alternate: single(17),
        hetero,
        occupancy: line.number_or(line.columns(55, 60), "occupancy in columns 55 to 60", 1.0)?,
        b_factor: line.number_or(line.columns(61, 66), "B factor in columns 61 to 66", 0.0)?,
        charge: charge(line.columns(79, 80)),
    })
}

/// A residue number of four columns, decimal or hybrid-36 (Grosse-Kunstleve et al.,
/// <http://cci.lbl.gov/hybrid_36/>); 0 where it is blank.
fn residue_number(line: Line<'_>) -> Result<i32, Fault> {
    let digits = line.columns(23, 26);
    let base36 = || {
        let text = std::str::from_utf8(digits).ok().filter(|text| text.len() == 4)?;
        let value = i32::from_str_radix(text, 36).ok()?;
        let of_one_case = |is: fn(&u8) -> bool| digits.iter().all(|b| b.is_ascii_digit() || is(b));
        match digits[0] {
            b'A'..=b'Z' if of_one_case(u8::is_ascii_uppercase) => {
                Some(value - 10 * 36_i32.pow(3) + 10_000)
            }
            b'a'..=b'z' if of_one_case(u8::is_ascii_lowercase) => {
                Some(value + 16 * 36_i32.pow(3) + 10_000)
            }
            _ => None,
        }
    };
    match (digits, base36()) {
        (b"", _) => Ok(0),
        (_, Some(number)) => Ok(number),
        (_, None) => line.integer(digits, "residue number in columns 23 to 26"),
    }
}

/// The element of an atom's name in its four columns, 0 where it does not tell.
fn element_of_name(name: &[u8], residue: &[u8]) -> u8 {
    let bare = name.trim_ascii();
    let by_columns = || match name {
        // `Na+` of Amber.
        [b' ', letter, small @ b'a'..=b'z', _] => element(&[*letter, *small]),
        [b' ' | b'0'..=b'9', letter, ..] => element(&[*letter]),
        [b'H', second, third, fourth] if ![*second, *third, *fourth].contains(&b' ') => Some(1),
        _ => element(&name[..2]),
    };
    element_in_residue(bare, residue).or_else(by_columns).unwrap_or_else(|| element_of_label(bare))
}

/// A charge such as `2+` or `1-`. Old files have other things in these columns.
fn charge(columns: &[u8]) -> f64 {
    match columns {
        [digit @ b'0'..=b'9', b'+'] | [b'+', digit @ b'0'..=b'9'] => f64::from(digit - b'0'),
        [digit @ b'0'..=b'9', b'-'] | [b'-', digit @ b'0'..=b'9'] => -f64::from(digit - b'0'),
        _ => 0.0,
    }
}

fn cell(line: Line<'_>) -> Result<Option<Cell>, Fault> {
    let number = |first, last, what| line.number(line.columns(first, last), what);
    let edges = [number(7, 15, "edge a")?, number(16, 24, "edge b")?, number(25, 33, "edge c")?];
    if edges.iter().all(|&edge| (0.0..=1.0).contains(&edge)) {
        return Ok(None);
    }
    let angles = [number(34, 40, "alpha")?, number(41, 47, "beta")?, number(48, 54, "gamma")?];
    Cell::new(edges, angles)
        .map(Some)
        .map_err(|error| Fault::new(Place::Line(line.number), "a unit cell", error.to_string()))
}
