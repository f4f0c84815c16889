/* unet.c: see unet.h.
 *
 * A checkpoint lists parameters in the order in which PyTorch modules own them, which within a block is not the order
 * in which they are used. So each block declares all its parameters first, then records its operations. Names are
 * built as a path: "down.3.0" + "conv1.weight".
 */
#include "model/unet.h"

#include "kernels/philox.h"

#include <assert.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

enum { NORM_GROUPS = 32, MAX_SKIPS = 512 };
static const float norm_eps = 1e-5f;

struct affine {
    tensor_id w, b;
};

struct recorder {
    struct graph *g;
    const struct model_config *c;
    tensor_id key;      // dropout key or TENSOR_NONE
    tensor_id silu_emb; // SiLU(time embedding + class embedding): [N, 1, 1, 4 * model_channels]
    char path[32];      // module whose parameters are declared
    tensor_id skips[MAX_SKIPS];
    int n_skips;
};

static int32_t channels_of(const struct recorder *r, tensor_id x)
{
    return x == TENSOR_NONE ? 0 : r->g->tensors[x].dim[3];
}

/* The parameter path.module.leaf; module may be "". */
static tensor_id declare(struct recorder *r, const char *module, const char *leaf, int32_t k, int32_t size, int32_t c,
                         int32_t file_rank)
{
    char name[sizeof(((struct param *)0)->name)];
    snprintf(name, sizeof(name), "%s%s%s.%s", r->path, *r->path && *module ? "." : "", module, leaf);
    return graph_param(r->g, name, k, size, size, c, file_rank);
}

/* A convolution (file_rank 4) or a matrix (2) with its bias. */
static struct affine declare_affine(struct recorder *r, const char *module, int32_t k, int32_t size, int32_t c,
                                    int32_t file_rank)
{
    struct affine a;
    a.w = declare(r, module, "weight", k, size, c, file_rank);
    a.b = declare(r, module, "bias", 1, 1, k, 1);
    return a;
}

static struct affine declare_norm(struct recorder *r, const char *module, int32_t c)
{
    struct affine a;
    a.w = declare(r, module, "weight", 1, 1, c, 1);
    a.b = declare(r, module, "bias", 1, 1, c, 1);
    return a;
}

static tensor_id conv(struct recorder *r, tensor_id x, struct affine a, int32_t stride)
{
    return graph_conv2d(r->g, x, a.w, a.b, stride);
}

static tensor_id norm(struct recorder *r, tensor_id x, struct affine a)
{
    return graph_group_norm(r->g, x, a.w, a.b, NORM_GROUPS, norm_eps);
}

static tensor_id dropout(struct recorder *r, tensor_id x)
{
    return r->key == TENSOR_NONE ? x : graph_dropout(r->g, x, r->key, r->c->dropout);
}

/* fused:  h = SiLU(GN(conv1(x)) + e);  h = dropout(SiLU(GN(conv2(h))))
 * preact: h = conv1(SiLU(GN(x))) + e;  h = conv2(dropout(SiLU(GN(h))))
 * y = h + shortcut(x), e = linear(SiLU(emb)). */
static tensor_id residual_block(struct recorder *r, tensor_id x, int32_t k)
{
    struct graph *g = r->g;
    int32_t c = channels_of(r, x);
    bool fused = r->c->residual_block == BLOCK_ORDER_FUSED;
    struct affine norm1 = declare_norm(r, "norm1", fused ? k : c);
    struct affine conv1 = declare_affine(r, "conv1", k, 3, c, 4);
    struct affine emb = declare_affine(r, "emb", k, 1, 4 * r->c->model_channels, 2);
    struct affine norm2 = declare_norm(r, "norm2", k);
    struct affine conv2 = declare_affine(r, "conv2", k, 3, k, 4);
    struct affine shortcut = {TENSOR_NONE, TENSOR_NONE};
    if (c != k)
        shortcut = declare_affine(r, "shortcut", k, 1, c, 4);

    tensor_id e = graph_linear(g, r->silu_emb, emb.w, emb.b), h;
    if (fused) {
        h = graph_silu(g, graph_add_channel(g, norm(r, conv(r, x, conv1, 1), norm1), e));
        h = dropout(r, graph_silu(g, norm(r, conv(r, h, conv2, 1), norm2)));
    } else {
        h = graph_add_channel(g, conv(r, graph_silu(g, norm(r, x, norm1)), conv1, 1), e);
        h = conv(r, dropout(r, graph_silu(g, norm(r, h, norm2))), conv2, 1);
    }
    return graph_add(g, h, c != k ? conv(r, x, shortcut, 1) : x);
}

