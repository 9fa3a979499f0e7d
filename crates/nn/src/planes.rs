//! A network without anything global, some planes of constant z at a time: planes flow through the layers, of which each
//! keeps those that a later one still needs. Nothing is computed twice but what is up-sampled, which takes more memory than
//! time.

use std::collections::VecDeque;

use candle_core::Tensor;

use crate::block::{self, Layer};
use crate::error::fault;
use crate::graph::Graph;
use crate::layers::{Pool, Slab};
use crate::{Field, Mode, NnError, Pass};

/// Most values of the output that are computed at once, but for one plane.
const OUTPUTS: usize = 1 << 24;

/// Whether the output at a voxel depends on its neighbourhood alone.
pub(crate) fn is_local(graph: &Graph) -> bool {
    let blocks = || graph.blocks.iter().flat_map(|block| block.layers());
    graph.front.is_none()
        && graph.head.has_space()
        && blocks().all(|layer| layer.conv.site().stride == 1 && layer.norm.is_none())
}

/// Everything that is computed, in an order in which each follows what it is made of.
struct Stages<'a> {
    all: Vec<Stage<'a>>,
    planes: usize,
}

struct Stage<'a> {
    what: What<'a>,
    /// What it is made of: the stage, and its place among the readers of that.
    inputs: Vec<(usize, usize)>,
    /// D,H,W of what it gives.
    size: [usize; 3],
    /// How many voxels of the volume lie along an edge of one of these.
    stride: usize,
    /// For each reader the first plane that it may still ask for.
    readers: Vec<usize>,
    /// Planes that are computed, in pieces, from the first that is needed.
    pieces: VecDeque<(Slab, Field)>,
    /// The end of those that are computed.
    done: usize,
}

#[derive(Clone, Copy)]
enum What<'a> {
    Volume,
    /// Convolution and nonlinearity.
    Layer(&'a Layer),
    /// In each plane.
    PoolInPlanes(Pool),
    /// Along z, where it was pooled in each plane; else along all axes.
    Pool(Pool),
    /// Up-sampled, beside the second input.
    Join(Pool),
    /// The sum of both inputs, through ReLU.
    Sum(bool),
}

pub(crate) fn forward<E: From<NnError>>(
    graph: &Graph,
    dims: [usize; 3],
    planes: usize,
    source: &mut dyn FnMut(usize, usize) -> Result<Tensor, E>,
    sink: &mut dyn FnMut(usize, &Tensor) -> Result<(), E>,
) -> Result<(), E> {
    if !is_local(graph) {
        let problem = "a network with a spatial transformer, strided convolutions, instance norm or an answer for \
                       the whole volume gives no planes";
        return Err(fault::<()>("head", problem).expect_err("a fault").into());
    }
    graph.check_grid(dims)?;
    let (mut stages, last) = Stages::of(graph, dims, planes.max(1))?;
    let reader = stages.read(last);
    let mut volume = |slab: Slab| -> Result<Field, E> {
        let x = source(slab.first, slab.planes)?;
        let x = x.affine(graph.input_scale, 0.0).map_err(NnError::from)?;
        Ok(Field::new(graph.input.clone(), x)?)
    };
    // The head looks at single voxels, and its output may have far more channels than any field.
    let [depth, height, width] = dims;
    let thin = (OUTPUTS / (graph.head.irreps.dim() * height * width).max(1)).max(1);
    for slab in slabs(Slab { first: 0, planes: depth }, stages.planes) {
        let field = stages.take(last, reader, slab, &mut volume)?;
        for part in slabs(slab, thin) {
            let values = field.values().narrow(2, part.first - slab.first, part.planes);
            let values = values.and_then(|values| values.contiguous()).map_err(NnError::from)?;
            let features = graph.head.features(&field.with(values)?, Mode::Evaluate.into())?;
            sink(part.first, &graph.head.output(&features)?.values)?;
        }
    }
    Ok(())
}

/// A slab in pieces of at most so many planes.
fn slabs(whole: Slab, planes: usize) -> impl Iterator<Item = Slab> {
    let starts = (whole.first..whole.end()).step_by(planes);
    starts.map(move |first| Slab { first, planes: planes.min(whole.end() - first) })
}

impl<'a> Stages<'a> {
    /// The stages of a network, and the last of them.
    fn of(graph: &'a Graph, dims: [usize; 3], planes: usize) -> Result<(Self, usize), NnError> {
        let mut stages = std::cell::RefCell::new(Self { all: vec![], planes });
        let first = stages.get_mut().add(What::Volume, &[], dims, 1);
        let last = block::walk(
            &graph.blocks,
            first,
            |block, &input| {
                let stages = &mut *stages.borrow_mut();
                let mut at = input;
                for layer in &block.layers {
                    at = stages.layer(layer, at)?;
                }
                let Some(residual) = &block.residual else { return Ok(at) };
                let mut added = input;
                if let Some(pool) = block.pool {
                    added = stages.pool(pool, added);
                }
                if let Some(skip) = &residual.skip {
                    added = stages.layer(skip, added)?;
                }
                let Stage { size, stride, .. } = stages.all[at];
                Ok::<_, NnError>(stages.add(What::Sum(residual.relu), &[added, at], size, stride))
            },
            |&coarse, &fine, pool| {
                let stages = &mut *stages.borrow_mut();
                let Stage { size, stride, .. } = stages.all[fine];
                Ok(stages.add(What::Join(pool), &[coarse, fine], size, stride))
            },
        )?;
        Ok((stages.into_inner(), last))
    }

