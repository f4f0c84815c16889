/* test_graph.c: recording errors, the passes' rewrites, and the memory plan, without a backend.
 *
 * The plan is checked by running it with tags instead of numbers: every element of the arena remembers which element of
 * which tensor was written there last, and every read must find what it names.
 */
#include "kernels/plan.h"
#include "tests/kernels/random_graph.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* ---- recording ---- */

static struct graph *new_graph(bool training)
{
    struct graph *g = graph_create(2, DTYPE_F32, training);
    assert_non_null(g);
    return g;
}

/* The graph must have failed with this code and a message that contains `words`; frees it. */
static void assert_failed(struct graph *g, int code, const char *words)
{
    struct error err = {0};
    assert_int_equal(graph_error(g, &err), code);
    if (!strstr(err.message, words))
        fail_msg("\"%s\" does not contain \"%s\"", err.message, words);
    graph_free(g);
}

static void test_records_shapes(void **state)
{
    struct graph *g = new_graph(true);
    tensor_id x = graph_input(g, DTYPE_F32, 5, 7, 4), w = graph_param(g, "w", 6, 3, 3, 4, 4);
    tensor_id b = graph_param(g, "b", 1, 1, 1, 6, 1);
    tensor_id y = graph_conv2d(g, x, w, b, 2);
    assert_int_equal(graph_error(g, NULL), 0);
    assert_memory_equal(g->tensors[y].dim, ((int32_t[]){2, 3, 4, 6}), sizeof(int32_t[4]));
    tensor_id up = graph_upsample_nearest2x(g, y), cat = graph_concat(g, up, up);
    assert_memory_equal(g->tensors[cat].dim, ((int32_t[]){2, 6, 8, 12}), sizeof(int32_t[4]));
    tensor_id a = graph_attention(g, cat, 2);
    assert_memory_equal(g->tensors[a].dim, ((int32_t[]){2, 6, 8, 4}), sizeof(int32_t[4]));
    assert_memory_equal(g->tensors[g->nodes[g->n_nodes - 1].out[1]].dim, ((int32_t[]){2, 1, 48, 2}),
                        sizeof(int32_t[4]));
    tensor_id loss = graph_mse(g, graph_avg_pool2x(g, a), graph_input(g, DTYPE_F32, 3, 4, 4));
    assert_memory_equal(g->tensors[loss].dim, ((int32_t[]){2, 1, 1, 1}), sizeof(int32_t[4]));
    assert_int_equal(graph_error(g, NULL), 0);
    graph_free(g);
}

static void test_parameters_have_aligned_offsets(void **state)
{
    struct graph *g = new_graph(false);
    graph_param(g, "a", 3, 3, 3, 5, 4); // 135 floats
    graph_param(g, "b", 1, 1, 1, 16, 1);
    graph_param(g, "c", 1, 1, 1, 1, 1);
    assert_int_equal(g->params[0].offset, 0);
    assert_int_equal(g->params[1].offset, 144);
    assert_int_equal(g->params[2].offset, 160);
    assert_int_equal(g->param_floats, 176);
    graph_free(g);
}

