/* pool.c: windows, the mean over an image, and the loss of a classifier.
 *
 * Work is split over images, windows over ranges of rows too where there are more threads than images.
 */
#include "kernels/cpu/cpu.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>

struct image_run {
    struct loop_primitive *p;
    const struct frame *f;
    size_t parts; // of an image
};

static int run_images(struct primitive *primitive, const struct frame *f, bool by_rows,
                      void (*body)(void *context, size_t i))
{
    struct loop_primitive *p = (struct loop_primitive *)primitive;
    size_t images = (size_t)p->in[0].n, threads = (size_t)p->n_threads;
    struct image_run r = {p, f, by_rows && threads > images ? (threads + images - 1) / images : 1};
    cpu_parallel(p->n_threads, images * r.parts, body, &r);
    return 0;
}

static int lower(struct device *d, const struct lowering *l, int (*run)(struct primitive *, const struct frame *),
                 size_t scratch_bytes, struct primitive **ret_primitive, struct error *err)
{
    struct loop_primitive *p = NULL;
    int rc = loop_primitive_create(d, l, run, &p, err);
    if (rc)
        return rc;
    p->base.scratch_bytes = scratch_bytes;
    *ret_primitive = &p->base;
    return 0;
}

/* ---- windows ---- */

static void pool_part(void *context, size_t i)
{
    const struct image_run *r = context;
    const struct loop_primitive *p = r->p;
    const struct node_attr *a = &p->node.attr;
    const struct operand *x = &p->in[0], *y = &p->out[0];
    struct pool_image image = {.y = operand_view(y, r->f, i / r->parts),
                               .x = operand_view(x, r->f, i / r->parts),
                               .h = (size_t)x->h,
                               .w = (size_t)x->w,
                               .c = (size_t)x->c,
                               .out_w = (size_t)y->w,
                               .window = (size_t)a->window,
                               .stride = (size_t)a->stride,
                               .pad = a->valid ? 0 : (size_t)a->window / 2,
                               .max = a->max};
    cpu_split((size_t)y->h, 1, r->parts, i % r->parts, &image.row, &image.end);
    p->device->loops->pool->pool(&image);
}

static int run_pool(struct primitive *p, const struct frame *f)
{
    return run_images(p, f, true, pool_part);
}

int lower_pool(struct device *d, const struct lowering *l, struct primitive **ret_primitive, struct error *err)
{
    return lower(d, l, run_pool, 0, ret_primitive, err);
}

/* ---- the mean over an image; each image has a row of f32 in the scratch ---- */

static float *scratch_row(const struct image_run *r, size_t i)
{
    return (float *)r->f->base[BASE_SCRATCH] + i * (size_t)r->p->in[0].c;
}

static size_t scratch_rows_bytes(const struct lowering *l)
{
    const struct tensor *x = &l->graph->tensors[l->node->in[0]];
    return (size_t)x->dim[0] * (size_t)x->dim[3] * sizeof(float);
}

static void global_mean_part(void *context, size_t i)
{
    const struct image_run *r = context;
    const struct operand *x = &r->p->in[0];
    size_t c = (size_t)x->c, n = operand_pixels(x);
    float *row = scratch_row(r, i);
    const struct pointwise_loops *loops = r->p->device->loops->pointwise;
    loops->sum_pixels(DTYPE_F32, row, operand_view(x, r->f, i), n, c);
    for (size_t k = 0; k < c; k++)
        row[k] /= (float)n;
    loops->copy(operand_view(&r->p->out[0], r->f, i), (struct pixels){DTYPE_F32, row, c}, 1, c);
}

static int run_global_mean(struct primitive *p, const struct frame *f)
{
    return run_images(p, f, false, global_mean_part);
}

int lower_global_mean(struct device *d, const struct lowering *l, struct primitive **ret_primitive, struct error *err)
{
    return lower(d, l, run_global_mean, scratch_rows_bytes(l), ret_primitive, err);
}

static void global_mean_backward_part(void *context, size_t i)
{
    const struct image_run *r = context;
    const struct operand *dx = &r->p->out[0];
    size_t c = (size_t)dx->c, n = operand_pixels(dx);
    float *row = scratch_row(r, i);
    const struct pointwise_loops *loops = r->p->device->loops->pointwise;
    loops->copy((struct pixels){DTYPE_F32, row, c}, operand_view(&r->p->in[0], r->f, i), 1, c);
    for (size_t k = 0; k < c; k++)
        row[k] /= (float)n;
    loops->copy(operand_view(dx, r->f, i), (struct pixels){DTYPE_F32, row, 0}, n, c); // the same row for every pixel
}

static int run_global_mean_backward(struct primitive *p, const struct frame *f)
{
    return run_images(p, f, false, global_mean_backward_part);
}

int lower_global_mean_backward(struct device *d, const struct lowering *l, struct primitive **ret_primitive,
                               struct error *err)
{
    return lower(d, l, run_global_mean_backward, scratch_rows_bytes(l), ret_primitive, err);
}

/* ---- cross-entropy ---- */

/* log sum exp of x[c]. */
static float log_sum_exp(const float *x, int32_t c)
{
    float max = x[0], sum = 0;
    for (int32_t k = 1; k < c; k++)
        max = x[k] > max ? x[k] : max;
    for (int32_t k = 0; k < c; k++)
        sum += expf(x[k] - max);
    return max + logf(sum);
}

static void cross_entropy_part(void *context, size_t i)
{
    const struct image_run *r = context;
    const float *x = operand_at(&r->p->in[0], r->f, i);
    const int32_t *label = operand_at(&r->p->in[1], r->f, i);
    float *loss = operand_at(&r->p->out[0], r->f, i);
    *loss = log_sum_exp(x, r->p->in[0].c) - x[*label];
}

static int run_cross_entropy(struct primitive *p, const struct frame *f)
{
    return run_images(p, f, false, cross_entropy_part);
}

int lower_cross_entropy(struct device *d, const struct lowering *l, struct primitive **ret_primitive, struct error *err)
{
    return lower(d, l, run_cross_entropy, 0, ret_primitive, err);
}

static void cross_entropy_backward_part(void *context, size_t i)
{
    const struct image_run *r = context;
    const float *x = operand_at(&r->p->in[0], r->f, i), *weight = operand_at(&r->p->in[2], r->f, i);
    const int32_t *label = operand_at(&r->p->in[1], r->f, i);
    float *dx = operand_at(&r->p->out[0], r->f, i), whole = log_sum_exp(x, r->p->in[0].c);
    for (int32_t k = 0; k < r->p->in[0].c; k++)
        dx[k] = (expf(x[k] - whole) - (k == *label ? 1.0f : 0.0f)) * *weight;
}

static int run_cross_entropy_backward(struct primitive *p, const struct frame *f)
{
    return run_images(p, f, false, cross_entropy_backward_part);
}

int lower_cross_entropy_backward(struct device *d, const struct lowering *l, struct primitive **ret_primitive,
                                 struct error *err)
{
    return lower(d, l, run_cross_entropy_backward, 0, ret_primitive, err);
}
