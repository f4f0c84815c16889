/* conv.c: convolutions by oneDNN's direct ones, whose bits for an image do not depend on the batch; in f32 the large
 * 3x3 ones are winograd.c's.
 *
 * oneDNN has fast kernels for dense tensors only, so a view (or a tensor of another dtype) passes through a dense copy
 * in the scratch. A residual is added by the convolution itself. The gradient of the input of a convolution of stride 1
 * is again a convolution, with turned filters, and runs as one. A 3x3 convolution on an upsampled image is four 2x2
 * ones on the small image where that is faster, 4/9 of the work.
 */
#include "kernels/cpu/conv.h"

#include <errno.h>
#include <stdlib.h>

enum { MAX_PHASES = 4, UPSAMPLE_BY_PHASES_PIXELS = 256 }; // below, measured, the phases are too small to win

/* One or four oneDNN convolutions from a dense x to a dense y. */
struct convolution {
    struct primitive base;
    struct device *device;
    int n_threads;
    struct operand x, y, residual;
    struct onednn_call call[MAX_PHASES];
    int n_calls;
    int x_argument, y_argument; // positions in the call
    enum dtype dense_x_dtype, dense_y_dtype;
    bool copy_x, copy_y; // through dense_x, dense_y in the scratch
    bool spread_x;       // x is upsampled into dense_x
    bool gather_y;       // dense_y is twice as large: y is the sum of its 2x2 blocks (gradient through an upsampling)
    bool sums;           // the call adds to what lies in y
    size_t dense_x, dense_y, scratchpad;
    size_t phase_bytes; // of one phase in dense_y
};

static void convolution_free(struct primitive *p)
{
    struct convolution *c = (struct convolution *)p;
    for (int i = 0; i < c->n_calls; i++)
        onednn_call_done(&c->call[i]);
    free(c);
}

/* ---- run ---- */

struct image_loop {
    const struct convolution *c;
    const struct frame *f;
    char *scratch;
};

static struct pixels dense_image(const struct convolution *c, char *at, enum dtype t, size_t pixels, int32_t channels,
                                 size_t i)
{
    return (struct pixels){t, at + i * pixels * (size_t)channels * dtype_bytes(t), (size_t)channels};
}

static void spread_image(void *context, size_t i)
{
    const struct image_loop *l = context;
    const struct convolution *c = l->c;
    struct pixels to = dense_image(c, l->scratch + c->dense_x, c->x.dtype, 4 * operand_pixels(&c->x), c->x.c, i);
    c->device->loops->pointwise->spread2x(to, operand_view(&c->x, l->f, i), (size_t)c->x.h, (size_t)c->x.w,
                                          (size_t)c->x.c, 1.0f);
}

static void gather_image(void *context, size_t i)
{
    const struct image_loop *l = context;
    const struct convolution *c = l->c;
    struct pixels from = dense_image(c, l->scratch + c->dense_y, c->y.dtype, 4 * operand_pixels(&c->y), c->y.c, i);
    struct pixels y = operand_view(&c->y, l->f, i);
    c->device->loops->pointwise->gather2x(y, from, (size_t)c->y.h, (size_t)c->y.w, (size_t)c->y.c, 1.0f);
}

static struct pixels every_second(struct pixels x, size_t first)
{
    return (struct pixels){x.dtype, (char *)x.at + first * x.pitch * dtype_bytes(x.dtype), 2 * x.pitch};
}

/* Phase (row parity, column parity) holds every second pixel. */
static void interleave_image(void *context, size_t i)
{
    const struct image_loop *l = context;
    const struct convolution *c = l->c;
    size_t h = (size_t)c->y.h / 2, w = (size_t)c->y.w / 2, channels = (size_t)c->y.c;
    const struct pointwise_loops *loops = c->device->loops->pointwise;
    for (size_t phase = 0; phase < 4; phase++)
        for (size_t row = 0; row < h; row++) {
            struct pixels from =
                dense_image(c, l->scratch + c->dense_y + phase * c->phase_bytes, c->dense_y_dtype, h * w, c->y.c, i);
            from.at = (char *)from.at + row * w * channels * dtype_bytes(from.dtype);
            size_t first = (2 * row + phase / 2) * (size_t)c->y.w + phase % 2;
            struct pixels to = every_second(operand_view(&c->y, l->f, i), first);
            if (operand_exists(&c->residual)) // maybe in y's own place
                loops->add(to, from, every_second(operand_view(&c->residual, l->f, i), first), w, channels);
            else
                loops->copy(to, from, w, channels);
        }
}

