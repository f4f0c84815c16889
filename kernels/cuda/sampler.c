/* sampler.c: the state of images in flight: starting noise, the rows of a batch, one step of every row. */
#include "kernels/cuda/cuda.h"

#include <errno.h>
#include <string.h>

void cuda_sampler_done(struct device *d)
{
    cuda_free(d, d->bad, d->n_bad);
    cuda_free(d, d->rows, d->n_bad * sizeof(*d->rows));
    cudaFreeHost(d->host_bad);
    d->bad = NULL;
    d->rows = NULL;
    d->host_bad = NULL;
    d->n_bad = 0;
}

static int reserve(struct device *d, size_t n)
{
    if (n <= d->n_bad)
        return 0;
    n = n < 64 ? 64 : 2 * n;
    cuda_sampler_done(d);
    int rc = CUDA(d, cudaMallocHost((void **)&d->host_bad, n), NULL);
    if (rc == 0)
        rc = cuda_alloc(d, n, (void **)&d->bad);
    if (rc == 0 && (rc = cuda_alloc(d, n * sizeof(*d->rows), (void **)&d->rows)) < 0) {
        cuda_free(d, d->bad, n);
        d->bad = NULL;
    }
    if (rc == 0)
        d->n_bad = n;
    return rc;
}

int cuda_fill_noise(struct device *d, float *x, size_t elements, int32_t slot, uint64_t seed, uint64_t image)
{
    int rc = CUDA(d, cudaSetDevice(d->index), NULL); // the first call of a worker's thread may be this one
    return rc ? rc : CUDA(d, gpu_fill_noise(d->stream, x + (size_t)slot * elements, elements, seed, image, 0), NULL);
}

int cuda_gather_rows(struct device *d, const float *x, size_t elements, const int32_t *slots, int n, float *ret_rows)
{
    int rc = reserve(d, (size_t)n);
    if (rc == 0)
        rc = cuda_upload(d, d->rows, slots, (size_t)n * sizeof(*slots)); // rows is free until update_rows
    return rc ? rc : CUDA(d, gpu_gather_rows(d->stream, ret_rows, x, elements, (const int32_t *)d->rows, n), NULL);
}

int cuda_update_rows(struct device *d, float *x, float *l, const float *e, size_t elements,
                     const struct row_update *rows, int n, uint8_t *ret_finite)
{
    size_t count = (size_t)n;
    int rc = reserve(d, count);
    if (rc == 0)
        rc = cuda_upload(d, d->rows, rows, count * sizeof(*rows));
    if (rc == 0)
        rc = CUDA(d, cudaMemsetAsync(d->bad, 0, count, d->stream), NULL);
    if (rc == 0)
        rc = CUDA(d, gpu_update_rows(d->stream, x, l, e, elements, d->rows, n, d->bad), NULL);
    if (rc == 0)
        rc = cuda_download(d, d->host_bad, d->bad, count);
    for (size_t i = 0; i < count && rc == 0; i++)
        ret_finite[i] = !d->host_bad[i];
    return rc;
}
