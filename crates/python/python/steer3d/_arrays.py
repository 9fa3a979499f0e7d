"""Arguments as arrays that the native part takes; what fits already is not copied."""

import numpy as np


def numbers(name, value, dtype, axes):
    """A contiguous array of `dtype` with as many axes as the text `axes` names, such as "N,C,D,H,W"."""
    array = _array(name, value)
    if array.dtype.kind not in "fiub":
        raise TypeError(f"{name}: expected numbers, found {array.dtype}")
    if array.ndim != axes.count(",") + 1:
        raise ValueError(f"{name}: expected an array {axes}, found one of shape {array.shape}")
    return np.ascontiguousarray(array, dtype)


def _array(name, value):
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        value = value.float() if str(value.dtype) == "torch.bfloat16" else value
    try:
        return np.asarray(value)
    except Exception as error:
        raise TypeError(f"{name}: expected an array, found {type(value).__name__}: {error}") from error


def rotations(name, value):
    """Rotation matrices as (n, 3, 3), and whether there was only one."""
    array = _array(name, value)
    one = array.ndim == 2
    return numbers(name, array[None] if one else array, np.float64, "n,3,3"), one


def triple(name, value):
    """Three numbers: one for all, or x, y, z."""
    array = np.asarray(value, np.float64)
    if array.ndim == 0:
        return [float(array)] * 3
    if array.shape != (3,):
        raise ValueError(f"{name}: expected a number or x, y, z, found shape {array.shape}")
    return [float(v) for v in array]
