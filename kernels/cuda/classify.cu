/* classify.cu: pooling windows, means over images, cross-entropy: a thread for each element of the result, or for each
 * image.
 */
#include "gpu.cuh"

enum { THREADS = 256 };

/* ---- pooling ---- */

template <class T>
__global__ void pool(T *y, size_t y_pitch, const T *x, size_t x_pitch, const __grid_constant__ struct gpu_pool s)
{
    size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x, at = i / s.c, c = i % s.c;
    if (at >= s.images * s.p * s.q)
        return;
    int64_t row = (int64_t)(at / s.q % s.p) * s.stride - s.padding, column = (int64_t)(at % s.q) * s.stride - s.padding;
    const T *image = x + at / (s.p * s.q) * s.h * s.w * x_pitch + c;
    float most = -INFINITY, sum = 0;
    int count = 0;
    for (int64_t r = row < 0 ? 0 : row; r < row + s.window && r < (int64_t)s.h; r++)
        for (int64_t k = column < 0 ? 0 : column; k < column + s.window && k < (int64_t)s.w; k++) {
            float v = widen(image[(r * (int64_t)s.w + k) * (int64_t)x_pitch]);
            most = v > most || v != v ? v : most;
            sum += v;
            count++;
        }
    narrow(&y[at * y_pitch + c], s.max ? most : sum / (float)count);
}

cudaError_t gpu_pool(cudaStream_t s, struct gpu_pixels y, struct gpu_pixels x, const struct gpu_pool *p)
{
    size_t n = p->images * p->p * p->q * p->c;
    DISPATCH(
        y.dtype, T,
        LAUNCH((pool<T>), blocks_for(n, THREADS), THREADS, 0, s, (T *)y.at, y.pitch, (const T *)x.at, x.pitch, *p));
    return cudaGetLastError();
}

/* ---- means over images ---- */

template <class T>
__global__ void global_mean(T *y, size_t y_pitch, const T *x, size_t x_pitch, size_t images, size_t pixels, unsigned c)
{
    size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x, image = i / c;
    if (image >= images)
        return;
    float sum = 0;
    for (size_t p = 0; p < pixels; p++)
        sum += widen(x[(image * pixels + p) * x_pitch + i % c]);
    narrow(&y[image * y_pitch + i % c], sum / (float)pixels);
}

cudaError_t gpu_global_mean(cudaStream_t s, struct gpu_pixels y, struct gpu_pixels x, size_t images, size_t pixels,
                            size_t c)
{
    DISPATCH(y.dtype, T,
             LAUNCH((global_mean<T>), blocks_for(images * c, THREADS), THREADS, 0, s, (T *)y.at, y.pitch,
                    (const T *)x.at, x.pitch, images, pixels, (unsigned)c));
    return cudaGetLastError();
}

template <class T>
__global__ void global_mean_gradient(T *dx, size_t dx_pitch, const T *dy, size_t dy_pitch, size_t n, size_t pixels,
                                     unsigned c)
{
    size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x, p = i / c;
    if (p < n)
        narrow(&dx[p * dx_pitch + i % c], widen(dy[p / pixels * dy_pitch + i % c]) / (float)pixels);
}

cudaError_t gpu_global_mean_backward(cudaStream_t s, struct gpu_pixels dx, struct gpu_pixels dy, size_t images,
                                     size_t pixels, size_t c)
{
    size_t n = images * pixels;
    DISPATCH(dx.dtype, T,
             LAUNCH((global_mean_gradient<T>), blocks_for(n * c, THREADS), THREADS, 0, s, (T *)dx.at, dx.pitch,
                    (const T *)dy.at, dy.pitch, n, pixels, (unsigned)c));
    return cudaGetLastError();
}

/* ---- cross-entropy: a thread for an image, of few classes ---- */

__global__ void cross_entropy(float *loss, float *dx, size_t dx_pitch, const float *x, size_t x_pitch,
                              const int32_t *label, const float *weight, size_t images, int c)
{
    size_t image = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (image >= images)
        return;
    const float *row = x + image * x_pitch;
    int right = label[image] < 0 ? 0 : label[image] < c ? label[image] : c - 1;
    float most = row[0], total = 0;
    for (int i = 1; i < c; i++)
        most = fmaxf(most, row[i]);
    for (int i = 0; i < c; i++)
        total += expf(row[i] - most);
    if (!dx) {
        loss[image] = most + logf(total) - row[right];
        return;
    }
    for (int i = 0; i < c; i++)
        dx[image * dx_pitch + i] = (expf(row[i] - most) / total - (i == right ? 1.0f : 0.0f)) * weight[image];
}

cudaError_t gpu_cross_entropy(cudaStream_t s, float *loss, struct gpu_pixels dx, struct gpu_pixels x,
                              const int32_t *label, const float *weight, size_t images, size_t c)
{
    LAUNCH(cross_entropy, blocks_for(images, THREADS), THREADS, 0, s, loss, (float *)dx.at, dx.pitch,
           (const float *)x.at, x.pitch, label, weight, images, (int)c);
    return cudaGetLastError();
}
