//! Pictures of volumes as PNG data URIs.

use std::collections::HashMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use candle_core::{Device, Tensor};
use steer3d_dataset::Dataset;
use steer3d_eval::metrics::{argmax, softmax};
use steer3d_eval::{
    AnswerKind, Condition, EvalError, GalleryItem, ModelReport, Picture, Prediction, Predictor,
    Section, Transform, Verdict, View, largest_classes, transformed, transformed_labels,
};

use crate::error::ReportError;
use crate::tables::logits;

/// Pictures of up to `count` items of the first source.
///
/// Of classes: items that a model classifies right
/// unrotated and wrong under a random rotation, of every class in turn, then others. Each is shown
/// unrotated, under the random rotation at which the most models are wrong, and under the rotation that
/// a search found for the first model that it turns from right to wrong. Without labels the unrotated answer is right.
///
/// Of labels of voxels: items from that whose labels get worse the most to that whose labels get worse the least,
/// each unrotated and in the orientation in which the labels of a model get worse the most; `predictors`, those of
/// the models in their order, are asked for their labels again. Of values there are none.
///
/// # Errors
/// If an item cannot be read or drawn, or a model fails.
pub fn gallery(
    dataset: &Dataset,
    section: &Section,
    predictors: &[&dyn Predictor],
    count: usize,
) -> Result<Vec<GalleryItem>, ReportError> {
    let chosen: Vec<Orientations<'_>> = match section.answers() {
        AnswerKind::Classes => candidates(section).into_iter().take(count).collect(),
        AnswerKind::Voxels if section.is_labelled() => worst_labelled(section, count),
        AnswerKind::Voxels | AnswerKind::Values => vec![],
    };
    let painter = Painter { dataset, section, predictors };
    chosen.iter().map(|orientations| painter.item(orientations)).collect()
}

/// How the data URI of a picture begins.
pub(crate) const PNG_URI: &str = "data:image/png;base64,";

/// The number of a model, and one of its predictions.
pub(crate) type Answer<'a> = (usize, &'a Prediction);

/// The answers of all models to each volume of the first source under a condition, in the order of the items.
fn volumes<'a>(section: &'a Section, condition: Condition) -> Vec<Vec<Answer<'a>>> {
    let source = section.protocol.sources.first();
    let of_model = |(i, model): (usize, &'a ModelReport)| {
        let chosen = |p: &&Prediction| p.condition == condition && Some(&p.source) == source;
        model.predictions.iter().filter(chosen).map(|p| (i, p)).collect()
    };
    let models: Vec<Vec<Answer<'a>>> = section.models.iter().enumerate().map(of_model).collect();
    let at = |k: usize| models.iter().filter_map(|answers| answers.get(k).copied()).collect();
    (0..models.first().map_or(0, Vec::len)).map(at).collect()
}

/// For each orientation of an item, unrotated first, the prediction of each model that was asked.
pub(crate) type Orientations<'a> = Vec<Vec<Answer<'a>>>;

/// The items of the first source, those first that a model classifies right unrotated and wrong when turned, each class
/// in turn.
pub(crate) fn candidates<'a>(section: &'a Section) -> Vec<Orientations<'a>> {
    let random = volumes(section, Condition::Random);
    let mut random = random.chunks(section.protocol.rotations.max(1));
    let mut searched = volumes(section, Condition::Worst).into_iter();
    let mut seen = HashMap::new();
    let mut candidate = |base: Vec<Answer<'a>>| {
        let turned = random.next().unwrap_or_default().iter().rev();
        let worst = turned.max_by_key(|answers| answers.iter().filter(|a| !is_right(a.1)).count());
        let turned_wrong = |turned: &[Answer<'a>]| {
            let mut pairs = base.iter().zip(turned);
            pairs.find(|(b, t)| is_right(b.1) && !is_right(t.1)).map(|(_, turned)| *turned)
        };
        let flipped = worst.is_some_and(|turned| turned_wrong(turned).is_some());
        let found = searched.next().and_then(|answers| Some(vec![turned_wrong(&answers)?]));
        let label = base[0].1.label.unwrap_or_default();
        let before = seen.entry((flipped, label)).or_insert(0);
        *before += 1;
        let orientations = [Some(base), worst.cloned(), found].into_iter().flatten().collect();
        ((!flipped, *before, label), orientations)
    };
    let mut candidates: Vec<((bool, usize, usize), Orientations<'a>)> =
        volumes(section, Condition::Unrotated).into_iter().map(&mut candidate).collect();
    candidates.sort_by_key(|(rank, _)| *rank);
    candidates.into_iter().map(|(_, orientations)| orientations).collect()
}

