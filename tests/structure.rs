//! The shape of the workspace: crates depend on lighter ones only, and no files of a crate use each other in a circle.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use toml::Table;

/// The crates from the lightest to the heaviest, as ARCHITECTURE.md lists them.
const ORDER: [&str; 17] = [
    "steer3d-files",
    "steer3d-ranks",
    "steer3d-so3",
    "steer3d-kernels",
    "steer3d-ops",
    "steer3d-nn",
    "steer3d-volume",
    "steer3d-formats",
    "steer3d-dataset",
    "steer3d-train",
    "steer3d-eval",
    "steer3d-predict",
    "steer3d-report",
    "steer3d-experiments",
    "steer3d",
    "steer3d-cli",
    "steer3d-python",
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn folder(name: &str) -> PathBuf {
    match name.strip_prefix("steer3d-") {
        Some(short) => root().join("crates").join(short),
        None => root().to_owned(),
    }
}

/// The names in a crate's table of dependencies.
fn dependencies(name: &str) -> BTreeSet<String> {
    let text = fs::read_to_string(folder(name).join("Cargo.toml")).unwrap();
    let manifest: Table = text.parse().unwrap();
    manifest["dependencies"].as_table().unwrap().keys().cloned().collect()
}

/// The files of a crate, each under the path of its module: `[]` for the root, `["a", "b"]` for `a/b.rs`.
fn modules(source: &Path) -> BTreeMap<Vec<String>, PathBuf> {
    let mut found = BTreeMap::new();
    let mut folders = vec![(source.to_owned(), vec![])];
    while let Some((folder, module)) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let stem = path.file_stem().unwrap().to_string_lossy().into_owned();
            let below = [module.clone(), vec![stem.clone()]].concat();
            if path.is_dir() {
                folders.push((path, below));
            } else if path.extension().is_some_and(|e| e == "rs") {
                let root = ["lib", "main", "mod"].contains(&stem.as_str());
                found.insert(if root { module.clone() } else { below }, path);
            }
        }
    }
    found
}

/// A file without its comments, its texts and the tests at its end.
fn code(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap();
    let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
    let line = |line: &str| line.split("//").next().unwrap_or_default().to_owned() + "\n";
    without_texts(&text.replace("'\"'", "' '").lines().map(line).collect::<String>())
}

fn without_texts(code: &str) -> String {
    let (mut kept, mut inside, mut escaped) = (String::new(), false, false);
    for c in code.chars() {
        match c {
            '"' if !escaped => inside = !inside,
            _ if !inside => kept.push(c),
            _ => {}
        }
        escaped = inside && c == '\\' && !escaped;
    }
    kept
}

/// The paths of a tree of imports, such as `a::{b, c::{self, d}}`.
fn flattened(tree: &str, before: &[String], found: &mut Vec<Vec<String>>) {
    let tree = tree.trim();
    if let Some((path, rest)) = tree.split_once('{') {
        let path = path.trim_end_matches("::").split("::").map(str::trim).filter(|s| !s.is_empty());
        let before = [before.to_vec(), path.map(str::to_owned).collect()].concat();
        let (mut depth, mut start) = (0, 0);
        let inner = rest.strip_suffix('}').unwrap_or(rest);
        for (i, c) in inner.char_indices().chain([(inner.len(), ',')]) {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                ',' if depth == 0 => {
                    flattened(&inner[start..i], &before, found);
                    start = i + 1;
                }
                _ => {}
            }
        }
    } else if !tree.is_empty() {
        let path = tree.split(" as ").next().unwrap().split("::").map(|s| s.trim().to_owned());
        found.push([before.to_vec(), path.filter(|s| s != "self").collect()].concat());
    }
}

/// What a file imports: its `use` lines, or those that hand names on if `public`.
fn imports(code: &str, public: bool) -> Vec<Vec<String>> {
    let mut found = vec![];
    for statement in code.split(';') {
        let Some((before, tree)) = statement.rsplit_once("use ") else { continue };
        let word = before.rsplit('\n').next().unwrap_or_default().trim();
        let hands_on = word.starts_with("pub");
        if (word.is_empty() || hands_on) && hands_on == public {
            flattened(tree, &[], &mut found);
        }
    }
    found
}

/// The paths below `crate::` and `super::` that the code names outside of imports.
fn named(code: &str) -> Vec<Vec<String>> {
    let mut found = vec![];
    for start in ["crate::", "super::"] {
        for (place, _) in code.match_indices(start) {
            let rest = &code[place..];
            let end = rest.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':'));
            let path = rest[..end.unwrap_or(rest.len())].trim_end_matches(':');
            found.push(path.split("::").map(str::to_owned).collect());
        }
    }
    found
}

struct Crate {
    files: BTreeMap<Vec<String>, PathBuf>,
    code: BTreeMap<Vec<String>, String>,
}

impl Crate {
    fn read(name: &str) -> Self {
        let files = modules(&folder(name).join("src"));
        let code = files.iter().map(|(module, path)| (module.clone(), code(path))).collect();
        Self { files, code }
    }

