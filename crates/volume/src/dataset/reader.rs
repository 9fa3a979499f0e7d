//! Reading datasets.

use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::path::{Path, PathBuf};

use hdf5::filters::Filter;
use hdf5::types::{FixedAscii, FixedUnicode, FloatSize, IntSize, TypeDescriptor};
use ndarray::Ix4;

use super::{
    Context, DatasetError, DatasetMeta, FORMAT_NAME, MAX_ID_BYTES, MAX_ITEMS, MAX_META_BYTES,
    MAX_POINTS, SCHEMA_VERSION, Split, Storage,
};
use crate::points::{PointCloud, PointValue};
use crate::volume::{MAX_VALUES, Volume, check_finite};

/// A dataset on disk: its description, labels, splits and identifiers are in memory, volumes and
/// points are read when asked for.
///
/// The HDF5 library serves one thread at a time, whatever the number of datasets.
#[derive(Debug)]
pub struct Dataset {
    path: PathBuf,
    meta: DatasetMeta,
    labels: Vec<u32>,
    splits: Vec<Split>,
    ids: Vec<String>,
    origins: Vec<[f64; 3]>,
    volumes: hdf5::Dataset,
    points: Option<Points>,
}

#[derive(Debug)]
struct Points {
    offsets: Vec<usize>,
    positions: hdf5::Dataset,
    channels: hdf5::Dataset,
    values: Option<Values>,
}

#[derive(Debug)]
struct Values {
    degrees: hdf5::Dataset,
    values: hdf5::Dataset,
}

impl Dataset {
    /// Opens a dataset and checks everything but the values of its volumes and points.
    ///
    /// # Errors
    /// If the file is missing, is not an HDF5 file, is damaged, or does not follow the schema.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, DatasetError> {
        let path = path.into();
        hdf5::silence_errors(true);
        check_signature(&path)?;
        let file = Reader { file: hdf5::File::open(&path).at(&path, "/")?, path: &path };
        file.check_root()?;
        let meta = file.meta()?;
        let value = match meta.storage {
            Storage::F32 => TypeDescriptor::Float(FloatSize::U4),
            Storage::U8 { .. } => TypeDescriptor::Unsigned(IntSize::U1),
        };
        let [d, h, w] = meta.dims;
        let (volumes, items) =
            file.dataset("volumes", &value, &[meta.channels, d, h, w], MAX_ITEMS)?;
        if items == 0 {
            return Err(file.malformed("volumes", "at least one item", "none"));
        }
        let chunks = volumes.num_chunks();
        if chunks != Some(items) {
            let expected = format!("one chunk for each of {items} items");
            return Err(file.malformed("volumes", expected, format!("{chunks:?} chunks")));
        }
        let labels = file.labels(items, meta.class_names.len())?;
        let splits = file.splits(items)?;
        let ids = file.ids(items)?;
        let origins = file.origins(items)?;
        let points = file.points(items)?;
        Ok(Self { path, meta, labels, splits, ids, origins, volumes, points })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The description.
    pub fn meta(&self) -> &DatasetMeta {
        &self.meta
    }

    /// Number of items, at least 1.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Label of each item, an index into the class names.
    pub fn labels(&self) -> &[u32] {
        &self.labels
    }

    /// Split of each item.
    pub fn splits(&self) -> &[Split] {
        &self.splits
    }

    /// Identifier of each item.
    pub fn ids(&self) -> &[String] {
        &self.ids
    }

    /// Indices of the items of a split, in order.
    pub fn indices(&self, split: Split) -> Vec<usize> {
        (0..self.len()).filter(|&i| self.splits[i] == split).collect()
    }

    /// Number of items of each class in a split.
    pub fn class_counts(&self, split: Split) -> Vec<usize> {
        let mut counts = vec![0; self.meta.class_names.len()];
        for i in self.indices(split) {
            counts[self.labels[i] as usize] += 1;
        }
        counts
    }

    /// Are there points for the items?
    pub fn has_points(&self) -> bool {
        self.points.is_some()
    }

    /// Reads the volume of an item.
    ///
    /// # Errors
    /// If there is no such item, the file is damaged, or a value is not finite.
    pub fn read(&self, item: usize) -> Result<Volume, DatasetError> {
        let at_item = |source| DatasetError::Volume { path: self.path.clone(), item, source };
        let grid = self.meta.grid().map_err(at_item)?;
        let data = self.values(item)?;
        Volume::new(data, self.meta.channels, grid, self.origins[item]).map_err(at_item)
    }

