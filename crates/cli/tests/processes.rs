//! Several processes of one command, connected over TCP: what they give together, and how they end. `scripts/mpi` does the
//! same by MPI.
#![cfg(unix)]

use std::collections::BTreeMap;
use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// Starts a process for each of these lines of arguments, in a folder.
fn start(folder: &Path, lines: &[&str]) -> Vec<Child> {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let start = |(rank, line): (usize, &&str)| {
        let mut command = Command::new(assert_cmd::cargo::cargo_bin!("steer3d"));
        command.args(line.split(' ')).current_dir(folder).env("STEER3D_THREADS", "1");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.env("STEER3D_RANK_TIMEOUT", "60");
        if lines.len() > 1 {
            command.env("RANK", rank.to_string()).env("WORLD_SIZE", lines.len().to_string());
            command.env("MASTER_ADDR", "127.0.0.1").env("MASTER_PORT", port.to_string());
        }
        command.spawn().unwrap()
    };
    lines.iter().enumerate().map(start).collect()
}

fn ended(processes: Vec<Child>) -> Vec<Output> {
    processes.into_iter().map(|process| process.wait_with_output().unwrap()).collect()
}

/// What the first of `count` processes prints; the others print nothing.
fn succeed(folder: &Path, count: usize, line: &str) -> String {
    let outputs = ended(start(folder, &vec![line; count]));
    for (rank, output) in outputs.iter().enumerate() {
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{line}, rank {rank} of {count}: {errors}");
        assert!(rank == 0 || output.stdout.is_empty() && errors.is_empty(), "{errors}");
    }
    String::from_utf8(outputs[0].stdout.clone()).unwrap()
}

/// The one line with which processes are refused, all with this exit code.
fn refused(folder: &Path, code: i32, lines: &[&str]) -> String {
    told(&ended(start(folder, lines)), code)
}

fn told(outputs: &[Output], code: i32) -> String {
    let errors = outputs.iter().map(|output| String::from_utf8_lossy(&output.stderr));
    let errors: Vec<String> = errors.map(std::borrow::Cow::into_owned).collect();
    assert!(outputs.iter().all(|output| output.status.code() == Some(code)), "{errors:?}");
    let lines: Vec<&str> = errors.iter().flat_map(|text| text.lines()).collect();
    let lines: Vec<&&str> = lines.iter().filter(|line| line.contains("error: ")).collect();
    assert_eq!(lines.len(), 1, "{errors:?}");
    lines[0].to_string()
}

/// The files below a folder with their bytes.
fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() {
            found.extend(files(&path).into_iter().map(|(n, bytes)| (format!("{name}/{n}"), bytes)));
        } else {
            found.insert(name, fs::read(&path).unwrap());
        }
    }
    found
}

const IMPORT: &str = "dataset import tetris --size 9 --test-rotations 31 --out tetris.h5";

/// A folder with a dataset of 8 training items and 256 others.
fn with_data() -> tempfile::TempDir {
    let home = tempfile::tempdir().unwrap();
    succeed(home.path(), 1, IMPORT);
    home
}

fn losses(run: &Path) -> Vec<f64> {
    let text = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let of = |line: &str| -> f64 {
        serde_json::from_str::<serde_json::Value>(line).unwrap()["train_loss"].as_f64().unwrap()
    };
    text.lines().map(of).collect()
}

