//! The algorithm on the CPU, tile by tile: for a few copies of an input block the jets by 1-D
//! filters along z, y and x, their features by a sparse map, and these mixed into the output of
//! the tile, or contracted with another field of its type for the gradient of the weights.

use std::ops::Range;

use pulp::Arch;
use rayon::prelude::*;
use steer3d_kernels::{FieldBlock, SeparablePlan};

use super::geometry::{Geometry, Run};
use super::inner::{Contract, Couple, Filter, Load, Mix, Sparse};
use crate::memory::{HugeVec, advise_huge};
use crate::simd::Lanes;

/// Bytes of the output and jets of a tile; with the features they stay in the level-2 cache.
const TILE_BYTES: usize = 768 << 10;

/// Bytes of features that are computed before they are used.
const FEATURE_BYTES: usize = 192 << 10;

/// Shares into which the weight gradient is split, where sizes allow; they are added in order.
const SHARES: usize = 32;

/// Elements after the end of each row of voxels that a vector may reach.
const SLACK: usize = 16;

/// A plan in the element type of the tensors.
pub(super) struct Map<T> {
    arch: Arch,
    half: usize,
    orders: usize,
    /// For z, y and x, the filters of each order: the centre and the taps after it.
    taps: [Vec<T>; 3],
    /// Jets of one channel.
    jets: usize,
    inputs: Vec<(FieldBlock, Vec<Coupling<T>>)>,
    channels_in: usize,
    channels_out: usize,
    num_weights: usize,
}

struct Coupling<T> {
    output: FieldBlock,
    paths: usize,
    weight_offset: usize,
    /// Features \[path, component\] of one copy from its jets \[component, jet\].
    features: Sparse<T>,
}

impl<T: Lanes> Map<T> {
    pub(super) fn new(plan: &SeparablePlan) -> Self {
        let (half, orders) = (plan.size / 2, plan.order() + 1);
        let fold = |taps: &Vec<f64>| {
            let filters = taps.chunks_exact(plan.size);
            filters.flat_map(|filter| filter[half..].iter().map(|&t| T::from_f64(t))).collect()
        };
        let [x, y, z] = &plan.taps;
        // The filter passes give the jets by order along z, then y, then x.
        let place = |jet: [usize; 3]| {
            let before = plan.jets.iter().filter(|j| [j[2], j[1], j[0]] < [jet[2], jet[1], jet[0]]);
            before.count()
        };
        let places: Vec<usize> = plan.jets.iter().map(|&jet| place(jet)).collect();
        let coupling = |c: &steer3d_kernels::Coupling| {
            let mut features = Sparse { starts: vec![0], terms: vec![] };
            for row in &c.rows {
                let term = |t: &steer3d_kernels::JetTerm| {
                    (t.component * plan.jets.len() + places[t.jet], T::from_f64(t.value))
                };
                features.terms.extend(row.iter().map(term));
                features.starts.push(features.terms.len());
            }
            Coupling {
                output: plan.outputs[c.output],
                paths: c.paths,
                weight_offset: c.weight_offset,
                features,
            }
        };
        let inputs = plan.inputs.iter().enumerate().map(|(i, &block)| {
            let couplings = plan.couplings.iter().filter(|c| c.input == i).map(coupling);
            (block, couplings.collect())
        });
        Self {
            arch: Arch::new(),
            half,
            orders,
            taps: [fold(z), fold(y), fold(x)],
            jets: plan.jets.len(),
            inputs: inputs.collect(),
            channels_in: plan.channels_in(),
            channels_out: plan.channels_out(),
            num_weights: plan.num_weights,
        }
    }

    /// Most components of a field of the input.
    fn widest(&self) -> usize {
        self.inputs.iter().map(|(b, _)| b.dim).max().unwrap_or(0)
    }

    /// Voxels of a tile whose output and jets fill [`TILE_BYTES`].
    fn tile_voxels(&self) -> usize {
        let rows = self.channels_out + self.widest() * self.jets;
        (TILE_BYTES / (rows * size_of::<T>()).max(1)).clamp(128, 2048)
    }
}

/// Weights \[mul_out, mul_in, path\] of every coupling of `plan` as \[mul_in, mul_out, path\].
pub(super) fn exchanged<T: Copy>(plan: &SeparablePlan, weights: &[T]) -> Vec<T> {
    let mut out = weights.to_vec();
    for c in &plan.couplings {
        let (mul_in, mul_out) = (plan.inputs[c.input].mul, plan.outputs[c.output].mul);
        for u in 0..mul_in {
            for v in 0..mul_out {
                for p in 0..c.paths {
                    out[c.weight_offset + (u * mul_out + v) * c.paths + p] =
                        weights[c.weight_offset + (v * mul_in + u) * c.paths + p];
                }
            }
        }
    }
    out
}

