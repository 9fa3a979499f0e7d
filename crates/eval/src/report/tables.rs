//! The report as text for a terminal and as CSV.

use comfy_table::{CellAlignment, Table, presets};

use super::{ModelReport, Report, Section, SourceReport, percent, percent_interval, reading};
use crate::EvalError;
use crate::metrics::{Estimate, argmax};
use crate::protocol::{Condition, axis_name};

/// Columns of the headline table after model and source.
pub(crate) const HEADLINE: [&str; 9] = [
    "unrotated %",
    "random rotations %",
    "change, points",
    "AUC",
    "AUC rotated",
    "consistent %",
    "worst case %",
    "deviation",
    "parameters",
];

/// The rows of the headline table of a section: model, source and [`HEADLINE`]; a dash stands for what was not
/// measured.
pub(crate) fn headline(section: &Section) -> Vec<Vec<String>> {
    let row = |model: &ModelReport, source: &SourceReport| {
        let unrotated = source.condition(Condition::Unrotated).map(|c| &c.scores);
        let random = source.condition(Condition::Random);
        let rotated = random.map(|c| &c.scores);
        let stability = random.and_then(|c| c.stability.as_ref());
        let dash = || "–".to_owned();
        let auc = |auc: Option<Estimate>| auc.map_or_else(dash, |e| format!("{:.3}", e.value));
        vec![
            model.name.clone(),
            source.source.to_string(),
            unrotated.map_or_else(dash, |s| percent_interval(s.accuracy)),
            rotated.map_or_else(dash, |s| percent_interval(s.accuracy)),
            stability.map_or_else(dash, |s| percent_interval(s.accuracy_change)),
            auc(unrotated.and_then(|s| s.auc)),
            auc(rotated.and_then(|s| s.auc)),
            stability.map_or_else(dash, |s| percent(s.consistency.value)),
            stability.map_or_else(dash, |s| percent(s.worst_case_accuracy.value)),
            stability.map_or_else(dash, |s| format!("{:.3}", s.relative_deviation.value)),
            thousands(model.parameters),
        ]
    };
    let sources = section.models.iter().flat_map(|m| m.sources.iter().map(move |s| (m, s)));
    sources.map(|(model, source)| row(model, source)).collect()
}

/// `12 345`, with a narrow no-break space.
pub(super) fn thousands(number: usize) -> String {
    let digits = number.to_string();
    let groups: Vec<&str> = digits
        .as_bytes()
        .rchunks(3)
        .rev()
        .filter_map(|group| std::str::from_utf8(group).ok())
        .collect();
    groups.join("\u{202f}")
}

/// The headline table and the reading of every section, for a terminal.
pub fn terminal(report: &Report) -> String {
    report.sections.iter().map(terminal_section).collect::<Vec<_>>().join("\n")
}

fn terminal_section(section: &Section) -> String {
    let table = text_table(&HEADLINE, headline(section));
    let data = &section.dataset;
    let items: usize = data.class_counts.iter().sum();
    let title = format!("{}, {} split, {items} items", data.name, data.split);
    let sentences: String = reading(section).iter().map(|s| format!("- {s}\n")).collect();
    format!("{title}\n{table}\n{sentences}")
}

pub(super) const RESULT_COLUMNS: [&str; 9] =
    ["section", "model", "source", "condition", "parameter", "metric", "value", "low", "high"];

/// A table for a terminal with the columns model, source and `others`.
pub(super) fn text_table(others: &[&str], rows: Vec<Vec<String>>) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_HORIZONTAL_ONLY);
    table.set_header(["model", "source"].iter().chain(others));
    table.add_rows(rows);
    for column in table.column_iter_mut().skip(2) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

/// Every number in long form: section, model, source, condition, parameter (degrees or voxels),
/// metric, value, and low and high of its 95 % interval, empty where there is none. Shares are
/// from 0 to 1.
///
/// # Errors
/// [`EvalError::Csv`] if a record cannot be formatted.
pub fn results_csv(report: &Report) -> Result<String, EvalError> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    writer.write_record(RESULT_COLUMNS)?;
    for section in &report.sections {
        for model in &section.models {
            for source in &model.sources {
                for (condition, parameter, metric, estimate) in rows(section, source) {
                    let interval =
                        |end: f64| estimate.1.map_or_else(String::new, |_| end.to_string());
                    let (low, high) = estimate.1.unwrap_or_default();
                    writer.write_record([
                        &section.dataset.name,
                        &model.name,
                        &source.source.to_string(),
                        &condition,
                        &parameter.map_or_else(String::new, |p| p.to_string()),
                        &metric,
                        &estimate.0.to_string(),
                        &interval(low),
                        &interval(high),
                    ])?;
                }
            }
        }
    }
    text(writer)
}

