//! Writes the licences of every crate in the program, with their texts, as Markdown to standard output.
//!
//! ```sh
//! cargo run -p steer3d-cli --example notices                      # the program for this platform
//! cargo run -p steer3d-cli --example notices -- --features onnx   # with other features
//! ```

#![allow(clippy::print_stdout, reason = "the text is the output")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

/// How the names of files with a licence begin, in capitals.
const NAMES: [&str; 5] = ["LICEN", "COPYING", "NOTICE", "UNLICENSE", "COPYRIGHT"];

/// What `cargo metadata` tells.
#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    resolve: Resolve,
}

#[derive(Deserialize)]
struct Package {
    id: String,
    name: String,
    version: String,
    license: Option<String>,
    repository: Option<String>,
    source: Option<String>,
    manifest_path: PathBuf,
}

#[derive(Deserialize)]
struct Resolve {
    nodes: Vec<Node>,
}

#[derive(Deserialize)]
struct Node {
    id: String,
    deps: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    pkg: String,
    dep_kinds: Vec<Kind>,
}

/// `None` is what a program is linked with; others are for builds and tests.
#[derive(Deserialize)]
struct Kind {
    kind: Option<String>,
}

fn main() -> Result<()> {
    let metadata = metadata()?;
    let linked = linked(&metadata.resolve)?;
    let mut packages: Vec<&Package> =
        metadata.packages.iter().filter(|p| p.source.is_some() && linked.contains(&p.id)).collect();
    packages.sort_by_key(|p| (&p.name, &p.version));
    println!("# Third-party software in steer3d\n");
    println!(
        "The program contains the standard library of Rust (MIT OR Apache-2.0) and these crates."
    );
    println!("The texts of their licences follow, each once.\n");
    let mut texts: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for package in packages {
        let name = format!("{} {}", package.name, package.version);
        let licence = package.license.as_deref().unwrap_or("as its text says");
        println!("- {name}: {licence} ({})", package.repository.as_deref().unwrap_or("crates.io"));
        let folder = package.manifest_path.parent().context("a manifest in no folder")?;
        let found = licences(folder, 2)?;
        if found.is_empty() && package.license.is_none() {
            bail!("{name}: no licence and no file of one in {}", folder.display());
        }
        for text in found {
            texts.entry(text).or_default().push(name.clone());
        }
    }
    for (text, names) in texts {
        println!("\n## {}\n\n```text\n{}\n```", names.join(", "), text.trim_end());
    }
    Ok(())
}

fn metadata() -> Result<Metadata> {
    let version = Command::new("rustc").arg("-vV").output().context("rustc")?;
    let version = String::from_utf8(version.stdout)?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: ")).context("no host")?;
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--locked", "--manifest-path", manifest])
        .args(["--filter-platform", host])
        .args(std::env::args().skip(1))
        .output()
        .context("cargo")?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// The packages that the program is linked with.
fn linked(resolve: &Resolve) -> Result<BTreeSet<String>> {
    let nodes: BTreeMap<&str, &Node> = resolve.nodes.iter().map(|n| (n.id.as_str(), n)).collect();
    let program = |id: &&str| id.contains("steer3d-cli");
    let mut waiting: Vec<&str> = nodes.keys().copied().filter(program).collect();
    ensure!(waiting.len() == 1, "expected one package of the program, found {}", waiting.len());
    let mut found = BTreeSet::new();
    while let Some(id) = waiting.pop() {
        if !found.insert(id.to_owned()) {
            continue;
        }
        let node = nodes.get(id).with_context(|| format!("no package {id}"))?;
        let linked = |d: &&Dependency| d.dep_kinds.iter().any(|kind| kind.kind.is_none());
        waiting.extend(node.deps.iter().filter(linked).map(|d| d.pkg.as_str()));
    }
    Ok(found)
}

/// The texts of the licences in a folder, and in those below it so many times: sources in C bring their own.
fn licences(folder: &Path, depth: usize) -> Result<BTreeSet<String>> {
    let mut texts = BTreeSet::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().to_uppercase();
        if entry.file_type()?.is_dir() {
            if depth > 0 {
                texts.extend(licences(&entry.path(), depth - 1)?);
            }
        } else if NAMES.iter().any(|known| name.starts_with(known)) {
            texts.insert(String::from_utf8_lossy(&fs::read(entry.path())?).replace("\r\n", "\n"));
        }
    }
    Ok(texts)
}
