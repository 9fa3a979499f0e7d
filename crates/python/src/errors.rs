use std::error::Error;
use std::io::{self, ErrorKind};

use pyo3::create_exception;
use pyo3::exceptions::{
    PyFileNotFoundError, PyMemoryError, PyOSError, PyPermissionError, PyValueError,
};
use pyo3::prelude::*;
use steer3d_cli::one_line;

create_exception!(steer3d, Steer3dError, PyValueError, "What steer3d finds wrong with its input.");

/// What a function of the module fails with: an error of the libraries, or an exception of Python.
#[derive(Debug)]
pub(crate) struct Failure(anyhow::Error);

impl<E: Error + Send + Sync + 'static> From<E> for Failure {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

impl Failure {
    /// An argument is wrong.
    pub(crate) fn argument(problem: impl Into<String>) -> Self {
        Self(PyValueError::new_err(problem.into()).into())
    }

    /// A result is larger than the memory.
    pub(crate) fn memory(problem: impl Into<String>) -> Self {
        Self(PyMemoryError::new_err(problem.into()).into())
    }
}

/// An exception of Python on the way is raised again, with its own traceback; else the kind of an error of the
/// operating system, if there is one, decides.
impl From<Failure> for PyErr {
    fn from(Failure(error): Failure) -> Self {
        let raised = error.chain().find_map(|cause| cause.downcast_ref::<PyErr>());
        if let Some(raised) = raised {
            return Python::attach(|py| raised.clone_ref(py));
        }
        let text = one_line(&error);
        match error.chain().find_map(|cause| cause.downcast_ref::<io::Error>()).map(io::Error::kind)
        {
            Some(ErrorKind::NotFound) => PyFileNotFoundError::new_err(text),
            Some(ErrorKind::PermissionDenied) => PyPermissionError::new_err(text),
            Some(_) => PyOSError::new_err(text),
            None => Steer3dError::new_err(text),
        }
    }
}

pub(crate) type Result<T> = std::result::Result<T, Failure>;
