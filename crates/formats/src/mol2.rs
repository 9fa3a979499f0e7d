//! Tripos MOL2 files (Tripos, "Tripos Mol2 File Format").
//!
//! Every `@<TRIPOS>MOLECULE` gives a molecule. The element is that of the atom type: of SYBYL, a
//! symbol with or without a dot and more (`C.ar`, `Li`), else of Amber and GAFF, by their tables
//! (`ca`, `H1`; `CA` is carbon). Of other types, such as `opls_135`, the atom's name tells it if that
//! is a symbol and a number (`C1`, `Li`). Otherwise, and for lone pairs and dummies, it is 0.
//! Continued lines (`\` at the end) are not read.

use crate::fault::{Fault, Place};
use crate::records::{Line, Lines, Tally, element, element_of_label, text};
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
    let mut tally = Tally::new()?;
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
                let atoms = atoms(&mut lines, &header, &mut tally)?;
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

fn atoms(lines: &mut Lines<'_>, header: &Header, tally: &mut Tally) -> Result<Vec<Atom>, Fault> {
    let mut atoms = Vec::new();
    while let Some(line) = lines.peek().filter(|line| !line.bytes.starts_with(b"@")) {
        lines.next();
        if !is_skipped(line) {
            tally.push(&mut atoms, atom(line)?, line.number)?;
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
        position: [line.coordinate(x, "x")?, line.coordinate(y, "y")?, line.coordinate(z, "z")?],
        element: element_of_type(kind).unwrap_or_else(|| element_of_label(name)),
        name: text(name),
        residue_number: rest.first().map_or(Ok(0), |id| line.integer(id, "substructure number"))?,
        residue: rest.get(1).map(|name| text(name)).unwrap_or_default(),
        charge: rest.get(2).map_or(Ok(0.0), |charge| line.number(charge, "charge"))?,
        ..Atom::default()
    })
}

/// Types of lone pairs, dummies and patterns.
const NO_ELEMENT: &str = "Du LP Lp lp EP Any Hal Het Hev";

/// Atom types of Amber (ff94 to ff14SB and its nucleic acids) and GAFF (1.81 and 2), by element.
const AMBER: [(u8, &str); 16] = [
    (1, "H HA HC HO HP HS HW HZ H0 H1 H2 H3 H4 H5 h1 h2 h3 h4 h5 ha hc hn ho hp hs hw hx"),
    (
        6,
        "C CA CB CC CD CE CF CI CK CM CN CO CP CQ CR CS CT CV CW CX CY CZ C* C1 C2 C3 C4 C5 C7 C8 2C \
         3C c c1 c2 c3 c5 c6 ca cc cd ce cf cg ch cp cq cs cu cv cx cy cz",
    ),
    (
        7,
        "N NA NB NC ND NL NP NQ NT NY N* N2 N3 n n1 n2 n3 n4 n5 n6 n7 n8 n9 n+ na nb nc nd ne nf nh \
         ni nj nk nl nm nn no np nq ns nt nu nv nx ny nz",
    ),
    (8, "O OA OH OP OS OW O2 O3 o oh op oq os ow"),
    (9, "F f"),
    (15, "P p2 p3 p4 p5 pb pc pd pe pf px py"),
    (16, "S SH SM s s2 s4 s6 sh sp sq ss sx sy"),
    (17, "CL cl IM Cl-"),
    (35, "BR br Br-"),
    (53, "I i I-"),
    (3, "LI Li+"),
    (11, "IP Na+"),
    (12, "MG Mg2+ Mg+"),
    (19, "K K+"),
    (20, "C0 Ca2+ Ca+"),
    (26, "FE"),
];

/// The element of an atom type, 0 for one of no element; `None` for an unknown type.
fn element_of_type(kind: &[u8]) -> Option<u8> {
    let kind = std::str::from_utf8(kind).ok()?;
    let among = |types: &str| types.split_whitespace().any(|known| known == kind);
    let base = kind.split('.').next().unwrap_or(kind);
    if NO_ELEMENT.split(' ').any(|known| known == base) {
        return Some(0);
    }
    let mut letters = base.bytes();
    let proper = letters.next().is_some_and(|first| first.is_ascii_uppercase())
        && letters.all(|letter| letter.is_ascii_lowercase());
    element(base.as_bytes())
        .filter(|_| proper || kind.contains('.'))
        .or_else(|| AMBER.iter().find(|(_, types)| among(types)).map(|(element, _)| *element))
        .or_else(|| Some(element_of_label(kind.as_bytes())).filter(|element| *element > 0))
}
