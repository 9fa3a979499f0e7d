use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand, ValueEnum};
use comfy_table::{Table, presets};
use serde::Serialize;
use steer3d::so3::Irreps;
use steer3d::volume::{
    Dataset, ImportOptions, Summary, Voxeliser, import_arrays, import_cath, import_medmnist,
    import_tetris, tetris_voxeliser,
};

use crate::eval::command_line;
use crate::output::Output;

const IMPORT_EXAMPLES: &str = "Examples:
  steer3d dataset import cath cath_3class_ca_small.npz --size 24 --voxel-size 2 --out cath.h5
  steer3d dataset import medmnist adrenalmnist3d.npz --class-names normal,mass --out adrenal.h5
  steer3d dataset import arrays volumes.npz --voxel-size 0.5 --unit mm --out mine.h5
  steer3d dataset import tetris --out tetris.h5

cath: positions, n_atoms, atom_types, labels, split_start_indices, as in cath_datasets
medmnist: train_images, train_labels, the same for val_ and test_
arrays: volumes (N, D, H, W) or (N, C, D, H, W), labels (N), and split (N) of 0, 1, 2 if there is one
tetris: the 8 shapes of the paper; no source file";

#[derive(Subcommand)]
pub(crate) enum DatasetCommand {
    /// Make a dataset from a NumPy archive (.npz), or the Tetris shapes from nothing
    #[command(after_help = IMPORT_EXAMPLES)]
    Import(Box<ImportArgs>),
    /// Describe a dataset and check every volume of it
    #[command(after_help = "Example:\n  steer3d dataset inspect cath.h5")]
    Inspect {
        /// Dataset (HDF5)
        dataset: PathBuf,
    },
}

