//! The pages of the documentation: their commands are run, what they print is compared, and their links and paths are
//! followed.
//!
//! Every page is run in an empty folder of its own, from top to bottom, with the built program in the search path:
//!
//! * a block `sh` is run. `sh skip: REASON` is not, and `sh test: A -> B; C -> D` is run with A replaced by B and C by D, so
//!   that a page can show what takes minutes. A block without a line that begins with `steer3d` needs a reason to be skipped:
//!   it builds or installs something. A block of another shell language (`bash`, `shell`) is a mistake;
//! * in a block `console` each line `$ COMMAND` is run, and the lines below it are what it must print. `console numbers` leaves
//!   numbers and the width of columns out of account;
//! * a comment `<!-- test ... -->` is a script that makes the files that a reader has. `REPOSITORY` is the repository's folder.
#![cfg(unix)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Component, Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Folders whose files the pages name.
const FOLDERS: [&str; 9] = [
    "attacks/",
    "benches/",
    "crates/",
    "data/",
    "docs/",
    "examples/",
    "fuzz/",
    "models/",
    "scripts/",
];

fn root() -> PathBuf {
    fs::canonicalize(concat!(env!("CARGO_MANIFEST_DIR"), "/../..")).unwrap()
}

/// The Markdown files below a folder.
fn markdown(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let (path, name) = (entry.path(), entry.file_name());
        let name = name.to_string_lossy();
        if entry.file_type().unwrap().is_dir() {
            if !name.starts_with('.') && name != "target" {
                markdown(&path, found);
            }
        } else if name.ends_with(".md") {
            found.push(path);
        }
    }
}

/// The README and the book.
fn pages() -> Vec<PathBuf> {
    let mut pages = vec![root().join("README.md")];
    markdown(&root().join("docs/src"), &mut pages);
    pages.sort();
    assert!(pages.len() > 20);
    pages
}

/// A part of a page that is run.
enum Part {
    Fence { info: String, text: String },
    Hidden(String),
}

/// The fences and hidden scripts of a page, with the numbers of their first lines.
fn parts(page: &str) -> Vec<(usize, Part)> {
    let mut parts = vec![];
    let mut lines = page.lines().enumerate();
    while let Some((number, line)) = lines.next() {
        let (close, info) = match line.strip_prefix("```") {
            Some(info) => ("```", Some(info.trim().to_owned())),
            None if line == "<!-- test" => ("-->", None),
            None => continue,
        };
        let inner = lines.by_ref().map(|(_, line)| line).take_while(|line| *line != close);
        let text: String = inner.map(|line| line.to_owned() + "\n").collect();
        let part = match info {
            Some(info) => Part::Fence { info, text },
            None => Part::Hidden(text),
        };
        parts.push((number + 1, part));
    }
    parts
}

/// The text of a block with the replacements A -> B; C -> D, each of which must occur.
fn replaced(text: &str, replacements: &str) -> Result<String, String> {
    let mut text = text.to_owned();
    for replacement in replacements.split("; ") {
        let Some((from, to)) = replacement.split_once(" -> ") else {
            return Err(format!("expected A -> B, found `{replacement}`"));
        };
        if !text.contains(from.trim_start()) {
            return Err(format!("the block does not contain `{from}`"));
        }
        text = text.replace(from.trim_start(), to);
    }
    Ok(text)
}

fn bash(folder: &Path, script: &str) -> Output {
    let program = assert_cmd::cargo::cargo_bin!("steer3d").parent().unwrap().to_owned();
    let path = format!("{}:{}", program.display(), std::env::var("PATH").unwrap());
    let mut bash = Command::new("bash");
    bash.args(["-euo", "pipefail", "-c", script]).current_dir(folder).env("PATH", path);
    bash.env("REPOSITORY", root()).env("STEER3D_THREADS", "1").output().unwrap()
}

/// What a script prints, or what is wrong with it.
fn run(folder: &Path, script: &str) -> Result<String, String> {
    let output = bash(folder, script);
    if !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr);
        let last: Vec<&str> = errors.lines().rev().take(3).collect();
        return Err(format!("{}: {}", output.status, last.join(" | ")));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Lines without the spaces at their ends; without numbers and the width of columns where those vary.
fn comparable(text: &str, numbers: bool) -> String {
    let mut lines: Vec<String> = text.lines().map(|line| line.trim_end().to_owned()).collect();
    if numbers {
        let masked = |line: &String| {
            let is_number = |c: char| c.is_ascii_digit() || ".,−-─═".contains(c);
            line.split(|c: char| c.is_whitespace() || is_number(c))
                .filter(|w| !w.is_empty())
                .collect::<Vec<_>>()
                .join(" ")
        };
        lines = lines.iter().map(masked).collect();
    }
    lines.join("\n").trim_end().to_owned()
}

