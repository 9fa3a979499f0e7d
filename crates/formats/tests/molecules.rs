//! Readers of molecules against gemmi and Open Babel, and with damaged files.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use serde::Deserialize;
use steer3d_formats::{self as formats, Fault, FileContents, Format, FormatError, Place};
use steer3d_so3::Stream;
use steer3d_volume::molecule::{Atom, Cell, Molecule};

const KINDS: [Format; 5] = [Format::Pdb, Format::Cif, Format::Sdf, Format::Mol2, Format::Xyz];

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/molecules")
}

fn molecules(source: FileContents) -> Vec<Molecule> {
    match source {
        FileContents::Molecules(molecules) => molecules,
        other => panic!("molecules expected, found {other:?}"),
    }
}

fn read(name: &str) -> Vec<Molecule> {
    molecules(formats::read(&folder().join(name)).unwrap())
}

fn parse(text: &str, format: Format) -> Result<Vec<Molecule>, Fault> {
    formats::read_as(text.as_bytes(), format).map(molecules)
}

fn fault(text: &str, format: Format) -> String {
    parse(text, format).expect_err(text).to_string()
}

#[derive(Deserialize)]
struct Reference {
    files: BTreeMap<String, Vec<Summary>>,
}

/// See `reference/make_molecules.py`.
#[derive(Deserialize)]
struct Summary {
    atoms: usize,
    position: [f64; 3],
    extent: [[f64; 3]; 2],
    element: f64,
    number: f64,
    occupancy: f64,
    b_factor: f64,
    charge: f64,
    elements: BTreeMap<u8, usize>,
    chains: BTreeSet<String>,
    hetero: usize,
    alternates: usize,
    first: [String; 5],
    last: [String; 5],
    cell: Option<[f64; 6]>,
}

fn weighted(molecule: &Molecule, value: impl Fn(&Atom) -> f64) -> f64 {
    molecule.atoms.iter().zip(1..).map(|(atom, i)| f64::from(i) * value(atom)).sum()
}

fn label(atom: &Atom) -> [String; 5] {
    let letter = |c: Option<char>| c.map(String::from).unwrap_or_default();
    let (name, residue, chain) = (atom.name.clone(), atom.residue.clone(), atom.chain.clone());
    [name, residue, chain, letter(atom.insertion), letter(atom.alternate)]
}

fn check(file: &str, molecule: &Molecule, expected: &Summary) {
    let atoms = &molecule.atoms;
    assert_eq!(atoms.len(), expected.atoms, "{file}");
    // Relative to the sum of the weights; both sides read the same decimal numbers.
    let scale = (atoms.len() * atoms.len()) as f64;
    let close = |what: &str, found: f64, expected: f64, tolerance: f64| {
        assert!(
            (found - expected).abs() <= tolerance * scale,
            "{file} {what}: {found}, {expected}"
        );
    };
    let mut extent = [[f64::INFINITY; 3], [f64::NEG_INFINITY; 3]];
    for axis in 0..3 {
        let found = weighted(molecule, |atom| atom.position[axis]);
        close("position", found, expected.position[axis], 1e-9);
        for atom in atoms {
            extent[0][axis] = extent[0][axis].min(atom.position[axis]);
            extent[1][axis] = extent[1][axis].max(atom.position[axis]);
        }
    }
    for (found, expected) in extent.as_flattened().iter().zip(expected.extent.as_flattened()) {
        assert!((found - expected).abs() < 1e-6, "{file} extent: {found}, {expected}");
    }
    close("element", weighted(molecule, |a| a.element.into()), expected.element, 0.0);
    close("number", weighted(molecule, |a| a.residue_number.into()), expected.number, 0.0);
    // gemmi keeps occupancies and B factors as f32.
    close("occupancy", weighted(molecule, |a| a.occupancy), expected.occupancy, 1e-7);
    close("B factor", weighted(molecule, |a| a.b_factor), expected.b_factor, 1e-5);
    close("charge", weighted(molecule, |a| a.charge), expected.charge, 1e-7);
    let mut elements = BTreeMap::new();
    for atom in atoms {
        *elements.entry(atom.element).or_default() += 1;
    }
    assert_eq!(elements, expected.elements, "{file}");
    let chains: BTreeSet<String> = atoms.iter().map(|atom| atom.chain.clone()).collect();
    assert_eq!(chains, expected.chains, "{file}");
    assert_eq!(atoms.iter().filter(|a| a.hetero).count(), expected.hetero, "{file}");
    let alternates = atoms.iter().filter(|atom| atom.alternate.is_some()).count();
    assert_eq!(alternates, expected.alternates, "{file}");
    if !expected.first[0].is_empty() {
        assert_eq!(label(&atoms[0]), expected.first, "{file}");
        assert_eq!(label(atoms.last().unwrap()), expected.last, "{file}");
    }
    if let Some([a, b, c, alpha, beta, gamma]) = expected.cell {
        let cell = Cell::new([a, b, c], [alpha, beta, gamma]).unwrap();
        assert_eq!(molecule.cell, Some(cell), "{file}");
    }
}

