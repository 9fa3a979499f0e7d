// Operations on fields: each thread has one voxel, or loops over voxels of one channel. `fields` has the
// first channel and the number of channels of each field.

// What an input channel goes through first: (x - mean) factor + bias, three numbers for each channel, or
// nothing where there is no table.
__device__ inline real affine(const real *table, int channel, real x) {
    return table ? (x - table[3 * channel]) * table[3 * channel + 1] + table[3 * channel + 2] : x;
}

// Sums over a share of the values of each field. Kind 0: of x and x x. Kind 1: of (x - mean) g and g.
extern "C" __global__ void field_sums(const store *x, const store *g, const double *mean, const int *fields,
                                      double *sums, int kind, int batch, int channels, int voxels) {
    SHARED(double, shared);
    const int field = blockIdx.y, share = blockIdx.x, shares = gridDim.x;
    const int offset = fields[2 * field], dim = fields[2 * field + 1];
    const i64 count = (i64)batch * dim * voxels;
    const i64 first = count * share / shares, last = count * (share + 1) / shares;
    const i64 per_sample = (i64)dim * voxels;
    double a = 0, b = 0;
    for (i64 i = first + threadIdx.x; i < last; i += blockDim.x) {
        const i64 sample = i / per_sample;
        const i64 at = (sample * channels + offset) * voxels + (i - sample * per_sample);
        const double value = load(x[at]);
        if (kind == 0) {
            a += value;
            b += value * value;
        } else {
            const double grad = load(g[at]);
            a += (value - mean[field]) * grad;
            b += grad;
        }
    }
    a = block_sum(a, shared);
    b = block_sum(b, shared);
    if (threadIdx.x == 0) {
        sums[2 * (field * shares + share)] = a;
        sums[2 * (field * shares + share) + 1] = b;
    }
}

// Kind 0: the means of the scalar fields (0 for others), then the variances of all. Kind 1: the first sums
// of all fields, then the second ones of scalar fields, of which `place` gives the index (-1 for others).
extern "C" __global__ void field_totals(const double *sums, const int *fields, const int *place, real *out,
                                        int kind, int count, int shares, i64 values) {
    const int field = blockIdx.x * blockDim.x + threadIdx.x;
    if (field >= count) return;
    double a = 0, b = 0;
    for (int share = 0; share < shares; ++share) {
        a += sums[2 * (field * shares + share)];
        b += sums[2 * (field * shares + share) + 1];
    }
    if (kind == 0) {
        const double n = (double)values * fields[2 * field + 1];
        const double mean = place[field] >= 0 ? a / n : 0;
        out[field] = (real)mean;
        out[count + field] = (real)fmax(b / n - mean * mean, 0.0);
    } else {
        out[field] = (real)a;
        if (place[field] >= 0) out[count + place[field]] = (real)b;
    }
}

// The first sums.
extern "C" __global__ void first_totals(const double *sums, store *out, int count, int shares) {
    const int field = blockIdx.x * blockDim.x + threadIdx.x;
    if (field >= count) return;
    double a = 0;
    for (int share = 0; share < shares; ++share) a += sums[2 * (field * shares + share)];
    out[field] = save((real)a);
}

// The table of `affine` from the weight of each field, the biases of scalar fields, and mean and standard
// deviation of each field.
extern "C" __global__ void norm_table(const store *weight, const store *bias, const double *mean, const double *std,
                                      const int *field_of, const int *place, real *table, int channels, int bias_offset) {
    const int c = blockIdx.x * blockDim.x + threadIdx.x;
    if (c >= channels) return;
    const int field = field_of[c];
    table[3 * c] = (real)mean[field];
    table[3 * c + 1] = (real)(load(weight[field]) / std[field]);
    table[3 * c + 2] = place[field] >= 0 ? load(bias[bias_offset + place[field]]) : 0;
}

extern "C" __global__ void apply_affine(const store *x, const real *table, store *out, int channels, int voxels, i64 rows) {
    for (i64 row = blockIdx.y; row < rows; row += gridDim.y)
        for (int v = blockIdx.x * blockDim.x + threadIdx.x; v < voxels; v += gridDim.x * blockDim.x)
            out[row * voxels + v] = save(affine(table, (int)(row % channels), load(x[row * voxels + v])));
}

// a g + b x + c, with three numbers for each channel.
extern "C" __global__ void combine(const store *x, const store *g, const real *table, store *out, int channels, int voxels, i64 rows) {
    for (i64 row = blockIdx.y; row < rows; row += gridDim.y) {
        const real *t = table + 3 * (row % channels);
        for (int v = blockIdx.x * blockDim.x + threadIdx.x; v < voxels; v += gridDim.x * blockDim.x) {
            const i64 i = row * voxels + v;
            out[i] = save(t[0] * load(g[i]) + t[1] * load(x[i]) + t[2]);
        }
    }
}

