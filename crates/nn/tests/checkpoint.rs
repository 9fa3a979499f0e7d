//! Networks on disk: round trip, and every way in which the files can be wrong.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use safetensors::SafeTensors;
use steer3d_nn::checkpoint::{FORMAT, Meaning, ModelCard, Origin, load, save};
use steer3d_nn::{
    Mode, ModelConfig, Network, Normalisation, PlainConfig, SteerableConfig, TransformerConfig,
};

fn card(model: ModelConfig) -> ModelCard {
    ModelCard {
        format: FORMAT,
        version: "0.0.0".into(),
        dataset: "shapes".into(),
        seed: 3,
        class_names: vec!["a".into(), "b".into()],
        dims: [9; 3],
        voxel_size: [1.0; 3],
        unit: "voxel".into(),
        meaning: Meaning::default(),
        origin: Origin::default(),
        model,
    }
}

fn steerable() -> ModelConfig {
    let mut config = SteerableConfig::small(1, 2).unwrap();
    config.blocks[0].fields = "2x0+1x1".parse().unwrap();
    config.blocks[1].fields = "2x0+1x1+1x2".parse().unwrap();
    config.blocks[2].fields = "2x0+1x1".parse().unwrap();
    config.blocks[3].fields = "4x0".parse().unwrap();
    ModelConfig::Steerable(config)
}

fn plain() -> ModelConfig {
    let ModelConfig::Steerable(config) = steerable() else { unreachable!() };
    ModelConfig::Plain(PlainConfig::like(&config).with_parameters(2000))
}

fn instance() -> ModelConfig {
    let ModelConfig::Steerable(config) = steerable() else { unreachable!() };
    ModelConfig::Steerable(SteerableConfig { norm: Normalisation::Instance, ..config })
}

fn transformer() -> ModelConfig {
    let ModelConfig::Plain(config) = plain() else { unreachable!() };
    ModelConfig::Plain(PlainConfig { transformer: Some(TransformerConfig::small()), ..config })
}

fn saved(folder: &Path, model: ModelConfig) -> (PathBuf, Network) {
    let network = Network::new(&model, 3, DType::F32, &Device::Cpu).unwrap();
    let path = folder.join("model.safetensors");
    save(&path, &network, &card(model)).unwrap();
    (path, network)
}

/// The card in a file.
fn card_in(path: &Path) -> String {
    let bytes = fs::read(path).unwrap();
    let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
    header.metadata().as_ref().unwrap()["steer3d"].clone()
}

/// Puts another card, or none, into a file.
fn replace_card(path: &Path, card: Option<String>) {
    let bytes = fs::read(path).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let metadata = card.map(|card| HashMap::from([("steer3d".into(), card)]));
    let bytes = safetensors::serialize(tensors.tensors(), metadata).unwrap();
    fs::write(path, bytes).unwrap();
}

/// Makes of a model the two files that it was before: `card` beside the weights.
fn two_files(path: &Path, card: &str) {
    replace_card(path, None);
    fs::write(path.with_extension("toml"), card).unwrap();
}

fn message(path: &Path) -> String {
    load(path, &Device::Cpu).unwrap_err().to_string()
}

#[test]
fn a_loaded_network_gives_the_same_logits() {
    for model in [steerable(), instance(), plain(), transformer()] {
        let folder = tempfile::tempdir().unwrap();
        let (path, network) = saved(folder.path(), model.clone());
        let (loaded, found) = load(&path, &Device::Cpu).unwrap();
        assert_eq!(found, card(model));
        let values: Vec<f32> = (0..729).map(|i| (i as f32 * 0.7).sin()).collect();
        let x = Tensor::from_vec(values, (1, 1, 9, 9, 9), &Device::Cpu).unwrap();
        let logits = |n: &Network| {
            n.forward(&x, Mode::Evaluate).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap()
        };
        assert_eq!(logits(&network), logits(&loaded));
    }
}

#[test]
fn saving_leaves_no_temporary_file() {
    let folder = tempfile::tempdir().unwrap();
    saved(folder.path(), plain());
    let mut names: Vec<_> = fs::read_dir(folder.path())
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, ["model.safetensors"]);
}

