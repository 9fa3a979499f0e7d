//! Experiment files to begin with.

use std::io::Write;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use steer3d::experiments::ready;
use steer3d::files;

use crate::output::make_folder_of;

pub(crate) const EXAMPLES: &str = "Examples:
  steer3d init > experiment.toml
  steer3d init adrenal --out adrenal.toml";

#[derive(Args)]
pub(crate) struct InitArgs {
    /// Which experiment
    #[arg(value_enum, default_value = "template")]
    example: Example,
    /// File to write, which must not exist [default: standard output]
    #[arg(long, short)]
    out: Option<PathBuf>,
}

#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum Example {
    /// Every setting, with what it means
    Template,
    /// The Tetris experiment of the paper
    Tetris,
    /// The bundled protein domains, a steerable network
    CathSteerable,
    /// The same, a plain network and turned training volumes
    CathPlain,
    /// The bundled adrenal glands: class weights, averaged weights, early stopping
    Adrenal,
}

impl Example {
    fn text(self) -> &'static str {
        match self {
            Self::Template => ready::TEMPLATE,
            Self::Tetris => ready::TETRIS,
            Self::CathSteerable => ready::CATH_STEERABLE,
            Self::CathPlain => ready::CATH_PLAIN,
            Self::Adrenal => ready::ADRENAL,
        }
    }
}

pub(crate) fn run(args: &InitArgs) -> Result<()> {
    let text = args.example.text().as_bytes();
    match &args.out {
        Some(path) if path.exists() => bail!("{}: exists; choose another name", path.display()),
        Some(path) => {
            make_folder_of(path)?;
            files::write(path, text).with_context(|| path.display().to_string())?;
        }
        None => std::io::stdout().write_all(text).context("standard output")?,
    }
    Ok(())
}
