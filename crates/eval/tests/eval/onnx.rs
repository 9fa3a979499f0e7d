//! ONNX models made by PyTorch (`tests/reference/make_onnx.py`) and wrong ones.

#[path = "../../../nn/tests/common/card.rs"]
mod card;
#[path = "../../../nn/tests/common/networks.rs"]
mod networks;

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use steer3d_dataset::{DatasetMeta, Split};
use steer3d_eval::{
    AnswerKind, AnswerSpec, OnnxOptions, OnnxPredictor, Predictor, Report, Section, evaluate,
};

use crate::common::{CLASSES, dataset, quick};

fn reference(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference").join(file)
}

/// A dataset of volumes of 9 x 10 x 11 voxels.
fn meta() -> DatasetMeta {
    let folder = tempfile::tempdir().unwrap();
    let meta = dataset(&folder.path().join("a.h5"), 3, false).meta().clone();
    DatasetMeta { dims: [9, 10, 11], ..meta }
}

fn options(text: &str) -> OnnxOptions {
    toml::from_str(text).unwrap()
}

fn load(file: &str, text: &str, meta: &DatasetMeta) -> Result<OnnxPredictor, String> {
    let loaded = {
        let spec = AnswerSpec::classes(meta);
        OnnxPredictor::load("m".into(), &reference(file), &options(text), spec)
    };
    loaded.map_err(|e| e.to_string())
}

fn volumes() -> Tensor {
    let values = (0..3 * 990).map(|i| (0.37 * f64::from(i)).sin() as f32);
    Tensor::from_iter(values, &Device::Cpu).unwrap().reshape((3, 1, 9, 10, 11)).unwrap()
}

/// Networks of every kind, exported, give what they gave.
#[test]
fn exported_networks_give_their_answers() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.onnx");
    for model in networks::all_models() {
        let Some(kind) = AnswerKind::of_head(model.head()) else { continue };
        let network = networks::prepared(&model);
        fs::write(&path, steer3d_nn::onnx::export(&network, &card::card(&model)).unwrap()).unwrap();
        let spec = AnswerSpec {
            dataset: "noise".into(),
            kind,
            names: (0..model.classes()).map(|i| i.to_string()).collect(),
            channels: 1,
            dims: [9, 10, 11],
        };
        let loaded = OnnxPredictor::load("m".into(), &path, &OnnxOptions::default(), spec);
        let loaded = loaded.unwrap_or_else(|e| panic!("{e}: {model:?}"));
        let x = volumes();
        let (found, expected) =
            (loaded.logits(&x).unwrap(), network.folded().unwrap().forward(&x).unwrap());
        let largest = |t: &Tensor| {
            t.abs().unwrap().flatten_all().unwrap().max(0).unwrap().to_scalar::<f32>().unwrap()
        };
        let gap = largest(&(found - &expected).unwrap()) / largest(&expected);
        assert!(gap < 1e-4, "{gap}: {model:?}");
    }
}

fn largest_gap(model: &OnnxPredictor, key: &str) -> f32 {
    let text = fs::read_to_string(reference("onnx.json")).unwrap();
    let stored: serde_json::Value = serde_json::from_str(&text).unwrap();
    let expected: Vec<Vec<f32>> = serde_json::from_value(stored[key].clone()).unwrap();
    let found = model.logits(&volumes()).unwrap().to_vec2::<f32>().unwrap();
    assert_eq!((found.len(), found[0].len()), (3, 3));
    // Logits that come from probabilities lack a constant.
    let shift = |row: &[f32]| row.iter().map(|v| v - row[0]).collect::<Vec<_>>();
    let rows = found.iter().zip(&expected);
    let gaps = rows.flat_map(|(found, expected)| {
        let (found, expected) = if key == "logits" {
            (found.clone(), expected.clone())
        } else {
            (shift(found), shift(expected))
        };
        found.into_iter().zip(expected).map(|(a, b)| (a - b).abs()).collect::<Vec<_>>()
    });
    gaps.fold(0.0, f32::max)
}

#[test]
fn it_answers_as_pytorch_does() {
    let model = load("small.onnx", "", &meta()).unwrap();
    assert!(largest_gap(&model, "logits") < 1e-5, "{}", largest_gap(&model, "logits"));
    // PyTorch has folded the norm, of 8 parameters, into the convolution.
    assert_eq!((model.parameters(), model.classes(), model.channels()), (1091 - 8, 3, 1));
}

#[test]
fn another_layout_normalisation_output_and_order_of_classes_are_understood() {
    let text = r#"
layout = "ndhwc"
axes = "xyz"
mean = [0.1]
std = [0.5]
output = "answer"
values = "probabilities"
classes = ["tripod", "bent", "rod"]
"#;
    let model = load("channels_last.onnx", text, &meta()).unwrap();
    let gap = largest_gap(&model, "normalised_logits");
    assert!(gap < 1e-5, "{gap}");
}

#[test]
fn standardised_volumes_give_the_same_whatever_their_brightness() {
    let model = load("small.onnx", "standardise = true", &meta()).unwrap();
    let logits = |x: &Tensor| model.logits(x).unwrap().to_vec2::<f32>().unwrap().concat();
    let brighter = logits(&volumes().affine(3.0, 7.0).unwrap());
    for (a, b) in logits(&volumes()).into_iter().zip(brighter) {
        assert!((a - b).abs() < 1e-4, "{a} {b}");
    }
}

