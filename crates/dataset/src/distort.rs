//! Random changes of training volumes beside rotations.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use steer3d_so3::{Irreps, Stream};
use steer3d_volume::intensity::{
    BIAS_TERMS, add_noise, blur, change_contrast, gamma, lower_resolution, multiply_by_bias,
};
use steer3d_volume::volume::{Grid, VolumeError, parameter};
use steer3d_volume::{Bend, Deformation, Interpolation, deform_into, reflected_as};

use crate::patch::moved_labels;
use crate::reader::Dataset;

/// A change that is made of a volume at random, as strongly as a number drawn uniformly from a range says.
///
/// Names and standard ranges of those that nnU-Net has are the ones of Isensee et al. 2021
/// (<https://doi.org/10.1038/s41592-020-01008-z>, supplementary information); probabilities too, but that blur and low
/// resolution are for all channels together, and so half as frequent as there for a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Distortion {
    /// x, y and z are reversed, each with the probability. Vectors, tensors and pseudoscalars, in channels and targets, are
    /// reflected as the parity of their irreps says; scalars without a parity, classes and labels of voxels stay what they
    /// are, so it is not for classes that mirror images of each other belong to.
    Mirror,
    /// Everything becomes as many times as large.
    Scale,
    /// A smooth displacement ([`Bend`]) of this standard deviation in voxels along each axis. For channels of scalars.
    Elastic,
    /// A smooth factor ([`multiply_by_bias`]) with coefficients from minus to plus the number.
    BiasField,
    /// Normal noise whose variance is this share of the variance of the values of a field.
    Noise,
    /// A Gaussian of this standard deviation in voxels.
    Blur,
    /// Values times the number.
    Brightness,
    /// Distances from the mean of a channel times the number ([`change_contrast`]). For channels of scalars.
    Contrast,
    /// The nearest voxels of a grid as many times as coarse ([`lower_resolution`]).
    LowResolution,
    /// What is missing to the largest value of a channel to the power of the number ([`gamma`]). For channels of scalars.
    InvertedGamma,
    /// Values to the power of the number, as shares of their range ([`gamma`]). For channels of scalars.
    Gamma,
}

/// How often and how strongly a distortion is used.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Chance {
    /// Probability for a volume, from 0 to 1.
    pub probability: f64,
    /// Least and largest strength; a mirror has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub range: Option<[f64; 2]>,
}

impl Distortion {
    /// All, in the order in which they are made.
    pub const ALL: [Self; 11] = [
        Self::Mirror,
        Self::Scale,
        Self::Elastic,
        Self::BiasField,
        Self::Noise,
        Self::Blur,
        Self::Brightness,
        Self::Contrast,
        Self::LowResolution,
        Self::InvertedGamma,
        Self::Gamma,
    ];

