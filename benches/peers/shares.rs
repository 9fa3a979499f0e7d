//! What takes how much of the training step: every operation timed alone on tensors of the sizes that it
//! has there.

use anyhow::Result;
use candle_core::{DType, Device, Tensor, Var};
use candle_nn::loss::cross_entropy;
use steer3d::kernels::Family;
use steer3d::nn::layers::{
    ConvConfig, FieldBatchNorm, FieldLayer, Gate, InvariantPool, Linear, LinearConfig,
    SteerableConv3d,
};
use steer3d::nn::{Field, Mode, NnError, Params};
use steer3d::so3::Irreps;
use steer3d::train::{Gradients, Optimiser, OptimiserConfig};

use super::{ORDER, SIZE, blocks, line, network, seconds, training_step, volume};

const LAYERS: usize = 5;

/// Seconds of one kind of operation, over the whole network.
#[derive(Default)]
struct Share {
    forward: f64,
    backward: f64,
}

pub(super) fn print(edge: usize, repeats: usize) -> Result<()> {
    let mut params = Params::new(0, DType::F32, &Device::Cpu);
    let mode = Mode::Train { seed: 0, step: 0 };
    let mut kinds = ["convolution", "batch norm and gate", "pooling, head and loss"]
        .map(|name| (name, Share::default()));
    let mut accumulated = 0.0;
    let mut irreps: Irreps = "1x0".parse()?;
    let mut add = |kind: usize, irreps: &Irreps, tracked, op: &dyn Fn(&Field) -> Result<Tensor>| {
        let x = volume(irreps.dim(), edge)?;
        let [forward, backward, accumulation] = passes(&x, irreps, tracked, op, repeats)?;
        kinds[kind].1.forward += forward;
        kinds[kind].1.backward += backward;
        accumulated += accumulation;
        Ok::<_, anyhow::Error>(())
    };
    for (i, fields) in blocks(LAYERS).enumerate() {
        let gate = Gate::new(&fields.parse()?)?;
        let (kernel, inner) = (Family::jets(ORDER), gate.irreps_in());
        let config = ConvConfig { size: SIZE, kernel, ..ConvConfig::new(&irreps, inner) };
        let conv = SteerableConv3d::new(params.pp(i).pp("conv"), config)?;
        let norm = FieldBatchNorm::new(params.pp(i).pp("norm"), inner)?;
        let values = |field: Result<Field, NnError>| Ok(field?.values().clone());
        add(0, &irreps, i > 0, &|x| values(conv.forward(x)))?;
        add(1, inner, true, &|x| values(norm.forward_then(&gate, x, mode.into())))?;
        irreps = gate.irreps_out().clone();
    }
    let head = Linear::new(params.pp("head"), LinearConfig::new(irreps.dim(), 3))?;
    let labels = Tensor::new(&[1u32], &Device::Cpu)?;
    add(2, &irreps, true, &|x| {
        Ok(cross_entropy(&head.forward(&InvariantPool.forward(x)?)?, &labels)?)
    })?;
    let step = seconds(training_step(LAYERS, edge, false)?, repeats)?[0];
    let percent = |seconds: f64| 100.0 * seconds / step;
    line(&format!("whole step: {:.0} ms\n", 1e3 * step));
    line("| operation | forward, ms | backward, ms | of the step |\n|---|---|---|---|");
    let mut rest = step;
    for (name, share) in kinds {
        let total = share.forward + share.backward;
        let [forward, backward] = [share.forward, share.backward].map(|s| 1e3 * s);
        line(&format!("| {name} | {forward:.1} | {backward:.1} | {:.1} % |", percent(total)));
        rest -= total;
    }
    let optimiser = optimiser(repeats)?;
    for (name, total) in
        [("gradients set to zero and added by candle", accumulated), ("AdamW", optimiser)]
    {
        line(&format!("| {name} | | {:.1} | {:.1} % |", 1e3 * total, percent(total)));
        rest -= total;
    }
    line(&format!("| what is left | | {:.1} | {:.1} % |", 1e3 * rest, percent(rest)));
    Ok(())
}

/// Seconds of the forward pass of `op`, of its backward pass, and of what candle does with the gradient
/// of its input: add it to zeros.
fn passes(
    x: &Var,
    irreps: &Irreps,
    tracked: bool,
    op: &dyn Fn(&Field) -> Result<Tensor>,
    repeats: usize,
) -> Result<[f64; 3]> {
    let input = if tracked { x.as_tensor().clone() } else { x.as_detached_tensor() };
    let field = Field::new(irreps.clone(), input)?;
    let forward = seconds(|| op(&field), repeats)?[0];
    let out = op(&field)?;
    let grad = out.randn_like(0.0, 1.0)?.detach();
    let pull = |y: &Tensor| Ok((y * &grad)?.sum_all()?.backward()?);
    let both = seconds(|| pull(&out), repeats)?[0];
    let leaf = Var::from_tensor(&out.detach())?;
    let seed = seconds(|| pull(&leaf), repeats)?[0];
    let detached = x.as_detached_tensor();
    let accumulate = || Ok((detached.zeros_like()? + &detached)?);
    let accumulation = if tracked { seconds(accumulate, repeats)?[0] } else { 0.0 };
    Ok([forward, (both - seed - accumulation).max(0.0), accumulation])
}

fn optimiser(repeats: usize) -> Result<f64> {
    let network = network(LAYERS)?;
    let mut adam = Optimiser::new(&OptimiserConfig::default(), network.params(), 1e-3)?;
    let logits = network.forward(&volume(1, 5)?.as_detached_tensor(), Mode::Evaluate)?;
    let grads = logits.sum_all()?.backward()?;
    Ok(seconds(
        || Ok(adam.step(network.params(), &Gradients::of(network.params(), &grads), 1e-3)?),
        repeats,
    )?[0])
}
