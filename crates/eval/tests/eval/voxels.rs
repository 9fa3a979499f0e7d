//! Models that label voxels.

use std::cell::Cell;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicUsize, Ordering};

use candle_core::Tensor;
use nalgebra::Vector3;
use steer3d_dataset::{Dataset, Split};
use steer3d_eval::metrics::Estimate;
use steer3d_eval::{
    AnswerKind, Comparison, Condition, ConditionReport, EvalError, Mask, ModelError, ModelReport,
    PlaneSink, PointGroup, Predictor, Progress, Protocol, Search, Source, Trial, evaluate,
    paired_tests,
};
use steer3d_volume::Interpolation;

use crate::common::{Mock, SIZE, Voxelwise, by, is_dense, labelled, quick, run, threshold, value};

const CUBE: Condition = Condition::Group { group: PointGroup::Cube };
const VOXELS: Source = Source::Voxels(Interpolation::Cubic);
const N: f64 = SIZE as f64;
const PLANE: usize = SIZE * SIZE;

/// The upper half of the grid, z > 0, whatever is in it.
fn upper_half() -> Voxelwise {
    by("upper half", |_, i| if i / PLANE > SIZE / 2 { 1.0 } else { -1.0 })
}

fn is_upper(_: &[f32], i: usize) -> u8 {
    u8::from(i / PLANE > SIZE / 2)
}

fn both_sources() -> Protocol {
    Protocol { sources: vec![VOXELS, Source::Points], ..quick() }
}

fn scores(model: &ModelReport, source: Source, condition: Condition) -> &ConditionReport {
    model.condition(source, condition).unwrap()
}

fn close(found: Option<Estimate>, expected: f64) {
    assert!((found.unwrap().value - expected).abs() < 1e-12, "{found:?}, expected {expected}");
}

/// Entry \[true class\]\[predicted class\] of the confusion.
fn count(s: &ConditionReport, label: usize, predicted: usize) -> u64 {
    s.confusion.as_ref().unwrap()[label][predicted]
}

#[test]
fn an_equivariant_model_is_found_to_be_equivariant_and_right() {
    let dir = tempfile::tempdir().unwrap();
    let data = labelled(&dir.path().join("a.h5"), 3, is_dense);
    let model = run(&threshold(), &data, &both_sources());
    for source in [VOXELS, Source::Points] {
        for condition in [Condition::Unrotated, CUBE] {
            let s = scores(&model, source, condition);
            for share in ["accuracy", "foreground_accuracy", "dice", "iou", "consistency"] {
                close(s.get(share), 1.0);
            }
            close(s.get("foreground_consistency"), 1.0);
            close(s.get("nsd"), 1.0);
            close(s.get("hd95"), 0.0);
            assert_eq!((value(s, "compared"), count(s, 0, 1), count(s, 1, 0)), (1.0, 0, 0));
        }
    }
    // Points are turned exactly: what is left is the interpolation of the logits.
    let random = scores(&model, Source::Points, Condition::Random);
    assert!(value(random, "foreground_consistency") > 0.9, "{random:?}");
    assert!(value(random, "compared") < 1.0 && value(random, "compared") > 0.6);
}

