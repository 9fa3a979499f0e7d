//! Reading datasets.

use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::path::{Path, PathBuf};

use hdf5::filters::Filter;
use hdf5::types::{FixedAscii, FixedUnicode, FloatSize, IntSize, TypeDescriptor};
use ndarray::Ix4;

use hdf5::H5Type;
use steer3d_so3::Rotation;

use super::checksum::{Content, checksum};
use super::chunks::Chunks;
use super::tasks::Stored;
use super::writer::file_builder;
use super::{
    Context, DatasetError, DatasetMeta, FORMAT_NAME, MAX_ID_BYTES, MAX_ITEMS, MAX_META_BYTES,
    MAX_POINTS, MAX_SKIPPED_BYTES, MAX_SOURCE_BYTES, SCHEMA_VERSION, Skipped, Split, Storage,
};
use steer3d_volume::mesh::Mesh;
use steer3d_volume::points::{PointCloud, PointValue};
use steer3d_volume::volume::{MAX_VALUES, Volume, VolumeError, check_finite};

/// A dataset on disk: its description, labels, splits and identifiers are in memory, volumes and
/// sources are read when asked for.
///
/// Volumes written by this crate are read and decoded by any number of threads at once; for all
/// else the HDF5 library serves one thread at a time, whatever the number of datasets.
#[derive(Debug)]
pub struct Dataset {
    path: PathBuf,
    meta: DatasetMeta,
    labels: Vec<u32>,
    splits: Vec<Split>,
    ids: Vec<String>,
    origins: Vec<[f64; 3]>,
    groups: Option<Vec<String>>,
    sources: Option<Vec<String>>,
    checksums: Option<Vec<[u8; 32]>>,
    skipped: Vec<Skipped>,
    volumes: Option<Volumes>,
    points: Option<Points>,
    meshes: Option<Meshes>,
    pub(super) stored: Option<Stored>,
}

#[derive(Debug)]
struct Volumes {
    dataset: hdf5::Dataset,
    chunks: Option<Chunks>,
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

#[derive(Debug)]
struct Meshes {
    vertex_offsets: Vec<usize>,
    triangle_offsets: Vec<usize>,
    vertices: hdf5::Dataset,
    triangles: hdf5::Dataset,
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
        let file = Reader { file: file_builder().open(&path).at(&path, "/")?, path: path.clone() };
        file.check_root()?;
        let meta = file.meta()?;
        let items = file.dataset("labels", &u32::type_descriptor(), &[], MAX_ITEMS)?.1;
        if items == 0 {
            return Err(file.malformed("labels", "at least one item", "none"));
        }
        let (points, meshes) = (file.points(items)?, file.meshes(items)?);
        let sources_do = (points.is_some() && meta.voxeliser.is_some())
            || (meshes.is_some() && meta.mesh_voxeliser.is_some());
        let volumes = match file.file.link_exists("volumes") {
            false if sources_do => None,
            _ => Some(file.volumes(&meta, items)?),
        };
        Ok(Self {
            labels: file.labels(items, meta.class_names.len())?,
            splits: file.splits(items)?,
            ids: file.texts::<MAX_ID_BYTES>("ids", items)?,
            origins: file.origins(items)?,
            groups: file.optional("groups", |name| file.texts::<MAX_ID_BYTES>(name, items))?,
            sources: file
                .optional("sources", |name| file.texts::<MAX_SOURCE_BYTES>(name, items))?,
            checksums: file.optional("checksums", |name| {
                let bytes = file.list::<u8>(name, &[32], MAX_ITEMS, Some(items))?;
                Ok(bytes.as_chunks().0.to_vec())
            })?,
            skipped: file.optional("skipped", |_| file.skipped())?.unwrap_or_default(),
            stored: file.optional("tasks", |_| Stored::open(&file, &meta, items))?,
            volumes,
            points,
            meshes,
            path,
            meta,
        })
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

    /// Group of each item, empty where it has none; items of one group belong in one split.
    pub fn groups(&self) -> Option<&[String]> {
        self.groups.as_deref()
    }

