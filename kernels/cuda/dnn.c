/* dnn.c: see dnn.h.
 *
 * Tensors are given to cuDNN as [n, c, h, w] with the strides of NHWC memory. What one operation hands to the next
 * within a graph is "virtual": f32 in registers, where cuDNN fuses them.
 */
#include "kernels/cuda/dnn.h"

#include <stdio.h>
#include <string.h>

/* ---- descriptors ---- */

static bool check(struct dnn *g, cudnnStatus_t s)
{
    if (s != CUDNN_STATUS_SUCCESS && g->status == CUDNN_STATUS_SUCCESS) {
        g->status = s;
        cudnnGetLastErrorString(g->message, sizeof(g->message));
    }
    return s == CUDNN_STATUS_SUCCESS;
}

dnn_descriptor dnn_make(struct dnn *g, cudnnBackendDescriptorType_t type)
{
    dnn_descriptor d = NULL;
    if (g->status == CUDNN_STATUS_SUCCESS && g->n_owned == DNN_MAX_OWNED)
        g->status = CUDNN_STATUS_INTERNAL_ERROR;
    if (g->status == CUDNN_STATUS_SUCCESS && check(g, cudnnBackendCreateDescriptor(type, &d)))
        g->owned[g->n_owned++] = d;
    return d;
}

void dnn_set(struct dnn *g, dnn_descriptor d, cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type,
             int64_t count, const void *values)
{
    if (g->status == CUDNN_STATUS_SUCCESS)
        check(g, cudnnBackendSetAttribute(d, name, type, count, values));
}

void dnn_finalize(struct dnn *g, dnn_descriptor d)
{
    if (g->status == CUDNN_STATUS_SUCCESS)
        check(g, cudnnBackendFinalize(d));
}

void dnn_done(struct dnn *g)
{
    while (g->n_owned > 0)
        cudnnBackendDestroyDescriptor(g->owned[--g->n_owned]);
}

static void set_descriptor(struct dnn *g, dnn_descriptor d, cudnnBackendAttributeName_t name, dnn_descriptor value)
{
    dnn_set(g, d, name, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &value);
}

static void set_f32_compute(struct dnn *g, dnn_descriptor d, cudnnBackendAttributeName_t name)
{
    cudnnDataType_t f32 = CUDNN_DATA_FLOAT;
    dnn_set(g, d, name, CUDNN_TYPE_DATA_TYPE, 1, &f32);
}

static void finish_operation(struct dnn *g, dnn_descriptor d)
{
    dnn_finalize(g, d);
    if (g->status == CUDNN_STATUS_SUCCESS)
        g->operations[g->n_operations++] = d;
}

/* ---- tensors ---- */

struct layout {
    int64_t dim[4], stride[4];
};

static cudnnDataType_t data_type(int32_t dtype)
{
    return dtype == DTYPE_BF16 ? CUDNN_DATA_BFLOAT16 : CUDNN_DATA_FLOAT;
}

static const enum dnn_tensor virtual = DNN_TENSORS;

static bool is_scalar(enum dnn_tensor id)
{
    return id == DNN_SCALE || id == DNN_ONE;
}

