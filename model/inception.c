/* inception.c: see inception.h. The network is tables of branches; names are those of the PyTorch conversion. */
#include "model/inception.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const double bn_eps = 0.001;

/* ---- layers ---- */

enum { SAME = 0, HALVE = 1, VALID = 2 }; // HALVE: stride 2 without padding

struct layer {
    const char *name;
    int32_t k, r, s; // 0 channels: the end of a branch
    int how;
};

static int32_t channels_of(const struct graph *g, tensor_id x)
{
    return x == TENSOR_NONE ? 1 : g->tensors[x].dim[3];
}

/* relu(bn(conv(x))) */
static tensor_id conv(struct graph *g, tensor_id x, const char *block, const struct layer *l)
{
    char weight[96], bias[96];
    snprintf(weight, sizeof weight, "%s%s%s.conv.weight", block, *block ? "." : "", l->name);
    snprintf(bias, sizeof bias, "%s%s%s.bn.bias", block, *block ? "." : "", l->name);
    tensor_id w = graph_param(g, weight, l->k, l->r, l->s, channels_of(g, x), 4);
    tensor_id b = graph_param(g, bias, 1, 1, 1, l->k, 1);
    return graph_relu(g, l->how == SAME ? graph_conv2d(g, x, w, b, 1)
                                        : graph_conv2d_valid(g, x, w, b, l->how == HALVE ? 2 : 1));
}

static tensor_id branch(struct graph *g, tensor_id x, const char *block, const struct layer *layers)
{
    for (; layers->k; layers++)
        x = conv(g, x, block, layers);
    return x;
}

/* y with one more branch behind it. */
static tensor_id beside(struct graph *g, tensor_id y, tensor_id more)
{
    return graph_concat(g, y, more);
}

static tensor_id pool_branch(struct graph *g, tensor_id x, const char *block, int32_t k, bool max)
{
    return conv(g, graph_pool(g, x, max, 3, 1, false), block, &(struct layer){"branch_pool", k, 1, 1, SAME});
}

/* ---- blocks ---- */

static tensor_id block_a(struct graph *g, tensor_id x, const char *name, int32_t pool)
{
    static const struct layer one[] = {{"branch1x1", 64, 1, 1, SAME}, {0}},
                              five[] = {{"branch5x5_1", 48, 1, 1, SAME}, {"branch5x5_2", 64, 5, 5, SAME}, {0}},
                              three[] = {{"branch3x3dbl_1", 64, 1, 1, SAME},
                                         {"branch3x3dbl_2", 96, 3, 3, SAME},
                                         {"branch3x3dbl_3", 96, 3, 3, SAME},
                                         {0}};
    tensor_id y = branch(g, x, name, one);
    y = beside(g, y, branch(g, x, name, five));
    y = beside(g, y, branch(g, x, name, three));
    return beside(g, y, pool_branch(g, x, name, pool, false));
}

static tensor_id block_b(struct graph *g, tensor_id x, const char *name)
{
    static const struct layer three[] = {{"branch3x3", 384, 3, 3, HALVE}, {0}},
                              twice[] = {{"branch3x3dbl_1", 64, 1, 1, SAME},
                                         {"branch3x3dbl_2", 96, 3, 3, SAME},
                                         {"branch3x3dbl_3", 96, 3, 3, HALVE},
                                         {0}};
    tensor_id y = branch(g, x, name, three);
    y = beside(g, y, branch(g, x, name, twice));
    return beside(g, y, graph_pool(g, x, true, 3, 2, true));
}

static tensor_id block_c(struct graph *g, tensor_id x, const char *name, int32_t k)
{
    const struct layer one[] = {{"branch1x1", 192, 1, 1, SAME}, {0}},
                       seven[] = {{"branch7x7_1", k, 1, 1, SAME},
                                  {"branch7x7_2", k, 1, 7, SAME},
                                  {"branch7x7_3", 192, 7, 1, SAME},
                                  {0}},
                       twice[] = {{"branch7x7dbl_1", k, 1, 1, SAME},   {"branch7x7dbl_2", k, 7, 1, SAME},
                                  {"branch7x7dbl_3", k, 1, 7, SAME},   {"branch7x7dbl_4", k, 7, 1, SAME},
                                  {"branch7x7dbl_5", 192, 1, 7, SAME}, {0}};
    tensor_id y = branch(g, x, name, one);
    y = beside(g, y, branch(g, x, name, seven));
    y = beside(g, y, branch(g, x, name, twice));
    return beside(g, y, pool_branch(g, x, name, 192, false));
}