#[test]
fn files_agree_with_gemmi_and_open_babel() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference/molecules.json");
    let reference: Reference = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    assert!(reference.files.len() >= 21);
    for (file, expected) in &reference.files {
        let found = read(file);
        assert_eq!(found.len(), expected.len(), "{file}");
        for (molecule, expected) in found.iter().zip(expected) {
            check(file, molecule, expected);
        }
    }
}

#[test]
fn pdb_and_mmcif_of_one_entry_hold_the_same() {
    // The waters are in another order, and modified residues are not HETATM in the mmCIF file.
    let [pdb, cif] = ["1A8O.pdb.gz", "1A8O.cif.gz"].map(|name| {
        let mut molecule = read(name).remove(0);
        molecule.atoms.iter_mut().for_each(|atom| atom.hetero = false);
        molecule.atoms.sort_by(|a, b| a.position.partial_cmp(&b.position).unwrap());
        molecule
    });
    assert_eq!(pdb.name, "HIV CAPSID C-TERMINAL DOMAIN");
    let different = pdb.atoms.iter().zip(&cif.atoms).find(|(a, b)| a != b);
    assert_eq!(different, None);
    assert!(pdb.atoms.len() == cif.atoms.len() && pdb.cell == cif.cell);
}

#[test]
fn content_tells_the_format_under_any_name() {
    let temporary = tempfile::tempdir().unwrap();
    let mut count = 0;
    for entry in std::fs::read_dir(folder()).unwrap() {
        let path = entry.unwrap().path();
        let by_name = Format::detect(b"", &path);
        if let Some(format) = by_name.filter(|format| KINDS.contains(format)) {
            let hidden = temporary.path().join("data");
            std::fs::copy(&path, &hidden).unwrap();
            let found =
                molecules(formats::read(&hidden).unwrap_or_else(|e| panic!("{format}: {e}")));
            assert_eq!(found, molecules(formats::read(&path).unwrap()), "{path:?}");
            count += 1;
        }
    }
    assert_eq!(count, 24);
}

#[test]
fn text_of_other_formats_is_not_taken_for_molecules() {
    let others: [&[u8]; 10] = [
        b"OFF\n8 6 12\n0 0 0\n1 1 1\n2 2 2\n",
        b"8 6 12\n0 0 0\n1 1 1\n2 2 2\n",
        b"# a mesh\nv 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n",
        b"solid data\nfacet normal 0 0 1\nouter loop\nvertex 0 0 0\n",
        b"ply\nformat ascii 1.0\nelement vertex 8\n",
        b"12\nthis is\nnot an atom line\n",
        b"12\n",
        b"TITLE PAGE\n",
        b"a,b,c\n1,2,3\n4,5,6\n",
        b"",
    ];
    for text in others {
        let found = Format::detect(text, Path::new("file"));
        let shown = text.escape_ascii();
        assert!(found.is_none_or(|format| !KINDS.contains(&format)), "{shown}: {found:?}");
    }
}

#[test]
fn edge_cases_are_read_or_refused_with_their_place() {
    let edge = |name: &str| formats::read(&folder().join("edge_cases").join(name));
    let codes = molecules(edge("insertion-code.pdb").unwrap());
    let codes: Vec<_> = codes[0].atoms.iter().map(|a| (a.residue_number, a.insertion)).collect();
    assert_eq!(codes, [(1, Some('a')), (2, Some('c')), (3, Some('x')), (4, None)]);

    let occupancies = molecules(edge("occupancy.pdb").unwrap());
    let occupancies: Vec<_> =
        occupancies[0].atoms.iter().map(|a| (a.element, a.occupancy, a.b_factor)).collect();
    assert_eq!(occupancies, [(7, 1.0, 0.0), (6, 1.0, 20.88), (6, 0.0, 19.01)]);

    let water = molecules(edge("short-atom.pdb").unwrap());
    let elements: Vec<_> = water[0].atoms.iter().map(|a| a.element).collect();
    assert_eq!(elements, [8, 1, 1, 8, 1, 1, 8, 1, 1]);

    for (name, place, words) in [
        ("4Q9R_min.cif", Place::Whole, "_atom_site"),
        ("count-line-too-short.sdf", Place::Line(4), "V2000"),
        ("extended-bad-properties.xyz", Place::Line(3), "found \"H\""),
    ] {
        let Err(FormatError::Malformed { fault, .. }) = edge(name) else { panic!("{name}") };
        assert_eq!(fault.place, place, "{name}");
        assert!(fault.to_string().contains(words), "{fault}");
    }
}

