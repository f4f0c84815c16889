/* graph.c: recording of operations with shape checks, see graph.h.
 *
 * The first failure is kept in graph.error; everything after it returns TENSOR_NONE without another message, so that
 * the message names the cause. Passes live in fuse.c and gradient.c.
 */
#include "kernels/graph.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PARAM_ALIGN_FLOATS = 16 };
static const size_t tensor_elements_max = (size_t)1 << 40;

size_t dtype_bytes(enum dtype dtype)
{
    switch (dtype) {
    case DTYPE_F32:
    case DTYPE_I32:
        return 4;
    case DTYPE_BF16:
        return 2;
    }
    return 0;
}

size_t tensor_elements(const struct tensor *t)
{
    return (size_t)t->dim[0] * (size_t)t->dim[1] * (size_t)t->dim[2] * (size_t)t->dim[3];
}

const char *op_name(enum op op)
{
    static const char *const names[OP_COUNT] = {
        [OP_CAST] = "cast",
        [OP_CONV2D] = "conv2d",
        [OP_LINEAR] = "linear",
        [OP_GROUP_NORM] = "group_norm",
        [OP_SILU] = "silu",
        [OP_ADD] = "add",
        [OP_ADD_CHANNEL] = "add_channel",
        [OP_CONCAT] = "concat",
        [OP_UPSAMPLE2X] = "upsample2x",
        [OP_AVG_POOL2X] = "avg_pool2x",
        [OP_ATTENTION] = "attention",
        [OP_EMBEDDING] = "embedding",
        [OP_TIMESTEP_EMBEDDING] = "timestep_embedding",
        [OP_DROPOUT] = "dropout",
        [OP_MSE] = "mse",
        [OP_RELU] = "relu",
        [OP_POOL] = "pool",
        [OP_GLOBAL_MEAN] = "global_mean",
        [OP_CROSS_ENTROPY] = "cross_entropy",
        [OP_CONV2D_BACKWARD_DATA] = "conv2d_backward_data",
        [OP_CONV2D_BACKWARD_WEIGHTS] = "conv2d_backward_weights",
        [OP_LINEAR_BACKWARD_DATA] = "linear_backward_data",
        [OP_LINEAR_BACKWARD_WEIGHTS] = "linear_backward_weights",
        [OP_GROUP_NORM_BACKWARD] = "group_norm_backward",
        [OP_SILU_BACKWARD] = "silu_backward",
        [OP_ADD_CHANNEL_BACKWARD] = "add_channel_backward",
        [OP_SLICE] = "slice",
        [OP_UPSAMPLE2X_BACKWARD] = "upsample2x_backward",
        [OP_AVG_POOL2X_BACKWARD] = "avg_pool2x_backward",
        [OP_ATTENTION_BACKWARD] = "attention_backward",
        [OP_EMBEDDING_BACKWARD] = "embedding_backward",
        [OP_DROPOUT_BACKWARD] = "dropout_backward",
        [OP_MSE_BACKWARD] = "mse_backward",
        [OP_GLOBAL_MEAN_BACKWARD] = "global_mean_backward",
        [OP_CROSS_ENTROPY_BACKWARD] = "cross_entropy_backward",
    };
    return (unsigned)op < OP_COUNT ? names[op] : "unknown";
}

bool op_allows_pitch(enum op op)
{
    switch (op) {
    case OP_CAST:
    case OP_LINEAR:
    case OP_GROUP_NORM:
    case OP_SILU:
    case OP_ADD:
    case OP_ADD_CHANNEL:
    case OP_CONCAT:
    case OP_UPSAMPLE2X:
    case OP_AVG_POOL2X:
    case OP_DROPOUT:
    case OP_RELU:
    case OP_POOL:
    case OP_GLOBAL_MEAN:
    case OP_GLOBAL_MEAN_BACKWARD:
    case OP_LINEAR_BACKWARD_DATA:
    case OP_LINEAR_BACKWARD_WEIGHTS:
    case OP_GROUP_NORM_BACKWARD:
    case OP_SILU_BACKWARD:
    case OP_ADD_CHANNEL_BACKWARD:
    case OP_SLICE:
    case OP_UPSAMPLE2X_BACKWARD:
    case OP_AVG_POOL2X_BACKWARD:
    case OP_DROPOUT_BACKWARD:
        return true;
    default:
        return false;
    }
}

