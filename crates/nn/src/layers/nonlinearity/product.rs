use std::collections::BTreeSet;

use candle_core::{DType, Tensor};
use steer3d_ops::{ProductTerm, channel_product};
use steer3d_so3::{Block, Irrep, Irreps, clebsch_gordan};

use crate::error::fault;
use crate::field::widened;
use crate::layers::{ConvConfig, Convolution, FieldLayer, SteerableConv3d};
use crate::onnx::{OnnxField, OnnxGraph};
use crate::{Field, NnError, Pass, Scope};

/// Tensor-product nonlinearity (Kondor, Lin and Trivedi 2018, *Clebsch-Gordan Nets*,
/// <https://arxiv.org/abs/1806.09231>): every field becomes itself plus a learned combination of products
/// of two fields, `x + W (x ⊗ x) / √(1 + |x|²)` with the mean square |x|² over the channels of a voxel, so
/// that it grows no faster than the field.
///
/// For every irrep of the type, all pairs of blocks whose product contains it are coupled by their
/// Clebsch-Gordan tensor, copy by copy (copy u with copy u, and where that vanishes, as in v × v, with copy
/// u + 1); an intertwiner takes the products to the type of the field.
#[derive(Debug)]
pub struct TensorProductNonlinearity {
    products: Products,
    mix: Box<dyn Convolution>,
}

/// Products of the fields of a type.
#[derive(Debug, Clone)]
struct Products {
    irreps_in: Irreps,
    irreps_out: Irreps,
    terms: Vec<ProductTerm>,
}

impl TensorProductNonlinearity {
    /// A nonlinearity on fields of type `irreps`.
    ///
    /// # Errors
    /// [`NnError::Config`] when no product of two fields is of a type in `irreps`.
    pub fn new<'a>(params: impl Into<Scope<'a>>, irreps: &Irreps) -> Result<Self, NnError> {
        let mut params = params.into();
        let products = Products::new(&mut params, irreps)?;
        let config = ConvConfig::pointwise(&products.irreps_out, irreps);
        let mix = Box::new(SteerableConv3d::new(params.pp("mix"), config)?);
        Ok(Self { products, mix })
    }
}

impl FieldLayer for TensorProductNonlinearity {
    fn irreps(&self) -> [&Irreps; 2] {
        [&self.products.irreps_in; 2]
    }

    fn forward_t(&self, field: &Field, pass: Pass) -> Result<Field, NnError> {
        field.plus(&self.mix.forward_t(&self.products.of(field)?, pass)?)
    }

    fn folded(&self) -> Result<Box<dyn FieldLayer>, NnError> {
        let mix = Box::new(self.mix.frozen()?);
        Ok(Box::new(Self { products: self.products.clone(), mix }))
    }

    /// With the couplings and the intertwiner in one matrix.
    fn export(&self, field: &OnnxField, graph: &mut OnnxGraph) -> Result<OnnxField, NnError> {
        let (x, irreps) = (&field.value, &self.products.irreps_in);
        let (pairs, couplings) = self.products.pairs(graph)?;
        let mix = self.mix.dense_filter()?.flatten_from(1)?;
        let mix = mix.to_dtype(DType::F32)?.matmul(&couplings)?;
        let left = graph.channels(x, pairs.iter().map(|p| p[0]));
        let right = graph.channels(x, pairs.iter().map(|p| p[1]));
        let products = graph.node("Mul", &[&left, &right], &[]);
        let mixed = graph.mixed(&products, "mix.weight", &mix)?;
        let squares = graph.node("Mul", &[x, x], &[]);
        let channels = irreps.dim();
        let mean = (0..channels).map(|c| (0, c, 1.0 / channels as f64));
        let mean = graph.matrix([1, channels], mean)?;
        let mean = graph.mixed(&squares, "mean", &mean)?;
        let one = graph.number(1.0);
        let norm = graph.node("Add", &[&mean, &one], &[]);
        let norm = graph.node("Sqrt", &[&norm], &[]);
        let mixed = graph.node("Div", &[&mixed, &norm], &[]);
        Ok(OnnxField { value: graph.node("Add", &[x, &mixed], &[]), kind: field.kind.clone() })
    }
}

