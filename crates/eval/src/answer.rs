//! What is asked of the answers of a model, whatever they are.

use crate::error::EvalError;
use crate::measure::Measure;
use crate::metrics::Bootstrap;
use crate::protocol::Transform;

/// What a model gives for a volume.
pub(crate) enum Given {
    /// Logits of classes, or values.
    Numbers(Vec<f32>),
    /// Labels of the voxels of the item as it is stored.
    Labels(Vec<u8>),
}

impl Given {
    /// The numbers; none where it has labels.
    pub(crate) fn numbers(&self) -> &[f32] {
        match self {
            Self::Numbers(numbers) => numbers,
            Self::Labels(_) => &[],
        }
    }

    /// The labels; none where it has numbers.
    pub(crate) fn labels(&self) -> &[u8] {
        match self {
            Self::Labels(labels) => labels,
            Self::Numbers(_) => &[],
        }
    }
}

/// What is kept of the answers, \[item\]\[transformation\]\[number\].
pub(crate) type Rows<'a> = [Vec<&'a [f64]>];

/// The labels of the voxels of an item: the right ones, and those that the model gives unrotated.
pub(crate) struct Reference {
    pub(crate) labels: Vec<u8>,
    pub(crate) unrotated: Vec<u8>,
}

/// What was found under one condition: its measures, and the counts \[true class\]\[predicted class\] of what
/// has classes.
pub(crate) type Found = (Vec<Measure>, Option<Vec<Vec<u64>>>);

/// What models answer with: what is right, how an answer is turned back, and which measures it gives. An item is
/// named by its place in the split.
pub(crate) trait Answer: Sync {
    /// How many numbers are kept of an answer.
    fn row_len(&self) -> usize;

    /// Whether turned answers are compared with a [`Reference`].
    fn has_reference(&self) -> bool {
        false
    }

    /// What answers are compared with, from the labels that the model gives the unrotated item.
    fn reference(&self, _place: usize, _unrotated: &[u8]) -> Result<Reference, EvalError> {
        Ok(Reference { labels: vec![], unrotated: vec![] })
    }

    /// What is kept of the answer to a transformed item.
    fn row(
        &self,
        place: usize,
        transform: &Transform,
        answer: &Given,
        reference: Option<&Reference>,
    ) -> Result<Vec<f64>, EvalError>;

    /// What the search for the worst rotation lowers, from what is kept of the answer and of that to the unrotated
    /// item.
    fn margin(&self, place: usize, row: &[f64], unrotated: &[f64]) -> f64;

    /// The margin below which an answer is so wrong that the search ends.
    fn least_margin(&self) -> f64 {
        f64::NEG_INFINITY
    }

    /// The score of one transformed item, whose mean over items the paired tests and comparisons take: the
    /// measure `score` of [`AnswerKind`](crate::AnswerKind), from the same as the margin.
    fn score(&self, place: usize, row: &[f64], unrotated: &[f64]) -> f64;

    /// The class of an item, if classes are answered and items have some.
    fn class(&self, _place: usize) -> Option<usize> {
        None
    }

    /// The measures under one condition; `unrotated` has one transformation for each item.
    fn found(&self, rows: &Rows<'_>, unrotated: Option<&Rows<'_>>, bootstrap: &Bootstrap) -> Found;
}
