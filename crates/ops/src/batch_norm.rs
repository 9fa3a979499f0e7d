//! Equivariant batch normalisation, the training form and the evaluation form, and normalisation of each item alone.

use candle_core::{DType, Device, Error, Result, Shape, Tensor};
use rayon::prelude::*;
use steer3d_ranks::{Rank, RankError};
use steer3d_so3::Irreps;

use crate::check::{Volume, expect_argument, invalid};
use crate::fields::{Span, expect_type, spans};
use crate::float::{Float, sum};
use crate::gate::Affine;
#[cfg(any(test, feature = "cuda"))]
use crate::gpu::{Routine, Slot, args, fields};
use crate::op::{Op, apply, apply_constant, if_tracked};
use crate::simd::Lanes;

const OP: &str = "field_batch_norm";
const AFFINE: &str = "field_affine";
const INSTANCE: &str = "field_instance_norm";

/// Equivariant batch normalisation with the statistics of the batch (Weiler et al. 2018,
/// section 4.4), differentiable in `x`, `weight` and `bias`.
///
/// `x` is N,C,D,H,W of type `irreps`. A scalar field (l = 0, even or without parity) becomes
/// `weight (f - mean) / sqrt(var + eps) + bias`; any other field `weight f / sqrt(var + eps)`,
/// where var is the mean over batch and voxels of |f|^2 / (2l+1). `weight` has one number for each
/// field (shape `num_fields`), `bias` one for each scalar field (possibly shape `[0]`, on any device).
///
/// Returns the result, the means of the scalar fields and the variances of all fields (both
/// detached, in f32 for bf16; variances divide by the count, not by the count - 1).
///
/// # Errors
/// If shapes or element types do not agree or `eps` is negative or not finite.
pub fn field_batch_norm(
    x: &Tensor,
    irreps: &Irreps,
    weight: &Tensor,
    bias: &Tensor,
    eps: f64,
) -> Result<(Tensor, Tensor, Tensor)> {
    let (op, mean, var) = batch_normalize(x, irreps, weight, bias, eps)?;
    Ok((apply(op, [x, weight, &present(bias, weight)?])?, mean, var))
}

/// The operation, the means of the scalar fields and the variances of all fields of
/// [`field_batch_norm`].
pub(crate) fn batch_normalize(
    x: &Tensor,
    irreps: &Irreps,
    weight: &Tensor,
    bias: &Tensor,
    eps: f64,
) -> Result<(Normalize, Tensor, Tensor)> {
    check_eps(OP, eps)?;
    let layout = FieldLayout::new(OP, x, irreps, weight, bias)?;
    let (op, var) = Normalize::of_batch(layout, x, eps, Rank::current())?;
    let dtype = if x.dtype() == DType::BF16 { DType::F32 } else { x.dtype() };
    let batch_mean = small_tensor(op.layout.of_invariant(&op.mean), dtype, x)?;
    let batch_var = small_tensor(var, dtype, x)?;
    Ok((op, batch_mean, batch_var))
}

fn check_eps(op: &'static str, eps: f64) -> Result<()> {
    if eps.is_finite() && eps >= 0.0 {
        return Ok(());
    }
    Err(invalid(op, format_args!("expected a finite eps of at least 0, got {eps}")))
}

/// [`field_batch_norm`] of each item of a batch alone, in training and at evaluation: instance normalisation (Ulyanov,
/// Vedaldi and Lempitsky 2016, <https://arxiv.org/abs/1607.08022>) of fields, differentiable in `x`, `weight` and `bias`.
///
/// The mean of a scalar field and var of every field are over the voxels of one item. Arguments as those of
/// [`field_batch_norm`].
///
/// # Errors
/// As [`field_batch_norm`].
pub fn field_instance_norm(
    x: &Tensor,
    irreps: &Irreps,
    weight: &Tensor,
    bias: &Tensor,
    eps: f64,
) -> Result<Tensor> {
    check_eps(INSTANCE, eps)?;
    let layout = FieldLayout::new(INSTANCE, x, irreps, weight, bias)?.of_items();
    let (batch, _, d, h, w) = x.dims5()?;
    // One item with the fields of all: their statistics are those of fields of its own.
    let joined = x.reshape((1, layout.volume.channels, d, h, w))?;
    let (op, _) = Normalize::of_batch(layout, &joined, eps, Rank::ALONE)?;
    let repeated = |t: &Tensor| if t.elem_count() == 0 { Ok(t.clone()) } else { t.repeat(batch) };
    let (weight, bias) = (repeated(weight)?, repeated(bias)?);
    apply(op, [&joined, &weight, &present(&bias, &weight)?])?.reshape(x.shape())
}

