//! The report as text for a terminal and as CSV.

use comfy_table::presets;
use steer3d_eval::metrics::{Estimate, argmax};
use steer3d_eval::{
    AnswerKind, Comparison, Condition, DatasetSummary, Measure, Prediction, Report, Section,
    SeedScore, SourceReport, axis_name,
};

use crate::error::ReportError;
use crate::headline::headline;
use crate::numbers::{join, percent};
use crate::reading::reading;
use crate::text::{Text, text_table};

/// The headline table and the reading of every section, for a terminal.
pub fn terminal(report: &Report) -> Text {
    report.sections.iter().map(terminal_section).fold(Text::default(), Text::then)
}

/// The tolerance of the normalised surface Dice with its unit.
pub(crate) fn tolerance(section: &Section) -> String {
    let DatasetSummary { voxel_size, unit, own_grids, .. } = &section.dataset;
    let tolerance = match section.protocol.surface_tolerance {
        None if *own_grids => return "the longest edge of an item's voxels".to_owned(),
        None => voxel_size.iter().copied().fold(0.0, f64::max),
        Some(tolerance) => tolerance,
    };
    format!("{tolerance} {unit}").trim_end().to_owned()
}

fn terminal_section(section: &Section) -> Text {
    let (headings, rows) = headline(section);
    let data = &section.dataset;
    let answers = match section.answers() {
        _ if !section.is_labelled() => {
            ", no labels or targets; compared with the unrotated answers".to_owned()
        }
        AnswerKind::Classes => String::new(),
        AnswerKind::Voxels => {
            let background = &data.class_names[0];
            format!(
                "; labels of voxels, {background} left out where not said otherwise; NSD within {}",
                tolerance(section)
            )
        }
        AnswerKind::Values => {
            let targets = data.targets.as_deref().unwrap_or_default();
            format!(", targets {targets}; outputs turned back, 95 % intervals over items")
        }
    };
    let title = format!("{}, {} split, {} items{answers}", data.name, data.split, data.items);
    let sentences: Vec<String> = reading(section).iter().map(|s| format!("- {s}")).collect();
    Text::default().words(title).table(&headings, rows, 2).words(sentences.join("\n") + "\n")
}

/// Every number in long form: section, model, source, condition, parameter (degrees or voxels),
/// metric, value, and low and high of its 95 % interval, empty where there is none. Shares are
/// from 0 to 1.
///
/// # Errors
/// [`ReportError::Csv`] if a record cannot be formatted.
pub fn results_csv(report: &Report) -> Result<String, ReportError> {
    let mut all = vec![];
    for section in &report.sections {
        for (model, source) in section.sources() {
            let first =
                [section.dataset.name.clone(), model.name.clone(), source.source.to_string()];
            let rows = rows(model.answers, source).into_iter();
            all.extend(rows.map(|row| [&first[..], &row].concat()));
        }
    }
    csv_text("section model source condition parameter metric value low high".split(' '), all)
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
    let mut records = vec![];
    for section in &report.sections {
        let name = |class: usize| section.class_names()[class].clone();
        for (model, p) in
            section.models.iter().flat_map(|m| m.predictions.iter().map(move |p| (m, p)))
        {
            let classes = model.answers == AnswerKind::Classes;
            let predicted = classes.then(|| name(argmax(&logits(p))));
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
            record.push(match model.answers {
                AnswerKind::Classes => join(&logits(p), " "),
                _ => join(&p.answer, " "),
            });
            records.push(record);
        }
    }
    let columns = "section model source condition parameter item label predicted qw qx qy qz dx dy dz score answer";
    csv_text(columns.split(' '), records)
}

/// The logits of a prediction of classes, which were f32.
pub(crate) fn logits(prediction: &Prediction) -> Vec<f32> {
    prediction.answer.iter().map(|&logit| logit as f32).collect()
}

/// The table of a comparison for a terminal: scores, shares in per cent, mean ± standard deviation over seeds.
pub fn comparison_terminal(comparison: &Comparison) -> Text {
    let (headings, rows) = comparison_table(comparison);
    Text::default().table(&headings, rows, 2)
}

/// The same in Markdown.
pub fn comparison_markdown(comparison: &Comparison) -> String {
    let (headings, rows) = comparison_table(comparison);
    text_table(presets::ASCII_MARKDOWN, &headings, rows, 2)
}

fn comparison_table(comparison: &Comparison) -> (Vec<&str>, Vec<Vec<String>>) {
    let columns = comparison.columns.iter().map(String::as_str);
    let headings = ["model", "source"]
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
    (headings, rows.collect())
}

/// The table of a comparison as CSV: for every column its mean (shares from 0 to 1), its standard deviation and the
/// ends of its interval.
///
/// # Errors
/// [`ReportError::Csv`] if a record cannot be formatted.
pub fn comparison_csv(comparison: &Comparison) -> Result<String, ReportError> {
    let ends = |c: &String| ["", " deviation", " low", " high"].map(|what| format!("{c}{what}"));
    let mut columns = vec!["model".to_owned(), "source".to_owned()];
    columns.extend(comparison.columns.iter().flat_map(ends));
    columns.extend(["seeds", "parameters", "training seconds"].map(String::from));
    let records = comparison.rows.iter().map(|row| {
        let mut record = vec![row.model.clone(), row.source.to_string()];
        let numbers = |a: &SeedScore| [a.seeds.mean, a.seeds.deviation, a.low, a.high];
        record.extend(row.scores.iter().flat_map(numbers).map(|value| value.to_string()));
        record.extend([row.seeds.to_string(), row.parameters.to_string()]);
        record.push(row.training_seconds.mean.to_string());
        record
    });
    csv_text(columns, records)
}

/// A table as CSV.
pub(crate) fn csv_text(
    columns: impl IntoIterator<Item = impl AsRef<[u8]>>,
    records: impl IntoIterator<Item = Vec<String>>,
) -> Result<String, ReportError> {
    let mut writer = csv::Writer::from_writer(vec![]);
    writer.write_record(columns)?;
    for record in records {
        writer.write_record(record)?;
    }
    let bytes = writer.into_inner().map_err(|error| csv::Error::from(error.into_error()))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
