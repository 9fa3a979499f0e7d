//! Volumes that turn on the page of a report, and as an animated picture.

use std::io::Cursor;
use std::ops::ControlFlow;
use std::sync::LazyLock;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use candle_core::{DType, Device};
use steer3d_dataset::{Dataset, Split};
use steer3d_eval::metrics::softmax;
use steer3d_eval::{
    Condition, ModelError, NetworkPredictor, Predictor, Protocol, Report, Section, Source, Turning,
};
use steer3d_nn::{ModelConfig, Network, SteerableConfig};
use steer3d_report::{Evaluation, ReportError, animation, html};
use tempfile::TempDir;

use crate::browser::{dom, value};
use crate::common::{Mock, SIZE, dataset, nearest_mean, quick};
use crate::{values, voxels};

const STEPS: usize = 36;

/// A steerable network as it is before its training, and a model that compares volumes with the means of classes.
fn models(data: &Dataset) -> (NetworkPredictor, Mock) {
    let config = ModelConfig::Steerable(SteerableConfig::small(1, 3).unwrap());
    let network = Network::new(&config, 0, DType::F32, &Device::Cpu).unwrap();
    let steerable = NetworkPredictor::new("steerable".into(), network).unwrap();
    (steerable, nearest_mean("template <b>", data, <[f32]>::to_vec))
}

fn section(models: &[&dyn Predictor], data: &Dataset) -> Result<Section, ReportError> {
    let sources = vec![Source::Points];
    let protocol = Protocol { sources, turning: 2, rotations: 2, batch: 5, ..quick() };
    let evaluation = Evaluation { dataset: data, split: Split::Test, protocol: &protocol };
    evaluation.section(models, None, &|_, _| ControlFlow::Continue(()))
}

/// What two models answer.
static REPORT: LazyLock<Report> = LazyLock::new(|| {
    let folder = tempfile::tempdir().unwrap();
    let data = shapes(&folder);
    let (steerable, template) = models(&data);
    let section = section(&[&steerable, &template], &data).unwrap();
    Report::new("Turning", "", vec![section])
});

fn shapes(folder: &TempDir) -> Dataset {
    dataset(&folder.path().join("a.h5"), 6, true)
}

/// The grey pixels of a picture.
fn pixels(uri: &str) -> Vec<u8> {
    let file = STANDARD.decode(uri.strip_prefix("data:image/png;base64,").unwrap()).unwrap();
    let mut reader = png::Decoder::new(Cursor::new(file)).read_info().unwrap();
    let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
    reader.next_frame(&mut pixels).unwrap();
    pixels
}

#[test]
fn every_step_shows_the_turned_volume_and_what_the_models_answer() {
    let folder = tempfile::tempdir().unwrap();
    let data = shapes(&folder);
    let section = &REPORT.sections[0];
    assert_eq!(section.turning.len(), 2);
    for (turning, shown) in section.turning.iter().zip(&section.gallery) {
        assert_eq!((&turning.id, &turning.class), (&shown.id, &shown.class));
        let pictures = pixels(&turning.uri);
        let pictures: Vec<&[u8]> = pictures.chunks(SIZE * SIZE).collect();
        assert_eq!(pictures.len(), STEPS);
        assert_eq!(pictures[0], pixels(&shown.views[0].pictures[0].uri));
        // A quarter turn about y takes the z axis to the x axis: the maximum is one along x.
        let item = data.ids().iter().position(|id| *id == turning.id).unwrap();
        let volume = data.read(item).unwrap();
        let rows = |z: usize, y: usize| &volume.data()[(z * SIZE + y) * SIZE..][..SIZE];
        let extent = |rows: &[f32]| rows.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let (low, high) = (0.0, extent(volume.data()));
        for y in 0..SIZE {
            for x in 0..SIZE {
                let grey = 255.0 * (extent(rows(x, y)) - low) / (high - low);
                let found = f32::from(pictures[STEPS / 4][y * SIZE + x]);
                assert!((grey - found).abs() < 2.0, "{x}, {y}: {grey} {found}");
            }
        }
        for (answer, model) in turning.answers.iter().zip(&section.models) {
            let mut unrotated = model.predictions.iter();
            let unrotated = unrotated
                .find(|p| p.id == turning.id && p.condition == Condition::Unrotated)
                .unwrap();
            let logits: Vec<f32> = unrotated.answer.iter().map(|l| *l as f32).collect();
            for (found, expected) in answer.probabilities[0].iter().zip(softmax(&logits)) {
                assert!((found - expected).abs() < 1e-3, "{found} {expected}");
            }
        }
    }
}

#[test]
fn quarter_turns_leave_the_answers_of_a_steerable_network() {
    for turning in &REPORT.sections[0].turning {
        let moves = |model: usize, step: usize| {
            let steps = &turning.answers[model].probabilities;
            let pairs = steps[0].iter().zip(&steps[step]);
            pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
        };
        for quarter in [9, 18, 27] {
            assert!(moves(0, quarter) < 1.5e-4, "{}", moves(0, quarter));
        }
        assert!([9, 18, 27].iter().any(|&step| moves(1, step) > 0.01));
    }
    // Its answers are not the same whatever it is given.
    let [first, second] = [0, 1].map(|item| &REPORT.sections[0].turning[item].answers[0]);
    let pairs = first.probabilities[0].iter().zip(&second.probabilities[0]);
    assert!(pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f64::max) > 1e-3);
}