static dnn_descriptor tensor(struct dnn *g, enum dnn_tensor id, int32_t dtype, const struct layout *l)
{
    dnn_descriptor d = dnn_make(g, CUDNN_BACKEND_TENSOR_DESCRIPTOR);
    cudnnDataType_t type = data_type(dtype);
    int64_t uid = id == virtual ? g->next_virtual++ : 1 + (int64_t)id, alignment = is_scalar(id) ? 4 : 16;
    bool yes = true;
    dnn_set(g, d, CUDNN_ATTR_TENSOR_DATA_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &type);
    dnn_set(g, d, CUDNN_ATTR_TENSOR_DIMENSIONS, CUDNN_TYPE_INT64, 4, l->dim);
    dnn_set(g, d, CUDNN_ATTR_TENSOR_STRIDES, CUDNN_TYPE_INT64, 4, l->stride);
    dnn_set(g, d, CUDNN_ATTR_TENSOR_UNIQUE_ID, CUDNN_TYPE_INT64, 1, &uid);
    dnn_set(g, d, CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, CUDNN_TYPE_INT64, 1, &alignment);
    if (id == virtual)
        dnn_set(g, d, CUDNN_ATTR_TENSOR_IS_VIRTUAL, CUDNN_TYPE_BOOLEAN, 1, &yes);
    else
        g->bound[id] = true;
    if (is_scalar(id))
        dnn_set(g, d, CUDNN_ATTR_TENSOR_IS_BY_VALUE, CUDNN_TYPE_BOOLEAN, 1, &yes);
    dnn_finalize(g, d);
    return d;
}

static struct layout image_layout(int64_t n, int64_t c, int64_t h, int64_t w)
{
    return (struct layout){{n, c, h, w}, {h * w * c, 1, w * c, c}};
}

static dnn_descriptor scalar(struct dnn *g, enum dnn_tensor id)
{
    const struct layout one = {{1, 1, 1, 1}, {1, 1, 1, 1}};
    return tensor(g, id, DTYPE_F32, &one);
}

/* ---- operations ---- */

/* b NULL: of x alone. */
static void pointwise(struct dnn *g, cudnnPointwiseMode_t mode, dnn_descriptor x, dnn_descriptor b, dnn_descriptor y)
{
    dnn_descriptor kind = dnn_make(g, CUDNN_BACKEND_POINTWISE_DESCRIPTOR);
    dnn_set(g, kind, CUDNN_ATTR_POINTWISE_MODE, CUDNN_TYPE_POINTWISE_MODE, 1, &mode);
    set_f32_compute(g, kind, CUDNN_ATTR_POINTWISE_MATH_PREC);
    dnn_finalize(g, kind);
    dnn_descriptor d = dnn_make(g, CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR);
    set_descriptor(g, d, CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, kind);
    set_descriptor(g, d, CUDNN_ATTR_OPERATION_POINTWISE_XDESC, x);
    if (b)
        set_descriptor(g, d, CUDNN_ATTR_OPERATION_POINTWISE_BDESC, b);
    set_descriptor(g, d, CUDNN_ATTR_OPERATION_POINTWISE_YDESC, y);
    finish_operation(g, d);
}

static int64_t padding_of(const struct dnn_shape *s, int32_t filter)
{
    return s->valid ? 0 : filter / 2;
}

/* Outputs along an axis of `size` for a filter of `filter`. */
static int64_t outputs(const struct dnn_shape *s, int32_t size, int32_t filter)
{
    return (size + 2 * padding_of(s, filter) - filter) / s->stride + 1;
}

static dnn_descriptor convolution_kind(struct dnn *g, const struct dnn_shape *s)
{
    dnn_descriptor d = dnn_make(g, CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR);
    const cudnnConvolutionMode_t mode = CUDNN_CROSS_CORRELATION;
    const int64_t dims = 2, strides[] = {s->stride, s->stride}, ones[] = {1, 1};
    const int64_t paddings[] = {padding_of(s, s->r), padding_of(s, s->s)};
    set_f32_compute(g, d, CUDNN_ATTR_CONVOLUTION_COMP_TYPE);
    dnn_set(g, d, CUDNN_ATTR_CONVOLUTION_CONV_MODE, CUDNN_TYPE_CONVOLUTION_MODE, 1, &mode);
    dnn_set(g, d, CUDNN_ATTR_CONVOLUTION_SPATIAL_DIMS, CUDNN_TYPE_INT64, 1, &dims);
    dnn_set(g, d, CUDNN_ATTR_CONVOLUTION_DILATIONS, CUDNN_TYPE_INT64, 2, ones);
    dnn_set(g, d, CUDNN_ATTR_CONVOLUTION_FILTER_STRIDES, CUDNN_TYPE_INT64, 2, strides);
    dnn_set(g, d, CUDNN_ATTR_CONVOLUTION_PRE_PADDINGS, CUDNN_TYPE_INT64, 2, paddings);
    dnn_set(g, d, CUDNN_ATTR_CONVOLUTION_POST_PADDINGS, CUDNN_TYPE_INT64, 2, paddings);
    dnn_finalize(g, d);
    return d;
}