    /// Its name in settings.
    pub fn name(self) -> &'static str {
        match self {
            Self::Mirror => "mirror",
            Self::Scale => "scale",
            Self::Elastic => "elastic",
            Self::BiasField => "bias_field",
            Self::Noise => "noise",
            Self::Blur => "blur",
            Self::Brightness => "brightness",
            Self::Contrast => "contrast",
            Self::LowResolution => "low_resolution",
            Self::InvertedGamma => "inverted_gamma",
            Self::Gamma => "gamma",
        }
    }

    /// What is used where nothing else is said. Elastic deformation and bias fields, which nnU-Net does not use, are weaker
    /// than those of other programs.
    pub fn standard(self) -> Chance {
        let chance = |probability, low, high| Chance { probability, range: Some([low, high]) };
        match self {
            Self::Mirror => Chance { probability: 0.5, range: None },
            Self::Scale => chance(0.2, 0.7, 1.4),
            Self::Elastic => chance(0.2, 0.25, 1.0),
            Self::BiasField => chance(0.1, 0.0, 0.5),
            Self::Noise => chance(0.15, 0.0, 0.1),
            Self::Blur => chance(0.1, 0.5, 1.5),
            Self::Brightness => chance(0.15, 0.7, 1.3),
            Self::Contrast => chance(0.15, 0.65, 1.5),
            Self::LowResolution => chance(0.125, 1.0, 2.0),
            Self::InvertedGamma | Self::Gamma => chance(0.15, 0.7, 1.5),
        }
    }

    /// The least and the largest strength that make sense, and how a message says so.
    fn bounds(self) -> ([f64; 2], &'static str) {
        match self {
            Self::Mirror => ([0.0; 2], "no range"),
            Self::Scale => ([0.1, 10.0], "two factors from 0.1 to 10, the smaller one first"),
            Self::Elastic => {
                ([0.0, 4.0], "two numbers of voxels from 0 to 4, the smaller one first")
            }
            Self::BiasField => ([0.0, 2.0], "two numbers from 0 to 2, the smaller one first"),
            Self::Noise => ([0.0, 100.0], "two shares from 0 to 100, the smaller one first"),
            Self::Blur => {
                ([0.0, 16.0], "two numbers of voxels from 0 to 16, the smaller one first")
            }
            Self::Brightness | Self::Contrast => {
                ([0.0, 100.0], "two factors from 0 to 100, the smaller one first")
            }
            Self::LowResolution => ([1.0, 16.0], "two factors from 1 to 16, the smaller one first"),
            Self::InvertedGamma | Self::Gamma => {
                ([0.01, 100.0], "two exponents from 0.01 to 100, the smaller one first")
            }
        }
    }
}

impl fmt::Display for Distortion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Distortion {
    type Err = VolumeError;

    fn from_str(text: &str) -> Result<Self, VolumeError> {
        let expected = "mirror, scale, elastic, bias_field, noise, blur, brightness, contrast, low_resolution, \
                        inverted_gamma or gamma";
        let named = Self::ALL.into_iter().find(|kind| kind.name() == text);
        named.map_or_else(|| parameter("distortion", expected, format!("`{text}`")), Ok)
    }
}

/// The distortions that training volumes undergo: a table with a key for each, such as `noise = {}` or
/// `noise = { probability = 0.3, range = [0.0, 0.2] }`, where what is left out is [`standard`](Distortion::standard).
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(from = "BTreeMap<Distortion, Given>", into = "BTreeMap<Distortion, Chance>")]
pub struct Distortions([Option<Chance>; Distortion::ALL.len()]);

/// A chance as it stands in settings.
#[derive(Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
struct Given {
    probability: Option<f64>,
    range: Option<[f64; 2]>,
}

impl From<BTreeMap<Distortion, Given>> for Distortions {
    fn from(table: BTreeMap<Distortion, Given>) -> Self {
        let mut all = Self::default();
        for (kind, given) in table {
            let standard = kind.standard();
            let probability = given.probability.unwrap_or(standard.probability);
            all = all.with(kind, Chance { probability, range: given.range.or(standard.range) });
        }
        all
    }
}

impl From<Distortions> for BTreeMap<Distortion, Chance> {
    fn from(all: Distortions) -> Self {
        Distortion::ALL.into_iter().filter_map(|kind| Some((kind, all.get(kind)?))).collect()
    }
}

impl Distortions {
    /// These and one more, or another chance of one of them.
    #[must_use]
    pub fn with(mut self, kind: Distortion, chance: Chance) -> Self {
        self.0[kind as usize] = Some(chance);
        self
    }

    /// The chance of one, if it is used.
    pub fn get(&self, kind: Distortion) -> Option<Chance> {
        self.0[kind as usize]
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(Option::is_none)
    }

    /// Checks every number.
    ///
    /// # Errors
    /// [`VolumeError::Parameter`] for the first that is out of its range.
    pub fn check(&self) -> Result<(), VolumeError> {
        for kind in Distortion::ALL {
            let Some(Chance { probability, range }) = self.get(kind) else { continue };
            if !(0.0..=1.0).contains(&probability) {
                let expected = "a probability from 0 to 1";
                return parameter(kind.name(), expected, probability.to_string());
            }
            let ([least, most], expected) = kind.bounds();
            let right = match range {
                None => kind == Distortion::Mirror,
                Some([low, high]) => {
                    kind != Distortion::Mirror && least <= low && low <= high && high <= most
                }
            };
            if !right {
                let found = range.map_or("none".into(), |range| format!("{range:?}"));
                return parameter(kind.name(), expected, found);
            }
        }
        Ok(())
    }

