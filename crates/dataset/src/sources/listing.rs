//! Which files a dataset is made of: a tree of folders, a table of paths and labels, or files without labels.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use steer3d_files::{AtPath, hex};
use steer3d_formats::{FileContents, Format, Nan, Several};

use crate::columns::MAX_ID_BYTES;
use crate::meta::Split;
use crate::source::{BuildError, Entry, ItemError, made_with_room, read};
use crate::split::{Fractions, group_splits, random_splits};

/// Deepest folder of a tree.
const MAX_DEPTH: usize = 16;

/// The files of a dataset in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// The folder, table or list.
    pub place: PathBuf,
    /// Names of the classes; empty for items without labels.
    pub class_names: Vec<String>,
    /// The files.
    pub entries: Vec<Entry>,
    /// Whether every entry has a split of its own.
    pub has_splits: bool,
    /// Files of the folders that are of no known format.
    pub ignored: Vec<PathBuf>,
}

impl Listing {
    /// Reads a folder: a [tree](Self::of_tree) of classes if it has folders only, beside files of no known format;
    /// [files without labels](Self::of_files) if it has files of known formats and no folders.
    ///
    /// # Errors
    /// If it has both or neither, and as these.
    pub fn of_folder(root: &Path) -> Result<Self, BuildError> {
        let (folders, files): (Vec<_>, Vec<_>) =
            children(root)?.into_iter().partition(|child| child.is_dir());
        let known = files.iter().find(|file| Format::detect(&[], file).is_some());
        match (folders.first(), known) {
            (None, None) => {
                Err(fault(root, "files of a known format or a folder for each class", "neither"))
            }
            (None, Some(_)) => Self::of_files(root, &[root.to_owned()]),
            (Some(_), None) => Self::of_tree(root),
            (Some(folder), Some(file)) => {
                let found = format!(
                    "both, such as {} and {}; `--layout flat` takes all files without classes, `--layout tree` those \
                     of the folders",
                    name_of(file)?,
                    name_of(folder)?
                );
                Err(fault(root, "files alone or a folder for each class", found))
            }
        }
    }

    /// Lists items without labels. Each input is a file, taken whatever its name, or a folder that is searched with all
    /// its folders; hidden files are left out there, and so are files whose names are of no known format. No file is
    /// read. The items are in the order of the inputs, those of a folder in order of path.
    ///
    /// The source of an item is its path below the one input, if that is a folder, else its path as given. `place`
    /// names the inputs in errors.
    ///
    /// # Errors
    /// If a folder cannot be read, there is no file, or a path is not UTF-8 or comes twice.
    pub fn of_files(place: &Path, inputs: &[PathBuf]) -> Result<Self, BuildError> {
        Self::of_inputs(place, Path::new(""), inputs)
    }

    /// Reads a list of items without labels, a path in each line, as [`of_files`](Self::of_files) takes it; paths are
    /// relative to the folder of the list. Empty lines are left out.
    ///
    /// # Errors
    /// If the list cannot be read or is not UTF-8, and as [`of_files`](Self::of_files).
    pub fn of_list(list: &Path) -> Result<Self, BuildError> {
        let lines = BufReader::new(steer3d_files::open(list).at_path(list)?);
        Self::of_lines(list, lines)
    }

    /// The same from the lines of a list at `place`, which need not be a file.
    ///
    /// # Errors
    /// As [`of_list`](Self::of_list).
    pub fn of_lines(place: &Path, lines: impl BufRead) -> Result<Self, BuildError> {
        let mut inputs = vec![];
        for (line, text) in lines.lines().enumerate() {
            let text = text.map_err(|e| {
                fault(place, "a path in each line", format!("{e} in line {}", line + 1))
            })?;
            if !text.trim().is_empty() {
                inputs.push(PathBuf::from(text.trim()));
            }
        }
        Self::of_inputs(place, place.parent().unwrap_or(Path::new("")), &inputs)
    }

    /// The files of inputs that are relative to a folder.
    fn of_inputs(place: &Path, folder: &Path, inputs: &[PathBuf]) -> Result<Self, BuildError> {
        let (mut rows, mut ignored) = (vec![], vec![]);
        for input in inputs {
            let path = folder.join(input);
            if !path.is_dir() {
                rows.push(Row { source: input.clone(), path, ..Row::default() });
                continue;
            }
            let given = if inputs.len() == 1 { Path::new("") } else { input };
            walk(&path, None, 0, &mut |file, _| match Format::detect(&[], &file) {
                Some(_) => {
                    let source = given.join(file.strip_prefix(&path).unwrap_or(&file));
                    rows.push(Row { source, path: file, ..Row::default() });
                }
                None => ignored.push(file),
            })?;
        }
        if rows.is_empty() {
            let expected =
                if inputs.is_empty() { "at least one file" } else { "files of a known format" };
            return Err(fault(place, expected, "none"));
        }
        let listing = Self::of_rows(place, &rows, vec![])?;
        Ok(Self { ignored, ..listing })
    }

