//! The separable plan: a steerable convolution of Gaussian jets as 1-D filters, a constant sparse
//! map and one learned matrix for each pair of blocks.
//!
//! With the jets g\[i, a, b, c\] = (D^a along x, D^b along y, D^c along z) of input component i, a path
//! p = (J, n) from block i to block o has for each copy u of the input the features
//!
//! f\[p, u, o\] = Σ_{i, M, jet} √(2l_o+1) C\[o, i, M\] coefficient(J, n, M, jet) g\[u i, jet\]
//!
//! and the convolution is out\[v, o\] = Σ_{p, u} w\[v, u, p\] f\[p, u, o\]: only the last sum is learned.

use crate::basis::largest_degree;
use crate::group::tensors;
use crate::jets::{JetHarmonic, JetPlan};
use crate::{Family, KernelBasis, KernelError, Path};
use steer3d_so3::Irreps;
use steer3d_so3::cg::CgEntry;

/// A steerable convolution without its dense filter.
#[derive(Debug, Clone, PartialEq)]
pub struct SeparablePlan {
    /// Taps per axis, k.
    pub size: usize,
    /// 1-D filters for x, y, z, each \[N+1, k\]; filter a has parity (−1)^a.
    pub taps: [Vec<f64>; 3],
    /// Derivative orders (a, b, c) along x, y, z.
    pub jets: Vec<[usize; 3]>,
    /// Blocks of the input field.
    pub inputs: Vec<FieldBlock>,
    /// Blocks of the output field.
    pub outputs: Vec<FieldBlock>,
    /// The pairs of blocks between which there is a kernel, by input and then output block.
    pub couplings: Vec<Coupling>,
    /// Number of free weights.
    pub num_weights: usize,
}

/// One block of a field: channel `offset + u dim + m` is component m of copy u.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FieldBlock {
    /// First channel.
    pub offset: usize,
    /// Copies.
    pub mul: usize,
    /// 2l + 1.
    pub dim: usize,
}

/// How one block of the input feeds one block of the output.
#[derive(Debug, Clone, PartialEq)]
pub struct Coupling {
    /// Index of the input block.
    pub input: usize,
    /// Index of the output block.
    pub output: usize,
    /// Number of paths.
    pub paths: usize,
    /// Where the weights start; they are laid out \[mul_out, mul_in, path\].
    pub weight_offset: usize,
    /// The features of one copy as sums over its jets; row `path · dim_out + o`.
    pub rows: Vec<Vec<JetTerm>>,
}

/// One term of a feature.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct JetTerm {
    /// Component of the input block.
    pub component: usize,
    /// Index into [`SeparablePlan::jets`].
    pub jet: usize,
    /// Coefficient.
    pub value: f64,
}

impl SeparablePlan {
    /// The separable form of the kernels of `basis`, whose weights it shares; `None` if `family`, the
    /// family of the basis, is not separable.
    ///
    /// # Errors
    /// If the family does not exist on the taps of the basis.
    pub fn new(basis: &KernelBasis, family: &Family) -> Result<Option<Self>, KernelError> {
        let Family::GaussianJets { order, sigma } = *family else { return Ok(None) };
        let (irreps_in, irreps_out) = (basis.irreps_in(), basis.irreps_out());
        let group = basis.group();
        let jmax = largest_degree(group, irreps_in, irreps_out, basis.grid());
        let jets = JetPlan::new(basis.grid(), order, sigma, jmax)?;
        let blocks = |irreps: &Irreps| {
            irreps
                .blocks()
                .map(|b| FieldBlock { offset: b.offset, mul: b.mul, dim: b.irrep.dim() })
                .collect::<Vec<_>>()
        };
        let couplings = basis.pairs().iter().map(|pair| {
            let irrep = |irreps: &Irreps, block| irreps.blocks().nth(block).map(|b| b.irrep);
            let ends = (irrep(irreps_out, pair.out_block), irrep(irreps_in, pair.in_block));
            let of_path = |path: &Path| {
                let (Some(out), Some(input)) = ends else { return vec![] };
                let same = |h: &&JetHarmonic| (h.j, h.radial) == (path.j, path.radial);
                let Some(harmonic) = jets.harmonics.iter().find(same) else { return vec![] };
                couple(pair.dim_out, &tensors(group, out, input, path.j)[path.tensor], harmonic)
            };
            let rows = pair.paths.iter().flat_map(of_path).collect();
            Coupling {
                input: pair.in_block,
                output: pair.out_block,
                paths: pair.paths.len(),
                weight_offset: pair.weight_offset,
                rows,
            }
        });
        let mut couplings: Vec<Coupling> = couplings.collect();
        couplings.sort_by_key(|c| (c.input, c.output));
        Ok(Some(Self {
            size: jets.size,
            taps: jets.taps,
            jets: jets.jets,
            inputs: blocks(irreps_in),
            outputs: blocks(irreps_out),
            couplings,
            num_weights: basis.num_weights(),
        }))
    }