#[test]
fn a_model_that_depends_on_the_place_has_the_values_of_the_closed_form() {
    let dir = tempfile::tempdir().unwrap();
    let data = labelled(&dir.path().join("a.h5"), 2, is_upper);
    let model = run(&upper_half(), &data, &quick());
    // Of the 24 rotations 4 keep the z axis, 4 reverse it, and 16 put x or y in its place. Of the planes half
    // but one are above the middle one.
    let above = (N - 1.0) / 2.0 / N;
    let (kept, reversed, others) = (1.0, 1.0 / N, above.powi(2) + (1.0 - above).powi(2));
    let s = scores(&model, VOXELS, CUBE);
    let share = (4.0 * kept + 4.0 * reversed + 16.0 * others) / 24.0;
    close(s.get("accuracy"), share);
    close(s.get("consistency"), share);
    let found = (4.0 + 16.0 * above) / 24.0;
    close(s.get("foreground_accuracy"), found);
    close(s.get("accuracy_change"), share - 1.0);
    close(s.get("foreground_accuracy_change"), found - 1.0);
    // As many voxels are predicted as there are: Dice is the share of those found.
    close(s.of_class("dice", "dense"), found);
    close(s.of_class("iou", "dense"), found / (2.0 - found));
    close(s.of_class("recall", "dense"), found);
    let background = 1.0 - above * (1.0 - found) / (1.0 - above);
    // Voxels of 2 angstrom: no surface is farther away than the grid is wide.
    assert!(value(s, "hd95") > 0.0 && value(s, "hd95") <= 2.0 * (N - 1.0), "{s:?}");
    assert!(value(s, "nsd") > 0.0 && value(s, "nsd") < 1.0, "{s:?}");
    assert_eq!(s.get("nsd"), s.of_class("nsd", "dense"));
    assert!(s.of_class("hd95", "empty").is_none());
    close(s.get("dice"), (found + background) / 2.0);
    // Of the voxels that are background not both times: P(same and both above) / P(one above).
    let both = found * above;
    close(s.get("foreground_consistency"), both / (2.0 * above - both));
    let counts: u64 = s.confusion.iter().flatten().flatten().sum();
    assert_eq!(counts, 2 * 24 * (SIZE as u64).pow(3));
    let unrotated = scores(&model, VOXELS, Condition::Unrotated);
    close(unrotated.get("accuracy"), 1.0);
    // Moved by two voxels: two planes are wrong if it is along z, and two have left the grid.
    let moved = Condition::Translation { voxels: 2.0 };
    assert!((value(scores(&model, VOXELS, moved), "compared") - (N - 2.0) / N).abs() < 1e-12);
    let volumes: Vec<_> = model.predictions.iter().filter(|v| v.condition == moved).collect();
    assert_eq!(volumes.len(), 4);
    for volume in volumes {
        let wrong = if volume.transform.shift[2] == 0.0 { 0.0 } else { 2.0 };
        let right = volume.answer[0] + volume.answer[3];
        let accuracy = right / volume.answer[..4].iter().sum::<f64>();
        assert!((accuracy - (1.0 - wrong / (N - 2.0))).abs() < 1e-12, "{volume:?}");
    }
    // A quarter turn about x brings y to z.
    let about = Condition::About { axis: [1.0, 0.0, 0.0], degrees: 90.0 };
    let protocol = Protocol { axes: vec![[1.0, 0.0, 0.0]], angles: vec![90.0], ..quick() };
    close(scores(&run(&upper_half(), &data, &protocol), VOXELS, about).get("accuracy"), others);
}

#[test]
fn answers_are_turned_back_the_right_way() {
    let dir = tempfile::tempdir().unwrap();
    // The labels stand above a plane in general position, half a voxel from the centre as the upper half does.
    let direction = Vector3::new(0.5, -0.7, 0.4).normalize();
    let data = labelled(&dir.path().join("a.h5"), 1, move |_, i| {
        let p = [i % SIZE, i / SIZE % SIZE, i / PLANE].map(|c| c as f64 - (N - 1.0) / 2.0);
        u8::from(direction.dot(&Vector3::from(p)) > 0.5)
    });
    let protocol = Protocol { mask: Mask::Ball, ..quick() };
    let model = run(&upper_half(), &data, &protocol);
    // In the ball nothing leaves the grid when it turns.
    let unmoved = value(scores(&model, VOXELS, Condition::Unrotated), "compared");
    assert!(unmoved > 0.5 && unmoved < 0.55, "{unmoved}");
    for s in &model.sources[0].conditions {
        let moves = matches!(s.condition, Condition::Translation { .. });
        let compared = value(s, "compared");
        assert_eq!(compared < unmoved, moves, "{}: {compared}", s.condition);
    }
    // One rotation that takes the direction to z makes the upper half right.
    let axis = direction.cross(&Vector3::z()).normalize();
    let degrees = direction.angle(&Vector3::z()).to_degrees();
    let about = Condition::About { axis: axis.into(), degrees };
    let protocol =
        Protocol { axes: vec![axis.into()], angles: vec![degrees], mask: Mask::Ball, ..quick() };
    let report = run(&upper_half(), &data, &protocol);
    let right = value(scores(&report, VOXELS, about), "accuracy");
    assert!(right > 0.999, "{right:?}");
}

