//! The page of a report: one file without scripts or references to anything outside it.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use minijinja::value::Serde;
use minijinja::{AutoEscape, Environment, context};
use serde::Serialize;

use super::svg::page_style;
use super::{DatasetSummary, Figure};
use crate::EvalError;
use crate::protocol::{Protocol, axis_name};

/// What a page shows.
pub(super) struct Page<'a> {
    pub(super) title: &'a str,
    pub(super) version: &'a str,
    pub(super) command: &'a str,
    /// Name, MIME type and content of the tables that the page carries.
    pub(super) downloads: Vec<(&'a str, &'a str, String)>,
    pub(super) sections: Vec<PageSection>,
}

/// What was measured on one dataset, in words and cells.
#[derive(Serialize)]
pub(super) struct PageSection {
    pub(super) name: String,
    /// What the data are.
    pub(super) about: String,
    /// What the numbers say.
    pub(super) reading: Vec<String>,
    pub(super) headline: Cells,
    pub(super) figures: Vec<PageFigure>,
    pub(super) gallery_note: &'static str,
    /// What the colours of the pictures mean.
    pub(super) swatches: Vec<Swatch>,
    pub(super) gallery: Vec<PageItem>,
    pub(super) tables: Vec<Cells>,
    /// The files beside the page.
    pub(super) files: &'static str,
    /// How the volumes were transformed.
    #[serde(flatten)]
    pub(super) method: Method,
    /// Names and definitions of what was measured.
    pub(super) measures: Vec<(&'static str, String)>,
    pub(super) provenance: Vec<(String, String)>,
}

/// A table, the first `left` columns of which are words.
#[derive(Default, Serialize)]
pub(super) struct Cells {
    pub(super) title: &'static str,
    pub(super) columns: Vec<String>,
    pub(super) left: usize,
    pub(super) rows: Vec<Vec<String>>,
    pub(super) note: &'static str,
}

#[derive(Serialize)]
pub(super) struct PageFigure {
    title: String,
    caption: String,
    svg: String,
}

#[derive(Serialize)]
pub(super) struct Swatch {
    pub(super) name: String,
    /// A colour of CSS.
    pub(super) colour: String,
}

/// A volume in some orientations.
#[derive(Serialize)]
pub(super) struct PageItem {
    pub(super) title: String,
    pub(super) views: Vec<PageView>,
}

#[derive(Serialize)]
pub(super) struct PageView {
    pub(super) caption: String,
    pub(super) pictures: Vec<PagePicture>,
    pub(super) lines: Vec<PageLine>,
}

#[derive(Serialize)]
pub(super) struct PagePicture {
    /// A data URI.
    pub(super) uri: String,
    pub(super) alt: String,
    /// What is written below it; may be empty.
    pub(super) below: String,
}

#[derive(Serialize)]
pub(super) struct PageLine {
    pub(super) text: String,
    /// A class of the style sheet.
    pub(super) class: &'static str,
}

#[derive(Serialize)]
pub(super) struct Method {
    protocol: Protocol,
    axes: String,
    angles: String,
    translations: String,
    sources: Vec<String>,
    others: Vec<String>,
}

impl Method {
    pub(super) fn new(protocol: &Protocol) -> Self {
        let axes: Vec<String> = protocol.axes.iter().map(|axis| axis_name(*axis)).collect();
        Self {
            axes: axes.join(", "),
            angles: join(&protocol.angles, ", "),
            translations: join(&protocol.translations, ", "),
            sources: protocol.sources.iter().map(ToString::to_string).collect(),
            others: other_conditions(protocol),
            protocol: protocol.clone(),
        }
    }
}

/// The conditions of a protocol that have no line of their own on the page.
fn other_conditions(protocol: &Protocol) -> Vec<String> {
    let shown = ["unrotated", "random", "angle", "translation", "about"];
    let others = protocol.conditions().into_iter().filter(|c| !shown.contains(&c.kind()));
    others.map(|condition| condition.to_string()).collect()
}

impl Page<'_> {
    /// The HTML.
    pub(super) fn html(&self) -> Result<String, EvalError> {
        let mut environment = Environment::new();
        environment.set_auto_escape_callback(|_| AutoEscape::Html);
        let template = environment.template_from_str(include_str!("page.html"))?;
        let download = |(name, kind, text): &(&str, &str, String)| {
            let uri = format!("data:{kind};base64,{}", STANDARD.encode(text));
            context! { name => *name, uri => uri }
        };
        Ok(template.render(context! {
            downloads => self.downloads.iter().map(download).collect::<Vec<_>>(),
            title => self.title,
            version => self.version,
            command => self.command,
            style => format!("{}{}", include_str!("page.css"), page_style()),
            sections => Serde(&self.sections),
        })?)
    }
}

pub(super) fn page_figures(figures: Vec<Figure>) -> Vec<PageFigure> {
    let figure = |f: Figure| PageFigure { title: f.title, caption: f.caption, svg: f.inline };
    figures.into_iter().map(figure).collect()
}

/// `96 volumes of the test split, 24 × 24 × 24 voxels (D × H × W) of 2 × 2 × 2 angstrom, 1 channel; `
/// and what there is to tell, `classes`.
pub(super) fn about(data: &DatasetSummary, items: usize, classes: &str) -> String {
    format!(
        "{items} volumes of the {} split, {} voxels (D × H × W) of {} {}, {} channel{}; {classes}.",
        data.split,
        join(&data.dims, " × "),
        join(&data.voxel_size, " × "),
        data.unit,
        data.channels,
        if data.channels == 1 { "" } else { "s" },
    )
}

/// The definition of the intervals.
pub(super) fn intervals(protocol: &Protocol) -> String {
    format!(
        "95 %, percentile bootstrap over volumes ({} resamples, seeded); all rotations of a volume are \
         drawn together. They do not cover the chance of training, and have no width where all volumes \
         agree (0 or 100 %).",
        protocol.resamples
    )
}

pub(super) fn join(numbers: &[impl ToString], separator: &str) -> String {
    numbers.iter().map(ToString::to_string).collect::<Vec<_>>().join(separator)
}