    /// Checks that the volumes of a dataset and, if those are of use, its targets can be distorted so.
    ///
    /// # Errors
    /// [`VolumeError::Parameter`] for the first distortion that is not defined for them.
    pub fn check_for(&self, dataset: &Dataset, targets: bool) -> Result<(), VolumeError> {
        let uses = |kind| self.get(kind).is_some_and(|chance| chance.probability > 0.0);
        let irreps = &dataset.meta().irreps;
        let targets = target_irreps(dataset).filter(|_| targets);
        if uses(Distortion::Mirror) {
            reflected_as(irreps)?;
            targets.map_or(Ok(irreps.clone()), reflected_as)?;
        }
        let scalars = irreps.blocks().all(|block| block.irrep.l == 0);
        for kind in Distortion::ALL.into_iter().filter(|kind| uses(*kind)) {
            let shape = matches!(kind, Distortion::Scale | Distortion::Elastic);
            if let Some(targets) = targets.filter(|_| shape) {
                let expected = "a dataset without targets, which may change with the shape in a way that is not known";
                return parameter(kind.name(), expected, format!("targets {targets}"));
            }
            if kind.is_for_scalars() && !scalars {
                return parameter(kind.name(), "channels of scalars", irreps.to_string());
            }
        }
        Ok(())
    }
}

impl Distortion {
    fn is_for_scalars(self) -> bool {
        matches!(self, Self::Elastic | Self::Contrast | Self::InvertedGamma | Self::Gamma)
    }
}

/// Distorts every volume at random, keyed by seed, epoch and item: the same whatever else is read.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RandomDistortion {
    /// Seed of all draws.
    pub seed: u64,
    /// Epoch: another one gives other draws.
    pub epoch: u64,
    /// What is done.
    pub distortions: Distortions,
    /// Whether targets are of use; else they stay what they are.
    pub targets: bool,
}

impl RandomDistortion {
    /// The strength of a distortion of an item and the stream of what else it draws, if it is made.
    fn drawn(&self, kind: Distortion, item: usize) -> Option<(f64, Stream)> {
        let Chance { probability, range } = self.distortions.get(kind)?;
        let [low, high] = range?;
        let mut stream = self.stream(kind, item);
        let made = stream.uniform() < probability;
        let strength = low + (high - low) * stream.uniform();
        made.then_some((strength, stream))
    }

    fn stream(&self, kind: Distortion, item: usize) -> Stream {
        let purpose = format!("distort {}", kind.name());
        Stream::new(self.seed, &purpose, &[self.epoch, item as u64])
    }

    fn deformation(&self, dims: [usize; 3], item: usize) -> Deformation {
        let mirror = self.distortions.get(Distortion::Mirror).map_or([false; 3], |chance| {
            let mut stream = self.stream(Distortion::Mirror, item);
            [0; 3].map(|_| stream.uniform() < chance.probability)
        });
        let bend = self.drawn(Distortion::Elastic, item);
        Deformation {
            mirror,
            scale: self.drawn(Distortion::Scale, item).map_or(1.0, |(scale, _)| scale),
            bend: bend.map(|(amplitude, mut stream)| Bend::random(dims, amplitude, &mut stream)),
        }
    }

