/* optimizer.c: sums and updates over the flat parameter vector, one launch each. */
#include "kernels/cuda/cuda.h"

#include <math.h>

void cuda_optimizer_done(struct device *d)
{
    cudaFreeHost(d->square_sums);
    d->square_sums = NULL;
    d->n_square_sums = 0;
}

/* y = v0 + v1, then y += v2 ...: with y as the first vector or none of them, which is all that backend.h allows. */
int cuda_sum_vectors(struct device *d, float *y, float *const *vectors, int count, size_t n)
{
    int rc = CUDA(d, gpu_sum_two(d->stream, y, vectors[0], count > 1 ? vectors[1] : NULL, n), NULL);
    for (int i = 2; i < count && rc == 0; i++)
        rc = CUDA(d, gpu_sum_two(d->stream, y, y, vectors[i], n), NULL);
    return rc;
}

/* The chunks' sums go straight to pinned memory, which the device writes through the bus. */
int cuda_sum_of_squares(struct device *d, const float *x, size_t n, double *ret_sum)
{
    size_t count = gpu_n_square_sums(n);
    int rc = 0;
    if (count > d->n_square_sums) {
        cuda_optimizer_done(d);
        rc = CUDA(d, cudaMallocHost((void **)&d->square_sums, count * sizeof(double)), NULL);
        if (rc)
            return rc;
        d->n_square_sums = count;
    }
    void *device_side;
    rc = CUDA(d, cudaHostGetDevicePointer(&device_side, d->square_sums, 0), NULL);
    if (rc == 0)
        rc = CUDA(d, gpu_square_sums(d->stream, x, n, device_side), NULL);
    if (rc == 0)
        rc = CUDA(d, cudaStreamSynchronize(d->stream), NULL);
    if (rc)
        return rc;
    double sum = 0;
    for (size_t i = 0; i < count; i++)
        sum += d->square_sums[i];
    *ret_sum = sum;
    return 0;
}

int cuda_adamw(struct device *d, float *w, const float *g, float *m, float *v, float *ema, size_t n,
               const struct adamw *o)
{
    double correction1 = 1.0 - pow(o->beta1, (double)o->step), correction2 = 1.0 - pow(o->beta2, (double)o->step);
    return CUDA(
        d, gpu_adamw(d->stream, w, g, m, v, ema, n, o, (float)(o->lr / correction1), (float)(1.0 / sqrt(correction2))),
        NULL);
}
