//! Models whose behaviour is known must be measured as such.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::common::{
    CLASSES, Mock, SIZE, dataset, field, layers, mesh_dataset, nearest_mean, quick, run, shells,
    value,
};
use nalgebra::Vector3;
use steer3d_dataset::{Dataset, Split};
use steer3d_eval::{
    Condition, ConditionReport, EvalError, LayerError, Mask, ModelReport, PointGroup, Prediction,
    Predictor, Progress, Protocol, Search, Source, SourceReport, evaluate,
};
use steer3d_volume::Interpolation;

const CUBE: Condition = Condition::Group { group: PointGroup::Cube };

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

fn fail(model: &dyn Predictor, data: &Dataset, protocol: &Protocol) -> EvalError {
    evaluate(model, data, Split::Test, protocol, None, &|_| ControlFlow::Continue(())).unwrap_err()
}

fn stability(source: &SourceReport, condition: Condition) -> &ConditionReport {
    source.condition(condition).unwrap()
}

/// Total mass (7 or 10 points) against 8.5, the same however the object lies in the grid.
fn mass() -> Mock {
    let total = |volume: &[f32]| volume.iter().map(|&v| f64::from(v)).sum::<f64>() as f32;
    Mock::new("mass", move |volume| vec![total(volume), 8.5, 0.0])
}

/// Whether a voxel on the arm of the rod is bright.
fn one_voxel() -> Mock {
    let centre = (SIZE * SIZE + SIZE + 1) * (SIZE / 2);
    Mock::new("one voxel", move |volume| vec![volume[centre + 2] * 100.0, 6.0, 0.5])
}

#[test]
fn an_invariant_model_is_found_invariant() {
    let dir = folder();
    let data = dataset(&dir.path().join("a.h5"), 6, true);
    let sources = vec![Source::Points, Source::Voxels(Interpolation::Trilinear)];
    let report = run(&mass(), &data, &Protocol { sources, ..quick() });
    let points = &report.sources[0];
    for condition in [Condition::Random, Condition::Angle { degrees: 90.0 }, CUBE] {
        let s = stability(points, condition);
        assert_eq!(value(s, "consistency"), 1.0);
        assert_eq!(value(s, "agreement"), 1.0);
        // Every point adds 1 whatever its place, in f32.
        assert!(value(s, "max_relative_deviation") < 1e-5, "{condition}: {s:?}");
    }
    // Trilinear weights of a source voxel do not sum to exactly 1 over the rotated grid.
    let voxels = &report.sources[1];
    let random = value(stability(voxels, Condition::Random), "relative_deviation");
    assert!(random > 1e-5 && random < 0.01, "{random}");
    assert!(value(stability(voxels, CUBE), "max_relative_deviation") < 1e-6);
}

#[test]
fn meshes_are_turned_and_moved_before_voxelising() {
    let dir = folder();
    let data = mesh_dataset(&dir.path().join("a.h5"));
    let protocol = Protocol { sources: vec![Source::Points], ..quick() };
    // The centre of mass x, y, z about the middle of the grid, in voxels.
    let centre = |volume: &[f32]| -> Vec<f32> {
        let (mut sums, mut total) = ([0.0; 3], 0.0);
        for (i, &value) in volume.iter().enumerate() {
            let place = [i % SIZE, i / SIZE % SIZE, i / SIZE / SIZE].map(|n| n as f32);
            total += value;
            for (sum, p) in sums.iter_mut().zip(place) {
                *sum += value * (p - (SIZE / 2) as f32);
            }
        }
        sums.map(|sum| sum / total).to_vec()
    };
    let report = run(&Mock::new("centre of mass", centre), &data, &protocol);
    // The centroid of a tetrahedron is the mean of its corners.
    let centroid = Vector3::new(0.0, -1.45, -2.9) / 2.0;
    for Prediction { condition, transform, answer: logits, .. } in &report.predictions {
        let place = transform.rotation * centroid + Vector3::from(transform.shift);
        for (found, expected) in logits.iter().zip(&place) {
            // Samples are a fifth of a voxel apart.
            assert!((found - expected).abs() < 0.1, "{condition}: {logits:?} {place}");
        }
    }
}

