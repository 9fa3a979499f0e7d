use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use candle_core::Device;
use clap::Args;
use serde::Serialize;
use steer3d::dataset::Dataset;
use steer3d::nn::Head;
use steer3d::nn::checkpoint::{Meaning, ModelCard, Origin, Score};
use steer3d::nn::layers::ConvolutionPath;
use steer3d::predict::Model;
use steer3d::report::Text;
use steer3d::so3::Irreps;

use crate::dataset;
use crate::output::{Output, counted};

pub(crate) const EXAMPLES: &str = "Examples:
  steer3d info cath-class
  steer3d info runs/steerable/model.safetensors
  steer3d info cath.h5
  steer3d info 16x0+8x1+4x2";

#[derive(Args)]
pub(crate) struct InfoArgs {
    /// A model (.safetensors, or the name of one that comes with the program), a dataset (HDF5) or irreps such as
    /// 16x0+8x1
    subject: String,
}

#[derive(Serialize)]
struct ModelInfo {
    schema_version: u32,
    path: PathBuf,
    card: ModelCard,
    parameters: usize,
    layers: Vec<LayerInfo>,
}

#[derive(Serialize)]
struct LayerInfo {
    name: String,
    irreps: String,
    shape: Vec<usize>,
    /// Bytes of the output of one volume.
    bytes: usize,
    convolution: Option<Convolution>,
}

#[derive(Serialize)]
struct Convolution {
    path: &'static str,
    /// Multiplications and additions for one volume.
    flops: usize,
}

#[derive(Serialize)]
struct IrrepsInfo {
    schema_version: u32,
    irreps: String,
    channels: usize,
    fields: usize,
    lmax: usize,
    group: &'static str,
}

pub(crate) fn run(args: &InfoArgs, output: &Output) -> Result<()> {
    let (path, text) = (Path::new(&args.subject), args.subject.as_str());
    let is_bundled = matches!(Model::bundled(path), Ok(Some(_)));
    if is_bundled || path.extension().is_some_and(|e| e == "safetensors") {
        return model(path, output);
    }
    if path.exists() {
        return dataset::inspect(&Dataset::open(path)?, output);
    }
    match text.parse::<Irreps>() {
        Ok(irreps) => describe_irreps(&irreps, output),
        Err(_) if text.contains(['/', '\\', '.']) => bail!("{text}: no such file; check the path"),
        Err(error) if text.starts_with(|c: char| c.is_ascii_digit()) => {
            Err(error).context("neither a file nor irreps")
        }
        // Which says what models there are.
        Err(_) => model(path, output),
    }
}

fn describe_irreps(irreps: &Irreps, output: &Output) -> Result<()> {
    let info = IrrepsInfo {
        schema_version: 1,
        irreps: irreps.to_string(),
        channels: irreps.dim(),
        fields: irreps.num_fields(),
        lmax: irreps.lmax(),
        group: if irreps.has_parity() { "O(3)" } else { "SO(3)" },
    };
    let (channels, fields) = (counted(info.channels, "channel"), counted(info.fields, "field"));
    let text =
        format!("{} of {}: {channels}, {fields}, lmax {}", info.irreps, info.group, info.lmax);
    output.result(&text, &info)
}

fn model(path: &Path, output: &Output) -> Result<()> {
    let (network, card) = Model::load(path, &Device::Cpu)?;
    let convolutions = network.convolutions();
    let layers = network.layers_on_grid(card.dims)?.into_iter().map(|l| {
        let voxels: usize = l.values.dims()[2..].iter().product();
        let convolution = convolutions.iter().find(|c| c.layer == l.name);
        LayerInfo {
            irreps: l.irreps.to_string(),
            shape: l.values.dims()[1..].to_vec(),
            bytes: l.values.elem_count() * l.values.dtype().size_in_bytes(),
            convolution: convolution.map(|c| Convolution {
                path: match c.path {
                    ConvolutionPath::Dense => "dense",
                    ConvolutionPath::Separable => "separable",
                },
                flops: c.cost.saturating_mul(2 * voxels),
            }),
            name: l.name,
        }
    });
    let info = ModelInfo {
        schema_version: 1,
        path: path.into(),
        parameters: network.params().count(),
        layers: layers.collect(),
        card,
    };
    output.tables(&describe(&info)?, &info)
}

fn describe(info: &ModelInfo) -> Result<Text> {
    let header = ["layer", "irreps", "shape (C, D, H, W)", "path", "MFLOP", "output, KiB"];
    let row = |layer: &LayerInfo| {
        let (path, flops) = match &layer.convolution {
            Some(c) => (c.path, format!("{:.1}", c.flops as f64 / 1e6)),
            None => ("", String::new()),
        };
        vec![
            layer.name.clone(),
            layer.irreps.clone(),
            format!("{:?}", layer.shape),
            path.into(),
            flops,
            format!("{:.1}", layer.bytes as f64 / 1024.0),
        ]
    };
    let card = &info.card;
    let head = format!(
        "{}\ntrained on {} by steer3d {} with seed {}{}\n{}\nparameters: {}",
        info.path.display(),
        card.dataset,
        card.version,
        card.seed,
        origin(card),
        answers(card),
        info.parameters
    );
    let rest = format!("{}\n{}\n{}", scores(card), recipe(card)?, card.model.to_toml()?);
    let rows = info.layers.iter().map(row).collect();
    Ok(Text::default().words(head).table(&header, rows, header.len()).lines(rest))
}

fn origin(card: &ModelCard) -> String {
    let Origin { source, licence, data_sha256, .. } = &card.origin;
    if data_sha256.is_empty() {
        return String::new();
    }
    format!("\ndata: {source}; licence {licence}; SHA-256 {data_sha256}")
}

fn answers(card: &ModelCard) -> String {
    let Meaning { voxel_classes, targets, target_names, target_units, .. } = &card.meaning;
    let names = |what: &str, names: &[String]| format!("{what}: {}", names.join(", "));
    match (card.model.head(), targets) {
        (Head::Voxels, _) => names("classes of voxels", voxel_classes),
        (Head::Classes, _) | (_, None) => names("classes", &card.class_names),
        (_, Some(irreps)) => {
            let [of, in_units] =
                [(" named", target_names), (" in", target_units)].map(|(word, texts)| match texts
                    .is_empty()
                {
                    true => String::new(),
                    false => format!("{word} {}", texts.join(", ")),
                });
            format!("values: {irreps}{of}{in_units}")
        }
    }
}

fn scores(card: &ModelCard) -> String {
    let line =
        |s: &Score| format!("\n  {} {}, {}: {:.4}", s.measure, s.condition, s.source, s.value);
    let lines: String = card.origin.scores.iter().map(line).collect();
    if lines.is_empty() { lines } else { format!("\ntest items:{lines}\n") }
}

fn recipe(card: &ModelCard) -> Result<String> {
    Ok(match &card.meaning.recipe {
        Some(recipe) => {
            format!("files become volumes by this recipe:\n{}", toml::to_string(recipe)?)
        }
        None => "how files become volumes is not said; give `steer3d predict` a --recipe\n".into(),
    })
}
