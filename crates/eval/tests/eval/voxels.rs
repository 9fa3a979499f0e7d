//! Models that label voxels.

use std::cell::Cell;
use std::path::Path;

use candle_core::Tensor;
use nalgebra::Vector3;
use steer3d_dataset::{Dataset, Split};
use steer3d_eval::report::VoxelReport;
use steer3d_eval::{
    Condition, EvalError, Mask, ModelError, PointGroup, Predictor, Protocol, Source, VoxelModel,
    VoxelScores, evaluate_voxels,
};
use steer3d_volume::Interpolation;

use crate::common::{Mock, SIZE, dataset, labelled, quick};

const CUBE: Condition = Condition::Group { group: PointGroup::Cube };
const VOXELS: Source = Source::Voxels(Interpolation::Cubic);
const N: f64 = SIZE as f64;
const PLANE: usize = SIZE * SIZE;

/// A mock whose rows of logits are classes × voxels.
struct Voxelwise(Mock);

impl Predictor for Voxelwise {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn classes(&self) -> usize {
        self.0.classes()
    }

    fn channels(&self) -> usize {
        self.0.channels()
    }

    fn logits(&self, batch: &Tensor) -> Result<Tensor, ModelError> {
        let shape = (batch.dim(0)?, self.0.classes, SIZE, SIZE, SIZE);
        Ok(self.0.logits(batch)?.reshape(shape)?)
    }
}

/// Labels by the sign of a function of the volume and the index of a voxel.
fn by(
    name: &'static str,
    sign: impl Fn(&[f32], usize) -> f32 + Send + Sync + 'static,
) -> Voxelwise {
    let logits = move |volume: &[f32]| {
        let ones = (0..volume.len()).map(|i| sign(volume, i));
        vec![0.0; volume.len()].into_iter().chain(ones).collect()
    };
    Voxelwise(Mock { classes: 2, ..Mock::new(name, logits) })
}

/// The density of a voxel against that of the labels: equivariant, and right.
fn threshold() -> Voxelwise {
    by("threshold", |volume, i| volume[i] - 0.04)
}

fn is_dense(volume: &[f32], i: usize) -> u8 {
    u8::from(volume[i] > 0.04)
}

/// The upper half of the grid, z > 0, whatever is in it.
fn upper_half() -> Voxelwise {
    by("upper half", |_, i| if i / PLANE > SIZE / 2 { 1.0 } else { -1.0 })
}

fn is_upper(_: &[f32], i: usize) -> u8 {
    u8::from(i / PLANE > SIZE / 2)
}

fn run(model: &dyn Predictor, data: &Dataset, protocol: &Protocol) -> VoxelModel {
    evaluate_voxels(model, data, Split::Test, protocol, &|_| ()).unwrap()
}

fn both_sources() -> Protocol {
    Protocol { sources: vec![VOXELS, Source::Points], ..quick() }
}

fn scores(model: &VoxelModel, source: Source, condition: Condition) -> &VoxelScores {
    model.scores(source, condition).unwrap()
}

fn close(found: Option<steer3d_eval::metrics::Estimate>, expected: f64) {
    assert!((found.unwrap().value - expected).abs() < 1e-12, "{found:?}, expected {expected}");
}

