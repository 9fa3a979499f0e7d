//! Models of numbers and vectors.

use steer3d_dataset::{Dataset, Split};
use steer3d_eval::report::{OutputsModel, OutputsReport};
use steer3d_eval::{
    Condition, EvalError, OutputScores, PointGroup, Protocol, Source, Targets, evaluate_outputs,
};
use steer3d_so3::Irreps;

use crate::common::{Mock, SIZE, dataset, quick};

const CUBE: Condition = Condition::Group { group: PointGroup::Cube };

/// First moment x,y,z over the mass, and the mass of the half with z > 0, which does not turn as a
/// vector.
fn moments(volume: &[f32]) -> ([f32; 3], f32) {
    let (mut first, mut mass, mut upper) = ([0.0; 3], 0.0, 0.0);
    for (i, &v) in volume.iter().enumerate() {
        let at = [i % SIZE, i / SIZE % SIZE, i / SIZE / SIZE].map(|c| c as f32 - (SIZE / 2) as f32);
        first = [0, 1, 2].map(|k| first[k] + v * at[k] * at[k] * at[k]);
        mass += v;
        upper += if at[2] > 0.0 { v } else { 0.0 };
    }
    (first.map(|m| m / mass), upper)
}

fn vector() -> Mock {
    Mock::new("third moment", |volume| moments(volume).0.to_vec())
}

fn run(model: &Mock, data: &Dataset, irreps: &str, values: &[Vec<f64>]) -> Vec<OutputScores> {
    let irreps: Irreps = irreps.parse().unwrap();
    let targets = Targets { irreps: &irreps, values };
    let protocol = Protocol { sources: vec![Source::Points], ..quick() };
    evaluate_outputs(model, data, Split::Test, &protocol, &targets, &|_| ()).unwrap()
}

fn at(scores: &[OutputScores], condition: Condition) -> &OutputScores {
    scores.iter().find(|s| s.condition == condition).unwrap()
}

#[test]
fn a_vector_that_turns_with_the_cube_is_found_to() {
    let dir = tempfile::tempdir().unwrap();
    let data = dataset(&dir.path().join("a.h5"), 6, true);
    let right: Vec<Vec<f64>> =
        (0..6).map(|i| moments(data.read(i).unwrap().data()).0.map(f64::from).to_vec()).collect();
    let scores = run(&vector(), &data, "1x1", &right);
    // x³, y³ and z³ turn as a vector under the cube's rotations, and not under others.
    let cube = at(&scores, CUBE);
    assert!(cube.relative_deviation < 1e-3, "{cube:?}");
    assert!(cube.mean_absolute_error.value < 1e-3 * right[1][0].abs().max(1.0));
    assert!(at(&scores, Condition::Random).relative_deviation > 0.1);
    assert!(at(&scores, Condition::Unrotated).deviation.value == 0.0);
    // As three numbers that should not change, they do.
    let numbers = run(&vector(), &data, "3x0", &right);
    assert!(at(&numbers, CUBE).relative_deviation > 0.5);
}

#[test]
fn errors_of_a_constant_are_those_of_the_closed_form() {
    let dir = tempfile::tempdir().unwrap();
    let data = dataset(&dir.path().join("a.h5"), 3, true);
    let model = Mock { classes: 1, ..Mock::new("two", |_| vec![2.0]) };
    let scores = run(&model, &data, "1x0", &[vec![2.0], vec![1.0], vec![4.0]]);
    let random = at(&scores, Condition::Random);
    assert!((random.mean_absolute_error.value - 1.0).abs() < 1e-12);
    assert!((random.root_mean_square_error.value - (5f64 / 3.0).sqrt()).abs() < 1e-12);
    assert_eq!((random.deviation.value, random.relative_deviation), (0.0, 0.0));
}

#[test]
fn targets_that_do_not_fit_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let data = dataset(&dir.path().join("a.h5"), 3, true);
    let fail = |irreps: &str, values: &[Vec<f64>]| {
        let irreps: Irreps = irreps.parse().unwrap();
        let targets = Targets { irreps: &irreps, values };
        let error = evaluate_outputs(&vector(), &data, Split::Test, &quick(), &targets, &|_| ());
        let error = error.unwrap_err();
        assert!(matches!(error, EvalError::Targets { .. }));
        error.to_string()
    };
    let right = vec![vec![0.0; 3]; 3];
    assert_eq!(fail("1x0", &right), "expected 1 outputs of the model, found 3");
    assert!(fail("1x1", &right[..2]).contains("expected 3 targets"));
    assert!(fail("1x1", &[right[0].clone(), vec![], vec![]]).contains("components"));
}

/// Of the moment as a vector.
pub(crate) fn report() -> OutputsReport {
    let dir = tempfile::tempdir().unwrap();
    let data = dataset(&dir.path().join("a.h5"), 3, true);
    let scores = run(&vector(), &data, "1x1", &vec![vec![1.0, 0.0, -1.0]; 3]);
    let model = OutputsModel { name: "third <moment>".into(), parameters: 0, scores };
    let protocol = Protocol { sources: vec![Source::Points], ..quick() };
    OutputsReport::new(&data, Split::Test, "1x1".parse().unwrap(), protocol, vec![model])
}

#[test]
fn the_report_has_every_number() {
    let report = report();
    let lines = report.csv().unwrap();
    assert_eq!(lines.lines().count(), 1 + report.models[0].scores.len());
    let page = report.html().unwrap();
    assert!(!page.contains("third <moment>") && page.contains("third &lt;moment&gt;"));
    assert_eq!(page.matches("<svg").count(), 2);
    assert!(report.terminal().contains("24 cube rotations"));
    let dir = tempfile::tempdir().unwrap();
    report.write(dir.path()).unwrap();
    assert!(dir.path().join("figures/outputs-deviation-angle.png").is_file());
    let json = std::fs::read_to_string(dir.path().join("outputs.json")).unwrap();
    let read: OutputsReport = serde_json::from_str(&json).unwrap();
    assert_eq!(read.models[0].scores.len(), report.models[0].scores.len());
}
