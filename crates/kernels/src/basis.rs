//! Kernel bases between fields of irreps: sampling, expansion to dense filters and its adjoint,
//! initial weights.

use steer3d_so3::cg::CgEntry;
use steer3d_so3::{Irreps, L_MAX, Stream};

use crate::group::{count, tensors};
use crate::{Family, HarmonicFamily, HarmonicFunction, KernelError, KernelGroup, TapGrid};

/// All steerable kernels of one family between two fields, sampled on k³ taps.
///
/// ```
/// use steer3d_kernels::{Family, KernelBasis};
/// use steer3d_so3::{Irreps, Stream};
/// let input: Irreps = "2x0+1x1".parse()?;
/// let output: Irreps = "4x0+1x2".parse()?;
/// let basis = KernelBasis::new(&input, &output, 5, &Family::jets(3), [1.0; 3])?;
/// let weights = basis.initial_weights(&mut Stream::new(0, "init", &[]));
/// let filter = basis.expand(&weights)?;
/// assert_eq!(filter.len(), 9 * 5 * 125);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct KernelBasis {
    irreps_in: Irreps,
    irreps_out: Irreps,
    grid: TapGrid,
    group: KernelGroup,
    pairs: Vec<BlockPair>,
    num_weights: usize,
}

/// The kernels from one block of the input field to one block of the output field.
#[derive(Debug, Clone, PartialEq)]
pub struct BlockPair {
    /// Index of the block in the output irreps.
    pub out_block: usize,
    /// Index of the block in the input irreps.
    pub in_block: usize,
    /// Multiplicity of the output block.
    pub mul_out: usize,
    /// Multiplicity of the input block.
    pub mul_in: usize,
    /// 2l_o + 1.
    pub dim_out: usize,
    /// 2l_i + 1.
    pub dim_in: usize,
    /// First channel of the output block.
    pub offset_out: usize,
    /// First channel of the input block.
    pub offset_in: usize,
    /// Basis kernels, in the order of `samples`.
    pub paths: Vec<Path>,
    /// Where the weights of this pair start; they are laid out \[mul_out, mul_in, path\].
    pub weight_offset: usize,
    /// Kernel values, \[path, dim_out, dim_in, k, k, k\], taps in z, y, x order.
    pub samples: Vec<f64>,
}

/// How large a basis is at most, known before anything is sampled.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BasisExtent {
    /// Free weights.
    pub weights: f64,
    /// Values of all samples, of the harmonic functions and of the kernels made of them.
    pub samples: f64,
}

/// One basis kernel between two irreps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Path {
    /// Angular degree J.
    pub j: usize,
    /// Radial index within the family.
    pub radial: usize,
    /// Which of the tensors between the irreps and degree J; 0 under SO(3), which has one.
    pub tensor: usize,
}

impl BlockPair {
    /// mul_out · mul_in · number of paths.
    pub fn num_weights(&self) -> usize {
        self.mul_out * self.mul_in * self.paths.len()
    }
}

impl KernelBasis {
    /// Samples every steerable kernel of `family` from `irreps_in` to `irreps_out` on `size`³ taps.
    ///
    /// `voxel_size` holds the voxel edges (x, y, z) in the unit of the family's lengths; \[1, 1, 1\] for
    /// cubic voxels. If all irreps carry a parity the kernels are steerable under O(3): only paths with
    /// p_out = p_in (−1)^J; if none does, under SO(3). A block pair without any path is left out, so an
    /// output block that no path reaches ([`Self::unreached_outputs`]) stays zero.
    ///
    /// # Errors
    /// If the size, the voxel size or a parameter of the family is out of range, if only one of the two
    /// fields carries parities, or if the sum of the largest degrees is above `steer3d_so3::L_MAX`.
    pub fn new(
        irreps_in: &Irreps,
        irreps_out: &Irreps,
        size: usize,
        family: &Family,
        voxel_size: [f64; 3],
    ) -> Result<Self, KernelError> {
        Self::with_family(irreps_in, irreps_out, TapGrid::new(size, voxel_size)?, family)
    }

