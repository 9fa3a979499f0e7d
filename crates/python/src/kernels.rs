use candle_core::Device;
use numpy::{PyArrayDyn, PyReadonlyArrayDyn};
use pyo3::prelude::*;
use steer3d::kernels::{self, Family, SeparablePlan};
use steer3d::nn::Params;
use steer3d::ops;
use steer3d::ops::slices::{Element, SeparableConv};

use crate::arrays::{array, irreps, room, slice, volume};
use crate::errors::{Failure, Result};
use crate::threads::compute;

/// The steerable kernels between two types of fields on k³ taps.
#[pyclass(frozen, module = "steer3d._native")]
pub(crate) struct KernelBasis {
    basis: kernels::KernelBasis,
    family: Family,
}

/// Offset of the weights, of the output and of the input channels, multiplicities and dimensions of output and input, and
/// samples (paths, dim_out · dim_in · k³) of a pair of blocks.
type Pair<'py> = ([usize; 3], [usize; 2], [usize; 2], Bound<'py, PyArrayDyn<f64>>);

#[pymethods]
impl KernelBasis {
    /// `family` is a table of a kernel family as JSON.
    #[new]
    fn new(
        py: Python<'_>,
        irreps_in: &Bound<'_, PyAny>,
        irreps_out: &Bound<'_, PyAny>,
        size: usize,
        family: &str,
        voxel_size: [f64; 3],
    ) -> Result<Self> {
        let (i, o) = (irreps(irreps_in)?, irreps(irreps_out)?);
        let family: Family = serde_json::from_str(family)?;
        let basis = compute(py, || kernels::KernelBasis::new(&i, &o, size, &family, voxel_size))?;
        Ok(Self { basis, family })
    }

    #[getter]
    fn num_weights(&self) -> usize {
        self.basis.num_weights()
    }

    /// The weights that a layer of this name begins with.
    fn initial_weights<'py>(
        &self,
        py: Python<'py>,
        seed: u64,
        name: &str,
    ) -> Result<Bound<'py, PyArrayDyn<f64>>> {
        let mut params = Params::new(seed, candle_core::DType::F64, &Device::Cpu);
        let weights = self.basis.initial_weights(&mut params.pp(name).stream());
        array(py, weights, &[self.basis.num_weights()])
    }

    /// The dense filter C_out,C_in,k,k,k of weights.
    fn expand<'py>(
        &self,
        py: Python<'py>,
        weights: PyReadonlyArrayDyn<'_, f64>,
    ) -> Result<Bound<'py, PyArrayDyn<f64>>> {
        let weights = slice("weights", &weights)?;
        let (basis, k) = (&self.basis, self.basis.grid().size());
        let sizes = [basis.irreps_out().dim(), basis.irreps_in().dim(), k, k, k];
        let _room = room::<f64>("size", &sizes)?;
        let filter = compute(py, || basis.expand(weights))?;
        array(py, filter, &sizes)
    }

    fn pairs<'py>(&self, py: Python<'py>) -> Result<Vec<Pair<'py>>> {
        let of = |pair: &kernels::BlockPair| {
            let columns = pair.dim_out * pair.dim_in * self.basis.grid().num_taps();
            Ok((
                [pair.weight_offset, pair.offset_out, pair.offset_in],
                [pair.mul_out, pair.mul_in],
                [pair.dim_out, pair.dim_in],
                array(py, pair.samples.clone(), &[pair.paths.len(), columns])?,
            ))
        };
        self.basis.pairs().iter().map(of).collect()
    }

    /// The convolution without a dense filter, and the multiply-adds of a voxel that it needs; none where the kernels
    /// are not separable.
    fn separable(&self) -> Result<Option<(Separable, usize)>> {
        let plan = SeparablePlan::new(&self.basis, &self.family)?;
        let plan = plan.filter(|plan| plan.size <= ops::Separable::MAX_SIZE);
        let of = |plan: SeparablePlan| {
            let cost = plan.cost().total();
            Ok((Separable(ops::Separable::new(plan)?), cost))
        };
        plan.map(of).transpose()
    }
}