    /// Reads a folder with a folder for each class. The files of a class lie in its folder or in
    /// folders `train`, `validation` (`val`, `valid`) and `test` there, or the tree begins with
    /// these: `class/*`, `class/train/*` (as ModelNet) or `train/class/*`. Deeper folders are
    /// searched too. Hidden files are left out, and so are files whose names are of no known
    /// format.
    ///
    /// Classes are in order of name (of number where all are numbers), files in order of path.
    ///
    /// # Errors
    /// If a folder cannot be read, a class has no files, a name is not UTF-8, or only some files
    /// have a split.
    pub fn of_tree(root: &Path) -> Result<Self, BuildError> {
        let mut files = Vec::new();
        let mut folders = children(root)?;
        folders.retain(|child| child.is_dir());
        if folders.is_empty() {
            return Err(fault(root, "a folder for each class", "no folders"));
        }
        let names = folders.iter().map(|folder| name_of(folder)).collect::<Result<Vec<_>, _>>()?;
        let splits_first = names.iter().all(|name| split_of(name).is_some());
        let mut ignored = Vec::new();
        let mut classes = BTreeSet::new();
        for (folder, name) in folders.iter().zip(names) {
            let (split, classes_here) = match split_of(&name) {
                Some(split) if splits_first => {
                    let mut inner = children(folder)?;
                    inner.retain(|child| child.is_dir());
                    (Some(split), inner)
                }
                _ => (None, vec![folder.clone()]),
            };
            for class_folder in classes_here {
                let class = name_of(&class_folder)?;
                let before = files.len();
                walk(
                    &class_folder,
                    split,
                    0,
                    &mut |path, split| match Format::detect(&[], &path) {
                        Some(_) => files.push((path, class.clone(), split)),
                        None => ignored.push(path),
                    },
                )?;
                if files.len() == before {
                    return Err(fault(&class_folder, "files of a known format", "none"));
                }
                classes.insert(class);
            }
        }
        let rows = files.into_iter().map(|(path, class, split)| {
            let source = path.strip_prefix(root).unwrap_or(&path).to_owned();
            Row { source, path, class: Some(class), split, ..Row::default() }
        });
        let listing = Self::of_rows(root, &rows.collect::<Vec<_>>(), in_order(classes))?;
        Ok(Self { ignored, ..listing })
    }

    /// Reads a table (CSV) with a header and the column `path`, and if present `label`, `mask` (the file with the labels of
    /// the voxels of an item), `split` (train, validation, test), `group` and `id`. Paths are relative to the folder of the
    /// table; classes are in order of name (of number where all are numbers). Without the column `label` the items have no
    /// labels.
    ///
    /// # Errors
    /// If the table cannot be read, lacks a column, has another one, or holds a path twice.
    pub fn of_table(table: &Path) -> Result<Self, BuildError> {
        let csv = |source| BuildError::Csv { path: table.to_owned(), source };
        let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_path(table);
        let reader =
            reader.as_mut().map_err(|e| fault(table, "a readable table", e.to_string()))?;
        let columns = reader.headers().map_err(csv)?.clone();
        let known = ["path", "label", "mask", "split", "group", "id"];
        let at = |name: &str| columns.iter().position(|column| column == name);
        let header = columns.iter().collect::<Vec<_>>().join(",");
        let (Some(path), label) = (at("path"), at("label")) else {
            let expected = "a header with path and label (and mask, split, group, id)";
            return Err(fault(table, expected, format!("`{header}`")));
        };
        if let Some(other) = columns.iter().find(|column| !known.contains(column)) {
            return Err(fault(table, known.join(", "), format!("the column `{other}`")));
        }
        let folder = table.parent().unwrap_or(Path::new(""));
        let (mut rows, mut lines) = (Vec::new(), HashMap::new());
        for record in reader.records() {
            let record = record.map_err(csv)?;
            let line = record.position().map_or(0, csv::Position::line);
            let text = |column: Option<usize>| column.map_or("", |column| &record[column]);
            let place = |found: String, expected: &str| {
                fault(table, expected, format!("{found} in line {line}"))
            };
            if record[path].is_empty() || label.is_some_and(|label| record[label].is_empty()) {
                let expected = match label {
                    Some(_) => "a path and a label in every row",
                    None => "a path in every row",
                };
                return Err(place("an empty one".to_owned(), expected));
            }
            if let Some(before) = lines.insert(record[path].to_owned(), line) {
                let found = format!("`{}` of line {before} again", &record[path]);
                return Err(place(found, "every path once"));
            }
            if at("mask").is_some_and(|mask| record[mask].is_empty()) {
                return Err(place("an empty one".to_owned(), "a mask in every row"));
            }
            let split = match text(at("split")) {
                "" => None,
                name => Some(split_of(name).ok_or_else(|| {
                    place(format!("the split `{name}`"), "train, validation or test")
                })?),
            };
            rows.push(Row {
                path: folder.join(&record[path]),
                source: PathBuf::from(&record[path]),
                class: label.map(|label| record[label].to_owned()),
                mask: at("mask").map(|mask| folder.join(&record[mask])),
                split,
                group: text(at("group")).to_owned(),
                id: Some(text(at("id")).to_owned()).filter(|id| !id.is_empty()),
            });
        }
        let classes = rows.iter().filter_map(|row| row.class.clone()).collect();
        Self::of_rows(table, &rows, in_order(classes))
    }

