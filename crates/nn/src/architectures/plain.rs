use steer3d_so3::Irreps;

use super::shared::{built, check_outputs, check_scale, field_head, supervision};
use crate::block::{Blocks, Layer, Norm, total};
use crate::error::fault;
use crate::field::scalars;
use crate::graph::{Graph, Map, Output};
use crate::layers::{
    FieldDropout, Gate, GaussianPool, GroupConv, GroupConvConfig, Linear, LinearConfig, Pool,
};
use crate::plan::{LayerPlan, Plan, Planner, Role};
use crate::transformer::{POSE, Transformer};
use crate::{
    Head, NnError, Params, PlainBlock, PlainConfig, Pooling, SteerableBlock, Symmetry,
    TransformerConfig,
};

/// A network of convolution, norm, ReLU and pooling, as [`PlainConfig`] says. Initial weights are as He et al.
/// 2015 say.
pub(crate) fn plain(config: &PlainConfig, params: &mut Params) -> Result<Graph, NnError> {
    check_outputs(&config.head, config.classes)?;
    check_scale(config.input_scale)?;
    let front = front(config, params)?;
    let Plan { blocks, last, levels } = plan(config)?;
    let blocks = built(&blocks, params, |params, plan| layer(config, params, plan))?;
    let head = head(config, params, &last.irreps)?;
    let on = config.deep_supervision;
    let supervision = supervision(on, params, &levels, &config.head, &head.irreps)?;
    let (input, input_scale) = (scalars(config.channels)?, config.input_scale);
    Ok(Graph { input, input_scale, front, blocks, head, supervision })
}

fn front(config: &PlainConfig, params: &mut Params) -> Result<Option<Transformer>, NnError> {
    let Some(transformer) = &config.transformer else { return Ok(None) };
    if !(1..=8).contains(&transformer.cells) {
        return fault("transformer.cells", format!("expected 1 to 8, found {}", transformer.cells));
    }
    let Plan { blocks, last, .. } = front_plan(config, transformer)?;
    let plain = PlainConfig { symmetry: Symmetry::None, dropout: 0.0, ..config.clone() };
    let blocks = built(&blocks, params, |params, plan| layer(&plain, params, plan))?;
    let inputs = last.dim() * transformer.cells.pow(3);
    let linear = LinearConfig { zero: true, ..LinearConfig::new(inputs, POSE) };
    let linear = Linear::new(params.pp("transformer").pp("head"), linear)?;
    Ok(Some(Transformer { blocks, cells: transformer.cells, linear }))
}

fn plan(config: &PlainConfig) -> Result<Plan, NnError> {
    let first_pools = config.blocks.first().is_some_and(|block| block.pool > 1);
    if config.symmetry != Symmetry::None && !config.decoder.is_empty() && first_pools {
        let problem = "the first block of a group network with a decoder must not pool";
        return fault("blocks[0].pool", problem);
    }
    let (blocks, decoder) =
        (entries("blocks", &config.blocks)?, entries("decoder", &config.decoder)?);
    planned(config, config.symmetry, ["blocks", "block"], &blocks, &decoder)
}

/// The localisation network.
fn front_plan(config: &PlainConfig, transformer: &TransformerConfig) -> Result<Plan, NnError> {
    let entries = entries("transformer.blocks", &transformer.blocks)?;
    planned(config, Symmetry::None, ["transformer.blocks", "transformer block"], &entries, &[])
}

fn planned(
    config: &PlainConfig,
    symmetry: Symmetry,
    names: [&str; 2],
    blocks: &[SteerableBlock],
    decoder: &[SteerableBlock],
) -> Result<Plan, NnError> {
    let planner = Planner {
        stride_key: "pool",
        orientations: symmetry.order(),
        edges: [1.0; 3],
        pool: &|stride, _| match config.pooling {
            Pooling::Max => Pool::Max(stride),
            Pooling::Antialiased => Pool::Antialiased(GaussianPool::new(stride)),
        },
        given: &|fields| Ok(fields.clone()),
        relu: true,
    };
    planner.plan(names, scalars(config.channels)?.into(), blocks, decoder)
}

