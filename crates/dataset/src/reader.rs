//! Reading datasets.

use std::borrow::Cow;
use std::io::Read;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use hdf5_reader::{Datatype, StringSize};
use nalgebra::Matrix3;
use rayon::prelude::*;
use serde::de::DeserializeOwned;
use steer3d_files::digest::PartHasher;
use steer3d_files::hex;
use steer3d_files::memory::{self, NoRoom};
use steer3d_so3::Rotation;
use steer3d_volume::mesh::Mesh;
use steer3d_volume::points::{PointCloud, PointValue};
use steer3d_volume::volume::{Grid, Volume, VolumeError, check_finite};

use crate::chunks::Chunks;
use crate::columns::{self, Column};
use crate::error::{Context, DatasetError, wrong_argument};
use crate::item::Item;
use crate::meta::{
    DatasetMeta, FORMAT_NAME, Grids, Provenance, SCHEMA_VERSION, Skipped, Split, Storage, Tasks,
};
use crate::stored::{StoredFile, name_of};

/// A dataset on disk: its description, labels, splits and identifiers are in memory, volumes and
/// sources are read when asked for, by any number of threads at once.
#[derive(Debug)]
pub struct Dataset {
    file: StoredFile,
    meta: DatasetMeta,
    labels: Vec<u32>,
    splits: Vec<Split>,
    ids: Vec<String>,
    origins: Vec<[f64; 3]>,
    groups: Option<Vec<String>>,
    sources: Option<Vec<String>>,
    checksums: Option<Vec<[u8; 32]>>,
    skipped: Vec<Skipped>,
    volumes: Option<Chunks>,
    /// Where each item has its own grid.
    grids: Option<ItemGrids>,
    points: Option<Points>,
    meshes: Option<Meshes>,
    tasks: Option<StoredTasks>,
    digest: OnceLock<String>,
}

/// The grid of each item.
#[derive(Debug)]
struct ItemGrids {
    grids: Vec<Grid>,
    directions: Vec<Matrix3<f64>>,
    /// Of the voxels.
    offsets: Vec<usize>,
}

#[derive(Debug)]
struct Points {
    offsets: Vec<usize>,
    positions: Chunks,
    channels: Chunks,
    /// Degrees and values.
    carried: Option<(Chunks, Chunks)>,
}

#[derive(Debug)]
struct Meshes {
    vertex_offsets: Vec<usize>,
    triangle_offsets: Vec<usize>,
    vertices: Chunks,
    triangles: Chunks,
}

/// The targets and voxel labels.
#[derive(Debug)]
struct StoredTasks {
    tasks: Tasks,
    targets: Vec<f64>,
    voxel_labels: Option<Chunks>,
}

impl Dataset {
    /// Opens a dataset and checks everything but the values of its volumes and points.
    ///
    /// # Errors
    /// If the file is missing, is not an HDF5 file, is damaged, or does not follow the schema.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, DatasetError> {
        let path = path.into();
        check_signature(&path)?;
        let file = StoredFile::open(path.clone())?;
        let version = check_root(&file)?;
        let mut meta: DatasetMeta = json(&file, &columns::META)?;
        meta.check().map_err(|source| DatasetError::Meta { path: path.clone(), source })?;
        if version != meta.grids.version() {
            let expected = format!("version {} for its grids", meta.grids.version());
            return Err(file.malformed("attribute schema_version", expected, version.to_string()));
        }
        let (needed, limit) = (meta.bytes_to_read(), memory::limit());
        if needed > limit {
            return Err(NoRoom { needed, limit }).at(&path, "volumes");
        }
        let items = file.column(&columns::LABELS, None)?.1;
        if items == 0 {
            return Err(file.malformed("labels", "at least one item", "none"));
        }
        meta.recipe = file.has("recipe").then(|| json(&file, &columns::RECIPE)).transpose()?;
        meta.check_recipe()
            .map_err(|e| file.malformed("recipe", "one of these volumes", e.to_string()))?;
        let points = file.has("points").then(|| points(&file, items)).transpose()?;
        let meshes = file.has("meshes").then(|| meshes(&file, items)).transpose()?;
        let sources_do = (points.is_some() && meta.voxeliser.is_some())
            || (meshes.is_some() && meta.mesh_voxeliser.is_some());
        let grids = match meta.grids {
            Grids::One => None,
            Grids::Each => Some(grids(&file, &meta, items)?),
        };
        let volumes = match file.has("volumes") {
            false if sources_do => None,
            _ => Some(volumes(&file, &meta, items, grids.as_ref())?),
        };
        let skipped = file.has("skipped").then(|| json(&file, &columns::SKIPPED)).transpose()?;
        let groups = file.has("groups").then(|| file.list(&columns::GROUPS, Some(items)));
        let sources = file.has("sources").then(|| file.list(&columns::SOURCES, Some(items)));
        let checksums = file.has("checksums").then(|| file.list(&columns::CHECKSUMS, Some(items)));
        Ok(Self {
            labels: labels(&file, items, meta.label_end())?,
            splits: splits(&file, items)?,
            ids: file.list(&columns::IDS, Some(items))?,
            origins: finite(&file, &columns::ORIGINS, items)?.as_chunks().0.to_vec(),
            groups: groups.transpose()?,
            sources: sources.transpose()?,
            checksums: checksums.transpose()?.map(|bytes| bytes.as_chunks().0.to_vec()),
            skipped: skipped.unwrap_or_default(),
            tasks: file
                .has("tasks")
                .then(|| stored_tasks(&file, &meta, items, grids.as_ref()))
                .transpose()?,
            volumes,
            grids,
            points,
            meshes,
            digest: OnceLock::new(),
            file,
            meta,
        })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.file.path
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

