//! What is done to every test volume: rotations, translations and their seeds.

use std::f64::consts::{PI, TAU};
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use steer3d_dataset::{Dataset, Grids, Split};
use steer3d_so3::groups::{cube_group, icosahedral_group, tetrahedral_group};
use steer3d_so3::rotations::random_rotation;
use steer3d_so3::sampling::super_fibonacci;
use steer3d_so3::{Rotation, Stream};
use steer3d_volume::Interpolation;

use crate::error::EvalError;

/// Most volumes of an evaluation: each is held in memory with what is kept of its answer, some 300 bytes and more, and
/// so many take a day at 200 a second.
const MAX_VOLUMES: usize = 1 << 24;

/// Most conditions: each is a line of the tables of a report; a turn every 0.1 degrees about an axis has 3602.
const MAX_CONDITIONS: usize = 1 << 12;

/// Most values of the volumes of a batch, 1 GiB as f32; a network's fields come on top.
pub(crate) const MAX_BATCH_VALUES: usize = 1 << 28;

/// Most items that turn on the page of a report.
const MAX_TURNING: usize = 6;

/// Most numbers that the bootstrap keeps, 1 GiB.
const MAX_DRAWS: usize = 1 << 28;

/// What is rotated.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
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
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
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
    /// Rotations for each item that are spread evenly: a super-Fibonacci spiral, turned as a whole
    /// at random for each item.
    pub even: usize,
    /// Axes x,y,z about which the items are turned: by every one of the angles, and at random.
    pub axes: Vec<[f64; 3]>,
    /// Distances, in voxels, of translations in uniform random directions that follow uniform
    /// random rotations, `per_distance` for each item and distance.
    pub rotations_and_translations: Vec<f64>,
    /// Groups all of whose rotations are used.
    pub groups: Vec<PointGroup>,
    /// The search for the worst rotation of each item, if any.
    pub search: Option<Search>,
    /// What is kept of every volume, transformed or not.
    pub mask: Mask,
    /// The value around the stored voxels, of air or solvent say, which moves into the grid when
    /// they are turned.
    pub outside: f32,
    /// How far surfaces of labels of voxels may be apart, in the unit of the dataset's voxel size, to count as the same in
    /// the normalised surface Dice; the longest edge of a voxel if it is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub surface_tolerance: Option<f64>,
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
    /// Items that the page of a report shows turning, at most 6, each in 36 steps; nothing else depends on it.
    pub turning: usize,
}

impl Default for Protocol {
    /// 16 random rotations, 8 angles, 4 distances, the cube group; voxels by cubic splines, zero around them.
    fn default() -> Self {
        Self {
            seed: 0,
            rotations: 16,
            angles: vec![15.0, 30.0, 45.0, 60.0, 90.0, 120.0, 150.0, 180.0],
            per_angle: 2,
            translations: vec![0.5, 1.0, 2.0, 4.0],
            per_distance: 2,
            even: 0,
            axes: vec![],
            rotations_and_translations: vec![],
            groups: vec![PointGroup::Cube],
            search: None,
            mask: Mask::None,
            outside: 0.0,
            surface_tolerance: None,
            sources: vec![Source::Voxels(Interpolation::Cubic)],
            batch: 16,
            resamples: 1000,
            layer_items: 2,
            layer_rotations: 3,
            turning: MAX_TURNING,
        }
    }
}

impl Protocol {
    /// The protocol with neither batches nor turning items, which tells whether two protocols measure the same.
    #[must_use]
    pub fn measured(&self) -> Self {
        Self { batch: 0, turning: 0, ..self.clone() }
    }

    /// Checks every setting, and that a split of a dataset can be evaluated so.
    ///
    /// # Errors
    /// As [`validate`](Self::validate), [`EvalError::EmptySplit`], and [`EvalError::Missing`] where points are
    /// to be turned that the dataset does not store.
    pub fn check(&self, dataset: &Dataset, split: Split) -> Result<(), EvalError> {
        self.validate()?;
        let name = || dataset.meta().name.clone();
        if dataset.indices(split).is_empty() {
            return Err(EvalError::EmptySplit { dataset: name(), split: split.to_string() });
        }
        if self.sources.contains(&Source::Points) && !dataset.can_voxelise() {
            return Err(EvalError::no_points(dataset.meta()));
        }
        let items = dataset.indices(split).len();
        let found = self.volumes(items);
        if found > MAX_VOLUMES as u128 {
            return Err(EvalError::Volumes { items, found, limit: MAX_VOLUMES });
        }
        let batch = self.batch.min(found as usize);
        // Of volumes with grids of their own a batch has as many as fit.
        let large = dataset.meta().grids == Grids::One
            && batch > 1
            && batch * dataset.meta().item_len() > MAX_BATCH_VALUES;
        let draws = items.saturating_mul(self.resamples);
        EvalError::check_settings([
            (
                "batch",
                "so small that a batch has at most 2^28 values",
                large.then(|| self.batch.to_string()),
            ),
            (
                "resamples",
                "so small that at most 2^28 items are drawn in all",
                (draws > MAX_DRAWS).then(|| self.resamples.to_string()),
            ),
        ])
    }

