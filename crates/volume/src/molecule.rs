//! Molecules as read from files.

use std::collections::{BTreeMap, HashMap};

use nalgebra::{Matrix3, Vector3};
use steer3d_so3::Rotation;

use crate::volume::{VolumeError, is_length, parameter};

/// An atom.
#[derive(Clone, Debug, PartialEq)]
pub struct Atom {
    /// Position x, y, z in angstrom.
    pub position: [f64; 3],
    /// Atomic number; 0 if the file does not tell, or for a lone pair or dummy.
    pub element: u8,
    /// Name in the file, such as `CA`; the element's symbol where a format has no names.
    pub name: String,
    /// Residue name, such as `ALA`; empty where there is none.
    pub residue: String,
    /// Residue number in the file's own (author) numbering; 0 where there is none.
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

impl Default for Atom {
    fn default() -> Self {
        Self {
            position: [0.0; 3],
            element: 0,
            name: String::new(),
            residue: String::new(),
            residue_number: 0,
            insertion: None,
            chain: String::new(),
            alternate: None,
            hetero: false,
            occupancy: 1.0,
            b_factor: 0.0,
            charge: 0.0,
        }
    }
}

impl Atom {
    /// Is it hydrogen, deuterium or tritium?
    pub fn is_hydrogen(&self) -> bool {
        self.element == 1
    }

    /// Is it of a water molecule, by the residue names of the PDB and of common programs?
    pub fn is_water(&self) -> bool {
        const WATERS: [&str; 8] = ["HOH", "DOD", "WAT", "H2O", "SOL", "TIP3", "TIP4", "TIP"];
        WATERS.contains(&self.residue.as_str())
    }

    /// Is it N, CA, C or O of an amino acid?
    pub fn is_backbone(&self) -> bool {
        matches!((self.name.as_str(), self.element), ("N", 7) | ("CA" | "C", 6) | ("O", 8))
            && !self.is_water()
    }

    /// Is it the alpha carbon of an amino acid?
    pub fn is_alpha_carbon(&self) -> bool {
        self.name == "CA" && self.element == 6
    }
}

/// A unit cell, or any periodic box, by its three edge vectors.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cell {
    vectors: [[f64; 3]; 3],
}

impl Cell {
    /// The cell of edges a, b, c in angstrom and angles alpha, beta, gamma in degrees, placed as
    /// the PDB does: a along x, b in the plane of x and y with positive y.
    ///
    /// # Errors
    /// If an edge or angle is not positive and finite or the angles close no cell.
    pub fn new(edges: [f64; 3], angles: [f64; 3]) -> Result<Self, VolumeError> {
        let cosine = |degrees: f64| if degrees == 90.0 { 0.0 } else { degrees.to_radians().cos() };
        let [alpha, beta, gamma] = angles.map(cosine);
        let sine = (1.0 - gamma * gamma).sqrt();
        let y = (alpha - beta * gamma) / sine;
        let z = (1.0 - beta * beta - y * y).sqrt();
        let [a, b, c] = edges;
        let vectors = [[a, 0.0, 0.0], [b * gamma, b * sine, 0.0], [c * beta, c * y, c * z]];
        let positive = edges.into_iter().chain(angles).all(|value| value > 0.0);
        match Self::from_vectors(vectors) {
            Ok(cell) if positive && angles.iter().all(|&angle| angle < 180.0) => Ok(cell),
            _ => Err(VolumeError::Parameter {
                field: "cell",
                expected: "positive edges, and angles that close a cell",
                found: format!("{edges:?} and {angles:?}"),
            }),
        }
    }

    /// The cell of three edge vectors x, y, z in angstrom.
    ///
    /// # Errors
    /// If the vectors are not finite, longer than [`MAX_LENGTH`](crate::volume::MAX_LENGTH), or lie
    /// (almost) in a plane.
    pub fn from_vectors(vectors: [[f64; 3]; 3]) -> Result<Self, VolumeError> {
        let cell = Self { vectors };
        let box_volume: f64 = cell.edges().iter().product();
        let in_range = vectors.as_flattened().iter().all(|x| is_length(*x));
        if in_range && cell.volume() > 1e-6 * box_volume && box_volume.is_normal() {
            return Ok(cell);
        }
        Err(VolumeError::Parameter {
            field: "cell",
            expected: "three vectors of numbers up to 1e30 that do not lie in a plane",
            found: format!("{vectors:?}"),
        })
    }