/* x + proj(attention(qkv(GN(x)))) */
static tensor_id attention_block(struct recorder *r, tensor_id x)
{
    int32_t c = channels_of(r, x);
    struct affine n = declare_norm(r, "norm", c);
    tensor_id qkv = declare(r, "qkv", "weight", 3 * c, 1, c, 4);
    struct affine proj = declare_affine(r, "proj", c, 1, c, 4);

    tensor_id h = graph_conv2d(r->g, norm(r, x, n), qkv, TENSOR_NONE, 1);
    h = graph_attention(r->g, h, r->c->num_heads);
    return graph_add(r->g, conv(r, h, proj, 1), x);
}

static tensor_id downsample(struct recorder *r, tensor_id x)
{
    if (!r->c->conv_resample)
        return graph_avg_pool2x(r->g, x);
    int32_t c = channels_of(r, x);
    return conv(r, x, declare_affine(r, "op", c, 3, c, 4), 2);
}

static tensor_id upsample(struct recorder *r, tensor_id x)
{
    x = graph_upsample_nearest2x(r->g, x);
    if (!r->c->conv_resample)
        return x;
    int32_t c = channels_of(r, x);
    return conv(r, x, declare_affine(r, "conv", c, 3, c, 4), 1);
}

static void enter(struct recorder *r, const char *list, int stage, int layer)
{
    snprintf(r->path, sizeof(r->path), "%s.%d.%d", list, stage, layer);
}

/* SiLU(emb), emb = time_embed(timestep_embedding(t)) + class_embed(y). */
static tensor_id embed(struct recorder *r, tensor_id t, tensor_id y)
{
    struct graph *g = r->g;
    int32_t c = r->c->model_channels;
    struct affine first = declare_affine(r, "time_embed.0", 4 * c, 1, c, 2);
    struct affine second = declare_affine(r, "time_embed.2", 4 * c, 1, 4 * c, 2);
    tensor_id table = declare(r, "class_embed", "weight", r->c->num_classes + 1, 1, 4 * c, 2);

    tensor_id h = graph_linear(g, graph_timestep_embedding(g, t, c), first.w, first.b);
    h = graph_linear(g, graph_silu(g, h), second.w, second.b);
    return graph_silu(g, graph_add(g, h, graph_embedding(g, table, y)));
}

static tensor_id push_skip(struct recorder *r, tensor_id x)
{
    return r->skips[r->n_skips++] = x;
}

static tensor_id record_down(struct recorder *r, tensor_id x)
{
    const struct model_config *c = r->c;
    int stage = 0;
    enter(r, "down", stage++, 0);
    x = push_skip(r, conv(r, x, declare_affine(r, "", c->model_channels, 3, c->in_channels, 4), 1));
    for (int level = 0; level < c->n_levels; level++) {
        for (int i = 0; i < c->num_res_blocks; i++) {
            enter(r, "down", stage, 0);
            x = residual_block(r, x, c->channel_mult[level] * c->model_channels);
            enter(r, "down", stage++, 1);
            if (model_config_attends(c, level))
                x = attention_block(r, x);
            push_skip(r, x);
        }
        if (level + 1 < c->n_levels) {
            enter(r, "down", stage++, 0);
            x = push_skip(r, downsample(r, x));
        }
    }
    return x;
}

static tensor_id record_middle(struct recorder *r, tensor_id x)
{
    int32_t c = channels_of(r, x);
    strcpy(r->path, "middle.0");
    x = residual_block(r, x, c);
    strcpy(r->path, "middle.1");
    x = attention_block(r, x);
    strcpy(r->path, "middle.2");
    return residual_block(r, x, c);
}

