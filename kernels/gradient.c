/* gradient.c: reverse mode over a recorded (and fused) graph.
 *
 * Nodes are visited from the last to the first; each appends the operations that turn the gradient of its output into
 * those of its inputs. A tensor with several readers has one running gradient: operations that can add it in
 * themselves take it as `more`, others cost an ADD. Gradients through additions are the same tensor under another name.
 */
#include "kernels/graph.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct tape {
    struct graph *g;
    int32_t n_forward; // nodes of the forward graph
    bool *needs;       // [forward tensors]: depends on a parameter
    tensor_id *grad;   // [forward tensors]: gradient so far
    bool *param_done;  // [n_params]
};

/* ---- small things ---- */

static bool wants(const struct tape *t, tensor_id x)
{
    return x != TENSOR_NONE && t->needs[x];
}

/* A new tensor of x's shape, in x's dtype. */
static tensor_id like(const struct tape *t, tensor_id x)
{
    const struct tensor of = t->g->tensors[x];
    return graph_tensor(t->g, of.dtype, TENSOR_VALUE, of.dim);
}

static void emit(struct tape *t, enum op op, const struct node_attr *attr, const tensor_id *in, int32_t n_in,
                 const tensor_id *out, int32_t n_out)
{
    for (int32_t i = 0; i < n_out; i++)
        if (out[i] != TENSOR_NONE) {
            graph_node(t->g, op, attr, in, n_in, out, n_out);
            return;
        }
}

/* y = op(in), a new tensor like `shape`, which it returns. */
static tensor_id emit_like(struct tape *t, enum op op, const struct node_attr *attr, const tensor_id *in, int32_t n_in,
                           tensor_id shape)
{
    tensor_id y = like(t, shape);
    emit(t, op, attr, in, n_in, &y, 1);
    return y;
}

static void add_gradient(struct tape *t, tensor_id x, tensor_id dx)
{
    if (!wants(t, x) || dx == TENSOR_NONE)
        return;
    t->grad[x] = t->grad[x] == TENSOR_NONE ? dx : emit_like(t, OP_ADD, NULL, (tensor_id[]){t->grad[x], dx}, 2, x);
}

/* The gradient tensor of a parameter (TENSOR_NONE for none), which one node only may write. */
static tensor_id param_gradient(struct tape *t, tensor_id param)
{
    if (param == TENSOR_NONE || t->g->error.code)
        return TENSOR_NONE;
    const struct tensor of = t->g->tensors[param];
    if (t->param_done[of.index]) {
        error_set(&t->g->error, -EINVAL, NULL, "parameter %s is used twice, which has no gradient here",
                  t->g->params[of.index].name);
        return TENSOR_NONE;
    }
    t->param_done[of.index] = true;
    tensor_id d = graph_tensor(t->g, DTYPE_F32, TENSOR_GRADIENT, of.dim);
    if (d != TENSOR_NONE)
        t->g->tensors[d].index = of.index;
    return d;
}

/* ---- one function per operation: n is a copy of the node, dy the gradient of its output 0 ---- */

static void conv2d_backward(struct tape *t, const struct node *n, tensor_id dy)
{
    tensor_id x = n->in[0];
    const tensor_id dw[] = {param_gradient(t, n->in[1]), param_gradient(t, n->in[2])};
    add_gradient(t, n->in[3], dy);
    emit(t, OP_CONV2D_BACKWARD_WEIGHTS, &n->attr, (tensor_id[]){x, dy}, 2, dw, 2);
    if (wants(t, x))
        t->grad[x] = emit_like(t, OP_CONV2D_BACKWARD_DATA, &n->attr, (tensor_id[]){dy, n->in[1], t->grad[x]}, 3, x);
}

static void linear_backward(struct tape *t, const struct node *n, tensor_id dy)
{
    tensor_id x = n->in[0];
    size_t slots = 2 * (size_t)n->n_out + 1;
    tensor_id *data_in = malloc(slots * sizeof(*data_in)), *weights_in = malloc(slots * sizeof(*weights_in)),
              *weights_out = malloc(slots * sizeof(*weights_out));
    int32_t n_pairs = 0;
    if (!data_in || !weights_in || !weights_out) {
        error_set(&t->g->error, -ENOMEM, NULL, "out of memory taking a gradient");
        goto out;
    }
    data_in[0] = wants(t, x) ? t->grad[x] : TENSOR_NONE;
    weights_in[0] = x;
    for (int32_t i = 0; i < n->n_out; i++) {
        tensor_id dyi = t->grad[n->out[i]];
        if (dyi == TENSOR_NONE)
            continue;
        data_in[1 + 2 * n_pairs] = weights_in[1 + n_pairs] = dyi;
        data_in[2 + 2 * n_pairs] = n->in[1 + 2 * i];
        weights_out[2 * n_pairs] = param_gradient(t, n->in[1 + 2 * i]);
        weights_out[2 * n_pairs + 1] = param_gradient(t, n->in[2 + 2 * i]);
        n_pairs++;
    }
    emit(t, OP_LINEAR_BACKWARD_WEIGHTS, NULL, weights_in, 1 + n_pairs, weights_out, 2 * n_pairs);
    if (wants(t, x))
        t->grad[x] = emit_like(t, OP_LINEAR_BACKWARD_DATA, NULL, data_in, 1 + 2 * n_pairs, x);
out:
    free(data_in);
    free(weights_in);
    free(weights_out);
}

