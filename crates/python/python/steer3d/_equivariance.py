"""How far any layer or network is from commuting with rotations."""

import json
from dataclasses import dataclass

from . import _native
from ._arrays import count
from ._evaluation import _called


@dataclass(frozen=True)
class EquivarianceErrors:
    """Errors relative to the norm of the output, as in the tables of docs/src/exactness.md.

    `centre`: fields given by a formula and rotated by it, outputs compared at the central voxel; nothing is interpolated.
    `resampled`: outputs compared in a ball, one rotated by cubic splines, which by themselves leave 0.0007 of bumps two voxels
    wide. `cube`: the worst of the 24 rotations of the cube on white noise, where all but rounding is a mistake.
    """

    centre: float
    resampled: float
    cube: float


def equivariance(
    layer,
    irreps_in=None,
    irreps_out=None,
    *,
    size: int = 33,
    width: float = 2.0,
    rotations: int = 20,
    fields: int = 40,
    centre_size: int = 17,
    seed: int = 0,
    name: str | None = None,
) -> EquivarianceErrors:
    """Measures a layer or a network by the protocol of `steer3d equivariance`, whose figures it gives for the same layer.

    `layer` is any callable from float32 arrays (1, C, N, N, N) of type `irreps_in` to arrays (1, C, D, H, W) or (1, C) of type
    `irreps_out`, or a `torch.nn.Module`, which is called for evaluation and without gradients; layers of `steer3d.torch` know
    their types. Fields have bumps `width` voxels wide on `size` voxels along each axis, which is 9, 13, 17, ..., 129.
    `centre_size` are the voxels along each axis that the central voxel of the output depends on, at least, and the output must
    have an odd number of them; a stride of 2 needs 4n + 1. `fields` are compared at the centre, each with a rotation of its own.

    `steer3d.program("equivariance", ...)` gives a survey with its tables.

    Raises what the layer raises, and `Steer3dError` for fields of another type, zeros, and settings out of range.
    """
    given = irreps_in if irreps_in is not None else getattr(layer, "irreps_in", getattr(layer, "irreps", None))
    out = irreps_out if irreps_out is not None else getattr(layer, "irreps_out", given)
    if given is None:
        raise TypeError("irreps_in: expected the type of the fields that the layer takes, found none")
    if not callable(layer):
        raise TypeError(f"layer: expected a callable, found {type(layer).__name__}")
    config = {"size": size, "width": width, "rotations": rotations, "centre_fields": fields, "seed": seed, "seeds": 1}
    known, call = _called(layer, name)
    errors = _native.map_errors(known, call, given, out, json.dumps(config), count("centre_size", centre_size))
    return EquivarianceErrors(*errors)
