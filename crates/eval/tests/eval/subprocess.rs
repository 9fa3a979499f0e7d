//! Programs as models, among them the one in docs/src/guide/predictors.md.

use std::ops::ControlFlow;
use std::process::Command;
use std::time::Duration;

use candle_core::{Device, Tensor};
use steer3d_dataset::Split;
use steer3d_eval::{AnswerKind, AnswerSpec, EvalError, Predictor, SubprocessPredictor, evaluate};

use crate::common::{dataset, is_dense, labelled, quick, run, threshold, vector, with_targets};

/// The Python program of docs/src/guide/predictors.md.
fn example() -> &'static str {
    let text = include_str!("../../../../docs/src/guide/predictors.md");
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
    // The dataset has three classes.
    let program = example().replace("[mean, 1 - mean]", "[mean, 1 - mean, volume[0]]");
    std::fs::write(&script, program).unwrap();
    let command = format!("python3 '{}'", script.display());
    let model = SubprocessPredictor::start(&command, AnswerSpec::classes(data.meta())).unwrap();
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
    let report =
        evaluate(&model, &data, Split::Test, &quick(), None, &|_| ControlFlow::Continue(()))
            .unwrap();
    assert!(report.name.contains("predict.py") && !report.predictions.is_empty());
}

#[test]
fn a_program_that_breaks_the_agreement_gets_one_clear_message() {
    let folder = tempfile::tempdir().unwrap();
    let data = dataset(&folder.path().join("a.h5"), 3, true);
    let message = |command: &str| {
        let model = SubprocessPredictor::start(command, AnswerSpec::classes(data.meta())).unwrap();
        match evaluate(&model, &data, Split::Test, &quick(), None, &|_| ControlFlow::Continue(()))
            .unwrap_err()
        {
            EvalError::Forward { source, .. } => source.to_string(),
            other => panic!("{other}"),
        }
    };
    assert!(message("exit 3").contains("ended before it answered (exit status: 3)"));
    assert!(message("no-such-program-here 2> /dev/null").contains("exit status: 127"));
    let ask = "head -n 1 > /dev/null;";
    let chatty = message(&format!("{ask} echo Loading the model; cat > /dev/null"));
    assert!(chatty.contains("`Loading the model`") && chatty.contains(r#"{"shape":["#), "{chatty}");
    let classes = message(&format!(r#"{ask} echo '{{"shape":[1,2]}}'; cat > /dev/null"#));
    assert!(classes.contains("[1,2]") && classes.contains(",3]"), "{classes}");
    assert!(message("yes").contains('`'));
    assert!(message("cat /dev/zero").contains('`'));
}

#[cfg(unix)]
#[test]
fn a_silent_program_ends_in_time_with_all_that_it_has_started() {
    let folder = tempfile::tempdir().unwrap();
    let data = dataset(&folder.path().join("a.h5"), 3, true);
    let id = folder.path().join("id");
    let command = format!(
        "sh -c 'echo $$ > {0}.new; mv {0}.new {0}; sleep 100; true'; sleep 100",
        id.display()
    );
    let model = SubprocessPredictor::start(&command, AnswerSpec::classes(data.meta())).unwrap();
    let model = model.with_timeout(Duration::from_secs(1));
    let stop = |_| ControlFlow::Continue(());
    let error = evaluate(&model, &data, Split::Test, &quick(), None, &stop).unwrap_err();
    let EvalError::Forward { source, .. } = error else { panic!("{error}") };
    assert!(source.to_string().contains("has not answered within 1 s"), "{source}");
    let id = std::fs::read_to_string(id).unwrap();
    let runs = || Command::new("kill").args(["-0", id.trim()]).output().unwrap().status.success();
    assert!(runs());
    drop(model);
    for _ in 0..100 {
        std::thread::sleep(Duration::from_millis(20));
        if !runs() {
            return;
        }
    }
    panic!("what the program has started still runs");
}

#[test]
fn a_program_is_known_by_its_words_and_the_files_among_them() {
    let folder = tempfile::tempdir().unwrap();
    let data = dataset(&folder.path().join("a.h5"), 3, true);
    let script = folder.path().join("predict");
    let print = |command: &str| {
        let spec = AnswerSpec::classes(data.meta());
        SubprocessPredictor::start(command, spec).unwrap().fingerprint().unwrap()
    };
    let command = format!("true '{}'", script.display());
    std::fs::write(&script, "one").unwrap();
    let before = print(&command);
    assert_eq!(print(&command), before);
    std::fs::write(&script, "two").unwrap();
    assert_ne!(print(&command), before);
    assert_ne!(print("true"), print("true 1"));
}

/// A program that answers every voxel by its density, or every volume by its third moment.
fn program(answers: &str) -> String {
    let source = r#"
import array, json, sys
source, target = sys.stdin.buffer, sys.stdout.buffer
for line in iter(source.readline, b""):
    n, c, d, h, w = json.loads(line)["shape"]
    size, answers = d * h * w, []
    for _ in range(n):
        volume = array.array("f", source.read(4 * size))
        ANSWERS
    target.write(json.dumps({"shape": shape}).encode() + b"\n")
    target.write(array.array("f", answers).tobytes())
    target.flush()
"#;
    source.replace("ANSWERS", answers)
}

#[test]
fn programs_label_voxels_and_give_vectors() {
    if Command::new("python3").arg("--version").output().is_err() {
        eprintln!("skipped: there is no python3");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("predict.py");
    let command = format!("python3 '{}'", script.display());
    let data = labelled(&folder.path().join("a.h5"), 2, is_dense);
    let labels = "answers += [0.0] * size + [v - 0.04 for v in volume]; shape = [n, 2, d, h, w]";
    std::fs::write(&script, program(labels)).unwrap();
    let spec = AnswerSpec::new(&data, AnswerKind::Voxels).unwrap();
    let model = SubprocessPredictor::start(&command, spec).unwrap();
    let found = run(&model, &data, &quick());
    assert_eq!(found.sources, run(&threshold(), &data, &quick()).sources);

    let data = with_targets(&folder.path().join("b.h5"), "1x1", &[vec![1.0, 2.0, 3.0]]);
    let moment = "m = sum(volume); k = [(i % w, i // w % h, i // w // h) for i in range(size)]; \
                  answers += [sum(v * (p[a] - 6) ** 3 for v, p in zip(volume, k)) / m for a in range(3)]; \
                  shape = [n, 3]";
    std::fs::write(&script, program(moment)).unwrap();
    let spec = AnswerSpec::new(&data, AnswerKind::Values).unwrap();
    let model = SubprocessPredictor::start(&command, spec).unwrap();
    let found = run(&model, &data, &quick());
    let expected = run(&vector(), &data, &quick());
    for (a, b) in found.predictions.iter().zip(&expected.predictions) {
        assert!((a.score - b.score).abs() < 1e-4, "{a:?} {b:?}");
    }
}
