//! Experiment files to begin with, as text.

/// Every setting, with what it means.
pub const TEMPLATE: &str = include_str!("../experiments/template.toml");
/// The Tetris experiment of Weiler et al. 2018, section 5.1.
pub const TETRIS: &str = include_str!("../experiments/tetris.toml");
/// The bundled protein domains, a steerable network.
pub const CATH_STEERABLE: &str = include_str!("../experiments/cath-steerable.toml");
/// The same, a plain network and turned training volumes.
pub const CATH_PLAIN: &str = include_str!("../experiments/cath-plain.toml");
/// The bundled adrenal glands: class weights, averaged weights, early stopping.
pub const ADRENAL: &str = include_str!("../experiments/adrenal.toml");