    /// Edge vectors a, b, c, each x, y, z.
    pub fn vectors(&self) -> [[f64; 3]; 3] {
        self.vectors
    }

    /// Lengths of a, b, c.
    pub fn edges(&self) -> [f64; 3] {
        self.vectors.map(|vector| Vector3::from(vector).norm())
    }

    /// Angles alpha (between b and c), beta (c, a), gamma (a, b) in degrees.
    pub fn angles(&self) -> [f64; 3] {
        let [a, b, c] = self.vectors.map(Vector3::from);
        [(b, c), (c, a), (a, b)].map(|(u, v)| u.angle(&v).to_degrees())
    }

    /// Volume in cubic angstrom.
    pub fn volume(&self) -> f64 {
        self.matrix().determinant().abs()
    }

    /// Position x, y, z of fractional coordinates.
    pub fn cartesian(&self, fractional: [f64; 3]) -> [f64; 3] {
        (self.matrix() * Vector3::from(fractional)).into()
    }

    /// The cell after `rotation`.
    pub fn rotated(&self, rotation: &Rotation) -> Self {
        Self { vectors: self.vectors.map(|vector| (rotation * Vector3::from(vector)).into()) }
    }

    /// The matrix whose columns are the edges.
    pub fn matrix(&self) -> Matrix3<f64> {
        Matrix3::from_columns(&self.vectors.map(Vector3::from))
    }
}

/// A molecule, or one model of a structure.
///
/// ```
/// use steer3d_volume::molecule::{Atom, Molecule};
/// let atom = |name: &str, element| Atom { name: name.into(), element, ..Atom::default() };
/// let atoms = vec![atom("N", 7), atom("CA", 6), atom("HA", 1)];
/// let molecule = Molecule { atoms, ..Molecule::default() };
/// assert_eq!(molecule.clone().without_hydrogens().atoms.len(), 2);
/// assert_eq!(molecule.alpha_carbons().atoms[0].name, "CA");
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Molecule {
    /// Name or title in the file, or empty.
    pub name: String,
    /// Atoms in the order of the file, every alternate location included.
    pub atoms: Vec<Atom>,
    /// Unit cell of a crystal or box of a simulation, if there is one.
    pub cell: Option<Cell>,
    /// Data fields of an SDF record, or key=value pairs of an extended XYZ comment, in order.
    pub properties: Vec<(String, String)>,
}

impl Molecule {
    /// The molecule with only the atoms for which `keep` holds.
    pub fn kept(mut self, keep: impl FnMut(&Atom) -> bool) -> Self {
        self.atoms.retain(keep);
        self
    }

    /// Without hydrogen, deuterium and tritium.
    pub fn without_hydrogens(self) -> Self {
        self.kept(|atom| !atom.is_hydrogen())
    }

    /// Without water molecules.
    pub fn without_waters(self) -> Self {
        self.kept(|atom| !atom.is_water())
    }

    /// Without the atoms of `HETATM` records: waters, ligands, and residues that are not among the
    /// standard ones.
    pub fn without_hetero(self) -> Self {
        self.kept(|atom| !atom.hetero)
    }

    /// N, CA, C and O of amino acids only.
    pub fn backbone(self) -> Self {
        self.kept(Atom::is_backbone)
    }

    /// Without the side chain of one residue, of which N, CA, C, O and OXT stay. Its hydrogens go
    /// too, for those of the backbone already tell glycine and proline from the others.
    pub fn without_side_chain(self, chain: &str, number: i32, insertion: Option<char>) -> Self {
        self.kept(|atom| {
            let here =
                atom.chain == chain && (atom.residue_number, atom.insertion) == (number, insertion);
            !here || atom.is_backbone() || (atom.name == "OXT" && atom.element == 8)
        })
    }

