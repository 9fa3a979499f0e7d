//! TOML tables whose mistakes are named by their path.

use std::fs;
use std::path::Path;

use serde::de::DeserializeOwned;
use steer3d_files::AtPath;
use toml::{Table, Value};

use crate::error::{At, ExperimentError};

/// Most keys of a path: settings lie at most a dozen deep, and tables are read and dropped by recursion.
const MAX_DEPTH: usize = 64;

/// Reads a TOML file.
///
/// # Errors
/// [`ExperimentError::File`] if the file cannot be read, [`ExperimentError::At`] the path if it is no TOML.
pub fn read_table(path: &Path) -> Result<Table, ExperimentError> {
    let text = fs::read_to_string(path).at_path(path)?;
    toml::from_str(&text).at(path.display())
}

/// Sets the value at a path such as `model.blocks.0.size=5`, or removes it where nothing follows the
/// equals sign. A value that is no TOML is a text.
pub(crate) fn set(table: &mut Table, change: &str) -> Result<(), ExperimentError> {
    let fault = |problem: String| ExperimentError::invalid(format!("--set {change}"), problem);
    let Some((path, text)) = change.split_once('=') else {
        return Err(fault("expected KEY=VALUE, such as training.epochs=5".into()));
    };
    let value = match toml::from_str::<Table>(&format!("value = {text}")) {
        Ok(mut one) if one.len() == 1 => one.remove("value"),
        _ if text.is_empty() => None,
        _ => Some(Value::String(text.into())),
    };
    let keys: Vec<&str> = path.trim().split('.').collect();
    if keys.len() > MAX_DEPTH {
        let found = keys.len();
        let problem = format!("expected at most {MAX_DEPTH} keys in a path, found {found}");
        return Err(ExperimentError::invalid("--set", problem));
    }
    let mut whole = Value::Table(std::mem::take(table));
    let done = put(&mut whole, &keys, value);
    if let Value::Table(whole) = whole {
        *table = whole;
    }
    done.map_err(fault)
}

fn put(at: &mut Value, keys: &[&str], value: Option<Value>) -> Result<(), String> {
    let [key, rest @ ..] = keys else { return Err("expected a key before the equals sign".into()) };
    match at {
        Value::Table(table) => match (rest, value) {
            ([], Some(value)) => {
                table.insert((*key).into(), value);
            }
            ([], None) => {
                table.remove(*key);
            }
            (_, value) => {
                let inner = table.entry(*key).or_insert_with(|| Value::Table(Table::new()));
                put(inner, rest, value)?;
            }
        },
        Value::Array(array) => {
            let length = array.len();
            let item = key.parse().ok().and_then(|i: usize| array.get_mut(i));
            let Some(item) = item else {
                return Err(format!("expected a number from 0 to below {length}, found `{key}`"));
            };
            match (rest, value) {
                ([], Some(value)) => *item = value,
                ([], None) => return Err("an item of a list cannot be removed".into()),
                (_, value) => put(item, rest, value)?,
            }
        }
        other => return Err(format!("`{key}`: {other} has no parts")),
    }
    Ok(())
}

/// What a table describes; a mistake names its path below `path` and the nearest known key.
pub(crate) fn strict<T: DeserializeOwned>(table: Table, path: &str) -> Result<T, ExperimentError> {
    serde_path_to_error::deserialize(Value::Table(table)).map_err(|error| {
        let below = error.path().to_string();
        let place = match (path, below.as_str()) {
            (path, "." | "") => path.to_owned(),
            ("", below) => below.to_owned(),
            (path, below) => format!("{path}.{below}"),
        };
        let message = error.inner().message();
        ExperimentError::invalid(place, format!("{message}{}", suggestion(message)))
    })
}

/// The nearest of the known names in serde's "unknown field `a`, expected one of `b`, `c`".
fn suggestion(message: &str) -> String {
    if !message.starts_with("unknown ") {
        return String::new();
    }
    let mut quoted = message.split('`').skip(1).step_by(2);
    quoted.next().map_or_else(String::new, |found| nearest(found, quoted))
}

/// "; did you mean `NAME`?" for a name that is nearly `found`.
pub(crate) fn nearest<'a>(found: &str, names: impl Iterator<Item = &'a str>) -> String {
    let distance = |name: &&str| strsim::damerau_levenshtein(found, name);
    match names.min_by_key(distance) {
        Some(name) if distance(&name) <= 2.max(found.chars().count() / 3) => {
            format!("; did you mean `{name}`?")
        }
        _ => String::new(),
    }
}

/// All values of a table by their paths.
pub(crate) fn flatten(path: &str, value: &Value, flat: &mut impl Extend<(String, String)>) {
    let below = |key: &str| if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
    match value {
        Value::Table(table) => table.iter().for_each(|(k, v)| flatten(&below(k), v, flat)),
        Value::Array(array) if array.iter().any(Value::is_table) => {
            array.iter().enumerate().for_each(|(i, v)| flatten(&below(&i.to_string()), v, flat));
        }
        Value::String(text) => flat.extend([(path.into(), text.clone())]),
        other => flat.extend([(path.into(), other.to_string())]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_far_name_gets_no_suggestion() {
        assert_eq!(suggestion("unknown field `colour`, expected `size` or `stride`"), "");
        assert_eq!(
            suggestion("unknown field `strid`, expected `size` or `stride`"),
            "; did you mean `stride`?"
        );
    }
}
