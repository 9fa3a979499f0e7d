use std::iter;

use candle_core::{DType, Tensor};
use steer3d_ops::global_avg_pool;
use steer3d_so3::Irreps;

use crate::block::{self, Blocks, ConvolutionInfo, Layer, Observer, Rising};
use crate::field::widened;
use crate::layers::{Convolution, FieldBatchNorm, FieldLayer, Linear, Pool};
use crate::onnx::{Attribute, OnnxField, OnnxGraph, Value};
use crate::transformer::Transformer;
use crate::{Field, LayerField, Mode, NnError, Pass};

/// A network: blocks of layers, maybe a spatial transformer in front of them, and a head.
#[derive(Debug)]
pub(crate) struct Graph {
    pub(crate) input: Irreps,
    /// Factor applied to the volumes first.
    pub(crate) input_scale: f64,
    pub(crate) front: Option<Transformer>,
    /// Down, and up again in a U-Net.
    pub(crate) blocks: Blocks<Layer>,
    pub(crate) head: Output,
    /// The heads of the decoder's blocks but the last, for training.
    pub(crate) supervision: Vec<Box<dyn Convolution>>,
}

/// The last map of a network.
#[derive(Debug)]
pub(crate) struct Output {
    pub(crate) map: Map,
    /// The name and the type of what it gives.
    pub(crate) name: &'static str,
    pub(crate) irreps: Irreps,
    pub(crate) dtype: DType,
}

#[derive(Debug)]
pub(crate) enum Map {
    /// Of the mean over space of the invariant channels.
    Linear { norm: Option<FieldBatchNorm>, linear: Linear },
    /// Of every voxel or, if `pooled`, of the mean over space.
    Field { map: Box<dyn Convolution>, pooled: bool },
}

impl Graph {
    /// What the head is given, and what it gives, for volumes of shape N,C,D,H,W.
    pub(crate) fn forward(
        &self,
        x: &Tensor,
        pass: Pass,
        recompute: bool,
        observe: &mut Observer<'_>,
    ) -> Result<[LayerField; 2], NnError> {
        self.run(x, pass, recompute, observe, &mut |_, _, _| Ok(()))
    }

    /// What it gives, and what the heads of the decoder's blocks give on the same grid, finest first.
    pub(crate) fn supervised(
        &self,
        x: &Tensor,
        pass: Pass,
        recompute: bool,
    ) -> Result<Vec<Tensor>, NnError> {
        let mut levels: Vec<Field> = vec![];
        // What rises first is from below the decoder.
        let mut heads = iter::once(None).chain(self.supervision.iter().map(Some));
        let mut rising = |field: &Field, pool: Pool, size: [usize; 3]| {
            if let Some(head) = heads.next().flatten() {
                levels.push(head.forward(&field.mean_over_orientations()?)?);
            }
            for level in &mut levels {
                *level = pool.upsample(level, size)?;
            }
            Ok(())
        };
        let [_, output] = self.run(x, pass, recompute, &mut |_, _| (), &mut rising)?;
        let levels = levels.iter().rev().map(|level| level.values().to_dtype(self.head.dtype));
        Ok(iter::once(Ok(output.values)).chain(levels).collect::<Result<_, _>>()?)
    }

    fn run(
        &self,
        x: &Tensor,
        pass: Pass,
        recompute: bool,
        observe: &mut Observer<'_>,
        rising: &mut Rising<'_>,
    ) -> Result<[LayerField; 2], NnError> {
        let mut field = Field::new(self.input.clone(), x.affine(self.input_scale, 0.0)?)?;
        self.check_grid(field.size())?;
        if let Some(front) = &self.front {
            field = front.forward(&field, pass, recompute, observe)?;
        }
        field = block::run(&self.blocks, &field, pass, recompute, observe, rising)?;
        let features = self.head.features(&field, pass)?;
        let output = self.head.output(&features)?;
        Ok([features, output])
    }

    /// The output of every layer at evaluation.
    pub(crate) fn layers(&self, x: &Tensor) -> Result<Vec<LayerField>, NnError> {
        let mut fields = vec![];
        let mut observe = |name: &str, field: &Field| fields.push((name.into(), field.clone()));
        let last = self.forward(x, Mode::Evaluate.into(), false, &mut observe)?;
        let layer = |(name, field): (String, Field)| {
            let field = field.mean_over_orientations()?;
            let (irreps, values) = (field.irreps().clone(), field.values().clone());
            Ok(LayerField { name, irreps, values })
        };
        fields.into_iter().map(layer).chain(last.map(Ok)).collect()
    }

    pub(crate) fn folded(&self) -> Result<Self, NnError> {
        Ok(Self {
            input: self.input.clone(),
            input_scale: self.input_scale,
            front: self.front.as_ref().map(Transformer::folded).transpose()?,
            blocks: block::folded(&self.blocks)?,
            head: self.head.folded()?,
            supervision: vec![],
        })
    }

    /// Adds what the network gives for a volume to an ONNX graph.
    pub(crate) fn export(
        &self,
        volume: &OnnxField,
        graph: &mut OnnxGraph,
    ) -> Result<Value, NnError> {
        let mut field = volume.clone();
        if self.input_scale != 1.0 {
            let scale = graph.number(self.input_scale);
            field.value = graph.node("Mul", &[&field.value, &scale], &[]);
        }
        if let Some(front) = &self.front {
            field = front.export(&field, graph)?;
        }
        field = block::export(&self.blocks, &field, graph)?;
        graph.enter("head");
        self.head.export(&field, graph)
    }

