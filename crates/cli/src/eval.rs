use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use candle_core::Device;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, ValueEnum};
use steer3d::dataset::{Dataset, Split};
use steer3d::eval::{
    AnswerKind, EvalError, Exporter, Mask, Models, PointGroup, Predictor, Protocol, Search, Source,
    SubprocessPredictor, evaluate,
};
use steer3d::experiments::evaluation_progress;
use steer3d::files::AtPath;
use steer3d::predict::{Model, PredictError};
use steer3d::ranks::Rank;
use steer3d::report::{Evaluation, ReportError, terminal};
use steer3d::volume::Interpolation;

use crate::interrupt::{INTERRUPTED, stop};
use crate::output::{Output, SUCCESS};
use crate::values::WindowArgs;

pub(crate) const EXAMPLES: &str = "Examples:
  steer3d eval runs/steerable/model.safetensors cath.h5
  steer3d eval steerable/model.safetensors plain/model.safetensors cath.h5 --rotations 64 --out report
  steer3d eval cath-class cath.h5 --out report
  steer3d eval monai.onnx adrenal.h5 --out report
  steer3d eval adrenal.h5 --command 'python3 predict.py' --out report
  steer3d eval model.safetensors cath.h5 --rotate points --angles 10,20,45,90,180 --json
  steer3d eval model.safetensors cath.h5 --axes z,x --angle-step 30 --search 48 --ball

Without --out the tables are printed; with it the folder also gets report.html, report.json, results.csv, predictions.csv \
and the figures as SVG and PNG, and an evaluation that was interrupted goes on where it was. On a dataset without labels \
the answers are compared with the unrotated ones alone: the report tells how stable they are. Models that label voxels are \
compared with the labels of the dataset, models that give numbers, vectors or tensors with its targets, both turned back.

The program of an archive or a container evaluates ONNX models; a wheel, as any other build, does so where it is built \
with --features onnx.

A --command is started once. For each batch its standard input gets a line of JSON such as \
{\"shape\":[N,C,D,H,W],\"dtype\":\"<f4\"} and so many little-endian 32-bit floats; it answers on its standard output with a \
line {\"shape\":[N,K]} and as many floats, logits for K classes. The repository, and an archive of the program, have a whole \
one in docs/src/guide/predictors.md.";

/// The models come before the dataset, which `clap` takes for one list, so that options may stand between them.
pub(crate) const USAGE: &str = "steer3d eval [OPTIONS] [MODEL]... <DATASET>";

#[derive(Args)]
pub(crate) struct EvalArgs {
    /// Models: files (.safetensors, .onnx) or names of models that come with the program; then the dataset (HDF5)
    #[arg(required = true, num_args = 1.., value_name = "MODEL|DATASET")]
    paths: Vec<PathBuf>,
    /// Folder for the report
    #[arg(long, short)]
    out: Option<PathBuf>,
    /// A program that reads volumes from its standard input and writes answers to its standard output; may be given several
    /// times
    #[arg(long)]
    command: Vec<String>,
    /// Seconds that a --command has to answer a batch, the first one with its own start
    #[arg(hide_short_help = true, long, requires = "command", value_parser = seconds,
          default_value_t = SubprocessPredictor::TIMEOUT.as_secs_f64())]
    command_timeout: f64,
    #[command(flatten)]
    windows: WindowArgs,
    /// Take the answers of networks by the names of their classes, where the dataset has the same names in another
    /// order
    #[arg(hide_short_help = true, long)]
    map_classes: bool,
    /// Names of the classes of models of other makers, separated by commas, where the dataset has none and no network
    /// is evaluated beside them
    #[arg(hide_short_help = true, long, value_delimiter = ',', conflicts_with = "export")]
    class_names: Vec<String>,
    /// Write the rotated and moved volumes and their SHA-256 to a folder, and evaluate nothing
    #[arg(hide_short_help = true, long, conflicts_with_all = ["command", "predictions", "out"])]
    export: Option<PathBuf>,
    /// Folder that --export has written, with the predictions.csv for its volumes; may be given several
    /// times
    #[arg(hide_short_help = true, long)]
    predictions: Vec<PathBuf>,
    /// What models of other makers answer [default: as the networks beside them, else classes]
    #[arg(hide_short_help = true, long, value_enum)]
    answers: Option<AnswerKind>,
    #[command(flatten)]
    protocol: ProtocolArgs,
}