#[test]
fn an_equivariant_model_is_found_to_be_equivariant_and_right() {
    let dir = tempfile::tempdir().unwrap();
    let data = labelled(&dir.path().join("a.h5"), 3, is_dense);
    let model = run(&threshold(), &data, &both_sources());
    for source in [VOXELS, Source::Points] {
        for condition in [Condition::Unrotated, CUBE] {
            let s = scores(&model, source, condition);
            for share in [s.accuracy, s.foreground_accuracy, s.dice, s.iou, s.consistency] {
                close(share, 1.0);
            }
            close(s.foreground_consistency, 1.0);
            assert_eq!((s.compared, s.confusion[0][1], s.confusion[1][0]), (1.0, 0, 0));
        }
    }
    // Points are turned exactly: what is left is the interpolation of the logits.
    let random = scores(&model, Source::Points, Condition::Random);
    assert!(random.foreground_consistency.unwrap().value > 0.9, "{random:?}");
    assert!(random.compared < 1.0 && random.compared > 0.6);
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
    close(s.accuracy, share);
    close(s.consistency, share);
    let found = (4.0 + 16.0 * above) / 24.0;
    close(s.foreground_accuracy, found);
    close(s.accuracy_change, share - 1.0);
    close(s.foreground_accuracy_change, found - 1.0);
    // As many voxels are predicted as there are: Dice is the share of those found.
    close(s.per_class[1].dice, found);
    close(s.per_class[1].iou, found / (2.0 - found));
    close(s.per_class[1].recall, found);
    let background = 1.0 - above * (1.0 - found) / (1.0 - above);
    close(s.dice, (found + background) / 2.0);
    // Of the voxels that are background not both times: P(same and both above) / P(one above).
    let both = found * above;
    close(s.foreground_consistency, both / (2.0 * above - both));
    let counts: u64 = s.confusion.iter().flatten().sum();
    assert_eq!(counts, 2 * 24 * (SIZE as u64).pow(3));
    let unrotated = scores(&model, VOXELS, Condition::Unrotated);
    close(unrotated.accuracy, 1.0);
    // Moved by two voxels: two planes are wrong if it is along z, and two have left the grid.
    let moved = Condition::Translation { voxels: 2.0 };
    assert!((scores(&model, VOXELS, moved).compared - (N - 2.0) / N).abs() < 1e-12);
    let volumes: Vec<_> = model.volumes.iter().filter(|v| v.condition == moved).collect();
    assert_eq!(volumes.len(), 4);
    for volume in volumes {
        let wrong = if volume.transform.shift[2] == 0.0 { 0.0 } else { 2.0 };
        assert!((volume.accuracy.unwrap() - (1.0 - wrong / (N - 2.0))).abs() < 1e-12, "{volume:?}");
    }
    // A quarter turn about x brings y to z.
    let about = Condition::About { axis: [1.0, 0.0, 0.0], degrees: 90.0 };
    let protocol = Protocol { axes: vec![[1.0, 0.0, 0.0]], angles: vec![90.0], ..quick() };
    close(scores(&run(&upper_half(), &data, &protocol), VOXELS, about).accuracy, others);
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
    let unmoved = scores(&model, VOXELS, Condition::Unrotated).compared;
    assert!(unmoved > 0.5 && unmoved < 0.55, "{unmoved}");
    for s in &model.scores {
        let moves = matches!(s.condition, Condition::Translation { .. });
        assert_eq!(s.compared < unmoved, moves, "{}: {}", s.condition, s.compared);
    }
    // One rotation that takes the direction to z makes the upper half right.
    let axis = direction.cross(&Vector3::z()).normalize();
    let degrees = direction.angle(&Vector3::z()).to_degrees();
    let about = Condition::About { axis: axis.into(), degrees };
    let protocol =
        Protocol { axes: vec![axis.into()], angles: vec![degrees], mask: Mask::Ball, ..quick() };
    let right = scores(&run(&upper_half(), &data, &protocol), VOXELS, about).accuracy.unwrap();
    assert!(right.value > 0.999, "{right:?}");
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
    let progress = |p: steer3d_eval::Progress| last.set((p.done, p.total));
    evaluate_voxels(&threshold(), &data, Split::Test, &both_sources(), &progress).unwrap();
    assert_eq!(last.get(), (first.volumes.len(), first.volumes.len()));
}

