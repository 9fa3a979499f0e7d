//! The dataset commands from the outside: build, killed builds, verify, split, export, view.

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

fn succeeds(folder: &Path, args: &str) -> String {
    let output = steer3d(folder, args);
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{args}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

/// The message of a command that must end with exit code 2 and one line of error.
fn refused(folder: &Path, args: &str) -> String {
    let output = steer3d(folder, args);
    let errors = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{args}: {errors}");
    let lines: Vec<_> = errors.lines().filter(|l| l.starts_with("steer3d: error: ")).collect();
    assert_eq!(lines.len(), 1, "{args}: {errors}");
    lines[0].to_owned()
}

/// `count` molecules in each of two classes below `tree`.
fn molecules(folder: &Path, count: usize) {
    for (c, class) in ["bent", "straight"].into_iter().enumerate() {
        fs::create_dir_all(folder.join("tree").join(class)).unwrap();
        for i in 0..count {
            let y = if c == 0 { 1.0 } else { 0.0 } + 0.001 * i as f64;
            let text = format!("3\n\nO 0 0 0\nC 1.2 {y} 0\nO 2.4 0 0\n");
            fs::write(folder.join(format!("tree/{class}/{i}.xyz")), text).unwrap();
        }
    }
}

#[test]
fn a_tree_is_built_checked_split_and_drawn() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    molecules(at, 10);
    let text = succeeds(
        at,
        "dataset build tree --out set.h5 --size 10 --voxel-size 0.8 --elements C,O --seed 3",
    );
    assert!(text.contains("20 items of 2 channels") && text.contains("checksums"), "{text}");
    assert!(succeeds(at, "dataset verify set.h5").contains("0 of 20 items are broken"));
    let text = succeeds(at, "dataset split set.h5 --fractions 0.5,0.2,0.3 --out other.h5");
    assert_eq!(text, "other.h5: 10 train, 4 validation, 6 test\n");

    assert!(refused(at, "dataset split set.h5 --by group").contains("--groups"));
    let rows: String =
        (0..10).map(|i| format!("bent/{i}.xyz,a\nstraight/{i}.xyz,b{}\n", i / 5)).collect();
    fs::write(at.join("groups.csv"), format!("id,group\n{rows}")).unwrap();
    succeeds(at, "dataset split set.h5 --by group --groups groups.csv --fractions 0.6,0,0.4");
    succeeds(at, "dataset export set.h5 --to list.csv");
    let list = fs::read_to_string(at.join("list.csv")).unwrap();
    let splits: std::collections::BTreeSet<_> = list
        .lines()
        .filter(|line| line.starts_with("bent/"))
        .map(|line| line.split(',').nth(2).unwrap())
        .collect();
    assert_eq!(splits.len(), 1, "{list}");
    fs::write(at.join("groups.csv"), "id,group\nbent/0.xyz,a\n").unwrap();
    let message = refused(at, "dataset split set.h5 --by group --groups groups.csv");
    assert!(message.contains("no group of bent/1.xyz"), "{message}");

    succeeds(at, "dataset export set.h5 --item 3 --to item.npy");
    assert!(refused(at, "dataset export set.h5 --item 20 --to item.npy").contains("below 20"));
    assert!(
        refused(at, "dataset export set.h5 --item 3 --to item.doc")
            .contains("npy, npz, mrc or nii")
    );
    assert!(refused(at, "dataset export set.h5 --to item.npy").contains("--item"));
    let text = succeeds(at, "dataset view set.h5 --item straight/4.xyz --out pictures");
    assert!(text.contains("class straight") && text.contains("isosurface"), "{text}");
    assert!(fs::read(at.join("pictures/straight_4.xyz.png")).unwrap().starts_with(b"\x89PNG"));

    let mut bytes = fs::read(at.join("set.h5")).unwrap();
    let table = succeeds(at, "dataset verify set.h5 --json");
    let json: serde_json::Value = serde_json::from_str(&table).unwrap();
    assert_eq!((json["items"].as_u64(), json["checksums"].as_bool()), (Some(20), Some(true)));
    let half = bytes.len() / 2;
    bytes[half..half + 64].fill(0xaa);
    fs::write(at.join("set.h5"), bytes).unwrap();
    let output = steer3d(at, "dataset verify set.h5");
    assert_eq!(output.status.code(), Some(2), "a damaged file");
}

