//! A spatial transformer in front of a network.

use candle_core::Tensor;
use steer3d_ops::affine_resample3d;

use crate::block::{self, Blocks, Layer, Observer};
use crate::field::widened;
use crate::layers::Linear;
use crate::onnx::{Attribute, OnnxField, OnnxGraph, Value};
use crate::{Field, NnError, Pass};

/// Six numbers of the rotation, three of the shift.
pub(crate) const POSE: usize = 9;

/// Pose for an output of 1 of the head: with 1, the first steps of Adam would throw volumes about.
const POSE_STEP: f64 = 0.1;

/// Largest shift as a part of the grid.
const REACH: f64 = 0.25;

/// Added to squared lengths.
const EPSILON: f64 = 1e-12;

/// Resamples each volume in a pose that a localisation network reads off it.
#[derive(Debug)]
pub(crate) struct Transformer {
    /// The localisation network.
    pub(crate) blocks: Blocks<Layer>,
    /// Cells along each axis over which its last field is averaged.
    pub(crate) cells: usize,
    /// From the means to the pose.
    pub(crate) linear: Linear,
}

impl Transformer {
    pub(crate) fn forward(
        &self,
        field: &Field,
        pass: Pass,
        recompute: bool,
        observe: &mut Observer<'_>,
    ) -> Result<Field, NnError> {
        let features =
            block::run(&self.blocks, field, pass, recompute, observe, &mut |_, _, _| Ok(()))?;
        let field = self.resampled(field, &features)?;
        observe("transformer", &field);
        Ok(field)
    }

    pub(crate) fn folded(&self) -> Result<Self, NnError> {
        let (blocks, linear) = (block::folded(&self.blocks)?, self.linear.folded(None)?);
        Ok(Self { blocks, cells: self.cells, linear })
    }

    pub(crate) fn export(
        &self,
        field: &OnnxField,
        graph: &mut OnnxGraph,
    ) -> Result<OnnxField, NnError> {
        let features = block::export(&self.blocks, field, graph)?;
        graph.enter("transformer");
        // GridSample of five dimensions, and means whose axes are an input.
        graph.need_opset(20);
        let means = export_cell_means(&features.value, self.cells, graph);
        let row = graph.node("Flatten", &[&means], &[("axis", Attribute::Int(1))]);
        graph.enter("transformer.head");
        let upright = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0];
        let pose = self.linear.export(&row, (POSE_STEP, &upright), graph)?;
        graph.enter("transformer");
        let rows = export_gram_schmidt(&pose, graph);
        let shift = graph.channels(&pose, 6..POSE);
        let shift = graph.node("Tanh", &[&shift], &[]);
        let value = export_resampled(&field.value, &rows, &shift, graph);
        Ok(OnnxField { value, kind: field.kind.clone() })
    }

    /// The volume f(R p + t) of a volume f(p), both in voxels about the centre.
    fn resampled(&self, field: &Field, features: &Field) -> Result<Field, NnError> {
        let (n, _, d, h, w) = field.values().dims5()?;
        let pose = self.linear.forward(&cell_means(&widened(features.values())?, self.cells)?)?;
        let pose = (pose * POSE_STEP)?;
        let constant = |values: &[f64]| {
            Tensor::new(values, pose.device())?.to_dtype(pose.dtype())?.unsqueeze(0)
        };
        let upright = constant(&[1.0, 0.0, 0.0, 0.0, 1.0, 0.0])?;
        let rotation = gram_schmidt(&pose.narrow(1, 0, 6)?.broadcast_add(&upright)?)?;
        let reach = constant(&[w, h, d].map(|n| REACH * n as f64))?;
        let shift = pose.narrow(1, 6, 3)?.tanh()?.broadcast_mul(&reach)?.reshape((n, 3, 1))?;
        let theta = Tensor::cat(&[rotation, shift], 2)?;
        // bf16 places voxels to a few tenths only.
        let x = field.values();
        let turned = affine_resample3d(&x.to_dtype(theta.dtype())?, &theta)?;
        field.with(turned.to_dtype(x.dtype())?)
    }
}