    /// The file that each item was made from.
    pub fn sources(&self) -> Option<&[String]> {
        self.sources.as_deref()
    }

    /// The files that the build left out.
    pub fn skipped(&self) -> &[Skipped] {
        &self.skipped
    }

    /// SHA-256 of each item, as `FORMAT.md` defines it.
    pub fn checksums(&self) -> Option<&[[u8; 32]]> {
        self.checksums.as_deref()
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

    /// Are there meshes for the items?
    pub fn has_meshes(&self) -> bool {
        self.meshes.is_some()
    }

    /// Are there points or meshes and the voxeliser that makes the volumes from them?
    pub fn can_voxelise(&self) -> bool {
        (self.has_points() && self.meta.voxeliser.is_some())
            || (self.has_meshes() && self.meta.mesh_voxeliser.is_some())
    }

    /// Are the volumes stored? Else [`Dataset::read`] makes them from the points or meshes.
    pub fn has_volumes(&self) -> bool {
        self.volumes.is_some()
    }

    /// Reads the volume of an item.
    ///
    /// # Errors
    /// If there is no such item, the file is damaged, or a value is not finite.
    pub fn read(&self, item: usize) -> Result<Volume, DatasetError> {
        let at_item = |source| self.at_item(item, source);
        let grid = self.meta.grid().map_err(at_item)?;
        self.check_item(item)?;
        let mut data = vec![0.0; self.meta.item_len()];
        self.values(item, &mut data)?;
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
            self.values(item, target)?;
            check_finite("volume", target).map_err(|source| self.at_item(item, source))?;
        }
        Ok(())
    }

    pub(super) fn at_item(&self, item: usize, source: VolumeError) -> DatasetError {
        DatasetError::Volume { path: self.path.clone(), item, source }
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
        let at_item = |source| self.at_item(item, source);
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

    /// Reads the mesh of an item; `None` if the dataset stores none.
    ///
    /// # Errors
    /// If there is no such item, the file is damaged, or a coordinate or index is out of range.
    pub fn mesh(&self, item: usize) -> Result<Option<Mesh>, DatasetError> {
        self.check_item(item)?;
        let Some(meshes) = &self.meshes else { return Ok(None) };
        let rows = |offsets: &[usize]| offsets[item]..offsets[item + 1];
        let vertices: Vec<f64> = meshes
            .vertices
            .read_slice::<f64, _, ndarray::Ix2>((rows(&meshes.vertex_offsets), ..))
            .at(&self.path, "meshes/vertices")?
            .into_raw_vec_and_offset()
            .0;
        let triangles: Vec<u32> = meshes
            .triangles
            .read_slice::<u32, _, ndarray::Ix2>((rows(&meshes.triangle_offsets), ..))
            .at(&self.path, "meshes/triangles")?
            .into_raw_vec_and_offset()
            .0;
        let mesh = Mesh::new(vertices.as_chunks().0.to_vec(), triangles.as_chunks().0.to_vec());
        mesh.map(Some).map_err(|source| self.at_item(item, source))
    }

    pub(super) fn check_item(&self, item: usize) -> Result<(), DatasetError> {
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

    /// Writes the values of an item, not checked to be finite, to a slice of their number.
    fn values(&self, item: usize, target: &mut [f32]) -> Result<(), DatasetError> {
        self.check_item(item)?;
        let chunks = self.volumes.as_ref().and_then(|volumes| volumes.chunks.as_ref());
        if let (Storage::F32, Some(chunks)) = (self.meta.storage, chunks)
            && chunks.read_f32(item, target).is_some()
        {
            return Ok(());
        }
        let Some(bytes) = self.stored(item)? else { return self.voxelise(item, target) };
        match self.meta.storage {
            Storage::F32 => {
                let values = bytes.as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes));
                target.iter_mut().zip(values).for_each(|(target, value)| *target = value);
            }
            Storage::U8 { scale } => {
                let values = bytes.iter().map(|&byte| (f64::from(byte) * scale) as f32);
                target.iter_mut().zip(values).for_each(|(target, value)| *target = value);
            }
        }
        Ok(())
    }