/// What is done to the test volumes.
#[derive(Args)]
#[command(next_help_heading = "What is done to the volumes")]
pub(crate) struct ProtocolArgs {
    /// Items to evaluate
    #[arg(long, default_value = "test", value_parser = split_parser())]
    split: Split,
    /// TOML file with the fields of `protocol` in report.json, instead of the options for them;
    /// what it leaves out has its default
    #[arg(hide_short_help = true, long, conflicts_with_all = [
        "rotations", "angles", "translations", "angle_step", "axes", "rotations_and_translations",
        "even", "groups", "search", "search_rounds", "ball", "outside", "surface_tolerance", "rotate",
        "interpolation", "turning",
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
    #[arg(hide_short_help = true, long, conflicts_with = "angles", value_parser = angle_step)]
    angle_step: Option<f64>,
    /// Axes (x, y, z or X:Y:Z) about which to turn by every angle, and at random
    #[arg(long, value_delimiter = ',', value_parser = axis)]
    axes: Vec<Axis>,
    /// Distances (voxels) of translations after random rotations, separated by commas
    #[arg(hide_short_help = true, long, value_delimiter = ',')]
    rotations_and_translations: Vec<f64>,
    /// Evenly spread rotations of each item
    #[arg(hide_short_help = true, long, default_value_t = 0)]
    even: usize,
    /// Groups all of whose rotations are used: tetrahedron, cube (under which voxels need no
    /// interpolation), icosahedron
    #[arg(long, value_delimiter = ',')]
    groups: Vec<PointGroup>,
    /// Search for the worst rotation of each item, from this many evenly spread ones
    #[arg(long, value_name = "GRID", value_parser = clap::value_parser!(u32).range(1..))]
    search: Option<u32>,
    /// Rounds of refinement of the search, six rotations each
    #[arg(hide_short_help = true, long, default_value_t = 6, requires = "search")]
    search_rounds: usize,
    /// Keep only the largest ball about the centre of every volume, so that no corner is lost in turning
    #[arg(long)]
    ball: bool,
    /// Value around the stored voxels, which comes in when they are turned or moved
    #[arg(hide_short_help = true, long, default_value_t = 0.0, allow_negative_numbers = true)]
    outside: f32,
    /// How far surfaces of labelled voxels may be apart to count as the same (NSD), in the unit of the voxel size
    /// [default: longest edge of a voxel]
    #[arg(hide_short_help = true, long, value_name = "LENGTH")]
    surface_tolerance: Option<f64>,
    /// What is rotated: the stored voxels, by interpolation; the stored points or meshes, exactly,
    /// before voxelising; or both [default: both where the dataset stores points or meshes]
    #[arg(long, value_enum)]
    rotate: Option<Rotated>,
    /// How rotated and moved voxels are interpolated: cubic splines as in SciPy; trilinear is faster and blurs
    #[arg(long, default_value = "cubic")]
    interpolation: Interpolation,
    /// Items, up to 6, that the page of the report shows turning, with the answers of every model to 36 steps
    #[arg(hide_short_help = true, long, default_value_t = Protocol::default().turning)]
    turning: usize,
    /// Volumes evaluated in a batch: changes speed and memory only [default: 32, fewer of large ones]
    #[arg(hide_short_help = true, long)]
    eval_batch_size: Option<usize>,
}

fn split_parser() -> impl TypedValueParser<Value = Split> {
    PossibleValuesParser::new(["train", "validation", "test"]).try_map(|name| name.parse())
}

#[derive(Clone, Copy, ValueEnum)]
enum Rotated {
    Voxels,
    Points,
    Both,
}

