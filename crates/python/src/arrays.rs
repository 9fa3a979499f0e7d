use nalgebra::Matrix3;
use numpy::{
    Element, IntoPyArray, PyArrayDyn, PyArrayMethods, PyReadonlyArrayDyn, PyUntypedArrayMethods,
};
use pyo3::prelude::*;
use steer3d::files::memory::{self, NoRoom, Room};
use steer3d::ops::slices;
use steer3d::so3::rotations::from_matrix;
use steer3d::so3::{Irreps, Rotation};

use crate::errors::{Failure, Result};

/// The elements of a contiguous array.
pub(crate) fn slice<'a, T: Element>(
    name: &str,
    array: &'a PyReadonlyArrayDyn<'_, T>,
) -> Result<&'a [T]> {
    array.as_slice().map_err(|_| {
        let problem = "expected a contiguous array in the order of its axes, found another; call numpy.ascontiguousarray";
        Failure::argument(format!("{name}: {problem}"))
    })
}

/// The sizes of an array with so many axes, which `axes` names.
pub(crate) fn sizes<T: Element, const N: usize>(
    name: &str,
    axes: &str,
    array: &PyReadonlyArrayDyn<'_, T>,
) -> Result<[usize; N]> {
    array.shape().try_into().map_err(|_| {
        Failure::argument(format!(
            "{name}: expected an array {axes}, found one of shape {:?}",
            array.shape()
        ))
    })
}

/// Volumes x, N,C,D,H,W.
pub(crate) fn volume<'a, T: slices::Element + Element>(
    x: &'a PyReadonlyArrayDyn<'_, T>,
) -> Result<slices::Array<'a, T>> {
    Ok(slices::Array { values: slice("x", x)?, sizes: sizes("x", "N,C,D,H,W", x)? })
}

/// Room for an array of these sizes in the budget of the process, which ends where the system refuses memory.
pub(crate) fn room<T>(what: &str, sizes: &[usize]) -> Result<Room> {
    let one = size_of::<T>() as u64;
    let bytes = sizes.iter().fold(one, |bytes, &size| bytes.saturating_mul(size as u64));
    memory::take(bytes).map_err(|NoRoom { needed, limit }| {
        let (needed, limit) = (needed >> 20, limit >> 20);
        Failure::memory(format!(
            "{what}: expected results of at most {limit} MiB at a time, found one that takes {needed} MiB; ask for less \
             at once"
        ))
    })
}

/// An array of these elements, which are not copied.
pub(crate) fn array<'py, T: Element>(
    py: Python<'py>,
    values: Vec<T>,
    sizes: &[usize],
) -> Result<Bound<'py, PyArrayDyn<T>>> {
    Ok(values.into_pyarray(py).reshape(sizes)?)
}

/// Rows of three numbers.
pub(crate) fn triples(name: &str, array: &PyReadonlyArrayDyn<'_, f64>) -> Result<Vec<[f64; 3]>> {
    let [_, three] = sizes(name, "(n, 3)", array)?;
    if three != 3 {
        let found = array.shape();
        return Err(Failure::argument(format!(
            "{name}: expected an array (n, 3), found one of shape {found:?}"
        )));
    }
    Ok(slice(name, array)?.as_chunks().0.to_vec())
}

/// Rotation matrices (n, 3, 3).
pub(crate) fn rotations(array: &PyReadonlyArrayDyn<'_, f64>) -> Result<Vec<Rotation>> {
    let name = "rotations";
    let [_, a, b] = sizes(name, "(n, 3, 3)", array)?;
    if [a, b] != [3, 3] {
        let found = array.shape();
        return Err(Failure::argument(format!(
            "{name}: expected an array (n, 3, 3), found one of shape {found:?}"
        )));
    }
    let matrices = slice(name, array)?.chunks_exact(9).map(Matrix3::from_row_slice);
    Ok(matrices.map(|matrix| from_matrix(&matrix)).collect::<std::result::Result<_, _>>()?)
}

/// The one rotation of an array (1, 3, 3).
pub(crate) fn rotation(array: &PyReadonlyArrayDyn<'_, f64>) -> Result<Rotation> {
    let all = rotations(array)?;
    all.first().copied().ok_or_else(|| Failure::argument("rotation: expected a matrix, found none"))
}

/// Matrices (n, 3, 3).
pub(crate) fn matrices<'py>(
    py: Python<'py>,
    rotations: &[Rotation],
) -> Result<Bound<'py, PyArrayDyn<f64>>> {
    let rows = rotations.iter().flat_map(|rotation| {
        let matrix = *rotation.matrix();
        (0..9).map(move |i| matrix[(i / 3, i % 3)])
    });
    array(py, rows.collect(), &[rotations.len(), 3, 3])
}

/// Irreps by their text form: a text, or anything that writes itself as one.
pub(crate) fn irreps(given: &Bound<'_, PyAny>) -> Result<Irreps> {
    Ok(given.str()?.to_string().parse()?)
}
