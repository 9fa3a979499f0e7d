//! Whether a dataset is what a network was trained for.

use steer3d_dataset::{Dataset, DatasetMeta, Grids};
use steer3d_nn::ModelConfig;
use steer3d_nn::checkpoint::ModelCard;

use crate::predictor::AnswerKind;

/// How a network fits a dataset.
pub(crate) struct Fit {
    /// The place in its output of each class of the dataset, where they are in another order.
    pub(crate) places: Option<Vec<u32>>,
    /// What could not be compared.
    pub(crate) unknown: Vec<&'static str>,
}

/// Compares the card of a network with a dataset. Classes of the same names in another order are mapped if `map`.
///
/// # Errors
/// What differs, and what to do.
pub(crate) fn fit(
    card: &ModelCard,
    answers: AnswerKind,
    dataset: &Dataset,
    map: bool,
) -> Result<Fit, String> {
    let (meta, meaning) = (dataset.meta(), &card.meaning);
    let (tasks, name) = (dataset.tasks(), &meta.name);
    // The kernels of a steerable network are sampled for the voxels that volumes have, where these are lengths.
    let any_size = matches!(card.model, ModelConfig::Steerable(_)) && card.unit != "voxel";
    let mut unknown = check_volumes(card, meta, any_size)?;
    let differs = |what: &str, model: &str, data: &str, advice: &str| {
        difference(what, model, name, data, advice)
    };
    let places = match answers {
        AnswerKind::Classes => places("classes", &card.class_names, &meta.class_names, name, map)?,
        AnswerKind::Voxels => {
            let classes = tasks.map_or(&[] as &[String], |tasks| &tasks.voxel_classes[..]);
            if meaning.voxel_classes.is_empty() {
                unknown.push("the names of the classes of voxels");
                None
            } else {
                places("classes of voxels", &meaning.voxel_classes, classes, name, map)?
            }
        }
        AnswerKind::Values => {
            match (&meaning.targets, tasks.and_then(|tasks| tasks.targets.as_ref())) {
                (Some(model), Some(data)) if model != data => {
                    let (model, data) = (model.to_string(), data.to_string());
                    return differs("targets that turn as", &model, &data, "import such targets");
                }
                (None, _) => unknown.push("how the targets turn"),
                _ => {}
            }
            None
        }
    };
    Ok(Fit { places, unknown })
}

/// Compares what the card of a network says of its volumes with those of a dataset, and says what could not be compared.
/// With `any_size` voxels may have other sizes than those that it was trained on.
///
/// # Errors
/// What differs, and what to do.
pub fn check_volumes(
    card: &ModelCard,
    meta: &DatasetMeta,
    any_size: bool,
) -> Result<Vec<&'static str>, String> {
    let meaning = &card.meaning;
    let differs = |what: &str, model: &str, data: &str, advice: &str| {
        difference(what, model, &meta.name, data, advice)
    };
    let size = |size: [f64; 3], unit: &str| format!("{size:?} {unit}");
    let close = |a: f64, b: f64| (a - b).abs() <= 1e-3 * a.abs().max(b.abs());
    // Of volumes with grids of their own the description has one of many sizes.
    let same_size = any_size
        || meta.grids == Grids::Each
        || card.voxel_size.iter().zip(meta.voxel_size).all(|(&a, b)| close(a, b));
    if !same_size || card.unit != meta.unit {
        let advice = "import the data with the model's voxel size and unit";
        let (model, data) = (size(card.voxel_size, &card.unit), size(meta.voxel_size, &meta.unit));
        return differs("voxels of", &model, &data, advice);
    }
    let mut unknown = vec![];
    match &meaning.irreps {
        Some(irreps) if *irreps != meta.irreps => {
            let (model, data) = (irreps.to_string(), meta.irreps.to_string());
            return differs(
                "channels that turn as",
                &model,
                &data,
                "import them with these irreps",
            );
        }
        Some(_) => {}
        None => unknown.push("how the channels turn"),
    }
    match (&meaning.channels, &meta.channel_meaning()) {
        (Some(model), Some(data)) if model != data => {
            let advice = "build the dataset with the model's channels";
            return differs("volumes of", &format!("`{model}`"), &format!("`{data}`"), advice);
        }
        (Some(_), None) | (None, Some(_)) => unknown.push("what the channels are"),
        _ => {}
    }
    Ok(unknown)
}

fn difference<T>(
    what: &str,
    model: &str,
    dataset: &str,
    data: &str,
    advice: &str,
) -> Result<T, String> {
    Err(format!(
        "the model was trained on {what} {model} but dataset {dataset} has {data}; {advice}"
    ))
}

/// Where each class of a dataset is among those of a model, if not at its own place; another number of classes is
/// found later.
fn places(
    what: &str,
    model: &[String],
    data: &[String],
    dataset: &str,
    map: bool,
) -> Result<Option<Vec<u32>>, String> {
    let Some(first) = model.iter().zip(data).position(|(model, data)| model != data) else {
        return Ok(None);
    };
    if model.len() != data.len() {
        return Ok(None);
    }
    let difference = format!(
        "the {what} differ: {first} is `{}` for the model and `{}` in dataset {dataset}",
        model[first], data[first]
    );
    let place = |class: &String| Some(model.iter().position(|name| name == class)? as u32);
    let mut taken = vec![false; model.len()];
    let places: Option<Vec<u32>> = data.iter().map(place).collect();
    let places = places.filter(|places| {
        places.iter().all(|&place| !std::mem::replace(&mut taken[place as usize], true))
    });
    match places {
        Some(places) if map => Ok(Some(places)),
        Some(_) => Err(format!(
            "{difference}; the names are the same in another order: --map-classes takes each answer by its name"
        )),
        None => Err(format!("{difference}; evaluate the model on a dataset with its own classes")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(model: &str, data: &str, map: bool) -> Result<Option<Vec<u32>>, String> {
        let names = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        places("classes", &names(model), &names(data), "d", map)
    }

    #[test]
    fn classes_are_taken_by_their_names_only_where_these_are_the_same() {
        assert_eq!(of("a b c", "a b c", true), Ok(None));
        assert_eq!(of("a b", "b a c", true), Ok(None));
        assert_eq!(of("a b c", "c a b", true), Ok(Some(vec![2, 0, 1])));
        let message = of("a b c", "a c b", false).unwrap_err();
        assert!(message.contains("1 is `b` for the model and `c`"), "{message}");
        assert!(message.contains("--map-classes"), "{message}");
        for data in ["a b d", "a c c"] {
            let message = of("a b c", data, true).unwrap_err();
            assert!(!message.contains("--map-classes"), "{message}");
        }
        assert!(of("a a b", "a b a", true).is_err());
    }
}
