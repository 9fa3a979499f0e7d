use std::cell::RefCell;
use std::convert::Infallible;
use std::sync::Arc;

use candle_core::Tensor;

use crate::config::Normalisation;
use crate::layers::{
    Convolution, ConvolutionPath, FieldBatchNorm, FieldDropout, FieldInstanceNorm, FieldLayer,
    NormConfig, Pool,
};
use crate::onnx::{OnnxField, OnnxGraph};
use crate::recompute::recomputed;
use crate::{Field, Mode, NnError, Pass, Scope};

/// Is shown the field that each layer gives, under the layer's name.
pub(crate) type Observer<'a> = dyn FnMut(&str, &Field) + 'a;

/// Is given the field before it is up-sampled by a pool to a grid of so many voxels D, H, W.
pub(crate) type Rising<'a> = dyn FnMut(&Field, Pool, [usize; 3]) -> Result<(), NnError> + 'a;

/// A convolution and what of norm, nonlinearity, pooling and dropout follows it, in this order.
#[derive(Debug)]
pub(crate) struct Layer {
    /// The beginning of the names under which it is observed.
    pub(crate) title: String,
    /// Whether it is observed.
    pub(crate) observed: bool,
    pub(crate) conv: Box<dyn Convolution>,
    pub(crate) norm: Option<Norm>,
    pub(crate) nonlinearity: Option<Box<dyn FieldLayer>>,
    /// What an observer hears of norm and nonlinearity.
    pub(crate) norm_title: &'static str,
    pub(crate) pool: Option<Pool>,
    pub(crate) dropout: Option<FieldDropout>,
}

/// What follows a convolution.
#[derive(Debug)]
pub(crate) enum Norm {
    Batch(FieldBatchNorm),
    Instance(FieldInstanceNorm),
}

impl Norm {
    pub(crate) fn new(
        kind: Normalisation,
        params: Scope<'_>,
        config: impl Into<NormConfig>,
    ) -> Result<Self, NnError> {
        Ok(match kind {
            Normalisation::Batch => Self::Batch(FieldBatchNorm::new(params, config)?),
            Normalisation::Instance => Self::Instance(FieldInstanceNorm::new(params, config)?),
        })
    }

    fn layer(&self) -> &dyn FieldLayer {
        match self {
            Self::Batch(norm) => norm,
            Self::Instance(norm) => norm,
        }
    }

    fn forward_then(
        &self,
        next: &dyn FieldLayer,
        field: &Field,
        pass: Pass,
    ) -> Result<Field, NnError> {
        match self {
            Self::Batch(norm) => norm.forward_then(next, field, pass),
            Self::Instance(norm) => next.forward_t(&norm.forward_t(field, pass)?, pass),
        }
    }
}

/// One or, in a residual block, two layers `L`: built ones or plans of them.
#[derive(Debug)]
pub(crate) struct Block<L> {
    pub(crate) title: String,
    pub(crate) layers: Vec<L>,
    /// What is added to the output of the layers, if anything is.
    pub(crate) residual: Option<Residual<L>>,
    /// How the first layer shrinks the grid.
    pub(crate) pool: Option<Pool>,
    /// Whether a later block joins what this one is given.
    pub(crate) kept: bool,
    /// The kept block whose input it is given beside the up-sampled field.
    pub(crate) joins: Option<usize>,
    /// All trainable tensors of the layers.
    pub(crate) weights: Vec<Tensor>,
}

/// What a residual block adds: its input, on the new grid, of the new type.
#[derive(Debug)]
pub(crate) struct Residual<L> {
    /// Takes the input to the new type.
    pub(crate) skip: Option<L>,
    /// Whether the sum passes through ReLU.
    pub(crate) relu: bool,
}

pub(crate) type Blocks<L> = Vec<Arc<Block<L>>>;

/// What a convolution of a network costs.
#[derive(Debug, Clone, PartialEq)]
pub struct ConvolutionInfo {
    /// The name that it has in [`Network::layers`](crate::Network::layers).
    pub layer: String,
    /// How it is computed.
    pub path: ConvolutionPath,
    /// Multiply-adds for each output voxel.
    pub cost: usize,
}

impl Layer {
    fn forward(
        &self,
        field: &Field,
        pass: Pass,
        observe: &mut Observer<'_>,
    ) -> Result<Field, NnError> {
        let mut observe = |what: &str, field: &Field| {
            if self.observed {
                observe(&format!("{} {what}", self.title), field);
            }
        };
        let mut field = self.conv.forward_t(field, pass)?;
        observe("convolution", &field);
        match (&self.norm, &self.nonlinearity) {
            (Some(norm), Some(next)) => field = norm.forward_then(&**next, &field, pass)?,
            (Some(norm), None) => field = norm.layer().forward_t(&field, pass)?,
            (None, Some(next)) => field = next.forward_t(&field, pass)?,
            (None, None) => {}
        }
        observe(self.norm_title, &field);
        if let Some(pool) = self.pool {
            field = pool.forward(&field)?;
            observe("pooling", &field);
        }
        self.dropout.as_ref().map_or(Ok(field.clone()), |d| d.forward_t(&field, pass))
    }

