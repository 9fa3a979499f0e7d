"""The domains of a C-alpha set with all backbone atoms, in the same layout: python3 scripts/backbone.py
cath_s35_backbone.npz cath_3class_ca_small.npz OUT.npz. Needs numpy."""

import sys

import numpy as np

backbone, labelled = (dict(np.load(path)) for path in sys.argv[1:3])
rows = {name: k for k, name in enumerate(backbone["domain_ids"])}
missing = [name.decode() for name in labelled["domain_ids"] if name not in rows]
if missing:
    sys.exit(f"{sys.argv[1]}: {len(missing)} domains of {sys.argv[2]} are missing, such as {missing[0]}")

names = backbone["atom_names"].astype("S10")
domains = []
for name, centre_count in zip(labelled["domain_ids"], labelled["n_atoms"]):
    a, b = backbone["offsets"][rows[name] :][:2]
    atoms = backbone["xyz_centi_angstrom"][a:b] / 100
    assert len(atoms) == centre_count, name
    domains.append((atoms.reshape(-1, 3), np.tile(names, b - a), np.repeat(np.arange(b - a), len(names))))

n = np.array([len(positions) for positions, _, _ in domains])
padded = {
    "positions": np.zeros((len(n), n.max(), 3)),
    "atom_types": np.zeros((len(n), n.max()), "S10"),
    "res_indices": np.full((len(n), n.max()), -1.0),
}
for k, domain in enumerate(domains):
    for array, values in zip(padded.values(), domain):
        array[k, : n[k]] = values
same = {key: labelled[key] for key in ["labels", "split_start_indices", "domain_ids"]}
np.savez_compressed(sys.argv[3], n_atoms=n, **padded, **same)
