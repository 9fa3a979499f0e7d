use std::iter;

use candle_core::Tensor;
use steer3d_kernels::{BlockPair, Family, KernelBasis, KernelGroup, SeparablePlan, TapGrid};
use steer3d_ops::Separable;
use steer3d_so3::{Block, Irreps};

use super::channels::{is_invariant, spread};
use super::{ConvPlan, ConvSite, Convolution, ConvolutionPath, FieldLayer};
use crate::error::fault;
use crate::watch::used;
use crate::{NnError, Scope};

/// What a [`SteerableConv3d`] is made of.
#[derive(Clone, Debug)]
pub struct ConvConfig {
    /// Type of the input.
    pub irreps_in: Irreps,
    /// Type of the output.
    pub irreps_out: Irreps,
    /// Kernel size in voxels, odd; the volume is padded by `size / 2` zeros.
    pub size: usize,
    /// The functions of which kernels are combinations.
    pub kernel: Family,
    /// The rotations with which the convolution commutes.
    pub group: KernelGroup,
    /// Shape of the voxels (x, y, z, in any unit) that kernels are made for; cubes are `[1.0; 3]`.
    pub voxel_size: [f64; 3],
    /// Shape of the voxels (x, y, z, in the same unit) of the fields that it is given, if it is another: the same
    /// kernels are sampled there ([`TapGrid::at_spacing`]), so layers of the same weights differ in this alone.
    pub spacing: Option<[f64; 3]>,
    /// Whether a learned number is added to every invariant output channel.
    pub bias: bool,
    /// Every how many voxels there is an output.
    ///
    /// A strided convolution commutes with the rotations of the cube only if the voxels it keeps
    /// lie symmetrically about the centre, which needs an odd grid size; follow a convolution of
    /// stride 1 by [`GaussianPool`](super::GaussianPool) where accuracy under rotation counts.
    pub stride: usize,
    /// How the convolution is computed; `None` is the way that takes fewer operations.
    pub path: Option<ConvolutionPath>,
}

impl ConvConfig {
    /// Makes the settings of a convolution with kernels of 5³ cubic voxels made of Gaussian jets of order 2, stride 1 and
    /// no bias.
    pub fn new(irreps_in: &Irreps, irreps_out: &Irreps) -> Self {
        Self {
            irreps_in: irreps_in.clone(),
            irreps_out: irreps_out.clone(),
            size: 5,
            kernel: Family::jets(2),
            group: KernelGroup::So3,
            voxel_size: [1.0; 3],
            spacing: None,
            bias: false,
            stride: 1,
            path: None,
        }
    }

    /// An intertwiner: a linear map of every voxel from `irreps_in` to `irreps_out` that commutes with
    /// rotations, a 1x1x1 convolution. It mixes copies of the same irrep; an output irrep that the input lacks
    /// is zero.
    pub fn pointwise(irreps_in: &Irreps, irreps_out: &Irreps) -> Self {
        Self { size: 1, kernel: Family::shells(), ..Self::new(irreps_in, irreps_out) }
    }
}

/// Convolution with a kernel that satisfies `κ(Rx) = ρ_out(R) κ(x) ρ_in(R)⁻¹`
/// (Weiler et al. 2018, eq. 7), so that it maps fields of type `irreps_in` to `irreps_out` and
/// commutes with rotations.
///
/// The kernel is a learned linear combination of the functions of a [`KernelBasis`]. Which
/// [`ConvolutionPath`] computes it does not change the result beyond rounding.
#[derive(Debug)]
pub struct SteerableConv3d {
    site: ConvSite,
    weight: Tensor,
    bias: Option<Tensor>,
    blocks: Vec<Vec<FilterBlock>>,
    /// Where that is the path.
    plan: Option<ConvPlan>,
}

/// Time of a multiply-add of the separable path over one of the dense path: `docs/src/performance.md` has
/// about a third of the peak for the one and most of it for the other.
const SEPARABLE_COST: usize = 3;

/// The part of the filter that leads from one block of the input to one block of the output.
#[derive(Debug)]
enum FilterBlock {
    /// No path leads there: a constant zero of shape C_out,C_in,k³.
    Zero(Tensor),
    Paths {
        pair: BlockPair,
        /// Samples of the basis, shape paths, dim_out·dim_in·k³.
        samples: Tensor,
    },
}

