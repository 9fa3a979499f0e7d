use std::collections::BTreeMap;
use std::f64::consts::FRAC_PI_2;
use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp1, DType, Device, Layout, Shape, Tensor};
use steer3d_kernels::{AngularCutoff, Family, KernelBasis, KernelGroup, TapGrid};
use steer3d_so3::Irreps;

use super::conv::{basis_bytes, filter_len};
use super::{ConvSite, Convolution};
use crate::error::fault;
use crate::watch::used;
use crate::{NnError, Scope};

/// The most bumps, and the most hidden neurons, of a [`RadialPerceptron`].
const WIDTH_MAX: usize = 1 << 12;

/// The perceptron of one hidden layer that gives the radial functions of a [`RadialConv3d`]:
///
/// f(r) = W₂ silu(W₁ e(r)),   e_i(r) = cos(π/2 (r/step − i)) where |r/step − i| < 1 and r < r_c,
///
/// i = 0..`functions`, step = r_c/`functions`, r_c = k/2. There are no biases, so that every f is zero
/// at r_c, and Σ e_i² = 1 up to r_c − step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RadialPerceptron {
    /// Number of bumps e_i.
    pub functions: usize,
    /// Number of hidden neurons.
    pub hidden: usize,
}

impl Default for RadialPerceptron {
    fn default() -> Self {
        Self { functions: 3, hidden: 16 }
    }
}

impl RadialPerceptron {
    fn check(self) -> Result<Self, NnError> {
        for (field, count) in [("functions", self.functions), ("hidden", self.hidden)] {
            if !(1..=WIDTH_MAX).contains(&count) {
                return fault(field, format!("expected 1 to {WIDTH_MAX}, found {count}"));
            }
        }
        Ok(self)
    }

    /// e(r) for a kernel that ends at `cutoff`.
    fn bumps(self, r: f64, cutoff: f64) -> impl Iterator<Item = f64> {
        let step = cutoff / self.functions as f64;
        (0..self.functions).map(move |i| {
            let d = r / step - i as f64;
            if d.abs() < 1.0 && r < cutoff { (FRAC_PI_2 * d).cos() } else { 0.0 }
        })
    }
}

/// What a [`RadialConv3d`] is made of.
#[derive(Debug, Clone)]
pub struct RadialConvConfig {
    /// Type of the input.
    pub irreps_in: Irreps,
    /// Type of the output.
    pub irreps_out: Irreps,
    /// Kernel size in voxels, odd; the volume is padded by `size / 2` zeros.
    pub size: usize,
    /// What gives the radial functions.
    pub perceptron: RadialPerceptron,
    /// Shape of the voxels (x, y, z) in units of the shortest edge; cubes are `[1.0; 3]`.
    pub voxel_size: [f64; 3],
    /// Edges of the voxels of its volumes, in the same unit, where they are others than the layer was made for: the
    /// radial functions are those of lengths, so layers of the same weights differ in this alone.
    pub spacing: Option<[f64; 3]>,
}

impl RadialConvConfig {
    /// Makes the settings of a convolution with kernels of 5³ cubic voxels.
    pub fn new(irreps_in: &Irreps, irreps_out: &Irreps) -> Self {
        Self {
            irreps_in: irreps_in.clone(),
            irreps_out: irreps_out.clone(),
            size: 5,
            perceptron: RadialPerceptron::default(),
            voxel_size: [1.0; 3],
            spacing: None,
        }
    }
}

/// Convolution whose radial functions are learned: the kernel between two copies of irreps is
/// Σ_J f_J(|x|) √(2l_o+1) C Y_J(x/|x|) (Weiler et al. 2018, eq. 8), with all f_J from one
/// [`RadialPerceptron`] of the radius (Thomas et al. 2018, *Tensor field networks*, section 4.1; e3nn's
/// voxel convolution).
///
/// J ≤ 2r at the radius r ([`AngularCutoff::TwiceRadius`]). The kernel acts on the taps of the ball of
/// radius k/2, in units of the shortest voxel edge.
#[derive(Debug)]
pub struct RadialConv3d {
    site: ConvSite,
    basis: Arc<KernelBasis>,
    /// e at each radius, shape radii, functions.
    bumps: Tensor,
    /// W₁ᵀ, shape functions, hidden.
    first: Tensor,
    /// W₂ᵀ, shape hidden, radial functions.
    second: Tensor,
    /// Where the radial function of each weight of the basis stands in f, and its factor, on the CPU.
    index: Tensor,
    scale: Tensor,
}

