use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Result, bail};
use candle_core::Device;
use clap::{Args, ValueEnum};
use steer3d::eval::report::{ModelReport, Report, Section, gallery, terminal, write_report};
use steer3d::eval::{NetworkPredictor, Predictor, Protocol, Source, evaluate, summarise};
use steer3d::nn::checkpoint;
use steer3d::volume::{Dataset, Interpolation, Split};

use crate::output::Output;

pub(crate) const EXAMPLES: &str = "Examples:
  steer3d eval runs/steerable/model.safetensors cath.h5
  steer3d eval steerable/model.safetensors plain/model.safetensors cath.h5 --rotations 64 --out report
  steer3d eval model.safetensors cath.h5 --rotate points --angles 10,20,45,90,180 --json

Without --out the tables are printed; with it the folder also gets report.html, report.json,
results.csv, predictions.csv and the figures as SVG.";

#[derive(Args)]
pub(crate) struct EvalArgs {
    /// One or more models (.safetensors), then the dataset (HDF5)
    #[arg(required = true, num_args = 2.., value_names = ["MODEL", "DATASET"])]
    paths: Vec<PathBuf>,
    #[command(flatten)]
    protocol: ProtocolArgs,
    /// Folder for the report
    #[arg(long, short)]
    out: Option<PathBuf>,
}

/// What is done to the test volumes.
#[derive(Args)]
pub(crate) struct ProtocolArgs {
    /// Items to evaluate
    #[arg(long, value_enum, default_value = "test")]
    split: SplitName,
    /// Uniform random rotations of each item
    #[arg(long, default_value_t = 16)]
    rotations: usize,
    /// Angles (degrees) of rotations about random axes, separated by commas
    #[arg(long, value_delimiter = ',')]
    angles: Option<Vec<f64>>,
    /// Distances (voxels) of translations, separated by commas
    #[arg(long, value_delimiter = ',')]
    translations: Option<Vec<f64>>,
    /// Also the 24 rotations of the cube, under which voxels need no interpolation
    #[arg(long)]
    cube: bool,
    /// What is rotated: the stored voxels, by interpolation; the stored points or meshes, exactly,
    /// before voxelising; or both [default: both where the dataset stores points or meshes]
    #[arg(long, value_enum)]
    rotate: Option<Rotated>,
    /// How rotated and moved voxels are interpolated
    #[arg(long, default_value = "trilinear")]
    interpolation: Interpolation,
    /// Volumes evaluated in a batch: changes speed and memory only
    #[arg(long, default_value_t = 32)]
    eval_batch_size: usize,
}

#[derive(Clone, Copy, ValueEnum)]
enum SplitName {
    Train,
    Validation,
    Test,
}

#[derive(Clone, Copy, ValueEnum)]
enum Rotated {
    Voxels,
    Points,
    Both,
}

impl ProtocolArgs {
    pub(crate) fn split(&self) -> Split {
        match self.split {
            SplitName::Train => Split::Train,
            SplitName::Validation => Split::Validation,
            SplitName::Test => Split::Test,
        }
    }

    pub(crate) fn protocol(&self, dataset: &Dataset, seed: u64) -> Protocol {
        let standard = Protocol::default();
        let voxels = Source::Voxels(self.interpolation);
        let stored = dataset.can_voxelise();
        let sources = match (self.rotate, stored) {
            (Some(Rotated::Voxels), _) | (None, false) => vec![voxels],
            (Some(Rotated::Points), _) => vec![Source::Points],
            (Some(Rotated::Both), _) | (None, true) => vec![voxels, Source::Points],
        };
        Protocol {
            seed,
            rotations: self.rotations,
            angles: self.angles.clone().unwrap_or(standard.angles),
            translations: self.translations.clone().unwrap_or(standard.translations),
            cube: self.cube,
            sources,
            batch: self.eval_batch_size,
            ..standard
        }
    }
}