#[test]
fn each_wrong_frame_of_the_extended_xyz_is_refused() {
    let path = folder().join("edge_cases/extended-bad-properties.xyz");
    let text = std::fs::read_to_string(path).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let expected = [
        ("line 3", "a finite number as x"),
        ("line 2", "\"bad:R:\""),
        ("line 2", "\"bad:F:1\""),
        ("line 2", "\"bad:R:ff\""),
        ("line 2", "\"bad:R:0\""),
    ];
    assert_eq!(lines.len(), 3 * expected.len());
    for (frame, (line, words)) in lines.chunks(3).zip(expected) {
        let fault = fault(&frame.join("\n"), Format::Xyz);
        assert!(fault.starts_with(line) && fault.contains(words), "{fault}");
    }
}

const ATOM: &str =
    "ATOM      1  CA  GLY A  12A     11.104  -6.134   2.500  0.50 12.25           C1-";

#[test]
fn columns_of_pdb_records() {
    let atom = |text: &str| parse(text, Format::Pdb).unwrap()[0].atoms[0].clone();
    let whole = atom(ATOM);
    assert_eq!(whole.position, [11.104, -6.134, 2.5]);
    assert_eq!((whole.residue_number, whole.insertion), (12, Some('A')));
    assert_eq!((whole.occupancy, whole.b_factor, whole.charge), (0.5, 12.25, -1.0));
    assert_eq!((whole.name.as_str(), whole.residue.as_str(), whole.element), ("CA", "GLY", 6));
    assert!(!whole.hetero && whole.alternate.is_none());

    let numbered = |number: &str| atom(&ATOM.replace("  12A", number)).residue_number;
    assert_eq!(numbered("-999 "), -999);
    assert_eq!(numbered("A000 "), 10_000);
    assert_eq!(numbered("ZZZZ "), 1_223_055);
    assert_eq!(numbered("a000 "), 1_223_056);
    assert_eq!(atom(&ATOM.replace("     1 ", "A000001")).position, whole.position);
    assert_eq!(atom(&ATOM.replace("ATOM      1 ", "ATOM 1000000")).name, "CA");

    let named = |record: &str, name: &str, residue: &str| {
        let text = format!("{record:6}    1 {name} {residue} A   1       1.000   2.000   3.000");
        atom(&text).element
    };
    for (name, residue, element) in [
        (" CA ", "GLY", 6),
        ("CA  ", " CA", 20),
        ("CA  ", "GLY", 6),
        ("HG11", "VAL", 1),
        ("HG11", "LIG", 1),
        ("HG  ", " HG", 80),
        ("1HB ", "ALA", 1),
        ("FE  ", "HEM", 26),
        (" NA ", "HEM", 7),
        ("SE  ", "MSE", 34),
        (" XX ", "UNK", 0),
        ("OP1 ", " DG", 8),
        // A name that begins in the wrong column, or with no symbol, is no guess.
        ("OP1 ", "LIG", 0),
        ("C1  ", "LIG", 6),
        ("CX1 ", "LIG", 0),
        (" Na+", "Na+", 11),
        (" SOD", "SOD", 11),
        (" CLA", "CLA", 17),
        (" ZN ", " ZN", 30),
        (" OW ", "SOL", 8),
    ] {
        assert_eq!(named("HETATM", name, residue), element, "{name} of {residue}");
    }
}

#[test]
fn models_cells_and_titles_of_pdb_files() {
    let cell = "CRYST1   10.000   20.000   30.000  90.00  90.00 120.00 P 1";
    let text = format!(
        "TITLE     ONE LONG\nTITLE    2  TITLE\n{cell}\nMODEL        1\n{ATOM}\n{ATOM}\nENDMDL\n\
         MODEL        2\n{ATOM}\nENDMDL\nMODEL        3\nENDMDL\nEND\n"
    );
    let models = parse(&text, Format::Pdb).unwrap();
    assert_eq!(models.iter().map(|m| m.atoms.len()).collect::<Vec<_>>(), [2, 1]);
    assert!(models.iter().all(|m| m.name == "ONE LONG TITLE"));
    // END is the end of the file, of which gemmi reads no more either.
    let more = parse(&format!("{text}{ATOM}\nrubbish\n"), Format::Pdb).unwrap();
    assert_eq!(more, models);
    let edges = models[1].cell.unwrap().vectors();
    assert_eq!(edges[0], [10.0, 0.0, 0.0]);
    assert!((edges[1][0] + 10.0).abs() < 1e-12 && edges[2] == [0.0, 0.0, 30.0]);
    let long = format!(
        "{}{text}",
        "TITLE     XXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXX\n".repeat(99)
    );
    assert_eq!(parse(&long, Format::Pdb).unwrap()[1].name.len(), 256);
    let text = format!("CRYST1    1.000    1.000    1.000  90.00  90.00  90.00\n{ATOM}\n");
    assert_eq!(parse(&text, Format::Pdb).unwrap()[0].cell, None);
}

