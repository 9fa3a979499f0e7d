use std::cell::RefCell;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use candle_core::Device;
use clap::{Args, ValueEnum};
use serde::Serialize;
use steer3d::dataset::{Dataset, Split};
use steer3d::eval::report::{ModelReport, Report, Section, terminal, write_report};
use steer3d::eval::{
    Exporter, Mask, NetworkPredictor, PointGroup, Precomputed, Predictor, Progress, Protocol,
    Search, Source, SubprocessPredictor, evaluate,
};
use steer3d::nn::checkpoint::{self, ModelCard};
use steer3d::nn::{Head, Network};
use steer3d::volume::Interpolation;

use crate::output::Output;
use crate::{outputs, voxels};

pub(crate) const EXAMPLES: &str = "Examples:
  steer3d eval runs/steerable/model.safetensors cath.h5
  steer3d eval steerable/model.safetensors plain/model.safetensors cath.h5 --rotations 64 --out report
  steer3d eval monai.onnx adrenal.h5 --out report
  steer3d eval adrenal.h5 --command 'python3 predict.py' --out report
  steer3d eval model.safetensors cath.h5 --rotate points --angles 10,20,45,90,180 --json
  steer3d eval model.safetensors cath.h5 --axes z,x --angle-step 30 --search 48 --ball

Without --out the tables are printed; with it the folder also gets report.html, report.json,
results.csv, predictions.csv and the figures as SVG and PNG, and an evaluation that was interrupted goes on
where it was. Networks that label voxels are compared with the labels of the dataset (voxels.json, voxels.csv,
volumes.csv), networks that give numbers, vectors or tensors with its targets (outputs.json, outputs.csv), both
turned back; they have report.html and the figures, too.";

#[derive(Args)]
pub(crate) struct EvalArgs {
    /// Models (.safetensors, .onnx), then the dataset (HDF5)
    #[arg(required = true, num_args = 1.., value_names = ["MODEL", "DATASET"])]
    paths: Vec<PathBuf>,
    /// A program that predicts, as crates/eval/PREDICTORS.md describes; may be given several times
    #[arg(long)]
    command: Vec<String>,
    /// Write the rotated and moved volumes and their SHA-256 to a folder, and evaluate nothing
    #[arg(long, conflicts_with_all = ["command", "predictions", "out"])]
    export: Option<PathBuf>,
    /// Folder that --export has written, with the predictions.csv for its volumes; may be given several
    /// times
    #[arg(long)]
    predictions: Vec<PathBuf>,
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
    /// TOML file with the fields of `protocol` in report.json, instead of the options for them;
    /// what it leaves out has its default
    #[arg(long, conflicts_with_all = [
        "rotations", "angles", "translations", "angle_step", "axes", "rotations_and_translations",
        "even", "groups", "search", "search_rounds", "ball", "outside", "rotate", "interpolation",
    ])]
    protocol: Option<PathBuf>,
    /// Uniform random rotations of each item
    #[arg(long, default_value_t = 16)]
    rotations: usize,
    /// Angles (degrees) of rotations about random axes, separated by commas
    #[arg(long, value_delimiter = ',')]
    angles: Option<Vec<f64>>,
    /// Distances (voxels) of translations, separated by commas
    #[arg(long, value_delimiter = ',')]
    translations: Option<Vec<f64>>,
    /// Angles every so many degrees up to 180, instead of --angles
    #[arg(long, conflicts_with = "angles", value_parser = angle_step)]
    angle_step: Option<f64>,
    /// Axes (x, y, z or X:Y:Z) about which to turn by every angle, and at random
    #[arg(long, value_delimiter = ',', value_parser = axis)]
    axes: Vec<Axis>,
    /// Distances (voxels) of translations after random rotations, separated by commas
    #[arg(long, value_delimiter = ',')]
    rotations_and_translations: Vec<f64>,
    /// Evenly spread rotations of each item
    #[arg(long, default_value_t = 0)]
    even: usize,
    /// Groups all of whose rotations are used: tetrahedron, cube (under which voxels need no
    /// interpolation), icosahedron
    #[arg(long, value_delimiter = ',')]
    groups: Vec<PointGroup>,
    /// Search for the worst rotation of each item, from this many evenly spread ones
    #[arg(long, value_name = "GRID", value_parser = clap::value_parser!(u32).range(1..))]
    search: Option<u32>,
    /// Rounds of refinement of the search, six rotations each
    #[arg(long, default_value_t = 6, requires = "search")]
    search_rounds: usize,
    /// Keep only the largest ball about the centre of every volume, so that no corner is lost in turning
    #[arg(long)]
    ball: bool,
    /// Value around the stored voxels, which comes in when they are turned or moved
    #[arg(long, default_value_t = 0.0, allow_negative_numbers = true)]
    outside: f32,
    /// What is rotated: the stored voxels, by interpolation; the stored points or meshes, exactly,
    /// before voxelising; or both [default: both where the dataset stores points or meshes]
    #[arg(long, value_enum)]
    rotate: Option<Rotated>,
    /// How rotated and moved voxels are interpolated: cubic splines as in SciPy; trilinear is faster and blurs
    #[arg(long, default_value = "cubic")]
    interpolation: Interpolation,
    /// Volumes evaluated in a batch: changes speed and memory only [default: 32, fewer of large ones]
    #[arg(long)]
    eval_batch_size: Option<usize>,
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

