/* conv_weights.c: gradient of a convolution's filters and bias, summed over the images of the strand.
 *
 * oneDNN writes the filters' gradient in a layout of its own (f32); it is unpacked into [K, R, S, C]. The sum runs over
 * images, so its rounding depends on their number and on the number of threads, and is the same from run to run.
 */
#include "kernels/cpu/conv.h"

#include <errno.h>
#include <stdlib.h>

struct weight_gradient {
    struct primitive base;
    struct device *device;
    int n_threads;
    struct operand x, dy, dw, db;
    struct onednn_call call;
    int x_argument, dy_argument, dw_argument, db_argument; // positions in the call
    struct layout_map *map;
    bool copy_x, spread_x, copy_dy;
    enum dtype compute;
    size_t dense_x, dense_dy, dense_dw, scratchpad; // in the scratch
};

static void weight_gradient_free(struct primitive *p)
{
    struct weight_gradient *g = (struct weight_gradient *)p;
    onednn_call_done(&g->call);
    layout_map_free(g->map);
    free(g);
}

struct image_loop {
    const struct weight_gradient *g;
    const struct frame *f;
};

static void spread_image(void *context, size_t i)
{
    const struct image_loop *l = context;
    const struct weight_gradient *g = l->g;
    size_t pitch = (size_t)g->x.c, bytes = 4 * operand_pixels(&g->x) * pitch * dtype_bytes(g->x.dtype);
    struct pixels to = {g->x.dtype, l->f->base[BASE_SCRATCH] + g->dense_x + i * bytes, pitch};
    g->device->loops->pointwise->spread2x(to, operand_view(&g->x, l->f, i), (size_t)g->x.h, (size_t)g->x.w, pitch,
                                          1.0f);
}

/* The operand's images, densely: where they are, or copied to `at` of the scratch. */
static void *dense_images(const struct weight_gradient *g, const struct operand *o, const struct frame *f, bool copy,
                          size_t at)
{
    if (!copy)
        return operand_at(o, f, 0);
    struct pixels to = {g->compute, f->base[BASE_SCRATCH] + at, (size_t)o->c};
    cpu_copy_pixels(
        &(struct view_copy){g->device, to, operand_view(o, f, 0), (size_t)o->n * operand_pixels(o), (size_t)o->c},
        g->n_threads);
    return to.at;
}

static int run_weight_gradient(struct primitive *p, const struct frame *f)
{
    struct weight_gradient *g = (struct weight_gradient *)p;
    char *scratch = f->base[BASE_SCRATCH];
    void *x = scratch + g->dense_x, *dy = dense_images(g, &g->dy, f, g->copy_dy, g->dense_dy);
    if (g->spread_x)
        cpu_parallel(g->n_threads, (size_t)g->x.n, spread_image, &(struct image_loop){g, f});
    else
        x = dense_images(g, &g->x, f, g->copy_x, g->dense_x);
    if (onednn_call_set(&g->call, g->x_argument, x) || onednn_call_set(&g->call, g->dy_argument, dy) ||
        onednn_call_set(&g->call, g->dw_argument, scratch + g->dense_dw) ||
        (g->db_argument >= 0 && onednn_call_set(&g->call, g->db_argument, operand_at(&g->db, f, 0))) ||
        onednn_call_run(g->device, &g->call, g->n_threads, scratch + g->scratchpad))
        return -EIO;
    layout_map_unpack(g->device, g->map, (const float *)(scratch + g->dense_dw), operand_at(&g->dw, f, 0),
                      g->n_threads);
    return 0;
}

static int describe(const struct conv_shape *s, bool bias, dnnl_convolution_desc_t *ret_desc, struct error *err)
{
    dnnl_memory_desc_t x, w, b, y;
    dnnl_dims_t filter = {s->k, s->c, s->r, s->s}, channels = {s->k};
    dnnl_dims_t strides = {s->stride, s->stride}, low = {s->pad[0][0], s->pad[1][0]},
                high = {s->pad[0][1], s->pad[1][1]};
    int rc = onednn_image(&x, s->x, s->n, s->h, s->w, s->c, err);
    if (!rc)
        rc = onednn_image(&y, s->y, s->n, s->out_h, s->out_w, s->k, err);
    if (!rc)
        rc = ONEDNN(dnnl_memory_desc_init_by_tag(&w, 4, filter, dnnl_f32, dnnl_format_tag_any), err);
    if (!rc)
        rc = ONEDNN(dnnl_memory_desc_init_by_tag(&b, 1, channels, dnnl_f32, dnnl_a), err);
    if (!rc)
        rc = ONEDNN(dnnl_convolution_backward_weights_desc_init(ret_desc, dnnl_convolution_direct, &x, &w,
                                                                bias ? &b : NULL, &y, strides, low, high),
                    err);
    return rc;
}

