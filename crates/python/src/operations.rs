use numpy::{PyArrayDyn, PyReadonlyArrayDyn};
use pyo3::prelude::*;
use steer3d::nn::layers::{FieldLayer, Gate};
use steer3d::ops::slices::{self, Norm};
use steer3d::so3::Irreps;

use crate::arrays::{array, irreps, room, slice, volume};
use crate::errors::{Failure, Result};
use crate::kernels::by_type;
use crate::threads::compute;

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
        let values = compute(py, || slices::gate(x, scalars, &gated))?;
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
        let values = compute(py, || slices::gate_gradient(x, scalars, &gated, grad))?;
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
        let values = compute(py, || slices::norm_relu(x, &irreps, bias))?;
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
            compute(py, || slices::norm_relu_gradients(x, &irreps, bias, grad))?;
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

/// The means of all fields of x, 0 of those that are not scalars, then their variances.
#[pyfunction]
pub(crate) fn field_statistics<'py>(
    py: Python<'py>,
    x: &Bound<'py, PyAny>,
    irreps: &str,
) -> Result<Bound<'py, PyAny>> {
    let irreps: Irreps = irreps.parse()?;
    by_type!(x, "x"; T => {
        let x: Given<'_, T> = x.extract()?;
        let x = volume(&x)?;
        let values = compute(py, || slices::statistics(x, &irreps))?;
        let len = values.len();
        array(py, values, &[len])
    })
}

/// The fields of x, normalised by such statistics.
#[pyfunction]
pub(crate) fn field_norm<'py>(
    py: Python<'py>,
    x: &Bound<'py, PyAny>,
    weight: &Bound<'py, PyAny>,
    bias: &Bound<'py, PyAny>,
    statistics: &Bound<'py, PyAny>,
    irreps: &str,
    epsilon: f64,
) -> Result<Bound<'py, PyAny>> {
    let irreps: Irreps = irreps.parse()?;
    by_type!(x, "x"; T => {
        let (x, weight): (Given<'_, T>, Given<'_, T>) = (x.extract()?, weight.extract()?);
        let (bias, statistics): (Given<'_, T>, Given<'_, T>) = (bias.extract()?, statistics.extract()?);
        let (x, weight, bias) = (volume(&x)?, slice("weight", &weight)?, slice("bias", &bias)?);
        let statistics = slice("statistics", &statistics)?;
        let norm = Norm { irreps: &irreps, statistics, epsilon, from_batch: false };
        let values = compute(py, || norm.forward(x, weight, bias))?;
        array(py, values, &x.sizes)
    })
}

/// The gradients of x, and of weights and biases one after the other.
#[pyfunction]
#[allow(clippy::too_many_arguments)]
pub(crate) fn field_norm_gradients<'py>(
    py: Python<'py>,
    x: &Bound<'py, PyAny>,
    weight: &Bound<'py, PyAny>,
    grad: &Bound<'py, PyAny>,
    statistics: &Bound<'py, PyAny>,
    irreps: &str,
    epsilon: f64,
    from_batch: bool,
) -> Result<Bound<'py, PyAny>> {
    let irreps: Irreps = irreps.parse()?;
    by_type!(x, "x"; T => {
        let (x, weight): (Given<'_, T>, Given<'_, T>) = (x.extract()?, weight.extract()?);
        let (grad, statistics): (Given<'_, T>, Given<'_, T>) = (grad.extract()?, statistics.extract()?);
        let (x, weight, grad) = (volume(&x)?, slice("weight", &weight)?, slice("grad", &grad)?);
        let statistics = slice("statistics", &statistics)?;
        let norm = Norm { irreps: &irreps, statistics, epsilon, from_batch };
        let [of_x, small] = compute(py, || norm.gradients(x, weight, grad))?;
        let len = small.len();
        let both: (Bound<'py, PyArrayDyn<T>>, Bound<'py, PyArrayDyn<T>>) =
            (array(py, of_x, &x.sizes)?, array(py, small, &[len])?);
        both.into_pyobject(py)
    })
}

/// Antialiased subsampling of x.
#[pyfunction]
pub(crate) fn gaussian_pool<'py>(
    py: Python<'py>,
    x: &Bound<'py, PyAny>,
    stride: usize,
    sigma: f64,
) -> Result<Bound<'py, PyAny>> {
    by_type!(x, "x"; T => {
        let x: Given<'_, T> = x.extract()?;
        let x = volume(&x)?;
        let (values, sizes) = compute(py, || slices::gaussian_pool(x, stride, sigma))?;
        array(py, values, &sizes)
    })
}

/// The gradient of an input of these sizes.
#[pyfunction]
pub(crate) fn gaussian_pool_gradient<'py>(
    py: Python<'py>,
    sizes: [usize; 5],
    stride: usize,
    sigma: f64,
    grad: &Bound<'py, PyAny>,
) -> Result<Bound<'py, PyAny>> {
    by_type!(grad, "grad"; T => {
        let grad: Given<'_, T> = grad.extract()?;
        let grad = slice("grad", &grad)?;
        let _room = room::<T>("size", &sizes)?;
        let values = compute(py, || slices::gaussian_pool_gradient(sizes, stride, sigma, grad))?;
        array(py, values, &sizes)
    })
}