#[test]
fn a_model_of_one_voxel_is_found_out() {
    let dir = folder();
    let data = dataset(&dir.path().join("a.h5"), 6, false);
    let report = run(&one_voxel(), &data, &quick());
    let random = stability(&report.sources[0], Condition::Random);
    assert!(value(random, "consistency") < 1.0);
    assert!(value(random, "relative_deviation") > 0.1);
    let cube = stability(&report.sources[0], CUBE);
    assert!(value(cube, "consistency") < 1.0 && value(cube, "max_relative_deviation") > 0.1);
}

#[test]
fn steerable_against_template() {
    let dir = folder();
    let data = dataset(&dir.path().join("a.h5"), 12, true);
    let protocol = Protocol { sources: vec![Source::Points], ..quick() };
    let invariant = run(&nearest_mean("shells", &data, shells), &data, &protocol);
    let template = run(&nearest_mean("template", &data, <[f32]>::to_vec), &data, &protocol);
    let accuracy = |report: &ModelReport, condition| {
        value(report.sources[0].condition(condition).unwrap(), "accuracy")
    };
    assert_eq!(accuracy(&template, Condition::Unrotated), 1.0);
    assert_eq!(accuracy(&invariant, Condition::Unrotated), 1.0);
    assert_eq!(accuracy(&invariant, Condition::Random), 1.0);
    assert!(accuracy(&template, Condition::Random) < 0.8);
    let random = template.sources[0].condition(Condition::Random).unwrap();
    let change = random.get("accuracy_change").unwrap();
    assert_eq!(change.value, value(random, "accuracy") - 1.0);
    assert!(change.low <= change.value && change.value <= change.high);
    let counts: Vec<u64> = random.confusion.iter().flatten().map(|row| row.iter().sum()).collect();
    assert_eq!(counts, [16; 3], "4 items of each class, 4 rotations");
}

#[test]
fn results_depend_neither_on_batch_size_nor_on_threads() {
    let dir = folder();
    let data = dataset(&dir.path().join("a.h5"), 5, true);
    let model = nearest_mean("template", &data, <[f32]>::to_vec);
    let sources = vec![Source::Voxels(Interpolation::Trilinear), Source::Points];
    let with = |batch: usize, threads: usize| {
        let protocol = Protocol { batch, sources: sources.clone(), ..quick() };
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.scope(|_| run(&model, &data, &protocol))
    };
    let first = with(1, 1);
    assert_eq!(first, with(7, 1));
    assert_eq!(first, with(64, 3));
}

#[test]
fn an_interrupted_evaluation_goes_on_to_the_same_end() {
    let dir = folder();
    let data = dataset(&dir.path().join("a.h5"), 5, true);
    let sources = vec![Source::Voxels(Interpolation::Trilinear), Source::Points];
    let search = Some(Search { grid: 5, rounds: 3 });
    let protocol = Protocol { batch: 7, sources, search, ..quick() };
    let journal = dir.path().join("logits");
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = |fail_at: usize| {
        let calls = Arc::clone(&calls);
        let inner = nearest_mean("template", &data, <[f32]>::to_vec);
        calls.store(0, Ordering::Relaxed);
        Mock::new("template", move |volume| {
            let call = calls.fetch_add(1, Ordering::Relaxed);
            if call < fail_at { (inner.logits)(volume) } else { vec![f32::NAN; 3] }
        })
    };
    let with =
        |model: &Mock, protocol: &Protocol| {
            evaluate(model, &data, Split::Test, protocol, Some(&journal), &|_| {
                ControlFlow::Continue(())
            })
            .ok()
        };
    let whole = run(&counted(usize::MAX), &data, &protocol);
    let all = calls.load(Ordering::Relaxed);
    // Cut off in the first source, and then in the second.
    for fail_at in [all / 3, all / 2] {
        assert!(with(&counted(fail_at), &protocol).is_none());
    }
    // The first batch is computed again, to see that the model is the same.
    assert_eq!(with(&counted(all / 3), &protocol).unwrap(), whole);
    let other_batch = Protocol { batch: 16, ..protocol.clone() };
    assert_eq!(with(&counted(usize::MAX), &other_batch).unwrap(), whole);
    assert_eq!(calls.load(Ordering::Relaxed), 16);
    // Another model under the same name, and another protocol, start anew.
    let other = Mock::new("template", |volume| vec![volume[0], 1.0, 0.0]);
    assert_eq!(with(&other, &protocol).unwrap(), run(&other, &data, &protocol));
    let shorter = Protocol { rotations: 2, ..protocol };
    assert_eq!(with(&other, &shorter).unwrap(), run(&other, &data, &shorter));
}