/// The protocol of a file, with `seed` unless it has its own.
fn protocol_file(path: &Path, seed: u64) -> Result<Protocol> {
    let mut table: toml::Table = toml::from_str(&fs::read_to_string(path)?)?;
    table.entry("seed").or_insert(i64::try_from(seed)?.into());
    Ok(table.try_into()?)
}

/// Volumes of so many values that go into a batch: 4 Mi values, up to 32 volumes.
fn batch_for(values: usize) -> usize {
    ((4 << 20) / values.max(1)).clamp(1, 32)
}

/// An axis x,y,z.
#[derive(Clone, Copy)]
struct Axis([f64; 3]);

fn axis(text: &str) -> Result<Axis, String> {
    let problem = || format!("expected x, y, z or three numbers X:Y:Z, found `{text}`");
    Ok(Axis(match text {
        "x" => [1.0, 0.0, 0.0],
        "y" => [0.0, 1.0, 0.0],
        "z" => [0.0, 0.0, 1.0],
        _ => {
            let parts: Result<Vec<f64>, _> = text.split(':').map(str::parse).collect();
            parts.map_err(|_| problem())?.try_into().map_err(|_| problem())?
        }
    }))
}

fn angle_step(text: &str) -> Result<f64, String> {
    let step = text.parse().ok().filter(|step| (0.1..=180.0).contains(step));
    step.ok_or_else(|| format!("expected from 0.1 to 180 degrees, found `{text}`"))
}

impl ProtocolArgs {
    pub(crate) fn split(&self) -> Split {
        match self.split {
            SplitName::Train => Split::Train,
            SplitName::Validation => Split::Validation,
            SplitName::Test => Split::Test,
        }
    }

    pub(crate) fn protocol(&self, dataset: &Dataset, seed: u64) -> Result<Protocol> {
        let batch = self.eval_batch_size.unwrap_or_else(|| batch_for(dataset.meta().item_len()));
        let protocol = match &self.protocol {
            Some(path) => {
                protocol_file(path, seed).with_context(|| format!("{}", path.display()))?
            }
            None => self.of_options(dataset, seed),
        };
        Ok(Protocol { batch, ..protocol })
    }

