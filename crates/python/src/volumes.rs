use std::path::PathBuf;

use numpy::{PyArrayDyn, PyReadonlyArrayDyn};
use pyo3::prelude::*;
use pyo3::types::PyDict;
use steer3d::formats::{self, FileContents, Voxels, write_volume};
use steer3d::volume::molecule::Molecule;
use steer3d::volume::{
    Gaussian, Grid, Interpolation, MAX_VALUES, Mesh, MeshField, MeshVoxeliser, Normalisation,
    PointCloud, Volume, VolumeError, change_voxel_size, checked_len, rotate_into, translate_into,
};

use crate::arrays::{array, irreps, room, rotation, sizes, slice, triples};
use crate::errors::{Failure, Result};
use crate::threads::compute;

type Values<'py> = Bound<'py, PyArrayDyn<f32>>;
type Given<'a, T = f32> = PyReadonlyArrayDyn<'a, T>;
/// Values C,D,H,W, voxel size and origin x, y, z.
type Placed<'py> = (Values<'py>, [f64; 3], [f64; 3]);

fn channels_and_grid(x: &Given<'_>, voxel_size: [f64; 3]) -> Result<(usize, Grid)> {
    let [channels, d, h, w] = sizes("volume", "C,D,H,W", x)?;
    Ok((channels, Grid::new([d, h, w], voxel_size)?))
}

fn volume(x: &Given<'_>, voxel_size: [f64; 3], origin: Option<[f64; 3]>) -> Result<Volume> {
    let ((channels, grid), values) =
        (channels_and_grid(x, voxel_size)?, slice("volume", x)?.to_vec());
    Ok(match origin {
        Some(origin) => Volume::new(values, channels, grid, origin)?,
        None => Volume::centred(values, channels, grid)?,
    })
}

fn placed(py: Python<'_>, volume: Volume) -> Result<Placed<'_>> {
    let ([d, h, w], channels) = (volume.dims(), volume.channels());
    let (size, origin) = (volume.voxel_size(), volume.origin());
    Ok((array(py, volume.into_data(), &[channels, d, h, w])?, size, origin))
}

/// An array C,D,H,W that `fill` writes all values of.
fn filled<'py>(
    py: Python<'py>,
    channels: usize,
    grid: &Grid,
    fill: impl FnOnce(&mut [f32]) -> std::result::Result<(), VolumeError> + Send,
) -> Result<Values<'py>> {
    let ([d, h, w], len) = (grid.dims(), checked_len(channels, grid.dims())?);
    // The values, and the coefficients that they may be made from.
    let _room = room::<f32>("volume", &[2, len])?;
    let mut values = vec![0.0; len];
    compute(py, || fill(&mut values))?;
    array(py, values, &[channels, d, h, w])
}

/// What a file of any known format holds, as a dictionary.
#[pyfunction]
pub(crate) fn read(py: Python<'_>, path: PathBuf) -> Result<Bound<'_, PyDict>> {
    let found = PyDict::new(py);
    match compute(py, || formats::read(&path))? {
        FileContents::Volume(volume) => {
            let (values, size, origin) = placed(py, volume)?;
            found.set_item("volume", (values, size, origin))?;
        }
        FileContents::Mesh(mesh) => {
            let vertices = mesh.vertices().as_flattened().to_vec();
            let triangles = mesh.triangles().as_flattened().to_vec();
            let sizes = [mesh.vertices().len(), mesh.triangles().len()];
            let mesh =
                (array(py, vertices, &[sizes[0], 3])?, array(py, triangles, &[sizes[1], 3])?);
            found.set_item("mesh", mesh)?;
        }
        FileContents::Molecules(all) => {
            let all = all.iter().map(|molecule| columns(py, molecule));
            found.set_item("molecules", all.collect::<Result<Vec<_>>>()?)?;
        }
    }
    Ok(found)
}

/// The atoms of a molecule as columns.
fn columns<'py>(py: Python<'py>, molecule: &Molecule) -> Result<Bound<'py, PyDict>> {
    let (all, atoms) = (PyDict::new(py), &molecule.atoms);
    let positions: Vec<f64> = atoms.iter().flat_map(|atom| atom.position).collect();
    all.set_item("name", &molecule.name)?;
    all.set_item("positions", array(py, positions, &[atoms.len(), 3])?)?;
    let elements: Vec<u8> = atoms.iter().map(|atom| atom.element).collect();
    all.set_item("elements", array(py, elements, &[atoms.len()])?)?;
    all.set_item("names", atoms.iter().map(|a| a.name.as_str()).collect::<Vec<_>>())?;
    all.set_item("residues", atoms.iter().map(|a| a.residue.as_str()).collect::<Vec<_>>())?;
    all.set_item("residue_numbers", atoms.iter().map(|a| a.residue_number).collect::<Vec<_>>())?;
    all.set_item("chains", atoms.iter().map(|a| a.chain.as_str()).collect::<Vec<_>>())?;
    let numbers = |of: fn(&steer3d::volume::molecule::Atom) -> f64| {
        array(py, atoms.iter().map(of).collect(), &[atoms.len()])
    };
    all.set_item("occupancies", numbers(|atom| atom.occupancy)?)?;
    all.set_item("b_factors", numbers(|atom| atom.b_factor)?)?;
    all.set_item("charges", numbers(|atom| atom.charge)?)?;
    all.set_item("properties", molecule.properties.clone())?;
    Ok(all)
}

