// NVIDIA's driver, NVRTC, cuBLAS and cuRAND for a GPU that is simulated on the CPU: what steer3d and candle call of
// them. Every call is done when it returns. A kernel of steer3d arrives as its text, which the simulated NVRTC passes
// on; a module of candle arrives as PTX, and the text that it was made from is in the folder of candle-kernels. Both
// are compiled for the host against crates/ops/src/gpu/kernels/host.h.
//
// Memory is NaN when it is given, has guards at both ends, and is only reached through a stream of its own device and
// within its size; the program ends with a message where this does not hold.
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <dlfcn.h>
#include <fstream>
#include <map>
#include <mutex>
#include <random>
#include <regex>
#include <sstream>
#include <string>
#include <unistd.h>
#include <vector>

typedef int Status;
typedef uint64_t Pointer;
enum { OK = 0, INVALID = 1, NO_DEVICE = 101, NO_BINARY = 209, NOT_FOUND = 500 };

static std::recursive_mutex lock;
#define ALONE std::lock_guard<std::recursive_mutex> alone(lock)

[[noreturn]] static void stop(const std::string &problem) {
    fprintf(stderr, "simulated GPU: %s\n", problem.c_str());
    abort();
}

static std::string setting(const char *name, const char *otherwise) {
    const char *value = getenv(name);
    if (!value && !otherwise) stop(std::string(name) + " is not set: use scripts/gpu-simulate");
    return value ? value : otherwise;
}

// ---- devices, contexts, streams -------------------------------------------------------------------------------

struct Context { int device; };
struct Stream { Context *context; };

static Context contexts[8];
static thread_local Context *current;

static int devices() {
    static const int count = atoi(setting("SIMULATED_GPUS", "2").c_str());
    return count < 8 ? count : 8;
}
// Streams 0, 1 and 2 are those of the current context and thread, which wait for no other one.
static Context *context_of(void *stream) {
    if ((uintptr_t)stream <= 2) stop("work on no stream of its own: a device must be that of gpu_device");
    return ((Stream *)stream)->context;
}

extern "C" {
Status cuInit(unsigned) { return devices() > 0 ? OK : NO_DEVICE; }
Status cuDeviceGet(int *device, int ordinal) {
    *device = ordinal;
    return ordinal >= 0 && ordinal < devices() ? OK : NO_DEVICE;
}
Status cuDeviceGetAttribute(int *value, int attribute, int) {
    static const std::map<int, int> known = {
        {1, 1024},      // threads of a block
        {16, 4},        // multiprocessors
        {75, 8}, {76, 0}, // compute capability
        {81, 228 << 10}, // shared memory of a multiprocessor
        {97, 227 << 10}, // and of a block
        {115, 1},       // memory pools
    };
    auto found = known.find(attribute);
    *value = found == known.end() ? 0 : found->second;
    return OK;
}
Status cuDevicePrimaryCtxRetain(Context **context, int device) {
    contexts[device].device = device;
    *context = &contexts[device];
    return OK;
}
Status cuDevicePrimaryCtxRelease_v2(int) { return OK; }
Status cuCtxDestroy_v2(Context *) { return OK; }
Status cuCtxGetCurrent(Context **context) { *context = current; return OK; }
Status cuCtxSetCurrent(Context *context) { current = context; return OK; }
Status cuCtxSynchronize() { return OK; }
Status cuStreamCreate(Stream **stream, unsigned) { *stream = new Stream{current}; return OK; }
Status cuStreamDestroy_v2(Stream *stream) { delete stream; return OK; }
Status cuStreamIsCapturing(void *, int *status) { *status = 0; return OK; }
Status cuStreamSynchronize(void *) { return OK; }
Status cuStreamQuery(void *) { return OK; }
Status cuStreamWaitEvent(void *, void *, unsigned) { return OK; }
Status cuEventCreate(void **event, unsigned) { *event = malloc(1); return OK; }
Status cuEventDestroy_v2(void *event) { free(event); return OK; }
Status cuEventRecord(void *, void *) { return OK; }
Status cuGetErrorString(Status status, const char **text) {
    *text = status == NO_DEVICE ? "no such simulated GPU" : "an error of the simulated GPU";
    return OK;
}
} // extern "C"

// ---- memory ---------------------------------------------------------------------------------------------------

const size_t GUARD = 512, TOTAL = size_t(8) << 30;
struct Block { size_t bytes; Context *context; unsigned char *start; };
static std::map<Pointer, Block> blocks;
static size_t used;

