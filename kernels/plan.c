/* plan.c: see plan.h.
 *
 * A block is what gets an offset: a tensor that is no view, together with its views and with every tensor that is
 * computed in its place. Blocks are laid out from the largest to the smallest, each in the smallest gap that the blocks
 * living at the same time leave (Pisarchyk & Lee 2020, arXiv:2001.03288, "greedy by size"). That is quadratic in the
 * number of blocks, a few thousand at most.
 */
#include "kernels/plan.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct block {
    int32_t first, last; // nodes between which it lives; first > last: no node touches it
    size_t bytes, offset;
};

struct planner {
    const struct graph *g;
    struct block *blocks;  // [n_tensors], meaningful for roots
    int32_t *block_of;     // [n_tensors]: tensor -> the block it lies in
    bool *has_views;       // [n_tensors]
    int32_t *order;        // blocks that want memory, largest first
    struct block **placed; // by offset
    int32_t n_order, n_placed;
};

static tensor_id root_of(const struct graph *g, tensor_id x)
{
    while (g->tensors[x].base != TENSOR_NONE)
        x = g->tensors[x].base;
    return x;
}

static size_t round_up(size_t bytes)
{
    return (bytes + PLAN_ALIGN_BYTES - 1) / PLAN_ALIGN_BYTES * PLAN_ALIGN_BYTES;
}

/* ---- lifetimes ---- */

static void extend(struct planner *p, tensor_id x, int32_t node)
{
    if (x == TENSOR_NONE)
        return;
    struct block *b = &p->blocks[p->block_of[x]];
    if (node < b->first)
        b->first = node;
    if (node > b->last)
        b->last = node;
}

static void find_lifetimes(struct planner *p)
{
    const struct graph *g = p->g;
    for (tensor_id x = 0; x < g->n_tensors; x++) {
        const struct tensor *t = &g->tensors[x];
        p->blocks[x] = (struct block){
            .first = INT32_MAX, .last = -1, .bytes = round_up(tensor_elements(t) * dtype_bytes(t->dtype))};
        p->block_of[x] = root_of(g, x);
        if (t->base != TENSOR_NONE)
            p->has_views[p->block_of[x]] = true;
    }
    for (int32_t k = 0; k < g->n_nodes; k++) {
        for (int32_t i = 0; i < g->nodes[k].n_in; i++)
            extend(p, g->nodes[k].in[i], k);
        for (int32_t i = 0; i < g->nodes[k].n_out; i++)
            extend(p, g->nodes[k].out[i], k);
    }
}

/* ---- outputs in place of inputs ---- */

/* Positions of the inputs that output 0 may replace, -1 where there are no more; graph.h lists them for backends. */
static const int8_t *places_in_place(enum op op)
{
    static const int8_t none[] = {-1}, first[] = {0, -1}, second[] = {1, -1}, either[] = {0, 1, -1},
                        residual[] = {3, -1}, dy_or_more[] = {8, 7, -1};
    switch (op) {
    case OP_CONV2D:
        return residual;
    case OP_ADD:
        return either;
    case OP_GROUP_NORM:
    case OP_SILU:
    case OP_RELU:
    case OP_ADD_CHANNEL:
    case OP_DROPOUT:
    case OP_DROPOUT_BACKWARD:
        return first;
    case OP_SILU_BACKWARD:
        return second;
    case OP_GROUP_NORM_BACKWARD:
        return dy_or_more;
    default:
        return none;
    }
}

/* A tensor of the arena that no view shares. */
static bool stands_alone(const struct planner *p, tensor_id x)
{
    const struct tensor *t = &p->g->tensors[x];
    return t->role == TENSOR_VALUE && t->base == TENSOR_NONE && !p->has_views[x];
}

static bool can_replace(const struct planner *p, int32_t k, tensor_id x, tensor_id y)
{
    const struct node *node = &p->g->nodes[k];
    if (x == TENSOR_NONE || !stands_alone(p, x))
        return false;
    const struct block *bx = &p->blocks[p->block_of[x]];
    int32_t uses = 0;
    for (int32_t i = 0; i < node->n_in; i++)
        uses += node->in[i] == x;
    return uses == 1 && bx->last == k && bx->bytes == p->blocks[y].bytes;
}

static void share_in_place(struct planner *p)
{
    for (int32_t k = 0; k < p->g->n_nodes; k++) {
        const struct node *node = &p->g->nodes[k];
        tensor_id y = node->out[0];
        if (y == TENSOR_NONE || !stands_alone(p, y))
            continue;
        for (const int8_t *position = places_in_place(node->op); *position >= 0; position++) {
            tensor_id x = node->in[*position];
            if (!can_replace(p, k, x, y))
                continue;
            struct block *by = &p->blocks[y];
            p->block_of[y] = p->block_of[x];
            p->blocks[p->block_of[x]].last = by->last;
            by->last = -1; // it is no block any more
            break;
        }
    }
}