/// What to do with the features of `x`.
pub(super) struct Work<'a, T> {
    /// Weights \[mul_out, mul_in, path\], to give the output.
    pub(super) mix: Option<&'a [T]>,
    /// Added to each output channel.
    pub(super) bias: Option<&'a [T]>,
    /// A field of the output's type, to give its products with the features, laid out as the
    /// weights.
    pub(super) contract: Option<&'a [T]>,
}

/// What all tasks have in common.
struct Job<'a, T> {
    map: &'a Map<T>,
    g: &'a Geometry,
    x: &'a [T],
    work: &'a Work<'a, T>,
}

/// Some output voxels of one sample: all of W, some of D and H.
struct Task<'a, T> {
    sample: usize,
    z: Range<usize>,
    y: Range<usize>,
    /// For each channel and z, the lines y, x of the output.
    out: Vec<&'a mut [T]>,
}

/// The output followed by the gradient of the weights, as far as asked for.
pub(super) fn run<T: Lanes>(map: &Map<T>, g: &Geometry, x: &[T], work: &Work<'_, T>) -> Vec<T> {
    let channels = map.channels_out;
    let out_len = if work.mix.is_some() { g.batch * channels * g.out_voxels() } else { 0 };
    let weights = if work.contract.is_some() { map.num_weights } else { 0 };
    let mut result = vec![T::zero(); out_len + weights];
    advise_huge(&result);
    let (out, total) = result.split_at_mut(out_len);
    let tile = g.tile(map.tile_voxels(), map.orders);
    let layout = Layout::new(map, g, tile);
    let job = Job { map, g, x, work };
    let mut tasks = tasks(g, tile, channels, out);
    let share = if work.contract.is_some() { tasks.len().div_ceil(SHARES) } else { 1 };
    let shares: Vec<Vec<T>> = tasks
        .par_chunks_mut(share)
        .map_init(
            || layout.zeros(),
            |buffer, tasks| {
                let mut scratch = Scratch::new(&layout, buffer.values());
                let mut sums = vec![T::zero(); weights];
                for task in tasks {
                    scratch.task(&job, tile[2], task, &mut sums);
                }
                sums
            },
        )
        .collect();
    for share in shares {
        total.iter_mut().zip(share).for_each(|(t, s)| *t += s);
    }
    result
}

fn tasks<'a, T>(
    g: &Geometry,
    [tile_z, tile_y, _]: [usize; 3],
    channels: usize,
    out: &'a mut [T],
) -> Vec<Task<'a, T>> {
    let [depth, height, width] = g.out;
    let split = |n: usize, by: usize| (0..n).step_by(by).map(move |i| i..(i + by).min(n));
    let mut tasks = vec![];
    for sample in 0..g.batch {
        for z in split(depth, tile_z) {
            for y in split(height, tile_y) {
                let lines = if out.is_empty() { 0 } else { channels * z.len() };
                tasks.push(Task { sample, z: z.clone(), y, out: Vec::with_capacity(lines) });
            }
        }
    }
    let per_slab = height.div_ceil(tile_y);
    let per_sample = depth.div_ceil(tile_z) * per_slab;
    for (plane, values) in out.chunks_mut(height * width).enumerate() {
        let (sample, z) = (plane / depth / channels, plane % depth);
        let first = sample * per_sample + z / tile_z * per_slab;
        for (task, lines) in tasks[first..].iter_mut().zip(values.chunks_mut(tile_y * width)) {
            task.out.push(lines);
        }
    }
    tasks
}

/// The buffers of one thread, parts of one allocation. Rows of voxels are `pitch` apart.
struct Scratch<'a, T> {
    pitch: usize,
    input: &'a mut [T],
    after_z: &'a mut [T],
    after_y: &'a mut [T],
    /// One run of the pass along x before every `stride`-th voxel is kept.
    line: &'a mut [T],
    jets: &'a mut [T],
    features: &'a mut [T],
    /// Output of the tile.
    out: &'a mut [T],
    /// The tile of the field that the features are contracted with.
    others: &'a mut [T],
}

/// Rows of voxels of a tile, and the lengths of the buffers in the order of [`Scratch`].
struct Layout {
    pitch: usize,
    lengths: [usize; 8],
}