/// A value and, if it has one, its interval.
type Cell = (f64, Option<(f64, f64)>);

/// The kind of a condition, with its axis where it has one: `about z`.
pub(super) fn kind(condition: Condition) -> String {
    let axis = condition.axis().map_or_else(String::new, |axis| format!(" {}", axis_name(axis)));
    format!("{}{axis}", condition.kind())
}

fn rows(section: &Section, source: &SourceReport) -> Vec<(String, Option<f64>, String, Cell)> {
    let interval = |e: Estimate| (e.value, Some((e.low, e.high)));
    let mut rows = Vec::new();
    for report in &source.conditions {
        let (kind, parameter) = (kind(report.condition), report.condition.parameter());
        let mut add =
            |metric: String, cell: Cell| rows.push((kind.clone(), parameter, metric, cell));
        let scores = &report.scores;
        add("accuracy".into(), interval(scores.accuracy));
        add("balanced_accuracy".into(), interval(scores.balanced_accuracy));
        add("macro_f1".into(), interval(scores.macro_f1));
        add("calibration_error".into(), interval(scores.calibration_error));
        if let Some(auc) = scores.auc {
            add("auc".into(), interval(auc));
        }
        for (class, name) in scores.per_class.iter().zip(&section.dataset.class_names) {
            if let Some(recall) = class.recall {
                add(format!("recall of {name}"), interval(recall));
            }
            if let Some(precision) = class.precision {
                add(format!("precision of {name}"), interval(precision));
            }
        }
        if let Some(s) = &report.stability {
            add("accuracy_change".into(), interval(s.accuracy_change));
            add("consistency".into(), interval(s.consistency));
            add("agreement".into(), interval(s.agreement));
            add("worst_case_accuracy".into(), interval(s.worst_case_accuracy));
            add("relative_deviation".into(), interval(s.relative_deviation));
            add("max_relative_deviation".into(), (s.max_relative_deviation, None));
            add("absolute_deviation".into(), interval(s.absolute_deviation));
        }
    }
    for layer in &source.layers {
        for (kind, error) in [("random", layer.random), ("cube", layer.cube)] {
            if let Some(error) = error {
                let metric = format!("equivariance_error of {}", layer.name);
                rows.push((kind.to_owned(), None, metric, (error, None)));
            }
        }
    }
    rows
}

/// Every single prediction: section, model, source, condition, parameter, item, true and predicted
/// class, rotation as unit quaternion w,x,y,z, translation x,y,z in voxels, and the logits
/// separated by spaces.
///
/// # Errors
/// [`EvalError::Csv`] if a record cannot be formatted.
pub fn predictions_csv(report: &Report) -> Result<String, EvalError> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    writer.write_record([
        "section",
        "model",
        "source",
        "condition",
        "parameter",
        "item",
        "label",
        "predicted",
        "qw",
        "qx",
        "qy",
        "qz",
        "dx",
        "dy",
        "dz",
        "logits",
    ])?;
    for section in &report.sections {
        let name = |class: usize| section.dataset.class_names[class].clone();
        for model in &section.models {
            for p in &model.predictions {
                let mut record = vec![
                    section.dataset.name.clone(),
                    model.name.clone(),
                    p.source.to_string(),
                    kind(p.condition),
                    p.condition.parameter().map_or_else(String::new, |value| value.to_string()),
                    p.id.clone(),
                    name(p.label),
                    name(argmax(&p.logits)),
                ];
                record.extend(p.transform.quaternion().map(|c| format!("{c:.9}")));
                record.extend(p.transform.shift.map(|c| format!("{c:.9}")));
                record.push(p.logits.iter().map(f32::to_string).collect::<Vec<_>>().join(" "));
                writer.write_record(&record)?;
            }
        }
    }
    text(writer)
}

pub(super) fn text(writer: csv::Writer<Vec<u8>>) -> Result<String, EvalError> {
    let bytes = writer.into_inner().map_err(|error| csv::Error::from(error.into_error()))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_grouped() {
        assert_eq!(thousands(7), "7");
        assert_eq!(thousands(1_234_567), "1\u{202f}234\u{202f}567");
    }
}
