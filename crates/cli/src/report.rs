use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Subcommand;
use serde_json::json;
use steer3d::eval::Report;
use steer3d::files::{AtPath, write};
use steer3d::report::{animation, diff, diff_table};

use crate::output::{Output, make_folder_of};

pub(crate) const EXAMPLES: &str = "Example:
  steer3d report diff before/report.json after/report.json";

const ANIMATE_EXAMPLES: &str = "Examples:
  steer3d report animate steer3d-demo/report.json
  steer3d report animate report/report.json --item 1a8oA00 --out 1a8o.png";

#[derive(Subcommand)]
pub(crate) enum ReportCommand {
    /// Show how scores differ between two reports; a star marks 95 % intervals that do not meet
    #[command(after_long_help = EXAMPLES)]
    Diff {
        /// report.json of the first evaluation
        before: PathBuf,
        /// report.json of the second evaluation
        after: PathBuf,
    },
    /// Write a volume that turns, with the answers of every model, as an animated PNG
    #[command(after_long_help = ANIMATE_EXAMPLES)]
    Animate {
        /// report.json of an evaluation of classes
        report: PathBuf,
        /// Identifier of the volume [default: the first that turns]
        #[arg(long)]
        item: Option<String>,
        /// The picture (.png), whose folder is made if it is missing
        #[arg(long, short, default_value = "turning.png")]
        out: PathBuf,
    },
}

pub(crate) fn run(command: &ReportCommand, output: &Output) -> Result<()> {
    match command {
        ReportCommand::Diff { before, after } => difference(before, after, output),
        ReportCommand::Animate { report, item, out } => {
            animate(report, item.as_deref(), out, output)
        }
    }
}

fn animate(path: &Path, item: Option<&str>, out: &Path, output: &Output) -> Result<()> {
    if out.extension().is_none_or(|e| !e.eq_ignore_ascii_case("png")) {
        let out = out.display();
        bail!(
            "{out}: expected a name that ends in .png, since an animated PNG is written; name such a file"
        );
    }
    let report = read(path)?;
    let turning = || report.sections.iter().flat_map(|section| &section.turning);
    let wanted = turning().find(|turning| item.is_none_or(|item| turning.id == item));
    let Some(wanted) = wanted else {
        let ids: Vec<&str> = turning().map(|turning| turning.id.as_str()).collect();
        match item {
            Some(item) if !ids.is_empty() => {
                bail!("--item: expected one of {}, found `{item}`", ids.join(", "))
            }
            _ => bail!(
                "{}: no volume turns; evaluate models of classes with --turning 1 or more",
                path.display()
            ),
        }
    };
    make_folder_of(out)?;
    write(out, &animation(wanted)?).with_context(|| format!("cannot write {}", out.display()))?;
    let value = json!({ "schema_version": 1, "item": wanted.id, "path": out });
    output.result(&format!("{}: {} turning", out.display(), wanted.id), &value)
}

fn difference(before: &Path, after: &Path, output: &Output) -> Result<()> {
    let (before, after) = (read(before)?, read(after)?);
    let changes = diff(&before, &after);
    let protocols = |report: &Report| -> Vec<_> {
        report.sections.iter().map(|section| section.protocol.measured()).collect()
    };
    if protocols(&before) != protocols(&after) {
        output.warn("note: the two reports were made with different protocols");
    }
    output.tables(&diff_table(&changes), &changes)
}

fn read(path: &Path) -> Result<Report> {
    let text = fs::read_to_string(path).at_path(path)?;
    Report::from_json(&text).with_context(|| format!("{}", path.display()))
}
