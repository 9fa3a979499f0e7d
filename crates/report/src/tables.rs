//! The report as text for a terminal and as CSV.

use comfy_table::{CellAlignment, Table, TableStyle, presets};
use steer3d_eval::metrics::{Estimate, argmax};
use steer3d_eval::{
    AnswerKind, Comparison, Condition, Measure, Prediction, Report, Section, SeedScore,
    SourceReport, axis_name,
};

use crate::error::ReportError;
use crate::headline::headline;
use crate::numbers::percent;
use crate::reading::reading;

/// The headline table and the reading of every section, for a terminal.
pub fn terminal(report: &Report) -> String {
    report.sections.iter().map(terminal_section).collect::<Vec<_>>().join("\n")
}

fn terminal_section(section: &Section) -> String {
    let (headings, rows) = headline(section);
    let table = terminal_table(&headings, rows, 2);
    let data = &section.dataset;
    let answers = match section.answers() {
        AnswerKind::Classes => String::new(),
        AnswerKind::Voxels => {
            let background = &data.class_names[0];
            format!("; labels of voxels, {background} left out where not said otherwise")
        }
        AnswerKind::Values => {
            let targets = data.targets.as_deref().unwrap_or_default();
            format!(", targets {targets}; outputs turned back, 95 % intervals over items")
        }
    };
    let title = format!("{}, {} split, {} items{answers}", data.name, data.split, data.items);
    let sentences: String = reading(section).iter().map(|s| format!("- {s}\n")).collect();
    format!("{title}\n{table}\n{sentences}")
}

/// A table for a terminal, whose columns from `left` on are numbers.
pub fn terminal_table(headings: &[impl ToString], rows: Vec<Vec<String>>, left: usize) -> String {
    text_table(presets::UTF8_HORIZONTAL_ONLY, headings, rows, left)
}

fn text_table(
    style: TableStyle,
    headings: &[impl ToString],
    rows: Vec<Vec<String>>,
    left: usize,
) -> String {
    let mut table = Table::new();
    table.load_style(style);
    table.set_header(headings.iter().map(ToString::to_string));
    table.add_rows(rows);
    for column in table.column_iter_mut().skip(left) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table.to_string()
}

/// Every number in long form: section, model, source, condition, parameter (degrees or voxels),
/// metric, value, and low and high of its 95 % interval, empty where there is none. Shares are
/// from 0 to 1.
///
/// # Errors
/// [`ReportError::Csv`] if a record cannot be formatted.
pub fn results_csv(report: &Report) -> Result<String, ReportError> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    writer.write_record([
        "section",
        "model",
        "source",
        "condition",
        "parameter",
        "metric",
        "value",
        "low",
        "high",
    ])?;
    for section in &report.sections {
        for model in &section.models {
            for source in &model.sources {
                let name = source.source.to_string();
                for row in rows(model.answers, source) {
                    let first = [&section.dataset.name, &model.name, &name];
                    writer.write_record(first.into_iter().chain(&row))?;
                }
            }
        }
    }
    text(writer)
}

/// The kind of a condition, with its axis where it has one: `about z`.
fn kind(condition: Condition) -> String {
    let axis = condition.axis().map_or_else(String::new, |axis| format!(" {}", axis_name(axis)));
    format!("{}{axis}", condition.kind())
}

/// Condition, parameter, metric, value, low and high.
fn rows(answers: AnswerKind, source: &SourceReport) -> Vec<[String; 6]> {
    let definitions = answers.definitions();
    let interval = |measure: &Measure, e: Estimate| {
        let known = definitions.iter().find(|d| d.name == measure.name);
        match known.is_none_or(|definition| definition.interval) {
            true => [e.low, e.high].map(|end| end.to_string()),
            false => Default::default(),
        }
    };
    let mut rows = vec![];
    for report in &source.conditions {
        let parameter = report.condition.parameter().map_or_else(String::new, |p| p.to_string());
        for measure in &report.measures {
            let metric = match &measure.class {
                Some(class) => format!("{} of {class}", measure.name),
                None => measure.name.clone(),
            };
            let [low, high] = interval(measure, measure.estimate);
            let value = measure.estimate.value.to_string();
            rows.push([kind(report.condition), parameter.clone(), metric, value, low, high]);
        }
    }
    for layer in &source.layers {
        for (kind, error) in [("random", layer.random), ("cube", layer.cube)] {
            if let Some(error) = error {
                let metric = format!("equivariance_error of {}", layer.name);
                let none = String::new;
                rows.push([kind.into(), none(), metric, error.to_string(), none(), none()]);
            }
        }
    }
    rows
}

