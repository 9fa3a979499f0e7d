//! `steer3d predict` from the outside.

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

fn steer3d(folder: &Path, args: &str) -> Output {
    Command::new(assert_cmd::cargo::cargo_bin!("steer3d"))
        .args(args.split_whitespace())
        .current_dir(folder)
        .output()
        .unwrap()
}

/// Standard output of a command that ends with `code`, and standard error.
fn ends(folder: &Path, args: &str, code: i32) -> [String; 2] {
    let output = steer3d(folder, args);
    let [text, errors] = [output.stdout, output.stderr].map(|t| String::from_utf8(t).unwrap());
    assert_eq!(output.status.code(), Some(code), "{args}: {errors}");
    [text, errors]
}

fn molecule(i: usize) -> String {
    let y = if i.is_multiple_of(2) { 1.0 } else { 0.0 } + 0.01 * i as f64;
    format!("3\n\nO 0 0 0\nC 1.2 {y} 0\nO 2.4 0 0\n")
}

/// A model of bent and straight molecules, `model.safetensors`, its dataset `set.h5`, and the files `tree/CLASS/*.xyz`.
fn trained(at: &Path) {
    for i in 0..20 {
        let class = ["bent", "straight"][i % 2];
        fs::create_dir_all(at.join("tree").join(class)).unwrap();
        fs::write(at.join(format!("tree/{class}/{i}.xyz")), molecule(i)).unwrap();
    }
    ends(at, "dataset build tree --out set.h5 --size 10 --voxel-size 0.8 --elements C,O", 0);
    ends(at, "train set.h5 --epochs 1 --out run", 0);
    fs::rename(at.join("run/model.safetensors"), at.join("model.safetensors")).unwrap();
}

/// The columns of a table by name.
fn table(text: &str) -> Vec<HashMap<String, String>> {
    let mut reader = csv::Reader::from_reader(text.as_bytes());
    let header = reader.headers().unwrap().clone();
    let names = header.iter().map(String::from);
    let rows = reader
        .records()
        .map(|row| names.clone().zip(row.unwrap().iter().map(String::from)).collect());
    rows.collect()
}

#[test]
fn files_are_answered_for_as_in_an_evaluation() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    trained(at);
    let [text, _] = ends(at, "info model.safetensors", 0);
    assert!(text.contains("kind = \"molecules\"") && text.contains("licence"), "{text}");
    ends(at, "predict model.safetensors tree --out files.csv", 0);
    ends(at, "predict model.safetensors set.h5 --out items.csv", 0);
    let read = |name: &str| fs::read_to_string(at.join(name)).unwrap();
    let (files, items) = (table(&read("files.csv")), table(&read("items.csv")));
    assert_eq!((files.len(), items.len()), (20, 20));
    for (file, item) in files.iter().zip(&items) {
        assert!(file["item"].ends_with(&item["item"]), "{} {}", file["item"], item["item"]);
        for column in ["class", "probability", "next", "probability bent", "unlike"] {
            assert_eq!(file[column], item[column], "{column}");
        }
    }
    // The logits of an evaluation give the same probabilities.
    ends(
        at,
        "eval model.safetensors set.h5 --split train --rotations 1 --rotate points --out report",
        0,
    );
    let evaluated = table(&read("report/predictions.csv"));
    let unrotated = evaluated.iter().filter(|row| row["condition"] == "unrotated");
    let mut compared = 0;
    for row in unrotated {
        let item = items.iter().find(|item| item["item"] == row["item"]).unwrap();
        let logits = row["answer"].split(' ').map(|x| f64::from(x.parse::<f32>().unwrap()));
        let numbers: Vec<f64> = logits.collect();
        let bent = 1.0 / (1.0 + (numbers[1] - numbers[0]).exp());
        let found: f64 = item["probability bent"].parse().unwrap();
        assert!((found - bent).abs() < 1e-12, "{found} {bent}");
        compared += 1;
    }
    assert!(compared > 10, "{compared}");
}

