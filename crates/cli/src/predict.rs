use std::io::{BufRead, Cursor, Read};
use std::ops::ControlFlow;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use candle_core::Device;
use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use serde_json::json;
use steer3d::dataset::Fit;
use steer3d::eval::AnswerKind;
use steer3d::files::AtPath;
use steer3d::predict::{
    Answer, BUILTIN, Builtin, Identity, Inputs, Kind, MapFormat, Model, Named, Options,
    Output as RecordFile, PredictError, Record, predict,
};
use steer3d::ranks::Rank;
use steer3d::report::Text;

use crate::interrupt::{INTERRUPTED, stop};
use crate::output::{Output, PROBLEM, Progress, SUCCESS, WARNING, counted};
use crate::values::WindowArgs;

pub(crate) const EXAMPLES: &str = "Examples:
  steer3d predict cath-class protein.pdb
  steer3d predict runs/mine/model.safetensors structures/ --out answers.csv
  steer3d predict runs/mine/model.safetensors ligands.sdf @more.txt --rotations 16 --out answers.jsonl
  find /data -name '*.cif.gz' | steer3d predict cath-class - --features --out answers.npz
  steer3d predict unet.safetensors map.mrc --out labels/ --probabilities
  steer3d predict unet.safetensors scan.nii.gz --native-voxels --out labels/

MODEL is a file, or a model that comes with the program (`steer3d predict --list`). An INPUT is a file of any format of \
`steer3d dataset build`, a folder, a list of paths (@LIST, or - for standard input), a table (.csv with a column `path`), \
a dataset (HDF5) or an archive of `steer3d dataset import` (.npz). Files become volumes by the recipe of the model, which \
`steer3d info` shows. Exit code 3: some inputs have no answer.";

/// Exit code of a run in which some inputs have no answer.
pub(crate) const SOME_FAILED: u8 = 3;

#[derive(Args)]
pub(crate) struct PredictArgs {
    /// The model: a file (.safetensors) or the name of one that comes with the program
    #[arg(required_unless_present = "list")]
    model: Option<String>,
    /// Files, folders, @lists, - (a list from standard input), tables, datasets and archives
    #[arg(value_name = "INPUT", required_unless_present = "list")]
    inputs: Vec<String>,
    /// List the models that come with the program
    #[arg(long, conflicts_with_all = ["model", "inputs"])]
    list: bool,
    /// TOML file that says how files become volumes, instead of what the model says
    #[arg(long)]
    recipe: Option<PathBuf>,
    /// What becomes of volumes of another grid than the model's, instead of what the recipe says
    #[arg(long, value_enum)]
    fit: Option<Fit>,
    /// For labels of voxels: sample the kernels for the voxels of each volume, instead of resampling it to the model's
    #[arg(long, conflicts_with = "fit")]
    native_voxels: bool,
    /// Turn the source of each input by so many rotations, and take the mean of the answers
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=4096))]
    rotations: u32,
    /// Give the invariant features before the head, too
    #[arg(long)]
    features: bool,
    /// For labels of voxels: write the probability of every class, too
    #[arg(long, requires = "out")]
    probabilities: bool,
    /// For labels of voxels: write all maps in this format, instead of each in that of its file
    #[arg(long, value_name = "FORMAT", requires = "out", value_parser = map_formats())]
    map_format: Option<MapFormat>,
    #[command(flatten)]
    windows: WindowArgs,
    /// File for the answers (.csv, .jsonl or .npz), whose folder is made if it is missing; for labels of voxels a folder
    #[arg(long, short)]
    out: Option<PathBuf>,
    /// Go on with what an interrupted run left beside --out; begin if there is nothing
    #[arg(long, requires = "out")]
    resume: bool,
}