#[test]
fn what_does_not_fit_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let data = labelled(&dir.path().join("a.h5"), 2, is_dense);
    let fail = |model: &dyn Predictor, data: &Dataset| {
        evaluate_voxels(model, data, Split::Test, &quick(), &|_| ()).unwrap_err()
    };
    let plain = dataset(&dir.path().join("b.h5"), 3, false);
    assert!(matches!(fail(&threshold(), &plain), EvalError::NoVoxelLabels { .. }));
    let three = Voxelwise(Mock { classes: 3, ..threshold().0 });
    let error = fail(&three, &data);
    assert!(matches!(error, EvalError::VoxelClasses { expected: 2, found: 3, .. }), "{error}");
    let classifier = Mock { classes: 2, ..Mock::new("classes", |_| vec![0.0, 1.0]) };
    assert!(matches!(fail(&classifier, &data), EvalError::LogitsShape { .. }));
}

/// Of both models.
pub(crate) fn report() -> VoxelReport {
    let dir = tempfile::tempdir().unwrap();
    let data = labelled(&dir.path().join("a.h5"), 5, is_dense);
    let half = by("upper <half>", |_, i| if i / PLANE > SIZE / 2 { 1.0 } else { -1.0 });
    let models: [&dyn Predictor; 2] = [&threshold(), &half];
    let measured = models.map(|model| run(model, &data, &both_sources()));
    VoxelReport::new(&data, Split::Test, both_sources(), measured.to_vec(), &models).unwrap()
}

#[test]
fn the_report_has_every_number() {
    let report = report();
    let read: VoxelReport = serde_json::from_str(&report.to_json().unwrap()).unwrap();
    assert_eq!((read.schema_version, read.models.len()), (1, 2));
    let falls = report.gallery.iter().map(|item| {
        let pairs = item.views[0].answers.iter().zip(&item.views[1].answers);
        let falls =
            pairs.map(|(a, b)| a.foreground_accuracy.unwrap() - b.foreground_accuracy.unwrap());
        falls.fold(f64::NEG_INFINITY, f64::max)
    });
    let falls: Vec<f64> = falls.collect();
    assert!(falls.len() == 4 && falls[0] > 0.0 && falls.is_sorted_by(|a, b| a >= b), "{falls:?}");
    let results = report.results_csv().unwrap();
    let dice =
        scores(&report.models[1], Source::Points, Condition::Random).per_class[1].dice.unwrap();
    let line = format!("upper <half>,points,random,,dice of dense,{},{},", dice.value, dice.low);
    assert!(results.contains(&line), "{results}");
    let volumes = report.volumes_csv().unwrap();
    assert_eq!(volumes.lines().count(), 1 + 2 * 2 * 5 * (1 + 4 + 6 + 4 + 24));
    let text = report.terminal();
    assert!(
        text.contains("threshold: of the voxels that are not empty, 100.0 (100.0 to 100.0) %"),
        "{text}"
    );
    assert_eq!(report.figures().len(), 6);
}

#[test]
fn the_page_refers_to_nothing_outside_and_all_files_are_written() {
    let report = report();
    let page = report.html().unwrap();
    for reference in ["src=\"http", "href=\"http", "src=\"//", "url(", "@import", "<script"] {
        assert!(!page.contains(reference), "{reference}");
    }
    assert!(!page.contains("upper <half>") && page.contains("upper &lt;half&gt;"));
    // Volume, labels and two answers of four items in two orientations.
    assert_eq!((page.matches("<svg").count(), page.matches("<img").count()), (6, 32));
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("eval-voxels");
    report.write(&dir).unwrap();
    for name in ["report.html", "voxels.json", "voxels.csv", "volumes.csv"] {
        assert!(dir.join(name).is_file(), "{name}");
    }
    assert!(dir.join("figures/voxels-dice-angle.png").is_file());
    let nothing =
        Protocol { rotations: 0, angles: vec![], translations: vec![], groups: vec![], ..quick() };
    let folder = tempfile::tempdir().unwrap();
    let data = labelled(&folder.path().join("a.h5"), 1, is_dense);
    let model = threshold();
    let measured = vec![run(&model, &data, &nothing)];
    let report = VoxelReport::new(&data, Split::Test, nothing, measured, &[&model]).unwrap();
    assert!(
        report.html().is_ok() && report.figures().is_empty() && report.terminal().contains('–')
    );
}
