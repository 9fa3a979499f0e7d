//! A small dataset and models whose behaviour under rotation is known.
#![allow(dead_code)]

use std::ops::ControlFlow;
use std::path::Path;

use candle_core::Tensor;
use steer3d_dataset::{
    Dataset, DatasetMeta, DatasetWriter, Grids, Item, Provenance, Split, Storage, Tasks,
};
use steer3d_eval::{
    AnswerKind, ConditionReport, ModelError, ModelReport, Predictor, Protocol, evaluate,
};
use steer3d_nn::LayerField;
use steer3d_so3::{Irreps, Rotation, Stream};
use steer3d_volume::{Mesh, MeshField, MeshVoxeliser, PointCloud, Voxeliser};

pub(crate) const SIZE: usize = 13;
pub(crate) const CLASSES: [&str; 3] = ["rod", "bent", "tripod"];

fn voxeliser() -> Voxeliser {
    Voxeliser { sigma: 2.0, ..Voxeliser::paper(SIZE, 2.0) }
}

/// The shape of a class: rod, L and tripod of points 2 units apart, with a little noise.
fn shape(class: usize, stream: &mut Stream) -> PointCloud {
    let arms: [&[[f64; 3]]; 3] = [
        &[[1.0, 0.0, 0.0], [-1.0, 0.0, 0.0]],
        &[[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]],
        &[[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]],
    ];
    let mut positions = vec![[0.0; 3]];
    for arm in arms[class] {
        for step in 1..=3 {
            positions.push(arm.map(|c| 2.0 * f64::from(step) * c + 0.3 * stream.normal()));
        }
    }
    let channels = vec![0; positions.len()];
    PointCloud::new(positions, channels).unwrap().centred()
}

/// `items` shapes of the three classes in turn, all in the test split.
pub(crate) fn dataset(path: &Path, items: usize, points: bool) -> Dataset {
    write(path, items, points, &Answers::Classes)
}

/// The same with labels of voxels, empty (0) and dense (1), by the values of the volume and the index of a voxel.
pub(crate) fn labelled(path: &Path, items: usize, label: impl Fn(&[f32], usize) -> u8) -> Dataset {
    write(path, items, true, &Answers::Voxels(&label))
}

/// The same with targets, one for each item.
pub(crate) fn with_targets(path: &Path, irreps: &str, targets: &[Vec<f64>]) -> Dataset {
    write(path, targets.len(), true, &Answers::Values(irreps.parse().unwrap(), targets))
}

/// The same volumes without labels.
pub(crate) fn unlabelled(path: &Path, items: usize) -> Dataset {
    write(path, items, false, &Answers::Nothing)
}

