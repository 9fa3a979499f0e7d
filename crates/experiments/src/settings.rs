//! The settings of experiment files as a page, from the types that read them and their documentation.

use std::collections::{HashMap, VecDeque};
use std::fmt::Write;

use schemars::{Schema, schema_for};
use serde_json::{Map, Value};
use steer3d_dataset::Distortion;

use crate::experiment::Experiment;

const BEGIN: &str = "# Settings

Every key of an [experiment file](experiments.md), and of `--set KEY=VALUE`. `steer3d docs settings` prints this page from the
types that read the file. `[model]` may instead have the key `preset` (`steerable`, `plain`, `antialiased`, `group`,
`transformer`) alone, or the key `file` with the path of a TOML file with the keys of `[model]`, which the keys beside it
change. What the dataset tells (`classes`, `input`, `channels`, `input_scale`, `voxel_size`) may be left out, and so may keys whose default is –. `[training]`
also has `recompute`: whether blocks are computed again in the backward pass, for less memory.
";

/// The reference of all settings as Markdown.
pub fn settings() -> String {
    let schema: Schema = schema_for!(Experiment);
    let mut page = Page::new(schema.get("$defs").and_then(Value::as_object));
    page.table("", schema.as_value());
    while let Some(name) = page.waiting.pop_front() {
        page.section(&name);
    }
    page.text
}

/// The page as it grows.
struct Page<'a> {
    definitions: Option<&'a Map<String, Value>>,
    /// The path of the first key of each type.
    paths: HashMap<String, String>,
    /// The choice whose keys are described.
    choice: String,
    /// Types that are named and not yet described.
    waiting: VecDeque<String>,
    text: String,
}

impl<'a> Page<'a> {
    fn new(definitions: Option<&'a Map<String, Value>>) -> Self {
        let (paths, waiting) = (HashMap::new(), VecDeque::new());
        Self { definitions, paths, choice: String::new(), waiting, text: BEGIN.into() }
    }

    /// A type, of the first key that has it.
    fn section(&mut self, name: &str) {
        let Some(definition) = self.definitions.and_then(|all| all.get(name)) else { return };
        let path = self.paths[name].clone();
        self.line(format_args!("\n## `{path}`\n\n{}", description(definition)));
        if name == "Distortions" {
            return self.distortions();
        }
        let choices = ["oneOf", "anyOf"].iter().find_map(|key| definition[key].as_array());
        match (choices, definition["enum"].as_array()) {
            (Some(choices), _) => self.choices(&path, choices),
            (_, Some(values)) => {
                let values: Vec<String> = values.iter().map(literal).collect();
                self.line(format_args!("\nOne of {}.", values.join(", ")));
            }
            _ => self.table(&path, definition),
        }
    }

    /// The values of a choice: those of a word as a list, tables by what tells them apart.
    fn choices(&mut self, path: &str, choices: &[Value]) {
        self.text.push('\n');
        for choice in choices {
            let properties = choice["properties"].as_object();
            let tag = properties.and_then(|all| {
                all.iter().find_map(|(key, value)| Some((key, value.get("const")?)))
            });
            match (tag, choice.get("const"), properties) {
                (Some((key, value)), ..) => {
                    self.line(format_args!("\n### `{key} = {value}`\n\n{}", description(choice)));
                    self.choice = value.as_str().unwrap_or_default().into();
                    match choice["$ref"].as_str() {
                        Some(target) => {
                            let kind = self.definition(target);
                            self.table(path, &kind);
                        }
                        None => self.table(path, choice),
                    }
                }
                (None, Some(word), _) => {
                    self.line(format_args!("- `{word}`: {}", description(choice)));
                }
                (None, None, Some(properties)) => {
                    for (key, inner) in properties {
                        self.line(format_args!("- a table `{key}`: {}", description(choice)));
                        self.table(&join(path, key), inner);
                    }
                }
                (None, None, None) => self.other(path, choice),
            }
        }
    }

    /// A choice that is neither a word of its own nor a table: that of another type, words or numbers.
    fn other(&mut self, path: &str, choice: &Value) {
        if let Some(target) = choice["$ref"].as_str() {
            let inner = self.definition(target);
            return self.choices(path, inner["oneOf"].as_array().map_or(&[], Vec::as_slice));
        }
        let kind = self.kind(path, choice);
        let words = choice["enum"]
            .as_array()
            .map_or(kind, |words| words.iter().map(literal).collect::<Vec<_>>().join(", "));
        self.line(format_args!("- {words}: {}", description(choice)));
    }

