/* conv.c: convolutions and their gradients by cuDNN.
 *
 * Where cuDNN has an engine that adds bias and residual itself, one call does it all; else it convolves and a kernel of
 * ours adds. cuDNN reads and writes dense tensors aligned to 16 bytes, as the arena's are; any other view passes
 * through the scratch. A convolution on an upsampled image spreads it there first; its gradient is summed back.
 */
#include "kernels/cuda/cuda.h"
#include "kernels/cuda/engine.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* A tensor that cuDNN reads or writes: where it lies, or densely in the scratch. */
struct side {
    struct operand o;
    bool scratch; // it has room in the scratch
    bool doubled; // there it is twice as high and wide: before or after an upsampling
    size_t offset;
};

struct convolution {
    struct primitive base;
    struct device *device;
    const struct dnn_plan *plan;
    struct gpu_pixels w, bias;
    struct side x, y, residual; // as of the forward convolution; residual: the gradient of x's "more"
    struct operand dw, db;
    bool adds;      // our own kernel adds bias and residual
    enum dtype raw; // what cuDNN writes
    size_t dw_offset, workspace_offset, sums_offset;
};

static void convolution_free(struct primitive *p)
{
    free(p);
}

/* ---- scratch ---- */

static size_t take(struct convolution *c, size_t bytes)
{
    size_t offset = c->base.scratch_bytes;
    c->base.scratch_bytes += cuda_align(bytes);
    return offset;
}

static void give_scratch(struct convolution *c, struct side *s, enum dtype dtype)
{
    s->scratch = true;
    s->offset = take(c, operand_all(&s->o) * (s->doubled ? 4 : 1) * (size_t)s->o.c * dtype_bytes(dtype));
}

/* The side's address for cuDNN. */
static void *address_of(const struct side *s, const struct frame *f)
{
    return s->scratch ? f->base[BASE_SCRATCH] + s->offset : operand_at(&s->o, f);
}

static struct gpu_pixels scratch_of(const struct side *s, const struct frame *f, enum dtype dtype)
{
    return scratch_view(f, s->offset, dtype, s->o.c);
}

/* Copies (or upsamples) what cuDNN is to read into the scratch, where it does not read it in place. */
static int fetch(struct convolution *c, const struct side *s, const struct frame *f)
{
    const struct operand *o = &s->o;
    if (!s->scratch)
        return 0;
    struct gpu_pixels to = scratch_of(s, f, o->dtype), from = operand_view(o, f);
    cudaStream_t stream = c->device->stream;
    if (s->doubled)
        return CUDA(c->device,
                    gpu_spread2x(stream, to, from, (size_t)o->n, (size_t)o->h, (size_t)o->w, (size_t)o->c, 1.0f), NULL);
    return CUDA(c->device, gpu_copy(stream, to, from, operand_all(o), (size_t)o->c), NULL);
}

static int execute(struct convolution *c, const struct frame *f, void *const *at)
{
    void *workspace = f->base[BASE_SCRATCH] + c->workspace_offset;
    return CUDNN(c->device, dnn_run(&c->plan->graph, c->plan->plan, at, workspace, 1.0f), NULL);
}

/* ---- forward ---- */

static int finish_forward(struct convolution *c, const struct frame *f)
{
    const struct operand *y = &c->y.o;
    struct gpu_pixels raw = c->y.scratch ? scratch_of(&c->y, f, c->raw) : operand_view(y, f);
    if (!c->adds)
        return c->y.scratch
                   ? CUDA(c->device, gpu_copy(c->device->stream, operand_view(y, f), raw, operand_all(y), (size_t)y->c),
                          NULL)
                   : 0;
    return CUDA(c->device,
                gpu_finish_conv(c->device->stream, operand_view(y, f), raw, c->bias, operand_view(&c->residual.o, f),
                                operand_all(y), (size_t)y->c),
                NULL);
}

static int run_forward(struct primitive *p, const struct frame *f)
{
    struct convolution *c = (struct convolution *)p;
    void *at[DNN_TENSORS] = {[DNN_X] = address_of(&c->x, f), [DNN_W] = c->w.at, [DNN_Y] = address_of(&c->y, f)};
    int rc = fetch(c, &c->x, f);
    if (!c->adds) {
        at[DNN_BIAS] = c->bias.at;
        at[DNN_RESIDUAL] = address_of(&c->residual, f);
        if (rc == 0)
            rc = fetch(c, &c->residual, f);
    }
    if (rc == 0)
        rc = execute(c, f, at);
    return rc ? rc : finish_forward(c, f);
}

/* ---- backward data: dx = (gradient) [+ more] ---- */

