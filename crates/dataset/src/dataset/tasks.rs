//! What there is to predict beside the classes of items.

use hdf5::types::{IntSize, TypeDescriptor};
use serde::{Deserialize, Serialize};
use steer3d_so3::{Irreps, Rotation};

use super::chunks::Chunks;
use super::reader::Reader;
use super::{Context, Dataset, DatasetError, DatasetMeta, MAX_ITEMS, MAX_META_BYTES};
use steer3d_volume::resample::{Interpolation, rotate_into};

/// Largest number of target values of an item.
pub const MAX_TARGETS: usize = 1 << 16;

/// What there is to predict beside the classes of items: numbers, vectors or tensors for every item, labels
/// for every voxel.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tasks {
    /// How the target values of an item turn with it, `2x0` for two numbers, `1x1` for a vector x, y, z;
    /// `None` without targets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub targets: Option<Irreps>,
    /// Names of the labels of voxels, at most 256; empty without such labels.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub voxel_classes: Vec<String>,
}

impl Tasks {
    /// Target values of an item.
    pub fn target_len(&self) -> usize {
        self.targets.as_ref().map_or(0, Irreps::dim)
    }

    /// Labels of voxels of an item.
    pub(super) fn voxels(&self, meta: &DatasetMeta) -> usize {
        if self.voxel_classes.is_empty() { 0 } else { meta.dims.iter().product() }
    }

    /// What is wrong: the field, what it should be, what it is.
    pub(super) fn fault(&self) -> Option<(&'static str, String, String)> {
        if self.target_len() > MAX_TARGETS {
            let expected = format!("at most {MAX_TARGETS} values");
            return Some(("targets", expected, self.target_len().to_string()));
        }
        if self.voxel_classes.len() > 256 {
            let found = self.voxel_classes.len().to_string();
            return Some(("voxel classes", "at most 256".to_owned(), found));
        }
        let none = self.targets.is_none() && self.voxel_classes.is_empty();
        let expected = "targets, voxel classes or both".to_owned();
        none.then(|| ("tasks", expected, "neither".to_owned()))
    }
}

/// The targets and voxel labels of an open dataset.
#[derive(Debug)]
pub(super) struct Stored {
    tasks: Tasks,
    targets: Vec<f64>,
    voxel_labels: Option<(hdf5::Dataset, Option<Chunks>)>,
}

impl Stored {
    pub(super) fn open(
        file: &Reader,
        meta: &DatasetMeta,
        items: usize,
    ) -> Result<Self, DatasetError> {
        let json = file.list::<u8>("tasks", &[], MAX_META_BYTES, None)?;
        let tasks: Tasks = serde_json::from_slice(&json)
            .map_err(|e| file.malformed("tasks", "the JSON of FORMAT.md", e.to_string()))?;
        if let Some((_, expected, found)) = tasks.fault() {
            return Err(file.malformed("tasks", expected, found));
        }
        let targets = match tasks.target_len() {
            0 => vec![],
            1 => file.list::<f64>("targets", &[], MAX_ITEMS, Some(items))?,
            width => file.list::<f64>("targets", &[width], MAX_ITEMS, Some(items))?,
        };
        if let Some(x) = targets.iter().find(|x| !x.is_finite()) {
            return Err(file.malformed("targets", "finite numbers", x.to_string()));
        }
        let mut voxel_labels = None;
        if !tasks.voxel_classes.is_empty() {
            let byte = TypeDescriptor::Unsigned(IntSize::U1);
            let (dataset, found) = file.dataset("voxel_labels", &byte, &meta.dims, MAX_ITEMS)?;
            file.check_count("voxel_labels", items, found)?;
            let [d, h, w] = meta.dims;
            let chunks = Chunks::find(file.path(), &dataset, &[items, d, h, w]);
            voxel_labels = Some((dataset, chunks));
        }
        Ok(Self { tasks, targets, voxel_labels })
    }
}

impl Dataset {
    /// What there is to predict beside the classes of items, if there is something.
    pub fn tasks(&self) -> Option<&Tasks> {
        self.stored.as_ref().map(|stored| &stored.tasks)
    }

    /// The target values of an item as it is stored; none without targets.
    ///
    /// # Panics
    /// If there is no such item.
    pub fn targets(&self, item: usize) -> &[f64] {
        assert!(item < self.len(), "item {item} of {}", self.len());
        self.stored.as_ref().map_or(&[][..], |stored| {
            let width = stored.tasks.target_len();
            &stored.targets[item * width..][..width]
        })
    }

    /// Target values of an item after `rotation`.
    pub(crate) fn rotated_targets(&self, item: usize, rotation: &Rotation) -> Vec<f64> {
        let Some(irreps) = self.tasks().and_then(|tasks| tasks.targets.as_ref()) else {
            return vec![];
        };
        let values = nalgebra::DVector::from_column_slice(self.targets(item));
        (irreps.wigner_d(rotation) * values).as_slice().to_vec()
    }

    /// The labels of the voxels of an item, D × H × W; none without such labels.
    ///
    /// # Errors
    /// If there is no such item, the file is damaged, or a label is not below the number of classes.
    pub fn voxel_labels(&self, item: usize) -> Result<Vec<u8>, DatasetError> {
        self.check_item(item)?;
        let Some(stored) = &self.stored else { return Ok(vec![]) };
        let Some((dataset, chunks)) = &stored.voxel_labels else { return Ok(vec![]) };
        let labels = match chunks.as_ref().and_then(|chunks| chunks.read(item)) {
            Some(labels) => labels,
            None => {
                dataset
                    .read_slice::<u8, _, ndarray::Ix3>((item, .., .., ..))
                    .at(self.path(), "voxel_labels")?
                    .into_raw_vec_and_offset()
                    .0
            }
        };
        let classes = stored.tasks.voxel_classes.len();
        match labels.iter().find(|&&label| usize::from(label) >= classes) {
            None => Ok(labels),
            Some(label) => Err(DatasetError::Malformed {
                path: self.path().to_owned(),
                object: "voxel_labels".to_owned(),
                expected: format!("labels below {classes}"),
                found: format!("{label} in item {item}"),
            }),
        }
    }

    /// Labels of the voxels of an item after `rotation`: those of the nearest stored voxels, 0 outside.
    pub(crate) fn rotated_voxel_labels(
        &self,
        item: usize,
        rotation: &Rotation,
    ) -> Result<Vec<u8>, DatasetError> {
        let labels: Vec<f32> = self.voxel_labels(item)?.into_iter().map(f32::from).collect();
        if labels.is_empty() {
            return Ok(vec![]);
        }
        let at_item = |source| self.at_item(item, source);
        let grid = self.meta().grid().map_err(at_item)?;
        let scalar = Irreps::new([(1, steer3d_so3::Irrep::so3(0))]).expect("one scalar");
        let mut turned = vec![0.0; labels.len()];
        rotate_into(&labels, &grid, &scalar, rotation, Interpolation::Nearest, &mut turned)
            .map_err(at_item)?;
        Ok(turned.into_iter().map(|label| label as u8).collect())
    }
}
