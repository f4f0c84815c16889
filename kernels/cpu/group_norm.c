/* group_norm.c: group normalisation with what is fused to it; the maths is in loops/norm.c.
 *
 * Work is split over images, and over whole groups of channels where there are more threads than images. Sums of
 * dgamma and dbeta over images are taken in the images' order.
 */
#include "kernels/cpu/cpu.h"

#include <stdlib.h>
#include <string.h>

/* Positions of operands; forward: x pre post y mean rstd. */
enum { X = 0, GAMMA, BETA, PRE, POST, MEAN, RSTD, DY, MORE };

struct norm_run {
    struct loop_primitive *p;
    const struct frame *f;
    size_t parts;   // of the channels
    size_t scratch; // floats of one part
    float *sums;    // backward: [n][2][C]
};

enum { SCRATCH_ROWS = 6 };

static size_t round_up(size_t n)
{
    return (n + 15) / 16 * 16;
}

/* How many parts the groups are cut into: whole groups, and as many channels in each as a cache line holds. */
static size_t channel_parts(const struct loop_primitive *p)
{
    size_t images = (size_t)p->in[X].n, threads = (size_t)p->n_threads;
    size_t groups = (size_t)p->node.attr.groups, channels = (size_t)p->in[X].c;
    if (threads <= images)
        return 1;
    size_t parts = (threads + images - 1) / images;
    while (parts > 1 && (groups % parts || channels / parts * dtype_bytes(p->in[X].dtype) % CPU_ALIGNMENT))
        parts--;
    return parts;
}

/* The vector [N, 1, 1, *] of image i from element `first` on. */
static void *vector_at(const struct operand *o, const struct frame *f, size_t i, size_t first)
{
    char *at = operand_at(o, f, i);
    return at ? at + first * dtype_bytes(o->dtype) : NULL;
}

static struct pixels view_at(const struct operand *o, const struct frame *f, size_t i, size_t first)
{
    struct pixels v = operand_view(o, f, i);
    if (v.at)
        v.at = (char *)v.at + first * dtype_bytes(v.dtype);
    return v;
}

/* What both directions share, for image and part of item. */
static struct group_norm_image image_part(const struct norm_run *r, size_t item, size_t *ret_image, size_t *ret_first)
{
    struct loop_primitive *p = r->p;
    size_t part = item % r->parts, channels = (size_t)p->in[X].c / r->parts, first = part * channels;
    size_t image = item / r->parts;
    *ret_image = image;
    *ret_first = first;
    return (struct group_norm_image){
        .n = operand_pixels(&p->in[X]),
        .channels = channels,
        .groups = (size_t)p->node.attr.groups / r->parts,
        .eps = p->node.attr.eps,
        .silu = p->node.attr.silu,
        .x = view_at(&p->in[X], r->f, image, first),
        .gamma = p->vector[0] + first,
        .beta = p->vector[1] + first,
        .pre = vector_at(&p->in[PRE], r->f, image, first),
        .post = vector_at(&p->in[POST], r->f, image, first),
        .scratch = (float *)r->f->base[BASE_SCRATCH] + item * r->scratch,
    };
}

static void forward_item(void *context, size_t item)
{
    const struct norm_run *r = context;
    struct loop_primitive *p = r->p;
    size_t image, first;
    struct group_norm_image g = image_part(r, item, &image, &first);
    size_t group = first / (g.channels / g.groups);
    g.y = view_at(&p->out[0], r->f, image, first);
    g.mean = vector_at(&p->out[1], r->f, image, group);
    g.rstd = vector_at(&p->out[2], r->f, image, group);
    p->device->loops->norm->forward(&g);
}

static struct norm_run norm_run(struct loop_primitive *p, const struct frame *f)
{
    size_t parts = channel_parts(p);
    return (struct norm_run){p, f, parts, SCRATCH_ROWS * round_up((size_t)p->in[X].c / parts), NULL};
}

static int run_forward(struct primitive *primitive, const struct frame *f)
{
    struct loop_primitive *p = (struct loop_primitive *)primitive;
    struct norm_run r = norm_run(p, f);
    cpu_parallel(p->n_threads, (size_t)p->in[X].n * r.parts, forward_item, &r);
    return 0;
}

static void backward_item(void *context, size_t item)
{
    const struct norm_run *r = context;
    struct loop_primitive *p = r->p;
    size_t image, first;
    struct group_norm_image g = image_part(r, item, &image, &first);
    size_t group = first / (g.channels / g.groups), channels = (size_t)p->in[X].c;
    g.mean = vector_at(&p->in[MEAN], r->f, image, group);
    g.rstd = vector_at(&p->in[RSTD], r->f, image, group);
    g.dy = view_at(&p->in[DY], r->f, image, first);
    g.more = view_at(&p->in[MORE], r->f, image, first);
    g.dx = view_at(&p->out[0], r->f, image, first);
    g.dgamma = r->sums + 2 * image * channels + first;
    g.dbeta = g.dgamma + channels;
    g.dpre = vector_at(&p->out[3], r->f, image, first);
    g.dpost = vector_at(&p->out[4], r->f, image, first);
    p->device->loops->norm->backward(&g);
}

static int run_backward(struct primitive *primitive, const struct frame *f)
{
    struct loop_primitive *p = (struct loop_primitive *)primitive;
    struct norm_run r = norm_run(p, f);
    size_t images = (size_t)p->in[X].n, channels = (size_t)p->in[X].c;
    r.sums = (float *)f->base[BASE_SCRATCH] + images * r.parts * r.scratch;
    cpu_parallel(p->n_threads, images * r.parts, backward_item, &r);
    for (int i = 0; i < 2; i++) {
        struct pixels rows = {DTYPE_F32, r.sums + (size_t)i * channels, 2 * channels};
        void *to = operand_at(&p->out[1 + i], f, 0);
        if (to)
            p->device->loops->pointwise->sum_pixels(DTYPE_F32, to, rows, images, channels);
    }
    return 0;
}

static int lower(struct device *d, const struct lowering *l, int (*run)(struct primitive *, const struct frame *),
                 bool backward, struct primitive **ret_primitive, struct error *err)
{
    struct loop_primitive *p = NULL;
    int rc = loop_primitive_create(d, l, run, &p, err);
    if (rc)
        return rc;
    for (int i = 0; i < 2 && !rc; i++)
        rc = weights_vector(l, l->node->in[GAMMA + i], &p->vector[i], err);
    if (rc) {
        p->base.free(&p->base);
        return rc;
    }
    size_t parts = channel_parts(p), images = (size_t)p->in[X].n, channels = (size_t)p->in[X].c;
    size_t floats = images * parts * SCRATCH_ROWS * round_up(channels / parts) + (backward ? 2 * images * channels : 0);
    p->base.scratch_bytes = floats * sizeof(float);
    *ret_primitive = &p->base;
    return 0;
}

int lower_group_norm(struct device *d, const struct lowering *l, struct primitive **ret_primitive, struct error *err)
{
    return lower(d, l, run_forward, false, ret_primitive, err);
}

int lower_group_norm_backward(struct device *d, const struct lowering *l, struct primitive **ret_primitive,
                              struct error *err)
{
    return lower(d, l, run_backward, true, ret_primitive, err);
}
