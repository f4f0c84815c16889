/* random_graph.c: see random_graph.h. */
#include "tests/kernels/random_graph.h"

#include "kernels/philox.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

enum { MAX_MAPS = 64, CHANNELS = 8, GROUPS = 4, EMB = 12, CLASSES = 5 };

struct recorder {
    struct graph *g;
    uint64_t seed;
    uint32_t draws, n_params;
    float dropout;
    tensor_id emb, key;
    tensor_id maps[MAX_MAPS];
    int32_t n_maps;
};

float random_uniform(uint64_t seed, uint64_t counter)
{
    struct philox_block b = philox4x32_10(seed, (uint32_t)counter, (uint32_t)(counter >> 32), 7, 7);
    return 2 * philox_uniform(b.v[0]) - 1;
}

static int32_t pick(struct recorder *r, int32_t n)
{
    struct philox_block b = philox4x32_10(r->seed, r->draws++, 1, 2, 3);
    return (int32_t)(b.v[0] % (uint32_t)n);
}

static const int32_t *dims(const struct recorder *r, tensor_id x)
{
    static const int32_t none[4] = {1, 1, 1, GROUPS};
    return x == TENSOR_NONE ? none : r->g->tensors[x].dim;
}

static tensor_id param(struct recorder *r, const char *kind, int32_t k, int32_t size, int32_t c, int32_t rank)
{
    char name[64];
    snprintf(name, sizeof(name), "%s.%u", kind, r->n_params++);
    return graph_param(r->g, name, k, size, size, c, rank);
}

static tensor_id conv(struct recorder *r, tensor_id x, int32_t k, int32_t size, int32_t stride, bool bias)
{
    tensor_id w = param(r, "conv.weight", k, size, dims(r, x)[3], 4);
    tensor_id b = bias ? param(r, "conv.bias", 1, 1, k, 1) : TENSOR_NONE;
    return graph_conv2d(r->g, x, w, b, stride);
}

static tensor_id linear(struct recorder *r, tensor_id x, int32_t k)
{
    tensor_id w = param(r, "linear.weight", k, 1, dims(r, x)[3], 2);
    tensor_id b = pick(r, 4) ? param(r, "linear.bias", 1, 1, k, 1) : TENSOR_NONE;
    return graph_linear(r->g, x, w, b);
}

static tensor_id norm(struct recorder *r, tensor_id x)
{
    int32_t c = dims(r, x)[3];
    tensor_id gamma = param(r, "norm.weight", 1, 1, c, 1), beta = param(r, "norm.bias", 1, 1, c, 1);
    return graph_group_norm(r->g, x, gamma, beta, GROUPS, 1e-5f);
}

static tensor_id projection(struct recorder *r, int32_t c)
{
    return linear(r, graph_silu(r->g, r->emb), c);
}

/* The reference's residual block in one of its two orders. */
static tensor_id block(struct recorder *r, tensor_id x, int32_t c_out, bool preact)
{
    struct graph *g = r->g;
    tensor_id h = x;
    if (preact) {
        h = conv(r, graph_silu(g, norm(r, h)), c_out, 3, 1, true);
        h = graph_silu(g, norm(r, graph_add_channel(g, h, projection(r, c_out))));
        h = conv(r, graph_dropout(g, h, r->key, r->dropout), c_out, 3, 1, true);
    } else {
        h = graph_silu(g, graph_add_channel(g, norm(r, conv(r, h, c_out, 3, 1, true)), projection(r, c_out)));
        h = graph_dropout(g, graph_silu(g, norm(r, conv(r, h, c_out, 3, 1, true))), r->key, r->dropout);
    }
    return graph_add(g, h, dims(r, x)[3] == c_out ? x : conv(r, x, c_out, 1, 1, true));
}

static tensor_id attention(struct recorder *r, tensor_id x)
{
    int32_t c = dims(r, x)[3];
    tensor_id a = graph_attention(r->g, conv(r, norm(r, x), 3 * c, 1, 1, false), 2);
    return graph_add(r->g, x, conv(r, a, c, 1, 1, true));
}

