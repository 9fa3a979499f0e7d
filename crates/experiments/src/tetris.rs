//! The Tetris experiment (Weiler et al. 2018, section 5.1): train on one orientation of each of
//! eight shapes, test on uniformly random rotations.

use std::ops::Range;
use std::path::PathBuf;
use std::str::FromStr;

use candle_core::DType;
use serde::Serialize;
use steer3d_dataset::{Dataset, ImportOptions, import_tetris};
use steer3d_eval::{NetworkPredictor, Spread, evaluate};
use steer3d_nn::{ModelConfig, Network, PlainConfig};
use steer3d_report::Text;
use steer3d_train::TrainConfig;
use steer3d_volume::Voxeliser;

use crate::error::ExperimentError;
use crate::evaluation::progress;
use crate::experiment::{EvaluationSettings, Experiment};
use crate::ready::TETRIS;
use crate::rivals::{Architecture, Budget, Prototypes};
use crate::session::Session;
use crate::training::{RunOptions, train_into};

/// How often the Tetris experiment is repeated.
#[derive(Debug, Clone)]
pub struct TetrisConfig {
    /// Seeds of the test rotations and the trainings.
    pub seeds: Range<u64>,
    /// Passes over the training set, instead of the experiment's own number.
    pub epochs: Option<usize>,
    /// Folder for datasets and run folders.
    pub folder: PathBuf,
}

/// What the Tetris experiment came to.
#[derive(Debug, Clone, Serialize)]
pub struct TetrisTable {
    /// Version of the layout.
    pub schema_version: u32,
    /// Number of shapes.
    pub shapes: usize,
    /// Number of test items.
    pub test_items: usize,
    /// Passes over the training set.
    pub epochs: usize,
    /// A row for each network.
    pub rows: Vec<TetrisRow>,
}

/// Accuracy of a network on rotated shapes, over seeds.
#[derive(Debug, Clone, Serialize)]
pub struct TetrisRow {
    /// Name of the network.
    pub model: String,
    /// Number of trained parameters.
    pub parameters: usize,
    /// Accuracy for each seed.
    pub accuracies: Vec<f64>,
    /// Their mean.
    pub mean: f64,
    /// Their standard deviation.
    pub standard_deviation: f64,
}

/// Runs the experiment of [`TETRIS`] with its steerable network and with a plain one of as many parameters.
///
/// # Errors
/// If a file cannot be written or a training diverges.
pub fn tetris(
    config: &TetrisConfig,
    session: &Session<'_>,
) -> Result<TetrisTable, ExperimentError> {
    let experiment = Experiment::parse(toml::from_str(TETRIS)?, &[])?;
    let Some(EvaluationSettings { split, protocol }) = &experiment.evaluation else {
        return Err(ExperimentError::invalid("evaluation", "the Tetris experiment has none"));
    };
    let mut training = experiment.training(None)?;
    training.epochs = config.epochs.unwrap_or(training.epochs);
    let (mut rows, mut shapes, mut test_items) = (vec![], 0, 0);
    for architecture in [Architecture::Steerable, Architecture::Plain] {
        let (mut accuracies, mut parameters) = (vec![], 0);
        for seed in config.seeds.clone() {
            let dataset = dataset(&experiment, config, seed)?;
            let training = TrainConfig { seed, ..training.clone() };
            let model = rival(&experiment, &dataset, architecture, session)?;
            let network = Network::new(&model, seed, DType::F32, session.device())?;
            parameters = network.params().count();
            let folder = config.folder.join(format!("tetris-{seed}")).join(architecture.name());
            let options = RunOptions::default();
            let run = train_into(&folder, network, &dataset, &training, options, session)?;
            let predictor = NetworkPredictor::new(architecture.to_string(), run.network)?;
            let progress = progress(&dataset, session);
            let progress = |p| progress(architecture.name(), p);
            let report = evaluate(&predictor, &dataset, *split, protocol, None, &progress)?;
            let accuracy = report.sources[0].conditions[0].get("accuracy").map_or(0.0, |a| a.value);
            let percent = 100.0 * accuracy;
            session.observer.say(&format!("{architecture}, seed {seed}: {percent:.1} % right"));
            accuracies.push(accuracy);
            (shapes, test_items) =
                (dataset.meta().class_names.len(), dataset.indices(*split).len());
        }
        let Spread { mean, deviation } = Spread::of(&accuracies);
        let model = architecture.to_string();
        rows.push(TetrisRow { model, parameters, accuracies, mean, standard_deviation: deviation });
    }
    Ok(TetrisTable { schema_version: 1, shapes, test_items, epochs: training.epochs, rows })
}

/// The dataset that the experiment makes, with test rotations of a seed.
fn dataset(
    experiment: &Experiment,
    config: &TetrisConfig,
    seed: u64,
) -> Result<Dataset, ExperimentError> {
    let make = &experiment.data.make;
    let voxeliser = Voxeliser {
        sigma: option(make, "--sigma")?,
        ..Voxeliser::paper(option(make, "--size")?, option(make, "--voxel-size")?)
    };
    let path = config.folder.join(format!("tetris-{seed}.h5"));
    let options = ImportOptions { seed, ..ImportOptions::default() };
    import_tetris(&path, &voxeliser, option(make, "--test-rotations")?, &options)?;
    Ok(Dataset::open(&path)?)
}

/// The value of an option among the words of a command.
fn option<T: FromStr>(words: &[String], name: &str) -> Result<T, ExperimentError> {
    let value = words.iter().skip_while(|word| *word != name).nth(1);
    value.and_then(|value| value.parse().ok()).ok_or_else(|| {
        ExperimentError::invalid("data.make", format!("expected a value after {name}"))
    })
}

fn rival(
    experiment: &Experiment,
    dataset: &Dataset,
    architecture: Architecture,
    session: &Session<'_>,
) -> Result<ModelConfig, ExperimentError> {
    let ModelConfig::Steerable(steerable) = experiment.model(dataset, session.device())? else {
        return Err(ExperimentError::invalid("model", "expected a steerable network"));
    };
    let plain = PlainConfig::like(&steerable);
    let prototypes = Prototypes { steerable, plain, dims: dataset.meta().dims };
    prototypes.rival(architecture, Budget::Parameters, session.device())
}

impl TetrisTable {
    /// The table for a terminal.
    pub fn table(&self) -> Text {
        let header = ["Tetris", "parameters", "seeds", "rotated accuracy", "deviation"];
        let cells = |row: &TetrisRow| {
            vec![
                row.model.clone(),
                row.parameters.to_string(),
                row.accuracies.len().to_string(),
                format!("{:.3}", row.mean),
                format!("{:.3}", row.standard_deviation),
            ]
        };
        Text::default().table(&header, self.rows.iter().map(cells).collect(), header.len())
    }
}
