/* emulation.h: runs the kernels of kernels/cuda on the host, for tests on machines without a GPU (x86-64).
 *
 * A block's threads are fibers on one thread of the host that change over at __syncthreads(); blocks run one after the
 * other. EMULATION_ORDER=forward|backward|NUMBER says in which order the threads of a block run between barriers, so
 * that a missing barrier gives wrong results in one of them; under the thread sanitizer it is reported as a race, and
 * under the address sanitizer an access outside an allocation is. Threads that wait at different barriers end the
 * program. Dynamic shared memory starts as NaN.
 *
 * Not here: warp operations, tensor cores, asynchronous copies, clusters, limits of registers and shared memory. Bits
 * differ from a GPU's where expf() and the like do.
 */
#ifndef DDIMD_TESTS_CUDA_EMULATION_H
#define DDIMD_TESTS_CUDA_EMULATION_H

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <numeric>
#include <random>
#include <vector>

#include <sys/mman.h>

#include <cuda_runtime_api.h>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif
#if defined(__SANITIZE_THREAD__)
#include <sanitizer/tsan_interface.h>
#endif

#undef __global__
#undef __device__
#undef __host__
#undef __shared__
#undef __forceinline__
#undef __launch_bounds__
#undef __grid_constant__
#define __global__ static
#define __device__
#define __host__
#define __shared__ static thread_local
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__

/* The stand-in's runtime: enqueues work on a stream. */
void standin_submit(cudaStream_t s, std::function<void()> work);

#if defined(__SANITIZE_THREAD__)
#define EMULATION_UNSEEN __attribute__((no_sanitize("thread"), noinline))
#else
#define EMULATION_UNSEEN
#endif

/* Saves the callee's registers on this stack, leaves its pointer in *from and goes on where `to` was left. */
extern "C" void emulation_switch(void **from, void *to);
asm(R"(
.pushsection .text
.weak emulation_switch
.type emulation_switch, @function
emulation_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.size emulation_switch, . - emulation_switch
.popsection
)");