#[test]
fn broken_files_and_wrong_sources_end_with_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    molecules(at, 3);
    fs::write(at.join("tree/bent/1.xyz"), "not a molecule").unwrap();
    let build = "dataset build tree --out set.h5 --size 8";
    let message = refused(at, build);
    assert!(message.contains("bent/1.xyz") && message.contains("--skip-broken"), "{message}");
    assert!(!at.join("set.h5").exists());
    assert!(refused(at, &format!("{build} --sigma 3")).contains("set.h5.partial"));
    let output = steer3d(at, &format!("{build} --skip-broken"));
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && errors.contains("left out: bent/1.xyz"), "{errors}");
    assert!(succeeds(at, "dataset inspect set.h5").contains("5 items"));

    fs::write(at.join("a.csv"), "path,class\nx,y\n").unwrap();
    fs::write(at.join("b.csv"), "path,label\nnone.xyz,y\n").unwrap();
    fs::write(at.join("c.npz"), "PK").unwrap();
    for (args, expected) in [
        ("dataset build a.csv --out x.h5", "the column `class`"),
        ("dataset build b.csv --out x.h5", "none.xyz"),
        ("dataset build c.npz --out x.h5", "dataset import"),
        ("dataset build none --out x.h5", "none"),
        ("dataset build tree --out x.h5 --fractions 0.5,0.5", "--fractions"),
        ("dataset build tree --out x.h5 --fractions 0.5,0.6,0", "sum to 1"),
        ("dataset build tree --out x.h5 --size 1,2", "--size"),
        ("dataset build tree --out x.h5 --elements Xx", "`Xx`"),
        ("dataset build tree --out w.h5 --weight charge", "no charge"),
        ("dataset build tree --out none/x.h5 --skip-broken", "none/x.h5"),
    ] {
        let message = refused(at, args);
        assert!(message.contains(expected), "{args}: {message}");
    }
}

