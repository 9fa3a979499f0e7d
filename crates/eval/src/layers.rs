//! Equivariance errors of the layers of a model.

use candle_core::{DType, Device, Tensor};
use steer3d_nn::LayerField;
use steer3d_so3::{Rotation, Stream, cube_group, rotations::random_rotation};
use steer3d_volume::{Dataset, Grid, Interpolation, rotate_into};

use crate::EvalError;
use crate::material::Material;
use crate::predictor::Predictor;
use crate::protocol::{Protocol, Source, Transform};
use crate::report::LayerError;

/// Radius of the ball in which fields are compared, as a share of the grid's smallest side.
const BALL: f64 = 0.35;

/// Volumes that [`layer_errors`] gives to the model for one source.
pub(crate) fn layer_volumes(protocol: &Protocol, items: usize) -> usize {
    protocol.layer_items.min(items) * (1 + rotations(protocol, 0).len())
}

/// The rotations of one item, each with whether it is one of the cube: uniform ones from the
/// streams (seed, "layer rotation", \[item, k\]), then, if the protocol has the cube group, as many
/// of its 23 proper turns, chosen by the stream (seed, "layer cube rotations", \[item\]).
fn rotations(protocol: &Protocol, item: usize) -> Vec<(Rotation, bool)> {
    let (seed, count, item) = (protocol.seed, protocol.layer_rotations, item as u64);
    let random = (0..count as u64)
        .map(|k| random_rotation(&mut Stream::new(seed, "layer rotation", &[item, k])));
    let mut turns = cube_group().split_off(1);
    Stream::new(seed, "layer cube rotations", &[item]).shuffle(&mut turns);
    turns.truncate(if protocol.cube { count } else { 0 });
    random.map(|r| (r, false)).chain(turns.into_iter().map(|r| (r, true))).collect()
}

/// The errors of the input and of every layer, or nothing if the model shows no layers.
pub(crate) fn layer_errors(
    model: &dyn Predictor,
    dataset: &Dataset,
    items: &[usize],
    source: Source,
    protocol: &Protocol,
) -> Result<Vec<LayerError>, EvalError> {
    let mut sums: Vec<Sum> = Vec::new();
    for &item in items.iter().take(protocol.layer_items) {
        let material = Material::read(dataset, item, source)?;
        let fields = |transform: &Transform| layers(model, dataset, &material, transform);
        let base = fields(&Transform::IDENTITY)?;
        if base.len() == 1 {
            return Ok(Vec::new());
        }
        if sums.is_empty() {
            sums = base.iter().map(Sum::new).collect();
        }
        for (rotation, in_cube) in rotations(protocol, item) {
            let turned = fields(&rotation.into())?;
            if turned.len() != sums.len() || base.len() != sums.len() {
                let (expected, found) = (sums.len() - 1, turned.len().min(base.len()) - 1);
                return Err(EvalError::LayerCount { model: model.name().into(), expected, found });
            }
            for ((sum, base), turned) in sums.iter_mut().zip(&base).zip(&turned) {
                let interpolation = field_interpolation(source);
                let voxel_size = dataset.meta().voxel_size;
                sum.add(in_cube, error(base, turned, &rotation, voxel_size, interpolation)?);
            }
        }
    }
    Ok(sums.into_iter().map(Sum::mean).collect())
}

/// How L(x) is rotated: as the volumes are, and as well as possible when they are rotated exactly.
fn field_interpolation(source: Source) -> Interpolation {
    match source {
        Source::Voxels(interpolation) => interpolation,
        Source::Points => Interpolation::Cubic,
    }
}

/// Values of one layer for one volume.
struct Values {
    field: LayerField,
    data: Vec<f32>,
}

/// The transformed volume itself, named `input`, and the layers' outputs for it.
fn layers(
    model: &dyn Predictor,
    dataset: &Dataset,
    material: &Material,
    transform: &Transform,
) -> Result<Vec<Values>, EvalError> {
    let meta = dataset.meta();
    let mut values = vec![0.0f32; meta.item_len()];
    material.write(&meta.irreps, transform, &mut values)?;
    let [d, h, w] = meta.dims;
    let batch = Tensor::from_vec(values, (1, meta.channels, d, h, w), &Device::Cpu)?;
    let outputs = model.layers(&batch).map_err(|e| EvalError::model(model, &batch, e))?;
    let input = LayerField { name: "input".into(), irreps: meta.irreps.clone(), values: batch };
    std::iter::once(input).chain(outputs).map(|field| Values::new(model, field)).collect()
}

