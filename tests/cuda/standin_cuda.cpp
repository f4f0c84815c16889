/* standin_cuda.cpp: the part of CUDA's runtime that the backend calls, on the host; see standin.h.
 *
 * Work on a stream is put off until something waits for it, so that a missing wait shows. Device memory starts as NaN
 * and cannot be touched by the host but while work runs; under the address sanitizer it comes from malloc instead, so
 * that kernels' accesses outside an allocation are reported.
 */
#include "standin.h"

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include <sys/mman.h>

typedef std::function<void()> work;
struct captured {
    std::vector<work> jobs;
};
struct CUstream_st {
    std::deque<work> jobs;
    std::shared_ptr<captured> capture;
};
struct CUevent_st {
    CUstream_st *stream; // NULL: not recorded
    double seconds;      // when the work before it was done
};

static cudaError_t last;

static cudaError_t fail(cudaError_t e)
{
    last = e;
    return e;
}

bool standin_fails(const char *call)
{
    static std::map<std::string, int> calls;
    const char *wanted = getenv("STANDIN_FAIL");
    size_t n = strlen(call);
    return wanted && !strncmp(wanted, call, n) && wanted[n] == ':' && ++calls[call] == atoi(wanted + n + 1);
}

/* ---- memory ---- */

static std::map<char *, size_t> device, pinned;

static bool inside(const std::map<char *, size_t> &all, const void *p, size_t bytes)
{
    auto next = all.upper_bound((char *)p);
    if (next == all.begin())
        return false;
    auto &[at, size] = *--next;
    return (char *)p + bytes <= at + size;
}

bool standin_on_device(const void *p, size_t bytes)
{
    return inside(device, p, bytes);
}

#if defined(__SANITIZE_ADDRESS__)
static void *obtain(size_t bytes)
{
    return aligned_alloc(256, (bytes + 255) / 256 * 256);
}
static void release(void *p, size_t)
{
    free(p);
}
static void open_memory(bool)
{
}
#else
static const size_t page = 4096, space = (size_t)4 << 30;
static char *arena;
static size_t used;
static bool open_now;

static void open_memory(bool open)
{
    if (arena && open != open_now)
        mprotect(arena, used, open ? PROT_READ | PROT_WRITE : PROT_NONE);
    open_now = open;
}