/// Every single prediction: section, model, source, condition, parameter, item, true and predicted
/// class (of classes of volumes), rotation as unit quaternion w,x,y,z, translation x,y,z in voxels, the score of this
/// volume ([`AnswerKind::score`]), and what [`Prediction::answer`] holds, separated by spaces.
///
/// # Errors
/// [`ReportError::Csv`] if a record cannot be formatted.
pub fn predictions_csv(report: &Report) -> Result<String, ReportError> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    let columns = "section model source condition parameter item label predicted qw qx qy qz dx dy dz score answer";
    writer.write_record(columns.split(' '))?;
    for section in &report.sections {
        let name = |class: usize| section.dataset.class_names[class].clone();
        for model in &section.models {
            for p in &model.predictions {
                let predicted = p.label.map(|_| name(argmax(&logits(p))));
                let mut record = vec![
                    section.dataset.name.clone(),
                    model.name.clone(),
                    p.source.to_string(),
                    kind(p.condition),
                    p.condition.parameter().map_or_else(String::new, |value| value.to_string()),
                    p.id.clone(),
                    p.label.map(name).unwrap_or_default(),
                    predicted.unwrap_or_default(),
                ];
                record.extend(p.transform.quaternion().map(|c| format!("{c:.9}")));
                record.extend(p.transform.shift.map(|c| format!("{c:.9}")));
                record.push(p.score.to_string());
                let answer: Vec<String> = match model.answers {
                    AnswerKind::Classes => logits(p).iter().map(f32::to_string).collect(),
                    _ => p.answer.iter().map(f64::to_string).collect(),
                };
                record.push(answer.join(" "));
                writer.write_record(&record)?;
            }
        }
    }
    text(writer)
}

/// The logits of a prediction of classes, which were f32.
pub(crate) fn logits(prediction: &Prediction) -> Vec<f32> {
    prediction.answer.iter().map(|&logit| logit as f32).collect()
}

/// The table of a comparison for a terminal: scores, shares in per cent, mean ± standard deviation over seeds.
pub fn comparison_terminal(comparison: &Comparison) -> String {
    comparison_table(comparison, presets::UTF8_HORIZONTAL_ONLY)
}

/// The same in Markdown.
pub fn comparison_markdown(comparison: &Comparison) -> String {
    comparison_table(comparison, presets::ASCII_MARKDOWN)
}

fn comparison_table(comparison: &Comparison, style: TableStyle) -> String {
    let columns = comparison.columns.iter().map(String::as_str);
    let headings: Vec<&str> = ["model", "source"]
        .into_iter()
        .chain(columns)
        .chain(["seeds", "parameters", "training, s"])
        .collect();
    let number = |score: &SeedScore| match comparison.answers {
        AnswerKind::Values => format!("{:.4} ± {:.4}", score.seeds.mean, score.seeds.deviation),
        _ => format!("{} ± {}", percent(score.seeds.mean), percent(score.seeds.deviation)),
    };
    let rows = comparison.rows.iter().map(|row| {
        let mut cells = vec![row.model.clone(), row.source.to_string()];
        cells.extend(row.scores.iter().map(number));
        cells.push(row.seeds.to_string());
        cells.push(row.parameters.to_string());
        cells.push(format!("{:.0}", row.training_seconds.mean));
        cells
    });
    text_table(style, &headings, rows.collect(), 2)
}

/// The table of a comparison as CSV: for every column its mean (shares from 0 to 1), its standard deviation and the
/// ends of its interval.
///
/// # Errors
/// [`ReportError::Csv`] if a record cannot be formatted.
pub fn comparison_csv(comparison: &Comparison) -> Result<String, ReportError> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    let columns = comparison
        .columns
        .iter()
        .flat_map(|c| ["", " deviation", " low", " high"].map(|what| format!("{c}{what}")));
    let last = ["seeds", "parameters", "training seconds"].map(String::from);
    let first = ["model", "source"].map(String::from);
    writer.write_record(first.into_iter().chain(columns).chain(last))?;
    for row in &comparison.rows {
        let scores = row.scores.iter().flat_map(|a| {
            [a.seeds.mean, a.seeds.deviation, a.low, a.high].map(|value| value.to_string())
        });
        let first = [row.model.clone(), row.source.to_string()];
        let last = [
            row.seeds.to_string(),
            row.parameters.to_string(),
            row.training_seconds.mean.to_string(),
        ];
        writer.write_record(first.into_iter().chain(scores).chain(last))?;
    }
    text(writer)
}

pub(crate) fn text(writer: csv::Writer<Vec<u8>>) -> Result<String, ReportError> {
    let bytes = writer.into_inner().map_err(|error| csv::Error::from(error.into_error()))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
