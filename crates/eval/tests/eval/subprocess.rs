//! Programs as models, among them the one in PREDICTORS.md.

use std::process::Command;

use candle_core::{Device, Tensor};
use steer3d_dataset::Split;
use steer3d_eval::{EvalError, Predictor, SubprocessPredictor, evaluate};

use crate::common::{dataset, quick};

/// The Python program of PREDICTORS.md.
fn example() -> &'static str {
    let text = include_str!("../../PREDICTORS.md");
    let start = text.find("```python\n").unwrap() + "```python\n".len();
    &text[start..start + text[start..].find("```").unwrap()]
}

#[test]
fn the_program_of_the_documentation_works() {
    if Command::new("python3").arg("--version").output().is_err() {
        eprintln!("skipped: there is no python3");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let data = dataset(&folder.path().join("a.h5"), 6, true);
    let script = folder.path().join("predict.py");
    std::fs::write(&script, example()).unwrap();
    let command = format!("python3 '{}'", script.display());
    let model = SubprocessPredictor::start(&command, data.meta()).unwrap();
    for n in [3, 1] {
        let x: Vec<f32> = (0..n * 2197).map(|i| (0.1 * i as f32).sin()).collect();
        let batch = Tensor::from_vec(x.clone(), (n, 1, 13, 13, 13), &Device::Cpu).unwrap();
        let found = model.logits(&batch).unwrap().to_vec2::<f32>().unwrap();
        for (volume, row) in x.chunks(2197).zip(found) {
            let mean = volume.iter().sum::<f32>() / 2197.0;
            for (a, b) in row.iter().zip([mean, 1.0 - mean, volume[0]]) {
                assert!((a - b).abs() < 1e-5, "{row:?}");
            }
        }
    }
    let report = evaluate(&model, &data, Split::Test, &quick(), None, &|_| ()).unwrap();
    assert!(report.name.contains("predict.py") && !report.predictions.is_empty());
}

#[test]
fn a_program_that_breaks_the_agreement_gets_one_clear_message() {
    let folder = tempfile::tempdir().unwrap();
    let data = dataset(&folder.path().join("a.h5"), 3, true);
    let message = |command: &str| {
        let model = SubprocessPredictor::start(command, data.meta()).unwrap();
        match evaluate(&model, &data, Split::Test, &quick(), None, &|_| ()).unwrap_err() {
            EvalError::Model { source, .. } => source.to_string(),
            other => panic!("{other}"),
        }
    };
    assert!(message("exit 3").contains("ended before it answered (exit status: 3)"));
    assert!(message("no-such-program-here 2> /dev/null").contains("exit status: 127"));
    let chatty = message("echo Loading the model; cat > /dev/null");
    assert!(chatty.contains("`Loading the model`") && chatty.contains(r#"{"shape":["#), "{chatty}");
    let classes = message(r#"echo '{"shape":[1,2]}'; cat > /dev/null"#);
    assert!(classes.contains("[1,2]") && classes.contains(",3]"), "{classes}");
}