/// The means of N,C,D,H,W over cells³ boxes, N,C·cells³; neighbouring boxes share a plane where the
/// grid cannot be divided evenly.
fn cell_means(x: &Tensor, cells: usize) -> Result<Tensor, NnError> {
    let mut x = x.clone();
    for axis in 2..5 {
        let n = x.dim(axis)?;
        let mean = |i: usize| {
            let (start, end) = (i * n / cells, ((i + 1) * n).div_ceil(cells));
            x.narrow(axis, start, end - start)?.mean_keepdim(axis)
        };
        let means = (0..cells).map(mean).collect::<Result<Vec<_>, _>>()?;
        x = Tensor::cat(&means, axis)?;
    }
    Ok(x.flatten_from(1)?)
}

/// Rotations N,3,3 of two rows each, N,6: the first made a unit vector, the second made orthogonal to
/// it, and their cross product.
fn gram_schmidt(rows: &Tensor) -> candle_core::Result<Tensor> {
    let unit = |v: &Tensor| v.broadcast_div(&(v.sqr()?.sum_keepdim(1)? + EPSILON)?.sqrt()?);
    let (first, second) = (unit(&rows.narrow(1, 0, 3)?)?, rows.narrow(1, 3, 3)?);
    let along = (&first * &second)?.sum_keepdim(1)?;
    let second = unit(&(&second - first.broadcast_mul(&along)?)?)?;
    // (x, y, z) to (y, z, x) and (z, x, y).
    let rolled = |v: &Tensor, by| Tensor::cat(&[v.narrow(1, by, 3 - by)?, v.narrow(1, 0, by)?], 1);
    let third = ((rolled(&first, 1)? * rolled(&second, 2)?)?
        - (rolled(&first, 2)? * rolled(&second, 1)?)?)?;
    Tensor::stack(&[first, second, third], 1)
}

/// Adds [`cell_means`], before they are rows, to a graph.
fn export_cell_means(x: &Value, cells: usize, graph: &mut OnnxGraph) -> Value {
    let mut x = x.clone();
    let (by, round) = (graph.integer(cells as i64), graph.integer(cells as i64 - 1));
    for axis in 2..5 {
        let size = graph.size(&x, axis);
        let axes = graph.integers(&[axis as i64]);
        let mean = |i: usize, graph: &mut OnnxGraph| {
            let (i, next) = (graph.integer(i as i64), graph.integer(i as i64 + 1));
            let start = graph.node("Mul", &[&size, &i], &[]);
            let start = graph.node("Div", &[&start, &by], &[]);
            let end = graph.node("Mul", &[&size, &next], &[]);
            let end = graph.node("Add", &[&end, &round], &[]);
            let end = graph.node("Div", &[&end, &by], &[]);
            let [start, end] = [start, end].map(|place| graph.reshape(&place, &[1]));
            let cell = graph.node("Slice", &[&x, &start, &end, &axes], &[]);
            graph.node("ReduceMean", &[&cell, &axes], &[])
        };
        let means: Vec<_> = (0..cells).map(|i| mean(i, graph)).collect();
        let means: Vec<_> = means.iter().collect();
        x = graph.node("Concat", &means, &[("axis", Attribute::Int(axis as i64))]);
    }
    x
}

/// Adds [`gram_schmidt`] of the first six numbers of a pose to a graph: the rows of the rotation.
fn export_gram_schmidt(pose: &Value, graph: &mut OnnxGraph) -> [Value; 3] {
    let axis = graph.integers(&[1]);
    let dot = |a: &Value, b: &Value, graph: &mut OnnxGraph| {
        let product = graph.node("Mul", &[a, b], &[]);
        graph.node("ReduceSum", &[&product, &axis], &[])
    };
    let unit = |v: &Value, graph: &mut OnnxGraph| {
        let (square, epsilon) = (dot(v, v, graph), graph.number(EPSILON));
        let square = graph.node("Add", &[&square, &epsilon], &[]);
        let length = graph.node("Sqrt", &[&square], &[]);
        graph.node("Div", &[v, &length], &[])
    };
    let first = graph.channels(pose, 0..3);
    let (first, second) = (unit(&first, graph), graph.channels(pose, 3..6));
    let along = dot(&first, &second, graph);
    let along = graph.node("Mul", &[&first, &along], &[]);
    let second = graph.node("Sub", &[&second, &along], &[]);
    let second = unit(&second, graph);
    let rolled = |v: &Value, by: usize, graph: &mut OnnxGraph| {
        graph.channels(v, (0..3).map(|i| (i + by) % 3))
    };
    let product = |by: usize, graph: &mut OnnxGraph| {
        let (a, b) = (rolled(&first, by, graph), rolled(&second, 3 - by, graph));
        graph.node("Mul", &[&a, &b], &[])
    };
    let (plus, minus) = (product(1, graph), product(2, graph));
    let third = graph.node("Sub", &[&plus, &minus], &[]);
    [first, second, third]
}