    fn layer(&mut self, layer: &'a Layer, input: usize) -> Result<usize, NnError> {
        let Stage { size, stride, .. } = self.all[input];
        let at = self.add(What::Layer(layer), &[input], size, stride);
        Ok(layer.pool.map_or(at, |pool| self.pool(pool, at)))
    }

    fn pool(&mut self, pool: Pool, input: usize) -> usize {
        let Stage { size, stride, .. } = self.all[input];
        let pooled = pool.pooled(size);
        let shrunk = size[0].div_ceil(pooled[0].max(1));
        let mut input = input;
        if pool.has_planes() {
            let [_, height, width] = pooled;
            input = self.add(What::PoolInPlanes(pool), &[input], [size[0], height, width], stride);
        }
        self.add(What::Pool(pool), &[input], pooled, stride * shrunk)
    }

    fn add(&mut self, what: What<'a>, inputs: &[usize], size: [usize; 3], stride: usize) -> usize {
        let inputs = inputs.iter().map(|&input| (input, self.read(input))).collect();
        let (readers, pieces) = (vec![], VecDeque::new());
        self.all.push(Stage { what, inputs, size, stride, readers, pieces, done: 0 });
        self.all.len() - 1
    }

    /// Adds a reader.
    fn read(&mut self, stage: usize) -> usize {
        self.all[stage].readers.push(0);
        self.all[stage].readers.len() - 1
    }

    /// Planes of what a stage gives. No reader asks for one before the first of the last time.
    fn take<E: From<NnError>>(
        &mut self,
        stage: usize,
        reader: usize,
        slab: Slab,
        volume: &mut dyn FnMut(Slab) -> Result<Field, E>,
    ) -> Result<Field, E> {
        let Stage { what, done, stride, ref readers, .. } = self.all[stage];
        // Several readers ask in turns, and its inputs know the last one alone.
        if matches!(what, What::Join(_)) && readers.len() == 1 {
            return self.compute(stage, slab, volume);
        }
        if done < slab.end() {
            let at_once = (self.planes / stride).max(1);
            for next in slabs(Slab { first: done, planes: slab.end() - done }, at_once) {
                let field = self.compute(stage, next, volume)?;
                let stage = &mut self.all[stage];
                stage.pieces.push_back((next, field));
                stage.done = next.end();
            }
        }
        let stage = &mut self.all[stage];
        let field = assembled(&stage.pieces, slab)?;
        stage.readers[reader] = slab.first;
        let needed = stage.readers.iter().copied().min().unwrap_or(0);
        while stage.pieces.front().is_some_and(|(piece, _)| piece.end() <= needed) {
            stage.pieces.pop_front();
        }
        Ok(field)
    }

    fn compute<E: From<NnError>>(
        &mut self,
        stage: usize,
        slab: Slab,
        volume: &mut dyn FnMut(Slab) -> Result<Field, E>,
    ) -> Result<Field, E> {
        let Stage { what, size, .. } = self.all[stage];
        // The depth of what is read where the number of planes changes, or ends.
        let depth = self.all[stage].inputs.first().map_or(0, |&(input, _)| self.all[input].size[0]);
        let mut from = |input: usize, slab: Slab| {
            let (input, reader) = self.all[stage].inputs[input];
            self.take(input, reader, slab, volume)
        };
        let field = match what {
            What::Volume => return volume(slab),
            What::Layer(layer) => layer_planes(layer, depth, slab, |slab| from(0, slab))?,
            What::PoolInPlanes(pool) => pool.forward_in_planes(&from(0, slab)?)?,
            What::Pool(pool) => pool.forward_planes(depth, slab, |slab| from(0, slab))?,
            What::Join(pool) => {
                let risen = pool.upsample_planes(size, slab, |slab| from(0, slab))?;
                risen.beside(&from(1, slab)?)?
            }
            What::Sum(relu) => {
                let sum = from(0, slab)?.plus(&from(1, slab)?)?;
                if relu { sum.with(sum.values().relu().map_err(NnError::from)?)? } else { sum }
            }
        };
        Ok(field)
    }
}

/// Planes of a convolution and its nonlinearity, zero outside the volume.
fn layer_planes<E: From<NnError>>(
    layer: &Layer,
    depth: usize,
    wanted: Slab,
    planes: impl FnOnce(Slab) -> Result<Field, E>,
) -> Result<Field, E> {
    let half = layer.conv.site().size / 2;
    let first = wanted.first.saturating_sub(half);
    let end = (wanted.end() + half).min(depth);
    let field = planes(Slab { first, planes: end - first })?;
    let before = half - (wanted.first - first);
    let after = wanted.end() + half - end;
    let mut values = field.values().clone();
    if before + after > 0 {
        values = values.pad_with_zeros(2, before, after).map_err(NnError::from)?;
    }
    let field = layer.conv.forward_planes(&field.with(values)?)?;
    match &layer.nonlinearity {
        Some(next) => Ok(next.forward_t(&field, Pass::from(Mode::Evaluate))?),
        None => Ok(field),
    }
}

/// A slab that lies in pieces which follow one another.
fn assembled(pieces: &VecDeque<(Slab, Field)>, slab: Slab) -> Result<Field, NnError> {
    let within = |(piece, field): &(Slab, Field)| {
        let first = slab.first.max(piece.first);
        let end = slab.end().min(piece.end());
        (first < end).then(|| field.values().narrow(2, first - piece.first, end - first))
    };
    let parts = pieces.iter().filter_map(within).collect::<candle_core::Result<Vec<Tensor>>>()?;
    let Some((_, field)) = pieces.front() else { return fault("graph", "a stage gave no planes") };
    match &parts[..] {
        [one] => field.with(one.contiguous()?),
        parts => field.with(Tensor::cat(parts, 2)?),
    }
}