#[test]
fn items_without_labels_are_built_and_evaluated() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    molecules(at, 10);
    let grid = "--size 8 --voxel-size 1";
    succeeds(at, &format!("dataset build tree --out set.h5 {grid}"));
    succeeds(at, "train set.h5 --model plain --epochs 1 --out run");
    fs::create_dir_all(at.join("flat/deeper")).unwrap();
    for i in 0..6 {
        let class = ["bent", "straight"][i % 2];
        let (from, to) = (format!("tree/{class}/{i}.xyz"), format!("flat/{i}.xyz"));
        fs::copy(at.join(from), at.join(to)).unwrap();
    }
    fs::copy(at.join("flat/0.xyz"), at.join("flat/deeper/6.xyz")).unwrap();
    let message = refused(at, &format!("dataset build flat --out flat.h5 {grid}"));
    assert!(message.contains("--layout flat") && message.contains("--layout tree"), "{message}");
    let text = succeeds(at, &format!("dataset build flat --layout flat --out flat.h5 {grid}"));
    assert!(text.contains("7 items") && text.contains("no labels"), "{text}");
    assert!(text.contains("all items in the test split"), "{text}");
    fs::write(at.join("list.txt"), "flat/0.xyz\nflat/5.xyz\n").unwrap();
    let text =
        succeeds(at, &format!("dataset build list.txt --out list.h5 {grid} --fractions 1,0,0"));
    assert!(text.contains("2 items") && text.contains("drawn at random item by item"), "{text}");
    fs::remove_dir_all(at.join("flat/deeper")).unwrap();
    assert!(succeeds(at, &format!("dataset build flat --out six.h5 {grid}")).contains("6 items"));

    assert!(succeeds(at, "dataset verify flat.h5").contains("0 of 7"));
    assert!(succeeds(at, "info flat.h5").contains("no labels"));
    let text = succeeds(at, "dataset view flat.h5 --item 0 --out pictures");
    assert!(text.contains("item 0, 0.xyz\n"), "{text}");
    succeeds(at, "dataset export flat.h5 --to list.csv");
    let text = succeeds(at, "dataset split flat.h5 --fractions 0.4,0,0.6 --out split.h5");
    assert_eq!(text, "split.h5: 3 train, 0 validation, 4 test\n");
    for args in ["train split.h5 --out none", "compare split.h5 --out none"] {
        let message = refused(at, args);
        assert!(message.contains("has no classes"), "{args}: {message}");
        assert!(!at.join("none").exists(), "{args}");
    }

    let eval =
        "eval run/model.safetensors flat.h5 --rotations 3 --angles 90 --translations 1 --search 4";
    let text = succeeds(at, &format!("{eval} --out report"));
    assert!(text.contains("no labels") && text.contains("consistent %"), "{text}");
    assert!(!text.contains("accuracy") && !text.contains("AUC"), "{text}");
    let json = fs::read_to_string(at.join("report/report.json")).unwrap();
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    let model = &json["sections"][0]["models"][0];
    assert_eq!(model["class_names"], serde_json::json!(["bent", "straight"]));
    let random = &model["sources"][0]["conditions"][1];
    let names: Vec<&str> =
        random["measures"].as_array().unwrap().iter().filter_map(|m| m["name"].as_str()).collect();
    assert!(names.contains(&"consistency") && !names.contains(&"accuracy"), "{names:?}");
    assert!(random.get("confusion").is_none());
    for name in ["report.html", "results.csv", "predictions.csv"] {
        assert!(at.join("report").join(name).is_file(), "{name}");
    }
    let diff = succeeds(at, "report diff report/report.json report/report.json");
    assert!(diff.contains("agreement") && !diff.contains('*'), "{diff}");

    for (args, expected) in [
        ("eval run/model.safetensors flat.h5 --split train", "no items in its train split"),
        ("eval flat.h5 --command cat", "--class-names"),
        ("eval run/model.safetensors set.h5 --class-names a,b", "--class-names"),
        ("eval run/model.safetensors flat.h5 --command cat --answers voxels", "apart"),
        ("dataset build list.txt --layout tree --out x.h5", "expected a folder"),
        ("dataset build none.txt --out x.h5", "none.txt"),
        ("dataset build report/figures --layout flat --out x.h5", "files of a known format"),
    ] {
        let message = refused(at, args);
        assert!(message.contains(expected), "{args}: {message}");
    }
    succeeds(at, "eval flat.h5 --export volumes --rotations 1 --angles 90 --translations 1");
}

#[test]
fn a_killed_build_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    molecules(at, 200);
    let build = |out: &str| format!("dataset build tree --out {out} --size 44 --quiet");
    let start = || {
        Command::new(assert_cmd::cargo::cargo_bin!("steer3d"))
            .args(build("set.h5").split_whitespace())
            .current_dir(at)
            .stdout(Stdio::null())
            .spawn()
            .unwrap()
    };
    let mut child = start();
    let clock = Instant::now();
    while !at.join("set.h5.partial/000000.json").exists() {
        assert!(clock.elapsed() < Duration::from_secs(120), "no batch was written");
        assert!(child.try_wait().unwrap().is_none(), "the build ended by itself");
        std::thread::sleep(Duration::from_millis(2));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!at.join("set.h5").exists());
    let output = steer3d(at, &build("set.h5").replace("--quiet", ""));
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{errors}");
    assert!(errors.contains("items were there from the build before"), "{errors}");
    assert!(!at.join("set.h5.partial").exists());
    succeeds(at, &build("whole.h5"));
    succeeds(at, "dataset export set.h5 --to set.csv");
    succeeds(at, "dataset export whole.h5 --to whole.csv");
    let list = |name: &str| fs::read_to_string(at.join(name)).unwrap();
    assert_eq!(list("set.csv"), list("whole.csv"), "the same items and checksums");
    assert!(succeeds(at, "dataset verify set.h5").contains("0 of 400"));
}
