//! Lines, columns, numbers and elements of the text formats of molecules.

use steer3d_files::memory::NoRoom;
use steer3d_volume::molecule::{Atom, Molecule};
use steer3d_volume::volume::is_length;

use crate::fault::{Fault, Place};
use crate::held::Held;

/// Largest number of atoms in one file: 2²⁴.
const MAX_ATOMS: usize = 1 << 24;

/// What an atom takes: twice its size, as vectors grow, and three short texts.
const ATOM_BYTES: u64 = 2 * size_of::<Atom>() as u64 + 3 * 32;

/// A line without its end.
#[derive(Clone, Copy)]
pub(crate) struct Line<'a> {
    /// Counted from 1.
    pub(crate) number: usize,
    pub(crate) bytes: &'a [u8],
}

impl<'a> Line<'a> {
    pub(crate) fn is_blank(self) -> bool {
        self.bytes.trim_ascii().is_empty()
    }

    /// Columns `first..=last`, counted from 1, as far as the line goes, without blanks around.
    pub(crate) fn columns(self, first: usize, last: usize) -> &'a [u8] {
        let end = last.min(self.bytes.len());
        self.bytes.get(first - 1..end).unwrap_or_default().trim_ascii()
    }

    /// The words of the line.
    pub(crate) fn words(self) -> Vec<&'a [u8]> {
        self.bytes.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty()).collect()
    }

    pub(crate) fn fault(self, expected: impl Into<String>, found: &[u8]) -> Fault {
        Fault::new(Place::Line(self.number), expected, show(found))
    }

    /// A finite number.
    pub(crate) fn number(self, text: &[u8], what: &str) -> Result<f64, Fault> {
        let number = parsed(text).filter(|number: &f64| number.is_finite());
        number.ok_or_else(|| self.fault(format!("a finite number as {what}"), text))
    }

    /// A coordinate in ångström.
    pub(crate) fn coordinate(self, text: &[u8], what: &str) -> Result<f64, Fault> {
        let number = self.number(text, what)?;
        if is_length(number) {
            return Ok(number);
        }
        Err(self.fault(format!("a number from -1e30 to 1e30 as {what}"), text))
    }

    /// A finite number, or `default` where there is only blank space.
    pub(crate) fn number_or(self, text: &[u8], what: &str, default: f64) -> Result<f64, Fault> {
        if text.is_empty() { Ok(default) } else { self.number(text, what) }
    }

    /// A whole number.
    pub(crate) fn integer<T: std::str::FromStr>(self, text: &[u8], what: &str) -> Result<T, Fault> {
        parsed(text).ok_or_else(|| self.fault(format!("a whole number as {what}"), text))
    }
}

/// The lines of a file one after the other.
#[derive(Clone)]
pub(crate) struct Lines<'a> {
    rest: Option<&'a [u8]>,
    number: usize,
}

impl<'a> Lines<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: Some(bytes), number: 0 }
    }

    /// The next line, or a fault that says what is missing.
    pub(crate) fn expect(&mut self, what: &str) -> Result<Line<'a>, Fault> {
        let place = Place::Line(self.number + 1);
        self.next().ok_or_else(|| Fault::new(place, what, "the end of the file"))
    }

    /// The next line, which stays.
    pub(crate) fn peek(&self) -> Option<Line<'a>> {
        self.clone().next()
    }

    /// Is only blank space left?
    pub(crate) fn is_done(&self) -> bool {
        self.rest.unwrap_or_default().iter().all(u8::is_ascii_whitespace)
    }
}

impl<'a> Iterator for Lines<'a> {
    type Item = Line<'a>;

    fn next(&mut self) -> Option<Line<'a>> {
        let rest = self.rest.filter(|rest| !rest.is_empty())?;
        let (line, rest) = match rest.iter().position(|&byte| byte == b'\n') {
            Some(end) => (&rest[..end], Some(&rest[end + 1..])),
            None => (rest, None),
        };
        self.rest = rest;
        self.number += 1;
        Some(Line { number: self.number, bytes: line.strip_suffix(b"\r").unwrap_or(line) })
    }
}

/// The number that some bytes are the text of.
pub(crate) fn parsed<T: std::str::FromStr>(bytes: &[u8]) -> Option<T> {
    std::str::from_utf8(bytes).ok()?.parse().ok()
}

/// Some bytes of a file, for a message.
pub(crate) fn show(bytes: &[u8]) -> String {
    match bytes {
        [] => "nothing".to_owned(),
        _ if bytes.len() > 40 => format!("\"{}...\"", bytes[..40].escape_ascii()),
        _ => format!("\"{}\"", bytes.escape_ascii()),
    }
}