#[test]
fn weights_of_another_model_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (path, _) = saved(folder.path(), plain());
    let other = toml::to_string(&card(steerable())).unwrap();
    let refused =
        || message(&path).contains("different models") || message(&path).contains("another model");
    replace_card(&path, Some(other.clone()));
    assert!(refused());
    two_files(&path, &other);
    assert!(refused());
}

/// A card that asks for more than the file has is refused before weights of its own are made.
#[test]
fn a_card_of_a_larger_model_is_refused_by_sizes() {
    let folder = tempfile::tempdir().unwrap();
    let (path, _) = saved(folder.path(), plain());
    let card = card_in(&path);
    let channels = card.lines().find(|line| line.starts_with("channels = ")).unwrap().to_owned();
    for (from, to) in [
        ("classes = 2".to_owned(), "classes = 9223372036854775807"),
        ("classes = 2".to_owned(), "classes = 20000000"),
        (channels, "channels = 50000"),
    ] {
        let start = std::time::Instant::now();
        replace_card(&path, Some(card.replace(&from, to)));
        let text = message(&path);
        assert!(text.contains("another model") || text.contains("too much memory"), "{text}");
        assert!(start.elapsed().as_secs() < 5, "{text}");
    }
}

#[cfg(unix)]
#[test]
fn a_device_is_no_model() {
    assert!(message(Path::new("/dev/zero")).contains("expected a file"));
}

#[test]
fn a_grid_that_does_not_suit_the_network_is_refused() {
    let network = Network::new(&plain(), 0, DType::F32, &Device::Cpu).unwrap();
    network.layers_on_grid([9, 10, 11]).unwrap();
    let huge = usize::MAX;
    for dims in [[huge; 3], [1 << 20; 3], [0, 9, 9], [9, 9, huge]] {
        let text = network.layers_on_grid(dims).unwrap_err().to_string();
        assert!(text.contains(&format!("{dims:?}")), "{text}");
    }
}

#[test]
fn a_missing_card_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let (path, _) = saved(folder.path(), plain());
    replace_card(&path, None);
    assert!(message(&path).contains("model.toml"), "{}", message(&path));
}

#[test]
fn a_card_of_another_format_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (path, _) = saved(folder.path(), plain());
    let text = card_in(&path).replace("format = 1", "format = 9");
    replace_card(&path, Some(text.clone()));
    assert!(message(&path).contains("expected format = 1, found 9"), "{}", message(&path));
    two_files(&path, &text);
    assert!(message(&path).contains("expected format = 1, found 9"), "{}", message(&path));
}

#[test]
fn a_model_of_two_files_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let (path, network) = saved(folder.path(), steerable());
    two_files(&path, &card_in(&path));
    let (loaded, found) = load(&path, &Device::Cpu).unwrap();
    assert_eq!(found, card(steerable()));
    let values = |n: &Network| {
        let all = n.params().all();
        all.map(|(_, v)| v.flatten_all().unwrap().to_vec1::<f32>().unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(values(&network), values(&loaded));
}

#[test]
fn equal_models_are_equal_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let bytes = || fs::read(saved(folder.path(), transformer()).0).unwrap();
    assert_eq!(bytes(), bytes());
}

#[test]
fn every_truncation_of_the_weights_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let (path, _) = saved(folder.path(), plain());
    let bytes = fs::read(&path).unwrap();
    for length in [0, 4, 8, 100, bytes.len() / 2, bytes.len() - 1] {
        fs::write(&path, &bytes[..length]).unwrap();
        assert!(message(&path).contains("not a safetensors file"), "{}", message(&path));
    }
}

#[test]
fn weights_that_are_not_numbers_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (path, network) = saved(folder.path(), plain());
    let (name, var) = network.params().all().next().unwrap();
    let name = name.to_owned();
    var.set(&var.affine(f64::NAN, 0.0).unwrap()).unwrap();
    save(&path, &network, &card(plain())).unwrap();
    assert!(message(&path).contains(&format!("'{name}' holds NaN")), "{}", message(&path));
}

#[test]
fn a_missing_folder_is_named() {
    let network = Network::new(&plain(), 0, DType::F32, &Device::Cpu).unwrap();
    let path = Path::new("no/such/folder/model.safetensors");
    let text = save(path, &network, &card(plain())).unwrap_err().to_string();
    assert!(text.contains("no/such/folder"), "{text}");
}
