//! Whoever changes what a result depends on, and gives the same command again, gets a new result or an error: never an
//! old number. Every trial runs a command (to its end or interrupted), changes something, runs it again, and compares
//! with the same command in a new folder.

use std::cell::Cell;
use std::fs;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device};
use sha2::{Digest, Sha256};
use steer3d_dataset::{Dataset, DatasetMeta, DatasetWriter, Item, Split};
use steer3d_eval::{AnswerKind, NetworkPredictor, Predictor, Protocol};
use steer3d_experiments::{
    Architecture, Budget, CompareConfig, Data, EvaluationSettings, Existing, Experiment, Observer,
    PartObserver, RunRecord, Session, Stop, compare, evaluation_progress,
};
use steer3d_nn::{ModelConfig, Network, checkpoint};
use steer3d_report::Evaluation;
use steer3d_so3::Stream;
use steer3d_train::TrainConfig;
use steer3d_volume::{Grid, Volume};

/// All that the results depend on but the version and the files of a run folder.
#[derive(Clone)]
struct World {
    volumes: Vec<Vec<f32>>,
    labels: Vec<u32>,
    splits: Vec<Split>,
    ids: Vec<String>,
    names: Vec<String>,
    unit: &'static str,
    voxel: f64,
    /// Of the training, of the weights of `eval`.
    seed: u64,
    learning_rate: f64,
    rotations: usize,
    split: Split,
}

const ITEMS: usize = 12;
const SIZE: usize = 5;

impl World {
    fn new() -> Self {
        let mut stream = Stream::new(0, "trust", &[]);
        let mut volume = |label: usize| {
            let value = |i: usize| stream.uniform() as f32 + if i % 2 == label { 0.5 } else { 0.0 };
            (0..SIZE.pow(3)).map(value).collect::<Vec<f32>>()
        };
        Self {
            volumes: (0..ITEMS).map(|i| volume(i % 2)).collect(),
            labels: (0..ITEMS as u32).map(|i| i % 2).collect(),
            splits: (0..ITEMS).map(|i| [Split::Train, Split::Test][i / 2 % 2]).collect(),
            ids: (0..ITEMS).map(|i| format!("item-{i}")).collect(),
            names: vec!["even".into(), "odd".into()],
            unit: "nm",
            voxel: 1.0,
            seed: 1,
            learning_rate: 0.01,
            rotations: 1,
            split: Split::Test,
        }
    }

    fn write(&self, path: &Path) -> Dataset {
        let grid = Grid::new([SIZE; 3], [self.voxel; 3]).unwrap();
        let meta = DatasetMeta {
            name: "trust".into(),
            class_names: self.names.clone(),
            unit: self.unit.into(),
            ..DatasetMeta::scalars(1, &grid).unwrap()
        };
        let mut writer = DatasetWriter::create(path, meta).unwrap();
        for i in 0..ITEMS {
            let volume = Volume::centred(self.volumes[i].clone(), 1, grid).unwrap();
            let (label, split, id) = (self.labels[i], self.splits[i], &*self.ids[i]);
            let item = Item { volume: Some(&volume), label, split, id, ..Item::default() };
            writer.push(&item).unwrap();
        }
        writer.finish().unwrap();
        Dataset::open(path).unwrap()
    }

    fn protocol(&self) -> Protocol {
        Protocol {
            rotations: self.rotations,
            angles: vec![],
            translations: vec![],
            groups: vec![],
            batch: 2,
            resamples: 5,
            layer_items: 1,
            layer_rotations: 1,
            ..Protocol::default()
        }
    }

    fn training(&self) -> TrainConfig {
        let (seed, learning_rate) = (self.seed, self.learning_rate);
        TrainConfig { epochs: 1, batch_size: 2, seed, learning_rate, ..TrainConfig::default() }
    }
}

