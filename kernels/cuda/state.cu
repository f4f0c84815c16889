/* state.cu: the sampler's state and the optimiser's, over flat f32 vectors. */
#define PHILOX_FUNCTION static __device__ __forceinline__
#include "gpu.cuh"
#include "kernels/philox.h"
#include "kernels/philox_normal.h"

enum { THREADS = 256 };

/* The four normals of a block, with the bits of philox_normal(). */
static __device__ __forceinline__ void normals(float z[4], uint32_t block, uint64_t seed, uint64_t image, uint32_t draw)
{
    struct philox_block r = philox4x32_10(seed, block, draw, (uint32_t)image, (uint32_t)(image >> 32));
    for (int i = 0; i < 4; i += 2) {
        float c, s, size = philox_radius(r.v[i] >> 8 << 1 | 1);
        philox_cos_sin(r.v[i + 1] >> 8 << 1 | 1, &c, &s);
        z[i] = size * c;
        z[i + 1] = size * s;
    }
}

__global__ void fill_noise(float *x, size_t elements, uint64_t seed, uint64_t image, uint32_t draw)
{
    size_t block = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (4 * block >= elements)
        return;
    float z[4];
    normals(z, (uint32_t)block, seed, image, draw);
    for (size_t i = 0; i < 4 && 4 * block + i < elements; i++)
        x[4 * block + i] = z[i];
}

cudaError_t gpu_fill_noise(cudaStream_t s, float *x, size_t elements, uint64_t seed, uint64_t image, uint32_t draw)
{
    LAUNCH(fill_noise, blocks_for((elements + 3) / 4, THREADS), THREADS, 0, s, x, elements, seed, image, draw);
    return cudaGetLastError();
}

__global__ void gather_rows(float *rows, const float *x, size_t elements, const int32_t *slots)
{
    size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < elements)
        rows[blockIdx.y * elements + i] = x[(size_t)slots[blockIdx.y] * elements + i];
}

cudaError_t gpu_gather_rows(cudaStream_t s, float *rows, const float *x, size_t elements, const int32_t *slots, int n)
{
    dim3 grid(blocks_for(elements, THREADS), (unsigned)n);
    LAUNCH(gather_rows, grid, THREADS, 0, s, rows, x, elements, slots);
    return cudaGetLastError();
}

/* A thread for the four elements of one Philox block. */
__global__ void update_rows(float *x, float *l, const float *e, size_t elements, const struct row_update *rows,
                            uint8_t *bad)
{
    const struct row_update r = rows[blockIdx.y];
    size_t first = 4 * ((size_t)blockIdx.x * blockDim.x + threadIdx.x);
    if (first >= elements)
        return;
    float z[4] = {0, 0, 0, 0};
    if (r.s != 0.0f)
        normals(z, (uint32_t)(first / 4), r.seed, r.image, r.draw);
    for (size_t i = first; i < first + 4 && i < elements; i++) {
        size_t at = (size_t)r.slot * elements + i;
        float xi = x[at], ei = e[(size_t)r.row_cond * elements + i];
        if (r.row_uncond >= 0) {
            float u = e[(size_t)r.row_uncond * elements + i];
            ei = u + r.guidance * (ei - u);
        }
        float x0 = (xi - r.sigma * ei) / r.alpha;
        if (r.clip) {
            x0 = x0 > 1.0f ? 1.0f : x0 < -1.0f ? -1.0f : x0; // NaN stays NaN
            ei = (xi - r.alpha * x0) / r.sigma;
        }
        float next =
            r.a * xi + r.b * ei + (r.c != 0.0f ? r.c * l[at] : 0.0f) + (r.s != 0.0f ? r.s * z[i - first] : 0.0f);
        if (!(next - next == 0.0f)) // NaN or infinite
            bad[blockIdx.y] = 1;
        x[at] = next;
        l[at] = x0;
    }
}

cudaError_t gpu_update_rows(cudaStream_t s, float *x, float *l, const float *e, size_t elements,
                            const struct row_update *rows, int n, uint8_t *bad)
{
    dim3 grid(blocks_for((elements + 3) / 4, THREADS), (unsigned)n);
    LAUNCH(update_rows, grid, THREADS, 0, s, x, l, e, elements, rows, bad);
    return cudaGetLastError();
}

/* ---- flat vectors ---- */

__global__ void sum_two(float *y, const float *a, const float *b, size_t n)
{
    size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n)
        y[i] = b ? a[i] + b[i] : a[i];
}

cudaError_t gpu_sum_two(cudaStream_t s, float *y, const float *a, const float *b, size_t n)
{
    LAUNCH(sum_two, blocks_for(n, THREADS), THREADS, 0, s, y, a, b, n);
    return cudaGetLastError();
}

/* PyTorch's order: decay, moments, step. */
__global__ void adamw(float *w, const float *g, float *m, float *v, float *ema, size_t n, struct adamw o,
                      float step_size, float inverse_root_correction)
{
    size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n)
        return;
    float gi = g[i] * o.scale, mi = m[i], vi = v[i], x = w[i] * (1.0f - o.lr * o.weight_decay);
    mi += (gi - mi) * (1.0f - o.beta1);
    vi = vi * o.beta2 + gi * gi * (1.0f - o.beta2);
    x -= step_size * mi / (sqrtf(vi) * inverse_root_correction + o.eps);
    m[i] = mi;
    v[i] = vi;
    w[i] = x;
    if (ema)
        ema[i] = ema[i] * o.ema_decay + x * (1.0f - o.ema_decay);
}

cudaError_t gpu_adamw(cudaStream_t s, float *w, const float *g, float *m, float *v, float *ema, size_t n,
                      const struct adamw *o, float step_size, float inverse_root_correction)
{
    LAUNCH(adamw, blocks_for(n, THREADS), THREADS, 0, s, w, g, m, v, ema, n, *o, step_size, inverse_root_correction);
    return cudaGetLastError();
}