static void add_residual(void *context, size_t i)
{
    const struct image_loop *l = context;
    const struct convolution *c = l->c;
    struct pixels y = operand_view(&c->y, l->f, i);
    c->device->loops->pointwise->add(y, y, operand_view(&c->residual, l->f, i), operand_pixels(&c->y), (size_t)c->y.c);
}

static void copy_images(const struct convolution *c, struct pixels y, struct pixels x, const struct operand *of)
{
    if (y.at == x.at)
        return;
    cpu_copy_pixels(&(struct view_copy){c->device, y, x, (size_t)of->n * operand_pixels(of), (size_t)of->c},
                    c->n_threads);
}

static char *prepare_x(struct convolution *c, const struct frame *f, char *scratch)
{
    char *x = operand_at(&c->x, f, 0);
    if (c->spread_x) {
        struct image_loop l = {c, f, scratch};
        cpu_parallel(c->n_threads, (size_t)c->x.n, spread_image, &l);
        return scratch + c->dense_x;
    }
    if (!c->copy_x)
        return x;
    struct pixels to = {c->dense_x_dtype, scratch + c->dense_x, (size_t)c->x.c};
    copy_images(c, to, operand_view(&c->x, f, 0), &c->x);
    return scratch + c->dense_x;
}

static void finish_y(const struct convolution *c, const struct frame *f, char *scratch, struct pixels dense)
{
    struct image_loop l = {c, f, scratch};
    if (c->n_calls > 1)
        cpu_parallel(c->n_threads, (size_t)c->y.n, interleave_image, &l);
    else if (c->gather_y)
        cpu_parallel(c->n_threads, (size_t)c->y.n, gather_image, &l);
    else if (c->copy_y)
        copy_images(c, operand_view(&c->y, f, 0), dense, &c->y);
    if (operand_exists(&c->residual) && !c->sums && c->n_calls == 1)
        cpu_parallel(c->n_threads, (size_t)c->y.n, add_residual, &l);
}

static int run_convolution(struct primitive *p, const struct frame *f)
{
    struct convolution *c = (struct convolution *)p;
    char *scratch = f->base[BASE_SCRATCH];
    char *x = prepare_x(c, f, scratch);
    bool through_scratch = c->copy_y || c->gather_y || c->n_calls > 1;
    char *y = through_scratch ? scratch + c->dense_y : operand_at(&c->y, f, 0);
    struct pixels dense = {c->dense_y_dtype, y, (size_t)c->y.c};
    if (c->sums)
        copy_images(c, dense, operand_view(&c->residual, f, 0), &c->y);
    for (int i = 0; i < c->n_calls; i++) {
        struct onednn_call *call = &c->call[i];
        if (onednn_call_set(call, c->x_argument, x) ||
            onednn_call_set(call, c->y_argument, y + (size_t)i * c->phase_bytes) ||
            onednn_call_run(c->device, call, c->n_threads, scratch + c->scratchpad))
            return -EIO;
    }
    finish_y(c, f, scratch, dense);
    return 0;
}

/* ---- lowering ---- */

static int convolution_create(struct device *d, const struct lowering *l, tensor_id x, tensor_id y, tensor_id residual,
                              struct convolution **ret_convolution, struct error *err)
{
    struct convolution *c = calloc(1, sizeof(*c));
    if (!c)
        return error_set(err, -ENOMEM, NULL, "no memory for a convolution");
    c->base.run = run_convolution;
    c->base.free = convolution_free;
    c->device = d;
    c->n_threads = l->n_threads;
    c->x = cpu_operand(l, x);
    c->y = cpu_operand(l, y);
    c->residual = cpu_operand(l, residual);
    c->dense_x_dtype = l->graph->compute;
    c->dense_y_dtype = c->y.dtype;
    c->copy_x = !operand_dense(&c->x) || c->x.dtype != l->graph->compute;
    c->copy_y = !operand_dense(&c->y);
    *ret_convolution = c;
    return 0;
}

/* Where the dense copies and the scratchpad lie. */
static void place_scratch(struct convolution *c)
{
    size_t x_bytes = operand_bytes(&c->x) / dtype_bytes(c->x.dtype) * dtype_bytes(c->dense_x_dtype);
    size_t at = 0;
    c->dense_x = at;
    at += c->spread_x ? cpu_align(4 * x_bytes) : c->copy_x ? cpu_align(x_bytes) : 0;
    c->dense_y = at;
    if (c->gather_y)
        at += cpu_align(4 * operand_bytes(&c->y));
    else if (c->n_calls > 1)
        at += (size_t)c->n_calls * c->phase_bytes;
    else if (c->copy_y)
        at += cpu_align(operand_bytes(&c->y));
    c->scratchpad = at;
    size_t largest = 0;
    for (int i = 0; i < c->n_calls; i++)
        largest = c->call[i].scratch_bytes > largest ? c->call[i].scratch_bytes : largest;
    c->base.scratch_bytes = at + largest;
}

