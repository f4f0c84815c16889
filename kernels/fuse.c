/* fuse.c: rewrites recorded operations into fewer, larger ones, before the gradient is taken.
 *
 * Each pattern is one function in the table at the end, applied once over the graph in that order. A fused node stands
 * where the last of its parts stood, so that all its inputs are there. A part disappears only if nothing else reads
 * what it wrote. Placement of concatenations is not maths and lives in views.c.
 */
#include "kernels/graph.h"

#include <errno.h>
#include <stdlib.h>

/* Who writes and how many read each tensor, as the nodes are now. */
struct reading {
    struct graph *g;
    int32_t *producer; // [n_tensors]: node, -1 for none
    int32_t *readers;  // [n_tensors]: input positions that name it
    int32_t cap;
};

static int reading_update(struct reading *r)
{
    struct graph *g = r->g;
    if (g->n_tensors > r->cap) {
        int32_t *producer = reallocarray(r->producer, (size_t)g->n_tensors, sizeof(*producer));
        r->producer = producer ? producer : r->producer;
        int32_t *readers = reallocarray(r->readers, (size_t)g->n_tensors, sizeof(*readers));
        r->readers = readers ? readers : r->readers;
        if (!producer || !readers)
            return -ENOMEM;
        r->cap = g->n_tensors;
    }
    for (tensor_id x = 0; x < g->n_tensors; x++) {
        r->producer[x] = -1;
        r->readers[x] = 0;
    }
    for (int32_t k = 0; k < g->n_nodes; k++) {
        const struct node *node = &g->nodes[k];
        for (int32_t i = 0; i < node->n_out; i++)
            if (node->out[i] != TENSOR_NONE)
                r->producer[node->out[i]] = k;
        for (int32_t i = 0; i < node->n_in; i++)
            if (node->in[i] != TENSOR_NONE)
                r->readers[node->in[i]]++;
    }
    return 0;
}

/* The node that writes x, if it is an op whose result only one position reads and nobody outside the graph. */
static struct node *sole_producer(const struct reading *r, tensor_id x, enum op op)
{
    if (x == TENSOR_NONE || r->producer[x] < 0 || r->readers[x] != 1 || r->g->tensors[x].role != TENSOR_VALUE)
        return NULL;
    struct node *node = &r->g->nodes[r->producer[x]];
    return node->op == op ? node : NULL;
}

/* `part` takes the place of `end`, whose output 0 it now writes. */
static void stand_in(struct reading *r, struct node *part, struct node *end)
{
    tensor_id y = end->out[0];
    struct node moved = *part;
    *part = *end;
    *end = moved;
    end->out[0] = y;
    r->producer[y] = (int32_t)(end - r->g->nodes);
    graph_clear_node(part);
}

/* ---- patterns ---- */

/* silu(x) computed once for all who ask: the blocks of a network share silu(emb). */
static int share_silu(struct reading *r)
{
    struct graph *g = r->g;
    for (int32_t k = 0; k < g->n_nodes; k++) {
        const struct node *first = &g->nodes[k];
        for (int32_t j = k + 1; first->op == OP_SILU && first->n_out && j < g->n_nodes; j++) {
            struct node *other = &g->nodes[j];
            if (other->op != OP_SILU || !other->n_out || other->in[0] != first->in[0] ||
                g->tensors[other->out[0]].role != TENSOR_VALUE)
                continue;
            for (int32_t n = 0; n < g->n_nodes; n++)
                for (int32_t i = 0; i < g->nodes[n].n_in; i++)
                    if (g->nodes[n].in[i] == other->out[0])
                        g->nodes[n].in[i] = first->out[0];
            graph_clear_node(other);
        }
    }
    return 0;
}

/* add_channel(gn(x), e) -> gn with post = e, the reference's "fused" block before its SiLU. */
static int fuse_norm_post(struct reading *r)
{
    for (int32_t k = 0; k < r->g->n_nodes; k++) {
        struct node *add = &r->g->nodes[k];
        if (add->op != OP_ADD_CHANNEL || !add->n_out)
            continue;
        tensor_id e = add->in[1];
        struct node *norm = sole_producer(r, add->in[0], OP_GROUP_NORM);
        if (!norm || norm->attr.silu || norm->in[4] != TENSOR_NONE)
            continue;
        stand_in(r, norm, add);
        add->in[4] = e;
    }
    return 0;
}

/* gn(add_channel(x, e)) -> gn with pre = e, the reference's "preact" block. */
static int fuse_norm_pre(struct reading *r)
{
    for (int32_t k = 0; k < r->g->n_nodes; k++) {
        struct node *norm = &r->g->nodes[k];
        if (norm->op != OP_GROUP_NORM || !norm->n_out || norm->in[3] != TENSOR_NONE)
            continue;
        struct node *add = sole_producer(r, norm->in[0], OP_ADD_CHANNEL);
        if (!add)
            continue;
        norm->in[0] = add->in[0];
        norm->in[3] = add->in[1];
        graph_clear_node(add);
    }
    return 0;
}

