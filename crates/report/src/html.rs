//! The report as one page without references to anything outside it; its script moves the volumes that turn.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use minijinja::value::Serde;
use minijinja::{AutoEscape, Environment, context};
use serde::Serialize;
use serde_json::json;
use steer3d_eval::{AnswerKind, Definition, PairedTest, Report, Section, Turning, axis_name};

use crate::error::ReportError;
use crate::figures::figures;
use crate::gallery::label_colour;
use crate::headline::headline;
use crate::numbers::{cell, join, percent};
use crate::reading::{reading, verdict};
use crate::svg::{colour, page_style};
use crate::tables::{results_csv, tolerance};

/// The report as one HTML page.
///
/// # Errors
/// [`ReportError::Page`] if the template cannot be filled in.
pub fn html(report: &Report) -> Result<String, ReportError> {
    let mut environment = Environment::new();
    environment.set_auto_escape_callback(|_| AutoEscape::Html);
    let template = environment.template_from_str(include_str!("page.html"))?;
    let download = |name: &str, kind: &str, text: String| {
        let uri = format!("data:{kind};base64,{}", STANDARD.encode(text));
        context! { name => name, uri => uri }
    };
    let sections: Vec<PageSection<'_>> = report.sections.iter().map(PageSection::new).collect();
    Ok(template.render(context! {
        downloads => [
            download("results.csv", "text/csv", results_csv(report)?),
            download("report.json", "application/json", numbers(report)?),
        ],
        title => &report.title,
        version => &report.steer3d_version,
        command => &report.command,
        style => format!("{}{}", include_str!("page.css"), page_style()),
        script => report.sections.iter().any(|s| !s.turning.is_empty()).then_some(include_str!("page.js")),
        sections => Serde(&sections),
    })?)
}

/// The report as JSON, without the pictures, which the page shows.
fn numbers(report: &Report) -> Result<String, ReportError> {
    let mut value = serde_json::to_value(report)?;
    for section in value["sections"].as_array_mut().into_iter().flatten() {
        for pictures in ["gallery", "turning"] {
            section.as_object_mut().map(|section| section.remove(pictures));
        }
    }
    Ok(value.to_string())
}

/// What was measured on one dataset, in words and cells.
#[derive(Serialize)]
struct PageSection<'a> {
    #[serde(flatten)]
    section: &'a Section,
    answers: AnswerKind,
    /// Whether answers are compared with what is right.
    labelled: bool,
    /// Names of the classes, each with its count or share where there are labels.
    classes: Vec<String>,
    voxel_size: String,
    /// Of the normalised surface Dice.
    tolerance: String,
    /// Whether the models survive rotation.
    verdict: Option<String>,
    /// What the numbers say.
    reading: Vec<String>,
    headline: Cells,
    /// Heading, caption and drawing of each plot.
    figures: Vec<[String; 3]>,
    turning: Vec<PageTurning<'a>>,
    /// What the colours of the pictures mean: names and colours of CSS.
    swatches: Vec<[String; 2]>,
    tables: Vec<Cells>,
    definitions: Vec<Definition>,
    axes: String,
    angles: String,
    translations: String,
    sources: Vec<String>,
    /// The conditions that have no line of their own on the page.
    others: Vec<String>,
}

/// A table, the first `left` columns of which are words.
#[derive(Serialize)]
struct Cells {
    title: &'static str,
    columns: Vec<String>,
    left: usize,
    rows: Vec<Vec<String>>,
}

/// A volume that turns.
#[derive(Serialize)]
struct PageTurning<'a> {
    #[serde(flatten)]
    turning: &'a Turning,
    /// The probabilities \[model\]\[step\]\[class\] as JSON.
    data: String,
    /// The number of the colour of each model.
    colours: Vec<usize>,
}

impl<'a> PageTurning<'a> {
    fn new(turning: &'a Turning) -> Self {
        let probabilities: Vec<_> = turning.answers.iter().map(|a| &a.probabilities).collect();
        Self {
            turning,
            data: json!(probabilities).to_string(),
            colours: (0..turning.answers.len()).map(colour).collect(),
        }
    }
}