    fn of_rows(place: &Path, rows: &[Row], classes: Vec<String>) -> Result<Self, BuildError> {
        if rows.is_empty() {
            return Err(fault(place, "at least one item", "none"));
        }
        let given = rows.iter().filter(|row| row.split.is_some()).count();
        if given != 0 && given != rows.len() {
            let found = format!("one for {given} of {}", rows.len());
            return Err(fault(place, "a split for every item or for none", found));
        }
        let labels: HashMap<_, _> = classes.iter().zip(0..).collect();
        let mut entries = Vec::with_capacity(rows.len());
        for row in rows {
            let Some(source) = row.source.to_str() else {
                return Err(fault(&row.path, "a name in UTF-8", "another one"));
            };
            let source = source.replace(std::path::MAIN_SEPARATOR, "/");
            entries.push(Entry {
                path: row.path.clone(),
                mask: row.mask.clone(),
                record: None,
                id: row.id.clone().unwrap_or_else(|| short_id(&source)),
                source,
                label: row.class.as_ref().map_or(0, |class| labels[class]),
                split: row.split.unwrap_or_default(),
                group: row.group.clone(),
            });
        }
        check_ids(place, &entries)?;
        let has_splits = given > 0;
        Ok(Self {
            place: place.to_owned(),
            class_names: classes,
            entries,
            has_splits,
            ignored: Vec::new(),
        })
    }

    /// Puts an entry `FILE#1`, `FILE#2`, ... for each molecule in the place of a file that holds
    /// several (SDF, MOL2, XYZ). Files that cannot be read stay, for the build to tell.
    ///
    /// # Errors
    /// If two identifiers become the same.
    pub fn expand_records(&mut self) -> Result<(), BuildError> {
        let read = |item: usize| records(&self.entries[item].path);
        let counts = made_with_room(0..self.entries.len(), read, ItemError::is_temporary);
        let counts: Vec<usize> = counts.into_iter().map(|count| count.unwrap_or(1)).collect();
        let mut entries = Vec::with_capacity(counts.iter().sum());
        for (entry, &count) in self.entries.iter().zip(&counts) {
            if count <= 1 {
                entries.push(entry.clone());
                continue;
            }
            entries.extend((1..=count).map(|record| Entry {
                record: Some(record),
                source: format!("{}#{record}", entry.source),
                id: short_id(&format!("{}#{record}", entry.id)),
                ..entry.clone()
            }));
        }
        check_ids(&self.place, &entries)?;
        self.entries = entries;
        Ok(())
    }

    /// Has any entry a group?
    pub fn has_groups(&self) -> bool {
        self.entries.iter().any(|entry| !entry.group.is_empty())
    }

    /// The shares of the splits where none are asked for: those of [`Fractions::default`], and for items without
    /// labels all in the test split, since they are to be evaluated.
    pub fn default_fractions(&self) -> Fractions {
        if self.class_names.is_empty() { Fractions::ALL_TEST } else { Fractions::default() }
    }

    /// Settles the split of every entry and says how. A listing without splits gets random ones by
    /// `fractions`, with groups kept together where there are any. One with splits keeps them; if
    /// it has none for validation, the share of `fractions` for it is taken from each class (or
    /// the groups) of the training split.
    pub fn settle_splits(&mut self, fractions: &Fractions, seed: u64) -> String {
        let [train, validation, test] = fractions.values();
        let how = match self.has_groups() {
            true => "by group",
            false if self.class_names.is_empty() => "item by item",
            false => "within each class",
        };
        if !self.has_splits {
            let all: Vec<usize> = (0..self.entries.len()).collect();
            self.draw(&all, fractions, seed);
            if *fractions == Fractions::ALL_TEST {
                return "all items in the test split".to_owned();
            }
            return format!(
                "splits drawn at random {how} (seed {seed}): {train}, {validation}, {test}"
            );
        }
        let of = |split| self.entries.iter().filter(move |entry| entry.split == split).count();
        if validation == 0.0 || of(Split::Validation) > 0 {
            return "splits as given".to_owned();
        }
        let training: Vec<usize> =
            (0..self.entries.len()).filter(|&i| self.entries[i].split == Split::Train).collect();
        let rest = Fractions::new([1.0 - validation, validation, 0.0]).unwrap_or_default();
        self.draw(&training, &rest, seed);
        format!(
            "training and test items as given; the share {validation} of the training items, \
             drawn at random {how} (seed {seed}), is for validation"
        )
    }

