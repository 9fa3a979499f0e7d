// Threads one after another, for kernels without barriers.
#define LOOP_ENTRY(name)                                                                                   \
    extern "C" void host_##name(void **args, const unsigned *grid, unsigned threads, size_t) {             \
        gridDim = {grid[0], grid[1], grid[2]};                                                             \
        blockDim = {threads, 1, 1};                                                                        \
        for (unsigned z = 0; z < grid[2]; ++z)                                                             \
            for (unsigned y = 0; y < grid[1]; ++y)                                                         \
                for (unsigned x = 0; x < grid[0]; ++x)                                                     \
                    for (unsigned t = 0; t < threads; ++t) {                                               \
                        blockIdx = {x, y, z};                                                              \
                        threadIdx = {t, 0, 0};                                                             \
                        host::unpack(name, args);                                                          \
                    }                                                                                      \
    }
