// Dense convolution as a matrix product whose operands are found in place: rows are channels, columns voxels
// (of the result) or taps (of the weights).

struct Dense { int batch, c_in, c_out, size[3], kernel[3], stride[3], padding[3], out[3]; };

#define ROWS 64
#define COLUMNS 128
#define DEPTH 16

__device__ __forceinline__ int product3(const int *n) { return n[0] * n[1] * n[2]; }

struct Place { int n, z, y, x; };

__device__ __forceinline__ Place place_of(i64 i, const int *size) {
    Place p;
    p.x = (int)(i % size[2]);
    i /= size[2];
    p.y = (int)(i % size[1]);
    i /= size[1];
    p.z = (int)(i % size[0]);
    p.n = (int)(i / size[0]);
    return p;
}

// Tap t of channel c: k = c taps + t.
struct Tap { int c, z, y, x; };

__device__ __forceinline__ Tap tap_of(const Dense &d, int k) {
    Tap t;
    t.x = k % d.kernel[2];
    k /= d.kernel[2];
    t.y = k % d.kernel[1];
    k /= d.kernel[1];
    t.z = k % d.kernel[0];
    t.c = k / d.kernel[0];
    return t;
}

// What a tap of the kernel at output voxel p meets.
__device__ __forceinline__ real input_at(const Dense &d, const store *x, const Place &p, const Tap &t) {
    const int z = p.z * d.stride[0] + t.z - d.padding[0], y = p.y * d.stride[1] + t.y - d.padding[1],
              v = p.x * d.stride[2] + t.x - d.padding[2];
    if (z < 0 || y < 0 || v < 0 || z >= d.size[0] || y >= d.size[1] || v >= d.size[2]) return 0;
    return load(x[((((i64)p.n * d.c_in + t.c) * d.size[0] + z) * d.size[1] + y) * d.size[2] + v]);
}

// The output voxel that met input voxel p by a tap.
__device__ __forceinline__ real output_at(const Dense &d, const store *g, const Place &p, const Tap &t) {
    const int z = p.z + d.padding[0] - t.z, y = p.y + d.padding[1] - t.y, v = p.x + d.padding[2] - t.x;
    if (z < 0 || y < 0 || v < 0 || z % d.stride[0] || y % d.stride[1] || v % d.stride[2]) return 0;
    const int oz = z / d.stride[0], oy = y / d.stride[1], ox = v / d.stride[2];
    if (oz >= d.out[0] || oy >= d.out[1] || ox >= d.out[2]) return 0;
    return load(g[((((i64)p.n * d.c_out + t.c) * d.out[0] + oz) * d.out[1] + oy) * d.out[2] + ox]);
}

// c[4 i + a][8 j + b] of the tile at (row, column) += the sum over first <= k < last of a(row, k) b(k, column).
template <class A, class B>
__device__ __forceinline__ void multiply(i64 first, i64 last, const A &a, const B &b, real *shared, real (*c)[8]) {
    real *left = shared, *right = shared + DEPTH * ROWS;
    const int t = threadIdx.x, i = t / 16, j = t % 16;
    for (i64 k = first; k < last; k += DEPTH) {
        __syncthreads();
        for (int e = t; e < ROWS * DEPTH; e += 256) {
            const i64 at = k + e % DEPTH;
            left[e % DEPTH * ROWS + e / DEPTH] = at < last ? a(e / DEPTH, at) : 0;
        }
        for (int e = t; e < COLUMNS * DEPTH; e += 256) {
            const i64 at = k + e / COLUMNS;
            right[e] = at < last ? b(at, e % COLUMNS) : 0;
        }
        __syncthreads();
#pragma unroll
        for (int s = 0; s < DEPTH; ++s) {
            const vec4 l = *(const vec4 *)(left + s * ROWS + 4 * i);
            vec4 r[2];
            r[0] = *(const vec4 *)(right + s * COLUMNS + 4 * j);
            r[1] = *(const vec4 *)(right + s * COLUMNS + 64 + 4 * j);
#pragma unroll
            for (int p = 0; p < 4; ++p)
#pragma unroll
                for (int q = 0; q < 8; ++q) c[p][q] += l.v[p] * r[q / 4].v[q % 4];
        }
    }
}

