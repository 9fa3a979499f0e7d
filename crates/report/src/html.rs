//! The report as one page without scripts or references to anything outside it.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use minijinja::value::Serde;
use minijinja::{AutoEscape, Environment, context};
use serde::Serialize;
use steer3d_eval::{AnswerKind, DatasetSummary, PairedTest, Protocol, Report, Section, axis_name};

use crate::error::ReportError;
use crate::figures::figures;
use crate::gallery::label_colour;
use crate::headline::{headline, note};
use crate::numbers::{cell, join, percent};
use crate::reading::reading;
use crate::svg::page_style;
use crate::tables::results_csv;

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
            download("report.json", "application/json", report.to_json()?),
        ],
        title => &report.title,
        version => &report.steer3d_version,
        command => &report.command,
        style => format!("{}{}", include_str!("page.css"), page_style()),
        sections => Serde(&sections),
    })?)
}

/// What was measured on one dataset, in words and cells.
#[derive(Serialize)]
struct PageSection<'a> {
    #[serde(flatten)]
    section: &'a Section,
    /// What the data are.
    about: String,
    /// What the numbers say.
    reading: Vec<String>,
    headline: Cells,
    /// Heading, caption and drawing of each plot.
    figures: Vec<[String; 3]>,
    gallery_note: &'static str,
    /// What the colours of the pictures mean: names and colours of CSS.
    swatches: Vec<[String; 2]>,
    tables: Vec<Cells>,
    /// Names and definitions of what was measured.
    measures: Vec<(String, String)>,
    axes: String,
    angles: String,
    translations: String,
    sources: Vec<String>,
    /// The conditions that have no line of their own on the page.
    others: Vec<String>,
    /// What a search for worst rotations lowers.
    margin: &'static str,
}

/// A table, the first `left` columns of which are words.
#[derive(Default, Serialize)]
struct Cells {
    title: &'static str,
    columns: Vec<String>,
    left: usize,
    rows: Vec<Vec<String>>,
    note: &'static str,
}

impl<'a> PageSection<'a> {
    fn new(section: &'a Section) -> Self {
        let (answers, protocol) = (section.answers(), &section.protocol);
        let (columns, rows) = headline(section);
        let columns = columns.into_iter().map(String::from).collect();
        let plots = figures(section, "").into_iter();
        let shown = ["unrotated", "random", "angle", "translation", "about"];
        let others = protocol.conditions().into_iter().filter(|c| !shown.contains(&c.kind()));
        Self {
            section,
            about: about(section),
            reading: reading(section),
            headline: Cells { columns, left: 2, rows, note: note(answers), ..Cells::default() },
            figures: plots.map(|plot| [plot.title, plot.caption, plot.inline]).collect(),
            gallery_note: gallery_note(answers),
            swatches: match answers {
                AnswerKind::Voxels => {
                    section.dataset.class_names.iter().enumerate().map(swatch).collect()
                }
                AnswerKind::Classes | AnswerKind::Values => vec![],
            },
            tables: [
                scores(section, false),
                scores(section, true),
                paired(section),
                layers(section),
            ]
            .into_iter()
            .flatten()
            .collect(),
            measures: measures(section),
            axes: protocol.axes.iter().map(|a| axis_name(*a)).collect::<Vec<_>>().join(", "),
            angles: join(&protocol.angles, ", "),
            translations: join(&protocol.translations, ", "),
            sources: protocol.sources.iter().map(ToString::to_string).collect(),
            others: others.map(|condition| condition.to_string()).collect(),
            margin: match answers {
                AnswerKind::Classes => {
                    "with the least margin (logit of the right class less the largest other; the search ends where the model is wrong)"
                }
                AnswerKind::Voxels => "with the least mean Dice",
                AnswerKind::Values => "with the largest squared error",
            },
        }
    }
}

/// `96 volumes of the test split, 24 × 24 × 24 voxels (D × H × W) of 2 × 2 × 2 angstrom, 1 channel; ` and the
/// classes or targets.
fn about(section: &Section) -> String {
    let data: &DatasetSummary = &section.dataset;
    let counts = data.class_names.iter().zip(&data.class_counts);
    let total: usize = data.class_counts.iter().sum();
    let of = |(name, n): (&String, &usize)| match section.answers() {
        AnswerKind::Voxels => format!("{name} ({} %)", percent(*n as f64 / total.max(1) as f64)),
        _ => format!("{name} ({n})"),
    };
    let classes: Vec<String> = counts.map(of).collect();
    let answers = match section.answers() {
        AnswerKind::Classes => format!("{} classes: {}", classes.len(), classes.join(", ")),
        AnswerKind::Voxels => {
            format!("{} classes of voxels: {}", classes.len(), classes.join(", "))
        }
        AnswerKind::Values => format!("targets {}", data.targets.as_deref().unwrap_or_default()),
    };
    format!(
        "{} volumes of the {} split, {} voxels (D × H × W) of {} {}, {} channel{}; {answers}.",
        data.items,
        data.split,
        join(&data.dims, " × "),
        join(&data.voxel_size, " × "),
        data.unit,
        data.channels,
        if data.channels == 1 { "" } else { "s" },
    )
}