/* ---- the graph as a container ---- */

struct graph *graph_create(int32_t batch, enum dtype compute, bool training)
{
    struct graph *g = calloc(1, sizeof(*g));
    if (!g)
        return NULL;
    g->batch = batch;
    g->compute = compute;
    g->training = training;
    if (batch < 1 || (compute != DTYPE_F32 && compute != DTYPE_BF16))
        error_set(&g->error, -EINVAL, NULL, "a graph wants a batch of at least 1 and computes in f32 or bf16");
    return g;
}

void graph_free(struct graph *g)
{
    if (!g)
        return;
    for (int32_t i = 0; i < g->n_nodes; i++)
        graph_clear_node(&g->nodes[i]);
    free(g->nodes);
    free(g->tensors);
    free(g->params);
    free(g);
}

int graph_error(const struct graph *g, struct error *err)
{
    if (g->error.code && err)
        *err = g->error;
    return g->error.code;
}

static int fail_memory(struct graph *g)
{
    return g->error.code ? g->error.code : error_set(&g->error, -ENOMEM, NULL, "out of memory recording a graph");
}

/* Makes room for one more element. Returns the array, or NULL (graph_error). */
static void *reserve(struct graph *g, void *array, int32_t n, int32_t *cap, size_t element)
{
    if (n < *cap)
        return array;
    int32_t wanted = *cap ? 2 * *cap : 64;
    void *grown = reallocarray(array, (size_t)wanted, element);
    if (!grown) {
        fail_memory(g);
        return NULL;
    }
    *cap = wanted;
    return grown;
}

tensor_id graph_tensor(struct graph *g, enum dtype dtype, enum tensor_role role, const int32_t dim[4])
{
    if (g->error.code)
        return TENSOR_NONE;
    size_t elements = 1;
    for (int i = 0; i < 4; i++) {
        if (dim[i] < 1 || (elements *= (size_t)dim[i]) > tensor_elements_max) {
            error_set(&g->error, -EINVAL, NULL, "a tensor of %d x %d x %d x %d elements is not possible", dim[0],
                      dim[1], dim[2], dim[3]);
            return TENSOR_NONE;
        }
    }
    struct tensor *tensors = reserve(g, g->tensors, g->n_tensors, &g->tensors_cap, sizeof(*tensors));
    if (!tensors)
        return TENSOR_NONE;
    g->tensors = tensors;
    struct tensor *t = &tensors[g->n_tensors];
    *t = (struct tensor){.dtype = dtype, .role = role, .index = -1, .base = TENSOR_NONE};
    memcpy(t->dim, dim, sizeof(t->dim));
    return g->n_tensors++;
}

int graph_node(struct graph *g, enum op op, const struct node_attr *attr, const tensor_id *in, int32_t n_in,
               const tensor_id *out, int32_t n_out)
{
    if (g->error.code)
        return g->error.code;
    struct node *nodes = reserve(g, g->nodes, g->n_nodes, &g->nodes_cap, sizeof(*nodes));
    if (!nodes)
        return g->error.code;
    g->nodes = nodes;
    struct node node = {.op = op, .n_in = n_in, .n_out = n_out};
    node.in = malloc((size_t)n_in * sizeof(*in));
    node.out = malloc((size_t)n_out * sizeof(*out));
    if (!node.in || !node.out) {
        graph_clear_node(&node);
        return fail_memory(g);
    }
    memcpy(node.in, in, (size_t)n_in * sizeof(*in));
    memcpy(node.out, out, (size_t)n_out * sizeof(*out));
    if (attr)
        node.attr = *attr;
    nodes[g->n_nodes++] = node;
    return 0;
}

void graph_clear_node(struct node *node)
{
    free(node->in);
    free(node->out);
    node->in = node->out = NULL;
    node->n_in = node->n_out = 0;
}

void graph_drop_nodes(struct graph *g)
{
    int32_t kept = 0;
    for (int32_t i = 0; i < g->n_nodes; i++) {
        if (g->nodes[i].n_out)
            g->nodes[kept++] = g->nodes[i];
        else
            graph_clear_node(&g->nodes[i]);
    }
    g->n_nodes = kept;
}

/* ---- checks ---- */