/// The blocks, with scalars for channels.
fn entries(key: &str, blocks: &[PlainBlock]) -> Result<Vec<SteerableBlock>, NnError> {
    let entry = |(i, block): (usize, &PlainBlock)| {
        let &PlainBlock { channels, size, pool, residual, repeat } = block;
        if size.is_multiple_of(2) || size > 15 || channels == 0 {
            let problem = format!(
                "expected an odd size up to 15 and at least one channel, found size {size} and {channels} channels"
            );
            return fault(format!("{key}[{i}]"), problem);
        }
        let block = SteerableBlock::new(scalars(channels)?, size, pool);
        Ok(SteerableBlock { residual, repeat, ..block })
    };
    blocks.iter().enumerate().map(entry).collect()
}

fn layer(config: &PlainConfig, params: &mut Params, plan: &LayerPlan) -> Result<Layer, NnError> {
    let mut params = params.pp(&plan.path);
    let irreps = &plan.output.irreps;
    let conv = GroupConvConfig {
        inputs: plan.input.irreps.dim(),
        orientations: plan.input.orientations,
        outputs: irreps.dim(),
        size: plan.size,
        symmetry: config.symmetry,
    };
    let relu = plan.role == Role::Main;
    Ok(Layer {
        title: plan.title.clone(),
        observed: true,
        conv: Box::new(GroupConv::new(params.pp("conv"), conv)?),
        norm: Some(Norm::new(config.norm, params.pp("norm"), irreps)?),
        nonlinearity: if relu { Some(Box::new(Gate::new(irreps)?)) } else { None },
        norm_title: if relu { "norm and ReLU" } else { "norm" },
        pool: plan.pool,
        dropout: Some(FieldDropout::new(params.pp("dropout"), irreps, config.dropout)?),
    })
}

fn head(config: &PlainConfig, params: &mut Params, last: &Irreps) -> Result<Output, NnError> {
    let outputs = config.head.outputs(config.classes);
    let map = match config.head {
        Head::Voxels | Head::Field { pooled: false, .. } => Map::Field {
            map: field_head(params.pp("head"), last, &scalars(outputs)?)?,
            pooled: false,
        },
        _ => {
            let linear = LinearConfig::new(last.dim(), outputs);
            Map::Linear { norm: None, linear: Linear::new(params.pp("head"), linear)? }
        }
    };
    let (name, irreps) = match &config.head {
        Head::Field { irreps, .. } => ("output", irreps.clone()),
        _ => ("logits", scalars(outputs)?),
    };
    Ok(Output { map, name, irreps, dtype: params.dtype() })
}

impl PlainConfig {
    /// The same network with all widths scaled so that the number of parameters comes closest to
    /// `parameters`.
    #[must_use]
    pub fn with_parameters(&self, parameters: usize) -> Self {
        self.closest(parameters, Self::parameter_count)
    }

    /// The same network with all widths scaled so that its [`multiply_adds`](Self::multiply_adds) for a
    /// volume of D, H, W voxels come closest to `wanted`.
    #[must_use]
    pub fn with_multiply_adds(&self, wanted: usize, dims: [usize; 3]) -> Self {
        self.closest(wanted, |c| c.multiply_adds(dims))
    }

    fn closest(&self, wanted: usize, measure: impl Fn(&Self) -> usize) -> Self {
        let with_width = |width: f64| {
            let mut config = self.clone();
            let localisation = config.transformer.iter_mut().flat_map(|t| &mut t.blocks);
            let classifier = config.blocks.iter_mut().chain(&mut config.decoder);
            for block in classifier.chain(localisation) {
                block.channels = ((width * block.channels as f64).round() as usize).max(1);
            }
            config
        };
        let widths = (1..=3200).map(|i| with_width(f64::from(i) / 100.0));
        widths.min_by_key(|c| measure(c).abs_diff(wanted)).unwrap_or_else(|| self.clone())
    }

    /// Number of trainable values; 0 where [`Network::new`](crate::Network::new) gives an error.
    pub fn parameter_count(&self) -> usize {
        self.counted(|blocks, heads, outputs| {
            // Filter, and scale and shift of the norm.
            let count = |plan: &LayerPlan| {
                plan.output.irreps.dim() * (plan.input.dim() * plan.size.pow(3) + 2)
            };
            let layers = blocks.iter().flat_map(|block| block.layers()).map(count);
            layers.chain(heads.iter().map(|inputs| (inputs + 1) * outputs)).sum()
        })
    }

