//! The program from the outside: exit codes, messages, a train-evaluate round, and a killed run.

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use steer3d::formats::npz::Npz;
use steer3d::nn::checkpoint;
use steer3d::prelude::Device;

fn steer3d(folder: &Path, args: &[&str]) -> Output {
    Command::new(assert_cmd::cargo::cargo_bin!("steer3d"))
        .args(args)
        .current_dir(folder)
        .output()
        .unwrap()
}

fn succeeds(folder: &Path, args: &[&str]) -> String {
    let output = steer3d(folder, args);
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{args:?}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

/// The message of a command that must end with exit code 2 and one line on standard error.
fn refused(folder: &Path, args: &[&str]) -> String {
    let output = steer3d(folder, args);
    let errors = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{args:?}: {errors}");
    let lines: Vec<_> = errors.lines().filter(|l| l.starts_with("steer3d: error: ")).collect();
    assert_eq!(lines.len(), 1, "{args:?}: {errors}");
    assert!(output.stdout.is_empty(), "{args:?} printed a result");
    lines[0].to_owned()
}

fn tetris(folder: &Path) {
    let args = ["dataset", "import", "tetris", "--out", "tetris.h5", "--test-rotations", "1"];
    succeeds(folder, &args);
}

const SMALL: &str = r#"
kind = "steerable"
input = "1x0"
classes = 8
[kernel]
family = "gaussian_shells"
sigma = 0.6
[[blocks]]
fields = "2x0+1x1"
size = 3
stride = 2
[[blocks]]
fields = "8x0"
size = 3
"#;

fn train_small(folder: &Path, epochs: &str) {
    fs::write(folder.join("small.toml"), SMALL).unwrap();
    let args = ["train", "tetris.h5", "--config", "small.toml", "--epochs", epochs, "--out", "run"];
    succeeds(folder, &args);
}

#[test]
fn a_dataset_a_model_and_a_report() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    tetris(at);
    train_small(at, "2");
    let info = succeeds(at, &["info", "run/model.safetensors"]);
    assert!(info.contains("2x0+1x1") && info.contains("MFLOP"), "{info}");
    assert!(succeeds(at, &["dataset", "inspect", "tetris.h5"]).contains("zigzag"));
    let args = [
        "eval",
        "run/model.safetensors",
        "tetris.h5",
        "--rotations",
        "2",
        "--angles",
        "90",
        "--translations",
        "1",
        "--out",
        "report",
        "--json",
    ];
    let json: serde_json::Value = serde_json::from_str(&succeeds(at, &args)).unwrap();
    assert_eq!(json["schema_version"], 3);
    for name in ["report.html", "report.json", "results.csv", "predictions.csv"] {
        assert!(at.join("report").join(name).exists(), "{name}");
    }
    assert!(!at.join("report/unfinished").exists());
    let protocol = "rotations = 1\nangles = []\ntranslations = []\ngroups = [\"tetrahedron\"]\n\
                    axes = [[0.0, 0.0, 1.0]]\nsources = [\"points\", { voxels = \"cubic\" }]\n";
    fs::write(at.join("protocol.toml"), protocol).unwrap();
    let with =
        ["eval", "run/model.safetensors", "tetris.h5", "--protocol", "protocol.toml", "--json"];
    let args = [&with[..], &["--seed", "4"]].concat();
    let json: serde_json::Value = serde_json::from_str(&succeeds(at, &args)).unwrap();
    let found = &json["sections"][0]["protocol"];
    assert_eq!((&found["seed"], &found["groups"][0]), (&4.into(), &"tetrahedron".into()));
    assert_eq!(
        json["sections"][0]["models"][0]["sources"][1]["conditions"][2]["condition"]["kind"],
        "random_about"
    );
    fs::write(at.join("protocol.toml"), "rotation = 1\n").unwrap();
    let output = steer3d(at, &with);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2));
    assert!(said.contains("protocol.toml") && said.contains("unknown field `rotation`"), "{said}");
    assert_eq!(steer3d(at, &[&with[..], &["--even", "3"]].concat()).status.code(), Some(2));
    let diff = succeeds(at, &["report", "diff", "report/report.json", "report/report.json"]);
    assert!(diff.contains("rotated by 90°") && !diff.contains('*'), "{diff}");
    // Another batch size measures the same, another seed does not.
    let report = fs::read_to_string(at.join("report/report.json")).unwrap();
    let mut report: serde_json::Value = serde_json::from_str(&report).unwrap();
    for (field, differs) in [("batch", false), ("seed", true)] {
        report["sections"][0]["protocol"][field] = 77.into();
        fs::write(at.join("other.json"), report.to_string()).unwrap();
        let said = steer3d(at, &["report", "diff", "report/report.json", "other.json"]).stderr;
        assert_eq!(String::from_utf8_lossy(&said).contains("different protocols"), differs);
    }
    let lines = fs::read_to_string(at.join("run/metrics.jsonl")).unwrap();
    assert_eq!(lines.lines().count(), 2);
}

