use std::path::Path;
use std::sync::atomic::AtomicBool;

use anyhow::Result;
use candle_core::{DType, Device};
use serde::Serialize;
use steer3d::dataset::{Dataset, ImportOptions, Split, import_tetris};
use steer3d::eval::{NetworkPredictor, Predictor, Protocol, Spread, evaluate};
use steer3d::kernels::Family;
use steer3d::nn::{Network, PlainConfig, SteerableBlock, SteerableConfig};
use steer3d::train::{Monitor, TrainConfig};
use steer3d::volume::Voxeliser;

use crate::output::Output;
use crate::train::{Architecture, Budget, Keep, Pair, input_scale, rival, train_into};

/// Accuracy on rotated shapes, over seeds.
#[derive(Serialize)]
struct Row {
    model: String,
    parameters: usize,
    accuracies: Vec<f64>,
    mean: f64,
    standard_deviation: f64,
}

#[derive(Serialize)]
struct Tetris {
    schema_version: u32,
    shapes: usize,
    test_items: usize,
    epochs: usize,
    rows: Vec<Row>,
}

const SHAPES: usize = 8;
const ROTATIONS: usize = 32;

/// The Tetris experiment (Weiler et al. 2018, section 5.1): train on one orientation of each of
/// eight shapes, test on uniformly random rotations.
pub(crate) fn run(
    seeds: u64,
    epochs: Option<usize>,
    out: &Path,
    first_seed: u64,
    device: &Device,
    output: &Output,
) -> Result<()> {
    let epochs = epochs.unwrap_or(60);
    let mut rows = vec![];
    for architecture in [Architecture::Steerable, Architecture::Plain] {
        let name = architecture.to_string();
        let mut accuracies = vec![];
        let mut parameters = 0;
        for seed in first_seed..first_seed + seeds {
            let path = out.join(format!("tetris-{seed}.h5"));
            let options = ImportOptions { seed, ..ImportOptions::default() };
            import_tetris(&path, &voxeliser(), ROTATIONS, &options)?;
            let dataset = Dataset::open(&path)?;
            let steerable = network(&dataset)?;
            let plain = PlainConfig::like(&steerable);
            let networks = Pair { steerable, plain };
            let model = rival(architecture, networks, Budget::Parameters, device)?;
            let config = TrainConfig {
                epochs,
                batch_size: SHAPES,
                learning_rate: 3e-2,
                weight_decay: 1e-3,
                monitor: Monitor::Accuracy,
                seed,
                ..TrainConfig::default()
            };
            let network = Network::new(&model, seed, DType::F32, device)?;
            let folder = out.join(format!("tetris-{seed}")).join(&name);
            let never = AtomicBool::new(false);
            let run =
                train_into(&folder, network, &dataset, &config, Keep::default(), output, &never)?;
            parameters = run.network.params().count();
            let predictor = NetworkPredictor::new(name.clone(), run.network)?;
            let accuracy = accuracy(&predictor, &dataset)?;
            output.say(&format!("{name}, seed {seed}: {:.1} % right", 100.0 * accuracy));
            accuracies.push(accuracy);
        }
        rows.push(row(name, parameters, accuracies));
    }
    let tetris =
        Tetris { schema_version: 1, shapes: SHAPES, test_items: SHAPES * ROTATIONS, epochs, rows };
    output.result(&table(&tetris), &tetris)
}

/// Each cube is a Gaussian of two voxels, wide enough for the grid to hold in any orientation, and no
/// shape reaches the faces of the volume.
fn voxeliser() -> Voxeliser {
    Voxeliser { sigma: 0.8, ..Voxeliser::paper(21, 0.4) }
}

/// Fields with parity, so that pseudoscalars tell the two chiral shapes apart. Little of a
/// pseudoscalar is left in the mean over space, so the kernels are those of the least equivariance
/// error: with fewer taps the error of shapes that have no handedness is as large as the difference
/// between the two that have.
fn network(dataset: &Dataset) -> Result<SteerableConfig> {
    let blocks = [
        "6x0e+4x1o+2x2e",
        "6x0e+2x1o+2x1e+1x2e+1x2o",
        "6x0e+2x0o+2x1o+2x1e+1x2e+1x2o",
        "20x0e+6x0o",
    ];
    let block = |fields: &str| Ok(SteerableBlock::new(fields.parse()?, 9, 1));
    let blocks = blocks.into_iter().map(block).collect::<Result<_>>()?;
    Ok(SteerableConfig {
        input_scale: input_scale(dataset)?,
        keep_zero: true,
        head_norm: true,
        ..SteerableConfig::new("1x0e".parse()?, SHAPES, Family::jets(3), blocks)
    })
}

/// Accuracy on the test items, which are stored rotated.
fn accuracy(predictor: &dyn Predictor, dataset: &Dataset) -> Result<f64> {
    let protocol = Protocol {
        rotations: 0,
        angles: vec![],
        translations: vec![],
        groups: vec![],
        layer_items: 0,
        ..Protocol::default()
    };
    let report = evaluate(predictor, dataset, Split::Test, &protocol, None, &|_| {})?;
    Ok(report.sources[0].conditions[0].get("accuracy").map_or(0.0, |accuracy| accuracy.value))
}

fn row(model: String, parameters: usize, accuracies: Vec<f64>) -> Row {
    let Spread { mean, deviation } = Spread::of(&accuracies);
    Row { model, parameters, mean, standard_deviation: deviation, accuracies }
}

fn table(tetris: &Tetris) -> String {
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::UTF8_HORIZONTAL_ONLY);
    table.set_header(["Tetris", "parameters", "seeds", "rotated accuracy", "deviation"]);
    for row in &tetris.rows {
        table.add_row([
            row.model.clone(),
            row.parameters.to_string(),
            row.accuracies.len().to_string(),
            format!("{:.3}", row.mean),
            format!("{:.3}", row.standard_deviation),
        ]);
    }
    table.to_string()
}