    /// Volumes that a model is given for a split of so many items.
    pub fn volumes(&self, items: usize) -> u128 {
        let [rotations, even, angles, axes, moved, both] = [
            self.rotations,
            self.even,
            self.angles.len(),
            self.axes.len(),
            self.translations.len(),
            self.rotations_and_translations.len(),
        ]
        .map(|count| count as u128);
        let groups: usize = self.groups.iter().map(|group| group.rotations().len()).sum();
        let per_item = 1
            + rotations
            + even
            + angles * self.per_angle as u128
            + axes * (rotations + angles)
            + (moved + both) * self.per_distance as u128
            + groups as u128
            + self.search.map_or(0, |s| s.grid as u128 + 6 * s.rounds as u128);
        let each = (items as u128).saturating_mul(per_item);
        let source = each.saturating_add(self.layer_volumes(items));
        source.saturating_mul(self.sources.len() as u128)
    }

    /// Those for the equivariance errors of the layers, with one source.
    pub(crate) fn layer_volumes(&self, items: usize) -> u128 {
        let in_cube =
            if self.groups.contains(&PointGroup::Cube) { self.layer_rotations.min(23) } else { 0 };
        let rotations = 1 + self.layer_rotations as u128 + in_cube as u128;
        (self.layer_items.min(items) as u128).saturating_mul(rotations)
    }

    /// Number of [`conditions`](Self::conditions).
    fn condition_count(&self) -> usize {
        let turns = self.angles.len() + 1;
        let moved = self.translations.len() + self.rotations_and_translations.len();
        (1 + self.axes.len()).saturating_mul(turns) + moved + self.groups.len() + 3
    }

    /// Checks every field.
    ///
    /// # Errors
    /// [`EvalError::Protocol`] for the first field out of its range.
    pub fn validate(&self) -> Result<(), EvalError> {
        let number = |wrong: Option<&f64>| wrong.map(f64::to_string);
        let zero = |wrong: bool| wrong.then(|| "0".to_owned());
        let no_distance = |d: &&f64| !(d.is_finite() && **d >= 0.0);
        let no_axis = |axis: &&[f64; 3]| !nalgebra::Vector3::from(**axis).norm().is_normal();
        let angle = self.angles.iter().find(|angle| !(0.0..=180.0).contains(*angle));
        let outside = Some(self.outside).filter(|value| !value.is_finite());
        let tolerance = self.surface_tolerance.filter(|t| !(t.is_finite() && *t >= 0.0));
        let (moved, turned) = (&self.translations, &self.rotations_and_translations);
        let some_moved = !moved.is_empty() || !turned.is_empty();
        EvalError::check_settings([
            ("angles", "from 0 to 180 degrees", number(angle)),
            ("translations", "at least 0 voxels", number(moved.iter().find(no_distance))),
            (
                "rotations_and_translations",
                "at least 0 voxels",
                number(turned.iter().find(no_distance)),
            ),
            (
                "axes",
                "finite and not of length 0",
                self.axes.iter().find(no_axis).map(|axis| format!("{axis:?}")),
            ),
            ("outside", "a finite value", outside.map(|value| value.to_string())),
            ("surface_tolerance", "at least 0", number(tolerance.as_ref())),
            ("search.grid", "at least 1", zero(self.search.is_some_and(|s| s.grid == 0))),
            ("per_angle", "at least 1", zero(self.per_angle == 0 && !self.angles.is_empty())),
            ("per_distance", "at least 1", zero(self.per_distance == 0 && some_moved)),
            ("batch", "at least 1", zero(self.batch == 0)),
            (
                "turning",
                "from 0 to 6",
                Some(self.turning).filter(|n| *n > MAX_TURNING).map(|n| n.to_string()),
            ),
            (
                "angles",
                "so few, with axes, distances and groups, that there are at most 4096 conditions",
                Some(self.condition_count()).filter(|n| *n > MAX_CONDITIONS).map(|n| n.to_string()),
            ),
            ("sources", "at least one source", self.sources.is_empty().then(|| "none".into())),
        ])
    }

