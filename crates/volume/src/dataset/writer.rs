//! Writing datasets.

use std::path::PathBuf;
use std::str::FromStr;

use hdf5::file::LibraryVersion;
use hdf5::types::{FixedAscii, FixedUnicode};
use ndarray::ArrayView4;
use tempfile::NamedTempFile;

use super::{
    Context, DatasetError, DatasetMeta, FORMAT_NAME, MAX_ID_BYTES, MAX_ITEMS, MAX_META_BYTES,
    MAX_POINTS, SCHEMA_VERSION, Split, Storage,
};
use crate::atomic::{persist, temporary_beside};
use crate::points::{PointCloud, PointValue};
use crate::volume::Volume;

/// Level of deflate compression.
const DEFLATE: u8 = 4;

/// One item to be written.
#[derive(Clone, Copy, Debug)]
pub struct Item<'a> {
    /// The volume, of the channels, dims and voxel size of the dataset.
    pub volume: &'a Volume,
    /// Index of its class.
    pub label: u32,
    /// The split it belongs to.
    pub split: Split,
    /// Its identifier, of 1 to 64 bytes.
    pub id: &'a str,
    /// The points that the volume was made from: for all items or for none.
    pub points: Option<&'a PointCloud>,
}

/// Writes a dataset item by item into a temporary file, which takes the place of `path` only when
/// [`DatasetWriter::finish`] has flushed it to disk. Dropped before, it leaves `path` as it was.
#[derive(Debug)]
pub struct DatasetWriter {
    path: PathBuf,
    meta: DatasetMeta,
    temporary: NamedTempFile,
    file: hdf5::File,
    volumes: hdf5::Dataset,
    labels: Vec<u32>,
    splits: Vec<u8>,
    ids: Vec<FixedUnicode<MAX_ID_BYTES>>,
    origins: Vec<[f64; 3]>,
    points: Option<Points>,
}

#[derive(Debug, Default)]
struct Points {
    offsets: Vec<u64>,
    positions: Vec<[f64; 3]>,
    channels: Vec<u16>,
    values: Vec<PointValue>,
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
        let file = hdf5::FileBuilder::new()
            .with_fapl(|plist| plist.libver_bounds(LibraryVersion::V110, LibraryVersion::V110))
            .create(temporary.path())
            .at(&path, "/")?;
        let [d, h, w] = meta.dims;
        let shape = (0.., meta.channels, d, h, w);
        let chunk = [1, meta.channels, d, h, w];
        let volumes = match meta.storage {
            Storage::F32 => create_dataset::<f32>(&file, "volumes", shape, &chunk),
            Storage::U8 { .. } => create_dataset::<u8>(&file, "volumes", shape, &chunk),
        }
        .at(&path, "volumes")?;
        Ok(Self {
            path,
            meta,
            temporary,
            file,
            volumes,
            labels: Vec::new(),
            splits: Vec::new(),
            ids: Vec::new(),
            origins: Vec::new(),
            points: None,
        })
    }

    /// Appends an item.
    ///
    /// # Errors
    /// If the item does not fit the description (shape, voxel size, label, identifier, points for
    /// some items only, values that [`Storage::U8`] cannot hold), or the disk is full.
    pub fn push(&mut self, item: &Item<'_>) -> Result<(), DatasetError> {
        let index = self.labels.len();
        let id = self.check(item)?;
        let [d, h, w] = self.meta.dims;
        let (c, data) = (self.meta.channels, item.volume.data());
        match self.meta.storage {
            Storage::F32 => self.write_volume(index, [c, d, h, w], data)?,
            Storage::U8 { scale } => {
                let bytes = self.to_bytes(index, scale, data)?;
                self.write_volume(index, [c, d, h, w], &bytes)?;
            }
        }
        self.labels.push(item.label);
        self.splits.push(item.split as u8);
        self.ids.push(id);
        self.origins.push(item.volume.origin());
        if let Some(cloud) = item.points {
            let points =
                self.points.get_or_insert_with(|| Points { offsets: vec![0], ..Points::default() });
            points.positions.extend_from_slice(cloud.positions());
            points.channels.extend_from_slice(cloud.channels());
            points.values.extend((0..cloud.len()).map(|point| cloud.value(point)));
            points.offsets.push(points.positions.len() as u64);
        }
        Ok(())
    }

    /// Writes what is left, flushes the file to disk and renames it to its path.
    ///
    /// # Errors
    /// If no item was pushed or the disk is full.
    pub fn finish(self) -> Result<(), DatasetError> {
        if self.labels.is_empty() {
            return Err(self.item_error("items", "at least one".to_owned(), "none".to_owned()));
        }
        let path = &self.path;
        let json = serde_json::to_vec_pretty(&self.meta).expect("the description has a JSON form");
        if json.len() > MAX_META_BYTES {
            let found = format!("{} bytes", json.len());
            return Err(self.item_error("meta", format!("at most {MAX_META_BYTES} bytes"), found));
        }
        write_list(&self.file, "meta", &json).at(path, "meta")?;
        write_list(&self.file, "labels", &self.labels).at(path, "labels")?;
        write_list(&self.file, "splits", &self.splits).at(path, "splits")?;
        write_list(&self.file, "ids", &self.ids).at(path, "ids")?;
        write_rows(&self.file, "origins", &self.origins).at(path, "origins")?;
        if let Some(points) = &self.points {
            self.file.create_group("points").at(path, "points")?;
            write_list(&self.file, "points/offsets", &points.offsets).at(path, "points/offsets")?;
            write_rows(&self.file, "points/positions", &points.positions)
                .at(path, "points/positions")?;
            write_list(&self.file, "points/channels", &points.channels)
                .at(path, "points/channels")?;
            if points.values.iter().any(|&value| value != PointValue::Scalar(1.0)) {
                write_values(&self.file, &points.values).at(path, "points/values")?;
            }
        }
        write_root_attributes(&self.file).at(path, "/")?;
        drop(self.volumes);
        self.file.close().at(path, "/")?;
        persist(self.temporary, path).at(path, "")
    }

    /// Checks an item against the description and returns its identifier as stored.
    fn check(&self, item: &Item<'_>) -> Result<FixedUnicode<MAX_ID_BYTES>, DatasetError> {
        let (meta, volume) = (&self.meta, item.volume);
        let index = self.labels.len();
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
        if index >= MAX_ITEMS {
            return Err(self.item_error(
                "items",
                format!("at most {MAX_ITEMS}"),
                "more".to_owned(),
            ));
        }
        if item.label as usize >= meta.class_names.len() {
            let expected = format!("a label below {}", meta.class_names.len());
            return Err(self.item_error("label", expected, item.label.to_string()));
        }
        let points = self.points.as_ref().map_or(0, |points| points.positions.len());
        if index > 0 && item.points.is_some() != self.points.is_some() {
            let expected = "points for all items or for none".to_owned();
            return Err(self.item_error("points", expected, "a mixture".to_owned()));
        }
        if let Some(cloud) = item.points {
            if points + cloud.len() > MAX_POINTS {
                let expected = format!("at most {MAX_POINTS} in all");
                return Err(self.item_error("points", expected, "more".to_owned()));
            }
            if let Some(channel) = cloud.channel_beyond(shape.0) {
                let expected = format!("a channel below {}", shape.0);
                return Err(self.item_error("points", expected, channel.to_string()));
            }
        }
        let printable = !item.id.is_empty() && !item.id.chars().any(char::is_control);
        FixedUnicode::from_str(item.id).ok().filter(|_| printable).ok_or_else(|| {
            let expected = format!("1 to {MAX_ID_BYTES} bytes without control characters");
            self.item_error("id", expected, format!("{:?}", item.id))
        })
    }

    fn item_error(&self, field: &'static str, expected: String, found: String) -> DatasetError {
        let (path, item) = (self.path.clone(), self.labels.len());
        DatasetError::Item { path, item, field, expected, found }
    }

    fn to_bytes(&self, item: usize, scale: f64, data: &[f32]) -> Result<Vec<u8>, DatasetError> {
        data.iter()
            .map(|&value| {
                let byte = (f64::from(value) / scale).round();
                let exact = (byte * scale) as f32 == value;
                if exact && (0.0..=255.0).contains(&byte) {
                    return Ok(byte as u8);
                }
                Err(DatasetError::Item {
                    path: self.path.clone(),
                    item,
                    field: "value",
                    expected: format!("a byte times {scale}"),
                    found: value.to_string(),
                })
            })
            .collect()
    }

    fn write_volume<T: hdf5::H5Type>(
        &self,
        index: usize,
        shape: [usize; 4],
        data: &[T],
    ) -> Result<(), DatasetError> {
        let [c, d, h, w] = shape;
        let view = ArrayView4::from_shape(shape, data).expect("the volume has this shape");
        self.volumes
            .resize([index + 1, c, d, h, w])
            .and_then(|()| self.volumes.write_slice(view, (index, .., .., .., ..)))
            .at(&self.path, "volumes")
    }
}

