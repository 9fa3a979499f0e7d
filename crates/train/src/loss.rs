//! Losses of heads other than classes of whole volumes, as tensors without dimensions.

use candle_core::{DType, Device, Result, Tensor};
use candle_nn::ops::{log_softmax, softmax};
use serde::{Deserialize, Serialize};

use crate::rank_sum::sum_over_ranks;

/// Mean squared error of two tensors of the same shape.
///
/// # Errors
/// If the shapes differ.
pub fn mean_squared_error(found: &Tensor, target: &Tensor) -> Result<Tensor> {
    (found - target)?.sqr()?.mean_all()
}

/// Mean absolute error of two tensors of the same shape.
///
/// # Errors
/// If the shapes differ.
pub fn mean_absolute_error(found: &Tensor, target: &Tensor) -> Result<Tensor> {
    (found - target)?.abs()?.mean_all()
}

/// Mean of Huber's loss (1964, <https://doi.org/10.1214/aoms/1177703732>) of the difference e of two tensors
/// of the same shape: e²/2 where |e| <= `delta`, `delta` (|e| - `delta`/2) elsewhere.
///
/// # Errors
/// If the shapes differ.
pub fn huber(found: &Tensor, target: &Tensor, delta: f64) -> Result<Tensor> {
    let error = (found - target)?.abs()?;
    let near = error.minimum(delta)?;
    // near²/2 + delta (|e| - near).
    ((near.sqr()? * 0.5)? + ((error - near)? * delta)?)?.mean_all()
}

/// Cross-entropy of logits N,K,D,H,W with the labels N,D,H,W (u32, below K) of their voxels: the mean over
/// voxels, weighted by the weight of each voxel's class.
///
/// # Errors
/// If the shapes do not fit, a label is K or more, or there are not K weights.
pub fn voxel_cross_entropy(
    logits: &Tensor,
    labels: &Tensor,
    weights: Option<&[f64]>,
) -> Result<Tensor> {
    let log = log_softmax(logits, 1)?.gather(&labels.unsqueeze(1)?, 1)?.squeeze(1)?;
    let Some(weights) = weights else { return log.neg()?.mean_all() };
    if weights.len() != logits.dim(1)? {
        candle_core::bail!("expected {} class weights, found {}", logits.dim(1)?, weights.len());
    }
    let weights = Tensor::new(weights, &Device::Cpu)?.to_dtype(logits.dtype())?;
    let weights = weights.to_device(logits.device())?;
    let weights = weights.index_select(&labels.flatten_all()?, 0)?.reshape(labels.shape())?;
    (log.neg()? * &weights)?.sum_all()? / weights.sum_all()?
}

/// The form of the soft Dice loss. nnU-Net (Isensee et al. 2021, <https://doi.org/10.1038/s41592-020-01008-z>) has
/// `background = false` and `squares = false`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct SoftDice {
    /// Whether the background, class 0, is one of the classes of the mean.
    pub background: bool,
    /// Whether probabilities are squared in the denominator.
    pub squares: bool,
    /// Whether sums are over the voxels of each item, and the mean over items too; else sums are over all voxels of a
    /// batch.
    pub per_item: bool,
}

impl Default for SoftDice {
    /// That of Milletari et al.: all classes, squares, sums over the batch.
    fn default() -> Self {
        Self { background: true, squares: true, per_item: false }
    }
}

/// Soft Dice loss (Milletari, Navab and Ahmadi 2016, <https://arxiv.org/abs/1606.04797>) of logits
/// N,K,D,H,W and labels N,D,H,W (u32): one less the mean over classes of 2 Σ p t / (Σ p² + Σ t), with the
/// probabilities p and the indicator t of the class, or p in place of p², as `form` says.
///
/// Voxels whose label is `ignored`, or no class (K or more), are in no sum, and the ignored class is not in the mean. Of
/// several [ranks](steer3d_ranks::Rank) that have a part of a batch each, sums over the voxels of a batch are those of all,
/// and so are means over items.
///
/// # Errors
/// If the shapes do not fit or no class is left.
pub fn dice(
    logits: &Tensor,
    labels: &Tensor,
    form: SoftDice,
    ignored: Option<u32>,
) -> Result<Tensor> {
    let classes = logits.dim(1)? as u32;
    // Voxels that do not count have no indicators of classes of the mean.
    let t = one_hot(labels, classes as usize, logits.dtype())?;
    let mut counted = labels.lt(classes)?;
    if let Some(ignored) = ignored {
        counted = (counted * labels.ne(ignored)?)?;
    }
    let counted = counted.to_dtype(logits.dtype())?.unsqueeze(1)?;
    let p = softmax(logits, 1)?.broadcast_mul(&counted)?;
    let sums = |x: Tensor| {
        if form.per_item { x.sum((2, 3, 4)) } else { sum_over_ranks(&x.sum((0, 2, 3, 4))?) }
    };
    let shared = sums((&p * &t)?)?;
    let all = (sums(if form.squares { p.sqr()? } else { p })? + sums(t)?)?;
    // A class that neither occurs nor is predicted counts as found.
    let small = 1e-6;
    let mut score = (((shared * 2.0)? + small)? / (all + small)?)?;
    let meant = |class: &u32| Some(*class) != ignored && (form.background || *class > 0);
    let meant: Vec<u32> = (0..classes).filter(meant).collect();
    if meant.is_empty() {
        candle_core::bail!(
            "expected a class beside the background and the ignored one, found none"
        );
    }
    if meant.len() < classes as usize {
        let meant = Tensor::new(meant, logits.device())?;
        score = score.index_select(&meant, usize::from(form.per_item))?;
    }
    let mean = if form.per_item {
        // Items count alike, whatever the weight of the voxels that a rank has.
        let items = score.mean(1)?;
        let count = sum_over_ranks(&items.ones_like()?.sum_all()?)?;
        (sum_over_ranks(&items.sum_all()?)? / count)?
    } else {
        score.mean_all()?
    };
    mean.affine(-1.0, 1.0)
}

