// What all kernels share. `store` is the element type of the tensors in memory, `real` the type of the
// arithmetic. The same text compiles for the host with host.h, which stands for what CUDA provides.

#if defined(ELEMENT_F64)
typedef double store;
typedef double real;
__device__ inline real load(store x) { return x; }
__device__ inline store save(real x) { return x; }
#elif defined(ELEMENT_BF16)
struct store { unsigned short bits; };
typedef float real;
__device__ inline real load(store x) { return __uint_as_float((unsigned)x.bits << 16); }
__device__ inline store save(real x) {
    unsigned bits = __float_as_uint(x);
    store out;
    // To the nearest, ties to even; a NaN stays one.
    out.bits = x == x ? (unsigned short)((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16) : 0x7fffu;
    return out;
}
#else
typedef float store;
typedef float real;
__device__ inline real load(store x) { return x; }
__device__ inline store save(real x) { return x; }
#endif

typedef long long i64;

struct __align__(16) vec4 { real v[4]; };

#define WARP 32
#define ALL_LANES 0xffffffffu

// Sum over the block in a fixed order, the same for all threads; `shared` has one number for each thread.
__device__ inline double block_sum(double value, double *shared) {
    const int t = threadIdx.x;
    __syncthreads();
    shared[t] = value;
    __syncthreads();
    for (int half = blockDim.x / 2; half > 0; half /= 2) {
        if (t < half) shared[t] += shared[t + half];
        __syncthreads();
    }
    return shared[0];
}

// One element of global memory into shared memory, or zero; done for this thread after `await_copies`.
__device__ __forceinline__ void copy_element(real *to, const store *from, bool there) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800 && !defined(ELEMENT_BF16)
    const unsigned address = (unsigned)__cvta_generic_to_shared(to);
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;"
                 :: "r"(address), "l"(from), "n"(sizeof(real)), "r"(there ? (int)sizeof(real) : 0));
#else
    *to = there ? load(*from) : 0;
#endif
}

__device__ __forceinline__ void end_copies() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800 && !defined(ELEMENT_BF16)
    asm volatile("cp.async.commit_group;");
#endif
}

__device__ __forceinline__ void await_copies() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800 && !defined(ELEMENT_BF16)
    asm volatile("cp.async.wait_all;" ::: "memory");
#endif
}
