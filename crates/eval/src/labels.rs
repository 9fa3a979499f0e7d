//! Labels of the voxels of an item, of the logits of a model for the item as it is turned and moved.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};

use nalgebra::{Affine3, Point3, Translation3, Vector3};
use steer3d_dataset::Dataset;
use steer3d_so3::{Irrep, Irreps};
use steer3d_volume::{Grid, Interpolation, Volume, VolumeError, resample_to};

use crate::error::EvalError;
use crate::metrics::largest;
use crate::protocol::Transform;

/// Trilinear interpolation would blur what is as thin as a few voxels, and that is not the model's failure.
const BACK: Interpolation = Interpolation::Cubic;

/// The way back from an item as it is turned and moved to the item as it is stored.
///
/// Logits are moved, y(p) = f(R x)(R p + t) by cubic splines, and the label of a voxel is the largest of y. A spline runs
/// through all planes of a class, but those of one class alone. Where voxels come from voxels nothing is interpolated, and
/// labels are moved as they are.
pub(crate) struct Back {
    grid: Grid,
    map: Affine3<f64>,
    /// Whether voxels come from voxels, in the grid or beyond it.
    permutes: bool,
}

impl Back {
    /// From a transformation of an item with this grid.
    pub(crate) fn new(grid: Grid, transform: &Transform) -> Self {
        let map = transform.map(grid);
        Self { grid, permutes: permutes(&map, grid), map: map.inverse() }
    }

    /// The labels of logits, classes × D × H × W.
    pub(crate) fn labels(&self, logits: &[f32], classes: usize) -> Result<Vec<u8>, EvalError> {
        if self.permutes {
            return Ok(moved_labels(&largest_classes(logits, classes), self.grid, &self.map)?);
        }
        let each = logits.chunks_exact(self.grid.voxels());
        self.largest(each.map(|values| Ok(values.to_vec())))
    }

    /// The labels of the logits of one class after the other, D × H × W each.
    fn largest(
        &self,
        classes: impl Iterator<Item = io::Result<Vec<f32>>>,
    ) -> Result<Vec<u8>, EvalError> {
        let voxels = self.grid.voxels();
        let (mut labels, mut most) = (vec![0; voxels], vec![f32::NEG_INFINITY; voxels]);
        for (class, logits) in classes.enumerate() {
            let logits = moved(logits.map_err(unkept)?, self.grid, &self.map, BACK)?;
            for ((label, most), logit) in labels.iter_mut().zip(&mut most).zip(logits) {
                if logit > *most {
                    (*label, *most) = (as_label(class), logit);
                }
            }
        }
        Ok(labels)
    }
}

/// Labels of logits that come some planes of constant z at a time.
pub(crate) struct PlaneLabels {
    back: Back,
    classes: usize,
    /// Voxels of the planes so far.
    done: usize,
    kept: Kept,
}

/// What is kept of the planes so far.
enum Kept {
    Labels(Vec<u8>),
    /// A temporary file of logits, class by class.
    Logits(File),
}

impl PlaneLabels {
    /// Before the first plane.
    pub(crate) fn new(back: Back, classes: usize) -> Result<Self, EvalError> {
        let kept = if back.permutes {
            Kept::Labels(vec![])
        } else {
            Kept::Logits(tempfile::tempfile().map_err(unkept)?)
        };
        Ok(Self { back, classes, done: 0, kept })
    }

    /// Takes the logits of the next planes, classes × planes × H × W.
    pub(crate) fn take(&mut self, logits: &[f32]) -> Result<(), EvalError> {
        let voxels = logits.len() / self.classes;
        match &mut self.kept {
            Kept::Labels(labels) => labels.extend(largest_classes(logits, self.classes)),
            Kept::Logits(file) => {
                for (class, values) in logits.chunks_exact(voxels).enumerate() {
                    let place = class * self.back.grid.voxels() + self.done;
                    write_at(file, place, values).map_err(unkept)?;
                }
            }
        }
        self.done += voxels;
        Ok(())
    }

