//! The files of a report on items without labels.

use std::fs;
use std::ops::ControlFlow;

use steer3d_dataset::Split;
use steer3d_eval::{EvalError, Predictor, Protocol, Report, Search};
use steer3d_report::{
    Evaluation, ReportError, diff, diff_table, figures, html, predictions_csv, reading, terminal,
    write_report,
};

use crate::common::{
    Mock, dataset, nearest_mean, quick, shells, third_moment, threshold, unlabelled,
};

fn report(models: impl Fn(&steer3d_dataset::Dataset) -> Vec<Mock>) -> Result<Report, ReportError> {
    let dir = tempfile::tempdir().unwrap();
    let labelled = dataset(&dir.path().join("a.h5"), 6, false);
    let data = unlabelled(&dir.path().join("b.h5"), 6);
    let search = Some(Search { grid: 3, rounds: 1 });
    let protocol = Protocol { search, axes: vec![[0.0, 0.0, 1.0]], ..quick() };
    let models = models(&labelled);
    let models: Vec<&dyn Predictor> = models.iter().map(|model| model as _).collect();
    let evaluation = Evaluation { dataset: &data, split: Split::Test, protocol: &protocol };
    evaluation.report(&models, "No labels", "", None, &|_, _| ControlFlow::Continue(()))
}

fn two() -> Report {
    let models = |data: &_| {
        vec![nearest_mean("shells", data, shells), nearest_mean("template", data, <[f32]>::to_vec)]
    };
    report(models).unwrap()
}

#[test]
fn a_report_without_labels_speaks_of_stability_alone() {
    let report = two();
    let section = &report.sections[0];
    let names: Vec<String> = figures(section, "x").into_iter().map(|f| f.name).collect();
    let expected = ["agreement-angle", "agreement-axes", "agreement-translation", "per-class"];
    assert_eq!(names, expected.map(|name| format!("x-{name}")));
    let sentences = reading(section);
    assert!(
        sentences[0].contains("stays the same for 100.0 (100.0 to 100.0) % of the items"),
        "{}",
        sentences[0]
    );
    assert_eq!(sentences.iter().filter(|s| s.contains("is not known")).count(), 1, "{sentences:?}");
    let text = terminal(&report).to_string();
    let page = html(&report).unwrap();
    // Without the pictures.
    let parts =
        page.split("base64,").map(|part| part.split_once('"').map_or(part, |(_, rest)| rest));
    let page: String = parts.collect();
    for (text, heading) in [(&text, "consistent %"), (&page, "<th>spread</th>")] {
        assert!(text.contains(heading), "{text}");
    }
    for judged in
        ["accuracy", "AUC", "worst case %", "Confusion", "Failures", "Dotted", "inf", "NaN"]
    {
        assert!(!text.contains(judged), "{judged} in the terminal");
        assert!(!sentences.iter().any(|s| s.contains(judged)), "{judged} in the words");
        let shown = page.contains(judged) && judged != "accuracy" && judged != "inf";
        assert!(!shown, "{judged} in the page");
    }
    assert!(page.contains("3 classes of the models, no labels: 0, 1, 2."));

    let predictions = predictions_csv(&report).unwrap();
    let mut reader = csv::Reader::from_reader(predictions.as_bytes());
    let records: Vec<csv::StringRecord> = reader.records().map(Result::unwrap).collect();
    // Rotations, angles, translations, the cube, the axis at each angle and at random, the search.
    assert_eq!(records.len(), 2 * section.models[0].predictions.len());
    for record in &records {
        assert!(record[6].is_empty() && ["0", "1", "2"].contains(&&record[7]), "{record:?}");
        assert!(&record[3] != "unrotated" || &record[15] == "1", "{record:?}");
    }

    // The first pictures are of an item whose prediction changes.
    let first = &section.gallery[0];
    assert!(first.class.is_none() && first.views[0].verdicts.iter().all(|v| v.right));
    assert!(first.views[1].verdicts.iter().any(|v| !v.right));
}

#[test]
fn reports_on_values_and_labels_of_voxels_speak_of_stability_alone() {
    let dir = tempfile::tempdir().unwrap();
    let data = unlabelled(&dir.path().join("a.h5"), 4);
    let protocol = Protocol { axes: vec![[0.0, 0.0, 1.0]], ..quick() };
    let evaluation = Evaluation { dataset: &data, split: Split::Test, protocol: &protocol };
    let values = Mock::values("moment", |volume| third_moment(volume).to_vec());
    let models: [(&dyn Predictor, &str); 2] =
        [(&values, "relative"), (&threshold(), "same label %")];
    for (model, heading) in models {
        let report = evaluation
            .report(&[model], "No labels", "", None, &|_, _| ControlFlow::Continue(()))
            .unwrap();
        let (text, page) = (terminal(&report).to_string(), html(&report).unwrap());
        assert!(text.contains(heading) && text.contains("is not known"), "{text}");
        for judged in ["accuracy %", "absolute error", "Dice", "right unrotated", "NaN"] {
            assert!(!text.contains(judged), "{judged}: {text}");
        }
        assert!(page.contains("no targets") || page.contains("classes of voxels of the models"));
        let out = dir.path().join("report");
        write_report(&out, &report).unwrap();
        let json = fs::read_to_string(out.join("report.json")).unwrap();
        assert!(!Report::from_json(&json).unwrap().sections[0].is_labelled());
    }
}

#[test]
fn the_files_are_read_again_and_compared() {
    let report = two();
    let dir = tempfile::tempdir().unwrap();
    write_report(dir.path(), &report).unwrap();
    let json = fs::read_to_string(dir.path().join("report.json")).unwrap();
    let read = Report::from_json(&json).unwrap();
    let same = diff(&read, &read);
    assert!(same.iter().all(|change| change.measure == "agreement" && !change.is_clear()));
    let mut turned = read.clone();
    turned.sections[0].models.reverse();
    let names = ["shells", "template"];
    let models = turned.sections[0].models.iter_mut();
    models.zip(names).for_each(|(model, name)| model.name = name.into());
    let table = diff_table(&diff(&read, &turned)).to_string();
    assert!(table.contains("agreement") && table.contains(" *"), "{table}");
}

#[test]
fn models_of_other_classes_are_refused_before_they_are_asked() {
    let models = |_: &_| {
        let asked = |_: &[f32]| -> Vec<f32> { panic!("a model was asked") };
        vec![Mock::new("three", asked), Mock { classes: 2, ..Mock::new("two", asked) }]
    };
    let error = report(models).unwrap_err();
    assert!(matches!(error, ReportError::Eval(EvalError::OtherClasses { .. })), "{error}");
}
