/* reduce.cu: sums over pixels and over vectors, in an order that shapes alone fix. */
#include "gpu.cuh"

enum { LANES = 32, ROWS = 8, SEGMENT = 512, SQUARES_THREADS = 256, SQUARES = 65536 };

/* ---- sums over pixels ---- */

/* sum[s][c] = sum of the pixels [s length, (s + 1) length) of n in all; a block for LANES channels of one s. */
template <class Y, class X>
__global__ void sum_segments(Y *sum, size_t sum_pitch, const X *x, size_t x_pitch, size_t length, size_t n, unsigned c)
{
    __shared__ float part[ROWS][LANES];
    unsigned lane = threadIdx.x % LANES, row = threadIdx.x / LANES, channel = blockIdx.x * LANES + lane;
    size_t s = blockIdx.y, first = s * length, last = first + length < n ? first + length : n;
    float total = 0;
    if (channel < c)
        for (size_t p = first + row; p < last; p += ROWS)
            total += widen(x[p * x_pitch + channel]);
    part[row][lane] = total;
    __syncthreads();
    if (row == 0 && channel < c) {
        for (int k = 1; k < ROWS; k++)
            total += part[k][lane];
        narrow(&sum[s * sum_pitch + channel], total);
    }
}

template <class Y, class X>
static void launch_sums(cudaStream_t s, Y *sum, size_t sum_pitch, const X *x, size_t x_pitch, size_t segments,
                        size_t length, size_t n, size_t c)
{
    const size_t most = 32768; // blocks along y
    for (size_t first = 0; first < segments; first += most) {
        size_t count = segments - first < most ? segments - first : most;
        dim3 grid(blocks_for(c, LANES), (unsigned)count);
        LAUNCH((sum_segments<Y, X>), grid, LANES * ROWS, 0, s, sum + first * sum_pitch, sum_pitch,
               x + first * length * x_pitch, x_pitch, length, n - first * length, (unsigned)c);
    }
}

static size_t segments_of(size_t pixels)
{
    return pixels <= 2 * SEGMENT ? 1 : (pixels + SEGMENT - 1) / SEGMENT;
}

size_t gpu_sum_pixels_scratch(size_t pixels, size_t c)
{
    size_t segments = segments_of(pixels);
    return segments == 1 ? 0 : (segments + segments_of(segments)) * c;
}

/* Images one after the other where an image has many segments: then there are few images. */
cudaError_t gpu_sum_pixels(cudaStream_t s, struct gpu_pixels sum, struct gpu_pixels x, size_t images, size_t pixels,
                           size_t c, float *scratch)
{
    size_t segments = segments_of(pixels);
    DISPATCH(sum.dtype, Y, DISPATCH(x.dtype, X, {
                 Y *to = (Y *)sum.at;
                 const X *from = (const X *)x.at;
                 if (segments == 1) {
                     launch_sums(s, to, sum.pitch, from, x.pitch, images, pixels, images * pixels, c);
                 } else {
                     for (size_t i = 0; i < images; i++) {
                         launch_sums(s, scratch, c, from + i * pixels * x.pitch, x.pitch, segments, (size_t)SEGMENT,
                                     pixels, c);
                         size_t left = segments;
                         float *part = scratch;
                         if (segments_of(left) > 1) {
                             float *next = scratch + segments * c;
                             launch_sums(s, next, c, part, c, segments_of(left), (size_t)SEGMENT, left, c);
                             left = segments_of(left);
                             part = next;
                         }
                         launch_sums(s, to + i * sum.pitch, sum.pitch, part, c, 1, left, left, c);
                     }
                 }
             }));
    return cudaGetLastError();
}

/* ---- loss ---- */

template <class T>
__global__ void mse(float *loss, const T *a, size_t a_pitch, const T *b, size_t b_pitch, size_t pixels, unsigned c)
{
    __shared__ float part[SQUARES_THREADS];
    size_t first = (size_t)blockIdx.x * pixels, n = pixels * c;
    float total = 0;
    for (size_t i = threadIdx.x; i < n; i += blockDim.x) {
        size_t p = first + i / c, k = i % c;
        float d = widen(a[p * a_pitch + k]) - widen(b[p * b_pitch + k]);
        total += d * d;
    }
    total = block_sum(total, part);
    if (threadIdx.x == 0)
        loss[blockIdx.x] = total / (float)n;
}

cudaError_t gpu_mse(cudaStream_t s, float *loss, struct gpu_pixels a, struct gpu_pixels b, size_t images, size_t pixels,
                    size_t c)
{
    DISPATCH(a.dtype, T,
             LAUNCH((mse<T>), (unsigned)images, SQUARES_THREADS, 0, s, loss, (const T *)a.at, a.pitch, (const T *)b.at,
                    b.pitch, pixels, (unsigned)c));
    return cudaGetLastError();
}

template <class T>
__global__ void mse_gradient(T *da, size_t da_pitch, const T *a, size_t a_pitch, const T *b, size_t b_pitch,
                             const float *weight, size_t pixels, size_t n, unsigned c)
{
    size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n * c)
        return;
    size_t p = i / c, k = i % c;
    float factor = 2.0f * weight[p / pixels] / (float)(pixels * c);
    narrow(&da[p * da_pitch + k], (widen(a[p * a_pitch + k]) - widen(b[p * b_pitch + k])) * factor);
}

cudaError_t gpu_mse_backward(cudaStream_t s, struct gpu_pixels da, struct gpu_pixels a, struct gpu_pixels b,
                             const float *weight, size_t images, size_t pixels, size_t c)
{
    size_t n = images * pixels;
    DISPATCH(da.dtype, T,
             LAUNCH((mse_gradient<T>), blocks_for(n * c, 256), 256, 0, s, (T *)da.at, da.pitch, (const T *)a.at,
                    a.pitch, (const T *)b.at, b.pitch, weight, pixels, n, (unsigned)c));
    return cudaGetLastError();
}

/* ---- the norm of a long vector ---- */

__global__ void square_sums(const float *x, size_t n, double *sums)
{
    __shared__ float part[SQUARES_THREADS];
    size_t first = (size_t)blockIdx.x * SQUARES, last = first + SQUARES < n ? first + SQUARES : n;
    float total = 0;
    for (size_t i = first + threadIdx.x; i < last; i += blockDim.x)
        total += x[i] * x[i];
    total = block_sum(total, part);
    if (threadIdx.x == 0)
        sums[blockIdx.x] = total;
}

size_t gpu_n_square_sums(size_t n)
{
    return (n + SQUARES - 1) / SQUARES;
}

cudaError_t gpu_square_sums(cudaStream_t s, const float *x, size_t n, double *sums)
{
    LAUNCH(square_sums, (unsigned)gpu_n_square_sums(n), SQUARES_THREADS, 0, s, x, n, sums);
    return cudaGetLastError();
}
