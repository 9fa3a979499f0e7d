use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use anyhow::{Context, Result, anyhow, bail};
use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Parser, Subcommand, ValueEnum};
use serde::{Deserialize, Serialize};
use steer3d::dataset::{
    Broken, BuildReport, Dataset, Fractions, GridRanges, IMPORTERS, ImportOptions, Importer,
    ItemSource, Listing, RecipeOptions, Split, SplitSummary, Summary, build, files, group_splits,
    random_splits,
};
use steer3d::experiments::{Bundled, Data};
use steer3d::files::AtPath;
use steer3d::ranks::Rank;
use steer3d::report::Text;
use steer3d::volume::ChannelScheme;
use steer3d::volume::picture::overview;
use tempfile::NamedTempFile;

use crate::demo::unpacked;
use crate::eval::{command_line, quoted};
use crate::output::{Output, SUCCESS, counted, make_folder_of};

const IMPORT_EXAMPLES: &str = "Examples:
  steer3d dataset import cath cath_3class_ca_small.npz --size 24 --voxel-size 2 --out cath.h5
  steer3d dataset import medmnist adrenalmnist3d.npz --class-names normal,mass --out adrenal.h5
  steer3d dataset import arrays volumes.npz --voxel-size 0.5 --unit mm --out mine.h5
  steer3d dataset import backbone cath_s35_backbone.npz --resolution 5,10 --size 24 --out maps.h5
  steer3d dataset import cath --out domains.h5       # 480 domains that come with the program
  steer3d dataset import tetris --out tetris.h5

cath: positions, n_atoms, atom_types, labels, split_start_indices, as in cath_datasets
medmnist: train_images, train_labels, the same for val_ and test_
arrays: volumes (N, D, H, W) or (N, C, D, H, W), labels (N), and split (N) of 0, 1, 2 if there is one
backbone: xyz_centi_angstrom, residues, dssp, offsets, domain_ids, cath; maps of proteins with helix, strand and coil at \
every voxel, in superfamilies
tetris: the 8 shapes of the paper; no source file";

const BUILD_EXAMPLES: &str = "Examples:
  steer3d dataset build ModelNet10 --size 32 --out modelnet10.h5
  steer3d dataset build proteins/ --voxel-size 2 --size 50 --elements C,N,O,S --out proteins.h5
  steer3d dataset build ligands.csv --voxel-size 0.5 --size 48 --store sources --out ligands.h5
  steer3d dataset build folds/ --channels backbone --weight b-factor --out mobility.h5
  steer3d dataset build scans/ --size 64,64,48 --fit crop --skip-broken --out scans.h5
  steer3d dataset build scans/ --voxel-size 2 --size 64 --fit resample --out scans.h5
  steer3d dataset build scans.csv --keep-grid --voxel-classes background,organ --out organs.h5
  steer3d dataset build new_scans/ --layout flat --size 64 --out new.h5

