//! Experiments without the program: a training with its evaluation, a comparison, and the list of both.

use std::cell::RefCell;
use std::path::Path;

use steer3d_dataset::{Dataset, ImportOptions, Split, import_tetris};
use steer3d_eval::{AnswerKind, Protocol};
use steer3d_experiments::{
    Architecture, Budget, CompareConfig, Data, EvaluationSettings, Existing, Experiment, Observer,
    PartObserver, RunRecord, Session, Stop, compare, list_runs,
};
use steer3d_train::TrainConfig;
use steer3d_volume::Voxeliser;

fn few() -> Protocol {
    let (angles, translations, groups) = (vec![], vec![], vec![]);
    Protocol { rotations: 1, angles, translations, groups, layer_items: 0, ..Protocol::default() }
}

fn make(path: &Path) -> std::io::Result<()> {
    import_tetris(path, &Voxeliser::paper(9, 0.8), 1, &ImportOptions::default())
        .map_err(std::io::Error::other)
}

#[derive(Default)]
struct Lines(RefCell<Vec<String>>);

impl Observer for Lines {
    fn say(&self, line: &str) {
        self.0.borrow_mut().push(line.into());
    }

    fn begin(&self, label: &str) -> Box<dyn PartObserver + '_> {
        self.say(label);
        Box::new(())
    }
}

#[test]
fn an_experiment_and_a_comparison_are_library_calls() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("tetris.h5");
    let text = format!(
        "[data]\ndataset = '{}'\nmake = ['it']\n[model]\npreset = 'plain'\n[training]\nepochs = 1\n[evaluation]\nsplit = 'test'\n",
        file.display()
    );
    let mut experiment = Experiment::parse(toml::from_str(&text).unwrap(), &[]).unwrap();
    experiment.evaluation.as_mut().unwrap().protocol = few();
    let (lines, stop) = (Lines::default(), Stop::new());
    let session = Session { observer: &lines, stop: &stop, command: "test", ..Session::default() };
    let folder = home.path().join("runs/one");
    let config = experiment.training(Some(3)).unwrap();
    let make = |data: &Data| {
        assert_eq!(data.make, ["it"]);
        make(&file)
    };
    let trained = experiment.train(&folder, &config, Existing::Keep, &make, &session).unwrap();
    let summary = trained.evaluate(&session).unwrap();
    assert!(!summary.stopped && summary.epochs.len() == 1);
    let record = RunRecord::read(&folder).unwrap();
    assert!(record.finished && record.test.len() == 2 && record.command == "test");
    assert!(lines.0.borrow().iter().any(|line| line.starts_with("evaluate one on tetris")));

    let dataset = Dataset::open(&file).unwrap();
    let training = |a: Architecture| (a, TrainConfig { epochs: 1, ..a.training() });
    let config = CompareConfig {
        rivals: [Architecture::Plain, Architecture::Group].map(training).to_vec(),
        answers: AnswerKind::Classes,
        budget: Budget::Parameters,
        seeds: 0..1,
        recompute: false,
        evaluation: EvaluationSettings { split: Split::Test, protocol: few() },
        folder: home.path().join("runs/comparison"),
    };
    let stopped = Stop::new();
    stopped.ask();
    let stopping = Session { stop: &stopped, ..session };
    assert!(compare(&dataset, &config, &stopping).unwrap().is_none());
    let comparison = compare(&dataset, &config, &session).unwrap().unwrap();
    assert_eq!(comparison.rows.len(), 2);
    assert!(lines.0.borrow().iter().any(|line| line.contains("goes on from")));

    let runs = list_runs(&home.path().join("runs"), None).unwrap();
    assert_eq!(runs.runs.len(), 3);
    let table = runs.table().to_string();
    assert!(table.contains("comparison/plain-0") && table.contains("finished"), "{table}");
    let error = list_runs(&home.path().join("none"), None).unwrap_err().to_string();
    assert!(error.contains("none"), "{error}");
}