impl SteerableConv3d {
    /// A convolution whose output has unit variance for an input of independent components of unit variance.
    ///
    /// # Errors
    /// [`NnError::Kernel`] for an even size, a spacing out of range, when no kernel leads to some output block or when only one of the two
    /// types has parities, [`NnError::Config`] for the separable path where the kernels are not separable.
    pub fn new<'a>(params: impl Into<Scope<'a>>, config: ConvConfig) -> Result<Self, NnError> {
        let mut params = params.into();
        let ConvConfig { irreps_in, irreps_out, kernel, group, .. } = &config;
        let mut grid = TapGrid::new(config.size, config.voxel_size)?;
        if let Some(spacing) = config.spacing {
            grid = grid.at_spacing(spacing)?;
        }
        let size = grid.size();
        params.reserve(basis_bytes(*group, irreps_in, irreps_out, &grid, kernel))?;
        let basis = KernelBasis::of_group(*group, irreps_in, irreps_out, grid, kernel)?;
        let plan = SeparablePlan::new(&basis, kernel)?.filter(|_| size <= Separable::MAX_SIZE);
        let count = basis.num_weights();
        let mut stream = params.stream();
        let initial = iter::once_with(|| basis.initial_weights(&mut stream)).flatten();
        let weight = params.weight("weight", initial, &[count], true)?;
        let scalars: usize =
            irreps_out.blocks().filter(|b| is_invariant(b.irrep)).map(|b| b.mul).sum();
        let bias = (config.bias && scalars > 0)
            .then(|| params.weight("bias", vec![0.0; scalars], &[scalars], false))
            .transpose()?;
        let blocks = filter_blocks(&mut params, &basis)?;
        let plan = match path(config.path, &basis, plan.as_ref())? {
            ConvolutionPath::Dense => {
                params.reserve(8.0 * filter_len(irreps_in, irreps_out, basis.grid()))?;
                None
            }
            ConvolutionPath::Separable => plan,
        };
        let plan = plan.map(|plan| {
            let channels = channel_of_weight(&blocks, &weight)?;
            Ok::<_, NnError>(ConvPlan { separable: Separable::new(plan)?, channels })
        });
        let site = ConvSite {
            name: params.path().into(),
            kind_in: config.irreps_in.into(),
            kind_out: config.irreps_out.into(),
            size,
            stride: config.stride,
        };
        Ok(Self { site, weight, bias, blocks, plan: plan.transpose()? })
    }

    /// The dense filter, shape C_out,C_in,k,k,k, differentiable in the weights.
    ///
    /// # Errors
    /// Only if the device runs out of memory.
    pub fn filter(&self) -> Result<Tensor, NnError> {
        let rows = self.blocks.iter().map(|row| {
            let row = row.iter().map(|b| self.expand(b)).collect::<Result<Vec<_>, NnError>>()?;
            Ok(Tensor::cat(&row, 1)?)
        });
        let rows = rows.collect::<Result<Vec<_>, NnError>>()?;
        let ConvSite { kind_in, kind_out, size: k, .. } = &self.site;
        let shape = (kind_out.dim(), kind_in.dim(), *k, *k, *k);
        Ok(Tensor::cat(&rows, 0)?.reshape(shape)?)
    }

    fn expand(&self, block: &FilterBlock) -> Result<Tensor, NnError> {
        let (pair, samples) = match block {
            FilterBlock::Zero(zero) => return Ok(zero.clone()),
            FilterBlock::Paths { pair, samples } => (pair, samples),
        };
        let (rows, paths) = (pair.mul_out * pair.mul_in, pair.paths.len());
        let weight = used(&self.weight)?.narrow(0, pair.weight_offset, rows * paths)?;
        let volume = self.site.size.pow(3);
        Ok(weight
            .reshape((rows, paths))?
            .matmul(samples)?
            .reshape((pair.mul_out, pair.mul_in, pair.dim_out, pair.dim_in, volume))?
            .permute((0, 2, 1, 3, 4))?
            .reshape((pair.mul_out * pair.dim_out, pair.mul_in * pair.dim_in, volume))?)
    }
}

impl Convolution for SteerableConv3d {
    fn site(&self) -> &ConvSite {
        &self.site
    }