/// What there is to predict beside the classes, or without them.
enum Answers<'a> {
    Nothing,
    Classes,
    Voxels(&'a dyn Fn(&[f32], usize) -> u8),
    Values(Irreps, &'a [Vec<f64>]),
}

fn write(path: &Path, items: usize, points: bool, answers: &Answers<'_>) -> Dataset {
    let labelled = !matches!(answers, Answers::Nothing);
    let class_names = if labelled { CLASSES.map(String::from).to_vec() } else { vec![] };
    let meta = DatasetMeta {
        name: "three shapes".into(),
        class_names,
        channels: 1,
        grids: Grids::One,
        dims: [SIZE; 3],
        voxel_size: [2.0; 3],
        unit: "angstrom".into(),
        irreps: "1x0".parse().unwrap(),
        storage: Storage::F32,
        provenance: Provenance {
            source: "made by a test; see <https://example.org/a?b=1&c=2>".into(),
            licence: "CC0-1.0".into(),
            ..Provenance::default()
        },
        voxeliser: points.then(voxeliser),
        mesh_voxeliser: None,
        recipe: None,
    };
    let mut writer = DatasetWriter::create(path, meta).unwrap();
    let tasks = match answers {
        Answers::Nothing | Answers::Classes => None,
        Answers::Voxels(_) => {
            let voxel_classes = vec!["empty".into(), "dense".into()];
            Some(Tasks { targets: None, voxel_classes, ..Tasks::default() })
        }
        Answers::Values(irreps, _) => {
            Some(Tasks { targets: Some(irreps.clone()), voxel_classes: vec![], ..Tasks::default() })
        }
    };
    if let Some(tasks) = tasks {
        writer = writer.with_tasks(tasks).unwrap();
    }
    for i in 0..items {
        let class = i % CLASSES.len();
        let cloud = shape(class, &mut Stream::new(1, "shape", &[i as u64]));
        let volume = voxeliser().voxelise(&cloud, &Rotation::identity()).unwrap();
        let labels: Vec<u8> = match answers {
            Answers::Voxels(label) => {
                (0..volume.data().len()).map(|i| label(volume.data(), i)).collect()
            }
            _ => vec![],
        };
        let targets = match answers {
            Answers::Values(_, targets) => &targets[i][..],
            _ => &[],
        };
        writer
            .push(&Item {
                volume: Some(&volume),
                voxel_labels: &labels,
                targets,
                label: if labelled { class as u32 } else { 0 },
                split: Split::Test,
                id: &format!("{}-{i}", CLASSES[class]),
                points: points.then_some(&cloud),
                ..Item::default()
            })
            .unwrap();
    }
    writer.finish().unwrap();
    Dataset::open(path).unwrap()
}

/// One tetrahedron, in the test split, as a mesh alone, with its solid and the voxeliser of that.
pub(crate) fn mesh_dataset(path: &Path) -> Dataset {
    let voxeliser =
        MeshVoxeliser { supersampling: 5, ..MeshVoxeliser::new(SIZE, 2.0, MeshField::Solid) };
    let meta = DatasetMeta {
        name: "a tetrahedron".into(),
        class_names: CLASSES.map(String::from).to_vec(),
        channels: 1,
        grids: Grids::One,
        dims: [SIZE; 3],
        voxel_size: [2.0; 3],
        unit: "mm".into(),
        irreps: "1x0".parse().unwrap(),
        storage: Storage::F32,
        provenance: Provenance::default(),
        voxeliser: None,
        mesh_voxeliser: Some(voxeliser),
        recipe: None,
    };
    let mesh = Mesh::new(
        // No face lies on samples of voxels.
        vec![[-5.8, -5.8, -5.8], [5.8, -5.8, -5.8], [0.0, 5.8, -5.8], [0.0, 0.0, 5.8]],
        vec![[0, 2, 1], [0, 1, 3], [1, 2, 3], [2, 0, 3]],
    )
    .unwrap();
    let mut writer = DatasetWriter::create(path, meta).unwrap();
    writer
        .push(&Item { split: Split::Test, id: "0", mesh: Some(&mesh), ..Item::default() })
        .unwrap();
    writer.finish().unwrap();
    Dataset::open(path).unwrap()
}

/// A short protocol.
pub(crate) fn quick() -> Protocol {
    Protocol {
        seed: 3,
        rotations: 4,
        angles: vec![30.0, 90.0, 180.0],
        per_angle: 2,
        translations: vec![0.5, 2.0],
        per_distance: 2,
        resamples: 100,
        layer_items: 1,
        layer_rotations: 2,
        turning: 1,
        ..Protocol::default()
    }
}

pub(crate) type Function = Box<dyn Fn(&[f32]) -> Vec<f32> + Send + Sync>;
pub(crate) type Layers = Box<dyn Fn(&Tensor) -> Result<Vec<LayerField>, ModelError> + Send + Sync>;

/// A model given by a function of the voxels of one volume.
pub(crate) struct Mock {
    pub(crate) name: &'static str,
    pub(crate) answers: AnswerKind,
    pub(crate) classes: usize,
    pub(crate) channels: usize,
    pub(crate) fingerprint: Option<&'static str>,
    pub(crate) logits: Function,
    pub(crate) layers: Layers,
}

impl Mock {
    pub(crate) fn new(
        name: &'static str,
        logits: impl Fn(&[f32]) -> Vec<f32> + Send + Sync + 'static,
    ) -> Self {
        let layers: Layers = Box::new(|_| Ok(Vec::new()));
        Self {
            name,
            answers: AnswerKind::Classes,
            classes: CLASSES.len(),
            channels: 1,
            fingerprint: Some("the same weights"),
            logits: Box::new(logits),
            layers,
        }
    }

    /// A model of values.
    pub(crate) fn values(
        name: &'static str,
        values: impl Fn(&[f32]) -> Vec<f32> + Send + Sync + 'static,
    ) -> Self {
        Self { answers: AnswerKind::Values, ..Self::new(name, values) }
    }
}

impl Predictor for Mock {
    fn name(&self) -> &str {
        self.name
    }

    fn answers(&self) -> AnswerKind {
        self.answers
    }

    fn classes(&self) -> usize {
        self.classes
    }

    fn channels(&self) -> usize {
        self.channels
    }

    fn parameters(&self) -> usize {
        12_345
    }

    fn fingerprint(&self) -> Option<String> {
        self.fingerprint.map(str::to_owned)
    }

    fn logits(&self, batch: &Tensor) -> Result<Tensor, ModelError> {
        let values = batch.flatten_from(1)?.to_vec2::<f32>()?;
        let rows: Vec<Vec<f32>> = values.iter().map(|volume| (self.logits)(volume)).collect();
        Ok(Tensor::new(rows, batch.device())?)
    }

    fn layers(&self, batch: &Tensor, _: Option<[f64; 3]>) -> Result<Vec<LayerField>, ModelError> {
        (self.layers)(batch)
    }
}

/// A mock whose rows of logits are classes × voxels.
pub(crate) struct Voxelwise(pub(crate) Mock);

impl Predictor for Voxelwise {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn answers(&self) -> AnswerKind {
        AnswerKind::Voxels
    }

    fn fingerprint(&self) -> Option<String> {
        self.0.fingerprint()
    }

    fn classes(&self) -> usize {
        self.0.classes()
    }

    fn channels(&self) -> usize {
        self.0.channels()
    }

    fn logits(&self, batch: &Tensor) -> Result<Tensor, ModelError> {
        let shape = (batch.dim(0)?, self.0.classes, SIZE, SIZE, SIZE);
        Ok(self.0.logits(batch)?.reshape(shape)?)
    }
}

/// Labels by the sign of a function of the volume and the index of a voxel.
pub(crate) fn by(
    name: &'static str,
    sign: impl Fn(&[f32], usize) -> f32 + Send + Sync + 'static,
) -> Voxelwise {
    let logits = move |volume: &[f32]| {
        let ones = (0..volume.len()).map(|i| sign(volume, i));
        vec![0.0; volume.len()].into_iter().chain(ones).collect()
    };
    Voxelwise(Mock { classes: 2, ..Mock::new(name, logits) })
}

/// The density of a voxel against that of the labels: equivariant, and right.
pub(crate) fn threshold() -> Voxelwise {
    by("threshold", |volume, i| volume[i] - 0.04)
}

pub(crate) fn is_dense(volume: &[f32], i: usize) -> u8 {
    u8::from(volume[i] > 0.04)
}

/// Third moment x,y,z over the mass: a vector under the rotations of the cube, and under no others.
pub(crate) fn third_moment(volume: &[f32]) -> [f32; 3] {
    let (mut moment, mut mass) = ([0.0; 3], 0.0);
    for (i, &v) in volume.iter().enumerate() {
        let at = [i % SIZE, i / SIZE % SIZE, i / SIZE / SIZE].map(|c| c as f32 - (SIZE / 2) as f32);
        moment = [0, 1, 2].map(|k| moment[k] + v * at[k] * at[k] * at[k]);
        mass += v;
    }
    moment.map(|m| m / mass)
}

pub(crate) fn vector() -> Mock {
    Mock::values("third moment", |volume| third_moment(volume).to_vec())
}

/// The value of a measure of no class.
pub(crate) fn value(report: &ConditionReport, name: &str) -> f64 {
    report.get(name).unwrap_or_else(|| panic!("{name} is not measured")).value
}

/// Evaluates the test items.
pub(crate) fn run(model: &dyn Predictor, data: &Dataset, protocol: &Protocol) -> ModelReport {
    evaluate(model, data, Split::Test, protocol, None, &|_| ControlFlow::Continue(())).unwrap()
}

/// Mean over items of each class of `feature`.
fn class_means(dataset: &Dataset, feature: &dyn Fn(&[f32]) -> Vec<f32>) -> Vec<Vec<f32>> {
    let mut means = vec![Vec::new(); CLASSES.len()];
    for i in 0..dataset.len() {
        let found = feature(dataset.read(i).unwrap().data());
        let mean = &mut means[dataset.labels()[i] as usize];
        mean.resize(found.len(), 0.0);
        let share = (CLASSES.len() as f32) / dataset.len() as f32;
        mean.iter_mut().zip(found).for_each(|(mean, value)| *mean += share * value);
    }
    means
}

/// Classifies by the nearest class mean of a feature of the volume.
pub(crate) fn nearest_mean(
    name: &'static str,
    dataset: &Dataset,
    feature: impl Fn(&[f32]) -> Vec<f32> + Send + Sync + 'static,
) -> Mock {
    let means = class_means(dataset, &feature);
    Mock::new(name, move |volume| {
        let found = feature(volume);
        let distance = |mean: &Vec<f32>| -> f32 {
            mean.iter().zip(&found).map(|(a, b)| (a - b).powi(2)).sum::<f32>().sqrt()
        };
        means.iter().map(|mean| -8.0 * distance(mean)).collect()
    })
}

/// Mass in shells about the centre: the same for every orientation.
pub(crate) fn shells(volume: &[f32]) -> Vec<f32> {
    let mut shells = vec![0.0; SIZE];
    let centred = |i: usize| i as f64 - (SIZE - 1) as f64 / 2.0;
    for (i, value) in volume.iter().enumerate() {
        let p = [i / (SIZE * SIZE), i / SIZE % SIZE, i % SIZE].map(centred);
        let radius = p.iter().map(|c| c * c).sum::<f64>().sqrt();
        shells[radius as usize] += value;
    }
    shells
}

pub(crate) fn field(name: &str, irreps: &str, values: Tensor) -> LayerField {
    LayerField { name: name.into(), irreps: irreps.parse::<Irreps>().unwrap(), values }
}

/// The central difference along a dimension, zero at its ends.
fn difference(batch: &Tensor, dim: usize) -> candle_core::Result<Tensor> {
    let n = batch.dim(dim)?;
    let ahead = batch.narrow(dim, 2, n - 2)?;
    let behind = batch.narrow(dim, 0, n - 2)?;
    (ahead - behind)?.pad_with_zeros(dim, 1, 1)
}

/// Identity, gradient x,y,z, gradient z,y,x (wrong) and mean.
pub(crate) fn layers(batch: &Tensor) -> Result<Vec<LayerField>, ModelError> {
    let [z, y, x] = [difference(batch, 2)?, difference(batch, 3)?, difference(batch, 4)?];
    Ok(vec![
        field("identity", "1x0", batch.clone()),
        field("gradient", "1x1", Tensor::cat(&[&x, &y, &z], 1)?),
        field("wrong order", "1x1", Tensor::cat(&[&z, &y, &x], 1)?),
        field("mean", "1x0", batch.flatten_from(2)?.mean(2)?),
    ])
}
