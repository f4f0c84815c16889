/* embed.cu: embeddings of classes and timesteps, and dropout. */
#define PHILOX_FUNCTION static __device__ __forceinline__
#include "gpu.cuh"
#include "kernels/philox.h"

enum { THREADS = 256 };

/* ---- classes ---- */

static __device__ __forceinline__ size_t clamp_index(int32_t index, size_t rows)
{
    return index < 0 ? 0 : (size_t)index < rows ? (size_t)index : rows - 1;
}

template <class Y, class T>
__global__ void embedding(Y *y, size_t y_pitch, const T *table, const int32_t *index, size_t n, size_t rows, unsigned c)
{
    size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n * c)
        narrow(&y[i / c * y_pitch + i % c], widen(table[clamp_index(index[i / c], rows) * c + i % c]));
}

cudaError_t gpu_embedding(cudaStream_t s, struct gpu_pixels y, struct gpu_pixels table, const int32_t *index,
                          size_t images, size_t rows, size_t c)
{
    DISPATCH(y.dtype, Y,
             DISPATCH(table.dtype, T,
                      LAUNCH((embedding<Y, T>), blocks_for(images * c, THREADS), THREADS, 0, s, (Y *)y.at, y.pitch,
                             (const T *)table.at, index, images, rows, (unsigned)c)));
    return cudaGetLastError();
}

/* A thread adds up one element of the table, over the images in their order. */
template <class T>
__global__ void embedding_gradient(float *dtable, const T *dy, size_t dy_pitch, const int32_t *index, size_t n,
                                   size_t rows, unsigned c)
{
    size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x, row = i / c;
    if (row >= rows)
        return;
    float total = 0;
    for (size_t image = 0; image < n; image++)
        if (clamp_index(index[image], rows) == row)
            total += widen(dy[image * dy_pitch + i % c]);
    dtable[i] = total;
}

cudaError_t gpu_embedding_backward(cudaStream_t s, float *dtable, struct gpu_pixels dy, const int32_t *index,
                                   size_t images, size_t rows, size_t c)
{
    DISPATCH(dy.dtype, T,
             LAUNCH((embedding_gradient<T>), blocks_for(rows * c, THREADS), THREADS, 0, s, dtable, (const T *)dy.at,
                    dy.pitch, index, images, rows, (unsigned)c));
    return cudaGetLastError();
}

/* ---- timesteps ---- */

template <class Y>
__global__ void timestep_embedding(Y *y, size_t y_pitch, const float *t, const float *frequency, size_t n,
                                   unsigned half)
{
    size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n * half)
        return;
    float angle = t[i / half] * frequency[i % half];
    Y *row = y + i / half * y_pitch;
    narrow(&row[i % half], cosf(angle));
    narrow(&row[half + i % half], sinf(angle));
}

cudaError_t gpu_timestep_embedding(cudaStream_t s, struct gpu_pixels y, const float *t, const float *frequency,
                                   size_t images, size_t half)
{
    DISPATCH(y.dtype, Y,
             LAUNCH((timestep_embedding<Y>), blocks_for(images * half, THREADS), THREADS, 0, s, (Y *)y.at, y.pitch, t,
                    frequency, images, (unsigned)half));
    return cudaGetLastError();
}

/* ---- dropout: a thread for the four elements of one Philox block, 16 apart ---- */

template <class T>
__global__ void dropout(T *y, size_t y_pitch, const T *x, size_t x_pitch, const uint32_t *key, size_t images,
                        size_t pixels, unsigned c, uint32_t stream, float rate)
{
    size_t elements = pixels * c, blocks = (elements + 63) / 64 * 16;
    size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x, image = i / blocks, block = i % blocks;
    if (image >= images)
        return;
    key += 4 * image;
    struct philox_block r = philox4x32_10(key[0] | (uint64_t)key[1] << 32, (uint32_t)block, key[2], key[3], stream);
    float scale = 1.0f / (1.0f - rate);
    for (unsigned k = 0; k < 4; k++) {
        size_t e = block / 16 * 64 + 16 * k + block % 16;
        if (e >= elements)
            return;
        size_t p = image * pixels + e / c;
        bool kept = philox_uniform(r.v[k]) >= rate; // what is dropped is 0 even where x is infinite
        narrow(&y[p * y_pitch + e % c], kept ? widen(x[p * x_pitch + e % c]) * scale : 0.0f);
    }
}

cudaError_t gpu_dropout(cudaStream_t s, struct gpu_pixels y, struct gpu_pixels x, const uint32_t *key, size_t images,
                        size_t pixels, size_t c, uint32_t stream, float rate)
{
    size_t blocks = (pixels * c + 63) / 64 * 16;
    DISPATCH(y.dtype, T,
             LAUNCH((dropout<T>), blocks_for(images * blocks, THREADS), THREADS, 0, s, (T *)y.at, y.pitch,
                    (const T *)x.at, x.pitch, key, images, pixels, (unsigned)c, stream, rate));
    return cudaGetLastError();
}
