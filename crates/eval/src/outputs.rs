//! Models that predict numbers, vectors or tensors instead of classes.

use serde::{Deserialize, Serialize};
use steer3d_dataset::{Dataset, Split};
use steer3d_so3::{Irreps, Rotation};

use crate::EvalError;
use crate::evaluate::{Progress, Run};
use crate::journal::Journal;
use crate::metrics::{Bootstrap, Estimate};
use crate::predictor::Predictor;
use crate::protocol::{Condition, Protocol, Source};

/// What a model of numbers should predict.
#[derive(Clone, Debug)]
pub struct Targets<'a> {
    /// How the outputs turn with the volume: `1x0` for a number, `1x1` for a vector x,y,z.
    pub irreps: &'a Irreps,
    /// For each item of the split, in its order, what is right for the stored volume.
    pub values: &'a [Vec<f64>],
}

/// The errors with one source under one condition. Outputs are turned back first: y = D(R)⁻¹ f(R x)
/// with the Wigner-D matrix of the irreps. e is y less the target, and f(x) the output unrotated; norms are
/// Euclidean over the components.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OutputScores {
    /// What was transformed.
    pub source: Source,
    /// The condition.
    pub condition: Condition,
    /// Mean of |e| over components, items and transformations.
    pub mean_absolute_error: Estimate,
    /// Root of the mean of e² over components, items and transformations.
    pub root_mean_square_error: Estimate,
    /// Mean over items and transformations of ‖y - f(x)‖, in the unit of the targets.
    pub deviation: Estimate,
    /// The same over the root mean square of ‖f(x)‖.
    pub relative_deviation: f64,
}

/// Measures a model of numbers on one split of a dataset under `protocol`: the rows of
/// [`Predictor::logits`] are its outputs, as many as the dimension of the irreps. Translations
/// do not change what is right. The search for worst rotations is left out.
///
/// # Errors
/// As [`evaluate`](crate::evaluate), and [`EvalError::Targets`] when the targets do not fit the split or
/// the model.
pub fn evaluate_outputs(
    model: &dyn Predictor,
    dataset: &Dataset,
    split: Split,
    protocol: &Protocol,
    targets: &Targets<'_>,
    progress: &dyn Fn(Progress),
) -> Result<Vec<OutputScores>, EvalError> {
    let protocol = Protocol { search: None, ..protocol.clone() };
    let run = Run { model, dataset, protocol: &protocol, items: dataset.indices(split) };
    run.check_data(split)?;
    check(targets, model, run.items.len())?;
    let jobs = run.jobs();
    let bootstrap = Bootstrap::new(protocol.seed, run.items.len(), protocol.resamples);
    let (mut done, total) = (0, protocol.sources.len() * jobs.len());
    let mut scores = vec![];
    for &source in &protocol.sources {
        let outputs = run.predict(source, &jobs, &mut Journal::none(), &mut |volumes| {
            done += volumes;
            progress(Progress { done, total });
        })?;
        let answers = jobs.iter().zip(&outputs).map(|(job, output)| Answer {
            place: job.place,
            condition: job.condition,
            output: turned_back(targets.irreps, &job.transform.rotation, output),
        });
        let answers: Vec<Answer> = answers.collect();
        let of = |condition| answers.iter().filter(move |a: &&Answer| a.condition == condition);
        let base: Vec<&[f64]> = of(Condition::Unrotated).map(|a| &a.output[..]).collect();
        for condition in protocol.conditions() {
            let answers: Vec<&Answer> = of(condition).collect();
            scores.push(OutputScores {
                source,
                condition,
                ..summed_up(&answers, &base, targets.values, &bootstrap)
            });
        }
    }
    Ok(scores)
}

/// One output, turned back.
struct Answer {
    place: usize,
    condition: Condition,
    output: Vec<f64>,
}

fn check(targets: &Targets<'_>, model: &dyn Predictor, items: usize) -> Result<(), EvalError> {
    let dim = targets.irreps.dim();
    let fail = |what, expected, found| Err(EvalError::Targets { what, expected, found });
    if model.classes() != dim {
        return fail("outputs of the model", dim, model.classes());
    }
    if targets.values.len() != items {
        return fail("targets, one for each item of the split", items, targets.values.len());
    }
    match targets.values.iter().find(|values| values.len() != dim) {
        Some(values) => fail("components of every target", dim, values.len()),
        None => Ok(()),
    }
}

fn turned_back(irreps: &Irreps, rotation: &Rotation, output: &[f32]) -> Vec<f64> {
    let output = nalgebra::DVector::from_iterator(output.len(), output.iter().map(|&v| v.into()));
    // D is orthogonal.
    (irreps.wigner_d(rotation).transpose() * output).as_slice().to_vec()
}

/// The scores of some answers; source and condition are for the caller to set.
fn summed_up(
    answers: &[&Answer],
    base: &[&[f64]],
    targets: &[Vec<f64>],
    bootstrap: &Bootstrap,
) -> OutputScores {
    // For each item the mean over its transformations of a value of one answer.
    let per_item = |value: &dyn Fn(&Answer) -> f64| -> Vec<f64> {
        let mut sums = vec![(0.0, 0usize); base.len()];
        for answer in answers {
            sums[answer.place].0 += value(answer);
            sums[answer.place].1 += 1;
        }
        sums.into_iter().map(|(sum, count)| sum / count.max(1) as f64).collect()
    };
    let error = |a: &Answer| -> Vec<f64> {
        a.output.iter().zip(&targets[a.place]).map(|(y, t)| y - t).collect()
    };
    let mean = |v: &[f64], f: &dyn Fn(f64) -> f64| {
        v.iter().map(|&c| f(c)).sum::<f64>() / v.len().max(1) as f64
    };
    let absolute = per_item(&|a| mean(&error(a), &f64::abs));
    let squares = bootstrap.mean(&per_item(&|a| mean(&error(a), &|e| e * e)));
    let deviation = bootstrap.mean(&per_item(&|a| norm(&difference(&a.output, base[a.place]))));
    let sizes: f64 = base.iter().map(|b| norm(b).powi(2)).sum();
    let size = (sizes / base.len() as f64).sqrt().max(f64::MIN_POSITIVE);
    OutputScores {
        source: Source::Points,
        condition: Condition::Unrotated,
        mean_absolute_error: bootstrap.mean(&absolute),
        root_mean_square_error: Estimate {
            value: squares.value.sqrt(),
            low: squares.low.sqrt(),
            high: squares.high.sqrt(),
        },
        relative_deviation: deviation.value / size,
        deviation,
    }
}

fn difference(a: &[f64], b: &[f64]) -> Vec<f64> {
    a.iter().zip(b).map(|(a, b)| a - b).collect()
}

fn norm(v: &[f64]) -> f64 {
    v.iter().map(|c| c * c).sum::<f64>().sqrt()
}
