// CUDA on the host, for tests: the threads of a block are fibers that run one after another and change
// places at barriers and shuffles. A fiber begins as a context of its own; places are then changed by jumps, which
// need no system call. The check of jumps that some systems switch on knows one stack only.
#undef _FORTIFY_SOURCE
#include <cmath>
#include <csetjmp>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>
#include <ucontext.h>
#include <utility>
#include <vector>

#define __device__
#define __global__
#define __forceinline__ inline
#define __restrict__
#define __launch_bounds__(...)
#define __align__(n) alignas(n)
#define OPAQUE(pointer)
#define SHARED(type, name) type *name = (type *)host::shared
#define ROUND_TF32(bits, x) ((bits) = host::round_tf32(x))
#define MMA_TF32(c, a0, a1, b) host::multiply(c, a0, a1, b)

struct Index { unsigned x, y, z; };
static Index threadIdx, blockIdx, blockDim, gridDim;

namespace host {
const size_t STACK = 128 << 10;
static unsigned char *shared;
struct Fiber {
    ucontext_t context;
    jmp_buf place;
    bool begun, finished;
};
static jmp_buf scheduler;
static std::vector<Fiber *> fibers;
static unsigned current, live, block_count, block_turn;
static std::vector<unsigned> warp_count, warp_turn, warp_live;
static std::vector<double> lanes;
static void (*body)(void **);
static void **arguments;

static void pause() {
    if (!_setjmp(fibers[current]->place)) _longjmp(scheduler, 1);
}
static void wait(unsigned &count, unsigned &turn, unsigned of) {
    unsigned mine = turn;
    if (++count == of) { count = 0; ++turn; }
    while (turn == mine) pause();
}
// A fiber runs the same thread of every block.
static void enter() {
    for (;;) {
        body(arguments);
        fibers[current]->finished = true;
        // Threads that have returned do not take part in later barriers.
        --live;
        --warp_live[current / 32];
        if (live && block_count == live) { block_count = 0; ++block_turn; }
        pause();
    }
}
static Fiber *fresh() {
    Fiber *fiber = new Fiber();
    getcontext(&fiber->context);
    fiber->context.uc_stack.ss_sp = malloc(STACK);
    fiber->context.uc_stack.ss_size = STACK;
    fiber->context.uc_link = nullptr;
    makecontext(&fiber->context, (void (*)())enter, 0);
    return fiber;
}
__attribute__((noinline)) static void resume(unsigned t) {
    current = t;
    threadIdx = {t, 0, 0};
    if (_setjmp(scheduler)) return;
    if (fibers[t]->begun) _longjmp(fibers[t]->place, 1);
    fibers[t]->begun = true;
    setcontext(&fibers[t]->context);
}
static void block() {
    const unsigned n = blockDim.x;
    while (fibers.size() < n) fibers.push_back(fresh());
    warp_count.assign((n + 31) / 32, 0);
    warp_turn.assign((n + 31) / 32, 0);
    warp_live.assign((n + 31) / 32, 0);
    lanes.assign(n, 0);
    live = n; block_count = 0; block_turn = 0;
    for (unsigned t = 0; t < n; ++t) {
        ++warp_live[t / 32];
        fibers[t]->finished = false;
    }
    while (live)
        for (unsigned t = 0; t < n; ++t)
            if (!fibers[t]->finished) resume(t);
}
static void launch(void (*kernel)(void **), void **args, const unsigned *grid, unsigned threads, size_t bytes) {
    std::vector<double> memory(bytes / 8 + 2);
    gridDim = {grid[0], grid[1], grid[2]};
    blockDim = {threads, 1, 1};
    body = kernel;
    arguments = args;
    for (unsigned z = 0; z < grid[2]; ++z)
        for (unsigned y = 0; y < grid[1]; ++y)
            for (unsigned x = 0; x < grid[0]; ++x) {
                // Shared memory has no defined content: NaN finds what is read before it is written.
                memset(memory.data(), 0xff, memory.size() * 8);
                shared = (unsigned char *)(((size_t)memory.data() + 15) / 16 * 16);
                blockIdx = {x, y, z};
                block();
            }
}
template <class... A, size_t... I>
void call(void (*kernel)(A...), void **args, std::index_sequence<I...>) {
    kernel(*(typename std::remove_reference<A>::type *)args[I]...);
}
template <class... A>
void unpack(void (*kernel)(A...), void **args) { call(kernel, args, std::index_sequence_for<A...>()); }
} // namespace host

static void __syncthreads() { host::wait(host::block_count, host::block_turn, host::live); }
static void __syncwarp() {
    const unsigned w = threadIdx.x / 32;
    host::wait(host::warp_count[w], host::warp_turn[w], host::warp_live[w]);
}
template <class T> T __shfl_xor_sync(unsigned, T value, int mask) {
    const unsigned t = threadIdx.x;
    host::lanes[t] = value;
    __syncwarp();
    T other = (T)host::lanes[t ^ mask];
    __syncwarp();
    return other;
}
static unsigned __float_as_uint(float x) { unsigned u; memcpy(&u, &x, 4); return u; }
static float __uint_as_float(unsigned u) { float x; memcpy(&x, &u, 4); return x; }
namespace host {
// To the nearest of 10 bits, ties away from zero.
static unsigned round_tf32(float x) { return x == x ? (__float_as_uint(x) + 0x1000u) & ~0x1fffu : 0x7fc00000u; }
// What `MMA_TF32` of device.h says; NaN for factors that are not rounded, which tensor cores cut off.
static void multiply(float *c, float a0, float a1, float b) {
    struct Factors { float a0, a1, b; };
    static std::vector<Factors> factors;
    const unsigned t = threadIdx.x, first = t / 32 * 32, row = t % 32 / 4, column = t % 4 * 2;
    factors.resize(blockDim.x);
    const bool rounded = ((__float_as_uint(a0) | __float_as_uint(a1) | __float_as_uint(b)) & 0x1fffu) == 0;
    factors[t] = rounded ? Factors{a0, a1, b} : Factors{NAN, NAN, NAN};
    __syncwarp();
    for (int k = 0; k < 4; ++k) {
        const Factors &a = factors[first + row * 4 + k];
        for (int i = 0; i < 4; ++i) c[i] += (i < 2 ? a.a0 : a.a1) * factors[first + (column + i % 2) * 4 + k].b;
    }
    __syncwarp();
}
} // namespace host
static unsigned long long atomicAdd(unsigned long long *p, unsigned long long v) {
    unsigned long long old = *p;
    *p += v;
    return old;
}
using std::exp; using std::fabs; using std::floor; using std::fmax; using std::fmin; using std::sqrt;
using std::isnan; using std::llrint; using std::ldexp;
inline int min(int a, int b) { return a < b ? a : b; }
inline int max(int a, int b) { return a > b ? a : b; }
inline long long min(long long a, long long b) { return a < b ? a : b; }

#define HOST_ENTRY(name)                                                                          \
    static void host_body_##name(void **args) { host::unpack(name, args); }                       \
    extern "C" void host_##name(void **args, const unsigned *grid, unsigned threads, size_t bytes) { \
        host::launch(host_body_##name, args, grid, threads, bytes);                              \
    }