static Status allocate(Pointer *pointer, size_t bytes, Context *context) {
    ALONE;

    if (!context) stop("memory is allocated without a context");
    auto *start = (unsigned char *)aligned_alloc(256, (bytes + 2 * GUARD + 255) / 256 * 256);
    if (!start) stop("no memory is left");
    memset(start, 0xff, bytes + 2 * GUARD);
    *pointer = (Pointer)(start + GUARD);
    blocks[*pointer] = {bytes, context, start};
    used += bytes;
    return OK;
}
static Status release(Pointer pointer, Context *context) {
    ALONE;
    auto found = blocks.find(pointer);
    if (found == blocks.end()) stop("memory is freed that was not allocated");
    const Block &block = found->second;
    if (block.context != context) stop("memory is freed on the stream of another device");
    for (size_t i = 0; i < GUARD; ++i)
        if (block.start[i] != 0xff || block.start[GUARD + block.bytes + i] != 0xff)
            stop("a kernel wrote beside a buffer of " + std::to_string(block.bytes) + " bytes");
    used -= block.bytes;
    free(block.start);
    blocks.erase(found);
    return OK;
}
// The memory at a pointer, which has so many bytes there, on the device of a context if one is given.
static void *reach(Pointer pointer, size_t bytes, Context *context) {
    auto found = blocks.upper_bound(pointer);
    if (found == blocks.begin()) stop("a copy from or to memory that was not allocated");
    const auto &[first, block] = *--found;
    if (pointer + bytes > first + block.bytes) stop("a copy beyond the end of a buffer");
    if (context && block.context != context) stop("a copy on the stream of another device");
    return (void *)pointer;
}

extern "C" {
Status cuMemAllocAsync(Pointer *p, size_t bytes, void *stream) { return allocate(p, bytes, context_of(stream)); }
Status cuMemAlloc_v2(Pointer *p, size_t bytes) { return bytes ? allocate(p, bytes, current) : INVALID; }
Status cuMemFreeAsync(Pointer p, void *stream) { return release(p, context_of(stream)); }
Status cuMemFree_v2(Pointer p) { return release(p, current); }
Status cuMemGetInfo_v2(size_t *unused, size_t *total) { ALONE; *unused = TOTAL - used; *total = TOTAL; return OK; }
Status cuMemcpyHtoDAsync_v2(Pointer to, const void *from, size_t bytes, void *stream) {
    ALONE;
    memcpy(reach(to, bytes, context_of(stream)), from, bytes);
    return OK;
}
Status cuMemcpyDtoHAsync_v2(void *to, Pointer from, size_t bytes, void *stream) {
    ALONE;
    memcpy(to, reach(from, bytes, context_of(stream)), bytes);
    return OK;
}
Status cuMemcpyDtoDAsync_v2(Pointer to, Pointer from, size_t bytes, void *stream) {
    ALONE;
    memmove(reach(to, bytes, context_of(stream)), reach(from, bytes, context_of(stream)), bytes);
    return OK;
}
Status cuMemcpyPeerAsync(Pointer, Context *, Pointer, Context *, size_t, void *) {
    stop("a copy between two devices, which waits for neither");
}
Status cuMemsetD8Async(Pointer to, unsigned char value, size_t bytes, void *stream) {
    ALONE;
    memset(reach(to, bytes, context_of(stream)), value, bytes);
    return OK;
}
} // extern "C"

// ---- kernels --------------------------------------------------------------------------------------------------

typedef void (*Entry)(void **, const unsigned *, unsigned, size_t);
struct Module { void *library; Context *context; };
struct Function { Entry entry; Context *context; std::string name; };

static std::string contents(const std::string &path) {
    std::ifstream file(path);
    if (!file) stop("cannot read " + path);
    std::stringstream text;
    text << file.rdbuf();
    return text.str();
}

// The library of a text, kept for the next time.
static void *compiled(const std::string &text) {
    const std::string folder = setting("SIMULATED_GPU", nullptr) + "/compiled/";
    const std::string name = folder + std::to_string(std::hash<std::string>()(text));
    if (FILE *file = fopen((name + ".so").c_str(), "r")) {
        fclose(file);
    } else {
        const std::string own = name + "-" + std::to_string(getpid()) + "-" + std::to_string((uintptr_t)&name);
        std::ofstream(own + ".cc") << text;
        const std::string options = " -std=c++17 -O1 -w -shared -fPIC -ffp-contract=off -I" + setting("SIMULATED_GPU", nullptr);
        const std::string command = "c++" + options + " -o " + own + ".so " + own + ".cc && mv " + own + ".so " + name + ".so";
        if (system(command.c_str()) != 0) stop("a kernel does not compile for the host: " + own + ".cc");
        remove((own + ".cc").c_str());
    }
    void *library = dlopen((name + ".so").c_str(), RTLD_NOW | RTLD_LOCAL);
    if (!library) stop(dlerror());
    return library;
}