/* x's tensor, or NULL after a failure, which a TENSOR_NONE here is too. */
static const struct tensor *operand(struct graph *g, enum op op, const char *what, tensor_id x)
{
    if (g->error.code)
        return NULL;
    if (x < 0 || x >= g->n_tensors) {
        error_set(&g->error, -EINVAL, NULL, "%s: %s is not a tensor of this graph", op_name(op), what);
        return NULL;
    }
    return &g->tensors[x];
}

/* Like operand(), for an activation in the compute dtype. */
static const struct tensor *activation(struct graph *g, enum op op, const char *what, tensor_id x)
{
    const struct tensor *t = operand(g, op, what, x);
    if (!t)
        return NULL;
    bool held = t->role == TENSOR_INPUT || t->role == TENSOR_VALUE || t->role == TENSOR_OUTPUT;
    if (held && t->dtype == g->compute && t->dim[0] == g->batch)
        return t;
    error_set(&g->error, -EINVAL, NULL, "%s: %s must be an activation in the graph's compute dtype (cast it)",
              op_name(op), what);
    return NULL;
}

/* x must have these dimensions; role tells what x may be. Returns false after a failure. */
static bool expect(struct graph *g, enum op op, const char *what, tensor_id x, enum tensor_role role, int32_t n,
                   int32_t h, int32_t w, int32_t c)
{
    const struct tensor *t = operand(g, op, what, x);
    if (!t)
        return false;
    const int32_t *d = t->dim;
    if (t->role == role && d[0] == n && d[1] == h && d[2] == w && d[3] == c)
        return true;
    error_set(&g->error, -EINVAL, NULL, "%s: %s is [%d, %d, %d, %d] where %s [%d, %d, %d, %d] is wanted", op_name(op),
              what, d[0], d[1], d[2], d[3],
              role == TENSOR_PARAM ? "a parameter" : (role == TENSOR_INPUT ? "an input" : "a value"), n, h, w, c);
    return false;
}

static tensor_id fail_shape(struct graph *g, enum op op, const char *what)
{
    if (!g->error.code)
        error_set(&g->error, -EINVAL, NULL, "%s: %s", op_name(op), what);
    return TENSOR_NONE;
}

static tensor_id value(struct graph *g, enum dtype dtype, int32_t h, int32_t w, int32_t c)
{
    return graph_tensor(g, dtype, TENSOR_VALUE, (int32_t[4]){g->batch, h, w, c});
}

/* Appends a node with one output, which it returns. */
static tensor_id append(struct graph *g, enum op op, const struct node_attr *attr, const tensor_id *in, int32_t n_in,
                        tensor_id out)
{
    if (out == TENSOR_NONE || graph_node(g, op, attr, in, n_in, &out, 1) < 0)
        return TENSOR_NONE;
    return out;
}

/* ---- sources and sinks ---- */

tensor_id graph_input(struct graph *g, enum dtype dtype, int32_t h, int32_t w, int32_t c)
{
    tensor_id x = graph_tensor(g, dtype, TENSOR_INPUT, (int32_t[4]){g->batch, h, w, c});
    if (x != TENSOR_NONE)
        g->tensors[x].index = g->n_inputs++;
    return x;
}

static int check_param(struct graph *g, const char *name, const int32_t dim[4], int32_t file_rank)
{
    bool flat = dim[1] == 1 && dim[2] == 1;
    if (strlen(name) >= sizeof(g->params->name))
        return error_set(&g->error, -EINVAL, name, "the parameter name %.64s... is too long", name);
    if (!(file_rank == 4 || (file_rank == 2 && flat) || (file_rank == 1 && flat && dim[0] == 1)))
        return error_set(&g->error, -EINVAL, name, "parameter %s: its shape does not fit %d dimensions", name,
                         file_rank);
    for (int32_t i = 0; i < g->n_params; i++)
        if (!strcmp(g->params[i].name, name))
            return error_set(&g->error, -EINVAL, name, "parameter %s is recorded twice", name);
    return 0;
}