fn gallery_note(answers: AnswerKind) -> &'static str {
    match answers {
        AnswerKind::Classes => {
            "Left of each pair: maximum along z; right: the central slice; x to the right, y \
             down, brightness as in the unrotated volume. First come volumes that a model \
             classifies right as stored and wrong when turned. Per cent: the model's own \
             probability."
        }
        AnswerKind::Voxels => {
            "The slice along z with the most labelled voxels; x to the right, y down. For each \
             volume the orientation in which the labels of a model get worse the most, from the \
             volume that loses most to that which loses least. Per cent: voxels of the whole \
             volume, background left out, that are labelled right."
        }
        AnswerKind::Values => "",
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
    let mut definitions = section.answers().definitions();
    definitions.retain(|definition| definition.of_class == of_class);
    let names = section.dataset.class_names.iter().map(Some);
    let classes: Vec<Option<&String>> = if of_class { names.collect() } else { vec![None] };
    let mut rows = vec![];
    for model in &section.models {
        for source in &model.sources {
            for (report, class) in
                source.conditions.iter().flat_map(|report| classes.iter().map(move |c| (report, c)))
            {
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
    let class = if of_class { &["class"][..] } else { &[] };
    Some(Cells {
        title: if of_class { "Scores of every class" } else { "Scores under every condition" },
        columns: headings(&[&["model", "source", "condition"], class].concat(), &columns),
        left: 3 + class.len(),
        rows,
        note: "",
    })
    .filter(|_| !definitions.is_empty())
}

/// The table of differences between models, if there are several.
fn paired(section: &Section) -> Option<Cells> {
    let unit = section.answers().score().unit;
    let row = |test: &PairedTest| {
        let [first, second] = &test.models;
        vec![
            format!("{first} − {second}"),
            test.condition.to_string(),
            cell(Some(test.difference), unit, true),
            format!("{:.4}", test.p_value),
        ]
    };
    let table = Cells {
        title: "Differences between models",
        columns: headings(&["models", "condition"], &["difference", "p"]),
        left: 2,
        rows: section.paired.iter().map(row).collect(),
        note: "Score of the first model less that of the second on the same volumes (the first source): accuracy in \
               points; of labels of voxels the accuracy in each volume, background left out; of values the mean \
               absolute error; with the bootstrap interval. p: two-sided sign-flip test over volumes, each with the mean \
               over its transformations, 9,999 choices of signs, not corrected for the number of tests. \
               Both speak of these trained networks, not of what another training would give.",
    };
    (!table.rows.is_empty()).then_some(table)
}

/// The table of the layers, if a model shows some.
fn layers(section: &Section) -> Option<Cells> {
    let error = |e: Option<f64>| e.map_or_else(|| "–".into(), |e| format!("{e:.1e}"));
    let mut rows = Vec::new();
    for model in &section.models {
        for source in &model.sources {
            for layer in &source.layers {
                rows.push(vec![
                    model.name.clone(),
                    source.source.to_string(),
                    layer.name.clone(),
                    layer.irreps.clone(),
                    join(&layer.shape, " × "),
                    error(layer.random),
                    error(layer.cube),
                ]);
            }
        }
    }
    let table = Cells {
        title: "Equivariance error of every layer",
        columns: headings(
            &["model", "source", "layer", "irreps"],
            &["shape", "random rotations", "cube rotations"],
        ),
        left: 4,
        rows,
        note: "",
    };
    (!table.rows.is_empty()).then_some(table)
}

fn measures(section: &Section) -> Vec<(String, String)> {
    let protocol: &Protocol = &section.protocol;
    let first = match section.answers() {
        AnswerKind::Classes => None,
        AnswerKind::Voxels => Some((
            "labels",
            format!(
                "the logits f(R x) are turned and moved back, y(p) = f(R x)(R p + t), by cubic \
                 splines, and the label of a voxel is the largest of y; so labels and answers are compared \
                 on the stored grid. Voxels whose place R p + t lies outside the grid are left out. All counts of \
                 voxels are summed over volumes and rotations before ratios are taken. The background is {}.",
                section.dataset.class_names[0]
            ),
        )),
        AnswerKind::Values => Some((
            "outputs",
            "are turned back first: y = D(R)⁻¹ f(R x), D the Wigner-D matrix of the irreps"
                .to_owned(),
        )),
    };
    let mut measures: Vec<(String, String)> =
        first.into_iter().map(|(name, text)| (name.to_owned(), text)).collect();
    measures.extend(section.answers().definitions().into_iter().map(|definition| {
        let name = definition.name.replace('_', " ");
        let class = if definition.of_class { " of a class" } else { "" };
        (format!("{name}{class}"), definition.meaning.to_owned())
    }));
    measures.push((
        "layer error".into(),
        format!(
            "‖M (L(Rx) − ρ(R) L(x))‖ / ‖M ρ(R) L(x)‖, M the ball |p| ≤ 0.35 N of the layer's grid; \
             mean over the first {} volumes and {} rotations of each. The row “input” is the volume \
             itself: what resampling alone costs; the row “features” what the last, linear layer is \
             given.",
            protocol.layer_items, protocol.layer_rotations
        ),
    ));
    measures.push((
        "intervals".into(),
        format!(
            "95 %, percentile bootstrap over volumes ({} resamples, seeded); all rotations of a volume are \
             drawn together. They do not cover the chance of training, and have no width where all volumes \
             agree (0 or 100 %).",
            protocol.resamples
        ),
    ));
    measures
}
