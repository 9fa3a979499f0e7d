use serde::{Deserialize, Serialize};
use steer3d_kernels::equivariance::{layer_error, mean_kernel_error, spacing_error};
use steer3d_kernels::{Family, HarmonicFamily, TapGrid, conditioning};
use steer3d_so3::{Irreps, Stream, random_rotations};

use super::{
    BumpField, FieldMap, LayerSpec, SpacingRow, Subject, centre_error, cube_error,
    resampled_errors, unet_difference,
};
use crate::EvalError;

/// Voxels along each axis of the white noise for the rotations of the cube.
const NOISE_SIZE: usize = 17;

/// The most voxels along each axis of a measured field.
const MAX_SIZE: usize = 129;

/// What a survey measures and how.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SurveyConfig {
    /// The type of the fields between layers.
    pub irreps: Irreps,
    /// Kernel sizes k.
    pub sizes: Vec<usize>,
    /// Kernel families.
    pub families: Vec<Family>,
    /// Widths of the fields, in voxels, for the closed forms.
    pub widths: Vec<f64>,
    /// Edges of voxels (x, y, z) other than the cubes of edge 1 for which kernels are made; outputs on them are
    /// compared.
    pub spacings: Vec<[f64; 3]>,
    /// What to measure beside the closed forms.
    pub subjects: Vec<Subject>,
    /// Voxels along each axis of a measured field, N.
    pub size: usize,
    /// Bumps of a measured field, uniform in the ball of radius N/4.
    pub bumps: usize,
    /// Standard deviation of a bump, in voxels.
    pub width: f64,
    /// Random rotations for each seed.
    pub rotations: usize,
    /// First seed of weights, fields and rotations.
    pub seed: u64,
    /// Number of seeds.
    pub seeds: u64,
    /// Fields, each with one rotation, that are compared at the centre for each seed.
    pub centre_fields: usize,
}

impl Default for SurveyConfig {
    fn default() -> Self {
        let l = steer3d_so3::Irrep::so3;
        Self {
            irreps: Irreps::new([(8, l(0)), (4, l(1)), (2, l(2))])
                .unwrap_or_else(|_| unreachable!("a short list of small irreps is valid")),
            sizes: vec![5],
            families: vec![Family::shells(), Family::jets(3)],
            widths: vec![0.75, 1.0, 1.5, 2.0, 3.0],
            spacings: vec![],
            subjects: Subject::all(),
            size: 33,
            bumps: 24,
            width: 2.0,
            rotations: 20,
            seed: 0,
            seeds: 2,
            centre_fields: 40,
        }
    }
}

impl SurveyConfig {
    fn check(&self) -> Result<(), EvalError> {
        let none = |empty: bool| empty.then(|| "none".to_owned());
        let count = |n: usize| (!(1..=100_000).contains(&n)).then(|| n.to_string());
        let size = Some(self.size).filter(|n| !(9..=MAX_SIZE).contains(n) || n % 4 != 1);
        let last = self.seed.checked_add(self.seeds);
        let width = Some(self.width).filter(|width| !(width.is_finite() && *width > 0.0));
        EvalError::check_settings([
            ("sizes", "at least one kernel size", none(self.sizes.is_empty())),
            ("families", "at least one family", none(self.families.is_empty())),
            ("size", "9, 13, 17 and so on to 129", size.map(|n| n.to_string())),
            ("bumps", "1 to 100000", count(self.bumps)),
            ("rotations", "1 to 100000", count(self.rotations)),
            ("seeds", "1 to 100000", count(self.seeds as usize)),
            (
                "seed",
                "so small that all seeds are below 2^64",
                last.is_none().then(|| self.seed.to_string()),
            ),
            ("centre_fields", "1 to 100000", count(self.centre_fields)),
            ("width", "a positive number", width.map(|width| width.to_string())),
        ])
    }

    /// The field of a seed that [`resampled_errors`] takes.
    fn field(&self, irreps: &Irreps, seed: u64) -> BumpField {
        let mut stream = Stream::new(seed, "equivariance field", &[]);
        BumpField::random(irreps, self.bumps, 0.25 * self.size as f64, self.width, &mut stream)
    }