tensor_id graph_param(struct graph *g, const char *name, int32_t k, int32_t r, int32_t s, int32_t c, int32_t file_rank)
{
    const int32_t dim[4] = {k, r, s, c};
    if (g->error.code || check_param(g, name, dim, file_rank) < 0)
        return TENSOR_NONE;
    tensor_id x = graph_tensor(g, DTYPE_F32, TENSOR_PARAM, dim);
    if (x == TENSOR_NONE)
        return TENSOR_NONE;
    struct param *params = reserve(g, g->params, g->n_params, &g->params_cap, sizeof(*params));
    if (!params)
        return TENSOR_NONE;
    g->params = params;
    struct param *p = &params[g->n_params];
    *p = (struct param){.file_rank = file_rank, .offset = g->param_floats};
    snprintf(p->name, sizeof(p->name), "%s", name);
    memcpy(p->dim, dim, sizeof(p->dim));
    size_t floats = tensor_elements(&g->tensors[x]);
    g->param_floats += (floats + PARAM_ALIGN_FLOATS - 1) / PARAM_ALIGN_FLOATS * PARAM_ALIGN_FLOATS;
    g->tensors[x].index = g->n_params++;
    return x;
}

void graph_output(struct graph *g, tensor_id x, enum dtype dtype)
{
    const struct tensor *t = operand(g, OP_CAST, "the output", x);
    if (!t)
        return;
    tensor_id y = x;
    if (t->dtype != dtype || t->role != TENSOR_VALUE || t->base != TENSOR_NONE) {
        if (t->dim[0] != g->batch || t->role == TENSOR_PARAM) {
            fail_shape(g, OP_CAST, "an output must have the batch as its first dimension");
            return;
        }
        y = append(g, OP_CAST, NULL, &x, 1, value(g, dtype, t->dim[1], t->dim[2], t->dim[3]));
    }
    if (y == TENSOR_NONE)
        return;
    g->tensors[y].role = TENSOR_OUTPUT;
    g->tensors[y].index = g->n_outputs++;
}

/* ---- operations ---- */

tensor_id graph_cast(struct graph *g, tensor_id x, enum dtype dtype)
{
    const struct tensor *t = operand(g, OP_CAST, "x", x);
    if (!t)
        return TENSOR_NONE;
    if (t->dtype == dtype)
        return x;
    if (t->dtype == DTYPE_I32 || dtype == DTYPE_I32 || t->role == TENSOR_PARAM)
        return fail_shape(g, OP_CAST, "casts go between f32 and bf16 activations");
    return append(g, OP_CAST, NULL, &x, 1, value(g, dtype, t->dim[1], t->dim[2], t->dim[3]));
}

/* Outputs along one axis of n for a window of r. */
static int32_t windows(int32_t n, int32_t r, int32_t stride, bool valid)
{
    return valid ? (n - r) / stride + 1 : (n + stride - 1) / stride;
}

static tensor_id conv2d(struct graph *g, tensor_id x, tensor_id w, tensor_id b, int32_t stride, bool valid)
{
    const struct tensor *tx = activation(g, OP_CONV2D, "x", x), *tw = operand(g, OP_CONV2D, "w", w);
    if (!tx || !tw)
        return TENSOR_NONE;
    int32_t k = tw->dim[0], r = tw->dim[1], s = tw->dim[2];
    if (stride != 1 && stride != 2)
        return fail_shape(g, OP_CONV2D, "the stride must be 1 or 2");
    if (r % 2 == 0 || s % 2 == 0)
        return fail_shape(g, OP_CONV2D, "the filter must have an odd size");
    if (valid && (r > tx->dim[1] || s > tx->dim[2]))
        return fail_shape(g, OP_CONV2D, "the filter is larger than x, which has no padding");
    if (!expect(g, OP_CONV2D, "w", w, TENSOR_PARAM, k, r, s, tx->dim[3]))
        return TENSOR_NONE;
    if (b != TENSOR_NONE && !expect(g, OP_CONV2D, "b", b, TENSOR_PARAM, 1, 1, 1, k))
        return TENSOR_NONE;
    const struct node_attr attr = {.stride = stride, .valid = valid};
    tensor_id y = value(g, g->compute, windows(tx->dim[1], r, stride, valid), windows(tx->dim[2], s, stride, valid), k);
    return append(g, OP_CONV2D, &attr, (tensor_id[]){x, w, b, TENSOR_NONE}, 4, y);
}

tensor_id graph_conv2d(struct graph *g, tensor_id x, tensor_id w, tensor_id b, int32_t stride)
{
    return conv2d(g, x, w, b, stride, false);
}

tensor_id graph_conv2d_valid(struct graph *g, tensor_id x, tensor_id w, tensor_id b, int32_t stride)
{
    return conv2d(g, x, w, b, stride, true);
}