static void test_recording_errors(void **state)
{
    struct graph *g = new_graph(false);
    tensor_id x = graph_input(g, DTYPE_F32, 4, 4, 8);
    graph_conv2d(g, x, graph_param(g, "w", 8, 3, 3, 4, 4), TENSOR_NONE, 1);
    assert_failed(g, -EINVAL, "w is [8, 3, 3, 4] where a parameter [8, 3, 3, 8] is wanted");

    g = new_graph(false);
    x = graph_input(g, DTYPE_F32, 4, 4, 8);
    graph_conv2d(g, x, graph_param(g, "w", 8, 3, 3, 8, 4), graph_param(g, "b", 1, 1, 1, 7, 1), 1);
    assert_failed(g, -EINVAL, "conv2d: b");

    g = new_graph(false);
    graph_conv2d(g, graph_input(g, DTYPE_F32, 4, 4, 8), graph_param(g, "w", 8, 3, 3, 8, 4), TENSOR_NONE, 3);
    assert_failed(g, -EINVAL, "stride");

    g = new_graph(false);
    graph_conv2d(g, graph_input(g, DTYPE_F32, 4, 4, 8), graph_param(g, "w", 8, 2, 2, 8, 4), TENSOR_NONE, 1);
    assert_failed(g, -EINVAL, "odd");

    g = new_graph(false);
    graph_add(g, graph_input(g, DTYPE_F32, 4, 4, 8), graph_input(g, DTYPE_F32, 4, 4, 4));
    assert_failed(g, -EINVAL, "add: a and b");

    g = new_graph(false);
    graph_concat(g, graph_input(g, DTYPE_F32, 4, 4, 8), graph_input(g, DTYPE_F32, 4, 2, 8));
    assert_failed(g, -EINVAL, "concat");

    g = new_graph(false);
    graph_silu(g, graph_cast(g, graph_input(g, DTYPE_F32, 4, 4, 8), DTYPE_BF16));
    assert_failed(g, -EINVAL, "compute dtype");

    g = new_graph(false);
    graph_avg_pool2x(g, graph_input(g, DTYPE_F32, 4, 3, 8));
    assert_failed(g, -EINVAL, "even");

    g = new_graph(false);
    graph_attention(g, graph_input(g, DTYPE_F32, 4, 4, 24), 3);
    assert_failed(g, -EINVAL, "heads");

    g = new_graph(false);
    graph_embedding(g, graph_param(g, "t", 5, 1, 1, 8, 2), graph_input(g, DTYPE_F32, 1, 1, 1));
    assert_failed(g, -EINVAL, "I32");

    g = new_graph(false);
    graph_timestep_embedding(g, graph_input(g, DTYPE_F32, 1, 1, 1), 7);
    assert_failed(g, -EINVAL, "even");

    g = new_graph(true);
    x = graph_input(g, DTYPE_F32, 4, 4, 8);
    graph_dropout(g, x, TENSOR_NONE, 0.5f);
    assert_failed(g, -EINVAL, "key is not a tensor");

    g = new_graph(false);
    graph_param(g, "w", 1, 1, 1, 8, 1);
    graph_param(g, "w", 1, 1, 1, 8, 1);
    assert_failed(g, -EINVAL, "w is recorded twice");

    g = new_graph(false);
    graph_param(g, "w", 2, 3, 3, 8, 2);
    assert_failed(g, -EINVAL, "2 dimensions");

    g = new_graph(false);
    graph_input(g, DTYPE_F32, 1 << 20, 1 << 20, 1 << 20);
    assert_failed(g, -EINVAL, "not possible");

    assert_failed(graph_create(0, DTYPE_F32, false), -EINVAL, "batch");
}

static void test_first_error_is_kept(void **state)
{
    struct graph *g = new_graph(false);
    tensor_id x = graph_add(g, graph_input(g, DTYPE_F32, 4, 4, 8), graph_input(g, DTYPE_F32, 4, 4, 4));
    assert_int_equal(x, TENSOR_NONE);
    x = graph_silu(g, graph_group_norm(g, x, TENSOR_NONE, TENSOR_NONE, 0, 0));
    assert_int_equal(x, TENSOR_NONE);
    graph_output(g, x, DTYPE_F32);
    assert_int_equal(g->n_nodes, 0);
    assert_failed(g, -EINVAL, "add: a and b");
}

static void test_dropout_is_identity_outside_training(void **state)
{
    struct graph *g = new_graph(false);
    tensor_id x = graph_input(g, DTYPE_F32, 4, 4, 8);
    assert_int_equal(graph_dropout(g, x, TENSOR_NONE, 0.5f), x);
    assert_int_equal(g->n_nodes, 0);
    graph_free(g);
}

static void test_output_takes_the_value_itself(void **state)
{
    struct graph *g = new_graph(false);
    tensor_id x = graph_input(g, DTYPE_F32, 4, 4, 8), y = graph_silu(g, x);
    graph_output(g, y, DTYPE_F32);
    assert_int_equal(g->tensors[y].role, TENSOR_OUTPUT);
    assert_int_equal(g->n_nodes, 1);
    graph_output(g, y, DTYPE_F32); // the same again, and an input: copies
    graph_output(g, x, DTYPE_F32);
    assert_int_equal(g->n_nodes, 3);
    assert_int_equal(g->n_outputs, 3);
    assert_int_equal(g->tensors[g->nodes[2].out[0]].index, 2);
    graph_free(g);
}