/// Indicators N,K,D,H,W of labels N,D,H,W.
fn one_hot(labels: &Tensor, classes: usize, dtype: DType) -> Result<Tensor> {
    let all = Tensor::arange(0u32, classes as u32, labels.device())?;
    let all = all.reshape((1, classes, 1, 1, 1))?;
    labels.unsqueeze(1)?.broadcast_eq(&all)?.to_dtype(dtype)
}

#[cfg(test)]
mod tests {
    use candle_core::Var;
    use steer3d_so3::Stream;

    use super::*;

    fn normal(seed: u64, shape: &[usize]) -> Tensor {
        let mut stream = Stream::new(seed, "test", &[]);
        let values: Vec<f64> = (0..shape.iter().product()).map(|_| stream.normal()).collect();
        Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
    }

    fn value(loss: Result<Tensor>) -> f64 {
        loss.unwrap().to_scalar().unwrap()
    }

    fn of(values: &[f64]) -> Tensor {
        Tensor::new(values, &Device::Cpu).unwrap()
    }

    type Loss<'a> = &'a dyn Fn(&Tensor) -> Result<Tensor>;

    const LOGITS: [usize; 5] = [2, 3, 2, 1, 3];

    const FORMS: [SoftDice; 3] = [
        SoftDice { background: true, squares: true, per_item: false },
        SoftDice { background: false, squares: false, per_item: true },
        SoftDice { background: true, squares: false, per_item: false },
    ];

    fn labels() -> Tensor {
        let labels = vec![0u32, 1, 2, 2, 1, 0, 0, 0, 1, 1, 2, 0];
        Tensor::from_vec(labels, (2, 2, 1, 3), &Device::Cpu).unwrap()
    }

    #[test]
    fn regression_losses_have_their_closed_forms() {
        let (found, target) = (of(&[1.0, -2.0, 0.5]), of(&[0.0, 1.0, 0.25]));
        assert!((value(mean_squared_error(&found, &target)) - 10.0625 / 3.0).abs() < 1e-15);
        assert!((value(mean_absolute_error(&found, &target)) - 4.25 / 3.0).abs() < 1e-15);
        // 1 and 3 are above 0.5, 0.25 below.
        let expected = (0.5 * 0.75 + 0.5 * 2.75 + 0.03125) / 3.0;
        assert!((value(huber(&found, &target, 0.5)) - expected).abs() < 1e-15);
    }

    #[test]
    fn losses_of_voxels_are_those_of_their_definition() {
        let (logits, labels) = (normal(1, &LOGITS), labels());
        let all: Vec<f64> = logits.flatten_all().unwrap().to_vec1().unwrap();
        let of_voxel: Vec<u32> = labels.flatten_all().unwrap().to_vec1().unwrap();
        let p = |voxel: usize, class: usize| {
            let at = |k: usize| all[(voxel / 6 * 3 + k) * 6 + voxel % 6].exp();
            at(class) / (at(0) + at(1) + at(2))
        };
        let weights = [0.5, 1.0, 3.0];
        let (mut plain, mut weighted, mut total) = (0.0, 0.0, 0.0);
        for (voxel, &label) in of_voxel.iter().enumerate() {
            let loss = -p(voxel, label as usize).ln();
            plain += loss / 12.0;
            weighted += loss * weights[label as usize];
            total += weights[label as usize];
        }
        let found = value(voxel_cross_entropy(&logits, &labels, None));
        assert!((found - plain).abs() < 1e-13);
        let found = value(voxel_cross_entropy(&logits, &labels, Some(&weights)));
        assert!((found - weighted / total).abs() < 1e-13);
        let score = |class: usize| {
            let is = |voxel: usize| f64::from(u8::from(of_voxel[voxel] as usize == class));
            let shared: f64 = (0..12).map(|v| p(v, class) * is(v)).sum();
            let sum: f64 = (0..12).map(|v| p(v, class).powi(2) + is(v)).sum();
            2.0 * shared / sum
        };
        let expected = 1.0 - (0..3).map(score).sum::<f64>() / 3.0;
        let found = value(dice(&logits, &labels, SoftDice::default(), None));
        assert!((found - expected).abs() < 1e-6);
        assert!(voxel_cross_entropy(&logits, &labels, Some(&[1.0])).is_err());
    }