A tree has a folder for each class: class/*, class/train/* and class/test/* (as ModelNet), or train/class/*. A table (CSV) \
has the columns path and label, and if you like split, group and id; paths are relative to its folder.

Items without labels come from a folder of files without folders (with --layout flat also those in its folders), a list \
(.txt) with a path in each line, or a table without the column label. All are in the test split unless --fractions or the \
table says otherwise: such a dataset is for prediction and for `steer3d eval`, which then tells how stable the answers are, \
not how many are right.

A file of several molecules (SDF, MOL2, XYZ) becomes an item for each, FILE#1, FILE#2, ... Archives (.npz) of many items \
are for `dataset import`.

A build that was stopped goes on where it was when the same command is given again; until it is complete, its batches lie \
in OUT.partial and an old OUT stays as it is.";

const SPLIT_EXAMPLES: &str = "Examples:
  steer3d dataset split set.h5 --by random --fractions 0.7,0.1,0.2
  steer3d dataset split set.h5 --by group --groups families.csv --seed 1 --out by-family.h5

Groups come from the dataset, or from a CSV file with the columns id and group. Items of a group stay together; an item \
without one is a group of its own. Classes are shared out evenly.";

const EXPORT_EXAMPLES: &str = "Examples:
  steer3d dataset export set.h5 --item 3 --to item.npy
  steer3d dataset export set.h5 --item 1abcA00 --to item.npz
  steer3d dataset export set.h5 --to list.csv

Without --item, the list of items is written: id, label, split, group, source, SHA-256.";

const VIEW_EXAMPLES: &str = "Examples:
  steer3d dataset view set.h5 --item 3
  steer3d dataset view set.h5 --item 1abcA00 --level 0.1 --out pictures/

Above: the central slices across z, y and x; below: the maximum-intensity projections along z, y and x; on the right: an \
isosurface, coloured by channel.";

#[derive(Subcommand)]
pub(crate) enum DatasetCommand {
    /// Make a dataset from a folder of classes, a table of paths and labels, or files without labels
    #[command(after_long_help = BUILD_EXAMPLES)]
    Build(Box<BuildArgs>),
    /// Make a dataset from a NumPy archive (.npz), or the Tetris shapes from nothing
    #[command(after_long_help = IMPORT_EXAMPLES)]
    Import(Box<ImportArgs>),
    /// Describe a dataset and check every volume of it
    #[command(after_long_help = "Example:\n  steer3d dataset inspect cath.h5")]
    Inspect {
        /// Dataset (HDF5)
        dataset: PathBuf,
    },
    /// Read every item and compare it with its checksum; exit code 2 if one is broken
    #[command(after_long_help = "Example:\n  steer3d dataset verify cath.h5")]
    Verify {
        /// Dataset (HDF5)
        dataset: PathBuf,
    },
    /// Draw new training, validation and test splits
    #[command(after_long_help = SPLIT_EXAMPLES)]
    Split(SplitArgs),
    /// Write an item as a file of another program, or the list of items
    #[command(after_long_help = EXPORT_EXAMPLES)]
    Export {
        /// Dataset (HDF5)
        dataset: PathBuf,
        /// Index or identifier of the item
        #[arg(long)]
        item: Option<String>,
        /// File to write: .npy, .npz, .mrc or .nii; .csv for the list of items
        #[arg(long)]
        to: PathBuf,
    },
    /// Draw an item as a PNG picture
    #[command(after_long_help = VIEW_EXAMPLES)]
    View {
        /// Dataset (HDF5)
        dataset: PathBuf,
        /// Index or identifier of the item
        #[arg(long)]
        item: String,
        /// PNG file or folder [default: the folder of the call]
        #[arg(long, short, default_value = ".")]
        out: PathBuf,
        /// Value of the isosurface [default: halfway to the maximum, smoothed]
        #[arg(long)]
        level: Option<f32>,
    },
}

#[derive(Args)]
pub(crate) struct BuildArgs {
    /// Folder with a folder for each class, folder of files, table (.csv) of paths and labels, or list (.txt) of paths
    source: PathBuf,
    /// Dataset to write (HDF5)
    #[arg(long, short)]
    out: PathBuf,
    /// Layout of the source
    #[arg(long, value_enum, default_value = "auto")]
    layout: BuildLayout,
    /// Name of the dataset [default: name of the source]
    #[arg(long)]
    name: Option<String>,
    /// Where the data come from, and whom to credit
    #[arg(long)]
    credit: Option<String>,
    /// Licence of the data
    #[arg(long)]
    licence: Option<String>,
    /// Voxels along an edge, or d,h,w [default: 50 for molecules, 32 for meshes, as the first file
    /// for volumes]
    #[arg(long, value_delimiter = ',')]
    size: Option<Vec<usize>>,
    /// Edge of a voxel, or x,y,z [default: 2 (angstrom) for molecules, such that it fills the grid
    /// for each mesh, as the first file for volumes]
    #[arg(long, value_delimiter = ',')]
    voxel_size: Option<Vec<f64>>,
    #[command(flatten)]
    recipe: RecipeOptions,
    /// Elements to keep, each a channel, such as C,N,O,S; `other` at the end is one for all others
    #[arg(long, value_delimiter = ',', conflicts_with = "channels")]
    elements: Vec<String>,
    /// Shares of training, validation and test items where the source has no splits; where it has
    /// none for validation, that share of the training items [default: 0.8,0.1,0.1; without labels 0,0,1]
    #[arg(long, value_delimiter = ',')]
    fractions: Option<Vec<f64>>,
    /// Leave out files that cannot be used, and record them
    #[arg(long)]
    skip_broken: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum BuildLayout {
    /// A folder is a tree, or flat if it has files and no folders; a .csv file is a table, a .txt file a list
    Auto,
    /// A folder for each class
    Tree,
    /// A folder of files without labels, those in its folders too
    Flat,
    /// A table of paths, and of labels if it has that column
    Csv,
    /// A list of files without labels, a path in each line
    List,
}

#[derive(Args)]
pub(crate) struct SplitArgs {
    /// Dataset (HDF5)
    dataset: PathBuf,
    /// How to draw
    #[arg(long, value_enum, default_value = "random")]
    by: SplitBy,
    /// Shares of training, validation and test items
    #[arg(long, value_delimiter = ',', default_value = "0.8,0.1,0.1")]
    fractions: Vec<f64>,
    /// CSV file with the columns id and group
    #[arg(long)]
    groups: Option<PathBuf>,
    /// Dataset to write [default: the dataset itself, replaced when the new one is complete]
    #[arg(long, short)]
    out: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum SplitBy {
    /// Item by item within each class
    Random,
    /// Groups of items stay together
    Group,
}

#[derive(Args)]
pub(crate) struct ImportArgs {
    /// Layout of the source
    #[arg(value_parser = importers())]
    layout: Importer,
    /// Source file (.npz); none for tetris. Without one, cath and medmnist take the data that come with the program: 480
    /// protein domains, 1,286 adrenal glands
    source: Option<PathBuf>,
    /// Dataset to write (HDF5)
    #[arg(long, short)]
    out: PathBuf,
    /// Edge of a voxel: one number, or x,y,z (arrays only)
    #[arg(long, value_delimiter = ',')]
    voxel_size: Option<Vec<f64>>,
    #[command(flatten)]
    options: ImportOptions,
    /// Leave out items that cannot be used, and record them
    #[arg(long)]
    skip_broken: bool,
}

fn importers() -> impl TypedValueParser<Value = Importer> {
    let find = |name: String| IMPORTERS.into_iter().find(|importer| importer.name == name);
    PossibleValuesParser::new(IMPORTERS.map(|importer| importer.name))
        .map(move |name| find(name).expect("one of the possible values"))
}

pub(crate) fn run(command: &DatasetCommand, seed: u64, output: &Output) -> Result<u8> {
    match command {
        DatasetCommand::Import(args) => {
            import(args, seed, &command_line(), output)?;
            inspect_made(&args.out, output)?;
        }
        DatasetCommand::Inspect { dataset } => inspect(&Dataset::open(dataset)?, output)?,
        DatasetCommand::Build(args) => {
            build_dataset(args, seed, &command_line(), output)?;
            inspect_made(&args.out, output)?;
        }
        DatasetCommand::Verify { dataset } => return verify(&Dataset::open(dataset)?, output),
        DatasetCommand::Split(args) => split(args, seed, output)?,
        DatasetCommand::Export { dataset, item, to } => {
            export(&Dataset::open(dataset)?, item.as_deref(), to, output)?;
        }
        DatasetCommand::View { dataset, item, out, level } => {
            view(&Dataset::open(dataset)?, item, out, *level, output)?;
        }
    }
    Ok(SUCCESS)
}

/// The words of `data.make` in an experiment file.
#[derive(Parser)]
#[command(name = "steer3d", no_binary_name = true)]
struct Make {
    #[command(subcommand)]
    command: MakeCommand,
    #[arg(long, global = true, env = "STEER3D_SEED")]
    seed: Option<u64>,
}

#[derive(Subcommand)]
enum MakeCommand {
    #[command(subcommand)]
    Dataset(DatasetCommand),
}

/// Makes the dataset of an experiment file, which may be a stranger's: its words are those of `dataset build` or
/// `dataset import` and write that one file, or they are refused. They reach no shell and no other command.
pub(crate) fn make(data: &Data, output: &Output) -> Result<()> {
    let expected = "expected the words of `dataset build` or `dataset import`";
    let make = Make::try_parse_from(&data.make).map_err(|error| {
        let text = error.to_string();
        let line = text.lines().next().unwrap_or_default();
        anyhow!("{expected}: {}", line.trim_start_matches("error: "))
    })?;
    let seed = make.seed.unwrap_or(0);
    let line = format!("steer3d {}", quoted(data.make.iter().cloned()));
    let check = |out: &Path| {
        if place(out).is_some_and(|out| Some(out) == place(&data.dataset)) {
            return Ok(());
        }
        let (dataset, out) = (data.dataset.display(), out.display());
        bail!("--out: expected data.dataset, {dataset}, found {out}")
    };
    match &make.command {
        MakeCommand::Dataset(DatasetCommand::Build(args)) => {
            check(&args.out)?;
            build_dataset(args, seed, &line, output)
        }
        MakeCommand::Dataset(DatasetCommand::Import(args)) => {
            check(&args.out)?;
            import(args, seed, &line, output)
        }
        MakeCommand::Dataset(_) => bail!("{expected}, found another command"),
    }
}

/// A file in its folder, symbolic links and `..` resolved.
fn place(file: &Path) -> Option<PathBuf> {
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or(Path::new(".")).canonicalize().ok()?;
    Some(folder.join(file.file_name()?))
}

fn build_dataset(args: &BuildArgs, seed: u64, command: &str, output: &Output) -> Result<()> {
    let recipe = args.recipe()?;
    let shares = args.fractions.as_deref().map(fractions).transpose()?;
    let listing = listing(&args.source, args.layout)?;
    if let Some(first) = listing.ignored.first() {
        let (files, first) = (counted(listing.ignored.len(), "file"), first.display());
        output.warn(&format!("{files} of no known format left out, such as {first}"));
    }
    let options = ImportOptions {
        name: args.name.clone(),
        source: args.credit.clone(),
        licence: args.licence.clone(),
        command: Some(command.to_owned()),
        seed,
        ..ImportOptions::default()
    };
    let shares = shares.unwrap_or(listing.default_fractions());
    let source = files(listing, &recipe, &shares, args.skip_broken, &options)?;
    built(&source, &args.out, args.skip_broken, "build", output)
}

fn built(
    source: &ItemSource,
    out: &Path,
    skip_broken: bool,
    label: &str,
    output: &Output,
) -> Result<()> {
    check_folder_of(out)?;
    let progress = Mutex::new(output.progress(label, source.entries.len()));
    let done = |count: usize| progress.lock().expect("no thread panics").at(count, "");
    let built = build(source, out, skip_broken, &done)?;
    drop(progress);
    tell(&built, output);
    Ok(())
}

fn tell(built: &BuildReport, output: &Output) {
    const SHOWN: usize = 5;
    if built.resumed > 0 {
        let (resumed, items) = (built.resumed, built.items);
        output.say(&format!("{resumed} of {items} items were there from the build before"));
    }
    for skipped in built.skipped.iter().take(SHOWN) {
        output.warn(&format!("left out: {}: {}", skipped.source, skipped.problem));
    }
    if built.skipped.len() > SHOWN {
        output.warn(&format!("left out: {} more", built.skipped.len() - SHOWN));
    }
}

fn listing(source: &Path, layout: BuildLayout) -> Result<Listing> {
    let has = |extension| source.extension().is_some_and(|e| e.eq_ignore_ascii_case(extension));
    let folder = || match source.is_file() {
        true => bail!(
            "{}: expected a folder, a .csv table or a .txt list; archives (.npz) are for `steer3d dataset import`",
            source.display()
        ),
        false => Ok(source),
    };
    Ok(match layout {
        BuildLayout::Auto if has("csv") => Listing::of_table(source)?,
        BuildLayout::Auto if has("txt") => Listing::of_list(source)?,
        BuildLayout::Auto => Listing::of_folder(folder()?)?,
        BuildLayout::Tree => Listing::of_tree(folder()?)?,
        BuildLayout::Flat => Listing::of_files(source, &[folder()?.to_owned()])?,
        BuildLayout::Csv => Listing::of_table(source)?,
        BuildLayout::List => Listing::of_list(source)?,
    })
}

impl BuildArgs {
    fn recipe(&self) -> Result<RecipeOptions> {
        let mut recipe = self.recipe.clone();
        recipe.size = three("--size", self.size.as_deref())?;
        if recipe.size.is_some_and(|size| size.contains(&0)) {
            bail!("--size: expected at least 1 voxel along each axis, such as 64, found 0");
        }
        recipe.voxel_size = voxel_size(self.voxel_size.as_deref())?;
        if !self.elements.is_empty() {
            recipe.channels = ChannelScheme::of_elements(&self.elements).context("--elements")?;
        }
        Ok(recipe)
    }
}

fn fractions(numbers: &[f64]) -> Result<Fractions> {
    let Ok(fractions) = <[f64; 3]>::try_from(numbers) else {
        bail!("--fractions: expected train,validation,test, found {} numbers", numbers.len());
    };
    Fractions::new(fractions).context("--fractions")
}

#[derive(Serialize)]
struct Verified<'a> {
    path: &'a Path,
    items: usize,
    checksums: bool,
    broken: Vec<Broken>,
}

fn verify(dataset: &Dataset, output: &Output) -> Result<u8> {
    let progress = Mutex::new(output.progress("verify", dataset.len()));
    let broken = dataset.verify(&|count| progress.lock().expect("no thread panics").at(count, ""));
    drop(progress);
    let (path, items) = (dataset.path(), dataset.len());
    let sums = dataset.checksums().is_some();
    let how = if sums { "" } else { " (the dataset has no checksums of items)" };
    let mut text: Vec<String> = broken.iter().map(|broken| broken.problem.clone()).collect();
    text.push(format!("{}: {} of {items} items are broken{how}", path.display(), broken.len()));
    let whole = broken.is_empty();
    output.result(&text.join("\n"), &Verified { path, items, checksums: sums, broken })?;
    Ok(if whole { SUCCESS } else { 2 })
}

fn split(args: &SplitArgs, seed: u64, output: &Output) -> Result<()> {
    let dataset = Dataset::open(&args.dataset)?;
    let fractions = fractions(&args.fractions)?;
    let given = args.groups.as_deref().map(|path| groups(path, &dataset)).transpose()?;
    let (splits, how) = match (args.by, given.as_deref().or(dataset.groups())) {
        (SplitBy::Random, _) => (random_splits(dataset.labels(), &fractions, seed), "random"),
        (SplitBy::Group, Some(groups)) => {
            (group_splits(dataset.labels(), groups, &fractions, seed), "group")
        }
        (SplitBy::Group, None) => {
            bail!("{}: has no groups; give --groups FILE.csv", args.dataset.display())
        }
    };
    let [train, validation, test] = fractions.values();
    let note = format!("by {how}, {train}, {validation}, {test}, seed {seed}");
    let out = args.out.as_ref().unwrap_or(&args.dataset);
    dataset.with_splits(out, &splits, given.as_deref(), &note)?;
    let dataset = Dataset::open(out)?;
    let counts = Split::ALL.map(|split| (split, dataset.indices(split).len()));
    let text = counts.map(|(split, count)| format!("{count} {split}")).join(", ");
    let json: BTreeMap<_, _> =
        counts.into_iter().map(|(split, count)| (split.to_string(), count)).collect();
    output.result(&format!("{}: {text}", out.display()), &json)
}

#[derive(Deserialize)]
struct GroupOf {
    id: String,
    group: String,
}

/// The group of each item of a dataset, from a table with the columns id and group.
fn groups(path: &Path, dataset: &Dataset) -> Result<Vec<String>> {
    let at = || path.display().to_string();
    let file = std::fs::File::open(path).at_path(path)?;
    let mut table = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(file);
    let header = table.headers().with_context(at)?;
    if !["id", "group"].iter().all(|name| header.iter().any(|column| column == *name)) {
        let found = header.iter().collect::<Vec<_>>().join(",");
        bail!("{}: expected the columns id and group, found `{found}`", at());
    }
    let mut of = HashMap::new();
    for row in table.deserialize() {
        let GroupOf { id, group } = row.with_context(at)?;
        of.insert(id, group);
    }
    let find =
        |id: &String| of.get(id).cloned().with_context(|| format!("{}: no group of {id}", at()));
    dataset.ids().iter().map(find).collect()
}

/// The index of the item of that index or identifier.
fn index_of(dataset: &Dataset, item: &str) -> Result<usize> {
    if let Some(index) = dataset.ids().iter().position(|id| id == item) {
        return Ok(index);
    }
    match item.parse() {
        Ok(index) if index < dataset.len() => Ok(index),
        _ => bail!(
            "{}: --item: expected an index below {} or an identifier, found `{item}`",
            dataset.path().display(),
            dataset.len()
        ),
    }
}

fn export(dataset: &Dataset, item: Option<&str>, to: &Path, output: &Output) -> Result<()> {
    let table = to.extension().is_some_and(|extension| extension == "csv");
    match item {
        Some(item) => {
            let index = index_of(dataset, item)?;
            make_folder_of(to)?;
            dataset.export(index, to)?;
        }
        None if table => {
            make_folder_of(to)?;
            dataset.export_list(to)?;
        }
        None => bail!("--to: the list of items is a .csv file; give --item for one item"),
    }
    output.result(&to.display().to_string(), &to)
}

fn view(
    dataset: &Dataset,
    item: &str,
    out: &Path,
    level: Option<f32>,
    output: &Output,
) -> Result<()> {
    let index = index_of(dataset, item)?;
    let id = &dataset.ids()[index];
    let png = out.extension().is_some_and(|extension| extension == "png");
    let path = if png {
        make_folder_of(out)?;
        out.to_owned()
    } else {
        std::fs::create_dir_all(out).at_path(out)?;
        let plain = |c: char| if c.is_alphanumeric() || "-_.".contains(c) { c } else { '_' };
        out.join(format!("{}.png", id.chars().map(plain).collect::<String>()))
    };
    let volume = dataset.read(index)?;
    overview(&volume, level).write_png(&path).with_context(|| path.display().to_string())?;
    let class = dataset.class(index).map_or_else(String::new, |class| format!(", class {class}"));
    let text = format!(
        "{}: item {index}, {id}{class}\n\
         above: central slices across z (x right, y down), y (x, z), x (y, z)\n\
         below: maximum-intensity projections along z, y, x with the same axes\n\
         right: isosurface, z up",
        path.display()
    );
    output.result(&text, &path)
}

fn import(args: &ImportArgs, seed: u64, command: &str, output: &Output) -> Result<()> {
    let voxel_size = voxel_size(args.voxel_size.as_deref())?;
    let command = Some(command.to_owned());
    let mut options = ImportOptions { voxel_size, seed, command, ..args.options.clone() };
    let bundled = Bundled::ALL.into_iter().find(|bundled| bundled.layout() == args.layout.name);
    let archive = match bundled.filter(|_| args.source.is_none()) {
        Some(bundled) => {
            options = with_defaults(options, bundled.options());
            Some(unpacked(bundled)?)
        }
        None => None,
    };
    let path = args.source.as_deref().or(archive.as_ref().map(NamedTempFile::path));
    let source = args.layout.open(path, &options)?;
    built(&source, &args.out, args.skip_broken, "import", output)
}

/// The options, and those of bundled data where they say nothing.
fn with_defaults(options: ImportOptions, bundled: ImportOptions) -> ImportOptions {
    ImportOptions {
        name: options.name.or(bundled.name),
        source: options.source.or(bundled.source),
        licence: options.licence.or(bundled.licence),
        class_names: options.class_names.or(bundled.class_names),
        size: options.size.or(bundled.size),
        voxel_size: options.voxel_size.or(bundled.voxel_size),
        ..options
    }
}

/// The edges of `--voxel-size`.
fn voxel_size(numbers: Option<&[f64]>) -> Result<Option<[f64; 3]>> {
    let edges = three("--voxel-size", numbers)?;
    match edges.iter().flatten().find(|edge| !(**edge > 0.0 && edge.is_finite())) {
        Some(edge) => bail!("--voxel-size: expected numbers above 0, such as 2, found {edge}"),
        None => Ok(edges),
    }
}

/// Whether there is a folder for a dataset that is about to be built.
fn check_folder_of(dataset: &Path) -> Result<()> {
    match dataset.parent() {
        Some(folder) if !folder.as_os_str().is_empty() && !folder.is_dir() => {
            let (dataset, folder) = (dataset.display(), folder.display());
            bail!("{dataset}: expected its folder {folder} to exist, found none; make it first")
        }
        _ => Ok(()),
    }
}

/// One number for three, or three.
fn three<T: Copy>(option: &str, numbers: Option<&[T]>) -> Result<Option<[T; 3]>> {
    match numbers {
        None => Ok(None),
        Some(&[all]) => Ok(Some([all; 3])),
        Some(&[a, b, c]) => Ok(Some([a, b, c])),
        Some(other) => bail!("{option}: expected one number or three, found {}", other.len()),
    }
}

#[derive(Serialize)]
struct Inspection<'a> {
    path: &'a Path,
    #[serde(flatten)]
    summary: Summary,
}

/// Describes a new dataset, which one of several ranks does.
fn inspect_made(path: &Path, output: &Output) -> Result<()> {
    if Rank::current().is_first() { inspect(&Dataset::open(path)?, output) } else { Ok(()) }
}

/// Describes a dataset, every volume of which is read.
pub(crate) fn inspect(dataset: &Dataset, output: &Output) -> Result<()> {
    let summary = dataset.summary()?;
    let text = describe(dataset.path(), &summary);
    output
        .tables(&text, &Inspection { path: dataset.path(), summary })
        .context("description of the dataset")
}

/// Three numbers as 3 x 4 x 5.
fn edges(three: &[impl std::fmt::Display; 3]) -> String {
    let [a, b, c] = three;
    format!("{a} x {b} x {c}")
}

/// A row for each class, since there may be many, and a column for each split.
fn describe(path: &Path, s: &Summary) -> Text {
    let splits = s.splits.iter().map(|split| split.split.to_string());
    let headings: Vec<String> = ["items".to_owned()].into_iter().chain(splits).collect();
    let row = |name: &str, count: &dyn Fn(&SplitSummary) -> usize| {
        let counts = s.splits.iter().map(|split| count(split).to_string());
        [name.to_owned()].into_iter().chain(counts).collect::<Vec<_>>()
    };
    let mut rows = vec![row("all", &|split| split.items)];
    for (class, name) in s.meta.class_names.iter().enumerate() {
        rows.push(row(name, &|split| split.per_class[class]));
    }
    let (dims, voxel) = match &s.grids {
        None => (edges(&s.meta.dims), edges(&s.meta.voxel_size)),
        Some(GridRanges { dims: [least, most], voxel_size: [smallest, largest] }) => (
            format!("{} to {}", edges(least), edges(most)),
            format!("{} to {}", edges(smallest), edges(largest)),
        ),
    };
    let labels = if s.meta.class_names.is_empty() { "\nno labels" } else { "" };
    let stored =
        if s.stored.is_empty() { String::new() } else { format!("; {}", s.stored.join(", ")) };
    let notes = &s.meta.provenance;
    let head = format!(
        "{}: {}, schema {}\n{} of {} ({}) x {dims} (C, D, H, W){stored}{labels}\n\
         voxel (x, y, z): {voxel} {}\n\
         values: {} to {}, mean {:.4}, {:.1} % not zero; {:.1} MB in the file",
        path.display(),
        s.meta.name,
        s.schema_version,
        counted(s.items, "item"),
        counted(s.meta.channels, "channel"),
        s.meta.irreps,
        s.meta.unit,
        s.min,
        s.max,
        s.mean,
        100.0 * s.occupancy,
        s.file_bytes as f64 / 1e6,
    );
    let mut rest = vec![
        format!("source: {}", notes.source),
        format!("licence: {}", notes.licence),
        format!("made by: {}", notes.importer),
    ];
    if !notes.notes.is_empty() {
        rest.push(format!("notes: {}", notes.notes));
    }
    if let Some(recipe) = &s.recipe {
        rest.push(format!("recipe: {}", serde_json::to_string(recipe).unwrap_or_default()));
    }
    Text::default().words(head).table(&headings, rows, 1).words(rest.join("\n"))
}
