use numpy::{PyArrayDyn, PyReadonlyArrayDyn};
use pyo3::prelude::*;
use steer3d::nn::layers::{FieldLayer, Gate};
use steer3d::ops::slices::{self, Array, Element};
use steer3d::so3::Irreps;

use crate::arrays::{array, irreps, sizes, slice};
use crate::errors::{Failure, Result};
use crate::kernels::by_type;

type Given<'a, T> = PyReadonlyArrayDyn<'a, T>;

/// The types that the gate of fields takes and gives, the number of scalars, and the gated fields.
#[pyfunction]
pub(crate) fn gate_types(
    fields: &Bound<'_, PyAny>,
) -> Result<(String, String, usize, Option<String>)> {
    let gate = Gate::new(&irreps(fields)?)?;
    let [from, to] = gate.irreps().map(ToString::to_string);
    let gating = gate.gating().ok_or_else(|| Failure::argument("fields: expected a gate"))?;
    Ok((from, to, gating.scalars, gating.gated.map(ToString::to_string)))
}

fn volume<'a, T: Element + numpy::Element>(x: &'a Given<'_, T>) -> Result<Array<'a, T>> {
    Ok(Array { values: slice("x", x)?, sizes: sizes("x", "N,C,D,H,W", x)? })
}

/// The gate of x.
#[pyfunction]
pub(crate) fn gate<'py>(
    py: Python<'py>,
    x: &Bound<'py, PyAny>,
    scalars: usize,
    gated: &str,
) -> Result<Bound<'py, PyAny>> {
    let gated: Irreps = gated.parse()?;
    by_type!(x, "x"; T => {
        let x: Given<'_, T> = x.extract()?;
        let x = volume(&x)?;
        let [n, _, d, h, w] = x.sizes;
        let values = py.detach(|| slices::gate(x, scalars, &gated))?;
        array(py, values, &[n, scalars + gated.dim(), d, h, w])
    })
}

/// The gradient of x from that of its gate.
#[pyfunction]
pub(crate) fn gate_gradient<'py>(
    py: Python<'py>,
    x: &Bound<'py, PyAny>,
    scalars: usize,
    gated: &str,
    grad: &Bound<'py, PyAny>,
) -> Result<Bound<'py, PyAny>> {
    let gated: Irreps = gated.parse()?;
    by_type!(x, "x"; T => {
        let (x, grad): (Given<'_, T>, Given<'_, T>) = (x.extract()?, grad.extract()?);
        let (x, grad) = (volume(&x)?, slice("grad", &grad)?);
        let values = py.detach(|| slices::gate_gradient(x, scalars, &gated, grad))?;
        array(py, values, &x.sizes)
    })
}

/// The norm nonlinearity of x with one bias for each field.
#[pyfunction]
pub(crate) fn norm_relu<'py>(
    py: Python<'py>,
    x: &Bound<'py, PyAny>,
    irreps: &str,
    bias: &Bound<'py, PyAny>,
) -> Result<Bound<'py, PyAny>> {
    let irreps: Irreps = irreps.parse()?;
    by_type!(x, "x"; T => {
        let (x, bias): (Given<'_, T>, Given<'_, T>) = (x.extract()?, bias.extract()?);
        let (x, bias) = (volume(&x)?, slice("bias", &bias)?);
        let values = py.detach(|| slices::norm_relu(x, &irreps, bias))?;
        array(py, values, &x.sizes)
    })
}

/// The gradients of x and of the biases.
#[pyfunction]
pub(crate) fn norm_relu_gradients<'py>(
    py: Python<'py>,
    x: &Bound<'py, PyAny>,
    irreps: &str,
    bias: &Bound<'py, PyAny>,
    grad: &Bound<'py, PyAny>,
) -> Result<Bound<'py, PyAny>> {
    let irreps: Irreps = irreps.parse()?;
    by_type!(x, "x"; T => {
        let (x, bias): (Given<'_, T>, Given<'_, T>) = (x.extract()?, bias.extract()?);
        let grad: Given<'_, T> = grad.extract()?;
        let (x, bias, grad) = (volume(&x)?, slice("bias", &bias)?, slice("grad", &grad)?);
        let [of_x, of_bias] =
            py.detach(|| slices::norm_relu_gradients(x, &irreps, bias, grad))?;
        let fields = of_bias.len();
        let both: (Bound<'py, PyArrayDyn<T>>, Bound<'py, PyArrayDyn<T>>) =
            (array(py, of_x, &x.sizes)?, array(py, of_bias, &[fields])?);
        both.into_pyobject(py)
    })
}

/// Taps and first place of the filter along an axis of so many voxels of a Gaussian pool.
#[pyfunction]
pub(crate) fn gaussian_filter(size: usize, stride: usize, sigma: f64) -> Result<(Vec<f64>, isize)> {
    Ok(steer3d::ops::gaussian_filter(size, stride, sigma)?)
}
