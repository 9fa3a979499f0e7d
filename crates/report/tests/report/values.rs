//! Reports of models of numbers and vectors.

use steer3d_dataset::Split;
use steer3d_eval::{ModelReport, Protocol, Report, Section, Source};
use steer3d_report::{figures, html, results_csv, terminal, write_report};

use crate::common::{Mock, quick, run, third_moment, with_targets};

/// Of the moment as a vector.
pub(crate) fn report() -> Report {
    let dir = tempfile::tempdir().unwrap();
    let data = with_targets(&dir.path().join("a.h5"), "1x1", &vec![vec![1.0, 0.0, -1.0]; 3]);
    let protocol = Protocol { sources: vec![Source::Points], ..quick() };
    let model = Mock::values("third <moment>", |volume| third_moment(volume).to_vec());
    let models: Vec<ModelReport> = vec![run(&model, &data, &protocol)];
    let section = Section::new(&data, Split::Test, protocol, models).unwrap();
    Report::new("Moments", "", vec![section])
}

#[test]
fn the_report_has_every_number() {
    let report = report();
    let conditions = &report.sections[0].models[0].sources[0].conditions;
    let lines = results_csv(&report).unwrap();
    assert_eq!(lines.lines().count(), 1 + 4 * conditions.len());
    let page = html(&report).unwrap();
    assert!(!page.contains("third <moment>") && page.contains("third &lt;moment&gt;"));
    assert_eq!(page.matches("<svg").count(), 2);
    assert_eq!(figures(&report.sections[0], "x").len(), 2);
    assert!(terminal(&report).to_string().contains("24 cube rotations"));
    let dir = tempfile::tempdir().unwrap();
    write_report(dir.path(), &report).unwrap();
    assert!(dir.path().join("figures/1-three-shapes-deviation-angle.png").is_file());
    let json = std::fs::read_to_string(dir.path().join("report.json")).unwrap();
    let read = Report::from_json(&json).unwrap();
    assert_eq!(read.sections[0].models[0].sources[0].conditions.len(), conditions.len());
}
