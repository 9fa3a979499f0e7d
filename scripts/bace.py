"""BACE conformers (.npz with offsets, atomic_numbers, positions, labels, split, ids) as XYZ files and a table for
`steer3d dataset build`: python3 scripts/bace.py bace_conformers.npz FOLDER. Standard library only."""

import ast
import pathlib
import struct
import sys
import zipfile

SYMBOLS = {1: "H", 6: "C", 7: "N", 8: "O", 9: "F", 16: "S", 17: "Cl", 35: "Br", 53: "I"}
CODES = {"<i4": "i", "|u1": "B", "<f4": "f"}


def read(archive, name):
    data = archive.read(name + ".npy")
    start = 10 + struct.unpack("<H", data[8:10])[0]
    descr = ast.literal_eval(data[10:start].decode())["descr"]
    if descr.startswith("|S"):
        width = int(descr[2:])
        return [data[i : i + width].rstrip(b"\0").decode() for i in range(start, len(data), width)]
    code = CODES[descr]
    return struct.unpack(f"<{(len(data) - start) // struct.calcsize(code)}{code}", data[start:])


archive = zipfile.ZipFile(sys.argv[1])
folder = pathlib.Path(sys.argv[2])
folder.mkdir(parents=True, exist_ok=True)
names = ["offsets", "atomic_numbers", "positions", "labels", "split", "ids"]
offsets, numbers, positions, labels, split, ids = (read(archive, name) for name in names)
rows = ["path,label,split,id"]
for k, (a, b) in enumerate(zip(offsets, offsets[1:])):
    atoms = [f"{SYMBOLS[numbers[i]]} {' '.join(f'{x:.4f}' for x in positions[3 * i : 3 * i + 3])}" for i in range(a, b)]
    (folder / f"{k}.xyz").write_text("\n".join([str(b - a), ids[k], *atoms]) + "\n")
    # The scaffolds of split 1 are the test items: nothing is chosen on them.
    rows.append(f"{k}.xyz,{['inactive', 'active'][labels[k]]},{['train', 'test'][split[k]]},{ids[k]}")
(folder / "bace.csv").write_text("\n".join(rows) + "\n")
