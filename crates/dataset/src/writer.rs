//! Writing datasets.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use hdf5::types::{FixedAscii, FixedUnicode};
use steer3d_files::persist;
use steer3d_volume::points::PointCloud;
use steer3d_volume::volume::Volume;
use tempfile::NamedTempFile;

use crate::columns::{self, DatasetFile, ItemRows, Rows, file_beside};
use crate::columns::{MAX_ID_BYTES, MAX_ITEMS, MAX_META_BYTES, MAX_POINTS, MAX_SOURCE_BYTES};
use crate::error::{Context, DatasetError};
use crate::item::{Item, Parts, dims_of, row_of};
use crate::meta::{DatasetMeta, FORMAT_NAME, Grids, Skipped, Split, Storage, Tasks};
use crate::reader::Dataset;

/// Writes a dataset item by item into a temporary file, which takes the place of `path` only when
/// [`DatasetWriter::finish`] has flushed it to disk. Dropped before, it leaves `path` as it was.
/// The same items give the same bytes.
#[derive(Debug)]
pub struct DatasetWriter {
    meta: DatasetMeta,
    tasks: Option<Tasks>,
    temporary: NamedTempFile,
    file: DatasetFile,
    items: usize,
    /// Voxels so far, where each item has its own grid.
    voxels: usize,
    parts: Option<Parts>,
    rows: ItemRows,
    targets: Option<Rows<f64>>,
    voxel_labels: Rows<u8>,
    volumes: Rows<f32>,
    volumes_of_bytes: Rows<u8>,
}

/// Puts the 0 with which offsets begin.
fn begin(file: &DatasetFile, offsets: &mut Rows<u64>) -> Result<(), DatasetError> {
    if offsets.len() == 0 { offsets.push(file, &[0]) } else { Ok(()) }
}

/// A checked text as stored.
fn fixed<const BYTES: usize>(text: &str) -> FixedUnicode<BYTES> {
    FixedUnicode::from_str(text).expect("DatasetWriter::check has checked its length")
}

impl DatasetWriter {
    /// Begins a dataset that will lie at `path`.
    ///
    /// # Errors
    /// If the description is inconsistent or the folder cannot be written.
    pub fn create(path: impl Into<PathBuf>, meta: DatasetMeta) -> Result<Self, DatasetError> {
        let path = path.into();
        meta.check().map_err(|source| DatasetError::Meta { path: path.clone(), source })?;
        let (file, temporary) = file_beside(&path)?;
        Ok(Self {
            targets: None,
            voxel_labels: Rows::new(columns::voxel_labels(&meta)),
            volumes: Rows::new(columns::volumes(&meta)),
            volumes_of_bytes: Rows::new(columns::volumes(&meta)),
            rows: ItemRows::new(),
            file: DatasetFile { file, path },
            items: 0,
            voxels: 0,
            parts: None,
            tasks: None,
            temporary,
            meta,
        })
    }

    /// [`DatasetWriter::create`], with tasks if there are some.
    pub(crate) fn of(
        path: &Path,
        meta: DatasetMeta,
        tasks: Option<&Tasks>,
    ) -> Result<Self, DatasetError> {
        let writer = Self::create(path, meta)?;
        match tasks {
            Some(tasks) => writer.with_tasks(tasks.clone()),
            None => Ok(writer),
        }
    }

    /// Asks for what [`Tasks`] says of every item, before the first one is pushed.
    ///
    /// # Errors
    /// If the tasks are none or more than the limits allow.
    pub fn with_tasks(mut self, tasks: Tasks) -> Result<Self, DatasetError> {
        if let Some((field, expected, found)) = tasks.fault() {
            return self.wrong(field, expected, found);
        }
        let each = tasks.target_len();
        self.targets = (each > 0).then(|| Rows::new(columns::targets(each)));
        self.tasks = Some(tasks);
        Ok(self)
    }

