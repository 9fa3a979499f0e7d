//! A card for networks that were never trained.

use steer3d_nn::ModelConfig;
use steer3d_nn::checkpoint::{FORMAT, Meaning, ModelCard, Origin};

pub(crate) fn card(model: &ModelConfig) -> ModelCard {
    ModelCard {
        format: FORMAT,
        version: "0.0.0".into(),
        dataset: "noise".into(),
        seed: 1,
        class_names: (0..model.classes()).map(|i| format!("class {i}")).collect(),
        dims: [11, 9, 13],
        voxel_size: [1.0; 3],
        unit: "voxel".into(),
        meaning: Meaning::default(),
        origin: Origin::default(),
        model: model.clone(),
    }
}