fn is_right(prediction: &Prediction) -> bool {
    prediction.score == 1.0
}

/// For each item its orientations, from that which gets worst to that which gets worse the least: unrotated, and a
/// random rotation, or whatever was done to it.
fn worst_labelled<'a>(section: &'a Section, count: usize) -> Vec<Orientations<'a>> {
    let conditions = section.protocol.conditions();
    // Random rotations come first, if there are any. What a search found is left out.
    let shown = conditions.get(1).filter(|condition| **condition != Condition::Worst);
    let turned = shown.map_or_else(Vec::new, |condition| volumes(section, *condition));
    let mut turned = turned.chunk_by(|a, b| a[0].1.item == b[0].1.item);
    let candidate = |unrotated: Vec<Answer<'a>>| {
        let fall = |turned: &Vec<Answer<'a>>| {
            let pairs = unrotated.iter().zip(turned);
            pairs.map(|(a, b)| a.1.score - b.1.score).fold(f64::NEG_INFINITY, f64::max)
        };
        let worst = turned.next().unwrap_or_default().iter();
        let worst = worst.max_by(|a, b| fall(a).total_cmp(&fall(b)));
        let size = worst.map_or(0.0, fall);
        (size, [Some(unrotated), worst.cloned()].into_iter().flatten().collect())
    };
    let mut candidates: Vec<(f64, Orientations<'a>)> =
        volumes(section, Condition::Unrotated).into_iter().map(candidate).collect();
    candidates.sort_by(|a, b| b.0.total_cmp(&a.0));
    let (count, last) = (count.min(candidates.len()), candidates.len().saturating_sub(1));
    (0..count).map(|k| candidates[k * last / (count - 1).max(1)].1.clone()).collect()
}

struct Painter<'a> {
    dataset: &'a Dataset,
    section: &'a Section,
    predictors: &'a [&'a dyn Predictor],
}