    /// Appends an item.
    ///
    /// # Errors
    /// If the item does not fit the description (shape, voxel size, label, identifier, parts that
    /// only some items have, values that [`Storage::U8`] cannot hold), or the disk is full.
    pub fn push(&mut self, item: &Item<'_>) -> Result<(), DatasetError> {
        self.check(item)?;
        let stored = self.stored(item)?;
        self.parts.get_or_insert(item.parts());
        let origin = item.volume.map_or_else(|| self.meta.centred_origin(), Volume::origin);
        let own_grid = item.volume.map(Volume::grid).filter(|_| self.meta.grids == Grids::Each);
        let sum = item.checksum(&origin, &stored, self.tasks.is_some(), own_grid.as_ref());
        let (file, rows) = (&self.file, &mut self.rows);
        rows.labels.push(file, &[item.label])?;
        rows.splits.push(file, &[item.split as u8])?;
        rows.ids.push(file, &[fixed(item.id)])?;
        rows.origins.push(file, &origin)?;
        rows.checksums.push(file, &sum)?;
        if let Some(targets) = &mut self.targets {
            targets.push(file, item.targets)?;
        }
        if !item.voxel_labels.is_empty() {
            self.voxel_labels.push(file, item.voxel_labels)?;
        }
        match (item.volume, self.meta.storage) {
            (Some(volume), Storage::F32) => self.volumes.push(file, volume.data())?,
            (Some(_), Storage::U8 { .. }) => self.volumes_of_bytes.push(file, &stored)?,
            (None, _) => {}
        }
        if let Some(grid) = own_grid {
            begin(file, &mut rows.voxel_offsets)?;
            rows.grid_dims.push(file, &dims_of(&grid))?;
            rows.voxel_sizes.push(file, &grid.voxel_size())?;
            rows.directions.push(file, &item.direction_rows())?;
            self.voxels += grid.voxels();
            rows.voxel_offsets.push(file, &[self.voxels as u64])?;
            if self.items == 0 || grid.voxels() > self.meta.dims.iter().product() {
                (self.meta.dims, self.meta.voxel_size) = (grid.dims(), grid.voxel_size());
            }
        }
        if let Some(group) = item.group {
            rows.groups.push(file, &[fixed(group)])?;
        }
        if let Some(source) = item.source {
            rows.sources.push(file, &[fixed(source)])?;
        }
        if let Some(cloud) = item.points {
            let (degrees, values): (Vec<u8>, Vec<[f64; 3]>) =
                (0..cloud.len()).map(|point| row_of(cloud.value(point))).unzip();
            begin(file, &mut rows.point_offsets)?;
            rows.positions.push(file, cloud.positions().as_flattened())?;
            rows.channels.push(file, cloud.channels())?;
            rows.degrees.push(file, &degrees)?;
            rows.values.push(file, values.as_flattened())?;
            rows.point_offsets.push(file, &[rows.positions.len() as u64])?;
        }
        if let Some(mesh) = item.mesh {
            begin(file, &mut rows.vertex_offsets)?;
            begin(file, &mut rows.triangle_offsets)?;
            rows.vertices.push(file, mesh.vertices().as_flattened())?;
            rows.triangles.push(file, mesh.triangles().as_flattened())?;
            rows.vertex_offsets.push(file, &[rows.vertices.len() as u64])?;
            rows.triangle_offsets.push(file, &[rows.triangles.len() as u64])?;
        }
        self.items += 1;
        Ok(())
    }

    /// Appends an item of another dataset, in this split and group.
    pub(crate) fn copy(
        &mut self,
        data: &Dataset,
        item: usize,
        split: Split,
        group: Option<&str>,
    ) -> Result<(), DatasetError> {
        let volume = data.has_volumes().then(|| data.read(item)).transpose()?;
        let (points, mesh) = (data.points(item)?, data.mesh(item)?);
        self.push(&Item {
            volume: volume.as_ref(),
            direction: Some(&data.direction(item)),
            label: data.labels()[item],
            split,
            id: &data.ids()[item],
            group,
            source: data.sources().map(|sources| sources[item].as_str()),
            points: points.as_ref(),
            mesh: mesh.as_ref(),
            targets: data.targets(item),
            voxel_labels: &data.voxel_labels(item)?,
        })
    }

