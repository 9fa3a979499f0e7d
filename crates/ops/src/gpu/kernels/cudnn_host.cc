// What steer3d uses of cuDNN, on the host and by direct sums: for tests of the calls. With cuDNN's headers in the
// include path it is compiled against their signatures.

#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(__has_include) && __has_include(<cudnn.h>)
#include <cudnn.h>
#else
typedef int cudnnStatus_t;
typedef unsigned cudnnDataType_t, cudnnTensorFormat_t, cudnnConvolutionMode_t, cudnnMathType_t;
typedef unsigned cudnnConvolutionFwdAlgo_t, cudnnConvolutionBwdDataAlgo_t, cudnnConvolutionBwdFilterAlgo_t;
typedef void *cudnnHandle_t, *cudaStream_t, *cudnnTensorDescriptor_t, *cudnnFilterDescriptor_t, *cudnnConvolutionDescriptor_t;
#define CUDNNWINAPI
#endif

struct Sizes { int type, dims[5]; };
struct Shape { int padding[3], stride[3], compute, math; };

static const cudnnStatus_t good = (cudnnStatus_t)0, bad = (cudnnStatus_t)3000;
static int live = 0;
static const size_t workspace = 1000;

static float of_bits(uint32_t bits) { float x; memcpy(&x, &bits, 4); return x; }
static uint32_t bits_of(float x) { uint32_t bits; memcpy(&bits, &x, 4); return bits; }

// `coarse`: as TF32, with 10 bits of the mantissa.
static double get(const void *values, int type, size_t i, bool coarse) {
    if (type == 1) return ((const double *)values)[i];
    if (type == 9) return of_bits((uint32_t)((const uint16_t *)values)[i] << 16);
    const float x = ((const float *)values)[i];
    return coarse ? of_bits(bits_of(x) & 0xffffe000u) : x;
}

