//! Datasets without classes, labels or targets: stability alone is measured.

use steer3d_dataset::{Dataset, Split};
use steer3d_eval::{
    Condition, EvalError, Measure, ModelReport, PointGroup, Prediction, Report, Search, Section,
};

use crate::common::{
    Mock, SIZE, by, dataset, labelled, nearest_mean, quick, run, threshold, unlabelled, value,
    vector, with_targets,
};

const CUBE: Condition = Condition::Group { group: PointGroup::Cube };

/// Logits (1, 0, 0) for the volumes as they are stored, (0, 1, 0) for all others.
fn stored(data: &Dataset) -> Mock {
    let known: Vec<Vec<f32>> =
        (0..data.len()).map(|item| data.read(item).unwrap().into_data()).collect();
    Mock::new("stored", move |volume| match known.iter().any(|known| known == volume) {
        true => vec![1.0, 0.0, 0.0],
        false => vec![0.0, 1.0, 0.0],
    })
}

#[test]
fn known_answers_have_the_stability_computed_by_hand() {
    let dir = tempfile::tempdir().unwrap();
    let data = unlabelled(&dir.path().join("a.h5"), 4);
    let search = Some(Search { grid: 3, rounds: 1 });
    let report = run(&stored(&data), &data, &steer3d_eval::Protocol { search, ..quick() });
    assert_eq!(report.class_names, ["0", "1", "2"]);
    let of = |condition| report.sources[0].condition(condition).unwrap();
    let e = 1f64.exp();
    let random = of(Condition::Random);
    for (name, expected) in [
        ("consistency", 0.0),
        ("agreement", 0.0),
        ("relative_deviation", 2f64.sqrt()),
        ("max_relative_deviation", 2f64.sqrt()),
        ("absolute_deviation", 2f64.sqrt()),
        ("probability_deviation", (e - 1.0) / (e + 2.0)),
        ("relative_spread", 0.0),
    ] {
        let found = value(random, name);
        assert!((found - expected).abs() < 1e-6, "{name}: {found}, not {expected}");
    }
    assert_eq!(of(Condition::Unrotated).of_class("predicted_share", "0").unwrap().value, 1.0);
    assert_eq!(random.of_class("predicted_share", "1").unwrap().value, 1.0);
    // Of the 24 rotations of the cube one is none.
    let cube = of(CUBE);
    assert_eq!((value(cube, "consistency"), value(cube, "agreement")), (0.0, 1.0 / 24.0));
    assert!((value(cube, "relative_spread") - 46f64.sqrt() / 24.0).abs() < 1e-6);
    // The search lowers the margin of the unrotated answer, and ends when it is another one.
    assert_eq!(value(of(Condition::Worst), "agreement"), 0.0);
    let one = Mock::new("constant", |_| vec![0.0, 2.0, 1.0]);
    let report = run(&one, &data, &steer3d_eval::Protocol { search, ..quick() });
    let worst = report.sources[0].condition(Condition::Worst).unwrap();
    assert_eq!((value(worst, "agreement"), value(worst, "relative_deviation")), (1.0, 0.0));
}

#[test]
fn the_stability_is_that_of_the_same_volumes_with_labels() {
    let dir = tempfile::tempdir().unwrap();
    let labelled = dataset(&dir.path().join("a.h5"), 6, false);
    let data = unlabelled(&dir.path().join("b.h5"), 6);
    let template = nearest_mean("template", &labelled, <[f32]>::to_vec);
    let [with, without] = [&labelled, &data].map(|data| run(&template, data, &quick()));
    let numbered = |m: &Measure| {
        let name = |class: &str| crate::common::CLASSES.iter().position(|c| *c == class);
        let class = m.class.as_deref().map(|c| name(c).map_or(c.to_owned(), |n| n.to_string()));
        Measure { class, ..m.clone() }
    };
    for (a, b) in with.sources[0].conditions.iter().zip(&without.sources[0].conditions) {
        assert!(a.confusion.is_some() && b.confusion.is_none());
        let stable = a.measures.iter().filter(|m| b.measures.iter().any(|o| o.name == m.name));
        assert_eq!(stable.map(numbered).collect::<Vec<_>>(), b.measures, "{}", a.condition);
        for judged in
            ["accuracy", "auc", "calibration_error", "accuracy_change", "worst_case_accuracy"]
        {
            assert!(b.get(judged).is_none(), "{judged}");
        }
    }
    let of = |p: &&Prediction| p.condition == Condition::Random;
    let random: Vec<_> = without.predictions.iter().filter(of).collect();
    assert!(random.iter().all(|p| p.label.is_none()));
    let mean = random.iter().map(|p| p.score).sum::<f64>() / random.len() as f64;
    let found = without.sources[0].condition(Condition::Random).unwrap();
    assert!((mean - value(found, "agreement")).abs() < 1e-12 && mean < 1.0);
    assert!(without.sources[0].failures_by_axis.iter().all(|cell| cell.predictions == 0));
}