/* ---- fuse ---- */

static int32_t count_op(const struct graph *g, enum op op)
{
    int32_t n = 0;
    for (int32_t k = 0; k < g->n_nodes; k++)
        n += g->nodes[k].op == op;
    return n;
}

static tensor_id conv(struct graph *g, tensor_id x, const char *name, int32_t size)
{
    int32_t c = x == TENSOR_NONE ? 1 : g->tensors[x].dim[3];
    return graph_conv2d(g, x, graph_param(g, name, 8, size, size, c, 4), TENSOR_NONE, 1);
}

static tensor_id norm(struct graph *g, tensor_id x, const char *gamma, const char *beta)
{
    return graph_group_norm(g, x, graph_param(g, gamma, 1, 1, 1, 8, 1), graph_param(g, beta, 1, 1, 1, 8, 1), 4, 1e-5f);
}

static tensor_id project(struct graph *g, tensor_id emb, const char *name)
{
    return graph_linear(g, graph_silu(g, emb), graph_param(g, name, 8, 1, 1, 6, 2), TENSOR_NONE);
}

static void test_fuses_the_fused_block(void **state)
{
    struct graph *g = new_graph(false);
    tensor_id x = graph_input(g, DTYPE_F32, 4, 4, 4), emb = graph_input(g, DTYPE_F32, 1, 1, 6);
    tensor_id e = project(g, emb, "e1");
    tensor_id h = graph_silu(g, graph_add_channel(g, norm(g, conv(g, x, "c1", 3), "g1", "b1"), e));
    h = graph_silu(g, norm(g, conv(g, h, "c2", 3), "g2", "b2"));
    tensor_id y = graph_add(g, h, conv(g, x, "s", 1));
    graph_output(g, y, DTYPE_F32);
    assert_int_equal(graph_fuse(g), 0);
    // silu, linear, conv, norm + e + silu, conv, norm + silu, conv + residual
    assert_int_equal(g->n_nodes, 7);
    const struct node *first = &g->nodes[3], *second = &g->nodes[5], *last = &g->nodes[6];
    assert_int_equal(first->op, OP_GROUP_NORM);
    assert_int_equal(first->in[4], e);
    assert_true(first->attr.silu && first->attr.groups == 4);
    assert_int_equal(second->op, OP_GROUP_NORM);
    assert_int_equal(second->in[4], TENSOR_NONE);
    assert_true(second->attr.silu);
    assert_int_equal(last->op, OP_CONV2D);
    assert_int_equal(last->in[3], h);
    assert_int_equal(last->out[0], y);
    graph_free(g);
}

static void test_fuses_the_preact_block(void **state)
{
    struct graph *g = new_graph(false);
    tensor_id x = graph_input(g, DTYPE_F32, 4, 4, 8), emb = graph_input(g, DTYPE_F32, 1, 1, 6);
    tensor_id h = conv(g, graph_silu(g, norm(g, x, "g1", "b1")), "c1", 3), e = project(g, emb, "e1");
    tensor_id z = conv(g, graph_silu(g, norm(g, graph_add_channel(g, h, e), "g2", "b2")), "c2", 3);
    tensor_id y = graph_add(g, z, x);
    graph_output(g, y, DTYPE_F32);
    assert_int_equal(graph_fuse(g), 0);
    // norm + silu, conv, silu, linear, norm(h + e) + silu, conv + residual
    assert_int_equal(g->n_nodes, 6);
    assert_int_equal(g->nodes[4].op, OP_GROUP_NORM);
    assert_int_equal(g->nodes[4].in[0], h);
    assert_int_equal(g->nodes[4].in[3], e);
    assert_int_equal(g->nodes[5].in[3], x);
    graph_free(g);
}