    /// Writes what is left, flushes the file to disk and renames it to its path.
    ///
    /// # Errors
    /// If no item was pushed or the disk is full.
    pub fn finish(self) -> Result<(), DatasetError> {
        self.finish_with(&[])
    }

    /// [`DatasetWriter::finish`] with a record of the files that were left out.
    ///
    /// # Errors
    /// As [`DatasetWriter::finish`].
    pub fn finish_with(self, skipped: &[Skipped]) -> Result<(), DatasetError> {
        if self.items == 0 {
            return self.wrong("items", "at least one", "none");
        }
        let meta = self.meta.to_json();
        if meta.len() > MAX_META_BYTES {
            let found = format!("{} bytes", meta.len());
            return self.wrong("meta", format!("at most {MAX_META_BYTES} bytes"), found);
        }
        let file = self.file;
        let json = "plain data have a JSON form";
        file.write(columns::META, &meta)?;
        if let Some(recipe) = &self.meta.recipe {
            file.write(columns::RECIPE, &serde_json::to_vec(recipe).expect(json))?;
        }
        if !skipped.is_empty() {
            file.write(columns::SKIPPED, &serde_json::to_vec(skipped).expect(json))?;
        }
        self.rows.finish(&file)?;
        self.voxel_labels.finish(&file)?;
        self.volumes.finish(&file)?;
        self.volumes_of_bytes.finish(&file)?;
        if let Some(targets) = self.targets {
            targets.finish(&file)?;
        }
        if let Some(tasks) = self.tasks {
            file.write(columns::TASKS, &serde_json::to_vec(&tasks).expect(json))?;
        }
        let DatasetFile { file, path } = file;
        write_root_attributes(&file, self.meta.grids.version()).at(&path, "/")?;
        file.close().at(&path, "/")?;
        persist(self.temporary, &path).at(&path, "")
    }

    /// Checks an item against the description.
    fn check(&self, item: &Item<'_>) -> Result<(), DatasetError> {
        let meta = &self.meta;
        if self.items >= MAX_ITEMS {
            let expected = format!("at most {MAX_ITEMS}");
            return self.wrong("items", expected, "more");
        }
        if let Some(volume) = item.volume {
            self.check_volume(volume)?;
        }
        if item.label as usize >= meta.label_end() {
            let expected = format!("a label below {}", meta.label_end());
            return self.wrong("label", expected, item.label.to_string());
        }
        let parts = item.parts();
        for ((name, has), (_, first)) in parts.iter().zip(self.parts.unwrap_or(parts)) {
            if *has != first {
                let expected = format!("a {name} for all items or for none");
                return self.wrong(name, expected, "a mixture");
            }
        }
        let made = meta.voxeliser.is_some() && item.points.is_some() || item.mesh.is_some();
        if item.volume.is_none() && (!made || meta.grids == Grids::Each) {
            let expected = "a volume, points with a voxeliser, or a mesh";
            return self.wrong("volume", expected, "none");
        }
        self.check_tasks(item)?;
        self.check_sources(item)?;
        self.check_text("id", item.id, 1, MAX_ID_BYTES)?;
        self.check_text("group", item.group.unwrap_or_default(), 0, MAX_ID_BYTES)?;
        self.check_text("source", item.source.unwrap_or_default(), 0, MAX_SOURCE_BYTES)
    }

    fn check_volume(&self, volume: &Volume) -> Result<(), DatasetError> {
        let meta = &self.meta;
        let own = meta.grids == Grids::Each;
        let dims = if own { volume.dims() } else { meta.dims };
        let shape = (volume.channels(), volume.dims());
        if shape != (meta.channels, dims) {
            let expected = format!("{} channels of {dims:?}", meta.channels);
            let found = format!("{} channels of {:?}", shape.0, shape.1);
            return self.wrong("volume (D, H, W)", expected, found);
        }
        if !own && volume.voxel_size() != meta.voxel_size {
            let expected = format!("{:?}", meta.voxel_size);
            let found = format!("{:?}", volume.voxel_size());
            return self.wrong("voxel size", expected, found);
        }
        Ok(())
    }

