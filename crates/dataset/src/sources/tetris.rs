//! The eight Tetris shapes, generated.

use std::path::Path;

use steer3d_so3::{Rotation, random_rotations};
use steer3d_volume::points::{PointCloud, Voxeliser};
use steer3d_volume::volume::VolumeError;

use crate::build::build;
use crate::meta::{DatasetMeta, Split};
use crate::source::{
    ArchiveMeta, BuildError, Entry, ImportOptions, ItemData, ItemError, ItemSource,
};

/// Name and cubes of the eight Tetris shapes of Thomas et al. 2018
/// (<https://arxiv.org/abs/1802.08219>, section 5.1) and Weiler et al. 2018 (section 5.1).
const TETRIS: [(&str, [[i8; 3]; 4]); 8] = [
    ("chiral_shape_1", [[0, 0, 0], [0, 0, 1], [1, 0, 0], [1, 1, 0]]),
    ("chiral_shape_2", [[0, 0, 0], [0, 0, 1], [1, 0, 0], [1, -1, 0]]),
    ("square", [[0, 0, 0], [1, 0, 0], [0, 1, 0], [1, 1, 0]]),
    ("line", [[0, 0, 0], [0, 0, 1], [0, 0, 2], [0, 0, 3]]),
    ("corner", [[0, 0, 0], [0, 0, 1], [0, 1, 0], [1, 0, 0]]),
    ("L", [[0, 0, 0], [0, 0, 1], [0, 0, 2], [0, 1, 0]]),
    ("T", [[0, 0, 0], [0, 0, 1], [0, 0, 2], [0, 1, 1]]),
    ("zigzag", [[0, 0, 0], [1, 0, 0], [1, 1, 0], [2, 1, 0]]),
];

/// 15³ voxels of half a cube's edge with σ = 0.4 edges: every orientation of every shape keeps
/// 5 σ from the faces.
pub fn tetris_voxeliser() -> Voxeliser {
    Voxeliser { sigma: 0.4, ..Voxeliser::paper(15, 0.5) }
}

/// The eight Tetris shapes, each four unit cubes centred on their mean, as one Gaussian for each
/// cube.
///
/// The training split is one orientation of each shape, the validation split the same volumes
/// again, and the test split `test_rotations` uniformly random rotations of each shape, drawn with
/// the seed and applied to the points before voxelising. The rotated points are stored.
pub struct Tetris {
    meta: DatasetMeta,
    voxeliser: Voxeliser,
    entries: Vec<Entry>,
    /// The rotation of each item.
    rotations: Vec<Rotation>,
}

/// The name of the dataset, which has no file.
const NAME: &str = "tetris";

impl Tetris {
    /// Draws the rotations.
    ///
    /// # Errors
    /// If the voxeliser is not valid or has not one channel, or an option does not suit.
    pub fn new(
        voxeliser: &Voxeliser,
        test_rotations: usize,
        options: &ImportOptions,
    ) -> Result<Self, BuildError> {
        if voxeliser.channels != 1 {
            return Err(BuildError::Option {
                option: "channels of the voxeliser",
                expected: "1".to_owned(),
                found: voxeliser.channels.to_string(),
            });
        }
        let path = Path::new(NAME);
        let said = ArchiveMeta {
            importer: "tetris",
            path,
            is_file: false,
            class_names: TETRIS.map(|(name, _)| name.to_owned()).to_vec(),
            unit: "cube edge",
            notes: format!(
                "train: one orientation of each shape; validation: the same; test: \
                 {test_rotations} uniformly random rotations of each shape (seed {})",
                options.seed
            ),
        };
        let generated = ImportOptions {
            source: Some("generated: Tetris shapes of Thomas et al. 2018".to_owned()),
            licence: Some("none needed".to_owned()),
            ..options.clone()
        };
        let volumes = voxeliser.grid().and_then(|grid| DatasetMeta::scalars(1, &grid));
        let volumes = volumes.map_err(BuildError::meta(path))?;
        let entry = |shape: usize, split, suffix: &str| Entry {
            id: format!("{}_{suffix}", TETRIS[shape].0),
            label: shape as u32,
            split,
            ..Entry::default()
        };
        let shapes = 0..TETRIS.len();
        let mut entries: Vec<Entry> = [Split::Train, Split::Validation]
            .into_iter()
            .flat_map(|split| shapes.clone().map(move |shape| (shape, split)))
            .map(|(shape, split)| entry(shape, split, &split.to_string()))
            .collect();
        let turns = shapes.flat_map(|shape| (0..test_rotations).map(move |turn| (shape, turn)));
        entries.extend(
            turns.map(|(shape, turn)| entry(shape, Split::Test, &format!("test_{turn:04}"))),
        );
        let mut rotations = vec![Rotation::identity(); 2 * TETRIS.len()];
        rotations.extend(random_rotations(options.seed, TETRIS.len() * test_rotations));
        Ok(Self {
            meta: generated
                .describe(said, DatasetMeta { voxeliser: Some(*voxeliser), ..volumes })?,
            voxeliser: *voxeliser,
            entries,
            rotations,
        })
    }

    fn made(&self, item: usize) -> Result<ItemData, VolumeError> {
        let cubes = TETRIS[self.entries[item].label as usize].1;
        let positions = cubes.map(|cube| cube.map(f64::from)).to_vec();
        let shape = PointCloud::new(positions, vec![0; 4])?.centred();
        let cloud = shape.rotated(&self.rotations[item]);
        let volume = self.voxeliser.voxelise(&cloud, &Rotation::identity())?;
        Ok(ItemData { volume: Some(volume), points: Some(cloud), ..ItemData::default() })
    }
}

impl ItemSource for Tetris {
    fn meta(&self) -> &DatasetMeta {
        &self.meta
    }

    fn entries(&self) -> &[Entry] {
        &self.entries
    }

    fn item(&self, item: usize) -> Result<ItemData, ItemError> {
        self.made(item).map_err(|source| ItemError::Member { path: NAME.into(), item, source })
    }
}

/// Builds the dataset `out` of the [`Tetris`] shapes.
///
/// # Errors
/// As [`Tetris::new`] and [`build`].
pub fn import_tetris(
    out: &Path,
    voxeliser: &Voxeliser,
    test_rotations: usize,
    options: &ImportOptions,
) -> Result<(), BuildError> {
    build(&Tetris::new(voxeliser, test_rotations, options)?, out, false, &|_| {}).map(|_| ())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn tetris_shapes_are_four_distinct_cubes_and_the_chiral_ones_mirror_images() {
        for (name, cubes) in TETRIS {
            assert_eq!(cubes.iter().collect::<BTreeSet<_>>().len(), 4, "{name}");
        }
        let mirrored = TETRIS[0].1.map(|[x, y, z]| [x, -y, z]);
        assert_eq!(mirrored, TETRIS[1].1);
    }
}
