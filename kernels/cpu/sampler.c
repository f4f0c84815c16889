/* sampler.c: the state of images in flight: starting noise, the rows of a batch, one step of every row. */
#include "kernels/cpu/cpu.h"
#include "kernels/philox.h"

#include <omp.h>
#include <string.h>

int cpu_fill_noise(struct device *d, float *x, size_t elements, int32_t slot, uint64_t seed, uint64_t image)
{
    philox_normal(x + (size_t)slot * elements, elements, seed, image, 0);
    return 0;
}

struct gathering {
    const float *x;
    size_t elements;
    const int32_t *slots;
    float *rows;
};

static void gather_row(void *context, size_t i)
{
    const struct gathering *g = context;
    memcpy(g->rows + i * g->elements, g->x + (size_t)g->slots[i] * g->elements, g->elements * sizeof(float));
}

int cpu_gather_rows(struct device *d, const float *x, size_t elements, const int32_t *slots, int n, float *ret_rows)
{
    struct gathering g = {x, elements, slots, ret_rows};
    cpu_parallel(d->base.n_threads, (size_t)n, gather_row, &g);
    return 0;
}

struct updating {
    const struct device *device;
    float *x, *l;
    const float *e;
    size_t elements;
    const struct row_update *rows;
    uint8_t *finite;
};

static void update_row(void *context, size_t i)
{
    const struct updating *u = context;
    const struct row_update *r = &u->rows[i];
    float *x = u->x + (size_t)r->slot * u->elements, *l = u->l + (size_t)r->slot * u->elements;
    const float *cond = u->e + (size_t)r->row_cond * u->elements;
    const float *uncond = r->row_uncond < 0 ? NULL : u->e + (size_t)r->row_uncond * u->elements;
    float *z = NULL;
    if (r->s != 0.0f) {
        z = u->device->noise + (size_t)omp_get_thread_num() * u->elements;
        philox_normal(z, u->elements, r->seed, r->image, r->draw);
    }
    u->finite[i] = u->device->loops->state->update_row(x, l, cond, uncond, z, u->elements, r);
}

/* One image of noise per thread; grows with the largest image seen. */
static int reserve_noise(struct device *d, size_t elements)
{
    size_t floats = elements * (size_t)d->base.n_threads;
    if (floats <= d->noise_floats)
        return 0;
    void *memory;
    int rc = cpu_alloc(d, floats * sizeof(float), &memory);
    if (rc)
        return rc;
    cpu_free(d, d->noise, d->noise_floats * sizeof(float));
    d->noise = memory;
    d->noise_floats = floats;
    return 0;
}

int cpu_update_rows(struct device *d, float *x, float *l, const float *e, size_t elements,
                    const struct row_update *rows, int n, uint8_t *ret_finite)
{
    int rc = reserve_noise(d, elements);
    if (rc)
        return rc;
    struct updating u = {d, x, l, e, elements, rows, ret_finite};
    cpu_parallel(d->base.n_threads, (size_t)n, update_row, &u);
    return 0;
}
