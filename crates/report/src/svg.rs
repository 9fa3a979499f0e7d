//! Drawing primitives: SVG text with classes, coloured by one style sheet.

use std::fmt::{Display, Write};

/// Colours that tell models apart, after Okabe and Ito's palette (colour-blind safe), for light
/// and for dark backgrounds.
const MODEL_COLOURS: [[&str; 2]; 6] = [
    ["#0072b2", "#4aa8e0"],
    ["#d55e00", "#ff8c42"],
    ["#009e73", "#2cc79a"],
    ["#b0578d", "#e09ac4"],
    ["#8a6d00", "#e0b93f"],
    ["#4b4b4b", "#b8b8b8"],
];

/// The colours of one background.
struct Theme {
    ink: &'static str,
    muted: &'static str,
    grid: &'static str,
    paper: &'static str,
    column: usize,
}

const LIGHT: Theme =
    Theme { ink: "#1b222c", muted: "#5a6472", grid: "#dde2e9", paper: "#ffffff", column: 0 };
const DARK: Theme =
    Theme { ink: "#e4e8ee", muted: "#a3adba", grid: "#363e49", paper: "#171b21", column: 1 };

impl Theme {
    fn css(&self) -> String {
        let Self { ink, muted, grid, paper, column } = self;
        let mut css = format!(
            ".fig text{{fill:{ink}}}.fig .muted{{fill:{muted}}}.fig .on{{fill:{paper}}}\
             .fig .grid{{stroke:{grid}}}.fig .axis,.fig .whisker{{stroke:{muted}}}\
             .fig .reference{{stroke:{muted};stroke-dasharray:2 4}}.fig .cell{{stroke:{grid}}}"
        );
        for (i, colours) in MODEL_COLOURS.iter().enumerate() {
            let colour = colours[*column];
            let _ = write!(
                css,
                ".fig .l{i}{{stroke:{colour}}}.fig .f{i}{{fill:{colour}}}.m{i} i{{background:{colour}}}"
            );
        }
        css
    }
}

const SHAPES: &str = ".fig{font-family:Helvetica,Arial,sans-serif;font-size:12px}\
    .fig .title{font-weight:bold}.fig .small{font-size:11px}.fig .tiny{font-size:9px}\
    .fig .line{fill:none;stroke-width:2;stroke-linejoin:round}.fig .dash{stroke-dasharray:6 4}\
    .fig .band{fill-opacity:.13;stroke:none}.fig .pale{fill-opacity:.38}\
    .fig .open{fill:none;stroke-width:1.6}.fig .grid,.fig .axis,.fig .whisker{stroke-width:1}";

/// The style sheet of the page: light, and dark on a screen that asks for it.
pub(crate) fn page_style() -> String {
    format!(
        "{SHAPES}{}@media screen and (prefers-color-scheme:dark){{{}}}",
        LIGHT.css(),
        DARK.css()
    )
}

/// A drawing under construction.
pub(crate) struct Svg {
    width: f64,
    height: f64,
    label: String,
    body: String,
}

/// Where a text is anchored.
#[derive(Clone, Copy)]
pub(crate) enum Anchor {
    Start,
    Middle,
    End,
}

impl Svg {
    /// An empty drawing; `label` describes it for readers who cannot see it.
    pub(crate) fn new(width: f64, height: f64, label: &str) -> Self {
        Self { width, height, label: label.into(), body: String::new() }
    }

    pub(crate) fn line(&mut self, class: &str, from: [f64; 2], to: [f64; 2]) {
        let ([x1, y1], [x2, y2]) = (from, to);
        self.push(format_args!(
            r#"<line class="{class}" x1="{x1:.1}" y1="{y1:.1}" x2="{x2:.1}" y2="{y2:.1}"/>"#
        ));
    }