    /// Alpha carbons only.
    pub fn alpha_carbons(self) -> Self {
        self.kept(Atom::is_alpha_carbon)
    }

    /// One location for each atom.
    ///
    /// The alternates of a residue are ranked by mean occupancy, of equals the first in the file
    /// leading. Of atoms of one name the best ranked stays, if it is of the residue name of the
    /// best ranked alternate. Atoms without an alternate all stay. In a molecule without residues,
    /// where names are unique, all of one alternate stay.
    pub fn first_alternates(mut self) -> Self {
        let mut residues: HashMap<_, Vec<usize>> = HashMap::new();
        for (index, atom) in self.atoms.iter().enumerate().filter(|(_, a)| a.alternate.is_some()) {
            let residue = (&atom.chain, atom.residue_number, atom.insertion);
            residues.entry(residue).or_default().push(index);
        }
        let mut stays = vec![true; self.atoms.len()];
        for indices in residues.values() {
            mark_first_alternates(&self.atoms, indices, &mut stays);
        }
        let mut stays = stays.into_iter();
        self.atoms.retain(|_| stays.next() == Some(true));
        self
    }

    /// Checks that the element of every atom is known, for what depends on it.
    ///
    /// # Errors
    /// With the first atom whose element the file does not tell, or that is no atom (a lone pair or
    /// dummy).
    pub fn check_elements(&self) -> Result<(), VolumeError> {
        let Some(index) = self.atoms.iter().position(|atom| atom.element == 0) else {
            return Ok(());
        };
        let Atom { name, residue, .. } = &self.atoms[index];
        parameter(
            "element",
            "one for every atom; write it into the file, or choose all atoms and one channel, or a \
             channel `other`",
            format!("none for atom {} ({})", index + 1, format!("{name} {residue}").trim_end()),
        )
    }

    /// Mean of the positions; `None` without atoms.
    pub fn centre(&self) -> Option<[f64; 3]> {
        let count = self.atoms.len() as f64;
        let mean = |axis: usize| self.atoms.iter().map(|a| a.position[axis]).sum::<f64>() / count;
        (!self.atoms.is_empty()).then(|| [0, 1, 2].map(mean))
    }
}

