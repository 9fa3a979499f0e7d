//! The answer table of the README: six networks of one size, each trained from three seeds on protein domains, and
//! measured on rotated and moved ones. `make answer` does the same by the command line.
//!
//! Run with `cargo run --release --example answer_table`, half an hour of processor time, or as a trial with fewer
//! epochs and seeds: `cargo run --release --example answer_table -- 1 1`. Goes on where it was stopped.
#![allow(clippy::print_stdout)]

use std::path::Path;

use steer3d::dataset::{ImportOptions, import_cath};
use steer3d::prelude::evaluation::*;
use steer3d::prelude::training::*;
use steer3d::report::comparison_terminal;
use steer3d::volume::Voxeliser;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut numbers = std::env::args().skip(1).map(|text| text.parse());
    let (epochs, seeds) = (numbers.next().unwrap_or(Ok(12))?, numbers.next().unwrap_or(Ok(3))?);
    let folder = Path::new("steer3d-answer");
    std::fs::create_dir_all(folder)?;
    // Gaussians one voxel wide, since narrower ones are undersampled.
    let voxeliser = Voxeliser { sigma: 2.0, ..Voxeliser::paper(24, 2.0) };
    let (archive, data) = ("data/cath/cath_3class_ca_small.npz", folder.join("cath.h5"));
    import_cath(Path::new(archive), &data, &voxeliser, &ImportOptions::default())?;
    let protocol = Protocol {
        rotations: 8,
        angles: vec![15.0, 45.0, 90.0, 180.0],
        translations: vec![1.0, 2.0, 4.0],
        search: Some(Search { grid: 24, rounds: 4 }),
        sources: vec![Source::Voxels(Interpolation::Cubic), Source::Points],
        ..Protocol::default()
    };
    let config = CompareConfig::new(folder.into(), protocol).with_epochs(epochs);
    let config = CompareConfig { seeds: 0..seeds as u64, ..config };
    if let Some(comparison) = compare(&Dataset::open(data)?, &config, &Session::default())? {
        println!("{}", comparison_terminal(&comparison));
    }
    Ok(())
}