#[test]
fn faults_of_pdb_files_say_what_and_where() {
    for (from, to, words) in [
        ("11.104", "   nan", "line 2: expected a finite number as x in columns 31 to 38"),
        (" 11.104", "1.1e999", "x in columns"),
        ("-6.134", "******", "found \"******\""),
        (" 2.500", "      ", "expected a finite number as z in columns 47 to 54, found nothing"),
        ("  12A", "  zzA", "residue number in columns 23 to 26, found \"zz\""),
        ("  0.50", "  half", "occupancy in columns 55 to 60"),
    ] {
        let fault = fault(&format!("REMARK\n{}\n", ATOM.replace(from, to)), Format::Pdb);
        assert!(fault.contains(words), "{fault}");
    }
    assert!(fault(&ATOM[..53], Format::Pdb).contains("found 53 columns"));
    assert!(fault("REMARK 1\n", Format::Pdb).contains("an ATOM or HETATM record, found none"));
    let flat = "CRYST1   10.000   20.000   30.000  10.00  90.00 120.00 P 1";
    assert!(fault(flat, Format::Pdb).starts_with("line 1: expected a unit cell"));
}

const CIF: &str = "data_x\n_cell_length_a 10.0(1)\n_cell_length_b 20\n_cell_length_c 30\n\
    _cell_angle_gamma 120.0\nloop_\n_atom_site_label\n_atom_site_type_symbol\n_atom_site_fract_x\n\
    _atom_site_fract_y\n_atom_site_fract_z\n_atom_site_U_iso_or_equiv\n\
    Fe1 Fe3+ 0.5 0.25(12) 1.0 0.1\n'O 1' O ; -1e-1 .5\n 0\n";

#[test]
fn small_molecule_cif() {
    let text = CIF.replace("; -1e-1", "0 -1e-1");
    let molecule = &parse(&text, Format::Cif).unwrap()[0];
    let [iron, oxygen] = &molecule.atoms[..] else { panic!() };
    assert_eq!((iron.element, iron.charge, oxygen.name.as_str()), (26, 3.0, "O 1"));
    let near = |found: [f64; 3], expected: [f64; 3]| {
        found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-12)
    };
    // a = (10, 0, 0), b = (-10, 10 √3, 0), c = (0, 0, 30).
    assert!(near(iron.position, [2.5, 2.5 * 3_f64.sqrt(), 30.0]), "{:?}", iron.position);
    assert!(near(oxygen.position, [1.0, -3_f64.sqrt(), 15.0]), "{:?}", oxygen.position);
    assert!((iron.b_factor - 0.8 * std::f64::consts::PI.powi(2)).abs() < 1e-12);

    let late = text.replace("_cell_length_a 10.0(1)\n", "") + "_cell_length_a 10.0(1)\n";
    assert_eq!(parse(&late, Format::Cif).unwrap()[0].atoms, molecule.atoms);
    let none = text.replace("_cell_length_a 10.0(1)\n", "");
    assert!(fault(&none, Format::Cif).contains("without _cell_length"));
}

