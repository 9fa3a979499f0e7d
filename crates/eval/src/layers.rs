//! Equivariance errors of the layers of a model.

use candle_core::{Device, Tensor};
use steer3d_dataset::Dataset;
use steer3d_nn::LayerField;
use steer3d_so3::{Rotation, Stream, cube_group, rotations::random_rotation};
use steer3d_volume::Interpolation;

use crate::error::EvalError;
use crate::fields::Values;
use crate::material::Material;
use crate::predictor::Predictor;
use crate::protocol::{PointGroup, Protocol, Source, Transform};
use crate::results::LayerError;

/// The rotations of one item, each with whether it is one of the cube: uniform ones from the
/// streams (seed, "layer rotation", \[item, k\]), then, if the protocol has the cube group, as many
/// of its 23 proper turns, chosen by the stream (seed, "layer cube rotations", \[item\]).
fn rotations(protocol: &Protocol, item: usize) -> Vec<(Rotation, bool)> {
    let (seed, count, item) = (protocol.seed, protocol.layer_rotations, item as u64);
    let random = (0..count as u64)
        .map(|k| random_rotation(&mut Stream::new(seed, "layer rotation", &[item, k])));
    let mut turns = cube_group().split_off(1);
    Stream::new(seed, "layer cube rotations", &[item]).shuffle(&mut turns);
    turns.truncate(if protocol.groups.contains(&PointGroup::Cube) { count } else { 0 });
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
    let mut all: Vec<LayerError> = vec![];
    // At random rotations and at those of the cube.
    let mut errors: Vec<[Vec<f64>; 2]> = vec![];
    for &item in items.iter().take(protocol.layer_items) {
        let material = Material::read(dataset, item, source, protocol)?;
        let voxel_size = dataset.grid(item).voxel_size();
        let fields = |transform: &Transform| layers(model, dataset, item, &material, transform);
        let base = fields(&Transform::IDENTITY)?;
        if base.len() == 1 {
            return Ok(Vec::new());
        }
        if all.is_empty() {
            errors.resize_with(base.len(), Default::default);
            all = base.iter().map(Layer::unmeasured).collect();
        }
        for (rotation, in_cube) in rotations(protocol, item) {
            let turned = fields(&rotation.into())?;
            if turned.len() != all.len() || base.len() != all.len() {
                let (expected, found) = (all.len() - 1, turned.len().min(base.len()) - 1);
                let problem =
                    format!("returned {found} layers for one volume and {expected} for another");
                return Err(EvalError::answer(model.name(), problem));
            }
            for ((errors, base), turned) in errors.iter_mut().zip(&base).zip(&turned) {
                let interpolation = field_interpolation(source);
                let expected = base.values.rotated(&rotation, voxel_size, interpolation)?;
                errors[usize::from(in_cube)].extend(expected.gap_in_ball(&turned.values));
            }
        }
    }
    for (layer, errors) in all.iter_mut().zip(errors) {
        let mean = |errors: Vec<f64>| errors.iter().sum::<f64>() / errors.len() as f64;
        [layer.random, layer.cube] = errors.map(|e| Some(e).filter(|e| !e.is_empty()).map(mean));
    }
    Ok(all)
}

/// How L(x) is rotated: as the volumes are, and as well as possible when they are rotated exactly.
fn field_interpolation(source: Source) -> Interpolation {
    match source {
        Source::Voxels(interpolation) => interpolation,
        Source::Points => Interpolation::Cubic,
    }
}

/// One layer's values for one volume.
struct Layer {
    name: String,
    values: Values,
}

impl Layer {
    fn unmeasured(&self) -> LayerError {
        let (irreps, shape) = (self.values.irreps.to_string(), self.values.shape.clone());
        LayerError { name: self.name.clone(), irreps, shape, random: None, cube: None }
    }
}

/// The transformed volume itself, named `input`, and the layers' outputs for it.
fn layers(
    model: &dyn Predictor,
    dataset: &Dataset,
    item: usize,
    material: &Material,
    transform: &Transform,
) -> Result<Vec<Layer>, EvalError> {
    let (meta, grid) = (dataset.meta(), dataset.grid(item));
    let mut values = vec![0.0f32; meta.channels * grid.voxels()];
    material.write(transform, &mut values)?;
    let [d, h, w] = grid.dims();
    let batch = Tensor::from_vec(values, (1, meta.channels, d, h, w), &Device::Cpu)?;
    let outputs = model.layers(&batch, dataset.own_voxel_size(item));
    let outputs = outputs.map_err(|e| EvalError::model(model, &batch, e))?;
    let input = LayerField { name: "input".into(), irreps: meta.irreps.clone(), values: batch };
    let layer = |field: LayerField| {
        let layer = format!("`{}` of model `{}`", field.name, model.name());
        let values = Values::new(&layer, &field.irreps, &field.values)?;
        Ok(Layer { name: field.name, values })
    };
    std::iter::once(input).chain(outputs).map(layer).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rotations_of_the_cube_follow_the_random_ones() {
        let protocol = Protocol { layer_rotations: 4, ..Protocol::default() };
        let all = rotations(&protocol, 0);
        assert_eq!(all.iter().map(|r| r.1).collect::<Vec<_>>(), [[false; 4], [true; 4]].concat());
        assert!(all.iter().all(|r| r.0 != Rotation::identity()));
        assert_ne!(all, rotations(&protocol, 1));
    }
}
