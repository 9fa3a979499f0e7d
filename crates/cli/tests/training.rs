//! Trainings from the outside: experiment files, kills, interruptions, run folders.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use candle_core::Device;
use steer3d::dataset::{
    DatasetMeta, DatasetWriter, Grids, Item, Provenance, Split, Storage, Tasks,
};
use steer3d::eval::{Condition, PointGroup, Report};
use steer3d::nn::checkpoint;
use steer3d::so3::Stream;
use steer3d::volume::{Grid, Volume};

fn command(folder: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(assert_cmd::cargo::cargo_bin!("steer3d"));
    command.args(args).current_dir(folder);
    command
}

fn run(folder: &Path, args: &[&str]) -> Output {
    command(folder, args).output().unwrap()
}

fn succeeds(folder: &Path, args: &[&str]) -> String {
    let output = run(folder, args);
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The line with which a command is refused.
fn refused(folder: &Path, args: &[&str]) -> String {
    let output = run(folder, args);
    let errors = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{args:?}: {errors}");
    let lines: Vec<_> = errors.lines().filter(|l| l.starts_with("steer3d: error: ")).collect();
    assert_eq!(lines.len(), 1, "{args:?}: {errors}");
    lines[0].to_owned()
}

const EXPERIMENT: &str = r#"
[data]
dataset = "data/tetris.h5"
make = ["dataset", "import", "tetris", "--test-rotations", "1", "--size", "9", "--out", "data/tetris.h5"]

[model]
kind = "steerable"
dropout = 0.2
[model.kernel]
family = "gaussian_shells"
sigma = 0.6
[[model.blocks]]
fields = "2x0+1x1"
size = 3
stride = 2
[[model.blocks]]
fields = "4x0"
size = 3

[training]
epochs = 40
batch_size = 3
clip_norm = 1.0
average = 0.9
[training.augment]
about = "so3"
fraction = 1.0
[training.schedule]
kind = "plateau"
factor = 0.5
patience = 1
[training.loss]
class_weights = "balanced"
label_smoothing = 0.1

[states]
every_steps = 1
"#;

fn experiment(folder: &Path) {
    fs::write(folder.join("exp.toml"), EXPERIMENT).unwrap();
}

/// The metrics of every epoch but for the time.
fn metrics(run: &Path) -> Vec<String> {
    let text = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let timeless = |line: &str| line.split(",\"seconds\"").next().unwrap().to_owned();
    text.lines().map(timeless).collect()
}

fn start(folder: &Path, args: &[&str]) -> Child {
    command(folder, args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

#[cfg(unix)]
#[test]
fn killed_at_twenty_random_moments_a_training_ends_with_the_same_weights() {
    let home = tempfile::tempdir().unwrap();
    let at = home.path();
    experiment(at);
    succeeds(at, &["train", "exp.toml", "--out", "whole"]);
    let weights = fs::read(at.join("whole/model.safetensors")).unwrap();
    let mut moments = Stream::new(0, "kills", &[]);
    let (mut kills, mut round) = (0, 0);
    while kills < 20 {
        round += 1;
        assert!(round < 40, "trainings end before they are killed");
        let out = format!("killed-{round}");
        let args = ["train", "exp.toml", "--resume", "--out", &out];
        loop {
            let threads = (1 + moments.below(3)).to_string();
            let mut child = start(at, &[&args[..], &["--threads", &threads]].concat());
            std::thread::sleep(Duration::from_secs_f64(0.02 + 0.15 * moments.uniform()));
            if child.try_wait().unwrap().is_some() {
                break;
            }
            child.kill().unwrap();
            // Killed, unless it ended in between.
            kills += usize::from(!child.wait().unwrap().success());
            if kills >= 20 {
                break;
            }
        }
        succeeds(at, &args);
        let run = at.join(&out);
        assert_eq!(fs::read(run.join("model.safetensors")).unwrap(), weights, "round {round}");
        assert_eq!(metrics(&run), metrics(&at.join("whole")), "round {round}");
        let left = fs::read_dir(&run).unwrap().chain(fs::read_dir(run.join("states")).unwrap());
        let mut left = left.map(|e| e.unwrap().file_name().into_string().unwrap());
        assert!(left.all(|name| !name.starts_with('.')), "half a file is left");
    }
}

#[cfg(unix)]
#[test]
fn ctrl_c_and_sigterm_save_and_end_with_exit_code_130() {
    let home = tempfile::tempdir().unwrap();
    let at = home.path();
    experiment(at);
    let long = ["train", "exp.toml", "--set", "training.epochs=120"];
    let long = [&long[..], &["--set", "states.every_steps=100000"]].concat();
    succeeds(at, &[&long[..], &["--out", "whole"]].concat());
    let weights = |run: &str| fs::read(at.join(run).join("model.safetensors")).unwrap();
    for (signal, out) in [("-INT", "run"), ("-TERM", "other")] {
        // Only the interruption itself saves a state in the middle of an epoch.
        let args = [&long[..], &["--out", out]].concat();
        let mut child = start(at, &args);
        let begin = Instant::now();
        while !at.join(out).join("metrics.jsonl").exists() {
            assert!(begin.elapsed() < Duration::from_secs(60));
            assert!(child.try_wait().unwrap().is_none());
            std::thread::sleep(Duration::from_millis(1));
        }
        let pid = child.id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
        assert_eq!(child.wait().unwrap().code(), Some(130));
        let states = fs::read_dir(at.join(out).join("states")).unwrap();
        let states = states.map(|e| e.unwrap().path());
        assert!(states.filter(|path| path.extension().is_some_and(|e| e == "state")).count() > 0);
        assert!(refused(at, &args).contains("not finished"));
        succeeds(at, &[&args[..], &["--resume"]].concat());
        assert!(weights(out) == weights("whole"));
        assert_eq!(metrics(&at.join(out)), metrics(&at.join("whole")));
    }
}

#[test]
fn a_training_that_cannot_begin_leaves_no_folder() {
    let home = tempfile::tempdir().unwrap();
    let at = home.path();
    fs::write(at.join("broken.h5"), b"\x89HDF\r\n\x1a\n").unwrap();
    refused(at, &["train", "broken.h5", "--out", "run"]);
    assert!(!at.join("run").exists());
    fs::create_dir(at.join("mine")).unwrap();
    refused(at, &["train", "broken.h5", "--out", "mine"]);
    assert!(at.join("mine").exists());
}

#[test]
fn a_run_folder_tells_everything_and_can_be_run_again() {
    let home = tempfile::tempdir().unwrap();
    let at = home.path();
    experiment(at);
    let few = ["train", "exp.toml", "--set", "training.epochs=3", "--seed", "4"];
    let protocol = "evaluation={split = 'test', protocol = {rotations = 1, angles = [], translations = [], groups = []}}";
    succeeds(at, &[&few[..], &["--set", protocol]].concat());
    let run = at.join("runs/exp");
    for name in ["model.safetensors", "run.json", "curves.html", "report/report.html"] {
        assert!(run.join(name).is_file(), "{name}");
    }
    assert_eq!(metrics(&run).len(), 3);
    assert!(fs::read_dir(run.join("tensorboard")).unwrap().count() == 1);
    let record: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(run.join("run.json")).unwrap()).unwrap();
    assert_eq!((&record["seed"], &record["finished"]), (&4.into(), &true.into()));
    assert_eq!(record["data_sha256"].as_str().unwrap().len(), 64);
    let resolved = fs::read_to_string(run.join("experiment.toml")).unwrap();
    for text in ["classes = 8", "input = \"1x0\"", "epochs = 3", "seed = 4", "beta1 = 0.9"] {
        assert!(resolved.contains(text), "{text}: {resolved}");
    }
    // The resolved file gives the same run, from another folder too.
    let other = at.join("other");
    fs::create_dir(&other).unwrap();
    let file = run.join("experiment.toml");
    succeeds(&other, &["train", file.to_str().unwrap(), "--out", "again"]);
    let weights = |run: &Path| fs::read(run.join("model.safetensors")).unwrap();
    assert_eq!(weights(&other.join("again")), weights(&run));
    // A finished run is left alone by --resume, and named by its folder.
    let before = weights(&run);
    succeeds(at, &["train", "runs/exp", "--resume"]);
    assert!(weights(&run) == before);

    let more = ["--set", "model.blocks.1.fields=6x0", "--out", "runs/wide"];
    succeeds(at, &[&few[..], &more].concat());
    let table = succeeds(at, &["runs", "runs", "--curves", "all.html"]);
    assert!(table.contains("wide") && table.contains("model.blocks.1.fields = 6x0"), "{table}");
    assert!(
        table.contains("3/3") && table.contains("finished") && table.contains("random"),
        "{table}"
    );
    assert!(fs::read_to_string(at.join("all.html")).unwrap().contains(">wide<"));
    let json: serde_json::Value =
        serde_json::from_str(&succeeds(at, &["runs", "runs", "--json"])).unwrap();
    assert_eq!(json["runs"].as_array().unwrap().len(), 2);
    assert!(refused(at, &["runs", "data"]).contains("no run found"));
    assert!(!run.join("report/unfinished").exists());

    let message = refused(at, &["train", "runs/exp", "--resume", "--set", "training.batch_size=4"]);
    assert!(message.contains("batch_size was 3 and is now 4"), "{message}");
    // What is refused leaves the run folder as it was.
    succeeds(at, &["train", "runs/exp", "--resume"]);
    assert_eq!((weights(&run), metrics(&run).len()), (before, 3));
    let states = fs::read_dir(run.join("states")).unwrap().map(|e| e.unwrap().path());
    for path in states.filter(|path| path.extension().is_some_and(|e| e == "state")) {
        let mut bytes = fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(&path, bytes).unwrap();
    }
    let message = refused(at, &["train", "runs/exp", "--resume"]);
    assert!(message.contains("runs/exp/states/step-") && message.contains("damaged"), "{message}");
}

#[test]
fn trainings_from_several_seeds_are_one_command_and_go_on() {
    let home = tempfile::tempdir().unwrap();
    let at = home.path();
    experiment(at);
    let protocol = "evaluation={split = 'test', protocol = {rotations = 1, angles = [], translations = [], groups = []}}";
    let args = [
        "train",
        "exp.toml",
        "--set",
        "training.epochs=2",
        "--set",
        protocol,
        "--seeds",
        "2",
        "--resume",
    ];
    let table = succeeds(at, &args);
    assert!(table.contains("over seeds") && table.contains("training.seed = 1"), "{table}");
    let file = |name: &str| at.join("runs/exp/seed-1").join(name);
    let weights = || fs::read(file("model.safetensors")).unwrap();
    let report = || fs::metadata(file("report/report.json")).unwrap().modified().unwrap();
    let (before, written) = (weights(), report());
    fs::remove_dir_all(at.join("runs/exp/seed-0")).unwrap();
    assert_eq!(succeeds(at, &args).lines().count(), table.lines().count());
    assert!(weights() == before && report() == written);
    let alone = [&args[..6], &["--seed", "1", "--out", "alone"]].concat();
    succeeds(at, &alone);
    assert!(fs::read(at.join("alone/model.safetensors")).unwrap() == before);
}

#[test]
fn a_sweep_trains_every_choice_and_goes_on() {
    let home = tempfile::tempdir().unwrap();
    let at = home.path();
    experiment(at);
    let sweep = "[settings]\n'training.learning_rate' = [1e-3, 1e-2]\n'model.blocks.0.fields' = ['4x0', '2x0+1x1']";
    fs::write(at.join("sweep.toml"), sweep).unwrap();
    let args = [
        "train",
        "exp.toml",
        "--set",
        "training.epochs=1",
        "--sweep",
        "sweep.toml",
        "--resume",
        "--wide",
    ];
    let table = succeeds(at, &args);
    for part in
        ["trial-0", "trial-3", "training.learning_rate = 0.001", "model.blocks.0.fields = 2x0+1x1"]
    {
        assert!(table.contains(part), "{part}: {table}");
    }
    let model = |trial: usize| {
        fs::read(at.join(format!("runs/exp/trial-{trial}/model.safetensors"))).unwrap()
    };
    let before = [0, 1, 2, 3].map(model);
    fs::remove_dir_all(at.join("runs/exp/trial-2")).unwrap();
    succeeds(at, &args);
    assert!([0, 1, 2, 3].map(model) == before && before[0] != before[1]);
    // Another choice in a folder that has a training is not taken for the old one.
    fs::write(at.join("sweep.toml"), sweep.replace("1e-3", "2e-3")).unwrap();
    let message = refused(at, &args);
    assert!(message.contains("learning_rate"), "{message}");
    fs::write(at.join("sweep.toml"), "[settings]\n'training.lerning_rate' = [1]").unwrap();
    let message = refused(at, &args);
    assert!(message.contains("did you mean `learning_rate`?"), "{message}");
}

#[test]
fn mistakes_in_an_experiment_are_named_with_the_nearest_key() {
    let home = tempfile::tempdir().unwrap();
    let at = home.path();
    experiment(at);
    let with = |set: &str| refused(at, &["train", "exp.toml", "--set", set]);
    let cases = [
        ("training.epoch=3", "training.epoch: unknown field `epoch`", "did you mean `epochs`?"),
        ("traning.epochs=3", "unknown field `traning`", "did you mean `training`?"),
        (
            "model.blocks.0.strid=2",
            "model.blocks[0].strid: unknown field",
            "did you mean `stride`?",
        ),
        ("model={file = \"nowhere.toml\"}", "model.file: nowhere.toml", "No such file"),
        ("model={file = 3}", "model.file", "path of a network's TOML file, found 3"),
        ("model.kind=stearable", "unknown variant `stearable`", "did you mean `steerable`?"),
        ("model={preset = \"plane\"}", "found \"plane\"", "did you mean `plain`?"),
        ("model.blocks.7.size=3", "--set model.blocks.7.size=3", "from 0 to below 2"),
        ("training.loss.focal=0.5", "focal", "0 or at least 1"),
        ("states.keep=0", "states", "at least 1"),
        ("nothing", "--set nothing", "expected KEY=VALUE"),
    ];
    for (set, place, hint) in cases {
        let message = with(set);
        assert!(message.contains(place) && message.contains(hint), "{set}: {message}");
    }
    fs::write(at.join("net.toml"), "kind = 'plain'\nblokcs = []\n").unwrap();
    let message = with("model={file = \"net.toml\"}");
    assert!(message.contains("model.blokcs") && message.contains("`blocks`?"), "{message}");
    let message = refused(at, &["train", "exp.toml", "--epochs", "3"]);
    assert!(message.contains("--set training.epochs=5"), "{message}");
    fs::write(at.join("broken.toml"), "[data\n").unwrap();
    assert!(refused(at, &["train", "broken.toml"]).contains("broken.toml"));
    fs::write(at.join("taken"), "a file").unwrap();
    let message = refused(at, &["train", "exp.toml", "--out", "taken/run"]);
    assert!(message.contains("taken/run"), "{message}");
    assert!(refused(at, &["train", "data/tetris.h5"]).contains("such as --out runs/a"));
    assert!(
        refused(at, &["train", "data/tetris.h5", "--set", "no"]).contains("--set no: expected")
    );
}

#[test]
fn init_writes_experiments_and_overwrites_nothing() {
    let home = tempfile::tempdir().unwrap();
    let at = home.path();
    let text = succeeds(at, &["init"]);
    assert!(text.contains("[training.schedule]") && text.contains("# "));
    succeeds(at, &["init", "tetris", "--out", "tetris.toml"]);
    assert!(refused(at, &["init", "tetris", "--out", "tetris.toml"]).contains("exists"));
    let set = ["--set", "training.epochs=1", "--set", "evaluation="];
    succeeds(at, &[&["train", "tetris.toml"][..], &set].concat());
    assert!(at.join("runs/tetris/model.safetensors").exists());
}

#[test]
fn an_experiment_takes_the_network_of_a_file_and_changes_it() {
    let home = tempfile::tempdir().unwrap();
    let at = home.path();
    experiment(at);
    fs::write(
        at.join("net.toml"),
        "kind = 'plain'\ndropout = 0.1\n[[blocks]]\nchannels = 2\nsize = 3\npool = 2\n",
    )
    .unwrap();
    let set = ["--set", "model={file = \"net.toml\", dropout = 0.3}", "--set", "training.epochs=1"];
    succeeds(at, &[&["train", "exp.toml", "--out", "run"][..], &set].concat());
    let (_, card) = checkpoint::load(&at.join("run/model.safetensors"), &Device::Cpu).unwrap();
    let model = card.model.to_toml().unwrap();
    let experiment = fs::read_to_string(at.join("run/experiment.toml")).unwrap();
    for text in [&model, &experiment] {
        assert!(text.contains("dropout = 0.3") && text.contains("classes = 8"), "{text}");
        assert!(text.contains("kind = \"plain\"") && !text.contains("net.toml"), "{text}");
    }
}

/// Four volumes with a vector as a target and labels of voxels, if there are classes for them.
fn tasks(file: &Path, voxel_classes: &[&str]) {
    let meta = DatasetMeta {
        name: "tasks".into(),
        class_names: vec!["one".into()],
        channels: 1,
        grids: Grids::One,
        dims: [7; 3],
        voxel_size: [1.0; 3],
        unit: "voxel".into(),
        irreps: "1x0".parse().unwrap(),
        storage: Storage::F32,
        provenance: Provenance::default(),
        voxeliser: None,
        mesh_voxeliser: None,
        recipe: None,
    };
    let voxel_classes: Vec<String> = voxel_classes.iter().map(ToString::to_string).collect();
    let labelled = !voxel_classes.is_empty();
    let tasks = Tasks { targets: Some("1x1".parse().unwrap()), voxel_classes, ..Tasks::default() };
    let writer = DatasetWriter::create(file, meta).unwrap();
    let mut writer = writer.with_tasks(tasks).unwrap();
    for item in 0..4 {
        let values: Vec<f32> = (0..343).map(|i| ((i * (item + 3)) as f32).sin()).collect();
        let labels: Vec<u8> = values.iter().map(|v| u8::from(*v > 0.5)).collect();
        let volume = Volume::centred(values, 1, Grid::new([7; 3], [1.0; 3]).unwrap()).unwrap();
        let split = if item < 3 { Split::Train } else { Split::Validation };
        let (id, targets) = (format!("item-{item}"), [item as f64, 0.5, -1.0]);
        let item = Item {
            volume: Some(&volume),
            split,
            id: &id,
            targets: &targets,
            voxel_labels: if labelled { &labels } else { &[] },
            ..Item::default()
        };
        writer.push(&item).unwrap();
    }
    writer.finish().unwrap();
}

/// A disk that fills up: files can grow to a few kilobytes only, which the state of this training is above.
#[cfg(unix)]
#[test]
fn a_state_that_cannot_be_written_ends_the_training_and_goes_on_from_the_one_before() {
    let home = tempfile::tempdir().unwrap();
    let at = home.path();
    experiment(at);
    let train = ["train", "exp.toml", "--set", "training.epochs=6"];
    succeeds(at, &[&train[..], &["--out", "whole"]].concat());
    let weights = fs::read(at.join("whole/model.safetensors")).unwrap();
    let size = |file: &Path| fs::metadata(file).unwrap().len();
    let states = |out: &str| -> Vec<_> {
        let files = fs::read_dir(at.join(out).join("states")).unwrap().map(|f| f.unwrap().path());
        files.filter(|f| f.file_name().unwrap() != "lock").collect()
    };
    // Between the largest other file and the state, in units of 512 bytes.
    let state = states("whole").iter().map(|f| size(f)).max().unwrap();
    let blocks = (state - 1) / 512;
    let full = Command::new("sh")
        .args(["-c", "trap '' XFSZ; ulimit -f $1; shift; exec \"$@\"", "sh", &blocks.to_string()])
        .arg(assert_cmd::cargo::cargo_bin!("steer3d"))
        .args([&train[..], &["--out", "full"]].concat())
        .current_dir(at)
        .output()
        .unwrap();
    let errors = String::from_utf8(full.stderr).unwrap();
    assert_eq!(full.status.code(), Some(2), "{errors}");
    let line = errors.lines().find(|l| l.starts_with("steer3d: error: ")).unwrap();
    assert!(line.contains("states/step-") && line.contains("large"), "{line}");
    let left = states("full");
    assert!(left.iter().all(|f| f.extension().is_some_and(|e| e == "state")), "{left:?}");
    succeeds(at, &[&train[..], &["--out", "full", "--resume"]].concat());
    assert_eq!(fs::read(at.join("full/model.safetensors")).unwrap(), weights);
}

#[test]
fn labels_of_voxels_and_vectors_are_trained_as_the_head_is() {
    let home = tempfile::tempdir().unwrap();
    let at = home.path();
    tasks(&at.join("tasks.h5"), &["low", "high"]);
    let text = EXPERIMENT.split("make =").next().unwrap().replace("data/tetris.h5", "tasks.h5")
        + "[model]\nkind = 'steerable'\nkernel = { family = 'gaussian_jets', order = 1 }\n\
           blocks = [{ fields = '2x0+2x1', size = 3 }]\n[training]\nepochs = 2\n";
    fs::write(at.join("exp.toml"), text).unwrap();
    let train = |head: &str, out: &str| {
        succeeds(at, &["train", "exp.toml", "--set", head, "--out", out]);
        fs::read_to_string(at.join(out).join("experiment.toml")).unwrap()
    };
    let resolved = train("model.head=voxels", "voxels");
    assert!(resolved.contains("classes = 2"), "{resolved}");
    assert!(metrics(&at.join("voxels"))[1].contains("\"validation_accuracy\":0."));
    train("model.head={ field = { irreps = '1x1', pooled = true } }", "vector");
    assert!(metrics(&at.join("vector"))[1].contains("\"validation_accuracy\":null"));
    assert!(succeeds(at, &["runs", "."]).contains("vector"));
    let empty = ["--set", "model.head=voxels", "--set", "evaluation.split=test", "--out", "empty"];
    let message = refused(at, &[&["train", "exp.toml"][..], &empty].concat());
    assert!(message.contains("evaluation: ") && message.contains("no items in its test split"));
    assert!(!at.join("empty/model.safetensors").exists());
    let protocol = "evaluation={split = 'validation', protocol = {rotations = 1, angles = [], translations = [], groups = []}}";
    for (head, out) in [
        ("model.head=voxels", "voxels"),
        ("model.head={ field = { irreps = '1x1', pooled = true } }", "outputs"),
    ] {
        succeeds(
            at,
            &["train", "exp.toml", "--set", head, "--set", protocol, "--out", out, "--overwrite"],
        );
        assert!(at.join(out).join("report/report.json").exists());
        assert!(at.join(out).join("report/report.html").exists());
    }
    let run = fs::read_to_string(at.join("voxels/run.json")).unwrap();
    assert!(run.contains("\"condition\": \"random rotations\""), "{run}");
    let run = fs::read_to_string(at.join("outputs/run.json")).unwrap();
    assert!(run.contains("\"error\": "), "{run}");
    vectors_are_evaluated_turned_back(at);
    labels_are_evaluated_turned_back(at);
    networks_that_answer_with_labels_or_values_are_compared(at);
}

fn networks_that_answer_with_labels_or_values_are_compared(at: &Path) {
    for answers in ["voxels", "values"] {
        let out = format!("compared-{answers}");
        let mut args = vec!["compare", "tasks.h5", "--answers", answers, "--out", &out];
        args.extend("--models steerable,plain --seeds 1 --epochs 1 --split validation".split(' '));
        args.extend("--rotations 1 --angles 90 --translations 1".split(' '));
        let table = succeeds(at, &args);
        assert!(table.contains("steerable") && table.contains("plain"), "{table}");
        let rows = fs::read_to_string(at.join(&out).join("comparison.csv")).unwrap();
        assert_eq!(rows.lines().count(), 3);
    }
}

/// Under the cube group a steerable network's labels turn with the volume.
fn labels_are_evaluated_turned_back(at: &Path) {
    let model = "voxels/model.safetensors";
    let protocol = ["--split", "validation", "--rotations", "2", "--groups", "cube"];
    let args = [&["eval", model, model, "tasks.h5", "--out", "labels"][..], &protocol].concat();
    assert!(succeeds(at, &args).contains("of the voxels that are not low"));
    let report = fs::read_to_string(at.join("labels/report.json")).unwrap();
    let report = Report::from_json(&report).unwrap();
    let cube = Condition::Group { group: PointGroup::Cube };
    let cube = report.sections[0].models[1].sources[0].condition(cube).unwrap();
    assert!(cube.get("consistency").unwrap().value > 0.999, "{cube:?}");
    assert!(fs::read_to_string(at.join("labels/report.html")).unwrap().contains("</html>"));
    assert!(fs::read_dir(at.join("labels/figures")).unwrap().any(|figure| {
        figure.unwrap().file_name().to_string_lossy().ends_with("-per-class.png")
    }));
    let search =
        ["eval", model, "tasks.h5", "--search", "4", "--search-rounds", "1", "--out", "searched"];
    succeeds(at, &[&search[..], &protocol].concat());
    let searched = fs::read_to_string(at.join("searched/results.csv")).unwrap();
    assert!(searched.contains(",worst,,dice,"), "{searched}");
    let empty = refused(at, &["eval", model, "tasks.h5"]);
    assert!(empty.contains("no items in its test split"), "{empty}");
    tasks(&at.join("none.h5"), &[]);
    let none = succeeds(at, &[&["eval", model, "none.h5"], &protocol[..]].concat());
    assert!(none.contains("same label %") && none.contains("is not known"), "{none}");
    tasks(&at.join("three.h5"), &["low", "middle", "high"]);
    let three = refused(at, &["eval", model, "three.h5", "--split", "validation"]);
    assert!(three.contains("labels voxels with 2 classes"), "{three}");
}

/// Under the cube group a steerable network's vector turns with the volume, to rounding.
fn vectors_are_evaluated_turned_back(at: &Path) {
    let model = "vector/model.safetensors";
    let protocol = ["--split", "validation", "--rotations", "2", "--groups", "cube"];
    let args = [&["eval", model, "tasks.h5", "--out", "report"][..], &protocol].concat();
    assert!(succeeds(at, &args).contains("turned back"));
    let report = fs::read_to_string(at.join("report/report.json")).unwrap();
    let report = Report::from_json(&report).unwrap();
    let source = &report.sections[0].models[0].sources[0];
    let of =
        |condition| source.condition(condition).unwrap().get("relative_deviation").unwrap().value;
    assert_eq!(of(Condition::Unrotated), 0.0);
    let cube = of(Condition::Group { group: PointGroup::Cube });
    assert!(cube < 1e-4 && of(Condition::Random) > 1e-3, "{report:?}");
    let table = fs::read_to_string(at.join("report/results.csv")).unwrap();
    let lines = table.lines().filter(|line| line.contains(",relative_deviation,")).count();
    assert_eq!(lines, source.conditions.len());
    assert!(fs::read_to_string(at.join("report/report.html")).unwrap().contains("</html>"));
    let message = refused(
        at,
        &["eval", model, "voxels/model.safetensors", "tasks.h5", "--split", "validation"],
    );
    assert!(message.contains("evaluate them apart"), "{message}");
}

#[test]
fn several_devices_are_for_trainings_only() {
    let home = tempfile::tempdir().unwrap();
    let at = home.path();
    experiment(at);
    let two = ["train", "exp.toml", "--set", "training.epochs=2", "--device", "cpu,cpu"];
    succeeds(at, &two);
    let one = ["train", "exp.toml", "--set", "training.epochs=2", "--device", "cpu", "--resume"];
    succeeds(at, &one);
    let message = refused(at, &["runs", "runs", "--device", "cpu,cpu"]);
    assert!(message.contains("only `steer3d train`"), "{message}");
    let message = refused(at, &["train", "exp.toml", "--device", "cpu,gpu"]);
    assert!(message.contains("found 'gpu'"), "{message}");
}