/// Moves the first slider through all steps, and writes the probabilities of both models into the page.
const MOVE: &str = "<script>
addEventListener('load', () => {
  const figure = document.querySelector('.turning'), slider = figure.querySelector('input');
  const places = new Set(), steps = [];
  for (let step = 0; step <= Number(slider.max); step++) {
    if (step > 0) { slider.stepUp(); slider.dispatchEvent(new Event('input', { bubbles: true })); }
    const tables = [...figure.querySelectorAll('table')];
    steps.push(tables.map(t => [...t.rows].map(r => parseFloat(r.cells[2].textContent))));
    places.add(figure.querySelector('img').getBoundingClientRect().top);
  }
  document.body.dataset.steps = JSON.stringify(steps);
  document.body.dataset.places = places.size;
  document.body.dataset.said = slider.getAttribute('aria-valuetext');
});
</script>";

#[test]
fn a_slider_turns_the_picture_and_moves_the_probabilities() {
    let Some(dom) = dom(&html(&REPORT).unwrap(), MOVE) else { return };
    let steps: Vec<Vec<Vec<f64>>> = serde_json::from_str(&value(&dom, "steps")).unwrap();
    let expected = &REPORT.sections[0].turning[0].answers;
    assert_eq!(steps.len(), STEPS);
    for (step, found) in steps.iter().enumerate() {
        for (found, answer) in found.iter().zip(expected) {
            for (found, share) in found.iter().zip(&answer.probabilities[step]) {
                assert!((found - 100.0 * share).abs() < 0.051, "{step}: {found} {share}");
            }
        }
    }
    let [steerable, template] =
        [0, 1].map(|model| steps.iter().map(|s| &s[model]).collect::<Vec<_>>());
    assert!(template.iter().any(|shares| *shares != template[0]));
    for quarter in [9, 18, 27] {
        for (a, b) in steerable[0].iter().zip(steerable[quarter]) {
            assert!((a - b).abs() < 0.11, "{a} {b}");
        }
    }
    assert_eq!(value(&dom, "places"), STEPS.to_string());
    let said = value(&dom, "said");
    assert!(said.starts_with("350°, steerable") && said.contains("template"), "{said}");
}

#[test]
fn the_animated_picture_has_a_frame_for_every_step() {
    let turning = &REPORT.sections[0].turning[0];
    let file = animation(turning).unwrap();
    let mut reader = png::Decoder::new(Cursor::new(&file)).read_info().unwrap();
    let control = reader.info().animation_control.unwrap();
    assert_eq!((control.num_frames, control.num_plays), (STEPS as u32, 0));
    let width = reader.info().width as usize;
    let mut frames = vec![];
    for _ in 0..STEPS {
        let mut frame = vec![0; reader.output_buffer_size().unwrap()];
        reader.next_frame(&mut frame).unwrap();
        frames.push(frame);
    }
    let pictures = pixels(&turning.uri);
    // Squares of 12 pixels from (16, 40) on.
    for (step, frame) in frames.iter().enumerate() {
        assert_eq!(frame[..3], [255; 3]);
        for i in 0..SIZE * SIZE {
            let [x, y] = [(i % SIZE, 16), (i / SIZE, 40)].map(|(n, from)| from + 12 * n + 6);
            let grey = pictures[step * SIZE * SIZE + i];
            assert_eq!(frame[3 * (y * width + x)..][..3], [grey; 3], "{step}, {i}");
        }
    }
}

#[test]
fn data_that_are_not_those_of_a_turn_are_refused() {
    let whole = &REPORT.sections[0].turning[0];
    let problem = |change: fn(&mut Turning)| {
        let mut turning = whole.clone();
        change(&mut turning);
        animation(&turning).unwrap_err().to_string()
    };
    assert!(problem(|t| t.uri.truncate(40)).contains(&whole.id));
    assert!(problem(|t| t.uri.clear()).contains("no PNG"));
    assert!(problem(|t| t.size = [SIZE, SIZE + 1]).contains("36 times 13 × 14 grey pixels"));
    assert!(problem(|t| t.size = [1 << 40, 1 << 40]).contains("expected 1 to 512"));
    assert!(problem(|t| t.answers.clear()).contains("expected 1 to 512"));
    assert!(problem(|t| drop(t.answers[1].probabilities.pop())).contains("other numbers of steps"));
}

/// A model that only knows what an evaluation asks about.
struct Fixed<'a>(&'a Mock);

impl Predictor for Fixed<'_> {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn classes(&self) -> usize {
        self.0.classes()
    }

    fn channels(&self) -> usize {
        self.0.channels()
    }

    fn answers_all(&self) -> bool {
        false
    }

    fn logits(&self, batch: &candle_core::Tensor) -> Result<candle_core::Tensor, ModelError> {
        self.0.logits(batch)
    }
}

#[test]
fn only_models_of_classes_that_answer_for_any_volume_turn() {
    let folder = tempfile::tempdir().unwrap();
    let data = dataset(&folder.path().join("a.h5"), 3, true);
    let (_, template) = models(&data);
    let fixed = Fixed(&template);
    assert!(section(&[&fixed], &data).unwrap().turning.is_empty());
    let both = section(&[&fixed, &template], &data).unwrap();
    assert_eq!(both.turning[0].answers.len(), 1);
    for report in [voxels::report(), values::report()] {
        assert!(report.sections[0].turning.is_empty());
        assert!(!html(&report).unwrap().contains("<script"));
    }
}