/// The part of a task that is worked on at once.
struct Tile {
    sample: usize,
    z: Range<usize>,
    y: Range<usize>,
    x: Range<usize>,
    /// Input voxels along x, y, z.
    reach: [usize; 3],
    /// What lines of the input along x have in memory, and where each of them starts.
    runs: Vec<Run>,
    lines: Vec<Option<usize>>,
}

impl Tile {
    fn new(g: &Geometry, sample: usize, z: Range<usize>, y: Range<usize>, x: Range<usize>) -> Self {
        let reach = [x.len(), y.len(), z.len()].map(|n| g.reach(n));
        let line = |i: usize| {
            let source_z = g.source(0, z.start, i / reach[1]);
            let source_y = g.source(1, y.start, i % reach[1]);
            source_z.zip(source_y).map(|(z, y)| (z * g.size[1] + y) * g.size[2])
        };
        let lines = (0..reach[2] * reach[1]).map(line).collect();
        Self { sample, reach, runs: g.runs(&x), lines, z, y, x }
    }

    fn voxels(&self) -> usize {
        self.z.len() * self.y.len() * self.x.len()
    }
}

impl Layout {
    fn new<T: Lanes>(map: &Map<T>, g: &Geometry, [z, y, x]: [usize; 3]) -> Self {
        let [reach_z, reach_y, reach_x] = [z, y, x].map(|n| g.reach(n));
        // An odd number of cache lines spreads the rows over the cache.
        let lines = (z * y * x + SLACK).div_ceil(SLACK);
        let pitch = (lines + 1 - lines % 2) * SLACK;
        let orders = map.orders;
        let features = map.inputs.iter().map(|(block, couplings)| {
            let (rows, copies) = copies_at_once::<T>(block, couplings, pitch);
            rows * copies * pitch
        });
        let lengths = [
            reach_z * reach_y * reach_x,
            orders * (z * reach_y * reach_x + SLACK),
            orders * (orders + 1) / 2 * (z * y * reach_x + SLACK),
            orders * (reach_x + SLACK),
            map.widest() * map.jets * pitch,
            features.max().unwrap_or(0),
            map.channels_out * pitch,
            map.channels_out * pitch,
        ];
        Self { pitch, lengths: lengths.map(|len| (len + 2 * SLACK).next_multiple_of(SLACK)) }
    }

    fn zeros<T: Lanes>(&self) -> HugeVec<T> {
        HugeVec::zeros(self.lengths.iter().sum())
    }
}

impl<'a, T: Lanes> Scratch<'a, T> {
    fn new(layout: &Layout, mut buffer: &'a mut [T]) -> Self {
        let parts = layout.lengths.map(|len| buffer.split_off_mut(..len).unwrap_or_default());
        let [input, after_z, after_y, line, jets, features, out, others] = parts;
        Self { pitch: layout.pitch, input, after_z, after_y, line, jets, features, out, others }
    }

    fn task(&mut self, job: &Job<'_, T>, tile_x: usize, task: &mut Task<'_, T>, sums: &mut [T]) {
        let Job { map, g, work, .. } = *job;
        let width = g.out[2];
        for start in (0..width).step_by(tile_x) {
            let range = start..(start + tile_x).min(width);
            let tile = Tile::new(g, task.sample, task.z.clone(), task.y.clone(), range);
            self.out.fill(T::zero());
            if let Some(other) = work.contract {
                self.gather(map, g, other, &tile);
            }
            for (block, couplings) in &map.inputs {
                self.block(job, &tile, block, couplings, sums);
            }
            if work.mix.is_some() {
                self.scatter(g, &tile, work.bias, &mut task.out);
            }
        }
    }