impl RadialConv3d {
    /// Makes the layer, with its weights at the place of `params`. W₁ starts with variance 1. W₂ starts such that
    /// an input of independent components of unit variance gives outputs of unit variance.
    ///
    /// # Errors
    /// [`NnError::Kernel`] as [`KernelBasis::new`] and for a spacing out of range ([`TapGrid::at_spacing`]),
    /// [`NnError::Config`] for a perceptron of no width.
    pub fn new<'a>(
        params: impl Into<Scope<'a>>,
        config: RadialConvConfig,
    ) -> Result<Self, NnError> {
        let mut params = params.into();
        let RadialConvConfig { irreps_in, irreps_out, perceptron, .. } = config;
        let RadialPerceptron { functions, hidden } = perceptron.check()?;
        let family = Family::Radii { cutoff: AngularCutoff::default() };
        let made_for = TapGrid::new(config.size, config.voxel_size)?;
        let cutoff = made_for.radius();
        let mut sampled = |grid: TapGrid| -> Result<Sampled, NnError> {
            let filter = filter_len(&irreps_in, &irreps_out, &grid);
            let basis = basis_bytes(KernelGroup::So3, &irreps_in, &irreps_out, &grid, &family);
            params.reserve(basis + 8.0 * filter)?;
            let basis = KernelBasis::with_family(&irreps_in, &irreps_out, grid, &family)?;
            let radii = basis.grid().radii();
            let bumps = radii.iter().flat_map(|&r| perceptron.bumps(r, cutoff)).collect();
            let bumps = params.constant(bumps, &[radii.len(), functions])?;
            Ok(Sampled { taps: taps_at(&basis, &radii), basis, bumps })
        };
        // The taps of the spacing as if the kernels were made for them, since every radius is a function of its own.
        let spaced = config.spacing.map(|spacing| {
            let grid = made_for.at_spacing(spacing)?;
            let ratio = grid.volume_ratio();
            Ok::<_, NnError>((sampled(TapGrid::new(grid.size(), grid.voxel_size())?)?, ratio))
        });
        let spaced = spaced.transpose()?;
        let own = sampled(made_for)?;
        let mut draw = params.pp("first").stream();
        let initial = (0..functions * hidden).map(|_| draw.normal());
        let first = params.weight("first", initial, &[functions, hidden], true)?;

        let columns = Columns::new(&own.basis);
        let power = activations(&own.bumps, &first)?.sqr()?.sum(1)?;
        let power = power.to_dtype(DType::F64)?.to_vec1::<f64>()?;
        let std = columns.initial_std(&own.basis, |radius| own.taps[radius] * power[radius]);
        let mut draw = params.pp("second").stream();
        let initial = (0..hidden).flat_map(|_| &std).map(|std| std * draw.normal());
        let shape = [hidden, columns.count()];
        let second = params.weight("second", initial, &shape, true)?;
        let (Sampled { basis, bumps, taps }, ratio) = spaced.unwrap_or((own, 1.0));
        // A function of the basis is Y_J at one radius over the root of the number of taps there.
        let (index, scale) = columns.weights(&basis, |radius| ratio * taps[radius].sqrt());
        Ok(Self {
            site: ConvSite {
                name: params.path().into(),
                kind_in: irreps_in.into(),
                kind_out: irreps_out.into(),
                size: basis.grid().size(),
                stride: 1,
            },
            bumps,
            first,
            second,
            index: Tensor::from_vec(index, basis.num_weights(), &Device::Cpu)?,
            scale: Tensor::from_vec(scale, basis.num_weights(), &Device::Cpu)?
                .to_dtype(params.dtype())?,
            basis: Arc::new(basis),
        })
    }

    /// Returns the different radii of the taps in the ball, ascending, in the unit of the voxel size.
    pub fn radii(&self) -> Vec<f64> {
        self.basis.grid().radii()
    }

    /// The radial functions at [`radii`](Self::radii), shape radii, functions, differentiable. There is
    /// one for each pair of copies of irreps and each degree J between them, in the order output block,
    /// input block, J, copy out, copy in.
    ///
    /// # Errors
    /// Only if the device runs out of memory.
    pub fn radial_functions(&self) -> Result<Tensor, NnError> {
        Ok(activations(&self.bumps, &used(&self.first)?)?.matmul(&used(&self.second)?)?)
    }

    /// The dense filter, shape C_out,C_in,k,k,k, differentiable in the weights of the perceptron. The radial
    /// functions, which are few, are expanded on the CPU.
    ///
    /// # Errors
    /// Only if the device runs out of memory.
    pub fn filter(&self) -> Result<Tensor, NnError> {
        let radial = self.radial_functions()?;
        let on_cpu = radial.to_device(&Device::Cpu)?;
        let weights = (on_cpu.flatten_all()?.index_select(&self.index, 0)? * &self.scale)?;
        let filter = weights.to_dtype(DType::F64)?.apply_op1(Expand(self.basis.clone()))?;
        Ok(filter.to_dtype(weights.dtype())?.to_device(radial.device())?)
    }
}

impl Convolution for RadialConv3d {
    fn site(&self) -> &ConvSite {
        &self.site
    }

    fn weights(&self) -> Result<Tensor, NnError> {
        self.filter()
    }
}

/// The kernels of a layer on taps.
struct Sampled {
    basis: KernelBasis,
    /// e at each radius, shape radii, functions.
    bumps: Tensor,
    /// Number of taps at each radius.
    taps: Vec<f64>,
}

/// silu(W₁ e) at each radius.
fn activations(bumps: &Tensor, first: &Tensor) -> Result<Tensor, candle_core::Error> {
    bumps.matmul(first)?.silu()
}