static std::string entries(const std::string &text, const std::regex &pattern, const std::string &macro) {
    std::string all;
    for (std::sregex_iterator at(text.begin(), text.end(), pattern), end; at != end; ++at)
        all += macro + "(" + (*at)[1].str() + ")\n";
    return all;
}

// Which file of candle-kernels has a kernel.
static std::string file_of(const std::string &ptx) {
    static const std::pair<const char *, const char *> files[] = {
        {"affine_f32", "affine"}, {"badd_f32", "binary"}, {"cast_f32_f64", "cast"}, {"const_set_f32", "fill"},
        {"is_u32_f32", "indexing"}, {"fast_sum_f32", "reduce"}, {"where_u8_f32", "ternary"}, {"uneg_f32", "unary"},
    };
    for (auto &[kernel, file] : files)
        if (ptx.find(std::string(".entry ") + kernel + "(") != std::string::npos) return file;
    return "";
}

extern "C" {
Status cuModuleLoadData(Module **module, const void *image) {
    ALONE;
    const std::string text = (const char *)image;
    const std::string prefix = "// steer3d\n";
    if (text.compare(0, prefix.size(), prefix) == 0) {
        static const std::string device = contents(setting("SIMULATED_GPU", nullptr) + "/device.h");
        const std::string source = text.substr(prefix.size());
        if (source.compare(0, device.size(), device) != 0) stop("a text that does not begin with device.h");
        static const std::regex pattern("extern \"C\" __global__ void\\s+(?:__launch_bounds__\\([^)]*\\)\\s*)?(\\w+)");
        *module = new Module{compiled("#define __constant__ static const\n#include \"host.h\"\n" + source.substr(device.size()) +
                                      entries(source, pattern, "\nHOST_ENTRY")), current};
        return OK;
    }
    const std::string file = file_of(text);
    if (file.empty()) return NO_BINARY;
    static const std::regex pattern("\\.entry (\\w+)\\(");
    // Only reductions have barriers.
    const bool fibers = file == "reduce";
    *module = new Module{compiled("#include \"host.h\"\n#include \"loop.h\"\n#include \"candle/" + file + ".cu\"\n" +
                                  entries(text, pattern, fibers ? "HOST_ENTRY" : "LOOP_ENTRY")), current};
    return OK;
}
Status cuModuleLoad(Module **, const char *) { stop("a module is loaded from a file"); }
Status cuModuleUnload(Module *module) { delete module; return OK; }
Status cuModuleGetFunction(Function **function, Module *module, const char *name) {
    ALONE;
    auto entry = (Entry)dlsym(module->library, (std::string("host_") + name).c_str());
    if (!entry) return NOT_FOUND;
    *function = new Function{entry, module->context, name};
    return OK;
}
Status cuFuncSetAttribute(Function *, int, int) { return OK; }
Status cuLaunchKernel(Function *function, unsigned x, unsigned y, unsigned z, unsigned threads, unsigned threads_y,
                      unsigned threads_z, unsigned shared, void *stream, void **arguments, void **) {
    ALONE;
    if (context_of(stream) != function->context) stop(function->name + ": a kernel on the stream of another device");
    if (threads_y != 1 || threads_z != 1) stop(function->name + ": blocks of more than one dimension");
    if (!x || !y || !z || !threads || threads > 1024 || y > 65535 || z > 65535) return INVALID;
    const unsigned grid[3] = {x, y, z};
    function->entry(arguments, grid, threads, shared);
    return OK;
}

// ---- NVRTC ----------------------------------------------------------------------------------------------------

Status nvrtcVersion(int *major, int *minor) { *major = 0; *minor = 0; return OK; }
Status nvrtcCreateProgram(std::string **program, const char *text, const char *, int, const void *, const void *) {
    *program = new std::string(std::string("// steer3d\n") + text);
    return OK;
}
Status nvrtcCompileProgram(std::string *, int, const void *) { return OK; }
Status nvrtcDestroyProgram(std::string **program) { delete *program; return OK; }
Status nvrtcGetPTXSize(std::string *program, size_t *size) { *size = program->size() + 1; return OK; }
Status nvrtcGetPTX(std::string *program, char *text) { memcpy(text, program->c_str(), program->size() + 1); return OK; }
Status nvrtcGetProgramLogSize(std::string *, size_t *size) { *size = 1; return OK; }
Status nvrtcGetProgramLog(std::string *, char *log) { *log = 0; return OK; }

// ---- cuBLAS ---------------------------------------------------------------------------------------------------

Status cublasCreate_v2(void **handle) { *handle = malloc(1); return OK; }
Status cublasDestroy_v2(void *handle) { free(handle); return OK; }
Status cublasSetStream_v2(void *, void *) { return OK; }
} // extern "C"

