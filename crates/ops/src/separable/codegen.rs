//! The kernel of a separable convolution, written for one plan: tile, filters, couplings and the places of
//! all channels are constants of its text, so that the compiler keeps output channels in registers and
//! multiplies with literals.

use std::fmt::Write;

use steer3d_kernels::{Coupling, FieldBlock, JetTerm, SeparablePlan};

use crate::gpu::{Element, KernelText, Limits};

const TEMPLATE: &str = include_str!("../gpu/kernels/separable.cu");

/// Adds a line to a text.
macro_rules! line {
    ($out:expr, $($text:tt)*) => {{
        // Writing to a string does not fail.
        let _ = writeln!($out, $($text)*);
    }};
}

/// Most output channels that one thread has in registers.
const CHANNELS_PER_THREAD: usize = 80;

/// Registers of a thread beside those of its output channels.
const REGISTERS: usize = 48;

/// Registers of a multiprocessor.
const ALL_REGISTERS: usize = 64 << 10;

/// Most groups of warps in a block.
const GROUPS: usize = 4;

/// Tiles D,H,W of a multiple of 32 voxels, the best first.
const TILES: [[usize; 3]; 4] = [[4, 4, 8], [3, 4, 8], [2, 4, 8], [2, 4, 4]];

/// What the kernel makes of the features.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Use {
    /// Mixes them with the weights.
    Mix,
    /// So, on tensor cores, with features and weights rounded to TF32.
    MixTf32,
    /// Multiplies them with a field of the output's type and sums over all voxels.
    Contract,
}

impl Use {
    /// Places in shared memory for `count` copies of an output block, in each path. On tensor cores those of four
    /// paths for eight copies lie in 32 banks.
    fn padded(self, count: usize) -> usize {
        match self {
            Self::Mix => count.next_multiple_of(4),
            Self::MixTf32 => count.next_multiple_of(8) | 8,
            Self::Contract => count,
        }
    }

    /// Multiple of copies for which threads have registers.
    fn unit(self) -> usize {
        if self == Self::MixTf32 { 8 } else { 1 }
    }
}

/// One kernel of a plan: what it does and for which output channels.
#[derive(Clone, Debug)]
pub(crate) struct Kernel {
    pub(crate) source: KernelText,
    pub(crate) tile: [usize; 3],
    pub(crate) threads: usize,
    pub(crate) shared_bytes: usize,
}

/// Some copies of an output block.
#[derive(Clone, Copy, Debug)]
struct Slice {
    block: usize,
    first: usize,
    count: usize,
}

/// What distinguishes the kernels of one plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Variant {
    pub(crate) using: Use,
    /// Whether the weights are laid out for the plan of which this one is the adjoint.
    pub(crate) exchanged: bool,
    pub(crate) stride: usize,
    pub(crate) element: Element,
    pub(crate) limits: Limits,
}

struct Writer<'a> {
    plan: &'a SeparablePlan,
    variant: Variant,
    groups: Vec<Vec<Slice>>,
    tile: [usize; 3],
    /// Components of a copy for which jets are computed together.
    together: usize,
}

/// Kernels that together give all output channels of `plan`; `None` where one does not fit a block.
pub(crate) fn kernels(plan: &SeparablePlan, variant: Variant) -> Option<Vec<Kernel>> {
    let chunks = chunks(&plan.outputs, variant.using.unit());
    let kernel = |groups: Vec<Vec<Slice>>| {
        let writer =
            |tile, together| Writer { plan, variant, groups: groups.clone(), tile, together };
        let widest = plan.inputs.iter().map(|b| b.dim).max().unwrap_or(1);
        let candidates =
            || TILES.iter().flat_map(|&tile| (1..=widest).rev().map(move |n| writer(tile, n)));
        // Two blocks on a multiprocessor hide each other's waits; else what fits.
        let two = candidates().find(|w| w.blocks() >= 2 && w.fits());
        let writer = two.or_else(|| candidates().find(Writer::fits))?;
        Some(Kernel {
            source: KernelText::new(writer.text()),
            tile: writer.tile,
            threads: writer.threads(),
            shared_bytes: writer.shared_bytes(),
        })
    };
    chunks.into_iter().map(kernel).collect()
}

