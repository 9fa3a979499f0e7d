use std::sync::Arc;

use steer3d_so3::Irreps;

use crate::block::{Block, Blocks, Layer};
use crate::error::fault;
use crate::layers::{ConvConfig, Convolution, SteerableConv3d};
use crate::plan::LayerPlan;
use crate::{FieldType, Head, NnError, Params, Scope};

/// The blocks of a plan, with the layers that `layer` makes of the plans of layers.
pub(crate) fn built(
    plan: &Blocks<LayerPlan>,
    params: &mut Params,
    layer: impl Fn(&mut Params, &LayerPlan) -> Result<Layer, NnError>,
) -> Result<Blocks<Layer>, NnError> {
    let block = |block: &Arc<Block<LayerPlan>>| {
        let before = params.trainable().len();
        let block = block.map(|plan| layer(params, plan))?;
        Ok(Arc::new(Block { weights: params.trainable_after(before), ..block }))
    };
    plan.iter().map(block).collect()
}

/// The last map of a network whose head gives fields.
pub(crate) fn field_head(
    params: Scope<'_>,
    from: &Irreps,
    to: &Irreps,
) -> Result<Box<dyn Convolution>, NnError> {
    let config = ConvConfig { bias: true, ..ConvConfig::pointwise(from, to) };
    Ok(Box::new(SteerableConv3d::new(params, config)?))
}

/// The heads of deep supervision if it is `on`, which give `to` for what the decoder gives on each of its `levels`.
pub(crate) fn supervision(
    on: bool,
    params: &mut Params,
    levels: &[FieldType],
    head: &Head,
    to: &Irreps,
) -> Result<Vec<Box<dyn Convolution>>, NnError> {
    if !on {
        return Ok(vec![]);
    }
    if *head != Head::Voxels || levels.is_empty() {
        let problem = "needs head = \"voxels\" and a decoder of at least two blocks";
        return fault("deep_supervision", problem);
    }
    let mut params = params.pp("supervision");
    let head = |(i, from): (usize, &FieldType)| field_head(params.pp(i), &from.irreps, to);
    levels.iter().enumerate().map(head).collect()
}

pub(crate) fn check_outputs(head: &Head, classes: usize) -> Result<(), NnError> {
    match head {
        Head::Classes | Head::Voxels if classes < 2 => {
            fault("classes", format!("expected at least 2, found {classes}"))
        }
        Head::Scalars if classes == 0 => {
            fault("classes", "expected at least 1 number to predict, found 0")
        }
        Head::Field { .. } if classes > 0 => {
            fault("classes", "a field head has irreps and no classes: leave it out")
        }
        _ => Ok(()),
    }
}

pub(crate) fn check_scale(scale: f64) -> Result<(), NnError> {
    if scale.is_finite() && scale > 0.0 {
        return Ok(());
    }
    fault("input_scale", format!("expected a positive number, found {scale}"))
}
