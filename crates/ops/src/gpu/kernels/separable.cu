// The separable steerable convolution, for one plan: `separable.rs` writes the constants above this text and
// the coupling of features below it. A block works on one tile of output voxels at a time; for one copy of an
// input block after the other it loads the tile with its margin, runs the 1-D filters along z, y and x, and
// lets each thread take the jets of its voxel to features and mix them into its output channels, or multiply
// them with another field and sum over voxels.
//
// THREADS = GROUPS * VOXELS: each group of warps has all voxels of the tile and its own output channels.

struct Sizes {
    int batch, channels_in, channels_out;
    // Input in memory, input with the zeros of a dilation, output; D,H,W.
    int size[3], dilated[3], out[3];
    int dilation, circular, tiles[3];
};

#define VOXELS (TILE_Z * TILE_Y * TILE_X)
#define THREADS (GROUPS * VOXELS)
#define REACH(n) (((n) - 1) * STRIDE + 1 + 2 * HALF)
#define REACH_Z REACH(TILE_Z)
#define REACH_Y REACH(TILE_Y)
// A thread of the x pass reads whole groups of four for four outputs.
#define SEGMENT ((REACH(4) + 3) / 4 * 4)
#define REACH_X ((((TILE_X - 4) * STRIDE + SEGMENT) + 3) / 4 * 4)
#define LINE (REACH_X)
#define TILE (REACH_Z * REACH_Y * LINE)
#define PAIRS (ORDERS * (ORDERS + 1) / 2)
// Distance of z slices of lines and of planes: lines of neighbouring slices follow one another among the 32 banks
// of shared memory.
#define SPREAD(n) ((n) + (32 + LINE - (n) % 32) % 32)
#define LINES_Z SPREAD(REACH_Y * LINE)
#define PLANES_Z SPREAD(TILE_Y * LINE)
// Places of a path's weights in shared memory.
#ifdef TF32
#define PADDED(count) (((count) + 7) / 8 * 8 | 8)
#else
#define PADDED(count) (((count) + 3) / 4 * 4)
#endif

// Filters of all orders at a window of 2 HALF + 1 values, the halves folded.
template <class Taps, int COUNT>
__device__ __forceinline__ void filters(const real *v, real *out) {
    real even[HALF + 1], odd[HALF + 1];
#pragma unroll
    for (int h = 1; h <= HALF; ++h) {
        even[h] = v[HALF + h] + v[HALF - h];
        odd[h] = v[HALF + h] - v[HALF - h];
    }
#pragma unroll
    for (int a = 0; a < COUNT; ++a) {
        real sum = a % 2 ? 0 : Taps::at(a * (HALF + 1)) * v[HALF];
#pragma unroll
        for (int h = 1; h <= HALF; ++h) sum += Taps::at(a * (HALF + 1) + h) * (a % 2 ? odd[h] : even[h]);
        out[a] = sum;
    }
}

// Where a position along an axis is in memory; -1 where the input is zero.
__device__ __forceinline__ int source(const Sizes &g, int axis, int position) {
    const int n = g.dilated[axis];
    if (g.circular) {
        position %= n;
        if (position < 0) position += n;
    } else if (position < 0 || position >= n) {
        return -1;
    }
    if (g.dilation == 1) return position;
    return position % g.dilation ? -1 : position / g.dilation;
}

// Where each element of the tile is in an input channel, -1 where it is zero.
__device__ __forceinline__ void place_tile(const Sizes &g, const int *origin, int *places) {
    for (int i = threadIdx.x; i < TILE; i += THREADS) {
        const int z = source(g, 0, origin[0] + i / (REACH_Y * LINE));
        const int y = source(g, 1, origin[1] + i / LINE % REACH_Y);
        const int v = source(g, 2, origin[2] + i % LINE);
        places[i] = z >= 0 && y >= 0 && v >= 0 ? (z * g.size[1] + y) * g.size[2] + v : -1;
    }
}

// `count` components of a copy, from `from` on: tile[c][z][y][x]. The copies may still be under way.
__device__ __forceinline__ void load_tile(int count, const store *from, i64 voxels, const int *places, real *tile) {
    for (int i = threadIdx.x; i < TILE; i += THREADS) {
        const int place = places[i];
        for (int c = 0; c < count; ++c) copy_element(tile + c * TILE + i, from + c * voxels + max(place, 0), place >= 0);
    }
    end_copies();
}