/// Writes a volume.
#[pyfunction]
pub(crate) fn write(
    py: Python<'_>,
    path: PathBuf,
    x: Given<'_>,
    voxel_size: [f64; 3],
    origin: Option<[f64; 3]>,
    labels: bool,
) -> Result<()> {
    let volume = volume(&x, voxel_size, origin)?;
    let largest = volume.data().iter().copied().fold(0.0, f32::max);
    let voxels = if labels { Voxels::Labels(largest as usize + 1) } else { Voxels::Values };
    Ok(compute(py, || write_volume(&path, &volume, voxels))?)
}

/// A field turned about the centre of its grid.
#[pyfunction]
pub(crate) fn rotate<'py>(
    py: Python<'py>,
    x: Given<'_>,
    voxel_size: [f64; 3],
    by: Given<'_, f64>,
    kind: &Bound<'_, PyAny>,
    interpolation: &str,
) -> Result<Values<'py>> {
    let ((channels, grid), source) = (channels_and_grid(&x, voxel_size)?, slice("volume", &x)?);
    let (by, kind) = (rotation(&by)?, irreps(kind)?);
    let interpolation: Interpolation = interpolation.parse()?;
    filled(py, channels, &grid, |target| {
        rotate_into(source, &grid, &kind, &by, interpolation, target)
    })
}

/// A field moved by x, y, z voxels.
#[pyfunction]
pub(crate) fn translate<'py>(
    py: Python<'py>,
    x: Given<'_>,
    shift: [f64; 3],
    interpolation: &str,
) -> Result<Values<'py>> {
    let ((channels, grid), source) = (channels_and_grid(&x, [1.0; 3])?, slice("volume", &x)?);
    let interpolation: Interpolation = interpolation.parse()?;
    filled(py, channels, &grid, |target| {
        translate_into(source, &grid, shift, interpolation, target)
    })
}

/// A volume with voxels of another size about the same centre.
#[pyfunction]
pub(crate) fn resample<'py>(
    py: Python<'py>,
    x: Given<'_>,
    voxel_size: [f64; 3],
    origin: Option<[f64; 3]>,
    size: [f64; 3],
    interpolation: &str,
) -> Result<Placed<'py>> {
    let (volume, interpolation) = (volume(&x, voxel_size, origin)?, interpolation.parse()?);
    let growth = (0..3).map(|i| voxel_size[i] / size[i]).product::<f64>();
    // Larger results are refused for their size.
    let len = Some(growth * volume.data().len() as f64).filter(|len| *len <= MAX_VALUES as f64);
    let _room = room::<f32>("voxel_size", &[2, len.map_or(0, |len| len as usize)])?;
    placed(py, compute(py, || change_voxel_size(&volume, size, interpolation))?)
}

/// A Gaussian for each point.
#[pyfunction]
#[allow(clippy::too_many_arguments)]
pub(crate) fn voxelise_points<'py>(
    py: Python<'py>,
    positions: Given<'_, f64>,
    channels: Given<'_, u16>,
    count: usize,
    by: Given<'_, f64>,
    dims: [usize; 3],
    voxel_size: [f64; 3],
    sigma: f64,
    cutoff: f64,
    normalisation: &str,
) -> Result<Values<'py>> {
    let normalisation = match normalisation {
        "grid_sum" => Normalisation::GridSum,
        "integral" => Normalisation::Integral,
        found => {
            return Err(Failure::argument(format!(
                "normalisation: expected grid_sum or integral, found {found}"
            )));
        }
    };
    let cloud =
        PointCloud::new(triples("positions", &positions)?, slice("channels", &channels)?.to_vec())?;
    let (grid, by) = (Grid::new(dims, voxel_size)?, rotation(&by)?);
    let gaussian = Gaussian { sigma, cutoff: cutoff * sigma, normalisation };
    filled(py, count, &grid, |target| gaussian.density_into(&cloud, &by, None, &grid, target))
}

/// A mesh on a cubic grid about (0, 0, 0).
#[pyfunction]
pub(crate) fn voxelise_mesh<'py>(
    py: Python<'py>,
    vertices: Given<'_, f64>,
    triangles: Given<'_, u32>,
    by: Given<'_, f64>,
    size: usize,
    voxel_size: f64,
    field: &str,
) -> Result<Placed<'py>> {
    let field: MeshField = serde_json::from_value(field.into())?;
    let [_, three] = sizes("triangles", "(n, 3)", &triangles)?;
    if three != 3 {
        return Err(Failure::argument(format!(
            "triangles: expected an array (n, 3), found (n, {three})"
        )));
    }
    let triangles = slice("triangles", &triangles)?.as_chunks().0.to_vec();
    let mesh = Mesh::new(triples("vertices", &vertices)?, triangles)?;
    let (voxeliser, by) = (MeshVoxeliser::new(size, voxel_size, field), rotation(&by)?);
    let voxels = voxeliser.grid()?.voxels();
    let _room = room::<f32>("size", &[2, voxeliser.channels(), voxels])?;
    placed(py, compute(py, || voxeliser.voxelise(&mesh, &by))?)
}
