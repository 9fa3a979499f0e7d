// Pooling, blurring, resampling: operations on each channel by itself.

// The mean of each row of voxels.
extern "C" __global__ void row_means(const store *x, store *out, int voxels) {
    SHARED(double, shared);
    const store *row = x + (i64)blockIdx.x * voxels;
    double total = 0;
    for (int v = threadIdx.x; v < voxels; v += blockDim.x) total += load(row[v]);
    total = block_sum(total, shared);
    if (threadIdx.x == 0) out[blockIdx.x] = save((real)(total / voxels));
}

// One of D,H,W of x (outer, size, inner), filtered and subsampled to (outer, kept, inner), or the transposed map.
extern "C" __global__ void axis_filter(const store *x, const real *taps, store *out, i64 outer, int size, int kept, int inner,
                                       int count, int start, int stride, int transpose) {
    const int from = transpose ? kept : size, to = transpose ? size : kept;
    const i64 total = outer * to * inner;
    for (i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x; i < total; i += (i64)gridDim.x * blockDim.x) {
        const int in = (int)(i % inner), at = (int)(i / inner % to);
        const store *line = x + i / inner / to * from * inner + in;
        real sum = 0;
        if (transpose) {
            // Kept positions j with 0 <= at - (j stride + start) < count.
            int first = at - start - count + 1;
            first = first > 0 ? (first + stride - 1) / stride : 0;
            for (int j = first; j < kept && j * stride + start <= at; ++j)
                sum += taps[at - start - j * stride] * load(line[(i64)j * inner]);
        } else {
            for (int t = 0; t < count; ++t) {
                const int p = at * stride + start + t;
                if (p >= 0 && p < size) sum += taps[t] * load(line[(i64)p * inner]);
            }
        }
        out[i] = save(sum);
    }
}

struct Window { int size[3], out[3], kernel, stride, padding; };

// Index of the first largest element of a window; a NaN is larger than any number.
__device__ inline int largest(const store *x, const Window &w, int oz, int oy, int ox) {
    const int o[3] = {oz, oy, ox};
    int first[3], last[3];
    for (int a = 0; a < 3; ++a) {
        first[a] = max(o[a] * w.stride - w.padding, 0);
        last[a] = min(o[a] * w.stride + w.kernel - w.padding, w.size[a]);
    }
    int best = (first[0] * w.size[1] + first[1]) * w.size[2] + first[2];
    real value = load(x[best]);
    for (int z = first[0]; z < last[0]; ++z)
        for (int y = first[1]; y < last[1]; ++y)
            for (int v = first[2]; v < last[2]; ++v) {
                const int i = (z * w.size[1] + y) * w.size[2] + v;
                const real here = load(x[i]);
                if (here > value || (here != here && value == value)) { best = i; value = here; }
            }
    return best;
}

extern "C" __global__ void max_pool(const store *x, store *out, Window w, i64 rows) {
    const i64 in_voxels = (i64)w.size[0] * w.size[1] * w.size[2], voxels = (i64)w.out[0] * w.out[1] * w.out[2];
    for (i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x; i < rows * voxels; i += (i64)gridDim.x * blockDim.x) {
        const int v = (int)(i % voxels);
        const store *row = x + i / voxels * in_voxels;
        out[i] = row[largest(row, w, v / w.out[2] / w.out[1], v / w.out[2] % w.out[1], v % w.out[2])];
    }
}

// Every input voxel looks for the windows whose largest element it is.
extern "C" __global__ void max_pool_gradient(const store *x, const store *grad, store *out, Window w, i64 rows) {
    const i64 in_voxels = (i64)w.size[0] * w.size[1] * w.size[2], voxels = (i64)w.out[0] * w.out[1] * w.out[2];
    for (i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x; i < rows * in_voxels; i += (i64)gridDim.x * blockDim.x) {
        const int v = (int)(i % in_voxels);
        const int at[3] = {v / w.size[2] / w.size[1], v / w.size[2] % w.size[1], v % w.size[2]};
        int first[3], last[3];
        for (int a = 0; a < 3; ++a) {
            const int p = at[a] + w.padding - w.kernel + 1;
            first[a] = p > 0 ? (p + w.stride - 1) / w.stride : 0;
            last[a] = min((at[a] + w.padding) / w.stride, w.out[a] - 1);
        }
        const store *row = x + i / in_voxels * in_voxels;
        real sum = 0;
        for (int z = first[0]; z <= last[0]; ++z)
            for (int y = first[1]; y <= last[1]; ++y)
                for (int u = first[2]; u <= last[2]; ++u)
                    if (largest(row, w, z, y, u) == v)
                        sum += load(grad[i / in_voxels * voxels + ((i64)z * w.out[1] + y) * w.out[2] + u]);
        out[i] = save(sum);
    }
}

struct Grid { int d, h, w; };

// Where `voxel` is sampled by the map theta, as an index along x, y, z.
__device__ inline void sampled_at(const store *theta, const Grid &g, int voxel, double *position, double *at) {
    const int index[3] = {voxel % g.w, voxel / g.w % g.h, voxel / (g.w * g.h)}, len[3] = {g.w, g.h, g.d};
    for (int i = 0; i < 3; ++i) position[i] = index[i] - (len[i] - 1) / 2.0;
    for (int i = 0; i < 3; ++i) {
        const store *row = theta + 4 * i;
        const double p = load(row[0]) * position[0] + load(row[1]) * position[1] + load(row[2]) * position[2] + load(row[3])
                     + (len[i] - 1) / 2.0;
        at[i] = p < -2 ? -2 : p > len[i] + 1 ? len[i] + 1 : p;
    }
}