/* Addresses are not used twice: what was freed stays closed. */
static void *obtain(size_t bytes)
{
    if (!arena)
        arena = (char *)mmap(nullptr, space, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    bytes = (bytes + 2 * page - 1) / page * page; // a page between neighbours
    if (arena == MAP_FAILED || used + bytes > space)
        return nullptr;
    char *p = arena + used;
    used += bytes;
    return p;
}
static void release(void *p, size_t bytes)
{
    madvise(p, bytes, MADV_DONTNEED);
}
#endif

/* ---- streams ---- */

static void drain(CUstream_st *s)
{
    open_memory(true);
    while (!s->jobs.empty()) {
        work job = std::move(s->jobs.front());
        s->jobs.pop_front();
        job();
    }
    open_memory(false);
}

void standin_submit(cudaStream_t s, work job)
{
    if (s->capture)
        s->capture->jobs.push_back(std::move(job));
    else
        s->jobs.push_back(std::move(job));
}

static CUstream_st *all_streams[16];

static void drain_all()
{
    for (CUstream_st *s : all_streams)
        if (s)
            drain(s);
}

static bool capturing()
{
    for (CUstream_st *s : all_streams)
        if (s && s->capture)
            return true;
    return false;
}

static double now()
{
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

#define CALL(name)                                                                                                     \
    if (standin_fails(name))                                                                                           \
    return fail(cudaErrorUnknown)

extern "C" {

cudaError_t cudaGetLastError(void)
{
    cudaError_t e = last;
    last = cudaSuccess;
    return e;
}
const char *cudaGetErrorName(cudaError_t e)
{
    return e == cudaSuccess                 ? "cudaSuccess"
           : e == cudaErrorMemoryAllocation ? "cudaErrorMemoryAllocation"
                                            : "cudaErrorStandIn";
}
const char *cudaGetErrorString(cudaError_t e)
{
    return e == cudaSuccess ? "no error" : "as the stand-in was told, or by its rules";
}
cudaError_t cudaGetDeviceCount(int *count)
{
    *count = 2;
    return cudaSuccess;
}
cudaError_t cudaSetDevice(int index)
{
    return index >= 0 && index < 2 ? cudaSuccess : fail(cudaErrorInvalidDevice);
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp *p, int)
{
    memset(p, 0, sizeof(*p));
    snprintf(p->name, sizeof(p->name), "emulated GPU");
    p->major = 9;
    return cudaSuccess;
}
cudaError_t cudaDeviceGetStreamPriorityRange(int *least, int *greatest)
{
    *least = 0;
    *greatest = -5;
    return cudaSuccess;
}

cudaError_t cudaMalloc(void **p, size_t bytes)
{
    CALL("cudaMalloc");
    if (capturing())
        return fail(cudaErrorStreamCaptureUnsupported);
    char *memory = (char *)obtain(bytes);
    if (!memory)
        return fail(cudaErrorMemoryAllocation);
    device[memory] = bytes;
    open_memory(true);
    memset(memory, 0xff, bytes);
    open_memory(false);
    *p = memory;
    return cudaSuccess;
}
cudaError_t cudaFree(void *p)
{
    drain_all(); // as the real one, it waits
    auto found = device.find((char *)p);
    if (found == device.end())
        return p ? fail(cudaErrorInvalidValue) : cudaSuccess;
    release(p, found->second);
    device.erase(found);
    return cudaSuccess;
}
cudaError_t cudaMallocHost(void **p, size_t bytes)
{
    CALL("cudaMallocHost");
    *p = malloc(bytes);
    memset(*p, 0xff, bytes);
    pinned[(char *)*p] = bytes;
    return cudaSuccess;
}
cudaError_t cudaFreeHost(void *p)
{
    drain_all();
    if (p && !pinned.erase((char *)p))
        return fail(cudaErrorInvalidValue);
    free(p);
    return cudaSuccess;
}
cudaError_t cudaHostGetDevicePointer(void **p, void *host, unsigned)
{
    *p = host;
    return inside(pinned, host, 1) ? cudaSuccess : fail(cudaErrorInvalidValue);
}

cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, cudaMemcpyKind kind, cudaStream_t s)
{
    CALL("cudaMemcpyAsync");
    bool to_device = standin_on_device(to, bytes), from_device = standin_on_device(from, bytes);
    bool right = kind == cudaMemcpyHostToDevice   ? to_device && inside(pinned, from, bytes)
                 : kind == cudaMemcpyDeviceToHost ? !to_device && from_device
                                                  : to_device && from_device;
    if (!right || (kind == cudaMemcpyDeviceToHost && s->capture)) {
        fprintf(stderr, "stand-in: a copy of %zu bytes that leaves its memory or is of the wrong kind\n", bytes);
        return fail(cudaErrorInvalidValue);
    }
    standin_submit(s, [=] { memcpy(to, from, bytes); });
    return cudaSuccess;
}
cudaError_t cudaMemsetAsync(void *to, int value, size_t bytes, cudaStream_t s)
{
    if (!standin_on_device(to, bytes))
        return fail(cudaErrorInvalidValue);
    standin_submit(s, [=] { memset(to, value, bytes); });
    return cudaSuccess;
}

cudaError_t cudaStreamCreateWithPriority(cudaStream_t *s, unsigned, int)
{
    for (CUstream_st *&place : all_streams)
        if (!place) {
            *s = place = new CUstream_st;
            return cudaSuccess;
        }
    return fail(cudaErrorMemoryAllocation);
}
cudaError_t cudaStreamSynchronize(cudaStream_t s)
{
    CALL("cudaStreamSynchronize");
    if (s->capture)
        return fail(cudaErrorStreamCaptureUnsupported);
    drain(s);
    return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t s)
{
    drain(s);
    for (CUstream_st *&place : all_streams)
        if (place == s)
            place = nullptr;
    delete s;
    return cudaSuccess;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *e, unsigned)
{
    *e = new CUevent_st();
    return cudaSuccess;
}
cudaError_t cudaEventDestroy(cudaEvent_t e)
{
    if (e->stream)
        drain(e->stream);
    delete e;
    return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t e, cudaStream_t s)
{
    e->stream = s;
    if (s->capture)
        return fail(cudaErrorStreamCaptureUnsupported);
    standin_submit(s, [e] { e->seconds = now(); });
    return cudaSuccess;
}
cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t begin, cudaEvent_t end)
{
    *ms = (float)((end->seconds - begin->seconds) * 1e3);
    return begin->stream && end->stream ? cudaSuccess : fail(cudaErrorInvalidResourceHandle);
}
cudaError_t cudaEventSynchronize(cudaEvent_t e)
{
    if (e->stream)
        drain(e->stream); // what came after may run too: the real one allows that
    return cudaSuccess;
}

cudaError_t cudaStreamBeginCapture(cudaStream_t s, cudaStreamCaptureMode)
{
    if (s->capture)
        return fail(cudaErrorIllegalState);
    s->capture = std::make_shared<captured>();
    return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t s, cudaGraph_t *graph)
{
    if (!s->capture)
        return fail(cudaErrorIllegalState);
    *graph = (cudaGraph_t) new std::shared_ptr<captured>(s->capture);
    s->capture.reset();
    return cudaSuccess;
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t *exec, cudaGraph_t graph, unsigned long long)
{
    CALL("cudaGraphInstantiate");
    *exec = (cudaGraphExec_t) new std::shared_ptr<captured>(*(std::shared_ptr<captured> *)graph);
    return cudaSuccess;
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t s)
{
    CALL("cudaGraphLaunch");
    std::shared_ptr<captured> graph = *(std::shared_ptr<captured> *)exec;
    standin_submit(s, [=] {
        for (const work &job : graph->jobs)
            job();
    });
    return cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph)
{
    delete (std::shared_ptr<captured> *)graph;
    return cudaSuccess;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec)
{
    delete (std::shared_ptr<captured> *)exec;
    return cudaSuccess;
}

} // extern "C"