static tensor_id block_d(struct graph *g, tensor_id x, const char *name)
{
    static const struct layer three[] = {{"branch3x3_1", 192, 1, 1, SAME}, {"branch3x3_2", 320, 3, 3, HALVE}, {0}},
                              seven[] = {{"branch7x7x3_1", 192, 1, 1, SAME},
                                         {"branch7x7x3_2", 192, 1, 7, SAME},
                                         {"branch7x7x3_3", 192, 7, 1, SAME},
                                         {"branch7x7x3_4", 192, 3, 3, HALVE},
                                         {0}};
    tensor_id y = branch(g, x, name, three);
    y = beside(g, y, branch(g, x, name, seven));
    return beside(g, y, graph_pool(g, x, true, 3, 2, true));
}

/* The branches that end in a 1x3 and a 3x1 side by side. */
static tensor_id forked(struct graph *g, tensor_id x, const char *block, const char *wide, const char *high)
{
    tensor_id y = conv(g, x, block, &(struct layer){wide, 384, 1, 3, SAME});
    return beside(g, y, conv(g, x, block, &(struct layer){high, 384, 3, 1, SAME}));
}

static tensor_id block_e(struct graph *g, tensor_id x, const char *name, bool max)
{
    static const struct layer one[] = {{"branch1x1", 320, 1, 1, SAME}, {0}},
                              three[] = {{"branch3x3_1", 384, 1, 1, SAME}, {0}},
                              twice[] = {{"branch3x3dbl_1", 448, 1, 1, SAME}, {"branch3x3dbl_2", 384, 3, 3, SAME}, {0}};
    tensor_id y = branch(g, x, name, one);
    y = beside(g, y, forked(g, branch(g, x, name, three), name, "branch3x3_2a", "branch3x3_2b"));
    y = beside(g, y, forked(g, branch(g, x, name, twice), name, "branch3x3dbl_3a", "branch3x3dbl_3b"));
    return beside(g, y, pool_branch(g, x, name, 192, max));
}

static tensor_id stem(struct graph *g, tensor_id x)
{
    static const struct layer first[] = {{"Conv2d_1a_3x3", 32, 3, 3, HALVE},
                                         {"Conv2d_2a_3x3", 32, 3, 3, VALID},
                                         {"Conv2d_2b_3x3", 64, 3, 3, SAME},
                                         {0}},
                              second[] = {{"Conv2d_3b_1x1", 80, 1, 1, SAME}, {"Conv2d_4a_3x3", 192, 3, 3, VALID}, {0}};
    x = graph_pool(g, branch(g, x, "", first), true, 3, 2, true);
    return graph_pool(g, branch(g, x, "", second), true, 3, 2, true);
}

tensor_id inception_record(struct graph *g, tensor_id x, tensor_id *ret_features)
{
    x = stem(g, x);
    x = block_a(g, x, "Mixed_5b", 32);
    x = block_a(g, x, "Mixed_5c", 64);
    x = block_a(g, x, "Mixed_5d", 64);
    x = block_b(g, x, "Mixed_6a");
    x = block_c(g, x, "Mixed_6b", 128);
    x = block_c(g, x, "Mixed_6c", 160);
    x = block_c(g, x, "Mixed_6d", 160);
    x = block_c(g, x, "Mixed_6e", 192);
    x = block_d(g, x, "Mixed_7a");
    x = block_e(g, x, "Mixed_7b", false);
    x = block_e(g, x, "Mixed_7c", true);
    x = *ret_features = graph_global_mean(g, x);
    return graph_linear(g, x, graph_param(g, "fc.weight", INCEPTION_CLASSES, 1, 1, INCEPTION_FEATURES, 2), TENSOR_NONE);
}

/* ---- files ---- */

static int bad_tensor(const char *name, const char *what, struct error *err)
{
    return error_set(err, -EINVAL, name, "tensor \"%s\" %s", name, what);
}