// The voxel at a corner of the cell that a sample lies in, its weight and the weight's derivatives; -1 outside.
__device__ inline int corner_of(const Grid &g, const double *at, int corner, double *weight, double *slopes) {
    const int len[3] = {g.w, g.h, g.d}, step[3] = {1, g.w, g.w * g.h};
    double w[3], s[3];
    int offset = 0;
    for (int i = 0; i < 3; ++i) {
        const double below = floor(at[i]), t = at[i] - below;
        const int upper = corner >> i & 1, index = (int)below + upper;
        if (index < 0 || index >= len[i]) return -1;
        offset += index * step[i];
        w[i] = upper ? t : 1 - t;
        s[i] = upper ? 1 : -1;
    }
    *weight = w[0] * w[1] * w[2];
    slopes[0] = s[0] * w[1] * w[2];
    slopes[1] = w[0] * s[1] * w[2];
    slopes[2] = w[0] * w[1] * s[2];
    return offset;
}

extern "C" __global__ void resample(const store *x, const store *theta, store *out, Grid g, int channels, i64 rows) {
    const int voxels = g.d * g.h * g.w;
    for (i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x; i < rows * voxels; i += (i64)gridDim.x * blockDim.x) {
        const i64 row = i / voxels;
        double position[3], at[3], weight, slopes[3], sum = 0;
        sampled_at(theta + row / channels * 12, g, (int)(i % voxels), position, at);
        for (int corner = 0; corner < 8; ++corner) {
            const int from = corner_of(g, at, corner, &weight, slopes);
            if (from >= 0) sum += weight * load(x[row * voxels + from]);
        }
        out[i] = save((real)sum);
    }
}

// Largest magnitude of each row.
extern "C" __global__ void row_largest(const store *x, double *out, int voxels) {
    SHARED(double, shared);
    const store *row = x + (i64)blockIdx.x * voxels;
    double most = 0;
    for (int v = threadIdx.x; v < voxels; v += blockDim.x) most = fmax(most, fabs((double)load(row[v])));
    shared[threadIdx.x] = most;
    __syncthreads();
    for (int half = blockDim.x / 2; half > 0; half /= 2) {
        if (threadIdx.x < half) shared[threadIdx.x] = fmax(shared[threadIdx.x], shared[threadIdx.x + half]);
        __syncthreads();
    }
    if (threadIdx.x == 0) out[blockIdx.x] = shared[0];
}

extern "C" __global__ void zero(unsigned long long *out, i64 count) {
    for (i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x; i < count; i += (i64)gridDim.x * blockDim.x) out[i] = 0;
}

// Shares of the gradient of x as whole numbers of 2^-40 of the row's largest gradient, whose sum does not
// depend on the order.
extern "C" __global__ void resample_scatter(const store *grad, const store *theta, const double *most, unsigned long long *sums,
                                            Grid g, int channels, i64 rows) {
    const int voxels = g.d * g.h * g.w;
    for (i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x; i < rows * voxels; i += (i64)gridDim.x * blockDim.x) {
        const i64 row = i / voxels;
        if (!(most[row] > 0)) continue;
        double position[3], at[3], weight, slopes[3];
        sampled_at(theta + row / channels * 12, g, (int)(i % voxels), position, at);
        const double value = load(grad[i]) / most[row] * 1099511627776.0;
        for (int corner = 0; corner < 8; ++corner) {
            const int to = corner_of(g, at, corner, &weight, slopes);
            if (to >= 0) atomicAdd(sums + row * voxels + to, (unsigned long long)llrint(weight * value));
        }
    }
}

extern "C" __global__ void resample_gather(const unsigned long long *sums, const double *most, store *out, int voxels, i64 rows) {
    for (i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x; i < rows * voxels; i += (i64)gridDim.x * blockDim.x)
        out[i] = save((real)((double)(i64)sums[i] / 1099511627776.0 * most[i / voxels]));
}

// The twelve sums of one channel of one sample.
extern "C" __global__ void resample_map_gradient(const store *x, const store *theta, const store *grad, double *sums, Grid g, int channels) {
    SHARED(double, shared);
    const int voxels = g.d * g.h * g.w;
    const i64 row = blockIdx.x;
    double total[12];
    for (int i = 0; i < 12; ++i) total[i] = 0;
    for (int v = threadIdx.x; v < voxels; v += blockDim.x) {
        double position[3], at[3], weight, slopes[3], slope[3] = {0, 0, 0};
        sampled_at(theta + row / channels * 12, g, v, position, at);
        for (int corner = 0; corner < 8; ++corner) {
            const int from = corner_of(g, at, corner, &weight, slopes);
            if (from < 0) continue;
            const real value = load(x[row * voxels + from]);
            for (int i = 0; i < 3; ++i) slope[i] += slopes[i] * value;
        }
        const double d = load(grad[row * voxels + v]);
        for (int i = 0; i < 3; ++i)
            for (int j = 0; j < 4; ++j) total[4 * i + j] += d * slope[i] * (j < 3 ? position[j] : 1.0);
    }
    for (int i = 0; i < 12; ++i) {
        const double sum = block_sum(total[i], shared);
        if (threadIdx.x == 0) sums[row * 12 + i] = sum;
    }
}

// The sums over the channels of each sample.
extern "C" __global__ void sum_maps(const double *sums, store *out, int channels, int count) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= count) return;
    double total = 0;
    for (int c = 0; c < channels; ++c) total += sums[((i64)(i / 12) * channels + c) * 12 + i % 12];
    out[i] = save((real)total);
}