#[test]
fn a_section_without_labels_compares_unchanged_answers_of_the_same_classes() {
    let dir = tempfile::tempdir().unwrap();
    let data = unlabelled(&dir.path().join("a.h5"), 3);
    let constant = |name, classes| {
        let logits = move |_: &[f32]| (0..classes).map(|class| class as f32).collect();
        Mock { classes, ..Mock::new(name, logits) }
    };
    let reports = [stored(&data), constant("three", 3), constant("two", 2)]
        .map(|model| run(&model, &data, &quick()));
    let section = |models: &[usize]| {
        let models = models.iter().map(|&i| reports[i].clone()).collect();
        Section::new(&data, Split::Test, quick(), models)
    };
    let error = section(&[0, 2]).unwrap_err();
    assert!(matches!(error, EvalError::OtherClasses { .. }), "{error}");
    let section = section(&[0, 1]).unwrap();
    assert!(!section.is_labelled() && section.dataset.class_names.is_empty());
    assert_eq!(section.class_names(), ["0", "1", "2"]);
    assert_eq!(section.score().name, "agreement");
    assert_eq!(section.paired.len(), 1, "unrotated answers have no difference");
    assert_eq!(
        (section.paired[0].condition, section.paired[0].difference.value),
        (Condition::Random, -1.0)
    );
    let defined: Vec<&str> = section.definitions().iter().map(|d| d.name).collect();
    assert!(defined.contains(&"relative_spread") && !defined.contains(&"recall"), "{defined:?}");
    let mut report = Report::new("t", "", vec![section]);
    let read = Report::from_json(&report.to_json().unwrap()).unwrap();
    report.sections[0].models.iter_mut().for_each(|model| model.predictions.clear());
    assert_eq!(format!("{read:.12?}"), format!("{report:.12?}"));
}

/// The measures of `without` are those of `with` that labels change nothing in.
fn same_stability(with: &ModelReport, without: &ModelReport, judged: &[&str]) {
    for (a, b) in with.sources[0].conditions.iter().zip(&without.sources[0].conditions) {
        let stable = a.measures.iter().filter(|m| !judged.contains(&&m.name[..]));
        assert_eq!(stable.collect::<Vec<_>>(), b.measures.iter().collect::<Vec<_>>());
        assert!(b.confusion.is_none() && !b.measures.is_empty());
    }
}

#[test]
fn values_without_targets_have_the_same_stability() {
    let dir = tempfile::tempdir().unwrap();
    let data = with_targets(&dir.path().join("a.h5"), "3x0", &vec![vec![0.5; 3]; 3]);
    let none = unlabelled(&dir.path().join("b.h5"), 3);
    let search = Some(Search { grid: 3, rounds: 1 });
    let protocol = steer3d_eval::Protocol { search, ..quick() };
    let [with, without] = [&data, &none].map(|data| run(&vector(), data, &protocol));
    for report in [&with, &without] {
        assert!(report.class_names.is_empty());
    }
    let random = |report: &ModelReport| report.sources[0].condition(Condition::Random).cloned();
    let found = random(&without).unwrap();
    assert!(value(&found, "deviation") > 0.0 && found.get("mean_absolute_error").is_none());
    let of = |p: &&Prediction| p.condition == Condition::Random;
    let scores: Vec<f64> = without.predictions.iter().filter(of).map(|p| p.score).collect();
    let mean = scores.iter().sum::<f64>() / scores.len() as f64;
    assert!((mean - value(&found, "deviation")).abs() < 1e-9 * mean, "the score is the deviation");
    let worst = without.sources[0].condition(Condition::Worst).unwrap();
    assert!(value(worst, "deviation") > value(&found, "deviation"));
    let quick = [&data, &none].map(|data| run(&vector(), data, &quick()));
    same_stability(&quick[0], &quick[1], &["mean_absolute_error", "root_mean_square_error"]);
    let section = Section::new(&none, Split::Test, protocol, vec![without]).unwrap();
    assert!(!section.is_labelled() && section.dataset.targets.is_none());
    assert_eq!(section.score().name, "deviation");
}

#[test]
fn labels_of_voxels_have_the_same_stability_where_none_are_known() {
    let dir = tempfile::tempdir().unwrap();
    let data = labelled(&dir.path().join("a.h5"), 3, |_, i| (i % 2) as u8);
    let none = unlabelled(&dir.path().join("b.h5"), 3);
    let half = by("upper half", |_, i| if i / (SIZE * SIZE) > SIZE / 2 { 1.0 } else { -1.0 });
    for model in [&threshold(), &half] {
        let [with, without] = [&data, &none].map(|data| run(model, data, &quick()));
        assert_eq!(without.class_names, ["0", "1"]);
        let judged = [
            "accuracy",
            "foreground_accuracy",
            "accuracy_change",
            "foreground_accuracy_change",
            "dice",
            "iou",
            "recall",
            "nsd",
            "hd95",
        ];
        same_stability(&with, &without, &judged);
        let section = Section::new(&none, Split::Test, quick(), vec![without]).unwrap();
        assert!(!section.is_labelled());
        assert_eq!(
            (section.class_names().len(), section.score().name),
            (2, "foreground_consistency")
        );
    }
}