/// The output channels in kernels of at most [`GROUPS`] groups, as few and as even as at most [`CHANNELS_PER_THREAD`]
/// channels in each let them be; where a block is divided, after a multiple of `unit` copies.
fn chunks(outputs: &[FieldBlock], unit: usize) -> Vec<Vec<Vec<Slice>>> {
    let fewest = filled(outputs, unit, CHANNELS_PER_THREAD);
    let even = (1..CHANNELS_PER_THREAD)
        .map(|room| filled(outputs, unit, room))
        .find(|groups| groups.len() == fewest.len());
    even.unwrap_or(fewest).chunks(GROUPS).map(<[_]>::to_vec).collect()
}

/// Groups filled in order with `room` channels each, or with one unit of copies of a block that needs more.
fn filled(outputs: &[FieldBlock], unit: usize, room: usize) -> Vec<Vec<Slice>> {
    let mut groups: Vec<Vec<Slice>> = vec![vec![]];
    let mut left = room;
    for (block, b) in outputs.iter().enumerate() {
        let mut first = 0;
        while first < b.mul {
            let fits = left / b.dim / unit * unit;
            if fits == 0 && left < room {
                groups.push(vec![]);
                left = room;
                continue;
            }
            let count = fits.max(unit).min(b.mul - first);
            groups.last_mut().into_iter().for_each(|g| g.push(Slice { block, first, count }));
            first += count;
            left = left.saturating_sub(count.next_multiple_of(unit) * b.dim);
        }
    }
    groups.retain(|group| !group.is_empty());
    groups
}