/// Number of taps at each radius.
fn taps_at(basis: &KernelBasis, radii: &[f64]) -> Vec<f64> {
    let mut taps = vec![0.0; radii.len()];
    for position in basis.grid().positions() {
        let r = position.iter().map(|c| c * c).sum::<f64>().sqrt();
        let nearest = radii.iter().position(|radius| (radius - r).abs() < 1e-9);
        nearest.into_iter().for_each(|i| taps[i] += 1.0);
    }
    taps
}

/// The radial functions: where those of a block pair and degree start, and how many blocks of
/// weights use them.
struct Columns {
    /// First function of (pair, J), which has one for each pair of copies.
    start: BTreeMap<(usize, usize), usize>,
    /// Number of functions of each (pair, J), in the order of `start`.
    copies: Vec<usize>,
}

impl Columns {
    fn new(basis: &KernelBasis) -> Self {
        let mut columns = Self { start: BTreeMap::new(), copies: vec![] };
        for (index, pair) in basis.pairs().iter().enumerate() {
            for path in &pair.paths {
                let next = columns.count();
                columns.start.entry((index, path.j)).or_insert_with(|| {
                    columns.copies.push(pair.mul_out * pair.mul_in);
                    next
                });
            }
        }
        columns
    }

    fn count(&self) -> usize {
        self.copies.iter().sum()
    }

    /// The standard deviation of each column of W₂ with which every output has unit variance in white
    /// noise, when the path at a radius responds with variance `power(radius)` for W₂ of variance 1.
    fn initial_std(&self, basis: &KernelBasis, power: impl Fn(usize) -> f64) -> Vec<f64> {
        let mut total = BTreeMap::new();
        for pair in basis.pairs() {
            let sum: f64 = pair.paths.iter().map(|path| power(path.radial)).sum();
            *total.entry(pair.out_block).or_insert(0.0) += pair.mul_in as f64 * sum;
        }
        let blocks = self.start.keys().map(|(pair, _)| basis.pairs()[*pair].out_block);
        blocks
            .zip(&self.copies)
            .flat_map(|(block, &copies)| {
                let total: f64 = total[&block];
                std::iter::repeat_n(if total > 0.0 { total.sqrt().recip() } else { 0.0 }, copies)
            })
            .collect()
    }

    /// For each weight of a basis: where its function stands in the flattened radial functions, and its factor, that of
    /// its radius. Beyond the kernel there may be degrees that have no function: their factor is 0.
    fn weights(&self, basis: &KernelBasis, factor: impl Fn(usize) -> f64) -> (Vec<u32>, Vec<f64>) {
        let count = self.count();
        let mut all = (vec![], vec![]);
        for (index, pair) in basis.pairs().iter().enumerate() {
            for copies in 0..pair.mul_out * pair.mul_in {
                for path in &pair.paths {
                    let start = self.start.get(&(index, path.j));
                    let column = start.map_or(0, |start| start + copies);
                    all.0.push((path.radial * count + column) as u32);
                    all.1.push(start.map_or(0.0, |_| factor(path.radial)));
                }
            }
        }
        all
    }
}

/// [`KernelBasis::expand`] as a differentiable operation in f64: weights to the filter
/// C_out,C_in,k,k,k.
struct Expand(Arc<KernelBasis>);

/// [`KernelBasis::expand_adjoint`]: the gradient of the filter to that of the weights.
struct ExpandAdjoint(Arc<KernelBasis>);

impl CustomOp1 for Expand {
    fn name(&self) -> &'static str {
        "expand"
    }

    fn cpu_fwd(
        &self,
        weights: &CpuStorage,
        layout: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let basis = &self.0;
        let filter = basis.expand(contiguous(weights, layout)?);
        let k = basis.grid().size();
        let shape = (basis.irreps_out().dim(), basis.irreps_in().dim(), k, k, k);
        Ok((CpuStorage::F64(filter.map_err(candle_core::Error::wrap)?), shape.into()))
    }

    fn bwd(
        &self,
        _weights: &Tensor,
        _filter: &Tensor,
        grad: &Tensor,
    ) -> candle_core::Result<Option<Tensor>> {
        Ok(Some(grad.contiguous()?.apply_op1_no_bwd(&ExpandAdjoint(self.0.clone()))?))
    }
}

impl CustomOp1 for ExpandAdjoint {
    fn name(&self) -> &'static str {
        "expand-adjoint"
    }

    fn cpu_fwd(
        &self,
        filter: &CpuStorage,
        layout: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let weights = self.0.expand_adjoint(contiguous(filter, layout)?);
        let weights = weights.map_err(candle_core::Error::wrap)?;
        Ok((CpuStorage::F64(weights), self.0.num_weights().into()))
    }
}

fn contiguous<'a>(storage: &'a CpuStorage, layout: &Layout) -> candle_core::Result<&'a [f64]> {
    let Some((start, end)) = layout.contiguous_offsets() else {
        return Err(candle_core::Error::RequiresContiguous { op: "expand" });
    };
    Ok(&storage.as_slice::<f64>()?[start..end])
}