    /// The plan of the adjoint map, from the output to the input field, with the same weights, each
    /// used for the copies exchanged: κ'(x) = κ(−x)ᵀ, and a jet (a, b, c) has parity (−1)^(a+b+c).
    #[must_use]
    pub fn adjoint(&self) -> Self {
        let mut couplings: Vec<Coupling> = self.couplings.iter().map(|c| self.reverse(c)).collect();
        couplings.sort_by_key(|c| (c.input, c.output));
        Self {
            inputs: self.outputs.clone(),
            outputs: self.inputs.clone(),
            couplings,
            ..self.clone()
        }
    }

    fn reverse(&self, coupling: &Coupling) -> Coupling {
        let (dim_in, dim_out) =
            (self.inputs[coupling.input].dim, self.outputs[coupling.output].dim);
        let mut rows = vec![vec![]; coupling.paths * dim_in];
        for (row, terms) in coupling.rows.iter().enumerate() {
            let (path, component) = (row / dim_out, row % dim_out);
            for term in terms {
                let odd = self.jets[term.jet].iter().sum::<usize>() % 2 == 1;
                let value = if odd { -term.value } else { term.value };
                rows[path * dim_in + term.component].push(JetTerm { component, value, ..*term });
            }
        }
        Coupling { input: coupling.output, output: coupling.input, rows, ..coupling.clone() }
    }

    /// Channels of the input field.
    pub fn channels_in(&self) -> usize {
        self.inputs.iter().map(|b| b.mul * b.dim).sum()
    }

    /// Channels of the output field.
    pub fn channels_out(&self) -> usize {
        self.outputs.iter().map(|b| b.mul * b.dim).sum()
    }

    /// Highest derivative order N.
    pub fn order(&self) -> usize {
        self.taps[0].len() / self.size - 1
    }

    /// Multiplications and additions of the three steps for each voxel, on a volume so large that
    /// borders do not count.
    pub fn cost(&self) -> SeparableCost {
        let (n, half) = (self.order(), self.size / 2);
        let one_dimensional = (n + 1) + (n + 1) * (n + 2) / 2 + self.jets.len();
        let terms = |c: &Coupling| c.rows.iter().map(Vec::len).sum::<usize>();
        let couple = self.couplings.iter().map(|c| self.inputs[c.input].mul * terms(c)).sum();
        let mix = self
            .couplings
            .iter()
            .map(|c| {
                let (i, o) = (self.inputs[c.input], self.outputs[c.output]);
                i.mul * c.paths * o.mul * o.dim
            })
            .sum();
        SeparableCost { jets: self.channels_in() * one_dimensional * (half + 1), couple, mix }
    }
}

/// Multiply-adds for each output voxel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SeparableCost {
    /// 1-D filters, with the two halves of a filter folded.
    pub jets: usize,
    /// The sparse map from jets to features.
    pub couple: usize,
    /// The learned matrices.
    pub mix: usize,
}

impl SeparableCost {
    /// All three steps.
    pub fn total(self) -> usize {
        self.jets + self.couple + self.mix
    }
}

/// One row of terms for each component of the output.
fn couple(dim_out: usize, tensor: &[CgEntry], harmonic: &JetHarmonic) -> Vec<Vec<JetTerm>> {
    let scale = (dim_out as f64).sqrt();
    let row = |o: usize| {
        let mut sums = std::collections::BTreeMap::new();
        for c in tensor.iter().filter(|c| c.i == o) {
            for e in harmonic.entries.iter().filter(|e| e.component == c.k) {
                *sums.entry((c.j, e.jet)).or_insert(0.0) += scale * c.value * e.value;
            }
        }
        let terms =
            sums.into_iter().map(|((component, jet), value)| JetTerm { component, jet, value });
        // What cancels leaves rounding.
        terms.filter(|t| t.value.abs() > 1e-14).collect()
    };
    (0..dim_out).map(row).collect()
}