pub(crate) fn run(
    args: &EvalArgs,
    seed: u64,
    device: &Device,
    output: &Output,
) -> Result<ExitCode> {
    let Some((data, models)) = args.paths.split_last() else { bail!("no dataset given") };
    let dataset = Dataset::open(data)?;
    let protocol = args.protocol.protocol(&dataset, seed);
    let predictors = models
        .iter()
        .map(|path| {
            let (network, card) = checkpoint::load(path, device)?;
            check_grid(path, &card, &dataset)?;
            Ok(NetworkPredictor::new(model_name(path, models), network)?)
        })
        .collect::<Result<Vec<_>>>()?;
    let section = section(&predictors, &dataset, args.protocol.split(), protocol, output)?;
    let title = format!("Rotated-volume evaluation on {}", dataset.meta().name);
    publish(&title, vec![section], args.out.as_deref(), output)?;
    Ok(ExitCode::SUCCESS)
}

/// A network sees voxels, not angstroms: other voxels are another task.
fn check_grid(path: &Path, card: &checkpoint::ModelCard, dataset: &Dataset) -> Result<()> {
    let meta = dataset.meta();
    let close = |a: f64, b: f64| (a - b).abs() <= 1e-3 * a.abs().max(b.abs());
    if card.voxel_size.iter().zip(meta.voxel_size).all(|(&a, b)| close(a, b)) {
        return Ok(());
    }
    bail!(
        "{}: the model was trained on voxels of {:?} {} but dataset {} has {:?} {}; import the data with the model's voxel size",
        path.display(),
        card.voxel_size,
        card.unit,
        meta.name,
        meta.voxel_size,
        meta.unit
    )
}

/// The file's name, or its folder's where several models have the same file name.
fn model_name(path: &Path, all: &[PathBuf]) -> String {
    let stem = |p: &Path| p.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let shared = all.iter().filter(|p| stem(p) == stem(path)).count() > 1;
    let folder = path.parent().map(stem).filter(|f| !f.is_empty());
    match folder {
        Some(folder) if shared || stem(path) == "model" => folder,
        _ => stem(path),
    }
}

/// Evaluates every model on the same transformed volumes.
pub(crate) fn section(
    predictors: &[NetworkPredictor],
    dataset: &Dataset,
    split: Split,
    protocol: Protocol,
    output: &Output,
) -> Result<Section> {
    let models = predictors
        .iter()
        .map(|predictor| measure(predictor, dataset, split, &protocol, output))
        .collect::<Result<Vec<_>>>()?;
    Ok(Section {
        gallery: gallery(dataset, &models, &protocol, 4)?,
        dataset: summarise(dataset, split),
        protocol,
        models,
    })
}

/// Evaluates one model.
pub(crate) fn measure(
    predictor: &NetworkPredictor,
    dataset: &Dataset,
    split: Split,
    protocol: &Protocol,
    output: &Output,
) -> Result<ModelReport> {
    let label = format!("evaluate {} on {}", predictor.name(), dataset.meta().name);
    let bar = RefCell::new(output.progress(&label, 0));
    Ok(evaluate(predictor, dataset, split, protocol, &|p| {
        let mut bar = bar.borrow_mut();
        bar.length(p.total);
        bar.at(p.done, "volumes");
    })?)
}

/// Prints the tables (or the JSON form) and writes the report where asked for.
pub(crate) fn publish(
    title: &str,
    sections: Vec<Section>,
    out: Option<&Path>,
    output: &Output,
) -> Result<()> {
    let report = Report::new(title, &command_line(), sections);
    if let Some(folder) = out {
        write_report(folder, &report)?;
    }
    output.result(&terminal(&report), &report)?;
    if let Some(folder) = out {
        output.say(&format!("report: {}", folder.join("report.html").display()));
    }
    Ok(())
}

pub(crate) fn command_line() -> String {
    let mut words = std::env::args();
    let program = words.next().unwrap_or_default();
    let name = Path::new(&program).file_name().unwrap_or_default().to_string_lossy().into_owned();
    let quote = |w: String| if w.contains(char::is_whitespace) { format!("'{w}'") } else { w };
    std::iter::once(name).chain(words.map(quote)).collect::<Vec<_>>().join(" ")
}