#[test]
fn lines_files_and_exit_codes() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    trained(at);
    let [text, _] = ends(at, "predict model.safetensors tree/bent --rotations 4 --quiet", 0);
    assert_eq!(text.lines().count(), 10, "{text}");
    assert!(text.lines().all(|line| line.contains(" % of 4 rotations)") && line.ends_with(".xyz")));
    let [text, _] = ends(at, "predict model.safetensors tree/bent/0.xyz --json --features", 0);
    let record: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(record["features"].as_array().unwrap().len(), 48);
    fs::write(at.join("bad.pdb"), "nothing").unwrap();
    let [text, errors] =
        ends(at, "predict model.safetensors bad.pdb tree/bent/0.xyz missing.cif", 3);
    assert_eq!(text.lines().count(), 1, "{text}");
    let [bad, missing] =
        ["bad.pdb", "missing.cif"].map(|name| errors.lines().filter(|l| l.contains(name)).count());
    assert_eq!((bad, missing), (1, 1), "{errors}");
    let refused = |args: &str, expected: &str| {
        let [_, errors] = ends(at, args, 2);
        let lines: Vec<&str> =
            errors.lines().filter(|l| l.starts_with("steer3d: error: ")).collect();
        assert!(lines.len() == 1 && lines[0].contains(expected), "{args}: {errors}");
    };
    fs::create_dir(at.join("empty")).unwrap();
    let [text, _] = ends(at, "predict --list --json", 0);
    let listed: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(listed[0]["name"], "cath-class");
    assert!(listed[0]["about"].as_str().unwrap().starts_with("CATH class"), "{text}");
    refused("predict nothing tree", "no such file, and no model that comes with the program");
    refused("predict model.safetensors empty", "files of a known format, found none; known are ");
    let twice = "predict model.safetensors tree/bent/0.xyz tree/bent/2.xyz tree/bent/0.xyz";
    refused(twice, "tree/bent/0.xyz: is named twice");
    refused("predict model.safetensors tree --out answers.txt", ".csv, .jsonl or .npz");
    fs::write(at.join("taken"), "a file").unwrap();
    refused("predict model.safetensors tree --out taken/answers.csv", "error: taken: ");
    ends(at, "predict model.safetensors tree/bent --out made/answers.csv", 0);
    assert!(at.join("made/answers.csv").exists());
    refused("predict model.safetensors tree --fit crop", "--fit");
    refused("predict model.safetensors tree --recipe missing.toml", "missing.toml");
    refused("predict model.safetensors tree --probabilities --out answers.csv", "labels voxels");
    ends(at, "predict model.safetensors tree --resume", 2);
    ends(at, "predict model.safetensors tree --rotations 0", 2);
    assert!(!at.join("answers.txt").exists() && !at.join("answers.csv").exists());
    // What is not labelled, too, and another kind of file than the recipe is for.
    ends(
        at,
        "dataset build tree/bent --layout flat --out flat.h5 --size 10 --voxel-size 0.8 --elements C,O",
        0,
    );
    let [text, _] = ends(at, "predict model.safetensors flat.h5 --quiet", 0);
    assert_eq!(text.lines().count(), 10);
    fs::write(at.join("mesh.off"), "OFF\n3 1 0\n0 0 0\n1 0 0\n0 1 0\n3 0 1 2\n").unwrap();
    let [_, errors] = ends(at, "predict model.safetensors mesh.off", 3);
    assert!(errors.contains("mesh.off: expected a molecule, found a mesh"), "{errors}");
}

#[test]
fn a_killed_run_goes_on_to_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    trained(at);
    let text: String = (0..3000).map(molecule).collect();
    fs::write(at.join("many.xyz"), text).unwrap();
    let warned =
        |errors: &str| errors.lines().find(|l| l.contains("warnings for")).map(String::from);
    let [_, errors] = ends(at, "predict model.safetensors many.xyz --out whole.csv --threads 2", 0);
    let expected = warned(&errors).expect("some are warned of");
    let mut child = Command::new(assert_cmd::cargo::cargo_bin!("steer3d"))
        .args(["predict", "model.safetensors", "many.xyz", "--out", "killed.csv", "--threads", "1"])
        .current_dir(at)
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let started = Instant::now();
    let partial = at.join("killed.csv.partial");
    let kept = || fs::metadata(&partial).map_or(0, |data| data.len());
    while kept() < 20_000 && started.elapsed() < Duration::from_secs(60) {
        std::thread::sleep(Duration::from_millis(5));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!at.join("killed.csv").exists() && kept() > 0);
    let [_, errors] = ends(at, "predict model.safetensors many.xyz --out killed.csv --resume", 0);
    assert!(errors.contains("of 3000 answers are there"), "{errors}");
    assert_eq!(warned(&errors), Some(expected));
    assert!(fs::read(at.join("killed.csv")).unwrap() == fs::read(at.join("whole.csv")).unwrap());
    assert!(!partial.exists());
}