#[test]
fn the_same_seed_gives_the_same_weights_on_any_number_of_threads_and_recomputing() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    tetris(at);
    fs::write(at.join("small.toml"), SMALL).unwrap();
    let train = |threads: &str, out: &str, seed: &str, more: &[&str]| {
        let args = [
            "train",
            "tetris.h5",
            "--config",
            "small.toml",
            "--epochs",
            "2",
            "--threads",
            threads,
            "--seed",
            seed,
            "--out",
            out,
        ];
        succeeds(at, &[&args, more].concat());
        fs::read(at.join(out).join("model.safetensors")).unwrap()
    };
    let one = train("1", "one", "0", &[]);
    assert_eq!(one, train("3", "three", "0", &[]));
    assert_eq!(one, train("1", "recomputed", "0", &["--recompute"]));
    assert_ne!(one, train("1", "other", "1", &[]));
    let turned = train("1", "turned", "0", &["--augment", "so3"]);
    assert_eq!(turned, train("3", "turned-three", "0", &["--augment", "so3"]));
    assert_ne!(one, turned);
}

#[test]
fn a_comparison_trains_every_rival_with_the_same_budget_and_goes_on_where_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    tetris(at);
    let models = "steerable-jets,transformer,augmented";
    let mut args = vec!["compare", "tetris.h5", "--models", models, "--match", "flops"];
    args.extend("--seeds 1 --epochs 1 --augment z --augment-fraction 0.5".split(' '));
    args.extend("--rotations 1 --angles 90 --translations 1 --rotate voxels --out c".split(' '));
    succeeds(at, &args);
    let weights = |name: &str| at.join(format!("c/{name}-0/model.safetensors"));
    let times = || {
        ["steerable-jets", "transformer", "augmented"]
            .map(|m| weights(m).metadata().unwrap().modified().unwrap())
    };
    let before = times();
    assert!(checkpoint::load(&weights("transformer"), &Device::Cpu).is_ok());
    let record = fs::read_to_string(at.join("c/augmented-0/finished.json")).unwrap();
    assert!(record.contains(r#""about": "z""#), "{record}");
    let record = fs::read_to_string(at.join("c/transformer-0/finished.json")).unwrap();
    assert!(record.contains(r#""augment": null"#), "{record}");
    succeeds(at, &args);
    assert_eq!(times(), before);
    let args = ["train", "tetris.h5", "--augment", "z", "--augment-fraction", "2", "--out", "x"];
    assert!(refused(at, &args).contains("at most 1"));
}

#[test]
fn a_killed_training_leaves_a_loadable_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    tetris(at);
    fs::write(at.join("small.toml"), SMALL).unwrap();
    let args =
        ["train", "tetris.h5", "--config", "small.toml", "--epochs", "100000", "--out", "run"];
    let mut child = Command::new(assert_cmd::cargo::cargo_bin!("steer3d"))
        .args(args)
        .current_dir(at)
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let weights = at.join("run/model.safetensors");
    let start = Instant::now();
    while !weights.exists() {
        assert!(start.elapsed() < Duration::from_secs(120), "no checkpoint was written");
        assert!(child.try_wait().unwrap().is_none(), "training ended by itself");
        std::thread::sleep(Duration::from_millis(5));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let (_, card) = checkpoint::load(&weights, &Device::Cpu).unwrap();
    assert_eq!(card.class_names.len(), 8);
}

#[test]
fn bad_input_gives_one_line_and_exit_code_2() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    tetris(at);
    train_small(at, "1");
    let model = "run/model.safetensors";

    assert!(refused(at, &["train", "none.h5", "--out", "x"]).contains("none.h5"));
    assert!(refused(at, &["eval", "none.safetensors", "tetris.h5"]).contains("none.safetensors"));
    assert!(refused(at, &["info", "none.h5"]).contains("no such file"));
    assert!(refused(at, &["info", "4x0+x"]).contains("column"));

    fs::write(at.join("text.h5"), "not HDF5").unwrap();
    assert!(refused(at, &["dataset", "inspect", "text.h5"]).contains("text.h5"));
    let bytes = fs::read(at.join("tetris.h5")).unwrap();
    fs::write(at.join("cut.h5"), &bytes[..bytes.len() / 2]).unwrap();
    assert!(refused(at, &["eval", model, "cut.h5"]).contains("cut.h5"));

    fs::write(at.join("cut.safetensors"), &fs::read(at.join(model)).unwrap()[..100]).unwrap();
    assert!(refused(at, &["eval", "cut.safetensors", "tetris.h5"]).contains("cut.safetensors"));

    let other = SMALL.replace("2x0+1x1", "3x0+1x1");
    let mut bytes = fs::read(at.join(model)).unwrap();
    let place = bytes.windows(7).position(|text| text == b"2x0+1x1").unwrap();
    bytes[place] = b'3';
    fs::write(at.join("other.safetensors"), bytes).unwrap();
    assert!(refused(at, &["eval", "other.safetensors", "tetris.h5"]).contains("another model"));

    fs::write(at.join("channels.toml"), SMALL.replace("\"1x0\"", "\"2x0\"")).unwrap();
    let args = ["train", "tetris.h5", "--config", "channels.toml", "--out", "x"];
    assert!(refused(at, &args).contains("2 channels"));
    fs::write(at.join("key.toml"), other.replace("stride", "strid")).unwrap();
    let args = ["train", "tetris.h5", "--config", "key.toml", "--out", "x"];
    assert!(refused(at, &args).contains("strid"));

    let args = ["train", "tetris.h5", "--epochs", "0", "--out", "x"];
    assert!(refused(at, &args).contains("epochs"));
    let args = ["eval", model, "tetris.h5", "--angles", "270"];
    assert!(refused(at, &args).contains("180"));
    let args = ["eval", model];
    assert!(refused(at, &args).contains("no dataset given: run/model.safetensors is a model"));
    let args = ["report", "animate", "none.json", "--out", "turning.gif"];
    assert!(refused(at, &args).contains("turning.gif: expected a name that ends in .png"));
    for args in [["train", "none.toml"], ["runs", "none.toml"]] {
        assert!(refused(at, &args).contains("none.toml: No such file"), "{args:?}");
        assert!(refused(at, &args).contains("check the path"), "{args:?}");
    }
    for (option, value) in [("--voxel-size", "2,0,2"), ("--size", "0")] {
        let message = refused(at, &["dataset", "build", "none", "--out", "x.h5", option, value]);
        assert!(message.contains(option) && message.contains("found 0"), "{message}");
    }
    assert!(refused(at, &["--threads", "0", "info", "1x0"]).contains("threads"));
    assert!(refused(at, &["--device", "gpu", "info", "1x0"]).contains("gpu"));
}

/// Alpha carbons of a helix.
fn helix(length: usize) -> String {
    let atom = |i: usize| {
        let angle = (100.0 * i as f64).to_radians();
        let (x, y, z) = (2.3 * angle.cos(), 2.3 * angle.sin(), 1.5 * i as f64);
        format!(
            "ATOM  {i:>5}  CA  ALA A{i:>4}    {x:>8.3}{y:>8.3}{z:>8.3}  1.00  0.00           C  \n"
        )
    };
    (1..=length).map(atom).collect()
}

#[test]
fn models_that_come_with_the_program_are_named_where_files_are() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let info = succeeds(at, &["info", "cath-class"]);
    assert!(info.starts_with("cath-class\n") && info.contains("licence CC BY 4.0"), "{info}");
    let said = succeeds(at, &["export", "adrenal", "adrenal.npz"]);
    assert!(said.contains("agrees with the network"), "{said}");
    fs::create_dir(at.join("helices")).unwrap();
    for length in [20, 30] {
        fs::write(at.join(format!("helices/{length}.pdb")), helix(length)).unwrap();
    }
    let build = "dataset build helices --out helices.h5 --size 32 --voxel-size 2 --sigma 1 --atoms alpha-carbons";
    succeeds(at, &build.split(' ').collect::<Vec<_>>());
    let few = "--rotations 1 --angles 90 --translations 1 --rotate voxels";
    let table = succeeds(at, &eval(&["cath-class", "helices.h5"], few));
    assert!(table.contains(" cath-class ") && table.contains("consistent %"), "{table}");

    let near = "cath-clas: no such file, and no model that comes with the program; did you mean `cath-class`?";
    for args in [&["info", "cath-clas"][..], &["export", "cath-clas", "x.onnx"]] {
        assert!(refused(at, args).ends_with(near), "{args:?}");
    }
    assert!(refused(at, &eval(&["cath-clas", "helices.h5"], few)).ends_with(near));
    let message = refused(at, &["export", "none.safetensors", "x.onnx"]);
    assert!(message.contains("give a model file (.safetensors) or one of cath-class"), "{message}");
    assert!(refused(at, &["eval", "cath-class"]).contains("no dataset given"));
}

#[test]
fn wrong_usage_ends_with_exit_code_2() {
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(steer3d(folder.path(), &["train"]).status.code(), Some(2));
    assert_eq!(steer3d(folder.path(), &["nonsense"]).status.code(), Some(2));
    let protocols = [
        (["--axes", "q"], "expected x, y, z or three numbers X:Y:Z, found `q`"),
        (["--axes", "1:2"], "found `1:2`"),
        (["--angle-step", "0"], "expected from 0.1 to 180 degrees, found `0`"),
        (["--groups", "dodecahedron"], "expected tetrahedron, cube or icosahedron"),
        (["--search", "0"], "0 is not in 1.."),
    ];
    for (option, expected) in protocols {
        let output =
            steer3d(folder.path(), &[&["eval", "a.safetensors", "b.h5"], &option[..]].concat());
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(2) && said.contains(expected), "{said}");
    }
}