int conv_describe(const struct conv_shape *s, bool bias, dnnl_convolution_desc_t *ret_desc, struct error *err)
{
    dnnl_memory_desc_t x, w, b, y;
    dnnl_dims_t filter = {s->k, s->c, s->r, s->s}, channels = {s->k};
    dnnl_dims_t strides = {s->stride, s->stride}, low = {s->pad[0][0], s->pad[1][0]},
                high = {s->pad[0][1], s->pad[1][1]};
    int rc = onednn_image(&x, s->x, s->n, s->h, s->w, s->c, err);
    if (!rc)
        rc = onednn_image(&y, s->y, s->n, s->out_h, s->out_w, s->k, err);
    if (!rc)
        rc = ONEDNN(dnnl_memory_desc_init_by_tag(&w, 4, filter, onednn_dtype(s->x), dnnl_format_tag_any), err);
    if (!rc)
        rc = ONEDNN(dnnl_memory_desc_init_by_tag(&b, 1, channels, dnnl_f32, dnnl_a), err);
    if (!rc)
        rc = ONEDNN(dnnl_convolution_forward_desc_init(ret_desc, dnnl_forward_inference, dnnl_convolution_direct, &x,
                                                       &w, bias ? &b : NULL, &y, strides, low, high),
                    err);
    return rc;
}

int conv_unsupported(const struct conv_shape *s, int rc, struct error *err)
{
    if (rc != -ENOTSUP)
        return rc;
    return error_set(err, rc, NULL, "no convolution of [%d, %d, %d, %d] with %dx%d filters, stride %d, to %d channels",
                     s->n, s->h, s->w, s->c, s->r, s->s, s->stride, s->k);
}

/* Which arguments of pd are x, y and the filters. */
struct roles {
    dnnl_query_t x, y;
    int x_argument, y_argument;
};
static const struct roles forward_roles = {dnnl_query_src_md, dnnl_query_dst_md, DNNL_ARG_SRC, DNNL_ARG_DST};
static const struct roles backward_roles = {dnnl_query_diff_dst_md, dnnl_query_diff_src_md, DNNL_ARG_DIFF_DST,
                                            DNNL_ARG_DIFF_SRC};

/* pd as the next call, with its filters packed. bias may be NULL. */
static int fill_call(struct convolution *c, const struct lowering *l, const_dnnl_primitive_desc_t pd,
                     const struct roles *roles, const struct pack_request *filters, const float *bias,
                     struct error *err)
{
    struct onednn_call *call = &c->call[c->n_calls];
    struct pack_request request = *filters;
    const void *packed = NULL;
    int rc = onednn_call_create(c->device, pd, c->n_threads, call, err);
    if (rc)
        return rc;
    c->n_calls++;
    request.layout = *dnnl_primitive_desc_query_md(pd, dnnl_query_weights_md, 0);
    c->x_argument = call->n_arguments;
    c->y_argument = call->n_arguments + 1;
    rc = weights_packed(l->weights, &request, &packed, err);
    if (!rc)
        rc = onednn_call_add(c->device, call, pd, roles->x, 0, roles->x_argument, NULL, err);
    if (!rc)
        rc = onednn_call_add(c->device, call, pd, roles->y, 0, roles->y_argument, NULL, err);
    if (!rc)
        rc = onednn_call_add(c->device, call, pd, dnnl_query_weights_md, 0, DNNL_ARG_WEIGHTS, (void *)packed, err);
    if (!rc && bias)
        rc = onednn_call_add(c->device, call, pd, dnnl_query_weights_md, 1, DNNL_ARG_BIAS, (void *)bias, err);
    return rc;
}

/* A forward convolution of this shape. */
static int add_call(struct convolution *c, const struct lowering *l, const struct conv_shape *s,
                    const struct pack_request *filters, const float *bias, struct error *err)
{
    dnnl_convolution_desc_t desc;
    dnnl_primitive_desc_t pd = NULL;
    int rc = conv_describe(s, bias, &desc, err);
    if (!rc)
        rc = onednn_descriptor_create(c->device, &desc, NULL, c->sums, c->n_threads, &pd, err);
    if (rc)
        return conv_unsupported(s, rc, err);
    rc = fill_call(c, l, pd, &forward_roles, filters, bias, err);
    dnnl_primitive_desc_destroy(pd);
    return rc;
}