// lines[c][a][z][y][x] from tile[c][z][y][x].
__device__ __forceinline__ void pass_z(int count, const real *tile, real *lines) {
    for (int i = threadIdx.x; i < count * REACH_Y * LINE; i += THREADS) {
        const int c = i / (REACH_Y * LINE), column = i % (REACH_Y * LINE);
        real v[REACH_Z];
#pragma unroll
        for (int z = 0; z < REACH_Z; ++z) v[z] = tile[(c * REACH_Z + z) * REACH_Y * LINE + column];
#pragma unroll
        for (int z = 0; z < TILE_Z; ++z) {
            real out[ORDERS];
            filters<TapsZ, ORDERS>(v + z * STRIDE, out);
#pragma unroll
            for (int a = 0; a < ORDERS; ++a) lines[((c * ORDERS + a) * TILE_Z + z) * LINES_Z + column] = out[a];
        }
    }
}

// Index of the orders a along z and b along y.
__device__ __forceinline__ int pair(int a, int b) { return a * ORDERS - a * (a - 1) / 2 + b; }

// The filters of `orders` orders at the lines of a tile; order b of line y goes to to[b TILE_Z PLANES_Z + y LINE].
template <int COUNT>
__device__ __forceinline__ void middle_filters(int orders, const real *v, real *to) {
    if constexpr (COUNT > 0) {
        if (orders < COUNT) {
            middle_filters<COUNT - 1>(orders, v, to);
            return;
        }
#pragma unroll
        for (int y = 0; y < TILE_Y; ++y) {
            real out[COUNT];
            filters<TapsY, COUNT>(v + y * STRIDE, out);
#pragma unroll
            for (int b = 0; b < COUNT; ++b) to[b * TILE_Z * PLANES_Z + y * LINE] = out[b];
        }
    }
}

// planes[c][pair a, b][z][y][x] from lines[c][a][z][y][x].
__device__ __forceinline__ void pass_y(int count, const real *lines, real *planes) {
    const int slices = count * TILE_Z;
    // The order along z varies most slowly, so that few warps have threads of several.
    for (int i = threadIdx.x; i < ORDERS * slices * LINE; i += THREADS) {
        const int x = i % LINE, rest = i / LINE, a = rest / slices, slice = rest - a * slices;
        const int c = slice / TILE_Z, z = slice % TILE_Z;
        const real *from = lines + ((c * ORDERS + a) * TILE_Z + z) * LINES_Z + x;
        real v[REACH_Y];
#pragma unroll
        for (int y = 0; y < REACH_Y; ++y) v[y] = from[y * LINE];
        middle_filters<ORDERS>(ORDERS - a, v, planes + ((c * PAIRS + pair(a, 0)) * TILE_Z + z) * PLANES_Z + x);
    }
}

// The filters of `orders` orders at four neighbours; order e goes to to[e VOXELS].
template <int COUNT>
__device__ __forceinline__ void last_filters(int orders, const real *v, real *to) {
    if constexpr (COUNT > 0) {
        if (orders < COUNT) {
            last_filters<COUNT - 1>(orders, v, to);
            return;
        }
        real out[4][COUNT];
#pragma unroll
        for (int j = 0; j < 4; ++j) filters<TapsX, COUNT>(v + j * STRIDE, out[j]);
#pragma unroll
        for (int e = 0; e < COUNT; ++e) {
            vec4 four;
#pragma unroll
            for (int j = 0; j < 4; ++j) four.v[j] = out[j][e];
            *(vec4 *)(to + e * VOXELS) = four;
        }
    }
}

// jets[c][jet][voxel] from planes[c][pair][z][y][x], for four neighbours along x at a time. A thread has the same
// voxels in every plane, since THREADS is 4 GROUPS times the fours of a plane.
__device__ __forceinline__ void pass_x(int count, const real *planes, real *jets) {
    const int parts = TILE_X / 4, fours = VOXELS / 4, mine = threadIdx.x % fours, row = mine / parts, part = mine % parts;
    const real *from = planes + row / TILE_Y * PLANES_Z + row % TILE_Y * LINE + part * 4 * STRIDE;
    real *to = jets + 4 * mine;
    for (int plane = threadIdx.x / fours; plane < count * PAIRS; plane += 4 * GROUPS) {
        const int c = plane / PAIRS, ab = plane % PAIRS;
        const real *line = from + plane * TILE_Z * PLANES_Z;
        real v[SEGMENT];
#pragma unroll
        for (int s = 0; s < SEGMENT; s += 4) {
            const vec4 four = *(const vec4 *)(line + s);
#pragma unroll
            for (int j = 0; j < 4; ++j) v[s + j] = four.v[j];
        }
        last_filters<ORDERS>(JET_ORDERS[ab], v, to + (c * JETS + FIRST_JET[ab]) * VOXELS);
    }
}

