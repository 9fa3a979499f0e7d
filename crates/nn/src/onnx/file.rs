use candle_core::{DType, Device, Tensor};
use steer3d_so3::Stream;

use super::builder::OnnxGraph;
use super::metadata::PARAMETERS;
use super::run::OnnxModel;
use crate::checkpoint::{CARD, ModelCard};
use crate::error::onnx_fault;
use crate::{Head, Network, NnError};

/// Largest root mean square of the differences that rounding explains, over that of the answers. A norm nonlinearity
/// jumps where its field is 0, so that single voxels may differ by more.
const TOLERANCE: f64 = 1e-3;

/// The bytes of an ONNX model of a network at evaluation, as it is now: norms folded, filters dense, standard operators
/// of opset 17, or 20 with a spatial transformer.
///
/// The input `volume` has the shape N,C,D,H,W with any N, D, H and W; the output, `logits` or `output`, is what
/// [`FoldedNetwork::forward`](crate::FoldedNetwork::forward) gives. The metadata hold the card as TOML (`steer3d`), the
/// names of the classes as JSON (`class_names`) and the number of parameters of the network (`parameters`).
///
/// # Errors
/// [`NnError::Memory`] if the dense filters are larger than the memory for input, [`NnError::Onnx`] if they are larger
/// than the format allows.
pub fn export(network: &Network, card: &ModelCard) -> Result<Vec<u8>, NnError> {
    let folded = network.folded()?;
    let graph = &folded.graph;
    let mut onnx = OnnxGraph::new()?;
    let output = graph.export(&OnnxGraph::input((&graph.input).into()), &mut onnx)?;
    let card_text = toml::to_string_pretty(card).or_else(|e| onnx_fault("card", e.to_string()))?;
    let mut metadata = vec![(CARD, card_text)];
    let classes = match card.model.head() {
        Head::Classes => &card.class_names[..],
        Head::Voxels => &card.meaning.voxel_classes,
        Head::Scalars | Head::Field { .. } => &[],
    };
    if !classes.is_empty() {
        metadata.push(("class_names", serde_json::json!(classes).to_string()));
    }
    metadata.push((PARAMETERS, network.params().count().to_string()));
    let head = &graph.head;
    let shape = (head.irreps.dim(), head.has_space());
    onnx.finish(graph.input.dim(), (&output, head.name), shape, &metadata)
}

/// How an exported model agrees with its network.
#[derive(Debug, Clone, PartialEq)]
pub struct Agreement {
    /// Volumes and grid, N,D,H,W, of each batch.
    pub batches: Vec<[usize; 4]>,
    /// Largest difference over the largest value of the network's answers.
    pub gap: f64,
}

/// Reads `bytes`, which [`export`] made of `network`, and compares both on random volumes: one of `dims`, and two whose
/// edges are a voxel longer, so that even and odd grids are among them.
///
/// # Errors
/// [`NnError::Differs`] if they differ by more than rounding; else as [`OnnxModel::run`], and if `dims` are too few
/// voxels for the network.
pub fn check(bytes: &[u8], network: &Network, dims: [usize; 3]) -> Result<Agreement, NnError> {
    let (model, folded) = (OnnxModel::read(bytes)?, network.folded()?);
    let channels = network.config().channels();
    let batches = [(1, dims), (2, dims.map(|n| n.saturating_add(1)))];
    let mut worst = 0.0;
    for (n, dims @ [d, h, w]) in batches {
        let [gap, mean] = network.on_grid(n, dims, || {
            let mut stream = Stream::new(n as u64, "onnx check", &[]);
            let values = (0..n * channels * d * h * w).map(|_| stream.normal() as f32);
            let x = Tensor::from_iter(values, &Device::Cpu)?.reshape((n, channels, d, h, w))?;
            let params = network.params();
            let given = x.to_device(params.device())?.to_dtype(params.dtype())?;
            let expected = folded.forward(&given)?;
            relative_gaps(&model.run(&x)?, &expected)
        })?;
        if mean.is_nan() || mean > TOLERANCE {
            return Err(NnError::Differs { found: mean, most: TOLERANCE });
        }
        worst = gap.max(worst);
    }
    let batches = batches.map(|(n, [d, h, w])| [n, d, h, w]);
    Ok(Agreement { batches: batches.into(), gap: worst })
}

