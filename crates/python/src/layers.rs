use std::time::Instant;

use candle_core::{DType, Device, Tensor, Var};
use numpy::{PyArrayDyn, PyReadonlyArrayDyn};
use pyo3::prelude::*;
use steer3d::kernels::Family;
use steer3d::nn::layers::{ConvConfig, Convolution, ConvolutionPath, FieldLayer, SteerableConv3d};
use steer3d::nn::{Field, Params};

use crate::arrays::{array, irreps, sizes, slice};
use crate::errors::Result;
use crate::threads::compute;

/// The steerable convolution of the Rust libraries, f32 and separable: what the layers for PyTorch are compared with.
#[pyclass(frozen, module = "steer3d._native")]
pub(crate) struct RustLayer {
    layer: SteerableConv3d,
    weight: Var,
}

#[pymethods]
impl RustLayer {
    #[new]
    fn new(
        irreps_in: &Bound<'_, PyAny>,
        irreps_out: &Bound<'_, PyAny>,
        size: usize,
        order: usize,
        stride: usize,
        seed: u64,
    ) -> Result<Self> {
        let mut params = Params::new(seed, DType::F32, &Device::Cpu);
        let config = ConvConfig {
            size,
            stride,
            kernel: Family::jets(order),
            path: Some(ConvolutionPath::Separable),
            ..ConvConfig::new(&irreps(irreps_in)?, &irreps(irreps_out)?)
        };
        let layer = SteerableConv3d::new(params.pp("conv"), config)?;
        let weight = params.trainable()[0].var.clone();
        Ok(Self { layer, weight })
    }

    /// Its weights.
    fn weight<'py>(&self, py: Python<'py>) -> Result<Bound<'py, PyArrayDyn<f32>>> {
        let values = self.weight.to_vec1::<f32>()?;
        let len = values.len();
        array(py, values, &[len])
    }

    /// The convolution of x, N,C,D,H,W.
    fn forward<'py>(
        &self,
        py: Python<'py>,
        x: PyReadonlyArrayDyn<'_, f32>,
    ) -> Result<Bound<'py, PyArrayDyn<f32>>> {
        let x = tensor(&x)?;
        let out = compute(py, || self.convolved(x))?;
        let sizes = out.dims().to_vec();
        array(py, out.flatten_all()?.to_vec1()?, &sizes)
    }

    /// Seconds of calls: forward, or forward and all gradients of the sum of the result.
    fn seconds(
        &self,
        py: Python<'_>,
        x: PyReadonlyArrayDyn<'_, f32>,
        both: bool,
        calls: usize,
    ) -> Result<Vec<f64>> {
        let x = Var::from_tensor(&tensor(&x)?)?;
        let call = || -> Result<f64> {
            let start = Instant::now();
            if both {
                self.convolved(x.as_tensor().clone())?.sum_all()?.backward()?;
            } else {
                self.convolved(x.detach())?;
            }
            Ok(start.elapsed().as_secs_f64())
        };
        compute(py, || (0..calls).map(|_| call()).collect())
    }

    /// The gradients of the sum of the squares of the result for x and the weights.
    #[allow(clippy::type_complexity)]
    fn gradients<'py>(
        &self,
        py: Python<'py>,
        x: PyReadonlyArrayDyn<'_, f32>,
    ) -> Result<(Bound<'py, PyArrayDyn<f32>>, Bound<'py, PyArrayDyn<f32>>)> {
        let x = Var::from_tensor(&tensor(&x)?)?;
        let grads = compute(py, || -> Result<_> {
            let out = self.convolved(x.as_tensor().clone())?;
            Ok(out.sqr()?.sum_all()?.backward()?)
        })?;
        let of = |var: &Var| -> Result<Bound<'py, PyArrayDyn<f32>>> {
            let grad = grads.get(var).cloned().unwrap_or(var.zeros_like()?);
            let sizes = grad.dims().to_vec();
            array(py, grad.flatten_all()?.to_vec1()?, &sizes)
        };
        Ok((of(&x)?, of(&self.weight)?))
    }
}

fn tensor(x: &PyReadonlyArrayDyn<'_, f32>) -> Result<Tensor> {
    let dims: [usize; 5] = sizes("x", "N,C,D,H,W", x)?;
    Ok(Tensor::from_slice(slice("x", x)?, &dims, &Device::Cpu)?)
}

impl RustLayer {
    fn convolved(&self, x: Tensor) -> Result<Tensor> {
        let field = Field::of(self.layer.site().kind_in.clone(), x)?;
        Ok(self.layer.forward(&field)?.values().clone())
    }
}
