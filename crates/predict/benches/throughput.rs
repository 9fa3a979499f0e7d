//! Time of `predict` for files beside that of the forward passes alone of the same volumes, by turns in one run:
//! `cargo bench -p steer3d-predict --bench throughput -- MODEL INPUT...`.
#![allow(clippy::print_stdout)] // the figures are the output

use std::error::Error;
use std::io::{BufReader, empty};
use std::ops::ControlFlow;
use std::path::Path;
use std::time::{Duration, Instant};

use candle_core::{Device, Tensor};
use steer3d_dataset::Recipe;
use steer3d_formats::read_with;
use steer3d_predict::{Inputs, Model, Options, predict};
use steer3d_so3::Rotation;

/// As many volumes as `predict` takes at once of the grids of the bundled models.
const BATCH: usize = 32;

const ROUNDS: usize = 5;

fn main() -> Result<(), Box<dyn Error>> {
    let mut names = std::env::args().skip(1).filter(|name| name != "--bench");
    let Some(model) = names.next() else {
        println!("throughput: name a model, and files of single records or folders");
        return Ok(());
    };
    let model = Model::open(&model, None, &Device::Cpu)?;
    let inputs =
        Inputs::of(&names.collect::<Vec<_>>(), || Box::new(BufReader::new(empty())), &model)?;
    let recipe = model.recipe()?;
    let volumes: Vec<Vec<f32>> = inputs
        .items
        .iter()
        .map(|input| volume(recipe, Path::new(&input.name)))
        .collect::<Result<_, _>>()?;
    let [d, h, w] = model.card().dims;
    let channels = model.card().model.channels();
    let (mut files, mut passes) = (vec![], vec![]);
    for _ in 0..ROUNDS {
        let start = Instant::now();
        let mut answers = 0;
        let count = &mut |_, _| {
            answers += 1;
            Ok(ControlFlow::Continue(()))
        };
        predict(&model, &inputs, &Options::default(), 0, count, &|_| ControlFlow::Continue(()))?;
        assert_eq!(answers, volumes.len());
        files.push(start.elapsed());
        let batches = volumes.chunks(BATCH).map(|batch| {
            Tensor::from_vec(batch.concat(), (batch.len(), channels, d, h, w), &Device::Cpu)
        });
        let batches = batches.collect::<Result<Vec<_>, _>>()?;
        let start = Instant::now();
        for batch in &batches {
            model.folded().forward(batch)?;
        }
        passes.push(start.elapsed());
    }
    let each = |times: &mut Vec<Duration>| {
        times.sort();
        times[ROUNDS / 2].as_secs_f64() * 1e3 / volumes.len() as f64
    };
    let (files, passes) = (each(&mut files), each(&mut passes));
    println!(
        "{} files: predict {files:.2} ms each, forward passes {passes:.2} ms, ratio {:.3}",
        volumes.len(),
        files / passes
    );
    Ok(())
}

/// What the network is given for a file.
fn volume(recipe: &Recipe, path: &Path) -> Result<Vec<f32>, Box<dyn Error>> {
    let prepared = recipe.prepare(read_with(path, recipe.nan())?)?;
    Ok(recipe.volume(&prepared, &Rotation::identity())?.into_data())
}