#[derive(Args)]
pub(crate) struct ImportArgs {
    /// Layout of the source
    #[arg(value_enum)]
    layout: Layout,
    /// Source file (.npz); none for tetris
    source: Option<PathBuf>,
    /// Dataset to write (HDF5)
    #[arg(long, short)]
    out: PathBuf,
    /// Name of the dataset [default: stem of the source]
    #[arg(long)]
    name: Option<String>,
    /// Names of the classes, separated by commas
    #[arg(long, value_delimiter = ',')]
    class_names: Option<Vec<String>>,
    /// Where the data come from, and whom to credit
    #[arg(long)]
    credit: Option<String>,
    /// Licence of the data
    #[arg(long)]
    licence: Option<String>,
    /// Edge of a voxel: one number, or x,y,z (arrays only)
    #[arg(long, value_delimiter = ',')]
    voxel_size: Option<Vec<f64>>,
    /// Unit of the voxel size
    #[arg(long)]
    unit: Option<String>,
    /// Irreps of the channels, for arrays with vectors or tensors, such as 1x0+1x1
    #[arg(long)]
    irreps: Option<Irreps>,
    /// Voxels along an edge of the grid (cath, tetris)
    #[arg(long)]
    size: Option<usize>,
    /// Width of a point's Gaussian, in the unit of the points (cath, tetris) [default: cath: half a
    /// voxel, as the paper]
    #[arg(long)]
    sigma: Option<f64>,
    /// Atom types of the source, each a channel (cath)
    #[arg(long, default_value_t = 1)]
    channels: usize,
    /// Rotated test items of each shape (tetris)
    #[arg(long, default_value_t = 32)]
    test_rotations: usize,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Layout {
    Cath,
    Medmnist,
    Arrays,
    Tetris,
}

pub(crate) fn run(command: &DatasetCommand, seed: u64, output: &Output) -> Result<ExitCode> {
    match command {
        DatasetCommand::Import(args) => import(args, seed, output)?,
        DatasetCommand::Inspect { dataset } => inspect(&Dataset::open(dataset)?, output)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn import(args: &ImportArgs, seed: u64, output: &Output) -> Result<()> {
    let options = ImportOptions {
        name: args.name.clone(),
        source: args.credit.clone(),
        licence: args.licence.clone(),
        class_names: args.class_names.clone(),
        voxel_size: args.voxel_size.as_deref().map(edges).transpose()?,
        unit: args.unit.clone(),
        irreps: args.irreps.clone(),
        seed,
        command: Some(command_line()),
    };
    match (args.layout, &args.source) {
        (Layout::Tetris, None) => {
            let voxeliser = voxeliser(args, tetris_voxeliser())?;
            import_tetris(&args.out, &voxeliser, args.test_rotations, &options)?;
        }
        (Layout::Tetris, Some(_)) => bail!("tetris is generated: give no source file"),
        (_, None) => bail!("give the source file (.npz) after the layout"),
        (Layout::Cath, Some(source)) => {
            let voxeliser = voxeliser(args, Voxeliser::paper(50, 2.0))?;
            import_cath(source, &args.out, &voxeliser, &options)?;
        }
        (Layout::Medmnist, Some(source)) => import_medmnist(source, &args.out, &options)?,
        (Layout::Arrays, Some(source)) => import_arrays(source, &args.out, &options)?,
    }
    inspect(&Dataset::open(&args.out)?, output)
}

fn voxeliser(args: &ImportArgs, standard: Voxeliser) -> Result<Voxeliser> {
    let voxel_size = match args.voxel_size.as_deref() {
        None => standard.voxel_size,
        Some([edge]) => *edge,
        Some(_) => bail!("--voxel-size: points are voxelised in cubes, give one number"),
    };
    let per_voxel = standard.sigma / standard.voxel_size;
    Ok(Voxeliser {
        size: args.size.unwrap_or(standard.size),
        voxel_size,
        sigma: args.sigma.unwrap_or(per_voxel * voxel_size),
        channels: args.channels,
        ..standard
    })
}

fn edges(numbers: &[f64]) -> Result<[f64; 3]> {
    match *numbers {
        [edge] => Ok([edge; 3]),
        [x, y, z] => Ok([x, y, z]),
        _ => bail!("--voxel-size: expected one number or three, found {}", numbers.len()),
    }
}

#[derive(Serialize)]
struct Inspection<'a> {
    path: &'a Path,
    #[serde(flatten)]
    summary: Summary,
}

/// Describes a dataset, every volume of which is read.
pub(crate) fn inspect(dataset: &Dataset, output: &Output) -> Result<()> {
    let summary = dataset.summary()?;
    let text = describe(dataset.path(), &summary);
    output
        .result(&text, &Inspection { path: dataset.path(), summary })
        .context("description of the dataset")
}

fn describe(path: &Path, s: &Summary) -> String {
    let mut table = Table::new();
    table.load_style(presets::UTF8_HORIZONTAL_ONLY);
    let classes = s.meta.class_names.iter().map(String::as_str);
    table.set_header(["split", "items"].into_iter().chain(classes));
    for split in &s.splits {
        let counts = split.per_class.iter().map(ToString::to_string);
        table.add_row([split.split.to_string(), split.items.to_string()].into_iter().chain(counts));
    }
    let [d, h, w] = s.meta.dims;
    let [x, y, z] = s.meta.voxel_size;
    let points = if s.points { ", points stored" } else { "" };
    let notes = &s.meta.provenance;
    format!(
        "{}: {}, schema {}\n{} items of {} channels ({}) x {d} x {h} x {w} (C, D, H, W){points}\n\
         voxel (x, y, z): {x} x {y} x {z} {}\n\
         values: {} to {}, mean {:.4}, {:.1} % not zero; {:.1} MB in the file\n{table}\n\
         source: {}\nlicence: {}\nmade by: {}{}",
        path.display(),
        s.meta.name,
        s.schema_version,
        s.items,
        s.meta.channels,
        s.meta.irreps,
        s.meta.unit,
        s.min,
        s.max,
        s.mean,
        100.0 * s.occupancy,
        s.file_bytes as f64 / 1e6,
        notes.source,
        notes.licence,
        notes.importer,
        if notes.notes.is_empty() { String::new() } else { format!("\nnotes: {}", notes.notes) }
    )
}