static void convolve(struct dnn *g, const struct dnn_shape *s, dnn_descriptor x, dnn_descriptor w, dnn_descriptor y)
{
    static const struct {
        cudnnBackendDescriptorType_t type;
        cudnnBackendAttributeName_t kind, x, w, y, alpha, beta;
    } forms[] = {
        [DNN_CONV] = {CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR,
                      CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_CONV_DESC, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_X,
                      CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_W, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_Y,
                      CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_ALPHA, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_BETA},
        [DNN_CONV_DATA] = {CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_DATA_DESCRIPTOR,
                           CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_CONV_DESC,
                           CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DX, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_W,
                           CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DY,
                           CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_ALPHA,
                           CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_BETA},
        [DNN_CONV_WEIGHTS] = {CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_FILTER_DESCRIPTOR,
                              CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_CONV_DESC,
                              CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_X,
                              CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DW,
                              CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DY,
                              CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_ALPHA,
                              CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_BETA},
    };
    const float one = 1, zero = 0;
    dnn_descriptor kind = convolution_kind(g, s), d = dnn_make(g, forms[s->kind].type);
    set_descriptor(g, d, forms[s->kind].kind, kind);
    set_descriptor(g, d, forms[s->kind].x, x);
    set_descriptor(g, d, forms[s->kind].w, w);
    set_descriptor(g, d, forms[s->kind].y, y);
    dnn_set(g, d, forms[s->kind].alpha, CUDNN_TYPE_FLOAT, 1, &one);
    dnn_set(g, d, forms[s->kind].beta, CUDNN_TYPE_FLOAT, 1, &zero);
    finish_operation(g, d);
}

static void write_convolution(struct dnn *g, const struct dnn_shape *s, int64_t n)
{
    const struct layout lx = image_layout(n, s->c, s->h, s->w), lw = image_layout(s->k, s->c, s->r, s->s),
                        lb = image_layout(1, s->k, 1, 1),
                        ly = image_layout(n, s->k, outputs(s, s->h, s->r), outputs(s, s->w, s->s));
    bool forward = s->kind == DNN_CONV, more = s->bias || s->residual;
    dnn_descriptor x = tensor(g, DNN_X, s->kind == DNN_CONV_DATA ? s->out : s->in, &lx);
    dnn_descriptor w = tensor(g, DNN_W, s->kind == DNN_CONV_WEIGHTS ? s->out : s->in, &lw);
    dnn_descriptor y = more ? tensor(g, virtual, DTYPE_F32, &ly) : tensor(g, DNN_Y, forward ? s->out : s->in, &ly);
    convolve(g, s, x, w, y);
    if (s->bias) {
        dnn_descriptor sum = s->residual ? tensor(g, virtual, DTYPE_F32, &ly) : tensor(g, DNN_Y, s->out, &ly);
        pointwise(g, CUDNN_POINTWISE_ADD, y, tensor(g, DNN_BIAS, s->in, &lb), sum);
        y = sum;
    }
    if (s->residual)
        pointwise(g, CUDNN_POINTWISE_ADD, y, tensor(g, DNN_RESIDUAL, s->in, &ly), tensor(g, DNN_Y, s->out, &ly));
}

/* ---- attention ---- */

/* [n, heads, tokens, size] of q, k and v, interleaved in qkv: [n, tokens, heads, 3, size]; of y: [n, tokens, heads,
 * size]; of the statistics: [n, tokens, heads]. */
struct attention_layouts {
    struct layout qkv, y, stats;
};

