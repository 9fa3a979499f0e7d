// In place of candle-kernels' file of this name: what its kernels need of CUDA's headers, for the host.
#include <cassert>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>

#define __host__
#define __shared__ static
#define __CUDA_ARCH__ 800
#define __NV_E4M3 0

// A narrow number of bf16's form, which is computed with as a float. Only bf16 is used.
template <int> struct Narrow {
    union { uint16_t bits; uint8_t __x; };
    Narrow() = default;
    template <class T> Narrow(T value) {
        const float x = (float)value;
        uint32_t wide;
        memcpy(&wide, &x, 4);
        bits = x == x ? (wide + 0x7fff + (wide >> 16 & 1)) >> 16 : 0x7fff;
    }
    operator float() const {
        const uint32_t wide = uint32_t(bits) << 16;
        float x;
        memcpy(&x, &wide, 4);
        return x;
    }
    template <class T> Narrow &operator+=(T x) { return *this = Narrow((float)*this + (float)x); }
    template <class T> Narrow &operator*=(T x) { return *this = Narrow((float)*this * (float)x); }
};
typedef Narrow<0> __nv_bfloat16;
typedef Narrow<1> __half;
typedef Narrow<2> __nv_fp8_e4m3;

struct __nv_bfloat162 { __nv_bfloat16 x, y; };
#define OF_PAIRS(name, sign)                                                                      \
    static __nv_bfloat162 name(__nv_bfloat162 a, __nv_bfloat162 b) { return {a.x sign b.x, a.y sign b.y}; }
OF_PAIRS(__hadd2, +)
OF_PAIRS(__hsub2, -)
OF_PAIRS(__hmul2, *)
OF_PAIRS(__h2div, /)

struct float2 { float x, y; };
struct float4 { float x, y, z, w; };
static float2 make_float2(float x, float y) { return {x, y}; }

static float __bfloat162float(__nv_bfloat16 x) { return x; }
static __nv_bfloat16 __float2bfloat16(float x) { return x; }
static __nv_bfloat16 __float2bfloat16_rn(float x) { return x; }
static float __half2float(__half x) { return x; }
static __half __float2half(float x) { return x; }
static __half __nv_cvt_fp8_to_halfraw(uint8_t, int) { return 0; }
static float normcdff(float x) { return 0.5f * erfcf(-x * 0.70710678f); }
static double normcdf(double x) { return 0.5 * erfc(-x * M_SQRT1_2); }
static float rsqrtf(float x) { return 1 / sqrtf(x); }

#define OF_NARROW(name, value)                                                                    \
    template <int T> Narrow<T> name(Narrow<T> a) { const float x = a; return value; }
OF_NARROW(hsqrt, sqrtf(x))
OF_NARROW(hcos, cosf(x))
OF_NARROW(hsin, sinf(x))
OF_NARROW(hlog, logf(x))
OF_NARROW(hexp, expf(x))
OF_NARROW(__habs, fabsf(x))
template <int T> bool __hisnan(Narrow<T> a) { const float x = a; return x != x; }
template <int T> Narrow<T> __hmax_nan(Narrow<T> a, Narrow<T> b) { return a != a || a > b ? a : b; }
template <int T> Narrow<T> __hmin_nan(Narrow<T> a, Narrow<T> b) { return a != a || a < b ? a : b; }

template <class T> T atomicAdd(T *at, T value) { const T old = *at; *at += value; return old; }
template <class T> T atomicMaxf(T *at, T value) { const T old = *at; if (value > old) *at = value; return old; }
template <class T> T atomicMinf(T *at, T value) { const T old = *at; if (value < old) *at = value; return old; }
template <class T> T __shfl_xor_sync(unsigned mask, T value, int lane, int) { return __shfl_xor_sync(mask, value, lane); }

template <class A, class B> std::common_type_t<A, B> min(A a, B b) { return a < b ? a : b; }
template <class A, class B> std::common_type_t<A, B> max(A a, B b) { return a > b ? a : b; }
namespace cuda { namespace std { using ::std::numeric_limits; } }
