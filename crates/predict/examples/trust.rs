//! How far the answers of a model of molecules can be trusted: accuracy and calibration with 1, 4, 16 and 60 rotations
//! on the test items of a dataset with classes, and how often the warning "unlike the training data" is right, on
//! inputs made of these items.
//!
//! `cargo run --release -p steer3d-predict --example trust -- cath-class cath-3-32.h5 [ITEMS]`
#![allow(clippy::print_stdout)]

use std::error::Error;
use std::fmt::Write;
use std::ops::ControlFlow;
use std::path::Path;

use candle_core::Device;
use nalgebra::Vector3;
use steer3d_dataset::{Dataset, Split};
use steer3d_eval::metrics::{Confidence, calibration_error};
use steer3d_predict::{Answer, Inputs, Model, Options, Record, predict};
use steer3d_so3::Stream;
use steer3d_so3::rotations::random_rotation;

type Result<T> = std::result::Result<T, Box<dyn Error>>;
type Points = Vec<Vector3<f64>>;

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let (Some(model), Some(dataset)) = (arguments.next(), arguments.next()) else {
        return Err("expected a model and a dataset".into());
    };
    let most = arguments.next().map_or(Ok(usize::MAX), |n| n.parse())?;
    let model = Model::open(&model, None, &Device::Cpu)?;
    let dataset = Dataset::open(Path::new(&dataset))?;
    let items = dataset.indices(Split::Test);
    // Evenly over the split, which may be in the order of classes.
    let apart = items.len().div_ceil(most).max(1);
    let items: Vec<usize> = items.into_iter().step_by(apart).collect();
    let labels: Vec<usize> = items.iter().map(|&i| dataset.labels()[i] as usize).collect();
    let clouds = items.iter().map(|&i| {
        let points = dataset.points(i)?.ok_or("expected a dataset with the points of its items")?;
        Ok(points.positions().iter().map(|&p| p.into()).collect::<Points>())
    });
    let clouds = clouds.collect::<Result<Vec<Points>>>()?;

    println!("{} items\n", items.len());
    println!(
        "| rotations | accuracy | calibration error | log loss | right where all agree | where not |"
    );
    println!("|---|---|---|---|---|---|");
    for rotations in [1, 4, 16, 60] {
        let records = answers(&model, &clouds, rotations)?;
        println!("{}", row(rotations, &records, &labels));
    }

    println!("\n| input | inputs | unlike | median distance |");
    println!("|---|---|---|---|");
    for (what, clouds) in strange(&clouds) {
        let mut unlike: Vec<f64> =
            answers(&model, &clouds, 1)?.iter().filter_map(|r| r.unlike).collect();
        let told = unlike.iter().filter(|distance| **distance > 1.0).count();
        unlike.sort_by(f64::total_cmp);
        let (count, median) = (unlike.len(), unlike[unlike.len() / 2]);
        println!(
            "| {what} | {count} | {:.1} % | {median:.2} |",
            100.0 * told as f64 / count as f64
        );
    }
    Ok(())
}

fn row(rotations: usize, records: &[Record], labels: &[usize]) -> String {
    let (mut confidences, mut loss) = (vec![], 0.0);
    let (mut agree, mut not) = ([0usize; 2], [0usize; 2]);
    for (record, &label) in records.iter().zip(labels) {
        let Some(Answer::Classes { probabilities, best, .. }) = &record.answer else { continue };
        let correct = *best == label;
        let probability = probabilities[*best];
        confidences.push(Confidence { item: confidences.len(), probability, right: correct });
        loss -= probabilities[label].max(1e-12).ln() / labels.len() as f64;
        let whole = record.stability.is_none_or(|s| s.agreement == Some(1.0));
        let [right, all] = if whole { &mut agree } else { &mut not };
        *right += usize::from(correct);
        *all += 1;
    }
    let weights = vec![1.0; confidences.len()];
    let right = confidences.iter().filter(|c| c.right).count() as f64;
    let share = |[right, all]: [usize; 2]| match all {
        0 => "–".to_owned(),
        _ => format!("{:.1} % of {all}", 100.0 * right as f64 / all as f64),
    };
    format!(
        "| {rotations} | {:.1} % | {:.3} | {loss:.4} | {} | {} |",
        100.0 * right / confidences.len() as f64,
        calibration_error(&confidences, &weights).unwrap_or(f64::NAN),
        share(agree),
        share(not),
    )
}

/// The answers for points, by way of files.
fn answers(model: &Model, clouds: &[Points], rotations: usize) -> Result<Vec<Record>> {
    let folder = tempfile::tempdir()?;
    let mut names = vec![];
    for (i, points) in clouds.iter().enumerate() {
        let path = folder.path().join(format!("{i:05}.pdb"));
        std::fs::write(&path, pdb(points))?;
        names.push(path.display().to_string());
    }
    let inputs = Inputs::of(&names, || Box::new(std::io::empty()), model)?;
    let mut records = vec![];
    let options = Options { rotations, ..Options::default() };
    let mut sink = |record, _| {
        records.push(record);
        Ok(ControlFlow::Continue(()))
    };
    predict(model, &inputs, &options, 0, &mut sink, &|_| ControlFlow::Continue(()))?;
    Ok(records)
}

fn pdb(points: &Points) -> String {
    let mut text = String::new();
    for (i, p) in points.iter().enumerate() {
        let (serial, residue) = (i % 99_999 + 1, i % 9_999 + 1);
        let _ = writeln!(
            text,
            "ATOM  {serial:>5}  CA  ALA A{residue:>4}    {:8.3}{:8.3}{:8.3}  1.00  0.00           C",
            p.x, p.y, p.z
        );
    }
    text
}

/// What is not like the items, and the items themselves first.
fn strange(clouds: &[Points]) -> Vec<(&'static str, Vec<Points>)> {
    let mut stream = Stream::new(0, "strange", &[]);
    let pairs = clouds.windows(2);
    let joined = pairs.map(|pair| {
        let (a, b) = (&pair[0], &pair[1]);
        // As near to each other as two balls that touch.
        let apart = 0.8 * (radius(a) + radius(b));
        let turn = random_rotation(&mut stream);
        let direction = turn * Vector3::z();
        a.iter().copied().chain(b.iter().map(|p| turn * p + apart * direction)).collect()
    });
    let joined = joined.collect();
    let part = |share: f64| -> Vec<Points> {
        let part = |points: &Points| points[..(share * points.len() as f64) as usize].to_vec();
        clouds.iter().map(part).collect()
    };
    let mut random = |spread: &dyn Fn(&Points) -> f64| -> Vec<Points> {
        let like = |points: &Points| {
            let scale = spread(points);
            points.iter().map(|_| scale * Vector3::from_fn(|_, _| stream.normal())).collect()
        };
        clouds.iter().map(like).collect()
    };
    let gaussian = random(&|points| radius(points) / 2.0);
    let helices = clouds.iter().map(|points| helix(points.len())).collect();
    vec![
        ("the items", clouds.to_vec()),
        ("two domains side by side", joined),
        ("the first half", part(0.5)),
        ("the first quarter", part(0.25)),
        ("as many points at random", gaussian),
        ("one straight helix of as many residues", helices),
    ]
}

fn radius(points: &Points) -> f64 {
    points.iter().map(Vector3::norm).fold(0.0, f64::max)
}

fn helix(residues: usize) -> Points {
    let place = |i: usize| {
        let angle = (100.0 * i as f64).to_radians();
        Vector3::new(2.3 * angle.cos(), 2.3 * angle.sin(), 1.5 * i as f64)
    };
    (0..residues).map(place).collect()
}
