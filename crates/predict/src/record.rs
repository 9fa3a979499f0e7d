use serde::{Deserialize, Serialize};
use steer3d_eval::Spread;
use steer3d_eval::metrics::softmax;
use steer3d_so3::Irreps;

/// What became of one item.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Its path, or its name in a dataset or an archive.
    pub item: String,
    /// The answer; none where there is an error.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub answer: Option<Answer>,
    /// What several rotations say of the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stability: Option<Stability>,
    /// Distance of the features from those of the training data, over that which 99 % of known volumes keep: above 1
    /// the item is unlike the training data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unlike: Option<f64>,
    /// What a reader should know before he trusts the answer.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// The invariant features before the head, if they were asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub features: Option<Vec<f32>>,
    /// Why there is no answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl Record {
    /// That of an item without an answer.
    pub(crate) fn failed(item: &str, error: String) -> Self {
        Self { item: item.to_owned(), error: Some(error), ..Self::default() }
    }
}

/// What a network says of an item.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// The class of the item.
    Classes {
        /// The most probable class.
        class: String,
        /// The probability of every class, in the order of the model.
        probabilities: Vec<f64>,
        /// Index of the most probable class.
        best: usize,
        /// Index of the next best, if there are two.
        next: Option<usize>,
    },
    /// Numbers, vectors and tensors, in the coordinates of the input.
    Values(Vec<Named>),
    /// Labels of voxels.
    Voxels {
        /// Share of the voxels of every class, in the order of the model.
        shares: Vec<f64>,
        /// The file of the labels, if it was written.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        map: Option<String>,
    },
}

/// A number, vector or tensor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Named {
    /// Its name.
    pub name: String,
    /// Its unit, empty if that is not known.
    pub unit: String,
    /// How it turns.
    pub irrep: String,
    /// Its components: of l = 1 these are x, y, z.
    pub components: Vec<f64>,
}

/// What several rotations of an item say of its answer, which is their mean.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Stability {
    /// How many.
    pub rotations: usize,
    /// Share of the rotations, or of their voxels, with the answer that their mean gives; none for values.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agreement: Option<f64>,
    /// Standard deviation over the rotations: of the probability of the answer, or of the components of values (root of
    /// the mean over all).
    pub deviation: f64,
}

/// The index of the largest, the first of equals.
pub(crate) fn largest(values: &[f64]) -> usize {
    (0..values.len()).fold(0, |best, i| if values[i] > values[best] { i } else { best })
}

/// The answer of several rotations, by the logits for each.
pub(crate) fn classes(names: &[String], logits: &[Vec<f32>]) -> (Answer, Option<Stability>) {
    let rows: Vec<Vec<f64>> = logits.iter().map(|row| softmax(row)).collect();
    let count = rows.len() as f64;
    let mean = |class: usize| rows.iter().map(|row| row[class]).sum::<f64>() / count;
    let probabilities: Vec<f64> = (0..names.len()).map(mean).collect();
    let best = largest(&probabilities);
    let others = (0..names.len()).filter(|&class| class != best);
    let next = others.reduce(|a, b| if probabilities[b] > probabilities[a] { b } else { a });
    let stability = (rows.len() > 1).then(|| Stability {
        rotations: rows.len(),
        agreement: Some(rows.iter().filter(|row| largest(row) == best).count() as f64 / count),
        deviation: deviation(rows.iter().map(|row| row[best])),
    });
    (Answer::Classes { class: names[best].clone(), probabilities, best, next }, stability)
}

/// The answer of several rotations, by the values for each, turned back.
pub(crate) fn values(
    irreps: &Irreps,
    names: &[String],
    units: &[String],
    rows: &[Vec<f64>],
) -> (Answer, Option<Stability>) {
    let count = rows.len() as f64;
    let mean = |i: usize| rows.iter().map(|row| row[i]).sum::<f64>() / count;
    let fields = irreps.blocks().flat_map(|block| {
        let dim = block.irrep.dim();
        (0..block.mul).map(move |copy| (block.irrep, block.offset + copy * dim, dim))
    });
    let named = fields.enumerate().map(|(i, (irrep, start, dim))| Named {
        name: names.get(i).cloned().unwrap_or_else(|| format!("value {i}")),
        unit: units.get(i).cloned().unwrap_or_default(),
        irrep: irrep.to_string(),
        components: (start..start + dim).map(mean).collect(),
    });
    let named = named.collect();
    let stability = (rows.len() > 1).then(|| {
        let dim = irreps.dim();
        let squares = (0..dim).map(|i| deviation(rows.iter().map(|row| row[i])).powi(2));
        let deviation = (squares.sum::<f64>() / dim.max(1) as f64).sqrt();
        Stability { rotations: rows.len(), agreement: None, deviation }
    });
    (Answer::Values(named), stability)
}

/// Standard deviation of a sample.
pub(crate) fn deviation(values: impl Iterator<Item = f64>) -> f64 {
    Spread::of(&values.collect::<Vec<_>>()).deviation
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probabilities_are_averaged_and_the_answers_counted() {
        let names = ["a", "b", "c"].map(String::from);
        let ln = |p: [f32; 3]| p.map(f32::ln).to_vec();
        let rows = [ln([0.6, 0.3, 0.1]), ln([0.2, 0.7, 0.1]), ln([0.7, 0.2, 0.1])];
        let (answer, stability) = classes(&names, &rows);
        let Answer::Classes { class, probabilities, best, next } = answer else { panic!() };
        assert_eq!((class.as_str(), best, next), ("a", 0, Some(1)));
        for (found, expected) in probabilities.iter().zip([0.5, 0.4, 0.1]) {
            assert!((found - expected).abs() < 1e-6, "{found} {expected}");
        }
        let stability = stability.unwrap();
        assert_eq!(stability.agreement, Some(2.0 / 3.0));
        assert!((stability.deviation - 0.07f64.sqrt()).abs() < 1e-6, "{}", stability.deviation);
        let (one, none) = classes(&names[..1], &[vec![3.0]]);
        assert!(matches!(one, Answer::Classes { next: None, .. }) && none.is_none());
    }

    #[test]
    fn values_have_names_units_and_components() {
        let irreps: Irreps = "1x0+2x1".parse().unwrap();
        let rows =
            [vec![1.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0], vec![3.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0]];
        let (answer, stability) = values(&irreps, &["energy".into()], &["eV".into()], &rows);
        let Answer::Values(named) = answer else { panic!() };
        assert_eq!((named[0].name.as_str(), named[0].unit.as_str()), ("energy", "eV"));
        assert_eq!(named[0].components, [2.0]);
        assert_eq!(
            (named[2].name.as_str(), named[2].components.as_slice()),
            ("value 2", &[4.0, 5.0, 6.0][..])
        );
        // The sample variance of 1 and 3 is 2, of seven components.
        assert!((stability.unwrap().deviation - (2.0f64 / 7.0).sqrt()).abs() < 1e-12);
    }
}