impl Writer<'_> {
    fn voxels(&self) -> usize {
        self.tile.iter().product()
    }

    fn threads(&self) -> usize {
        self.groups.len() * self.voxels()
    }

    fn orders(&self) -> usize {
        self.plan.order() + 1
    }

    fn jets(&self) -> usize {
        let n = self.orders();
        n * (n + 1) * (n + 2) / 6
    }

    fn reach(&self, n: usize) -> usize {
        (n - 1) * self.variant.stride + 1 + self.plan.size / 2 * 2
    }

    fn line(&self) -> usize {
        (self.tile[2] - 4) * self.variant.stride + self.reach(4).next_multiple_of(4)
    }

    fn widest(&self) -> usize {
        self.plan.inputs.iter().map(|b| b.dim).max().unwrap_or(1)
    }

    /// Elements of the parts of shared memory: tile, planes and lines (whose place the features take), jets,
    /// weights or sums.
    fn parts(&self) -> [usize; 5] {
        let (n, [tz, ty, _], line) = (self.orders(), self.tile, self.line());
        let together = self.together.min(self.widest());
        // As the macros of these names.
        let spread = |n: usize| n + (32 + line - n % 32) % 32;
        let planes = (together * n * (n + 1) / 2 * tz * spread(ty * line)).next_multiple_of(4);
        let lines = together * n * tz * spread(self.reach(ty) * line);
        let jets = self.widest() * self.jets() * self.voxels();
        let rows = (0..self.plan.inputs.len()).map(|i| self.rows_of(i)).max().unwrap_or(0);
        let lines = lines.max((rows * self.row()).saturating_sub(planes));
        let warps = if self.variant.using == Use::Contract { self.voxels() / 32 } else { 1 };
        let small = self.most_small() * warps;
        [together * self.tile_len(), planes, lines, jets, small].map(|n| n.next_multiple_of(4))
    }

    /// Elements of a tile of one component, with its margin.
    fn tile_len(&self) -> usize {
        self.reach(self.tile[0]) * self.reach(self.tile[1]) * self.line()
    }

    fn fits(&self) -> bool {
        self.shared_bytes() <= self.variant.limits.shared_per_block
    }

    /// Blocks for which a multiprocessor has room.
    fn blocks(&self) -> usize {
        let registers = self.channels() * self.variant.element.real_bytes() / 4 + REGISTERS;
        let by_registers = ALL_REGISTERS / (registers.next_multiple_of(8) * self.threads());
        // CUDA takes a kilobyte of each block for itself.
        let by_memory =
            self.variant.limits.shared_per_multiprocessor / (self.shared_bytes() + 1024);
        by_registers.min(by_memory).max(1)
    }

    fn shared_bytes(&self) -> usize {
        // At the end, the places of a tile's elements, which are C ints.
        self.parts().iter().sum::<usize>() * self.variant.element.real_bytes() + 4 * self.tile_len()
    }

    fn coupling(&self, input: usize, output: usize) -> Option<&Coupling> {
        self.plan.couplings.iter().find(|c| c.input == input && c.output == output)
    }

    /// The slices of all groups that input block `i` feeds, with their couplings.
    fn fed(&self, i: usize) -> impl Iterator<Item = (Slice, &Coupling)> {
        let slices = self.groups.iter().flatten();
        slices.filter_map(move |&s| Some((s, self.coupling(i, s.block)?)))
    }

    /// The output blocks that input block `i` feeds here.
    fn fed_blocks(&self, i: usize) -> Vec<&Coupling> {
        let mut couplings: Vec<&Coupling> = self.fed(i).map(|(_, c)| c).collect();
        couplings.sort_by_key(|c| c.output);
        couplings.dedup_by_key(|c| c.output);
        couplings
    }

    /// Features of one copy of input block `i`.
    fn rows_of(&self, i: usize) -> usize {
        self.fed_blocks(i).iter().map(|c| c.rows.len()).sum()
    }

    /// Places for the weights, or the sums, of a coupling to a slice.
    fn small(&self, paths: usize, count: usize) -> usize {
        paths * self.variant.using.padded(count)
    }

    /// Most places that a copy of any input block takes.
    fn most_small(&self) -> usize {
        let of = |i| self.fed(i).map(|(s, c)| self.small(c.paths, s.count)).sum();
        (0..self.plan.inputs.len()).map(of).max().unwrap_or(0)
    }

    /// Distance of features in shared memory; for tensor cores four of them at eight voxels lie in 32 banks.
    fn row(&self) -> usize {
        self.voxels() + if self.variant.using == Use::MixTf32 { 8 } else { 0 }
    }

    /// Registers of each thread for a slice.
    fn registers_of(&self, s: Slice) -> usize {
        s.count.next_multiple_of(self.variant.using.unit()) * self.plan.outputs[s.block].dim
    }

    fn num_slices(&self) -> usize {
        self.groups.iter().map(Vec::len).sum()
    }

    /// Registers of each thread for its channels.
    fn channels(&self) -> usize {
        let of = |group: &Vec<Slice>| group.iter().map(|&s| self.registers_of(s)).sum();
        self.groups.iter().map(of).max().unwrap_or(1)
    }

    fn text(&self) -> String {
        let mut out = self.variant.element.prelude();
        self.constants(&mut out);
        out.push_str(TEMPLATE);
        self.tables(&mut out);
        self.inputs(&mut out);
        self.kernel(&mut out);
        out
    }

    fn constants(&self, out: &mut String) {
        let [z, y, x] = self.tile;
        let defines = [
            ("HALF", self.plan.size / 2),
            ("ORDERS", self.orders()),
            ("JETS", self.jets()),
            ("STRIDE", self.variant.stride),
            ("GROUPS", self.groups.len()),
            ("BLOCKS", self.blocks()),
            ("SLICES", self.num_slices()),
            ("SUMS", self.most_small()),
            ("TILE_Z", z),
            ("TILE_Y", y),
            ("TILE_X", x),
            ("ROW", self.row()),
        ];
        for (name, value) in defines {
            line!(out, "#define {name} {value}");
        }
        if self.variant.using == Use::MixTf32 {
            line!(out, "#define TF32");
        }
        let half = self.plan.size / 2;
        let [x, y, z] = &self.plan.taps;
        for (name, taps) in [("TapsX", x), ("TapsY", y), ("TapsZ", z)] {
            let folded = taps.chunks_exact(self.plan.size).flat_map(|filter| &filter[half..]);
            let cases: String = folded.enumerate().fold(String::new(), |mut text, (i, tap)| {
                line!(&mut text, "        case {i}: return (real){tap:e};");
                text
            });
            line!(
                out,
                "struct {name} {{\n    static __device__ __forceinline__ real at(int i) {{\n        \
                     switch (i) {{\n{cases}        }}\n        return 0;\n    }}\n}};"
            );
        }
        let n = self.orders();
        let (mut first, mut orders) = (vec![], vec![]);
        let mut jets = 0;
        for a in 0..n {
            for b in 0..n - a {
                first.push(jets.to_string());
                orders.push((n - a - b).to_string());
                jets += n - a - b;
            }
        }
        for (name, values) in [("FIRST_JET", first), ("JET_ORDERS", orders)] {
            line!(out, "__constant__ int {name}[] = {{{}}};", values.join(", "));
        }
    }

    /// For each input block and slice: paths, copies, first feature, first weight or sum in shared memory, first
    /// weight, and how far the weights of neighbouring copies of output and input are apart.
    fn tables(&self, out: &mut String) {
        line!(out, "__constant__ Pair PAIR[][SLICES] = {{");
        for i in 0..self.plan.inputs.len() {
            let (mut small, mut pairs) = (0, vec![]);
            for slice in self.groups.iter().flatten() {
                let Some(c) = self.coupling(i, slice.block) else {
                    pairs.push("{0, 1}".into());
                    continue;
                };
                let before = self.fed_blocks(i).into_iter().take_while(|b| b.output < c.output);
                let rows: usize = before.map(|b| b.rows.len()).sum();
                // How far the weights of neighbouring copies of output and input are apart.
                let [mul_in, mul_out] =
                    [self.plan.inputs[c.input].mul, self.plan.outputs[c.output].mul];
                let (v, u) = if self.variant.exchanged {
                    (c.paths, mul_out * c.paths)
                } else {
                    (mul_in * c.paths, c.paths)
                };
                let weight = c.weight_offset + slice.first * v;
                let (paths, count) = (c.paths, slice.count);
                pairs.push(format!("{{{paths}, {count}, {rows}, {small}, {weight}, {v}, {u}}}"));
                small += self.small(paths, count);
            }
            line!(out, "    {{{}}},", pairs.join(", "));
        }
        line!(out, "}};");
    }

    /// The place of a jet (orders along x, y, z) among those of a component.
    fn place(&self, [c, b, a]: [usize; 3]) -> usize {
        let n = self.orders();
        let mut place = c;
        for i in 0..a {
            let m = n - i;
            place += m * (m + 1) / 2;
        }
        for j in 0..b {
            place += n - a - j;
        }
        place
    }

    /// The input blocks that feed something here.
    fn feeding(&self) -> Vec<usize> {
        (0..self.plan.inputs.len()).filter(|&i| self.fed(i).next().is_some()).collect()
    }

    /// A function that finds a copy among those of all input blocks; beyond the last, one of no components.
    fn inputs(&self, out: &mut String) {
        line!(
            out,
            "struct Input {{ int block, copy, dim, channel; }};
__device__ __forceinline__ Input input_of(int copy) {{
    Input found = {{0, 0, 0, 0}};"
        );
        let mut first = 0;
        for i in self.feeding() {
            let FieldBlock { offset, mul, dim } = self.plan.inputs[i];
            let end = first + mul;
            line!(
                out,
                "    if (copy >= {first} && copy < {end}) found = {{{i}, copy - {first}, {dim}, {offset} + (copy - {first}) * {dim}}};"
            );
            first = end;
        }
        line!(out, "    return found;\n}}");
    }

    fn kernel(&self, out: &mut String) {
        let registers = self.channels();
        let [tile, planes, lines, jets, small] = self.parts();
        line!(out, "
extern \"C\" __global__ void __launch_bounds__(THREADS, BLOCKS)
separable(const store *x, const store *w, const store *bias, const store *other, store *out, real *shares,
          Sizes g, i64 tiles, int weights, int first_share) {{
    SHARED(real, shared);
    real *tile = shared, *planes = tile + {tile}, *lines = planes + {planes}, *jets = lines + {lines}, *small = jets + {jets};
    int *places = (int *)(small + {small});
    const int t = threadIdx.x, group = t / VOXELS;
    const real *own = jets + t % VOXELS;
    real *features = planes + t % VOXELS;
    real channel[{registers}];");
        if self.variant.using == Use::MixTf32 {
            line!(out, "    const real *warp_features = planes + t % VOXELS / WARP * WARP;");
        }
        if self.variant.using == Use::Contract {
            line!(
                out,
                "    real *share = shares + (i64)(first_share + blockIdx.x) * weights;
    for (int i = t; i < weights; i += THREADS) share[i] = 0;"
            );
        }
        line!(out, "    for (i64 number = blockIdx.x; number < tiles; number += gridDim.x) {{
        int first[3], origin[3];
        const int sample = place(g, number, first);
        for (int a = 0; a < 3; ++a) origin[a] = first[a] * STRIDE - HALF;
        const i64 voxels = (i64)g.out[0] * g.out[1] * g.out[2], voxel = place_of(g, first, t % VOXELS);
        __syncthreads();
        place_tile(g, origin, places);
        __syncthreads();");
        self.begin(out);
        self.copies(out);
        if self.variant.using != Use::Contract {
            self.finish(out);
        }
        line!(out, "    }}\n}}");
    }

    /// For each group, its slices with the first register and the first channel of each.
    fn placed<'a>(
        &'a self,
        group: &'a [Slice],
    ) -> impl Iterator<Item = (Slice, usize, usize)> + 'a {
        let mut register = 0;
        group.iter().map(move |&s| {
            let block = self.plan.outputs[s.block];
            let at = register;
            register += self.registers_of(s);
            (s, at, block.offset + s.first * block.dim)
        })
    }

    /// Registers at the bias, or at the values of the other field.
    fn begin(&self, out: &mut String) {
        self.for_slices(out, |register, channel, copies, dim| {
            match self.variant.using {
                Use::Mix => format!(
                    "#pragma unroll
            for (int i = 0; i < {copies} * {dim}; ++i) channel[{register} + i] = bias ? load(bias[{channel} + i]) : 0;"
                ),
                Use::MixTf32 => format!(
                    "            begin_tf32<{copies}, {dim}>(channel + {register}, bias ? bias + {channel} : bias);"
                ),
                Use::Contract => format!(
                    "            {{
                const store *from = other + ((i64)sample * g.channels_out + {channel}) * voxels + voxel;
#pragma unroll
                for (int i = 0; i < {copies} * {dim}; ++i, from += voxels) {{
                    OPAQUE(from);
                    channel[{register} + i] = voxel < 0 ? 0 : load(*from);
                }}
            }}"
                ),
            }
        });
    }

    fn finish(&self, out: &mut String) {
        if self.variant.using == Use::MixTf32 {
            line!(out, "        i64 targets[4];
        for (int j = 0; j < 4; ++j) targets[j] = place_of(g, first, t % VOXELS / WARP * WARP + voxel_of(j));");
            return self.for_slices(out, |register, channel, copies, dim| {
                format!(
                    "            finish_tf32<{copies}, {dim}>(channel + {register}, \
                     out + ((i64)sample * g.channels_out + {channel}) * voxels, voxels, targets);"
                )
            });
        }
        line!(out, "        if (voxel < 0) continue;");
        // Without OPAQUE the compiler keeps all addresses, in registers that the channels need.
        self.for_slices(out, |register, channel, copies, dim| {
            format!(
                "            {{
                store *to = out + ((i64)sample * g.channels_out + {channel}) * voxels + voxel;
#pragma unroll
                for (int i = 0; i < {copies} * {dim}; ++i, to += voxels) {{
                    OPAQUE(to);
                    *to = save(channel[{register} + i]);
                }}
            }}"
            )
        });
    }

    /// Text for each slice of each group, from its first register, first channel, copies and their dimension.
    fn for_slices(&self, out: &mut String, text: impl Fn(usize, usize, usize, usize) -> String) {
        for (index, group) in self.groups.iter().enumerate() {
            line!(out, "        if (group == {index}) {{");
            for (s, register, channel) in self.placed(group) {
                let dim = self.plan.outputs[s.block].dim;
                line!(out, "{}", text(register, channel, s.count, dim));
            }
            line!(out, "        }}");
        }
    }

    /// The loop over the copies of all input blocks, with one text of the passes for all.
    fn copies(&self, out: &mut String) {
        let fed = self.feeding();
        let total: usize = fed.iter().map(|&i| self.plan.inputs[i].mul).sum();
        let together = self.together;
        line!(out, "        const i64 in_voxels = (i64)g.size[0] * g.size[1] * g.size[2];
        const store *volume = x + (i64)sample * g.channels_in * in_voxels;
        const Input start = input_of(0);
        load_tile(min({together}, start.dim), volume + start.channel * in_voxels, in_voxels, places, tile);
        for (int copy = 0; copy < {total}; ++copy) {{
            const Input input = input_of(copy), after = input_of(copy + 1);
            const int block = input.block, u = input.copy, dim = input.dim;
            for (int m = 0; m < dim; m += {together}) {{
                const bool last = m + {together} >= dim;
                const int next = last ? after.channel : input.channel + m + {together};
                const int left = last ? after.dim : dim - m - {together};
                jets_of(min({together}, dim - m), min({together}, left), volume + next * in_voxels, in_voxels, places,
                        tile, planes, lines, jets + m * JETS * VOXELS);
            }}");
        let contract = self.variant.using == Use::Contract;
        if !contract {
            line!(out, "            load_weights(w, PAIR[block], u, small);");
        }
        line!(out, "            __syncthreads();");
        for &i in &fed {
            line!(out, "            if (block == {i}) {{");
            self.couple(i, out);
            line!(out, "            }}");
        }
        line!(out, "            __syncthreads();");
        let mut slice = 0;
        for (index, group) in self.groups.iter().enumerate() {
            line!(out, "            if (group == {index}) {{");
            for (s, register, _) in self.placed(group) {
                let (count, dim) = (s.count, self.plan.outputs[s.block].dim);
                let pair = format!("PAIR[block][{slice}]");
                let (function, features, small) = match self.variant.using {
                    Use::Mix => ("mix", "features", "small"),
                    Use::MixTf32 => ("mix_tf32", "warp_features", "small"),
                    Use::Contract => ("contract", "features", "small + t % VOXELS / WARP * SUMS"),
                };
                let call = format!(
                    "{function}<{count}, {dim}>(channel + {register}, {features} + {pair}.rows * ROW, \
                     {small} + {pair}.small, {pair}.paths);"
                );
                line!(out, "                {call}");
                slice += 1;
            }
            line!(out, "            }}");
        }
        if contract {
            line!(
                out,
                "            __syncthreads();\n            add_sums(share, PAIR[block], u, small);"
            );
        }
        line!(out, "        }}");
    }

    /// The features of a copy of input block `i`, some rows by each group of warps.
    fn couple(&self, i: usize, out: &mut String) {
        let couplings = self.fed_blocks(i);
        let rows: Vec<&Vec<JetTerm>> = couplings.iter().flat_map(|c| &c.rows).collect();
        let cost = |row: &Vec<JetTerm>| row.len() + 1;
        let total: usize = rows.iter().map(|row| cost(row)).sum();
        let (mut done, mut group) = (0, usize::MAX);
        for (index, row) in rows.into_iter().enumerate() {
            let of = done * self.groups.len() / total;
            if of != group {
                let end = if group == usize::MAX { "" } else { "                }\n" };
                line!(out, "{end}                if (group == {of}) {{");
                group = of;
            }
            done += cost(row);
            let feature = self.feature(row);
            line!(out, "                    features[{index} * ROW] = factor({feature});");
        }
        line!(out, "                }}");
    }

    /// A feature as a sum over the jets of the thread's voxel.
    fn feature(&self, row: &[JetTerm]) -> String {
        if row.is_empty() {
            return "0".into();
        }
        let term = |t: &JetTerm| {
            let at = t.component * self.jets() + self.place(self.plan.jets[t.jet]);
            format!("(real){:e} * own[{at} * VOXELS]", t.value)
        };
        row.iter().map(term).collect::<Vec<_>>().join(" + ")
    }
}
