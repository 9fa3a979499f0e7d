//! The eight Tetris shapes, generated.

use std::path::Path;

use steer3d_so3::{Rotation, random_rotations};
use steer3d_volume::points::{PointCloud, Voxeliser};

use crate::build::build;
use crate::meta::{DatasetMeta, Split};
use crate::source::{
    Archive, BuildError, Entry, ImportOptions, Importer, ItemData, ItemSource, Open, wrong_option,
};

pub(crate) const IMPORTER: Importer = Importer {
    name: "tetris",
    open: Open::Generated(|options| {
        let voxeliser = options.voxeliser(tetris_voxeliser())?;
        tetris(&voxeliser, options.test_rotations.unwrap_or(32), options)
    }),
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

/// Most rotations of each shape: the list of items and their rotations are in memory, some 200 bytes each.
const MAX_ROTATIONS: usize = 100_000;

/// 15³ voxels of half a cube's edge with σ = 0.4 edges: every orientation of every shape keeps
/// 5 σ from the faces.
pub fn tetris_voxeliser() -> Voxeliser {
    Voxeliser { sigma: 0.4, ..Voxeliser::paper(15, 0.5) }
}

/// Generates the eight Tetris shapes, each four unit cubes centred on their mean, as one Gaussian for each
/// cube.
///
/// The training split is one orientation of each shape, the validation split the same volumes
/// again, and the test split `test_rotations` uniformly random rotations of each shape, drawn with
/// the seed and applied to the points before voxelising. The rotated points are stored.
///
/// # Errors
/// If the voxeliser is not valid or has not one channel, or an option does not suit.
pub fn tetris(
    voxeliser: &Voxeliser,
    test_rotations: usize,
    options: &ImportOptions,
) -> Result<ItemSource, BuildError> {
    if voxeliser.channels != 1 {
        return wrong_option("channels of the voxeliser", "1", voxeliser.channels.to_string());
    }
    if test_rotations > MAX_ROTATIONS {
        let expected = format!("at most {MAX_ROTATIONS}");
        return wrong_option("test rotations", expected, test_rotations.to_string());
    }
    let path = Path::new("tetris");
    let entry = |shape: usize, split, suffix: &str| {
        let (id, label) = (format!("{}_{suffix}", TETRIS[shape].0), shape as u32);
        Entry { id, label, split, ..Entry::default() }
    };
    let mut entries = Vec::new();
    for split in [Split::Train, Split::Validation] {
        let suffix = split.to_string();
        entries.extend((0..TETRIS.len()).map(|shape| entry(shape, split, &suffix)));
    }
    for k in 0..TETRIS.len() * test_rotations {
        let (shape, turn) = (k / test_rotations, k % test_rotations);
        entries.push(entry(shape, Split::Test, &format!("test_{turn:04}")));
    }
    let mut rotations = vec![Rotation::identity(); 2 * TETRIS.len()];
    rotations.extend(random_rotations(options.seed, TETRIS.len() * test_rotations));
    let shapes: Vec<usize> = entries.iter().map(|entry| entry.label as usize).collect();
    let volumes = voxeliser.grid().and_then(|grid| DatasetMeta::scalars(1, &grid));
    let archive = Archive {
        importer: "tetris",
        path,
        is_file: false,
        class_names: TETRIS.map(|(name, _)| name.to_owned()).to_vec(),
        unit: "cube edge",
        notes: format!(
            "train: one orientation of each shape; validation: the same; test: {test_rotations} \
             uniformly random rotations of each shape (seed {})",
            options.seed
        ),
        volumes: DatasetMeta {
            voxeliser: Some(*voxeliser),
            ..volumes.map_err(BuildError::meta(path))?
        },
        tasks: None,
        entries,
    };
    let generated = ImportOptions {
        source: Some("generated: Tetris shapes of Thomas et al. 2018".to_owned()),
        licence: Some("none needed".to_owned()),
        ..options.clone()
    };
    let voxeliser = *voxeliser;
    generated.source_of(archive, move |item| {
        let positions = TETRIS[shapes[item]].1.map(|cube| cube.map(f64::from)).to_vec();
        let shape = PointCloud::new(positions, vec![0; 4])?.centred();
        let cloud = shape.rotated(&rotations[item]);
        let volume = Some(voxeliser.voxelise(&cloud, &Rotation::identity())?);
        Ok(ItemData { volume, points: Some(cloud), ..ItemData::default() })
    })
}

/// Builds the dataset `out` of the [`tetris`] shapes.
///
/// # Errors
/// As [`tetris`] and [`build`].
pub fn import_tetris(
    out: &Path,
    voxeliser: &Voxeliser,
    test_rotations: usize,
    options: &ImportOptions,
) -> Result<(), BuildError> {
    build(&tetris(voxeliser, test_rotations, options)?, out, false, &|_| {}).map(|_| ())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn too_many_rotations_are_refused_before_they_are_drawn() {
        for rotations in [MAX_ROTATIONS + 1, usize::MAX / 8 + 2, usize::MAX] {
            let options = ImportOptions::default();
            let refused = tetris(&tetris_voxeliser(), rotations, &options).err().unwrap();
            assert!(refused.to_string().contains("at most 100000"), "{refused}");
        }
    }

    #[test]
    fn tetris_shapes_are_four_distinct_cubes_and_the_chiral_ones_mirror_images() {
        for (name, cubes) in TETRIS {
            assert_eq!(cubes.iter().collect::<BTreeSet<_>>().len(), 4, "{name}");
        }
        let mirrored = TETRIS[0].1.map(|[x, y, z]| [x, -y, z]);
        assert_eq!(mirrored, TETRIS[1].1);
    }
}
