//! Losses of classification.

use candle_core::{Device, Tensor};
use candle_nn::loss::cross_entropy;
use candle_nn::ops::log_softmax;
use serde::{Deserialize, Serialize};

use crate::error::TrainError;
use crate::loss::SoftDice;

/// What is minimised: cross-entropy of classes and labels, and what is changed about it; squared error of
/// target values.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct LossConfig {
    /// Weight of each class; the loss of a batch is the weighted mean over its items.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub class_weights: Option<ClassWeights>,
    /// Share of the target that is spread evenly over all classes (Szegedy et al. 2016,
    /// <https://arxiv.org/abs/1512.00567>).
    pub label_smoothing: f64,
    /// Exponent g of the focal loss, which multiplies the term of a class of probability p with
    /// (1 - p)^g (Lin et al. 2017, <https://arxiv.org/abs/1708.02002>): 0, or at least 1.
    pub focal: f64,
    /// How much the cross-entropy counts for labels of voxels: 1, or 0 for the Dice loss alone.
    #[serde(skip_serializing_if = "is_one")]
    pub cross_entropy: f64,
    /// How much of the [`dice`](crate::loss::dice) loss is added, for labels of voxels. Class weights are those of the
    /// cross-entropy alone.
    pub dice: f64,
    /// The form of the Dice loss.
    #[serde(skip_serializing_if = "is_standard")]
    pub soft_dice: SoftDice,
    /// The label of voxels that count in no loss and no accuracy: the index of its class, of which the network learns
    /// nothing but that no other voxel is of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ignore: Option<u32>,
    /// Error of a number from which on the squared error is linear ([`huber`](crate::loss::huber)), for
    /// target values; always squared if it is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub huber: Option<f64>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_one(value: &f64) -> bool {
    *value == 1.0
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_standard(form: &SoftDice) -> bool {
    *form == SoftDice::default()
}

impl Default for LossConfig {
    /// The cross-entropy, or the squared error.
    fn default() -> Self {
        Self {
            class_weights: None,
            label_smoothing: 0.0,
            focal: 0.0,
            cross_entropy: 1.0,
            dice: 0.0,
            soft_dice: SoftDice::default(),
            ignore: None,
            huber: None,
        }
    }
}

impl LossConfig {
    pub(crate) fn is_balanced(&self) -> bool {
        self.class_weights == Some(ClassWeights::Of(Balance::Balanced))
    }

    /// Checks that nothing is set that is for labels of voxels alone.
    pub(crate) fn check_without_voxels(&self) -> Result<(), TrainError> {
        let set = [
            ("cross_entropy", self.cross_entropy != 1.0),
            ("dice", self.dice > 0.0),
            ("soft_dice", !is_standard(&self.soft_dice)),
            ("ignore", self.ignore.is_some()),
        ];
        match set.into_iter().find(|(_, set)| *set) {
            None => Ok(()),
            Some((field, _)) => {
                let problem = "is for networks that label voxels (head = \"voxels\"); leave it out";
                Err(TrainError::settings(field, problem))
            }
        }
    }
}

/// The weight of each class.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(untagged, expecting = "expected \"balanced\" or a list with a number for each class")]
pub enum ClassWeights {
    /// By what the training set holds.
    Of(Balance),
    /// Given, in the order of the classes.
    Given(Vec<f64>),
}

/// Weights from the training set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Balance {
    /// Items / (classes · items of the class), so that each class counts alike.
    Balanced,
}

/// A loss over given classes.
#[derive(Debug, Clone)]
pub struct Loss {
    weights: Option<Vec<f64>>,
    smoothing: f64,
    focal: f64,
}

