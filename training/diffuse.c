/* diffuse.c: see diffuse.h.
 */
#include "training/diffuse.h"

#include "kernels/philox.h"
#include "model/schedule.h"

#include <assert.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Draws of the noise key: a step's noise, validation noise. */
enum { DRAW_STEP = 0, DRAW_VALIDATION = 1 };
enum { STREAM_NOISE = 1, STREAM_CHOICE = 2, STREAM_DROPOUT = 3 };

int noised_batch_init(struct noised_batch *b, int32_t capacity, size_t elements)
{
    size_t n = (size_t)capacity;
    *b = (struct noised_batch){.capacity = capacity, .elements = elements};
    b->x = malloc(n * elements * sizeof *b->x);
    b->eps = malloc(n * elements * sizeof *b->eps);
    b->t = malloc(n * sizeof *b->t);
    b->y = malloc(n * sizeof *b->y);
    b->key = malloc(n * 4 * sizeof *b->key);
    b->loss_scale = malloc(n * sizeof *b->loss_scale);
    if (b->x && b->eps && b->t && b->y && b->key && b->loss_scale)
        return 0;
    noised_batch_done(b);
    return -ENOMEM;
}

void noised_batch_done(struct noised_batch *b)
{
    free(b->x);
    free(b->eps);
    free(b->t);
    free(b->y);
    free(b->key);
    free(b->loss_scale);
    *b = (struct noised_batch){0};
}

static uint64_t derived_key(uint64_t seed, uint32_t stream)
{
    struct philox_block b = philox4x32_10(seed, stream, 0, 0, 0x74726169u);
    return (uint64_t)b.v[1] << 32 | b.v[0];
}

int diffuser_init(struct diffuser *d, const struct diffusion_config *c, int32_t null_class, float label_dropout,
                  double min_snr_gamma, bool antithetic, uint64_t seed)
{
    size_t T = (size_t)c->T;
    *d = (struct diffuser){.T = c->T,
                           .null_class = null_class,
                           .label_dropout = label_dropout,
                           .antithetic = antithetic,
                           .noise_key = derived_key(seed, STREAM_NOISE),
                           .choice_key = derived_key(seed, STREAM_CHOICE),
                           .dropout_key = derived_key(seed, STREAM_DROPOUT)};
    d->signal = malloc(T * sizeof *d->signal);
    d->noise = malloc(T * sizeof *d->noise);
    d->loss_scale = malloc(T * sizeof *d->loss_scale);
    if (!d->signal || !d->noise || !d->loss_scale) {
        diffuser_done(d);
        return -ENOMEM;
    }
    schedule_alpha_bar(c, d->signal);
    for (size_t t = 0; t < T; t++) {
        double a = d->signal[t], snr = a / (1.0 - a);
        d->loss_scale[t] = min_snr_gamma > 0 ? (float)(fmin(snr, min_snr_gamma) / snr) : 1.0f;
        d->noise[t] = sqrtf(1.0f - d->signal[t]);
        d->signal[t] = sqrtf(d->signal[t]);
    }
    return 0;
}

void diffuser_done(struct diffuser *d)
{
    free(d->signal);
    free(d->noise);
    free(d->loss_scale);
    *d = (struct diffuser){0};
}

/* Image i of b from x0 and the eps that is in b already. */
static void place(const struct diffuser *d, const float *x0, int32_t i, int32_t t, int32_t y, struct noised_batch *b)
{
    float signal = d->signal[t], noise = d->noise[t];
    size_t at = (size_t)i * b->elements;
    for (size_t k = at; k < at + b->elements; k++)
        b->x[k] = signal * x0[k] + noise * b->eps[k];
    b->t[i] = (float)t;
    b->y[i] = y;
    b->loss_scale[i] = d->loss_scale[t];
}

static int32_t timestep(const struct diffuser *d, uint32_t step, uint32_t i)
{
    uint32_t drawn_as = d->antithetic ? i / 2 : i;
    uint32_t r = philox4x32_10(d->choice_key, 0, 0, drawn_as, step).v[0];
    int32_t t = (int32_t)((uint64_t)r * (uint32_t)d->T >> 32);
    return d->antithetic && i % 2 ? d->T - 1 - t : t;
}

void diffuser_draw(const struct diffuser *d, const float *x0, const int32_t *y, int32_t n, uint32_t step,
                   struct noised_batch *b)
{
    assert(n <= b->capacity);
    b->n = n;
    for (int32_t i = 0; i < n; i++) {
        float u = philox_uniform(philox4x32_10(d->choice_key, 1, 0, (uint32_t)i, step).v[0]);
        uint64_t image = (uint64_t)step << 32 | (uint32_t)i;
        philox_normal(b->eps + (size_t)i * b->elements, b->elements, d->noise_key, image, DRAW_STEP);
        place(d, x0, i, timestep(d, step, (uint32_t)i), u < d->label_dropout ? d->null_class : y[i], b);
        int32_t *key = b->key + 4 * (size_t)i;
        key[0] = (int32_t)(uint32_t)d->dropout_key;
        key[1] = (int32_t)(uint32_t)(d->dropout_key >> 32);
        key[2] = (int32_t)step;
        key[3] = i;
    }
}

void diffuser_fix(const struct diffuser *d, const float *x0, const int32_t *y, int32_t n, int64_t first, int64_t total,
                  struct noised_batch *b)
{
    assert(n <= b->capacity);
    b->n = n;
    for (int32_t i = 0; i < n; i++) {
        int64_t index = first + i;
        int32_t t = (int32_t)((2 * index + 1) * d->T / (2 * total));
        philox_normal(b->eps + (size_t)i * b->elements, b->elements, d->noise_key, (uint64_t)index, DRAW_VALIDATION);
        place(d, x0, i, t, y[i], b);
        memset(b->key + 4 * (size_t)i, 0, 4 * sizeof *b->key);
    }
}

void diffuser_set(const struct diffuser *d, const float *x0, const int32_t *y, const int32_t *t, const float *eps,
                  int32_t n, struct noised_batch *b)
{
    assert(n <= b->capacity);
    b->n = n;
    memcpy(b->eps, eps, (size_t)n * b->elements * sizeof *eps);
    for (int32_t i = 0; i < n; i++)
        place(d, x0, i, t[i], y[i], b);
    memset(b->key, 0, 4 * (size_t)n * sizeof *b->key);
}