    fn layers(&self) -> impl Iterator<Item = LayerSpec> + '_ {
        self.sizes.iter().flat_map(move |&size| {
            self.families.iter().map(move |family| LayerSpec {
                irreps: self.irreps.clone(),
                size,
                family: family.clone(),
            })
        })
    }
}

/// What needs no measuring of one family and size: errors in closed form, one for each width, and the
/// conditioning of the functions up to twice the highest l of the fields.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct KernelRow {
    /// The family.
    pub family: String,
    /// Taps along each axis.
    pub size: usize,
    /// Mean over the functions.
    pub kernel: Vec<f64>,
    /// One convolution from the fields to themselves, in the mean over its initial weights.
    pub layer: Vec<f64>,
    /// Number of functions, components counted.
    pub functions: usize,
    /// Rank of their Gram matrix on the taps.
    pub rank: usize,
    /// Its largest eigenvalue over the smallest, where it has full rank.
    pub condition_number: Option<f64>,
    /// Largest |cosine| between two functions.
    pub largest_overlap: f64,
}

/// Measured errors of one subject, relative to the norm of its output, in the mean over the seeds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MeasuredRow {
    /// The subject.
    pub subject: String,
    /// Convolutions in it, if it is a network.
    pub depth: Option<usize>,
    /// The family and size of its kernels, if it has any.
    pub kernel: Option<(String, usize)>,
    /// [`centre_error`].
    pub centre: f64,
    /// Mean of [`resampled_errors`].
    pub resampled: f64,
    /// Largest [`cube_error`].
    pub cube: f64,
}

/// The result of [`survey`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Survey {
    /// Version of this layout.
    pub schema_version: u32,
    /// What was measured and how.
    pub config: SurveyConfig,
    /// The closed forms.
    pub kernels: Vec<KernelRow>,
    /// What other voxels change.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub spacings: Vec<SpacingRow>,
    /// The measurements.
    pub measured: Vec<MeasuredRow>,
}

/// Evaluates the closed forms for every size and family and measures every chosen [`Subject`] with
/// them; `progress` is told what is done, of how many, and what comes next.
///
/// # Errors
/// [`EvalError::Protocol`] for a setting out of range, [`EvalError::Kernel`] when a family does not
/// exist at a size.
pub fn survey(
    config: &SurveyConfig,
    progress: &dyn Fn(usize, usize, &str),
) -> Result<Survey, EvalError> {
    config.check()?;
    let kernels = config.layers().map(|layer| kernel_row(config, &layer));
    let kernels = kernels.collect::<Result<Vec<_>, EvalError>>()?;
    let spacings = config.layers().flat_map(|layer| {
        config.spacings.iter().map(move |&spacing| spacing_row(config, &layer, spacing))
    });
    let spacings = spacings.collect::<Result<Vec<_>, EvalError>>()?;
    let mut tasks = vec![];
    for (i, layer) in config.layers().enumerate() {
        let subjects = config.subjects.iter().filter(|s| s.has_kernels() || i == 0);
        tasks.extend(subjects.map(|&subject| (subject, layer.clone())));
    }
    let mut measured = vec![];
    for (done, (subject, layer)) in tasks.iter().enumerate() {
        progress(done, tasks.len(), &subject.name());
        measured.push(measure(config, *subject, layer)?);
    }
    progress(tasks.len(), tasks.len(), "");
    Ok(Survey { schema_version: 1, config: config.clone(), kernels, spacings, measured })
}

fn kernel_row(config: &SurveyConfig, layer: &LayerSpec) -> Result<KernelRow, EvalError> {
    let LayerSpec { irreps, size, family } = layer;
    let jmax = 2 * irreps.lmax();
    let of = |error: &dyn Fn(f64) -> Result<f64, steer3d_kernels::KernelError>| {
        config.widths.iter().map(|&width| error(width)).collect::<Result<Vec<_>, _>>()
    };
    // First: its error names the irreps when their degrees are too high.
    let layer = of(&|width| layer_error(irreps, irreps, *size, family, width))?;
    let functions = conditioning(&family.sample(&TapGrid::new(*size, [1.0; 3])?, jmax)?);
    Ok(KernelRow {
        family: label(family),
        size: *size,
        kernel: of(&|width| mean_kernel_error(family, *size, jmax, width))?,
        layer,
        functions: functions.dim,
        rank: functions.rank,
        condition_number: Some(functions.condition_number).filter(|c| c.is_finite()),
        largest_overlap: functions.largest_overlap,
    })
}