static void test_keeps_what_others_read(void **state)
{
    struct graph *g = new_graph(false);
    tensor_id x = graph_input(g, DTYPE_F32, 4, 4, 8);
    tensor_id n = norm(g, x, "g", "b"), s = graph_silu(g, n), c = conv(g, x, "c", 3);
    tensor_id y = graph_add(g, c, s);
    graph_output(g, n, DTYPE_F32); // so gn + silu may not fuse
    graph_output(g, c, DTYPE_F32); // nor conv + add
    graph_output(g, y, DTYPE_F32);
    assert_int_equal(graph_fuse(g), 0);
    assert_int_equal(g->n_nodes, 4);
    graph_free(g);
}

static void test_fuses_projections_and_upsampling(void **state)
{
    struct graph *g = new_graph(false);
    tensor_id x = graph_input(g, DTYPE_F32, 4, 4, 8), emb = graph_input(g, DTYPE_F32, 1, 1, 6);
    x = graph_add_channel(g, x, project(g, emb, "e1"));
    x = conv(g, graph_upsample_nearest2x(g, x), "u", 3);
    x = graph_add_channel(g, x, project(g, emb, "e2"));
    x = graph_add_channel(g, x, project(g, emb, "e3"));
    graph_output(g, x, DTYPE_F32);
    assert_int_equal(graph_fuse(g), 0);
    assert_int_equal(count_op(g, OP_SILU), 1);
    assert_int_equal(count_op(g, OP_LINEAR), 1);
    assert_int_equal(count_op(g, OP_UPSAMPLE2X), 0);
    assert_int_equal(g->nodes[1].n_out, 3);
    assert_int_equal(g->nodes[1].n_in, 7);
    assert_true(g->nodes[3].op == OP_CONV2D && g->nodes[3].attr.upsample2x);
    assert_int_equal(graph_place_views(g), 0);
    tensor_id base = g->tensors[g->nodes[1].out[0]].base;
    assert_int_not_equal(base, TENSOR_NONE);
    assert_int_equal(g->tensors[base].dim[3], 24);
    assert_int_equal(g->tensors[g->nodes[1].out[2]].base, base);
    assert_int_equal(g->tensors[g->nodes[1].out[2]].channel, 16);
    graph_free(g);
}

static void test_places_concat_parts(void **state)
{
    struct graph *g = new_graph(false);
    tensor_id x = graph_input(g, DTYPE_F32, 4, 4, 8);
    tensor_id a = graph_silu(g, x), b = norm(g, x, "g", "b"), c = conv(g, x, "c", 3);
    tensor_id both = graph_concat(g, a, b);                // both parts in place: the node goes
    tensor_id half = graph_concat(g, graph_silu(g, c), c); // a convolution cannot write with a pitch
    graph_output(g, graph_add(g, both, half), DTYPE_F32);
    assert_int_equal(graph_place_views(g), 0);
    assert_int_equal(count_op(g, OP_CONCAT), 1);
    assert_int_equal(g->tensors[a].base, both);
    assert_int_equal(g->tensors[b].base, both);
    assert_int_equal(g->tensors[b].channel, 8);
    assert_int_equal(g->tensors[c].base, TENSOR_NONE);
    struct plan plan;
    assert_int_equal(plan_init(&plan, g), 0);
    assert_int_equal(plan.places[b].offset, plan.places[both].offset + 8 * sizeof(float));
    assert_int_equal(plan.places[b].pitch, 16);
    plan_done(&plan);
    graph_free(g);
}

/* ---- gradient ---- */

static void test_gradient_errors(void **state)
{
    struct graph *g = new_graph(true);
    tensor_id x = graph_input(g, DTYPE_F32, 1, 1, 8), w = graph_param(g, "w", 8, 1, 1, 8, 2);
    tensor_id y = graph_linear(g, graph_linear(g, x, w, TENSOR_NONE), w, TENSOR_NONE);
    tensor_id weight = graph_input(g, DTYPE_F32, 1, 1, 1), loss = graph_mse(g, y, x);
    assert_int_equal(graph_gradient(g, loss, weight), -EINVAL);
    assert_failed(g, -EINVAL, "w is used twice");

    g = new_graph(true);
    x = graph_input(g, DTYPE_F32, 1, 1, 8);
    loss = graph_mse(g, x, x);
    assert_int_equal(graph_gradient(g, loss, loss), -EINVAL);
    assert_failed(g, -EINVAL, "input weight");

    g = new_graph(false);
    x = graph_input(g, DTYPE_F32, 1, 1, 1);
    assert_int_equal(graph_gradient(g, graph_mse(g, x, x), x), -EINVAL);
    assert_failed(g, -EINVAL, "for training");
}