    fn check_tasks(&self, item: &Item<'_>) -> Result<(), DatasetError> {
        let none = Tasks::default();
        let tasks = self.tasks.as_ref().unwrap_or(&none);
        let voxels = item.volume.map_or(self.meta.dims.iter().product(), |v| v.grid().voxels());
        let labels = if tasks.voxel_classes.is_empty() { 0 } else { voxels };
        let targets = tasks.target_len();
        let (found_targets, found_labels) = (item.targets.len(), item.voxel_labels.len());
        if found_targets != targets {
            let expected = format!("{targets} values");
            return self.wrong("targets", expected, found_targets.to_string());
        }
        if let Some(x) = item.targets.iter().find(|x| !x.is_finite()) {
            return self.wrong("targets", "finite numbers", x.to_string());
        }
        if found_labels != labels {
            let expected = format!("{labels} labels");
            return self.wrong("voxel labels", expected, found_labels.to_string());
        }
        let classes = tasks.voxel_classes.len();
        match item.voxel_labels.iter().find(|&&label| usize::from(label) >= classes) {
            None => Ok(()),
            Some(label) => {
                let expected = format!("labels below {classes}");
                self.wrong("voxel labels", expected, label.to_string())
            }
        }
    }

    fn check_sources(&self, item: &Item<'_>) -> Result<(), DatasetError> {
        let rows = &self.rows;
        let after = [
            rows.positions.len() + item.points.map_or(0, PointCloud::len),
            rows.vertices.len() + item.mesh.map_or(0, |mesh| mesh.vertices().len()),
            rows.triangles.len() + item.mesh.map_or(0, |mesh| mesh.triangles().len()),
        ];
        if after.iter().any(|&count| count > MAX_POINTS) {
            let expected = format!("at most {MAX_POINTS} in all");
            return self.wrong("points", expected, "more");
        }
        let beyond = item.points.and_then(|cloud| cloud.channel_beyond(self.meta.channels));
        if let Some(channel) = beyond {
            let expected = format!("a channel below {}", self.meta.channels);
            return self.wrong("points", expected, channel.to_string());
        }
        Ok(())
    }

    fn check_text(
        &self,
        field: &'static str,
        text: &str,
        min: usize,
        max: usize,
    ) -> Result<(), DatasetError> {
        if (min..=max).contains(&text.len()) && !text.chars().any(char::is_control) {
            return Ok(());
        }
        let expected = format!("{min} to {max} bytes without control characters");
        self.wrong(field, expected, format!("{text:?}"))
    }

    fn wrong<T>(
        &self,
        field: &'static str,
        expected: impl Into<String>,
        found: impl Into<String>,
    ) -> Result<T, DatasetError> {
        let (path, item) = (self.file.path.clone(), self.items);
        Err(DatasetError::Item {
            path,
            item,
            field,
            expected: expected.into(),
            found: found.into(),
        })
    }

    /// The values of the volume as stored, little-endian; empty if there is no volume.
    fn stored(&self, item: &Item<'_>) -> Result<Vec<u8>, DatasetError> {
        let values = item.volume.map_or(&[][..], Volume::data);
        match self.meta.storage {
            Storage::F32 => Ok(values.iter().flat_map(|value| value.to_le_bytes()).collect()),
            Storage::U8 { scale } => {
                values.iter().map(|&value| self.to_byte(scale, value)).collect()
            }
        }
    }

    fn to_byte(&self, scale: f64, value: f32) -> Result<u8, DatasetError> {
        let byte = (f64::from(value) / scale).round();
        let exact = (byte * scale) as f32 == value;
        if exact && (0.0..=255.0).contains(&byte) {
            return Ok(byte as u8);
        }
        self.wrong("value", format!("a byte times {scale}"), value.to_string())
    }
}

fn write_root_attributes(file: &hdf5::File, version: u32) -> hdf5::Result<()> {
    let name = FixedAscii::<{ FORMAT_NAME.len() }>::from_ascii(FORMAT_NAME)
        .map_err(|error| hdf5::Error::from(error.to_string()))?;
    file.new_attr::<FixedAscii<{ FORMAT_NAME.len() }>>().create("format")?.write_scalar(&name)?;
    file.new_attr::<u32>().create("schema_version")?.write_scalar(&version)
}
