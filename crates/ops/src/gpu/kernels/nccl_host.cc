// What steer3d uses of NCCL, on the host: for tests of the calls, among the threads and processes of a machine. As those
// of NCCL that do not block, a communicator works on a thread of its own, and says when it is asked how far it is. With
// NCCL's header in the include path it is compiled against its signatures.

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <fcntl.h>
#include <functional>
#include <map>
#include <string>
#include <sys/mman.h>
#include <thread>
#include <unistd.h>
#include <vector>

#if defined(__has_include) && __has_include(<nccl.h>)
#include <nccl.h>
#else
typedef int ncclResult_t;
typedef unsigned ncclDataType_t, ncclRedOp_t;
typedef void *ncclComm_t, *cudaStream_t;
struct ncclUniqueId { char internal[128]; };
struct ncclConfig_t { size_t size; unsigned magic, version; int blocking; };
#endif

static const ncclResult_t good = (ncclResult_t)0, no_system = (ncclResult_t)2, given_up = (ncclResult_t)3,
                          invalid = (ncclResult_t)4, misused = (ncclResult_t)5, gone = (ncclResult_t)6,
                          busy = (ncclResult_t)7;

enum Kind : long { SUM_FOR_ALL, SUM_FOR_ROOT, COPIES };
// What the ranks have to agree on.
struct Asked { Kind kind; long count, type, root; };
static bool operator==(const Asked &a, const Asked &b) {
    return a.kind == b.kind && a.count == b.count && a.type == b.type && a.root == b.root;
}
struct Call { Asked asked; const char *from; char *to; };

// What the ranks of a communicator share: a file in memory, named by their id. `met` counts those that have come to a
// meeting. Data go through `pieces`. Each rank locks its byte of the file, which the system unlocks when it ends.
static const int most = 64;
static const size_t piece = 1 << 16;
struct Shared {
    std::atomic<long> met;
    std::atomic<bool> here[most];
    Asked asked[most];
    alignas(64) char pieces[most][piece];
};

struct Place {
    int rank, count, file;
    std::string name;
    Shared *shared;
    long meetings;
    std::atomic<bool> gives_up;
    std::atomic<ncclResult_t> state;
    std::thread thread;
};
typedef std::function<ncclResult_t()> Work;
static thread_local int depth = 0;
static thread_local std::vector<std::pair<Place *, Work>> grouped;

static Place *place_of(ncclComm_t comm) { return (Place *)(void *)comm; }

static bool lock(const Place *place, int command, int rank, short &type) {
    struct flock byte = {};
    byte.l_type = type;
    byte.l_whence = SEEK_SET;
    byte.l_start = rank;
    byte.l_len = 1;
    const bool done = fcntl(place->file, command, &byte) == 0;
    type = byte.l_type;
    return done;
}

static bool one_is_gone(const Place *place) {
    for (int rank = 0; rank < place->count; ++rank) {
        short type = F_WRLCK;
        if (rank != place->rank && place->shared->here[rank] && lock(place, F_OFD_GETLK, rank, type) && type == F_UNLCK)
            return true;
    }
    return false;
}

// Waits for all ranks.
static ncclResult_t meet(Place *place) {
    const long all = ++place->meetings * place->count;
    ++place->shared->met;
    for (long round = 1; place->shared->met < all; ++round) {
        if (place->gives_up) return given_up;
        // One that has ended may have come before.
        if (round % 64 == 0 && one_is_gone(place) && place->shared->met < all) return gone;
        std::this_thread::sleep_for(std::chrono::microseconds(round < 64 ? 20 : 200));
    }
    return good;
}

template <typename T> static void add(const Place *place, char *to, size_t bytes) {
    for (size_t i = 0; i < bytes / sizeof(T); ++i) {
        T sum = 0;
        for (int rank = 0; rank < place->count; ++rank) sum += ((const T *)place->shared->pieces[rank])[i];
        ((T *)to)[i] = sum;
    }
}

static void take(const Place *place, const Asked &asked, char *to, size_t bytes) {
    if (asked.kind == COPIES) memcpy(to, place->shared->pieces[asked.root], bytes);
    else if (asked.kind == SUM_FOR_ROOT && place->rank != asked.root) return;
    else if (asked.type == 7) add<float>(place, to, bytes);
    else add<double>(place, to, bytes);
}

static ncclResult_t run(Place *place, const Call &call) {
    const Asked &asked = call.asked;
    Shared &shared = *place->shared;
    const size_t bytes = asked.count * (asked.type == 7 ? sizeof(float) : sizeof(double));
    shared.asked[place->rank] = asked;
    for (size_t done = 0; done < bytes; done += piece) {
        const size_t part = std::min(piece, bytes - done);
        if (asked.kind != COPIES || place->rank == asked.root)
            memcpy(shared.pieces[place->rank], call.from + done, part);
        const ncclResult_t all_gave = meet(place);
        if (all_gave != good) return all_gave;
        for (int rank = 0; rank < place->count; ++rank)
            if (!(shared.asked[rank] == asked)) return misused;
        take(place, asked, call.to + done, part);
        const ncclResult_t all_took = meet(place);
        if (all_took != good) return all_took;
    }
    return good;
}

