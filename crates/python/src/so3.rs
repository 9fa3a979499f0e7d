use numpy::{PyArrayDyn, PyReadonlyArrayDyn};
use pyo3::prelude::*;
use steer3d::so3::groups::{cube_group, icosahedral_group, tetrahedral_group};
use steer3d::so3::sampling;
use steer3d::so3::wigner::{wigner_d_batch, wigner_d_len};
use steer3d::so3::{self, DegreeError, L_MAX, Normalization, SphericalHarmonics};

use crate::arrays::{array, irreps, matrices, room, rotations, triples};
use crate::errors::{Failure, Result};
use crate::threads::compute;

type Array<'py> = Bound<'py, PyArrayDyn<f64>>;

/// Largest number of rotations that a call gives.
const MAX_ROTATIONS: usize = 1 << 24;

/// Numbers of a rotation and of the matrix that is made of it.
const NUMBERS: usize = 18;

/// A direct sum of irreps with multiplicities, such as "16x0+8x1+4x2": the type of a field.
#[pyclass(frozen, eq, hash, module = "steer3d")]
#[derive(PartialEq, Eq, Hash)]
pub(crate) struct Irreps(so3::Irreps);

#[pymethods]
impl Irreps {
    #[new]
    fn new(text: &Bound<'_, PyAny>) -> Result<Self> {
        Ok(Self(irreps(text)?))
    }

    /// Number of channels.
    #[getter]
    fn dim(&self) -> usize {
        self.0.dim()
    }

    /// Number of irreducible fields.
    #[getter]
    fn num_fields(&self) -> usize {
        self.0.num_fields()
    }

    /// Multiplicity, irrep and first channel of each block.
    #[getter]
    fn blocks(&self) -> Vec<(usize, String, usize)> {
        self.0.blocks().map(|b| (b.mul, b.irrep.to_string(), b.offset)).collect()
    }

    /// First channel, number of channels, and whether no rotation or reflection changes it, of each irreducible field.
    #[getter]
    fn fields(&self) -> Vec<(usize, usize, bool)> {
        let invariant = |irrep: so3::Irrep| irrep.l == 0 && irrep.parity != Some(so3::Parity::Odd);
        let of = |b: so3::Block| {
            let dim = b.irrep.dim();
            (0..b.mul).map(move |u| (b.offset + u * dim, dim, invariant(b.irrep)))
        };
        self.0.blocks().flat_map(of).collect()
    }

    fn __str__(&self) -> String {
        self.0.to_string()
    }

    fn __repr__(&self) -> String {
        format!("Irreps('{}')", self.0)
    }

    fn __getnewargs__(&self) -> (String,) {
        (self.0.to_string(),)
    }
}

fn degree(l: usize) -> Result<usize> {
    if l > L_MAX { Err(DegreeError { l }.into()) } else { Ok(l) }
}

fn count(n: usize) -> Result<usize> {
    if n <= MAX_ROTATIONS {
        return Ok(n);
    }
    Err(Failure::argument(format!("n: expected at most {MAX_ROTATIONS} rotations, found {n}")))
}

/// Y_0 to Y_lmax at points (n, 3), as (n, (lmax + 1)²).
#[pyfunction]
pub(crate) fn harmonics<'py>(
    py: Python<'py>,
    lmax: usize,
    points: PyReadonlyArrayDyn<'_, f64>,
    normalization: &str,
) -> Result<Array<'py>> {
    let normalization = match normalization {
        "component" => Normalization::Component,
        "integral" => Normalization::Integral,
        "norm" => Normalization::Norm,
        found => {
            return Err(Failure::argument(format!(
                "normalization: expected component, integral or norm, found {found}"
            )));
        }
    };
    let points = triples("points", &points)?;
    let harmonics = SphericalHarmonics::<f64>::new(degree(lmax)?, normalization)?;
    let _room = room::<f64>("points", &[points.len(), harmonics.dim()])?;
    let values = compute(py, || harmonics.eval_batch(&points));
    array(py, values, &[points.len(), harmonics.dim()])
}

/// D_l of rotations (n, 3, 3), as (n, 2l + 1, 2l + 1).
#[pyfunction]
pub(crate) fn wigner_d<'py>(
    py: Python<'py>,
    l: usize,
    matrices: PyReadonlyArrayDyn<'_, f64>,
) -> Result<Array<'py>> {
    let (l, rotations) = (degree(l)?, rotations(&matrices)?);
    let dim = 2 * l + 1;
    let _room = room::<f64>("matrices", &[rotations.len(), wigner_d_len(l) + dim * dim])?;
    let all = compute(py, || wigner_d_batch(l, &rotations))?;
    let each = all.chunks_exact((all.len() / rotations.len().max(1)).max(1));
    let values = each.flat_map(|all| all[all.len() - dim * dim..].to_vec()).collect();
    array(py, values, &[rotations.len(), dim, dim])
}

/// The Clebsch-Gordan tensor (2 l1 + 1, 2 l2 + 1, 2 l3 + 1).
#[pyfunction]
pub(crate) fn clebsch_gordan(py: Python<'_>, l1: usize, l2: usize, l3: usize) -> Result<Array<'_>> {
    let tensor = so3::clebsch_gordan(degree(l1)?, degree(l2)?, degree(l3)?);
    array(py, tensor.dense().to_vec(), &tensor.shape())
}

/// Uniform random rotations.
#[pyfunction]
pub(crate) fn random_rotations(py: Python<'_>, n: usize, seed: u64) -> Result<Array<'_>> {
    let _room = room::<f64>("n", &[NUMBERS, count(n)?])?;
    matrices(py, &so3::random_rotations(seed, n))
}

/// Evenly spread rotations.
#[pyfunction]
pub(crate) fn even_rotations(py: Python<'_>, n: usize) -> Result<Array<'_>> {
    let _room = room::<f64>("n", &[NUMBERS, count(n)?])?;
    matrices(py, &sampling::super_fibonacci(n))
}

/// The Hopf grid of 72 nside³ rotations.
#[pyfunction]
pub(crate) fn hopf_grid(py: Python<'_>, nside: usize) -> Result<Array<'_>> {
    if !(1..=64).contains(&nside) {
        return Err(Failure::argument(format!("nside: expected 1 to 64, found {nside}")));
    }
    let _room = room::<f64>("nside", &[NUMBERS, 72, nside.pow(3)])?;
    matrices(py, &sampling::hopf_grid(nside))
}

/// The rotations of a group.
#[pyfunction]
pub(crate) fn point_group<'py>(py: Python<'py>, name: &str) -> Result<Array<'py>> {
    let group = match name {
        "tetrahedron" => tetrahedral_group(),
        "cube" => cube_group(),
        "icosahedron" => icosahedral_group(),
        found => {
            return Err(Failure::argument(format!(
                "group: expected tetrahedron, cube or icosahedron, found {found}"
            )));
        }
    };
    matrices(py, &group)
}