    /// For evaluation, with a batch norm in the convolution.
    fn folded(&self) -> Result<Self, NnError> {
        let (conv, norm) = match &self.norm {
            Some(Norm::Batch(norm)) => (self.conv.folded_with(norm)?, None),
            Some(Norm::Instance(norm)) => {
                (self.conv.frozen()?, Some(Norm::Instance(norm.frozen()?)))
            }
            None => (self.conv.frozen()?, None),
        };
        Ok(Self {
            title: self.title.clone(),
            observed: self.observed,
            conv: Box::new(conv),
            norm,
            nonlinearity: self.nonlinearity.as_ref().map(|n| n.folded()).transpose()?,
            norm_title: self.norm_title,
            pool: self.pool,
            dropout: None,
        })
    }

    /// The place of its weights.
    fn place(&self) -> &str {
        let name = &self.conv.site().name;
        name.strip_suffix(".conv").unwrap_or(name)
    }

    fn export(&self, field: &OnnxField, graph: &mut OnnxGraph) -> Result<OnnxField, NnError> {
        let mut field = self.conv.export(field, graph)?;
        if let Some(norm) = &self.norm {
            field = norm.layer().export(&field, graph)?;
        }
        if let Some(next) = &self.nonlinearity {
            graph.enter(format!("{}.nonlinearity", self.place()));
            field = next.export(&field, graph)?;
        }
        let Some(pool) = self.pool else { return Ok(field) };
        graph.enter(format!("{}.pool", self.place()));
        pool.export(&field, graph)
    }

    pub(crate) fn convolution(&self) -> ConvolutionInfo {
        let layer =
            if self.observed { format!("{} convolution", self.title) } else { self.title.clone() };
        ConvolutionInfo { layer, path: self.conv.path(), cost: self.conv.cost() }
    }
}

impl<L> Block<L> {
    /// All layers, that of the skip last.
    pub(crate) fn layers(&self) -> impl Iterator<Item = &L> {
        let skip = self.residual.iter().filter_map(|residual| residual.skip.as_ref());
        self.layers.iter().chain(skip)
    }

    /// The same block of other layers, without weights.
    pub(crate) fn map<M>(
        &self,
        mut layer: impl FnMut(&L) -> Result<M, NnError>,
    ) -> Result<Block<M>, NnError> {
        let layers = self.layers.iter().map(&mut layer).collect::<Result<_, _>>()?;
        let residual = |r: &Residual<L>| {
            let skip = r.skip.as_ref().map(&mut layer).transpose()?;
            Ok::<_, NnError>(Residual { skip, relu: r.relu })
        };
        Ok(Block {
            title: self.title.clone(),
            layers,
            residual: self.residual.as_ref().map(residual).transpose()?,
            pool: self.pool,
            kept: self.kept,
            joins: self.joins,
            weights: vec![],
        })
    }
}

impl Block<Layer> {
    fn forward(
        &self,
        input: &Field,
        pass: Pass,
        observe: &mut Observer<'_>,
    ) -> Result<Field, NnError> {
        let mut field = input.clone();
        for layer in &self.layers {
            field = layer.forward(&field, pass, observe)?;
        }
        let Some(Residual { skip, relu }) = &self.residual else { return Ok(field) };
        let mut added = self.pool.map_or(Ok(input.clone()), |pool| pool.forward(input))?;
        if let Some(skip) = skip {
            added = skip.forward(&added, pass, observe)?;
        }
        let mut sum = added.plus(&field)?;
        if *relu {
            sum = sum.with(sum.values().relu()?)?;
        }
        let name = if *relu { "sum and ReLU" } else { "sum" };
        observe(&format!("{} {name}", self.title), &sum);
        Ok(sum)
    }
}

impl Block<Layer> {
    fn export(&self, input: &OnnxField, graph: &mut OnnxGraph) -> Result<OnnxField, NnError> {
        let mut field = input.clone();
        for layer in &self.layers {
            field = layer.export(&field, graph)?;
        }
        let Some(Residual { skip, relu }) = &self.residual else { return Ok(field) };
        let place = self.layers.first().map_or("", Layer::place).trim_end_matches(".layers.0");
        graph.enter(format!("{place}.skip.pool"));
        let mut added = self.pool.map_or(Ok(input.clone()), |pool| pool.export(input, graph))?;
        if let Some(skip) = skip {
            added = skip.export(&added, graph)?;
        }
        graph.enter(place);
        let mut value = graph.node("Add", &[&added.value, &field.value], &[]);
        if *relu {
            value = graph.node("Relu", &[&value], &[]);
        }
        Ok(OnnxField { value, kind: field.kind })
    }
}

