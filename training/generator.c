/* generator.c: see generator.h.
 */
#include "training/generator.h"

#include "model/image.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static size_t elements_of(const struct generator *g)
{
    return (size_t)g->model.data.height * (size_t)g->model.data.width * (size_t)g->model.data.channels;
}

int generator_open(struct device *d, const char *path, enum dtype precision, int32_t rows,
                   struct generator *ret_generator, struct error *err)
{
    struct generator g = {.rows = rows};
    int rc = checkpoint_open(AT_FDCWD, path, &g.model, err);
    if (rc < 0) {
        if (!err->field[0])
            snprintf(err->field, sizeof err->field, "model");
        return rc;
    }
    size_t n = (size_t)rows, elements = elements_of(&g);
    rc = network_create(d, &g.model, precision, rows, &g.network, err);
    if (rc == 0)
        rc = lane_pool_create(g.network, rows, &g.pool, err);
    g.lanes = calloc(n, sizeof *g.lanes);
    g.finite = malloc(n);
    g.image = malloc(elements * sizeof *g.image);
    g.pixels = malloc(n * elements);
    g.labels = malloc(n * sizeof *g.labels);
    if (rc == 0 && !(g.lanes && g.finite && g.image && g.pixels && g.labels))
        rc = error_set(err, -ENOMEM, NULL, "out of memory");
    if (rc < 0)
        generator_close(&g);
    else
        *ret_generator = g;
    return rc;
}

void generator_close(struct generator *g)
{
    lane_pool_free(g->pool);
    network_free(g->network);
    checkpoint_close(&g->model);
    free(g->lanes);
    free(g->finite);
    free(g->image);
    free(g->pixels);
    free(g->labels);
    *g = (struct generator){0};
}

/* ---- batches ---- */

/* Takes n lanes through the table. */
static int run_lanes(struct generator *g, const struct step_table *table, int32_t n, struct error *err)
{
    for (int32_t k = 0; k < table->n_rows; k++) {
        for (int32_t i = 0; i < n; i++) {
            g->lanes[i].row = &table->rows[k];
            g->lanes[i].draw = 1 + (uint32_t)k;
        }
        int rc = lane_pool_step(g->pool, g->lanes, n, g->finite);
        if (rc < 0)
            return error_set(err, rc, NULL, "the device is lost");
    }
    for (int32_t i = 0; i < n; i++)
        if (!g->finite[i])
            return error_set(err, -ERANGE, "model", "image %lld of seed %llu is not finite",
                             (long long)g->lanes[i].image, (unsigned long long)g->lanes[i].seed);
    return 0;
}

static int run_batch(struct generator *g, const struct generation *o, const struct step_table *table, int64_t first,
                     int32_t n, struct error *err)
{
    size_t elements = elements_of(g);
    int rc = 0;
    for (int32_t i = 0; rc == 0 && i < n; i++) {
        g->labels[i] = (int32_t)((first + i) % g->model.model.num_classes);
        g->lanes[i] = (struct lane_step){.slot = i,
                                         .class_index = g->labels[i],
                                         .guidance = (float)o->guidance,
                                         .clip = o->clip,
                                         .seed = o->seed,
                                         .image = (uint64_t)(first + i)};
        rc = lane_pool_start(g->pool, i, o->seed, (uint64_t)(first + i));
    }
    if (rc < 0)
        return error_set(err, rc, NULL, "the device is lost");
    rc = run_lanes(g, table, n, err);
    for (int32_t i = 0; rc == 0 && i < n; i++) {
        rc = lane_pool_read(g->pool, i, false, g->image);
        image_to_uint8(g->image, elements, g->pixels + (size_t)i * elements);
    }
    return rc == 0 ? o->take(o->context, first, n, g->pixels, g->labels, err) : rc;
}

int generator_run(struct generator *g, const struct generation *o, struct error *err)
{
    int32_t most = o->guidance == 1.0 ? g->rows : g->rows / 2;
    struct step_table *table;
    int rc = schedule_table(&g->model.diffusion, &o->recipe, &table, err);
    if (rc < 0)
        return rc;
    for (int64_t first = 0; rc == 0 && first < o->n; first += most) {
        int32_t n = o->n - first < most ? (int32_t)(o->n - first) : most;
        rc = *o->stop ? error_set(err, -ECANCELED, NULL, "stopped on request") : run_batch(g, o, table, first, n, err);
    }
    free(table);
    return rc;
}