#[test]
fn answers_of_another_model_or_dataset_are_not_gone_on_with() {
    let dir = folder();
    let data = dataset(&dir.path().join("a.h5"), 5, true);
    let journal = dir.path().join("answers");
    let asked = Arc::new(AtomicUsize::new(0));
    let model = |fingerprint| {
        let asked = Arc::clone(&asked);
        let logits = move |volume: &[f32]| {
            asked.fetch_add(1, Ordering::Relaxed);
            vec![volume.iter().sum(), 1.0, 0.0]
        };
        Mock { fingerprint, ..Mock::new("mass", logits) }
    };
    let all = run(&mass(), &data, &quick()).predictions.len();
    // How many volumes are asked about after half of the evaluation was done with `before`.
    let asked_after = |before: &Mock, now: &Mock, data_now: &Dataset| {
        let half = |p: Progress| match p.done * 2 > p.total {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        };
        std::fs::remove_file(&journal).ok();
        let with =
            |model: &Mock, data: &Dataset, progress: &dyn Fn(Progress) -> ControlFlow<()>| {
                evaluate(model, data, Split::Test, &quick(), Some(&journal), progress)
            };
        assert!(matches!(with(before, &data, &half), Err(EvalError::Stopped)));
        asked.store(0, Ordering::Relaxed);
        with(now, data_now, &|_| ControlFlow::Continue(())).unwrap();
        asked.load(Ordering::Relaxed)
    };
    let (a, b, none) = (model(Some("a")), model(Some("b")), model(None));
    assert!(asked_after(&a, &a, &data) < all);
    assert_eq!(asked_after(&a, &b, &data), all);
    assert_eq!(asked_after(&none, &none, &data), all);
    let other = dataset(&dir.path().join("b.h5"), 6, true);
    let more = run(&mass(), &other, &quick()).predictions.len();
    assert_eq!(asked_after(&a, &a, &other), more);
}

#[test]
fn volumes_are_counted_before_any_is_made() {
    let dir = folder();
    let data = dataset(&dir.path().join("a.h5"), 2, true);
    let search = Some(Search { grid: 5, rounds: 3 });
    let axes = vec![[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]];
    let sources = vec![Source::Voxels(Interpolation::Trilinear), Source::Points];
    let ok = Protocol {
        search,
        axes,
        sources,
        even: 3,
        rotations_and_translations: vec![1.0],
        groups: vec![PointGroup::Cube, PointGroup::Tetrahedron],
        ..quick()
    };
    let total = std::cell::Cell::new((0, 0));
    let progress = |p: Progress| {
        total.set((p.done, p.total));
        ControlFlow::Continue(())
    };
    evaluate(&with_layers(), &data, Split::Test, &ok, None, &progress).unwrap();
    assert_eq!(total.get().0, total.get().1);
    assert_eq!(total.get().1 as u128, ok.volumes(data.indices(Split::Test).len()));
    let many = usize::MAX;
    let wrong = [
        Protocol { rotations: many, ..ok.clone() },
        Protocol { even: many, ..ok.clone() },
        Protocol { per_angle: many, ..ok.clone() },
        Protocol { per_distance: many, ..ok.clone() },
        Protocol { layer_rotations: many, ..ok.clone() },
        Protocol { search: Some(Search { grid: many, rounds: many }), ..ok.clone() },
        Protocol { resamples: many, ..ok.clone() },
        Protocol { rotations: 100_000, batch: many, ..ok.clone() },
        Protocol { angles: vec![1.0; 5000], ..ok.clone() },
        Protocol { sources: ok.sources.repeat(1 << 20), ..ok.clone() },
    ];
    for protocol in wrong {
        let message = fail(&mass(), &data, &protocol).to_string();
        assert!(message.starts_with("the protocol asks") || message.contains("protocol field"));
    }
}