    /// The keys of a table but the one that tells it from others, if it has some.
    fn table(&mut self, path: &str, schema: &Value) {
        let Some(properties) = schema["properties"].as_object() else { return };
        let rows: Vec<_> =
            properties.iter().filter(|(_, key)| key.get("const").is_none()).collect();
        if rows.is_empty() {
            return;
        }
        self.line(format_args!("\n| key | value | default | meaning |\n|---|---|---|---|"));
        let required: Vec<&str> =
            schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        for (key, value) in rows {
            let kind = self.kind(&join(path, key), value);
            let default = match value.get("default") {
                _ if required.contains(&key.as_str()) => "required".into(),
                None | Some(Value::Null) => "–".into(),
                Some(Value::Object(table)) => table.get("kind").map_or("–".into(), literal),
                Some(default) => literal(default),
            };
            self.line(format_args!("| `{key}` | {kind} | {default} | {} |", description(value)));
        }
    }

    fn distortions(&mut self) {
        let kinds = schema_for!(Distortion);
        self.line(format_args!("\n| key | probability | range | meaning |\n|---|---|---|---|"));
        let described = kinds.as_value()["oneOf"].as_array().into_iter().flatten();
        for (kind, choice) in Distortion::ALL.into_iter().zip(described) {
            let standard = kind.standard();
            let range = standard.range.map_or("–".into(), |range| format!("`{range:?}`"));
            let (probability, meaning) = (standard.probability, description(choice));
            self.line(format_args!("| `{kind}` | {probability} | {range} | {meaning} |"));
        }
    }

    /// A definition by its reference.
    fn definition(&self, reference: &str) -> Value {
        let name = reference.rsplit('/').next().unwrap_or_default();
        self.definitions.and_then(|all| all.get(name)).cloned().unwrap_or_default()
    }

    /// What a key takes, with a link where that is described apart.
    fn kind(&mut self, path: &str, schema: &Value) -> String {
        if let Some(reference) = schema["$ref"].as_str() {
            let name = reference.rsplit('/').next().unwrap_or_default();
            if !self.paths.contains_key(name) {
                let taken = self.paths.values().any(|other| other == path);
                let path = if taken { format!("{path} ({})", self.choice) } else { path.into() };
                self.paths.insert(name.into(), path);
                self.waiting.push_back(name.into());
            }
            let path = &self.paths[name];
            return format!("[`{path}`](#{})", anchor(path));
        }
        if let Some(any) = schema["anyOf"].as_array() {
            let some = any.iter().find(|choice| choice["type"] != "null");
            return some.map_or_else(String::new, |choice| self.kind(path, choice));
        }
        let kind = match &schema["type"] {
            Value::Array(kinds) => &kinds[0],
            kind => kind,
        };
        match kind.as_str().unwrap_or_default() {
            "array" => {
                let each = self.kind(path, &schema["items"]);
                match (schema["minItems"].as_u64(), schema["maxItems"].as_u64()) {
                    (Some(n), Some(most)) if n == most => format!("list of {n}: {each}"),
                    _ => format!("list: {each}"),
                }
            }
            "integer" => "whole number".into(),
            "boolean" => "true or false".into(),
            "string" => "text".into(),
            kind => kind.into(),
        }
    }

    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        let _ = writeln!(self.text, "{line}");
    }
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.into() } else { format!("{path}.{key}") }
}

/// The anchor of a heading that is a path.
fn anchor(path: &str) -> String {
    let kept = path.chars().filter(|c| c.is_alphanumeric() || " _-".contains(*c));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}

/// A value as code.
fn literal(value: &Value) -> String {
    format!("`{value}`")
}

/// The documentation of a key or type on one line, without examples and links into the documentation of Rust.
fn description(schema: &Value) -> String {
    let text = schema["description"].as_str().unwrap_or_default();
    let text = text.split("```").next().unwrap_or_default();
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|");
    let (mut plain, mut rest) = (String::new(), text.as_str());
    while let Some((before, after)) = rest.split_once("](") {
        let (target, following) = after.split_once(')').unwrap_or((after, ""));
        match before.rsplit_once('[') {
            Some((start, name)) if target.contains("::") => plain.extend([start, name]),
            _ => plain.extend([before, "](", target, ")"]),
        }
        rest = following;
    }
    (plain + rest).replace("[`", "`").replace("`]", "`")
}