/* A tensor of n elements as f32, malloc'd. */
static int read_tensor(const struct safetensors *s, const char *name, int64_t n, float **ret_values, struct error *err)
{
    const struct safetensor *t = safetensors_find(s, name);
    if (!t)
        return bad_tensor(name, "is missing", err);
    if (safetensor_elements(t) != n)
        return bad_tensor(name, "has not Inception's shape", err);
    float *values = malloc((size_t)n * sizeof *values);
    if (!values)
        return error_set(err, -ENOMEM, NULL, "out of memory");
    int rc = safetensor_to_f32(t, 0, (size_t)n, values) ? bad_tensor(name, "is neither F32 nor BF16 nor F16", err) : 0;
    for (int64_t i = 0; rc == 0 && i < n; i++)
        if (!isfinite(values[i]))
            rc = bad_tensor(name, "has a value that is not a finite number", err);
    if (rc) {
        free(values);
        return rc;
    }
    *ret_values = values;
    return 0;
}

/* scale[k] = gamma / sqrt(var + eps), shift[k] = beta - mean scale of the batch norm of "PREFIX.conv.weight". */
static int read_norm(const struct safetensors *s, const char *weight, int32_t k, double *scale, double *shift,
                     struct error *err)
{
    static const char *const parts[4] = {"weight", "bias", "running_mean", "running_var"};
    float *v[4] = {0};
    int rc = 0;
    for (int i = 0; i < 4 && !rc; i++) {
        char name[112];
        snprintf(name, sizeof name, "%.*sbn.%s", (int)(strlen(weight) - strlen("conv.weight")), weight, parts[i]);
        rc = read_tensor(s, name, k, &v[i], err);
    }
    for (int32_t i = 0; i < k && !rc; i++) {
        scale[i] = v[0][i] / sqrt((double)v[3][i] + bn_eps);
        shift[i] = v[1][i] - v[2][i] * scale[i];
        if (!isfinite(scale[i]))
            rc = bad_tensor(weight, "has a batch norm of negative variance", err);
    }
    for (int i = 0; i < 4; i++)
        free(v[i]);
    return rc;
}

/* Filters [K, C, R, S] times scale into [K, R, S, C]. */
static void fold(const struct param *p, const float *from, const double *scale, float *ret_to)
{
    int64_t c = p->dim[3], taps = (int64_t)p->dim[1] * p->dim[2];
    for (int64_t k = 0; k < p->dim[0]; k++)
        for (int64_t t = 0; t < taps; t++)
            for (int64_t i = 0; i < c; i++)
                ret_to[(k * taps + t) * c + i] = (float)(from[(k * c + i) * taps + t] * scale[k]);
}

/* The pair of a convolution's filters and its bias, which follow each other in the table. */
static int read_conv(const struct safetensors *s, const struct param *p, float *values, struct error *err)
{
    enum { MOST_CHANNELS = 512 };
    double scale[MOST_CHANNELS], shift[MOST_CHANNELS];
    float *filters = NULL;
    int32_t k = p->dim[0];
    int rc = k > MOST_CHANNELS ? -EINVAL : read_norm(s, p->name, k, scale, shift, err);
    if (!rc)
        rc = read_tensor(s, p->name, (int64_t)k * p->dim[1] * p->dim[2] * p->dim[3], &filters, err);
    if (rc)
        return rc;
    fold(p, filters, scale, values + p->offset);
    for (int32_t i = 0; i < k; i++)
        values[p[1].offset + (size_t)i] = (float)shift[i];
    free(filters);
    return 0;
}

int inception_read_params(const struct safetensors *s, const struct graph *g, float *values, struct error *err)
{
    float *matrix;
    const struct param *fc = &g->params[g->n_params - 1];
    int64_t n = (int64_t)fc->dim[0] * fc->dim[3];
    memset(values, 0, g->param_floats * sizeof *values);
    for (int32_t i = 0; i + 1 < g->n_params; i += 2) {
        int rc = read_conv(s, &g->params[i], values, err);
        if (rc)
            return rc;
    }
    int rc = read_tensor(s, fc->name, n, &matrix, err);
    if (rc)
        return rc;
    memcpy(values + fc->offset, matrix, (size_t)n * sizeof *values);
    free(matrix);
    return 0;
}