#[test]
fn every_command_has_help_and_the_main_ones_examples() {
    let folder = tempfile::tempdir().unwrap();
    for command in
        ["demo", "init", "train", "runs", "eval", "export", "compare", "info", "completions"]
    {
        let help = succeeds(folder.path(), &[command, "--help"]);
        assert!(help.contains("Example"), "{command}");
    }
    for command in ["import", "build", "inspect", "verify", "split", "export", "view"] {
        let help = succeeds(folder.path(), &["dataset", command, "--help"]);
        assert!(help.contains("Example"), "dataset {command}");
    }
    assert!(succeeds(folder.path(), &["completions", "bash"]).contains("_steer3d"));
}

#[test]
fn the_help_of_the_program_lists_every_command_once_and_a_manual_page_describes_it() {
    let folder = tempfile::tempdir().unwrap();
    succeeds(folder.path(), &["docs", "man", "man1"]);
    let help = succeeds(folder.path(), &["--help"]);
    let mut commands = 0;
    for page in fs::read_dir(folder.path().join("man1")).unwrap() {
        let page = page.unwrap();
        let name = page.file_name().into_string().unwrap();
        let text = fs::read_to_string(page.path()).unwrap();
        assert!(text.contains(".SH SYNOPSIS") && text.contains(".SH DESCRIPTION"), "{name}");
        let words: Vec<&str> = name.trim_end_matches(".1").split('-').collect();
        if let ["steer3d", command] = words[..] {
            let begin = format!("  {command} ");
            let lines: Vec<&str> = help.lines().filter(|line| line.starts_with(&begin)).collect();
            assert_eq!(lines.len(), usize::from(command != "help"), "{command}: {help}");
            commands += lines.len();
        }
    }
    assert!(commands > 10, "{commands}");
    let commands = help.lines().skip_while(|line| !line.starts_with("Use:")).take(20);
    let begin = succeeds(folder.path(), &[]);
    for line in commands.chain(begin.lines()) {
        assert!(line.chars().count() <= 80, "{line}");
    }
}