/* silu(gn(x)) -> gn with SiLU. */
static int fuse_norm_silu(struct reading *r)
{
    for (int32_t k = 0; k < r->g->n_nodes; k++) {
        struct node *silu = &r->g->nodes[k];
        if (silu->op != OP_SILU || !silu->n_out)
            continue;
        struct node *norm = sole_producer(r, silu->in[0], OP_GROUP_NORM);
        if (!norm || norm->attr.silu)
            continue;
        stand_in(r, norm, silu);
        silu->attr.silu = true;
    }
    return 0;
}

/* conv3x3(upsample2x(x)) -> a convolution that reads x through the upsampling (four 2x2 filters on the small image). */
static int fuse_upsample_conv(struct reading *r)
{
    for (int32_t k = 0; k < r->g->n_nodes; k++) {
        struct node *conv = &r->g->nodes[k];
        if (conv->op != OP_CONV2D || !conv->n_out || conv->attr.stride != 1 || conv->attr.valid ||
            r->g->tensors[conv->in[1]].dim[1] != 3)
            continue;
        struct node *up = sole_producer(r, conv->in[0], OP_UPSAMPLE2X);
        if (!up)
            continue;
        conv->in[0] = up->in[0];
        conv->attr.upsample2x = true;
        graph_clear_node(up);
    }
    return 0;
}

/* add(conv(x), z) -> conv with residual z. Where both are convolutions the later one takes the other as residual. */
static int fuse_conv_residual(struct reading *r)
{
    for (int32_t k = 0; k < r->g->n_nodes; k++) {
        struct node *add = &r->g->nodes[k], *conv = NULL;
        if (add->op != OP_ADD || !add->n_out)
            continue;
        tensor_id residual = TENSOR_NONE;
        for (int32_t i = 0; i < 2; i++) {
            struct node *candidate = sole_producer(r, add->in[i], OP_CONV2D);
            if (candidate && candidate->in[3] == TENSOR_NONE && (!conv || candidate > conv)) {
                conv = candidate;
                residual = add->in[1 - i];
            }
        }
        if (!conv)
            continue;
        stand_in(r, conv, add);
        add->in[3] = residual;
    }
    return 0;
}

/* cast(conv(x)) to f32 -> a convolution that writes f32, where no gradient has to come back the same way. */
static int fuse_conv_cast(struct reading *r)
{
    struct graph *g = r->g;
    for (int32_t k = 0; k < g->n_nodes && !g->training; k++) {
        struct node *cast = &g->nodes[k];
        if (cast->op != OP_CAST || !cast->n_out || g->tensors[cast->out[0]].dtype != DTYPE_F32)
            continue;
        struct node *conv = sole_producer(r, cast->in[0], OP_CONV2D);
        if (conv && conv->in[3] == TENSOR_NONE)
            stand_in(r, conv, cast);
    }
    return 0;
}

/* Moves the (w, b) and the result of `other` to the linear at `first`. Returns 0, -ENOMEM. */
static int linear_append(struct node *first, struct node *other)
{
    tensor_id *in = reallocarray(first->in, (size_t)first->n_in + 2, sizeof(*in));
    first->in = in ? in : first->in;
    tensor_id *out = reallocarray(first->out, (size_t)first->n_out + 1, sizeof(*out));
    first->out = out ? out : first->out;
    if (!in || !out)
        return -ENOMEM;
    in[first->n_in++] = other->in[1];
    in[first->n_in++] = other->in[2];
    out[first->n_out++] = other->out[0];
    graph_clear_node(other);
    return 0;
}

/* Linears that share x -> one linear with several outputs, where the first stood: the embedding projections of all
 * blocks are one matrix product. */
static int fuse_linears(struct reading *r)
{
    struct graph *g = r->g;
    for (int32_t k = 0; k < g->n_nodes; k++) {
        struct node *first = &g->nodes[k];
        for (int32_t j = k + 1; first->op == OP_LINEAR && first->n_out && j < g->n_nodes; j++) {
            struct node *other = &g->nodes[j];
            if (other->op != OP_LINEAR || other->n_out != 1 || other->in[0] != first->in[0])
                continue;
            if (linear_append(first, other) < 0)
                return -ENOMEM;
        }
    }
    return 0;
}

int graph_fuse(struct graph *g)
{
    static int (*const patterns[])(struct reading *) = {
        share_silu,   fuse_norm_post,     fuse_norm_pre,      fuse_norm_silu,
        fuse_linears, fuse_upsample_conv, fuse_conv_residual, fuse_conv_cast,
    };
    struct reading r = {.g = g};
    int rc = g->error.code;
    for (size_t i = 0; rc == 0 && i < sizeof(patterns) / sizeof(patterns[0]); i++) {
        rc = reading_update(&r);
        if (rc == 0)
            rc = patterns[i](&r);
        graph_drop_nodes(g);
    }
    free(r.producer);
    free(r.readers);
    return rc;
}
