// What kernels need of a device, as host.h on the host.
#define SHARED(type, name)                                                                        \
    extern __shared__ __align__(16) unsigned char shared_bytes[];                                 \
    type *name = (type *)shared_bytes
// Keeps the compiler from knowing more about a pointer.
#define OPAQUE(pointer) asm volatile("" : "+l"(pointer))
// x to the nearest number of 10 bits, as its bits.
#define ROUND_TF32(bits, x) asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(x))
// c (16, 8) += a (16, 4) b (4, 8) by the 32 lanes of a warp. Lane 4 g + t has a[g][t], a[g + 8][t], b[t][g], and of c
// rows g, g and g + 8, g + 8 in columns 2 t, 2 t + 1 and again.
#define MMA_TF32(c, a0, a1, b)                                                                    \
    asm volatile("mma.sync.aligned.m16n8k4.row.col.f32.tf32.tf32.f32 "                                     \
        "{%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"                                     \
        : "+f"((c)[0]), "+f"((c)[1]), "+f"((c)[2]), "+f"((c)[3])                                  \
        : "r"(__float_as_uint(a0)), "r"(__float_as_uint(a1)), "r"(__float_as_uint(b)))
