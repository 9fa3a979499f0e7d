//! Molecules as read from files.

/// An atom.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Atom {
    /// Position x, y, z in angstrom.
    pub position: [f64; 3],
    /// Atomic number; 0 if the file does not tell.
    pub element: u8,
    /// Name in the file, such as `CA`; the element's symbol where a format has no names.
    pub name: String,
    /// Residue name, such as `ALA`; empty where there is none.
    pub residue: String,
    /// Residue number in the file's own (author) numbering.
    pub residue_number: i32,
    /// Insertion code, if any.
    pub insertion: Option<char>,
    /// Chain identifier; empty where there is none.
    pub chain: String,
    /// Alternate location, if any.
    pub alternate: Option<char>,
    /// Is it of a `HETATM` record?
    pub hetero: bool,
    /// Occupancy; 1 where the file does not tell.
    pub occupancy: f64,
    /// Isotropic displacement (B factor) in square angstrom; 0 where the file does not tell.
    pub b_factor: f64,
    /// Charge (partial or formal) in elementary charges; 0 where the file does not tell.
    pub charge: f64,
}

/// A unit cell: edges a, b, c in angstrom and angles alpha, beta, gamma in degrees.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cell {
    /// Edges a, b, c in angstrom.
    pub edges: [f64; 3],
    /// Angles alpha, beta, gamma in degrees.
    pub angles: [f64; 3],
}

/// A molecule, or one model of a structure.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Molecule {
    /// Name or title in the file, or empty.
    pub name: String,
    /// Atoms in the order of the file, every alternate location included.
    pub atoms: Vec<Atom>,
    /// Unit cell of a crystal, if there is one.
    pub cell: Option<Cell>,
    /// Data fields of an SDF record, or key=value pairs of an extended XYZ comment, in order.
    pub properties: Vec<(String, String)>,
}
