//! The files of a report.

use std::fs;
use std::ops::ControlFlow;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use steer3d_dataset::Split;
use steer3d_eval::{Condition, EvalError, Predictor, Protocol, Report, Source};
use steer3d_report::{
    Evaluation, figures, html, predictions_csv, reading, results_csv, terminal, verdict,
    write_report,
};
use steer3d_volume::Interpolation;

use crate::common::{Mock, dataset, layers, nearest_mean, quick, shells};
use crate::{values, voxels};

/// A template and an invariant model on the three shapes.
pub(crate) fn report() -> Report {
    let dir = tempfile::tempdir().unwrap();
    let data = dataset(&dir.path().join("a.h5"), 12, true);
    let sources = vec![Source::Points, Source::Voxels(Interpolation::Trilinear)];
    let protocol = Protocol { sources, ..quick() };
    let invariant = nearest_mean("shells <b>", &data, shells);
    let models = [
        Mock { layers: Box::new(layers), ..invariant },
        nearest_mean("template", &data, <[f32]>::to_vec),
    ];
    let models: Vec<&dyn Predictor> = models.iter().map(|model| model as _).collect();
    let evaluation = Evaluation { dataset: &data, split: Split::Test, protocol: &protocol };
    let (title, command) = ("Three shapes, turned", "steer3d eval <three>");
    evaluation.report(&models, title, command, None, &|_, _| ControlFlow::Continue(())).unwrap()
}

#[test]
fn json_round_trip_and_version() {
    let mut report = report();
    let json = report.to_json().unwrap();
    for model in &mut report.sections[0].models {
        model.predictions.clear();
    }
    // serde_json may read a number one unit in the last place away.
    let read = Report::from_json(&json).unwrap();
    assert_eq!(format!("{read:.12?}"), format!("{report:.12?}"));
    let newer = json.replace("\"schema_version\": 3", "\"schema_version\": 4");
    let error = Report::from_json(&newer).unwrap_err();
    assert!(matches!(error, EvalError::SchemaVersion { expected: 3, found: 4 }));
    for wrong in [
        "",
        "{",
        "[]",
        "{}",
        "null",
        r#"{"schema_version": 3}"#,
        r#"{"schema_version": 2}"#,
        &json[..json.len() / 2],
    ] {
        assert!(matches!(Report::from_json(wrong), Err(EvalError::Json(_))), "{wrong}");
    }
}

#[test]
fn html_refers_to_nothing_outside_and_escapes_names() {
    let page = html(&report()).unwrap();
    for reference in ["src=\"http", "href=\"http", "src=\"//", "href=\"//", "url(", "@import"] {
        assert!(!page.contains(reference), "{reference}");
    }
    assert_eq!((page.matches("<script").count(), page.matches("<script>").count()), (1, 1));
    let sources = page.split("src=\"").skip(1).filter(|rest| !rest.starts_with("data:image"));
    assert_eq!(sources.count(), 0);
    assert!(!page.contains("shells <b>") && !page.contains("eval <three>"));
    assert!(page.contains("shells &lt;b&gt;"));
    assert!(page.matches("<svg").count() == 8 && page.matches("<img").count() == 16 + 1);
}

#[test]
fn the_page_holds_the_numbers_once_and_without_pictures() {
    let mut report = report();
    report.sections.push(report.sections[0].clone());
    let page = html(&report).unwrap().replace("&#x2f;", "/");
    let (_, json) = page.split_once("href=\"data:application/json;base64,").unwrap();
    assert!(!json.contains("data:application/json"));
    let json = json.split('"').next().unwrap();
    let json = String::from_utf8(STANDARD.decode(json).unwrap()).unwrap();
    let read = Report::from_json(&json).unwrap();
    let [read, written] =
        [&read, &report].map(|r| format!("{:.12?}", r.sections[1].models[0].sources));
    assert_eq!(read, written);
    assert!(!json.contains("data:image"));
}

#[test]
fn reading_follows_the_numbers() {
    let report = report();
    let sentences = reading(&report.sections[0]);
    assert!(sentences[0].starts_with("shells <b>: accuracy is 100.0 % unrotated and 100.0 %"));
    assert!(sentences[0].contains("no change"), "{}", sentences[0]);
    assert!(sentences[1].contains("a fall of"), "{}", sentences[1]);
    assert!(sentences[2].contains("a balanced guess would be right for 33.3 %"));
    assert!(sentences.iter().any(|s| s.contains("rotating the stored voxels (voxels, trilinear)")));
}