    /// The values of an item as stored, little-endian; `None` if no volumes are stored.
    pub(super) fn stored(&self, item: usize) -> Result<Option<Vec<u8>>, DatasetError> {
        self.check_item(item)?;
        let Some(volumes) = &self.volumes else { return Ok(None) };
        if let Some(bytes) = volumes.chunks.as_ref().and_then(|chunks| chunks.read(item)) {
            return Ok(Some(bytes));
        }
        let selection = (item, .., .., .., ..);
        match self.meta.storage {
            Storage::F32 => volumes
                .dataset
                .read_slice::<f32, _, Ix4>(selection)
                .map(|array| array.iter().flat_map(|value| value.to_le_bytes()).collect()),
            Storage::U8 { .. } => volumes
                .dataset
                .read_slice::<u8, _, Ix4>(selection)
                .map(|array| array.into_raw_vec_and_offset().0),
        }
        .map(Some)
        .at(&self.path, "volumes")
    }

    /// Values made from the points or the mesh of an item.
    fn voxelise(&self, item: usize, target: &mut [f32]) -> Result<(), DatasetError> {
        let volume = self.made_from_source(item, &Rotation::identity())?;
        let volume = volume.expect("open() asks for volumes or what makes them");
        target.copy_from_slice(volume.data());
        Ok(())
    }

    /// The volume made from the points or the mesh of an item after a rotation; `None` if the dataset
    /// does not store both a source and its voxeliser.
    pub(crate) fn made_from_source(
        &self,
        item: usize,
        rotation: &Rotation,
    ) -> Result<Option<Volume>, DatasetError> {
        let volume = match (&self.meta.voxeliser, self.points(item)?) {
            (Some(voxeliser), Some(points)) => Some(voxeliser.voxelise(&points, rotation)),
            _ => match (&self.meta.mesh_voxeliser, self.mesh(item)?) {
                (Some(voxeliser), Some(mesh)) => Some(voxeliser.voxelise(&mesh, rotation)),
                _ => None,
            },
        };
        volume.transpose().map_err(|source| self.at_item(item, source))
    }