static int run_backward_data(struct primitive *p, const struct frame *f)
{
    struct convolution *c = (struct convolution *)p;
    const struct operand *dx = &c->x.o;
    void *const at[DNN_TENSORS] = {[DNN_X] = address_of(&c->x, f), [DNN_W] = c->w.at, [DNN_Y] = address_of(&c->y, f)};
    struct gpu_pixels to = operand_view(dx, f), more = operand_view(&c->residual.o, f);
    int rc = fetch(c, &c->y, f);
    if (rc == 0)
        rc = execute(c, f, at);
    if (rc)
        return rc;
    struct gpu_pixels raw = c->x.scratch ? scratch_of(&c->x, f, dx->dtype) : to;
    cudaStream_t stream = c->device->stream;
    if (c->x.doubled)
        return CUDA(
            c->device,
            gpu_gather2x(stream, to, raw, more, (size_t)dx->n, (size_t)dx->h, (size_t)dx->w, (size_t)dx->c, 1.0f),
            NULL);
    if (more.at)
        return CUDA(c->device, gpu_add(stream, to, raw, more, operand_all(dx), (size_t)dx->c), NULL);
    if (c->x.scratch)
        return CUDA(c->device, gpu_copy(stream, to, raw, operand_all(dx), (size_t)dx->c), NULL);
    return 0;
}

/* ---- backward weights ---- */

/* cuDNN wants the gradient in the inputs' dtype; it was summed in f32. */
static int finish_weights(struct convolution *c, const struct frame *f)
{
    const struct operand *dw = &c->dw, *dy = &c->y.o;
    size_t n = operand_bytes(dw) / sizeof(float);
    cudaStream_t stream = c->device->stream;
    int rc = 0;
    if (c->raw != DTYPE_F32)
        rc = CUDA(c->device,
                  gpu_copy(stream, (struct gpu_pixels){DTYPE_F32, operand_at(dw, f), n},
                           (struct gpu_pixels){c->raw, f->base[BASE_SCRATCH] + c->dw_offset, n}, 1, n),
                  NULL);
    if (rc == 0 && operand_exists(&c->db))
        rc = CUDA(c->device,
                  gpu_sum_pixels(stream, operand_view(&c->db, f), operand_view(dy, f), 1, operand_all(dy),
                                 (size_t)dy->c, (float *)(f->base[BASE_SCRATCH] + c->sums_offset)),
                  NULL);
    return rc;
}

static int run_backward_weights(struct primitive *p, const struct frame *f)
{
    struct convolution *c = (struct convolution *)p;
    void *dw = c->raw == DTYPE_F32 ? operand_at(&c->dw, f) : f->base[BASE_SCRATCH] + c->dw_offset;
    void *const at[DNN_TENSORS] = {[DNN_X] = address_of(&c->x, f), [DNN_W] = dw, [DNN_Y] = address_of(&c->y, f)};
    int rc = operand_exists(&c->dw) ? fetch(c, &c->x, f) : 0;
    if (rc == 0 && operand_exists(&c->dw))
        rc = fetch(c, &c->y, f);
    if (rc == 0 && operand_exists(&c->dw))
        rc = execute(c, f, at);
    return rc ? rc : finish_weights(c, f);
}

/* ---- lowering ---- */

static struct convolution *create(struct device *d, const struct lowering *l,
                                  int (*run)(struct primitive *, const struct frame *), struct error *err)
{
    struct convolution *c = calloc(1, sizeof(*c));
    if (!c) {
        error_set(err, -ENOMEM, NULL, "no memory for a convolution");
        return NULL;
    }
    c->base = (struct primitive){run, convolution_free, 0};
    c->device = d;
    c->raw = l->graph->compute;
    c->x.o = c->y.o = c->residual.o = c->dw = c->db = cuda_operand(l, TENSOR_NONE);
    return c;
}

/* The shape as cuDNN sees it: an upsampled x has its full size. */
static struct dnn_shape shape_of(const struct convolution *c, const struct lowering *l, enum dnn_kind kind,
                                 const int32_t filter[4])
{
    struct dnn_shape s = {0};
    int32_t scale = l->node->attr.upsample2x ? 2 : 1;
    s.kind = kind;
    s.in = (int32_t)l->graph->compute;
    s.out = (int32_t)c->raw;
    s.h = c->x.o.h * scale;
    s.w = c->x.o.w * scale;
    s.c = c->x.o.c;
    s.k = c->y.o.c;
    s.r = filter[1];
    s.s = filter[2];
    s.valid = l->node->attr.valid;
    s.stride = l->node->attr.stride;
    return s;
}

static int want_plan(struct convolution *c, const struct dnn_shape *s, struct error *err)
{
    return engines_plan(c->device->engines, s, c->x.o.n, &c->plan, err);
}

/* Fused; else plain, to be finished by us: in y's dtype, or in the compute dtype where that is refused. */
static int choose_forward(struct convolution *c, const struct lowering *l, struct error *err)
{
    struct dnn_shape s = shape_of(c, l, DNN_CONV, l->graph->tensors[l->node->in[1]].dim);
    s.out = (int32_t)c->y.o.dtype;
    c->raw = c->y.o.dtype;
    s.bias = c->bias.at != NULL;
    s.residual = operand_exists(&c->residual.o);
    int rc = want_plan(c, &s, err);
    if (rc != -ENOTSUP)
        return rc;
    c->adds = s.bias || s.residual;
    s.bias = s.residual = 0;
    rc = c->adds ? want_plan(c, &s, err) : rc;
    if (rc != -ENOTSUP || c->raw == l->graph->compute)
        return rc;
    c->adds = true;
    c->raw = l->graph->compute;
    s.out = (int32_t)c->raw;
    return want_plan(c, &s, err);
}