static void group_norm_backward(struct tape *t, const struct node *n, tensor_id dy)
{
    tensor_id x = n->in[0], pre = n->in[3], post = n->in[4];
    tensor_id more = wants(t, x) ? t->grad[x] : TENSOR_NONE;
    const tensor_id in[] = {x, n->in[1], n->in[2], pre, post, n->out[1], n->out[2], dy, more};
    const tensor_id out[] = {like(t, x), param_gradient(t, n->in[1]), param_gradient(t, n->in[2]),
                             wants(t, pre) ? like(t, pre) : TENSOR_NONE, wants(t, post) ? like(t, post) : TENSOR_NONE};
    emit(t, OP_GROUP_NORM_BACKWARD, &n->attr, in, 9, out, 5);
    if (wants(t, x))
        t->grad[x] = out[0];
    add_gradient(t, pre, out[3]);
    add_gradient(t, post, out[4]);
}

static void silu_backward(struct tape *t, const struct node *n, tensor_id dy)
{
    add_gradient(t, n->in[0], emit_like(t, OP_SILU_BACKWARD, NULL, (tensor_id[]){n->in[0], dy}, 2, n->in[0]));
}

static void add_backward(struct tape *t, const struct node *n, tensor_id dy)
{
    add_gradient(t, n->in[0], dy);
    add_gradient(t, n->in[1], dy);
}

static void add_channel_backward(struct tape *t, const struct node *n, tensor_id dy)
{
    add_gradient(t, n->in[0], dy);
    if (wants(t, n->in[1]))
        add_gradient(t, n->in[1], emit_like(t, OP_ADD_CHANNEL_BACKWARD, NULL, &dy, 1, n->in[1]));
}

static void concat_backward(struct tape *t, const struct node *n, tensor_id dy)
{
    struct node_attr attr = {0};
    for (int32_t i = 0; i < 2; i++) {
        if (wants(t, n->in[i]))
            add_gradient(t, n->in[i], emit_like(t, OP_SLICE, &attr, &dy, 1, n->in[i]));
        attr.channel += t->g->tensors[n->in[i]].dim[3];
    }
}

/* CAST, UPSAMPLE2X, AVG_POOL2X: dx is a function of dy alone. */
static void simple_backward(struct tape *t, const struct node *n, tensor_id dy)
{
    enum op op = n->op == OP_CAST ? OP_CAST : n->op == OP_UPSAMPLE2X ? OP_UPSAMPLE2X_BACKWARD : OP_AVG_POOL2X_BACKWARD;
    add_gradient(t, n->in[0], emit_like(t, op, NULL, &dy, 1, n->in[0]));
}

static void attention_backward(struct tape *t, const struct node *n, tensor_id dy)
{
    const tensor_id in[] = {n->in[0], n->out[0], n->out[1], dy};
    add_gradient(t, n->in[0], emit_like(t, OP_ATTENTION_BACKWARD, &n->attr, in, 4, n->in[0]));
}

static void embedding_backward(struct tape *t, const struct node *n, tensor_id dy)
{
    tensor_id dtable = param_gradient(t, n->in[0]);
    emit(t, OP_EMBEDDING_BACKWARD, NULL, (tensor_id[]){n->in[1], dy}, 2, &dtable, 1);
}

static void dropout_backward(struct tape *t, const struct node *n, tensor_id dy)
{
    const tensor_id in[] = {dy, n->in[1]};
    add_gradient(t, n->in[0], emit_like(t, OP_DROPOUT_BACKWARD, &n->attr, in, 2, n->in[0]));
}

/* The loss is symmetric in a and b; dy is the weight of each image. */
static void mse_backward(struct tape *t, const struct node *n, tensor_id dy)
{
    for (int32_t i = 0; i < 2; i++)
        if (wants(t, n->in[i])) {
            const tensor_id in[] = {n->in[i], n->in[1 - i], dy};
            add_gradient(t, n->in[i], emit_like(t, OP_MSE_BACKWARD, NULL, in, 3, n->in[i]));
        }
}

static void global_mean_backward(struct tape *t, const struct node *n, tensor_id dy)
{
    add_gradient(t, n->in[0], emit_like(t, OP_GLOBAL_MEAN_BACKWARD, NULL, &dy, 1, n->in[0]));
}