    /// Everything that one block of the input does.
    fn block(
        &mut self,
        job: &Job<'_, T>,
        tile: &Tile,
        block: &FieldBlock,
        couplings: &[Coupling<T>],
        sums: &mut [T],
    ) {
        let Job { map, work, .. } = *job;
        let (pitch, len) = (self.pitch, tile.voxels());
        let (_, at_once) = copies_at_once::<T>(block, couplings, pitch);
        for first in (0..if couplings.is_empty() { 0 } else { block.mul }).step_by(at_once) {
            let copies = first..(first + at_once).min(block.mul);
            for copy in copies.clone() {
                for component in 0..block.dim {
                    let channel = block.offset + copy * block.dim + component;
                    self.load(job, tile, channel);
                    self.filter(map, job.g, tile, component);
                }
                let mut offset = 0;
                for c in couplings {
                    let rows = c.paths * c.output.dim;
                    let out = &mut self.features[offset + (copy - first) * rows * pitch..];
                    let input = &*self.jets;
                    map.arch.dispatch(Couple { matrix: &c.features, input, out, len, pitch });
                    offset += rows * copies.len() * pitch;
                }
            }
            let mut offset = 0;
            for c in couplings {
                let (inner, row_len) = (copies.len() * c.paths, c.output.dim * pitch);
                let features = &self.features[offset..];
                let fields = c.output.offset * pitch;
                let weights = c.weight_offset + first * c.paths;
                let weight_pitch = block.mul * c.paths;
                if let Some(all) = work.mix {
                    map.arch.dispatch(Mix {
                        weights: &all[weights..],
                        weight_pitch,
                        rows: c.output.mul,
                        inner,
                        features,
                        out: &mut self.out[fields..],
                        components: c.output.dim,
                        len,
                        pitch,
                    });
                }
                if work.contract.is_some() {
                    map.arch.dispatch(Contract {
                        others: &self.others[fields..],
                        rows: c.output.mul,
                        features,
                        inner,
                        len: row_len,
                        sums: &mut sums[weights..],
                        sum_pitch: weight_pitch,
                    });
                }
                offset += inner * row_len;
            }
        }
    }

    /// Copies what the tile depends on of one channel.
    fn load(&mut self, job: &Job<'_, T>, tile: &Tile, channel: usize) {
        let Job { map, g, x, .. } = *job;
        let channel = tile.sample * map.channels_in + channel;
        map.arch.dispatch(Load {
            channel: &x[channel * g.in_voxels()..][..g.in_voxels()],
            lines: &tile.lines,
            runs: &tile.runs,
            width: tile.reach[0],
            out: self.input,
        });
    }

    /// All jets of the loaded channel.
    fn filter(&mut self, map: &Map<T>, g: &Geometry, tile: &Tile, component: usize) {
        let (half, orders, stride) = (map.half, map.orders, g.stride);
        let [width, height, _] = tile.reach;
        let [depth_out, height_out, width_out] = [tile.z.len(), tile.y.len(), tile.x.len()];
        let [taps_z, taps_y, taps_x] = &map.taps;
        let z_pitch = depth_out * height * width + SLACK;
        let y_pitch = depth_out * height_out * width + SLACK;
        map.arch.dispatch(Filter {
            half,
            taps: taps_z,
            orders,
            input: self.input,
            step: height * width,
            runs: depth_out,
            len: height * width,
            in_pitch: stride * height * width,
            out: self.after_z,
            out_pitch: height * width,
            planes: 1,
            in_plane: 0,
            out_plane: 0,
            order_pitch: z_pitch,
        });
        let mut planes = 0;
        let mut jets = component * map.jets;
        for order_z in 0..orders {
            let y_orders = orders - order_z;
            // Neighbouring lines are one run, unless the stride skips some.
            let (runs, len) =
                if stride == 1 { (1, height_out * width) } else { (height_out, width) };
            map.arch.dispatch(Filter {
                half,
                taps: taps_y,
                orders: y_orders,
                input: &self.after_z[order_z * z_pitch..],
                step: width,
                runs,
                len,
                in_pitch: stride * width,
                out: &mut self.after_y[planes * y_pitch..],
                out_pitch: width,
                planes: depth_out,
                in_plane: height * width,
                out_plane: height_out * width,
                order_pitch: y_pitch,
            });
            for order_y in 0..y_orders {
                let x_orders = y_orders - order_y;
                let input = &self.after_y[(planes + order_y) * y_pitch..];
                let out = &mut self.jets[jets * self.pitch..];
                let mut pass = Filter {
                    half,
                    taps: taps_x,
                    orders: x_orders,
                    input,
                    step: 1,
                    runs: depth_out * height_out,
                    len: width_out,
                    in_pitch: width,
                    out,
                    out_pitch: width_out,
                    planes: 1,
                    in_plane: 0,
                    out_plane: 0,
                    order_pitch: self.pitch,
                };
                if stride == 1 {
                    map.arch.dispatch(pass);
                } else {
                    strided(map.arch, &mut pass, stride, self.line);
                }
                jets += x_orders;
            }
            planes += y_orders;
        }
    }

    /// Copies the tile of another field of the output's type to where the features can meet it.
    fn gather(&mut self, map: &Map<T>, g: &Geometry, other: &[T], tile: &Tile) {
        let (channels, voxels) = (map.channels_out, g.out_voxels());
        let other = &other[tile.sample * channels * voxels..][..channels * voxels];
        self.others.fill(T::zero());
        for (channel, other) in other.chunks_exact(voxels).enumerate() {
            let mut at = channel * self.pitch;
            for z in tile.z.clone() {
                for y in tile.y.clone() {
                    let line = &other[(z * g.out[1] + y) * g.out[2]..][tile.x.clone()];
                    self.others[at..][..line.len()].copy_from_slice(line);
                    at += line.len();
                }
            }
        }
    }