    /// The path from the crate's root that `path` means in a file, if it means one of this crate.
    fn absolute(&self, module: &[String], path: &[String]) -> Option<Vec<String>> {
        let (first, rest) = path.split_first()?;
        match first.as_str() {
            "crate" => Some(rest.to_vec()),
            "super" => {
                let parent = module.split_last()?.1.to_vec();
                match rest.first().map(String::as_str) {
                    Some("super") => self.absolute(&parent, rest),
                    _ => Some([parent, rest.to_vec()].concat()),
                }
            }
            _ => {
                let below = [module.to_vec(), vec![first.clone()]].concat();
                self.files.contains_key(&below).then(|| [module, path].concat())
            }
        }
    }

    /// The module whose file defines what an absolute path names.
    fn defining(&self, path: &[String]) -> Vec<String> {
        let mut path = path.to_vec();
        loop {
            let module = (0..=path.len()).rev().map(|n| &path[..n]);
            let module = module.into_iter().find(|m| self.files.contains_key(*m)).unwrap().to_vec();
            let Some(item) = path.get(module.len()) else { return module };
            let handed_on = imports(&self.code[&module], true).into_iter().find_map(|import| {
                let last = import.last()? == item;
                let import = self.absolute(&module, &import)?;
                (last && import != path).then_some(import)
            });
            match handed_on {
                Some(import) => path = import,
                None => return module,
            }
        }
    }

    /// The files that each file uses.
    fn arrows(&self) -> BTreeMap<Vec<String>, BTreeSet<Vec<String>>> {
        let of = |(module, code): (&Vec<String>, &String)| {
            let paths = imports(code, false).into_iter().chain(named(code));
            let used = paths.filter_map(|path| Some(self.defining(&self.absolute(module, &path)?)));
            (module.clone(), used.filter(|used| used != module).collect())
        };
        self.code.iter().map(of).collect()
    }
}

/// The circles: what is left when files that use no other file, or that no other file uses, are taken away again
/// and again.
fn circles(mut arrows: BTreeMap<Vec<String>, BTreeSet<Vec<String>>>) -> Vec<String> {
    loop {
        let before = arrows.len();
        let left: BTreeSet<_> = arrows.keys().cloned().collect();
        arrows.values_mut().for_each(|used| used.retain(|u| left.contains(u)));
        arrows.retain(|_, used| !used.is_empty());
        let used: BTreeSet<_> = arrows.values().flatten().cloned().collect();
        arrows.retain(|file, _| used.contains(file));
        if arrows.len() == before {
            let name = |module: &Vec<String>| format!("/{}", module.join("/"));
            let line = |(file, used): (&Vec<String>, &BTreeSet<Vec<String>>)| {
                format!(
                    "{} uses {}",
                    name(file),
                    used.iter().map(name).collect::<Vec<_>>().join(", ")
                )
            };
            return arrows.iter().map(line).collect();
        }
    }
}

#[test]
fn crates_depend_on_lighter_ones() {
    let folders = fs::read_dir(root().join("crates")).unwrap().count();
    assert_eq!(folders + 1, ORDER.len(), "crates that are not in the order");
    for (place, name) in ORDER.iter().enumerate() {
        for dependency in dependencies(name).iter().filter(|d| d.starts_with("steer3d")) {
            let lighter = ORDER[..place].contains(&dependency.as_str());
            assert!(lighter, "{name} depends on {dependency}, which is not lighter");
        }
    }
}

#[test]
fn layers_and_readers_need_no_hdf5() {
    for name in ["steer3d-nn", "steer3d-formats"] {
        let mut all = dependencies(name);
        for lighter in ORDER.iter().rev().filter(|n| ***n != *name) {
            if all.contains(*lighter) {
                all.extend(dependencies(lighter));
            }
        }
        assert!(!all.contains("hdf5"), "{name} needs HDF5");
    }
}

#[test]
fn no_files_use_each_other_in_a_circle() {
    let of = |name: &&str| {
        let circles = circles(Crate::read(name).arrows());
        (!circles.is_empty()).then(|| format!("{name}:\n{}", circles.join("\n")))
    };
    let found: Vec<String> = ORDER.iter().filter_map(of).collect();
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn a_circle_is_found() {
    let one = |from: &str, to: &str| (vec![from.to_owned()], BTreeSet::from([vec![to.to_owned()]]));
    assert_eq!(circles(BTreeMap::from([one("a", "b"), one("b", "c")])).len(), 0);
    let found = circles(BTreeMap::from([one("a", "b"), one("b", "a"), one("c", "a")]));
    assert_eq!(found, ["/a uses /b", "/b uses /a"]);
    let code = without_texts(
        "let a = \"\\\"use x::y;\";\nuse crate::a::{self, b::{C, d as e}};\npub use f::G;\n",
    );
    let code = code.as_str();
    let paths = [["crate", "a"].as_slice(), &["crate", "a", "b", "C"], &["crate", "a", "b", "d"]];
    assert_eq!(
        imports(code, false),
        paths.map(|p| p.iter().map(ToString::to_string).collect::<Vec<_>>())
    );
    assert_eq!(imports(code, true), [["f", "G"]]);
}
