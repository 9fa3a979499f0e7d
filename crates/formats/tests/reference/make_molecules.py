"""Makes molecules.json: what gemmi (MPL-2.0) reads from the PDB and CIF files in
../data/molecules, and Open Babel (GPL-2.0) from the SDF, MOL2 and XYZ files.

Run with gemmi, openbabel-wheel and numpy; the versions used are stored in the file. Arguments, if
any, are another folder of files and another output.

Open Babel does not know the Amber and GAFF types of adp.mol2 and imatinib.mol2: there the element
is the first letter of the atom's name. sybyl.mol2.gz was written by Open Babel from kinases.sdf.gz
(obabel -isdf kinases.sdf -omol2).

Of each molecule: the number of atoms, the sum over the atoms i = 1, 2, ... of i times x, y, z,
element, residue number, occupancy, B factor and charge, which every exchange of atoms changes, the
extent of the positions, counts of elements, chains, HETATM and alternate locations, and the names
of the first and last atom.
"""

import gzip
import json
import sys
from collections import Counter
from pathlib import Path

import gemmi
import numpy as np
from openbabel import openbabel

AMBER_TYPES = ("adp.mol2", "imatinib.mol2")
openbabel.obErrorLog.SetOutputLevel(0)


def summary(atoms, cell=None):
    index = np.arange(1, len(atoms) + 1)
    position = np.array([atom["position"] for atom in atoms])
    weighted = lambda key: float(index @ np.array([atom[key] for atom in atoms], float))
    label = lambda atom: [atom[k] for k in ("name", "residue", "chain", "insertion", "alternate")]
    return {
        "atoms": len(atoms),
        "position": list(index @ position),
        "extent": [list(position.min(0)), list(position.max(0))],
        **{key: weighted(key) for key in ("element", "number", "occupancy", "b_factor", "charge")},
        "elements": dict(sorted(Counter(str(atom["element"]) for atom in atoms).items())),
        "chains": sorted({atom["chain"] for atom in atoms}),
        "hetero": sum(atom["hetero"] for atom in atoms),
        "alternates": sum(atom["alternate"] != "" for atom in atoms),
        "first": label(atoms[0]),
        "last": label(atoms[-1]),
        "cell": cell,
    }


def parameters(cell):
    if cell.is_crystal():
        return [cell.a, cell.b, cell.c, cell.alpha, cell.beta, cell.gamma]
    return None


def macromolecule(path):
    structure = gemmi.read_structure(str(path))
    models = []
    for model in structure:
        atoms = [
            {
                "position": atom.pos.tolist(),
                "element": atom.element.atomic_number,
                "name": atom.name,
                "residue": residue.name,
                "number": residue.seqid.num,
                "insertion": residue.seqid.icode.strip(),
                "chain": chain.name,
                "alternate": atom.altloc.replace("\0", ""),
                "hetero": residue.het_flag == "H",
                "occupancy": atom.occ,
                "b_factor": atom.b_iso,
                "charge": atom.charge,
                "serial": atom.serial,
            }
            for chain in model
            for residue in chain
            for atom in residue
        ]
        # gemmi gathers the atoms of a chain; their numbers, if unique, give the order of the file.
        if len({atom["serial"] for atom in atoms}) == len(atoms):
            atoms.sort(key=lambda atom: atom["serial"])
        models.append(summary(atoms, parameters(structure.cell)))
    return models


def small_crystal(path):
    structure = gemmi.read_small_structure(str(path))
    atoms = [
        plain(
            structure.cell.orthogonalize(site.fract).tolist(),
            site.element.atomic_number,
            site.label,
            occupancy=site.occ,
            b_factor=8 * np.pi**2 * site.u_iso,
        )
        for site in structure.sites
    ]
    return [summary(atoms, parameters(structure.cell))]


def plain(position, element, name, charge=0.0, occupancy=1.0, b_factor=0.0):
    return {
        "position": position,
        "element": element,
        "name": name,
        "residue": "",
        "number": 0,
        "insertion": "",
        "chain": "",
        "alternate": "",
        "hetero": False,
        "occupancy": occupancy,
        "b_factor": b_factor,
        "charge": charge,
    }


def small_molecules(path, kind):
    converter = openbabel.OBConversion()
    converter.SetInFormat(kind)
    text = gzip.open(path, "rt").read() if path.suffix == ".gz" else path.read_text()
    molecule, models = openbabel.OBMol(), []
    more = converter.ReadString(molecule, text)
    while more:
        atoms = []
        for atom in openbabel.OBMolAtomIter(molecule):
            position = [atom.GetX(), atom.GetY(), atom.GetZ()]
            element, charge = atom.GetAtomicNum(), atom.GetFormalCharge()
            if kind == "mol2":
                charge = atom.GetPartialCharge()
            if path.name in AMBER_TYPES:
                name = atom.GetResidue().GetAtomID(atom).strip()
                element = {"C": 6, "H": 1, "N": 7, "O": 8, "P": 15}[name[0]]
            atoms.append(plain(position, element, "", charge))
            if kind == "mol2":
                atoms[-1]["number"] = atom.GetResidue().GetNum()
        models.append(summary(atoms))
        molecule = openbabel.OBMol()
        more = converter.Read(molecule)
    return models


def read(path):
    kind = [part for part in path.suffixes if part != ".gz"][-1][1:]
    if kind == "pdb":
        return macromolecule(path)
    if kind == "cif":
        block = gemmi.cif.read(str(path)).sole_block()
        small = block.find_loop("_atom_site_fract_x")
        return small_crystal(path) if small else macromolecule(path)
    return small_molecules(path, kind)


if __name__ == "__main__":
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "../data/molecules")
    target = Path(sys.argv[2] if len(sys.argv) > 2 else "molecules.json")
    kinds = (".pdb", ".cif", ".sdf", ".mol2", ".xyz")
    paths = sorted(p for p in folder.iterdir() if p.name.removesuffix(".gz").endswith(kinds))
    versions = f"gemmi {gemmi.__version__}, openbabel {openbabel.OBReleaseVersion()}"
    files = {path.name: read(path) for path in paths}
    target.write_text(json.dumps({"versions": versions, "files": files}, indent=None))
    print(versions, len(files), "files")
