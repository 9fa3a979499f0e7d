//! The page of classifiers.

use super::page::{
    Cells, Method, Page, PageItem, PageLine, PagePicture, PageSection, PageView, about, intervals,
    join, page_figures,
};
use super::tables::{HEADLINE, headline, results_csv};
use super::{GalleryItem, Report, Section, View, figures, percent, percent_interval, reading};
use crate::EvalError;
use crate::metrics::Estimate;
use crate::paired::PairedTest;
use crate::protocol::Protocol;

/// The report as one HTML page.
///
/// # Errors
/// [`EvalError::Page`] if the template cannot be filled in.
pub fn html(report: &Report) -> Result<String, EvalError> {
    let page = Page {
        title: &report.title,
        version: &report.steer3d_version,
        command: &report.command,
        downloads: vec![
            ("results.csv", "text/csv", results_csv(report)?),
            ("report.json", "application/json", report.to_json()?),
        ],
        sections: report.sections.iter().map(page_section).collect(),
    };
    page.html()
}

fn page_section(section: &Section) -> PageSection {
    let data = &section.dataset;
    let items = data.class_counts.iter().sum();
    let counts = data.class_names.iter().zip(&data.class_counts);
    let counts: Vec<String> = counts.map(|(name, n)| format!("{name} ({n})")).collect();
    let classes = format!("{} classes: {}", counts.len(), counts.join(", "));
    PageSection {
        name: data.name.clone(),
        about: about(data, items, &classes),
        reading: reading(section),
        headline: headline_cells(section),
        figures: page_figures(figures(section, "")),
        gallery_note: "Left of each pair: maximum along z; right: the central slice; x to the right, y \
                       down, brightness as in the unrotated volume. First come volumes that a model \
                       classifies right as stored and wrong when turned. Per cent: the model's own \
                       probability.",
        swatches: vec![],
        gallery: section.gallery.iter().map(|item| page_item(section, item)).collect(),
        tables: [conditions(section)]
            .into_iter()
            .chain(paired(section))
            .chain(layers(section))
            .collect(),
        files: "every single prediction: predictions.csv, the figures: figures/, both beside this page",
        method: Method::new(&section.protocol),
        measures: measures(&data.class_names, &section.protocol),
        provenance: data.provenance.clone(),
    }
}

fn headline_cells(section: &Section) -> Cells {
    Cells {
        columns: columns(&["model", "source"], &HEADLINE),
        left: 2,
        rows: headline(section),
        note: "In brackets: 95 % bootstrap intervals. Consistent: the prediction is the unrotated one \
               under every random rotation. Worst case: right unrotated and under every random rotation. \
               Deviation: mean of ‖l(Rx) − l(x)‖ of the logits l, over the root mean square of ‖l(x)‖.",
        ..Cells::default()
    }
}

pub(super) fn columns(first: &[&str], others: &[&str]) -> Vec<String> {
    first.iter().chain(others).map(ToString::to_string).collect()
}

fn page_item(section: &Section, item: &GalleryItem) -> PageItem {
    let name = |class: usize| &section.dataset.class_names[class];
    let picture = |what: &str, uri: &str, view: &View| PagePicture {
        uri: uri.into(),
        alt: format!("{what} of {}, {}", item.id, view.caption),
        below: String::new(),
    };
    let view = |view: &View| PageView {
        caption: view.caption.clone(),
        pictures: vec![
            picture("projection", &view.projection, view),
            picture("central slice", &view.slice, view),
        ],
        lines: view
            .verdicts
            .iter()
            .map(|v| {
                let right = v.class == item.label;
                let mark = if right { "✓" } else { "✗" };
                let percent = 100.0 * v.probability;
                PageLine {
                    text: format!("{mark} {}: {} ({percent:.0} %)", v.model, name(v.class)),
                    class: if right { "good" } else { "bad" },
                }
            })
            .collect(),
    };
    PageItem {
        title: format!("{}: {}", item.id, name(item.label)),
        views: item.views.iter().map(view).collect(),
    }
}