impl Values {
    fn new(model: &dyn Predictor, field: LayerField) -> Result<Self, EvalError> {
        let (dims, channels) = (field.values.dims(), field.irreps.dim());
        if !matches!(dims.len(), 2 | 5) || dims[..2] != [1, channels] {
            return Err(EvalError::LayerShape {
                model: model.name().into(),
                layer: field.name,
                irreps: field.irreps.to_string(),
                channels,
                found: dims.to_vec(),
            });
        }
        let flat = field.values.flatten_all()?.to_dtype(DType::F32)?;
        Ok(Self { data: flat.to_vec1()?, field })
    }

    /// D,H,W; one voxel for values without a grid.
    fn dims(&self) -> [usize; 3] {
        match self.field.values.dims() {
            &[_, _, d, h, w] => [d, h, w],
            _ => [1; 3],
        }
    }
}

/// ‖M (L(R x) - ρ(R) L(x))‖ / ‖M ρ(R) L(x)‖, or `None` when the denominator is 0.
fn error(
    base: &Values,
    turned: &Values,
    rotation: &Rotation,
    voxel_size: [f64; 3],
    interpolation: Interpolation,
) -> Result<Option<f64>, EvalError> {
    let dims = base.dims();
    let grid = Grid::new(dims, voxel_size)?;
    let mut expected = vec![0.0; base.data.len()];
    let irreps = &base.field.irreps;
    rotate_into(&base.data, &grid, irreps, rotation, interpolation, &mut expected)?;
    let inside = ball(dims);
    let (mut difference, mut norm) = (0.0, 0.0);
    for (i, (&expected, &found)) in expected.iter().zip(&turned.data).enumerate() {
        if inside[i % inside.len()] {
            let (expected, found) = (f64::from(expected), f64::from(found));
            difference += (found - expected).powi(2);
            norm += expected * expected;
        }
    }
    Ok((norm > 0.0).then(|| (difference / norm).sqrt()))
}

/// Whether each voxel of a grid D,H,W lies in the ball |p| <= 0.35 N, N the smallest side.
fn ball(dims: [usize; 3]) -> Vec<bool> {
    let radius = BALL * dims.into_iter().min().unwrap_or(0) as f64;
    let centred = |n: usize| (0..n).map(move |i| i as f64 - (n - 1) as f64 / 2.0);
    let [depth, height, width] = dims;
    let mut inside = Vec::with_capacity(depth * height * width);
    for z in centred(depth) {
        for y in centred(height) {
            inside.extend(centred(width).map(|x| x * x + y * y + z * z <= radius * radius));
        }
    }
    inside
}

/// The errors of one layer so far.
struct Sum {
    name: String,
    irreps: String,
    shape: Vec<usize>,
    /// Sum and number of the errors at random rotations and at those of the cube.
    errors: [(f64, usize); 2],
}

impl Sum {
    fn new(values: &Values) -> Self {
        Self {
            name: values.field.name.clone(),
            irreps: values.field.irreps.to_string(),
            shape: values.field.values.dims()[1..].to_vec(),
            errors: [(0.0, 0); 2],
        }
    }

    fn add(&mut self, in_cube: bool, error: Option<f64>) {
        if let Some(error) = error {
            let (sum, count) = &mut self.errors[usize::from(in_cube)];
            *sum += error;
            *count += 1;
        }
    }

    fn mean(self) -> LayerError {
        let [random, cube] =
            self.errors.map(|(sum, count)| (count > 0).then(|| sum / count as f64));
        LayerError { name: self.name, irreps: self.irreps, shape: self.shape, random, cube }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ball_of_a_small_grid() {
        // Radius 0.35 * 3 = 1.05: the centre and its six neighbours.
        assert_eq!(ball([3; 3]).iter().filter(|&&inside| inside).count(), 7);
        // Radius 0.7, nearest voxels at sqrt(0.75) = 0.87.
        assert!(!ball([2; 3]).contains(&true));
        assert_eq!(ball([1; 3]), [true]);
    }

    #[test]
    fn rotations_of_the_cube_follow_the_random_ones() {
        let protocol = Protocol { layer_rotations: 4, ..Protocol::default() };
        let all = rotations(&protocol, 0);
        assert_eq!(all.iter().map(|r| r.1).collect::<Vec<_>>(), [[false; 4], [true; 4]].concat());
        assert!(all.iter().all(|r| r.0 != Rotation::identity()));
        assert_ne!(all, rotations(&protocol, 1));
    }
}