// Each field of each sample times one number of the mask.
extern "C" __global__ void scale_fields(const store *x, const store *mask, const int *field_of, store *out,
                                        int channels, int fields, int voxels, i64 rows) {
    for (i64 row = blockIdx.y; row < rows; row += gridDim.y) {
        const real factor = load(mask[row / channels * fields + field_of[row % channels]]);
        for (int v = blockIdx.x * blockDim.x + threadIdx.x; v < voxels; v += gridDim.x * blockDim.x)
            out[row * voxels + v] = save(factor * load(x[row * voxels + v]));
    }
}

__device__ inline real sigmoid(real x) { return 1 / (1 + exp(-x)); }

// Channels of x: scalars, one gate for each field, fields. blockIdx.y is a unit: a scalar or a field.
extern "C" __global__ void gate(const store *x, const real *table, const int *fields, store *out,
                                int scalars, int gates, int gated, int voxels, int batch) {
    const int unit = blockIdx.y;
    const int in_channels = scalars + gates + gated, out_channels = scalars + gated;
    for (i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x; i < (i64)batch * voxels; i += (i64)gridDim.x * blockDim.x) {
        const i64 sample = i / voxels;
        const store *from = x + sample * in_channels * voxels + (i - sample * voxels);
        store *to = out + sample * out_channels * voxels + (i - sample * voxels);
        if (unit < scalars) {
            const real value = affine(table, unit, load(from[(i64)unit * voxels]));
            to[(i64)unit * voxels] = save(value < 0 ? 0 : value);
            continue;
        }
        const int field = unit - scalars, offset = fields[2 * field], dim = fields[2 * field + 1];
        const int channel = scalars + field;
        const real open = sigmoid(affine(table, channel, load(from[(i64)channel * voxels])));
        for (int m = offset; m < offset + dim; ++m) {
            const int c = scalars + gates + m;
            to[(i64)(scalars + m) * voxels] = save(open * affine(table, c, load(from[(i64)c * voxels])));
        }
    }
}

// The gradient of what the input channels are after `table`.
extern "C" __global__ void gate_gradient(const store *x, const store *grad, const real *table, const int *fields, store *out,
                                         int scalars, int gates, int gated, int voxels, int batch) {
    const int unit = blockIdx.y;
    const int in_channels = scalars + gates + gated, out_channels = scalars + gated;
    for (i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x; i < (i64)batch * voxels; i += (i64)gridDim.x * blockDim.x) {
        const i64 sample = i / voxels;
        const store *from = x + sample * in_channels * voxels + (i - sample * voxels);
        store *to = out + sample * in_channels * voxels + (i - sample * voxels);
        const store *g = grad + sample * out_channels * voxels + (i - sample * voxels);
        if (unit < scalars) {
            const i64 at = (i64)unit * voxels;
            to[at] = affine(table, unit, load(from[at])) > 0 ? g[at] : save(0);
            continue;
        }
        const int field = unit - scalars, offset = fields[2 * field], dim = fields[2 * field + 1];
        const int channel = scalars + field;
        const real open = sigmoid(affine(table, channel, load(from[(i64)channel * voxels])));
        real slope = 0;
        for (int m = offset; m < offset + dim; ++m) {
            const int c = scalars + gates + m;
            const real d = load(g[(i64)(scalars + m) * voxels]);
            slope += d * affine(table, c, load(from[(i64)c * voxels]));
            to[(i64)c * voxels] = save(open * d);
        }
        to[(i64)channel * voxels] = save(slope * open * (1 - open));
    }
}

#define NORM_EPSILON ((real)1e-6)

// Norm nonlinearity; blockIdx.y is a field.
extern "C" __global__ void norm_relu(const store *x, const store *bias, const int *fields, store *out,
                                     int channels, int voxels, int batch) {
    const int field = blockIdx.y, offset = fields[2 * field], dim = fields[2 * field + 1];
    const real b = load(bias[field]);
    for (i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x; i < (i64)batch * voxels; i += (i64)gridDim.x * blockDim.x) {
        const i64 sample = i / voxels, start = (sample * channels + offset) * voxels + (i - sample * voxels);
        real norm = 0;
        for (int m = 0; m < dim; ++m) {
            const real value = load(x[start + (i64)m * voxels]);
            norm += value * value;
        }
        norm = sqrt(norm);
        const real factor = (norm + b < 0 ? 0 : norm + b) / (norm + NORM_EPSILON);
        for (int m = 0; m < dim; ++m) out[start + (i64)m * voxels] = save(factor * load(x[start + (i64)m * voxels]));
    }
}