struct conv_shape conv_shape_of(const struct operand *x, enum dtype tx, enum dtype ty, const struct tensor *w,
                                const struct node_attr *attr)
{
    int32_t scale = attr->upsample2x ? 2 : 1, stride = attr->stride;
    struct conv_shape s = {.n = x->n,
                           .h = x->h * scale,
                           .w = x->w * scale,
                           .c = x->c,
                           .k = w->dim[0],
                           .r = w->dim[1],
                           .s = w->dim[2],
                           .stride = stride,
                           .x = tx,
                           .y = ty};
    if (attr->valid) {
        s.out_h = (s.h - s.r) / stride + 1;
        s.out_w = (s.w - s.s) / stride + 1;
        return s;
    }
    s.out_h = (s.h + stride - 1) / stride;
    s.out_w = (s.w + stride - 1) / stride;
    s.pad[0][0] = s.r / 2;
    s.pad[1][0] = s.s / 2;
    s.pad[0][1] = (s.out_h - 1) * stride + s.r - s.h - s.pad[0][0];
    s.pad[1][1] = (s.out_w - 1) * stride + s.s - s.w - s.pad[1][0];
    return s;
}

static int add_phases(struct convolution *c, const struct lowering *l, int32_t param, const float *bias,
                      struct error *err)
{
    int rc = 0;
    for (int32_t phase = 0; phase < 4 && !rc; phase++) {
        struct conv_shape s = {.n = c->x.n,
                               .h = c->x.h,
                               .w = c->x.w,
                               .c = c->x.c,
                               .k = c->y.c,
                               .r = 2,
                               .s = 2,
                               .out_h = c->x.h,
                               .out_w = c->x.w,
                               .stride = 1,
                               .x = l->graph->compute,
                               .y = c->y.dtype};
        s.pad[0][0] = 1 - phase / 2;
        s.pad[0][1] = phase / 2;
        s.pad[1][0] = 1 - phase % 2;
        s.pad[1][1] = phase % 2;
        rc = add_call(c, l, &s, &(struct pack_request){.kind = PACK_UPSAMPLE, .param = param, .phase = phase}, bias,
                      err);
    }
    c->phase_bytes = cpu_align(operand_bytes(&c->y) / 4);
    return rc;
}

static int finish_lowering(struct convolution *c, int rc, struct primitive **ret_primitive)
{
    if (rc) {
        convolution_free(&c->base);
        return rc;
    }
    place_scratch(c);
    *ret_primitive = &c->base;
    return 0;
}

int lower_conv2d(struct device *d, const struct lowering *l, struct primitive **ret_primitive, struct error *err)
{
    const struct node *n = l->node;
    const struct tensor *w = &l->graph->tensors[n->in[1]];
    struct convolution *c = NULL;
    const float *bias = NULL;
    tensor_id residual = n->n_in > 3 ? n->in[3] : TENSOR_NONE;
    int rc = convolution_create(d, l, n->in[0], n->out[0], residual, &c, err);
    if (rc)
        return rc;
    rc = weights_vector(l, n->n_in > 2 ? n->in[2] : TENSOR_NONE, &bias, err);
    bool by_phases =
        n->attr.upsample2x && w->dim[1] == 3 && w->dim[2] == 3 && operand_pixels(&c->x) >= UPSAMPLE_BY_PHASES_PIXELS;
    struct conv_shape s = conv_shape_of(&c->x, l->graph->compute, c->y.dtype, w, &n->attr);
    if (!rc && !by_phases && winograd_wins(d, &s)) {
        convolution_free(&c->base);
        return winograd_create(d, l,
                               &(struct winograd_conv){.x = n->in[0],
                                                       .y = n->out[0],
                                                       .residual = residual,
                                                       .param = w->index,
                                                       .upsample2x = n->attr.upsample2x,
                                                       .bias = bias},
                               ret_primitive, err);
    }
    if (!rc && by_phases) {
        rc = add_phases(c, l, w->index, bias, err);
    } else if (!rc) {
        c->spread_x = n->attr.upsample2x;
        c->sums = operand_exists(&c->residual);
        rc = add_call(c, l, &s, &(struct pack_request){.kind = PACK_FORWARD, .param = w->index}, bias, err);
    }
    return finish_lowering(c, rc, ret_primitive);
}

/* ---- gradient of the input ---- */