    /// The labels, when all planes were taken.
    pub(crate) fn finish(self) -> Result<Vec<u8>, EvalError> {
        let Self { back, classes, kept, .. } = self;
        match kept {
            Kept::Labels(labels) => Ok(moved_labels(&labels, back.grid, &back.map)?),
            Kept::Logits(mut file) => {
                file.rewind().map_err(unkept)?;
                let voxels = back.grid.voxels();
                back.largest((0..classes).map(|_| read_next(&mut file, voxels)))
            }
        }
    }
}

/// Writes numbers after the first `place` ones.
fn write_at(file: &mut File, place: usize, values: &[f32]) -> io::Result<()> {
    let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    file.seek(SeekFrom::Start(4 * place as u64))?;
    file.write_all(&bytes)
}

/// Reads so many numbers.
fn read_next(file: &mut File, count: usize) -> io::Result<Vec<f32>> {
    /// Numbers whose bytes are in memory beside them.
    const PIECE: usize = 1 << 18;
    let mut values = Vec::with_capacity(count);
    let mut bytes = vec![0; 4 * PIECE.min(count)];
    while values.len() < count {
        let piece = &mut bytes[..4 * PIECE.min(count - values.len())];
        file.read_exact(piece)?;
        values.extend(piece.as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)));
    }
    Ok(values)
}

fn unkept(source: io::Error) -> EvalError {
    EvalError::Temporary { folder: std::env::temp_dir(), source }
}

/// A scalar field of D × H × W values, turned and moved.
fn moved(
    values: Vec<f32>,
    grid: Grid,
    map: &Affine3<f64>,
    interpolation: Interpolation,
) -> Result<Vec<f32>, VolumeError> {
    let volume = Volume::centred(values, 1, grid)?;
    let scalar = Irreps::new([(1, Irrep::so3(0))]).expect("a scalar is an irrep");
    let moved = resample_to(&volume, &scalar, grid, volume.origin(), map, interpolation)?;
    Ok(moved.into_data())
}

/// Labels, turned and moved (nearest voxel).
fn moved_labels(labels: &[u8], grid: Grid, map: &Affine3<f64>) -> Result<Vec<u8>, VolumeError> {
    let values = labels.iter().copied().map(f32::from).collect();
    let moved = moved(values, grid, map, Interpolation::Nearest)?;
    Ok(moved.into_iter().map(|label| label as u8).collect())
}

/// The labels of the voxels of an item, turned and moved with it (nearest voxel).
///
/// # Errors
/// If they cannot be read.
pub fn transformed_labels(
    dataset: &Dataset,
    item: usize,
    transform: &Transform,
) -> Result<Vec<u8>, EvalError> {
    let grid = dataset.grid(item);
    Ok(moved_labels(&dataset.voxel_labels(item)?, grid, &transform.map(grid))?)
}

/// For each voxel the class with the largest logit, the first of equal ones.
pub fn largest_classes(logits: &[f32], classes: usize) -> Vec<u8> {
    largest(logits, classes, as_label)
}

/// The dataset has as many classes, and its labels are bytes.
fn as_label(class: usize) -> u8 {
    class as u8
}

impl Transform {
    /// The map of positions x,y,z about the centre of a grid, in the unit of its voxel size.
    pub(crate) fn map(&self, grid: Grid) -> Affine3<f64> {
        let size = Vector3::from(grid.voxel_size());
        let shift = Translation3::from(Vector3::from(self.shift).component_mul(&size));
        Affine3::from_matrix_unchecked(shift.to_homogeneous() * self.rotation.to_homogeneous())
    }
}

/// Whether a map of positions takes the voxels of a grid to voxels, in the grid or beyond it.
fn permutes(map: &Affine3<f64>, grid: Grid) -> bool {
    // Places are exact to rounding.
    const SLACK: f64 = 1e-9;
    let (centre, size) = (Vector3::from(grid.centre()), Vector3::from(grid.voxel_size()));
    let place = |voxel: Vector3<f64>| {
        let position = Point3::from((voxel - centre).component_mul(&size));
        (map * position).coords.component_div(&size) + centre
    };
    let whole = |v: Vector3<f64>| v.iter().all(|x| (x - x.round()).abs() < SLACK);
    let first = place(Vector3::zeros());
    whole(first) && (0..3).all(|axis| whole(place(Vector3::ith(axis, 1.0)) - first))
}

