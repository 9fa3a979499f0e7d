//! Pictures of volumes as PNG data URIs.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use steer3d_dataset::Dataset;

use super::{ModelReport, Prediction};
use crate::EvalError;
use crate::material::Material;
use crate::metrics::{argmax, softmax};
use crate::protocol::{Condition, Protocol};

/// An item in two orientations.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GalleryItem {
    /// Identifier of the item.
    pub id: String,
    /// Its class.
    pub label: usize,
    /// Unrotated, then rotated if the protocol has random rotations, then at the rotation that a search
    /// found, where that turns a right answer of a model wrong.
    pub views: Vec<View>,
}

/// An item in one orientation and what the models say of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct View {
    /// Which orientation.
    pub caption: String,
    /// Maximum over channels and z, x to the right and y down: a PNG as data URI.
    pub projection: String,
    /// The central slice in z, maximum over channels: a PNG as data URI.
    pub slice: String,
    /// The prediction of each model that was asked.
    pub verdicts: Vec<Verdict>,
}

/// What one model predicts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// Name of the model.
    pub model: String,
    /// The predicted class.
    pub class: usize,
    /// Its softmax probability.
    pub probability: f64,
}

/// Pictures of up to `count` items of the first source: those that a model classifies right
/// unrotated and wrong under a random rotation, of every class in turn, then others. Each is shown
/// unrotated, under the random rotation at which the most models are wrong, and under the rotation that
/// a search found for the first model that it turns from right to wrong.
///
/// # Errors
/// If an item cannot be read or drawn.
pub fn gallery(
    dataset: &Dataset,
    models: &[ModelReport],
    protocol: &Protocol,
    count: usize,
) -> Result<Vec<GalleryItem>, EvalError> {
    let mut candidates = candidates(models, protocol);
    candidates.sort_by_key(|c| (!c.flipped, c.turn_in_class, c.label));
    candidates.iter().take(count).map(|c| draw(dataset, models, protocol, c)).collect()
}

/// The number of a model, and one of its predictions.
type Answer<'a> = (usize, &'a Prediction);

/// An item that may be shown.
struct Candidate<'a> {
    label: usize,
    /// Whether a model is right unrotated and wrong at the chosen rotation.
    flipped: bool,
    /// How many items of its class and kind come before it.
    turn_in_class: usize,
    /// For each orientation shown, the prediction of each model that was asked.
    orientations: Vec<Vec<Answer<'a>>>,
}

fn candidates<'a>(models: &'a [ModelReport], protocol: &Protocol) -> Vec<Candidate<'a>> {
    let table = |condition| -> Vec<Vec<Answer<'a>>> {
        let of_model = |(i, model): (usize, &'a ModelReport)| {
            let chosen = |p: &&Prediction| {
                p.condition == condition && Some(&p.source) == protocol.sources.first()
            };
            model.predictions.iter().filter(chosen).map(|p| (i, p)).collect()
        };
        models.iter().enumerate().map(of_model).collect()
    };
    let (unrotated, random) = (table(Condition::Unrotated), table(Condition::Random));
    let searched = table(Condition::Worst);
    let items = unrotated.first().map_or(0, Vec::len);
    let at = |table: &[Vec<Answer<'a>>], i: usize| -> Vec<Answer<'a>> {
        table.iter().filter_map(|answers| answers.get(i).copied()).collect()
    };
    let mut seen = std::collections::HashMap::new();
    let mut candidate = |i: usize| {
        let base = at(&unrotated, i);
        let rotations = i * protocol.rotations..(i + 1) * protocol.rotations;
        let worst = rotations.rev().map(|k| at(&random, k)).max_by_key(|all| wrong(all));
        let turned_wrong = |turned: &[Answer<'a>]| {
            let pairs = base.iter().zip(turned);
            pairs.filter(|(b, t)| is_right(b.1) && !is_right(t.1)).map(|(_, t)| *t).next()
        };
        let flipped = worst.as_ref().is_some_and(|turned| turned_wrong(turned).is_some());
        let found = turned_wrong(&at(&searched, i)).map(|answer| vec![answer]);
        let label = base[0].1.label;
        let turn = seen.entry((flipped, label)).or_insert(0);
        *turn += 1;
        let orientations = [Some(base), worst, found].into_iter().flatten().collect();
        Candidate { label, flipped, turn_in_class: *turn, orientations }
    };
    (0..items).map(&mut candidate).collect()
}

fn is_right(prediction: &Prediction) -> bool {
    argmax(&prediction.logits) == prediction.label
}