/// Runs the commands of a block `console` and compares what they print.
fn console(folder: &Path, text: &str, numbers: bool) -> Result<(), String> {
    for part in text.split("\n$ ") {
        let part = part.strip_prefix("$ ").unwrap_or(part);
        let (command, expected) = part.split_once('\n').unwrap_or((part, ""));
        let found = run(folder, command)?;
        let [wanted, found_lines] = [expected, &found].map(|text| comparable(text, numbers));
        if wanted != found_lines {
            return Err(format!("`{command}` prints\n{found}and not\n{expected}"));
        }
    }
    Ok(())
}

fn run_part(folder: &Path, part: &Part) -> Result<(), String> {
    let (info, text) = match part {
        Part::Hidden(script) => return run(folder, script).map(drop),
        Part::Fence { info, text } => (info, text),
    };
    let (language, rest) = info.split_once(' ').unwrap_or((info, ""));
    match language {
        "console" => console(folder, text, rest == "numbers"),
        "bash" | "shell" => Err(format!("expected a block `sh`, found `{language}`")),
        "sh" => match rest.split_once(": ") {
            Some(("skip", reason)) if !reason.is_empty() => Ok(()),
            _ if !text.lines().any(|line| line.trim_start().starts_with("steer3d ")) => {
                Err("a block that does not run `steer3d`: expected `skip: REASON`".into())
            }
            None if rest.is_empty() => run(folder, text).map(drop),
            Some(("test", replacements)) => run(folder, &replaced(text, replacements)?).map(drop),
            _ => Err(format!("expected `skip: REASON` or `test: A -> B`, found `{rest}`")),
        },
        _ => Ok(()),
    }
}

/// What is wrong with the commands of a page.
fn mistakes(name: &str, page: &str) -> Vec<String> {
    let folder = tempfile::tempdir().unwrap();
    let wrong = |(line, part): (usize, Part)| {
        run_part(folder.path(), &part).err().map(|problem| format!("{name}:{line}: {problem}"))
    };
    parts(page).into_iter().filter_map(wrong).collect()
}

#[test]
fn the_commands_of_the_pages_do_what_they_say() {
    let (pages, next, found) = (pages(), AtomicUsize::new(0), Mutex::new(vec![]));
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(page) = pages.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let name = page.strip_prefix(root()).unwrap().display().to_string();
                    let wrong = mistakes(&name, &fs::read_to_string(page).unwrap());
                    found.lock().unwrap().extend(wrong);
                }
            });
        }
    });
    let found = found.into_inner().unwrap();
    assert!(found.is_empty(), "{}", found.join("\n\n"));
}

#[test]
fn wrong_commands_and_outputs_are_found() {
    let wrong = |page: &str| mistakes("page", page).join("\n");
    assert_eq!(wrong("```sh\nsteer3d info 1x0\n```\n"), "");
    assert_eq!(wrong("```sh skip: needs a GPU\nsteer3d nothing\n```\n"), "");
    assert_eq!(wrong("```sh skip: builds all\nmake demo\n```\n"), "");
    assert!(wrong("```sh\nmake demo\n```\n").contains("expected `skip: REASON`"));
    assert!(wrong("```sh skip: \nmake demo\n```\n").contains("expected `skip: REASON`"));
    assert!(wrong("```bash\nsteer3d info 1x0\n```\n").contains("expected a block `sh`"));
    assert!(
        wrong("```sh\nsteer3d info --nothing 1x0\n```\n").starts_with("page:1: exit status: 2")
    );
    assert!(wrong("```sh skip\nsteer3d info 1x0\n```\n").contains("expected `skip: REASON`"));
    assert_eq!(wrong("```sh test: nothing -> 1x0\nsteer3d info nothing\n```\n"), "");
    assert!(
        wrong("```sh test: other -> 1x0\nsteer3d info nothing\n```\n")
            .contains("does not contain `other`")
    );
    let page = "text\n<!-- test\ntouch here\n-->\n```console\n$ ls\nhere\n$ steer3d info 2x0\n2x0 of SO(3): 2 channels, 2 fields, lmax 0\n```\n";
    assert_eq!(wrong(page), "");
    assert!(wrong(&page.replace("2 fields", "3 fields")).contains("and not"));
    assert_eq!(
        wrong(&page.replace("2 fields", "3 fields").replace("console", "console numbers")),
        ""
    );
    assert!(
        wrong(&page.replace("fields", "field").replace("console", "console numbers"))
            .contains("and not")
    );
}

/// A page without what stands in code.
fn prose(page: &str) -> String {
    let mut inside = false;
    let outside = page.lines().filter(|line| {
        let fence = line.starts_with("```");
        inside ^= fence;
        !inside && !fence
    });
    let line = |line: &str| line.split('`').step_by(2).collect::<Vec<_>>().join("code") + "\n";
    outside.map(line).collect()
}

