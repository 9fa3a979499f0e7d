// out[first + i] = the sum of shares[s][i], in order.
extern "C" __global__ void sum_shares(const real *shares, store *out, int count, int length, i64 first) {
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < length; i += gridDim.x * blockDim.x) {
        real sum = 0;
        for (int s = 0; s < count; ++s) sum += shares[(i64)s * length + i];
        out[first + i] = save(sum);
    }
}