    /// As [`Self::new`], for any [`HarmonicFamily`].
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn with_family(
        irreps_in: &Irreps,
        irreps_out: &Irreps,
        grid: TapGrid,
        family: &dyn HarmonicFamily,
    ) -> Result<Self, KernelError> {
        Self::of_group(KernelGroup::So3, irreps_in, irreps_out, grid, family)
    }

    /// As [`Self::with_family`], for kernels that need commute with the rotations of a group only.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn of_group(
        group: KernelGroup,
        irreps_in: &Irreps,
        irreps_out: &Irreps,
        grid: TapGrid,
        family: &dyn HarmonicFamily,
    ) -> Result<Self, KernelError> {
        check_irreps(irreps_in, irreps_out)?;
        let functions =
            family.sample(&grid, largest_degree(group, irreps_in, irreps_out, &grid))?;
        let mut pairs = Vec::new();
        let mut num_weights = 0;
        for (out_block, out) in irreps_out.blocks().enumerate() {
            for (in_block, input) in irreps_in.blocks().enumerate() {
                let mut pair = BlockPair {
                    out_block,
                    in_block,
                    mul_out: out.mul,
                    mul_in: input.mul,
                    dim_out: 2 * out.irrep.l + 1,
                    dim_in: 2 * input.irrep.l + 1,
                    offset_out: out.offset,
                    offset_in: input.offset,
                    paths: Vec::new(),
                    weight_offset: num_weights,
                    samples: Vec::new(),
                };
                for f in &functions {
                    let tensors = tensors(group, out.irrep, input.irrep, f.j);
                    for (tensor, entries) in tensors.iter().enumerate() {
                        pair.paths.push(Path { j: f.j, radial: f.radial, tensor });
                        pair.samples.extend(couple(pair.dim_out, pair.dim_in, entries, f));
                    }
                }
                if pair.num_weights() > 0 {
                    num_weights += pair.num_weights();
                    pairs.push(pair);
                }
            }
        }
        Ok(Self {
            irreps_in: irreps_in.clone(),
            irreps_out: irreps_out.clone(),
            grid,
            group,
            pairs,
            num_weights,
        })
    }

    /// The same kernels, with the same weights, on the taps of voxels with other edges (x, y, z), in the same unit
    /// ([`TapGrid::at_spacing`]). `family` is that of the basis.
    ///
    /// # Errors
    /// [`KernelError::VoxelSize`] or [`KernelError::Spacing`] for edges that it cannot have.
    pub fn at_spacing(
        &self,
        family: &dyn HarmonicFamily,
        voxel_size: [f64; 3],
    ) -> Result<Self, KernelError> {
        let grid = self.grid.at_spacing(voxel_size)?;
        Self::of_group(self.group, &self.irreps_in, &self.irreps_out, grid, family)
    }

    /// How large the basis of these arguments is at most: what [`Self::of_group`] leaves out, such as functions
    /// that vanish on the taps and paths that parities forbid, is counted.
    pub fn extent(
        group: KernelGroup,
        irreps_in: &Irreps,
        irreps_out: &Irreps,
        grid: &TapGrid,
        family: &Family,
    ) -> BasisExtent {
        let (radial, max_degree) = family.extent(grid);
        let (radial, taps) = (radial as f64, grid.num_taps() as f64);
        let jmax = max_degree.min(largest_degree(group, irreps_in, irreps_out, grid));
        let mut extent =
            BasisExtent { weights: 0.0, samples: ((jmax + 1).pow(2) as f64) * radial * taps };
        let (inputs, outputs) = (by_degree(irreps_in), by_degree(irreps_out));
        for (l_out, [out_blocks, out_copies]) in outputs.into_iter().enumerate() {
            for (l_in, [in_blocks, in_copies]) in inputs.into_iter().enumerate() {
                let tensors: usize = (0..=jmax).map(|j| count(group, l_out, l_in, j)).sum();
                let paths = tensors as f64 * radial;
                let entries = ((2 * l_out + 1) * (2 * l_in + 1)) as f64;
                extent.weights += out_copies * in_copies * paths;
                extent.samples += out_blocks * in_blocks * paths * entries * taps;
            }
        }
        extent
    }

    /// Irreps of the input field.
    pub fn irreps_in(&self) -> &Irreps {
        &self.irreps_in
    }

    /// Irreps of the output field.
    pub fn irreps_out(&self) -> &Irreps {
        &self.irreps_out
    }

    /// The taps.
    pub fn grid(&self) -> &TapGrid {
        &self.grid
    }

    /// The rotations with which the kernels commute.
    pub fn group(&self) -> KernelGroup {
        self.group
    }

    /// The block pairs that have at least one path, ordered by output and then input block.
    pub fn pairs(&self) -> &[BlockPair] {
        &self.pairs
    }

    /// Number of free weights.
    pub fn num_weights(&self) -> usize {
        self.num_weights
    }

    /// Indices of the output blocks that no path reaches.
    pub fn unreached_outputs(&self) -> Vec<usize> {
        let reached = |block: &usize| self.pairs.iter().any(|pair| pair.out_block == *block);
        (0..self.irreps_out.blocks().count()).filter(|block| !reached(block)).collect()
    }

    /// The dense filter \[C_out, C_in, k, k, k\] (taps z, y, x) of `weights`.
    ///
    /// # Errors
    /// If there are not exactly [`Self::num_weights`] weights.
    pub fn expand(&self, weights: &[f64]) -> Result<Vec<f64>, KernelError> {
        check_length("the weight vector", weights.len(), self.num_weights)?;
        let mut filter = vec![0.0; self.filter_len()];
        self.for_each_term(|weight, filter_start, samples| {
            for (f, s) in filter[filter_start..].iter_mut().zip(samples) {
                *f += weights[weight] * s;
            }
        });
        Ok(filter)
    }

    /// The transpose of [`Self::expand`]: from a gradient with respect to the filter to the gradient
    /// with respect to the weights.
    ///
    /// # Errors
    /// If `filter` does not have C_out · C_in · k³ values.
    pub fn expand_adjoint(&self, filter: &[f64]) -> Result<Vec<f64>, KernelError> {
        check_length("the filter gradient", filter.len(), self.filter_len())?;
        let mut weights = vec![0.0; self.num_weights];
        self.for_each_term(|weight, filter_start, samples| {
            weights[weight] +=
                filter[filter_start..].iter().zip(samples).map(|(f, s)| f * s).sum::<f64>();
        });
        Ok(weights)
    }

    /// Independent normal weights for which an input of independent components of unit variance gives
    /// output components whose variance is 1 on average over the components of each field.
    ///
    /// In such white noise a path responds with mean variance Σ_{o,i,x} κ(x)\[o,i\]² / (2l_o+1). With
    /// Σ_{o,i} C\[o,i,M\] C\[o,i,M'\] = δ_{MM'}/(2J+1) and the scale of the harmonic functions this is 1, so
    /// each weight gets the variance 1 / (number of terms that feed its output block). No sampling is
    /// involved. A smooth input, whose neighbouring voxels agree, gives larger responses in the paths
    /// with J = 0 and smaller ones in those of high degree; white noise is chosen because it needs no
    /// assumption on the data, and the normalisation layers of a network take up the common factor.
    pub fn initial_weights(&self, stream: &mut Stream) -> Vec<f64> {
        let fan_in = self.fan_in();
        let mut weights = Vec::with_capacity(self.num_weights);
        for pair in &self.pairs {
            let std = (fan_in[pair.out_block] as f64).sqrt().recip();
            weights.extend((0..pair.num_weights()).map(|_| std * stream.normal()));
        }
        weights
    }

    /// Number of terms that feed each output block.
    fn fan_in(&self) -> Vec<usize> {
        let mut fan_in = vec![0; self.irreps_out.blocks().count()];
        for pair in &self.pairs {
            fan_in[pair.out_block] += pair.mul_in * pair.paths.len();
        }
        fan_in
    }

    /// Every path of every pair with the share of the output's white-noise power that it carries at
    /// initialisation; the shares sum to the number of output channels reached.
    pub fn path_powers(&self) -> impl Iterator<Item = (Path, f64)> {
        let fan_in = self.fan_in();
        self.pairs.iter().flat_map(move |pair| {
            let channels = pair.mul_out * pair.dim_out * pair.mul_in;
            let share = channels as f64 / fan_in[pair.out_block] as f64;
            pair.paths.iter().map(move |&path| (path, share))
        })
    }

    fn filter_len(&self) -> usize {
        self.irreps_out.dim() * self.irreps_in.dim() * self.grid.num_taps()
    }

    /// Calls `visit(weight index, first tap in the filter, k³ samples)` for every product of a weight and
    /// a kernel component.
    fn for_each_term(&self, mut visit: impl FnMut(usize, usize, &[f64])) {
        let taps = self.grid.num_taps();
        let channels_in = self.irreps_in.dim();
        for pair in &self.pairs {
            let path_weights = (0..pair.num_weights()).map(|w| (w, w % pair.paths.len()));
            for (w, path) in path_weights {
                let (u, v) =
                    (w / pair.paths.len() / pair.mul_in, w / pair.paths.len() % pair.mul_in);
                for o in 0..pair.dim_out {
                    for i in 0..pair.dim_in {
                        let row = pair.offset_out + u * pair.dim_out + o;
                        let column = pair.offset_in + v * pair.dim_in + i;
                        let component = (path * pair.dim_out + o) * pair.dim_in + i;
                        visit(
                            pair.weight_offset + w,
                            (row * channels_in + column) * taps,
                            &pair.samples[component * taps..][..taps],
                        );
                    }
                }
            }
        }
    }
}

