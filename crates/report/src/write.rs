//! The files of a report.

use std::fs;
use std::io;
use std::path::Path;

use steer3d_eval::{Comparison, Report};
use steer3d_files as atomic;

use crate::error::ReportError;
use crate::figures::figures;
use crate::html::html;
use crate::raster::png;
use crate::tables::{comparison_csv, comparison_markdown, predictions_csv, results_csv};

/// Writes `report.html`, `report.json`, `results.csv`, `predictions.csv` and every plot as
/// `figures/NAME.svg` and `figures/NAME.png` into the folder `dir`, which is made if need be. Each file is written under
/// another name, flushed to disk and renamed, so that a reader never sees half a file.
///
/// # Errors
/// [`ReportError::Write`] naming the file that could not be written, or an error of formatting.
pub fn write_report(dir: &Path, report: &Report) -> Result<(), ReportError> {
    let figure_dir = dir.join("figures");
    make_folder(&figure_dir)?;
    for (i, section) in report.sections.iter().enumerate() {
        for figure in figures(section, &section_name(i, &section.dataset.name)) {
            write_file(&figure_dir, &format!("{}.svg", figure.name), &figure.file)?;
            let path = figure_dir.join(format!("{}.png", figure.name));
            let fault = |source| ReportError::Write { path: path.clone(), source };
            let picture = png(&figure.file).map_err(|e| fault(io::Error::other(e)))?;
            atomic::write(&path, &picture).map_err(fault)?;
        }
    }
    write_file(dir, "predictions.csv", &predictions_csv(report)?)?;
    write_file(dir, "results.csv", &results_csv(report)?)?;
    write_file(dir, "report.json", &report.to_json()?)?;
    write_file(dir, "report.html", &html(report)?)
}

/// Writes `comparison.json`, `comparison.csv` and `comparison.md` into the folder `dir`.
///
/// # Errors
/// As [`write_report`].
pub fn write_comparison(dir: &Path, comparison: &Comparison) -> Result<(), ReportError> {
    write_file(dir, "comparison.json", &serde_json::to_string_pretty(comparison)?)?;
    write_file(dir, "comparison.csv", &comparison_csv(comparison)?)?;
    write_file(dir, "comparison.md", &format!("{}\n", comparison_markdown(comparison)))
}

/// Makes a folder if need be.
pub(crate) fn make_folder(dir: &Path) -> Result<(), ReportError> {
    fs::create_dir_all(dir).map_err(|source| ReportError::Write { path: dir.into(), source })
}

/// A file name for section `index`: its number and the letters and digits of its name.
fn section_name(index: usize, name: &str) -> String {
    let kept: String = name
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' })
        .collect();
    format!("{}-{}", index + 1, kept.trim_matches('-'))
}

pub(crate) fn write_file(dir: &Path, name: &str, text: &str) -> Result<(), ReportError> {
    let path = dir.join(name);
    atomic::write(&path, text.as_bytes()).map_err(|source| ReportError::Write { path, source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn section_names_are_safe_file_names() {
        assert_eq!(section_name(0, "CATH (small) / 24³"), "1-cath--small----24");
        assert_eq!(section_name(1, "../../etc"), "2-etc");
    }

    #[test]
    fn a_file_is_replaced_and_nothing_else_is_left() {
        let dir = tempfile::tempdir().unwrap();
        write_file(dir.path(), "a.txt", "old").unwrap();
        write_file(dir.path(), "a.txt", "new").unwrap();
        assert_eq!(fs::read_to_string(dir.path().join("a.txt")).unwrap(), "new");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn an_unwritable_place_is_named() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("taken"), "").unwrap();
        let report = Report::new("t", "", Vec::new());
        let message = write_report(&dir.path().join("taken"), &report).unwrap_err().to_string();
        assert!(message.contains("taken"), "{message}");
    }
}
