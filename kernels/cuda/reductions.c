/* reductions.c: sums over pixels, and group normalisation with what is fused to it. */
#include "kernels/cuda/cuda.h"

#include <errno.h>

/* ---- de[n][c] = sum of dy over the image's pixels ---- */

static int run_add_channel_backward(struct primitive *primitive, const struct frame *f)
{
    struct kernel_primitive *p = (struct kernel_primitive *)primitive;
    const struct operand *dy = &p->in[0];
    return CUDA(p->device,
                gpu_sum_pixels(p->device->stream, operand_view(&p->out[0], f), operand_view(dy, f), (size_t)dy->n,
                               operand_pixels(dy), (size_t)dy->c, (float *)f->base[BASE_SCRATCH]),
                NULL);
}

int lower_add_channel_backward(struct device *d, const struct lowering *l, struct primitive **ret_primitive,
                               struct error *err)
{
    struct kernel_primitive *p;
    int rc = kernel_primitive_create(d, l, run_add_channel_backward, &p, err);
    if (rc)
        return rc;
    const struct operand *dy = &p->in[0];
    p->base.scratch_bytes = gpu_sum_pixels_scratch(operand_pixels(dy), (size_t)dy->c) * sizeof(float);
    *ret_primitive = &p->base;
    return 0;
}

/* ---- group norm; positions of operands: graph.h ---- */

enum { X, GAMMA, BETA, PRE, POST, MEAN, RSTD, DY, MORE };

static struct gpu_norm describe(const struct kernel_primitive *p, const struct frame *f)
{
    const struct operand *x = &p->in[X];
    return (struct gpu_norm){.images = (size_t)x->n,
                             .pixels = operand_pixels(x),
                             .channels = (size_t)x->c,
                             .groups = (size_t)p->node.attr.groups,
                             .eps = p->node.attr.eps,
                             .silu = p->node.attr.silu,
                             .x = operand_view(x, f),
                             .pre = operand_view(&p->in[PRE], f),
                             .post = operand_view(&p->in[POST], f),
                             .gamma = p->param[0],
                             .beta = p->param[1]};
}

static int run_group_norm(struct primitive *primitive, const struct frame *f)
{
    struct kernel_primitive *p = (struct kernel_primitive *)primitive;
    struct gpu_norm g = describe(p, f);
    g.y = operand_view(&p->out[0], f);
    g.mean = operand_at(&p->out[1], f);
    g.rstd = operand_at(&p->out[2], f);
    return CUDA(p->device, gpu_group_norm(p->device->stream, &g), NULL);
}

static int run_group_norm_backward(struct primitive *primitive, const struct frame *f)
{
    struct kernel_primitive *p = (struct kernel_primitive *)primitive;
    struct gpu_norm g = describe(p, f);
    g.mean = operand_at(&p->in[MEAN], f);
    g.rstd = operand_at(&p->in[RSTD], f);
    g.dy = operand_view(&p->in[DY], f);
    g.more = operand_view(&p->in[MORE], f);
    g.dx = operand_view(&p->out[0], f);
    g.dgamma = operand_at(&p->out[1], f);
    g.dbeta = operand_at(&p->out[2], f);
    g.dpre = operand_view(&p->out[3], f);
    g.dpost = operand_view(&p->out[4], f);
    g.scratch = (float *)f->base[BASE_SCRATCH];
    return CUDA(p->device, gpu_group_norm_backward(p->device->stream, &g), NULL);
}

static int lower_norm(struct device *d, const struct lowering *l, int (*run)(struct primitive *, const struct frame *),
                      bool backward, struct primitive **ret_primitive, struct error *err)
{
    struct kernel_primitive *p;
    int rc = kernel_primitive_create(d, l, run, &p, err);
    if (rc)
        return rc;
    if (p->in[X].c / p->node.attr.groups > GPU_MAX_NORM_WIDTH)
        rc = error_set(err, -ENOTSUP, NULL, "group norms of more than %d channels a group are not possible here",
                       (int)GPU_MAX_NORM_WIDTH);
    for (int i = 0; i < 2 && rc == 0; i++)
        rc = weights_at(l, l->node->in[GAMMA + i], true, &p->param[i], err);
    if (rc) {
        p->base.free(&p->base);
        return rc;
    }
    const struct gpu_norm g = {.images = (size_t)p->in[X].n, .channels = (size_t)p->in[X].c};
    p->base.scratch_bytes = backward ? gpu_norm_scratch(&g) * sizeof(float) : 0;
    *ret_primitive = &p->base;
    return 0;
}

int lower_group_norm(struct device *d, const struct lowering *l, struct primitive **ret_primitive, struct error *err)
{
    return lower_norm(d, l, run_group_norm, false, ret_primitive, err);
}

int lower_group_norm_backward(struct device *d, const struct lowering *l, struct primitive **ret_primitive,
                              struct error *err)
{
    return lower_norm(d, l, run_group_norm_backward, true, ret_primitive, err);
}