#[test]
fn a_single_number_is_for_the_second_of_two_classes() {
    let class_names = CLASSES[..2].iter().map(ToString::to_string).collect();
    let two = DatasetMeta { dims: [13; 3], class_names, ..meta() };
    let x = Tensor::ones((2, 1, 13, 13, 13), candle_core::DType::F32, &Device::Cpu).unwrap();
    let row = |values: &str| {
        let model = load("single.onnx", values, &two).unwrap();
        model.logits(&x).unwrap().to_vec2::<f32>().unwrap()[1].clone()
    };
    let probability = row("")[1];
    assert!(row("")[0] == 0.0 && probability > 0.0 && probability < 1.0);
    let logits = row(r#"values = "probabilities""#);
    assert!((logits[0].exp() - (1.0 - probability)).abs() < 1e-6);
    assert!((logits[1].exp() - probability).abs() < 1e-6);
}

#[test]
fn it_gets_a_full_report() {
    let folder = tempfile::tempdir().unwrap();
    let data = dataset(&folder.path().join("a.h5"), 6, true);
    let model = load("small.onnx", "", data.meta()).unwrap();
    let report = |batch| {
        let protocol = steer3d_eval::Protocol { batch, ..quick() };
        evaluate(&model, &data, Split::Test, &protocol, None, &|_| ControlFlow::Continue(()))
            .unwrap()
    };
    let found = report(32);
    assert_eq!(found.predictions, report(5).predictions);
    let section = Section::new(&data, Split::Test, quick(), vec![found]).unwrap();
    let json = Report::new("ONNX", "", vec![section]).to_json().unwrap();
    let read = Report::from_json(&json).unwrap();
    assert!(read.sections[0].models[0].sources[0].conditions[0].get("accuracy").is_some());
}

#[test]
fn models_that_do_not_fit_say_what_to_change() {
    let meta = meta();
    let refused = |file: &str, text: &str, meta: &DatasetMeta| {
        let message = load(file, text, meta).unwrap_err();
        assert!(message.contains(file) || message.contains(".toml"), "{message}");
        assert_eq!(message.lines().count(), 1, "{message}");
        message
    };
    let of = |file: &str| refused(file, "", &meta);
    assert!(of("flat.onnx").contains("4 dimensions, expected 5"));
    assert!(of("double.onnx").contains("DOUBLE, expected FLOAT"));
    assert!(of("two.onnx").contains("expected one input, found 2 (volume, mask)"));
    assert!(of("none.onnx").contains("No such file") || cfg!(windows));
    assert!(of("single.onnx").contains("[1, 1, 13, 13, 13]"), "{}", of("single.onnx"));
    assert!(of("make_onnx.py").contains("not an ONNX model"));

    let channels = DatasetMeta { channels: 2, ..meta.clone() };
    assert!(refused("small.onnx", "", &channels).contains("takes 1 channels but dataset"));
    let last = refused("small.onnx", r#"layout = "ndhwc""#, &meta);
    assert!(last.contains("takes"), "{last}");
    let mut classes = meta.clone();
    classes.class_names.push("ring".into());
    assert!(refused("small.onnx", "", &classes).contains("expected [1, 4]"));
    assert!(refused("small.onnx", r#"output = "answer""#, &meta).contains("outputs are logits"));
    let names = refused("small.onnx", r#"classes = ["rod", "bent", "cube"]"#, &meta);
    assert!(names.contains("cube") && names.contains("tripod"), "{names}");
    assert!(refused("small.onnx", "mean = [1, 2]", &meta).contains("one for each of 1 channels"));
    assert!(refused("small.onnx", "std = [0]", &meta).contains("std"));
    let model = load("small.onnx", r#"values = "probabilities""#, &meta).unwrap();
    let message = model.logits(&volumes()).unwrap_err().to_string();
    assert!(message.contains(r#"values = "logits""#), "{message}");
}

#[test]
fn wrong_settings_beside_a_model_name_their_key() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("m.onnx");
    assert_eq!(OnnxOptions::beside(&model).unwrap(), OnnxOptions::default());
    for (text, word) in [
        ("axes = \"xxy\"", "x, y and z in some order"),
        ("layot = \"ncdhw\"", "layot"),
        ("values = \"odds\"", "odds"),
    ] {
        fs::write(folder.path().join("m.toml"), text).unwrap();
        let message = OnnxOptions::beside(&model).unwrap_err().to_string();
        assert!(message.contains(word) && message.contains("m.toml"), "{message}");
    }
}

#[test]
fn no_damage_to_a_file_ends_the_program() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("damaged.onnx");
    let (bytes, meta) = (fs::read(reference("small.onnx")).unwrap(), meta());
    let load = |bytes: &[u8]| {
        fs::write(&path, bytes).unwrap();
        let loaded = {
            let spec = AnswerSpec::classes(&meta);
            OnnxPredictor::load("m".into(), &path, &OnnxOptions::default(), spec)
        };
        loaded.map_err(|e| e.to_string())
    };
    for length in [0, 1, 10, 500, 3000, bytes.len() - 1] {
        let message = load(&bytes[..length]).unwrap_err();
        assert!(message.contains("damaged.onnx"), "{message}");
    }
    let text = bytes.iter().map(|&b| char::from(b)).collect::<String>();
    let unknown = text.replace("LeakyRelu", "LeakyRely");
    let unknown: Vec<u8> = unknown.chars().map(|c| c as u8).collect();
    let message = load(&unknown).unwrap_err();
    assert!(message.contains("cannot be run") && message.contains("LeakyRely"), "{message}");
    let mut stream = steer3d_so3::Stream::new(1, "damage", &[]);
    for _ in 0..60 {
        let mut damaged = bytes.clone();
        for _ in 0..3 {
            damaged[stream.below(bytes.len())] = stream.below(256) as u8;
        }
        // Weights may have changed, or nothing that matters; it must only come back.
        if let Ok(model) = load(&damaged) {
            let _ = model.logits(&volumes());
        }
    }
}
