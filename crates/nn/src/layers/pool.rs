use candle_core::{Device, Tensor};
use steer3d_ops::{gaussian_filter, gaussian_pool3d_along, gaussian_upsample3d_along, max_pool3d};

use crate::onnx::{Attribute, OnnxField, OnnxGraph, Value};
use crate::{Field, NnError};

/// Antialiased subsampling: a Gaussian blur, then every `stride`-th voxel.
///
/// The voxels kept lie symmetrically about the centre for even and odd sizes, so with the same stride and width along
/// all axes the 24 rotations of the cube commute with it exactly.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GaussianPool {
    /// Factors by which the grid shrinks along D, H, W.
    pub stride: [usize; 3],
    /// Widths of the Gaussian along D, H, W in voxels of the input. A stride of 1 and a width of 0 leave an axis as it
    /// is.
    pub sigma: [f64; 3],
}

impl GaussianPool {
    /// A pool of the given stride whose Gaussian is 0.6 strides wide: at the highest frequency of
    /// the new grid it passes exp(-(0.6 π)² / 2) = 17 % of the amplitude.
    pub fn new(stride: usize) -> Self {
        Self { stride: [stride; 3], sigma: [0.6 * stride as f64; 3] }
    }

    /// The same Gaussian for voxels whose edges along D, H, W are so many times as long, and the strides that take
    /// these next to the same grid: an axis that is as coarse already is blurred and keeps its voxels.
    #[must_use]
    pub fn at_spacing(&self, edges: [f64; 3]) -> Self {
        let stride =
            |axis: usize| (self.stride[axis] as f64 / edges[axis]).round().max(1.0) as usize;
        let sigma = |axis: usize| self.sigma[axis] / edges[axis];
        Self { stride: [0, 1, 2].map(stride), sigma: [0, 1, 2].map(sigma) }
    }

    /// Pools a field of any type.
    ///
    /// # Errors
    /// When the stride is zero or the width not positive.
    pub fn forward(&self, field: &Field) -> Result<Field, NnError> {
        field.with(gaussian_pool3d_along(field.values(), self.stride, self.sigma)?)
    }

    /// What it does along some of the axes D, H, W.
    fn along(&self, axes: [bool; 3]) -> Self {
        let of =
            |axis: usize| if axes[axis] { (self.stride[axis], self.sigma[axis]) } else { (1, 0.0) };
        Self { stride: [0, 1, 2].map(|axis| of(axis).0), sigma: [0, 1, 2].map(|axis| of(axis).1) }
    }

    /// Up-samples a field of any type to the grid of `size` = D,H,W voxels whose pooled grid it lives on:
    /// the adjoint of [`forward`](Self::forward), scaled so that a constant field stays constant. The 24
    /// rotations of the cube commute with it exactly.
    ///
    /// # Errors
    /// When the grid of the field is not the pooled one.
    pub fn upsample(&self, field: &Field, size: [usize; 3]) -> Result<Field, NnError> {
        field.with(gaussian_upsample3d_along(field.values(), size, self.stride, self.sigma)?)
    }
}

impl GaussianPool {
    /// Adds [`forward`](Self::forward) to a graph: along each axis a convolution of every channel whose taps depend on
    /// how the kept voxels lie on the grid.
    fn export(&self, x: &Value, channels: usize, graph: &mut OnnxGraph) -> Result<Value, NnError> {
        let mut x = x.clone();
        for (axis, taps) in self.taps()?.into_iter().enumerate() {
            let size = graph.size(&x, axis + 2);
            let kernel = taps.kernel(1.0, &size, (channels, axis), graph)?;
            let attributes = taps.attributes(axis, taps.reach + taps.stride / 2, channels);
            x = graph.node("Conv", &[&x, &kernel], &attributes);
        }
        Ok(x)
    }

    /// Adds [`upsample`](Self::upsample) to the grid of `like` to a graph.
    fn export_upsampling(
        &self,
        x: &Value,
        like: &Value,
        channels: usize,
        graph: &mut OnnxGraph,
    ) -> Result<Value, NnError> {
        let mut x = x.clone();
        for (axis, taps) in self.taps()?.into_iter().enumerate() {
            let size = graph.size(like, axis + 2);
            let kernel = taps.kernel(taps.stride as f64, &size, (channels, axis), graph)?;
            // The result has a whole number of strides, of which the last may be cut.
            let after = taps.reach + taps.stride / 2 + 1 - taps.stride;
            let attributes = taps.attributes(axis, after, channels);
            x = graph.node("ConvTranspose", &[&x, &kernel], &attributes);
            let (start, end) = (graph.integers(&[0]), graph.reshape(&size, &[1]));
            let axis = graph.integers(&[axis as i64 + 2]);
            x = graph.node("Slice", &[&x, &start, &end, &axis], &[]);
        }
        Ok(x)
    }

