"""SO(3)-steerable 3D convolutional networks for voxel volumes, and a measure of how far a model survives rotation.

Arrays are N,C,D,H,W = item, channel, z, y, x; positions, shifts and voxel sizes are x, y, z. Real spherical harmonics,
Wigner-D matrices and Clebsch-Gordan tensors are those of e3nn. `steer3d.torch` has layers for PyTorch; nothing else
imports it.

Wrong arguments raise `ValueError` or `TypeError`; what is wrong with a file, a dataset or a model raises `Steer3dError`, a
`ValueError`; the operating system's errors are `OSError`s, such as `FileNotFoundError`; a result that would take more than half
of the memory raises `MemoryError`.
"""

from importlib import import_module as _import_module

from ._native import Irreps, Steer3dError, __version__

_WHERE = {
    "_so3": [
        "clebsch_gordan",
        "even_rotations",
        "harmonics",
        "hopf_grid",
        "point_group",
        "random_rotations",
        "wigner_d",
    ],
    "_kernels": ["KernelBasis"],
    "_volumes": ["Mesh", "Molecule", "Volume", "read", "voxelise"],
    "_data": ["Dataset", "Item", "build_dataset", "import_dataset", "write_dataset"],
    "_models": ["Model", "builtin_models", "load"],
    "_evaluation": ["Report", "evaluate"],
    "_equivariance": ["EquivarianceErrors", "equivariance"],
    "_training": ["Run", "train"],
    "_program": ["program"],
}
_MODULE = {name: module for module, names in _WHERE.items() for name in names}

__all__ = ["Irreps", "Steer3dError", "__version__", *_MODULE]


def __getattr__(name):
    # The parts are imported when they are asked for, so that the program starts without NumPy.
    module = _MODULE.get(name)
    if module is None:
        raise AttributeError(f"module 'steer3d' has no attribute '{name}'")
    value = getattr(_import_module(f"steer3d.{module}"), name)
    globals()[name] = value
    return value


def __dir__():
    return sorted(__all__)