/// Decides which of the atoms `indices`, all alternates of one residue, stay.
fn mark_first_alternates(atoms: &[Atom], indices: &[usize], stays: &mut [bool]) {
    let mut alternates: BTreeMap<Option<char>, (f64, f64, usize)> = BTreeMap::new();
    for &index in indices {
        let (sum, count, _) = alternates.entry(atoms[index].alternate).or_insert((0.0, 0.0, index));
        *sum += atoms[index].occupancy;
        *count += 1.0;
    }
    let mut order: Vec<_> = alternates
        .iter()
        .map(|(&letter, &(sum, count, first))| (sum / count, first, letter))
        .collect();
    order.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    let ranks: HashMap<_, _> = order.iter().zip(0..).map(|(entry, rank)| (entry.2, rank)).collect();
    let residue = &atoms[order[0].1].residue;
    let name = |atom: &Atom| if residue.is_empty() { String::new() } else { atom.name.clone() };

    let mut best: HashMap<String, u32> = HashMap::new();
    for atom in indices.iter().map(|&i| &atoms[i]).filter(|atom| atom.residue == *residue) {
        let rank = ranks[&atom.alternate];
        best.entry(name(atom)).and_modify(|least| *least = rank.min(*least)).or_insert(rank);
    }
    for &index in indices {
        let atom = &atoms[index];
        stays[index] =
            atom.residue == *residue && best.get(&name(atom)) == Some(&ranks[&atom.alternate]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn atom(name: &str, residue: &str, alternate: char, occupancy: f64) -> Atom {
        let alternate = Some(alternate).filter(|&letter| letter != ' ');
        let element = crate::elements::atomic_number(&name[..1]).unwrap();
        let (name, residue) = (name.to_owned(), residue.to_owned());
        Atom { element, name, residue, alternate, occupancy, ..Atom::default() }
    }

    fn kept(atoms: Vec<Atom>) -> String {
        let molecule = Molecule { atoms, ..Molecule::default() }.first_alternates();
        let label = |a: &Atom| format!("{}{}", a.name, a.alternate.unwrap_or('-'));
        molecule.atoms.iter().map(label).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn the_alternate_of_highest_occupancy_stays() {
        let s = |name, letter, occupancy| atom(name, "SER", letter, occupancy);
        let ordered = vec![s("N", ' ', 1.0), s("CB", 'A', 0.3), s("CB", 'B', 0.7)];
        assert_eq!(kept(ordered), "N- CBB");
        assert_eq!(kept(vec![s("CB", 'B', 0.5), s("CB", 'A', 0.5)]), "CBB");
        // C and D, of the side chain alone, are ranked below A and B and still have one each.
        let two = vec![s("C", 'A', 0.6), s("C", 'B', 0.4), s("O", 'C', 0.3), s("O", 'D', 0.2)];
        assert_eq!(kept(two), "CA OC");
        // Two residues in one place: no atom of the second one.
        let t = |name, letter| atom(name, "THR", letter, 0.4);
        let place = vec![t("CA", 'B'), t("CG2", 'B'), s("CA", 'A', 0.6), s("OG", 'A', 0.6)];
        assert_eq!(kept(place), "CAA OGA");
        // Without residues, unique names.
        let u = |name, letter, occupancy| atom(name, "", letter, occupancy);
        assert_eq!(kept(vec![u("C1", '1', 0.4), u("C1B", '2', 0.6), u("O", ' ', 1.0)]), "C1B2 O-");
    }

    #[test]
    fn selections() {
        let calcium = Atom { element: 20, hetero: true, ..atom("CA", "CA", ' ', 1.0) };
        let water = Atom { hetero: true, ..atom("O", "HOH", ' ', 1.0) };
        let g = |name| atom(name, "GLY", ' ', 1.0);
        let atoms = vec![g("N"), g("CA"), g("C"), g("O"), g("HA"), calcium, water];
        let molecule = Molecule { atoms, ..Molecule::default() };
        let count = |molecule: Molecule| molecule.atoms.len();
        assert_eq!(count(molecule.clone().without_hydrogens()), 6);
        assert_eq!(count(molecule.clone().without_waters()), 6);
        assert_eq!(count(molecule.clone().without_hetero()), 5);
        assert_eq!(count(molecule.clone().backbone()), 4);
        assert_eq!(count(molecule.alpha_carbons()), 1);
    }

    #[test]
    fn cells_keep_their_edges_and_angles() {
        let (edges, angles) = ([10.0, 20.0, 30.0], [70.0, 80.0, 110.0]);
        let cell = Cell::new(edges, angles).unwrap();
        for (found, expected) in cell.edges().iter().zip(edges) {
            assert!((found - expected).abs() < 1e-12);
        }
        for (found, expected) in cell.angles().iter().zip(angles) {
            assert!((found - expected).abs() < 1e-12);
        }
        // The volume of a triclinic cell, International Tables B 1.1.3.
        let [a, b, c] = angles.map(|angle: f64| angle.to_radians().cos());
        let factor = (1.0 - a * a - b * b - c * c + 2.0 * a * b * c).sqrt();
        assert!((cell.volume() - 6000.0 * factor).abs() < 1e-9);
        for (edges, angles) in [
            ([0.0, 1.0, 1.0], [90.0; 3]),
            ([-1.0, -1.0, 1.0], [90.0; 3]),
            ([f64::NAN, 1.0, 1.0], [90.0; 3]),
            ([1.0; 3], [90.0, 90.0, 180.0]),
            ([1.0; 3], [10.0, 20.0, 90.0]),
            ([1.0; 3], [90.0, 90.0, 270.0]),
            ([f64::INFINITY; 3], [90.0; 3]),
        ] {
            assert!(Cell::new(edges, angles).is_err(), "{edges:?} {angles:?}");
        }
    }
}