    /// The SHA-256 of an item as it is now in the file.
    pub(super) fn computed_checksum(&self, item: usize) -> Result<[u8; 32], DatasetError> {
        let (stored, voxel_labels) = (self.stored(item)?, self.voxel_labels(item)?);
        Ok(checksum(&Content {
            id: &self.ids[item],
            label: self.labels[item],
            origin: self.origins[item],
            stored: stored.as_deref().unwrap_or_default(),
            points: self.points(item)?.as_ref(),
            mesh: self.mesh(item)?.as_ref(),
            tasks: self.tasks().is_some().then_some((self.targets(item), &voxel_labels)),
        }))
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
pub(super) struct Reader {
    file: hdf5::File,
    path: PathBuf,
}

impl Reader {
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn malformed(
        &self,
        object: &str,
        expected: impl Into<String>,
        found: impl Into<String>,
    ) -> DatasetError {
        DatasetError::Malformed {
            path: self.path.clone(),
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
        let name = format.read_scalar::<FixedAscii<32>>().at(&self.path, "attribute format")?;
        if name.as_bytes() != FORMAT_NAME.as_bytes() {
            let found = String::from_utf8_lossy(name.as_bytes()).into_owned();
            return Err(self.malformed("attribute format", FORMAT_NAME, found));
        }
        let unsigned = TypeDescriptor::Unsigned(IntSize::U4);
        let version = self
            .attribute("schema_version", |dtype| *dtype == unsigned)?
            .read_scalar::<u32>()
            .at(&self.path, "attribute schema_version")?;
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
        let dtype = dtype.at(&self.path, &object)?;
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
        meta.check().map_err(|source| DatasetError::Meta { path: self.path.clone(), source })?;
        Ok(meta)
    }

    fn skipped(&self) -> Result<Vec<Skipped>, DatasetError> {
        let json = self.list::<u8>("skipped", &[], MAX_SKIPPED_BYTES, None)?;
        serde_json::from_slice(&json)
            .map_err(|e| self.malformed("skipped", "the JSON of FORMAT.md", e.to_string()))
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

    /// Reads an object that may be missing.
    fn optional<T>(
        &self,
        name: &str,
        read: impl FnOnce(&str) -> Result<T, DatasetError>,
    ) -> Result<Option<T>, DatasetError> {
        self.file.link_exists(name).then(|| read(name)).transpose()
    }

    fn volumes(&self, meta: &DatasetMeta, items: usize) -> Result<Volumes, DatasetError> {
        let value = match meta.storage {
            Storage::F32 => TypeDescriptor::Float(FloatSize::U4),
            Storage::U8 { .. } => TypeDescriptor::Unsigned(IntSize::U1),
        };
        let [d, h, w] = meta.dims;
        let row = [meta.channels, d, h, w];
        let (dataset, found) = self.dataset("volumes", &value, &row, MAX_ITEMS)?;
        self.check_count("volumes", items, found)?;
        let count = dataset.num_chunks();
        if count != Some(items) {
            let expected = format!("one chunk for each of {items} items");
            return Err(self.malformed("volumes", expected, format!("{count:?} chunks")));
        }
        let chunks = Chunks::find(&self.path, &dataset, &[items, meta.channels, d, h, w]);
        Ok(Volumes { dataset, chunks })
    }

    /// Fixed-length UTF-8 strings.
    fn texts<const BYTES: usize>(
        &self,
        name: &str,
        items: usize,
    ) -> Result<Vec<String>, DatasetError> {
        let texts = self.list::<FixedUnicode<BYTES>>(name, &[], MAX_ITEMS, Some(items))?;
        texts
            .iter()
            .map(|text| String::from_utf8(text.as_bytes().to_vec()))
            .collect::<Result<_, _>>()
            .map_err(|e| self.malformed(name, "UTF-8 text", e.to_string()))
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
        let offsets = self.offsets("points/offsets", items, count)?;
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

    fn meshes(&self, items: usize) -> Result<Option<Meshes>, DatasetError> {
        if !self.file.link_exists("meshes") {
            return Ok(None);
        }
        let float = TypeDescriptor::Float(FloatSize::U8);
        let index = TypeDescriptor::Unsigned(IntSize::U4);
        let (vertices, v) = self.dataset("meshes/vertices", &float, &[3], MAX_POINTS)?;
        let (triangles, t) = self.dataset("meshes/triangles", &index, &[3], MAX_POINTS)?;
        Ok(Some(Meshes {
            vertex_offsets: self.offsets("meshes/vertex_offsets", items, v)?,
            triangle_offsets: self.offsets("meshes/triangle_offsets", items, t)?,
            vertices,
            triangles,
        }))
    }

    /// Offsets of the rows of each item, which end at `count`.
    fn offsets(&self, name: &str, items: usize, count: usize) -> Result<Vec<usize>, DatasetError> {
        let offsets = self.list::<u64>(name, &[], MAX_ITEMS + 1, Some(items + 1))?;
        let rising = offsets.windows(2).all(|pair| pair[0] <= pair[1]);
        if !rising || offsets[0] != 0 || offsets[items] != count as u64 {
            let expected = format!("offsets that rise from 0 to {count}");
            return Err(self.malformed(name, expected, "others"));
        }
        Ok(offsets.into_iter().map(|offset| offset as usize).collect())
    }

    /// All values of a dataset of `count` rows (if given) of shape `row`.
    pub(super) fn list<T: hdf5::H5Type>(
        &self,
        name: &str,
        row: &[usize],
        limit: usize,
        count: Option<usize>,
    ) -> Result<Vec<T>, DatasetError> {
        let (dataset, found) = self.dataset(name, &T::type_descriptor(), row, limit)?;
        self.check_count(name, count.unwrap_or(found), found)?;
        dataset.read_raw().at(&self.path, name)
    }

    pub(super) fn check_count(
        &self,
        name: &str,
        expected: usize,
        found: usize,
    ) -> Result<(), DatasetError> {
        if expected == found {
            return Ok(());
        }
        Err(self.malformed(name, format!("{expected} rows"), format!("{found}")))
    }

    /// Opens a dataset and returns it with its number of rows, having checked its type, the shape
    /// of its rows, its filters and that neither it nor one of its chunks is huge.
    pub(super) fn dataset(
        &self,
        name: &str,
        dtype: &TypeDescriptor,
        row: &[usize],
        limit: usize,
    ) -> Result<(hdf5::Dataset, usize), DatasetError> {
        if !self.file.link_exists(name.split('/').next().unwrap_or(name)) {
            return Err(self.malformed(name, "a dataset", "none"));
        }
        let dataset = self.file.dataset(name).at(&self.path, name)?;
        let found = dataset.dtype().and_then(|d| d.to_descriptor()).at(&self.path, name)?;
        if found != *dtype {
            return Err(self.malformed(name, dtype.to_string(), found.to_string()));
        }
        let shape = dataset.get_shape().at(&self.path, name)?;
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
        self.check_stored(name, &dataset, &[&shape, &chunk])?;
        Ok((dataset, shape[0]))
    }

    /// Compares what a dataset and its chunks declare with the bytes that the file has of them, so
    /// that a small file does not reserve a large memory.
    fn check_stored(
        &self,
        name: &str,
        dataset: &hdf5::Dataset,
        shapes: &[&[usize]],
    ) -> Result<(), DatasetError> {
        /// Deflate makes at most this many bytes of one.
        const RATIO: u64 = 1032;
        let stored = dataset.storage_size().min(self.file.size());
        let width = dataset.dtype().at(&self.path, name)?.size() as u64;
        let bytes =
            |shape: &[usize]| shape.iter().fold(width, |bytes, &n| bytes.saturating_mul(n as u64));
        // Without a row there need not be a chunk.
        let rows = dataset.shape()[0];
        let declared = shapes.iter().map(|shape| bytes(shape)).max().filter(|_| rows > 0);
        match declared {
            Some(declared) if declared > stored.saturating_mul(RATIO) => {
                let expected = format!("{declared} bytes in at least 1/{RATIO} of that");
                Err(self.malformed(name, expected, format!("{stored} bytes")))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(all(test, unix, feature = "static-hdf5"))]
mod tests {
    use steer3d_so3::Stream;

    use super::*;
    use crate::dataset::{DatasetWriter, Item, Provenance};

    #[test]
    fn chunks_decoded_here_and_by_the_library_are_equal() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("set.h5");
        for storage in [Storage::F32, Storage::U8 { scale: 1.0 }] {
            let meta = DatasetMeta {
                name: String::new(),
                class_names: vec!["a".to_owned()],
                channels: 1,
                dims: [7, 9, 13],
                voxel_size: [1.0; 3],
                unit: "voxel".to_owned(),
                irreps: "1x0".parse().unwrap(),
                storage,
                provenance: Provenance::default(),
                voxeliser: None,
                mesh_voxeliser: None,
            };
            let mut writer = DatasetWriter::create(&path, meta.clone()).unwrap();
            for item in 0..32u64 {
                let mut stream = Stream::new(0, "chunk", &[item]);
                let levels = 1 + stream.below(256);
                let data = (0..819).map(|_| stream.below(levels) as f32).collect();
                let volume = Volume::centred(data, 1, meta.grid().unwrap()).unwrap();
                let id = item.to_string();
                writer.push(&Item { volume: Some(&volume), id: &id, ..Item::default() }).unwrap();
            }
            writer.finish().unwrap();
            let mut dataset = Dataset::open(&path).unwrap();
            let chunks = dataset.volumes.as_mut().unwrap().chunks.take().unwrap();
            for item in 0..32 {
                // Without `chunks`, the dataset asks the library.
                assert_eq!(chunks.read(item), dataset.stored(item).unwrap(), "{item}");
                if storage == Storage::F32 {
                    let mut values = vec![0.0; 819];
                    chunks.read_f32(item, &mut values).unwrap();
                    assert_eq!(values, dataset.read(item).unwrap().data(), "{item}");
                }
            }
        }
    }
}