#[test]
fn the_search_finds_what_random_rotations_miss() {
    let dir = folder();
    let data = dataset(&dir.path().join("a.h5"), 6, true);
    let sources = vec![Source::Points];
    let search = Some(Search { grid: 24, rounds: 8 });
    let protocol = Protocol { sources, search, ..quick() };
    let template = run(&nearest_mean("template", &data, <[f32]>::to_vec), &data, &protocol);
    let report = |c| template.sources[0].condition(c).unwrap();
    let (worst, random) = (report(Condition::Worst), report(Condition::Random));
    let survivors = value(random, "worst_case_accuracy");
    assert!(value(worst, "accuracy") <= survivors, "{worst:?}");
    assert_eq!(worst.get("worst_case_accuracy"), worst.get("accuracy"));
    let invariant = run(&nearest_mean("shells", &data, shells), &data, &protocol);
    let worst = invariant.sources[0].condition(Condition::Worst).unwrap();
    assert_eq!(value(worst, "accuracy"), 1.0);
    assert_eq!(invariant.predictions.iter().filter(|p| p.condition == Condition::Worst).count(), 6);
}

#[test]
fn the_value_outside_comes_in_and_the_ball_stays() {
    let dir = folder();
    let data = dataset(&dir.path().join("a.h5"), 3, false);
    let corner = Mock::new("corner", |volume| vec![volume[0], volume[volume.len() / 2], 0.0]);
    let moved = |protocol: Protocol| {
        let protocol = Protocol { translations: vec![8.0], per_distance: 1, ..protocol };
        let report = run(&corner, &data, &protocol);
        let far = report.predictions.iter().find(|p| p.condition.kind() == "translation");
        far.unwrap().answer.clone()
    };
    let plain = moved(quick());
    assert!(plain[0].abs() < 1e-6 && plain[1].abs() < 1e-3, "{plain:?}");
    let air = moved(Protocol { outside: -5.0, ..quick() });
    assert!((air[1] + 5.0).abs() < 1e-3, "the centre is now what was outside: {air:?}");
    let ball = Protocol { outside: 2.5, mask: Mask::Ball, ..quick() };
    let report = run(&corner, &data, &ball);
    assert!(report.predictions.iter().all(|p| p.answer[0] == 2.5), "corners are outside the ball");
}

#[test]
fn progress_ends_at_its_total() {
    let dir = folder();
    let data = dataset(&dir.path().join("a.h5"), 3, false);
    let seen = std::cell::RefCell::new(Vec::new());
    let note = |progress: Progress| {
        seen.borrow_mut().push(progress);
        ControlFlow::Continue(())
    };
    evaluate(&mass(), &data, Split::Test, &quick(), None, &note).unwrap();
    let seen = seen.into_inner();
    let last = seen.last().unwrap();
    assert_eq!(last.done, last.total);
    assert!(seen.windows(2).all(|pair| pair[0].done < pair[1].done));
}

#[test]
fn predictions_hold_every_single_result() {
    let dir = folder();
    let data = dataset(&dir.path().join("a.h5"), 3, false);
    let report = run(&mass(), &data, &quick());
    // Unrotated, 4 random, 3 angles and 2 distances twice each, 24 of the cube.
    assert_eq!(report.predictions.len(), 3 * (1 + 4 + 6 + 4 + 24));
    let first = &report.predictions[0];
    assert_eq!((first.id.as_str(), first.label, first.answer.len()), ("rod-0", Some(0), 3));
}

/// The mass with layers, one of them broken.
fn with_layers() -> Mock {
    Mock { layers: Box::new(layers), ..mass() }
}

fn layer<'a>(source: &'a SourceReport, name: &str) -> &'a LayerError {
    source.layers.iter().find(|layer| layer.name == name).unwrap()
}