#[test]
fn short_help_is_short_and_colours_go_to_terminals_alone() {
    let folder = tempfile::tempdir().unwrap();
    let [short, long] = ["-h", "--help"].map(|help| succeeds(folder.path(), &["eval", help]));
    assert!(2 * short.lines().count() < long.lines().count(), "{short}");
    assert!(short.contains("--rotations") && !short.contains("--surface-tolerance"), "{short}");
    assert!(short.contains("Usage: steer3d eval [OPTIONS] [MODEL]... <DATASET>"), "{short}");
    let coloured = |variables: &[(&str, &str)]| {
        let mut command = Command::new(assert_cmd::cargo::cargo_bin!("steer3d"));
        command.env_remove("NO_COLOR").envs(variables.iter().copied());
        let output = command.args(["info", "nowhere.h5"]).output().unwrap();
        output.stderr.contains(&0x1b)
    };
    assert!(!coloured(&[]));
    assert!(coloured(&[("CLICOLOR_FORCE", "1")]));
    assert!(!coloured(&[("CLICOLOR_FORCE", "1"), ("NO_COLOR", "1")]));
}

/// An evaluation of `more` that takes a moment.
fn eval<'a>(more: &[&'a str], few: &'a str) -> Vec<&'a str> {
    ["eval"].into_iter().chain(more.iter().copied()).chain(few.split(' ')).collect()
}