/// At most 256 characters of a name, which every model of a file gets.
pub(crate) fn cut(name: &str) -> String {
    name.chars().take(256).collect()
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The atomic number of a symbol, in any case.
pub(crate) fn element(symbol: &[u8]) -> Option<u8> {
    steer3d_volume::elements::atomic_number(std::str::from_utf8(symbol).ok()?)
}

/// The atomic number of a label such as `C12`, `Cl1` or `O1'`, whose letters up to the first other
/// character are a symbol; 0 where they are none. Two capitals, such as `CA`, may be calcium or a
/// carbon called alpha: they count only where the first one is no symbol itself (`ZN1`).
pub(crate) fn element_of_label(label: &[u8]) -> u8 {
    let letters = label.iter().position(|byte| !byte.is_ascii_alphabetic()).unwrap_or(label.len());
    let symbol = match &label[..letters] {
        [first, second] if second.is_ascii_uppercase() && element(&[*first]).is_some() => None,
        symbol => element(symbol),
    };
    symbol.unwrap_or(0)
}

/// Residues whose atoms' names begin with the element, one of C, N, O, S, P and H, after digits:
/// amino acids and their protonation states, nucleotides and water.
const STANDARD: [&[u8]; 47] = [
    b"ALA", b"ARG", b"ASN", b"ASP", b"CYS", b"GLN", b"GLU", b"GLY", b"HIS", b"ILE", b"LEU", b"LYS",
    b"MET", b"PHE", b"PRO", b"SER", b"THR", b"TRP", b"TYR", b"VAL", b"ASH", b"GLH", b"LYN", b"CYX",
    b"CYM", b"HID", b"HIE", b"HIP", b"HSD", b"HSE", b"HSP", b"A", b"C", b"G", b"U", b"DA", b"DC",
    b"DG", b"DT", b"HOH", b"DOD", b"WAT", b"H2O", b"SOL", b"TIP", b"TIP3", b"TIP4",
];

/// Ions of CHARMM, whose atoms have the names of their residues.
const IONS: [(&[u8], u8); 9] = [
    (b"LIT", 3),
    (b"SOD", 11),
    (b"CLA", 17),
    (b"POT", 19),
    (b"CAL", 20),
    (b"RUB", 37),
    (b"CAD", 48),
    (b"CES", 55),
    (b"BAR", 56),
];

/// The atomic number of an atom of a [standard residue](STANDARD), or of an ion, which has the name
/// of its residue.
pub(crate) fn element_in_residue(name: &[u8], residue: &[u8]) -> Option<u8> {
    if name == residue {
        let ion = IONS.iter().find(|(ion, _)| *ion == name).map(|(_, number)| *number);
        return ion.or_else(|| element(name));
    }
    let letter = name.iter().find(|byte| byte.is_ascii_alphabetic())?;
    let known = STANDARD.contains(&residue) && b"CNOSPHD".contains(letter);
    if known { element(&[*letter]) } else { None }
}

/// The atoms of a file: how many there are, and the room for them.
pub(crate) struct Tally {
    count: usize,
    room: Held,
}

impl Tally {
    pub(crate) fn new() -> Result<Self, NoRoom> {
        Ok(Self { count: 0, room: Held::new()? })
    }

    /// Appends an atom, as long as there are not too many in the file.
    pub(crate) fn push(
        &mut self,
        atoms: &mut Vec<Atom>,
        atom: Atom,
        line: usize,
    ) -> Result<(), Fault> {
        if self.count >= MAX_ATOMS {
            let expected = format!("at most {MAX_ATOMS} atoms in a file");
            return Err(Fault::new(Place::Line(line), expected, "more; split the file"));
        }
        self.room.add(ATOM_BYTES)?;
        self.count += 1;
        atoms.push(atom);
        Ok(())
    }
}

/// The molecules of a file whose records follow each other, at least one.
pub(crate) fn records(
    bytes: &[u8],
    read: impl Fn(&mut Lines<'_>, &mut Tally) -> Result<Molecule, Fault>,
) -> Result<Vec<Molecule>, Fault> {
    let (mut lines, mut tally) = (Lines::new(bytes), Tally::new()?);
    let mut molecules = Vec::new();
    while molecules.is_empty() || !lines.is_done() {
        molecules.push(read(&mut lines, &mut tally)?);
    }
    Ok(molecules)
}