    /// Reads volumes one after the other into `target`, N × C × D × H × W values.
    ///
    /// # Errors
    /// As [`Dataset::read`], and if `target` has another length.
    pub fn read_many(&self, items: &[usize], target: &mut [f32]) -> Result<(), DatasetError> {
        let len = self.meta.item_len();
        if target.len() != items.len() * len {
            return Err(DatasetError::Argument {
                path: self.path.clone(),
                field: "length of the target",
                expected: format!("{} × {len}", items.len()),
                found: target.len(),
            });
        }
        for (&item, target) in items.iter().zip(target.chunks_exact_mut(len)) {
            let values = self.values(item)?;
            check_finite("volume", &values).map_err(|source| DatasetError::Volume {
                path: self.path.clone(),
                item,
                source,
            })?;
            target.copy_from_slice(&values);
        }
        Ok(())
    }

    /// Reads the points of an item; `None` if the dataset stores none.
    ///
    /// # Errors
    /// If there is no such item, the file is damaged, or a coordinate or channel is out of range.
    pub fn points(&self, item: usize) -> Result<Option<PointCloud>, DatasetError> {
        self.check_item(item)?;
        let Some(points) = &self.points else { return Ok(None) };
        let rows = points.offsets[item]..points.offsets[item + 1];
        let coordinates: Vec<f64> = points
            .positions
            .read_slice::<f64, _, ndarray::Ix2>((rows.clone(), ..))
            .at(&self.path, "points/positions")?
            .into_raw_vec_and_offset()
            .0;
        let (positions, _) = coordinates.as_chunks();
        let channels: Vec<u16> = points
            .channels
            .read_slice::<u16, _, ndarray::Ix1>(rows.clone())
            .at(&self.path, "points/channels")?
            .to_vec();
        let at_item = |source| DatasetError::Volume { path: self.path.clone(), item, source };
        let mut cloud = PointCloud::new(positions.to_vec(), channels).map_err(at_item)?;
        if let Some(values) = &points.values {
            cloud = cloud.with_values(self.point_values(values, rows)?).map_err(at_item)?;
        }
        if let Some(channel) = cloud.channel_beyond(self.meta.channels) {
            return Err(DatasetError::Malformed {
                path: self.path.clone(),
                object: "points/channels".to_owned(),
                expected: format!("channels below {}", self.meta.channels),
                found: channel.to_string(),
            });
        }
        Ok(Some(cloud))
    }

    fn point_values(
        &self,
        values: &Values,
        rows: Range<usize>,
    ) -> Result<Vec<PointValue>, DatasetError> {
        let degrees = values
            .degrees
            .read_slice::<u8, _, ndarray::Ix1>(rows.clone())
            .at(&self.path, "points/degrees")?;
        let numbers = values
            .values
            .read_slice::<f64, _, ndarray::Ix2>((rows, ..))
            .at(&self.path, "points/values")?
            .into_raw_vec_and_offset()
            .0;
        let value = |(&degree, &row): (&u8, &[f64; 3])| match degree {
            0 => Ok(PointValue::Scalar(row[0])),
            1 => Ok(PointValue::Vector(row)),
            _ => Err(DatasetError::Malformed {
                path: self.path.clone(),
                object: "points/degrees".to_owned(),
                expected: "0 or 1".to_owned(),
                found: degree.to_string(),
            }),
        };
        degrees.iter().zip(numbers.as_chunks().0).map(value).collect()
    }

    fn check_item(&self, item: usize) -> Result<(), DatasetError> {
        if item < self.len() {
            return Ok(());
        }
        Err(DatasetError::Argument {
            path: self.path.clone(),
            field: "index of an item",
            expected: format!("below {}", self.len()),
            found: item,
        })
    }

    /// Values of an item, not checked to be finite.
    fn values(&self, item: usize) -> Result<Vec<f32>, DatasetError> {
        self.check_item(item)?;
        let selection = (item, .., .., .., ..);
        match self.meta.storage {
            Storage::F32 => self
                .volumes
                .read_slice::<f32, _, Ix4>(selection)
                .map(|array| array.into_raw_vec_and_offset().0),
            Storage::U8 { scale } => self
                .volumes
                .read_slice::<u8, _, Ix4>(selection)
                .map(|array| array.iter().map(|&b| (f64::from(b) * scale) as f32).collect()),
        }
        .at(&self.path, "volumes")
    }
}

/// Looks at the first bytes, which say more clearly than the HDF5 library what is wrong.
fn check_signature(path: &Path) -> Result<(), DatasetError> {
    let mut start = Vec::new();
    File::open(path).and_then(|file| file.take(8).read_to_end(&mut start)).at(path, "")?;
    let found = match start.as_slice() {
        b"\x89HDF\r\n\x1a\n" => return Ok(()),
        [] => "an empty file",
        [b'P', b'K', ..] => "a zip or npz archive",
        [0x93, b'N', b'U', ..] => "an npy array",
        _ => "another format",
    };
    Err(DatasetError::NotHdf5 { path: path.to_owned(), found })
}