#[test]
fn models_of_other_makers_are_evaluated_or_refused_in_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    tetris(at);
    let few = "--rotations 1 --angles 90 --translations 1 --rotate voxels";
    if cfg!(unix) {
        let program = "echo hello; cat > /dev/null";
        let message = refused(at, &eval(&["tetris.h5", "--command", program], few));
        assert!(message.contains("`hello`"), "{message}");
        let message = refused(at, &eval(&["tetris.h5", "--command", "exit 4"], few));
        assert!(message.contains("exit status: 4"), "{message}");
    }
    let said = succeeds(at, &eval(&["tetris.h5", "--export", "out"], few));
    assert!(said.contains("volumes"), "{said}");
    let keys = fs::read_to_string(at.join("out/volumes.sha256")).unwrap();
    let names = succeeds(at, &["dataset", "inspect", "tetris.h5", "--json"]);
    let names: serde_json::Value = serde_json::from_str(&names).unwrap();
    let names: Vec<&str> = names["meta"]["class_names"]
        .as_array()
        .unwrap()
        .iter()
        .map(|n| n.as_str().unwrap())
        .collect();
    let text = names.join(",") + "\n" + &"1,0,0,0,0,0,0,0\n".repeat(keys.lines().count());
    fs::write(at.join("out/predictions.csv"), text).unwrap();
    let json = succeeds(at, &eval(&["tetris.h5", "--predictions", "out", "--json"], few));
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["sections"][0]["models"][0]["name"], "out");

    assert!(refused(at, &eval(&["tetris.h5"], few)).contains("no model given"));
    let args = eval(&["tetris.h5", "--export", "out", "--search", "8"], few);
    assert!(refused(at, &args).contains("--search"));
    fs::write(at.join("m.onnx"), "text").unwrap();
    let message = refused(at, &eval(&["m.onnx", "tetris.h5"], few));
    let expected = if cfg!(feature = "onnx") { "not an ONNX model" } else { "--features onnx" };
    assert!(message.contains("m.onnx") && message.contains(expected), "{message}");
}