/* ---- there and back ---- */

/* Rows that lead from an image to noise: each goes from alpha_bar p to a < p with eps as it is at p (t of p; 0 at the
 * image itself). */
static int inverse_table(const struct diffusion_config *d, int32_t steps, enum step_method method,
                         struct step_table **ret_table)
{
    struct step_table *table = malloc(sizeof *table + (size_t)steps * sizeof table->rows[0]);
    float *alpha_bar = malloc((size_t)d->T * sizeof *alpha_bar);
    int32_t *tau = malloc((size_t)steps * sizeof *tau);
    int rc = table && alpha_bar && tau ? 0 : -ENOMEM;
    if (rc == 0) {
        table->n_rows = steps;
        schedule_alpha_bar(d, alpha_bar);
        schedule_timesteps(steps, method, d->T, tau);
    }
    for (int32_t i = 0; rc == 0 && i < steps; i++) {
        double p = i > 0 ? (double)alpha_bar[tau[i - 1]] : 1.0, a = (double)alpha_bar[tau[i]];
        int32_t t = i > 0 ? tau[i - 1] : 0;
        double at = (double)alpha_bar[t]; // of the x0 prediction, which nobody reads
        table->rows[i] = (struct step_row){.t = t,
                                           .alpha = (float)sqrt(at),
                                           .sigma = (float)sqrt(1 - at),
                                           .a = (float)sqrt(a / p),
                                           .b = (float)(sqrt(1 - a) - sqrt(a * (1 - p) / p))};
    }
    free(alpha_bar);
    free(tau);
    if (rc < 0)
        free(table);
    else
        *ret_table = table;
    return rc;
}

static int invert_batch(struct generator *g, const struct step_table *there, const struct step_table *back,
                        const float *images, const int32_t *classes, int32_t n, double *ret_sum, struct error *err)
{
    size_t elements = elements_of(g);
    int rc = 0;
    for (int32_t i = 0; rc == 0 && i < n; i++) {
        g->lanes[i] = (struct lane_step){.slot = i, .class_index = classes[i], .guidance = 1, .image = (uint64_t)i};
        rc = lane_pool_write(g->pool, i, images + (size_t)i * elements);
    }
    if (rc < 0)
        return error_set(err, rc, NULL, "the device is lost");
    rc = run_lanes(g, there, n, err);
    if (rc == 0)
        rc = run_lanes(g, back, n, err);
    for (int32_t i = 0; rc == 0 && i < n; i++) {
        rc = lane_pool_read(g->pool, i, false, g->image);
        for (size_t k = 0; k < elements; k++) {
            double difference = ((double)g->image[k] - images[(size_t)i * elements + k]) / 2;
            *ret_sum += difference * difference / (double)elements;
        }
    }
    return rc;
}

int generator_invert(struct generator *g, int32_t steps, enum step_method method, const float *images,
                     const int32_t *classes, int32_t n, double *ret_error, struct error *err)
{
    const struct sampling_recipe recipe = {.steps = steps, .method = method, .sampler = SAMPLER_DDIM};
    struct step_table *back, *there;
    double sum = 0;
    int rc = schedule_table(&g->model.diffusion, &recipe, &back, err);
    if (rc < 0)
        return rc;
    rc = inverse_table(&g->model.diffusion, steps, method, &there);
    if (rc < 0) {
        free(back);
        return error_set(err, rc, NULL, "out of memory");
    }
    for (int32_t first = 0; rc == 0 && first < n; first += g->rows) {
        int32_t count = n - first < g->rows ? n - first : g->rows;
        rc = invert_batch(g, there, back, images + (size_t)first * elements_of(g), classes + first, count, &sum, err);
    }
    free(there);
    free(back);
    if (rc == 0)
        *ret_error = sum / n;
    return rc;
}