    fn taps(&self) -> Result<Vec<Taps>, NnError> {
        self.stride
            .into_iter()
            .zip(self.sigma)
            .map(|(stride, sigma)| Taps::new(stride, sigma))
            .collect()
    }
}

/// The taps of a [`GaussianPool`] along an axis, for all grids.
struct Taps {
    stride: usize,
    /// A row for each (size - 1) mod stride, its first tap `reach` voxels before the first of the grid.
    table: Tensor,
    reach: usize,
    length: usize,
}

impl Taps {
    fn new(stride: usize, sigma: f64) -> Result<Self, NnError> {
        let (_, start) = gaussian_filter(1, stride, sigma)?;
        let reach = start.unsigned_abs();
        let length = 2 * reach + 1 + stride / 2;
        let mut table = vec![0.0; stride * length];
        for (rest, row) in table.chunks_exact_mut(length).enumerate() {
            let (taps, start) = gaussian_filter(rest + 1, stride, sigma)?;
            let first = start.saturating_add_unsigned(reach).unsigned_abs();
            row[first..][..taps.len()].copy_from_slice(&taps);
        }
        let table = Tensor::from_vec(table, (stride, length), &Device::Cpu)?;
        Ok(Self { stride, table, reach, length })
    }

    /// The kernel of every channel along an axis of `size` voxels: `factor` times the row (size - 1) mod stride of the
    /// table.
    fn kernel(
        &self,
        factor: f64,
        size: &Value,
        (channels, axis): (usize, usize),
        graph: &mut OnnxGraph,
    ) -> Result<Value, NnError> {
        let table = graph.tensor("taps", &(&self.table * factor)?)?;
        let (one, stride) = (graph.integer(1), graph.integer(self.stride as i64));
        let last = graph.node("Sub", &[size, &one], &[]);
        let strides = graph.node("Div", &[&last, &stride], &[]);
        let whole = graph.node("Mul", &[&strides, &stride], &[]);
        let row = graph.node("Sub", &[&last, &whole], &[]);
        let kernel = graph.node("Gather", &[&table, &row], &[("axis", Attribute::Int(0))]);
        let sizes = along(axis, self.length, 1);
        let kernel = graph.reshape(&kernel, &[&[1, 1], &sizes[..]].concat());
        let all = graph.integers(&[&[channels as i64, 1], &sizes[..]].concat());
        Ok(graph.node("Expand", &[&kernel, &all], &[]))
    }

    fn attributes(
        &self,
        axis: usize,
        after: usize,
        channels: usize,
    ) -> [(&'static str, Attribute<'static>); 4] {
        let pads = [along(axis, self.reach, 0), along(axis, after, 0)].concat();
        [
            ("kernel_shape", Attribute::Ints(along(axis, self.length, 1).into())),
            ("pads", Attribute::Ints(pads)),
            ("strides", Attribute::Ints(along(axis, self.stride, 1).into())),
            ("group", Attribute::Int(channels as i64)),
        ]
    }
}

/// `value` for one axis of space and `rest` for the others.
fn along(axis: usize, value: usize, rest: i64) -> [i64; 3] {
    [0, 1, 2].map(|i| if i == axis { value as i64 } else { rest })
}

/// Any of the ways to shrink the grid.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Pool {
    Gaussian(GaussianPool),
    Max(usize),
    /// The maximum over 27 voxels before a Gaussian.
    Antialiased(GaussianPool),
}

impl Pool {
    pub(crate) fn forward(self, field: &Field) -> Result<Field, NnError> {
        match self {
            Self::Gaussian(pool) => pool.forward(field),
            Self::Max(n) => field.with(max_pool3d(field.values(), n, n, 0)?),
            Self::Antialiased(pool) => {
                pool.forward(&field.with(max_pool3d(field.values(), 3, 1, 1)?)?)
            }
        }
    }

    /// A field on the pooled grid of a grid of `size` = D,H,W, on that grid.
    pub(crate) fn upsample(self, field: &Field, size: [usize; 3]) -> Result<Field, NnError> {
        match self {
            Self::Gaussian(pool) | Self::Antialiased(pool) => pool.upsample(field, size),
            Self::Max(n) => repeated(field, size, n),
        }
    }

