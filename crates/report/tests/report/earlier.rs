//! Reports of earlier versions.

use steer3d_eval::{AnswerKind, Condition, Report};
use steer3d_report::{diff, html};

/// A report of classes of schema 2, of labels of voxels and of values of schema 1, each of one item.
const EARLIER: [&str; 3] = [
    include_str!("earlier/report.json"),
    include_str!("earlier/voxels.json"),
    include_str!("earlier/outputs.json"),
];

#[test]
fn reports_of_earlier_versions_are_compared_with_new_ones() {
    let answers = [AnswerKind::Classes, AnswerKind::Voxels, AnswerKind::Values];
    for (text, answers) in EARLIER.into_iter().zip(answers) {
        let old = Report::from_json(text).unwrap();
        let model = &old.sections[0].models[0];
        assert_eq!(model.answers, answers);
        let random = model.sources[0].condition(Condition::Random).unwrap();
        let value = |name: &str| random.get(name).unwrap().value;
        match answers {
            AnswerKind::Classes => {
                assert_eq!((value("accuracy"), value("max_relative_deviation")), (0.75, 0.5));
                assert_eq!(random.of_class("recall", "rod").unwrap().low, 0.25);
                assert_eq!(random.confusion, Some(vec![vec![3, 1], vec![1, 3]]));
            }
            AnswerKind::Voxels => {
                assert_eq!((value("foreground_accuracy"), value("compared")), (0.75, 0.5));
                assert_eq!(random.of_class("dice", "dense").unwrap().high, 0.75);
            }
            AnswerKind::Values => {
                assert_eq!(
                    (value("mean_absolute_error"), value("relative_deviation")),
                    (0.25, 0.5)
                );
            }
        }
        let new = Report::from_json(&old.to_json().unwrap()).unwrap();
        let changes = diff(&old, &new);
        assert_eq!(changes.len(), 2);
        assert!(changes.iter().all(|change| change.difference() == Some(0.0)));
        assert!(html(&old).unwrap().contains("random rotations"));
    }
}