    /// Multiply-adds of the convolutions for one volume of D, H, W voxels; 0 where
    /// [`Network::new`](crate::Network::new) gives an error.
    pub fn multiply_adds(&self, dims: [usize; 3]) -> usize {
        let cost = |plan: &LayerPlan| plan.input.dim() * plan.output.dim() * plan.size.pow(3);
        self.counted(|blocks, _, _| total(blocks, dims, cost))
    }

    /// The sum of what `count` says of the localisation network and the rest: of the blocks, and the inputs of each linear
    /// map after them, and its outputs.
    fn counted(&self, count: impl Fn(&Blocks<LayerPlan>, &[usize], usize) -> usize) -> usize {
        let all = || {
            let mut total = 0;
            if let Some(transformer) = &self.transformer {
                let Plan { blocks, last, .. } = front_plan(self, transformer)?;
                total += count(&blocks, &[last.dim() * transformer.cells.pow(3)], POSE);
            }
            let Plan { blocks, last, mut levels } = plan(self)?;
            if !self.deep_supervision {
                levels.clear();
            }
            let heads: Vec<usize> =
                levels.iter().chain([&last]).map(|given| given.irreps.dim()).collect();
            Ok::<_, NnError>(total + count(&blocks, &heads, self.head.outputs(self.classes)))
        };
        all().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device, Tensor};
    use candle_nn::{AdamW, Optimizer, ParamsAdamW};
    use steer3d_so3::Stream;

    use super::*;
    use crate::{Field, Mode, SteerableConfig};

    const N: usize = 15;

    /// A rod along x, turned by `angle` about z.
    fn rod(angle: f64) -> Vec<f32> {
        let (sin, cos) = angle.sin_cos();
        let at = |i: usize| i as f64 - (N - 1) as f64 / 2.0;
        let value = |i: usize| {
            let (x, y, z) = (at(i % N), at(i / N % N), at(i / N / N));
            let (along, across) = (cos * x + sin * y, cos * y - sin * x);
            (-along.powi(2) / 18.0 - (across.powi(2) + z.powi(2)) / 2.0).exp() as f32
        };
        (0..N.pow(3)).map(value).collect()
    }

    fn rods(angles: &[f64]) -> Field {
        let values = angles.iter().flat_map(|&a| rod(a)).collect();
        let values = Tensor::from_vec(values, (angles.len(), 1, N, N, N), &Device::Cpu).unwrap();
        Field::new(scalars(1).unwrap(), values).unwrap()
    }

    #[test]
    fn it_learns_to_turn_an_object_upright() {
        let classifier = PlainConfig::like(&SteerableConfig::small(1, 2).unwrap());
        let classifier =
            PlainConfig { transformer: Some(TransformerConfig::small()), ..classifier };
        let mut params = Params::new(0, DType::F32, &Device::Cpu);
        let transformer = front(&classifier, &mut params).unwrap().unwrap();
        let vars = params.trainable().iter().map(|p| p.var.clone()).collect();
        let settings = ParamsAdamW { lr: 1e-2, weight_decay: 0.0, ..Default::default() };
        let mut adam = AdamW::new(vars, settings).unwrap();
        let mut stream = Stream::new(2, "angles", &[]);
        let upright = rods(&[0.0; 8]);
        let loss = |turned: &Field, mode: Mode| {
            let out = transformer.forward(turned, mode.into(), false, &mut |_, _| ()).unwrap();
            (out.values() - upright.values()).unwrap().sqr().unwrap().mean_all().unwrap()
        };
        let mut losses = vec![];
        for step in 0..80 {
            let angles = [0; 8].map(|_| 1.5 * (stream.uniform() - 0.5));
            let loss = loss(&rods(&angles), Mode::Train { seed: 0, step });
            adam.backward_step(&loss).unwrap();
            losses.push(loss.to_scalar::<f32>().unwrap());
        }
        let mean = |losses: &[f32]| losses.iter().sum::<f32>() / losses.len() as f32;
        let (first, last) = (mean(&losses[..10]), mean(&losses[70..]));
        assert!(last < 0.3 * first, "{first} to {last}");
    }
}
