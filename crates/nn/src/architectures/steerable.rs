use steer3d_kernels::TapGrid;
use steer3d_so3::{Irrep, Irreps, Parity};

use super::shared::{built, check_outputs, check_scale, field_head, supervision};
use crate::block::{Layer, Norm};
use crate::error::fault;
use crate::field::scalars;
use crate::graph::{Graph, Map, Output};
use crate::layers::{
    ConvConfig, FieldBatchNorm, FieldDropout, GaussianPool, Linear, LinearConfig, NormConfig, Pool,
    SteerableConv3d, not_invariant,
};
use crate::plan::{LayerPlan, Plan, Planner, Role, check_terms};
use crate::{
    FieldType, Head, NnError, Nonlinearity, Normalisation, Params, SteerableBlock, SteerableConfig,
};

/// Added to the variances of the pooled channels: it keeps the norm of the head from amplifying what
/// hardly differs between items, which is mostly noise of the grid.
const HEAD_EPSILON: f64 = 1e-2;

/// A steerable network (Weiler et al. 2018): blocks of steerable convolution, norm, nonlinearity and
/// antialiased subsampling, residual or not; up-sampling blocks where configured, which make it a U-Net; and
/// a [`Head`]. A classifier's head is the mean of the invariant channels over space, a norm of
/// these where configured, and a linear layer. `spacing` are the edges (x, y, z) of the voxels of its volumes, in the
/// unit of [`SteerableConfig::voxel_size`].
pub(crate) fn steerable(
    config: &SteerableConfig,
    spacing: [f64; 3],
    params: &mut Params,
) -> Result<Graph, NnError> {
    let pooled = matches!(config.head, Head::Classes | Head::Scalars);
    if config.head_norm && !pooled {
        return fault("head_norm", "is for heads of scalars of whole volumes only");
    }
    if config.head_norm && config.norm == Normalisation::Instance {
        return fault("head_norm", "is a batch norm; leave it out where norm = \"instance\"");
    }
    check_outputs(&config.head, config.classes)?;
    check_scale(config.input_scale)?;
    let voxel_size = relative(config.voxel_size)?;
    let edges = edges(config, voxel_size, spacing)?;
    let planner = Planner {
        stride_key: "stride",
        orientations: 1,
        edges,
        pool: &|stride, edges| {
            // A stride is one of cubes as long as the shortest edge.
            let edges = [0, 1, 2].map(|axis| edges[axis] * voxel_size[2 - axis]);
            Pool::Gaussian(GaussianPool::new(stride).at_spacing(edges))
        },
        given: &|fields| Ok(config.nonlinearity.given(&fields.irreps)?.into()),
        relu: false,
    };
    check_hidden("blocks", &config.blocks)?;
    check_hidden("decoder", &config.decoder)?;
    check_terms("input", &config.input)?;
    if let Head::Field { irreps, .. } = &config.head {
        check_terms("head.field.irreps", irreps)?;
    }
    let input = FieldType::from(&config.input);
    let Plan { blocks, last, levels } =
        planner.plan(["blocks", "block"], input, &config.blocks, &config.decoder)?;
    if blocks.is_empty() {
        return not_invariant(&"no block");
    }
    if pooled && last.irreps.blocks().any(|b| b.irrep.l > 0) {
        return not_invariant(&last);
    }
    let blocks = built(&blocks, params, |params, plan| layer(config, voxel_size, params, plan))?;
    let head = head(config, params, &last.irreps)?;
    let on = config.deep_supervision;
    let supervision = supervision(on, params, &levels, &config.head, &head.irreps)?;
    let (input, input_scale) = (config.input.clone(), config.input_scale);
    Ok(Graph { input, input_scale, front: None, blocks, head, supervision })
}

fn check_hidden(key: &str, blocks: &[SteerableBlock]) -> Result<(), NnError> {
    match blocks.iter().position(|block| block.hidden.is_some() && !block.residual) {
        None => Ok(()),
        Some(i) => {
            let problem = "only a residual block has two convolutions; add residual = true";
            fault(format!("{key}[{i}].hidden"), problem)
        }
    }
}