/// The largest difference over the largest value of `expected`, and the same of root mean squares.
fn relative_gaps(found: &Tensor, expected: &Tensor) -> Result<[f64; 2], NnError> {
    if found.dims() != expected.dims() {
        let problem = format!("has the shape {:?}, expected {:?}", found.dims(), expected.dims());
        return onnx_fault("the output", problem);
    }
    let values = |t: &Tensor| {
        t.to_device(&Device::Cpu)?.to_dtype(DType::F64)?.flatten_all()?.to_vec1::<f64>()
    };
    let (found, expected) = (values(found)?, values(expected)?);
    let differences: Vec<f64> = found.iter().zip(&expected).map(|(a, b)| a - b).collect();
    // A number that is none stays one.
    let larger = |m: f64, v: &f64| if v.abs() > m || v.is_nan() { v.abs() } else { m };
    let largest = |values: &[f64]| values.iter().fold(0.0, larger);
    let square = |values: &[f64]| values.iter().map(|v| v * v).sum::<f64>().sqrt();
    let over = |a: f64, b: f64| if a == 0.0 { 0.0 } else { a / b };
    Ok([
        over(largest(&differences), largest(&expected)),
        over(square(&differences), square(&expected)),
    ])
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device, Tensor};
    use steer3d_so3::Stream;

    use super::*;
    use crate::layers::{FieldBatchNorm, FieldLayer, Gate};
    use crate::{Field, FieldType, Mode, Params};

    fn field(kind: &FieldType) -> Field {
        let (shape, mut stream) = ([2, kind.dim(), 3, 4, 5], Stream::new(0, "field", &[]));
        let values = (0..shape.iter().product()).map(|_| stream.normal() as f32);
        let values = Tensor::from_iter(values, &Device::Cpu).unwrap().reshape(&shape).unwrap();
        Field::of(kind.clone(), values).unwrap()
    }

    /// The gap between a layer alone and its graph.
    fn gap(layer: &dyn FieldLayer, x: &Field) -> f64 {
        let mut graph = OnnxGraph::new().unwrap();
        let out = layer.export(&OnnxGraph::input(x.kind().clone()), &mut graph).unwrap();
        let shape = (out.kind.dim(), true);
        let bytes = graph.finish(x.kind().dim(), (&out.value, "output"), shape, &[]).unwrap();
        let expected = layer.forward(x).unwrap();
        assert_eq!(&out.kind, expected.kind());
        let found = OnnxModel::read(&bytes).unwrap().run(x.values()).unwrap();
        relative_gaps(&found, expected.values()).unwrap()[0]
    }

    /// What networks do not have: norms that are not folded, and gates of fields with orientations.
    #[test]
    fn a_layer_alone_gives_its_field() {
        for (irreps, orientations) in [("2x0+2x1", 1), ("2x0+1x1+2x2", 3), ("2x1", 2)] {
            let gate = Gate::new(&irreps.parse().unwrap()).unwrap();
            let x = field(&FieldType { irreps: gate.irreps_in().clone(), orientations });
            assert!(gap(&gate, &x) < 1e-6);
            let mut params = Params::new(0, DType::F32, &Device::Cpu);
            let norm = FieldBatchNorm::new(params.pp("norm"), x.irreps()).unwrap();
            norm.forward_t(&x, Mode::Train { seed: 0, step: 0 }.into()).unwrap();
            let expected = norm.forward(&x).unwrap();
            assert!(relative_gaps(x.values(), expected.values()).unwrap()[0] > 1e-2);
            assert!(gap(&norm, &x) < 1e-6);
        }
    }
}
