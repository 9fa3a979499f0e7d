//! Writing datasets.

use std::path::PathBuf;
use std::str::FromStr;

use hdf5::file::LibraryVersion;
use hdf5::types::{FixedAscii, FixedUnicode};
use ndarray::{ArrayView3, ArrayView4};
use tempfile::NamedTempFile;

use super::checksum::{Content, checksum};
use super::rows::{Rows, create_dataset, write_list};
use super::tasks::Tasks;
use super::{
    Context, DatasetError, DatasetMeta, FORMAT_NAME, MAX_ID_BYTES, MAX_ITEMS, MAX_META_BYTES,
    MAX_POINTS, MAX_SOURCE_BYTES, SCHEMA_VERSION, Skipped, Split, Storage,
};
use steer3d_files::{persist, temporary_beside};
use steer3d_volume::mesh::Mesh;
use steer3d_volume::points::{PointCloud, PointValue};
use steer3d_volume::volume::Volume;

/// One item to be written. Volume, group, source, points and mesh are for all items or for none.
#[derive(Clone, Copy, Debug, Default)]
pub struct Item<'a> {
    /// The volume, of the channels, dims and voxel size of the dataset; without it, points and a
    /// voxeliser or a mesh must be there to make it from.
    pub volume: Option<&'a Volume>,
    /// Index of its class.
    pub label: u32,
    /// The split it belongs to.
    pub split: Split,
    /// Its identifier, of 1 to 64 bytes.
    pub id: &'a str,
    /// Items of one group belong in one split; at most 64 bytes, empty for none.
    pub group: Option<&'a str>,
    /// The file that it was made from, at most 512 bytes.
    pub source: Option<&'a str>,
    /// The points that the volume was made from.
    pub points: Option<&'a PointCloud>,
    /// The mesh that the volume was made from.
    pub mesh: Option<&'a Mesh>,
    /// The target values that the [`Tasks`] of the dataset ask for, else none.
    pub targets: &'a [f64],
    /// The labels of its voxels, D × H × W, if the [`Tasks`] of the dataset ask for them, else none.
    pub voxel_labels: &'a [u8],
}

impl Item<'_> {
    /// Which of the parts for all items or for none it has.
    fn parts(&self) -> [(&'static str, bool); 5] {
        [
            ("volume", self.volume.is_some()),
            ("group", self.group.is_some()),
            ("source", self.source.is_some()),
            ("points", self.points.is_some()),
            ("mesh", self.mesh.is_some()),
        ]
    }
}

/// Writes a dataset item by item into a temporary file, which takes the place of `path` only when
/// [`DatasetWriter::finish`] has flushed it to disk. Dropped before, it leaves `path` as it was.
/// The same items give the same bytes.
#[derive(Debug)]
pub struct DatasetWriter {
    path: PathBuf,
    meta: DatasetMeta,
    temporary: NamedTempFile,
    file: hdf5::File,
    items: usize,
    labels: Rows<u32>,
    splits: Rows<u8>,
    ids: Rows<FixedUnicode<MAX_ID_BYTES>>,
    origins: Rows<f64>,
    checksums: Rows<u8>,
    optional: Optional,
    tasks: Option<TaskRows>,
}

/// Where targets and labels of voxels go.
#[derive(Debug)]
struct TaskRows {
    tasks: Tasks,
    targets: Option<Rows<f64>>,
    voxel_labels: Option<hdf5::Dataset>,
}

impl TaskRows {
    fn create(file: &hdf5::File, tasks: Tasks, [d, h, w]: [usize; 3]) -> hdf5::Result<Self> {
        let targets = match tasks.target_len() {
            0 => None,
            width => Some(Rows::create(file, "targets", width)?),
        };
        let voxel_labels = (!tasks.voxel_classes.is_empty())
            .then(|| create_dataset::<u8>(file, "voxel_labels", (0.., d, h, w), &[1, d, h, w]))
            .transpose()?;
        Ok(Self { tasks, targets, voxel_labels })
    }

    fn push(&mut self, index: usize, item: &Item<'_>, dims: [usize; 3]) -> hdf5::Result<()> {
        if let Some(rows) = &mut self.targets {
            rows.push(item.targets)?;
        }
        if let Some(labels) = &self.voxel_labels {
            let [d, h, w] = dims;
            labels.resize([index + 1, d, h, w])?;
            let view = ArrayView3::from_shape(dims, item.voxel_labels);
            labels.write_slice(view.expect("the shape was checked"), (index, .., .., ..))?;
        }
        Ok(())
    }