#[cfg(test)]
mod tests {
    use steer3d_so3::rotations::random_rotation;
    use steer3d_so3::{Rotation, Stream, cube_group};

    use super::*;

    const CLASSES: usize = 4;

    const GRIDS: [([usize; 3], [f64; 3]); 3] =
        [([6; 3], [1.0; 3]), ([5, 7, 6], [1.0; 3]), ([4, 5, 6], [1.0, 1.0, 2.5])];

    /// Labels of all logits moved at once.
    fn at_once(logits: &[f32], grid: Grid, transform: &Transform) -> Vec<u8> {
        let volume = Volume::centred(logits.to_vec(), CLASSES, grid).unwrap();
        let (scalars, map) = ("4x0".parse().unwrap(), transform.map(grid).inverse());
        let moved = resample_to(&volume, &scalars, grid, volume.origin(), &map, BACK).unwrap();
        largest_classes(moved.data(), CLASSES)
    }

    /// Rotations, shifts and both, of which some take voxels to voxels.
    fn transforms() -> Vec<Transform> {
        let mut stream = Stream::new(0, "labels", &[]);
        let turned = [cube_group()[5], cube_group()[17], random_rotation(&mut stream)];
        let shifts = [[0.0; 3], [1.0, -2.0, 0.0], [0.5, 0.0, 0.25]];
        let rotations = turned.into_iter().chain([Rotation::identity()]);
        let with = |rotation| shifts.map(|shift| Transform { rotation, shift });
        rotations.flat_map(with).collect()
    }

    #[test]
    fn planes_and_classes_one_by_one_give_the_labels_of_all_at_once() {
        let mut stream = Stream::new(1, "labels", &[]);
        for (dims, size) in GRIDS {
            let grid = Grid::new(dims, size).unwrap();
            let (voxels, plane) = (grid.voxels(), dims[1] * dims[2]);
            let logits: Vec<f32> = (0..CLASSES * voxels).map(|_| stream.normal() as f32).collect();
            for transform in transforms() {
                let expected = at_once(&logits, grid, &transform);
                let whole = Back::new(grid, &transform).labels(&logits, CLASSES).unwrap();
                assert!(whole == expected, "{dims:?} {transform:?}");
                for count in [1, 3, dims[0]] {
                    let back = Back::new(grid, &transform);
                    let mut labels = PlaneLabels::new(back, CLASSES).unwrap();
                    for first in (0..dims[0]).step_by(count) {
                        let part = first * plane..(first + count).min(dims[0]) * plane;
                        let of_class = |class: usize| &logits[class * voxels..][part.clone()];
                        let planes: Vec<&[f32]> = (0..CLASSES).map(of_class).collect();
                        labels.take(&planes.concat()).unwrap();
                    }
                    assert!(labels.finish().unwrap() == expected, "{dims:?} {transform:?} {count}");
                }
            }
        }
    }

    #[test]
    fn voxels_come_from_voxels_where_nothing_is_interpolated() {
        let keeps = |dims: [usize; 3], size: [f64; 3], rotation: Rotation, shift: [f64; 3]| {
            Back::new(Grid::new(dims, size).unwrap(), &Transform { rotation, shift }).permutes
        };
        let still = [0.0; 3];
        assert!(cube_group().into_iter().all(|turn| keeps([7; 3], [1.5; 3], turn, still)));
        assert!(keeps([3, 5, 8], [1.0, 2.0, 0.7], Rotation::identity(), [3.0, -1.0, 200.0]));
        assert!(!keeps([7; 3], [1.0; 3], Rotation::identity(), [0.5, 0.0, 0.0]));
        let quarter = Rotation::from_axis_angle(&Vector3::z_axis(), std::f64::consts::FRAC_PI_2);
        // The centre of 4 × 5 voxels is a voxel along one axis alone, and long voxels do not fill square ones.
        assert!(!keeps([3, 4, 5], [1.0; 3], quarter, still));
        assert!(!keeps([3, 5, 5], [1.0, 1.5, 1.0], quarter, still));
        let mut stream = Stream::new(2, "labels", &[]);
        assert!(!keeps([7; 3], [1.0; 3], random_rotation(&mut stream), still));
    }
}
