// What steer3d uses of NCCL, on the host: for tests of the calls. With NCCL's header in the include path it is compiled
// against its signatures.

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <vector>

#if defined(__has_include) && __has_include(<nccl.h>)
#include <nccl.h>
#else
typedef int ncclResult_t;
typedef unsigned ncclDataType_t, ncclRedOp_t;
typedef void *ncclComm_t, *cudaStream_t;
#endif

struct Communicator { int rank, count, device; };
struct Call { bool sum; const void *from; void *to; size_t count; int type, op, root; Communicator *place; };

static const ncclResult_t good = (ncclResult_t)0, invalid = (ncclResult_t)4;
static std::vector<Call> calls;
static bool grouped = false, wrong = false;

static void add(const Call &call, cudaStream_t stream) {
    wrong |= !grouped;
#ifndef ANY_STREAM
    wrong |= (uintptr_t)stream != 0x5eedu + (uintptr_t)call.place->device;
#endif
    calls.push_back(call);
}

template <typename T> static void run(const std::vector<Call> &calls) {
    if (!calls[0].sum) {
        for (const Call &call : calls)
            if (call.to != calls[0].from) memcpy(call.to, calls[0].from, call.count * sizeof(T));
        return;
    }
    for (size_t i = 0; i < calls[0].count; ++i) {
        T sum = 0;
        for (const Call &call : calls) sum += ((const T *)call.from)[i];
        ((T *)calls[0].to)[i] = sum;
    }
}

extern "C" {
ncclResult_t ncclCommInitAll(ncclComm_t *comm, int count, const int *devices) {
    for (int i = 0; i < count; ++i)
        for (int j = 0; j < i; ++j)
            if (devices[i] == devices[j]) return invalid;
    for (int i = 0; i < count; ++i) *(Communicator **)&comm[i] = new Communicator{i, count, devices[i]};
    return good;
}

ncclResult_t ncclCommDestroy(ncclComm_t comm) {
    delete (Communicator *)(void *)comm;
    return good;
}

ncclResult_t ncclGroupStart() {
    grouped = true;
    wrong = false;
    calls.clear();
    return good;
}

// All places, in their order, with the same call.
ncclResult_t ncclGroupEnd() {
    grouped = false;
    if (wrong || calls.empty() || (int)calls.size() != calls[0].place->count) return invalid;
    for (size_t i = 0; i < calls.size(); ++i) {
        const Call &a = calls[i], &b = calls[0];
        if (a.place->rank != (int)i || a.sum != b.sum || a.count != b.count || a.type != b.type || a.op != 0 || a.root != 0)
            return invalid;
        if (a.sum && (a.to != nullptr) != (i == 0)) return invalid;
    }
    if (calls[0].type == 7) run<float>(calls);
    else if (calls[0].type == 8) run<double>(calls);
    else return invalid;
    return good;
}

ncclResult_t ncclReduce(const void *from, void *to, size_t count, ncclDataType_t type, ncclRedOp_t op, int root,
                        ncclComm_t comm, cudaStream_t stream) {
    add({true, from, to, count, (int)type, (int)op, root, (Communicator *)(void *)comm}, stream);
    return good;
}

ncclResult_t ncclBroadcast(const void *from, void *to, size_t count, ncclDataType_t type, int root, ncclComm_t comm,
                           cudaStream_t stream) {
    add({false, from, to, count, (int)type, 0, root, (Communicator *)(void *)comm}, stream);
    return good;
}
}
