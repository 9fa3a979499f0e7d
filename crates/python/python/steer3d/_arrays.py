"""Arguments as arrays that the native part takes; what fits already is not copied."""

import operator

import numpy as np


def numbers(name, value, dtype, axes):
    """A contiguous array of `dtype` with as many axes as the text `axes` names, such as "N,C,D,H,W".

    Where `dtype` is one of whole numbers, all are whole and in its range.
    """
    array = _array(name, value)
    if array.dtype.kind not in "fiub":
        raise TypeError(f"{name}: expected numbers, found {array.dtype}")
    if array.ndim != axes.count(",") + 1:
        raise ValueError(f"{name}: expected an array {axes}, found one of shape {array.shape}")
    if np.dtype(dtype).kind in "iu" and array.size:
        _check_whole(name, array, np.iinfo(dtype))
    return np.ascontiguousarray(array, dtype)


def _check_whole(name, array, limits):
    """Raises where an array has other numbers than the whole ones within `limits`."""
    if array.dtype.kind == "f":
        raise TypeError(f"{name}: expected whole numbers, found {array.dtype}; convert them by astype(int)")
    for found in (int(array.min()), int(array.max())):
        if not limits.min <= found <= limits.max:
            raise ValueError(f"{name}: expected numbers from {limits.min} to {limits.max}, found {found}")


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


def count(name, value, least=0):
    """A whole number from `least` to 2⁶⁴ - 1."""
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name}: expected a whole number, found {value!r}") from None
    if number < least:
        raise ValueError(f"{name}: expected at least {least}, found {number}")
    if number >= 2**64:
        raise ValueError(f"{name}: expected less than 2^64, found {number}")
    return number


def dims(name, value):
    """Numbers of voxels D, H, W: three, or one for all."""
    if np.ndim(value) == 0:
        return [count(name, value, 1)] * 3
    numbers = [count(name, n, 1) for n in value]
    if len(numbers) != 3:
        raise ValueError(f"{name}: expected a number or D, H, W, found {len(numbers)} numbers")
    return numbers


def triple(name, value):
    """Three numbers: one for all, or x, y, z."""
    array = np.asarray(value, np.float64)
    if array.ndim == 0:
        return [float(array)] * 3
    if array.shape != (3,):
        raise ValueError(f"{name}: expected a number or x, y, z, found shape {array.shape}")
    return [float(v) for v in array]
