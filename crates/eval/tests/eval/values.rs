//! Models of numbers and vectors.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicUsize, Ordering};

use steer3d_dataset::{DatasetError, DatasetWriter, Item, Split, Tasks};
use steer3d_eval::{
    Comparison, Condition, ConditionReport, EvalError, ModelReport, PointGroup, Protocol, Search,
    Source, Trial, evaluate, paired_tests,
};

use crate::common::{Mock, dataset, quick, run, third_moment, value, vector, with_targets};

const CUBE: Condition = Condition::Group { group: PointGroup::Cube };

fn points() -> Protocol {
    Protocol { sources: vec![Source::Points], ..quick() }
}

/// Of a model against targets.
fn measured(model: &Mock, irreps: &str, targets: &[Vec<f64>]) -> ModelReport {
    let dir = tempfile::tempdir().unwrap();
    let data = with_targets(&dir.path().join("t.h5"), irreps, targets);
    run(model, &data, &points())
}

fn at(report: &ModelReport, condition: Condition) -> &ConditionReport {
    report.condition(Source::Points, condition).unwrap()
}

/// The third moment of each of `n` items.
fn moments(n: usize) -> Vec<Vec<f64>> {
    let dir = tempfile::tempdir().unwrap();
    let data = dataset(&dir.path().join("a.h5"), n, true);
    let moment = |i| third_moment(data.read(i).unwrap().data()).map(f64::from).to_vec();
    (0..n).map(moment).collect()
}

#[test]
fn a_vector_that_turns_with_the_cube_is_found_to() {
    let right = moments(6);
    let scores = measured(&vector(), "1x1", &right);
    // x³, y³ and z³ turn as a vector under the cube's rotations, and not under others.
    let cube = at(&scores, CUBE);
    assert!(value(cube, "relative_deviation") < 1e-3, "{cube:?}");
    assert!(value(cube, "mean_absolute_error") < 1e-3 * right[1][0].abs().max(1.0));
    assert!(value(at(&scores, Condition::Random), "relative_deviation") > 0.1);
    assert!(value(at(&scores, Condition::Unrotated), "deviation") == 0.0);
    // As three numbers that should not change, they do.
    let numbers = measured(&vector(), "3x0", &right);
    assert!(value(at(&numbers, CUBE), "relative_deviation") > 0.5);
}

#[test]
fn errors_of_a_constant_are_those_of_the_closed_form() {
    let model = Mock { classes: 1, ..Mock::values("two", |_| vec![2.0]) };
    let scores = measured(&model, "1x0", &[vec![2.0], vec![1.0], vec![4.0]]);
    let random = at(&scores, Condition::Random);
    assert!((value(random, "mean_absolute_error") - 1.0).abs() < 1e-12);
    assert!((value(random, "root_mean_square_error") - (5f64 / 3.0).sqrt()).abs() < 1e-12);
    assert_eq!((value(random, "deviation"), value(random, "relative_deviation")), (0.0, 0.0));
}

#[test]
fn targets_that_do_not_fit_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let data = with_targets(&dir.path().join("a.h5"), "1x0", &vec![vec![0.0]; 3]);
    let error =
        evaluate(&vector(), &data, Split::Test, &quick(), None, &|_| ControlFlow::Continue(()))
            .unwrap_err();
    assert!(matches!(error, EvalError::Targets { .. }));
    assert_eq!(error.to_string(), "expected 1 outputs of the model, found 3");
    let plain = dataset(&dir.path().join("b.h5"), 3, true);
    // Every item of a dataset has its target, with all components.
    let tasks =
        Tasks { targets: Some("1x1".parse().unwrap()), voxel_classes: vec![], ..Tasks::default() };
    let writer = DatasetWriter::create(dir.path().join("c.h5"), plain.meta().clone()).unwrap();
    let mut writer = writer.with_tasks(tasks).unwrap();
    let volume = plain.read(0).unwrap();
    for targets in [&[][..], &[0.0]] {
        let item = Item { volume: Some(&volume), id: "0", targets, ..Item::default() };
        let error: DatasetError = writer.push(&item).unwrap_err();
        assert!(error.to_string().contains("3 values"), "{error}");
    }
}

#[test]
fn an_interrupted_evaluation_goes_on_to_the_same_end() {
    let dir = tempfile::tempdir().unwrap();
    let data = with_targets(&dir.path().join("a.h5"), "1x1", &moments(3));
    let protocol = Protocol { batch: 7, ..points() };
    let journal = dir.path().join("answers");
    let failing = |fail_at: usize| {
        let calls = AtomicUsize::new(0);
        Mock::values("third moment", move |volume| {
            let call = calls.fetch_add(1, Ordering::Relaxed);
            if call < fail_at { third_moment(volume).to_vec() } else { vec![f32::NAN; 3] }
        })
    };
    let with = |fail_at| {
        evaluate(&failing(fail_at), &data, Split::Test, &protocol, Some(&journal), &|_| {
            ControlFlow::Continue(())
        })
        .ok()
    };
    assert!(with(50).is_none());
    // The first batch is computed again, and then what is missing.
    assert_eq!(with(3 * 39 - 49 + 7).unwrap(), run(&vector(), &data, &protocol));
}

#[test]
fn the_search_finds_a_larger_error_than_random_rotations() {
    let dir = tempfile::tempdir().unwrap();
    let data = with_targets(&dir.path().join("a.h5"), "1x1", &moments(3));
    let search = Some(Search { grid: 24, rounds: 6 });
    let report = run(&vector(), &data, &Protocol { search, ..points() });
    let largest = |condition| {
        let found = report.predictions.iter().filter(|p| p.condition == condition);
        let error = |p: &steer3d_eval::Prediction| -> f64 {
            let target = data.targets(p.item);
            p.answer.iter().zip(target).map(|(y, t)| (y - t).powi(2)).sum()
        };
        found.map(error).fold(0.0, f64::max)
    };
    let (worst, random) = (largest(Condition::Worst), largest(Condition::Random));
    assert!(worst > random && random > 0.0, "{worst} {random}");
    let [worst, random] =
        [Condition::Worst, Condition::Random].map(|c| value(at(&report, c), "mean_absolute_error"));
    assert!(worst > random, "{worst} {random}");
}

#[test]
fn models_of_values_are_compared_in_pairs_and_over_seeds() {
    let dir = tempfile::tempdir().unwrap();
    let data = with_targets(&dir.path().join("a.h5"), "1x1", &moments(6));
    let zero = Mock::values("zero", |_| vec![0.0; 3]);
    let reports = [run(&vector(), &data, &points()), run(&zero, &data, &points())];
    let tests = paired_tests(&reports, &points());
    let error = |i: usize, c| value(at(&reports[i], c), "mean_absolute_error");
    let test = tests.iter().find(|t| t.condition == Condition::Unrotated).unwrap();
    let difference = error(0, Condition::Unrotated) - error(1, Condition::Unrotated);
    assert!((test.difference.value - difference).abs() < 1e-12 && difference < 0.0);
    assert!(test.p_value < 0.1, "{test:?}");
    let expected = error(1, Condition::Random);
    let trial = |seed| Trial::new(seed, 1.0, reports[1].clone(), &points());
    let comparison = Comparison::new("d", &points(), &[("zero".into(), vec![trial(0), trial(1)])]);
    let column = comparison.columns.iter().position(|c| c == "random").unwrap();
    let found = comparison.rows[0].scores[column];
    assert!((found.seeds.mean - expected).abs() < 1e-12 && found.seeds.deviation == 0.0);
    assert!(!comparison.columns.contains(&"all random".to_owned()));
}