static struct attention_layouts attention_layouts(const struct dnn_shape *s, int64_t n)
{
    int64_t t = s->tokens, h = s->heads, e = s->size;
    return (struct attention_layouts){.qkv = {{n, h, t, e}, {t * 3 * h * e, 3 * e, 3 * h * e, 1}},
                                      .y = {{n, h, t, e}, {t * h * e, e, h * e, 1}},
                                      .stats = {{n, h, t, 1}, {t * h, 1, h, 1}}};
}

static void write_attention(struct dnn *g, const struct dnn_shape *s, int64_t n)
{
    const struct attention_layouts l = attention_layouts(s, n);
    dnn_descriptor q = tensor(g, DNN_Q, s->in, &l.qkv), k = tensor(g, DNN_K, s->in, &l.qkv),
                   v = tensor(g, DNN_V, s->in, &l.qkv), y = tensor(g, DNN_Y, s->out, &l.y);
    dnn_descriptor stats = s->stats ? tensor(g, DNN_STATS, DTYPE_F32, &l.stats) : NULL, scale = scalar(g, DNN_SCALE);
    dnn_descriptor d = dnn_make(g, CUDNN_BACKEND_OPERATION_SDPA_FWD_DESCRIPTOR);
    set_descriptor(g, d, CUDNN_ATTR_OPERATION_SDPA_FWD_QDESC, q);
    set_descriptor(g, d, CUDNN_ATTR_OPERATION_SDPA_FWD_KDESC, k);
    set_descriptor(g, d, CUDNN_ATTR_OPERATION_SDPA_FWD_VDESC, v);
    set_descriptor(g, d, CUDNN_ATTR_OPERATION_SDPA_FWD_ODESC, y);
    if (stats)
        set_descriptor(g, d, CUDNN_ATTR_OPERATION_SDPA_FWD_STATSDESC, stats);
    set_descriptor(g, d, CUDNN_ATTR_OPERATION_SDPA_FWD_SCALEDESC, scale);
    finish_operation(g, d);
}

static void matmul(struct dnn *g, dnn_descriptor a, dnn_descriptor b, dnn_descriptor c)
{
    dnn_descriptor kind = dnn_make(g, CUDNN_BACKEND_MATMUL_DESCRIPTOR);
    set_f32_compute(g, kind, CUDNN_ATTR_MATMUL_COMP_TYPE);
    dnn_finalize(g, kind);
    dnn_descriptor d = dnn_make(g, CUDNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR);
    set_descriptor(g, d, CUDNN_ATTR_OPERATION_MATMUL_ADESC, a);
    set_descriptor(g, d, CUDNN_ATTR_OPERATION_MATMUL_BDESC, b);
    set_descriptor(g, d, CUDNN_ATTR_OPERATION_MATMUL_CDESC, c);
    set_descriptor(g, d, CUDNN_ATTR_OPERATION_MATMUL_DESC, kind);
    finish_operation(g, d);
}

static void sum_last(struct dnn *g, dnn_descriptor x, dnn_descriptor y)
{
    const cudnnReduceTensorOp_t add = CUDNN_REDUCE_TENSOR_ADD;
    dnn_descriptor kind = dnn_make(g, CUDNN_BACKEND_REDUCTION_DESCRIPTOR);
    dnn_set(g, kind, CUDNN_ATTR_REDUCTION_OPERATOR, CUDNN_TYPE_REDUCTION_OPERATOR_TYPE, 1, &add);
    set_f32_compute(g, kind, CUDNN_ATTR_REDUCTION_COMP_TYPE);
    dnn_finalize(g, kind);
    dnn_descriptor d = dnn_make(g, CUDNN_BACKEND_OPERATION_REDUCTION_DESCRIPTOR);
    set_descriptor(g, d, CUDNN_ATTR_OPERATION_REDUCTION_XDESC, x);
    set_descriptor(g, d, CUDNN_ATTR_OPERATION_REDUCTION_YDESC, y);
    set_descriptor(g, d, CUDNN_ATTR_OPERATION_REDUCTION_DESC, kind);
    finish_operation(g, d);
}