impl Products {
    fn new(params: &mut Scope<'_>, irreps: &Irreps) -> Result<Self, NnError> {
        let (mut blocks, mut terms, mut channels) = (vec![], vec![], 0);
        for output in irreps.blocks() {
            for (i, left) in irreps.blocks().enumerate() {
                for (j, right) in irreps.blocks().enumerate().skip(i) {
                    let copies = copies(output, left, right, i == j);
                    if copies > 0 {
                        let factors = (left.irrep.dim() * right.irrep.dim()) as f64;
                        params.reserve((size_of::<ProductTerm>() * copies) as f64 * factors)?;
                        couple(output.irrep, left, right, i == j, copies, channels, &mut terms);
                        blocks.push((copies, output.irrep));
                        channels += copies * output.irrep.dim();
                    }
                }
            }
        }
        if blocks.is_empty() {
            let problem =
                format!("no product of two fields of {irreps} is of a type in it; add scalars");
            return fault("nonlinearity", problem);
        }
        Ok(Self { irreps_in: irreps.clone(), irreps_out: Irreps::new(blocks)?, terms })
    }

    /// The pairs of channels that are multiplied, and what each adds to each product.
    fn pairs(&self, graph: &mut OnnxGraph) -> Result<(Vec<[usize; 2]>, Tensor), NnError> {
        let pair = |t: &ProductTerm| [t.left.min(t.right), t.left.max(t.right)];
        let pairs: BTreeSet<_> = self.terms.iter().map(pair).collect();
        let pairs: Vec<_> = pairs.into_iter().collect();
        let shape = [self.irreps_out.dim(), pairs.len()];
        let column = |t: &ProductTerm| pairs.partition_point(|p| *p < pair(t));
        let entries = self.terms.iter().map(|t| (t.output, column(t), t.factor));
        let couplings = graph.matrix(shape, entries)?;
        Ok((pairs, couplings))
    }

    fn of(&self, field: &Field) -> Result<Field, NnError> {
        field.expect("tensor-product nonlinearity", &self.irreps_in)?;
        let (x, channels) = (field.values(), self.irreps_out.dim());
        let products = channel_product(x, x, channels, &self.terms)?;
        let norm = (widened(x)?.sqr()?.mean_keepdim(1)? + 1.0)?.sqrt()?.to_dtype(x.dtype())?;
        Field::new(self.irreps_out.clone(), products.broadcast_div(&norm)?)
    }
}

/// Whether the product of a field with itself vanishes in `output`.
fn antisymmetric(output: Irrep, factor: Irrep) -> bool {
    (2 * factor.l + output.l) % 2 == 1
}

/// How many products of copies of two blocks go to `output`.
fn copies(output: Block, left: Block, right: Block, same: bool) -> usize {
    let products = left.irrep.product(right.irrep);
    if !products.is_some_and(|mut p| p.any(|irrep| irrep == output.irrep)) {
        return 0;
    }
    if same && antisymmetric(output.irrep, left.irrep) && left.mul == 1 {
        return 0;
    }
    output.mul.min(left.mul.max(right.mul))
}

/// The terms of `copies` products whose channels start at `first`.
fn couple(
    output: Irrep,
    left: Block,
    right: Block,
    same: bool,
    copies: usize,
    first: usize,
    terms: &mut Vec<ProductTerm>,
) {
    let tensor = clebsch_gordan(left.irrep.l, right.irrep.l, output.l);
    // Components of unit variance have products of unit variance.
    let scale = (output.dim() as f64).sqrt();
    let shift = usize::from(same && antisymmetric(output, left.irrep));
    for u in 0..copies {
        let start = |block: Block, copy: usize| block.offset + copy % block.mul * block.irrep.dim();
        for c in tensor.nonzeros() {
            terms.push(ProductTerm {
                output: first + u * output.dim() + c.k,
                left: start(left, u) + c.i,
                right: start(right, u + shift) + c.j,
                factor: scale * c.value,
            });
        }
    }
}
