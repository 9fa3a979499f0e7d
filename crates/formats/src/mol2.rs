//! Tripos MOL2 files (Tripos, "Tripos Mol2 File Format").
//!
//! Every `@<TRIPOS>MOLECULE` gives a molecule. The element is that of the atom type: before the
//! dot of a Sybyl type (`C.ar`), else, for the types of Amber and GAFF (`ca`, `H1`), its first
//! letter, or `Cl` and `Br`. Continued lines (`\` at the end) are not read.

use crate::fault::{Fault, Place};
use crate::records::{Line, Lines, element, push, text};
use crate::spec::{FormatSpec, Read, Several};
use steer3d_volume::molecule::{Atom, Molecule};

pub(crate) const FORMAT: FormatSpec = FormatSpec {
    recognises,
    several: Some(Several::Records),
    ..FormatSpec::new("MOL2", &["mol2"], Read::Molecules(read))
};

const SECTION: &[u8] = b"@<TRIPOS>";

/// Is the first line that is neither blank nor a comment a section of MOL2?
fn recognises(bytes: &[u8]) -> bool {
    let first = Lines::new(bytes).find(|line| !is_skipped(*line));
    first.is_some_and(|line| line.bytes.starts_with(SECTION))
}

fn is_skipped(line: Line<'_>) -> bool {
    line.is_blank() || line.bytes.starts_with(b"#")
}

/// The molecules of a file.
fn read(bytes: &[u8]) -> Result<Vec<Molecule>, Fault> {
    let mut lines = Lines::new(bytes);
    let mut molecules: Vec<Molecule> = Vec::new();
    let mut open: Option<Header> = None;
    let mut done = 0;
    while let Some(line) = lines.next() {
        let Some(section) = line.bytes.strip_prefix(SECTION) else {
            if molecules.is_empty() && open.is_none() && !is_skipped(line) {
                return Err(line.fault("@<TRIPOS>MOLECULE", line.bytes));
            }
            continue;
        };
        match (section.trim_ascii_end(), open.take()) {
            (b"MOLECULE", None) => open = Some(header(&mut lines)?),
            (b"ATOM", Some(header)) => {
                let atoms = atoms(&mut lines, &header, done)?;
                done += atoms.len();
                molecules.push(Molecule { name: header.name, atoms, ..Molecule::default() });
            }
            (b"MOLECULE", Some(header)) => return Err(header.without_atoms()),
            (b"ATOM", None) => return Err(line.fault("@<TRIPOS>MOLECULE first", line.bytes)),
            (_, header) => open = header,
        }
    }
    match open {
        Some(header) => Err(header.without_atoms()),
        None if molecules.is_empty() => {
            Err(Fault::new(Place::Whole, "@<TRIPOS>MOLECULE", "no such section"))
        }
        None => Ok(molecules),
    }
}

struct Header {
    name: String,
    atoms: usize,
    line: usize,
}

impl Header {
    fn without_atoms(&self) -> Fault {
        let expected = "an @<TRIPOS>ATOM section for the molecule of this line";
        Fault::new(Place::Line(self.line), expected, "none")
    }
}

fn header(lines: &mut Lines<'_>) -> Result<Header, Fault> {
    let name = lines.expect("the name of a molecule")?;
    let counts = lines.expect("the numbers of atoms and bonds")?;
    let atoms = counts.words().first().copied().unwrap_or_default();
    let atoms = counts.integer(atoms, "number of atoms")?;
    Ok(Header { name: text(name.bytes.trim_ascii()), atoms, line: name.number })
}

fn atoms(lines: &mut Lines<'_>, header: &Header, done: usize) -> Result<Vec<Atom>, Fault> {
    let mut atoms = Vec::new();
    while let Some(line) = lines.peek().filter(|line| !line.bytes.starts_with(b"@")) {
        lines.next();
        if !is_skipped(line) {
            push(&mut atoms, done, atom(line)?, line.number)?;
        }
    }
    if atoms.len() != header.atoms {
        let expected = format!("{} atoms, as the molecule's counts say", header.atoms);
        let place = Place::Line(header.line + 1);
        return Err(Fault::new(place, expected, format!("{} atom lines", atoms.len())));
    }
    Ok(atoms)
}

fn atom(line: Line<'_>) -> Result<Atom, Fault> {
    let words = line.words();
    let [_, name, x, y, z, kind, rest @ ..] = words.as_slice() else {
        return Err(line.fault("number, name, x, y, z and type of an atom", line.bytes));
    };
    Ok(Atom {
        position: [line.number(x, "x")?, line.number(y, "y")?, line.number(z, "z")?],
        element: element_of_type(kind),
        name: text(name),
        residue_number: rest.first().map_or(Ok(0), |id| line.integer(id, "substructure number"))?,
        residue: rest.get(1).map(|name| text(name)).unwrap_or_default(),
        charge: rest.get(2).map_or(Ok(0.0), |charge| line.number(charge, "charge"))?,
        ..Atom::default()
    })
}

fn element_of_type(kind: &[u8]) -> u8 {
    let base = kind.split(|&byte| byte == b'.').next().unwrap_or(kind);
    if matches!(base, b"Du" | b"LP" | b"Lp" | b"Any" | b"Hal" | b"Het" | b"Hev") {
        return 0;
    }
    let proper = match base {
        [first, rest @ ..] => first.is_ascii_uppercase() && rest.iter().all(u8::is_ascii_lowercase),
        [] => false,
    };
    let halogen = [b"cl", b"br"].iter().any(|name| base.eq_ignore_ascii_case(*name));
    let whole = element(base).filter(|_| proper || halogen);
    let first = || base.get(..1).filter(|letter| !b"dDtT".contains(&letter[0]));
    whole.or_else(|| element(first()?)).unwrap_or(0)
}
