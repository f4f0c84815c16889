/* optimizer.c: sums and updates over the flat parameter vector, split over threads in fixed chunks, so that no result
 * depends on the number of threads. */
#include "kernels/cpu/cpu.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>

enum { CHUNK = 65536 }; // floats

static size_t n_chunks(size_t n)
{
    return (n + CHUNK - 1) / CHUNK;
}

static size_t chunk_length(size_t n, size_t chunk)
{
    size_t left = n - chunk * CHUNK;
    return left < CHUNK ? left : CHUNK;
}

struct summing {
    const struct device *device;
    float *y;
    float *const *vectors;
    int count;
    size_t n;
};

static void sum_chunk(void *context, size_t i)
{
    const struct summing *s = context;
    s->device->loops->state->sum(s->y, s->vectors, s->count, i * CHUNK, i * CHUNK + chunk_length(s->n, i));
}

int cpu_sum_vectors(struct device *d, float *y, float *const *vectors, int count, size_t n)
{
    struct summing s = {d, y, vectors, count, n};
    cpu_parallel(d->base.n_threads, n_chunks(n), sum_chunk, &s);
    return 0;
}

struct squaring {
    const struct device *device;
    const float *x;
    size_t n;
    double *sums; // [n_chunks]
};

static void square_chunk(void *context, size_t i)
{
    const struct squaring *s = context;
    s->sums[i] = s->device->loops->state->sum_of_squares(s->x + i * CHUNK, chunk_length(s->n, i));
}

int cpu_sum_of_squares(struct device *d, const float *x, size_t n, double *ret_sum)
{
    struct squaring s = {d, x, n, malloc((n_chunks(n) + 1) * sizeof(double))};
    if (!s.sums)
        return -ENOMEM;
    cpu_parallel(d->base.n_threads, n_chunks(n), square_chunk, &s);
    double sum = 0;
    for (size_t i = 0; i < n_chunks(n); i++)
        sum += s.sums[i];
    free(s.sums);
    *ret_sum = sum;
    return 0;
}

struct stepping {
    const struct device *device;
    float *w, *m, *v, *ema;
    const float *g;
    size_t n;
    const struct adamw *o;
    float step_size, inverse_root_correction;
};

static void step_chunk(void *context, size_t i)
{
    const struct stepping *s = context;
    size_t at = i * CHUNK;
    s->device->loops->state->adamw(s->w + at, s->g + at, s->m + at, s->v + at, s->ema ? s->ema + at : NULL,
                                   chunk_length(s->n, i), s->o, s->step_size, s->inverse_root_correction);
}

int cpu_adamw(struct device *d, float *w, const float *g, float *m, float *v, float *ema, size_t n,
              const struct adamw *o)
{
    double correction1 = 1.0 - pow(o->beta1, (double)o->step), correction2 = 1.0 - pow(o->beta2, (double)o->step);
    struct stepping s = {d, w, m, v, ema, g, n, o, (float)(o->lr / correction1), (float)(1.0 / sqrt(correction2))};
    cpu_parallel(d->base.n_threads, n_chunks(n), step_chunk, &s);
    return 0;
}