#[test]
fn syntax_of_cif_files() {
    let head = "data_1\nloop_\n_atom_site.Cartn_x\n_atom_site.Cartn_y\n_atom_site.Cartn_z\n\
                _atom_site.auth_atom_id\n_atom_site.pdbx_PDB_model_num\n";
    let text = format!(
        "# comment\n{head}1 2 3 \"C5'\" 1\n4 5 6 'it's' 2 # comment\n7 8 9\n;two\nlines\n; 1\n\
         _struct.title ?\nDATA_2\n_atom_site.cartn_x 1 _atom_site.cartn_Y 2 _atom_site.Cartn_z 3\n\
         data_empty\n"
    );
    let found = parse(&text, Format::Cif).unwrap();
    let names = |m: &Molecule| m.atoms.iter().map(|a| a.name.clone()).collect::<Vec<_>>();
    assert_eq!(names(&found[0]), ["C5'", "two\nlines"]);
    assert_eq!(names(&found[1]), ["it's"]);
    assert_eq!((found.len(), found[2].name.as_str()), (3, "2"));
    assert_eq!(found[2].atoms[0].position, [1.0, 2.0, 3.0]);

    for (text, words) in [
        (format!("{head}1 2 3 C 1 4\n"), "line 9: expected 5 values in each row"),
        (format!("{head}1 2 ? C 1\n"), "line 8: expected a finite number as z of an atom"),
        (format!("{head}1 2 3(x) C 1\n"), "z of an atom, found \"3(x)\""),
        (format!("{head}1 2 3 C one\n"), "a whole number as model number, found \"one\""),
        (format!("{head}1 2 3 'C 1\n"), "line 8: expected a closing ' on the line"),
        (format!("{head}1 2 3\n;C\n"), "line 9: expected a line that begins with ;"),
        ("_tag 1".to_owned(), "line 1: expected a data_ block, found \"_tag\""),
        ("data_x\n_tag\nloop_".to_owned(), "expected a value of _tag, found loop_"),
        ("data_x\n_tag".to_owned(), "expected a value of _tag, found the end of the file"),
        ("data_x\nloop_ 1".to_owned(), "a tag after loop_"),
        ("data_x\nsave_y".to_owned(), "expected save_, found the end of the file"),
        ("data_x\nsave_".to_owned(), "a tag, loop_ or data_, found save_"),
        ("data_x\nsave_y\ndata_z".to_owned(), "a tag, loop_ or save_, found data_z"),
        ("data_x\nglobal_".to_owned(), "without global_ or stop_"),
        (format!("{head}1e300 2 3 C 1\n"), "coordinates from -1e30 to 1e30"),
        (format!("data_x loop_ {} 1", "_a ".repeat(5000)), "at most 4096 tags"),
        (
            format!(
                "{head}1 2 3 C 1\nloop_\n_atom_site_fract_x _atom_site_fract_y _atom_site_fract_z\n0 0 0"
            ),
            "line 11: expected the coordinates of all atoms of a block of one kind",
        ),
        ("data_x\nvalue".to_owned(), "line 2: expected a tag, loop_ or data_, found \"value\""),
    ] {
        let fault = fault(&text, Format::Cif);
        assert!(fault.contains(words), "{fault}");
    }
}

#[test]
fn components_and_save_frames_of_cif_files() {
    // A model for the stored and one for the ideal coordinates.
    let alanine = read("ALA.cif");
    assert_eq!(alanine.len(), 2);
    let elements: Vec<u8> = alanine[0].atoms.iter().map(|atom| atom.element).collect();
    assert_eq!(elements, [7, 6, 6, 8, 6, 8, 1, 1, 1, 1, 1, 1, 1]);
    assert_eq!(alanine[0].atoms[1].position, [1.169, 26.942, 13.411]);
    assert_eq!(alanine[1].atoms[1].position, [0.257, 0.418, 0.692]);
    let atom = &alanine[1].atoms[12];
    assert_eq!((atom.name.as_str(), atom.residue.as_str()), ("HXT", "ALA"));
    assert!(alanine.iter().all(|model| model.name == "ALA" && model.cell.is_none()));

    // A library of monomers (Refmac's names); one atom as items; a set that is not whole.
    let library = "data_comp_list\nloop_\n_chem_comp.id\nSO3\ndata_comp_SO3\nloop_\n\
        _chem_comp_atom.comp_id\n_chem_comp_atom.atom_id\n_chem_comp_atom.type_symbol\n\
        _chem_comp_atom.charge\n_chem_comp_atom.x\n_chem_comp_atom.y\n_chem_comp_atom.z\n\
        SO3 S S 0 -5.979 0.717 17.353\nSO3 O2 O -1 -7.003 1.053 16.315\nloop_\n\
        _chem_comp_bond.comp_id\n_chem_comp_bond.type\nSO3 DOUBLE\n\
        data_ZN\n_chem_comp_atom.atom_id ZN\n_chem_comp_atom.comp_id ZN\n\
        _chem_comp_atom.model_Cartn_x ?\n_chem_comp_atom.model_Cartn_y 0\n\
        _chem_comp_atom.model_Cartn_z 0\n_chem_comp_atom.pdbx_model_Cartn_x_ideal 1\n\
        _chem_comp_atom.pdbx_model_Cartn_y_ideal 2\n_chem_comp_atom.pdbx_model_Cartn_z_ideal 3\n";
    let found = parse(library, Format::Cif).unwrap();
    let atoms: Vec<_> =
        found.iter().flat_map(|m| &m.atoms).map(|a| (a.element, a.charge, a.position[0])).collect();
    assert_eq!(atoms, [(16, 0.0, -5.979), (8, -1.0, -7.003), (30, 0.0, 1.0)]);
    assert_eq!(found.len(), 2);

    // Frames are passed over, and so are the atoms of a component beside those of a structure.
    let site = |x: u8| {
        format!(
            "loop_\n_atom_site.Cartn_x\n_atom_site.Cartn_y\n_atom_site.Cartn_z\n\
         _atom_site.type_symbol\n{x} 0 0 C\n"
        )
    };
    let framed = format!(
        "data_x\nsave_a\n{}_tag 1\nsave_\n{}SAVE_b\nsave_\n{}",
        site(7),
        site(5),
        &library[library.find("loop_\n_chem_comp_atom").unwrap()..]
    );
    let found = parse(&framed, Format::Cif).unwrap();
    let atoms: Vec<_> = found.iter().map(|m| (m.atoms.len(), m.atoms[0].position[0])).collect();
    assert_eq!(atoms, [(1, 5.0), (1, 1.0)]);
}