    #[test]
    fn every_form_of_dice_is_that_of_its_definition() {
        let (logits, labels) = (normal(1, &LOGITS), labels());
        let p = softmax(&logits, 1).unwrap().flatten_all().unwrap().to_vec1::<f64>().unwrap();
        let p = |voxel: usize, class: usize| p[(voxel / 6 * 3 + class) * 6 + voxel % 6];
        let of_voxel: Vec<u32> = labels.flatten_all().unwrap().to_vec1().unwrap();
        let mut partly = of_voxel.clone();
        partly[4] = 3;
        for (form, of_voxel) in FORMS.into_iter().flat_map(|f| [(f, &of_voxel), (f, &partly)]) {
            let labels = Tensor::new(&of_voxel[..], &Device::Cpu).unwrap();
            let labels = labels.reshape((2, 2, 1, 3)).unwrap();
            for ignored in [None, Some(0), Some(2)] {
                let classes =
                    (0..3u32).filter(|c| Some(*c) != ignored && (form.background || *c > 0));
                let volumes = if form.per_item { 2 } else { 1 };
                let (mut sum, mut count) = (0.0, 0.0);
                for class in classes {
                    for volume in 0..volumes {
                        let voxels = volume * 12 / volumes..(volume + 1) * 12 / volumes;
                        let (mut shared, mut all) = (0.0, 0.0);
                        let counts = |v: &usize| of_voxel[*v] < 3 && Some(of_voxel[*v]) != ignored;
                        for voxel in voxels.filter(counts) {
                            let (p, t) = (p(voxel, class as usize), of_voxel[voxel] == class);
                            shared += if t { p } else { 0.0 };
                            all += if form.squares { p * p } else { p } + f64::from(u8::from(t));
                        }
                        sum += 2.0 * shared / all;
                        count += 1.0;
                    }
                }
                let found = value(dice(&logits, &labels, form, ignored));
                assert!((found - (1.0 - sum / count)).abs() < 1e-5, "{form:?} {ignored:?}");
            }
        }
        let alone = SoftDice { background: false, ..SoftDice::default() };
        let two = logits.narrow(1, 0, 2).unwrap().contiguous().unwrap();
        assert!(dice(&two, &labels.minimum(1u32).unwrap(), alone, Some(1)).is_err());
    }

    #[test]
    fn perfect_answers_have_no_loss() {
        let logits = (one_hot(&labels(), 3, DType::F64).unwrap() * 60.0).unwrap();
        for form in FORMS {
            assert!(value(dice(&logits, &labels(), form, None)) < 1e-9);
        }
        assert!(value(voxel_cross_entropy(&logits, &labels(), None)) < 1e-9);
    }

    #[test]
    fn gradients_agree_with_central_differences() {
        let target = normal(2, &LOGITS);
        let losses: [Loss<'_>; 7] = [
            &|x| mean_squared_error(x, &target),
            &|x| mean_absolute_error(x, &target),
            &|x| huber(x, &target, 0.8),
            &|x| voxel_cross_entropy(x, &labels(), None),
            &|x| voxel_cross_entropy(x, &labels(), Some(&[0.5, 1.0, 3.0])),
            &|x| dice(x, &labels(), FORMS[0], None),
            &|x| dice(x, &labels(), FORMS[1], Some(2)),
        ];
        let start = normal(3, &LOGITS);
        let values: Vec<f64> = start.flatten_all().unwrap().to_vec1().unwrap();
        for (i, loss) in losses.into_iter().enumerate() {
            let var = Var::from_tensor(&start).unwrap();
            let grads = loss(var.as_tensor()).unwrap().backward().unwrap();
            let gradient = grads.get(&var).unwrap().flatten_all().unwrap();
            for (k, gradient) in gradient.to_vec1::<f64>().unwrap().into_iter().enumerate() {
                let at = |delta: f64| {
                    let mut moved = values.clone();
                    moved[k] += delta;
                    value(loss(&Tensor::from_vec(moved, &LOGITS, &Device::Cpu).unwrap()))
                };
                let difference = (at(1e-6) - at(-1e-6)) / 2e-6;
                assert!((difference - gradient).abs() < 1e-8, "{i}: {difference} {gradient}");
            }
        }
    }
}
