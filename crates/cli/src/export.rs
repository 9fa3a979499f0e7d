use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use bytesize::ByteSize;
use candle_core::Device;
use clap::{Args, ValueEnum};
use serde::Serialize;
use steer3d::files;
use steer3d::formats::npz;
use steer3d::nn::checkpoint::ModelCard;
use steer3d::nn::onnx::{self, OnnxModel};
use steer3d::predict::Model;

use crate::output::{Output, make_folder_of};

pub(crate) const EXAMPLES: &str = "Examples:
  steer3d export runs/steerable/model.safetensors steerable.onnx
  steer3d export runs/steerable/model.safetensors steerable.npz
  steer3d export cath-class weights --to npz

An ONNX model takes volumes N,C,D,H,W of any batch and grid under the name `volume` and gives `logits`, or `output` of a \
network that gives a field. An .npz holds the weights of that graph under their names, and what the network is as bytes of \
TOML under `card`. The repository, and an archive of the program, have docs/src/guide/export.md, which describes both with \
a PyTorch program for the npz.";

#[derive(Args)]
pub(crate) struct ExportArgs {
    /// A model (.safetensors), or the name of one that comes with the program
    model: PathBuf,
    /// The file to write, whose folder is made if it is missing
    out: PathBuf,
    /// What to write [default: as the file's name ends]
    #[arg(long, value_enum)]
    to: Option<Target>,
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
enum Target {
    /// The network as a graph of standard operators
    Onnx,
    /// Its dense filters with the norms folded in, and its card, as NumPy arrays
    Npz,
}

#[derive(Serialize)]
struct Exported {
    schema_version: u32,
    path: PathBuf,
    to: Target,
    bytes: usize,
    /// Volumes and grid (N, D, H, W) of each batch with which the file was compared with the network.
    checked: Vec<[usize; 4]>,
    /// Over the largest value of the answers.
    largest_difference: f64,
}

pub(crate) fn run(args: &ExportArgs, output: &Output) -> Result<()> {
    let to = target(args)?;
    let same = |path: &Path| path.canonicalize().ok();
    if same(&args.out).is_some_and(|out| Some(out) == same(&args.model)) {
        bail!("{}: is the model itself; name another file", args.out.display());
    }
    let (network, card) = Model::load(&args.model, &Device::Cpu)?;
    let model = onnx::export(&network, &card)?;
    let agreement = onnx::check(&model, &network, card.dims)?;
    let bytes = match to {
        Target::Onnx => model,
        Target::Npz => arrays(&OnnxModel::read(&model)?, &card)?,
    };
    let path = args.out.display();
    make_folder_of(&args.out)?;
    files::write(&args.out, &bytes).with_context(|| format!("{path}: cannot be written"))?;
    let of = |[n, d, h, w]: &[usize; 4]| format!("{n} of {d}x{h}x{w}");
    let text = format!(
        "{path}: {}, agrees with the network to {:.1e} of the largest value (volumes: {})",
        ByteSize(bytes.len() as u64),
        agreement.gap,
        agreement.batches.iter().map(of).collect::<Vec<_>>().join(", ")
    );
    let exported = Exported {
        schema_version: 1,
        path: args.out.clone(),
        to,
        bytes: bytes.len(),
        checked: agreement.batches,
        largest_difference: agreement.gap,
    };
    output.result(&text, &exported)
}

/// What is asked for, or what the name of the file says.
fn target(args: &ExportArgs) -> Result<Target> {
    let extension = args.out.extension().and_then(|e| e.to_str()).unwrap_or_default();
    match args.to.or(Target::from_str(extension, true).ok()) {
        Some(to) => Ok(to),
        None => bail!(
            "{}: expected a name that ends in .onnx or .npz; name such a file, or say what to write with --to",
            args.out.display()
        ),
    }
}

/// The arrays of an exported network that was checked, and the card as bytes of TOML.
fn arrays(model: &OnnxModel, card: &ModelCard) -> Result<Vec<u8>> {
    let text = toml::to_string_pretty(card)?;
    let mut arrays = vec![("card", npz::npy("|u1", &[text.len()], text.as_bytes()))];
    for (name, tensor) in model.arrays() {
        let values = tensor.flatten_all()?.to_vec1::<f32>()?;
        let values: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        arrays.push((name, npz::npy("<f4", tensor.dims(), &values)));
    }
    Ok(npz::npz(&arrays)?)
}