// Column q of a thread.
__device__ __forceinline__ int column_of(int q) { return q / 4 * 64 + 4 * (threadIdx.x % 16) + q % 4; }

extern "C" __global__ void __launch_bounds__(256) dense_forward(const store *x, const store *w, const store *bias, store *out, Dense d) {
    SHARED(real, shared);
    const int depth = d.c_in * product3(d.kernel), row = blockIdx.y * ROWS;
    const i64 columns = (i64)d.batch * product3(d.out), column = (i64)blockIdx.x * COLUMNS;
    real c[4][8] = {};
    const Place mine = place_of(min(column + threadIdx.x % COLUMNS, columns - 1), d.out);
    multiply(0, depth, [&](int r, i64 k) { return row + r < d.c_out ? load(w[(i64)(row + r) * depth + k]) : 0; },
             [&](i64 k, int) { return input_at(d, x, mine, tap_of(d, (int)k)); }, shared, c);
    for (int p = 0; p < 4; ++p)
        for (int q = 0; q < 8; ++q) {
            const int channel = row + 4 * (threadIdx.x / 16) + p;
            const i64 voxel = column + column_of(q), voxels = product3(d.out);
            if (channel < d.c_out && voxel < columns)
                out[(voxel / voxels * d.c_out + channel) * voxels + voxel % voxels] =
                    save(c[p][q] + (bias ? load(bias[channel]) : 0));
        }
}

extern "C" __global__ void add_bias(const store *x, const store *bias, store *out, int channels, int voxels, i64 count) {
    const i64 step = (i64)gridDim.x * blockDim.x;
    for (i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x; i < count; i += step)
        out[i] = save(load(x[i]) + load(bias[i / voxels % channels]));
}

extern "C" __global__ void __launch_bounds__(256) dense_input_gradient(const store *w, const store *g, store *out, Dense d) {
    SHARED(real, shared);
    const int taps = product3(d.kernel), depth = d.c_out * taps, row = blockIdx.y * ROWS;
    const i64 columns = (i64)d.batch * product3(d.size), column = (i64)blockIdx.x * COLUMNS;
    real c[4][8] = {};
    const Place mine = place_of(min(column + threadIdx.x % COLUMNS, columns - 1), d.size);
    multiply(0, depth,
             [&](int r, i64 k) { return row + r < d.c_in ? load(w[(k / taps * d.c_in + row + r) * taps + k % taps]) : 0; },
             [&](i64 k, int) { return output_at(d, g, mine, tap_of(d, (int)k)); }, shared, c);
    for (int p = 0; p < 4; ++p)
        for (int q = 0; q < 8; ++q) {
            const int channel = row + 4 * (threadIdx.x / 16) + p;
            const i64 voxel = column + column_of(q), voxels = product3(d.size);
            if (channel < d.c_in && voxel < columns)
                out[(voxel / voxels * d.c_in + channel) * voxels + voxel % voxels] = save(c[p][q]);
        }
}

// blockIdx.z is a share of the output voxels.
extern "C" __global__ void __launch_bounds__(256) dense_weight_gradient(const store *x, const store *g, real *shares, Dense d) {
    SHARED(real, shared);
    const int width = d.c_in * product3(d.kernel), row = blockIdx.y * ROWS, column = blockIdx.x * COLUMNS;
    const i64 voxels = product3(d.out), depth = d.batch * voxels;
    const i64 first = depth * blockIdx.z / gridDim.z, last = depth * (blockIdx.z + 1) / gridDim.z;
    real c[4][8] = {};
    const Tap mine = tap_of(d, min(column + (int)threadIdx.x % COLUMNS, width - 1));
    multiply(first, last,
             [&](int r, i64 k) { return row + r < d.c_out ? load(g[(k / voxels * d.c_out + row + r) * voxels + k % voxels]) : 0; },
             [&](i64 k, int) { return input_at(d, x, place_of(k, d.out), mine); }, shared, c);
    for (int p = 0; p < 4; ++p)
        for (int q = 0; q < 8; ++q) {
            const int channel = row + 4 * (threadIdx.x / 16) + p, tap = column + column_of(q);
            if (channel < d.c_out && tap < width) shares[((i64)blockIdx.z * d.c_out + channel) * width + tap] = c[p][q];
        }
}