#[test]
fn equivariant_layers_are_told_from_broken_ones() {
    let dir = folder();
    let data = dataset(&dir.path().join("a.h5"), 3, true);
    let sources = vec![Source::Voxels(Interpolation::Trilinear), Source::Points];
    let report = run(&with_layers(), &data, &Protocol { sources, ..quick() });
    let names: Vec<&str> = report.sources[0].layers.iter().map(|l| l.name.as_str()).collect();
    assert_eq!(names, ["input", "identity", "gradient", "wrong order", "mean"]);
    for source in &report.sources {
        for name in ["input", "identity", "gradient", "mean"] {
            let error = layer(source, name).cube.unwrap();
            assert!(error < 1e-5, "{name} under the cube group, {}: {error}", source.source);
        }
        assert!(layer(source, "wrong order").cube.unwrap() > 0.1);
        assert!(layer(source, "wrong order").random.unwrap() > 0.1);
    }
    let [voxels, points] = [0, 1].map(|i| &report.sources[i]);
    // The same interpolation before and after an identity.
    assert_eq!(layer(voxels, "identity").random, Some(0.0));
    // Cubic interpolation of Gaussians of σ = 1 voxel against rotated points.
    let floor = layer(points, "input").random.unwrap();
    assert!(floor > 1e-6 && floor < 0.02, "{floor}");
    assert!(layer(points, "gradient").random.unwrap() < 0.2);
    assert!(layer(points, "mean").random.unwrap() < 1e-5);
    assert_eq!(layer(points, "gradient").shape, [3, SIZE, SIZE, SIZE]);
    assert_eq!(layer(points, "mean").shape, [1]);
}

#[test]
fn a_layer_of_another_shape_is_refused() {
    let dir = folder();
    let data = dataset(&dir.path().join("a.h5"), 3, false);
    let mut model = mass();
    model.layers = Box::new(|batch| Ok(vec![field("conv", "1x0+1x1", batch.clone())]));
    let message = fail(&model, &data, &quick()).to_string();
    assert!(message.contains("`conv`") && message.contains("(1, 4)"), "{message}");
}

#[test]
fn a_model_for_other_data_is_refused() {
    let dir = folder();
    let data = dataset(&dir.path().join("a.h5"), 3, false);
    let classes = Mock { classes: 2, ..mass() };
    let message = fail(&classes, &data, &quick()).to_string();
    assert!(message.contains("predicts 2 classes") && message.contains("has 3"), "{message}");
    let channels = Mock { channels: 4, ..mass() };
    let message = fail(&channels, &data, &quick()).to_string();
    assert!(message.contains("takes 4 input channels"), "{message}");
    assert!(message.contains("three shapes") && !message.contains('\n'), "{message}");
}

#[test]
fn an_empty_split_is_refused() {
    let dir = folder();
    let data = dataset(&dir.path().join("a.h5"), 3, false);
    let error =
        evaluate(&mass(), &data, Split::Train, &quick(), None, &|_| ControlFlow::Continue(()))
            .unwrap_err();
    assert!(error.to_string().contains("no items in its train split"), "{error}");
}

#[test]
fn points_that_are_not_there_are_refused() {
    let dir = folder();
    let data = dataset(&dir.path().join("a.h5"), 3, false);
    let protocol = Protocol { sources: vec![Source::Points], ..quick() };
    let error = fail(&mass(), &data, &protocol);
    let message = "dataset `three shapes` has no points or meshes with a voxeliser, so none can be \
                   rotated; rotate its voxels instead (source `voxels`)";
    assert!(matches!(error, EvalError::Missing { .. }) && error.to_string() == message, "{error}");
}

#[test]
fn bad_logits_are_refused() {
    let dir = folder();
    let data = dataset(&dir.path().join("a.h5"), 3, false);
    let short = Mock::new("short", |_| vec![0.0; CLASSES.len() - 1]);
    let message = fail(&short, &data, &quick()).to_string();
    assert!(message.contains("[16, 2]") && message.contains("[16, 3]"), "{message}");
    let nan = Mock::new("nan", |_| vec![0.0, f32::NAN, 0.0]);
    let message = fail(&nan, &data, &quick()).to_string();
    assert!(message.contains("`nan`") && message.contains("`rod-0`"), "{message}");
}

#[test]
fn a_failing_model_keeps_its_reason() {
    let dir = folder();
    let data = dataset(&dir.path().join("a.h5"), 3, false);
    let mut model = mass();
    model.layers = Box::new(|_| Err("out of luck".into()));
    let error = fail(&model, &data, &quick());
    let source = std::error::Error::source(&error).unwrap().to_string();
    assert_eq!(source, "out of luck");
    assert!(error.to_string().contains("[1, 1, 13, 13, 13]"), "{error}");
}

#[test]
fn a_protocol_out_of_range_is_refused() {
    let dir = folder();
    let data = dataset(&dir.path().join("a.h5"), 3, false);
    let protocol = Protocol { batch: 0, ..quick() };
    assert!(matches!(fail(&mass(), &data, &protocol), EvalError::Protocol { field: "batch", .. }));
}