/* dy is the weight of each image. */
static void cross_entropy_backward(struct tape *t, const struct node *n, tensor_id dy)
{
    const tensor_id in[] = {n->in[0], n->in[1], dy};
    add_gradient(t, n->in[0], emit_like(t, OP_CROSS_ENTROPY_BACKWARD, NULL, in, 3, n->in[0]));
}

static void no_gradient(struct tape *t, const struct node *n, tensor_id dy)
{
    if (!t->g->error.code)
        error_set(&t->g->error, -EINVAL, NULL, "%s has no gradient", op_name(n->op));
}

typedef void (*backward)(struct tape *t, const struct node *n, tensor_id dy);

static const backward backwards[OP_COUNT] = {
    [OP_CAST] = simple_backward,
    [OP_CONV2D] = conv2d_backward,
    [OP_LINEAR] = linear_backward,
    [OP_GROUP_NORM] = group_norm_backward,
    [OP_SILU] = silu_backward,
    [OP_ADD] = add_backward,
    [OP_ADD_CHANNEL] = add_channel_backward,
    [OP_CONCAT] = concat_backward,
    [OP_UPSAMPLE2X] = simple_backward,
    [OP_AVG_POOL2X] = simple_backward,
    [OP_ATTENTION] = attention_backward,
    [OP_EMBEDDING] = embedding_backward,
    [OP_DROPOUT] = dropout_backward,
    [OP_MSE] = mse_backward,
    [OP_RELU] = no_gradient,
    [OP_POOL] = no_gradient,
    [OP_GLOBAL_MEAN] = global_mean_backward,
    [OP_CROSS_ENTROPY] = cross_entropy_backward,
};

/* ---- the pass ---- */

static void find_needs(struct tape *t, int32_t n_tensors)
{
    const struct graph *g = t->g;
    for (tensor_id x = 0; x < n_tensors; x++) {
        t->needs[x] = g->tensors[x].role == TENSOR_PARAM;
        t->grad[x] = TENSOR_NONE;
    }
    for (int32_t k = 0; k < t->n_forward; k++) {
        const struct node *n = &g->nodes[k];
        bool needs = false;
        for (int32_t i = 0; i < n->n_in; i++)
            needs |= wants(t, n->in[i]);
        for (int32_t i = 0; i < n->n_out; i++)
            if (n->out[i] != TENSOR_NONE)
                t->needs[n->out[i]] = needs;
    }
}

/* The first output of n that has a gradient (a linear may have several outputs), TENSOR_NONE where none needs one. */
static tensor_id output_gradient(const struct tape *t, const struct node *n)
{
    for (int32_t i = 0; i < n->n_out; i++)
        if (wants(t, n->out[i]) && t->grad[n->out[i]] != TENSOR_NONE)
            return t->grad[n->out[i]];
    return TENSOR_NONE;
}

static int check_request(const struct graph *g, tensor_id loss, tensor_id weight, struct error *err)
{
    const int32_t dim[4] = {g->batch, 1, 1, 1};
    const tensor_id both[] = {loss, weight};
    if (!g->training)
        return error_set(err, -EINVAL, NULL, "the gradient wants a graph recorded for training");
    for (int i = 0; i < 2; i++) {
        const struct tensor *t = both[i] >= 0 && both[i] < g->n_tensors ? &g->tensors[both[i]] : NULL;
        if (!t || t->dtype != DTYPE_F32 || memcmp(t->dim, dim, sizeof(dim)) || (i == 1 && t->role != TENSOR_INPUT))
            return error_set(err, -EINVAL, NULL, "the gradient wants a loss and an input weight, [N, 1, 1, 1] in F32");
    }
    return 0;
}

int graph_gradient(struct graph *g, tensor_id loss, tensor_id weight)
{
    if (g->error.code || check_request(g, loss, weight, &g->error) < 0)
        return g->error.code;
    size_t n = (size_t)g->n_tensors;
    struct tape t = {.g = g,
                     .n_forward = g->n_nodes,
                     .needs = calloc(n + 1, sizeof(*t.needs)),
                     .grad = calloc(n + 1, sizeof(*t.grad)),
                     .param_done = calloc((size_t)g->n_params + 1, sizeof(*t.param_done))};
    if (!t.needs || !t.grad || !t.param_done) {
        error_set(&g->error, -ENOMEM, NULL, "out of memory taking a gradient");
        goto out;
    }
    find_needs(&t, g->n_tensors);
    t.grad[loss] = weight;
    for (int32_t k = t.n_forward - 1; k >= 0 && !g->error.code; k--) {
        const struct node node = g->nodes[k]; // a copy: appending moves the array
        tensor_id dy = output_gradient(&t, &node);
        if (dy != TENSOR_NONE && backwards[node.op])
            backwards[node.op](&t, &node, dy);
    }
out:
    free(t.needs);
    free(t.grad);
    free(t.param_done);
    return g->error.code;
}