/// Numbers of blocks and of copies of each degree.
fn by_degree(irreps: &Irreps) -> [[f64; 2]; L_MAX + 1] {
    let mut counts = [[0.0; 2]; L_MAX + 1];
    for block in irreps.blocks() {
        let [blocks, copies] = &mut counts[block.irrep.l];
        *blocks += 1.0;
        *copies += block.mul as f64;
    }
    counts
}

/// √(2l_o+1) Σ_M T\[o,i,M\] b_M(x), \[2l_o+1, 2l_i+1, k, k, k\].
fn couple(
    dim_out: usize,
    dim_in: usize,
    tensor: &[CgEntry],
    function: &HarmonicFunction,
) -> Vec<f64> {
    let scale = (dim_out as f64).sqrt();
    let taps = function.samples.len() / (2 * function.j + 1);
    let mut kernel = vec![0.0; dim_out * dim_in * taps];
    for CgEntry { i: o, j: i, k: m, value } in tensor {
        let values = &mut kernel[(o * dim_in + i) * taps..][..taps];
        let samples = &function.samples[m * taps..][..taps];
        values.iter_mut().zip(samples).for_each(|(v, s)| *v += scale * value * s);
    }
    kernel
}

/// The largest degree of the functions that kernels are made of. About an axis every function is a kernel between any
/// fields: as many degrees as taps along an edge can tell from each other.
pub(crate) fn largest_degree(
    group: KernelGroup,
    irreps_in: &Irreps,
    irreps_out: &Irreps,
    grid: &TapGrid,
) -> usize {
    let sum = irreps_in.lmax() + irreps_out.lmax();
    match group {
        KernelGroup::So3 => sum,
        KernelGroup::So2 => sum.max(grid.made_for().size() - 1).min(L_MAX),
    }
}

fn check_irreps(irreps_in: &Irreps, irreps_out: &Irreps) -> Result<(), KernelError> {
    if irreps_in.has_parity() != irreps_out.has_parity() {
        return Err(KernelError::MixedParity {
            irreps_in: irreps_in.to_string(),
            irreps_out: irreps_out.to_string(),
        });
    }
    let (l_in, l_out) = (irreps_in.lmax(), irreps_out.lmax());
    if l_in + l_out > L_MAX {
        return Err(KernelError::Degree { l_in, l_out, max: L_MAX });
    }
    Ok(())
}

fn check_length(what: &'static str, found: usize, expected: usize) -> Result<(), KernelError> {
    if found == expected { Ok(()) } else { Err(KernelError::Length { what, found, expected }) }
}
