use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Subcommand;
use steer3d::eval::Report;
use steer3d::report::{diff, diff_table};

use crate::output::Output;

pub(crate) const EXAMPLES: &str = "Example:
  steer3d report diff before/report.json after/report.json";

#[derive(Subcommand)]
pub(crate) enum ReportCommand {
    /// Show how scores differ between two reports; a star marks 95 % intervals that do not meet
    #[command(after_help = EXAMPLES)]
    Diff {
        /// report.json of the first evaluation
        before: PathBuf,
        /// report.json of the second evaluation
        after: PathBuf,
    },
}

pub(crate) fn run(command: &ReportCommand, output: &Output) -> Result<()> {
    let ReportCommand::Diff { before, after } = command;
    let (before, after) = (read(before)?, read(after)?);
    let changes = diff(&before, &after);
    let protocols = |report: &Report| -> Vec<_> {
        report.sections.iter().map(|section| section.protocol.without_batch()).collect()
    };
    if protocols(&before) != protocols(&after) {
        output.say("note: the two reports were made with different protocols");
    }
    output.tables(&diff_table(&changes), &changes)
}

fn read(path: &Path) -> Result<Report> {
    let text = fs::read_to_string(path).with_context(|| format!("{}", path.display()))?;
    Report::from_json(&text).with_context(|| format!("{}", path.display()))
}