/* Whether our adding kernel would find the residual overwritten. */
static bool residual_in_place(const struct convolution *c)
{
    return operand_exists(&c->residual.o) && c->residual.o.place.base == c->y.o.place.base &&
           c->residual.o.place.offset == c->y.o.place.offset;
}

int lower_conv2d(struct device *d, const struct lowering *l, struct primitive **ret_primitive, struct error *err)
{
    const struct node *node = l->node;
    struct convolution *c = create(d, l, run_forward, err);
    if (!c)
        return -ENOMEM;
    c->x.o = cuda_operand(l, node->in[0]);
    c->y.o = cuda_operand(l, node->out[0]);
    c->residual.o = cuda_operand(l, node->in[3]);
    int rc = weights_at(l, node->in[1], false, &c->w, err);
    if (rc == 0)
        rc = weights_at(l, node->in[2], false, &c->bias, err);
    if (rc == 0)
        rc = choose_forward(c, l, err);
    if (rc) {
        free(c);
        return rc;
    }
    c->x.doubled = node->attr.upsample2x;
    if (c->x.doubled || !operand_plain(&c->x.o))
        give_scratch(c, &c->x, c->x.o.dtype);
    if (!operand_plain(&c->y.o) || c->raw != c->y.o.dtype || (c->adds && residual_in_place(c)))
        give_scratch(c, &c->y, c->raw);
    if (operand_exists(&c->residual.o) && !c->adds && !operand_plain(&c->residual.o))
        give_scratch(c, &c->residual, c->residual.o.dtype);
    c->workspace_offset = take(c, c->plan->workspace_bytes);
    *ret_primitive = &c->base;
    return 0;
}

int lower_conv2d_backward_data(struct device *d, const struct lowering *l, struct primitive **ret_primitive,
                               struct error *err)
{
    const struct node *node = l->node;
    struct convolution *c = create(d, l, run_backward_data, err);
    if (!c)
        return -ENOMEM;
    c->y.o = cuda_operand(l, node->in[0]);
    c->x.o = cuda_operand(l, node->out[0]);
    c->residual.o = cuda_operand(l, node->in[2]);
    int rc = weights_at(l, node->in[1], false, &c->w, err);
    if (rc == 0) {
        const struct dnn_shape s = shape_of(c, l, DNN_CONV_DATA, l->graph->tensors[node->in[1]].dim);
        rc = want_plan(c, &s, err);
    }
    if (rc) {
        free(c);
        return rc;
    }
    c->x.doubled = node->attr.upsample2x;
    if (!operand_plain(&c->y.o))
        give_scratch(c, &c->y, c->y.o.dtype);
    if (c->x.doubled || !operand_plain(&c->x.o))
        give_scratch(c, &c->x, c->x.o.dtype);
    c->workspace_offset = take(c, c->plan->workspace_bytes);
    *ret_primitive = &c->base;
    return 0;
}

int lower_conv2d_backward_weights(struct device *d, const struct lowering *l, struct primitive **ret_primitive,
                                  struct error *err)
{
    const struct node *node = l->node;
    struct convolution *c = create(d, l, run_backward_weights, err);
    if (!c)
        return -ENOMEM;
    c->x.o = cuda_operand(l, node->in[0]);
    c->y.o = cuda_operand(l, node->in[1]);
    c->dw = cuda_operand(l, node->out[0]);
    c->db = cuda_operand(l, node->out[1]);
    int rc = 0;
    if (operand_exists(&c->dw)) {
        const struct dnn_shape s = shape_of(c, l, DNN_CONV_WEIGHTS, l->graph->tensors[node->out[0]].dim);
        rc = want_plan(c, &s, err);
    }
    if (rc) {
        free(c);
        return rc;
    }
    c->x.doubled = node->attr.upsample2x;
    if (c->x.doubled || !operand_plain(&c->x.o))
        give_scratch(c, &c->x, c->x.o.dtype);
    if (!operand_plain(&c->y.o))
        give_scratch(c, &c->y, c->y.o.dtype);
    if (operand_exists(&c->dw)) {
        c->dw_offset = c->raw == DTYPE_F32 ? 0 : take(c, operand_bytes(&c->dw) / sizeof(float) * dtype_bytes(c->raw));
        c->workspace_offset = take(c, c->plan->workspace_bytes);
    }
    c->sums_offset = take(c, gpu_sum_pixels_scratch(operand_all(&c->y.o), (size_t)c->y.o.c) * sizeof(float));
    *ret_primitive = &c->base;
    return 0;
}
