//! An overview of a dataset.

use rayon::prelude::*;
use serde::Serialize;

use crate::error::{Context, DatasetError};
use crate::meta::{DatasetMeta, Grids, Split};
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

/// How far the grids of items go, each axis by itself.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct GridRanges {
    /// Least and most voxels D, H, W.
    pub dims: [[usize; 3]; 2],
    /// Smallest and largest edges of a voxel x, y, z.
    pub voxel_size: [[f64; 3]; 2],
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
    /// Least and most voxels D, H, W of an item along each axis, and smallest and largest voxel size x, y, z, where each
    /// item has its own grid.
    pub grids: Option<GridRanges>,
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

    fn grid_ranges(&self) -> GridRanges {
        let of = |item| (self.grid(item).dims(), self.grid(item).voxel_size());
        let (dims, size) = of(0);
        let mut ranges = GridRanges { dims: [dims; 2], voxel_size: [size; 2] };
        for (dims, size) in (1..self.len()).map(of) {
            for axis in 0..3 {
                let [least, most] = &mut ranges.dims;
                least[axis] = least[axis].min(dims[axis]);
                most[axis] = most[axis].max(dims[axis]);
                let [smallest, largest] = &mut ranges.voxel_size;
                smallest[axis] = smallest[axis].min(size[axis]);
                largest[axis] = largest[axis].max(size[axis]);
            }
        }
        ranges
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
        let values: usize = (0..self.len()).map(|item| self.item_len(item)).sum();
        let values = values as f64;
        let file = std::fs::metadata(self.path());
        Ok(Summary {
            schema_version: self.meta().grids.version(),
            meta: self.meta().clone(),
            recipe: self.meta().recipe.clone(),
            items: self.len(),
            splits: splits.to_vec(),
            grids: (self.meta().grids == Grids::Each).then(|| self.grid_ranges()),
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