fn failed(error: &RankError) -> Error {
    Error::Msg(error.to_string())
}

/// Means and variances over the batches of all ranks, of those of the own batch, and the number of items of all.
fn of_all_ranks(rank: &Rank, batch: usize, mut stats: Vec<f64>) -> Result<(Vec<f64>, usize)> {
    stats.push(batch as f64);
    let all = rank.gather_numbers(&stats).map_err(|e| failed(&e))?;
    let fields = all[0].len() / 2;
    let items: f64 = all.iter().map(|stats| stats[2 * fields]).sum();
    let average = |of: &dyn Fn(&[f64]) -> f64| {
        all.iter().map(|stats| stats[2 * fields] / items * of(stats)).sum::<f64>()
    };
    let mut found: Vec<f64> = (0..fields).map(|i| average(&|stats| stats[i])).collect();
    for i in 0..fields {
        let mean = found[i];
        found.push(average(&|stats| stats[fields + i] + (stats[i] - mean).powi(2)));
    }
    Ok((found, items as usize))
}

/// Multiplies every field by a number and adds a number to every scalar field: batch normalisation
/// at evaluation, differentiable in all three tensors.
///
/// `x` is N,C,D,H,W of type `irreps`, `scale` has one number for each field (shape `num_fields`),
/// `shift` one for each scalar field (l = 0, even or without parity; possibly shape `[0]`).
///
/// # Errors
/// If shapes or element types do not agree.
pub fn field_affine(x: &Tensor, irreps: &Irreps, scale: &Tensor, shift: &Tensor) -> Result<Tensor> {
    let layout = FieldLayout::new(AFFINE, x, irreps, scale, shift)?;
    let fields = layout.fields.len();
    let (mean, std, batch) = (vec![0.0; fields], vec![1.0; fields], layout.volume.batch);
    let op = Normalize { layout, mean, std, from_batch: false, batch, rank: Rank::ALONE };
    apply(op, [x, scale, &present(shift, scale)?])
}

/// On a GPU there are no empty tensors: one stands for biases that nothing reads.
pub(crate) fn present(bias: &Tensor, weight: &Tensor) -> Result<Tensor> {
    if bias.elem_count() == 0 && weight.device().is_cuda() {
        return Ok(weight.narrow(0, 0, 1)?.detach());
    }
    Ok(bias.clone())
}

fn to_f64(x: &Tensor) -> Result<Vec<f64>> {
    x.to_dtype(DType::F64)?.to_vec1()
}

/// A tensor of rank 1 on the device of `like`.
fn small_tensor(values: Vec<f64>, dtype: DType, like: &Tensor) -> Result<Tensor> {
    let length = values.len();
    let device = if length == 0 { &Device::Cpu } else { like.device() };
    Tensor::from_vec(values, length, device)?.to_dtype(dtype)
}

#[derive(Clone)]
struct FieldLayout {
    volume: Volume,
    fields: Vec<Span>,
}

impl FieldLayout {
    fn new(
        op: &'static str,
        x: &Tensor,
        irreps: &Irreps,
        weight: &Tensor,
        bias: &Tensor,
    ) -> Result<Self> {
        let layout = Self::of_volume(op, Volume::of(op, x)?, irreps)?;
        let invariant = layout.fields.iter().filter(|f| f.invariant).count();
        let names = if op == AFFINE { ["scale", "shift"] } else { ["weight", "bias"] };
        expect_argument(op, names[0], weight, &[layout.fields.len()], x)?;
        expect_argument(op, names[1], bias, &[invariant], x)?;
        Ok(layout)
    }

    fn of_volume(op: &'static str, volume: Volume, irreps: &Irreps) -> Result<Self> {
        expect_type(op, &volume, irreps)?;
        Ok(Self { volume, fields: spans(irreps) })
    }