struct Bf16 {
    uint16_t bits;
    explicit Bf16(float x) {
        uint32_t wide;
        memcpy(&wide, &x, 4);
        bits = (wide + 0x7fff + (wide >> 16 & 1)) >> 16;
    }
    operator float() const {
        const uint32_t wide = uint32_t(bits) << 16;
        float x;
        memcpy(&x, &wide, 4);
        return x;
    }
};

// Columns first: c (m, n) = alpha a (m, k) b (k, n) + beta c, for each of a batch; factors are of type F.
template <class T, class F>
static Status products(int ta, int tb, int m, int n, int k, const void *alpha, const void *a, int lda, long long sa,
                       const void *b, int ldb, long long sb, const void *beta, void *c, int ldc, long long sc, int count) {
    ALONE;
    const F by = *(const F *)alpha, of_old = *(const F *)beta;
    for (int i = 0; i < count; ++i) {
        const T *p = (const T *)a + i * sa, *q = (const T *)b + i * sb;
        T *r = (T *)c + i * sc;
        for (int column = 0; column < n; ++column)
            for (int row = 0; row < m; ++row) {
                double sum = 0;
                for (int l = 0; l < k; ++l)
                    sum += double(p[ta ? l + size_t(row) * lda : row + size_t(l) * lda]) *
                           double(q[tb ? column + size_t(l) * ldb : l + size_t(column) * ldb]);
                T &to = r[row + size_t(column) * ldc];
                to = T(by * sum + (of_old == 0 ? 0 : of_old * double(to)));
            }
    }
    return OK;
}

extern "C" {
Status cublasGemmStridedBatchedEx(void *, int ta, int tb, int m, int n, int k, const void *alpha, const void *a, int type, int lda,
                                  long long sa, const void *b, int, int ldb, long long sb, const void *beta, void *c, int, int ldc,
                                  long long sc, int count, int, int) {
    const auto of = type == 0 ? products<float, float> : type == 1 ? products<double, double> : products<Bf16, float>;
    if (type != 0 && type != 1 && type != 14) stop("a matrix product of type " + std::to_string(type));
    return of(ta, tb, m, n, k, alpha, a, lda, sa, b, ldb, sb, beta, c, ldc, sc, count);
}
Status cublasDgemmStridedBatched(void *, int ta, int tb, int m, int n, int k, const double *alpha, const double *a, int lda,
                                 long long sa, const double *b, int ldb, long long sb, const double *beta, double *c, int ldc,
                                 long long sc, int count) {
    return products<double, double>(ta, tb, m, n, k, alpha, a, lda, sa, b, ldb, sb, beta, c, ldc, sc, count);
}

// ---- cuRAND ---------------------------------------------------------------------------------------------------

Status curandCreateGenerator(std::mt19937_64 **generator, int) { *generator = new std::mt19937_64; return OK; }
Status curandDestroyGenerator(std::mt19937_64 *generator) { delete generator; return OK; }
Status curandSetPseudoRandomGeneratorSeed(std::mt19937_64 *generator, unsigned long long seed) { generator->seed(seed); return OK; }
Status curandSetStream(void *, void *) { return OK; }
Status curandGenerateNormal(std::mt19937_64 *generator, float *out, size_t count, float mean, float deviation) {
    std::normal_distribution<float> normal(mean, deviation);
    for (size_t i = 0; i < count; ++i) out[i] = normal(*generator);
    return OK;
}
Status curandGenerateNormalDouble(std::mt19937_64 *generator, double *out, size_t count, double mean, double deviation) {
    std::normal_distribution<double> normal(mean, deviation);
    for (size_t i = 0; i < count; ++i) out[i] = normal(*generator);
    return OK;
}
} // extern "C"