/// What the last of `blocks` gives: `through` takes a value through a block, and `join` the value so far, up-sampled,
/// beside one that a block with a pool was given.
pub(crate) fn walk<'a, L, T: Clone, E>(
    blocks: &'a [Arc<Block<L>>],
    start: T,
    mut through: impl FnMut(&'a Arc<Block<L>>, &T) -> Result<T, E>,
    mut join: impl FnMut(&T, &T, Pool) -> Result<T, E>,
) -> Result<T, E> {
    let mut kept: Vec<Option<T>> = blocks.iter().map(|_| None).collect();
    let mut value = start;
    for (i, block) in blocks.iter().enumerate() {
        if let Some(from) = block.joins
            && let (Some(before), Some(pool)) = (kept[from].take(), blocks[from].pool)
        {
            value = join(&value, &before, pool)?;
        }
        kept[i] = block.kept.then(|| value.clone());
        value = through(block, &value)?;
    }
    Ok(value)
}

/// What the last of `blocks` makes of a field. With `recompute` the backward pass of a training step runs each block
/// again and nothing but their inputs is kept for it.
pub(crate) fn run(
    blocks: &[Arc<Block<Layer>>],
    field: &Field,
    pass: Pass,
    recompute: bool,
    observe: &mut Observer<'_>,
    rising: &mut Rising<'_>,
) -> Result<Field, NnError> {
    let through = |block: &Arc<Block<Layer>>, field: &Field| {
        if !recompute || pass.mode == Mode::Evaluate {
            return block.forward(field, pass, observe);
        }
        let whole = Arc::clone(block);
        recomputed(field, &block.weights, move |field, again| {
            whole.forward(field, Pass { again, ..pass }, &mut |_, _| ())
        })
    };
    walk(blocks, field.clone(), through, |field, before, pool| {
        rising(field, pool, before.size())?;
        pool.upsample(field, before.size())?.beside(before)
    })
}

/// `blocks` for evaluation.
pub(crate) fn folded(blocks: &[Arc<Block<Layer>>]) -> Result<Blocks<Layer>, NnError> {
    blocks.iter().map(|block| Ok(Arc::new(block.map(Layer::folded)?))).collect()
}

/// Adds what the last of `blocks` makes of a field to a graph.
pub(crate) fn export(
    blocks: &[Arc<Block<Layer>>],
    field: &OnnxField,
    graph: &mut OnnxGraph,
) -> Result<OnnxField, NnError> {
    let graph = RefCell::new(graph);
    let through =
        |block: &Arc<Block<Layer>>, field: &OnnxField| block.export(field, &mut graph.borrow_mut());
    walk(blocks, field.clone(), through, |field, before, pool| {
        let graph = &mut graph.borrow_mut();
        graph.enter("join");
        let risen = pool.export_upsampling(field, &before.value, graph)?;
        let value = graph.beside(&[&risen.value, &before.value]);
        Ok(OnnxField { value, kind: field.kind.beside(&before.kind)? })
    })
}

/// Whether something is left of a volume of D, H, W voxels after every block.
pub(crate) fn suits<L>(blocks: &[Arc<Block<L>>], dims: [usize; 3]) -> bool {
    let mut left = !dims.contains(&0);
    let through = |block: &Arc<Block<L>>, dims: &[usize; 3]| {
        let pooled = block.pool.map_or(*dims, |pool| pool.pooled(*dims));
        left &= !pooled.contains(&0);
        Ok::<_, Infallible>(pooled)
    };
    let Ok(_) = walk(blocks, dims, through, |_, kept, _| Ok(*kept));
    left
}

/// The sum over layers, for a volume of D, H, W voxels, of `cost` for each voxel of the output before pooling.
pub(crate) fn total<L>(
    blocks: &[Arc<Block<L>>],
    dims: [usize; 3],
    cost: impl Fn(&L) -> usize,
) -> usize {
    let mut total = 0;
    let through = |block: &Arc<Block<L>>, dims: &[usize; 3]| {
        let pooled = block.pool.map_or(*dims, |pool| pool.pooled(*dims));
        for (i, layer) in block.layers().enumerate() {
            let dims = if i == 0 { dims } else { &pooled };
            let voxels = dims.iter().fold(1, |voxels: usize, &n| voxels.saturating_mul(n));
            total = voxels.saturating_mul(cost(layer)).saturating_add(total);
        }
        Ok::<_, Infallible>(pooled)
    };
    let Ok(_) = walk(blocks, dims, through, |_, kept, _| Ok(*kept));
    total
}
