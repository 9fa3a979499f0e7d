//! Volumes that turn step by step, and the answers of every model to each step.

use std::f64::consts::TAU;

use candle_core::{DType, Device, Tensor};
use nalgebra::{Rotation3, Vector3};
use steer3d_dataset::Dataset;
use steer3d_eval::metrics::softmax;
use steer3d_eval::{
    AnswerKind, EvalError, Prediction, Predictor, Section, Transform, Turning, TurningAnswer,
    transformed,
};

use crate::error::ReportError;
use crate::gallery::{candidates, channel_maximum, extent, png};

/// Steps of a turn: every ten degrees, so that quarter turns are among them.
const STEPS: usize = 36;

/// The axis that is upright in the pictures.
const AXIS: [f64; 3] = [0.0, 1.0, 0.0];

/// Most classes whose probabilities are shown.
const CLASSES: usize = 6;

/// Longest side of a picture in pixels: larger volumes are shown with fewer.
const SIDE: usize = 48;

/// Most values of the volumes that are turned at once.
const VALUES: usize = 1 << 26;

/// As many items of the first source as the protocol says, those first whose predicted class changes when they are
/// turned, in every step of a turn; only of classes, and of predictors that answer for any volume.
///
/// # Errors
/// If an item cannot be read or drawn, or a model fails.
pub(crate) fn turning(
    dataset: &Dataset,
    section: &Section,
    predictors: &[&dyn Predictor],
) -> Result<Vec<Turning>, ReportError> {
    let asked: Vec<&dyn Predictor> =
        predictors.iter().copied().filter(|model| model.answers_all()).collect();
    if section.answers() != AnswerKind::Classes || asked.is_empty() {
        return Ok(vec![]);
    }
    let items = candidates(section).into_iter().take(section.protocol.turning);
    items.map(|orientations| turned(dataset, section, &asked, orientations[0][0].1)).collect()
}

/// The item of a prediction.
fn turned(
    dataset: &Dataset,
    section: &Section,
    models: &[&dyn Predictor],
    &Prediction { item, ref id, label, .. }: &Prediction,
) -> Result<Turning, ReportError> {
    let (protocol, channels) = (&section.protocol, dataset.meta().channels);
    let [depth, height, width] = dataset.grid(item).dims();
    let step = |i: usize| {
        Transform::from(Rotation3::new(Vector3::from(AXIS) * (TAU * i as f64 / STEPS as f64)))
    };
    let steps: Vec<Transform> = (0..STEPS).map(step).collect();
    let (mut pictures, mut size, mut range) = (vec![], [width, height], None);
    let mut found: Vec<Vec<Vec<f64>>> = vec![vec![]; models.len()];
    let edges = dataset.own_voxel_size(item);
    let room = VALUES / dataset.item_len(item);
    for steps in steps.chunks(protocol.batch.min(room).max(1)) {
        let values = transformed(dataset, item, protocol.sources[0], protocol, steps)?;
        for volume in values.chunks(dataset.item_len(item)) {
            range.get_or_insert_with(|| extent(volume));
            let (picture, shown) =
                shrunk(&channel_maximum(volume, height * width), [width, height]);
            pictures.extend(picture);
            size = shown;
        }
        let shape = (steps.len(), channels, depth, height, width);
        let batch = Tensor::from_vec(values, shape, &Device::Cpu).map_err(EvalError::from)?;
        for (model, found) in models.iter().zip(&mut found) {
            found.extend(probabilities(*model, &batch, edges)?);
        }
    }
    let shown = shown(&found, label);
    let names = section.class_names();
    let answer = |(model, steps): (&&dyn Predictor, Vec<Vec<f64>>)| TurningAnswer {
        model: model.name().into(),
        probabilities: steps
            .iter()
            .map(|step| shown.iter().map(|&c| rounded(step[c])).collect())
            .collect(),
    };
    Ok(Turning {
        id: id.clone(),
        class: label.map(|class| names[class].clone()),
        axis: AXIS,
        uri: png(&pictures, [size[0], STEPS * size[1]], range.unwrap_or_default())?,
        size,
        classes: shown.iter().map(|&class| names[class].clone()).collect(),
        answers: models.iter().zip(found).map(answer).collect(),
    })
}

fn probabilities(
    model: &dyn Predictor,
    batch: &Tensor,
    edges: Option<[f64; 3]>,
) -> Result<Vec<Vec<f64>>, EvalError> {
    let logits = model.logits_of(batch, edges).map_err(|e| EvalError::model(model, batch, e))?;
    let rows = logits.to_dtype(DType::F32)?.to_vec2::<f32>()?;
    Ok(rows.iter().map(|row| softmax(row)).collect())
}

fn rounded(probability: f64) -> f64 {
    (probability * 1e4).round() / 1e4
}

/// The right class, and those that are likeliest for any model at any step; in their order.
fn shown(found: &[Vec<Vec<f64>>], right: Option<usize>) -> Vec<usize> {
    let steps = || found.iter().flatten();
    let peak = |class: usize| match Some(class) == right {
        true => f64::INFINITY,
        false => steps().map(|step| step[class]).fold(0.0, f64::max),
    };
    let count = steps().next().map_or(0, Vec::len);
    let mut classes: Vec<usize> = (0..count).collect();
    classes.sort_by(|&a, &b| peak(b).total_cmp(&peak(a)));
    classes.truncate(CLASSES);
    classes.sort_unstable();
    classes
}

/// A picture of at most [`SIDE`] pixels a side: means of squares of pixels; with its width and height.
fn shrunk(pixels: &[f32], [width, height]: [usize; 2]) -> (Vec<f32>, [usize; 2]) {
    let by = width.max(height).div_ceil(SIDE);
    let size = [width / by, height / by].map(|n| n.max(1));
    let [across, down] = [by.min(width), by.min(height)];
    let mean = |x: usize, y: usize| {
        let rows = (0..down).map(|row| &pixels[(y * by + row) * width + x * by..][..across]);
        rows.flatten().sum::<f32>() / (across * down) as f32
    };
    let rows = (0..size[1]).flat_map(|y| (0..size[0]).map(move |x| (x, y)));
    (rows.map(|(x, y)| mean(x, y)).collect(), size)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_pictures_stay_and_large_ones_are_averaged() {
        let small: Vec<f32> = (0..12).map(|v| v as f32).collect();
        assert_eq!(shrunk(&small, [4, 3]), (small.clone(), [4, 3]));
        let large: Vec<f32> = (0..98 * 50).map(|i| (i % 98) as f32).collect();
        let (picture, size) = shrunk(&large, [98, 50]);
        assert_eq!(size, [32, 16]);
        assert_eq!(picture[..3], [1.0, 4.0, 7.0]);
        assert_eq!(shrunk(&[1.0; 60], [60, 1]).1, [30, 1]);
    }

    #[test]
    fn the_likeliest_classes_and_the_right_one_are_shown() {
        let step =
            |peak: usize| (0..9).map(|c| if c == peak { 0.5 } else { c as f64 / 100.0 }).collect();
        let found = vec![vec![step(1), step(2)], vec![step(3)]];
        assert_eq!(shown(&found, Some(0)), [0, 1, 2, 3, 7, 8]);
        assert_eq!(shown(&found, None), [1, 2, 3, 6, 7, 8]);
        assert_eq!(shown(&[vec![vec![0.2, 0.8]]], Some(0)), [0, 1]);
    }
}