tensor_id graph_linear(struct graph *g, tensor_id x, tensor_id w, tensor_id b)
{
    const struct tensor *tx = activation(g, OP_LINEAR, "x", x), *tw = operand(g, OP_LINEAR, "w", w);
    if (!tx || !tw)
        return TENSOR_NONE;
    int32_t k = tw->dim[0], c = tx->dim[3];
    if (tx->dim[1] != 1 || tx->dim[2] != 1)
        return fail_shape(g, OP_LINEAR, "x must be [N, 1, 1, C]");
    if (!expect(g, OP_LINEAR, "w", w, TENSOR_PARAM, k, 1, 1, c))
        return TENSOR_NONE;
    if (b != TENSOR_NONE && !expect(g, OP_LINEAR, "b", b, TENSOR_PARAM, 1, 1, 1, k))
        return TENSOR_NONE;
    return append(g, OP_LINEAR, NULL, (tensor_id[]){x, w, b}, 3, value(g, g->compute, 1, 1, k));
}

tensor_id graph_group_norm(struct graph *g, tensor_id x, tensor_id gamma, tensor_id beta, int32_t groups, float eps)
{
    const struct tensor *tx = activation(g, OP_GROUP_NORM, "x", x);
    if (!tx)
        return TENSOR_NONE;
    int32_t h = tx->dim[1], w = tx->dim[2], c = tx->dim[3];
    if (groups < 1 || c % groups)
        return fail_shape(g, OP_GROUP_NORM, "the channels must be a multiple of the groups");
    if (!expect(g, OP_GROUP_NORM, "gamma", gamma, TENSOR_PARAM, 1, 1, 1, c) ||
        !expect(g, OP_GROUP_NORM, "beta", beta, TENSOR_PARAM, 1, 1, 1, c))
        return TENSOR_NONE;
    tensor_id out[3] = {value(g, g->compute, h, w, c), TENSOR_NONE, TENSOR_NONE};
    if (g->training) {
        out[1] = value(g, DTYPE_F32, 1, 1, groups);
        out[2] = value(g, DTYPE_F32, 1, 1, groups);
    }
    const struct node_attr attr = {.groups = groups, .eps = eps};
    const tensor_id in[] = {x, gamma, beta, TENSOR_NONE, TENSOR_NONE};
    return graph_node(g, OP_GROUP_NORM, &attr, in, 5, out, 3) < 0 ? TENSOR_NONE : out[0];
}

tensor_id graph_silu(struct graph *g, tensor_id x)
{
    const struct tensor *tx = activation(g, OP_SILU, "x", x);
    if (!tx)
        return TENSOR_NONE;
    return append(g, OP_SILU, NULL, &x, 1, value(g, g->compute, tx->dim[1], tx->dim[2], tx->dim[3]));
}

tensor_id graph_add(struct graph *g, tensor_id a, tensor_id b)
{
    const struct tensor *ta = activation(g, OP_ADD, "a", a), *tb = activation(g, OP_ADD, "b", b);
    if (!ta || !tb)
        return TENSOR_NONE;
    if (memcmp(ta->dim, tb->dim, sizeof(ta->dim)))
        return fail_shape(g, OP_ADD, "a and b must have the same shape");
    return append(g, OP_ADD, NULL, (tensor_id[]){a, b}, 2, value(g, g->compute, ta->dim[1], ta->dim[2], ta->dim[3]));
}

tensor_id graph_add_channel(struct graph *g, tensor_id x, tensor_id e)
{
    const struct tensor *tx = activation(g, OP_ADD_CHANNEL, "x", x), *te = activation(g, OP_ADD_CHANNEL, "e", e);
    if (!tx || !te)
        return TENSOR_NONE;
    if (te->dim[1] != 1 || te->dim[2] != 1 || te->dim[3] != tx->dim[3])
        return fail_shape(g, OP_ADD_CHANNEL, "e must be [N, 1, 1, C] with the channels of x");
    return append(g, OP_ADD_CHANNEL, NULL, (tensor_id[]){x, e}, 2,
                  value(g, g->compute, tx->dim[1], tx->dim[2], tx->dim[3]));
}

