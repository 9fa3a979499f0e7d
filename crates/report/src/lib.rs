//! The files of a report: HTML, JSON, CSV, SVG and PNG, and tables for a terminal.
//!
//! * [`Evaluation`]: evaluates models and writes their report, in one call.
//! * [`write_report`], [`html`], [`results_csv`], [`predictions_csv`], [`terminal`], [`figures`], [`gallery`]: its
//!   parts, all from a [`Report`](steer3d_eval::Report).
//! * [`animation`]: a volume that turns, as an animated PNG.
//! * [`diff`]: what changed from one report to another.
//! * [`write_comparison`]: models over seeds.
//! * [`learning_curves`]: the curves of trainings.
//! * [`write_survey`]: tables and plots of equivariance errors.

mod animation;
mod axes;
mod diff;
mod error;
mod evaluation;
mod figures;
mod gallery;
mod headline;
mod html;
mod learning;
mod log_plot;
mod numbers;
mod plot;
mod raster;
mod reading;
mod survey;
mod svg;
mod tables;
mod text;
mod turning;
mod write;

pub use animation::animation;
pub use diff::{Change, diff, diff_table};
pub use error::ReportError;
pub use evaluation::{Evaluation, Watch};
pub use figures::{Figure, figures};
pub use gallery::gallery;
pub use html::html;
pub use learning::learning_curves;
pub use reading::{reading, verdict};
pub use survey::{survey_csv, survey_markdown, write_survey};
pub use tables::{
    comparison_csv, comparison_markdown, comparison_terminal, predictions_csv, results_csv,
    terminal,
};
pub use text::Text;
pub use write::{write_comparison, write_report};