    /// Copies the tile's output to the output.
    fn scatter(&self, g: &Geometry, tile: &Tile, bias: Option<&[T]>, out: &mut [&mut [T]]) {
        let planes = out.chunks_exact_mut(tile.z.len());
        for (channel, planes) in planes.enumerate() {
            let bias = bias.map_or(T::zero(), |bias| bias[channel]);
            let mut values = self.out[channel * self.pitch..].chunks_exact(tile.x.len());
            for plane in planes {
                for line in plane.chunks_exact_mut(g.out[2]) {
                    let (Some(values), line) = (values.next(), &mut line[tile.x.clone()]) else {
                        return;
                    };
                    line.iter_mut().zip(values).for_each(|(out, &v)| *out = v + bias);
                }
            }
        }
    }
}

/// Rows of features of one copy of a block, and the copies whose features are kept at once.
fn copies_at_once<T>(
    block: &FieldBlock,
    couplings: &[Coupling<T>],
    pitch: usize,
) -> (usize, usize) {
    let rows: usize = couplings.iter().map(|c| c.paths * c.output.dim).sum();
    let copies = FEATURE_BYTES / (rows * pitch * size_of::<T>()).max(1);
    // Equal parts.
    let parts = block.mul.div_ceil(copies.max(1));
    (rows, block.mul.div_ceil(parts.max(1)).max(1))
}

/// A pass along x that keeps every `stride`-th voxel.
fn strided<T: Lanes>(arch: Arch, pass: &mut Filter<'_, T>, stride: usize, line: &mut [T]) {
    let len = (pass.len - 1) * stride + 1;
    let order_pitch = len.next_multiple_of(SLACK);
    for run in 0..pass.runs {
        arch.dispatch(Filter {
            input: &pass.input[run * pass.in_pitch..],
            runs: 1,
            len,
            out: &mut *line,
            order_pitch,
            ..*pass
        });
        for (order, line) in line.chunks_exact(order_pitch).take(pass.orders).enumerate() {
            let out = &mut pass.out[order * pass.order_pitch + run * pass.out_pitch..];
            let kept = line.iter().step_by(stride);
            out[..pass.len].iter_mut().zip(kept).for_each(|(out, &v)| *out = v);
        }
    }
}

#[cfg(test)]
mod tests {
    use steer3d_kernels::{Family, KernelBasis};
    use steer3d_so3::Stream;

    use super::super::geometry::Boundary;
    use super::*;
    use crate::simd::arches;

    #[test]
    fn all_instruction_sets_agree() {
        let irreps = |text: &str| text.parse().unwrap();
        let (input, output) = (irreps("5x0+3x1+2x2"), irreps("9x0+2x1+1x2"));
        let family = Family::jets(4);
        let basis = KernelBasis::new(&input, &output, 7, &family, [1.0; 3]).unwrap();
        let plan = SeparablePlan::new(&basis, &family).unwrap().unwrap();
        let g = Geometry::forward(1, [9, 7, 37], 3, 1, Boundary::Zero);
        let mut stream = Stream::new(0, "test", &[]);
        let mut normal = |n: usize| (0..n).map(|_| stream.normal() as f32).collect::<Vec<_>>();
        let x = normal(input.dim() * g.in_voxels());
        let other = normal(output.dim() * g.out_voxels());
        let w = normal(plan.num_weights);
        let work = Work { mix: Some(&w), bias: None, contract: Some(&other) };
        let results = arches().into_iter().map(|arch| {
            let map = Map { arch, ..Map::new(&plan) };
            run(&map, &g, &x, &work)
        });
        let results: Vec<Vec<f32>> = results.collect();
        for result in &results[1..] {
            // The output and then the weight gradient, each in its own scale.
            let (out, sums) = (output.dim() * g.out_voxels(), result.len());
            for range in [0..out, out..sums] {
                let (a, b) = (&result[range.clone()], &results[0][range]);
                let largest = b.iter().fold(0f32, |m, v| m.max(v.abs()));
                let gap = a.iter().zip(b).fold(0f32, |m, (a, b)| m.max((a - b).abs()));
                assert!(gap < 1e-5 * largest, "{gap} of {largest}");
            }
        }
    }
}
