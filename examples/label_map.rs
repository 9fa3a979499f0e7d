//! Labels the voxels of a map with a model that comes with the program, and draws them.
//!
//! Run with `cargo run --release --example label_map -- MAP [FILE]`, for example `label_map emd_3001.map labels.png`.
//!
//! Each column is the slice across z, y and x with most labelled voxels; above the density, below the labels: helix red,
//! strand blue, coil yellow.
#![allow(clippy::print_stdout)]

mod canvas;

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use anyhow::Context;
use canvas::Canvas;
use steer3d::formats::{FileContents, Nan, read_with};
use steer3d::predict::{Answer, Inputs, Model, Options, predict};
use steer3d::prelude::Device;
use steer3d::volume::Volume;

/// Pixels along an axis of a slice, about.
const EDGE: usize = 300;
const COLOURS: [[u8; 3]; 4] = [[0; 3], [240, 200, 60], [215, 60, 50], [60, 110, 220]];

fn main() -> anyhow::Result<()> {
    let mut given = std::env::args().skip(1);
    let file_of_map = given.next().context("expected a map, such as emd_3001.map")?;
    let file = given.next().map_or_else(|| PathBuf::from("labels.png"), PathBuf::from);
    let model = Model::open("secondary-structure", None, &Device::Cpu)?;
    let folder = tempfile::tempdir()?;
    let options = Options { maps: Some(folder.path().to_owned()), ..Options::default() };
    let inputs = std::slice::from_ref(&file_of_map);
    let inputs = Inputs::of(inputs, || Box::new(std::io::empty()), &model)?;
    let mut labels = None;
    let mut sink = |record: steer3d::predict::Record, _: Option<String>| {
        if let Some(Answer::Voxels { map, shares }) = record.answer {
            println!("{}: {shares:?}", record.item);
            labels = map;
        } else if let Some(error) = record.error {
            println!("{error}");
        }
        Ok(ControlFlow::Continue(()))
    };
    predict(&model, &inputs, &options, 0, &mut sink, &|_| ControlFlow::Continue(()))?;
    let density = volume(Path::new(&file_of_map))?;
    let labels = volume(Path::new(&labels.context("the map has no labels")?))?;
    draw(&density, &labels)?.save(&file)?;
    println!("{}", file.display());
    Ok(())
}

fn volume(path: &Path) -> anyhow::Result<Volume> {
    match read_with(path, Nan::Zero)? {
        FileContents::Volume(volume) => Ok(volume),
        _ => anyhow::bail!("{} is no map", path.display()),
    }
}

/// Three slices of both.
fn draw(density: &Volume, labels: &Volume) -> anyhow::Result<Canvas> {
    let [d, h, w] = density.dims();
    let scale = (EDGE / d.max(h).max(w)).max(1);
    let most = density.data().iter().fold(f32::MIN_POSITIVE, |most, value| most.max(*value));
    let mut canvas = Canvas::new(3 * (EDGE + 20), 2 * (EDGE + 20));
    // Across which axis of D, H, W; the axes down and to the right.
    for (column, [across, down, right]) in [[0, 1, 2], [1, 0, 2], [2, 0, 1]].into_iter().enumerate()
    {
        let dims = [d, h, w];
        let at = |slice: usize, y: usize, x: usize| {
            let mut place = [0; 3];
            [place[across], place[down], place[right]] = [slice, y, x];
            (place[0] * h + place[1]) * w + place[2]
        };
        let pixels = || (0..dims[down]).flat_map(|y| (0..dims[right]).map(move |x| (y, x)));
        let labelled = |slice: &usize| {
            pixels().filter(|&(y, x)| labels.data()[at(*slice, y, x)] > 0.0).count()
        };
        let slice = (0..dims[across]).max_by_key(labelled).context("an empty map")?;
        for (y, x) in pixels() {
            let grey = (density.data()[at(slice, y, x)] / most).clamp(0.0, 1.0).sqrt();
            let grey = [(255.0 * grey) as u8; 3];
            let label = labels.data()[at(slice, y, x)] as usize;
            let coloured = if label == 0 { grey } else { COLOURS[label.min(3)] };
            for (row, colour) in [grey, coloured].into_iter().enumerate() {
                for pixel in 0..scale * scale {
                    canvas.set(
                        column * (EDGE + 20) + x * scale + pixel % scale,
                        row * (EDGE + 20) + y * scale + pixel / scale,
                        colour,
                    );
                }
            }
        }
    }
    Ok(canvas)
}
