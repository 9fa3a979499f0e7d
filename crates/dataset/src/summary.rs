//! An overview of a dataset.

use rayon::prelude::*;
use serde::Serialize;

use crate::error::{Context, DatasetError};
use crate::meta::{DatasetMeta, SCHEMA_VERSION, Split};
use crate::reader::Dataset;
use crate::recipe::Recipe;

/// Items of one split.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SplitSummary {
    /// The split.
    pub split: Split,
    /// Number of items.
    pub items: usize,
    /// Number of items of each class; empty without classes.
    pub per_class: Vec<usize>,
}

/// What `steer3d dataset inspect` shows.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Summary {
    /// Version of the schema.
    pub schema_version: u32,
    /// The description.
    pub meta: DatasetMeta,
    /// All that turns a file into such a volume, if that is known.
    pub recipe: Option<Recipe>,
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

/// What is told of the values of some volumes.
#[derive(Clone, Copy)]
struct ValueCounts {
    min: f32,
    max: f32,
    sum: f64,
    nonzero: usize,
}

impl ValueCounts {
    const NONE: Self = Self { min: f32::INFINITY, max: f32::NEG_INFINITY, sum: 0.0, nonzero: 0 };

    fn and(self, other: Self) -> Self {
        Self {
            min: self.min.min(other.min),
            max: self.max.max(other.max),
            sum: self.sum + other.sum,
            nonzero: self.nonzero + other.nonzero,
        }
    }
}

impl Dataset {
    fn measure(&self, item: usize) -> Result<ValueCounts, DatasetError> {
        let volume = self.read(item)?;
        let one = |&value: &f32| ValueCounts {
            min: value,
            max: value,
            sum: f64::from(value),
            nonzero: usize::from(value != 0.0),
        };
        Ok(volume.data().iter().map(one).fold(ValueCounts::NONE, ValueCounts::and))
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
        let batch = self.at_once().min(self.len());
        let mut all = ValueCounts::NONE;
        for start in (0..self.len()).step_by(batch) {
            let items = start..(start + batch).min(self.len());
            let measured: Vec<_> =
                items.into_par_iter().map(|i| self.measure(i)).collect::<Result<_, _>>()?;
            all = measured.into_iter().fold(all, ValueCounts::and);
        }
        let splits = Split::ALL.map(|split| {
            let per_class = self.class_counts(split);
            SplitSummary { split, items: self.indices(split).len(), per_class }
        });
        let values = (self.len() * self.meta().item_len()) as f64;
        let file = std::fs::metadata(self.path());
        Ok(Summary {
            schema_version: SCHEMA_VERSION,
            meta: self.meta().clone(),
            recipe: self.meta().recipe.clone(),
            items: self.len(),
            splits: splits.to_vec(),
            points: self.has_points(),
            stored: self.stored_parts(),
            skipped: self.skipped().len(),
            min: all.min,
            max: all.max,
            mean: all.sum / values,
            occupancy: all.nonzero as f64 / values,
            file_bytes: file.at(self.path(), "")?.len(),
            value_bytes: values as u64 * 4,
        })
    }
}