/* Concatenates x with an earlier map of the same size, where there is one. */
static tensor_id concat_with_earlier(struct recorder *r, tensor_id x)
{
    int32_t start = pick(r, r->n_maps);
    for (int32_t i = 0; i < r->n_maps; i++) {
        tensor_id z = r->maps[(start + i) % r->n_maps];
        if (z != x && dims(r, z)[1] == dims(r, x)[1] && dims(r, z)[3] + dims(r, x)[3] <= 4 * CHANNELS)
            return graph_concat(r->g, x, z);
    }
    return x;
}

static tensor_id random_step(struct recorder *r, tensor_id x)
{
    struct graph *g = r->g;
    int32_t h = dims(r, x)[1], c = CHANNELS * (1 + pick(r, 2));
    switch (pick(r, 14)) {
    case 0:
        return conv(r, x, c, 3, 1, true);
    case 1:
        return conv(r, x, c, 1, 1, false);
    case 2:
        return h > 2 ? conv(r, x, c, 3, 2, true) : x;
    case 3:
        return norm(r, x);
    case 4:
        return graph_silu(g, x);
    case 5:
        return graph_add(g, conv(r, x, c, 3, 1, true), conv(r, x, c, 1, 1, true));
    case 6:
        return graph_add_channel(g, x, projection(r, dims(r, x)[3]));
    case 7:
        return conv(r, concat_with_earlier(r, x), c, 3, 1, true);
    case 8:
        return h < 8 ? graph_upsample_nearest2x(g, x) : graph_add(g, x, x);
    case 9:
        return h < 8 ? conv(r, graph_upsample_nearest2x(g, x), c, 3, 1, true) : x;
    case 10:
        return h > 2 ? graph_avg_pool2x(g, x) : x;
    case 11:
        return attention(r, conv(r, x, CHANNELS, 1, 1, true));
    case 12:
        return block(r, x, c, true);
    default:
        return block(r, pick(r, 2) ? x : concat_with_earlier(r, x), c, false);
    }
}

int random_graph_record(void *context, struct graph *g, tensor_id *ret_loss, tensor_id *ret_weight)
{
    struct random_graph *o = context;
    struct recorder r = {.g = g, .seed = o->seed, .dropout = o->dropout};
    tensor_id x = graph_input(g, DTYPE_F32, 8, 8, 3), t = graph_input(g, DTYPE_F32, 1, 1, 1);
    tensor_id y = graph_input(g, DTYPE_I32, 1, 1, 1);
    r.key = graph_input(g, DTYPE_I32, 1, 1, 4);
    tensor_id emb = linear(&r, graph_timestep_embedding(g, t, 8), EMB);
    emb = linear(&r, graph_silu(g, emb), EMB);
    r.emb = graph_add(g, emb, graph_embedding(g, param(&r, "table", CLASSES, 1, EMB, 2), y));
    x = conv(&r, graph_cast(g, x, g->compute), CHANNELS, 3, 1, true);
    for (int32_t i = 0; i < o->steps; i++) {
        if (r.n_maps < MAX_MAPS)
            r.maps[r.n_maps++] = x;
        x = random_step(&r, x);
    }
    x = block(&r, concat_with_earlier(&r, x), CHANNELS, false);
    x = graph_cast(g, conv(&r, graph_silu(g, norm(&r, x)), 3, 3, 1, true), DTYPE_F32);
    if (graph_error(g, NULL) < 0)
        return g->error.code;
    memcpy(o->out_dim, dims(&r, x), sizeof(o->out_dim));
    if (o->loss) {
        tensor_id target = graph_input(g, DTYPE_F32, o->out_dim[1], o->out_dim[2], o->out_dim[3]);
        *ret_weight = graph_input(g, DTYPE_F32, 1, 1, 1);
        *ret_loss = graph_mse(g, x, target);
    }
    graph_output(g, x, DTYPE_F32);
    if (o->loss)
        graph_output(g, *ret_loss, DTYPE_F32);
    return g->error.code;
}
