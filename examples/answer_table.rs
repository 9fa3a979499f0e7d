//! The answer table of the README: six networks of one size, each trained from three seeds on protein domains, and
//! measured on rotated and moved ones. `make answer` does the same by the command line.
//!
//! Run with `cargo run --release --example answer_table`, half an hour of processor time, or as a trial with fewer
//! epochs and seeds: `cargo run --release --example answer_table -- 1 1`. Goes on where it was stopped.
#![allow(clippy::print_stdout)]

use steer3d::dataset::{ImportOptions, import_cath};
use steer3d::prelude::evaluation::*;
use steer3d::prelude::training::*;
use steer3d::report::comparison_terminal;
use steer3d::volume::Voxeliser;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut numbers = std::env::args().skip(1);
    let mut number = |usual| numbers.next().map_or(Ok(usual), |text| text.parse());
    let (epochs, seeds) = (number(12)?, number(3)?);
    let folder = std::path::PathBuf::from(numbers.next().unwrap_or("steer3d-answer".into()));
    std::fs::create_dir_all(&folder)?;
    let archive = concat!(env!("CARGO_MANIFEST_DIR"), "/data/cath/cath_3class_ca_small.npz");
    // Gaussians one voxel wide, since narrower ones are undersampled.
    let voxeliser = Voxeliser { sigma: 2.0, ..Voxeliser::paper(24, 2.0) };
    let options = ImportOptions { name: Some("cath".into()), ..ImportOptions::default() };
    import_cath(archive.as_ref(), &folder.join("cath.h5"), &voxeliser, &options)?;
    let dataset = Dataset::open(folder.join("cath.h5"))?;
    let protocol = Protocol {
        rotations: 8,
        angles: vec![15.0, 45.0, 90.0, 180.0],
        translations: vec![1.0, 2.0, 4.0],
        groups: vec![PointGroup::Cube],
        search: Some(Search { grid: 24, rounds: 4 }),
        sources: vec![Source::Voxels(Interpolation::Cubic), Source::Points],
        batch: 32,
        ..Protocol::default()
    };
    let config = CompareConfig {
        rivals: Architecture::RIVALS.map(|a| (a, TrainConfig { epochs, ..a.training() })).to_vec(),
        answers: AnswerKind::Classes,
        budget: Budget::Parameters,
        seeds: 0..seeds as u64,
        recompute: false,
        evaluation: EvaluationSettings { split: Split::Test, protocol },
        folder,
    };
    if let Some(comparison) = compare(&dataset, &config, &Session::default())? {
        println!("{}", comparison_terminal(&comparison));
    }
    Ok(())
}