#[test]
fn processes_give_what_one_gives() {
    let home = with_data();
    let at = home.path();
    let train = "train tetris.h5 --epochs 2 --batch-size 5 --seed 3 --out";
    succeed(at, 1, &format!("{train} one"));
    let results = |count: usize| {
        let folder = at.join(count.to_string());
        fs::create_dir(&folder).unwrap();
        let eval = "eval ../one/model.safetensors tetris.h5 --rotations 1 --search 2 --search-rounds 1 --json --out report";
        let predict =
            "predict ../one/model.safetensors tetris.h5 --rotations 2 --features --out answers.csv";
        let lines = [IMPORT, eval, predict, "predict ../one/model.safetensors tetris.h5"];
        let printed = lines.map(|line| succeed(&folder, count, line));
        (printed, files(&folder))
    };
    let ((printed, found), (printed_by_all, found_by_all)) = (results(1), results(3));
    assert_eq!(printed_by_all, printed);
    assert_eq!(found_by_all.keys().collect::<Vec<_>>(), found.keys().collect::<Vec<_>>());
    for (name, bytes) in &found {
        assert!(found_by_all[name] == *bytes, "{name}");
    }
    // The last batch of an epoch has three items, fewer than four processes.
    let expected = losses(&at.join("one"));
    for count in [2, 4] {
        let [first, again] = ["first", "again"].map(|name| format!("{name}-{count}"));
        for name in [&first, &again] {
            succeed(at, count, &format!("{train} {name}"));
        }
        let found = losses(&at.join(&first));
        assert_eq!(found, losses(&at.join(&again)));
        let gap = |(a, b): (&f64, &f64)| ((a - b) / b).abs();
        assert!(
            found.iter().zip(&expected).map(gap).all(|gap| gap < 1e-5),
            "{found:?} {expected:?}"
        );
        let model = |name: &str| fs::read(at.join(name).join("model.safetensors")).unwrap();
        assert!(model(&first) == model(&again));
    }
}

#[test]
fn a_process_that_is_killed_or_stopped_ends_all_and_the_training_goes_on() {
    let home = with_data();
    let at = home.path();
    let line = |folder: &str| {
        format!("train tetris.h5 --epochs 60 --batch-size 4 --seed 3 --out {folder} --resume")
    };
    succeed(at, 2, &line("whole"));
    for signal in ["KILL", "TERM"] {
        let folder = at.join(signal);
        let mut processes = start(at, &[&*line(signal); 2]);
        let saved = || {
            fs::read_dir(folder.join("states")).is_ok_and(|mut files| {
                files.any(|file| file.unwrap().path().extension().is_some_and(|e| e == "state"))
            })
        };
        while !saved() {
            assert!(processes[0].try_wait().unwrap().is_none(), "ended before it was killed");
            std::thread::sleep(Duration::from_millis(5));
        }
        let id = processes[1].id().to_string();
        assert!(Command::new("kill").args(["-s", signal, &id]).status().unwrap().success());
        let begin = Instant::now();
        if signal == "KILL" {
            processes.pop().unwrap().wait().unwrap();
            let message = told(&ended(processes), 1);
            assert!(message.contains("the connection to rank 1 broke"), "{message}");
        } else {
            assert!(ended(processes).iter().all(|output| output.status.code() == Some(130)));
        }
        assert!(begin.elapsed() < Duration::from_secs(10));
        succeed(at, 2, &line(signal));
        let model = |folder: &Path| fs::read(folder.join("model.safetensors")).unwrap();
        assert!(model(&folder) == model(&at.join("whole")), "{signal}");
    }
}

#[test]
fn mistakes_are_told_once() {
    let home = with_data();
    let at = home.path();
    let all = |line: &str| refused(at, 2, &[line; 3]);
    assert!(all("train nothing.h5 --out bad").contains("nothing.h5"));
    assert!(all("train tetris.h5 --out bad --nonsense").contains("--nonsense"));
    let message = all("train tetris.h5 --out bad --batch-size 2");
    assert!(message.contains("a volume for each of the 3 ranks, found 2"), "{message}");
    let differ = ["train tetris.h5 --out bad --epochs 1", "train tetris.h5 --out bad --epochs 2"];
    let message = refused(at, 2, &differ);
    assert!(message.contains("rank 1 differs from rank 0 in the settings"), "{message}");
    let message = refused(at, 2, &["train tetris.h5 --out bad", "train other.h5 --out bad"]);
    assert!(message.contains("other.h5"), "{message}");
    let message = all("--launcher torchrun info tetris.h5");
    assert!(message.contains("found another command"), "{message}");
    assert!(!at.join("bad").exists());
}