#[test]
fn the_verdict_says_which_models_survive_and_what_that_takes() {
    let mut report = report();
    let section = &mut report.sections[0];
    let said = verdict(section).unwrap();
    let first = "shells <b> survives rotation: yes, within 0.0 points, and 100.0 % of its answers stay. \
                 template survives rotation: no, ";
    assert!(said.starts_with(first), "{said}");
    assert!(said.ends_with("at most 5 points of accuracy are lost, and at least 90 % of the answers stay those to the unrotated volumes."), "{said}");
    // A model may be right as often, of other items.
    let random = &mut section.models[0].sources[0].conditions[1];
    let stays = random.measures.iter_mut().find(|m| m.name == "agreement").unwrap();
    stays.estimate.value = 0.8;
    assert!(
        verdict(section)
            .unwrap()
            .contains("<b> survives rotation: no, 0.0 points are lost, and 80.0 %")
    );
    assert!(
        verdict(&voxels::report().sections[0]).unwrap().contains("threshold survives rotation: ")
    );
    let of_values = verdict(&values::report().sections[0]).unwrap();
    assert!(of_values.contains("its outputs move by"), "{of_values}");
    section.models.clear();
    assert_eq!(verdict(section), None);
}

#[test]
fn interpolated_voxels_are_told_from_stored_ones() {
    let mut report = report();
    let last = |report: &Report| reading(&report.sections[0]).pop().unwrap();
    assert!(!last(&report).contains("smooths"));
    report.sections[0].models.iter_mut().for_each(|model| model.sources.reverse());
    let between = last(&report);
    assert!(between.contains("interpolated (trilinear), which smooths them"), "{between}");
    assert!(between.contains(" % moved by 0.5 voxels, which smooths without turning"), "{between}");
    let sources = report.sections[0].models.iter_mut().flat_map(|model| &mut model.sources);
    for condition in sources.flat_map(|source| &mut source.conditions) {
        if let Condition::Translation { voxels } = &mut condition.condition {
            *voxels = voxels.ceil();
        }
    }
    let whole = last(&report);
    assert!(whole.contains("smooths them") && !whole.contains("without turning"), "{whole}");
}

#[test]
fn a_section_without_rotations_has_a_report_too() {
    let mut report = report();
    for model in &mut report.sections[0].models {
        for source in &mut model.sources {
            source.conditions.truncate(1);
            source.layers.clear();
            source.failures_by_axis.clear();
        }
    }
    report.sections[0].gallery.clear();
    assert!(reading(&report.sections[0]).is_empty());
    assert!(figures(&report.sections[0], "x").is_empty());
    assert!(html(&report).unwrap().contains("–"));
    assert!(terminal(&report).to_string().contains("–"));
    report.sections.clear();
    assert!(html(&report).is_ok());
}

#[test]
fn csv_has_every_number() {
    let report = report();
    let results = results_csv(&report).unwrap();
    let mut reader = csv::Reader::from_reader(results.as_bytes());
    let records: Vec<csv::StringRecord> = reader.records().map(Result::unwrap).collect();
    let source = &report.sections[0].models[1].sources[0];
    let accuracy = source.conditions[1].get("accuracy").unwrap();
    let row = records
        .iter()
        .find(|r| {
            &r[1] == "template" && &r[2] == "points" && &r[3] == "random" && &r[5] == "accuracy"
        })
        .unwrap();
    assert_eq!(row[6].parse::<f64>().unwrap(), accuracy.value);
    assert_eq!(row[7].parse::<f64>().unwrap(), accuracy.low);
    assert!(records.iter().any(|r| &r[3] == "angle" && &r[4] == "90"));
    let predictions = predictions_csv(&report).unwrap();
    assert_eq!(predictions.lines().count(), 1 + 2 * 2 * 12 * (1 + 4 + 6 + 4 + 24));
}

#[test]
fn all_files_are_written() {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("eval-report");
    write_report(&dir, &report()).unwrap();
    let mut names: Vec<String> = fs::read_dir(&dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, ["figures", "predictions.csv", "report.html", "report.json", "results.csv"]);
    let svg = fs::read_to_string(dir.join("figures/1-three-shapes-accuracy-angle.svg")).unwrap();
    assert!(svg.starts_with("<svg xmlns=") && svg.ends_with("</svg>\n"));
}