/// What a user may change.
type Change = (&'static str, fn(&mut World));

const CHANGES: [Change; 11] = [
    ("nothing", |_| ()),
    ("a value", |w| w.volumes[2][62] += 3.0),
    ("labels", |w| w.labels.iter_mut().for_each(|label| *label = 1 - *label)),
    ("the names of the classes", |w| w.names.reverse()),
    ("an id", |w| w.ids[3] = "another".into()),
    ("splits", |w| w.splits.swap(1, 2)),
    ("the unit", |w| w.unit = "mm"),
    ("the size of a voxel", |w| w.voxel = 2.0),
    ("the seed", |w| w.seed += 1),
    ("the learning rate", |w| w.learning_rate = 0.3),
    ("the protocol", |w| w.rotations = 2),
];

/// Asks to stop after so many steps.
struct Impatient<'a> {
    left: Cell<usize>,
    stop: &'a Stop,
}

impl Observer for Impatient<'_> {
    fn say(&self, _line: &str) {}

    fn begin(&self, _label: &str) -> Box<dyn PartObserver + '_> {
        Box::new(Part(self))
    }
}

struct Part<'a>(&'a Impatient<'a>);

impl PartObserver for Part<'_> {
    fn start(&mut self, _done: usize, _total: usize) {}

    fn at(&mut self, _done: usize, _total: usize, _message: &str) {
        let left = self.0.left.get().saturating_sub(1);
        self.0.left.set(left);
        if left == 0 {
            self.0.stop.ask();
        }
    }

    fn say(&self, _line: &str) {}
}

