/* attention.c: attention and its gradient, by cuDNN's fused engines in bf16 where they take the shape, else by our own
 * kernel row by row.
 */
#include "kernels/cuda/cuda.h"
#include "kernels/cuda/engine.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

struct attention {
    struct primitive base;
    struct device *device;
    const struct dnn_plan *plan; // NULL: our own kernel
    struct operand qkv, y, lse, dy, dqkv;
    size_t heads, size;
    size_t acc_offset, workspace_offset; // the scratch begins with SUM
};

static void attention_free(struct primitive *p)
{
    free(p);
}

static struct gpu_attention describe(const struct attention *a, const struct frame *f)
{
    return (struct gpu_attention){.dtype = a->qkv.dtype,
                                  .images = (size_t)a->qkv.n,
                                  .tokens = operand_pixels(&a->qkv),
                                  .heads = a->heads,
                                  .size = a->size,
                                  .qkv = operand_view(&a->qkv, f),
                                  .y = operand_view(&a->y, f),
                                  .dy = operand_view(&a->dy, f),
                                  .lse = operand_at(&a->lse, f)};
}

/* q, k or v in a tensor that interleaves them. */
static void *part_of(const struct attention *a, const struct operand *o, const struct frame *f, size_t part)
{
    return (char *)operand_at(o, f) + part * a->size * dtype_bytes(o->dtype);
}

static int execute(const struct attention *a, const struct frame *f, void **at)
{
    at[DNN_Q] = part_of(a, &a->qkv, f, 0);
    at[DNN_K] = part_of(a, &a->qkv, f, 1);
    at[DNN_V] = part_of(a, &a->qkv, f, 2);
    at[DNN_Y] = operand_at(&a->y, f);
    at[DNN_STATS] = operand_at(&a->lse, f);
    void *workspace = f->base[BASE_SCRATCH] + a->workspace_offset;
    float scale = 1.0f / sqrtf((float)a->size);
    return CUDNN(a->device, dnn_run(&a->plan->graph, a->plan->plan, at, workspace, scale), NULL);
}

static int run_forward(struct primitive *p, const struct frame *f)
{
    const struct attention *a = (const struct attention *)p;
    void *at[DNN_TENSORS] = {0};
    if (a->plan)
        return execute(a, f, at);
    struct gpu_attention g = describe(a, f);
    g.to = operand_view(&a->y, f);
    return CUDA(a->device, gpu_attention(a->device->stream, &g), NULL);
}

static int run_backward(struct primitive *p, const struct frame *f)
{
    const struct attention *a = (const struct attention *)p;
    void *at[DNN_TENSORS] = {0};
    if (a->plan) {
        at[DNN_DY] = operand_at(&a->dy, f);
        at[DNN_DQ] = part_of(a, &a->dqkv, f, 0);
        at[DNN_DK] = part_of(a, &a->dqkv, f, 1);
        at[DNN_DV] = part_of(a, &a->dqkv, f, 2);
        at[DNN_SUM] = f->base[BASE_SCRATCH];
        at[DNN_ACC] = f->base[BASE_SCRATCH] + a->acc_offset;
        return execute(a, f, at);
    }
    struct gpu_attention g = describe(a, f);
    g.to = operand_view(&a->dqkv, f);
    return CUDA(a->device, gpu_attention_backward(a->device->stream, &g), NULL);
}

/* cuDNN wants 16 bytes' alignment of every part. */
static bool fits_cudnn(const struct attention *a)
{
    const struct operand *all[] = {&a->qkv, &a->y, &a->dy, &a->dqkv};
    bool plain = a->qkv.dtype == DTYPE_BF16 && a->size % 8 == 0;
    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++)
        plain = plain && (!operand_exists(all[i]) || operand_plain(all[i]));
    return plain && (!operand_exists(&a->lse) || a->lse.place.offset % 16 == 0);
}

/* a->plan where cuDNN has one, else NULL. 0, -ENOMEM, -ENOTSUP where our own cannot do it either. */
static int choose(struct attention *a, enum dnn_kind kind, struct error *err)
{
    struct dnn_shape s = {0};
    s.kind = kind;
    s.in = s.out = (int32_t)a->qkv.dtype;
    s.tokens = (int32_t)operand_pixels(&a->qkv);
    s.heads = (int32_t)a->heads;
    s.size = (int32_t)a->size;
    s.stats = kind == DNN_ATTENTION && operand_exists(&a->lse);
    int rc = fits_cudnn(a) ? engines_plan(a->device->engines, &s, a->qkv.n, &a->plan, err) : -ENOTSUP;
    if (rc != -ENOTSUP)
        return rc;
    if (operand_pixels(&a->qkv) > GPU_MAX_TOKENS || a->size > GPU_MAX_HEAD)
        return error_set(err, -ENOTSUP, NULL, "attention over more than %d pixels or heads of more than %d channels",
                         (int)GPU_MAX_TOKENS, (int)GPU_MAX_HEAD);
    a->plan = NULL;
    return 0;
}

static int create(struct device *d, const struct lowering *l, int (*run)(struct primitive *, const struct frame *),
                  struct attention **ret_attention, struct error *err)
{
    struct attention *a = calloc(1, sizeof(*a));
    if (!a)
        return error_set(err, -ENOMEM, NULL, "no memory for attention");
    a->base = (struct primitive){run, attention_free, 0};
    a->device = d;
    a->qkv = cuda_operand(l, l->node->in[0]);
    a->heads = (size_t)l->node->attr.heads;
    a->size = (size_t)a->qkv.c / 3 / a->heads;
    a->dy = a->dqkv = a->lse = cuda_operand(l, TENSOR_NONE);
    *ret_attention = a;
    return 0;
}

int lower_attention(struct device *d, const struct lowering *l, struct primitive **ret_primitive, struct error *err)
{
    struct attention *a;
    int rc = create(d, l, run_forward, &a, err);
    if (rc)
        return rc;
    a->y = cuda_operand(l, l->node->out[0]);
    a->lse = cuda_operand(l, l->node->out[1]);
    rc = choose(a, DNN_ATTENTION, err);
    if (rc) {
        free(a);
        return rc;
    }
    a->base.scratch_bytes = a->plan ? a->plan->workspace_bytes : 0;
    *ret_primitive = &a->base;
    return 0;
}

int lower_attention_backward(struct device *d, const struct lowering *l, struct primitive **ret_primitive,
                             struct error *err)
{
    struct attention *a;
    int rc = create(d, l, run_backward, &a, err);
    if (rc)
        return rc;
    a->y = cuda_operand(l, l->node->in[1]);
    a->lse = cuda_operand(l, l->node->in[2]);
    a->dy = cuda_operand(l, l->node->in[3]);
    a->dqkv = cuda_operand(l, l->node->out[0]);
    rc = choose(a, DNN_ATTENTION_BACKWARD, err);
    if (rc) {
        free(a);
        return rc;
    }
    size_t rows = operand_all(&a->qkv) * a->heads;
    a->acc_offset = cuda_align(rows * sizeof(float));
    a->workspace_offset = a->acc_offset + cuda_align(rows * a->size * sizeof(float));
    a->base.scratch_bytes = a->plan ? a->workspace_offset + a->plan->workspace_bytes : 0;
    *ret_primitive = &a->base;
    return 0;
}