    /// Adds [`forward`](Self::forward) to a graph.
    pub(crate) fn export(
        self,
        field: &OnnxField,
        graph: &mut OnnxGraph,
    ) -> Result<OnnxField, NnError> {
        let max = |x: &Value, size: usize, stride: usize, pad: usize, graph: &mut OnnxGraph| {
            let attributes = [
                ("kernel_shape", Attribute::Ints(vec![size as i64; 3])),
                ("pads", Attribute::Ints(vec![pad as i64; 6])),
                ("strides", Attribute::Ints(vec![stride as i64; 3])),
            ];
            graph.node("MaxPool", &[x], &attributes)
        };
        let (x, kind) = (&field.value, field.kind.clone());
        let value = match self {
            Self::Gaussian(pool) => pool.export(x, kind.dim(), graph)?,
            Self::Max(n) => max(x, n, n, 0, graph),
            Self::Antialiased(pool) => {
                let largest = max(x, 3, 1, 1, graph);
                pool.export(&largest, kind.dim(), graph)?
            }
        };
        Ok(OnnxField { value, kind })
    }

    /// Adds [`upsample`](Self::upsample) to the grid of `like` to a graph.
    pub(crate) fn export_upsampling(
        self,
        field: &OnnxField,
        like: &Value,
        graph: &mut OnnxGraph,
    ) -> Result<OnnxField, NnError> {
        let kind = field.kind.clone();
        let value = match self {
            Self::Gaussian(pool) | Self::Antialiased(pool) => {
                pool.export_upsampling(&field.value, like, kind.dim(), graph)?
            }
            Self::Max(n) => export_repeated(&field.value, like, n, graph),
        };
        Ok(OnnxField { value, kind })
    }

    /// The pooled grid of a grid of `size` = D,H,W.
    pub(crate) fn pooled(self, size: [usize; 3]) -> [usize; 3] {
        match self {
            Self::Gaussian(pool) | Self::Antialiased(pool) => {
                [0, 1, 2].map(|axis| size[axis].div_ceil(pool.stride[axis]))
            }
            Self::Max(stride) => size.map(|n| n / stride),
        }
    }
}

/// Planes along z of a slab: so many of a volume from `first` on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Slab {
    pub(crate) first: usize,
    pub(crate) planes: usize,
}

impl Slab {
    pub(crate) fn end(self) -> usize {
        self.first + self.planes
    }
}

impl Pool {
    /// Factors by which the grid shrinks along D, H, W.
    pub(crate) fn strides(self) -> [usize; 3] {
        match self {
            Self::Gaussian(pool) | Self::Antialiased(pool) => pool.stride,
            Self::Max(stride) => [stride; 3],
        }
    }

    fn stride_of_planes(self) -> usize {
        self.strides()[0]
    }

    /// The first of the planes, from which `wanted` pooled planes of a volume of `depth` planes are made, and their
    /// number. They are pooled as in the volume, since what is cut off before them is a whole number of strides, and
    /// after them as many voxels are left over.
    fn below(self, depth: usize, wanted: Slab) -> Result<Slab, NnError> {
        let stride = self.stride_of_planes();
        let (start, taps) = self.reach(depth)?;
        let place = |plane: usize| (plane * stride) as isize + start;
        let first = place(wanted.first).max(0) as usize / stride * stride;
        let end = (place(wanted.end() - 1) + taps as isize).max(1) as usize;
        let end = self.closed(depth, first, end);
        Ok(Slab { first, planes: end - first })
    }

    /// The pooled planes from which the `wanted` planes of a volume of `depth` planes are up-sampled, and the planes
    /// of the volume that lie over these.
    fn above(self, depth: usize, wanted: Slab) -> Result<[Slab; 2], NnError> {
        let stride = self.stride_of_planes();
        let [pooled, ..] = self.pooled([depth; 3]);
        let (start, taps) = self.reach(depth)?;
        // The first pooled plane whose taps reach the first wanted one, and the last.
        let low = wanted.first as isize - start - taps as isize + 1;
        let low = low.max(0) as usize / stride;
        let high = (wanted.end() as isize - 1 - start).max(0) as usize / stride + 1;
        let first = low.min(wanted.first / stride).min(pooled - 1);
        let over = |end: usize| {
            if end >= pooled {
                depth
            } else {
                self.closed(depth, first * stride, (end - 1) * stride + 1)
            }
        };
        let mut end = high.max(first + 1).min(pooled);
        while over(end) < wanted.end() {
            end += 1;
        }
        let coarse = Slab { first, planes: end - first };
        Ok([coarse, Slab { first: first * stride, planes: over(end) - first * stride }])
    }

    /// The least end from `end` on of planes from `first` on that leave over as many as the whole volume does.
    fn closed(self, depth: usize, first: usize, end: usize) -> usize {
        let stride = self.stride_of_planes();
        let rest = match self {
            Self::Max(_) => stride,
            _ => (depth - 1) % stride + 1,
        };
        let strides = (end - first).saturating_sub(rest).div_ceil(stride);
        (first + strides * stride + rest).min(depth)
    }

