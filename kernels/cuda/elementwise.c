/* elementwise.c: operations that one kernel of ours computes, each a function that reads operands by position and
 * launches it, and what all such primitives share.
 */
#include "kernels/cuda/cuda.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>

/* ---- operands and primitives ---- */

struct operand cuda_operand(const struct lowering *l, tensor_id id)
{
    struct operand o = {.place = {.base = -1}};
    if (id == TENSOR_NONE)
        return o;
    const struct tensor *t = &l->graph->tensors[id];
    return (struct operand){l->places[id], t->dtype, t->dim[0], t->dim[1], t->dim[2], t->dim[3]};
}

static void kernel_primitive_free(struct primitive *primitive)
{
    struct kernel_primitive *p = (struct kernel_primitive *)primitive;
    cuda_free(p->device, p->constants, p->constants_bytes);
    free(p);
}

int kernel_primitive_create(struct device *d, const struct lowering *l,
                            int (*run)(struct primitive *, const struct frame *),
                            struct kernel_primitive **ret_primitive, struct error *err)
{
    struct kernel_primitive *p = calloc(1, sizeof(*p));
    if (!p)
        return error_set(err, -ENOMEM, NULL, "no memory for an operation");
    p->base = (struct primitive){run, kernel_primitive_free, 0};
    p->device = d;
    p->node = *l->node;
    p->node.in = p->node.out = NULL;
    for (int i = 0; i < (int)(sizeof(p->in) / sizeof(p->in[0])); i++)
        p->in[i] = cuda_operand(l, i < l->node->n_in ? l->node->in[i] : TENSOR_NONE);
    for (int i = 0; i < (int)(sizeof(p->out) / sizeof(p->out[0])); i++)
        p->out[i] = cuda_operand(l, i < l->node->n_out ? l->node->out[i] : TENSOR_NONE);
    *ret_primitive = p;
    return 0;
}

/* What a run of one of them sees. */
struct call {
    const struct kernel_primitive *p;
    const struct frame *f;
    cudaStream_t stream;
};

static struct gpu_pixels in(const struct call *c, int i)
{
    return operand_view(&c->p->in[i], c->f);
}

static struct gpu_pixels out(const struct call *c, int i)
{
    return operand_view(&c->p->out[i], c->f);
}

