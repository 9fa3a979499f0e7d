use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Subcommand;
use steer3d::experiments::settings;

use crate::output::Output;

#[derive(Subcommand)]
pub(crate) enum DocsCommand {
    /// Print the reference of all settings of experiment files as Markdown
    Settings,
    /// Write the manual pages of all commands into a folder
    #[command(
        after_long_help = "Example:\n  steer3d docs man ~/.local/share/man/man1 && man steer3d-eval"
    )]
    Man {
        /// The folder, which is made if it is missing
        folder: PathBuf,
    },
}

pub(crate) fn run(command: &DocsCommand, program: clap::Command, output: &Output) -> Result<()> {
    match command {
        DocsCommand::Settings => {
            let text = settings();
            let value = serde_json::json!({ "schema_version": 1, "markdown": text });
            output.result(text.trim_end(), &value)
        }
        DocsCommand::Man { folder } => manual(folder, program, output),
    }
}

fn manual(folder: &Path, program: clap::Command, output: &Output) -> Result<()> {
    let written =
        fs::create_dir_all(folder).and_then(|()| clap_mangen::generate_to(program, folder));
    written.with_context(|| format!("cannot write {}", folder.display()))?;
    let value = serde_json::json!({ "schema_version": 1, "folder": folder });
    output.result(&format!("{}: manual pages", folder.display()), &value)
}