    /// The conditions in the order of the report.
    pub fn conditions(&self) -> Vec<Condition> {
        let mut conditions = vec![Condition::Unrotated];
        if self.rotations > 0 {
            conditions.push(Condition::Random);
        }
        if self.even > 0 {
            conditions.push(Condition::Even);
        }
        conditions.extend(self.angles.iter().map(|&degrees| Condition::Angle { degrees }));
        for &axis in &self.axes {
            if self.rotations > 0 {
                conditions.push(Condition::RandomAbout { axis });
            }
            conditions
                .extend(self.angles.iter().map(|&degrees| Condition::About { axis, degrees }));
        }
        conditions
            .extend(self.translations.iter().map(|&voxels| Condition::Translation { voxels }));
        let moved = self.rotations_and_translations.iter();
        conditions.extend(moved.map(|&voxels| Condition::RotationTranslation { voxels }));
        conditions.extend(self.groups.iter().map(|&group| Condition::Group { group }));
        if self.search.is_some() {
            conditions.push(Condition::Worst);
        }
        conditions
    }

    /// The transformations of one item under one condition, unrotated first in a group; none for
    /// [`Condition::Worst`], whose rotations depend on the model. `item` is its index in the dataset.
    ///
    /// Streams: (seed, "rotation", \[item, k\]), (seed, "even", \[item, 0\]),
    /// (seed, "angle", \[item, k, bits of the angle\]), (seed, "about", \[item, k, bits of the
    /// axis\]), (seed, "translation", \[item, k, bits of the distance\]), (seed, "rotation and
    /// translation", likewise), and for the order of the six grid directions (seed,
    /// "grid directions", \[item, 0, bits of the distance\]).
    pub fn transforms(&self, condition: Condition, item: usize) -> Vec<Transform> {
        let stream = |purpose, k: usize, bits: &[u64]| {
            Stream::new(self.seed, purpose, &[&[item as u64, k as u64], bits].concat())
        };
        let each = |n, of: &dyn Fn(usize) -> Transform| (0..n).map(of).collect();
        match condition {
            Condition::Unrotated => vec![Transform::IDENTITY],
            Condition::Random => {
                each(self.rotations, &|k| random_rotation(&mut stream("rotation", k, &[])).into())
            }
            Condition::Angle { degrees } => each(self.per_angle, &|k| {
                let axis = direction(&mut stream("angle", k, &[degrees.to_bits()]));
                Rotation::new(axis.map(|c| c * degrees.to_radians()).into()).into()
            }),
            Condition::Translation { voxels } => {
                let bits = [voxels.to_bits()];
                let order = stream("grid directions", 0, &bits).permutation(6);
                each(self.per_distance, &|k| {
                    let unit = match voxels.fract() == 0.0 {
                        true => grid_direction(order[k % 6]),
                        false => direction(&mut stream("translation", k, &bits)),
                    };
                    Transform { shift: unit.map(|u| u * voxels), ..Transform::IDENTITY }
                })
            }
            Condition::Even => {
                let whole = random_rotation(&mut stream("even", 0, &[]));
                let spread = super_fibonacci(self.even).into_iter();
                spread.map(|rotation| (rotation * whole).into()).collect()
            }
            Condition::About { axis, degrees } => vec![about(axis, degrees.to_radians()).into()],
            Condition::RandomAbout { axis } => each(self.rotations, &|k| {
                let mut stream = stream("about", k, &axis.map(f64::to_bits));
                about(axis, TAU * stream.uniform()).into()
            }),
            Condition::RotationTranslation { voxels } => each(self.per_distance, &|k| {
                let mut stream = stream("rotation and translation", k, &[voxels.to_bits()]);
                let rotation = random_rotation(&mut stream);
                Transform { rotation, shift: direction(&mut stream).map(|u| u * voxels) }
            }),
            Condition::Group { group } => {
                group.rotations().into_iter().map(Transform::from).collect()
            }
            Condition::Worst => vec![],
        }
    }
}

/// Turns by `radians` about an axis that [`Protocol::validate`] let through.
fn about(axis: [f64; 3], radians: f64) -> Rotation {
    let axis = nalgebra::Unit::new_normalize(nalgebra::Vector3::from(axis));
    Rotation::from_axis_angle(&axis, radians)
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

/// The rotations of a regular polyhedron.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum PointGroup {
    /// 12 rotations, some of those of the cube.
    Tetrahedron,
    /// 24 rotations, which need no interpolation of a cubic grid.
    Cube,
    /// 60 rotations, 12 of them also of the cube.
    Icosahedron,
}