fn layer(
    config: &SteerableConfig,
    voxel_size: [f64; 3],
    params: &mut Params,
    plan: &LayerPlan,
) -> Result<Layer, NnError> {
    let norm = |irreps: &Irreps| NormConfig { scaling_only: config.keep_zero, ..irreps.into() };
    let (input, output) = (&plan.input.irreps, &plan.output.irreps);
    if plan.role == Role::Skip {
        let map = ConvConfig::pointwise(input, output);
        return Ok(Layer {
            title: plan.title.clone(),
            observed: false,
            conv: Box::new(SteerableConv3d::new(params.pp(&plan.path), map)?),
            norm: Some(Norm::new(config.norm, params.pp(&plan.path).pp("norm"), norm(output))?),
            nonlinearity: None,
            norm_title: "norm",
            pool: None,
            dropout: None,
        });
    }
    let mut params = params.pp(&plan.path);
    let nonlinearity = config.nonlinearity.layer(params.pp("nonlinearity"), output)?;
    let middle = nonlinearity.irreps_in();
    let [z, y, x] = plan.edges;
    let [of_x, of_y, of_z] = voxel_size;
    let conv = ConvConfig {
        size: plan.size,
        kernel: config.kernel.clone(),
        group: config.group,
        voxel_size,
        spacing: Some([of_x * x, of_y * y, of_z * z]),
        ..ConvConfig::new(input, middle)
    };
    let given = nonlinearity.irreps_out();
    Ok(Layer {
        title: plan.title.clone(),
        observed: true,
        conv: Box::new(SteerableConv3d::new(params.pp("conv"), conv)?),
        norm: Some(Norm::new(config.norm, params.pp("norm"), norm(middle))?),
        norm_title: match config.nonlinearity {
            Nonlinearity::Gate => "norm and gate",
            _ => "norm and nonlinearity",
        },
        pool: plan.pool,
        dropout: Some(FieldDropout::new(params.pp("dropout"), given, config.dropout)?),
        nonlinearity: Some(nonlinearity),
    })
}

fn head(config: &SteerableConfig, params: &mut Params, last: &Irreps) -> Result<Output, NnError> {
    let norm = NormConfig { epsilon: HEAD_EPSILON, ..last.into() };
    let norm = config.head_norm.then(|| FieldBatchNorm::new(params.pp("head_norm"), norm));
    let norm = norm.transpose()?;
    let dtype = params.dtype();
    let (irreps, pooled, name) = match &config.head {
        Head::Classes | Head::Scalars => {
            let linear = LinearConfig::new(last.dim(), config.classes);
            let map = Map::Linear { norm, linear: Linear::new(params.pp("head"), linear)? };
            return Ok(Output { map, name: "logits", irreps: scalars(config.classes)?, dtype });
        }
        Head::Voxels => (invariants(last, config.classes)?, false, "logits"),
        Head::Field { irreps, pooled } => (irreps.clone(), *pooled, "output"),
    };
    let unknown = |b: &steer3d_so3::Block| last.blocks().all(|of_last| of_last.irrep != b.irrep);
    if let Some(block) = irreps.blocks().find(unknown) {
        let problem = format!(
            "gives fields of type {}, but the last block gives {last} only; add some of that type there",
            block.irrep
        );
        return fault("head", problem);
    }
    let map = Map::Field { map: field_head(params.pp("head"), last, &irreps)?, pooled };
    Ok(Output { map, name, irreps, dtype })
}

/// Voxel edges in units of the shortest, since kernels are as wide as their taps.
fn relative(voxel_size: [f64; 3]) -> Result<[f64; 3], NnError> {
    let shortest = voxel_size.into_iter().fold(f64::INFINITY, f64::min);
    if voxel_size.iter().all(|v| v.is_finite() && *v > 0.0) {
        return Ok(voxel_size.map(|v| v / shortest));
    }
    fault("voxel_size", format!("expected three positive numbers, found {voxel_size:?}"))
}

/// The edges along D, H, W of the voxels of volumes over those that a network is made for, if its kernels can have
/// them.
fn edges(
    config: &SteerableConfig,
    voxel_size: [f64; 3],
    spacing: [f64; 3],
) -> Result<[f64; 3], NnError> {
    let edges = [2, 1, 0].map(|axis| spacing[axis] / config.voxel_size[axis]);
    if edges != [1.0; 3] {
        let sizes = config.blocks.iter().chain(&config.decoder).map(|block| block.size);
        let widest = TapGrid::new(sizes.max().unwrap_or(1).max(3), voxel_size)?;
        widest.at_spacing([0, 1, 2].map(|axis| voxel_size[axis] * edges[2 - axis]))?;
    }
    Ok(edges)
}

/// `count` invariant channels of the group that `irreps` are of.
fn invariants(irreps: &Irreps, count: usize) -> Result<Irreps, NnError> {
    let scalar = if irreps.has_parity() { Irrep::o3(0, Parity::Even) } else { Irrep::so3(0) };
    Ok(Irreps::new([(count, scalar)])?)
}