    pub(crate) fn polyline(&mut self, class: &str, points: &[[f64; 2]]) {
        self.push(format_args!(r#"<polyline class="{class}" points="{}"/>"#, coordinates(points)));
    }

    pub(crate) fn polygon(&mut self, class: &str, points: &[[f64; 2]]) {
        self.push(format_args!(r#"<polygon class="{class}" points="{}"/>"#, coordinates(points)));
    }

    /// A polygon with an opacity.
    pub(crate) fn shade(&mut self, class: &str, points: &[[f64; 2]], opacity: f64) {
        self.push(format_args!(
            r#"<polygon class="{class}" points="{}" fill-opacity="{opacity:.3}"/>"#,
            coordinates(points)
        ));
    }

    pub(crate) fn circle(&mut self, class: &str, [x, y]: [f64; 2], radius: f64) {
        self.push(format_args!(
            r#"<circle class="{class}" cx="{x:.1}" cy="{y:.1}" r="{radius}"/>"#
        ));
    }

    /// A rectangle from its upper left corner, with an opacity.
    pub(crate) fn rect(&mut self, class: &str, [x, y]: [f64; 2], size: [f64; 2], opacity: f64) {
        let [width, height] = size;
        self.push(format_args!(
            r#"<rect class="{class}" x="{x:.1}" y="{y:.1}" width="{width:.1}" height="{height:.1}" opacity="{opacity:.3}"/>"#
        ));
    }

    /// A grey square from its upper left corner.
    pub(crate) fn square(&mut self, [x, y]: [f64; 2], side: f64, grey: u8) {
        self.push(format_args!(
            r#"<rect fill="rgb({grey},{grey},{grey})" x="{x}" y="{y}" width="{side}" height="{side}"/>"#
        ));
    }

    pub(crate) fn text(&mut self, class: &str, [x, y]: [f64; 2], anchor: Anchor, text: &str) {
        let anchor = match anchor {
            Anchor::Start => "start",
            Anchor::Middle => "middle",
            Anchor::End => "end",
        };
        let text = escape(text);
        self.push(format_args!(
            r#"<text class="{class}" x="{x:.1}" y="{y:.1}" text-anchor="{anchor}">{text}</text>"#
        ));
    }

    /// Text that reads upwards.
    pub(crate) fn vertical_text(&mut self, class: &str, [x, y]: [f64; 2], text: &str) {
        let text = escape(text);
        self.push(format_args!(
            r#"<text class="{class}" transform="translate({x:.1},{y:.1}) rotate(-90)" text-anchor="middle">{text}</text>"#
        ));
    }

    fn push(&mut self, element: impl Display) {
        let _ = writeln!(self.body, "{element}");
    }

    /// The element to put into a page that carries [`page_style`].
    pub(crate) fn inline(&self) -> String {
        self.element("", "")
    }

    /// A file of its own, on white.
    pub(crate) fn file(&self) -> String {
        let style = format!("<style>{SHAPES}.fig{{background:#fff}}{}</style>\n", LIGHT.css());
        self.element(r#" xmlns="http://www.w3.org/2000/svg""#, &style)
    }

    fn element(&self, namespace: &str, style: &str) -> String {
        let Self { width, height, label, body } = self;
        let label = escape(label);
        format!(
            "<svg{namespace} class=\"fig\" role=\"img\" aria-label=\"{label}\" \
             viewBox=\"0 0 {width:.0} {height:.0}\" width=\"{width:.0}\" height=\"{height:.0}\">\n\
             {style}{body}</svg>\n"
        )
    }
}

fn coordinates(points: &[[f64; 2]]) -> String {
    points.iter().map(|[x, y]| format!("{x:.1},{y:.1}")).collect::<Vec<_>>().join(" ")
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// Number of the colour of a model.
pub(crate) fn colour(model: usize) -> usize {
    model % MODEL_COLOURS.len()
}

/// `text` cut to `limit` characters, with an ellipsis where something was cut.
pub(crate) fn shorten(text: &str, limit: usize) -> String {
    if text.chars().count() <= limit {
        return text.into();
    }
    let kept: String = text.chars().take(limit - 1).collect();
    format!("{}…", kept.trim_end())
}

/// Width of `text` at 12 pixels, about.
pub(crate) fn text_width(text: &str) -> f64 {
    6.6 * text.chars().count() as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_escaped() {
        let mut svg = Svg::new(10.0, 10.0, "a \"b\"");
        svg.text("", [0.0, 0.0], Anchor::Start, "<script> & co");
        let text = svg.inline();
        assert!(text.contains("&lt;script&gt; &amp; co") && text.contains("a &quot;b&quot;"));
    }

    #[test]
    fn shorten_counts_characters() {
        assert_eq!(shorten("größer", 6), "größer");
        assert_eq!(shorten("größere", 6), "größe…");
    }
}