#define OPERATION(name)                                                                                                \
    static int run_##name(struct primitive *p, const struct frame *f)                                                  \
    {                                                                                                                  \
        struct kernel_primitive *k = (struct kernel_primitive *)p;                                                     \
        const struct call c = {k, f, k->device->stream};                                                               \
        return CUDA(k->device, name##_call(&c), NULL);                                                                 \
    }                                                                                                                  \
    int lower_##name(struct device *d, const struct lowering *l, struct primitive **ret_primitive, struct error *err)  \
    {                                                                                                                  \
        struct kernel_primitive *p;                                                                                    \
        int rc = kernel_primitive_create(d, l, run_##name, &p, err);                                                   \
        if (rc == 0)                                                                                                   \
            *ret_primitive = &p->base;                                                                                 \
        return rc;                                                                                                     \
    }

/* ---- pixel by pixel ---- */

static size_t pixels(const struct call *c)
{
    return operand_all(&c->p->out[0]);
}

static size_t channels(const struct call *c)
{
    return (size_t)c->p->out[0].c;
}

static cudaError_t cast_call(const struct call *c)
{
    return gpu_copy(c->stream, out(c, 0), in(c, 0), pixels(c), channels(c));
}
OPERATION(cast)

static cudaError_t silu_call(const struct call *c)
{
    return gpu_silu(c->stream, out(c, 0), in(c, 0), pixels(c), channels(c));
}
OPERATION(silu)

static cudaError_t silu_backward_call(const struct call *c)
{
    return gpu_silu_backward(c->stream, out(c, 0), in(c, 0), in(c, 1), pixels(c), channels(c));
}
OPERATION(silu_backward)

static cudaError_t add_call(const struct call *c)
{
    return gpu_add(c->stream, out(c, 0), in(c, 0), in(c, 1), pixels(c), channels(c));
}
OPERATION(add)

static cudaError_t add_channel_call(const struct call *c)
{
    const struct operand *y = &c->p->out[0];
    return gpu_add_channel(c->stream, out(c, 0), in(c, 0), in(c, 1), (size_t)y->n, operand_pixels(y), (size_t)y->c);
}
OPERATION(add_channel)

static cudaError_t relu_call(const struct call *c)
{
    return gpu_relu(c->stream, out(c, 0), in(c, 0), pixels(c), channels(c));
}
OPERATION(relu)

/* ---- classifiers ---- */

static cudaError_t pool_call(const struct call *c)
{
    const struct operand *x = &c->p->in[0], *y = &c->p->out[0];
    const struct node_attr *a = &c->p->node.attr;
    const struct gpu_pool p = {.images = (size_t)x->n,
                               .h = (size_t)x->h,
                               .w = (size_t)x->w,
                               .p = (size_t)y->h,
                               .q = (size_t)y->w,
                               .c = (size_t)x->c,
                               .window = a->window,
                               .stride = a->stride,
                               .padding = a->valid ? 0 : a->window / 2,
                               .max = a->max};
    return gpu_pool(c->stream, out(c, 0), in(c, 0), &p);
}
OPERATION(pool)

static cudaError_t global_mean_call(const struct call *c)
{
    const struct operand *x = &c->p->in[0];
    return gpu_global_mean(c->stream, out(c, 0), in(c, 0), (size_t)x->n, operand_pixels(x), (size_t)x->c);
}
OPERATION(global_mean)

static cudaError_t global_mean_backward_call(const struct call *c)
{
    const struct operand *dx = &c->p->out[0];
    return gpu_global_mean_backward(c->stream, out(c, 0), in(c, 0), (size_t)dx->n, operand_pixels(dx), (size_t)dx->c);
}
OPERATION(global_mean_backward)

static cudaError_t cross_entropy_call(const struct call *c)
{
    const struct operand *x = &c->p->in[0];
    return gpu_cross_entropy(c->stream, out(c, 0).at, (struct gpu_pixels){.at = NULL}, in(c, 0), in(c, 1).at, NULL,
                             (size_t)x->n, (size_t)x->c);
}
OPERATION(cross_entropy)

static cudaError_t cross_entropy_backward_call(const struct call *c)
{
    const struct operand *x = &c->p->in[0];
    return gpu_cross_entropy(c->stream, NULL, out(c, 0), in(c, 0), in(c, 1).at, in(c, 2).at, (size_t)x->n,
                             (size_t)x->c);
}
OPERATION(cross_entropy_backward)

/* ---- channels side by side ---- */

static struct gpu_pixels from_channel(struct gpu_pixels x, int32_t channel)
{
    x.at = (char *)x.at + (size_t)channel * dtype_bytes(x.dtype);
    return x;
}

static cudaError_t concat_call(const struct call *c)
{
    cudaError_t e = cudaSuccess;
    int32_t channel = 0;
    for (int i = 0; i < 2 && e == cudaSuccess; channel += c->p->in[i].c, i++) {
        struct gpu_pixels y = from_channel(out(c, 0), channel), x = in(c, i);
        if (x.at != y.at) // its producer wrote it in place
            e = gpu_copy(c->stream, y, x, pixels(c), (size_t)c->p->in[i].c);
    }
    return e;
}
OPERATION(concat)

static cudaError_t slice_call(const struct call *c)
{
    return gpu_copy(c->stream, out(c, 0), from_channel(in(c, 0), c->p->node.attr.channel), pixels(c), channels(c));
}
OPERATION(slice)

/* ---- 2x2 blocks ---- */

static cudaError_t spread(const struct call *c, float factor)
{
    const struct operand *x = &c->p->in[0];
    return gpu_spread2x(c->stream, out(c, 0), in(c, 0), (size_t)x->n, (size_t)x->h, (size_t)x->w, (size_t)x->c, factor);
}

static cudaError_t gather(const struct call *c, float factor)
{
    const struct operand *y = &c->p->out[0];
    return gpu_gather2x(c->stream, out(c, 0), in(c, 0), (struct gpu_pixels){.at = NULL}, (size_t)y->n, (size_t)y->h,
                        (size_t)y->w, (size_t)y->c, factor);
}

static cudaError_t upsample2x_call(const struct call *c)
{
    return spread(c, 1.0f);
}
OPERATION(upsample2x)

static cudaError_t upsample2x_backward_call(const struct call *c)
{
    return gather(c, 1.0f);
}
OPERATION(upsample2x_backward)

static cudaError_t avg_pool2x_call(const struct call *c)
{
    return gather(c, 0.25f);
}
OPERATION(avg_pool2x)

static cudaError_t avg_pool2x_backward_call(const struct call *c)
{
    return spread(c, 0.25f);
}
OPERATION(avg_pool2x_backward)

/* ---- dropout: forward and backward are the same ---- */

static cudaError_t dropout_call(const struct call *c)
{
    const struct operand *y = &c->p->out[0];
    const struct node_attr *a = &c->p->node.attr;
    return gpu_dropout(c->stream, out(c, 0), in(c, 0), in(c, 1).at, (size_t)y->n, operand_pixels(y), (size_t)y->c,
                       a->stream, a->rate);
}
OPERATION(dropout)

/* ---- loss ---- */

static cudaError_t mse_call(const struct call *c)
{
    const struct operand *a = &c->p->in[0];
    return gpu_mse(c->stream, out(c, 0).at, in(c, 0), in(c, 1), (size_t)a->n, operand_pixels(a), (size_t)a->c);
}
OPERATION(mse)

static cudaError_t mse_backward_call(const struct call *c)
{
    const struct operand *a = &c->p->in[0];
    return gpu_mse_backward(c->stream, out(c, 0), in(c, 0), in(c, 1), in(c, 2).at, (size_t)a->n, operand_pixels(a),
                            (size_t)a->c);
}
OPERATION(mse_backward)

/* ---- embeddings ---- */

static cudaError_t embedding_backward_call(const struct call *c)
{
    const struct operand *table = &c->p->out[0];
    return gpu_embedding_backward(c->stream, out(c, 0).at, in(c, 1), in(c, 0).at, (size_t)c->p->in[1].n,
                                  (size_t)table->n, (size_t)table->c);
}
OPERATION(embedding_backward)

static int run_embedding(struct primitive *primitive, const struct frame *f)
{
    struct kernel_primitive *p = (struct kernel_primitive *)primitive;
    const struct operand *y = &p->out[0];
    return CUDA(p->device,
                gpu_embedding(p->device->stream, operand_view(y, f), p->param[0], operand_at(&p->in[1], f),
                              (size_t)y->n, (size_t)p->in[0].n, (size_t)y->c),
                NULL);
}

int lower_embedding(struct device *d, const struct lowering *l, struct primitive **ret_primitive, struct error *err)
{
    struct kernel_primitive *p;
    int rc = kernel_primitive_create(d, l, run_embedding, &p, err);
    if (rc)
        return rc;
    rc = weights_at(l, l->node->in[0], false, &p->param[0], err);
    if (rc)
        p->base.free(&p->base);
    else
        *ret_primitive = &p->base;
    return rc;
}

static int run_timestep_embedding(struct primitive *primitive, const struct frame *f)
{
    struct kernel_primitive *p = (struct kernel_primitive *)primitive;
    const struct operand *y = &p->out[0];
    return CUDA(p->device,
                gpu_timestep_embedding(p->device->stream, operand_view(y, f), operand_at(&p->in[0], f), p->constants,
                                       (size_t)y->n, (size_t)y->c / 2),
                NULL);
}

/* Frequencies are computed here, in f32 as the reference does. */
int lower_timestep_embedding(struct device *d, const struct lowering *l, struct primitive **ret_primitive,
                             struct error *err)
{
    struct kernel_primitive *p;
    int rc = kernel_primitive_create(d, l, run_timestep_embedding, &p, err);
    if (rc)
        return rc;
    size_t half = (size_t)p->out[0].c / 2;
    float *frequency = malloc(half * sizeof(float));
    rc = frequency ? cuda_alloc(d, half * sizeof(float), (void **)&p->constants) : -ENOMEM;
    if (rc == 0) {
        p->constants_bytes = half * sizeof(float);
        for (size_t k = 0; k < half; k++)
            frequency[k] = expf((float)-log(10000.0) * (float)k / (float)half);
        rc = cuda_upload(d, p->constants, frequency, half * sizeof(float));
    }
    free(frequency);
    if (rc) {
        p->base.free(&p->base);
        return error_set(err, rc, NULL, "no memory for a timestep embedding");
    }
    *ret_primitive = &p->base;
    return 0;
}