#[test]
fn results_depend_on_neither_batch_nor_threads() {
    let dir = tempfile::tempdir().unwrap();
    let data = labelled(&dir.path().join("a.h5"), 3, is_dense);
    let first = run(&threshold(), &data, &both_sources());
    for (batch, threads) in [(1, 1), (7, 3), (1000, 2)] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let protocol = Protocol { batch, ..both_sources() };
        assert!(pool.install(|| run(&threshold(), &data, &protocol)) == first, "{batch} {threads}");
    }
    let last = Cell::new((0, 0));
    let progress = |p: Progress| {
        last.set((p.done, p.total));
        ControlFlow::Continue(())
    };
    evaluate(&threshold(), &data, Split::Test, &both_sources(), None, &progress).unwrap();
    // And the layers of two items, which this model does not show.
    let layers = 2 * (1 + 2 + 2);
    let all = first.predictions.len() + layers;
    assert_eq!(last.get(), (all, all));
}

/// A model that gives the logits of some planes at a time, from `skipped` on, and never those of a volume.
struct ByPlanes {
    whole: Voxelwise,
    at_once: usize,
    skipped: usize,
}

impl Predictor for ByPlanes {
    fn name(&self) -> &str {
        self.whole.name()
    }

    fn answers(&self) -> AnswerKind {
        AnswerKind::Voxels
    }

    fn classes(&self) -> usize {
        self.whole.classes()
    }

    fn channels(&self) -> usize {
        self.whole.channels()
    }

    fn logits(&self, _batch: &Tensor) -> Result<Tensor, ModelError> {
        Err("asked for the logits of all voxels".into())
    }

    fn gives_planes(&self, dims: [usize; 3]) -> bool {
        dims == [SIZE; 3]
    }

    fn logits_by_planes(
        &self,
        volume: &Tensor,
        _edges: Option<[f64; 3]>,
        sink: PlaneSink<'_>,
    ) -> Result<(), ModelError> {
        let logits = self.whole.logits(volume)?;
        for first in (self.skipped..SIZE).step_by(self.at_once) {
            let planes = self.at_once.min(SIZE - first);
            sink(first, &logits.narrow(2, first, planes)?)?;
        }
        Ok(())
    }
}