/// The table of all conditions.
fn conditions(section: &Section) -> Cells {
    let interval = |e: Option<Estimate>| e.map_or_else(|| "–".into(), percent_interval);
    let plain = |e: Option<Estimate>| e.map_or_else(|| "–".into(), |e| percent(e.value));
    let mut rows = Vec::new();
    for model in &section.models {
        for source in &model.sources {
            for report in &source.conditions {
                let (scores, stability) = (&report.scores, report.stability.as_ref());
                let deviation = stability
                    .map_or_else(|| "–".into(), |s| format!("{:.2e}", s.relative_deviation.value));
                rows.push(vec![
                    model.name.clone(),
                    source.source.to_string(),
                    report.condition.to_string(),
                    interval(Some(scores.accuracy)),
                    plain(Some(scores.balanced_accuracy)),
                    plain(Some(scores.macro_f1)),
                    scores.auc.map_or_else(|| "–".into(), |e| format!("{:.3}", e.value)),
                    percent(scores.calibration_error.value),
                    interval(stability.map(|s| s.consistency)),
                    plain(stability.map(|s| s.agreement)),
                    plain(stability.map(|s| s.worst_case_accuracy)),
                    deviation,
                ]);
            }
        }
    }
    Cells {
        title: "Scores under every condition",
        columns: columns(
            &["model", "source", "condition"],
            &[
                "accuracy %",
                "balanced %",
                "macro F1 %",
                "AUC",
                "calibration error %",
                "consistent %",
                "same prediction %",
                "worst case %",
                "deviation",
            ],
        ),
        left: 3,
        rows,
        note: "",
    }
}

/// The table of differences between models, if there are several.
fn paired(section: &Section) -> Option<Cells> {
    let row = |test: &PairedTest| {
        let [first, second] = &test.models;
        vec![
            format!("{first} − {second}"),
            test.condition.to_string(),
            percent_interval(test.difference),
            format!("{:.4}", test.p_value),
        ]
    };
    let table = Cells {
        title: "Differences between models",
        columns: columns(&["models", "condition"], &["difference, points", "p"]),
        left: 2,
        rows: section.paired.iter().map(row).collect(),
        note: "Accuracy of the first model less that of the second on the same volumes (the first source), \
               with the bootstrap interval. p: two-sided sign-flip test over volumes, each with the mean \
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
        columns: columns(
            &["model", "source", "layer", "irreps"],
            &["shape", "random rotations", "cube rotations"],
        ),
        left: 4,
        rows,
        note: "",
    };
    (!table.rows.is_empty()).then_some(table)
}

fn measures(classes: &[String], protocol: &Protocol) -> Vec<(&'static str, String)> {
    let pooled = match classes {
        [_, second] => format!("of the class {second}"),
        _ => "mean over the classes of one against the rest".into(),
    };
    vec![
        (
            "accuracy",
            "share of single predictions that are right; per class: of the items of that class. \
             Balanced: mean over the classes. Macro F1: mean over the classes of 2 TP / (2 TP + FP + FN)."
                .into(),
        ),
        (
            "AUC",
            format!(
                "area under the ROC curve of the softmax probabilities, pooled over volumes and \
                 rotations; {pooled}"
            ),
        ),
        (
            "calibration error",
            "mean over predictions of |share right − mean probability| in their bin, of 15".into(),
        ),
        (
            "consistent",
            "share of volumes whose predicted class under every rotation is the unrotated one, right or \
             wrong"
                .into(),
        ),
        ("worst case", "share of volumes classified right unrotated and under every rotation".into()),
        (
            "deviation",
            "mean of ‖l(Rx) − l(x)‖ of the logits l over volumes and rotations, divided by the root mean square of ‖l(x)‖ over volumes"
                .into(),
        ),
        (
            "layer error",
            format!(
                "‖M (L(Rx) − ρ(R) L(x))‖ / ‖M ρ(R) L(x)‖, M the ball |p| ≤ 0.35 N of the layer's grid; \
                 mean over the first {} volumes and {} rotations of each. The row “input” is the volume \
                 itself: what resampling alone costs; the row “features” what the last, linear layer is \
                 given.",
                protocol.layer_items, protocol.layer_rotations
            ),
        ),
        ("intervals", intervals(protocol)),
    ]
}
