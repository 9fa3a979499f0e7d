//! Numbers, vectors and tensors of whole volumes.

use steer3d_dataset::Dataset;
use steer3d_so3::Irreps;

use crate::answer::{Answer, Found, Given, Reference, Rows};
use crate::error::EvalError;
use crate::measure::{Entry, Unit};
use crate::metrics::{Bootstrap, Estimate};
use crate::predictor::{AnswerKind, Predictor};
use crate::protocol::Transform;
use crate::spec::{is_labelled, targets};

/// The measures of values. Outputs are turned back first: y = D(R)⁻¹ f(R x) with the Wigner-D matrix of the
/// irreps. e is y less the target, and f(x) the output unrotated; norms are Euclidean over the components.
pub(crate) const MEASURES: &[Entry<Outputs>] = &[
    Entry::new(
        "mean_absolute_error",
        "mean absolute error",
        Unit::Output,
        "mean of |y − target| over components, volumes and rotations",
        |o, b, _| {
            let targets = o.targets.as_ref()?;
            let errors = o.per_item(|place, y| mean(&difference(y, &targets[place]), f64::abs));
            Some(b.mean(&errors))
        },
    ),
    Entry::new(
        "root_mean_square_error",
        "root mean square error",
        Unit::Output,
        "root of the mean of (y − target)² over components, volumes and rotations",
        |o, b, _| {
            let targets = o.targets.as_ref()?;
            let squares = o.per_item(|place, y| mean(&difference(y, &targets[place]), |e| e * e));
            Some(b.mean(&squares).map(f64::sqrt))
        },
    ),
    Entry::new(
        "deviation",
        "deviation",
        Unit::Output,
        "mean of ‖y − f(x)‖ over volumes and rotations",
        |o, b, _| Some(o.deviation(b)),
    ),
    Entry::new(
        "relative_deviation",
        "relative",
        Unit::Relative,
        "deviation over the root mean square of ‖f(x)‖",
        |o, b, _| {
            let sizes: f64 = o.unrotated.iter().map(|b| norm(b).powi(2)).sum();
            let size = (sizes / o.unrotated.len() as f64).sqrt().max(f64::MIN_POSITIVE);
            Some(o.deviation(b).map(|deviation| deviation / size))
        },
    ),
];

/// The targets of the items of a split.
pub(crate) struct Values<'a> {
    irreps: Irreps,
    /// None where the dataset has none: the values unrotated stand in their place.
    targets: Option<Vec<&'a [f64]>>,
}

impl<'a> Values<'a> {
    pub(crate) fn new(
        dataset: &'a Dataset,
        items: &[usize],
        model: &dyn Predictor,
    ) -> Result<Self, EvalError> {
        if is_labelled(dataset, AnswerKind::Values) {
            let irreps = targets(dataset)?.clone();
            let targets = items.iter().map(|&item| dataset.targets(item)).collect();
            return Ok(Self { irreps, targets: Some(targets) });
        }
        let scalars = || format!("{}x0", model.classes()).parse();
        let irreps = model.targets().map_or_else(scalars, Ok);
        let irreps = irreps.map_err(|_| {
            let problem = format!("gives {} values, more than can be measured", model.classes());
            EvalError::answer(model.name(), problem)
        })?;
        Ok(Self { irreps, targets: None })
    }

    fn error(&self, place: usize, row: &[f64], unrotated: &[f64]) -> Vec<f64> {
        difference(row, self.targets.as_ref().map_or(unrotated, |targets| targets[place]))
    }
}

impl Answer for Values<'_> {
    fn row_len(&self) -> usize {
        self.irreps.dim()
    }

    /// The values turned back.
    fn row(
        &self,
        _place: usize,
        transform: &Transform,
        answer: &Given,
        _reference: Option<&Reference>,
    ) -> Result<Vec<f64>, EvalError> {
        let answer = answer.numbers();
        let values = answer.iter().map(|&value| value.into());
        let values = nalgebra::DVector::from_iterator(answer.len(), values);
        // D is orthogonal.
        let back = self.irreps.wigner_d(&transform.rotation).transpose();
        Ok((back * values).as_slice().to_vec())
    }

    /// Less the squared error.
    fn margin(&self, place: usize, row: &[f64], unrotated: &[f64]) -> f64 {
        -self.error(place, row, unrotated).iter().map(|e| e * e).sum::<f64>()
    }

    /// The mean absolute error over the components; without targets the deviation.
    fn score(&self, place: usize, row: &[f64], unrotated: &[f64]) -> f64 {
        let error = self.error(place, row, unrotated);
        if self.targets.is_some() { mean(&error, f64::abs) } else { norm(&error) }
    }

    fn found(&self, rows: &Rows<'_>, unrotated: Option<&Rows<'_>>, bootstrap: &Bootstrap) -> Found {
        let owned = |item: &Vec<&[f64]>| item.iter().map(|row| row.to_vec()).collect();
        let outputs = Outputs {
            rows: rows.iter().map(owned).collect(),
            unrotated: unrotated.unwrap_or(rows).iter().map(|item| item[0].to_vec()).collect(),
            targets: self.targets.as_ref().map(|all| all.iter().map(|t| t.to_vec()).collect()),
        };
        (Entry::all(MEASURES, &outputs, bootstrap, &[]), None)
    }
}

/// Outputs under one condition, turned back.
pub(crate) struct Outputs {
    /// \[item\]\[transformation\]\[component\].
    rows: Vec<Vec<Vec<f64>>>,
    unrotated: Vec<Vec<f64>>,
    targets: Option<Vec<Vec<f64>>>,
}

impl Outputs {
    /// For each item the mean over its transformations of a value of one output.
    fn per_item(&self, value: impl Fn(usize, &[f64]) -> f64) -> Vec<f64> {
        let of_item = |(place, rows): (usize, &Vec<Vec<f64>>)| {
            let sum = rows.iter().fold(0.0, |sum, y| sum + value(place, y));
            sum / rows.len().max(1) as f64
        };
        self.rows.iter().enumerate().map(of_item).collect()
    }

    fn deviation(&self, bootstrap: &Bootstrap) -> Estimate {
        bootstrap.mean(&self.per_item(|place, y| norm(&difference(y, &self.unrotated[place]))))
    }
}

fn mean(v: &[f64], f: impl Fn(f64) -> f64) -> f64 {
    v.iter().map(|&c| f(c)).sum::<f64>() / v.len().max(1) as f64
}

fn difference(a: &[f64], b: &[f64]) -> Vec<f64> {
    a.iter().zip(b).map(|(a, b)| a - b).collect()
}

fn norm(v: &[f64]) -> f64 {
    v.iter().map(|c| c * c).sum::<f64>().sqrt()
}