/// An open file and its path for messages.
struct Reader<'a> {
    file: hdf5::File,
    path: &'a Path,
}

impl Reader<'_> {
    fn malformed(
        &self,
        object: &str,
        expected: impl Into<String>,
        found: impl Into<String>,
    ) -> DatasetError {
        DatasetError::Malformed {
            path: self.path.to_owned(),
            object: object.to_owned(),
            expected: expected.into(),
            found: found.into(),
        }
    }

    fn check_root(&self) -> Result<(), DatasetError> {
        let format = self.attribute(
            "format",
            |dtype| matches!(dtype, TypeDescriptor::FixedAscii(len) if *len <= 32),
        )?;
        let name = format.read_scalar::<FixedAscii<32>>().at(self.path, "attribute format")?;
        if name.as_bytes() != FORMAT_NAME.as_bytes() {
            let found = String::from_utf8_lossy(name.as_bytes()).into_owned();
            return Err(self.malformed("attribute format", FORMAT_NAME, found));
        }
        let unsigned = TypeDescriptor::Unsigned(IntSize::U4);
        let version = self
            .attribute("schema_version", |dtype| *dtype == unsigned)?
            .read_scalar::<u32>()
            .at(self.path, "attribute schema_version")?;
        if version != SCHEMA_VERSION {
            return Err(self.malformed(
                "attribute schema_version",
                format!("version {SCHEMA_VERSION}, the one that this steer3d reads"),
                format!("version {version}"),
            ));
        }
        Ok(())
    }

    /// A scalar attribute of the root of a type that `accepts` allows.
    fn attribute(
        &self,
        name: &str,
        accepts: impl Fn(&TypeDescriptor) -> bool,
    ) -> Result<hdf5::Attribute, DatasetError> {
        let object = format!("attribute {name}");
        let attribute = self.file.attr(name).map_err(|_| {
            self.malformed(&object, "a steer3d dataset, which has this attribute", "none")
        })?;
        let dtype = attribute.dtype().and_then(|dtype| dtype.to_descriptor());
        let dtype = dtype.at(self.path, &object)?;
        if !attribute.is_scalar() || !accepts(&dtype) {
            let found = format!("shape {:?} of {dtype}", attribute.shape());
            return Err(self.malformed(&object, "a scalar of the type in FORMAT.md", found));
        }
        Ok(attribute)
    }

    fn meta(&self) -> Result<DatasetMeta, DatasetError> {
        let json = self.list::<u8>("meta", &[], MAX_META_BYTES, None)?;
        let meta: DatasetMeta = serde_json::from_slice(&json)
            .map_err(|error| self.malformed("meta", "the JSON of FORMAT.md", error.to_string()))?;
        meta.check().map_err(|source| DatasetError::Meta { path: self.path.to_owned(), source })?;
        Ok(meta)
    }

    fn labels(&self, items: usize, classes: usize) -> Result<Vec<u32>, DatasetError> {
        let labels = self.list::<u32>("labels", &[], MAX_ITEMS, Some(items))?;
        match labels.iter().position(|&label| label as usize >= classes) {
            None => Ok(labels),
            Some(i) => {
                let found = format!("label {} of item {i}", labels[i]);
                Err(self.malformed("labels", format!("labels below {classes}"), found))
            }
        }
    }

    fn splits(&self, items: usize) -> Result<Vec<Split>, DatasetError> {
        let splits = self.list::<u8>("splits", &[], MAX_ITEMS, Some(items))?;
        let known = |split: &u8| Split::ALL.get(usize::from(*split)).copied();
        splits
            .iter()
            .map(|split| {
                known(split).ok_or_else(|| self.malformed("splits", "0, 1 or 2", split.to_string()))
            })
            .collect()
    }

    fn ids(&self, items: usize) -> Result<Vec<String>, DatasetError> {
        let dtype = TypeDescriptor::FixedUnicode(MAX_ID_BYTES);
        let (dataset, found) = self.dataset("ids", &dtype, &[], MAX_ITEMS)?;
        self.check_count("ids", items, found)?;
        let ids = dataset.read_raw::<FixedUnicode<MAX_ID_BYTES>>().at(self.path, "ids")?;
        let text = |id: &FixedUnicode<MAX_ID_BYTES>| String::from_utf8(id.as_bytes().to_vec());
        ids.iter()
            .map(|id| text(id).map_err(|e| self.malformed("ids", "UTF-8 text", e.to_string())))
            .collect()
    }

    fn origins(&self, items: usize) -> Result<Vec<[f64; 3]>, DatasetError> {
        let origins = self.list::<f64>("origins", &[3], MAX_ITEMS, Some(items))?;
        if let Some(x) = origins.iter().find(|x| !x.is_finite()) {
            return Err(self.malformed("origins", "finite numbers", x.to_string()));
        }
        Ok(origins.as_chunks().0.to_vec())
    }

    fn points(&self, items: usize) -> Result<Option<Points>, DatasetError> {
        if !self.file.link_exists("points") {
            return Ok(None);
        }
        let float = TypeDescriptor::Float(FloatSize::U8);
        let short = TypeDescriptor::Unsigned(IntSize::U2);
        let (positions, count) = self.dataset("points/positions", &float, &[3], MAX_POINTS)?;
        let (channels, found) = self.dataset("points/channels", &short, &[], MAX_POINTS)?;
        self.check_count("points/channels", count, found)?;
        let offsets = self.list::<u64>("points/offsets", &[], MAX_ITEMS + 1, Some(items + 1))?;
        let rising = offsets.windows(2).all(|pair| pair[0] <= pair[1]);
        if !rising || offsets[0] != 0 || offsets[items] != count as u64 {
            let expected = format!("offsets that rise from 0 to {count}");
            return Err(self.malformed("points/offsets", expected, "others"));
        }
        let offsets = offsets.into_iter().map(|offset| offset as usize).collect();
        let values = self.file.link_exists("points/values").then(|| -> Result<_, _> {
            let byte = TypeDescriptor::Unsigned(IntSize::U1);
            let (values, found) = self.dataset("points/values", &float, &[3], MAX_POINTS)?;
            self.check_count("points/values", count, found)?;
            let (degrees, found) = self.dataset("points/degrees", &byte, &[], MAX_POINTS)?;
            self.check_count("points/degrees", count, found)?;
            Ok(Values { degrees, values })
        });
        Ok(Some(Points { offsets, positions, channels, values: values.transpose()? }))
    }

    /// All values of a dataset of `count` rows (if given) of shape `row`.
    fn list<T: hdf5::H5Type>(
        &self,
        name: &str,
        row: &[usize],
        limit: usize,
        count: Option<usize>,
    ) -> Result<Vec<T>, DatasetError> {
        let (dataset, found) = self.dataset(name, &T::type_descriptor(), row, limit)?;
        self.check_count(name, count.unwrap_or(found), found)?;
        dataset.read_raw().at(self.path, name)
    }

    fn check_count(&self, name: &str, expected: usize, found: usize) -> Result<(), DatasetError> {
        if expected == found {
            return Ok(());
        }
        Err(self.malformed(name, format!("{expected} rows"), format!("{found}")))
    }

    /// Opens a dataset and returns it with its number of rows, having checked its type, the shape
    /// of its rows, its filters and that neither it nor one of its chunks is huge.
    fn dataset(
        &self,
        name: &str,
        dtype: &TypeDescriptor,
        row: &[usize],
        limit: usize,
    ) -> Result<(hdf5::Dataset, usize), DatasetError> {
        if !self.file.link_exists(name.split('/').next().unwrap_or(name)) {
            return Err(self.malformed(name, "a dataset", "none"));
        }
        let dataset = self.file.dataset(name).at(self.path, name)?;
        let found = dataset.dtype().and_then(|d| d.to_descriptor()).at(self.path, name)?;
        if found != *dtype {
            return Err(self.malformed(name, dtype.to_string(), found.to_string()));
        }
        let shape = dataset.get_shape().at(self.path, name)?;
        let rows = Range { start: 0, end: limit + 1 };
        if shape.get(1..) != Some(row) || !rows.contains(&shape[0]) {
            let expected = format!("at most {limit} rows of shape {row:?}");
            return Err(self.malformed(name, expected, format!("shape {shape:?}")));
        }
        let chunk = dataset.chunk().unwrap_or_default();
        let chunk_len = chunk.iter().try_fold(1usize, |len, &n| len.checked_mul(n));
        let small = chunk_len.is_some_and(|len| (1..=MAX_VALUES).contains(&len));
        if chunk.len() != shape.len() || !small {
            let expected = format!("chunks of at most {MAX_VALUES} values");
            return Err(self.malformed(name, expected, format!("chunks of {chunk:?}")));
        }
        let allowed =
            |f: &Filter| matches!(f, Filter::Shuffle | Filter::Deflate(_) | Filter::Fletcher32);
        if let Some(filter) = dataset.filters().iter().find(|filter| !allowed(filter)) {
            let expected = "the filters shuffle, deflate and fletcher32 only";
            return Err(self.malformed(name, expected, format!("{filter:?}")));
        }
        Ok((dataset, shape[0]))
    }
}