static tensor_id record_up(struct recorder *r, tensor_id x)
{
    const struct model_config *c = r->c;
    int stage = 0;
    for (int level = c->n_levels - 1; level >= 0; level--) {
        for (int i = 0; i <= c->num_res_blocks; i++) {
            int layer = 0;
            x = graph_concat(r->g, x, r->skips[--r->n_skips]);
            enter(r, "up", stage, layer++);
            x = residual_block(r, x, c->channel_mult[level] * c->model_channels);
            if (model_config_attends(c, level)) {
                enter(r, "up", stage, layer++);
                x = attention_block(r, x);
            }
            if (level && i == c->num_res_blocks) {
                enter(r, "up", stage, layer);
                x = upsample(r, x);
            }
            stage++;
        }
    }
    assert(r->n_skips == 0);
    return x;
}

tensor_id unet_record(struct graph *g, const struct model_config *c, tensor_id x, tensor_id t, tensor_id y,
                      tensor_id key)
{
    struct recorder r = {.g = g, .c = c, .key = key};
    if (1 + (int64_t)c->n_levels * (c->num_res_blocks + 1) > MAX_SKIPS) {
        error_set(&g->error, -EINVAL, "model.num_res_blocks", "The network may have at most %d skip connections.",
                  (int)MAX_SKIPS);
        return TENSOR_NONE;
    }
    if (x != TENSOR_NONE && g->tensors[x].dtype != g->compute)
        x = graph_cast(g, x, g->compute);
    r.silu_emb = embed(&r, t, y);
    x = record_up(&r, record_middle(&r, record_down(&r, x)));

    r.path[0] = '\0';
    struct affine out_norm = declare_norm(&r, "out_norm", channels_of(&r, x));
    struct affine out_conv = declare_affine(&r, "out_conv", c->out_channels, 3, channels_of(&r, x), 4);
    return conv(&r, graph_silu(g, norm(&r, x, out_norm)), out_conv, 1);
}

/* ---- initialisation ---- */

static void fill_constant(float *v, size_t n, float value)
{
    for (size_t i = 0; i < n; i++)
        v[i] = value;
}

/* U(-bound, bound): element 4 j + i from output i of the Philox block j of this parameter. */
static void fill_uniform(float *v, size_t n, float bound, uint64_t seed, uint32_t parameter)
{
    for (size_t j = 0; 4 * j < n; j++) {
        struct philox_block b = philox4x32_10(seed, (uint32_t)j, 0, parameter, 0);
        for (size_t i = 0; i < 4 && 4 * j + i < n; i++)
            v[4 * j + i] = bound * (2.0f * philox_uniform(b.v[i]) - 1.0f);
    }
}

static bool ends_with(const char *s, const char *end)
{
    size_t n = strlen(s), m = strlen(end);
    return n >= m && strcmp(s + n - m, end) == 0;
}

void unet_initialise(const struct graph *g, uint64_t seed, float *ret_values)
{
    float bound = 0; // of the last filter or matrix: 1 / sqrt(fan in); 0 after a norm's gamma
    fill_constant(ret_values, g->param_floats, 0);
    for (int32_t i = 0; i < g->n_params; i++) {
        const struct param *p = &g->params[i];
        float *v = ret_values + p->offset;
        size_t fan_in = (size_t)p->dim[1] * p->dim[2] * p->dim[3], n = p->dim[0] * fan_in;
        if (strcmp(p->name, "class_embed.weight") == 0) {
            philox_normal(v, n, seed, (uint64_t)i, 0);
        } else if (ends_with(p->name, ".bias")) {
            fill_uniform(v, n, bound, seed, (uint32_t)i);
        } else if (p->file_rank == 1) {
            fill_constant(v, n, 1);
            bound = 0;
        } else {
            bound = 1.0f / sqrtf((float)fan_in);
            fill_uniform(v, n, bound, seed, (uint32_t)i);
        }
    }
}