tensor_id graph_concat(struct graph *g, tensor_id a, tensor_id b)
{
    const struct tensor *ta = activation(g, OP_CONCAT, "a", a), *tb = activation(g, OP_CONCAT, "b", b);
    if (!ta || !tb)
        return TENSOR_NONE;
    if (memcmp(ta->dim, tb->dim, 3 * sizeof(ta->dim[0])))
        return fail_shape(g, OP_CONCAT, "a and b must agree in N, H and W");
    return append(g, OP_CONCAT, NULL, (tensor_id[]){a, b}, 2,
                  value(g, g->compute, ta->dim[1], ta->dim[2], ta->dim[3] + tb->dim[3]));
}

tensor_id graph_upsample_nearest2x(struct graph *g, tensor_id x)
{
    const struct tensor *tx = activation(g, OP_UPSAMPLE2X, "x", x);
    if (!tx)
        return TENSOR_NONE;
    if (tx->dim[1] > INT32_MAX / 2 || tx->dim[2] > INT32_MAX / 2)
        return fail_shape(g, OP_UPSAMPLE2X, "x is too large");
    return append(g, OP_UPSAMPLE2X, NULL, &x, 1, value(g, g->compute, 2 * tx->dim[1], 2 * tx->dim[2], tx->dim[3]));
}

tensor_id graph_avg_pool2x(struct graph *g, tensor_id x)
{
    const struct tensor *tx = activation(g, OP_AVG_POOL2X, "x", x);
    if (!tx)
        return TENSOR_NONE;
    if (tx->dim[1] % 2 || tx->dim[2] % 2)
        return fail_shape(g, OP_AVG_POOL2X, "height and width must be even");
    return append(g, OP_AVG_POOL2X, NULL, &x, 1, value(g, g->compute, tx->dim[1] / 2, tx->dim[2] / 2, tx->dim[3]));
}

tensor_id graph_attention(struct graph *g, tensor_id qkv, int32_t heads)
{
    const struct tensor *t = activation(g, OP_ATTENTION, "qkv", qkv);
    if (!t)
        return TENSOR_NONE;
    int32_t h = t->dim[1], w = t->dim[2], c3 = t->dim[3];
    if (heads < 1 || c3 % 3 || c3 / 3 % heads)
        return fail_shape(g, OP_ATTENTION, "the channels of qkv must be a multiple of three times the heads");
    tensor_id out[2] = {value(g, g->compute, h, w, c3 / 3), TENSOR_NONE};
    if (g->training)
        out[1] = value(g, DTYPE_F32, 1, h * w, heads);
    const struct node_attr attr = {.heads = heads};
    return graph_node(g, OP_ATTENTION, &attr, &qkv, 1, out, 2) < 0 ? TENSOR_NONE : out[0];
}

tensor_id graph_embedding(struct graph *g, tensor_id table, tensor_id index)
{
    const struct tensor *tt = operand(g, OP_EMBEDDING, "table", table), *ti = operand(g, OP_EMBEDDING, "index", index);
    if (!tt || !ti)
        return TENSOR_NONE;
    if (ti->dtype != DTYPE_I32)
        return fail_shape(g, OP_EMBEDDING, "index must be I32");
    if (!expect(g, OP_EMBEDDING, "table", table, TENSOR_PARAM, tt->dim[0], 1, 1, tt->dim[3]) ||
        !expect(g, OP_EMBEDDING, "index", index, TENSOR_INPUT, g->batch, 1, 1, 1))
        return TENSOR_NONE;
    return append(g, OP_EMBEDDING, NULL, (tensor_id[]){table, index}, 2, value(g, g->compute, 1, 1, tt->dim[3]));
}

tensor_id graph_timestep_embedding(struct graph *g, tensor_id t, int32_t dim)
{
    const struct tensor *tt = operand(g, OP_TIMESTEP_EMBEDDING, "t", t);
    if (!tt || !expect(g, OP_TIMESTEP_EMBEDDING, "t", t, TENSOR_INPUT, g->batch, 1, 1, 1))
        return TENSOR_NONE;
    if (tt->dtype != DTYPE_F32 || dim < 2 || dim % 2)
        return fail_shape(g, OP_TIMESTEP_EMBEDDING, "t must be F32 and the dimension even");
    return append(g, OP_TIMESTEP_EMBEDDING, NULL, &t, 1, value(g, g->compute, 1, 1, dim));
}