    fn weights(&self) -> Result<Tensor, NnError> {
        if self.plan.is_some() { Ok(used(&self.weight)?) } else { self.filter() }
    }

    fn plan(&self) -> Option<&ConvPlan> {
        self.plan.as_ref()
    }

    /// Zero where rotation would change it.
    fn bias(&self) -> Result<Option<Tensor>, NnError> {
        let spread = |bias: &Tensor| spread(self.irreps_out(), &used(bias)?, bias.device());
        Ok(self.bias.as_ref().map(spread).transpose()?)
    }
}

/// The first channel of the output field that each weight leads to.
fn channel_of_weight(blocks: &[Vec<FilterBlock>], weight: &Tensor) -> Result<Tensor, NnError> {
    let mut channels = vec![0u32; weight.elem_count()];
    for block in blocks.iter().flatten() {
        let FilterBlock::Paths { pair, .. } = block else { continue };
        let of_field = pair.mul_in * pair.paths.len();
        let weights = &mut channels[pair.weight_offset..][..pair.mul_out * of_field];
        for (field, weights) in weights.chunks_exact_mut(of_field).enumerate() {
            weights.fill((pair.offset_out + field * pair.dim_out) as u32);
        }
    }
    Ok(Tensor::from_vec(channels, weight.shape(), weight.device())?)
}

/// The path that is wanted, or the one that takes fewer operations.
fn path(
    wanted: Option<ConvolutionPath>,
    basis: &KernelBasis,
    plan: Option<&SeparablePlan>,
) -> Result<ConvolutionPath, NnError> {
    let dense = basis.irreps_in().dim() * basis.irreps_out().dim() * basis.grid().num_taps();
    let fastest = match plan {
        Some(plan) if SEPARABLE_COST * plan.cost().total() < dense => ConvolutionPath::Separable,
        _ => ConvolutionPath::Dense,
    };
    let path = wanted.unwrap_or(fastest);
    if path == ConvolutionPath::Separable && plan.is_none() {
        let most = Separable::MAX_SIZE;
        let problem = format!("the separable path needs Gaussian jets of a size of at most {most}");
        return fault("kernel", problem);
    }
    Ok(path)
}

fn filter_blocks(
    params: &mut Scope<'_>,
    basis: &KernelBasis,
) -> Result<Vec<Vec<FilterBlock>>, NnError> {
    let (irreps_in, irreps_out) = (basis.irreps_in(), basis.irreps_out());
    let volume = basis.grid().num_taps();
    let mut pairs = basis.pairs().iter().peekable();
    let mut cell = |o: usize, out: Block, i: usize, input: Block| {
        let Some(pair) = pairs.next_if(|p| (p.out_block, p.in_block) == (o, i)) else {
            let shape = [out.dim(), input.dim(), volume];
            params.reserve(8.0 * shape.iter().map(|&n| n as f64).product::<f64>())?;
            let zero = params.constant(vec![0.0; shape.iter().product()], &shape)?;
            return Ok(FilterBlock::Zero(zero));
        };
        let columns = pair.dim_out * pair.dim_in * volume;
        let samples = params.constant(pair.samples.clone(), &[pair.paths.len(), columns])?;
        Ok(FilterBlock::Paths { pair: pair.clone(), samples })
    };
    let mut row =
        |o, out| irreps_in.blocks().enumerate().map(|(i, input)| cell(o, out, i, input)).collect();
    irreps_out.blocks().enumerate().map(|(o, out)| row(o, out)).collect()
}

/// At most how many bytes a basis takes while a layer is made of it: samples in f64, twice, and what is kept for each
/// pair of blocks.
pub(super) fn basis_bytes(
    group: KernelGroup,
    irreps_in: &Irreps,
    irreps_out: &Irreps,
    grid: &TapGrid,
    family: &Family,
) -> f64 {
    let pairs = irreps_in.blocks().count() as f64 * irreps_out.blocks().count() as f64;
    16.0 * KernelBasis::extent(group, irreps_in, irreps_out, grid, family).samples + 256.0 * pairs
}

/// Values of a dense filter.
pub(super) fn filter_len(irreps_in: &Irreps, irreps_out: &Irreps, grid: &TapGrid) -> f64 {
    irreps_in.dim() as f64 * irreps_out.dim() as f64 * grid.num_taps() as f64
}