/* The forward convolution whose gradient is wanted, hint for its backward primitives. */
int conv_backward_create(struct device *d, const struct conv_shape *s, const dnnl_convolution_desc_t *desc,
                         int n_threads, dnnl_primitive_desc_t *ret_pd, struct error *err)
{
    dnnl_convolution_desc_t forward;
    dnnl_primitive_desc_t hint = NULL;
    int rc = conv_describe(s, false, &forward, err);
    if (!rc) {
        forward.prop_kind = dnnl_forward_training;
        rc = onednn_descriptor_create(d, &forward, NULL, false, n_threads, &hint, err);
    }
    if (!rc)
        rc = onednn_descriptor_create(d, desc, hint, false, n_threads, ret_pd, err);
    if (hint)
        dnnl_primitive_desc_destroy(hint);
    return rc ? conv_unsupported(s, rc, err) : 0;
}

static int describe_backward_data(const struct conv_shape *s, dnnl_convolution_desc_t *ret_desc, struct error *err)
{
    dnnl_memory_desc_t dx, w, dy;
    dnnl_dims_t filter = {s->k, s->c, s->r, s->s};
    dnnl_dims_t strides = {s->stride, s->stride}, low = {s->pad[0][0], s->pad[1][0]},
                high = {s->pad[0][1], s->pad[1][1]};
    int rc = onednn_image(&dx, s->x, s->n, s->h, s->w, s->c, err);
    if (!rc)
        rc = onednn_image(&dy, s->y, s->n, s->out_h, s->out_w, s->k, err);
    if (!rc)
        rc = ONEDNN(dnnl_memory_desc_init_by_tag(&w, 4, filter, onednn_dtype(s->x), dnnl_format_tag_any), err);
    if (!rc)
        rc = ONEDNN(dnnl_convolution_backward_data_desc_init(ret_desc, dnnl_convolution_direct, &dx, &w, &dy, strides,
                                                             low, high),
                    err);
    return rc;
}

/* By oneDNN's own gradient: strided convolutions. */
static int add_backward_call(struct convolution *c, const struct lowering *l, const struct conv_shape *s, int32_t param,
                             struct error *err)
{
    dnnl_convolution_desc_t desc;
    dnnl_primitive_desc_t pd = NULL;
    int rc = describe_backward_data(s, &desc, err);
    if (!rc)
        rc = conv_backward_create(c->device, s, &desc, c->n_threads, &pd, err);
    if (!rc)
        rc = fill_call(c, l, pd, &backward_roles, &(struct pack_request){.kind = PACK_FORWARD, .param = param}, NULL,
                       err);
    if (pd)
        dnnl_primitive_desc_destroy(pd);
    return rc;
}

int lower_conv2d_backward_data(struct device *d, const struct lowering *l, struct primitive **ret_primitive,
                               struct error *err)
{
    const struct node *n = l->node;
    const struct tensor *w = &l->graph->tensors[n->in[1]];
    struct convolution *c = NULL;
    int rc = convolution_create(d, l, n->in[0], n->out[0], n->n_in > 2 ? n->in[2] : TENSOR_NONE, &c, err);
    if (rc)
        return rc;
    c->gather_y = n->attr.upsample2x;
    /* of the forward convolution: y is its input, x its output */
    enum dtype t = l->graph->compute;
    struct conv_shape s = conv_shape_of(&c->y, t, t, w, &n->attr);
    if (n->attr.stride != 1) {
        rc = add_backward_call(c, l, &s, w->index, err);
    } else {
        struct conv_shape turned = {.n = s.n,
                                    .h = s.out_h,
                                    .w = s.out_w,
                                    .c = s.k,
                                    .k = s.c,
                                    .r = s.r,
                                    .s = s.s,
                                    .out_h = s.h,
                                    .out_w = s.w,
                                    .stride = 1,
                                    .x = t,
                                    .y = t};
        for (int axis = 0; axis < 2; axis++)
            for (int side = 0; side < 2; side++)
                turned.pad[axis][side] = w->dim[1 + axis] - 1 - s.pad[axis][side];
        if (!c->gather_y && winograd_wins(d, &turned)) {
            convolution_free(&c->base);
            return winograd_create(d, l,
                                   &(struct winograd_conv){.x = n->in[0],
                                                           .y = n->out[0],
                                                           .residual = n->n_in > 2 ? n->in[2] : TENSOR_NONE,
                                                           .param = w->index,
                                                           .turned = true},
                                   ret_primitive, err);
        }
        c->sums = operand_exists(&c->residual) && !c->gather_y;
        rc = add_call(c, l, &turned, &(struct pack_request){.kind = PACK_FLIPPED, .param = w->index}, NULL, err);
    }
    return finish_lowering(c, rc, ret_primitive);
}