#[test]
fn a_network_is_exported_as_onnx_and_as_arrays_or_refused_in_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    tetris(at);
    train_small(at, "1");
    let model = "run/model.safetensors";
    let said = succeeds(at, &["export", model, "network.onnx"]);
    assert!(said.contains("agrees with the network") && said.lines().count() == 1, "{said}");
    let json = succeeds(at, &["export", model, "arrays", "--to", "npz", "--json"]);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert!(json["to"] == "npz" && json["largest_difference"].as_f64().unwrap() < 1e-5, "{json}");
    // Both parities of every axis.
    let checked: [[usize; 4]; 2] = serde_json::from_value(json["checked"].clone()).unwrap();
    assert!((1..4).all(|axis| checked[0][axis] + 1 == checked[1][axis]), "{json}");
    let mut arrays = Npz::open(at.join("arrays")).unwrap();
    // Two scalars, a gate and a vector.
    assert_eq!(arrays.read("blocks.0.conv.weight").unwrap().shape(), [6, 1, 3, 3, 3]);
    assert!(arrays.has("card") && arrays.has("head.bias"), "{:?}", arrays.keys());

    let message = refused(at, &["export", model, "small.pt"]);
    assert!(message.contains("small.pt: expected a name that ends in .onnx or .npz"), "{message}");
    succeeds(at, &["export", model, "made/small.onnx"]);
    assert!(at.join("made/small.onnx").exists());
    fs::write(at.join("taken"), "a file").unwrap();
    let message = refused(at, &["export", model, "taken/small.onnx"]);
    assert!(message.contains("error: taken: ") && !message.contains(".tmp"), "{message}");
    let message = refused(at, &["export", model, model, "--to", "npz"]);
    assert!(message.contains("is the model itself"), "{message}");
    let bytes = fs::read(at.join(model)).unwrap();
    fs::write(at.join("half.safetensors"), &bytes[..bytes.len() / 2]).unwrap();
    let message = refused(at, &["export", "half.safetensors", "half.onnx"]);
    assert!(message.contains("half.safetensors") && !at.join("half.onnx").exists(), "{message}");

    // The file is the network as an evaluation sees it.
    if cfg!(feature = "onnx") {
        let few = "--rotations 1 --angles 90 --translations 1 --json";
        let of = |model: &str| {
            let json = succeeds(at, &eval(&[model, "tetris.h5"], few));
            let mut json: serde_json::Value = serde_json::from_str(&json).unwrap();
            let mut found = json["sections"][0]["models"][0].take();
            // Layers are those of our own networks.
            for source in found["sources"].as_array_mut().unwrap() {
                source["layers"].take();
            }
            found["name"].take();
            found
        };
        same_report("", &of("network.onnx"), &of(model));
    }
}

/// Whether two reports are the same but for rounding.
fn same_report(at: &str, a: &serde_json::Value, b: &serde_json::Value) {
    use serde_json::Value::{Array, Number, Object};
    match (a, b) {
        (Array(a), Array(b)) => {
            assert_eq!(a.len(), b.len(), "{at}");
            a.iter()
                .zip(b)
                .enumerate()
                .for_each(|(i, (a, b))| same_report(&format!("{at}[{i}]"), a, b));
        }
        (Object(a), Object(b)) => {
            assert!(a.keys().eq(b.keys()), "{at}");
            a.iter().for_each(|(key, a)| same_report(&format!("{at}.{key}"), a, &b[key]));
        }
        (Number(a), Number(b)) => {
            let (a, b) = (a.as_f64().unwrap(), b.as_f64().unwrap());
            assert!((a - b).abs() <= 1e-4 * b.abs().max(1.0), "{at}: {a} and {b}");
        }
        _ => assert_eq!(a, b, "{at}"),
    }
}