impl Loss {
    /// The loss that `config` describes, where `counts` are the training items of each class.
    ///
    /// # Errors
    /// [`TrainError::Settings`] for a setting out of its range.
    pub fn new(config: &LossConfig, counts: &[usize]) -> Result<Self, TrainError> {
        let fault = |field, problem| Err(TrainError::settings(field, problem));
        let &LossConfig { label_smoothing: smoothing, focal, .. } = config;
        if !(0.0..1.0).contains(&smoothing) {
            return fault("label_smoothing", format!("expected 0 to below 1, found {smoothing}"));
        }
        if !(focal == 0.0 || (focal >= 1.0 && focal.is_finite())) {
            return fault("focal", format!("expected 0 or at least 1, found {focal}"));
        }
        for (field, share) in [("dice", config.dice), ("cross_entropy", config.cross_entropy)] {
            if !(share >= 0.0 && share.is_finite()) {
                return fault(field, format!("expected 0 or more, found {share}"));
            }
        }
        let weights = match &config.class_weights {
            None => None,
            Some(ClassWeights::Of(Balance::Balanced)) => Some(balanced(counts)),
            Some(ClassWeights::Given(given)) => {
                if given.len() != counts.len() {
                    let (classes, found) = (counts.len(), given.len());
                    let problem =
                        format!("expected one for each of {classes} classes, found {found}");
                    return fault("class_weights", problem);
                }
                if let Some(bad) = given.iter().find(|w| !(w.is_finite() && **w > 0.0)) {
                    return fault(
                        "class_weights",
                        format!("expected positive numbers, found {bad}"),
                    );
                }
                Some(given.clone())
            }
        };
        Ok(Self { weights, smoothing, focal })
    }

    /// What items with these labels count for, all together.
    pub fn weight(&self, labels: &[u32]) -> f64 {
        match &self.weights {
            None => labels.len() as f64,
            Some(weights) => labels.iter().map(|&label| weights[label as usize]).sum(),
        }
    }

    /// The weighted mean over a batch of logits N,classes.
    ///
    /// # Errors
    /// If there are not as many labels as logits, or the device runs out of memory.
    pub fn mean(&self, logits: &Tensor, labels: &[u32]) -> Result<Tensor, TrainError> {
        if self.weights.is_none() && self.smoothing == 0.0 && self.focal == 0.0 {
            return Ok(cross_entropy(logits, &Tensor::new(labels, logits.device())?)?);
        }
        let logs = log_softmax(logits, 1)?;
        let target = self.target(labels, logits)?;
        let mut terms = (&logs * target)?;
        if self.focal > 0.0 {
            // Rounding may bring a probability above 1.
            let missing = logs.exp()?.affine(-1.0, 1.0)?.relu()?;
            terms = (terms * missing.powf(self.focal)?)?;
        }
        Ok(terms.sum_all()?.affine(-1.0 / self.weight(labels), 0.0)?)
    }

    /// The weighted target distributions, of the shape of `logits`.
    fn target(&self, labels: &[u32], logits: &Tensor) -> Result<Tensor, TrainError> {
        let classes = logits.dim(1)?;
        let weight = |class: usize| self.weights.as_ref().map_or(1.0, |w| w[class]);
        let mut target = vec![];
        for &label in labels {
            target.extend((0..classes).map(|class| {
                let right = if class == label as usize { 1.0 - self.smoothing } else { 0.0 };
                weight(class) * (right + self.smoothing / classes as f64)
            }));
        }
        let target = Tensor::from_vec(target, (labels.len(), classes), &Device::Cpu)?;
        Ok(target.to_dtype(logits.dtype())?.to_device(logits.device())?)
    }
}

