use std::path::PathBuf;

use numpy::PyArrayDyn;
use pyo3::prelude::*;
use steer3d::dataset;

use crate::arrays::{array, room};
use crate::errors::{Failure, Result};
use crate::threads::compute;

/// An HDF5 dataset of volumes.
#[pyclass(frozen, module = "steer3d._native")]
pub(crate) struct Dataset(pub(crate) dataset::Dataset);

#[pymethods]
impl Dataset {
    #[new]
    fn new(py: Python<'_>, path: PathBuf) -> Result<Self> {
        Ok(Self(compute(py, || dataset::Dataset::open(path))?))
    }

    #[getter]
    fn path(&self) -> PathBuf {
        self.0.path().to_owned()
    }

    /// What is stored of all items together, as JSON.
    fn meta(&self) -> Result<String> {
        Ok(serde_json::to_string(self.0.meta())?)
    }

    /// What can be asked beside classes, as JSON.
    fn tasks(&self) -> Result<String> {
        Ok(serde_json::to_string(&self.0.tasks())?)
    }

    fn __len__(&self) -> usize {
        self.0.len()
    }

    fn labels<'py>(&self, py: Python<'py>) -> Result<Bound<'py, PyArrayDyn<u32>>> {
        array(py, self.0.labels().to_vec(), &[self.0.len()])
    }

    fn splits(&self) -> Vec<String> {
        self.0.splits().iter().map(ToString::to_string).collect()
    }

    fn ids(&self) -> Vec<String> {
        self.0.ids().to_vec()
    }

    /// The name, the label and the split of an item.
    fn named(&self, item: usize) -> Result<(String, u32, String)> {
        self.check(item)?;
        let split = self.0.splits()[item].to_string();
        Ok((self.0.ids()[item].clone(), self.0.labels()[item], split))
    }

    fn groups(&self) -> Option<Vec<String>> {
        self.0.groups().map(<[String]>::to_vec)
    }

    fn can_voxelise(&self) -> bool {
        self.0.can_voxelise()
    }

    fn check(&self, item: usize) -> Result<()> {
        if item < self.0.len() {
            return Ok(());
        }
        let problem = format!("item: expected a number below {}, found {item}", self.0.len());
        Err(Failure::argument(problem))
    }

    /// The volumes of items of one shape, as (items, C, D, H, W).
    fn read<'py>(&self, py: Python<'py>, items: Vec<usize>) -> Result<Bound<'py, PyArrayDyn<f32>>> {
        items.iter().try_for_each(|&item| self.check(item))?;
        let meta = self.0.meta();
        let [d, h, w] = match items.is_empty() {
            true => meta.dims,
            false => self.0.grid_of(&items)?.dims(),
        };
        let sizes = [items.len(), meta.channels, d, h, w];
        // What reads the file takes room of its own.
        drop(room::<f32>("items", &sizes)?);
        let mut values = vec![0.0; sizes.iter().product()];
        compute(py, || self.0.read_many(&items, &mut values))?;
        array(py, values, &sizes)
    }

    /// The target values of an item; none where the dataset has no targets.
    fn targets<'py>(&self, py: Python<'py>, item: usize) -> Result<Bound<'py, PyArrayDyn<f64>>> {
        self.check(item)?;
        let values = self.0.targets(item).to_vec();
        let len = values.len();
        array(py, values, &[len])
    }

    /// The labels of the voxels of an item, as (D, H, W).
    fn voxel_labels<'py>(
        &self,
        py: Python<'py>,
        item: usize,
    ) -> Result<Bound<'py, PyArrayDyn<u8>>> {
        self.check(item)?;
        let values = compute(py, || self.0.voxel_labels(item))?;
        let dims = if values.is_empty() { vec![0] } else { self.0.grid(item).dims().to_vec() };
        array(py, values, &dims)
    }
}