    fn draw(&mut self, items: &[usize], fractions: &Fractions, seed: u64) {
        let labels: Vec<u32> = items.iter().map(|&i| self.entries[i].label).collect();
        let splits = if self.has_groups() {
            let groups: Vec<&str> = items.iter().map(|&i| self.entries[i].group.as_str()).collect();
            group_splits(&labels, &groups, fractions, seed)
        } else {
            random_splits(&labels, fractions, seed)
        };
        for (&item, split) in items.iter().zip(splits) {
            self.entries[item].split = split;
        }
    }
}

#[derive(Default)]
struct Row {
    path: PathBuf,
    source: PathBuf,
    class: Option<String>,
    mask: Option<PathBuf>,
    split: Option<Split>,
    group: String,
    id: Option<String>,
}

fn check_ids(place: &Path, entries: &[Entry]) -> Result<(), BuildError> {
    let mut ids = HashMap::new();
    for Entry { id, source, .. } in entries {
        if let Some(other) = ids.insert(id, source) {
            let found = format!("`{id}` of {other} and {source}");
            return Err(fault(place, "identifiers that differ", found));
        }
    }
    Ok(())
}

fn fault(path: &Path, expected: impl Into<String>, found: impl Into<String>) -> BuildError {
    BuildError::Source { path: path.to_owned(), expected: expected.into(), found: found.into() }
}

/// The number of molecules of a file of a format that may hold several; else 1.
fn records(path: &Path) -> Result<usize, ItemError> {
    let several = Format::detect(&[], path).and_then(Format::several);
    match several
        .filter(|several| *several == Several::Records)
        .map(|_| read(path, Nan::Refuse))
        .transpose()?
    {
        Some(FileContents::Molecules(molecules)) => Ok(molecules.len()),
        _ => Ok(1),
    }
}

fn split_of(name: &str) -> Option<Split> {
    match name.to_ascii_lowercase().as_str() {
        "train" | "training" => Some(Split::Train),
        "validation" | "val" | "valid" => Some(Split::Validation),
        "test" | "testing" => Some(Split::Test),
        _ => None,
    }
}

/// Class names in order of number if all are numbers, else of text.
fn in_order(names: BTreeSet<String>) -> Vec<String> {
    let mut names: Vec<String> = names.into_iter().collect();
    if names.iter().all(|name| name.parse::<i64>().is_ok()) {
        names.sort_by_key(|name| name.parse::<i64>().unwrap_or(0));
    }
    names
}

/// Sorted children of a folder that are not hidden.
fn children(folder: &Path) -> Result<Vec<PathBuf>, BuildError> {
    let mut paths = fs::read_dir(folder)
        .and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>, _>>())
        .at_path(folder)?;
    let hidden = |path: &PathBuf| {
        path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."))
    };
    paths.retain(|path| !hidden(path));
    paths.sort();
    Ok(paths)
}

fn name_of(folder: &Path) -> Result<String, BuildError> {
    let name = folder.file_name().and_then(|name| name.to_str());
    name.map(str::to_owned).ok_or_else(|| fault(folder, "a name in UTF-8", "another one"))
}

/// Hands every file below a folder to `take`, with the split that its first folder names.
fn walk(
    folder: &Path,
    split: Option<Split>,
    depth: usize,
    take: &mut impl FnMut(PathBuf, Option<Split>),
) -> Result<(), BuildError> {
    if depth > MAX_DEPTH {
        return Err(fault(folder, format!("at most {MAX_DEPTH} folders deep"), "a deeper one"));
    }
    for child in children(folder)? {
        if child.is_dir() {
            let named = || if depth == 0 { split_of(&name_of(&child).ok()?) } else { None };
            walk(&child, split.or_else(named), depth + 1, take)?;
        } else {
            take(child, split);
        }
    }
    Ok(())
}

/// The path itself where it is short enough, else its end after a part of its SHA-256.
fn short_id(source: &str) -> String {
    if source.len() <= MAX_ID_BYTES {
        return source.to_owned();
    }
    let mut start = source.len() - (MAX_ID_BYTES - 17);
    while !source.is_char_boundary(start) {
        start += 1;
    }
    format!("{}~{}", hex(&Sha256::digest(source)[..8]), &source[start..])
}
