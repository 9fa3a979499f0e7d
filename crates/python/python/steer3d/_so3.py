"""Representation theory of SO(3) in the real bases of e3nn."""

import numpy as np

from . import _native
from ._arrays import count, numbers, rotations


def harmonics(lmax: int, points, normalization: str = "component") -> np.ndarray:
    """Real spherical harmonics Y_0 to Y_lmax at points (n, 3) or (3,), as (n, (lmax + 1)²) or ((lmax + 1)²,).

    Y_{l,m} is at l² + l + m. Points are x, y, z and are taken as directions. `normalization`: "component" (the sum over m
    of Y² is 2 l + 1), "integral" (orthonormal on the sphere) or "norm" (the sum is 1). Raises `ValueError` for lmax above 20.
    """
    array = np.asarray(points)
    one = array.ndim == 1
    points = numbers("points", array[None] if one else array, np.float64, "n,3")
    values = _native.harmonics(count("lmax", lmax), points, normalization)
    return values[0] if one else values


def wigner_d(l: int, matrices) -> np.ndarray:
    """Wigner-D matrices of rotation matrices (n, 3, 3) or (3, 3), as (n, 2 l + 1, 2 l + 1) or (2 l + 1, 2 l + 1).

    D_l(R) acts on columns: Y_l(R v) = D_l(R) Y_l(v), and D_1(R) = R. Raises `ValueError` for l above 20 and `Steer3dError`
    for a matrix that is no rotation.
    """
    matrices, one = rotations("matrices", matrices)
    values = _native.wigner_d(count("l", l), matrices)
    return values[0] if one else values


def clebsch_gordan(l1: int, l2: int, l3: int) -> np.ndarray:
    """The real Clebsch-Gordan tensor (2 l1 + 1, 2 l2 + 1, 2 l3 + 1) of Frobenius norm 1, zero where l3 is not in l1 x l2."""
    return _native.clebsch_gordan(count("l1", l1), count("l2", l2), count("l3", l3))


def random_rotations(n: int, seed: int = 0) -> np.ndarray:
    """`n` uniform random rotation matrices, (n, 3, 3)."""
    return _native.random_rotations(count("n", n), count("seed", seed))


def even_rotations(n: int) -> np.ndarray:
    """`n` evenly spread rotation matrices (super-Fibonacci spiral), (n, 3, 3)."""
    return _native.even_rotations(count("n", n))


def hopf_grid(nside: int) -> np.ndarray:
    """The 72 nside³ rotation matrices of the Hopf grid of Yershova et al. 2010."""
    return _native.hopf_grid(count("nside", nside))


def point_group(name: str) -> np.ndarray:
    """The rotation matrices of a group: "tetrahedron" (12), "cube" (24) or "icosahedron" (60)."""
    return _native.point_group(name)