#[test]
fn elements_of_cif_labels_are_symbols_or_unknown() {
    let head = "data_1\nloop_\n_atom_site_label\n_atom_site_fract_x\n_atom_site_fract_y\n\
                _atom_site_fract_z\n";
    let cell = "_cell_length_a 10\n_cell_length_b 10\n_cell_length_c 10\n";
    for (label, element) in
        [("Fe1", 26), ("C12", 6), ("O1W", 8), ("ZN1", 30), ("CA1", 0), ("HO1", 0), ("Q1", 0)]
    {
        let found = parse(&format!("{head}{label} 0 0 0\n{cell}"), Format::Cif).unwrap();
        assert_eq!(found[0].atoms[0].element, element, "{label}");
    }
}

#[test]
fn quoted_values_take_time_with_their_number() {
    // One line: the search for its end from each value on took 50 s for 1 MB.
    let text = format!("data_x\nloop_\n_a\n{}", "'b' ".repeat(500_000));
    let start = std::time::Instant::now();
    assert!(fault(&text, Format::Cif).contains("no such atoms"));
    assert!(start.elapsed().as_secs() < 10, "{:?}", start.elapsed());
}

const SDF: &str = "name\n  program\n\n  2  1  0  0  0  0  0  0  0  0999 V2000\n\
    \x20   1.0000   -2.0000    0.5000 N   0  3  0  0  0\n\
    \x20   0.0000    0.0000    0.0000 Cl  0  0  0  0  0\n\
    \x20 1  2  1  0\nM  END\n> <one>\na\nb\n\n>  25 <two words> (3)\n\n$$$$\n";

#[test]
fn sdf_records_charges_and_fields() {
    let first = parse(SDF, Format::Sdf).unwrap().remove(0);
    assert_eq!(first.name, "name");
    let atoms: Vec<_> = first.atoms.iter().map(|a| (a.element, a.charge)).collect();
    assert_eq!(atoms, [(7, 1.0), (17, 0.0)]);
    assert_eq!(first.atoms[0].position, [1.0, -2.0, 0.5]);
    let field = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    assert_eq!(first.properties, [field("one", "a\nb"), field("two words", "")]);

    // Charge lines take the place of the charges in the atom lines.
    let charged = SDF.replace("M  END", "M  CHG  1   2  -1\nM  END");
    let both = parse(&format!("{charged}{SDF}"), Format::Sdf).unwrap();
    assert_eq!(both[0].atoms.iter().map(|a| a.charge).collect::<Vec<_>>(), [0.0, -1.0]);
    assert_eq!(both[1], first);

    for (from, to, words) in [
        ("V2000", "V3000", "line 4: expected a counts line with V2000"),
        ("  2  1  0", "999  1  0", "line 7: expected an element in columns 32 to 34"),
        ("  1  2  1  0", "  1  3  1  0", "line 7: expected the number of an atom from 1 to 2"),
        ("M  END\n", "", "line 14: expected \"M  END\", found \"$$$$\""),
        ("> <one>", "one", "line 9: expected a data field"),
        ("  3  0  0  0\n", "  9  0  0  0\n", "line 5: expected a charge code from 0 to 7"),
        ("   -2.0000", "       inf", "line 5: expected a finite number as y"),
    ] {
        let fault = fault(&SDF.replace(from, to), Format::Sdf);
        assert!(fault.contains(words), "{fault}");
    }
}