fn write_root_attributes(file: &hdf5::File) -> hdf5::Result<()> {
    let name = FixedAscii::<{ FORMAT_NAME.len() }>::from_ascii(FORMAT_NAME)
        .map_err(|error| hdf5::Error::from(error.to_string()))?;
    file.new_attr::<FixedAscii<{ FORMAT_NAME.len() }>>().create("format")?.write_scalar(&name)?;
    file.new_attr::<u32>().create("schema_version")?.write_scalar(&SCHEMA_VERSION)
}

/// A chunked, compressed dataset with a checksum for each chunk.
fn create_dataset<T: hdf5::H5Type>(
    file: &hdf5::File,
    name: &str,
    shape: impl Into<hdf5::Extents>,
    chunk: &[usize],
) -> hdf5::Result<hdf5::Dataset> {
    file.new_dataset::<T>()
        .chunk(chunk)
        .shuffle()
        .deflate(DEFLATE)
        .fletcher32()
        .shape(shape)
        .create(name)
}

/// Values in one chunk of a list.
const LIST_CHUNK: usize = 1 << 14;

fn write_list<T: hdf5::H5Type>(file: &hdf5::File, name: &str, values: &[T]) -> hdf5::Result<()> {
    let dataset = create_dataset::<T>(file, name, 0.., &[LIST_CHUNK])?;
    dataset.resize(values.len())?;
    dataset.write_raw(values)
}

/// The values of points and their degrees l.
fn write_values(file: &hdf5::File, values: &[PointValue]) -> hdf5::Result<()> {
    let (degrees, rows): (Vec<u8>, Vec<[f64; 3]>) = values
        .iter()
        .map(|value| match *value {
            PointValue::Scalar(weight) => (0, [weight, 0.0, 0.0]),
            PointValue::Vector(vector) => (1, vector),
        })
        .unzip();
    write_list(file, "points/degrees", &degrees)?;
    write_rows(file, "points/values", &rows)
}

fn write_rows(file: &hdf5::File, name: &str, rows: &[[f64; 3]]) -> hdf5::Result<()> {
    let dataset = create_dataset::<f64>(file, name, (0.., 3), &[LIST_CHUNK, 3])?;
    dataset.resize((rows.len(), 3))?;
    dataset.write_raw(rows.as_flattened())
}
