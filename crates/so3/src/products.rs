//! Full tensor products of irreps.

use std::sync::Arc;

use crate::{Block, CgTensor, Irrep, Irreps, IrrepsError, clebsch_gordan};

impl Irrep {
    /// The irreps in the product of two irreps: every l from |l1 - l2| to l1 + l2 once, with the
    /// product of the parities; `None` if only one of them has a parity.
    pub fn product(self, other: Self) -> Option<impl Iterator<Item = Self>> {
        let parity = match (self.parity, other.parity) {
            (None, None) => None,
            (Some(a), Some(b)) => Some(a.product(b)),
            _ => return None,
        };
        let degrees = self.l.abs_diff(other.l)..=self.l + other.l;
        Some(degrees.map(move |l| Self { l, parity }))
    }
}

/// One coupling of two blocks to an irrep.
#[derive(Clone, Debug)]
pub struct ProductPath {
    /// Block of the left factor.
    pub left: Block,
    /// Block of the right factor.
    pub right: Block,
    /// Where the path's result goes; its copy u mul_right + v couples copy u of the left block
    /// with copy v of the right one.
    pub output: Block,
    /// Clebsch-Gordan tensor of the three degrees.
    pub tensor: Arc<CgTensor>,
}

/// The tensor product of two representations, decomposed into irreps.
///
/// With the factor √(2l+1) on each Clebsch-Gordan tensor (e3nn's component normalisation), the map
/// from x ⊗ y to the output is an orthogonal matrix.
///
/// ```
/// use steer3d_so3::{Irreps, TensorProduct};
/// let vector: Irreps = "1x1o".parse()?;
/// let product = TensorProduct::new(&vector, &vector)?;
/// assert_eq!(product.output().to_string(), "1x0e+1x1e+1x2e");
/// # Ok::<(), steer3d_so3::IrrepsError>(())
/// ```
#[derive(Clone, Debug)]
pub struct TensorProduct {
    left: Irreps,
    right: Irreps,
    output: Irreps,
    paths: Vec<ProductPath>,
}

impl TensorProduct {
    /// Makes the product of two representations with all paths from `left` ⊗ `right`, sorted by output irrep.
    ///
    /// # Errors
    /// If only one factor has parities, or the product exceeds the limits of [`Irreps`].
    pub fn new(left: &Irreps, right: &Irreps) -> Result<Self, IrrepsError> {
        let mut couplings = Vec::new();
        for a in left.blocks() {
            for b in right.blocks() {
                let irreps = a.irrep.product(b.irrep).ok_or(IrrepsError::MixedParity)?;
                couplings.extend(irreps.map(|irrep| (a, b, irrep)));
            }
        }
        couplings.sort_by_key(|&(_, _, irrep)| irrep);
        let unmerged = Irreps::new(couplings.iter().map(|(a, b, irrep)| (a.mul * b.mul, *irrep)))?;
        let paths = couplings
            .into_iter()
            .zip(unmerged.blocks())
            .map(|((left, right, irrep), output)| {
                let tensor = clebsch_gordan(left.irrep.l, right.irrep.l, irrep.l);
                ProductPath { left, right, output, tensor }
            })
            .collect();
        let output = unmerged.sorted()?;
        Ok(Self { left: left.clone(), right: right.clone(), output, paths })
    }

    /// The product's irreps, sorted and merged; dimension left.dim() right.dim().
    pub fn output(&self) -> &Irreps {
        &self.output
    }

    /// Returns the couplings of pairs of blocks, in the order of their output channels.
    pub fn paths(&self) -> &[ProductPath] {
        &self.paths
    }

    /// Computes x ⊗ y of one value per channel of the two factors, in the channel layout of
    /// [`output`](Self::output).
    ///
    /// # Panics
    /// If the lengths of `x` and `y` are not those of the two factors.
    pub fn apply(&self, x: &[f64], y: &[f64]) -> Vec<f64> {
        assert_eq!(x.len(), self.left.dim(), "one value per channel of the left factor");
        assert_eq!(y.len(), self.right.dim(), "one value per channel of the right factor");
        let mut out = vec![0.0; self.output.dim()];
        for path in &self.paths {
            let [n1, n2, n3] = path.tensor.shape();
            let scale = (n3 as f64).sqrt();
            for u in 0..path.left.mul {
                for v in 0..path.right.mul {
                    let x = &x[path.left.offset + u * n1..][..n1];
                    let y = &y[path.right.offset + v * n2..][..n2];
                    let out = &mut out[path.output.offset + (u * path.right.mul + v) * n3..][..n3];
                    for c in path.tensor.nonzeros() {
                        out[c.k] += scale * c.value * x[c.i] * y[c.j];
                    }
                }
            }
        }
        out
    }
}
