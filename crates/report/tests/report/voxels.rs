//! Reports of models that label voxels.

use std::ops::ControlFlow;
use std::path::Path;

use steer3d_dataset::{Dataset, Split};
use steer3d_eval::{Condition, Predictor, Protocol, Report, Source};
use steer3d_report::{
    Evaluation, figures, html, predictions_csv, results_csv, terminal, write_report,
};
use steer3d_volume::Interpolation;

use crate::common::{Mock, SIZE, by, is_dense, labelled, quick, threshold};

const VOXELS: Source = Source::Voxels(Interpolation::Cubic);
const PLANE: usize = SIZE * SIZE;

fn both_sources() -> Protocol {
    Protocol { sources: vec![VOXELS, Source::Points], ..quick() }
}

/// Of both models.
pub(crate) fn report() -> Report {
    let dir = tempfile::tempdir().unwrap();
    let data = labelled(&dir.path().join("a.h5"), 5, is_dense);
    let half = by("upper <half>", |_, i| if i / PLANE > SIZE / 2 { 1.0 } else { -1.0 });
    let models: [&dyn Predictor; 2] = [&threshold(), &half];
    written(&models, &data, &both_sources(), None)
}

fn written(
    models: &[&dyn Predictor],
    data: &Dataset,
    protocol: &Protocol,
    folder: Option<&Path>,
) -> Report {
    let evaluation = Evaluation { dataset: data, split: Split::Test, protocol };
    evaluation
        .report(models, "Dense voxels", "", folder, &|_, _| ControlFlow::Continue(()))
        .unwrap()
}

#[test]
fn the_report_has_every_number() {
    let report = report();
    let read = Report::from_json(&report.to_json().unwrap()).unwrap();
    let section = &report.sections[0];
    assert_eq!((read.schema_version, read.sections[0].models.len()), (3, 2));
    let falls = section.gallery.iter().map(|item| {
        let pairs = item.views[0].pictures.iter().zip(&item.views[1].pictures);
        let falls = pairs.filter_map(|(a, b)| Some(a.score? - b.score?));
        falls.fold(f64::NEG_INFINITY, f64::max)
    });
    let falls: Vec<f64> = falls.collect();
    assert!(falls.len() == 4 && falls[0] > 0.0 && falls.is_sorted_by(|a, b| a >= b), "{falls:?}");
    let results = results_csv(&report).unwrap();
    let random = section.models[1].condition(Source::Points, Condition::Random).unwrap();
    let dice = random.of_class("dice", "dense").unwrap();
    let line = format!("upper <half>,points,random,,dice of dense,{},{},", dice.value, dice.low);
    assert!(results.contains(&line), "{results}");
    let volumes = predictions_csv(&report).unwrap();
    assert_eq!(volumes.lines().count(), 1 + 2 * 2 * 5 * (1 + 4 + 6 + 4 + 24));
    let text = terminal(&report).to_string();
    assert!(
        text.contains("threshold: of the voxels that are not empty, 100.0 (100.0 to 100.0) %"),
        "{text}"
    );
    assert_eq!(figures(section, "x").len(), 6);
}

#[test]
fn the_page_refers_to_nothing_outside_and_all_files_are_written() {
    let report = report();
    let page = html(&report).unwrap();
    for reference in ["src=\"http", "href=\"http", "src=\"//", "url(", "@import", "<script"] {
        assert!(!page.contains(reference), "{reference}");
    }
    assert!(!page.contains("upper <half>") && page.contains("upper &lt;half&gt;"));
    // Volume, labels and two answers of four items in two orientations.
    assert_eq!((page.matches("<svg").count(), page.matches("<img").count()), (6, 32));
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("eval-voxels");
    write_report(&dir, &report).unwrap();
    for name in ["report.html", "report.json", "results.csv", "predictions.csv"] {
        assert!(dir.join(name).is_file(), "{name}");
    }
    assert!(dir.join("figures/1-three-shapes-dice-angle.png").is_file());
    let nothing =
        Protocol { rotations: 0, angles: vec![], translations: vec![], groups: vec![], ..quick() };
    let folder = tempfile::tempdir().unwrap();
    let data = labelled(&folder.path().join("a.h5"), 1, is_dense);
    let report = written(&[&threshold()], &data, &nothing, Some(folder.path()));
    assert!(
        html(&report).is_ok()
            && figures(&report.sections[0], "x").is_empty()
            && terminal(&report).to_string().contains('–')
    );
    assert!(folder.path().join("report.html").is_file());
    assert!(folder.path().join("report.json").is_file());
    assert!(!folder.path().join("unfinished").exists());
}

#[test]
fn models_that_answer_differently_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let data = labelled(&dir.path().join("a.h5"), 2, is_dense);
    let protocol = quick();
    let evaluation = Evaluation { dataset: &data, split: Split::Test, protocol: &protocol };
    let classes = Mock::new("classes", |_| vec![0.0; 3]);
    let error = evaluation
        .section(&[&threshold(), &classes], None, &|_, _| ControlFlow::Continue(()))
        .unwrap_err();
    assert!(error.to_string().contains("evaluate them apart"), "{error}");
}