impl PointGroup {
    /// All its rotations, the identity first.
    pub fn rotations(self) -> Vec<Rotation> {
        match self {
            Self::Tetrahedron => tetrahedral_group(),
            Self::Cube => cube_group(),
            Self::Icosahedron => icosahedral_group(),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Tetrahedron => "tetrahedron",
            Self::Cube => "cube",
            Self::Icosahedron => "icosahedron",
        }
    }
}

impl fmt::Display for PointGroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for PointGroup {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let groups = [Self::Tetrahedron, Self::Cube, Self::Icosahedron];
        groups
            .into_iter()
            .find(|group| group.name() == text)
            .ok_or_else(|| format!("expected tetrahedron, cube or icosahedron, found `{text}`"))
    }
}

/// The search for the rotation of an item at which the model is surest of a wrong class: the margin
/// (logit of the right class less the largest other) is evaluated on a grid, and then lowered
/// step by step from its least value, until it is negative or the rounds are over.
///
/// The result bounds the accuracy under all rotations from above; no search can prove more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Search {
    /// Evenly spread rotations that are tried first.
    pub grid: usize,
    /// Rounds of refinement. Each tries a turn either way about x, y and z; a round that brings
    /// nothing halves the angle.
    pub rounds: usize,
}

impl Search {
    /// The angle in radians of the first round: that of a ball of SO(3) with the volume of one of
    /// `grid` equal cells. A ball of small radius r (angle) has the share r³/(6π) of all rotations.
    pub(crate) fn first_step(self) -> f64 {
        (6.0 * PI / self.grid as f64).cbrt().min(PI / 2.0)
    }
}

/// What is kept of a volume.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Mask {
    /// All of it. Corners that are turned out of the grid are lost.
    #[default]
    None,
    /// The largest ball about the centre that fits: nothing in it leaves the grid when it turns.
    /// Around it is the value [`Protocol::outside`].
    Ball,
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
    /// Evenly spread rotations.
    Even,
    /// A rotation about this axis by this angle.
    About {
        /// Axis x,y,z.
        axis: [f64; 3],
        /// Angle in degrees.
        degrees: f64,
    },
    /// Rotations about this axis by uniform random angles.
    RandomAbout {
        /// Axis x,y,z.
        axis: [f64; 3],
    },
    /// Uniform random rotations, each followed by a translation by this distance.
    RotationTranslation {
        /// Distance in voxels.
        voxels: f64,
    },
    /// All rotations of a group.
    Group {
        /// The group.
        group: PointGroup,
    },
    /// The rotation that a search found to be worst for the model.
    Worst,
}

impl Condition {
    /// Name of the kind: `unrotated`, `random`, `even`, `angle`, `about`, `random_about`,
    /// `translation`, `rotation_translation`, `worst` or the name of a group.
    pub fn kind(self) -> &'static str {
        match self {
            Self::Unrotated => "unrotated",
            Self::Random => "random",
            Self::Angle { .. } => "angle",
            Self::Translation { .. } => "translation",
            Self::Even => "even",
            Self::About { .. } => "about",
            Self::RandomAbout { .. } => "random_about",
            Self::RotationTranslation { .. } => "rotation_translation",
            Self::Group { group } => group.name(),
            Self::Worst => "worst",
        }
    }

    /// The angle in degrees or the distance in voxels.
    pub fn parameter(self) -> Option<f64> {
        match self {
            Self::Angle { degrees } | Self::About { degrees, .. } => Some(degrees),
            Self::Translation { voxels } | Self::RotationTranslation { voxels } => Some(voxels),
            _ => None,
        }
    }

    /// The axis x,y,z, where there is a given one.
    pub fn axis(self) -> Option<[f64; 3]> {
        match self {
            Self::About { axis, .. } | Self::RandomAbout { axis } => Some(axis),
            _ => None,
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
            Self::Even => f.write_str("evenly spread rotations"),
            Self::About { axis, degrees } => {
                write!(f, "rotated by {degrees}° about {}", axis_name(*axis))
            }
            Self::RandomAbout { axis } => write!(f, "random turns about {}", axis_name(*axis)),
            Self::RotationTranslation { voxels: 1.0 } => {
                f.write_str("random rotations, moved by 1 voxel")
            }
            Self::RotationTranslation { voxels } => {
                write!(f, "random rotations, moved by {voxels} voxels")
            }
            Self::Group { group } => write!(f, "{} {group} rotations", group.rotations().len()),
            Self::Worst => f.write_str("worst rotation found"),
        }
    }
}