    fn finish(self, file: &hdf5::File) -> hdf5::Result<()> {
        let json = serde_json::to_vec(&self.tasks).expect("plain data have a JSON form");
        write_list(file, "tasks", &json)?;
        self.targets.map_or(Ok(()), Rows::finish)
    }
}

/// What some datasets lack, made for the first item that has it.
#[derive(Debug, Default)]
struct Optional {
    parts: Option<[(&'static str, bool); 5]>,
    volumes: Option<hdf5::Dataset>,
    groups: Option<Rows<FixedUnicode<MAX_ID_BYTES>>>,
    sources: Option<Rows<FixedUnicode<MAX_SOURCE_BYTES>>>,
    points: Option<Points>,
    meshes: Option<Meshes>,
}

#[derive(Debug)]
struct Points {
    offsets: Rows<u64>,
    positions: Rows<f64>,
    channels: Rows<u16>,
    degrees: Rows<u8>,
    values: Rows<f64>,
}

#[derive(Debug)]
struct Meshes {
    vertex_offsets: Rows<u64>,
    triangle_offsets: Rows<u64>,
    vertices: Rows<f64>,
    triangles: Rows<u32>,
}

impl Optional {
    fn create(file: &hdf5::File, meta: &DatasetMeta, item: &Item<'_>) -> hdf5::Result<Self> {
        let mut new = Self { parts: Some(item.parts()), ..Self::default() };
        let [d, h, w] = meta.dims;
        if item.volume.is_some() {
            let shape = (0.., meta.channels, d, h, w);
            let chunk = [1, meta.channels, d, h, w];
            new.volumes = Some(match meta.storage {
                Storage::F32 => create_dataset::<f32>(file, "volumes", shape, &chunk)?,
                Storage::U8 { .. } => create_dataset::<u8>(file, "volumes", shape, &chunk)?,
            });
        }
        if item.group.is_some() {
            new.groups = Some(Rows::create(file, "groups", 1)?);
        }
        if item.source.is_some() {
            new.sources = Some(Rows::create(file, "sources", 1)?);
        }
        if item.points.is_some() {
            create_group(file, "points")?;
            let mut offsets = Rows::create(file, "points/offsets", 1)?;
            offsets.push(&[0])?;
            new.points = Some(Points {
                offsets,
                positions: Rows::create(file, "points/positions", 3)?,
                channels: Rows::create(file, "points/channels", 1)?,
                degrees: Rows::create(file, "points/degrees", 1)?,
                values: Rows::create(file, "points/values", 3)?,
            });
        }
        if item.mesh.is_some() {
            create_group(file, "meshes")?;
            let mut vertex_offsets = Rows::create(file, "meshes/vertex_offsets", 1)?;
            let mut triangle_offsets = Rows::create(file, "meshes/triangle_offsets", 1)?;
            vertex_offsets.push(&[0])?;
            triangle_offsets.push(&[0])?;
            new.meshes = Some(Meshes {
                vertex_offsets,
                triangle_offsets,
                vertices: Rows::create(file, "meshes/vertices", 3)?,
                triangles: Rows::create(file, "meshes/triangles", 3)?,
            });
        }
        Ok(new)
    }

    fn push_sources(&mut self, item: &Item<'_>) -> hdf5::Result<()> {
        if let (Some(rows), Some(group)) = (&mut self.groups, item.group) {
            rows.push(&[fixed(group)])?;
        }
        if let (Some(rows), Some(source)) = (&mut self.sources, item.source) {
            rows.push(&[fixed(source)])?;
        }
        if let (Some(points), Some(cloud)) = (&mut self.points, item.points) {
            points.positions.push(cloud.positions().as_flattened())?;
            points.channels.push(cloud.channels())?;
            for point in 0..cloud.len() {
                let (degree, row) = row_of(cloud.value(point));
                points.degrees.push(&[degree])?;
                points.values.push(&row)?;
            }
            points.offsets.push(&[points.positions.len() as u64])?;
        }
        if let (Some(meshes), Some(mesh)) = (&mut self.meshes, item.mesh) {
            meshes.vertices.push(mesh.vertices().as_flattened())?;
            meshes.triangles.push(mesh.triangles().as_flattened())?;
            meshes.vertex_offsets.push(&[meshes.vertices.len() as u64])?;
            meshes.triangle_offsets.push(&[meshes.triangles.len() as u64])?;
        }
        Ok(())
    }

    fn finish(self) -> hdf5::Result<()> {
        self.groups.map_or(Ok(()), Rows::finish)?;
        self.sources.map_or(Ok(()), Rows::finish)?;
        if let Some(points) = self.points {
            points.offsets.finish()?;
            points.positions.finish()?;
            points.channels.finish()?;
            points.degrees.finish()?;
            points.values.finish()?;
        }
        if let Some(meshes) = self.meshes {
            meshes.vertex_offsets.finish()?;
            meshes.triangle_offsets.finish()?;
            meshes.vertices.finish()?;
            meshes.triangles.finish()?;
        }
        Ok(())
    }
}

/// What a point carries, as its degree l and a row of numbers.
pub(super) fn row_of(value: PointValue) -> (u8, [f64; 3]) {
    match value {
        PointValue::Scalar(weight) => (0, [weight, 0.0, 0.0]),
        PointValue::Vector(vector) => (1, vector),
    }
}

/// A checked text as stored.
pub(super) fn fixed<const BYTES: usize>(text: &str) -> FixedUnicode<BYTES> {
    FixedUnicode::from_str(text).expect("DatasetWriter::check has checked its length")
}

impl DatasetWriter {
    /// Begins a dataset that will lie at `path`.
    ///
    /// # Errors
    /// If the description is inconsistent or the folder cannot be written.
    pub fn create(path: impl Into<PathBuf>, meta: DatasetMeta) -> Result<Self, DatasetError> {
        let path = path.into();
        hdf5::silence_errors(true);
        meta.check().map_err(|source| DatasetError::Meta { path: path.clone(), source })?;
        let temporary = temporary_beside(&path).at(&path, "")?;
        let file = file_builder().create(temporary.path()).at(&path, "/")?;
        Ok(Self {
            labels: Rows::create(&file, "labels", 1).at(&path, "labels")?,
            splits: Rows::create(&file, "splits", 1).at(&path, "splits")?,
            ids: Rows::create(&file, "ids", 1).at(&path, "ids")?,
            origins: Rows::create(&file, "origins", 3).at(&path, "origins")?,
            checksums: Rows::create(&file, "checksums", 32).at(&path, "checksums")?,
            items: 0,
            optional: Optional::default(),
            tasks: None,
            path,
            meta,
            temporary,
            file,
        })
    }

    /// Asks for what [`Tasks`] says of every item, before the first one is pushed.
    ///
    /// # Errors
    /// If the tasks are none or more than the limits allow.
    pub fn with_tasks(mut self, tasks: Tasks) -> Result<Self, DatasetError> {
        if let Some((field, expected, found)) = tasks.fault() {
            return Err(self.item_error(field, expected, found));
        }
        let rows = TaskRows::create(&self.file, tasks, self.meta.dims).at(&self.path, "tasks")?;
        self.tasks = Some(rows);
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
        if self.optional.parts.is_none() {
            self.optional = Optional::create(&self.file, &self.meta, item).at(&self.path, "/")?;
        }
        if let Some(volumes) = &self.optional.volumes {
            self.write_volume(volumes, item, &stored).at(&self.path, "volumes")?;
        }
        let origin = item.volume.map_or_else(|| self.meta.centred_origin(), Volume::origin);
        let sum = checksum(&Content {
            id: item.id,
            label: item.label,
            origin,
            stored: &stored,
            points: item.points,
            mesh: item.mesh,
            tasks: self.tasks.is_some().then_some((item.targets, item.voxel_labels)),
        });
        if let Some(tasks) = &mut self.tasks {
            tasks.push(self.items, item, self.meta.dims).at(&self.path, "tasks")?;
        }
        self.optional.push_sources(item).at(&self.path, "points")?;
        self.labels.push(&[item.label]).at(&self.path, "labels")?;
        self.splits.push(&[item.split as u8]).at(&self.path, "splits")?;
        self.ids.push(&[fixed(item.id)]).at(&self.path, "ids")?;
        self.origins.push(&origin).at(&self.path, "origins")?;
        self.checksums.push(&sum).at(&self.path, "checksums")?;
        self.items += 1;
        Ok(())
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
            return Err(self.item_error("items", "at least one".to_owned(), "none".to_owned()));
        }
        let path = &self.path;
        let json = self.meta.to_json();
        if json.len() > MAX_META_BYTES {
            let found = format!("{} bytes", json.len());
            return Err(self.item_error("meta", format!("at most {MAX_META_BYTES} bytes"), found));
        }
        write_list(&self.file, "meta", &json).at(path, "meta")?;
        if !skipped.is_empty() {
            let json = serde_json::to_vec(skipped).expect("plain data have a JSON form");
            write_list(&self.file, "skipped", &json).at(path, "skipped")?;
        }
        self.labels.finish().at(path, "labels")?;
        self.splits.finish().at(path, "splits")?;
        self.ids.finish().at(path, "ids")?;
        self.origins.finish().at(path, "origins")?;
        self.checksums.finish().at(path, "checksums")?;
        self.optional.finish().at(path, "points")?;
        if let Some(tasks) = self.tasks {
            tasks.finish(&self.file).at(path, "tasks")?;
        }
        write_root_attributes(&self.file).at(path, "/")?;
        self.file.close().at(path, "/")?;
        persist(self.temporary, path).at(path, "")
    }

    /// Checks an item against the description.
    fn check(&self, item: &Item<'_>) -> Result<(), DatasetError> {
        let meta = &self.meta;
        if self.items >= MAX_ITEMS {
            let expected = format!("at most {MAX_ITEMS}");
            return Err(self.item_error("items", expected, "more".to_owned()));
        }
        if let Some(volume) = item.volume {
            self.check_volume(volume)?;
        }
        if item.label as usize >= meta.class_names.len() {
            let expected = format!("a label below {}", meta.class_names.len());
            return Err(self.item_error("label", expected, item.label.to_string()));
        }
        let parts = item.parts();
        for ((name, has), (_, first)) in parts.iter().zip(self.optional.parts.unwrap_or(parts)) {
            if *has != first {
                let expected = format!("a {name} for all items or for none");
                return Err(self.item_error(name, expected, "a mixture".to_owned()));
            }
        }
        let made = meta.voxeliser.is_some() && item.points.is_some() || item.mesh.is_some();
        if item.volume.is_none() && !made {
            let expected = "a volume, points with a voxeliser, or a mesh".to_owned();
            return Err(self.item_error("volume", expected, "none".to_owned()));
        }
        self.check_tasks(item)?;
        self.check_sources(item)?;
        self.check_text("id", item.id, 1, MAX_ID_BYTES)?;
        self.check_text("group", item.group.unwrap_or_default(), 0, MAX_ID_BYTES)?;
        self.check_text("source", item.source.unwrap_or_default(), 0, MAX_SOURCE_BYTES)
    }

    fn check_volume(&self, volume: &Volume) -> Result<(), DatasetError> {
        let meta = &self.meta;
        let shape = (volume.channels(), volume.dims());
        if shape != (meta.channels, meta.dims) {
            let expected = format!("{} channels of {:?}", meta.channels, meta.dims);
            let found = format!("{} channels of {:?}", shape.0, shape.1);
            return Err(self.item_error("volume (D, H, W)", expected, found));
        }
        if volume.voxel_size() != meta.voxel_size {
            let expected = format!("{:?}", meta.voxel_size);
            let found = format!("{:?}", volume.voxel_size());
            return Err(self.item_error("voxel size", expected, found));
        }
        Ok(())
    }

    fn check_tasks(&self, item: &Item<'_>) -> Result<(), DatasetError> {
        let none = Tasks::default();
        let tasks = self.tasks.as_ref().map_or(&none, |rows| &rows.tasks);
        let (targets, labels) = (tasks.target_len(), tasks.voxels(&self.meta));
        let (found_targets, found_labels) = (item.targets.len(), item.voxel_labels.len());
        if found_targets != targets {
            let expected = format!("{targets} values");
            return Err(self.item_error("targets", expected, found_targets.to_string()));
        }
        if let Some(x) = item.targets.iter().find(|x| !x.is_finite()) {
            return Err(self.item_error("targets", "finite numbers".to_owned(), x.to_string()));
        }
        if found_labels != labels {
            let expected = format!("{labels} labels");
            return Err(self.item_error("voxel labels", expected, found_labels.to_string()));
        }
        let classes = tasks.voxel_classes.len();
        match item.voxel_labels.iter().find(|&&label| usize::from(label) >= classes) {
            None => Ok(()),
            Some(label) => {
                let expected = format!("labels below {classes}");
                Err(self.item_error("voxel labels", expected, label.to_string()))
            }
        }
    }

    fn check_sources(&self, item: &Item<'_>) -> Result<(), DatasetError> {
        let points = self.optional.points.as_ref().map_or(0, |points| points.positions.len());
        let meshes = self.optional.meshes.as_ref();
        let (vertices, triangles) =
            meshes.map_or((0, 0), |meshes| (meshes.vertices.len(), meshes.triangles.len()));
        let after = [
            points + item.points.map_or(0, PointCloud::len),
            vertices + item.mesh.map_or(0, |mesh| mesh.vertices().len()),
            triangles + item.mesh.map_or(0, |mesh| mesh.triangles().len()),
        ];
        if after.iter().any(|&count| count > MAX_POINTS) {
            let expected = format!("at most {MAX_POINTS} in all");
            return Err(self.item_error("points", expected, "more".to_owned()));
        }
        let beyond = item.points.and_then(|cloud| cloud.channel_beyond(self.meta.channels));
        if let Some(channel) = beyond {
            let expected = format!("a channel below {}", self.meta.channels);
            return Err(self.item_error("points", expected, channel.to_string()));
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
        Err(self.item_error(field, expected, format!("{text:?}")))
    }

    fn item_error(&self, field: &'static str, expected: String, found: String) -> DatasetError {
        let (path, item) = (self.path.clone(), self.items);
        DatasetError::Item { path, item, field, expected, found }
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
        Err(self.item_error("value", format!("a byte times {scale}"), value.to_string()))
    }

    fn write_volume(
        &self,
        volumes: &hdf5::Dataset,
        item: &Item<'_>,
        stored: &[u8],
    ) -> hdf5::Result<()> {
        let [d, h, w] = self.meta.dims;
        let c = self.meta.channels;
        let shape = [c, d, h, w];
        let place = (self.items, .., .., .., ..);
        volumes.resize([self.items + 1, c, d, h, w])?;
        match self.meta.storage {
            Storage::F32 => {
                let values = item.volume.map_or(&[][..], Volume::data);
                let view = ArrayView4::from_shape(shape, values).expect("the shape was checked");
                volumes.write_slice(view, place)
            }
            Storage::U8 { .. } => {
                let view = ArrayView4::from_shape(shape, stored).expect("the shape was checked");
                volumes.write_slice(view, place)
            }
        }
    }
}

/// Makes files whose headers and indices carry checksums and no times. Nobody reads a file before it has its name,
/// so none is locked: not all network file systems can, and a program started meanwhile would hold the lock.
pub(super) fn file_builder() -> hdf5::FileBuilder {
    let mut builder = hdf5::FileBuilder::new();
    builder.with_fapl(|plist| plist.libver_bounds(LibraryVersion::V110, LibraryVersion::V110));
    // Libraries before 1.10.7 cannot be told so.
    #[cfg(feature = "static-hdf5")]
    builder.with_fapl(|plist| plist.file_locking(false));
    builder.with_fcpl(|plist| plist.obj_track_times(false));
    builder
}

/// A group without times, so that equal contents are equal bytes.
fn create_group(file: &hdf5::File, name: &str) -> hdf5::Result<()> {
    file.create_group_builder().obj_track_times(false).create(name).map(|_| ())
}

fn write_root_attributes(file: &hdf5::File) -> hdf5::Result<()> {
    let name = FixedAscii::<{ FORMAT_NAME.len() }>::from_ascii(FORMAT_NAME)
        .map_err(|error| hdf5::Error::from(error.to_string()))?;
    file.new_attr::<FixedAscii<{ FORMAT_NAME.len() }>>().create("format")?.write_scalar(&name)?;
    file.new_attr::<u32>().create("schema_version")?.write_scalar(&SCHEMA_VERSION)
}
