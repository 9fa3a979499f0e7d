//! An overview of a dataset.

use rayon::prelude::*;
use serde::Serialize;

use crate::error::{Context, DatasetError};
use crate::meta::{DatasetMeta, SCHEMA_VERSION, Split};
use crate::reader::Dataset;

/// Items of one split.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SplitSummary {
    /// The split.
    pub split: Split,
    /// Number of items.
    pub items: usize,
    /// Number of items of each class.
    pub per_class: Vec<usize>,
}

/// What `steer3d dataset inspect` shows.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Summary {
    /// Version of the schema.
    pub schema_version: u32,
    /// The description.
    pub meta: DatasetMeta,
    /// Number of items.
    pub items: usize,
    /// Items by split, those without items included.
    pub splits: Vec<SplitSummary>,
    /// Are points stored?
    pub points: bool,
    /// What is stored beside the labels: volumes, points, meshes, groups, sources,
    /// checksums, targets, voxel labels.
    pub stored: Vec<&'static str>,
    /// Files that the build left out.
    pub skipped: usize,
    /// Smallest value.
    pub min: f32,
    /// Largest value.
    pub max: f32,
    /// Mean value.
    pub mean: f64,
    /// Share of values that are not zero.
    pub occupancy: f64,
    /// Size of the file in bytes.
    pub file_bytes: u64,
    /// Size of all values as `f32`, in bytes.
    pub value_bytes: u64,
}

impl Dataset {
    /// Minimum, maximum, sum and number of non-zeros of an item.
    fn measure(&self, item: usize) -> Result<(f32, f32, f64, usize), DatasetError> {
        let volume = self.read(item)?;
        let values = volume.data().iter();
        Ok(values.fold((f32::INFINITY, f32::NEG_INFINITY, 0.0, 0), |(min, max, sum, n), &v| {
            (min.min(v), max.max(v), sum + f64::from(v), n + usize::from(v != 0.0))
        }))
    }

    fn stored_parts(&self) -> Vec<&'static str> {
        let parts = [
            ("volumes", self.has_volumes()),
            ("points", self.has_points()),
            ("meshes", self.has_meshes()),
            ("groups", self.groups().is_some()),
            ("sources", self.sources().is_some()),
            ("checksums", self.checksums().is_some()),
            ("targets", self.tasks().is_some_and(|tasks| tasks.targets.is_some())),
            ("voxel labels", self.tasks().is_some_and(|tasks| !tasks.voxel_classes.is_empty())),
        ];
        parts.into_iter().filter(|part| part.1).map(|part| part.0).collect()
    }

    /// Reads every volume once, and so checks them all.
    ///
    /// # Errors
    /// As [`Dataset::read`].
    pub fn summary(&self) -> Result<Summary, DatasetError> {
        let of_items: Vec<_> =
            (0..self.len()).into_par_iter().map(|i| self.measure(i)).collect::<Result<_, _>>()?;
        let (mut min, mut max) = (f32::INFINITY, f32::NEG_INFINITY);
        let (mut sum, mut nonzero) = (0.0, 0usize);
        for (item_min, item_max, item_sum, item_nonzero) in of_items {
            min = min.min(item_min);
            max = max.max(item_max);
            sum += item_sum;
            nonzero += item_nonzero;
        }
        let splits = Split::ALL.map(|split| {
            let per_class = self.class_counts(split);
            SplitSummary { split, items: per_class.iter().sum(), per_class }
        });
        let values = (self.len() * self.meta().item_len()) as f64;
        let file = std::fs::metadata(self.path());
        Ok(Summary {
            schema_version: SCHEMA_VERSION,
            meta: self.meta().clone(),
            items: self.len(),
            splits: splits.to_vec(),
            points: self.has_points(),
            stored: self.stored_parts(),
            skipped: self.skipped().len(),
            min,
            max,
            mean: sum / values,
            occupancy: nonzero as f64 / values,
            file_bytes: file.at(self.path(), "")?.len(),
            value_bytes: values as u64 * 4,
        })
    }
}
