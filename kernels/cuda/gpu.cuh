/* gpu.cuh: what every kernel source includes: CUDA under nvcc, its emulation (tests/cuda/emulation.h) under a C++
 * compiler for the host.
 *
 * Kernels are launched with LAUNCH (a template in brackets), take dynamic shared memory with SHARED, load and store
 * elements through the functions below, and compute in f32. What depends on a dtype is a template; DISPATCH picks.
 */
#ifndef DDIMD_CUDA_GPU_CUH
#define DDIMD_CUDA_GPU_CUH

#ifdef __CUDACC__
#include <cuda_bf16.h>
#include <cuda_runtime.h>
typedef __nv_bfloat16 bf16;
#define LAUNCH(kernel, grid, block, shared, stream, ...) (kernel)<<<(grid), (block), (shared), (stream)>>>(__VA_ARGS__)
#define SHARED(type, name)                                                                                             \
    extern __shared__ __align__(16) unsigned char shared_bytes[];                                                      \
    type *name = reinterpret_cast<type *>(shared_bytes)
static __device__ __forceinline__ float widen(bf16 x)
{
    return __bfloat162float(x);
}
static __device__ __forceinline__ void narrow(bf16 *y, float x)
{
    *y = __float2bfloat16_rn(x);
}
#else
#include "emulation.h"
#endif

#include "kernels/cuda/launch.h"

static __device__ __forceinline__ float widen(float x)
{
    return x;
}
static __device__ __forceinline__ void narrow(float *y, float x)
{
    *y = x;
}

/* V neighbouring elements, moved with one instruction. */
template <class T, int V> struct alignas(sizeof(T) * V) pack {
    T at[V];
};

template <class T, int V> static __device__ __forceinline__ pack<T, V> load(const T *p)
{
    return *reinterpret_cast<const pack<T, V> *>(p);
}

template <class T, int V> static __device__ __forceinline__ void store(T *p, const pack<T, V> &v)
{
    *reinterpret_cast<pack<T, V> *>(p) = v;
}

static __device__ __forceinline__ float sigmoid(float x)
{
    return 1.0f / (1.0f + expf(-x));
}

/* The sum of v over a block of a power of two of threads, in all of them; part: shared, one float per thread. The order
 * of additions depends on the size of the block alone. */
static __device__ __forceinline__ float block_sum(float v, float *part)
{
    unsigned i = threadIdx.x;
    part[i] = v;
    __syncthreads();
    for (unsigned half = blockDim.x / 2; half; half /= 2) {
        if (i < half)
            part[i] += part[i + half];
        __syncthreads();
    }
    v = part[0];
    __syncthreads();
    return v;
}

static __device__ __forceinline__ float block_max(float v, float *part)
{
    unsigned i = threadIdx.x;
    part[i] = v;
    __syncthreads();
    for (unsigned half = blockDim.x / 2; half; half /= 2) {
        if (i < half)
            part[i] = fmaxf(part[i], part[i + half]);
        __syncthreads();
    }
    v = part[0];
    __syncthreads();
    return v;
}

/* Runs the statement with T as the type of dtype. */
#define DISPATCH(dtype, T, ...)                                                                                        \
    do {                                                                                                               \
        if ((dtype) == DTYPE_BF16) {                                                                                   \
            typedef bf16 T;                                                                                            \
            __VA_ARGS__;                                                                                               \
        } else {                                                                                                       \
            typedef float T;                                                                                           \
            __VA_ARGS__;                                                                                               \
        }                                                                                                              \
    } while (0)

/* Blocks of `threads` for n items, one each; kernels with more than 2^31 - 1 blocks are not launched. */
static inline unsigned blocks_for(size_t n, unsigned threads)
{
    return (unsigned)((n + threads - 1) / threads);
}

#endif
