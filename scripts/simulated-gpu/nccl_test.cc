// Sums and copies of three processes by the library that stands for NCCL; then one of them is killed. `scripts/gpu-simulate
// ranks` runs it.
#include "../../crates/ops/src/gpu/kernels/nccl_host.cc"
#include <csignal>
#include <cstdlib>
#include <sys/wait.h>

static const int COUNT = 3;

static void expect(bool holds, const char *what) {
    if (holds) return;
    fprintf(stderr, "nccl_test: %s\n", what);
    _exit(1);
}

static ncclResult_t end_of(ncclComm_t comm) {
    ncclResult_t state = busy;
    while (state == busy) {
        usleep(100);
        ncclCommGetAsyncError(comm, &state);
    }
    return state;
}

static ncclComm_t connect(const ncclUniqueId &id, int count, int rank) {
    ncclConfig_t config;
    memset((void *)&config, 0, sizeof config);
    config.size = sizeof config;
    config.magic = 0xcafebeef;
    config.version = 21400;
    ncclComm_t comm;
    expect(ncclCommInitRankConfig(&comm, count, id, rank, &config) == busy, "a communicator is not begun");
    return comm;
}

template <typename T> static std::vector<T> numbers(int rank, size_t count) {
    std::vector<T> all(count);
    for (size_t i = 0; i < count; ++i) all[i] = T(rank + 1) / T(i % 89 + 3);
    return all;
}

template <typename T> static std::vector<T> sums(size_t count) {
    std::vector<T> all(count, 0);
    for (int rank = 0; rank < COUNT; ++rank) {
        const std::vector<T> given = numbers<T>(rank, count);
        for (size_t i = 0; i < count; ++i) all[i] += given[i];
    }
    return all;
}

template <typename T> static void exchange(ncclComm_t comm, int rank, size_t count, int of_type) {
    const ncclDataType_t type = (ncclDataType_t)of_type;
    const ncclRedOp_t sum = (ncclRedOp_t)0;
    const std::vector<T> own = numbers<T>(rank, count);
    std::vector<T> total(count), of_root(count), copied = own;
    ncclGroupStart();
    ncclAllReduce(own.data(), total.data(), count, type, sum, comm, nullptr);
    ncclReduce(own.data(), rank == 1 ? of_root.data() : nullptr, count, type, sum, 1, comm, nullptr);
    ncclBroadcast(copied.data(), copied.data(), count, type, 2, comm, nullptr);
    expect(ncclGroupEnd() == busy && end_of(comm) == good, "calls in a group fail");
    expect(total == sums<T>(count), "a sum is not that in the order of the ranks");
    expect(rank != 1 || of_root == sums<T>(count), "a sum for one rank differs");
    expect(copied == numbers<T>(2, count), "a copy differs");
    expect(ncclAllReduce(total.data(), total.data(), count, type, (ncclRedOp_t)1, comm, nullptr) == invalid,
           "a product is not refused");
}

static void part(const ncclUniqueId &id, int rank) {
    ncclComm_t comm = connect(id, COUNT, rank);
    expect(end_of(comm) == good, "the ranks do not meet");
    expect(shm_open(id.internal, O_RDWR, 0600) < 0, "the file in memory is still there");
    for (size_t count : {1, 5, 16384, 16385, 50003}) {
        exchange<float>(comm, rank, count, 7);
        exchange<double>(comm, rank, count, 8);
    }
    if (rank == 2) raise(SIGKILL);
    float number = 1;
    expect(ncclAllReduce(&number, &number, 1, (ncclDataType_t)7, (ncclRedOp_t)0, comm, nullptr) == busy, "a sum is not begun");
    expect(end_of(comm) == gone, "a rank that was killed is not noticed");
    expect(ncclAllReduce(&number, &number, 1, (ncclDataType_t)7, (ncclRedOp_t)0, comm, nullptr) == gone, "the error is forgotten");
    ncclCommAbort(comm);
    _exit(0);
}

// Different calls, and a rank that nobody joins.
static void mistakes() {
    ncclUniqueId id;
    ncclGetUniqueId(&id);
    ncclComm_t pair[2] = {connect(id, 2, 0), connect(id, 2, 1)};
    expect(end_of(pair[0]) == good && end_of(pair[1]) == good, "the ranks of a process do not meet");
    float numbers[2][2] = {};
    for (int i = 0; i < 2; ++i)
        ncclAllReduce(numbers[i], numbers[i], 1 + i, (ncclDataType_t)7, (ncclRedOp_t)0, pair[i], nullptr);
    expect(end_of(pair[0]) == misused && end_of(pair[1]) == misused, "sums of different lengths are not refused");
    for (ncclComm_t comm : pair) ncclCommDestroy(comm);
    ncclGetUniqueId(&id);
    ncclComm_t alone = connect(id, 2, 0);
    usleep(20000);
    ncclResult_t state;
    ncclCommGetAsyncError(alone, &state);
    expect(state == busy, "a rank does not wait for the other");
    ncclCommAbort(alone);
    expect(shm_open(id.internal, O_RDWR, 0600) < 0, "a file in memory is left behind");
}

int main() {
    ncclUniqueId id;
    expect(ncclGetUniqueId(&id) == good, "there is no id");
    pid_t processes[COUNT];
    for (int rank = 0; rank < COUNT; ++rank)
        if ((processes[rank] = fork()) == 0) {
            alarm(60);
            part(id, rank);
        }
    for (int rank = 0; rank < COUNT; ++rank) {
        int status;
        waitpid(processes[rank], &status, 0);
        const bool well = rank == 2 ? WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL : status == 0;
        expect(well, "a process ends badly");
    }
    alarm(60);
    mistakes();
    puts("the stand-in of NCCL: three processes sum and copy, and hear of one that is killed");
}