fn wrong(answers: &[Answer<'_>]) -> usize {
    answers.iter().filter(|(_, p)| !is_right(p)).count()
}

fn draw(
    dataset: &Dataset,
    models: &[ModelReport],
    protocol: &Protocol,
    candidate: &Candidate<'_>,
) -> Result<GalleryItem, EvalError> {
    let first = candidate.orientations[0][0].1;
    let meta = dataset.meta();
    let material = Material::read(dataset, first.item, protocol.sources[0], protocol)?;
    let voxels: usize = meta.dims.iter().product();
    let mut values = vec![0.0; meta.channels * voxels];
    let mut range = None;
    let mut views = Vec::new();
    for answers in &candidate.orientations {
        let transform = &answers[0].1.transform;
        material.write(transform, &mut values)?;
        let range = *range.get_or_insert_with(|| extent(&values));
        let [depth, height, width] = meta.dims;
        let flat = channel_maximum(&values, voxels);
        let plane = height * width;
        let projection = channel_maximum(&flat, plane);
        let slice = &flat[depth / 2 * plane..][..plane];
        views.push(View {
            caption: caption(answers[0].1),
            projection: png(&projection, [width, height], range)?,
            slice: png(slice, [width, height], range)?,
            verdicts: verdicts(models, answers),
        });
    }
    Ok(GalleryItem { id: first.id.clone(), label: candidate.label, views })
}

fn verdicts(models: &[ModelReport], answers: &[Answer<'_>]) -> Vec<Verdict> {
    let verdict = |&(model, prediction): &Answer<'_>| {
        let class = argmax(&prediction.logits);
        let probability = softmax(&prediction.logits)[class];
        Verdict { model: models[model].name.clone(), class, probability }
    };
    answers.iter().map(verdict).collect()
}

fn caption(prediction: &Prediction) -> String {
    let degrees = prediction.transform.rotation.angle().to_degrees();
    let how = if prediction.condition == Condition::Worst { ", found by search" } else { "" };
    if degrees == 0.0 { "unrotated".into() } else { format!("turned by {degrees:.0}°{how}") }
}

/// Elementwise maximum of consecutive blocks of `block` values.
pub(super) fn channel_maximum(values: &[f32], block: usize) -> Vec<f32> {
    let (first, others) = values.split_at(block);
    let mut largest = first.to_vec();
    for other in others.chunks_exact(block) {
        for (largest, value) in largest.iter_mut().zip(other) {
            *largest = largest.max(*value);
        }
    }
    largest
}

pub(super) fn extent(values: &[f32]) -> [f32; 2] {
    values
        .iter()
        .fold([f32::INFINITY, f32::NEG_INFINITY], |[low, high], &v| [low.min(v), high.max(v)])
}

/// A grey picture, black at the lower end of `range` and white at the upper.
pub(super) fn png(
    values: &[f32],
    size: [usize; 2],
    [low, high]: [f32; 2],
) -> Result<String, EvalError> {
    let scale = 255.0 / (high - low).max(f32::MIN_POSITIVE);
    let pixels: Vec<u8> = values.iter().map(|v| ((v - low) * scale).round() as u8).collect();
    data_uri(&pixels, size, png::ColorType::Grayscale)
}

/// A picture of red, green and blue.
pub(super) fn colour_png(pixels: &[u8], size: [usize; 2]) -> Result<String, EvalError> {
    data_uri(pixels, size, png::ColorType::Rgb)
}

fn data_uri(pixels: &[u8], size: [usize; 2], kind: png::ColorType) -> Result<String, EvalError> {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, size[0] as u32, size[1] as u32);
    encoder.set_color(kind);
    encoder.set_depth(png::BitDepth::Eight);
    encoder.write_header()?.write_image_data(pixels)?;
    Ok(format!("data:image/png;base64,{}", STANDARD.encode(bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn png_holds_the_scaled_values() {
        let uri = png(&[-1.0, 0.0, 1.0, 0.5, 3.0, -9.0], [3, 2], [-1.0, 1.0]).unwrap();
        let bytes = STANDARD.decode(uri.strip_prefix("data:image/png;base64,").unwrap()).unwrap();
        let decoder = png::Decoder::new(std::io::Cursor::new(bytes));
        let mut reader = decoder.read_info().unwrap();
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        let info = reader.next_frame(&mut pixels).unwrap();
        assert_eq!((info.width, info.height), (3, 2));
        assert_eq!(pixels, [0, 128, 255, 191, 255, 0]);
    }

    #[test]
    fn a_constant_volume_can_be_drawn() {
        assert!(png(&[2.0; 4], [2, 2], [2.0, 2.0]).is_ok());
    }

    #[test]
    fn maxima_over_blocks() {
        assert_eq!(channel_maximum(&[1.0, 5.0, 3.0, 4.0, 2.0, 0.0], 2), [3.0, 5.0]);
    }
}