extern "C" __global__ void norm_relu_gradient(const store *x, const store *bias, const store *grad, const int *fields, store *out,
                                              int channels, int voxels, int batch) {
    const int field = blockIdx.y, offset = fields[2 * field], dim = fields[2 * field + 1];
    const real b = load(bias[field]);
    for (i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x; i < (i64)batch * voxels; i += (i64)gridDim.x * blockDim.x) {
        const i64 sample = i / voxels, start = (sample * channels + offset) * voxels + (i - sample * voxels);
        real norm = 0, radial = 0;
        for (int m = 0; m < dim; ++m) {
            const real value = load(x[start + (i64)m * voxels]);
            norm += value * value;
            radial += value * load(grad[start + (i64)m * voxels]);
        }
        norm = sqrt(norm);
        const real shifted = norm + NORM_EPSILON;
        const bool active = norm + b > 0;
        real factor = active ? (norm + b) / shifted : 0;
        // The derivative of the factor, 1 - factor over shifted, without its cancellation.
        const real slope = active ? (NORM_EPSILON - b) / shifted / shifted : 0;
        radial *= norm > 0 ? slope / norm : 0;
        if (dim == 1) {
            // So for the sum of both parts, which have one direction.
            factor = active ? (norm * (norm + 2 * NORM_EPSILON) + b * NORM_EPSILON) / shifted / shifted : 0;
            radial = 0;
        }
        for (int m = 0; m < dim; ++m) {
            const i64 at = start + (i64)m * voxels;
            out[at] = save(factor * load(grad[at]) + radial * load(x[at]));
        }
    }
}

// Sums over a share of the voxels of each field, laid out as those of `field_sums`.
extern "C" __global__ void norm_relu_bias(const store *x, const store *bias, const store *grad, const int *fields, double *sums,
                                          int channels, int voxels, int batch) {
    SHARED(double, shared);
    const int field = blockIdx.y, offset = fields[2 * field], dim = fields[2 * field + 1];
    const int share = blockIdx.x, shares = gridDim.x;
    const i64 count = (i64)batch * voxels, first = count * share / shares, last = count * (share + 1) / shares;
    const real b = load(bias[field]);
    double total = 0;
    for (i64 i = first + threadIdx.x; i < last; i += blockDim.x) {
        const i64 sample = i / voxels, start = (sample * channels + offset) * voxels + (i - sample * voxels);
        real norm = 0, dot = 0;
        for (int m = 0; m < dim; ++m) {
            const real value = load(x[start + (i64)m * voxels]);
            norm += value * value;
            dot += value * load(grad[start + (i64)m * voxels]);
        }
        norm = sqrt(norm);
        if (norm + b > 0) total += dot / (norm + NORM_EPSILON);
    }
    total = block_sum(total, shared);
    if (threadIdx.x == 0) {
        sums[2 * (field * shares + share)] = total;
        sums[2 * (field * shares + share) + 1] = 0;
    }
}

// Sums of products of channels; the terms of channel c of the result are starts[c] to starts[c + 1].
extern "C" __global__ void channel_product(const store *left, const store *right, const int *starts, const int *pairs, const real *factors,
                                           store *out, int channels, int left_channels, int right_channels, int voxels, int batch) {
    const int channel = blockIdx.y;
    for (i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x; i < (i64)batch * voxels; i += (i64)gridDim.x * blockDim.x) {
        const i64 sample = i / voxels, v = i - sample * voxels;
        const store *a = left + sample * left_channels * voxels + v, *b = right + sample * right_channels * voxels + v;
        real sum = 0;
        for (int t = starts[channel]; t < starts[channel + 1]; ++t)
            sum += factors[t] * load(a[(i64)pairs[2 * t] * voxels]) * load(b[(i64)pairs[2 * t + 1] * voxels]);
        out[(sample * channels + channel) * voxels + v] = save(sum);
    }
}

#define SIGNAL 64

// Channels of a signal (blockIdx.y) to the points of a grid, a nonlinearity there, and back; with `grad` the gradient.
// `members` has channel and row of each member of each signal.
extern "C" __global__ void grid_nonlinearity(const store *x, const store *grad, const int *starts, const int *members,
                                             const real *to_grid, const real *from_grid, store *out, int rows, int points,
                                             int channels, int voxels, int batch) {
    const int first = starts[blockIdx.y], count = starts[blockIdx.y + 1] - first;
    for (i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x; i < (i64)batch * voxels; i += (i64)gridDim.x * blockDim.x) {
        const i64 sample = i / voxels, start = sample * channels * voxels + (i - sample * voxels);
        real in[SIGNAL], of_out[SIGNAL], sums[SIGNAL];
        for (int k = 0; k < count; ++k) {
            const i64 at = start + (i64)members[2 * (first + k)] * voxels;
            in[k] = load(x[at]);
            of_out[k] = grad ? load(grad[at]) : 0;
            sums[k] = 0;
        }
        for (int p = 0; p < points; ++p) {
            real value = 0, slope = 0;
            for (int k = 0; k < count; ++k) {
                const int at = p * rows + members[2 * (first + k) + 1];
                value += to_grid[at] * in[k];
                slope += from_grid[at] * of_out[k];
            }
            const real root = sqrt(value * value + 1);
            const real result = grad ? slope * (1 + value / root) * (real)0.5 : (value + root - 1) * (real)0.5;
            const real *back = grad ? to_grid : from_grid;
            for (int k = 0; k < count; ++k) sums[k] += back[p * rows + members[2 * (first + k) + 1]] * result;
        }
        for (int k = 0; k < count; ++k) out[start + (i64)members[2 * (first + k)] * voxels] = save(sums[k]);
    }
}