    /// Label of each item, an index into the class names; 0 where there are none.
    pub fn labels(&self) -> &[u32] {
        &self.labels
    }

    /// Class of an item; `None` without classes.
    ///
    /// # Panics
    /// If there is no such item.
    pub fn class(&self, item: usize) -> Option<&str> {
        self.meta.class_names.get(self.labels[item] as usize).map(String::as_str)
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

    /// SHA-256 of each item, as `docs/src/guide/dataset-file.md` defines it.
    pub fn checksums(&self) -> Option<&[[u8; 32]]> {
        self.checksums.as_deref()
    }

    /// How many items there is memory to read at a time, at least 1.
    pub(crate) fn at_once(&self) -> usize {
        usize::try_from(memory::limit() / self.meta.bytes_to_read()).unwrap_or(usize::MAX).max(1)
    }

    /// Indices of the items of a split, in order.
    pub fn indices(&self, split: Split) -> Vec<usize> {
        (0..self.len()).filter(|&i| self.splits[i] == split).collect()
    }

    /// Number of items of each class in a split; empty without classes.
    pub fn class_counts(&self, split: Split) -> Vec<usize> {
        let mut counts = vec![0; self.meta.class_names.len()];
        for i in self.indices(split) {
            if let Some(count) = counts.get_mut(self.labels[i] as usize) {
                *count += 1;
            }
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

    /// The grid of the volume of an item.
    ///
    /// # Panics
    /// If there is no such item.
    pub fn grid(&self, item: usize) -> Grid {
        match &self.grids {
            Some(grids) => grids.grids[item],
            None => self.meta.grid().expect("open() has checked it"),
        }
    }

    /// The directions of the axes x, y, z of an item in the coordinates of its file, as columns.
    ///
    /// # Panics
    /// If there is no such item.
    pub fn direction(&self, item: usize) -> Matrix3<f64> {
        self.grids.as_ref().map_or_else(Matrix3::identity, |grids| grids.directions[item])
    }

    /// Values in the volume of an item.
    ///
    /// # Panics
    /// If there is no such item.
    pub fn item_len(&self, item: usize) -> usize {
        self.meta.channels * self.grid(item).voxels()
    }

    /// The rows of an item in a column of volumes, of `each` values a voxel where each item has its own grid.
    fn rows_of(&self, item: usize, each: usize) -> Range<usize> {
        match &self.grids {
            Some(grids) => each * grids.offsets[item]..each * grids.offsets[item + 1],
            None => item..item + 1,
        }
    }

    /// Reads the volume of an item.
    ///
    /// # Errors
    /// If there is no such item, the file is damaged, or a value is not finite.
    pub fn read(&self, item: usize) -> Result<Volume, DatasetError> {
        let at_item = |source| self.at_item(item, source);
        self.check_item(item)?;
        let mut data = vec![0.0; self.item_len(item)];
        self.values(item, &mut data)?;
        let (channels, origin) = (self.meta.channels, self.origins[item]);
        Volume::new(data, channels, self.grid(item), origin).map_err(at_item)
    }

    /// The grid of some items.
    ///
    /// # Errors
    /// If there are none, no such item, or items of several shapes D, H, W.
    pub fn grid_of(&self, items: &[usize]) -> Result<Grid, DatasetError> {
        items.iter().try_for_each(|&item| self.check_item(item))?;
        let mut grids = items.iter().map(|&item| self.grid(item));
        let Some(first) = grids.next() else {
            return wrong_argument(self.path(), "items", "at least one", "none".to_owned());
        };
        match grids.find(|grid| grid.dims() != first.dims()) {
            None => Ok(first),
            Some(other) => {
                let found = format!("{:?} and {:?}", first.dims(), other.dims());
                let expected = "one shape D, H, W; take patches, or these one by one";
                wrong_argument(self.path(), "items of a batch", expected, found)
            }
        }
    }

    /// Edges (x, y, z) of the voxels of an item, where items have grids of their own.
    pub fn own_voxel_size(&self, item: usize) -> Option<[f64; 3]> {
        (self.meta().grids == Grids::Each).then(|| self.grid(item).voxel_size())
    }

    /// Reads volumes one after the other into `target`, N × C × D × H × W values.
    ///
    /// # Errors
    /// As [`Dataset::read`] and [`Dataset::grid_of`], and if `target` has another length.
    pub fn read_many(&self, items: &[usize], target: &mut [f32]) -> Result<(), DatasetError> {
        if items.is_empty() && target.is_empty() {
            return Ok(());
        }
        let len = self.meta.channels * self.grid_of(items)?.voxels();
        if target.len() != items.len() * len {
            let expected = format!("{} × {len}", items.len());
            let found = target.len().to_string();
            return wrong_argument(self.path(), "length of the target", expected, found);
        }
        for (&item, target) in items.iter().zip(target.chunks_exact_mut(len)) {
            self.values(item, target)?;
            check_finite("volume", target).map_err(|source| self.at_item(item, source))?;
        }
        Ok(())
    }

    pub(crate) fn at_item(&self, item: usize, source: VolumeError) -> DatasetError {
        DatasetError::Volume { path: self.file.path.clone(), item, source }
    }

    /// Reads the points of an item; `None` if the dataset stores none.
    ///
    /// # Errors
    /// If there is no such item, the file is damaged, or a coordinate or channel is out of range.
    pub fn points(&self, item: usize) -> Result<Option<PointCloud>, DatasetError> {
        self.check_item(item)?;
        let Some(points) = &self.points else { return Ok(None) };
        let rows = points.offsets[item]..points.offsets[item + 1];
        let positions = self.file.rows(&columns::POSITIONS, &points.positions, rows.clone())?;
        let channels = self.file.rows(&columns::POINT_CHANNELS, &points.channels, rows.clone())?;
        let at_item = |source| self.at_item(item, source);
        let mut cloud =
            PointCloud::new(positions.as_chunks().0.to_vec(), channels).map_err(at_item)?;
        if let Some((degrees, values)) = &points.carried {
            let degrees = self.file.rows(&columns::DEGREES, degrees, rows.clone())?;
            let values = self.file.rows(&columns::POINT_VALUES, values, rows)?;
            let value = |(&degree, &row): (&u8, &[f64; 3])| match degree {
                0 => Ok(PointValue::Scalar(row[0])),
                1 => Ok(PointValue::Vector(row)),
                _ => Err(self.file.malformed("points/degrees", "0 or 1", degree.to_string())),
            };
            let values = degrees.iter().zip(values.as_chunks().0).map(value);
            cloud = cloud.with_values(values.collect::<Result<_, _>>()?).map_err(at_item)?;
        }
        if let Some(channel) = cloud.channel_beyond(self.meta.channels) {
            let expected = format!("channels below {}", self.meta.channels);
            return Err(self.file.malformed("points/channels", expected, channel.to_string()));
        }
        Ok(Some(cloud))
    }

    /// Reads the mesh of an item; `None` if the dataset stores none.
    ///
    /// # Errors
    /// If there is no such item, the file is damaged, or a coordinate or index is out of range.
    pub fn mesh(&self, item: usize) -> Result<Option<Mesh>, DatasetError> {
        self.check_item(item)?;
        let Some(meshes) = &self.meshes else { return Ok(None) };
        let rows = |offsets: &[usize]| offsets[item]..offsets[item + 1];
        let vertices =
            self.file.rows(&columns::VERTICES, &meshes.vertices, rows(&meshes.vertex_offsets))?;
        let triangles = self.file.rows(
            &columns::TRIANGLES,
            &meshes.triangles,
            rows(&meshes.triangle_offsets),
        )?;
        let mesh = Mesh::new(vertices.as_chunks().0.to_vec(), triangles.as_chunks().0.to_vec());
        mesh.map(Some).map_err(|source| self.at_item(item, source))
    }

    pub(crate) fn check_item(&self, item: usize) -> Result<(), DatasetError> {
        if item < self.len() {
            return Ok(());
        }
        let expected = format!("below {}", self.len());
        wrong_argument(self.path(), "index of an item", expected, item.to_string())
    }

    /// Writes the values of an item, not checked to be finite, to a slice of their number.
    fn values(&self, item: usize, target: &mut [f32]) -> Result<(), DatasetError> {
        self.check_item(item)?;
        let Some(volumes) = &self.volumes else { return self.voxelise(item, target) };
        if self.meta.storage == Storage::F32 && self.grids.is_none() {
            return volumes
                .read_f32(item, target)
                .map_err(|found| self.file.damaged("volumes", format!("{found} at item {item}")));
        }
        let bytes = self.stored(item)?.unwrap_or_default();
        target.iter_mut().zip(self.decoded(&bytes)).for_each(|(target, value)| *target = value);
        Ok(())
    }

    /// Position x, y, z of the first voxel of an item.
    pub(crate) fn origin(&self, item: usize) -> [f64; 3] {
        self.origins[item]
    }

    /// The values of some planes of constant z of an item, C × planes × H × W; of the stored ones alone where each item has
    /// its own grid.
    pub(crate) fn planes(
        &self,
        item: usize,
        planes: Range<usize>,
    ) -> Result<Vec<f32>, DatasetError> {
        let [d, h, w] = self.grid(item).dims();
        let (Some(volumes), Some(grids)) = (&self.volumes, &self.grids) else {
            let mut values = vec![0.0; self.item_len(item)];
            self.values(item, &mut values)?;
            let part = planes.start * h * w..planes.end * h * w;
            let channels = values.chunks(d * h * w);
            return Ok(channels.flat_map(|values| &values[part.clone()]).copied().collect());
        };
        let mut values = Vec::with_capacity(self.meta.channels * planes.len() * h * w);
        for channel in 0..self.meta.channels {
            let first = self.meta.channels * grids.offsets[item] + channel * d * h * w;
            let bytes = volumes
                .read(first + planes.start * h * w..first + planes.end * h * w)
                .map_err(|found| self.file.damaged("volumes", format!("{found} at item {item}")))?;
            values.extend(self.decoded(&bytes));
        }
        Ok(values)
    }

    /// Values of their bytes as stored, little-endian.
    fn decoded<'a>(&self, bytes: &'a [u8]) -> Box<dyn Iterator<Item = f32> + 'a> {
        match self.meta.storage {
            Storage::F32 => {
                Box::new(bytes.as_chunks().0.iter().map(|&value| f32::from_le_bytes(value)))
            }
            Storage::U8 { scale } => {
                Box::new(bytes.iter().map(move |&byte| (f64::from(byte) * scale) as f32))
            }
        }
    }

    /// The values of an item as stored, little-endian; `None` if no volumes are stored.
    fn stored(&self, item: usize) -> Result<Option<Vec<u8>>, DatasetError> {
        let read = |volumes: &Chunks| volumes.read(self.rows_of(item, self.meta.channels));
        let bytes = self.volumes.as_ref().map(read).transpose();
        bytes.map_err(|found| self.file.damaged("volumes", format!("{found} at item {item}")))
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

    /// What there is to predict beside the classes of items, if there is something.
    pub fn tasks(&self) -> Option<&Tasks> {
        self.tasks.as_ref().map(|stored| &stored.tasks)
    }

    /// The target values of an item as it is stored; none without targets.
    ///
    /// # Panics
    /// If there is no such item.
    pub fn targets(&self, item: usize) -> &[f64] {
        assert!(item < self.len(), "item {item} of {}", self.len());
        self.tasks.as_ref().map_or(&[][..], |stored| {
            let width = stored.tasks.target_len();
            &stored.targets[item * width..][..width]
        })
    }

    /// The labels of the voxels of an item, D × H × W; none without such labels.
    ///
    /// # Errors
    /// If there is no such item, the file is damaged, or a label is not below the number of classes.
    pub fn voxel_labels(&self, item: usize) -> Result<Vec<u8>, DatasetError> {
        self.check_item(item)?;
        let Some(stored) = &self.tasks else { return Ok(vec![]) };
        let Some(chunks) = &stored.voxel_labels else { return Ok(vec![]) };
        let column = columns::voxel_labels(&self.meta);
        let labels = self.file.rows(&column, chunks, self.rows_of(item, 1))?;
        let classes = stored.tasks.voxel_classes.len();
        match labels.iter().find(|&&label| usize::from(label) >= classes) {
            None => Ok(labels),
            Some(label) => {
                let found = format!("{label} in item {item}");
                Err(self.file.malformed("voxel_labels", format!("labels below {classes}"), found))
            }
        }
    }

    /// The SHA-256 of an item as it is now in the file.
    pub(crate) fn computed_checksum(&self, item: usize) -> Result<[u8; 32], DatasetError> {
        let (stored, voxel_labels) = (self.stored(item)?, self.voxel_labels(item)?);
        let (points, mesh) = (self.points(item)?, self.mesh(item)?);
        let content = Item {
            id: &self.ids[item],
            label: self.labels[item],
            points: points.as_ref(),
            mesh: mesh.as_ref(),
            targets: self.targets(item),
            voxel_labels: &voxel_labels,
            ..Item::default()
        };
        let (stored, direction) = (stored.unwrap_or_default(), self.direction(item));
        let grid = self.grids.as_ref().map(|grids| &grids.grids[item]);
        let content = Item { direction: Some(&direction), ..content };
        Ok(content.checksum(&self.origins[item], &stored, self.tasks.is_some(), grid))
    }

    /// SHA-256, in hexadecimal, of all that a training or an evaluation depends on: the description (the provenance
    /// apart), what there is to predict, and id, label, split and checksum of every item. Where the dataset has no
    /// checksums, they are computed from what it holds.
    ///
    /// # Errors
    /// If an item without a checksum cannot be read.
    pub fn digest(&self) -> Result<String, DatasetError> {
        if let Some(known) = self.digest.get() {
            return Ok(known.clone());
        }
        let mut hash = PartHasher::default();
        let meta = DatasetMeta { provenance: Provenance::default(), ..self.meta.clone() };
        hash.add(&meta.to_json());
        hash.add(&serde_json::to_vec(&self.tasks()).expect("plain data have a JSON form"));
        for ((id, label), split) in self.ids.iter().zip(&self.labels).zip(&self.splits) {
            hash.add(id.as_bytes());
            hash.add(&label.to_le_bytes());
            hash.add(split.to_string().as_bytes());
        }
        let sums: Cow<'_, [[u8; 32]]> = if let Some(sums) = self.checksums() {
            sums.into()
        } else {
            let items = (0..self.len()).into_par_iter();
            items.map(|i| self.computed_checksum(i)).collect::<Result<Vec<_>, _>>()?.into()
        };
        sums.iter().for_each(|sum| hash.add(sum));
        Ok(self.digest.get_or_init(|| hex(&hash.finish())).clone())
    }
}

/// Whether a file begins as HDF5 does.
pub fn is_hdf5(path: &Path) -> bool {
    start(path).is_ok_and(|start| start == SIGNATURE)
}

const SIGNATURE: &[u8] = b"\x89HDF\r\n\x1a\n";

/// The first bytes of a file.
fn start(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut start = Vec::new();
    steer3d_files::open(path)?.take(8).read_to_end(&mut start)?;
    Ok(start)
}

/// Looks at the first bytes, which say more clearly than the reader of HDF5 what is wrong.
fn check_signature(path: &Path) -> Result<(), DatasetError> {
    let found = match start(path).at(path, "")?.as_slice() {
        SIGNATURE => return Ok(()),
        [] => "an empty file",
        [b'P', b'K', ..] => "a zip or npz archive",
        [0x93, b'N', b'U', ..] => "an npy array",
        _ => "another format",
    };
    Err(DatasetError::NotHdf5 { path: path.to_owned(), found })
}

/// The version of the schema.
fn check_root(file: &StoredFile) -> Result<u32, DatasetError> {
    let attribute = |name: &str, fits: fn(&Datatype) -> bool| {
        let object = format!("attribute {name}");
        let Some(attribute) = file.attribute(name) else {
            let expected = "a steer3d dataset, which has this attribute";
            return Err(file.malformed(&object, expected, "none"));
        };
        if !attribute.shape.is_empty() || !fits(&attribute.datatype) {
            let datatype = name_of(&attribute.datatype);
            let found = format!("shape {:?} of {datatype}", attribute.shape);
            return Err(file.malformed(&object, "a scalar of the type that the layout has", found));
        }
        Ok(attribute)
    };
    let short = |datatype: &Datatype| {
        matches!(datatype, Datatype::String { size: StringSize::Fixed(..=32), .. })
    };
    let name = String::from_utf8_lossy(&attribute("format", short)?.raw_data).into_owned();
    if name.trim_end_matches('\0') != FORMAT_NAME {
        return Err(file.malformed("attribute format", FORMAT_NAME, format!("{name:?}")));
    }
    let unsigned = |datatype: &Datatype| {
        matches!(datatype, Datatype::FixedPoint { size: 4, signed: false, .. })
    };
    let version = attribute("schema_version", unsigned)?.read_scalar::<u32>();
    let version = version.at(&file.path, "attribute schema_version")?;
    if !(1..=SCHEMA_VERSION).contains(&version) {
        return Err(file.malformed(
            "attribute schema_version",
            format!("version 1 to {SCHEMA_VERSION}, those that this steer3d reads"),
            format!("version {version}"),
        ));
    }
    Ok(version)
}

fn json<T: DeserializeOwned>(file: &StoredFile, column: &Column<u8>) -> Result<T, DatasetError> {
    serde_json::from_slice(&file.list(column, None)?)
        .map_err(|e| file.malformed(column.name, "the JSON of the layout", e.to_string()))
}

fn labels(file: &StoredFile, items: usize, end: usize) -> Result<Vec<u32>, DatasetError> {
    let labels = file.list(&columns::LABELS, Some(items))?;
    match labels.iter().position(|&label| label as usize >= end) {
        None => Ok(labels),
        Some(i) => {
            let found = format!("label {} of item {i}", labels[i]);
            Err(file.malformed("labels", format!("labels below {end}"), found))
        }
    }
}

fn splits(file: &StoredFile, items: usize) -> Result<Vec<Split>, DatasetError> {
    let splits = file.list(&columns::SPLITS, Some(items))?;
    let known = |split: &u8| {
        let found = Split::ALL.get(usize::from(*split)).copied();
        found.ok_or_else(|| file.malformed("splits", "0, 1 or 2", split.to_string()))
    };
    splits.iter().map(known).collect()
}

fn finite(file: &StoredFile, column: &Column<f64>, items: usize) -> Result<Vec<f64>, DatasetError> {
    let values = file.list(column, Some(items))?;
    match values.iter().find(|x| !x.is_finite()) {
        None => Ok(values),
        Some(x) => Err(file.malformed(column.name, "finite numbers", x.to_string())),
    }
}

/// The grids of all items, at most as large as that of the description.
fn grids(file: &StoredFile, meta: &DatasetMeta, items: usize) -> Result<ItemGrids, DatasetError> {
    let dims = file.list(&columns::GRID_DIMS, Some(items))?;
    let sizes = finite(file, &columns::VOXEL_SIZES, items)?;
    let directions = finite(file, &columns::DIRECTIONS, items)?;
    let (dims, sizes) = (dims.as_chunks::<3>().0, sizes.as_chunks::<3>().0);
    let most = meta.dims.iter().product();
    let grid = |(i, (&dims, &size)): (usize, (&[u32; 3], &[f64; 3]))| {
        let wrong = |found: String| {
            let expected = format!("voxel sizes, and at most {most} voxels as the description has");
            file.malformed("grids", expected, format!("{found} for item {i}"))
        };
        let grid = Grid::new(dims.map(|n| n as usize), size).map_err(|e| wrong(e.to_string()))?;
        if grid.voxels() > most { Err(wrong(format!("{dims:?}"))) } else { Ok(grid) }
    };
    let grids: Vec<Grid> =
        dims.iter().zip(sizes).enumerate().map(grid).collect::<Result<_, _>>()?;
    let directions: Vec<Matrix3<f64>> = directions.chunks(9).map(Matrix3::from_row_slice).collect();
    let is_orthogonal = |d: &Matrix3<f64>| (d * d.transpose() - Matrix3::identity()).amax() < 1e-6;
    if let Some(i) = directions.iter().position(|direction| !is_orthogonal(direction)) {
        let found = format!("others for item {i}");
        return Err(file.malformed("grids/directions", "orthogonal matrices", found));
    }
    let offsets = file.list(&columns::VOXEL_OFFSETS, Some(items + 1))?;
    let mut end = 0;
    let mut voxels = grids.iter().map(|grid| {
        end += grid.voxels();
        end
    });
    if offsets[0] != 0 || !offsets[1..].iter().all(|&at| voxels.next() == usize::try_from(at).ok())
    {
        let expected = "the sums of the voxels of the grids";
        return Err(file.malformed("grids/offsets", expected, "others"));
    }
    let offsets = offsets.into_iter().map(|at| at as usize).collect();
    Ok(ItemGrids { grids, directions, offsets })
}

/// Rows of a column of volumes, with `each` values a voxel where each item has its own grid.
fn rows(items: usize, grids: Option<&ItemGrids>, each: usize) -> Option<usize> {
    Some(grids.map_or(items, |grids| each * grids.offsets[items]))
}

fn volumes(
    file: &StoredFile,
    meta: &DatasetMeta,
    items: usize,
    grids: Option<&ItemGrids>,
) -> Result<Chunks, DatasetError> {
    let count = rows(items, grids, meta.channels);
    Ok(match meta.storage {
        Storage::F32 => file.column(&columns::volumes::<f32>(meta), count)?.0,
        Storage::U8 { .. } => file.column(&columns::volumes::<u8>(meta), count)?.0,
    })
}

fn points(file: &StoredFile, items: usize) -> Result<Points, DatasetError> {
    let (positions, count) = file.column(&columns::POSITIONS, None)?;
    let channels = file.column(&columns::POINT_CHANNELS, Some(count))?.0;
    let offsets = offsets(file, &columns::POINT_OFFSETS, items, count)?;
    let carried = file.has(columns::POINT_VALUES.name).then(|| -> Result<_, DatasetError> {
        let values = file.column(&columns::POINT_VALUES, Some(count))?.0;
        Ok((file.column(&columns::DEGREES, Some(count))?.0, values))
    });
    Ok(Points { offsets, positions, channels, carried: carried.transpose()? })
}

fn meshes(file: &StoredFile, items: usize) -> Result<Meshes, DatasetError> {
    let (vertices, vertex_count) = file.column(&columns::VERTICES, None)?;
    let (triangles, triangle_count) = file.column(&columns::TRIANGLES, None)?;
    Ok(Meshes {
        vertex_offsets: offsets(file, &columns::VERTEX_OFFSETS, items, vertex_count)?,
        triangle_offsets: offsets(file, &columns::TRIANGLE_OFFSETS, items, triangle_count)?,
        vertices,
        triangles,
    })
}

/// Offsets of the rows of each item, which end at `count`.
fn offsets(
    file: &StoredFile,
    column: &Column<u64>,
    items: usize,
    count: usize,
) -> Result<Vec<usize>, DatasetError> {
    let offsets = file.list(column, Some(items + 1))?;
    let rising = offsets.windows(2).all(|pair| pair[0] <= pair[1]);
    if !rising || offsets[0] != 0 || offsets[items] != count as u64 {
        let expected = format!("offsets that rise from 0 to {count}");
        return Err(file.malformed(column.name, expected, "others"));
    }
    Ok(offsets.into_iter().map(|offset| offset as usize).collect())
}

fn stored_tasks(
    file: &StoredFile,
    meta: &DatasetMeta,
    items: usize,
    grids: Option<&ItemGrids>,
) -> Result<StoredTasks, DatasetError> {
    let tasks: Tasks = json(file, &columns::TASKS)?;
    if let Some((_, expected, found)) = tasks.fault() {
        return Err(file.malformed("tasks", expected, found));
    }
    let targets = match tasks.target_len() {
        0 => vec![],
        each => finite(file, &columns::targets(each), items)?,
    };
    let has_labels = !tasks.voxel_classes.is_empty();
    let column = columns::voxel_labels(meta);
    let count = rows(items, grids, 1);
    let labels = has_labels.then(|| file.column(&column, count)).transpose()?;
    Ok(StoredTasks { targets, voxel_labels: labels.map(|(labels, _)| labels), tasks })
}