/* y is x with its last two dimensions exchanged. */
static void transpose(struct dnn *g, dnn_descriptor x, dnn_descriptor y)
{
    dnn_descriptor d = dnn_make(g, CUDNN_BACKEND_OPERATION_RESHAPE_DESCRIPTOR);
    set_descriptor(g, d, CUDNN_ATTR_OPERATION_RESHAPE_XDESC, x);
    set_descriptor(g, d, CUDNN_ATTR_OPERATION_RESHAPE_YDESC, y);
    finish_operation(g, d);
}

static struct layout transposed(const struct layout *l)
{
    return (struct layout){{l->dim[0], l->dim[1], l->dim[3], l->dim[2]},
                           {l->stride[0], l->stride[1], l->stride[3], l->stride[2]}};
}

/* cuDNN's flash attention recognises the gradient by this graph of small operations; its single operation for it was
 * still refused by 9.19. P = exp(scale q k^T - stats), dv = P^T dy, dS = P (dy v^T - rowsum(dy y)) scale, dk = dS^T q,
 * dq = dS k. */
static void write_attention_backward(struct dnn *g, const struct dnn_shape *s, int64_t n)
{
    const struct attention_layouts l = attention_layouts(s, n);
    int64_t t = s->tokens, h = s->heads, e = s->size;
    const struct layout scores = {{n, h, t, t}, {h * t * t, t * t, t, 1}}, scores_t = transposed(&scores);
    const struct layout qkv_t = transposed(&l.qkv), acc = {{n, h, t, e}, {h * t * e, t * e, e, 1}};
    const struct layout row = {{n, h, t, 1}, {h * t, t, 1, 1}};
    const int32_t low = s->in, f32 = DTYPE_F32;
    dnn_descriptor q = tensor(g, DNN_Q, low, &l.qkv), kt = tensor(g, DNN_K, low, &qkv_t),
                   vt = tensor(g, DNN_V, low, &qkv_t), y = tensor(g, DNN_Y, low, &l.y),
                   dy = tensor(g, DNN_DY, low, &l.y), stats = tensor(g, DNN_STATS, f32, &l.stats),
                   dq = tensor(g, DNN_DQ, low, &l.qkv), dk = tensor(g, DNN_DK, low, &l.qkv),
                   dv = tensor(g, DNN_DV, low, &l.qkv), sum = tensor(g, DNN_SUM, f32, &row),
                   dq_sum = tensor(g, DNN_ACC, f32, &acc), scale = scalar(g, DNN_SCALE), one = scalar(g, DNN_ONE);

    dnn_descriptor product = tensor(g, virtual, f32, &l.y), row_sum = tensor(g, virtual, f32, &row);
    pointwise(g, CUDNN_POINTWISE_MUL, dy, y, product);
    sum_last(g, product, row_sum);
    pointwise(g, CUDNN_POINTWISE_MUL, row_sum, one, sum);

    dnn_descriptor score = tensor(g, virtual, f32, &scores), scaled = tensor(g, virtual, f32, &scores),
                   shifted = tensor(g, virtual, f32, &scores), p = tensor(g, virtual, f32, &scores),
                   pt = tensor(g, virtual, low, &scores_t);
    matmul(g, q, kt, score);
    pointwise(g, CUDNN_POINTWISE_MUL, score, scale, scaled);
    pointwise(g, CUDNN_POINTWISE_SUB, scaled, stats, shifted);
    pointwise(g, CUDNN_POINTWISE_EXP, shifted, NULL, p);
    transpose(g, p, pt);
    matmul(g, pt, dy, dv);

    dnn_descriptor dp = tensor(g, virtual, f32, &scores), centred = tensor(g, virtual, f32, &scores),
                   ds = tensor(g, virtual, f32, &scores), ds_scaled = tensor(g, virtual, low, &scores),
                   ds_t = tensor(g, virtual, low, &scores_t), k = tensor(g, virtual, low, &l.qkv);
    matmul(g, dy, vt, dp);
    pointwise(g, CUDNN_POINTWISE_SUB, dp, sum, centred);
    pointwise(g, CUDNN_POINTWISE_MUL, centred, p, ds);
    pointwise(g, CUDNN_POINTWISE_MUL, ds, scale, ds_scaled);
    transpose(g, ds_scaled, ds_t);
    matmul(g, ds_t, q, dk);
    transpose(g, kt, k);
    matmul(g, ds_scaled, k, dq_sum);
    pointwise(g, CUDNN_POINTWISE_IDENTITY, dq_sum, NULL, dq);
}