fn spacing_row(
    config: &SurveyConfig,
    layer: &LayerSpec,
    spacing: [f64; 3],
) -> Result<SpacingRow, EvalError> {
    let LayerSpec { irreps, size, family } = layer;
    let closed = |&width: &f64| spacing_error(irreps, irreps, *size, family, spacing, width);
    let measured = |&width: &f64| {
        let seeds = config.seed..config.seed + config.seeds;
        let of = |seed| unet_difference(layer, spacing, config.size, config.bumps, width, seed);
        let all = seeds.map(of).collect::<Result<Vec<f64>, EvalError>>()?;
        Ok::<_, EvalError>(all.iter().sum::<f64>() / all.len() as f64)
    };
    Ok(SpacingRow {
        family: label(family),
        size: *size,
        spacing,
        layer: config.widths.iter().map(closed).collect::<Result<_, _>>()?,
        unet: config.widths.iter().map(measured).collect::<Result<_, _>>()?,
    })
}

fn measure(
    config: &SurveyConfig,
    subject: Subject,
    layer: &LayerSpec,
) -> Result<MeasuredRow, EvalError> {
    let irreps = subject.irreps_in(layer)?;
    let mut row = MeasuredRow {
        subject: subject.name(),
        depth: if let Subject::Network(depth) = subject { Some(depth) } else { None },
        kernel: subject.has_kernels().then(|| (label(&layer.family), layer.size)),
        centre: 0.0,
        resampled: 0.0,
        cube: 0.0,
    };
    for seed in config.seed..config.seed + config.seeds {
        let map = subject.build(layer, seed, &config.field(&irreps, seed).sample(config.size)?)?;
        let errors = measured(&map, config, subject.centre_size(layer), seed)?;
        row.resampled += errors.resampled / config.seeds as f64;
        row.centre += errors.centre / config.seeds as f64;
        row.cube = row.cube.max(errors.cube);
    }
    Ok(row)
}

/// What a [`MeasuredRow`] has of a map for one seed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MapErrors {
    /// [`centre_error`].
    pub centre: f64,
    /// Mean of [`resampled_errors`].
    pub resampled: f64,
    /// [`cube_error`].
    pub cube: f64,
}

/// Measures any map as [`survey`] does its subjects, with the fields and rotations of one seed. Of `config` it takes what
/// says how to measure. `centre_size` are the voxels along each axis of the fields that are compared at the centre: as
/// many as the central voxel of the output depends on, and an odd number of voxels must come of them.
///
/// # Errors
/// [`EvalError::Protocol`] for a setting out of range, and as [`resampled_errors`] and [`centre_error`].
pub fn map_errors(
    map: &FieldMap<'_>,
    config: &SurveyConfig,
    centre_size: usize,
    seed: u64,
) -> Result<MapErrors, EvalError> {
    config.check()?;
    let size = Some(centre_size).filter(|n| !(1..=MAX_SIZE).contains(n)).map(|n| n.to_string());
    EvalError::check_settings([("centre_size", "1 to 129", size)])?;
    measured(map, config, centre_size, seed)
}

fn measured(
    map: &FieldMap<'_>,
    config: &SurveyConfig,
    centre_size: usize,
    seed: u64,
) -> Result<MapErrors, EvalError> {
    let field = config.field(map.irreps_in(), seed);
    let rotations = random_rotations(seed, config.rotations);
    let errors = resampled_errors(map, &field, config.size, &rotations)?;
    Ok(MapErrors {
        resampled: errors.iter().sum::<f64>() / errors.len() as f64,
        centre: centre_error(map, centre_size, config.width, config.centre_fields, seed)?,
        cube: cube_error(map, NOISE_SIZE, seed)?,
    })
}

/// A short name for a family in a table.
fn label(family: &Family) -> String {
    match family {
        Family::GaussianShells { .. } => "shells".into(),
        Family::GaussianJets { order, .. } => format!("jets, N = {order}"),
        Family::Bessel { functions, .. } => format!("Bessel, {functions}"),
        Family::SoftOneHot { functions, shape, .. } => format!("{shape:?} bumps, {functions}"),
        _ => "radii".into(),
    }
}
