use serde::Serialize;
use serde_json::{Map, Value};

use crate::error::TrainError;

/// "NAME was A and is now B" for the first part in which two values differ.
pub(crate) fn difference(
    old: &impl Serialize,
    new: &impl Serialize,
) -> Result<Option<String>, TrainError> {
    let fault = |problem: serde_json::Error| TrainError::settings("settings", problem);
    let old = serde_json::to_value(old).map_err(fault)?;
    let new = serde_json::to_value(new).map_err(fault)?;
    Ok(first_difference("", &old, &new))
}

fn first_difference(path: &str, old: &Value, new: &Value) -> Option<String> {
    if old == new {
        return None;
    }
    let below = |key: &str| if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
    match (old, new) {
        (Value::Object(a), Value::Object(b)) => {
            let keys = a.keys().chain(b.keys().filter(|k| !a.contains_key(*k)));
            let of = |map: &Map<_, _>, key| map.get(key).cloned().unwrap_or(Value::Null);
            keys.into_iter().find_map(|key| first_difference(&below(key), &of(a, key), &of(b, key)))
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            (0..a.len()).find_map(|i| first_difference(&below(&i.to_string()), &a[i], &b[i]))
        }
        _ => Some(format!("{path} was {old} and is now {new}")),
    }
}