/* A residual block needs no addition of gradients: the skip's goes into the convolution's or the norm's as `more`. */
static void test_gradient_sums_on_the_way(void **state)
{
    struct graph *g = new_graph(true);
    tensor_id in = graph_input(g, DTYPE_F32, 4, 4, 8), x = conv(g, in, "c0", 3);
    tensor_id y = graph_add(g, conv(g, graph_silu(g, norm(g, x, "g1", "b1")), "c1", 3), x);
    y = graph_add(g, norm(g, conv(g, y, "c2", 3), "g2", "b2"), y);
    tensor_id loss = graph_mse(g, y, in);
    assert_int_equal(graph_fuse(g), 0);
    int32_t adds = count_op(g, OP_ADD);
    assert_int_equal(graph_gradient(g, loss, graph_input(g, DTYPE_F32, 1, 1, 1)), 0);
    assert_int_equal(count_op(g, OP_ADD), adds);
    assert_int_equal(count_op(g, OP_CONV2D_BACKWARD_WEIGHTS), 3);
    assert_int_equal(count_op(g, OP_CONV2D_BACKWARD_DATA), 2); // none for the input
    assert_int_equal(count_op(g, OP_GROUP_NORM_BACKWARD), 2);
    graph_free(g);
}

/* ---- plan ---- */

static void test_plan_of_known_size(void **state)
{
    enum { MAP = 2 * 4 * 4 * 8 * sizeof(float) };
    struct plan plan;
    struct graph *g = new_graph(false); // element-wise operations run in place
    tensor_id x = graph_input(g, DTYPE_F32, 4, 4, 8), y = x;
    for (int i = 0; i < 4; i++)
        y = graph_silu(g, y);
    graph_output(g, conv(g, y, "c", 3), DTYPE_F32);
    assert_int_equal(plan_init(&plan, g), 0);
    assert_int_equal(plan.arena_bytes, MAP);
    assert_int_equal(plan.places[x].base, BASE_FIRST_IO);
    assert_int_equal(plan.places[g->nodes[4].out[0]].base, BASE_FIRST_IO + 1);
    plan_done(&plan);
    graph_free(g);

    g = new_graph(false); // a chain of convolutions alternates between two
    y = graph_input(g, DTYPE_F32, 4, 4, 8);
    const char *names[] = {"c0", "c1", "c2", "c3", "c4"};
    for (int i = 0; i < 5; i++)
        y = conv(g, y, names[i], 3);
    graph_output(g, y, DTYPE_F32);
    assert_int_equal(plan_init(&plan, g), 0);
    assert_int_equal(plan.arena_bytes, 2 * MAP);
    plan_done(&plan);
    graph_free(g);

    g = new_graph(false); // a skip across two convolutions: three, the residual's memory is the result's
    x = conv(g, graph_input(g, DTYPE_F32, 4, 4, 8), "c0", 3);
    y = graph_add(g, conv(g, conv(g, x, "c1", 3), "c2", 3), x);
    graph_output(g, conv(g, y, "c3", 3), DTYPE_F32);
    assert_int_equal(graph_fuse(g), 0);
    assert_int_equal(g->n_nodes, 4);
    assert_int_equal(plan_init(&plan, g), 0);
    assert_int_equal(plan.arena_bytes, 2 * MAP); // x = y, and c1's result
    assert_memory_equal(&plan.places[x], &plan.places[y], sizeof(struct place));
    plan_done(&plan);
    graph_free(g);
}

/* conv(x) + x may not be written over x, which the convolution still reads. */
static void test_residual_that_is_the_input(void **state)
{
    struct plan plan;
    struct graph *g = new_graph(false);
    tensor_id x = conv(g, graph_input(g, DTYPE_F32, 4, 4, 8), "c0", 3), y = graph_add(g, conv(g, x, "c1", 3), x);
    graph_output(g, conv(g, y, "c2", 3), DTYPE_F32);
    assert_int_equal(graph_fuse(g), 0);
    assert_int_equal(g->nodes[1].in[0], x);
    assert_int_equal(g->nodes[1].in[3], x);
    assert_int_equal(plan_init(&plan, g), 0);
    assert_int_not_equal(plan.places[x].offset, plan.places[y].offset);
    plan_done(&plan);
    graph_free(g);
}