/// The protocol of a text of TOML, with `seed` unless it has its own.
fn protocol_of(text: &str, seed: u64) -> Result<Protocol> {
    let mut table: toml::Table = toml::from_str(text)?;
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

fn seconds(text: &str) -> Result<f64, String> {
    let seconds = text.parse::<f64>().ok().filter(|seconds| *seconds > 0.0 && *seconds <= 1e9);
    seconds.ok_or_else(|| format!("expected a number of seconds up to 1e9, found `{text}`"))
}

impl ProtocolArgs {
    pub(crate) fn split(&self) -> Split {
        self.split
    }

    pub(crate) fn protocol(&self, dataset: &Dataset, seed: u64) -> Result<Protocol> {
        let batch = self.eval_batch_size.unwrap_or_else(|| batch_for(dataset.meta().item_len()));
        let protocol = match &self.protocol {
            Some(path) => {
                let text = fs::read_to_string(path).at_path(path)?;
                protocol_of(&text, seed).with_context(|| path.display().to_string())?
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
            surface_tolerance: self.surface_tolerance,
            sources,
            turning: self.turning,
            ..standard
        }
    }
}

pub(crate) fn run(args: &EvalArgs, seed: u64, device: &Device, output: &Output) -> Result<u8> {
    let done = evaluated(args, seed, device, output);
    let stopped = |cause: &(dyn std::error::Error + 'static)| {
        matches!(cause.downcast_ref(), Some(EvalError::Stopped))
            || cause.downcast_ref().is_some_and(ReportError::is_stop)
    };
    if !done.as_ref().is_err_and(|error| error.chain().any(stopped)) {
        return done.map(|()| SUCCESS);
    }
    let goes_on = if args.out.is_some() { ": the same command goes on where it was" } else { "" };
    output.say(&format!("interrupted{goes_on}"));
    Ok(INTERRUPTED)
}

fn evaluated(args: &EvalArgs, seed: u64, device: &Device, output: &Output) -> Result<()> {
    let Some((data, files)) = args.paths.split_last() else { bail!("no dataset given") };
    if is_model(data) {
        let model = data.display();
        bail!(
            "no dataset given: {model} is a model; name the dataset last, as in `steer3d eval {model} DATASET.h5`"
        );
    }
    let models = Models {
        files: files.to_vec(),
        bundled: bundled(files)?,
        commands: args.command.clone(),
        predictions: args.predictions.clone(),
        answers: args.answers,
        class_names: args.class_names.clone(),
        map_classes: args.map_classes,
        windows: args.windows.given(),
        timeout: Some(Duration::from_secs_f64(args.command_timeout)),
    };
    if models.is_empty() && args.export.is_none() {
        bail!("no model given: name one or more before the dataset, or a --command");
    }
    let dataset = Dataset::open(data)?;
    if !args.class_names.is_empty() && !dataset.meta().class_names.is_empty() {
        bail!("--class-names: {} has classes of its own; leave the option out", data.display());
    }
    let (split, mut protocol) = (args.protocol.split(), args.protocol.protocol(&dataset, seed)?);
    if args.out.is_none() {
        protocol.turning = 0;
    }
    if let Some(folder) = &args.export {
        // What is computed nowhere is not shared.
        let export = || export(folder, &dataset, split, &protocol, output);
        return if Rank::current().is_first() { Rank::ALONE.run(export) } else { Ok(()) };
    }
    protocol.check(&dataset, split)?;
    let models = models.open(&dataset, device, &|note| output.warn(note))?;
    let models: Vec<&dyn Predictor> = models.iter().map(AsRef::as_ref).collect();
    let evaluation = Evaluation { dataset: &dataset, split, protocol: &protocol };
    let title = format!("Rotated-volume evaluation on {}", dataset.meta().name);
    let (out, progress) = (args.out.as_deref(), evaluation_progress(output, "", stop()));
    let report = evaluation.report(&models, &title, &command_line(), out, &progress)?;
    output.tables(&terminal(&report), &report)?;
    if let Some(folder) = out {
        output.say(&format!("report: {}", folder.join("report.html").display()));
    }
    Ok(())
}

/// Whether a word names a model, not a dataset.
fn is_model(path: &Path) -> bool {
    let named = path.extension().is_some_and(|e| e == "safetensors" || e == "onnx");
    named || matches!(Model::bundled(path), Ok(Some(_)))
}

/// What the models hold that come with the program.
fn bundled(files: &[PathBuf]) -> Result<HashMap<PathBuf, &'static [u8]>, PredictError> {
    let bytes = |path: &PathBuf| {
        let found = Model::bundled(path).transpose()?;
        Some(found.map(|model| (path.clone(), model.bytes)))
    };
    files.iter().filter_map(bytes).collect()
}

fn export(
    folder: &Path,
    dataset: &Dataset,
    split: Split,
    protocol: &Protocol,
    output: &Output,
) -> Result<()> {
    if protocol.search.is_some() {
        bail!(
            "--export: the volumes of a --search depend on the answers; leave one of the two out"
        );
    }
    let exporter = Exporter::new(folder, dataset.meta())?;
    let progress = evaluation_progress(output, "", stop());
    let progress = |p| progress(exporter.name(), p);
    evaluate(&exporter, dataset, split, protocol, None, &progress)?;
    let volumes = exporter.finish(folder)?;
    let text = format!("{}: {volumes} volumes", folder.join("volumes.npy").display());
    output.result(&text, &serde_json::json!({ "schema_version": 1, "volumes": volumes }))
}

pub(crate) fn command_line() -> String {
    let mut words = std::env::args();
    let program = words.next().unwrap_or_default();
    let name = Path::new(&program).file_name().unwrap_or_default().to_string_lossy().into_owned();
    quoted(std::iter::once(name).chain(words))
}

/// Words as a line, in quotes where they have spaces.
pub(crate) fn quoted(words: impl Iterator<Item = String>) -> String {
    let quote = |w: String| if w.contains(char::is_whitespace) { format!("'{w}'") } else { w };
    words.map(quote).collect::<Vec<_>>().join(" ")
}
