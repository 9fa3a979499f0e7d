//! Reports of earlier schemas: classes of version 2, labels of voxels and values of version 1.

use serde_json::{Map, Value, json};

use crate::measure::Definition;
use crate::predictor::AnswerKind;

/// The same in the form of schema `version`; fields of what is no report are missing in it.
pub(crate) fn of_earlier_schema(mut old: Value, version: u32) -> Value {
    if old["sections"].is_array() {
        elements(&mut old, "sections").into_iter().for_each(of_classes);
        put(&mut old, "schema_version", version.into());
        return old;
    }
    let values = old["irreps"].is_string();
    let answers = if values { AnswerKind::Values } else { AnswerKind::Voxels };
    let mut data = take(&mut old, if values { "data" } else { "dataset" });
    let count = if values { items(&data) } else { take(&mut old, "items") };
    put(&mut data, "items", count);
    if values {
        put(&mut data, "targets", take(&mut old, "irreps"));
    }
    let classes = names(&data);
    for model in elements(&mut old, "models") {
        let mut sources: Vec<(Value, Vec<Value>)> = vec![];
        for scores in elements(model, "scores") {
            let source = take(scores, "source");
            let report = condition(scores, None, answers, &classes);
            match sources.iter().position(|known| known.0 == source) {
                Some(i) => sources[i].1.push(report),
                None => sources.push((source, vec![report])),
            }
        }
        let of_source =
            |(source, conditions)| json!({ "source": source, "conditions": conditions });
        let sources: Vec<Value> = sources.into_iter().map(of_source).collect();
        put(model, "answers", json!(answers));
        put(model, "sources", sources.into());
    }
    let title = format!("Rotated-volume evaluation on {}", data["name"].as_str().unwrap_or(""));
    let section = json!({
        "dataset": data,
        "protocol": take(&mut old, "protocol"),
        "models": take(&mut old, "models"),
    });
    json!({
        "schema_version": version,
        "title": title,
        "steer3d_version": take(&mut old, "steer3d_version"),
        "command": take(&mut old, "command"),
        "sections": [section],
    })
}

fn of_classes(section: &mut Value) {
    let mut data = take(section, "dataset");
    let (count, classes) = (items(&data), names(&data));
    put(&mut data, "items", count);
    put(section, "dataset", data);
    for model in elements(section, "models") {
        put(model, "answers", json!(AnswerKind::Classes));
        for source in elements(model, "sources") {
            for report in elements(source, "conditions") {
                let (mut scores, stability) = (take(report, "scores"), take(report, "stability"));
                put(&mut scores, "condition", take(report, "condition"));
                *report = condition(&mut scores, Some(&stability), AnswerKind::Classes, &classes);
            }
        }
    }
    put(section, "gallery", json!([]));
}

/// The report of a condition from its scores by name.
fn condition(
    scores: &mut Value,
    stability: Option<&Value>,
    answers: AnswerKind,
    classes: &[String],
) -> Value {
    let mut measures = vec![];
    for definition in answers.definitions() {
        if definition.of_class {
            let each = elements(scores, "per_class").into_iter().zip(classes);
            measures.extend(each.filter_map(|(of, class)| measure(&definition, of, Some(class))));
            continue;
        }
        let found = measure(&definition, scores, None);
        measures.extend(found.or_else(|| measure(&definition, stability?, None)));
    }
    json!({
        "condition": take(scores, "condition"),
        "measures": measures,
        "confusion": take(scores, "confusion"),
    })
}

fn measure(definition: &Definition, scores: &Value, class: Option<&String>) -> Option<Value> {
    let found = scores.get(definition.name)?;
    let mut measure = match found {
        Value::Object(estimate) => estimate.clone(),
        Value::Number(_) => {
            Map::from_iter(["value", "low", "high"].map(|k| (k.into(), found.clone())))
        }
        _ => return None,
    };
    measure.insert("name".into(), definition.name.into());
    measure.insert("unit".into(), json!(definition.unit));
    if let Some(class) = class {
        measure.insert("class".into(), class.as_str().into());
    }
    Some(measure.into())
}

/// Number of volumes, which have a class each.
fn items(data: &Value) -> Value {
    let counts = data["class_counts"].as_array();
    counts.map_or(0, |counts| counts.iter().filter_map(Value::as_u64).sum::<u64>()).into()
}

fn names(data: &Value) -> Vec<String> {
    let names = data["class_names"].as_array().into_iter().flatten();
    names.filter_map(|name| name.as_str().map(String::from)).collect()
}

fn elements<'a>(object: &'a mut Value, key: &str) -> Vec<&'a mut Value> {
    let list = object.get_mut(key).and_then(Value::as_array_mut);
    list.map_or_else(Vec::new, |list| list.iter_mut().collect())
}

/// The value of a key, or nothing.
fn take(object: &mut Value, key: &str) -> Value {
    object.get_mut(key).map_or(Value::Null, Value::take)
}

fn put(object: &mut Value, key: &str, value: Value) {
    if let Some(map) = object.as_object_mut() {
        map.insert(key.into(), value);
    }
}
