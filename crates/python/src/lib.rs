//! The native part of the Python package `steer3d`. What a user sees of it is wrapped in `python/steer3d`, where the
//! documentation is; arrays that come here have been made contiguous and of the right element type there.

#![allow(clippy::needless_pass_by_value, reason = "pyo3 gives arguments by value")]

mod arrays;
mod dataset;
mod equivariance;
mod errors;
mod evaluation;
mod kernels;
mod layers;
mod model;
mod operations;
mod so3;
mod threads;
mod training;
mod volumes;
mod watch;

use std::ffi::OsString;

use pyo3::prelude::*;
use steer3d_cli::OrExit;

#[global_allocator]
static MEMORY: OrExit = OrExit;

/// Run the `steer3d` program with these arguments, the first of which is its own name, and give its exit code.
#[pyfunction]
fn run_program(py: Python<'_>, args: Vec<OsString>) -> u8 {
    py.detach(|| steer3d_cli::run(args))
}

#[pymodule(name = "_native")]
mod native {
    use pyo3::prelude::*;

    #[pymodule_export]
    use super::dataset::Dataset;
    #[pymodule_export]
    use super::equivariance::map_errors;
    #[pymodule_export]
    use super::evaluation::{Report, evaluate, protocol};
    #[pymodule_export]
    use super::kernels::{KernelBasis, Separable};
    #[pymodule_export]
    use super::layers::RustLayer;
    #[pymodule_export]
    use super::model::{Model, Network, builtin_models, save_model};
    #[pymodule_export]
    use super::operations::{
        field_norm, field_norm_gradients, field_statistics, gate, gate_gradient, gate_types,
        gaussian_filter, gaussian_pool, gaussian_pool_gradient, norm_relu, norm_relu_gradients,
    };
    #[pymodule_export]
    use super::run_program;
    #[pymodule_export]
    use super::so3::{
        Irreps, clebsch_gordan, even_rotations, harmonics, hopf_grid, point_group,
        random_rotations, wigner_d,
    };
    #[pymodule_export]
    use super::training::train;
    #[pymodule_export]
    use super::volumes::{
        read, resample, rotate, translate, voxelise_mesh, voxelise_points, write,
    };

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        super::threads::remember_process();
        module.add("__version__", env!("CARGO_PKG_VERSION"))?;
        module.add("Steer3dError", module.py().get_type::<super::errors::Steer3dError>())
    }
}
