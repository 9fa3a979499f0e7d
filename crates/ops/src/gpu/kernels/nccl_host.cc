// What steer3d uses of NCCL, on the host: for tests of the calls. With NCCL's header in the include path it is compiled
// against its signatures.

#include <atomic>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <sched.h>
#include <sys/mman.h>
#include <unistd.h>
#include <vector>

#if defined(__has_include) && __has_include(<nccl.h>)
#include <nccl.h>
#else
typedef int ncclResult_t;
typedef unsigned ncclDataType_t, ncclRedOp_t;
typedef void *ncclComm_t, *cudaStream_t;
struct ncclUniqueId { char internal[128]; };
#endif

// What the processes of a communicator share: a file in memory, named by their id. `met` counts those that have come to a
// meeting, of which a sum has two.
struct Shared { std::atomic<long> met; };
static const size_t room = (size_t)64 << 20;

struct Communicator { int rank, count, device; Shared *shared; long meetings; };
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

static void meet(Communicator *place) {
    long all = ++place->meetings * place->count;
    ++place->shared->met;
    while (place->shared->met < all) sched_yield();
}

template <typename T> static void sum_all(const Communicator *place, const char *all, void *to, size_t count) {
    for (size_t i = 0; i < count; ++i) {
        T sum = 0;
        for (int rank = 0; rank < place->count; ++rank) sum += ((const T *)(all + rank * room))[i];
        ((T *)to)[i] = sum;
    }
}

extern "C" {
ncclResult_t ncclCommInitAll(ncclComm_t *comm, int count, const int *devices) {
    for (int i = 0; i < count; ++i)
        for (int j = 0; j < i; ++j)
            if (devices[i] == devices[j]) return invalid;
    for (int i = 0; i < count; ++i) *(Communicator **)&comm[i] = new Communicator{i, count, devices[i], nullptr, 0};
    return good;
}

ncclResult_t ncclGetUniqueId(ncclUniqueId *id) {
    static int number = 0;
    snprintf(id->internal, sizeof id->internal, "/steer3d-nccl-%d-%d", (int)getpid(), number++);
    return good;
}

ncclResult_t ncclCommInitRank(ncclComm_t *comm, int count, ncclUniqueId id, int rank) {
    if (rank < 0 || rank >= count) return invalid;
    int file = shm_open(id.internal, O_RDWR | O_CREAT, 0600);
    size_t size = sizeof(Shared) + count * room;
    if (file < 0 || ftruncate(file, (off_t)size) != 0) return invalid;
    void *memory = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    close(file);
    if (memory == MAP_FAILED) return invalid;
    Communicator *place = new Communicator{rank, count, rank, (Shared *)memory, 0};
    meet(place);
    shm_unlink(id.internal);
    *(Communicator **)comm = place;
    return good;
}

ncclResult_t ncclAllReduce(const void *from, void *to, size_t count, ncclDataType_t type, ncclRedOp_t op, ncclComm_t comm,
                           cudaStream_t stream) {
    Communicator *place = (Communicator *)(void *)comm;
    size_t size = type == 7 ? sizeof(float) : sizeof(double);
    if (!place->shared || (int)op != 0 || (type != 7 && type != 8) || count * size > room) return invalid;
#ifndef ANY_STREAM
    if ((uintptr_t)stream != 0x5eedu + (uintptr_t)place->device) return invalid;
#else
    (void)stream;
#endif
    char *all = (char *)(place->shared + 1);
    memcpy(all + place->rank * room, from, count * size);
    meet(place);
    if (type == 7) sum_all<float>(place, all, to, count);
    else sum_all<double>(place, all, to, count);
    meet(place);
    return good;
}

ncclResult_t ncclCommDestroy(ncclComm_t comm) {
    Communicator *place = (Communicator *)(void *)comm;
    if (place->shared) munmap((void *)place->shared, sizeof(Shared) + place->count * room);
    delete place;
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