tensor_id graph_dropout(struct graph *g, tensor_id x, tensor_id key, float rate)
{
    const struct tensor *tx = activation(g, OP_DROPOUT, "x", x);
    if (!tx)
        return TENSOR_NONE;
    if (!(rate >= 0 && rate < 1))
        return fail_shape(g, OP_DROPOUT, "the rate must be at least 0 and below 1");
    if (!g->training || rate == 0)
        return x;
    const struct tensor *tk = operand(g, OP_DROPOUT, "key", key);
    if (!tk || !expect(g, OP_DROPOUT, "key", key, TENSOR_INPUT, g->batch, 1, 1, 4))
        return TENSOR_NONE;
    if (tk->dtype != DTYPE_I32)
        return fail_shape(g, OP_DROPOUT, "key must be I32");
    struct node_attr attr = {.rate = rate};
    for (int32_t i = 0; i < g->n_nodes; i++)
        attr.stream += g->nodes[i].op == OP_DROPOUT;
    return append(g, OP_DROPOUT, &attr, (tensor_id[]){x, key}, 2,
                  value(g, g->compute, tx->dim[1], tx->dim[2], tx->dim[3]));
}

tensor_id graph_mse(struct graph *g, tensor_id a, tensor_id b)
{
    const struct tensor *ta = operand(g, OP_MSE, "a", a), *tb = operand(g, OP_MSE, "b", b);
    if (!ta || !tb)
        return TENSOR_NONE;
    if (ta->dtype != tb->dtype || ta->dtype == DTYPE_I32 || memcmp(ta->dim, tb->dim, sizeof(ta->dim)) ||
        ta->role == TENSOR_PARAM || tb->role == TENSOR_PARAM)
        return fail_shape(g, OP_MSE, "a and b must be activations of the same shape and dtype");
    return append(g, OP_MSE, NULL, (tensor_id[]){a, b}, 2, value(g, DTYPE_F32, 1, 1, 1));
}

tensor_id graph_relu(struct graph *g, tensor_id x)
{
    const struct tensor *tx = activation(g, OP_RELU, "x", x);
    if (!tx)
        return TENSOR_NONE;
    return append(g, OP_RELU, NULL, &x, 1, value(g, g->compute, tx->dim[1], tx->dim[2], tx->dim[3]));
}

tensor_id graph_pool(struct graph *g, tensor_id x, bool max, int32_t window, int32_t stride, bool valid)
{
    const struct tensor *tx = activation(g, OP_POOL, "x", x);
    if (!tx)
        return TENSOR_NONE;
    if ((stride != 1 && stride != 2) || window < 1 || window % 2 == 0)
        return fail_shape(g, OP_POOL, "the stride must be 1 or 2 and the window odd");
    if (valid && (window > tx->dim[1] || window > tx->dim[2]))
        return fail_shape(g, OP_POOL, "the window is larger than x, which has no padding");
    const struct node_attr attr = {.stride = stride, .window = window, .max = max, .valid = valid};
    tensor_id y = value(g, g->compute, windows(tx->dim[1], window, stride, valid),
                        windows(tx->dim[2], window, stride, valid), tx->dim[3]);
    return append(g, OP_POOL, &attr, &x, 1, y);
}

tensor_id graph_global_mean(struct graph *g, tensor_id x)
{
    const struct tensor *tx = activation(g, OP_GLOBAL_MEAN, "x", x);
    if (!tx)
        return TENSOR_NONE;
    return append(g, OP_GLOBAL_MEAN, NULL, &x, 1, value(g, g->compute, 1, 1, tx->dim[3]));
}

tensor_id graph_cross_entropy(struct graph *g, tensor_id x, tensor_id label)
{
    const struct tensor *tx = operand(g, OP_CROSS_ENTROPY, "x", x);
    const struct tensor *tl = operand(g, OP_CROSS_ENTROPY, "label", label);
    if (!tx || !tl || !expect(g, OP_CROSS_ENTROPY, "label", label, TENSOR_INPUT, g->batch, 1, 1, 1))
        return TENSOR_NONE;
    if (tx->dtype != DTYPE_F32 || tx->role == TENSOR_PARAM || tx->dim[1] != 1 || tx->dim[2] != 1)
        return fail_shape(g, OP_CROSS_ENTROPY, "x must be [N, 1, 1, C] in F32");
    if (tl->dtype != DTYPE_I32)
        return fail_shape(g, OP_CROSS_ENTROPY, "label must be I32");
    return append(g, OP_CROSS_ENTROPY, NULL, (tensor_id[]){x, label}, 2, value(g, DTYPE_F32, 1, 1, 1));
}