/// Adds the volume f(R p + t) of a volume f(p) to a graph, of the rows of R and t / (`REACH` sizes), both N,3.
fn export_resampled(x: &Value, rows: &[Value; 3], shift: &Value, graph: &mut OnnxGraph) -> Value {
    let rows = graph.beside(&rows.each_ref());
    let half = graph.number(0.5);
    let (mut parts, mut sizes) = (vec![], vec![]);
    let (zero, one) = (graph.integer(0), graph.integer(1));
    let float = [("to", Attribute::Int(1))];
    for axis in 0..3 {
        // x is the last axis of the volume.
        let size = graph.size(x, 4 - axis);
        sizes.push(graph.reshape(&size, &[1]));
        let places = graph.node("Range", &[&zero, &size, &one], &[]);
        let places = graph.node("Cast", &[&places], &float);
        let last = graph.node("Sub", &[&size, &one], &[]);
        let last = graph.node("Cast", &[&last], &float);
        let centre = graph.node("Mul", &[&last, &half], &[]);
        let position = graph.node("Sub", &[&places, &centre], &[]);
        let mut shape = [1; 5];
        shape[3 - axis] = -1;
        let position = graph.reshape(&position, &shape);
        let column = graph.channels(&rows, [axis, axis + 3, axis + 6]);
        let column = graph.reshape(&column, &[-1, 1, 1, 1, 3]);
        parts.push(graph.node("Mul", &[&position, &column], &[]));
    }
    let turned = graph.node("Add", &[&parts[0], &parts[1]], &[]);
    let turned = graph.node("Add", &[&turned, &parts[2]], &[]);
    // GridSample counts positions about the centre in halves of the grid.
    let sizes: Vec<_> = sizes.iter().collect();
    let sizes = graph.node("Concat", &sizes, &[("axis", Attribute::Int(0))]);
    let sizes = graph.node("Cast", &[&sizes], &float);
    let halves = graph.node("Mul", &[&sizes, &half], &[]);
    let turned = graph.node("Div", &[&turned, &halves], &[]);
    let reach = graph.number(2.0 * REACH);
    let shift = graph.node("Mul", &[shift, &reach], &[]);
    let shift = graph.reshape(&shift, &[-1, 1, 1, 1, 3]);
    let grid = graph.node("Add", &[&turned, &shift], &[]);
    let attributes = [
        ("mode", Attribute::Text("linear")),
        ("padding_mode", Attribute::Text("zeros")),
        ("align_corners", Attribute::Int(0)),
    ];
    graph.node("GridSample", &[x, &grid], &attributes)
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Tensor};
    use steer3d_so3::Stream;

    use super::gram_schmidt;

    #[test]
    fn any_six_numbers_give_a_rotation() {
        let mut stream = Stream::new(1, "test", &[]);
        let rows: Vec<f64> = (0..60).map(|_| stream.normal()).collect();
        let rows = Tensor::from_vec(rows, (10, 6), &Device::Cpu).unwrap();
        for matrix in gram_schmidt(&rows).unwrap().to_vec3::<f64>().unwrap() {
            let matrix = nalgebra::Matrix3::from_fn(|i, j| matrix[i][j]);
            let excess = (matrix * matrix.transpose() - nalgebra::Matrix3::identity()).norm();
            assert!(excess < 1e-9 && (matrix.determinant() - 1.0).abs() < 1e-9, "{matrix}");
        }
    }
}
