"""Volumes, molecules and meshes."""

import os
from dataclasses import dataclass, field, replace

import numpy as np

from . import _native
from ._arrays import count, dims, numbers, rotations, triple


def _rotation(rotation):
    return rotations("rotation", np.eye(3) if rotation is None else rotation)[0]


@dataclass(frozen=True)
class Volume:
    """Values C,D,H,W on a grid.

    `voxel_size` are the edges of a voxel and `origin` the position of voxel (0, 0, 0), both x, y, z in one unit; without an
    origin the centre of the grid is at (0, 0, 0).
    """

    values: np.ndarray
    voxel_size: tuple = (1.0, 1.0, 1.0)
    origin: tuple | None = None

    def __post_init__(self):
        values = np.asarray(self.values)
        values = values[None] if values.ndim == 3 else values
        object.__setattr__(self, "values", numbers("values", values, np.float32, "C,D,H,W"))
        object.__setattr__(self, "voxel_size", tuple(triple("voxel_size", self.voxel_size)))

    def rotate(self, rotation, irreps=None, interpolation: str = "cubic") -> "Volume":
        """The field turned about the centre of the grid, (R f)(p) = D(R) f(R⁻¹ p), zero outside.

        `rotation` is a matrix (3, 3); `irreps` say how the channels turn, as scalars if left out. `interpolation`: "nearest",
        "trilinear", "cubic" (as in SciPy) or "sinc". Rotations of the cube are exact where voxels map onto voxels.
        """
        kind = f"{self.values.shape[0]}x0" if irreps is None else irreps
        turned = _native.rotate(self.values, self.voxel_size, _rotation(rotation), kind, interpolation)
        return replace(self, values=turned)

    def translate(self, shift, interpolation: str = "cubic") -> "Volume":
        """The field moved by x, y, z voxels, zero outside."""
        return replace(self, values=_native.translate(self.values, triple("shift", shift), interpolation))

    def resample(self, voxel_size, interpolation: str = "trilinear") -> "Volume":
        """The volume with voxels of another size about the same centre; what larger voxels cannot hold is filtered out."""
        size = triple("voxel_size", voxel_size)
        return Volume(*_native.resample(self.values, self.voxel_size, self.origin, size, interpolation))

    def write(self, path, labels: bool = False) -> None:
        """Writes the volume in the format of the name: .npy, .nii, .nii.gz, .mrc, .map or .ccp4; whole numbers with `labels`."""
        _native.write(os.fspath(path), self.values, self.voxel_size, self.origin, labels)


@dataclass(frozen=True)
class Mesh:
    """Triangles: `vertices` (n, 3) as x, y, z and `triangles` (m, 3) of their indices."""

    vertices: np.ndarray
    triangles: np.ndarray

    def voxelise(self, size: int, voxel_size: float, field: str = "solid", rotation=None) -> Volume:
        """The mesh after a rotation on size³ voxels about (0, 0, 0): "solid", "surface", "distance" or "normals" (1x1)."""
        vertices = numbers("vertices", self.vertices, np.float64, "n,3")
        triangles = numbers("triangles", self.triangles, np.uint32, "n,3")
        by = _rotation(rotation)
        size = count("size", size)
        return Volume(*_native.voxelise_mesh(vertices, triangles, by, size, float(voxel_size), field))


@dataclass(frozen=True)
class Molecule:
    """The atoms of a molecule in columns; positions (n, 3) are x, y, z in angstrom, `elements` atomic numbers, 0 if unknown."""

    name: str
    positions: np.ndarray
    elements: np.ndarray
    names: list = field(repr=False)
    residues: list = field(repr=False)
    residue_numbers: list = field(repr=False)
    chains: list = field(repr=False)
    occupancies: np.ndarray = field(repr=False)
    b_factors: np.ndarray = field(repr=False)
    charges: np.ndarray = field(repr=False)
    properties: list = field(repr=False)


def read(path):
    """What a file of any known format holds: a `Volume`, a `Mesh`, or a list of `Molecule`s.

    Formats are told by content; .gz and .bz2 are unpacked. Raises `FileNotFoundError`, and `Steer3dError` for a damaged file.
    """
    found = _native.read(os.fspath(path))
    if "volume" in found:
        return Volume(*found["volume"])
    if "mesh" in found:
        return Mesh(*found["mesh"])
    return [Molecule(**columns) for columns in found["molecules"]]


def voxelise(
    positions, size, voxel_size, sigma=None, channels=None, rotation=None, cutoff=5.0, normalisation="grid_sum"
) -> Volume:
    """A Gaussian for each of positions (n, 3), turned by `rotation`, on a grid about (0, 0, 0).

    `size` is a number or D, H, W; `voxel_size` a number or x, y, z; `sigma` the width of a Gaussian, half a voxel if left
    out, and `cutoff` its reach in widths. `channels` (n) has the channel of each point, 0 if left out. A Gaussian sums to 1
    on the grid ("grid_sum"), or its integral is 1 ("integral").
    """
    positions = numbers("positions", positions, np.float64, "n,3")
    given = np.zeros(len(positions), np.uint16) if channels is None else channels
    channels = numbers("channels", given, np.uint16, "n")
    edges = triple("voxel_size", voxel_size)
    width = 0.5 * max(edges) if sigma is None else float(sigma)
    grid, by = dims("size", size), _rotation(rotation)
    values = _native.voxelise_points(
        positions, channels, int(channels.max(initial=0)) + 1, by, grid, edges, width, float(cutoff), normalisation
    )
    return Volume(values, tuple(edges))
