//! What is done to every test volume: rotations, translations and their seeds.

use std::fmt;

use serde::{Deserialize, Serialize};
use steer3d_so3::{Rotation, Stream, cube_group, rotations::random_rotation};
use steer3d_volume::Interpolation;

use crate::EvalError;

/// What is rotated.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// The stored voxels, by interpolation: the model's own error and that of resampling.
    Voxels(Interpolation),
    /// The stored points or meshes, exactly, followed by the dataset's voxeliser: the model's error
    /// alone.
    Points,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Voxels(interpolation) => write!(f, "voxels, {interpolation}"),
            Self::Points => f.write_str("points"),
        }
    }
}

/// The transformations of an evaluation. They depend on the seed and on the item's index in the
/// dataset alone, so that every model sees the same ones whatever the batch size or the number of
/// threads.
///
/// ```
/// use steer3d_eval::{Condition, Protocol};
/// let protocol = Protocol { seed: 7, rotations: 32, ..Protocol::default() };
/// assert_eq!(protocol.transforms(Condition::Random, 0).len(), 32);
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Protocol {
    /// Seed of all random numbers of the evaluation.
    pub seed: u64,
    /// Uniform random rotations for each item.
    pub rotations: usize,
    /// Angles, in degrees from 0 to 180, of rotations about uniform random axes.
    pub angles: Vec<f64>,
    /// Rotations for each item and angle.
    pub per_angle: usize,
    /// Distances of translations, in voxels. A whole number of voxels is moved along one of the
    /// six grid directions, where no interpolation is needed; other distances along a uniform
    /// random direction. What leaves the grid is lost, zero comes in.
    pub translations: Vec<f64>,
    /// Translations for each item and distance; with up to six the grid directions differ.
    pub per_distance: usize,
    /// Whether to use the 24 rotations of the cube.
    pub cube: bool,
    /// What is rotated; each source is measured on its own. The first is the one of the headline.
    pub sources: Vec<Source>,
    /// Volumes in one batch; changes speed and memory only.
    pub batch: usize,
    /// Bootstrap resamples of the items for the 95 % intervals.
    pub resamples: usize,
    /// Items (the first ones of the split) for the equivariance errors of the layers.
    pub layer_items: usize,
    /// Uniform random rotations of each of these items.
    pub layer_rotations: usize,
}

impl Default for Protocol {
    /// 16 random rotations, 8 angles, 4 distances, the cube group; voxels by trilinear
    /// interpolation.
    fn default() -> Self {
        Self {
            seed: 0,
            rotations: 16,
            angles: vec![15.0, 30.0, 45.0, 60.0, 90.0, 120.0, 150.0, 180.0],
            per_angle: 2,
            translations: vec![0.5, 1.0, 2.0, 4.0],
            per_distance: 2,
            cube: true,
            sources: vec![Source::Voxels(Interpolation::Trilinear)],
            batch: 16,
            resamples: 1000,
            layer_items: 2,
            layer_rotations: 3,
        }
    }
}

impl Protocol {
    /// Checks every field.
    ///
    /// # Errors
    /// [`EvalError::Protocol`] for the first field out of its range.
    pub fn validate(&self) -> Result<(), EvalError> {
        let fail = |field, expected, found| Err(EvalError::Protocol { field, expected, found });
        if let Some(angle) = self.angles.iter().find(|angle| !(0.0..=180.0).contains(*angle)) {
            return fail("angles", "from 0 to 180 degrees", angle.to_string());
        }
        let is_distance = |distance: &f64| distance.is_finite() && *distance >= 0.0;
        if let Some(distance) = self.translations.iter().find(|distance| !is_distance(distance)) {
            return fail("translations", "at least 0 voxels", distance.to_string());
        }
        if self.per_angle == 0 && !self.angles.is_empty() {
            return fail("per_angle", "at least 1", self.per_angle.to_string());
        }
        if self.per_distance == 0 && !self.translations.is_empty() {
            return fail("per_distance", "at least 1", self.per_distance.to_string());
        }
        if self.batch == 0 {
            return fail("batch", "at least 1", self.batch.to_string());
        }
        if self.sources.is_empty() {
            return fail("sources", "at least one source", "none".into());
        }
        Ok(())
    }

    /// The conditions in the order of the report: unrotated, random, angles, translations, cube.
    pub fn conditions(&self) -> Vec<Condition> {
        let mut conditions = vec![Condition::Unrotated];
        if self.rotations > 0 {
            conditions.push(Condition::Random);
        }
        conditions.extend(self.angles.iter().map(|&degrees| Condition::Angle { degrees }));
        conditions
            .extend(self.translations.iter().map(|&voxels| Condition::Translation { voxels }));
        if self.cube {
            conditions.push(Condition::Cube);
        }
        conditions
    }