    /// The fields of all items as those of one.
    fn of_items(self) -> Self {
        let Volume { batch, channels, .. } = self.volume;
        let fields = &self.fields;
        let of_item = |item: usize| {
            fields.iter().map(move |f| Span { offset: f.offset + item * channels, ..*f })
        };
        let fields = (0..batch).flat_map(of_item).collect();
        Self { volume: Volume { batch: 1, channels: batch * channels, ..self.volume }, fields }
    }

    /// The values of the invariant fields among those of all fields.
    fn of_invariant<T: Copy>(&self, values: &[T]) -> Vec<T> {
        let pairs = self.fields.iter().zip(values).filter(|(field, _)| field.invariant);
        pairs.map(|(_, &value)| value).collect()
    }

    /// The channels of one field in all samples.
    fn channels<'a, T>(
        &'a self,
        x: &'a [T],
        field: &'a Span,
    ) -> impl Iterator<Item = &'a [T]> + 'a {
        let voxels = self.volume.voxels();
        (0..self.volume.batch).flat_map(move |n| {
            let start = (n * self.volume.channels + field.offset) * voxels;
            x[start..start + field.dim * voxels].chunks_exact(voxels)
        })
    }

    /// Number of values of one field in a batch of so many items.
    fn count(&self, field: &Span, batch: usize) -> f64 {
        (batch * field.dim * self.volume.voxels()) as f64
    }

    /// Repeats the value of each field for its channels.
    fn per_channel<T: Copy>(&self, values: impl IntoIterator<Item = T>) -> Vec<T> {
        let pairs = self.fields.iter().zip(values);
        pairs.flat_map(|(field, value)| std::iter::repeat_n(value, field.dim)).collect()
    }
}

#[cfg(any(test, feature = "cuda"))]
impl FieldLayout {
    /// Index of each field among the invariant ones.
    fn places(&self, routine: &mut Routine) -> Slot {
        let mut next = 0;
        routine.places(self.fields.iter().map(|f| {
            next += usize::from(f.invariant);
            f.invariant.then(|| next - 1)
        }))
    }

    /// The sums of kernel `field_sums` of this kind, and their totals.
    fn add_sums(
        &self,
        routine: &mut Routine,
        kind: usize,
        [x, grad, out]: [Slot; 3],
        mean: &[f64],
    ) {
        let (count, voxels) = (self.fields.len(), self.volume.voxels());
        let Volume { batch, channels, .. } = self.volume;
        let (spans, places) = (routine.spans(&self.fields), self.places(routine));
        let (mean, values) = (routine.doubles(mean.to_vec()), batch * voxels);
        let sums = |sums| args![x, grad, mean, spans, sums, kind, batch, channels, voxels];
        let totals =
            |(sums, shares)| args![sums, spans, places, out, kind, count, shares, values as i64];
        routine.sum_over_fields((count, values), ("field_sums", &sums), ("field_totals", &totals));
    }
}

/// Input to the means of all fields (0 for those that are not scalars), then the variances.
struct Statistics(FieldLayout);

impl Op<1> for Statistics {
    const NAME: &'static str = "field statistics";
    const WIDE: bool = true;

    fn shape(&self, _: [&Shape; 1]) -> Shape {
        (2 * self.0.fields.len()).into()
    }

    fn cpu<T: Lanes>(&self, [x]: [&[T]; 1]) -> Vec<T> {
        let of_field = |field: &Span| {
            let count = self.0.count(field, self.0.volume.batch);
            let mean = if field.invariant {
                self.0.channels(x, field).map(|x| sum(x, x, |x, _| x)).sum::<f64>() / count
            } else {
                0.0
            };
            let centre = T::from_f64(mean);
            let square = |x: T, _| (x - centre) * (x - centre);
            let var = self.0.channels(x, field).map(|x| sum(x, x, square)).sum::<f64>() / count;
            (centre, T::from_f64(var))
        };
        let (mut mean, var): (Vec<T>, Vec<T>) = self.0.fields.par_iter().map(of_field).unzip();
        mean.extend(var);
        mean
    }