static void begin(Place *place, std::vector<Work> work) {
    if (place->thread.joinable()) place->thread.join();
    place->state = busy;
    place->thread = std::thread([place, work] {
        ncclResult_t status = good;
        for (const Work &each : work)
            if (status == good) status = each();
        place->state = status;
    });
}

static ncclResult_t ask(Place *place, Work work) {
    if (depth) {
        grouped.emplace_back(place, work);
        return good;
    }
    begin(place, {work});
    return busy;
}

static ncclResult_t call(Kind kind, const void *from, void *to, size_t count, int type, int op, int root,
                         ncclComm_t comm, cudaStream_t stream) {
    Place *place = place_of(comm);
    if (place->state == busy) return invalid;
    if (place->state != good) return place->state;
    if (op != 0 || (type != 7 && type != 8) || root < 0 || root >= place->count) return invalid;
#ifndef ANY_STREAM
    if ((uintptr_t)stream != 0x5eedu + (uintptr_t)place->rank) return invalid;
#else
    (void)stream;
#endif
    const Call made = {{kind, (long)count, type, root}, (const char *)from, (char *)to};
    return ask(place, [place, made] { return run(place, made); });
}

static void end(Place *place) {
    if (place->thread.joinable()) place->thread.join();
    shm_unlink(place->name.c_str());
    munmap((void *)place->shared, sizeof(Shared));
    close(place->file);
    delete place;
}

extern "C" {
ncclResult_t ncclGetUniqueId(ncclUniqueId *id) {
    static std::atomic<int> number(0);
    int file;
    do {
        snprintf(id->internal, sizeof id->internal, "/steer3d-nccl-%d-%d", (int)getpid(), number++);
        file = shm_open(id->internal, O_RDWR | O_CREAT | O_EXCL, 0600);
    } while (file < 0 && errno == EEXIST);
    const bool made = file >= 0 && ftruncate(file, sizeof(Shared)) == 0;
    if (file >= 0) close(file);
    return made ? good : no_system;
}

ncclResult_t ncclCommInitRankConfig(ncclComm_t *comm, int count, ncclUniqueId id, int rank, ncclConfig_t *config) {
    if (rank < 0 || rank >= count || count > most) return invalid;
    if (config->size < 20 || config->magic != 0xcafebeef || config->version < 21400 || config->blocking != 0)
        return invalid;
    const int file = shm_open(id.internal, O_RDWR, 0600);
    if (file < 0) return no_system;
    void *memory = mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (memory == MAP_FAILED) {
        close(file);
        return no_system;
    }
    Place *place = new Place{rank, count, file, id.internal, (Shared *)memory, 0, {false}, {good}, {}};
    short type = F_WRLCK;
    if (!lock(place, F_OFD_SETLK, rank, type)) {
        munmap(memory, sizeof(Shared));
        close(file);
        delete place;
        return misused;
    }
    place->shared->here[rank] = true;
    *(Place **)comm = place;
    return ask(place, [place] {
        const ncclResult_t all_came = meet(place);
        if (all_came == good) shm_unlink(place->name.c_str());
        return all_came;
    });
}

ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t *state) {
    *state = place_of(comm)->state;
    return good;
}

ncclResult_t ncclCommAbort(ncclComm_t comm) {
    if (!comm) return good;
    place_of(comm)->gives_up = true;
    end(place_of(comm));
    return good;
}

ncclResult_t ncclCommDestroy(ncclComm_t comm) {
    if (comm) end(place_of(comm));
    return good;
}

ncclResult_t ncclGroupStart() {
    ++depth;
    return good;
}

ncclResult_t ncclGroupEnd() {
    if (depth == 0) return misused;
    if (--depth > 0) return good;
    std::map<Place *, std::vector<Work>> work;
    for (const auto &[place, each] : grouped) work[place].push_back(each);
    grouped.clear();
    for (const auto &[place, all] : work) begin(place, all);
    return work.empty() ? good : busy;
}

ncclResult_t ncclAllReduce(const void *from, void *to, size_t count, ncclDataType_t type, ncclRedOp_t op, ncclComm_t comm,
                           cudaStream_t stream) {
    return call(SUM_FOR_ALL, from, to, count, (int)type, (int)op, 0, comm, stream);
}

ncclResult_t ncclReduce(const void *from, void *to, size_t count, ncclDataType_t type, ncclRedOp_t op, int root,
                        ncclComm_t comm, cudaStream_t stream) {
    return call(SUM_FOR_ROOT, from, to, count, (int)type, (int)op, root, comm, stream);
}

ncclResult_t ncclBroadcast(const void *from, void *to, size_t count, ncclDataType_t type, int root, ncclComm_t comm,
                           cudaStream_t stream) {
    return call(COPIES, from, to, count, (int)type, 0, root, comm, stream);
}
}
