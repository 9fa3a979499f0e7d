"""Makes meshes.json: what trimesh (MIT) says of the meshes in ../meshes.

Run in this folder with numpy, networkx, pillow, scipy and trimesh 5.2.0. With a folder as argument,
it prints the values for the meshes there instead. Vertices are those at different positions that
faces use, since trimesh splits vertices of OBJ and PLY files by their texture; watertightness is
of the mesh with equal vertices merged, its triangles consistently wound; the volume is left out if
a mesh is not watertight, and of `distance` alone, signed distances (negative inside) to points.
"""

import gzip
import io
import json
import sys
from pathlib import Path

import numpy as np
import trimesh

UNREADABLE = {"invalid.off", "notenoughindices.obj", "ply_empty_bin.ply", "stl_empty_ascii.stl"}


def load(path):
    data = path.read_bytes()
    name = path.name
    if name.endswith(".gz"):
        data, name = gzip.decompress(data), name[:-3]
    kind = name.rsplit(".", 1)[1].lower()
    mesh = trimesh.load(io.BytesIO(data), file_type=kind, process=False, force="mesh")
    used, inverse = np.unique(mesh.triangles.reshape(-1, 3) + 0.0, axis=0, return_inverse=True)
    return trimesh.Trimesh(used, inverse.reshape(-1, 3), process=False)


def describe(mesh):
    watertight = bool(mesh.is_watertight and mesh.is_winding_consistent)
    return {
        "vertices": len(mesh.vertices),
        "triangles": len(mesh.faces),
        "bounds": mesh.bounds.tolist(),
        "area": float(mesh.area),
        "centroid": mesh.centroid.tolist(),
        "watertight": watertight,
        "volume": float(mesh.volume) if watertight else None,
    }


def distances(mesh, size):
    """At the centres of a grid of size^3 voxels over the bounds widened by a tenth, x fastest."""
    edge = 1.1 * mesh.extents.max() / size
    axis = (np.arange(size) - (size - 1) / 2) * edge
    z, y, x = np.meshgrid(axis, axis, axis, indexing="ij")
    points = np.stack([x, y, z], -1).reshape(-1, 3) + mesh.bounds.mean(0)
    _, distance, _ = trimesh.proximity.closest_point_naive(mesh, points)
    # Positive in the direction of the normals: the sum of solid angles.
    a, b, c = (mesh.triangles[None, :, i] - points[:, None] for i in range(3))
    norms = [np.linalg.norm(v, axis=-1) for v in (a, b, c)]
    det = np.einsum("pti,pti->pt", a, np.cross(b, c))
    dot = [np.einsum("pti,pti->pt", u, v) for u, v in ((a, b), (b, c), (c, a))]
    over = norms[0] * norms[1] * norms[2] + dot[0] * norms[2] + dot[1] * norms[0] + dot[2] * norms[1]
    winding = (2 * np.arctan2(det, over)).sum(1) / (4 * np.pi)
    sign = np.where(np.abs(winding) > 0.5, -1, 1)
    return {"size": size, "voxel_size": edge, "values": [round(float(v), 9) for v in sign * distance]}


folder = Path(sys.argv[1] if len(sys.argv) > 1 else "../meshes")
paths = sorted(p for p in folder.iterdir() if p.suffix not in (".md", ".binvox"))
meshes = {p.name: load(p) for p in paths if p.name not in UNREADABLE}
values = {name: describe(mesh) for name, mesh in meshes.items()}
if len(sys.argv) > 1:
    print(json.dumps(values, indent=1))
else:
    names = ["quadknot.obj.gz", "reference.ply.gz"]
    values = {"trimesh": trimesh.__version__, "meshes": values}
    values["distance"] = {name: distances(meshes[name], 8) for name in names}
    Path("meshes.json").write_text(json.dumps(values, indent=1) + "\n")