#[test]
fn mol2_types_and_faults() {
    let text = "# comment\n@<TRIPOS>MOLECULE\nname\n 3 0\nSMALL\nNO_CHARGES\n\n@<TRIPOS>ATOM\n\
                1 A 1 2 3 C.ar\n# comment\n2 B 4 5 6 CL 7 LIG7 -0.25\n3 X 0 0 0 Du\n";
    let twice = format!("{text}@<TRIPOS>BOND\n1 1 2 1\n{text}");
    let found = parse(&twice, Format::Mol2).unwrap();
    assert_eq!(found.len(), 2);
    let atoms: Vec<_> = found[1].atoms.iter().map(|a| (a.element, a.charge)).collect();
    assert_eq!(atoms, [(6, 0.0), (17, -0.25), (0, 0.0)]);
    for (kind, name, element) in [
        ("opls_135", "C1", 6),
        ("opls_135", "CT", 0),
        ("opls_404", "Li", 3),
        ("Li", "X", 3),
        ("Co.oh", "X", 27),
        ("C.AR", "X", 6),
        ("CA", "X", 6),
        ("ca", "X", 6),
        ("na", "X", 7),
        ("Na", "X", 11),
        ("OS", "X", 8),
        ("N*", "X", 7),
        ("br", "X", 35),
        ("MG", "X", 12),
        ("CG331", "CG", 0),
        ("LP", "C1", 0),
    ] {
        let text = text.replace("1 A 1 2 3 C.ar", &format!("1 {name} 1 2 3 {kind}"));
        assert_eq!(parse(&text, Format::Mol2).unwrap()[0].atoms[0].element, element, "{kind}");
    }
    assert_eq!(read("li.mol2")[0].atoms[0].element, 3);
    let chlorine = &found[0].atoms[1];
    assert_eq!((chlorine.residue.as_str(), chlorine.residue_number), ("LIG7", 7));

    for (from, to, words) in [
        (" 3 0", "1000000000000 0", "line 4: expected 1000000000000 atoms"),
        (" 3 0", "", "line 4: expected a whole number as number of atoms, found nothing"),
        ("C.ar", "", "line 9: expected number, name, x, y, z and type"),
        ("4 5 6", "4 NaN 6", "line 11: expected a finite number as y, found \"NaN\""),
        ("@<TRIPOS>ATOM", "@<TRIPOS>BOND", "line 3: expected an @<TRIPOS>ATOM section"),
        ("@<TRIPOS>MOLECULE", "", "line 3: expected @<TRIPOS>MOLECULE"),
    ] {
        let fault = fault(&text.replace(from, to), Format::Mol2);
        assert!(fault.contains(words), "{fault}");
    }
}

#[test]
fn plain_and_extended_xyz() {
    let text = "2\nLattice=\"2 0 0 0 3 0 1 0 4\" key = 'a b' flag \
                Properties=charge:R:1:pos:R:3:Z:I:1\n0.5 1 2 3 6\n-1 4 5 6 17 extra\n\n";
    // A space around "=" ends the key, as extended XYZ has it.
    let molecule = parse(&text.replace(" = ", "="), Format::Xyz).unwrap().remove(0);
    let atoms: Vec<_> =
        molecule.atoms.iter().map(|a| (a.element, a.name.as_str(), a.charge)).collect();
    assert_eq!(atoms, [(6, "C", 0.5), (17, "Cl", -1.0)]);
    assert_eq!(molecule.atoms[1].position, [4.0, 5.0, 6.0]);
    let vectors = [[2.0, 0.0, 0.0], [0.0, 3.0, 0.0], [1.0, 0.0, 4.0]];
    assert_eq!(molecule.cell.unwrap().vectors(), vectors);
    let field = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    assert_eq!(molecule.properties[1..3], [field("key", "a b"), field("flag", "T")]);

    let plain = parse("1\na comment = x\n8 1 2 3 4\n", Format::Xyz).unwrap();
    assert_eq!((plain[0].name.as_str(), plain[0].atoms[0].name.as_str()), ("a comment = x", "O"));

    let species = |name: &str| {
        parse(&format!("1\n\n{name} 0 0 0\n"), Format::Xyz).unwrap()[0].atoms[0].element
    };
    for (name, element) in [("CL", 17), ("C12", 6), ("Cl1", 17), ("CB", 0), ("OW", 0), ("X", 0)] {
        assert_eq!(species(name), element, "{name}");
    }

    for (text, words) in [
        ("", "line 1: expected a number of atoms, found the end of the file"),
        ("0\n\n", "at least one atom"),
        ("18446744073709551615\n\nH 0 0 0\n", "line 4: expected atom 2 of 18446744073709551615"),
        ("99999999999999999999\n\n", "a whole number as number of atoms"),
        ("1\n\nH 0 0\n", "line 3: expected an atom of 4 columns"),
        ("1\n\nH 0 0 NaN\n", "line 3: expected a finite number as z, found \"NaN\""),
        ("1\n\nH 0 0 1e31\n", "line 3: expected a number from -1e30 to 1e30 as z"),
        ("1\nLattice=\"1 2\"\nH 0 0 0\n", "line 2: expected nine numbers in Lattice"),
        ("1\nLattice=\"1 0 0 2 0 0 0 0 1\"\nH 0 0 0\n", "line 2: expected a lattice"),
        ("1\nLattice=\"1 0 0\nH 0 0 0\n", "line 2: expected a closing \""),
        ("1\nProperties=species:S:1\nH 0 0 0\n", "pos:R:3 in Properties"),
    ] {
        let fault = fault(text, Format::Xyz);
        assert!(fault.contains(words), "{fault}");
    }
}