/// A class without items has no weight that balances it; it gets 1.
fn balanced(counts: &[usize]) -> Vec<f64> {
    let all: usize = counts.iter().sum();
    let weight = |&count: &usize| match count {
        0 => 1.0,
        _ => all as f64 / (counts.len() * count) as f64,
    };
    counts.iter().map(weight).collect()
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Var};

    use super::*;

    const LOGITS: [[f64; 3]; 2] = [[0.2, -1.0, 0.7], [1.5, 0.3, -0.4]];
    const LABELS: [u32; 2] = [2, 1];

    fn value(config: &LossConfig, logits: [[f64; 3]; 2]) -> f64 {
        let loss = Loss::new(config, &[1, 3, 2]).unwrap();
        let logits = Tensor::new(&logits, &Device::Cpu).unwrap();
        loss.mean(&logits, &LABELS).unwrap().to_scalar().unwrap()
    }

    /// The definition, one number at a time.
    fn reference(config: &LossConfig, weights: [f64; 3]) -> f64 {
        let (mut sum, mut total) = (0.0, 0.0);
        for (row, label) in LOGITS.iter().zip(LABELS) {
            let all: f64 = row.iter().map(|x| x.exp()).sum();
            for (class, x) in row.iter().enumerate() {
                let p = x.exp() / all;
                let right = f64::from(u8::from(class == label as usize));
                let target = (1.0 - config.label_smoothing) * right + config.label_smoothing / 3.0;
                sum -= weights[class] * target * (1.0 - p).powf(config.focal) * p.ln();
            }
            total += weights[label as usize];
        }
        sum / total
    }

    #[test]
    fn losses_follow_their_definitions_and_gradients_the_losses() {
        let given = Some(ClassWeights::Given(vec![0.5, 2.0, 1.2]));
        let balanced = Some(ClassWeights::Of(Balance::Balanced));
        let config = |class_weights, label_smoothing, focal| LossConfig {
            class_weights,
            label_smoothing,
            focal,
            ..LossConfig::default()
        };
        let cases = [
            (config(None, 0.0, 0.0), [1.0; 3]),
            (config(None, 0.1, 0.0), [1.0; 3]),
            (config(None, 0.0, 2.0), [1.0; 3]),
            (config(given.clone(), 0.0, 0.0), [0.5, 2.0, 1.2]),
            (config(given, 0.2, 1.5), [0.5, 2.0, 1.2]),
            (config(balanced, 0.0, 0.0), [2.0, 2.0 / 3.0, 1.0]),
        ];
        for (config, weights) in cases {
            let (found, expected) = (value(&config, LOGITS), reference(&config, weights));
            assert!((found - expected).abs() < 1e-12, "{config:?}: {found} {expected}");
            let loss = Loss::new(&config, &[1, 3, 2]).unwrap();
            let logits = Var::new(&LOGITS, &Device::Cpu).unwrap();
            let gradients = loss.mean(&logits, &LABELS).unwrap().backward().unwrap();
            let gradient = gradients.get(&logits).unwrap().to_vec2::<f64>().unwrap();
            for (i, row) in gradient.iter().enumerate() {
                for (j, gradient) in row.iter().enumerate() {
                    let moved = |by: f64| {
                        let mut moved = LOGITS;
                        moved[i][j] += by;
                        value(&config, moved)
                    };
                    let difference = (moved(1e-5) - moved(-1e-5)) / 2e-5;
                    assert!(
                        (gradient - difference).abs() < 1e-9,
                        "{config:?} {gradient} {difference}"
                    );
                }
            }
        }
    }

    /// `torch.nn.functional.cross_entropy` of PyTorch 2.15.
    #[test]
    fn losses_are_those_of_pytorch() {
        let weights = Some(ClassWeights::Given(vec![0.5, 2.0, 1.2]));
        let cases = [
            (None, 0.0, 1.076933014256316),
            (weights.clone(), 0.0, 1.200722137825548),
            (None, 0.2, 1.1335996809229827),
            (weights, 0.2, 1.2076465499582871),
        ];
        for (class_weights, label_smoothing, expected) in cases {
            let config = LossConfig { class_weights, label_smoothing, ..LossConfig::default() };
            let found = value(&config, LOGITS);
            assert!((found - expected).abs() < 1e-12, "{config:?}: {found} {expected}");
        }
    }

    #[test]
    fn a_certain_answer_has_a_finite_gradient() {
        let config = LossConfig { focal: 2.0, ..LossConfig::default() };
        let logits = Var::from_slice(&[60f32, -60.0, 0.0], (1, 3), &Device::Cpu).unwrap();
        let loss = Loss::new(&config, &[1; 3]).unwrap().mean(&logits, &[0]).unwrap();
        let gradients = loss.to_dtype(DType::F32).unwrap().backward().unwrap();
        let gradient = gradients.get(&logits).unwrap().flatten_all().unwrap();
        assert!(gradient.to_vec1::<f32>().unwrap().iter().all(|g| g.is_finite()));
    }

    #[test]
    fn settings_out_of_range_are_named() {
        let message = |config: LossConfig| Loss::new(&config, &[1, 2]).unwrap_err().to_string();
        let with = LossConfig::default;
        assert!(message(LossConfig { label_smoothing: 1.0, ..with() }).contains("label_smoothing"));
        assert!(message(LossConfig { focal: 0.5, ..with() }).contains("focal"));
        let weights = |w: &[f64]| Some(ClassWeights::Given(w.to_vec()));
        let three = LossConfig { class_weights: weights(&[1.0; 3]), ..with() };
        assert!(message(three).contains("each of 2 classes, found 3"));
        let negative = LossConfig { class_weights: weights(&[1.0, -1.0]), ..with() };
        assert!(message(negative).contains("found -1"));
    }
}