    /// How far before its first voxel, and over how many, a pooled voxel looks along an axis D of `size` voxels.
    fn reach(self, size: usize) -> Result<(isize, usize), NnError> {
        Ok(match self {
            Self::Max(stride) => (0, stride),
            Self::Gaussian(pool) => {
                let (taps, start) = gaussian_filter(size, pool.stride[0], pool.sigma[0])?;
                (start, taps.len())
            }
            Self::Antialiased(pool) => {
                let (start, taps) = Self::Gaussian(pool).reach(size)?;
                (start - 1, taps + 2)
            }
        })
    }

    /// Whether the planes of constant z can be pooled before they are pooled along z.
    pub(crate) fn has_planes(self) -> bool {
        matches!(self, Self::Gaussian(_))
    }

    /// Every plane of constant z, pooled; then [`forward_planes`](Self::forward_planes) pools along z alone.
    pub(crate) fn forward_in_planes(self, field: &Field) -> Result<Field, NnError> {
        match self {
            Self::Gaussian(pool) => pool.along([false, true, true]).forward(field),
            _ => Ok(field.clone()),
        }
    }

    /// Some planes of the pooled volume, from planes of one of `depth` planes: `planes` gives those.
    pub(crate) fn forward_planes<E: From<NnError>>(
        self,
        depth: usize,
        wanted: Slab,
        planes: impl FnOnce(Slab) -> Result<Field, E>,
    ) -> Result<Field, E> {
        let needed = self.below(depth, wanted)?;
        let planes = planes(needed)?;
        let pooled = match self {
            Self::Gaussian(pool) => pool.along([true, false, false]).forward(&planes)?,
            _ => self.forward(&planes)?,
        };
        let first = wanted.first - needed.first / self.stride_of_planes();
        // Not a view of all planes, which would keep their memory.
        let kept = pooled.values().narrow(2, first, wanted.planes);
        let kept = kept.and_then(|kept| kept.force_contiguous()).map_err(NnError::from)?;
        Ok(pooled.with(kept)?)
    }

    /// Some planes of a volume of `size` = D,H,W voxels, up-sampled from pooled planes: `planes` gives those.
    pub(crate) fn upsample_planes<E: From<NnError>>(
        self,
        [depth, height, width]: [usize; 3],
        wanted: Slab,
        planes: impl FnOnce(Slab) -> Result<Field, E>,
    ) -> Result<Field, E> {
        let [needed, over] = self.above(depth, wanted)?;
        let coarse = planes(needed)?;
        let wanted_of = |risen: Field| -> Result<Field, NnError> {
            let first = wanted.first - over.first;
            risen.with(risen.values().narrow(2, first, wanted.planes)?.contiguous()?)
        };
        let (Self::Gaussian(pool) | Self::Antialiased(pool)) = self else {
            return Ok(wanted_of(self.upsample(&coarse, [over.planes, height, width])?)?);
        };
        let [_, h, w] = coarse.size();
        let along_planes = pool.along([true, false, false]);
        let risen = wanted_of(along_planes.upsample(&coarse, [over.planes, h, w])?)?;
        Ok(pool.along([false, true, true]).upsample(&risen, [wanted.planes, height, width])?)
    }
}

/// Every voxel `n` times along each axis, the last ones once more where the pooling left some out.
fn repeated(field: &Field, size: [usize; 3], n: usize) -> Result<Field, NnError> {
    let mut values = field.values().clone();
    for (axis, size) in (2..5).zip(size) {
        let last = values.dim(axis)? - 1;
        let source: Vec<u32> = (0..size).map(|i| (i / n).min(last) as u32).collect();
        let source = Tensor::new(source, values.device())?;
        values = values.contiguous()?.index_select(&source, axis)?;
    }
    field.with(values)
}

/// Adds [`repeated`] to a graph.
fn export_repeated(x: &Value, like: &Value, n: usize, graph: &mut OnnxGraph) -> Value {
    let mut x = x.clone();
    let (zero, one, n) = (graph.integer(0), graph.integer(1), graph.integer(n as i64));
    for axis in 2..5 {
        let (size, pooled) = (graph.size(like, axis), graph.size(&x, axis));
        let voxels = graph.node("Range", &[&zero, &size, &one], &[]);
        let last = graph.node("Sub", &[&pooled, &one], &[]);
        let source = graph.node("Div", &[&voxels, &n], &[]);
        let source = graph.node("Min", &[&source, &last], &[]);
        x = graph.node("Gather", &[&x, &source], &[("axis", Attribute::Int(axis as i64))]);
    }
    x
}