/// A command in a folder that holds its data and what it writes, stopped after so many steps. Its result is as text;
/// `None` if it was stopped, an error if it is refused.
type Run = fn(&World, &Path, &Session<'_>) -> Result<Option<String>, String>;

fn run_compare(w: &World, home: &Path, session: &Session<'_>) -> Result<Option<String>, String> {
    let dataset = w.write(&home.join("data.h5"));
    let config = CompareConfig {
        rivals: vec![(Architecture::Plain, w.training())],
        answers: AnswerKind::Classes,
        budget: Budget::Parameters,
        seeds: w.seed..w.seed + 1,
        recompute: false,
        evaluation: EvaluationSettings { split: w.split, protocol: w.protocol() },
        folder: home.join("out"),
    };
    let found = compare(&dataset, &config, session).map_err(|e| e.to_string())?;
    Ok(found.map(|found| format!("{:?}", found.rows.iter().map(|r| &r.scores).collect::<Vec<_>>())))
}

fn model(seed: u64) -> Network {
    let text = "kind = 'plain'\nchannels = 1\nclasses = 2\nblocks = [{ channels = 3, size = 3 }]";
    let model = ModelConfig::from_toml(text).unwrap();
    Network::new(&model, seed, DType::F32, &Device::Cpu).unwrap()
}

fn run_eval(w: &World, home: &Path, session: &Session<'_>) -> Result<Option<String>, String> {
    let dataset = w.write(&home.join("data.h5"));
    let network = NetworkPredictor::new("network".into(), model(w.seed)).unwrap();
    let protocol = w.protocol();
    let evaluation = Evaluation { dataset: &dataset, split: w.split, protocol: &protocol };
    let progress = evaluation_progress(session.observer, "", session.stop);
    let models: [&dyn Predictor; 1] = [&network];
    let report = evaluation.report(&models, "t", "", Some(&home.join("out")), &progress);
    match report {
        Ok(report) => Ok(Some(report.to_json().unwrap())),
        Err(_) if session.stop.is_asked() => Ok(None),
        Err(error) => Err(error.to_string()),
    }
}

fn run_train(w: &World, home: &Path, session: &Session<'_>) -> Result<Option<String>, String> {
    let path = home.join("data.h5");
    w.write(&path);
    let text = format!(
        "[data]\ndataset = '{}'\n[model]\nkind = 'plain'\nblocks = [{{ channels = 3, size = 3 }}]\n[evaluation]\nsplit = 'test'\n",
        path.display()
    );
    let mut experiment = Experiment::parse(toml::from_str(&text).unwrap(), &[]).unwrap();
    experiment.evaluation = Some(EvaluationSettings { split: w.split, protocol: w.protocol() });
    let out = home.join("out");
    let make = |_: &Data| -> std::io::Result<()> { unreachable!("the dataset is there") };
    let trained = experiment.train(&out, &w.training(), Existing::Resume, &make, session);
    let summary =
        trained.map_err(|e| e.to_string())?.evaluate(session).map_err(|e| e.to_string())?;
    let record = RunRecord::read(&out).unwrap();
    let weights = fs::read(out.join("model.safetensors")).unwrap_or_default();
    let result = format!("{:?} {:?}", record.test, Sha256::digest(weights));
    Ok((!summary.stopped).then_some(result))
}

/// All files of a folder and below.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

/// Makes all records in a folder those of another version.
fn age(folder: &Path) {
    let now = env!("CARGO_PKG_VERSION");
    // In a state, the JSON is a text in a JSON.
    let texts = ["version\":\"", "version\": \"", "steer3d\":\"", "version\\\":\\\""];
    for path in files(folder) {
        let mut bytes = fs::read(&path).unwrap();
        for text in texts.map(|text| format!("{text}{now}")) {
            while let Some(at) = bytes.windows(text.len()).position(|w| w == text.as_bytes()) {
                bytes[at + text.len() - 1] = b'9';
            }
        }
        // The checksum of a state.
        if let Some(start) = bytes.strip_prefix(b"steer3d training state 1\n").map(|_| 25) {
            let sum: String =
                Sha256::digest(&bytes[start + 65..]).iter().map(|b| format!("{b:02x}")).collect();
            bytes[start..start + 64].copy_from_slice(sum.as_bytes());
        }
        fs::write(&path, bytes).unwrap();
    }
}

/// Exchanges the trained networks of a folder for others.
fn exchange_networks(folder: &Path) {
    for path in files(folder).into_iter().filter(|p| p.ends_with("model.safetensors")) {
        let (_, card) = checkpoint::load(&path, &Device::Cpu).unwrap();
        let other = Network::new(&card.model, 77, DType::F32, &Device::Cpu).unwrap();
        checkpoint::save(&path, &other, &card).unwrap();
    }
}

/// Runs a command, stopped after `steps`, changes something, and runs it again in the same folder and in a new one.
fn trial(name: &str, run: Run, steps: usize, change: fn(&mut World), tamper: fn(&Path)) {
    let [used, fresh] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let mut world = World::new();
    let stop = Stop::new();
    let observer = Impatient { left: Cell::new(steps), stop: &stop };
    let session = Session { observer: &observer, stop: &stop, ..Session::default() };
    run(&world, used.path(), &session).unwrap();
    change(&mut world);
    tamper(&used.path().join("out"));
    let expected = run(&world, fresh.path(), &Session::default()).unwrap().unwrap();
    match run(&world, used.path(), &Session::default()) {
        Ok(found) => assert_eq!(found.unwrap(), expected, "{name}, stopped after {steps}"),
        Err(error) => assert!(error.contains("train anew"), "{name}, after {steps}: {error}"),
    }
}

fn all_trials(run: Run, steps: &[usize]) {
    for &steps in steps {
        for (name, change) in CHANGES {
            trial(name, run, steps, change, |_| ());
        }
        trial("version", run, steps, |_| (), age);
        trial("networks", run, steps, |_| (), exchange_networks);
    }
}

const TO_THE_END: usize = usize::MAX;

#[test]
fn compare_gives_no_old_number() {
    all_trials(run_compare, &[2, TO_THE_END]);
}

#[test]
fn eval_gives_no_old_number() {
    all_trials(run_eval, &[1, 4, TO_THE_END]);
}

#[test]
fn a_resumed_training_gives_no_old_number() {
    all_trials(run_train, &[2, 5, TO_THE_END]);
}
