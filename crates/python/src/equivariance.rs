use pyo3::prelude::*;
use steer3d::eval::equivariance::{self, FieldMap, SurveyConfig};

use crate::arrays::irreps;
use crate::errors::Result;
use crate::evaluation::answer;
use crate::threads::compute;

/// Errors of a callable from arrays 1,C,N,N,N of float32 at the centre, in the ball and under the rotations of the cube.
/// `config` is a table of a survey as JSON.
#[pyfunction]
pub(crate) fn map_errors(
    py: Python<'_>,
    name: &str,
    call: Py<PyAny>,
    irreps_in: &Bound<'_, PyAny>,
    irreps_out: &Bound<'_, PyAny>,
    config: &str,
    centre_size: usize,
) -> Result<[f64; 3]> {
    let config: SurveyConfig = serde_json::from_str(config)?;
    let (given, out) = (irreps(irreps_in)?, irreps(irreps_out)?);
    let errors = compute(py, || {
        let map = FieldMap::new(name, &given, &out, |x| answer(&call, x));
        equivariance::map_errors(&map, &config, centre_size, config.seed)
    })?;
    Ok([errors.centre, errors.resampled, errors.cube])
}