static int add_arguments(struct weight_gradient *g, const_dnnl_primitive_desc_t pd, struct error *err)
{
    struct onednn_call *call = &g->call;
    int rc = onednn_call_create(g->device, pd, g->n_threads, call, err);
    if (rc)
        return rc;
    g->x_argument = call->n_arguments;
    g->dy_argument = call->n_arguments + 1;
    g->dw_argument = call->n_arguments + 2;
    g->db_argument = operand_exists(&g->db) ? call->n_arguments + 3 : -1;
    rc = onednn_call_add(g->device, call, pd, dnnl_query_src_md, 0, DNNL_ARG_SRC, NULL, err);
    if (!rc)
        rc = onednn_call_add(g->device, call, pd, dnnl_query_diff_dst_md, 0, DNNL_ARG_DIFF_DST, NULL, err);
    if (!rc)
        rc = onednn_call_add(g->device, call, pd, dnnl_query_diff_weights_md, 0, DNNL_ARG_DIFF_WEIGHTS, NULL, err);
    if (!rc && g->db_argument >= 0)
        rc = onednn_call_add(g->device, call, pd, dnnl_query_diff_weights_md, 1, DNNL_ARG_DIFF_BIAS, NULL, err);
    if (!rc)
        rc = layout_map_create(dnnl_primitive_desc_query_md(pd, dnnl_query_diff_weights_md, 0), &g->map, err);
    return rc;
}

static void place_scratch(struct weight_gradient *g)
{
    size_t at = 0, element = dtype_bytes(g->compute);
    g->dense_x = at;
    size_t x_bytes = operand_bytes(&g->x) / dtype_bytes(g->x.dtype) * element;
    at += g->spread_x ? cpu_align(4 * x_bytes) : g->copy_x ? cpu_align(x_bytes) : 0;
    g->dense_dy = at;
    at += g->copy_dy ? cpu_align(operand_bytes(&g->dy) / dtype_bytes(g->dy.dtype) * element) : 0;
    g->dense_dw = at;
    at += cpu_align(layout_map_bytes(g->map));
    g->scratchpad = at;
    g->base.scratch_bytes = at + g->call.scratch_bytes;
}

static int create_call(struct weight_gradient *g, const struct lowering *l, struct error *err)
{
    dnnl_convolution_desc_t desc;
    dnnl_primitive_desc_t pd = NULL;
    const struct tensor *dw = &l->graph->tensors[l->node->out[0]];
    struct conv_shape s = conv_shape_of(&g->x, g->compute, g->compute, dw, &l->node->attr);
    int rc = describe(&s, operand_exists(&g->db), &desc, err);
    if (!rc)
        rc = conv_backward_create(g->device, &s, &desc, g->n_threads, &pd, err);
    if (!rc)
        rc = add_arguments(g, pd, err);
    if (pd)
        dnnl_primitive_desc_destroy(pd);
    return rc;
}

int lower_conv2d_backward_weights(struct device *d, const struct lowering *l, struct primitive **ret_primitive,
                                  struct error *err)
{
    const struct node *n = l->node;
    if (conv_weights_tiles_fit(d, l, &l->graph->tensors[n->out[0]]))
        return lower_conv_weights_tiles(d, l, ret_primitive, err);
    struct weight_gradient *g = calloc(1, sizeof(*g));
    if (!g)
        return error_set(err, -ENOMEM, NULL, "no memory for a convolution's weight gradient");
    g->base.run = run_weight_gradient;
    g->base.free = weight_gradient_free;
    g->device = d;
    g->n_threads = l->n_threads;
    g->compute = l->graph->compute;
    g->x = cpu_operand(l, n->in[0]);
    g->dy = cpu_operand(l, n->in[1]);
    g->dw = cpu_operand(l, n->out[0]);
    g->db = cpu_operand(l, n->n_out > 1 ? n->out[1] : TENSOR_NONE);
    g->spread_x = n->attr.upsample2x;
    g->copy_x = !operand_dense(&g->x) || g->x.dtype != g->compute;
    g->copy_dy = !operand_dense(&g->dy) || g->dy.dtype != g->compute;
    int rc = create_call(g, l, err);
    if (rc) {
        weight_gradient_free(&g->base);
        return rc;
    }
    place_scratch(g);
    *ret_primitive = &g->base;
    return 0;
}