    /// The transformations of one item under one condition, unrotated first in the group of the
    /// cube. `item` is its index in the dataset.
    ///
    /// Streams: (seed, "rotation", \[item, k\]), (seed, "angle", \[item, k, bits of the angle\]),
    /// (seed, "translation", \[item, k, bits of the distance\]) and for the order of the six grid
    /// directions (seed, "grid directions", \[item, 0, bits of the distance\]).
    pub fn transforms(&self, condition: Condition, item: usize) -> Vec<Transform> {
        let stream = |purpose, k: usize, bits: &[u64]| {
            Stream::new(self.seed, purpose, &[&[item as u64, k as u64], bits].concat())
        };
        match condition {
            Condition::Unrotated => vec![Transform::IDENTITY],
            Condition::Random => (0..self.rotations)
                .map(|k| random_rotation(&mut stream("rotation", k, &[])).into())
                .collect(),
            Condition::Angle { degrees } => (0..self.per_angle)
                .map(|k| {
                    let axis = direction(&mut stream("angle", k, &[degrees.to_bits()]));
                    let radians = degrees.to_radians();
                    Rotation::new(axis.map(|component| component * radians).into()).into()
                })
                .collect(),
            Condition::Translation { voxels } => {
                let bits = [voxels.to_bits()];
                let order = stream("grid directions", 0, &bits).permutation(6);
                (0..self.per_distance)
                    .map(|k| {
                        let unit = if voxels.fract() == 0.0 {
                            grid_direction(order[k % 6])
                        } else {
                            direction(&mut stream("translation", k, &bits))
                        };
                        Transform { shift: unit.map(|u| u * voxels), ..Transform::IDENTITY }
                    })
                    .collect()
            }
            Condition::Cube => cube_group().into_iter().map(Transform::from).collect(),
        }
    }
}

/// A uniform random unit vector x,y,z.
fn direction(stream: &mut Stream) -> [f64; 3] {
    loop {
        let v = [stream.normal(), stream.normal(), stream.normal()];
        let norm = v.iter().map(|c| c * c).sum::<f64>().sqrt();
        if norm > 1e-6 {
            return v.map(|c| c / norm);
        }
    }
}

/// One of the directions +x, -x, +y, -y, +z, -z.
fn grid_direction(index: usize) -> [f64; 3] {
    let mut unit = [0.0; 3];
    unit[index / 2] = if index.is_multiple_of(2) { 1.0 } else { -1.0 };
    unit
}

/// One way of treating the test volumes.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Condition {
    /// As stored.
    Unrotated,
    /// Uniform random rotations.
    Random,
    /// Rotations by this angle about random axes.
    Angle {
        /// Angle in degrees.
        degrees: f64,
    },
    /// Translations by this distance.
    Translation {
        /// Distance in voxels.
        voxels: f64,
    },
    /// The 24 rotations of the cube.
    Cube,
}

impl Condition {
    /// Name of the kind: `unrotated`, `random`, `angle`, `translation` or `cube`.
    pub fn kind(self) -> &'static str {
        match self {
            Self::Unrotated => "unrotated",
            Self::Random => "random",
            Self::Angle { .. } => "angle",
            Self::Translation { .. } => "translation",
            Self::Cube => "cube",
        }
    }

    /// The angle in degrees or the distance in voxels.
    pub fn parameter(self) -> Option<f64> {
        match self {
            Self::Angle { degrees } => Some(degrees),
            Self::Translation { voxels } => Some(voxels),
            Self::Unrotated | Self::Random | Self::Cube => None,
        }
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unrotated => f.write_str("unrotated"),
            Self::Random => f.write_str("random rotations"),
            Self::Angle { degrees } => write!(f, "rotated by {degrees}°"),
            Self::Translation { voxels: 1.0 } => f.write_str("moved by 1 voxel"),
            Self::Translation { voxels } => write!(f, "moved by {voxels} voxels"),
            Self::Cube => f.write_str("24 cube rotations"),
        }
    }
}

/// A rotation about the centre of the volume, or a translation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Transform {
    /// The rotation, applied first.
    pub rotation: Rotation,
    /// The translation x,y,z in voxels.
    pub shift: [f64; 3],
}

impl Transform {
    /// Neither rotated nor moved.
    pub const IDENTITY: Self = Self {
        rotation: Rotation::from_matrix_unchecked(nalgebra::Matrix3::new(
            1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0,
        )),
        shift: [0.0; 3],
    };

    /// The rotation as a unit quaternion w,x,y,z with w >= 0.
    pub fn quaternion(&self) -> [f64; 4] {
        let q = nalgebra::UnitQuaternion::from_rotation_matrix(&self.rotation);
        let sign = if q.w < 0.0 { -1.0 } else { 1.0 };
        [q.w, q.i, q.j, q.k].map(|component| sign * component)
    }
}