/// A convolution by 1-D filters on the memory of arrays f32 or f64.
#[pyclass(frozen, module = "steer3d._native")]
pub(crate) struct Separable(ops::Separable);

type Values<'py, T> = Bound<'py, PyArrayDyn<T>>;
type Given<'a, T> = PyReadonlyArrayDyn<'a, T>;

impl Separable {
    fn forward<'py, T: Element + numpy::Element>(
        &self,
        py: Python<'py>,
        x: &Given<'_, T>,
        w: &Given<'_, T>,
        bias: Option<&Given<'_, T>>,
        stride: usize,
    ) -> Result<Values<'py, T>> {
        let conv = SeparableConv { kernel: &self.0, stride };
        let x = volume(x)?;
        let (w, bias) = (slice("weight", w)?, bias.map(|b| slice("bias", b)).transpose()?);
        let values = compute(py, || conv.forward(x, w, bias))?;
        array(py, values, &conv.sizes(x.sizes)?)
    }

    fn gradients<'py, T: Element + numpy::Element>(
        &self,
        py: Python<'py>,
        x: &Given<'_, T>,
        w: Option<&Given<'_, T>>,
        grad: &Given<'_, T>,
        stride: usize,
    ) -> Result<Values<'py, T>> {
        let conv = SeparableConv { kernel: &self.0, stride };
        let x = volume(x)?;
        let (w, grad) = (w.map(|w| slice("weight", w)).transpose()?, slice("grad", grad)?);
        let values = compute(py, || match w {
            Some(w) => conv.gradients(x, w, grad),
            None => conv.weight_gradient(x, grad),
        })?;
        let len = values.len();
        array(py, values, &[len])
    }
}

/// Calls a generic method for the element type of an array.
macro_rules! by_type {
    ($first:ident, $name:expr; $T:ident => $call:expr) => {
        if $first.is_instance_of::<PyArrayDyn<f32>>() {
            type $T = f32;
            Ok($call?.into_any())
        } else if $first.is_instance_of::<PyArrayDyn<f64>>() {
            type $T = f64;
            Ok($call?.into_any())
        } else {
            Err($crate::kernels::wrong_type($name, $first))
        }
    };
}
pub(crate) use by_type;

pub(crate) fn wrong_type(name: &str, found: &Bound<'_, PyAny>) -> Failure {
    let dtype = found.getattr("dtype").map(|dtype| dtype.to_string());
    let found = dtype.unwrap_or_else(|_| found.get_type().to_string());
    let problem = format!("{name}: expected an array of float32 or float64, found {found}");
    pyo3::exceptions::PyTypeError::new_err(problem).into()
}

#[pymethods]
impl Separable {
    /// The convolution of x, N,C,D,H,W.
    #[pyo3(name = "forward")]
    fn of<'py>(
        &self,
        py: Python<'py>,
        x: &Bound<'py, PyAny>,
        w: &Bound<'py, PyAny>,
        bias: Option<&Bound<'py, PyAny>>,
        stride: usize,
    ) -> Result<Bound<'py, PyAny>> {
        by_type!(x, "x"; T => {
            let bias: Option<Given<'_, T>> = bias.map(PyAnyMethods::extract).transpose()?;
            self.forward::<T>(py, &x.extract()?, &w.extract()?, bias.as_ref(), stride)
        })
    }

    /// The gradients of x and w, one after the other, or without w that of the weights alone.
    #[pyo3(name = "gradients")]
    fn gradients_of<'py>(
        &self,
        py: Python<'py>,
        x: &Bound<'py, PyAny>,
        w: Option<&Bound<'py, PyAny>>,
        grad: &Bound<'py, PyAny>,
        stride: usize,
    ) -> Result<Bound<'py, PyAny>> {
        by_type!(x, "x"; T => {
            let w: Option<Given<'_, T>> = w.map(PyAnyMethods::extract).transpose()?;
            self.gradients::<T>(py, &x.extract()?, w.as_ref(), &grad.extract()?, stride)
        })
    }
}