// The jets of `count` components in the tile; meanwhile the next `next` components come, from `from` on.
__device__ __forceinline__ void jets_of(int count, int next, const store *from, i64 voxels, const int *places,
                                        real *tile, real *planes, real *lines, real *jets) {
    await_copies();
    __syncthreads();
    pass_z(count, tile, lines);
    __syncthreads();
    load_tile(next, from, voxels, places, tile);
    pass_y(count, lines, planes);
    __syncthreads();
    pass_x(count, planes, jets);
}

// Lane i gets the sum over the lanes of v[i]: halves of the lanes exchange halves of the values.
template <int HALF_LANES>
__device__ __forceinline__ void exchange(real *v) {
    const bool upper = threadIdx.x & HALF_LANES;
#pragma unroll
    for (int i = 0; i < HALF_LANES; ++i) {
        const real sent = upper ? v[i] : v[i + HALF_LANES], kept = upper ? v[i + HALF_LANES] : v[i];
        v[i] = kept + __shfl_xor_sync(ALL_LANES, sent, HALF_LANES);
    }
}
__device__ __forceinline__ real transposed_sum(real *v) {
    exchange<16>(v);
    exchange<8>(v);
    exchange<4>(v);
    exchange<2>(v);
    exchange<1>(v);
    return v[0];
}

// Tile number to sample and first output voxel.
__device__ __forceinline__ int place(const Sizes &g, i64 tile, int *first) {
    first[2] = (int)(tile % g.tiles[2]) * TILE_X;
    tile /= g.tiles[2];
    first[1] = (int)(tile % g.tiles[1]) * TILE_Y;
    tile /= g.tiles[1];
    first[0] = (int)(tile % g.tiles[0]) * TILE_Z;
    return (int)(tile / g.tiles[0]);
}

// Where a voxel of a tile is in an output channel; -1 outside.
__device__ __forceinline__ i64 place_of(const Sizes &g, const int *first, int voxel) {
    const int z = first[0] + voxel / (TILE_Y * TILE_X), y = first[1] + voxel / TILE_X % TILE_Y, x = first[2] + voxel % TILE_X;
    return z < g.out[0] && y < g.out[1] && x < g.out[2] ? ((i64)z * g.out[1] + y) * g.out[2] + x : -1;
}

// What is constant about a pair of an input block and a slice of an output block: see `Writer::tables`.
struct Pair { int paths, count, rows, small, weight, v_stride, u_stride; };

// A factor of the mixing.
__device__ __forceinline__ real factor(real x) {
#ifdef TF32
    unsigned bits;
    ROUND_TF32(bits, x);
    return __uint_as_float(bits);
#else
    return x;
#endif
}

// The weights of copy u of an input block: small[pair][path][copy of the output, padded].
__device__ __forceinline__ void load_weights(const store *w, const Pair *pairs, int u, real *small) {
    for (int s = 0; s < SLICES; ++s) {
        const Pair p = pairs[s];
        const int padded = PADDED(p.count);
        for (int i = threadIdx.x; i < p.paths * padded; i += THREADS) {
            const int path = i / padded, v = i % padded;
            small[p.small + i] = v < p.count ? factor(load(w[p.weight + v * p.v_stride + u * p.u_stride + path])) : 0;
        }
    }
}

// Adds the sums of all warps, small[warp][pair][path][copy], to this block's share of the weight gradient.
__device__ __forceinline__ void add_sums(real *share, const Pair *pairs, int u, const real *small) {
    for (int s = 0; s < SLICES; ++s) {
        const Pair p = pairs[s];
        for (int i = threadIdx.x; i < p.paths * p.count; i += THREADS) {
            real sum = 0;
            for (int warp = 0; warp < VOXELS / WARP; ++warp) sum += small[warp * SUMS + p.small + i];
            share[p.weight + i % p.count * p.v_stride + u * p.u_stride + i / p.count] += sum;
        }
    }
}

// channel[v][o] += sum over paths of weights[path][v] features[path][o].
template <int COUNT, int DIM>
__device__ __forceinline__ void mix(real *channel, const real *features, const real *weights, int paths) {
#pragma unroll 1
    for (int path = 0; path < paths; ++path, features += DIM * ROW, weights += PADDED(COUNT)) {
        real f[DIM];
#pragma unroll
        for (int o = 0; o < DIM; ++o) f[o] = features[o * ROW];
#pragma unroll
        for (int v = 0; v < COUNT; v += 4) {
            const vec4 four = *(const vec4 *)(weights + v);
#pragma unroll
            for (int j = 0; j < 4; ++j)
                if (v + j < COUNT)
#pragma unroll
                    for (int o = 0; o < DIM; ++o) channel[(v + j) * DIM + o] += four.v[j] * f[o];
        }
    }
}