    fn of_options(&self, dataset: &Dataset, seed: u64) -> Protocol {
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
            angles: match self.angle_step {
                Some(step) => {
                    (1..).map(|i| f64::from(i) * step).take_while(|a| *a <= 180.0).collect()
                }
                None => self.angles.clone().unwrap_or(standard.angles),
            },
            translations: self.translations.clone().unwrap_or(standard.translations),
            even: self.even,
            axes: self.axes.iter().map(|axis| axis.0).collect(),
            rotations_and_translations: self.rotations_and_translations.clone(),
            groups: self.groups.clone(),
            search: self
                .search
                .map(|grid| Search { grid: grid as usize, rounds: self.search_rounds }),
            mask: if self.ball { Mask::Ball } else { Mask::None },
            outside: self.outside,
            sources,
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
    let others = args.command.len() + args.predictions.len() + usize::from(args.export.is_some());
    if models.len() + others == 0 {
        bail!("no model given: name one or more before the dataset, or a --command");
    }
    let dataset = Dataset::open(data)?;
    let protocol = args.protocol.protocol(&dataset, seed)?;
    if let Some(folder) = &args.export {
        return export(folder, &dataset, args.protocol.split(), &protocol, output);
    }
    let networks = models.iter().map(|path| network(path, device)).collect::<Result<Vec<_>>>()?;
    let answers = answers(models, &networks, others > 0)?;
    let named = models.iter().map(|path| (path.as_path(), model_name(path, models)));
    let mut predictors = named
        .zip(networks)
        .map(|((path, name), loaded)| predictor(path, name, loaded, &dataset))
        .collect::<Result<Vec<_>>>()?;
    answers.check(&protocol).context("--search")?;
    let (split, out) = (args.protocol.split(), args.out.as_deref());
    match answers {
        Answers::Classes => {}
        Answers::Voxels => {
            let report = voxels::report(&predictors, &dataset, split, protocol, out, output)?;
            show(&report.terminal(), &report, out, output)?;
            return Ok(ExitCode::SUCCESS);
        }
        Answers::Values => {
            let report = outputs::report(&predictors, &dataset, split, protocol, out, output)?;
            show(&report.terminal(), &report, out, output)?;
            return Ok(ExitCode::SUCCESS);
        }
    }
    for command in &args.command {
        predictors.push(Box::new(SubprocessPredictor::start(command, dataset.meta())?));
    }
    for folder in &args.predictions {
        let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        predictors.push(Box::new(Precomputed::load(name, folder, dataset.meta())?));
    }
    let journals = args.out.as_ref().map(|out| out.join("unfinished"));
    if let Some(folder) = &journals {
        fs::create_dir_all(folder).with_context(|| format!("{}", folder.display()))?;
    }
    let section = section(&predictors, &dataset, split, protocol, journals.as_deref(), output)?;
    let title = format!("Rotated-volume evaluation on {}", dataset.meta().name);
    publish(&title, vec![section], args.out.as_deref(), output)?;
    if let Some(folder) = &journals {
        fs::remove_dir_all(folder).with_context(|| format!("{}", folder.display()))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn export(
    folder: &Path,
    dataset: &Dataset,
    split: Split,
    protocol: &Protocol,
    output: &Output,
) -> Result<ExitCode> {
    if protocol.search.is_some() {
        bail!(
            "--export: the volumes of a --search depend on the answers; leave one of the two out"
        );
    }
    let exporter = Exporter::new(folder, dataset.meta())?;
    measure(&exporter, dataset, split, protocol, None, output)?;
    let volumes = exporter.finish(folder)?;
    let text = format!("{}: {volumes} volumes", folder.join("volumes.npy").display());
    output.result(&text, &serde_json::json!({ "schema_version": 1, "volumes": volumes }))?;
    Ok(ExitCode::SUCCESS)
}

/// What models answer with, which decides how they are measured.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Answers {
    Classes,
    Voxels,
    Values,
}

impl Answers {
    pub(crate) fn of(head: &Head) -> Result<Self> {
        match head {
            Head::Classes => Ok(Self::Classes),
            Head::Voxels => Ok(Self::Voxels),
            Head::Scalars | Head::Field { pooled: true, .. } => Ok(Self::Values),
            Head::Field { pooled: false, .. } => bail!(
                "gives a field; classes, labels of voxels and values of whole volumes are evaluated"
            ),
        }
    }

    /// Refuses a search for worst rotations where no classes can be wrong.
    pub(crate) fn check(self, protocol: &Protocol) -> Result<()> {
        if self != Self::Classes && protocol.search.is_some() {
            bail!("looks for wrong classes of whole volumes; leave it out for other answers");
        }
        Ok(())
    }
}

/// What all models answer with; `classifiers` are among them.
fn answers(paths: &[PathBuf], networks: &[Option<Loaded>], classifiers: bool) -> Result<Answers> {
    let mut all = if classifiers { vec![Answers::Classes] } else { vec![] };
    for (path, network) in paths.iter().zip(networks) {
        all.push(match network.as_ref().map(|(_, card)| card.model.head()) {
            None => Answers::Classes,
            Some(head) => Answers::of(head).with_context(|| format!("{}", path.display()))?,
        });
    }
    match all.iter().all(|answers| *answers == all[0]) {
        true => Ok(all[0]),
        false => bail!(
            "models of classes, of labels of voxels and of numbers are measured differently: evaluate them apart"
        ),
    }
}

type Loaded = (Network, ModelCard);

/// A network of this project; `None` for a model of another maker.
fn network(path: &Path, device: &Device) -> Result<Option<Loaded>> {
    if path.extension().is_some_and(|e| e == "onnx") {
        return Ok(None);
    }
    Ok(Some(checkpoint::load(path, device)?))
}

fn predictor(
    path: &Path,
    name: String,
    loaded: Option<Loaded>,
    dataset: &Dataset,
) -> Result<Box<dyn Predictor>> {
    let Some((network, card)) = loaded else { return onnx(path, name, dataset) };
    check_grid(path, &card, dataset)?;
    Ok(Box::new(NetworkPredictor::new(name, network)?))
}

#[cfg(feature = "onnx")]
fn onnx(path: &Path, name: String, dataset: &Dataset) -> Result<Box<dyn Predictor>> {
    use steer3d::eval::{OnnxOptions, OnnxPredictor};
    let options = OnnxOptions::beside(path)?;
    Ok(Box::new(OnnxPredictor::load(name, path, &options, dataset.meta())?))
}

#[cfg(not(feature = "onnx"))]
fn onnx(path: &Path, _name: String, _dataset: &Dataset) -> Result<Box<dyn Predictor>> {
    bail!(
        "{}: this build cannot run ONNX models; build it with `cargo build --release -p steer3d-cli --features onnx`",
        path.display()
    )
}

/// A network sees voxels, not angstroms: other voxels are another task.
fn check_grid(path: &Path, card: &ModelCard, dataset: &Dataset) -> Result<()> {
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

/// Evaluates every model on the same transformed volumes. `journals` is a folder for the logits of
/// an unfinished evaluation.
pub(crate) fn section(
    predictors: &[Box<dyn Predictor>],
    dataset: &Dataset,
    split: Split,
    protocol: Protocol,
    journals: Option<&Path>,
    output: &Output,
) -> Result<Section> {
    let models = predictors
        .iter()
        .enumerate()
        .map(|(i, predictor)| {
            let journal = journals.map(|folder| folder.join(format!("{i}.logits")));
            measure(predictor.as_ref(), dataset, split, &protocol, journal.as_deref(), output)
        })
        .collect::<Result<Vec<_>>>()?;
    Ok(Section::new(dataset, split, protocol, models)?)
}

/// Evaluates one model, with the logits so far in the file `journal`.
pub(crate) fn measure(
    predictor: &dyn Predictor,
    dataset: &Dataset,
    split: Split,
    protocol: &Protocol,
    journal: Option<&Path>,
    output: &Output,
) -> Result<ModelReport> {
    let progress = progress(predictor, dataset, output);
    Ok(evaluate(predictor, dataset, split, protocol, journal, &progress)?)
}

/// Shows how far an evaluation has come.
pub(crate) fn progress(
    predictor: &dyn Predictor,
    dataset: &Dataset,
    output: &Output,
) -> impl Fn(Progress) + use<> {
    let label = format!("evaluate {} on {}", predictor.name(), dataset.meta().name);
    let bar = RefCell::new(output.progress(&label, 0));
    move |p| {
        let mut bar = bar.borrow_mut();
        bar.length(p.total);
        bar.at(p.done, "volumes");
    }
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
    show(&terminal(&report), &report, out, output)
}

/// Prints a report, and where its page is.
fn show(text: &str, report: &impl Serialize, out: Option<&Path>, output: &Output) -> Result<()> {
    output.result(text, report)?;
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