/* ---- offsets ---- */

static int by_size(const void *a, const void *b, void *context)
{
    const struct block *blocks = context;
    const struct block *x = &blocks[*(const int32_t *)a], *y = &blocks[*(const int32_t *)b];
    if (x->bytes != y->bytes)
        return x->bytes < y->bytes ? 1 : -1;
    if (x->first != y->first)
        return x->first < y->first ? -1 : 1;
    return *(const int32_t *)a - *(const int32_t *)b;
}

static void list_blocks(struct planner *p)
{
    for (tensor_id x = 0; x < p->g->n_tensors; x++) {
        const struct block *b = &p->blocks[x];
        bool root = p->block_of[x] == x && p->g->tensors[x].role == TENSOR_VALUE;
        if (root && b->last >= b->first)
            p->order[p->n_order++] = x;
    }
    qsort_r(p->order, (size_t)p->n_order, sizeof(*p->order), by_size, p->blocks);
}

/* The start of the smallest gap between placed blocks that live together with b and that holds it. */
static size_t best_fit(const struct planner *p, const struct block *b)
{
    size_t end = 0, best = 0, best_gap = SIZE_MAX;
    for (int32_t i = 0; i < p->n_placed; i++) {
        const struct block *other = p->placed[i];
        if (other->last < b->first || other->first > b->last)
            continue;
        if (other->offset >= end + b->bytes && other->offset - end < best_gap) {
            best = end;
            best_gap = other->offset - end;
        }
        if (other->offset + other->bytes > end)
            end = other->offset + other->bytes;
    }
    return best_gap == SIZE_MAX ? end : best;
}

static size_t lay_out(struct planner *p)
{
    size_t arena = 0;
    for (int32_t i = 0; i < p->n_order; i++) {
        struct block *b = &p->blocks[p->order[i]];
        b->offset = best_fit(p, b);
        if (b->offset + b->bytes > arena)
            arena = b->offset + b->bytes;
        int32_t at = p->n_placed++;
        for (; at > 0 && p->placed[at - 1]->offset > b->offset; at--)
            p->placed[at] = p->placed[at - 1];
        p->placed[at] = b;
    }
    return arena;
}

static struct place place_of(const struct planner *p, tensor_id x)
{
    const struct graph *g = p->g;
    size_t channels = 0, element = dtype_bytes(g->tensors[x].dtype);
    tensor_id root = x;
    for (; g->tensors[root].base != TENSOR_NONE; root = g->tensors[root].base)
        channels += (size_t)g->tensors[root].channel;
    const struct tensor *t = &g->tensors[root];
    struct place place = {.base = -1, .pitch = t->dim[3], .offset = channels * element};
    switch (t->role) {
    case TENSOR_INPUT:
        place.base = BASE_FIRST_IO + t->index;
        break;
    case TENSOR_OUTPUT:
        place.base = BASE_FIRST_IO + g->n_inputs + t->index;
        break;
    case TENSOR_GRADIENT:
        place.base = BASE_GRADIENT;
        place.offset += g->params[t->index].offset * element;
        break;
    case TENSOR_VALUE: {
        const struct block *b = &p->blocks[p->block_of[root]];
        place.base = b->last >= b->first ? BASE_ARENA : -1;
        place.offset += b->offset;
        break;
    }
    case TENSOR_PARAM:
        break;
    }
    return place;
}

int plan_init(struct plan *ret_plan, const struct graph *g)
{
    size_t n = (size_t)g->n_tensors + 1;
    struct planner p = {.g = g,
                        .blocks = calloc(n, sizeof(*p.blocks)),
                        .block_of = calloc(n, sizeof(*p.block_of)),
                        .has_views = calloc(n, sizeof(*p.has_views)),
                        .order = calloc(n, sizeof(*p.order)),
                        .placed = calloc(n, sizeof(*p.placed))};
    struct plan plan = {.places = calloc(n, sizeof(*plan.places))};
    int rc = -ENOMEM;
    if (!p.blocks || !p.block_of || !p.has_views || !p.order || !p.placed || !plan.places)
        goto out;
    find_lifetimes(&p);
    share_in_place(&p);
    list_blocks(&p);
    plan.arena_bytes = lay_out(&p);
    for (tensor_id x = 0; x < g->n_tensors; x++)
        plan.places[x] = place_of(&p, x);
    *ret_plan = plan;
    plan.places = NULL;
    rc = 0;
out:
    free(p.blocks);
    free(p.block_of);
    free(p.has_views);
    free(p.order);
    free(p.placed);
    free(plan.places);
    return rc;
}

void plan_done(struct plan *p)
{
    free(p->places);
    *p = (struct plan){0};
}
