//! The page of the report: one file without scripts or references to anything outside it.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use minijinja::value::Serde;
use minijinja::{AutoEscape, Environment, context};

use super::svg::page_style;
use super::tables::{HEADLINE, headline, results_csv};
use super::{GalleryItem, Report, Section, figures, percent, percent_interval, reading};
use crate::EvalError;
use crate::metrics::Estimate;
use crate::paired::PairedTest;
use crate::protocol::{Protocol, axis_name};

/// The report as one HTML page.
///
/// # Errors
/// [`EvalError::Page`] if the template cannot be filled in.
pub fn html(report: &Report) -> Result<String, EvalError> {
    let mut environment = Environment::new();
    environment.set_auto_escape_callback(|_| AutoEscape::Html);
    let template = environment.template_from_str(include_str!("page.html"))?;
    let sections: Vec<_> = report.sections.iter().map(section_context).collect();
    Ok(template.render(context! {
        downloads => downloads(report)?,
        title => report.title.as_str(),
        version => report.steer3d_version.as_str(),
        command => report.command.as_str(),
        style => format!("{}{}", include_str!("page.css"), page_style()),
        sections => sections,
    })?)
}

/// File names and contents, as data URIs, of the tables that the page carries.
fn downloads(report: &Report) -> Result<Vec<minijinja::Value>, EvalError> {
    let files = [
        ("results.csv", "text/csv", results_csv(report)?),
        ("report.json", "application/json", report.to_json()?),
    ];
    let download = |(name, kind, text): (&str, &str, String)| {
        let uri = format!("data:{kind};base64,{}", STANDARD.encode(text));
        context! { name => name, uri => uri }
    };
    Ok(files.map(download).to_vec())
}

fn section_context(section: &Section) -> minijinja::Value {
    let figures: Vec<_> = figures(section, "")
        .into_iter()
        .map(|f| context! { title => f.title, caption => f.caption, svg => f.inline })
        .collect();
    let data = &section.dataset;
    context! {
        data => Serde(data),
        items => data.class_counts.iter().sum::<usize>(),
        dims => join(&data.dims, " × "),
        voxel_size => join(&data.voxel_size, " × "),
        protocol => Serde(&section.protocol),
        axes => section.protocol.axes.iter().map(|a| axis_name(*a)).collect::<Vec<_>>().join(", "),
        others => other_conditions(&section.protocol),
        angles => join(&section.protocol.angles, ", "),
        translations => join(&section.protocol.translations, ", "),
        sources => section.protocol.sources.iter().map(ToString::to_string).collect::<Vec<_>>(),
        reading => reading(section),
        headline_columns => HEADLINE.to_vec(),
        headline => Serde(headline(section)),
        figures => figures,
        gallery => section.gallery.iter().map(|item| gallery_context(section, item)).collect::<Vec<_>>(),
        conditions => condition_rows(section),
        paired => paired_rows(section),
        layers => layer_rows(section),
    }
}

/// The conditions of a protocol that have no line of their own on the page.
fn other_conditions(protocol: &Protocol) -> Vec<String> {
    let shown = ["unrotated", "random", "angle", "translation", "about"];
    let others = protocol.conditions().into_iter().filter(|c| !shown.contains(&c.kind()));
    others.map(|condition| condition.to_string()).collect()
}

fn join(numbers: &[impl ToString], separator: &str) -> String {
    numbers.iter().map(ToString::to_string).collect::<Vec<_>>().join(separator)
}

fn gallery_context(section: &Section, item: &GalleryItem) -> minijinja::Value {
    let name = |class: usize| &section.dataset.class_names[class];
    let views: Vec<_> = item
        .views
        .iter()
        .map(|view| {
            let verdicts: Vec<_> = view
                .verdicts
                .iter()
                .map(|v| {
                    context! {
                        model => v.model.as_str(),
                        class => name(v.class).as_str(),
                        right => v.class == item.label,
                        percent => format!("{:.0}", 100.0 * v.probability),
                    }
                })
                .collect();
            context! {
                caption => view.caption.as_str(),
                projection => view.projection.as_str(),
                slice => view.slice.as_str(),
                verdicts => verdicts,
            }
        })
        .collect();
    context! { id => item.id.as_str(), label => name(item.label).as_str(), views => views }
}

/// The cells of every row of the table of all conditions.
fn condition_rows(section: &Section) -> Vec<Vec<String>> {
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
    rows
}

/// The cells of every row of the table of differences between models.
fn paired_rows(section: &Section) -> Vec<Vec<String>> {
    let row = |test: &PairedTest| {
        let [first, second] = &test.models;
        vec![
            format!("{first} − {second}"),
            test.condition.to_string(),
            percent_interval(test.difference),
            format!("{:.4}", test.p_value),
        ]
    };
    section.paired.iter().map(row).collect()
}

/// The cells of every row of the table of the layers.
fn layer_rows(section: &Section) -> Vec<Vec<String>> {
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
    rows
}