    #[cfg(any(test, feature = "cuda"))]
    fn gpu(&self, routine: &mut Routine, [x]: [Slot; 1], out: Slot) -> Result<()> {
        self.0.add_sums(routine, 0, [x, x, out], &vec![0.0; self.0.fields.len()]);
        Ok(())
    }
}

/// x, weight and bias to `weight (x - mean) / std + bias`.
#[derive(Clone)]
pub(crate) struct Normalize {
    layout: FieldLayout,
    /// For each field.
    mean: Vec<f64>,
    /// For each field.
    std: Vec<f64>,
    /// Whether mean and std are those of x, and so depend on it.
    from_batch: bool,
    /// Items of the batch, those of other ranks too.
    batch: usize,
    /// Where other ranks have the rest of the batch.
    rank: Rank,
}

/// The means of all fields of `x`, 0 of those that are not scalars, then their variances.
pub(crate) fn statistics<T: Lanes>(volume: Volume, irreps: &Irreps, x: &[T]) -> Result<Vec<T>> {
    Ok(Statistics(FieldLayout::of_volume(OP, volume, irreps)?).cpu([x]))
}

impl Normalize {
    /// By the statistics of a batch, which may be a part of that of other ranks, and the variances of all fields.
    fn of_batch(layout: FieldLayout, x: &Tensor, eps: f64, rank: Rank) -> Result<(Self, Vec<f64>)> {
        let stats = to_f64(&apply_constant(Statistics(layout.clone()), [x])?)?;
        let (mut mean, batch) = of_all_ranks(&rank, layout.volume.batch, stats)?;
        let var = mean.split_off(layout.fields.len());
        let std = var.iter().map(|v| (v + eps).sqrt()).collect();
        Ok((Self { layout, mean, std, from_batch: true, batch, rank }, var))
    }

    /// By means and variances of all fields; `from_batch` says whether they are those of the input.
    pub(crate) fn by<T: Lanes>(
        volume: Volume,
        irreps: &Irreps,
        [mean, var]: [&[T]; 2],
        eps: f64,
        from_batch: bool,
    ) -> Result<Self> {
        let layout = FieldLayout::of_volume(OP, volume, irreps)?;
        let mean = mean.iter().map(|m| m.to_f64()).collect();
        let std = var.iter().map(|v| (v.to_f64() + eps).sqrt()).collect();
        Ok(Self { layout, mean, std, from_batch, batch: volume.batch, rank: Rank::ALONE })
    }

    /// The gradients of x, and of the weights and biases one after the other, on the CPU.
    pub(crate) fn gradients<T: Lanes>(&self, x: &[T], weight: &[T], grad: &[T]) -> [Vec<T>; 2] {
        let (layout, mean) = (self.layout.clone(), self.mean.clone());
        let sums = GradientSums { layout, mean }.cpu([x, grad]);
        let sums: Vec<f64> = sums.iter().map(|s| s.to_f64()).collect();
        let (moments, totals) = sums.split_at(self.num_fields());
        let weight: Vec<f64> = weight.iter().map(|w| w.to_f64()).collect();
        let coefficients = self.input_coefficients(&weight, moments, totals);
        let coefficients = self.layout.per_channel(coefficients);
        let combine = Combine { voxels: self.layout.volume.voxels(), coefficients };
        let of_weight = moments.iter().zip(&self.std).map(|(m, s)| m / s);
        let small = of_weight.chain(totals.iter().copied()).map(T::from_f64).collect();
        [combine.cpu([x, grad]), small]
    }

    pub(crate) fn num_invariant(&self) -> usize {
        self.layout.fields.iter().filter(|field| field.invariant).count()
    }

    pub(crate) fn num_fields(&self) -> usize {
        self.layout.fields.len()
    }

    /// What is done to each channel.
    pub(crate) fn affine<T: Float>(&self, weight: &[T], bias: &[T]) -> Vec<Affine<T>> {
        let mut rest = bias.iter();
        let numbers = weight.iter().zip(&self.std).zip(&self.mean);
        let fields =
            self.layout.fields.iter().zip(numbers).map(|(field, ((weight, std), mean))| {
                let bias = if field.invariant { rest.next().copied() } else { None };
                Affine {
                    mean: T::from_f64(*mean),
                    factor: T::from_f64(weight.to_f64() / std),
                    bias: bias.unwrap_or(T::zero()),
                }
            });
        self.layout.per_channel(fields)
    }