#[test]
fn empty_and_binary_files_are_refused() {
    for format in KINDS {
        for bytes in [&b""[..], b"\n\n\n", b"\0", &[0xff; 100], b"\r\r\r\r"] {
            assert!(formats::read_as(bytes, format).is_err(), "{format}: {bytes:?}");
        }
    }
}

#[test]
fn files_of_bzip2_are_unpacked() {
    assert_eq!(read("methane.xyz.bz2"), read("methane.xyz"));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cut.xyz.bz2");
    let packed = std::fs::read(self::folder().join("methane.xyz.bz2")).unwrap();
    std::fs::write(&path, &packed[..packed.len() - 7]).unwrap();
    let error = formats::read(&path).unwrap_err();
    assert!(matches!(error, FormatError::Packed { packing: "bzip2", .. }), "{error}");
}

/// A short file of each format, for damage.
fn samples() -> [(Format, Vec<u8>); 8] {
    let file = |name: &str| std::fs::read(folder().join(name)).unwrap();
    let xyz = "2\nLattice=\"2 0 0 0 3 0 1 0 4\" a='b c' Properties=species:S:1:pos:R:3\n\
               C 1 2 3\nH 4 5 6\n";
    let pdb = format!(
        "TITLE     X\nCRYST1   10.000   20.000   30.000  90.00  90.00 120.00 P 1\nMODEL 1\n{ATOM}\n"
    );
    let mol2 = file("adp.mol2")[..600].to_vec();
    [
        (Format::Pdb, pdb.into_bytes()),
        (Format::Pdb, file("disordered.pdb")[..1200].to_vec()),
        (Format::Cif, CIF.as_bytes().to_vec()),
        (Format::Cif, file("ALA.cif")[..2200].to_vec()),
        (Format::Sdf, SDF.as_bytes().to_vec()),
        (Format::Mol2, mol2),
        (Format::Xyz, xyz.as_bytes().to_vec()),
        (Format::Xyz, file("methane.xyz")),
    ]
}

/// What a reader gives must be of finite numbers and at least one atom per molecule line.
fn check_sane(bytes: &[u8], format: Format) {
    Format::detect(bytes, Path::new("file"));
    if let Ok(FileContents::Molecules(found)) = formats::read_as(bytes, format) {
        for molecule in found {
            assert!(molecule.atoms.len() <= bytes.len());
            for atom in &molecule.atoms {
                assert!(atom.position.iter().all(|x| x.is_finite()) && atom.element <= 118);
                assert!(atom.occupancy.is_finite() && atom.b_factor.is_finite());
                assert!(atom.charge.is_finite());
            }
            molecule.first_alternates();
        }
    }
}

#[test]
fn files_cut_at_any_byte_never_panic() {
    for (format, bytes) in samples() {
        for end in 0..=bytes.len() {
            check_sane(&bytes[..end], format);
        }
    }
}

#[test]
fn changed_bytes_never_panic() {
    for (index, (format, bytes)) in samples().into_iter().enumerate() {
        let mut stream = Stream::new(18, "mutations", &[index as u64]);
        for _ in 0..4000 {
            let mut damaged = bytes.clone();
            for _ in 0..=stream.below(4) {
                let at = stream.below(damaged.len());
                match stream.below(4) {
                    0 => damaged[at] = stream.below(256) as u8,
                    1 => damaged[at] = b" \n\t'\";#_.?0919-+=:$@>M"[stream.below(22)],
                    2 => drop(damaged.remove(at)),
                    _ => damaged.insert(at, damaged[stream.below(damaged.len())]),
                }
            }
            check_sane(&damaged, format);
        }
    }
}

proptest! {
    #[test]
    fn any_text_never_panics(text in "\\PC*|[ -~\\n]{0,200}") {
        for format in KINDS {
            check_sane(text.as_bytes(), format);
        }
    }

    #[test]
    fn positions_written_as_pdb_are_read_back(
        x in -999_999_i32..9_999_999, y in -999_999_i32..9_999_999, z in -999_999_i32..9_999_999,
    ) {
        let [x, y, z] = [x, y, z].map(|n| f64::from(n) / 1000.0);
        let text = format!("HETATM    1  O   HOH A   1    {x:8.3}{y:8.3}{z:8.3}");
        let found = parse(&text, Format::Pdb).unwrap();
        prop_assert_eq!(found[0].atoms[0].position, [x, y, z]);
    }
}