    /// Whether volumes of D, H, W voxels are large enough.
    ///
    /// # Errors
    /// [`NnError::Grid`] if they are not.
    pub(crate) fn check_grid(&self, dims: [usize; 3]) -> Result<(), NnError> {
        let front = self.front.iter().map(|front| &front.blocks);
        let suits = |dims| front.clone().chain([&self.blocks]).all(|b| block::suits(b, dims));
        if suits(dims) {
            return Ok(());
        }
        let least = (1..).find(|&n| suits([n; 3])).unwrap_or(usize::MAX);
        Err(NnError::Grid { dims, least })
    }

    /// The convolutions, first to last.
    pub(crate) fn convolutions(&self) -> Vec<ConvolutionInfo> {
        let blocks = self.front.iter().flat_map(|front| &front.blocks).chain(&self.blocks);
        blocks.flat_map(|block| block.layers()).map(Layer::convolution).collect()
    }

    /// The sum of what `cost` says of each voxel of the output of each convolution, for one volume of D, H, W voxels.
    pub(crate) fn total(
        &self,
        dims: [usize; 3],
        cost: impl Fn(&dyn Convolution) -> usize,
    ) -> usize {
        let of = |blocks: &Blocks<Layer>| block::total(blocks, dims, |layer| cost(&*layer.conv));
        let front = self.front.iter().map(|front| of(&front.blocks)).sum::<usize>();
        front.saturating_add(of(&self.blocks))
    }
}

impl Output {
    pub(crate) fn features(&self, field: &Field, pass: Pass) -> Result<LayerField, NnError> {
        let irreps = field.irreps().clone();
        let values = match &self.map {
            Map::Field { pooled: false, .. } => field.mean_over_orientations()?.values().clone(),
            Map::Field { pooled: true, .. } | Map::Linear { norm: None, .. } => pooled(field)?,
            Map::Linear { norm: Some(norm), .. } => {
                voxelwise(&irreps, &pooled(field)?, |f| norm.forward_t(f, pass))?
            }
        };
        Ok(LayerField { name: "features".into(), irreps, values })
    }

    pub(crate) fn output(&self, features: &LayerField) -> Result<LayerField, NnError> {
        let values = match &self.map {
            Map::Linear { linear, .. } => linear.forward(&features.values)?,
            Map::Field { map, .. } => {
                let values = voxelwise(&features.irreps, &features.values, |f| map.forward(f))?;
                values.to_dtype(self.dtype)?
            }
        };
        Ok(LayerField { name: self.name.into(), irreps: self.irreps.clone(), values })
    }

    fn export(&self, field: &OnnxField, graph: &mut OnnxGraph) -> Result<Value, NnError> {
        let mut field = field.clone();
        if !self.has_space() {
            field.value = graph.node("GlobalAveragePool", &[&field.value], &[]);
        }
        field = graph.mean_over_orientations(&field)?;
        let rows = [("axis", Attribute::Int(1))];
        match &self.map {
            Map::Linear { norm, linear } => {
                if let Some(norm) = norm {
                    field = norm.export(&field, graph)?;
                }
                let row = graph.node("Flatten", &[&field.value], &rows);
                graph.enter("head");
                linear.export(&row, (1.0, &[]), graph)
            }
            Map::Field { map, pooled } => {
                let field = map.export(&field, graph)?;
                if !pooled {
                    return Ok(field.value);
                }
                Ok(graph.node("Flatten", &[&field.value], &rows))
            }
        }
    }

    /// Whether it gives an answer for every voxel.
    pub(crate) fn has_space(&self) -> bool {
        matches!(self.map, Map::Field { pooled: false, .. })
    }

    fn folded(&self) -> Result<Self, NnError> {
        let map = match &self.map {
            Map::Linear { norm, linear } => {
                Map::Linear { norm: None, linear: linear.folded(norm.as_ref())? }
            }
            Map::Field { map, pooled } => {
                Map::Field { map: Box::new(map.frozen()?), pooled: *pooled }
            }
        };
        Ok(Self { map, name: self.name, irreps: self.irreps.clone(), dtype: self.dtype })
    }
}

/// The mean over space and orientations of each channel, N,C.
fn pooled(field: &Field) -> Result<Tensor, NnError> {
    let values = widened(&global_avg_pool(field.values())?)?;
    let (orientations, c) = (field.kind().orientations, field.irreps().dim());
    if orientations == 1 {
        return Ok(values);
    }
    Ok(values.reshape((values.dim(0)?, c, orientations))?.mean(2)?)
}

/// What `map`, which is for fields, makes of a field N,C,D,H,W or of its mean N,C.
fn voxelwise(
    irreps: &Irreps,
    values: &Tensor,
    map: impl Fn(&Field) -> Result<Field, NnError>,
) -> Result<Tensor, NnError> {
    if values.dims().len() == 5 {
        return Ok(map(&Field::new(irreps.clone(), values.clone())?)?.values().clone());
    }
    let (n, channels) = values.dims2()?;
    let voxel = Field::new(irreps.clone(), values.reshape((n, channels, 1, 1, 1))?)?;
    Ok(map(&voxel)?.values().flatten_from(1)?)
}