    /// The coefficients (a, b, c) for each field of the gradient of x, `a grad + b x + c`, from the
    /// sums of [`GradientSums`].
    fn input_coefficients(&self, weight: &[f64], moments: &[f64], totals: &[f64]) -> Vec<[f64; 3]> {
        let mut totals = totals.iter();
        let fields = self.layout.fields.iter().enumerate();
        let of_field = |(i, field): (usize, &Span)| {
            let total = if field.invariant { totals.next().copied() } else { None };
            let a = weight[i] / self.std[i];
            if !self.from_batch {
                return [a, 0.0, 0.0];
            }
            let count = self.layout.count(field, self.batch);
            let b = -a * moments[i] / (count * self.std[i] * self.std[i]);
            [a, b, -a * total.unwrap_or(0.0) / count - b * self.mean[i]]
        };
        fields.map(of_field).collect()
    }
}

impl Op<3> for Normalize {
    const NAME: &'static str = OP;

    fn cpu<T: Lanes>(&self, [x, weight, bias]: [&[T]; 3]) -> Vec<T> {
        let affine = self.affine(weight, bias);
        let voxels = self.layout.volume.voxels();
        let mut out = vec![T::zero(); x.len()];
        let rows = out.par_chunks_mut(voxels).zip(x.par_chunks(voxels)).enumerate();
        rows.for_each(|(row, (out, x))| {
            let affine = affine[row % affine.len()];
            out.iter_mut().zip(x).for_each(|(out, &x)| *out = affine.of(x));
        });
        out
    }

    #[cfg(any(test, feature = "cuda"))]
    fn gpu(&self, routine: &mut Routine, [x, weight, bias]: [Slot; 3], out: Slot) -> Result<()> {
        let table = self.add_table(routine, weight, (bias, 0));
        let (voxels, rows) = (self.layout.volume.voxels(), self.layout.volume.rows());
        let args = args![x, table, out, self.layout.volume.channels, voxels, rows as i64];
        routine.call(fields, "apply_affine", args).over_rows(voxels, rows);
        Ok(())
    }

    fn backward(
        &self,
        [x, weight, bias]: [&Tensor; 3],
        grad: &Tensor,
    ) -> Result<[Option<Tensor>; 3]> {
        let fields = self.layout.fields.len();
        let sums = if weight.track_op() || bias.track_op() || self.from_batch {
            let op = GradientSums { layout: self.layout.clone(), mean: self.mean.clone() };
            to_f64(&apply_constant(op, [x, grad])?)?
        } else {
            vec![0.0; fields + bias.elem_count()]
        };
        let of_all = self.rank.sum(&sums).map_err(|e| failed(&e))?;
        let (moments, totals) = sums.split_at(fields);
        let of_x = if_tracked(x, || {
            let (moments, totals) = of_all.split_at(fields);
            let coefficients = self.input_coefficients(&to_f64(weight)?, moments, totals);
            let coefficients = self.layout.per_channel(coefficients);
            apply_constant(Combine { voxels: self.layout.volume.voxels(), coefficients }, [x, grad])
        })?;
        let of_weight = if_tracked(weight, || {
            let values = moments.iter().zip(&self.std).map(|(m, s)| m / s).collect();
            small_tensor(values, x.dtype(), x)
        })?;
        let of_bias = if_tracked(bias, || small_tensor(totals.to_vec(), x.dtype(), x))?;
        Ok([of_x, of_weight, of_bias])
    }
}

#[cfg(any(test, feature = "cuda"))]
impl Normalize {
    /// Adds the table of mean, factor and bias of each channel to a routine, from the weights, and the biases
    /// with the index of the first.
    pub(crate) fn add_table(
        &self,
        routine: &mut Routine,
        weight: Slot,
        (bias, first): (Slot, usize),
    ) -> Slot {
        let channels = self.layout.volume.channels;
        let field_of = routine.ints(self.layout.per_channel(0..self.num_fields()));
        let places = self.layout.places(routine);
        let mean = routine.doubles(self.mean.clone());
        let std = routine.doubles(self.std.clone());
        let table = routine.scratch(3 * channels);
        let args = args![weight, bias, mean, std, field_of, places, table, channels, first];
        routine.call(fields, "norm_table", args).over(channels);
        table
    }
}

