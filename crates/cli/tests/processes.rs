//! Several processes of one command, connected over TCP: what they give together, and how they end. `scripts/mpi` does the
//! same by MPI.
#![cfg(unix)]

use std::collections::BTreeMap;
use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use steer3d::ranks::{Launch, Launcher, Master, World};

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// The process of rank `rank` of `size`, which meets the others at a port.
fn process(folder: &Path, line: &str, [rank, size]: [usize; 2], port: u16) -> Command {
    let mut command = Command::new(assert_cmd::cargo::cargo_bin!("steer3d"));
    command.args(line.split(' ')).current_dir(folder).env("STEER3D_THREADS", "1");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.env("STEER3D_RANK_TIMEOUT", "60");
    if size > 1 {
        command.env("RANK", rank.to_string()).env("WORLD_SIZE", size.to_string());
        command.env("MASTER_ADDR", "127.0.0.1").env("MASTER_PORT", port.to_string());
    }
    command
}

/// Starts a process for each of these folders and lines of arguments.
fn start_in(each: &[(&Path, &str)]) -> Vec<Child> {
    let port = free_port();
    let start = |(rank, (folder, line)): (usize, &(&Path, &str))| {
        process(folder, line, [rank, each.len()], port).spawn().unwrap()
    };
    each.iter().enumerate().map(start).collect()
}

/// Starts a process for each of these lines of arguments, in a folder.
fn start(folder: &Path, lines: &[&str]) -> Vec<Child> {
    start_in(&lines.iter().map(|line| (folder, *line)).collect::<Vec<_>>())
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
    let mut lines = all_told(outputs, code);
    assert_eq!(lines.len(), 1, "{lines:?}");
    lines.remove(0)
}

/// All lines with which processes are refused.
fn all_told(outputs: &[Output], code: i32) -> Vec<String> {
    let errors = outputs.iter().map(|output| String::from_utf8_lossy(&output.stderr));
    let errors: Vec<String> = errors.map(std::borrow::Cow::into_owned).collect();
    assert!(outputs.iter().all(|output| output.status.code() == Some(code)), "{errors:?}");
    let lines = errors.iter().flat_map(|text| text.lines());
    lines.filter(|line| line.contains("error: ")).map(str::to_owned).collect()
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
    assert!(all("train nothing.h5 --out bad").contains(" of 3: nothing.h5"));
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

#[test]
fn what_the_ranks_do_not_share_is_told() {
    let home = with_data();
    let at = home.path();
    let compare = "compare tetris.h5 --models plain --seeds 1 --epochs 1 --out";
    let [a, b] = ["a", "b"].map(|name| format!("{compare} {name}"));
    let message = refused(at, 2, &[&a, &b]);
    assert!(message.contains("rank 1 of 2: b: rank 1 does not find"), "{message}");
    let folders = ["a", "b"].map(|name| at.join(name));
    for (folder, last) in folders.iter().zip(["C 1 0 0", "C 1 0 0.5"]) {
        fs::create_dir(folder.join("files")).unwrap();
        fs::write(folder.join("files/1.xyz"), "1\n\nC 0 0 0\n").unwrap();
        fs::write(folder.join("files/2.xyz"), format!("1\n\n{last}\n")).unwrap();
    }
    let refused = |line: &str| told(&ended(start_in(&folders.each_ref().map(|f| (&**f, line)))), 2);
    let message = refused("dataset build files --size 8 --out files.h5");
    assert!(message.contains("rank 1 differs from rank 0 in the sizes of the files"), "{message}");
    let message = refused("predict cath-class files/1.xyz files/2.xyz");
    assert!(message.contains("rank 1 differs from rank 0 in the sizes of the inputs"), "{message}");
}

#[test]
fn processes_that_do_not_meet_say_why() {
    let home = tempfile::tempdir().unwrap();
    let rank = |rank: [usize; 2], port: u16| process(home.path(), "predict --list", rank, port);
    let told = |mut commands: Vec<Command>| {
        let start = |command: &mut Command| command.env("STEER3D_RANK_TIMEOUT", "2").spawn();
        all_told(&ended(commands.iter_mut().map(|c| start(c).unwrap()).collect()), 2)
    };
    let both = |port: u16| vec![rank([0, 2], port), rank([1, 2], port)];
    // Another program has the port.
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let lines = told(both(other.local_addr().unwrap().port()));
    assert!(lines[0].contains("rank 0 of 2: MASTER_ADDR 127.0.0.1, MASTER_PORT"), "{lines:?}");
    assert!(lines[1].contains("rank 1 of 2: ") && lines[1].contains("not rank 0"), "{lines:?}");
    // One of them has another port.
    let lines = told(vec![rank([0, 2], free_port()), rank([1, 2], free_port())]);
    assert!(lines[0].contains("expected rank 1 of 2 at rank 0 within 2 s"), "{lines:?}");
    assert!(lines[1].contains("expected an answer of rank 0 there within 2 s"), "{lines:?}");
    // Mistakes of all.
    let mut commands = both(1);
    for command in &mut commands {
        command.env("MASTER_PORT", "70000");
    }
    let lines = told(commands);
    assert!(lines.len() == 1 && lines[0].contains("expected a port"), "{lines:?}");
}

#[test]
fn two_processes_of_one_rank_are_told() {
    let home = tempfile::tempdir().unwrap();
    let port = free_port();
    let start = |rank| process(home.path(), "predict --list", [rank, 3], port).spawn().unwrap();
    let message = told(&ended([0, 1, 1].map(start).into()), 2);
    assert!(message.contains("rank 0 of 3: RANK: expected one process of rank 1"), "{message}");
}

#[test]
fn a_rank_that_ends_before_the_last_meeting_is_told() {
    let home = tempfile::tempdir().unwrap();
    let (port, size) = (free_port(), 2);
    let first = process(home.path(), "predict --list", [0, size], port).spawn().unwrap();
    let master = Some(Master { address: "127.0.0.1".into(), port });
    let launch = Launch { rank: 1, local_rank: 1, size, launcher: Launcher::Torchrun, master };
    let world = World::connect(&launch, Duration::from_secs(60)).unwrap();
    // The ranks compare their devices, then nothing is shared.
    world.rank.gather(vec![1]).unwrap();
    drop(world);
    let message = told(&ended(vec![first]), 1);
    assert!(message.contains("rank 0 of 2: the connection to rank 1 broke"), "{message}");
}

#[test]
fn help_and_mistakes_of_a_process_alone_do_not_wait_for_others() {
    let home = tempfile::tempdir().unwrap();
    let begin = Instant::now();
    let run = |line: &str, launcher: &str| {
        let mut command = process(home.path(), line, [0, 2], free_port());
        command.env("STEER3D_LAUNCHER", launcher).output().unwrap()
    };
    for line in ["--version", "train --help"] {
        assert!(run(line, "auto").status.success(), "{line}");
    }
    for (line, launcher) in [
        ("train --nonsense --launcher none", "auto"),
        ("train --launcher=none --nonsense", "auto"),
        ("train --nonsense", "none"),
    ] {
        assert!(told(&[run(line, launcher)], 2).contains("--nonsense"), "{line}");
    }
    assert!(begin.elapsed() < Duration::from_secs(15));
}