impl Painter<'_> {
    fn item(&self, orientations: &[Vec<Answer<'_>>]) -> Result<GalleryItem, ReportError> {
        let first = orientations[0][0].1;
        let mut range = None;
        let views = orientations.iter().map(|answers| self.view(answers, &mut range));
        let class = first.label.map(|class| self.section.class_names()[class].clone());
        Ok(GalleryItem { id: first.id.clone(), class, views: views.collect::<Result<_, _>>()? })
    }

    fn view(
        &self,
        answers: &[Answer<'_>],
        range: &mut Option<[f32; 2]>,
    ) -> Result<View, ReportError> {
        let Prediction { item, transform, condition, .. } = answers[0].1;
        let protocol = &self.section.protocol;
        let values =
            transformed(self.dataset, *item, protocol.sources[0], protocol, &[*transform])?;
        let range = *range.get_or_insert_with(|| extent(&values));
        let [depth, height, width] = self.dataset.grid(*item).dims();
        let (plane, size) = (height * width, [width, height]);
        let flat = channel_maximum(&values, depth * plane);
        let how = if *condition == Condition::Worst { ", found by search" } else { "" };
        let caption = format!("{}{how}", caption(transform));
        if self.section.answers() == AnswerKind::Classes {
            let slice = &flat[depth / 2 * plane..][..plane];
            let pictures = vec![
                picture("projection", png(&channel_maximum(&flat, plane), size, range)?),
                picture("central slice", png(slice, size, range)?),
            ];
            let verdicts = answers.iter().map(|answer| self.verdict(answer)).collect();
            return Ok(View { caption, pictures, verdicts });
        }
        let turned = transformed_labels(self.dataset, *item, transform)?;
        let labelled = |z: &usize| turned[z * plane..][..plane].iter().filter(|l| **l > 0).count();
        // The slice nearest to the middle of those with as many.
        let z = (0..depth).max_by_key(|z| (labelled(z), depth - z.abs_diff(depth / 2)));
        let slice = z.unwrap_or(0) * plane..(z.unwrap_or(0) + 1) * plane;
        let mut pictures = vec![
            picture("volume", png(&flat[slice.clone()], size, range)?),
            picture("labels", labels_png(&turned[slice.clone()], size)?),
        ];
        let shape = (1, self.dataset.meta().channels, depth, height, width);
        let batch = Tensor::from_vec(values, shape, &Device::Cpu).map_err(EvalError::from)?;
        let edges = self.dataset.own_voxel_size(*item);
        for (model, (_, prediction)) in self.predictors.iter().zip(answers) {
            let mut found = vec![];
            let mut sink = |_: usize, logits: &Tensor| {
                let logits = logits.flatten_all()?.to_vec1::<f32>()?;
                found.extend(largest_classes(&logits, model.classes()));
                Ok(())
            };
            let asked = model.logits_by_planes(&batch, edges, &mut sink);
            asked.map_err(|e| EvalError::model(*model, &batch, e))?;
            pictures.push(Picture {
                score: Some(prediction.score),
                ..picture(model.name(), labels_png(&found[slice.clone()], size)?)
            });
        }
        Ok(View { caption, pictures, verdicts: vec![] })
    }

    fn verdict(&self, &(model, prediction): &Answer<'_>) -> Verdict {
        let logits = logits(prediction);
        let class = argmax(&logits);
        Verdict {
            model: self.section.models[model].name.clone(),
            class: self.section.class_names()[class].clone(),
            right: is_right(prediction),
            probability: softmax(&logits)[class],
        }
    }
}

fn picture(name: &str, uri: String) -> Picture {
    Picture { name: name.into(), uri, score: None }
}

fn caption(transform: &Transform) -> String {
    let degrees = transform.rotation.angle().to_degrees();
    let shift = nalgebra::Vector3::from(transform.shift).norm();
    match (degrees > 0.0, shift > 0.0) {
        (false, false) => "unrotated".into(),
        (true, false) => format!("turned by {degrees:.0}°"),
        (false, true) => format!("moved by {shift} voxels"),
        (true, true) => format!("turned by {degrees:.0}° and moved by {shift} voxels"),
    }
}

fn labels_png(labels: &[u8], size: [usize; 2]) -> Result<String, ReportError> {
    let pixels: Vec<u8> = labels.iter().flat_map(|&label| label_colour(label.into())).collect();
    data_uri(&pixels, size, png::ColorType::Rgb)
}

/// Red, green and blue of a class: black for the background, then those of Okabe and Ito that are light
/// enough to be seen on it, darker each time they come again.
pub(crate) fn label_colour(class: usize) -> [u8; 3] {
    const COLOURS: [[u8; 3]; 7] = [
        [230, 159, 0],
        [86, 180, 233],
        [0, 158, 115],
        [240, 228, 66],
        [213, 94, 0],
        [204, 121, 167],
        [255, 255, 255],
    ];
    let Some(number) = class.checked_sub(1) else { return [0; 3] };
    let shade = 0.7f64.powi((number / COLOURS.len()) as i32);
    COLOURS[number % COLOURS.len()].map(|c| (f64::from(c) * shade) as u8)
}

/// Elementwise maximum of consecutive blocks of `block` values.
pub(crate) fn channel_maximum(values: &[f32], block: usize) -> Vec<f32> {
    let (first, others) = values.split_at(block);
    let mut largest = first.to_vec();
    for other in others.chunks_exact(block) {
        for (largest, value) in largest.iter_mut().zip(other) {
            *largest = largest.max(*value);
        }
    }
    largest
}

pub(crate) fn extent(values: &[f32]) -> [f32; 2] {
    let values = || values.iter().copied();
    [values().fold(f32::INFINITY, f32::min), values().fold(f32::NEG_INFINITY, f32::max)]
}

/// A grey picture, black at the lower end of `range` and white at the upper.
pub(crate) fn png(
    values: &[f32],
    size: [usize; 2],
    [low, high]: [f32; 2],
) -> Result<String, ReportError> {
    let scale = 255.0 / (high - low).max(f32::MIN_POSITIVE);
    let pixels: Vec<u8> = values.iter().map(|v| ((v - low) * scale).round() as u8).collect();
    data_uri(&pixels, size, png::ColorType::Grayscale)
}

fn data_uri(pixels: &[u8], size: [usize; 2], kind: png::ColorType) -> Result<String, ReportError> {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, size[0] as u32, size[1] as u32);
    encoder.set_color(kind);
    encoder.set_depth(png::BitDepth::Eight);
    encoder.write_header()?.write_image_data(pixels)?;
    Ok(format!("{PNG_URI}{}", STANDARD.encode(bytes)))
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

    #[test]
    fn colours_of_the_first_classes_differ() {
        let colours: Vec<[u8; 3]> = (0..22).map(label_colour).collect();
        assert_eq!(colours[0], [0; 3]);
        for (i, colour) in colours.iter().enumerate() {
            assert!(!colours[..i].contains(colour), "{i}");
        }
    }
}