#[test]
fn planes_give_the_results_of_whole_volumes() {
    let dir = tempfile::tempdir().unwrap();
    let data = labelled(&dir.path().join("a.h5"), 2, is_dense);
    let protocol = Protocol { rotations_and_translations: vec![1.5], ..both_sources() };
    let whole = run(&threshold(), &data, &protocol);
    for at_once in [1, 4, SIZE] {
        let planes = ByPlanes { whole: threshold(), at_once, skipped: 0 };
        assert!(run(&planes, &data, &protocol) == whole, "{at_once}");
    }
    let fail = |whole: Voxelwise, skipped: usize| {
        let planes = ByPlanes { whole, at_once: 4, skipped };
        let go_on = |_| ControlFlow::Continue(());
        evaluate(&planes, &data, Split::Test, &protocol, None, &go_on).unwrap_err()
    };
    for (error, expected) in [
        (fail(threshold(), 1), "gave 4 planes from 1 on after 0 of 13"),
        (fail(threshold(), SIZE), "gave 0 of 13 planes"),
        (fail(by("nan", |_, i| if i == 9 { f32::NAN } else { 0.0 }), 0), "not finite for item"),
    ] {
        assert!(error.to_string().contains(expected), "{error}");
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let data = labelled(&dir.path().join("a.h5"), 2, is_dense);
    let fail = |model: &dyn Predictor, data: &Dataset| {
        evaluate(model, data, Split::Test, &quick(), None, &|_| ControlFlow::Continue(()))
            .unwrap_err()
    };
    let three = Voxelwise(Mock { classes: 3, ..threshold().0 });
    let error = fail(&three, &data);
    assert!(
        matches!(
            error,
            EvalError::Misfit { does: "labels voxels with", expected: 2, found: 3, .. }
        ),
        "{error}"
    );
    // It says that it labels voxels and gives two numbers.
    let answers = AnswerKind::Voxels;
    let one = Mock { answers, classes: 2, ..Mock::new("numbers", |_| vec![0.0, 1.0]) };
    let error = fail(&one, &data);
    let shape = matches!(&error, EvalError::Answer { problem, .. } if problem.contains("of shape"));
    assert!(shape, "{error}");
}

#[test]
fn an_interrupted_evaluation_goes_on_to_the_same_end() {
    let dir = tempfile::tempdir().unwrap();
    let data = labelled(&dir.path().join("a.h5"), 3, is_dense);
    let search = Some(Search { grid: 3, rounds: 1 });
    // Batches that end in the middle of an item: its labels unrotated are found again.
    let protocol = Protocol { batch: 7, search, ..both_sources() };
    let journal = dir.path().join("answers");
    let failing = |fail_at: usize| {
        let (calls, inner) = (AtomicUsize::new(0), upper_half().0.logits);
        Voxelwise(Mock {
            classes: 2,
            ..Mock::new("upper half", move |volume| {
                let call = calls.fetch_add(1, Ordering::Relaxed);
                if call < fail_at { inner(volume) } else { vec![f32::NAN; 2 * volume.len()] }
            })
        })
    };
    let with = |fail_at| {
        evaluate(&failing(fail_at), &data, Split::Test, &protocol, Some(&journal), &|_| {
            ControlFlow::Continue(())
        })
        .ok()
    };
    let whole = run(&upper_half(), &data, &protocol);
    // Cut off in the first source, in its search, and in the second source.
    assert!([45, 98, 60].map(with).iter().all(Option::is_none));
    assert_eq!(with(usize::MAX).unwrap(), whole);
}

#[test]
fn the_search_finds_a_lower_dice_than_random_rotations() {
    let dir = tempfile::tempdir().unwrap();
    let data = labelled(&dir.path().join("a.h5"), 2, is_upper);
    let search = Some(Search { grid: 24, rounds: 4 });
    let protocol = Protocol { search, mask: Mask::Ball, translations: vec![], ..quick() };
    let report = run(&upper_half(), &data, &protocol);
    let dice = |condition| value(scores(&report, VOXELS, condition), "dice");
    let others = [Condition::Unrotated, Condition::Random, CUBE].map(dice);
    assert!(others.iter().all(|other| dice(Condition::Worst) < *other), "{others:?}");
    // Upside down nothing but the middle plane is right.
    assert!(dice(Condition::Worst) < 0.2, "{}", dice(Condition::Worst));
}

#[test]
fn models_of_labels_are_compared_in_pairs_and_over_seeds() {
    let dir = tempfile::tempdir().unwrap();
    let data = labelled(&dir.path().join("a.h5"), 5, is_dense);
    let reports = [run(&threshold(), &data, &quick()), run(&upper_half(), &data, &quick())];
    let tests = paired_tests(&reports, &quick());
    let test = tests.iter().find(|t| t.condition == Condition::Unrotated).unwrap();
    let share = |report: &ModelReport| {
        let found = report.predictions.iter().filter(|p| p.condition == Condition::Unrotated);
        found.map(|p| p.score).sum::<f64>() / 5.0
    };
    let difference = share(&reports[0]) - share(&reports[1]);
    assert!((test.difference.value - difference).abs() < 1e-12 && difference > 0.3, "{test:?}");
    let trial = |seed| Trial::new(seed, 1.0, reports[0].clone(), &quick());
    let models = [("threshold".into(), vec![trial(0), trial(1)])];
    let comparison = Comparison::new("d", &quick(), &models);
    assert_eq!(comparison.columns[..2], ["unrotated", "random"]);
    let unrotated = comparison.rows[0].scores[0];
    assert_eq!((unrotated.seeds.mean, unrotated.low), (share(&reports[0]), 1.0));
}