impl<'a> PageSection<'a> {
    fn new(section: &'a Section) -> Self {
        let (answers, protocol, data) = (section.answers(), &section.protocol, &section.dataset);
        let (columns, rows) = headline(section);
        let columns = headings(&columns, &[]);
        let plots = figures(section, "").into_iter();
        let shown = ["unrotated", "random", "angle", "translation", "about"];
        let others = protocol.conditions().into_iter().filter(|c| !shown.contains(&c.kind()));
        let total = data.class_counts.iter().sum::<usize>().max(1) as f64;
        let class = |(name, n): (&String, &usize)| match answers {
            AnswerKind::Voxels => format!("{name} ({} %)", percent(*n as f64 / total)),
            _ => format!("{name} ({n})"),
        };
        let swatches = data.class_names.iter().enumerate().map(swatch);
        let classes = match section.is_labelled() {
            true => data.class_names.iter().zip(&data.class_counts).map(class).collect(),
            false => section.class_names().to_vec(),
        };
        let tables =
            [scores(section, false), scores(section, true), paired(section), layers(section)];
        Self {
            section,
            answers,
            labelled: section.is_labelled(),
            classes,
            voxel_size: join(&data.voxel_size, " × "),
            tolerance: tolerance(section),
            verdict: verdict(section),
            reading: reading(section),
            turning: section.turning.iter().map(PageTurning::new).collect(),
            headline: Cells { title: "Headline", columns, left: 2, rows },
            figures: plots.map(|plot| [plot.title, plot.caption, plot.inline]).collect(),
            swatches: swatches.filter(|_| answers == AnswerKind::Voxels).collect(),
            tables: tables.into_iter().flatten().collect(),
            definitions: section.definitions(),
            axes: join(&protocol.axes.iter().map(|a| axis_name(*a)).collect::<Vec<_>>(), ", "),
            angles: join(&protocol.angles, ", "),
            translations: join(&protocol.translations, ", "),
            sources: protocol.sources.iter().map(ToString::to_string).collect(),
            others: others.map(|condition| condition.to_string()).collect(),
        }
    }
}

fn swatch((class, name): (usize, &String)) -> [String; 2] {
    let [r, g, b] = label_colour(class);
    [name.clone(), format!("#{r:02x}{g:02x}{b:02x}")]
}

fn headings(first: &[&str], others: &[&str]) -> Vec<String> {
    first.iter().chain(others).map(ToString::to_string).collect()
}

/// The table of the measures under all conditions, of no class or of each class; nothing where there are none.
fn scores(section: &Section, of_class: bool) -> Option<Cells> {
    let mut definitions = section.definitions();
    definitions.retain(|definition| definition.of_class == of_class);
    let names = section.class_names().iter().map(Some);
    let classes: Vec<Option<&String>> = if of_class { names.collect() } else { vec![None] };
    let mut rows = vec![];
    for (model, source) in section.sources() {
        for report in &source.conditions {
            for class in &classes {
                let first =
                    [model.name.clone(), source.source.to_string(), report.condition.to_string()];
                let measures = definitions.iter().map(|d| {
                    let found = class
                        .map_or_else(|| report.get(d.name), |class| report.of_class(d.name, class));
                    cell(found, d.unit, d.interval)
                });
                rows.push(first.into_iter().chain(class.cloned()).chain(measures).collect());
            }
        }
    }
    let columns: Vec<&str> = definitions.iter().map(|definition| definition.heading).collect();
    let title = if of_class { "Scores of every class" } else { "Scores under every condition" };
    let first = ["model", "source", "condition", "class"];
    let left = if of_class { 4 } else { 3 };
    let columns = headings(&first[..left], &columns);
    (!definitions.is_empty()).then_some(Cells { title, columns, left, rows })
}

/// The table of differences between models, if there are several.
fn paired(section: &Section) -> Option<Cells> {
    let unit = section.score().unit;
    let row = |test: &PairedTest| {
        let [first, second] = &test.models;
        vec![
            format!("{first} − {second}"),
            test.condition.to_string(),
            cell(Some(test.difference), unit, true),
            format!("{:.4}", test.p_value),
        ]
    };
    let rows: Vec<_> = section.paired.iter().map(row).collect();
    let columns = headings(&["models", "condition", "difference", "p"], &[]);
    let title = "Differences between models";
    (!rows.is_empty()).then_some(Cells { title, columns, left: 2, rows })
}

/// The table of the layers, if a model shows some.
fn layers(section: &Section) -> Option<Cells> {
    let error = |e: Option<f64>| e.map_or_else(|| "–".into(), |e| format!("{e:.1e}"));
    let mut rows = vec![];
    for (model, source) in section.sources() {
        rows.extend(source.layers.iter().map(|layer| {
            vec![
                model.name.clone(),
                source.source.to_string(),
                layer.name.clone(),
                layer.irreps.clone(),
                join(&layer.shape, " × "),
                error(layer.random),
                error(layer.cube),
            ]
        }));
    }
    let first = ["model", "source", "layer", "irreps"];
    let columns = headings(&first, &["shape", "random rotations", "cube rotations"]);
    let title = "Equivariance error of every layer";
    (!rows.is_empty()).then_some(Cells { title, columns, left: 4, rows })
}