/* Element `channel` of pixel `pixel` of a root tensor, as a tag. */
struct tag {
    tensor_id root;
    int32_t pixel, channel;
};

struct tagged_run {
    const struct graph *g;
    const struct plan *plan;
    struct tag *tags; // [arena_bytes / 2]: what each half word holds
    int32_t *read_at; // [arena_bytes / 2]: node that read it last ...
    int32_t *read_as; // ... and as which of its inputs
};

static bool may_replace(enum op op, int32_t input)
{
    switch (op) {
    case OP_CONV2D:
        return input == 3;
    case OP_ADD:
        return input < 2;
    case OP_GROUP_NORM_BACKWARD:
        return input == 7 || input == 8;
    case OP_SILU_BACKWARD:
        return input == 1;
    default:
        return input == 0 && (op == OP_GROUP_NORM || op == OP_SILU || op == OP_ADD_CHANNEL || op == OP_DROPOUT ||
                              op == OP_DROPOUT_BACKWARD);
    }
}

/* Reads (input >= 0) or writes (input = -1) all of x at node k. */
static void touch(struct tagged_run *r, int32_t k, int32_t input, tensor_id x)
{
    const struct tensor *t = &r->g->tensors[x];
    const struct place *at = &r->plan->places[x];
    int32_t first = 0;
    tensor_id root = x;
    for (; r->g->tensors[root].base != TENSOR_NONE; root = r->g->tensors[root].base)
        first += r->g->tensors[root].channel;
    if (t->role == TENSOR_PARAM || at->base != BASE_ARENA)
        return;
    size_t halves = dtype_bytes(t->dtype) / 2, pixels = tensor_elements(t) / (size_t)t->dim[3];
    for (size_t pixel = 0; pixel < pixels; pixel++)
        for (size_t c = 0; c < (size_t)t->dim[3] * halves; c++) {
            size_t i = at->offset / 2 + pixel * (size_t)at->pitch * halves + c;
            struct tag tag = {root, (int32_t)pixel, (int32_t)(c + (size_t)first * halves)};
            assert_true(i < r->plan->arena_bytes / 2);
            if (input >= 0) {
                if (memcmp(&r->tags[i], &tag, sizeof(tag)))
                    fail_msg("node %d (%s) input %d: tensor %d is gone, there is %d", k, op_name(r->g->nodes[k].op),
                             input, x, r->tags[i].root);
                r->read_at[i] = k;
                r->read_as[i] = input;
                continue;
            }
            if (r->read_at[i] == k) {
                tensor_id replaced = r->g->nodes[k].in[r->read_as[i]];
                if (r->g->nodes[k].op == OP_CONCAT && r->g->tensors[replaced].base == x)
                    continue; // a part in place: nothing is written there
                assert_true(x == r->g->nodes[k].out[0] && may_replace(r->g->nodes[k].op, r->read_as[i]));
                assert_memory_equal(at, &r->plan->places[replaced], sizeof(*at));
            }
            r->tags[i] = tag;
        }
}

