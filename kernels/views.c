/* views.c: turns copies into views, after the gradient was taken; see graph_place_views().
 *
 * A tensor becomes a view only if it lies in the arena, is no view and has none, and if the node that writes it and all
 * that read it allow a pixel pitch (op_allows_pitch).
 */
#include "kernels/graph.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct views {
    struct graph *g;
    bool *dense;     // [n_tensors]: some node wants it dense, or it is not in the arena
    bool *has_views; // [n_tensors]
    int32_t cap;
};

static int views_update(struct views *v)
{
    struct graph *g = v->g;
    if (g->n_tensors > v->cap) {
        bool *dense = reallocarray(v->dense, (size_t)g->n_tensors, sizeof(*dense));
        v->dense = dense ? dense : v->dense;
        bool *has_views = reallocarray(v->has_views, (size_t)g->n_tensors, sizeof(*has_views));
        v->has_views = has_views ? has_views : v->has_views;
        if (!dense || !has_views)
            return -ENOMEM;
        v->cap = g->n_tensors;
    }
    memset(v->has_views, 0, (size_t)g->n_tensors * sizeof(*v->has_views));
    for (tensor_id x = 0; x < g->n_tensors; x++) {
        v->dense[x] = g->tensors[x].role != TENSOR_VALUE;
        if (g->tensors[x].base != TENSOR_NONE)
            v->has_views[g->tensors[x].base] = true;
    }
    for (int32_t k = 0; k < g->n_nodes; k++) {
        const struct node *n = &g->nodes[k];
        if (op_allows_pitch(n->op))
            continue;
        for (int32_t i = 0; i < n->n_in; i++)
            if (n->in[i] != TENSOR_NONE)
                v->dense[n->in[i]] = true;
        for (int32_t i = 0; i < n->n_out; i++)
            if (n->out[i] != TENSOR_NONE)
                v->dense[n->out[i]] = true;
    }
    return 0;
}

static bool can_be_view(const struct views *v, tensor_id x)
{
    return !v->dense[x] && v->g->tensors[x].base == TENSOR_NONE && !v->has_views[x];
}

static void make_view(struct views *v, tensor_id x, tensor_id base, int32_t channel)
{
    v->g->tensors[x].base = base;
    v->g->tensors[x].channel = channel;
    v->has_views[base] = true;
}

/* Producers write their part of a concatenation where it belongs. */
static int place_concats(struct views *v)
{
    struct graph *g = v->g;
    for (int32_t k = 0; k < g->n_nodes; k++) {
        struct node *n = &g->nodes[k];
        tensor_id y = n->op == OP_CONCAT ? n->out[0] : TENSOR_NONE;
        if (y == TENSOR_NONE || g->tensors[y].role != TENSOR_VALUE || g->tensors[y].base != TENSOR_NONE ||
            n->in[0] == n->in[1])
            continue;
        int32_t channel = 0, in_place = 0;
        for (int32_t i = 0; i < 2; i++) {
            tensor_id x = n->in[i];
            if (can_be_view(v, x)) {
                make_view(v, x, y, channel);
                in_place++;
            }
            channel += g->tensors[x].dim[3];
        }
        if (in_place == 2)
            graph_clear_node(n);
    }
    graph_drop_nodes(g);
    return 0;
}

/* Slices are read where they lie. */
static int place_slices(struct views *v)
{
    struct graph *g = v->g;
    for (int32_t k = 0; k < g->n_nodes; k++) {
        struct node *n = &g->nodes[k];
        if (n->op != OP_SLICE || g->tensors[n->in[0]].role != TENSOR_VALUE || !can_be_view(v, n->out[0]))
            continue;
        make_view(v, n->out[0], n->in[0], n->attr.channel);
        graph_clear_node(n);
    }
    graph_drop_nodes(g);
    return 0;
}

/* Makes the count vectors x columns of one new matrix where all can be. Returns 0, -ENOMEM. */
static int gather_columns(struct views *v, const tensor_id *x, int32_t count)
{
    struct graph *g = v->g;
    int32_t channels = 0;
    for (int32_t i = 0; i < count; i++) {
        tensor_id id = x[i];
        if (!can_be_view(v, id))
            return 0;
        for (int32_t j = 0; j < i; j++)
            if (x[j] == id)
                return 0;
        channels += g->tensors[id].dim[3];
    }
    const struct tensor of = g->tensors[x[0]];
    tensor_id base = graph_tensor(g, of.dtype, TENSOR_VALUE, (int32_t[4]){of.dim[0], of.dim[1], of.dim[2], channels});
    if (base == TENSOR_NONE || views_update(v) < 0)
        return -ENOMEM;
    for (int32_t i = 0, channel = 0; i < count; i++) {
        make_view(v, x[i], base, channel);
        channel += g->tensors[x[i]].dim[3];
    }
    return 0;
}

/* The outputs of a linear with several, and their gradients, lie side by side: one matrix product each. */
static int place_linears(struct views *v)
{
    for (int32_t k = 0; k < v->g->n_nodes; k++) {
        const struct node n = v->g->nodes[k];
        int rc = 0;
        if (n.op == OP_LINEAR && n.n_out > 1)
            rc = gather_columns(v, n.out, n.n_out);
        else if (n.op == OP_LINEAR_BACKWARD_WEIGHTS && n.n_in > 2)
            rc = gather_columns(v, n.in + 1, n.n_in - 1);
        if (rc < 0)
            return rc;
    }
    return 0;
}

int graph_place_views(struct graph *g)
{
    static int (*const passes[])(struct views *) = {place_concats, place_slices, place_linears};
    struct views v = {.g = g};
    int rc = g->error.code;
    for (size_t i = 0; rc == 0 && i < sizeof(passes) / sizeof(passes[0]); i++) {
        rc = views_update(&v);
        if (rc == 0)
            rc = passes[i](&v);
    }
    free(v.dense);
    free(v.has_views);
    return rc;
}
