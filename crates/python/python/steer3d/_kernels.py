"""Bases of steerable kernels."""

import json

import numpy as np

from . import _native
from ._arrays import count, numbers, triple


def family_table(order, family, size):
    """The table of a kernel family as JSON: Gaussian jets of an order, or what `family` says."""
    if family is None:
        order = max(min(3, size - 1), 0) if order is None else order
        return json.dumps({"family": "gaussian_jets", "order": order})
    if isinstance(family, str):
        family = {"family": family}
    if family.get("family") == "gaussian_shells":
        family = {"sigma": 0.6, **family}
    return json.dumps(family)


class KernelBasis:
    """All steerable kernels of a family between two types of fields, sampled on size³ taps.

    A kernel obeys K(R x) = D_out(R) K(x) D_in(R)ᵀ. `order` is that of Gaussian jets; 3, or size - 1 if that is less, if it is
    left out. `family` is another family instead, such as "gaussian_shells" or `{"family": "bessel", "functions": 3}`. `voxel_size` is a number or x, y, z.

    Raises `Steer3dError` for wrong irreps, an even size, or a family that does not fit.
    """

    def __init__(self, irreps_in, irreps_out, size: int, order: int | None = None, family=None, voxel_size=1.0):
        self.irreps_in, self.irreps_out = _native.Irreps(irreps_in), _native.Irreps(irreps_out)
        self.size = size = count("size", size)
        table = family_table(order, family, size)
        self._basis = _native.KernelBasis(irreps_in, irreps_out, size, table, triple("voxel_size", voxel_size))

    @property
    def num_weights(self) -> int:
        """Number of free weights."""
        return self._basis.num_weights

    def initial_weights(self, seed: int = 0, name: str = "conv") -> np.ndarray:
        """Weights whose kernel gives unit variance for white noise, as a Rust layer of this name begins with."""
        return self._basis.initial_weights(count("seed", seed), name)

    def filter(self, weights) -> np.ndarray:
        """The dense filter (C_out, C_in, k, k, k), taps z, y, x, of weights."""
        return self._basis.expand(numbers("weights", weights, np.float64, "n"))
