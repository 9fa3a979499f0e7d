//! Slices of volumes, their labels and what models answer.

use candle_core::{Device, Tensor};
use serde::{Deserialize, Serialize};
use steer3d_dataset::Dataset;
use steer3d_volume::Interpolation;

use super::super::picture::{channel_maximum, colour_png, extent, png};
use crate::EvalError;
use crate::material::Material;
use crate::predictor::Predictor;
use crate::protocol::{Condition, Protocol, Transform};
use crate::voxels::{VoxelModel, VoxelVolume, largest, moved};

/// An item in two orientations.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VoxelItem {
    /// Identifier of the item.
    pub id: String,
    /// Unrotated, then transformed, if anything was.
    pub views: Vec<VoxelView>,
}

/// The slice along z with the most labelled voxels of an item in one orientation, x to the right and y down.
/// Pictures are PNG files as data URIs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VoxelView {
    /// Which orientation.
    pub caption: String,
    /// The volume, maximum over channels.
    pub input: String,
    /// The labels, turned with the volume (nearest voxel).
    pub labels: String,
    /// The answer of each model.
    pub answers: Vec<VoxelAnswer>,
}

/// What one model answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VoxelAnswer {
    /// Name of the model.
    pub model: String,
    /// Its labels, a PNG as data URI.
    pub picture: String,
    /// Share of all voxels of the volume other than background whose label is right.
    pub foreground_accuracy: Option<f64>,
}

/// An item that may be shown.
struct Candidate<'a> {
    /// By how much the share of right labels of a model falls at most.
    fall: f64,
    /// For each orientation the volume of each model.
    orientations: Vec<Vec<&'a VoxelVolume>>,
}

fn share(volume: &VoxelVolume) -> f64 {
    volume.foreground_accuracy.or(volume.accuracy).unwrap_or(1.0)
}

/// Each item unrotated and in the orientation in which the labels of a model get worse the most: a random
/// rotation, or whatever was done to it.
fn candidates<'a>(models: &'a [VoxelModel], protocol: &Protocol) -> Vec<Candidate<'a>> {
    let source = protocol.sources[0];
    let shown = match protocol.rotations {
        0 => protocol.conditions().get(1).copied(),
        _ => Some(Condition::Random),
    };
    // All models saw the same volumes in the same order.
    let volumes: Vec<Vec<&VoxelVolume>> = (0..models.first().map_or(0, |m| m.volumes.len()))
        .map(|i| models.iter().filter_map(|model| model.volumes.get(i)).collect::<Vec<_>>())
        .filter(|volumes| volumes[0].source == source)
        .collect();
    let of_item = |volumes: &[Vec<&'a VoxelVolume>]| {
        let (unrotated, others) = volumes.split_first()?;
        let fall = |turned: &Vec<&VoxelVolume>| {
            let pairs = unrotated.iter().zip(turned);
            pairs.map(|(a, b)| share(a) - share(b)).fold(f64::NEG_INFINITY, f64::max)
        };
        let turned = others.iter().filter(|volumes| Some(volumes[0].condition) == shown);
        let worst = turned.max_by(|a, b| fall(a).total_cmp(&fall(b)));
        Some(Candidate {
            fall: worst.map_or(0.0, fall),
            orientations: [Some(unrotated.clone()), worst.cloned()].into_iter().flatten().collect(),
        })
    };
    volumes.chunk_by(|a, b| a[0].item == b[0].item).filter_map(of_item).collect()
}

/// Pictures of up to `count` items, from that which gets worst to that which gets worse the least.
pub(super) fn gallery(
    dataset: &Dataset,
    protocol: &Protocol,
    models: &[VoxelModel],
    predictors: &[&dyn Predictor],
    count: usize,
) -> Result<Vec<VoxelItem>, EvalError> {
    let mut candidates = candidates(models, protocol);
    candidates.sort_by(|a, b| b.fall.total_cmp(&a.fall));
    let (count, last) = (count.min(candidates.len()), candidates.len().saturating_sub(1));
    let chosen = (0..count).map(|k| &candidates[k * last / (count - 1).max(1)]);
    chosen.map(|candidate| draw(dataset, protocol, predictors, candidate)).collect()
}

fn draw(
    dataset: &Dataset,
    protocol: &Protocol,
    predictors: &[&dyn Predictor],
    candidate: &Candidate<'_>,
) -> Result<VoxelItem, EvalError> {
    let first = candidate.orientations[0][0];
    let (meta, grid) = (dataset.meta(), dataset.meta().grid()?);
    let material = Material::read(dataset, first.item, protocol.sources[0], protocol)?;
    let labels: Vec<f32> = dataset.voxel_labels(first.item)?.into_iter().map(f32::from).collect();
    let [depth, height, width] = meta.dims;
    let plane = height * width;
    let mut range = None;
    let mut views = vec![];
    for volumes in &candidate.orientations {
        let transform = &volumes[0].transform;
        let mut values = vec![0.0; meta.item_len()];
        material.write(transform, &mut values)?;
        let turned = moved(&labels, 1, grid, &transform.map(grid), Interpolation::Nearest)?;
        let turned: Vec<u8> = turned.into_iter().map(|label| label as u8).collect();
        let labelled = |z: &usize| turned[z * plane..][..plane].iter().filter(|l| **l > 0).count();
        // The slice nearest to the middle of those with as many.
        let z = (0..depth).max_by_key(|z| (labelled(z), depth - z.abs_diff(depth / 2)));
        let slice = z.unwrap_or(0) * plane..(z.unwrap_or(0) + 1) * plane;
        let size = [width, height];
        let range = *range.get_or_insert_with(|| extent(&values));
        let input = channel_maximum(&values, depth * plane);
        let input = png(&input[slice.clone()], size, range)?;
        let batch =
            Tensor::from_vec(values, (1, meta.channels, depth, height, width), &Device::Cpu)?;
        let mut answers = vec![];
        for (model, volume) in predictors.iter().zip(volumes) {
            let logits = model.logits(&batch).map_err(|e| EvalError::model(*model, &batch, e))?;
            let found = largest(&logits.flatten_all()?.to_vec1()?, model.classes());
            answers.push(VoxelAnswer {
                model: model.name().into(),
                picture: labels_png(&found[slice.clone()], size)?,
                foreground_accuracy: volume.foreground_accuracy,
            });
        }
        let labels = labels_png(&turned[slice], size)?;
        views.push(VoxelView { caption: caption(transform), input, labels, answers });
    }
    Ok(VoxelItem { id: first.id.clone(), views })
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

fn labels_png(labels: &[u8], size: [usize; 2]) -> Result<String, EvalError> {
    let pixels: Vec<u8> = labels.iter().flat_map(|&label| label_colour(label.into())).collect();
    colour_png(&pixels, size)
}

/// Red, green and blue of a class: black for the background, then those of Okabe and Ito that are light
/// enough to be seen on it, darker each time they come again.
pub(super) fn label_colour(class: usize) -> [u8; 3] {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_of_the_first_classes_differ() {
        let colours: Vec<[u8; 3]> = (0..22).map(label_colour).collect();
        assert_eq!(colours[0], [0; 3]);
        for (i, colour) in colours.iter().enumerate() {
            assert!(!colours[..i].contains(colour), "{i}");
        }
    }
}