pub(crate) fn run(args: &PredictArgs, device: &Device, output: &Output) -> Result<u8> {
    let Some(name) = &args.model else {
        let text = Text::default().pairs(BUILTIN.iter().map(|model| [model.name, model.about]));
        let named = |model: &Builtin| json!({ "name": model.name, "about": model.about });
        output.tables(&text, &BUILTIN.iter().map(named).collect::<Vec<_>>())?;
        return Ok(SUCCESS);
    };
    let model = opened(name, args, device)?;
    let inputs = listed(args, &model)?;
    if let Some(first) = inputs.ignored.first() {
        let (files, first) = (counted(inputs.ignored.len(), "file"), first.display());
        output.warn(&format!("{files} of no known format left out, such as {first}"));
    }
    let (maps, file) = places(args, &model)?;
    let options = Options {
        rotations: args.rotations as usize,
        features: args.features,
        maps,
        probabilities: args.probabilities,
        windows: args.windows.given(),
    };
    let rank = Rank::current();
    let identity = Identity::new(&model, &inputs, &options)?;
    identity.agree(&rank, &inputs)?;
    let open = |path: &PathBuf| RecordFile::open(path, &identity, &inputs, args.resume);
    let mut kept = file.as_ref().filter(|_| rank.is_first()).map(open).transpose()?;
    let first = kept.as_ref().map_or(0, |kept| kept.records().len());
    if first > 0 {
        output.say(&format!("{first} of {} answers are there", inputs.items.len()));
    }
    let count = |of: fn(&Record) -> bool| {
        kept.iter().flat_map(RecordFile::records).filter(|record| of(record)).count() as f64
    };
    let known = [first as f64, count(|r| r.error.is_some()), count(|r| !r.warnings.is_empty())];
    let known = rank.gather_numbers(&known)?.swap_remove(0);
    let [first, failed, warned] = [0, 1, 2].map(|i| known[i] as usize);
    let mut seen = Seen {
        model: &model,
        output,
        progress: output.progress("predict", inputs.items.len()),
        printed: file.is_none(),
        done: first,
        failed,
        warned,
    };
    seen.progress.begin_at(first);
    let stop = stop();
    let message = seen.progress.messages();
    let mut stopped = false;
    let mut sink = |record: Record, sha256: Option<String>| {
        seen.hear(&record)?;
        if let Some(kept) = &mut kept {
            kept.add(record, sha256)?;
        }
        stopped = stop.is_asked();
        Ok(if stopped { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    };
    let watch = |share: f64| {
        message(&format!("{:.0} % of a map", 100.0 * share));
        if stop.is_asked() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    predict(&model, &inputs, &options, first, &mut sink, &watch)?;
    stopped |= stop.is_asked();
    let Seen { progress, done, failed, warned, .. } = seen;
    drop(progress);
    if stopped && done < inputs.items.len() {
        let goes_on = if file.is_some() {
            ": the same command with --resume goes on where it was"
        } else {
            ""
        };
        output.say(&format!("interrupted{goes_on}"));
        return Ok(INTERRUPTED);
    }
    if let (Some(kept), Some(path)) = (kept, &file) {
        let answered = done - failed;
        kept.finish(&model)?;
        let all = counted(done, "input");
        let text = format!("{}: answers for {answered} of {all}", path.display());
        let value = json!({ "out": path, "inputs": done, "answers": answered });
        output.result(&text, &value)?;
    }
    if warned > 0 && file.is_some() {
        let all = counted(done, "input");
        output.warn(&format!("warnings for {warned} of {all} are in the column `warnings`"));
    }
    Ok(if failed > 0 { SOME_FAILED } else { SUCCESS })
}

/// The inputs; of several ranks the first has the standard input.
fn listed(args: &PredictArgs, model: &Model) -> Result<Inputs> {
    let mut lines = vec![];
    if args.inputs.iter().any(|input| input == "-") {
        let read = || -> Result<Vec<u8>> {
            std::io::stdin().read_to_end(&mut lines).context("standard input")?;
            Ok(std::mem::take(&mut lines))
        };
        lines = Rank::current().from_first(read)?;
    }
    let inputs =
        Inputs::of(&args.inputs, || Box::new(Cursor::new(lines)) as Box<dyn BufRead>, model)?;
    Ok(match args.map_format {
        Some(format) => inputs.with_map_format(format),
        None => inputs,
    })
}

/// Parses a format of maps by what names of such files end in.
fn map_formats() -> impl TypedValueParser<Value = MapFormat> {
    let format = |name: String| MapFormat::of_extension(&name).ok_or("no format of maps");
    PossibleValuesParser::new(MapFormat::ALL.map(MapFormat::extension)).try_map(format)
}

fn opened(name: &str, args: &PredictArgs, device: &Device) -> Result<Model> {
    let recipe = args.recipe.as_deref().map(Model::read_recipe).transpose()?;
    let mut model = Model::open(name, recipe, device)?;
    if let Some(fit) = args.fit {
        model = model.with_fit(fit).context("--fit")?;
    }
    if args.native_voxels {
        model = model.with_native_voxels().context("--native-voxels")?;
    }
    Ok(model)
}

/// The folder for labels of voxels, and the file for records.
fn places(args: &PredictArgs, model: &Model) -> Result<(Option<PathBuf>, Option<PathBuf>)> {
    let Some(out) = &args.out else { return Ok((None, None)) };
    if model.answers() != AnswerKind::Voxels {
        let asked =
            [("--probabilities", args.probabilities), ("--map-format", args.map_format.is_some())];
        if let Some((option, _)) = asked.into_iter().find(|(_, asked)| *asked) {
            bail!("{option}: expected a model that labels voxels; {} does not", model.name());
        }
        Kind::of(out)?;
        return Ok((None, Some(out.clone())));
    }
    std::fs::create_dir_all(out).at_path(out)?;
    Ok((Some(out.clone()), Some(out.join("answers.csv"))))
}

/// What has been answered.
struct Seen<'a> {
    model: &'a Model,
    output: &'a Output,
    progress: Progress,
    /// Whether each answer goes to standard output.
    printed: bool,
    done: usize,
    failed: usize,
    /// With warnings, such as that they are unlike the training data.
    warned: usize,
}

impl Seen<'_> {
    fn hear(&mut self, record: &Record) -> Result<(), PredictError> {
        self.done += 1;
        self.failed += usize::from(record.error.is_some());
        if self.printed {
            let line = match (self.output.is_json(), &record.error) {
                (true, _) => {
                    serde_json::to_string(record).ok().map(|json| Text::default().lines(json))
                }
                (false, None) => Some(line(self.model, record)),
                (false, Some(_)) => None,
            };
            if let Some(line) = line {
                let standard_output = std::path::Path::new("standard output");
                self.progress.result(&line).at_path(standard_output)?;
            }
        }
        let item = &record.item;
        if let Some(problem) = &record.error {
            let after = match problem.strip_prefix(item.as_str()) {
                Some(after) => after.to_owned(),
                None => format!(": {problem}"),
            };
            self.progress.note(&Text::default().path("", item, after), PROBLEM);
        }
        self.warned += usize::from(!record.warnings.is_empty());
        for warning in record.warnings.iter().filter(|_| self.printed) {
            let after = format!(": warning: {warning}");
            self.progress.note(&Text::default().path("", item, after), WARNING);
        }
        self.progress.at(self.done, "");
        Ok(())
    }
}

/// An answer in a line: class, probability and the next best, or values with their units, or shares of labels; then the
/// input.
fn line(model: &Model, record: &Record) -> Text {
    let answer = match &record.answer {
        Some(Answer::Classes { class, probabilities, best, next }) => {
            let names = &model.card().class_names;
            let width = names.iter().map(|name| name.chars().count()).max().unwrap_or(0);
            let next = next.map_or_else(String::new, |next| {
                let name = names.get(next).map_or("", String::as_str);
                format!("  {:>5.1} % {name:<width$}", 100.0 * probabilities[next])
            });
            format!("{class:<width$}  {:>5.1} %{next}", 100.0 * probabilities[*best])
        }
        Some(Answer::Values(named)) => {
            let text = |named: &Named| {
                let numbers: Vec<String> =
                    named.components.iter().map(|x| format!("{x:.5}")).collect();
                format!("{} {} {}", named.name, numbers.join(" "), named.unit).trim().to_owned()
            };
            named.iter().map(text).collect::<Vec<_>>().join(", ")
        }
        Some(Answer::Voxels { shares, .. }) => {
            let names = &model.card().meaning.voxel_classes;
            let text = |(class, share): (usize, &f64)| {
                let name = names.get(class).cloned().unwrap_or_else(|| class.to_string());
                format!("{name} {:.1} %", 100.0 * share)
            };
            shares.iter().enumerate().map(text).collect::<Vec<_>>().join(", ")
        }
        None => String::new(),
    };
    let stability = record.stability.map_or_else(String::new, |s| match s.agreement {
        Some(agreement) => {
            format!("  (same answer at {:.0} % of {} rotations)", 100.0 * agreement, s.rotations)
        }
        None => format!("  (± {:.2e} over {} rotations)", s.deviation, s.rotations),
    });
    Text::default().path(format!("{answer}{stability}  "), &record.item, "")
}