impl From<Rotation> for Transform {
    fn from(rotation: Rotation) -> Self {
        Self { rotation, shift: [0.0; 3] }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn angles_are_exact_and_axes_differ() {
        let protocol = Protocol { per_angle: 3, ..Protocol::default() };
        for degrees in [0.0, 37.5, 180.0] {
            for t in protocol.transforms(Condition::Angle { degrees }, 4) {
                let cosine = (t.rotation.matrix().trace() - 1.0) / 2.0;
                assert!((cosine - degrees.to_radians().cos()).abs() < 1e-14);
            }
        }
        let turned = protocol.transforms(Condition::Angle { degrees: 90.0 }, 4);
        let other = protocol.transforms(Condition::Angle { degrees: 90.0 }, 5);
        assert_ne!(turned[0], turned[1]);
        assert_ne!(turned[0], other[0]);
    }

    #[test]
    fn more_rotations_begin_with_the_fewer() {
        let few = Protocol { rotations: 2, ..Protocol::default() };
        let many = Protocol { rotations: 5, ..Protocol::default() };
        let few = few.transforms(Condition::Random, 3);
        assert_eq!(few, many.transforms(Condition::Random, 3)[..2]);
    }

    #[test]
    fn whole_distances_are_along_the_grid() {
        let protocol = Protocol { per_distance: 6, ..Protocol::default() };
        let moved = protocol.transforms(Condition::Translation { voxels: 3.0 }, 0);
        let mut shifts: Vec<_> = moved.iter().map(|t| t.shift.map(|c| c as i32)).collect();
        shifts.sort_unstable();
        let all = [[-3, 0, 0], [0, -3, 0], [0, 0, -3], [0, 0, 3], [0, 3, 0], [3, 0, 0]];
        assert_eq!(shifts, all);
        for t in protocol.transforms(Condition::Translation { voxels: 0.5 }, 0) {
            let length = t.shift.iter().map(|c| c * c).sum::<f64>().sqrt();
            assert!((length - 0.5).abs() < 1e-12);
            assert!(t.shift.iter().all(|c| c.abs() > 1e-6));
        }
    }

    #[test]
    fn the_cube_group_has_24_elements_and_begins_with_the_identity() {
        let turned = Protocol::default().transforms(Condition::Cube, 0);
        assert_eq!(turned.len(), 24);
        assert_eq!(turned[0], Transform::IDENTITY);
    }

    #[test]
    fn quaternion_of_a_turn_about_y() {
        let turned = Transform::from(Rotation::new([0.0, 1.0, 0.0].into()));
        let expected = [0.5f64.cos(), 0.0, 0.5f64.sin(), 0.0];
        for (found, expected) in turned.quaternion().into_iter().zip(expected) {
            assert!((found - expected).abs() < 1e-12);
        }
    }

    #[test]
    fn conditions_follow_the_fields() {
        let protocol = Protocol {
            rotations: 0,
            angles: vec![10.0],
            translations: vec![1.0],
            cube: false,
            ..Protocol::default()
        };
        let expected = [
            Condition::Unrotated,
            Condition::Angle { degrees: 10.0 },
            Condition::Translation { voxels: 1.0 },
        ];
        assert_eq!(protocol.conditions(), expected);
    }

    #[test]
    fn fields_out_of_range_are_named() {
        let ok = Protocol::default();
        assert!(ok.validate().is_ok());
        let wrong = [
            (Protocol { angles: vec![181.0], ..ok.clone() }, "angles"),
            (Protocol { angles: vec![f64::NAN], ..ok.clone() }, "angles"),
            (Protocol { translations: vec![-1.0], ..ok.clone() }, "translations"),
            (Protocol { translations: vec![f64::INFINITY], ..ok.clone() }, "translations"),
            (Protocol { per_angle: 0, ..ok.clone() }, "per_angle"),
            (Protocol { per_distance: 0, ..ok.clone() }, "per_distance"),
            (Protocol { batch: 0, ..ok.clone() }, "batch"),
            (Protocol { sources: vec![], ..ok.clone() }, "sources"),
        ];
        for (protocol, field) in wrong {
            let message = protocol.validate().unwrap_err().to_string();
            assert!(message.contains(&format!("`{field}`")), "{message}");
        }
    }

    #[test]
    fn protocol_round_trips_and_refuses_unknown_fields() {
        let protocol = Protocol {
            sources: vec![Source::Points, Source::Voxels(Interpolation::Nearest)],
            ..Protocol::default()
        };
        let json = serde_json::to_string(&protocol).unwrap();
        assert_eq!(serde_json::from_str::<Protocol>(&json).unwrap(), protocol);
        assert!(serde_json::from_str::<Protocol>(r#"{"rotation": 3}"#).is_err());
    }
}
