/* attention.c: self-attention, head by head; heads of all images are split over threads. */
#include "kernels/cpu/cpu.h"

#include <stdlib.h>

struct attention_run {
    struct loop_primitive *p;
    const struct frame *f;
    size_t scratch; // floats of one thread
};

/* Thread t takes the items t, t + threads, ...: each has its own scratch. */
struct attention_part {
    const struct attention_run *run;
    void (*item)(const struct attention_run *r, size_t image, size_t head, float *scratch);
};

static size_t n_parts(const struct loop_primitive *p)
{
    size_t items = (size_t)p->in[0].n * (size_t)p->node.attr.heads,
           threads = p->n_threads > 1 ? (size_t)p->n_threads : 1;
    return items < threads ? items : threads;
}

static void run_part(void *context, size_t part)
{
    const struct attention_part *a = context;
    const struct attention_run *r = a->run;
    size_t heads = (size_t)r->p->node.attr.heads, items = (size_t)r->p->in[0].n * heads;
    float *scratch = (float *)r->f->base[BASE_SCRATCH] + part * r->scratch;
    for (size_t i = part; i < items; i += n_parts(r->p))
        a->item(r, i / heads, i % heads, scratch);
}

/* Element `first` of every pixel of image i. */
static char *channels_at(const struct operand *o, const struct frame *f, size_t i, size_t first)
{
    char *at = operand_at(o, f, i);
    return at ? at + first * dtype_bytes(o->dtype) : NULL;
}

static struct attention_head head_of(const struct attention_run *r, const struct operand *qkv, size_t image,
                                     size_t head, float *scratch)
{
    size_t heads = (size_t)r->p->node.attr.heads, d = (size_t)qkv->c / heads / 3;
    return (struct attention_head){
        .T = operand_pixels(qkv),
        .d = d,
        .dtype = qkv->dtype,
        .q = channels_at(qkv, r->f, image, 3 * d * head),
        .k = channels_at(qkv, r->f, image, 3 * d * head + d),
        .v = channels_at(qkv, r->f, image, 3 * d * head + 2 * d),
        .pitch = (size_t)qkv->place.pitch,
        .scratch = scratch,
    };
}

static void forward_item(const struct attention_run *r, size_t image, size_t head, float *scratch)
{
    struct loop_primitive *p = r->p;
    struct attention_head h = head_of(r, &p->in[0], image, head, scratch);
    h.y = channels_at(&p->out[0], r->f, image, h.d * head);
    h.y_pitch = (size_t)p->out[0].place.pitch;
    h.lse = (float *)channels_at(&p->out[1], r->f, image, head);
    h.lse_pitch = (size_t)p->out[1].place.pitch;
    p->device->loops->attention->forward(&h);
}

static void backward_item(const struct attention_run *r, size_t image, size_t head, float *scratch)
{
    struct loop_primitive *p = r->p;
    struct attention_head h = head_of(r, &p->in[0], image, head, scratch);
    const struct operand *dqkv = &p->out[0];
    h.y_in = channels_at(&p->in[1], r->f, image, h.d * head);
    h.y_pitch = (size_t)p->in[1].place.pitch;
    h.lse = (float *)channels_at(&p->in[2], r->f, image, head);
    h.lse_pitch = (size_t)p->in[2].place.pitch;
    h.dy = channels_at(&p->in[3], r->f, image, h.d * head);
    h.dy_pitch = (size_t)p->in[3].place.pitch;
    h.dq = channels_at(dqkv, r->f, image, 3 * h.d * head);
    h.dk = channels_at(dqkv, r->f, image, 3 * h.d * head + h.d);
    h.dv = channels_at(dqkv, r->f, image, 3 * h.d * head + 2 * h.d);
    h.d_pitch = (size_t)dqkv->place.pitch;
    p->device->loops->attention->backward(&h);
}

static size_t scratch_floats(const struct loop_primitive *p, bool backward)
{
    size_t d = (size_t)p->in[0].c / (size_t)p->node.attr.heads / 3;
    size_t floats = p->device->loops->attention->scratch_floats(p->in[0].dtype, operand_pixels(&p->in[0]), d, backward);
    return (floats + 15) / 16 * 16;
}

static int run_forward(struct primitive *primitive, const struct frame *f)
{
    struct loop_primitive *p = (struct loop_primitive *)primitive;
    struct attention_run r = {p, f, scratch_floats(p, false)};
    cpu_parallel(p->n_threads, n_parts(p), run_part, &(struct attention_part){&r, forward_item});
    return 0;
}

static int run_backward(struct primitive *primitive, const struct frame *f)
{
    struct loop_primitive *p = (struct loop_primitive *)primitive;
    struct attention_run r = {p, f, scratch_floats(p, true)};
    cpu_parallel(p->n_threads, n_parts(p), run_part, &(struct attention_part){&r, backward_item});
    return 0;
}

static int lower(struct device *d, const struct lowering *l, int (*run)(struct primitive *, const struct frame *),
                 bool backward, struct primitive **ret_primitive, struct error *err)
{
    struct loop_primitive *p = NULL;
    int rc = loop_primitive_create(d, l, run, &p, err);
    if (rc)
        return rc;
    p->base.scratch_bytes = n_parts(p) * scratch_floats(p, backward) * sizeof(float);
    *ret_primitive = &p->base;
    return 0;
}

int lower_attention(struct device *d, const struct lowering *l, struct primitive **ret_primitive, struct error *err)
{
    return lower(d, l, run_forward, false, ret_primitive, err);
}

int lower_attention_backward(struct device *d, const struct lowering *l, struct primitive **ret_primitive,
                             struct error *err)
{
    return lower(d, l, run_backward, true, ret_primitive, err);
}