    /// Distorts the values of an item on `grid`, C × D × H × W, with its labels of voxels and its target values, where there are any.
    ///
    /// # Errors
    /// Where a distortion is not defined for the dataset ([`Distortions::check_for`]), and for a value that is not finite.
    pub fn distort(
        &self,
        dataset: &Dataset,
        item: usize,
        grid: &Grid,
        values: &mut [f32],
        labels: &mut [Option<u8>],
        targets: &mut [f32],
    ) -> Result<(), VolumeError> {
        let meta = dataset.meta();
        let deformation = self.deformation(grid.dims(), item);
        if deformation != Deformation::default() {
            let (source, how) = (values.to_vec(), Interpolation::Cubic);
            deform_into(&source, grid, &meta.irreps, &deformation, how, values)?;
            if !labels.is_empty() {
                let moved = moved_labels(labels, |source, scalar, how| {
                    let mut moved = vec![0.0; source.len()];
                    deform_into(&source, grid, scalar, &deformation, how, &mut moved)?;
                    Ok(moved)
                })?;
                labels.copy_from_slice(&moved);
            }
            if deformation.mirror.contains(&true)
                && let Some(irreps) = target_irreps(dataset).filter(|_| self.targets)
            {
                reflect(irreps, &deformation, targets)?;
            }
        }
        self.change_values(&meta.irreps, grid.dims(), item, values);
        Ok(())
    }

    /// What is done to the values alone, in the order of [`Distortion::ALL`].
    fn change_values(&self, irreps: &Irreps, dims: [usize; 3], item: usize, values: &mut [f32]) {
        let voxels = dims.iter().product::<usize>();
        for kind in Distortion::ALL {
            let Some((strength, mut stream)) = self.drawn(kind, item) else { continue };
            match kind {
                Distortion::Mirror | Distortion::Scale | Distortion::Elastic => {}
                Distortion::BiasField => {
                    let coefficients =
                        [0.0; BIAS_TERMS].map(|_: f64| strength * (2.0 * stream.uniform() - 1.0));
                    multiply_by_bias(values, dims, &coefficients);
                }
                Distortion::Noise => {
                    for block in irreps.blocks() {
                        let channels = block.irrep.dim();
                        for field in 0..block.mul {
                            let first = block.offset + field * channels;
                            let field = &mut values[first * voxels..(first + channels) * voxels];
                            let deviation = (strength * variance(field, voxels)).sqrt();
                            add_noise(field, deviation, &mut stream);
                        }
                    }
                }
                Distortion::Blur => blur(values, dims, strength),
                Distortion::Brightness => {
                    values.iter_mut().for_each(|value| *value *= strength as f32);
                }
                Distortion::LowResolution => lower_resolution(values, dims, strength),
                Distortion::Contrast | Distortion::InvertedGamma | Distortion::Gamma => {
                    for channel in values.chunks_mut(voxels) {
                        match kind {
                            Distortion::Contrast => change_contrast(channel, strength),
                            _ => gamma(channel, strength, kind == Distortion::InvertedGamma),
                        }
                    }
                }
            }
        }
    }
}

fn target_irreps(dataset: &Dataset) -> Option<&Irreps> {
    dataset.tasks().and_then(|tasks| tasks.targets.as_ref())
}

/// The mean over the components of a field of the variance over its voxels.
fn variance(field: &[f32], voxels: usize) -> f64 {
    let of_channel = |channel: &[f32]| {
        let mean = channel.iter().map(|v| f64::from(*v)).sum::<f64>() / voxels as f64;
        channel.iter().map(|v| (f64::from(*v) - mean).powi(2)).sum::<f64>() / voxels as f64
    };
    let channels = field.chunks(voxels);
    let count = channels.len() as f64;
    channels.map(of_channel).sum::<f64>() / count
}

/// Reflects target values.
fn reflect(
    irreps: &Irreps,
    deformation: &Deformation,
    targets: &mut [f32],
) -> Result<(), VolumeError> {
    let matrix = reflected_as(irreps)?.matrix(&deformation.reflection());
    let matrix = matrix.map_err(|_| VolumeError::NotARotation)?;
    let values = nalgebra::DVector::from_iterator(
        targets.len(),
        targets.iter().map(|target| f64::from(*target)),
    );
    let reflected = matrix * values;
    targets.iter_mut().zip(&reflected).for_each(|(target, value)| *target = *value as f32);
    Ok(())
}