/* ---- the whole ---- */

cudnnStatus_t dnn_write(struct dnn *g, cudnnHandle_t handle, dnn_descriptor properties, const struct dnn_shape *s,
                        int64_t n)
{
    *g = (struct dnn){.handle = handle, .properties = properties, .next_virtual = 1000};
    if (s->kind == DNN_ATTENTION)
        write_attention(g, s, n);
    else if (s->kind == DNN_ATTENTION_BACKWARD)
        write_attention_backward(g, s, n);
    else
        write_convolution(g, s, n);
    g->graph = dnn_make(g, CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR);
    dnn_set(g, g->graph, CUDNN_ATTR_OPERATIONGRAPH_OPS, CUDNN_TYPE_BACKEND_DESCRIPTOR, g->n_operations, g->operations);
    if (handle)
        dnn_set(g, g->graph, CUDNN_ATTR_OPERATIONGRAPH_HANDLE, CUDNN_TYPE_HANDLE, 1, &handle);
    dnn_finalize(g, g->graph);
    return g->status;
}

cudnnStatus_t dnn_run(const struct dnn *g, dnn_descriptor plan, void *const *at, void *workspace, float scale)
{
    float one = 1;
    int64_t uids[DNN_TENSORS], n = 0;
    void *addresses[DNN_TENSORS];
    for (int i = 0; i < DNN_TENSORS; i++)
        if (g->bound[i]) {
            uids[n] = 1 + i;
            addresses[n++] = i == DNN_SCALE ? &scale : i == DNN_ONE ? &one : at[i];
        }
    dnn_descriptor pack = NULL;
    cudnnStatus_t s = cudnnBackendCreateDescriptor(CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR, &pack);
    if (s)
        return s;
    s = cudnnBackendSetAttribute(pack, CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, CUDNN_TYPE_INT64, n, uids);
    if (!s)
        s = cudnnBackendSetAttribute(pack, CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, CUDNN_TYPE_VOID_PTR, n, addresses);
    if (!s)
        s = cudnnBackendSetAttribute(pack, CUDNN_ATTR_VARIANT_PACK_WORKSPACE, CUDNN_TYPE_VOID_PTR, 1, &workspace);
    if (!s)
        s = cudnnBackendFinalize(pack);
    if (!s)
        s = cudnnBackendExecute(g->handle, plan, pack);
    cudnnBackendDestroyDescriptor(pack);
    return s;
}

cudnnStatus_t dnn_describe_device(const char *json, dnn_descriptor *ret_properties)
{
    dnn_descriptor d = NULL;
    cudnnStatus_t s = cudnnBackendCreateDescriptor(CUDNN_BACKEND_DEVICEPROP_DESCRIPTOR, &d);
    if (!s)
        s = cudnnBackendSetAttribute(d, CUDNN_ATTR_DEVICEPROP_JSON_REPRESENTATION, CUDNN_TYPE_CHAR,
                                     (int64_t)strlen(json), json);
    if (!s)
        s = cudnnBackendFinalize(d);
    if (!s)
        *ret_properties = d;
    else if (d)
        cudnnBackendDestroyDescriptor(d);
    return s;
}