/// The name of an axis: `x`, `y`, `z` or the components.
pub fn axis_name(axis: [f64; 3]) -> String {
    match axis {
        [1.0, 0.0, 0.0] => "x".into(),
        [0.0, 1.0, 0.0] => "y".into(),
        [0.0, 0.0, 1.0] => "z".into(),
        [x, y, z] => format!("({x}, {y}, {z})"),
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
        let turned =
            Protocol::default().transforms(Condition::Group { group: PointGroup::Cube }, 0);
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
            axes: vec![[0.0, 0.0, 1.0]],
            rotations_and_translations: vec![2.0],
            groups: vec![PointGroup::Icosahedron],
            search: Some(Search { grid: 8, rounds: 1 }),
            ..Protocol::default()
        };
        let expected = [
            Condition::Unrotated,
            Condition::Angle { degrees: 10.0 },
            Condition::About { axis: [0.0, 0.0, 1.0], degrees: 10.0 },
            Condition::Translation { voxels: 1.0 },
            Condition::RotationTranslation { voxels: 2.0 },
            Condition::Group { group: PointGroup::Icosahedron },
            Condition::Worst,
        ];
        assert_eq!(protocol.conditions(), expected);
    }

    #[test]
    fn turns_about_an_axis_leave_it_where_it_is() {
        let axis = [1.0, -2.0, 0.5];
        let protocol = Protocol { rotations: 20, axes: vec![axis], ..Protocol::default() };
        let unit = nalgebra::Vector3::from(axis).normalize();
        let mut turns = protocol.transforms(Condition::RandomAbout { axis }, 1);
        let mut cosines: Vec<f64> =
            turns.iter().map(|t| (t.rotation.matrix().trace() - 1.0) / 2.0).collect();
        cosines.sort_by(f64::total_cmp);
        assert!(cosines[0] < -0.5 && cosines[19] > 0.5, "angles all around: {cosines:?}");
        turns.extend(protocol.transforms(Condition::About { axis, degrees: 70.0 }, 1));
        assert!(turns.iter().all(|t| (t.rotation * unit - unit).norm() < 1e-14));
        assert!((turns[20].rotation.angle().to_degrees() - 70.0).abs() < 1e-12);
    }

    #[test]
    fn even_rotations_cover_better_than_random_ones() {
        let protocol = Protocol { even: 200, rotations: 200, ..Protocol::default() };
        let covering = |condition| {
            let turned: Vec<Rotation> =
                protocol.transforms(condition, 2).iter().map(|t| t.rotation).collect();
            let probes = steer3d_so3::random_rotations(9, 500);
            let gap = |p: &Rotation| {
                let distances = turned.iter().map(|r| steer3d_so3::geodesic_distance(r, p));
                distances.fold(f64::INFINITY, f64::min)
            };
            probes.iter().map(gap).fold(0.0, f64::max)
        };
        assert!(covering(Condition::Even) < 0.8 * covering(Condition::Random));
        let other = protocol.transforms(Condition::Even, 3);
        assert_ne!(other[0], protocol.transforms(Condition::Even, 2)[0]);
    }

    #[test]
    fn the_first_step_of_a_search_is_a_cell_of_its_grid() {
        // The share of rotations by less than r is (r - sin r) / π.
        let step = Search { grid: 500, rounds: 1 }.first_step();
        assert!(((step - step.sin()) / PI * 500.0 - 1.0).abs() < 0.01);
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
            (
                Protocol { rotations_and_translations: vec![-0.5], ..ok.clone() },
                "rotations_and_translations",
            ),
            (Protocol { axes: vec![[0.0; 3]], ..ok.clone() }, "axes"),
            (Protocol { axes: vec![[f64::NAN, 0.0, 1.0]], ..ok.clone() }, "axes"),
            (Protocol { outside: f32::NAN, ..ok.clone() }, "outside"),
            (Protocol { surface_tolerance: Some(-1.0), ..ok.clone() }, "surface_tolerance"),
            (Protocol { search: Some(Search { grid: 0, rounds: 1 }), ..ok.clone() }, "search.grid"),
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
            groups: vec![PointGroup::Tetrahedron],
            search: Some(Search { grid: 8, rounds: 1 }),
            mask: Mask::Ball,
            surface_tolerance: Some(1.5),
            ..Protocol::default()
        };
        let json = serde_json::to_string(&protocol).unwrap();
        assert_eq!(serde_json::from_str::<Protocol>(&json).unwrap(), protocol);
        assert!(serde_json::from_str::<Protocol>(r#"{"rotation": 3}"#).is_err());
    }
}