static void run_with_tags(const struct graph *g)
{
    struct plan plan;
    assert_int_equal(plan_init(&plan, g), 0);
    size_t halves = plan.arena_bytes / 2 + 1;
    struct tagged_run r = {g, &plan, malloc(halves * sizeof(*r.tags)), malloc(halves * sizeof(*r.read_at)),
                           malloc(halves * sizeof(*r.read_as))};
    memset(r.tags, 0xff, halves * sizeof(*r.tags));
    memset(r.read_at, 0xff, halves * sizeof(*r.read_at));
    for (int32_t k = 0; k < g->n_nodes; k++) {
        const struct node *n = &g->nodes[k];
        for (int32_t i = 0; i < n->n_in; i++)
            if (n->in[i] != TENSOR_NONE)
                touch(&r, k, i, n->in[i]);
        for (int32_t i = 0; i < n->n_out; i++)
            if (n->out[i] != TENSOR_NONE)
                touch(&r, k, -1, n->out[i]);
        for (int32_t i = 0; i < n->n_out; i++) // no output over another
            for (int32_t j = 0; j < i; j++)
                if (n->out[i] != TENSOR_NONE && n->out[j] != TENSOR_NONE && g->tensors[n->out[j]].role == TENSOR_VALUE)
                    assert_true(g->tensors[n->out[i]].role != TENSOR_VALUE ||
                                plan.places[n->out[i]].offset != plan.places[n->out[j]].offset);
    }
    free(r.tags);
    free(r.read_at);
    free(r.read_as);
    plan_done(&plan);
}

static void check_random_graph(uint64_t seed, enum dtype compute, bool training, bool passes)
{
    struct random_graph o = {.seed = seed, .steps = 3 + (int32_t)(seed % 12), .loss = training, .dropout = 0.3f};
    struct graph *g = graph_create(2, compute, training);
    tensor_id loss = TENSOR_NONE, weight = TENSOR_NONE;
    struct error err = {0};
    random_graph_record(&o, g, &loss, &weight);
    if (passes)
        graph_fuse(g);
    if (training)
        graph_gradient(g, loss, weight);
    if (passes)
        graph_place_views(g);
    if (graph_error(g, &err) < 0)
        fail_msg("seed %d: %s", (int)seed, err.message);
    run_with_tags(g);
    graph_free(g);
}

static void test_plans_of_random_graphs(void **state)
{
    for (uint64_t seed = 0; seed < 60; seed++)
        for (int variant = 0; variant < 8; variant++)
            check_random_graph(seed, variant & 1 ? DTYPE_BF16 : DTYPE_F32, variant & 2, variant & 4);
}

/* Every parameter that a random network has gets its gradient from exactly one node. */
static void test_gradient_covers_parameters(void **state)
{
    for (uint64_t seed = 0; seed < 60; seed++) {
        struct random_graph o = {.seed = seed, .steps = 12, .loss = true, .dropout = 0.3f};
        struct graph *g = graph_create(1, DTYPE_F32, true);
        tensor_id loss, weight;
        assert_int_equal(random_graph_record(&o, g, &loss, &weight), 0);
        assert_int_equal(graph_fuse(g), 0);
        assert_int_equal(graph_gradient(g, loss, weight), 0);
        int32_t *writers = calloc((size_t)g->n_params, sizeof(*writers));
        for (int32_t k = 0; k < g->n_nodes; k++)
            for (int32_t i = 0; i < g->nodes[k].n_out; i++) {
                tensor_id y = g->nodes[k].out[i];
                if (y != TENSOR_NONE && g->tensors[y].role == TENSOR_GRADIENT)
                    writers[g->tensors[y].index]++;
            }
        for (int32_t i = 0; i < g->n_params; i++)
            if (writers[i] != 1)
                fail_msg("seed %d: %s has %d gradients", (int)seed, g->params[i].name, writers[i]);
        free(writers);
        graph_free(g);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_records_shapes),
        cmocka_unit_test(test_parameters_have_aligned_offsets),
        cmocka_unit_test(test_recording_errors),
        cmocka_unit_test(test_first_error_is_kept),
        cmocka_unit_test(test_dropout_is_identity_outside_training),
        cmocka_unit_test(test_output_takes_the_value_itself),
        cmocka_unit_test(test_fuses_the_fused_block),
        cmocka_unit_test(test_fuses_the_preact_block),
        cmocka_unit_test(test_keeps_what_others_read),
        cmocka_unit_test(test_fuses_projections_and_upsampling),
        cmocka_unit_test(test_places_concat_parts),
        cmocka_unit_test(test_gradient_errors),
        cmocka_unit_test(test_gradient_sums_on_the_way),
        cmocka_unit_test(test_plan_of_known_size),
        cmocka_unit_test(test_residual_that_is_the_input),
        cmocka_unit_test(test_plans_of_random_graphs),
        cmocka_unit_test(test_gradient_covers_parameters),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