namespace emulation
{

enum state { READY, WAITING, DONE };
constexpr size_t stack_bytes = 128 << 10;

struct fiber {
    void *sp, *stack, *sanitizer;
    uint3 index;
    enum state state;
    int line; // of the barrier it waits at
};

/* The block that runs on this thread of the host. */
struct block {
    std::vector<fiber> fibers;
    std::vector<unsigned> order;
    fiber *current;
    void *scheduler_sp, *scheduler_sanitizer;
    const std::function<void()> *body;
    dim3 size, grid;
    uint3 index;
    std::vector<float> shared;
    char barrier; // its address stands for the barrier, for the thread sanitizer
};
inline thread_local block *running;

EMULATION_UNSEEN inline void leave(fiber *me)
{
    block &b = *running;
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(me->state == DONE ? nullptr : &me->sanitizer, nullptr, 0);
#endif
#if defined(__SANITIZE_THREAD__)
    __tsan_switch_to_fiber(b.scheduler_sanitizer, __tsan_switch_to_fiber_no_sync);
#endif
    emulation_switch(&me->sp, b.scheduler_sp);
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(me->sanitizer, nullptr, nullptr);
#endif
}

EMULATION_UNSEEN inline void enter(fiber *f)
{
    block &b = *running;
    b.current = f;
#if defined(__SANITIZE_ADDRESS__)
    void *mine;
    __sanitizer_start_switch_fiber(&mine, f->stack, stack_bytes);
#endif
#if defined(__SANITIZE_THREAD__)
    __tsan_switch_to_fiber(f->sanitizer, __tsan_switch_to_fiber_no_sync);
#endif
    emulation_switch(&b.scheduler_sp, f->sp);
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(mine, nullptr, nullptr);
#endif
}

EMULATION_UNSEEN inline void fiber_main()
{
    fiber *me = running->current;
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(nullptr, nullptr, nullptr);
#endif
#if defined(__SANITIZE_THREAD__)
    __tsan_acquire(&running->barrier); // what came before the launch is seen by every thread
#endif
    (*running->body)();
#if defined(__SANITIZE_THREAD__)
    __tsan_release(&running->barrier);
#endif
    me->state = DONE;
    leave(me);
    abort();
}

EMULATION_UNSEEN inline void prepare(fiber *f, unsigned i, const dim3 &size)
{
    if (!f->stack) {
        f->stack =
            mmap(nullptr, stack_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (f->stack == MAP_FAILED)
            abort();
#if defined(__SANITIZE_THREAD__)
        f->sanitizer = __tsan_create_fiber(0);
#endif
    }
    f->state = READY;
    f->line = 0;
    f->index = {i % size.x, i / size.x % size.y, i / (size.x * size.y)};
    void **sp = (void **)((char *)f->stack + stack_bytes);
    *--sp = nullptr; // keeps the stack aligned as after a call
    *--sp = (void *)fiber_main;
    for (int r = 0; r < 6; r++)
        *--sp = nullptr;
    f->sp = sp;
}

[[noreturn]] inline void fail(const block &b, const char *why)
{
    fprintf(stderr, "emulation: block (%u, %u, %u): %s\n", b.index.x, b.index.y, b.index.z, why);
    abort();
}

/* Whether the block goes on: all threads that live wait at one barrier, which then opens. */
inline bool open_barrier(block &b)
{
    int line = 0;
    for (unsigned i : b.order) {
        fiber &f = b.fibers[i];
        if (f.state == DONE)
            continue;
        if (line && f.line != line)
            fail(b, "threads wait at different barriers");
        line = f.line;
        f.state = READY;
    }
    return line != 0;
}

EMULATION_UNSEEN inline void run_block(block &b)
{
    for (unsigned i : b.order)
        prepare(&b.fibers[i], i, b.size);
#if defined(__SANITIZE_THREAD__)
    b.scheduler_sanitizer = __tsan_get_current_fiber();
    __tsan_release(&b.barrier);
#endif
    do {
        for (unsigned i : b.order)
            if (b.fibers[i].state == READY)
                enter(&b.fibers[i]);
    } while (open_barrier(b));
#if defined(__SANITIZE_THREAD__)
    __tsan_acquire(&b.barrier);
#endif
}

inline void set_order(block &b, unsigned n)
{
    const char *order = getenv("EMULATION_ORDER");
    b.order.resize(n);
    std::iota(b.order.begin(), b.order.end(), 0u);
    if (order && !strcmp(order, "backward"))
        std::reverse(b.order.begin(), b.order.end());
    else if (order && strcmp(order, "forward"))
        std::shuffle(b.order.begin(), b.order.end(), std::mt19937((unsigned)atoi(order)));
}

inline void run_grid(const dim3 &grid, const dim3 &size, size_t shared_bytes, const std::function<void()> &body)
{
    static thread_local block mine;
    block &b = mine;
    unsigned n = size.x * size.y * size.z;
    running = &b;
    b.size = size;
    b.grid = grid;
    b.body = &body;
    if (!n || n > 1024 || !grid.x || grid.y - 1 > 65534 || grid.z - 1 > 65534 || shared_bytes > 48 << 10)
        fail(b, "a launch that no GPU takes");
    if (b.fibers.size() < n)
        b.fibers.resize(n);
    set_order(b, n);
    for (unsigned z = 0; z < grid.z; z++)
        for (unsigned y = 0; y < grid.y; y++)
            for (unsigned x = 0; x < grid.x; x++) {
                b.index = {x, y, z};
                b.shared.assign(shared_bytes / sizeof(float) + 4, NAN);
                run_block(b);
            }
}

/* Arguments are copied at the launch, as a GPU's are. */
template <class... P, class... A>
void launch(void (*kernel)(P...), dim3 grid, dim3 size, size_t shared_bytes, cudaStream_t stream, A... arguments)
{
    standin_submit(stream, [=] { run_grid(grid, size, shared_bytes, [&] { kernel(arguments...); }); });
}

EMULATION_UNSEEN inline void wait_at(int line)
{
    fiber *me = running->current;
    me->line = line;
    me->state = WAITING;
#if defined(__SANITIZE_THREAD__)
    __tsan_release(&running->barrier);
#endif
    leave(me);
#if defined(__SANITIZE_THREAD__)
    __tsan_acquire(&running->barrier);
#endif
}

EMULATION_UNSEEN inline const uint3 &thread_index()
{
    return running->current->index;
}

EMULATION_UNSEEN inline void *shared_memory()
{
    return (void *)(((uintptr_t)running->shared.data() + 15) / 16 * 16);
}

} // namespace emulation

#define threadIdx (emulation::thread_index())
#define blockIdx (emulation::running->index)
#define blockDim (emulation::running->size)
#define gridDim (emulation::running->grid)
#define LAUNCH(kernel, grid, block, shared, stream, ...)                                                               \
    emulation::launch((kernel), (grid), (block), (shared), (stream), __VA_ARGS__)
#define SHARED(type, name) type *name = (type *)emulation::shared_memory()

static inline void __syncthreads(int line = __builtin_LINE())
{
    emulation::wait_at(line);
}

/* To nearest, ties to even, as the hardware rounds. */
struct bf16 {
    uint16_t bits;
};
static inline float widen(bf16 x)
{
    uint32_t bits = (uint32_t)x.bits << 16;
    float f;
    memcpy(&f, &bits, sizeof(f));
    return f;
}
static inline void narrow(bf16 *y, float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof(bits));
    y->bits = x != x ? 0x7fff : (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

#endif