/// The anchors of the headings of a page, as GitHub and mdBook make them.
fn anchors(page: &str) -> BTreeSet<String> {
    let mut inside = false;
    let headings = page.lines().filter(|line| {
        inside ^= line.starts_with("```");
        !inside && line.starts_with('#')
    });
    let anchor = |heading: &str| {
        let text = heading.trim_start_matches('#').trim().to_lowercase();
        let kept = text.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
        kept.map(|c| if c == ' ' { '-' } else { c }).collect()
    };
    headings.map(anchor).collect()
}

/// The targets of the links and pictures of a page.
fn links(page: &str) -> Vec<String> {
    let prose = prose(page);
    let target = |rest: &str| rest.split(')').next().unwrap_or_default().to_owned();
    prose.split("](").skip(1).map(target).collect()
}

/// The path without `.` and `..`.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => drop(plain.pop()),
            Component::CurDir => {}
            part => plain.push(part),
        }
    }
    plain
}

#[test]
fn links_lead_somewhere_and_those_of_the_book_stay_in_it() {
    let (root, mut all) = (root(), vec![]);
    markdown(&root, &mut all);
    let texts: BTreeMap<PathBuf, String> =
        all.into_iter().map(|path| (path.clone(), fs::read_to_string(path).unwrap())).collect();
    let book = root.join("docs/src");
    let mut wrong = vec![];
    for (page, text) in &texts {
        for link in links(text).iter().filter(|link| !link.contains("://")) {
            let (path, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = match path {
                "" => page.clone(),
                path => plain(&page.parent().unwrap().join(path)),
            };
            let known = || texts.get(&target).is_some_and(|text| anchors(text).contains(anchor));
            if !target.exists() || (!anchor.is_empty() && !known()) {
                wrong.push(format!("{}: {link} leads nowhere", page.display()));
            } else if page.starts_with(&book) && !target.starts_with(&book) {
                wrong.push(format!(
                    "{}: {link} leads out of the book; name the path",
                    page.display()
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_page_is_in_the_table_of_contents() {
    let book = root().join("docs/src");
    let listed: BTreeSet<PathBuf> = links(&fs::read_to_string(book.join("SUMMARY.md")).unwrap())
        .iter()
        .map(|l| book.join(l))
        .collect();
    let mut found = vec![];
    markdown(&book, &mut found);
    let found = found.into_iter().filter(|path| !path.ends_with("SUMMARY.md")).collect();
    assert_eq!(listed, found);
}

#[test]
fn files_that_the_pages_name_exist() {
    let root = root();
    let mut pages = pages();
    pages.extend(
        ["ARCHITECTURE.md", "CONTRIBUTING.md", "examples/README.md", "crates/python/README.md"]
            .map(|f| root.join(f)),
    );
    let mut wrong = vec![];
    for page in pages {
        let text = fs::read_to_string(&page).unwrap();
        let words = text.split(|c: char| c.is_whitespace() || "`()[]'\"=,;|".contains(c));
        for word in words.map(|word| word.trim_end_matches(['.', ':', '/'])) {
            let named = FOLDERS.iter().any(|folder| word.starts_with(folder));
            let is_pattern = word.contains(['*', '$', '<', '{']) || word.contains("NAME");
            if named && !is_pattern && !root.join(word.split('#').next().unwrap()).exists() {
                wrong.push(format!("{}: {word}", page.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_settings_are_those_of_the_program() {
    let page = fs::read_to_string(root().join("docs/src/guide/settings.md")).unwrap();
    let found = run(&root(), "steer3d docs settings").unwrap();
    assert!(page == found, "steer3d docs settings > docs/src/guide/settings.md");
    let headings: Vec<&str> = page.lines().filter(|line| line.starts_with("## ")).collect();
    let different: BTreeSet<&str> = headings.iter().copied().collect();
    assert!(headings.len() > 15 && different.len() == headings.len(), "{headings:?}");
    let rows = [
        "| `learning_rate` | number | `0.01` | Peak learning rate. |",
        "| `optimiser` | [`training.optimiser`](#trainingoptimiser) | `\"adamw\"` |",
        "### `kind = \"cosine\"`",
        "| `noise` | 0.15 | `[0.0, 0.1]` | Normal noise",
    ];
    rows.iter().for_each(|row| assert!(page.contains(row), "{row}"));
    // Nothing of Rust's documentation is left.
    assert!(!page.contains("](crate::") && !page.contains("assert"), "{page}");
}

#[test]
fn the_picture_is_that_of_the_table() {
    run(&root(), "scripts/picture --check").unwrap();
}

#[test]
fn the_front_page_is_short() {
    let words = fs::read_to_string(root().join("README.md")).unwrap().split_whitespace().count();
    assert!(words <= 1200, "README.md has {words} words");
}
