use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use steer3d::experiments::list_runs;

use crate::output::Output;

pub(crate) const EXAMPLES: &str = "Examples:
  steer3d runs runs
  steer3d runs runs --curves curves.html

A run is a folder with run.json, as `steer3d train`, `compare` and `demo` write it. Best first: by validation accuracy, \
then by validation loss. Settings in which the runs differ are listed; runs that differ in their seed only are one line of \
a second table.";

#[derive(Args)]
pub(crate) struct RunsArgs {
    /// Folder with run folders
    #[arg(default_value = "runs")]
    folder: PathBuf,
    /// Write the curves of all runs as one page
    #[arg(long)]
    curves: Option<PathBuf>,
}

pub(crate) fn run(args: &RunsArgs, output: &Output) -> Result<()> {
    let runs = list_runs(&args.folder, args.curves.as_deref())?;
    output.tables(&runs.table(), &runs)
}