// sums[path][v] = the sum over the voxels of the warp, and over o, of features[path][o] channel[v][o].
template <int COUNT, int DIM>
__device__ __forceinline__ void contract(const real *channel, const real *features, real *sums, int paths) {
    // 32 sums at a time: of some paths, or of some copies of one path.
    constexpr int WIDTH = COUNT < 32 ? COUNT : 32, TOGETHER = 32 / WIDTH;
    const int lane = threadIdx.x % WARP, path_of = lane / WIDTH, v_of = lane % WIDTH;
#pragma unroll 1
    for (int path = 0; path < paths; path += TOGETHER) {
#pragma unroll
        for (int v = 0; v < COUNT; v += WIDTH) {
            real products[32];
#pragma unroll
            for (int i = 0; i < 32; ++i) products[i] = 0;
#pragma unroll
            for (int j = 0; j < TOGETHER; ++j) {
                if (path + j >= paths) continue;
#pragma unroll
                for (int o = 0; o < DIM; ++o) {
                    const real f = features[((path + j) * DIM + o) * ROW];
#pragma unroll
                    for (int i = 0; i < WIDTH; ++i)
                        if (v + i < COUNT) products[j * WIDTH + i] += f * channel[(v + i) * DIM + o];
                }
            }
            const real sum = transposed_sum(products);
            if (path_of < TOGETHER && path + path_of < paths && v + v_of < COUNT) sums[(path + path_of) * COUNT + v + v_of] = sum;
        }
    }
}

#ifdef TF32
// A warp has 32 voxels and DIM channels of COUNT copies as matrices of 16 voxels and 8 copies. Element i of the matrix
// of copies 8 n.., component o and voxels 16 half.. is channel[PART(n, o, half) + i].
#define PART(n, o, half) ((((n) * DIM + (o)) * 2 + (half)) * 4)

// This lane's voxels in the warp, for elements 2 j and 2 j + 1 of both halves, and its copy among eight for element i.
__device__ __forceinline__ int voxel_of(int j) { return j * 8 + threadIdx.x % WARP / 4; }
__device__ __forceinline__ int copy_of(int i) { return threadIdx.x % 4 * 2 + i % 2; }

// Channels at the bias.
template <int COUNT, int DIM>
__device__ __forceinline__ void begin_tf32(real *channel, const store *bias) {
#pragma unroll
    for (int n = 0; n < COUNT; n += 8)
#pragma unroll
        for (int o = 0; o < DIM; ++o)
#pragma unroll
            for (int i = 0; i < 8; ++i) {
                const int v = n + copy_of(i);
                channel[PART(n / 8, o, 0) + i] = bias && v < COUNT ? load(bias[v * DIM + o]) : 0;
            }
}

// As `mix`, four paths at a time; `features` begin at the warp's first voxel.
template <int COUNT, int DIM>
__device__ __forceinline__ void mix_tf32(real *channel, const real *features, const real *weights, int paths) {
    const int row = threadIdx.x % WARP / 4;
#pragma unroll 1
    for (int first = 0; first < paths; first += 4) {
        const int path = first + threadIdx.x % 4;
        const bool there = path < paths;
        real w[(COUNT + 7) / 8];
#pragma unroll
        for (int n = 0; n < COUNT; n += 8) w[n / 8] = there ? weights[path * PADDED(COUNT) + n + row] : 0;
#pragma unroll
        for (int o = 0; o < DIM; ++o)
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                const real *f = features + (path * DIM + o) * ROW + half * 16 + row;
                const real upper = there ? f[0] : 0, lower = there ? f[8] : 0;
#pragma unroll
                for (int n = 0; n < COUNT; n += 8) MMA_TF32(channel + PART(n / 8, o, half), upper, lower, w[n / 8]);
            }
    }
}

// Channels to the output, from the first copy's first one on; `targets` has the places of `voxel_of`.
template <int COUNT, int DIM>
__device__ __forceinline__ void finish_tf32(const real *channel, store *out, i64 voxels, const i64 *targets) {
    store *to = out + copy_of(0) * DIM * voxels;
#pragma unroll
    for (int n = 0; n < COUNT; n += 8, to += 6 * DIM * voxels)
#pragma unroll
        for (int i = 0; i < 2; ++i)
#pragma unroll
            for (int o = 0; o < DIM; ++o, to += voxels) {
                OPAQUE(to);
#pragma unroll
                for (int j = 0; j < 4; ++j)
                    if (n + copy_of(i) < COUNT && targets[j] >= 0) to[targets[j]] = save(channel[PART(n / 8, o, 0) + 2 * j + i]);
            }
}
#endif
