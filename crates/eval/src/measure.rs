//! The single form of a score in every report.

use serde::{Deserialize, Serialize};

use crate::metrics::{Bootstrap, Estimate};

/// A score of a model under one condition.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measure {
    /// Name, as in its [`Definition`].
    pub name: String,
    /// The class that it is of, if it is of one class.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class: Option<String>,
    /// The value with the ends of its 95 % interval; the ends are the value where the definition has no
    /// interval.
    #[serde(flatten)]
    pub estimate: Estimate,
    /// What the numbers count.
    pub unit: Unit,
}

/// What the numbers of a measure count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// Shares from 0 to 1.
    Share,
    /// Differences of shares.
    Points,
    /// A coefficient from 0 to 1, such as the area under a curve.
    Coefficient,
    /// A length over a typical length.
    Relative,
    /// The unit of the model's outputs.
    Output,
    /// The unit of the dataset's voxel size.
    Length,
}

/// What a measure is: an entry of the table of an answer.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Definition {
    /// Name in JSON and CSV.
    pub name: &'static str,
    /// Heading of its column in tables.
    pub heading: &'static str,
    /// What its numbers count.
    pub unit: Unit,
    /// Whether there is one for each class.
    pub of_class: bool,
    /// Whether it has an interval.
    pub interval: bool,
    /// What is measured.
    pub meaning: &'static str,
}

/// A measure of what `S` holds of one condition.
pub(crate) struct Entry<S> {
    pub(crate) definition: Definition,
    /// The estimate for a class (0 for measures that are of none); `None` where it is not defined.
    of: fn(&S, &Bootstrap, usize) -> Option<Estimate>,
}

impl<S> Entry<S> {
    pub(crate) const fn new(
        name: &'static str,
        heading: &'static str,
        unit: Unit,
        meaning: &'static str,
        of: fn(&S, &Bootstrap, usize) -> Option<Estimate>,
    ) -> Self {
        let definition =
            Definition { name, heading, unit, of_class: false, interval: true, meaning };
        Self { definition, of }
    }

    /// The same for each class.
    pub(crate) const fn of_class(mut self) -> Self {
        self.definition.of_class = true;
        self
    }

    /// The same without an interval.
    pub(crate) const fn without_interval(mut self) -> Self {
        self.definition.interval = false;
        self
    }

    /// The defined measures of a table.
    pub(crate) fn all(
        entries: &[Self],
        scored: &S,
        bootstrap: &Bootstrap,
        classes: &[String],
    ) -> Vec<Measure> {
        let mut measures = vec![];
        for Self { definition, of } in entries {
            let names: Vec<Option<&String>> = match definition.of_class {
                true => classes.iter().map(Some).collect(),
                false => vec![None],
            };
            for (class, name) in names.into_iter().enumerate() {
                measures.extend(of(scored, bootstrap, class).map(|estimate| Measure {
                    name: definition.name.into(),
                    class: name.cloned(),
                    estimate,
                    unit: definition.unit,
                }));
            }
        }
        measures
    }
}