/// x and output gradient g to the sums of (x - mean) g for each field, then of g for each scalar
/// field.
struct GradientSums {
    layout: FieldLayout,
    mean: Vec<f64>,
}

impl Op<2> for GradientSums {
    const NAME: &'static str = "field gradient sums";
    const WIDE: bool = true;

    fn shape(&self, _: [&Shape; 2]) -> Shape {
        let fields = &self.layout.fields;
        (fields.len() + fields.iter().filter(|f| f.invariant).count()).into()
    }

    fn cpu<T: Lanes>(&self, [x, grad]: [&[T]; 2]) -> Vec<T> {
        let layout = &self.layout;
        let of_field = |(field, &mean): (&Span, &f64)| {
            let mean = T::from_f64(mean);
            let pairs = layout.channels(x, field).zip(layout.channels(grad, field));
            let moment: f64 = pairs.map(|(x, g)| sum(x, g, |x, g| (x - mean) * g)).sum();
            let total: f64 = if field.invariant {
                layout.channels(grad, field).map(|g| sum(g, g, |g, _| g)).sum()
            } else {
                0.0
            };
            (T::from_f64(moment), T::from_f64(total))
        };
        let fields = layout.fields.par_iter().zip(&self.mean);
        let (mut moments, totals): (Vec<T>, Vec<T>) = fields.map(of_field).unzip();
        moments.extend(layout.of_invariant(&totals));
        moments
    }

    #[cfg(any(test, feature = "cuda"))]
    fn gpu(&self, routine: &mut Routine, [x, grad]: [Slot; 2], out: Slot) -> Result<()> {
        self.layout.add_sums(routine, 1, [x, grad, out], &self.mean);
        Ok(())
    }
}

/// x and g to `a g + b x + c`, with (a, b, c) for each channel.
struct Combine {
    voxels: usize,
    coefficients: Vec<[f64; 3]>,
}

impl Op<2> for Combine {
    const NAME: &'static str = "field batch norm input gradient";

    fn cpu<T: Lanes>(&self, [x, grad]: [&[T]; 2]) -> Vec<T> {
        let mut out = vec![T::zero(); x.len()];
        let rows = out.par_chunks_mut(self.voxels).zip(x.par_chunks(self.voxels));
        rows.zip(grad.par_chunks(self.voxels)).enumerate().for_each(|(row, ((out, x), grad))| {
            let [a, b, c] = self.coefficients[row % self.coefficients.len()].map(T::from_f64);
            let pairs = x.iter().zip(grad);
            out.iter_mut().zip(pairs).for_each(|(out, (&x, &g))| *out = a * g + b * x + c);
        });
        out
    }

    #[cfg(any(test, feature = "cuda"))]
    fn gpu(&self, routine: &mut Routine, [x, grad]: [Slot; 2], out: Slot) -> Result<()> {
        let table = routine.reals(self.coefficients.iter().flatten().copied().collect());
        let (channels, rows) = (self.coefficients.len(), routine.len(out) / self.voxels);
        let args = args![x, grad, table, out, channels, self.voxels, rows as i64];
        routine.call(fields, "combine", args).over_rows(self.voxels, rows);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check, normal};

    #[test]
    fn kernels_agree_with_the_cpu() {
        let irreps: Irreps = "2x0+2x1+1x2".parse().unwrap();
        let (x, grad) = (normal(1, (2, 13, 5, 14, 15)), normal(2, (2, 13, 5, 14, 15)));
        let (weight, bias) = (normal(3, 5), normal(4, 2));
        let (op, ..) = batch_normalize(&x, &irreps, &weight, &bias, 1e-5).unwrap();
        check(&Statistics(op.layout.clone()), [&x]);
        check(&op, [&x, &weight, &bias]);
        let sums = GradientSums { layout: op.layout.clone(), mean: op.mean.clone() };
        check(&sums, [&x, &grad]);
        let coefficients = op.layout.per_channel((0..5).map(|i| [i as f64, 0.5, -1.0]));
        check(&Combine { voxels: op.layout.volume.voxels(), coefficients }, [&x, &grad]);
    }
}