static void put(void *values, int type, size_t i, double x) {
    if (type == 1) ((double *)values)[i] = x;
    else if (type == 0) ((float *)values)[i] = (float)x;
    else {
        const uint32_t bits = bits_of((float)x);
        ((uint16_t *)values)[i] = (uint16_t)((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
    }
}

static size_t count(const Sizes &s) {
    size_t n = 1;
    for (int i = 0; i < 5; ++i) n *= s.dims[i];
    return n;
}

// Adds for every product of a convolution: which is the result? 0 input, 1 filter, 2 output.
static cudnnStatus_t convolve(int result, const Sizes &in, const Sizes &f, const Sizes &out, const Shape &shape,
                              const void *alpha, const void *beta, const void *a, const void *b, void *to,
                              void *space, size_t bytes) {
    if (bytes != workspace || !space) return bad;
    memset(space, 0xff, bytes);
    const int type = in.type;
    if (f.type != type || out.type != type || shape.compute != (type == 1 ? 1 : 0)) return bad;
    if (shape.math != (type == 9 ? 1 : type == 1 ? 0 : shape.math)) return bad;
    const double one = type == 1 ? *(const double *)alpha : *(const float *)alpha;
    const double none = type == 1 ? *(const double *)beta : *(const float *)beta;
    if (one != 1 || none != 0) return bad;
    const bool coarse = type == 0 && shape.math != 3;
    if (in.dims[0] != out.dims[0] || in.dims[1] != f.dims[1] || f.dims[0] != out.dims[1]) return bad;
    for (int i = 0; i < 3; ++i)
        if (out.dims[2 + i] != (in.dims[2 + i] + 2 * shape.padding[i] - f.dims[2 + i]) / shape.stride[i] + 1) return bad;
    const Sizes &s = result == 0 ? in : result == 1 ? f : out;
    double *sums = new double[count(s)]();
    const int *o = out.dims, *k = f.dims, *d = in.dims;
    for (int n = 0; n < o[0]; ++n)
    for (int c = 0; c < o[1]; ++c)
    for (int e = 0; e < k[1]; ++e)
    for (int z = 0; z < o[2]; ++z) for (int y = 0; y < o[3]; ++y) for (int x = 0; x < o[4]; ++x)
    for (int p = 0; p < k[2]; ++p) for (int q = 0; q < k[3]; ++q) for (int r = 0; r < k[4]; ++r) {
        const int iz = z * shape.stride[0] + p - shape.padding[0], iy = y * shape.stride[1] + q - shape.padding[1],
                  ix = x * shape.stride[2] + r - shape.padding[2];
        if (iz < 0 || iy < 0 || ix < 0 || iz >= d[2] || iy >= d[3] || ix >= d[4]) continue;
        const size_t i = (((size_t)(n * d[1] + e) * d[2] + iz) * d[3] + iy) * d[4] + ix;
        const size_t w = (((size_t)(c * k[1] + e) * k[2] + p) * k[3] + q) * k[4] + r;
        const size_t j = (((size_t)(n * o[1] + c) * o[2] + z) * o[3] + y) * o[4] + x;
        if (result == 0) sums[i] += get(a, type, w, coarse) * get(b, type, j, coarse);
        else if (result == 1) sums[w] += get(a, type, i, coarse) * get(b, type, j, coarse);
        else sums[j] += get(a, type, i, coarse) * get(b, type, w, coarse);
    }
    for (size_t i = 0; i < count(s); ++i) put(to, type, i, sums[i]);
    delete[] sums;
    return good;
}

// Row-major, as cuDNN takes no other filters.
static bool packed(const int *dims, const int *strides) {
    int expected = 1;
    for (int i = 4; i >= 0; --i) {
        if (strides[i] != expected) return false;
        expected *= dims[i];
    }
    return true;
}

extern "C" {
// Descriptors that were not destroyed.
int fake_live() { return live; }

size_t CUDNNWINAPI cudnnGetVersion(void) { return 92101; }
cudnnStatus_t CUDNNWINAPI cudnnCreate(cudnnHandle_t *handle) { *(void **)handle = new int(7); return good; }
cudnnStatus_t CUDNNWINAPI cudnnSetStream(cudnnHandle_t handle, cudaStream_t stream) {
#ifdef ANY_STREAM
    return good;
#else
    return *(int *)handle == 7 && stream == (cudaStream_t)0x5eed ? good : bad;
#endif
}

#define MAKE(kind, type)                                                                     \
    cudnnStatus_t CUDNNWINAPI cudnnCreate##kind##Descriptor(cudnn##kind##Descriptor_t *d) {  \
        ++live;                                                                              \
        *(void **)d = new type();                                                            \
        return good;                                                                         \
    }                                                                                        \
    cudnnStatus_t CUDNNWINAPI cudnnDestroy##kind##Descriptor(cudnn##kind##Descriptor_t d) {  \
        --live;                                                                              \
        delete (type *)(void *)d;                                                            \
        return good;                                                                         \
    }
MAKE(Tensor, Sizes)
MAKE(Filter, Sizes)
MAKE(Convolution, Shape)

cudnnStatus_t CUDNNWINAPI cudnnSetTensorNdDescriptor(cudnnTensorDescriptor_t d, cudnnDataType_t type, int n,
                                                     const int dims[], const int strides[]) {
    if (n != 5 || !packed(dims, strides)) return bad;
    Sizes *s = (Sizes *)(void *)d;
    s->type = (int)type;
    memcpy(s->dims, dims, sizeof s->dims);
    return good;
}

cudnnStatus_t CUDNNWINAPI cudnnSetFilterNdDescriptor(cudnnFilterDescriptor_t d, cudnnDataType_t type,
                                                     cudnnTensorFormat_t format, int n, const int dims[]) {
    if (n != 5 || (int)format != 0) return bad;
    Sizes *s = (Sizes *)(void *)d;
    s->type = (int)type;
    memcpy(s->dims, dims, sizeof s->dims);
    return good;
}

cudnnStatus_t CUDNNWINAPI cudnnSetConvolutionNdDescriptor(cudnnConvolutionDescriptor_t d, int n, const int padding[],
                                                          const int stride[], const int dilation[],
                                                          cudnnConvolutionMode_t mode, cudnnDataType_t compute) {
    if (n != 3 || (int)mode != 1 || dilation[0] != 1 || dilation[1] != 1 || dilation[2] != 1) return bad;
    Shape *s = (Shape *)(void *)d;
    memcpy(s->padding, padding, sizeof s->padding);
    memcpy(s->stride, stride, sizeof s->stride);
    s->compute = (int)compute;
    return good;
}

cudnnStatus_t CUDNNWINAPI cudnnSetConvolutionMathType(cudnnConvolutionDescriptor_t d, cudnnMathType_t math) {
    ((Shape *)(void *)d)->math = (int)math;
    return good;
}

// No precomputed indices for single taps, so that the next algorithm is asked for.
static bool precomputed(const void *filter) { return ((const Sizes *)filter)->dims[4] > 1; }

cudnnStatus_t CUDNNWINAPI cudnnGetConvolutionForwardWorkspaceSize(
    cudnnHandle_t, const cudnnTensorDescriptor_t, const cudnnFilterDescriptor_t w, const cudnnConvolutionDescriptor_t,
    const cudnnTensorDescriptor_t, cudnnConvolutionFwdAlgo_t algo, size_t *bytes) {
    if ((int)algo > 1 || ((int)algo == 1 && !precomputed(w))) return bad;
    *bytes = workspace;
    return good;
}

cudnnStatus_t CUDNNWINAPI cudnnConvolutionForward(
    cudnnHandle_t, const void *alpha, const cudnnTensorDescriptor_t xDesc, const void *x,
    const cudnnFilterDescriptor_t wDesc, const void *w, const cudnnConvolutionDescriptor_t conv,
    cudnnConvolutionFwdAlgo_t algo, void *space, size_t bytes, const void *beta, const cudnnTensorDescriptor_t yDesc,
    void *y) {
    if ((int)algo == 1 && !precomputed(wDesc)) return bad;
    return convolve(2, *(const Sizes *)xDesc, *(const Sizes *)wDesc, *(const Sizes *)yDesc, *(const Shape *)conv,
                    alpha, beta, x, w, y, space, bytes);
}

cudnnStatus_t CUDNNWINAPI cudnnGetConvolutionBackwardDataWorkspaceSize(
    cudnnHandle_t, const cudnnFilterDescriptor_t, const cudnnTensorDescriptor_t, const cudnnConvolutionDescriptor_t,
    const cudnnTensorDescriptor_t, cudnnConvolutionBwdDataAlgo_t algo, size_t *bytes) {
    *bytes = workspace;
    return (int)algo == 1 ? good : bad;
}

cudnnStatus_t CUDNNWINAPI cudnnConvolutionBackwardData(
    cudnnHandle_t, const void *alpha, const cudnnFilterDescriptor_t wDesc, const void *w,
    const cudnnTensorDescriptor_t dyDesc, const void *dy, const cudnnConvolutionDescriptor_t conv,
    cudnnConvolutionBwdDataAlgo_t, void *space, size_t bytes, const void *beta, const cudnnTensorDescriptor_t dxDesc,
    void *dx) {
    return convolve(0, *(const Sizes *)dxDesc, *(const Sizes *)wDesc, *(const Sizes *)dyDesc, *(const Shape *)conv,
                    alpha, beta, w, dy, dx, space, bytes);
}

cudnnStatus_t CUDNNWINAPI cudnnGetConvolutionBackwardFilterWorkspaceSize(
    cudnnHandle_t, const cudnnTensorDescriptor_t, const cudnnTensorDescriptor_t, const cudnnConvolutionDescriptor_t,
    const cudnnFilterDescriptor_t, cudnnConvolutionBwdFilterAlgo_t algo, size_t *bytes) {
    *bytes = workspace;
    return (int)algo == 1 ? good : bad;
}

cudnnStatus_t CUDNNWINAPI cudnnConvolutionBackwardFilter(
    cudnnHandle_t, const void *alpha, const cudnnTensorDescriptor_t xDesc, const void *x,
    const cudnnTensorDescriptor_t dyDesc, const void *dy, const cudnnConvolutionDescriptor_t conv,
    cudnnConvolutionBwdFilterAlgo_t, void *space, size_t bytes, const void *beta, const cudnnFilterDescriptor_t dwDesc,
    void *dw) {
    return convolve(1, *(const Sizes *)xDesc, *(const Sizes *)dwDesc, *(const Sizes *)dyDesc, *(const Shape *)conv,
                    alpha, beta, x, dy, dw, space, bytes);
}
}
